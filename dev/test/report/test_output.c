/* test_output.c: runs whose output nobody can read: the reader of a pipe ends, the disk of a log file is full, a
 * standard stream is closed. The run goes on to its end, and its files hold what they should and nothing else. */
#include "dev/test/train/train_fixture.h"

#include <stdlib.h>
#include <string.h>

/* The run of that name came to its end, and every line of its metrics is one. */
static void assert_done(const char *name) {
    cJSON *log = train_log(name);
    assert_int_equal(log_last_step(log, "end"), 12);
    assert_int_equal(log_last_step(log, "train"), 11);
    assert_int_equal(log_last_step(log, "checkpoint"), 12);
    cJSON_Delete(log);
}

static int count_of(const char *text, const char *part) {
    int count = 0;
    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part)) count++;
    return count;
}

/* A pipe whose reader has ended before the run begins: of `| head` it depends on the machine when that is. */
static void test_reader_that_ends(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    const char *pipe = test_path("pipe");
    assert_run(test_run("mkfifo '%s'", pipe), 0, "");
    CommandResult *result = train_run(&launch, "piped", "3<>'%s' >'%s' 3<&-", pipe, pipe);
    assert_run(result, EXIT_DONE, "warning: cannot write to standard output: Broken pipe; the program goes on");
    assert_int_equal(count_of(result->output, "warning"), 1);
    assert_done("piped");
}

static void test_full_log(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    CommandResult *result = train_run(&launch, "full_log", "> /dev/full");
    assert_run(result, EXIT_DONE, "train_gpt2: warning: cannot write to standard output: No space left on device");
    assert_int_equal(count_of(result->output, "warning"), 1);
    assert_done("full_log");
    assert_run(train_run(&launch, "full_errors", "2> /dev/full > /dev/full"), EXIT_DONE, "");
    assert_done("full_errors");
}

/* What a person or a script asks for must arrive whole. */
static void test_full_answers(void **state) {
    (void)state;
    static const char *const questions[] = {"--help", "--version", "--list_optimizers"};
    const char *folder = getenv("MARS_BIN");
    for (size_t i = 0; i < ARRAY_LENGTH(questions); i++)
        assert_run(test_run("'%s/train_gpt2' %s > /dev/full", folder ? folder : ".", questions[i]), EXIT_FAILED,
                   "cannot write to standard output: No space left on device");
}

/* metrics.jsonl must not become standard output. */
static void test_closed_streams(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    assert_run(train_run(&launch, "no_output", ">&-"), EXIT_DONE,
               "cannot write to standard output: Bad file descriptor");
    assert_done("no_output");
    assert_run(train_run(&launch, "no_streams", ">&- 2>&- <&-"), EXIT_DONE, "");
    assert_done("no_streams");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reader_that_ends),
        cmocka_unit_test(test_full_log),
        cmocka_unit_test(test_full_answers),
        cmocka_unit_test(test_closed_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
