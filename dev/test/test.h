/* test.h: what the tests share: cmocka, a scratch folder that goes away, running a command and reading what it
 * printed, and the one measure of error, ||a - b|| / ||b||. */
#ifndef MARS_DEV_TEST_TEST_H
#define MARS_DEV_TEST_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "util/base.h"

EXTERN_C_BEGIN

#include <cmocka.h> /* which does not say itself that it is C */

/* The device under test: $MARS_TEST_DEVICE, "cpu" where that is not set. */
const char *test_device(void);

/* Whether MARS_TEST_SMALL=1 limits the tests to their quick cases: sanitizers and an emulated GPU make them 2 to 20
 * times slower. Each path through the code under test should have a case that is left. */
bool only_small_sizes(void);

/* Whether a case of a product of cases (sizes x variants) is tested: each one; but where only small sizes are tested
 * one in `share`. `number` is such as size + variant, so that each size and each variant keeps some. */
bool has_its_turn(size_t number, size_t share);

/* A scratch folder of this test program, made on first use and removed when the program ends. */
const char *test_folder(void);

/* Path of a file in the scratch folder. One of 16 rotating buffers: copy it to keep it for long. */
const char *test_path(const char *format, ...) PRINTF_LIKE(1, 2);

/* The true path of a program of the folder $MARS_BIN (default: the repository's root), which the caller frees; ends
 * this one where it is missing. */
char *test_program(const char *name);

void test_write_file(const char *path, const void *data, size_t bytes);
void test_write_text(const char *path, const char *text);
/* The file's content with a 0 byte after it; the caller frees. Fails the test where the file cannot be read. */
char *test_read_file(const char *path, size_t *bytes);

typedef struct CommandResult {
    int status;         /* exit status, or 128 + signal */
    char output[65536]; /* standard output and standard error together, cut to fit */
} CommandResult;

/* Runs a shell command in the repository's root and waits for it. The result is static: the next call reuses it. */
CommandResult *test_run(const char *format, ...) PRINTF_LIKE(1, 2);

/* Skips the test if this machine cannot start the programs of this build: a test that an emulator runs (qemu-user)
 * starts other programs without it. */
void test_skip_without_programs(void);

/* Fails unless the command ended with `status` and its output holds `text`; shows both when it fails. */
void assert_run(const CommandResult *result, int status, const char *text);

/* Fails unless `text` holds each part of a list separated by '|', one after the other. */
void assert_parts(const char *text, const char *parts);

/* The same for a message to a user, of which the list has four parts: the file or key, what was found there, what was
 * expected, and what the user can do. */
void assert_four_parts(const char *message, const char *parts);

/* Fails unless function(context), called in a child process, ends the program with EXIT_FAILED and a message that
 * holds `text`: what die() does. */
void assert_dies(void (*function)(void *context), void *context, const char *text);

/* ||a - b|| / ||b||, in double; the norm of a where b is all zero. A NaN in either is infinitely wrong. */
double relative_error(const double *a, const double *b, size_t n);
double relative_error_float(const float *a, const float *b, size_t n);

/* Fails with both numbers and `what` in the message unless error <= limit. */
void assert_error_below(double error, double limit, const char *what);

EXTERN_C_END

#endif
