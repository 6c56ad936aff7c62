/* mars.h: the corrected gradient of MARS (Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the power of variance reduction
 * for training large models", 2024, arXiv:2411.10438), which the rules of its family share.
 *
 *   c = g + gamma beta1/(1 - beta1) (g - g_prev);      c <- c / ||c|| if the tensor's ||c|| is above 1
 *
 * g_prev is the gradient of the step before (approximate), or that of this step's batch at the weights of the step
 * before (exact, at the price of a second gradient each step); zero at the first step. ||c|| is known before c is: with
 * k = gamma beta1/(1 - beta1),
 *   ||c||^2 = (1 + k)^2 ||g||^2 - 2 k (1 + k) <g, g_prev> + k^2 ||g_prev||^2
 * so one pass over g and g_prev serves the global clip and every tensor's norm, and a second one does the rest.
 *
 * MARS-AdamW, MARS-Lion and MARS-Shampoo update every 2-D tensor, of which hidden matrices decay by weight_decay. AdamW
 * updates vectors, with lr_1d, betas_1d and weight_decay_1d; with optimize_1d they follow the rule (in MARS-Shampoo
 * MARS-AdamW), without decay. MARS-M: see mars_m.h.
 *
 * State per parameter: g_prev, 4 bytes, kept by exchanging buffers. The buffer holds it unscaled: prev_factor makes it
 * the gradient after scaling and clipping. */
#ifndef MARS_OPTIM_RULES_MARS_H
#define MARS_OPTIM_RULES_MARS_H

#include <math.h>

#include "optim/rules/update_coeffs.h"

/* Returns 1/||c||, or 1 if ||c|| is at most 1. Arguments: the sums over a tensor's g and g_prev as their buffers hold
 * them, the factors that scale and clip each, and the sum of squares of g_prev after its factor. */
RULE_FUNCTION double mars_c_factor(double k, const GradientSums *sums, double factor, double prev_factor,
                                   double prev_squares) {
    double squares = (1.0 + k) * (1.0 + k) * factor * factor * sums->squares -
                     2.0 * k * (1.0 + k) * factor * prev_factor * sums->dot + k * k * prev_squares;
    double norm = sqrt(fmax(0.0, squares));
    return norm > 1.0 ? 1.0 / norm : 1.0;
}

/* c of one element, from its gradient after scaling and clipping and what the buffer of g_prev holds. */
RULE_FUNCTION float mars_corrected(float g, float prev_grad, const UpdateCoeffs *r) {
    return r->c_factor * (g + r->k * (g - r->prev_factor * prev_grad));
}

#endif
