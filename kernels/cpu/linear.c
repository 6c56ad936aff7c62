/* linear.c: linear layers forward and backward, with bias and activation. It calls the matmuls of matmul.h and does the
 * elementwise work. */
#include <math.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/vector_math.h"

/* oneDNN loses half its speed if the inner dimension is very long (in the backward pass of the LM head). Such matmuls
 * are computed in parts of at most this length and summed in float32. */
enum { LONGEST_INNER = 8192 };

/* Weight gradients sum over rows. oneDNN is twice as fast with groups of this many rows (or half as many) as with
 * groups of 2048 or more, whose factors do not fit its caches. */
enum { WEIGHT_ROWS = 1024 };

static void multiply(Backend *be, const MatmulShape *shape, const void *a, const void *b, void *c) {
    Matmul *matmul = cpu_backend(be)->matmul;
    matmul_run(matmul, matmul_kernel(matmul, shape), 0, a, b, c);
}

static void matmul_no_bias(Backend *be, void *out, const void *in, const void *weight, int N, int IC, int OC) {
    MatmulShape shape = matmul_dense(N, OC, IC, false, true, ACT_DTYPE, ACT_DTYPE);
    shape.weights = true;
    multiply(be, &shape, in, weight, out);
}

static void add_bias_to_row(act *RESTRICT x, const act *RESTRICT bias, int OC) {
#pragma omp simd
    for (int o = 0; o < OC; o++) x[o] = act_store(act_load(x[o]) + act_load(bias[o]));
}

static void add_bias(Backend *be, act *out, const act *bias, int N, int OC) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int row = 0; row < N; row++) add_bias_to_row(out + (int64_t)row * OC, bias, OC);
}

static void matmul_forward(Backend *be, void *out, const void *in, const void *weight, const void *bias, int N, int IC,
                           int OC) {
    matmul_no_bias(be, out, in, weight, N, IC, OC);
    if (bias) add_bias(be, out, bias, N, OC);
}

/* ---- activations: a loop is inlined once for each kind, which is then a constant in it ---- */

ALWAYS_INLINE float activation_of(ActivationKind kind, float x) {
    switch (kind) {
    case ACTIVATION_GELU:
        return gelu(x);
    case ACTIVATION_RELU2:
        return relu2(x);
    }
    return NAN;
}

ALWAYS_INLINE float activation_derivative(ActivationKind kind, float x) {
    switch (kind) {
    case ACTIVATION_GELU:
        return gelu_derivative(x);
    case ACTIVATION_RELU2:
        return relu2_derivative(x);
    }
    return NAN;
}

/* out may be pre itself. */
ALWAYS_INLINE void activate_of_kind(ActivationKind kind, act *out, const act *pre, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = act_store(activation_of(kind, act_load(pre[i])));
}

/* Bias and activation in one pass; out may be pre itself. */
ALWAYS_INLINE void bias_activation_row_of_kind(ActivationKind kind, act *out, act *pre, const act *RESTRICT bias,
                                               int OC) {
#pragma omp simd
    for (int o = 0; o < OC; o++) {
        act x = act_store(act_load(pre[o]) + act_load(bias[o]));
        pre[o] = x;
        out[o] = act_store(activation_of(kind, act_load(x)));
    }
}

/* din *= the activation's derivative at pre */
ALWAYS_INLINE void gradient_of_kind(ActivationKind kind, act *RESTRICT din, const act *RESTRICT pre, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        din[i] = act_store(act_load(din[i]) * activation_derivative(kind, act_load(pre[i])));
}

static void activate_elements(ActivationKind kind, act *out, const act *pre, int64_t n) {
    switch (kind) {
    case ACTIVATION_GELU:
        activate_of_kind(ACTIVATION_GELU, out, pre, n);
        return;
    case ACTIVATION_RELU2:
        activate_of_kind(ACTIVATION_RELU2, out, pre, n);
        return;
    }
}

static void bias_activation_row(ActivationKind kind, act *out, act *pre, const act *bias, int OC) {
    switch (kind) {
    case ACTIVATION_GELU:
        bias_activation_row_of_kind(ACTIVATION_GELU, out, pre, bias, OC);
        return;
    case ACTIVATION_RELU2:
        bias_activation_row_of_kind(ACTIVATION_RELU2, out, pre, bias, OC);
        return;
    }
}

static void gradient_of_elements(ActivationKind kind, act *din, const act *pre, int64_t n) {
    switch (kind) {
    case ACTIVATION_GELU:
        gradient_of_kind(ACTIVATION_GELU, din, pre, n);
        return;
    case ACTIVATION_RELU2:
        gradient_of_kind(ACTIVATION_RELU2, din, pre, n);
        return;
    }
}

/* ---- layers ---- */

static void matmul_activation_forward(Backend *be, ActivationKind activation, void *out_, void *pre_, const void *in,
                                      const void *weight, const void *bias, int N, int IC, int OC) {
    act *out = out_, *pre = pre_;
    matmul_no_bias(be, pre, in, weight, N, IC, OC);
    if (bias) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
        for (int64_t row = 0; row < N; row++) bias_activation_row(activation, out + row * OC, pre + row * OC, bias, OC);
    } else {
        int64_t n = (int64_t)N * OC;
#pragma omp parallel for schedule(static) num_threads(be->threads)
        for (int64_t begin = 0; begin < n; begin += ELEMENT_BLOCK)
            activate_elements(activation, out + begin, pre + begin, min_i64(ELEMENT_BLOCK, n - begin));
    }
}

static void matmul_backward_input(Backend *be, void *din_, const void *dout, const void *weight, int N, int IC,
                                  int OC) {
    int64_t n = (int64_t)N * IC;
    act *din = din_;
    MatmulShape shape = matmul_dense(N, IC, OC, false, false, ACT_DTYPE, ACT_DTYPE);
    shape.weights = true;
    if (OC <= LONGEST_INNER) {
        multiply(be, &shape, dout, weight, din);
    } else {
        float *sums = cpu_scratch(be, be->threads, (size_t)n * sizeof *sums);
        int parts = (int)ceil_div(OC, LONGEST_INNER), length = (int)round_up(ceil_div(OC, parts), 64);
        shape.output = DTYPE_FLOAT32;
        for (int begin = 0; begin < OC; begin += length) {
            shape.k = min_i64(length, OC - begin);
            shape.beta = begin > 0 ? 1.0f : 0.0f;
            multiply(be, &shape, (const act *)dout + begin, (const act *)weight + (int64_t)begin * IC, sums);
        }
        be->to_activation(be, din, sums, (size_t)n);
    }
}

static void matmul_backward_activation(Backend *be, ActivationKind activation, void *din, const void *dout,
                                       const void *weight, const void *pre, int N, int IC, int OC) {
    int64_t n = (int64_t)N * IC;
    matmul_backward_input(be, din, dout, weight, N, IC, OC);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t begin = 0; begin < n; begin += ELEMENT_BLOCK)
        gradient_of_elements(activation, (act *)din + begin, (const act *)pre + begin,
                             min_i64(ELEMENT_BLOCK, n - begin));
}

/* Threads divide the columns. Each thread sums its columns over all rows in order. */
static void bias_gradient(Backend *be, float *dbias, const act *dout, int N, int OC, bool accumulate) {
    int slice = (int)round_up(ceil_div(OC, be->threads), 32);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int begin = 0; begin < OC; begin += slice) {
        int end = (int)min_i64(begin + slice, OC);
        if (!accumulate)
            for (int o = begin; o < end; o++) dbias[o] = 0.0f;
        for (int row = 0; row < N; row++) {
            const act *dy = dout + (int64_t)row * OC;
#pragma omp simd
            for (int o = begin; o < end; o++) dbias[o] += act_load(dy[o]);
        }
    }
}

static void matmul_backward_weight(Backend *be, float *dweight, float *dbias, const void *dout, const void *in, int N,
                                   int IC, int OC, bool accumulate) {
    for (int begin = 0; begin < N; begin += WEIGHT_ROWS) {
        int rows = (int)min_i64(WEIGHT_ROWS, N - begin);
        MatmulShape shape = matmul_dense(OC, IC, rows, true, false, ACT_DTYPE, DTYPE_FLOAT32);
        shape.beta = accumulate || begin > 0 ? 1.0f : 0.0f;
        multiply(be, &shape, (const act *)dout + (int64_t)begin * OC, (const act *)in + (int64_t)begin * IC, dweight);
    }
    if (dbias) bias_gradient(be, dbias, dout, N, OC, accumulate);
}

ENTER_OPERATIONS(linear) {
    be->matmul_forward = matmul_forward;
    be->matmul_activation_forward = matmul_activation_forward;
    be->matmul_backward_input = matmul_backward_input;
    be->matmul_backward_activation = matmul_backward_activation;
    be->matmul_backward_weight = matmul_backward_weight;
}
