/* optim_config.h: which optimizer, its settings, and how its rate changes: the config file's "optimizer" and
 * "schedule" sections, with train.gradient_scale and train.max_iters. */
#ifndef MARS_OPTIM_OPTIM_CONFIG_H
#define MARS_OPTIM_OPTIM_CONFIG_H

#include <stdbool.h>

#include "util/error.h"

EXTERN_C_BEGIN

/* The optimizers, in the order of their table (optimizers.c). */
typedef enum OptimName {
    OPTIM_ADAMW,
    OPTIM_MARS_ADAMW,
    OPTIM_MARS_LION,
    OPTIM_MARS_SHAMPOO,
    OPTIM_MUON,
    OPTIM_MOONLIGHT,
    OPTIM_MARS_M,
    OPTIM_MARS_M_EFFICIENT,
    OPTIM_SGD_SAI,
    OPTIM_NORMUON,
    OPTIM_MARS_NORMUON,
    OPTIM_COUNT
} OptimName;

/* An upper bound on the parameter groups of an optimizer. */
enum { OPTIM_MAX_GROUPS = 8 };

/* The type that Newton-Schulz iterations run in; auto is the backend's activation type. */
typedef enum NsDtype { NS_DTYPE_AUTO, NS_DTYPE_BFLOAT16, NS_DTYPE_FLOAT32 } NsDtype;

/* The polynomials of the Newton-Schulz iterations (newton_schulz.h). */
typedef enum NsCoefficients {
    NS_COEFFICIENTS_QUINTIC,
    NS_COEFFICIENTS_POLAR_EXPRESS,
    NS_COEFFICIENTS_CUBIC
} NsCoefficients;

/* The length of the step of a matrix of r rows and c columns along its orthogonal direction, in learning rates; auto is
 * the rule's own. */
typedef enum MuonScale {
    MUON_SCALE_AUTO,
    MUON_SCALE_SPECTRAL,  /* sqrt(max(1, r/c)) */
    MUON_SCALE_SQRT_MAX,  /* sqrt(max(r, c)) */
    MUON_SCALE_MOONLIGHT, /* 0.2 sqrt(max(r, c)) */
    MUON_SCALE_NONE       /* 1 */
} MuonScale;

/* Which of these an optimizer reads follows from its parameter groups (optimizers.h). */
typedef struct OptimConfig {
    OptimName name;
    double learning_rate;                   /* the schedule's peak */
    double embedding_lr, lm_head_lr, lr_1d; /* peaks of embeddings, LM head, and vectors; 0: learning_rate */
    double weight_decay;                    /* decoupled; which tensors decay follows from the parameter groups */
    bool cautious_weight_decay;             /* decay only elements that the update moves towards 0, or leaves alone */
    double beta1, beta2;                    /* decay of the moving averages of g (or c) and of its square */
    double eps;
    double grad_clip;      /* largest global gradient norm; 0 = off */
    double gradient_scale; /* multiplies the gradient, added up over ranks, before clipping */

    double gamma;           /* MARS: how much of the gradient's change is added */
    bool is_approx;         /* MARS: g_prev is the previous step's, not taken again at this step's batch */
    bool optimize_1d;       /* MARS: a MARS rule updates vectors, instead of AdamW */
    double betas_1d[2];     /* beta1, beta2 of AdamW in the MARS optimizers, moonlight and the mars-m forms */
    double weight_decay_1d; /* MARS: of AdamW on vectors */

    double muon_learning_rate, muon_weight_decay; /* muon, normuon: of the tensors under the matrix rule */
    bool muon_embeddings;                         /* muon, normuon: embeddings and LM head follow the matrix rule */
    double muon_beta2;                            /* normuon: decay of the moving average over squares of a row */
    double momentum;
    bool nesterov;
    int ns_steps; /* iterations of Newton-Schulz; 0: those of its coefficients, quintic 5, polar-express 5, cubic 12 */
    NsCoefficients ns_coefficients;
    NsDtype ns_dtype;
    MuonScale muon_scale;
    bool split_qkv; /* the query, key and value matrices of an attention layer are orthogonalised one by one */
} OptimConfig;

/* The names of the optimizers, in the order of OptimName, ending with NULL. */
extern const char *const optim_names[];

/* The optimizer of that name or alias; OPTIM_COUNT if there is none. */
OptimName optim_find(const char *name);

/* A config with the defaults that --list_optimizers shows, but embedding_lr, lm_head_lr, lr_1d and muon_learning_rate
 * are all learning_rate, which is above 0. `name` is below OPTIM_COUNT. */
OptimConfig optim_defaults(OptimName name, double learning_rate);

typedef enum ScheduleName {
    SCHEDULE_CONSTANT,
    SCHEDULE_COSINE,
    SCHEDULE_WSD,
    SCHEDULE_TRAPEZOIDAL,
    SCHEDULE_EXP
} ScheduleName;

/* For cosine and exp, lr_decay_iters is above warmup_iters; for trapezoidal, warmup_iters + warmdown_iters is at most
 * max_iters. The config file's parser checks it, schedule_rate() does not. */
typedef struct ScheduleConfig {
    ScheduleName name;
    int warmup_iters;
    int lr_decay_iters; /* cosine, exp: the step at which min_lr is reached */
    double min_lr;
    int warmdown_iters; /* trapezoidal: steps of the final descent to 0 */
    int max_iters;      /* length of the run */
} ScheduleConfig;

EXTERN_C_END

#endif
