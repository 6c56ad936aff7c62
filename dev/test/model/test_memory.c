/* test_memory.c: how much memory a process can take, of files that stand in for those of Linux; plans that no memory
 * holds; and runs that are refused before they take any. */
#include "dev/test/train/train_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "dev/test/model/gpt2_shape.h"
#include "model/decoder.h"
#include "model/gpt2_memory.h"
#include "util/arena.h"
#include "util/files.h"
#include "util/machine_memory.h"

/* ---- the machine ---- */

enum { KB = 1024 };

/* A file below a root, whose folder is made. */
static void put(const char *root, const char *path, const char *text) {
    char folder[512];
    Error error;
    const char *file = test_path("%s/%s", root, path);
    files_folder_of(file, folder, sizeof folder);
    if (!files_make_folders(folder, &error)) fail_msg("%s", error.text);
    test_write_text(file, text);
}

static void assert_shared(const char *root, size_t expected) {
    size_t shared = machine_memory(test_path("%s", root)).shared;
    if (shared != expected) fail_msg("%s: %zu bytes, expected %zu", root, shared, expected);
}

static const char meminfo[] = "MemTotal:       9000 kB\nMemFree:        1000 kB\nMemAvailable:   5000 kB\n"
                              "SwapTotal:       900 kB\nSwapFree:        300 kB\n";

static void test_of_the_machine(void **state) {
    (void)state;
    assert_shared("nothing", SIZE_MAX);
    put("machine", "proc/meminfo", meminfo);
    assert_shared("machine", 5300 * KB);
    put("machine", "proc/self/cgroup", "0::/\n");
    assert_shared("machine", 5300 * KB);
    put("old_kernel", "proc/meminfo", "MemTotal: 9000 kB\nMemFree: 1000 kB\nSwapFree: 300 kB\n");
    assert_shared("old_kernel", SIZE_MAX);
    put("machine", "proc/spl/kstat/zfs/arcstats",
        "13 1 0x01\nname type data\nc_min 4 1024\nsize 4 3072\nc_max 4 9999\n");
    assert_shared("machine", 5302 * KB);
}

/* What files have cached is taken back from the group first. Swap is outside the limit. */
static void test_of_control_groups(void **state) {
    (void)state;
    put("v2", "proc/meminfo", meminfo);
    put("v2", "proc/self/cgroup", "0::/user/job\n");
    put("v2", "sys/fs/cgroup/user/job/memory.max", "max\n");
    put("v2", "sys/fs/cgroup/user/job/memory.current", "1000000\n");
    assert_shared("v2", 5300 * KB);
    put("v2", "sys/fs/cgroup/user/job/memory.max", "3000000\n");
    assert_shared("v2", 2000000 + 300 * KB);
    put("v2", "sys/fs/cgroup/user/job/memory.stat", "anon 7\nfile 400\ninactive_file 200000\nactive_file 100000\n");
    assert_shared("v2", 2300000 + 300 * KB);
    put("v2", "sys/fs/cgroup/user/memory.max", "2000000\n"); /* of the group above */
    put("v2", "sys/fs/cgroup/user/memory.current", "1500000\n");
    assert_shared("v2", 500000 + 300 * KB);
    put("v2", "sys/fs/cgroup/user/memory.current", "2500000\n");
    assert_shared("v2", 300 * KB);

    put("v1", "proc/meminfo", meminfo);
    put("v1", "proc/self/cgroup", "9:name=systemd:/\n5:cpu,memory:/docker/0123\n4:cpuset:/\n0::/\n");
    put("v1", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("v1", "sys/fs/cgroup/memory/memory.usage_in_bytes", "123\n");
    assert_shared("v1", 5300 * KB);
    put("v1", "sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000\n"); /* as seen in a container */
    put("v1", "sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
    put("v1", "sys/fs/cgroup/memory/memory.stat",
        "inactive_file 1\ntotal_inactive_file 50000\ntotal_active_file 20000\n");
    assert_shared("v1", 3070000 + 300 * KB);
    put("v1", "sys/fs/cgroup/memory/docker/0123/memory.limit_in_bytes", "1000000\n");
    put("v1", "sys/fs/cgroup/memory/docker/0123/memory.usage_in_bytes", "400000\n");
    assert_shared("v1", 600000 + 300 * KB);
}

static void test_damaged_files(void **state) {
    (void)state;
    put("odd", "proc/meminfo", meminfo);
    put("odd", "proc/self/cgroup", "\n:\n0\n0::\nmemory\n::::\n0::/../../..\n");
    put("odd", "sys/fs/cgroup/memory.max", "lots\n");
    assert_shared("odd", 5300 * KB);
    put("odd", "sys/fs/cgroup/memory.max", "");
    assert_shared("odd", 5300 * KB);
    put("odd", "proc/meminfo", "MemAvailable: many kB\n");
    assert_shared("odd", SIZE_MAX);
}

static void test_of_the_process(void **state) {
    (void)state;
    enum { MORE = 300 << 20 };
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    if (before.rlim_cur == RLIM_INFINITY) assert_true(machine_memory("").own == SIZE_MAX);
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_true(file && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    limit = before;
    limit.rlim_cur = pages * 4096 + MORE;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    size_t own = machine_memory("").own;
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_in_range(own, MORE / 2, MORE); /* reading files may take some */
}

/* ---- plans ---- */

static void test_plans_without_end(void **state) {
    (void)state;
    const size_t large[] = {SIZE_MAX, SIZE_MAX - 4095, SIZE_MAX / 2, INT64_MAX, ARENA_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(large); i++) {
        Arena arena = {0};
        void *pointer;
        arena_plan(&arena, "a", "a", 1000, &pointer);
        assert_int_equal(arena.bytes, 8192);
        arena_plan(&arena, "a", "b", large[i], &pointer);
        assert_true(arena.bytes == ARENA_MAX);
        arena_plan(&arena, "a", "c", 1, &pointer);
        assert_true(arena.bytes == ARENA_MAX);
        free(arena.items);
    }
    Arena arena = {0};
    void *pointer;
    for (int i = 0; i < 100; i++) arena_plan(&arena, "a", "a", SIZE_MAX / 20, &pointer);
    assert_true(arena.bytes == ARENA_MAX);
    free(arena.items);
}

/* A decoder keeps the keys and values of each token in the model's plan, where the message about memory counts them. */
static void test_cache_is_planned(void **state) {
    (void)state;
    GPT2Config config = GPT2_SHAPE(3, 2, 16, 40, 256, false, true);
    Error error;
    Backend *be = backend_open("cpu", DTYPE_BFLOAT16, 1, &error);
    if (!be) fail_msg("%s", error.text);
    GPT2 model;
    Decoder decoder;
    gpt2_plan(&model, &config, be, 1, RECOMPUTE_NONE, true);
    size_t before = arena_group_bytes(&model.arena, "workspace");
    decoder_plan(&decoder, &model);
    assert_int_equal(arena_group_bytes(&model.arena, "workspace") - before, 2 * 3 * 40 * 16 * 2);
    gpt2_allocate(&model);
    assert_non_null(decoder.cache.keys);
    assert_non_null(decoder.cache.values);
    decoder_close(&decoder);
    gpt2_free(&model);
    be->close(be);
}

/* The largest sizes that the config takes: 2^63 bytes of activations, which is more than an int64_t holds. */
static void test_the_largest_model(void **state) {
    (void)state;
    GPT2Config config = GPT2_SHAPE(GPT2_MAX_LAYERS, GPT2_MAX_HEADS, GPT2_MAX_CHANNELS, GPT2_MAX_TOKENS,
                                   GPT2_MAX_VOCABULARY, true, true);
    Error error;
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, 1, &error);
    if (!be) fail_msg("%s", error.text);
    backend_share_memory(be, 4);
    GPT2 model;
    gpt2_plan(&model, &config, be, INT32_MAX / GPT2_MAX_TOKENS, RECOMPUTE_NONE, true);
    assert_true(model.arena.bytes == ARENA_MAX);
    assert_false(gpt2_weights_fit(&model, &error));
    if (!strstr(error.text, "in each of 4 processes")) fail_msg("%s", error.text);
    assert_false(gpt2_decoding_fits(&model, &error));
    assert_false(gpt2_memory_fits(&model, 32766, &error));
    if (!strstr(error.text, "no batch size would fit")) fail_msg("%s", error.text);
    gpt2_free(&model);

    /* Few weights: then it is the batch that is too large, and a smaller one is found. */
    config = (GPT2Config)GPT2_SHAPE(1, 1, 16, 32, 256, false, true);
    gpt2_plan(&model, &config, be, 1 << 26, RECOMPUTE_NONE, true);
    assert_true(gpt2_weights_fit(&model, &error));
    int batch = 0;
    assert_false(gpt2_memory_fits(&model, 1 << 26, &error));
    const char *advice = strstr(error.text, "batch_size ");
    if (!advice || sscanf(advice, "batch_size %d would fit", &batch) != 1 || batch < 1) fail_msg("%s", error.text);
    gpt2_free(&model);
    gpt2_plan(&model, &config, be, batch, RECOMPUTE_NONE, true);
    assert_true(model.arena.bytes <= be->memory_left(be));
    gpt2_free(&model);
    be->close(be);
}

/* What others have planned after the model counts, too. */
static void test_additions_to_a_plan(void **state) {
    (void)state;
    GPT2Config config = GPT2_SHAPE(1, 1, 16, 32, 256, false, true);
    Error error;
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, 1, &error);
    if (!be) fail_msg("%s", error.text);
    GPT2 model;
    void *state_of_optimizer;
    gpt2_plan(&model, &config, be, 4, RECOMPUTE_NONE, true);
    assert_true(gpt2_memory_fits(&model, 4, &error));
    arena_plan(&model.arena, "optimizer", "m", be->memory_left(be), &state_of_optimizer);
    assert_true(gpt2_weights_fit(&model, &error));
    assert_false(gpt2_memory_fits(&model, 4, &error));
    if (!strstr(error.text, "no batch size would fit; more machines")) fail_msg("%s", error.text);
    gpt2_free(&model);
    be->close(be);
}

/* ---- runs ---- */

/* Nothing of the model is taken before: these would need 422,214 GB. */
static void test_a_run_that_is_too_large(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    CommandResult *result = train_run(&launch, "large", "--n_layer=1024 --n_embd=65536 --n_head=1024 --device=cpu");
    assert_run(result, EXIT_FAILED, "the weights and gradients of the model alone need 422213.");
    assert_run(result, EXIT_FAILED, ": lower model.n_layer or model.n_embd");
    assert_run(train_run(&launch, "large", "--n_layer=1000000000"), EXIT_USAGE, "model.n_layer is '1000000000'");
    /* Few tokens, so that it is not the batch's own memory that is too large: 100,000 x 32 tokens x 0.5 MB. */
    result = train_run(&launch, "large",
                       "--n_layer=16 --n_embd=512 --batch_size=100000 --total_batch_size=100000 --device=cpu");
    assert_run(result, EXIT_FAILED, " would fit");
    assert_false(files_is_folder(test_path("large")));
}

/* One message for all processes, about one of them. The batch needs nine tenths of all the memory there is. */
static void test_processes_share_the_memory(void **state) {
    (void)state;
    Error error;
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, 1, &error);
    if (!be) fail_msg("%s", error.text);
    double alone = (double)be->memory_left(be);
    backend_share_memory(be, 16); /* others may take and give memory meanwhile, but not that much */
    double shared = (double)be->memory_left(be);
    assert_true(shared > alone / 64 && shared < alone / 4);
    backend_share_memory(be, 1);
    if (!train_has_mpi()) skip();
    GPT2 model;
    GPT2Config config = GPT2_SHAPE(1, 2, 32, 32, 256, false, true);
    gpt2_plan(&model, &config, be, 1000, RECOMPUTE_NONE, true);
    double all = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    int batch = (int)(0.9 * all / ((double)model.arena.bytes / 1000));
    gpt2_free(&model);
    be->close(be);
    Launch launch = {.config = train_small_config(), .processes = 3};
    CommandResult *result =
        train_run(&launch, "shared", "--batch_size=%d --total_batch_size=%d --device=cpu", batch, 3 * batch);
    assert_run(result, EXIT_FAILED, "in each of 3 processes on ");
    const char *first = strstr(result->output, "error: the run needs");
    if (!first || strstr(first + 1, "error: the run needs")) fail_msg("expected one message:\n%s", result->output);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_the_machine),          cmocka_unit_test(test_of_control_groups),
        cmocka_unit_test(test_damaged_files),           cmocka_unit_test(test_of_the_process),
        cmocka_unit_test(test_plans_without_end),       cmocka_unit_test(test_cache_is_planned),
        cmocka_unit_test(test_the_largest_model),       cmocka_unit_test(test_additions_to_a_plan),
        cmocka_unit_test(test_a_run_that_is_too_large), cmocka_unit_test(test_processes_share_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
