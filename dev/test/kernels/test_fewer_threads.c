/* test_fewer_threads.c: the CPU's operations and optimizers when OpenMP starts fewer threads than they ask for: because
 * of OMP_THREAD_LIMIT and OMP_DYNAMIC, with which the program starts itself again, or because the caller is in a
 * parallel region. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include <omp.h>

#include "dev/test/kernels/reference.h"
#include "dev/test/optim/optim_world.h"

enum { THREADS = 4, LIMIT = 2 };

/* The sizes of all operations: each of the threads would have some work. */
enum { B = 2, T = 70, NH = 3, HS = 16, C = NH * HS, N = B * T, OC = 200, V = 259, VP = 320 };

static void test_fewer_threads_start(void **state) {
    (void)fixture_of(state);
    int started = 0;
#pragma omp parallel num_threads(THREADS)
#pragma omp single
    started = omp_get_num_threads();
    assert_in_range(started, 1, LIMIT);
}

static void test_embedding(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    begin_case(f, "embedding");
    Array *tokens = array_index(f, B, T, V), *wte = array_in(f, ACTIVATION, V, C, 1.0);
    Array *wpe = array_in(f, ACTIVATION, T, C, 1.0), *out = array_out(f, ACTIVATION, N, C);
    Array *dout = array_in(f, ACTIVATION, N, C, 1.0), *dwte = array_in_out(f, FLOAT, V, C, 1.0);
    Array *dwpe = array_out(f, FLOAT, T, C);
    double *eout = host_numbers(f, N * C), *edwte = host_numbers(f, V * C), *edwpe = host_numbers(f, T * C);
    RUN_TWICE(f, be->embedding_forward(be, out->device, tokens->device, wte->device, wpe->device, B, T, C));
    RUN_TWICE(f,
              be->embedding_backward(be, dwte->device, dwpe->device, dout->device, tokens->device, B, T, C, V, false));
    reference_embedding_forward(eout, tokens->index, wte->value, wpe->value, B, T, C);
    reference_embedding_backward(edwte, edwpe, dout->value, tokens->index, B, T, C, V);
    for (int i = 0; i < V * C; i++) edwte[i] += dwte->value[i];
    expect_exact(out, eout, "out");
    expect_near(dwte, edwte, 1, "dwte");
    expect_near(dwpe, edwpe, 1, "dwpe");
}

/* One large matrix, in parts if a is stored transposed, which leave their sums in the working memory that LayerNorm
 * uses next; a symmetric one in blocks; and 3 small matrices, one thread each. All are full of ones, so that each
 * element is the inner dimension. */
static void test_batched_matmul(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const BatchedMatmul cases[] = {{f->activation, 1, 256, 256, 1100, true, false, 1, 0, false},
                                   {f->activation, 1, 256, 256, 1100, false, false, 1, 0, false},
                                   {f->activation, 1, 400, 400, 1100, false, true, 1, 0, true},
                                   {f->activation, 3, 40, 50, 60, false, false, 1, 0, false}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const BatchedMatmul *p = &cases[i];
        begin_case(f, "batched matmul %zu", i);
        int64_t a_size = p->count * p->m * p->k, b_size = p->count * p->k * p->n, size = p->count * p->m * p->n;
        double *ones = host_numbers(f, a_size + b_size), *expected = host_numbers(f, size);
        for (int64_t k = 0; k < a_size + b_size; k++) ones[k] = 1;
        for (int64_t k = 0; k < size; k++) expected[k] = (double)p->k;
        Array *a = array_of(f, ACTIVATION, 1, a_size, ones), *b = array_of(f, ACTIVATION, 1, b_size, ones);
        Array *d = array_out(f, ACTIVATION, 1, size);
        RUN_TWICE(f, be->matmul_batched(be, p, d->device, a->device, b->device, NULL));
        expect_exact(d, expected, "d");
    }
}

static void norm_of_kind(Fixture *f, NormKind kind) {
    Backend *be = f->be;
    const NormShape norm = {kind, 1e-5f, N, C};
    begin_case(f, "norm of kind %d", kind);
    Array *x = array_in(f, ACTIVATION, N, C, 1.0), *zero = array_of(f, ACTIVATION, N, C, host_numbers(f, N * C));
    Array *weight = array_in(f, ACTIVATION, 1, C, 1.0), *bias = array_in(f, ACTIVATION, 1, C, 1.0);
    Array *sum = array_out(f, ACTIVATION, N, C), *out = array_out(f, ACTIVATION, N, C);
    Array *mean = array_out(f, FLOAT, N, 1), *rstd = array_out(f, FLOAT, N, 1);
    Array *dout = array_in(f, ACTIVATION, N, C, 1.0), *dx = array_in_out(f, ACTIVATION, N, C, 1.0);
    Array *dweight = array_out(f, FLOAT, 1, C), *dbias = array_out(f, FLOAT, 1, C);
    double *eout = host_numbers(f, N * C), *statistics = host_numbers(f, 2 * N), *edx = host_numbers(f, N * C);
    double *edweight = host_numbers(f, C), *edbias = host_numbers(f, C);
    reference_norm_forward(&norm, eout, statistics, statistics + N, x->value, weight->value, bias->value);
    RUN_TWICE(f, be->norm_forward(be, &norm, out->device, mean->device, rstd->device, x->device, weight->device,
                                  bias->device));
    expect_near(out, eout, 1, "out");
    RUN_TWICE(f, be->residual_norm_forward(be, &norm, sum->device, out->device, mean->device, rstd->device, x->device,
                                           zero->device, weight->device, bias->device));
    expect_exact(sum, x->value, "sum");
    expect_near(out, eout, 1, "out after the residual");
    RUN_TWICE(f, be->norm_backward(be, &norm, dx->device, dweight->device, dbias->device, dout->device, x->device,
                                   weight->device, mean->device, rstd->device, false));
    reference_norm_backward(&norm, edx, edweight, edbias, dout->value, x->value, weight->value);
    for (int i = 0; i < N * C; i++) edx[i] += dx->value[i];
    expect_near(dx, edx, 1, "dx");
    expect_near(dweight, edweight, 1, "dweight");
    expect_near(dbias, edbias, 1, "dbias");
}

static void test_norms(void **state) {
    Fixture *f = fixture_of(state);
    norm_of_kind(f, NORM_LAYERNORM);
    norm_of_kind(f, NORM_RMSNORM);
}

static void test_qk_norm_rope(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const float eps = 1e-5f;
    begin_case(f, "QK-norm and rotation");
    Array *qkv = array_in_out(f, ACTIVATION, N, 3 * C, 1.0), *rstd = array_out(f, FLOAT, N, 2 * NH);
    Array *rotation = array_in(f, FLOAT, T, HS, 1.0), *dqkv = array_in_out(f, ACTIVATION, N, 3 * C, 1.0);
    double *out = host_numbers(f, N * 3 * C), *erstd = host_numbers(f, N * 2 * NH);
    reference_qk_norm_rope_forward(out, erstd, qkv->value, rotation->value, eps, B, T, C, NH);
    RUN_TWICE(f, be->qk_norm_rope_forward(be, qkv->device, rstd->device, rotation->device, eps, B, T, C, NH));
    expect_near(qkv, out, 1, "qkv");
    expect_near(rstd, erstd, 1, "rstd");
    reference_qk_norm_rope_backward(out, dqkv->value, qkv->value, false, rotation->value, eps, B, T, C, NH);
    RUN_TWICE(f, be->qk_norm_rope_backward(be, dqkv->device, qkv->device, NULL, rotation->device, B, T, C, NH));
    expect_near(dqkv, out, 1, "dqkv");
}

/* `rows` rows; one row is work that oneDNN divides by columns. */
static void linear(Fixture *f, int rows) {
    Backend *be = f->be;
    begin_case(f, "linear layer, %d rows", rows);
    Array *in = array_in(f, ACTIVATION, rows, C, 1.0), *weight = array_in(f, ACTIVATION, OC, C, 1.0);
    Array *bias = array_in(f, ACTIVATION, 1, OC, 1.0), *pre = array_out(f, ACTIVATION, rows, OC);
    Array *out = array_out(f, ACTIVATION, rows, OC), *dout = array_in(f, ACTIVATION, rows, OC, 1.0);
    Array *gelu_pre = array_in(f, ACTIVATION, rows, C, 2.0), *din = array_out(f, ACTIVATION, rows, C);
    Array *dweight = array_out(f, FLOAT, OC, C), *dbias = array_out(f, FLOAT, 1, OC);
    double *epre = host_numbers(f, rows * OC), *eout = host_numbers(f, rows * OC), *edin = host_numbers(f, rows * C);
    double *edweight = host_numbers(f, OC * C), *edbias = host_numbers(f, OC);
    reference_matmul_forward(epre, in->value, weight->value, bias->value, rows, C, OC);
    reference_activation_forward(ACTIVATION_GELU, eout, epre, rows * OC);
    reference_matmul_backward_input(edin, dout->value, weight->value, rows, C, OC);
    reference_activation_backward(ACTIVATION_GELU, edin, edin, gelu_pre->value, rows * C);
    reference_matmul_backward_weight(edweight, edbias, dout->value, in->value, rows, C, OC);
    RUN_TWICE(f, be->matmul_forward(be, out->device, in->device, weight->device, bias->device, rows, C, OC));
    expect_near(out, epre, 1, "out");
    RUN_TWICE(f, be->matmul_activation_forward(be, ACTIVATION_GELU, out->device, pre->device, in->device,
                                               weight->device, bias->device, rows, C, OC));
    expect_near(pre, epre, 1, "pre");
    expect_near(out, eout, 2.5, "GELU");
    RUN_TWICE(f, be->matmul_backward_activation(be, ACTIVATION_GELU, din->device, dout->device, weight->device,
                                                gelu_pre->device, rows, C, OC));
    expect_near(din, edin, 1, "din");
    RUN_TWICE(f, be->matmul_backward_weight(be, dweight->device, dbias->device, dout->device, in->device, rows, C, OC,
                                            false));
    expect_near(dweight, edweight, 1, "dweight");
    expect_near(dbias, edbias, 1, "dbias");
}

static void test_linear(void **state) {
    Fixture *f = fixture_of(state);
    linear(f, 1);
    linear(f, N);
}

static void test_attention(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const float scale = 0.3f;
    begin_case(f, "attention");
    Array *qkv = array_in(f, ACTIVATION, N, 3 * C, 1.0), *lse = array_out(f, FLOAT, B * NH, T);
    Array *out = array_out(f, ACTIVATION, N, C), *dout = array_in(f, ACTIVATION, N, C, 1.0);
    Array *dqkv = array_out(f, ACTIVATION, N, 3 * C), *first = array_in(f, ACTIVATION, B, 3 * C, 1.0);
    Array *keys = array_out(f, ACTIVATION, B, C), *values = array_out(f, ACTIVATION, B, C);
    double *eout = host_numbers(f, N * C), *else_ = host_numbers(f, B * NH * T), *edqkv = host_numbers(f, N * 3 * C);
    reference_attention_forward(eout, else_, qkv->value, NULL, B, T, C, NH, scale);
    reference_attention_backward(edqkv, dout->value, qkv->value, NULL, B, T, C, NH, scale);
    RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, scale, NULL));
    RUN_TWICE(f, be->attention_backward(be, dqkv->device, dout->device, qkv->device, out->device, lse->device, B, T, C,
                                        NH, scale, NULL));
    expect_near(out, eout, 2.5, "out");
    expect_near(lse, else_, 1, "lse");
    expect_near(dqkv, edqkv, 2.5, "dqkv");
    Array *decoded = array_out(f, ACTIVATION, B, C); /* the first token sees itself alone: its value */
    RUN_TWICE(f, be->attention_decode(be, decoded->device, keys->device, values->device, first->device, B, 0, 1, C, NH,
                                      scale));
    double *edecoded = host_numbers(f, B * C);
    for (int i = 0; i < B * C; i++) edecoded[i] = first->value[i / C * 3 * C + 2 * C + i % C];
    expect_near(decoded, edecoded, 1, "decoded");
}

static void test_loss_and_rounding(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { MANY = 50000 }; /* several blocks of elements for each thread */
    begin_case(f, "loss and rounding");
    Array *logits = array_in_out(f, ACTIVATION, N, VP, 3.0), *targets = array_index(f, N, 1, V);
    Array *losses = array_out(f, FLOAT, N, 1), *in = array_in(f, FLOAT, 1, MANY, 1.0);
    Array *rounded = array_out(f, ACTIVATION, 1, MANY);
    double *elosses = host_numbers(f, N), *edlogits = host_numbers(f, N * VP);
    reference_cross_entropy_forward(elosses, logits->value, targets->index, 0, N, V, VP);
    reference_cross_entropy_backward(edlogits, 0.5, logits->value, targets->index, 0, N, V, VP);
    RUN_TWICE(f,
              be->softmax_cross_entropy(be, losses->device, logits->device, targets->device, 0.5f, 0, N, V, VP, true));
    expect_near(losses, elosses, 1, "losses");
    expect_near(logits, edlogits, 1, "gradient");
    RUN_TWICE(f, be->to_activation(be, rounded->device, in->device, MANY));
    expect_exact(rounded, in->value, "rounded");
    double *halves = fetch(rounded);
    for (int i = 0; i < MANY; i++) halves[i] /= 2;
    RUN_TWICE(f, be->scale(be, rounded->device, rounded->device, 0.5f, MANY));
    expect_exact(rounded, halves, "scaled");
}

/* Steps of each kind of rule: elementwise, with the change of the gradient, and by matrices. */
static void test_optimizers(void **state) {
    Fixture *f = fixture_of(state);
    const OptimName names[] = {OPTIM_ADAMW, OPTIM_MARS_ADAMW, OPTIM_MUON};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        OptimConfig config = optim_defaults(names[i], 0.05);
        config.ns_dtype = NS_DTYPE_FLOAT32;
        OptimWorld *w = open_world(odd_table(), config, f->activation, THREADS, NULL);
        for (uint32_t step = 0; step < 2; step++) {
            set_gradient(w, random_gradient, step);
            both_step(w, config.learning_rate);
        }
        assert_moved(w, 1e-4);
        close_world(w);
    }
}

/* Starts the program again, where OpenMP reads these variables. */
static void restart(char **argv) {
    setenv("OMP_THREAD_LIMIT", "2", 1);
    setenv("OMP_DYNAMIC", "true", 1);
    execv("/proc/self/exe", argv);
    die("cannot start %s again", argv[0]);
}

int main(int argc, char **argv) {
    (void)argc;
    const char *limit = getenv("OMP_THREAD_LIMIT");
    if (!limit || atoi(limit) != LIMIT) restart(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fewer_threads_start), cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_batched_matmul),      cmocka_unit_test(test_norms),
        cmocka_unit_test(test_qk_norm_rope),        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_attention),           cmocka_unit_test(test_loss_and_rounding),
        cmocka_unit_test(test_optimizers),
    };
    const int threads = THREADS;
    int failed = run_cpu_tests(&threads, 1, tests, ARRAY_LENGTH(tests));
    omp_set_dynamic(0);
#pragma omp parallel num_threads(LIMIT)
#pragma omp master
    failed += run_cpu_tests(&threads, 1, tests, ARRAY_LENGTH(tests));
    return failed;
}
