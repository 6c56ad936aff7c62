/* multi_tensor.c: the passes of multi_tensor.h on the CPU. Each chunk is one thread's, and what it sums is added up in
 * the order of the chunks, so no result depends on the number of threads. */
#include "optim/multi_tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void multi_tensor_append_chunks(Chunk **chunks, int *count, const Part *part, int tensor, bool gradient_is_shard) {
    size_t length = part->end - part->begin;
    size_t more = (length + MULTI_TENSOR_CHUNK - 1) / MULTI_TENSOR_CHUNK;
    *chunks = checked_realloc(*chunks, ((size_t)*count + more + 1) * sizeof **chunks, "the optimizer's chunks");
    for (size_t done = 0; done < length; done += MULTI_TENSOR_CHUNK) {
        size_t end = done + MULTI_TENSOR_CHUNK < length ? done + MULTI_TENSOR_CHUNK : length;
        (*chunks)[(*count)++] = (Chunk){.begin = part->begin + done,
                                        .end = part->begin + end,
                                        .gradient = (gradient_is_shard ? part->at : part->begin) + done,
                                        .shard = part->at + done,
                                        .tensor = tensor};
    }
}

/* ---- sums ---- */

static GradientSums chunk_sums(const float *RESTRICT g, const float *RESTRICT prev_grad, size_t n, bool with_sum) {
    double squares = 0.0, dot = 0.0, sum = 0.0;
    if (prev_grad) {
#pragma omp simd reduction(+ : squares, dot)
        for (size_t i = 0; i < n; i++) {
            squares += (double)g[i] * (double)g[i];
            dot += (double)g[i] * (double)prev_grad[i];
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
    return (GradientSums){squares, dot, sum};
}

static void sums(Backend *be, const Chunk *chunks, int count, const float *gradient, const float *prev_grad,
                 const StepResult *sum_at_first, GradientSums *sums) {
    bool with_sum = sum_at_first && sum_at_first->updates == 0;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++)
        sums[c] = chunk_sums(gradient + chunks[c].gradient, prev_grad ? prev_grad + chunks[c].gradient : NULL,
                             chunks[c].end - chunks[c].begin, with_sum);
}

static void add_up(Backend *be, const double *parts, int width, const SumRange *ranges, int count, double *sums) {
    (void)be;
    for (int i = 0; i < count; i++) {
        const double *row = parts + (size_t)ranges[i].first * (size_t)width;
        double *sum = sums + (size_t)ranges[i].to * (size_t)width;
        for (int w = 0; w < width; w++) sum[w] = 0.0;
        for (int j = 0; j < ranges[i].count; j++, row += width)
            for (int w = 0; w < width; w++) sum[w] += row[w];
    }
}

static double total_squares(const GradientSums *sums, int tensors) {
    double total = 0.0;
    for (int i = 0; i < tensors; i++) total += sums[i].squares;
    return total;
}

static void step_coeffs(Backend *be, const StepInputs *s) {
    (void)be;
    double second = s->exact ? total_squares(s->sums + s->tensors, s->tensors) : 0.0;
    StepResult result = step_result(s, total_squares(s->sums, s->tensors), second);
    for (int i = 0; i < s->tensors && !result.skipped; i++) tensor_coeffs(s, &result, i);
    *s->result = result;
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

typedef float ElementRule(float x, float g, float prev_grad, float *state, const UpdateCoeffs *coeffs);

/* The loop of every elementwise rule. Each call has constant arguments and is inlined, so that the compiler makes a loop
 * of each rule, with the states of an element in registers. */
ALWAYS_INLINE void update_chunk(ElementRule *element, const bool uses_prev_grad, const int states, const Chunk *chunk,
                                const MultiTensorBuffers *b, const UpdateCoeffs *coeffs) {
    const UpdateCoeffs r = *coeffs;
    float *RESTRICT x = b->params + chunk->begin, *kept[RULE_MAX_STATES];
    for (int s = 0; s < states; s++) kept[s] = b->states[s] + chunk->shard;
    const float *RESTRICT g = b->gradient + chunk->gradient;
    const float *RESTRICT prev_grad = uses_prev_grad ? b->prev_grad + chunk->gradient : NULL;
    size_t n = chunk->end - chunk->begin;
    INDEPENDENT_ITERATIONS
    for (size_t i = 0; i < n; i++) {
        float state[RULE_MAX_STATES];
        for (int s = 0; s < states; s++) state[s] = kept[s][i];
        x[i] = element(x[i], g[i] * r.gradient_factor, uses_prev_grad ? prev_grad[i] : 0.0f, state, &r);
        for (int s = 0; s < states; s++) kept[s][i] = state[s];
    }
}

#define UPDATE_CASE(rule, name, element, needs, keys, states, ...)                     \
    case rule:                                                                         \
        update_chunk(element, (needs)&RULE_NEEDS_PREV_GRAD, states, chunk, b, coeffs); \
        break;

static void update(Backend *be, RuleName rule, const Chunk *chunks, int count, const MultiTensorBuffers *b) {
    if (b->result->skipped) return;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        const Chunk *chunk = &chunks[c];
        const UpdateCoeffs *coeffs = &b->coeffs[chunk->tensor];
        switch (rule) {
            ELEMENTWISE_RULES(UPDATE_CASE)
        default:
            die("rule %s is not elementwise", rule_of(rule)->name);
        }
        copy_weights(chunk, b);
    }
}

/* ---- matrix rules ---- */

typedef float MatrixRule(float g, float prev_grad, float *state, const UpdateCoeffs *coeffs);

/* As update_chunk(): the directions of a chunk, to out. */
ALWAYS_INLINE void chunk_directions(MatrixRule *direction, const bool uses_prev_grad, const int states,
                                    const Chunk *chunk, const MultiTensorBuffers *b, const UpdateCoeffs *coeffs,
                                    float *RESTRICT out) {
    const UpdateCoeffs r = *coeffs;
    float *kept[RULE_MAX_STATES];
    for (int s = 0; s < states; s++) kept[s] = b->states[s] + chunk->shard;
    const float *RESTRICT g = b->gradient + chunk->gradient;
    const float *RESTRICT prev_grad = uses_prev_grad ? b->prev_grad + chunk->gradient : NULL;
    size_t n = chunk->end - chunk->begin;
    INDEPENDENT_ITERATIONS
    for (size_t i = 0; i < n; i++) {
        float state[RULE_MAX_STATES];
        for (int s = 0; s < states; s++) state[s] = kept[s][i];
        out[i] = direction(g[i] * r.gradient_factor, uses_prev_grad ? prev_grad[i] : 0.0f, state, &r);
        for (int s = 0; s < states; s++) kept[s][i] = state[s];
    }
}

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

#define DIRECTIONS_CASE(rule, name, direction, needs, keys, scale, states, ...)                   \
    case rule:                                                                                    \
        chunk_directions(direction, (needs)&RULE_NEEDS_PREV_GRAD, states, chunk, b, coeffs, out); \
        break;

static void directions(Backend *be, RuleName rule, const Chunk *chunks, int count, const MultiTensorBuffers *b,
                       void *matrices, DType type, double *squares) {
    if (b->result->skipped) return;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        const Chunk *chunk = &chunks[c];
        const UpdateCoeffs *coeffs = &b->coeffs[chunk->tensor];
        float out[MULTI_TENSOR_CHUNK]; /* stays in the cache */
        switch (rule) {
            MATRIX_RULES(DIRECTIONS_CASE)
        default:
            die("rule %s is not for matrices", rule_of(rule)->name);
        }
        squares[c] = store_directions(out, chunk->end - chunk->begin, matrices, chunk->matrix, type);
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

static void apply(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *b, const void *matrices,
                  DType type) {
    if (b->result->skipped) return;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        const UpdateCoeffs *r = &b->coeffs[chunks[c].tensor];
        float decay = r->learning_rate * r->weight_decay, *x = b->params + chunks[c].begin;
        size_t n = chunks[c].end - chunks[c].begin;
        if (type == DTYPE_FLOAT32)
            apply_float32(x, (const float *)matrices + chunks[c].matrix, n, decay, r->step);
        else
            apply_bfloat16(x, (const bfloat16 *)matrices + chunks[c].matrix, n, decay, r->step);
        copy_weights(&chunks[c], b);
    }
}

static void normalize(Backend *be, void *matrices, DType type, size_t size, int count, const double *square_norms,
                      double eps) {
    enum { BLOCK = 1 << 14 }; /* elements of one thread at a time */
#pragma omp parallel for collapse(2) schedule(static) num_threads(be->threads)
    for (int i = 0; i < count; i++)
        for (size_t begin = 0; begin < size; begin += BLOCK) {
            size_t n = size - begin < BLOCK ? size - begin : BLOCK, at = (size_t)i * size + begin;
            float factor = (float)(1.0 / (sqrt(square_norms[i]) + eps));
            float *RESTRICT x32 = (float *)matrices + at;
            bfloat16 *RESTRICT x16 = (bfloat16 *)matrices + at;
            if (type == DTYPE_FLOAT32)
                for (size_t j = 0; j < n; j++) x32[j] *= factor;
            else
                for (size_t j = 0; j < n; j++) x16[j] = bfloat16_from_float(float_from_bfloat16(x16[j]) * factor);
        }
}

/* ---- norms of an update ---- */

static void copy_params(Backend *be, const Chunk *chunks, int count, const float *params, float *old) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++)
        memcpy(old + chunks[c].shard, params + chunks[c].begin, (chunks[c].end - chunks[c].begin) * sizeof *old);
}

static UpdateSums chunk_update_sums(const float *RESTRICT x, const float *RESTRICT old, size_t n) {
    double update = 0.0, weight = 0.0;
#pragma omp simd reduction(+ : update, weight)
    for (size_t i = 0; i < n; i++) {
        double change = (double)x[i] - (double)old[i];
        update += change * change;
        weight += (double)x[i] * (double)x[i];
    }
    return (UpdateSums){update, weight};
}

static void update_sums(Backend *be, const Chunk *chunks, int count, const float *params, const float *old,
                        UpdateSums *sums) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++)
        sums[c] = chunk_update_sums(params + chunks[c].begin, old + chunks[c].shard, chunks[c].end - chunks[c].begin);
}

/* ---- between steps ---- */

static void keep_prev_grad(Backend *be, const Chunk *chunks, int count, float *to, const float *from,
                           const StepResult *result) {
    (void)be;
    if (!result->skipped) return;
    for (int c = 0; c < count; c++)
        memcpy(to + chunks[c].gradient, from + chunks[c].gradient, (chunks[c].end - chunks[c].begin) * sizeof *to);
}

/* A ring: what was sent is there at once. */
struct ResultQueue {
    int capacity;
    int64_t sent, received;
    StepResult results[];
};

static ResultQueue *open_queue(Backend *be, int capacity) {
    (void)be;
    ResultQueue *queue =
        checked_calloc(1, sizeof *queue + (size_t)capacity * sizeof *queue->results, "the steps' results");
    queue->capacity = capacity;
    return queue;
}

static void send(Backend *be, ResultQueue *queue, const StepResult *result) {
    (void)be;
    queue->results[queue->sent++ % queue->capacity] = *result;
}

static StepResult receive(Backend *be, ResultQueue *queue) {
    (void)be;
    return queue->results[queue->received++ % queue->capacity];
}

static void close_queue(Backend *be, ResultQueue *queue) {
    (void)be;
    free(queue);
}

static const MultiTensorPasses cpu_passes = {.sums = sums,
                                             .add_up = add_up,
                                             .step_coeffs = step_coeffs,
                                             .update = update,
                                             .directions = directions,
                                             .apply = apply,
                                             .keep_prev_grad = keep_prev_grad,
                                             .normalize = normalize,
                                             .copy_params = copy_params,
                                             .update_sums = update_sums,
                                             .open_queue = open_queue,
                                             .send = send,
                                             .receive = receive,
                                             .close_queue = close_queue};

const MultiTensorPasses *multi_tensor_passes(const Backend *be) {
    return be->on_gpu ? multi_tensor_cuda() : &cpu_passes;
}
