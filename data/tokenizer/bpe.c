/* bpe.c: merging a word's bytes (see bpe.h). A token's number is its rank, so the pair to merge next is the one that
 * makes the lowest token. Short words look through all their pairs each time, in a few bytes of memory; long ones keep
 * the pairs in a heap. */
#include "data/tokenizer/bpe.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A very long word takes up to 90 MB for a moment. Only one thread at a time encodes one, so that threads do not add
 * up. */
static pthread_mutex_t very_long_word = PTHREAD_MUTEX_INITIALIZER;

enum {
    SHORT_WORD = 64,        /* bytes */
    KEPT_CAPACITY = 1 << 16 /* symbols whose memory is kept for the next word */
};

static size_t encode_short(const Vocabulary *v, const char *word, size_t n, uint16_t *tokens) {
    uint16_t merged[SHORT_WORD]; /* the token that token i and the next one merge to */
    for (size_t i = 0; i < n; i++) tokens[i] = v->byte_tokens[(unsigned char)word[i]];
    for (size_t i = 0; i + 1 < n; i++) merged[i] = vocabulary_merge(v, tokens[i], tokens[i + 1]);
    while (n > 1) {
        uint16_t lowest = VOCABULARY_NO_TOKEN;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) lowest = merged[i] < lowest ? merged[i] : lowest;
        if (lowest == VOCABULARY_NO_TOKEN) break;
        while (merged[at] != lowest) at++;
        n--;
        tokens[at] = lowest;
        memmove(tokens + at + 1, tokens + at + 2, (n - at - 1) * sizeof *tokens);
        if (at + 1 < n) {
            memmove(merged + at + 1, merged + at + 2, (n - at - 2) * sizeof *merged);
            merged[at] = vocabulary_merge(v, lowest, tokens[at + 1]);
        }
        if (at > 0) merged[at - 1] = vocabulary_merge(v, tokens[at - 1], lowest);
    }
    return n;
}

/* ---- long words ---- */

/* A token of the word, in a linked list from which merging removes elements. */
typedef struct BpeSymbol {
    uint32_t previous, next; /* no neighbour: the count of symbols */
    uint16_t token, merged;  /* the token that it and the next one merge to */
} Symbol;

/* The heap holds pairs as numbers, in the order in which they are merged. A pair whose tokens have changed stays in the
 * heap until it is the first. */
static uint64_t pair_number(uint16_t merged, size_t symbol) { return (uint64_t)merged << 32 | symbol; }

static void sift_down(uint64_t *heap, size_t count, size_t at) {
    uint64_t pair = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (pair <= heap[child]) break;
        heap[at] = heap[child];
    }
    heap[at] = pair;
}

static void sift_up(uint64_t *heap, size_t at) {
    uint64_t pair = heap[at];
    for (; at > 0 && heap[(at - 1) / 2] > pair; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = pair;
}

/* Sets the token that the symbol and the next one merge to, and puts the pair into the heap of *count pairs. */
static void set_pair(Bpe *bpe, const Vocabulary *v, uint32_t at, uint32_t none, size_t *count) {
    Symbol *s = &bpe->symbols[at];
    s->merged = s->next == none ? VOCABULARY_NO_TOKEN : vocabulary_merge(v, s->token, bpe->symbols[s->next].token);
    if (s->merged == VOCABULARY_NO_TOKEN) return;
    bpe->heap[(*count)++] = pair_number(s->merged, at);
    sift_up(bpe->heap, *count - 1);
}

static void reserve(Bpe *bpe, size_t n) {
    if (n <= bpe->capacity) return;
    bpe_free(bpe);
    bpe->symbols = checked_malloc(n * sizeof *bpe->symbols, "a long word");
    bpe->heap = checked_malloc(2 * n * sizeof *bpe->heap, "a long word"); /* a merge takes a pair and adds two */
    bpe->capacity = n;
}

/* Makes the list of the word's bytes and the heap of their pairs, and returns the number of pairs. */
static size_t set_bytes(Bpe *bpe, const Vocabulary *v, const char *word, uint32_t n) {
    size_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        bpe->symbols[i] =
            (Symbol){i > 0 ? i - 1 : n, i + 1, v->byte_tokens[(unsigned char)word[i]], VOCABULARY_NO_TOKEN};
    for (uint32_t i = 0; i < n; i++) set_pair(bpe, v, i, n, &count);
    return count;
}

static void merge_at(Bpe *bpe, const Vocabulary *v, uint32_t at, uint32_t none, size_t *count) {
    Symbol *s = &bpe->symbols[at], *taken = &bpe->symbols[s->next];
    s->token = s->merged;
    s->next = taken->next;
    if (s->next != none) bpe->symbols[s->next].previous = at;
    taken->merged = VOCABULARY_NO_TOKEN;
    set_pair(bpe, v, at, none, count);
    if (s->previous != none) set_pair(bpe, v, s->previous, none, count);
}

static size_t encode_long(Bpe *bpe, const Vocabulary *v, const char *word, uint32_t n, uint16_t *tokens) {
    reserve(bpe, n);
    size_t pairs = set_bytes(bpe, v, word, n), count = 0;
    while (pairs > 0) {
        uint64_t pair = bpe->heap[0];
        uint32_t at = (uint32_t)pair;
        bpe->heap[0] = bpe->heap[--pairs];
        if (pairs > 0) sift_down(bpe->heap, pairs, 0);
        if (pair_number(bpe->symbols[at].merged, at) == pair) merge_at(bpe, v, at, n, &pairs);
    }
    for (uint32_t at = 0; at < n; at = bpe->symbols[at].next) tokens[count++] = bpe->symbols[at].token;
    if (bpe->capacity > KEPT_CAPACITY) bpe_free(bpe);
    return count;
}

size_t bpe_encode(Bpe *bpe, const Vocabulary *vocabulary, const char *word, size_t bytes, uint16_t *tokens) {
    if (bytes <= SHORT_WORD) return encode_short(vocabulary, word, bytes, tokens);
    if (bytes <= KEPT_CAPACITY) return encode_long(bpe, vocabulary, word, (uint32_t)bytes, tokens);
    pthread_mutex_lock(&very_long_word);
    size_t count = encode_long(bpe, vocabulary, word, (uint32_t)bytes, tokens);
    pthread_mutex_unlock(&very_long_word);
    return count;
}

void bpe_free(Bpe *bpe) {
    free(bpe->symbols);
    free(bpe->heap);
    *bpe = (Bpe){0};
}
