/* multi_tensor.h: passes over all tensors at once. The elements that a rank owns are cut into chunks, each inside one
 * tensor. A pass is one loop over the chunks, for any number of tensors. The inputs of a pass (chunks, coefficients,
 * the step's result) and its outputs are in device memory.
 *
 * There are two tables of passes, one of CPU loops (multi_tensor.c) and one of CUDA kernels (multi_tensor.cu), made
 * from the same rules. On a GPU a pass is enqueued when its function returns, and runs after the operations enqueued
 * before. */
#ifndef MARS_OPTIM_MULTI_TENSOR_H
#define MARS_OPTIM_MULTI_TENSOR_H

#include "comm/comm.h"
#include "kernels/backend.h"
#include "optim/optimizers.h"
#include "optim/step_coeffs.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

enum { MULTI_TENSOR_CHUNK = 8192 };

/* Elements [begin, end) of the flat buffers, and where the first of them is in buffers that are laid out otherwise. */
typedef struct Chunk {
    size_t begin, end;
    size_t gradient; /* in gradient buffers: begin, or shard */
    size_t shard;    /* in states */
    size_t matrix;   /* in the workspace of Newton-Schulz, of matrix rules */
    int tensor;
    /* Of matrix rules: the column of the first element, and its line; if lines are columns, the first line of its
     * matrix. */
    int line, column;
} Chunk;

/* Sum number `to` is that of rows [first, first + count). */
typedef struct SumRange {
    int first, count, to;
} SumRange;

/* Sums of squares over elements that a step updated: of x_new - x_old, and of x_new. */
typedef struct UpdateSums {
    double update, weight;
} UpdateSums;

/* Matrices of one shape, dense and one after the other. A line of a matrix is a row if the matrix has at least as many
 * rows as columns, else a column. The lines of several matrices are numbered in order, one matrix after the other. */
typedef struct MatrixList {
    const void *elements;
    DType type;
    int64_t rows, columns;
    int count;
} MatrixList;

/* Where the state of one matrix's lines begins, and the tensor whose coefficients apply to it. */
typedef struct LineState {
    size_t begin;
    int tensor;
} LineState;

/* The sum of squares of a column is the sum over slabs of this many rows. */
enum { LINE_SLAB = 64 };

static inline bool lines_are_rows(int64_t rows, int64_t columns) { return rows >= columns; }
static inline int64_t line_count(int64_t rows, int64_t columns) { return max_i64(rows, columns); }
static inline int64_t line_slabs(int64_t rows, int64_t columns) {
    return lines_are_rows(rows, columns) ? 1 : ceil_div(rows, LINE_SLAB);
}

/* The buffers that an update goes over. */
typedef struct MultiTensorBuffers {
    float *params;
    void *weights;                     /* the copy in the activation type; NULL if there is none apart from params */
    const float *gradient, *prev_grad; /* prev_grad is NULL for rules without g_prev */
    float *states[RULE_MAX_STATES];
    float *line_state;          /* of rules with lines */
    const UpdateCoeffs *coeffs; /* one per tensor */
    const StepResult *result;   /* if it says that the step is skipped, nothing is written */
    bool cautious;              /* cautious weight decay (element_decay()) */
} MultiTensorBuffers;

/* Results on their way to the host. */
typedef struct ResultQueue ResultQueue;

typedef struct MultiTensorPasses {
    /* ---- sums over gradients, and the step's coefficients ---- */

    /* sums[c] = the sums over chunk c of the gradients before scaling. prev_grad may be NULL; then dot is 0. `sum` is
     * computed if prev_grad is NULL, sum_at_first is not NULL and sum_at_first->updates is 0, and is undefined
     * otherwise. */
    void (*sums)(Backend *be, const Chunk *chunks, int count, const float *gradient, const float *prev_grad,
                 const StepResult *sum_at_first, GradientSums *sums);
    /* For each range: row ranges[i].to of sums (., width) = the sum of rows [first, first + count) of parts (., width),
     * in an order that is the same in every run; 0 where count is 0. width is 1, 2 or 3. */
    void (*add_up)(Backend *be, const double *parts, int width, const SumRange *ranges, int count, double *sums);
    /* Result and coefficients of the step (step_coeffs.h). */
    void (*step_coeffs)(Backend *be, const StepInputs *inputs);

    /* ---- the update ---- */

    /* Elementwise rules: one pass updates parameters, states and the weight copy. */
    void (*update)(Backend *be, RuleName rule, const Chunk *chunks, int count, const MultiTensorBuffers *buffers);
    /* Matrix rules: the pass before Newton-Schulz updates states and writes directions, rounded to `type`, to
     * `matrices`; squares[c] = the sum of squares of what chunk c wrote. */
    void (*directions)(Backend *be, RuleName rule, const Chunk *chunks, int count, const MultiTensorBuffers *buffers,
                       void *matrices, DType type, double *squares);
    /* The pass after Newton-Schulz: x <- x - learning_rate weight_decay x - step O, where O are the orthogonal
     * matrices; each line times its factor, unless `factors` is NULL. */
    void (*apply)(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *buffers,
                  const MatrixList *matrices, const float *factors);
    /* Rules with lines (rules/normuon.h), between Newton-Schulz and apply(): squares (matrices->count, line_slabs(),
     * line_count()) = the sums of squares of each line's elements in each slab of rows. */
    void (*line_squares)(Backend *be, const MatrixList *matrices, const StepResult *result, double *squares);
    /* From these squares, updates buffers->line_state and writes factors (matrices->count, line_count()). where[i]
     * belongs to matrix i. */
    void (*line_factors)(Backend *be, const MatrixList *matrices, const LineState *where,
                         const MultiTensorBuffers *buffers, const double *squares, float *factors);
    /* A skipped step keeps g_prev, although the host swaps the buffers: then, and only then, to = from. */
    void (*keep_prev_grad)(Backend *be, const Chunk *chunks, int count, float *to, const float *from,
                           const StepResult *result);
    /* Before Newton-Schulz: multiplies each of `count` matrices of `size` elements, one after the other, by 1 / (factor
     * sqrt(square_norms[i]) + eps). */
    void (*normalize)(Backend *be, void *matrices, DType type, size_t size, int count, const double *square_norms,
                      double factor, double eps);

    /* ---- norms of an update ---- */

    /* Before the update: copies the parameters of each chunk to `old`, which is laid out as states are. */
    void (*copy_params)(Backend *be, const Chunk *chunks, int count, const float *params, float *old);
    /* After the update: sums[c] = the sums over chunk c. */
    void (*update_sums)(Backend *be, const Chunk *chunks, int count, const float *params, const float *old,
                        UpdateSums *sums);

    /* ---- an exponential moving average of the weights (optim_plan_ema()), laid out as states are ---- */

    /* ema += rate (params - ema); if rate is 1, ema = params, whatever ema was. */
    void (*update_ema)(Backend *be, const Chunk *chunks, int count, const float *params, float *ema, float rate);
    /* to = params + mix (ema - params), rounded to `type`; if mix is 0, to = params. `to` is a flat buffer. */
    void (*mix_ema)(Backend *be, const Chunk *chunks, int count, const float *params, const float *ema, float mix,
                    void *to, DType type);

    /* ---- results, to the host ---- */

    /* send() enqueues the copy of a result and does not wait. receive() waits for the oldest result that was sent and
     * not received; at most `capacity` results may be so. */
    ResultQueue *(*open_queue)(Backend *be, int capacity);
    void (*send)(Backend *be, ResultQueue *queue, const StepResult *result);
    StepResult (*receive)(Backend *be, ResultQueue *queue);
    void (*close_queue)(Backend *be, ResultQueue *queue);
} MultiTensorPasses;

/* The table for be's device. */
const MultiTensorPasses *multi_tensor_passes(const Backend *be);

/* CUDA's; NULL in a build without it. */
const MultiTensorPasses *multi_tensor_cuda(void);

/* The chunks of one part of a buffer, appended to *chunks (host memory), of which there are *count; parts lie inside
 * one tensor. gradient_is_shard: gradient buffers hold this rank's shard, else they are whole flat buffers. The caller
 * frees *chunks. */
void multi_tensor_append_chunks(Chunk **chunks, int *count, const Part *part, int tensor, bool gradient_is_shard);

EXTERN_C_END

#endif
