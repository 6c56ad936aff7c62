/* test_loader.c: from a stream of tokens to batches: which sequence is where in each order, shuffling, reading ahead,
 * and errors that come with the batch. */
#include "dev/test/data/shard_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/loader.h"
#include "util/philox.h"

/* ---- loader ---- */

static Loader *open_loader(const char *pattern, DataOrder order, uint64_t seed, int T, int max_sequences) {
    LoaderOptions options = {order, seed, T, BIG_VOCAB, max_sequences};
    Loader *loader = NULL;
    Error error = {""};
    if (!loader_open(&loader, pattern, &options, &error)) fail_msg("%s", error.text);
    return loader;
}

/* The stream position of sequence s in a stream that counts; checks the whole sequence on the way. */
static int where(Loader *loader, int64_t s, int T) {
    const int32_t *inputs, *targets;
    Error error = {""};
    if (!loader_batch(loader, s, 1, &inputs, &targets, &error)) fail_msg("%s", error.text);
    for (int i = 0; i < T; i++) {
        assert_int_equal(inputs[i], inputs[0] + i);
        assert_int_equal(targets[i], inputs[0] + i + 1);
    }
    return inputs[0];
}

/* The permutation of windows, once more and read from its definition. */
static int64_t shuffled_window(int64_t s, int64_t W, uint64_t seed) {
    int64_t epoch = s / W, x = s % W, side = 1;
    while (side * side < W) side *= 2;
    do {
        int64_t left = x / side, right = x % side;
        for (uint64_t round = 0; round < 8; round++) {
            uint64_t index = (round << 32) + (uint64_t)right;
            int64_t mixed = philox(seed, PHILOX_DATA_SHUFFLE, (uint32_t)epoch, index).word[0] % side;
            int64_t next = left ^ mixed;
            left = right, right = next;
        }
        x = left * side + right;
    } while (x >= W);
    return x;
}

static void test_orders_are_what_they_say(void **state) {
    (void)state;
    enum { N = 1001 };
    write_counting(test_path("plain.bin"), false, 0, N);
    const int lengths[] = {1, 3, 62, 64, 100, 333, 999, 1000};
    for (size_t k = 0; k < ARRAY_LENGTH(lengths); k++) {
        int T = lengths[k], W = (N - 1) / T;
        uint64_t seed = 5000 + k + ((uint64_t)k << 40);
        Loader *sequential = open_loader(test_path("plain.bin"), ORDER_SEQUENTIAL, seed, T, 1);
        Loader *random = open_loader(test_path("plain.bin"), ORDER_RANDOM, seed, T, 1);
        Loader *shuffled = open_loader(test_path("plain.bin"), ORDER_SHUFFLED, seed, T, 1);
        assert_int_equal(loader_token_count(random), N);
        assert_int_equal(loader_window_count(random), W);
        assert_int_equal(loader_file_count(random), 1);
        for (int64_t i = 0; i < 300; i++) {
            int64_t s = i < 250 ? i : i * 123456789;
            Philox4 draw = philox(seed, PHILOX_DATA_OFFSET, 0, (uint64_t)s);
            uint64_t bits = (uint64_t)draw.word[1] << 32 | draw.word[0];
            assert_int_equal(where(sequential, s, T), s % W * T);
            assert_int_equal(where(random, s, T), (unsigned __int128)bits * (unsigned)(N - T - 1) >> 64);
            assert_int_equal(where(shuffled, s, T), shuffled_window(s, W, seed) * T);
        }
        loader_close(sequential);
        loader_close(random);
        loader_close(shuffled);
    }
}

/* The same tokens in one file and in three odd-sized ones of both formats, for every order. */
static void test_shards_do_not_change_sequences(void **state) {
    (void)state;
    write_counting(test_path("whole.bin"), true, 0, 393);
    write_counting(test_path("part_0.bin"), false, 0, 101);
    write_counting(test_path("part_1.bin"), true, 101, 37);
    write_counting(test_path("part_2.bin"), false, 138, 255);
    const int lengths[] = {1, 5, 64, 150, 392};
    for (DataOrder order = ORDER_RANDOM; order <= ORDER_SHUFFLED; order++)
        for (size_t k = 0; k < ARRAY_LENGTH(lengths); k++) {
            Loader *whole = open_loader(test_path("whole.bin"), order, 7, lengths[k], 1);
            Loader *parts = open_loader(test_path("part_*.bin"), order, 7, lengths[k], 1);
            assert_int_equal(loader_file_count(parts), 3);
            assert_int_equal(loader_window_count(parts), loader_window_count(whole));
            for (int64_t s = 0; s < 400; s++)
                assert_int_equal(where(parts, s, lengths[k]), where(whole, s, lengths[k]));
            loader_close(whole);
            loader_close(parts);
        }
}

/* Offsets lie in [0, n - T - 1): the last window is never drawn, all others are, and about equally often. */
static void test_random_offsets_cover_their_range(void **state) {
    (void)state;
    write_counting(test_path("small.bin"), false, 0, 15);
    Loader *loader = open_loader(test_path("small.bin"), ORDER_RANDOM, 1, 4, 1);
    int seen[15] = {0};
    for (int s = 0; s < 10000; s++) seen[where(loader, s, 4)]++;
    for (int i = 0; i < 10; i++) assert_in_range(seen[i], 850, 1150);
    for (int i = 10; i < 15; i++) assert_int_equal(seen[i], 0);
    loader_close(loader);
}

static void test_streams_of_about_one_sequence(void **state) {
    (void)state;
    write_counting(test_path("nine.bin"), false, 0, 9);
    for (DataOrder order = ORDER_RANDOM; order <= ORDER_SHUFFLED; order++) {
        Loader *loader = open_loader(test_path("nine.bin"), order, 3, 8, 1); /* n - T - 1 = 0 */
        assert_int_equal(loader_window_count(loader), 1);
        for (int s = 0; s < 50; s++) assert_int_equal(where(loader, s, 8), 0);
        loader_close(loader);
        Loader *failed = NULL;
        LoaderOptions options = {order, 3, 9, 256, 1};
        Error error = {""};
        assert_false(loader_open(&failed, test_path("nine.bin"), &options, &error));
        assert_null(failed);
        assert_four_parts(error.text, "nine.bin'|holds 9 tokens|one sequence needs 10|give more text");
    }
}

static void test_wrong_loader_options_and_requests(void **state) {
    (void)state;
    write_counting(test_path("twenty.bin"), false, 0, 20);
    const LoaderOptions wrong[] = {
        {ORDER_RANDOM, 1, 0, 256, 1}, {ORDER_RANDOM, 1, 4, 0, 1}, {ORDER_RANDOM, 1, 4, 256, 0}};
    Loader *loader = NULL;
    Error error = {""};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        assert_false(loader_open(&loader, test_path("twenty.bin"), &wrong[i], &error));
        assert_parts(error.text, "at least 1");
    }
    assert_false(loader_open(&loader, test_path("nothing.bin"), &(LoaderOptions){ORDER_RANDOM, 1, 4, 256, 1}, &error));
    assert_parts(error.text, "nothing.bin");
    assert_null(loader);
    loader_close(NULL);

    loader = open_loader(test_path("twenty.bin"), ORDER_SEQUENTIAL, 1, 4, 3);
    const int64_t requests[][2] = {{0, 0}, {0, 4}, {-1, 1}, {0, -1}};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(requests); i++) {
        const int32_t *inputs, *targets;
        int64_t first = requests[i / 2][0];
        int count = (int)requests[i / 2][1];
        if (i % 2) loader_prefetch(loader, first, count); /* the thread finds the mistake, loader_batch says so */
        assert_false(loader_batch(loader, first, count, &inputs, &targets, &error));
        assert_parts(error.text, "the loader was opened for 1 to 3");
    }
    assert_int_equal(where(loader, 1, 4), 4);
    loader_close(loader);
}

/* ---- shuffling ---- */

/* A stream for T = 2 whose window w begins with the two halves of w. */
static void write_windows(const char *path, int64_t W) {
    uint16_t *tokens = checked_malloc((2 * (size_t)W + 1) * 2, "tokens");
    for (int64_t w = 0; w < W; w++) {
        tokens[2 * w] = (uint16_t)w;
        tokens[2 * w + 1] = (uint16_t)(w >> 16);
    }
    tokens[2 * W] = 0;
    write_shard(path, 1, (int32_t)(2 * W + 1), tokens, (size_t)(2 * W + 1));
    free(tokens);
}

/* windows[i] = window of sequence first + i. */
static void read_windows(const char *path, uint64_t seed, int64_t first, int64_t count, int32_t *windows) {
    enum { BATCH = 1000 };
    Loader *loader = open_loader(path, ORDER_SHUFFLED, seed, 2, BATCH);
    for (int64_t done = 0; done < count; done += BATCH) {
        const int32_t *inputs, *targets;
        int take = (int)min_i64(BATCH, count - done);
        assert_true(loader_batch(loader, first + done, take, &inputs, &targets, NULL));
        for (int i = 0; i < take; i++) windows[done + i] = inputs[2 * i] + inputs[2 * i + 1] * 65536;
    }
    loader_close(loader);
}

static void assert_permutation(const int32_t *windows, int64_t W) {
    char *seen = checked_calloc((size_t)W, 1, "marks");
    for (int64_t i = 0; i < W; i++) {
        assert_in_range(windows[i], 0, W - 1);
        if (seen[windows[i]]++) fail_msg("window %d comes twice in an epoch of %d", windows[i], (int)W);
    }
    free(seen);
}

static void test_each_epoch_is_a_permutation(void **state) {
    (void)state;
    const int64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 255, 1021, 4097};
    int32_t *windows = checked_malloc(3 * 4097 * sizeof *windows, "windows");
    for (size_t k = 0; k < ARRAY_LENGTH(sizes); k++) {
        int64_t W = sizes[k];
        size_t bytes = (size_t)W * sizeof *windows;
        write_windows(test_path("windows.bin"), W);
        read_windows(test_path("windows.bin"), 11, 0, 2 * W, windows);
        read_windows(test_path("windows.bin"), 12, 0, W, windows + 2 * W);
        for (int i = 0; i < 3; i++) assert_permutation(windows + i * W, W);
        if (W < 16) continue;
        assert_memory_not_equal(windows, windows + W, bytes);     /* another epoch */
        assert_memory_not_equal(windows, windows + 2 * W, bytes); /* another seed */
    }
    free(windows);
}

static void test_many_windows_are_permuted(void **state) {
    (void)state;
    const int64_t W = 250007;
    int32_t *windows = checked_malloc((size_t)W * sizeof *windows, "windows");
    write_windows(test_path("windows.bin"), W);
    read_windows(test_path("windows.bin"), UINT64_C(0xFEDCBA9876543210), 5 * W, W, windows);
    assert_permutation(windows, W);
    int64_t neighbours = 0, in_place = 0;
    double product = 0;
    for (int64_t i = 0; i < W; i++) {
        in_place += windows[i] == i;
        neighbours += i > 0 && windows[i] == windows[i - 1] + 1;
        product += ((double)i / (double)W - 0.5) * ((double)windows[i] / (double)W - 0.5);
    }
    assert_true(in_place < 12 && neighbours < 12);      /* of each, 1 is expected */
    assert_true(fabs(product / (double)W * 12) < 0.01); /* correlation; its standard deviation is 0.002 */
    free(windows);
}

/* A small set wants a fair shuffle too: each window equally often at each place, and all orders of three. */
static void test_small_sets_are_shuffled_fairly(void **state) {
    (void)state;
    enum { W = 6, EPOCHS = 3000 };
    int32_t *windows = checked_malloc(W * EPOCHS * sizeof *windows, "windows");
    int at[W][W] = {{0}}, orders[27] = {0}, kinds = 0;
    write_windows(test_path("windows.bin"), W);
    read_windows(test_path("windows.bin"), 1, 0, W * EPOCHS, windows);
    for (int i = 0; i < W * EPOCHS; i++) at[i % W][windows[i]]++;
    for (int i = 0; i < W * W; i++) assert_in_range(at[i / W][i % W], 380, 620); /* 500 expected, deviation 20 */
    write_windows(test_path("windows.bin"), 3);
    read_windows(test_path("windows.bin"), 1, 0, 3 * EPOCHS, windows);
    for (int i = 0; i < 3 * EPOCHS; i += 3) orders[9 * windows[i] + 3 * windows[i + 1] + windows[i + 2]]++;
    for (int i = 0; i < 27; i++) {
        if (orders[i] == 0) continue;
        kinds++;
        assert_in_range(orders[i], 380, 620);
    }
    assert_int_equal(kinds, 6);
    free(windows);
}

/* ---- batches and reading ahead ---- */

static void test_batches_do_not_change_sequences(void **state) {
    (void)state;
    enum { T = 7, COUNT = 12 };
    write_counting(test_path("batch.bin"), true, 0, 500);
    for (DataOrder order = ORDER_RANDOM; order <= ORDER_SHUFFLED; order++) {
        Loader *loader = open_loader(test_path("batch.bin"), order, 9, T, COUNT);
        for (int64_t first = 0; first < 200; first += 37) {
            const int32_t *inputs, *targets;
            int32_t together[2][COUNT * T];
            assert_true(loader_batch(loader, first, COUNT, &inputs, &targets, NULL));
            memcpy(together[0], inputs, sizeof together[0]);
            memcpy(together[1], targets, sizeof together[1]);
            for (int step = 1; step <= 4; step++)
                for (int i = 0; i + step <= COUNT; i += step) {
                    size_t bytes = (size_t)(step * T) * sizeof(int32_t);
                    assert_true(loader_batch(loader, first + i, step, &inputs, &targets, NULL));
                    assert_memory_equal(inputs, together[0] + i * T, bytes);
                    assert_memory_equal(targets, together[1] + i * T, bytes);
                }
        }
        loader_close(loader);
    }
}

/* The buffers take turns: the caller's older one takes a batch that is read on the spot, and the thread's one comes in
 * between when a batch was read ahead. That tells a hit from a miss. */
static void test_read_ahead_hits_and_misses(void **state) {
    (void)state;
    const int32_t *a, *b, *c, *targets;
    write_counting(test_path("ahead.bin"), true, 0, 5000);
    Loader *loader = open_loader(test_path("ahead.bin"), ORDER_SEQUENTIAL, 1, 10, 20);
    assert_true(loader_batch(loader, 0, 20, &a, &targets, NULL));
    assert_true(loader_batch(loader, 100, 20, &b, &targets, NULL)); /* the caller has two batches at a time */
    assert_int_equal(a[0], 0);
    assert_int_equal(b[0], 1000);
    loader_prefetch(loader, 20, 20);
    assert_true(loader_batch(loader, 20, 20, &c, &targets, NULL)); /* a hit: the third buffer */
    assert_ptr_not_equal(c, a);
    assert_ptr_not_equal(c, b);
    assert_int_equal(c[0], 200);
    assert_int_equal(b[0], 1000);
    assert_int_equal(a[0], 0); /* the thread may write there only when it is asked again */

    loader_prefetch(loader, 40, 20);
    const int32_t *d;
    assert_true(loader_batch(loader, 60, 20, &d, &targets, NULL)); /* another first: a miss */
    assert_ptr_equal(d, b);
    assert_int_equal(d[0], 600);
    assert_int_equal(c[0], 200);
    assert_true(loader_batch(loader, 40, 19, &d, &targets, NULL)); /* another count: a miss */
    assert_ptr_equal(d, c);
    assert_int_equal(d[189], 589);
    assert_int_equal(b[0], 600);
    assert_true(loader_batch(loader, 40, 20, &d, &targets, NULL)); /* and what was asked for is still there */
    assert_ptr_equal(d, a);
    assert_int_equal(d[0], 400);
    assert_true(loader_batch(loader, 40, 20, &d, &targets, NULL)); /* once taken it is gone */
    assert_ptr_equal(d, c);
    assert_int_equal(d[199], 599);

    for (int i = 0; i < 50; i++) loader_prefetch(loader, i, 20); /* the last request counts */
    assert_true(loader_batch(loader, 49, 20, &d, &targets, NULL));
    assert_ptr_equal(d, b);
    assert_int_equal(d[0], 490);
    loader_prefetch(loader, 3, 20); /* closed while the thread is busy */
    loader_close(loader);
}

/* Requests, right and wrong guesses and batches in an order that only chance would choose. */
static void test_read_ahead_never_changes_a_batch(void **state) {
    (void)state;
    enum { T = 16, COUNT = 8 };
    write_counting(test_path("chaos.bin"), false, 0, 30000);
    Loader *loader = open_loader(test_path("chaos.bin"), ORDER_SHUFFLED, 4, T, COUNT);
    for (uint64_t i = 0; i < 3000; i++) {
        Philox4 draw = philox(1, PHILOX_SAMPLE_TOKEN, 0, i);
        int64_t first = draw.word[0] % 6, guess = draw.word[1] % 6;
        int count = 1 + (int)(draw.word[2] % COUNT);
        if (draw.word[3] & 1) loader_prefetch(loader, guess * 1000, count);
        if (draw.word[3] & 2) loader_prefetch(loader, first * 1000, count);
        if (draw.word[3] & 4) continue;
        const int32_t *inputs, *targets;
        assert_true(loader_batch(loader, first * 1000, count, &inputs, &targets, NULL));
        for (int k = 0; k < count; k++) {
            int64_t begin = shuffled_window(first * 1000 + k, loader_window_count(loader), 4) * T;
            assert_int_equal(inputs[k * T], begin);
            assert_int_equal(inputs[k * T + T - 1], begin + T - 1);
            assert_int_equal(targets[k * T + T - 1], begin + T);
        }
    }
    loader_close(loader);
}

static void test_errors_of_the_thread_come_with_the_batch(void **state) {
    (void)state;
    write_counting(test_path("bad_0.bin"), false, 0, 50);
    write_counting(test_path("bad_1.bin"), false, 50, 50);
    LoaderOptions options = {ORDER_SEQUENTIAL, 1, 10, 70, 2};
    Loader *loader;
    const int32_t *inputs, *targets;
    assert_true(loader_open(&loader, test_path("bad_*.bin"), &options, NULL));
    for (int is_ahead = 0; is_ahead < 2; is_ahead++) {
        Error error = {""};
        if (is_ahead) loader_prefetch(loader, 6, 2);
        assert_false(loader_batch(loader, 6, 2, &inputs, &targets, &error));
        assert_parts(error.text, "bad_1.bin: token 20 of the file is 70, but vocab_size is 70");
        assert_int_equal(where(loader, 5, 10), 50); /* the loader lives on */
    }
    if (truncate(test_path("bad_0.bin"), 1030) != 0) fail_msg("cannot truncate");
    Error error = {""};
    loader_prefetch(loader, 0, 2);
    assert_false(loader_batch(loader, 0, 2, &inputs, &targets, &error));
    assert_parts(error.text, "bad_0.bin shrank from 1124 to 1030 bytes");
    loader_close(loader);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders_are_what_they_say),
        cmocka_unit_test(test_shards_do_not_change_sequences),
        cmocka_unit_test(test_random_offsets_cover_their_range),
        cmocka_unit_test(test_streams_of_about_one_sequence),
        cmocka_unit_test(test_wrong_loader_options_and_requests),
        cmocka_unit_test(test_each_epoch_is_a_permutation),
        cmocka_unit_test(test_many_windows_are_permuted),
        cmocka_unit_test(test_small_sets_are_shuffled_fairly),
        cmocka_unit_test(test_batches_do_not_change_sequences),
        cmocka_unit_test(test_read_ahead_hits_and_misses),
        cmocka_unit_test(test_read_ahead_never_changes_a_batch),
        cmocka_unit_test(test_errors_of_the_thread_come_with_the_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
