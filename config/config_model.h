/* config_model.h: the keys of `model` that come with weights: as the members of a folder's config.json, and in a config
 * that begins with the weights of a folder. */
#ifndef MARS_CONFIG_CONFIG_MODEL_H
#define MARS_CONFIG_CONFIG_MODEL_H

#include "config/config.h"

struct cJSON;

EXTERN_C_BEGIN

/* How a given model key may differ from that of a folder with weights. */
typedef struct ConfigTake {
    bool may_change_block_size; /* block_size may be smaller, and without position embeddings larger too */
    bool may_drop_bias;         /* bias may be false if the folder has biases: the weights must show that they are 0 */
} ConfigTake;

/* Copies from `model`, which was read from the config.json at `path`, every key that changes what the model computes,
 * unless a file or the command line gave it. Fails if such a given key has another value, or if a value of `model` is
 * out of range. Dropout and the keys of the initial weights stay as they are. */
bool config_take_model(Config *config, const GPT2Config *model, const char *path, ConfigTake take, Error *error);

/* Adds these keys as members to the object `json`, and reads them from it. All other keys of `model` get their
 * defaults. Reading fails if a key is missing or out of range; the message names `path`, the file of the JSON. */
void config_model_to_json(const GPT2Config *model, struct cJSON *json);
bool config_model_from_json(GPT2Config *model, const struct cJSON *json, const char *path, Error *error);

EXTERN_C_END

#endif
