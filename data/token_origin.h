/* token_origin.h: which tokenizer made token files, as tokens.json next to them records it.
 *
 * prepare_data and the scripts of data/ leave a tokens.json with the files that they make. Numbers of two tokenizers may
 * both be below vocab_size, and mean nothing together. */
#ifndef MARS_DATA_TOKEN_ORIGIN_H
#define MARS_DATA_TOKEN_ORIGIN_H

#include "data/token_files.h"
#include "data/tokenizer/tokenizer.h"

typedef struct TokenOrigin {
    char *folder; /* of the first file with a tokens.json next to it; of the first file if none has one */
    TokenizerRecord record;
} TokenOrigin;

EXTERN_C_BEGIN

/* Reads tokens.json in every folder that holds one of these files, of which there is at least one. Fails if two of them
 * record different tokenizers, or if one cannot be read. A file without a tokens.json may be of any tokenizer.
 * token_origin_close() ends it, also after a failure. */
bool token_origin_open(TokenOrigin *origin, const TokenFiles *files, Error *error);
void token_origin_close(TokenOrigin *origin);

/* Fails if the two record different tokenizers, with both names. */
bool token_origins_agree(const TokenOrigin *a, const TokenOrigin *b, Error *error);

EXTERN_C_END

#endif
