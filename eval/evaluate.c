/* evaluate.c: see evaluate.h. */
#include "eval/evaluate.h"

double evaluate_mean_loss(GPT2 *model, Comm *comm) {
    int64_t count;
    double sums[2];
    sums[0] = gpt2_take_loss(model, &count);
    sums[1] = (double)count;
    comm->sum(comm, sums, 2);
    return sums[0] / sums[1];
}

/* Adds up the losses of this process's batches. */
static bool add_losses(GPT2 *model, Loader *loader, int64_t sequences, int batch, const Comm *comm, Error *error) {
    int64_t batches = ceil_div(sequences, batch);
    for (int64_t i = comm->rank; i < batches; i += comm->size) {
        const int32_t *inputs, *targets;
        int64_t first = i * batch, next = first + (int64_t)comm->size * batch;
        int count = (int)min_i64(batch, sequences - first);
        if (!loader_batch(loader, first, count, &inputs, &targets, error)) return false;
        if (next < sequences) loader_prefetch(loader, next, (int)min_i64(batch, sequences - next));
        gpt2_forward(model, inputs, targets, count, model->config.block_size);
    }
    return true;
}

bool evaluate_sequences(GPT2 *model, Loader *loader, int64_t sequences, int batch, Comm *comm, double *loss,
                        Error *error) {
    error->text[0] = 0;
    gpt2_forget_loss(model);
    model->be->range_begin(model->be, "validation");
    int failed = !add_losses(model, loader, sequences, batch, comm, error);
    comm->maximum(comm, &failed, 1);
    model->be->range_end(model->be);
    if (failed) return false;
    *loss = evaluate_mean_loss(model, comm);
    return true;
}
