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
TIMED(scale, "scaling", (Backend * be, void *out, const void *in, float factor, size_t n), (be, out, in, factor, n))
TIMED(embedding_forward, "embedding forward",
      (Backend * be, void *out, const int32_t *tokens, const void *wte, const void *wpe, int B, int T, int C),
      (be, out, tokens, wte, wpe, B, T, C))
TIMED(embedding_backward, "embedding backward",
      (Backend * be, float *dwte, float *dwpe, const void *dout, const int32_t *tokens, int B, int T, int C, int V,
       bool accumulate),
      (be, dwte, dwpe, dout, tokens, B, T, C, V, accumulate))
TIMED(norm_forward, "norm forward",
      (Backend * be, const NormShape *norm, void *out, float *mean, float *rstd, const void *x, const void *weight,
       const void *bias),
      (be, norm, out, mean, rstd, x, weight, bias))
TIMED(residual_norm_forward, "norm forward",
      (Backend * be, const NormShape *norm, void *sum, void *out, float *mean, float *rstd, const void *x,
       const void *delta, const void *weight, const void *bias),
      (be, norm, sum, out, mean, rstd, x, delta, weight, bias))
TIMED(norm_backward, "norm backward",
      (Backend * be, const NormShape *norm, void *dx, float *dweight, float *dbias, const void *dout, const void *x,
       const void *weight, const float *mean, const float *rstd, bool accumulate),
      (be, norm, dx, dweight, dbias, dout, x, weight, mean, rstd, accumulate))
TIMED(matmul_forward, matmul_label(OC, "linear forward", "LM head forward"),
      (Backend * be, void *out, const void *in, const void *weight, const void *bias, int N, int IC, int OC),
      (be, out, in, weight, bias, N, IC, OC))
TIMED(matmul_activation_forward, "linear + activation forward",
      (Backend * be, ActivationKind activation, void *out, void *pre, const void *in, const void *weight,
       const void *bias, int N, int IC, int OC),
      (be, activation, out, pre, in, weight, bias, N, IC, OC))
TIMED(matmul_backward_input, matmul_label(OC, "linear backward, input", "LM head backward, input"),
      (Backend * be, void *din, const void *dout, const void *weight, int N, int IC, int OC),
      (be, din, dout, weight, N, IC, OC))
TIMED(matmul_backward_activation, "linear backward, input",
      (Backend * be, ActivationKind activation, void *din, const void *dout, const void *weight, const void *pre, int N,
       int IC, int OC),
      (be, activation, din, dout, weight, pre, N, IC, OC))
TIMED(matmul_backward_weight, matmul_label(OC, "linear backward, weight", "LM head backward, weight"),
      (Backend * be, float *dweight, float *dbias, const void *dout, const void *in, int N, int IC, int OC,
       bool accumulate),
      (be, dweight, dbias, dout, in, N, IC, OC, accumulate))
TIMED(qk_norm_rope_forward, "QK-norm, RoPE forward",
      (Backend * be, void *qkv, float *rstd, const float *rotation, float eps, int B, int T, int C, int NH),
      (be, qkv, rstd, rotation, eps, B, T, C, NH))
TIMED(qk_norm_rope_backward, "QK-norm, RoPE backward",
      (Backend * be, void *dqkv, const void *qkv, const float *rstd, const float *rotation, int B, int T, int C,
       int NH),
      (be, dqkv, qkv, rstd, rotation, B, T, C, NH))
TIMED(dropout, "dropout", (Backend * be, const Dropout *dropout, void *out, const void *in, int B, size_t n),
      (be, dropout, out, in, B, n))
TIMED(attention_forward, "attention forward",
      (Backend * be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH, float scale,
       const Dropout *dropout),
      (be, out, lse, qkv, B, T, C, NH, scale, dropout))
TIMED(attention_backward, "attention backward",
      (Backend * be, void *dqkv, const void *dout, const void *qkv, const void *out, const float *lse, int B, int T,
       int C, int NH, float scale, const Dropout *dropout),
      (be, dqkv, dout, qkv, out, lse, B, T, C, NH, scale, dropout))
TIMED(softmax_cross_entropy, "softmax, loss, gradient",
      (Backend * be, float *losses, void *logits, const int32_t *targets, float dloss, float softcap, int N, int V,
       int VP, bool gradient),
      (be, losses, logits, targets, dloss, softcap, N, V, VP, gradient))
TIMED(add_sum, "sum of losses", (Backend * be, double *total, const float *values, size_t n), (be, total, values, n))

void timed_backend_begin(TimedBackend *timed, Backend *be) {
    if (active) die("the operations of %s are being timed already", active->be->name);
    memset(timed, 0, sizeof *timed);
    timed->be = be;
    timed->table = *be;
    active = timed;
    be->zero = timed_zero;
    be->scale = timed_scale;
    be->embedding_forward = timed_embedding_forward;
    be->embedding_backward = timed_embedding_backward;
    be->norm_forward = timed_norm_forward;
    be->residual_norm_forward = timed_residual_norm_forward;
    be->norm_backward = timed_norm_backward;
    be->matmul_forward = timed_matmul_forward;
    be->matmul_activation_forward = timed_matmul_activation_forward;
    be->matmul_backward_input = timed_matmul_backward_input;
    be->matmul_backward_activation = timed_matmul_backward_activation;
    be->matmul_backward_weight = timed_matmul_backward_weight;
    be->qk_norm_rope_forward = timed_qk_norm_rope_forward;
    be->qk_norm_rope_backward = timed_qk_norm_rope_backward;
    be->dropout = timed_dropout;
    be->attention_forward = timed_attention_forward;
    be->attention_backward = timed_attention_backward;
    be->softmax_cross_entropy = timed_softmax_cross_entropy;
    be->add_sum = timed_add_sum;
}

void timed_backend_end(TimedBackend *timed) {
    *timed->be = timed->table;
    active = NULL;
}
