/* step_coeffs.h: what a step decides once the sums over its gradients are known: whether they are finite, the clip, and
 * each tensor's UpdateCoeffs. Written once, for both devices: the arithmetic is in double, the loops over tensors are
 * those of multi_tensor.c and multi_tensor.cu. All of it lives on the device, so that the host asks for the passes of a
 * step without knowing what comes of it.
 *
 * A step whose gradient is not finite is skipped: nothing here changes but the result, and the passes after it see
 * that and do nothing. */
#ifndef MARS_OPTIM_STEP_COEFFS_H
#define MARS_OPTIM_STEP_COEFFS_H

#include <math.h>
#include <stdint.h>

#include "optim/rules/update_coeffs.h"

/* Sums over elements, in double. */
typedef struct GradientSums {
    double squares; /* of g */
    double dot;     /* of g times g_prev, where there is one */
    double sum;     /* of g, where asked for */
} GradientSums;

/* What no step changes for a tensor. */
typedef struct TensorPlan {
    UpdateCoeffs fixed; /* those of its numbers that stay; the others are 0 */
    double elements;
    double lr_mult;     /* its learning rate, in those of the step that it goes by */
    double step_factor; /* matrix rules: how far to go, in learning rates */
    bool uses_muon_lr;  /* it goes by muon_learning_rate */
    bool uses_prev_grad;
} TensorPlan;

/* What a step did. Between steps, what the next one begins with. */
typedef struct StepResult {
    int64_t updates; /* made so far, this step's among them */
    double grad_norm;
    double factor, prev_factor; /* gradient_factor of the current gradient, and of the one that becomes g_prev */
    int nonfinite_tensor;       /* as in OptimResult */
    bool of_next_batch;
    bool skipped;
} StepResult;

/* All that a step goes by; pointers are to the device's memory. */
typedef struct StepInputs {
    int tensors;
    bool exact; /* a second gradient */
    double gradient_scale, grad_clip, eps;
    double k;                                 /* mars.h */
    const TensorPlan *plans;                  /* (tensors) */
    const GradientSums *sums;                 /* (tensors) of the current gradient, and after them of the second one */
    double *prev_factor, *prev_squares, *snr; /* (tensors) what is kept between steps; NULL where no rule needs it */
    UpdateCoeffs *coeffs;                     /* (tensors) */
    StepResult *result;
    double learning_rate, muon_learning_rate; /* of this step */
} StepInputs;

/* The first of the tensors whose gradient is not finite, -1 if there is none; `squares` is the sum over all tensors. As
 * squares of floats cannot overflow a double, it is finite only where all of them are. */
RULE_FUNCTION int first_nonfinite(const GradientSums *sums, int tensors, double squares) {
    if (isfinite(squares)) return -1;
    for (int i = 0; i < tensors; i++)
        if (!isfinite(sums[i].squares)) return i;
    return -1;
}

/* gradient_scale times the clip. The largest norm is 1 as torch.nn.utils.clip_grad_norm_ counts it, with 1e-6 added to
 * the norm. */
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

/* sgd_sai.h: a tensor's rate, from its first gradient. */
RULE_FUNCTION double snr_coeff(const StepInputs *s, const GradientSums *sums, double elements, double factor) {
    if (elements <= 1.0) return 1.0;
    double squares = sums->squares, sum = sums->sum;
    double spread = sqrt(fmax(0.0, (squares - sum * sum / elements) / (elements - 1.0)));
    return factor * sqrt(squares) / (factor * spread + s->eps);
}

/* mars.h: the clip of tensor i's c, whose norm follows from the sums; and what will be known of its g_prev. */
RULE_FUNCTION void correction_coeffs(const StepInputs *s, const StepResult *result, UpdateCoeffs *r, int i) {
    double k = s->k, factor = result->factor, prev_grad = s->prev_factor[i];
    double squares = (1.0 + k) * (1.0 + k) * factor * factor * s->sums[i].squares -
                     2.0 * k * (1.0 + k) * factor * prev_grad * s->sums[i].dot + k * k * s->prev_squares[i];
    double norm = sqrt(fmax(0.0, squares));
    r->c_factor = norm > 1.0 ? (float)(1.0 / norm) : 1.0f;
    r->prev_factor = (float)prev_grad;
    const GradientSums *newest = &s->sums[s->exact ? s->tensors + i : i];
    s->prev_factor[i] = result->prev_factor;
    s->prev_squares[i] = result->prev_factor * result->prev_factor * newest->squares;
}

/* The numbers of tensor i in a step that is not skipped. The bias corrections are those of the betas as floats, with
 * which averages are made: 1 - 0.99999f is 0.14 % too large. */
RULE_FUNCTION void tensor_coeffs(const StepInputs *s, const StepResult *result, int i) {
    const TensorPlan *plan = &s->plans[i];
    UpdateCoeffs r = plan->fixed;
    double rate = plan->lr_mult * (plan->uses_muon_lr ? s->muon_learning_rate : s->learning_rate);
    r.gradient_factor = (float)result->factor;
    r.learning_rate = (float)rate;
    r.step = (float)(rate * plan->step_factor);
    r.correction1 = (float)(1.0 / (1.0 - pow((double)r.beta1, (double)result->updates)));
    r.correction2 = (float)(1.0 / (1.0 - pow((double)r.beta2, (double)result->updates)));
    if (s->snr) {
        bool first = result->updates == 1;
        if (first) s->snr[i] = snr_coeff(s, &s->sums[i], plan->elements, result->factor);
        if (first) r.momentum = 0.0f;
        r.snr = (float)s->snr[i];
    }
    if (plan->uses_prev_grad) correction_coeffs(s, result, &r, i);
    s->coeffs[i] = r;
}

#endif
