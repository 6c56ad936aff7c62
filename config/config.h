/* config.h: one run, as JSON files and the command line describe it.
 *
 * One table of keys (config_keys.c) drives parsing, --help, defaults, ranges and messages. Adding an option is adding a
 * field here and a line there; a setting of an optimizer is added in optim/ (config_keys.h says how). Files are read in
 * config_file.c, single values in config_value.c, and the model that comes with weights in config_model.c. help.c
 * answers --help and other questions.
 *
 * Nothing in this folder communicates. Every process reads the files itself, and the caller compares the results. */
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
    int total_batch_size;            /* sequences per step over all processes; 0 = not given (config_resolve()) */
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
    bool debug_alloc; /* each buffer gets an allocation of its own */
    int ema_start;    /* the step that begins the moving average of the weights (EMA); 0 = no average */
    double ema_decay; /* decay of the average per step */
    double ema_mix;   /* share of the average in the weights that ema_loss evaluates */
} TrainConfig;

/* Who gave a key its value: a file is the config file or one of its bases. */
typedef enum ConfigOrigin { CONFIG_DEFAULT, CONFIG_FROM_FILE, CONFIG_FROM_COMMAND_LINE } ConfigOrigin;

/* An upper bound on the number of keys, for arrays with an element for each. */
enum { CONFIG_MAX_KEYS = 128 };

/* A config file and its bases are at most this many files. */
enum { CONFIG_MAX_FILES = 8 };

typedef struct Config {
    GPT2Config model;
    DataConfig data;
    OptimConfig optimizer;   /* gradient_scale comes from the train section */
    ScheduleConfig schedule; /* max_iters is a copy of train's */
    TrainConfig train;
    /* Where the values come from, for messages. The run does not depend on these fields. They come last, so that
     * configs with equal values are equal bytes before them. */
    char files[CONFIG_MAX_FILES][CONFIG_STRING_LENGTH]; /* the config file, its base, the base of that; cut to fit */
    unsigned char origins[CONFIG_MAX_KEYS];             /* a ConfigOrigin for each key of the table */
    unsigned char levels[CONFIG_MAX_KEYS];              /* for a key from a file: the file's index in `files` */
    int max_iters_of_file;                              /* train.max_iters of the files; 0 if they do not give it */
} Config;

struct cJSON;

EXTERN_C_BEGIN

/* Reads the JSON file at `path` (NULL: defaults only), its bases, and then `count` overrides of the form "--key=value",
 * where key is "section.name" or a name that only one section has. Checks everything that can be checked without
 * knowing the number of processes. On failure *error names the file in which the wrong value is (or the command line),
 * the key, and what would be right.
 *
 * "base": "PATH" in a file reads that file first; PATH is relative to the folder of the file that gives it. A key of
 * the file replaces the same key of its base, and an override replaces the value of the files. A key that is given
 * twice in one file, or twice on the command line, is an error. total_batch_size and gradient_accumulation_steps
 * replace each other; on success exactly one of them is above 0.
 *
 * A key that the chosen optimizer or schedule does not use gets its default. This is a warning for a key of the config
 * file itself, an error for an override, and neither for a key of a base, which several runs share.
 *
 * If the overrides shorten max_iters, warmup_iters, warmdown_iters and ema_start of the files are shortened in
 * proportion, with a warning, unless the run only evaluates. An lr_decay_iters that is given stays; if it is not given,
 * it is max_iters. */
bool config_load(Config *config, const char *path, int count, char *const *overrides, Error *error);

/* config_load() in two steps, between which model keys may come from a folder with weights. config_read() reads each
 * value, and checks that required keys are there; config_check() checks how the values go together. */
bool config_read(Config *config, const char *path, int count, char *const *overrides, Error *error);
bool config_check(Config *config, Error *error);

/* Compares the config with `earlier`, the config_to_json() of an earlier run with the same optimizer. Returns a line
 * "section.key: value, was value" for each key whose value differs, or "". A key that `earlier` lacks had its default.
 * Leaves out the keys that say how a run begins, such as train.init_from. The caller frees the text by free(). */
char *config_changes(const Config *config, const struct cJSON *earlier);

/* Computes what depends on the number of ranks. config_load() leaves one of total_batch_size and
 * gradient_accumulation_steps 0; this sets it from the other, so that total_batch_size is the product of batch_size,
 * processes and gradient_accumulation_steps. Fails if the value that it sets would be no whole number, or too large;
 * the message names the file and, for a batch that does not divide evenly, lists values that fit. */
bool config_resolve(Config *config, int processes, Error *error);

/* For messages: says where the user must change a value of `keys` ("train.max_iters schedule.warmup_iters", with blanks
 * between them). Returns "command line" if that gives one of the keys; else the path of the file that gives one, the
 * config file before its bases; else the path of the config file. The text belongs to the config or is a constant: the
 * caller does not free it. */
const char *config_where(const Config *config, const char *keys);

/* Returns the config as one JSON object of sections, from which config_load() makes the same config. Leaves out keys
 * that the optimizer or schedule does not use, rates that the config does not give (config_key_is_absent()), and
 * gradient_accumulation_steps if total_batch_size is set. The caller frees the text by free(). */
char *config_to_json(const Config *config);

/* Prints the object of config_to_json() with a line for each key. */
void config_print(FILE *file, const Config *config);

/* If --help (-h), --version or --list_optimizers is among the arguments, prints the answer and ends the program. */
void config_answer_questions(int argc, char *const *argv);

/* Ends a program that has printed an answer: fails if standard output could not be written. */
NO_RETURN void config_end_answered(void);

/* Removes --print_config from the arguments. Returns whether it was there. */
bool config_remove_print_config(int *argc, char **argv);

/* Ends the program with EXIT_USAGE unless the first argument can be a config file. Every process calls it, and every
 * process ends; only the one that `speaks` prints the usage. */
void config_require_file(int argc, char *const *argv, bool speaks);

/* Every key with its type, default, meaning, and, if not all optimizers have it, those that do. */
void config_print_help(FILE *file);

/* The table of optimizers as a JSON list: name, title, alias, parameter groups, keys with their defaults. */
void config_print_optimizers(FILE *file);

EXTERN_C_END

#endif
