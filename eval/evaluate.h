/* evaluate.h: mean losses over all processes, of a step's batches and of a validation set. */
#ifndef MARS_EVAL_EVALUATE_H
#define MARS_EVAL_EVALUATE_H

#include "comm/comm.h"
#include "data/loader.h"
#include "model/gpt2.h"

EXTERN_C_BEGIN

/* Returns the mean of the token losses that forward passes have added up, over all processes. Waits for the device. */
double evaluate_mean_loss(GPT2 *model, Comm *comm);

/* Computes the mean loss over the loader's first `sequences` sequences in batches of `batch`, which the processes
 * share. Fails on every process if any of them cannot read its batches; *error is empty on processes that could. */
bool evaluate_sequences(GPT2 *model, Loader *loader, int64_t sequences, int batch, Comm *comm, double *loss,
                        Error *error);

EXTERN_C_END

#endif
