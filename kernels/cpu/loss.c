/* loss.c: softmax, cross-entropy and its gradient, fused over one row of logits. */
#include <math.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/vector_math.h"

/* c/sqrt(z^2 + c^2). Its cube is d(capped z)/dz. If z is so large that z^2 overflows a float, the root is |z|. */
ALWAYS_INLINE float cap_ratio(float z, float softcap) {
    float size = fabsf(z), root = sqrtf(z * z + softcap * softcap);
    return softcap / (size > 1e18f ? size : root);
}

/* The capped logit; z itself if softcap is 0. */
ALWAYS_INLINE float capped(float z, float softcap) { return softcap == 0.0f ? z : z * cap_ratio(z, softcap); }

/* log of the sum of exp(logit), computed as largest + log of the sum of exp(logit - largest). */
ALWAYS_INLINE float log_sum_exp(const act *RESTRICT logits, float softcap, int V) {
    int32_t largest = ordered_from_float(-INFINITY);
    float sum = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int v = 0; v < V; v++) {
        int32_t x = ordered_from_float(act_load(logits[v]));
        largest = x > largest ? x : largest;
    }
    float maximum = capped(float_from_ordered(largest), softcap);
#pragma omp simd reduction(+ : sum)
    for (int v = 0; v < V; v++) sum += vector_exp(capped(act_load(logits[v]), softcap) - maximum);
    return maximum + logf(sum);
}

/* One row; returns its loss. Inlined once with softcap, and once with the constant 0, which removes the capping. */
ALWAYS_INLINE float loss_of_row(act *RESTRICT logits, int target, float dloss, float softcap, int V, int VP,
                                bool gradient) {
    float lse = log_sum_exp(logits, softcap, V), logit = act_load(logits[target]);
    float loss = lse - capped(logit, softcap);
    if (!gradient) return loss;
    if (softcap == 0.0f) {
#pragma omp simd
        for (int v = 0; v < V; v++) logits[v] = act_store(dloss * vector_exp(act_load(logits[v]) - lse));
        logits[target] = act_store(dloss * (expf(logit - lse) - 1.0f));
    } else {
#pragma omp simd
        for (int v = 0; v < V; v++) {
            float z = act_load(logits[v]), ratio = cap_ratio(z, softcap);
            logits[v] = act_store(dloss * vector_exp(z * ratio - lse) * (ratio * ratio * ratio));
        }
        float ratio = cap_ratio(logit, softcap);
        logits[target] = act_store(dloss * (expf(logit * ratio - lse) - 1.0f) * (ratio * ratio * ratio));
    }
    for (int v = V; v < VP; v++) logits[v] = act_store(0.0f);
    return loss;
}

static void softmax_cross_entropy(Backend *be, float *losses, void *logits_, const int32_t *targets, float dloss,
                                  float softcap, int N, int V, int VP, bool gradient) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int row = 0; row < N; row++) {
        act *logits = (act *)logits_ + (int64_t)row * VP;
        losses[row] = softcap == 0.0f ? loss_of_row(logits, targets[row], dloss, 0.0f, V, VP, gradient)
                                      : loss_of_row(logits, targets[row], dloss, softcap, V, VP, gradient);
    }
}

static void add_sum(Backend *be, double *total, const float *values, size_t n) {
    (void)be; /* one thread: there are only a few thousand losses */
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += values[i];
    *total += sum;
}

ENTER_OPERATIONS(loss) {
    be->softmax_cross_entropy = softmax_cross_entropy;
    be->add_sum = add_sum;
}
