/* gpt2_tensors.c: which tensors a GPT-2 has, where everything lies in memory, and the initial weights. What is
 * computed with them is in gpt2.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gpt2.h"
#include "util/philox.h"

enum { VOCAB_MULTIPLE = 64 };

/* Block of a tensor that belongs to none. */
enum { NO_BLOCK = -1 };

static int add_tensor(GPT2 *model, TensorRole role, int64_t rows, int64_t columns, int block, const char *layer,
                      const char *kind) {
    char name[TENSOR_NAME_LENGTH];
    if (block == NO_BLOCK)
        snprintf(name, sizeof name, "%s.%s", layer, kind);
    else
        snprintf(name, sizeof name, "h.%d.%s.%s", block, layer, kind);
    int64_t padded_rows = role == ROLE_EMBEDDING && rows == model->config.vocab_size ? model->padded_vocab : rows;
    return tensor_table_add(&model->table, name, role, rows, columns, padded_rows);
}

static GPT2LayerNorm add_layernorm(GPT2 *model, int block, const char *layer) {
    int C = model->config.n_embd;
    GPT2LayerNorm norm = {add_tensor(model, ROLE_VECTOR, 1, C, block, layer, "weight"), -1};
    if (model->config.bias) norm.bias = add_tensor(model, ROLE_VECTOR, 1, C, block, layer, "bias");
    return norm;
}

static GPT2Linear add_linear(GPT2 *model, int block, const char *layer, int in, int out) {
    GPT2Linear linear = {add_tensor(model, ROLE_MATRIX, out, in, block, layer, "weight"), -1, in, out};
    if (model->config.bias) linear.bias = add_tensor(model, ROLE_VECTOR, 1, out, block, layer, "bias");
    return linear;
}

/* Names are those of Hugging Face's GPT-2, without the "transformer." prefix. */
void gpt2_describe(GPT2 *model, const GPT2Config *config) {
    memset(model, 0, sizeof *model);
    model->config = *config;
    model->padded_vocab = (int)round_up(config->vocab_size, VOCAB_MULTIPLE);
    model->blocks = checked_calloc((size_t)config->n_layer, sizeof *model->blocks, "the blocks");
    int C = config->n_embd;
    model->wte = add_tensor(model, ROLE_EMBEDDING, config->vocab_size, C, NO_BLOCK, "wte", "weight");
    model->wpe = add_tensor(model, ROLE_EMBEDDING, config->block_size, C, NO_BLOCK, "wpe", "weight");
    for (int l = 0; l < config->n_layer; l++) {
        GPT2BlockTensors *block = &model->blocks[l];
        block->ln_1 = add_layernorm(model, l, "ln_1");
        block->c_attn = add_linear(model, l, "attn.c_attn", C, 3 * C);
        model->table.tensors[block->c_attn.weight].stacked = 3;
        block->attn_c_proj = add_linear(model, l, "attn.c_proj", C, C);
        block->ln_2 = add_layernorm(model, l, "ln_2");
        block->c_fc = add_linear(model, l, "mlp.c_fc", C, 4 * C);
        block->mlp_c_proj = add_linear(model, l, "mlp.c_proj", 4 * C, C);
    }
    model->ln_f = add_layernorm(model, NO_BLOCK, "ln_f");
}

/* ---- memory ---- */

static void plan_weights(GPT2 *model) {
    Arena *arena = &model->arena;
    size_t n = model->table.length;
    bool separate = model->be->activation != DTYPE_FLOAT32;
    arena_plan(arena, "weights", "master weights", n * sizeof(float), &model->params);
    if (separate) arena_plan(arena, "weights", "weight copies", n * dtype_size(model->be->activation), &model->weights);
    if (model->training) arena_plan(arena, "gradients", "gradients", n * sizeof(float), &model->grads);
}

static void plan_statistics(GPT2 *model, size_t rows, GPT2LayerNormStatistics *statistics) {
    arena_plan(&model->arena, "activations", "LayerNorm mean", rows * sizeof(float), &statistics->mean);
    arena_plan(&model->arena, "activations", "LayerNorm rstd", rows * sizeof(float), &statistics->rstd);
}

/* Block l's own buffers. A buffer that is computed again in the backward pass (or, where there is none, never read
 * again) is planned for block 0 only: share_activations() lends it to the others. */
static void plan_block(GPT2 *model, int l, size_t rows, size_t row_bytes) {
    GPT2BlockActivations *a = &model->activations[l];
    Arena *arena = &model->arena;
    bool keep_mlp = l == 0 || (model->training && model->recompute == RECOMPUTE_NONE);
    bool keep_all = l == 0 || (model->training && model->recompute != RECOMPUTE_BLOCK);
    if (l == 0 || model->training) arena_plan(arena, "activations", "residual", rows * row_bytes, &a->residual);
    if (keep_all) {
        arena_plan(arena, "activations", "ln_1", rows * row_bytes, &a->ln_1);
        arena_plan(arena, "activations", "qkv", rows * row_bytes * 3, &a->qkv);
        arena_plan(arena, "activations", "attention", rows * row_bytes, &a->attention);
        arena_plan(arena, "activations", "lse", rows * (size_t)model->config.n_head * sizeof(float), &a->lse);
        arena_plan(arena, "activations", "residual_middle", rows * row_bytes, &a->residual_middle);
        arena_plan(arena, "activations", "ln_2", rows * row_bytes, &a->ln_2);
        plan_statistics(model, rows, &a->ln_1_statistics);
        plan_statistics(model, rows, &a->ln_2_statistics);
    }
    if (keep_mlp) {
        arena_plan(arena, "activations", "fc", rows * row_bytes * 4, &a->fc);
        arena_plan(arena, "activations", "fc_gelu", rows * row_bytes * 4, &a->fc_gelu);
    }
}

static void share_activations(GPT2 *model) {
    const GPT2BlockActivations *first = &model->activations[0];
    for (int l = 1; l < model->config.n_layer; l++) {
        GPT2BlockActivations *a = &model->activations[l];
        void *residual = a->residual ? a->residual : first->residual;
        if (!a->ln_1) *a = *first;
        if (!a->fc) a->fc = first->fc, a->fc_gelu = first->fc_gelu;
        a->residual = residual;
    }
}

static void plan_activations(GPT2 *model) {
    const GPT2Config *config = &model->config;
    Arena *arena = &model->arena;
    size_t act = dtype_size(model->be->activation), rows = (size_t)model->max_batch * (size_t)config->block_size;
    size_t row_bytes = (size_t)config->n_embd * act;
    for (int l = 0; l < config->n_layer; l++) plan_block(model, l, rows, row_bytes);
    arena_plan(arena, "activations", "residual_final", rows * row_bytes, &model->residual_final);
    arena_plan(arena, "activations", "ln_f", rows * row_bytes, &model->ln_f_out);
    plan_statistics(model, rows, &model->ln_f_statistics);
    for (int i = 0; i < GPT2_BATCHES; i++) {
        arena_plan(arena, "activations", "inputs", rows * sizeof(int32_t), &model->batches[i].inputs);
        arena_plan(arena, "activations", "targets", rows * sizeof(int32_t), &model->batches[i].targets);
    }
    arena_plan(arena, "activations", "losses", rows * sizeof(float), &model->losses);
    arena_plan(arena, "activations", "loss sum", sizeof(double), &model->loss_sum);
    arena_plan(arena, "workspace", "sublayer output", rows * row_bytes, &model->sublayer_out);
    arena_plan(arena, "workspace", "logits", (size_t)model->lm_head_rows * (size_t)model->padded_vocab * act,
               &model->logits);
    if (!model->training) return;
    arena_plan(arena, "workspace", "dresidual", rows * row_bytes, &model->dresidual);
    arena_plan(arena, "workspace", "dsublayer", rows * row_bytes, &model->dsublayer);
    arena_plan(arena, "workspace", "dhidden", rows * row_bytes * 4, &model->dhidden);
}

void gpt2_plan(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute, bool training) {
    gpt2_describe(model, config);
    model->be = be;
    model->recompute = recompute;
    model->training = training;
    model->max_batch = max_batch;
    model->lm_head_rows = (int)min_i64(be->logit_rows, (int64_t)max_batch * config->block_size);
    model->activations = checked_calloc((size_t)config->n_layer, sizeof *model->activations, "the activations");
    plan_weights(model);
    plan_activations(model);
}

void gpt2_allocate(GPT2 *model) {
    arena_allocate(&model->arena, backend_memory(model->be));
    share_activations(model);
    if (!model->weights) model->weights = model->params;
}

void gpt2_create(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute,
                 bool training) {
    gpt2_plan(model, config, be, max_batch, recompute, training);
    gpt2_allocate(model);
}

void gpt2_free(GPT2 *model) {
    arena_free(&model->arena);
    free(model->activations);
    free(model->blocks);
    tensor_table_free(&model->table);
    memset(model, 0, sizeof *model);
}

/* ---- weights ---- */

void gpt2_set_tensor(GPT2 *model, int tensor, const float *host) {
    const Tensor *t = &model->table.tensors[tensor];
    model->be->copy_from_host(model->be, model->params + t->offset, host, t->size * sizeof(float));
}

void gpt2_params_changed(GPT2 *model) {
    Backend *be = model->be;
    if (model->weights != (void *)model->params)
        be->to_activation(be, model->weights, model->params, model->table.length);
    be->invalidate_weights(be);
}

/* `stream` numbers the tensors that are random, so that a model with biases starts from the same matrices. */
static void init_tensor(float *out, const Tensor *tensor, int n_layer, uint64_t seed, uint32_t stream) {
    double deviation = 0.02;
    if (ends_with(tensor->name, "c_proj.weight")) deviation /= sqrt(2.0 * n_layer);
    for (size_t i = 0; i < tensor->size; i++)
        out[i] = (float)(deviation * philox_normal(philox(seed, PHILOX_INIT_WEIGHTS, stream, i)));
}

void gpt2_init_weights(GPT2 *model, uint64_t seed) {
    float *host = checked_malloc(tensor_table_largest(&model->table) * sizeof *host, "initial weights");
    uint32_t stream = 0;
    for (int i = 0; i < model->table.count; i++) {
        const Tensor *tensor = &model->table.tensors[i];
        bool is_gain = ends_with(tensor->name, ".weight");
        if (tensor->role != ROLE_VECTOR)
            init_tensor(host, tensor, model->config.n_layer, seed, stream++);
        else
            for (size_t j = 0; j < tensor->size; j++) host[j] = is_gain ? 1.0f : 0.0f;
        gpt2_set_tensor(model, i, host);
    }
    free(host);
    gpt2_params_changed(model);
}
