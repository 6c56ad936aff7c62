/* multi_tensor.c: the passes of multi_tensor.h on the CPU. Each chunk is one thread's, and what it sums is added up in
 * the order of the chunks by the caller, so no result depends on the number of threads. */
#include "optim/multi_tensor.h"

#include <stdlib.h>

void multi_tensor_append_chunks(Chunk **chunks, int *count, const Part *part, int tensor, bool gradient_is_shard) {
    size_t length = part->end - part->begin;
    size_t more = (length + MULTI_TENSOR_CHUNK - 1) / MULTI_TENSOR_CHUNK;
    Chunk *grown = realloc(*chunks, ((size_t)*count + more + 1) * sizeof *grown);
    if (!grown) die("out of memory: the optimizer's chunks");
    *chunks = grown;
    for (size_t done = 0; done < length; done += MULTI_TENSOR_CHUNK) {
        size_t end = done + MULTI_TENSOR_CHUNK < length ? done + MULTI_TENSOR_CHUNK : length;
        grown[(*count)++] = (Chunk){.begin = part->begin + done,
                                    .end = part->begin + end,
                                    .gradient = (gradient_is_shard ? part->at : part->begin) + done,
                                    .shard = part->at + done,
                                    .tensor = tensor};
    }
}

/* ---- sums ---- */

static GradientSums chunk_sums(const float *RESTRICT g, const float *RESTRICT last, size_t n, bool with_sum) {
    double squares = 0.0, product = 0.0, sum = 0.0;
    if (last) {
#pragma omp simd reduction(+ : squares, product)
        for (size_t i = 0; i < n; i++) {
            squares += (double)g[i] * (double)g[i];
            product += (double)g[i] * (double)last[i];
        }
    } else if (with_sum) {
#pragma omp simd reduction(+ : squares, sum)
        for (size_t i = 0; i < n; i++) {
            squares += (double)g[i] * (double)g[i];
            sum += (double)g[i];
        }
    } else {
#pragma omp simd reduction(+ : squares)
        for (size_t i = 0; i < n; i++) squares += (double)g[i] * (double)g[i];
    }
    return (GradientSums){squares, product, sum};
}

void multi_tensor_sums(Backend *be, const Chunk *chunks, int count, const float *gradient, const float *last,
                       bool with_sum, GradientSums *sums) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++)
        sums[c] = chunk_sums(gradient + chunks[c].gradient, last ? last + chunks[c].gradient : NULL,
                             chunks[c].end - chunks[c].begin, with_sum);
}

/* ---- elementwise rules ---- */

/* The bfloat16 copy of a chunk that was just updated and is still in the cache. */
static void copy_weights(const Chunk *chunk, const MultiTensorBuffers *b) {
    if (!b->weights) return;
    bfloat16 *RESTRICT weights = b->weights;
    const float *RESTRICT x = b->params;
#pragma omp simd
    for (size_t i = chunk->begin; i < chunk->end; i++) weights[i] = bfloat16_from_float(x[i]);
}

typedef void ChunkUpdate(const Chunk *chunk, const MultiTensorBuffers *buffers, const RuleNumbers *numbers);

/* The states of an element pass through a small array that the compiler keeps in registers. */
#define DEFINE_UPDATE(rule, uses_last, STATES, ...)                                                          \
    static void rule##_update(const Chunk *chunk, const MultiTensorBuffers *b, const RuleNumbers *numbers) { \
        const RuleNumbers r = *numbers;                                                                      \
        float *RESTRICT x = b->params + chunk->begin, *RESTRICT state0 = b->states[0] + chunk->shard;        \
        float *RESTRICT state1 = STATES > 1 ? b->states[1] + chunk->shard : NULL;                            \
        const float *RESTRICT g = b->gradient + chunk->gradient;                                             \
        const float *RESTRICT last = uses_last ? b->last + chunk->gradient : NULL;                           \
        size_t n = chunk->end - chunk->begin;                                                                \
        _Pragma("omp simd") for (size_t i = 0; i < n; i++) {                                                 \
            float state[RULE_MAX_STATES] = {state0[i], STATES > 1 ? state1[i] : 0.0f};                       \
            x[i] = rule##_element(x[i], g[i] * r.gradient_factor, uses_last ? last[i] : 0.0f, state, &r);    \
            state0[i] = state[0];                                                                            \
            if (STATES > 1) state1[i] = state[1];                                                            \
        }                                                                                                    \
    }
ELEMENTWISE_RULES(DEFINE_UPDATE)

#define UPDATE_LINE(rule, ...) [RULE_##rule] = rule##_update,
static ChunkUpdate *const updates[RULE_COUNT] = {ELEMENTWISE_RULES(UPDATE_LINE)};

void multi_tensor_update(Backend *be, RuleName rule, const Chunk *chunks, int count, MultiTensorBuffers buffers,
                         const RuleNumbers *numbers) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        updates[rule](&chunks[c], &buffers, &numbers[chunks[c].tensor]);
        copy_weights(&chunks[c], &buffers);
    }
}

/* ---- matrix rules ---- */

typedef void ChunkDirections(const Chunk *chunk, const MultiTensorBuffers *buffers, const RuleNumbers *numbers,
                             float *out);

#define DEFINE_DIRECTIONS(rule, uses_last, STATES, ...)                                                        \
    static void rule##_directions(const Chunk *chunk, const MultiTensorBuffers *b, const RuleNumbers *numbers, \
                                  float *RESTRICT out) {                                                       \
        const RuleNumbers r = *numbers;                                                                        \
        float *RESTRICT state0 = b->states[0] + chunk->shard;                                                  \
        const float *RESTRICT g = b->gradient + chunk->gradient;                                               \
        const float *RESTRICT last = uses_last ? b->last + chunk->gradient : NULL;                             \
        size_t n = chunk->end - chunk->begin;                                                                  \
        _Static_assert(STATES == 1, "the loop keeps one state");                                               \
        _Pragma("omp simd") for (size_t i = 0; i < n; i++) {                                                   \
            float state[1] = {state0[i]};                                                                      \
            out[i] = rule##_direction(g[i] * r.gradient_factor, uses_last ? last[i] : 0.0f, state, &r);        \
            state0[i] = state[0];                                                                              \
        }                                                                                                      \
    }
MATRIX_RULES(DEFINE_DIRECTIONS)

#define DIRECTIONS_LINE(rule, ...) [RULE_##rule] = rule##_directions,
static ChunkDirections *const directions[RULE_COUNT] = {MATRIX_RULES(DIRECTIONS_LINE)};

/* Rounds a chunk's directions to the type of the matrices, and sums the squares of what is stored. */
static double store_directions(const float *RESTRICT out, size_t n, void *matrices, size_t at, DType type) {
    double squares = 0.0;
    if (type == DTYPE_FLOAT32) {
        float *RESTRICT to = (float *)matrices + at;
#pragma omp simd reduction(+ : squares)
        for (size_t i = 0; i < n; i++) {
            to[i] = out[i];
            squares += (double)out[i] * (double)out[i];
        }
    } else {
        bfloat16 *RESTRICT to = (bfloat16 *)matrices + at;
#pragma omp simd reduction(+ : squares)
        for (size_t i = 0; i < n; i++) {
            to[i] = bfloat16_from_float(out[i]);
            double stored = float_from_bfloat16(to[i]);
            squares += stored * stored;
        }
    }
    return squares;
}

void multi_tensor_directions(Backend *be, RuleName rule, const Chunk *chunks, int count, MultiTensorBuffers buffers,
                             const RuleNumbers *numbers, void *matrices, DType type, double *squares) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        float out[MULTI_TENSOR_CHUNK]; /* stays in the cache */
        directions[rule](&chunks[c], &buffers, &numbers[chunks[c].tensor], out);
        squares[c] = store_directions(out, chunks[c].end - chunks[c].begin, matrices, chunks[c].matrix, type);
    }
}

static void apply_float32(float *RESTRICT x, const float *RESTRICT O, size_t n, float decay, float step) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) x[i] -= decay * x[i] + step * O[i];
}

static void apply_bfloat16(float *RESTRICT x, const bfloat16 *RESTRICT O, size_t n, float decay, float step) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) x[i] -= decay * x[i] + step * float_from_bfloat16(O[i]);
}

void multi_tensor_apply(Backend *be, const Chunk *chunks, int count, MultiTensorBuffers buffers,
                        const RuleNumbers *numbers, const void *matrices, DType type) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        const RuleNumbers *r = &numbers[chunks[c].tensor];
        float decay = r->learning_rate * r->weight_decay, *x = buffers.params + chunks[c].begin;
        size_t n = chunks[c].end - chunks[c].begin;
        if (type == DTYPE_FLOAT32)
            apply_float32(x, (const float *)matrices + chunks[c].matrix, n, decay, r->step);
        else
            apply_bfloat16(x, (const bfloat16 *)matrices + chunks[c].matrix, n, decay, r->step);
        copy_weights(&chunks[c], &buffers);
    }
}
