/* gpt2_memory.h: checks whether a planned model fits the device's memory, and finds a batch size that fits. */
#ifndef MARS_MODEL_GPT2_MEMORY_H
#define MARS_MODEL_GPT2_MEMORY_H

#include "model/gpt2.h"

EXTERN_C_BEGIN

/* Returns true if the whole plan in model->arena fits the memory that the device has left for this process, or if that
 * is not known. Otherwise the error says which batch sizes would fit, of those that divide `sequences`, the process's
 * share of a step, and whether recomputing activations would help.
 *
 * Call it when everything is planned, before gpt2_allocate(). The memory left is this rank's equal part of what is free
 * when it asks, so every rank of a machine must ask before any of them allocates. The same holds for
 * gpt2_weights_fit(). */
bool gpt2_memory_fits(const GPT2 *model, int sequences, Error *error);

/* The same for the weights and gradients alone, which no batch size makes smaller. Call it before optim_plan(), which
 * takes host memory in proportion to them. */
bool gpt2_weights_fit(const GPT2 *model, Error *error);

/* Whether there is room for a model that was planned for decoding, with its decoder in the plan. */
bool gpt2_decoding_fits(const GPT2 *model, Error *error);

EXTERN_C_END

#endif
