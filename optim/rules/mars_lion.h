/* mars_lion.h: MARS-Lion (arXiv:2411.10438, section 3): Lion (Chen et al. 2023) on the corrected gradient c of mars.h.
 *
 *   m <- beta1 m + (1 - beta1) c
 *   x <- x - lr (wd x + sign(m))                                          sign(0) = 0
 *
 * State per parameter: m and g_prev, 8 bytes. Memory traffic per parameter: the norm pass reads g and g_prev (8 bytes);
 * the update reads g, g_prev, x, m and writes x, m (24) and, with bfloat16 activations, the weight copy (2): 34. */
#ifndef MARS_OPTIM_RULES_MARS_LION_H
#define MARS_OPTIM_RULES_MARS_LION_H

#include "optim/rules/mars.h"

RULE_FUNCTION float mars_lion_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    float m = state[0] = r->beta1 * state[0] + (1.0f - r->beta1) * mars_corrected(g, prev_grad, r);
    return m > 0.0f ? 1.0f : m < 0.0f ? -1.0f : 0.0f;
}

#endif
