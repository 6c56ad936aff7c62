/* schedule.h: how a learning rate changes over a run. */
#ifndef MARS_OPTIM_SCHEDULE_H
#define MARS_OPTIM_SCHEDULE_H

#include "optim/optim_config.h"
#include "util/base.h"

EXTERN_C_BEGIN

/* The rate at the 0-based step `step` of a schedule whose peak is `peak`. optim_rates() calls it for each parameter
 * group with the group's own peak. `step` is below max_iters. With w = warmup_iters, N = max_iters, d = warmdown_iters:
 *   constant     peak step/w while step < w; then peak
 *   cosine       the same warm-up; then min_lr + (peak - min_lr) (1 + cos(pi r))/2,
 *                r = (step - w)/(lr_decay_iters - w); min_lr past lr_decay_iters
 *   exp          as cosine with 0.9^(100 r) for the cosine term
 *   wsd          the same warm-up; peak while step < 0.8 N; then peak (N - step)/(0.2 N)
 *   trapezoidal  peak (step + 1)/w while step < w; peak; then peak (N - step)/d over the last d steps */
double schedule_rate(const ScheduleConfig *schedule, double peak, int64_t step);

EXTERN_C_END

#endif
