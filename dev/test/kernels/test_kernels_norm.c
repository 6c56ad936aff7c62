/* test_kernels_norm.c: tests the norms of any Backend table, alone and with the residual addition in front of them. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>

#include "dev/test/kernels/reference.h"

/* The long rows: as many packs of 16 bytes as an odd number of warps has lanes; more than a GPU's thread block holds at
 * once, first of float alone and then of bfloat16 too, odd and even. */
static const int sizes[][2] = {{1, 1},    {3, 1},     {1, 3},    {2, 17},   {5, 64},   {33, 100}, {129, 64}, {33, 384},
                               {3, 1000}, {129, 384}, {257, 17}, {65, 768}, {7, 1600}, {5, 3584}, {2, 3585}, {3, 4096}};

/* A kind of norm, with what models give it. */
typedef struct Variant {
    NormKind kind;
    float eps;
    bool has_weight, has_bias;
} Variant;

/* The second and third eps are those of PyTorch for float32 and bfloat16. */
static const Variant variants[] = {
    {NORM_LAYERNORM, 1e-5f, true, true},       {NORM_RMSNORM, 1.1920929e-07f, false, false},
    {NORM_LAYERNORM, 1e-5f, true, false},      {NORM_RMSNORM, 0.0078125f, true, false},
    {NORM_LAYERNORM, 0.0078125f, false, true}, {NORM_RMSNORM, 1e-5f, true, true},
    {NORM_LAYERNORM, 1e-5f, false, false},     {NORM_RMSNORM, 1e-5f, false, true},
};
enum { VARIANTS = ARRAY_LENGTH(variants), SMALL = 8000 }; /* elements */

static const Variant gpt2_layernorm = {NORM_LAYERNORM, 1e-5f, true, true};
static const Variant plain_rmsnorm = {NORM_RMSNORM, 1.1920929e-07f, false, false};

static bool too_large(int N, int C) { return only_small_sizes() && N * C > SMALL; }

static void begin_variant(Fixture *f, Variant v, int N, int C, const char *rest) {
    begin_case(f, "%s, N=%d C=%d, eps %g, weight %d, bias %d%s", v.kind == NORM_LAYERNORM ? "LayerNorm" : "RMSNorm", N,
               C, (double)v.eps, v.has_weight, v.has_bias, rest);
}

/* An array's device pointer, and its values; NULL for no array. */
static void *device_or_null(const Array *a) { return a ? a->device : NULL; }
static const double *value_or_null(const Array *a) { return a ? a->value : NULL; }

static Array *array_if(Fixture *f, bool exists, int C) { return exists ? array_in(f, ACTIVATION, 1, C, 1.0) : NULL; }

/* What a norm leaves for its backward pass; mean is NULL where there is none. */
typedef struct Statistics {
    Array *mean, *rstd;
} Statistics;

static Statistics statistics_out(Fixture *f, Variant v, int N) {
    Statistics s = {v.kind == NORM_LAYERNORM ? array_out(f, FLOAT, N, 1) : NULL, array_out(f, FLOAT, N, 1)};
    return s;
}

/* What the norm of x should give. */
typedef struct Expected {
    double *out, *mean, *rstd;
} Expected;

static Expected expected_forward(Fixture *f, const NormShape *norm, const double *x, const Array *weight,
                                 const Array *bias) {
    Expected e = {host_numbers(f, norm->N * norm->C), host_numbers(f, norm->N), host_numbers(f, norm->N)};
    reference_norm_forward(norm, e.out, e.mean, e.rstd, x, value_or_null(weight), value_or_null(bias));
    return e;
}

static void expect_forward(Expected e, Array *out, Statistics s) {
    expect_near(out, e.out, 1, "out");
    if (s.mean) expect_near(s.mean, e.mean, 1, "mean");
    expect_near(s.rstd, e.rstd, 1, "rstd");
}

/* x = offset + random numbers: mean and spread of a row differ as they do in a residual stream. */
static Array *array_with_offset(Fixture *f, int N, int C, double offset) {
    Array *x = array_in(f, ACTIVATION, N, C, 1.0);
    double *values = host_numbers(f, N * C);
    for (int i = 0; i < N * C; i++) values[i] = x->value[i] + offset;
    array_rewrite(x, values);
    return x;
}

/* ---- forward ---- */

static void forward_of(Fixture *f, Variant v, Array *x) {
    Backend *be = f->be;
    const NormShape norm = {v.kind, v.eps, (int)x->rows, (int)x->columns};
    Array *weight = array_if(f, v.has_weight, norm.C), *bias = array_if(f, v.has_bias, norm.C);
    Array *out = array_out(f, ACTIVATION, norm.N, norm.C);
    Statistics s = statistics_out(f, v, norm.N);
    RUN_TWICE(f, be->norm_forward(be, &norm, out->device, device_or_null(s.mean), s.rstd->device, x->device,
                                  device_or_null(weight), device_or_null(bias)));
    expect_forward(expected_forward(f, &norm, x->value, weight, bias), out, s);
}

static void forward(Fixture *f, Variant v, int N, int C, double offset) {
    if (too_large(N, C)) return;
    begin_variant(f, v, N, C, "");
    forward_of(f, v, array_with_offset(f, N, C, offset));
}

static void test_forward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int v = 0; v < VARIANTS; v++) forward(f, variants[v], sizes[i][0], sizes[i][1], 0.5);
}

/* Rows far from 0: E[x^2] - mean^2 in float32 would lose the variance, sum((x - mean)^2) does not. */
static void test_forward_large_mean(void **state) {
    Fixture *f = fixture_of(state);
    for (int v = 0; v < VARIANTS; v++) {
        forward(f, variants[v], 5, 384, 30);
        forward(f, variants[v], 33, 100, -30);
    }
}

/* A row of equal numbers has variance 0: out is the bias, rstd 1/sqrt(eps). So has a row of zeros for RMSNorm. */
static void test_forward_constant_row(void **state) {
    Fixture *f = fixture_of(state);
    enum { N = 2, C = 64 };
    for (int v = 0; v < VARIANTS; v++) {
        begin_variant(f, variants[v], N, C, ", constant rows");
        double *values = host_numbers(f, N * C);
        for (int c = 0; c < C; c++) values[C + c] = 3;
        forward_of(f, variants[v], array_of(f, ACTIVATION, N, C, values));
    }
}

/* Numbers so small that eps decides: with the tiny one, and with the large one, rstd is far from 1/|x|. */
static void test_forward_small_numbers(void **state) {
    Fixture *f = fixture_of(state);
    for (int v = 0; v < VARIANTS; v++) {
        begin_variant(f, variants[v], 9, 100, ", small numbers");
        forward_of(f, variants[v], array_in(f, ACTIVATION, 9, 100, 3e-4));
    }
}

/* RMSNorm leaves alone a mean that it is given. */
static void test_rmsnorm_has_no_mean(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const NormShape norm = {NORM_RMSNORM, 1e-5f, 33, 100};
    begin_case(f, "RMSNorm with a mean");
    Array *x = array_in(f, ACTIVATION, norm.N, norm.C, 1.0), *delta = array_in(f, ACTIVATION, norm.N, norm.C, 1.0);
    Array *mean = array_in(f, FLOAT, norm.N, 1, 1.0), *rstd = array_out(f, FLOAT, norm.N, 1);
    Array *sum = array_out(f, ACTIVATION, norm.N, norm.C), *out = array_out(f, ACTIVATION, norm.N, norm.C);
    RUN_TWICE(f, be->norm_forward(be, &norm, out->device, mean->device, rstd->device, x->device, NULL, NULL));
    expect_exact(mean, mean->value, "mean");
    RUN_TWICE(f, be->residual_norm_forward(be, &norm, sum->device, out->device, mean->device, rstd->device, x->device,
                                           delta->device, NULL, NULL));
    expect_exact(mean, mean->value, "mean");
}

/* ---- residual + forward ---- */

typedef enum SumPlace { SUM_APART, SUM_IS_X, SUM_IS_DELTA } SumPlace;

/* sum is what the backward pass will see, so the norm and its statistics are those of the rounded sum. */
static void residual_forward(Fixture *f, Variant v, int N, int C, SumPlace place) {
    if (too_large(N, C)) return;
    Backend *be = f->be;
    const NormShape norm = {v.kind, v.eps, N, C};
    begin_variant(f, v, N, C, place == SUM_APART ? ", sum apart" : place == SUM_IS_X ? ", sum is x" : ", sum is delta");
    Array *x = place == SUM_IS_X ? array_in_out(f, ACTIVATION, N, C, 2.0) : array_in(f, ACTIVATION, N, C, 2.0);
    Array *delta = place == SUM_IS_DELTA ? array_in_out(f, ACTIVATION, N, C, 1.0) : array_in(f, ACTIVATION, N, C, 1.0);
    Array *sum = place == SUM_IS_X ? x : place == SUM_IS_DELTA ? delta : array_out(f, ACTIVATION, N, C);
    Array *weight = array_if(f, v.has_weight, C), *bias = array_if(f, v.has_bias, C);
    Array *out = array_out(f, ACTIVATION, N, C);
    Statistics s = statistics_out(f, v, N);
    double *expected_sum = host_numbers(f, N * C);
    for (int i = 0; i < N * C; i++) expected_sum[i] = x->value[i] + delta->value[i];
    RUN_TWICE(f, be->residual_norm_forward(be, &norm, sum->device, out->device, device_or_null(s.mean), s.rstd->device,
                                           x->device, delta->device, device_or_null(weight), device_or_null(bias)));
    expect_exact(sum, expected_sum, "sum");
    round_to_element(f, ACTIVATION, expected_sum, N * C);
    expect_forward(expected_forward(f, &norm, expected_sum, weight, bias), out, s);
}

static void test_residual_forward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (SumPlace place = SUM_APART; place <= SUM_IS_DELTA; place++)
            for (size_t k = 0; k < 3; k++) /* all variants are met by each place */
                residual_forward(f, variants[(i + place + 2 * k) % VARIANTS], sizes[i][0], sizes[i][1], place);
}

/* ---- backward ---- */

/* A gradient of C numbers that is added to, or not, and is not passed where there is none. */
typedef struct Gradient {
    Array *array;
    const double *start;
    bool exists;
} Gradient;

static Gradient gradient_of(Fixture *f, int C, bool exists, bool accumulate) {
    Gradient g = {.exists = exists};
    g.array = array_gradient(f, 1, C, accumulate || !exists, &g.start);
    return g;
}

static void *device_of(Gradient g) { return g.exists ? g.array->device : NULL; }

/* Adds the start to what is expected. */
static void expect_gradient(Gradient g, double *expected, const char *what) {
    for (int c = 0; c < g.array->columns; c++) expected[c] = g.exists ? expected[c] + g.start[c] : g.array->value[c];
    if (g.exists)
        expect_near(g.array, expected, 1, what);
    else
        expect_exact(g.array, expected, what);
}

/* With the mean and rstd that the forward pass of the same table left. dx starts with the residual's gradient. */
static void backward(Fixture *f, Variant v, int N, int C, bool accumulate, double offset) {
    if (too_large(N, C)) return;
    Backend *be = f->be;
    const NormShape norm = {v.kind, v.eps, N, C};
    begin_variant(f, v, N, C, accumulate ? ", added" : "");
    Array *x = array_with_offset(f, N, C, offset), *weight = array_if(f, v.has_weight, C);
    Array *out = array_out(f, ACTIVATION, N, C), *dout = array_in(f, ACTIVATION, N, C, 1.0);
    Array *dx = array_in_out(f, ACTIVATION, N, C, 1.0);
    Statistics s = statistics_out(f, v, N);
    Gradient dweight = gradient_of(f, C, v.has_weight, accumulate), dbias = gradient_of(f, C, v.has_bias, accumulate);
    RUN_TWICE(f, be->norm_forward(be, &norm, out->device, device_or_null(s.mean), s.rstd->device, x->device,
                                  device_or_null(weight), NULL));
    RUN_TWICE(f, be->norm_backward(be, &norm, dx->device, device_of(dweight), device_of(dbias), dout->device, x->device,
                                   device_or_null(weight), device_or_null(s.mean), s.rstd->device, accumulate));
    double *edx = host_numbers(f, N * C), *edweight = host_numbers(f, C), *edbias = host_numbers(f, C);
    reference_norm_backward(&norm, edx, edweight, edbias, dout->value, x->value, value_or_null(weight));
    for (int i = 0; i < N * C; i++) edx[i] += dx->value[i];
    /* A row of one number has variance 0 and rstd 316: what remains of dy - mean(dy) is 316 times a rounding of dy. */
    expect_near(dx, edx, C == 1 ? 10 : 1, "dx");
    expect_gradient(dweight, edweight, "dweight");
    expect_gradient(dbias, edbias, "dbias");
}

static void test_backward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int v = 0; v < VARIANTS; v++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                if (has_its_turn(i + (size_t)(v + 2 * accumulate), 4))
                    backward(f, variants[v], sizes[i][0], sizes[i][1], accumulate, 0.5);
            }
}

/* As many rows as a small model has in a micro-batch: the column sums of dweight run over blocks of rows. */
static void test_backward_many_rows(void **state) {
    Fixture *f = fixture_of(state);
    const Variant rmsnorm = {NORM_RMSNORM, 1e-5f, true, false};
    backward(f, gpt2_layernorm, 1025, 100, false, 0.5);
    backward(f, gpt2_layernorm, 150, 16, true, 0.5);
    backward(f, gpt2_layernorm, 2048, 33, true, 0.5);
    backward(f, rmsnorm, 1025, 100, false, 0.5);
    backward(f, rmsnorm, 2048, 33, true, 0.5);
    backward(f, plain_rmsnorm, 1025, 100, false, 0.5);
}

static void test_backward_large_mean(void **state) {
    Fixture *f = fixture_of(state);
    for (int v = 0; v < VARIANTS; v++) backward(f, variants[v], 33, 384, false, 30);
}

/* ---- NaN and infinities ---- */

/* One of them makes NaN of its row of out and dx, and of the gradients that it is a factor of; other rows stay. */
static void special(Fixture *f, Variant v) {
    Backend *be = f->be;
    enum { N = 9, C = 100 };
    const NormShape norm = {v.kind, v.eps, N, C};
    begin_variant(f, v, N, C, ", special values");
    Array *x = array_in(f, ACTIVATION, N, C, 1.0), *delta = array_in(f, ACTIVATION, N, C, 1.0);
    Array *weight = array_if(f, v.has_weight, C), *bias = array_if(f, v.has_bias, C);
    Array *sum = array_out(f, ACTIVATION, N, C), *out = array_out(f, ACTIVATION, N, C);
    Statistics s = statistics_out(f, v, N);
    array_set(x, 0 * C + 5, NAN), array_set(x, 2 * C + 0, INFINITY), array_set(delta, 4 * C + C - 1, -INFINITY);
    if (weight) array_set(weight, 7, INFINITY);
    if (bias) array_set(bias, 8, NAN), array_set(bias, 9, -INFINITY);
    double *expected_sum = host_numbers(f, N * C);
    for (int i = 0; i < N * C; i++) expected_sum[i] = x->value[i] + delta->value[i];
    RUN_TWICE(f, be->residual_norm_forward(be, &norm, sum->device, out->device, device_or_null(s.mean), s.rstd->device,
                                           x->device, delta->device, device_or_null(weight), device_or_null(bias)));
    expect_exact(sum, expected_sum, "sum");
    round_to_element(f, ACTIVATION, expected_sum, N * C);
    Expected e = expected_forward(f, &norm, expected_sum, weight, bias);
    expect_each(out, e.out, 3, 1e-4, "out after the residual");
    e = expected_forward(f, &norm, x->value, weight, bias);
    RUN_TWICE(f, be->norm_forward(be, &norm, out->device, device_or_null(s.mean), s.rstd->device, x->device,
                                  device_or_null(weight), device_or_null(bias)));
    expect_each(out, e.out, 3, 1e-4, "out");
    expect_each(s.rstd, e.rstd, 1, 0, "rstd");
}

static void test_special(void **state) {
    Fixture *f = fixture_of(state);
    for (int v = 0; v < VARIANTS; v++) special(f, variants[v]);
}

typedef enum Place { IN_X, IN_DOUT, IN_DX, IN_WEIGHT } Place;

static void backward_special(Fixture *f, Variant v, double value, Place place) {
    Backend *be = f->be;
    enum { N = 9, C = 100 };
    const char *names[] = {", NaN or infinity in x", ", NaN or infinity in dout", ", NaN or infinity in dx",
                           ", NaN or infinity in weight"};
    const NormShape norm = {v.kind, v.eps, N, C};
    begin_variant(f, v, N, C, names[place]);
    Array *x = array_in(f, ACTIVATION, N, C, 1.0), *weight = array_if(f, v.has_weight, C);
    Array *out = array_out(f, ACTIVATION, N, C), *dout = array_in(f, ACTIVATION, N, C, 1.0);
    Array *dx = array_in_out(f, ACTIVATION, N, C, 1.0);
    Array *dweight = array_out(f, FLOAT, 1, C), *dbias = array_out(f, FLOAT, 1, C);
    Statistics s = statistics_out(f, v, N);
    array_set((Array *[]){x, dout, dx, weight}[place], place == IN_WEIGHT ? 11 : 4 * C + 11, value);
    RUN_TWICE(f, be->norm_forward(be, &norm, out->device, device_or_null(s.mean), s.rstd->device, x->device,
                                  device_or_null(weight), NULL));
    RUN_TWICE(f, be->norm_backward(be, &norm, dx->device, v.has_weight ? dweight->device : NULL,
                                   v.has_bias ? dbias->device : NULL, dout->device, x->device, device_or_null(weight),
                                   device_or_null(s.mean), s.rstd->device, false));
    double *edx = host_numbers(f, N * C), *edweight = host_numbers(f, C), *edbias = host_numbers(f, C);
    reference_norm_backward(&norm, edx, edweight, edbias, dout->value, x->value, value_or_null(weight));
    for (int k = 0; k < N * C; k++) edx[k] += dx->value[k];
    expect_each(dx, edx, 3, 1e-4, "dx");
    if (v.has_weight) expect_each(dweight, edweight, 1, 1e-4, "dweight");
    if (v.has_bias) expect_each(dbias, edbias, 1, 1e-4, "dbias");
}

static void test_backward_special(void **state) {
    Fixture *f = fixture_of(state);
    const double specials[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < (only_small_sizes() ? 1 : ARRAY_LENGTH(specials)); i++)
        for (int v = 0; v < VARIANTS; v++)
            for (Place place = IN_X; place <= (variants[v].has_weight ? IN_WEIGHT : IN_DX); place++)
                backward_special(f, variants[v], specials[i], place);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_forward_large_mean),
        cmocka_unit_test(test_forward_constant_row),
        cmocka_unit_test(test_forward_small_numbers),
        cmocka_unit_test(test_rmsnorm_has_no_mean),
        cmocka_unit_test(test_residual_forward),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_backward_many_rows),
        cmocka_unit_test(test_backward_large_mean),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_backward_special),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
