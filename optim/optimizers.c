/* optimizers.c: the tables of rules and of optimizers (see optimizers.h), and functions that read them. */
#include "optim/optimizers.h"

#include <string.h>

/* ---- rules ---- */

#define RULE_FIELDS(name_, needs_, keys_, count_, ...)                                                                 \
    .name = name_, .uses_prev_grad = ((needs_)&RULE_NEEDS_PREV_GRAD) != 0, .uses_snr = ((needs_)&RULE_NEEDS_SNR) != 0, \
    .uses_lines = ((needs_)&RULE_NEEDS_LINES) != 0, .keys = keys_, .states = count_, .state_names = {__VA_ARGS__}

#define ELEMENTWISE_LINE(rule, name, function, needs, keys, count, ...) \
    [rule] = {RULE_FIELDS(name, needs, keys, count, __VA_ARGS__)},
#define MATRIX_LINE(rule, name, function, needs, keys, scale, count, ...) \
    [rule] = {RULE_FIELDS(name, needs, keys, count, __VA_ARGS__), .is_matrix = true, .muon_scale = scale},

static const Rule rules[] = {ELEMENTWISE_RULES(ELEMENTWISE_LINE) MATRIX_RULES(MATRIX_LINE)};

const Rule *rule_of(RuleName name) { return &rules[name]; }

int rule_state_count(const Rule *rule) { return rule->states + rule->uses_lines; }

int rule_state_find(const Rule *rule, const char *name) {
    for (int s = 0; s < rule_state_count(rule); s++)
        if (strcmp(rule->state_names[s], name) == 0) return s;
    return -1;
}

/* ---- optimizers ---- */

/* clang-format off */
#define MATRIX    (1u << ROLE_MATRIX)
#define EMBEDDING (1u << ROLE_EMBEDDING)
#define LM_HEAD   (1u << ROLE_LM_HEAD)
#define VECTOR    (1u << ROLE_VECTOR)

/* One rule for every tensor. Only hidden matrices decay. */
#define ONE_RULE(rule)                                               \
    {MATRIX,    rule, LR_MAIN,      BETAS_MAIN, DECAY_MAIN, ALWAYS}, \
    {EMBEDDING, rule, LR_EMBEDDING, BETAS_MAIN, DECAY_NONE, ALWAYS}, \
    {LM_HEAD,   rule, LR_LM_HEAD,   BETAS_MAIN, DECAY_NONE, ALWAYS}, \
    {VECTOR,    rule, LR_1D,        BETAS_MAIN, DECAY_NONE, ALWAYS}

/* MARS (rules/mars.h): a rule for 2-D tensors, and with optimize_1d one for vectors. */
#define MARS(rule, rule_1d)                                                             \
    {MATRIX,    rule,       LR_MAIN,       BETAS_MAIN, DECAY_MAIN, ALWAYS},             \
    {EMBEDDING, rule,       LR_EMBEDDING,  BETAS_MAIN, DECAY_NONE, ALWAYS},             \
    {LM_HEAD,   rule,       LR_LM_HEAD,    BETAS_MAIN, DECAY_NONE, ALWAYS},             \
    {VECTOR,    RULE_ADAMW, LR_1D_OF_MAIN, BETAS_1D,   DECAY_1D,   UNLESS_OPTIMIZE_1D}, \
    {VECTOR,    rule_1d,    LR_MAIN,       BETAS_MAIN, DECAY_NONE, WHEN_OPTIMIZE_1D}

/* Moonlight (rules/moonlight.h): a rule for hidden matrices; the rest is AdamW's, with the same decay. */
#define HIDDEN_MATRICES(rule)                                              \
    {MATRIX,    rule,       LR_MAIN,      BETAS_MAIN, DECAY_MAIN, ALWAYS}, \
    {EMBEDDING, RULE_ADAMW, LR_EMBEDDING, BETAS_1D,   DECAY_MAIN, ALWAYS}, \
    {LM_HEAD,   RULE_ADAMW, LR_LM_HEAD,   BETAS_1D,   DECAY_MAIN, ALWAYS}, \
    {VECTOR,    RULE_ADAMW, LR_1D,        BETAS_1D,   DECAY_MAIN, ALWAYS}

/* Muon as MARS's baseline (rules/muon.h): a rule for every 2-D tensor, or with muon_embeddings false for hidden
 * matrices; what AdamW updates decays by weight_decay. */
#define EVERY_MATRIX(rule)                                                                           \
    {MATRIX,              rule,       LR_MUON,      BETAS_MAIN, DECAY_MUON, ALWAYS},                 \
    {EMBEDDING | LM_HEAD, rule,       LR_MUON,      BETAS_MAIN, DECAY_MUON, WHEN_MUON_EMBEDDINGS},   \
    {EMBEDDING,           RULE_ADAMW, LR_EMBEDDING, BETAS_MAIN, DECAY_MAIN, UNLESS_MUON_EMBEDDINGS}, \
    {LM_HEAD,             RULE_ADAMW, LR_LM_HEAD,   BETAS_MAIN, DECAY_MAIN, UNLESS_MUON_EMBEDDINGS}, \
    {VECTOR,              RULE_ADAMW, LR_1D,        BETAS_MAIN, DECAY_MAIN, ALWAYS}

/* OPTIMIZER(name in the code, name and title for users, another name or NULL, momentum, lr_1d, muon_embeddings,
 * groups) */
#define OPTIMIZERS(OPTIMIZER) \
    OPTIMIZER(OPTIM_ADAMW, "adamw", "AdamW", NULL, 0.95, 0, true, ONE_RULE(RULE_ADAMW)) \
    OPTIMIZER(OPTIM_MARS_ADAMW, "mars-adamw", "MARS-AdamW", NULL, 0.95, 3e-3, true, \
              MARS(RULE_MARS_ADAMW, RULE_MARS_ADAMW)) \
    OPTIMIZER(OPTIM_MARS_LION, "mars-lion", "MARS-Lion", NULL, 0.95, 3e-3, true, MARS(RULE_MARS_LION, RULE_MARS_LION)) \
    /* A vector cannot be orthogonalised: with optimize_1d vectors follow MARS-AdamW. */ \
    OPTIMIZER(OPTIM_MARS_SHAMPOO, "mars-shampoo", "MARS-Shampoo", NULL, 0.95, 3e-3, true, \
              MARS(RULE_MARS_SHAMPOO, RULE_MARS_ADAMW)) \
    OPTIMIZER(OPTIM_MUON, "muon", "Muon", NULL, 0.95, 0, true, EVERY_MATRIX(RULE_MUON)) \
    OPTIMIZER(OPTIM_MOONLIGHT, "moonlight", "Moonlight", NULL, 0.95, 0, true, HIDDEN_MATRICES(RULE_MOONLIGHT)) \
    OPTIMIZER(OPTIM_MARS_M, "mars-m", "MARS-M", NULL, 0.95, 0, true, HIDDEN_MATRICES(RULE_MARS_M)) \
    OPTIMIZER(OPTIM_MARS_M_EFFICIENT, "mars-m-efficient", "MARS-M efficient", NULL, 0.95, 0, true, \
              HIDDEN_MATRICES(RULE_MARS_M_EFFICIENT)) \
    OPTIMIZER(OPTIM_SGD_SAI, "sgd-sai", "SGD-SaI", "sgd-boost", 0.9, 0, true, ONE_RULE(RULE_SGD_SAI)) \
    OPTIMIZER(OPTIM_NORMUON, "normuon", "NorMuon", NULL, 0.95, 0, false, EVERY_MATRIX(RULE_NORMUON)) \
    OPTIMIZER(OPTIM_MARS_NORMUON, "mars-normuon", "MARS-NorMuon", NULL, 0.95, 0, true, HIDDEN_MATRICES(RULE_MARS_NORMUON))
/* clang-format on */

#define OPTIMIZER_LINE(name_, text, title_, alias_, momentum_, lr_1d_, muon_embeddings_, ...) \
    [name_] = {.name = text,                                                                  \
               .title = title_,                                                               \
               .alias = alias_,                                                               \
               .groups = {__VA_ARGS__},                                                       \
               .defaults = {.name = name_,                                                    \
                            .lr_1d = lr_1d_,                                                  \
                            .weight_decay = 0.1,                                              \
                            .beta1 = 0.9,                                                     \
                            .beta2 = 0.95,                                                    \
                            .eps = 1e-8,                                                      \
                            .grad_clip = 1.0,                                                 \
                            .gradient_scale = 1.0,                                            \
                            .gamma = 0.025,                                                   \
                            .is_approx = true,                                                \
                            .betas_1d = {0.9, 0.95},                                          \
                            .weight_decay_1d = 0.1,                                           \
                            .muon_learning_rate = 0.02,                                       \
                            .muon_embeddings = muon_embeddings_,                              \
                            .muon_beta2 = 0.95,                                               \
                            .momentum = momentum_,                                            \
                            .nesterov = true}},
static const Optimizer optimizers[OPTIM_COUNT] = {OPTIMIZERS(OPTIMIZER_LINE)};

#define OPTIMIZER_NAME(name, text, ...) [name] = text,
const char *const optim_names[OPTIM_COUNT + 1] = {OPTIMIZERS(OPTIMIZER_NAME)};

const Optimizer *optimizer_of(OptimName name) { return &optimizers[name]; }

OptimName optim_find(const char *name) {
    for (int i = 0; i < OPTIM_COUNT; i++) {
        const char *alias = optimizers[i].alias;
        if (strcmp(name, optimizers[i].name) == 0 || (alias && strcmp(name, alias) == 0)) return (OptimName)i;
    }
    return OPTIM_COUNT;
}

OptimConfig optim_defaults(OptimName name, double learning_rate) {
    OptimConfig config = optimizers[name].defaults;
    config.learning_rate = config.embedding_lr = config.lm_head_lr = config.lr_1d = learning_rate;
    config.muon_learning_rate = learning_rate;
    return config;
}

int ns_steps_of(const OptimConfig *config) {
    if (config->ns_steps > 0) return config->ns_steps;
    return config->ns_coefficients == NS_COEFFICIENTS_CUBIC ? 12 : 5;
}

/* ---- what a group reads ---- */

bool param_group_applies(const ParamGroup *group, const OptimConfig *config) {
    switch (group->when) {
    case WHEN_OPTIMIZE_1D:
        return config->optimize_1d;
    case UNLESS_OPTIMIZE_1D:
        return !config->optimize_1d;
    case WHEN_MUON_EMBEDDINGS:
        return config->muon_embeddings;
    case UNLESS_MUON_EMBEDDINGS:
        return !config->muon_embeddings;
    default:
        return true;
    }
}

int param_group_of(const OptimConfig *config, TensorRole role) {
    const ParamGroup *groups = optimizer_of(config->name)->groups;
    for (int i = 0; groups[i].roles; i++)
        if ((groups[i].roles >> role & 1) && param_group_applies(&groups[i], config)) return i;
    die("%s has no parameter group for tensors of role %d", optimizer_of(config->name)->name, (int)role);
}

RuleName rule_of_role(const OptimConfig *config, TensorRole role) {
    return optimizer_of(config->name)->groups[param_group_of(config, role)].rule;
}

static double or_main(double lr, const OptimConfig *config) { return lr > 0.0 ? lr : config->learning_rate; }

double param_group_peak_lr(const ParamGroup *group, const OptimConfig *config) {
    switch (group->lr) {
    case LR_MUON:
        return config->muon_learning_rate;
    case LR_EMBEDDING:
        return or_main(config->embedding_lr, config);
    case LR_LM_HEAD:
        return or_main(config->lm_head_lr, config);
    case LR_1D:
    case LR_1D_OF_MAIN:
        return or_main(config->lr_1d, config);
    default:
        return config->learning_rate;
    }
}

const char *param_group_lr_key(const ParamGroup *group) {
    static const char *const names[] = {[LR_MAIN] = "learning_rate",
                                        [LR_MUON] = "muon_learning_rate",
                                        [LR_EMBEDDING] = "embedding_lr",
                                        [LR_LM_HEAD] = "lm_head_lr",
                                        [LR_1D] = "lr_1d",
                                        [LR_1D_OF_MAIN] = "lr_1d"};
    return names[group->lr];
}

const char *param_group_decay_key(const ParamGroup *group) {
    static const char *const names[] = {[DECAY_NONE] = "",
                                        [DECAY_MAIN] = "weight_decay",
                                        [DECAY_MUON] = "muon_weight_decay",
                                        [DECAY_1D] = "weight_decay_1d"};
    return names[group->decay];
}

double param_group_weight_decay(const ParamGroup *group, const OptimConfig *config) {
    switch (group->decay) {
    case DECAY_MAIN:
        return config->weight_decay;
    case DECAY_MUON:
        return config->muon_weight_decay;
    case DECAY_1D:
        return config->weight_decay_1d;
    default:
        return 0.0;
    }
}

/* Whether `word` is one of a list with blanks between them. */
static bool has_word(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length) {
        bool begins = at == list || at[-1] == ' ', ends = at[length] == ' ' || at[length] == 0;
        if (begins && ends) return true;
    }
    return false;
}

bool param_group_uses_key(const ParamGroup *group, const char *key) {
    const Rule *rule = rule_of(group->rule);
    bool is_beta = strcmp(key, "beta1") == 0 || strcmp(key, "beta2") == 0;
    if (strcmp(key, "betas_1d") == 0) return group->betas == BETAS_1D && has_word(rule->keys, "beta1");
    if (is_beta && group->betas == BETAS_1D) return false;
    if (strcmp(key, "optimize_1d") == 0) return group->when == WHEN_OPTIMIZE_1D || group->when == UNLESS_OPTIMIZE_1D;
    if (strcmp(key, "muon_embeddings") == 0)
        return group->when == WHEN_MUON_EMBEDDINGS || group->when == UNLESS_MUON_EMBEDDINGS;
    if (strcmp(key, "cautious_weight_decay") == 0) return group->decay != DECAY_NONE;
    if (rule->is_matrix && has_word("ns_steps ns_coefficients ns_dtype muon_scale split_qkv", key)) return true;
    return strcmp(key, param_group_lr_key(group)) == 0 || strcmp(key, param_group_decay_key(group)) == 0 ||
           has_word(rule->keys, key);
}

/* Keys that every optimizer reads. */
static bool is_common_key(const char *key) { return has_word("name learning_rate grad_clip gradient_scale", key); }

bool optimizer_uses_key(const OptimConfig *config, unsigned roles, const char *key) {
    if (is_common_key(key)) return true;
    const ParamGroup *groups = optimizer_of(config->name)->groups;
    for (int i = 0; groups[i].roles; i++) {
        bool is_there = (groups[i].roles & roles) && param_group_applies(&groups[i], config);
        if (is_there && param_group_uses_key(&groups[i], key)) return true;
    }
    return false;
}

bool optimizer_has_key(OptimName name, const char *key) {
    if (is_common_key(key)) return true;
    const ParamGroup *groups = optimizer_of(name)->groups;
    for (int i = 0; groups[i].roles; i++)
        if (param_group_uses_key(&groups[i], key)) return true;
    return false;
}
