/* config_model.h: the keys of `model` that come with weights: as the members of a folder's config.json, and in a config
 * that begins with the weights of a folder. */
#ifndef MARS_CONFIG_CONFIG_MODEL_H
#define MARS_CONFIG_CONFIG_MODEL_H

#include "config/config.h"

struct cJSON;

EXTERN_C_BEGIN

/* In what a given model key may differ from that of a folder with weights. */
typedef struct ConfigTake {
    bool may_change_block_size; /* block_size may be smaller, and without position embeddings larger too */
    bool may_drop_bias; /* bias may be false where the folder has biases: the weights must show that they are zero */
} ConfigTake;

/* Gives every key that changes what the model computes, and that neither a file nor the command line gave, its value in
 * `model`, which was read from the config.json at `path`. Fails if a key that they gave has another one, or a value of
 * `model` is out of range. Dropout and the keys of the initial weights stay as they are. */
bool config_take_model(Config *config, const GPT2Config *model, const char *path, ConfigTake take, Error *error);

/* The same keys as members of a JSON object: adds all of them to `json`, and reads all of them from it. A key of `model`
 * that is not among them gets its default. Reading fails if a key is missing or out of range; the message names `path`,
 * where the JSON is from. */
void config_model_to_json(const GPT2Config *model, struct cJSON *json);
bool config_model_from_json(GPT2Config *model, const struct cJSON *json, const char *path, Error *error);

EXTERN_C_END

#endif
