/* evaluate.h: mean losses over all processes, of a step's batches and of a validation set. */
#ifndef MARS_EVAL_EVALUATE_H
#define MARS_EVAL_EVALUATE_H

#include "comm/comm.h"
#include "data/loader.h"
#include "model/gpt2.h"

EXTERN_C_BEGIN

/* Returns the mean loss over all tokens, over all processes, of the forward passes since the loss sum was last taken or
 * forgotten. Passes with ignores_loss do not count; every other token counts alike. Takes the sum: a second call
 * without a pass in between returns NaN. Waits for the device. Collective. */
double evaluate_mean_loss(GPT2 *model, Comm *comm);

/* Computes the mean loss over the loader's first `sequences` sequences in batches of `batch`, which the processes
 * share. Forgets the loss sum of earlier passes. `sequences` is from 1 to the number of windows
 * (loader_window_count()), which the caller checks: with 0 the loss is NaN, and of more sequences than windows some
 * count twice. The caller also replaces train.eval_sequences 0 by the number of windows.
 *
 * Fails on every process if any of them cannot read its batches; *error is empty on processes that could. *loss is then
 * not set on any process. In a job of several GPUs the caller must have called optim_wait_for_weights() for all weights
 * since the last optimizer step. Collective. */
bool evaluate_sequences(GPT2 *model, Loader *loader, int64_t sequences, int batch, Comm *comm, double *loss,
                        Error *error);

EXTERN_C_END

#endif
