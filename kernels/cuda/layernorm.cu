/* layernorm.cu: LayerNorm (Ba, Kiros, Hinton 2016), alone and fused with the residual addition before it, and its
 * backward pass. With n = (x - mean) rstd and d = dout * weight,
 *
 *     out = n * weight + bias          dx += rstd (d - mean(d) - n mean(d n))
 *     dweight = sum over rows of dout * n,    dbias = sum over rows of dout
 *
 * All of it is bound by memory. Bytes per element that cannot be avoided, with bf16 activations (twice that in float):
 *
 *     forward             4     reads x, writes out
 *     residual + forward  8     reads x and delta, writes sum and out
 *     backward            8     reads dout, x and dx, writes dx
 *
 * weight, bias, mean and rstd are small next to that. To move just those bytes a row must be held between the two passes
 * over it, the statistics and the result. A thread holds one pack, 16 bytes, of each of a few rows in registers, and as
 * many threads as a row has packs stand side by side: 96 for 768 channels of bf16, 200 for 1600. That takes no more
 * registers for long rows than for short ones, each thread meets only one pack of weight and bias, and in the backward
 * pass it can sum dweight and dbias of its channels in registers over all rows it sees. With up to 72 registers a
 * thread, a multiprocessor can have 30 kB of loads in flight in the forward pass and 36 kB and more in the others; an
 * H100's 3.35 TB/s at a latency of some 0.7 us, shared by 132 of them, asks for 18 kB.
 *
 * Rows that are not a multiple of 16 bytes, or longer than 448 packs, take the kernels at the end, which read a row
 * again for each pass over it, one element at a time. */
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

constexpr float EPS = 1e-5f;

/* Threads of a block: a multiple of the 224 that a row of 1600 bf16 takes, and as many packs as a row that is held in
 * registers can have. Two such blocks on a multiprocessor leave each thread 72 registers. */
constexpr int MAX_THREADS = 448;

/* Rows that a thread of the forward pass holds at a time. */
constexpr int FORWARD_ROWS = 2;

/* ---- sums over a row ---- */

/* COUNT sums that are taken side by side, and so share a barrier. */
template <int COUNT> struct Sums { float x[COUNT]; };

/* Where the sums of each warp of a block meet. */
template <int COUNT> using WarpSums = Sums<COUNT>[MAX_THREADS / WARP];

/* Adds up the sums of the `warps` warps from `first` on, in all their threads. All threads of the block call it; the
 * next call takes another `of_warp`, since threads may read this one until they come to the next barrier. */
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

template <class T>
static __device__ __forceinline__ Pack<T> normalized(const Pack<T> &x, float mean, float rstd, const Pack<T> &weight,
                                                     const Pack<T> &bias) {
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++)
        out.x[i] = from_float<T>((to_float(x.x[i]) - mean) * rstd * to_float(weight.x[i]) + to_float(bias.x[i]));
    return out;
}

/* A row is x, or x + delta rounded to T, which is stored to `sum` (x or delta itself perhaps: each thread stores only
 * where it has read). Mean and variance are taken one after the other from the row in registers, not from sums of x and
 * x^2, whose difference loses the variance of rows that lie far from 0.
 *
 * Block b takes FORWARD_ROWS rows from b FORWARD_ROWS on; thread i pack i of each. What has no row or is after its end
 * counts as zeros. */
template <class T, bool RESIDUAL>
static __global__ void __launch_bounds__(MAX_THREADS, 2)
    forward_kernel(T *sum, T *out, float *mean_out, float *rstd_out, const T *x, const T *delta, const T *weight,
                   const T *bias, int N, int C) {
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

    Sums<FORWARD_ROWS> mean, rstd;
#pragma unroll
    for (int r = 0; r < FORWARD_ROWS; r++) mean.x[r] = total(row[r]);
    sum_over_warps(mean, of_warp[0], warp, 0, warps);
#pragma unroll
    for (int r = 0; r < FORWARD_ROWS; r++) {
        mean.x[r] *= per_channel;
        rstd.x[r] = r < rows ? square_total(row[r], mean.x[r]) : 0.0f;
    }
    sum_over_warps(rstd, of_warp[1], warp, 0, warps);

    if (!in_row) return;
    Pack<T> w = load_pack(weight + c), b = {};
    if (bias) b = load_pack(bias + c);
#pragma unroll
    for (int r = 0; r < FORWARD_ROWS; r++)
        if (r < rows) {
            rstd.x[r] = rsqrtf(rstd.x[r] * per_channel + EPS);
            store_pack(out + at + (size_t)r * C, normalized(row[r], mean.x[r], rstd.x[r], w, b));
            if (c == 0) mean_out[first_row + r] = mean.x[r], rstd_out[first_row + r] = rstd.x[r];
        }
}

/* ---- backward ---- */

/* Adds up what the teams of a block have of `sum`, (C) over the threads of a team, one team after the other, and stores
 * the last one's total. `so_far` is shared memory (C); unused where there is one team. All threads call it. */
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

/* What a thread holds of a row for the sums: zeros where there is no row, or where the thread is after its end. */
template <class T> struct BackwardRow {
    Pack<T> dout, x;
    float mean, rstd;
};

template <class T>
static __device__ __forceinline__ BackwardRow<T> load_row(const T *dout, const T *x, const float *mean,
                                                          const float *rstd, int row, int c, int N, int C) {
    BackwardRow<T> held = {};
    if (row >= N || c >= C) return held;
    const size_t at = (size_t)row * C + c;
    held.x = load_pack(x + at), held.dout = load_pack(dout + at);
    held.mean = mean[row], held.rstd = rstd[row];
    return held;
}

/* A block has blockDim.y teams of blockDim.x threads; a team takes one row at a time, thread i of it pack i. The grid
 * is no larger than what runs at once, and strides over the rows: each block leaves a partial sum of dweight, and with
 * BIAS of dbias, in `parts` (blocks, 1 or 2, C), and these should be few next to the rows.
 *
 * Dynamic shared memory: 2 C floats where there are several teams. */
template <class T, bool BIAS>
static __global__ void __launch_bounds__(MAX_THREADS, 2)
    backward_kernel(T *dx, float *parts, const T *dout, const T *x, const T *weight, const float *mean,
                    const float *rstd, int N, int C) {
    __shared__ WarpSums<2> of_warp[2];
    extern __shared__ __align__(16) float of_teams[]; /* (2, C) */
    constexpr int VEC = Pack<T>::N;
    const int warps = blockDim.x / WARP, first_warp = threadIdx.y * warps, warp = first_warp + threadIdx.x / WARP;
    const int c = threadIdx.x * VEC;
    const float per_channel = 1.0f / (float)C;
    const bool in_row = c < C;

    Pack<T> w = {};
    if (in_row) w = load_pack(weight + c);
    Pack<float, VEC> dweight = {}, dbias = {};

    const int stride = gridDim.x * blockDim.y;
    int row = blockIdx.x * blockDim.y + threadIdx.y, buffer = 0;
    for (int block_row = blockIdx.x * blockDim.y; block_row < N; block_row += stride, row += stride, buffer ^= 1) {
        const BackwardRow<T> now = load_row(dout, x, mean, rstd, row, c, N, C);
        const bool active = in_row && row < N;
        const size_t at = (size_t)row * C + c;
        Pack<T> result = {};
        if (active) result = load_pack(dx + at);
        Sums<2> means = {};
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float g = to_float(now.dout.x[i]), n = (to_float(now.x.x[i]) - now.mean) * now.rstd,
                  d = g * to_float(w.x[i]);
            means.x[0] += d;
            means.x[1] += d * n;
            dweight.x[i] += g * n;
            if (BIAS) dbias.x[i] += g;
        }
        sum_over_warps(means, of_warp[buffer], warp, first_warp, warps);
        if (!active) continue;
        const float d_mean = means.x[0] * per_channel, dn_mean = means.x[1] * per_channel;
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float n = (to_float(now.x.x[i]) - now.mean) * now.rstd, d = to_float(now.dout.x[i]) * to_float(w.x[i]);
            result.x[i] = from_float<T>(to_float(result.x[i]) + now.rstd * (d - d_mean - n * dn_mean));
        }
        store_pack(dx + at, result);
    }

    parts += (size_t)blockIdx.x * (BIAS ? 2 : 1) * C;
    store_sum_of_teams(parts, of_teams, dweight, c, C);
    if (BIAS) store_sum_of_teams(parts + C, of_teams + C, dbias, c, C);
}

/* ---- the sum of the parts ---- */

constexpr int ADD_WARPS = 16; /* of a block, which share the parts of WARP columns */

/* dweight (C) and dbias (C or NULL) = themselves or zeros + the sum of parts (count, 1 or 2, C). */
static __global__ void __launch_bounds__(WARP *ADD_WARPS)
    add_parts_kernel(float *dweight, float *dbias, const float *parts, int count, int C, bool accumulate) {
    __shared__ float of_warp[ADD_WARPS][WARP];
    const int columns = dbias ? 2 * C : C, column = blockIdx.x * WARP + threadIdx.x;
    float sum = 0.0f;
    if (column < columns)
        for (int i = threadIdx.y; i < count; i += ADD_WARPS) sum += parts[(size_t)i * columns + column];
    of_warp[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int w = 1; w < ADD_WARPS; w++) sum += of_warp[w][threadIdx.x];
    float *to = column < C ? dweight + column : dbias + (column - C);
    *to = accumulate ? *to + sum : sum;
}

static void add_parts(Backend *be, float *dweight, float *dbias, const float *parts, int count, int C,
                      bool accumulate) {
    unsigned blocks = (unsigned)ceil_div((dbias ? 2 : 1) * (int64_t)C, WARP);
    add_parts_kernel<<<blocks, dim3(WARP, ADD_WARPS), 0, cuda_stream(be)>>>(dweight, dbias, parts, count, C,
                                                                            accumulate);
    cuda_check_launch("add_parts_kernel");
}

/* ---- rows of any length and alignment: a block for each row, which is read again for each pass over it ---- */

constexpr int ANY_THREADS = 256; /* at most */

/* Each thread reads of `sum` only what it has stored itself. */
template <class T, bool RESIDUAL>
static __global__ void __launch_bounds__(ANY_THREADS)
    forward_any_kernel(T *sum, T *out, float *mean_out, float *rstd_out, const T *x, const T *delta, const T *weight,
                       const T *bias, int C) {
    __shared__ WarpSums<1> of_warp[2];
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const size_t at = (size_t)blockIdx.x * C;
    if (RESIDUAL)
        for (int c = threadIdx.x; c < C; c += blockDim.x)
            sum[at + c] = from_float<T>(to_float(x[at + c]) + to_float(delta[at + c]));
    const T *row = (RESIDUAL ? sum : x) + at;
    Sums<1> sums = {};
    for (int c = threadIdx.x; c < C; c += blockDim.x) sums.x[0] += to_float(row[c]);
    sum_over_warps(sums, of_warp[0], warp, 0, warps);
    const float mean = sums.x[0] / (float)C;
    sums.x[0] = 0.0f;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float centered = to_float(row[c]) - mean;
        sums.x[0] += centered * centered;
    }
    sum_over_warps(sums, of_warp[1], warp, 0, warps);
    const float rstd = rsqrtf(sums.x[0] / (float)C + EPS);
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        out[at + c] =
            from_float<T>((to_float(row[c]) - mean) * rstd * to_float(weight[c]) + (bias ? to_float(bias[c]) : 0.0f));
    if (threadIdx.x == 0) mean_out[blockIdx.x] = mean, rstd_out[blockIdx.x] = rstd;
}

/* dx alone. */
template <class T>
static __global__ void __launch_bounds__(ANY_THREADS)
    backward_any_kernel(T *dx, const T *dout, const T *x, const T *weight, const float *mean, const float *rstd,
                        int C) {
    __shared__ WarpSums<2> of_warp;
    const size_t at = (size_t)blockIdx.x * C;
    const float row_mean = mean[blockIdx.x], row_rstd = rstd[blockIdx.x];
    Sums<2> means = {};
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float d = to_float(dout[at + c]) * to_float(weight[c]), n = (to_float(x[at + c]) - row_mean) * row_rstd;
        means.x[0] += d;
        means.x[1] += d * n;
    }
    sum_over_warps(means, of_warp, threadIdx.x / WARP, 0, blockDim.x / WARP);
    const float d_mean = means.x[0] / (float)C, dn_mean = means.x[1] / (float)C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float d = to_float(dout[at + c]) * to_float(weight[c]), n = (to_float(x[at + c]) - row_mean) * row_rstd;
        dx[at + c] = from_float<T>(to_float(dx[at + c]) + row_rstd * (d - d_mean - n * dn_mean));
    }
}

/* parts (gridDim.y, 1 or 2, C): a thread sums one channel over every gridDim.y-th row. */
template <class T>
static __global__ void __launch_bounds__(ANY_THREADS)
    backward_any_parts_kernel(float *parts, const T *dout, const T *x, const float *mean, const float *rstd, int N,
                              int C, bool has_bias) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float dweight = 0.0f, dbias = 0.0f;
    for (int row = blockIdx.y; row < N; row += gridDim.y) {
        const size_t at = (size_t)row * C + c;
        float g = to_float(dout[at]);
        dweight += g * (to_float(x[at]) - mean[row]) * rstd[row];
        dbias += g;
    }
    parts += (size_t)blockIdx.y * (has_bias ? 2 : 1) * C + c;
    parts[0] = dweight;
    if (has_bias) parts[C] = dbias;
}

/* ---- launches ---- */

/* Whether rows can be held in registers: all that they are read from and stored to allows packs. */
template <class T>
static bool holds_rows(int C, const void *a, const void *b, const void *c, const void *d, const void *e) {
    return C % Pack<T>::N == 0 && C / Pack<T>::N <= MAX_THREADS && is_pack_aligned(a) && is_pack_aligned(b) &&
           is_pack_aligned(c) && is_pack_aligned(d) && is_pack_aligned(e);
}

/* A thread for each pack, in whole warps. */
template <class T> static unsigned threads_of_row(int C) { return (unsigned)round_up(C / Pack<T>::N, WARP); }

static unsigned threads_of_any_row(int C) { return (unsigned)min_i64(round_up(C, WARP), ANY_THREADS); }

/* sum and delta are NULL where there is no residual. */
template <class T, bool RESIDUAL>
static void forward(Backend *be, T *sum, T *out, float *mean, float *rstd, const T *x, const T *delta, const T *weight,
                    const T *bias, int N, int C) {
    if (holds_rows<T>(C, out, x, weight, bias, sum) && is_pack_aligned(delta)) {
        unsigned blocks = (unsigned)ceil_div(N, FORWARD_ROWS);
        forward_kernel<T, RESIDUAL>
            <<<blocks, threads_of_row<T>(C), 0, cuda_stream(be)>>>(sum, out, mean, rstd, x, delta, weight, bias, N, C);
    } else
        forward_any_kernel<T, RESIDUAL><<<(unsigned)N, threads_of_any_row(C), 0, cuda_stream(be)>>>(
            sum, out, mean, rstd, x, delta, weight, bias, C);
    cuda_check_launch("LayerNorm, forward");
}

template <class T>
static void layernorm_forward(Backend *be, void *out, float *mean, float *rstd, const void *x, const void *weight,
                              const void *bias, int N, int C) {
    forward<T, false>(be, NULL, (T *)out, mean, rstd, (const T *)x, NULL, (const T *)weight, (const T *)bias, N, C);
}

template <class T>
static void residual_layernorm_forward(Backend *be, void *sum, void *out, float *mean, float *rstd, const void *x,
                                       const void *delta, const void *weight, const void *bias, int N, int C) {
    forward<T, true>(be, (T *)sum, (T *)out, mean, rstd, (const T *)x, (const T *)delta, (const T *)weight,
                     (const T *)bias, N, C);
}

template <class T>
static void layernorm_backward(Backend *be, void *dx, float *dweight, float *dbias, const void *dout, const void *x,
                               const void *weight, const float *mean, const float *rstd, int N, int C,
                               bool accumulate) {
    const size_t part_bytes = (size_t)(dbias ? 2 : 1) * C * sizeof(float);
    const int processors = cuda_backend(be)->processors;
    int count;
    float *parts;
    if (holds_rows<T>(C, dx, dout, x, weight, NULL)) {
        unsigned width = threads_of_row<T>(C), teams = MAX_THREADS / width;
        unsigned blocks_on_processor = 2 * MAX_THREADS / (width * teams);
        count = (int)min_i64(ceil_div(N, teams), processors * blocks_on_processor);
        parts = (float *)cuda_scratch(be, count * part_bytes);
        size_t shared = teams > 1 ? 2 * (size_t)C * sizeof(float) : 0;
        auto *kernel = dbias ? backward_kernel<T, true> : backward_kernel<T, false>;
        kernel<<<(unsigned)count, dim3(width, teams), shared, cuda_stream(be)>>>(
            (T *)dx, parts, (const T *)dout, (const T *)x, (const T *)weight, mean, rstd, N, C);
    } else {
        const unsigned threads = threads_of_any_row(C);
        count = (int)min_i64(N, processors);
        parts = (float *)cuda_scratch(be, count * part_bytes);
        const dim3 blocks((unsigned)ceil_div(C, threads), (unsigned)count);
        backward_any_parts_kernel<T><<<blocks, threads, 0, cuda_stream(be)>>>(parts, (const T *)dout, (const T *)x,
                                                                              mean, rstd, N, C, dbias != NULL);
        cuda_check_launch("LayerNorm, gradients of its parameters");
        backward_any_kernel<T><<<(unsigned)N, threads, 0, cuda_stream(be)>>>((T *)dx, (const T *)dout, (const T *)x,
                                                                             (const T *)weight, mean, rstd, C);
    }
    cuda_check_launch("LayerNorm, backward");
    add_parts(be, dweight, dbias, parts, count, C, accumulate);
}

template <class T> static void enter(Backend *be) {
    be->layernorm_forward = layernorm_forward<T>;
    be->residual_layernorm_forward = residual_layernorm_forward<T>;
    be->layernorm_backward = layernorm_backward<T>;
}

void cuda_enter_layernorm(Backend *be) {
    if (be->activation == DTYPE_BFLOAT16)
        enter<bf16>(be);
    else
        enter<float>(be);
}
