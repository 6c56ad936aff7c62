/* evaluate.h: losses over all processes: of the batches that a step computed, and of a validation set. */
#ifndef MARS_EVAL_EVALUATE_H
#define MARS_EVAL_EVALUATE_H

#include "comm/comm.h"
#include "data/loader.h"
#include "model/gpt2.h"

EXTERN_C_BEGIN

/* The mean of the token losses that passes have added up, on all processes. Waits for the device. */
double evaluate_mean_loss(GPT2 *model, Comm *comm);

/* The mean loss over the loader's first `sequences` sequences, `batch` at a time, batches dealt out to processes. Fails on
 * every process if any of them cannot read its batches; *error is empty on those that could. */
bool evaluate_sequences(GPT2 *model, Loader *loader, int64_t sequences, int batch, Comm *comm, double *loss,
                        Error *error);

EXTERN_C_END

#endif
