/* optim.h: one optimizer step, whatever the optimizer and however many ranks share it. A program that trains something
 * else can use it too: it is the header of libmarsopt.a and libmarsopt.so, which export what is declared here and in
 * optim_config.h (cc program.c $(make -s marsopt-flags); dev/examples/train_classifier.c and dev/examples/marsopt.py show
 * how). Such a program opens an optimizer by optim_open(). A fatal error, such as a call in the wrong order or memory that
 * runs out, prints a message and ends the program with status 1.
 *
 * An optimizer sees a list of tensors in flat buffers (util/tensor_table.h), never a model. Which rule updates a tensor,
 * and with which learning rate, betas and decay, follows from its role and the optimizer's parameter groups
 * (optimizers.h). The step is sharded, as in ZeRO-1 (Rajbhandari et al. 2020): each rank owns some elements
 * (util/partition.h), keeps optimizer state for those alone, and a step is
 *   1. gradients are reduced into their owners,
 *   2. one pass over the owned gradients gives every tensor's sums, added up over ranks: the global norm, and with it
 *      the clip, and each tensor's ||c|| (rules/mars.h) are exact also for a tensor that is split between owners,
 *   3. master weights, states and the weight copy are updated: one pass for an elementwise rule, a pass before and one
 *      after Newton-Schulz for a matrix rule,
 *   4. the new weights are gathered.
 *
 * All that a step decides (the clip, whether a gradient is finite, each tensor's coefficients) is decided on the device,
 * in step_coeffs.h, so the host need not wait. A step of a training loop is
 *
 *     for (int which = 0; which < optim_info(o)->gradients; which++) {       1; in the exact forms of MARS 2
 *         float *grads = optim_gradient(o, which);
 *         the backward pass of batch t + which writes grads, from the end of the flat buffer to its beginning, and calls
 *             optim_gradient_ready(o, first element from which on the gradient is final)
 *     }
 *     optim_step(o, rates);
 *     before a forward pass reads weights [begin, end):
 *         optim_wait_for_weights(o, begin, end)
 *     result = optim_result(o);                                   up to OPTIM_MAX_STEPS later */
#ifndef MARS_OPTIM_OPTIM_H
#define MARS_OPTIM_OPTIM_H

#include <stddef.h>
#include <stdint.h>

#include "optim/optim_config.h"
#include "util/error.h"
#include "util/tensor_role.h"

EXTERN_C_BEGIN

typedef struct Optim Optim;

/* Of comm/comm.h, kernels/backend.h, util/arena.h and util/tensor_table.h. These are not included, so that a program of
 * its own may use names such as die and warn. */
typedef struct Comm Comm;
typedef struct Backend Backend;
typedef struct Arena Arena;
typedef struct TensorTable TensorTable;

/* Flat device buffers of table.length elements, owned by the caller. */
typedef struct OptimBuffers {
    float *params; /* master weights; after a step, up to date in the owned range (everywhere for float32) */
    void *weights; /* their copy in the backend's activation type, or params itself; up to date everywhere */
    float *grads;  /* what optim_gradient() returns at first */
} OptimBuffers;

/* The learning rate of each parameter group in one step. */
typedef struct OptimRates {
    double lr[OPTIM_MAX_GROUPS];
} OptimRates;

/* What a step did. */
typedef struct OptimResult {
    double grad_norm;     /* global norm after gradient_scale, before clipping */
    int nonfinite_tensor; /* index of the first tensor whose gradient is not finite, and then nothing was changed;
                           * else -1 */
    bool of_next_batch;   /* exact MARS: it is the second gradient, which comes again as the first of the next step */
} OptimResult;

/* Of one tensor in one step. */
typedef struct TensorNorms {
    double gradient; /* after gradient_scale, before clipping; in the exact forms of MARS that of this step's batch */
    double update;   /* of x_new - x_old, master weights; 0 where the step was skipped */
    double weight;   /* of x_new */
} TensorNorms;

typedef struct OptimNorms {
    double clip;          /* the global clip multiplied gradients by this, in (0, 1]; undefined in a skipped step */
    TensorNorms *tensors; /* (table.count) */
} OptimNorms;

enum { OPTIM_MAX_STATES = 8, OPTIM_MAX_SCALARS = 4 };

/* What an optimizer needs and keeps; it does not change after optim_plan() and optim_plan_norms(). */
typedef struct OptimInfo {
    int gradients; /* of a step: 1; in the exact forms of MARS 2, of this step's batch and of the next one's */
    int state_count;
    const char *state_names[OPTIM_MAX_STATES]; /* "m", "v", "g_last"; not every tensor has every state */
    int scalar_count;
    const char *scalar_names[OPTIM_MAX_SCALARS]; /* of states of one number per tensor: "snr" */
    /* of this rank: of state; of further gradient buffers, Newton-Schulz's workspace and optim_plan_norms()'s copy; and
     * what of that the exact form has more than the approximate one */
    size_t state_bytes, workspace_bytes, exact_bytes;
} OptimInfo;

/* ---- opening ---- */

/* Lists what the optimizer needs in `arena`: its state in the group "optimizer", what a step works in in "workspace". All
 * arguments must outlive the optimizer. `comm` is the one for be's device. NULL and the reason where the device cannot do
 * it, and then nothing is listed. */
Optim *optim_plan(const OptimConfig *config, const TensorTable *table, Backend *be, Comm *comm, Arena *arena,
                  Error *error);

/* Between optim_plan() and arena_allocate(): lists what optim_step_with_norms() needs, in "workspace": a copy of the
 * parameters that this rank owns, and sums. */
void optim_plan_norms(Optim *optim, Arena *arena);

/* After arena_allocate(): makes the optimizer ready for a first step, with state zero. The caller frees the arena, after
 * optim_close(). */
void optim_start(Optim *optim, OptimBuffers buffers);
void optim_close(Optim *optim);

/* A tensor of a program that has no table of its own. */
typedef struct OptimTensor {
    const char *name; /* shorter than TENSOR_NAME_LENGTH */
    TensorRole role;
    int64_t rows, columns; /* (out, in), not 0; a vector has rows = 1 */
    int stacked;           /* with split_qkv: matrices that lie above one another in it; 0 is 1; divides rows */
} OptimTensor;

/* An optimizer in one process on the CPU, in float32, with `threads` threads (0: as many as cores), that owns its
 * buffers: parameters, zero at first, and gradients. Tensor i begins at element optim_offset(o, i) of either. */
Optim *optim_open(const OptimConfig *config, const OptimTensor *tensors, int count, int threads, Error *error);
float *optim_params(const Optim *optim);
size_t optim_offset(const Optim *optim, int tensor);

const OptimInfo *optim_info(const Optim *optim);

/* ---- a step ---- */

/* The learning rates at a 0-based step of a schedule. */
OptimRates optim_rates(const OptimConfig *config, const ScheduleConfig *schedule, int64_t step);

/* The same by the role of tensors: lr[role] is the rate of the parameter group that takes tensors of that role, -1 where
 * the table has none. */
void optim_rates_by_role(const OptimConfig *config, const TensorTable *table, const OptimRates *rates,
                         double lr[ROLE_COUNT]);

/* Begins gradient `which` of the next step and returns the flat buffer on the device that this rank's own gradient
 * belongs in; it holds undefined values. Collective where it begins the second one: the first then is whole. The address
 * changes from step to step. */
float *optim_gradient(Optim *optim, int which);

/* The gradient that was begun is final on this rank from element `from` of the flat buffer on, to its end: starts the
 * reduce-scatter of what was not announced before. `from` falls from call to call, and is the same on every rank.
 * Optional: a step takes what was never announced. Collective. */
void optim_gradient_ready(Optim *optim, size_t from);

/* Enqueues one update with the gradient, or gradients, of this step. Up to OPTIM_MAX_STEPS may be enqueued whose results
 * were not taken. A step after one that was skipped goes on from where that one found things, like any other.
 * Collective. */
enum { OPTIM_MAX_STEPS = 2 };
void optim_step(Optim *optim, OptimRates rates);

/* optim_step() that also measures norms, exactly over all ranks: sums of squares over owned elements, in double, in an
 * order that is always the same. The update has the same bits. Needs optim_plan_norms(). Collective. */
void optim_step_with_norms(Optim *optim, OptimRates rates);

/* The norms of the step that was enqueued last, which must have been an optim_step_with_norms(); waits until it has
 * ended. The same on every rank, and not collective. The optimizer owns the list, which is valid until the next call. */
const OptimNorms *optim_norms(Optim *optim);

/* The result of the oldest step whose result was not taken; waits until it is known. */
OptimResult optim_result(Optim *optim);

/* Operations enqueued from here on read elements [begin, end) of the weights as the last step left them. In a job of one
 * process, and on CPUs, they always do. */
void optim_wait_for_weights(Optim *optim, size_t begin, size_t end);

/* Runs this rank's matmuls of Newton-Schulz once, on random matrices, for be->autotune(). Changes no parameter and no
 * state. */
void optim_autotune(Optim *optim);

/* ---- state, for checkpoints: these wait for the steps that were enqueued ---- */

/* Updates made so far: skipped steps do not count. */
int64_t optim_updates(const Optim *optim);
void optim_set_updates(Optim *optim, int64_t updates);

bool optim_has_state(const Optim *optim, int state, int tensor);

/* Copies tensor `tensor` of state number `state`, or of the master weights where state is -1, to host memory on rank 0,
 * from the ranks that own its parts. Collective; `host` is used on rank 0 only. */
void optim_fetch(Optim *optim, int state, int tensor, float *host);

/* Sets this rank's part of a state tensor from host memory that holds the whole tensor. */
void optim_store(Optim *optim, int state, int tensor, const float *host);

/* Copies the table.count numbers of a state of one number per tensor to or from host memory; they are the same on every
 * rank. */
void optim_fetch_scalars(Optim *optim, int scalar, double *host);
void optim_store_scalars(Optim *optim, int scalar, const double *host);

EXTERN_C_END

#endif
