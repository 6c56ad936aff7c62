/* dropout_words.h: the random words of dropout.h for many neighbouring elements at once. GCC does not vectorise a loop
 * that calls philox(), because philox() itself has a loop over rounds. Here each round is a loop over calls. */
#ifndef MARS_KERNELS_CPU_DROPOUT_WORDS_H
#define MARS_KERNELS_CPU_DROPOUT_WORDS_H

#include "kernels/dropout.h"
#include "util/base.h"

/* The dropout of one call, in the form that the vectorised loops use. */
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

/* Number of Philox calls computed in parallel. Memory for words has room for a multiple of four times as many. */
enum { DROPOUT_LANES = 32 };

static inline size_t dropout_room(size_t words) {
    return (words + 4 * DROPOUT_LANES - 1) / (4 * DROPOUT_LANES) * (4 * DROPOUT_LANES);
}

/* words (4 quads, rounded up to dropout_room()) = philox(key, PHILOX_DROPOUT, stream, first + i) for i = 0, 1, ... */
static inline void fill_words(uint32_t *RESTRICT words, uint64_t key, uint32_t stream, uint64_t first, int quads) {
    for (int at = 0; at < quads; at += DROPOUT_LANES, words += 4 * DROPOUT_LANES) {
        uint32_t c0[DROPOUT_LANES], c1[DROPOUT_LANES], c2[DROPOUT_LANES], c3[DROPOUT_LANES];
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#pragma omp simd
        for (int i = 0; i < DROPOUT_LANES; i++) {
            Philox4 c = philox_counter(PHILOX_DROPOUT, stream, first + (uint64_t)(at + i));
            c0[i] = c.word[0], c1[i] = c.word[1], c2[i] = c.word[2], c3[i] = c.word[3];
        }
        for (int round = 0; round < PHILOX_ROUNDS; round++) {
#pragma omp simd
            for (int i = 0; i < DROPOUT_LANES; i++) {
                Philox4 c = philox_round((Philox4){{c0[i], c1[i], c2[i], c3[i]}}, k0, k1);
                c0[i] = c.word[0], c1[i] = c.word[1], c2[i] = c.word[2], c3[i] = c.word[3];
            }
            k0 += PHILOX_KEY_STEP_0, k1 += PHILOX_KEY_STEP_1;
        }
#pragma omp simd
        for (int i = 0; i < DROPOUT_LANES; i++) {
            words[4 * i] = c0[i], words[4 * i + 1] = c1[i];
            words[4 * i + 2] = c2[i], words[4 * i + 3] = c3[i];
        }
    }
}

#endif
