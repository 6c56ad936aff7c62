/* test_checkpoint_weights.c: weights from elsewhere: which files fit a model, which must be refused because something
 * in them would silently be left out, and what config.json says about the model. */
#include "dev/test/small_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Writes a file with the weights of a table as Hugging Face lays them out, `prefix` before every name. `skip` (or NULL)
 * is left out. Behind them comes a tensor `extra` (or NULL) of `length` numbers `value`; -1 stands for the token
 * embedding's numbers. */
static const char *write_weights(const TensorTable *table, const char *prefix, const char *skip, const char *extra,
                                 int64_t length, float value) {
    const char *path = test_path("weights.safetensors");
    SafetensorsEntry entries[64];
    int count = 0;
    for (int i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        if (skip && strcmp(tensor->name, skip) == 0) continue;
        bool matrix = tensor->role == ROLE_MATRIX, vector = tensor->role == ROLE_VECTOR;
        entries[count++] = (SafetensorsEntry){
            .name = format_string("%s%s", prefix, tensor->name),
            .dimensions = vector ? 1 : 2,
            .shape = {matrix || vector ? tensor->columns : tensor->rows, matrix   ? tensor->rows
                                                                         : vector ? 0
                                                                                  : tensor->columns}};
    }
    if (extra)
        entries[count++] = (SafetensorsEntry){.name = format_string("%s", extra), .dimensions = 1, .shape = {length}};
    SafetensorsWriter *writer;
    Error error;
    if (!safetensors_create(&writer, path, entries, count, NULL, &error)) fail_msg("%s", error.text);
    for (int i = 0; i < count; i++) free(entries[i].name);
    for (int i = 0; i < table->count; i++)
        for (size_t j = 0; j < table->tensors[i].size; j++) {
            float number = (float)(1000 * i + (int)j);
            if (skip && strcmp(table->tensors[i].name, skip) == 0) break;
            if (!safetensors_write(writer, &number, 1, &error)) fail_msg("%s", error.text);
        }
    for (int64_t j = 0; extra && j < length; j++) {
        float number = value < 0 ? (float)j : value;
        if (!safetensors_write(writer, &number, 1, &error)) fail_msg("%s", error.text);
    }
    if (!safetensors_finish(writer, NULL, NULL, &error)) fail_msg("%s", error.text);
    return path;
}

/* Whether the file fits the table must be as `text` says: NULL yes, else part of the message. */
static void assert_check(const char *path, const TensorTable *table, const char *text) {
    SafetensorsFile file;
    Error error = {""};
    if (!checkpoint_open_weights(&file, path, &error)) fail_msg("%s", error.text);
    bool fits = checkpoint_check_weights(&file, table, &error);
    if (fits != !text || (text && !strstr(error.text, text)))
        fail_msg("expected '%s': %s", text ? text : "", error.text);
    if (!fits && !strstr(error.text, path)) fail_msg("the message does not name the file: %s", error.text);
    safetensors_close(&file);
}

static void test_prefix_and_transposition(void **state) {
    (void)state;
    TensorTable table = small_table(LAYERS, C, V, T, false);
    static const char *const prefixes[] = {"", "transformer."};
    for (int p = 0; p < 2; p++) {
        const char *path = write_weights(&table, prefixes[p], NULL, NULL, 0, 0);
        assert_check(path, &table, NULL);
        SafetensorsFile file;
        assert_true(safetensors_open(&file, path, NULL));
        for (int i = 0; i < table.count; i++) {
            float values[4 * C * C > V * C ? 4 * C * C : V * C];
            const Tensor *tensor = &table.tensors[i];
            assert_true(checkpoint_read_weights(&file, &table, i, values, NULL));
            for (int64_t row = 0; row < tensor->rows; row++)
                for (int64_t column = 0; column < tensor->columns; column++) {
                    int64_t place =
                        tensor->role == ROLE_MATRIX ? column * tensor->rows + row : row * tensor->columns + column;
                    assert_true(values[row * tensor->columns + column] == (float)(1000 * i + place));
                }
        }
        safetensors_close(&file);
    }
    tensor_table_free(&table);
}

/* Sizes around the block size of the transposition. */
static void test_large_transposition(void **state) {
    (void)state;
    TensorTable table = small_table(1, 33, 2, 2, false);
    const char *path = write_weights(&table, "", NULL, NULL, 0, 0);
    SafetensorsFile file;
    assert_true(safetensors_open(&file, path, NULL));
    static float values[4 * 33 * 33];
    int tensor = tensor_table_find(&table, "h.0.mlp.c_proj.weight");
    assert_true(checkpoint_read_weights(&file, &table, tensor, values, NULL));
    for (int row = 0; row < 33; row++)
        for (int column = 0; column < 132; column++)
            assert_true(values[row * 132 + column] == (float)(1000 * tensor + column * 33 + row));
    safetensors_close(&file);
    tensor_table_free(&table);
}

static void test_what_does_not_fit(void **state) {
    (void)state;
    TensorTable table = small_table(LAYERS, C, V, T, false), with_bias = small_table(LAYERS, C, V, T, true);
    TensorTable longer = small_table(LAYERS + 1, C, V, T, false), other = small_table(LAYERS, C + 2, V + 1, T, false);
    const char *path = write_weights(&table, "", "h.1.ln_2.weight", NULL, 0, 0);
    assert_check(path, &table, "has no float tensor 'h.1.ln_2.weight'");
    path = write_weights(&table, "transformer.", NULL, NULL, 0, 0);
    assert_check(path, &table, NULL);
    assert_check(path, &with_bias, "has no float tensor 'h.0.ln_1.bias'");
    assert_check(path, &longer, "has no float tensor 'h.2.ln_1.weight'");
    assert_check(path, &other, "'transformer.wte.weight' has the shape [37, 6], the model expects [38, 8]");
    assert_check(path, &other, "'transformer.h.0.attn.c_attn.weight' has the shape [6, 18], the model expects [8, 24]");
    assert_check(write_weights(&longer, "", NULL, NULL, 0, 0), &table, "no place for tensor 'h.2.ln_1.weight'");
    SafetensorsFile file;
    Error error;
    float values[4 * (C + 2) * (C + 2)];
    path = write_weights(&table, "", NULL, NULL, 0, 0);
    assert_true(safetensors_open(&file, path, &error));
    assert_false(checkpoint_read_weights(&file, &other, 1, values, &error));
    assert_non_null(strstr(error.text, "the shape"));
    assert_false(checkpoint_read_weights(&file, &longer, longer.count - 2, values, &error));
    assert_non_null(strstr(error.text, "h.2.mlp.c_proj.weight"));
    safetensors_close(&file);
    tensor_table_free(&table);
    tensor_table_free(&with_bias);
    tensor_table_free(&longer);
    tensor_table_free(&other);
}

/* What a file has and the model has not: some may be left out, nothing silently that changes the model. */
static void test_left_over_tensors(void **state) {
    (void)state;
    TensorTable table = small_table(LAYERS, C, V, T, false);
    static const struct {
        const char *extra;
        int64_t length;
        float value;
        const char *text;
    } cases[] = {
        {"h.0.ln_1.bias", C, 0, NULL},
        {"h.0.ln_1.bias", C, -0.0f, NULL},
        {"h.0.ln_1.bias", C, 1e-40f, "'h.0.ln_1.bias' is not all zero, and the model has no biases: set model.bias"},
        {"transformer.h.1.mlp.c_fc.bias", 4 * C, 0, NULL},
        {"transformer.h.1.mlp.c_fc.bias", 4 * C, 0.5f, "set model.bias to true"},
        {"ln_f.bias", C, 0.5f, "set model.bias to true"},
        {"h.0.attn.bias", 25, 1, NULL}, /* the causal mask */
        {"h.1.attn.masked_bias", 1, -10000, NULL},
        {"lm_head.weight", V * C, -1, NULL},
        {"lm_head.weight", V * C, 1, "'lm_head.weight' differs from the token embedding"},
        {"lm_head.weight", 2 * V * C, -1, "'lm_head.weight' differs from the token embedding"},
        {"wte.bias", V, 0, "no place for tensor 'wte.bias'"},
        {"h.2.ln_1.bias", C, 0, "no place for tensor 'h.2.ln_1.bias'"},
        {"adapter", 1, 0, "no place for tensor 'adapter'"},
        {"transformer.ln_f.weight", C, 0, "both with and without"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_check(write_weights(&table, "", NULL, cases[i].extra, cases[i].length, cases[i].value), &table,
                     cases[i].text);
    tensor_table_free(&table);
}

static void test_golden_files(void **state) {
    (void)state;
    TensorTable plain = small_table(2, 128, 256, 64, false), biased = small_table(2, 128, 256, 64, true);
    assert_check("dev/golden/tiny_init.safetensors", &plain, NULL);
    assert_check("dev/golden/tiny_init.safetensors", &biased, "has no float tensor 'h.0.ln_1.bias'");
    assert_check("dev/golden/tiny_bias_init.safetensors", &biased, NULL);
    assert_check("dev/golden/tiny_bias_init.safetensors", &plain, "set model.bias to true");
    SafetensorsFile file;
    Error error;
    static float values[512 * 128];
    assert_true(checkpoint_open_weights(&file, "dev/golden/tiny_init.safetensors", &error));
    int tensor = tensor_table_find(&plain, "h.1.mlp.c_fc.weight");
    assert_true(checkpoint_read_weights(&file, &plain, tensor, values, &error));
    /* (out, in), while Python's safetensors shows [in, out] */
    assert_true(values[0] == -0x1.ffda94p-6f && values[128] == 0x1.61a19ap-6f);
    assert_true(values[1] == 0x1.848ddcp-6f && values[511 * 128 + 127] == -0x1.8efce6p-5f);
    safetensors_close(&file);
    tensor_table_free(&plain);
    tensor_table_free(&biased);
}

static void test_opening_a_folder(void **state) {
    (void)state;
    small_save(test_path("run"), 3, 3, 0);
    TensorTable table = small_table(LAYERS, C, V, T, false);
    assert_check(test_path("run/checkpoints/latest"), &table, NULL);
    assert_check(test_path("run/checkpoints/step_00000003/model.safetensors"), &table, NULL);
    SafetensorsFile file;
    Error error;
    assert_false(checkpoint_open_weights(&file, test_path("run/checkpoints"), &error));
    assert_non_null(strstr(error.text, "checkpoints/model.safetensors"));
    assert_false(checkpoint_open_weights(&file, test_path("run/nothing"), &error));
    tensor_table_free(&table);
}

/* ---- config.json ---- */

#define SIZES "\"n_layer\":3,\"n_head\":4,\"n_embd\":8,\"n_positions\":16,\"vocab_size\":50257"

static bool read_config(GPT2Config *config, const char *json, Error *error) {
    mkdir(test_path("model"), 0777);
    test_write_text(test_path("model/config.json"), json);
    return checkpoint_read_model_config(config, test_path("model"), error);
}

static void test_config_of_others(void **state) {
    (void)state;
    GPT2Config config;
    Error error;
    if (!read_config(&config, "{" SIZES "}", &error)) fail_msg("%s", error.text);
    const GPT2Config expected = {3, 4, 8, 16, 50257, true, 0, false};
    assert_int_equal(config.n_layer, expected.n_layer);
    assert_int_equal(config.n_head, expected.n_head);
    assert_int_equal(config.n_embd, expected.n_embd);
    assert_int_equal(config.block_size, expected.block_size);
    assert_int_equal(config.vocab_size, expected.vocab_size);
    assert_true(config.bias && !config.scale_attn_by_inverse_layer_idx && config.dropout == 0);
    /* as published with GPT-2 */
    if (!read_config(&config,
                     "{" SIZES ",\"activation_function\":\"gelu_new\",\"architectures\":[\"GPT2LMHeadModel\"],"
                     "\"attn_pdrop\":0.1,\"layer_norm_epsilon\":1e-5,\"model_type\":\"gpt2\",\"n_ctx\":16,"
                     "\"n_inner\":null,\"scale_attn_by_inverse_layer_idx\":true,\"scale_attn_weights\":true}",
                     &error))
        fail_msg("%s", error.text);
    assert_true(config.scale_attn_by_inverse_layer_idx);
    assert_true(read_config(&config, "{" SIZES ",\"n_inner\":32}", &error));
}

static void test_wrong_configs(void **state) {
    (void)state;
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"{" SIZES ",\"activation_function\":\"gelu\"}", "activation_function is \"gelu\"; only \"gelu_new\""},
        {"{" SIZES ",\"model_type\":\"llama\"}", "model_type is \"llama\""},
        {"{" SIZES ",\"layer_norm_epsilon\":1e-6}", "layer_norm_epsilon is 1e-06"},
        {"{" SIZES ",\"tie_word_embeddings\":false}", "tie_word_embeddings is false"},
        {"{" SIZES ",\"scale_attn_weights\":false}", "scale_attn_weights is false"},
        {"{" SIZES ",\"scale_attn_by_inverse_layer_idx\":1}", "scale_attn_by_inverse_layer_idx should be"},
        {"{" SIZES ",\"n_inner\":31}", "n_inner should be absent or 4 * n_embd = 32"},
        {"{\"n_layer\":1,\"n_head\":3,\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1}", "no multiple of n_head 3"},
        {"{\"n_layer\":0,\"n_head\":4,\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1}", "n_layer should be"},
        {"{\"n_layer\":1,\"n_head\":\"4\",\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1}", "n_head should be"},
        {"{\"n_layer\":1,\"n_head\":4,\"n_embd\":8.5,\"n_positions\":1,\"vocab_size\":1}", "n_embd should be"},
        {"{\"n_layer\":1,\"n_head\":4,\"n_embd\":8,\"vocab_size\":1}", "n_positions should be"},
        {"{\"n_layer\":1,\"n_head\":4,\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1e10}", "vocab_size should be"},
        {"[]", "no valid JSON object"},
        {"{" SIZES "} x", "no valid JSON object"},
        {"", "no valid JSON object"},
    };
    GPT2Config config;
    Error error;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        assert_false(read_config(&config, cases[i].json, &error));
        if (!strstr(error.text, cases[i].text) || !strstr(error.text, "model/config.json"))
            fail_msg("expected '%s': %s", cases[i].text, error.text);
    }
    assert_false(checkpoint_read_model_config(&config, test_path("no_model"), &error));
    assert_non_null(strstr(error.text, "no_model/config.json"));
    test_write_text(test_path("model/trainer.json"), "{\"has_bias\": false}"); /* unsealed: not to be believed */
    assert_false(read_config(&config, "{" SIZES "}", &error));
    assert_non_null(strstr(error.text, "trainer.json is damaged"));
    assert_int_equal(unlink(test_path("model/trainer.json")), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_and_transposition),
        cmocka_unit_test(test_large_transposition),
        cmocka_unit_test(test_what_does_not_fit),
        cmocka_unit_test(test_left_over_tensors),
        cmocka_unit_test(test_golden_files),
        cmocka_unit_test(test_opening_a_folder),
        cmocka_unit_test(test_config_of_others),
        cmocka_unit_test(test_wrong_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
