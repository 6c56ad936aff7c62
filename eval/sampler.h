/* sampler.h: sample texts: every train.sample_interval steps rank 0 continues train.sample_prompt. Other ranks have no
 * sampler. */
#ifndef MARS_EVAL_SAMPLER_H
#define MARS_EVAL_SAMPLER_H

#include "config/config.h"
#include "model/gpt2.h"

EXTERN_C_BEGIN

typedef struct Sampler Sampler;

/* Opens the tokenizer that tokens.json in `tokens_folder` names, encodes train.sample_prompt, and adds the cache of
 * keys and values to the plan in model->arena: call it between gpt2_plan() and gpt2_allocate(). Returns NULL and a
 * message with the key's name if the tokenizer is not known or cannot encode, or if the prompt is not UTF-8, has tokens
 * that the model lacks, or is longer than block_size. The plan may then list memory of a sampler that is gone, so the
 * model must not be allocated. */
Sampler *sampler_plan(const Config *config, const char *tokens_folder, GPT2 *model, Error *error);
void sampler_close(Sampler *sampler);

/* Returns the text that the model writes after the prompt; the caller frees it. The text depends only on the weights,
 * train.seed and `step`. U+FFFD replaces bytes 0 and bytes that are not UTF-8. Changes nothing that training reads.
 * Returns NULL and the reason if logits are not finite, or if a signal to stop arrives. In a job of several GPUs the
 * caller must have called optim_wait_for_weights() for all weights since the last optimizer step. */
char *sampler_text(Sampler *sampler, int64_t step, Error *error);

EXTERN_C_END

#endif
