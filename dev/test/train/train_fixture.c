/* train_fixture.c: running the trainer and reading its metrics (see train_fixture.h). */
#include "dev/test/train/train_fixture.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/files.h"

/* ---- configs ---- */

char *train_write_config(cJSON *config) {
    static int number;
    char *path = checked_strdup(test_path("config_%d.json", number++)), *text = cJSON_Print(config);
    assert_non_null(text);
    test_write_text(path, text);
    cJSON_free(text);
    cJSON_Delete(config);
    return path;
}

const char *train_small_config(void) {
    static char *path;
    if (path) return path;
    cJSON *config = cJSON_Parse(
        "{\"model\": {\"n_layer\": 1, \"n_head\": 2, \"n_embd\": 32, \"block_size\": 32, \"vocab_size\": 256},"
        " \"data\": {\"train\": \"dev/golden/tiny_train.bin\", \"val\": \"dev/golden/tiny_val.bin\"},"
        " \"optimizer\": {\"name\": \"adamw\", \"learning_rate\": 0.003},"
        " \"schedule\": {\"name\": \"cosine\", \"warmup_iters\": 3, \"lr_decay_iters\": 200, \"min_lr\": 0.0003},"
        " \"train\": {\"max_iters\": 12, \"total_batch_size\": 12, \"batch_size\": 2, \"eval_interval\": 4,"
        "  \"eval_sequences\": 6, \"log_interval\": 1, \"checkpoint_interval\": 3, \"precision\": \"float32\","
        "  \"threads\": 1}}");
    assert_non_null(config);
    cJSON_AddStringToObject(cJSON_GetObjectItemCaseSensitive(config, "train"), "device", test_device());
    return path = train_write_config(config);
}

#define EXACT " --is_approx=false"
#define LAST "g_last_factor g_last_squares"
const TrainVariant train_variants[] = {
    {"adamw", "--optimizer.name=adamw", false, {"m v", "m v", "m v"}, ""},
    {"mars-adamw", "--optimizer.name=mars-adamw", false, {"m v g_last", "m v g_last", "m v"}, LAST},
    {"mars-adamw-exact", "--optimizer.name=mars-adamw" EXACT, false, {"m v g_last", "m v g_last", "m v"}, LAST},
    {"mars-lion", "--optimizer.name=mars-lion --learning_rate=3e-4", false, {"m g_last", "m g_last", "m v"}, LAST},
    {"mars-lion-exact",
     "--optimizer.name=mars-lion --learning_rate=3e-4 --optimize_1d=true" EXACT,
     false,
     {"m g_last", "m g_last", "m g_last"},
     LAST},
    {"mars-shampoo", "--optimizer.name=mars-shampoo", true, {"m g_last", "m g_last", "m v"}, LAST},
    {"mars-shampoo-exact",
     "--optimizer.name=mars-shampoo --optimize_1d=true" EXACT,
     true,
     {"m g_last", "m g_last", "m v g_last"},
     LAST},
    {"muon", "--optimizer.name=muon", true, {"b", "b", "m v"}, ""},
    {"moonlight", "--optimizer.name=moonlight", true, {"b", "m v", "m v"}, ""},
    {"mars-m", "--optimizer.name=mars-m", true, {"m g_last", "m v", "m v"}, LAST},
    {"mars-m-exact", "--optimizer.name=mars-m" EXACT, true, {"m g_last", "m v", "m v"}, LAST},
    {"mars-m-efficient", "--optimizer.name=mars-m-efficient", true, {"b", "m v", "m v"}, ""},
    {"sgd-sai", "--optimizer.name=sgd-sai", false, {"m", "m", "m"}, "snr"},
    {"normuon", "--optimizer.name=normuon --split_qkv=true", true, {"b v*", "m v", "m v"}, ""},
    {"mars-normuon-exact",
     "--optimizer.name=mars-normuon --ns_coefficients=polar-express --cautious_weight_decay=true" EXACT,
     true,
     {"m v* g_last", "m v", "m v"},
     LAST},
    {NULL, NULL, false, {NULL}, NULL},
};

bool train_stands_for_others(const TrainVariant *variant) {
    static const char *const names[] = {"mars-adamw-exact", "mars-m-exact", "muon", "sgd-sai", "normuon"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (strcmp(variant->name, names[i]) == 0) return true;
    return false;
}

bool train_has_time_for(const TrainVariant *variant) { return !only_small_sizes() || train_stands_for_others(variant); }

static int integer_of(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item)) fail_msg("there is no number '%s'", key);
    return item->valueint;
}

static void add_path(cJSON *object, const char *key, const char *set, const char *suffix) {
    char *path = format_string("dev/golden/%s_%s", set, suffix);
    cJSON_AddStringToObject(object, key, path);
    free(path);
}

static void add_copy(cJSON *config, const cJSON *from, const char *section) {
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(from, section);
    assert_non_null(found);
    cJSON_AddItemToObject(config, section, cJSON_Duplicate(found, true));
}

char *train_golden_config(const char *set, const cJSON *golden, const cJSON *golden_case, int steps) {
    const cJSON *reference = cJSON_GetObjectItemCaseSensitive(golden, "train");
    cJSON *config = cJSON_CreateObject();
    add_copy(config, golden, "model");
    cJSON *data = cJSON_AddObjectToObject(config, "data");
    add_path(data, "train", set, "train.bin");
    add_path(data, "val", set, "val.bin");
    cJSON_AddStringToObject(data, "order", "sequential");
    add_copy(config, golden_case, "optimizer");
    add_copy(config, golden_case, "schedule");
    cJSON *train = cJSON_AddObjectToObject(config, "train");
    int batch_size = integer_of(reference, "batch_size");
    cJSON_AddNumberToObject(train, "max_iters", steps ? steps : integer_of(reference, "max_iters"));
    cJSON_AddNumberToObject(train, "batch_size", batch_size);
    cJSON_AddNumberToObject(train, "total_batch_size", batch_size * integer_of(reference, "accum"));
    cJSON_AddNumberToObject(train, "gradient_scale", integer_of(reference, "gradient_scale"));
    cJSON_AddNumberToObject(train, "eval_sequences", integer_of(reference, "val_sequences"));
    cJSON_AddNumberToObject(train, "log_interval", 1);
    cJSON_AddNumberToObject(train, "threads", 1);
    cJSON_AddStringToObject(train, "device", test_device());
    add_path(train, "init_from", set, "init.safetensors");
    return train_write_config(config);
}

/* ---- processes ---- */

static const char *folder_of(const char *variable, const char *otherwise) {
    const char *folder = getenv(variable);
    return folder ? folder : otherwise;
}

/* The part of the command line that makes the disk fail, which the caller frees. */
static char *fault_settings(const Launch *launch, const char *name) {
    if (!launch->faults) return checked_strdup("");
    char *library = format_string("%s/test/fault_injection.so", folder_of("MARS_BUILD", "build"));
    if (!files_is_file(library)) fail_msg("%s is missing: make it first", library);
    char *settings =
        format_string("LD_PRELOAD='%s' FAULT_FOLDER='%s' %s", library, test_path("%s", name), launch->faults);
    free(library);
    return settings;
}

/* The whole command line, which the caller frees. The shell gives its place to the program, so that signals reach it.
 * The settings of AddressSanitizer matter in a build with it: fault_injection.so comes before its library, and MPI
 * libraries do not free all of their memory. */
static char *command_line(const Launch *launch, const char *name, const char *arguments) {
    char *out = name ? format_string("--out_dir='%s'", test_path("%s", name)) : checked_strdup("");
    char *config = launch->config ? format_string("'%s'", launch->config) : checked_strdup("");
    char *options = format_string("ASAN_OPTIONS=\"$ASAN_OPTIONS:verify_asan_link_order=0%s\"",
                                  launch->processes ? ":detect_leaks=0" : "");
    char *processes = launch->processes
                          ? format_string("mpirun -np %d --oversubscribe --bind-to none", launch->processes)
                          : checked_strdup("");
    char *faults = fault_settings(launch, name);
    char *command = format_string("exec env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 %s %s %s "
                                  "'%s/train_gpt2' %s %s %s </dev/null",
                                  options, faults, processes, folder_of("MARS_BIN", "."), config, out, arguments);
    free(config);
    free(out);
    free(options);
    free(processes);
    free(faults);
    return command;
}

static char *format_arguments(const char *format, va_list arguments) {
    char text[4096];
    assert_true(vsnprintf(text, sizeof text, format, arguments) < (int)sizeof text);
    return checked_strdup(text);
}

static CommandResult *run_to_end(const Launch *launch, const char *name, const char *arguments) {
    char *command = command_line(launch, name, arguments);
    CommandResult *result = test_run("%s", command);
    free(command);
    return result;
}

CommandResult *train_run(const Launch *launch, const char *name, const char *format, ...) {
    va_list list;
    va_start(list, format);
    char *arguments = format_arguments(format, list);
    va_end(list);
    CommandResult *result = run_to_end(launch, name, arguments);
    free(arguments);
    return result;
}

void train(const Launch *launch, const char *name, const char *format, ...) {
    va_list list;
    va_start(list, format);
    char *arguments = format_arguments(format, list);
    va_end(list);
    assert_run(run_to_end(launch, name, arguments), EXIT_DONE, "");
    free(arguments);
}

/* In the child: all output to one file, then the shell. */
static NO_RETURN void become(const char *command, const char *output) {
    int file = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (file < 0 || dup2(file, STDOUT_FILENO) < 0 || dup2(file, STDERR_FILENO) < 0) _exit(EXIT_FAILED);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(EXIT_FAILED);
}

pid_t train_start(const Launch *launch, const char *name, const char *format, ...) {
    va_list list;
    va_start(list, format);
    char *arguments = format_arguments(format, list);
    va_end(list);
    char *command = command_line(launch, name, arguments);
    const char *output = test_path("%s.txt", name);
    fflush(NULL);
    pid_t process = fork();
    if (process < 0) fail_msg("cannot start a process");
    if (process == 0) become(command, output);
    free(arguments);
    free(command);
    return process;
}

static int exit_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

int train_wait(pid_t process) {
    int status;
    assert_int_equal(waitpid(process, &status, 0), process);
    return exit_status(status);
}

bool train_has_mpi(void) {
    static int answer = -1;
    if (answer < 0) {
        Launch launch = {"/dev/null", 1, NULL};
        CommandResult *result = train_run(&launch, NULL, " ");
        answer = strstr(result->output, "/dev/null: the config is empty") != NULL;
        if (!answer) print_message("several processes are not tested: %s\n", result->output);
    }
    return answer;
}

/* ---- metrics ---- */

/* The lines of metrics.jsonl. `is_final`: the run has ended, so there must be lines, and each must be whole. */
static cJSON *read_lines(const char *name, bool is_final) {
    cJSON *lines = cJSON_CreateArray();
    const char *path = test_path("%s/metrics.jsonl", name);
    if (!is_final && !files_is_file(path)) return lines;
    char *text = test_read_file(path, NULL);
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        if (!end && is_final) fail_msg("%s: the last line has no end: %s", path, line);
        if (!end) break;
        cJSON *object = cJSON_ParseWithLength(line, (size_t)(end - line));
        if (!cJSON_IsObject(object)) fail_msg("%s: not a JSON object: %.200s", path, line);
        cJSON_AddItemToArray(lines, object);
    }
    free(text);
    return lines;
}

cJSON *train_log(const char *name) { return read_lines(name, true); }

static bool is_event(const cJSON *line, const char *event) {
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "event"));
    return name && strcmp(name, event) == 0;
}

int log_last_step(const cJSON *log, const char *event) {
    int step = -1;
    const cJSON *line;
    cJSON_ArrayForEach(line, log) {
        if (is_event(line, event)) step = integer_of(line, "step");
    }
    return step;
}

void train_wait_for(pid_t process, const char *name, const char *event, int step) {
    const struct timespec pause = {0, 1000000};
    for (;;) {
        cJSON *log = read_lines(name, false);
        int reached = log_last_step(log, event), status;
        cJSON_Delete(log);
        if (reached >= step) return;
        if (waitpid(process, &status, WNOHANG) == process) {
            char *output = test_read_file(test_path("%s.txt", name), NULL);
            fail_msg("exit status %d before %s of step %d:\n%s", exit_status(status), event, step, output);
        }
        nanosleep(&pause, NULL);
    }
}

double *log_numbers(const cJSON *log, const char *event, const char *key, int *count) {
    double *numbers = checked_malloc((size_t)cJSON_GetArraySize(log) * sizeof *numbers, key);
    int found = 0;
    const cJSON *line;
    cJSON_ArrayForEach(line, log) {
        if (!is_event(line, event)) continue;
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(line, key);
        if (!cJSON_IsNumber(item)) fail_msg("a line of event %s has no number '%s'", event, key);
        numbers[found++] = item->valuedouble;
    }
    if (*count >= 0 && found != *count) fail_msg("%d lines of event %s, expected %d", found, event, *count);
    *count = found;
    return numbers;
}

/* ---- comparisons ---- */

/* A copy of the lines without what depends on time and place; of the curve alone, or all. */
static cJSON *comparable(const cJSON *log, bool curve_only) {
    static const char *const varying[] = {"ms",      "tokens_per_s",  "mfu",
                                          "seconds", "train_seconds", "optimizer_seconds",
                                          "path",    "ms_slowest",    "slowest_rank"};
    cJSON *lines = cJSON_CreateArray();
    const cJSON *line;
    cJSON_ArrayForEach(line, log) {
        if (curve_only && !is_event(line, "train") && !is_event(line, "val")) continue;
        cJSON *copy = cJSON_Duplicate(line, true);
        for (size_t i = 0; i < ARRAY_LENGTH(varying); i++) cJSON_DeleteItemFromObjectCaseSensitive(copy, varying[i]);
        cJSON *config = cJSON_GetObjectItemCaseSensitive(copy, "config");
        cJSON_DeleteItemFromObjectCaseSensitive(cJSON_GetObjectItemCaseSensitive(config, "train"), "out_dir");
        cJSON_AddItemToArray(lines, copy);
    }
    return lines;
}

static void assert_same_lines(const cJSON *log, const cJSON *expected, bool curve_only) {
    cJSON *lines = comparable(log, curve_only), *expected_lines = comparable(expected, curve_only);
    const cJSON *line = lines->child, *wanted = expected_lines->child;
    if (!wanted) fail_msg("there is nothing to compare with");
    while (line && wanted) {
        if (!cJSON_Compare(line, wanted, true))
            fail_msg("a line is\n%s\nand should be\n%s", cJSON_PrintUnformatted(line), cJSON_PrintUnformatted(wanted));
        line = line->next;
        wanted = wanted->next;
    }
    if (line) fail_msg("a line too many: %s", cJSON_PrintUnformatted(line));
    if (wanted) fail_msg("a line is missing: %s", cJSON_PrintUnformatted(wanted));
    cJSON_Delete(lines);
    cJSON_Delete(expected_lines);
}

void assert_same_log(const cJSON *log, const cJSON *expected) { assert_same_lines(log, expected, false); }

void assert_same_curve(const cJSON *log, const cJSON *expected) { assert_same_lines(log, expected, true); }

void assert_close_curve(const cJSON *log, const cJSON *expected, double limit) {
    static const char *const events[] = {"train", "val"};
    for (size_t e = 0; e < ARRAY_LENGTH(events); e++) {
        int count = -1;
        double *wanted = log_numbers(expected, events[e], "loss", &count);
        double *wanted_steps = log_numbers(expected, events[e], "step", &count);
        double *losses = log_numbers(log, events[e], "loss", &count),
               *steps = log_numbers(log, events[e], "step", &count);
        assert_true(count > 0);
        for (int i = 0; i < count; i++)
            if (steps[i] != wanted_steps[i] || !(fabs(losses[i] / wanted[i] - 1) <= limit))
                fail_msg("%s, step %g: loss %.9g, expected %.9g at step %g, within %g", events[e], steps[i], losses[i],
                         wanted[i], wanted_steps[i], limit);
        free(wanted);
        free(wanted_steps);
        free(losses);
        free(steps);
    }
}

static void assert_close_tensors(const cJSON *line, const cJSON *expected, double limit) {
    const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(line, "tensors"), *wanted, *norm;
    assert_int_equal(integer_of(line, "step"), integer_of(expected, "step"));
    expected = cJSON_GetObjectItemCaseSensitive(expected, "tensors");
    assert_true(cJSON_GetArraySize(expected) > 0);
    assert_int_equal(cJSON_GetArraySize(tensors), cJSON_GetArraySize(expected));
    cJSON_ArrayForEach(wanted, expected) {
        const cJSON *tensor = cJSON_GetObjectItemCaseSensitive(tensors, wanted->string);
        assert_int_equal(cJSON_GetArraySize(tensor), 3);
        cJSON_ArrayForEach(norm, wanted) {
            const cJSON *own = cJSON_GetObjectItemCaseSensitive(tensor, norm->string);
            if (!cJSON_IsNumber(own) || !(fabs(own->valuedouble - norm->valuedouble) <= limit * norm->valuedouble))
                fail_msg("%s of %s: %.9g, expected %.9g, within %g", norm->string, wanted->string,
                         own ? own->valuedouble : NAN, norm->valuedouble, limit);
        }
    }
}

void assert_close_norms(const cJSON *log, const cJSON *expected, int count, double limit) {
    const cJSON *line = log->child, *wanted = expected->child;
    for (int i = 0; i <= count; i++) {
        while (line && !is_event(line, "norms")) line = line->next;
        while (wanted && !is_event(wanted, "norms")) wanted = wanted->next;
        if (i == count) break;
        assert_true(line && wanted);
        assert_close_tensors(line, wanted, limit);
        line = line->next;
        wanted = wanted->next;
    }
    assert_true(!line && !wanted);
}

void assert_same_checkpoints(const char *name, const char *expected) {
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors"};
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++)
        assert_run(test_run("cmp '%s' '%s'", test_path("%s/checkpoints/latest/%s", name, files[i]),
                            test_path("%s/checkpoints/latest/%s", expected, files[i])),
                   0, "");
}
