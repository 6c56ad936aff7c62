/* attention_forward.cu: causal attention forward on tensor cores, bfloat16, head sizes 64 and 128: FlashAttention-2
 * (Dao 2023), with the online softmax of Milakov and Gimelshein (2018).
 *
 * A block of 4 warps has 128 queries: 32 for each warp, which keeps their outputs in registers. It goes over the keys
 * from the first to its own. Shared memory has two stages of a tile of keys and one of values: one stage is used while
 * the other is loaded. There is one barrier per tile.
 *
 * Bytes and operations for one head at T = 1024, HS = 64: Q, K, V and out are 512 KB. The scores would be 2 MB in
 * bfloat16, but are not stored. Blocks read 1.2 MB of keys and values, which the order of the grid keeps in the level 2
 * cache. Both matmuls take 138 MFLOP: 34 thousand clocks of one Hopper multiprocessor at the full rate of its tensor
 * cores (4096 a clock; mma.sync does not reach it). The 0.54 million exponentials take as many clocks, at 16 a clock.
 * So matmuls and exponentials must overlap. Three blocks, 12 warps, fit a multiprocessor with 168 registers a thread,
 * and a warp computes two steps together: the exponentials of one while the tensor cores compute the scores of the
 * other. Steps on the diagonal, two for each warp, are computed one by one, since the mask takes registers too. And
 * little other work may remain: for each score a multiply-add, an addition and half a rounding next to its exponential.
 *
 * To save work, the row maximum is not computed in each step. Any reference that keeps exponentials from overflowing
 * gives the same result in floating point. So the largest score of the first steps is the reference until a sum of
 * exponentials is large, for which float32 and bfloat16 have enough range. Then the steps are computed again with the
 * reference raised to the largest score so far. (FlashAttention-4 lets the reference lag too, by up to 2^8, but
 * computes the maximum.) */
#include "kernels/cuda/attention.cuh"

template <int HS> struct ForwardSizes {
    static constexpr int M = 2; /* a warp has 16 M queries */
    static constexpr int WARPS = 4, THREADS = WARPS * WARP, QUERIES = WARPS * 16 * M;
    static constexpr int BLOCKS = HS == 64 ? 3 : 2; /* on a multiprocessor, which bounds the registers */
    static constexpr int KEPT = HS == 64 ? 4 : 3;   /* see WarpRows; for HS = 128 there are no registers for more */
    static constexpr int KEYS = 64;                 /* in a tile */
    static constexpr int STEPS = 2;                 /* computed together before the diagonal */
    static_assert(STEPS * STEP == 16 * M && KEYS % (16 * M) == 0, "the diagonal begins where a group of steps does");
    /* Shared memory, in elements: queries, then two stages of a tile of keys and one of values. */
    static constexpr int TILE = KEYS * HS, STAGES = QUERIES * HS, STAGE = 2 * TILE;
    static constexpr int BYTES = (STAGES + 2 * STAGE) * (int)sizeof(bf16);
};

/* The reference is raised if the sum over the steps computed together is above 2^32. Even T / STEP such sums, of values
 * of 2^40, stay far below 2^128, the limit of float32. */
constexpr float LARGE_SUM = 4294967296.0f;

/* The online softmax of a warp's queries, rows g and g + 8 of each 16:
 *     o = sum over the keys so far of exp2(score - reference) value,    sum = the same without the value
 * Scores are exponents of 2. Each lane only sums the columns that it holds. */
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
template <int STEPS, int M, int HS>
__device__ __forceinline__ void raise_reference(Softmax<M, HS> &softmax, const float (&s)[STEPS][M][2][4],
                                                float scale) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = 2 * half;
            float largest = -INFINITY;
#pragma unroll
            for (int step = 0; step < STEPS; step++)
#pragma unroll
                for (int n = 0; n < 2; n++) largest = fmaxf(largest, fmaxf(s[step][m][n][i], s[step][m][n][i + 1]));
            largest = row_max(largest);
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

/* s = exp2(s scale - reference); adds the new s to the sums. */
template <int M, int HS>
__device__ __forceinline__ void take_exponentials(float (&s)[M][2][4], float (&sum)[M][2],
                                                  const Softmax<M, HS> &softmax, float scale) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale, -softmax.reference[m][i / 2]));
                sum[m][i / 2] += s[m][n][i];
            }
    }
}

/* Whether any sum of the warp is above LARGE_SUM. */
template <int M> __device__ __forceinline__ bool is_large(const float (&sum)[M][2]) {
    float largest = 0.0f;
#pragma unroll
    for (int m = 0; m < M; m++) largest = fmaxf(largest, fmaxf(sum[m][0], sum[m][1]));
    return __any_sync(ALL_LANES, largest > LARGE_SUM);
}

/* STEPS steps with the keys from row `at` of their tile on. The first one is key `key` of the sequence, and `ahead`
 * after the warp's first query (used if MASKED), which is query `query` of the sequence. */
template <int STEPS, bool MASKED, bool HAS_DROPOUT, int M, int HS, int KEPT>
__device__ __forceinline__ void attend(Softmax<M, HS> &softmax, const WarpRows<M, HS, KEPT> &queries,
                                       const TileFragments<HS> &keys, const TileFragments<HS> &values, int at,
                                       int ahead, float scale, const HeadDropout &dropout, int query, int key) {
    uint32_t p[STEPS][M][4], kept[STEPS];
    if (HAS_DROPOUT)
#pragma unroll
        for (int step = 0; step < STEPS; step++) kept[step] = kept_scores<false, M>(dropout, query, key + step * STEP);
    float sum[M][2];
    for (bool raise = key == 0;; raise = true) {
        float s[STEPS][M][2][4];
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            multiply_transposed(s[step], queries, keys, at + step * STEP);
            if (MASKED) mask_scores<false>(s[step], ahead + step * STEP);
        }
        if (raise) raise_reference(softmax, s, scale);
#pragma unroll
        for (int m = 0; m < M; m++) sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            take_exponentials(s[step], sum, softmax, scale);
            if (HAS_DROPOUT) drop_scores(s[step], kept[step]);
            round_scores(p[step], s[step]);
        }
        if (raise || !is_large(sum)) break;
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        softmax.sum[m][0] += sum[m][0];
        softmax.sum[m][1] += sum[m][1];
    }
#pragma unroll
    for (int step = 0; step < STEPS; step++) multiply_add(softmax.o, p[step], values, at + step * STEP);
}

/* Stores lse, and out = factor o / sum. */
template <int M, int HS>
__device__ __forceinline__ void finish(bf16 *out, float *lse, Softmax<M, HS> &softmax, float factor, int C, int row,
                                       int rows, bf16 *tile) {
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
    store_rows<M, HS>(out, C, row, rows, softmax.o, factor, tile);
}

/* Grid (NH, blocks of QUERIES queries, B). */
template <int HS, bool HAS_DROPOUT>
__global__ void __launch_bounds__(ForwardSizes<HS>::THREADS, ForwardSizes<HS>::BLOCKS)
    attention_forward_kernel(bf16 *out, float *lse, const bf16 *qkv, AttentionSize size) {
    typedef ForwardSizes<HS> S;
    extern __shared__ __align__(128) unsigned char memory[];
    HeadDropout &dropout = *reinterpret_cast<HeadDropout *>(memory + S::BYTES);
    if (HAS_DROPOUT && threadIdx.x == 0) dropout = head_dropout(size.dropout, blockIdx.x);
    bf16 *shared = reinterpret_cast<bf16 *>(memory);
    int first = (gridDim.y - 1 - blockIdx.y) * S::QUERIES, rows = size.T - first, pitch = 3 * size.C;
    const bf16 *query = head_of_block<HS>(qkv, size.T, pitch);
    TileLoader<S::QUERIES, HS, S::THREADS>(query + (size_t)first * pitch, pitch).load(shared, pitch, rows);
    cp_async_commit();
    TileLoader<S::KEYS, HS, S::THREADS> loader(query + size.C, pitch);
    loader.load_pair(shared + S::STAGES, pitch, size.T, size.C);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();

    int row = threadIdx.x / WARP * 16 * S::M; /* the warp's first, in the block */
    const WarpRows<S::M, HS, S::KEPT> queries(TileFragments<HS>(shared, 0), row);
    Softmax<S::M, HS> softmax;
    float scale = size.scale * LOG2_E;
    int end = min(first + S::QUERIES, size.T);
    for (int key = 0; key < end; key += S::KEYS) {
        cp_async_wait<0>();
        __syncthreads();
        int next = key + S::KEYS, tile = S::STAGES + key / S::KEYS % 2 * S::STAGE;
        if (next < end) {
            loader.load_pair(shared + S::STAGES + next / S::KEYS % 2 * S::STAGE, pitch, size.T - next, size.C);
            cp_async_commit();
        }
        const TileFragments<HS> keys(shared, tile), values(shared, tile + S::TILE);
        int diagonal = first + row - key, at = 0; /* the tile's row of the warp's first query */
#pragma unroll 1
        for (; at < min(S::KEYS, diagonal); at += S::STEPS * STEP)
            attend<S::STEPS, false, HAS_DROPOUT>(softmax, queries, keys, values, at, 0, scale, dropout, first + row,
                                                 key + at);
#pragma unroll 1
        for (; at - diagonal < 16 * S::M && at < S::KEYS; at += STEP)
            attend<1, true, HAS_DROPOUT>(softmax, queries, keys, values, at, at - diagonal, scale, dropout, first + row,
                                         key + at);
    }
    finish(head_of_block<HS>(out, size.T, size.C) + (size_t)first * size.C, head_of_block(lse, size.T) + first, softmax,
           HAS_DROPOUT ? dropout.scale : 1.0f, size.C, row, rows, shared);
}

template <int HS, bool HAS_DROPOUT>
static void forward(Backend *be, bf16 *out, float *lse, const bf16 *qkv, AttentionSize size) {
    typedef ForwardSizes<HS> S;
    constexpr int bytes = S::BYTES + dropout_bytes<HAS_DROPOUT>();
    cuda_check(cudaFuncSetAttribute(attention_forward_kernel<HS, HAS_DROPOUT>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "asking for shared memory");
    dim3 grid((unsigned)size.NH, (unsigned)ceil_div(size.T, S::QUERIES), (unsigned)size.B);
    attention_forward_kernel<HS, HAS_DROPOUT><<<grid, S::THREADS, bytes, cuda_stream(be)>>>(out, lse, qkv, size);
    cuda_check_launch("attention_forward_kernel");
}

void attention_forward_tensor(Backend *be, bf16 *out, float *lse, const bf16 *qkv, AttentionSize size) {
    bool is_64 = size.C / size.NH == 64;
    if (size.dropout.rate > 0.0f)
        (is_64 ? forward<64, true> : forward<128, true>)(be, out, lse, qkv, size);
    else
        (is_64 ? forward<64, false> : forward<128, false>)(be, out, lse, qkv, size);
}
