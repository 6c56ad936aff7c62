/* multi_tensor.h: passes over all tensors at once. The elements that a process owns are cut into chunks, each inside
 * one tensor; a pass is one loop over the chunks, whatever the number of tensors. */
#ifndef MARS_OPTIM_MULTI_TENSOR_H
#define MARS_OPTIM_MULTI_TENSOR_H

#include "comm/comm.h"
#include "kernels/backend.h"
#include "optim/rules.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

enum { MULTI_TENSOR_CHUNK = 16384 };

/* Elements [begin, end) of the flat buffers, and where the first of them is in buffers that are laid out otherwise. */
typedef struct Chunk {
    size_t begin, end;
    size_t gradient; /* in gradient buffers: begin, or shard */
    size_t shard;    /* in states */
    size_t matrix;   /* in the workspace of Newton-Schulz, of matrix rules */
    int tensor;
} Chunk;

/* The buffers that a pass goes over, on the device. */
typedef struct MultiTensorBuffers {
    float *params;
    void *weights;                /* the copy in the activation type; NULL where there is none apart from params */
    const float *gradient, *last; /* last is NULL for rules without g_last */
    float *states[RULE_MAX_STATES];
} MultiTensorBuffers;

/* Sums over elements, in double. */
typedef struct GradientSums {
    double squares; /* of g */
    double product; /* of g times g_last, where there is one */
    double sum;     /* of g, where asked for */
} GradientSums;

/* The chunks of one part of a buffer, appended to *chunks, of which there are *count; parts lie inside one tensor. */
void multi_tensor_append_chunks(Chunk **chunks, int *count, const Part *part, int tensor, bool gradient_is_shard);

/* sums[c] = the sums over chunk c (host memory), of the gradients as they are. `last` may be NULL. */
void multi_tensor_sums(Backend *be, const Chunk *chunks, int count, const float *gradient, const float *last,
                       bool with_sum, GradientSums *sums);

/* Elementwise rules: one pass updates parameters, states and the weight copy. `numbers`: one per tensor. */
void multi_tensor_update(Backend *be, RuleName rule, const Chunk *chunks, int count, MultiTensorBuffers buffers,
                         const RuleNumbers *numbers);

/* Matrix rules: the pass before Newton-Schulz updates states and writes directions, rounded to `type`, to `matrices`;
 * squares[c] = the sum of squares of what chunk c wrote (host memory). */
void multi_tensor_directions(Backend *be, RuleName rule, const Chunk *chunks, int count, MultiTensorBuffers buffers,
                             const RuleNumbers *numbers, void *matrices, DType type, double *squares);

/* And the pass behind it: x <- x - learning_rate weight_decay x - step O, where O are the orthogonal matrices. */
void multi_tensor_apply(Backend *be, const Chunk *chunks, int count, MultiTensorBuffers buffers,
                        const RuleNumbers *numbers, const void *matrices, DType type);

EXTERN_C_END

#endif
