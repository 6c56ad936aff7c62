/* rule_groups.c: see rule_groups.h. */
#include "optim/rule_groups.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/partition.h"

/* ---- coefficients that no step changes ---- */

double tensor_plan_k(const OptimConfig *c) { return c->gamma * c->beta1 / (1.0 - c->beta1); }

static double scale_factor(MuonScale scale, double rows, double columns) {
    switch (scale) {
    case MUON_SCALE_SPECTRAL:
        return sqrt(fmax(1.0, rows / columns));
    case MUON_SCALE_SQRT_MAX:
        return sqrt(fmax(rows, columns));
    case MUON_SCALE_MOONLIGHT:
        return 0.2 * sqrt(fmax(rows, columns));
    default:
        return 1.0;
    }
}

/* Matrices that a tensor holds for a matrix rule. */
static int matrices_in(const Tensor *t, bool split_qkv) { return split_qkv ? t->stacked : 1; }

size_t line_state_size(const Tensor *t, bool split_qkv) {
    int matrices = matrices_in(t, split_qkv);
    return (size_t)(matrices * line_count(t->rows / matrices, t->columns));
}

TensorPlan tensor_plan(const OptimConfig *c, const Tensor *t) {
    int index = param_group_of(c, t->role);
    const ParamGroup *group = &optimizer_of(c->name)->groups[index];
    const Rule *rule = rule_of(group->rule);
    bool has_betas_1d = group->betas == BETAS_1D;
    TensorPlan plan = {.elements = (double)t->size,
                       .group = index,
                       .uses_prev_grad = rule->uses_prev_grad,
                       .uses_snr = rule->uses_snr,
                       .fixed = {.weight_decay = (float)param_group_weight_decay(group, c),
                                 .beta1 = (float)(has_betas_1d ? c->betas_1d[0] : c->beta1),
                                 .beta2 = (float)(rule->uses_lines ? c->muon_beta2
                                                  : has_betas_1d   ? c->betas_1d[1]
                                                                   : c->beta2),
                                 .eps = (float)c->eps,
                                 .gamma = (float)c->gamma,
                                 .momentum = (float)c->momentum,
                                 .nesterov = c->nesterov}};
    if (rule->uses_prev_grad) plan.fixed.k = (float)tensor_plan_k(c);
    if (rule->is_matrix) {
        MuonScale scale = c->muon_scale == MUON_SCALE_AUTO ? rule->muon_scale : c->muon_scale;
        int64_t rows = t->rows / matrices_in(t, c->split_qkv);
        plan.scale = scale_factor(scale, (double)rows, (double)t->columns);
    }
    return plan;
}

static void append_chunks(RuleGroup *g, const Part *part, int tensor) {
    multi_tensor_append_chunks(&g->chunks, &g->chunk_count, part, tensor, g->options.needs_shards);
}

/* ---- matrices in batches ---- */

/* A matrix of this rank: a tensor, or with split_qkv one of those that are stacked in it. */
typedef struct Matrix {
    int tensor, index; /* its number among those that are stacked */
    int64_t rows, columns;
    Part part;
} Matrix;

static size_t matrix_size(const Matrix *m) { return (size_t)(m->rows * m->columns); }

/* Lists this rank's matrices in flat order. The caller frees the list. */
static Matrix *list_matrices(const RuleGroup *g, const TensorTable *table, int *count) {
    const Partition *p = &g->partition;
    int first = p->first[g->options.rank], end = p->first[g->options.rank + 1];
    size_t limit = 1;
    for (int i = first; i < end; i++) limit += (size_t)table->tensors[partition_tensor_of(table, &p->parts[i])].stacked;
    Matrix *matrices = checked_calloc(limit, sizeof *matrices, "the optimizer's matrices");
    *count = 0;
    for (int i = first; i < end; i++) {
        int tensor = partition_tensor_of(table, &p->parts[i]);
        const Tensor *t = &table->tensors[tensor];
        int stacked = matrices_in(t, g->options.split_qkv);
        for (int m = 0; m < stacked; m++) {
            size_t size = t->size / (size_t)stacked, begin = t->offset + (size_t)m * size;
            matrices[(*count)++] =
                (Matrix){tensor, m, t->rows / stacked, t->columns, part_within(&p->parts[i], begin, begin + size)};
        }
    }
    return matrices;
}

/* Moves matrices of one shape next to each other, in the order of each shape's first matrix, and lists the shapes. */
static NewtonSchulzShape *sort_by_shape(Matrix *matrices, int count, int *shape_count) {
    NewtonSchulzShape *shapes = checked_calloc((size_t)count + 1, sizeof *shapes, "the optimizer's matrices");
    *shape_count = 0;
    for (int sorted = 0; sorted < count;) {
        NewtonSchulzShape shape = {matrices[sorted].rows, matrices[sorted].columns, 0};
        for (int j = sorted; j < count; j++) {
            Matrix found = matrices[j];
            if (found.rows != shape.rows || found.columns != shape.columns) continue;
            memmove(&matrices[sorted + 1], &matrices[sorted], (size_t)(j - sorted) * sizeof found);
            matrices[sorted++] = found;
            shape.count++;
        }
        shapes[(*shape_count)++] = shape;
    }
    return shapes;
}

/* Says where in a batch, of which this is matrix i, a chunk lies. */
static void place_chunk(Chunk *chunk, const Matrix *m, int i) {
    int64_t at = (int64_t)(chunk->begin - m->part.begin), lines = i * line_count(m->rows, m->columns);
    chunk->matrix = (size_t)i * matrix_size(m) + (size_t)at;
    chunk->line = (int)(lines_are_rows(m->rows, m->columns) ? lines + at / m->columns : lines);
    chunk->column = (int)(at % m->columns);
}

/* Cuts the matrices of one shape into batches, and these into chunks. */
static void append_batches(RuleGroup *g, const NewtonSchulzShape *shape, const Matrix *matrices, const Backend *be) {
    int limit = newton_schulz_batch(be, shape);
    for (int done = 0; done < shape->count; done += limit) {
        MatrixBatch batch = {.rows = shape->rows,
                             .columns = shape->columns,
                             .first_chunk = g->chunk_count,
                             .first_matrix = g->matrix_count,
                             .matrix_count = (int)min_i64(limit, shape->count - done)};
        for (int i = 0; i < batch.matrix_count; i++) {
            const Matrix *m = &matrices[done + i];
            int first = g->chunk_count;
            append_chunks(g, &m->part, m->tensor);
            for (int c = first; c < g->chunk_count; c++) place_chunk(&g->chunks[c], m, i);
            if (g->lines)
                g->lines[g->matrix_count] = (LineState){
                    g->line_state_begin[m->tensor] + (size_t)(m->index * line_count(m->rows, m->columns)), m->tensor};
            g->matrices[g->matrix_count++] = (SumRange){first - batch.first_chunk, g->chunk_count - first, i};
        }
        batch.chunk_count = g->chunk_count - batch.first_chunk;
        g->batches[g->batch_count++] = batch;
    }
}

/* The states of lines of this rank's tensors lie one after the other. */
static void list_line_states(RuleGroup *g, const TensorTable *table, int matrices) {
    const Partition *p = &g->partition;
    g->lines = checked_calloc((size_t)matrices + 1, sizeof *g->lines, "the optimizer's matrices");
    g->line_state_begin = checked_calloc((size_t)table->count, sizeof *g->line_state_begin, "the optimizer's tensors");
    for (int i = p->first[g->options.rank]; i < p->first[g->options.rank + 1]; i++) {
        int tensor = partition_tensor_of(table, &p->parts[i]);
        g->line_state_begin[tensor] = g->line_state_length;
        g->line_state_length += line_state_size(&table->tensors[tensor], g->options.split_qkv);
    }
}

/* Plans Newton-Schulz even if this rank owns no matrix, so that all ranks fail if the device cannot run it. */
static bool plan_matrices(RuleGroup *g, const TensorTable *table, Backend *be, Arena *arena, Error *error) {
    int count, shape_count;
    Matrix *matrices = list_matrices(g, table, &count);
    NewtonSchulzShape *shapes = sort_by_shape(matrices, count, &shape_count);
    if (g->rule->uses_lines) list_line_states(g, table, count);
    g->batches = checked_calloc((size_t)count + 1, sizeof *g->batches, "the optimizer's matrices");
    g->matrices = checked_calloc((size_t)count + 1, sizeof *g->matrices, "the optimizer's matrices");
    for (int s = 0, first = 0; s < shape_count; first += shapes[s++].count)
        append_batches(g, &shapes[s], matrices + first, be);
    g->newton_schulz = newton_schulz_plan(be, g->options.ns_type, g->options.ns_coefficients, g->options.ns_steps,
                                          shapes, shape_count, arena, error);
    free(shapes);
    free(matrices);
    return g->newton_schulz != NULL;
}

/* ---- opening ---- */

/* Chunks of a tensor lie one after the other. */
static void list_tensors(RuleGroup *g, const TensorTable *table) {
    SumRange *of_tensor = checked_calloc((size_t)table->count, sizeof *of_tensor, "the optimizer's tensors");
    for (int c = g->chunk_count - 1; c >= 0; c--) {
        of_tensor[g->chunks[c].tensor].first = c;
        of_tensor[g->chunks[c].tensor].count++;
    }
    for (int i = 0; i < table->count; i++)
        if (g->chosen[i]) of_tensor[g->tensor_count++] = (SumRange){of_tensor[i].first, of_tensor[i].count, i};
    g->tensors = of_tensor;
}

static void plan_line_memory(RuleGroup *g, Arena *arena) {
    size_t squares = 0, factors = 0;
    for (int b = 0; b < g->batch_count; b++) {
        const MatrixBatch *batch = &g->batches[b];
        size_t lines = (size_t)(batch->matrix_count * line_count(batch->rows, batch->columns));
        size_t sums = lines * (size_t)line_slabs(batch->rows, batch->columns);
        if (lines > factors) factors = lines;
        if (sums > squares) squares = sums;
    }
    size_t state = g->line_state_length * sizeof *g->line_state;
    arena_plan(arena, "optimizer", g->rule->state_names[g->rule->states], state, &g->line_state);
    arena_plan(arena, "workspace", "lines", (size_t)g->matrix_count * sizeof *g->lines, &g->device_lines);
    arena_plan(arena, "workspace", "squares of lines", squares * sizeof *g->line_squares, &g->line_squares);
    arena_plan(arena, "workspace", "factors of lines", factors * sizeof *g->line_factors, &g->line_factors);
}

static void plan_group_memory(RuleGroup *g, Arena *arena) {
    size_t shard = g->shard_length * sizeof(float), chunks = (size_t)g->chunk_count;
    size_t tensors = (size_t)g->tensor_count, matrices = (size_t)g->matrix_count;
    const char *const state = "optimizer", *const work = "workspace";
    for (int s = 0; s < g->rule->states; s++) arena_plan(arena, state, g->rule->state_names[s], shard, &g->states[s]);
    if (g->options.needs_shards) {
        arena_plan(arena, work, "gradients of this rank", shard, &g->shards.grad);
        if (g->rule->uses_prev_grad) arena_plan(arena, state, PREV_GRAD_STATE, shard, &g->shards.prev_grad);
        if (g->options.exact) arena_plan(arena, work, "second gradients of this rank", shard, &g->shards.next_grad);
    }
    arena_plan(arena, work, "chunks", chunks * sizeof(Chunk), &g->device_chunks);
    arena_plan(arena, work, "tensors", tensors * sizeof(SumRange), &g->device_tensors);
    arena_plan(arena, work, "sums", chunks * sizeof(GradientSums), &g->sums);
    if (!g->rule->is_matrix) return;
    arena_plan(arena, work, "matrices", matrices * sizeof(SumRange), &g->device_matrices);
    arena_plan(arena, work, "squares", chunks * sizeof(double), &g->squares);
    arena_plan(arena, work, "norms", matrices * sizeof(double), &g->norms);
    if (g->rule->uses_lines) plan_line_memory(g, arena);
}

Partition rule_partition(const Rule *rule, const TensorTable *table, const bool *chosen, int ranks, const double *taken,
                         size_t bucket) {
    if (rule->is_matrix) return partition_matrices(table, chosen, newton_schulz_iteration_flops, ranks);
    return partition_evenly(table, chosen, ranks, taken, rule->states + rule->uses_prev_grad, bucket);
}

bool rule_group_plan(RuleGroup *g, const TensorTable *table, bool *chosen, const RuleGroupOptions *options,
                     const double *taken, Backend *be, Arena *arena, Error *error) {
    *g = (RuleGroup){.options = *options, .rule = rule_of(options->rule), .chosen = chosen};
    g->passes = multi_tensor_passes(be);
    g->partition = rule_partition(g->rule, table, chosen, options->ranks, taken, options->bucket);
    g->shard_length = partition_shard_length(&g->partition, options->rank);
    if (g->rule->is_matrix) {
        if (!plan_matrices(g, table, be, arena, error)) return false;
    } else {
        for (int i = g->partition.first[options->rank]; i < g->partition.first[options->rank + 1]; i++)
            append_chunks(g, &g->partition.parts[i], partition_tensor_of(table, &g->partition.parts[i]));
    }
    list_tensors(g, table);
    plan_group_memory(g, arena);
    return true;
}

void rule_group_plan_norms(RuleGroup *g, Arena *arena) {
    arena_plan(arena, "workspace", "parameters before a step", g->shard_length * sizeof *g->old_params, &g->old_params);
    arena_plan(arena, "workspace", "sums of updates", (size_t)g->chunk_count * sizeof *g->update_sums, &g->update_sums);
}

void rule_group_plan_ema(RuleGroup *g, Arena *arena) {
    arena_plan(arena, "optimizer", "average of weights", g->shard_length * sizeof *g->ema, &g->ema);
}

static void upload(Backend *be, void *device, const void *host, size_t bytes) {
    if (bytes > 0) be->copy_from_host(be, device, host, bytes);
}

void rule_group_start(RuleGroup *g, Backend *be) {
    upload(be, g->device_chunks, g->chunks, (size_t)g->chunk_count * sizeof *g->chunks);
    upload(be, g->device_tensors, g->tensors, (size_t)g->tensor_count * sizeof *g->tensors);
    upload(be, g->device_matrices, g->matrices, (size_t)g->matrix_count * sizeof *g->matrices);
    if (g->lines) upload(be, g->device_lines, g->lines, (size_t)g->matrix_count * sizeof *g->lines);
}

void rule_group_close(RuleGroup *g) {
    newton_schulz_close(g->newton_schulz);
    partition_free(&g->partition);
    free(g->chosen);
    free(g->chunks);
    free(g->tensors);
    free(g->matrices);
    free(g->batches);
    free(g->lines);
    free(g->line_state_begin);
}

/* ---- the passes of a step ---- */

void rule_group_sums(RuleGroup *g, Backend *be, const float *gradient, const float *prev_grad,
                     const StepResult *sum_at_first, GradientSums *sums) {
    enum { WIDTH = sizeof(GradientSums) / sizeof(double) };
    g->passes->sums(be, g->device_chunks, g->chunk_count, gradient, prev_grad, sum_at_first, g->sums);
    g->passes->add_up(be, (const double *)g->sums, WIDTH, g->device_tensors, g->tensor_count, (double *)sums);
}

/* A factor for each line of the batch's orthogonal matrices; NULL for a rule without lines. */
static const float *factors_of_lines(RuleGroup *g, Backend *be, const MatrixBatch *batch, const MatrixList *matrices,
                                     const MultiTensorBuffers *buffers) {
    if (!g->rule->uses_lines) return NULL;
    g->passes->line_squares(be, matrices, buffers->result, g->line_squares);
    g->passes->line_factors(be, matrices, g->device_lines + batch->first_matrix, buffers, g->line_squares,
                            g->line_factors);
    return g->line_factors;
}

/* One batch: directions into the workspace, Newton-Schulz, the step along the result. */
static void update_batch(RuleGroup *g, Backend *be, const MatrixBatch *batch, const MultiTensorBuffers *buffers) {
    const Chunk *chunks = g->device_chunks + batch->first_chunk;
    NewtonSchulz *ns = g->newton_schulz;
    DType type = newton_schulz_type(ns);
    double *norms = g->norms + batch->first_matrix;
    g->passes->directions(be, g->options.rule, chunks, batch->chunk_count, buffers, newton_schulz_input(ns), type,
                          g->squares);
    g->passes->add_up(be, g->squares, 1, g->device_matrices + batch->first_matrix, batch->matrix_count, norms);
    const void *result = newton_schulz_run(ns, batch->rows, batch->columns, batch->matrix_count, norms);
    MatrixList matrices = {result, type, batch->rows, batch->columns, batch->matrix_count};
    const float *factors = factors_of_lines(g, be, batch, &matrices, buffers);
    g->passes->apply(be, chunks, batch->chunk_count, buffers, &matrices, factors);
}

void rule_group_update(RuleGroup *g, Backend *be, MultiTensorBuffers buffers) {
    for (int s = 0; s < g->rule->states; s++) buffers.states[s] = g->states[s];
    buffers.line_state = g->line_state;
    buffers.cautious = g->options.cautious;
    if (g->rule->is_matrix)
        for (int b = 0; b < g->batch_count; b++) update_batch(g, be, &g->batches[b], &buffers);
    else
        g->passes->update(be, g->options.rule, g->device_chunks, g->chunk_count, &buffers);
}

void rule_group_autotune(RuleGroup *g) {
    for (int b = 0; b < g->batch_count; b++) {
        const MatrixBatch *batch = &g->batches[b];
        newton_schulz_autotune(g->newton_schulz, batch->rows, batch->columns, batch->matrix_count,
                               g->norms + batch->first_matrix);
    }
}

void rule_group_keep_prev_grad(RuleGroup *g, Backend *be, float *to, const float *from, const StepResult *result) {
    g->passes->keep_prev_grad(be, g->device_chunks, g->chunk_count, to, from, result);
}

void rule_group_copy_params(RuleGroup *g, Backend *be, const float *params) {
    g->passes->copy_params(be, g->device_chunks, g->chunk_count, params, g->old_params);
}

void rule_group_update_sums(RuleGroup *g, Backend *be, const float *params, UpdateSums *sums) {
    enum { WIDTH = sizeof(UpdateSums) / sizeof(double) };
    g->passes->update_sums(be, g->device_chunks, g->chunk_count, params, g->old_params, g->update_sums);
    g->passes->add_up(be, (const double *)g->update_sums, WIDTH, g->device_tensors, g->tensor_count, (double *)sums);
}

void rule_group_update_ema(RuleGroup *g, Backend *be, const float *params, float rate) {
    g->passes->update_ema(be, g->device_chunks, g->chunk_count, params, g->ema, rate);
}

void rule_group_mix_ema(RuleGroup *g, Backend *be, const float *params, float mix, void *to, DType type) {
    g->passes->mix_ema(be, g->device_chunks, g->chunk_count, params, g->ema, mix, to, type);
}

double rule_group_elements_kept(const RuleGroup *g, int r) {
    return (double)partition_shard_length(&g->partition, r) * (g->rule->states + g->rule->uses_prev_grad);
}
