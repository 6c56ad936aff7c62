/* optim.h: one optimizer step, whatever the optimizer and however many processes share it. A program that trains
 * something else can use it too: it is the header of libmarsopt.a (cc program.c $(make -s marsopt-flags);
 * dev/examples/train_classifier.c shows how).
 *
 * An optimizer sees a list of tensors in flat buffers (util/tensor_table.h), never a model. The tensors form one or two
 * groups, each under one rule (rules.h). The step is sharded, as in ZeRO-1 (Rajbhandari et al. 2020): each process owns
 * some elements (partition.h), keeps optimizer state for those alone, and a step is
 *   1. gradients are reduced into their owners,
 *   2. one pass over the owned gradients gives every tensor's sums, added up over processes: the global norm, and with
 *      it the clip, and each tensor's ||c|| (mars.h) are exact also for a tensor that is split between owners,
 *   3. master weights, states and the weight copy are updated: one pass for an elementwise rule, a pass before and one
 *      after Newton-Schulz for a matrix rule,
 *   4. the new weights are gathered.
 *
 * A rule with g_prev keeps it by exchanging buffers, so the buffer that the next gradient belongs in changes:
 * optim_gradients() says which it is. The exact forms of MARS take a second gradient in each step:
 *
 *     gradient of batch t            -> optim_gradients(o)
 *     if (optim_wants_next_gradient(o)) {
 *         optim_hold_gradient(o);
 *         gradient of batch t + 1    -> optim_gradients(o)        at the same weights
 *     }
 *     optim_step(o, rates);
 *
 * All that a step decides (the clip, whether a gradient is finite, each tensor's numbers) is decided on the device, in
 * step_coeffs.h, so the host need not wait. A trainer on a GPU enqueues steps ahead of their results and moves
 * gradients and weights in parallel with its own work:
 *
 *     while the last backward pass runs, from the end of the flat buffer to its beginning:
 *         optim_gradient_ready(o, first element from which on the gradient is final)
 *     optim_begin_step(o, rates);
 *     before a forward pass touches weights [begin, end):
 *         optim_wait_for_weights(o, begin, end)
 *     result = optim_end_step(o);                                 up to OPTIM_MAX_STEPS later */
#ifndef MARS_OPTIM_OPTIM_H
#define MARS_OPTIM_OPTIM_H

#include "comm/comm.h"
#include "kernels/backend.h"
#include "optim/optim_config.h"
#include "optim/schedule.h"
#include "util/arena.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

typedef struct Optim Optim;

/* Flat device buffers of table.length elements, owned by the caller. */
typedef struct OptimBuffers {
    float *params; /* master weights; after a step, up to date in the owned range (everywhere for float32) */
    void *weights; /* their copy in the backend's activation type, or params itself; up to date everywhere */
    float *grads;  /* where optim_gradients() points to at first */
} OptimBuffers;

/* The learning rates of one step. */
typedef struct OptimRates {
    double learning_rate;
    double muon_learning_rate; /* muon only */
} OptimRates;

/* What a step did. */
typedef struct OptimResult {
    double grad_norm;     /* global norm after gradient_scale, before clipping */
    int nonfinite_tensor; /* index of the first tensor whose gradient is not finite, and then nothing was changed;
                           * else -1 */
    bool of_next_batch;   /* exact MARS: and it is the second gradient; it will be met again as the next step's first */
} OptimResult;

/* The names of the optimizers, in the order of OptimName, ending with NULL. */
extern const char *const optim_names[];

/* The optimizer of that name, "sgd-boost" being another name of "sgd-sai"; OPTIM_COUNT where there is none. */
OptimName optim_find(const char *name);

/* A config with the defaults of the config file's table, and this rate for all that the optimizer updates. */
OptimConfig optim_defaults(OptimName name, double learning_rate);

/* All arguments must outlive the optimizer. `comm` is the one for be's device. State is zero. NULL and the reason where
 * the device cannot do it. */
Optim *optim_open(const OptimConfig *config, const TensorTable *table, OptimBuffers buffers, Backend *be, Comm *comm,
                  Error *error);
void optim_close(Optim *optim);

/* The same in two parts, for a program that plans all its memory before it takes any. optim_plan() lists what the
 * optimizer needs in `arena`: its state in the group "optimizer", what a step works in in "workspace". After
 * arena_allocate(), optim_start() makes it ready for a first step. The arena is freed by the caller, after
 * optim_close(). Where the device cannot do it, nothing was listed. */
Optim *optim_plan(const OptimConfig *config, const TensorTable *table, Backend *be, Comm *comm, Arena *arena,
                  Error *error);
void optim_start(Optim *optim, OptimBuffers buffers);

/* The rates at a 0-based step of a schedule. */
OptimRates optim_rates(const OptimConfig *config, const ScheduleConfig *schedule, int64_t step);

/* Where this process's own next gradient belongs: a flat buffer on the device, which holds undefined values. Asked anew
 * after each step was begun, and after optim_hold_gradient(). */
float *optim_gradients(const Optim *optim);

/* The gradient in optim_gradients() is final on this process from element `from` of the flat buffer on, to its end:
 * what was not announced before begins to move to its owners. `from` falls from call to call, and is the same on every
 * process. A step, or optim_hold_gradient(), moves what was never announced. Collective. */
void optim_gradient_ready(Optim *optim, size_t from);

/* True for the exact forms of MARS. optim_hold_gradient() (collective) sets the gradient of this step's batch aside. */
bool optim_wants_next_gradient(const Optim *optim);
void optim_hold_gradient(Optim *optim);

/* One update with the gradient, or gradients, that were left in optim_gradients(). On return the device has done it,
 * and all weights are there. Collective. */
OptimResult optim_step(Optim *optim, OptimRates rates);

/* The same without waiting: optim_begin_step() asks the device for it, and optim_end_step() returns what the oldest
 * step did that was begun and not ended, when that is known. Up to OPTIM_MAX_STEPS may be begun and not ended. A step
 * after one that was skipped goes on from where that one found things, like any other. */
enum { OPTIM_MAX_STEPS = 2 };
void optim_begin_step(Optim *optim, OptimRates rates);
OptimResult optim_end_step(Optim *optim);

/* What is asked of the device from here on finds elements [begin, end) of the weights as the last step that was begun
 * left them. In a job of one process, and on CPUs, they always are. */
void optim_wait_for_weights(Optim *optim, size_t begin, size_t end);

/* Goes once through this process's matmuls of Newton-Schulz, on random matrices, for be->autotune(). Changes nothing
 * that lasts. */
void optim_autotune(Optim *optim);

/* Updates made so far: skipped steps do not count. Waits for the steps that were begun, as all that follows does. */
int64_t optim_updates(const Optim *optim);
void optim_set_updates(Optim *optim, int64_t updates);

/* ---- state, for checkpoints ---- */

/* The states: their number and names ("m", "v", "g_last"). Not every tensor has every state. */
int optim_state_count(const Optim *optim);
const char *const *optim_state_names(const Optim *optim);
bool optim_has_state(const Optim *optim, int state, int tensor);

/* Copies tensor `tensor` of state number `state`, or of the master weights where state is -1, to host memory on
 * process 0, from whoever owns its parts. Collective; `host` is used on process 0 only. */
void optim_fetch(Optim *optim, int state, int tensor, float *host);

/* Sets this process's part of a state tensor from host memory that holds the whole tensor. */
void optim_store(Optim *optim, int state, int tensor, const float *host);

/* State of one number per tensor ("snr"): how many kinds there are, their names, and table.count numbers of each, the
 * same on every process. optim_scalars() are host copies, up to date when it returns; setting is
 * optim_store_scalars()'s business. */
int optim_scalar_count(const Optim *optim);
const char *const *optim_scalar_names(const Optim *optim);
double *const *optim_scalars(Optim *optim);
void optim_store_scalars(Optim *optim, int kind, const double *values);

/* Bytes that this process holds: of state; and of what a step works in: further gradient buffers and Newton-Schulz's
 * workspace. */
size_t optim_state_bytes(const Optim *optim);
size_t optim_workspace_bytes(const Optim *optim);
/* What of the workspace an exact form has more than its approximate one. */
size_t optim_exact_bytes(const Optim *optim);

EXTERN_C_END

#endif
