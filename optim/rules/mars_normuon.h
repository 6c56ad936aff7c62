/* mars_normuon.h: MARS-NorMuon, of this project: MARS-M's direction (mars_m.h) with NorMuon's step (normuon.h), hidden
 * matrices only. No paper has it.
 *
 *   m <- beta1 m + (1 - beta1) c                         c: mars.h, clipped by the norm of the whole tensor
 *   O = sqrt(max(1, rows/columns)) NS(m);      v, and x: as in normuon.h
 *
 * All other tensors are as Moonlight's (moonlight.h).
 *
 * State per parameter: m and g_prev, 8 bytes; per line: v. Memory traffic per parameter: NorMuon's and g_prev read
 * twice: 40 bytes. */
#ifndef MARS_OPTIM_RULES_MARS_NORMUON_H
#define MARS_OPTIM_RULES_MARS_NORMUON_H

#include "optim/rules/mars_m.h"
#include "optim/rules/normuon.h"

RULE_FUNCTION float mars_normuon_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    return mars_m_direction(g, prev_grad, state, r);
}

#endif
