/* gpt2_config.h: the shape of a GPT-2, as the config file's "model" section gives it. */
#ifndef MARS_MODEL_GPT2_CONFIG_H
#define MARS_MODEL_GPT2_CONFIG_H

#include <stdbool.h>

/* The largest sizes: tokens are 16 bits, and products of a few sizes fit 32 bits or 64 bits as they are computed. */
enum {
    GPT2_MAX_LAYERS = 1024,
    GPT2_MAX_HEADS = 1024,
    GPT2_MAX_CHANNELS = 65536,
    GPT2_MAX_TOKENS = 65536,
    GPT2_MAX_VOCABULARY = 65536
};

typedef struct GPT2Config {
    int n_layer;                          /* L */
    int n_head;                           /* NH */
    int n_embd;                           /* C, a multiple of n_head */
    int block_size;                       /* T, the longest sequence */
    int vocab_size;                       /* V */
    bool bias;                            /* biases in the linear layers and LayerNorms */
    double dropout;                       /* only 0 so far */
    bool scale_attn_by_inverse_layer_idx; /* attention scores of layer l (from 0) are divided by l + 1 */
} GPT2Config;

/* Which activations the backward pass computes again instead of keeping them. */
typedef enum Recompute {
    RECOMPUTE_NONE,
    RECOMPUTE_MLP,  /* the 4C-wide hidden layer: half of a block's memory for a third of its forward FLOPs */
    RECOMPUTE_BLOCK /* everything but each block's input: the whole forward pass is done twice */
} Recompute;

#endif
