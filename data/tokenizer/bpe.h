/* bpe.h: byte-pair encoding of one word. Its bytes are tokens at first; of all neighbours that can be merged, those
 * with the lowest rank are, the leftmost first, until none can be. The vocabulary knows which merges there are, and
 * the encoder's (gpt2_encoder.h) what a word is and whether it was seen before. */
#ifndef MARS_DATA_TOKENIZER_BPE_H
#define MARS_DATA_TOKENIZER_BPE_H

#include "data/tokenizer/vocabulary.h"

EXTERN_C_BEGIN

/* Working memory. Starts as {0}; what a very long word took is given back after it. */
typedef struct Bpe {
    struct BpeSymbol *symbols;
    uint64_t *heap;
    size_t capacity;
} Bpe;

/* Writes the word's tokens, at most one per byte, and returns how many. Time grows as n log n. */
size_t bpe_encode(Bpe *bpe, const Vocabulary *vocabulary, const char *word, size_t bytes, uint16_t *tokens);

void bpe_free(Bpe *bpe);

EXTERN_C_END

#endif
