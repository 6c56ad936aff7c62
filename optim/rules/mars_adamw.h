/* mars_adamw.h: MARS-AdamW (algorithm 2 of arXiv:2411.10438): AdamW on the corrected gradient c of mars.h.
 *
 *   m <- beta1 m + (1 - beta1) c          v <- beta2 v + (1 - beta2) c^2
 *   x <- x - lr (wd x + (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps))
 *
 * State per parameter: m, v and g_prev, 12 bytes. Memory traffic per parameter: the norm pass reads g and g_prev (8
 * bytes); the update reads g, g_prev, x, m, v and writes x, m, v (32) and, with bfloat16 activations, the weight copy
 * (2): 42 bytes. The exact form reads the second gradient for its norm as well (4). */
#ifndef MARS_OPTIM_RULES_MARS_ADAMW_H
#define MARS_OPTIM_RULES_MARS_ADAMW_H

#include "optim/rules/adamw.h"
#include "optim/rules/mars.h"

RULE_FUNCTION float mars_adamw_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    return adamw_direction(mars_corrected(g, prev_grad, r), 0.0f, state, r);
}

#endif
