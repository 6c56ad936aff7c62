/* attention.cuh: shared by the files of attention: the functions that attention.cu calls, and the parts of the
 * tensor-core kernels in attention_forward.cu and attention_backward.cu.
 *
 * In such a kernel each warp keeps 16 M rows of one array (queries; or keys and values) and streams the rows of another
 * array through shared memory, STEP = 16 at a time. All its matmuls are of two kinds. A are the warp's rows, B the
 * streamed rows:
 *     S = A B^T    multiply_transposed(): Q K^T, dO V^T; K Q^T, V dO^T
 *     O += P B     multiply_add():        P V, dS K;     P^T dO, dS^T Q
 * The tensor core leaves S in the registers in which it takes the first factor of the second kind. So P, computed from
 * S element by element, never goes through memory (Dao 2023, FlashAttention-2). ptx.cuh describes these fragments: with
 * g = lane / 4 and q = lane % 4, a lane holds rows g and g + 8 of S, columns 2 q and 2 q + 1 of each 8.
 *
 * Why M = 2 if there are enough registers: each warp reads B from shared memory, 128 bytes for each m16n8k16 with M =
 * 2, 256 with M = 1. On Hopper the four tensor cores of a multiprocessor could do one m16n8k16 each in 4 clocks, in
 * which shared memory gives 512 bytes: just enough for M = 2, half of what M = 1 needs.
 *
 * Why steps of 16: scores then take 8 M registers, and most of the others can be accumulators and first factors. A warp
 * skips steps that the causal mask hides, and only masks those on the diagonal. So at T = 1024 and M = 2 at most 3 % is
 * computed beyond the T (T + 1) / 2 pairs that are needed. */
#ifndef MARS_KERNELS_CUDA_ATTENTION_CUH
#define MARS_KERNELS_CUDA_ATTENTION_CUH

#include <math.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

/* The sizes of a call, its scale and its dropout; see backend.h. Kernels with dropout are separate template instances:
 * it costs nothing in those without. */
typedef struct AttentionSize {
    int B, T, C, NH;
    float scale;
    Dropout dropout; /* rate 0: none */
} AttentionSize;

/* On tensor cores. Head size 64 or 128, scale > 0, arrays aligned to 16 bytes. */
void attention_forward_tensor(Backend *be, bf16 *out, float *lse, const bf16 *qkv, AttentionSize size);
void attention_backward_tensor(Backend *be, bf16 *dqkv, const bf16 *dout, const bf16 *qkv, const bf16 *out,
                               const float *lse, AttentionSize size);

/* For any size, float or bf16. */
template <class T> void attention_forward_plain(Backend *be, T *out, float *lse, const T *qkv, AttentionSize size);
template <class T>
void attention_backward_plain(Backend *be, T *dqkv, const T *dout, const T *qkv, const T *out, const float *lse,
                              AttentionSize size);
template <class T>
void attention_decode_plain(Backend *be, T *out, T *keys, T *values, const T *qkv, int position, int capacity,
                            AttentionSize size);

constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

/* ---- the order of work ----
 *
 * A grid is (heads, blocks of rows, sequences). Its blocks start in this order: for each sequence first the longest
 * block of every head, then the next longest. So blocks that read the same keys and values run at about the same time
 * and find them in the level 2 cache, and the blocks that end last are short. */

/* Where this block's head begins in an array with T rows for each sequence, `pitch` elements apart. */
template <int HS, class Element> __device__ __forceinline__ Element *head_of_block(Element *array, int T, int pitch) {
    return array + (size_t)blockIdx.z * T * pitch + blockIdx.x * HS;
}

/* The same in an array (B,NH,n). */
template <class Element> __device__ __forceinline__ Element *head_of_block(Element *array, int n) {
    return array + ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * n;
}

/* Number of streamed rows for which a warp has scores at a time. */
constexpr int STEP = 16;

/* ---- tiles: rows of one head in shared memory ---- */

constexpr int CHUNK = 8; /* elements in 16 bytes, which ldmatrix and cp.async move at a time */

/* Where a chunk of a row begins in a tile. Rows are multiples of 128 bytes long, so the same chunk of 8 rows would fall
 * on the same 4 of 32 banks: XOR with the row number spreads them over all banks. Chunks stay within their row, so that
 * copies of whole rows have no bank conflicts either. */
template <int HS> __device__ __forceinline__ int place_in_tile(int row, int chunk) {
    return row * HS + (chunk ^ (row & 7)) * CHUNK;
}

/* Copies an array of rows tile by tile. Rows after the end of the array become 0. */
template <int ROWS, int HS, int THREADS> struct TileLoader {
    static constexpr int CHUNKS = HS / CHUNK, AT_ONCE = THREADS / CHUNKS;
    static_assert(THREADS % CHUNKS == 0 && AT_ONCE % 8 == 0 && ROWS % AT_ONCE == 0, "rows AT_ONCE apart share an XOR");
    const bf16 *from; /* the calling thread's first chunk of the next tile */

    __device__ __forceinline__ TileLoader(const bf16 *array, int pitch) {
        from = array + (size_t)(threadIdx.x / CHUNKS) * pitch + threadIdx.x % CHUNKS * CHUNK;
    }
    /* Starts copying the next ROWS rows, of which `rows` exist. */
    __device__ __forceinline__ void load(bf16 *tile, int pitch, int rows) { copy<false>(tile, pitch, rows, 0); }
    /* The same, also for a second array, `apart` elements after the first; its tile lies after the first tile. */
    __device__ __forceinline__ void load_pair(bf16 *tile, int pitch, int rows, int apart) {
        copy<true>(tile, pitch, rows, apart);
    }
    template <bool PAIR> __device__ __forceinline__ void copy(bf16 *tile, int pitch, int rows, int apart) {
        int row = threadIdx.x / CHUNKS;
        tile += place_in_tile<HS>(row, threadIdx.x % CHUNKS);
#pragma unroll
        for (int i = 0; i < ROWS; i += AT_ONCE) {
            cp_async_16_or_zero(tile + i * HS, from, row + i < rows);
            if (PAIR) cp_async_16_or_zero(tile + (ROWS + i) * HS, from + apart, row + i < rows);
            from += (size_t)AT_ONCE * pitch;
        }
    }
};

/* ---- fragments ---- */

/* ldmatrix_x4 loads 16 rows and 16 columns of a tile. What it gives depends on the order in which the lanes address the
 * 8 x 8 pieces. `by_rows` gives a first factor (16,16) or, transposed, two second factors (16,8) whose rows are the
 * tile's. `by_columns` gives two second factors whose columns are the tile's rows. Both are offsets in bytes. */
template <int HS> struct TileFragments {
    const char *shared;
    int by_rows, by_columns;

    /* For the tile that begins `tile` elements after `shared`, the begin of shared memory. */
    __device__ __forceinline__ TileFragments(const bf16 *shared, int tile) {
        int lane = threadIdx.x % WARP;
        this->shared = reinterpret_cast<const char *>(shared);
        by_rows = (tile + place_in_tile<HS>(lane % 16, lane / 16)) * (int)sizeof(bf16);
        by_columns = (tile + place_in_tile<HS>(lane / 16 * 8 + lane % 8, lane / 8 % 2)) * (int)sizeof(bf16);
    }
    /* The lane's address for rows from `row` (a multiple of 8) and columns from 16 k on. Tiles begin at multiples of
     * 128 bytes, so that XOR only changes the chunk: one instruction for any number of rows. */
    __device__ __forceinline__ const char *at(int place, int row, int k) const {
        return shared + ((place ^ 32 * k) + row * HS * (int)sizeof(bf16));
    }
};

/* A warp's 16 M rows of a tile, from `row` on, as first factors. The first 16 KEPT columns stay in registers. The
 * others, for which there are no registers, are read again at each use. */
template <int M, int HS, int KEPT> struct WarpRows {
    uint32_t kept[M][KEPT][4];
    TileFragments<HS> tile;
    int row;

    __device__ __forceinline__ WarpRows(TileFragments<HS> tile, int row) : tile(tile), row(row) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int k = 0; k < KEPT; k++) ldmatrix_x4(kept[m][k], tile.at(tile.by_rows, row + 16 * m, k));
    }
    /* Rows from 16 m and columns from 16 k on. */
    __device__ __forceinline__ void get(uint32_t (&a)[4], int m, int k) const {
        if (k >= KEPT) return ldmatrix_x4(a, tile.at(tile.by_rows, row + 16 * m, k));
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = kept[m][k][i];
    }
};

/* ---- matmuls ---- */

template <int M, int N> __device__ __forceinline__ void set_zero(float (&x)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[m][n][i] = 0.0f;
}

/* s (16 M, STEP) = A (16 M, HS) . B^T, B being STEP rows of a tile from `row` on. */
template <int M, int HS, int KEPT>
__device__ __forceinline__ void multiply_transposed(float (&s)[M][2][4], const WarpRows<M, HS, KEPT> &rows,
                                                    const TileFragments<HS> &tile, int row) {
    set_zero(s);
#pragma unroll
    for (int k = 0; k < HS / 16; k++) {
        uint32_t b[4];
        ldmatrix_x4(b, tile.at(tile.by_columns, row, k));
#pragma unroll
        for (int m = 0; m < M; m++) {
            uint32_t a[4];
            rows.get(a, m, k);
            mma_m16n8k16(s[m][0], a, {b[0], b[1]});
            mma_m16n8k16(s[m][1], a, {b[2], b[3]});
        }
    }
}

/* o (16 M, HS) += p (16 M, STEP) . B, B being STEP rows of a tile from `row` on. */
template <int M, int HS>
__device__ __forceinline__ void multiply_add(float (&o)[M][HS / 8][4], const uint32_t (&p)[M][4],
                                             const TileFragments<HS> &tile, int row) {
#pragma unroll
    for (int n = 0; n < HS / 8; n += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, tile.at(tile.by_rows, row, n / 2));
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma_m16n8k16(o[m][n], p[m], {b[0], b[1]});
            mma_m16n8k16(o[m][n + 1], p[m], {b[2], b[3]});
        }
    }
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* p = s, rounded, as first factors. */
template <int M> __device__ __forceinline__ void round_scores(uint32_t (&p)[M][4], const float (&s)[M][2][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[m][i] = pack_pair(s[m][i / 2][i % 2 * 2], s[m][i / 2][i % 2 * 2 + 1]);
}

/* Sets scores to -infinity if the key is after the query. `ahead`: the first key's number minus the first query's. */
template <bool ROWS_ARE_KEYS, int M> __device__ __forceinline__ void mask_scores(float (&s)[M][2][4], int ahead) {
    int row = threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
    ahead += ROWS_ARE_KEYS ? row - column : column - row;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int down = 16 * m + i / 2 * 8, right = 8 * n + i % 2;
                if (ahead > (ROWS_ARE_KEYS ? right - down : down - right)) s[m][n][i] = -INFINITY;
            }
}

/* Sum and maximum over the four lanes that hold a row. */
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

/* ---- dropout ---- */

/* The dropout of a block's head. Tensor-core kernels have it at the end of shared memory: no registers are left. */
struct HeadDropout {
    uint64_t key;
    int head;
    uint32_t threshold;
    float scale;

    /* Four bits: which weights of a query and the keys from `first_key` (a multiple of 4) on are kept. */
    __device__ __forceinline__ uint32_t kept(int query, int first_key) const {
        Philox4 random = dropout_attention_words(key, head, query, first_key / 4);
        uint32_t bits = 0;
#pragma unroll
        for (int w = 0; w < 4; w++) bits |= (uint32_t)(random.word[w] >= threshold) << w;
        return bits;
    }
};

template <bool HAS_DROPOUT> constexpr int dropout_bytes() { return HAS_DROPOUT ? (int)sizeof(HeadDropout) : 0; }

__device__ __forceinline__ HeadDropout head_dropout(const Dropout &dropout, int head) {
    return {dropout_key(&dropout, (int)blockIdx.z), head, dropout_threshold(dropout.rate), dropout_scale(dropout.rate)};
}

/* Transposes bits among four lanes that are DISTANCE apart: bit 4 k + w of lane r goes to bit 4 k + r of lane w. */
template <int DISTANCE> __device__ __forceinline__ uint32_t transpose_bits(uint32_t bits) {
    int r = threadIdx.x / DISTANCE % 4;
    uint32_t transposed = (bits >> r & 0x11111111u) << r;
#pragma unroll
    for (int other = 1; other < 4; other++)
        transposed |= (__shfl_xor_sync(ALL_LANES, bits, other * DISTANCE) >> r & 0x11111111u) << (r ^ other);
    return transposed;
}

/* Which scores are kept in a step with the queries from `query` on and the keys from `key` on: bit 8 m + 4 (i / 2) + 2
 * n + i % 2 is for s[m][n][i]. One call of Philox serves four neighbouring keys of a query. They are in two lanes, or
 * in four if rows are keys, so each lane makes a half or a quarter of the calls. */
template <bool ROWS_ARE_KEYS, int M>
__device__ __forceinline__ uint32_t kept_scores(const HeadDropout &dropout, int query, int key) {
    int g = threadIdx.x % WARP / 4, q = threadIdx.x % 4;
    query += ROWS_ARE_KEYS ? g % 4 / 2 * 8 + 2 * q + g % 2 : g;
    key += ROWS_ARE_KEYS ? g / 4 * 4 : q % 2 * 8 + q / 2 * 4;
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 2 * M; i++)
        bits |= dropout.kept(query + (ROWS_ARE_KEYS ? 0 : 8 * i), key + (ROWS_ARE_KEYS ? 8 * i : 0)) << 4 * i;
    if (ROWS_ARE_KEYS) return transpose_bits<4>(bits);
    int own = q % 2 * 2, other = 2 - own;
    uint32_t others = __shfl_xor_sync(ALL_LANES, bits, 1);
    return (bits >> own & 0x33333333u) << own | (others >> own & 0x33333333u) << other;
}

__device__ __forceinline__ bool is_kept(uint32_t kept, int m, int n, int i) {
    return kept >> (8 * m + i / 2 * 4 + 2 * n + i % 2) & 1;
}

/* Sets the weights that are not kept to 0. */
template <int M> __device__ __forceinline__ void drop_scores(float (&s)[M][2][4], uint32_t kept) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (!is_kept(kept, m, n, i)) s[m][n][i] = 0.0f;
}

/* ---- results ---- */

/* Stores a warp's 16 M rows, from `row` of its block on but only those before `rows`, times `factor`. They go through
 * the same rows of `tile`, which no other warp may use, so that whole rows are written, 16 bytes for each lane. */
template <int M, int HS>
__device__ __forceinline__ void store_rows(bf16 *to, int pitch, int row, int rows, const float (&o)[M][HS / 8][4],
                                           float factor, bf16 *tile) {
    constexpr int CHUNKS = HS / CHUNK;
    int lane = threadIdx.x % WARP, g = lane / 4, q = lane % 4;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < HS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i += 2)
                *reinterpret_cast<uint32_t *>(tile + place_in_tile<HS>(row + 16 * m + 4 * i + g, n) + 2 * q) =
                    pack_pair(o[m][n][i] * factor, o[m][n][i + 1] * factor);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * M; i += WARP / CHUNKS) {
        int r = row + i + lane / CHUNKS, chunk = lane % CHUNKS;
        if (r < rows) store_pack(to + (size_t)r * pitch + chunk * CHUNK, load_pack(tile + place_in_tile<HS>(r, chunk)));
    }
}

#endif
