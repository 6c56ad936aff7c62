/* base.h: what every file of the project uses: error reporting, memory allocation, and the few macros that let one
 * header compile both as C and as C++ (device code is C++, the rest is C17).
 *
 * There are two ways to fail. If the caller can handle a failure, the function returns false and fills an Error.
 * Otherwise it calls die(), which prints what failed and what to do about it, and ends the whole job. */
#ifndef MARS_UTIL_BASE_H
#define MARS_UTIL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#ifdef __cplusplus
#define RESTRICT __restrict__
#else
#define RESTRICT restrict
#endif

#define PRINTF_LIKE(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#define NO_RETURN __attribute__((noreturn))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* In front of a loop whose iterations do not depend on each other. Unlike "omp simd" it leaves a small array inside of
 * the loop to the compiler, which keeps its elements in registers; with "omp simd" GCC does not vectorise such a
 * loop. */
#ifdef __clang__
#define INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif
#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

#define MARS_VERSION "0.2.0"

/* Exit statuses of every program here. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

EXTERN_C_BEGIN

/* error_set(error, format, ...) fills error, which may be NULL, and has the value false, for `return error_set(...)`.
 * It is a macro so that compilers and analyzers see the value. */
#define error_set(...) always_false((error_fill(__VA_ARGS__), 0))
void error_fill(Error *error, const char *format, ...) PRINTF_LIKE(2, 3);
static inline bool always_false(int zero) {
    (void)zero;
    return false;
}

/* Prints "PROGRAM: error: ..." on standard error and ends every process of the job with EXIT_FAILED. */
NO_RETURN void die(const char *format, ...) PRINTF_LIKE(1, 2);

/* The same with EXIT_USAGE, for a wrong command line or config. Only process 0 prints the message, and a process that
 * calls it alone prints nothing: call it only where every process makes the same call. */
NO_RETURN void die_usage(const char *format, ...) PRINTF_LIKE(1, 2);

/* Prints "PROGRAM: warning: ..." on standard error, from process 0 only. */
void warn(const char *format, ...) PRINTF_LIKE(1, 2);

/* Sets how die() and warn() label messages, and how die() ends the job. `rank` is this process of `processes`; `quit`
 * ends the job with the given status and does not return (NULL: exit()). Called once, by comm_open(). */
void base_set_process(int rank, int processes, void (*quit)(int status));

/* The name before the colon in messages; a program's main() sets it. The string is not copied. */
void base_set_program(const char *name);

/* malloc, calloc, realloc and strdup that die() when memory runs out; `what` names the thing in the message. The caller
 * frees. */
void *checked_malloc(size_t bytes, const char *what);
void *checked_calloc(size_t count, size_t bytes, const char *what);
void *checked_realloc(void *memory, size_t bytes, const char *what);
char *checked_strdup(const char *text);

/* snprintf into a new string of just the right size, which the caller frees. */
char *format_string(const char *format, ...) PRINTF_LIKE(1, 2);
bool ends_with(const char *text, const char *end);
/* For qsort() of an array of char *: as bytes, whatever the locale. */
int compare_strings(const void *a, const void *b);

/* Seconds on a clock that never goes back. */
double seconds_now(void);

EXTERN_C_END

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }
static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
