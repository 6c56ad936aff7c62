/* test_checkpoint_faults.c: saves that are killed or run out of disk at every place where that makes a difference. What
 * they leave must hold a whole checkpoint, and the next save must clear it up. The program runs itself as
 *     test_checkpoint_faults save OUT_DIR STEP VERSION KEEP
 * under dev/test/fault_injection.c. */
#include "dev/test/model/small_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *fault_library(void) {
    static char path[1024];
    if (!path[0]) {
        snprintf(path, sizeof path, "%s", test_path("fault_injection.so"));
        CommandResult *result =
            test_run("${CC:-cc} -std=gnu17 -O1 -shared -fPIC -o '%s' dev/test/fault_injection.c -ldl", path);
        if (result->status != 0) fail_msg("cannot compile dev/test/fault_injection.c: %s", result->output);
    }
    return path;
}

/* This program as a child that saves one checkpoint, with the given settings of the fault library. */
static CommandResult *save_in_child(const char *settings, const char *out_dir, int step, int version) {
    char self[1024];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = 0;
    return test_run("LD_PRELOAD='%s' FAULT_FOLDER='%s' ASAN_OPTIONS=verify_asan_link_order=0 %s '%s' save '%s' %d %d 2",
                    fault_library(), test_folder(), settings, self, out_dir, step, version);
}

static int child_main(char **arguments) {
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    Error error = {""};
    small_start(&run, atoi(arguments[3]), atoi(arguments[4]), false);
    bool ok = small_save_run(&run, arguments[2], atoi(arguments[5]), path, &error);
    bool all = run.events == 3 * run.table.count;
    printf("%s; %s\n", ok ? "saved" : error.text, all ? "everything was fetched" : "not everything was fetched");
    tensor_table_free(&run.table);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

/* Opens what an interrupted save of version `new` over version `old` has left: either, but whole. Then saves again. */
static void assert_old_or_new(const char *out_dir, int old_step, int old_version, int new_step, int new_version) {
    Checkpoint checkpoint;
    Error error;
    if (!checkpoint_open_newest(&checkpoint, out_dir, &error)) fail_msg("%s", error.text);
    TensorTable table = small_table(LAYERS, C, V, T, false);
    float values[V * C], expected = small_value(new_version, CHECKPOINT_WEIGHTS, 0, 0);
    assert_true(checkpoint_read_weights(&checkpoint.model, &table, 0, values, &error));
    bool is_new = memcmp(values, &expected, sizeof expected) == 0;
    assert_int_equal(checkpoint.step, is_new ? new_step : old_step);
    assert_holds(&checkpoint, is_new ? new_version : old_version, false);
    checkpoint_close(&checkpoint);
    tensor_table_free(&table);
    small_save(out_dir, new_step, 9, 1);
    assert_newest(out_dir, new_step, 9);
    char *folder = format_string("%s/checkpoints", out_dir), *names = format_string("latest step_%08d ", new_step);
    assert_names(folder, names);
    free(folder);
    free(names);
}

/* Kills a save at its 1st, 2nd, ... sync or rename until one gets through; returns how many were killed. */
static int kill_everywhere(const char *call, int old_step, int new_step) {
    for (int n = 1; n < 40; n++) {
        char *out_dir = checked_strdup(test_path("kill_%s_%d_%d", call, new_step - old_step, n));
        char *settings = format_string("FAULT_KILL_AT_%s=%d", call, n);
        small_save(out_dir, old_step, 1, 2);
        int status = save_in_child(settings, out_dir, new_step, 2)->status;
        free(settings);
        if (status != EXIT_DONE) assert_int_equal(status, 128 + 9);
        if (status == EXIT_DONE) assert_newest(out_dir, new_step, 2);
        assert_old_or_new(out_dir, old_step, 1, new_step, 2);
        free(out_dir);
        if (status == EXIT_DONE) return n - 1;
    }
    fail_msg("the save never came to its end");
    return 0;
}

static void test_killed_at_every_sync(void **state) {
    (void)state;
    test_skip_without_programs();
    assert_int_equal(kill_everywhere("SYNC", 1, 2), 9); /* 5 files, their folder, the folder above three times */
    assert_int_equal(kill_everywhere("SYNC", 2, 2), 9);
}

static void test_killed_at_every_rename(void **state) {
    (void)state;
    test_skip_without_programs();
    assert_int_equal(kill_everywhere("RENAME", 1, 2), 2);
    assert_int_equal(kill_everywhere("RENAME", 2, 2), 4); /* the old one aside, and away; the new one and the link */
}

static void test_disk_full(void **state) {
    (void)state;
    test_skip_without_programs();
    char *out_dir = checked_strdup(test_path("full"));
    small_save(out_dir, 1, 1, 2);
    struct stat model, optimizer, config, tokenizer, trainer;
    assert_int_equal(stat(test_path("full/checkpoints/latest/model.safetensors"), &model), 0);
    assert_int_equal(stat(test_path("full/checkpoints/latest/optimizer.safetensors"), &optimizer), 0);
    assert_int_equal(stat(test_path("full/checkpoints/latest/config.json"), &config), 0);
    assert_int_equal(stat(test_path("full/checkpoints/latest/tokenizer_config.json"), &tokenizer), 0);
    assert_int_equal(stat(test_path("full/checkpoints/latest/trainer.json"), &trainer), 0);
    int64_t all = (model.st_size + optimizer.st_size + config.st_size + tokenizer.st_size + trainer.st_size);
    const int64_t limits[] = {0,
                              1,
                              model.st_size / 2,
                              model.st_size - 1,
                              model.st_size,
                              model.st_size + 1,
                              model.st_size + optimizer.st_size,
                              all - trainer.st_size - 1,
                              all - trainer.st_size,
                              all - 1,
                              all};
    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++) {
        char *settings = format_string("FAULT_WRITE_LIMIT=%" PRId64, limits[i]);
        CommandResult *result = save_in_child(settings, out_dir, 2, 2);
        free(settings);
        bool fits = limits[i] == all;
        assert_run(result, fits ? EXIT_DONE : EXIT_FAILED, fits ? "saved" : "No space left on device");
        assert_run(result, fits ? EXIT_DONE : EXIT_FAILED, "; everything was fetched");
        assert_string_equal(small_latest(out_dir), fits ? "step_00000002" : "step_00000001");
        if (!fits) assert_names(test_path("full/checkpoints"), "latest step_00000001 ");
        assert_newest(out_dir, fits ? 2 : 1, fits ? 2 : 1);
    }
    free(out_dir);
}

/* A folder in the place of the link, so that the last rename fails: all must be as before. */
static void test_failure_at_the_link(void **state) {
    (void)state;
    const char *out_dir = test_path("link"), *folder = test_path("link/checkpoints");
    small_save(out_dir, 1, 1, 2);
    assert_int_equal(unlink(test_path("link/checkpoints/latest")), 0);
    assert_int_equal(mkdir(test_path("link/checkpoints/latest"), 0777), 0);
    for (int step = 1; step <= 2; step++) {
        SmallRun run;
        char path[CHECKPOINT_PATH_LENGTH];
        Error error = {""};
        small_start(&run, step, 2, false);
        assert_false(small_save_run(&run, out_dir, 1, path, &error));
        assert_non_null(strstr(error.text, "latest"));
        assert_names(folder, "latest step_00000001 ");
        assert_newest(out_dir, 1, 1);
        tensor_table_free(&run.table);
    }
}

static void test_slow_sync(void **state) {
    (void)state;
    test_skip_without_programs();
    double before = seconds_now();
    assert_run(save_in_child("FAULT_SLOW_SYNC=0.05", test_path("slow"), 1, 1), EXIT_DONE, "saved");
    assert_true(seconds_now() - before >= 9 * 0.05);
}

int main(int count, char **arguments) {
    if (count == 6 && strcmp(arguments[1], "save") == 0) return child_main(arguments);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_at_every_sync),
        cmocka_unit_test(test_killed_at_every_rename),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_failure_at_the_link),
        cmocka_unit_test(test_slow_sync),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
