/* normuon.h: NorMuon (Li et al., "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491): Muon
 * whose orthogonalised direction gets lines of equal size. A line is a row, or, if a matrix has fewer rows than
 * columns, a column.
 *
 *   b <- mu b + g;      u = g + mu b  (Nesterov; without it u = b)
 *   O = sqrt(max(1, rows/columns)) NS(u);      n = ||O||                             NS: newton_schulz.h
 *   v <- beta2 v + (1 - beta2) mean(O^2)                 of each line; beta2 = muon_beta2; v starts at 0; no bias
 *                                                        correction
 *   O <- O / sqrt(max(v, 1e-10));      O <- O n / max(||O||, 1e-10)
 *   x <- x (1 - lr wd) - lr O
 *
 * Groups, rates and decays are Muon's (muon.h), but embeddings are AdamW's unless muon_embeddings is true. With
 * split_qkv each of the stacked matrices has its own v and n.
 *
 * The sums of squares of the lines also give ||O||: before the division it is the root of their sum, after it the root
 * of the sum of squares / max(v, 1e-10). So one pass over NS(u) makes a factor for each line, and the update multiplies
 * by it.
 *
 * State per parameter: b, 4 bytes; per line: v. Memory traffic per parameter: Muon's and NS(u) read once more (2): 32
 * bytes. */
#ifndef MARS_OPTIM_RULES_NORMUON_H
#define MARS_OPTIM_RULES_NORMUON_H

#include <math.h>

#include "optim/rules/muon.h"

RULE_FUNCTION float normuon_direction(float g, float prev_grad, float *state, const UpdateCoeffs *r) {
    return muon_direction(g, prev_grad, state, r);
}

/* The new v of a line. */
RULE_FUNCTION float normuon_v(float v, double mean_square, const UpdateCoeffs *r) {
    return (float)((double)r->beta2 * (double)v + (1.0 - (double)r->beta2) * mean_square);
}

/* The square of the number that a line is divided by. */
RULE_FUNCTION double normuon_divisor_square(float v) { return fmax((double)v, 1e-10); }

/* The factor of all lines of a matrix after this division, from the squares of ||O|| before and after it. */
RULE_FUNCTION double normuon_norm_factor(double square_before, double square_after) {
    return sqrt(square_before) / fmax(sqrt(square_after), 1e-10);
}

#endif
