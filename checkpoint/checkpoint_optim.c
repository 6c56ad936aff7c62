/* checkpoint_optim.c: see checkpoint_optim.h. */
#include "checkpoint/checkpoint_optim.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "optim/optimizers.h"

static bool has_state(void *context, int which, int tensor) { return optim_has_state(context, which, tensor); }

static size_t state_vector(void *context, int which, int tensor) { return optim_state_vector(context, which, tensor); }

_Static_assert((int)CHECKPOINT_WEIGHTS == (int)OPTIM_WEIGHTS && (int)CHECKPOINT_EMA == (int)OPTIM_EMA,
               "fetch() passes `which` on as the state");

static void fetch(void *context, int which, int tensor, float *host) { optim_fetch(context, which, tensor, host); }

static void fetch_scalars(void *context, int which, double *host) { optim_fetch_scalars(context, which, host); }

void checkpoint_from_optim(CheckpointSource *source, OptimName name, Optim *optim) {
    source->updates = optim_updates(optim);
    const OptimInfo *info = optim_info(optim);
    source->optimizer = optim_names[name];
    source->state_count = info->state_count;
    source->state_names = info->state_names;
    source->has_state = has_state;
    source->state_vector = state_vector;
    source->fetch = fetch;
    source->has_ema = optim_has_ema(optim);
    source->context = optim;
    source->scalar_count = info->scalar_count;
    source->scalar_names = info->scalar_names;
    source->fetch_scalars = fetch_scalars;
}

static bool read_states(const Checkpoint *checkpoint, const TensorTable *table, Optim *optim, float *host,
                        Error *error) {
    const OptimInfo *info = optim_info(optim);
    for (int s = 0; s < info->state_count; s++)
        for (int i = 0; i < table->count; i++) {
            if (!optim_has_state(optim, s, i)) continue;
            const char *state = info->state_names[s];
            size_t vector = optim_state_vector(optim, s, i);
            if (vector > 0 ? !checkpoint_read_state_vector(checkpoint, table, state, i, vector, host, error)
                           : !checkpoint_read_state(checkpoint, table, state, i, host, error))
                return false;
            optim_store(optim, s, i, host);
        }
    double *numbers = checked_malloc((size_t)table->count * sizeof *numbers, "optimizer state");
    bool ok = true;
    for (int s = 0; ok && s < info->scalar_count; s++) {
        ok = checkpoint_read_scalars(checkpoint, table, info->scalar_names[s], numbers, error);
        if (ok) optim_store_scalars(optim, s, numbers);
    }
    free(numbers);
    return ok;
}

/* The settings to look at if states are missing or have another shape, for the end of a message. */
static const char *settings_of_states(OptimName name) {
    bool has_1d = optimizer_has_key(name, "optimize_1d"), has_embeddings = optimizer_has_key(name, "muon_embeddings");
    bool has_lines = optimizer_has_key(name, "muon_beta2");
    return has_1d                        ? " (was it written with another optimizer.optimize_1d?)"
           : has_embeddings && has_lines ? " (was it written with another optimizer.muon_embeddings or split_qkv?)"
           : has_embeddings              ? " (was it written with another optimizer.muon_embeddings?)"
           : has_lines                   ? " (was it written with another optimizer.split_qkv?)"
                                         : "";
}

bool checkpoint_into_optim(const Checkpoint *checkpoint, const TensorTable *table, OptimName name, Optim *optim,
                           Error *error) {
    if (strcmp(checkpoint->optimizer, optim_names[name]) != 0)
        return error_set(error,
                         "%s was written by optimizer %s, this run uses %s; start a new run from its weights with "
                         "train.init_from=\"%s\" and another train.out_dir",
                         checkpoint->path, checkpoint->optimizer, optim_names[name], checkpoint->path);
    float *host = checked_malloc(table->parameters * sizeof *host, "optimizer state");
    Error reason;
    bool ok = read_states(checkpoint, table, optim, host, &reason);
    free(host);
    if (!ok) return error_set(error, "%s%s", reason.text, settings_of_states(name));
    optim_set_updates(optim, checkpoint->updates);
    return true;
}

bool checkpoint_into_ema(const Checkpoint *checkpoint, const TensorTable *table, Optim *optim, Error *error) {
    if (checkpoint->ema.count == 0)
        return error_set(error,
                         "%s holds no average of the weights; set train.ema_start to a step after %" PRId64
                         ", or to 0 for none",
                         checkpoint->path, checkpoint->step);
    if (!checkpoint_check_weights(&checkpoint->ema, table, error)) return false;
    float *host = checked_malloc(tensor_table_largest(table) * sizeof *host, "the average of the weights");
    bool ok = true;
    for (int i = 0; ok && i < table->count; i++) {
        ok = checkpoint_read_weights(&checkpoint->ema, table, i, host, error);
        if (ok) optim_store(optim, OPTIM_EMA, i, host);
    }
    free(host);
    return ok;
}
