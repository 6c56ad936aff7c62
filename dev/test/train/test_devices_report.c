/* test_devices_report.c: what a run tells of its GPU: the values of its sensors in the metrics, by NVML or a stand-in
 * for it (dev/test/kernels/fake_nvml.c), and to profilers the names of its parts. Skipped where this build has no GPU
 * to use. */
#include "dev/test/train/train_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/test_gpu.h"

static const char *build(void) { return getenv("MARS_BUILD") ? getenv("MARS_BUILD") : "build"; }

static int setup(void **state) {
    (void)state;
    setenv("XDG_CACHE_HOME", test_path("cache"), 1); /* not the user's */
    setenv("MARS_EMU_DEVICES", "2", 1);
    return 0;
}

/* ---- sensors ---- */

/* A run of one step with these variables in its environment, which finds `library` first in the place of NVML. Returns
 * its log. */
static cJSON *run_with(const char *name, const char *library, const char *variables) {
    assert_run(test_run("mkdir -p %s/%s_lib && cp '%s/test/%s' %s/%s_lib/libnvidia-ml.so.1", test_folder(), name,
                        build(), library, test_folder(), name),
               0, "");
    assert_run(
        test_run("env LD_LIBRARY_PATH=%s/%s_lib:$LD_LIBRARY_PATH %s %s/train_gpt2 %s --device=cuda --max_iters=1 "
                 "--warmup_iters=0 --batch_size=1 --total_batch_size=1 --eval_interval=0 --eval_sequences=1 "
                 "--out_dir=%s/%s",
                 test_folder(), name, variables, getenv("MARS_BIN") ? getenv("MARS_BIN") : ".", train_small_config(),
                 test_folder(), name),
        0, "done in");
    return train_log(name);
}

/* Fails unless the run's first training line has these members, as JSON; the sensors' come last. */
static void assert_sensors(const cJSON *log, const char *expected) {
    const cJSON *line = cJSON_GetArrayItem(log, 1);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "event")), "train");
    char *text = cJSON_PrintUnformatted(line);
    const char *sensors = strstr(text, ",\"gpu_watts\"");
    if (!sensors || strcmp(sensors, expected) != 0) fail_msg("%s does not end in %s", text, expected);
    cJSON_free(text);
}

#define VALUES "FAKE_NVML_POWER=612500 FAKE_NVML_CLOCK=1410 FAKE_NVML_TEMPERATURE=71 "
#define UNKNOWN ",\"gpu_watts\":null,\"gpu_mhz\":null,\"gpu_celsius\":null,\"gpu_throttle\":null}"

static void test_sensors(void **state) {
    (void)state;
    need_gpu();
    bool is_emulated_gpu = device_is_emulated("cuda");
    const struct {
        const char *library, *variables, *expected;
        bool emulated_only;
    } cases[] = {
        {"libnvidia-ml.so.1", VALUES "FAKE_NVML_REASONS=0xec FAKE_NVML_BUS=0000:01:00.0",
         ",\"gpu_watts\":612.5,\"gpu_mhz\":1410,\"gpu_celsius\":71,\"gpu_throttle\":\"power cap, hardware slowdown, "
         "thermal, power brake\"}",
         true},
        /* It has nothing to do, runs at the clocks that its owner set, and shows a picture. */
        {"libnvidia-ml.so.1", VALUES "FAKE_NVML_REASONS=0x103",
         ",\"gpu_watts\":612.5,\"gpu_mhz\":1410,\"gpu_celsius\":71,\"gpu_throttle\":\"\"}", false},
        {"libnvidia-ml.so.1", "FAKE_NVML_TEMPERATURE=40",
         ",\"gpu_watts\":null,\"gpu_mhz\":null,\"gpu_celsius\":40,\"gpu_throttle\":null}", false},
        {"libnvidia-ml.so.1", VALUES "FAKE_NVML_INIT=9", UNKNOWN, false},
        {"libnvidia-ml.so.1", VALUES "FAKE_NVML_BUS=0000:77:00.0", UNKNOWN, false},
        {"fault_injection.so", VALUES, UNKNOWN, false}, /* none of the functions is there */
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        if (cases[i].emulated_only && !is_emulated_gpu) continue;
        char *name = format_string("sensors_%zu", i);
        cJSON *log = run_with(name, cases[i].library, cases[i].variables);
        assert_sensors(log, cases[i].expected);
        cJSON_Delete(log);
        free(name);
    }
}

/* The GPU that the run uses, which need not be the first on the bus. */
static void test_sensors_of_this_machine(void **state) {
    (void)state;
    need_gpu();
    Error error;
    Backend *be = backend_open("cuda", DTYPE_FLOAT32, 1, &error);
    DeviceSensors sensors;
    for (int i = 0; i < 2; i++) {
        assert_true(be->read_sensors(be, &sensors));
        if (is_emulated(be)) continue; /* this machine may have no driver */
        assert_true(sensors.watts > 1 && sensors.mhz > 1 && sensors.celsius > 1 && sensors.has_throttle);
    }
    be->close(be);
    be = backend_open("cpu", DTYPE_FLOAT32, 1, &error);
    assert_false(be->read_sensors(be, &sensors));
    be->close(be);
}

/* ---- ranges ---- */

/* Ranges end in the order in which they begin; the emulator writes them down. */
static void test_ranges(void **state) {
    (void)state;
    need_gpu();
    if (!device_is_emulated("cuda")) skip();
    static const char *const expected[] = {"step",          "step/forward",        "step/forward/block",
                                           "step/backward", "step/backward/block", "step/optimizer",
                                           "validation",    "checkpoint",          "validation/forward/block"};
    char *ranges = checked_strdup(test_path("ranges.txt")), path[256] = "", *rest;
    int found[ARRAY_LENGTH(expected)] = {0};
    char *variables = format_string("MARS_EMU_RANGES=%s", ranges);
    cJSON_Delete(run_with("ranges", "libnvidia-ml.so.1", variables));
    char *text = rest = test_read_file(ranges, NULL);
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        if (strncmp(line, "begin ", 6) == 0) {
            snprintf(path + strlen(path), sizeof path - strlen(path), "%s%s", path[0] ? "/" : "", line + 6);
            for (size_t i = 0; i < ARRAY_LENGTH(expected); i++) found[i] += strcmp(path, expected[i]) == 0;
        } else {
            assert_string_equal(line, "end");
            if (!path[0]) fail_msg("a range ends that did not begin");
            char *slash = strrchr(path, '/');
            *(slash ? slash : path) = 0;
        }
    }
    assert_string_equal(path, "");
    for (size_t i = 0; i < ARRAY_LENGTH(expected); i++)
        if (found[i] != 1) fail_msg("%d ranges %s, expected 1", found[i], expected[i]);
    free(ranges), free(variables), free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sensors),
        cmocka_unit_test(test_sensors_of_this_machine),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
