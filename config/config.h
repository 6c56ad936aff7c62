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

enum {
    CONFIG_STRING_LENGTH = 1024,
    CONFIG_MAX_KEYS = 128 /* an upper bound on the length of the table of keys, for arrays with an element for each */
};

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
    int log_interval, checkpoint_interval, keep_checkpoints;
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
} TrainConfig;

typedef struct Config {
    GPT2Config model;
    DataConfig data;
    OptimConfig optimizer;   /* gradient_scale comes from the train section */
    ScheduleConfig schedule; /* max_iters is a copy of train's */
    TrainConfig train;
} Config;

/* The file or the command line: what messages call it, and which keys it has given, by their index in the table. */
typedef struct ConfigSource {
    const char *name;
    bool given[CONFIG_MAX_KEYS];
} ConfigSource;

/* Who gave which key. */
typedef struct ConfigGiven {
    ConfigSource file, command_line;
} ConfigGiven;

struct cJSON;

EXTERN_C_BEGIN

/* Reads the JSON file at `path` (NULL: defaults only) and then `count` overrides of the form "--key=value", where
 * key is "section.name" or a name that only one section has. Checks everything that can be checked without knowing
 * the number of processes; a key that the chosen optimizer does not have is an error. On failure *error names the file
 * (or the argument), the key and what would be right. */
bool config_load(Config *config, const char *path, int count, char *const *overrides, Error *error);

/* config_load() in two steps, between which model keys may come from a folder with weights. config_read() checks each
 * value alone, and that required keys are there; `path` must outlive *given. config_check() does the rest. */
bool config_read(Config *config, ConfigGiven *given, const char *path, int count, char *const *overrides, Error *error);
bool config_check(Config *config, const ConfigGiven *given, Error *error);

/* In what a given model key may differ from that of a folder with weights. */
typedef struct ConfigTake {
    bool shorter;      /* block_size may be smaller */
    bool without_bias; /* bias may be false where the folder has biases: the weights must show that they are zero */
} ConfigTake;

/* Gives every model key but dropout that neither the file nor the command line gave its value in `model`, which comes
 * with the weights in `folder`. Fails if a key that they gave has another one, or a value of the folder is out of range. */
bool config_take_model(Config *config, const ConfigGiven *given, const GPT2Config *model, const char *folder,
                       ConfigTake take, Error *error);

/* The keys whose values differ from those in `earlier`, what config_to_json() gave for an earlier run with the same
 * optimizer: a line "section.key: value, was value" for each; "" where there are none. A key that `earlier` lacks had its
 * default. Keys that say how a run begins do not count. The caller frees the text. */
char *config_changes(const Config *config, const struct cJSON *earlier);

/* Settles what depends on the number of processes: total_batch_size (from gradient_accumulation_steps where that
 * was given) and that it divides evenly; the message lists the batch sizes that would fit. Afterwards both
 * total_batch_size and gradient_accumulation_steps are set. */
bool config_settle(Config *config, int processes, Error *error);

/* The config as one JSON object of sections, which config_load reads back to the same config: every key, but those that
 * its optimizer does not have; of total_batch_size and gradient_accumulation_steps the first where that is set. The
 * caller frees the text. */
char *config_to_json(const Config *config);

/* Answers --help (-h) and --version, wherever they stand, and ends the program; else returns. */
void config_answer_questions(int argc, char *const *argv);

void config_print_usage(FILE *file);

/* Every key with its type, default, meaning, and the optimizers that have it where not all do. */
void config_print_help(FILE *file);

EXTERN_C_END

#endif
