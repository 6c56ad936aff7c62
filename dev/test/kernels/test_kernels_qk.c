/* test_kernels_qk.c: tests QK-norm and rotary positions of any Backend table, each alone and both together. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>
#include <string.h>

#include "dev/test/kernels/reference.h"

typedef struct Size {
    int B, T, NH, HS;
} Size;

/* Heads from one number to more than a warp's packs of 16 bytes, of sizes that fit no pack, odd ones (which cannot be
 * rotated) among them, and of as many packs as no power of 2 is; more rows than a GPU has warps in a block. */
static const Size sizes[] = {{1, 1, 1, 1},    {1, 1, 1, 2},    {2, 5, 3, 3},     {3, 33, 5, 16}, {2, 17, 2, 64},
                             {1, 70, 6, 128}, {2, 9, 2, 65},   {1, 129, 12, 64}, {5, 7, 1, 256}, {2, 3, 25, 66},
                             {3, 4, 3, 6},    {2, 11, 1, 512}, {2, 5, 3, 48}};

/* Which of the two are done, and with which eps: PyTorch's for float32 and for bfloat16. */
typedef struct Mode {
    bool has_norm, has_rotation;
    float eps;
} Mode;

static const Mode modes[] = {{true, true, 0.0078125f},
                             {true, true, 1.1920929e-07f},
                             {true, false, 0.0078125f},
                             {true, false, 1.1920929e-07f},
                             {false, true, 0}};

static void begin_mode(Fixture *f, Size s, Mode m, const char *rest) {
    begin_case(f, "B=%d T=%d NH=%d HS=%d, norm %d, rotation %d, eps %g%s", s.B, s.T, s.NH, s.HS, m.has_norm,
               m.has_rotation, (double)m.eps, rest);
}

static bool fits(Size s, Mode m) { return !m.has_rotation || s.HS % 2 == 0; }

/* rotation (T,HS/2,2): position t turns pair i by the angle t 10000^(-2i/HS). */
static Array *array_rotation(Fixture *f, int T, int HS) {
    double *values = host_numbers(f, (int64_t)T * HS);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < HS / 2; i++) {
            double angle = t * pow(10000, -2.0 * i / HS);
            values[t * HS + 2 * i] = cos(angle), values[t * HS + 2 * i + 1] = sin(angle);
        }
    return array_of(f, FLOAT, T, HS, values);
}

static void *device_if(bool exists, const Array *a) { return exists ? a->device : NULL; }
static const double *value_if(bool exists, const Array *a) { return exists ? a->value : NULL; }

/* v and what is not passed stay as they were, to the bit. */
static void expect_values_kept(Fixture *f, Array *qkv, const double *start) {
    const double *got = fetch(qkv);
    int C = (int)qkv->columns / 3;
    for (int64_t row = 0; row < qkv->rows; row++)
        if (memcmp(got + row * 3 * C + 2 * C, start + row * 3 * C + 2 * C, (size_t)C * sizeof *got) != 0)
            fail_msg("%s: values of row %d changed", f->where, (int)row);
}

/* ---- both passes ---- */

/* Each number is rounded once, so each has a limit of its own; a rotation adds two of about the same size, and leaves a
 * float32 rounding of them. The backward pass takes queries and keys as the table has rounded them. */
static void both_passes(Fixture *f, Size s, Mode m) {
    if (!fits(s, m)) return;
    Backend *be = f->be;
    int C = s.NH * s.HS, N = s.B * s.T;
    begin_mode(f, s, m, "");
    Array *qkv = array_in_out(f, ACTIVATION, N, 3 * C, 2.0), *dqkv = array_in_out(f, ACTIVATION, N, 3 * C, 1.0);
    Array *rotation = array_rotation(f, s.T + 3, s.HS);
    Array *rstd = m.has_norm ? array_out(f, FLOAT, N, 2 * s.NH) : array_in(f, FLOAT, N, 2 * s.NH, 1.0);
    double *out = host_numbers(f, N * 3 * C), *erstd = host_numbers(f, N * 2 * s.NH),
           *edqkv = host_numbers(f, N * 3 * C);
    const double *angles = value_if(m.has_rotation, rotation);
    reference_qk_norm_rope_forward(out, m.has_norm ? erstd : NULL, qkv->value, angles, m.eps, s.B, s.T, C, s.NH);
    reference_qk_norm_rope_backward(edqkv, dqkv->value, qkv->value, m.has_norm, angles, m.eps, s.B, s.T, C, s.NH);
    RUN_TWICE(f, be->qk_norm_rope_forward(be, qkv->device, device_if(m.has_norm, rstd),
                                          device_if(m.has_rotation, rotation), m.eps, s.B, s.T, C, s.NH));
    expect_each(qkv, out, 1, 1e-5, "queries and keys");
    expect_values_kept(f, qkv, qkv->value);
    if (m.has_norm)
        expect_each(rstd, erstd, 1, 0, "rstd");
    else
        expect_exact(rstd, rstd->value, "rstd that was not passed");
    double *left = fetch(qkv);
    RUN_TWICE(f, be->qk_norm_rope_backward(be, dqkv->device, qkv->device, device_if(m.has_norm, rstd),
                                           device_if(m.has_rotation, rotation), s.B, s.T, C, s.NH));
    expect_near(dqkv, edqkv, m.has_norm ? 2 : 1, "their gradients");
    expect_values_kept(f, dqkv, dqkv->value);
    expect_exact(qkv, left, "queries and keys after the backward pass");
}

static void test_both_passes(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (size_t k = 0; k < ARRAY_LENGTH(modes); k++)
            if (has_its_turn(i + k, 2)) both_passes(f, sizes[i], modes[k]);
}

/* Small numbers, where the large eps outweighs their squares, and large ones. */
static void test_sizes_of_numbers(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const double deviations[] = {1e-4, 0.05, 3e3};
    const Size s = {2, 9, 3, 32};
    int C = s.NH * s.HS, N = s.B * s.T;
    for (size_t i = 0; i < ARRAY_LENGTH(deviations); i++)
        for (size_t k = 0; k < ARRAY_LENGTH(modes); k++) {
            begin_mode(f, s, modes[k], ", other sizes of numbers");
            Array *qkv = array_in_out(f, ACTIVATION, N, 3 * C, deviations[i]), *rotation = array_rotation(f, s.T, s.HS);
            Array *rstd = array_out(f, FLOAT, N, 2 * s.NH);
            double *out = host_numbers(f, N * 3 * C), *erstd = host_numbers(f, N * 2 * s.NH);
            reference_qk_norm_rope_forward(out, modes[k].has_norm ? erstd : NULL, qkv->value,
                                           value_if(modes[k].has_rotation, rotation), modes[k].eps, s.B, s.T, C, s.NH);
            RUN_TWICE(f, be->qk_norm_rope_forward(be, qkv->device, device_if(modes[k].has_norm, rstd),
                                                  device_if(modes[k].has_rotation, rotation), modes[k].eps, s.B, s.T, C,
                                                  s.NH));
            expect_near(qkv, out, 1, "queries and keys");
            if (modes[k].has_norm) expect_each(rstd, erstd, 1, 0, "rstd");
        }
}

/* ---- positions ---- */

/* One token at position t of a sequence, as decoding has it, is given row t of the table. */
static void test_one_position(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const Size s = {3, 8, 2, 34};
    int C = s.NH * s.HS;
    for (int t = 0; t < s.T; t++) {
        begin_case(f, "position %d", t);
        Array *qkv = array_in_out(f, ACTIVATION, s.B, 3 * C, 1.0), *rotation = array_rotation(f, s.T, s.HS);
        double *expected = host_numbers(f, s.B * 3 * C);
        memcpy(expected, qkv->value, (size_t)(s.B * 3 * C) * sizeof *expected);
        for (int head = 0; head < s.B * 2 * s.NH; head++)
            for (int i = 0; i < s.HS / 2; i++) {
                double *x = expected + head / (2 * s.NH) * 3 * C + head % (2 * s.NH) * s.HS + i, *y = x + s.HS / 2;
                double angle = t * pow(10000, -2.0 * i / s.HS), first = *x;
                *x = first * cos(angle) + *y * sin(angle);
                *y = *y * cos(angle) - first * sin(angle);
            }
        RUN_TWICE(f, be->qk_norm_rope_forward(be, qkv->device, NULL, (float *)rotation->device + t * s.HS, 0, s.B, 1, C,
                                              s.NH));
        expect_each(qkv, expected, 1, 1e-5, "rotated");
    }
}

/* What rotations are for: the score of a query and a key depends on how far apart they are, not on where. */
static void test_scores_depend_on_distance(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { T = 24, HS = 32, C = HS, DISTANCE = 5 };
    begin_case(f, "scores");
    double *values = host_numbers(f, T * 3 * C);
    Array *one = array_in(f, ACTIVATION, 1, 3 * C, 1.0), *qkv = array_in_out(f, ACTIVATION, T, 3 * C, 1.0);
    for (int i = 0; i < T * 3 * C; i++) values[i] = one->value[i % (3 * C)];
    array_rewrite(qkv, values);
    Array *rotation = array_rotation(f, T, HS), *rstd = array_out(f, FLOAT, T, 2);
    RUN_TWICE(f, be->qk_norm_rope_forward(be, qkv->device, rstd->device, rotation->device, 1e-5f, 1, T, C, 1));
    const double *got = fetch(qkv);
    double scores[T - DISTANCE];
    for (int t = 0; t < T - DISTANCE; t++) {
        const double *q = got + (t + DISTANCE) * 3 * C, *k = got + t * 3 * C + C;
        scores[t] = 0;
        for (int i = 0; i < HS; i++) scores[t] += q[i] * k[i];
        double room = f->activation == DTYPE_FLOAT32 ? 1e-4 : 0.15; /* roundings of HS terms of size 1 */
        if (!(fabs(scores[t] - scores[0]) < room))
            fail_msg("%s: the score at position %d is %g, at 0 %g", f->where, t, scores[t], scores[0]);
    }
}

/* ---- NaN and infinities ---- */

/* One of them spoils what it takes part in, the head with a norm, the pair with a rotation alone, and nothing else. */
static void special(Fixture *f, Mode m, double value) {
    Backend *be = f->be;
    const Size s = {2, 3, 3, 16};
    int C = s.NH * s.HS, N = s.B * s.T;
    begin_mode(f, s, m, ", special values");
    Array *qkv = array_in_out(f, ACTIVATION, N, 3 * C, 1.0), *dqkv = array_in_out(f, ACTIVATION, N, 3 * C, 1.0);
    Array *rotation = array_rotation(f, s.T, s.HS), *rstd = array_out(f, FLOAT, N, 2 * s.NH);
    array_set(qkv, 1 * 3 * C + 5, value), array_set(qkv, 4 * 3 * C + 2 * C - 1, value);
    array_set(qkv, 5 * 3 * C + 2 * C, value); /* among the values */
    array_set(dqkv, 2 * 3 * C + C, value), array_set(dqkv, 3 * 3 * C - 1, value);
    double *out = host_numbers(f, N * 3 * C), *erstd = host_numbers(f, N * 2 * s.NH),
           *edqkv = host_numbers(f, N * 3 * C);
    const double *angles = value_if(m.has_rotation, rotation);
    reference_qk_norm_rope_forward(out, m.has_norm ? erstd : NULL, qkv->value, angles, m.eps, s.B, s.T, C, s.NH);
    reference_qk_norm_rope_backward(edqkv, dqkv->value, qkv->value, m.has_norm, angles, m.eps, s.B, s.T, C, s.NH);
    RUN_TWICE(f, be->qk_norm_rope_forward(be, qkv->device, device_if(m.has_norm, rstd),
                                          device_if(m.has_rotation, rotation), m.eps, s.B, s.T, C, s.NH));
    expect_each(qkv, out, 1, 1e-5, "queries and keys");
    if (m.has_norm) expect_each(rstd, erstd, 1, 0, "rstd");
    RUN_TWICE(f, be->qk_norm_rope_backward(be, dqkv->device, qkv->device, device_if(m.has_norm, rstd),
                                           device_if(m.has_rotation, rotation), s.B, s.T, C, s.NH));
    expect_each(dqkv, edqkv, 2, f->activation == DTYPE_FLOAT32 ? 1e-5 : 1e-2, "their gradients");
}

static void test_special(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t k = 0; k < ARRAY_LENGTH(modes); k++) special(f, modes[k], NAN);
    /* With a norm an infinity makes 0 of its head's other numbers, and of their gradients what the order of operations
     * makes; a rotation alone has no order. */
    special(f, (Mode){false, true, 0}, INFINITY);
    special(f, (Mode){false, true, 0}, -INFINITY);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_passes),  cmocka_unit_test(test_sizes_of_numbers),
        cmocka_unit_test(test_one_position), cmocka_unit_test(test_scores_depend_on_distance),
        cmocka_unit_test(test_special),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
