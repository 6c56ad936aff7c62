/* multi_tensor.c: the passes of multi_tensor.h on the CPU, and the table of elementwise rules. */
#include "optim/multi_tensor.h"

#include <stdlib.h>

#include "optim/adamw.h"

Chunk *multi_tensor_chunks(const TensorTable *table, size_t begin, size_t end, int *count) {
    size_t most = (size_t)table->count + (end - begin) / MULTI_TENSOR_CHUNK + 1;
    Chunk *chunks = checked_malloc(most * sizeof *chunks, "the optimizer's chunks");
    *count = 0;
    for (int i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        size_t first = tensor->offset > begin ? tensor->offset : begin;
        size_t last = tensor->offset + tensor->size < end ? tensor->offset + tensor->size : end;
        for (size_t at = first; at < last; at += MULTI_TENSOR_CHUNK)
            chunks[(*count)++] = (Chunk){at, (size_t)min_i64((int64_t)(at + MULTI_TENSOR_CHUNK), (int64_t)last), i};
    }
    return chunks;
}

/* Each chunk is summed by one thread, so the sums do not depend on the number of threads. */
void multi_tensor_square_sums(Backend *be, const Chunk *chunks, int count, const float *grads, double *sums) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        double sum = 0.0;
#pragma omp simd reduction(+ : sum)
        for (size_t i = chunks[c].begin; i < chunks[c].end; i++) sum += (double)grads[i] * (double)grads[i];
        sums[c] = sum;
    }
}

/* A loop over the chunks for a rule with a given number of states. The states of an element pass through a small
 * array that the compiler keeps in registers. */
#define DEFINE_UPDATE(rule, STATES)                                                                             \
    static void rule##_chunk(Chunk chunk, MultiTensorBuffers b, const RuleNumbers *numbers) {                   \
        RuleNumbers r = *numbers;                                                                               \
        float *RESTRICT x = b.params, *RESTRICT state0 = b.states[0];                                           \
        float *RESTRICT state1 = b.states[STATES - 1];                                                          \
        const float *RESTRICT g = b.grads;                                                                      \
        _Pragma("omp simd") for (size_t i = chunk.begin; i < chunk.end; i++) {                                  \
            float state[OPTIM_MAX_STATES] = {state0[i - b.first], STATES > 1 ? state1[i - b.first] : 0.0f};     \
            x[i] = rule##_element(x[i], g[i] * r.gradient_factor, state, &r);                                   \
            state0[i - b.first] = state[0];                                                                     \
            if (STATES > 1) state1[i - b.first] = state[1];                                                     \
        }                                                                                                       \
    }                                                                                                           \
    static void rule##_update(Backend *be, const Chunk *chunks, int count, MultiTensorBuffers b,                \
                              const RuleNumbers *numbers) {                                                     \
        _Pragma("omp parallel for schedule(static) num_threads(be->threads)") for (int c = 0; c < count; c++) { \
            rule##_chunk(chunks[c], b, &numbers[chunks[c].tensor]);                                             \
            copy_weights(chunks[c], b);                                                                         \
        }                                                                                                       \
    }

/* The bfloat16 copy of a chunk that was just updated and is still in the cache. */
static void copy_weights(Chunk chunk, MultiTensorBuffers b) {
    if (!b.weights) return;
    bfloat16 *RESTRICT weights = b.weights;
    const float *RESTRICT x = b.params;
#pragma omp simd
    for (size_t i = chunk.begin; i < chunk.end; i++) weights[i] = bfloat16_from_float(x[i]);
}

DEFINE_UPDATE(adamw, ADAMW_STATES)

static const ElementwiseRule rules[] = {
    {OPTIM_ADAMW, ADAMW_STATES, {"m", "v"}, adamw_update},
};

const ElementwiseRule *multi_tensor_rule(OptimName name) {
    for (size_t i = 0; i < ARRAY_LENGTH(rules); i++)
        if (rules[i].name == name) return &rules[i];
    return NULL;
}
