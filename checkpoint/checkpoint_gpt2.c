/* checkpoint_gpt2.c: see checkpoint_gpt2.h. */
#include "checkpoint/checkpoint_gpt2.h"

#include <stdlib.h>

#include "checkpoint/checkpoint.h"

bool checkpoint_load_gpt2(GPT2 *model, const SafetensorsFile *file, Error *error) {
    if (!checkpoint_check_weights(file, &model->table, error)) return false;
    /* One tensor at a time: all of them would need as much memory as the model has. */
    float *host = checked_malloc(tensor_table_largest(&model->table) * sizeof *host, "weights");
    bool ok = true;
    for (int i = 0; ok && i < model->table.count; i++) {
        ok = checkpoint_read_weights(file, &model->table, i, host, error) &&
             checkpoint_check_finite(file, &model->table.tensors[i], host, error);
        if (ok) gpt2_set_tensor(model, i, host);
    }
    free(host);
    if (ok) gpt2_params_changed(model);
    return ok;
}
