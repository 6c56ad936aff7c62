/* decoder.c: the forward pass of gpt2.c for a single row, whose attention reads a cache (see decoder.h). It uses the
 * activations of block 0 as working memory. */
#include "model/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "util/dtype.h"

static size_t cache_bytes(const GPT2 *m) {
    return (size_t)m->config.block_size * (size_t)m->config.n_embd * dtype_size(m->be->activation);
}

size_t decoder_bytes(const GPT2 *m) { return 2 * cache_bytes(m) * (size_t)m->config.n_layer; }

void decoder_open(Decoder *d, GPT2 *m) {
    memset(d, 0, sizeof *d);
    d->model = m;
    d->keys = m->be->alloc(m->be, cache_bytes(m) * (size_t)m->config.n_layer, "the cache of keys");
    d->values = m->be->alloc(m->be, cache_bytes(m) * (size_t)m->config.n_layer, "the cache of values");
    d->logits = checked_malloc((size_t)m->config.vocab_size * sizeof *d->logits, "logits");
    d->raw_logits = checked_malloc((size_t)m->config.vocab_size * dtype_size(m->be->activation), "logits");
}

void decoder_close(Decoder *d) {
    d->model->be->free(d->model->be, d->keys);
    d->model->be->free(d->model->be, d->values);
    free(d->logits);
    free(d->raw_logits);
    memset(d, 0, sizeof *d);
}

void decoder_reset(Decoder *d) { d->position = 0; }

static void linear(GPT2 *m, void *out, const void *in, GPT2Linear layer) {
    m->be->matmul_forward(m->be, out, in, gpt2_weight(m, layer.weight), gpt2_weight(m, layer.bias), 1, layer.in,
                          layer.out);
}

/* sum = x + branch, out = LayerNorm(sum). */
static void add_branch(GPT2 *m, void *sum, void *out, const void *x, GPT2LayerNorm norm) {
    GPT2LayerNormStatistics s = m->activations[0].ln_1_statistics;
    m->be->residual_layernorm_forward(m->be, sum, out, s.mean, s.rstd, x, m->sublayer_out, gpt2_weight(m, norm.weight),
                                      gpt2_weight(m, norm.bias), 1, m->config.n_embd);
}

/* Block l, from the residual stream and its LayerNorm to the next block's. */
static void block(Decoder *d, int l) {
    GPT2 *m = d->model;
    GPT2BlockTensors *t = &m->blocks[l];
    GPT2BlockActivations *a = &m->activations[0];
    bool last = l + 1 == m->config.n_layer;
    linear(m, a->qkv, a->ln_1, t->c_attn);
    m->be->attention_decode(m->be, a->attention, (char *)d->keys + (size_t)l * cache_bytes(m),
                            (char *)d->values + (size_t)l * cache_bytes(m), a->qkv, 1, d->position,
                            m->config.block_size, m->config.n_embd, m->config.n_head,
                            gpt2_attention_scale(&m->config, l));
    linear(m, m->sublayer_out, a->attention, t->attn_c_proj);
    add_branch(m, a->residual_middle, a->ln_2, a->residual, t->ln_2);
    m->be->matmul_gelu_forward(m->be, a->fc_gelu, a->fc, a->ln_2, gpt2_weight(m, t->c_fc.weight),
                               gpt2_weight(m, t->c_fc.bias), 1, t->c_fc.in, t->c_fc.out);
    linear(m, m->sublayer_out, a->fc_gelu, t->mlp_c_proj);
    add_branch(m, a->residual, a->ln_1, a->residual_middle, last ? m->ln_f : m->blocks[l + 1].ln_1);
}

void decoder_feed(Decoder *d, int token) {
    GPT2 *m = d->model;
    Backend *be = m->be;
    GPT2BlockActivations *a = &m->activations[0];
    int C = m->config.n_embd, V = m->config.vocab_size;
    if (token < 0 || token >= V) die("token %d is not in the model's vocabulary of %d", token, V);
    if (d->position >= m->config.block_size) die("the decoder holds %d tokens and is full", d->position);
    int32_t input = token;
    size_t size = dtype_size(be->activation);
    int32_t *inputs = m->batches[0].inputs;
    be->copy_from_host(be, inputs, &input, sizeof input);
    be->embedding_forward(be, a->residual, inputs, gpt2_weight(m, m->wte),
                          (const char *)gpt2_weight(m, m->wpe) + (size_t)d->position * (size_t)C * size, 1, 1, C);
    be->layernorm_forward(be, a->ln_1, a->ln_1_statistics.mean, a->ln_1_statistics.rstd, a->residual,
                          gpt2_weight(m, m->blocks[0].ln_1.weight), gpt2_weight(m, m->blocks[0].ln_1.bias), 1, C);
    for (int l = 0; l < m->config.n_layer; l++) block(d, l);
    be->matmul_forward(be, m->logits, a->ln_1, gpt2_weight(m, m->wte), NULL, 1, C, m->padded_vocab);
    be->copy_to_host(be, d->raw_logits, m->logits, (size_t)V * size);
    for (int v = 0; v < V; v++)
        d->logits[v] = be->activation == DTYPE_FLOAT32 ? ((float *)d->raw_logits)[v]
                                                       : float_from_bfloat16(((bfloat16 *)d->raw_logits)[v]);
    d->position++;
}
