/* gpt2_init.h: how weights start (the config's model.init). */
#ifndef MARS_MODEL_GPT2_INIT_H
#define MARS_MODEL_GPT2_INIT_H

#include "model/gpt2_config.h"
#include "util/tensor_table.h"

/* The purpose of a weight, which decides its initial values. In every scheme gains start as 1 and biases as 0. */
typedef enum WeightKind {
    WEIGHT_TOKEN_EMBEDDING,
    WEIGHT_POSITION_EMBEDDING,
    WEIGHT_LM_HEAD, /* of its own */
    WEIGHT_HIDDEN,
    WEIGHT_PROJECTION, /* a hidden matrix that writes to the residual stream: c_proj of attention and MLP */
    WEIGHT_KINDS
} WeightKind;

EXTERN_C_BEGIN

/* Sets tensor->init and init_scale by the config's scheme. */
void init_choose(Tensor *tensor, const GPT2Config *config, WeightKind kind);

/* Fills host memory, tensor->size numbers, as tensor->init says. Random numbers are a function of the seed, of
 * `stream`, which numbers the tensors that are not vectors, and of the element's index alone. */
void init_tensor(float *out, const Tensor *tensor, uint64_t seed, uint32_t stream);

EXTERN_C_END

#endif
