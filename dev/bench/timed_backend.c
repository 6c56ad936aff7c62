/* timed_backend.c: the wrappers of timed_backend.h. Each synchronizes, so that an asynchronous device's time is counted
 * where it belongs. */
#include "dev/bench/timed_backend.h"

#include <string.h>

/* Adds the time since `begun` to the operation of that name. */
static void add_time(Backend *be, const char *name, double begun) {
    TimedBackend *timed = (TimedBackend *)be;
    timed->inner->synchronize(timed->inner);
    double seconds = seconds_now() - begun;
    for (int i = 0; i < timed->count; i++)
        if (strcmp(timed->operations[i].name, name) == 0) {
            timed->operations[i].seconds += seconds;
            timed->operations[i].calls++;
            return;
        }
    if (timed->count == TIMED_OPERATIONS) die("more operations than TIMED_OPERATIONS");
    timed->operations[timed->count++] = (OperationTime){name, seconds, 1};
}

/* WRAP(operation, label, (parameters), (arguments)): the label may depend on the arguments. */
#define WRAP(operation, label, parameters, arguments) \
    static void timed_##operation parameters {        \
        Backend *inner = ((TimedBackend *)be)->inner; \
        double begun = seconds_now();                 \
        inner->operation arguments;                   \
        add_time(be, label, begun);                   \
    }

/* The output layer's products are told from the others by their width. */
static const char *product_label(int width, const char *hidden, const char *output) {
    return width > 20000 ? output : hidden;
}

WRAP(embedding_forward, "embedding forward",
     (Backend * be, void *out, const int32_t *tokens, const void *wte, const void *wpe, int B, int T, int C),
     (inner, out, tokens, wte, wpe, B, T, C))
WRAP(embedding_backward, "embedding backward",
     (Backend * be, float *dwte, float *dwpe, const void *dout, const int32_t *tokens, int B, int T, int C, int V,
      bool accumulate),
     (inner, dwte, dwpe, dout, tokens, B, T, C, V, accumulate))
WRAP(layernorm_forward, "layernorm forward",
     (Backend * be, void *out, float *mean, float *rstd, const void *x, const void *weight, const void *bias, int N,
      int C),
     (inner, out, mean, rstd, x, weight, bias, N, C))
WRAP(residual_layernorm_forward, "layernorm forward",
     (Backend * be, void *sum, void *out, float *mean, float *rstd, const void *x, const void *delta,
      const void *weight, const void *bias, int N, int C),
     (inner, sum, out, mean, rstd, x, delta, weight, bias, N, C))
WRAP(layernorm_backward, "layernorm backward",
     (Backend * be, void *dx, float *dweight, float *dbias, const void *dout, const void *x, const void *weight,
      const float *mean, const float *rstd, int N, int C, bool accumulate),
     (inner, dx, dweight, dbias, dout, x, weight, mean, rstd, N, C, accumulate))
WRAP(matmul_forward, product_label(OC, "linear forward", "head forward"),
     (Backend * be, void *out, const void *in, const void *weight, const void *bias, int N, int IC, int OC),
     (inner, out, in, weight, bias, N, IC, OC))
WRAP(matmul_gelu_forward, "linear + GELU forward",
     (Backend * be, void *out, void *pre, const void *in, const void *weight, const void *bias, int N, int IC, int OC),
     (inner, out, pre, in, weight, bias, N, IC, OC))
WRAP(matmul_backward_input, product_label(OC, "linear backward, input", "head backward, input"),
     (Backend * be, void *din, const void *dout, const void *weight, const void *gelu_pre, int N, int IC, int OC),
     (inner, din, dout, weight, gelu_pre, N, IC, OC))
WRAP(matmul_backward_weight, product_label(OC, "linear backward, weight", "head backward, weight"),
     (Backend * be, float *dweight, float *dbias, const void *dout, const void *in, int N, int IC, int OC,
      bool accumulate),
     (inner, dweight, dbias, dout, in, N, IC, OC, accumulate))
WRAP(attention_forward, "attention forward",
     (Backend * be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH, float scale),
     (inner, out, lse, qkv, B, T, C, NH, scale))
WRAP(attention_backward, "attention backward",
     (Backend * be, void *dqkv, const void *dout, const void *qkv, const void *out, const float *lse, int B, int T,
      int C, int NH, float scale),
     (inner, dqkv, dout, qkv, out, lse, B, T, C, NH, scale))
WRAP(softmax_cross_entropy, "softmax, loss, gradient",
     (Backend * be, float *losses, void *logits, const int32_t *targets, float dloss, int N, int V, int VP,
      bool gradient),
     (inner, losses, logits, targets, dloss, N, V, VP, gradient))
WRAP(batched_product, "batched products",
     (Backend * be, const BatchedProduct *product, void *d, const void *a, const void *b, const void *c),
     (inner, product, d, a, b, c))

/* What is not timed is handed on as it is: these functions of the inner table want the inner table. */
#define PASS(result, function, parameters, arguments) \
    static result pass_##function parameters {        \
        Backend *inner = ((TimedBackend *)be)->inner; \
        inner->function arguments;                    \
    }
static void *pass_alloc(Backend *be, size_t bytes, const char *what) {
    Backend *inner = ((TimedBackend *)be)->inner;
    return inner->alloc(inner, bytes, what);
}
static bool pass_multiplies(Backend *be, DType type) {
    Backend *inner = ((TimedBackend *)be)->inner;
    return inner->multiplies(inner, type);
}
static size_t pass_memory_left(Backend *be) {
    Backend *inner = ((TimedBackend *)be)->inner;
    return inner->memory_left(inner);
}
static double pass_stopwatch_seconds(Backend *be) {
    Backend *inner = ((TimedBackend *)be)->inner;
    return inner->stopwatch_seconds(inner);
}
static char *pass_choices(Backend *be) {
    Backend *inner = ((TimedBackend *)be)->inner;
    return inner->choices(inner);
}
static bool pass_choose(Backend *be, const char *text, Error *error) {
    Backend *inner = ((TimedBackend *)be)->inner;
    return inner->choose(inner, text, error);
}
PASS(void, free, (Backend * be, void *memory), (inner, memory))
PASS(void, copy_from_host, (Backend * be, void *device, const void *host, size_t bytes), (inner, device, host, bytes))
PASS(void, copy_to_host, (Backend * be, void *host, const void *device, size_t bytes), (inner, host, device, bytes))
PASS(void, copy, (Backend * be, void *to, const void *from, size_t bytes), (inner, to, from, bytes))
PASS(void, zero, (Backend * be, void *memory, size_t bytes), (inner, memory, bytes))
PASS(void, upload, (Backend * be, void *device, const void *host, size_t bytes), (inner, device, host, bytes))
PASS(void, await_uploads, (Backend * be), (inner))
PASS(void, stopwatch_start, (Backend * be), (inner))
PASS(void, stopwatch_stop, (Backend * be), (inner))
PASS(void, tune, (Backend * be, bool on), (inner, on))
PASS(void, synchronize, (Backend * be), (inner))
PASS(void, to_activation, (Backend * be, void *out, const float *in, size_t n), (inner, out, in, n))
PASS(void, weights_changed, (Backend * be), (inner))
PASS(void, add_sum, (Backend * be, double *total, const float *values, size_t n), (inner, total, values, n))

void timed_backend_open(TimedBackend *timed, Backend *inner) {
    memset(timed, 0, sizeof *timed);
    timed->inner = inner;
    Backend *be = &timed->base;
    *be = *inner;
    be->alloc = pass_alloc;
    be->free = pass_free;
    be->copy_from_host = pass_copy_from_host;
    be->copy_to_host = pass_copy_to_host;
    be->copy = pass_copy;
    be->zero = pass_zero;
    be->synchronize = pass_synchronize;
    be->memory_left = pass_memory_left;
    be->upload = pass_upload;
    be->await_uploads = pass_await_uploads;
    be->stopwatch_start = pass_stopwatch_start;
    be->stopwatch_stop = pass_stopwatch_stop;
    be->stopwatch_seconds = pass_stopwatch_seconds;
    be->tune = pass_tune;
    be->choices = pass_choices;
    be->choose = pass_choose;
    be->to_activation = pass_to_activation;
    be->weights_changed = pass_weights_changed;
    be->add_sum = pass_add_sum;
    be->embedding_forward = timed_embedding_forward;
    be->embedding_backward = timed_embedding_backward;
    be->layernorm_forward = timed_layernorm_forward;
    be->residual_layernorm_forward = timed_residual_layernorm_forward;
    be->layernorm_backward = timed_layernorm_backward;
    be->matmul_forward = timed_matmul_forward;
    be->matmul_gelu_forward = timed_matmul_gelu_forward;
    be->matmul_backward_input = timed_matmul_backward_input;
    be->matmul_backward_weight = timed_matmul_backward_weight;
    be->attention_forward = timed_attention_forward;
    be->attention_backward = timed_attention_backward;
    be->softmax_cross_entropy = timed_softmax_cross_entropy;
    be->batched_product = timed_batched_product;
    be->multiplies = pass_multiplies;
}

void timed_backend_reset(TimedBackend *timed) { timed->count = 0; }
