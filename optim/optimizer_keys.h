/* optimizer_keys.h: the settings of an optimizer, each with its range and meaning, once: the config file's parser makes
 * its keys of this list (config/config_keys.c), and optim_open() checks by it what a program without a config file sets.
 * A new setting is a field of OptimConfig and a line here; which rules read it and its default is in optimizers.h and
 * optimizers.c. */
#ifndef MARS_OPTIM_OPTIMIZER_KEYS_H
#define MARS_OPTIM_OPTIMIZER_KEYS_H

#include <math.h>
#include <stddef.h>

#include "optim/optim_config.h"

/* Ranges: fields of OptimizerKey and of the config's ConfigKey. */
#define ANY .minimum = 0
#define AT_LEAST(low) .minimum = low, .maximum = INFINITY
#define ABOVE(low) .minimum = low, .maximum = INFINITY, .above_minimum = true
#define FROM_TO(low, high) .minimum = low, .maximum = high
#define FROM_BELOW(low, high) .minimum = low, .maximum = high, .below_maximum = true
#define ONE_OF(names) .choices = names
/* And 0 in the struct, which no user can write, means that the key is not given: the value is another key's. */
#define OR_ABSENT , .zero_is_absent = true

/* KEY(field of OptimConfig, range, help) */
#define LEARNING_RATE_KEY(KEY) KEY(learning_rate, ABOVE(0), "the schedule's peak")
#define GRADIENT_SCALE_KEY(KEY) KEY(gradient_scale, ABOVE(0), "factor on the mean gradient, before clipping")

/* Those whose defaults are in the table of optimizers. */
/* clang-format off */
#define OPTIMIZER_KEYS(KEY)                                                                                            \
    KEY(embedding_lr, ABOVE(0) OR_ABSENT, "the same of embeddings")                                                    \
    KEY(lm_head_lr, ABOVE(0) OR_ABSENT, "the same of an LM head of its own")                                           \
    KEY(lr_1d, ABOVE(0) OR_ABSENT, "the same of vectors")                                                              \
    KEY(weight_decay, AT_LEAST(0), "decoupled; see --list_optimizers")                                                 \
    KEY(cautious_weight_decay, ANY, "decay only where the update and x have one sign")                                 \
    KEY(beta1, FROM_BELOW(0, 1), "decay of the moving average of g (in mars, of c)")                                   \
    KEY(beta2, FROM_BELOW(0, 1), "the same of its square")                                                             \
    KEY(eps, ABOVE(0), "keeps divisors from 0, such as adamw's root")                                                  \
    KEY(grad_clip, AT_LEAST(0), "largest global norm of the gradient; 0 = off")                                        \
    KEY(gamma, AT_LEAST(0), "share of the gradient's change in c")                                                     \
    KEY(is_approx, ANY, "false: a second gradient each step")                                                          \
    KEY(optimize_1d, ANY, "vectors follow the rule too, instead of AdamW")                                             \
    KEY(betas_1d, FROM_BELOW(0, 1), "beta1, beta2 of AdamW next to the rule")                                          \
    KEY(weight_decay_1d, AT_LEAST(0), "of AdamW on the vectors")                                                       \
    KEY(muon_learning_rate, ABOVE(0), "the schedule's peak of tensors under its rule")                            \
    KEY(muon_weight_decay, AT_LEAST(0), "decoupled; the same tensors")                                              \
    KEY(muon_embeddings, ANY, "false: AdamW for embeddings and LM head")                                               \
    KEY(muon_beta2, FROM_BELOW(0, 1), "decay of the moving average of a row's squares")                                \
    KEY(momentum, FROM_BELOW(0, 1), "of g")                                                                            \
    KEY(nesterov, ANY, "momentum that looks a step ahead")                                                             \
    KEY(ns_steps, FROM_TO(1, 100) OR_ABSENT, "iterations of Newton-Schulz; cubic: 12")                                 \
    KEY(ns_coefficients, ONE_OF(ns_coefficients_names), "its polynomials; polar-express has 5 steps")                  \
    KEY(ns_dtype, ONE_OF(ns_dtype_names), "type that it runs in; auto = as activations")                               \
    KEY(muon_scale, ONE_OF(muon_scale_names), "length of a matrix's step; auto = the rule's own")                      \
    KEY(split_qkv, ANY, "orthogonalise query, key, value one by one")
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
    size_t offset;                     /* of the value in OptimConfig */
    double minimum, maximum;           /* of an int, a number, each of a pair */
    bool above_minimum, below_maximum; /* true: the limit itself is outside */
    bool zero_is_absent;
    const char *const *choices; /* ends with NULL */
} OptimizerKey;

EXTERN_C_BEGIN

extern const char *const ns_dtype_names[], *const ns_coefficients_names[], *const muon_scale_names[];

/* Whether every setting is in its range, and optimizer_check() finds nothing. */
bool optimizer_check_ranges(const OptimConfig *config, Error *error);

/* Whether settings that are in their ranges fit each other. If not, *keys are the keys concerned, such as
 * "optimizer.beta1 optimizer.name"; the message begins with the first of them, without its section. */
bool optimizer_check(const OptimConfig *config, const char **keys, Error *error);

EXTERN_C_END

#endif
