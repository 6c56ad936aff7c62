/* reference_gpt2.c: see reference_gpt2.h. */
#include "dev/test/model/reference_gpt2.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/reference.h"
#include "util/philox.h"

static double *numbers(int64_t n) { return checked_calloc((size_t)n, sizeof(double), "reference numbers"); }

/* The weights of a tensor by its name in Hugging Face's GPT-2; NULL where the model has no such bias. */
static const double *weights(const TensorTable *table, const double *params, const char *name) {
    int index = tensor_table_find(table, name);
    return index < 0 ? NULL : params + table->tensors[index].offset;
}

/* The same of block l, for a name after "h.L.". */
static const double *block_weights(const TensorTable *table, const double *params, int l, const char *name) {
    char full[TENSOR_NAME_LENGTH];
    snprintf(full, sizeof full, "h.%d.%s", l, name);
    return weights(table, params, full);
}

#define WEIGHTS(name) weights(table, params, name)
#define BLOCK_WEIGHTS(name) block_weights(table, params, l, name)

/* x += attention(LayerNorm(x)), then x += MLP(LayerNorm(x)) */
static void block_forward(double *x, const GPT2Config *config, const TensorTable *table, const double *params, int l,
                          int B, int T) {
    int C = config->n_embd, NH = config->n_head, N = B * T;
    NormShape shape = {config->norm, (float)config->norm_eps, N, C};
    double scale = 1.0 / sqrt((double)C / NH) / (config->scale_attn_by_inverse_layer_idx ? l + 1 : 1);
    int64_t size = (int64_t)N * C;
    double *norm = numbers(size), *qkv = numbers(3 * size), *attended = numbers(size), *sublayer_out = numbers(size);
    double *hidden = numbers(4 * size), *statistics = numbers(2 * N), *lse = numbers((int64_t)N * NH);
    reference_norm_forward(&shape, norm, statistics, statistics + N, x, BLOCK_WEIGHTS("ln_1.weight"),
                           BLOCK_WEIGHTS("ln_1.bias"));
    reference_matmul_forward(qkv, norm, BLOCK_WEIGHTS("attn.c_attn.weight"), BLOCK_WEIGHTS("attn.c_attn.bias"), N, C,
                             3 * C);
    reference_attention_forward(attended, lse, qkv, B, T, C, NH, scale);
    reference_matmul_forward(sublayer_out, attended, BLOCK_WEIGHTS("attn.c_proj.weight"),
                             BLOCK_WEIGHTS("attn.c_proj.bias"), N, C, C);
    for (int64_t i = 0; i < size; i++) x[i] += sublayer_out[i];
    reference_norm_forward(&shape, norm, statistics, statistics + N, x, BLOCK_WEIGHTS("ln_2.weight"),
                           BLOCK_WEIGHTS("ln_2.bias"));
    reference_matmul_forward(hidden, norm, BLOCK_WEIGHTS("mlp.c_fc.weight"), BLOCK_WEIGHTS("mlp.c_fc.bias"), N, C,
                             4 * C);
    reference_activation_forward(config->activation, hidden, hidden, 4 * size);
    reference_matmul_forward(sublayer_out, hidden, BLOCK_WEIGHTS("mlp.c_proj.weight"), BLOCK_WEIGHTS("mlp.c_proj.bias"),
                             N, 4 * C, C);
    for (int64_t i = 0; i < size; i++) x[i] += sublayer_out[i];
    free(norm), free(qkv), free(attended), free(sublayer_out), free(hidden), free(statistics), free(lse);
}

void reference_gpt2_logits(double *logits, const GPT2Config *config, const TensorTable *table, const double *params,
                           const int32_t *inputs, int B, int T) {
    int C = config->n_embd, N = B * T;
    NormShape shape = {config->norm, (float)config->norm_eps, N, C};
    const double *wte = WEIGHTS("wte.weight");
    double *x = numbers((int64_t)N * C), *norm = numbers((int64_t)N * C), *statistics = numbers(2 * N);
    reference_embedding_forward(x, inputs, wte, WEIGHTS("wpe.weight"), B, T, C);
    for (int l = 0; l < config->n_layer; l++) block_forward(x, config, table, params, l, B, T);
    reference_norm_forward(&shape, norm, statistics, statistics + N, x, WEIGHTS("ln_f.weight"), WEIGHTS("ln_f.bias"));
    reference_matmul_forward(logits, norm, wte, NULL, N, C, config->vocab_size);
    free(x), free(norm), free(statistics);
}

double reference_gpt2_losses(double *losses, const GPT2Config *config, const TensorTable *table, const double *params,
                             const int32_t *inputs, const int32_t *targets, int B, int T) {
    int N = B * T, V = config->vocab_size;
    double *logits = numbers((int64_t)N * V), *each = numbers(N), sum = 0.0;
    reference_gpt2_logits(logits, config, table, params, inputs, B, T);
    reference_cross_entropy_forward(each, logits, targets, config->logit_softcap, N, V, V);
    for (int n = 0; n < N; n++) sum += each[n];
    for (int n = 0; losses && n < N; n++) losses[n] = each[n];
    free(logits), free(each);
    return sum;
}

double *random_weights(const TensorTable *table, DType type, uint64_t seed) {
    double *params = numbers((int64_t)table->length);
    for (int i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        bool gain = tensor->role == ROLE_VECTOR && strstr(tensor->name, "ln_") && strstr(tensor->name, ".weight");
        for (size_t j = 0; j < tensor->size; j++) {
            float value = (float)(gain + 0.2 * philox_normal(philox(seed, PHILOX_INIT_WEIGHTS, (uint32_t)i, j)));
            if (type == DTYPE_BFLOAT16) value = float_from_bfloat16(bfloat16_from_float(value));
            params[tensor->offset + j] = value;
        }
    }
    return params;
}

void set_weights(GPT2 *model, const double *params) {
    size_t n = model->table.length;
    float *host = checked_malloc(n * sizeof *host, "weights");
    for (size_t i = 0; i < n; i++) host[i] = (float)params[i];
    model->be->copy_from_host(model->be, model->params, host, n * sizeof *host);
    if (model->weights != (void *)model->params) model->be->to_activation(model->be, model->weights, model->params, n);
    model->be->invalidate_weights(model->be);
    free(host);
}

Backend *open_cpu(DType activation, int threads) {
    Error error;
    Backend *be = backend_open("cpu", activation, threads, &error);
    if (!be) fail_msg("%s", error.text);
    return be;
}

int32_t *random_tokens(int count, int V, uint32_t stream) {
    int32_t *tokens = checked_malloc((size_t)count * sizeof *tokens, "tokens");
    for (int i = 0; i < count; i++)
        tokens[i] = (int32_t)philox_below(philox(7, PHILOX_DATA_OFFSET, stream, (uint64_t)i), (uint64_t)V);
    tokens[count - 1] = V - 1;
    return tokens;
}
