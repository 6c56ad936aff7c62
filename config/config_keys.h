/* config_keys.h: the table of all config keys, and functions that read it.
 *
 * A line of the table says where a key's value lies in Config, its type, default, range and meaning, and which
 * schedules use it. Which optimizers use it, and its default with each, follows from the table of optimizers
 * (optim/optimizers.h). The parser, --help, the messages and config_to_json (config.c) only walk the table, so a new
 * option is one field in a struct and one line in config_keys.c. Nothing here reads files or changes a Config.
 *
 * The keys of an optimizer's settings are made from optim/optimizer_keys.h. A new setting is a field of OptimConfig
 * (optim/optim_config.h) and a line in optim/optimizer_keys.h. Its default is in optim/optimizers.c. The rules that
 * read it name it in their lines of optim/optimizers.h. */
#ifndef MARS_CONFIG_CONFIG_KEYS_H
#define MARS_CONFIG_CONFIG_KEYS_H

#include "config/config.h"
#include "util/range.h"

typedef enum ConfigType {
    CONFIG_BOOL,   /* bool */
    CONFIG_INT,    /* int */
    CONFIG_SEED,   /* uint64_t, all of it */
    CONFIG_NUMBER, /* double, finite */
    CONFIG_PAIR,   /* double[2], both finite */
    CONFIG_STRING, /* char[CONFIG_STRING_LENGTH] */
    CONFIG_CHOICE  /* an enumeration; choices[value] is its name */
} ConfigType;

typedef struct ConfigKey {
    const char *section, *name;
    ConfigType type;
    size_t offset;              /* of the value in Config */
    const char *default_text;   /* as on the command line; NULL: see below */
    bool has_optimizer_default; /* the default is the optimizer's own; without either the key is required */
    double minimum, maximum;    /* of an int, a number, each of a pair; of a string's length in bytes */
    unsigned limits;            /* RangeLimits (util/range.h) */
    unsigned schedules;         /* the schedules that use the key, bit 1 << ScheduleName; 0: all do */
    bool is_path;               /* a leading "~" is the home folder */
    bool comes_with_weights;    /* of the model: changes what it computes */
    const char *const *choices; /* ends with NULL */
    const char *help;
} ConfigKey;

EXTERN_C_BEGIN

/* The table: the keys of a section are neighbours. */
extern const ConfigKey config_keys[];
extern const int config_key_count;

/* Index of the key, or -1. */
int config_key_find(const char *section, const char *name);

/* Returns the index of the key whose name is spelled most like `name`. Of several such keys it takes the one in the
 * section spelled most like `section`, which may be NULL. */
int config_key_nearest(const char *section, const char *name);

bool config_section_exists(const char *section);
const char *config_section_nearest(const char *section);

const char *config_schedule_name(ScheduleName name);
/* Whether a config must give the key. */
bool config_key_is_required(const ConfigKey *key);

/* Whether the optimizer reads the key, at least with some values of other keys. True for keys outside of the section
 * `optimizer`. config_key_optimizers() returns the mask of the optimizers that do, bit 1 << OptimName; 0: all do. */
bool config_key_applies(const ConfigKey *key, OptimName optimizer);
unsigned config_key_optimizers(const ConfigKey *key);

/* Whether the key is a learning rate that defaults to learning_rate, and the config does not give it. The field is then
 * 0, and the rate is learning_rate. No file and no command line can give 0. */
bool config_key_is_absent(const ConfigKey *key, const Config *config);

/* Says why the key has no effect in this config: "the optimizer adamw", "the schedule wsd", "optimizer.optimize_1d
 * true". Returns NULL if the key has an effect. `where` has room for `size` bytes of the text. */
const char *config_key_idle_in(const ConfigKey *key, const Config *config, char *where, size_t size);

/* The names of the optimizers in a mask (0: all), and of the schedules. */
void config_list_optimizers(unsigned mask, char *text, size_t size);
void config_list_schedules(unsigned mask, char *text, size_t size);

/* Writes the default of a key that is not required, as on the command line: that of the optimizer if it has its own. */
void config_key_default_text(const ConfigKey *key, OptimName optimizer, char *text, size_t size);

/* The key's type and range in a few words, for --help: "integer >= 1". */
void config_key_type_text(const ConfigKey *key, char *text, size_t size);

/* Says for a message what a value of the key must be: config_key_type_text() and what else a user must know. */
void config_key_expectation(const ConfigKey *key, char *text, size_t size);

EXTERN_C_END

#endif
