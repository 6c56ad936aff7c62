/* mars_m_efficient.h: the approximate MARS-M (mars_m.h) without the clip of c, rewritten to need one buffer: its moving
 * average over c is one over g plus a multiple of the newest g.
 *
 *   b <- mu b + ((1 - gamma) (1 - mu) / mu) g;      u = gamma g + mu b              mu = beta1
 *   x <- x (1 - lr wd) - lr 0.2 sqrt(max(rows, columns)) NS(u)
 *
 * All other tensors are as Moonlight's.
 *
 * State per parameter: b, 4 bytes. Memory traffic is Muon's (muon.h): 30 bytes. */
#ifndef MARS_OPTIM_RULES_MARS_M_EFFICIENT_H
#define MARS_OPTIM_RULES_MARS_M_EFFICIENT_H

#include "optim/rules/moonlight.h"

RULE_FUNCTION float mars_m_efficient_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    (void)prev_grad;
    state[0] = r->beta1 * state[0] + (1.0f - r->gamma) * (1.0f - r->beta1) / r->beta1 * g;
    return r->gamma * g + r->beta1 * state[0];
}

#endif
