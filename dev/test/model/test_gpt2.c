/* test_gpt2.c: the whole model against the float64 GPT-2 of reference_gpt2.h: every loss, every tensor's gradient, and
 * what must make no difference: padding, micro-batches, recomputation, groups of rows, threads. The operations on
 * their own are tested in test_kernels*.c; weights and tensors in test_gpt2_weights.c. */
#include "dev/test/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/model/reference_gpt2.h"
#include "util/philox.h"

/* A model with random weights, and a batch. */
typedef struct TestModel {
    Backend *be;
    GPT2 model;
    double *params;
    int32_t *inputs, *targets;
    int B, T;
    const Dropout *dropout; /* of the losses in float64; NULL: none */
} TestModel;

typedef struct Setup {
    GPT2Config config;
    int B, T;         /* the batch */
    int max_batch;    /* 0: B */
    DType activation; /* float32 where not said */
    int threads;      /* 0: 1 */
    Recompute recompute;
    bool only_forward;
} Setup;

static GPT2Config shape(int V, bool bias, bool scaled) { return (GPT2Config)GPT2_SHAPE(3, 3, 12, 8, V, bias, scaled); }

static TestModel open_bench(Setup s) {
    TestModel b = {.be = open_cpu(s.activation, s.threads ? s.threads : 1), .B = s.B, .T = s.T};
    gpt2_create(&b.model, &s.config, b.be, s.max_batch ? s.max_batch : s.B, s.recompute, !s.only_forward);
    b.params = random_weights(&b.model.table, DTYPE_BFLOAT16, 11); /* the same numbers in both types */
    set_weights(&b.model, b.params);
    b.inputs = random_tokens(s.B * s.T, s.config.vocab_size, 0);
    b.targets = random_tokens(s.B * s.T, s.config.vocab_size, 1);
    return b;
}

static void close_bench(TestModel *b) {
    gpt2_free(&b->model);
    free(b->params);
    free(b->inputs);
    free(b->targets);
    b->be->close(b->be);
}

static void backward(TestModel *b) {
    gpt2_forward_backward(&b->model, b->inputs, b->targets, b->B, b->T, 1.0f / (float)(b->B * b->T), false);
}

/* The flat buffer of gradients, gaps included; the caller frees it. */
static float *gradients(TestModel *b) {
    size_t bytes = b->model.table.length * sizeof(float);
    float *host = checked_malloc(bytes, "gradients");
    b->be->copy_to_host(b->be, host, b->model.grads, bytes);
    return host;
}

static float *gradients_of(Setup setup) {
    TestModel b = open_bench(setup);
    backward(&b);
    float *result = gradients(&b);
    close_bench(&b);
    return result;
}

static void assert_gaps_are_zero(const TensorTable *table, const float *buffer, const char *what) {
    for (int i = 0; i < table->count; i++) {
        const Tensor *t = &table->tensors[i];
        size_t next = i + 1 < table->count ? table->tensors[i + 1].offset : table->length;
        for (size_t at = t->offset + t->size; at < next; at++)
            if (buffer[at] != 0.0f) fail_msg("%s after %s: element %zu is %g", what, t->name, at, buffer[at]);
    }
}

static void assert_tensors_near(const TensorTable *table, const float *a, const float *b, double limit) {
    for (int i = 0; i < table->count; i++) {
        const Tensor *t = &table->tensors[i];
        assert_error_below(relative_error_float(a + t->offset, b + t->offset, t->size), limit, t->name);
    }
}

static void assert_same_bits(const TensorTable *table, const float *a, const float *b) {
    for (int i = 0; i < table->count; i++) {
        const Tensor *t = &table->tensors[i];
        if (memcmp(a + t->offset, b + t->offset, t->size * sizeof *a) != 0) fail_msg("%s has other bits", t->name);
    }
}

/* The mean loss of the batch in float64, at any weights. */
static double mean_loss(const TestModel *b, const double *params) {
    return reference_gpt2_losses(NULL, &b->model.config, &b->model.table, params, b->inputs, b->targets, b->B, b->T,
                                 b->dropout) /
           (b->B * b->T);
}

/* ---- losses ---- */

static void assert_losses(TestModel *b, double limit) {
    int N = b->B * b->T;
    double *expected = checked_malloc((size_t)N * sizeof *expected, "losses");
    float *losses = checked_malloc((size_t)N * sizeof *losses, "losses");
    double sum = reference_gpt2_losses(expected, &b->model.config, &b->model.table, b->params, b->inputs, b->targets,
                                       b->B, b->T, b->dropout);
    int64_t count;
    double own_sum = gpt2_take_loss(&b->model, &count);
    assert_int_equal(count, N);
    assert_error_below(fabs(own_sum - sum) / sum, limit, "the sum of the losses");
    b->be->copy_to_host(b->be, losses, b->model.lm_head.losses, (size_t)N * sizeof *losses);
    for (int n = 0; n < N; n++)
        if (!(fabs(losses[n] - expected[n]) <= limit * fmax(1.0, expected[n])))
            fail_msg("loss %d is %g, expected %g", n, losses[n], expected[n]);
    free(expected);
    free(losses);
}

/* Biases and scaling on and off, vocabularies with and without padding, one head and one layer, batches smaller and
 * shorter than the largest. */
static const Setup setups[] = {
    {GPT2_SHAPE(3, 3, 12, 8, 65, true, true), .B = 2, .T = 8, .threads = 2},
    {GPT2_SHAPE(3, 3, 12, 8, 259, false, true), .B = 2, .T = 8},
    {GPT2_SHAPE(3, 3, 12, 8, 65, true, false), .B = 2, .T = 8},
    {GPT2_SHAPE(3, 3, 12, 8, 64, false, false), .B = 2, .T = 8},
    {GPT2_SHAPE(3, 3, 12, 8, 65, true, true), .B = 3, .T = 5, .max_batch = 4},
    {GPT2_SHAPE(3, 3, 12, 8, 65, false, true), .B = 1, .T = 1, .max_batch = 2},
    {GPT2_SHAPE(1, 1, 10, 7, 3, true, true), .B = 2, .T = 7},
    {GPT2_SHAPE(2, 2, 8, 150, 20, true, true), .B = 2, .T = 150, .threads = 2},
};

static void test_losses(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(setups); i++) {
        TestModel b = open_bench(setups[i]);
        gpt2_forward(&b.model, b.inputs, b.targets, b.B, b.T);
        assert_losses(&b, 1e-5);
        backward(&b); /* finds the same losses */
        assert_losses(&b, 1e-5);
        close_bench(&b);
    }
}

/* Losses add up over calls and start again from 0 when taken. */
static void test_take_loss(void **state) {
    (void)state;
    TestModel b = open_bench(setups[0]);
    int64_t count;
    assert_true(gpt2_take_loss(&b.model, &count) == 0.0);
    assert_int_equal(count, 0);
    gpt2_forward(&b.model, b.inputs, b.targets, 2, 8);
    double whole = gpt2_take_loss(&b.model, &count);
    gpt2_forward(&b.model, b.inputs, b.targets, 1, 8);
    gpt2_forward(&b.model, b.inputs + 8, b.targets + 8, 1, 8);
    assert_error_below(fabs(gpt2_take_loss(&b.model, &count) - whole) / whole, 1e-6, "the sum of two halves");
    assert_int_equal(count, 16);
    assert_true(gpt2_take_loss(&b.model, &count) == 0.0);
    assert_int_equal(count, 0);
    close_bench(&b);
}

/* A model that only evaluates shares its activations among all blocks: the bits are the same. */
static void test_model_without_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(setups); i++)
        for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_BLOCK; recompute++) {
            Setup setup = setups[i];
            setup.recompute = (Recompute)recompute;
            TestModel training = open_bench(setup);
            setup.only_forward = true;
            TestModel other = open_bench(setup);
            assert_null(other.model.grads);
            assert_int_equal(arena_group_bytes(&other.model.arena, "gradients"), 0);
            gpt2_forward(&training.model, training.inputs, training.targets, setup.B, setup.T);
            gpt2_forward(&other.model, other.inputs, other.targets, setup.B, setup.T);
            int64_t count;
            double loss = gpt2_take_loss(&training.model, &count), other_loss = gpt2_take_loss(&other.model, &count);
            assert_memory_equal(&loss, &other_loss, sizeof loss);
            close_bench(&training);
            close_bench(&other);
        }
}

/* ---- gradients against differences of float64 losses ---- */

/* (L(x + step d) - L(x - step d)) / (2 step), with d given or, where it is NULL, coordinate `at`. */
static double difference(const TestModel *b, const double *direction, size_t at, double step) {
    double loss[2];
    size_t n = b->model.table.length;
    double *params = checked_malloc(n * sizeof *params, "weights");
    for (int side = 0; side < 2; side++) {
        double move = side ? -step : step;
        memcpy(params, b->params, n * sizeof *params);
        if (!direction) params[at] += move;
        for (size_t i = 0; direction && i < n; i++) params[i] += move * direction[i];
        loss[side] = mean_loss(b, params);
    }
    free(params);
    return (loss[0] - loss[1]) / (2.0 * step);
}

/* `count` coordinates of a tensor, spread at random with the first and the last among them; all where there are few. */
static size_t coordinate(const Tensor *tensor, int count, int i) {
    if (tensor->size <= (size_t)count) return tensor->offset + (size_t)i;
    if (i == 0) return tensor->offset;
    if (i == 1) return tensor->offset + tensor->size - 1;
    return tensor->offset + philox_below(philox(3, PHILOX_DATA_OFFSET, 0, (uint64_t)i + tensor->offset), tensor->size);
}

static void assert_coordinates(const TestModel *b, const float *grads, int tensor, int count, double limit) {
    const Tensor *t = &b->model.table.tensors[tensor];
    double own[64], expected[64];
    if ((size_t)count > t->size) count = (int)t->size;
    for (int i = 0; i < count; i++) {
        size_t at = coordinate(t, count, i);
        own[i] = grads[at];
        expected[i] = difference(b, NULL, at, 1e-4);
    }
    assert_error_below(relative_error(own, expected, (size_t)count), limit, t->name);
}

/* Along a direction with every element of the tensor (of all tensors: -1) at +1 or -1, the slope is of the size of the
 * gradient's norm, against which its error is measured. */
static void assert_direction(const TestModel *b, const float *grads, int tensor, uint32_t stream, double limit) {
    const TensorTable *table = &b->model.table;
    double *direction = checked_calloc(table->length, sizeof *direction, "a direction"), slope = 0.0, squares = 0.0;
    for (int i = 0; i < table->count; i++)
        for (size_t at = table->tensors[i].offset; at < table->tensors[i].offset + table->tensors[i].size; at++) {
            if (tensor >= 0 && tensor != i) continue;
            direction[at] = philox(5, PHILOX_DATA_OFFSET, stream, at).word[0] & 1 ? 1.0 : -1.0;
            slope += grads[at] * direction[at];
            squares += (double)grads[at] * grads[at];
        }
    double expected = difference(b, direction, 0, 1e-5);
    assert_true(squares > 0.0);
    assert_error_below(fabs(slope - expected) / sqrt(squares), limit, tensor < 0 ? "all" : table->tensors[tensor].name);
    free(direction);
}

static void test_gradient_of_every_tensor(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(setups); i++) {
        TestModel b = open_bench(setups[i]);
        bool large = b.B * b.T > 100;
        backward(&b);
        float *grads = gradients(&b);
        for (int tensor = 0; tensor < b.model.table.count; tensor++) {
            assert_coordinates(&b, grads, tensor, large ? 6 : 24, 1e-4);
            assert_direction(&b, grads, tensor, 0, 1e-4);
        }
        for (uint32_t stream = 1; stream < 5; stream++) assert_direction(&b, grads, -1, stream, 1e-4);
        free(grads);
        close_bench(&b);
    }
}

/* ---- other architectures: every key of the model section, alone and with each of the others ---- */

static void set_rope(GPT2Config *c) { c->position = POSITION_ROPE; }
static void set_rope_half(GPT2Config *c) { c->position = POSITION_ROPE_HALF, c->rope_base = 1024.0; }
static void set_rmsnorm(GPT2Config *c) { c->norm = NORM_RMSNORM, c->norm_eps = 1.2e-7; }
static void set_no_gain(GPT2Config *c) { c->norm_gain = false; }
static void set_norm_embedding(GPT2Config *c) { c->norm_embedding = true; }
static void set_qk_norm(GPT2Config *c) { c->qk_norm = true, c->qk_norm_eps = 0.0078125; }
static void set_relu2(GPT2Config *c) { c->activation = ACTIVATION_RELU2; }
static void set_untied(GPT2Config *c) { c->tie_embeddings = false; }
static void set_lm_head_bias(GPT2Config *c) { c->tie_embeddings = false, c->lm_head_bias = true; }
static void set_attention_scale(GPT2Config *c) { c->attention_scale = 0.12; }
static void set_output_scale(GPT2Config *c) { c->attention_output_scale = 0.2; }
static void set_softcap(GPT2Config *c) { c->logit_softcap = 2.0; }
static void set_no_bias(GPT2Config *c) { c->bias = false; }

static const struct Change {
    const char *name;
    void (*apply)(GPT2Config *config);
} changes[] = {{"rope", set_rope},
               {"rope-half", set_rope_half},
               {"rmsnorm", set_rmsnorm},
               {"norm_gain false", set_no_gain},
               {"norm_embedding", set_norm_embedding},
               {"qk_norm", set_qk_norm},
               {"relu2", set_relu2},
               {"tie_embeddings false", set_untied},
               {"lm_head_bias", set_lm_head_bias},
               {"attention_scale", set_attention_scale},
               {"attention_output_scale", set_output_scale},
               {"logit_softcap", set_softcap},
               {"bias false", set_no_bias}};

/* Two blocks of two heads of 8 numbers, with two changes. */
static void check_changes(const struct Change *first, const struct Change *second, Recompute recompute) {
    Setup setup = {GPT2_SHAPE(2, 2, 16, 8, 65, true, true), .B = 2, .T = 7, .recompute = recompute};
    first->apply(&setup.config);
    second->apply(&setup.config);
    TestModel b = open_bench(setup);
    memset(b.model.grads, 0xff, b.model.table.length * sizeof *b.model.grads); /* all must be overwritten */
    backward(&b);
    assert_losses(&b, 1e-5);
    float *grads = gradients(&b);
    for (int tensor = 0; tensor < b.model.table.count; tensor++) assert_direction(&b, grads, tensor, 0, 1e-4);
    gpt2_forward_backward(&b.model, b.inputs, b.targets, b.B, b.T, 1.0f / (float)(b.B * b.T), true);
    float *twice = gradients(&b);
    for (int i = 0; i < b.model.table.count; i++) {
        const Tensor *t = &b.model.table.tensors[i];
        for (size_t at = t->offset; at < t->offset + t->size; at++) twice[at] *= 0.5f;
        assert_error_below(relative_error_float(twice + t->offset, grads + t->offset, t->size), 1e-6, t->name);
    }
    free(grads);
    free(twice);
    close_bench(&b);
}

static void test_pairs_of_changes(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(changes); i++)
        for (size_t k = i; k < ARRAY_LENGTH(changes); k++) {
            if (only_small_sizes() && k != i && (i + k) % 11 != 0)
                continue; /* all pairs in the build without sanitizers */
            print_message("%s + %s, ", changes[i].name, changes[k].name); /* which one fails */
            check_changes(&changes[i], &changes[k], (Recompute)((i + k) % 3));
        }
    print_message("\n");
}

/* Recomputation and shared activations change no bit; bfloat16 rounds. */
static void test_changes_make_no_difference(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(changes); i++)
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
            Setup setup = {GPT2_SHAPE(2, 2, 16, 8, 65, true, true), .B = 2, .T = 8, .activation = (DType)type};
            changes[i].apply(&setup.config);
            TestModel b = open_bench(setup);
            float *kept = gradients_of(setup);
            for (int recompute = RECOMPUTE_MLP; recompute <= RECOMPUTE_BLOCK; recompute++) {
                setup.recompute = (Recompute)recompute;
                float *grads = gradients_of(setup);
                assert_same_bits(&b.model.table, grads, kept);
                free(grads);
            }
            setup.recompute = RECOMPUTE_NONE, setup.only_forward = true;
            TestModel other = open_bench(setup);
            gpt2_forward(&other.model, other.inputs, other.targets, setup.B, setup.T);
            assert_losses(&other, type == DTYPE_FLOAT32 ? 1e-5 : 0.03);
            assert_gaps_are_zero(&b.model.table, kept, changes[i].name);
            free(kept);
            close_bench(&b);
            close_bench(&other);
        }
}

/* dloss multiplies the gradient, nothing else. */
static void test_dloss(void **state) {
    (void)state;
    TestModel b = open_bench(setups[0]);
    backward(&b);
    float *once = gradients(&b);
    gpt2_forward_backward(&b.model, b.inputs, b.targets, b.B, b.T, 4.0f / (float)(b.B * b.T), false);
    float *four_times = gradients(&b);
    for (size_t i = 0; i < b.model.table.length; i++) assert_true(four_times[i] == 4.0f * once[i]);
    free(once);
    free(four_times);
    close_bench(&b);
}

/* ---- the padded vocabulary ---- */

static void test_vocabulary_of_gpt2(void **state) {
    (void)state;
    Setup setup = {GPT2_SHAPE(1, 1, 8, 4, 50257, false, true), .B = 2, .T = 4};
    TestModel b = open_bench(setup);
    assert_int_equal(b.model.lm_head.linear.out, 50304);
    backward(&b);
    assert_losses(&b, 1e-5);
    float *grads = gradients(&b);
    assert_gaps_are_zero(&b.model.table, grads, "gradients");
    assert_gaps_are_zero(&b.model.table, b.model.params, "weights");
    assert_direction(&b, grads, b.model.embedding.wte, 0, 1e-4);
    assert_direction(&b, grads, -1, 1, 1e-4);
    assert_coordinates(&b, grads, b.model.embedding.wte, 16, 1e-4);
    free(grads);
    close_bench(&b);
}

static void test_gaps_stay_zero(void **state) {
    (void)state;
    const int sizes[] = {1, 63, 64, 65, 259};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++)
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
            Setup setup = {shape(sizes[i], true, true), .B = 2, .T = 8, .activation = (DType)type};
            TestModel b = open_bench(setup);
            int padded = b.model.lm_head.linear.out;
            assert_int_equal(padded % 64, 0);
            assert_true(padded >= sizes[i] && padded < sizes[i] + 64);
            backward(&b);
            gpt2_forward_backward(&b.model, b.inputs, b.targets, b.B, b.T, 1.0f, true);
            float *grads = gradients(&b);
            assert_gaps_are_zero(&b.model.table, grads, "gradients");
            free(grads);
            close_bench(&b);
        }
}

/* ---- what must make no difference ---- */

/* Two micro-batches, the second accumulated, against one batch; and what was there before does not matter. */
static void test_accumulate(void **state) {
    (void)state;
    Setup setup = {shape(65, true, true), .B = 4, .T = 8};
    TestModel b = open_bench(setup);
    backward(&b);
    float *whole = gradients(&b);
    for (int half = 0; half < 2; half++)
        gpt2_forward_backward(&b.model, b.inputs + half * 16, b.targets + half * 16, 2, 8, 1.0f / 32.0f, half > 0);
    float *halves = gradients(&b);
    assert_tensors_near(&b.model.table, halves, whole, 2e-6);
    backward(&b);
    float *again = gradients(&b);
    assert_same_bits(&b.model.table, again, whole);
    free(whole);
    free(halves);
    free(again);
    close_bench(&b);
}

/* Positions that a short batch does not reach have no gradient. */
static void test_short_batch(void **state) {
    (void)state;
    Setup setup = {shape(65, true, true), .B = 2, .T = 5};
    TestModel b = open_bench(setup);
    float *dwpe = b.model.grads + b.model.table.tensors[b.model.embedding.wpe].offset;
    for (int i = 0; i < 8 * 12; i++) dwpe[i] = 1.0f; /* as a longer batch before this one would leave it */
    backward(&b);
    for (int i = 0; i < 8 * 12; i++) assert_true((dwpe[i] != 0.0f) == (i < 5 * 12));
    close_bench(&b);
}

static void test_recompute(void **state) {
    (void)state;
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
        Setup setup = {shape(65, true, true), .B = 2, .T = 8, .activation = (DType)type};
        TestModel b = open_bench(setup);
        float *all_kept = gradients_of(setup);
        size_t bytes = arena_group_bytes(&b.model.arena, "activations");
        for (int recompute = RECOMPUTE_MLP; recompute <= RECOMPUTE_BLOCK; recompute++) {
            setup.recompute = (Recompute)recompute;
            float *grads = gradients_of(setup);
            assert_same_bits(&b.model.table, grads, all_kept);
            free(grads);
            TestModel smaller = open_bench(setup);
            assert_true(arena_group_bytes(&smaller.model.arena, "activations") < bytes);
            bytes = arena_group_bytes(&smaller.model.arena, "activations");
            close_bench(&smaller);
        }
        free(all_kept);
        close_bench(&b);
    }
}

/* The head works on groups of 1024 rows: less than one, one, one and a single row, two, and some of a third. */
static void test_groups_of_rows(void **state) {
    (void)state;
    const int batches[][2] = {{16, 64}, {25, 41}, {32, 64}, {33, 64}};
    for (size_t i = 0; i < ARRAY_LENGTH(batches); i++) {
        int B = batches[i][0], T = batches[i][1];
        Setup setup = {GPT2_SHAPE(1, 2, 8, T, 65, true, true), .B = B, .T = T, .max_batch = B + 1, .threads = 2};
        TestModel b = open_bench(setup);
        assert_int_equal(b.model.lm_head.rows, 1024);
        backward(&b);
        assert_losses(&b, 1e-5);
        float *grads = gradients(&b);
        for (int tensor = 0; tensor < b.model.table.count; tensor++) assert_direction(&b, grads, tensor, 0, 1e-4);
        for (int half = 0; half < 2; half++) /* accumulating groups too */
            gpt2_forward_backward(&b.model, b.inputs, b.targets, B, T, 0.5f / (float)(B * T), half > 0);
        float *halves = gradients(&b);
        assert_tensors_near(&b.model.table, halves, grads, 1e-5);
        free(grads);
        free(halves);
        close_bench(&b);
    }
}

/* The largest batch a model was made for decides about memory, not about results. */
static void test_room_for_more(void **state) {
    (void)state;
    Setup setup = {shape(259, true, true), .B = 2, .T = 8};
    TestModel b = open_bench(setup);
    float *snug = gradients_of(setup);
    setup.max_batch = 200; /* 1600 rows: the head's groups are as large as they get */
    float *roomy = gradients_of(setup);
    assert_tensors_near(&b.model.table, roomy, snug, 1e-6);
    free(snug);
    free(roomy);
    close_bench(&b);
}

/* The same threads give the same bits, other numbers of threads the same gradient within rounding. */
static void test_threads(void **state) {
    (void)state;
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
        Setup setup = {GPT2_SHAPE(2, 2, 64, 32, 259, true, true), .B = 4, .T = 32, .activation = (DType)type,
                       .threads = 1};
        TestModel b = open_bench(setup);
        float *one = gradients_of(setup);
        for (int threads = 1; threads <= 3; threads++) {
            setup.threads = threads;
            float *first = gradients_of(setup), *second = gradients_of(setup);
            assert_same_bits(&b.model.table, first, second);
            assert_tensors_near(&b.model.table, first, one, type == DTYPE_FLOAT32 ? 1e-5 : 1e-2);
            free(first);
            free(second);
        }
        free(one);
        close_bench(&b);
    }
}

/* ---- dropout ---- */

static const Dropout of_run = {.rate = 0.3f, .seed = 31, .first_sequence = 100};

static Setup dropout_setup(DType activation) {
    Setup setup = {GPT2_SHAPE(2, 2, 16, 8, 65, true, true), .B = 4, .T = 7, .activation = activation};
    setup.config.dropout = 0.3;
    return setup;
}

/* A micro-step over sequences [first, first + B) of the batch. */
static void dropped_pass(TestModel *b, Dropout dropout, int first, int B, bool accumulate) {
    gpt2_prefetch(&b->model, b->inputs + first * b->T, b->targets + first * b->T, B, b->T);
    gpt2_pass(&b->model, &(GPT2Pass){.grads = b->model.grads,
                                     .accumulate = accumulate,
                                     .dloss = 1.0f / (float)(b->B * b->T),
                                     .seed = dropout.seed,
                                     .first_sequence = dropout.first_sequence + first});
}

/* The gradients of the whole batch, `at_once` sequences at a time; the caller frees them. */
static float *dropped_gradients(Setup setup, Dropout dropout, int at_once) {
    TestModel b = open_bench(setup);
    for (int first = 0; first < b.B; first += at_once) dropped_pass(&b, dropout, first, at_once, first > 0);
    float *result = gradients(&b);
    close_bench(&b);
    return result;
}

/* Losses and gradients against float64 losses with the same masks. */
static void check_dropout(void (*change)(GPT2Config *config)) {
    Setup setup = dropout_setup(DTYPE_FLOAT32);
    if (change) change(&setup.config);
    TestModel b = open_bench(setup);
    b.dropout = &of_run;
    dropped_pass(&b, of_run, 0, b.B, false);
    assert_losses(&b, 1e-5);
    float *grads = gradients(&b);
    for (int tensor = 0; tensor < b.model.table.count; tensor++) {
        assert_coordinates(&b, grads, tensor, 12, 1e-4);
        assert_direction(&b, grads, tensor, 0, 1e-4);
    }
    free(grads);
    close_bench(&b);
}

static void test_dropout(void **state) {
    (void)state;
    check_dropout(NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(changes); i++) check_dropout(changes[i].apply);
}

/* Masks are those of the sequences, whatever the micro-batch, and are found again where activations are not kept. */
static void test_dropout_is_of_the_sequence(void **state) {
    (void)state;
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
        Setup setup = dropout_setup((DType)type);
        TestModel b = open_bench(setup);
        float *whole = dropped_gradients(setup, of_run, 4), *again = dropped_gradients(setup, of_run, 4);
        assert_same_bits(&b.model.table, again, whole);
        for (int at_once = 1; at_once <= 2; at_once++) {
            float *parts = dropped_gradients(setup, of_run, at_once);
            assert_tensors_near(&b.model.table, parts, whole, type == DTYPE_FLOAT32 ? 5e-6 : 1e-2);
            free(parts);
        }
        for (int recompute = RECOMPUTE_MLP; recompute <= RECOMPUTE_BLOCK; recompute++) {
            setup.recompute = (Recompute)recompute;
            float *grads = dropped_gradients(setup, of_run, 4);
            assert_same_bits(&b.model.table, grads, whole);
            free(grads);
        }
        free(whole);
        free(again);
        close_bench(&b);
    }
}

/* Other seeds and sequences have other masks, and no dropout is none of them. */
static void test_dropout_masks_differ(void **state) {
    (void)state;
    Setup setup = dropout_setup(DTYPE_FLOAT32);
    TestModel b = open_bench(setup);
    Dropout other_seed = of_run, other_sequence = of_run;
    other_seed.seed++;
    other_sequence.first_sequence++;
    float *grads[] = {dropped_gradients(setup, of_run, 4), dropped_gradients(setup, other_seed, 4),
                      dropped_gradients(setup, other_sequence, 4), NULL};
    setup.config.dropout = 0.0;
    grads[3] = dropped_gradients(setup, of_run, 4);
    for (size_t i = 0; i < ARRAY_LENGTH(grads); i++)
        for (size_t k = i + 1; k < ARRAY_LENGTH(grads); k++) {
            double difference = relative_error_float(grads[i], grads[k], b.model.table.length);
            if (!(difference > 0.1)) fail_msg("gradients %zu and %zu differ by %g", i, k, difference);
        }
    for (size_t i = 0; i < ARRAY_LENGTH(grads); i++) free(grads[i]);
    close_bench(&b);
}

/* Sequences 0 and 1 of a batch are the same tokens with other masks. */
static void test_dropout_of_equal_sequences(void **state) {
    (void)state;
    TestModel b = open_bench(dropout_setup(DTYPE_FLOAT32));
    float losses[2 * 7];
    for (int t = 0; t < 7; t++) b.inputs[7 + t] = b.inputs[t], b.targets[7 + t] = b.targets[t];
    dropped_pass(&b, of_run, 0, 2, false);
    b.be->copy_to_host(b.be, losses, b.model.lm_head.losses, sizeof losses);
    for (int t = 0; t < 7; t++) assert_true(losses[t] != losses[7 + t]);
    close_bench(&b);
}

/* Evaluation has no dropout: the bits of a model without. */
static void test_evaluation_without_dropout(void **state) {
    (void)state;
    for (int only_forward = 0; only_forward < 2; only_forward++) {
        Setup setup = dropout_setup(DTYPE_FLOAT32);
        setup.only_forward = only_forward == 1;
        TestModel b = open_bench(setup);
        setup.config.dropout = 0.0;
        TestModel without = open_bench(setup);
        gpt2_forward(&b.model, b.inputs, b.targets, b.B, b.T);
        gpt2_forward(&without.model, b.inputs, b.targets, b.B, b.T);
        int64_t count;
        double loss = gpt2_take_loss(&b.model, &count), expected = gpt2_take_loss(&without.model, &count);
        assert_memory_equal(&loss, &expected, sizeof loss);
        close_bench(&b);
        close_bench(&without);
    }
}

/* ---- bfloat16 ---- */

/* Every activation on the way is rounded by up to 2^-9 of its size; the error grows towards the first block. */
static void test_bfloat16(void **state) {
    (void)state;
    Setup setup = {GPT2_SHAPE(2, 2, 64, 32, 259, true, true), .B = 4, .T = 32};
    TestModel exact = open_bench(setup);
    setup.activation = DTYPE_BFLOAT16;
    TestModel rounded = open_bench(setup);
    assert_true(rounded.model.weights != (void *)rounded.model.params);
    backward(&exact);
    backward(&rounded);
    assert_losses(&rounded, 0.03);
    float *expected = gradients(&exact), *grads = gradients(&rounded);
    assert_tensors_near(&exact.model.table, grads, expected, 0.03);
    free(expected);
    free(grads);
    close_bench(&exact);
    close_bench(&rounded);
}

/* ---- what is refused ---- */

static void forward_too_many(void *context) {
    TestModel *b = context;
    gpt2_forward(&b->model, b->inputs, b->targets, 3, 4);
}

static void forward_too_long(void *context) {
    TestModel *b = context;
    gpt2_forward(&b->model, b->inputs, b->targets, 1, 9);
}

static void test_batch_that_does_not_fit(void **state) {
    (void)state;
    TestModel b = open_bench(setups[0]);
    assert_dies(forward_too_many, &b, "3 x 4 tokens does not fit a model made for 2 x 8");
    assert_dies(forward_too_long, &b, "1 x 9 tokens does not fit a model made for 2 x 8");
    close_bench(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_take_loss),
        cmocka_unit_test(test_model_without_gradients),
        cmocka_unit_test(test_gradient_of_every_tensor),
        cmocka_unit_test(test_pairs_of_changes),
        cmocka_unit_test(test_changes_make_no_difference),
        cmocka_unit_test(test_dloss),
        cmocka_unit_test(test_vocabulary_of_gpt2),
        cmocka_unit_test(test_gaps_stay_zero),
        cmocka_unit_test(test_accumulate),
        cmocka_unit_test(test_short_batch),
        cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_groups_of_rows),
        cmocka_unit_test(test_room_for_more),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_dropout_is_of_the_sequence),
        cmocka_unit_test(test_dropout_masks_differ),
        cmocka_unit_test(test_dropout_of_equal_sequences),
        cmocka_unit_test(test_evaluation_without_dropout),
        cmocka_unit_test(test_bfloat16),
        cmocka_unit_test(test_batch_that_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
