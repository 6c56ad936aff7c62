/* rope.h: the rotations of queries and keys by position (Su et al. 2021), for each kind of position that has them. */
#ifndef MARS_MODEL_ROPE_H
#define MARS_MODEL_ROPE_H

#include <stddef.h>

#include "model/gpt2_config.h"

EXTERN_C_BEGIN

/* How many floats rope_fill() writes; 0 where positions are learned. */
size_t rope_length(const GPT2Config *config);

/* rotation (block_size,HS/2,2) in host memory: {cos, sin} of each position and pair of a head's HS elements, as
 * qk_norm_rope_forward() (backend.h) reads it. */
void rope_fill(float *rotation, const GPT2Config *config);

EXTERN_C_END

#endif
