/* optim_world.h: parameters, gradients and an optimizer over a table of odd tensors, with the same steps in float64
 * beside them: what the tests of optim/ share. Buffers are those of a CPU backend, so a test may look into them. */
#ifndef MARS_DEV_TEST_OPTIM_WORLD_H
#define MARS_DEV_TEST_OPTIM_WORLD_H

#include "dev/test/test.h"
#include "optim/optim.h"

EXTERN_C_BEGIN

typedef struct World {
    TensorTable table;
    Backend *be;
    Comm *comm;
    OptimConfig config;
    OptimBuffers buffers;
    Optim *optim;
    double *x, *m, *v; /* table.length numbers each */
    int64_t t;         /* updates made to them */
} World;

/* AdamW without clipping or scaling. */
extern const OptimConfig usual_config;

/* Sizes around the alignment and around the chunks, with and without a gap behind them, and many small tensors. */
TensorTable odd_table(void);

/* Takes the table. `comm` is NULL for a single process. Parameters are random, gradients and gaps zero. */
World *open_world(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm);
void close_world(World *world);

/* A normal number for (stream, index). */
double world_normal(uint32_t stream, uint64_t index);

/* A gradient element: sizes from 1e-10, below eps, to 10. */
float random_gradient(uint32_t stream, size_t at);

/* Sets every tensor's gradient; gaps keep what they hold. */
void set_gradient(World *world, float (*value)(uint32_t stream, size_t at), uint32_t stream);

/* One step of both, which must agree on the norm. */
OptimResult both_step(World *world, double learning_rate);
/* Only the float64 one; returns the norm. */
double reference_step(World *world, double learning_rate);

/* A tensor of a state (-1: of the parameters) as a checkpoint would get it; the caller frees it. */
float *fetch_tensor(World *world, int state, int tensor);

/* Each tensor of a state within `limit` of the float64 one, in the norm. */
void assert_state(World *world, int state, const double *expected, double limit);

/* Each parameter within a few roundings plus limit * moved of the float64 one, where `moved` is the sum of the rates;
 * weight copies are the rounded parameters; fetched parameters are those in the buffer. */
void assert_params(World *world, double moved, double limit);

EXTERN_C_END

#endif
