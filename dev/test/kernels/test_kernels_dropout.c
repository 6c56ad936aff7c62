/* test_kernels_dropout.c: tests dropout of whole arrays on any Backend table against its definition in dropout.h. That
 * of attention weights is tested in test_kernels_attention.c. */
#include "dev/test/kernels/kernel_fixture.h"

#include <math.h>

#include "dev/test/kernels/reference.h"

static const Dropout usual = {.rate = 0.1f, .seed = 0x123456789abcdefu, .place = 5, .first_sequence = 1000};

static void drop(Fixture *f, Array *out, const Array *in, Dropout dropout, int B, int n) {
    RUN_TWICE(f, f->be->dropout(f->be, &dropout, out->device, in->device, B, (size_t)n));
}

/* ---- the definition ---- */

/* Lengths that leave a part of four numbers, of a vector and of a block; sequences of an odd length begin at places
 * that no vector begins at. */
static void test_definition(void **state) {
    Fixture *f = fixture_of(state);
    const int sizes[][2] = {{1, 1}, {3, 5}, {2, 7}, {2, 8}, {1, 1023}, {2, 4096}, {3, 4101}, {1, 8193}, {2, 10000}};
    const float rates[] = {0.0f, 0.0001f, 0.1f, 0.5f, 0.99f};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (size_t k = 0; k < ARRAY_LENGTH(rates); k++) {
            int B = sizes[i][0], n = sizes[i][1];
            Dropout dropout = usual;
            dropout.rate = rates[k];
            begin_case(f, "B=%d n=%d rate=%g", B, n, rates[k]);
            Array *in = array_in(f, ACTIVATION, B, n, 3.0), *out = array_out(f, ACTIVATION, B, n);
            double *expected = host_numbers(f, B * n);
            reference_dropout(expected, in->value, &dropout, B, n);
            drop(f, out, in, dropout, B, n);
            expect_exact(out, expected, "out");
            Array *both = array_in_out(f, ACTIVATION, B, n, 3.0);
            reference_dropout(expected, both->value, &dropout, B, n);
            drop(f, both, both, dropout, B, n);
            expect_exact(both, expected, "in place");
        }
}

/* What is dropped is 0, whatever it was; what is kept stays what it is. */
static void test_special(void **state) {
    Fixture *f = fixture_of(state);
    const double specials[] = {NAN, INFINITY, -INFINITY, -0.0};
    enum { B = 2, N = 1001 };
    for (size_t i = 0; i < ARRAY_LENGTH(specials); i++) {
        Dropout dropout = usual;
        dropout.rate = 0.5f;
        begin_case(f, "%g", specials[i]);
        double *values = host_numbers(f, B * N), *expected = host_numbers(f, B * N);
        for (int k = 0; k < B * N; k++) values[k] = specials[i];
        Array *in = array_of(f, ACTIVATION, B, N, values), *out = array_out(f, ACTIVATION, B, N);
        reference_dropout(expected, in->value, &dropout, B, N);
        drop(f, out, in, dropout, B, N);
        expect_exact(out, expected, "out");
    }
}

/* ---- what masks depend on ---- */

/* 1 for each dropped one of a sequence of n numbers, 0 for the others. */
static double *mask_of(Fixture *f, Dropout dropout, int n) {
    double *ones = host_numbers(f, n);
    for (int i = 0; i < n; i++) ones[i] = 1.0;
    Array *in = array_of(f, ACTIVATION, 1, n, ones), *out = array_out(f, ACTIVATION, 1, n);
    drop(f, out, in, dropout, 1, n);
    double *mask = fetch(out);
    for (int i = 0; i < n; i++) mask[i] = mask[i] == 0.0;
    return mask;
}

/* `count` of n trials of probability p. Less than one in a million counts is this far off. */
static void expect_count(const Fixture *f, double count, int n, double p) {
    double deviation = sqrt(n * p * (1 - p));
    if (fabs(count - n * p) > 5 * deviation)
        fail_msg("%s: %g of %d, expected %g +- %.3g", f->where, count, n, n * p, deviation);
}

static double sum(const double *values, int n) {
    double total = 0.0;
    for (int i = 0; i < n; i++) total += values[i];
    return total;
}

/* Also of every fourth number, whose words have the same place in a call of Philox. */
static void test_rate(void **state) {
    Fixture *f = fixture_of(state);
    int n = only_small_sizes() ? 1 << 15 : 1 << 20;
    const float rates[] = {0.0001f, 0.1f, 0.5f, 0.99f};
    for (size_t i = 0; i < ARRAY_LENGTH(rates); i++) {
        Dropout dropout = usual;
        dropout.rate = rates[i];
        begin_case(f, "rate %g", rates[i]);
        const double *mask = mask_of(f, dropout, n);
        expect_count(f, sum(mask, n), n, rates[i]);
        for (int w = 0; w < 4; w++) {
            double count = 0.0;
            for (int k = w; k < n; k += 4) count += mask[k];
            expect_count(f, count, n / 4, rates[i]);
        }
    }
}

/* Of two masks that have nothing to do with each other, half the numbers agree. */
static void test_independence(void **state) {
    Fixture *f = fixture_of(state);
    enum { N = 1 << 13 };
    Dropout first = usual;
    first.rate = 0.5f;
    Dropout others[] = {first, first, first, first};
    others[0].seed++;
    others[1].place++;
    others[2].first_sequence++;
    others[3].first_sequence += (int64_t)1 << 32;
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        begin_case(f, "seed, place, sequence, far sequence: %zu", i);
        const double *a = mask_of(f, first, N), *b = mask_of(f, others[i], N);
        double agree = 0.0;
        for (int k = 0; k < N; k++) agree += a[k] == b[k];
        expect_count(f, agree, N, 0.5);
    }
}

/* A sequence's mask is the same in a batch of three and alone. */
static void test_batches(void **state) {
    Fixture *f = fixture_of(state);
    enum { B = 3, N = 1003 };
    begin_case(f, "a batch and its sequences");
    Array *in = array_in(f, ACTIVATION, B, N, 1.0), *whole = array_out(f, ACTIVATION, B, N);
    drop(f, whole, in, usual, B, N);
    const double *expected = fetch(whole);
    for (int b = 0; b < B; b++) {
        Dropout dropout = usual;
        dropout.first_sequence += b;
        Array *one = array_of(f, ACTIVATION, 1, N, in->value + b * N), *out = array_out(f, ACTIVATION, 1, N);
        drop(f, out, one, dropout, 1, N);
        expect_exact(out, expected + b * N, "a sequence alone");
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition),   cmocka_unit_test(test_special), cmocka_unit_test(test_rate),
        cmocka_unit_test(test_independence), cmocka_unit_test(test_batches),
    };
    return run_kernel_tests(argc, argv, tests, ARRAY_LENGTH(tests));
}
