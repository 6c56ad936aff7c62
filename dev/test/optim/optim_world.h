/* optim_world.h: parameters, gradients and an optimizer over a table of odd tensors, with the same steps in float64
 * next to them: what the tests of optim/ share. Buffers are those of the device under test (test_device()): a test sees
 * copies of them, and changes them through what is here.
 *
 * The float64 steps are every optimizer's formulas as they are published, one tensor at a time and nothing worked out
 * beforehand: c is made element by element and its norm taken, Newton-Schulz transposes in memory. */
#ifndef MARS_DEV_TEST_OPTIM_OPTIM_WORLD_H
#define MARS_DEV_TEST_OPTIM_OPTIM_WORLD_H

#include "comm/comm.h"
#include "dev/test/test.h"
#include "kernels/backend.h"
#include "optim/optim.h"
#include "util/arena.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

typedef struct OptimWorld {
    TensorTable table;
    Backend *be;
    Comm *comm;
    OptimConfig config;
    OptimBuffers buffers;
    Optim *optim;
    Arena arena;
    bool has_norms; /* steps measure norms */
    int which;      /* gradient of the step that is set now */
    int64_t t;      /* updates made to the float64 numbers */

    /* table.length numbers each: parameters, states, the current gradient and in the exact forms the second one */
    double *x, *m, *v, *b, *prev_grad, *g, *next_grad;
    double *start; /* x before the first step */
    double *
        unsure; /* not 0 where x hangs on the sign of a number that is 0 but for rounding (mars-lion, cautious decay) */
    double *snr;     /* (table.count) */
    double *scalars; /* (table.count) a copy of the optimizer's */

    float *params_copy, *gradient_copy; /* on the host */
    void *weights_copy;
} OptimWorld;

/* AdamW without clipping or scaling. */
extern const OptimConfig usual_config;

/* Sizes around the alignment and around the chunks, with and without a gap after them, many small tensors, and
 * matrices that are one row, taller and wider than square, some of the same shape. */
TensorTable odd_table(void);

/* Takes the table. `comm` is NULL for a single process; with one, which is between threads here, the device is a CPU.
 * Parameters are random, gradients and gaps zero. */
OptimWorld *open_world(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm);
/* The same where every step measures norms, and where there is room for an average of the weights. */
OptimWorld *open_world_with_norms(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm);
OptimWorld *open_world_with_ema(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm);
void close_world(OptimWorld *world);

/* Copies of what is on the device: the whole buffer, until the next call. The gradient is the one
 * that is set now. */
const float *world_params(OptimWorld *world);
const void *world_weights(OptimWorld *world);
const float *world_gradient(OptimWorld *world);

/* Sets all parameters, gaps included, and their weight copies; one element of the gradient; or all of it, with gaps. */
void set_params(OptimWorld *world, const float *params);
void set_element(OptimWorld *world, size_t at, float value);
void fill_gradient(OptimWorld *world, float value);

/* A normal number for (stream, index). */
double world_normal(uint32_t stream, uint64_t index);

/* A gradient element: sizes from 1e-10, below eps, to 10. */
float random_gradient(uint32_t stream, size_t at);

/* Sets every tensor's gradient; gaps keep what they hold. */
void set_gradient(OptimWorld *world, float (*value)(uint32_t stream, size_t at), uint32_t stream);

/* The rates of a step: those of all groups are to this one as their peaks are to the config's learning_rate. */
OptimRates world_rates(const OptimWorld *world, double learning_rate);

/* The next gradient that is set is the second one of the step. */
void begin_second(OptimWorld *world);

/* optim_step(), with norms or without them, without waiting, and with. */
void enqueue_step(OptimWorld *world, OptimRates rates);
OptimResult world_step(OptimWorld *world, OptimRates rates);

/* The same rate for every group. */
OptimRates uniform_rates(double learning_rate);

/* begin_second() of both: the gradient that was set is the current one. */
void both_hold(OptimWorld *world);
/* One step of both, which must agree on the norm. */
OptimResult both_step(OptimWorld *world, double learning_rate);

/* A tensor of a state (-1: of the parameters) as a checkpoint would get it; the caller frees it. */
float *fetch_tensor(OptimWorld *world, int state, int tensor);

/* Each tensor of every state within `limit` of the float64 one, in the norm, small ones within 10 times that, and v of
 * lines, which Newton-Schulz makes, within 100 times; and snr and the norms of g_last. */
void assert_states(OptimWorld *world, double limit);

/* Each parameter within a few roundings plus limit * moved of the float64 one, where `moved` is the sum of the rates;
 * and assert_copies(). */
void assert_params(OptimWorld *world, double moved, double limit);

/* Weight copies are the rounded parameters, and fetched parameters those in the buffer. */
void assert_copies(OptimWorld *world);

/* Each tensor's parameters within a few roundings plus `limit` times the way they went, in the norm; and
 * assert_copies(). Returns the largest error in such ways, roundings not taken off. */
double assert_moved(OptimWorld *world, double limit);

/* Everything that a step may change. */
typedef struct Snapshot {
    float *params;
    void *weights;
    float *states;   /* info.state_count flat buffers */
    double *scalars; /* info.scalar_count times table.count */
    int64_t updates;
} Snapshot;

Snapshot take_snapshot(OptimWorld *world);
/* Compares bits, of tensors and not of gaps, and frees the snapshot. */
void assert_is(OptimWorld *world, Snapshot snapshot);

EXTERN_C_END

#endif
