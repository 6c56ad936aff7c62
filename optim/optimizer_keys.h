/* optimizer_keys.h: the list of an optimizer's settings, with range and meaning. The config file's parser makes its
 * keys from this list (config/config_keys.c), and optim_open() checks the settings of programs without a config file by
 * it. A new setting is a field of OptimConfig and a line here; optimizers.h and optimizers.c say which rules read it,
 * and its default. */
#ifndef MARS_OPTIM_OPTIMIZER_KEYS_H
#define MARS_OPTIM_OPTIMIZER_KEYS_H

#include <math.h>
#include <stddef.h>

#include "optim/optim_config.h"
#include "util/range.h"

/* KEY(field of OptimConfig, minimum, maximum, limits, choices, help)
 * Minimum and maximum are of an int, a number, each of a pair; choices are the names of an enumeration, else NULL. */
#define LEARNING_RATE_KEY(KEY) KEY(learning_rate, 0, INFINITY, ABOVE_MINIMUM, NULL, "the schedule's peak")
#define GRADIENT_SCALE_KEY(KEY) \
    KEY(gradient_scale, 0, INFINITY, ABOVE_MINIMUM, NULL, "factor on the mean gradient, before clipping")

/* Those whose defaults are in the table of optimizers. */
/* clang-format off */
#define OPTIMIZER_KEYS(KEY)                                                                                            \
    KEY(embedding_lr, 0, INFINITY, ABOVE_MINIMUM | OR_ABSENT, NULL, "the peak of embeddings")                          \
    KEY(lm_head_lr, 0, INFINITY, ABOVE_MINIMUM | OR_ABSENT, NULL, "the peak of an LM head of its own")                 \
    KEY(lr_1d, 0, INFINITY, ABOVE_MINIMUM | OR_ABSENT, NULL, "the peak of vectors")                                    \
    KEY(weight_decay, 0, INFINITY, 0, NULL, "decoupled; see --list_optimizers")                                        \
    KEY(cautious_weight_decay, 0, 0, 0, NULL, "decay only where the update and x have one sign")                       \
    KEY(beta1, 0, 1, BELOW_MAXIMUM, NULL, "decay of the moving average of g (in mars, of c)")                          \
    KEY(beta2, 0, 1, BELOW_MAXIMUM, NULL, "decay of the moving average of its square")                                 \
    KEY(eps, 0, INFINITY, ABOVE_MINIMUM, NULL, "keeps divisors from 0, such as adamw's root")                          \
    KEY(grad_clip, 0, INFINITY, 0, NULL, "largest global norm of the gradient; 0 = off")                               \
    KEY(gamma, 0, INFINITY, 0, NULL, "weight of the gradient's change in c")                                           \
    KEY(is_approx, 0, 0, 0, NULL, "false: a second gradient each step")                                                \
    KEY(optimize_1d, 0, 0, 0, NULL, "vectors follow the rule too, instead of AdamW")                                   \
    KEY(betas_1d, 0, 1, BELOW_MAXIMUM, NULL, "beta1, beta2 of AdamW next to the rule")                                 \
    KEY(weight_decay_1d, 0, INFINITY, 0, NULL, "of AdamW on the vectors")                                              \
    KEY(muon_learning_rate, 0, INFINITY, ABOVE_MINIMUM, NULL, "the schedule's peak of tensors under its rule")         \
    KEY(muon_weight_decay, 0, INFINITY, 0, NULL, "decoupled; the same tensors")                                        \
    KEY(muon_embeddings, 0, 0, 0, NULL, "false: AdamW for embeddings and LM head")                                     \
    KEY(muon_beta2, 0, 1, BELOW_MAXIMUM, NULL, "decay of the moving average of a row's squares")                       \
    KEY(momentum, 0, 1, BELOW_MAXIMUM, NULL, "decay of the momentum")                                                \
    KEY(nesterov, 0, 0, 0, NULL, "momentum that looks a step ahead")                                                   \
    KEY(ns_steps, 1, 100, OR_ABSENT, NULL, "iterations of Newton-Schulz; cubic: 12")                                   \
    KEY(ns_coefficients, 0, 0, 0, ns_coefficients_names, "its polynomials; polar-express has 5 steps")                 \
    KEY(ns_dtype, 0, 0, 0, ns_dtype_names, "type that it runs in; auto = as activations")                              \
    KEY(muon_scale, 0, 0, 0, muon_scale_names, "length of a matrix's step; auto = the rule's own")                     \
    KEY(split_qkv, 0, 0, 0, NULL, "orthogonalise query, key, value one by one")
/* clang-format on */

typedef enum OptimizerKeyType {
    OPTIMIZER_KEY_BOOL,
    OPTIMIZER_KEY_INT,
    OPTIMIZER_KEY_NUMBER, /* double */
    OPTIMIZER_KEY_PAIR,   /* double[2] */
    OPTIMIZER_KEY_CHOICE  /* an enumeration; choices[value] is its name */
} OptimizerKeyType;

typedef struct OptimizerKey {
    const char *name;
    OptimizerKeyType type;
    size_t offset; /* of the value in OptimConfig */
    double minimum, maximum;
    unsigned limits;            /* RangeLimits */
    const char *const *choices; /* ends with NULL */
} OptimizerKey;

EXTERN_C_BEGIN

extern const char *const ns_dtype_names[], *const ns_coefficients_names[], *const muon_scale_names[];

/* Whether every setting is in its range, and optimizer_check() finds nothing. */
bool optimizer_check_ranges(const OptimConfig *config, Error *error);

/* Whether settings that are in their ranges fit each other. If not, *concerned lists the keys, such as
 * "optimizer.beta1 optimizer.name"; the message begins with the first of them, without its section. */
bool optimizer_check(const OptimConfig *config, const char **concerned, Error *error);

EXTERN_C_END

#endif
