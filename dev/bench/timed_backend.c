/* timed_backend.c: see timed_backend.h. */
#include "dev/bench/timed_backend.h"

#include <string.h>

/* The one whose operations are replaced: a table has no room to say so itself. */
static TimedBackend *active;

static double begin(void) {
    active->table.synchronize(active->be);
    return seconds_now();
}

/* Adds the time since `begun` to the operation of that name. */
static void add_time(const char *name, double begun) {
    TimedBackend *timed = active;
    timed->table.synchronize(timed->be);
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

/* The output layer's matmuls are told from the others by their width. */
static const char *matmul_label(int width, const char *hidden, const char *output) {
    return width > 20000 ? output : hidden;
}

/* TIMED(operation, label, (parameters), (arguments)): the label may depend on the arguments. */
#define TIMED(operation, label, parameters, arguments) \
    static void timed_##operation parameters {         \
        double begun = begin();                        \
        active->table.operation arguments;             \
        add_time(label, begun);                        \
    }

TIMED(zero, "zeroing", (Backend * be, void *memory, size_t bytes), (be, memory, bytes))
TIMED(embedding_forward, "embedding forward",
      (Backend * be, void *out, const int32_t *tokens, const void *wte, const void *wpe, int B, int T, int C),
      (be, out, tokens, wte, wpe, B, T, C))
TIMED(embedding_backward, "embedding backward",
      (Backend * be, float *dwte, float *dwpe, const void *dout, const int32_t *tokens, int B, int T, int C, int V,
       bool accumulate),
      (be, dwte, dwpe, dout, tokens, B, T, C, V, accumulate))
TIMED(layernorm_forward, "layernorm forward",
      (Backend * be, void *out, float *mean, float *rstd, const void *x, const void *weight, const void *bias, int N,
       int C),
      (be, out, mean, rstd, x, weight, bias, N, C))
TIMED(residual_layernorm_forward, "layernorm forward",
      (Backend * be, void *sum, void *out, float *mean, float *rstd, const void *x, const void *delta,
       const void *weight, const void *bias, int N, int C),
      (be, sum, out, mean, rstd, x, delta, weight, bias, N, C))
TIMED(layernorm_backward, "layernorm backward",
      (Backend * be, void *dx, float *dweight, float *dbias, const void *dout, const void *x, const void *weight,
       const float *mean, const float *rstd, int N, int C, bool accumulate),
      (be, dx, dweight, dbias, dout, x, weight, mean, rstd, N, C, accumulate))
TIMED(matmul_forward, matmul_label(OC, "linear forward", "LM head forward"),
      (Backend * be, void *out, const void *in, const void *weight, const void *bias, int N, int IC, int OC),
      (be, out, in, weight, bias, N, IC, OC))
TIMED(matmul_gelu_forward, "linear + GELU forward",
      (Backend * be, void *out, void *pre, const void *in, const void *weight, const void *bias, int N, int IC, int OC),
      (be, out, pre, in, weight, bias, N, IC, OC))
TIMED(matmul_backward_input, matmul_label(OC, "linear backward, input", "LM head backward, input"),
      (Backend * be, void *din, const void *dout, const void *weight, const void *gelu_pre, int N, int IC, int OC),
      (be, din, dout, weight, gelu_pre, N, IC, OC))
TIMED(matmul_backward_weight, matmul_label(OC, "linear backward, weight", "LM head backward, weight"),
      (Backend * be, float *dweight, float *dbias, const void *dout, const void *in, int N, int IC, int OC,
       bool accumulate),
      (be, dweight, dbias, dout, in, N, IC, OC, accumulate))
TIMED(attention_forward, "attention forward",
      (Backend * be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH, float scale),
      (be, out, lse, qkv, B, T, C, NH, scale))
TIMED(attention_backward, "attention backward",
      (Backend * be, void *dqkv, const void *dout, const void *qkv, const void *out, const float *lse, int B, int T,
       int C, int NH, float scale),
      (be, dqkv, dout, qkv, out, lse, B, T, C, NH, scale))
TIMED(softmax_cross_entropy, "softmax, loss, gradient",
      (Backend * be, float *losses, void *logits, const int32_t *targets, float dloss, int N, int V, int VP,
       bool gradient),
      (be, losses, logits, targets, dloss, N, V, VP, gradient))
TIMED(add_sum, "sum of losses", (Backend * be, double *total, const float *values, size_t n), (be, total, values, n))

void timed_backend_begin(TimedBackend *timed, Backend *be) {
    if (active) die("the operations of %s are being timed already", active->be->name);
    memset(timed, 0, sizeof *timed);
    timed->be = be;
    timed->table = *be;
    active = timed;
    be->zero = timed_zero;
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
    be->add_sum = timed_add_sum;
}

void timed_backend_end(TimedBackend *timed) {
    *timed->be = timed->table;
    active = NULL;
}
