/* inspect.h: what is in token files, for people: counts, lengths of documents, the text around a position. It reads,
 * and so verifies, every token. */
#ifndef MARS_DATA_PREPARE_INSPECT_H
#define MARS_DATA_PREPARE_INSPECT_H

#include "util/base.h"

typedef struct InspectOptions {
    const char *const *paths; /* token files or patterns of them, one stream in this order */
    int count;
    const char *tokenizer, *vocabulary; /* see tokenizer_open; both NULL: those of the files' tokens.json, else gpt2 */
    int64_t at;                         /* the position whose text is shown; -1 for none */
} InspectOptions;

EXTERN_C_BEGIN

/* Prints all of this. Fails, with file and position, if a file holds no tokens, has a header that contradicts its size,
 * or has a token that the tokenizer lacks. */
bool inspect(const InspectOptions *options, Error *error);

EXTERN_C_END

#endif
