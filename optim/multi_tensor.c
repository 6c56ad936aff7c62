/* multi_tensor.c: the passes of multi_tensor.h on the CPU. One thread computes each chunk, and sums of chunks are added
 * in the order of the chunks, so no result depends on the number of threads. */
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

typedef float RuleDirection(float g, float prev_grad, float *state, const UpdateCoeffs *coeffs);

/* The loop of every elementwise rule. Each call has constant arguments and is inlined, so that the compiler makes a
 * loop of each rule, with the states of an element in registers. */
ALWAYS_INLINE void update_chunk(RuleDirection *direction, const bool uses_prev_grad, const int states,
                                const bool cautious, const Chunk *chunk, const MultiTensorBuffers *b,
                                const UpdateCoeffs *coeffs) {
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
        float decay = r.weight_decay * x[i];
        float u = direction(g[i] * r.gradient_factor, uses_prev_grad ? prev_grad[i] : 0.0f, state, &r);
        x[i] -= r.learning_rate * (element_decay(decay, u, x[i], cautious) + u);
        for (int s = 0; s < states; s++) kept[s][i] = state[s];
    }
}

#define UPDATE_CASE(rule, name, direction, needs, keys, states, ...)                                \
    case rule:                                                                                      \
        if (b->cautious)                                                                            \
            update_chunk(direction, (needs)&RULE_NEEDS_PREV_GRAD, states, true, chunk, b, coeffs);  \
        else                                                                                        \
            update_chunk(direction, (needs)&RULE_NEEDS_PREV_GRAD, states, false, chunk, b, coeffs); \
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

/* The same loop for matrix rules: writes the directions of a chunk to out. */
ALWAYS_INLINE void chunk_directions(RuleDirection *direction, const bool uses_prev_grad, const int states,
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

/* The step of n elements along O, which is float32 or bfloat16. `factors` has one factor for each element, or is NULL.
 * As in update_chunk(), calls have constant arguments where it matters. */
ALWAYS_INLINE void apply_along(float *RESTRICT x, const void *O, const bool is_bfloat16, const float *RESTRICT factors,
                               size_t n, float decay, float step, const bool cautious) {
    const float *RESTRICT O32 = O;
    const bfloat16 *RESTRICT O16 = O;
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float o = is_bfloat16 ? float_from_bfloat16(O16[i]) : O32[i];
        float along = factors ? step * factors[i] : step;
        x[i] -= element_decay(decay * x[i], o, x[i], cautious) + along * o;
    }
}

ALWAYS_INLINE void apply_type(float *x, const void *O, const bool is_bfloat16, const float *factors, size_t n,
                              float decay, float step, bool cautious) {
    if (factors && cautious)
        apply_along(x, O, is_bfloat16, factors, n, decay, step, true);
    else if (factors)
        apply_along(x, O, is_bfloat16, factors, n, decay, step, false);
    else if (cautious)
        apply_along(x, O, is_bfloat16, NULL, n, decay, step, true);
    else
        apply_along(x, O, is_bfloat16, NULL, n, decay, step, false);
}

/* The step of elements [at, at + n) of a chunk. */
static void apply_part(const Chunk *chunk, const MultiTensorBuffers *b, const MatrixList *m, const float *factors,
                       size_t at, size_t n, float step) {
    const UpdateCoeffs *r = &b->coeffs[chunk->tensor];
    float decay = r->learning_rate * r->weight_decay, *x = b->params + chunk->begin + at;
    if (m->type == DTYPE_FLOAT32)
        apply_type(x, (const float *)m->elements + chunk->matrix + at, false, factors, n, decay, step, b->cautious);
    else
        apply_type(x, (const bfloat16 *)m->elements + chunk->matrix + at, true, factors, n, decay, step, b->cautious);
}

/* The step of a chunk, row by row; its first and last row may be incomplete. */
static void apply_lines(const Chunk *chunk, const MultiTensorBuffers *b, const MatrixList *m, const float *factors) {
    const bool are_rows = lines_are_rows(m->rows, m->columns);
    const float step = b->coeffs[chunk->tensor].step, *line = factors + chunk->line;
    size_t length = chunk->end - chunk->begin, column = (size_t)chunk->column, columns = (size_t)m->columns;
    for (size_t at = 0, n; at < length; at += n, column = 0) {
        n = columns - column < length - at ? columns - column : length - at;
        if (are_rows)
            apply_part(chunk, b, m, NULL, at, n, step * *line++);
        else
            apply_part(chunk, b, m, line + column, at, n, step);
    }
}

static void apply(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *b, const MatrixList *m,
                  const float *factors) {
    if (b->result->skipped) return;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        if (factors)
            apply_lines(&chunks[c], b, m, factors);
        else
            apply_part(&chunks[c], b, m, NULL, 0, chunks[c].end - chunks[c].begin, b->coeffs[chunks[c].tensor].step);
        copy_weights(&chunks[c], b);
    }
}

/* ---- lines ---- */

/* The sum of squares of n elements from `at` on. */
static double sum_of_squares(const MatrixList *m, size_t at, size_t n) {
    const float *RESTRICT x32 = (const float *)m->elements + at;
    const bfloat16 *RESTRICT x16 = (const bfloat16 *)m->elements + at;
    double sum = 0.0;
    if (m->type == DTYPE_FLOAT32) {
#pragma omp simd reduction(+ : sum)
        for (size_t i = 0; i < n; i++) sum += (double)x32[i] * (double)x32[i];
    } else {
#pragma omp simd reduction(+ : sum)
        for (size_t i = 0; i < n; i++) sum += (double)float_from_bfloat16(x16[i]) * (double)float_from_bfloat16(x16[i]);
    }
    return sum;
}

/* sums[i] += the square of element at + i. */
static void add_squares(const MatrixList *m, size_t at, size_t n, double *RESTRICT sums) {
    const float *RESTRICT x32 = (const float *)m->elements + at;
    const bfloat16 *RESTRICT x16 = (const bfloat16 *)m->elements + at;
    if (m->type == DTYPE_FLOAT32) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) sums[i] += (double)x32[i] * (double)x32[i];
    } else {
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            sums[i] += (double)float_from_bfloat16(x16[i]) * (double)float_from_bfloat16(x16[i]);
    }
}

static void line_squares(Backend *be, const MatrixList *m, const StepResult *result, double *squares) {
    if (result->skipped) return;
    const bool are_rows = lines_are_rows(m->rows, m->columns);
    const int64_t slabs = ceil_div(m->rows, LINE_SLAB);
    const size_t columns = (size_t)m->columns;
#pragma omp parallel for collapse(2) schedule(static) num_threads(be->threads)
    for (int i = 0; i < m->count; i++)
        for (int64_t slab = 0; slab < slabs; slab++) {
            int64_t begin = slab * LINE_SLAB, end = min_i64(begin + LINE_SLAB, m->rows), first_row = i * m->rows;
            double *sums = squares + (size_t)(i * slabs + slab) * columns;
            if (!are_rows) memset(sums, 0, columns * sizeof *sums);
            for (int64_t row = begin; row < end; row++) {
                size_t at = (size_t)(first_row + row) * columns;
                if (are_rows)
                    squares[first_row + row] = sum_of_squares(m, at, columns);
                else
                    add_squares(m, at, columns, sums);
            }
        }
}

static void line_factors(Backend *be, const MatrixList *m, const LineState *where, const MultiTensorBuffers *b,
                         const double *squares, float *factors) {
    if (b->result->skipped) return;
    const int64_t lines = line_count(m->rows, m->columns), slabs = line_slabs(m->rows, m->columns);
    const double length = (double)min_i64(m->rows, m->columns);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int i = 0; i < m->count; i++) {
        const UpdateCoeffs *r = &b->coeffs[where[i].tensor];
        float *state = b->line_state + where[i].begin, *factor = factors + i * lines;
        double before = 0.0, after = 0.0;
        for (int64_t l = 0; l < lines; l++) {
            double square = 0.0;
            for (int64_t slab = 0; slab < slabs; slab++) square += squares[(i * slabs + slab) * lines + l];
            square *= (double)r->scale * (double)r->scale;
            state[l] = normuon_v(state[l], square / length, r);
            before += square;
            after += square / normuon_divisor_square(state[l]);
        }
        double norm_factor = normuon_norm_factor(before, after);
        for (int64_t l = 0; l < lines; l++) factor[l] = (float)(norm_factor / sqrt(normuon_divisor_square(state[l])));
    }
}

static void normalize(Backend *be, void *matrices, DType type, size_t size, int count, const double *square_norms,
                      double factor, double eps) {
    enum { BLOCK = 1 << 14 }; /* elements of one thread at a time */
#pragma omp parallel for collapse(2) schedule(static) num_threads(be->threads)
    for (int i = 0; i < count; i++)
        for (size_t begin = 0; begin < size; begin += BLOCK) {
            size_t n = size - begin < BLOCK ? size - begin : BLOCK, at = (size_t)i * size + begin;
            float scale = (float)(1.0 / (factor * sqrt(square_norms[i]) + eps));
            float *RESTRICT x32 = (float *)matrices + at;
            bfloat16 *RESTRICT x16 = (bfloat16 *)matrices + at;
            if (type == DTYPE_FLOAT32)
                for (size_t j = 0; j < n; j++) x32[j] *= scale;
            else
                for (size_t j = 0; j < n; j++) x16[j] = bfloat16_from_float(float_from_bfloat16(x16[j]) * scale);
        }
}

/* ---- an average of the weights ---- */

/* A rate of 1 copies x: the sum would keep a NaN of the old average. */
static void update_ema_chunk(const float *RESTRICT x, float *RESTRICT ema, size_t n, float rate) {
    if (rate == 1.0f)
        memcpy(ema, x, n * sizeof *ema);
    else
        for (size_t i = 0; i < n; i++) ema[i] += rate * (x[i] - ema[i]);
}

static void update_ema(Backend *be, const Chunk *chunks, int count, const float *params, float *ema, float rate) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++)
        update_ema_chunk(params + chunks[c].begin, ema + chunks[c].shard, chunks[c].end - chunks[c].begin, rate);
}

ALWAYS_INLINE float mixed(float x, const float *ema, size_t i, float mix) {
    return mix == 0.0f ? x : x + mix * (ema[i] - x);
}

static void mix_ema(Backend *be, const Chunk *chunks, int count, const float *params, const float *ema, float mix,
                    void *to, DType type) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int c = 0; c < count; c++) {
        const float *RESTRICT x = params + chunks[c].begin, *RESTRICT e = ema + chunks[c].shard;
        float *RESTRICT to32 = (float *)to + chunks[c].begin;
        bfloat16 *RESTRICT to16 = (bfloat16 *)to + chunks[c].begin;
        size_t n = chunks[c].end - chunks[c].begin;
        if (type == DTYPE_FLOAT32)
            for (size_t i = 0; i < n; i++) to32[i] = mixed(x[i], e, i, mix);
        else
            for (size_t i = 0; i < n; i++) to16[i] = bfloat16_from_float(mixed(x[i], e, i, mix));
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

/* A ring buffer. On a CPU a sent result can be received at once. */
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
                                             .line_squares = line_squares,
                                             .line_factors = line_factors,
                                             .keep_prev_grad = keep_prev_grad,
                                             .normalize = normalize,
                                             .copy_params = copy_params,
                                             .update_sums = update_sums,
                                             .update_ema = update_ema,
                                             .mix_ema = mix_ema,
                                             .open_queue = open_queue,
                                             .send = send,
                                             .receive = receive,
                                             .close_queue = close_queue};

const MultiTensorPasses *multi_tensor_passes(const Backend *be) {
    return be->on_gpu ? multi_tensor_cuda() : &cpu_passes;
}
