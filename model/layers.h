/* layers.h: the layers that a transformer is wired from: norm, linear, attention, MLP, embedding, LM head.
 *
 * A layer holds its tensors, its kind and the activations that its backward pass needs. Inputs and outputs are
 * arguments; they belong to the caller, which wires the layers (gpt2.c). Each layer has
 *
 *   NAME_describe   adds its tensors to the table; needs no device
 *   NAME_plan       lists its activations in the arena
 *   NAME_forward    and, next to it, NAME_backward, which visits the same operations in reverse
 *
 * Linear layers keep no activations and have no plan; the LM head, whose logits are made and used in groups of rows,
 * has lm_head_loss() for both passes, and lm_head_logits(). A `void *` is an array of the backend's activation type;
 * N = B*T rows. Backward functions write the gradients of weights to pass->grads.
 *
 * Decoding is the forward pass over one row of each sequence, with a cache of keys and values: only attention and
 * embedding read LayerPass.cache. Arithmetic is done by the Backend. */
#ifndef MARS_MODEL_LAYERS_H
#define MARS_MODEL_LAYERS_H

#include "kernels/backend.h"
#include "model/gpt2_init.h"
#include "util/arena.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

/* Keys and values of the tokens that were decoded, for all blocks. */
typedef struct KeyValueCache {
    void *keys, *values; /* (L,B,capacity,C) in device memory */
    int capacity;        /* tokens of each sequence */
    int position;        /* of the token that is decoded next; it must be below capacity */
} KeyValueCache;

/* The arguments of one pass, which are the same for every layer. */
typedef struct LayerPass {
    Backend *be;
    const TensorTable *table;
    const void *weights;             /* a flat buffer of the activation type */
    float *grads;                    /* the flat buffer that a backward pass writes; NULL if there is none */
    bool accumulate;                 /* add to grads, not overwrite */
    const int32_t *inputs, *targets; /* (B,T); no targets when decoding */
    int B, T, N;                     /* N = B*T rows */
    const float *rotation;           /* qk_norm_rope_forward()'s, from the first row's position on; NULL without RoPE */
    const KeyValueCache *cache;      /* when decoding, with T = 1; else NULL */
    const Dropout *dropout;          /* rate, seed and first sequence; NULL in a pass without dropout */
} LayerPass;

/* The weights and the gradient of tensor number `tensor`; NULL for -1, a tensor that the model does not have. */
static inline const void *layer_weight(const LayerPass *pass, int tensor) {
    if (tensor < 0) return NULL;
    return (const char *)pass->weights + pass->table->tensors[tensor].offset * dtype_size(pass->be->activation);
}
static inline float *layer_gradient(const LayerPass *pass, int tensor) {
    return tensor < 0 ? NULL : pass->grads + pass->table->tensors[tensor].offset;
}

/* Bytes of a layer's name: ".weight" fits after it. */
enum { LAYER_NAME_LENGTH = TENSOR_NAME_LENGTH - 8 };

/* The rows for which a model's activations are planned, and their type. */
typedef struct LayerMemory {
    Arena *arena;
    size_t rows;         /* N of the largest batch */
    size_t element_size; /* bytes of an element of the activation type */
} LayerMemory;

/* ---- norm: LayerNorm or RMSNorm over C numbers ---- */

typedef struct NormStatistics {
    float *mean, *rstd; /* (N) */
} NormStatistics;

typedef struct Norm {
    NormKind kind;
    float eps;
    int C;
    int weight, bias;
    NormStatistics kept;
} Norm;

/* Names tensors "NAME.weight" and "NAME.bias". */
void norm_describe(Norm *norm, TensorTable *table, const GPT2Config *config, const char *name);
void norm_plan(Norm *norm, const LayerMemory *memory);

/* out = norm(x), both (N,C). */
void norm_forward(const Norm *norm, const LayerPass *pass, void *out, const void *x);
/* sum = x + delta, out = norm(sum): the residual addition before a norm, in one pass over memory. */
void residual_norm_forward(const Norm *norm, const LayerPass *pass, void *sum, void *out, const void *x,
                           const void *delta);
/* dx += the gradient of the norm's input, given that of its output, dout. x is the input of its last forward pass. */
void norm_backward(const Norm *norm, const LayerPass *pass, void *dx, const void *dout, const void *x);

/* ---- linear: out (N,out) = in (N,in) . weight^T + bias ---- */

typedef struct Linear {
    int weight, bias;
    int in, out; /* features */
} Linear;

void linear_describe(Linear *linear, TensorTable *table, const GPT2Config *config, const char *name, int in, int out,
                     WeightKind kind);

void linear_forward(const Linear *linear, const LayerPass *pass, void *out, const void *in);
void linear_backward(const Linear *linear, const LayerPass *pass, void *din, const void *dout, const void *in);

/* ---- attention sublayer: out = dropout(output_scale c_proj(attention(c_attn(in)))) ---- */

typedef struct AttentionActivations {
    void *qkv, *out; /* (N,3C) after QK-norm and rotation, (N,C) */
    float *lse;      /* (B,NH,T) */
    float *qk_rstd;  /* (B,T,2,NH); NULL without QK-norm */
} AttentionActivations;

typedef struct Attention {
    Linear c_attn, c_proj;
    int block; /* number of its block, from 0 */
    int C, heads;
    float scale;        /* on attention scores */
    float output_scale; /* on the sublayer's output */
    bool has_qk_norm;
    float qk_norm_eps;
    AttentionActivations kept;
} Attention;

void attention_describe(Attention *attention, TensorTable *table, const GPT2Config *config, int block);
void attention_plan(Attention *attention, const LayerMemory *memory);

void attention_forward(const Attention *attention, const LayerPass *pass, void *out, const void *in);
/* in, out, din, dout are (N,C), and din is not `in`. dhidden (N,4C) is working memory. */
void attention_backward(const Attention *attention, const LayerPass *pass, void *din, const void *dout, const void *in,
                        void *dhidden);

/* ---- MLP sublayer: out = dropout(c_proj(activation(c_fc(in)))), 4C wide inside ---- */

typedef struct MlpActivations {
    void *fc, *hidden; /* (N,4C) before and after the activation */
} MlpActivations;

typedef struct Mlp {
    Linear c_fc, c_proj;
    int block; /* number of its block, from 0 */
    ActivationKind activation;
    MlpActivations kept;
} Mlp;

void mlp_describe(Mlp *mlp, TensorTable *table, const GPT2Config *config, int block);
void mlp_plan(Mlp *mlp, const LayerMemory *memory);

/* Computes c_fc and the activation again, for a backward pass with recomputation. */
void mlp_hidden_forward(const Mlp *mlp, const LayerPass *pass, const void *in);
void mlp_forward(const Mlp *mlp, const LayerPass *pass, void *out, const void *in);
/* dhidden (N,4C) is working memory. */
void mlp_backward(const Mlp *mlp, const LayerPass *pass, void *din, const void *dout, const void *in, void *dhidden);

/* ---- embedding: out = norm(dropout(wte[tokens] + wpe)); wpe, dropout and norm if the model has them ---- */

typedef struct Embedding {
    int wte, wpe; /* wpe -1: positions are not learned */
    int V, C;
    bool has_norm, is_tied; /* is_tied: the LM head writes the gradient of wte first */
    Norm norm;
    void *sum; /* (N,C) input of the norm; NULL without it */
} Embedding;

void embedding_describe(Embedding *embedding, TensorTable *table, const GPT2Config *config);
void embedding_plan(Embedding *embedding, const LayerMemory *memory);

void embedding_forward(const Embedding *embedding, const LayerPass *pass, void *out);
/* dsum (N,C) is working memory. */
void embedding_backward(const Embedding *embedding, const LayerPass *pass, const void *dout, void *dsum);

/* ---- LM head and loss: logits = in . weight^T + bias, their cross-entropy ---- */

typedef struct LmHead {
    Linear linear; /* out = padded vocabulary; the weight is wte if they are tied */
    int V;
    float softcap;
    int rows; /* of logits that exist at a time */
    /* (rows, padded vocabulary); after a pass with gradients it holds the gradients of the last group of rows, not
     * logits */
    void *logits;
    float *losses; /* (N) of each token, after a pass */
} LmHead;

/* Call it after embedding_describe(), since a tied LM head uses wte. */
void lm_head_describe(LmHead *lm_head, TensorTable *table, const GPT2Config *config, const Embedding *embedding);
/* Logits of at most `rows` rows exist at a time. */
void lm_head_plan(LmHead *lm_head, const LayerMemory *memory, int rows);

/* Computes the losses of all rows and, if the pass has gradients, the gradients of dloss times their sum: din, weight
 * and bias. */
void lm_head_loss(const LmHead *lm_head, const LayerPass *pass, void *din, const void *in, float dloss);
/* lm_head->logits = the logits of all N rows, before the softcap; N is at most lm_head->rows. */
void lm_head_logits(const LmHead *lm_head, const LayerPass *pass, const void *in);

EXTERN_C_END

#endif
