/* hellaswag_score.h: how well a model finishes sentences: HellaSwag's examples (data/hellaswag.h) by likelihood. */
#ifndef MARS_EVAL_HELLASWAG_SCORE_H
#define MARS_EVAL_HELLASWAG_SCORE_H

#include "comm/comm.h"
#include "data/hellaswag.h"
#include "model/gpt2.h"

typedef struct HellaswagScore {
    int64_t examples;
    double accuracy;      /* share of examples whose right ending is the most likely: least sum of its tokens' losses */
    double accuracy_norm; /* the same by the mean over its tokens, so that length does not count: the figure of llm.c's
                             dev/data/hellaswag.py, 0.2955 for GPT-2 124M. EleutherAI's harness divides by an ending's
                             characters and cleans the text: its acc_norm, 0.3114 there, is another figure. */
} HellaswagScore;

EXTERN_C_BEGIN

/* All examples, dealt out to processes, `batch` (at most the model's) endings at a time. What is longer than the model's
 * block_size loses its beginning. The model's loss sum stays as it is. */
HellaswagScore hellaswag_score(GPT2 *model, const Hellaswag *set, int batch, Comm *comm);

EXTERN_C_END

#endif
