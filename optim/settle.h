/* settle.h: what a step decides once the sums over its gradients are known: whether they are finite, the clip, and each
 * tensor's RuleNumbers. Written once, for both devices: the arithmetic is in double, the loops over tensors are those
 * of multi_tensor.c and multi_tensor.cu. All of it lives on the device, so that the host asks for the passes of a step
 * without knowing what comes of it.
 *
 * A step whose gradient is not finite is skipped: nothing here changes but the outcome, and the passes behind it see
 * that and do nothing. */
#ifndef MARS_OPTIM_SETTLE_H
#define MARS_OPTIM_SETTLE_H

#include <math.h>
#include <stdint.h>

#include "optim/rules/rule_numbers.h"

/* Sums over elements, in double. */
typedef struct GradientSums {
    double squares; /* of g */
    double dot; /* of g times g_last, where there is one */
    double sum;     /* of g, where asked for */
} GradientSums;

/* What no step changes for a tensor. */
typedef struct TensorPlan {
    RuleNumbers fixed; /* those of its numbers that stay; the others are 0 */
    double elements;
    double rate_share;  /* its learning rate, in those of the step that it goes by */
    double step_factor; /* matrix rules: how far to go, in learning rates */
    bool has_own_rate;  /* it goes by muon_learning_rate */
    bool uses_last;
} TensorPlan;

/* What a step did. Between steps, what the next one begins with. */
typedef struct StepOutcome {
    int64_t updates; /* made so far, this step's among them */
    double grad_norm;
    double factor, last_factor; /* gradient_factor of today's gradient, and of the one that becomes g_last */
    int nonfinite_tensor;       /* as in OptimResult */
    bool of_next_batch;
    bool skipped;
} StepOutcome;

/* All that a step goes by; pointers are to the device's memory. */
typedef struct Settlement {
    int tensors;
    bool exact; /* a second gradient */
    double gradient_scale, grad_clip, eps;
    double k;                                 /* mars.h */
    const TensorPlan *plans;                  /* (tensors) */
    const GradientSums *sums;                 /* (tensors) of today's gradient, and behind them of the second one */
    double *last_factor, *last_squares, *snr; /* (tensors) what is kept between steps; NULL where no rule needs it */
    RuleNumbers *numbers;                     /* (tensors) */
    StepOutcome *outcome;
    double learning_rate, muon_learning_rate; /* of this step */
} Settlement;

/* The first of the tensors whose gradient is not finite, -1 if there is none; `squares` is the sum over all tensors. As
 * squares of floats cannot overflow a double, it is finite only where all of them are. */
RULE_FUNCTION int settle_nonfinite(const GradientSums *sums, int tensors, double squares) {
    if (isfinite(squares)) return -1;
    for (int i = 0; i < tensors; i++)
        if (!isfinite(sums[i].squares)) return i;
    return -1;
}

/* gradient_scale times the clip. The largest norm is 1 as torch.nn.utils.clip_grad_norm_ counts it, with 1e-6 added to
 * the norm. */
RULE_FUNCTION double settle_factor(const Settlement *s, double norm) {
    double clip = s->grad_clip > 0.0 ? fmin(1.0, s->grad_clip / (norm + 1e-6)) : 1.0;
    return s->gradient_scale * clip;
}

/* The step's outcome, from the sums of squares over all tensors: of today's gradient, and in the exact form of the
 * second one. */
RULE_FUNCTION StepOutcome settle_outcome(const Settlement *s, double squares, double second_squares) {
    StepOutcome outcome;
    outcome.grad_norm = sqrt(squares) * s->gradient_scale;
    outcome.nonfinite_tensor = settle_nonfinite(s->sums, s->tensors, squares);
    if (outcome.nonfinite_tensor >= 0) outcome.grad_norm = INFINITY;
    outcome.of_next_batch = false;
    if (s->exact && outcome.nonfinite_tensor < 0) {
        outcome.nonfinite_tensor = settle_nonfinite(s->sums + s->tensors, s->tensors, second_squares);
        outcome.of_next_batch = outcome.nonfinite_tensor >= 0;
    }
    outcome.skipped = outcome.nonfinite_tensor >= 0;
    outcome.updates = s->outcome->updates + (outcome.skipped ? 0 : 1);
    outcome.factor = settle_factor(s, outcome.grad_norm);
    outcome.last_factor = s->exact ? settle_factor(s, sqrt(second_squares) * s->gradient_scale) : outcome.factor;
    return outcome;
}

/* sgd_sai.h: a tensor's rate, from its first gradient. */
RULE_FUNCTION double settle_snr(const Settlement *s, const GradientSums *sums, double elements, double factor) {
    if (elements <= 1.0) return 1.0;
    double squares = sums->squares, sum = sums->sum;
    double spread = sqrt(fmax(0.0, (squares - sum * sum / elements) / (elements - 1.0)));
    return factor * sqrt(squares) / (factor * spread + s->eps);
}

/* mars.h: the clip of tensor i's c, whose norm follows from the sums; and what will be known of its g_last. */
RULE_FUNCTION void settle_correction(const Settlement *s, const StepOutcome *outcome, RuleNumbers *r, int i) {
    double k = s->k, factor = outcome->factor, last = s->last_factor[i];
    double squares = (1.0 + k) * (1.0 + k) * factor * factor * s->sums[i].squares -
                     2.0 * k * (1.0 + k) * factor * last * s->sums[i].dot + k * k * s->last_squares[i];
    double norm = sqrt(fmax(0.0, squares));
    r->c_factor = norm > 1.0 ? (float)(1.0 / norm) : 1.0f;
    r->last_factor = (float)last;
    const GradientSums *newest = &s->sums[s->exact ? s->tensors + i : i];
    s->last_factor[i] = outcome->last_factor;
    s->last_squares[i] = outcome->last_factor * outcome->last_factor * newest->squares;
}

/* The numbers of tensor i in a step that is not skipped. The bias corrections are those of the betas as floats, with
 * which averages are made: 1 - 0.99999f is 0.14 % too large. */
RULE_FUNCTION void settle_tensor(const Settlement *s, const StepOutcome *outcome, int i) {
    const TensorPlan *plan = &s->plans[i];
    RuleNumbers r = plan->fixed;
    double rate = plan->rate_share * (plan->has_own_rate ? s->muon_learning_rate : s->learning_rate);
    r.gradient_factor = (float)outcome->factor;
    r.learning_rate = (float)rate;
    r.step = (float)(rate * plan->step_factor);
    r.correction1 = (float)(1.0 / (1.0 - pow((double)r.beta1, (double)outcome->updates)));
    r.correction2 = (float)(1.0 / (1.0 - pow((double)r.beta2, (double)outcome->updates)));
    if (s->snr) {
        bool first = outcome->updates == 1;
        if (first) s->snr[i] = settle_snr(s, &s->sums[i], plan->elements, outcome->factor);
        if (first) r.momentum = 0.0f;
        r.snr = (float)s->snr[i];
    }
    if (plan->uses_last) settle_correction(s, outcome, &r, i);
    s->numbers[i] = r;
}

#endif
