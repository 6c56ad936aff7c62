/* help.c: answers questions about a program's command line and config: usage, --help, --version, --list_optimizers.
 * --print_config is in checkpoint/start.c, since its answer depends on the weights with which the run begins. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_keys.h"
#include "optim/optimizers.h"

/* Prints a text below a key, broken into lines. */
static void print_note(FILE *file, const char *text) {
    enum { INDENT = 34, WIDTH = 120 - INDENT };
    while (*text) {
        size_t length = strlen(text);
        if (length > WIDTH)
            for (length = WIDTH; length > 1 && text[length] != ' ';) length--;
        fprintf(file, "%*s%.*s\n", INDENT, "", (int)length, text);
        text += length;
        text += strspn(text, " ");
    }
}

/* Prints "only: adamw, muon" below a key. */
static void print_names(FILE *file, const char *label, void (*list)(unsigned, char *, size_t), unsigned mask) {
    char text[256];
    size_t used = (size_t)snprintf(text, sizeof text, "%s", label);
    list(mask, text + used, sizeof text - used);
    print_note(file, text);
}

/* The default that most optimizers with the key have; "required" if there is none. */
static void default_of(const ConfigKey *key, char *text, size_t size) {
    int most = 0;
    char own[64], other[64];
    snprintf(text, size, "required");
    for (int i = 0; i < OPTIM_COUNT && !config_key_is_required(key); i++) {
        if (!config_key_applies(key, (OptimName)i)) continue;
        int same = 0;
        config_key_default_text(key, (OptimName)i, own, sizeof own);
        for (int j = 0; j < OPTIM_COUNT; j++) {
            config_key_default_text(key, (OptimName)j, other, sizeof other);
            same += config_key_applies(key, (OptimName)j) && strcmp(own, other) == 0;
        }
        if (same > most) most = same, snprintf(text, size, "%s", own);
    }
}

/* Prints below a key the optimizers with another default than the one shown. */
static void print_other_defaults(FILE *file, const ConfigKey *key, const char *shown) {
    char note[256] = "default with ", own[64];
    size_t label = strlen(note), used = label;
    for (int i = 0; i < OPTIM_COUNT && key->has_optimizer_default; i++) {
        config_key_default_text(key, (OptimName)i, own, sizeof own);
        if (!config_key_applies(key, (OptimName)i) || strcmp(own, shown) == 0) continue;
        const char *comma = used > label ? ", " : "";
        used += (size_t)snprintf(note + used, sizeof note - used, "%s%s: %s", comma, optim_names[i], own);
    }
    if (used > label) print_note(file, note);
}

static void print_key(FILE *file, const ConfigKey *key) {
    char text[256], standard[64];
    default_of(key, standard, sizeof standard);
    config_key_type_text(key, text, sizeof text);
    fprintf(file, "  %-32s%-22s%-15s%s\n", key->name, text, standard[0] ? standard : "\"\"", key->help);
    if (key->type == CONFIG_CHOICE) {
        config_key_expectation(key, text, sizeof text);
        print_note(file, text);
    }
    unsigned optimizers = config_key_optimizers(key);
    if (optimizers) print_names(file, "only: ", config_list_optimizers, optimizers);
    if (key->schedules) print_names(file, "only: ", config_list_schedules, key->schedules);
    print_other_defaults(file, key, standard);
}

void config_print_help(FILE *file) {
    fprintf(file,
            "--print_config prints the config that the run would have, with bases and defaults filled in, as a\n"
            "config file with one key a line. Where init_from names weights or a checkpoint, the model keys are\n"
            "those of its config.json. It trains nothing and writes no file. The exit status is 2 if the config\n"
            "is wrong, 1 if what init_from names cannot be read.\n\n"
            "Keys of the config file, by section. On the command line: --section.key=value, or --key=value where\n"
            "only one section has the key; what is given there wins over the file. \"base\": \"PATH\", next to\n"
            "the sections, reads that file first; PATH is relative to the folder of the file that gives it.\n");
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (i == 0 || strcmp(key->section, config_keys[i - 1].section) != 0) {
            fprintf(file, "\n%s\n", key->section);
            fprintf(file, "  %-32s%-22s%-15s%s\n", "key", "type", "default", "meaning");
        }
        print_key(file, key);
    }
    fprintf(file,
            "\nGive total_batch_size or gradient_accumulation_steps:\n"
            "total_batch_size = batch_size x processes x gradient_accumulation_steps.\n"
            "A key that is marked \"only\" has no effect on the other optimizers or schedules: in the file that is\n"
            "a warning, on the command line an error, and so is a key that is given twice. The same holds for a key\n"
            "that the optimizer does not read as configured, such as lr_1d of mars-adamw with optimize_1d. For a\n"
            "key of a base it is neither.\n"
            "--list_optimizers prints each optimizer's parameter groups and the keys that they read, as JSON.\n"
            "--max_iters below the file's shortens the file's warmup_iters, warmdown_iters and ema_start in\n"
            "proportion; a key that is given on the command line too stays as it is.\n");
}

/* ---- --list_optimizers ---- */

static cJSON *group_json(const ParamGroup *group) {
    bool is_1d = group->when == WHEN_OPTIMIZE_1D || group->when == UNLESS_OPTIMIZE_1D;
    bool when = group->when == WHEN_OPTIMIZE_1D || group->when == WHEN_MUON_EMBEDDINGS;
    const Rule *rule = rule_of(group->rule);
    cJSON *json = cJSON_CreateObject(), *roles = cJSON_AddArrayToObject(json, "roles");
    for (int r = 0; r < ROLE_COUNT; r++)
        if (group->roles >> r & 1) cJSON_AddItemToArray(roles, cJSON_CreateString(tensor_role_name((TensorRole)r)));
    cJSON_AddStringToObject(json, "rule", rule->name);
    cJSON_AddStringToObject(json, "learning_rate", param_group_lr_key(group));
    cJSON *betas = cJSON_AddArrayToObject(json, "betas");
    static const char *const beta_keys[] = {"beta1", "beta2", "betas_1d"};
    for (size_t i = 0; i < ARRAY_LENGTH(beta_keys); i++)
        if (param_group_uses_key(group, beta_keys[i])) cJSON_AddItemToArray(betas, cJSON_CreateString(beta_keys[i]));
    if (group->decay == DECAY_NONE)
        cJSON_AddNullToObject(json, "weight_decay");
    else
        cJSON_AddStringToObject(json, "weight_decay", param_group_decay_key(group));
    if (group->when != ALWAYS)
        cJSON_AddBoolToObject(cJSON_AddObjectToObject(json, "when"), is_1d ? "optimize_1d" : "muon_embeddings", when);
    cJSON *states = cJSON_AddArrayToObject(json, "states");
    for (int s = 0; s < rule_state_count(rule); s++)
        cJSON_AddItemToArray(states, cJSON_CreateString(rule->state_names[s]));
    if (rule->uses_prev_grad) cJSON_AddItemToArray(states, cJSON_CreateString(PREV_GRAD_STATE));
    cJSON_AddBoolToObject(json, "orthogonalized", rule->is_matrix);
    return json;
}

static cJSON *optimizer_json(OptimName name) {
    const Optimizer *optimizer = optimizer_of(name);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "name", optimizer->name);
    cJSON_AddStringToObject(json, "title", optimizer->title);
    if (optimizer->alias) cJSON_AddStringToObject(json, "alias", optimizer->alias);
    cJSON *groups = cJSON_AddArrayToObject(json, "groups"), *keys = cJSON_AddObjectToObject(json, "keys");
    for (const ParamGroup *group = optimizer->groups; group->roles; group++)
        cJSON_AddItemToArray(groups, group_json(group));
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        char text[64];
        if (!key->has_optimizer_default || !config_key_applies(key, name)) continue;
        config_key_default_text(key, name, text, sizeof text);
        if (key->type == CONFIG_CHOICE || strcmp(text, "learning_rate") == 0)
            cJSON_AddStringToObject(keys, key->name, text);
        else if (key->type == CONFIG_PAIR) {
            char pair[80];
            snprintf(pair, sizeof pair, "[%s]", text);
            cJSON_AddRawToObject(keys, key->name, pair);
        } else
            cJSON_AddRawToObject(keys, key->name, text);
    }
    return json;
}

void config_print_optimizers(FILE *file) {
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < OPTIM_COUNT; i++) cJSON_AddItemToArray(list, optimizer_json((OptimName)i));
    char *text = cJSON_Print(list);
    if (!text) die("out of memory: the list of optimizers");
    fprintf(file, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(list);
}

static void print_usage(FILE *file) {
    fprintf(file, "usage: train_gpt2 CONFIG.json [--key=value ...]\n"
                  "       mpirun -np N train_gpt2 CONFIG.json [--key=value ...]\n"
                  "       train_gpt2 CONFIG.json [--key=value ...] --print_config\n"
                  "       train_gpt2 --help | --version | --list_optimizers\n");
}

void config_require_file(int argc, char *const *argv, bool speaks) {
    if (argc >= 2 && argv[1][0] != '-') return;
    if (argc >= 2 && strcmp(argv[1], "-") == 0)
        die_usage("the first argument must be a config file; standard input is /dev/stdin");
    if (speaks) print_usage(stderr);
    if (argc < 2) die_usage("the first argument must be a config file, such as config/quickstart.json");
    die_usage("the first argument must be a config file, and is '%.80s'; --key=value comes after it", argv[1]);
}

void config_end_answered(void) {
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write to standard output: %s", strerror(errno));
    exit(EXIT_DONE);
}

void config_answer_questions(int argc, char *const *argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--version") == 0) {
            printf("train_gpt2 (mars.c) %s\n", MARS_VERSION);
            config_end_answered();
        }
        if (strcmp(argv[i], "--list_optimizers") == 0) {
            config_print_optimizers(stdout);
            config_end_answered();
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_usage(stdout);
            config_print_help(stdout);
            config_end_answered();
        }
    }
}

bool config_remove_print_config(int *argc, char **argv) {
    int kept = 1;
    for (int i = 1; i < *argc; i++)
        if (strcmp(argv[i], "--print_config") != 0) argv[kept++] = argv[i];
    bool was_there = kept < *argc;
    if (was_there) *argc = kept;
    return was_there;
}
