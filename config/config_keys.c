/* config_keys.c: the table of keys (see config_keys.h). config.c has the rules between two keys. */
#include "config/config_keys.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "optim/optimizer_keys.h"
#include "optim/optimizers.h"

/* In the order of the enumerations. */
static const char *const order_names[] = {
    [ORDER_RANDOM] = "random", [ORDER_SEQUENTIAL] = "sequential", [ORDER_SHUFFLED] = "shuffled", NULL};
static const char *const schedule_names[] = {
    [SCHEDULE_CONSTANT] = "constant",       [SCHEDULE_COSINE] = "cosine", [SCHEDULE_WSD] = "wsd",
    [SCHEDULE_TRAPEZOIDAL] = "trapezoidal", [SCHEDULE_EXP] = "exp",       NULL};
static const char *const device_names[] = {[DEVICE_AUTO] = "auto", [DEVICE_CPU] = "cpu", [DEVICE_CUDA] = "cuda", NULL};
static const char *const precision_names[] = {
    [PRECISION_AUTO] = "auto", [PRECISION_FLOAT32] = "float32", [PRECISION_BFLOAT16] = "bfloat16", NULL};
static const char *const recompute_names[] = {
    [RECOMPUTE_NONE] = "none", [RECOMPUTE_MLP] = "mlp", [RECOMPUTE_BLOCK] = "block", NULL};

/* clang-format off */

/* Offset and type follow from the field, so they cannot contradict it; a field of a type that the parser does not know
 * does not compile. (GCC and Clang make an enumeration without negative values unsigned.) */
#define TYPE_OF(field)                                                                                                 \
    _Generic(((Config *)0)->field,                                                                                     \
        bool: CONFIG_BOOL, int: CONFIG_INT, uint64_t: CONFIG_SEED, double: CONFIG_NUMBER, double *: CONFIG_PAIR,       \
        char *: CONFIG_STRING, unsigned: CONFIG_CHOICE)
#define FIELD(section_, name_)                                                                                         \
    .section = #section_, .name = #name_, .type = TYPE_OF(section_.name_), .offset = offsetof(Config, section_.name_)
#define KEY(section_, name_, default_, range, help_)                                                                   \
    {FIELD(section_, name_), .default_text = default_, range, .help = help_}
/* Settings of optimizers (optim/optimizer_keys.h): one that must be given, one whose default is in the table of
 * optimizers, and one that is in the section train, since for users it belongs to the batch, not to the rule. */
#define OPTIMIZER_RANGE(minimum_, maximum_, limits_, choices_)                                                         \
    .minimum = minimum_, .maximum = maximum_, .limits = limits_, .choices = choices_
#define REQUIRED_OPTIMIZER_KEY(name_, minimum_, maximum_, limits_, choices_, help_)                                    \
    {FIELD(optimizer, name_), .default_text = REQUIRED, OPTIMIZER_RANGE(minimum_, maximum_, limits_, choices_),        \
     .help = help_},
#define OPTIMIZER_KEY(name_, minimum_, maximum_, limits_, choices_, help_)                                             \
    {FIELD(optimizer, name_), .has_optimizer_default = true, OPTIMIZER_RANGE(minimum_, maximum_, limits_, choices_),   \
     .help = help_},
#define OPTIMIZER_KEY_OF_TRAIN(name_, minimum_, maximum_, limits_, choices_, help_)                                    \
    {.section = "train", .name = #name_, .type = TYPE_OF(optimizer.name_), .default_text = "1",                        \
     .offset = offsetof(Config, optimizer.name_), OPTIMIZER_RANGE(minimum_, maximum_, limits_, choices_),              \
     .help = help_},

/* A key that changes what the model computes, so that it comes with weights. */
#define MODEL_KEY(name_, default_, range, help_)                                                                       \
    {FIELD(model, name_), .default_text = default_, range, .comes_with_weights = true, .help = help_}

/* A key that is a path on this machine, and a key that not all schedules use. */
#define PATH_KEY(section_, name_, default_, help_)                                                                     \
    {FIELD(section_, name_), .default_text = default_, NOT_EMPTY, .is_path = true, .help = help_}
#define SCHEDULE_KEY(name_, default_, schedules_, range, help_)                                                        \
    {FIELD(schedule, name_), .default_text = default_, .schedules = schedules_, range, .help = help_}

#define REQUIRED NULL
#define ANY .minimum = 0
#define AT_LEAST(low) .minimum = low, .maximum = INFINITY
#define ABOVE(low) .minimum = low, .maximum = INFINITY, .limits = ABOVE_MINIMUM
#define FROM_TO(low, high) .minimum = low, .maximum = high
#define FROM_BELOW(low, high) .minimum = low, .maximum = high, .limits = BELOW_MAXIMUM
#define ABOVE_BELOW(low, high) .minimum = low, .maximum = high, .limits = ABOVE_MINIMUM | BELOW_MAXIMUM
#define NOT_EMPTY FROM_TO(1, CONFIG_STRING_LENGTH - 1)
#define MAY_BE_EMPTY FROM_TO(0, CONFIG_STRING_LENGTH - 1)
#define ONE_OF(names) .choices = names

enum {
    DECAYS = 1 << SCHEDULE_COSINE | 1 << SCHEDULE_EXP,
    TRAPEZOIDAL = 1 << SCHEDULE_TRAPEZOIDAL
};

const ConfigKey config_keys[] = {
    MODEL_KEY(n_layer, "12", FROM_TO(1, GPT2_MAX_LAYERS), "transformer blocks"),
    MODEL_KEY(n_head, "12", FROM_TO(1, GPT2_MAX_HEADS), "attention heads in each block"),
    MODEL_KEY(n_embd, "768", FROM_TO(1, GPT2_MAX_CHANNELS), "width of the model, a multiple of n_head"),
    MODEL_KEY(block_size, "1024", FROM_TO(1, GPT2_MAX_TOKENS), "tokens in a sequence"),
    MODEL_KEY(vocab_size, "50304", FROM_TO(1, GPT2_MAX_VOCABULARY), "tokens in the vocabulary"),
    MODEL_KEY(bias, "false", ANY, "biases in linear layers and LayerNorms"),
    KEY(model, dropout, "0", FROM_BELOW(0, 1), "rate of dropout in training; 0 = off"),
    MODEL_KEY(scale_attn_by_inverse_layer_idx, "true", ANY, "divide attention scores of layer l = 0.. by l + 1"),
    MODEL_KEY(position, "learned", ONE_OF(position_names), "a table of positions, or rotated queries and keys"),
    MODEL_KEY(rope_base, "10000", ABOVE(1), "of the frequencies of rope and rope-half"),
    MODEL_KEY(norm, "layernorm", ONE_OF(norm_names), "kind of the norms; rmsnorm has no bias"),
    MODEL_KEY(norm_gain, "true", ANY, "norms multiply by a weight"),
    MODEL_KEY(norm_eps, "1e-5", ABOVE_BELOW(0, 1), "added to the variance or mean square in a norm"),
    MODEL_KEY(norm_embedding, "false", ANY, "a norm, ln_emb, after the embedding"),
    MODEL_KEY(qk_norm, "false", ANY, "RMSNorm of each head's queries and keys"),
    MODEL_KEY(qk_norm_eps, "1.1920929e-07", ABOVE_BELOW(0, 1), "norm_eps of these"),
    MODEL_KEY(activation, "gelu", ONE_OF(activation_names), "in the MLP; relu2 is max(x, 0)^2"),
    MODEL_KEY(tie_embeddings, "true", ANY, "the LM head is the token embedding"),
    MODEL_KEY(lm_head_bias, "false", ANY, "of an LM head of its own"),
    MODEL_KEY(attention_scale, "0", AT_LEAST(0), "on attention scores; 0 = 1/sqrt(n_embd/n_head)"),
    MODEL_KEY(attention_output_scale, "1", ABOVE(0), "on the output of each attention sublayer"),
    MODEL_KEY(logit_softcap, "0", AT_LEAST(0), "c: logit z becomes c z/sqrt(z^2 + c^2); 0 = off"),
    KEY(model, init, "gpt2", ONE_OF(model_init_names), "how weights start"),
    KEY(model, zero_init_projections, "false", ANY, "c_proj of attention and MLP start as zero"),
    KEY(model, zero_init_lm_head, "false", ANY, "an LM head of its own starts as zero"),

    KEY(data, train, REQUIRED, NOT_EMPTY, "tokens to train on: a file, or a glob of shards"),
    KEY(data, val, REQUIRED, NOT_EMPTY, "tokens to evaluate on, likewise"),
    KEY(data, hellaswag, "", MAY_BE_EMPTY, "HellaSwag from prepare_data: a file; empty = none"),
    KEY(data, order, "random", ONE_OF(order_names), "how training sequences are drawn"),
    KEY(data, seed, "5000", ANY, "for the order of the sequences"),

    KEY(optimizer, name, REQUIRED, ONE_OF(optim_names), "see --list_optimizers"),
    LEARNING_RATE_KEY(REQUIRED_OPTIMIZER_KEY)
    OPTIMIZER_KEYS(OPTIMIZER_KEY)

    KEY(schedule, name, "constant", ONE_OF(schedule_names), "how the rate changes"),
    KEY(schedule, warmup_iters, "0", AT_LEAST(0), "steps of linear rise at the start"),
    SCHEDULE_KEY(lr_decay_iters, "0", DECAYS, AT_LEAST(0), "where min_lr is reached; 0 = max_iters"),
    SCHEDULE_KEY(min_lr, "0", DECAYS, AT_LEAST(0), "the rate at the end"),
    SCHEDULE_KEY(warmdown_iters, "0", TRAPEZOIDAL, AT_LEAST(0), "steps of the final descent to 0"),

    KEY(train, max_iters, REQUIRED, AT_LEAST(0), "steps of the run; 0 only with eval_only"),
    KEY(train, total_batch_size, "0", AT_LEAST(0), "sequences per step over all processes (see below)"),
    KEY(train, gradient_accumulation_steps, "0", AT_LEAST(0), "micro-steps per process and step (see below)"),
    KEY(train, batch_size, REQUIRED, AT_LEAST(1), "sequences per process and micro-step"),
    GRADIENT_SCALE_KEY(OPTIMIZER_KEY_OF_TRAIN)
    KEY(train, eval_interval, "1000", AT_LEAST(0), "steps between evaluations; 0 = never"),
    KEY(train, eval_sequences, "0", AT_LEAST(0), "sequences of an evaluation; 0 = all"),
    KEY(train, eval_only, "false", ANY, "evaluate once and stop"),
    KEY(train, log_interval, "10", AT_LEAST(1), "steps between lines on the terminal"),
    KEY(train, norms_interval, "0", AT_LEAST(0), "steps between norms of each tensor; 0 = never"),
    KEY(train, sample_interval, "0", AT_LEAST(0), "steps between sample texts; 0 = never"),
    KEY(train, sample_prompt, "", MAY_BE_EMPTY, "what each text begins with; empty = <|endoftext|>"),
    KEY(train, sample_tokens, "64", FROM_TO(1, 65536), "tokens of each text"),
    KEY(train, checkpoint_interval, "1000", AT_LEAST(0), "steps between checkpoints; 0 = never"),
    KEY(train, keep_checkpoints, "2", AT_LEAST(0), "how many stay; 0 = all"),
    PATH_KEY(train, out_dir, REQUIRED, "folder for metrics and checkpoints"),
    KEY(train, overwrite, "false", ANY, "start anew although out_dir has checkpoints"),
    PATH_KEY(train, init_from, "scratch", "scratch, resume, auto, or a path to weights"),
    KEY(train, seed, "5000", ANY, "of the initial weights and of dropout"),
    KEY(train, device, "auto", ONE_OF(device_names), "where to compute; auto = a GPU where there is one"),
    KEY(train, precision, "auto", ONE_OF(precision_names), "of activations; auto = the fastest on the device"),
    KEY(train, allow_tf32, "false", ANY, "float32 on a GPU may use TF32 matmuls"),
    KEY(train, threads, "0", FROM_TO(0, 4096), "CPU threads per process; 0 = its share of cores"),
    KEY(train, recompute, "none", ONE_OF(recompute_names), "what the backward pass computes again"),
    KEY(train, debug_alloc, "false", ANY, "an allocation for each buffer, for checkers"),
    KEY(train, ema_start, "0", AT_LEAST(0), "where an average (EMA) begins; 0 = none"),
    KEY(train, ema_decay, "0.99333", FROM_BELOW(0, 1), "decay of the EMA in each step"),
    KEY(train, ema_mix, "0.6", FROM_TO(0, 1), "share of the EMA in what ema_loss is of"),
};
/* clang-format on */

const int config_key_count = (int)ARRAY_LENGTH(config_keys);

_Static_assert(ARRAY_LENGTH(config_keys) <= CONFIG_MAX_KEYS, "raise CONFIG_MAX_KEYS");

int config_key_find(const char *section, const char *name) {
    for (int i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].name, name) == 0) return i;
    return -1;
}

/* How many characters must be inserted, removed or replaced to turn a into b (Levenshtein 1966), counting only the
 * first 64 characters of each. row[j] is the distance between what was read of a and the first j characters of b. */
static int64_t edit_distance(const char *a, const char *b) {
    enum { LIMIT = 64 };
    int64_t row[LIMIT + 1];
    size_t length = strnlen(b, LIMIT);
    for (size_t j = 0; j <= length; j++) row[j] = (int64_t)j;
    for (size_t i = 0; i < LIMIT && a[i]; i++) {
        int64_t diagonal = row[0];
        row[0] = (int64_t)i + 1;
        for (size_t j = 1; j <= length; j++) {
            int64_t replaced = diagonal + (a[i] != b[j - 1]);
            diagonal = row[j];
            row[j] = min_i64(replaced, min_i64(row[j], row[j - 1]) + 1);
        }
    }
    return row[length];
}

int config_key_nearest(const char *section, const char *name) {
    enum { NAME_WEIGHT = 100 }; /* more than any section's distance: a section only decides between equal names */
    int nearest = 0;
    int64_t least = INT64_MAX;
    for (int i = 0; i < config_key_count; i++) {
        int64_t distance = NAME_WEIGHT * edit_distance(name, config_keys[i].name);
        if (section) distance += edit_distance(section, config_keys[i].section);
        if (distance < least) least = distance, nearest = i;
    }
    return nearest;
}

bool config_section_exists(const char *section) {
    for (int i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0) return true;
    return false;
}

const char *config_section_nearest(const char *section) {
    const char *nearest = NULL;
    int64_t least = INT64_MAX;
    for (int i = 0; i < config_key_count; i++) {
        int64_t distance = edit_distance(section, config_keys[i].section);
        if (distance < least) least = distance, nearest = config_keys[i].section;
    }
    return nearest;
}

/* The roles of a model's tensors; ROLE_LM_HEAD only if it has an LM head of its own. */
static unsigned roles_of(const GPT2Config *model) {
    unsigned every_role = (1u << ROLE_COUNT) - 1;
    return model->tie_embeddings ? every_role & ~(1u << ROLE_LM_HEAD) : every_role;
}

const char *config_schedule_name(ScheduleName name) { return schedule_names[name]; }

bool config_key_is_required(const ConfigKey *key) { return !key->default_text && !key->has_optimizer_default; }

/* Whether a mask has the bit of this name; a mask of 0 has all. */
static bool mask_has(unsigned mask, unsigned name) { return !mask || (mask >> name & 1); }

bool config_key_applies(const ConfigKey *key, OptimName optimizer) {
    return strcmp(key->section, "optimizer") != 0 || optimizer_has_key(optimizer, key->name);
}

unsigned config_key_optimizers(const ConfigKey *key) {
    unsigned mask = 0, all = (1u << OPTIM_COUNT) - 1;
    for (unsigned i = 0; i < OPTIM_COUNT; i++) mask |= (unsigned)config_key_applies(key, (OptimName)i) << i;
    return mask == all ? 0 : mask;
}

bool config_key_is_absent(const ConfigKey *key, const Config *config) {
    const void *field = (const char *)config + key->offset;
    return (key->limits & OR_ABSENT) && key->type == CONFIG_NUMBER && *(const double *)field == 0.0;
}

/* The setting that keeps an optimizer from reading a key that it has; NULL if it reads the key. */
static const char *idle_in_switch(const ConfigKey *key, const OptimConfig *config, const GPT2Config *model) {
    const unsigned every_role = (1u << ROLE_COUNT) - 1;
    if (optimizer_uses_key(config, roles_of(model), key->name)) return NULL;
    if (optimizer_uses_key(config, every_role, key->name)) return "a model whose LM head is its token embedding";
    OptimConfig other = *config;
    other.optimize_1d = !config->optimize_1d;
    if (optimizer_uses_key(&other, every_role, key->name))
        return config->optimize_1d ? "optimizer.optimize_1d true" : "optimizer.optimize_1d false";
    return config->muon_embeddings ? "optimizer.muon_embeddings true" : "optimizer.muon_embeddings false";
}

/* The setting that keeps the model from reading a key of its section; NULL if it reads the key. */
static const char *idle_in_model(const ConfigKey *key, const GPT2Config *model) {
    if (strcmp(key->name, "rope_base") == 0 && model->position == POSITION_LEARNED) return "model.position learned";
    if (strcmp(key->name, "qk_norm_eps") == 0 && !model->qk_norm) return "model.qk_norm false";
    return NULL;
}

/* The same for the section train. */
static const char *idle_in_train(const ConfigKey *key, const TrainConfig *train) {
    bool is_of_ema = strcmp(key->name, "ema_decay") == 0 || strcmp(key->name, "ema_mix") == 0;
    bool is_of_samples = strcmp(key->name, "sample_prompt") == 0 || strcmp(key->name, "sample_tokens") == 0;
    if (is_of_ema && train->ema_start == 0) return "train.ema_start 0";
    return is_of_samples && train->sample_interval == 0 ? "train.sample_interval 0" : NULL;
}

const char *config_key_idle_in(const ConfigKey *key, const Config *config, char *where, size_t size) {
    const OptimConfig *optimizer = &config->optimizer;
    const char *idle_in = NULL;
    if (!config_key_applies(key, optimizer->name))
        snprintf(where, size, "the optimizer %s", optim_names[optimizer->name]);
    else if (!mask_has(key->schedules, config->schedule.name))
        snprintf(where, size, "the schedule %s", schedule_names[config->schedule.name]);
    else if ((strcmp(key->section, "optimizer") == 0 &&
              (idle_in = idle_in_switch(key, optimizer, &config->model)) != NULL) ||
             (strcmp(key->section, "model") == 0 && (idle_in = idle_in_model(key, &config->model)) != NULL) ||
             (strcmp(key->section, "train") == 0 && (idle_in = idle_in_train(key, &config->train)) != NULL))
        snprintf(where, size, "%s", idle_in);
    else
        return NULL;
    return where;
}

static void list_names(const char *const *names, unsigned mask, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (unsigned i = 0; names[i] && used < size; i++)
        if (mask_has(mask, i)) used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", names[i]);
}

void config_list_optimizers(unsigned mask, char *text, size_t size) { list_names(optim_names, mask, text, size); }
void config_list_schedules(unsigned mask, char *text, size_t size) { list_names(schedule_names, mask, text, size); }

void config_key_type_text(const ConfigKey *key, char *text, size_t size) {
    const char *type = key->type == CONFIG_INT ? "integer" : key->type == CONFIG_PAIR ? "2 numbers" : "number";
    if (key->type == CONFIG_BOOL)
        snprintf(text, size, "true or false");
    else if (key->type == CONFIG_SEED)
        snprintf(text, size, "integer in [0, 2^64)");
    else if (key->type == CONFIG_STRING)
        snprintf(text, size, "string");
    else if (key->type == CONFIG_CHOICE)
        snprintf(text, size, "choice");
    else if (isinf(key->maximum))
        snprintf(text, size, "%s %s %g", type, key->limits & ABOVE_MINIMUM ? ">" : ">=", key->minimum);
    else
        snprintf(text, size, "%s in %c%g, %g%c", type, key->limits & ABOVE_MINIMUM ? '(' : '[', key->minimum,
                 key->maximum, key->limits & BELOW_MAXIMUM ? ')' : ']');
}

void config_key_default_text(const ConfigKey *key, OptimName optimizer, char *text, size_t size) {
    if (!key->has_optimizer_default) {
        snprintf(text, size, "%s", key->default_text);
        return;
    }
    OptimConfig defaults = optimizer_of(optimizer)->defaults;
    defaults.ns_steps = ns_steps_of(&defaults);
    const void *field = (const char *)&defaults + (key->offset - offsetof(Config, optimizer));
    double first = key->type == CONFIG_NUMBER || key->type == CONFIG_PAIR ? *(const double *)field : 0.0;
    if (key->type == CONFIG_BOOL)
        snprintf(text, size, "%s", *(const bool *)field ? "true" : "false");
    else if (key->type == CONFIG_INT)
        snprintf(text, size, "%d", *(const int *)field);
    else if (key->type == CONFIG_CHOICE)
        snprintf(text, size, "%s", key->choices[*(const unsigned *)field]);
    else if (key->type == CONFIG_PAIR)
        snprintf(text, size, "%g,%g", first, ((const double *)field)[1]);
    else if (first == 0.0 && (key->limits & OR_ABSENT))
        snprintf(text, size, "learning_rate");
    else
        snprintf(text, size, "%g", first);
}

static void list_choices(const ConfigKey *key, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "one of:");
    for (int i = 0; key->choices[i] && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s %s", i ? "," : "", key->choices[i]);
    for (int i = 0; key->choices == optim_names && i < OPTIM_COUNT && used < size; i++) {
        const char *alias = optimizer_of((OptimName)i)->alias;
        if (alias) used += (size_t)snprintf(text + used, size - used, ", %s (= %s)", alias, optim_names[i]);
    }
}

void config_key_expectation(const ConfigKey *key, char *text, size_t size) {
    char type[64];
    config_key_type_text(key, type, sizeof type);
    if (key->type == CONFIG_CHOICE)
        list_choices(key, text, size);
    else if (key->type == CONFIG_SEED)
        snprintf(text, size, "%s, written in quotes in a file from 2^53 on (JSON readers round such numbers)", type);
    else if (key->type == CONFIG_PAIR)
        snprintf(text, size, "%s: [a, b] in a file, a,b on the command line", type);
    else if (key->type == CONFIG_STRING)
        snprintf(text, size, "%s of %g to %g bytes", type, key->minimum, key->maximum);
    else if (key->type == CONFIG_INT && isinf(key->maximum))
        snprintf(text, size, "%s and at most %d", type, INT_MAX);
    else
        snprintf(text, size, "%s", type);
}
