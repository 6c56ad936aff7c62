/* config_model.c: see config_model.h. */
#include "config/config_model.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_keys.h"
#include "config/config_value.h"

/* Whether a given value may differ from the folder's. */
static bool may_differ(const Config *config, const Config *folder, const ConfigKey *key, ConfigTake take) {
    if (strcmp(key->name, "block_size") == 0)
        return take.may_change_block_size &&
               (folder->model.position != POSITION_LEARNED || config->model.block_size < folder->model.block_size);
    return strcmp(key->name, "bias") == 0 && take.may_drop_bias && !config->model.bias;
}

/* Takes one key; *from is a config with the folder's model. */
static bool take_model_key(Config *config, int index, const Config *from, const char *path, ConfigTake take,
                           Error *error) {
    const ConfigKey *key = &config_keys[index];
    char *text = config_value_text(from, key), *own = config_value_text(config, key);
    bool ok = true;
    if (config->origins[index] == CONFIG_DEFAULT) {
        cJSON *value = cJSON_Parse(text);
        ok = config_set_or_explain(config, key, value, path, error);
        cJSON_Delete(value);
    } else if (strcmp(text, own) != 0 && !may_differ(config, from, key, take)) {
        char *name = format_string("%s.%s", key->section, key->name);
        ok = error_set(error, "%s: %s is %s, but the model in %s has %s; remove the key: it comes with the weights",
                       config_where(config, name), name, own, path, text);
        free(name);
    }
    cJSON_free(text);
    cJSON_free(own);
    return ok;
}

bool config_take_model(Config *config, const GPT2Config *model, const char *path, ConfigTake take, Error *error) {
    Config from = *config;
    from.model = *model;
    for (int i = 0; i < config_key_count; i++) {
        char idle_in[128];
        if (!config_keys[i].comes_with_weights) continue;
        if (config_key_idle_in(&config_keys[i], &from, idle_in, sizeof idle_in))
            continue; /* the folder need not have it */
        if (!take_model_key(config, i, &from, path, take, error)) return false;
    }
    return true;
}

void config_model_to_json(const GPT2Config *model, cJSON *json) {
    Config config = {.model = *model};
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        if (key->comes_with_weights) cJSON_AddItemToObject(json, key->name, config_value_to_json(&config, key));
    }
}

bool config_model_from_json(GPT2Config *model, const cJSON *json, const char *path, Error *error) {
    Config config;
    config_set_defaults(&config);
    for (int i = 0; i < config_key_count; i++) {
        const ConfigKey *key = &config_keys[i];
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key->name);
        if (!key->comes_with_weights) continue;
        if (!item) {
            char expected[160];
            config_key_expectation(key, expected, sizeof expected);
            return error_set(error, "%s: the key %s is missing; expected %s; train_gpt2 --help explains the key", path,
                             key->name, expected);
        }
        if (!config_set_or_explain(&config, key, item, path, error)) return false;
    }
    *model = config.model;
    return true;
}
