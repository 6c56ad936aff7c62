/* fuzz.h: what the fuzz targets share: taking an input apart, files with what an input says, and the one way to say
 * that a property does not hold. The code under test reports errors by its Error; a die() ends the program, which
 * libFuzzer takes for a finding.
 *
 * A target is a file fuzz_NAME.c with one function, LLVMFuzzerTestOneInput, to which libFuzzer
 * (https://llvm.org/docs/LibFuzzer.html) passes one input after the other, and which is a function of that input alone.
 * `make fuzz` makes a program of each. The tests pass the kept inputs, corpus/NAME.tar.gz, to the same functions, under
 * the name fuzz_NAME (see the Makefile). */
#ifndef MARS_DEV_FUZZ_FUZZ_H
#define MARS_DEV_FUZZ_FUZZ_H

#include "util/base.h"

/* What a target defines. Always returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Aborts where `condition` does not hold, with a printf-like reason. */
#define FUZZ_CHECK(condition, ...)                                    \
    do {                                                              \
        if (!(condition)) fuzz_fail(__FILE__, __LINE__, __VA_ARGS__); \
    } while (0)
NO_RETURN void fuzz_fail(const char *file, int line, const char *format, ...) PRINTF_LIKE(3, 4);

/* What is left of an input. */
typedef struct FuzzInput {
    const uint8_t *data;
    size_t bytes;
} FuzzInput;

/* The next number of `width` <= 8 bytes, little-endian; where the input ends, the bytes that are missing are 0. */
uint64_t fuzz_number(FuzzInput *input, size_t width);

/* The next `bytes` bytes, or as many as there are. */
FuzzInput fuzz_piece(FuzzInput *input, size_t bytes);

/* A folder of this process, made on first use and removed at exit: in $TMPDIR, else in memory where /dev/shm is
 * that, else in /tmp. */
const char *fuzz_folder(void);

/* Path of a file in the folder; one of 8 rotating buffers. */
const char *fuzz_path(const char *name);

/* Writes the file of that name in the folder and returns its path (see fuzz_path). */
const char *fuzz_file(const char *name, const void *data, size_t bytes);

#endif
