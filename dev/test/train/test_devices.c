/* test_devices.c: the trainer on a GPU, real or emulated: the same curve as on the CPU, with any number of processes,
 * the same bits each time, checkpoints that either device goes on with, and memory that is planned. Skipped where this
 * build has no GPU to use.
 *
 * An emulated GPU (dev/emu) can be several: MARS_EMU_DEVICES says how many, MARS_EMU_MEMORY how large they are. */
#include "dev/test/train/train_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/test_gpu.h"
#include "util/files.h"

/* Rounding alone: sums in another order. */
static const double rounding = 1e-5;

static int setup(void **state) {
    (void)state;
    setenv("MARS_EMU_DEVICES", "4", 1);
    setenv("XDG_CACHE_HOME", test_path("cache"), 1); /* not the user's */
    return 0;
}

/* Real GPUs are few: several processes are tried where there are several. */
static bool has_gpus(int count) { return device_is_emulated("cuda") || count == 1; }

/* Steps of few sequences, as an emulated GPU takes long for each. */
static cJSON *run(const char *name, const char *device, int processes, const char *arguments) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    train(&launch, name, "--device=%s --batch_size=1 --total_batch_size=4 %s", device, arguments);
    return train_log(name);
}

static void test_same_curve_as_the_cpu(void **state) {
    (void)state;
    need_gpu();
    const char *norms = "--norms_interval=4";
    cJSON *expected = run("cpu", "cpu", 0, norms), *log = run("cuda", "cuda", 0, norms);
    assert_close_curve(log, expected, rounding);
    assert_close_norms(log, expected, 3, 1e-3);
    cJSON_Delete(log);
    log = run("auto", "auto", 0, "");
    const char *device = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(log, 0), "device"));
    if (device_is_emulated("cuda")) assert_string_equal(device, "emulated GPU");
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

/* Which numbers are dropped is a matter of the sequence alone. */
static void test_dropout(void **state) {
    (void)state;
    need_gpu();
    const char *arguments = "--dropout=0.2 --max_iters=4";
    cJSON *expected = run("dropout_cpu", "cpu", 0, arguments), *log = run("dropout_cuda", "cuda", 0, arguments);
    assert_close_curve(log, expected, rounding);
    cJSON_Delete(log);
    if (train_has_mpi() && has_gpus(2)) {
        log = run("dropout_two", "cuda", 2, arguments);
        assert_close_curve(log, expected, rounding);
        cJSON_Delete(log);
    }
    cJSON_Delete(expected);
}

/* How activations are kept and how memory is taken is no matter of the numbers. */
static void test_other_memory_same_bits(void **state) {
    (void)state;
    need_gpu();
    static const char *const ways[] = {"--recompute=mlp", "--recompute=block", "--debug_alloc=true"};
    cJSON *expected = run("plain", "cuda", 0, "--optimizer.name=mars-m --max_iters=4");
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++) {
        char *name = format_string("way_%zu", i),
             *arguments = format_string("--optimizer.name=mars-m --max_iters=4 %s", ways[i]);
        cJSON *log = run(name, "cuda", 0, arguments);
        assert_same_curve(log, expected);
        cJSON_Delete(log);
        free(arguments);
        free(name);
    }
    cJSON_Delete(expected);
}

static void test_processes(void **state) {
    (void)state;
    need_gpu();
    if (!train_has_mpi()) skip();
    const char *norms = "--norms_interval=4";
    cJSON *expected = run("one", "cuda", 0, norms);
    for (int processes = only_small_sizes() ? 4 : 1; processes <= 4; processes *= 2) {
        if (!has_gpus(processes)) continue;
        char *name = format_string("of_%d", processes), *again = format_string("of_%d_again", processes);
        cJSON *log = run(name, "cuda", processes, norms), *repeated = run(again, "cuda", processes, norms);
        assert_close_curve(log, expected, rounding);
        assert_close_norms(log, expected, 3, 1e-3);
        assert_close_norms(repeated, log, 3, 0.0);
        assert_same_curve(repeated, log);
        assert_same_checkpoints(again, name);
        cJSON_Delete(log);
        cJSON_Delete(repeated);
        free(name);
        free(again);
    }
    cJSON_Delete(expected);
}

/* Every optimizer: alone on the CPU, alone on a GPU, shared by two. Four steps, for time; alone on an emulated GPU
 * test_optim_rules.c has them. */
static void test_every_optimizer(void **state) {
    (void)state;
    need_gpu();
    for (const TrainVariant *v = train_variants; v->name; v++) {
        if (!train_has_time_for(v)) continue;
        char *cpu = format_string("%s_cpu", v->name), *two = format_string("%s_two", v->name);
        char *arguments = format_string("%s --max_iters=4 --precision=float32%s", v->arguments,
                                        v->is_matrix ? " --ns_dtype=float32" : "");
        cJSON *expected = run(cpu, "cpu", 0, arguments);
        const double limit = 1e-4; /* Newton-Schulz enlarges what rounding does */
        bool pair = train_has_mpi() && has_gpus(2);
        if (!pair || !device_is_emulated("cuda")) {
            cJSON *log = run(v->name, "cuda", 0, arguments);
            assert_close_curve(log, expected, limit);
            cJSON_Delete(log);
        }
        if (pair) {
            cJSON *log = run(two, "cuda", 2, arguments);
            assert_close_curve(log, expected, limit);
            cJSON_Delete(log);
        }
        cJSON_Delete(expected);
        free(arguments);
        free(cpu);
        free(two);
    }
}

/* A run that the other device goes on with: it ends at step 6, but its schedule does not. */
static void resumes(const char *before, const char *after, const cJSON *expected) {
    char *name = format_string("from_%s_to_%s", before, after);
    cJSON_Delete(
        run(name, before, 0, "--optimizer.name=mars-adamw --max_iters=6 --eval_interval=6" TRAIN_WHOLE_SCHEDULE));
    cJSON *log = run(name, after, 0, "--optimizer.name=mars-adamw --init_from=resume --eval_interval=6");
    assert_close_curve(log, expected, rounding);
    cJSON_Delete(log);
    free(name);
}

static void test_resumed_on_the_other_device(void **state) {
    (void)state;
    need_gpu();
    cJSON *expected = run("never_stopped", "cpu", 0, "--optimizer.name=mars-adamw --eval_interval=6");
    resumes("cpu", "cuda", expected);
    resumes("cuda", "cpu", expected);
    cJSON_Delete(expected);
}

/* On the same device: the same bits, the algorithms of matmuls coming from the checkpoint. */
static void test_resumed_on_the_same_device(void **state) {
    (void)state;
    need_gpu();
    cJSON *expected = run("whole", "cuda", 0, "--eval_interval=6");
    cJSON_Delete(run("halves", "cuda", 0, "--max_iters=6 --eval_interval=6" TRAIN_WHOLE_SCHEDULE));
    assert_true(files_is_file(test_path("halves/checkpoints/latest/algorithms.txt")));
    cJSON *log = run("halves", "cuda", 0, "--init_from=resume --eval_interval=6");
    assert_same_curve(log, expected);
    assert_same_checkpoints("halves", "whole");
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

/* The outcome of a step is known a step later; what the files say of it is the same. */
static void test_skipped_steps(void **state) {
    (void)state;
    need_gpu();
    Launch launch = {.config = train_small_config()};
    CommandResult *result =
        train_run(&launch, "bad", "--device=cuda --learning_rate=1e38 --grad_clip=0 --eval_interval=0");
    assert_run(result, EXIT_FAILED, "is not finite for the second step in a row; nothing was saved");
}

static void test_memory(void **state) {
    (void)state;
    need_gpu();
    if (!device_is_emulated("cuda")) skip();
    setenv("MARS_EMU_MEMORY", "40000000", 1);
    Launch launch = {.config = train_small_config()};
    CommandResult *result = train_run(&launch, "large",
                                      "--device=cuda --n_embd=64 --n_layer=4 --total_batch_size=64 "
                                      "--batch_size=64");
    unsetenv("MARS_EMU_MEMORY");
    assert_run(result, EXIT_FAILED, "GB left: batch_size ");
    assert_non_null(strstr(result->output, "would fit"));
}

/* Processes that share a GPU, which only tests do, share its memory: what fits where each has one does not fit
 * there. */
static void test_memory_of_a_shared_gpu(void **state) {
    (void)state;
    need_gpu();
    if (!device_is_emulated("cuda") || !train_has_mpi()) skip();
    setenv("MARS_EMU_MEMORY", "36000000", 1);
    Launch launch = {.config = train_small_config(), .processes = 2};
    const char *arguments = "--device=cuda --batch_size=6 --max_iters=4";
    train(&launch, "two_gpus", "%s", arguments);
    const char *const settings[][2] = {{"MARS_EMU_DEVICES", "1"},
                                       {"MARS_SHARE_GPU", "1"},
                                       {"NCCL_MULTI_RANK_GPU_ENABLE", "1"},
                                       {"MARS_EMU_NCCL_VERSION", "2.30.3"}};
    for (size_t i = 0; i < ARRAY_LENGTH(settings); i++) setenv(settings[i][0], settings[i][1], 1);
    CommandResult *result = train_run(&launch, "shared_gpu", "%s", arguments);
    for (size_t i = 0; i < ARRAY_LENGTH(settings); i++) unsetenv(settings[i][0]);
    unsetenv("MARS_EMU_MEMORY");
    setup(state);
    assert_run(result, EXIT_FAILED, "GB left for each: batch_size ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_curve_as_the_cpu),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_other_memory_same_bits),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_every_optimizer),
        cmocka_unit_test(test_resumed_on_the_other_device),
        cmocka_unit_test(test_resumed_on_the_same_device),
        cmocka_unit_test(test_skipped_steps),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_of_a_shared_gpu),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
