/* token_buffer.c: see token_buffer.h. */
#include "data/tokenizer/token_buffer.h"

#include <stdlib.h>

void token_buffer_reserve(TokenBuffer *buffer, size_t more) {
    if (more <= buffer->capacity - buffer->count) return;
    buffer->capacity = buffer->count + more + buffer->capacity / 2; /* in proportion, so that appending is linear */
    buffer->tokens = checked_realloc(buffer->tokens, buffer->capacity * sizeof *buffer->tokens, "tokens");
}

void token_buffer_free(TokenBuffer *buffer) {
    free(buffer->tokens);
    *buffer = (TokenBuffer){0};
}
