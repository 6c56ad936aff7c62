/* philox.h: random numbers that depend on nothing but (seed, purpose, index).
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is a function
 * from a 128-bit counter and a 64-bit key to 128 random bits. There is no state to carry or to save: number i of a
 * stream is computed from i, so initial weights and data order are the same on any device and with any number of
 * processes, and a resumed run needs only its step. */
#ifndef MARS_UTIL_PHILOX_H
#define MARS_UTIL_PHILOX_H

#include <math.h>
#include <stdint.h>

/* Device code uses these functions, too. */
#ifdef __CUDACC__
#define PHILOX_FUNCTION __host__ __device__
#else
#define PHILOX_FUNCTION
#endif

/* What a stream is for: streams of different purposes are independent for the same seed. New ones go last. */
typedef enum PhiloxPurpose {
    PHILOX_INIT_WEIGHTS, /* index: element of the tensor; sub-stream: the tensor */
    PHILOX_DATA_OFFSET,  /* index: the sequence s */
    PHILOX_DATA_SHUFFLE, /* index: round and half of the window number (see loader.c); sub-stream: epoch */
    PHILOX_DATA_SPLIT,   /* index: the document */
    PHILOX_SAMPLE_TOKEN, /* index: how many tokens of the text were drawn before; sub-stream: the text */
    PHILOX_TUNING,       /* index: element of an array multiplied while algorithms are timed; sub-stream: the array */
    PHILOX_DROPOUT       /* see kernels/dropout.h */
} PhiloxPurpose;

typedef struct Philox4 {
    uint32_t word[4];
} Philox4;

/* The key's words grow by the golden ratio and sqrt(3) - 1, as published, from each round to the next. */
#define PHILOX_KEY_STEP_0 0x9E3779B9u
#define PHILOX_KEY_STEP_1 0xBB67AE85u
#define PHILOX_ROUNDS 10

static inline PHILOX_FUNCTION Philox4 philox_round(Philox4 c, uint32_t k0, uint32_t k1) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c.word[0], p1 = (uint64_t)0xCD9E8D57u * c.word[2];
    Philox4 next = {
        {(uint32_t)(p1 >> 32) ^ c.word[1] ^ k0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c.word[3] ^ k1, (uint32_t)p0}};
    return next;
}

/* The input of the first round. */
static inline PHILOX_FUNCTION Philox4 philox_counter(PhiloxPurpose purpose, uint32_t stream, uint64_t index) {
    Philox4 counter = {{(uint32_t)index, (uint32_t)(index >> 32), stream, (uint32_t)purpose}};
    return counter;
}

/* 128 random bits for (seed, purpose, stream, index). */
static inline PHILOX_FUNCTION Philox4 philox(uint64_t seed, PhiloxPurpose purpose, uint32_t stream, uint64_t index) {
    Philox4 c = philox_counter(purpose, stream, index);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        c = philox_round(c, k0, k1);
        k0 += PHILOX_KEY_STEP_0, k1 += PHILOX_KEY_STEP_1;
    }
    return c;
}

/* Uniform in [0, bound), bound > 0: the high word of a 64 x 64-bit product, biased by less than bound / 2^64. */
static inline uint64_t philox_below(Philox4 random, uint64_t bound) {
    uint64_t bits = (uint64_t)random.word[1] << 32 | random.word[0];
    return (uint64_t)(((unsigned __int128)bits * bound) >> 64);
}

/* Uniform in (0, 1], never 0, so that its logarithm is finite. */
static inline double philox_uniform(uint32_t word) { return ((double)word + 1.0) * 0x1p-32; }

/* One standard normal number (Box and Muller 1958). */
static inline double philox_normal(Philox4 random) {
    return sqrt(-2.0 * log(philox_uniform(random.word[0]))) *
           cos(6.283185307179586476925 * philox_uniform(random.word[1]));
}

#endif
