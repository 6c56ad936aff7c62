/* attention.c: causal self-attention on the CPU, forward, backward, and one token at a time.
 *
 * The T x T scores of a head never exist. Queries go in blocks of BLOCK rows, and a block that ends at query e only
 * meets keys [0, e): the scores of one block, (BLOCK, e) floats, stay in the second-level cache of the core that
 * works on them, and little beyond the causal half is computed. Each score block is two small matrix products (oneDNN,
 * on AMX where there is one) with the softmax between them.
 *
 * Backward, as in FlashAttention: with P = exp(scale S - lse), recomputed,
 *   dV = P^T dO,  dP = dO V^T,  dS = P (dP - delta) scale,  dQ = dS K,  dK = dS^T Q,  delta = rowsum(dO O).
 * A thread takes a whole head, so that dK and dV are summed by one thread in one order. */
#include <math.h>
#include <stdlib.h>

#include <omp.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/vector_math.h"

enum { BLOCK = 128 };

/* The sizes of a call. One head of qkv is a matrix of T rows, 3C apart. */
typedef struct Heads {
    int B, T, C, NH, HS;
    float scale;
} Heads;

/* The matrix products of one block of queries: `rows` queries from `first` on meet `keys` keys. */
typedef struct QueryBlock {
    int first, rows, keys;
    MatmulKernel *scores;       /* (rows, keys) = Q K^T, float; with dO and V it also gives dP */
    MatmulKernel *dout_values;  /* (rows, keys) = dO V^T, float */
    MatmulKernel *output;       /* (rows, HS) = P V, float */
    MatmulKernel *dquery;       /* (rows, HS) = dS K, straight into dqkv */
    MatmulKernel *dkeys;        /* (keys, HS) += dS^T Q, float */
    MatmulKernel *dvalues;      /* (keys, HS) += P^T dO, float */
} QueryBlock;

static MatmulKernel *block_kernel(Backend *be, MatmulShape shape) {
    shape.input = ACT_DTYPE;
    shape.one_thread = true;
    return matmul_kernel(cpu_backend(be)->matmul, &shape);
}

static QueryBlock query_block(Backend *be, Heads h, int first, bool backward) {
    QueryBlock q = {.first = first, .rows = (int)min_i64(BLOCK, h.T - first)};
    q.keys = first + q.rows;
    int64_t qkv = 3 * h.C, HS = h.HS, rows = q.rows, keys = q.keys;
    DType f32 = DTYPE_FLOAT32;
    q.scores = block_kernel(be, (MatmulShape){.m = rows, .n = keys, .k = HS, .lda = qkv, .ldb = qkv, .ldc = keys,
                                              .transpose_b = true, .output = f32});
    if (!backward) {
        q.output = block_kernel(be, (MatmulShape){.m = rows, .n = HS, .k = keys, .lda = keys, .ldb = qkv, .ldc = HS,
                                                  .output = f32});
        return q;
    }
    bool later = q.keys < h.T; /* blocks go from the last to the first, which alone covers every key */
    q.dout_values = block_kernel(be, (MatmulShape){.m = rows, .n = keys, .k = HS, .lda = h.C, .ldb = qkv, .ldc = keys,
                                                   .transpose_b = true, .output = f32});
    q.dquery = block_kernel(be, (MatmulShape){.m = rows, .n = HS, .k = keys, .lda = keys, .ldb = qkv, .ldc = qkv,
                                              .output = ACT_DTYPE});
    q.dkeys = block_kernel(be, (MatmulShape){.m = keys, .n = HS, .k = rows, .lda = keys, .ldb = qkv, .ldc = HS,
                                             .transpose_a = true, .output = f32, .accumulate = later});
    q.dvalues = block_kernel(be, (MatmulShape){.m = keys, .n = HS, .k = rows, .lda = keys, .ldb = h.C, .ldc = HS,
                                               .transpose_a = true, .output = f32, .accumulate = later});
    return q;
}

static QueryBlock *query_blocks(Backend *be, Heads h, bool backward, int *count) {
    *count = (int)ceil_div(h.T, BLOCK);
    QueryBlock *blocks = checked_malloc((size_t)*count * sizeof *blocks, "attention");
    for (int i = 0; i < *count; i++) blocks[i] = query_block(be, h, i * BLOCK, backward);
    return blocks;
}

/* ---- forward ---- */

/* p[0..visible) = exp(scale (s - maximum)), the rest 0. Returns the sum; *lse is the log-sum-exp of scale s. */
static float softmax_row(act *RESTRICT p, float *lse, const float *RESTRICT s, int visible, int keys, float scale) {
    float maximum = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : maximum)
    for (int j = 0; j < visible; j++) maximum = s[j] * scale > maximum ? s[j] * scale : maximum;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < visible; j++) {
        float e = vector_exp(s[j] * scale - maximum);
        sum += e;
        p[j] = act_store(e);
    }
    for (int j = visible; j < keys; j++) p[j] = act_store(0.0f);
    *lse = maximum + logf(sum);
    return sum;
}

/* Working memory of one thread in the forward pass. */
static size_t forward_bytes(Heads h) {
    return (size_t)BLOCK * ((size_t)h.T * (sizeof(float) + sizeof(act)) + (size_t)h.HS * sizeof(float) + sizeof(float));
}

static void forward_block(Backend *be, Heads h, const QueryBlock *q, act *out, float *lse, const act *qkv) {
    Matmul *matmul = cpu_backend(be)->matmul;
    int thread = omp_get_thread_num();
    float *s = cpu_scratch(be, thread, forward_bytes(h));
    float *o = s + (size_t)BLOCK * h.T, *sums = o + (size_t)BLOCK * h.HS;
    act *p = (act *)(sums + BLOCK);
    const act *query = qkv + (size_t)q->first * 3 * h.C, *key = qkv + h.C, *value = qkv + 2 * h.C;
    matmul_run(matmul, q->scores, thread, query, key, s);
    for (int r = 0; r < q->rows; r++)
        sums[r] = softmax_row(p + (size_t)r * q->keys, &lse[q->first + r], s + (size_t)r * q->keys, q->first + r + 1,
                              q->keys, h.scale);
    matmul_run(matmul, q->output, thread, p, value, o);
    for (int r = 0; r < q->rows; r++) {
        act *RESTRICT row = out + (size_t)(q->first + r) * h.C;
        float inverse = 1.0f / sums[r];
#pragma omp simd
        for (int c = 0; c < h.HS; c++) row[c] = act_store(o[(size_t)r * h.HS + c] * inverse);
    }
}

static void attention_forward(Backend *be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH,
                              float scale) {
    Heads h = {B, T, C, NH, C / NH, scale};
    int count;
    QueryBlock *blocks = query_blocks(be, h, false, &count);
    /* Long blocks first, so that the last ones to finish are short. No result depends on who computes it. */
#pragma omp parallel for schedule(dynamic) num_threads(be->threads)
    for (int item = 0; item < count * B * NH; item++) {
        int head = item % (B * NH), b = head / NH, column = head % NH * h.HS;
        forward_block(be, h, &blocks[count - 1 - item / (B * NH)], (act *)out + (size_t)b * T * C + column,
                      lse + (size_t)head * T, (const act *)qkv + (size_t)b * T * 3 * C + column);
    }
    free(blocks);
}

/* ---- backward ---- */

/* p = exp(scale s - lse) and ds = p (dp - delta) scale over the visible keys, 0 behind them. */
static void backward_row(act *RESTRICT p, act *RESTRICT ds, const float *RESTRICT s, const float *RESTRICT dp,
                         float lse, float delta, int visible, int keys, float scale) {
#pragma omp simd
    for (int j = 0; j < visible; j++) {
        float probability = vector_exp(s[j] * scale - lse);
        p[j] = act_store(probability);
        ds[j] = act_store(probability * (dp[j] - delta) * scale);
    }
    for (int j = visible; j < keys; j++) p[j] = ds[j] = act_store(0.0f);
}

static float dot_row(const act *RESTRICT x, const act *RESTRICT y, int n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += act_load(x[i]) * act_load(y[i]);
    return sum;
}

typedef struct HeadPointers { /* of one head of one sequence */
    act *dqkv;
    const act *dout, *qkv, *out;
    const float *lse;
} HeadPointers;

typedef struct BackwardScratch { /* of one thread */
    float *s, *dp, *dkeys, *dvalues;
    act *p, *ds;
} BackwardScratch;

static BackwardScratch backward_scratch(Backend *be, Heads h, int thread) {
    size_t scores = (size_t)BLOCK * h.T, head = (size_t)h.T * h.HS;
    float *memory = cpu_scratch(be, thread, (2 * scores + 2 * head) * sizeof(float) + 2 * scores * sizeof(act));
    BackwardScratch w = {.s = memory, .dp = memory + scores, .dkeys = memory + 2 * scores};
    w.dvalues = w.dkeys + head;
    w.p = (act *)(w.dvalues + head);
    w.ds = w.p + scores;
    return w;
}

static void backward_block(Backend *be, Heads h, const QueryBlock *q, HeadPointers x, BackwardScratch w) {
    Matmul *matmul = cpu_backend(be)->matmul;
    int thread = omp_get_thread_num();
    const act *query = x.qkv + (size_t)q->first * 3 * h.C, *key = x.qkv + h.C, *value = x.qkv + 2 * h.C;
    const act *dout = x.dout + (size_t)q->first * h.C, *out = x.out + (size_t)q->first * h.C;
    matmul_run(matmul, q->scores, thread, query, key, w.s);
    matmul_run(matmul, q->dout_values, thread, dout, value, w.dp);
    for (int r = 0; r < q->rows; r++) {
        size_t row = (size_t)r * q->keys;
        float delta = dot_row(dout + (size_t)r * h.C, out + (size_t)r * h.C, h.HS);
        backward_row(w.p + row, w.ds + row, w.s + row, w.dp + row, x.lse[q->first + r], delta, q->first + r + 1,
                     q->keys, h.scale);
    }
    matmul_run(matmul, q->dvalues, thread, w.p, dout, w.dvalues);
    matmul_run(matmul, q->dkeys, thread, w.ds, query, w.dkeys);
    matmul_run(matmul, q->dquery, thread, w.ds, key, x.dqkv + (size_t)q->first * 3 * h.C);
}

/* The float sums of one head's key or value gradients, rounded into their place in dqkv. */
static void store_head(act *dqkv, const float *sums, Heads h) {
    for (int t = 0; t < h.T; t++) {
        act *RESTRICT row = dqkv + (size_t)t * 3 * h.C;
#pragma omp simd
        for (int c = 0; c < h.HS; c++) row[c] = act_store(sums[(size_t)t * h.HS + c]);
    }
}

static void attention_backward(Backend *be, void *dqkv, const void *dout, const void *qkv, const void *out,
                               const float *lse, int B, int T, int C, int NH, float scale) {
    Heads h = {B, T, C, NH, C / NH, scale};
    int count;
    QueryBlock *blocks = query_blocks(be, h, true, &count);
#pragma omp parallel for schedule(dynamic) num_threads(be->threads)
    for (int head = 0; head < B * NH; head++) {
        size_t row = (size_t)(head / NH) * T, column = (size_t)(head % NH) * h.HS;
        HeadPointers x = {(act *)dqkv + row * 3 * C + column, (const act *)dout + row * C + column,
                          (const act *)qkv + row * 3 * C + column, (const act *)out + row * C + column,
                          lse + (size_t)head * T};
        BackwardScratch w = backward_scratch(be, h, omp_get_thread_num());
        for (int i = count - 1; i >= 0; i--) backward_block(be, h, &blocks[i], x, w);
        store_head(x.dqkv + C, w.dkeys, h);
        store_head(x.dqkv + 2 * C, w.dvalues, h);
    }
    free(blocks);
}

/* ---- one token at a time ---- */

static void decode_head(act *out, const act *query, const act *keys, const act *values, float *p, int position, int C,
                        int HS, float scale) {
    float maximum = -INFINITY, sum = 0.0f;
    for (int t = 0; t <= position; t++) {
        p[t] = scale * dot_row(query, keys + (size_t)t * C, HS);
        maximum = p[t] > maximum ? p[t] : maximum;
    }
    for (int t = 0; t <= position; t++) {
        p[t] = vector_exp(p[t] - maximum);
        sum += p[t];
    }
    for (int c = 0; c < HS; c++) {
        float o = 0.0f;
        for (int t = 0; t <= position; t++) o += p[t] * act_load(values[(size_t)t * C + c]);
        out[c] = act_store(o / sum);
    }
}

static void attention_decode(Backend *be, void *out, void *keys_, void *values_, const void *qkv, int B, int position,
                             int capacity, int C, int NH, float scale) {
    int HS = C / NH;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int head = 0; head < B * NH; head++) {
        int b = head / NH, column = head % NH * HS;
        const act *query = (const act *)qkv + (size_t)b * 3 * C + column;
        act *keys = (act *)keys_ + (size_t)b * capacity * C + column;
        act *values = (act *)values_ + (size_t)b * capacity * C + column;
        for (int c = 0; c < HS; c++) {
            keys[(size_t)position * C + c] = query[C + c];
            values[(size_t)position * C + c] = query[2 * C + c];
        }
        float *p = cpu_scratch(be, omp_get_thread_num(), (size_t)(position + 1) * sizeof *p);
        decode_head((act *)out + (size_t)b * C + column, query, keys, values, p, position, C, HS, scale);
    }
}

ENTER_OPERATIONS(attention) {
    be->attention_forward = attention_forward;
    be->attention_backward = attention_backward;
    be->attention_decode = attention_decode;
}
