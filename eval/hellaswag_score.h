/* hellaswag_score.h: scores a model on HellaSwag (data/hellaswag.h) by the likelihood that it gives to each ending. */
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

/* Scores all examples, which the processes share, `batch` endings at a time (at most the model's batch size). A text
 * that is longer than the model's block_size loses its beginning. Does not change the model's loss sum. In a job of
 * several GPUs the caller must have called optim_wait_for_weights() for all weights since the last optimizer step.
 * Collective. */
HellaswagScore hellaswag_score(GPT2 *model, const Hellaswag *set, int batch, Comm *comm);

EXTERN_C_END

#endif
