/* mars_shampoo.h: MARS-Shampoo (arXiv:2411.10438, section 3): a step along the orthogonalised moving average of the
 * corrected gradient c of mars.h, for every 2-D tensor. (Shampoo without accumulation has this direction.)
 *
 *   m <- beta1 m + (1 - beta1) c
 *   x <- x - lr (wd x + sqrt(max(1, rows/columns)) NS(m / (1 - beta1)))
 *
 * State per parameter: m and g_prev, 8 bytes. Memory traffic per parameter: Muon's (muon.h) and g_prev read twice: 38
 * bytes. */
#ifndef MARS_OPTIM_RULES_MARS_SHAMPOO_H
#define MARS_OPTIM_RULES_MARS_SHAMPOO_H

#include "optim/rules/mars.h"
#include "optim/rules/muon.h"

RULE_FUNCTION float mars_shampoo_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    state[0] = r->beta1 * state[0] + (1.0f - r->beta1) * mars_corrected(g, prev_grad, r);
    return state[0] / (1.0f - r->beta1);
}

#endif
