/* attention_plain.cu: causal attention for any head size and alignment, float32 or bfloat16, without tensor cores; and
 * attention for one new token. The algorithm is that of FlashAttention (Dao et al. 2022), with the kernels of
 * attention_forward.cu and attention_backward.cu: a block of threads has 64 rows (queries, or keys and values), and
 * takes the other rows in tiles of 64.
 *
 * Matmuls are float32 multiply-adds, whose number limits the speed. Each of 256 threads keeps a 4 x 4 piece of a 64 x
 * 64 matmul in registers, so that 16 multiply-adds take 5 loads from shared memory, which holds slices of 16 columns of
 * the factors. A block computes at most 64 columns of a result. A larger head takes several blocks, each of which
 * computes the scores again; so registers and the 48 KB of shared memory suffice for any head size. */
#include <math.h>

#include "kernels/cuda/attention.cuh"

constexpr int TILE = 64, SIDE = 16, PER_THREAD = TILE / SIDE; /* 16 x 16 threads, 4 x 4 elements each */
constexpr int PLAIN_THREADS = SIDE * SIDE;
constexpr int SLICE = 16;
constexpr int PITCH = TILE + 4; /* of tiles in shared memory: a multiple of 16 bytes, but not of 32 banks */

/* A thread's piece of a tile: rows 4 y to 4 y + 3, columns x, x + 16, x + 32, x + 48. */
typedef float Piece[PER_THREAD][PER_THREAD];
__device__ __forceinline__ int piece_x() { return threadIdx.x % SIDE; }
__device__ __forceinline__ int piece_row(int i) { return threadIdx.x / SIDE * PER_THREAD + i; }
__device__ __forceinline__ int piece_column(int j) { return piece_x() + SIDE * j; }

__device__ __forceinline__ void set_zero(Piece &piece) {
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++)
#pragma unroll
        for (int j = 0; j < PER_THREAD; j++) piece[i][j] = 0.0f;
}

/* The rows of one head from one row on. Functions use up to 64 of them. */
template <class T> struct Rows {
    const T *first;
    int count; /* rows that exist; the others count as 0 */
    size_t pitch;
};

/* piece += sum over k of a[k][row] b[k][column], for a slice. */
__device__ __forceinline__ void multiply_slice(Piece &piece, const float (*a)[PITCH], const float (*b)[PITCH]) {
#pragma unroll
    for (int k = 0; k < SLICE; k++) {
        float4 left = *reinterpret_cast<const float4 *>(&a[k][piece_row(0)]);
        float of_row[PER_THREAD] = {left.x, left.y, left.z, left.w};
#pragma unroll
        for (int j = 0; j < PER_THREAD; j++) {
            float right = b[k][piece_column(j)];
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) piece[i][j] = fmaf(of_row[i], right, piece[i][j]);
        }
    }
}

/* Loads columns [from, from + 16) of the rows, transposed. */
template <class T> __device__ __forceinline__ void load_columns(float (*slice)[PITCH], Rows<T> rows, int from, int HS) {
    for (int i = threadIdx.x; i < TILE * SLICE; i += PLAIN_THREADS) {
        int row = i / SLICE, c = i % SLICE;
        bool exists = row < rows.count && from + c < HS;
        slice[c][row] = exists ? to_float(rows.first[row * rows.pitch + from + c]) : 0.0f;
    }
}

/* piece = A . B^T over all HS columns. */
template <class T> __device__ __forceinline__ void multiply_transposed(Piece &piece, Rows<T> a, Rows<T> b, int HS) {
    __shared__ __align__(16) float a_slice[SLICE][PITCH];
    __shared__ __align__(16) float b_slice[SLICE][PITCH];
    set_zero(piece);
    for (int from = 0; from < HS; from += SLICE) {
        __syncthreads();
        load_columns(a_slice, a, from, HS);
        load_columns(b_slice, b, from, HS);
        __syncthreads();
        multiply_slice(piece, a_slice, b_slice);
    }
}

/* piece += columns [column, column + 64) of W^T . B. W is stored (row of B, row of the piece). */
template <class T>
__device__ __forceinline__ void multiply_add(Piece &piece, const float (*weights)[PITCH], Rows<T> b, int column,
                                             int HS) {
    __shared__ float slice[SLICE][PITCH];
    for (int from = 0; from < TILE; from += SLICE) {
        __syncthreads();
        for (int i = threadIdx.x; i < SLICE * TILE; i += PLAIN_THREADS) {
            int row = from + i / TILE, c = column + i % TILE;
            bool exists = row < b.count && c < HS;
            slice[i / TILE][i % TILE] = exists ? to_float(b.first[row * b.pitch + c]) : 0.0f;
        }
        __syncthreads();
        multiply_slice(piece, weights + from, slice);
    }
}

/* Stores the piece as weights for multiply_add(). No thread still reads the weights of the previous tile: all have
 * passed the barriers of multiply_transposed() since then. */
__device__ __forceinline__ void store_weights(float (*weights)[PITCH], const Piece &piece) {
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++)
        *reinterpret_cast<float4 *>(&weights[piece_column(j)][piece_row(0)]) =
            make_float4(piece[0][j], piece[1][j], piece[2][j], piece[3][j]);
}

/* to[row][column + c] = piece times `factor`, for the rows and columns that exist. */
template <class T>
__device__ __forceinline__ void store_piece(T *to, size_t pitch, int rows, int column, int HS, const Piece &piece,
                                            float factor) {
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++)
#pragma unroll
        for (int j = 0; j < PER_THREAD; j++) {
            int c = column + piece_column(j);
            if (piece_row(i) < rows && c < HS) to[piece_row(i) * pitch + c] = from_float<T>(piece[i][j] * factor);
        }
}

/* Maximum and sum over the 16 threads that share rows. */
__device__ __forceinline__ float shared_row_max(float x) {
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

__device__ __forceinline__ float shared_row_sum(float x) {
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

/* What a block of a grid (NH x parts of 64 columns, blocks of 64 rows, B) computes. */
struct HeadPart {
    int HS, head, column; /* column: the first one of the result, within the head */
    size_t token, lse;    /* where the sequence begins in rows of qkv, and the head in lse */
};

__device__ __forceinline__ HeadPart part_of_block(AttentionSize size) {
    HeadPart part;
    part.HS = size.C / size.NH;
    int parts = gridDim.x / size.NH;
    part.head = blockIdx.x / parts;
    part.column = blockIdx.x % parts * TILE;
    part.token = (size_t)blockIdx.z * size.T;
    part.lse = ((size_t)blockIdx.z * size.NH + part.head) * size.T;
    return part;
}

/* Rows [first, first + 64) of query, key or value (which = 0, 1, 2), or of an array (B,T,C). */
template <class T>
__device__ __forceinline__ Rows<T> rows_of_qkv(const T *qkv, int which, int first, HeadPart part, AttentionSize size) {
    size_t pitch = 3 * (size_t)size.C;
    return {qkv + (part.token + first) * pitch + which * size.C + part.head * part.HS, size.T - first, pitch};
}

template <class T>
__device__ __forceinline__ Rows<T> rows_of(const T *array, int first, HeadPart part, AttentionSize size) {
    size_t pitch = size.C;
    return {array + (part.token + first) * pitch + part.head * part.HS, size.T - first, pitch};
}

/* ---- dropout: bit 4 i + j says whether element i, j of a piece is kept ---- */

/* Rows are the queries from `query` on, columns the keys from `key` on. Four threads share calls of Philox. */
__device__ __forceinline__ uint32_t kept_of_queries(const HeadDropout &dropout, int query, int key) {
    uint32_t bits = 0;
    int x = piece_x();
#pragma unroll 1
    for (int i = 0; i < PER_THREAD; i++)
        bits |= dropout.kept(query + piece_row(i), key + x / 4 * 4 + SIDE * (x % 4)) << 4 * i;
    return transpose_bits<1>(bits);
}

/* Rows are the keys from `key` on, columns the queries from `query` on. */
__device__ __forceinline__ uint32_t kept_of_keys(const HeadDropout &dropout, int query, int key) {
    uint32_t kept = 0;
#pragma unroll 1
    for (int j = 0; j < PER_THREAD; j++) {
        uint32_t bits = dropout.kept(query + piece_column(j), key + piece_row(0));
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) kept |= (bits >> i & 1) << (4 * i + j);
    }
    return kept;
}

__device__ __forceinline__ float drop_or_scale(const HeadDropout &dropout, uint32_t kept, int i, int j, float x) {
    return kept >> (4 * i + j) & 1 ? x * dropout.scale : 0.0f;
}

/* ---- forward ---- */

template <class T, bool HAS_DROPOUT>
__global__ void __launch_bounds__(PLAIN_THREADS)
    attention_forward_plain_kernel(T *out, float *lse, const T *qkv, AttentionSize size) {
    __shared__ __align__(16) float weights[TILE][PITCH];
    HeadPart part = part_of_block(size);
    int first = (gridDim.y - 1 - blockIdx.y) * TILE;
    Rows<T> queries = rows_of_qkv(qkv, 0, first, part, size);
    float maximum[PER_THREAD], sum[PER_THREAD];
    Piece o;
    set_zero(o);
    for (int i = 0; i < PER_THREAD; i++) maximum[i] = -INFINITY, sum[i] = 0.0f;
    const HeadDropout dropout = head_dropout(size.dropout, part.head);
    for (int key = 0; key <= first; key += TILE) {
        uint32_t kept = HAS_DROPOUT ? kept_of_queries(dropout, first, key) : 0;
        Piece s;
        multiply_transposed(s, queries, rows_of_qkv(qkv, 1, key, part, size), part.HS);
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            float largest = maximum[i], added = 0.0f;
#pragma unroll
            for (int j = 0; j < PER_THREAD; j++) {
                bool visible = key + piece_column(j) <= first + piece_row(i);
                s[i][j] = visible ? s[i][j] * size.scale : -INFINITY;
                largest = fmaxf(largest, s[i][j]);
            }
            largest = shared_row_max(largest);
            float factor = expf(maximum[i] - largest);
            maximum[i] = largest;
#pragma unroll
            for (int j = 0; j < PER_THREAD; j++) {
                s[i][j] = expf(s[i][j] - largest);
                added += s[i][j];
                if (HAS_DROPOUT) s[i][j] = drop_or_scale(dropout, kept, i, j, s[i][j]);
                o[i][j] *= factor;
            }
            sum[i] = sum[i] * factor + shared_row_sum(added);
        }
        store_weights(weights, s);
        multiply_add(o, weights, rows_of_qkv(qkv, 2, key, part, size), part.column, part.HS);
    }
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        int t = first + piece_row(i);
        if (part.column == 0 && piece_x() == 0 && t < size.T) lse[part.lse + t] = maximum[i] + logf(sum[i]);
        for (int j = 0; j < PER_THREAD; j++) o[i][j] /= sum[i];
    }
    T *to = out + (part.token + first) * size.C + part.head * part.HS;
    store_piece(to, size.C, size.T - first, part.column, part.HS, o, 1.0f);
}

static dim3 plain_grid(AttentionSize size) {
    int64_t parts = ceil_div(size.C / size.NH, TILE);
    return dim3((unsigned)(size.NH * parts), (unsigned)ceil_div(size.T, TILE), (unsigned)size.B);
}

template <class T, bool HAS_DROPOUT>
static void forward(Backend *be, T *out, float *lse, const T *qkv, AttentionSize size) {
    attention_forward_plain_kernel<T, HAS_DROPOUT>
        <<<plain_grid(size), PLAIN_THREADS, 0, cuda_stream(be)>>>(out, lse, qkv, size);
    cuda_check_launch("attention_forward_plain_kernel");
}

template <class T> void attention_forward_plain(Backend *be, T *out, float *lse, const T *qkv, AttentionSize size) {
    (size.dropout.rate > 0.0f ? forward<T, true> : forward<T, false>)(be, out, lse, qkv, size);
}

/* ---- backward; the formulas are in attention_backward.cu ---- */

constexpr int DELTA_WARPS = 8;

/* delta (B,NH,T) = <dout, out>; each element by one warp. */
template <class T>
__global__ void __launch_bounds__(DELTA_WARPS *WARP)
    attention_delta_kernel(float *delta, const T *dout, const T *out, AttentionSize size) {
    int HS = size.C / size.NH, lane = threadIdx.x % WARP;
    size_t at = (size_t)blockIdx.x * DELTA_WARPS + threadIdx.x / WARP, rows = (size_t)size.B * size.NH * size.T;
    if (at >= rows) return;
    size_t head = at / size.T, token = head / size.NH * size.T + at % size.T;
    size_t row = token * size.C + head % size.NH * HS;
    float sum = 0.0f;
    for (int c = lane; c < HS; c += WARP) sum += to_float(dout[row + c]) * to_float(out[row + c]);
    sum = warp_sum(sum);
    if (lane == 0) delta[at] = sum;
}

template <class T, bool HAS_DROPOUT>
__global__ void __launch_bounds__(PLAIN_THREADS)
    attention_dquery_plain_kernel(T *dqkv, const T *dout, const T *qkv, const float *lse, const float *delta,
                                  AttentionSize size) {
    __shared__ __align__(16) float weights[TILE][PITCH];
    HeadPart part = part_of_block(size);
    int first = (gridDim.y - 1 - blockIdx.y) * TILE;
    Rows<T> queries = rows_of_qkv(qkv, 0, first, part, size), douts = rows_of(dout, first, part, size);
    float of_query[PER_THREAD], less[PER_THREAD];
    Piece dquery;
    set_zero(dquery);
    for (int i = 0; i < PER_THREAD; i++) {
        int t = first + piece_row(i);
        of_query[i] = t < size.T ? lse[part.lse + t] : INFINITY;
        less[i] = t < size.T ? delta[part.lse + t] : 0.0f;
    }
    const HeadDropout dropout = head_dropout(size.dropout, part.head);
    for (int key = 0; key <= first; key += TILE) {
        uint32_t kept = HAS_DROPOUT ? kept_of_queries(dropout, first, key) : 0;
        Piece s, dp;
        Rows<T> keys = rows_of_qkv(qkv, 1, key, part, size);
        multiply_transposed(s, queries, keys, part.HS);
        multiply_transposed(dp, douts, rows_of_qkv(qkv, 2, key, part, size), part.HS);
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++)
#pragma unroll
            for (int j = 0; j < PER_THREAD; j++) {
                bool visible = key + piece_column(j) <= first + piece_row(i);
                float p = visible ? expf(s[i][j] * size.scale - of_query[i]) : 0.0f;
                if (HAS_DROPOUT) dp[i][j] = drop_or_scale(dropout, kept, i, j, dp[i][j]);
                s[i][j] = p * (dp[i][j] - less[i]);
            }
        store_weights(weights, s);
        multiply_add(dquery, weights, keys, part.column, part.HS);
    }
    size_t pitch = 3 * (size_t)size.C;
    T *to = dqkv + (part.token + first) * pitch + part.head * part.HS;
    store_piece(to, pitch, size.T - first, part.column, part.HS, dquery, size.scale);
}

template <class T, bool HAS_DROPOUT>
__global__ void __launch_bounds__(PLAIN_THREADS)
    attention_dkey_dvalue_plain_kernel(T *dqkv, const T *dout, const T *qkv, const float *lse, const float *delta,
                                       AttentionSize size) {
    __shared__ __align__(16) float p_weights[TILE][PITCH];
    __shared__ __align__(16) float ds_weights[TILE][PITCH];
    HeadPart part = part_of_block(size);
    int first = blockIdx.y * TILE;
    Rows<T> keys = rows_of_qkv(qkv, 1, first, part, size), values = rows_of_qkv(qkv, 2, first, part, size);
    Piece dkey, dvalue;
    set_zero(dkey);
    set_zero(dvalue);
    const HeadDropout dropout = head_dropout(size.dropout, part.head);
    for (int query = first; query < size.T; query += TILE) {
        uint32_t kept = HAS_DROPOUT ? kept_of_keys(dropout, query, first) : 0;
        Piece s, dp;
        Rows<T> queries = rows_of_qkv(qkv, 0, query, part, size), douts = rows_of(dout, query, part, size);
        multiply_transposed(s, keys, queries, part.HS);
        multiply_transposed(dp, values, douts, part.HS);
#pragma unroll
        for (int j = 0; j < PER_THREAD; j++) {
            int t = query + piece_column(j);
            float of_query = t < size.T ? lse[part.lse + t] : INFINITY, less = t < size.T ? delta[part.lse + t] : 0.0f;
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
                bool visible = first + piece_row(i) <= t;
                s[i][j] = visible ? expf(s[i][j] * size.scale - of_query) : 0.0f;
                if (HAS_DROPOUT) dp[i][j] = drop_or_scale(dropout, kept, i, j, dp[i][j]);
                dp[i][j] = s[i][j] * (dp[i][j] - less);
                if (HAS_DROPOUT) s[i][j] = drop_or_scale(dropout, kept, i, j, s[i][j]);
            }
        }
        store_weights(p_weights, s);
        store_weights(ds_weights, dp);
        multiply_add(dvalue, p_weights, douts, part.column, part.HS);
        multiply_add(dkey, ds_weights, queries, part.column, part.HS);
    }
    size_t pitch = 3 * (size_t)size.C;
    T *to = dqkv + (part.token + first) * pitch + size.C + part.head * part.HS;
    store_piece(to, pitch, size.T - first, part.column, part.HS, dkey, size.scale);
    store_piece(to + size.C, pitch, size.T - first, part.column, part.HS, dvalue, 1.0f);
}

template <class T, bool HAS_DROPOUT>
static void backward(Backend *be, T *dqkv, const T *dout, const T *qkv, const T *out, const float *lse,
                     AttentionSize size) {
    size_t rows = (size_t)size.B * size.NH * size.T;
    float *delta = (float *)cuda_scratch(be, rows * sizeof *delta);
    cudaStream_t stream = cuda_stream(be);
    unsigned blocks = (unsigned)ceil_div((int64_t)rows, DELTA_WARPS);
    attention_delta_kernel<T><<<blocks, DELTA_WARPS * WARP, 0, stream>>>(delta, dout, out, size);
    cuda_check_launch("attention_delta_kernel");
    dim3 grid = plain_grid(size);
    attention_dquery_plain_kernel<T, HAS_DROPOUT>
        <<<grid, PLAIN_THREADS, 0, stream>>>(dqkv, dout, qkv, lse, delta, size);
    cuda_check_launch("attention_dquery_plain_kernel");
    attention_dkey_dvalue_plain_kernel<T, HAS_DROPOUT>
        <<<grid, PLAIN_THREADS, 0, stream>>>(dqkv, dout, qkv, lse, delta, size);
    cuda_check_launch("attention_dkey_dvalue_plain_kernel");
}

template <class T>
void attention_backward_plain(Backend *be, T *dqkv, const T *dout, const T *qkv, const T *out, const float *lse,
                              AttentionSize size) {
    (size.dropout.rate > 0.0f ? backward<T, true> : backward<T, false>)(be, dqkv, dout, qkv, out, lse, size);
}

/* ---- one new token ---- */

constexpr int DECODE_WARPS = 8, DECODE_THREADS = DECODE_WARPS * WARP;

/* Grid (NH, B). Nearly all of the time is for reading keys and values once. scores (B,NH,capacity): working memory. */
template <class T>
__global__ void __launch_bounds__(DECODE_THREADS)
    attention_decode_kernel(T *out, T *keys, T *values, float *scores, const T *qkv, int position, int capacity,
                            AttentionSize size) {
    __shared__ float of_warp[DECODE_WARPS][WARP];
    int HS = size.C / size.NH, C = size.C, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    size_t column = (size_t)blockIdx.x * HS, cache = (size_t)blockIdx.y * capacity * C + column;
    const T *query = qkv + (size_t)blockIdx.y * 3 * C + column;
    keys += cache, values += cache;
    scores += ((size_t)blockIdx.y * size.NH + blockIdx.x) * capacity;
    for (int c = threadIdx.x; c < HS; c += DECODE_THREADS) {
        keys[(size_t)position * C + c] = query[C + c];
        values[(size_t)position * C + c] = query[2 * C + c];
    }
    __syncthreads();

    float largest = -INFINITY, sum = 0.0f;
    for (int t = warp; t <= position; t += DECODE_WARPS) {
        float dot = 0.0f;
        for (int c = lane; c < HS; c += WARP) dot += to_float(query[c]) * to_float(keys[(size_t)t * C + c]);
        dot = warp_sum(dot) * size.scale;
        if (lane == 0) scores[t] = dot;
        largest = fmaxf(largest, dot);
    }
    largest = block_max<DECODE_THREADS>(largest);
    for (int t = threadIdx.x; t <= position; t += DECODE_THREADS) {
        scores[t] = expf(scores[t] - largest);
        sum += scores[t];
    }
    sum = block_sum<DECODE_THREADS>(sum);

    for (int first = 0; first < HS; first += WARP) {
        int c = first + lane;
        float o = 0.0f;
        if (c < HS)
            for (int t = warp; t <= position; t += DECODE_WARPS) o += scores[t] * to_float(values[(size_t)t * C + c]);
        of_warp[warp][lane] = o;
        __syncthreads();
        if (warp == 0 && c < HS) {
            for (int w = 1; w < DECODE_WARPS; w++) o += of_warp[w][lane];
            out[(size_t)blockIdx.y * C + column + c] = from_float<T>(o / sum);
        }
        __syncthreads();
    }
}

template <class T>
void attention_decode_plain(Backend *be, T *out, T *keys, T *values, const T *qkv, int position, int capacity,
                            AttentionSize size) {
    size_t count = (size_t)size.B * size.NH * capacity; /* full capacity at once: growing takes time */
    float *scores = (float *)cuda_scratch(be, count * sizeof *scores);
    dim3 grid((unsigned)size.NH, (unsigned)size.B);
    attention_decode_kernel<T>
        <<<grid, DECODE_THREADS, 0, cuda_stream(be)>>>(out, keys, values, scores, qkv, position, capacity, size);
    cuda_check_launch("attention_decode_kernel");
}

template void attention_forward_plain<float>(Backend *, float *, float *, const float *, AttentionSize);
template void attention_forward_plain<bf16>(Backend *, bf16 *, float *, const bf16 *, AttentionSize);
template void attention_backward_plain<float>(Backend *, float *, const float *, const float *, const float *,
                                              const float *, AttentionSize);
template void attention_backward_plain<bf16>(Backend *, bf16 *, const bf16 *, const bf16 *, const bf16 *, const float *,
                                             AttentionSize);
template void attention_decode_plain<float>(Backend *, float *, float *, float *, const float *, int, int,
                                            AttentionSize);
template void attention_decode_plain<bf16>(Backend *, bf16 *, bf16 *, bf16 *, const bf16 *, int, int, AttentionSize);
