/* dropout_words.h: the random words of dropout.h for many neighbours at once, by loops that vectorise. */
#ifndef MARS_KERNELS_CPU_DROPOUT_WORDS_H
#define MARS_KERNELS_CPU_DROPOUT_WORDS_H

#include "kernels/dropout.h"
#include "util/base.h"

/* What the kernels of one call read. */
typedef struct DropoutRule {
    uint32_t threshold;
    float scale;
} DropoutRule;

static inline DropoutRule dropout_rule(const Dropout *dropout) {
    return (DropoutRule){dropout_threshold(dropout->rate), dropout_scale(dropout->rate)};
}

ALWAYS_INLINE float drop_or_scale(DropoutRule rule, uint32_t word, float x) {
    return word < rule.threshold ? 0.0f : x * rule.scale;
}

/* words (4 quads) of a sequence's numbers from 4 first on. */
static inline void fill_words(uint32_t *RESTRICT words, uint64_t key, uint64_t first, int quads) {
#pragma omp simd
    for (int i = 0; i < quads; i++) {
        Philox4 random = dropout_words(key, first + (uint64_t)i);
        for (int w = 0; w < 4; w++) words[4 * i + w] = random.word[w];
    }
}

/* words (4 quads) of the attention weights of head h, query q and the first keys. */
static inline void fill_attention_words(uint32_t *RESTRICT words, uint64_t key, int h, int q, int quads) {
#pragma omp simd
    for (int i = 0; i < quads; i++) {
        Philox4 random = dropout_attention_words(key, h, q, i);
        for (int w = 0; w < 4; w++) words[4 * i + w] = random.word[w];
    }
}

#endif
