/* step_coeffs.h: computes from the sums over a step's gradients whether they are finite, the clip, and each tensor's
 * UpdateCoeffs. Both devices share this code, in double; the loops over tensors are in multi_tensor.c and
 * multi_tensor.cu. All data is in the device's memory, so that the host enqueues the passes of a step without waiting
 * for the result.
 *
 * A step whose gradient is not finite is skipped: only *result changes here. The passes after it read result->skipped
 * and leave parameters, weights and states as they are; keep_prev_grad() copies g_prev back, because the host swaps the
 * buffers in every step. */
#ifndef MARS_OPTIM_STEP_COEFFS_H
#define MARS_OPTIM_STEP_COEFFS_H

#include <math.h>
#include <stdint.h>

#include "optim/optim_config.h"
#include "optim/rules/mars.h"
#include "optim/rules/sgd_sai.h"

/* The coefficients of a tensor that stay the same in every step. */
typedef struct TensorPlan {
    UpdateCoeffs fixed; /* those of its coefficients that stay; the others are 0 */
    double elements;
    double scale; /* matrix rules: the step factor of the matrix's shape */
    int group;    /* its parameter group, which gives its learning rate */
    bool uses_prev_grad, uses_snr;
} TensorPlan;

/* The result of a step, and the values that the next step begins with. */
typedef struct StepResult {
    int64_t updates; /* made so far, this step's among them */
    double grad_norm;
    double factor, prev_factor; /* gradient_factor of the current gradient, and of the one that becomes g_prev */
    int nonfinite_tensor;       /* as in OptimResult */
    bool of_next_batch;
    bool skipped;
} StepResult;

/* What a step reads and writes; pointers point to device memory. */
typedef struct StepInputs {
    int tensors;
    bool exact; /* a second gradient */
    double gradient_scale, grad_clip, eps;
    double k;                                 /* mars.h */
    const TensorPlan *plans;                  /* (tensors) */
    const GradientSums *sums;                 /* (tensors) of the current gradient, and after them of the second one */
    double *prev_factor, *prev_squares, *snr; /* (tensors) what is kept between steps; NULL if no rule needs it */
    UpdateCoeffs *coeffs;                     /* (tensors) */
    StepResult *result;
    double lr[OPTIM_MAX_GROUPS]; /* of each parameter group in this step */
} StepInputs;

/* The first of the tensors whose gradient is not finite, -1 if there is none; `squares` is the sum over all tensors. As
 * squares of floats cannot overflow a double, it is finite only if all of them are. */
RULE_FUNCTION int first_nonfinite(const GradientSums *sums, int tensors, double squares) {
    if (isfinite(squares)) return -1;
    for (int i = 0; i < tensors; i++)
        if (!isfinite(sums[i].squares)) return i;
    return -1;
}

/* gradient_scale times the clip. The clip is that of torch.nn.utils.clip_grad_norm_: grad_clip / (norm + 1e-6), at most
 * 1; 1 if grad_clip is 0. */
RULE_FUNCTION double clip_factor(const StepInputs *s, double norm) {
    double clip = s->grad_clip > 0.0 ? fmin(1.0, s->grad_clip / (norm + 1e-6)) : 1.0;
    return s->gradient_scale * clip;
}

/* The step's result, from the sums of squares over all tensors: of the current gradient, and in the exact form of the
 * second one. */
RULE_FUNCTION StepResult step_result(const StepInputs *s, double squares, double second_squares) {
    StepResult result;
    result.grad_norm = sqrt(squares) * s->gradient_scale;
    result.nonfinite_tensor = first_nonfinite(s->sums, s->tensors, squares);
    if (result.nonfinite_tensor >= 0) result.grad_norm = INFINITY;
    result.of_next_batch = false;
    if (s->exact && result.nonfinite_tensor < 0) {
        result.nonfinite_tensor = first_nonfinite(s->sums + s->tensors, s->tensors, second_squares);
        result.of_next_batch = result.nonfinite_tensor >= 0;
    }
    result.skipped = result.nonfinite_tensor >= 0;
    result.updates = s->result->updates + (result.skipped ? 0 : 1);
    result.factor = clip_factor(s, result.grad_norm);
    result.prev_factor = s->exact ? clip_factor(s, sqrt(second_squares) * s->gradient_scale) : result.factor;
    return result;
}

/* sgd_sai.h: a tensor's snr, set at the first step. */
RULE_FUNCTION void snr_coeffs(const StepInputs *s, const StepResult *result, UpdateCoeffs *r, int i) {
    bool is_first = result->updates == 1;
    if (is_first) s->snr[i] = sgd_sai_snr(&s->sums[i], s->plans[i].elements, result->factor, s->eps);
    if (is_first) r->momentum = 0.0f;
    r->snr = (float)s->snr[i];
}

/* mars.h: the clip of tensor i's c, and the factor and squares that its gradient will have as the next g_prev. */
RULE_FUNCTION void correction_coeffs(const StepInputs *s, const StepResult *result, UpdateCoeffs *r, int i) {
    double prev_factor = s->prev_factor[i];
    r->c_factor = (float)mars_c_factor(s->k, &s->sums[i], result->factor, prev_factor, s->prev_squares[i]);
    r->prev_factor = (float)prev_factor;
    const GradientSums *newest = &s->sums[s->exact ? s->tensors + i : i];
    s->prev_factor[i] = result->prev_factor;
    s->prev_squares[i] = result->prev_factor * result->prev_factor * newest->squares;
}

/* The coefficients of tensor i in a step that is not skipped. The bias corrections are those of the betas as floats,
 * with which averages are made: 1 - 0.99999f is 0.14 % too large. */
RULE_FUNCTION void tensor_coeffs(const StepInputs *s, const StepResult *result, int i) {
    const TensorPlan *plan = &s->plans[i];
    UpdateCoeffs r = plan->fixed;
    double lr = s->lr[plan->group];
    r.gradient_factor = (float)result->factor;
    r.learning_rate = (float)lr;
    r.scale = (float)plan->scale;
    r.step = (float)(lr * plan->scale);
    r.correction1 = (float)(1.0 / (1.0 - pow((double)r.beta1, (double)result->updates)));
    r.correction2 = (float)(1.0 / (1.0 - pow((double)r.beta2, (double)result->updates)));
    if (plan->uses_snr) snr_coeffs(s, result, &r, i);
    if (plan->uses_prev_grad) correction_coeffs(s, result, &r, i);
    s->coeffs[i] = r;
}

#endif
