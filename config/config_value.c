/* config_value.c: see config_value.h. */
#include "config/config_value.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "optim/optimizers.h"
#include "util/files.h"

static const double exact_integers = 0x1p53; /* below it, no two integers round to the same double */

static void *field_of(Config *config, const ConfigKey *key) { return (char *)config + key->offset; }

static bool in_range(const ConfigKey *key, double value) {
    return range_holds(value, key->minimum, key->maximum, key->limits, key->type == CONFIG_INT);
}

/* These functions return false if the key cannot have the value. */

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

bool config_set_from_text(Config *config, const ConfigKey *key, const char *text) {
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

bool config_set_from_json(Config *config, const ConfigKey *key, const cJSON *item) {
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
    return cJSON_IsString(item) && config_set_from_text(config, key, item->valuestring);
}

/* The shortest decimal form that reads back as the same double. */
static char *number_text(double value) {
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return checked_strdup(text);
}

bool config_wrong_value(const char *where, const ConfigKey *key, const char *value, Error *error) {
    enum { SHOWN = 80 };
    char expected[256];
    config_key_expectation(key, expected, sizeof expected);
    return error_set(error, "%s: %s.%s is %.*s%s; expected %s; train_gpt2 --help explains the key", where, key->section,
                     key->name, SHOWN, value, strlen(value) > SHOWN ? "..." : "", expected);
}

bool config_set_or_explain(Config *config, const ConfigKey *key, const cJSON *item, const char *path, Error *error) {
    if (config_set_from_json(config, key, item)) return true;
    char *value = cJSON_IsNumber(item) ? number_text(item->valuedouble) : cJSON_PrintUnformatted(item);
    if (!value) die("out of memory: a value of %s", path);
    config_wrong_value(path, key, value, error);
    free(value);
    return false;
}

static size_t size_of(const ConfigKey *key) {
    static const size_t sizes[] = {
        [CONFIG_BOOL] = sizeof(bool),      [CONFIG_INT] = sizeof(int),         [CONFIG_SEED] = sizeof(uint64_t),
        [CONFIG_NUMBER] = sizeof(double),  [CONFIG_PAIR] = 2 * sizeof(double), [CONFIG_STRING] = CONFIG_STRING_LENGTH,
        [CONFIG_CHOICE] = sizeof(unsigned)};
    return sizes[key->type];
}

void config_set_default(Config *config, const ConfigKey *key) {
    if (key->has_optimizer_default) {
        size_t offset = key->offset - offsetof(Config, optimizer);
        const char *defaults = (const char *)&optimizer_of(config->optimizer.name)->defaults;
        memcpy(field_of(config, key), defaults + offset, size_of(key));
    } else if (!config_set_from_text(config, key, key->default_text)) {
        die("the default of %s.%s is not valid", key->section, key->name);
    }
}

void config_set_defaults(Config *config) {
    memset(config, 0, sizeof *config);
    for (int i = 0; i < config_key_count; i++)
        if (config_keys[i].default_text) config_set_default(config, &config_keys[i]);
}

static char *pair_text(const double *pair) {
    char *first = number_text(pair[0]), *second = number_text(pair[1]);
    char *text = format_string("[%s,%s]", first, second);
    free(first);
    free(second);
    return text;
}

cJSON *config_value_to_json(const Config *config, const ConfigKey *key) {
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

char *config_value_text(const Config *config, const ConfigKey *key) {
    cJSON *value = config_value_to_json(config, key);
    char *text = cJSON_PrintUnformatted(value);
    if (!text) die("out of memory: a value of the config");
    cJSON_Delete(value);
    return text;
}
