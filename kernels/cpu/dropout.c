/* dropout.c: dropout of whole arrays on the CPU. The dropout of attention weights is in attention.c. */
#include "kernels/cpu/activation.h"
#include "kernels/cpu/dropout_words.h"

enum { QUADS = 8 * DROPOUT_LANES }; /* a thread draws the words of this many at a time */

/* out may be in. */
static void drop_elements(act *out, const act *in, const uint32_t *words, DropoutRule rule, int n) {
#pragma omp simd
    for (int i = 0; i < n; i++) out[i] = act_store(drop_or_scale(rule, words[i], act_load(in[i])));
}

static void dropout_forward(Backend *be, const Dropout *dropout, void *out, const void *in, int B, size_t count) {
    DropoutRule rule = dropout_rule(dropout);
    int64_t n = (int64_t)count, blocks = ceil_div(n, 4 * QUADS);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t block = 0; block < B * blocks; block++) {
        int b = (int)(block / blocks);
        int64_t first = block % blocks * 4 * QUADS, at = b * n + first;
        int length = (int)min_i64(4 * QUADS, n - first);
        uint32_t words[4 * QUADS];
        fill_words(words, dropout_key(dropout, b), dropout_stream(), (uint64_t)first / 4, (int)ceil_div(length, 4));
        drop_elements((act *)out + at, (const act *)in + at, words, rule, length);
    }
}

ENTER_OPERATIONS(dropout) { be->dropout = dropout_forward; }
