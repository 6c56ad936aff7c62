/* config.c: from JSON files and a command line to a checked Config, and back to JSON.
 *
 * Everything here walks the table of keys (config_keys.c). Only the rules of check_...(), replace_batch(),
 * shorten_schedule() and config_changes() name keys. Checks that depend on the device, or on files that the config's
 * keys name, are elsewhere. */
#include "config/config.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config_file.h"
#include "config/config_value.h"
#include "optim/optimizer_keys.h"
#include "optim/optimizers.h"

static const char command_line[] = "command line";

/* A file or the command line, with its name in messages. */
typedef struct Source {
    const char *name;
    ConfigOrigin origin;
    int level; /* of a file: 0 for the config file, 1 for its base, and so on */
} Source;

/* ---- where values come from ---- */

const char *config_where(const Config *config, const char *keys) {
    char *list = checked_strdup(keys), *rest = list;
    bool overridden = false;
    int level = CONFIG_MAX_FILES;
    for (char *section; (section = strsep(&rest, " "));) {
        char *dot = strchr(section, '.');
        if (!dot) die("'%s' is no key", section);
        *dot = 0;
        int index = config_key_find(section, dot + 1);
        if (index < 0) die("there is no key %s.%s", section, dot + 1);
        overridden |= config->origins[index] == CONFIG_FROM_COMMAND_LINE;
        if (config->origins[index] == CONFIG_FROM_FILE && config->levels[index] < level) level = config->levels[index];
    }
    free(list);
    if (overridden || !config->files[0][0]) return command_line;
    return config->files[level < CONFIG_MAX_FILES ? level : 0];
}

/* The origin of the key whose value is `field` of the config. */
static ConfigOrigin origin_of(const Config *config, const void *field) {
    for (int i = 0; i < config_key_count; i++)
        if ((const char *)config + config_keys[i].offset == (const char *)field) return config->origins[i];
    die("a field of the config that no key has");
}

static bool unknown_key(const char *where, const char *section, const char *name, Error *error) {
    const ConfigKey *nearest = &config_keys[config_key_nearest(section, name)];
    return error_set(error, "%s: there is no key '%.64s%s%.64s'; the nearest is %s.%s; train_gpt2 --help lists all",
                     where, section ? section : "", section ? "." : "", name, nearest->section, nearest->name);
}

/* Notes that the source gives the key, which it may do once. */
static bool claim(Config *config, const Source *source, int index, Error *error) {
    if (config->origins[index] == source->origin && config->levels[index] == source->level)
        return error_set(error, "%s: %s.%s is given twice; remove one of the two", source->name,
                         config_keys[index].section, config_keys[index].name);
    config->origins[index] = (unsigned char)source->origin;
    config->levels[index] = (unsigned char)source->level;
    return true;
}

/* ---- files ---- */

static bool take_json(Config *config, const Source *file, int index, const cJSON *item, Error *error) {
    return claim(config, file, index, error) &&
           config_set_or_explain(config, &config_keys[index], item, file->name, error);
}

static bool take_section(Config *config, const Source *file, const cJSON *root, const cJSON *section, Error *error) {
    const char *name = section->string;
    if (!config_section_exists(name))
        return error_set(error, "%s: there is no section '%.64s'; the nearest is %s; train_gpt2 --help lists all",
                         file->name, name, config_section_nearest(name));
    for (const cJSON *before = root->child; before != section; before = before->next)
        if (strcmp(before->string, name) == 0)
            return error_set(error, "%s: the section %s is given twice; join the two", file->name, name);
    if (!cJSON_IsObject(section))
        return error_set(
            error, "%s: the section %s is not an object; expected {\"key\": value, ...}; train_gpt2 --help lists keys",
            file->name, name);
    const cJSON *item;
    cJSON_ArrayForEach(item, section) {
        int index = config_key_find(name, item->string);
        if (index < 0) return unknown_key(file->name, name, item->string, error);
        if (!take_json(config, file, index, item, error)) return false;
    }
    return true;
}

/* If the file of this level gives the batch by one key of `train`, a base's value of the other key no longer counts. */
static void replace_batch(Config *config, int level, const char *given, const char *other) {
    int key = config_key_find("train", given), replaced = config_key_find("train", other);
    bool is_set = *(const int *)((const char *)config + config_keys[key].offset) != 0;
    if (!is_set || config->origins[key] != CONFIG_FROM_FILE || config->levels[key] != level) return;
    if (config->origins[replaced] != CONFIG_FROM_FILE || config->levels[replaced] == level) return;
    config_set_default(config, &config_keys[replaced]);
    config->origins[replaced] = CONFIG_DEFAULT;
}

static bool take_file(Config *config, const Source *file, const cJSON *root, Error *error) {
    for (const cJSON *section = root->child; section; section = section->next) {
        bool is_base = strcmp(section->string, "base") == 0;
        if (!is_base && !take_section(config, file, root, section, error)) return false;
    }
    replace_batch(config, file->level, "total_batch_size", "gradient_accumulation_steps");
    replace_batch(config, file->level, "gradient_accumulation_steps", "total_batch_size");
    return true;
}

/* Takes the values of the files, each after its base. */
static bool take_files(Config *config, const char *path, Error *error) {
    ConfigChain chain;
    bool ok = config_chain_read(&chain, path, error);
    for (int i = 0; i < chain.count; i++)
        snprintf(config->files[i], sizeof config->files[i], "%s", chain.files[i].path);
    for (int i = chain.count - 1; i >= 0 && ok; i--) {
        const Source source = {chain.files[i].path, CONFIG_FROM_FILE, i};
        ok = take_file(config, &source, chain.files[i].root, error);
    }
    config_chain_free(&chain);
    return ok;
}

/* ---- the command line ---- */

/* Returns the index of the key of this name if only one section has it; else -1, and the reason in *error. */
static int find_bare_key(const char *name, Error *error) {
    char candidates[256] = "";
    int found = -1, count = 0;
    for (int i = 0; i < config_key_count; i++) {
        if (strcmp(config_keys[i].name, name) != 0) continue;
        size_t used = strlen(candidates);
        snprintf(candidates + used, sizeof candidates - used, "%s--%s.%s", count ? " or " : "", config_keys[i].section,
                 name);
        found = i;
        count++;
    }
    if (count == 1) return found;
    if (count == 0)
        unknown_key(command_line, NULL, name, error);
    else
        error_set(error, "%s: several sections have a key '%s'; write %s", command_line, name, candidates);
    return -1;
}

/* The same, but takes "section.name" too, and cuts `name` at the dot. */
static int find_key(char *name, Error *error) {
    char *dot = strchr(name, '.');
    if (!dot) return find_bare_key(name, error);
    *dot = 0;
    int index = config_key_find(name, dot + 1);
    if (index < 0) unknown_key(command_line, name, dot + 1, error);
    return index;
}

/* Returns false; the message shows the argument and, if its key is known, how to write it. */
static bool wrong_form(const char *where, const char *argument, Error *error) {
    const char *text = argument + strspn(argument, "-"), *equals = strchr(text, '=');
    char *name = format_string("%.*s", (int)strcspn(text, "="), text), advice[256] = "--help lists the keys";
    int index = find_key(name, NULL);
    free(name);
    if (index >= 0 && equals) {
        snprintf(advice, sizeof advice, "write --%.80s", text);
    } else if (index >= 0) {
        size_t used = (size_t)snprintf(advice, sizeof advice, "write --%.80s=VALUE, ", text);
        config_key_expectation(&config_keys[index], advice + used, sizeof advice - used);
    }
    return error_set(error, "%s: '%.80s' is not of the form --key=value: %s", where, argument, advice);
}

static bool take_override(Config *config, const Source *source, const char *argument, Error *error) {
    const char *equals = strchr(argument, '=');
    if (strncmp(argument, "--base=", strlen("--base=")) == 0)
        return error_set(error,
                         "%s: --base: only a file has a base; write a file with \"base\": \"%.80s\" and give that",
                         source->name, equals + 1);
    if (strncmp(argument, "--", 2) != 0 || !equals || equals == argument + 2)
        return wrong_form(source->name, argument, error);
    char *name = format_string("%.*s", (int)(equals - argument - 2), argument + 2);
    int index = find_key(name, error);
    free(name);
    if (index < 0 || !claim(config, source, index, error)) return false;
    if (config_set_from_text(config, &config_keys[index], equals + 1)) return true;
    char *value = format_string("'%s'", equals + 1);
    config_wrong_value(source->name, &config_keys[index], value, error);
    free(value);
    return false;
}

/* ---- rules that involve more than one key, or more than the table can say ---- */

static bool check_model(const Config *config, Error *error) {
    const char *keys;
    Error reason;
    return gpt2_config_check(&config->model, &keys, &reason) ||
           error_set(error, "%s: model.%s", config_where(config, keys), reason.text);
}

/* Fails for a key of the command line that has no effect: it is a mistake. */
static bool refuse_idle_key(const Config *config, const ConfigKey *key, const char *idle_in, Error *error) {
    char having[256];
    if (!config_key_applies(key, config->optimizer.name)) {
        config_list_optimizers(config_key_optimizers(key), having, sizeof having);
        return error_set(error, "%s: %s.%s: %s has no such setting: remove it; optimizers that have it: %s",
                         command_line, key->section, key->name, idle_in, having);
    }
    if (key->schedules) {
        config_list_schedules(key->schedules, having, sizeof having);
        return error_set(error, "%s: %s.%s: %s has no such setting: remove it; schedules that have it: %s",
                         command_line, key->section, key->name, idle_in, having);
    }
    return error_set(error, "%s: %s.%s has no effect with %s: remove it", command_line, key->section, key->name,
                     idle_in);
}

/* Sets the keys of files that have no effect for this reason to their defaults: a file may have them for another
 * optimizer, as in `train_gpt2 small_mars.json --optimizer.name=muon`. Appends those of the config file itself to
 * `names`. */
static void drop_keys(Config *config, const char *idle_in, char *names, size_t size) {
    char own[128];
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (config->origins[i] != CONFIG_FROM_FILE || !config_key_idle_in(key, config, own, sizeof own)) continue;
        if (strcmp(own, idle_in) != 0) continue;
        size_t used = strlen(names);
        if (config->levels[i] == 0)
            snprintf(names + used, size - used, "%s%s.%s", used ? ", " : "", key->section, key->name);
        config_set_default(config, key);
        config->origins[i] = CONFIG_DEFAULT;
    }
}

/* Handles all keys without an effect. Warns once for each reason why keys of the config file have none. */
static bool resolve_idle_keys(Config *config, Error *error) {
    char idle_in[128];
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (config->origins[i] == CONFIG_DEFAULT || !config_key_idle_in(key, config, idle_in, sizeof idle_in)) continue;
        if (config->origins[i] == CONFIG_FROM_COMMAND_LINE) return refuse_idle_key(config, key, idle_in, error);
        char names[512] = "";
        drop_keys(config, idle_in, names, sizeof names);
        if (names[0]) warn("%s: without effect on %s: %s", config->files[0], idle_in, names);
    }
    return true;
}

static bool check_optimizer(const Config *config, Error *error) {
    const char *keys;
    Error reason;
    return optimizer_check(&config->optimizer, &keys, &reason) ||
           error_set(error, "%s: optimizer.%s", config_where(config, keys), reason.text);
}

static bool check_batch(const Config *config, Error *error) {
    const TrainConfig *train = &config->train;
    const char *where = config_where(config, "train.total_batch_size train.gradient_accumulation_steps");
    if (train->total_batch_size && train->gradient_accumulation_steps)
        return error_set(error,
                         "%s: train.total_batch_size %d and train.gradient_accumulation_steps %d are both given; "
                         "give one of them (0 takes the other back)",
                         where, train->total_batch_size, train->gradient_accumulation_steps);
    if (!train->total_batch_size && !train->gradient_accumulation_steps)
        return error_set(error,
                         "%s: train.total_batch_size and train.gradient_accumulation_steps are missing or 0; expected "
                         "one of them to be at least 1; give train.total_batch_size, the sequences of a step",
                         where);
    if ((int64_t)train->batch_size * config->model.block_size > INT_MAX)
        return error_set(error,
                         "%s: train.batch_size %d x model.block_size %d is more than %d tokens; lower train.batch_size",
                         config_where(config, "train.batch_size model.block_size"), train->batch_size,
                         config->model.block_size, INT_MAX);
    return true;
}

static bool check_train(const Config *config, Error *error) {
    const TrainConfig *train = &config->train;
    if (train->max_iters == 0 && !train->eval_only)
        return error_set(error, "%s: train.max_iters is 0; expected at least 1, or train.eval_only true",
                         config_where(config, "train.max_iters train.eval_only"));
    if (train->allow_tf32 && train->device == DEVICE_CPU)
        return error_set(error,
                         "%s: train.allow_tf32 is true and train.device is cpu; TF32 is a mode of GPUs; set "
                         "train.allow_tf32 to false, or train.device to cuda or auto",
                         config_where(config, "train.allow_tf32 train.device"));
    if (train->ema_start >= train->max_iters && train->ema_start > 0 && !train->eval_only)
        return error_set(error,
                         "%s: train.ema_start %d must be below train.max_iters %d, so that there are steps to average; "
                         "lower train.ema_start, or set it to 0 for no average of the weights",
                         config_where(config, "train.ema_start train.max_iters"), train->ema_start, train->max_iters);
    return true;
}

/* Fails for a misspelt way to start, which would be taken for a path. */
static bool check_start(const Config *config, Error *error) {
    static const char *const ways[] = {"scratch", "resume", "auto"};
    const char *from = config->train.init_from;
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++)
        if (strcasecmp(from, ways[i]) == 0 && strcmp(from, ways[i]) != 0)
            return error_set(error, "%s: train.init_from is '%s'; write %s, or ./%s for a file of that name",
                             config_where(config, "train.init_from"), from, ways[i], from);
    return true;
}

/* min_lr must not be above the peak of any parameter group's rate, except of an lr_1d that follows learning_rate in
 * proportion. */
static bool check_min_lr(const Config *config, Error *error) {
    const OptimConfig *optimizer = &config->optimizer;
    double min_lr = config->schedule.min_lr, peak = optimizer->learning_rate;
    const char *key = "learning_rate";
    const ParamGroup *group = optimizer_of(optimizer->name)->groups;
    for (; group->roles && min_lr <= peak; group++) {
        if (!param_group_applies(group, optimizer) || group->lr == LR_1D_OF_MAIN) continue;
        key = param_group_lr_key(group), peak = param_group_peak_lr(group, optimizer);
    }
    if (min_lr <= peak) return true;
    char *keys = format_string("schedule.min_lr optimizer.%s", key);
    error_set(error, "%s: schedule.min_lr %g must not be above optimizer.%s %g; lower schedule.min_lr",
              config_where(config, keys), min_lr, key, peak);
    free(keys);
    return false;
}

/* The steps of a schedule must fit into the run. */
static bool check_steps(const Config *config, Error *error) {
    const ScheduleConfig *schedule = &config->schedule;
    if (schedule->warmup_iters > schedule->max_iters)
        return error_set(error,
                         "%s: schedule.warmup_iters %d must not be above train.max_iters %d; lower "
                         "schedule.warmup_iters",
                         config_where(config, "schedule.warmup_iters train.max_iters"), schedule->warmup_iters,
                         schedule->max_iters);
    bool decays = schedule->name == SCHEDULE_COSINE || schedule->name == SCHEDULE_EXP;
    if (decays && schedule->lr_decay_iters <= schedule->warmup_iters)
        return error_set(error,
                         "%s: schedule.lr_decay_iters %d (train.max_iters where it is not given) must be above "
                         "schedule.warmup_iters %d; lower schedule.warmup_iters",
                         config_where(config, "schedule.lr_decay_iters schedule.warmup_iters train.max_iters"),
                         schedule->lr_decay_iters, schedule->warmup_iters);
    if (schedule->name == SCHEDULE_TRAPEZOIDAL &&
        (int64_t)schedule->warmup_iters + schedule->warmdown_iters > schedule->max_iters)
        return error_set(error,
                         "%s: schedule.warmup_iters %d + schedule.warmdown_iters %d must not be above train.max_iters "
                         "%d; lower one of the two",
                         config_where(config, "schedule.warmup_iters schedule.warmdown_iters train.max_iters"),
                         schedule->warmup_iters, schedule->warmdown_iters, schedule->max_iters);
    return true;
}

/* A run that only evaluates has no schedule, so its max_iters may be anything. */
static bool check_schedule(const Config *config, Error *error) {
    return check_min_lr(config, error) && (config->train.eval_only || check_steps(config, error));
}

static bool check_required(const Config *config, Error *error) {
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (config_key_is_required(key) && config->origins[i] == CONFIG_DEFAULT)
            return error_set(error, "%s: %s.%s is missing: %s; give it in the file or as --%s.%s=VALUE",
                             config->files[0][0] ? config->files[0] : command_line, key->section, key->name, key->help,
                             key->section, key->name);
    }
    return true;
}

/* ---- a run that the command line shortens ---- */

/* Scales *steps from a run of `whole` steps to one of `part` steps, and adds it to the note for the message. A number
 * that the file does not give, or that the command line gives, stays as it is. */
static void shorten(Config *config, int *steps, const char *name, int part, int whole, char *note, size_t size) {
    if (*steps == 0 || origin_of(config, steps) != CONFIG_FROM_FILE) return;
    int shorter = (int)((int64_t)*steps * part / whole);
    size_t used = strlen(note);
    snprintf(note + used, size - used, "%s%s is %d instead of %d", used ? ", " : "", name, shorter, *steps);
    *steps = shorter;
}

/* Makes `train_gpt2 small_mars.json --max_iters=10` a short trial of that run. An lr_decay_iters of the file stays. */
static void shorten_schedule(Config *config) {
    int part = config->train.max_iters, whole = config->max_iters_of_file;
    bool shortened = origin_of(config, &config->train.max_iters) == CONFIG_FROM_COMMAND_LINE && part < whole;
    if (!shortened || config->train.eval_only) return;
    ScheduleConfig *schedule = &config->schedule;
    char note[256] = "";
    shorten(config, &schedule->warmup_iters, "schedule.warmup_iters", part, whole, note, sizeof note);
    shorten(config, &schedule->warmdown_iters, "schedule.warmdown_iters", part, whole, note, sizeof note);
    shorten(config, &config->train.ema_start, "train.ema_start", part, whole, note, sizeof note);
    bool loses_ema = config->train.ema_start == 0 && strstr(note, "train.ema_start");
    if (note[0])
        warn("%s: train.max_iters is %d instead of %d; in proportion, %s%s", command_line, part, whole, note,
             loses_ema ? ", so that there is no average of the weights" : "");
}

/* Sets the defaults that depend on other keys. */
static void fill_dependent_defaults(Config *config) {
    config->schedule.max_iters = config->train.max_iters;
    if (config->schedule.lr_decay_iters == 0) config->schedule.lr_decay_iters = config->train.max_iters;
    config->optimizer.ns_steps = ns_steps_of(&config->optimizer);
}

/* Gives each key that was not given the optimizer's own default. The optimizer's name must be set. */
static void set_optimizer_defaults(Config *config) {
    for (int i = 0; i < config_key_count; i++)
        if (config_keys[i].has_optimizer_default && config->origins[i] == CONFIG_DEFAULT)
            config_set_default(config, &config_keys[i]);
}

bool config_read(Config *config, const char *path, int count, char *const *overrides, Error *error) {
    const Source arguments = {command_line, CONFIG_FROM_COMMAND_LINE, 0};
    config_set_defaults(config);
    if (path && !take_files(config, path, error)) return false;
    config->max_iters_of_file = config->train.max_iters;
    for (int i = 0; i < count; i++)
        if (!take_override(config, &arguments, overrides[i], error)) return false;
    return check_required(config, error) && check_start(config, error);
}

bool config_check(Config *config, Error *error) {
    set_optimizer_defaults(config);
    if (!resolve_idle_keys(config, error)) return false;
    shorten_schedule(config);
    fill_dependent_defaults(config);
    return check_model(config, error) && check_optimizer(config, error) && check_batch(config, error) &&
           check_train(config, error) && check_schedule(config, error);
}

bool config_load(Config *config, const char *path, int count, char *const *overrides, Error *error) {
    return config_read(config, path, count, overrides, error) && config_check(config, error);
}

/* ---- the number of processes ---- */

/* Appends to a list, which ends in "..." if it is full. */
static void append_number(char *list, size_t size, int64_t number) {
    enum { ROOM = 32 };
    size_t used = strlen(list);
    if (used + ROOM <= size)
        snprintf(list + used, size - used, "%s%" PRId64, used ? ", " : "", number);
    else if (list[used - 1] != '.')
        snprintf(list + used, size - used, ", ...");
}

static void list_divisors(int64_t number, char *list, size_t size) {
    list[0] = 0;
    int64_t divisor = 1;
    for (; divisor * divisor <= number; divisor++)
        if (number % divisor == 0) append_number(list, size, divisor);
    while (--divisor >= 1)
        if (number % divisor == 0 && divisor * divisor != number) append_number(list, size, number / divisor);
}

bool config_resolve(Config *config, int processes, Error *error) {
    TrainConfig *train = &config->train;
    if (processes < 1) return error_set(error, "the number of processes is %d; expected at least 1", processes);
    int64_t micro_step = (int64_t)train->batch_size * processes;
    const char *where =
        config_where(config, "train.batch_size train.total_batch_size train.gradient_accumulation_steps");
    if (train->total_batch_size == 0) {
        if (micro_step > INT_MAX / train->gradient_accumulation_steps)
            return error_set(
                error,
                "%s: train.batch_size %d x %d processes x train.gradient_accumulation_steps %d is more than "
                "%d sequences; lower one of them",
                where, train->batch_size, processes, train->gradient_accumulation_steps, INT_MAX);
        train->total_batch_size = (int)(micro_step * train->gradient_accumulation_steps);
        return true;
    }
    char fitting[512];
    if (train->total_batch_size % processes != 0) {
        list_divisors(train->total_batch_size, fitting, sizeof fitting);
        return error_set(
            error,
            "%s: train.total_batch_size %d cannot be shared evenly by %d processes, whatever the batch size; "
            "numbers of processes that divide it: %s",
            where, train->total_batch_size, processes, fitting);
    }
    if (train->total_batch_size % micro_step != 0) {
        list_divisors(train->total_batch_size / processes, fitting, sizeof fitting);
        return error_set(error,
                         "%s: train.total_batch_size %d is not a multiple of train.batch_size %d x %d processes; "
                         "values of train.batch_size that fit: %s",
                         where, train->total_batch_size, train->batch_size, processes, fitting);
    }
    train->gradient_accumulation_steps = (int)(train->total_batch_size / micro_step);
    return true;
}

/* ---- back to text ---- */

static cJSON *config_tree(const Config *config) {
    /* of the two ways to give the batch, the one that config_load takes */
    const int *left_out =
        config->train.total_batch_size ? &config->train.gradient_accumulation_steps : &config->train.total_batch_size;
    cJSON *root = cJSON_CreateObject(), *section = NULL;
    bool ok = root != NULL;
    for (int i = 0; i < config_key_count && ok; i++) {
        const ConfigKey *key = &config_keys[i];
        if ((const char *)config + key->offset == (const char *)left_out) continue;
        char idle_in[128];
        if (config_key_idle_in(key, config, idle_in, sizeof idle_in) || config_key_is_absent(key, config)) continue;
        if (i == 0 || strcmp(key->section, config_keys[i - 1].section) != 0)
            section = cJSON_AddObjectToObject(root, key->section);
        ok = section && cJSON_AddItemToObject(section, key->name, config_value_to_json(config, key));
    }
    if (!ok) die("out of memory: the config as JSON");
    return root;
}

/* The JSON as text on one line, which the caller frees. */
static char *text_of(const cJSON *json) {
    char *text = cJSON_PrintUnformatted(json);
    if (!text) die("out of memory: the config's text");
    return text;
}

char *config_to_json(const Config *config) {
    cJSON *root = config_tree(config);
    char *text = text_of(root);
    cJSON_Delete(root);
    return text;
}

void config_print(FILE *file, const Config *config) {
    cJSON *root = config_tree(config);
    fprintf(file, "{\n");
    for (const cJSON *section = root->child; section; section = section->next) {
        fprintf(file, "    \"%s\": {\n", section->string);
        for (const cJSON *item = section->child; item; item = item->next) {
            char *value = text_of(item);
            fprintf(file, "        \"%s\": %s%s\n", item->string, value, item->next ? "," : "");
            free(value);
        }
        fprintf(file, "    }%s\n", section->next ? "," : "");
    }
    fprintf(file, "}\n");
    cJSON_Delete(root);
}

/* ---- the config of an earlier run ---- */

static bool same_value(const Config *a, const Config *b, const ConfigKey *key) {
    char *text = config_value_text(a, key), *other = config_value_text(b, key);
    bool same = strcmp(text, other) == 0;
    cJSON_free(text);
    cJSON_free(other);
    return same;
}

/* Reads the config in `json`. Keys that it lacks, or whose value is wrong, get their defaults. */
static void read_earlier(Config *config, const cJSON *json) {
    config_set_defaults(config);
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        const cJSON *section = cJSON_GetObjectItemCaseSensitive(json, key->section);
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(section, key->name);
        if (item && config_set_from_json(config, key, item)) config->origins[i] = CONFIG_FROM_FILE;
    }
    set_optimizer_defaults(config);
    config->optimizer.ns_steps = ns_steps_of(&config->optimizer);
}

char *config_changes(const Config *config, const cJSON *earlier) {
    static const char *const ignored[] = {
        "init",      "zero_init_projections",      "zero_init_lm_head", "init_from", "overwrite",
        "eval_only", "gradient_accumulation_steps"};
    Config *was = checked_malloc(sizeof *was, "the config of an earlier run");
    read_earlier(was, earlier);
    char *list = checked_strdup("");
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        char idle_in[128];
        bool skip = config_key_idle_in(key, config, idle_in, sizeof idle_in) || same_value(config, was, key);
        for (size_t j = 0; j < ARRAY_LENGTH(ignored); j++) skip = skip || strcmp(key->name, ignored[j]) == 0;
        if (skip) continue;
        char *now = config_value_text(config, key), *before = config_value_text(was, key);
        char *longer =
            format_string("%s%s%s.%s: %s, was %s", list, list[0] ? "\n" : "", key->section, key->name, now, before);
        cJSON_free(now);
        cJSON_free(before);
        free(list);
        list = longer;
    }
    free(was);
    return list;
}
