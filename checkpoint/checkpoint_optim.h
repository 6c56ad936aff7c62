/* checkpoint_optim.h: an optimizer's state into a checkpoint and out of one. */
#ifndef MARS_CHECKPOINT_CHECKPOINT_OPTIM_H
#define MARS_CHECKPOINT_CHECKPOINT_OPTIM_H

#include "checkpoint/checkpoint.h"
#include "optim/optim.h"

EXTERN_C_BEGIN

/* Makes `optim` what checkpoint_save() takes weights and state from. It must outlive `source`. */
void checkpoint_from_optim(CheckpointSource *source, OptimName name, Optim *optim);

/* Sets the state of `optim` to what the checkpoint holds. Fails where another optimizer wrote it, or a state that this
 * one needs is not there. A run may go on with another is_approx; its first step then has the g_last of the other form.
 */
bool checkpoint_into_optim(const Checkpoint *checkpoint, const TensorTable *table, OptimName name, Optim *optim,
                           Error *error);

/* Sets the average of optim_plan_ema() to the checkpoint's. Fails where that has none. */
bool checkpoint_into_ema(const Checkpoint *checkpoint, const TensorTable *table, Optim *optim, Error *error);

EXTERN_C_END

#endif
