/* muon.h: Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024), as the baseline of the
 * MARS paper runs it: on every 2-D tensor, embeddings included.
 *
 *   b <- mu b + g;      u = g + mu b  (Nesterov; without it u = b)
 *   x <- x (1 - lr wd) - lr sqrt(max(1, rows/columns)) NS(u)                         NS: newton_schulz.h
 *
 * Its rate and decay are muon_learning_rate and muon_weight_decay. AdamW updates vectors, by lr_1d and weight_decay,
 * and embeddings too if muon_embeddings is false. muon_scale replaces the factor sqrt(max(1, rows/columns)).
 *
 * State per parameter: b, 4 bytes. Memory traffic per parameter besides Newton-Schulz's own: the norm pass reads g (4
 * bytes), the direction reads g and b and writes b and u (12 + 2 for a bfloat16 u), the update reads NS(u) and x and
 * writes x and the weight copy (2 + 8 + 2): 30 bytes. */
#ifndef MARS_OPTIM_RULES_MUON_H
#define MARS_OPTIM_RULES_MUON_H

#include "optim/rules/update_coeffs.h"

RULE_FUNCTION float muon_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    (void)prev_grad;
    state[0] = r->momentum * state[0] + g;
    return r->nesterov ? g + r->momentum * state[0] : state[0];
}

#endif
