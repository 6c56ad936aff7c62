/* dropout.h: which elements dropout sets to zero (Srivastava et al. 2014), the same on every device.
 *
 * A random word decides whether an element is dropped. The word depends on the seed, the place in the model, the number
 * of the sequence in the run and the index of the element in its sequence, and on nothing else. So a mask does not
 * depend on the batch that the sequence is in, on the number of ranks or on the device. The backward pass, or a
 * recomputed forward pass, computes the same mask again instead of keeping it. Four neighbouring elements share one
 * call of Philox. */
#ifndef MARS_KERNELS_DROPOUT_H
#define MARS_KERNELS_DROPOUT_H

#include "util/philox.h"

/* The dropout of one layer in one pass. */
typedef struct Dropout {
    float rate;             /* probability of being dropped, in [0, 1); kept elements are multiplied by 1/(1 - rate) */
    uint64_t seed;          /* of the run */
    uint32_t place;         /* number of the place in the model: places have independent masks */
    int64_t first_sequence; /* number of the batch's first sequence in the run; the others follow it */
} Dropout;

/* The key of the masks of one sequence at one place. */
static inline PHILOX_FUNCTION uint64_t dropout_key(const Dropout *dropout, int b) {
    Philox4 random =
        philox(dropout->seed, PHILOX_DROPOUT, dropout->place, (uint64_t)(dropout->first_sequence + (int64_t)b));
    return (uint64_t)random.word[1] << 32 | random.word[0];
}

/* An element is dropped if its word is below this threshold. */
static inline PHILOX_FUNCTION uint32_t dropout_threshold(float rate) { return (uint32_t)(rate * 0x1p32f); }

/* The factor of an element that is kept. A dropped element becomes 0, even if it was NaN or infinite. */
static inline PHILOX_FUNCTION float dropout_scale(float rate) { return 1.0f / (1.0f - rate); }

/* Each key has one stream of words for elements, and one for the attention weights of each head. */
static inline PHILOX_FUNCTION uint32_t dropout_stream(void) { return 0; }
static inline PHILOX_FUNCTION uint32_t dropout_attention_stream(int h) { return 1 + (uint32_t)h; }

/* The index of a Philox call in its stream: the quad for elements, this combination for attention weights. */
static inline PHILOX_FUNCTION uint64_t dropout_attention_index(int q, int quad) {
    return (uint64_t)(uint32_t)q << 32 | (uint32_t)quad;
}

/* Words of elements 4 quad .. 4 quad + 3 of a sequence, in the order in which they are stored. */
static inline PHILOX_FUNCTION Philox4 dropout_words(uint64_t key, uint64_t quad) {
    return philox(key, PHILOX_DROPOUT, dropout_stream(), quad);
}

/* Words of the attention weights of head h, query q and keys 4 quad .. 4 quad + 3. */
static inline PHILOX_FUNCTION Philox4 dropout_attention_words(uint64_t key, int h, int q, int quad) {
    return philox(key, PHILOX_DROPOUT, dropout_attention_stream(h), dropout_attention_index(q, quad));
}

#endif
