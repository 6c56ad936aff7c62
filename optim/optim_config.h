/* optim_config.h: which optimizer, its numbers, and how its rate changes: the config file's "optimizer" and
 * "schedule" sections. */
#ifndef MARS_OPTIM_OPTIM_CONFIG_H
#define MARS_OPTIM_OPTIM_CONFIG_H

#include <stdbool.h>

/* OPTIMIZER(name in the code, name for users) */
#define OPTIMIZERS(OPTIMIZER)                       \
    OPTIMIZER(ADAMW, "adamw")                       \
    OPTIMIZER(MARS_ADAMW, "mars-adamw")             \
    OPTIMIZER(MARS_LION, "mars-lion")               \
    OPTIMIZER(MARS_SHAMPOO, "mars-shampoo")         \
    OPTIMIZER(MUON, "muon")                         \
    OPTIMIZER(MOONLIGHT, "moonlight")               \
    OPTIMIZER(MARS_M, "mars-m")                     \
    OPTIMIZER(MARS_M_EFFICIENT, "mars-m-efficient") \
    OPTIMIZER(SGD_SAI, "sgd-sai")

/* SGD-SaI was published under another name too. */
#define OPTIM_SGD_SAI_ALIAS "sgd-boost"

#define OPTIM_ENUMERATOR(name, text) OPTIM_##name,
typedef enum OptimName { OPTIMIZERS(OPTIM_ENUMERATOR) OPTIM_COUNT } OptimName;

/* The type that Newton-Schulz iterations run in; auto is the backend's activation type. */
typedef enum NsDtype { NS_DTYPE_AUTO, NS_DTYPE_BFLOAT16, NS_DTYPE_FLOAT32 } NsDtype;

/* Which of these an optimizer uses is said in optim/rules.c and, for users, by the table of config keys. */
typedef struct OptimConfig {
    OptimName name;
    double learning_rate; /* the schedule's peak */
    double weight_decay;  /* decoupled; hidden matrices only, except where a rule says otherwise */
    double beta1, beta2;  /* decay of the moving averages of g (or c) and of its square */
    double eps;
    double grad_clip;      /* largest global gradient norm; 0 = off */
    double gradient_scale; /* multiplies the mean gradient before clipping */

    double gamma;     /* MARS: how much of the gradient's change is added */
    bool is_approx;   /* MARS: the last gradient is that of the step before, not taken anew at this step's batch */
    bool optimize_1d; /* MARS: vectors follow the rule too, instead of AdamW */
    double lr_1d;     /* AdamW of the tensors that the rule leaves out */
    double betas_1d[2];
    double weight_decay_1d;

    double muon_learning_rate, muon_weight_decay; /* muon: of the 2-D tensors */
    double momentum;
    bool nesterov;
    int ns_steps; /* iterations of Newton-Schulz */
    NsDtype ns_dtype;
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
