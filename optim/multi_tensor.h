/* multi_tensor.h: passes over all tensors at once. A range of a flat buffer is cut into chunks, each inside one tensor;
 * a pass is one loop over the chunks, whatever the number of tensors. */
#ifndef MARS_OPTIM_MULTI_TENSOR_H
#define MARS_OPTIM_MULTI_TENSOR_H

#include "kernels/backend.h"
#include "optim/optim_config.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

enum { MULTI_TENSOR_CHUNK = 16384, OPTIM_MAX_STATES = 2 };

typedef struct Chunk {
    size_t begin, end; /* elements of the flat buffers */
    int tensor;
} Chunk;

/* The numbers a rule uses at one step, the same for all elements of a tensor. */
typedef struct RuleNumbers {
    float gradient_factor; /* gradient_scale times the clip */
    float learning_rate, weight_decay;
    float beta1, beta2, eps;
    float correction1, correction2; /* 1 / (1 - beta^t): multiplied with, as divisions are slow */
} RuleNumbers;

/* The flat buffers that an update goes over. State buffers hold only the owned range: element i of the flat buffers is
 * element i - first of a state. */
typedef struct MultiTensorBuffers {
    float *params;
    void *weights; /* NULL where there is no copy apart from params */
    const float *grads;
    float *states[OPTIM_MAX_STATES];
    size_t first;
} MultiTensorBuffers;

/* Chunks of the table's tensors inside [begin, end), in order; the caller frees them. */
Chunk *multi_tensor_chunks(const TensorTable *table, size_t begin, size_t end, int *count);

/* sums[c] = sum of grads^2 over chunk c, in double (host memory). */
void multi_tensor_square_sums(Backend *be, const Chunk *chunks, int count, const float *grads, double *sums);

/* An elementwise rule, instantiated for each device. */
typedef struct ElementwiseRule {
    OptimName name;
    int states;
    const char *state_names[OPTIM_MAX_STATES];
    void (*update)(Backend *be, const Chunk *chunks, int count, MultiTensorBuffers buffers,
                   const RuleNumbers *numbers); /* numbers: one per tensor of the table */
} ElementwiseRule;

/* The rule for `be`'s device. */
const ElementwiseRule *multi_tensor_rule(OptimName name);

EXTERN_C_END

#endif
