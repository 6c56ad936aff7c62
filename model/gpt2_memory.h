/* gpt2_memory.h: whether a planned model fits the device's memory, and what would. */
#ifndef MARS_MODEL_GPT2_MEMORY_H
#define MARS_MODEL_GPT2_MEMORY_H

#include "model/gpt2.h"

EXTERN_C_BEGIN

/* True where the plan in model->arena, others' additions included, fits what the device has left, or that is not known.
 * Else the error says which batch sizes would fit, of those that divide `sequences`, the process's share of a step, and
 * whether recomputing activations would help. */
bool gpt2_memory_fits(const GPT2 *model, int sequences, Error *error);

EXTERN_C_END

#endif
