/* gpt2_init.c: see gpt2_init.h. */
#include "model/gpt2_init.h"

#include <math.h>

#include "util/philox.h"

/* A normal's standard deviation or a uniform's bound: `scale`, divided by the square roots below. */
typedef struct Scheme {
    TensorInit init;
    double scale;
    bool by_columns; /* sqrt(columns): a matrix's fan-in, an embedding's width */
    bool by_depth;   /* sqrt(2 n_layer) */
} Scheme;

/* gpt2: Radford et al. 2019. torch: the initial weights of nn.Linear and nn.Embedding; a tied table starts as a
 * Linear's. fan-in: modded-nanogpt's third track. */
static const Scheme schemes[][WEIGHT_KINDS] = {
    [MODEL_INIT_GPT2] = {[WEIGHT_TOKEN_EMBEDDING] = {TENSOR_INIT_NORMAL, 0.02, false, false},
                         [WEIGHT_POSITION_EMBEDDING] = {TENSOR_INIT_NORMAL, 0.02, false, false},
                         [WEIGHT_LM_HEAD] = {TENSOR_INIT_NORMAL, 0.02, false, false},
                         [WEIGHT_HIDDEN] = {TENSOR_INIT_NORMAL, 0.02, false, false},
                         [WEIGHT_PROJECTION] = {TENSOR_INIT_NORMAL, 0.02, false, true}},
    [MODEL_INIT_TORCH] = {[WEIGHT_TOKEN_EMBEDDING] = {TENSOR_INIT_NORMAL, 1.0, false, false},
                          [WEIGHT_POSITION_EMBEDDING] = {TENSOR_INIT_NORMAL, 1.0, false, false},
                          [WEIGHT_LM_HEAD] = {TENSOR_INIT_UNIFORM, 1.0, true, false},
                          [WEIGHT_HIDDEN] = {TENSOR_INIT_UNIFORM, 1.0, true, false},
                          [WEIGHT_PROJECTION] = {TENSOR_INIT_UNIFORM, 1.0, true, false}},
    [MODEL_INIT_FAN_IN] = {[WEIGHT_TOKEN_EMBEDDING] = {TENSOR_INIT_NORMAL, 1.0, false, false},
                           [WEIGHT_POSITION_EMBEDDING] = {TENSOR_INIT_NORMAL, 1.0, false, false},
                           /* sqrt(0.33) */
                           [WEIGHT_LM_HEAD] = {TENSOR_INIT_NORMAL, 0.57445626465380284, true, false},
                           [WEIGHT_HIDDEN] = {TENSOR_INIT_NORMAL, 0.57445626465380284, true, false},
                           [WEIGHT_PROJECTION] = {TENSOR_INIT_NORMAL, 0.57445626465380284, true, false}}};

void init_choose(Tensor *tensor, const GPT2Config *config, WeightKind kind) {
    bool starts_as_lm_head =
        kind == WEIGHT_TOKEN_EMBEDDING && config->tie_embeddings && config->init == MODEL_INIT_TORCH;
    const Scheme *scheme = &schemes[config->init][starts_as_lm_head ? WEIGHT_LM_HEAD : kind];
    bool is_zero = (kind == WEIGHT_PROJECTION && config->zero_init_projections) ||
                   (kind == WEIGHT_LM_HEAD && config->zero_init_lm_head);
    tensor->init = is_zero ? TENSOR_INIT_ZERO : scheme->init;
    tensor->init_scale = scheme->scale;
    if (scheme->by_columns) tensor->init_scale /= sqrt((double)tensor->columns);
    if (scheme->by_depth) tensor->init_scale /= sqrt(2.0 * config->n_layer);
}

void init_tensor(float *out, const Tensor *t, uint64_t seed, uint32_t stream) {
    for (size_t i = 0; i < t->size; i++) {
        Philox4 random = philox(seed, PHILOX_INIT_WEIGHTS, stream, i);
        switch (t->init) {
        case TENSOR_INIT_ZERO:
            out[i] = 0.0f;
            break;
        case TENSOR_INIT_ONE:
            out[i] = 1.0f;
            break;
        case TENSOR_INIT_NORMAL:
            out[i] = (float)(t->init_scale * philox_normal(random));
            break;
        case TENSOR_INIT_UNIFORM:
            out[i] = (float)(t->init_scale * (2.0 * philox_uniform(random.word[0]) - 1.0));
            break;
        }
    }
}
