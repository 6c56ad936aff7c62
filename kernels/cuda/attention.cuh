/* attention.cuh: what the files of attention share: the functions that attention.cu chooses between, and what the
 * tensor-core kernels of attention_forward.cu and attention_backward.cu are made of.
 *
 * Such a kernel gives each warp 16 M rows of one array for good (queries; or keys and values) and streams the rows of
 * another through shared memory. All its products are then of two kinds, A being the warp's rows and B the streamed:
 *     S = A B^T    multiply_transposed(): Q K^T, dO V^T; K Q^T, V dO^T
 *     O += P B     multiply_add():        P V, dS K;     P^T dO, dS^T Q
 * The tensor core leaves S in the registers where it wants the first factor P of the second kind, so P, made from S
 * element by element, never goes through memory (Dao 2023, FlashAttention-2). ptx.cuh describes these fragments; in a
 * lane's number 4 g + q, g is its row, q its pair of columns.
 *
 * Why 32 rows per warp: B comes from shared memory for each warp anew. With 16 rows the four processors of a
 * multiprocessor ask for 64 bytes of B per multiplication m16n8k16, which at 128 bytes a clock is as fast as
 * mma.sync consumes them on Hopper; with 32 rows they ask for half of that. */
#ifndef MARS_KERNELS_CUDA_ATTENTION_CUH
#define MARS_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

/* The sizes of a call; see backend.h. */
typedef struct AttentionSize {
    int B, T, C, NH;
    float scale;
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
 * A grid is (heads, blocks of rows, sequences) and starts in this order: of each sequence first the longest block of
 * every head, then the next longest. Blocks that read the same keys and values thus run at about the same time and find
 * them in the level 2 cache, and the blocks that end last are short ones. */

/* This block's head in an array of T rows, `pitch` elements apart, for each sequence. */
template <int HS, class Element> __device__ __forceinline__ Element *head_of_block(Element *array, int T, int pitch) {
    return array + (size_t)blockIdx.z * T * pitch + blockIdx.x * HS;
}

/* The same in an array (B,NH,n). */
template <class Element> __device__ __forceinline__ Element *head_of_block(Element *array, int n) {
    return array + ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * n;
}

/* ---- tiles: rows of one head in shared memory ---- */

constexpr int CHUNK = 8; /* elements in 16 bytes, which ldmatrix and cp.async move at a time */

/* Where a chunk of a row begins in a tile. Rows are multiples of 128 bytes long, so the same chunk of 8 rows would fall
 * on the same 4 of 32 banks: XOR with the row spreads them over all. Chunks stay within their row, so that copies of
 * whole rows have no conflicts either. */
template <int HS> __device__ __forceinline__ int place_in_tile(int row, int chunk) {
    return row * HS + (chunk ^ (row & 7)) * CHUNK;
}

/* Copies an array of rows tile by tile. Rows that the array does not have become 0. */
template <int ROWS, int HS, int THREADS> struct TileLoader {
    static constexpr int CHUNKS = HS / CHUNK, STEP = THREADS / CHUNKS;
    static_assert(THREADS % CHUNKS == 0 && STEP % 8 == 0 && ROWS % STEP == 0, "rows STEP apart have the same XOR");
    const bf16 *from; /* the calling thread's first chunk of the next tile */

    __device__ __forceinline__ TileLoader(const bf16 *array, int pitch) {
        from = array + (size_t)(threadIdx.x / CHUNKS) * pitch + threadIdx.x % CHUNKS * CHUNK;
    }
    /* Starts copying the next ROWS rows, of which there are `rows`. */
    __device__ __forceinline__ void load(bf16 *tile, int pitch, int rows) { copy(tile, nullptr, pitch, 0, rows); }
    /* The same for a second array, which lies `apart` elements behind the first. */
    __device__ __forceinline__ void load_pair(bf16 *tile, bf16 *second, int pitch, int apart, int rows) {
        copy(tile, second, pitch, apart, rows);
    }
    __device__ __forceinline__ void copy(bf16 *tile, bf16 *second, int pitch, int apart, int rows) {
        int row = threadIdx.x / CHUNKS, place = place_in_tile<HS>(row, threadIdx.x % CHUNKS);
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP) {
            cp_async_16_or_zero(tile + place + i * HS, from, row + i < rows);
            if (second) cp_async_16_or_zero(second + place + i * HS, from + apart, row + i < rows);
            from += (size_t)STEP * pitch;
        }
    }
};

/* ---- fragments; shared memory is given as its start and places in it, counted in elements ---- */

/* What ldmatrix_x4 makes of 16 rows and 16 columns depends on the order in which the lanes name its four pieces. In this
 * one: a first factor (16,16); transposed: two second factors (16,8), whose rows are the tile's rows. */
template <int HS> __device__ __forceinline__ int lane_by_rows(int tile) {
    int lane = threadIdx.x % WARP;
    return tile + place_in_tile<HS>(lane % 16, lane / 16);
}

/* In this one: two second factors (16,8), whose columns are the tile's rows. */
template <int HS> __device__ __forceinline__ int lane_by_columns(int tile) {
    int lane = threadIdx.x % WARP;
    return tile + place_in_tile<HS>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}

/* From what these return, the lane's place for rows from `row`, a multiple of 8, and columns from 16 k on. Tiles begin
 * at multiples of 64 elements, so that XOR acts on the chunk alone: one instruction, whatever the number of rows. */
template <int HS> __device__ __forceinline__ int fragment(int lane, int row, int k) {
    return (lane ^ 16 * k) + row * HS;
}

/* A warp's 16 M rows of a tile, from `row` on, as first factors. The first 16 KEPT columns stay in registers; where
 * there are too few of these, the others are read again at each use. */
template <int M, int HS, int KEPT> struct WarpRows {
    uint32_t kept[M][KEPT][4];
    const bf16 *shared;
    int lane, row;

    __device__ __forceinline__ WarpRows(const bf16 *shared, int tile, int row)
        : shared(shared), lane(lane_by_rows<HS>(tile)), row(row) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int k = 0; k < KEPT; k++) ldmatrix_x4(kept[m][k], shared + fragment<HS>(lane, row + 16 * m, k));
    }
    /* Rows from 16 m and columns from 16 k on. */
    __device__ __forceinline__ void get(uint32_t (&a)[4], int m, int k) const {
        if (k >= KEPT) return ldmatrix_x4(a, shared + fragment<HS>(lane, row + 16 * m, k));
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = kept[m][k][i];
    }
};

/* ---- products ---- */

template <int M, int N> __device__ __forceinline__ void set_zero(float (&x)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[m][n][i] = 0.0f;
}

/* s (16 M, 8 N) = A (16 M, HS) . B^T, B being the rows of a tile from `row` on. */
template <int M, int N, int HS, int KEPT>
__device__ __forceinline__ void multiply_transposed(float (&s)[M][N][4], const WarpRows<M, HS, KEPT> &rows,
                                                    const bf16 *shared, int tile, int row) {
    int lane = lane_by_columns<HS>(tile);
    set_zero(s);
#pragma unroll
    for (int k = 0; k < HS / 16; k++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) rows.get(a[m], m, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, shared + fragment<HS>(lane, row + 8 * n, k));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(s[m][n], a[m], {b[0], b[1]});
                mma_m16n8k16(s[m][n + 1], a[m], {b[2], b[3]});
            }
        }
    }
}

/* o (16 M, HS) += p (16 M, 16) . B, B being the 16 rows of a tile from `row` on. */
template <int M, int HS>
__device__ __forceinline__ void multiply_add(float (&o)[M][HS / 8][4], const uint32_t (&p)[M][4], const bf16 *shared,
                                             int tile, int row) {
    int lane = lane_by_rows<HS>(tile);
#pragma unroll
    for (int n = 0; n < HS / 8; n += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, shared + fragment<HS>(lane, row, n / 2));
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

/* 16 columns of s, rounded, as first factors. */
template <int M> __device__ __forceinline__ void round_scores(uint32_t (&p)[M][4], const float (&s)[M][2][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[m][i] = pack_pair(s[m][i / 2][i % 2 * 2], s[m][i / 2][i % 2 * 2 + 1]);
}

/* Makes scores -infinity where the key is behind the query. `ahead`: by how much the first key is. */
template <bool ROWS_ARE_KEYS, int M, int N>
__device__ __forceinline__ void mask_scores(float (&s)[M][N][4], int ahead) {
    int row = threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
    ahead += ROWS_ARE_KEYS ? row - column : column - row;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key_minus_query = 8 * n + i % 2 - (16 * m + i / 2 * 8);
                if (ahead + (ROWS_ARE_KEYS ? -key_minus_query : key_minus_query) > 0) s[m][n][i] = -INFINITY;
            }
}

/* Over the four lanes that hold a row. */
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

/* ---- results ---- */

/* Stores a warp's 16 M rows from `row` of its block on, those before `rows`, times `factor`. They go through the same rows
 * of a tile, which no other warp may be using, so that whole rows are written, 16 bytes a lane. */
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
