/* group.h: the tensors that one rule updates: who owns them, this process's states, and the passes of a step over them.
 * An optimizer is one or two groups (rules.h); optim.c makes a step out of what is here. For optim.c only. */
#ifndef MARS_OPTIM_GROUP_H
#define MARS_OPTIM_GROUP_H

#include "optim/multi_tensor.h"
#include "optim/newton_schulz.h"

EXTERN_C_BEGIN

/* Gradients of this process's elements as a step needs them: today's, g_prev of mars.h, and in the exact form the one
 * that will be g_prev. NULL where there is no need. */
typedef struct GradientBuffers {
    float *grad, *prev_grad, *next_grad;
} GradientBuffers;

/* Matrices of one shape that go through Newton-Schulz together. */
typedef struct MatrixBatch {
    int64_t rows, columns;
    int first_chunk, chunk_count;
    int first_matrix, matrix_count; /* counted over all batches */
} MatrixBatch;

/* How a group is to be opened. */
typedef struct GroupOptions {
    RuleName rule;
    bool needs_shards; /* several processes, and the current gradient outlives the buffer that it was made in */
    bool exact;        /* a second gradient each step */
    int ns_steps;      /* matrix rules */
    DType ns_type;     /* matrix rules */
    int rank, processes;
    size_t bucket; /* partition_evenly()'s, of elementwise rules */
} GroupOptions;

typedef struct Group {
    GroupOptions options;
    const Rule *rule;
    const MultiTensorPasses *passes;
    bool *chosen; /* (table.count) tensors of this group */
    Partition partition;
    size_t shard_length;

    /* of what this process owns: on the host, to be copied to the device */
    Chunk *chunks; /* by batch where there are batches */
    int chunk_count;
    SumRange *tensors;  /* the chunks of each tensor of the group, none where another process owns it */
    SumRange *matrices; /* the chunks of each matrix, in the order of batches; numbered inside its batch */
    int tensor_count, matrix_count;
    MatrixBatch *batches;
    int batch_count;
    NewtonSchulz *newton_schulz;

    /* device memory */
    Chunk *device_chunks;
    SumRange *device_tensors, *device_matrices;
    float *states[RULE_MAX_STATES]; /* shard_length elements each */
    GradientBuffers shards;         /* where gradients are reduced into shards, else all NULL */
    GradientSums *sums;             /* (chunk_count) */
    double *squares, *norms;        /* (chunk_count) and (matrix_count), of matrix rules */
} Group;

/* Plans a group of the tensors with chosen[i]; the group takes the array. `taken` is partition_evenly()'s. What it
 * needs is listed in the arena. False and the reason where the device cannot do it, and then nothing is listed; the
 * group is to be closed then too. */
bool group_plan(Group *group, const TensorTable *table, bool *chosen, const GroupOptions *options, const double *taken,
                Backend *be, Arena *arena, Error *error);
/* After arena_allocate(): copies to the device what it goes by. */
void group_start(Group *group, Backend *be);
void group_close(Group *group);

/* sums[tensor] = the sums over this process's part of each tensor of the group. sum_at_first: multi_tensor.h. */
void group_sums(Group *group, Backend *be, const float *gradient, const float *prev_grad,
                const StepResult *sum_at_first, GradientSums *sums);

/* The update. buffers.states are filled in here. */
void group_update(Group *group, Backend *be, MultiTensorBuffers buffers);

/* multi_tensor.h, of all that the group owns. */
void group_keep_prev_grad(Group *group, Backend *be, float *to, const float *from, const StepResult *result);

/* Multiplies random matrices as each batch of matrices does, for optim_autotune(). */
void group_autotune(Group *group);

/* Numbers of state that process r keeps: of the states and of g_prev. */
double group_numbers_kept(const Group *group, int r);

EXTERN_C_END

#endif
