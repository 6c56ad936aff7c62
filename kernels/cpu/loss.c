/* loss.c: softmax, cross-entropy and its gradient, fused over one row of logits. */
#include <math.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/vector_math.h"

/* The row's maximum, then log of the sum of exp(x - maximum), returned with the maximum added. */
static float log_sum_exp(const act *RESTRICT logits, int V) {
    int32_t largest = ordered_from_float(-INFINITY);
    float sum = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int v = 0; v < V; v++) {
        int32_t x = ordered_from_float(act_load(logits[v]));
        largest = x > largest ? x : largest;
    }
    float maximum = float_from_ordered(largest);
#pragma omp simd reduction(+ : sum)
    for (int v = 0; v < V; v++) sum += vector_exp(act_load(logits[v]) - maximum);
    return maximum + logf(sum);
}

static void softmax_cross_entropy(Backend *be, float *losses, void *logits_, const int32_t *targets, float dloss, int N,
                                  int V, int VP, bool gradient) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int row = 0; row < N; row++) {
        act *RESTRICT logits = (act *)logits_ + (int64_t)row * VP;
        float lse = log_sum_exp(logits, V), target = act_load(logits[targets[row]]);
        losses[row] = lse - target;
        if (!gradient) continue;
#pragma omp simd
        for (int v = 0; v < V; v++) logits[v] = act_store(dloss * vector_exp(act_load(logits[v]) - lse));
        logits[targets[row]] = act_store(dloss * (expf(target - lse) - 1.0f));
        for (int v = V; v < VP; v++) logits[v] = act_store(0.0f);
    }
}

static void add_sum(Backend *be, double *total, const float *values, size_t n) {
    (void)be; /* a few thousand losses: not worth waking threads */
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += values[i];
    *total += sum;
}

ENTER_OPERATIONS(loss) {
    be->softmax_cross_entropy = softmax_cross_entropy;
    be->add_sum = add_sum;
}
