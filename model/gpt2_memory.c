/* gpt2_memory.c: see gpt2_memory.h. */
#include "model/gpt2_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Operations allocate working memory when they need it (sums of the gradients of norms, sorted tokens). This share of
 * the memory that is left is reserved for them. */
enum { RESERVED_SHARE = 32 };

/* How many items of the plan are the model's: the first ones. */
static int own_items(const GPT2 *model) {
    GPT2 same;
    gpt2_plan(&same, &model->config, model->be, model->max_batch, model->recompute, model->training);
    int count = same.arena.count;
    gpt2_free(&same);
    return count;
}

/* Bytes of the whole plan if the model, whose items are the first `own`, were made for other batches or recomputed
 * otherwise. */
static size_t bytes_of(const GPT2 *model, int own, int batch, Recompute recompute) {
    GPT2 other;
    gpt2_plan(&other, &model->config, model->be, batch, recompute, model->training);
    Arena whole = {0};
    arena_plan(&whole, "", "", other.arena.bytes, NULL);
    for (int i = own; i < model->arena.count; i++) arena_plan(&whole, "", "", model->arena.items[i].bytes, NULL);
    size_t bytes = whole.bytes;
    free(whole.items);
    gpt2_free(&other);
    return bytes;
}

/* The largest batch up to the model's own that divides `sequences` and fits; 0 if none does. */
static int largest_batch(const GPT2 *model, int sequences, Recompute recompute, size_t room) {
    int batch = model->max_batch, own = own_items(model);
    while (batch > 0 && (sequences % batch != 0 || bytes_of(model, own, batch, recompute) > room)) batch--;
    return batch;
}

static size_t room_on(Backend *be) {
    size_t left = be->memory_left(be);
    return left - left / RESERVED_SHARE;
}

/* "the run needs 8.00 GB in each of 4 processes on NAME, which has 4.00 GB left for each: advice". */
static bool does_not_fit(const GPT2 *model, const char *what, size_t bytes, size_t room, const char *advice,
                         Error *error) {
    const Backend *be = model->be;
    char processes[64] = "", each[16] = "";
    if (be->memory_sharers > 1) {
        snprintf(processes, sizeof processes, " in each of %d processes", be->memory_sharers);
        snprintf(each, sizeof each, " for each");
    }
    const char *more_than = bytes >= ARENA_MAX ? "more than " : "";
    return error_set(error, "%s %s%.2f GB%s on %s, which has %.2f GB left%s: %s", what, more_than, (double)bytes * 1e-9,
                     processes, be->device, (double)room * 1e-9, each, advice);
}

bool gpt2_weights_fit(const GPT2 *model, Error *error) {
    size_t room = room_on(model->be);
    size_t bytes = arena_group_bytes(&model->arena, "weights") + arena_group_bytes(&model->arena, "gradients");
    return bytes <= room || does_not_fit(model, "the weights and gradients of the model alone need", bytes, room,
                                         "lower model.n_layer or model.n_embd", error);
}

bool gpt2_memory_fits(const GPT2 *model, int sequences, Error *error) {
    size_t room = room_on(model->be);
    if (model->arena.bytes <= room) return true;
    int as_it_is = largest_batch(model, sequences, model->recompute, room);
    int recomputed = largest_batch(model, sequences, RECOMPUTE_BLOCK, room);
    char advice[160] = "", more[96] = "", all[256];
    if (as_it_is > 0)
        snprintf(advice, sizeof advice, "batch_size %d would fit", as_it_is);
    else if (recomputed == 0)
        snprintf(advice, sizeof advice, "no batch size would fit; more %s share out the optimizer's state",
                 model->be->on_gpu ? "processes" : "machines");
    if (recomputed > as_it_is)
        snprintf(more, sizeof more, "%swith recompute \"block\" batch_size %d would fit", as_it_is > 0 ? ", " : "",
                 recomputed);
    snprintf(all, sizeof all, "%s%s", advice, more);
    return does_not_fit(model, "the run needs", model->arena.bytes, room, all, error);
}

bool gpt2_decoding_fits(const GPT2 *model, Error *error) {
    size_t room = room_on(model->be);
    return model->arena.bytes <= room || does_not_fit(model, "the model with its context needs", model->arena.bytes,
                                                      room, "a machine with more is needed", error);
}
