/* test_kernels.c: tests any Backend table: opening it, its memory, and the operations that stand alone: rounding,
 * scaling, the embedding, the loss, sums. The others have a program each: test_kernels_norm.c, _matmul.c, _qk.c and
 * _attention.c. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/reference.h"

/* ---- the table and its memory ---- */

static void test_open(void **state) {
    Fixture *f = fixture_of(state);
    char *name = format_string("%s-%s", f->device, dtype_name(f->activation));
    assert_string_equal(f->be->name, name);
    assert_int_equal(f->be->activation, f->activation);
    assert_true(strlen(f->be->device) > 0);
    if (strcmp(f->device, "cpu") == 0) assert_int_equal(f->be->threads, f->threads);
    free(name);
}

static void test_unknown_device(void **state) {
    (void)fixture_of(state);
    Error error = {""};
    assert_null(backend_open("abacus", DTYPE_FLOAT32, 1, &error));
    assert_non_null(strstr(error.text, "abacus"));
}

/* What auto picks can be opened. */
static void test_auto(void **state) {
    (void)fixture_of(state);
    Error error = {""};
    const char *device = backend_auto_device();
    Backend *be = backend_open(device, backend_auto_precision(device), 1, &error);
    if (!be) fail_msg("%s", error.text);
    be->close(be);
}

/* Aligned and zeroed, also where the memory was used before. CUDA promises an alignment of 256. */
static void test_alloc(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const size_t sizes[] = {1, 2, 4095, 4096, 4097, 100000, 3000001};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        unsigned char *host = checked_malloc(sizes[i], "bytes");
        for (int round = 0; round < 3; round++) {
            void *memory = be->alloc(be, sizes[i], "a test");
            assert_non_null(memory);
            assert_int_equal((uintptr_t)memory % (be->on_gpu ? 256 : 4096), 0);
            be->copy_to_host(be, host, memory, sizes[i]);
            for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(host[k], 0);
            memset(host, 0xff, sizes[i]);
            be->copy_from_host(be, memory, host, sizes[i]);
            be->free(be, memory);
        }
        free(host);
    }
}

/* Bytes [from, from + n) of an array, at odd places and of odd lengths; all others stay. */
static void test_copy_and_zero(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { count = 5000 };
    const size_t ranges[][2] = {{0, 1}, {0, 16}, {3, 64}, {5, 1023}, {64, 4096}, {1, 4999}, {0, 5000}, {2500, 0}};
    for (size_t i = 0; i < ARRAY_LENGTH(ranges); i++) {
        size_t from = ranges[i][0], n = ranges[i][1];
        begin_case(f, "elements [%zu, %zu)", from, from + n);
        Array *in = array_in(f, FLOAT, 1, count, 1.0), *to = array_in_out(f, FLOAT, 1, count, 1.0);
        Array *cleared = array_in_out(f, FLOAT, 1, count, 1.0);
        double *copied = host_numbers(f, count), *zeroed = host_numbers(f, count);
        for (size_t k = 0; k < count; k++) {
            bool inside = k >= from && k < from + n;
            copied[k] = inside ? in->value[k] : to->value[k];
            zeroed[k] = inside ? 0 : cleared->value[k];
        }
        RUN_TWICE(f, be->copy(be, (float *)to->device + from, (float *)in->device + from, n * sizeof(float)));
        RUN_TWICE(f, be->zero(be, (float *)cleared->device + from, n * sizeof(float)));
        expect_exact(to, copied, "copy");
        expect_exact(cleared, zeroed, "zero");
    }
}

/* synchronize() is all that a host needs to wait for. */
static void test_synchronize(void **state) {
    Fixture *f = fixture_of(state);
    begin_case(f, "copy, then synchronize");
    Array *in = array_in(f, FLOAT, 1, 100, 1.0), *out = array_out(f, FLOAT, 1, 100);
    f->be->copy(f->be, out->device, in->device, 100 * sizeof(float));
    f->be->synchronize(f->be);
    expect_exact(out, in->value, "copy");
}

/* ---- to_activation ---- */

static void test_to_activation(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const int sizes[] = {1, 3, 15, 16, 17, 63, 1000, 4097, 100003};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        int n = sizes[i];
        begin_case(f, "n=%d", n);
        Array *in = array_in(f, FLOAT, 1, n, 3.0), *out = array_out(f, ACTIVATION, 1, n);
        RUN_TWICE(f, be->to_activation(be, out->device, in->device, (size_t)n));
        expect_exact(out, in->value, "rounded");
    }
}

/* Ties to even, signs of zero, the ends of the range, infinities, NaN. */
static void test_to_activation_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const double values[] = {
        0.0,         -0.0,        1 + 0x1p-8, 1 + 0x3p-8,     1 + 0x1p-8 + 0x1p-20, 1 + 0x1p-9, -1 - 0x1p-8,
        -1 - 0x3p-8, 2 - 0x1p-23, 0x1p-126,   0x1.fffffep127, -0x1.fffffep127,      0x1.fep127, INFINITY,
        -INFINITY,   NAN,         -NAN,       3.14159265};
    int n = (int)ARRAY_LENGTH(values);
    begin_case(f, "special values");
    Array *in = array_of(f, FLOAT, 1, n, values), *out = array_out(f, ACTIVATION, 1, n);
    RUN_TWICE(f, be->to_activation(be, out->device, in->device, (size_t)n));
    expect_exact(out, in->value, "rounded");
}

/* ---- scale ---- */

static void test_scale(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const int sizes[] = {1, 3, 15, 16, 17, 63, 1000, 4097, 100003};
    const float factors[] = {0.20412415f, 1, 0, -3.7f};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int in_place = 0; in_place < 2; in_place++) {
            int n = sizes[i];
            float factor = factors[(i + (size_t)in_place) % ARRAY_LENGTH(factors)];
            begin_case(f, "n=%d, factor %g, in place %d", n, (double)factor, in_place);
            Array *in = in_place ? array_in_out(f, ACTIVATION, 1, n, 3.0) : array_in(f, ACTIVATION, 1, n, 3.0);
            Array *out = in_place ? in : array_out(f, ACTIVATION, 1, n);
            double *expected = host_numbers(f, n);
            for (int k = 0; k < n; k++) expected[k] = in->value[k] * factor;
            RUN_TWICE(f, be->scale(be, out->device, in->device, factor, (size_t)n));
            expect_exact(out, expected, "scaled");
        }
}

static void test_scale_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const double values[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 0x1.fep127, -0x1.fep127};
    const float factors[] = {2, -0.5f, 0, INFINITY};
    enum { n = ARRAY_LENGTH(values) };
    for (size_t i = 0; i < ARRAY_LENGTH(factors); i++) {
        begin_case(f, "special values, factor %g", (double)factors[i]);
        Array *in = array_of(f, ACTIVATION, 1, n, values), *out = array_out(f, ACTIVATION, 1, n);
        double *expected = host_numbers(f, n);
        for (int k = 0; k < n; k++) expected[k] = in->value[k] * factors[i];
        RUN_TWICE(f, be->scale(be, out->device, in->device, factors[i], n));
        expect_exact(out, expected, "scaled");
    }
}

/* ---- embedding ---- */

typedef struct EmbeddingSize {
    int B, T, C, V, positions;
} EmbeddingSize;

/* With more tokens than words (each word many times, or one that is everywhere) and fewer; with unused positions at the
 * end of wpe; with many sequences; with rows that a GPU's thread block takes in several rounds. */
static const EmbeddingSize embedding_sizes[] = {
    {1, 1, 1, 1, 1},        {2, 5, 3, 4, 5},    {3, 33, 17, 259, 64}, {2, 129, 64, 7, 129}, {1, 200, 100, 50, 256},
    {3, 65, 384, 1000, 65}, {11, 7, 24, 11, 7}, {3, 301, 8, 1, 301},  {2, 9, 2056, 5, 9},   {1, 40, 301, 3, 64}};

static void test_embedding_forward(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    for (size_t i = 0; i < ARRAY_LENGTH(embedding_sizes); i++) {
        int B = embedding_sizes[i].B, T = embedding_sizes[i].T, C = embedding_sizes[i].C, V = embedding_sizes[i].V;
        begin_case(f, "B=%d T=%d C=%d V=%d", B, T, C, V);
        Array *tokens = array_index(f, B, T, V), *wte = array_in(f, ACTIVATION, V, C, 1.0);
        Array *wpe = array_in(f, ACTIVATION, embedding_sizes[i].positions, C, 1.0);
        Array *out = array_out(f, ACTIVATION, B * T, C);
        double *expected = host_numbers(f, B * T * C);
        RUN_TWICE(f, be->embedding_forward(be, out->device, tokens->device, wte->device, wpe->device, B, T, C));
        reference_embedding_forward(expected, tokens->index, wte->value, wpe->value, B, T, C);
        expect_exact(out, expected, "out");
        Array *tokens_only = array_out(f, ACTIVATION, B * T, C);
        RUN_TWICE(f, be->embedding_forward(be, tokens_only->device, tokens->device, wte->device, NULL, B, T, C));
        reference_embedding_forward(expected, tokens->index, wte->value, NULL, B, T, C);
        expect_exact(tokens_only, expected, "out without positions");
    }
}

/* Given tokens, or random ones where they are NULL. */
static void embedding_backward(Fixture *f, EmbeddingSize size, const double *given, bool accumulate) {
    Backend *be = f->be;
    int B = size.B, T = size.T, C = size.C, V = size.V;
    begin_case(f, "B=%d T=%d C=%d V=%d, %s tokens, accumulate %d", B, T, C, V, given ? "given" : "random", accumulate);
    const double *dwpe_start;
    Array *tokens = given ? array_of(f, INDEX, B, T, given) : array_index(f, B, T, V),
          *dout = array_in(f, ACTIVATION, B * T, C, 1.0);
    Array *dwte = array_in_out(f, FLOAT, V, C, 1.0), *dwpe = array_gradient(f, T, C, accumulate, &dwpe_start);
    double *expected_dwte = host_numbers(f, V * C), *expected_dwpe = host_numbers(f, T * C);
    RUN_TWICE(f, be->embedding_backward(be, dwte->device, dwpe->device, dout->device, tokens->device, B, T, C, V,
                                        accumulate));
    reference_embedding_backward(expected_dwte, expected_dwpe, dout->value, tokens->index, B, T, C, V);
    for (int k = 0; k < V * C; k++) expected_dwte[k] += dwte->value[k];
    for (int k = 0; k < T * C; k++) expected_dwpe[k] += dwpe_start[k];
    expect_near(dwte, expected_dwte, 1, "dwte");
    expect_near(dwpe, expected_dwpe, 1, "dwpe");
    /* The same without positions leaves the same bits. */
    Array *tokens_only = array_in_out(f, FLOAT, V, C, 1.0);
    array_rewrite(tokens_only, dwte->value);
    RUN_TWICE(
        f, be->embedding_backward(be, tokens_only->device, NULL, dout->device, tokens->device, B, T, C, V, accumulate));
    expect_exact(tokens_only, fetch(dwte), "dwte without positions");
}

static void test_embedding_backward(void **state) {
    Fixture *f = fixture_of(state);
    for (size_t i = 0; i < ARRAY_LENGTH(embedding_sizes); i++) {
        if (has_its_turn(i, 2)) embedding_backward(f, embedding_sizes[i], NULL, false);
        if (has_its_turn(i + 1, 2)) embedding_backward(f, embedding_sizes[i], NULL, true);
    }
}

/* Thousands of positions, and tokens of one byte, two and three: a GPU sorts them by a byte at a time. */
static void test_embedding_backward_many_positions(void **state) {
    Fixture *f = fixture_of(state);
    const int words[] = {200, 3000, 70000};
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++) {
        if (only_small_sizes() && i > 0) break;
        embedding_backward(f, (EmbeddingSize){5, 900, 4, words[i], 900}, NULL, false);
    }
}

/* Each token as often as `lengths` says: where sorted positions are summed 32 at a time, runs of a token end with such
 * a piece, begin with one, fill one, several, or part of one. A permutation of the positions gives a sort something to
 * do. */
static void test_embedding_backward_runs(void **state) {
    Fixture *f = fixture_of(state);
    const int lengths[] = {32, 32, 64, 1, 31, 33, 95, 1, 1, 30, 320, 5, 300, 20, 40, 20};
    enum { COUNT = 1025, STEP = 311, C = 8 };
    double tokens[COUNT];
    int place = 0, words = (int)ARRAY_LENGTH(lengths);
    for (int word = 0; word < words; word++)
        for (int k = 0; k < lengths[word]; k++, place++) tokens[place * STEP % COUNT] = word;
    assert_int_equal(place, COUNT);
    embedding_backward(f, (EmbeddingSize){1, COUNT, C, words, COUNT}, tokens, false);
    embedding_backward(f, (EmbeddingSize){1, COUNT, C + 1, words, COUNT}, tokens, true);
}

/* NaN and infinities reach the elements that depend on them, and no others. */
static void test_embedding_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { B = 2, T = 33, C = 40, V = 50 };
    begin_case(f, "special values");
    Array *tokens = array_index(f, B, T, V), *wte = array_in(f, ACTIVATION, V, C, 1.0);
    Array *wpe = array_in(f, ACTIVATION, T, C, 1.0), *out = array_out(f, ACTIVATION, B * T, C);
    Array *dout = array_in(f, ACTIVATION, B * T, C, 1.0), *dwte = array_in_out(f, FLOAT, V, C, 1.0);
    Array *dwpe = array_in_out(f, FLOAT, T, C, 1.0);
    array_set(wte, tokens->index[5] * C + 7, NAN), array_set(wte, tokens->index[8] * C + 3, INFINITY);
    array_set(wpe, 8 * C + 3, -INFINITY), array_set(wpe, 11 * C, -INFINITY);
    array_set(dout, 4 * C + 9, NAN), array_set(dout, 40 * C + 1, INFINITY), array_set(dout, 41 * C + 2, -INFINITY);
    array_set(dwte, tokens->index[41] * C + 2, INFINITY), array_set(dwpe, 20 * C, NAN);
    RUN_TWICE(f, be->embedding_forward(be, out->device, tokens->device, wte->device, wpe->device, B, T, C));
    RUN_TWICE(f,
              be->embedding_backward(be, dwte->device, dwpe->device, dout->device, tokens->device, B, T, C, V, true));
    double *expected = host_numbers(f, B * T * C), *edwte = host_numbers(f, V * C), *edwpe = host_numbers(f, T * C);
    reference_embedding_forward(expected, tokens->index, wte->value, wpe->value, B, T, C);
    reference_embedding_backward(edwte, edwpe, dout->value, tokens->index, B, T, C, V);
    for (int k = 0; k < V * C; k++) edwte[k] += dwte->value[k];
    for (int k = 0; k < T * C; k++) edwpe[k] += dwpe->value[k];
    expect_exact(out, expected, "out");
    expect_each(dwte, edwte, 1, 1e-5, "dwte");
    expect_each(dwpe, edwpe, 1, 1e-5, "dwpe");
}

/* ---- loss ---- */

/* Tests one call on given logits. Entries of a softmax span many orders of magnitude and are computed without
 * cancellation, so each one has its own relative limit; a row's norm would see little but the target. `largest` is the
 * size of the logits: a float32 of that size, the log of the softmax's denominator perhaps, is off by 6e-8 of it, and
 * the denominator, a float32 sum of V terms one after the other, by some 1e-9 V of it. Either is an error of the loss
 * and a relative one of the gradient. */
static void cross_entropy(Fixture *f, Array *logits, const Array *targets, int V, float dloss, float softcap,
                          bool gradient, double largest) {
    Backend *be = f->be;
    int N = (int)logits->rows, VP = (int)logits->columns;
    Array *losses = array_out(f, FLOAT, N, 1);
    double *expected = host_numbers(f, N), *dlogits = host_numbers(f, N * VP);
    RUN_TWICE(f, be->softmax_cross_entropy(be, losses->device, logits->device, targets->device, dloss, softcap, N, V,
                                           VP, gradient));
    reference_cross_entropy_forward(expected, logits->value, targets->index, softcap, N, V, VP);
    double rounding = 2e-7 * largest + 2e-9 * V;
    expect_each(losses, expected, 1, rounding, "loss");
    if (gradient) {
        reference_cross_entropy_backward(dlogits, dloss, logits->value, targets->index, softcap, N, V, VP);
        double slack = f->activation == DTYPE_FLOAT32 ? 1 + rounding / 1e-5 : 1 + rounding / 4e-3;
        expect_each(logits, dlogits, slack, 1e-6 * dloss / V, "gradient");
    } else
        expect_exact(logits, logits->value, "logits without gradient");
}

/* None, that of track 3 of modded-nanogpt, and one which most logits exceed. */
static const float softcaps[] = {0, 15, 0.75f};

/* VP = V, and padding of less and of more than a vector; what stands there is as large as the logits. */
static void test_cross_entropy(void **state) {
    Fixture *f = fixture_of(state);
    const int sizes[][3] = {{1, 1, 1},         {1, 1, 64},        {2, 3, 4},        {5, 17, 64},
                            {129, 100, 128},   {33, 259, 259},    {33, 259, 320},   {4, 3001, 3003},
                            {3, 50257, 50304}, {2, 50304, 50304}, {1, 50257, 50257}};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int variant = 0; variant < 2 * (int)ARRAY_LENGTH(softcaps); variant++) {
            int N = sizes[i][0], V = sizes[i][1], VP = sizes[i][2], gradient = variant % 2;
            float softcap = softcaps[variant / 2];
            if ((only_small_sizes() && V > 5000) || !has_its_turn(i + (size_t)variant, 3)) continue;
            begin_case(f, "N=%d V=%d VP=%d, softcap %g, gradient %d", N, V, VP, (double)softcap, gradient);
            Array *logits = array_in_out(f, ACTIVATION, N, VP, 3.0), *targets = array_index(f, N, 1, V);
            cross_entropy(f, logits, targets, V, 0.37f, softcap, gradient, 10);
        }
}

/* Logits of +-1e4: one huge, all huge, all hugely negative, one hugely negative; the target among them or not; and
 * padding that would win every softmax. */
static void test_cross_entropy_large_logits(void **state) {
    Fixture *f = fixture_of(state);
    enum { N = 8, V = 259, VP = 320 };
    for (int variant = 0; variant < 2 * (int)ARRAY_LENGTH(softcaps); variant++) {
        int gradient = variant % 2;
        float softcap = softcaps[variant / 2];
        begin_case(f, "large logits, softcap %g, gradient %d", (double)softcap, gradient);
        const double targets[N] = {0, 0, 100, 258, 258, 0, 17, 258};
        double *values = host_numbers(f, N * VP);
        for (int v = 0; v < V; v++) {
            values[0 * VP + v] = v == 0 ? 1e4 : 0;
            values[1 * VP + v] = v == 7 ? 1e4 : -1e4;
            values[2 * VP + v] = 1e4;
            values[3 * VP + v] = -1e4;
            values[4 * VP + v] = v == 258 ? -1e4 : v % 3;
            values[5 * VP + v] = v == 258 ? 1e4 : 0;
            values[6 * VP + v] = v % 2 ? 1e4 : -1e4;
            values[7 * VP + v] = -1e4 + 64 * v;
        }
        for (int n = 0; n < N; n++)
            for (int v = V; v < VP; v++) values[n * VP + v] = 3e4;
        Array *logits = array_in_out(f, ACTIVATION, N, VP, 1.0);
        array_rewrite(logits, values);
        /* Capped logits give small terms that are all equal, which a sum one after the other rounds all alike. */
        double largest = softcap > 0 ? 100 : 1e4;
        cross_entropy(f, logits, array_of(f, INDEX, N, 1, targets), V, 0.5f, softcap, gradient, largest);
    }
}

/* Logits whose squares no float holds count as +-softcap, and have a gradient of 0. */
static void test_softcap_of_huge_logits(void **state) {
    Fixture *f = fixture_of(state);
    enum { N = 4, V = 37, VP = 64 };
    for (int gradient = 0; gradient < 2; gradient++) {
        begin_case(f, "huge logits, gradient %d", gradient);
        const double targets[N] = {0, 1, 36, 2};
        Array *logits = array_in_out(f, ACTIVATION, N, VP, 3.0);
        double *values = host_numbers(f, N * VP);
        memcpy(values, logits->value, N * VP * sizeof *values);
        values[0 * VP + 0] = 1e30;  /* the target */
        values[1 * VP + 5] = -3e38; /* next to the target */
        values[2 * VP + 36] = -1e20;
        for (int v = 0; v < V; v++) values[3 * VP + v] = v % 2 ? 2e19 : -2e25;
        array_rewrite(logits, values);
        cross_entropy(f, logits, array_of(f, INDEX, N, 1, targets), V, 0.5f, 15, gradient, 15);
    }
}

/* The same logits with padding and without give the same losses and gradients. */
static void test_cross_entropy_padding(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const int sizes[][3] = {{5, 259, 320}, {2, 50257, 50304}};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        int N = sizes[i][0], V = sizes[i][1], VP = sizes[i][2];
        if (only_small_sizes() && V > 5000) continue;
        begin_case(f, "N=%d V=%d VP=%d", N, V, VP);
        Array *padded = array_in_out(f, ACTIVATION, N, VP, 3.0), *bare = array_in_out(f, ACTIVATION, N, V, 3.0);
        Array *targets = array_index(f, N, 1, V);
        double *values = host_numbers(f, N * V);
        for (int k = 0; k < N * V; k++) values[k] = padded->value[k / V * VP + k % V];
        array_rewrite(bare, values);
        Array *padded_losses = array_out(f, FLOAT, N, 1), *bare_losses = array_out(f, FLOAT, N, 1);
        RUN_TWICE(f, be->softmax_cross_entropy(be, bare_losses->device, bare->device, targets->device, 1.0f, 0, N, V, V,
                                               true));
        RUN_TWICE(f, be->softmax_cross_entropy(be, padded_losses->device, padded->device, targets->device, 1.0f, 0, N,
                                               V, VP, true));
        expect_each(padded_losses, fetch(bare_losses), 1, 0, "loss");
        double *expected = host_numbers(f, N * VP), *gradient = fetch(bare);
        for (int k = 0; k < N * V; k++) expected[k / V * VP + k % V] = gradient[k];
        expect_each(padded, expected, 2, 0, "gradient");
    }
}

/* A row with NaN, or with a logit of +infinity, has no softmax: its loss and its gradients are NaN. A logit of
 * -infinity has the probability 0, and as the target an infinite loss; with softcap it is NaN as well. What the padding
 * holds does not matter. */
static void test_cross_entropy_special(void **state) {
    Fixture *f = fixture_of(state);
    enum { N = 8, V = 259, VP = 320 };
    for (int variant = 0; variant < 4; variant++) {
        int gradient = variant % 2;
        float softcap = softcaps[variant / 2];
        begin_case(f, "special logits, softcap %g, gradient %d", (double)softcap, gradient);
        const double targets[N] = {0, 2, 3, 4, 5, 6, 7, 258};
        Array *logits = array_in_out(f, ACTIVATION, N, VP, 3.0);
        double *values = host_numbers(f, N * VP);
        memcpy(values, logits->value, N * VP * sizeof *values);
        values[0 * VP + 2] = NAN;        /* next to the target */
        values[1 * VP + 2] = -NAN;       /* the target */
        values[2 * VP + 258] = INFINITY; /* next to the target */
        values[3 * VP + 4] = INFINITY;   /* the target */
        values[4 * VP + 0] = -INFINITY;  /* next to the target */
        values[5 * VP + 6] = -INFINITY;  /* the target */
        for (int v = 0; v < V; v++) values[6 * VP + v] = -INFINITY;
        for (int n = 0; n < N; n++) values[n * VP + V] = NAN, values[n * VP + VP - 1] = INFINITY;
        array_rewrite(logits, values);
        cross_entropy(f, logits, array_of(f, INDEX, N, 1, targets), V, 0.5f, softcap, gradient, 10);
    }
}

/* ---- sums ---- */

/* The total is a double: numbers of float32 size vanish next to 1e8 in a float32 sum. */
static void test_add_sum(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    const int sizes[] = {1, 2, 3, 17, 64, 1000, 4099, 100003};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        int n = sizes[i];
        begin_case(f, "n=%d", n);
        const double start = 1e8 + 0.125;
        double expected = start, got;
        Array *values = array_in(f, FLOAT, 1, n, 5.0), *total = array_in_out(f, DOUBLE, 1, 1, 1.0);
        array_rewrite(total, &start);
        for (int k = 0; k < n; k++) expected += values->value[k];
        RUN_TWICE(f, be->add_sum(be, total->device, values->device, (size_t)n));
        got = *fetch(total);
        if (!(fabs(got - expected) < 1e-5)) fail_msg("%s: the sum is %.16g, not %.16g", f->where, got, expected);
    }
}

static void test_add_sum_special(void **state) {
    Fixture *f = fixture_of(state);
    Backend *be = f->be;
    enum { n = 1000 };
    const double specials[][2] = {{NAN, 1}, {INFINITY, 1}, {1, -INFINITY}, {INFINITY, -INFINITY}};
    for (size_t i = 0; i < ARRAY_LENGTH(specials); i++) {
        begin_case(f, "%g and %g", specials[i][0], specials[i][1]);
        Array *values = array_in(f, FLOAT, 1, n, 5.0), *total = array_in_out(f, DOUBLE, 1, 1, 1.0);
        array_set(values, 3, specials[i][0]), array_set(values, n - 1, specials[i][1]);
        const double expected = specials[i][0] + specials[i][1];
        RUN_TWICE(f, be->add_sum(be, total->device, values->device, n));
        expect_each(total, &expected, 1, 0, "the sum");
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_unknown_device),
        cmocka_unit_test(test_auto),
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_copy_and_zero),
        cmocka_unit_test(test_synchronize),
        cmocka_unit_test(test_to_activation),
        cmocka_unit_test(test_to_activation_special),
        cmocka_unit_test(test_scale),
        cmocka_unit_test(test_scale_special),
        cmocka_unit_test(test_embedding_forward),
        cmocka_unit_test(test_embedding_backward),
        cmocka_unit_test(test_embedding_special),
        cmocka_unit_test(test_embedding_backward_many_positions),
        cmocka_unit_test(test_embedding_backward_runs),
        cmocka_unit_test(test_cross_entropy),
        cmocka_unit_test(test_cross_entropy_large_logits),
        cmocka_unit_test(test_softcap_of_huge_logits),
        cmocka_unit_test(test_cross_entropy_padding),
        cmocka_unit_test(test_cross_entropy_special),
        cmocka_unit_test(test_add_sum),
        cmocka_unit_test(test_add_sum_special),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
