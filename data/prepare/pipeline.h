/* pipeline.h: from text files to tokens, on all cores: documents are read one after the other, encoded side by side,
 * and written in their order. The result does not depend on the number of threads, and memory not on the size of the
 * input. How files are read and where documents begin is known to text_source.c and documents.c, how tokens are stored
 * to shard_writer.c. */
#ifndef MARS_DATA_PREPARE_PIPELINE_H
#define MARS_DATA_PREPARE_PIPELINE_H

#include "data/prepare/documents.h"
#include "data/prepare/shard_writer.h"
#include "data/prepare/text_files.h"
#include "data/tokenizer/tokenizer.h"

/* Where the token that stands between documents goes. */
typedef enum DocumentToken { TOKEN_NOWHERE, TOKEN_AT_BEGIN, TOKEN_AT_END } DocumentToken;

/* Which part is for validation: the end of the text, from a byte of it on; documents that are drawn; or the first
 * tokens, as many as a shard has. */
typedef enum ValidationSplit { SPLIT_TEXT_END, SPLIT_DOCUMENTS, SPLIT_FIRST_SHARD } ValidationSplit;

typedef struct PipelineOptions {
    const Tokenizer *tokenizer; /* one that can encode */
    int threads;                /* that encode */
    bool takes_binary;          /* see text_file_check() */
    DocumentToken document_token;
    ValidationSplit split;
    int64_t train_bytes; /* SPLIT_TEXT_END: so many bytes of the text, all documents joined, are for training */
    double val_fraction; /* SPLIT_DOCUMENTS: the probability that a document is drawn, by its number and the seed */
    uint64_t split_seed;
    int64_t shard_tokens; /* SPLIT_FIRST_SHARD: so many tokens are for validation */
    /* Called now and then, from the caller's thread. tokens -1: nothing is encoded yet (pipeline_measure). */
    void (*progress)(void *context, int64_t bytes_taken, int64_t tokens);
    void *progress_context;
} PipelineOptions;

/* A file with bytes that are no UTF-8. */
typedef struct DamagedFile {
    int input;               /* its number among the files */
    int64_t replaced, bytes; /* U+FFFD that stand for such bytes; all bytes of its documents */
} DamagedFile;

enum { GARBLED_NAMED = 3 };

typedef struct PipelineCounts {
    int64_t documents, val_documents; /* those that are cut by SPLIT_TEXT_END or SPLIT_FIRST_SHARD are for training */
    int64_t text_bytes;
    DocumentCounts found;
    int64_t replaced;  /* U+FFFD that stand for what is no UTF-8, in all files */
    int damaged_files; /* that have any */
    DamagedFile first_damaged;
    int garbled_files;                  /* that are mostly U+FFFD: one for every two bytes, or more */
    DamagedFile garbled[GARBLED_NAMED]; /* the first of them */
} PipelineCounts;

EXTERN_C_BEGIN

/* Reads all files and writes their tokens. Stops, with an error, where util/stop_signal.h says so. */
bool pipeline_run(const PipelineOptions *options, const TextFiles *files, const DocumentFormat *format,
                  ShardWriter *train, ShardWriter *val, PipelineCounts *counts, Error *error);

/* *text_bytes: how much text all documents have, which takes reading all files. Fails as pipeline_run() does. */
bool pipeline_measure(const PipelineOptions *options, const TextFiles *files, const DocumentFormat *format,
                      int64_t *text_bytes, Error *error);

/* The last place where a text can be cut so that its two parts have the tokens of the whole, in every tokenizer; 0
 * where there is none. Exported for its test. */
size_t pipeline_cut(const char *text, size_t bytes);

EXTERN_C_END

#endif
