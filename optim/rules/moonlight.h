/* moonlight.h: Moonlight's Muon (Liu et al., "Muon is scalable for LLM training", 2025, arXiv:2502.16982): Muon's
 * direction, a step whose size in each element is about that of AdamW, hidden matrices only.
 *
 *   b <- mu b + g;      u = g + mu b  (Nesterov; without it u = b)
 *   x <- x (1 - lr wd) - lr 0.2 sqrt(max(rows, columns)) NS(u)
 *
 * AdamW updates all other tensors with betas_1d and, embeddings and gains included, the same decay. muon_scale replaces
 * the factor 0.2 sqrt(max(rows, columns)).
 *
 * State per parameter: b, 4 bytes. Memory traffic is Muon's (muon.h): 30 bytes. */
#ifndef MARS_OPTIM_RULES_MOONLIGHT_H
#define MARS_OPTIM_RULES_MOONLIGHT_H

#include "optim/rules/muon.h"

RULE_FUNCTION float moonlight_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    return muon_direction(g, prev_grad, state, r);
}

#endif
