/* words.h: where GPT-2's words end. Before bytes are merged to tokens, a text is divided by this pattern, whose words
 * follow each other without gaps (https://github.com/openai/gpt-2, src/encoder.py):
 *
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * Bytes that are not UTF-8 count as U+FFFD does, which is neither letter, number nor space. */
#ifndef MARS_DATA_TOKENIZER_WORDS_H
#define MARS_DATA_TOKENIZER_WORDS_H

#include "data/tokenizer/char_class.h"

/* A longer word is cut after the last character that fits, and what follows begins a new one. */
enum { WORD_MAX_BYTES = 1 << 20 };

EXTERN_C_BEGIN

/* Length in bytes of the word that the text begins with; 0 if it may depend on what follows the text, which is so only
 * if is_end is false and the text has at most WORD_MAX_BYTES. `classes` is from char_class_fill(). *is_damaged says
 * whether the word has bytes that are not UTF-8. */
size_t word_length(const uint8_t *classes, const char *text, size_t bytes, bool is_end, bool *is_damaged);

EXTERN_C_END

#endif
