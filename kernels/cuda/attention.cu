/* attention.cu: chooses the attention kernels of a call: those on tensor cores for bfloat16 with a head size of 64 or
 * 128, else the plain ones. */
#include "kernels/cuda/attention.cuh"

static bool fits_tensor_cores(AttentionSize size, const void *const *arrays, int count) {
    int HS = size.C / size.NH;
    if ((HS != 64 && HS != 128) || !(size.scale > 0.0f)) return false;
    for (int i = 0; i < count; i++)
        if (!is_pack_aligned(arrays[i])) return false;
    return true;
}

static AttentionSize size_of_call(int B, int T, int C, int NH, float scale, const Dropout *dropout) {
    AttentionSize size = {B, T, C, NH, scale, {}};
    if (dropout) size.dropout = *dropout;
    return size;
}

static void forward_float32(Backend *be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH,
                            float scale, const Dropout *dropout) {
    attention_forward_plain<float>(be, (float *)out, lse, (const float *)qkv,
                                   size_of_call(B, T, C, NH, scale, dropout));
}

static void forward_bfloat16(Backend *be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH,
                             float scale, const Dropout *dropout) {
    AttentionSize size = size_of_call(B, T, C, NH, scale, dropout);
    const void *arrays[] = {out, qkv};
    bool fits = fits_tensor_cores(size, arrays, ARRAY_LENGTH(arrays));
    (fits ? attention_forward_tensor : attention_forward_plain<bf16>)(be, (bf16 *)out, lse, (const bf16 *)qkv, size);
}

static void backward_float32(Backend *be, void *dqkv, const void *dout, const void *qkv, const void *out,
                             const float *lse, int B, int T, int C, int NH, float scale, const Dropout *dropout) {
    attention_backward_plain<float>(be, (float *)dqkv, (const float *)dout, (const float *)qkv, (const float *)out, lse,
                                    size_of_call(B, T, C, NH, scale, dropout));
}

static void backward_bfloat16(Backend *be, void *dqkv, const void *dout, const void *qkv, const void *out,
                              const float *lse, int B, int T, int C, int NH, float scale, const Dropout *dropout) {
    AttentionSize size = size_of_call(B, T, C, NH, scale, dropout);
    const void *arrays[] = {dqkv, dout, qkv, out};
    bool fits = fits_tensor_cores(size, arrays, ARRAY_LENGTH(arrays));
    (fits ? attention_backward_tensor : attention_backward_plain<bf16>)(be, (bf16 *)dqkv, (const bf16 *)dout,
                                                                        (const bf16 *)qkv, (const bf16 *)out, lse,
                                                                        size);
}

template <class T>
static void decode(Backend *be, void *out, void *keys, void *values, const void *qkv, int B, int position, int capacity,
                   int C, int NH, float scale) {
    attention_decode_plain<T>(be, (T *)out, (T *)keys, (T *)values, (const T *)qkv, position, capacity,
                              size_of_call(B, 1, C, NH, scale, NULL));
}

void cuda_enter_attention(Backend *be) {
    bool is_float = be->activation == DTYPE_FLOAT32;
    be->attention_forward = is_float ? forward_float32 : forward_bfloat16;
    be->attention_backward = is_float ? backward_float32 : backward_bfloat16;
    be->attention_decode = is_float ? decode<float> : decode<bf16>;
}
