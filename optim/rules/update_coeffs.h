/* update_coeffs.h: the coefficients that the update rules take. step_coeffs.h computes them once a step for each
 * tensor, in double, so that the rules themselves are a few float operations per element. */
#ifndef MARS_OPTIM_RULES_UPDATE_COEFFS_H
#define MARS_OPTIM_RULES_UPDATE_COEFFS_H

#include <stdbool.h>

#include "util/base.h"

/* In front of functions that CPU loops and CUDA kernels share. */
#ifdef __CUDACC__
#define RULE_FUNCTION static inline __host__ __device__
#else
#define RULE_FUNCTION ALWAYS_INLINE
#endif

/* Sums over elements, in double. */
typedef struct GradientSums {
    double squares; /* of g */
    double dot;     /* of g times g_prev, if there is one */
    double sum;     /* of g, if a rule needs it */
} GradientSums;

/* Coefficients that a rule does not read are 0. */
typedef struct UpdateCoeffs {
    float gradient_factor; /* gradient_scale times the clip: g is what the gradient buffer holds times this */
    float learning_rate, weight_decay;
    float beta1, beta2, eps;
    float correction1, correction2; /* 1 / (1 - beta^t): multiplied with, as divisions are slow */
    float prev_factor;              /* mars.h: the gradient_factor of g_prev */
    float k, c_factor;              /* mars.h: weight of the change; 1, or 1/||c|| if ||c|| > 1 */
    float gamma, momentum, snr;
    bool nesterov;
    float scale; /* matrix rules: the step factor of the matrix's shape */
    float step;  /* and the learning rate times this factor */
} UpdateCoeffs;

/* The decay of one element in a step along `update`, which is subtracted from x. Cautious decay (cautious_weight_decay)
 * leaves alone an element that the step moves away from 0: it decays where update * x >= 0, with x as it is before the
 * step. */
RULE_FUNCTION float element_decay(float decay, float update, float x, bool cautious) {
    return cautious && !(update * x >= 0.0f) ? 0.0f : decay;
}

#endif
