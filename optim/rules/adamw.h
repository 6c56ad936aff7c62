/* adamw.h: AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019).
 *
 *   m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
 *   x <- x - lr (wd x + (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps))
 *
 * Hidden matrices decay; embeddings, an LM head of its own and vectors do not.
 *
 * State per parameter: m and v, 8 bytes. Memory traffic per parameter: the norm pass reads g (4 bytes); the update
 * reads g, x, m, v and writes x, m, v (28) and, with bfloat16 activations, the weight copy (2): 34 bytes,
 * also without clipping: the norm pass finds gradients that are not finite. */
#ifndef MARS_OPTIM_RULES_ADAMW_H
#define MARS_OPTIM_RULES_ADAMW_H

#include <math.h>

#include "optim/rules/update_coeffs.h"

RULE_FUNCTION float adamw_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    (void)prev_grad;
    state[0] = r->beta1 * state[0] + (1.0f - r->beta1) * g;
    state[1] = r->beta2 * state[1] + (1.0f - r->beta2) * g * g;
    float denominator = sqrtf(state[1] * r->correction2) + r->eps;
    return state[0] * r->correction1 / denominator;
}

#endif
