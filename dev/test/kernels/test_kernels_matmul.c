/* test_kernels_matmul.c: tests the linear layers of any Backend table, activations, and that nothing kept from a weight
 * outlives a change of it; and the batched matmuls of optimizers. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>
#include <string.h>

#include "dev/test/kernels/reference.h"

typedef struct Size {
    int N, IC, OC;
} Size;

/* From a single number, through sizes that fit no vector or block, to the shapes of a small model. The last two have
 * more rows or columns than one kernel of widened bfloat16 matrices takes (kernels/cpu/matmul_onednn.c). */
static const Size sizes[] = {{1, 1, 1},      {1, 3, 17},     {2, 17, 3},     {5, 64, 64},    {1, 100, 384},
                             {33, 100, 64},  {129, 64, 100}, {33, 384, 259}, {64, 384, 128}, {257, 48, 144},
                             {7, 200, 1000}, {2100, 5, 7},   {3, 40, 4200}};

/* A layer's two roundings in bfloat16 (pre, then the activation of it) cost up to 1e-2 instead of 4e-3. */
static const double two_roundings = 2.5;

static void *device_or_null(const Array *a) { return a ? a->device : NULL; }
static const double *value_or_null(const Array *a) { return a ? a->value : NULL; }

/* ---- forward ---- */

static void forward(Fixture *f, Size s, bool has_bias) {
    Backend *be = f->be;
    begin_case(f, "N=%d IC=%d OC=%d, bias %d", s.N, s.IC, s.OC, has_bias);
    Array *in = array_in(f, ACTIVATION, s.N, s.IC, 1.0), *weight = array_in(f, ACTIVATION, s.OC, s.IC, 1.0);
    Array *bias = has_bias ? array_in(f, ACTIVATION, 1, s.OC, 3.0) : NULL;
    Array *out = array_out(f, ACTIVATION, s.N, s.OC);
    double *expected = host_numbers(f, s.N * s.OC);
    RUN_TWICE(f,
              be->matmul_forward(be, out->device, in->device, weight->device, device_or_null(bias), s.N, s.IC, s.OC));
    reference_matmul_forward(expected, in->value, weight->value, value_or_null(bias), s.N, s.IC, s.OC);
    expect_near(out, expected, 1, "out");
}

static void test_forward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int has_bias = 0; has_bias < 2; has_bias++) forward(f, sizes[i], has_bias);
}

/* ---- activations ---- */

static const ActivationKind kinds[] = {ACTIVATION_GELU, ACTIVATION_RELU2};
static const char *const kind_names[] = {"GELU", "ReLU^2"};

/* With `in_place`, out and pre are one array, which ends as activation(pre). */
static void activation_layer(Fixture *f, ActivationKind kind, Size s, bool has_bias, bool in_place) {
    Backend *be = f->be;
    begin_case(f, "%s, N=%d IC=%d OC=%d, bias %d, in place %d", kind_names[kind], s.N, s.IC, s.OC, has_bias, in_place);
    Array *in = array_in(f, ACTIVATION, s.N, s.IC, 1.0);
    Array *weight = array_in(f, ACTIVATION, s.OC, s.IC, 1.5); /* both tails of GELU, and its middle for small IC */
    Array *bias = has_bias ? array_in(f, ACTIVATION, 1, s.OC, 1.0) : NULL;
    Array *out = array_out(f, ACTIVATION, s.N, s.OC), *pre = in_place ? out : array_out(f, ACTIVATION, s.N, s.OC);
    double *expected_pre = host_numbers(f, s.N * s.OC), *expected = host_numbers(f, s.N * s.OC);
    RUN_TWICE(f, be->matmul_activation_forward(be, kind, out->device, pre->device, in->device, weight->device,
                                               device_or_null(bias), s.N, s.IC, s.OC));
    reference_matmul_forward(expected_pre, in->value, weight->value, value_or_null(bias), s.N, s.IC, s.OC);
    reference_activation_forward(kind, expected, expected_pre, s.N * s.OC);
    if (!in_place) expect_near(pre, expected_pre, 1, "pre");
    expect_near(out, expected, two_roundings, "out");
}

static void test_activation_layer(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (size_t variant = 0; variant < 8; variant++)
            if (has_its_turn(i + variant, 3))
                activation_layer(f, kinds[variant / 4], sizes[i], variant & 1, variant & 2);
}

/* From one tail to the other and far beyond: GELU(x) is x or 0 there, never NaN. Close to 0 it is x/2. In the left
 * tail 1 + tanh cancels: what remains is right to a float32 rounding of 1, times x. ReLU^2 and its derivative are 0 up
 * to 0, among them at -0. */
static void activation_range(Fixture *f, ActivationKind kind) {
    Backend *be = f->be;
    enum { n = 2012 };
    begin_case(f, "the whole range of %s", kind_names[kind]);
    double *values = host_numbers(f, n), *expected = host_numbers(f, n), *ones = host_numbers(f, n);
    const double far_out[] = {20, -20, 100, -100, 1e4, -1e4, 1e10, -1e10, 1e-8, -1e-8, -0.0};
    const int far_count = (int)ARRAY_LENGTH(far_out);
    for (int i = 0; i < n; i++)
        values[i] = i <= 2000 ? (i - 1000) * 0.01 : far_out[(i - 2001) % far_count], ones[i] = 1;
    /* By way of a layer of one weight, which is 1. */
    Array *in = array_of(f, ACTIVATION, n, 1, values), *one = array_of(f, ACTIVATION, 1, 1, ones);
    Array *pre = array_out(f, ACTIVATION, n, 1), *out = array_out(f, ACTIVATION, n, 1);
    RUN_TWICE(
        f, be->matmul_activation_forward(be, kind, out->device, pre->device, in->device, one->device, NULL, n, 1, 1));
    reference_activation_forward(kind, expected, in->value, n);
    expect_each(out, expected, 1, kind == ACTIVATION_GELU ? 1e-6 : 0, "activation");

    Array *dout = array_of(f, ACTIVATION, n, 1, ones), *din = array_out(f, ACTIVATION, n, 1);
    RUN_TWICE(f, be->matmul_backward_activation(be, kind, din->device, dout->device, one->device, in->device, n, 1, 1));
    reference_activation_backward(kind, expected, ones, in->value, n);
    expect_each(din, expected, 1, kind == ACTIVATION_GELU ? 3e-6 : 0, "derivative");
}

static void test_activation_range(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) activation_range(f, kinds[i]);
}

/* ---- backward ---- */

static void backward_input(Fixture *f, Size s) {
    Backend *be = f->be;
    begin_case(f, "N=%d IC=%d OC=%d", s.N, s.IC, s.OC);
    Array *dout = array_in(f, ACTIVATION, s.N, s.OC, 1.0), *weight = array_in(f, ACTIVATION, s.OC, s.IC, 1.0);
    Array *din = array_out(f, ACTIVATION, s.N, s.IC);
    double *expected = host_numbers(f, s.N * s.IC);
    RUN_TWICE(f, be->matmul_backward_input(be, din->device, dout->device, weight->device, s.N, s.IC, s.OC));
    reference_matmul_backward_input(expected, dout->value, weight->value, s.N, s.IC, s.OC);
    expect_near(din, expected, 1, "din");
}

static void backward_activation(Fixture *f, ActivationKind kind, Size s) {
    Backend *be = f->be;
    begin_case(f, "%s, N=%d IC=%d OC=%d", kind_names[kind], s.N, s.IC, s.OC);
    Array *dout = array_in(f, ACTIVATION, s.N, s.OC, 1.0), *weight = array_in(f, ACTIVATION, s.OC, s.IC, 1.0);
    Array *pre = array_in(f, ACTIVATION, s.N, s.IC, 2.0), *din = array_out(f, ACTIVATION, s.N, s.IC);
    double *expected = host_numbers(f, s.N * s.IC);
    RUN_TWICE(f, be->matmul_backward_activation(be, kind, din->device, dout->device, weight->device, pre->device, s.N,
                                                s.IC, s.OC));
    reference_matmul_backward_input(expected, dout->value, weight->value, s.N, s.IC, s.OC);
    reference_activation_backward(kind, expected, expected, pre->value, s.N * s.IC);
    expect_near(din, expected, 1, "din");
}

static void test_backward_input(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        backward_input(f, sizes[i]);
        for (size_t k = 0; k < ARRAY_LENGTH(kinds); k++) backward_activation(f, kinds[k], sizes[i]);
    }
}

/* Gradients of weights are float32 sums of exact products in both tables: bfloat16 loses nothing here. */
static void backward_weight(Fixture *f, Size s, bool has_bias, bool accumulate) {
    Backend *be = f->be;
    begin_case(f, "N=%d IC=%d OC=%d, dbias %d, accumulate %d", s.N, s.IC, s.OC, has_bias, accumulate);
    const double *weight_start, *bias_start;
    Array *dout = array_in(f, ACTIVATION, s.N, s.OC, 1.0), *in = array_in(f, ACTIVATION, s.N, s.IC, 1.0);
    Array *dweight = array_gradient(f, s.OC, s.IC, accumulate, &weight_start);
    Array *dbias = array_gradient(f, 1, s.OC, accumulate || !has_bias, &bias_start);
    RUN_TWICE(f, be->matmul_backward_weight(be, dweight->device, has_bias ? dbias->device : NULL, dout->device,
                                            in->device, s.N, s.IC, s.OC, accumulate));
    double *edweight = host_numbers(f, s.OC * s.IC), *edbias = host_numbers(f, s.OC);
    reference_matmul_backward_weight(edweight, edbias, dout->value, in->value, s.N, s.IC, s.OC);
    for (int i = 0; i < s.OC * s.IC; i++) edweight[i] += weight_start[i];
    for (int o = 0; o < s.OC; o++) edbias[o] += bias_start[o];
    expect_near(dweight, edweight, 1, "dweight");
    if (has_bias)
        expect_near(dbias, edbias, 1, "dbias");
    else
        expect_exact(dbias, dbias->value, "dbias that was not passed");
}

static void test_backward_weight(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (size_t variant = 0; variant < 4; variant++)
            if (has_its_turn(i + variant, 3)) backward_weight(f, sizes[i], variant & 1, variant & 2);
}

/* More rows than a block of column sums has, and more columns, in whole packs and not. */
static void test_backward_weight_many_rows(void **state) {
    Fixture *f = fixture_of(state);
    backward_weight(f, (Size){1025, 33, 17}, true, false);
    backward_weight(f, (Size){2048, 16, 65}, true, true);
    backward_weight(f, (Size){769, 9, 136}, true, false);
    backward_weight(f, (Size){513, 8, 200}, true, true);
}

/* ---- NaN and infinities ---- */

static const double specials[] = {NAN, INFINITY, -INFINITY};

/* Of one layer's inputs, one has a special value. */
static void special_layer(Fixture *f, double special, int where) {
    Backend *be = f->be;
    const Size s = {33, 40, 70};
    const char *names[] = {"in", "weight", "bias", "dout"};
    begin_case(f, "%g in %s", special, names[where]);
    Array *in = array_in(f, ACTIVATION, s.N, s.IC, 1.0), *weight = array_in(f, ACTIVATION, s.OC, s.IC, 1.0);
    Array *bias = array_in(f, ACTIVATION, 1, s.OC, 1.0), *dout = array_in(f, ACTIVATION, s.N, s.OC, 1.0);
    array_set((Array *[]){in, weight, bias, dout}[where], 39, special);
    Array *out = array_out(f, ACTIVATION, s.N, s.OC), *din = array_out(f, ACTIVATION, s.N, s.IC);
    Array *dweight = array_out(f, FLOAT, s.OC, s.IC), *dbias = array_out(f, FLOAT, 1, s.OC);
    be->invalidate_weights(be);
    RUN_TWICE(f, be->matmul_forward(be, out->device, in->device, weight->device, bias->device, s.N, s.IC, s.OC));
    RUN_TWICE(f, be->matmul_backward_input(be, din->device, dout->device, weight->device, s.N, s.IC, s.OC));
    RUN_TWICE(f, be->matmul_backward_weight(be, dweight->device, dbias->device, dout->device, in->device, s.N, s.IC,
                                            s.OC, false));
    double *eout = host_numbers(f, s.N * s.OC), *edin = host_numbers(f, s.N * s.IC);
    double *edweight = host_numbers(f, s.OC * s.IC), *edbias = host_numbers(f, s.OC);
    reference_matmul_forward(eout, in->value, weight->value, bias->value, s.N, s.IC, s.OC);
    reference_matmul_backward_input(edin, dout->value, weight->value, s.N, s.IC, s.OC);
    reference_matmul_backward_weight(edweight, edbias, dout->value, in->value, s.N, s.IC, s.OC);
    expect_each(out, eout, 2, 5e-2, "out");
    expect_each(din, edin, 2, 5e-2, "din");
    expect_each(dweight, edweight, 1, 1e-3, "dweight");
    expect_each(dbias, edbias, 1, 1e-3, "dbias");
}

static void test_special(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < (only_small_sizes() ? 1 : ARRAY_LENGTH(specials)); i++)
        for (int where = 0; where < 4; where++) special_layer(f, specials[i], where);
}

/* GELU(infinity) is infinity; GELU(-infinity), as a product of -infinity and 0, is NaN, and so is either derivative.
 * ReLU^2 of them is infinity and 0, and so is its derivative; that of NaN is NaN. A layer of one weight, which is 1,
 * passes the values on. */
static void test_activation_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { n = 40 };
    for (int variant = 0; variant < 4; variant++) {
        bool has_bias = variant & 1;
        ActivationKind kind = kinds[variant / 2];
        begin_case(f, "special values, %s, bias %d", kind_names[kind], has_bias);
        double *ones = host_numbers(f, n), *expected = host_numbers(f, n), zero = 0;
        for (int i = 0; i < n; i++) ones[i] = 1;
        Array *in = array_in(f, ACTIVATION, n, 1, 1.0), *one = array_of(f, ACTIVATION, 1, 1, ones);
        Array *bias = has_bias ? array_of(f, ACTIVATION, 1, 1, &zero) : NULL;
        Array *pre = array_out(f, ACTIVATION, n, 1), *out = array_out(f, ACTIVATION, n, 1);
        array_set(in, 3, NAN), array_set(in, 17, INFINITY), array_set(in, 20, -INFINITY), array_set(in, 39, -NAN);
        RUN_TWICE(f, be->matmul_activation_forward(be, kind, out->device, pre->device, in->device, one->device,
                                                   device_or_null(bias), n, 1, 1));
        reference_activation_forward(kind, expected, in->value, n);
        expect_each(pre, in->value, 0, 0, "pre");
        expect_each(out, expected, 1, 1e-6, "activation");
        Array *dout = array_of(f, ACTIVATION, n, 1, ones), *din = array_out(f, ACTIVATION, n, 1);
        array_set(dout, 5, NAN), array_set(dout, 6, INFINITY);
        RUN_TWICE(
            f, be->matmul_backward_activation(be, kind, din->device, dout->device, one->device, in->device, n, 1, 1));
        reference_activation_backward(kind, expected, dout->value, in->value, n);
        expect_each(din, expected, 1, 3e-6, "derivative");
    }
}

/* ---- a weight is what its pointer holds ---- */

/* Runs both operations that read a weight, at `device`, and compares them with what its values ask for. */
static void expect_weight_used(Fixture *f, const void *device, const double *weight, Size s, const char *what) {
    Backend *be = f->be;
    Array *in = array_in(f, ACTIVATION, s.N, s.IC, 1.0), *dout = array_in(f, ACTIVATION, s.N, s.OC, 1.0);
    Array *out = array_out(f, ACTIVATION, s.N, s.OC), *din = array_out(f, ACTIVATION, s.N, s.IC);
    double *expected_out = host_numbers(f, s.N * s.OC), *expected_din = host_numbers(f, s.N * s.IC);
    RUN_TWICE(f, be->matmul_forward(be, out->device, in->device, device, NULL, s.N, s.IC, s.OC));
    RUN_TWICE(f, be->matmul_backward_input(be, din->device, dout->device, device, s.N, s.IC, s.OC));
    reference_matmul_forward(expected_out, in->value, weight, NULL, s.N, s.IC, s.OC);
    reference_matmul_backward_input(expected_din, dout->value, weight, s.N, s.IC, s.OC);
    expect_near(out, expected_out, 1, what);
    expect_near(din, expected_din, 1, what);
}

/* New contents at the same pointer, from the host and from another array, then invalidate_weights. */
static void test_weight_contents_change(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const Size s = {33, 100, 384};
    begin_case(f, "weight contents change");
    Array *weight = array_in(f, ACTIVATION, s.OC, s.IC, 1.0), *second = array_in(f, ACTIVATION, s.OC, s.IC, 1.0);
    Array *third = array_in(f, ACTIVATION, s.OC, s.IC, 1.0);
    expect_weight_used(f, weight->device, weight->value, s, "the first contents");
    array_rewrite(weight, second->value);
    be->invalidate_weights(be);
    expect_weight_used(f, weight->device, second->value, s, "contents copied from the host");
    be->copy(be, weight->device, third->device, (size_t)(s.OC * s.IC) * dtype_size(f->activation));
    array_rewrite(weight, third->value); /* the fixture must know, too; the same bytes again */
    be->invalidate_weights(be);
    expect_weight_used(f, weight->device, third->value, s, "contents copied on the device");
}

/* An optimizer that writes weights as it updates: to_activation straight into the weight. */
static void test_weight_written_by_kernel(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const Size s = {17, 64, 100};
    begin_case(f, "weight written on the device");
    Array *weight = array_in_out(f, ACTIVATION, s.OC, s.IC, 1.0), *master = array_in(f, FLOAT, s.OC, s.IC, 1.0);
    expect_weight_used(f, weight->device, weight->value, s, "the first contents");
    RUN_TWICE(f, be->to_activation(be, weight->device, master->device, (size_t)(s.OC * s.IC)));
    be->invalidate_weights(be);
    expect_weight_used(f, weight->device, fetch(weight), s, "contents written by a kernel");
}

/* Memory given back and asked for again is often the same, also for a weight of another shape. */
static void test_weight_memory_reused(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const Size shapes[] = {{5, 64, 100}, {5, 100, 64}, {5, 64, 100}, {5, 32, 200}, {5, 64, 100}};
    enum { COUNT = 64 * 100 };
    size_t bytes = COUNT * dtype_size(f->activation);
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        begin_case(f, "weight %zu of those that share memory", i);
        f->stream = (uint32_t)(100 * i); /* other numbers each time */
        Array *values = array_in(f, ACTIVATION, 1, COUNT, 1.0);
        void *weight = be->alloc(be, bytes, "a weight");
        be->copy(be, weight, values->device, bytes);
        be->invalidate_weights(be);
        expect_weight_used(f, weight, values->value, shapes[i], "the weight of now");
        be->free(be, weight);
    }
}

/* One weight read with several shapes, without any change: the shape belongs to the call, not to the pointer. */
static void test_weight_of_several_shapes(void **state) {
    Fixture *f = fixture_of(state);
    begin_case(f, "one weight, several shapes");
    Array *weight = array_in(f, ACTIVATION, 64, 100, 1.0);
    expect_weight_used(f, weight->device, weight->value, (Size){5, 100, 64}, "64 x 100");
    expect_weight_used(f, weight->device, weight->value, (Size){5, 64, 100}, "100 x 64");
    expect_weight_used(f, weight->device, weight->value, (Size){9, 100, 33}, "its first 33 rows");
    expect_weight_used(f, weight->device, weight->value, (Size){9, 100, 64}, "64 x 100 again");
}

/* ---- batched matmuls ---- */

/* From single numbers to sizes that fit no block, and inner dimensions so long that a matmul may be made in parts. */
typedef struct MatmulSize {
    int m, n, k;
} MatmulSize;

static const MatmulSize matmul_sizes[] = {{1, 1, 1},    {1, 17, 3},    {17, 1, 5},   {33, 65, 29},
                                          {64, 64, 16}, {100, 40, 48}, {3, 5, 1601}, {17, 33, 800}};

/* From c where beta is not 0: apart from d (where d holds NaN before), or d itself. */
typedef enum Start { APART, IN_PLACE } Start;

/* What d should be; c may be NULL. */
static double *matmul_reference(Fixture *f, const BatchedMatmul *p, const double *a, const double *b, const double *c) {
    int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    double *d = host_numbers(f, p->count * m * n);
    for (int matrix = 0; matrix < p->count; matrix++, a += m * k, b += k * n)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                int at = (matrix * m + i) * n + j;
                const double *x = a + (p->transpose_a ? i : i * k), *y = b + (p->transpose_b ? j * k : j);
                int x_step = p->transpose_a ? m : 1, y_step = p->transpose_b ? 1 : n;
                double sum = 0;
                for (int l = 0; l < k; l++) sum += x[l * x_step] * y[l * y_step];
                d[at] = (double)p->alpha * sum + (c ? (double)p->beta * c[at] : 0);
            }
    return d;
}

/* ACTIVATION means the matmul's type from here on, which need not be the table's. */
static void begin_matmul(Fixture *f, const BatchedMatmul *p, const char *what) {
    f->activation = p->type;
    begin_case(f, "%s of %d %s matmuls m=%d n=%d k=%d, transposed %d %d, alpha %g, beta %g", what, p->count,
               dtype_name(p->type), (int)p->m, (int)p->n, (int)p->k, p->transpose_a, p->transpose_b, p->alpha, p->beta);
}

static void matmul_batched(Fixture *f, const BatchedMatmul *p, Start start) {
    Backend *be = f->be;
    begin_matmul(f, p, start == APART ? "c apart" : "c in place");
    int64_t rows = p->count * p->m, n = p->n, inner = p->count * p->k;
    Array *a = array_in(f, ACTIVATION, rows, p->k, 1.0), *b = array_in(f, ACTIVATION, inner, n, 1.0);
    bool in_place = start == IN_PLACE && p->beta != 0;
    Array *d = in_place ? array_in_out(f, ACTIVATION, rows, n, 3.0) : array_out(f, ACTIVATION, rows, n);
    Array *c = in_place ? d : p->beta != 0 ? array_in(f, ACTIVATION, rows, n, 3.0) : array_out(f, ACTIVATION, rows, n);
    double *expected = matmul_reference(f, p, a->value, b->value, p->beta != 0 ? c->value : NULL);
    bool no_start = start == IN_PLACE && p->beta == 0;
    RUN_TWICE(f, be->matmul_batched(be, p, d->device, a->device, b->device, no_start ? NULL : c->device));
    expect_near(d, expected, 1, "d");
}

/* Calls `check` with matmuls of either type that the device multiplies. */
static void each_type(void **state, void (*check)(Fixture *f, DType type)) {
    Fixture *f = fixture_of(state);
    const DType types[] = {DTYPE_FLOAT32, DTYPE_BFLOAT16};
    assert_true(f->be->multiplies(f->be, f->be->activation));
    for (size_t i = 0; i < ARRAY_LENGTH(types); i++)
        if (f->be->multiplies(f->be, types[i])) check(f, types[i]);
    f->activation = f->be->activation;
}

static void check_shapes(Fixture *f, DType type) {
    const float factors[][2] = {{1, 0}, {1, 1}, {2.0315f, -4.775f}, {1, 3.4445f}, {-0.5f, 0}};
    int round = 0;
    for (size_t s = 0; s < ARRAY_LENGTH(matmul_sizes); s++)
        for (int transposed = 0; transposed < 4; transposed++)
            for (size_t i = 0; i < ARRAY_LENGTH(factors); i++, round++) {
                if (!has_its_turn(s + (size_t)transposed + i, 3)) continue;
                MatmulSize size = matmul_sizes[s];
                BatchedMatmul p = {.type = type, .count = 1 + round % 4, .m = size.m, .n = size.n, .k = size.k};
                p.transpose_a = transposed & 1, p.transpose_b = transposed & 2;
                p.alpha = factors[i][0], p.beta = factors[i][1];
                matmul_batched(f, &p, round / 4 % 2 ? IN_PLACE : APART);
            }
}

static void test_matmul_batched(void **state) { each_type(state, check_shapes); }

/* One matrix is both factors and what is added, as in X X^T and A A + A. */
static void check_same_factors(Fixture *f, DType type) {
    Backend *be = f->be;
    for (int tall = 0; tall < 2; tall++) {
        BatchedMatmul gram = {type, 3, 33, 33, 850, tall, !tall, 1, 0, false};
        BatchedMatmul square = {type, 3, 33, 33, 33, false, false, 2, -3, false};
        begin_matmul(f, &gram, "a square");
        Array *x = array_in(f, ACTIVATION, 3 * 33, 850, 1.0), *xx = array_out(f, ACTIVATION, 3 * 33, 33);
        RUN_TWICE(f, be->matmul_batched(be, &gram, xx->device, x->device, x->device, NULL));
        expect_near(xx, matmul_reference(f, &gram, x->value, x->value, NULL), 1, "x times its transpose");
        begin_matmul(f, &square, "a square");
        Array *y = array_in(f, ACTIVATION, 3 * 33, 33, 1.0), *yy = array_out(f, ACTIVATION, 3 * 33, 33);
        RUN_TWICE(f, be->matmul_batched(be, &square, yy->device, y->device, y->device, y->device));
        expect_near(yy, matmul_reference(f, &square, y->value, y->value, y->value), 1, "y times y");
    }
}

static void test_matmul_batched_of_same_factors(void **state) { each_type(state, check_same_factors); }

/* Sizes of matrices that one thread multiplies, and of one that a CPU computes by half, block by block, the last of
 * them narrower, and more rows than are summed at a time. */
static const MatmulSize symmetric_sizes[] = {{1, 1, 1}, {33, 33, 17}, {389, 389, 801}};

/* Of what is computed by half, the other half is a copy, to the bit. */
static void expect_symmetric(Fixture *f, Array *d, int count, int n) {
    const double *x = fetch(d);
    for (int matrix = 0; matrix < count; matrix++, x += n * n)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < i; j++)
                if (x[i * n + j] != x[j * n + i])
                    fail_msg("%s: element %d, %d is %.9g, and %d, %d is %.9g", f->where, i, j, x[i * n + j], j, i,
                             x[j * n + i]);
}

/* Those that one thread alone computes have the same bits, whatever is in d before. */
static void expect_same_of_one_thread(Fixture *f, const BatchedMatmul *p, Array *d, const Array *a, const Array *c) {
    const double *expected = fetch(d);
    Error error;
    Backend *one = backend_open("cpu", f->be->activation, 1, &error);
    if (!one) die("%s", error.text);
    memset(d->device, 0xff, (size_t)(d->rows * d->columns) * dtype_size(p->type));
    one->matmul_batched(one, p, d->device, a->device, a->device, c->device);
    expect_exact(d, expected, "d of one thread");
    one->close(one);
}

/* Symmetric random numbers. */
static double *symmetric_numbers(Fixture *f, int count, int n, double deviation) {
    double *x = host_numbers(f, count * n * n);
    const double *random = array_in(f, ACTIVATION, count * n, n, deviation)->value;
    for (int i = 0; i < count * n; i++)
        for (int j = 0; j < n; j++) x[i * n + j] = random[j <= i % n ? i * n + j : (i - i % n + j) * n + i % n];
    return x;
}

/* With has_nan the first element of a is NaN, and so are the first row and the first column of the result. */
static void symmetric_matmul(Fixture *f, const BatchedMatmul *p, bool is_gram, bool has_nan) {
    Backend *be = f->be;
    begin_matmul(f, p, is_gram ? "x times its transpose" : "a times a");
    int64_t rows = p->count * p->n, k_rows = p->transpose_a ? p->count * p->k : rows;
    double *start = symmetric_numbers(f, p->count, (int)p->n, 3.0);
    Array *a = is_gram ? array_in(f, ACTIVATION, k_rows, p->transpose_a ? p->n : p->k, 1.0)
                       : array_of(f, ACTIVATION, rows, p->n, start);
    Array *c = is_gram ? array_of(f, ACTIVATION, rows, p->n, start) : a, *d = array_out(f, ACTIVATION, rows, p->n);
    if (has_nan) array_set(a, 0, NAN);
    double *expected = matmul_reference(f, p, a->value, a->value, p->beta != 0 ? c->value : NULL);
    RUN_TWICE(f, be->matmul_batched(be, p, d->device, a->device, a->device, c->device));
    if (has_nan) {
        expect_each(d, expected, 2, 2e-2, "d");
    } else {
        expect_near(d, expected, 1, "d");
        if (be->on_gpu || p->type != DTYPE_FLOAT32 || p->n < 100) return;
        expect_symmetric(f, d, p->count, (int)p->n);
        expect_same_of_one_thread(f, p, d, a, c);
    }
}

/* Grams of either kind and A A + A. The large one is of the table's own type, to take less time. */
static void check_symmetric(Fixture *f, DType type) {
    for (size_t s = 0; s < ARRAY_LENGTH(symmetric_sizes); s++) {
        MatmulSize size = symmetric_sizes[s];
        bool is_large = size.n > 100;
        if (is_large && (only_small_sizes() || type != f->be->activation)) continue;
        int count = is_large ? 1 : 3;
        BatchedMatmul wide = {type, count, size.n, size.n, size.k, false, true, 2, 0, true}, tall = wide;
        tall.transpose_a = true, tall.transpose_b = false, tall.beta = -3;
        BatchedMatmul square = {type, count, size.n, size.n, size.n, false, false, 2, -3, true};
        if (is_large) square.m = square.n = square.k = 421; /* enough not to be left to one thread */
        symmetric_matmul(f, &wide, true, false);
        symmetric_matmul(f, &wide, true, true);
        symmetric_matmul(f, &tall, true, false);
        symmetric_matmul(f, &square, false, false);
        if (!is_large) symmetric_matmul(f, &square, false, true);
    }
}

static void test_matmul_batched_symmetric(void **state) { each_type(state, check_symmetric); }

/* A matrix of a batch has the bits that it has alone. */
static void check_alone(Fixture *f, DType type) {
    Backend *be = f->be;
    for (int transposed = 0; transposed < 4; transposed++) {
        BatchedMatmul p = {type, 4, 65, 33, 800, transposed & 1, transposed & 2, 2, 0.5f, false}, one = p;
        one.count = 1;
        begin_matmul(f, &p, "matrices alone");
        Array *a = array_in(f, ACTIVATION, 4 * 65, 800, 1.0), *b = array_in(f, ACTIVATION, 4 * 800, 33, 1.0);
        Array *c = array_in(f, ACTIVATION, 4 * 65, 33, 3.0), *d = array_out(f, ACTIVATION, 4 * 65, 33);
        RUN_TWICE(f, be->matmul_batched(be, &p, d->device, a->device, b->device, c->device));
        double *together = fetch(d);
        size_t size = dtype_size(type);
        be->zero(be, d->device, 4 * 65 * 33 * size);
        for (size_t i = 4; i-- > 0;)
            be->matmul_batched(
                be, &one, (char *)d->device + i * 65 * 33 * size, (const char *)a->device + i * 65 * 800 * size,
                (const char *)b->device + i * 800 * 33 * size, (const char *)c->device + i * 65 * 33 * size);
        expect_exact(d, together, "each alone");
    }
}

static void test_matmul_batched_alone(void **state) { each_type(state, check_alone); }

/* Sizes of both kinds: matrices that one thread multiplies, and ones that are added up in parts, once, for time. */
static void check_special(Fixture *f, DType type) {
    Backend *be = f->be;
    const MatmulSize shapes[] = {{33, 65, 29}, {200, 200, 1700}};
    for (size_t s = 0; s < ARRAY_LENGTH(shapes); s++)
        for (size_t i = 0; i < ARRAY_LENGTH(specials); i++)
            for (int where = 0; where < 3; where++) {
                int m = shapes[s].m, n = shapes[s].n, k = shapes[s].k;
                if (m > 100 && (i > 0 || where > 0 || only_small_sizes())) continue;
                BatchedMatmul p = {type, 2, m, n, k, true, where == 1, 2, -0.5f, false};
                begin_matmul(f, &p, "special values");
                Array *a = array_in(f, ACTIVATION, 2 * k, m, 1.0), *b = array_in(f, ACTIVATION, 2 * k, n, 1.0);
                Array *c = array_in(f, ACTIVATION, 2 * m, n, 3.0), *d = array_out(f, ACTIVATION, 2 * m, n);
                array_set((Array *[]){a, b, c}[where], 25, specials[i]);
                RUN_TWICE(f, be->matmul_batched(be, &p, d->device, a->device, b->device, c->device));
                expect_each(d, matmul_reference(f, &p, a->value, b->value, c->value), 2, 2e-3, "d");
            }
}

static void test_matmul_batched_special(void **state) { each_type(state, check_special); }

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_activation_layer),
        cmocka_unit_test(test_activation_range),
        cmocka_unit_test(test_backward_input),
        cmocka_unit_test(test_backward_weight),
        cmocka_unit_test(test_backward_weight_many_rows),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_activation_special),
        cmocka_unit_test(test_weight_contents_change),
        cmocka_unit_test(test_weight_written_by_kernel),
        cmocka_unit_test(test_weight_memory_reused),
        cmocka_unit_test(test_weight_of_several_shapes),
        cmocka_unit_test(test_matmul_batched),
        cmocka_unit_test(test_matmul_batched_of_same_factors),
        cmocka_unit_test(test_matmul_batched_symmetric),
        cmocka_unit_test(test_matmul_batched_alone),
        cmocka_unit_test(test_matmul_batched_special),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
