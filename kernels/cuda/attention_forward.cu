/* attention_forward.cu: causal attention forward on tensor cores, bfloat16, head sizes 64 and 128: FlashAttention-2
 * (Dao 2023), with the online softmax of Milakov and Gimelshein (2018). */
#include <math.h>

#include "kernels/cuda/attention.cuh"

template <int HS> struct ForwardSizes {
    static constexpr int M = 2; /* a warp has 16 M queries */
    static constexpr int WARPS = 4, THREADS = WARPS * WARP, QUERIES = WARPS * 16 * M;
    static constexpr int BLOCKS = HS == 64 ? 3 : 2; /* per multiprocessor, which bounds the registers */
    static constexpr int KEPT = 4;                  /* of HS / 16 */
    static constexpr int KEYS = 64;                 /* in a tile */
    static constexpr int AT_ONCE = 16;              /* keys whose scores a warp has at a time */
    /* Shared memory, in elements: queries, then two stages of a tile of keys and one of values. */
    static constexpr int TILE = KEYS * HS, STAGES = QUERIES * HS, STAGE = 2 * TILE;
    static constexpr int BYTES = (STAGES + 2 * STAGE) * (int)sizeof(bf16);
};

/* Sums of exponentials above this make the reference follow. */
constexpr float SUM_LIMIT = 4294967296.0f;

/* The online softmax of a warp's queries, rows g and g + 8 of each 16:
 *     o = sum over the keys so far of exp2(score - reference) value,    sum = the same without the value
 * Scores are in powers of two; each lane's sum is that of the columns it had. */
template <int M, int HS> struct Softmax {
    float o[M][HS / 8][4];
    float reference[M][2], sum[M][2];

    __device__ __forceinline__ Softmax() {
        set_zero(o);
#pragma unroll
        for (int m = 0; m < M; m++) {
            reference[m][0] = reference[m][1] = -INFINITY;
            sum[m][0] = sum[m][1] = 0.0f;
        }
    }
};

/* Makes the reference the largest score so far. */
template <int M, int HS>
__device__ __forceinline__ void raise_reference(Softmax<M, HS> &softmax, const float (&s)[M][2][4], float scale) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = 2 * half;
            float largest = row_max(fmaxf(fmaxf(s[m][0][i], s[m][0][i + 1]), fmaxf(s[m][1][i], s[m][1][i + 1])));
            float raised = fmaxf(softmax.reference[m][half], largest * scale);
            float factor = exp2_approx(softmax.reference[m][half] - raised);
            softmax.reference[m][half] = raised;
            softmax.sum[m][half] *= factor;
#pragma unroll
            for (int n = 0; n < HS / 8; n++) {
                softmax.o[m][n][i] *= factor;
                softmax.o[m][n][i + 1] *= factor;
            }
        }
}

/* s = exp2(s scale - reference), and its sums. */
template <int M, int HS>
__device__ __forceinline__ void take_exponentials(float (&s)[M][2][4], float (&sum)[M][2],
                                                  const Softmax<M, HS> &softmax, float scale) {
#pragma unroll
    for (int m = 0; m < M; m++) {
        sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale, -softmax.reference[m][i / 2]));
                sum[m][i / 2] += s[m][n][i];
            }
    }
}

/* Whether any exponential of the warp may come near to overflow. */
template <int M> __device__ __forceinline__ bool is_large(const float (&sum)[M][2]) {
    float largest = 0.0f;
#pragma unroll
    for (int m = 0; m < M; m++) largest = fmaxf(largest, fmaxf(sum[m][0], sum[m][1]));
    return __any_sync(ALL_LANES, largest > SUM_LIMIT);
}

/* One more step: 16 keys, from `key` on in the tile at `keys`; `ahead` by how much they are ahead of the first query. */
template <int M, int HS, int KEPT>
__device__ __forceinline__ void attend(Softmax<M, HS> &softmax, const WarpRows<M, HS, KEPT> &queries,
                                       const bf16 *shared, int keys, int values, int key, int ahead, bool first,
                                       float scale) {
    uint32_t p[M][4];
    float sum[M][2];
    for (bool raise = first;; raise = true) {
        float s[M][2][4];
        multiply_transposed(s, queries, shared, keys, key);
        if (ahead + 15 > 0) mask_scores<false>(s, ahead);
        if (raise) raise_reference(softmax, s, scale);
        take_exponentials(s, sum, softmax, scale);
        round_scores(p, s);
        if (raise || !is_large(sum)) break;
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        softmax.sum[m][0] += sum[m][0];
        softmax.sum[m][1] += sum[m][1];
    }
    multiply_add<M, HS>(softmax.o, p, shared, values, key);
}

template <int M, int HS>
__device__ __forceinline__ void finish(bf16 *out, float *lse, Softmax<M, HS> &softmax, int C, int row, int rows,
                                       bf16 *tile) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = row_sum(softmax.sum[m][half]), inverse = 1.0f / sum;
            int r = row + 16 * m + 8 * half + threadIdx.x % WARP / 4;
            if (threadIdx.x % 4 == 0 && r < rows) lse[r] = (softmax.reference[m][half] + log2f(sum)) * LN_2;
#pragma unroll
            for (int n = 0; n < HS / 8; n++) {
                softmax.o[m][n][2 * half] *= inverse;
                softmax.o[m][n][2 * half + 1] *= inverse;
            }
        }
    store_rows<M, HS>(out, C, row, rows, softmax.o, 1.0f, tile);
}

/* Grid (NH, blocks of QUERIES queries, B). */
template <int HS>
__global__ void __launch_bounds__(ForwardSizes<HS>::THREADS, ForwardSizes<HS>::BLOCKS)
    attention_forward_kernel(bf16 *out, float *lse, const bf16 *qkv, AttentionSize size) {
    typedef ForwardSizes<HS> S;
    extern __shared__ __align__(128) unsigned char memory[];
    bf16 *shared = reinterpret_cast<bf16 *>(memory);
    int first = (gridDim.y - 1 - blockIdx.y) * S::QUERIES, rows = size.T - first, pitch = 3 * size.C;
    const bf16 *query = head_of_block<HS>(qkv, size.T, pitch);
    TileLoader<S::QUERIES, HS, S::THREADS>(query + (size_t)first * pitch, pitch).load(shared, pitch, rows);
    cp_async_commit();
    TileLoader<S::KEYS, HS, S::THREADS> loader(query + size.C, pitch);
    loader.load_pair(shared + S::STAGES, shared + S::STAGES + S::TILE, pitch, size.C, size.T);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();

    int row = threadIdx.x / WARP * 16 * S::M; /* the warp's first, in the block */
    const WarpRows<S::M, HS, S::KEPT> queries(shared, 0, row);
    Softmax<S::M, HS> softmax;
    float scale = size.scale * LOG2_E;
    int end = min(first + S::QUERIES, size.T);
    for (int key = 0; key < end; key += S::KEYS) {
        cp_async_wait<0>();
        __syncthreads();
        int next = key + S::KEYS, keys = S::STAGES + key / S::KEYS % 2 * S::STAGE;
        if (next < end) {
            bf16 *stage = shared + S::STAGES + next / S::KEYS % 2 * S::STAGE;
            loader.load_pair(stage, stage + S::TILE, pitch, size.C, size.T - next);
            cp_async_commit();
        }
        int ahead = key - (first + row);
#pragma unroll 1
        for (int at = 0; at < S::KEYS && ahead + at < 16 * S::M; at += S::AT_ONCE)
            attend(softmax, queries, shared, keys, keys + S::TILE, at, ahead + at, key + at == 0, scale);
    }
    finish(head_of_block<HS>(out, size.T, size.C) + (size_t)first * size.C, head_of_block(lse, size.T) + first, softmax,
           size.C, row, rows, shared);
}

template <int HS> static void forward(Backend *be, bf16 *out, float *lse, const bf16 *qkv, AttentionSize size) {
    typedef ForwardSizes<HS> S;
    cuda_check(
        cudaFuncSetAttribute(attention_forward_kernel<HS>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::BYTES),
        "asking for shared memory");
    dim3 grid((unsigned)size.NH, (unsigned)ceil_div(size.T, S::QUERIES), (unsigned)size.B);
    attention_forward_kernel<HS><<<grid, S::THREADS, S::BYTES, cuda_stream(be)>>>(out, lse, qkv, size);
    cuda_check_launch("attention_forward_kernel");
}

void attention_forward_tensor(Backend *be, bf16 *out, float *lse, const bf16 *qkv, AttentionSize size) {
    if (size.C / size.NH == 64)
        forward<64>(be, out, lse, qkv, size);
    else
        forward<128>(be, out, lse, qkv, size);
}
