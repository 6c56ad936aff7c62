/* test_kernels_attention.c: tests causal attention of any Backend table: forward, backward, and one token at a time. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dev/test/kernels/reference.h"

typedef struct Size {
    int B, T, NH, HS;
} Size;

/* Around the borders of blocks of 64 and 128 keys; head sizes from 1 to 128, some no multiple of a vector. */
static const Size sizes[] = {{1, 1, 1, 1},    {2, 2, 3, 3},    {1, 5, 2, 1},    {3, 63, 2, 16},  {1, 64, 1, 64},
                             {2, 65, 5, 16},  {1, 127, 1, 80}, {1, 128, 2, 64}, {2, 129, 3, 64}, {1, 200, 1, 128},
                             {1, 257, 2, 64}, {2, 33, 4, 17},  {1, 129, 1, 3},  {1, 1, 5, 64},   {1, 65, 1, 128}};

static const float usual_scale = 0.3f;

/* What is left has a case of each path through the kernels. */
static bool too_large(Size s) { return only_small_sizes() && s.B * s.T * s.NH * s.HS > 8400; }

/* bfloat16 tables may round softmax weights and their gradients before these meet a matrix unit, and round `out`,
 * which the backward pass reads: up to 1e-2. In float32 the backward pass subtracts near equal numbers,
 * dp - <p, dp>. */
static const double slack = 2.5;

/* A name for messages. */
static void begin_size(Fixture *f, Size s, const char *what) {
    begin_case(f, "%s, B=%d T=%d NH=%d HS=%d", what, s.B, s.T, s.NH, s.HS);
}

/* ---- forward ---- */

static void forward(Fixture *f, Size s, float scale, double deviation, double out_slack) {
    if (too_large(s)) return;
    Backend *be = f->be;
    int B = s.B, T = s.T, NH = s.NH, C = NH * s.HS;
    Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, deviation), *lse = array_out(f, FLOAT, B * NH, T);
    Array *out = array_out(f, ACTIVATION, B * T * NH, s.HS);
    double *expected = host_numbers(f, B * T * C), *expected_lse = host_numbers(f, B * NH * T);
    RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, scale, NULL));
    reference_attention_forward(expected, expected_lse, qkv->value, NULL, B, T, C, NH, scale);
    expect_near(out, expected, out_slack, "out");
    expect_near(lse, expected_lse, 1, "lse");
}

static void test_forward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        begin_size(f, sizes[i], "forward");
        forward(f, sizes[i], usual_scale, 1.0, slack);
    }
}

/* Scores in the thousands: exp() of them overflows, exp(score - largest) does not. A float32 score of 2000 carries an
 * error of 1e-4 or more, which its exponential turns into a relative one. */
static void test_forward_large_scores(void **state) {
    Fixture *f = fixture_of(state);
    const Size large[] = {{1, 65, 2, 64}, {2, 129, 1, 16}};
    for (size_t i = 0; i < ARRAY_LENGTH(large); i++) {
        begin_size(f, large[i], "large scores");
        forward(f, large[i], usual_scale, 25.0, f->activation == DTYPE_FLOAT32 ? 100 : slack);
    }
}

/* ---- backward ---- */

/* The gradient of each of query, key and value by itself: in the whole, the largest would hide the others. */
static void expect_parts(Fixture *f, Array *dqkv, const double *expected, Size s) {
    int C = s.NH * s.HS, part = s.B * s.T * C;
    const double *got = fetch(dqkv);
    double *a = host_numbers(f, part), *b = host_numbers(f, part);
    const char *names[] = {"dquery", "dkey", "dvalue"};
    for (int which = 0; which < 3; which++) {
        for (int i = 0; i < part; i++) {
            int place = i / C * 3 * C + which * C + i % C;
            a[i] = got[place], b[i] = expected[place];
        }
        char name[400];
        snprintf(name, sizeof name, "%s: %s", f->where, names[which]);
        assert_error_below(relative_error(a, b, (size_t)part), f->activation == DTYPE_FLOAT32 ? 2.5e-5 : 1e-2, name);
    }
}

/* From the out and lse that the forward pass of the same table left. One row of the comparison is one head of one
 * query, key or value. */
static void backward(Fixture *f, Size s, float scale, bool by_part) {
    if (too_large(s)) return;
    Backend *be = f->be;
    int B = s.B, T = s.T, NH = s.NH, C = NH * s.HS;
    begin_size(f, s, "backward");
    Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, 1.0), *dout = array_in(f, ACTIVATION, B * T, C, 1.0);
    Array *out = array_out(f, ACTIVATION, B * T, C), *lse = array_out(f, FLOAT, B * NH, T);
    Array *dqkv = array_out(f, ACTIVATION, B * T * 3 * NH, s.HS);
    double *expected = host_numbers(f, B * T * 3 * C);
    RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, scale, NULL));
    RUN_TWICE(f, be->attention_backward(be, dqkv->device, dout->device, qkv->device, out->device, lse->device, B, T, C,
                                        NH, scale, NULL));
    reference_attention_backward(expected, dout->value, qkv->value, NULL, B, T, C, NH, scale);
    expect_near(dqkv, expected, slack, "dqkv");
    if (by_part) expect_parts(f, dqkv, expected, s);
}

static void test_backward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) backward(f, sizes[i], usual_scale, false);
    backward(f, (Size){2, 70, 3, 16}, usual_scale, true);
}

/* ---- the edges of tiles ---- */

/* The head sizes for which GPUs have kernels of their own, lengths around what these take at a time, and the scales of
 * models: 1/sqrt(HS), or that divided by the number of the layer. The gradients of a single query and key are 0. */
static void test_tile_edges(void **state) {
    Fixture *f = fixture_of(state);
    const int head_sizes[] = {64, 128}, lengths[] = {1, 15, 63, 64, 65, 127, 129, 200};
    for (size_t i = 0; i < ARRAY_LENGTH(head_sizes); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(lengths); j++) {
            Size s = {1 + j % 2, lengths[j], 2 - j % 2, head_sizes[i]};
            float of_model = 1.0f / sqrtf((float)s.HS), of_layer = of_model / 12;
            begin_size(f, s, "edges");
            forward(f, s, of_layer, 1.0, slack);
            forward(f, s, of_model, 1.0, slack);
            backward(f, s, j % 2 ? of_layer : of_model, s.T > 1);
        }
}

/* ---- one head ---- */

/* The smallest case that takes whole tiles, for tools that slow a kernel down a thousand times: compute-sanitizer's
 * racecheck runs this test alone (dev/gpu_check.sh). */
static void test_one_head(void **state) {
    Fixture *f = fixture_of(state);
    const Size one = {1, 64, 1, 64};
    begin_size(f, one, "one head");
    forward(f, one, usual_scale, 1.0, slack);
    backward(f, one, usual_scale, false);
}

/* ---- every pair of a query and a key ---- */

/* Among hundreds of random keys a single one missing, or one too many, is less than bfloat16 rounding. Here it is a
 * large part of some element. Query t, key s and dout of t are 1 (times a factor) in one column, t or s mod HS, and
 * the factor of the queries is so small that each key has a weight of nearly 1/(t + 1):
 * with values that are 1 in one column, out[t][column] counts the keys of that column among the first t + 1;
 * with values of -1 and 1, the gradients count the same way, in units of usual_scale, usual_scale * small and 1. */
static const double small = 0x1p-10;

static Array *counting_qkv(Fixture *f, Size s, bool alternating_values) {
    int C = s.NH * s.HS;
    double *qkv = host_numbers(f, s.B * s.T * 3 * C);
    for (int row = 0; row < s.B * s.T; row++)
        for (int c = 0; c < C; c++) {
            int t = row % s.T, here = c % s.HS == t % s.HS;
            double *token = qkv + row * 3 * C;
            token[c] = small * here;
            token[C + c] = here;
            token[2 * C + c] = !alternating_values ? here : t % 2 ? 1 : -1;
        }
    return array_of(f, ACTIVATION, s.B * s.T, 3 * C, qkv);
}

static void count_forward(Fixture *f, Size s) {
    if (too_large(s)) return;
    Backend *be = f->be;
    int B = s.B, T = s.T, NH = s.NH, C = NH * s.HS;
    begin_size(f, s, "counting keys");
    Array *qkv = counting_qkv(f, s, false), *out = array_out(f, ACTIVATION, B * T, C);
    Array *lse = array_out(f, FLOAT, B * NH, T);
    double *expected = host_numbers(f, B * T * C), *expected_lse = host_numbers(f, B * NH * T);
    RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, usual_scale, NULL));
    reference_attention_forward(expected, expected_lse, qkv->value, NULL, B, T, C, NH, usual_scale);
    expect_each(out, expected, slack, 1e-6, "out");
    expect_each(lse, expected_lse, 1, 1e-5, "lse");
}

static void count_backward(Fixture *f, Size s) {
    if (too_large(s)) return;
    Backend *be = f->be;
    int B = s.B, T = s.T, NH = s.NH, C = NH * s.HS;
    begin_size(f, s, "counting queries and keys");
    double *values = host_numbers(f, B * T * C), *expected = host_numbers(f, B * T * 3 * C);
    for (int i = 0; i < B * T * C; i++) {
        int t = i / C % T;
        values[i] = i % C % s.HS == t % s.HS ? t + 1 : 0;
    }
    Array *qkv = counting_qkv(f, s, true), *dout = array_of(f, ACTIVATION, B * T, C, values);
    Array *out = array_out(f, ACTIVATION, B * T, C), *lse = array_out(f, FLOAT, B * NH, T);
    Array *dqkv = array_out(f, ACTIVATION, B * T, 3 * C);
    RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, usual_scale, NULL));
    RUN_TWICE(f, be->attention_backward(be, dqkv->device, dout->device, qkv->device, out->device, lse->device, B, T, C,
                                        NH, usual_scale, NULL));
    reference_attention_backward(expected, dout->value, qkv->value, NULL, B, T, C, NH, usual_scale);
    const double *got = fetch(dqkv), unit[] = {usual_scale, usual_scale * small, 1};
    const char *names[] = {"dquery", "dkey", "dvalue"};
    for (int i = 0; i < B * T * 3 * C; i++) {
        int part = i / C % 3;
        if (!(fabs(got[i] - expected[i]) <= 0.05 * unit[part] + 0.01 * fabs(expected[i])))
            fail_msg("%s: %s of token %d, column %d is %.9g, not %.9g", f->where, names[part], i / (3 * C), i % C,
                     got[i], expected[i]);
    }
}

static void test_every_pair(void **state) {
    Fixture *f = fixture_of(state);
    const Size counted[] = {{1, 64, 1, 64},  {1, 65, 2, 32},  {2, 128, 1, 64}, {1, 129, 1, 64},
                            {1, 200, 2, 80}, {1, 257, 1, 64}, {2, 66, 3, 16},  {1, 300, 1, 128}};
    for (size_t i = 0; i < ARRAY_LENGTH(counted); i++) {
        count_forward(f, counted[i]);
        count_backward(f, counted[i]);
    }
}

/* ---- dropout ---- */

static const Dropout usual_dropout = {.rate = 0.3f, .seed = 77, .place = 4, .first_sequence = 12};

/* Forward and backward with dropout, against the reference with its factors. */
static void dropped(Fixture *f, Size s, Dropout dropout) {
    if (too_large(s)) return;
    Backend *be = f->be;
    int B = s.B, T = s.T, NH = s.NH, C = NH * s.HS;
    begin_case(f, "dropout %g, B=%d T=%d NH=%d HS=%d", dropout.rate, B, T, NH, s.HS);
    Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, 1.0), *dout = array_in(f, ACTIVATION, B * T, C, 1.0);
    Array *out = array_out(f, ACTIVATION, B * T * NH, s.HS), *lse = array_out(f, FLOAT, B * NH, T);
    Array *dqkv = array_out(f, ACTIVATION, B * T * 3 * NH, s.HS);
    double *factors = host_numbers(f, (int64_t)B * NH * T * T), *expected = host_numbers(f, B * T * C);
    double *expected_lse = host_numbers(f, B * NH * T), *gradient = host_numbers(f, B * T * 3 * C);
    reference_attention_factors(factors, &dropout, B, T, NH);
    reference_attention_forward(expected, expected_lse, qkv->value, factors, B, T, C, NH, usual_scale);
    reference_attention_backward(gradient, dout->value, qkv->value, factors, B, T, C, NH, usual_scale);
    RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, usual_scale, &dropout));
    expect_near(out, expected, slack, "out");
    expect_near(lse, expected_lse, 1, "lse");
    RUN_TWICE(f, be->attention_backward(be, dqkv->device, dout->device, qkv->device, out->device, lse->device, B, T, C,
                                        NH, usual_scale, &dropout));
    expect_near(dqkv, gradient, slack, "dqkv");
    if (T > 1) expect_parts(f, dqkv, gradient, s);
}

static void test_dropout(void **state) {
    Fixture *f = fixture_of(state);
    const float rates[] = {0.5f, 0.0001f, 0.1f, 0.9f};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes) && !only_small_sizes(); i++) dropped(f, sizes[i], usual_dropout);
    for (size_t i = 0; i < (only_small_sizes() ? 1 : ARRAY_LENGTH(rates)); i++) {
        Dropout dropout = usual_dropout;
        dropout.rate = rates[i];
        dropped(f, (Size){1, 65, 2, 64}, dropout);
        dropped(f, (Size){1, 129, 1, 128}, dropout);
        dropped(f, (Size){2, 67, 2, 20}, dropout);
    }
}

/* A rate of 0 is no dropout; another seed, place or sequence has other masks. */
static void test_dropout_masks(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const Size of[] = {{1, 70, 2, 64}, {2, 70, 1, 16}};
    for (size_t i = 0; i < ARRAY_LENGTH(of); i++) {
        int B = of[i].B, T = of[i].T, NH = of[i].NH, C = NH * of[i].HS;
        Dropout dropouts[5] = {usual_dropout, usual_dropout, usual_dropout, usual_dropout, {.rate = 0.0f}};
        dropouts[1].seed++;
        dropouts[2].place++;
        dropouts[3].first_sequence++;
        begin_size(f, of[i], "masks");
        Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, 1.0), *lse = array_out(f, FLOAT, B * NH, T);
        const double *outs[6];
        for (int k = 0; k < 6; k++) {
            Array *out = array_out(f, ACTIVATION, B * T, C);
            RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, usual_scale,
                                               k < 5 ? &dropouts[k] : NULL));
            outs[k] = fetch(out);
        }
        for (int k = 0; k < 5; k++)
            for (int other = k + 1; other < 6; other++) {
                double error = relative_error(outs[k], outs[other], (size_t)(B * T * C));
                if (k == 4 ? error != 0.0 : error < 0.1)
                    fail_msg("%s: outputs %d and %d differ by %g", f->where, k, other, error);
            }
    }
}

/* The mean over many masks is the output without dropout. A weight p of value v has the deviation
 * p v sqrt(rate/(1 - rate)) in each of them. */
static void test_dropout_mean(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { B = 1, T = 19, NH = 2, HS = 64, C = NH * HS };
    int seeds = only_small_sizes() ? 40 : 400;
    begin_case(f, "the mean over %d masks", seeds);
    Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, 1.0), *lse = array_out(f, FLOAT, B * NH, T);
    Array *out = array_out(f, ACTIVATION, B * T, C);
    double *expected = host_numbers(f, T * C), *squared = host_numbers(f, T * C), *lses = host_numbers(f, NH * T);
    double *weights = host_numbers(f, NH * T * T), *mean = host_numbers(f, T * C);
    reference_attention_forward(expected, lses, qkv->value, NULL, B, T, C, NH, usual_scale);
    for (int h = 0; h < NH; h++)
        for (int t = 0; t < T; t++)
            for (int s = 0; s <= t; s++) {
                double score = 0.0;
                for (int c = h * HS; c < (h + 1) * HS; c++)
                    score += usual_scale * qkv->value[t * 3 * C + c] * qkv->value[s * 3 * C + C + c];
                weights[(h * T + t) * T + s] = exp(score - lses[h * T + t]);
            }
    for (int i = 0; i < T * C; i++)
        for (int s = 0; s <= i / C; s++)
            squared[i] += pow(weights[(i % C / HS * T + i / C) * T + s] * qkv->value[s * 3 * C + 2 * C + i % C], 2);
    for (int seed = 0; seed < seeds; seed++) {
        Dropout dropout = usual_dropout;
        dropout.seed = (uint64_t)seed;
        be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, usual_scale, &dropout);
        const double *one = fetch(out);
        for (int i = 0; i < T * C; i++) mean[i] += one[i] / seeds;
    }
    double total = 0.0;
    for (int i = 0; i < T * C; i++) {
        double variance = squared[i] * usual_dropout.rate / (1 - usual_dropout.rate) / seeds;
        total += pow(mean[i] - expected[i], 2) / variance / (T * C);
    }
    /* The 64 columns of a head share their masks, which leaves some hundred independent terms. */
    if (!(total > 0.5 && total < 1.6)) fail_msg("%s: %g times the variance expected", f->where, total);
}

/* ---- one token at a time ---- */

/* Row `position` of each of B sequences of T rows of C numbers. */
static double *rows_at(Fixture *f, const double *sequences, int position, int B, int T, int C) {
    double *rows = host_numbers(f, B * C);
    for (int b = 0; b < B; b++) memcpy(rows + b * C, sequences + (b * T + position) * C, (size_t)C * sizeof *rows);
    return rows;
}

/* What a cache (B,capacity,C) holds after T positions: part `which` of qkv, NaN where nothing was stored yet. */
static double *expected_cache(Fixture *f, const double *qkv, int which, Size s, int capacity) {
    int C = s.NH * s.HS;
    double *cache = host_numbers(f, s.B * capacity * C);
    for (int i = 0; i < s.B * capacity * C; i++) {
        int b = i / C / capacity, t = i / C % capacity;
        cache[i] = t < s.T ? qkv[(b * s.T + t) * 3 * C + which * C + i % C] : NAN;
    }
    return cache;
}

/* Position by position from empty caches: each answer is that row of the whole sequence's attention, by the reference
 * and by the same table; each key and value is stored as it is, and places not reached yet stay as they were. */
static void decode(Fixture *f, Size s, int capacity) {
    if (too_large(s)) return;
    Backend *be = f->be;
    int B = s.B, T = s.T, NH = s.NH, C = NH * s.HS;
    begin_size(f, s, "decode");
    Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, 1.0), *token = array_in(f, ACTIVATION, B, 3 * C, 1.0);
    Array *whole = array_out(f, ACTIVATION, B * T, C), *lse = array_out(f, FLOAT, B * NH, T);
    Array *keys = array_out(f, ACTIVATION, B * capacity, C), *values = array_out(f, ACTIVATION, B * capacity, C);
    double *expected = host_numbers(f, B * T * C), *expected_lse = host_numbers(f, B * NH * T);
    RUN_TWICE(f, be->attention_forward(be, whole->device, lse->device, qkv->device, B, T, C, NH, usual_scale, NULL));
    reference_attention_forward(expected, expected_lse, qkv->value, NULL, B, T, C, NH, usual_scale);
    const double *same_table = fetch(whole);
    Array *out = array_out(f, ACTIVATION, B * NH, s.HS);
    for (int t = 0; t < T; t++) {
        array_rewrite(token, rows_at(f, qkv->value, t, B, T, 3 * C));
        RUN_TWICE(f, be->attention_decode(be, out->device, keys->device, values->device, token->device, B, t, capacity,
                                          C, NH, usual_scale));
        expect_near(out, rows_at(f, expected, t, B, T, C), slack, "decoded, against the reference");
        expect_near(out, rows_at(f, same_table, t, B, T, C), slack, "decoded, against attention_forward");
    }
    expect_exact(keys, expected_cache(f, qkv->value, 1, s, capacity), "keys");
    expect_exact(values, expected_cache(f, qkv->value, 2, s, capacity), "values");
}

static void test_decode(void **state) {
    Fixture *f = fixture_of(state);
    decode(f, (Size){1, 1, 1, 1}, 1);
    decode(f, (Size){3, 9, 2, 3}, 9);
    decode(f, (Size){2, 20, 3, 16}, 33);
    decode(f, (Size){1, 70, 2, 64}, 100);
    decode(f, (Size){2, 66, 1, 80}, 66);
}

/* ---- NaN and infinities ---- */

/* A special value in column 2 of head 1 of the query, key or value of one token, or of its dout. Kernels multiply the
 * masked pairs of a block of queries and keys by 0, which makes NaN of NaN. So the special key is the first one, which
 * every query sees, and the special query is the last one of a block, which sees every key of it. dout is special by
 * NaN alone: the sum of an infinite dout times out is infinite, but NaN where it is added up key by key. */
static void special(Fixture *f, double value, int which) {
    Backend *be = f->be;
    enum { B = 2, T = 130, NH = 2, HS = 16, C = NH * HS };
    const char *names[] = {"query", "key", "value", "dout"};
    const int tokens[] = {127, 0, 0, 127};
    begin_case(f, "%g in a %s", value, names[which]);
    Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, 1.0), *dout = array_in(f, ACTIVATION, B * T, C, 1.0);
    Array *out = array_out(f, ACTIVATION, B * T, C), *lse = array_out(f, FLOAT, B * NH, T);
    Array *dqkv = array_out(f, ACTIVATION, B * T, 3 * C);
    int row = T + tokens[which]; /* of the second sequence */
    if (which < 3)
        array_set(qkv, row * 3 * C + which * C + HS + 2, value);
    else
        array_set(dout, row * C + HS + 2, value);
    double *expected = host_numbers(f, B * T * C), *expected_lse = host_numbers(f, B * NH * T);
    double *gradient = host_numbers(f, B * T * 3 * C);
    RUN_TWICE(f, be->attention_forward(be, out->device, lse->device, qkv->device, B, T, C, NH, usual_scale, NULL));
    RUN_TWICE(f, be->attention_backward(be, dqkv->device, dout->device, qkv->device, out->device, lse->device, B, T, C,
                                        NH, usual_scale, NULL));
    reference_attention_forward(expected, expected_lse, qkv->value, NULL, B, T, C, NH, usual_scale);
    reference_attention_backward(gradient, dout->value, qkv->value, NULL, B, T, C, NH, usual_scale);
    expect_each(out, expected, slack, 2e-2, "out");
    expect_each(lse, expected_lse, 1, 1e-4, "lse");
    expect_each(dqkv, gradient, slack, 5e-2, "dqkv");
}

static void test_special(void **state) {
    Fixture *f = fixture_of(state);
    const double values[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < (only_small_sizes() ? 1 : ARRAY_LENGTH(values)); i++)
        for (int which = 0; which < (only_small_sizes() ? 1 : 3); which++) {
            /* From an infinite value a GPU takes the difference of two infinities in the backward pass. */
            if (f->be->on_gpu && which == 2 && isinf(values[i])) continue;
            special(f, values[i], which);
        }
    special(f, NAN, 3);
}

/* The last token of a sequence sees a special key or value of an earlier one, or has a special query. */
static void test_decode_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { B = 2, T = 5, NH = 2, HS = 16, C = NH * HS };
    const double specials[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < (only_small_sizes() ? 1 : ARRAY_LENGTH(specials)); i++)
        for (int which = 0; which < 3; which++) {
            begin_case(f, "decode, %g, part %d", specials[i], which);
            Array *qkv = array_in(f, ACTIVATION, B * T, 3 * C, 1.0), *token = array_in(f, ACTIVATION, B, 3 * C, 1.0);
            Array *keys = array_out(f, ACTIVATION, B * T, C), *values = array_out(f, ACTIVATION, B * T, C);
            Array *out = array_out(f, ACTIVATION, B, C);
            array_set(qkv, (T + (which == 0 ? T - 1 : 1)) * 3 * C + which * C + HS + 2, specials[i]);
            for (int t = 0; t < T; t++) {
                array_rewrite(token, rows_at(f, qkv->value, t, B, T, 3 * C));
                RUN_TWICE(f, be->attention_decode(be, out->device, keys->device, values->device, token->device, B, t, T,
                                                  C, NH, usual_scale));
            }
            double *expected = host_numbers(f, B * T * C), *lse = host_numbers(f, B * NH * T);
            reference_attention_forward(expected, lse, qkv->value, NULL, B, T, C, NH, usual_scale);
            expect_each(out, rows_at(f, expected, T - 1, B, T, C), slack, 2e-2, "decoded");
        }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),        cmocka_unit_test(test_forward_large_scores),
        cmocka_unit_test(test_backward),       cmocka_unit_test(test_tile_edges),
        cmocka_unit_test(test_one_head),       cmocka_unit_test(test_every_pair),
        cmocka_unit_test(test_decode),         cmocka_unit_test(test_special),
        cmocka_unit_test(test_decode_special), cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_dropout_masks),  cmocka_unit_test(test_dropout_mean),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
