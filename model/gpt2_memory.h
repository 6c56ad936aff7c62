/* gpt2_memory.h: whether a planned model fits the device's memory, and what would. */
#ifndef MARS_MODEL_GPT2_MEMORY_H
#define MARS_MODEL_GPT2_MEMORY_H

#include "model/gpt2.h"

EXTERN_C_BEGIN

/* True where the plan in model->arena, others' additions included, fits what the device has left for this process, or that
 * is not known. Else the error says which batch sizes would fit, of those that divide `sequences`, the process's share of
 * a step, and whether recomputing activations would help. */
bool gpt2_memory_fits(const GPT2 *model, int sequences, Error *error);

/* The same of the weights and gradients alone, which no batch size makes smaller. An optimizer's plan takes host memory
 * in proportion to them: ask this before it is made. */
bool gpt2_weights_fit(const GPT2 *model, Error *error);

/* Whether there is room for a model that was planned to decode with, where its decoder is in the plan, too. */
bool gpt2_decoding_fits(const GPT2 *model, Error *error);

EXTERN_C_END

#endif
