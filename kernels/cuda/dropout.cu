/* dropout.cu: dropout of whole arrays on the GPU. The dropout of attention weights is in the attention kernels. */
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

/* A thread takes several packs, THREADS packs apart: computing a sequence's key takes as long as four words. */
enum { THREADS = 256, PACKS = 4 };

/* x = dropout(x); x[0] is element `at` of the sequence, a multiple of 4. */
template <class T>
__device__ __forceinline__ void drop_pack(Pack<T> &x, uint64_t key, size_t at, uint32_t threshold, float scale) {
#pragma unroll
    for (int quad = 0; quad < Pack<T>::N / 4; quad++) {
        Philox4 random = dropout_words(key, at / 4 + quad);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            T &number = x.x[4 * quad + w];
            number = from_float<T>(random.word[w] < threshold ? 0.0f : to_float(number) * scale);
        }
    }
}

/* Grid (blocks of THREADS x PACKS packs, B). Bytes per element: 4 in bfloat16. */
template <class T>
static __global__ void __launch_bounds__(THREADS) dropout_kernel(T *out, const T *in, Dropout dropout, size_t n) {
    constexpr int N = Pack<T>::N;
    uint64_t key = dropout_key(&dropout, (int)blockIdx.y);
    uint32_t threshold = dropout_threshold(dropout.rate);
    float scale = dropout_scale(dropout.rate);
    in += blockIdx.y * n, out += blockIdx.y * n;
    bool is_aligned = is_pack_aligned(in) && is_pack_aligned(out);
    size_t at = ((size_t)blockIdx.x * PACKS * THREADS + threadIdx.x) * N;
#pragma unroll
    for (int i = 0; i < PACKS; i++, at += THREADS * N) {
        if (is_aligned && at + N <= n) {
            Pack<T> x = load_pack(in + at);
            drop_pack(x, key, at, threshold, scale);
            store_pack(out + at, x);
        } else if (at < n) {
            Pack<T> x = {};
            int count = (int)min(n - at, (size_t)N);
            for (int c = 0; c < count; c++) x.x[c] = in[at + c];
            drop_pack(x, key, at, threshold, scale);
            for (int c = 0; c < count; c++) out[at + c] = x.x[c];
        }
    }
}

template <class T>
static void dropout_elements(Backend *be, const Dropout *dropout, void *out, const void *in, int B, size_t n) {
    if (n == 0 || B == 0) return;
    dim3 grid((unsigned)ceil_div((int64_t)n, THREADS * PACKS * Pack<T>::N), (unsigned)B);
    dropout_kernel<T><<<grid, THREADS, 0, cuda_stream(be)>>>((T *)out, (const T *)in, *dropout, n);
    cuda_check_launch("dropout_kernel");
}

void cuda_enter_dropout(Backend *be) {
    be->dropout = be->activation == DTYPE_FLOAT32 ? dropout_elements<float> : dropout_elements<bf16>;
}
