/* config.h: one run, as a JSON file and the command line describe it.
 *
 * One table of keys (config.c) drives parsing, --help, defaults, ranges and messages. Adding an option is adding a
 * field here and a line there. */
#ifndef MARS_CONFIG_CONFIG_H
#define MARS_CONFIG_CONFIG_H

#include <stdio.h>

#include "data/loader.h"
#include "model/gpt2_config.h"
#include "optim/optim_config.h"
#include "util/base.h"

enum { CONFIG_STRING_LENGTH = 1024 };

typedef struct DataConfig {
    char train[CONFIG_STRING_LENGTH]; /* a file, or a glob of shards */
    char val[CONFIG_STRING_LENGTH];
    char hellaswag[CONFIG_STRING_LENGTH];
    DataOrder order;
    uint64_t seed;
} DataConfig;

typedef enum DeviceChoice { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } DeviceChoice;
typedef enum PrecisionChoice { PRECISION_AUTO, PRECISION_FLOAT32, PRECISION_BFLOAT16 } PrecisionChoice;

typedef struct TrainConfig {
    int max_iters;
    int total_batch_size;            /* sequences per step over all processes */
    int gradient_accumulation_steps; /* may be given instead; 0 = not given */
    int batch_size;                  /* sequences per process per micro-step */
    int eval_interval, eval_sequences;
    bool eval_only;
    int log_interval, norms_interval, checkpoint_interval, keep_checkpoints;
    int sample_interval;
    char sample_prompt[CONFIG_STRING_LENGTH]; /* "" = the end of text, after which a document begins */
    int sample_tokens;
    char out_dir[CONFIG_STRING_LENGTH];
    bool overwrite;
    char init_from[CONFIG_STRING_LENGTH]; /* "scratch", "resume", "auto" or a path */
    uint64_t seed;
    DeviceChoice device;
    PrecisionChoice precision;
    bool allow_tf32;
    int threads;
    Recompute recompute;
    bool debug_alloc; /* an allocation for each buffer */
    int ema_start;    /* the step from which on there is an average of the weights; 0 = none */
    double ema_decay; /* of that average (EMA) in a step */
    double ema_mix;   /* its share of the weights that ema_loss is of */
} TrainConfig;

/* Who gave a key its value. */
typedef enum ConfigOrigin { CONFIG_DEFAULT, CONFIG_FROM_FILE, CONFIG_FROM_COMMAND_LINE } ConfigOrigin;

/* An upper bound on the number of keys, for arrays with an element for each. */
enum { CONFIG_MAX_KEYS = 128 };

typedef struct Config {
    GPT2Config model;
    DataConfig data;
    OptimConfig optimizer;   /* gradient_scale comes from the train section */
    ScheduleConfig schedule; /* max_iters is a copy of train's */
    TrainConfig train;
    /* Where the values come from, for messages. It does not matter to the run, and comes last: what is before it is the
     * same in configs that say the same. */
    char file[CONFIG_STRING_LENGTH];        /* cut to fit; "" for none */
    unsigned char origins[CONFIG_MAX_KEYS]; /* a ConfigOrigin for each key of the table */
    int max_iters_of_file;                  /* 0 for none */
} Config;

struct cJSON;

EXTERN_C_BEGIN

/* Reads the JSON file at `path` (NULL: defaults only) and then `count` overrides of the form "--key=value", where
 * key is "section.name" or a name that only one section has. Checks everything that can be checked without knowing
 * the number of processes. A key that the chosen optimizer or schedule does not use is a warning in the file, where it
 * gets its default, and an error among the overrides. Where the overrides shorten max_iters, the file's warm-up
 * and warm-down are shortened in proportion, with a warning. On failure *error names the file (or the
 * command line), the key and what would be right. */
bool config_load(Config *config, const char *path, int count, char *const *overrides, Error *error);

/* config_load() in two steps, between which model keys may come from a folder with weights. config_read() reads each
 * value, and checks that required keys are there; config_check() checks how the values go together. */
bool config_read(Config *config, const char *path, int count, char *const *overrides, Error *error);
bool config_check(Config *config, Error *error);

/* In what a given model key may differ from that of a folder with weights. */
typedef struct ConfigTake {
    bool other_length; /* block_size may be smaller, and without position embeddings larger too */
    bool without_bias; /* bias may be false where the folder has biases: the weights must show that they are zero */
} ConfigTake;

/* Gives every key that changes what the model computes, and that neither the file nor the command line gave, its value in
 * `model`, which comes with the weights in `folder`. Fails if a key that they gave has another one, or a value of the
 * folder is out of range. Dropout and the keys of the initial weights stay as they are. */
bool config_take_model(Config *config, const GPT2Config *model, const char *folder, ConfigTake take, Error *error);

/* The same keys as members of a JSON object: adds all of them to `json`, and reads all of them from it. A key of `model`
 * that is not among them gets its default. Reading fails if a key is missing or out of range; the message names `path`,
 * where the JSON is from. */
void config_model_to_json(const GPT2Config *model, struct cJSON *json);
bool config_model_from_json(GPT2Config *model, const struct cJSON *json, const char *path, Error *error);

/* The keys whose values differ from those in `earlier`, what config_to_json() gave for an earlier run with the same
 * optimizer: a line "section.key: value, was value" for each; "" where there are none. A key that `earlier` lacks had its
 * default. Keys that say how a run begins do not count. The caller frees the text. */
char *config_changes(const Config *config, const struct cJSON *earlier);

/* Settles what depends on the number of processes: total_batch_size (from gradient_accumulation_steps where that
 * was given) and that it divides evenly; the message says where, and lists the batch sizes that would fit. Afterwards both
 * total_batch_size and gradient_accumulation_steps are set. */
bool config_resolve(Config *config, int processes, Error *error);

/* Where a value is that someone must change: "command line" where it gives one of these keys ("train.max_iters
 * schedule.warmup_iters", with blanks between them), else the file. */
const char *config_where(const Config *config, const char *keys);

/* The config as one JSON object of sections, which config_load reads back to the same config: every key, but those that
 * its optimizer or schedule does not use; of total_batch_size and gradient_accumulation_steps the first where that is set. The
 * caller frees the text. */
char *config_to_json(const Config *config);

/* Answers --help (-h), --version and --list_optimizers, wherever they stand, and ends the program; else returns. */
void config_answer_questions(int argc, char *const *argv);

/* Ends the program with EXIT_USAGE unless the first argument can be a config file. One process `speaks` for all. */
void config_require_file(int argc, char *const *argv, bool speaks);

/* Every key with its type, default, meaning, and the optimizers that have it where not all do. */
void config_print_help(FILE *file);

/* The table of optimizers as a JSON list: name, title, alias, parameter groups, keys with their defaults. */
void config_print_optimizers(FILE *file);

EXTERN_C_END

#endif
