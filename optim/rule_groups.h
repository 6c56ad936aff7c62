/* rule_groups.h: RuleGroup, all tensors that one rule updates: who owns them, this rank's chunks and states, and the
 * passes of a step over them. Parameter groups (optimizers.h) with the same rule are one RuleGroup, so that a pass
 * takes all of them at once. Also TensorPlan, the coefficients that stay the same in every step. For optim.c and
 * grad_sync.c only. */
#ifndef MARS_OPTIM_RULE_GROUPS_H
#define MARS_OPTIM_RULE_GROUPS_H

#include "optim/multi_tensor.h"
#include "optim/newton_schulz.h"

EXTERN_C_BEGIN

/* Gradients of this rank's elements in a step: the current one, prev_grad (g_prev of mars.h), and in the exact form the
 * next prev_grad. Those that the rule does not need are NULL. */
typedef struct GradientBuffers {
    float *grad, *prev_grad, *next_grad;
} GradientBuffers;

/* Matrices of one shape that go through Newton-Schulz together. */
typedef struct MatrixBatch {
    int64_t rows, columns;
    int first_chunk, chunk_count;
    int first_matrix, matrix_count; /* counted over all batches */
} MatrixBatch;

/* How a group is opened. */
typedef struct RuleGroupOptions {
    RuleName rule;
    bool needs_shards; /* several ranks, and the current gradient outlives the buffer that it was made in */
    bool exact;        /* a second gradient each step */
    bool cautious;     /* cautious weight decay */
    NsCoefficients ns_coefficients; /* matrix rules, with the next ones */
    int ns_steps;
    DType ns_type;
    bool split_qkv; /* stacked matrices (tensor_table.h) are orthogonalised one by one */
    int rank, ranks;
    size_t bucket; /* partition_evenly()'s, of elementwise rules */
} RuleGroupOptions;

typedef struct RuleGroup {
    RuleGroupOptions options;
    const Rule *rule;
    const MultiTensorPasses *passes;
    bool *chosen; /* (table.count) tensors of this group */
    Partition partition;
    size_t shard_length;

    /* of what this rank owns: on the host, to be copied to the device */
    Chunk *chunks; /* in the order of batches, if there are any */
    int chunk_count;
    SumRange *tensors;  /* the chunks of each tensor of the group, none if another rank owns it */
    SumRange *matrices; /* the chunks of each matrix, in the order of batches; numbered inside its batch */
    int tensor_count, matrix_count;
    MatrixBatch *batches;
    int batch_count;
    NewtonSchulz *newton_schulz;
    LineState *lines;         /* (matrix_count) of rules with lines; else NULL, as is the next */
    size_t *line_state_begin; /* (table.count) where the state of each tensor's lines begins */
    size_t line_state_length;

    /* device memory */
    Chunk *device_chunks;
    SumRange *device_tensors, *device_matrices;
    float *states[RULE_MAX_STATES]; /* shard_length elements each */
    GradientBuffers shards;         /* if gradients are reduced into shards; else all NULL */
    GradientSums *sums;             /* (chunk_count) */
    double *squares, *norms;        /* (chunk_count) and (matrix_count), of matrix rules */
    float *line_state;              /* (line_state_length) of rules with lines, as are the next ones */
    LineState *device_lines;
    double *line_squares; /* of the batch that needs the most */
    float *line_factors;
    float *old_params;       /* (shard_length); NULL without rule_group_plan_norms(), as is the next */
    UpdateSums *update_sums; /* (chunk_count) */
    float *ema;              /* (shard_length); NULL without rule_group_plan_ema() */
} RuleGroup;

/* Returns the coefficients of a tensor that stay the same in every step. */
TensorPlan tensor_plan(const OptimConfig *config, const Tensor *tensor);

/* mars.h: the weight of the gradient's change. */
double tensor_plan_k(const OptimConfig *config);

/* Who owns which elements of the tensors with chosen[i] under a rule: whole matrices, or equal slices. The arguments
 * are those of partition_matrices() and partition_evenly(). */
Partition rule_partition(const Rule *rule, const TensorTable *table, const bool *chosen, int ranks, const double *taken,
                         size_t bucket);

/* Numbers in the state of lines of a tensor under a rule that has it. */
size_t line_state_size(const Tensor *tensor, bool split_qkv);

/* Plans a group of the tensors with chosen[i]; the group takes the array. `taken` is partition_evenly()'s. Lists the
 * memory of the group in the arena. If the device cannot run the rule, returns false and the reason, and lists nothing;
 * the group must still be closed. */
bool rule_group_plan(RuleGroup *group, const TensorTable *table, bool *chosen, const RuleGroupOptions *options,
                     const double *taken, Backend *be, Arena *arena, Error *error);
/* After rule_group_plan(): lists in the arena what the two functions below that measure an update need. */
void rule_group_plan_norms(RuleGroup *group, Arena *arena);
/* After arena_allocate(): copies the lists to the device. */
void rule_group_start(RuleGroup *group, Backend *be);
void rule_group_close(RuleGroup *group);

/* sums[tensor] = the sums over this rank's part of each tensor of the group. sum_at_first: multi_tensor.h. */
void rule_group_sums(RuleGroup *group, Backend *be, const float *gradient, const float *prev_grad,
                     const StepResult *sum_at_first, GradientSums *sums);

/* Updates the group's parameters. Fills in buffers.states, .line_state and .cautious itself. */
void rule_group_update(RuleGroup *group, Backend *be, MultiTensorBuffers buffers);

/* keep_prev_grad() of multi_tensor.h, for all elements that the group owns. */
void rule_group_keep_prev_grad(RuleGroup *group, Backend *be, float *to, const float *from, const StepResult *result);

/* An update between these two is measured: sums[tensor] = the sums over this rank's part of each tensor of the
 * group. */
void rule_group_copy_params(RuleGroup *group, Backend *be, const float *params);
void rule_group_update_sums(RuleGroup *group, Backend *be, const float *params, UpdateSums *sums);

/* After rule_group_plan(): lists the average of this rank's weights in the arena. The next two are passes over it
 * (multi_tensor.h). */
void rule_group_plan_ema(RuleGroup *group, Arena *arena);
void rule_group_update_ema(RuleGroup *group, Backend *be, const float *params, float rate);
void rule_group_mix_ema(RuleGroup *group, Backend *be, const float *params, float mix, void *to, DType type);

/* Multiplies random matrices as each batch of matrices does, for optim_autotune(). */
void rule_group_autotune(RuleGroup *group);

/* State elements that rank r keeps: of the states and of g_prev. (The state of lines is less than a hundredth.) */
double rule_group_elements_kept(const RuleGroup *group, int r);

EXTERN_C_END

#endif
