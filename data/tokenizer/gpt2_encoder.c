/* gpt2_encoder.c: see gpt2_encoder.h. The table of words has a fixed size, since a few words make up most of a text; a
 * new word takes the place of another. A slot is one line of the processor's cache, and looking a word up reads one or
 * two. */
#include "data/tokenizer/gpt2_encoder.h"

#include <stdlib.h>
#include <string.h>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/words.h"

enum {
    SLOT_BITS = 16,   /* 65536 slots of 64 bytes */
    WORD_BYTES = 31,  /* the longest word that is kept */
    WORD_TOKENS = 15, /* the largest number of tokens of a kept word */
    KEY_PARTS = 4,
    FOUND_WORDS = 32,       /* words that are looked up together */
    KEPT_REPAIRED = 1 << 16 /* bytes of a repaired word whose memory is kept for the next */
};

/* A word, padded with 0, with its length in the last byte. Keys are equal only if words are, and quick to compare. */
typedef struct WordKey {
    uint64_t parts[KEY_PARTS];
} WordKey;

typedef struct WordSlot {
    WordKey key;
    uint16_t tokens[WORD_TOKENS];
    uint16_t count; /* of tokens; 0 in an empty slot, whose key no word has */
} WordSlot;

/* A word of the text, with the tokens that a lookup found. */
typedef struct FoundWord {
    WordKey key;
    const char *text;
    uint32_t length, pair; /* the first of two slots */
    bool is_damaged;
} FoundWord;

struct Gpt2Encoder {
    const Vocabulary *vocabulary;
    const uint8_t *classes;
    WordSlot *slots;
    Bpe bpe;
    char *repaired; /* a word whose errors are replaced */
    size_t repaired_capacity;
    int64_t replaced; /* U+FFFD so far */
};

Gpt2Encoder *gpt2_encoder_open(const Vocabulary *vocabulary, const uint8_t *classes) {
    Gpt2Encoder *encoder = checked_calloc(1, sizeof *encoder, "an encoder");
    size_t bytes = sizeof(WordSlot) << SLOT_BITS;
    encoder->vocabulary = vocabulary;
    encoder->classes = classes;
    encoder->slots = aligned_alloc(sizeof(WordSlot), bytes);
    if (!encoder->slots) die("out of memory: %zu bytes for an encoder's words", bytes);
    memset(encoder->slots, 0, bytes);
    return encoder;
}

void gpt2_encoder_close(Gpt2Encoder *encoder) {
    if (!encoder) return;
    bpe_free(&encoder->bpe);
    free(encoder->slots);
    free(encoder->repaired);
    free(encoder);
}

int64_t gpt2_replaced(const Gpt2Encoder *encoder) { return encoder->replaced; }

/* The key of the word in the first `length` of `bytes` readable bytes. */
static inline WordKey key_of(const char *word, size_t length, size_t bytes) {
    static const unsigned char ones[2 * sizeof(WordKey)] = {[0 ... sizeof(WordKey) - 1] = 255};
    enum { LAST_BYTE = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 56 : 0 };
    WordKey key = {0}, mask;
    if (bytes >= sizeof key) {
        memcpy(&key, word, sizeof key);
        memcpy(&mask, ones + sizeof key - length, sizeof mask);
        for (int i = 0; i < KEY_PARTS; i++) key.parts[i] &= mask.parts[i];
    } else {
        memcpy(&key, word, length);
    }
    key.parts[KEY_PARTS - 1] |= (uint64_t)length << LAST_BYTE;
    return key;
}

static inline bool is_equal(const WordKey *a, const WordKey *b) {
    uint64_t difference = 0;
    for (int i = 0; i < KEY_PARTS; i++) difference |= a->parts[i] ^ b->parts[i];
    return difference == 0;
}

/* A hash: the upper bits of a sum of products with odd numbers depend on all bits of the key. */
static inline uint32_t pair_of(const WordKey *key) {
    static const uint64_t odd[KEY_PARTS] = {0x9e3779b97f4a7c15u, 0xc2b2ae3d27d4eb4fu, 0x165667b19e3779f9u,
                                            0xd6e8feb86659fd93u};
    uint64_t sum = 0;
    for (int i = 0; i < KEY_PARTS; i++) sum += key->parts[i] * odd[i];
    return (uint32_t)((sum ^ sum >> 32) * odd[0] >> (64 - SLOT_BITS)) & ~1u;
}

static void encode_any(Gpt2Encoder *encoder, const char *word, size_t length, TokenBuffer *out) {
    token_buffer_reserve(out, length);
    out->count += bpe_encode(&encoder->bpe, encoder->vocabulary, word, length, out->tokens + out->count);
}

/* Encodes a word that the table does not have and puts it there. The first slot of a pair has the newest word, the
 * second slot an older one. */
static void encode_new(Gpt2Encoder *encoder, const char *word, size_t length, const WordKey *key, WordSlot *pair,
                       TokenBuffer *out) {
    size_t before = out->count;
    encode_any(encoder, word, length, out);
    size_t count = out->count - before;
    if (count > WORD_TOKENS) return;
    pair[1] = pair[0];
    pair[0].key = *key;
    pair[0].count = (uint16_t)count;
    memcpy(pair[0].tokens, out->tokens + before, count * sizeof *out->tokens);
}

static void encode_known(Gpt2Encoder *encoder, const FoundWord *found, TokenBuffer *out) {
    WordSlot *pair = &encoder->slots[found->pair], *slot = pair;
    if (!is_equal(&slot->key, &found->key) && !is_equal(&(++slot)->key, &found->key)) {
        encode_new(encoder, found->text, found->length, &found->key, pair, out);
        return;
    }
    if (out->capacity - out->count < WORD_TOKENS) token_buffer_reserve(out, WORD_TOKENS);
    memcpy(out->tokens + out->count, slot->tokens, sizeof slot->tokens); /* a fixed size is faster */
    out->count += slot->count;
}

/* Encodes a word with U+FFFD in the place of bytes that are not UTF-8. */
static void encode_damaged(Gpt2Encoder *encoder, const char *word, size_t length, TokenBuffer *out) {
    size_t limit = length * strlen(UTF8_REPLACEMENT);
    if (limit > encoder->repaired_capacity) {
        free(encoder->repaired);
        encoder->repaired = checked_malloc(limit, "a word");
        encoder->repaired_capacity = limit;
    }
    size_t count = utf8_repair(word, length, encoder->repaired, &encoder->replaced);
    encode_any(encoder, encoder->repaired, count, out);
    if (encoder->repaired_capacity <= KEPT_REPAIRED) return;
    free(encoder->repaired);
    encoder->repaired = NULL, encoder->repaired_capacity = 0;
}

/* Finds the next words of the text, at most FOUND_WORDS, and prefetches their slots, so that memory delivers these
 * while other words are found. Returns how many there are; *at is where the next one begins. */
static int find_words(const Gpt2Encoder *encoder, const char *text, size_t bytes, bool is_end, size_t *at,
                      FoundWord *found) {
    int count = 0;
    for (; count < FOUND_WORDS && *at < bytes; count++) {
        FoundWord *word = &found[count];
        size_t length = word_length(encoder->classes, text + *at, bytes - *at, is_end, &word->is_damaged);
        if (length == 0) break;
        word->text = text + *at;
        word->length = (uint32_t)length;
        if (length <= WORD_BYTES) {
            word->key = key_of(word->text, length, bytes - *at);
            word->pair = pair_of(&word->key);
            __builtin_prefetch(&encoder->slots[word->pair]);
        }
        *at += length;
    }
    return count;
}

size_t gpt2_encode(Gpt2Encoder *encoder, const char *text, size_t bytes, bool is_end, TokenBuffer *out) {
    FoundWord found[FOUND_WORDS];
    size_t at = 0;
    for (int count; (count = find_words(encoder, text, bytes, is_end, &at, found)) > 0;)
        for (int i = 0; i < count; i++) {
            if (found[i].is_damaged)
                encode_damaged(encoder, found[i].text, found[i].length, out);
            else if (found[i].length <= WORD_BYTES)
                encode_known(encoder, &found[i], out);
            else
                encode_any(encoder, found[i].text, found[i].length, out);
        }
    return at;
}
