/* test_data_sets.c: the trainer with data sets that do not belong together, with patterns that match too much, and with
 * tokens that cannot be read in the middle of a run. */
#include "dev/test/train/train_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/data_sets.h"
#include "data/shard.h"
#include "dev/test/model/small_model.h"
#include "util/files.h"

static const char bytes_json[] = "{\"tokenizer\": \"bytes\", \"vocab_size\": 256}\n";
static const char gpt2_json[] = "{\"tokenizer\": \"gpt2\", \"vocab_size\": 50257}\n";
static const char other_json[] = "{\"tokenizer\": \"characters\", \"vocab_size\": 65}\n";

/* A folder with training and validation tokens of the golden set and this tokens.json (NULL: none). */
static void make_data(const char *folder, const char *description) {
    assert_run(test_run("mkdir -p '%s' && cd '%s' && rm -f tokens.json && cp \"$OLDPWD\"/dev/golden/tiny_train.bin "
                        "train_000000.bin && cp \"$OLDPWD\"/dev/golden/tiny_val.bin val_000000.bin",
                        test_path("%s", folder), test_path("%s", folder)),
               0, "");
    if (description) test_write_text(test_path("%s/tokens.json", folder), description);
}

/* A short run on these sets. */
static CommandResult *run_on(const char *train_files, const char *val_files, const char *more) {
    Launch launch = {.config = train_small_config()};
    return train_run(&launch, "run",
                     "--data.train='%s' --data.val='%s' --max_iters=1 --warmup_iters=0 "
                     "--overwrite=true %s",
                     test_path("%s", train_files), test_path("%s", val_files), more);
}

static void assert_silent(const CommandResult *result) {
    assert_run(result, EXIT_DONE, "");
    if (strstr(result->output, "warning")) fail_msg("there is a warning:\n%s", result->output);
}

/* ---- tokenizers ---- */

static void test_two_tokenizers_are_refused(void **state) {
    (void)state;
    make_data("bytes", bytes_json);
    make_data("more_bytes", bytes_json);
    make_data("other", other_json);
    make_data("unknown", NULL);
    make_data("gpt2", gpt2_json);
    CommandResult *result = run_on("bytes/train_*.bin", "other/val_*.bin", "");
    assert_run(result, EXIT_FAILED, "error: data.train and data.val: ");
    assert_run(result, EXIT_FAILED, "bytes/tokens.json says tokenizer \"bytes\" with 256 tokens, and ");
    assert_run(result, EXIT_FAILED, "other/tokens.json \"characters\" with 65: ");
    result = run_on("*/train_*.bin", "bytes/val_*.bin", "");
    assert_run(result, EXIT_FAILED, "error: data.train: ");
    assert_run(result, EXIT_FAILED, "use files of one tokenizer");
    assert_run(run_on("bytes/train_*.bin", "[bo][yt]*[es]*/val_*.bin", ""), EXIT_FAILED, "error: data.val: ");
    result = run_on("gpt2/train_*.bin", "gpt2/val_*.bin", "");
    assert_run(result, EXIT_FAILED, "error: data.train: ");
    assert_run(result, EXIT_FAILED, "a vocabulary of 50257, but model.vocab_size is 256; set it to 50257 or more");
    assert_silent(run_on("*bytes/train_*.bin", "bytes/val_*.bin", ""));
    assert_silent(run_on("[bu]*/train_*.bin", "unknown/val_*.bin", ""));
}

/* The tokenizer is known from the second folder on; a name without a size, and the reverse, are compared with what they
 * can be compared with. */
static void test_what_folders_record(void **state) {
    (void)state;
    static const struct {
        const char *texts[3], *error; /* "" for none */
    } cases[] = {
        {{NULL, bytes_json, bytes_json}, ""},
        {{"{}", "{\"tokenizer\": \"bytes\"}", "{\"vocab_size\": 256}"}, ""},
        {{"[1]", "{\"tokenizer\": \"bytes\"}", other_json}, "tokenizer \"bytes\" with 0 tokens, and "},
        {{"{\"vocab_size\": 256}", NULL, other_json}, "tokenizer \"\" with 256 tokens, and "},
        {{"{}", bytes_json, other_json}, "tokenizer \"bytes\" with 256 tokens, and "},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        TokenFiles files = {0};
        TokenOrigin origin = {0};
        Error error = {""};
        static const char *const folders[] = {"origin/0", "origin/1", "origin/2"};
        for (int k = 0; k < 3; k++) make_data(folders[k], cases[i].texts[k]);
        assert_true(token_files_add(&files, test_path("origin/?/train_*.bin"), &error));
        bool ok = token_origin_open(&origin, &files, &error);
        if (ok != !cases[i].error[0]) fail_msg("case %zu: %s", i, error.text);
        if (!ok && !strstr(error.text, cases[i].error)) fail_msg("'%s' has no '%s'", error.text, cases[i].error);
        if (i == 0) assert_string_equal(origin.folder, test_path("origin/1"));
        token_origin_close(&origin);
        token_files_free(&files);
    }
}

static void test_damaged_descriptions(void **state) {
    (void)state;
    make_data("damaged", "{\"tokenizer\": ");
    assert_run(run_on("damaged/train_*.bin", "damaged/val_*.bin", ""), EXIT_DONE,
               "damaged/tokens.json is no JSON: which tokenizer made the files next to it is not known");
    TokenizerRecord record;
    Error error;
    assert_true(tokenizer_read_record(&record, test_path("damaged"), &error));
    assert_true(record.is_there && !record.is_json && record.vocab_size == 0 && !record.name[0]);
    assert_true(tokenizer_read_record(&record, test_path("nowhere"), &error));
    assert_false(record.is_there);
}

/* A pattern of folders: the checkpoint gets the tokens.json that its files have. */
static void test_description_of_a_pattern_of_folders(void **state) {
    (void)state;
    make_data("parts/a", NULL);
    make_data("parts/b", bytes_json);
    make_data("parts/c", bytes_json);
    assert_silent(run_on("parts/?/train_*.bin", "parts/c/val_*.bin", ""));
    char *text = test_read_file(test_path("run/checkpoints/latest/tokens.json"), NULL);
    assert_string_equal(text, bytes_json);
    free(text);
}

/* prepare_data --inspect takes the tokenizer that the files have, wherever it is recorded. */
static void test_inspecting_files_of_folders(void **state) {
    (void)state;
    char *program = test_program("prepare_data");
    make_data("inspected/a", NULL);
    make_data("inspected/b", bytes_json);
    make_data("mixed/a", bytes_json);
    make_data("mixed/b", other_json);
    const char *inspected = test_path("inspected/?/train_*.bin"), *mixed = test_path("mixed/?/train_*.bin");
    assert_run(test_run("'%s' --inspect '%s'", program, inspected), EXIT_DONE, "tokens in all, each below 256 (bytes)");
    assert_run(test_run("'%s' --inspect '%s'", program, mixed), EXIT_FAILED, "use files of one tokenizer");
    assert_run(test_run("'%s' --inspect --tokenizer=bytes '%s'", program, mixed), EXIT_DONE, "256 (bytes)");
    assert_run(test_run("'%s' --inspect '%s'", program, test_path("mixed/?")), EXIT_FAILED, "which is a folder");
    free(program);
}

/* ---- patterns that match too much ---- */

static void test_training_on_validation_files(void **state) {
    (void)state;
    make_data("mine", bytes_json);
    assert_silent(run_on("mine/train_*.bin", "mine/val_*.bin", ""));
    CommandResult *result = run_on("mine/*.bin", "mine/val_*.bin", "");
    assert_run(result, EXIT_DONE, "warning: data.train matches both ");
    assert_run(result, EXIT_DONE, "mine/train_000000.bin and ");
    assert_run(result, EXIT_DONE, "such as ");
    assert_run(result, EXIT_DONE, "mine/train_*.bin\n");
    assert_run(run_on("mine/train_*.bin", "mine/*.bin", ""), EXIT_DONE, "warning: data.val matches both ");
    assert_int_equal(symlink("train_000000.bin", test_path("mine/alias.bin")), 0);
    assert_run(run_on("mine/train_*.bin", "mine/alias.bin", ""), EXIT_DONE,
               "mine/train_000000.bin is in data.train too: the validation loss is that of tokens which ");
    /* These names are of neither kind, and of one folder each. */
    make_data("retrained", NULL);
    assert_run(test_run("cd '%s' && mv val_000000.bin interval.bin", test_path("retrained")), 0, "");
    assert_silent(run_on("retrained/*.bin", "mine/val_*.bin", ""));
}

/* ---- tokens that cannot be read in the middle of a run ---- */

/* The order is sequential: step t of 12 sequences of 32 tokens takes tokens 384 t to 384 (t + 1). Token LATE is in step
 * 3 and in none of the windows that are looked at before the run. Of two processes the second one reads it. */
enum { STREAM = 20000, LATE = 1400, TOO_LARGE = 300 };
static const char steady[] = "--order=sequential --checkpoint_interval=0 --warmup_iters=0";

static void write_stream(const char *path, uint16_t late) {
    struct {
        int32_t header[SHARD_HEADER_INTS];
        uint16_t tokens[STREAM];
    } *file = checked_calloc(1, sizeof *file, "a shard");
    file->header[0] = SHARD_MAGIC, file->header[1] = SHARD_VERSION, file->header[2] = STREAM;
    for (int i = 0; i < STREAM; i++) file->tokens[i] = (uint16_t)(7 * i % 251);
    file->tokens[LATE] = late;
    test_write_file(path, file, sizeof *file);
    free(file);
}

/* The run stops after `step` steps, as if they were all that was asked for, and goes on when the file is right. */
static void check_late_token(int processes, int step, const char *arguments) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    const char *path = test_path("stream.bin");
    write_stream(path, TOO_LARGE);
    CommandResult *result =
        train_run(&launch, "late", "--overwrite=true --data.train='%s' %s --max_iters=6 %s", path, steady, arguments);
    assert_run(result, EXIT_FAILED, "error: data.train: ");
    char *message = format_string("stream.bin: token 1400 of the file is 300, but vocab_size is 256; the file is "
                                  "damaged, or another tokenizer made it; download the file or make it again; step %d "
                                  "is saved: put the file right and go on with --init_from=resume",
                                  step);
    assert_run(result, EXIT_FAILED, message);
    free(message);
    cJSON *log = train_log("late");
    const cJSON *last = cJSON_GetArrayItem(log, cJSON_GetArraySize(log) - 1);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(last, "reason")), "failed");
    assert_int_equal(log_last_step(log, "end"), step);
    assert_int_equal(log_last_step(log, "train"), step - 1);
    assert_int_equal(log_last_step(log, "checkpoint"), step);
    cJSON_Delete(log);
    write_stream(path, 0);
    train(&launch, "short", "--overwrite=true --data.train='%s' %s --max_iters=%d %s", path, steady, step, arguments);
    assert_same_checkpoints("late", "short");
    train(&launch, "late", "--init_from=resume --data.train='%s' %s --max_iters=6 %s", path, steady, arguments);
    train(&launch, "straight", "--overwrite=true --data.train='%s' %s --max_iters=6 %s", path, steady, arguments);
    assert_same_checkpoints("late", "straight");
}

static void test_a_late_token(void **state) {
    (void)state;
    check_late_token(0, 3, "--optimizer.name=mars-adamw");
    check_late_token(0, 2, "--optimizer.name=mars-adamw --is_approx=false"); /* step 2 needs the batch of step 3 too */
    if (strcmp(test_device(), "cpu") != 0 || !train_has_mpi()) skip();
    check_late_token(2, 2, "--optimizer.name=mars-m --is_approx=false");
}

/* Where the steps that are asked for do not need it, nobody looks at it. */
static void test_a_token_after_the_last_step(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    write_stream(test_path("stream.bin"), TOO_LARGE);
    const char *arguments = "--overwrite=true --data.train='%s' --max_iters=%d %s %s";
    const char *path = test_path("stream.bin"), *exact = "--optimizer.name=mars-adamw --is_approx=false";
    train(&launch, "before", arguments, path, 3, steady, "");
    train(&launch, "before", arguments, path, 2, steady, exact);
    assert_run(train_run(&launch, "before", arguments, path, 3, steady, exact), EXIT_FAILED, "step 2 is saved");
}

/* In the first step there is nothing to save. */
static void test_a_token_in_the_first_step(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    write_stream(test_path("stream.bin"), TOO_LARGE);
    CommandResult *result = train_run(&launch, "first", "--data.train='%s' --order=sequential --total_batch_size=60",
                                      test_path("stream.bin"));
    assert_run(result, EXIT_FAILED, "or another tokenizer made it; download the file or make it again\n");
    assert_false(files_is_folder(test_path("first/checkpoints")));
}

/* The same of the validation set, by any process. */
static void check_validation(const char *name, int processes) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    write_stream(test_path("stream.bin"), 0);
    pid_t process = train_start(&launch, name,
                                "--data.val='%s' --eval_sequences=0 --max_iters=1000000 "
                                "--checkpoint_interval=0 --eval_interval=5",
                                test_path("stream.bin"));
    train_wait_for(process, name, "val", 0);
    assert_int_equal(truncate(test_path("stream.bin"), 30000), 0);
    int status = train_wait(process);
    char *output = test_read_file(test_path("%s.txt", name), NULL);
    if (status != EXIT_FAILED || !strstr(output, "error: data.val: ") || !strstr(output, "stream.bin shrank from ") ||
        !strstr(output, "is saved: put the file right"))
        fail_msg("exit status %d:\n%s", status, output);
    free(output);
    cJSON *log = train_log(name);
    int saved = log_last_step(log, "checkpoint");
    assert_true(saved > 0 && saved % 5 == 0 && saved == log_last_step(log, "end"));
    cJSON_Delete(log);
}

static void test_validation_that_cannot_be_read(void **state) {
    (void)state;
    check_validation("validation", 0);
    if (strcmp(test_device(), "cpu") != 0 || !train_has_mpi()) skip();
    check_validation("validation_of_two", 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_tokenizers_are_refused),
        cmocka_unit_test(test_what_folders_record),
        cmocka_unit_test(test_damaged_descriptions),
        cmocka_unit_test(test_description_of_a_pattern_of_folders),
        cmocka_unit_test(test_inspecting_files_of_folders),
        cmocka_unit_test(test_training_on_validation_files),
        cmocka_unit_test(test_a_late_token),
        cmocka_unit_test(test_a_token_after_the_last_step),
        cmocka_unit_test(test_a_token_in_the_first_step),
        cmocka_unit_test(test_validation_that_cannot_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
