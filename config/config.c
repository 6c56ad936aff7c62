/* config.c: from a JSON file and a command line to a checked Config, and back to JSON.
 *
 * Everything here walks the table of keys (config_keys.c): nothing below names a key, except for the rules that
 * involve more than one. cJSON parses, but it forgives too much for a file that people write by hand (a string that
 * runs over lines, a key given twice, numbers too large for a double), so the text is examined before it gets there
 * and the values after it. What depends on the device, or on files that the config names, is not checked here. */
#include "config/config.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config_keys.h"
#include "optim/optimizer_keys.h"
#include "optim/optimizers.h"
#include "util/files.h"

static const char command_line[] = "command line";
static const double exact_integers = 0x1p53; /* below it, a double holds an integer that no other text rounds to */

/* The file or the command line, and what messages call it. */
typedef struct Source {
    const char *name;
    ConfigOrigin origin;
} Source;

/* ---- where values come from ---- */

const char *config_where(const Config *config, const char *keys) {
    char *list = checked_strdup(keys), *rest = list;
    bool overridden = false;
    for (char *section; (section = strsep(&rest, " "));) {
        char *dot = strchr(section, '.');
        if (!dot) die("'%s' is no key", section);
        *dot = 0;
        int index = config_key_find(section, dot + 1);
        if (index < 0) die("there is no key %s.%s", section, dot + 1);
        overridden |= config->origins[index] == CONFIG_FROM_COMMAND_LINE;
    }
    free(list);
    return overridden || !config->file[0] ? command_line : config->file;
}

/* Who gave the key whose value is `field` of the config. */
static ConfigOrigin origin_of(const Config *config, const void *field) {
    for (int i = 0; i < config_key_count; i++)
        if ((const char *)config + config_keys[i].offset == (const char *)field) return config->origins[i];
    die("a field of the config that no key has");
}

/* ---- one value ---- */

static void *field_of(Config *config, const ConfigKey *key) { return (char *)config + key->offset; }

static bool in_range(const ConfigKey *key, double value) {
    return range_holds(value, key->minimum, key->maximum, key->limits, key->type == CONFIG_INT);
}

/* These return false where the value is not one that the key can have. */

static bool set_number(Config *config, const ConfigKey *key, double value) {
    if (!in_range(key, value)) return false;
    if (key->type == CONFIG_NUMBER) {
        *(double *)field_of(config, key) = value;
        return true;
    }
    if (value != floor(value) || fabs(value) > INT_MAX) return false;
    *(int *)field_of(config, key) = (int)value;
    return true;
}

static bool set_pair(Config *config, const ConfigKey *key, double first, double second) {
    if (!in_range(key, first) || !in_range(key, second)) return false;
    double *field = field_of(config, key);
    field[0] = first;
    field[1] = second;
    return true;
}

static bool set_seed(Config *config, const ConfigKey *key, const char *text) {
    if (!text[0] || text[strspn(text, "0123456789")]) return false;
    errno = 0;
    unsigned long long value = strtoull(text, NULL, 10);
    if (errno != 0) return false;
    *(uint64_t *)field_of(config, key) = value;
    return true;
}

static bool set_string(Config *config, const ConfigKey *key, const char *text) {
    char *value = key->is_path ? files_expand_home(text) : checked_strdup(text);
    size_t length = strlen(value);
    bool fits = (double)length >= key->minimum && (double)length <= key->maximum;
    if (fits) {
        char *field = field_of(config, key);
        memset(field, 0, CONFIG_STRING_LENGTH); /* so that equal configs are equal bytes */
        snprintf(field, CONFIG_STRING_LENGTH, "%s", value);
    }
    free(value);
    return fits;
}

static bool set_choice(Config *config, const ConfigKey *key, const char *text) {
    if (key->choices == optim_names && optim_find(text) < OPTIM_COUNT)
        text = optim_names[optim_find(text)]; /* an alias */
    for (unsigned i = 0; key->choices[i]; i++) {
        if (strcmp(text, key->choices[i]) != 0) continue;
        *(unsigned *)field_of(config, key) = i;
        return true;
    }
    return false;
}

static bool number_from_text(const char *text, double *value) {
    char *end; /* strtod alone would also take spaces, hexadecimal, inf and nan */
    *value = strtod(text, &end);
    return text[0] && !text[strspn(text, "0123456789+-.eE")] && !*end;
}

/* "0.9,0.95", or as in JSON "[0.9, 0.95]". */
static bool set_pair_from_text(Config *config, const ConfigKey *key, const char *text) {
    char first[64], second[64];
    int end = 0;
    bool bracketed = text[0] == '[';
    if (sscanf(text + bracketed, "%63[^,], %63[^]]%n", first, second, &end) != 2) return false;
    double a, b;
    return strcmp(text + bracketed + end, bracketed ? "]" : "") == 0 && number_from_text(first, &a) &&
           number_from_text(second, &b) && set_pair(config, key, a, b);
}

/* Sets a value written as on the command line. */
static bool set_from_text(Config *config, const ConfigKey *key, const char *text) {
    if (key->type == CONFIG_STRING) return set_string(config, key, text);
    if (key->type == CONFIG_CHOICE) return set_choice(config, key, text);
    if (key->type == CONFIG_SEED) return set_seed(config, key, text);
    if (key->type == CONFIG_BOOL) {
        *(bool *)field_of(config, key) = strcmp(text, "true") == 0;
        return strcmp(text, "true") == 0 || strcmp(text, "false") == 0;
    }
    if (key->type == CONFIG_PAIR) return set_pair_from_text(config, key, text);
    double value;
    return number_from_text(text, &value) && set_number(config, key, value);
}

static bool set_from_json(Config *config, const ConfigKey *key, const cJSON *item) {
    if (key->type == CONFIG_BOOL) {
        *(bool *)field_of(config, key) = cJSON_IsTrue(item);
        return cJSON_IsBool(item);
    }
    if (key->type == CONFIG_INT || key->type == CONFIG_NUMBER)
        return cJSON_IsNumber(item) && set_number(config, key, item->valuedouble);
    if (key->type == CONFIG_PAIR) {
        const cJSON *a = cJSON_GetArrayItem(item, 0), *b = cJSON_GetArrayItem(item, 1);
        return cJSON_IsArray(item) && cJSON_GetArraySize(item) == 2 && cJSON_IsNumber(a) && cJSON_IsNumber(b) &&
               set_pair(config, key, a->valuedouble, b->valuedouble);
    }
    if (key->type == CONFIG_SEED && cJSON_IsNumber(item)) {
        double value = item->valuedouble;
        if (!(value >= 0 && value < exact_integers) || value != floor(value)) return false;
        *(uint64_t *)field_of(config, key) = (uint64_t)value;
        return true;
    }
    return cJSON_IsString(item) && set_from_text(config, key, item->valuestring);
}

/* The shortest of the decimal forms that read back as the same double. */
static char *number_text(double value) {
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return checked_strdup(text);
}

static bool wrong_value(const char *where, const ConfigKey *key, const char *value, Error *error) {
    enum { SHOWN = 80 };
    char expected[256];
    config_key_expectation(key, expected, sizeof expected);
    return error_set(error, "%s: %s.%s is %.*s%s; expected %s", where, key->section, key->name, SHOWN, value,
                     strlen(value) > SHOWN ? "..." : "", expected);
}

static bool unknown_key(const char *where, const char *section, const char *name, Error *error) {
    const ConfigKey *nearest = &config_keys[config_key_nearest(section, name)];
    return error_set(error, "%s: there is no key '%.64s%s%.64s'; the nearest is %s.%s", where, section ? section : "",
                     section ? "." : "", name, nearest->section, nearest->name);
}

/* Notes that the source gives the key, which it may do once. */
static bool claim(Config *config, const Source *source, int index, Error *error) {
    if (config->origins[index] == source->origin)
        return error_set(error, "%s: %s.%s is given twice; remove one of the two", source->name,
                         config_keys[index].section, config_keys[index].name);
    config->origins[index] = (unsigned char)source->origin;
    return true;
}

/* ---- the file ---- */

/* A name as in config/NAME.json, which the scripts take, is no path. */
static void cannot_open(const char *path, const char *reason, Error *error) {
    char *published = format_string("config/%s%s", path, strstr(path, ".json") ? "" : ".json");
    if (files_is_folder(path))
        error_set(error, "%s: a folder; give the config file in it", path);
    else if (!strchr(path, '/') && files_is_file(published))
        error_set(error, "%s: cannot open the config: %s; there is %s", path, reason, published);
    else
        error_set(error, "%s: cannot open the config: %s", path, reason);
    free(published);
}

/* The whole file with a 0 after it, which the caller frees; NULL and the reason where it cannot be read. It may be
 * a pipe, so its size is not asked for. */
static char *read_text(const char *path, size_t *length, Error *error) {
    enum { LIMIT = 1 << 20 };
    FILE *file = files_is_folder(path) ? NULL : fopen(path, "rb");
    if (!file) {
        cannot_open(path, strerror(errno), error);
        return NULL;
    }
    char *text = checked_malloc(LIMIT + 1, "the config's text");
    errno = 0;
    *length = fread(text, 1, LIMIT + 1, file);
    bool failed = ferror(file) != 0;
    if (failed)
        error_set(error, "%s: cannot read the config: %s", path, strerror(errno));
    else if (*length > LIMIT)
        error_set(error, "%s: too large for a config: more than %d bytes", path, LIMIT);
    fclose(file);
    if (failed || *length > LIMIT) {
        free(text);
        return NULL;
    }
    text[*length] = 0;
    return text;
}

/* "FILE:LINE:COLUMN: problem, at: the text there". Columns count bytes, from 1. */
static bool syntax_error(const char *path, const char *text, size_t at, const char *problem, Error *error) {
    size_t line = 1, line_start = 0;
    for (size_t i = 0; i < at; i++)
        if (text[i] == '\n') line++, line_start = i + 1;
    char there[33];
    size_t shown = 0;
    for (; shown < sizeof there - 1 && text[at + shown] && !strchr("\r\n", text[at + shown]); shown++)
        there[shown] = isprint((unsigned char)text[at + shown]) ? text[at + shown] : '?';
    there[shown] = 0;
    return error_set(error, "%s:%zu:%zu: %s, at: %s", path, line, at - line_start + 1, problem,
                     shown      ? there
                     : text[at] ? "the end of the line"
                                : "the end of the file");
}

/* Moves *at from a string's opening quote to its closing one. Returns NULL, or what is wrong with the string. */
static const char *skip_string(const char *text, size_t *at) {
    size_t i = *at + 1;
    for (; text[i] && text[i] != '\n' && text[i] != '"'; i++) {
        if (text[i] != '\\' || text[i + 1] == 0 || text[i + 1] == '\n') continue;
        i++;
        if (strncmp(text + i, "u0000", 5) == 0) return "a string cannot hold \\u0000";
    }
    if (text[i] != '"') return "this string has no closing quote on its line";
    *at = i;
    return NULL;
}

/* Overwrites comments by spaces, so that every other byte keeps its line and column, and finds what cJSON would let
 * pass or misplace: strings that do not end on their line, comments that do not end, zero bytes. */
static bool blank_comments(char *text, size_t length, const char *path, Error *error) {
    if (length >= 2 && (memcmp(text, "\xff\xfe", 2) == 0 || memcmp(text, "\xfe\xff", 2) == 0))
        return error_set(error, "%s: UTF-16 text; expected UTF-8: save it as that", path);
    if (strlen(text) != length) return syntax_error(path, text, strlen(text), "a zero byte: not a text file", error);
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '"') {
            const char *problem = skip_string(text, &i);
            if (problem) return syntax_error(path, text, i, problem, error);
        } else if (text[i] == '/' && text[i + 1] == '/') {
            for (; i < length && text[i] != '\n'; i++) text[i] = ' ';
        } else if (text[i] == '/' && text[i + 1] == '*') {
            const char *end = strstr(text + i + 2, "*/");
            if (!end) return syntax_error(path, text, i, "this comment has no end", error);
            for (; text + i < end + 2; i++)
                if (text[i] != '\n') text[i] = ' ';
            i--;
        }
    }
    return true;
}

/* Where cJSON wanted a key and found something else, it reports the byte after it. That is so where the byte before
 * `at` follows a brace or a comma; a bracket there is where a list's first element is wanted. */
static size_t where_parsing_stopped(const char *text, size_t at) {
    if (at < 2 || strchr(" \t\r\n\"[", text[at - 1])) return at;
    size_t i = at - 1;
    while (i > 0 && strchr(" \t\r\n", text[i - 1])) i--;
    return i > 0 && strchr("{,", text[i - 1]) ? at - 1 : at;
}

/* The root object, which the caller deletes; NULL and the reason where there is none. `path` is for messages. */
static cJSON *parse_text(const char *text, size_t length, const char *path, Error *error) {
    if (!text[strspn(text, " \t\r\n")]) {
        error_set(error, "%s: the config is empty; expected an object of sections, {\"model\": {...}, ...}", path);
        return NULL;
    }
    const char *end = text;
    cJSON *root = cJSON_ParseWithLengthOpts(text, length + 1, &end, true);
    if (cJSON_IsObject(root)) return root;
    if (root)
        error_set(error, "%s: expected an object of sections, {\"model\": {...}, ...}", path);
    else
        syntax_error(path, text, where_parsing_stopped(text, (size_t)(end - text)),
                     "not JSON (keys in double quotes, commas between entries only)", error);
    cJSON_Delete(root);
    return NULL;
}

static cJSON *parse_file(const char *path, Error *error) {
    size_t length;
    char *text = read_text(path, &length, error);
    if (!text) return NULL;
    cJSON *root = blank_comments(text, length, path, error) ? parse_text(text, length, path, error) : NULL;
    free(text);
    return root;
}

/* Sets the key, or says in what file and how its value is wrong. */
static bool set_or_explain(Config *config, const ConfigKey *key, const cJSON *item, const char *path, Error *error) {
    if (set_from_json(config, key, item)) return true;
    char *value = cJSON_IsNumber(item) ? number_text(item->valuedouble) : cJSON_PrintUnformatted(item);
    if (!value) die("out of memory: a value of %s", path);
    wrong_value(path, key, value, error);
    free(value);
    return false;
}

static bool take_json(Config *config, const Source *file, int index, const cJSON *item, Error *error) {
    return claim(config, file, index, error) && set_or_explain(config, &config_keys[index], item, file->name, error);
}

static bool take_section(Config *config, const Source *file, const cJSON *root, const cJSON *section, Error *error) {
    const char *name = section->string;
    if (!config_section_exists(name))
        return error_set(error, "%s: there is no section '%.64s'; the nearest is %s", file->name, name,
                         config_section_nearest(name));
    for (const cJSON *before = root->child; before != section; before = before->next)
        if (strcmp(before->string, name) == 0)
            return error_set(error, "%s: the section %s is given twice; join the two", file->name, name);
    if (!cJSON_IsObject(section))
        return error_set(error, "%s: the section %s must be an object, {\"key\": value, ...}", file->name, name);
    const cJSON *item;
    cJSON_ArrayForEach(item, section) {
        int index = config_key_find(name, item->string);
        if (index < 0) return unknown_key(file->name, name, item->string, error);
        if (!take_json(config, file, index, item, error)) return false;
    }
    return true;
}

static bool load_file(Config *config, const Source *file, Error *error) {
    cJSON *root = parse_file(file->name, error);
    if (!root) return false;
    bool ok = true;
    for (const cJSON *section = root->child; section && ok; section = section->next)
        ok = take_section(config, file, root, section, error);
    cJSON_Delete(root);
    return ok;
}

/* ---- the command line ---- */

/* Index of the key that has this name in one section only, or -1 and the reason. */
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

/* The same for "section.name" too. Cuts `name` at the dot. */
static int find_key(char *name, Error *error) {
    char *dot = strchr(name, '.');
    if (!dot) return find_bare_key(name, error);
    *dot = 0;
    int index = config_key_find(name, dot + 1);
    if (index < 0) unknown_key(command_line, name, dot + 1, error);
    return index;
}

/* The argument, and how to write it where it is plain what was meant. */
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
    if (strncmp(argument, "--", 2) != 0 || !equals || equals == argument + 2)
        return wrong_form(source->name, argument, error);
    char *name = format_string("%.*s", (int)(equals - argument - 2), argument + 2);
    int index = find_key(name, error);
    free(name);
    if (index < 0 || !claim(config, source, index, error)) return false;
    if (set_from_text(config, &config_keys[index], equals + 1)) return true;
    char *value = format_string("'%s'", equals + 1);
    wrong_value(source->name, &config_keys[index], value, error);
    free(value);
    return false;
}

/* ---- defaults ---- */

static size_t size_of(const ConfigKey *key) {
    static const size_t sizes[] = {
        [CONFIG_BOOL] = sizeof(bool),      [CONFIG_INT] = sizeof(int),         [CONFIG_SEED] = sizeof(uint64_t),
        [CONFIG_NUMBER] = sizeof(double),  [CONFIG_PAIR] = 2 * sizeof(double), [CONFIG_STRING] = CONFIG_STRING_LENGTH,
        [CONFIG_CHOICE] = sizeof(unsigned)};
    return sizes[key->type];
}

/* Of a key that is not required: its own, or that of the config's optimizer. */
static void set_default(Config *config, const ConfigKey *key) {
    if (key->has_optimizer_default) {
        size_t offset = key->offset - offsetof(Config, optimizer);
        const char *defaults = (const char *)&optimizer_of(config->optimizer.name)->defaults;
        memcpy(field_of(config, key), defaults + offset, size_of(key));
    } else if (!set_from_text(config, key, key->default_text)) {
        die("the default of %s.%s is not valid", key->section, key->name);
    }
}

/* ---- rules that involve more than one key, or more than the table can say ---- */

static bool check_model(const Config *config, Error *error) {
    const char *keys;
    Error reason;
    return gpt2_config_check(&config->model, &keys, &reason) ||
           error_set(error, "%s: model.%s", config_where(config, keys), reason.text);
}

/* On the command line a key without an effect is a mistake. */
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

/* Appends the keys of the file that have no effect for this reason, and sets them to their defaults: the file may have
 * them for another optimizer, as in `train_gpt2 small_mars.json --optimizer.name=muon`. */
static void drop_keys(Config *config, const char *idle_in, char *names, size_t size) {
    char own[128];
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (config->origins[i] != CONFIG_FROM_FILE || !config_key_idle_in(key, config, own, sizeof own)) continue;
        if (strcmp(own, idle_in) != 0) continue;
        size_t used = strlen(names);
        snprintf(names + used, size - used, "%s%s.%s", used ? ", " : "", key->section, key->name);
        set_default(config, key);
        config->origins[i] = CONFIG_DEFAULT;
    }
}

/* A warning for each reason why keys of the file have no effect. */
static bool resolve_idle_keys(Config *config, Error *error) {
    char idle_in[128];
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (config->origins[i] == CONFIG_DEFAULT || !config_key_idle_in(key, config, idle_in, sizeof idle_in)) continue;
        if (config->origins[i] == CONFIG_FROM_COMMAND_LINE) return refuse_idle_key(config, key, idle_in, error);
        char names[512] = "";
        drop_keys(config, idle_in, names, sizeof names);
        warn("%s: without effect on %s: %s", config->file, idle_in, names);
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
        return error_set(error, "%s: give train.total_batch_size or train.gradient_accumulation_steps, at least 1",
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
        return error_set(error, "%s: train.allow_tf32 is for GPUs; set it to false, or train.device to cuda or auto",
                         config_where(config, "train.allow_tf32 train.device"));
    if (train->ema_start >= train->max_iters && train->ema_start > 0 && !train->eval_only)
        return error_set(error,
                         "%s: train.ema_start %d must be below train.max_iters %d, so that there are steps to average; "
                         "lower it, or set it to 0 for no average of the weights",
                         config_where(config, "train.ema_start train.max_iters"), train->ema_start, train->max_iters);
    return true;
}

/* A way to start that is spelled otherwise would be taken for a path. */
static bool check_start(const Config *config, Error *error) {
    static const char *const ways[] = {"scratch", "resume", "auto"};
    const char *from = config->train.init_from;
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++)
        if (strcasecmp(from, ways[i]) == 0 && strcmp(from, ways[i]) != 0)
            return error_set(error, "%s: train.init_from is '%s'; write %s, or ./%s for a file of that name",
                             config_where(config, "train.init_from"), from, ways[i], from);
    return true;
}

/* min_lr is that of each parameter group's rate, but of lr_1d where that follows learning_rate in proportion. */
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
    error_set(error, "%s: schedule.min_lr %g must not be above optimizer.%s %g", config_where(config, keys), min_lr,
              key, peak);
    free(keys);
    return false;
}

/* The steps of a schedule must fit into the run. */
static bool check_steps(const Config *config, Error *error) {
    const ScheduleConfig *schedule = &config->schedule;
    if (schedule->warmup_iters > schedule->max_iters)
        return error_set(error, "%s: schedule.warmup_iters %d must not be above train.max_iters %d",
                         config_where(config, "schedule.warmup_iters train.max_iters"), schedule->warmup_iters,
                         schedule->max_iters);
    bool decays = schedule->name == SCHEDULE_COSINE || schedule->name == SCHEDULE_EXP;
    if (decays && schedule->lr_decay_iters <= schedule->warmup_iters)
        return error_set(error,
                         "%s: schedule.lr_decay_iters %d (train.max_iters where it is not given) must be above "
                         "schedule.warmup_iters %d",
                         config_where(config, "schedule.lr_decay_iters schedule.warmup_iters train.max_iters"),
                         schedule->lr_decay_iters, schedule->warmup_iters);
    if (schedule->name == SCHEDULE_TRAPEZOIDAL &&
        (int64_t)schedule->warmup_iters + schedule->warmdown_iters > schedule->max_iters)
        return error_set(error,
                         "%s: schedule.warmup_iters %d + schedule.warmdown_iters %d must not be above train.max_iters "
                         "%d",
                         config_where(config, "schedule.warmup_iters schedule.warmdown_iters train.max_iters"),
                         schedule->warmup_iters, schedule->warmdown_iters, schedule->max_iters);
    return true;
}

/* An evaluation alone has no schedule, so its max_iters may be anything. */
static bool check_schedule(const Config *config, Error *error) {
    return check_min_lr(config, error) && (config->train.eval_only || check_steps(config, error));
}

static bool check_required(const Config *config, Error *error) {
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (config_key_is_required(key) && config->origins[i] == CONFIG_DEFAULT)
            return error_set(error, "%s: %s.%s is missing: %s", config->file[0] ? config->file : command_line,
                             key->section, key->name, key->help);
    }
    return true;
}

/* ---- a run that the command line shortens ---- */

/* `steps` out of `whole`, for a run of `part` steps, and notes it for the message. A number that the file does not give,
 * or the command line does, stays as it is. */
static void shorten(Config *config, int *steps, const char *name, int part, int whole, char *note, size_t size) {
    if (*steps == 0 || origin_of(config, steps) != CONFIG_FROM_FILE) return;
    int shorter = (int)((int64_t)*steps * part / whole);
    size_t used = strlen(note);
    snprintf(note + used, size - used, "%s%s is %d instead of %d", used ? ", " : "", name, shorter, *steps);
    *steps = shorter;
}

/* So that `train_gpt2 small_mars.json --max_iters=10` is a short trial of that run. A decay that the file ends at a step of
 * its own stays there. */
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

/* Defaults that depend on other keys. */
static void fill_dependent_defaults(Config *config) {
    config->schedule.max_iters = config->train.max_iters;
    if (config->schedule.lr_decay_iters == 0) config->schedule.lr_decay_iters = config->train.max_iters;
    config->optimizer.ns_steps = ns_steps_of(&config->optimizer);
}

static void set_defaults(Config *config) {
    memset(config, 0, sizeof *config);
    for (int i = 0; i < config_key_count; i++)
        if (config_keys[i].default_text) set_default(config, &config_keys[i]);
}

/* Where the name of the optimizer is known: its own defaults of keys that were not given. */
static void set_optimizer_defaults(Config *config) {
    for (int i = 0; i < config_key_count; i++)
        if (config_keys[i].has_optimizer_default && config->origins[i] == CONFIG_DEFAULT)
            set_default(config, &config_keys[i]);
}

bool config_read(Config *config, const char *path, int count, char *const *overrides, Error *error) {
    const Source file = {path, CONFIG_FROM_FILE}, arguments = {command_line, CONFIG_FROM_COMMAND_LINE};
    set_defaults(config);
    if (path) snprintf(config->file, sizeof config->file, "%s", path);
    if (path && !load_file(config, &file, error)) return false;
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

/* Appends to a list that ends in "..." where it is full. */
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

static char *pair_text(const double *pair) {
    char *first = number_text(pair[0]), *second = number_text(pair[1]);
    char *text = format_string("[%s,%s]", first, second);
    free(first);
    free(second);
    return text;
}

static cJSON *value_to_json(const Config *config, const ConfigKey *key) {
    const void *field = (const char *)config + key->offset;
    if (config_key_is_absent(key, config)) return cJSON_CreateString("learning_rate");
    if (key->type == CONFIG_BOOL) return cJSON_CreateBool(*(const bool *)field);
    if (key->type == CONFIG_STRING) return cJSON_CreateString(field);
    if (key->type == CONFIG_CHOICE) return cJSON_CreateString(key->choices[*(const unsigned *)field]);
    /* cJSON prints the other types, but not always with all of their digits */
    char *text = NULL;
    if (key->type == CONFIG_INT) text = format_string("%d", *(const int *)field);
    if (key->type == CONFIG_SEED) text = format_string("%" PRIu64, *(const uint64_t *)field);
    if (key->type == CONFIG_NUMBER) text = number_text(*(const double *)field);
    if (key->type == CONFIG_PAIR) text = pair_text(field);
    bool quoted = key->type == CONFIG_SEED && (double)*(const uint64_t *)field >= exact_integers;
    cJSON *item = quoted ? cJSON_CreateString(text) : cJSON_CreateRaw(text);
    free(text);
    return item;
}

char *config_to_json(const Config *config) {
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
        ok = section && cJSON_AddItemToObject(section, key->name, value_to_json(config, key));
    }
    char *text = ok ? cJSON_PrintUnformatted(root) : NULL;
    if (!text) die("out of memory: the config as JSON");
    cJSON_Delete(root);
    return text;
}

/* ---- what comes with weights, and what an earlier run had ---- */

/* A value as JSON, which the caller frees by cJSON_free. */
static char *value_text(const Config *config, const ConfigKey *key) {
    cJSON *value = value_to_json(config, key);
    char *text = cJSON_PrintUnformatted(value);
    if (!text) die("out of memory: a value of the config");
    cJSON_Delete(value);
    return text;
}

static bool same_value(const Config *a, const Config *b, const ConfigKey *key) {
    char *text = value_text(a, key), *other = value_text(b, key);
    bool same = strcmp(text, other) == 0;
    cJSON_free(text);
    cJSON_free(other);
    return same;
}

/* Whether a given value that differs from the folder's will do all the same. */
static bool may_differ(const Config *config, const Config *folder, const ConfigKey *key, ConfigTake take) {
    if (strcmp(key->name, "block_size") == 0)
        return take.other_length &&
               (folder->model.position != POSITION_LEARNED || config->model.block_size < folder->model.block_size);
    return strcmp(key->name, "bias") == 0 && take.without_bias && !config->model.bias;
}

/* One key: *from is a config with the folder's model. */
static bool take_model_key(Config *config, int index, const Config *from, const char *folder, ConfigTake take,
                           Error *error) {
    const ConfigKey *key = &config_keys[index];
    char *text = value_text(from, key), *own = value_text(config, key);
    bool ok = true;
    if (config->origins[index] == CONFIG_DEFAULT) {
        cJSON *value = cJSON_Parse(text);
        ok = set_or_explain(config, key, value, folder, error);
        cJSON_Delete(value);
    } else if (strcmp(text, own) != 0 && !may_differ(config, from, key, take)) {
        bool by_command_line = config->origins[index] == CONFIG_FROM_COMMAND_LINE;
        ok = error_set(error, "%s: %s.%s is %s, but the model in %s has %s; remove the key: it comes with the weights",
                       by_command_line ? command_line : config->file, key->section, key->name, own, folder, text);
    }
    cJSON_free(text);
    cJSON_free(own);
    return ok;
}

bool config_take_model(Config *config, const GPT2Config *model, const char *folder, ConfigTake take, Error *error) {
    Config from = *config;
    from.model = *model;
    for (int i = 0; i < config_key_count; i++) {
        char idle_in[128];
        if (!config_keys[i].comes_with_weights) continue;
        if (config_key_idle_in(&config_keys[i], &from, idle_in, sizeof idle_in))
            continue; /* the folder may not say it */
        if (!take_model_key(config, i, &from, folder, take, error)) return false;
    }
    return true;
}

void config_model_to_json(const GPT2Config *model, cJSON *json) {
    Config config = {.model = *model};
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (key->comes_with_weights) cJSON_AddItemToObject(json, key->name, value_to_json(&config, key));
    }
}

bool config_model_from_json(GPT2Config *model, const cJSON *json, const char *path, Error *error) {
    Config config;
    set_defaults(&config);
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key->name);
        if (!key->comes_with_weights) continue;
        if (!item) {
            char expected[160];
            config_key_expectation(key, expected, sizeof expected);
            return error_set(error, "%s: the key %s is missing; expected %s", path, key->name, expected);
        }
        if (!set_or_explain(&config, key, item, path, error)) return false;
    }
    *model = config.model;
    return true;
}

/* The config in `json`, whose values the keys have that it lacks or spoils: defaults. */
static void read_earlier(Config *config, const cJSON *json) {
    set_defaults(config);
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        const cJSON *section = cJSON_GetObjectItemCaseSensitive(json, key->section);
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(section, key->name);
        if (item && set_from_json(config, key, item)) config->origins[i] = CONFIG_FROM_FILE;
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
        char *now = value_text(config, key), *before = value_text(was, key);
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
