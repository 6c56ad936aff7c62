/* rules.c: the tables of rules and of optimizers (see rules.h). */
#include "optim/rules.h"

#define ELEMENTWISE_LINE(name, prev_grad, count, ...) \
    [RULE_##name] = {.uses_prev_grad = prev_grad, .states = count, .state_names = {__VA_ARGS__}},
#define MATRIX_LINE(name, prev_grad, count, ...)   \
    [RULE_##name] = {.is_matrix = true,            \
                     .uses_prev_grad = prev_grad,  \
                     .states = count,              \
                     .state_names = {__VA_ARGS__}, \
                     .step_factor = name##_step_factor},

static const Rule rules[] = {ELEMENTWISE_RULES(ELEMENTWISE_LINE) MATRIX_RULES(MATRIX_LINE)};

/* clang-format off */
#define EVERYTHING {[ROLE_MATRIX] = true, [ROLE_EMBEDDING] = true, [ROLE_VECTOR] = true}
#define MATRICES_AND_EMBEDDINGS {[ROLE_MATRIX] = true, [ROLE_EMBEDDING] = true}
#define MATRICES {[ROLE_MATRIX] = true}

static const Optimizer optimizers[OPTIM_COUNT] = {
    [OPTIM_ADAMW]            = {RULE_adamw, RULE_none, EVERYTHING, REST_AS_MAIN, false},
    [OPTIM_MARS_ADAMW]       = {RULE_mars_adamw, RULE_adamw, MATRICES_AND_EMBEDDINGS, REST_AS_MARS, false},
    [OPTIM_MARS_LION]        = {RULE_mars_lion, RULE_adamw, MATRICES_AND_EMBEDDINGS, REST_AS_MARS, false},
    [OPTIM_MARS_SHAMPOO]     = {RULE_mars_shampoo, RULE_adamw, MATRICES_AND_EMBEDDINGS, REST_AS_MARS, false},
    [OPTIM_MUON]             = {RULE_muon, RULE_adamw, MATRICES_AND_EMBEDDINGS, REST_AS_MUON, true},
    [OPTIM_MOONLIGHT]        = {RULE_moonlight, RULE_adamw, MATRICES, REST_AS_MOONLIGHT, false},
    [OPTIM_MARS_M]           = {RULE_mars_m, RULE_adamw, MATRICES, REST_AS_MOONLIGHT, false},
    [OPTIM_MARS_M_EFFICIENT] = {RULE_mars_m_efficient, RULE_adamw, MATRICES, REST_AS_MOONLIGHT, false},
    [OPTIM_SGD_SAI]          = {RULE_sgd_sai, RULE_none, EVERYTHING, REST_AS_MAIN, false},
};
/* clang-format on */

const Rule *rule_of(RuleName name) { return &rules[name]; }

Optimizer rules_optimizer(const OptimConfig *config) {
    Optimizer optimizer = optimizers[config->name];
    if (!config->optimize_1d || optimizer.rest_numbers != REST_AS_MARS) return optimizer;
    /* Vectors follow the rule too. They have no matrix to orthogonalise, so MARS-Shampoo's follow MARS-AdamW. */
    optimizer.rest_numbers = REST_AS_MAIN;
    if (config->name == OPTIM_MARS_SHAMPOO)
        optimizer.rest = RULE_mars_adamw;
    else
        optimizer.covers[ROLE_VECTOR] = true;
    return optimizer;
}
