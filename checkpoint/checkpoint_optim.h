/* checkpoint_optim.h: writes an optimizer's state to a checkpoint and reads it back. */
#ifndef MARS_CHECKPOINT_CHECKPOINT_OPTIM_H
#define MARS_CHECKPOINT_CHECKPOINT_OPTIM_H

#include "checkpoint/checkpoint.h"
#include "optim/optim.h"

EXTERN_C_BEGIN

/* Fills in `source` so that checkpoint_save() takes weights and state from `optim`, which must outlive it. */
void checkpoint_from_optim(CheckpointSource *source, OptimName name, Optim *optim);

/* Reads the state of `optim` from the checkpoint: the states of each tensor, the states of one number per tensor, and
 * the number of updates. Not the weights: checkpoint_load_gpt2() reads them. Fails if another optimizer wrote the
 * checkpoint, or if it lacks a state that this one needs. A run may go on with another is_approx; the prev_grad of its
 * first step is then that of the other form. */
bool checkpoint_into_optim(const Checkpoint *checkpoint, const TensorTable *table, OptimName name, Optim *optim,
                           Error *error);

/* Reads the average of optim_plan_ema() from the checkpoint. Fails if the checkpoint has none. */
bool checkpoint_into_ema(const Checkpoint *checkpoint, const TensorTable *table, Optim *optim, Error *error);

EXTERN_C_END

#endif
