/* group.h: the tensors that one rule updates: who owns them, this process's states, and the passes of a step over them.
 * An optimizer is one or two groups (rules.h); optim.c makes a step out of what is here. For optim.c only. */
#ifndef MARS_OPTIM_GROUP_H
#define MARS_OPTIM_GROUP_H

#include "optim/multi_tensor.h"
#include "optim/newton_schulz.h"

EXTERN_C_BEGIN

/* Gradients of this process's elements as a step needs them: today's, g_last of mars.h, and in the exact form the one
 * that will be g_last. NULL where there is no need. */
typedef struct GradientBuffers {
    float *now, *last, *next;
} GradientBuffers;

/* Matrices of one shape that go through Newton-Schulz together. */
typedef struct MatrixBatch {
    int64_t rows, columns;
    int first_chunk, chunk_count;
    int matrix_count;
} MatrixBatch;

typedef struct Group {
    RuleName name;
    const Rule *rule;
    bool *chosen; /* (table.count) tensors of this group */
    Partition partition;
    Chunk *chunks; /* of what this process owns; by batch where there are batches */
    int chunk_count;
    size_t shard_length;
    float *states[RULE_MAX_STATES]; /* shard_length elements each */
    GradientBuffers shards;         /* where gradients are reduced into shards, else all NULL */
    GradientSums *sums;             /* (chunk_count) */

    /* matrix rules */
    MatrixBatch *batches;
    int batch_count;
    NewtonSchulz *newton_schulz;
    double *squares, *norms; /* (chunk_count), and one for each matrix of a batch */
} Group;

/* How a group is to be opened. */
typedef struct GroupOptions {
    RuleName rule;
    bool needs_shards;   /* several processes, and today's gradient outlives the buffer that it was made in */
    bool exact;          /* a second gradient each step */
    int ns_steps;        /* matrix rules */
    DType ns_type;       /* matrix rules */
    const double *taken; /* partition_evenly's */
    int rank, processes;
} GroupOptions;

/* Opens a group of the tensors with chosen[i]; the group takes the array. False and the reason where the device cannot
 * do it; the group is to be closed then too. */
bool group_open(Group *group, const TensorTable *table, bool *chosen, const GroupOptions *options, Backend *be,
                Error *error);
void group_close(Group *group, Backend *be);

/* Adds the sums over this process's part of each tensor to sums[tensor]. */
void group_sums(Group *group, Backend *be, const float *gradient, const float *last, bool with_sum, GradientSums *sums);

/* The update. buffers.states are filled in here. */
void group_update(Group *group, Backend *be, MultiTensorBuffers buffers, const RuleNumbers *numbers);

/* Numbers of state that process r keeps: of the states and of g_last. */
double group_numbers_kept(const Group *group, int r);

EXTERN_C_END

#endif
