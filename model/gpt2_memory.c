/* gpt2_memory.c: see gpt2_memory.h. */
#include "model/gpt2_memory.h"

#include <stdio.h>
#include <string.h>

/* Operations take working memory as they need it (sums of LayerNorm's gradients, sorted tokens): this share of what is
 * left is kept for them. */
enum { RESERVED_SHARE = 32 };

/* Bytes of the whole plan if the model were made for other batches or recomputed otherwise. */
static size_t bytes_of(const GPT2 *model, int batch, Recompute recompute) {
    GPT2 now, other;
    gpt2_plan(&now, &model->config, model->be, model->max_batch, model->recompute, model->training);
    gpt2_plan(&other, &model->config, model->be, batch, recompute, model->training);
    size_t bytes = model->arena.bytes - now.arena.bytes + other.arena.bytes;
    gpt2_free(&now);
    gpt2_free(&other);
    return bytes;
}

/* The largest batch below the model's own that divides `sequences` and fits; 0 where none does. */
static int largest_batch(const GPT2 *model, int sequences, Recompute recompute, size_t room) {
    int batch = model->max_batch;
    while (batch > 0 && (sequences % batch != 0 || bytes_of(model, batch, recompute) > room)) batch--;
    return batch;
}

bool gpt2_memory_fits(const GPT2 *model, int sequences, Error *error) {
    size_t left = model->be->memory_left(model->be), room = left - left / RESERVED_SHARE;
    if (left == 0 || model->arena.bytes <= room) return true;
    int as_it_is = largest_batch(model, sequences, model->recompute, room);
    int recomputed = largest_batch(model, sequences, RECOMPUTE_BLOCK, room);
    char advice[160] = "", more[96] = "";
    if (as_it_is > 0)
        snprintf(advice, sizeof advice, "batch_size %d would fit", as_it_is);
    else if (recomputed == 0)
        snprintf(advice, sizeof advice, "no batch size would fit; more processes share out the optimizer's state");
    if (recomputed > as_it_is)
        snprintf(more, sizeof more, "%swith recompute \"block\" batch_size %d would fit", as_it_is > 0 ? ", " : "",
                 recomputed);
    return error_set(error, "the run needs %.2f GB on %s, which has %.2f GB left: %s%s",
                     (double)model->arena.bytes * 1e-9, model->be->device, (double)room * 1e-9, advice, more);
}
