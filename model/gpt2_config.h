/* gpt2_config.h: the shape and kind of a model: the config file's "model" section. gpt2_config() is GPT-2 itself; the
 * other kinds of norm, position, activation and initialisation make models such as modded-nanogpt's. */
#ifndef MARS_MODEL_GPT2_CONFIG_H
#define MARS_MODEL_GPT2_CONFIG_H

#include <stdbool.h>

#include "kernels/layer_kinds.h"
#include "util/base.h"

/* The largest sizes: tokens have 16 bits, and products of a few sizes fit the 32-bit or 64-bit integers that hold
 * them. */
enum {
    GPT2_MAX_LAYERS = 1024,
    GPT2_MAX_HEADS = 1024,
    GPT2_MAX_CHANNELS = 65536,
    GPT2_MAX_TOKENS = 65536,
    GPT2_MAX_VOCABULARY = 65536
};

/* How a token's position reaches the model. */
typedef enum PositionKind {
    POSITION_LEARNED,  /* a table wpe is added to the token embedding */
    POSITION_ROPE,     /* queries and keys are rotated: frequencies rope_base^(-2i/HS), i = 0 .. HS/2-1 */
    POSITION_ROPE_HALF /* the same with rope_base^(-k/(HS/4-1)), k = 0 .. HS/4-1, and then HS/4 zeros */
} PositionKind;

/* How weights start: gpt2_init.c has the table. */
typedef enum ModelInit { MODEL_INIT_GPT2, MODEL_INIT_TORCH, MODEL_INIT_FAN_IN } ModelInit;

typedef struct GPT2Config {
    int n_layer;    /* L */
    int n_head;     /* NH */
    int n_embd;     /* C, a multiple of n_head */
    int block_size; /* T, the longest sequence */
    int vocab_size; /* V */
    bool bias;      /* biases in the linear layers and LayerNorms */
    double dropout; /* rate, in [0, 1), after the embedding, on attention weights and on each sublayer's output */
    bool scale_attn_by_inverse_layer_idx; /* attention scores of layer l (from 0) are divided by l + 1 */

    PositionKind position;
    double rope_base;
    NormKind norm;
    bool norm_gain; /* norms multiply by a weight */
    double norm_eps;
    bool norm_embedding; /* a norm, ln_emb, right after the embedding */
    bool qk_norm;        /* RMSNorm without gain over each head's query and key, before they are rotated */
    double qk_norm_eps;
    ActivationKind activation;
    bool tie_embeddings;           /* the LM head is the token embedding */
    bool lm_head_bias;             /* of an LM head of its own */
    double attention_scale;        /* on attention scores; 0: 1/sqrt(HS) */
    double attention_output_scale; /* on the output of each attention sublayer, its bias included */
    double logit_softcap;          /* c: a logit z counts as c z/sqrt(z^2 + c^2); 0: as it is */
    ModelInit init;
    bool zero_init_projections; /* the c_proj of attention and MLP start as zero */
    bool zero_init_lm_head;     /* an LM head of its own starts as zero */
} GPT2Config;

EXTERN_C_BEGIN

/* Returns GPT-2 of that shape with the config's defaults: no biases, attention scaled by inverse layer index. */
GPT2Config gpt2_config(int n_layer, int n_head, int n_embd, int block_size, int vocab_size);

/* The config's names of each kind, in the order of the enumerators; NULL ends the list. */
extern const char *const position_names[], *const norm_names[], *const activation_names[], *const model_init_names[];

/* Whether every size is in its range and the keys go together. If not, *concerned lists the keys, such as
 * "model.n_embd model.n_head"; the message begins with the first of them, without its section, and says the value found
 * and what was expected. Called for configs, and for models that come with weights. */
bool gpt2_config_check(const GPT2Config *config, const char **concerned, Error *error);

/* Whether transformers' GPT2LMHeadModel can compute the model: that class has settings for sizes, activation, epsilon,
 * tying and biases only. */
bool gpt2_config_is_gpt2(const GPT2Config *config);

EXTERN_C_END

/* Which activations the backward pass computes again instead of keeping them. */
typedef enum Recompute {
    RECOMPUTE_NONE,
    RECOMPUTE_MLP,  /* the 4C-wide hidden layer: half of a block's memory for a third of its forward FLOPs */
    RECOMPUTE_BLOCK /* everything but each block's input: the whole forward pass is done twice */
} Recompute;

#endif
