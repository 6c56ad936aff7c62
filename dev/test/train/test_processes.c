/* test_processes.c: the same run with other numbers of processes and threads. What must be the same to the last bit is
 * (the same numbers twice), what may differ by rounding does not differ by more, and a checkpoint does not show how
 * many processes wrote it. */
#include "dev/test/train/train_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/safetensors.h"

/* Rounding alone: sums in another order. */
static const double rounding = 1e-5;

static Launch small_run(int processes) { return (Launch){.config = train_small_config(), .processes = processes}; }

static cJSON *run(const char *name, int processes, const char *arguments) {
    Launch launch = small_run(processes);
    train(&launch, name, "--batch_size=1 %s", arguments);
    return train_log(name);
}

/* Runs twice what must repeat bit for bit. */
static void assert_repeats(const char *name, int processes, const char *arguments) {
    char *again = format_string("%s_again", name);
    cJSON *log = run(name, processes, arguments), *repeated = run(again, processes, arguments);
    assert_same_log(repeated, log);
    assert_same_checkpoints(again, name);
    cJSON_Delete(log);
    cJSON_Delete(repeated);
    free(again);
}

static void test_any_number_gives_the_same_curve(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    cJSON *expected = run("one", 0, "");
    for (int processes = 1; processes <= 4; processes++) {
        char *name = format_string("of_%d", processes);
        cJSON *log = run(name, processes, "");
        const cJSON *start = cJSON_GetArrayItem(log, 0);
        assert_int_equal(cJSON_GetObjectItemCaseSensitive(start, "processes")->valueint, processes);
        assert_close_curve(log, expected, rounding);
        cJSON_Delete(log);
        free(name);
    }
    cJSON_Delete(expected);
}

/* In the precision that is trained in: there the weights that processes share are not the master weights. */
static void test_bfloat16_with_processes(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    Launch launch = small_run(0);
    if (train_run(&launch, "half", "--batch_size=1 --precision=bfloat16")->status == EXIT_USAGE) {
        print_message("bfloat16 is not tested: this processor lacks it\n");
        skip();
    }
    cJSON *expected = train_log("half"), *log = run("half_of_3", 3, "--precision=bfloat16");
    assert_close_curve(log, expected, 1e-3);
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

static void test_one_process_repeats(void **state) {
    (void)state;
    assert_repeats("alone", 0, "");
    assert_repeats("alone_random", 0, "--order=random --data.seed=7 --train.seed=8");
}

static void test_several_processes_repeat(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    assert_repeats("pair", 2, "");
    assert_repeats("triple", 3, "--order=shuffled");
}

static void test_threads(void **state) {
    (void)state;
    assert_repeats("threads", 0, "--threads=2");
    cJSON *expected = run("one_thread", 0, ""), *log = train_log("threads");
    assert_close_curve(log, expected, rounding);
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

/* The first half of the run, with the schedule of all of it. */
static const char half_run[] = "--max_iters=6" TRAIN_WHOLE_SCHEDULE;

/* A run that others go on with: it ends at step 6, but its schedule does not. */
static void assert_resumes(const cJSON *expected, int before, int after) {
    char *name = format_string("from_%d_to_%d", before, after);
    char *arguments = format_string("%s --eval_interval=6", half_run);
    cJSON_Delete(run(name, before, arguments));
    free(arguments);
    cJSON *log = run(name, after, "--init_from=resume --eval_interval=6");
    assert_close_curve(log, expected, rounding);
    cJSON_Delete(log);
    free(name);
}

static void test_resumed_with_another_number(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    cJSON *expected = run("never_stopped", 0, "--eval_interval=6");
    assert_resumes(expected, 0, 3);
    assert_resumes(expected, 3, 2);
    assert_resumes(expected, 2, 1);
    cJSON_Delete(expected);
}

/* Everything of a safetensors file but the numbers. */
static void assert_same_layout(const char *path, const char *other_path) {
    SafetensorsFile file, other;
    Error error;
    if (!safetensors_open(&file, path, &error)) fail_msg("%s", error.text);
    if (!safetensors_open(&other, other_path, &error)) fail_msg("%s", error.text);
    assert_int_equal(file.count, other.count);
    assert_int_equal(file.bytes, other.bytes);
    for (int i = 0; i < file.count; i++) {
        const SafetensorsEntry *a = &file.entries[i], *b = &other.entries[i];
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->type, b->type);
        assert_int_equal(a->dimensions, b->dimensions);
        assert_memory_equal(a->shape, b->shape, sizeof a->shape);
    }
    safetensors_close(&file);
    safetensors_close(&other);
}

/* ---- every optimizer ---- */

static cJSON *run_variant(const TrainVariant *variant, int processes, const char *name, const char *arguments) {
    char *all = format_string("%s --eval_interval=6 --checkpoint_interval=0 %s", variant->arguments, arguments);
    cJSON *log = run(name, processes, all);
    free(all);
    return log;
}

/* Six steps with `before` processes, the rest with `after`. */
static cJSON *run_in_two(const TrainVariant *variant, int before, int after) {
    char *name = format_string("%s_from_%d_to_%d", variant->name, before, after);
    cJSON_Delete(run_variant(variant, before, name, half_run));
    cJSON *log = run_variant(variant, after, name, "--init_from=resume");
    free(name);
    return log;
}

static void assert_variant(const TrainVariant *variant) {
    char *alone = format_string("%s_alone", variant->name), *pair = format_string("%s_pair", variant->name);
    cJSON *expected = run_variant(variant, 0, alone, ""), *logs[3] = {run_variant(variant, 2, pair, "")};
    if (train_stands_for_others(variant)) logs[1] = run_in_two(variant, 3, 0), logs[2] = run_in_two(variant, 0, 4);
    for (size_t i = 0; i < ARRAY_LENGTH(logs) && logs[i]; i++) {
        assert_close_curve(logs[i], expected, rounding);
        cJSON_Delete(logs[i]);
    }
    assert_same_layout(test_path("%s/checkpoints/latest/optimizer.safetensors", pair),
                       test_path("%s/checkpoints/latest/optimizer.safetensors", alone));
    cJSON_Delete(expected);
    free(alone);
    free(pair);
}

/* Two processes; and, of those that stand for the others, three that one goes on from, and one that four go on from
 * (test_optim_sharded.c moves the state of each). */
static void test_every_optimizer(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    for (const TrainVariant *variant = train_variants; variant->name; variant++)
        if (train_has_time_for(variant)) assert_variant(variant);
}

/* In bfloat16 each rounding is 2^-9, and Newton-Schulz blows it up. */
static void test_bfloat16_newton_schulz(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    for (const TrainVariant *variant = train_variants; variant->name; variant++) {
        if (!variant->is_matrix || !train_has_time_for(variant)) continue;
        Launch launch = small_run(0);
        char *one = format_string("%s_half", variant->name), *three = format_string("%s_half_of_3", variant->name);
        char *arguments = format_string("%s --ns_dtype=bfloat16 --checkpoint_interval=0", variant->arguments);
        if (train_run(&launch, one, "--batch_size=1 %s", arguments)->status == EXIT_USAGE) {
            print_message("bfloat16 is not tested: this processor lacks it\n");
            skip();
        }
        cJSON *expected = train_log(one), *log = run(three, 3, arguments);
        assert_close_curve(log, expected, 1e-3);
        cJSON_Delete(expected);
        cJSON_Delete(log);
        free(one), free(three), free(arguments);
    }
}

static void test_checkpoints_do_not_show_who_wrote(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors"};
    cJSON_Delete(run("by_one", 0, ""));
    cJSON_Delete(run("by_three", 3, ""));
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++)
        assert_same_layout(test_path("by_one/checkpoints/latest/%s", files[i]),
                           test_path("by_three/checkpoints/latest/%s", files[i]));
    assert_run(
        test_run("cd '%s' && for run in by_one by_three; do (cd $run; find . | LC_ALL=C sort) > $run.list; done; "
                 "diff by_one.list by_three.list",
                 test_folder()),
        0, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_gives_the_same_curve),
        cmocka_unit_test(test_bfloat16_with_processes),
        cmocka_unit_test(test_one_process_repeats),
        cmocka_unit_test(test_several_processes_repeat),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_resumed_with_another_number),
        cmocka_unit_test(test_every_optimizer),
        cmocka_unit_test(test_bfloat16_newton_schulz),
        cmocka_unit_test(test_checkpoints_do_not_show_who_wrote),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
