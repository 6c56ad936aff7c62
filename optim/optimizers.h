/* optimizers.h: the tables of update rules and of optimizers. An optimizer is a list of parameter groups, as in
 * PyTorch; a group says which tensors it takes, which rule updates them, and which keys of the config give its learning
 * rate, betas and weight decay. The parser, --help, --list_optimizers, scripts, tests and benchmarks read these tables.
 *
 * A rule is one header in rules/, with the algorithm as in its paper and one inline function of an element. To add a
 * rule: write its header, include it below, and add its line to ELEMENTWISE_RULES or MATRIX_RULES. To add an optimizer:
 * add its line to OPTIMIZERS in optimizers.c and its name to OptimName, at the same position. A new setting is a field
 * of OptimConfig, a line in optimizer_keys.h and a default in optimizers.c. The loops of both devices
 * (multi_tensor.c, multi_tensor.cu) are made from the lists here. */
#ifndef MARS_OPTIM_OPTIMIZERS_H
#define MARS_OPTIM_OPTIMIZERS_H

#include "optim/optim_config.h"
#include "optim/rules/adamw.h"
#include "optim/rules/mars_adamw.h"
#include "optim/rules/mars_lion.h"
#include "optim/rules/mars_m.h"
#include "optim/rules/mars_m_efficient.h"
#include "optim/rules/mars_normuon.h"
#include "optim/rules/mars_shampoo.h"
#include "optim/rules/moonlight.h"
#include "optim/rules/muon.h"
#include "optim/rules/normuon.h"
#include "optim/rules/sgd_sai.h"
#include "util/tensor_table.h"

/* ---- rules ---- */

/* The function of a rule, f(g, prev_grad, state, coeffs), updates the states of one element and returns its direction.
 * `needs` is 0 or what RuleNeeds lists. `keys` are the config's keys that the rule reads, apart from those of its
 * group. The number of states is that of the states of one number per element. */

/* RULE(name, name for users, function, needs, keys, number of states, names of the states)
 * Elementwise rules: x <- x - lr (wd x + direction). */
#define ELEMENTWISE_RULES(RULE)                                                                                        \
    RULE(RULE_ADAMW, "adamw", adamw_direction, 0, "beta1 beta2 eps", 2, "m", "v")                                      \
    RULE(RULE_MARS_ADAMW, "mars-adamw", mars_adamw_direction, RULE_NEEDS_PREV_GRAD, "beta1 beta2 eps gamma is_approx", \
         2, "m", "v")                                                                                                  \
    RULE(RULE_MARS_LION, "mars-lion", mars_lion_direction, RULE_NEEDS_PREV_GRAD, "beta1 gamma is_approx", 1, "m")      \
    RULE(RULE_SGD_SAI, "sgd-sai", sgd_sai_direction, RULE_NEEDS_SNR, "momentum eps", 1, "m")

/* RULE(name, name for users, function, needs, keys, scale, number of states, names of the states, and with
 * RULE_NEEDS_LINES the name of the state of lines)
 * Matrix rules: Newton-Schulz makes the matrix of directions orthogonal. `scale` is the muon_scale if the config's is
 * auto. */
#define MATRIX_RULES(RULE)                                                                                             \
    RULE(RULE_MUON, "muon", muon_direction, 0, "momentum nesterov", MUON_SCALE_SPECTRAL, 1, "b")                       \
    RULE(RULE_MOONLIGHT, "moonlight", moonlight_direction, 0, "momentum nesterov", MUON_SCALE_MOONLIGHT, 1, "b")       \
    RULE(RULE_MARS_SHAMPOO, "mars-shampoo", mars_shampoo_direction, RULE_NEEDS_PREV_GRAD, "beta1 gamma is_approx",     \
         MUON_SCALE_SPECTRAL, 1, "m")                                                                                  \
    RULE(RULE_MARS_M, "mars-m", mars_m_direction, RULE_NEEDS_PREV_GRAD, "beta1 gamma is_approx", MUON_SCALE_MOONLIGHT, \
         1, "m")                                                                                                       \
    RULE(RULE_MARS_M_EFFICIENT, "mars-m-efficient", mars_m_efficient_direction, 0, "beta1 gamma",                      \
         MUON_SCALE_MOONLIGHT, 1, "b")                                                                                 \
    RULE(RULE_NORMUON, "normuon", normuon_direction, RULE_NEEDS_LINES, "momentum nesterov muon_beta2",                 \
         MUON_SCALE_SPECTRAL, 1, "b", "v")                                                                             \
    RULE(RULE_MARS_NORMUON, "mars-normuon", mars_normuon_direction, RULE_NEEDS_PREV_GRAD | RULE_NEEDS_LINES,           \
         "beta1 gamma is_approx muon_beta2", MUON_SCALE_SPECTRAL, 1, "m", "v")

enum { RULE_MAX_STATES = 2 };

#define RULE_ENUMERATOR(rule, ...) rule,
typedef enum RuleName { ELEMENTWISE_RULES(RULE_ENUMERATOR) MATRIX_RULES(RULE_ENUMERATOR) RULE_COUNT } RuleName;

/* What a rule needs besides its gradient and states. */
typedef enum RuleNeeds {
    RULE_NEEDS_PREV_GRAD = 1, /* the previous gradient (rules/mars.h) */
    RULE_NEEDS_SNR = 2,       /* a tensor's signal-to-noise ratio (rules/sgd_sai.h) */
    RULE_NEEDS_LINES = 4      /* lines of equal size, with a state of one number per line (rules/normuon.h) */
} RuleNeeds;

/* The state that mars.h keeps, in checkpoints and in lists of states. */
#define PREV_GRAD_STATE "g_last"

typedef struct Rule {
    const char *name;
    bool is_matrix;
    bool uses_prev_grad, uses_snr, uses_lines;
    const char *keys;                         /* with blanks between them */
    int states;                               /* of one number per element */
    const char *state_names[RULE_MAX_STATES]; /* of these, and after them that of lines */
    MuonScale muon_scale;                     /* of a matrix rule, if the config's is auto */
} Rule;

/* ---- optimizers ---- */

/* Which key of the config is a group's peak learning rate. A rate follows the schedule with its own peak and min_lr.
 * LR_1D_OF_MAIN is the exception: the peak is lr_1d, and the rate follows that of learning_rate in proportion, so its
 * floor is min_lr lr_1d / learning_rate. AdamW's vectors next to a MARS rule (MARS-AdamW, MARS-Lion, MARS-Shampoo) have
 * LR_1D_OF_MAIN; those of all other optimizers, such as adamw and muon, have LR_1D. */
typedef enum LrKey { LR_MAIN, LR_MUON, LR_EMBEDDING, LR_LM_HEAD, LR_1D, LR_1D_OF_MAIN } LrKey;

/* beta1 and beta2, or betas_1d. */
typedef enum BetasKey { BETAS_MAIN, BETAS_1D } BetasKey;

/* No decay, weight_decay, muon_weight_decay or weight_decay_1d. */
typedef enum DecayKey { DECAY_NONE, DECAY_MAIN, DECAY_MUON, DECAY_1D } DecayKey;

/* The switches of a config that choose between two groups of the same roles. */
typedef enum GroupWhen {
    ALWAYS,
    WHEN_OPTIMIZE_1D,
    UNLESS_OPTIMIZE_1D,
    WHEN_MUON_EMBEDDINGS,
    UNLESS_MUON_EMBEDDINGS
} GroupWhen;

typedef struct ParamGroup {
    unsigned roles; /* bit 1 << TensorRole for each */
    RuleName rule;
    LrKey lr;
    BetasKey betas;
    DecayKey decay;
    GroupWhen when;
} ParamGroup;

/* `groups` ends at the first group without roles. With any config, exactly one active group has each role. */
typedef struct Optimizer {
    const char *name, *title;
    const char *alias; /* another name that the config file may use; NULL */
    ParamGroup groups[OPTIM_MAX_GROUPS + 1];
    OptimConfig defaults; /* learning_rate is 0: it has none; of other rates 0 stands for learning_rate */
} Optimizer;

EXTERN_C_BEGIN

const Rule *rule_of(RuleName name);

/* States that have a name in rule->state_names; and the index of one, -1 if the rule has none of that name. The state
 * of lines has the index rule->states. */
int rule_state_count(const Rule *rule);
int rule_state_find(const Rule *rule, const char *name);

const Optimizer *optimizer_of(OptimName name);

/* Whether a group is active with this config. */
bool param_group_applies(const ParamGroup *group, const OptimConfig *config);

/* Index in the optimizer's list of the group that takes tensors of this role, as configured. */
int param_group_of(const OptimConfig *config, TensorRole role);

/* The rule of that group. */
RuleName rule_of_role(const OptimConfig *config, TensorRole role);

/* A group's peak learning rate and weight decay in a config, and the keys that give them. */
double param_group_peak_lr(const ParamGroup *group, const OptimConfig *config);
const char *param_group_lr_key(const ParamGroup *group);
const char *param_group_decay_key(const ParamGroup *group); /* "" for none */
double param_group_weight_decay(const ParamGroup *group, const OptimConfig *config);

/* Iterations of Newton-Schulz in a config: its ns_steps, or, if that is 0, those that go with its ns_coefficients. */
int ns_steps_of(const OptimConfig *config);

/* Whether a group's rule, rate, decay or condition reads this key of the config's optimizer section. */
bool param_group_uses_key(const ParamGroup *group, const char *key);

/* Whether an optimizer reads this key of the config's optimizer section: as configured, for a model with tensors of
 * these roles; or at all, whatever its switches are set to. */
bool optimizer_uses_key(const OptimConfig *config, unsigned roles, const char *key);
bool optimizer_has_key(OptimName name, const char *key);

EXTERN_C_END

#endif
