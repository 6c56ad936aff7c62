/* test_readme_runs.c: the table of the README that says how many tokens and hours the published runs take. Tokens are
 * computed here from the config files, the hours from them and the speeds in dev/results. */
#include "dev/test/test.h"

#include <cjson/cJSON.h>
#include <fnmatch.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

#define HEADER "| configs | tokens | tokens/s of one H100 | hours on 8 H100, computed |\n| --- | ---: | ---: | ---: |\n"

enum { GPUS = 8, COLUMNS = 4, ROWS_MAX = 32 };

typedef struct Row {
    char cell[COLUMNS][64]; /* the first without its backquotes: a pattern of names in config/ */
    int configs;            /* that it speaks of */
} Row;

static Row rows[ROWS_MAX];
static int row_count;
static char *readme;
static cJSON *measured;

/* Copies the text from `begin` to `end` without blanks and backquotes at its ends. */
static void copy_cell(char *cell, size_t size, const char *begin, const char *end) {
    while (begin < end && strchr(" `", *begin)) begin++;
    while (end > begin && strchr(" `", end[-1])) end--;
    assert_true((size_t)(end - begin) < size);
    memcpy(cell, begin, (size_t)(end - begin));
    cell[end - begin] = 0;
}

static int read_table(void **state) {
    (void)state;
    readme = test_read_file("README.md", NULL);
    char *line = strstr(readme, HEADER);
    if (!line) return -1;
    for (line += strlen(HEADER); *line == '|'; line = strchr(line, '\n') + 1) {
        assert_true(row_count < ROWS_MAX);
        Row *row = &rows[row_count++];
        for (int i = 0; i < COLUMNS; i++) {
            char *end = strpbrk(line + 1, "|\n");
            assert_true(*end == '|');
            copy_cell(row->cell[i], sizeof row->cell[i], line + 1, end);
            line = end;
        }
        assert_true(line[1] == '\n');
    }
    char *text = test_read_file("dev/results/nvidia-h100-80gb-hbm3.json", NULL);
    measured = cJSON_Parse(text);
    free(text);
    return measured ? 0 : -1;
}

static int free_table(void **state) {
    (void)state;
    cJSON_Delete(measured);
    free(readme);
    return 0;
}

/* The row that speaks of a config: the last one whose pattern it has; NULL where there is none. */
static Row *row_of(const char *name) {
    for (int i = row_count - 1; i >= 0; i--)
        if (fnmatch(rows[i].cell[0], name, 0) == 0) return &rows[i];
    return NULL;
}

/* Tokens per second of one GPU, measured with this model and a single gradient in each step; 0 where they were not. */
static double measured_speed(const char *name, const Config *config) {
    const GPT2Config *model = &config->model;
    if (!gpt2_config_is_gpt2(model) || model->activation != ACTIVATION_GELU || !config->optimizer.is_approx) return 0;
    char size[16];
    snprintf(size, sizeof size, "%.*s", (int)strcspn(name, "_"), name);
    const cJSON *bench = cJSON_GetObjectItem(cJSON_GetObjectItem(measured, "parts"), "bench");
    const cJSON *run = cJSON_GetObjectItem(cJSON_GetObjectItem(bench, "training"), size);
    if (!run) fail_msg("the speed of %s is not in dev/results", size);
    assert_string_equal(cJSON_GetObjectItem(run, "machine")->valuestring, "NVIDIA H100 80GB HBM3");
    assert_string_equal(cJSON_GetObjectItem(run, "optimizer")->valuestring, "adamw");
    assert_int_equal(cJSON_GetObjectItem(run, "tokens in a sequence")->valueint, model->block_size);
    return cJSON_GetObjectItem(run, "tokens/s")->valuedouble;
}

/* A whole number with a comma before every three digits. */
static void print_grouped(char *text, size_t size, long number) {
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%ld", number);
    size_t used = 0;
    for (int i = 0; i < length; i++) {
        assert_true(used + 3 < size);
        text[used++] = digits[i];
        if (i + 1 < length && (length - i - 1) % 3 == 0) text[used++] = ',';
    }
    text[used] = 0;
}

static void check_row(const Row *row, const char *name, const Config *config) {
    long tokens = (long)config->train.max_iters * config->train.total_batch_size * config->model.block_size;
    double speed = measured_speed(name, config);
    char expected[COLUMNS][64] = {"", "", "", ""};
    print_grouped(expected[1], sizeof expected[1], tokens);
    if (speed > 0) {
        print_grouped(expected[2], sizeof expected[2], (long)speed);
        snprintf(expected[3], sizeof expected[3], "%.1f", (double)tokens / (GPUS * speed) / 3600);
    }
    for (int i = 1; i < COLUMNS; i++)
        if (strcmp(row->cell[i], expected[i]) != 0)
            fail_msg("README.md, row %s, column %d: '%s', but %s makes it '%s'", row->cell[0], i + 1, row->cell[i],
                     name, expected[i]);
}

static void test_tokens_and_hours(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("config/*.json", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *name = checked_strdup(files.gl_pathv[i] + strlen("config/"));
        name[strlen(name) - strlen(".json")] = 0;
        if (strcmp(name, "quickstart") != 0 && strcmp(name, "quickstart_adamw") != 0 && strcmp(name, "finetune") != 0) {
            Row *row = row_of(name);
            if (!row) fail_msg("README.md: the table of tokens and hours has no row for config/%s.json", name);
            Config config;
            Error error;
            if (!config_load(&config, files.gl_pathv[i], 0, NULL, &error)) fail_msg("%s", error.text);
            if (!config_resolve(&config, GPUS, &error)) fail_msg("%s: %s", name, error.text);
            check_row(row, name, &config);
            row->configs++;
        }
        free(name);
    }
    globfree(&files);
    for (int i = 0; i < row_count; i++)
        if (rows[i].configs == 0) fail_msg("README.md: no config is named %s", rows[i].cell[0]);
}

/* The README says by which formula, from which machine's speed, and that no run was timed. */
static void test_says_that_hours_are_computed(void **state) {
    (void)state;
    static const char *const words[] = {"tokens / (8 × tokens/s) / 3600", "one NVIDIA H100 80GB HBM3 with AdamW",
                                        "Cells are empty where the speed has not been measured"};
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++)
        if (!strstr(readme, words[i])) fail_msg("README.md does not say '%s'", words[i]);
    assert_string_equal(cJSON_GetObjectItem(measured, "gpu")->valuestring, "NVIDIA H100 80GB HBM3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens_and_hours),
        cmocka_unit_test(test_says_that_hours_are_computed),
    };
    return cmocka_run_group_tests(tests, read_table, free_table);
}
