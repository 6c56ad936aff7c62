/* checkpoint_config.c: writes and reads config.json, the model that comes with weights (see checkpoint.h). There are
 * two kinds. A GPT-2 is described as by transformers: the file must ask for nothing that we do not compute, and keys
 * that it lacks have transformers' defaults. Other models are of model_type "mars_gpt", with the keys of our config. */
#include "checkpoint/checkpoint.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_layout.h"
#include "config/config_keys.h"
#include "config/config_model.h"
#include "util/files.h"

#define MARS_GPT "mars_gpt"

/* transformers' names of the activations that we compute; the first name of each kind is written. */
static const struct Activation {
    const char *name;
    ActivationKind kind;
} activations[] = {
    {"gelu_new", ACTIVATION_GELU},
    {"gelu_pytorch_tanh", ACTIVATION_GELU},
    {"gelu_fast", ACTIVATION_GELU},
    {"relu2", ACTIVATION_RELU2},
};

/* ---- writing ---- */

static const char *activation_name(ActivationKind kind) {
    for (size_t i = 0; i < ARRAY_LENGTH(activations); i++)
        if (activations[i].kind == kind) return activations[i].name;
    die("the activation %s has no name in transformers", activation_names[kind]);
}

static void add_gpt2(cJSON *json, const GPT2Config *model) {
    cJSON_AddStringToObject(json, "model_type", "gpt2");
    cJSON_AddNumberToObject(json, "n_layer", model->n_layer);
    cJSON_AddNumberToObject(json, "n_head", model->n_head);
    cJSON_AddNumberToObject(json, "n_embd", model->n_embd);
    cJSON_AddNumberToObject(json, "n_positions", model->block_size);
    cJSON_AddNumberToObject(json, "n_ctx", model->block_size);
    cJSON_AddNumberToObject(json, "vocab_size", model->vocab_size);
    cJSON_AddStringToObject(json, "activation_function", activation_name(model->activation));
    cJSON_AddNumberToObject(json, "layer_norm_epsilon", model->norm_eps);
    cJSON_AddBoolToObject(json, "scale_attn_by_inverse_layer_idx", model->scale_attn_by_inverse_layer_idx);
    cJSON_AddBoolToObject(json, "tie_word_embeddings", model->tie_embeddings);
    cJSON_AddNumberToObject(json, "resid_pdrop", model->dropout);
    cJSON_AddNumberToObject(json, "embd_pdrop", model->dropout);
    cJSON_AddNumberToObject(json, "attn_pdrop", model->dropout);
    cJSON_AddNumberToObject(json, "initializer_range", 0.02);
}

static void add_mars_gpt(cJSON *json, const GPT2Config *model) {
    cJSON_AddStringToObject(json, "model_type", MARS_GPT);
    cJSON *classes = cJSON_AddObjectToObject(json, "auto_map");
    cJSON_AddStringToObject(classes, "AutoConfig", MODELING_NAME ".MarsGPTConfig");
    cJSON_AddStringToObject(classes, "AutoModelForCausalLM", MODELING_NAME ".MarsGPTForCausalLM");
    config_model_to_json(model, json);
}

char *checkpoint_model_config(const GPT2Config *model, DType type, bool has_end_of_text) {
    enum { END_OF_TEXT = 50256 };
    bool is_gpt2 = gpt2_config_is_gpt2(model);
    cJSON *json = cJSON_CreateObject(), *architectures = cJSON_AddArrayToObject(json, "architectures");
    cJSON_AddItemToArray(architectures, cJSON_CreateString(is_gpt2 ? "GPT2LMHeadModel" : "MarsGPTForCausalLM"));
    if (is_gpt2)
        add_gpt2(json, model);
    else
        add_mars_gpt(json, model);
    cJSON_AddStringToObject(json, "torch_dtype", type == DTYPE_BFLOAT16 ? "bfloat16" : "float32");
    cJSON_AddItemToObject(json, "bos_token_id", has_end_of_text ? cJSON_CreateNumber(END_OF_TEXT) : cJSON_CreateNull());
    cJSON_AddItemToObject(json, "eos_token_id", has_end_of_text ? cJSON_CreateNumber(END_OF_TEXT) : cJSON_CreateNull());
    cJSON_AddBoolToObject(json, "use_cache", true);
    char *text = cJSON_Print(json);
    cJSON_Delete(json);
    if (!text) die("out of memory: the text of config.json");
    return text;
}

/* ---- reading a GPT-2 ---- */

/* Keys that change what the model computes. Each must be absent or have one of these values (as JSON), which mean what
 * we compute. */
static const struct Supported {
    const char *key, *values[2];
} supported[] = {
    {"model_type", {"\"gpt2\"", "\"" MARS_GPT "\""}}, /* no mars_gpt is checked here: it is listed for the message */
    {"scale_attn_weights", {"true"}},
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

/* "config.json: KEY is VALUE; only EXPECTED is supported", and returns false. */
static bool wrong_value(const cJSON *item, const char *path, const char *key, const char *expected, Error *error) {
    char *text = cJSON_PrintUnformatted(item);
    if (!text) die("out of memory: %s", path);
    error_set(error, "%s: %s is %.100s; only %s is supported; take the weights of another model", path, key, text,
              expected);
    cJSON_free(text);
    return false;
}

static bool check_value(const cJSON *json, const char *path, const struct Supported *s, Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, s->key);
    if (!item) return true;
    char list[64] = "";
    for (size_t i = 0; i < ARRAY_LENGTH(s->values) && s->values[i]; i++) {
        if (is_value(item, s->values[i])) return true;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? " or " : "", s->values[i]);
    }
    return wrong_value(item, path, s->key, list, error);
}

/* Reads a whole number, for which transformers knows several names; the first one that is there counts. */
static bool read_size(const cJSON *json, const char *path, const char *const names[3], int otherwise, int *value,
                      Error *error) {
    *value = otherwise;
    for (int i = 0; i < 3 && names[i]; i++) {
        if (!has(json, names[i])) continue;
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, names[i]);
        double number = cJSON_IsNumber(item) ? item->valuedouble : 0;
        if (!(number >= 1 && number <= INT32_MAX) || number != (int)number)
            return wrong_value(item, path, names[i], "a whole number from 1 to 2147483647", error);
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
    const cJSON *inner = cJSON_GetObjectItemCaseSensitive(json, "n_inner");
    if (!inner || cJSON_IsNull(inner) || inner->valuedouble == 4.0 * config->n_embd) return true;
    char expected[64];
    snprintf(expected, sizeof expected, "4 * n_embd = %.0f", 4.0 * config->n_embd);
    return wrong_value(inner, path, "n_inner", expected, error);
}

static bool read_bool(const cJSON *json, const char *path, const char *key, bool otherwise, bool *value, Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (item && !cJSON_IsBool(item)) return wrong_value(item, path, key, "true or false", error);
    *value = item ? cJSON_IsTrue(item) : otherwise;
    return true;
}

static bool read_activation(GPT2Config *config, const cJSON *json, const char *path, Error *error) {
    static const char key[] = "activation_function";
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    const char *name = item ? cJSON_GetStringValue(item) : activations[0].name;
    char list[128] = "";
    for (size_t i = 0; i < ARRAY_LENGTH(activations); i++) {
        config->activation = activations[i].kind;
        if (name && strcmp(name, activations[i].name) == 0) return true;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s\"%s\"", i ? " or " : "", activations[i].name);
    }
    return wrong_value(item, path, key, list, error);
}

static bool read_epsilon(GPT2Config *config, const cJSON *json, const char *path, Error *error) {
    static const char key[] = "layer_norm_epsilon";
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!item) return true; /* transformers' default is ours */
    config->norm_eps = cJSON_IsNumber(item) ? item->valuedouble : 0.0;
    return (config->norm_eps > 0 && config->norm_eps < 1) ||
           wrong_value(item, path, key, "a number above 0 and below 1", error);
}

/* Whether transformers' GPT-2, or a program that writes its config.json, has a key of this name, too. */
static bool is_shared(const char *key) {
    static const char *const shared[] = {
        "n_layer", "n_head", "n_embd", "vocab_size", "block_size", "bias", "scale_attn_by_inverse_layer_idx"};
    for (size_t i = 0; i < ARRAY_LENGTH(shared); i++)
        if (strcmp(key, shared[i]) == 0) return true;
    return false;
}

/* Fails if the config has a key that only a mars_gpt has: a GPT-2 would ignore it silently. */
static bool has_keys_of_mars_gpt(const cJSON *json, const char *path, Error *error) {
    for (int i = 0; i < config_key_count; i++) {
        const char *key = config_keys[i].name;
        if (!config_keys[i].comes_with_weights || is_shared(key) || !has(json, key)) continue;
        error_set(error, "%s: has the key %s of a mars_gpt, but its model_type is not \"mars_gpt\"; correct model_type",
                  path, key);
        return true;
    }
    return false;
}

/* Fails for the config.json of another program, such as the config of a run: by defaults alone it would be GPT-2
 * small. */
static bool check_kind(const cJSON *json, const char *path, Error *error) {
    if (!has(json, "model_type") && !has(json, "n_embd") && !has(json, "hidden_size"))
        return error_set(error,
                         "%s has neither model_type nor n_embd; expected a config.json of transformers; put the one of "
                         "the weights there",
                         path);
    for (size_t i = 0; i < ARRAY_LENGTH(supported); i++)
        if (!check_value(json, path, &supported[i], error)) return false;
    return !has_keys_of_mars_gpt(json, path, error);
}

static bool read_has_bias(GPT2Config *config, const char *folder, const SafetensorsFile *weights, Error *error) {
    config->bias = !weights || checkpoint_has_biases(weights);
    if (!files_has(folder, TRAINER_FILE)) return true;
    cJSON *trainer = checkpoint_read_trainer(folder, error);
    config->bias = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(trainer, "has_bias"));
    cJSON_Delete(trainer);
    return trainer != NULL;
}

static bool read_gpt2(GPT2Config *config, const cJSON *json, const char *path, Error *error) {
    *config = gpt2_config(0, 0, 0, 0, 0);
    return check_kind(json, path, error) && read_sizes(config, json, path, error) &&
           read_activation(config, json, path, error) && read_epsilon(config, json, path, error) &&
           read_bool(json, path, "scale_attn_by_inverse_layer_idx", false, &config->scale_attn_by_inverse_layer_idx,
                     error) &&
           read_bool(json, path, "tie_word_embeddings", true, &config->tie_embeddings, error);
}

/* ---- reading either kind ---- */

/* Whoever edits the config.json of a checkpoint gets another model than the one that was trained, and is told so. */
static void warn_if_edited(const char *folder) {
    static const char *const name = CONFIG_FILE;
    Error reason;
    if (files_has(folder, TRAINER_FILE) && !checkpoint_verify_some(folder, &name, 1, &reason))
        warn("%s; this may not be the model that was trained; copy the checkpoint again, unless you have "
             "edited " CONFIG_FILE,
             reason.text);
}

bool checkpoint_read_model_config(GPT2Config *config, const char *folder, const SafetensorsFile *weights,
                                  Error *error) {
    if (!files_has(folder, CONFIG_FILE))
        return error_set(error,
                         "%s has no " CONFIG_FILE
                         "; expected one that says what the model is; put the one of the weights there",
                         folder);
    char *path = format_string("%s/" CONFIG_FILE, folder);
    cJSON *json = checkpoint_read_json(path, error);
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "model_type"));
    bool is_ours = type && strcmp(type, MARS_GPT) == 0;
    const char *concerned;
    Error reason;
    bool ok = json && (is_ours ? config_model_from_json(config, json, path, error)
                               : read_gpt2(config, json, path, error) && read_has_bias(config, folder, weights, error));
    if (ok && !gpt2_config_check(config, &concerned, &reason)) ok = error_set(error, "%s: %s", path, reason.text);
    if (ok) warn_if_edited(folder);
    cJSON_Delete(json);
    free(path);
    return ok;
}
