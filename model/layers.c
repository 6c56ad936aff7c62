/* layers.c: see layers.h. Each forward function is followed by its backward function. The functions before them list a
 * layer's tensors and plan its activations. The initial weights are in gpt2_init.c. */
#include "model/layers.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

enum { VOCAB_MULTIPLE = 64 }; /* the vocabulary is padded to it: rows of wte that stay zero */

/* What transformers puts before the name of every tensor but the LM head's. */
#define TRANSFORMER_PREFIX "transformer."

static Tensor *add_tensor(TensorTable *table, TensorRole role, int64_t rows, int64_t columns, const char *layer,
                          const char *kind, int *index) {
    char name[TENSOR_NAME_LENGTH];
    snprintf(name, sizeof name, "%s.%s", layer, kind);
    *index = tensor_table_add(table, name, role, rows, columns, rows);
    table->tensors[*index].hf_prefix = TRANSFORMER_PREFIX;
    return &table->tensors[*index];
}

static int padded_vocab(int V) { return (int)round_up(V, VOCAB_MULTIPLE); }

static void plan(const LayerMemory *memory, const char *name, size_t bytes_per_row, void *pointer) {
    arena_plan(memory->arena, "activations", name, memory->rows * bytes_per_row, pointer);
}

/* ---- dropout ---- */

/* Places in the model: the embedding, and three in each block. */
enum { PLACE_EMBEDDING, PLACE_ATTENTION_WEIGHTS, PLACE_ATTENTION, PLACE_MLP, PLACES_OF_BLOCK = 3 };

static Dropout dropout_at(const LayerPass *p, int block, int place) {
    Dropout dropout = *p->dropout;
    dropout.place = (uint32_t)(place + block * PLACES_OF_BLOCK);
    return dropout;
}

/* x = dropout(x), (N,C), if the pass has dropout. */
static void drop(const LayerPass *p, int block, int place, void *x, int C) {
    if (!p->dropout) return;
    Dropout dropout = dropout_at(p, block, place);
    p->be->dropout(p->be, &dropout, x, x, p->B, (size_t)p->T * (size_t)C);
}

/* Returns the gradient of dropout's input: dout itself without dropout, else `room`, to which it is written. */
static const void *drop_backward(const LayerPass *p, int block, int place, void *room, const void *dout, int C) {
    if (!p->dropout) return dout;
    Dropout dropout = dropout_at(p, block, place);
    p->be->dropout(p->be, &dropout, room, dout, p->B, (size_t)p->T * (size_t)C);
    return room;
}

/* ---- norm ---- */

void norm_describe(Norm *n, TensorTable *table, const GPT2Config *config, const char *name) {
    int C = config->n_embd;
    *n = (Norm){.kind = config->norm, .eps = (float)config->norm_eps, .C = C, .weight = -1, .bias = -1};
    if (config->norm_gain) add_tensor(table, ROLE_VECTOR, 1, C, name, "weight", &n->weight)->init = TENSOR_INIT_ONE;
    if (config->bias && config->norm == NORM_LAYERNORM) add_tensor(table, ROLE_VECTOR, 1, C, name, "bias", &n->bias);
}

void norm_plan(Norm *n, const LayerMemory *memory) {
    if (n->kind == NORM_LAYERNORM) plan(memory, "norm mean", sizeof(float), &n->kept.mean);
    plan(memory, "norm rstd", sizeof(float), &n->kept.rstd);
}

static NormShape norm_shape(const Norm *n, const LayerPass *p) { return (NormShape){n->kind, n->eps, p->N, n->C}; }

void norm_forward(const Norm *n, const LayerPass *p, void *out, const void *x) {
    NormShape shape = norm_shape(n, p);
    p->be->norm_forward(p->be, &shape, out, n->kept.mean, n->kept.rstd, x, layer_weight(p, n->weight),
                        layer_weight(p, n->bias));
}

void residual_norm_forward(const Norm *n, const LayerPass *p, void *sum, void *out, const void *x, const void *delta) {
    NormShape shape = norm_shape(n, p);
    p->be->residual_norm_forward(p->be, &shape, sum, out, n->kept.mean, n->kept.rstd, x, delta,
                                 layer_weight(p, n->weight), layer_weight(p, n->bias));
}

void norm_backward(const Norm *n, const LayerPass *p, void *dx, const void *dout, const void *x) {
    NormShape shape = norm_shape(n, p);
    p->be->norm_backward(p->be, &shape, dx, layer_gradient(p, n->weight), layer_gradient(p, n->bias), dout, x,
                         layer_weight(p, n->weight), n->kept.mean, n->kept.rstd, p->accumulate);
}

/* ---- linear ---- */

void linear_describe(Linear *linear, TensorTable *table, const GPT2Config *config, const char *name, int in, int out,
                     WeightKind kind) {
    *linear = (Linear){.weight = -1, .bias = -1, .in = in, .out = out};
    Tensor *weight = add_tensor(table, ROLE_MATRIX, out, in, name, "weight", &linear->weight);
    weight->hf_transposed = true;
    init_choose(weight, config, kind);
    if (config->bias) add_tensor(table, ROLE_VECTOR, 1, out, name, "bias", &linear->bias);
}

void linear_forward(const Linear *linear, const LayerPass *p, void *out, const void *in) {
    p->be->matmul_forward(p->be, out, in, layer_weight(p, linear->weight), layer_weight(p, linear->bias), p->N,
                          linear->in, linear->out);
}

static void linear_backward_weight(const Linear *linear, const LayerPass *p, const void *dout, const void *in) {
    p->be->matmul_backward_weight(p->be, layer_gradient(p, linear->weight), layer_gradient(p, linear->bias), dout, in,
                                  p->N, linear->in, linear->out, p->accumulate);
}

void linear_backward(const Linear *linear, const LayerPass *p, void *din, const void *dout, const void *in) {
    linear_backward_weight(linear, p, dout, in);
    p->be->matmul_backward_input(p->be, din, dout, layer_weight(p, linear->weight), p->N, linear->in, linear->out);
}

/* ---- attention ---- */

void attention_describe(Attention *a, TensorTable *table, const GPT2Config *config, int block) {
    int C = config->n_embd, HS = C / config->n_head;
    double scale = config->attention_scale > 0 ? config->attention_scale : 1.0 / sqrt((double)HS);
    *a = (Attention){.block = block,
                     .C = C,
                     .heads = config->n_head,
                     .scale = (float)(config->scale_attn_by_inverse_layer_idx ? scale / (block + 1) : scale),
                     .output_scale = (float)config->attention_output_scale,
                     .has_qk_norm = config->qk_norm,
                     .qk_norm_eps = (float)config->qk_norm_eps};
    char name[LAYER_NAME_LENGTH];
    snprintf(name, sizeof name, "h.%d.attn.c_attn", block);
    linear_describe(&a->c_attn, table, config, name, C, 3 * C, WEIGHT_HIDDEN);
    table->tensors[a->c_attn.weight].stacked = 3;
    snprintf(name, sizeof name, "h.%d.attn.c_proj", block);
    linear_describe(&a->c_proj, table, config, name, C, C, WEIGHT_PROJECTION);
}

void attention_plan(Attention *a, const LayerMemory *memory) {
    size_t row = (size_t)a->C * memory->element_size, heads = (size_t)a->heads * sizeof(float);
    plan(memory, "qkv", row * 3, &a->kept.qkv);
    plan(memory, "attention", row, &a->kept.out);
    plan(memory, "lse", heads, &a->kept.lse);
    if (a->has_qk_norm) plan(memory, "QK-norm rstd", heads * 2, &a->kept.qk_rstd);
}

/* Attention of the one row of each sequence over all keys and values so far. */
static void attention_decode(const Attention *a, const LayerPass *p) {
    const KeyValueCache *cache = p->cache;
    size_t of_block = (size_t)p->B * (size_t)cache->capacity * (size_t)a->C * dtype_size(p->be->activation);
    p->be->attention_decode(p->be, a->kept.out, (char *)cache->keys + (size_t)a->block * of_block,
                            (char *)cache->values + (size_t)a->block * of_block, a->kept.qkv, p->B, cache->position,
                            cache->capacity, a->C, a->heads, a->scale);
}

/* Returns the dropout of the attention weights, stored in `room`; NULL if the pass has none. */
static const Dropout *attention_dropout(const Attention *a, const LayerPass *p, Dropout *room) {
    if (!p->dropout) return NULL;
    *room = dropout_at(p, a->block, PLACE_ATTENTION_WEIGHTS);
    return room;
}

void attention_forward(const Attention *a, const LayerPass *p, void *out, const void *in) {
    linear_forward(&a->c_attn, p, a->kept.qkv, in);
    if (a->has_qk_norm || p->rotation)
        p->be->qk_norm_rope_forward(p->be, a->kept.qkv, a->kept.qk_rstd, p->rotation, a->qk_norm_eps, p->B, p->T, a->C,
                                    a->heads);
    Dropout room;
    const Dropout *dropout = attention_dropout(a, p, &room);
    if (p->cache)
        attention_decode(a, p);
    else
        p->be->attention_forward(p->be, a->kept.out, a->kept.lse, a->kept.qkv, p->B, p->T, a->C, a->heads, a->scale,
                                 dropout);
    linear_forward(&a->c_proj, p, out, a->kept.out);
    if (a->output_scale != 1.0f) p->be->scale(p->be, out, out, a->output_scale, (size_t)p->N * (size_t)a->C);
    drop(p, a->block, PLACE_ATTENTION, out, a->C);
}

void attention_backward(const Attention *a, const LayerPass *p, void *din, const void *dout, const void *in,
                        void *dhidden) {
    size_t n = (size_t)p->N * (size_t)a->C;
    void *dqkv = dhidden, *dattention = (char *)dhidden + 3 * n * dtype_size(p->be->activation);
    Dropout room;
    const Dropout *dropout = attention_dropout(a, p, &room);
    /* din can hold this gradient meanwhile, since din itself is written last. */
    dout = drop_backward(p, a->block, PLACE_ATTENTION, din, dout, a->C);
    if (a->output_scale != 1.0f) {
        p->be->scale(p->be, din, dout, a->output_scale, n);
        dout = din;
    }
    linear_backward(&a->c_proj, p, dattention, dout, a->kept.out);
    p->be->attention_backward(p->be, dqkv, dattention, a->kept.qkv, a->kept.out, a->kept.lse, p->B, p->T, a->C,
                              a->heads, a->scale, dropout);
    if (a->has_qk_norm || p->rotation)
        p->be->qk_norm_rope_backward(p->be, dqkv, a->kept.qkv, a->kept.qk_rstd, p->rotation, p->B, p->T, a->C,
                                     a->heads);
    linear_backward(&a->c_attn, p, din, dqkv, in);
}

/* ---- MLP ---- */

void mlp_describe(Mlp *mlp, TensorTable *table, const GPT2Config *config, int block) {
    int C = config->n_embd;
    *mlp = (Mlp){.block = block, .activation = config->activation};
    char name[LAYER_NAME_LENGTH];
    snprintf(name, sizeof name, "h.%d.mlp.c_fc", block);
    linear_describe(&mlp->c_fc, table, config, name, C, 4 * C, WEIGHT_HIDDEN);
    snprintf(name, sizeof name, "h.%d.mlp.c_proj", block);
    linear_describe(&mlp->c_proj, table, config, name, 4 * C, C, WEIGHT_PROJECTION);
}

void mlp_plan(Mlp *mlp, const LayerMemory *memory) {
    plan(memory, "fc", (size_t)mlp->c_fc.out * memory->element_size, &mlp->kept.fc);
    plan(memory, "fc activation", (size_t)mlp->c_fc.out * memory->element_size, &mlp->kept.hidden);
}

void mlp_hidden_forward(const Mlp *mlp, const LayerPass *p, const void *in) {
    const Linear *fc = &mlp->c_fc;
    p->be->matmul_activation_forward(p->be, mlp->activation, mlp->kept.hidden, mlp->kept.fc, in,
                                     layer_weight(p, fc->weight), layer_weight(p, fc->bias), p->N, fc->in, fc->out);
}

void mlp_forward(const Mlp *mlp, const LayerPass *p, void *out, const void *in) {
    mlp_hidden_forward(mlp, p, in);
    linear_forward(&mlp->c_proj, p, out, mlp->kept.hidden);
    drop(p, mlp->block, PLACE_MLP, out, mlp->c_proj.out);
}

void mlp_backward(const Mlp *mlp, const LayerPass *p, void *din, const void *dout, const void *in, void *dhidden) {
    const Linear *proj = &mlp->c_proj;
    dout = drop_backward(p, mlp->block, PLACE_MLP, din, dout, proj->out); /* din is written last */
    linear_backward_weight(proj, p, dout, mlp->kept.hidden);
    p->be->matmul_backward_activation(p->be, mlp->activation, dhidden, dout, layer_weight(p, proj->weight),
                                      mlp->kept.fc, p->N, proj->in, proj->out);
    linear_backward(&mlp->c_fc, p, din, dhidden, in);
}

/* ---- embedding ---- */

/* A table of vectors: (rows, C), with room for rows that stay zero. */
static int add_embedding(TensorTable *table, const GPT2Config *config, const char *name, int rows, int padded_rows,
                         WeightKind kind) {
    int index = tensor_table_add(table, name, ROLE_EMBEDDING, rows, config->n_embd, padded_rows);
    table->tensors[index].hf_prefix = TRANSFORMER_PREFIX;
    init_choose(&table->tensors[index], config, kind);
    return index;
}

void embedding_describe(Embedding *e, TensorTable *table, const GPT2Config *config) {
    int V = config->vocab_size;
    *e = (Embedding){
        .wpe = -1, .V = V, .C = config->n_embd, .has_norm = config->norm_embedding, .is_tied = config->tie_embeddings};
    e->wte = add_embedding(table, config, "wte.weight", V, padded_vocab(V), WEIGHT_TOKEN_EMBEDDING);
    if (config->position == POSITION_LEARNED)
        e->wpe = add_embedding(table, config, "wpe.weight", config->block_size, config->block_size,
                               WEIGHT_POSITION_EMBEDDING);
    if (e->has_norm) norm_describe(&e->norm, table, config, "ln_emb");
}

void embedding_plan(Embedding *e, const LayerMemory *memory) {
    if (!e->has_norm) return;
    plan(memory, "embedding", (size_t)e->C * memory->element_size, &e->sum);
    norm_plan(&e->norm, memory);
}

void embedding_forward(const Embedding *e, const LayerPass *p, void *out) {
    const char *wpe = layer_weight(p, e->wpe);
    if (wpe && p->cache) wpe += (size_t)p->cache->position * (size_t)e->C * dtype_size(p->be->activation);
    void *sum = e->has_norm ? e->sum : out;
    p->be->embedding_forward(p->be, sum, p->inputs, layer_weight(p, e->wte), wpe, p->B, p->T, e->C);
    drop(p, 0, PLACE_EMBEDDING, sum, e->C);
    if (e->has_norm) norm_forward(&e->norm, p, out, e->sum);
}

void embedding_backward(const Embedding *e, const LayerPass *p, const void *dout, void *dsum) {
    Backend *be = p->be;
    float *dwte = layer_gradient(p, e->wte), *dwpe = layer_gradient(p, e->wpe);
    if (e->has_norm) {
        be->zero(be, dsum, (size_t)p->N * (size_t)e->C * dtype_size(be->activation));
        norm_backward(&e->norm, p, dsum, dout, e->sum);
        dout = dsum;
    }
    dout = drop_backward(p, 0, PLACE_EMBEDDING, dsum, dout, e->C);
    if (!e->is_tied && !p->accumulate) be->zero(be, dwte, p->table->tensors[e->wte].size * sizeof *dwte);
    be->embedding_backward(be, dwte, dwpe, dout, p->inputs, p->B, p->T, e->C, e->V, p->accumulate);
    if (!dwpe || p->accumulate) return;
    /* A batch of short sequences does not reach the later positions: their gradient is 0, not that of the previous
     * step. */
    size_t used = (size_t)p->T * (size_t)e->C, all = p->table->tensors[e->wpe].size;
    be->zero(be, dwpe + used, (all - used) * sizeof *dwpe);
}

/* ---- LM head ---- */

void lm_head_describe(LmHead *lm_head, TensorTable *table, const GPT2Config *config, const Embedding *embedding) {
    int V = config->vocab_size, C = config->n_embd, VP = padded_vocab(V);
    *lm_head = (LmHead){.linear = {embedding->wte, -1, C, VP}, .V = V, .softcap = (float)config->logit_softcap};
    if (config->tie_embeddings) return;
    lm_head->linear.weight = tensor_table_add(table, "lm_head.weight", ROLE_LM_HEAD, V, C, VP);
    table->tensors[lm_head->linear.weight].hf_prefix = "";
    init_choose(&table->tensors[lm_head->linear.weight], config, WEIGHT_LM_HEAD);
    /* Matmuls read VP biases and write VP gradients of them: the gap after the V biases has room, and stays zero. */
    static_assert(TENSOR_ALIGNMENT % VOCAB_MULTIPLE == 0, "a bias of the LM head has no room for its padding");
    if (!config->lm_head_bias) return;
    add_tensor(table, ROLE_VECTOR, 1, V, "lm_head", "bias", &lm_head->linear.bias)->hf_prefix = "";
}

void lm_head_plan(LmHead *lm_head, const LayerMemory *memory, int rows) {
    lm_head->rows = (int)min_i64(rows, (int64_t)memory->rows);
    plan(memory, "losses", sizeof(float), &lm_head->losses);
    arena_plan(memory->arena, "workspace", "logits",
               (size_t)lm_head->rows * (size_t)lm_head->linear.out * memory->element_size, &lm_head->logits);
}

/* Logits of the whole batch would be the largest buffer of all, so rows go in groups: each group's logits, losses
 * and gradients are finished before the next group's logits take their place. */
void lm_head_loss(const LmHead *lm_head, const LayerPass *p, void *din, const void *in, float dloss) {
    Backend *be = p->be;
    const Linear *linear = &lm_head->linear;
    size_t row_bytes = (size_t)linear->in * dtype_size(be->activation);
    LayerPass group = *p;
    for (int begin = 0; begin < p->N; begin += lm_head->rows) {
        const char *in_group = (const char *)in + (size_t)begin * row_bytes;
        group.N = (int)min_i64(lm_head->rows, p->N - begin);
        group.accumulate = p->accumulate || begin > 0;
        linear_forward(linear, &group, lm_head->logits, in_group);
        be->softmax_cross_entropy(be, lm_head->losses + begin, lm_head->logits, p->targets + begin, dloss,
                                  lm_head->softcap, group.N, lm_head->V, linear->out, p->grads != NULL);
        if (p->grads)
            linear_backward(linear, &group, (char *)din + (size_t)begin * row_bytes, lm_head->logits, in_group);
    }
}

void lm_head_logits(const LmHead *lm_head, const LayerPass *p, const void *in) {
    if (p->N > lm_head->rows) die("the LM head has room for the logits of %d rows, not of %d", lm_head->rows, p->N);
    linear_forward(&lm_head->linear, p, lm_head->logits, in);
}
