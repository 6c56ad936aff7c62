/* test_newton_schulz.c: tests optim/newton_schulz.h on any Backend table, in both types: against the same iteration in
 * float64, with and without rounding what it stores; what a singular value becomes; norms far from 1; and that a result
 * depends on nothing but its own matrix. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/newton_schulz.h"
#include "util/philox.h"

enum { STEPS = 5, MAX_MATRICES = 5 };

typedef struct Shape {
    int rows, columns;
} Shape;

static const Shape shapes[] = {{1, 1},   {1, 9},   {9, 1},    {7, 5},    {5, 7},    {33, 65},
                               {65, 33}, {64, 64}, {129, 40}, {40, 129}, {1601, 6}, {6, 1601}};
static const int counts[] = {1, 2, 3, 5};
static const DType types[] = {DTYPE_FLOAT32, DTYPE_BFLOAT16};

/* A batch on the host: `value` holds what the device is given, rounded to the type. */
typedef struct Batch {
    DType type;
    Shape shape;
    int count;
    double *value;
    double square_norms[MAX_MATRICES];
} Batch;

static int64_t size_of(Shape shape) { return (int64_t)shape.rows * shape.columns; }

static double rounded(DType type, double x) {
    return type == DTYPE_FLOAT32 ? (float)x : float_from_bfloat16(bfloat16_from_float((float)x));
}

static Batch batch_make(Fixture *f, DType type, Shape shape, int count, double deviation) {
    Batch batch = {.type = type, .shape = shape, .count = count};
    int64_t size = size_of(shape);
    batch.value = host_numbers(f, count * size);
    for (int i = 0; i < count; i++)
        for (int64_t j = 0; j < size; j++) {
            uint32_t word = philox(1, PHILOX_INIT_WEIGHTS, f->stream + (uint32_t)i, (uint64_t)j).word[0];
            double x = rounded(type, deviation * sqrt(3) * (2 * philox_uniform(word) - 1));
            batch.value[i * size + j] = x;
            batch.square_norms[i] += x * x;
        }
    f->stream += (uint32_t)count;
    return batch;
}

/* Matrix i alone. */
static Batch batch_of_one(const Batch *batch, int i) {
    Batch one = {.type = batch->type, .shape = batch->shape, .count = 1};
    one.value = batch->value + i * size_of(batch->shape);
    one.square_norms[0] = batch->square_norms[i];
    return one;
}

/* A Newton-Schulz with its memory. */
typedef struct Workspace {
    NewtonSchulz *ns;
    Arena arena;
    double *square_norms; /* (MAX_MATRICES) on the device */
} Workspace;

static Workspace *open_workspace(Fixture *f, DType type, NsCoefficients coefficients, int steps,
                                 const NewtonSchulzShape *planned, int count) {
    Error error;
    Workspace *w = checked_calloc(1, sizeof *w, "a workspace");
    arena_plan(&w->arena, "workspace", "norms", MAX_MATRICES * sizeof(double), &w->square_norms);
    w->ns = newton_schulz_plan(f->be, type, coefficients, steps, planned, count, &w->arena, &error);
    if (!w->ns) fail_msg("%s", error.text);
    arena_allocate(&w->arena, backend_memory(f->be));
    return w;
}

static void close_workspace(Workspace *w) {
    newton_schulz_close(w->ns);
    arena_free(&w->arena);
    free(w);
}

/* Steps of each NsCoefficients. */
static const int steps_of[] = {STEPS, STEPS, 12};

static Workspace *open_with(Fixture *f, const Batch *batch, NsCoefficients coefficients) {
    NewtonSchulzShape shape = {batch->shape.rows, batch->shape.columns, batch->count};
    assert_int_equal(newton_schulz_batch(f->be, &shape), batch->count);
    return open_workspace(f, batch->type, coefficients, steps_of[coefficients], &shape, 1);
}

static Workspace *open_for(Fixture *f, const Batch *batch) { return open_with(f, batch, NS_COEFFICIENTS_QUINTIC); }

/* Runs the batch; the results as host_numbers(). */
static double *run_batch(Fixture *f, Workspace *w, const Batch *batch) {
    int64_t n = batch->count * size_of(batch->shape);
    size_t bytes = (size_t)n * dtype_size(batch->type);
    void *host = checked_malloc(bytes, "a batch");
    for (int64_t i = 0; i < n; i++)
        if (batch->type == DTYPE_FLOAT32)
            ((float *)host)[i] = (float)batch->value[i];
        else
            ((bfloat16 *)host)[i] = bfloat16_from_float((float)batch->value[i]);
    f->be->copy_from_host(f->be, newton_schulz_input(w->ns), host, bytes);
    f->be->copy_from_host(f->be, w->square_norms, batch->square_norms, (size_t)batch->count * sizeof(double));
    const void *x = newton_schulz_run(w->ns, batch->shape.rows, batch->shape.columns, batch->count, w->square_norms);
    f->be->copy_to_host(f->be, host, x, bytes);
    double *result = host_numbers(f, n);
    for (int64_t i = 0; i < n; i++)
        result[i] = batch->type == DTYPE_FLOAT32 ? ((float *)host)[i] : float_from_bfloat16(((bfloat16 *)host)[i]);
    free(host);
    return result;
}

/* Everything in the workspace becomes NaN. */
static void poison(Fixture *f, Workspace *w, const Batch *batch) {
    Batch all_nan = *batch;
    int64_t n = batch->count * size_of(batch->shape);
    all_nan.value = host_numbers(f, n);
    for (int64_t i = 0; i < n; i++) all_nan.value[i] = NAN;
    assert_true(isnan(run_batch(f, w, &all_nan)[n - 1]));
}

/* ---- the reference ---- */

/* What is stored between matmuls: exact, or rounded to a type as the implementations do. */
typedef double (*Store)(double);
static double store_exact(double x) { return x; }
static double store_float32(double x) { return (float)x; }
static double store_bfloat16(double x) { return rounded(DTYPE_BFLOAT16, x); }

/* c (m,n) = alpha a (m,k) . b (k,n) + beta c_in; b is stored (n,k) where transposed. */
static void multiply(double *c, const double *a, const double *b, const double *c_in, double alpha, double beta, int m,
                     int n, int k, bool transposed, Store store) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++) sum += a[i * k + l] * (transposed ? b[j * k + l] : b[l * n + j]);
            c[i * n + j] = store(alpha * sum + (beta != 0 ? beta * c_in[i * n + j] : 0));
        }
}

/* The published numbers: of each step a, b and c of X <- a X + (b A + c A A) X, the last ones for further steps. */
static const double published[][5][3] = {
    [NS_COEFFICIENTS_QUINTIC] = {{3.4445, -4.7750, 2.0315}},
    [NS_COEFFICIENTS_POLAR_EXPRESS] = {{8.156554524902461, -22.48329292557795, 15.878769915207462},
                                       {4.042929935166739, -2.808917465908714, 0.5000178451051316},
                                       {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
                                       {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
                                       {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}},
    [NS_COEFFICIENTS_CUBIC] = {{2.0, -1.5, 0.5}}};

/* As published: a tall matrix is transposed, iterated and transposed back. */
static double *reference_with(Fixture *f, const double *g, Shape shape, double square_norm, NsCoefficients coefficients,
                              Store store) {
    bool is_polar = coefficients == NS_COEFFICIENTS_POLAR_EXPRESS;
    double divisor = is_polar ? 1.02 * sqrt(square_norm) + 1e-6 : sqrt(square_norm) + 1e-7;
    bool tall = shape.rows > shape.columns;
    int m = tall ? shape.columns : shape.rows, n = tall ? shape.rows : shape.columns;
    double *x = host_numbers(f, size_of(shape)), *next = host_numbers(f, size_of(shape));
    double *a = host_numbers(f, m * m), *b = host_numbers(f, m * m);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) x[i * n + j] = store((tall ? g[j * m + i] : g[i * n + j]) / divisor);
    for (int step = 0; step < steps_of[coefficients]; step++) {
        const double *c = published[coefficients][is_polar ? step : 0];
        multiply(a, x, x, NULL, 1, 0, m, m, n, true, store);
        multiply(b, a, a, a, c[2], c[1], m, m, m, false, store);
        multiply(next, b, x, x, 1, c[0], m, n, m, false, store);
        memcpy(x, next, (size_t)size_of(shape) * sizeof *x);
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) next[tall ? j * m + i : i * n + j] = x[i * n + j];
    return next;
}

static double *reference(Fixture *f, const double *g, Shape shape, double square_norm, Store store) {
    return reference_with(f, g, shape, square_norm, NS_COEFFICIENTS_QUINTIC, store);
}

/* A rounding of an element moves small singular values by much more, as five steps multiply them by up to 3.4445^5.
 * By how much, in the type at hand, the reference says when it rounds whatever it stores: an implementation may be as
 * far from the exact result as that, and half as far again; and for float32, whose sums round as well, by 1e-5. */
static void expect_reference_with(Fixture *f, const Batch *batch, NsCoefficients coefficients, const double *result,
                                  const char *what) {
    int64_t size = size_of(batch->shape);
    for (int i = 0; i < batch->count; i++) {
        const double *g = batch->value + i * size;
        Store store = batch->type == DTYPE_FLOAT32 ? store_float32 : store_bfloat16;
        const double *exact = reference_with(f, g, batch->shape, batch->square_norms[i], coefficients, store_exact);
        const double *typical = reference_with(f, g, batch->shape, batch->square_norms[i], coefficients, store);
        double room = 1.5 * relative_error(typical, exact, (size_t)size) +
                      (coefficients == NS_COEFFICIENTS_POLAR_EXPRESS ? 4e-5 : 1e-5); /* it is steep at 1, too */
        double error = relative_error(result + i * size, exact, (size_t)size);
        if (!(error <= room))
            fail_msg("%s: %s, matrix %d: relative error %.3g, allowed %.3g", f->where, what, i, error, room);
    }
}

static void expect_reference(Fixture *f, const Batch *batch, const double *result, const char *what) {
    expect_reference_with(f, batch, NS_COEFFICIENTS_QUINTIC, result, what);
}

/* ---- tests ---- */

static void test_against_reference(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t s = 0; s < ARRAY_LENGTH(shapes); s++)
            for (size_t c = 0; c < ARRAY_LENGTH(counts); c++) {
                if (!f->be->multiplies(f->be, types[t])) continue;
                begin_case(f, "%d matrices %d x %d in %s", counts[c], shapes[s].rows, shapes[s].columns,
                           dtype_name(types[t]));
                Batch batch = batch_make(f, types[t], shapes[s], counts[c], 0.02);
                Workspace *w = open_for(f, &batch);
                poison(f, w, &batch);
                expect_reference(f, &batch, run_batch(f, w, &batch), "result");
                close_workspace(w);
            }
}

/* The other polynomials, and how they start: polar-express depends on the length of a matrix that is not far above
 * 1e-6. */
static void test_other_coefficients(void **state) {
    Fixture *f = fixture_of(state);
    const Shape few[] = {{1, 1}, {1, 9}, {9, 1}, {33, 65}, {65, 33}, {64, 64}};
    const double deviations[] = {0.02, 1e-7};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (int coefficients = NS_COEFFICIENTS_POLAR_EXPRESS; coefficients <= NS_COEFFICIENTS_CUBIC; coefficients++)
            for (size_t s = 0; s < ARRAY_LENGTH(few) * ARRAY_LENGTH(deviations); s++) {
                if (!f->be->multiplies(f->be, types[t])) continue;
                Shape shape = few[s / ARRAY_LENGTH(deviations)];
                begin_case(f, "coefficients %d, %d x %d in %s", coefficients, shape.rows, shape.columns,
                           dtype_name(types[t]));
                Batch batch = batch_make(f, types[t], shape, 3, deviations[s % ARRAY_LENGTH(deviations)]);
                Workspace *w = open_with(f, &batch, (NsCoefficients)coefficients);
                poison(f, w, &batch);
                expect_reference_with(f, &batch, (NsCoefficients)coefficients, run_batch(f, w, &batch), "result");
                close_workspace(w);
            }
}

/* In float32 twelve cubic steps settle at 1; five of polar-express end within an eighth of it. */
static void test_where_singular_values_settle(void **state) {
    Fixture *f = fixture_of(state);
    const double limits[] = {[NS_COEFFICIENTS_POLAR_EXPRESS] = 0.25, [NS_COEFFICIENTS_CUBIC] = 1e-4};
    for (int coefficients = NS_COEFFICIENTS_POLAR_EXPRESS; coefficients <= NS_COEFFICIENTS_CUBIC; coefficients++) {
        begin_case(f, "coefficients %d", coefficients);
        Batch batch = batch_make(f, DTYPE_FLOAT32, (Shape){129, 40}, 1, 1.0);
        Workspace *w = open_with(f, &batch, (NsCoefficients)coefficients);
        const double *x = run_batch(f, w, &batch);
        double square = 0; /* of X^T X - I: as in test_singular_values() */
        for (int i = 0; i < 40; i++)
            for (int j = 0; j < 40; j++) {
                double dot = 0;
                for (int r = 0; r < 129; r++) dot += x[r * 40 + i] * x[r * 40 + j];
                square += pow(dot - (i == j), 2);
            }
        assert_error_below(sqrt(square / 40), limits[coefficients], "||X^T X - I||");
        close_workspace(w);
    }
}

/* Of the size that training has: its rounding errors, in the worst type, are those known of bfloat16. */
static void test_larger_matrix(void **state) {
    Fixture *f = fixture_of(state);
    const Shape larger[] = {{96, 800}, {800, 96}};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t s = 0; s < ARRAY_LENGTH(larger); s++) {
            if (!f->be->multiplies(f->be, types[t])) continue;
            begin_case(f, "%d x %d in %s", larger[s].rows, larger[s].columns, dtype_name(types[t]));
            Batch batch = batch_make(f, types[t], larger[s], 1, 1.0);
            Workspace *w = open_for(f, &batch);
            const double *result = run_batch(f, w, &batch);
            const double *exact = reference(f, batch.value, larger[s], batch.square_norms[0], store_exact);
            assert_error_below(relative_error(result, exact, (size_t)size_of(larger[s])),
                               types[t] == DTYPE_FLOAT32 ? 1e-5 : 2e-2, f->where);
            close_workspace(w);
        }
}

/* Of a matrix whose singular values are within a factor of five, all end between 0.65 and 1.25: so those of
 * X^T X - I lie within 0.6, and its norm within 0.6 times the root of its size. */
static void test_singular_values(void **state) {
    Fixture *f = fixture_of(state);
    const Shape shape = {129, 40};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++) {
        if (!f->be->multiplies(f->be, types[t])) continue;
        begin_case(f, "singular values in %s", dtype_name(types[t]));
        Batch batch = batch_make(f, types[t], shape, 1, 1.0);
        Workspace *w = open_for(f, &batch);
        const double *x = run_batch(f, w, &batch);
        double square = 0, trace = 0;
        for (int i = 0; i < shape.columns; i++)
            for (int j = 0; j < shape.columns; j++) {
                double dot = 0;
                for (int r = 0; r < shape.rows; r++) dot += x[r * shape.columns + i] * x[r * shape.columns + j];
                square += pow(dot - (i == j), 2);
                trace += i == j ? dot : 0;
            }
        assert_error_below(sqrt(square / shape.columns), 0.6, "||X^T X - I||");
        assert_error_below(fabs(trace / shape.columns - 1), 0.4, "the mean of the squared singular values, from 1");
        close_workspace(w);
    }
}

/* The size of a matrix does not matter, until 1e-7 is not small next to it. */
static void test_sizes_of_norms(void **state) {
    Fixture *f = fixture_of(state);
    const double deviations[] = {1e30, 1e5, 1e-5, 1e-8, 1e-30};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t d = 0; d < ARRAY_LENGTH(deviations); d++) {
            if (!f->be->multiplies(f->be, types[t])) continue;
            begin_case(f, "numbers of size %g in %s", deviations[d], dtype_name(types[t]));
            Batch batch = batch_make(f, types[t], (Shape){17, 30}, 2, deviations[d]);
            Workspace *w = open_for(f, &batch);
            expect_reference(f, &batch, run_batch(f, w, &batch), "result");
            close_workspace(w);
        }
}

static void test_zero_stays_zero(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (int tall = 0; tall < 2; tall++) {
            if (!f->be->multiplies(f->be, types[t])) continue;
            begin_case(f, "a matrix of zeros in %s", dtype_name(types[t]));
            Batch batch = batch_make(f, types[t], tall ? (Shape){19, 7} : (Shape){7, 19}, 3, 1.0);
            int64_t size = size_of(batch.shape);
            for (int64_t j = 0; j < size; j++) batch.value[size + j] = 0;
            batch.square_norms[1] = 0;
            Workspace *w = open_for(f, &batch);
            poison(f, w, &batch);
            const double *result = run_batch(f, w, &batch);
            for (int64_t j = 0; j < size; j++) assert_true(result[size + j] == 0);
            Batch last = batch_of_one(&batch, 2);
            expect_reference(f, &last, result + 2 * size, "the matrix after it");
            close_workspace(w);
        }
}

static void expect_equal(const Fixture *f, const double *got, const double *expected, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++)
        if (got[i] != expected[i])
            fail_msg("%s: %s: element %zu is %.9g, not %.9g", f->where, what, i, got[i], expected[i]);
}

/* The same bits at every run, alone, among others, and in a workspace made for larger matrices. */
static void test_same_bits(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t s = 0; s < ARRAY_LENGTH(shapes); s++) {
            if (!f->be->multiplies(f->be, types[t])) continue;
            begin_case(f, "%d x %d in %s", shapes[s].rows, shapes[s].columns, dtype_name(types[t]));
            Batch batch = batch_make(f, types[t], shapes[s], 5, 0.02);
            int64_t size = size_of(batch.shape);
            Workspace *w = open_for(f, &batch);
            const double *first = run_batch(f, w, &batch);
            expect_equal(f, run_batch(f, w, &batch), first, 5 * size, "the second run");
            close_workspace(w);
            const NewtonSchulzShape several[] = {{200, 300, 1}, {shapes[s].rows, shapes[s].columns, 1}, {300, 10, 2}};
            w = open_workspace(f, types[t], NS_COEFFICIENTS_QUINTIC, STEPS, several, 3);
            for (int i = 4; i >= 0; i--) {
                Batch one = batch_of_one(&batch, i);
                expect_equal(f, run_batch(f, w, &one), first + i * size, size, "alone");
            }
            close_workspace(w);
        }
}

/* An even and an odd number of steps, and none: the result is read from the right one of two buffers. */
static void test_number_of_steps(void **state) {
    Fixture *f = fixture_of(state);
    begin_case(f, "one number");
    const NewtonSchulzShape shape = {1, 1, 1};
    for (int steps = 0; steps <= 6; steps++) {
        Workspace *w = open_workspace(f, DTYPE_FLOAT32, NS_COEFFICIENTS_QUINTIC, steps, &shape, 1);
        Batch batch = batch_make(f, DTYPE_FLOAT32, (Shape){1, 1}, 1, 1.0);
        batch.square_norms[0] = pow(batch.value[0] / 0.3 - 1e-7, 2); /* so that it starts from 0.3 or -0.3 */
        double expected = batch.value[0] / (sqrt(batch.square_norms[0]) + 1e-7);
        for (int step = 0; step < steps; step++)
            expected = 3.4445 * expected - 4.7750 * pow(expected, 3) + 2.0315 * pow(expected, 5);
        assert_error_below(fabs(run_batch(f, w, &batch)[0] - expected), 1e-5, "a number after so many steps");
        close_workspace(w);
    }
}

static void test_workspace(void **state) {
    Fixture *f = fixture_of(state);
    begin_case(f, "the workspace");
    Backend gpu = {.side_by_side_work = INT64_MAX}, cpu = {.side_by_side_work = 1 << 26};
    assert_int_equal(newton_schulz_batch(&gpu, &(NewtonSchulzShape){768, 768, 12}), 12);
    assert_int_equal(newton_schulz_batch(&gpu, &(NewtonSchulzShape){6400, 1600, 48}), 6);
    assert_int_equal(newton_schulz_batch(&gpu, &(NewtonSchulzShape){768, 3072, 4}), 4);
    assert_int_equal(newton_schulz_batch(&gpu, &(NewtonSchulzShape){50304, 768, 3}), 1);
    assert_int_equal(newton_schulz_batch(&cpu, &(NewtonSchulzShape){768, 768, 12}), 1);
    assert_int_equal(newton_schulz_batch(&cpu, &(NewtonSchulzShape){256, 1024, 12}), 12);
    const NewtonSchulzShape several[] = {{64, 1000, 3}, {400, 400, 2}, {100, 3000, 1}};
    Workspace *w = open_workspace(f, DTYPE_FLOAT32, NS_COEFFICIENTS_QUINTIC, STEPS, several, 3);
    const NewtonSchulz *ns = w->ns;
    assert_int_equal(newton_schulz_type(ns), DTYPE_FLOAT32);
    size_t matrix = 400 * 400 * sizeof(float); /* two of them in each X, A and B */
    assert_in_range(newton_schulz_bytes(ns), 8 * matrix, 8 * matrix + 4 * 4096);
    assert_true(w->arena.bytes >= newton_schulz_bytes(ns));
    close_workspace(w);
    newton_schulz_close(NULL);
    assert_true(newton_schulz_flops(768, 3072, 5) == 5 * (4.0 * 768 * 768 * 3072 + 2.0 * 768 * 768 * 768));
    assert_true(newton_schulz_flops(3072, 768, 5) == newton_schulz_flops(768, 3072, 5));
}

static bool multiplies_nothing(Backend *be, DType type) {
    (void)be, (void)type;
    return false;
}

static void test_type_the_device_lacks(void **state) {
    Fixture *f = fixture_of(state);
    Backend without = *f->be;
    without.multiplies = multiplies_nothing;
    const NewtonSchulzShape shape = {8, 8, 1};
    Error error;
    Arena arena = {0};
    assert_null(
        newton_schulz_plan(&without, DTYPE_BFLOAT16, NS_COEFFICIENTS_QUINTIC, STEPS, &shape, 1, &arena, &error));
    assert_int_equal(arena.count, 0);
    assert_non_null(strstr(error.text, "bfloat16"));
    assert_non_null(strstr(error.text, "ns_dtype"));
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),     cmocka_unit_test(test_larger_matrix),
        cmocka_unit_test(test_other_coefficients),    cmocka_unit_test(test_where_singular_values_settle),
        cmocka_unit_test(test_singular_values),       cmocka_unit_test(test_sizes_of_norms),
        cmocka_unit_test(test_zero_stays_zero),       cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_number_of_steps),       cmocka_unit_test(test_workspace),
        cmocka_unit_test(test_type_the_device_lacks),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
