/* embedding.c: token and position embeddings, and scaling and rounding (to the activation type) of whole arrays. */
#include <string.h>

#include "kernels/cpu/activation.h"

static void round_elements(act *RESTRICT out, const float *RESTRICT in, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = act_store(in[i]);
}

static void to_activation(Backend *be, void *out, const float *in, size_t count) {
    int64_t n = (int64_t)count;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t begin = 0; begin < n; begin += ELEMENT_BLOCK)
        round_elements((act *)out + begin, in + begin, min_i64(ELEMENT_BLOCK, n - begin));
}

/* out may be in. */
static void scale_elements(act *out, const act *in, float factor, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = act_store(factor * act_load(in[i]));
}

static void scale(Backend *be, void *out, const void *in, float factor, size_t count) {
    int64_t n = (int64_t)count;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t begin = 0; begin < n; begin += ELEMENT_BLOCK)
        scale_elements((act *)out + begin, (const act *)in + begin, factor, min_i64(ELEMENT_BLOCK, n - begin));
}

static void embedding_forward(Backend *be, void *out_, const int32_t *tokens, const void *wte_, const void *wpe_, int B,
                              int T, int C) {
    const act *wte = wte_, *wpe = wpe_;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int row = 0; row < B * T; row++) {
        act *RESTRICT out = (act *)out_ + (int64_t)row * C;
        const act *token = wte + (int64_t)tokens[row] * C;
        if (!wpe) {
            memcpy(out, token, (size_t)C * sizeof *out);
            continue;
        }
        const act *position = wpe + (int64_t)(row % T) * C;
#pragma omp simd
        for (int c = 0; c < C; c++) out[c] = act_store(act_load(token[c]) + act_load(position[c]));
    }
}

/* A token may occur in many rows, so threads divide the channels, not the rows: each thread adds its channels of all
 * rows, in the order of the rows. No two threads write to the same element. */
static void embedding_backward(Backend *be, float *dwte, float *dwpe, const void *dout_, const int32_t *tokens, int B,
                               int T, int C, int V, bool accumulate) {
    (void)V;
    const act *dout = dout_;
    int slice = (int)round_up(ceil_div(C, be->threads), 32);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int begin = 0; begin < C; begin += slice) {
        int end = (int)min_i64(begin + slice, C);
        for (int row = 0; row < B * T; row++) {
            float *RESTRICT dtoken = dwte + (int64_t)tokens[row] * C;
            const act *dx = dout + (int64_t)row * C;
#pragma omp simd
            for (int c = begin; c < end; c++) dtoken[c] += act_load(dx[c]);
        }
    }
    if (!dwpe) return;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int t = 0; t < T; t++) {
        float *RESTRICT dposition = dwpe + (int64_t)t * C;
        for (int b = 0; b < B; b++) {
            const act *dx = dout + ((int64_t)b * T + t) * C;
            bool keep = accumulate || b > 0;
#pragma omp simd
            for (int c = 0; c < C; c++) dposition[c] = (keep ? dposition[c] : 0.0f) + act_load(dx[c]);
        }
    }
}

ENTER_OPERATIONS(embedding) {
    be->to_activation = to_activation;
    be->scale = scale;
    be->embedding_forward = embedding_forward;
    be->embedding_backward = embedding_backward;
}
