/* gpt2_shape.h: the initializer of a GPT2Config that is GPT-2 itself, for tables of cases; elsewhere gpt2_config() does
 * the same. */
#ifndef MARS_DEV_TEST_MODEL_GPT2_SHAPE_H
#define MARS_DEV_TEST_MODEL_GPT2_SHAPE_H

#include "model/gpt2_config.h"

#define GPT2_SHAPE(L, NH, C, T, V, has_bias, is_scaled)                                                          \
    {                                                                                                            \
        .n_layer = L, .n_head = NH, .n_embd = C, .block_size = T, .vocab_size = V, .bias = has_bias,             \
        .scale_attn_by_inverse_layer_idx = is_scaled, .rope_base = 10000.0, .norm_gain = true, .norm_eps = 1e-5, \
        .qk_norm_eps = 1e-5, .tie_embeddings = true, .attention_output_scale = 1.0                               \
    }

#endif
