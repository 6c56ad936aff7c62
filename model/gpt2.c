/* gpt2.c: the forward and the backward pass of GPT-2, side by side. Each forward function is followed by its
 * backward function, which visits the same operations in reverse. Tensors and memory are in gpt2_tensors.c. */
#include "model/gpt2.h"

#include <math.h>
#include <stdlib.h>

#include "util/philox.h"

/* The batch that is being computed. */
typedef struct PassBatch {
    const int32_t *inputs, *targets; /* (B,T) */
    int B, T, N;                     /* N = B*T rows */
} PassBatch;

float gpt2_attention_scale(const GPT2Config *config, int l) {
    int HS = config->n_embd / config->n_head;
    float scale = 1.0f / sqrtf((float)HS);
    return config->scale_attn_by_inverse_layer_idx ? scale / (float)(l + 1) : scale;
}

double gpt2_flops_per_token(const GPT2 *model) {
    const GPT2Config *c = &model->config;
    return 6.0 * (double)model->table.parameters + 12.0 * c->n_layer * (double)c->n_embd * c->block_size;
}

/* ---- linear layers and norms by their indices in the tensor table ---- */

static void linear_forward(GPT2 *m, void *out, const void *in, GPT2Linear linear, int N) {
    m->be->matmul_forward(m->be, out, in, gpt2_weight(m, linear.weight), gpt2_weight(m, linear.bias), N, linear.in,
                          linear.out);
}

/* The weight's gradient first: din may overwrite what dout was made from, never `in`. */
static void linear_backward(GPT2 *m, void *din, const void *dout, const void *in, const void *gelu_pre,
                            GPT2Linear linear, int N, bool accumulate) {
    m->be->matmul_backward_weight(m->be, gpt2_gradient(m, linear.weight), gpt2_gradient(m, linear.bias), dout, in, N,
                                  linear.in, linear.out, accumulate);
    m->be->matmul_backward_input(m->be, din, dout, gpt2_weight(m, linear.weight), gelu_pre, N, linear.in, linear.out);
}

static void norm_forward(GPT2 *m, void *out, GPT2LayerNormStatistics s, const void *x, GPT2LayerNorm norm, int N) {
    m->be->layernorm_forward(m->be, out, s.mean, s.rstd, x, gpt2_weight(m, norm.weight), gpt2_weight(m, norm.bias), N,
                             m->config.n_embd);
}

static void residual_norm_forward(GPT2 *m, void *sum, void *out, GPT2LayerNormStatistics s, const void *x,
                                  const void *delta, GPT2LayerNorm norm, int N) {
    m->be->residual_layernorm_forward(m->be, sum, out, s.mean, s.rstd, x, delta, gpt2_weight(m, norm.weight),
                                      gpt2_weight(m, norm.bias), N, m->config.n_embd);
}

static void norm_backward(GPT2 *m, void *dx, const void *dout, const void *x, GPT2LayerNormStatistics s,
                          GPT2LayerNorm norm, int N, bool accumulate) {
    m->be->layernorm_backward(m->be, dx, gpt2_gradient(m, norm.weight), gpt2_gradient(m, norm.bias), dout, x,
                              gpt2_weight(m, norm.weight), s.mean, s.rstd, N, m->config.n_embd, accumulate);
}

/* ---- attention sublayer of a block:  residual_middle = residual + c_proj(attention(c_attn(ln_1))),  ln_2 of it ---- */

static void attention_sublayer_forward(GPT2 *m, int l, PassBatch s) {
    GPT2BlockTensors *t = &m->blocks[l];
    GPT2BlockActivations *a = &m->activations[l];
    linear_forward(m, a->qkv, a->ln_1, t->c_attn, s.N);
    m->be->attention_forward(m->be, a->attention, a->lse, a->qkv, s.B, s.T, m->config.n_embd, m->config.n_head,
                             gpt2_attention_scale(&m->config, l));
    linear_forward(m, m->sublayer_out, a->attention, t->attn_c_proj, s.N);
    residual_norm_forward(m, a->residual_middle, a->ln_2, a->ln_2_statistics, a->residual, m->sublayer_out, t->ln_2,
                          s.N);
}

static void attention_sublayer_backward(GPT2 *m, int l, PassBatch s, bool accumulate) {
    GPT2BlockTensors *t = &m->blocks[l];
    GPT2BlockActivations *a = &m->activations[l];
    void *dattention = m->dsublayer, *dqkv = m->dhidden, *dln_1 = m->dsublayer;
    linear_backward(m, dattention, m->dresidual, a->attention, NULL, t->attn_c_proj, s.N, accumulate);
    m->be->attention_backward(m->be, dqkv, dattention, a->qkv, a->attention, a->lse, s.B, s.T, m->config.n_embd,
                              m->config.n_head, gpt2_attention_scale(&m->config, l));
    linear_backward(m, dln_1, dqkv, a->ln_1, NULL, t->c_attn, s.N, accumulate);
    norm_backward(m, m->dresidual, dln_1, a->residual, a->ln_1_statistics, t->ln_1, s.N, accumulate);
}

/* ---- MLP sublayer:  next residual = residual_middle + c_proj(gelu(c_fc(ln_2))),  and the LayerNorm that follows ---- */

static void mlp_hidden_forward(GPT2 *m, int l, PassBatch s) {
    GPT2Linear fc = m->blocks[l].c_fc;
    GPT2BlockActivations *a = &m->activations[l];
    m->be->matmul_gelu_forward(m->be, a->fc_gelu, a->fc, a->ln_2, gpt2_weight(m, fc.weight), gpt2_weight(m, fc.bias),
                               s.N, fc.in, fc.out);
}

static void mlp_sublayer_forward(GPT2 *m, int l, PassBatch s) {
    GPT2BlockActivations *a = &m->activations[l], *next = &m->activations[l + 1];
    mlp_hidden_forward(m, l, s);
    linear_forward(m, m->sublayer_out, a->fc_gelu, m->blocks[l].mlp_c_proj, s.N);
    if (l + 1 < m->config.n_layer)
        residual_norm_forward(m, next->residual, next->ln_1, next->ln_1_statistics, a->residual_middle, m->sublayer_out,
                              m->blocks[l + 1].ln_1, s.N);
    else
        residual_norm_forward(m, m->residual_final, m->ln_f_out, m->ln_f_statistics, a->residual_middle,
                              m->sublayer_out, m->ln_f, s.N);
}

static void mlp_sublayer_backward(GPT2 *m, int l, PassBatch s, bool accumulate) {
    GPT2BlockTensors *t = &m->blocks[l];
    GPT2BlockActivations *a = &m->activations[l];
    void *dfc = m->dhidden, *dln_2 = m->dsublayer;
    linear_backward(m, dfc, m->dresidual, a->fc_gelu, a->fc, t->mlp_c_proj, s.N, accumulate);
    linear_backward(m, dln_2, dfc, a->ln_2, NULL, t->c_fc, s.N, accumulate);
    norm_backward(m, m->dresidual, dln_2, a->residual_middle, a->ln_2_statistics, t->ln_2, s.N, accumulate);
}

/* ---- all blocks ---- */

/* Elements of the flat buffers: each block's tensors lie together, the embeddings before them, ln_f after. */
static size_t block_begin(const GPT2 *m, int l) {
    return m->table.tensors[l < m->config.n_layer ? m->blocks[l].ln_1.weight : m->ln_f.weight].offset;
}

static void need_weights(GPT2 *m, size_t begin, size_t end) {
    if (m->hooks.weights_needed) m->hooks.weights_needed(m->hooks.context, begin, end);
}

static void wrote_gradients(GPT2 *m, size_t begin, size_t end) {
    if (m->hooks.gradients_written) m->hooks.gradients_written(m->hooks.context, begin, end);
}

static void blocks_forward(GPT2 *m, PassBatch s) {
    GPT2BlockActivations *first = &m->activations[0];
    need_weights(m, 0, block_begin(m, 1));
    m->be->embedding_forward(m->be, first->residual, s.inputs, gpt2_weight(m, m->wte), gpt2_weight(m, m->wpe), s.B, s.T,
                             m->config.n_embd);
    norm_forward(m, first->ln_1, first->ln_1_statistics, first->residual, m->blocks[0].ln_1, s.N);
    for (int l = 0; l < m->config.n_layer; l++) {
        attention_sublayer_forward(m, l, s);
        bool last =
            l + 1 == m->config.n_layer; /* an MLP sublayer ends with the next block's norm, the last one's with ln_f */
        need_weights(m, block_begin(m, l + 1), last ? m->table.length : block_begin(m, l + 2));
        mlp_sublayer_forward(m, l, s);
    }
}

/* Computes again what the forward pass of block l did not keep. */
static void recompute_block(GPT2 *m, int l, PassBatch s) {
    GPT2BlockActivations *a = &m->activations[l];
    if (m->recompute == RECOMPUTE_BLOCK) {
        norm_forward(m, a->ln_1, a->ln_1_statistics, a->residual, m->blocks[l].ln_1, s.N);
        attention_sublayer_forward(m, l, s);
    }
    if (m->recompute != RECOMPUTE_NONE) mlp_hidden_forward(m, l, s);
}

/* From dbranch, the gradient of ln_f's output, down to the embeddings. */
static void blocks_backward(GPT2 *m, PassBatch s, bool accumulate) {
    size_t bytes = (size_t)s.N * (size_t)m->config.n_embd * dtype_size(m->be->activation);
    m->be->zero(m->be, m->dresidual, bytes);
    norm_backward(m, m->dresidual, m->dsublayer, m->residual_final, m->ln_f_statistics, m->ln_f, s.N, accumulate);
    wrote_gradients(m, block_begin(m, m->config.n_layer), m->table.length);
    for (int l = m->config.n_layer - 1; l >= 0; l--) {
        recompute_block(m, l, s);
        mlp_sublayer_backward(m, l, s, accumulate);
        attention_sublayer_backward(m, l, s, accumulate);
        wrote_gradients(m, block_begin(m, l), block_begin(m, l + 1));
    }
    m->be->embedding_backward(m->be, gpt2_gradient(m, m->wte), gpt2_gradient(m, m->wpe), m->dresidual, s.inputs, s.B,
                              s.T, m->config.n_embd, m->config.vocab_size, accumulate);
    size_t used = (size_t)s.T * (size_t)m->config.n_embd, all = m->table.tensors[m->wpe].size;
    if (!accumulate) /* a short batch says nothing about later positions: their gradient is 0, not the last step's */
        m->be->zero(m->be, gpt2_gradient(m, m->wpe) + used, (all - used) * sizeof(float));
    wrote_gradients(m, 0, block_begin(m, 0));
}

/* ---- the head: logits = ln_f . wte^T, their loss and, where asked, the gradients of both factors ---- */

/* Logits of the whole batch would be the largest buffer of all, so rows go in groups: each group's logits, losses
 * and gradients are finished before the next group's logits take their place. */
static void lm_head_loss(GPT2 *m, PassBatch s, float dloss, bool gradient, bool accumulate) {
    Backend *be = m->be;
    int C = m->config.n_embd, V = m->config.vocab_size, VP = m->padded_vocab;
    size_t row_bytes = (size_t)C * dtype_size(be->activation);
    void *wte = gpt2_weight(m, m->wte);
    for (int begin = 0; begin < s.N; begin += m->lm_head_rows) {
        int rows = (int)min_i64(m->lm_head_rows, s.N - begin);
        const char *in = (const char *)m->ln_f_out + (size_t)begin * row_bytes;
        be->matmul_forward(be, m->logits, in, wte, NULL, rows, C, VP);
        be->softmax_cross_entropy(be, m->losses + begin, m->logits, s.targets + begin, dloss, rows, V, VP, gradient);
        if (!gradient) continue;
        be->matmul_backward_weight(be, gpt2_gradient(m, m->wte), NULL, m->logits, in, rows, C, VP,
                                   accumulate || begin > 0);
        be->matmul_backward_input(be, (char *)m->dsublayer + (size_t)begin * row_bytes, m->logits, wte, NULL, rows, C,
                                  VP);
    }
    if (m->ignores_loss) return;
    be->add_sum(be, m->loss_sum, m->losses, (size_t)s.N);
    m->loss_count += s.N;
}

/* ---- what callers see ---- */

static void wait_for_prefetched(GPT2 *m) {
    m->be->wait_for_copies(m->be);
    m->waited_for = m->prefetched;
}

/* A pass that is enqueued after the next prefetch, over the batch before, must not wait for that prefetch: everything
 * prefetched until now is waited for first. */
void gpt2_prefetch(GPT2 *m, const int32_t *inputs, const int32_t *targets, int B, int T) {
    if (B > m->max_batch || T > m->config.block_size)
        die("a batch of %d x %d tokens does not fit a model made for %d x %d", B, T, m->max_batch,
            m->config.block_size);
    if (m->prefetched - m->computed == GPT2_BATCHES) die("%d batches wait for a pass already", GPT2_BATCHES);
    if (m->waited_for < m->prefetched) wait_for_prefetched(m);
    GPT2Batch *batch = &m->batches[m->prefetched++ % GPT2_BATCHES];
    size_t bytes = (size_t)B * (size_t)T * sizeof *inputs;
    m->be->copy_from_host_async(m->be, batch->inputs, inputs, bytes);
    m->be->copy_from_host_async(m->be, batch->targets, targets, bytes);
    batch->B = B, batch->T = T;
}

static PassBatch take_batch(GPT2 *m) {
    if (m->computed == m->prefetched) die("there is no batch for the next pass");
    if (m->waited_for <= m->computed) wait_for_prefetched(m);
    const GPT2Batch *batch = &m->batches[m->computed++ % GPT2_BATCHES];
    return (PassBatch){batch->inputs, batch->targets, batch->B, batch->T, batch->B * batch->T};
}

void gpt2_forward_prefetched(GPT2 *m) {
    PassBatch s = take_batch(m);
    blocks_forward(m, s);
    lm_head_loss(m, s, 0.0f, false, false);
}

void gpt2_forward_backward_prefetched(GPT2 *m, float dloss, bool accumulate) {
    PassBatch s = take_batch(m);
    blocks_forward(m, s);
    lm_head_loss(m, s, dloss, true, accumulate);
    blocks_backward(m, s, accumulate);
}

void gpt2_forward(GPT2 *m, const int32_t *inputs, const int32_t *targets, int B, int T) {
    gpt2_prefetch(m, inputs, targets, B, T);
    gpt2_forward_prefetched(m);
}

void gpt2_forward_backward(GPT2 *m, const int32_t *inputs, const int32_t *targets, int B, int T, float dloss,
                           bool accumulate) {
    gpt2_prefetch(m, inputs, targets, B, T);
    gpt2_forward_backward_prefetched(m, dloss, accumulate);
}

double gpt2_take_loss(GPT2 *m, int64_t *count) {
    double sum;
    m->be->copy_to_host(m->be, &sum, m->loss_sum, sizeof sum);
    *count = m->loss_count;
    gpt2_forget_loss(m);
    return sum;
}

void gpt2_forget_loss(GPT2 *m) {
    m->be->zero(m->be, m->loss_sum, sizeof *m->loss_sum);
    m->loss_count = 0;
}

/* The caller frees it. */
static int32_t *random_tokens(const GPT2 *m, uint32_t stream) {
    size_t n = (size_t)m->max_batch * (size_t)m->config.block_size;
    int32_t *tokens = checked_malloc(n * sizeof *tokens, "a batch");
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)philox_below(philox(0, PHILOX_TUNING, stream, i), (uint64_t)m->config.vocab_size);
    return tokens;
}

void gpt2_autotune(GPT2 *m) {
    int B = m->max_batch, T = m->config.block_size;
    int32_t *inputs = random_tokens(m, 1), *targets = random_tokens(m, 2);
    if (m->training)
        gpt2_forward_backward(m, inputs, targets, B, T, 1.0f / (float)(B * T), false);
    else
        gpt2_forward(m, inputs, targets, B, T);
    gpt2_forget_loss(m);
    free(inputs);
    free(targets);
}
