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

/* What the blocks of one forward pass share. */
typedef struct Reference {
    const GPT2Config *config;
    const TensorTable *table;
    const double *params, *rotation; /* rotation NULL without RoPE */
    int B, T, C, N;
    const Dropout *dropout; /* NULL: none */
} Reference;

/* The dropout of a place in the model: 0 the embedding; 1, 2 and 3 of each block l the attention's weights, its
 * output and that of the MLP. */
static Dropout dropout_at(const Reference *r, int l, int place) {
    Dropout dropout = *r->dropout;
    dropout.place = (uint32_t)(3 * l + place);
    return dropout;
}

static void drop(const Reference *r, double *x, int l, int place) {
    if (!r->dropout) return;
    Dropout dropout = dropout_at(r, l, place);
    reference_dropout(x, x, &dropout, r->B, (int64_t)r->T * r->C);
}

/* out = norm(x) by the weights of that name; `l` is -1 for a norm outside of the blocks. */
static void norm(const Reference *r, double *out, const double *x, int l, const char *name) {
    char full[TENSOR_NAME_LENGTH], block[16] = "";
    if (l >= 0) snprintf(block, sizeof block, "h.%d.", l);
    snprintf(full, sizeof full, "%s%s.weight", block, name);
    const double *gain = weights(r->table, r->params, full);
    snprintf(full, sizeof full, "%s%s.bias", block, name);
    const double *bias = weights(r->table, r->params, full);
    NormShape shape = {r->config->norm, (float)r->config->norm_eps, r->N, r->C};
    double *statistics = numbers(2 * r->N);
    reference_norm_forward(&shape, out, statistics, statistics + r->N, x, gain, bias);
    free(statistics);
}

static void linear(const Reference *r, double *out, const double *in, int l, const char *name, int in_size,
                   int out_size) {
    char full[TENSOR_NAME_LENGTH];
    snprintf(full, sizeof full, "h.%d.%s.weight", l, name);
    const double *weight = weights(r->table, r->params, full);
    snprintf(full, sizeof full, "h.%d.%s.bias", l, name);
    reference_matmul_forward(out, in, weight, weights(r->table, r->params, full), r->N, in_size, out_size);
}

/* x += dropout(output_scale attention(norm(x))) */
static void attention_sublayer(const Reference *r, double *x, int l) {
    const GPT2Config *c = r->config;
    int C = r->C, NH = c->n_head;
    int64_t size = (int64_t)r->N * C;
    double scale = c->attention_scale > 0 ? c->attention_scale : 1.0 / sqrt((double)C / NH);
    if (c->scale_attn_by_inverse_layer_idx) scale /= l + 1;
    double *normed = numbers(size), *qkv = numbers(3 * size), *turned = numbers(3 * size), *attended = numbers(size);
    double *out = numbers(size), *lse = numbers((int64_t)r->N * NH), *rstd = numbers((int64_t)r->N * 2 * NH);
    double *factors = r->dropout ? numbers((int64_t)r->N * NH * r->T) : NULL;
    if (factors) {
        Dropout dropout = dropout_at(r, l, 1);
        reference_attention_factors(factors, &dropout, r->B, r->T, NH);
    }
    norm(r, normed, x, l, "ln_1");
    linear(r, qkv, normed, l, "attn.c_attn", C, 3 * C);
    reference_qk_norm_rope_forward(turned, c->qk_norm ? rstd : NULL, qkv, r->rotation, c->qk_norm_eps, r->B, r->T, C,
                                   NH);
    reference_attention_forward(attended, lse, turned, factors, r->B, r->T, C, NH, scale);
    linear(r, out, attended, l, "attn.c_proj", C, C);
    for (int64_t i = 0; i < size; i++) out[i] *= c->attention_output_scale;
    drop(r, out, l, 2);
    for (int64_t i = 0; i < size; i++) x[i] += out[i];
    free(normed), free(qkv), free(turned), free(attended), free(out), free(lse), free(rstd), free(factors);
}

/* x += dropout(MLP(norm(x))) */
static void mlp_sublayer(const Reference *r, double *x, int l) {
    int C = r->C;
    int64_t size = (int64_t)r->N * C;
    double *normed = numbers(size), *hidden = numbers(4 * size), *out = numbers(size);
    norm(r, normed, x, l, "ln_2");
    linear(r, hidden, normed, l, "mlp.c_fc", C, 4 * C);
    reference_activation_forward(r->config->activation, hidden, hidden, 4 * size);
    linear(r, out, hidden, l, "mlp.c_proj", 4 * C, C);
    drop(r, out, l, 3);
    for (int64_t i = 0; i < size; i++) x[i] += out[i];
    free(normed), free(hidden), free(out);
}

/* {cos, sin} of each position and pair of a head's numbers (T,HS/2,2); NULL without RoPE. */
static double *rotation_of(const GPT2Config *c, int T) {
    if (c->position == POSITION_LEARNED) return NULL;
    int HS = c->n_embd / c->n_head;
    double *rotation = numbers((int64_t)T * HS);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < HS / 2; i++) {
            double frequency = c->position == POSITION_ROPE ? pow(c->rope_base, -2.0 * i / HS)
                               : i < HS / 4                 ? pow(c->rope_base, -i / (HS / 4 - 1.0))
                                                            : 0.0;
            rotation[(int64_t)t * HS + 2 * i] = cos(t * frequency);
            rotation[(int64_t)t * HS + 2 * i + 1] = sin(t * frequency);
        }
    return rotation;
}

/* The logits before the softcap. */
static void raw_logits(double *logits, const GPT2Config *config, const TensorTable *table, const double *params,
                       const int32_t *inputs, int B, int T, const Dropout *dropout) {
    int C = config->n_embd, N = B * T;
    double *rotation = rotation_of(config, T);
    Reference r = {config, table, params, rotation, B, T, C, N, dropout};
    double *x = numbers((int64_t)N * C), *normed = numbers((int64_t)N * C);
    const double *wte = weights(table, params, "wte.weight"), *head = weights(table, params, "lm_head.weight");
    reference_embedding_forward(x, inputs, wte, weights(table, params, "wpe.weight"), B, T, C);
    drop(&r, x, 0, 0);
    if (config->norm_embedding) {
        norm(&r, normed, x, -1, "ln_emb");
        memcpy(x, normed, (size_t)N * (size_t)C * sizeof *x);
    }
    for (int l = 0; l < config->n_layer; l++) {
        attention_sublayer(&r, x, l);
        mlp_sublayer(&r, x, l);
    }
    norm(&r, normed, x, -1, "ln_f");
    reference_matmul_forward(logits, normed, head ? head : wte, weights(table, params, "lm_head.bias"), N, C,
                             config->vocab_size);
    free(x), free(normed), free(rotation);
}

void reference_gpt2_logits(double *logits, const GPT2Config *config, const TensorTable *table, const double *params,
                           const int32_t *inputs, int B, int T) {
    double cap = config->logit_softcap;
    raw_logits(logits, config, table, params, inputs, B, T, NULL);
    for (int64_t i = 0; cap > 0 && i < (int64_t)B * T * config->vocab_size; i++)
        logits[i] *= cap / sqrt(logits[i] * logits[i] + cap * cap);
}

double reference_gpt2_losses(double *losses, const GPT2Config *config, const TensorTable *table, const double *params,
                             const int32_t *inputs, const int32_t *targets, int B, int T, const Dropout *dropout) {
    int N = B * T, V = config->vocab_size;
    double *logits = numbers((int64_t)N * V), *each = numbers(N), sum = 0.0;
    raw_logits(logits, config, table, params, inputs, B, T, dropout);
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
