/* loss.cu: softmax, cross-entropy and its gradient, fused over a row of logits, and the sum of the losses.
 *
 * With m = max x, s = sum exp(x - m) over the first V of VP columns and p = exp(x - m)/s, the loss is log s - (x_t - m)
 * for the target t, and logits become dloss (p - onehot(t)), columns V.. zero.
 *
 * Bound by memory: with bf16 logits each element must be read once and written once, 4 bytes (8 in float). A row is
 * needed twice, for m and s and then for the gradient. One block works on one row, 50304 logits being 100 kB, and few
 * rows are in work at a time: 2 on each multiprocessor, 26 MB on 132 of them. So the second reading finds the row in
 * the second-level cache, and much of it in the first. It goes backwards, since what was read last is still nearest.
 * m and s come out of one pass (online softmax: Milakov, Gimelshein 2018): whenever the largest number so far grows, the
 * sum so far shrinks to fit.
 *
 * Accuracy: x - m is exact or nearly so, and __expf is then off by about 2^-22 + 2^-24 |x - m| relative. Taking exp(x - m)/s
 * and not exp(x - log-sum-exp) leaves out the rounding of a log-sum-exp as large as the logits. The target's gradient, p_t
 * - 1, is expm1(-loss): p_t near 1 loses no digits. */
#include <float.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

/* ---- cross-entropy ---- */

/* Threads of a row: a long one wants all that two blocks on a multiprocessor leave it, a short one would leave them
 * idle. */
constexpr int LONG_THREADS = 1024, SHORT_THREADS = 128;
constexpr int SHORT_ROW = 2048;

/* The largest number and sum of exp(x - largest) of what was seen so far. -FLT_MAX and not -infinity stands for nothing, so
 * that no difference is infinity - infinity. */
typedef struct OnlineSum {
    float largest, sum;
} OnlineSum;

template <int N> static __device__ __forceinline__ void take_in(OnlineSum &seen, const float (&x)[N]) {
    float largest = seen.largest, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) largest = fmaxf(largest, x[i]);
#pragma unroll
    for (int i = 0; i < N; i++) sum += __expf(x[i] - largest);
    seen.sum = seen.sum * __expf(seen.largest - largest) + sum;
    seen.largest = largest;
}

/* Rows of odd lengths begin anywhere. Thread i takes the packs i, i + THREADS, ... of the aligned 16 bytes that the row
 * lies in, whose first may begin before it: column -1, say. Packs that are not wholly in [0, V) go one by one. */
template <class T, int THREADS>
static __global__ void __launch_bounds__(THREADS, 2048 / THREADS)
    cross_entropy_kernel(float *losses, T *logits, const int32_t *targets, float dloss, int V, int VP, bool gradient) {
    constexpr int VEC = Pack<T>::N, STRIDE = THREADS * VEC;
    T *row = logits + (size_t)blockIdx.x * VP;
    const int target = targets[blockIdx.x];
    const float target_logit = to_float(row[target]);
    const int begin = -(int)((uintptr_t)row % 16 / sizeof(T)) + (int)threadIdx.x * VEC;

    OnlineSum seen = {-FLT_MAX, 0.0f};
    for (int v = begin; v < V; v += STRIDE) {
        if (v >= 0 && v + VEC <= V) {
            Pack<T> pack = load_pack(row + v);
            float x[VEC];
#pragma unroll
            for (int i = 0; i < VEC; i++) x[i] = to_float(pack.x[i]);
            take_in(seen, x);
        } else
            for (int i = max(v, 0); i < min(v + VEC, V); i++) {
                float x[1] = {to_float(row[i])};
                take_in(seen, x);
            }
    }
    const float largest = block_max<THREADS>(seen.largest);
    const float sum = block_sum<THREADS>(seen.sum * __expf(seen.largest - largest));
    const float loss = logf(sum) - (target_logit - largest);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
    if (!gradient) return;

    const float scale = dloss / sum;
    const int packs = (VP - begin + STRIDE - 1) / STRIDE;
    for (int v = begin + (packs - 1) * STRIDE; v >= begin; v -= STRIDE) {
        if (v >= 0 && v + VEC <= V) {
            Pack<T> pack = load_pack(row + v);
#pragma unroll
            for (int i = 0; i < VEC; i++) pack.x[i] = from_float<T>(scale * __expf(to_float(pack.x[i]) - largest));
            store_pack(row + v, pack);
        } else
            for (int i = max(v, 0); i < min(v + VEC, VP); i++)
                row[i] = from_float<T>(i < V ? scale * __expf(to_float(row[i]) - largest) : 0.0f);
        if (v <= target && target < v + VEC) row[target] = from_float<T>(dloss * expm1f(-loss));
    }
}

template <class T, int THREADS>
static void launch_cross_entropy(Backend *be, float *losses, T *logits, const int32_t *targets, float dloss, int N,
                                 int V, int VP, bool gradient) {
    cross_entropy_kernel<T, THREADS>
        <<<(unsigned)N, THREADS, 0, cuda_stream(be)>>>(losses, logits, targets, dloss, V, VP, gradient);
    cuda_check_launch("cross_entropy_kernel");
}

template <class T>
static void softmax_cross_entropy(Backend *be, float *losses, void *logits, const int32_t *targets, float dloss, int N,
                                  int V, int VP, bool gradient) {
    if (V <= SHORT_ROW)
        launch_cross_entropy<T, SHORT_THREADS>(be, losses, (T *)logits, targets, dloss, N, V, VP, gradient);
    else
        launch_cross_entropy<T, LONG_THREADS>(be, losses, (T *)logits, targets, dloss, N, V, VP, gradient);
}

/* ---- sums ---- */

constexpr int SUM_THREADS = 1024;

/* One block: the losses of a step are some hundred kB. */
static __global__ void __launch_bounds__(SUM_THREADS) add_sum_kernel(double *total, const float *values, size_t n) {
    constexpr int VEC = Pack<float>::N;
    const size_t packs = is_pack_aligned(values) ? n / VEC : 0;
    double sum = 0.0;
#pragma unroll 4
    for (size_t i = threadIdx.x; i < packs; i += SUM_THREADS) {
        Pack<float> pack = load_pack(values + i * VEC);
#pragma unroll
        for (int k = 0; k < VEC; k++) sum += (double)pack.x[k];
    }
    for (size_t i = packs * VEC + threadIdx.x; i < n; i += SUM_THREADS) sum += (double)values[i];
    sum = block_sum<SUM_THREADS>(sum);
    if (threadIdx.x == 0) *total += sum;
}

static void add_sum(Backend *be, double *total, const float *values, size_t n) {
    add_sum_kernel<<<1, SUM_THREADS, 0, cuda_stream(be)>>>(total, values, n);
    cuda_check_launch("add_sum_kernel");
}

void cuda_enter_loss(Backend *be) {
    be->softmax_cross_entropy =
        be->activation == DTYPE_BFLOAT16 ? softmax_cross_entropy<bf16> : softmax_cross_entropy<float>;
    be->add_sum = add_sum;
}
