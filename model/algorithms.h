/* algorithms.h: which algorithms multiply a run's matrices (backend.h): found by timing once, the same on all processes,
 * and kept in the checkpoint, so that a resumed run repeats bit for bit, and in a cache folder of the user, so that the
 * next run need not time them again. */
#ifndef MARS_MODEL_ALGORITHMS_H
#define MARS_MODEL_ALGORITHMS_H

#include "comm/comm.h"
#include "model/gpt2.h"
#include "optim/optim.h"

EXTERN_C_BEGIN

/* Takes up the choices in `text` (a checkpoint's; may be NULL) and those in the cache; what neither has process 0 times,
 * in a pass over a batch of `T` tokens a sequence whose results nobody uses and in the optimizer's matmuls. Then all
 * processes have the same. Returns them as text, which the caller frees; "" where the device does not choose. Weights
 * are to be there already; gradients are undefined afterwards. Collective. */
char *algorithms_settle(GPT2 *model, Optim *optim, Comm *comm, const char *text);

EXTERN_C_END

#endif
