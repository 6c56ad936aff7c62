/* group.c: see group.h. */
#include "optim/group.h"

#include <stdlib.h>

#include "util/partition.h"

static void append_chunks(Group *g, const Part *part, int tensor) {
    multi_tensor_append_chunks(&g->chunks, &g->chunk_count, part, tensor, g->options.needs_shards);
}

/* ---- matrices in batches ---- */

static bool same_shape(const Tensor *a, const Tensor *b) { return a->rows == b->rows && a->columns == b->columns; }

/* Lists this process's matrices, those of one shape together, and the shapes. The caller frees both lists. */
static int *list_matrices(const Group *g, const TensorTable *table, NewtonSchulzShape **shapes, int *shape_count) {
    int rank = g->options.rank, first = g->partition.first[rank], count = g->partition.first[rank + 1] - first;
    int listed = 0;
    int *matrices = checked_calloc((size_t)count + 1, sizeof *matrices, "the optimizer's matrices");
    bool *is_listed = checked_calloc((size_t)table->count, sizeof *is_listed, "the optimizer's matrices");
    *shapes = checked_calloc((size_t)count + 1, sizeof **shapes, "the optimizer's matrices");
    *shape_count = 0;
    for (int i = 0; i < count; i++) {
        const Tensor *example = &table->tensors[partition_tensor_of(table, &g->partition.parts[first + i])];
        int before = listed;
        for (int j = i; j < count; j++) {
            int tensor = partition_tensor_of(table, &g->partition.parts[first + j]);
            if (is_listed[tensor] || !same_shape(&table->tensors[tensor], example)) continue;
            is_listed[tensor] = true;
            matrices[listed++] = tensor;
        }
        if (listed > before)
            (*shapes)[(*shape_count)++] = (NewtonSchulzShape){example->rows, example->columns, listed - before};
    }
    free(is_listed);
    return matrices;
}

static const Part *part_of(const Group *g, const Tensor *tensor) {
    for (int i = g->partition.first[g->options.rank];; i++)
        if (g->partition.parts[i].begin == tensor->offset) return &g->partition.parts[i];
}

/* Cuts the matrices of one shape into batches, and these into chunks that know their place in the workspace. */
static void append_batches(Group *g, const TensorTable *table, const NewtonSchulzShape *shape, const int *matrices,
                           const Backend *be) {
    int limit = newton_schulz_batch(be, shape);
    for (int done = 0; done < shape->count; done += limit) {
        MatrixBatch batch = {.rows = shape->rows,
                             .columns = shape->columns,
                             .first_chunk = g->chunk_count,
                             .first_matrix = g->matrix_count,
                             .matrix_count = (int)min_i64(limit, shape->count - done)};
        for (int i = 0; i < batch.matrix_count; i++) {
            int tensor = matrices[done + i], first = g->chunk_count;
            const Tensor *t = &table->tensors[tensor];
            append_chunks(g, part_of(g, t), tensor);
            for (int c = first; c < g->chunk_count; c++)
                g->chunks[c].matrix = (size_t)i * t->size + (g->chunks[c].begin - t->offset);
            g->matrices[g->matrix_count++] = (SumRange){first - batch.first_chunk, g->chunk_count - first, i};
        }
        batch.chunk_count = g->chunk_count - batch.first_chunk;
        g->batches[g->batch_count++] = batch;
    }
}

/* Newton-Schulz is planned also where this process owns no matrix, so that all find out what the device cannot do. */
static bool plan_matrices(Group *g, const TensorTable *table, Backend *be, Arena *arena, Error *error) {
    NewtonSchulzShape *shapes;
    int shape_count, *matrices = list_matrices(g, table, &shapes, &shape_count), count = 0;
    for (int s = 0; s < shape_count; s++) count += shapes[s].count;
    g->batches = checked_calloc((size_t)count + 1, sizeof *g->batches, "the optimizer's matrices");
    g->matrices = checked_calloc((size_t)count + 1, sizeof *g->matrices, "the optimizer's matrices");
    for (int s = 0, first = 0; s < shape_count; first += shapes[s++].count)
        append_batches(g, table, &shapes[s], matrices + first, be);
    g->newton_schulz =
        newton_schulz_plan(be, g->options.ns_type, g->options.ns_steps, shapes, shape_count, arena, error);
    free(shapes);
    free(matrices);
    return g->newton_schulz != NULL;
}

/* ---- opening ---- */

/* Chunks of a tensor lie one after the other. */
static void list_tensors(Group *g, const TensorTable *table) {
    SumRange *of_tensor = checked_calloc((size_t)table->count, sizeof *of_tensor, "the optimizer's tensors");
    for (int c = g->chunk_count - 1; c >= 0; c--) {
        of_tensor[g->chunks[c].tensor].first = c;
        of_tensor[g->chunks[c].tensor].count++;
    }
    for (int i = 0; i < table->count; i++)
        if (g->chosen[i]) of_tensor[g->tensor_count++] = (SumRange){of_tensor[i].first, of_tensor[i].count, i};
    g->tensors = of_tensor;
}

static void plan_group_memory(Group *g, Arena *arena) {
    size_t shard = g->shard_length * sizeof(float), chunks = (size_t)g->chunk_count;
    size_t tensors = (size_t)g->tensor_count, matrices = (size_t)g->matrix_count;
    const char *const state = "optimizer", *const work = "workspace";
    for (int s = 0; s < g->rule->states; s++) arena_plan(arena, state, g->rule->state_names[s], shard, &g->states[s]);
    if (g->options.needs_shards) {
        arena_plan(arena, work, "gradients of this process", shard, &g->shards.grad);
        if (g->rule->uses_prev_grad) arena_plan(arena, state, "g_last", shard, &g->shards.prev_grad);
        if (g->options.exact) arena_plan(arena, work, "second gradients of this process", shard, &g->shards.next_grad);
    }
    arena_plan(arena, work, "chunks", chunks * sizeof(Chunk), &g->device_chunks);
    arena_plan(arena, work, "tensors", tensors * sizeof(SumRange), &g->device_tensors);
    arena_plan(arena, work, "sums", chunks * sizeof(GradientSums), &g->sums);
    if (!g->rule->is_matrix) return;
    arena_plan(arena, work, "matrices", matrices * sizeof(SumRange), &g->device_matrices);
    arena_plan(arena, work, "squares", chunks * sizeof(double), &g->squares);
    arena_plan(arena, work, "norms", matrices * sizeof(double), &g->norms);
}

bool group_plan(Group *g, const TensorTable *table, bool *chosen, const GroupOptions *options, const double *taken,
                Backend *be, Arena *arena, Error *error) {
    *g = (Group){.options = *options, .rule = rule_of(options->rule), .chosen = chosen};
    g->passes = multi_tensor_passes(be);
    g->partition = g->rule->is_matrix
                       ? partition_matrices(table, chosen, newton_schulz_iteration_flops, options->processes)
                       : partition_evenly(table, chosen, options->processes, taken,
                                          g->rule->states + g->rule->uses_prev_grad, options->bucket);
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

static void upload(Backend *be, void *device, const void *host, size_t bytes) {
    if (bytes > 0) be->copy_from_host(be, device, host, bytes);
}

void group_start(Group *g, Backend *be) {
    upload(be, g->device_chunks, g->chunks, (size_t)g->chunk_count * sizeof *g->chunks);
    upload(be, g->device_tensors, g->tensors, (size_t)g->tensor_count * sizeof *g->tensors);
    upload(be, g->device_matrices, g->matrices, (size_t)g->matrix_count * sizeof *g->matrices);
}

void group_close(Group *g) {
    newton_schulz_close(g->newton_schulz);
    partition_free(&g->partition);
    free(g->chosen);
    free(g->chunks);
    free(g->tensors);
    free(g->matrices);
    free(g->batches);
}

/* ---- the passes of a step ---- */

void group_sums(Group *g, Backend *be, const float *gradient, const float *prev_grad, const StepResult *sum_at_first,
                GradientSums *sums) {
    enum { WIDTH = sizeof(GradientSums) / sizeof(double) };
    g->passes->sums(be, g->device_chunks, g->chunk_count, gradient, prev_grad, sum_at_first, g->sums);
    g->passes->add_up(be, (const double *)g->sums, WIDTH, g->device_tensors, g->tensor_count, (double *)sums);
}

/* One batch: directions into the workspace, Newton-Schulz, the step along the result. */
static void update_batch(Group *g, Backend *be, const MatrixBatch *batch, const MultiTensorBuffers *buffers) {
    const Chunk *chunks = g->device_chunks + batch->first_chunk;
    NewtonSchulz *ns = g->newton_schulz;
    DType type = newton_schulz_type(ns);
    double *norms = g->norms + batch->first_matrix;
    g->passes->directions(be, g->options.rule, chunks, batch->chunk_count, buffers, newton_schulz_input(ns), type,
                          g->squares);
    g->passes->add_up(be, g->squares, 1, g->device_matrices + batch->first_matrix, batch->matrix_count, norms);
    const void *result = newton_schulz_run(ns, batch->rows, batch->columns, batch->matrix_count, norms);
    g->passes->apply(be, chunks, batch->chunk_count, buffers, result, type);
}

void group_update(Group *g, Backend *be, MultiTensorBuffers buffers) {
    for (int s = 0; s < g->rule->states; s++) buffers.states[s] = g->states[s];
    if (g->rule->is_matrix)
        for (int b = 0; b < g->batch_count; b++) update_batch(g, be, &g->batches[b], &buffers);
    else
        g->passes->update(be, g->options.rule, g->device_chunks, g->chunk_count, &buffers);
}

void group_autotune(Group *g) {
    for (int b = 0; b < g->batch_count; b++) {
        const MatrixBatch *batch = &g->batches[b];
        newton_schulz_autotune(g->newton_schulz, batch->rows, batch->columns, batch->matrix_count,
                               g->norms + batch->first_matrix);
    }
}

void group_keep_prev_grad(Group *g, Backend *be, float *to, const float *from, const StepResult *result) {
    g->passes->keep_prev_grad(be, g->device_chunks, g->chunk_count, to, from, result);
}

double group_numbers_kept(const Group *g, int r) {
    return (double)partition_shard_length(&g->partition, r) * (g->rule->states + g->rule->uses_prev_grad);
}
