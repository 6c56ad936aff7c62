/* test_kernels_norm.c: tests LayerNorm of any Backend table, alone and with the residual addition in front of it. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>

#include "dev/test/kernels/reference.h"

/* The long rows: as many packs of 16 bytes as an odd number of warps has lanes; more than a GPU's thread block holds at
 * once, first of float alone and then of bfloat16 too, odd and even. */
static const int sizes[][2] = {{1, 1},    {3, 1},     {1, 3},    {2, 17},   {5, 64},   {33, 100}, {129, 64}, {33, 384},
                               {3, 1000}, {129, 384}, {257, 17}, {65, 768}, {7, 1600}, {5, 3584}, {2, 3585}, {3, 4096}};

enum { SMALL = 8000 }; /* elements */

static bool too_large(int N, int C) { return only_small_sizes() && N * C > SMALL; }

/* What LayerNorm of x should give. */
typedef struct Expected {
    double *out, *mean, *rstd;
} Expected;

static Expected expected_forward(Fixture *f, const double *x, const Array *weight, const Array *bias, int N, int C) {
    Expected e = {host_numbers(f, N * C), host_numbers(f, N), host_numbers(f, N)};
    reference_layernorm_forward(e.out, e.mean, e.rstd, x, weight->value, bias ? bias->value : NULL, N, C);
    return e;
}

static void expect_forward(Expected e, Array *out, Array *mean, Array *rstd) {
    expect_near(out, e.out, 1, "out");
    expect_near(mean, e.mean, 1, "mean");
    expect_near(rstd, e.rstd, 1, "rstd");
}

/* An array's device pointer; NULL for no array. */
static void *device_or_null(const Array *a) { return a ? a->device : NULL; }

/* x = offset + random numbers: mean and spread of a row differ as they do in a residual stream. */
static Array *array_with_offset(Fixture *f, int N, int C, double offset) {
    Array *x = array_in(f, ACTIVATION, N, C, 1.0);
    double *values = host_numbers(f, N * C);
    for (int i = 0; i < N * C; i++) values[i] = x->value[i] + offset;
    array_rewrite(x, values);
    return x;
}

/* ---- forward ---- */

static void forward(Fixture *f, int N, int C, bool has_bias, double offset) {
    if (too_large(N, C)) return;
    Backend *be = f->be;
    begin_case(f, "N=%d C=%d, bias %d, offset %g", N, C, has_bias, offset);
    Array *x = array_with_offset(f, N, C, offset), *weight = array_in(f, ACTIVATION, 1, C, 1.0);
    Array *bias = has_bias ? array_in(f, ACTIVATION, 1, C, 1.0) : NULL;
    Array *out = array_out(f, ACTIVATION, N, C), *mean = array_out(f, FLOAT, N, 1), *rstd = array_out(f, FLOAT, N, 1);
    RUN_TWICE(f, be->layernorm_forward(be, out->device, mean->device, rstd->device, x->device, weight->device,
                                       device_or_null(bias), N, C));
    expect_forward(expected_forward(f, x->value, weight, bias, N, C), out, mean, rstd);
}

static void test_forward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int has_bias = 0; has_bias < 2; has_bias++) forward(f, sizes[i][0], sizes[i][1], has_bias, 0.5);
}

/* Rows far from 0: E[x^2] - mean^2 in float32 would lose the variance, sum((x - mean)^2) does not. */
static void test_forward_large_mean(void **state) {
    Fixture *f = fixture_of(state);
    forward(f, 5, 384, true, 30);
    forward(f, 33, 100, false, -30);
}

/* A row of equal numbers has variance 0: out is the bias, rstd 1/sqrt(eps). */
static void test_forward_constant_row(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { N = 2, C = 64 };
    begin_case(f, "constant rows, N=%d C=%d", N, C);
    double *values = host_numbers(f, N * C);
    for (int c = 0; c < C; c++) values[C + c] = 3;
    Array *x = array_of(f, ACTIVATION, N, C, values), *weight = array_in(f, ACTIVATION, 1, C, 1.0);
    Array *bias = array_in(f, ACTIVATION, 1, C, 1.0), *out = array_out(f, ACTIVATION, N, C);
    Array *mean = array_out(f, FLOAT, N, 1), *rstd = array_out(f, FLOAT, N, 1);
    RUN_TWICE(f, be->layernorm_forward(be, out->device, mean->device, rstd->device, x->device, weight->device,
                                       bias->device, N, C));
    expect_forward(expected_forward(f, x->value, weight, bias, N, C), out, mean, rstd);
}

/* ---- residual + forward ---- */

typedef enum SumPlace { SUM_APART, SUM_IS_X, SUM_IS_DELTA } SumPlace;

/* sum is what the backward pass will see, so LayerNorm and its statistics are those of the rounded sum. */
static void residual_forward(Fixture *f, int N, int C, bool has_bias, SumPlace place) {
    if (too_large(N, C)) return;
    Backend *be = f->be;
    begin_case(f, "N=%d C=%d, bias %d, sum %s", N, C, has_bias,
               place == SUM_APART  ? "apart"
               : place == SUM_IS_X ? "is x"
                                   : "is delta");
    Array *x = place == SUM_IS_X ? array_in_out(f, ACTIVATION, N, C, 2.0) : array_in(f, ACTIVATION, N, C, 2.0);
    Array *delta = place == SUM_IS_DELTA ? array_in_out(f, ACTIVATION, N, C, 1.0) : array_in(f, ACTIVATION, N, C, 1.0);
    Array *sum = place == SUM_IS_X ? x : place == SUM_IS_DELTA ? delta : array_out(f, ACTIVATION, N, C);
    Array *weight = array_in(f, ACTIVATION, 1, C, 1.0), *bias = has_bias ? array_in(f, ACTIVATION, 1, C, 1.0) : NULL;
    Array *out = array_out(f, ACTIVATION, N, C), *mean = array_out(f, FLOAT, N, 1), *rstd = array_out(f, FLOAT, N, 1);
    double *expected_sum = host_numbers(f, N * C);
    for (int i = 0; i < N * C; i++) expected_sum[i] = x->value[i] + delta->value[i];
    RUN_TWICE(f, be->residual_layernorm_forward(be, sum->device, out->device, mean->device, rstd->device, x->device,
                                                delta->device, weight->device, device_or_null(bias), N, C));
    expect_exact(sum, expected_sum, "sum");
    round_to_element(f, ACTIVATION, expected_sum, N * C);
    expect_forward(expected_forward(f, expected_sum, weight, bias, N, C), out, mean, rstd);
}

static void test_residual_forward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (SumPlace place = SUM_APART; place <= SUM_IS_DELTA; place++)
            residual_forward(f, sizes[i][0], sizes[i][1], (i + place) % 2, place);
}

/* ---- backward ---- */

/* With the mean and rstd that the forward pass of the same table left. dx starts with the residual's gradient. */
static void backward(Fixture *f, int N, int C, bool has_bias, bool accumulate, double offset) {
    if (too_large(N, C)) return;
    Backend *be = f->be;
    begin_case(f, "N=%d C=%d, bias %d, accumulate %d, offset %g", N, C, has_bias, accumulate, offset);
    const double *weight_start, *bias_start;
    Array *x = array_with_offset(f, N, C, offset), *weight = array_in(f, ACTIVATION, 1, C, 1.0);
    Array *out = array_out(f, ACTIVATION, N, C), *mean = array_out(f, FLOAT, N, 1), *rstd = array_out(f, FLOAT, N, 1);
    Array *dout = array_in(f, ACTIVATION, N, C, 1.0), *dx = array_in_out(f, ACTIVATION, N, C, 1.0);
    Array *dweight = array_gradient(f, 1, C, accumulate, &weight_start);
    Array *dbias = array_gradient(f, 1, C, accumulate || !has_bias, &bias_start);
    RUN_TWICE(
        f, be->layernorm_forward(be, out->device, mean->device, rstd->device, x->device, weight->device, NULL, N, C));
    RUN_TWICE(f, be->layernorm_backward(be, dx->device, dweight->device, has_bias ? dbias->device : NULL, dout->device,
                                        x->device, weight->device, mean->device, rstd->device, N, C, accumulate));
    double *edx = host_numbers(f, N * C), *edweight = host_numbers(f, C), *edbias = host_numbers(f, C);
    reference_layernorm_backward(edx, edweight, edbias, dout->value, x->value, weight->value, N, C);
    for (int i = 0; i < N * C; i++) edx[i] += dx->value[i];
    for (int c = 0; c < C; c++) edweight[c] += weight_start[c], edbias[c] += bias_start[c];
    /* A row of one number has variance 0 and rstd 316: what remains of dy - mean(dy) is 316 times a rounding of dy. */
    expect_near(dx, edx, C == 1 ? 10 : 1, "dx");
    expect_near(dweight, edweight, 1, "dweight");
    if (has_bias)
        expect_near(dbias, edbias, 1, "dbias");
    else
        expect_exact(dbias, dbias->value, "dbias that was not passed");
}

static void test_backward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int variant = 0; variant < 4; variant++) {
            if (only_small_sizes() && variant != (int)i % 4) continue;
            backward(f, sizes[i][0], sizes[i][1], variant & 1, variant & 2, 0.5);
        }
}

/* As many rows as a small model has in a micro-batch: the column sums of dweight run over blocks of rows. */
static void test_backward_many_rows(void **state) {
    Fixture *f = fixture_of(state);
    backward(f, 1025, 100, true, false, 0.5);
    backward(f, 150, 16, true, true, 0.5);
    backward(f, 2048, 33, true, true, 0.5);
}

static void test_backward_large_mean(void **state) { backward(fixture_of(state), 33, 384, true, false, 30); }

/* ---- NaN and infinities ---- */

/* One of them makes NaN of its row of out and dx, and of the gradients that it is a factor of; other rows stay. */
static void test_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { N = 9, C = 100 };
    begin_case(f, "special values");
    Array *x = array_in(f, ACTIVATION, N, C, 1.0), *delta = array_in(f, ACTIVATION, N, C, 1.0);
    Array *weight = array_in(f, ACTIVATION, 1, C, 1.0), *bias = array_in(f, ACTIVATION, 1, C, 1.0);
    Array *sum = array_out(f, ACTIVATION, N, C), *out = array_out(f, ACTIVATION, N, C);
    Array *mean = array_out(f, FLOAT, N, 1), *rstd = array_out(f, FLOAT, N, 1);
    array_set(x, 0 * C + 5, NAN), array_set(x, 2 * C + 0, INFINITY), array_set(delta, 4 * C + C - 1, -INFINITY);
    array_set(weight, 7, INFINITY), array_set(bias, 8, NAN), array_set(bias, 9, -INFINITY);
    double *expected_sum = host_numbers(f, N * C);
    for (int i = 0; i < N * C; i++) expected_sum[i] = x->value[i] + delta->value[i];
    RUN_TWICE(f, be->residual_layernorm_forward(be, sum->device, out->device, mean->device, rstd->device, x->device,
                                                delta->device, weight->device, bias->device, N, C));
    expect_exact(sum, expected_sum, "sum");
    round_to_element(f, ACTIVATION, expected_sum, N * C);
    Expected e = expected_forward(f, expected_sum, weight, bias, N, C);
    expect_each(out, e.out, 3, 1e-4, "out after the residual");
    e = expected_forward(f, x->value, weight, bias, N, C);
    RUN_TWICE(f, be->layernorm_forward(be, out->device, mean->device, rstd->device, x->device, weight->device,
                                       bias->device, N, C));
    expect_each(out, e.out, 3, 1e-4, "out");
    expect_each(rstd, e.rstd, 1, 0, "rstd");
}

static void test_backward_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { N = 9, C = 100 };
    const double specials[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < (only_small_sizes() ? 1 : ARRAY_LENGTH(specials)); i++)
        for (int where = 0; where < 4; where++) {
            const char *names[] = {"x", "dout", "weight", "dx"};
            begin_case(f, "%g in %s", specials[i], names[where]);
            Array *x = array_in(f, ACTIVATION, N, C, 1.0), *weight = array_in(f, ACTIVATION, 1, C, 1.0);
            Array *out = array_out(f, ACTIVATION, N, C), *mean = array_out(f, FLOAT, N, 1);
            Array *rstd = array_out(f, FLOAT, N, 1), *dout = array_in(f, ACTIVATION, N, C, 1.0);
            Array *dx = array_in_out(f, ACTIVATION, N, C, 1.0);
            Array *dweight = array_out(f, FLOAT, 1, C), *dbias = array_out(f, FLOAT, 1, C);
            Array *special = (Array *[]){x, dout, weight, dx}[where];
            array_set(special, where == 2 ? 11 : 4 * C + 11, specials[i]);
            RUN_TWICE(f, be->layernorm_forward(be, out->device, mean->device, rstd->device, x->device, weight->device,
                                               NULL, N, C));
            RUN_TWICE(f, be->layernorm_backward(be, dx->device, dweight->device, dbias->device, dout->device, x->device,
                                                weight->device, mean->device, rstd->device, N, C, false));
            double *edx = host_numbers(f, N * C), *edweight = host_numbers(f, C), *edbias = host_numbers(f, C);
            reference_layernorm_backward(edx, edweight, edbias, dout->value, x->value, weight->value, N, C);
            for (int k = 0; k < N * C; k++) edx[k] += dx->value[k];
            expect_each(dx, edx, 3, 1e-4, "dx");
            expect_each(dweight, edweight, 1, 1e-4, "dweight");
            expect_each(dbias, edbias, 1, 1e-4, "dbias");
        }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_forward_large_mean),
        cmocka_unit_test(test_forward_constant_row),
        cmocka_unit_test(test_residual_forward),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_backward_many_rows),
        cmocka_unit_test(test_backward_large_mean),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_backward_special),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
