/* checkpoint_tokenizer.h: the files of a checkpoint that say how to read its tokens: tokens.json, which sample_gpt2
 * reads, and those from which transformers' AutoTokenizer makes the same tokenizer. For checkpoint.c only. */
#ifndef MARS_CHECKPOINT_CHECKPOINT_TOKENIZER_H
#define MARS_CHECKPOINT_CHECKPOINT_TOKENIZER_H

#include "model/gpt2_config.h"
#include "util/base.h"

enum { CHECKPOINT_TOKENIZER_FILES = 8 };

/* A file of the checkpoint: a copy of another one, or a text. */
typedef struct CheckpointFile {
    const char *name;
    char *from, *text; /* one of them is NULL; the caller frees both */
} CheckpointFile;

typedef struct CheckpointTokenizer {
    CheckpointFile files[CHECKPOINT_TOKENIZER_FILES];
    int count;
    bool has_end_of_text; /* the model's vocabulary may have GPT-2's <|endoftext|> */
} CheckpointTokenizer;

EXTERN_C_BEGIN

/* Finds the files that describe the tokens in `tokens_folder` (NULL: the tokenizer is unknown): the tokenizer that its
 * tokens.json names, with GPT-2's vocabulary from there or from data/gpt2. For an unknown tokenizer it makes a
 * description that transformers refuses: without one, it would make an empty GPT-2 tokenizer. */
void checkpoint_tokenizer(CheckpointTokenizer *tokenizer, const char *tokens_folder, const GPT2Config *model);

EXTERN_C_END

#endif
