/* vocabulary.h: GPT-2's tokens and merges, read from its published files. A token of GPT-2 is one of the 256 bytes, or
 * two tokens merged, or the end of a text. How a text is divided into tokens is in bpe.h.
 *
 * encoder.json gives every token its number. Its keys are text, so each byte is written as a character of its own:
 * printable ones of Latin-1 as themselves, all others from U+0100 on in their order. vocab.bpe lists the merges in
 * the order of their rank, a line "LEFT RIGHT" each, in the same letters. Numbers follow ranks: merge r makes token
 * 256 + r. https://github.com/openai/gpt-2 has both files (MIT), and transformers calls them vocab.json and
 * merges.txt. llm.c's gpt2_tokenizer.bin (https://github.com/karpathy/llm.c) has the bytes of each token, no merges. */
#ifndef MARS_DATA_TOKENIZER_VOCABULARY_H
#define MARS_DATA_TOKENIZER_VOCABULARY_H

#include "util/base.h"

enum {
    VOCABULARY_MERGES = 50000,
    VOCABULARY_END = 256 + VOCABULARY_MERGES, /* the token <|endoftext|> */
    VOCABULARY_TOKENS,
    VOCABULARY_NO_TOKEN = UINT16_MAX,
    VOCABULARY_PAIR_SLOTS = 1 << 17
};

/* The merges, found by the two merged tokens: a hash table with open addressing. A token's number is also its merge's
 * rank. */
typedef struct MergeSlot {
    uint16_t left, right, token; /* token VOCABULARY_NO_TOKEN: an empty slot */
} MergeSlot;

typedef struct Vocabulary {
    int token_count, end_of_text; /* end_of_text -1: there is none */
    bool has_merges;
    char *bytes;               /* of all tokens, one after the other */
    uint32_t *starts;          /* where each token's bytes start; token_count + 1 of them */
    uint16_t byte_tokens[256]; /* the token of each byte */
    MergeSlot *merges;         /* VOCABULARY_PAIR_SLOTS */
} Vocabulary;

EXTERN_C_BEGIN

/* The names of the two published files, at OpenAI and in transformers. */
enum { VOCABULARY_FILES = 4 };
extern const char *const vocabulary_files[VOCABULARY_FILES];

/* The character, below U+0800, that stands for each byte in these files. */
void vocabulary_letters(uint16_t letters[256]);

/* Whether the folder has any of the files. */
bool vocabulary_is_in(const char *folder);

/* Reads what the folder has: encoder.json and vocab.bpe, by either name, or else gpt2_tokenizer.bin, which gives no
 * merges. Fails if files are missing or wrong; the message names the file and the place. vocabulary_close() frees
 * it. */
bool vocabulary_open(Vocabulary *vocabulary, const char *folder, Error *error);
/* The same for files with only `merges` of GPT-2's merges and the tokens that these make: tests write such files. */
bool vocabulary_open_sized(Vocabulary *vocabulary, const char *folder, int merges, Error *error);
void vocabulary_close(Vocabulary *vocabulary);

EXTERN_C_END

/* Returns the bytes of a token, whose number must be below token_count. */
static inline const char *vocabulary_bytes(const Vocabulary *vocabulary, int token, size_t *bytes) {
    *bytes = vocabulary->starts[token + 1] - vocabulary->starts[token];
    return vocabulary->bytes + vocabulary->starts[token];
}

static inline uint32_t vocabulary_pair_slot(unsigned left, unsigned right) {
    return ((left << 16 | right) * 0x9e3779b1u) >> 15; /* 17 bits, for VOCABULARY_PAIR_SLOTS */
}

/* The token that two tokens merge to, or VOCABULARY_NO_TOKEN. */
static inline uint16_t vocabulary_merge(const Vocabulary *vocabulary, uint16_t left, uint16_t right) {
    uint32_t slot = vocabulary_pair_slot(left, right);
    for (;; slot = (slot + 1) % VOCABULARY_PAIR_SLOTS) {
        const MergeSlot *merge = &vocabulary->merges[slot];
        if (merge->token == VOCABULARY_NO_TOKEN || (merge->left == left && merge->right == right)) return merge->token;
    }
}

#endif
