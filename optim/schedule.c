/* schedule.c: the five learning-rate schedules (formulas in schedule.h). */
#include "optim/schedule.h"

#include <math.h>

static double trapezoidal(const ScheduleConfig *s, double peak, double step) {
    if (step < s->warmup_iters) return peak * (step + 1) / s->warmup_iters;
    if (step < s->max_iters - s->warmdown_iters) return peak;
    return peak * (s->max_iters - step) / s->warmdown_iters;
}

/* From peak to min_lr by `fraction_left`(r), which falls from 1 to (nearly) 0 as r goes from 0 to 1. */
static double decay(const ScheduleConfig *s, double peak, double step, double (*fraction_left)(double r)) {
    if (step > s->lr_decay_iters) return s->min_lr;
    double r = (step - s->warmup_iters) / (s->lr_decay_iters - s->warmup_iters);
    return s->min_lr + fraction_left(r) * (peak - s->min_lr);
}

static double half_cosine(double r) { return 0.5 * (1.0 + cos(3.14159265358979323846 * r)); }
static double exponential(double r) { return pow(0.9, 100.0 * r); }

double schedule_rate(const ScheduleConfig *s, double peak, int64_t step_index) {
    double step = (double)step_index, N = s->max_iters;
    if (s->name == SCHEDULE_TRAPEZOIDAL) return trapezoidal(s, peak, step);
    if (step < s->warmup_iters) return peak * step / s->warmup_iters;
    switch (s->name) {
    case SCHEDULE_COSINE:
        return decay(s, peak, step, half_cosine);
    case SCHEDULE_EXP:
        return decay(s, peak, step, exponential);
    case SCHEDULE_WSD:
        return step < 0.8 * N ? peak : peak * (N - step) / (0.2 * N);
    default:
        return peak;
    }
}
