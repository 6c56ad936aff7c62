/* attention_backward.cu: causal attention backward on tensor cores, bfloat16, head sizes 64 and 128: FlashAttention-2
 * (Dao 2023), but in two kernels, so that every sum has one owner and one order.
 *     P = exp(scale S - lse), S = Q K^T;    dV = P^T dO;    dP = dO V^T;    delta = rowsum(dO out);
 *     dS = P (dP - delta);    dQ = scale dS K;    dK = scale dS^T Q
 * With dropout dV = P~^T dO, in which P~ is 0 or P/(1 - rate). The same mask drops dP; delta is the same rowsum.
 *
 * FlashAttention-2 has one kernel with a block for each block of keys, which computes five matmuls and adds its parts
 * of dQ to memory with atomics, in any order. Here the first kernel has a block for each block of queries and computes
 * S, dP and dQ. The second has one for each block of keys and computes S, dP, dV and dK: seven matmuls in all. At T =
 * 1024, HS = 64 the two additional ones are 138 MFLOP for each head. Storing parts of dQ in float32 and adding them
 * afterwards would also give a fixed order, but would write and read 36 parts of 32 KB, 2.4 MB for each head; in that
 * time an H100 could do 690 MFLOP. The two kernels together move 1.5 MB (12 x 128 KB) in device memory, and read 2.4 MB
 * more from the level 2 cache, where the order of the grid keeps it.
 *
 * The first kernel also computes delta, since it has dO in registers; so no other kernel has to read dO for it.
 *
 * The other sizes follow from the registers. With HS = 64 and 32 keys for each warp, the second kernel needs 128 for dK
 * and dV, 32 for K, and 32 for scores and their gradients. Only 8 are left for V; the rest of V is read from shared
 * memory at each step. Two blocks of 4 warps fit a multiprocessor. With HS = 128 a warp has 16 rows, and one block of 8
 * warps fits. */
#include "kernels/cuda/attention.cuh"

/* What both kernels need of a query: lse as an exponent of 2, and delta. For a query after the last, lse is infinite,
 * which makes its weights 0. */
struct alignas(8) QueryStats {
    float lse, delta;
};

/* Sizes of both kernels: a block keeps ROWS rows, and streams the other rows in tiles of STREAMED. */
template <int HS> struct BackwardSizes {
    static constexpr int M = HS == 64 ? 2 : 1; /* a warp has 16 M rows */
    static constexpr int WARPS = HS == 64 ? 4 : 8, THREADS = WARPS * WARP, ROWS = WARPS * 16 * M;
    static constexpr int BLOCKS = 8 / WARPS;                 /* on a multiprocessor, which bounds the registers */
    static constexpr int STREAMED = HS == 64 ? 64 : 32;      /* 99 KB of shared memory are all that some GPUs have */
    static constexpr int ALL_KEPT = HS / 16, VALUE_KEPT = 1; /* see WarpRows */
    /* Shared memory, in elements: two tiles that stay, then two stages of two streamed tiles and their stats. */
    static constexpr int SECOND = ROWS * HS, STAGES = 2 * ROWS * HS, TILE = STREAMED * HS;
    static constexpr int STATS = STREAMED * (int)(sizeof(QueryStats) / sizeof(bf16)), STAGE = 2 * TILE + STATS;
    static constexpr int BYTES = (STAGES + 2 * STAGE) * (int)sizeof(bf16);
};

/* dP - delta, with dropout of dP. */
template <bool HAS_DROPOUT>
__device__ __forceinline__ float less_delta(float dp, bool is_kept, float scale, float delta) {
    if (!HAS_DROPOUT) return dp - delta;
    return is_kept ? fmaf(dp, scale, -delta) : -delta;
}

/* ---- dQ ---- */

/* Computes the stats of a warp's queries, rows g and g + 8 of each 16, in registers, and stores them. A lane multiplies
 * the elements of dO that it holds as a first factor. */
template <int M, int HS, int KEPT>
__device__ __forceinline__ void find_stats(QueryStats (&of_row)[M][2], QueryStats *stats, const bf16 *out,
                                           const float *lse, const WarpRows<M, HS, KEPT> &dout, int C, int row,
                                           int rows) {
    int g = threadIdx.x % WARP / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < M; m++) {
        float delta[2] = {0.0f, 0.0f};
#pragma unroll
        for (int k = 0; k < HS / 16; k++) {
            uint32_t a[4];
            dout.get(a, m, k);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int r = row + 16 * m + i % 2 * 8 + g;
                if (r >= rows) continue;
                const bf16 *at = out + (size_t)r * C + 16 * k + i / 2 * 8 + 2 * q;
                __nv_bfloat162 o = *reinterpret_cast<const __nv_bfloat162 *>(at);
                __nv_bfloat162 d = *reinterpret_cast<__nv_bfloat162 *>(&a[i]);
                delta[i % 2] += to_float(o.x) * to_float(d.x) + to_float(o.y) * to_float(d.y);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int r = row + 16 * m + 8 * half + g;
            of_row[m][half].lse = r < rows ? lse[r] * LOG2_E : INFINITY;
            of_row[m][half].delta = row_sum(delta[half]);
            if (q == 0) stats[r] = of_row[m][half];
        }
    }
}

/* One step of dquery += dS K, with the keys from row `at` of their tile on. The first key is `ahead` after the warp's
 * first query, which is query `first` of the sequence. */
template <bool HAS_DROPOUT, int M, int HS, int KEPT>
__device__ __forceinline__ void add_keys(float (&dquery)[M][HS / 8][4], const WarpRows<M, HS, KEPT> &query,
                                         const WarpRows<M, HS, KEPT> &dout, const QueryStats (&stats)[M][2],
                                         const TileFragments<HS> &keys, const TileFragments<HS> &values, int at,
                                         int ahead, float scale, const HeadDropout &dropout, int first) {
    uint32_t kept = HAS_DROPOUT ? kept_scores<false, M>(dropout, first, first + ahead) : 0;
    float s[M][2][4], dp[M][2][4];
    multiply_transposed(s, query, keys, at);
    multiply_transposed(dp, dout, values, at);
    if (ahead + STEP > 1) mask_scores<false>(s, ahead);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float p = exp2_approx(fmaf(s[m][n][i], scale, -stats[m][i / 2].lse));
                s[m][n][i] = p * less_delta<HAS_DROPOUT>(dp[m][n][i], is_kept(kept, m, n, i), dropout.scale,
                                                         stats[m][i / 2].delta);
            }
    uint32_t ds[M][4];
    round_scores(ds, s);
    multiply_add(dquery, ds, keys, at);
}

/* Grid (NH, blocks of ROWS queries, B). Also fills `stats` (B,NH,blocks x ROWS) for the second kernel. */
template <int HS, bool HAS_DROPOUT>
__global__ void __launch_bounds__(BackwardSizes<HS>::THREADS, BackwardSizes<HS>::BLOCKS)
    attention_dquery_kernel(bf16 *dqkv, QueryStats *stats, const bf16 *dout, const bf16 *qkv, const bf16 *out,
                            const float *lse, AttentionSize size) {
    typedef BackwardSizes<HS> S;
    extern __shared__ __align__(128) unsigned char memory[];
    HeadDropout &dropout = *reinterpret_cast<HeadDropout *>(memory + S::BYTES);
    if (HAS_DROPOUT && threadIdx.x == 0) dropout = head_dropout(size.dropout, blockIdx.x);
    bf16 *shared = reinterpret_cast<bf16 *>(memory);
    int first = (gridDim.y - 1 - blockIdx.y) * S::ROWS, rows = size.T - first, C = size.C, pitch = 3 * C;
    const bf16 *query = head_of_block<HS>(qkv, size.T, pitch);
    dout = head_of_block<HS>(dout, size.T, C) + (size_t)first * C;
    TileLoader<S::ROWS, HS, S::THREADS>(query + (size_t)first * pitch, pitch).load(shared, pitch, rows);
    TileLoader<S::ROWS, HS, S::THREADS>(dout, C).load(shared + S::SECOND, C, rows);
    cp_async_commit();
    TileLoader<S::STREAMED, HS, S::THREADS> loader(query + C, pitch);
    loader.load_pair(shared + S::STAGES, pitch, size.T, C);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();

    int row = threadIdx.x / WARP * 16 * S::M; /* the warp's first, in the block */
    const WarpRows<S::M, HS, S::ALL_KEPT> warp_query(TileFragments<HS>(shared, 0), row);
    const WarpRows<S::M, HS, S::ALL_KEPT> warp_dout(TileFragments<HS>(shared, S::SECOND), row);
    QueryStats of_row[S::M][2];
    find_stats(of_row, head_of_block(stats, gridDim.y * S::ROWS) + first,
               head_of_block<HS>(out, size.T, C) + (size_t)first * C, head_of_block(lse, size.T) + first, warp_dout, C,
               row, rows);
    float dquery[S::M][HS / 8][4], scale = size.scale * LOG2_E;
    set_zero(dquery);
    int end = min(first + S::ROWS, size.T);
    for (int key = 0; key < end; key += S::STREAMED) {
        cp_async_wait<0>();
        __syncthreads();
        int next = key + S::STREAMED, tile = S::STAGES + key / S::STREAMED % 2 * S::STAGE;
        if (next < end) {
            loader.load_pair(shared + S::STAGES + next / S::STREAMED % 2 * S::STAGE, pitch, size.T - next, C);
            cp_async_commit();
        }
        const TileFragments<HS> keys(shared, tile), values(shared, tile + S::TILE);
        int ahead = key - (first + row);
#pragma unroll 1
        for (int at = 0; at < S::STREAMED && ahead + at < 16 * S::M; at += STEP)
            add_keys<HAS_DROPOUT>(dquery, warp_query, warp_dout, of_row, keys, values, at, ahead + at, scale, dropout,
                                  first + row);
    }
    store_rows<S::M, HS>(head_of_block<HS>(dqkv, size.T, pitch) + (size_t)first * pitch, pitch, row, rows, dquery,
                         size.scale, shared);
}

/* ---- dK and dV ---- */

/* One step of dvalue += P^T dO and dkey += dS^T Q, with the queries from row `at` of their tile on. The warp's first
 * key is key `first` of the sequence, `ahead` after the first of these queries. */
template <bool HAS_DROPOUT, int M, int HS, int KEPT, int VALUE_KEPT>
__device__ __forceinline__ void
add_queries(float (&dkey)[M][HS / 8][4], float (&dvalue)[M][HS / 8][4], const WarpRows<M, HS, KEPT> &key,
            const WarpRows<M, HS, VALUE_KEPT> &value, const QueryStats *stats, const TileFragments<HS> &queries,
            const TileFragments<HS> &douts, int at, int ahead, float scale, const HeadDropout &dropout, int first) {
    uint32_t kept = HAS_DROPOUT ? kept_scores<true, M>(dropout, first - ahead, first) : 0;
    float s[M][2][4], dp[M][2][4];
    multiply_transposed(s, key, queries, at);
    multiply_transposed(dp, value, douts, at);
    if (ahead + 16 * M > 1) mask_scores<true>(s, ahead);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        /* stats of the lane's two columns */
        float4 two = *reinterpret_cast<const float4 *>(stats + at + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float p = exp2_approx(fmaf(s[m][n][i], scale, -(i % 2 ? two.z : two.x)));
                s[m][n][i] = p;
                dp[m][n][i] = p * less_delta<HAS_DROPOUT>(dp[m][n][i], is_kept(kept, m, n, i), dropout.scale,
                                                          i % 2 ? two.w : two.y);
            }
    }
    if (HAS_DROPOUT) drop_scores(s, kept);
    uint32_t p[M][4], ds[M][4];
    round_scores(p, s);
    multiply_add(dvalue, p, douts, at);
    round_scores(ds, dp);
    multiply_add(dkey, ds, queries, at);
}

/* Grid (NH, blocks of ROWS keys, B). */
template <int HS, bool HAS_DROPOUT>
__global__ void __launch_bounds__(BackwardSizes<HS>::THREADS, BackwardSizes<HS>::BLOCKS)
    attention_dkey_dvalue_kernel(bf16 *dqkv, const QueryStats *stats, const bf16 *dout, const bf16 *qkv,
                                 AttentionSize size) {
    typedef BackwardSizes<HS> S;
    extern __shared__ __align__(128) unsigned char memory[];
    HeadDropout &dropout = *reinterpret_cast<HeadDropout *>(memory + S::BYTES);
    if (HAS_DROPOUT && threadIdx.x == 0) dropout = head_dropout(size.dropout, blockIdx.x);
    bf16 *shared = reinterpret_cast<bf16 *>(memory);
    int first = blockIdx.y * S::ROWS, rows = size.T - first, C = size.C, pitch = 3 * C;
    const bf16 *query = head_of_block<HS>(qkv, size.T, pitch) + (size_t)first * pitch;
    TileLoader<S::ROWS, HS, S::THREADS>(query + C, pitch).load_pair(shared, pitch, rows, C);
    cp_async_commit();
    TileLoader<S::STREAMED, HS, S::THREADS> query_loader(query, pitch);
    TileLoader<S::STREAMED, HS, S::THREADS> dout_loader(head_of_block<HS>(dout, size.T, C) + (size_t)first * C, C);
    stats = head_of_block(stats, gridDim.y * S::ROWS) + first;
    auto load_stage = [&](int at) {
        bf16 *stage = shared + S::STAGES + at / S::STREAMED % 2 * S::STAGE;
        query_loader.load(stage, pitch, rows - at);
        dout_loader.load(stage + S::TILE, C, rows - at);
        if (threadIdx.x < S::STATS / CHUNK)
            cp_async_16(stage + 2 * S::TILE + threadIdx.x * CHUNK, stats + at + threadIdx.x * 2);
        cp_async_commit();
    };
    load_stage(0);
    cp_async_wait<1>();
    __syncthreads();

    int row = threadIdx.x / WARP * 16 * S::M; /* the warp's first, in the block */
    const WarpRows<S::M, HS, S::ALL_KEPT> key(TileFragments<HS>(shared, 0), row);
    const WarpRows<S::M, HS, S::VALUE_KEPT> value(TileFragments<HS>(shared, S::SECOND), row);
    float dkey[S::M][HS / 8][4], dvalue[S::M][HS / 8][4], scale = size.scale * LOG2_E;
    set_zero(dkey);
    set_zero(dvalue);
    for (int tile = 0; tile < rows; tile += S::STREAMED) {
        cp_async_wait<0>();
        __syncthreads();
        if (tile + S::STREAMED < rows) load_stage(tile + S::STREAMED);
        int stage = S::STAGES + tile / S::STREAMED % 2 * S::STAGE, ahead = row - tile;
        const TileFragments<HS> queries(shared, stage), douts(shared, stage + S::TILE);
        const QueryStats *tile_stats = reinterpret_cast<const QueryStats *>(shared + stage + 2 * S::TILE);
#pragma unroll 1
        for (int at = max(0, ahead); at < S::STREAMED; at += STEP)
            add_queries<HAS_DROPOUT>(dkey, dvalue, key, value, tile_stats, queries, douts, at, ahead - at, scale,
                                     dropout, first + row);
    }
    bf16 *to = head_of_block<HS>(dqkv, size.T, pitch) + (size_t)first * pitch + C;
    store_rows<S::M, HS>(to, pitch, row, rows, dkey, size.scale, shared);
    store_rows<S::M, HS>(to + C, pitch, row, rows, dvalue, HAS_DROPOUT ? dropout.scale : 1.0f, shared + S::SECOND);
}

/* ---- both ---- */

template <int HS, bool HAS_DROPOUT>
static void backward(Backend *be, bf16 *dqkv, const bf16 *dout, const bf16 *qkv, const bf16 *out, const float *lse,
                     AttentionSize size) {
    typedef BackwardSizes<HS> S;
    constexpr int bytes = S::BYTES + dropout_bytes<HAS_DROPOUT>();
    const char *what = "asking for shared memory";
    cuda_check(cudaFuncSetAttribute(attention_dquery_kernel<HS, HAS_DROPOUT>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               what);
    cuda_check(cudaFuncSetAttribute(attention_dkey_dvalue_kernel<HS, HAS_DROPOUT>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               what);
    dim3 grid((unsigned)size.NH, (unsigned)ceil_div(size.T, S::ROWS), (unsigned)size.B);
    size_t count = (size_t)size.B * size.NH * grid.y * S::ROWS;
    QueryStats *stats = (QueryStats *)cuda_scratch(be, count * sizeof *stats);
    attention_dquery_kernel<HS, HAS_DROPOUT>
        <<<grid, S::THREADS, bytes, cuda_stream(be)>>>(dqkv, stats, dout, qkv, out, lse, size);
    cuda_check_launch("attention_dquery_kernel");
    attention_dkey_dvalue_kernel<HS, HAS_DROPOUT>
        <<<grid, S::THREADS, bytes, cuda_stream(be)>>>(dqkv, stats, dout, qkv, size);
    cuda_check_launch("attention_dkey_dvalue_kernel");
}

void attention_backward_tensor(Backend *be, bf16 *dqkv, const bf16 *dout, const bf16 *qkv, const bf16 *out,
                               const float *lse, AttentionSize size) {
    bool is_64 = size.C / size.NH == 64;
    if (size.dropout.rate > 0.0f)
        (is_64 ? backward<64, true> : backward<128, true>)(be, dqkv, dout, qkv, out, lse, size);
    else
        (is_64 ? backward<64, false> : backward<128, false>)(be, dqkv, dout, qkv, out, lse, size);
}
