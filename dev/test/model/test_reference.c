/* test_reference.c: tests the float64 reference itself. Its forward functions against numbers worked out by hand,
 * its backward functions, coordinate by coordinate, against central differences of the forward ones. The kernels are
 * then tested against the reference at any size (test_kernels*.c). */
#include "dev/test/test.h"

#include <math.h>
#include <stdlib.h>

#include "dev/test/kernels/reference.h"
#include "util/philox.h"

/* In float64 a step of 1e-4 leaves an error of about 1e-8 in the slope: the square of the step, times a third
 * derivative; rounding adds 1e-12. */
static const double step = 1e-4, limit = 1e-6;

/* ---- central differences ---- */

/* One operation on fixed shapes: up to three inputs, and the arrays that forward() needs room for. */
typedef struct Case {
    double *input[3];
    const double *rotation, *factors;
    double eps, softcap;
    NormShape norm;
    ActivationKind activation;
    double *out, *mean, *rstd;
    const double *dout;
    const int32_t *tokens;
    int B, T, C, NH, N, IC, OC, V, VP;
    int64_t out_count;
    void (*forward)(struct Case *c);
} Case;

static double *zeros(int64_t n) { return checked_calloc((size_t)n, sizeof(double), "zeros"); }

static double *random_numbers(int64_t n, uint32_t stream) {
    double *x = zeros(n);
    for (int64_t i = 0; i < n; i++) x[i] = philox_normal(philox(7, PHILOX_INIT_WEIGHTS, stream, (uint64_t)i));
    return x;
}

/* The scalar whose gradient a backward function returns: <dout, out>. */
static double loss(Case *c) {
    double sum = 0;
    c->forward(c);
    for (int64_t i = 0; i < c->out_count; i++) sum += c->dout[i] * c->out[i];
    return sum;
}

/* Compares `gradient` of n numbers with the slopes of the loss along each coordinate of x, one of c's inputs. */
static void assert_is_gradient(Case *c, const double *gradient, double *x, int64_t n, const char *what) {
    double *slope = zeros(n);
    for (int64_t i = 0; i < n; i++) {
        double middle = x[i];
        x[i] = middle + step;
        double above = loss(c);
        x[i] = middle - step;
        double below = loss(c);
        x[i] = middle;
        slope[i] = (above - below) / (2 * step);
    }
    assert_error_below(relative_error(gradient, slope, (size_t)n), limit, what);
    free(slope);
}

static void free_all(double **arrays, size_t count) {
    for (size_t i = 0; i < count; i++) free(arrays[i]);
}

/* ---- each backward function ---- */

static void embedding(Case *c) {
    reference_embedding_forward(c->out, c->tokens, c->input[0], c->input[1], c->B, c->T, c->C);
}

static void test_embedding_gradient(void **state) {
    (void)state;
    enum { B = 3, T = 4, C = 5, V = 6 };
    const int32_t tokens[B * T] = {0, 5, 5, 1, 2, 5, 0, 0, 3, 3, 3, 3};
    double *a[] = {random_numbers(V * C, 1),
                   random_numbers(T * C, 2),
                   random_numbers(B * T * C, 3),
                   zeros(B * T * C),
                   zeros(V * C),
                   zeros(T * C)};
    Case c = {.input = {a[0], a[1]},
              .dout = a[2],
              .out = a[3],
              .out_count = B * T * C,
              .tokens = tokens,
              .B = B,
              .T = T,
              .C = C,
              .forward = embedding};
    reference_embedding_backward(a[4], a[5], c.dout, tokens, B, T, C, V);
    assert_is_gradient(&c, a[4], a[0], V * C, "dwte");
    assert_is_gradient(&c, a[5], a[1], T * C, "dwpe");
    free_all(a, ARRAY_LENGTH(a));
}

static void norm(Case *c) {
    reference_norm_forward(&c->norm, c->out, c->mean, c->rstd, c->input[0], c->input[1], c->input[2]);
}

static void norm_gradient(NormKind kind, float eps, bool has_weight) {
    const int sizes[][2] = {{1, 1}, {4, 3}, {5, 17}, {3, 64}};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        int N = sizes[i][0], C = sizes[i][1], n = N * C;
        double *a[] = {random_numbers(n, 1),
                       random_numbers(C, 2),
                       random_numbers(C, 3),
                       random_numbers(n, 4),
                       zeros(n),
                       zeros(N),
                       zeros(N),
                       zeros(n),
                       zeros(C),
                       zeros(C)};
        Case c = {.input = {a[0], has_weight ? a[1] : NULL, a[2]},
                  .dout = a[3],
                  .out = a[4],
                  .mean = a[5],
                  .rstd = a[6],
                  .out_count = n,
                  .norm = {kind, eps, N, C},
                  .forward = norm};
        reference_norm_backward(&c.norm, a[7], a[8], a[9], c.dout, a[0], c.input[1]);
        assert_is_gradient(&c, a[7], a[0], n, "norm dx");
        if (has_weight) assert_is_gradient(&c, a[8], a[1], C, "norm dweight");
        assert_is_gradient(&c, a[9], a[2], C, "norm dbias");
        free_all(a, ARRAY_LENGTH(a));
    }
}

static void test_norm_gradient(void **state) {
    (void)state;
    norm_gradient(NORM_LAYERNORM, 1e-5f, true);
    norm_gradient(NORM_LAYERNORM, 0.0078125f, false);
    norm_gradient(NORM_RMSNORM, 1e-3f, true);
    norm_gradient(NORM_RMSNORM, 0.0078125f, false);
}

static void matmul(Case *c) {
    reference_matmul_forward(c->out, c->input[0], c->input[1], c->input[2], c->N, c->IC, c->OC);
}

static void test_matmul_gradient(void **state) {
    (void)state;
    const int sizes[][3] = {{1, 1, 1}, {5, 3, 7}, {7, 17, 4}, {2, 33, 40}};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        int N = sizes[i][0], IC = sizes[i][1], OC = sizes[i][2];
        double *a[] = {random_numbers(N * IC, 1),
                       random_numbers(OC * IC, 2),
                       random_numbers(OC, 3),
                       random_numbers(N * OC, 4),
                       zeros(N * OC),
                       zeros(N * IC),
                       zeros(OC * IC),
                       zeros(OC)};
        Case c = {.input = {a[0], a[1], a[2]},
                  .dout = a[3],
                  .out = a[4],
                  .out_count = N * OC,
                  .N = N,
                  .IC = IC,
                  .OC = OC,
                  .forward = matmul};
        reference_matmul_backward_input(a[5], c.dout, a[1], N, IC, OC);
        reference_matmul_backward_weight(a[6], a[7], c.dout, a[0], N, IC, OC);
        assert_is_gradient(&c, a[5], a[0], N * IC, "matmul din");
        assert_is_gradient(&c, a[6], a[1], OC * IC, "matmul dweight");
        assert_is_gradient(&c, a[7], a[2], OC, "matmul dbias");
        free_all(a, ARRAY_LENGTH(a));
    }
}

static void activation(Case *c) { reference_activation_forward(c->activation, c->out, c->input[0], c->out_count); }

static void activation_gradient(ActivationKind kind) {
    enum { n = 500 };
    double *a[] = {random_numbers(n, 1), random_numbers(n, 2), zeros(n), zeros(n)};
    for (int i = 0; i < n; i++) a[0][i] *= 3; /* reaches both tails */
    Case c = {.input = {a[0]}, .dout = a[1], .out = a[2], .out_count = n, .activation = kind, .forward = activation};
    reference_activation_backward(kind, a[3], c.dout, a[0], n);
    assert_is_gradient(&c, a[3], a[0], n, "activation dpre");
    free_all(a, ARRAY_LENGTH(a));
}

static void test_activation_gradient(void **state) {
    (void)state;
    activation_gradient(ACTIVATION_GELU);
    activation_gradient(ACTIVATION_RELU2);
}

/* rstd NULL: no norm. */
static void qk_norm_rope(Case *c) {
    reference_qk_norm_rope_forward(c->out, c->rstd, c->input[0], c->rotation, c->eps, c->B, c->T, c->C, c->NH);
}

static void qk_norm_rope_gradient(bool has_norm, bool has_rotation, double eps, int NH, int HS) {
    enum { B = 2, T = 3 };
    int C = NH * HS, n = B * T * 3 * C;
    double *a[] = {random_numbers(n, 1),  random_numbers(n, 2), zeros(n), zeros(n),
                   zeros(B * T * 2 * NH), zeros(T * HS)};
    for (int i = 0; i < T * HS / 2; i++) a[5][2 * i] = cos(0.1 + i), a[5][2 * i + 1] = sin(0.1 + i);
    Case c = {.input = {a[0]},
              .dout = a[1],
              .out = a[2],
              .rstd = has_norm ? a[4] : NULL,
              .rotation = has_rotation ? a[5] : NULL,
              .eps = eps,
              .out_count = n,
              .B = B,
              .T = T,
              .C = C,
              .NH = NH,
              .forward = qk_norm_rope};
    reference_qk_norm_rope_backward(a[3], c.dout, a[0], has_norm, c.rotation, eps, B, T, C, NH);
    assert_is_gradient(&c, a[3], a[0], n, "dqkv");
    free_all(a, ARRAY_LENGTH(a));
}

static void test_qk_norm_rope_gradient(void **state) {
    (void)state;
    qk_norm_rope_gradient(true, true, 0.0078125, 2, 8);
    qk_norm_rope_gradient(true, true, 1.1920929e-07, 3, 6);
    qk_norm_rope_gradient(true, false, 0.0078125, 2, 5);
    qk_norm_rope_gradient(false, true, 0, 1, 2);
}

static void attention(Case *c) {
    reference_attention_forward(c->out, c->mean, c->input[0], c->factors, c->B, c->T, c->C, c->NH, 0.3);
}

/* With dropout at a rate, 0 for none. */
static void attention_gradient(int B, int T, int NH, int HS, float rate) {
    int C = NH * HS, n = B * T * C;
    double *a[] = {random_numbers(3 * n, 1), random_numbers(n, 2), zeros(n),
                   zeros(B * NH * T),        zeros(3 * n),         zeros(B * NH * T * T)};
    Dropout dropout = {.rate = rate, .seed = 3, .place = 2, .first_sequence = 7};
    reference_attention_factors(a[5], &dropout, B, T, NH);
    Case c = {.input = {a[0]},
              .factors = rate > 0 ? a[5] : NULL,
              .dout = a[1],
              .out = a[2],
              .mean = a[3],
              .out_count = n,
              .B = B,
              .T = T,
              .C = C,
              .NH = NH,
              .forward = attention};
    reference_attention_backward(a[4], c.dout, a[0], c.factors, B, T, C, NH, 0.3);
    assert_is_gradient(&c, a[4], a[0], 3 * n, rate > 0 ? "attention dqkv with dropout" : "attention dqkv");
    free_all(a, ARRAY_LENGTH(a));
}

static void test_attention_gradient(void **state) {
    (void)state;
    const int sizes[][4] = {{1, 1, 1, 1}, {2, 5, 3, 3}, {3, 9, 2, 5}, {1, 33, 1, 8}, {1, 17, 1, 16}};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        attention_gradient(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], 0.0f);
        if (sizes[i][1] > 1) attention_gradient(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], 0.4f);
    }
}

static void cross_entropy(Case *c) {
    reference_cross_entropy_forward(c->out, c->input[0], c->tokens, c->softcap, c->N, c->V, c->VP);
}

static void cross_entropy_gradient(double softcap) {
    enum { N = 4, V = 13, VP = 16 };
    const int32_t targets[N] = {0, 12, 5, 5};
    double *a[] = {random_numbers(N * VP, 1), zeros(N), zeros(N), zeros(N * VP)};
    for (int n = 0; n < N; n++) a[1][n] = 0.7; /* every row's loss weighs dloss */
    Case c = {.input = {a[0]},
              .dout = a[1],
              .out = a[2],
              .out_count = N,
              .tokens = targets,
              .softcap = softcap,
              .N = N,
              .V = V,
              .VP = VP,
              .forward = cross_entropy};
    reference_cross_entropy_backward(a[3], 0.7, a[0], targets, softcap, N, V, VP);
    assert_is_gradient(&c, a[3], a[0], N * VP, "cross entropy dlogits");
    free_all(a, ARRAY_LENGTH(a));
}

static void test_cross_entropy_gradient(void **state) {
    (void)state;
    cross_entropy_gradient(0);
    cross_entropy_gradient(2);
}

/* ---- forward functions, by hand ---- */

static void assert_near(double got, double expected) {
    if (!(fabs(got - expected) <= 1e-12)) fail_msg("%.15g is not %.15g", got, expected);
}

static void test_embedding_by_hand(void **state) {
    (void)state;
    const int32_t tokens[4] = {2, 0, 1, 1};
    const double wte[6] = {1, 2, 3, 4, 5, 6}, wpe[4] = {10, 20, 30, 40};
    const double expected[8] = {15, 26, 31, 42, 13, 24, 33, 44};
    double out[8];
    reference_embedding_forward(out, tokens, wte, wpe, 2, 2, 2);
    for (int i = 0; i < 8; i++) assert_near(out[i], expected[i]);
}

static void test_norm_by_hand(void **state) {
    (void)state;
    const NormShape layernorm = {NORM_LAYERNORM, 1e-5f, 2, 3}, rmsnorm = {NORM_RMSNORM, 0.5f, 2, 3};
    const double eps = (double)1e-5f;
    const double x[6] = {1, 2, 3, -3, 0, 6}, weight[3] = {1, 2, 3}, bias[3] = {0, 10, 100};
    double out[6], mean[2], rstd[2];
    reference_norm_forward(&layernorm, out, mean, rstd, x, weight, bias);
    assert_near(mean[0], 2);
    assert_near(mean[1], 1);
    assert_near(rstd[0], 1 / sqrt(2.0 / 3 + eps));  /* deviations -1, 0, 1 */
    assert_near(rstd[1], 1 / sqrt(42.0 / 3 + eps)); /* deviations -4, -1, 5 */
    assert_near(out[0], -rstd[0]);
    assert_near(out[1], 10);
    assert_near(out[5], 100 + 3 * 5 * rstd[1]);
    reference_norm_forward(&layernorm, out, mean, rstd, x, weight, NULL);
    assert_near(out[5], 3 * 5 * rstd[1]);
    reference_norm_forward(&rmsnorm, out, mean, rstd, x, weight, NULL);
    assert_near(rstd[0], 1 / sqrt(14.0 / 3 + 0.5));
    assert_near(rstd[1], 1 / sqrt(45.0 / 3 + 0.5));
    assert_near(out[5], 3 * 6 * rstd[1]);
    reference_norm_forward(&rmsnorm, out, mean, rstd, x, NULL, NULL);
    assert_near(out[3], -3 * rstd[1]);
}

static void test_matmul_by_hand(void **state) {
    (void)state;
    const double in[4] = {1, 2, 3, 4}, weight[6] = {1, 0, 0, 1, 5, -1}, bias[3] = {0, 100, 1000};
    const double expected[6] = {1, 102, 1003, 3, 104, 1011};
    double out[6];
    reference_matmul_forward(out, in, weight, bias, 2, 2, 3);
    for (int i = 0; i < 6; i++) assert_near(out[i], expected[i]);
    reference_matmul_forward(out, in, weight, NULL, 2, 2, 3);
    for (int i = 0; i < 6; i++) assert_near(out[i], expected[i] - bias[i % 3]);
}

static void test_activation_by_hand(void **state) {
    (void)state;
    const double pre[5] = {0, 1, -1, 50, -50};
    double out[5];
    reference_activation_forward(ACTIVATION_GELU, out, pre, 5);
    assert_near(out[0], 0);
    assert_near(out[1], 0.841191990608276); /* the exact, erf, form has 0.841344746068543 */
    assert_near(out[2], out[1] - 1);        /* GELU(x) - GELU(-x) = x */
    assert_near(out[3], 50);
    assert_near(out[4], 0);
    const double squares[5] = {0, 1, 0, 2500, 0}, slopes[5] = {0, 2, 0, 100, 0}, ones[5] = {1, 1, 1, 1, 1};
    reference_activation_forward(ACTIVATION_RELU2, out, pre, 5);
    for (int i = 0; i < 5; i++) assert_near(out[i], squares[i]);
    reference_activation_backward(ACTIVATION_RELU2, out, ones, pre, 5);
    for (int i = 0; i < 5; i++) assert_near(out[i], slopes[i]);
}

/* One head of two tokens, whose numbers are in pairs (0, 2) and (1, 3). The second token turns the first pair by a
 * quarter, the second pair not. */
static void test_qk_norm_rope_by_hand(void **state) {
    (void)state;
    enum { T = 2, C = 4 };
    const double qkv[T * 3 * C] = {1, 1, 1, 1, 2, 4, 6, 8, 9, 9, 9, 9, 3, 5, 7, 11, 1, 2, 3, 4, 5, 6, 7, 8};
    const double rotation[T * C] = {1, 0, 1, 0, 0, 1, 1, 0};
    const double turned[T * 3 * C] = {1, 1, 1, 1, 2, 4, 6, 8, 9, 9, 9, 9, 7, 5, -3, 11, 3, 2, -1, 4, 5, 6, 7, 8};
    double out[T * 3 * C], rstd[T * 2];
    reference_qk_norm_rope_forward(out, NULL, qkv, rotation, 0, 1, T, C, 1);
    for (int i = 0; i < T * 3 * C; i++) assert_near(out[i], turned[i]);
    reference_qk_norm_rope_forward(out, rstd, qkv, rotation, 1, 1, T, C, 1);
    const double squares[T * 2] = {4, 120, 204, 30};
    for (int i = 0; i < T * 2; i++) assert_near(rstd[i], 1 / sqrt(squares[i] / 4 + 1));
    for (int i = 0; i < T * 3 * C; i++) {
        int part = i % (3 * C) / C, token = i / (3 * C);
        assert_near(out[i], turned[i] * (part < 2 ? rstd[token * 2 + part] : 1));
    }
    reference_qk_norm_rope_forward(out, rstd, qkv, NULL, 1, 1, T, C, 1);
    assert_near(out[12], 3 * rstd[2]);
    assert_near(out[23], 8);
}

/* Two heads of size 1. Equal keys: each query sees the mean of the values so far. Else: a softmax of two scores. */
static void test_attention_by_hand(void **state) {
    (void)state;
    enum { T = 2, C = 2, NH = 2 };
    const double qkv[T * 3 * C] = {9, 1, 4, 0, 10, 30, 2, 2, 4, 3, 20, 50};
    double out[T * C], lse[NH * T];
    reference_attention_forward(out, lse, qkv, NULL, 1, T, C, NH, 0.5);
    double p = 1 / (1 + exp(0.5 * 2 * 3)); /* weight of key 0 (score 0) against key 1 (score 0.5 * 2 * 3) */
    assert_near(out[0], 10);
    assert_near(out[1], 30);
    assert_near(out[2], 15);
    assert_near(out[3], p * 30 + (1 - p) * 50);
    assert_near(lse[0], 0.5 * 9 * 4);
    assert_near(lse[1], 0.5 * 2 * 4 + log(2));
    assert_near(lse[2], 0);
    assert_near(lse[3], log(1 + exp(3)));
}

static void test_cross_entropy_by_hand(void **state) {
    (void)state;
    const int32_t targets[3] = {1, 0, 2};
    const double logits[12] = {5, 5, 5, 99, 1e4, 0, -1e4, 99, 1e4, 0, -1e4, 99};
    double losses[3];
    reference_cross_entropy_forward(losses, logits, targets, 0, 3, 3, 4);
    assert_near(losses[0], log(3)); /* the fourth column is padding */
    assert_near(losses[1], 0);
    assert_near(losses[2], 2e4);
    const double two[2] = {3, -4}; /* with softcap 4 and 3 these count as 12/5 and -16/sqrt(32), 9/sqrt(18) and -12/5 */
    const int32_t first = 0;
    reference_cross_entropy_forward(losses, two, &first, 4, 1, 2, 2);
    assert_near(losses[0], log(1 + exp(-16 / sqrt(32) - 12.0 / 5)));
    reference_cross_entropy_forward(losses, two, &first, 3, 1, 2, 2);
    assert_near(losses[0], log(1 + exp(-12.0 / 5 - 9 / sqrt(18))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding_by_hand),    cmocka_unit_test(test_norm_by_hand),
        cmocka_unit_test(test_matmul_by_hand),       cmocka_unit_test(test_activation_by_hand),
        cmocka_unit_test(test_qk_norm_rope_by_hand), cmocka_unit_test(test_qk_norm_rope_gradient),
        cmocka_unit_test(test_attention_by_hand),    cmocka_unit_test(test_cross_entropy_by_hand),
        cmocka_unit_test(test_embedding_gradient),   cmocka_unit_test(test_norm_gradient),
        cmocka_unit_test(test_matmul_gradient),      cmocka_unit_test(test_activation_gradient),
        cmocka_unit_test(test_attention_gradient),   cmocka_unit_test(test_cross_entropy_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
