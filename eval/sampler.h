/* sampler.h: sample texts: every train.sample_interval steps rank 0 continues train.sample_prompt. Other ranks have no
 * sampler. */
#ifndef MARS_EVAL_SAMPLER_H
#define MARS_EVAL_SAMPLER_H

#include "config/config.h"
#include "model/gpt2.h"

EXTERN_C_BEGIN

typedef struct Sampler Sampler;

/* Opens the tokenizer that tokens.json in `tokens_folder` names, encodes train.sample_prompt, and adds the cache of keys and
 * values to the plan in model->arena: it comes between gpt2_plan() and gpt2_allocate(). NULL and the reason, with the
 * key's name, where the tokenizer is not known or cannot encode, or the prompt is not UTF-8, has tokens that the model
 * lacks, or does not fit its context. */
Sampler *sampler_plan(const Config *config, const char *tokens_folder, GPT2 *model, Error *error);
void sampler_close(Sampler *sampler);

/* The text that the model now writes after the prompt, which the caller frees. It depends on the weights, train.seed and
 * `step` alone. U+FFFD stands for each byte 0 and for what is not UTF-8. Changes nothing that training reads. NULL and
 * the reason if the model computes logits that are not finite, or a signal asks the run to stop meanwhile. */
char *sampler_text(Sampler *sampler, int64_t step, Error *error);

EXTERN_C_END

#endif
