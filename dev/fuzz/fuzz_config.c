/* fuzz_config.c: the config parser. The input is a config file; after a line "%base" the file base.json, which may be
 * its base; and after a line "%%" arguments of a command line, one a line. What is accepted lies within the ranges of
 * the table of keys and comes back from its own JSON. An input that names another base is passed over: no other file is
 * read. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config_file.h"
#include "config/config_keys.h"
#include "dev/fuzz/fuzz.h"

enum { MAX_OVERRIDES = 8 };

static bool in_range(const ConfigKey *key, double value) {
    return (key->limits & ABOVE_MINIMUM ? value > key->minimum : value >= key->minimum) &&
           (key->limits & BELOW_MAXIMUM ? value < key->maximum : value <= key->maximum);
}

static bool is_choice(const ConfigKey *key, unsigned value) {
    unsigned count = 0;
    while (key->choices[count]) count++;
    return value < count;
}

static bool is_valid(const Config *config, const ConfigKey *key) {
    const void *field = (const char *)config + key->offset;
    const double *pair = field;
    switch (key->type) {
    case CONFIG_BOOL:
        return *(const unsigned char *)field <= 1;
    case CONFIG_INT:
        return in_range(key, *(const int *)field);
    case CONFIG_SEED:
        return true;
    case CONFIG_NUMBER:
        return in_range(key, *pair);
    case CONFIG_PAIR:
        return in_range(key, pair[0]) && in_range(key, pair[1]);
    case CONFIG_STRING:
        return memchr(field, 0, CONFIG_STRING_LENGTH) && in_range(key, (double)strlen(field));
    default:
        return is_choice(key, *(const unsigned *)field);
    }
}

static size_t bytes_of(ConfigType type) {
    static const size_t bytes[] = {
        [CONFIG_BOOL] = sizeof(bool),       [CONFIG_INT] = sizeof(int),         [CONFIG_SEED] = sizeof(uint64_t),
        [CONFIG_NUMBER] = sizeof(double),   [CONFIG_PAIR] = 2 * sizeof(double), [CONFIG_STRING] = CONFIG_STRING_LENGTH,
        [CONFIG_CHOICE] = sizeof(unsigned),
    };
    return bytes[type];
}

static void check_round_trip(const Config *config) {
    Config again;
    Error error = {""};
    char *json = config_to_json(config);
    const char *path = fuzz_file("again.json", json, strlen(json));
    FUZZ_CHECK(config_load(&again, path, 0, NULL, &error), "%s, which is %s", error.text, json);
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        FUZZ_CHECK(
            memcmp((const char *)&again + key->offset, (const char *)config + key->offset, bytes_of(key->type)) == 0,
            "%s.%s comes back another from %s", key->section, key->name, json);
    }
    unlink(path); /* the next input must not find it */
    free(json);
}

static void check_resolved(const Config *config, int processes) {
    Config resolved = *config;
    const TrainConfig *train = &resolved.train;
    Error error = {""};
    if (config_resolve(&resolved, processes, &error))
        FUZZ_CHECK(train->total_batch_size > 0 &&
                       (int64_t)train->batch_size * processes * train->gradient_accumulation_steps ==
                           train->total_batch_size,
                   "%d processes x %d x %d is not %d", processes, train->batch_size, train->gradient_accumulation_steps,
                   train->total_batch_size);
    else
        FUZZ_CHECK(error.text[0], "no reason");
}

/* What is before the separator in the input, which becomes what is after it. */
static FuzzInput split_off(FuzzInput *input, const char *separator) {
    const uint8_t *found = input->bytes > 0 ? memmem(input->data, input->bytes, separator, strlen(separator)) : NULL;
    FuzzInput before = fuzz_piece(input, found ? (size_t)(found - input->data) : input->bytes);
    fuzz_piece(input, strlen(separator));
    return before;
}

/* Whether the base that the file at `path` names, if it names one, would lie in the same folder. */
static bool base_is_inside(const char *path) {
    ConfigFile file;
    char *base;
    if (!config_file_read(&file, path, NULL)) return true;
    bool names_one = config_file_base(&file, &base, NULL) && base;
    size_t folder = strlen(fuzz_folder());
    bool inside = !names_one ||
                  (strncmp(base, fuzz_folder(), folder) == 0 && base[folder] == '/' && !strchr(base + folder + 1, '/'));
    free(base);
    config_file_free(&file);
    return inside;
}

/* The lines of `text`, as strings; returns how many. */
static int split_lines(FuzzInput text, char *lines[MAX_OVERRIDES]) {
    int count = 0;
    while (text.bytes > 0 && count < MAX_OVERRIDES) {
        const uint8_t *newline = memchr(text.data, '\n', text.bytes);
        FuzzInput line = fuzz_piece(&text, newline ? (size_t)(newline - text.data) : text.bytes);
        lines[count] = checked_calloc(line.bytes + 1, 1, "a line");
        if (line.bytes > 0) memcpy(lines[count], line.data, line.bytes);
        count++;
        fuzz_piece(&text, 1);
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzInput overrides = {data, bytes};
    FuzzInput base = split_off(&overrides, "\n%%\n"), file = split_off(&base, "\n%base\n");
    const char *path = fuzz_file("config.json", file.data, file.bytes);
    const char *base_path = fuzz_file("base.json", base.data, base.bytes);
    if (!base_is_inside(path) || !base_is_inside(base_path)) return 0;

    char *lines[MAX_OVERRIDES];
    int count = split_lines(overrides, lines);
    Config config;
    Error error = {""};
    base_set_process(1, 2, NULL); /* only process 0 prints warnings */
    if (config_load(&config, path, count, lines, &error)) {
        for (int i = 0; i < config_key_count; i++)
            FUZZ_CHECK(is_valid(&config, &config_keys[i]) || config_key_is_absent(&config_keys[i], &config),
                       "%s.%s is out of range", config_keys[i].section, config_keys[i].name);
        check_round_trip(&config);
        for (int processes = 1; processes <= 8; processes++) check_resolved(&config, processes);
    } else {
        FUZZ_CHECK(strncmp(error.text, path, strlen(path)) == 0 || strncmp(error.text, "command line", 12) == 0 ||
                       strncmp(error.text, base_path, strlen(base_path)) == 0,
                   "the message does not say where: %s", error.text);
    }
    for (int i = 0; i < count; i++) free(lines[i]);
    return 0;
}
