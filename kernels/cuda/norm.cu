/* norm.cu: LayerNorm (Ba, Kiros, Hinton 2016) and RMSNorm (Zhang, Sennrich 2019), alone and fused with the residual
 * addition before them, and their backward passes. With n = (x - mean) rstd and d = dout * weight,
 *
 *     out = n * weight + bias          dx += rstd (d - mean(d) - n mean(d n))
 *     dweight = sum over rows of dout * n,    dbias = sum over rows of dout
 *
 * RMSNorm has 0 in the place of mean and of mean(d), and computes neither. The kind, and whether there are weight and
 * bias, are template parameters of the kernels.
 *
 * Memory limits the speed. Bytes per element that cannot be avoided, with bf16 activations (twice as many in float):
 *
 *     forward             4     reads x, writes out
 *     residual + forward  8     reads x and delta, writes sum and out
 *     backward            8     reads dout, x and dx, writes dx
 *
 * weight, bias, mean and rstd are small next to that. To move only these bytes, a row must stay in registers between
 * the two passes over it, for the statistics and the result. Each thread holds one pack, 16 bytes, of each of a few
 * rows. A row has as many threads as packs: 96 for 768 channels of bf16, 200 for 1600. So long rows take no more
 * registers than short ones, each thread uses only one pack of weight and bias, and in the backward pass it can sum
 * dweight and dbias of its channels in registers over all its rows. With up to 72 registers a thread, a multiprocessor
 * can have 30 kB of loads in flight in the forward pass and 36 kB and more in the others. An H100's 3.35 TB/s at a
 * latency of some 0.7 us, shared by 132 multiprocessors, needs 18 kB.
 *
 * Rows that are not a multiple of 16 bytes, or longer than 448 packs, use the kernels at the end, which read a row
 * again for each pass over it, one element at a time. */
#include <assert.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

/* Threads of a block, and the largest number of packs of a row that is held in registers. A multiple of 224, which a
 * row of 1600 bf16 takes. Two such blocks on a multiprocessor leave each thread 72 registers. */
constexpr int MAX_THREADS = 448;

/* Rows that a thread of the forward pass holds at a time. */
constexpr int FORWARD_ROWS = 2;

/* ---- sums over a row ---- */

/* COUNT sums that are computed together, so that they share a barrier. */
template <int COUNT> struct Sums { float x[COUNT]; };

/* Memory for the sums of each warp of a block. */
template <int COUNT> using WarpSums = Sums<COUNT>[MAX_THREADS / WARP];

/* Adds up the sums of the `warps` warps from `first` on, in all their threads. All threads of the block must call it.
 * The next call must have another `of_warp`, since threads may read this one until the next barrier. */
template <int COUNT>
static __device__ __forceinline__ void sum_over_warps(Sums<COUNT> &sums, Sums<COUNT> *of_warp, int warp, int first,
                                                      int warps) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) sums.x[i] = warp_sum(sums.x[i]);
    if (threadIdx.x % WARP == 0) of_warp[warp] = sums;
    __syncthreads();
    sums = of_warp[first];
    for (int w = first + 1; w < first + warps; w++)
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums.x[i] += of_warp[w].x[i];
}

/* ---- forward ---- */

template <class T> static __device__ __forceinline__ Pack<T> sum_of(const Pack<T> &a, const Pack<T> &b) {
    Pack<T> sum;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) sum.x[i] = from_float<T>(to_float(a.x[i]) + to_float(b.x[i]));
    return sum;
}

template <class T> static __device__ __forceinline__ float total(const Pack<T> &x) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) sum += to_float(x.x[i]);
    return sum;
}

template <class T> static __device__ __forceinline__ float square_total(const Pack<T> &x, float mean) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) sum += (to_float(x.x[i]) - mean) * (to_float(x.x[i]) - mean);
    return sum;
}

template <bool WEIGHT, class T>
static __device__ __forceinline__ Pack<T> normalized(const Pack<T> &x, float mean, float rstd, const Pack<T> &weight,
                                                     const Pack<T> &bias) {
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) {
        float n = (to_float(x.x[i]) - mean) * rstd, w = WEIGHT ? to_float(weight.x[i]) : 1.0f;
        out.x[i] = from_float<T>(n * w + to_float(bias.x[i]));
    }
    return out;
}

/* A row is x, or x + delta rounded to T, which is stored to `sum`. `sum` may be x or delta: each thread stores only
 * what it has read. Mean and variance are computed one after the other from the row in registers, not from sums of x
 * and x^2, whose difference loses the variance if the mean is far from 0.
 *
 * Block b takes FORWARD_ROWS rows from b FORWARD_ROWS on; thread i takes pack i of each. Threads after the end of a
 * row, and rows after the last, count as zeros. */
template <class T, NormKind KIND, bool RESIDUAL, bool WEIGHT>
static __global__ void __launch_bounds__(MAX_THREADS, 2)
    forward_kernel(T *sum, T *out, float *mean_out, float *rstd_out, const T *x, const T *delta, const T *weight,
                   const T *bias, float eps, int N, int C) {
    __shared__ WarpSums<FORWARD_ROWS> of_warp[2];
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const int c = threadIdx.x * Pack<T>::N, first_row = blockIdx.x * FORWARD_ROWS;
    const float per_channel = 1.0f / (float)C;
    const bool in_row = c < C;
    const int rows = in_row ? min(FORWARD_ROWS, N - first_row) : 0; /* of this thread */
    const size_t at = (size_t)first_row * C + c;

    Pack<T> row[FORWARD_ROWS] = {}, added[FORWARD_ROWS] = {};
#pragma unroll
    for (int r = 0; r < FORWARD_ROWS; r++)
        if (r < rows) {
            row[r] = load_pack(x + at + (size_t)r * C);
            if (RESIDUAL) added[r] = load_pack(delta + at + (size_t)r * C);
        }
#pragma unroll
    for (int r = 0; r < FORWARD_ROWS; r++)
        if (RESIDUAL && r < rows) {
            row[r] = sum_of(row[r], added[r]);
            store_pack(sum + at + (size_t)r * C, row[r]);
        }

    Sums<FORWARD_ROWS> mean = {}, rstd;
    if (KIND == NORM_LAYERNORM) {
#pragma unroll
        for (int r = 0; r < FORWARD_ROWS; r++) mean.x[r] = total(row[r]);
        sum_over_warps(mean, of_warp[0], warp, 0, warps);
    }
#pragma unroll
    for (int r = 0; r < FORWARD_ROWS; r++) {
        mean.x[r] *= per_channel;
        rstd.x[r] = r < rows ? square_total(row[r], mean.x[r]) : 0.0f;
    }
    sum_over_warps(rstd, of_warp[1], warp, 0, warps);

    if (!in_row) return;
    Pack<T> w = {}, b = {};
    if (WEIGHT) w = load_pack(weight + c);
    if (bias) b = load_pack(bias + c);
#pragma unroll
    for (int r = 0; r < FORWARD_ROWS; r++)
        if (r < rows) {
            rstd.x[r] = rsqrtf(rstd.x[r] * per_channel + eps);
            store_pack(out + at + (size_t)r * C, normalized<WEIGHT>(row[r], mean.x[r], rstd.x[r], w, b));
            if (c == 0 && KIND == NORM_LAYERNORM) mean_out[first_row + r] = mean.x[r];
            if (c == 0) rstd_out[first_row + r] = rstd.x[r];
        }
}

/* ---- backward ---- */

/* Adds up `sum`, which has C elements over the threads of a team, over the teams of a block in order. The last team
 * stores the total to `to` (C). `so_far` (C) is shared memory, not used by a single team. All threads must call it. */
template <int VEC>
static __device__ __forceinline__ void store_sum_of_teams(float *to, float *so_far, Pack<float, VEC> sum, int c,
                                                          int C) {
    const int teams = blockDim.y;
    for (int team = 0; team < teams; team++) {
        if (team > 0) __syncthreads();
        if ((int)threadIdx.y != team || c >= C) continue;
        if (team > 0) {
            Pack<float, VEC> before = load_pack<VEC>(so_far + c);
#pragma unroll
            for (int i = 0; i < VEC; i++) sum.x[i] += before.x[i];
        }
        store_pack((team + 1 == teams ? to : so_far) + c, sum);
    }
}

/* A thread's part of a row, for the sums: zeros if there is no row, or if the thread is after its end. */
template <class T> struct BackwardRow {
    Pack<T> dout, x;
    float mean, rstd;
};

template <NormKind KIND, class T>
static __device__ __forceinline__ BackwardRow<T> load_row(const T *dout, const T *x, const float *mean,
                                                          const float *rstd, int row, int c, int N, int C) {
    BackwardRow<T> held = {};
    if (row >= N || c >= C) return held;
    const size_t at = (size_t)row * C + c;
    held.x = load_pack(x + at), held.dout = load_pack(dout + at);
    if (KIND == NORM_LAYERNORM) held.mean = mean[row];
    held.rstd = rstd[row];
    return held;
}

/* A block has blockDim.y teams of blockDim.x threads. A team takes one row at a time, and its thread i takes pack i.
 * The grid has no more blocks than run at once, and strides over the rows, so that there are few partial sums: each
 * block stores those of dweight (if WEIGHT) and dbias (if BIAS) in `parts` (blocks, WEIGHT + BIAS, C).
 *
 * Dynamic shared memory: 2 C floats if there are several teams. */
template <class T, NormKind KIND, bool WEIGHT, bool BIAS>
static __global__ void __launch_bounds__(MAX_THREADS, 2)
    backward_kernel(T *dx, float *parts, const T *dout, const T *x, const T *weight, const float *mean,
                    const float *rstd, int N, int C) {
    constexpr int VEC = Pack<T>::N;
    constexpr int SUMS = KIND == NORM_LAYERNORM ? 2 : 1, DN = SUMS - 1; /* of d and d n, or d n alone; DN: of d n */
    __shared__ WarpSums<SUMS> of_warp[2];
    extern __shared__ __align__(16) float of_teams[]; /* (2, C) */
    const int warps = blockDim.x / WARP, first_warp = threadIdx.y * warps, warp = first_warp + threadIdx.x / WARP;
    const int c = threadIdx.x * VEC;
    const float per_channel = 1.0f / (float)C;
    const bool in_row = c < C;

    Pack<T> w = {};
    if (WEIGHT && in_row) w = load_pack(weight + c);
    Pack<float, VEC> dweight = {}, dbias = {};

    const int stride = gridDim.x * blockDim.y;
    int row = blockIdx.x * blockDim.y + threadIdx.y, buffer = 0;
    for (int block_row = blockIdx.x * blockDim.y; block_row < N; block_row += stride, row += stride, buffer ^= 1) {
        const BackwardRow<T> now = load_row<KIND>(dout, x, mean, rstd, row, c, N, C);
        const bool active = in_row && row < N;
        const size_t at = (size_t)row * C + c;
        Pack<T> result = {};
        if (active) result = load_pack(dx + at);
        Sums<SUMS> means = {};
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float g = to_float(now.dout.x[i]), n = (to_float(now.x.x[i]) - now.mean) * now.rstd,
                  d = WEIGHT ? g * to_float(w.x[i]) : g;
            if (KIND == NORM_LAYERNORM) means.x[0] += d;
            means.x[DN] += d * n;
            if (WEIGHT) dweight.x[i] += g * n;
            if (BIAS) dbias.x[i] += g;
        }
        sum_over_warps(means, of_warp[buffer], warp, first_warp, warps);
        if (!active) continue;
        const float d_mean = KIND == NORM_LAYERNORM ? means.x[0] * per_channel : 0.0f;
        const float dn_mean = means.x[DN] * per_channel;
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float n = (to_float(now.x.x[i]) - now.mean) * now.rstd, g = to_float(now.dout.x[i]),
                  d = WEIGHT ? g * to_float(w.x[i]) : g;
            result.x[i] = from_float<T>(to_float(result.x[i]) + now.rstd * (d - d_mean - n * dn_mean));
        }
        store_pack(dx + at, result);
    }

    parts += (size_t)blockIdx.x * (WEIGHT + BIAS) * C;
    if (WEIGHT) store_sum_of_teams(parts, of_teams, dweight, c, C);
    if (BIAS) store_sum_of_teams(parts + (WEIGHT ? C : 0), of_teams + C, dbias, c, C);
}

/* ---- the sum of the parts ---- */

constexpr int ADD_WARPS = 16; /* of a block, which share the parts of WARP columns */

/* first (C) and second (C or NULL) = (accumulate ? themselves : 0) + the sum of parts (count, 1 or 2, C). */
static __global__ void __launch_bounds__(WARP *ADD_WARPS)
    add_parts_kernel(float *first, float *second, const float *parts, int count, int C, bool accumulate) {
    __shared__ float of_warp[ADD_WARPS][WARP];
    const int columns = second ? 2 * C : C, column = blockIdx.x * WARP + threadIdx.x;
    float sum = 0.0f;
    if (column < columns)
        for (int i = threadIdx.y; i < count; i += ADD_WARPS) sum += parts[(size_t)i * columns + column];
    of_warp[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int w = 1; w < ADD_WARPS; w++) sum += of_warp[w][threadIdx.x];
    float *to = column < C ? first + column : second + (column - C);
    *to = accumulate ? *to + sum : sum;
}

/* Computes dweight and dbias (C; one may be NULL) from `parts`, which has them in this order. */
static void add_parts(Backend *be, float *dweight, float *dbias, const float *parts, int count, int C,
                      bool accumulate) {
    float *first = dweight ? dweight : dbias, *second = dweight ? dbias : NULL;
    unsigned blocks = (unsigned)ceil_div((second ? 2 : 1) * (int64_t)C, WARP);
    add_parts_kernel<<<blocks, dim3(WARP, ADD_WARPS), 0, cuda_stream(be)>>>(first, second, parts, count, C, accumulate);
    cuda_check_launch("add_parts_kernel");
}

/* ---- rows of any length and alignment: a block for each row, which is read again for each pass over it ---- */

constexpr int ANY_THREADS = 256; /* at most */

/* Element c of an array; `none` if there is no array. */
template <class T> static __device__ __forceinline__ float element(const T *array, int c, float none) {
    return array ? to_float(array[c]) : none;
}

/* Each thread reads only those elements of `sum` that it has stored itself. */
template <class T, NormKind KIND, bool RESIDUAL>
static __global__ void __launch_bounds__(ANY_THREADS)
    forward_any_kernel(T *sum, T *out, float *mean_out, float *rstd_out, const T *x, const T *delta, const T *weight,
                       const T *bias, float eps, int C) {
    __shared__ WarpSums<1> of_warp[2];
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const size_t at = (size_t)blockIdx.x * C;
    if (RESIDUAL)
        for (int c = threadIdx.x; c < C; c += blockDim.x)
            sum[at + c] = from_float<T>(to_float(x[at + c]) + to_float(delta[at + c]));
    const T *row = (RESIDUAL ? sum : x) + at;
    Sums<1> sums = {};
    float mean = 0.0f;
    if (KIND == NORM_LAYERNORM) {
        for (int c = threadIdx.x; c < C; c += blockDim.x) sums.x[0] += to_float(row[c]);
        sum_over_warps(sums, of_warp[0], warp, 0, warps);
        mean = sums.x[0] / (float)C;
        sums.x[0] = 0.0f;
    }
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float centered = to_float(row[c]) - mean;
        sums.x[0] += centered * centered;
    }
    sum_over_warps(sums, of_warp[1], warp, 0, warps);
    const float rstd = rsqrtf(sums.x[0] / (float)C + eps);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float n = (to_float(row[c]) - mean) * rstd;
        out[at + c] = from_float<T>(n * element(weight, c, 1.0f) + element(bias, c, 0.0f));
    }
    if (threadIdx.x > 0) return;
    if (KIND == NORM_LAYERNORM) mean_out[blockIdx.x] = mean;
    rstd_out[blockIdx.x] = rstd;
}

/* Computes only dx. */
template <class T, NormKind KIND>
static __global__ void __launch_bounds__(ANY_THREADS)
    backward_any_kernel(T *dx, const T *dout, const T *x, const T *weight, const float *mean, const float *rstd,
                        int C) {
    __shared__ WarpSums<2> of_warp;
    const size_t at = (size_t)blockIdx.x * C;
    const float row_mean = KIND == NORM_LAYERNORM ? mean[blockIdx.x] : 0.0f, row_rstd = rstd[blockIdx.x];
    Sums<2> means = {};
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float d = to_float(dout[at + c]) * element(weight, c, 1.0f), n = (to_float(x[at + c]) - row_mean) * row_rstd;
        if (KIND == NORM_LAYERNORM) means.x[0] += d;
        means.x[1] += d * n;
    }
    sum_over_warps(means, of_warp, threadIdx.x / WARP, 0, blockDim.x / WARP);
    const float d_mean = means.x[0] / (float)C, dn_mean = means.x[1] / (float)C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float d = to_float(dout[at + c]) * element(weight, c, 1.0f), n = (to_float(x[at + c]) - row_mean) * row_rstd;
        dx[at + c] = from_float<T>(to_float(dx[at + c]) + row_rstd * (d - d_mean - n * dn_mean));
    }
}

/* parts (gridDim.y, 1 or 2, C): a thread sums one channel over every gridDim.y-th row. */
template <class T, NormKind KIND>
static __global__ void __launch_bounds__(ANY_THREADS)
    backward_any_parts_kernel(float *parts, const T *dout, const T *x, const float *mean, const float *rstd, int N,
                              int C, bool has_weight, bool has_bias) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float dweight = 0.0f, dbias = 0.0f;
    for (int row = blockIdx.y; row < N; row += gridDim.y) {
        const size_t at = (size_t)row * C + c;
        float g = to_float(dout[at]), row_mean = KIND == NORM_LAYERNORM ? mean[row] : 0.0f;
        dweight += g * (to_float(x[at]) - row_mean) * rstd[row];
        dbias += g;
    }
    parts += (size_t)blockIdx.y * (has_weight + has_bias) * C + c;
    if (has_weight) parts[0] = dweight;
    if (has_bias) parts[has_weight ? C : 0] = dbias;
}

/* ---- launches ---- */

/* Whether rows can be held in registers: they are not too long, and all arrays can be read and stored in packs. */
template <class T>
static bool holds_rows(int C, const void *a, const void *b, const void *c, const void *d, const void *e) {
    return C % Pack<T>::N == 0 && C / Pack<T>::N <= MAX_THREADS && is_pack_aligned(a) && is_pack_aligned(b) &&
           is_pack_aligned(c) && is_pack_aligned(d) && is_pack_aligned(e);
}

/* One thread for each pack, rounded up to whole warps. */
template <class T> static unsigned threads_of_row(int C) { return (unsigned)round_up(C / Pack<T>::N, WARP); }

static unsigned threads_of_any_row(int C) { return (unsigned)min_i64(round_up(C, WARP), ANY_THREADS); }

/* Returns the instance of forward_kernel. */
template <class T, bool RESIDUAL> static auto *forward_kernel_for(NormKind kind, bool weight) {
    if (kind == NORM_LAYERNORM)
        return weight ? forward_kernel<T, NORM_LAYERNORM, RESIDUAL, true>
                      : forward_kernel<T, NORM_LAYERNORM, RESIDUAL, false>;
    return weight ? forward_kernel<T, NORM_RMSNORM, RESIDUAL, true> : forward_kernel<T, NORM_RMSNORM, RESIDUAL, false>;
}

template <class T, NormKind KIND> static auto *backward_kernel_of_kind(bool weight, bool bias) {
    if (weight) return bias ? backward_kernel<T, KIND, true, true> : backward_kernel<T, KIND, true, false>;
    return bias ? backward_kernel<T, KIND, false, true> : backward_kernel<T, KIND, false, false>;
}

template <class T> static auto *backward_kernel_for(NormKind kind, bool weight, bool bias) {
    return kind == NORM_LAYERNORM ? backward_kernel_of_kind<T, NORM_LAYERNORM>(weight, bias)
                                  : backward_kernel_of_kind<T, NORM_RMSNORM>(weight, bias);
}

/* sum and delta are NULL without RESIDUAL. */
template <class T, bool RESIDUAL>
static void forward(Backend *be, const NormShape *norm, T *sum, T *out, float *mean, float *rstd, const T *x,
                    const T *delta, const T *weight, const T *bias) {
    const int N = norm->N, C = norm->C;
    if (holds_rows<T>(C, out, x, weight, bias, sum) && is_pack_aligned(delta)) {
        unsigned blocks = (unsigned)ceil_div(N, FORWARD_ROWS);
        auto *kernel = forward_kernel_for<T, RESIDUAL>(norm->kind, weight != NULL);
        kernel<<<blocks, threads_of_row<T>(C), 0, cuda_stream(be)>>>(sum, out, mean, rstd, x, delta, weight, bias,
                                                                     norm->eps, N, C);
    } else {
        auto *kernel = norm->kind == NORM_LAYERNORM ? forward_any_kernel<T, NORM_LAYERNORM, RESIDUAL>
                                                    : forward_any_kernel<T, NORM_RMSNORM, RESIDUAL>;
        kernel<<<(unsigned)N, threads_of_any_row(C), 0, cuda_stream(be)>>>(sum, out, mean, rstd, x, delta, weight, bias,
                                                                           norm->eps, C);
    }
    cuda_check_launch("norm, forward");
}

template <class T>
static void norm_forward(Backend *be, const NormShape *norm, void *out, float *mean, float *rstd, const void *x,
                         const void *weight, const void *bias) {
    forward<T, false>(be, norm, NULL, (T *)out, mean, rstd, (const T *)x, NULL, (const T *)weight, (const T *)bias);
}

template <class T>
static void residual_norm_forward(Backend *be, const NormShape *norm, void *sum, void *out, float *mean, float *rstd,
                                  const void *x, const void *delta, const void *weight, const void *bias) {
    forward<T, true>(be, norm, (T *)sum, (T *)out, mean, rstd, (const T *)x, (const T *)delta, (const T *)weight,
                     (const T *)bias);
}

/* Launches the kernels for rows of any length; parts (count, has_weight + has_bias, C), NULL if there are none. */
template <class T, NormKind KIND>
static void backward_any(Backend *be, T *dx, float *parts, int count, const T *dout, const T *x, const T *weight,
                         const float *mean, const float *rstd, int N, int C, bool has_weight, bool has_bias) {
    const unsigned threads = threads_of_any_row(C);
    if (parts) {
        const dim3 blocks((unsigned)ceil_div(C, threads), (unsigned)count);
        backward_any_parts_kernel<T, KIND>
            <<<blocks, threads, 0, cuda_stream(be)>>>(parts, dout, x, mean, rstd, N, C, has_weight, has_bias);
        cuda_check_launch("norm, gradients of its parameters");
    }
    backward_any_kernel<T, KIND><<<(unsigned)N, threads, 0, cuda_stream(be)>>>(dx, dout, x, weight, mean, rstd, C);
}

template <class T>
static void norm_backward(Backend *be, const NormShape *norm, void *dx, float *dweight, float *dbias, const void *dout,
                          const void *x, const void *weight, const float *mean, const float *rstd, bool accumulate) {
    assert((weight != NULL) == (dweight != NULL));
    const int N = norm->N, C = norm->C, parameters = (dweight != NULL) + (dbias != NULL);
    const int processors = cuda_backend(be)->processors;
    const size_t part_bytes = (size_t)parameters * C * sizeof(float);
    int count;
    float *parts = NULL; /* (count, parameters, C); NULL if there are none */
    if (holds_rows<T>(C, dx, dout, x, weight, NULL)) {
        unsigned width = threads_of_row<T>(C), teams = MAX_THREADS / width;
        unsigned blocks_on_processor = 2 * MAX_THREADS / (width * teams);
        count = (int)min_i64(ceil_div(N, teams), processors * blocks_on_processor);
        if (parameters > 0) parts = (float *)cuda_scratch(be, count * part_bytes);
        size_t shared = teams > 1 ? 2 * (size_t)C * sizeof(float) : 0;
        auto *kernel = backward_kernel_for<T>(norm->kind, dweight != NULL, dbias != NULL);
        kernel<<<(unsigned)count, dim3(width, teams), shared, cuda_stream(be)>>>(
            (T *)dx, parts, (const T *)dout, (const T *)x, (const T *)weight, mean, rstd, N, C);
    } else {
        count = (int)min_i64(N, processors);
        if (parameters > 0) parts = (float *)cuda_scratch(be, count * part_bytes);
        auto *launch = norm->kind == NORM_LAYERNORM ? backward_any<T, NORM_LAYERNORM> : backward_any<T, NORM_RMSNORM>;
        launch(be, (T *)dx, parts, count, (const T *)dout, (const T *)x, (const T *)weight, mean, rstd, N, C,
               dweight != NULL, dbias != NULL);
    }
    cuda_check_launch("norm, backward");
    if (parts) add_parts(be, dweight, dbias, parts, count, C, accumulate);
}

template <class T> static void enter(Backend *be) {
    be->norm_forward = norm_forward<T>;
    be->residual_norm_forward = residual_norm_forward<T>;
    be->norm_backward = norm_backward<T>;
}

void cuda_enter_norm(Backend *be) {
    if (be->activation == DTYPE_BFLOAT16)
        enter<bf16>(be);
    else
        enter<float>(be);
}
