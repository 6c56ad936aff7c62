/* checkpoint_gpt2.h: reads published or saved weights into a model's memory. */
#ifndef MARS_CHECKPOINT_CHECKPOINT_GPT2_H
#define MARS_CHECKPOINT_CHECKPOINT_GPT2_H

#include "model/gpt2.h"
#include "util/safetensors.h"

EXTERN_C_BEGIN

/* Reads the weights from a safetensors file with GPT-2's names, and calls gpt2_params_changed(). Fails if a tensor is
 * missing, has another shape, or holds a number that is not finite in float32; the message names the tensor. */
bool checkpoint_load_gpt2(GPT2 *model, const SafetensorsFile *file, Error *error);

EXTERN_C_END

#endif
