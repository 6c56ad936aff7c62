/* loss.cu: softmax, cross-entropy and its gradient, fused over a row of logits, and the sum of the losses.
 *
 * With m = max x, s = sum exp(x - m) over the first V of VP columns and p = exp(x - m)/s, the loss is log s - (x_t - m)
 * for the target t. Logits are overwritten by dloss (p - onehot(t)), columns from V on by 0.
 *
 * Memory limits the speed: each bf16 logit must be read once and written once, 4 bytes (8 in float). A row is needed
 * twice, for m and s and then for the gradient. One block works on one row (50304 logits are 100 kB), and few rows are
 * computed at a time: 2 on each multiprocessor, 26 MB on 132 of them. So the second read finds the row in the
 * second-level cache, and much of it in the first. It goes backwards, since the last columns were read most recently.
 * One pass computes m and s (online softmax: Milakov, Gimelshein 2018): whenever the largest number so far grows, the
 * sum so far is scaled down to it.
 *
 * Accuracy: x - m is exact or nearly so, and the relative error of __expf is then about 2^-22 + 2^-24 |x - m|. Using
 * exp(x - m)/s and not exp(x - log-sum-exp) avoids the rounding of a log-sum-exp as large as the logits. The target's
 * gradient, p_t - 1, is computed as expm1(-loss), since the difference would lose digits if p_t is near 1.
 *
 * With a softcap c, x is c z/sqrt(z^2 + c^2) for a logit z, and dx/dz = (c/sqrt(z^2 + c^2))^3 multiplies the gradient.
 * Both reads of the row compute x again: one reciprocal square root next to each exp. */
#include <float.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

/* ---- cross-entropy ---- */

/* Threads for one row. Every multiprocessor since compute capability 8.0 can run at least 1536 threads: two blocks for
 * long rows. For short rows most of these threads would be idle. */
constexpr int PLACES = 1536, LONG_THREADS = PLACES / 2, SHORT_THREADS = 128;
constexpr int SHORT_ROW = 2048;

/* The largest number so far and the sum of exp(x - largest) so far. `largest` begins with -FLT_MAX and not -infinity,
 * so that no difference is infinity - infinity. */
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

/* c/sqrt(z^2 + c^2). If z^2 would overflow a float, both z and c are first scaled down. */
static __device__ __forceinline__ float cap_ratio(float z, float c) {
    const float scale = fabsf(z) > 1e18f ? 0x1p-70f : 1.0f;
    z *= scale, c *= scale;
    return c * rsqrtf(z * z + c * c);
}

/* The capped logit: within -c and c if SOFTCAP, else z. */
template <bool SOFTCAP> static __device__ __forceinline__ float capped(float z, float c) {
    return SOFTCAP ? z * cap_ratio(z, c) : z;
}

/* The derivative of capped(). */
template <bool SOFTCAP> static __device__ __forceinline__ float cap_derivative(float z, float c) {
    const float ratio = SOFTCAP ? cap_ratio(z, c) : 1.0f;
    return ratio * ratio * ratio;
}

/* How a row lies in memory: `head` columns, then `packs` whole packs at aligned addresses, then the other columns. A
 * row may begin at any address, if the row length is odd. */
typedef struct Layout {
    int head, packs;
} Layout;

template <class T> static __device__ __forceinline__ Layout layout_of(const T *row, int V) {
    const int past_pack = (int)((uintptr_t)row % 16 / sizeof(T));
    const int head = min(past_pack > 0 ? Pack<T>::N - past_pack : 0, V);
    return {head, (V - head) / Pack<T>::N};
}

/* The i-th of the columns that are not in a pack. */
template <class T> static __device__ __forceinline__ int loose_column(Layout layout, int i) {
    return i < layout.head ? i : i + layout.packs * Pack<T>::N;
}

/* The sum over this thread's part of a row: every THREADS-th pack and every THREADS-th loose column. */
template <class T, int THREADS, bool SOFTCAP>
static __device__ __forceinline__ OnlineSum sum_of_part(const T *row, Layout layout, int V, float softcap) {
    constexpr int VEC = Pack<T>::N;
    OnlineSum seen = {-FLT_MAX, 0.0f};
#pragma unroll 2
    for (int p = threadIdx.x; p < layout.packs; p += THREADS) {
        Pack<T> pack = load_pack(row + layout.head + p * VEC);
        float x[VEC];
#pragma unroll
        for (int i = 0; i < VEC; i++) x[i] = capped<SOFTCAP>(to_float(pack.x[i]), softcap);
        take_in(seen, x);
    }
    for (int i = threadIdx.x; i < V - layout.packs * VEC; i += THREADS) {
        float x[1] = {capped<SOFTCAP>(to_float(row[loose_column<T>(layout, i)]), softcap)};
        take_in(seen, x);
    }
    return seen;
}

/* scale exp(x - largest) dx/dz for the logit z. */
template <bool SOFTCAP>
static __device__ __forceinline__ float gradient_at(float z, float scale, float largest, float softcap) {
    return scale * __expf(capped<SOFTCAP>(z, softcap) - largest) * cap_derivative<SOFTCAP>(z, softcap);
}

/* Overwrites the same part with its gradients, and columns V to VP with 0. */
template <class T, int THREADS, bool SOFTCAP>
static __device__ __forceinline__ void scale_part(T *row, Layout layout, int V, int VP, float scale, float largest,
                                                  float softcap) {
    constexpr int VEC = Pack<T>::N;
    const int rounds = (layout.packs - (int)threadIdx.x + THREADS - 1) / THREADS;
#pragma unroll 2
    for (int p = threadIdx.x + (rounds - 1) * THREADS; p >= 0; p -= THREADS) {
        Pack<T> pack = load_pack(row + layout.head + p * VEC);
#pragma unroll
        for (int i = 0; i < VEC; i++)
            pack.x[i] = from_float<T>(gradient_at<SOFTCAP>(to_float(pack.x[i]), scale, largest, softcap));
        store_pack(row + layout.head + p * VEC, pack);
    }
    for (int i = threadIdx.x; i < VP - layout.packs * VEC; i += THREADS) {
        const int v = loose_column<T>(layout, i);
        row[v] = from_float<T>(v < V ? gradient_at<SOFTCAP>(to_float(row[v]), scale, largest, softcap) : 0.0f);
    }
}

template <class T, int THREADS, bool SOFTCAP>
static __global__ void __launch_bounds__(THREADS, PLACES / THREADS)
    cross_entropy_kernel(float *losses, T *logits, const int32_t *targets, float dloss, float softcap, int V, int VP,
                         bool gradient) {
    T *row = logits + (size_t)blockIdx.x * VP;
    const int target = targets[blockIdx.x];
    const float target_logit = to_float(row[target]);
    const Layout layout = layout_of(row, V);
    const OnlineSum part = sum_of_part<T, THREADS, SOFTCAP>(row, layout, V, softcap);
    const float largest = block_max<THREADS>(part.largest);
    const float sum = block_sum<THREADS>(part.sum * __expf(part.largest - largest));
    const float loss = logf(sum) - (capped<SOFTCAP>(target_logit, softcap) - largest);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
    if (!gradient) return;
    scale_part<T, THREADS, SOFTCAP>(row, layout, V, VP, dloss / sum, largest, softcap);
    __syncthreads();
    if (threadIdx.x == 0)
        row[target] = from_float<T>(dloss * expm1f(-loss) * cap_derivative<SOFTCAP>(target_logit, softcap));
}

template <class T, int THREADS>
static void launch_cross_entropy(Backend *be, float *losses, T *logits, const int32_t *targets, float dloss,
                                 float softcap, int N, int V, int VP, bool gradient) {
    auto *kernel = softcap > 0.0f ? cross_entropy_kernel<T, THREADS, true> : cross_entropy_kernel<T, THREADS, false>;
    kernel<<<(unsigned)N, THREADS, 0, cuda_stream(be)>>>(losses, logits, targets, dloss, softcap, V, VP, gradient);
    cuda_check_launch("cross_entropy_kernel");
}

template <class T>
static void softmax_cross_entropy(Backend *be, float *losses, void *logits, const int32_t *targets, float dloss,
                                  float softcap, int N, int V, int VP, bool gradient) {
    if (V <= SHORT_ROW)
        launch_cross_entropy<T, SHORT_THREADS>(be, losses, (T *)logits, targets, dloss, softcap, N, V, VP, gradient);
    else
        launch_cross_entropy<T, LONG_THREADS>(be, losses, (T *)logits, targets, dloss, softcap, N, V, VP, gradient);
}

/* ---- sums ---- */

constexpr int SUM_THREADS = 1024;

/* One block is enough: the losses of a step are some hundred kB. */
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
