/* gpt2.h: a GPT-2 (Radford et al. 2019) or a variant of it: layers wired into a transformer, its forward and backward
 * pass.
 *
 *   x = embedding(tokens)
 *   for each of L blocks:  x = x + attention(norm(x));  x = x + MLP(norm(x))
 *   loss = cross_entropy(LM head(norm(x)), targets)
 *
 * What a layer computes is in layers.h; this module decides what is computed when, from which buffer into which. All
 * memory is planned once, when the model is created. */
#ifndef MARS_MODEL_GPT2_H
#define MARS_MODEL_GPT2_H

#include "kernels/backend.h"
#include "model/gpt2_config.h"
#include "model/layers.h"
#include "util/arena.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

/* A transformer block: its layers, and the activations between them that the forward pass leaves for the backward
 * pass. Those that the backward pass computes again are shared by all blocks. */
typedef struct Block {
    Norm ln_1, ln_2;
    Attention attention;
    Mlp mlp;
    void *residual;        /* (N,C) the block's input */
    void *residual_middle; /* (N,C) after the attention sublayer */
    void *ln_1_out, *ln_2_out;
    size_t begin; /* its first element in the flat buffers */
} Block;

/* A batch on the device. */
typedef struct GPT2Batch {
    int32_t *inputs, *targets; /* (B,T) */
    int B, T;
} GPT2Batch;

/* Batches that can be on the device at a time: the one that is computed and the next one. */
enum { GPT2_BATCHES = 2 };

/* The arguments of a pass. Its callbacks start communication while the pass runs: they are called in the order in which
 * the pass enqueues its operations, with elements [begin, end) of the flat buffers, and may be NULL. */
typedef struct GPT2Pass {
    float *grads;      /* table.length floats for a backward pass; NULL: a forward pass alone */
    bool accumulate;   /* true: adds to grads; false: overwrites them */
    float dloss;       /* grads are those of dloss * (sum of the token losses) */
    bool ignores_loss; /* leaves the loss sum as it is */
    /* Dropout is on only in a pass with grads, in its forward part too. Its masks depend on these two and on the place
     * in the model (kernels/dropout.h). */
    uint64_t seed;
    int64_t first_sequence; /* number of the batch's first sequence in the run; the others follow */
    void *context;
    /* Called before the first operation that reads these weights. */
    void (*weights_needed)(void *context, size_t begin, size_t end);
    /* Called after the last operation that writes these gradients: from the end of the buffer to its beginning. On a
     * GPU that operation is then enqueued, on a CPU it is done. */
    void (*gradients_written)(void *context, size_t begin, size_t end);
} GPT2Pass;

typedef struct GPT2 {
    GPT2Config config;
    Backend *be;
    Recompute recompute;
    bool training;
    int max_batch; /* B, the largest batch */

    TensorTable table;
    float *params; /* the master weights, table.length floats */
    void *weights; /* the same in the activation type, which the operations read; params itself for float32 */
    float *grads;  /* table.length floats; NULL if not training */

    Embedding embedding;
    Block *blocks;     /* (L) */
    size_t blocks_end; /* the first element after all blocks */
    Norm ln_f;
    LmHead lm_head;
    float *rotation; /* rope.h's, on the device; NULL without RoPE */

    GPT2Batch batches[GPT2_BATCHES];
    int64_t prefetched, waited_for, computed; /* batches so far; number i is in batches[i % GPT2_BATCHES] */

    void *residual_final, *ln_f_out; /* (N,C) */
    double *loss_sum;                /* of all tokens since gpt2_take_loss() or gpt2_forget_loss() */
    int64_t loss_count;
    void *sublayer_out;                    /* (N,C) output of the sublayer that is being computed */
    void *dresidual, *dsublayer, *dhidden; /* (N,C) (N,C) (N,4C) gradients of the backward pass */

    Arena arena;
} GPT2;

/* Plans a model for batches of up to max_batch sequences of config->block_size tokens: model->arena lists its memory,
 * to which others may add theirs before gpt2_allocate() takes it. The arena keeps addresses of the model's own fields,
 * so the struct must not move until gpt2_allocate() has returned. Without `training` there are no gradients, and one
 * set of activations serves all blocks. */
void gpt2_plan(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute, bool training);
/* Allocates the planned memory. Weights are zero. */
void gpt2_allocate(GPT2 *model);
/* gpt2_plan() and gpt2_allocate(). */
void gpt2_create(GPT2 *model, const GPT2Config *config, Backend *be, int max_batch, Recompute recompute, bool training);
void gpt2_free(GPT2 *model);

/* Makes only the model's tensor table, without memory on a device. gpt2_free() frees it. */
void gpt2_describe(GPT2 *model, const GPT2Config *config);

/* Sets the weights to their initial values by config->init. They depend only on the seed. */
void gpt2_init_weights(GPT2 *model, uint64_t seed);

/* Sets the master weights of one tensor from host memory, tensor.size floats. When all are set, gpt2_params_changed()
 * makes the weight copies follow. Call it also in float32, where the weights are the master weights: a device may keep
 * packed copies of them (be->invalidate_weights()). */
void gpt2_set_tensor(GPT2 *model, int tensor, const float *host);
void gpt2_params_changed(GPT2 *model);

/* Starts bringing a batch of B sequences of T <= block_size tokens (host pointers, (B,T) each) to the device, in
 * parallel with the pass that is enqueued next if that is over an earlier batch. The host arrays may be used again on
 * return. At most GPT2_BATCHES wait for a pass; one more ends the program. Passes take the batches in their order. */
void gpt2_prefetch(GPT2 *model, const int32_t *inputs, const int32_t *targets, int B, int T);

/* One pass over the next batch. */
void gpt2_pass(GPT2 *model, const GPT2Pass *pass);

/* gpt2_prefetch() and a pass over that batch: forward, and forward and backward into model->grads. */
void gpt2_forward(GPT2 *model, const int32_t *inputs, const int32_t *targets, int B, int T);
void gpt2_forward_backward(GPT2 *model, const int32_t *inputs, const int32_t *targets, int B, int T, float dloss,
                           bool accumulate);

/* Forward pass of the next token of each of B sequences (host pointer, (B)), whose earlier tokens are in the cache:
 * writes the logits (B,VP), before the softcap, to model->lm_head.logits. The caller advances cache->position. */
void gpt2_decode(GPT2 *model, const int32_t *tokens, int B, const KeyValueCache *cache);

/* A pass over random tokens, for autotune.h. Its results are of no use, and gradients are undefined after it. With
 * tokens that are all the same, most rows of the activations and of their gradients are nearly equal, and a GPU
 * multiplies such matrices faster than those of training. */
void gpt2_autotune(GPT2 *model);

/* Returns the sum of the token losses since the last call, and their number in *count. Waits for the device. */
double gpt2_take_loss(GPT2 *model, int64_t *count);
/* Resets that sum without reading it. */
void gpt2_forget_loss(GPT2 *model);

/* Floating-point operations of one token's forward and backward pass, 6 N + 12 L C T (Chowdhery et al. 2022, app. B),
 * which counts attention as if it were not causal and recomputation not at all. N counts all parameters, wpe included,
 * except a token embedding that is only looked up. */
double gpt2_flops_per_token(const GPT2 *model);

EXTERN_C_END

#endif
