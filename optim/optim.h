/* optim.h: one optimizer step, whatever the optimizer and however many processes share it.
 *
 * An optimizer sees a list of tensors in flat buffers (util/tensor_table.h), never a model. The step is sharded, as in
 * ZeRO-1 (Rajbhandari et al. 2020): each process owns the elements [bounds[rank], bounds[rank+1]) of every flat buffer,
 * keeps optimizer state for those alone, and a step is
 *   1. gradients are reduced into their owners,
 *   2. one pass over the owned gradients gives the sum of squares of every tensor, summed over processes: the global
 *      norm, and with it the clip, is exact also for a tensor that is split between owners,
 *   3. one pass updates master weights, state and the weight copy,
 *   4. the new weights are gathered.
 * Only this module knows the bounds. An elementwise rule splits the buffer evenly; a rule that needs whole matrices will
 * put its bounds between tensors instead, and nothing else changes. A rule that also takes the next batch's gradient at
 * the present weights will have it reduced into a second owned range before step 2, by a call of its own: gradients
 * reach this module through `buffers.grads` only, so the trainer can fill them as often as a rule asks.
 *
 * An elementwise rule is one inline function of one element in a small header (adamw.h); multi_tensor.c makes loops of
 * it and enters them in its table of rules. */
#ifndef MARS_OPTIM_OPTIM_H
#define MARS_OPTIM_OPTIM_H

#include "comm/comm.h"
#include "kernels/backend.h"
#include "optim/optim_config.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

typedef struct Optim Optim;

/* Flat device buffers of table.length elements, owned by the caller. */
typedef struct OptimBuffers {
    float *params; /* master weights; on return of a step, up to date in the owned range (everywhere for float32) */
    void *weights; /* their copy in the backend's activation type, or params itself; up to date everywhere */
    float *grads;  /* each process's own gradient; a step leaves it undefined */
} OptimBuffers;

/* What a step did. */
typedef struct OptimResult {
    double grad_norm;     /* global norm after gradient_scale, before clipping */
    int nonfinite_tensor; /* index of the first tensor whose gradient is not finite, and then nothing was changed;
                           * else -1 */
} OptimResult;

/* The names of the optimizers, in the order of OptimName, ending with NULL. */
extern const char *const optim_names[];

/* All arguments must outlive the optimizer. State is zero. */
Optim *optim_open(const OptimConfig *config, const TensorTable *table, OptimBuffers buffers, Backend *be, Comm *comm);
void optim_close(Optim *optim);

/* One update with the scheduled rate `learning_rate`. Collective. */
OptimResult optim_step(Optim *optim, double learning_rate);

/* Updates made so far: skipped steps do not count. */
int64_t optim_updates(const Optim *optim);
void optim_set_updates(Optim *optim, int64_t updates);

/* The state buffers, for checkpoints: their number and names ("m", "v"). */
int optim_state_count(const Optim *optim);
const char *const *optim_state_names(const Optim *optim);

/* Bytes of state that this process holds. */
size_t optim_state_bytes(const Optim *optim);

/* Copies tensor `tensor` of state number `state`, or of the master weights where state is -1, to host memory on
 * process 0, from whoever owns its parts. Collective; `host` is used on process 0 only. */
void optim_fetch(Optim *optim, int state, int tensor, float *host);

/* Sets this process's part of a state tensor from host memory that holds the whole tensor. */
void optim_store(Optim *optim, int state, int tensor, const float *host);

EXTERN_C_END

#endif
