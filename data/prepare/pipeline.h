/* pipeline.h: from text files to tokens, on all cores: documents are read one after the other, encoded in parallel, and
 * written in their order. The result does not depend on the number of threads, and memory does not depend on the size
 * of the input. text_source.c reads files, documents.c finds where documents begin, and shard_writer.c stores
 * tokens. */
#ifndef MARS_DATA_PREPARE_PIPELINE_H
#define MARS_DATA_PREPARE_PIPELINE_H

#include "data/prepare/documents.h"
#include "data/prepare/shard_writer.h"
#include "data/prepare/text_files.h"
#include "data/tokenizer/tokenizer.h"

/* Where the token that stands between documents goes. */
typedef enum DocumentToken { TOKEN_NOWHERE, TOKEN_AT_BEGIN, TOKEN_AT_END } DocumentToken;

/* Which part is for validation: the end of the text, from a given byte on; documents drawn at random; or the first
 * tokens, as many as a shard has. */
typedef enum ValidationSplit { SPLIT_TEXT_END, SPLIT_DOCUMENTS, SPLIT_FIRST_SHARD } ValidationSplit;

typedef struct PipelineOptions {
    const Tokenizer *tokenizer; /* one that can encode */
    int threads;                /* that encode */
    bool takes_binary;          /* see text_file_check() */
    DocumentToken document_token;
    ValidationSplit split;
    int64_t train_bytes; /* SPLIT_TEXT_END: this many first bytes of the text, all documents joined, are for training */
    double val_fraction; /* SPLIT_DOCUMENTS: the probability that a document is drawn, by its number and the seed */
    uint64_t split_seed;
    int64_t shard_tokens; /* SPLIT_FIRST_SHARD: this many tokens are for validation */
    /* Called from time to time in the caller's thread. tokens is -1 while nothing is encoded (pipeline_measure). */
    void (*progress)(void *context, int64_t bytes_taken, int64_t tokens);
    void *progress_context;
} PipelineOptions;

/* A file with bytes that are not UTF-8. */
typedef struct DamagedFile {
    int input;               /* its number among the files */
    int64_t replaced, bytes; /* U+FFFD that stand for such bytes; all bytes of its documents */
} DamagedFile;

enum { GARBLED_NAMED = 3 };

typedef struct PipelineCounts {
    int64_t documents, val_documents; /* a document cut by SPLIT_TEXT_END or SPLIT_FIRST_SHARD counts as training */
    int64_t text_bytes;
    DocumentCounts found;
    int64_t replaced;  /* U+FFFD in the place of bytes that are not UTF-8, in all files */
    int damaged_files; /* that have any */
    DamagedFile first_damaged;
    int garbled_files;                  /* that are mostly U+FFFD: one for every two bytes, or more */
    DamagedFile garbled[GARBLED_NAMED]; /* the first of them */
} PipelineCounts;

EXTERN_C_BEGIN

/* Reads all files and writes their tokens. Stops with an error if a signal asks for it (util/stop_signal.h). */
bool pipeline_run(const PipelineOptions *options, const TextFiles *files, const DocumentFormat *format,
                  ShardWriter *train, ShardWriter *val, PipelineCounts *counts, Error *error);

/* Reads all files, and sets *text_bytes to the bytes of text in all documents. Fails as pipeline_run() does. */
bool pipeline_measure(const PipelineOptions *options, const TextFiles *files, const DocumentFormat *format,
                      int64_t *text_bytes, Error *error);

/* The last place where a text can be cut so that its two parts have the tokens of the whole, in every tokenizer; 0 if
 * there is none. Exported for its test. */
size_t pipeline_cut(const char *text, size_t bytes);

EXTERN_C_END

#endif
