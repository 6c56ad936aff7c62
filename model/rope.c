/* rope.c: see rope.h. A new kind of rotation is one function of frequencies and its line in the table. */
#include "model/rope.h"

#include <math.h>

static double rope_frequency(double base, int i, int HS) { return pow(base, -2.0 * i / HS); }

static double rope_half_frequency(double base, int i, int HS) {
    int turning = HS / 4; /* pairs that turn */
    return i < turning ? pow(base, -(double)i / (turning - 1)) : 0.0;
}

/* The frequency of pair i of a head's HS elements; NULL if positions are learned. */
static double (*const frequencies[])(double base, int i, int HS) = {
    [POSITION_LEARNED] = NULL, [POSITION_ROPE] = rope_frequency, [POSITION_ROPE_HALF] = rope_half_frequency};

size_t rope_length(const GPT2Config *c) {
    return frequencies[c->position] ? (size_t)c->block_size * (size_t)(c->n_embd / c->n_head) : 0;
}

void rope_fill(float *rotation, const GPT2Config *c) {
    int HS = c->n_embd / c->n_head;
    for (int t = 0; t < c->block_size; t++)
        for (int i = 0; i < HS / 2; i++) {
            double angle = t * frequencies[c->position](c->rope_base, i, HS);
            float *pair = rotation + (size_t)t * (size_t)HS + 2 * i;
            pair[0] = (float)cos(angle), pair[1] = (float)sin(angle);
        }
}
