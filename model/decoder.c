/* decoder.c: see decoder.h. The forward pass is in gpt2.c. */
#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/dtype.h"

/* Bytes of the keys, or of the values, of all blocks. */
static size_t cache_bytes(const GPT2 *m) {
    const GPT2Config *c = &m->config;
    return (size_t)c->n_layer * (size_t)c->block_size * (size_t)c->n_embd * dtype_size(m->be->activation);
}

void decoder_plan(Decoder *d, GPT2 *m) {
    memset(d, 0, sizeof *d);
    d->model = m;
    arena_plan(&m->arena, "workspace", "cache of keys", cache_bytes(m), &d->cache.keys);
    arena_plan(&m->arena, "workspace", "cache of values", cache_bytes(m), &d->cache.values);
    d->cache.capacity = m->config.block_size;
    d->logits = checked_malloc((size_t)m->config.vocab_size * sizeof *d->logits, "logits");
    d->raw_logits = checked_malloc((size_t)m->config.vocab_size * dtype_size(m->be->activation), "logits");
}

void decoder_close(Decoder *d) {
    free(d->logits);
    free(d->raw_logits);
    memset(d, 0, sizeof *d);
}

void decoder_reset(Decoder *d) { d->cache.position = 0; }

void decoder_feed(Decoder *d, int token) {
    GPT2 *m = d->model;
    Backend *be = m->be;
    int V = m->config.vocab_size;
    double cap = m->config.logit_softcap;
    if (token < 0 || token >= V) die("token %d is not in the model's vocabulary of %d", token, V);
    if (d->cache.position >= d->cache.capacity) die("the decoder holds %d tokens and is full", d->cache.position);
    int32_t input = token;
    gpt2_decode(m, &input, 1, &d->cache);
    be->copy_to_host(be, d->raw_logits, m->lm_head.logits, (size_t)V * dtype_size(be->activation));
    for (int v = 0; v < V; v++) {
        double z = be->activation == DTYPE_FLOAT32 ? ((float *)d->raw_logits)[v]
                                                   : float_from_bfloat16(((bfloat16 *)d->raw_logits)[v]);
        d->logits[v] = (float)(cap > 0 ? cap * z / sqrt(z * z + cap * cap) : z);
    }
    d->cache.position++;
}
