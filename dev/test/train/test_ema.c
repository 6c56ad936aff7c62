/* test_ema.c: runs with an average of their weights (train.ema_start): what they report and save, resumed and with any
 * number of processes. What they export, test_export.c tests. */
#include "dev/test/train/train_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/files.h"

#define EMA "--ema_start=5 --ema_decay=0.8 --ema_mix=0.5 "

static cJSON *run(const char *name, int processes, const char *arguments) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    train(&launch, name, "--batch_size=1 %s", arguments);
    return train_log(name);
}

/* A number of the validation at a step; NAN where it has none of that name. */
static double validation(const cJSON *log, int step, const char *key) {
    for (const cJSON *line = log->child; line; line = line->next) {
        const char *event = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "event"));
        if (strcmp(event, "val") != 0 || cJSON_GetObjectItemCaseSensitive(line, "step")->valueint != step) continue;
        const cJSON *number = cJSON_GetObjectItemCaseSensitive(line, key);
        return number ? number->valuedouble : NAN;
    }
    fail_msg("there is no validation at step %d", step);
    return NAN;
}

static void assert_same_file(const char *run, const char *other, const char *file) {
    char *a = format_string("%s/%s", run, file), *b = format_string("%s/%s", other, file);
    assert_run(test_run("cd '%s' && cmp '%s' '%s'", test_folder(), a, b), 0, "");
    free(a), free(b);
}

/* The run is the one without an average. Where that begins it is the weights; later it is another model. */
static void test_reported(void **state) {
    (void)state;
    cJSON *plain = run("plain", 0, "--eval_interval=1"), *log = run("reported", 0, EMA "--eval_interval=1");
    assert_close_curve(log, plain, 0.0);
    assert_same_file("reported", "plain", "checkpoints/latest/model.safetensors");
    for (int step = 0; step <= 12; step++) {
        double loss = validation(log, step, "loss"), average = validation(log, step, "ema_loss");
        assert_true(isnan(validation(plain, step, "ema_loss")));
        assert_true(isnan(average) == (step < 5));
        if (step >= 5) assert_true((average == loss) == (step == 5));
    }
    assert_false(files_is_file(test_path("plain/checkpoints/latest/model_ema.safetensors")));
    cJSON_Delete(plain);
    cJSON_Delete(log);
}

/* Before the average begins, where it begins and after it. */
static void test_resumed(void **state) {
    (void)state;
    cJSON *expected = run("whole", 0, EMA "--optimizer.name=mars-adamw --checkpoint_interval=1");
    static const int stops[] = {3, 5, 6, 9};
    for (size_t i = 0; i < ARRAY_LENGTH(stops); i++) {
        char *name = format_string("stopped_at_%d", stops[i]);
        /* A run cannot end before its average begins; one that has none is the same until then. */
        char *first = format_string("%s--optimizer.name=mars-adamw --max_iters=%d" TRAIN_WHOLE_SCHEDULE,
                                    stops[i] > 5 ? EMA : "", stops[i]);
        cJSON_Delete(run(name, 0, first));
        cJSON *log = run(name, 0, EMA "--optimizer.name=mars-adamw --init_from=resume");
        assert_true(validation(log, 12, "ema_loss") == validation(expected, 12, "ema_loss"));
        assert_same_file(name, "whole", "checkpoints/latest/model_ema.safetensors");
        cJSON_Delete(log);
        free(first);
        free(name);
    }
    cJSON_Delete(expected);
    /* One that should have begun earlier. */
    cJSON_Delete(run("without", 0, "--max_iters=6" TRAIN_WHOLE_SCHEDULE));
    Launch launch = {.config = train_small_config()};
    assert_run(train_run(&launch, "without", EMA "--init_from=resume"), EXIT_FAILED,
               "holds no average of the weights; set train.ema_start to a step after 6, or to 0 for none");
}

/* Each process averages what it owns, and all see the mix. */
static void test_processes(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    static const char *const settings[] = {"--optimizer.name=adamw", "--optimizer.name=mars-m --ns_dtype=float32",
                                           "--optimizer.name=mars-adamw --is_approx=false"};
    for (size_t i = 0; i < ARRAY_LENGTH(settings); i++) {
        char *arguments = format_string(EMA "%s", settings[i]), *one = format_string("one_%zu", i);
        cJSON *expected = run(one, 0, arguments);
        for (int processes = 2; processes <= 3; processes++) {
            char *name = format_string("of_%d_%zu", processes, i);
            cJSON *log = run(name, processes, arguments);
            assert_close_curve(log, expected, 1e-5);
            for (int step = 8; step <= 12; step += 4)
                assert_error_below(
                    fabs(validation(log, step, "ema_loss") / validation(expected, step, "ema_loss") - 1.0), 1e-5,
                    "ema_loss");
            cJSON_Delete(log);
            free(name);
        }
        cJSON_Delete(expected);
        free(arguments), free(one);
    }
    /* Saved by three, taken up by two. */
    cJSON_Delete(run("by_three", 3, EMA "--max_iters=9" TRAIN_WHOLE_SCHEDULE));
    cJSON *log = run("by_three", 2, EMA "--init_from=resume"), *expected = train_log("one_0");
    assert_error_below(fabs(validation(log, 12, "ema_loss") / validation(expected, 12, "ema_loss") - 1.0), 1e-5,
                       "ema_loss");
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

/* In bfloat16 the mix is made from master weights. */
static void test_bfloat16(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    if (train_run(&launch, "half", EMA "--precision=bfloat16 --batch_size=1")->status == EXIT_USAGE) skip();
    cJSON *log = train_log("half"), *expected = run("full", 0, EMA);
    if (train_has_mpi()) {
        cJSON *two = run("half_of_two", 2, EMA "--precision=bfloat16");
        double change = validation(two, 12, "ema_loss") / validation(log, 12, "ema_loss") - 1.0;
        assert_error_below(fabs(change), 1e-3, "ema_loss of two processes");
        cJSON_Delete(two);
    }
    for (int step = 8; step <= 12; step += 4) {
        double change = validation(log, step, "ema_loss") / validation(expected, step, "ema_loss") - 1.0;
        assert_error_below(fabs(change), 3e-3, "ema_loss");
    }
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

static void test_wrong_settings(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"--ema_start=12", "train.ema_start 12 must be below train.max_iters 12"},
        {"--ema_start=400", "train.ema_start 400 must be below train.max_iters 12"},
        {"--ema_start=1.5", "train.ema_start is '1.5'; expected integer >= 0"},
        {"--ema_decay=0.9", "train.ema_decay has no effect with train.ema_start 0: remove it"},
        {"--ema_mix=0.5", "train.ema_mix has no effect with train.ema_start 0: remove it"},
        {"--ema_start=5 --ema_mix=-0.1", "train.ema_mix is '-0.1'; expected number in [0, 1]"},
        {"--ema_start=5 --ema_decay=nan", "train.ema_decay is 'nan'; expected number in [0, 1)"}};
    Launch launch = {.config = train_small_config()};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_run(train_run(&launch, "wrong", "%s", cases[i][0]), EXIT_USAGE, cases[i][1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reported), cmocka_unit_test(test_resumed),        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_bfloat16), cmocka_unit_test(test_wrong_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
