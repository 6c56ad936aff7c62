/* prepare_options.h: the command line of prepare_data. prepare_data.c decides what the options mean for a certain
 * input. */
#ifndef MARS_DATA_PREPARE_PREPARE_OPTIONS_H
#define MARS_DATA_PREPARE_PREPARE_OPTIONS_H

#include "data/prepare/documents.h"
#include "data/prepare/shard_writer.h"

/* What the program is asked to do: bits, since an option may apply to several tasks. */
typedef enum PrepareTask { TASK_PREPARE = 1, TASK_INSPECT = 2, TASK_HELLASWAG = 4 } PrepareTask;

typedef struct PrepareOptions {
    PrepareTask task;
    const char *tokenizer;
    char *vocabulary, *out; /* a leading ~ is replaced; NULL if not given */
    ShardFormat format;
    int64_t shard_tokens;
    DocumentFormat documents;
    int document_token; /* a DocumentToken, or -1: that of the format */
    int val_from;       /* a ValidationSplit, or -1: depends on the input */
    double val_fraction;
    uint64_t split_seed;
    int threads;
    int64_t at;
    bool has_shard_tokens, has_val_fraction, has_split_seed; /* given, not the default */
    const char **inputs;                                     /* point into argv */
    int input_count;
} PrepareOptions;

EXTERN_C_BEGIN

/* The words for --format, --document_token and --val_from, by ShardFormat, DocumentToken and ValidationSplit; NULL ends
 * each list. */
extern const char *const prepare_format_names[], *const prepare_token_names[], *const prepare_split_names[];

/* Ends the program for a wrong command line, and for --help and --version. prepare_options_free() frees the result. */
PrepareOptions prepare_options_parse(int argc, char **argv);
void prepare_options_free(PrepareOptions *options);

EXTERN_C_END

#endif
