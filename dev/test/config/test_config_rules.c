/* test_config_rules.c: what the parser asks of several keys together: sizes that must fit, schedules, shortened runs,
 * the number of processes, keys without effect. Single keys, and files that are no config: test_config.c. */
#include "dev/test/config/config_fixture.h"

#include <stdlib.h>
#include <string.h>

/* ---- rules between keys ---- */

static void test_model_rules(void **state) {
    (void)state;
    refuse_override("--n_head=7", "model.n_embd 768 must be a multiple of n_head 7");
    assert_true(accepted(valid_config(), "--dropout=0.1").model.dropout == 0.1);
    refuse_override("--lm_head_bias=true", "model.lm_head_bias and tie_embeddings are both true|set tie_embeddings or");
    refuse_override("--zero_init_lm_head=true",
                    "model.zero_init_lm_head and tie_embeddings are both true|set tie_embeddings or");
    refuse_file(config_with("model", "\"n_head\": 3, \"n_embd\": 9, \"position\": \"rope\""),
                "model.n_embd 9 / n_head 3 is the odd head size 3|position \"rope\" rotates pairs");
    static const char *const sizes[] = {"\"n_embd\": 12, \"n_head\": 2", "\"n_embd\": 8, \"n_head\": 2"}; /* 6, 4 */
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        char *body = format_string("%s, \"position\": \"rope-half\"", sizes[i]);
        refuse_file(config_with("model", body), "position \"rope-half\" needs a multiple of 4");
        free(body);
    }
    accepted(config_with("model", "\"n_embd\": 16, \"n_head\": 2"), "--position=rope-half");
    accepted(config_with("model", "\"n_embd\": 6, \"n_head\": 3"), "--position=rope");
    accepted(config_with("model", "\"tie_embeddings\": false, \"lm_head_bias\": true"), "--zero_init_lm_head=true");
    refuse_override("--batch_size=2097152", "train.batch_size 2097152 x model.block_size 1024 is more than");
    assert_int_equal(accepted(valid_config(), "--batch_size=2097151").train.batch_size, 2097151);
    refuse_by(NULL, "--n_head=7", "command line: ", "data.train is missing");
}

static void test_train_rules(void **state) {
    (void)state;
    refuse_override("--max_iters=0", "train.max_iters is 0; expected at least 1, or train.eval_only true");
    refuse_override("--gradient_accumulation_steps=2",
                    "total_batch_size 480 and|gradient_accumulation_steps 2 are both");
    refuse_override("--total_batch_size=0",
                    "train.total_batch_size and train.gradient_accumulation_steps are missing or 0");
    refuse_file(config_with("train", "\"device\": \"cpu\", \"allow_tf32\": true"),
                "train.allow_tf32 is true and train.device is cpu");
    accepted(config_with("train", "\"device\": \"auto\", \"allow_tf32\": true"), NULL);
    const char *path = config_with("train", "\"eval_only\": true");
    assert_true(accepted(path, "--max_iters=0").train.eval_only);
    assert_true(accepted(path, "--warmup_iters=2000").train.eval_only);
}

static void test_schedule_rules(void **state) {
    (void)state;
    static const char *const refused[][2] = {
        {"\"warmup_iters\": 101", "schedule.warmup_iters 101 must not be above train.max_iters 100"},
        {"\"name\": \"cosine\", \"warmup_iters\": 100", "lr_decay_iters 100|must be above schedule.warmup_iters 100"},
        {"\"name\": \"exp\", \"warmup_iters\": 9, \"lr_decay_iters\": 9", "schedule.lr_decay_iters 9 |above"},
        {"\"name\": \"trapezoidal\", \"warmup_iters\": 51, \"warmdown_iters\": 50",
         "51 + schedule.warmdown_iters 50|100"},
        {"\"name\": \"trapezoidal\", \"warmup_iters\": 100, \"warmdown_iters\": 2147483647", "must not be above"},
        {"\"name\": \"exp\", \"min_lr\": 7e-4",
         "schedule.min_lr 0.0007 must not be above optimizer.learning_rate 0.0006"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(refused); i++)
        refuse_file(config_with("schedule", refused[i][0]), refused[i][1]);
    static const char *const fitting[] = {
        "\"warmup_iters\": 100",
        "\"name\": \"cosine\", \"warmup_iters\": 99",
        "\"name\": \"exp\", \"warmup_iters\": 9, \"lr_decay_iters\": 10",
        "\"name\": \"wsd\", \"warmup_iters\": 9, \"lr_decay_iters\": 9",
        "\"name\": \"trapezoidal\", \"warmup_iters\": 50, \"warmdown_iters\": 50",
        "\"name\": \"exp\", \"min_lr\": 6e-4",
        "\"name\": \"wsd\", \"min_lr\": 7e-4, \"warmdown_iters\": 99999", /* without effect */
    };
    for (size_t i = 0; i < ARRAY_LENGTH(fitting); i++) accepted(config_with("schedule", fitting[i]), NULL);
}

/* The place is that of a value that can be changed: the command line where it has a part in it. */
static void test_rules_name_the_place(void **state) {
    (void)state;
    static const struct {
        const char *section, *body, *override, *text;
    } cases[] = {
        {"model", "\"n_head\": 7", "--n_embd=32", "model.n_embd 32 must be a multiple of n_head 7"},
        {"model", "\"n_embd\": 36", "--position=rope", "model.n_embd 36 / n_head 12 is the odd head size 3"},
        {"model", "\"position\": \"rope\"", "--n_embd=36", "model.n_embd 36 / n_head 12 is the odd head size 3"},
        {"model", "\"lm_head_bias\": true", "--tie_embeddings=true",
         "model.lm_head_bias and tie_embeddings are both true"},
        {"model", "\"block_size\": 65536", "--batch_size=65536", "train.batch_size 65536 x model.block_size 65536"},
        {"train", "\"gradient_accumulation_steps\": 0", "--total_batch_size=0",
         "train.total_batch_size and train.gradient_accumulation_steps"},
        {"train", "\"device\": \"cpu\"", "--allow_tf32=true", "train.allow_tf32 is true and train.device is cpu"},
        {"schedule", "\"name\": \"cosine\"", "--min_lr=1",
         "schedule.min_lr 1 must not be above optimizer.learning_rate"},
        {"schedule", "\"name\": \"exp\", \"warmup_iters\": 9", "--lr_decay_iters=9", "lr_decay_iters 9 "},
        {"schedule", "\"name\": \"trapezoidal\"", "--warmdown_iters=101", "schedule.warmdown_iters 101 must not be"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const char *path = config_with(cases[i].section, cases[i].body);
        refuse_by(path, cases[i].override, "command line: ", cases[i].text);
    }
    const char *path = config_with("model", "\"n_head\": 7");
    refuse_by(path, "--max_iters=200", path, "model.n_embd 768 must be a multiple of n_head 7");
    refuse_by(path, "--n_layer=3", path, "model.n_embd 768 must be a multiple of n_head 7");
    path = config_with("model", "\"lm_head_bias\": true");
    refuse_by(path, "--bias=true", path,
              "model.lm_head_bias and tie_embeddings are both true"); /* which is another key */
    path = config_with("schedule", "\"warmup_iters\": 101");
    refuse_by(path, "--n_layer=1", path, "schedule.warmup_iters 101 must not be above train.max_iters 100");
    refuse_by(path, "--warmup_iters=102", "command line: ", "schedule.warmup_iters 102 must not be above");
    Config config = accepted(valid_config(), "--n_layer=3");
    assert_string_equal(config_where(&config, "model.n_head train.out_dir"), test_path("config.json"));
    assert_string_equal(config_where(&config, "model.n_head model.n_layer"), "command line");
    config.files[0][0] = 0;
    assert_string_equal(config_where(&config, "model.n_head"), "command line");
}

static void assert_schedule(const char *path, const char *first, const char *second, const int expected[3],
                            const char *warning) {
    Config config;
    char *warnings = warnings_of(&config, path, first, second);
    assert_int_equal(config.schedule.warmup_iters, expected[0]);
    assert_int_equal(config.schedule.lr_decay_iters, expected[1]);
    assert_int_equal(config.schedule.warmdown_iters, expected[2]);
    assert_int_equal(config.schedule.max_iters, config.train.max_iters);
    if (warning)
        must_hold(warnings, warning);
    else
        assert_string_equal(warnings, "");
    free(warnings);
    /* What a checkpoint records is that schedule, and resuming it with the same max_iters changes nothing. */
    char *override = format_string("--max_iters=%d", config.train.max_iters);
    Config again = reloaded(&config), resumed = accepted(test_path("again.json"), override);
    assert_same_config(&again, &config);
    assert_same_config(&resumed, &config);
    free(override);
}

/* A run that the command line shortens keeps the shape of its schedule. The file's run has 100 steps. */
static void test_short_trials(void **state) {
    (void)state;
    char *path = checked_strdup(test_path("config.json")); /* where config_with() writes */
    config_with("schedule", "\"name\": \"cosine\", \"warmup_iters\": 39, \"lr_decay_iters\": 95");
    assert_schedule(path, NULL, NULL, (int[]){39, 95, 0}, NULL);
    assert_schedule(path, "--max_iters=100", NULL, (int[]){39, 95, 0}, NULL);
    assert_schedule(path, "--max_iters=1000", NULL, (int[]){39, 95, 0}, NULL);
    assert_schedule(path, "--max_iters=10", NULL, (int[]){3, 95, 0},
                    "command line: train.max_iters is 10 instead of 100; in proportion, schedule.warmup_iters is 3 "
                    "instead of 39\n");
    assert_schedule(path, "--max_iters=1", NULL, (int[]){0, 95, 0}, "schedule.warmup_iters is 0 instead of 39");
    assert_schedule(path, "--max_iters=10", "--warmup_iters=7", (int[]){7, 95, 0}, NULL);
    assert_schedule(path, "--max_iters=10", "--lr_decay_iters=50", (int[]){3, 50, 0},
                    "schedule.warmup_iters is 3 instead");
    refuse_by(config_with("schedule", "\"warmup_iters\": 39"), "--warmup_iters=101",
              "command line: ", "warmup_iters 101");
    config_with("schedule", "\"name\": \"cosine\", \"warmup_iters\": 98, \"lr_decay_iters\": 99");
    for (int steps = 1; steps < 100; steps++) {
        char *override = format_string("--max_iters=%d", steps);
        accepted(path, override);
        free(override);
    }
    config_with("schedule", "\"name\": \"trapezoidal\", \"warmup_iters\": 39, \"warmdown_iters\": 61");
    assert_schedule(path, "--max_iters=10", NULL, (int[]){3, 10, 6}, "schedule.warmdown_iters is 6 instead of 61");
    assert_schedule(path, "--max_iters=99", NULL, (int[]){38, 99, 60}, "schedule.warmup_iters is 38 instead of 39");
    config_with("schedule", "\"warmup_iters\": 0"); /* nothing to shorten */
    assert_schedule(path, "--max_iters=10", NULL, (int[]){0, 10, 0}, NULL);
    config_with("train", "\"ema_start\": 60");
    assert_schedule(path, "--max_iters=10", NULL, (int[]){0, 10, 0}, "train.ema_start is 6 instead of 60");
    assert_int_equal(accepted(path, "--max_iters=10").train.ema_start, 6);
    assert_schedule(path, "--max_iters=1", NULL, (int[]){0, 1, 0}, "instead of 60, so that there is no average of the");
    assert_int_equal(accepted(path, "--max_iters=1").train.ema_start, 0);
    config_with("train", "\"eval_only\": true}, \"schedule\": {\"warmup_iters\": 39");
    assert_schedule(path, "--max_iters=10", NULL, (int[]){39, 10, 0}, NULL);
    config_with("schedule", "\"warmup_iters\": 2147483647}, \"model\": {\"n_layer\": 1");
    refuse_by(path, "--n_layer=2", path, "schedule.warmup_iters 2147483647 must not be above train.max_iters 100");
    Config config;
    char *warnings = warnings_of(&config, path, "--max_iters=50", "--eval_only=true");
    assert_int_equal(config.schedule.warmup_iters, 2147483647);
    free(warnings);
    free(path);
}

/* An average of the weights begins before the run ends; what it is like matters only where there is one. */
static void test_average_of_weights(void **state) {
    (void)state;
    Config config = accepted(config_with("train", "\"ema_start\": 99"), NULL);
    assert_true(config.train.ema_start == 99 && config.train.ema_decay == 0.99333 && config.train.ema_mix == 0.6);
    const char *path = config_with("train", "\"ema_start\": 100");
    refuse_file(path, "train.ema_start 100 must be below train.max_iters 100");
    assert_int_equal(accepted(path, "--eval_only=true").train.ema_start, 100);
    path = config_with("train", "\"ema_decay\": 0.5, \"ema_mix\": 1");
    char *warnings = warnings_of(&config, path, NULL, NULL);
    must_hold(warnings, "train.ema_decay, train.ema_mix");
    must_hold(warnings, "train.ema_start 0");
    assert_true(config.train.ema_decay == 0.99333 && config.train.ema_mix == 0.6);
    free(warnings);
    refuse_by(path, "--ema_mix=1", "command line: ", "train.ema_mix has no effect with train.ema_start 0: remove it");
}

/* ---- keys that a schedule does not use ---- */

static void test_keys_of_each_schedule(void **state) {
    (void)state;
    static const char *const keys[] = {"lr_decay_iters", "min_lr", "warmdown_iters"};
    static const struct {
        const char *schedule;
        bool uses[ARRAY_LENGTH(keys)];
    } schedules[] = {{"constant", {false}},
                     {"cosine", {true, true, false}},
                     {"wsd", {false}},
                     {"trapezoidal", {false, false, true}},
                     {"exp", {true, true, false}}};
    for (size_t i = 0; i < ARRAY_LENGTH(schedules); i++)
        for (size_t k = 0; k < ARRAY_LENGTH(keys); k++) {
            const char *value = strcmp(keys[k], "min_lr") == 0 ? "0.0001" : "7";
            char *body = format_string("\"name\": \"%s\", \"%s\": %s", schedules[i].schedule, keys[k], value);
            char *printed = format_string("\"%s\":%s", keys[k], value);
            char *override = format_string("--%s=%s", keys[k], value);
            char *idle =
                format_string("without effect on the schedule %s: schedule.%s\n", schedules[i].schedule, keys[k]);
            char *refused = format_string("schedule.%s: the schedule %s has no such setting: remove it; schedules that "
                                          "have it: %s",
                                          keys[k], schedules[i].schedule, k < 2 ? "cosine, exp" : "trapezoidal");
            Config config;
            char *warnings = warnings_of(&config, config_with("schedule", body), NULL, NULL),
                 *text = config_to_json(&config);
            assert_int_equal(strstr(text, printed) != NULL, schedules[i].uses[k]);
            assert_int_equal(strstr(warnings, idle) != NULL, !schedules[i].uses[k]);
            free(body);
            body = format_string("\"name\": \"%s\"", schedules[i].schedule);
            if (schedules[i].uses[k])
                accepted(config_with("schedule", body), override);
            else
                refuse_by(config_with("schedule", body), override, "command line: ", refused);
            free(body), free(printed), free(override), free(idle), free(refused), free(warnings), free(text);
        }
    /* The schedule of the command line counts, and keys of the command line are not the file's. */
    Config config;
    const char *path = config_with("schedule", "\"name\": \"cosine\", \"min_lr\": 1e-4, \"lr_decay_iters\": 50");
    char *warnings = warnings_of(&config, path, "--schedule.name=trapezoidal", "--warmdown_iters=5");
    must_hold(warnings, "without effect on the schedule trapezoidal: schedule.lr_decay_iters, schedule.min_lr\n");
    assert_true(config.schedule.min_lr == 0 && config.schedule.warmdown_iters == 5);
    free(warnings);
}

/* ---- the number of processes ---- */

static void refuse_resolve(const char *total, const char *batch, int processes, const char *part) {
    Config config;
    Error error;
    assert_true(load_config(&config, &error, valid_config(), total, batch, NULL));
    if (config_resolve(&config, processes, &error)) fail_msg("resolved, although it should say '%s'", part);
    must_hold(error.text, part);
    if (strncmp(error.text, "command line: train.", 20) != 0) fail_msg("does not say where: %s", error.text);
}

static void test_resolve(void **state) {
    (void)state;
    Config config = accepted(valid_config(), NULL);
    Error error;
    for (int again = 0; again < 2; again++) {
        assert_true(config_resolve(&config, 8, &error));
        assert_int_equal(config.train.total_batch_size, 480);
        assert_int_equal(config.train.gradient_accumulation_steps, 15);
    }
    assert_true(
        load_config(&config, &error, valid_config(), "--total_batch_size=0", "--gradient_accumulation_steps=5", NULL));
    assert_true(config_resolve(&config, 3, &error));
    assert_int_equal(config.train.total_batch_size, 60);
    assert_int_equal(config.train.gradient_accumulation_steps, 5);
    assert_false(config_resolve(&config, 0, &error));
    config = accepted(valid_config(), "--n_layer=2");
    assert_false(config_resolve(&config, 7, &error));
    if (strncmp(error.text, config.files[0], strlen(config.files[0])) != 0)
        fail_msg("does not say where: %s", error.text);
}

static void test_resolve_lists_what_fits(void **state) {
    (void)state;
    refuse_resolve("--total_batch_size=480", "--batch_size=7", 8,
                   "train.batch_size that fit: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60");
    refuse_resolve("--total_batch_size=36", "--batch_size=36", 4, "train.batch_size that fit: 1, 3, 9");
    refuse_resolve("--total_batch_size=12", "--batch_size=1", 5,
                   "5 processes, whatever the batch size; "
                   "numbers of processes that divide it: 1, 2, 3, 4, 6, 12");
    refuse_resolve("--total_batch_size=1", "--batch_size=2", 1, "train.batch_size that fit: 1");
    refuse_resolve("--total_batch_size=2147483647", "--batch_size=2", 1, "train.batch_size that fit: 1, 2147483647");
    refuse_resolve("--total_batch_size=2095133040", "--batch_size=1000003", 1, ", ...");
    refuse_resolve("--total_batch_size=480", "--batch_size=2000000", 2147483647, "whatever the batch size");
}

static void test_settle_overflow(void **state) {
    (void)state;
    Config config;
    Error error;
    assert_true(load_config(&config, &error, valid_config(), "--total_batch_size=0",
                            "--gradient_accumulation_steps=2147483647", "--batch_size=1", NULL));
    assert_false(config_resolve(&config, 2, &error));
    must_hold(error.text, "gradient_accumulation_steps 2147483647 is more than 2147483647 sequences");
    assert_false(config_resolve(&config, 2147483647, &error));
    assert_true(config_resolve(&config, 1, &error));
    assert_int_equal(config.train.total_batch_size, 2147483647);
}

/* A key that the model does not read is a mistake on the command line and a warning in the file. */
static void test_model_keys_without_effect(void **state) {
    (void)state;
    refuse_override("--rope_base=1024", "model.rope_base|model.position learned");
    refuse_override("--qk_norm_eps=0.5", "model.qk_norm_eps|model.qk_norm false");
    Config config;
    Error error;
    assert_true(load_config(&config, &error, valid_config(), "--position=rope", "--rope_base=1024", "--qk_norm=true",
                            "--qk_norm_eps=0.5", NULL));
    assert_true(config.model.rope_base == 1024.0 && config.model.qk_norm_eps == 0.5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_rules),
        cmocka_unit_test(test_train_rules),
        cmocka_unit_test(test_schedule_rules),
        cmocka_unit_test(test_rules_name_the_place),
        cmocka_unit_test(test_short_trials),
        cmocka_unit_test(test_average_of_weights),
        cmocka_unit_test(test_keys_of_each_schedule),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_resolve_lists_what_fits),
        cmocka_unit_test(test_settle_overflow),
        cmocka_unit_test(test_model_keys_without_effect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
