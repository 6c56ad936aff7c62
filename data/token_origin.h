/* token_origin.h: which tokenizer made token files, as tokens.json next to them records it.
 *
 * prepare_data and the scripts of data/ write a tokens.json next to their token files. Two tokenizers give the same
 * numbers to different texts, so a run must not mix their tokens. */
#ifndef MARS_DATA_TOKEN_ORIGIN_H
#define MARS_DATA_TOKEN_ORIGIN_H

#include "data/token_files.h"
#include "data/tokenizer/tokenizer.h"

typedef struct TokenOrigin {
    char *folder; /* of the first file with a tokens.json next to it; of the first file if none has one */
    TokenizerRecord record;
} TokenOrigin;

EXTERN_C_BEGIN

/* Reads tokens.json in every folder of these files (at least one). Fails if two of them record different tokenizers, or
 * if one cannot be read. Files without a tokens.json may be of any tokenizer. token_origin_close() frees it, also after
 * a failure. */
bool token_origin_open(TokenOrigin *origin, const TokenFiles *files, Error *error);
void token_origin_close(TokenOrigin *origin);

/* Fails if the two record different tokenizers, with both names. */
bool token_origins_agree(const TokenOrigin *a, const TokenOrigin *b, Error *error);

EXTERN_C_END

#endif
