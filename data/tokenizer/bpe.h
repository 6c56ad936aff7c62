/* bpe.h: byte-pair encoding of one word. At first each byte is a token. Then the pair of neighbours with the lowest
 * rank is merged, the leftmost first, until no pair can be merged. vocabulary.h has the merges; gpt2_encoder.h splits a
 * text into words and remembers those that it has seen. */
#ifndef MARS_DATA_TOKENIZER_BPE_H
#define MARS_DATA_TOKENIZER_BPE_H

#include "data/tokenizer/vocabulary.h"

EXTERN_C_BEGIN

/* Working memory. Starts as {0}. The memory of a very long word is freed after that word. */
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
