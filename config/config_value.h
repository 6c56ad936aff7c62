/* config_value.h: the value of one key: from the text of a command line, from JSON, from the table's defaults, and back
 * to JSON. config.c decides who may give which key. */
#ifndef MARS_CONFIG_CONFIG_VALUE_H
#define MARS_CONFIG_CONFIG_VALUE_H

#include "config/config_keys.h"

struct cJSON;

EXTERN_C_BEGIN

/* Sets the key to a value in the command line's syntax, or in JSON. Returns false if the key cannot have this value;
 * the field may then hold anything. */
bool config_set_from_text(Config *config, const ConfigKey *key, const char *text);
bool config_set_from_json(Config *config, const ConfigKey *key, const struct cJSON *item);

/* Sets the key from JSON, or says that the value is wrong in the file at `path`. */
bool config_set_or_explain(Config *config, const ConfigKey *key, const struct cJSON *item, const char *path,
                           Error *error);

/* Returns false and sets *error, which says: the place `where`, the key and its value, and what was expected. */
bool config_wrong_value(const char *where, const ConfigKey *key, const char *value, Error *error);

/* Sets a key that is not required to its default: its own, or that of the config's optimizer. */
void config_set_default(Config *config, const ConfigKey *key);

/* Sets all keys to the defaults that do not depend on the optimizer, and all other fields to zero. */
void config_set_defaults(Config *config);

/* The value as JSON, which the caller frees by cJSON_Delete(), and as text, which the caller frees by cJSON_free(). */
struct cJSON *config_value_to_json(const Config *config, const ConfigKey *key);
char *config_value_text(const Config *config, const ConfigKey *key);

EXTERN_C_END

#endif
