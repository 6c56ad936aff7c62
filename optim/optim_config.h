/* optim_config.h: which optimizer, its numbers, and how its rate changes: the config file's "optimizer" and
 * "schedule" sections. */
#ifndef MARS_OPTIM_OPTIM_CONFIG_H
#define MARS_OPTIM_OPTIM_CONFIG_H

typedef enum OptimName { OPTIM_ADAMW } OptimName;

typedef struct OptimConfig {
    OptimName name;
    double learning_rate; /* the schedule's peak */
    double weight_decay;  /* decoupled; hidden matrices only */
    double beta1, beta2;  /* decay of the moving averages of g and g^2 */
    double eps;
    double grad_clip;      /* largest global gradient norm; 0 = off */
    double gradient_scale; /* multiplies the mean gradient before clipping */
} OptimConfig;

typedef enum ScheduleName {
    SCHEDULE_CONSTANT,
    SCHEDULE_COSINE,
    SCHEDULE_WSD,
    SCHEDULE_TRAPEZOIDAL,
    SCHEDULE_EXP
} ScheduleName;

typedef struct ScheduleConfig {
    ScheduleName name;
    int warmup_iters;
    int lr_decay_iters; /* cosine, exp: the step at which min_lr is reached */
    double min_lr;
    int warmdown_iters; /* trapezoidal: steps of the final descent to 0 */
    int max_iters;      /* length of the run */
} ScheduleConfig;

#endif
