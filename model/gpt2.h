/* gpt2.h: GPT-2 (Radford et al. 2019): its tensors, its forward and backward pass.
 *
 *   x = wte[tokens] + wpe
 *   for each of L blocks:  x = x + attention(LayerNorm(x));  x = x + MLP(LayerNorm(x))
 *   loss = cross_entropy(LayerNorm(x) . wte^T, targets)              (the output matrix is the token embedding)
 *
 * All arithmetic is done by a Backend; this module decides what is computed when, from which buffer into which. All
 * memory is planned once, when the model is created. */
#ifndef MARS_MODEL_GPT2_H
#define MARS_MODEL_GPT2_H

#include "kernels/backend.h"
#include "model/gpt2_config.h"
#include "util/arena.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

/* Indices into the tensor table; -1 for a bias that the model does not have. */
typedef struct GPT2LayerNorm {
    int weight, bias;
} GPT2LayerNorm;

typedef struct GPT2Linear {
    int weight, bias;
    int in, out; /* features */
} GPT2Linear;

typedef struct GPT2BlockTensors {
    GPT2LayerNorm ln_1, ln_2;
    GPT2Linear c_attn, attn_c_proj, c_fc, mlp_c_proj;
} GPT2BlockTensors;

/* What the forward pass leaves for the backward pass, N = B*T rows. Buffers that the backward pass computes
 * again are shared by all blocks. */
typedef struct GPT2LayerNormStatistics {
    float *mean, *rstd; /* (N) */
} GPT2LayerNormStatistics;

typedef struct GPT2BlockActivations {
    void *residual;               /* (N,C) the block's input */
    void *ln_1, *qkv, *attention; /* (N,C) (N,3C) (N,C) */
    void *residual_middle;        /* (N,C) after the attention sublayer */
    void *ln_2, *fc, *fc_gelu;    /* (N,C) (N,4C) (N,4C) */
    float *lse;                   /* (B,NH,T) */
    GPT2LayerNormStatistics ln_1_statistics, ln_2_statistics;
} GPT2BlockActivations;

/* A batch on the device. */
typedef struct GPT2Batch {
    int32_t *inputs, *targets; /* (B,T) */
    int B, T;
} GPT2Batch;

/* Batches that can be on the device at a time: the one that is computed and the next one. */
enum { GPT2_BATCHES = 2 };

/* What others do while a pass runs, on elements [begin, end) of the flat buffers. Both may be NULL. */
typedef struct GPT2Hooks {
    void *context;
    /* Called before the first operation of a forward pass that reads these weights. */
    void (*weights_needed)(void *context, size_t begin, size_t end);
    /* Called after the last operation of a backward pass that writes these gradients: from the end of the buffer to its
     * beginning. */
    void (*gradients_written)(void *context, size_t begin, size_t end);
} GPT2Hooks;

typedef struct GPT2 {
    GPT2Config config;
    Backend *be;
    Recompute recompute;
    bool training;
    int max_batch;    /* B, the largest batch */
    int padded_vocab; /* VP: vocab_size rounded up to a multiple of 64; the extra rows of wte stay zero */
    int lm_head_rows; /* rows of logits that exist at a time */

    TensorTable table;
    int wte, wpe;
    GPT2LayerNorm ln_f;
    GPT2BlockTensors *blocks; /* (L) */

    float *params; /* the master weights, table.length floats */
    void *weights; /* the same in the activation type, which the operations read; params itself for float32 */
    float *grads;  /* table.length floats; NULL where not training */

    GPT2Batch batches[GPT2_BATCHES];
    int64_t prefetched, waited_for, computed; /* batches so far; number i is in batches[i % GPT2_BATCHES] */
    GPT2Hooks hooks;

    GPT2BlockActivations *activations; /* (L) */
    void *residual_final, *ln_f_out;   /* (N,C) */
    GPT2LayerNormStatistics ln_f_statistics;
    void *sublayer_out; /* (N,C) output of the half block that is being computed */
    void *logits;       /* (lm_head_rows, VP) */
    float *losses;      /* (N) */
    double *loss_sum;   /* of all tokens since gpt2_take_loss() or gpt2_forget_loss() */
    int64_t loss_count;
    bool ignores_loss;                     /* passes leave the sum as it is */
    void *dresidual, *dsublayer, *dhidden; /* (N,C) (N,C) (N,4C) gradients on their way down */

    Arena arena;
} GPT2;

/* Plans a model for batches of up to max_batch sequences of config->block_size tokens: model->arena lists its memory, to
 * which others may add theirs before gpt2_allocate() takes it. Without `training` there are no gradients, and one set of
 * activations serves all blocks. */
void gpt2_plan(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute, bool training);
/* Takes the memory. Weights are zero. */
void gpt2_allocate(GPT2 *model);
/* Both. */
void gpt2_create(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute, bool training);
void gpt2_free(GPT2 *model);

/* Only the tensor table of such a model: no memory is taken. End it with gpt2_free. */
void gpt2_describe(GPT2 *model, const GPT2Config *config);

/* GPT-2's initialisation: N(0, 0.02) for matrices and embeddings, 0.02/sqrt(2L) for the projections back into the
 * residual stream, gains 1, biases 0. A function of the seed alone. */
void gpt2_init_weights(GPT2 *model, uint64_t seed);

/* Sets the master weights of one tensor from host memory, tensor.size floats. When all are set, gpt2_params_changed()
 * makes the weight copies follow. */
void gpt2_set_tensor(GPT2 *model, int tensor, const float *host);
void gpt2_params_changed(GPT2 *model);

/* Starts bringing a batch of B sequences of T <= block_size tokens (host pointers, (B,T) each) to the device, in
 * parallel with the pass that is enqueued next if that is over an earlier batch. At most GPT2_BATCHES are on the
 * device; passes take them in their order. */
void gpt2_prefetch(GPT2 *model, const int32_t *inputs, const int32_t *targets, int B, int T);

/* Forward pass over the next batch: adds to the loss sum. */
void gpt2_forward_prefetched(GPT2 *model);

/* Forward and backward pass over the next batch. The gradient of dloss * (sum of the token losses) overwrites grads, or
 * is added where `accumulate`. */
void gpt2_forward_backward_prefetched(GPT2 *model, float dloss, bool accumulate);

/* The same over a batch that is uploaded first. */
void gpt2_forward(GPT2 *model, const int32_t *inputs, const int32_t *targets, int B, int T);
void gpt2_forward_backward(GPT2 *model, const int32_t *inputs, const int32_t *targets, int B, int T, float dloss,
                           bool accumulate);

/* A pass over random tokens, as autotune.h needs one: what it computes is of no use, and gradients are undefined after
 * it. With tokens that are all the same, most rows of the activations and of their gradients are nearly equal, and a GPU
 * multiplies such matrices faster than those of training. */
void gpt2_autotune(GPT2 *model);

/* Sum of the token losses since the last call, and how many they were; waits for the device. */
double gpt2_take_loss(GPT2 *model, int64_t *count);
/* The same without asking what it was. */
void gpt2_forget_loss(GPT2 *model);

/* Floating-point operations of one token's forward and backward pass, 6 N + 12 L C T (Chowdhery et al. 2022, app. B),
 * which counts attention as if it were not causal and recomputation not at all. */
double gpt2_flops_per_token(const GPT2 *model);

/* The weight and gradient of tensor number `tensor`; NULL for -1. */
static inline void *gpt2_weight(const GPT2 *model, int tensor) {
    if (tensor < 0) return NULL;
    return (char *)model->weights + model->table.tensors[tensor].offset * dtype_size(model->be->activation);
}
static inline float *gpt2_gradient(const GPT2 *model, int tensor) {
    return tensor < 0 ? NULL : model->grads + model->table.tensors[tensor].offset;
}

/* The factor on attention scores in block l: 1/sqrt(HS), divided by l + 1 where the config says so. */
float gpt2_attention_scale(const GPT2Config *config, int l);

EXTERN_C_END

#endif
