/* checkpoint_config.c: the model that comes with weights, as transformers describes a GPT-2 in config.json (see
 * checkpoint.h). The file must ask for nothing that we do not compute; what it leaves out has transformers' default. */
#include "checkpoint/checkpoint.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_layout.h"
#include "util/files.h"

/* Keys that change what the model computes: absent, or one of the values, as JSON, that stand for what we compute. */
static const struct Supported {
    const char *key, *values[3];
} supported[] = {
    {"model_type", {"\"gpt2\""}},
    /* three names of one function: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    {"activation_function", {"\"gelu_new\"", "\"gelu_pytorch_tanh\"", "\"gelu_fast\""}},
    {"layer_norm_epsilon", {"1e-05"}},
    {"scale_attn_weights", {"true"}},
    {"tie_word_embeddings", {"true"}},
    {"add_cross_attention", {"false"}},
    {"is_encoder_decoder", {"false"}},
    {"pruned_heads", {"{}", "null"}},
    {"quantization_config", {"null"}},
    /* the same function, with another rounding */
    {"reorder_and_upcast_attn", {"false", "true"}},
};

static bool has(const cJSON *json, const char *key) { return cJSON_GetObjectItemCaseSensitive(json, key) != NULL; }

static bool is_value(const cJSON *item, const char *text) {
    cJSON *value = cJSON_Parse(text);
    bool equal = cJSON_Compare(item, value, true);
    cJSON_Delete(value);
    return equal;
}

static bool check_value(const cJSON *json, const char *path, const struct Supported *s, Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, s->key);
    if (!item) return true;
    char list[128] = "";
    for (size_t i = 0; i < ARRAY_LENGTH(s->values) && s->values[i]; i++) {
        if (is_value(item, s->values[i])) return true;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? " or " : "", s->values[i]);
    }
    char *text = cJSON_PrintUnformatted(item);
    if (!text) die("out of memory: %s", path);
    error_set(error, "%s: %s is %.100s; only %s is supported", path, s->key, text, list);
    cJSON_free(text);
    return false;
}

/* A whole number by one of its names, of which transformers knows several; the first one that is there counts. */
static bool read_size(const cJSON *json, const char *path, const char *const names[3], int otherwise, int *value,
                      Error *error) {
    *value = otherwise;
    for (int i = 0; i < 3 && names[i]; i++) {
        int64_t number;
        if (!has(json, names[i])) continue;
        if (!checkpoint_read_number(json, path, names[i], 1, INT32_MAX, &number, error)) return false;
        *value = (int)number;
        return true;
    }
    return true;
}

static bool read_sizes(GPT2Config *config, const cJSON *json, const char *path, Error *error) {
    static const char *const n_layer[] = {"n_layer", "num_hidden_layers", NULL};
    static const char *const n_head[] = {"n_head", "num_attention_heads", NULL};
    static const char *const n_embd[] = {"n_embd", "hidden_size", NULL};
    static const char *const n_positions[] = {"n_positions", "max_position_embeddings", "n_ctx"};
    static const char *const vocab_size[] = {"vocab_size", NULL, NULL};
    if (!read_size(json, path, n_layer, 12, &config->n_layer, error) ||
        !read_size(json, path, n_head, 12, &config->n_head, error) ||
        !read_size(json, path, n_embd, 768, &config->n_embd, error) ||
        !read_size(json, path, n_positions, 1024, &config->block_size, error) ||
        !read_size(json, path, vocab_size, 50257, &config->vocab_size, error))
        return false;
    if (config->n_embd % config->n_head != 0)
        return error_set(error, "%s: n_embd %d is no multiple of n_head %d", path, config->n_embd, config->n_head);
    const cJSON *inner = cJSON_GetObjectItemCaseSensitive(json, "n_inner");
    if (inner && !cJSON_IsNull(inner) && !(inner->valuedouble == 4.0 * config->n_embd))
        return error_set(error, "%s: n_inner should be absent or 4 * n_embd = %.0f", path, 4.0 * config->n_embd);
    return true;
}

static bool read_scaling(GPT2Config *config, const cJSON *json, const char *path, Error *error) {
    const cJSON *scale = cJSON_GetObjectItemCaseSensitive(json, "scale_attn_by_inverse_layer_idx");
    if (scale && !cJSON_IsBool(scale))
        return error_set(error, "%s: scale_attn_by_inverse_layer_idx should be true or false", path);
    config->scale_attn_by_inverse_layer_idx = cJSON_IsTrue(scale);
    return true;
}

/* Another program's config.json, such as the config of a run, would be a GPT-2 small by defaults alone. */
static bool check_kind(const cJSON *json, const char *path, Error *error) {
    if (!has(json, "model_type") && !has(json, "n_embd") && !has(json, "hidden_size"))
        return error_set(error, "%s has neither model_type nor n_embd: it is no config.json of transformers", path);
    for (size_t i = 0; i < ARRAY_LENGTH(supported); i++)
        if (!check_value(json, path, &supported[i], error)) return false;
    return true;
}

static bool read_has_bias(GPT2Config *config, const char *folder, const SafetensorsFile *weights, Error *error) {
    char *path = format_string("%s/" TRAINER_FILE, folder);
    bool is_ours = files_is_file(path);
    free(path);
    config->bias = !weights || checkpoint_has_biases(weights);
    if (!is_ours) return true;
    cJSON *trainer = checkpoint_read_trainer(folder, error);
    config->bias = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(trainer, "has_bias"));
    cJSON_Delete(trainer);
    return trainer != NULL;
}

bool checkpoint_read_model_config(GPT2Config *config, const char *folder, const SafetensorsFile *weights,
                                  Error *error) {
    memset(config, 0, sizeof *config);
    char *path = format_string("%s/" CONFIG_FILE, folder);
    cJSON *json = checkpoint_read_json(path, error);
    bool ok = json && check_kind(json, path, error) && read_sizes(config, json, path, error) &&
              read_scaling(config, json, path, error) && read_has_bias(config, folder, weights, error);
    cJSON_Delete(json);
    free(path);
    return ok;
}
