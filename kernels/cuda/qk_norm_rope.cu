/* qk_norm_rope.cu: QK-norm (Henry et al. 2020), which is RMSNorm without gain over each head's HS elements, and rotary
 * positions (Su et al. 2021), which rotate the pairs (i, i + HS/2), for queries and keys, in place; and the backward
 * pass of both. With the input x, r = 1/sqrt(mean(x^2) + eps), the rotation R and the stored output y = R r x, the
 * gradient g of y becomes
 *
 *     dx = r R^T (g - y mean(g y)),
 *
 * since R^T y is the normalised x and mean(g y) = mean(R^T g R^T y). Without QK-norm it is R^T g.
 *
 * Memory limits the speed. Bytes per element of queries and keys, 2/3 of qkv, with bf16 (twice as many in float):
 *
 *     forward     4     reads and writes qkv
 *     backward    6     reads qkv and dqkv, writes dqkv; 4 without QK-norm, since only QK-norm needs qkv
 *
 * rstd is small next to that. {cos, sin} are 4 HS bytes for each token, shared by its 2 NH rows: they are read from the
 * cache.
 *
 * A row is the HS elements of one head of a query or key. In a token's 3 C elements the 2 NH rows of queries and keys
 * lie one after the other, as do their values of rstd. A thread holds 16 bytes of the first half of a row and their
 * partners, 16 bytes of the second half: 8 or 4 pairs. The lanes for one row are rounded up to a power of 2: 4 for a
 * head of 64 in bf16, 8 for 128 in bf16 or 64 in float. So a warp has 8 or 4 rows, and sums take shuffles among the
 * lanes of one row only. Every row is read and written once.
 *
 * The same kernels take one pair at a time if halves of rows are not a whole number of packs, if rows need more than 32
 * lanes, or if they are not aligned. Then up to 32 lanes take turns along a row, and read it once more for its norm. */
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

constexpr int THREADS = 256;

/* The rows of queries and keys. `half` is the distance between partners. If HS is odd (only without rotation), it is
 * (HS + 1)/2, and the last element of the first half has no partner. */
struct HeadRows {
    int count;   /* B T 2 NH */
    int seq_len; /* T */
    int in_token, C, HS, half;
    int lanes; /* number that share a row: a power of 2 up to 32 */
};

/* A thread's pairs of one row: VEC pairs at first, first + step and so on, below `end`. */
struct Part {
    int row, token;
    size_t at; /* where the row begins in qkv */
    int first, step, end;
};

template <int VEC> static __device__ __forceinline__ Part part_of_thread(HeadRows rows) {
    Part part;
    part.row = (int)blockIdx.x * (THREADS / rows.lanes) + (int)threadIdx.x / rows.lanes;
    part.token = part.row / rows.in_token;
    part.at = (size_t)part.token * 3 * rows.C + part.row % rows.in_token * rows.HS;
    part.first = (int)threadIdx.x % rows.lanes * VEC, part.step = rows.lanes * VEC;
    part.end = part.row < rows.count ? rows.half : 0; /* lanes without a row also call the shuffles */
    return part;
}

/* The sum over the lanes that share a row, in each of them. */
static __device__ __forceinline__ float sum_over_row(float x, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

/* Elements i to i + VEC - 1 of a row, and their partners. */
template <int VEC> struct Pairs { float low[VEC], high[VEC]; };

/* Whether element i has a partner. */
template <int VEC> static __device__ __forceinline__ bool is_pair(HeadRows rows, int i) {
    return VEC > 1 || i + rows.half < rows.HS;
}

template <int VEC, class T>
static __device__ __forceinline__ Pairs<VEC> load_pairs(const T *row, int i, HeadRows rows) {
    Pack<T, VEC> low = load_pack<VEC>(row + i), high = {};
    if (is_pair<VEC>(rows, i)) high = load_pack<VEC>(row + i + rows.half);
    Pairs<VEC> pairs;
#pragma unroll
    for (int k = 0; k < VEC; k++) pairs.low[k] = to_float(low.x[k]), pairs.high[k] = to_float(high.x[k]);
    return pairs;
}

template <int VEC, class T>
static __device__ __forceinline__ void store_pairs(T *row, int i, HeadRows rows, const Pairs<VEC> &pairs) {
    Pack<T, VEC> low, high;
#pragma unroll
    for (int k = 0; k < VEC; k++) low.x[k] = from_float<T>(pairs.low[k]), high.x[k] = from_float<T>(pairs.high[k]);
    store_pack(row + i, low);
    if (is_pair<VEC>(rows, i)) store_pack(row + i + rows.half, high);
}

template <int VEC> static __device__ __forceinline__ float inner_product(const Pairs<VEC> &a, const Pairs<VEC> &b) {
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < VEC; k++) sum += a.low[k] * b.low[k] + a.high[k] * b.high[k];
    return sum;
}

/* Rotates pairs i to i + VEC - 1 of a row of token t by the angles in `rotation` (T,HS/2,2), or back if BACK. */
template <int VEC, bool BACK>
static __device__ __forceinline__ void turn(Pairs<VEC> &pairs, const float *rotation, int t, int i, HeadRows rows) {
    const float *from = rotation + ((size_t)t * rows.half + i) * 2;
    const Pack<float, VEC> angles[2] = {load_pack<VEC>(from), load_pack<VEC>(from + VEC)};
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float cosine = angles[2 * k / VEC].x[2 * k % VEC];
        const float sine = angles[(2 * k + 1) / VEC].x[(2 * k + 1) % VEC], s = BACK ? -sine : sine;
        const float low = pairs.low[k], high = pairs.high[k];
        pairs.low[k] = low * cosine + high * s;
        pairs.high[k] = high * cosine - low * s;
    }
}

/* With packs, the loops over a thread's part run at most once, and the pairs stay in registers between the loops. */
template <int VEC> constexpr bool HOLDS = VEC > 1;

/* rstd (B,T,2,NH), NULL without QK-norm; rotation (>=T,HS/2,2), NULL for none. */
template <class T, int VEC>
static __global__ void __launch_bounds__(THREADS)
    qk_norm_rope_forward_kernel(T *qkv, float *rstd, const float *rotation, float eps, HeadRows rows) {
    const Part part = part_of_thread<VEC>(rows);
    T *row = qkv + part.at;
    Pairs<VEC> x = {};
    if (HOLDS<VEC> && part.first < part.end) x = load_pairs<VEC>(row, part.first, rows);
    float factor = 1.0f;
    if (rstd) {
        float squares = 0.0f;
        for (int i = part.first; i < part.end; i += part.step) {
            if (!HOLDS<VEC>) x = load_pairs<VEC>(row, i, rows);
            squares += inner_product(x, x);
        }
        factor = rsqrtf(sum_over_row(squares, rows.lanes) / (float)rows.HS + eps);
        if (part.first == 0 && part.end > 0) rstd[part.row] = factor;
    }
    for (int i = part.first; i < part.end; i += part.step) {
        if (!HOLDS<VEC>) x = load_pairs<VEC>(row, i, rows);
#pragma unroll
        for (int k = 0; k < VEC; k++) x.low[k] *= factor, x.high[k] *= factor;
        if (rotation) turn<VEC, false>(x, rotation, part.token % rows.seq_len, i, rows);
        store_pairs(row, i, rows, x);
    }
}

/* rstd is NULL without QK-norm; qkv is not read then. */
template <class T, int VEC>
static __global__ void __launch_bounds__(THREADS)
    qk_norm_rope_backward_kernel(T *dqkv, const T *qkv, const float *rstd, const float *rotation, HeadRows rows) {
    const Part part = part_of_thread<VEC>(rows);
    T *drow = dqkv + part.at;
    const T *row = qkv + part.at;
    Pairs<VEC> g = {}, y = {};
    if (HOLDS<VEC> && part.first < part.end) {
        g = load_pairs<VEC>(drow, part.first, rows);
        if (rstd) y = load_pairs<VEC>(row, part.first, rows);
    }
    float factor = 1.0f, mean = 0.0f;
    if (rstd) {
        float sum = 0.0f;
        for (int i = part.first; i < part.end; i += part.step) {
            if (!HOLDS<VEC>) g = load_pairs<VEC>(drow, i, rows), y = load_pairs<VEC>(row, i, rows);
            sum += inner_product(g, y);
        }
        mean = sum_over_row(sum, rows.lanes) / (float)rows.HS;
        if (part.end > 0) factor = rstd[part.row];
    }
    for (int i = part.first; i < part.end; i += part.step) {
        if (!HOLDS<VEC>) {
            g = load_pairs<VEC>(drow, i, rows);
            if (rstd) y = load_pairs<VEC>(row, i, rows);
        }
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            g.low[k] = factor * (g.low[k] - y.low[k] * mean);
            g.high[k] = factor * (g.high[k] - y.high[k] * mean);
        }
        if (rotation) turn<VEC, true>(g, rotation, part.token % rows.seq_len, i, rows);
        store_pairs(drow, i, rows, g);
    }
}

/* ---- launches ---- */

static HeadRows head_rows(int B, int seq_len, int C, int NH, int vec) {
    HeadRows rows;
    rows.seq_len = seq_len;
    rows.in_token = 2 * NH;
    rows.count = B * seq_len * rows.in_token;
    rows.C = C, rows.HS = C / NH, rows.half = (rows.HS + 1) / 2;
    rows.lanes = 1;
    while (rows.lanes < WARP && rows.lanes * vec < rows.half) rows.lanes *= 2;
    return rows;
}

static unsigned blocks_for(HeadRows rows) { return (unsigned)ceil_div(rows.count, THREADS / rows.lanes); }

/* Whether the lanes of a row can hold all of it in packs. */
template <class T> static bool suits_packs(int C, int NH, const void *a, const void *b, const void *rotation) {
    const int HS = C / NH, pair_of_packs = 2 * Pack<T>::N;
    return HS % pair_of_packs == 0 && HS / pair_of_packs <= WARP && is_pack_aligned(a) && is_pack_aligned(b) &&
           is_pack_aligned(rotation);
}

template <class T>
static void qk_norm_rope_forward(Backend *be, void *qkv, float *rstd, const float *rotation, float eps, int B,
                                 int seq_len, int C, int NH) {
    constexpr int PACK = Pack<T>::N;
    const bool packs = suits_packs<T>(C, NH, qkv, NULL, rotation);
    const HeadRows rows = head_rows(B, seq_len, C, NH, packs ? PACK : 1);
    auto *kernel = packs ? qk_norm_rope_forward_kernel<T, PACK> : qk_norm_rope_forward_kernel<T, 1>;
    kernel<<<blocks_for(rows), THREADS, 0, cuda_stream(be)>>>((T *)qkv, rstd, rotation, eps, rows);
    cuda_check_launch("qk_norm_rope_forward_kernel");
}

template <class T>
static void qk_norm_rope_backward(Backend *be, void *dqkv, const void *qkv, const float *rstd, const float *rotation,
                                  int B, int seq_len, int C, int NH) {
    constexpr int PACK = Pack<T>::N;
    const bool packs = suits_packs<T>(C, NH, dqkv, qkv, rotation);
    const HeadRows rows = head_rows(B, seq_len, C, NH, packs ? PACK : 1);
    auto *kernel = packs ? qk_norm_rope_backward_kernel<T, PACK> : qk_norm_rope_backward_kernel<T, 1>;
    kernel<<<blocks_for(rows), THREADS, 0, cuda_stream(be)>>>((T *)dqkv, (const T *)qkv, rstd, rotation, rows);
    cuda_check_launch("qk_norm_rope_backward_kernel");
}

template <class T> static void enter(Backend *be) {
    be->qk_norm_rope_forward = qk_norm_rope_forward<T>;
    be->qk_norm_rope_backward = qk_norm_rope_backward<T>;
}

void cuda_enter_qk_norm_rope(Backend *be) {
    if (be->activation == DTYPE_BFLOAT16)
        enter<bf16>(be);
    else
        enter<float>(be);
}
