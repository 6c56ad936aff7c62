/* kernel_fixture.h: what the tests of a Backend table share: one test program runs over several tables, arrays live
 * on the device between guard zones, and results are compared with the float64 reference.
 *
 * A test asks for arrays, calls an operation inside RUN_TWICE and states what each result should be:
 *
 *     begin_case(f, "N=%d", N);
 *     Array *x = array_in(f, ACTIVATION, N, C, 1.0), *out = array_out(f, ACTIVATION, N, C);
 *     RUN_TWICE(f, f->be->some_operation(f->be, out->device, x->device, N, C));
 *     expect_near(out, expected, 1, "out");
 *
 * Random inputs are rounded to the type they are stored in before anyone sees them, so that the reference and the
 * kernel start from the same numbers. */
#ifndef MARS_DEV_TEST_KERNELS_KERNEL_FIXTURE_H
#define MARS_DEV_TEST_KERNELS_KERNEL_FIXTURE_H

#include "dev/test/test.h"
#include "kernels/backend.h"

EXTERN_C_BEGIN

typedef enum Element { ACTIVATION, FLOAT, DOUBLE, INDEX } Element; /* INDEX: int32_t */

typedef struct Fixture Fixture;

typedef struct Array {
    void *device;         /* what an operation is given: aligned to 256 bytes, as the tensors of a flat buffer are */
    double *value;        /* rows x columns: what it was filled with, after rounding to its type; NULL for array_out */
    const int32_t *index; /* the same for INDEX */
    Element element;
    int64_t rows, columns;
    Fixture *fixture;
    bool written;          /* an operation may write here */
    void *memory;          /* the device memory around `device`, guard zones included */
    unsigned char *before; /* those bytes before the operation */
    unsigned char *after;  /* and after its first run */
} Array;

struct Fixture {
    Backend *be;
    const char *device;
    DType activation;
    int threads;
    Error reason;    /* why be is NULL */
    char where[256]; /* the table and the sizes at hand, for messages */
    uint32_t stream; /* of random numbers: one per array of a case */
    Array *arrays[32];
    size_t array_count;
    struct HostNumbers *host_numbers; /* a list of what host_numbers() gave out */
};

/* Runs the tests once for each table: those of the device that `--device=cuda` or else the environment's
 * MARS_TEST_DEVICE names, by default the CPU's; each for both activation types and, on the CPU, for 1, 2 and 3 threads.
 * Tests of a table that cannot be opened are skipped. MARS_TEST_ONLY=NAME in the environment leaves out all other
 * tests. Returns the number of failed tests. */
int run_kernel_tests(int argc, char **argv, const struct CMUnitTest *tests, size_t count);

/* Runs the tests for the CPU's tables alone, of both activation types and each number of threads. Returns the number of
 * failed tests. */
int run_cpu_tests(const int *threads, size_t thread_counts, const struct CMUnitTest *tests, size_t count);

/* The fixture of a test, or a skip with the reason where there is no such table here. */
Fixture *fixture_of(void **state);

/* Frees the arrays of the case before, and names the next one in messages. */
void begin_case(Fixture *f, const char *format, ...) PRINTF_LIKE(2, 3);

/* ---- arrays; freed by the next begin_case or at the end of the test ---- */

/* Random numbers, uniform with mean 0 and the given standard deviation. No operation may change it. */
Array *array_in(Fixture *f, Element element, int64_t rows, int64_t columns, double deviation);
/* The same, to be written to: a gradient that is added to, a buffer that is updated in place. */
Array *array_in_out(Fixture *f, Element element, int64_t rows, int64_t columns, double deviation);
/* Full of NaN, so that what is not written, or read too early, shows. */
Array *array_out(Fixture *f, Element element, int64_t rows, int64_t columns);
/* array_in_out where `accumulate`, else array_out. *start is what the result is added to: the values or zeros. */
Array *array_gradient(Fixture *f, int64_t rows, int64_t columns, bool accumulate, const double **start);
/* Given numbers, rounded to the type. */
Array *array_of(Fixture *f, Element element, int64_t rows, int64_t columns, const double *values);
/* rows x columns random numbers in [0, bound), 0 and bound - 1 among them where there is room. */
Array *array_index(Fixture *f, int64_t rows, int64_t columns, int bound);
/* New contents for an array_in, at the same address. Does not call invalidate_weights. */
void array_rewrite(Array *array, const double *values);
/* One new element of it. */
void array_set(Array *array, int64_t place, double value);

/* n zeros on the host, freed with the arrays. */
double *host_numbers(Fixture *f, int64_t n);
/* n numbers rounded to what `element` stores, in place. */
void round_to_element(const Fixture *f, Element element, double *values, int64_t n);

/* ---- running ---- */

/* Runs a call twice from the same start. Fails unless both leave the same bits, inputs as they were and guard zones
 * untouched. Arrays keep the results, and are the start of the next call. Where only small sizes are tested, as under
 * sanitizers, it runs once: that the bits repeat is tested without them. */
#define RUN_TWICE(fixture, call)                \
    do {                                        \
        call;                                   \
        if (keep_results_and_rewind(fixture)) { \
            call;                               \
            expect_same_results(fixture);       \
        }                                       \
    } while (0)

/* Returns true if a second run follows; else the results stay as they are. */
bool keep_results_and_rewind(Fixture *f);
void expect_same_results(Fixture *f);

/* ---- what the results should be ---- */

/* Relative error ||a - b|| / ||b|| below slack * 1e-5 for float results and slack * 4e-3 for bfloat16 ones, over the
 * whole array, and, four times wider, in each row against the size of that row plus that of a typical one (so that a
 * wrong row does not drown among many right ones).
 *
 * 4e-3 is half a unit in the last place of bfloat16, 2^-8: the most that one rounding of an exact result can cost.
 * 1e-5 is ten times what a float32 sum of a few hundred terms loses, and far below the effect of any wrong term. */
void expect_near(Array *array, const double *expected, double slack, const char *what);
/* |a - b| <= slack * (1e-5 or 4e-3, as above) * |b| + smallest, for every single element. Where NaN or an infinity is
 * expected, the element must be NaN or the same infinity. */
void expect_each(Array *array, const double *expected, double slack, double smallest, const char *what);
/* Every element is `expected`, rounded once to the array's type. */
void expect_exact(Array *array, const double *expected, const char *what);

/* The array's contents now, as host_numbers(). */
double *fetch(Array *array);

EXTERN_C_END

#endif
