/* test_gpt2_weights.c: which tensors a model has, its initial weights, and weights that come from a file. What is
 * computed with them is tested in test_gpt2.c. */
#include "dev/test/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_gpt2.h"
#include "dev/test/model/reference_gpt2.h"
#include "util/philox.h"

static GPT2Config shape(int V, bool bias) { return (GPT2Config)GPT2_SHAPE(3, 4, 64, 48, V, bias, false); }

static GPT2 create(const GPT2Config *config, Backend *be) {
    GPT2 model;
    gpt2_create(&model, config, be, 1, RECOMPUTE_NONE, true);
    return model;
}

static const Tensor *tensor_of(const GPT2 *model, const char *name) {
    int index = tensor_table_find(&model->table, name);
    if (index < 0) fail_msg("there is no tensor %s", name);
    return &model->table.tensors[index];
}

/* ---- the table ---- */

static void assert_tensor(const GPT2 *model, const char *name, TensorRole role, int64_t rows, int64_t columns) {
    const Tensor *t = tensor_of(model, name);
    assert_int_equal(t->role, role);
    assert_int_equal(t->rows, rows);
    assert_int_equal(t->columns, columns);
    assert_int_equal(t->size, rows * columns);
}

static void test_tensors(void **state) {
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        GPT2Config config = shape(65, bias);
        GPT2 model;
        gpt2_describe(&model, &config);
        assert_tensor(&model, "wte.weight", ROLE_EMBEDDING, 65, 64);
        assert_tensor(&model, "wpe.weight", ROLE_EMBEDDING, 48, 64);
        assert_tensor(&model, "h.0.ln_1.weight", ROLE_VECTOR, 1, 64);
        assert_tensor(&model, "h.1.attn.c_attn.weight", ROLE_MATRIX, 192, 64);
        assert_tensor(&model, "h.2.attn.c_proj.weight", ROLE_MATRIX, 64, 64);
        assert_tensor(&model, "h.2.ln_2.weight", ROLE_VECTOR, 1, 64);
        assert_tensor(&model, "h.0.mlp.c_fc.weight", ROLE_MATRIX, 256, 64);
        assert_tensor(&model, "h.0.mlp.c_proj.weight", ROLE_MATRIX, 64, 256);
        assert_tensor(&model, "ln_f.weight", ROLE_VECTOR, 1, 64);
        assert_int_equal(model.table.count, 2 + 3 * (bias ? 12 : 6) + (bias ? 2 : 1));
        assert_int_equal(tensor_table_find(&model.table, "h.2.mlp.c_fc.bias") >= 0, bias);
        assert_int_equal(tensor_table_find(&model.table, "ln_f.bias") >= 0, bias);
        assert_int_equal(tensor_table_find(&model.table, "h.3.ln_1.weight"), -1);
        if (bias) assert_tensor(&model, "h.1.attn.c_attn.bias", ROLE_VECTOR, 1, 192);
        gpt2_free(&model);
    }
}

/* Offsets rise, are aligned, and leave the rows that pad the vocabulary free. */
static void test_offsets(void **state) {
    (void)state;
    GPT2Config config = shape(65, true);
    GPT2 model;
    gpt2_describe(&model, &config);
    size_t end = 0, parameters = 0;
    for (int i = 0; i < model.table.count; i++) {
        const Tensor *t = &model.table.tensors[i];
        assert_true(t->offset >= end);
        assert_int_equal(t->offset % TENSOR_ALIGNMENT, 0);
        end = t->offset + t->size;
        parameters += t->size;
    }
    assert_true(model.table.length >= end);
    assert_int_equal(model.table.parameters, parameters);
    assert_int_equal(tensor_of(&model, "wpe.weight")->offset, 128 * 64);
    gpt2_free(&model);
}

/* The parameters of GPT-2 small as published, and 6 N + 12 L C T. */
static void test_size_of_gpt2(void **state) {
    (void)state;
    GPT2Config config = GPT2_SHAPE(12, 12, 768, 1024, 50257, true, true);
    GPT2 model;
    gpt2_describe(&model, &config);
    assert_int_equal(model.table.parameters, 124439808);
    assert_true(gpt2_flops_per_token(&model) == 6.0 * 124439808 + 12.0 * 12 * 768 * 1024);
    assert_true(gpt2_flops_per_token(&model) == 859885056.0);
    gpt2_free(&model);
}

static void test_attention_scale(void **state) {
    (void)state;
    const struct {
        bool is_scaled;
        double given;
        float first, fourth;
    } cases[] = {
        {false, 0.0, 0.25f, 0.25f}, {true, 0.0, 0.25f, 0.0625f}, {false, 0.5, 0.5f, 0.5f}, {true, 0.5, 0.5f, 0.125f}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        GPT2Config config = GPT2_SHAPE(4, 3, 48, 8, 64, false, cases[i].is_scaled);
        config.attention_scale = cases[i].given;
        GPT2 model;
        gpt2_describe(&model, &config);
        assert_true(model.blocks[0].attention.scale == cases[i].first);
        assert_true(model.blocks[3].attention.scale == cases[i].fourth);
        gpt2_free(&model);
    }
}

/* ---- initial weights ---- */

/* The published test vectors of Philox4x32-10, which every random number of the project comes from. */
static void test_philox(void **state) {
    (void)state;
    const struct {
        uint64_t seed, index;
        uint32_t stream, purpose, word[4];
    } known[] = {
        {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x85a308d3243f6a88,
         0x13198a2e,
         0x03707344,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++) {
        Philox4 random = philox(known[i].seed, (PhiloxPurpose)known[i].purpose, known[i].stream, known[i].index);
        assert_memory_equal(random.word, known[i].word, sizeof random.word);
    }
}

/* Mean, deviation and the share within one deviation, each within five of its own standard errors. */
static void assert_normal(const float *x, size_t n, double deviation, const char *name) {
    double sum = 0.0, squares = 0.0, inside = 0.0, root = sqrt((double)n);
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
        inside += fabs((double)x[i]) < deviation;
        if (!(fabs((double)x[i]) < 7.0 * deviation)) fail_msg("%s: element %zu is %g", name, i, x[i]);
    }
    if (!(fabs(sum / (double)n) < 5.0 * deviation / root)) fail_msg("%s: mean %g", name, sum / (double)n);
    if (!(fabs(sqrt(squares / (double)n) / deviation - 1.0) < 5.0 / sqrt(2.0) / root))
        fail_msg("%s: deviation %g, expected %g", name, sqrt(squares / (double)n), deviation);
    if (!(fabs(inside / (double)n - 0.682689) < 5.0 * 0.4655 / root)) fail_msg("%s: %g inside", name, inside);
}

static bool is_residual_projection(const char *name) { return strstr(name, "c_proj.weight") != NULL; }

static void test_initial_weights(void **state) {
    (void)state;
    Backend *be = open_cpu(DTYPE_FLOAT32, 1);
    GPT2Config config = shape(65, true);
    GPT2 model = create(&config, be);
    gpt2_init_weights(&model, 5000);
    for (int i = 0; i < model.table.count; i++) {
        const Tensor *t = &model.table.tensors[i];
        const float *x = model.params + t->offset;
        double deviation = is_residual_projection(t->name) ? 0.02 / sqrt(6.0) : 0.02;
        if (t->role != ROLE_VECTOR) assert_normal(x, t->size, deviation, t->name);
        for (size_t j = 0; t->role == ROLE_VECTOR && j < t->size; j++)
            assert_true(x[j] == (strstr(t->name, ".weight") ? 1.0f : 0.0f));
    }
    for (size_t i = 65 * 64; i < 128 * 64; i++) assert_true(model.params[i] == 0.0f); /* rows after the vocabulary */
    gpt2_free(&model);
    be->close(be);
}

/* No two tensors, and no two seeds, have the same numbers or numbers that go together. */
static void test_tensors_are_independent(void **state) {
    (void)state;
    Backend *be = open_cpu(DTYPE_FLOAT32, 1);
    GPT2Config config = shape(64, false);
    GPT2 models[2] = {create(&config, be), create(&config, be)};
    gpt2_init_weights(&models[0], 1);
    gpt2_init_weights(&models[1], 2);
    const TensorTable *table = &models[0].table;
    enum { COUNT = 48 * 64 }; /* as many as the smallest has */
    for (int i = 0; i < 2 * table->count; i++)
        for (int j = i + 1; j < 2 * table->count; j++) {
            const Tensor *a = &table->tensors[i % table->count], *b = &table->tensors[j % table->count];
            if (a->role == ROLE_VECTOR || b->role == ROLE_VECTOR) continue;
            const float *x = models[i / table->count].params + a->offset,
                        *y = models[j / table->count].params + b->offset;
            double xy = 0.0, xx = 0.0, yy = 0.0;
            for (int k = 0; k < COUNT; k++) xy += x[k] * y[k], xx += x[k] * x[k], yy += y[k] * y[k];
            if (!(fabs(xy) < 5.0 / sqrt(COUNT) * sqrt(xx * yy))) fail_msg("%s and %s go together", a->name, b->name);
        }
    gpt2_free(&models[0]);
    gpt2_free(&models[1]);
    be->close(be);
}

/* The same seed gives the same matrices whatever the biases, the activation type and the threads. */
static void test_initial_weights_depend_on_the_seed_alone(void **state) {
    (void)state;
    Backend *be = open_cpu(DTYPE_FLOAT32, 1), *other_be = open_cpu(DTYPE_BFLOAT16, 3);
    GPT2Config config = shape(65, false), other_config = shape(65, true);
    GPT2 model = create(&config, be), other = create(&other_config, other_be);
    gpt2_init_weights(&model, 123456789012345);
    gpt2_init_weights(&other, 123456789012345);
    for (int i = 0; i < model.table.count; i++) {
        const Tensor *t = &model.table.tensors[i], *u = tensor_of(&other, t->name);
        assert_memory_equal(model.params + t->offset, other.params + u->offset, t->size * sizeof(float));
    }
    const bfloat16 *copy = other.weights;
    for (size_t i = 0; i < other.table.length; i++)
        assert_int_equal(copy[i].bits, bfloat16_from_float(other.params[i]).bits);
    gpt2_free(&model);
    gpt2_free(&other);
    be->close(be);
    other_be->close(other_be);
}

static int changes;
static void count_change(Backend *be) { (void)be, changes++; }

/* Weights may be set again: whatever was derived from the old ones is forgotten. */
static void test_weights_replace_older_ones(void **state) {
    (void)state;
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
        Backend *be = open_cpu((DType)type, 2);
        GPT2Config config = shape(65, true);
        GPT2 model = create(&config, be);
        int32_t *tokens = random_tokens(49, 65, 0);
        int64_t count;
        double loss[3];
        void (*forget)(Backend * be) = be->invalidate_weights;
        for (int i = 0; i < 3; i++) {
            be->invalidate_weights = count_change;
            changes = 0;
            gpt2_init_weights(&model, (uint64_t)i % 2);
            assert_int_equal(changes, 1);
            be->invalidate_weights = forget;
            forget(be);
            gpt2_forward(&model, tokens, tokens + 1, 1, 48);
            loss[i] = gpt2_take_loss(&model, &count);
        }
        assert_true(loss[0] != loss[1]);
        assert_true(loss[0] == loss[2]);
        free(tokens);
        gpt2_free(&model);
        be->close(be);
    }
}

/* ---- weights from a file ---- */

/* Loads a file into a model of two layers like that of dev/golden. */
static bool load(GPT2 *model, Backend *be, const char *path, int layers, bool bias, Error *error) {
    GPT2Config config = GPT2_SHAPE(layers, 2, 128, 64, 256, bias, !bias);
    SafetensorsFile file;
    gpt2_create(model, &config, be, 4, RECOMPUTE_NONE, false);
    if (!safetensors_open(&file, path, error)) fail_msg("%s", error->text);
    bool ok = checkpoint_load_gpt2(model, &file, error);
    safetensors_close(&file);
    return ok;
}

/* Losses that PyTorch found for the same weights and text. */
static void assert_validation_loss(const char *name, bool bias, double expected) {
    enum { HEADER = 1024, T = 64, WINDOWS = 16, B = 4 };
    Backend *be = open_cpu(DTYPE_FLOAT32, 2);
    GPT2 model;
    Error error;
    char *weights = format_string("dev/golden/%s_init.safetensors", name);
    char *data = format_string("dev/golden/%s_val.bin", name);
    if (!load(&model, be, weights, 2, bias, &error)) fail_msg("%s", error.text);
    size_t bytes;
    char *file = test_read_file(data, &bytes);
    assert_true(bytes >= HEADER + 2 * (WINDOWS * T + 1));
    int32_t tokens[WINDOWS * T + 1];
    for (int i = 0; i <= WINDOWS * T; i++) {
        uint16_t token;
        memcpy(&token, file + HEADER + 2 * i, sizeof token);
        tokens[i] = token;
    }
    for (int i = 0; i < WINDOWS; i += B) gpt2_forward(&model, tokens + i * T, tokens + i * T + 1, B, T);
    int64_t count;
    double loss = gpt2_take_loss(&model, &count) / (WINDOWS * T);
    assert_int_equal(count, WINDOWS * T);
    assert_error_below(fabs(loss - expected) / expected, 2e-6, name);
    free(file);
    free(weights);
    free(data);
    gpt2_free(&model);
    be->close(be);
}

static void test_golden_losses(void **state) {
    (void)state;
    assert_validation_loss("tiny", false, 5.541881650686264);
    assert_validation_loss("tiny_bias", true, 5.614642709493637);
}

static void test_load_refuses(void **state) {
    (void)state;
    Backend *be = open_cpu(DTYPE_FLOAT32, 1);
    GPT2 model;
    Error error;
    assert_false(load(&model, be, "dev/golden/tiny_init.safetensors", 3, false, &error));
    assert_non_null(strstr(error.text, "h.2."));
    gpt2_free(&model);
    assert_false(load(&model, be, "dev/golden/tiny_init.safetensors", 1, false, &error));
    assert_non_null(strstr(error.text, "h.1."));
    for (size_t i = 0; i < model.table.length; i++) assert_true(model.params[i] == 0.0f);
    gpt2_free(&model);
    be->close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_size_of_gpt2),
        cmocka_unit_test(test_attention_scale),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_initial_weights),
        cmocka_unit_test(test_tensors_are_independent),
        cmocka_unit_test(test_initial_weights_depend_on_the_seed_alone),
        cmocka_unit_test(test_weights_replace_older_ones),
        cmocka_unit_test(test_golden_losses),
        cmocka_unit_test(test_load_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
