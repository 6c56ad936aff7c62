/* gpt2_tensors.c: which tensors a model has, where everything lies in memory, and its first weights. What is computed
 * with them is in gpt2.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gpt2.h"
#include "model/rope.h"

/* Names are those of Hugging Face's GPT-2, without the prefix. */
void gpt2_describe(GPT2 *model, const GPT2Config *config) {
    TensorTable *table = &model->table;
    memset(model, 0, sizeof *model);
    model->config = *config;
    model->blocks = checked_calloc((size_t)config->n_layer, sizeof *model->blocks, "the blocks");
    embedding_describe(&model->embedding, table, config);
    for (int l = 0; l < config->n_layer; l++) {
        Block *block = &model->blocks[l];
        char name[LAYER_NAME_LENGTH];
        block->begin = table->length;
        snprintf(name, sizeof name, "h.%d.ln_1", l);
        norm_describe(&block->ln_1, table, config, name);
        attention_describe(&block->attention, table, config, l);
        snprintf(name, sizeof name, "h.%d.ln_2", l);
        norm_describe(&block->ln_2, table, config, name);
        mlp_describe(&block->mlp, table, config, l);
    }
    model->blocks_end = table->length;
    norm_describe(&model->ln_f, table, config, "ln_f");
    lm_head_describe(&model->lm_head, table, config, &model->embedding);
}

/* ---- memory ---- */

static void plan_weights(GPT2 *model) {
    Arena *arena = &model->arena;
    size_t n = model->table.length, rotation = rope_length(&model->config);
    bool separate = model->be->activation != DTYPE_FLOAT32;
    arena_plan(arena, "weights", "master weights", n * sizeof(float), &model->params);
    if (separate) arena_plan(arena, "weights", "weight copies", n * dtype_size(model->be->activation), &model->weights);
    if (rotation > 0) arena_plan(arena, "weights", "rotations", rotation * sizeof(float), &model->rotation);
    if (model->training) arena_plan(arena, "gradients", "gradients", n * sizeof(float), &model->grads);
}

/* Which activations block l owns: those inside its MLP, its input, and all others. Block 0 owns all. Another block
 * shares those of block 0 if the backward pass computes them again, or if there is no backward pass. */
static bool keeps_mlp(const GPT2 *model, int l) {
    return l == 0 || (model->training && model->recompute == RECOMPUTE_NONE);
}
static bool keeps_all(const GPT2 *model, int l) {
    return l == 0 || (model->training && model->recompute != RECOMPUTE_BLOCK);
}
static bool keeps_input(const GPT2 *model, int l) { return l == 0 || model->training; }

static void plan_block(GPT2 *model, int l, const LayerMemory *memory) {
    Block *b = &model->blocks[l];
    size_t bytes = memory->rows * (size_t)model->config.n_embd * memory->element_size;
    if (keeps_input(model, l)) arena_plan(memory->arena, "activations", "residual", bytes, &b->residual);
    if (keeps_all(model, l)) {
        norm_plan(&b->ln_1, memory);
        arena_plan(memory->arena, "activations", "ln_1", bytes, &b->ln_1_out);
        attention_plan(&b->attention, memory);
        arena_plan(memory->arena, "activations", "residual_middle", bytes, &b->residual_middle);
        norm_plan(&b->ln_2, memory);
        arena_plan(memory->arena, "activations", "ln_2", bytes, &b->ln_2_out);
    }
    if (keeps_mlp(model, l)) mlp_plan(&b->mlp, memory);
}

static void share_activations(GPT2 *model) {
    const Block *first = &model->blocks[0];
    for (int l = 1; l < model->config.n_layer; l++) {
        Block *b = &model->blocks[l];
        if (!keeps_input(model, l)) b->residual = first->residual;
        if (!keeps_all(model, l)) {
            b->ln_1.kept = first->ln_1.kept, b->ln_1_out = first->ln_1_out;
            b->attention.kept = first->attention.kept;
            b->residual_middle = first->residual_middle;
            b->ln_2.kept = first->ln_2.kept, b->ln_2_out = first->ln_2_out;
        }
        if (!keeps_mlp(model, l)) b->mlp.kept = first->mlp.kept;
    }
}

static void plan_activations(GPT2 *model) {
    Arena *arena = &model->arena;
    LayerMemory memory = {.arena = arena,
                          .rows = (size_t)model->max_batch * (size_t)model->config.block_size,
                          .element_size = dtype_size(model->be->activation)};
    size_t bytes = memory.rows * (size_t)model->config.n_embd * memory.element_size;
    embedding_plan(&model->embedding, &memory);
    for (int l = 0; l < model->config.n_layer; l++) plan_block(model, l, &memory);
    arena_plan(arena, "activations", "residual_final", bytes, &model->residual_final);
    norm_plan(&model->ln_f, &memory);
    arena_plan(arena, "activations", "ln_f", bytes, &model->ln_f_out);
    for (int i = 0; i < GPT2_BATCHES; i++) {
        arena_plan(arena, "activations", "inputs", memory.rows * sizeof(int32_t), &model->batches[i].inputs);
        arena_plan(arena, "activations", "targets", memory.rows * sizeof(int32_t), &model->batches[i].targets);
    }
    lm_head_plan(&model->lm_head, &memory, model->be->logit_rows);
    arena_plan(arena, "activations", "loss sum", sizeof(double), &model->loss_sum);
    arena_plan(arena, "workspace", "sublayer output", bytes, &model->sublayer_out);
    if (!model->training) return;
    arena_plan(arena, "workspace", "dresidual", bytes, &model->dresidual);
    arena_plan(arena, "workspace", "dsublayer", bytes, &model->dsublayer);
    arena_plan(arena, "workspace", "dhidden", bytes * 4, &model->dhidden);
}

void gpt2_plan(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute, bool training) {
    gpt2_describe(model, config);
    model->be = be;
    model->recompute = recompute;
    model->training = training;
    model->max_batch = max_batch;
    plan_weights(model);
    plan_activations(model);
}

static void fill_rotation(GPT2 *model) {
    size_t length = rope_length(&model->config);
    float *host = checked_malloc(length * sizeof *host, "the rotations");
    rope_fill(host, &model->config);
    model->be->copy_from_host(model->be, model->rotation, host, length * sizeof *host);
    free(host);
}

void gpt2_allocate(GPT2 *model) {
    arena_allocate(&model->arena, backend_memory(model->be));
    share_activations(model);
    if (!model->weights) model->weights = model->params;
    if (model->rotation) fill_rotation(model);
}

void gpt2_create(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute,
                 bool training) {
    gpt2_plan(model, config, be, max_batch, recompute, training);
    gpt2_allocate(model);
}

void gpt2_free(GPT2 *model) {
    arena_free(&model->arena);
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

/* Vectors do not use up a stream number, so a model with biases starts from the same matrices as one without. */
void gpt2_init_weights(GPT2 *model, uint64_t seed) {
    float *host = checked_malloc(tensor_table_largest(&model->table) * sizeof *host, "initial weights");
    uint32_t stream = 0;
    for (int i = 0; i < model->table.count; i++) {
        const Tensor *tensor = &model->table.tensors[i];
        init_tensor(host, tensor, seed, stream);
        if (tensor->role != ROLE_VECTOR) stream++;
        gpt2_set_tensor(model, i, host);
    }
    free(host);
    gpt2_params_changed(model);
}
