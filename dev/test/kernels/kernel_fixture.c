/* kernel_fixture.c: the arrays, guard zones and comparisons of kernel_fixture.h. Knows how to reach a device through
 * a Backend's memory functions; knows nothing of the operations under test. */
#include "dev/test/kernels/kernel_fixture.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/philox.h"

/* Bytes before and after each array. A multiple of 256 but not of 4096: no kernel may count on more alignment than
 * the tensors of a flat buffer have. */
enum { GUARD = 17 * 256 };

/* What guard zones hold. Around an input NaN, which spoils the result of whoever reads too far. Around a result a
 * small number instead: a NaN that is loaded, computed with and stored again often keeps its bits, and such a write
 * would go unseen. */
enum { GUARD_OF_INPUT = 0xff, GUARD_OF_RESULT = 0xa5, POISON = 0xff };

static const double float_limit = 1e-5, bfloat16_limit = 4e-3;

/* ---- elements ---- */

/* The type of an element in this table. */
static Element stored_as(const Fixture *f, Element element) {
    return element == ACTIVATION && f->activation == DTYPE_FLOAT32 ? FLOAT : element;
}

static size_t element_size(const Fixture *f, Element element) {
    switch (stored_as(f, element)) {
    case DOUBLE:
        return sizeof(double);
    case ACTIVATION:
        return sizeof(bfloat16);
    default:
        return 4;
    }
}

static void store(const Fixture *f, Element element, void *bytes, int64_t i, double value) {
    switch (stored_as(f, element)) {
    case ACTIVATION:
        ((bfloat16 *)bytes)[i] = bfloat16_from_float((float)value);
        break;
    case FLOAT:
        ((float *)bytes)[i] = (float)value;
        break;
    case DOUBLE:
        ((double *)bytes)[i] = value;
        break;
    case INDEX:
        ((int32_t *)bytes)[i] = (int32_t)value;
        break;
    }
}

static double load(const Fixture *f, Element element, const void *bytes, int64_t i) {
    switch (stored_as(f, element)) {
    case ACTIVATION:
        return float_from_bfloat16(((const bfloat16 *)bytes)[i]);
    case FLOAT:
        return ((const float *)bytes)[i];
    case DOUBLE:
        return ((const double *)bytes)[i];
    default:
        return ((const int32_t *)bytes)[i];
    }
}

void round_to_element(const Fixture *f, Element element, double *values, int64_t n) {
    double place = 0.0; /* room for the widest type */
    for (int64_t i = 0; i < n; i++) {
        store(f, element, &place, 0, values[i]);
        values[i] = load(f, element, &place, 0);
    }
}

typedef struct HostNumbers {
    struct HostNumbers *next;
    double numbers[];
} HostNumbers;

double *host_numbers(Fixture *f, int64_t n) {
    HostNumbers *block = checked_calloc(1, sizeof *block + (size_t)n * sizeof(double), "host numbers");
    block->next = f->host_numbers;
    f->host_numbers = block;
    return block->numbers;
}

/* ---- arrays ---- */

static int64_t count_of(const Array *a) { return a->rows * a->columns; }
static size_t bytes_of(const Array *a) { return (size_t)count_of(a) * element_size(a->fixture, a->element); }
static size_t bytes_with_guards(const Array *a) { return bytes_of(a) + 2 * GUARD; }

static Array *make(Fixture *f, Element element, int64_t rows, int64_t columns, const double *values, bool written) {
    if (f->array_count == ARRAY_LENGTH(f->arrays)) die("too many arrays in %s", f->where);
    Array *a = f->arrays[f->array_count++] = checked_calloc(1, sizeof *a, "an array");
    *a = (Array){.element = element, .rows = rows, .columns = columns, .fixture = f, .written = written};
    size_t bytes = bytes_with_guards(a);
    a->before = checked_malloc(bytes, "an array's bytes");
    a->after = checked_malloc(bytes, "an array's bytes");
    memset(a->before, written ? GUARD_OF_RESULT : GUARD_OF_INPUT, bytes);
    memset(a->before + GUARD, POISON, bytes_of(a));
    a->memory = f->be->alloc(f->be, bytes, "an array of a test");
    a->device = (char *)a->memory + GUARD;
    if (values) {
        array_rewrite(a, values);
        if (element == INDEX) a->index = (const int32_t *)(a->before + GUARD);
    } else
        f->be->copy_from_host(f->be, a->memory, a->before, bytes);
    f->be->invalidate_weights(f->be);
    return a;
}

void array_rewrite(Array *a, const double *values) {
    int64_t n = count_of(a);
    size_t bytes = (size_t)n * sizeof *values;
    if (!a->value) a->value = checked_malloc(bytes, "an array's values");
    memcpy(a->value, values, bytes);
    round_to_element(a->fixture, a->element, a->value, n);
    for (int64_t i = 0; i < n; i++) store(a->fixture, a->element, a->before + GUARD, i, values[i]);
    a->fixture->be->copy_from_host(a->fixture->be, a->memory, a->before, bytes_with_guards(a));
}

void array_set(Array *a, int64_t place, double value) {
    double *values = host_numbers(a->fixture, count_of(a));
    memcpy(values, a->value, (size_t)count_of(a) * sizeof *values);
    values[place] = value;
    array_rewrite(a, values);
}

static Array *make_random(Fixture *f, Element element, int64_t rows, int64_t columns, double deviation, bool written) {
    int64_t n = rows * columns;
    double *values = host_numbers(f, n);
    uint32_t stream = f->stream++;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word = philox(1, PHILOX_INIT_WEIGHTS, stream, (uint64_t)i / 4).word[i % 4];
        values[i] = deviation * sqrt(3) * (2 * philox_uniform(word) - 1);
    }
    return make(f, element, rows, columns, values, written);
}

Array *array_in(Fixture *f, Element element, int64_t rows, int64_t columns, double deviation) {
    return make_random(f, element, rows, columns, deviation, false);
}

Array *array_in_out(Fixture *f, Element element, int64_t rows, int64_t columns, double deviation) {
    return make_random(f, element, rows, columns, deviation, true);
}

Array *array_out(Fixture *f, Element element, int64_t rows, int64_t columns) {
    return make(f, element, rows, columns, NULL, true);
}

Array *array_gradient(Fixture *f, int64_t rows, int64_t columns, bool accumulate, const double **start) {
    Array *a = accumulate ? array_in_out(f, FLOAT, rows, columns, 1.0) : array_out(f, FLOAT, rows, columns);
    *start = accumulate ? a->value : host_numbers(f, rows * columns);
    return a;
}

Array *array_of(Fixture *f, Element element, int64_t rows, int64_t columns, const double *values) {
    return make(f, element, rows, columns, values, false);
}

Array *array_index(Fixture *f, int64_t rows, int64_t columns, int bound) {
    int64_t n = rows * columns;
    double *values = host_numbers(f, n);
    uint32_t stream = f->stream++;
    for (int64_t i = 0; i < n; i++)
        values[i] = (double)philox_below(philox(1, PHILOX_INIT_WEIGHTS, stream, (uint64_t)i), (uint64_t)bound);
    values[n - 1] = 0;
    values[0] = bound - 1;
    return make(f, INDEX, rows, columns, values, false);
}

static void free_case(Fixture *f) {
    for (size_t i = 0; i < f->array_count; i++) {
        Array *a = f->arrays[i];
        f->be->free(f->be, a->memory);
        free(a->value);
        free(a->before);
        free(a->after);
        free(a);
    }
    f->array_count = 0;
    for (HostNumbers *next; f->host_numbers; f->host_numbers = next) {
        next = f->host_numbers->next;
        free(f->host_numbers);
    }
}

void begin_case(Fixture *f, const char *format, ...) {
    free_case(f);
    f->stream = 0;
    int length = snprintf(f->where, sizeof f->where, "%s, %d threads, ", f->be->name, f->threads);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f->where + length, sizeof f->where - (size_t)length, format, arguments);
    va_end(arguments);
}

double *fetch(Array *a) {
    Fixture *f = a->fixture;
    int64_t n = count_of(a);
    double *values = host_numbers(f, n);
    unsigned char *bytes = checked_malloc(bytes_of(a) + 1, "an array's bytes");
    f->be->copy_to_host(f->be, bytes, a->device, bytes_of(a));
    for (int64_t i = 0; i < n; i++) values[i] = load(f, a->element, bytes, i);
    free(bytes);
    return values;
}

/* ---- running ---- */

/* Names an array in messages: its place among those of the case, in the order the test made them. */
static void describe(const Array *a, char *text, size_t size) {
    size_t number = 0;
    while (a->fixture->arrays[number] != a) number++;
    snprintf(text, size, "%s: array %zu of the test, %" PRId64 " x %" PRId64, a->fixture->where, number + 1, a->rows,
             a->columns);
}

/* Fails where bytes [from, to) differ; `zone` says what they are. */
static void expect_bytes(const Array *a, const unsigned char *got, const unsigned char *expected, size_t from,
                         size_t to, const char *zone) {
    if (memcmp(got + from, expected + from, to - from) == 0) return;
    size_t i = from;
    while (got[i] == expected[i]) i++;
    char name[400];
    describe(a, name, sizeof name);
    long element = ((long)i - GUARD) / (long)element_size(a->fixture, a->element);
    fail_msg("%s: %s changed, first near element %ld of %" PRId64, name, zone, element, count_of(a));
}

static void expect_guards(const Array *a, const unsigned char *got) {
    size_t end = GUARD + bytes_of(a);
    expect_bytes(a, got, a->before, 0, GUARD, "bytes in front of it");
    expect_bytes(a, got, a->before, end, end + GUARD, "bytes after it");
    if (!a->written) expect_bytes(a, got, a->before, GUARD, end, "an input");
}

bool keep_results_and_rewind(Fixture *f) {
    bool rewinds = !only_small_sizes();
    for (size_t i = 0; i < f->array_count; i++) {
        Array *a = f->arrays[i];
        f->be->copy_to_host(f->be, a->after, a->memory, bytes_with_guards(a));
        expect_guards(a, a->after);
        if (!rewinds)
            memcpy(a->before, a->after, bytes_with_guards(a));
        else if (a->written)
            f->be->copy_from_host(f->be, a->memory, a->before, bytes_with_guards(a));
    }
    return rewinds;
}

void expect_same_results(Fixture *f) {
    for (size_t i = 0; i < f->array_count; i++) {
        Array *a = f->arrays[i];
        f->be->copy_to_host(f->be, a->before, a->memory, bytes_with_guards(a));
        expect_bytes(a, a->before, a->after, 0, bytes_with_guards(a), "the second of two equal runs");
    }
}

/* ---- comparisons ---- */

static double limit_of(const Array *a) {
    return stored_as(a->fixture, a->element) == ACTIVATION ? bfloat16_limit : float_limit;
}

static double norm(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

void expect_near(Array *a, const double *expected, double slack, const char *what) {
    const double *got = fetch(a);
    int64_t n = count_of(a), columns = a->columns;
    double limit = slack * limit_of(a), error = relative_error(got, expected, (size_t)n);
    double typical = norm(expected, n) / sqrt((double)a->rows);
    for (int64_t row = 0; row < a->rows; row++) {
        const double *here = expected + row * columns;
        double room = 4 * limit * (norm(here, columns) + typical), difference = 0;
        for (int64_t c = 0; c < columns; c++) difference += pow(got[row * columns + c] - here[c], 2);
        if (sqrt(difference) <= room || typical == 0) continue;
        fail_msg("%s: %s: row %" PRId64 " of %" PRId64
                 " is off by %.3g, allowed %.3g; it starts with %.9g, not %.9g; relative error "
                 "of all rows %.3g",
                 a->fixture->where, what, row, a->rows, sqrt(difference), room, got[row * columns], here[0], error);
    }
    char name[400];
    snprintf(name, sizeof name, "%s: %s", a->fixture->where, what);
    assert_error_below(error, limit, name);
}

static void fail_element(const Array *a, int64_t i, double got, double expected, const char *what) {
    fail_msg("%s: %s: element %" PRId64 " (row %" PRId64 ", column %" PRId64 ") is %.9g, not %.9g", a->fixture->where,
             what, i, (i / a->columns), (i % a->columns), got, expected);
}

void expect_each(Array *a, const double *expected, double slack, double smallest, const char *what) {
    const double *got = fetch(a);
    double limit = slack * limit_of(a);
    for (int64_t i = 0; i < count_of(a); i++) {
        bool same = isnan(expected[i]) ? isnan(got[i]) : got[i] == expected[i];
        bool near = isfinite(expected[i]) && fabs(got[i] - expected[i]) <= limit * fabs(expected[i]) + smallest;
        if (!same && !near) fail_element(a, i, got[i], expected[i], what);
    }
}

void expect_exact(Array *a, const double *expected, const char *what) {
    const double *got = fetch(a);
    int64_t n = count_of(a);
    double *rounded = host_numbers(a->fixture, n);
    memcpy(rounded, expected, (size_t)n * sizeof *expected);
    round_to_element(a->fixture, a->element, rounded, n);
    for (int64_t i = 0; i < n; i++) {
        bool both_nan = isnan(got[i]) && isnan(rounded[i]);
        bool equal = got[i] == rounded[i] && signbit(got[i]) == signbit(rounded[i]);
        if (!both_nan && !equal) fail_element(a, i, got[i], rounded[i], what);
    }
}

/* ---- the tables ---- */

Fixture *fixture_of(void **state) {
    Fixture *f = *state;
    if (!f->be) {
        print_message("%s-%s: %s\n", f->device, dtype_name(f->activation), f->reason.text);
        bool always_there = strcmp(f->device, "cpu") == 0 && f->activation == DTYPE_FLOAT32;
        if (always_there) fail_msg("cpu-float32 needs nothing that a machine could lack");
        skip();
    }
    begin_case(f, "no sizes");
    return f;
}

static int release(void **state) {
    Fixture *f = *state;
    if (f->be) free_case(f);
    return 0;
}

/* Opens one table, runs every test on it and closes it: tables of different threads never exist side by side. */
static int run_table(const char *device, DType activation, int threads, const struct CMUnitTest *tests, size_t count) {
    Fixture fixture = {.device = device, .activation = activation, .threads = threads};
    fixture.be = backend_open(device, activation, threads, &fixture.reason);
    struct CMUnitTest *bound = checked_malloc(count * sizeof *bound, "the list of tests");
    for (size_t i = 0; i < count; i++) {
        bound[i] = tests[i];
        bound[i].initial_state = &fixture;
        bound[i].teardown_func = release;
    }
    char *name = format_string("%s-%s, %d threads", device, dtype_name(activation), threads);
    int failed = _cmocka_run_group_tests(name, bound, count, NULL, NULL);
    free(name);
    free(bound);
    if (fixture.be) fixture.be->close(fixture.be);
    return failed;
}

/* Leaves out all tests but the one that MARS_TEST_ONLY names. A name that no test has would leave nothing to fail. */
static void select_test(const struct CMUnitTest *tests, size_t count) {
    const char *only = getenv("MARS_TEST_ONLY");
    if (!only || !*only) return;
    for (size_t i = 0; i < count; i++)
        if (strcmp(tests[i].name, only) == 0) {
            cmocka_set_test_filter(only);
            return;
        }
    die_usage("MARS_TEST_ONLY: this program has no test '%s'", only);
}

int run_cpu_tests(const int *threads, size_t thread_counts, const struct CMUnitTest *tests, size_t count) {
    int failed = 0;
    for (size_t i = 0; i < thread_counts; i++) {
        failed += run_table("cpu", DTYPE_FLOAT32, threads[i], tests, count);
        failed += run_table("cpu", DTYPE_BFLOAT16, threads[i], tests, count);
    }
    return failed;
}

int run_kernel_tests(int argc, char **argv, const struct CMUnitTest *tests, size_t count) {
    const char *device = getenv("MARS_TEST_DEVICE"), *option = "--device=";
    base_set_program(argv[0]);
    if (!device || !*device) device = "cpu";
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], option, strlen(option)) != 0)
            die_usage("%s is no option here; the only one is --device=cpu or --device=cuda", argv[i]);
        device = argv[i] + strlen(option);
    }
    select_test(tests, count);
    /* Two threads are the common case; one takes other paths; three are more than a small machine has, and divide no
     * power of two. A GPU does not care. */
    const int threads[] = {2, 1, 3};
    if (strcmp(device, "cpu") == 0) return run_cpu_tests(threads, ARRAY_LENGTH(threads), tests, count);
    return run_table(device, DTYPE_FLOAT32, 2, tests, count) + run_table(device, DTYPE_BFLOAT16, 2, tests, count);
}
