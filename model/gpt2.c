/* gpt2.c: layers wired into a transformer, the forward and the backward pass side by side: each forward function is
 * followed by its backward function, which visits the same layers in reverse. What a layer computes is in layers.c;
 * tensors and memory are in gpt2_tensors.c. */
#include "model/gpt2.h"

#include <stdlib.h>

#include "util/philox.h"

double gpt2_flops_per_token(const GPT2 *m) {
    const GPT2Config *c = &m->config;
    size_t looked_up = c->tie_embeddings ? 0 : m->table.tensors[m->embedding.wte].size;
    return 6.0 * (double)(m->table.parameters - looked_up) + 12.0 * c->n_layer * (double)c->n_embd * c->block_size;
}

/* ---- a block:  x = residual + attention(ln_1),  next residual = x + mlp(ln_2) ----
 * A residual addition is fused with the norm after it, so a block begins after its ln_1 and ends with the norm that
 * follows: the next block's ln_1, or ln_f. */

static void attention_sublayer_forward(GPT2 *m, int l, const LayerPass *p) {
    Block *b = &m->blocks[l];
    attention_forward(&b->attention, p, m->sublayer_out, b->ln_1_out);
    residual_norm_forward(&b->ln_2, p, b->residual_middle, b->ln_2_out, b->residual, m->sublayer_out);
}

static void attention_sublayer_backward(GPT2 *m, int l, const LayerPass *p) {
    Block *b = &m->blocks[l];
    attention_backward(&b->attention, p, m->dsublayer, m->dresidual, b->ln_1_out, m->dhidden);
    norm_backward(&b->ln_1, p, m->dresidual, m->dsublayer, b->residual);
}

static void mlp_sublayer_forward(GPT2 *m, int l, const LayerPass *p) {
    Block *b = &m->blocks[l], *next = b + 1;
    mlp_forward(&b->mlp, p, m->sublayer_out, b->ln_2_out);
    if (l + 1 < m->config.n_layer)
        residual_norm_forward(&next->ln_1, p, next->residual, next->ln_1_out, b->residual_middle, m->sublayer_out);
    else
        residual_norm_forward(&m->ln_f, p, m->residual_final, m->ln_f_out, b->residual_middle, m->sublayer_out);
}

static void mlp_sublayer_backward(GPT2 *m, int l, const LayerPass *p) {
    Block *b = &m->blocks[l];
    mlp_backward(&b->mlp, p, m->dsublayer, m->dresidual, b->ln_2_out, m->dhidden);
    norm_backward(&b->ln_2, p, m->dresidual, m->dsublayer, b->residual_middle);
}

/* Computes again what the forward pass of block l did not keep. */
static void recompute_block(GPT2 *m, int l, const LayerPass *p) {
    Block *b = &m->blocks[l];
    if (m->recompute == RECOMPUTE_BLOCK) {
        norm_forward(&b->ln_1, p, b->ln_1_out, b->residual);
        attention_sublayer_forward(m, l, p);
    }
    if (m->recompute != RECOMPUTE_NONE) mlp_hidden_forward(&b->mlp, p, b->ln_2_out);
}

/* ---- from tokens to the last norm ---- */

/* Elements of the flat buffers: the embeddings lie first, then each block's tensors together,
 * then ln_f and an LM head of its own. */
static size_t block_begin(const GPT2 *m, int l) { return l < m->config.n_layer ? m->blocks[l].begin : m->blocks_end; }

static void need_weights(const GPT2Pass *pass, size_t begin, size_t end) {
    if (pass->weights_needed) pass->weights_needed(pass->context, begin, end);
}

static void wrote_gradients(const GPT2Pass *pass, size_t begin, size_t end) {
    if (pass->gradients_written) pass->gradients_written(pass->context, begin, end);
}

/* The forward pass from tokens to ln_f_out. */
static void transformer_forward(GPT2 *m, const GPT2Pass *pass, const LayerPass *p) {
    Block *first = &m->blocks[0];
    need_weights(pass, 0, block_begin(m, 1));
    embedding_forward(&m->embedding, p, first->residual);
    norm_forward(&first->ln_1, p, first->ln_1_out, first->residual);
    for (int l = 0; l < m->config.n_layer; l++) {
        m->be->range_begin(m->be, "block");
        attention_sublayer_forward(m, l, p);
        bool is_last = l + 1 == m->config.n_layer;
        need_weights(pass, block_begin(m, l + 1), is_last ? m->table.length : block_begin(m, l + 2));
        mlp_sublayer_forward(m, l, p);
        m->be->range_end(m->be);
    }
}

/* The backward pass from dsublayer, the gradient of ln_f_out, down to the embeddings. */
static void transformer_backward(GPT2 *m, const GPT2Pass *pass, const LayerPass *p) {
    m->be->zero(m->be, m->dresidual, (size_t)p->N * (size_t)m->config.n_embd * dtype_size(m->be->activation));
    norm_backward(&m->ln_f, p, m->dresidual, m->dsublayer, m->residual_final);
    wrote_gradients(pass, block_begin(m, m->config.n_layer), m->table.length);
    for (int l = m->config.n_layer - 1; l >= 0; l--) {
        m->be->range_begin(m->be, "block");
        recompute_block(m, l, p);
        mlp_sublayer_backward(m, l, p);
        attention_sublayer_backward(m, l, p);
        wrote_gradients(pass, block_begin(m, l), block_begin(m, l + 1));
        m->be->range_end(m->be);
    }
    embedding_backward(&m->embedding, p, m->dresidual, m->dsublayer);
    wrote_gradients(pass, 0, block_begin(m, 0));
}

/* ---- what callers see ---- */

static void wait_for_prefetched(GPT2 *m) {
    m->be->wait_for_copies(m->be);
    m->waited_for = m->prefetched;
}

/* Waits for all earlier copies first. Otherwise a pass over the previous batch, enqueued after this copy, would also
 * wait for this copy. */
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

/* Returns the next batch on the device; operations enqueued afterwards find it complete. */
static const GPT2Batch *take_batch(GPT2 *m) {
    if (m->computed == m->prefetched) die("there is no batch for the next pass");
    if (m->waited_for <= m->computed) wait_for_prefetched(m);
    return &m->batches[m->computed++ % GPT2_BATCHES];
}

/* Returns the arguments of all layers in a pass over a batch. */
static LayerPass layer_pass(const GPT2 *m, const GPT2Batch *batch) {
    return (LayerPass){.be = m->be,
                       .table = &m->table,
                       .weights = m->weights,
                       .inputs = batch->inputs,
                       .targets = batch->targets,
                       .B = batch->B,
                       .T = batch->T,
                       .N = batch->B * batch->T,
                       .rotation = m->rotation};
}

void gpt2_pass(GPT2 *m, const GPT2Pass *pass) {
    LayerPass p = layer_pass(m, take_batch(m));
    p.grads = pass->grads;
    p.accumulate = pass->accumulate;
    Dropout dropout = {(float)m->config.dropout, pass->seed, 0, pass->first_sequence};
    if (pass->grads && dropout.rate > 0.0f) p.dropout = &dropout;
    m->be->range_begin(m->be, "forward");
    transformer_forward(m, pass, &p);
    lm_head_loss(&m->lm_head, &p, m->dsublayer, m->ln_f_out, pass->dloss);
    if (!pass->ignores_loss) {
        m->be->add_sum(m->be, m->loss_sum, m->lm_head.losses, (size_t)p.N);
        m->loss_count += p.N;
    }
    m->be->range_end(m->be);
    if (!pass->grads) return;
    m->be->range_begin(m->be, "backward");
    transformer_backward(m, pass, &p);
    m->be->range_end(m->be);
}

void gpt2_forward(GPT2 *m, const int32_t *inputs, const int32_t *targets, int B, int T) {
    gpt2_prefetch(m, inputs, targets, B, T);
    gpt2_pass(m, &(GPT2Pass){0});
}

void gpt2_forward_backward(GPT2 *m, const int32_t *inputs, const int32_t *targets, int B, int T, float dloss,
                           bool accumulate) {
    gpt2_prefetch(m, inputs, targets, B, T);
    gpt2_pass(m, &(GPT2Pass){.grads = m->grads, .accumulate = accumulate, .dloss = dloss});
}

void gpt2_decode(GPT2 *m, const int32_t *tokens, int B, const KeyValueCache *cache) {
    GPT2Batch batch = {m->batches[0].inputs, NULL, B, 1};
    m->be->copy_from_host(m->be, batch.inputs, tokens, (size_t)B * sizeof *tokens);
    LayerPass p = layer_pass(m, &batch);
    p.cache = cache;
    if (p.rotation) p.rotation += (size_t)cache->position * (size_t)(m->config.n_embd / m->config.n_head);
    transformer_forward(m, &(GPT2Pass){0}, &p);
    lm_head_logits(&m->lm_head, &p, m->ln_f_out);
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

/* Returns max_batch * block_size random tokens, which the caller frees. */
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
