/* rules.h: the update rules, each an inline function of one element in a small header of its own, and which optimizer
 * applies which rule to which tensors.
 *
 * A rule is written once. The lists below name all of them, and the loops of both devices are made out of the lists
 * (multi_tensor.c, multi_tensor.cu). A new elementwise optimizer is one header, a line in ELEMENTWISE_RULES, one in the
 * table of optimizers (rules.c), and its name in optim_config.h; numbers that no other rule has are a field of
 * UpdateCoeffs, set in tensor_plan.c or step_coeffs.h, and a key of the config. */
#ifndef MARS_OPTIM_RULES_H
#define MARS_OPTIM_RULES_H

#include "optim/optim_config.h"
#include "optim/rules/adamw.h"
#include "optim/rules/mars_adamw.h"
#include "optim/rules/mars_lion.h"
#include "optim/rules/mars_m.h"
#include "optim/rules/mars_m_efficient.h"
#include "optim/rules/mars_shampoo.h"
#include "optim/rules/moonlight.h"
#include "optim/rules/muon.h"
#include "optim/rules/sgd_sai.h"
#include "util/tensor_table.h"

/* RULE(name, uses g_prev, number of states, names of the states)
 * NAME_element(x, g, last, state, numbers) returns the new x. */
#define ELEMENTWISE_RULES(RULE)         \
    RULE(adamw, false, 2, "m", "v")     \
    RULE(mars_adamw, true, 2, "m", "v") \
    RULE(mars_lion, true, 1, "m")       \
    RULE(sgd_sai, false, 1, "m")

/* NAME_direction(g, last, state, numbers) returns an element of the matrix that Newton-Schulz makes orthogonal, and
 * NAME_step_factor(rows, columns) how far to go along the result, in learning rates. */
#define MATRIX_RULES(RULE)           \
    RULE(muon, false, 1, "b")        \
    RULE(moonlight, false, 1, "b")   \
    RULE(mars_shampoo, true, 1, "m") \
    RULE(mars_m, true, 1, "m")       \
    RULE(mars_m_efficient, false, 1, "b")

enum { RULE_MAX_STATES = 2 };

#define RULE_ENUMERATOR(name, ...) RULE_##name,
typedef enum RuleName {
    RULE_none,
    ELEMENTWISE_RULES(RULE_ENUMERATOR) MATRIX_RULES(RULE_ENUMERATOR) RULE_COUNT
} RuleName;

typedef struct Rule {
    bool is_matrix;
    bool uses_prev_grad;
    int states;
    const char *state_names[RULE_MAX_STATES];
    double (*step_factor)(double rows, double columns); /* of matrix rules */
} Rule;

/* Where the rule of the tensors that an optimizer's own rule leaves out has its numbers from. */
typedef enum RestNumbers {
    REST_AS_MAIN,     /* as the main rule: learning_rate, beta1, beta2, weight_decay on matrices */
    REST_AS_MARS,     /* lr_1d, betas_1d, weight_decay_1d */
    REST_AS_MUON,     /* learning_rate, beta1, beta2, weight_decay on every tensor */
    REST_AS_MOONLIGHT /* learning_rate, betas_1d, weight_decay on every tensor */
} RestNumbers;

/* An optimizer: its own rule, for tensors of some roles, and another for the rest. */
typedef struct Optimizer {
    RuleName main, rest;
    bool covers[ROLE_COUNT]; /* roles that the main rule is for */
    RestNumbers rest_numbers;
    bool uses_muon_lr; /* the main rule goes by muon_learning_rate and muon_weight_decay */
} Optimizer;

EXTERN_C_BEGIN

const Rule *rule_of(RuleName name);

/* The optimizer that a config asks for. */
Optimizer rules_optimizer(const OptimConfig *config);

EXTERN_C_END

#endif
