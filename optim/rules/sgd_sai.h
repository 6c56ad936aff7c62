/* sgd_sai.h: SGD-SaI (Xu et al., "No more Adam: learning rate scaling at initialization is all you need", 2024,
 * arXiv:2412.11768; also published as SGD-Boost): SGD with momentum and a rate for each tensor that is set once.
 *
 *   at the first step, per tensor:  snr = ||g|| / (std(g) + eps)         m <- g           (std: unbiased)
 *   later                                                               m <- mu m + (1 - mu) g
 *   x <- x (1 - lr wd) - lr snr m
 *
 * Hidden matrices decay; embeddings, an LM head of its own and vectors do not.
 *
 * State per parameter: m, 4 bytes; per tensor: snr. A tensor of one element has no spread; its snr is 1. A tensor whose
 * first gradient is zero has snr 0, so its gradients never move it. Memory traffic per parameter: the norm pass reads g
 * (4 bytes); the update reads g, x, m and writes x, m (20) and, with bfloat16 activations, the weight copy (2): 26
 * bytes. */
#ifndef MARS_OPTIM_RULES_SGD_SAI_H
#define MARS_OPTIM_RULES_SGD_SAI_H

#include <math.h>

#include "optim/rules/update_coeffs.h"

/* A tensor's snr from the sums over its first gradient, which `factor` scales and clips. */
RULE_FUNCTION double sgd_sai_snr(const GradientSums *sums, double elements, double factor, double eps) {
    if (elements <= 1.0) return 1.0;
    double squares = sums->squares, sum = sums->sum;
    double spread = sqrt(fmax(0.0, (squares - sum * sum / elements) / (elements - 1.0)));
    return factor * sqrt(squares) / (factor * spread + eps);
}

/* r->momentum is 0 at the first step. */
RULE_FUNCTION float sgd_sai_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    (void)prev_grad;
    state[0] = r->momentum * state[0] + (1.0f - r->momentum) * g;
    return r->snr * state[0];
}

#endif
