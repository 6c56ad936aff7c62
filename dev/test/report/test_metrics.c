/* test_metrics.c: what a run reports: the lines of metrics.jsonl and which of them survive a resume; the numbers and
 * lines that people see. */
#include "dev/test/test.h"

#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report/console.h"
#include "report/metrics.h"
#include "report/rank_time.h"

/* ---- help ---- */

/* A folder of its own for each test, and the file in it. */
typedef struct Folder {
    char path[700], file[800];
} Folder;

static Folder new_folder(const char *name) {
    Folder folder;
    snprintf(folder.path, sizeof folder.path, "%s", test_path("%s", name));
    snprintf(folder.file, sizeof folder.file, "%s/metrics.jsonl", folder.path);
    if (mkdir(folder.path, 0777) != 0) fail_msg("cannot make %s", folder.path);
    return folder;
}

static Metrics *open_metrics(const Folder *folder, MetricsMode mode, int64_t step) {
    Metrics *metrics = NULL;
    Error error = {""};
    if (!metrics_open(&metrics, folder->path, mode, step, &error)) fail_msg("%s", error.text);
    return metrics;
}

static void refuse_to_open(const char *path, MetricsMode mode, const char *message) {
    Metrics *metrics = NULL;
    Error error = {""};
    assert_false(metrics_open(&metrics, path, mode, 1, &error));
    assert_null(metrics);
    if (!strstr(error.text, message)) fail_msg("'%s' should mention '%s'", error.text, message);
}

static void assert_file(const Folder *folder, const char *expected) {
    char *text = test_read_file(folder->file, NULL);
    assert_string_equal(text, expected);
    free(text);
}

static cJSON *only_line(const Folder *folder) {
    char *text = test_read_file(folder->file, NULL), *end = strchr(text, '\n');
    assert_non_null(end);
    assert_int_equal(end[1], 0);
    cJSON *line = cJSON_Parse(text);
    if (!line) fail_msg("no JSON: %s", text);
    free(text);
    return line;
}

static double number(const cJSON *line, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(line, key);
    if (!cJSON_IsNumber(item)) fail_msg("no number %s", key);
    return item->valuedouble;
}

/* A line of each event at a step, without the numbers that do not matter here. */
static void write_step(Metrics *metrics, int64_t step) {
    static Tensor tensors[] = {{.name = "wte.weight"}, {.name = "ln_f.weight"}};
    static TensorNorms tensor_norms[] = {{1.5, 0.25, 8.0}, {0.0, NAN, 0.5}};
    const TensorTable table = {.tensors = tensors, .count = 2};
    const OptimNorms norms = {0.75, tensor_norms};
    StepReport report = {.step = step,
                         .loss = 2.5,
                         .lr = 0.5,
                         .grad_norm = 1.5,
                         .tokens = 8,
                         .ms = 4.0,
                         .tokens_per_s = 2000.0,
                         .mfu = -1.0,
                         .lr_by_role = {0.25, 0.5, -1.0, 0.125},
                         .ms_slowest = 3.5,
                         .slowest_rank = 2};
    metrics_validation(metrics, step, 3.25, NULL, 64);
    metrics_hellaswag(metrics, step, 0.25, 0.375, 8);
    metrics_sample(metrics, step, "a", "b\x1b\"\n");
    metrics_checkpoint(metrics, step, "c");
    metrics_train(metrics, &report);
    metrics_norms(metrics, step, &table, &norms);
    metrics_skipped(metrics, step, "wte.weight");
}

#define VAL_LINE(step) "{\"event\":\"val\",\"step\":" #step ",\"loss\":3.25,\"tokens\":64}\n"
#define HELLASWAG_LINE(step) \
    "{\"event\":\"hellaswag\",\"step\":" #step ",\"accuracy\":0.25,\"accuracy_norm\":0.375,\"examples\":8}\n"
#define SAMPLE_LINE(step) "{\"event\":\"sample\",\"step\":" #step ",\"prompt\":\"a\",\"text\":\"b\\u001b\\\"\\n\"}\n"
#define CHECKPOINT_LINE(step) "{\"event\":\"checkpoint\",\"step\":" #step ",\"path\":\"c\"}\n"
#define TRAIN_LINE(step)                                                                                               \
    "{\"event\":\"train\",\"step\":" #step                                                                             \
    ",\"loss\":2.5,\"lr\":0.5,\"lr_by_role\":{\"matrix\":0.25,\"embedding\":0.5,"                                      \
    "\"vector\":0.125},\"grad_norm\":1.5,\"tokens\":8,\"ms\":4,\"tokens_per_s\":2000,\"mfu\":null,\"ms_slowest\":3.5," \
    "\"slowest_rank\":2}\n"
#define NORMS_LINE(step)                                                            \
    "{\"event\":\"norms\",\"step\":" #step                                          \
    ",\"clip\":0.75,\"tensors\":{\"wte.weight\":{\"gradient\":1.5,\"update\":0.25," \
    "\"weight\":8},\"ln_f.weight\":{\"gradient\":0,\"update\":null,\"weight\":0.5}}}\n"
#define SKIPPED_LINE(step) "{\"event\":\"skipped\",\"step\":" #step ",\"tensor\":\"wte.weight\"}\n"
#define STEP_LINES(step) \
    VAL_LINE(step)       \
    HELLASWAG_LINE(step) SAMPLE_LINE(step) CHECKPOINT_LINE(step) TRAIN_LINE(step) NORMS_LINE(step) SKIPPED_LINE(step)
#define START_LINE(from)                                                                                               \
    "{\"event\":\"start\",\"config\":{\"a\":1},\"parameters\":7,\"device\":\"d\",\"precision\":\"p\",\"processes\":2," \
    "\"threads\":3,\"version\":\"" MARS_VERSION "\",\"resumed_from\":" #from "}\n"

static void write_start(Metrics *metrics, int64_t resumed_from) {
    metrics_start(metrics, "{\"a\":1}", 7, "d", "p", 2, 3, resumed_from);
}

/* ---- lines ---- */

#define END_LINE                                                                                    \
    "{\"event\":\"end\",\"step\":13,\"reason\":\"stopped\",\"seconds\":1.5,\"train_seconds\":1.25," \
    "\"optimizer_seconds\":0.5,\"train_tokens\":48,\"optimizer_state_bytes\":96}\n"

static void test_every_line(void **state) {
    (void)state;
    Folder folder = new_folder("lines");
    Metrics *metrics = open_metrics(&folder, METRICS_NEW, 0);
    assert_file(&folder, "");
    write_start(metrics, -1);
    write_step(metrics, 12);
    assert_file(&folder, START_LINE(null) STEP_LINES(12)); /* each line is there at once, not when the file is closed */
    metrics_end(metrics, 13, &(RunReport){"stopped", 1.5, 1.25, 0.5, 48, 96});
    metrics_close(metrics);
    assert_file(&folder, START_LINE(null) STEP_LINES(12) END_LINE);
    metrics = open_metrics(&folder, METRICS_NEW, 0);
    write_start(metrics, 0);
    metrics_close(metrics);
    assert_file(&folder, START_LINE(0));
}

static void test_not_a_number(void **state) {
    (void)state;
    Folder folder = new_folder("nan");
    const double values[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        Metrics *metrics = open_metrics(&folder, METRICS_NEW, 0);
        metrics_validation(metrics, 1, values[i], NULL, 2);
        metrics_close(metrics);
        assert_file(&folder, "{\"event\":\"val\",\"step\":1,\"loss\":null,\"tokens\":2}\n");
    }
}

/* Floats of any size come back with the same bits; counts are exact. */
static void test_numbers_come_back(void **state) {
    (void)state;
    Folder folder = new_folder("floats");
    const float values[] = {0.1f,    1.0f / 3.0f, 16777217.0f, 10.824905f,  1.17549435e-38f, 1e-45f,
                            FLT_MAX, FLT_EPSILON, 0.99999994f, -2.7182817f, 1000.00006f};
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        Metrics *metrics = open_metrics(&folder, METRICS_NEW, 0);
        StepReport report = {.step = INT64_C(4503599627370495),
                             .loss = values[i],
                             .lr = values[i],
                             .grad_norm = values[i],
                             .tokens = INT64_C(9007199254740991),
                             .ms = 1.0,
                             .tokens_per_s = 1.0,
                             .mfu = values[i]};
        metrics_train(metrics, &report);
        metrics_close(metrics);
        cJSON *line = only_line(&folder);
        assert_true((float)number(line, "loss") == values[i]);
        assert_true((float)number(line, "lr") == values[i]);
        assert_true((float)number(line, "grad_norm") == values[i]);
        assert_true(number(line, "step") == 4503599627370495.0);
        assert_true(number(line, "tokens") == 9007199254740991.0);
        if (values[i] < 0.0f)
            assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(line, "mfu")));
        else
            assert_true((float)number(line, "mfu") == values[i]);
        cJSON_Delete(line);
    }
}

static void test_strings_are_escaped(void **state) {
    (void)state;
    Folder folder = new_folder("strings");
    const char *const values[] = {
        "", "a\"b", "back\\slash", "two\nlines\tand\rmore", "\x01\x1f", "h\xc3\xa4user/\xe4\xb8\xad"};
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        Metrics *metrics = open_metrics(&folder, METRICS_NEW, 0);
        metrics_checkpoint(metrics, 1, values[i]);
        metrics_close(metrics);
        cJSON *line = only_line(&folder);
        assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "path")), values[i]);
        cJSON_Delete(line);
    }
    Metrics *metrics = open_metrics(&folder, METRICS_NEW, 0);
    metrics_start(metrics, "{}", 1, "a \"fast\" one", "p\n", 1, 1, -1);
    metrics_close(metrics);
    cJSON *line = only_line(&folder);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "device")), "a \"fast\" one");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "precision")), "p\n");
    cJSON_Delete(line);
}

/* All processes but the first have no Metrics. */
static void test_no_metrics(void **state) {
    (void)state;
    StepReport report = {.step = 1};
    write_start(NULL, -1);
    write_step(NULL, 1);
    metrics_train(NULL, &report);
    metrics_end(NULL, 1, &(RunReport){.reason = "done"});
    metrics_close(NULL);
    assert_false(metrics_has_validation(NULL));
    assert_false(metrics_has_sample(NULL));
}

/* ---- going on ---- */

/* Leaves the lines of steps 0 to 3 and an end. */
static void write_run(const Folder *folder) {
    Metrics *metrics = open_metrics(folder, METRICS_NEW, 0);
    write_start(metrics, -1);
    for (int64_t step = 0; step < 4; step++) write_step(metrics, step);
    metrics_end(metrics, 4, &(RunReport){.reason = "done", .seconds = 1.0});
    metrics_close(metrics);
}

/* A checkpoint of step 2 has seen train lines 0 and 1, and was evaluated before it was saved. */
static void test_resume(void **state) {
    (void)state;
    Folder folder = new_folder("resume");
    write_run(&folder);
    Metrics *metrics = open_metrics(&folder, METRICS_RESUME, 2);
    assert_true(metrics_has_validation(metrics));
    assert_true(metrics_has_sample(metrics));
    assert_file(&folder, START_LINE(null) STEP_LINES(0) STEP_LINES(1) VAL_LINE(2) HELLASWAG_LINE(2) SAMPLE_LINE(2)
                             CHECKPOINT_LINE(2));
    write_start(metrics, 2);
    write_step(metrics, 2);
    metrics_close(metrics);
    metrics = open_metrics(&folder, METRICS_RESUME, 0); /* start lines stay, wherever they are */
    assert_true(metrics_has_validation(metrics));
    assert_true(metrics_has_sample(metrics));
    metrics_close(metrics);
    assert_file(&folder,
                START_LINE(null) VAL_LINE(0) HELLASWAG_LINE(0) SAMPLE_LINE(0) CHECKPOINT_LINE(0) START_LINE(2));
}

static void test_resume_past_everything(void **state) {
    (void)state;
    Folder folder = new_folder("past");
    write_run(&folder);
    Metrics *metrics = open_metrics(&folder, METRICS_RESUME, 4);
    assert_false(metrics_has_validation(metrics)); /* there is none of step 4 */
    assert_false(metrics_has_sample(metrics));
    metrics_close(metrics);
    assert_file(&folder, START_LINE(null) STEP_LINES(0) STEP_LINES(1) STEP_LINES(2) STEP_LINES(3));
}

static void test_resume_without_a_file(void **state) {
    (void)state;
    Folder folder = new_folder("fresh");
    Metrics *metrics = open_metrics(&folder, METRICS_RESUME, 3);
    assert_false(metrics_has_validation(metrics));
    assert_false(metrics_has_sample(metrics));
    write_start(metrics, 3);
    metrics_close(metrics);
    assert_file(&folder, START_LINE(3));
    assert_int_equal(access(test_path("fresh/metrics.jsonl.tmp"), F_OK), -1);
}

/* What a kill cut short goes, at whatever byte; so does what is no event. */
static void test_torn_line(void **state) {
    (void)state;
    Folder folder = new_folder("torn");
    static const char torn[] = TRAIN_LINE(1), whole[] = START_LINE(null) TRAIN_LINE(0);
    for (size_t length = 0; length < sizeof torn - 1; length++)
        for (int mode = METRICS_RESUME; mode <= METRICS_APPEND; mode++) {
            char *text = format_string("%s%.*s", whole, (int)length, torn);
            test_write_text(folder.file, text);
            Metrics *metrics = open_metrics(&folder, (MetricsMode)mode, 5);
            write_start(metrics, 5);
            metrics_close(metrics);
            assert_file(&folder, START_LINE(null) TRAIN_LINE(0) START_LINE(5));
            free(text);
        }
    test_write_text(folder.file,
                    START_LINE(null) "\n[1]\n{\"event\":7,\"step\":0}\nnot JSON\n{\"step\":0}\n" TRAIN_LINE(0));
    metrics_close(open_metrics(&folder, METRICS_RESUME, 5));
    assert_file(&folder, START_LINE(null) TRAIN_LINE(0));
}

static void test_append(void **state) {
    (void)state;
    Folder folder = new_folder("append");
    write_run(&folder);
    char *before = test_read_file(folder.file, NULL);
    Metrics *metrics = open_metrics(&folder, METRICS_APPEND, -1);
    assert_file(&folder, before);
    metrics_validation(metrics, 4, 3.25, NULL, 64);
    metrics_close(metrics);
    char *expected = format_string("%s%s", before, VAL_LINE(4));
    assert_file(&folder, expected);
    free(before);
    free(expected);
}

/* ---- what is refused ---- */

/* A second run is refused in every mode and changes nothing; also where the first one has itself gone on from an older
 * run, and so writes to a file that replaced another. */
static void test_lock(void **state) {
    (void)state;
    Folder folder = new_folder("lock");
    for (int first = METRICS_NEW; first <= METRICS_APPEND; first++) {
        write_run(&folder);
        Metrics *metrics = open_metrics(&folder, (MetricsMode)first, 2);
        char *before = test_read_file(folder.file, NULL);
        for (int second = METRICS_NEW; second <= METRICS_APPEND; second++)
            refuse_to_open(folder.path, (MetricsMode)second, "is being written by another run");
        assert_file(&folder, before);
        metrics_checkpoint(metrics, 2, "c");
        char *expected = format_string("%s%s", before, CHECKPOINT_LINE(2));
        assert_file(&folder, expected);
        metrics_close(metrics);
        metrics_close(open_metrics(&folder, METRICS_APPEND, 0)); /* the lock ends with the run */
        free(before);
        free(expected);
    }
}

static void test_no_folder(void **state) {
    (void)state;
    for (int mode = METRICS_NEW; mode <= METRICS_APPEND; mode++)
        refuse_to_open(test_path("nowhere"), (MetricsMode)mode, "nowhere/metrics.jsonl: No such file");
    Folder folder = new_folder("blocked");
    assert_int_equal(mkdir(folder.file, 0777), 0);
    refuse_to_open(folder.path, METRICS_NEW, "choose another train.out_dir");
}

static void write_beyond_limit(void *context) {
    struct rlimit limit = {100, 100};
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return;
    for (int64_t step = 0; step < 100; step++) write_step(context, step);
    if (metrics_failure(context)) die("%s", metrics_failure(context));
}

/* A disk that is full, as far as the file can tell. */
static void test_full_disk(void **state) {
    (void)state;
    Folder folder = new_folder("full");
    Metrics *metrics = open_metrics(&folder, METRICS_NEW, 0);
    assert_dies(write_beyond_limit, metrics, "cannot write ");
    assert_dies(write_beyond_limit, metrics, "full/metrics.jsonl: File too large");
    char *text = test_read_file(folder.file, NULL);
    assert_int_equal(strlen(text), 100); /* nothing follows the line that did not fit */
    free(text);
    assert_null(metrics_failure(metrics)); /* of this process */
    assert_null(metrics_failure(NULL));
    metrics_close(metrics);
}

/* A disk that is full for a while. */
static void test_lines_that_wait(void **state) {
    (void)state;
    Folder folder = new_folder("waiting");
    Metrics *metrics = open_metrics(&folder, METRICS_NEW, 0);
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    limit = (struct rlimit){100, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    write_step(metrics, 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_null(metrics_failure(metrics)); /* the second attempt succeeds */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    write_step(metrics, 1);
    assert_non_null(metrics_failure(metrics));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    write_step(metrics, 2);
    assert_non_null(metrics_failure(metrics)); /* the run has been told to stop */
    metrics_close(metrics);
    signal(SIGXFSZ, handler);
    Folder sound = new_folder("sound");
    metrics = open_metrics(&sound, METRICS_NEW, 0);
    for (int64_t step = 0; step < 3; step++) write_step(metrics, step);
    metrics_close(metrics);
    char *text = test_read_file(folder.file, NULL), *expected = test_read_file(sound.file, NULL);
    assert_string_equal(text, expected);
    free(text);
    free(expected);
}

/* ---- for people ---- */

/* What a function prints, run in a child process; the caller frees it. */
static char *printed(void (*function)(Console *console), bool silent, bool is_terminal) {
    char *path = checked_strdup(test_path("printed.txt"));
    int status;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen(path, "w", stdout)) _exit(1);
        Console console;
        console_open(&console, silent, true);
        console.is_terminal = is_terminal;
        function(&console);
        fflush(stdout);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    char *text = test_read_file(path, NULL);
    free(path);
    return text;
}

static void print_some(Console *console) {
    const StepReport report = {9, 3.14159, 6e-4, 1.25, 1024, 250.0, 4095.6, -1.0, {0}, 200.0, 1, NULL};
    console_row(console, "name", "%d of %s", 3, "them");
    console_start(console, 5);
    console_step(console, 8, 100, NULL);
    console_step(console, 9, 10, &report);
    console_line(console, "done in %s", "no time");
}

static void test_console_to_a_file(void **state) {
    (void)state;
    char *text = printed(print_some, false, false);
    assert_string_equal(text, "  name       3 of them\n"
                              "step      9/10 | loss  3.1416 | lr 6.00e-04 | norm  1.250 |    250 ms | 4,096 tok/s | "
                              "0s left\n"
                              "done in no time\n");
    free(text);
}

static void test_silent_console(void **state) {
    (void)state;
    char *text = printed(print_some, true, false);
    assert_string_equal(text, "");
    free(text);
}

/* A progress line is rewritten in place and wiped by the next real one. */
static void test_console_on_a_terminal(void **state) {
    (void)state;
    char *text = printed(print_some, false, true), *progress = strstr(text, "\r\033[Kstep      8/100 | ");
    assert_non_null(progress);
    assert_null(memchr(progress, '\n', strcspn(progress, "|")));
    assert_non_null(strstr(progress, " left\r\033[Kstep      9/10 | loss"));
    assert_non_null(strstr(progress, "0s left\ndone in no time\n")); /* nothing left to wipe */
    free(text);
}

/* ---- a rank's own time ---- */

/* Reading counts, waiting for others does not, and each report begins anew. */
static void test_rank_time(void **state) {
    (void)state;
    Error error;
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, 1, &error);
    Comm *comm = comm_open_single();
    RankTime time = {0};
    int rank = -1;
    for (int report = 0; report < 2; report++) {
        rank_time_add_reading(&time, 3.0);
        rank_time_start(&time, be, comm);
        comm->waited += 1.0;
        rank_time_stop(&time, be, comm);
        comm->waited += 0.5; /* while nothing is computed */
        rank_time_add_reading(&time, 2.0);
        double ms = rank_time_slowest(&time, be, comm, 2, &rank);
        assert_true(ms >= 2000.0 && ms < 2400.0);
        assert_int_equal(rank, 0);
    }
    free(comm);
    be->close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_line),
        cmocka_unit_test(test_not_a_number),
        cmocka_unit_test(test_numbers_come_back),
        cmocka_unit_test(test_strings_are_escaped),
        cmocka_unit_test(test_no_metrics),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_resume_past_everything),
        cmocka_unit_test(test_resume_without_a_file),
        cmocka_unit_test(test_torn_line),
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_no_folder),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_lines_that_wait),
        cmocka_unit_test(test_console_to_a_file),
        cmocka_unit_test(test_silent_console),
        cmocka_unit_test(test_console_on_a_terminal),
        cmocka_unit_test(test_rank_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
