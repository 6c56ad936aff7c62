/* checkpoint_gpt2.c: see checkpoint_gpt2.h. */
#include "checkpoint/checkpoint_gpt2.h"

#include <math.h>
#include <stdlib.h>

#include "checkpoint/checkpoint.h"

/* A model with one number that is not finite computes nothing but such numbers. */
static bool check_finite(const float *host, const Tensor *tensor, const SafetensorsFile *file, Error *error) {
    for (size_t i = 0; i < tensor->size; i++)
        if (!isfinite(host[i]))
            return error_set(error,
                             "%s: number %zu of tensor '%s' is %g; the training that made it has failed: take an "
                             "earlier checkpoint",
                             file->path, i, tensor->name, host[i]);
    return true;
}

bool checkpoint_load_gpt2(GPT2 *model, const SafetensorsFile *file, Error *error) {
    if (!checkpoint_check_weights(file, &model->table, error)) return false;
    /* One tensor at a time: all of them would be as much memory again as the model. */
    float *host = checked_malloc(tensor_table_largest(&model->table) * sizeof *host, "weights");
    bool ok = true;
    for (int i = 0; ok && i < model->table.count; i++) {
        ok = checkpoint_read_weights(file, &model->table, i, host, error) &&
             check_finite(host, &model->table.tensors[i], file, error);
        if (ok) gpt2_set_tensor(model, i, host);
    }
    free(host);
    if (ok) gpt2_params_changed(model);
    return ok;
}
