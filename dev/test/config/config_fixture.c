/* config_fixture.c: see config_fixture.h. */
#include "dev/test/config/config_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_OVERRIDES = 16 };

/* What a config must have, and nothing else. */
static const char *const needed[][2] = {
    {"data", "\"train\": \"t.bin\", \"val\": \"v.bin\""},
    {"optimizer", "\"name\": \"adamw\", \"learning_rate\": 6e-4"},
    {"train", "\"max_iters\": 100, \"total_batch_size\": 480, \"batch_size\": 4, \"out_dir\": \"out\""},
};

const char *config_with(const char *section, const char *body) {
    const char *path = test_path("config.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    bool added = false;
    for (size_t i = 0; i < ARRAY_LENGTH(needed); i++) {
        bool here = strcmp(section, needed[i][0]) == 0;
        fprintf(file, "%s\"%s\": {%s%s%s}", i ? ",\n" : "{", needed[i][0], needed[i][1], here ? ", " : "",
                here ? body : "");
        added = added || here;
    }
    if (!added) fprintf(file, ",\n\"%s\": {%s}", section, body);
    fprintf(file, "}\n");
    assert_int_equal(fclose(file), 0);
    return path;
}

const char *valid_config(void) { return config_with("model", ""); }

const char *file_of(const char *text) {
    const char *path = test_path("config.json");
    test_write_text(path, text);
    return path;
}

const char *config_of_section(const char *optimizer) {
    char *text =
        format_string("{\"data\": {%s}, \"optimizer\": %s, \"train\": {%s}}", needed[0][1], optimizer, needed[2][1]);
    const char *path = file_of(text);
    free(text);
    return path;
}

const char *config_of(const char *optimizer, const char *body) {
    char *section =
        format_string("{\"name\": \"%s\", \"learning_rate\": 0.01%s%s}", optimizer, body[0] ? ", " : "", body);
    const char *path = config_of_section(section);
    free(section);
    return path;
}

bool load_config(Config *config, Error *error, const char *path, ...) {
    char *overrides[MAX_OVERRIDES];
    int count = 0;
    va_list list;
    va_start(list, path);
    for (char *next; (next = va_arg(list, char *));) overrides[count++] = next;
    va_end(list);
    error->text[0] = 0;
    return config_load(config, path, count, overrides, error);
}

Config accepted(const char *path, const char *override) {
    Config config;
    Error error;
    if (!load_config(&config, &error, path, override, NULL)) fail_msg("refused: %s", error.text);
    return config;
}

void must_hold(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("'%s' is not in: %s", part, text);
}

void refuse_by(const char *path, const char *override, const char *start, const char *parts) {
    Config config;
    Error error;
    if (load_config(&config, &error, path, override, NULL))
        fail_msg("accepted, although it should say '%s' (override %s)", parts, override ? override : "none");
    if (strncmp(error.text, start, strlen(start)) != 0) fail_msg("does not start with '%s': %s", start, error.text);
    assert_parts(error.text, parts);
}

void refuse_in_four_parts(const char *path, const char *override, const char *parts) {
    Config config;
    Error error;
    if (load_config(&config, &error, path, override, NULL)) fail_msg("accepted, although it should say '%s'", parts);
    assert_four_parts(error.text, parts);
}

void refuse_file(const char *path, const char *parts) { refuse_by(path, NULL, path, parts); }
void refuse_text(const char *text, const char *parts) { refuse_file(file_of(text), parts); }
void refuse_override(const char *override, const char *parts) {
    refuse_by(valid_config(), override, "command line: ", parts);
}

void assert_same_config(const Config *a, const Config *b) { assert_memory_equal(a, b, offsetof(Config, files)); }

char *warnings_of(Config *config, const char *path, const char *first, const char *second) {
    Error error;
    const char *written = test_path("warnings.txt");
    fflush(stderr);
    int saved = dup(STDERR_FILENO), file = open(written, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_true(saved >= 0 && file >= 0 && dup2(file, STDERR_FILENO) >= 0);
    bool ok = load_config(config, &error, path, first, second, NULL);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(file);
    if (!ok) fail_msg("refused: %s", error.text);
    return test_read_file(written, NULL);
}

Config reloaded(const Config *config) {
    char *text = config_to_json(config);
    const char *path = test_path("again.json");
    test_write_text(path, text);
    Config again;
    Error error;
    if (!load_config(&again, &error, path, NULL)) fail_msg("%s in %s", error.text, text);
    char *second = config_to_json(&again);
    assert_string_equal(text, second);
    free(text);
    free(second);
    return again;
}
