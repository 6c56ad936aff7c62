/* test_resume.c: runs that are stopped, killed, cut off from their disk or find their checkpoint damaged. However it
 * happened, the run that goes on must end with the losses and the bits of one that was never stopped, and every step
 * must be reported once. */
#include "dev/test/train/train_fixture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "dev/test/model/small_model.h"
#include "util/files.h"

/* A run that does not end by itself before a signal reaches it, however slow the machine. */
static const char endless[] = "--max_iters=1000000";

/* The intervals are such that stops fall everywhere between them. */
static const char intervals[] = "--batch_size=1 --eval_interval=7 --checkpoint_interval=11";

static Launch small_run(int processes, const char *faults) {
    return (Launch){.config = train_small_config(), .processes = processes, .faults = faults};
}

static void pause_for(double seconds) {
    struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

/* Waits for a run that must end with `status`. */
static void assert_ends(pid_t process, const char *name, int status) {
    int ended = train_wait(process);
    if (ended == status) return;
    char *output = test_read_file(test_path("%s.txt", name), NULL);
    fail_msg("exit status %d, expected %d; the output is:\n%s", ended, status, output);
}

/* The run came to the end that the run `expected_name` came to. */
static void assert_as_never_stopped(const char *name, const char *expected_name) {
    cJSON *log = train_log(name), *expected = train_log(expected_name);
    assert_same_curve(log, expected);
    assert_same_checkpoints(name, expected_name);
    assert_int_equal(log_last_step(log, "end"), log_last_step(expected, "end"));
    assert_string_equal(small_latest(test_path("%s", name)), small_latest(test_path("%s", expected_name)));
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

static void assert_reason(const char *name, const char *reason) {
    cJSON *log = train_log(name);
    const cJSON *last = cJSON_GetArrayItem(log, cJSON_GetArraySize(log) - 1);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(last, "reason")), reason);
    cJSON_Delete(log);
}

/* Step of the checkpoint that `latest` names; 0 where there is none. */
static int saved_step(const char *name) {
    const char *latest = small_latest(test_path("%s", name));
    return latest[0] ? atoi(latest + strlen("step_")) : 0;
}

/* Lets a run that was stopped go on for some steps more, and one that never was go as far: they must be the same. */
static void assert_goes_on(const char *name, int processes, const char *arguments) {
    Launch launch = small_run(processes, NULL);
    int end = saved_step(name) + 15;
    char *straight = format_string("%s_straight", name);
    train(&launch, name, "--init_from=auto --max_iters=%d %s", end, arguments);
    train(&launch, straight, "--max_iters=%d %s", end, arguments);
    assert_reason(name, "done");
    assert_as_never_stopped(name, straight);
    free(straight);
}

/* Sends a signal to a run in its step 7 or soon after: it must save and exit with 0. */
static void stop(const char *name, int processes, const char *faults, int signal_number, const char *arguments) {
    Launch launch = small_run(processes, faults);
    pid_t process = train_start(&launch, name, "%s %s", endless, arguments);
    train_wait_for(process, name, "train", 6);
    kill(process, signal_number);
    assert_ends(process, name, EXIT_DONE);
    assert_reason(name, "stopped");
    cJSON *log = train_log(name);
    int stopped_at = log_last_step(log, "end");
    assert_int_equal(log_last_step(log, "checkpoint"), stopped_at);
    assert_int_equal(log_last_step(log, "train"), stopped_at - 1);
    assert_int_equal(saved_step(name), stopped_at);
    cJSON_Delete(log);
}

static void test_stopped_by_each_signal(void **state) {
    (void)state;
    const int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGHUP, SIGXCPU};
    for (size_t i = 0; i < ARRAY_LENGTH(signals); i++) {
        char *name = format_string("signal_%d", signals[i]);
        stop(name, 0, NULL, signals[i], intervals);
        assert_goes_on(name, 0, intervals);
        free(name);
    }
}

/* UCX, which MPI loads, starts a thread that does not block these signals. */
static void test_stopped_with_threads_of_libraries(void **state) {
    (void)state;
    const int signals[] = {SIGTERM, SIGHUP, SIGINT};
    for (size_t i = 0; i < ARRAY_LENGTH(signals); i++) {
        char *name = format_string("ucx_%d", signals[i]);
        stop(name, 0, "FAULT_LIKE_UCX=1", signals[i], intervals);
        free(name);
    }
}

/* nohup starts a program with SIGHUP ignored: the end of the terminal is then not even a reason to stop; not either if
 * a library handles SIGHUP. */
static void test_hangup_under_nohup(void **state) {
    (void)state;
    const char *const faults[] = {NULL, "FAULT_LIKE_UCX=1"};
    for (size_t i = 0; i < ARRAY_LENGTH(faults); i++) {
        Launch launch = small_run(0, faults[i]);
        char *name = format_string("nohup_%zu", i);
        void (*handler)(int) = signal(SIGHUP, SIG_IGN);
        pid_t process = train_start(&launch, name, "%s --checkpoint_interval=0", endless);
        signal(SIGHUP, handler);
        train_wait_for(process, name, "train", 2);
        kill(process, SIGHUP);
        cJSON *log = train_log(name);
        train_wait_for(process, name, "train", log_last_step(log, "train") + 2);
        cJSON_Delete(log);
        kill(process, SIGTERM);
        assert_ends(process, name, EXIT_DONE);
        free(name);
    }
}

/* With a validation before every step, the stop is always at one: it is left out for the sake of a fast stop, and must
 * be made up for. */
static void test_stopped_where_a_validation_is_due(void **state) {
    (void)state;
    const char *arguments = "--eval_interval=1 --checkpoint_interval=0 --order=shuffled";
    stop("validating", 0, NULL, SIGTERM, arguments);
    assert_goes_on("validating", 0, arguments);
}

/* A stop in the last step leaves a run without its last validation, which resuming makes up for. */
static void test_stopped_in_the_last_step(void **state) {
    (void)state;
    const char *arguments = only_small_sizes() ? "--max_iters=1 --warmup_iters=0 --total_batch_size=2000"
                                               : "--max_iters=1 --warmup_iters=0 --total_batch_size=6000";
    Launch launch = small_run(0, NULL);
    pid_t process = train_start(&launch, "last", "%s", arguments);
    train_wait_for(process, "last", "val", 0);
    kill(process, SIGTERM);
    assert_ends(process, "last", EXIT_DONE);
    train(&launch, "last", "--init_from=resume %s", arguments);
    train(&launch, "last_straight", "%s", arguments);
    assert_as_never_stopped("last", "last_straight");
}

static void test_stopped_under_mpirun(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    stop("pair", 2, NULL, SIGUSR1, intervals);
    assert_goes_on("pair", 2, intervals);
}

/* mpirun answers SIGTERM by killing its children about a second later, here in the middle of a save. */
static void test_mpirun_is_impatient(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    const char *arguments = "--batch_size=1 --checkpoint_interval=0";
    stop("impatient", 2, NULL, SIGUSR1, arguments);
    int step = saved_step("impatient");
    Launch slow = small_run(2, "FAULT_SLOW_SYNC=2");
    pid_t process = train_start(&slow, "impatient", "--init_from=resume %s %s", endless, arguments);
    train_wait_for(process, "impatient", "train", step + 5);
    kill(process, SIGTERM);
    assert_int_not_equal(train_wait(process), EXIT_DONE);
    assert_int_equal(saved_step("impatient"), step);
    assert_goes_on("impatient", 2, arguments);
}

/* The first Ctrl-C asks for a stop, the second one does not wait for the save to end. */
static void test_second_interrupt(void **state) {
    (void)state;
    Launch slow = small_run(0, "FAULT_SLOW_SYNC=1000");
    pid_t process = train_start(&slow, "interrupted", "%s --checkpoint_interval=0", endless);
    train_wait_for(process, "interrupted", "train", 2);
    kill(process, SIGINT);
    while (!files_is_folder(test_path("interrupted/checkpoints"))) pause_for(0.01);
    kill(process, SIGINT);
    assert_ends(process, "interrupted", 128 + SIGINT);
    assert_goes_on("interrupted", 0, "");
}

/* Calls `check` for each of the names in `names`, and returns how many there are. */
static int for_each_name(const char *names, void (*check)(void *context, const char *name), void *context) {
    char *copy = checked_strdup(names), *rest = copy;
    int count = 0;
    for (char *name; (name = strsep(&rest, " "));)
        if (*name) check(context, name), count++;
    free(copy);
    return count;
}

typedef struct StateSearch {
    const SafetensorsFile *file;
    const Tensor *tensor;
} StateSearch;

/* A star after the name: a vector with a number for each row, or column where there are fewer rows. */
static void assert_has_state(void *context, const char *state) {
    const StateSearch *search = context;
    const Tensor *tensor = search->tensor;
    bool is_vector = ends_with(state, "*");
    char *name = format_string("%.*s.%s", (int)strcspn(state, "*"), state, tensor->name);
    const SafetensorsEntry *entry = safetensors_find(search->file, name);
    if (!entry) fail_msg("%s does not hold %s", search->file->path, name);
    assert_int_equal(entry->elements, is_vector ? (size_t)max_i64(tensor->rows, tensor->columns) : tensor->size);
    assert_int_equal(entry->dimensions, is_vector || tensor->role == ROLE_VECTOR ? 1 : 2);
    free(name);
}

static void assert_has_scalars(void *context, const char *name) {
    const cJSON *numbers = cJSON_GetObjectItemCaseSensitive(context, name), *number;
    if (!numbers) fail_msg("there are no numbers scalars.%s", name);
    int set = 0; /* not of the tensors that another rule is for */
    cJSON_ArrayForEach(number, numbers) {
        assert_true(number->valuedouble >= 0.0);
        set += number->valuedouble > 0.0;
    }
    assert_true(set > 0);
}

static const char *states_of(const TrainVariant *variant, TensorRole role) {
    return variant->states[role == ROLE_MATRIX ? 0 : role == ROLE_VECTOR ? 2 : 1];
}

/* The newest checkpoint of a run holds the states that the optimizer has, of the tensors that have them, no more. */
static void assert_has_all_states(const TrainVariant *variant, const char *run) {
    TensorTable table = small_table(1, 32, 256, 32, false);
    SafetensorsFile file;
    Error error;
    if (!safetensors_open(&file, test_path("%s/checkpoints/latest/optimizer.safetensors", run), &error))
        fail_msg("%s", error.text);
    int count = 0;
    for (int i = 0; i < table.count; i++) {
        StateSearch search = {&file, &table.tensors[i]};
        count += for_each_name(states_of(variant, table.tensors[i].role), assert_has_state, &search);
    }
    assert_int_equal(file.count, count);
    safetensors_close(&file);
    char *text = test_read_file(test_path("%s/checkpoints/latest/trainer.json", run), NULL);
    cJSON *trainer = cJSON_Parse(text), *scalars = cJSON_GetObjectItemCaseSensitive(trainer, "scalars");
    assert_int_equal(cJSON_GetArraySize(scalars), for_each_name(variant->scalars, assert_has_scalars, scalars));
    cJSON_Delete(trainer);
    free(text);
    tensor_table_free(&table);
}

/* Ten steps in two runs and in one. */
static void assert_resumes(const TrainVariant *variant, int processes) {
    Launch launch = small_run(processes, NULL);
    char *name = format_string("%s_%d", variant->name, processes), *straight = format_string("%s_straight", name);
    char *arguments = format_string(
        "%s" TRAIN_WHOLE_SCHEDULE "--batch_size=1 --eval_interval=5 --checkpoint_interval=0", variant->arguments);
    train(&launch, straight, "%s --max_iters=10", arguments);
    train(&launch, name, "%s --max_iters=5", arguments);
    train(&launch, name, "%s --max_iters=10 --init_from=resume", arguments);
    assert_as_never_stopped(name, straight);
    assert_has_all_states(variant, straight);
    free(name), free(straight), free(arguments);
}

static void test_every_optimizer(void **state) {
    (void)state;
    for (const TrainVariant *variant = train_variants; variant->name; variant++)
        if (train_has_time_for(variant)) assert_resumes(variant, 0);
}

static void test_optimizers_under_mpirun(void **state) {
    (void)state;
    if (!train_has_mpi() || only_small_sizes()) skip();
    int found = 0;
    for (const TrainVariant *variant = train_variants; variant->name; variant++)
        if (train_stands_for_others(variant)) assert_resumes(variant, 3), found++;
    assert_int_equal(found, 5);
}

/* Every other time the run is allowed to get ahead first. */
static void test_killed_at_random(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    uint32_t random = 12345;
    for (int i = 0; i < 8; i++) {
        int step = saved_step("killed");
        pid_t process = train_start(&launch, "killed", "--init_from=auto %s %s", endless, intervals);
        if (i % 2 == 0) train_wait_for(process, "killed", "train", step + 12);
        random = random * 1664525 + 1013904223;
        pause_for((i % 2 == 0 ? 0.0 : 0.05) + 0.35 * (double)random / 0x1p32);
        kill(process, SIGKILL);
        assert_ends(process, "killed", 128 + SIGKILL);
    }
    assert_true(saved_step("killed") > 0);
    assert_goes_on("killed", 0, intervals);
}

/* A run of `arguments` that nothing ever stopped, run where it has not been yet. */
static void never_stopped(const char *name, const char *arguments) {
    Launch launch = small_run(0, NULL);
    if (!files_is_folder(test_path("%s", name))) train(&launch, name, "%s", arguments);
}

/* Kills a run before its 1st sync, the run that goes on before its 2nd, and so on until one gets through. Saves have 8
 * syncs and 2 renames, and cutting metrics.jsonl back has one of each. */
static void kill_at_each(const char *call, int least) {
    const char *arguments = "--max_iters=24 --eval_interval=3 --checkpoint_interval=2";
    char *name = format_string("killed_at_each_%s", call);
    never_stopped("often_saved", arguments);
    for (int n = 1, status = -1; status != EXIT_DONE; n++) {
        char *faults = format_string("FAULT_KILL_AT_%s=%d", call, n);
        Launch launch = small_run(0, faults);
        CommandResult *result = train_run(&launch, name, "--init_from=auto %s", arguments);
        status = result->status;
        if (status != EXIT_DONE && status != 128 + SIGKILL) fail_msg("exit status %d: %s", status, result->output);
        if (status == EXIT_DONE && n <= least) fail_msg("only %d runs were killed", n - 1);
        free(faults);
    }
    assert_as_never_stopped(name, "often_saved");
    free(name);
}

static void test_killed_at_each_sync(void **state) {
    (void)state;
    kill_at_each("SYNC", 9);
}

static void test_killed_at_each_rename(void **state) {
    (void)state;
    kill_at_each("RENAME", 3);
}

static void test_disk_full_while_saving(void **state) {
    (void)state;
    never_stopped("short", "");
    Launch full = small_run(0, "FAULT_WRITE_LIMIT=400000"), roomy = small_run(0, NULL);
    CommandResult *result = train_run(&full, "full", " ");
    assert_run(result, EXIT_FAILED, "train_gpt2: error: cannot save step 6: ");
    assert_run(result, EXIT_FAILED, "No space left on device");
    assert_string_equal(small_latest(test_path("full")), "step_00000003");
    assert_names(test_path("full/checkpoints"), "latest step_00000003 ");
    assert_run(train_run(&roomy, "full", "--init_from=resume"), EXIT_DONE, "resumed from step 3");
    assert_as_never_stopped("full", "short");
}

/* Limits the size of files that children write. */
static void limit_file_size(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Known before the first step: that no checkpoint fits. */
static void test_disk_without_room_for_a_checkpoint(void **state) {
    (void)state;
    Launch little = small_run(0, "FAULT_SPACE_LEFT=200000"), enough = small_run(0, "FAULT_SPACE_LEFT=300000");
    CommandResult *result = train_run(&little, "little_room", "--max_iters=2 --checkpoint_interval=0");
    assert_run(result, EXIT_DONE,
               "warning: train.out_dir: a checkpoint takes about 0.000261 GB, and there are 0.0002 GB");
    assert_true(strstr(result->output, "warning: train.out_dir") < strstr(result->output, "step "));
    result = train_run(&enough, "enough_room", "--max_iters=2 --checkpoint_interval=0");
    assert_run(result, EXIT_DONE, "");
    assert_null(strstr(result->output, "warning: train.out_dir"));
    result = train_run(&little, "enough_room", "--eval_only=true");
    assert_run(result, EXIT_DONE, "");
    assert_null(strstr(result->output, "warning: train.out_dir"));
}

/* As on a full disk, which the checkpoints are on, too: half a line at the end of the file must not stay there. */
static void test_disk_full_while_reporting(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    size_t bytes;
    never_stopped("sixes", "--eval_interval=6");
    train(&launch, "unreported", "--eval_interval=6 --max_iters=6" TRAIN_WHOLE_SCHEDULE);
    free(test_read_file(test_path("unreported/metrics.jsonl"), &bytes));
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN); /* the write fails instead, as on a full disk */
    limit_file_size(bytes + 1500);
    CommandResult *result =
        train_run(&launch, "unreported", "--init_from=resume --eval_interval=6 --checkpoint_interval=0");
    limit_file_size(before.rlim_cur);
    signal(SIGXFSZ, handler);
    assert_run(result, EXIT_FAILED, "train_gpt2: error: cannot save step ");
    assert_run(result, EXIT_FAILED, ": File too large");
    train(&launch, "unreported", "--init_from=resume --eval_interval=6");
    assert_as_never_stopped("unreported", "sixes");
}

/* Makes the run's metrics longer than its checkpoints by lines that a resumed run keeps, and returns the length. */
static size_t lengthen_metrics(const char *name) {
    enum { LINES = 60000 };
    const char *path = test_path("%s/metrics.jsonl", name);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    for (int i = 0; i < LINES; i++) fputs("{\"event\":\"start\",\"config\":{}}\n", file);
    assert_int_equal(fclose(file), 0);
    size_t bytes;
    free(test_read_file(path, &bytes));
    return bytes;
}

/* Where only the metrics cannot be written, the run saves before it fails. */
static void test_metrics_that_fail_stop_the_run(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    train(&launch, "mute", "--max_iters=6 --checkpoint_interval=0" TRAIN_WHOLE_SCHEDULE);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit_file_size(lengthen_metrics("mute") + 1500);
    CommandResult *result = train_run(&launch, "mute", "--init_from=resume --checkpoint_interval=0 %s", endless);
    limit_file_size(before.rlim_cur);
    int step = saved_step("mute");
    if (step <= 6) fail_msg("nothing was saved: %s", result->output);
    assert_run(result, EXIT_FAILED, "train_gpt2: error: cannot write ");
    assert_run(result, EXIT_FAILED, "mute/metrics.jsonl: File too large; the run stopped for that after step ");
    train(&launch, "mute", "--init_from=resume --checkpoint_interval=0 --max_iters=%d", step + 5);
    assert_reason("mute", "done");
}

static void flip_bit(const char *path) {
    size_t bytes;
    char *content = test_read_file(path, &bytes);
    content[bytes / 2] ^= 0x10;
    test_write_file(path, content, bytes);
    free(content);
}

static void test_damaged_checkpoints(void **state) {
    (void)state;
    const char *arguments = "--keep_checkpoints=3";
    Launch launch = small_run(0, NULL);
    train(&launch, "whole", "%s --max_iters=15", arguments);
    train(&launch, "damaged", "%s --max_iters=12", arguments);
    flip_bit(test_path("damaged/checkpoints/step_00000012/model.safetensors"));
    flip_bit(test_path("damaged/checkpoints/step_00000009/optimizer.safetensors"));
    CommandResult *result = train_run(&launch, "damaged", "%s --max_iters=15 --init_from=auto", arguments);
    assert_run(result, EXIT_DONE, "resumed from step 6");
    assert_run(result, EXIT_DONE, "train_gpt2: warning: passing over the checkpoint ");
    assert_run(result, EXIT_DONE, "step_00000012/model.safetensors is damaged");
    assert_run(result, EXIT_DONE, "step_00000009/optimizer.safetensors is damaged");
    assert_same_checkpoints("damaged", "whole");

    flip_bit(test_path("damaged/checkpoints/step_00000009/config.json"));
    flip_bit(test_path("damaged/checkpoints/step_00000012/trainer.json"));
    flip_bit(test_path("damaged/checkpoints/step_00000015/trainer.json"));
    const char *const ways[] = {"auto", "resume"};
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++) {
        result = train_run(&launch, "damaged", "%s --max_iters=20 --init_from=%s", arguments, ways[i]);
        assert_run(result, EXIT_FAILED, "train_gpt2: error: there is no whole checkpoint in ");
        assert_run(result, EXIT_FAILED, "step_00000015/trainer.json is damaged");
    }
    assert_names(test_path("damaged/checkpoints"), "latest step_00000009 step_00000012 step_00000015 ");
}

static void test_scratch_spares_checkpoints(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    train(&launch, "taken", "--max_iters=3");
    cJSON *before = train_log("taken");
    const char *const ways[] = {"scratch", "dev/golden/tiny_init.safetensors"};
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++)
        assert_run(train_run(&launch, "taken", "--init_from=%s", ways[i]), EXIT_FAILED,
                   "holds the checkpoints of an earlier run");
    cJSON *after = train_log("taken");
    assert_same_log(after, before);
    train(&launch, "taken", "--max_iters=4 --overwrite=true");
    assert_names(test_path("taken/checkpoints"), "latest step_00000003 step_00000004 ");
    cJSON_Delete(before);
    cJSON_Delete(after);
}

/* A run that replaces an earlier one and cannot start must not have removed it. */
static void test_overwrite_that_fails_removes_nothing(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    train(&launch, "precious", "--max_iters=3");
    CommandResult *result =
        train_run(&launch, "precious", "--overwrite=true --init_from=dev/golden/tiny_init.safetensors");
    assert_run(result, EXIT_FAILED, "the model expects");
    assert_names(test_path("precious/checkpoints"), "latest step_00000003 ");
    train(&launch, "precious", "--max_iters=4 --checkpoint_interval=0 --overwrite=true --init_from='%s'",
          test_path("precious/checkpoints/latest"));
    assert_names(test_path("precious/checkpoints"), "latest step_00000004 ");
}

static void test_nothing_to_resume(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    assert_run(train_run(&launch, "nothing", "--init_from=resume"), EXIT_FAILED, "holds no checkpoint");
    assert_false(files_is_folder(test_path("nothing")));
    assert_run(train_run(&launch, "nothing", "--init_from=auto"), EXIT_DONE, "started from scratch");
}

/* A run that is over is resumed without anything left to do. */
static void test_resumed_at_its_end(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    train(&launch, "over", " ");
    cJSON *expected = train_log("over");
    train(&launch, "over", "--init_from=resume");
    cJSON *log = train_log("over");
    assert_same_curve(log, expected);
    assert_reason("over", "done");
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

/* While a run is writing to a folder, no other may start in it, in any way; and the first one notices nothing. */
static void test_two_runs_in_one_folder(void **state) {
    (void)state;
    Launch launch = small_run(0, NULL);
    const char *const ways[] = {"--eval_only=true", "--init_from=resume", "--init_from=auto", "--overwrite=true"};
    train(&launch, "crowded", " ");
    pid_t process = train_start(&launch, "crowded", "--init_from=resume --checkpoint_interval=0 %s", endless);
    train_wait_for(process, "crowded", "train", 15);
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++) {
        CommandResult *result = train_run(&launch, "crowded", "--max_iters=20 %s", ways[i]);
        if (result->status != EXIT_FAILED || !strstr(result->output, "is being written by another run"))
            fail_msg("with %s: exit status %d\n%s", ways[i], result->status, result->output);
        assert_names(test_path("crowded/checkpoints"), "latest step_00000009 step_00000012 ");
    }
    kill(process, SIGTERM);
    assert_ends(process, "crowded", EXIT_DONE);
    assert_reason("crowded", "stopped");
    cJSON *log = train_log("crowded");
    int steps = log_last_step(log, "end"), starts = 2;
    free(log_numbers(log, "train", "loss", &steps));
    free(log_numbers(log, "start", "processes", &starts));
    cJSON_Delete(log);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stopped_by_each_signal),
        cmocka_unit_test(test_stopped_with_threads_of_libraries),
        cmocka_unit_test(test_hangup_under_nohup),
        cmocka_unit_test(test_stopped_where_a_validation_is_due),
        cmocka_unit_test(test_stopped_in_the_last_step),
        cmocka_unit_test(test_stopped_under_mpirun),
        cmocka_unit_test(test_every_optimizer),
        cmocka_unit_test(test_optimizers_under_mpirun),
        cmocka_unit_test(test_mpirun_is_impatient),
        cmocka_unit_test(test_second_interrupt),
        cmocka_unit_test(test_killed_at_random),
        cmocka_unit_test(test_killed_at_each_sync),
        cmocka_unit_test(test_killed_at_each_rename),
        cmocka_unit_test(test_disk_full_while_saving),
        cmocka_unit_test(test_disk_without_room_for_a_checkpoint),
        cmocka_unit_test(test_disk_full_while_reporting),
        cmocka_unit_test(test_metrics_that_fail_stop_the_run),
        cmocka_unit_test(test_damaged_checkpoints),
        cmocka_unit_test(test_scratch_spares_checkpoints),
        cmocka_unit_test(test_overwrite_that_fails_removes_nothing),
        cmocka_unit_test(test_nothing_to_resume),
        cmocka_unit_test(test_resumed_at_its_end),
        cmocka_unit_test(test_two_runs_in_one_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
