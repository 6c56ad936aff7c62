/* inspect.h: what is in token files, for people: counts, lengths of documents, the text around a position. All tokens
 * are read, so that every one of them is verified. */
#ifndef MARS_DATA_PREPARE_INSPECT_H
#define MARS_DATA_PREPARE_INSPECT_H

#include "util/base.h"

typedef struct InspectOptions {
    const char *const *paths; /* token files or patterns of them, one stream in this order */
    int count;
    const char *tokenizer, *vocabulary; /* see tokenizer_open; both NULL: what tokens.json next to the files says, else
                                           gpt2 */
    int64_t at;                         /* the position whose text is shown; -1 for none */
} InspectOptions;

EXTERN_C_BEGIN

/* Prints it. Fails for what is no token file, for a header that its size contradicts and for a token that is none, and
 * names file and position. */
bool inspect(const InspectOptions *options, Error *error);

EXTERN_C_END

#endif
