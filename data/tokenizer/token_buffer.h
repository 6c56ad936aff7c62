/* token_buffer.h: a growing array of tokens, as token files hold them. */
#ifndef MARS_DATA_TOKENIZER_TOKEN_BUFFER_H
#define MARS_DATA_TOKENIZER_TOKEN_BUFFER_H

#include "util/base.h"

EXTERN_C_BEGIN

/* Starts as {0}; token_buffer_free() ends it. */
typedef struct TokenBuffer {
    uint16_t *tokens;
    size_t count, capacity;
} TokenBuffer;

/* Makes room for `more` tokens after those that are there. */
void token_buffer_reserve(TokenBuffer *buffer, size_t more);
void token_buffer_free(TokenBuffer *buffer);

EXTERN_C_END

#endif
