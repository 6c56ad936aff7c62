/* optim.h: the optimizer step, for all optimizers and any number of ranks. Other programs can use it too: this is the
 * header of libmarsopt.a and libmarsopt.so, which export what is declared here and in optim_config.h
 * (cc program.c $(make -s marsopt-flags); dev/examples/train_classifier.c and dev/examples/marsopt.py show how). Such a
 * program opens an optimizer by optim_open(). A fatal error, such as a call in the wrong order or memory that runs out,
 * prints a message and ends the program with status 1.
 *
 * An optimizer sees a list of tensors in flat buffers (util/tensor_table.h), never a model. Which rule updates a
 * tensor, and with which learning rate, betas and decay, follows from its role and the optimizer's parameter groups
 * (optimizers.h). The step is sharded, as in ZeRO-1 (Rajbhandari et al. 2020): each rank owns some elements
 * (util/partition.h), keeps optimizer state for those alone, and a step is
 *   1. gradients are summed over ranks into their owners, not averaged: each rank writes its share of the gradient of
 *      the mean over all tokens of the step (with N ranks and equal batches, its own mean's gradient times 1/N),
 *   2. one pass over the owned gradients gives every tensor's sums, added up over ranks: the global norm, and with it
 *      the clip, and each tensor's ||c|| (rules/mars.h) are exact also for a tensor that is split between owners,
 *   3. master weights, states and the weight copy are updated: one pass for an elementwise rule, a pass before and one
 *      after Newton-Schulz for a matrix rule, with one more between the last two in NorMuon,
 *   4. the new weights are gathered.
 *
 * All that a step decides (the clip, whether a gradient is finite, each tensor's coefficients) is decided on the
 * device, in step_coeffs.h, so the host need not wait. A step of a training loop is
 *
 *     for (int which = 0; which < optim_info(o)->gradients; which++) {       1; in the exact forms of MARS 2
 *         float *grads = optim_gradient(o, which);
 *         the backward pass of batch t + which writes grads, from the end of the flat buffer to its beginning, and
 *         calls optim_gradient_ready(o, first element from which on the gradient is final)
 *     }
 *     optim_step(o, rates, false);
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

/* Declared in comm/comm.h, kernels/backend.h, util/arena.h and util/tensor_table.h, which this header does not include,
 * so that a program that uses the library may have its own functions called die or warn. */
typedef struct Comm Comm;
typedef struct Backend Backend;
typedef struct Arena Arena;
typedef struct TensorTable TensorTable;

/* Flat device buffers of table.length elements, owned by the caller. */
typedef struct OptimBuffers {
    float *params; /* master weights; after a step, up to date in the owned range (everywhere for float32) */
    /* their copy in the backend's activation type, or params itself; after optim_wait_for_weights() up to date
     * everywhere */
    void *weights;
    float *grads; /* what optim_gradient() returns at first */
} OptimBuffers;

/* The learning rate of each parameter group in one step. */
typedef struct OptimRates {
    double lr[OPTIM_MAX_GROUPS];
} OptimRates;

/* What a step did. */
typedef struct OptimResult {
    double grad_norm;     /* global norm after gradient_scale, before clipping */
    int nonfinite_tensor; /* index of the first tensor whose gradient is not finite: the step was skipped; else -1 */
    bool of_next_batch;   /* exact MARS: that gradient is the second one, of the next batch */
} OptimResult;

/* Norms of one tensor in one step. */
typedef struct TensorNorms {
    double gradient; /* after gradient_scale, before clipping; in the exact forms of MARS that of this step's batch */
    double update;   /* of x_new - x_old, master weights; 0 if the step was skipped */
    double weight;   /* of x_new */
} TensorNorms;

typedef struct OptimNorms {
    double clip;          /* the global clip multiplied gradients by this, in (0, 1]; undefined in a skipped step */
    TensorNorms *tensors; /* (table.count) */
} OptimNorms;

enum { OPTIM_MAX_STATES = 8, OPTIM_MAX_SCALARS = 4 };

/* What an optimizer needs and keeps; it does not change after optim_plan(), optim_plan_norms() and
 * optim_plan_ema(). */
typedef struct OptimInfo {
    /* of a step: 1; in the exact forms of MARS 2, of this step's batch and of the next one's, both at the weights
     * before the step */
    int gradients;
    int state_count;
    const char *state_names[OPTIM_MAX_STATES]; /* "m", "v", "g_last"; not every tensor has every state, and a state's
                                                * shape may differ between tensors (optim_state_vector()) */
    int scalar_count;
    const char *scalar_names[OPTIM_MAX_SCALARS]; /* of states of one number per tensor: "snr" */
    /* of this rank: states, g_prev and the average of optim_plan_ema(), without the numbers per tensor; further
     * gradient buffers, Newton-Schulz's workspace and the copy of optim_plan_norms(); and the part of these that only
     * the exact form needs */
    size_t state_bytes, workspace_bytes, exact_bytes;
} OptimInfo;

/* ---- opening ---- */

/* Plans an optimizer: adds its memory to the plan of `arena`, its state in the group "optimizer" and the buffers of a
 * step in "workspace". Copies *config. table, be and comm (that of comm_on_device() for be's device) must outlive the
 * optimizer, and so must the memory of arena. If the device cannot run the optimizer, returns NULL and the reason, and
 * adds nothing. */
Optim *optim_plan(const OptimConfig *config, const TensorTable *table, Backend *be, Comm *comm, Arena *arena,
                  Error *error);

/* Between optim_plan() and arena_allocate(): lists what a step with norms needs, in "workspace": a copy of the
 * parameters that this rank owns, and sums. */
void optim_plan_norms(Optim *optim, Arena *arena);

/* Between optim_plan() and arena_allocate(): lists an exponential moving average (EMA) of the weights in "optimizer",
 * of the elements that this rank owns; optim_update_ema() begins it. */
void optim_plan_ema(Optim *optim, Arena *arena);

/* Call it after arena_allocate(): prepares the first step, with state zero. The caller frees the arena after
 * optim_close(). */
void optim_start(Optim *optim, OptimBuffers buffers);
/* optim is not NULL. */
void optim_close(Optim *optim);

/* A tensor of a program that has no table of its own. */
typedef struct OptimTensor {
    const char *name; /* shorter than TENSOR_NAME_LENGTH */
    TensorRole role;
    int64_t rows, columns; /* (out, in), at least 1; a vector has rows = 1 */
    int stacked;           /* matrices stacked along the rows, for split_qkv; 0 means 1; must divide rows */
} OptimTensor;

/* An optimizer in one process on the CPU, in float32, with `threads` threads (0: as many as cores), that owns its
 * buffers: parameters, zero at first, and gradients. Tensor i begins at element optim_offset(o, i) of either. Copies
 * config and tensors; optim_close() frees everything. Returns NULL and the reason if a setting is out of its range or
 * this machine cannot run the optimizer. A name that is too long ends the program; rows, columns and stacked are not
 * checked. */
Optim *optim_open(const OptimConfig *config, const OptimTensor *tensors, int count, int threads, Error *error);
float *optim_params(const Optim *optim);
size_t optim_offset(const Optim *optim, int tensor);

const OptimInfo *optim_info(const Optim *optim);

/* ---- a step ---- */

/* The learning rates at a 0-based step of a schedule. */
OptimRates optim_rates(const OptimConfig *config, const ScheduleConfig *schedule, int64_t step);

/* The same by the role of tensors: lr[role] is the rate of the parameter group that takes tensors of that role, -1 if
 * the table has none. */
void optim_rates_by_role(const OptimConfig *config, const TensorTable *table, const OptimRates *rates,
                         double lr[ROLE_COUNT]);

/* Begins gradient `which` of the next step, and returns the flat buffer on the device to which the caller writes this
 * rank's gradient. The step adds up the ranks' gradients and does not divide the sum by the number of ranks. The
 * buffer's content is undefined, and its address changes from step to step. With which = 1 it is collective, and
 * gradient 0 must be complete. */
float *optim_gradient(Optim *optim, int which);

/* Says that this rank's gradient is final in elements [from, length) of the flat buffer: starts the reduce-scatter of
 * the whole buckets in there that have not started yet. `from` must not rise between calls for one gradient, and is the
 * same on every rank. Optional: optim_step() reduces the remaining elements. Collective. */
void optim_gradient_ready(Optim *optim, size_t from);

/* Enqueues one update with the gradient, or gradients, of this step. Ends the program if optim_info(o)->gradients is 2
 * and gradient 1 was not begun. Up to OPTIM_MAX_STEPS may be enqueued whose results were not taken; one more ends the
 * program. A skipped step changes nothing: the next one starts from the same parameters and states. `with_norms` needs
 * optim_plan_norms(), and also measures norms: sums of squares over owned elements, in double, in an order that is
 * always the same, added up over ranks; the update has the same bits. Collective. */
enum { OPTIM_MAX_STEPS = 2 };
void optim_step(Optim *optim, OptimRates rates, bool with_norms);

/* The norms of the step that was enqueued last, which must have been one with norms; waits until it has ended. The same
 * on every rank, and not collective. The optimizer owns the list, which is valid until the next call. */
const OptimNorms *optim_norms(Optim *optim);

/* The result of the oldest step whose result was not taken; waits until it is known. */
OptimResult optim_result(Optim *optim);

/* Operations that are enqueued after this call read elements [begin, end) of the weights after the last step. In a job
 * of one process, and on CPUs, they do so without this call. */
void optim_wait_for_weights(Optim *optim, size_t begin, size_t end);

/* ---- an average of the weights, of optim_plan_ema(), between steps. A call in the wrong order is fatal. ---- */

/* Enqueues E = decay E + (1 - decay) X, where X are the master weights after the last step, and decay is in [0, 1). The
 * first call must have a decay of 0, with which E = X. After a skipped step, too, E moves towards the unchanged X. Not
 * collective. */
void optim_update_ema(Optim *optim, double decay);
/* Whether the average has begun, or was stored. */
bool optim_has_ema(const Optim *optim);

/* From optim_show_ema() to optim_hide_ema() the weights are (1 - mix) X + mix E, mix in [0, 1], in the activation type
 * and on every rank; afterwards they are X again, to the bit. Call optim_wait_for_weights() after each of them. Both
 * leave the buffer of gradients undefined. Collective. */
void optim_show_ema(Optim *optim, double mix);
void optim_hide_ema(Optim *optim);

/* Runs this rank's matmuls of Newton-Schulz once, on random matrices, for be->autotune(). Changes no parameter and no
 * state. */
void optim_autotune(Optim *optim);

/* ---- state, for checkpoints: these wait for the steps that were enqueued ---- */

/* Updates made so far: skipped steps do not count. */
int64_t optim_updates(const Optim *optim);
void optim_set_updates(Optim *optim, int64_t updates);

/* Whether tensor number `tensor` has state number `state`, in [0, state_count). */
bool optim_has_state(const Optim *optim, int state, int tensor);

/* The length of a tensor's state that is a vector, with a number for each row or column (rules/normuon.h); 0 if it has
 * the shape of the tensor. The tensor must have this state. */
size_t optim_state_vector(const Optim *optim, int state, int tensor);

/* For the next two functions, in place of a state's number: the master weights, and the average of optim_plan_ema(). */
enum { OPTIM_WEIGHTS = -1, OPTIM_EMA = -2 };

/* Copies tensor `tensor` of state number `state`, or of OPTIM_WEIGHTS or OPTIM_EMA, to host memory on rank 0, from the
 * ranks that own its parts. Collective; `host` is used on rank 0 only. */
void optim_fetch(Optim *optim, int state, int tensor, float *host);

/* Copies host memory that holds the whole tensor to this rank's part of it in the state, the weights or the average.
 * Not collective: every rank passes the whole tensor and keeps its part. Parameters that other ranks own stay as they
 * are, and so do the copies of the weights in the activation type: the caller sets both (for a GPT2 by
 * gpt2_set_tensor() and gpt2_params_changed()). optim_set_updates() and optim_store_scalars() set the rest of the
 * state. */
void optim_store(Optim *optim, int state, int tensor, const float *host);

/* Copies the table.count numbers of a state of one number per tensor to or from host memory; they are the same on every
 * rank. */
void optim_fetch_scalars(Optim *optim, int scalar, double *host);
void optim_store_scalars(Optim *optim, int scalar, const double *host);

EXTERN_C_END

#endif
