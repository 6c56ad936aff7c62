/* gpt2_config.c: see gpt2_config.h. */
#include "model/gpt2_config.h"

#include <stddef.h>

const char *const position_names[] = {"learned", "rope", "rope-half", NULL};
const char *const norm_names[] = {"layernorm", "rmsnorm", NULL};
const char *const activation_names[] = {"gelu", "relu2", NULL};
const char *const model_init_names[] = {"gpt2", "torch", "fan-in", NULL};

GPT2Config gpt2_config(int n_layer, int n_head, int n_embd, int block_size, int vocab_size) {
    return (GPT2Config){.n_layer = n_layer,
                        .n_head = n_head,
                        .n_embd = n_embd,
                        .block_size = block_size,
                        .vocab_size = vocab_size,
                        .scale_attn_by_inverse_layer_idx = true,
                        .rope_base = 10000.0,
                        .norm_gain = true,
                        .norm_eps = 1e-5,
                        .qk_norm_eps = 1.1920929e-07,
                        .tie_embeddings = true,
                        .attention_output_scale = 1.0};
}

static bool check_sizes(const GPT2Config *c, const char **concerned, Error *error) {
    const struct {
        const char *key, *name;
        int size, max;
    } sizes[] = {{"model.n_layer", "n_layer", c->n_layer, GPT2_MAX_LAYERS},
                 {"model.n_head", "n_head", c->n_head, GPT2_MAX_HEADS},
                 {"model.n_embd", "n_embd", c->n_embd, GPT2_MAX_CHANNELS},
                 {"model.block_size", "block_size (n_positions)", c->block_size, GPT2_MAX_TOKENS},
                 {"model.vocab_size", "vocab_size", c->vocab_size, GPT2_MAX_VOCABULARY}};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        *concerned = sizes[i].key;
        if (sizes[i].size < 1 || sizes[i].size > sizes[i].max)
            return error_set(error, "%s is %d; expected from 1 to %d", sizes[i].name, sizes[i].size, sizes[i].max);
    }
    *concerned = "model.n_embd model.n_head";
    int fitting = c->n_head; /* the most heads up to n_head that n_embd can have */
    while (c->n_embd % fitting != 0) fitting--;
    return fitting == c->n_head ||
           error_set(error, "n_embd %d must be a multiple of n_head %d; set n_head to %d, for example", c->n_embd,
                     c->n_head, fitting);
}

static bool check_positions(const GPT2Config *c, const char **concerned, Error *error) {
    int HS = c->n_embd / c->n_head;
    *concerned = "model.position model.n_embd model.n_head";
    if (c->position == POSITION_ROPE && HS % 2 != 0)
        return error_set(
            error,
            "n_embd %d / n_head %d is the odd head size %d, but position \"rope\" rotates pairs of a head's numbers; "
            "choose sizes that make it even, or position \"learned\"",
            c->n_embd, c->n_head, HS);
    if (c->position == POSITION_ROPE_HALF && (HS % 4 != 0 || HS < 8))
        return error_set(
            error,
            "n_embd %d / n_head %d is the head size %d, but position \"rope-half\" needs a multiple of 4 and at least "
            "8; choose other sizes, or position \"learned\"",
            c->n_embd, c->n_head, HS);
    return true;
}

/* Fails if a key needs an LM head of its own and the embeddings are tied. */
static bool check_lm_head(const GPT2Config *c, const char **concerned, Error *error) {
    *concerned = "model.lm_head_bias model.tie_embeddings";
    if (c->lm_head_bias && c->tie_embeddings)
        return error_set(error,
                         "lm_head_bias and tie_embeddings are both true, but only an LM head of its own can have "
                         "a bias; set tie_embeddings or lm_head_bias to false");
    *concerned = "model.zero_init_lm_head model.tie_embeddings";
    if (c->zero_init_lm_head && c->tie_embeddings)
        return error_set(
            error, "zero_init_lm_head and tie_embeddings are both true, but the token embedding must not start as "
                   "zero; set tie_embeddings or zero_init_lm_head to false");
    return true;
}

bool gpt2_config_check(const GPT2Config *c, const char **concerned, Error *error) {
    if (!check_sizes(c, concerned, error)) return false;
    *concerned = "model.logit_softcap";
    if (c->logit_softcap != 0 && !(c->logit_softcap >= 1e-6 && c->logit_softcap <= 1e6)) /* its square is computed */
        return error_set(error, "logit_softcap is %g; expected 0 for none, or a number from 1e-6 to 1e6",
                         c->logit_softcap);
    return check_positions(c, concerned, error) && check_lm_head(c, concerned, error);
}

bool gpt2_config_is_gpt2(const GPT2Config *c) {
    return c->position == POSITION_LEARNED && c->norm == NORM_LAYERNORM && c->norm_gain && !c->norm_embedding &&
           !c->qk_norm && c->attention_scale == 0 && c->attention_output_scale == 1 && c->logit_softcap == 0 &&
           !c->lm_head_bias;
}
