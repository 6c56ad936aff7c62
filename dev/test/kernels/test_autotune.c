/* test_autotune.c: what is multiplied while algorithms are timed (kernels/autotune.h): numbers as they are in training.
 * A GPU takes less time for zeros, and the algorithm that is fastest for them need not be the one for a run. What
 * follows from the times is tested in test_matmul_autotune.cu. */
#include "dev/test/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/model/reference_gpt2.h"
#include "dev/test/optim/optim_world.h"
#include "model/gpt2.h"

/* ---- matrices that are multiplied ---- */

static void (*plain_matmul)(Backend *, const BatchedMatmul *, void *, const void *, const void *, const void *);
static int matmuls;

static double number_at(const void *numbers, DType type, size_t i) {
    return type == DTYPE_FLOAT32 ? (double)((const float *)numbers)[i]
                                 : (double)float_from_bfloat16(((const bfloat16 *)numbers)[i]);
}

/* Finite numbers, few of which are equal to the one before: in a symmetric matrix of two rows one is. */
static void assert_random(Backend *be, const void *device, DType type, size_t n, const char *name) {
    void *numbers = checked_malloc(n * dtype_size(type), name);
    be->copy_to_host(be, numbers, device, n * dtype_size(type));
    size_t repeated = 0;
    for (size_t i = 0; i < n; i++) {
        double x = number_at(numbers, type, i);
        if (!(fabs(x) < 1e4)) fail_msg("%s: number %zu is %g", name, i, x);
        repeated += x == (i > 0 ? number_at(numbers, type, i - 1) : 0.0);
    }
    if (repeated > n / 2) fail_msg("%s: of %zu numbers %zu are the same as the one before", name, n, repeated);
    free(numbers);
}

static void watched_matmul(Backend *be, const BatchedMatmul *p, void *d, const void *a, const void *b, const void *c) {
    matmuls++;
    assert_random(be, a, p->type, (size_t)(p->count * p->m * p->k), "the first factor");
    assert_random(be, b, p->type, (size_t)(p->count * p->k * p->n), "the second factor");
    plain_matmul(be, p, d, a, b, c);
}

static bool cpu_multiplies(DType type) {
    Backend *be = open_cpu(DTYPE_FLOAT32, 1);
    bool multiplies = be->multiplies(be, type);
    be->close(be);
    return multiplies;
}

/* Every batch of matrices that a step takes through Newton-Schulz, in the memory that a run starts with. */
static void test_newton_schulz_of_random_matrices(void **state) {
    (void)state;
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
        if (!cpu_multiplies((DType)type)) continue;
        OptimConfig config = optim_defaults(OPTIM_MUON, 0.01);
        config.ns_dtype = type == DTYPE_FLOAT32 ? NS_DTYPE_FLOAT32 : NS_DTYPE_BFLOAT16;
        OptimWorld *w = open_world(odd_table(), config, DTYPE_FLOAT32, 1, NULL);
        Snapshot before = take_snapshot(w);
        matmuls = 0;
        plain_matmul = w->be->matmul_batched;
        w->be->matmul_batched = watched_matmul;
        optim_autotune(w->optim);
        w->be->matmul_batched = plain_matmul;
        assert_true(matmuls > 0);
        assert_is(w, before);
        close_world(w);
    }
}

/* ---- tokens ---- */

enum { BATCH = 4, TOKENS = BATCH * 8, VOCABULARY = 300 };

static void (*plain_embedding)(Backend *, void *, const int32_t *, const void *, const void *, int, int, int);
static void (*plain_loss)(Backend *, float *, void *, const int32_t *, float, float, int, int, int, bool);
static int32_t inputs[TOKENS], targets[TOKENS];
static int inputs_seen, targets_seen;

static void watched_embedding(Backend *be, void *out, const int32_t *tokens, const void *wte, const void *wpe, int B,
                              int T, int C) {
    inputs_seen = B * T;
    assert_int_equal(inputs_seen, TOKENS);
    be->copy_to_host(be, inputs, tokens, sizeof inputs);
    plain_embedding(be, out, tokens, wte, wpe, B, T, C);
}

static void watched_loss(Backend *be, float *losses, void *logits, const int32_t *tokens, float dloss, float softcap,
                         int N, int V, int VP, bool gradient) {
    assert_true(targets_seen + N <= TOKENS);
    be->copy_to_host(be, targets + targets_seen, tokens, (size_t)N * sizeof *tokens);
    targets_seen += N;
    plain_loss(be, losses, logits, tokens, dloss, softcap, N, V, VP, gradient);
}

static int count_distinct(const int32_t *tokens) {
    bool seen[VOCABULARY] = {false};
    int distinct = 0;
    for (int i = 0; i < TOKENS; i++) {
        assert_true(tokens[i] >= 0 && tokens[i] < VOCABULARY);
        distinct += !seen[tokens[i]];
        seen[tokens[i]] = true;
    }
    return distinct;
}

static void test_model_of_random_tokens(void **state) {
    (void)state;
    GPT2Config config = gpt2_config(1, 1, 8, 8, VOCABULARY);
    for (int is_training = 0; is_training < 2; is_training++) {
        GPT2 model;
        Backend *be = open_cpu(DTYPE_FLOAT32, 1);
        gpt2_create(&model, &config, be, BATCH, RECOMPUTE_NONE, is_training);
        gpt2_init_weights(&model, 1);
        plain_embedding = be->embedding_forward;
        plain_loss = be->softmax_cross_entropy;
        be->embedding_forward = watched_embedding;
        be->softmax_cross_entropy = watched_loss;
        inputs_seen = targets_seen = 0;
        gpt2_autotune(&model);
        assert_int_equal(inputs_seen, TOKENS);
        assert_int_equal(targets_seen, TOKENS);
        assert_true(count_distinct(inputs) > TOKENS / 2);
        assert_true(count_distinct(targets) > TOKENS / 2);
        assert_memory_not_equal(inputs, targets, sizeof inputs);
        gpt2_free(&model);
        be->close(be);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_newton_schulz_of_random_matrices),
        cmocka_unit_test(test_model_of_random_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
