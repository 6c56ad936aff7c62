/* mars_m.h: MARS-M (Liu et al., "MARS-M: When variance reduction meets matrices", 2025, arXiv:2510.21800): Moonlight's
 * step along the moving average of the corrected gradient c of mars.h, hidden matrices only.
 *
 *   m <- beta1 m + (1 - beta1) c
 *   x <- x (1 - lr wd) - lr 0.2 sqrt(max(rows, columns)) NS(m)
 *
 * All other tensors are as Moonlight's.
 *
 * State per parameter: m and g_prev, 8 bytes. Memory traffic per parameter: Muon's (muon.h) and g_prev read twice: 38
 * bytes. */
#ifndef MARS_OPTIM_RULES_MARS_M_H
#define MARS_OPTIM_RULES_MARS_M_H

#include "optim/rules/mars.h"
#include "optim/rules/moonlight.h"

RULE_FUNCTION float mars_m_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    return state[0] = r->beta1 * state[0] + (1.0f - r->beta1) * mars_corrected(g, prev_grad, r);
}

#endif
