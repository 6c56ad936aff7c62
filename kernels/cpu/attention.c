/* attention.c: causal self-attention on the CPU, forward, backward, and one token at a time.
 *
 * The T x T scores of a head are never stored as a whole. Queries are taken in blocks of BLOCK rows. A block that ends
 * at query e only meets keys [0, e), so little beyond the causal half is computed. Its scores, (BLOCK, e) floats, stay
 * in the second-level cache of their core. Each block is two small matmuls (oneDNN, with AMX if the processor has it)
 * with the softmax between them.
 *
 * Backward, as in FlashAttention: with P = exp(scale S - lse), recomputed,
 *   dV = P^T dO,  dP = dO V^T,  dS = P (dP - delta) scale,  dQ = dS K,  dK = dS^T Q,  delta = rowsum(dO O).
 *
 * With dropout each weight P becomes P~ = 0 or P/(1 - rate): O = P~ V, dV = P~^T dO. The same mask drops dP before
 * delta is subtracted from it; delta is the same rowsum. The denominator and lse do not depend on dropout.
 *
 * A thread takes a whole head, so that dK and dV are summed by one thread in one order. It first copies the head's
 * queries, keys and values, whose rows lie 3C apart, into dense matrices, which oneDNN's fast kernels need. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <omp.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/dropout_words.h"
#include "kernels/cpu/vector_math.h"

enum { BLOCK = 128 };

/* The sizes of a call. */
typedef struct Heads {
    int B, T, C, NH, HS;
    float scale;
    const Dropout *dropout; /* NULL: none */
} Heads;

/* The matmuls of one block: `rows` queries from `first` on, and the first `keys` keys. */
typedef struct QueryBlock {
    int first, rows, keys;
    MatmulKernel *scores; /* (rows, keys) = Q K^T, float; with dO and V it also gives dP */
    MatmulKernel *output; /* (rows, HS) = P V, float */
    MatmulKernel *dquery; /* (rows, HS) = dS K */
    MatmulKernel *dkeys;  /* (keys, HS) (+)= dS^T Q, float; with P and dO it also gives dV */
} QueryBlock;

/* A matmul (m,n) of dense factors. A is stored (k,m) if transpose_a, B is stored (n,k) if transpose_b. */
static MatmulKernel *block_kernel(Backend *be, int m, int n, int k, bool transpose_a, bool transpose_b, DType output,
                                  bool accumulate) {
    MatmulShape shape = matmul_dense(m, n, k, transpose_a, transpose_b, ACT_DTYPE, output);
    shape.beta = accumulate ? 1.0f : 0.0f;
    shape.one_thread = true;
    return matmul_kernel(cpu_backend(be)->matmul, &shape);
}

/* Returns the blocks of a call; the caller frees them. The backward pass takes them from the last to the first: only
 * the last one meets every key, so it overwrites dK and dV, and the others add to them. */
static QueryBlock *query_blocks(Backend *be, Heads h, bool backward, int *count) {
    *count = (int)ceil_div(h.T, BLOCK);
    QueryBlock *blocks = checked_calloc((size_t)*count, sizeof *blocks, "attention");
    for (int i = 0; i < *count; i++) {
        QueryBlock *q = &blocks[i];
        q->first = i * BLOCK;
        q->rows = (int)min_i64(BLOCK, h.T - q->first);
        q->keys = q->first + q->rows;
        q->scores = block_kernel(be, q->rows, q->keys, h.HS, false, true, DTYPE_FLOAT32, false);
        if (!backward) {
            q->output = block_kernel(be, q->rows, h.HS, q->keys, false, false, DTYPE_FLOAT32, false);
        } else {
            q->dquery = block_kernel(be, q->rows, h.HS, q->keys, false, false, ACT_DTYPE, false);
            q->dkeys = block_kernel(be, q->keys, h.HS, q->rows, true, false, DTYPE_FLOAT32, i + 1 < *count);
        }
    }
    return blocks;
}

/* ---- heads as dense matrices ---- */

/* to (rows,HS) = from, whose rows lie `distance` elements apart. */
static void gather_head(act *RESTRICT to, const act *RESTRICT from, int rows, int HS, int distance) {
    for (int r = 0; r < rows; r++) memcpy(to + (int64_t)r * HS, from + (int64_t)r * distance, (size_t)HS * sizeof *to);
}

/* The reverse of gather_head(). */
static void scatter_head(act *RESTRICT to, const act *RESTRICT from, int rows, int HS, int distance) {
    for (int r = 0; r < rows; r++) memcpy(to + (int64_t)r * distance, from + (int64_t)r * HS, (size_t)HS * sizeof *to);
}

/* The reverse of gather_head() for float sums, which are rounded. */
static void scatter_sums(act *RESTRICT to, const float *RESTRICT sums, int rows, int HS, int distance) {
    for (int r = 0; r < rows; r++) {
        act *RESTRICT row = to + (int64_t)r * distance;
#pragma omp simd
        for (int c = 0; c < HS; c++) row[c] = act_store(sums[(int64_t)r * HS + c]);
    }
}

/* Takes `count` elements of `size` bytes from working memory; pieces begin at multiples of 64 bytes. */
static void *cut(char **memory, size_t count, size_t size) {
    void *piece = *memory;
    *memory += round_up((int64_t)(count * size), 64);
    return piece;
}

/* One thread's working memory. */
typedef struct HeadScratch {
    act *query, *key, *value, *dout; /* (T,HS) dense copies */
    float *s, *dp;                   /* (BLOCK,T) scores and their gradients */
    act *p, *ds;                     /* (BLOCK,T) probabilities, gradients of scores */
    float *output, *sums;            /* (BLOCK,HS), (BLOCK) */
    float *dkey, *dvalue;            /* (T,HS) */
    act *dquery;                     /* (BLOCK,HS) */
    uint32_t *words;                 /* (T), with dropout_room(): random words of one query */
} HeadScratch;

enum { SCRATCH_PIECES = 14 };

/* Bytes of HeadScratch's memory, enough for either pass. */
static size_t scratch_bytes(Heads h) {
    size_t head = (size_t)h.T * (size_t)h.HS, scores = (size_t)BLOCK * (size_t)h.T,
           block = (size_t)BLOCK * (size_t)h.HS;
    return (4 * head + 2 * scores + block) * sizeof(act) + (2 * head + 2 * scores + block + BLOCK) * sizeof(float) +
           dropout_room((size_t)h.T) * sizeof(uint32_t) + SCRATCH_PIECES * 64;
}

/* The calling thread's working memory, with the head's queries, keys and values in it. */
static HeadScratch open_head(Backend *be, Heads h, const act *qkv) {
    size_t head = (size_t)h.T * (size_t)h.HS, scores = (size_t)BLOCK * (size_t)h.T,
           block = (size_t)BLOCK * (size_t)h.HS;
    char *memory = cpu_scratch(be, omp_get_thread_num(), scratch_bytes(h));
    HeadScratch w;
    w.query = cut(&memory, head, sizeof(act));
    w.key = cut(&memory, head, sizeof(act));
    w.value = cut(&memory, head, sizeof(act));
    w.dout = cut(&memory, head, sizeof(act));
    w.p = cut(&memory, scores, sizeof(act));
    w.ds = cut(&memory, scores, sizeof(act));
    w.dquery = cut(&memory, block, sizeof(act));
    w.s = cut(&memory, scores, sizeof(float));
    w.dp = cut(&memory, scores, sizeof(float));
    w.dkey = cut(&memory, head, sizeof(float));
    w.dvalue = cut(&memory, head, sizeof(float));
    w.output = cut(&memory, block, sizeof(float));
    w.sums = cut(&memory, BLOCK, sizeof(float));
    w.words = cut(&memory, dropout_room((size_t)h.T), sizeof(uint32_t));
    gather_head(w.query, qkv, h.T, h.HS, 3 * h.C);
    gather_head(w.key, qkv + h.C, h.T, h.HS, 3 * h.C);
    gather_head(w.value, qkv + 2 * h.C, h.T, h.HS, 3 * h.C);
    return w;
}

/* ---- dropout: a row's loop is inlined once with it and once without ---- */

/* The dropout of one head. */
typedef struct HeadDropout {
    bool is_on;
    uint64_t key;
    int head; /* in its sequence */
    DropoutRule rule;
} HeadDropout;

static HeadDropout head_dropout(Heads h, int head) {
    HeadDropout dropout = {0};
    if (!h.dropout || h.dropout->rate == 0.0f) return dropout;
    dropout.is_on = true;
    dropout.key = dropout_key(h.dropout, head / h.NH);
    dropout.head = head % h.NH;
    dropout.rule = dropout_rule(h.dropout);
    return dropout;
}

/* The random words of query t and the keys that it sees. */
static const uint32_t *words_of_query(HeadDropout dropout, HeadScratch w, int t) {
    if (dropout.is_on)
        fill_words(w.words, dropout.key, dropout_attention_stream(dropout.head), dropout_attention_index(t, 0),
                   (int)ceil_div(t + 1, 4));
    return w.words;
}

/* ---- forward ---- */

/* p[0..visible) = exp(scale s - maximum), with dropout by `words`; the rest of p = 0. Returns the sum without dropout;
 * *lse is the log-sum-exp of scale s. */
ALWAYS_INLINE float softmax_row_of(bool has_dropout, act *RESTRICT p, float *lse, const float *RESTRICT s,
                                   const uint32_t *RESTRICT words, DropoutRule rule, int visible, int keys,
                                   float scale) {
    int32_t largest = ordered_from_float(-INFINITY);
    float sum = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int j = 0; j < visible; j++) {
        int32_t score = ordered_from_float(s[j] * scale);
        largest = score > largest ? score : largest;
    }
    float maximum = float_from_ordered(largest);
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < visible; j++) {
        float e = vector_exp(s[j] * scale - maximum);
        sum += e;
        p[j] = act_store(has_dropout ? drop_or_scale(rule, words[j], e) : e);
    }
    for (int j = visible; j < keys; j++) p[j] = act_store(0.0f);
    *lse = maximum + logf(sum);
    return sum;
}

static float softmax_row(act *p, float *lse, const float *s, const uint32_t *words, HeadDropout dropout, int visible,
                         int keys, float scale) {
    return dropout.is_on ? softmax_row_of(true, p, lse, s, words, dropout.rule, visible, keys, scale)
                         : softmax_row_of(false, p, lse, s, words, dropout.rule, visible, keys, scale);
}

static void forward_block(Backend *be, Heads h, const QueryBlock *q, HeadScratch w, HeadDropout dropout, act *out,
                          float *lse) {
    Matmul *matmul = cpu_backend(be)->matmul;
    int thread = omp_get_thread_num();
    matmul_run(matmul, q->scores, thread, w.query + (int64_t)q->first * h.HS, w.key, w.s);
    for (int r = 0; r < q->rows; r++) {
        int t = q->first + r;
        int64_t row = (int64_t)r * q->keys;
        w.sums[r] =
            softmax_row(w.p + row, &lse[t], w.s + row, words_of_query(dropout, w, t), dropout, t + 1, q->keys, h.scale);
    }
    matmul_run(matmul, q->output, thread, w.p, w.value, w.output);
    for (int r = 0; r < q->rows; r++) {
        act *RESTRICT row = out + (int64_t)(q->first + r) * h.C;
        const float *RESTRICT o = w.output + (int64_t)r * h.HS;
        float inverse = 1.0f / w.sums[r];
#pragma omp simd
        for (int c = 0; c < h.HS; c++) row[c] = act_store(o[c] * inverse);
    }
}

static void attention_forward(Backend *be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH,
                              float scale, const Dropout *dropout) {
    Heads h = {B, T, C, NH, C / NH, scale, dropout};
    int count;
    QueryBlock *blocks = query_blocks(be, h, false, &count);
#pragma omp parallel for schedule(dynamic) num_threads(be->threads)
    for (int head = 0; head < B * NH; head++) {
        int64_t row = (int64_t)(head / NH) * T, column = head % NH * h.HS;
        HeadScratch w = open_head(be, h, (const act *)qkv + row * 3 * C + column);
        for (int i = 0; i < count; i++)
            forward_block(be, h, &blocks[i], w, head_dropout(h, head), (act *)out + row * C + column,
                          lse + (int64_t)head * T);
    }
    free(blocks);
}

/* ---- backward ---- */

/* p = exp(scale s - lse) and ds = p (dp - delta) scale over the visible keys, 0 after them. With dropout `words` drop
 * dp, and also p when it is stored; ds takes p without dropout. */
ALWAYS_INLINE void backward_row_of(bool has_dropout, act *RESTRICT p, act *RESTRICT ds, const float *RESTRICT s,
                                   const float *RESTRICT dp, const uint32_t *RESTRICT words, DropoutRule rule,
                                   float lse, float delta, int visible, int keys, float scale) {
#pragma omp simd
    for (int j = 0; j < visible; j++) {
        float probability = vector_exp(s[j] * scale - lse);
        float gradient = has_dropout ? drop_or_scale(rule, words[j], dp[j]) : dp[j];
        p[j] = act_store(has_dropout ? drop_or_scale(rule, words[j], probability) : probability);
        ds[j] = act_store(probability * (gradient - delta) * scale);
    }
    for (int j = visible; j < keys; j++) p[j] = ds[j] = act_store(0.0f);
}

static void backward_row(act *p, act *ds, const float *s, const float *dp, const uint32_t *words, HeadDropout dropout,
                         float lse, float delta, int visible, int keys, float scale) {
    if (dropout.is_on)
        backward_row_of(true, p, ds, s, dp, words, dropout.rule, lse, delta, visible, keys, scale);
    else
        backward_row_of(false, p, ds, s, dp, words, dropout.rule, lse, delta, visible, keys, scale);
}

static float dot_row(const act *RESTRICT x, const act *RESTRICT y, int n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += act_load(x[i]) * act_load(y[i]);
    return sum;
}

/* One block of queries: stores its dquery, and adds its part of dkey and dvalue. */
static void backward_block(Backend *be, Heads h, const QueryBlock *q, HeadScratch w, HeadDropout dropout, act *dqkv,
                           const act *out, const float *lse) {
    Matmul *matmul = cpu_backend(be)->matmul;
    int thread = omp_get_thread_num();
    const act *query = w.query + (int64_t)q->first * h.HS, *dout = w.dout + (int64_t)q->first * h.HS;
    matmul_run(matmul, q->scores, thread, query, w.key, w.s);
    matmul_run(matmul, q->scores, thread, dout, w.value, w.dp);
    for (int r = 0; r < q->rows; r++) {
        int t = q->first + r;
        int64_t row = (int64_t)r * q->keys;
        float delta = dot_row(dout + (int64_t)r * h.HS, out + (int64_t)t * h.C, h.HS);
        backward_row(w.p + row, w.ds + row, w.s + row, w.dp + row, words_of_query(dropout, w, t), dropout, lse[t],
                     delta, t + 1, q->keys, h.scale);
    }
    matmul_run(matmul, q->dkeys, thread, w.p, dout, w.dvalue);
    matmul_run(matmul, q->dkeys, thread, w.ds, query, w.dkey);
    matmul_run(matmul, q->dquery, thread, w.ds, w.key, w.dquery);
    scatter_head(dqkv + (int64_t)q->first * 3 * h.C, w.dquery, q->rows, h.HS, 3 * h.C);
}

static void attention_backward(Backend *be, void *dqkv_, const void *dout, const void *qkv, const void *out,
                               const float *lse, int B, int T, int C, int NH, float scale, const Dropout *dropout) {
    Heads h = {B, T, C, NH, C / NH, scale, dropout};
    int count;
    QueryBlock *blocks = query_blocks(be, h, true, &count);
#pragma omp parallel for schedule(dynamic) num_threads(be->threads)
    for (int head = 0; head < B * NH; head++) {
        int64_t row = (int64_t)(head / NH) * T, column = head % NH * h.HS;
        act *dqkv = (act *)dqkv_ + row * 3 * C + column;
        HeadScratch w = open_head(be, h, (const act *)qkv + row * 3 * C + column);
        gather_head(w.dout, (const act *)dout + row * C + column, T, h.HS, C);
        for (int i = count - 1; i >= 0; i--)
            backward_block(be, h, &blocks[i], w, head_dropout(h, head), dqkv, (const act *)out + row * C + column,
                           lse + (int64_t)head * T);
        scatter_sums(dqkv + C, w.dkey, T, h.HS, 3 * C);
        scatter_sums(dqkv + 2 * C, w.dvalue, T, h.HS, 3 * C);
    }
    free(blocks);
}

/* ---- one token at a time ---- */

static void decode_head(act *out, const act *query, const act *keys, const act *values, float *p, int position, int C,
                        int HS, float scale) {
    float maximum = -INFINITY, sum = 0.0f;
    for (int t = 0; t <= position; t++) {
        p[t] = scale * dot_row(query, keys + (int64_t)t * C, HS);
        maximum = p[t] > maximum ? p[t] : maximum;
    }
    for (int t = 0; t <= position; t++) {
        p[t] = vector_exp(p[t] - maximum);
        sum += p[t];
    }
    for (int c = 0; c < HS; c++) {
        float o = 0.0f;
        for (int t = 0; t <= position; t++) o += p[t] * act_load(values[(int64_t)t * C + c]);
        out[c] = act_store(o / sum);
    }
}

static void attention_decode(Backend *be, void *out, void *keys_, void *values_, const void *qkv, int B, int position,
                             int capacity, int C, int NH, float scale) {
    int HS = C / NH;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int head = 0; head < B * NH; head++) {
        int b = head / NH, column = head % NH * HS;
        const act *query = (const act *)qkv + (int64_t)b * 3 * C + column;
        act *keys = (act *)keys_ + (int64_t)b * capacity * C + column;
        act *values = (act *)values_ + (int64_t)b * capacity * C + column;
        for (int c = 0; c < HS; c++) {
            keys[(int64_t)position * C + c] = query[C + c];
            values[(int64_t)position * C + c] = query[2 * C + c];
        }
        float *p = cpu_scratch(be, omp_get_thread_num(), ((size_t)position + 1) * sizeof *p);
        decode_head((act *)out + (int64_t)b * C + column, query, keys, values, p, position, C, HS, scale);
    }
}

ENTER_OPERATIONS(attention) {
    be->attention_forward = attention_forward;
    be->attention_backward = attention_backward;
    be->attention_decode = attention_decode;
}
