/* group.c: see group.h. */
#include "optim/group.h"

#include <stdlib.h>
#include <string.h>

#include "optim/partition.h"

/* ---- matrices in batches ---- */

static bool same_shape(const Tensor *a, const Tensor *b) { return a->rows == b->rows && a->columns == b->columns; }

/* Lists this process's matrices, those of one shape together, and the shapes. The caller frees both lists. */
static int *list_matrices(const Group *g, const TensorTable *table, int rank, NewtonSchulzShape **shapes,
                          int *shape_count) {
    int first = g->partition.first[rank], count = g->partition.first[rank + 1] - first, listed = 0;
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

static const Part *part_of(const Group *g, const Tensor *tensor, int rank) {
    for (int i = g->partition.first[rank];; i++)
        if (g->partition.parts[i].begin == tensor->offset) return &g->partition.parts[i];
}

/* Cuts the matrices of one shape into batches, and these into chunks that know their place in the workspace. */
static void append_batches(Group *g, const TensorTable *table, const NewtonSchulzShape *shape, const int *matrices,
                           const GroupOptions *options, const Backend *be) {
    int most = newton_schulz_batch(be, shape);
    for (int done = 0; done < shape->count; done += most) {
        MatrixBatch batch = {.rows = shape->rows,
                             .columns = shape->columns,
                             .first_chunk = g->chunk_count,
                             .matrix_count = (int)min_i64(most, shape->count - done)};
        for (int i = 0; i < batch.matrix_count; i++) {
            int tensor = matrices[done + i], chunk = g->chunk_count;
            const Tensor *t = &table->tensors[tensor];
            multi_tensor_append_chunks(&g->chunks, &g->chunk_count, part_of(g, t, options->rank), tensor,
                                       options->needs_shards);
            for (; chunk < g->chunk_count; chunk++)
                g->chunks[chunk].matrix = (size_t)i * t->size + (g->chunks[chunk].begin - t->offset);
        }
        batch.chunk_count = g->chunk_count - batch.first_chunk;
        g->batches[g->batch_count++] = batch;
    }
}

/* Newton-Schulz is opened also where this process owns no matrix, so that all find out what the device cannot do. */
static bool open_matrices(Group *g, const TensorTable *table, const GroupOptions *options, Backend *be, Error *error) {
    NewtonSchulzShape *shapes;
    int shape_count, *matrices = list_matrices(g, table, options->rank, &shapes, &shape_count), count = 0;
    for (int s = 0; s < shape_count; s++) count += shapes[s].count;
    g->batches = checked_calloc((size_t)count + 1, sizeof *g->batches, "the optimizer's matrices");
    for (int s = 0, first = 0; s < shape_count; first += shapes[s++].count)
        append_batches(g, table, &shapes[s], matrices + first, options, be);
    g->squares = checked_calloc((size_t)g->chunk_count + 1, sizeof *g->squares, "the optimizer's sums");
    g->norms = checked_calloc((size_t)count + 1, sizeof *g->norms, "the optimizer's sums");
    g->newton_schulz = newton_schulz_open(be, options->ns_type, options->ns_steps, shapes, shape_count, error);
    free(shapes);
    free(matrices);
    return g->newton_schulz != NULL;
}

/* ---- opening ---- */

static float *shard_buffer(const Group *g, Backend *be) {
    return be->alloc(be, (g->shard_length + 1) * sizeof(float), "the optimizer's state"); /* of nothing: not NULL */
}

static void take_memory(Group *g, const GroupOptions *options, Backend *be) {
    for (int s = 0; s < g->rule->states; s++) g->states[s] = shard_buffer(g, be);
    if (!options->needs_shards) return;
    g->shards.now = shard_buffer(g, be);
    if (g->rule->uses_last) g->shards.last = shard_buffer(g, be);
    if (options->exact) g->shards.next = shard_buffer(g, be);
}

bool group_open(Group *g, const TensorTable *table, bool *chosen, const GroupOptions *options, Backend *be,
                Error *error) {
    *g = (Group){.name = options->rule, .rule = rule_of(options->rule), .chosen = chosen};
    g->partition = g->rule->is_matrix ? partition_matrices(table, chosen, options->processes)
                                      : partition_evenly(table, chosen, options->processes, options->taken,
                                                         g->rule->states + g->rule->uses_last);
    g->shard_length = partition_shard_length(&g->partition, options->rank);
    if (g->rule->is_matrix) {
        if (!open_matrices(g, table, options, be, error)) return false;
    } else {
        for (int i = g->partition.first[options->rank]; i < g->partition.first[options->rank + 1]; i++)
            multi_tensor_append_chunks(&g->chunks, &g->chunk_count, &g->partition.parts[i],
                                       partition_tensor_of(table, &g->partition.parts[i]), options->needs_shards);
    }
    g->sums = checked_calloc((size_t)g->chunk_count + 1, sizeof *g->sums, "the optimizer's sums");
    take_memory(g, options, be);
    return true;
}

void group_close(Group *g, Backend *be) {
    for (int s = 0; s < RULE_MAX_STATES; s++) be->free(be, g->states[s]);
    be->free(be, g->shards.now);
    be->free(be, g->shards.last);
    be->free(be, g->shards.next);
    if (g->newton_schulz) newton_schulz_close(g->newton_schulz);
    partition_free(&g->partition);
    free(g->chosen);
    free(g->chunks);
    free(g->sums);
    free(g->batches);
    free(g->squares);
    free(g->norms);
}

/* ---- the passes of a step ---- */

void group_sums(Group *g, Backend *be, const float *gradient, const float *last, bool with_sum, GradientSums *sums) {
    multi_tensor_sums(be, g->chunks, g->chunk_count, gradient, last, with_sum, g->sums);
    for (int c = 0; c < g->chunk_count; c++) {
        GradientSums *to = &sums[g->chunks[c].tensor];
        to->squares += g->sums[c].squares;
        to->product += g->sums[c].product;
        to->sum += g->sums[c].sum;
    }
}

/* One batch: directions into the workspace, Newton-Schulz, the step along the result. */
static void update_batch(Group *g, Backend *be, const MatrixBatch *batch, MultiTensorBuffers buffers,
                         const RuleNumbers *numbers) {
    const Chunk *chunks = g->chunks + batch->first_chunk;
    DType type = newton_schulz_type(g->newton_schulz);
    size_t size = (size_t)(batch->rows * batch->columns);
    multi_tensor_directions(be, g->name, chunks, batch->chunk_count, buffers, numbers,
                            newton_schulz_input(g->newton_schulz), type, g->squares);
    memset(g->norms, 0, (size_t)batch->matrix_count * sizeof *g->norms);
    for (int c = 0; c < batch->chunk_count; c++) g->norms[chunks[c].matrix / size] += g->squares[c];
    const void *result =
        newton_schulz_run(g->newton_schulz, batch->rows, batch->columns, batch->matrix_count, g->norms);
    multi_tensor_apply(be, chunks, batch->chunk_count, buffers, numbers, result, type);
}

void group_update(Group *g, Backend *be, MultiTensorBuffers buffers, const RuleNumbers *numbers) {
    for (int s = 0; s < g->rule->states; s++) buffers.states[s] = g->states[s];
    if (g->rule->is_matrix)
        for (int b = 0; b < g->batch_count; b++) update_batch(g, be, &g->batches[b], buffers, numbers);
    else
        multi_tensor_update(be, g->name, g->chunks, g->chunk_count, buffers, numbers);
}

double group_numbers_kept(const Group *g, int r) {
    return (double)partition_shard_length(&g->partition, r) * (g->rule->states + g->rule->uses_last);
}
