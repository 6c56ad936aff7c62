/* test_checkpoint_weights.c: weights from elsewhere: which files fit a model, which must be refused because something
 * in them would silently be left out, and what config.json says about the model. */
#include "dev/test/model/small_model.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint_layout.h"
#include "config/config_model.h"
#include "model/gpt2.h"

/* A file with the weights of a table, number j of tensor i being 1000 i + j in the order of the file. */
typedef struct Variant {
    const char *prefix; /* before every name; NULL: none */
    const char *skip;   /* a tensor that is left out, or NULL */
    const char *wte;    /* another name for the token embedding, or NULL */
    bool is_linear;     /* matrices (out, in), as nanoGPT has them, instead of Hugging Face's (in, out) */
    int more_positions; /* further rows of position embeddings */
    const char *extra;  /* after them a tensor of this name, of `length` numbers `value`, or NULL */
    int64_t length;
    float value; /* -1: the token embedding's numbers */
} Variant;

static SafetensorsEntry entry_of(const Tensor *tensor, const Variant *v) {
    bool is_matrix = tensor->role == ROLE_MATRIX, is_vector = tensor->role == ROLE_VECTOR;
    bool is_wte = strcmp(tensor->name, "wte.weight") == 0, is_wpe = strcmp(tensor->name, "wpe.weight") == 0;
    SafetensorsEntry entry = {
        .name = format_string("%s%s", v->prefix ? v->prefix : "", is_wte && v->wte ? v->wte : tensor->name),
        .dimensions = is_vector ? 1 : 2,
        .shape = {is_vector ? tensor->columns : tensor->rows, is_vector ? 0 : tensor->columns}};
    if (is_matrix && !v->is_linear) entry.shape[0] = tensor->columns, entry.shape[1] = tensor->rows;
    if (is_wpe) entry.shape[0] += v->more_positions;
    return entry;
}

static const char *write_variant(const TensorTable *table, const Variant *v) {
    const char *path = test_path("weights.safetensors");
    SafetensorsEntry entries[64];
    int count = 0;
    for (int i = 0; i < table->count; i++)
        if (!v->skip || strcmp(table->tensors[i].name, v->skip) != 0)
            entries[count++] = entry_of(&table->tensors[i], v);
    if (v->extra)
        entries[count++] = (SafetensorsEntry){.name = checked_strdup(v->extra), .dimensions = 1, .shape = {v->length}};
    SafetensorsWriter *writer;
    Error error;
    if (!safetensors_create(&writer, path, entries, count, DTYPE_FLOAT32, NULL, &error)) fail_msg("%s", error.text);
    for (int i = 0; i < count; i++) free(entries[i].name);
    for (int i = 0; i < table->count; i++) {
        size_t size = table->tensors[i].size;
        if (v->skip && strcmp(table->tensors[i].name, v->skip) == 0) continue;
        if (strcmp(table->tensors[i].name, "wpe.weight") == 0)
            size += (size_t)(v->more_positions * table->tensors[i].columns);
        for (size_t j = 0; j < size; j++) {
            float number = (float)(1000 * i + (int)j);
            if (!safetensors_write(writer, &number, 1, &error)) fail_msg("%s", error.text);
        }
    }
    for (int64_t j = 0; v->extra && j < v->length; j++) {
        float number = v->value < 0 ? (float)j : v->value;
        if (!safetensors_write(writer, &number, 1, &error)) fail_msg("%s", error.text);
    }
    if (!safetensors_finish(writer, NULL, NULL, &error)) fail_msg("%s", error.text);
    return path;
}

static const char *write_weights(const TensorTable *table, const char *prefix, const char *skip, const char *extra,
                                 int64_t length, float value) {
    const Variant v = {.prefix = prefix, .skip = skip, .extra = extra, .length = length, .value = value};
    return write_variant(table, &v);
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
    int lines = 1;
    for (const char *end = error.text; (end = strchr(end, '\n')); end++) lines++;
    if (lines > 5) fail_msg("%d lines: %s", lines, error.text);
    safetensors_close(&file);
}

/* Every number comes to its place. */
static void assert_numbers(const TensorTable *table, const Variant *v) {
    const char *path = write_variant(table, v);
    SafetensorsFile file;
    assert_check(path, table, NULL);
    assert_true(safetensors_open(&file, path, NULL));
    for (int i = 0; i < table->count; i++) {
        float values[4 * C * C > V * C ? 4 * C * C : V * C];
        const Tensor *tensor = &table->tensors[i];
        assert_true(checkpoint_read_weights(&file, table, i, values, NULL));
        for (int64_t row = 0; row < tensor->rows; row++)
            for (int64_t column = 0; column < tensor->columns; column++) {
                int64_t place = row * tensor->columns + column;
                if (tensor->role == ROLE_MATRIX && !v->is_linear) place = column * tensor->rows + row;
                assert_true(values[row * tensor->columns + column] == (float)(1000 * i + place));
            }
    }
    assert_int_equal(checkpoint_positions(&file), T + v->more_positions);
    safetensors_close(&file);
}

static void test_prefixes_and_layouts(void **state) {
    (void)state;
    TensorTable table = small_table(LAYERS, C, V, T, false);
    static const char *const prefixes[] = {"",
                                           "transformer.",
                                           "_orig_mod.",
                                           "module.",
                                           "_orig_mod.transformer.",
                                           "module._orig_mod.transformer.",
                                           "_orig_mod.module.transformer."};
    for (size_t p = 0; p < ARRAY_LENGTH(prefixes); p++)
        for (int linear = 0; linear < 2; linear++)
            assert_numbers(&table, &(Variant){.prefix = prefixes[p], .is_linear = linear});
    assert_numbers(&table, &(Variant){.prefix = "module.", .wte = "lm_head.weight"});
    assert_numbers(&table, &(Variant){.wte = "lm_head.weight", .is_linear = true});
    assert_numbers(&table, &(Variant){.more_positions = 3});
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
    TensorTable shorter = small_table(LAYERS, C, V, T - 2, false);
    const char *path = write_weights(&table, "", "h.1.ln_2.weight", NULL, 0, 0);
    assert_check(path, &table,
                 "of its 15 tensors 1 are missing and 0 have another shape:\n  'h.1.ln_2.weight' is missing");
    path = write_weights(&table, "transformer.", NULL, NULL, 0, 0);
    assert_check(path, &table, NULL);
    assert_check(path, &shorter, NULL);
    assert_check(path, &with_bias,
                 "13 are missing and 0 have another shape, such as\n  'h.0.ln_1.bias' is missing\n"
                 "  'h.0.attn.c_attn.bias' is missing\n  'h.0.attn.c_proj.bias' is missing\n  set model.bias to false");
    assert_check(
        path, &longer,
        "6 are missing and 0 have another shape, such as\n  'h.2.ln_1.weight' is missing\n"
        "  'h.2.attn.c_attn.weight' is missing\n  'h.2.attn.c_proj.weight' is missing\n  set model.n_layer to 2");
    assert_check(path, &other,
                 "0 are missing and 15 have another shape, such as\n"
                 "  'transformer.wte.weight' has the shape [37, 6], the model expects [38, 8]\n"
                 "  'transformer.wpe.weight' has the shape [5, 6], the model expects [5, 8]\n"
                 "  'transformer.h.0.ln_1.weight' has the shape [6], the model expects [8]\n"
                 "  set model.n_embd to 6, model.vocab_size to 37");
    assert_check(write_weights(&shorter, "", NULL, NULL, 0, 0), &table,
                 "1 have another shape:\n  'wpe.weight' has the shape [3, 6], the model expects [5, 6]\n"
                 "  set model.block_size to 3 or less");
    assert_check(write_weights(&longer, "", NULL, NULL, 0, 0), &table,
                 "no place for tensor 'h.2.ln_1.weight': set model.n_layer to 3");
    assert_check(write_weights(&table, "model.decoder.", NULL, NULL, 0, 0), &table,
                 "its tensors have other names, such as 'model.decoder.wte.weight'; expected those of a GPT-2");
    SafetensorsFile file;
    Error error;
    float values[4 * (C + 2) * (C + 2)];
    path = write_weights(&table, "", NULL, NULL, 0, 0);
    assert_true(safetensors_open(&file, path, &error));
    assert_false(checkpoint_read_weights(&file, &other, 1, values, &error));
    assert_non_null(strstr(error.text, "the shape"));
    assert_false(checkpoint_read_weights(&file, &longer, longer.count - 2, values, &error));
    assert_non_null(strstr(error.text, "weights.safetensors: 'h.2.mlp.c_proj.weight' is missing"));
    safetensors_close(&file);
    tensor_table_free(&table);
    tensor_table_free(&with_bias);
    tensor_table_free(&longer);
    tensor_table_free(&shorter);
    tensor_table_free(&other);
}

/* Weights in eight bits, as quantized models have them. */
static void test_types_that_are_not_read(void **state) {
    (void)state;
    TensorTable table = small_table(1, 2, 2, 2, false);
    static const char header[] =
        "{\"transformer.wte.weight\":{\"dtype\":\"I8\",\"shape\":[2,2],\"data_offsets\":[0,4]},"
        "\"transformer.h.0.ln_1.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[4,6]}}";
    uint8_t file[8 + sizeof header - 1 + 6] = {sizeof header - 1};
    memcpy(file + 8, header, sizeof header - 1);
    const char *path = test_path("quantized.safetensors");
    test_write_file(path, file, sizeof file);
    assert_check(path, &table, "'wte.weight' has the type I8; F32, F64, F16 and BF16 are read");
    assert_check(path, &table, "'h.0.ln_1.weight' has the type F8_E4M3; F32, F64, F16 and BF16 are read");
    tensor_table_free(&table);
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
        {"h.0.ln_1.bias", C, 1e-40f, "'h.0.ln_1.bias' is not all zero, and the model has no such bias: set model.bias"},
        {"transformer.h.1.mlp.c_fc.bias", 4 * C, 0, NULL},
        {"transformer.h.1.mlp.c_fc.bias", 4 * C, 0.5f, "set model.bias to true"},
        {"ln_f.bias", C, 0.5f, "set model.bias to true"},
        {"h.0.attn.bias", 25, 1, NULL}, /* the causal mask */
        {"h.1.attn.masked_bias", 1, -10000, NULL},
        {"lm_head.weight", V * C, -1, NULL},
        {"_orig_mod.lm_head.weight", V * C, -1, NULL},
        {"lm_head.weight", V * C, 1, "'lm_head.weight' differs from the token embedding"},
        {"lm_head.weight", 2 * V * C, -1, "'lm_head.weight' differs from the token embedding"},
        {"wte.bias", V, 0, "no place for tensor 'wte.bias'"},
        {"h.2.ln_1.bias", C, 0, "no place for tensor 'h.2.ln_1.bias'"},
        {"adapter", 1, 0, "no place for tensor 'adapter': take the weights of a GPT-2 without additions"},
        {"transformer.ln_f.weight", C, 0, "has both 'ln_f.weight' and 'transformer.ln_f.weight'"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_check(write_weights(&table, "", NULL, cases[i].extra, cases[i].length, cases[i].value), &table,
                     cases[i].text);
    tensor_table_free(&table);
}

/* Where the model has an LM head of its own, it and the token embedding are two tensors, and so are their biases. */
static void test_lm_head_of_its_own(void **state) {
    (void)state;
    TensorTable tied = small_table(LAYERS, C, V, T, false), untied = small_table(LAYERS, C, V, T, false), biased = {0};
    small_add(&untied, "lm_head.weight", ROLE_LM_HEAD, V, C, V + 27);
    static const char *const prefixes[] = {"", "module.", "_orig_mod.transformer."};
    for (size_t p = 0; p < ARRAY_LENGTH(prefixes); p++)
        for (int linear = 0; linear < 2; linear++)
            assert_numbers(&untied, &(Variant){.prefix = prefixes[p], .is_linear = linear});
    assert_check(write_weights(&tied, "", NULL, NULL, 0, 0), &untied, "'lm_head.weight' is missing");
    assert_check(write_weights(&untied, "", "wte.weight", NULL, 0, 0), &untied, "'wte.weight' is missing");
    assert_check(write_weights(&untied, "", NULL, NULL, 0, 0), &tied,
                 "this model uses one for both: set model.tie_embeddings to false");
    assert_check(write_weights(&untied, "", NULL, "lm_head.bias", V, 0), &untied, NULL);
    assert_check(write_weights(&untied, "", NULL, "lm_head.bias", V, 1), &untied,
                 "'lm_head.bias' is not all zero, and the model has no such bias: set model.lm_head_bias to true");
    assert_check(write_weights(&tied, "", NULL, "lm_head.bias", V, 0), &tied, "no place for tensor 'lm_head.bias'");
    /* RMSNorm has no bias where the linear layers have some */
    small_add(&biased, "h.0.ln_1.weight", ROLE_VECTOR, 1, C, 1);
    small_add(&biased, "h.0.attn.c_attn.weight", ROLE_MATRIX, 3 * C, C, 3 * C);
    small_add(&biased, "h.0.attn.c_attn.bias", ROLE_VECTOR, 1, 3 * C, 1);
    assert_check(write_weights(&biased, "", NULL, "h.0.ln_1.bias", C, 1), &biased,
                 "the model has no such bias: set model.norm to layernorm");
    tensor_table_free(&tied);
    tensor_table_free(&untied);
    tensor_table_free(&biased);
}

static void test_golden_files(void **state) {
    (void)state;
    TensorTable plain = small_table(2, 128, 256, 64, false), biased = small_table(2, 128, 256, 64, true);
    assert_check("dev/golden/tiny_init.safetensors", &plain, NULL);
    assert_check("dev/golden/tiny_init.safetensors", &biased, "'h.0.ln_1.bias' is missing");
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

/* Weights of other architectures, in bfloat16: their names and shapes are those of our tables. */
static void test_modern_golden_files(void **state) {
    (void)state;
    static const char *const names[] = {"modded", "proposed", "track3", "variant_bias_rmsnorm", "variant_untied"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        Error error;
        GPT2 model;
        GPT2Config config;
        SafetensorsFile file;
        char *path = format_string("dev/golden/modern/%s.json", names[i]), *text = test_read_file(path, NULL);
        cJSON *golden = cJSON_Parse(text);
        const cJSON *keys = cJSON_GetObjectItemCaseSensitive(golden, "model");
        if (!config_model_from_json(&config, keys, path, &error)) fail_msg("%s", error.text);
        gpt2_describe(&model, &config);
        char *weights = format_string("dev/golden/modern/%s_init.safetensors", names[i]);
        assert_check(weights, &model.table, NULL);
        assert_true(checkpoint_open_weights(&file, weights, &error));
        assert_int_equal(file.count, model.table.count);
        for (int t = 0; t < model.table.count; t++) {
            const Tensor *tensor = &model.table.tensors[t];
            float *values = checked_malloc(tensor->size * sizeof *values, tensor->name);
            for (size_t j = 0; j < tensor->size; j++) values[j] = NAN;
            if (!checkpoint_read_weights(&file, &model.table, t, values, &error)) fail_msg("%s", error.text);
            for (size_t j = 0; j < tensor->size; j++) assert_true(isfinite(values[j]));
            free(values);
        }
        safetensors_close(&file);
        gpt2_free(&model);
        cJSON_Delete(golden);
        free(weights), free(text), free(path);
    }
}

static void assert_not_opened(const char *path, const char *text) {
    SafetensorsFile file;
    Error error = {""};
    assert_false(checkpoint_open_weights(&file, path, &error));
    if (!strstr(error.text, text)) fail_msg("expected '%s': %s", text, error.text);
}

static void test_opening_a_folder(void **state) {
    (void)state;
    small_save(test_path("run"), 3, 3, 0);
    TensorTable table = small_table(LAYERS, C, V, T, false);
    assert_check(test_path("run/checkpoints/latest"), &table, NULL);
    assert_check(test_path("run/checkpoints/step_00000003/model.safetensors"), &table, NULL);
    assert_not_opened(test_path("run/checkpoints"), "checkpoints/model.safetensors: No such file or directory");
    assert_not_opened(test_path("run/nothing"), "run/nothing: No such file or directory");
    char *hint = format_string("%s has no model.safetensors; %s/checkpoints/latest is the newest checkpoint of a run; "
                               "give %s/checkpoints/latest",
                               test_path("run"), test_path("run"), test_path("run"));
    assert_not_opened(test_path("run"), hint);
    free(hint);
    tensor_table_free(&table);
}

static void flip_bit_of(const char *path) {
    size_t bytes;
    char *content = test_read_file(path, &bytes);
    content[bytes / 2] ^= 1;
    test_write_file(path, content, bytes);
    free(content);
}

/* A bit of saved weights that was lost on the way is noticed, by whichever path the weights are opened. */
static void test_copied_weights_are_verified(void **state) {
    (void)state;
    SmallRun run;
    char folder[CHECKPOINT_PATH_LENGTH];
    Error error;
    small_start(&run, 3, 3, false);
    run.source.has_ema = true;
    if (!small_save_run(&run, test_path("copied"), 0, folder, &error)) fail_msg("%s", error.text);
    char *model = format_string("%s/model.safetensors", folder),
         *ema = format_string("%s/model_ema.safetensors", folder);
    char *own = format_string("%s/own.safetensors", folder), *index = format_string("%s/own.index.json", folder);
    char *trainer = format_string("%s/trainer.json", folder);
    char *tokenizer = format_string("%s/tokenizer_config.json", folder);
    test_write_text(index, "{\"weight_map\": {\"transformer.wte.weight\": \"model_ema.safetensors\"}}");
    assert_check(ema, &run.table, NULL);
    assert_check(index, &run.table, NULL);
    flip_bit_of(ema);
    assert_not_opened(ema, "model_ema.safetensors is damaged: its checksum is");
    assert_not_opened(index, "model_ema.safetensors is damaged: its checksum is");
    assert_check(folder, &run.table, NULL); /* reads the other file */
    flip_bit_of(model);
    assert_not_opened(folder, "model.safetensors is damaged: its checksum is");
    assert_not_opened(model, "model.safetensors is damaged: its checksum is");
    /* A store of files may keep the content of each under another name. */
    char *stored = format_string("%s/stored", test_folder()), *linked = format_string("%s/linked", test_folder());
    assert_run(test_run("mkdir '%s' '%s' && cp '%s' '%s/weights' && cp '%s' '%s/record' && "
                        "ln -s '%s/weights' '%s/model.safetensors' && ln -s '%s/record' '%s/trainer.json'",
                        stored, linked, model, stored, trainer, stored, stored, linked, stored, linked),
               0, "");
    assert_not_opened(linked, "model.safetensors is damaged: its checksum is");
    free(stored), free(linked);
    const char *link = test_path("link.safetensors");
    assert_int_equal(symlink(model, link), 0);
    assert_not_opened(link, "model.safetensors is damaged: its checksum is"); /* of what the link leads to */
    assert_true(checkpoint_verify_tokenizer(folder, &error));
    flip_bit_of(tokenizer);
    assert_false(checkpoint_verify_tokenizer(folder, &error));
    assert_four_parts(error.text,
                      "tokenizer_config.json is damaged|its checksum is|and should be|copy the checkpoint again");
    assert_int_equal(rename(ema, own), 0);
    assert_check(own, &run.table, NULL); /* trainer.json lists no such file */
    assert_int_equal(unlink(trainer), 0);
    assert_int_equal(symlink("nowhere", trainer), 0);
    assert_not_opened(folder, "trainer.json: No such file or directory; copy the checkpoint again");
    assert_int_equal(unlink(trainer), 0);
    assert_int_equal(mkdir(trainer, 0777), 0);
    assert_not_opened(folder, "trainer.json is not a regular file; copy the checkpoint again");
    assert_int_equal(rmdir(trainer), 0);
    assert_check(folder, &run.table, NULL); /* nothing says what it was */
    free(model), free(ema), free(own), free(index), free(trainer), free(tokenizer);
    tensor_table_free(&run.table);
}

static void test_a_set_of_files(void **state) {
    (void)state;
    TensorTable table = small_table(LAYERS, C, V, T, false);
    mkdir(test_path("set"), 0777);
    const char *one = test_path("set/model-00001-of-00002.safetensors");
    const char *two = test_path("set/model-00002-of-00002.safetensors");
    const char *index = test_path("set/model.safetensors.index.json");
    assert_int_equal(rename(write_weights(&table, "transformer.", "h.1.ln_2.weight", NULL, 0, 0), one), 0);
    TensorTable rest = {0};
    small_add(&rest, "h.1.ln_2.weight", ROLE_VECTOR, 1, C, 1);
    assert_int_equal(rename(write_weights(&rest, "transformer.", NULL, NULL, 0, 0), two), 0);
    test_write_text(index, "{\"metadata\": {}, \"weight_map\": {"
                           "\"transformer.wte.weight\": \"model-00001-of-00002.safetensors\","
                           "\"transformer.h.1.ln_2.weight\": \"model-00002-of-00002.safetensors\"}}");
    assert_check(test_path("set"), &table, NULL);
    assert_check(index, &table, NULL);
    assert_check(one, &table, "'h.1.ln_2.weight' is missing");
    assert_int_equal(unlink(two), 0);
    assert_not_opened(test_path("set"), "set/model-00002-of-00002.safetensors: No such file or directory");
    tensor_table_free(&table);
    tensor_table_free(&rest);
}

/* What people have instead of safetensors files, by what is in it. */
static void test_other_formats(void **state) {
    (void)state;
    static const struct {
        const char *name, *content, *text;
    } files[] = {
        {"a.bin", "PK\3\4 zip",
         "a.bin is a file of PyTorch (torch.save), and only safetensors files are read; convert it"},
        {"b.pt", "\x80\2\x8a\nl\xfc\x9c\x46\xf9 pickle", "b.pt is a file of PyTorch (torch.save)"},
        {"model.safetensors", "version https://git-lfs.github.com/spec/v1\n",
         "a pointer of Git LFS instead of the file"},
        {"page.safetensors", "<!DOCTYPE html><html>", "page.safetensors is a web page"},
        {"page2.safetensors", "<HTML><head></head>", "page2.safetensors is a web page"},
        {"tf.h5", "\x89HDF\r\n\x1a\n", "tf.h5 is a file of TensorFlow or Keras"},
        {"model.gguf", "GGUF\3\2\2\2", "model.gguf is a file of llama.cpp (GGUF)"},
        {"a.npy", "\x93NUMPY\1", "a.npy is an array of NumPy"},
        {"gpt2_124M.bin", "\xc6\xd7\x34\x01\5\1\1\1", "gpt2_124M.bin is a model of llm.c"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        const char *path = test_path("%s", files[i].name);
        test_write_text(path, files[i].content);
        assert_not_opened(path, files[i].text);
    }
    char *command = format_string("torch.load('%s'", test_path("a.bin"));
    assert_not_opened(test_path("a.bin"), command);
    free(command);
    command = format_string("s.save_file({k: v.contiguous().clone() for k, v in d.items()}, '%s/model.safetensors')\"",
                            test_folder());
    assert_not_opened(test_path("a.bin"), command);
    free(command);
}

static void test_folders_of_other_formats(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
    } files[] = {
        {"pytorch_model.bin", "pytorch_model.bin is a file of PyTorch; convert it: python3 -c"},
        {"pytorch_model.bin.index.json", "is an index of PyTorch files; convert it"},
        {"ckpt.pt", "ckpt.pt is a checkpoint of nanoGPT; convert it"},
        {"tf_model.h5", "from_tf=True"},
        {"flax_model.msgpack", "from_flax=True"},
        {"adapter_model.safetensors", "is an adapter without its model"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        assert_int_equal(mkdir(test_path("other%zu", i), 0777), 0);
        test_write_text(test_path("other%zu/%s", i, files[i].name), "content");
        assert_not_opened(test_path("other%zu", i), files[i].text);
        assert_not_opened(test_path("other%zu", i), "has no model.safetensors");
    }
}

/* ---- config.json ---- */

#define SIZES "\"n_layer\":3,\"n_head\":4,\"n_embd\":8,\"n_positions\":16,\"vocab_size\":50257"

static bool read_config(GPT2Config *config, const char *json, Error *error) {
    mkdir(test_path("model"), 0777);
    test_write_text(test_path("model/config.json"), json);
    return checkpoint_read_model_config(config, test_path("model"), NULL, error);
}

/* The published models have biases, and their attention scores are not scaled by layer. */
static GPT2Config published_model(int n_layer, int n_head, int n_embd, int block_size) {
    GPT2Config model = gpt2_config(n_layer, n_head, n_embd, block_size, 50257);
    model.bias = true;
    model.scale_attn_by_inverse_layer_idx = false;
    return model;
}

static void test_config_of_others(void **state) {
    (void)state;
    GPT2Config config;
    Error error;
    if (!read_config(&config, "{" SIZES "}", &error)) fail_msg("%s", error.text);
    const GPT2Config expected = published_model(3, 4, 8, 16);
    assert_same_model(&config, &expected);
    /* as published with GPT-2 */
    if (!read_config(&config,
                     "{" SIZES ",\"activation_function\":\"gelu_new\",\"architectures\":[\"GPT2LMHeadModel\"],"
                     "\"attn_pdrop\":0.1,\"layer_norm_epsilon\":1e-5,\"model_type\":\"gpt2\",\"n_ctx\":16,"
                     "\"n_inner\":null,\"scale_attn_by_inverse_layer_idx\":true,\"scale_attn_weights\":true}",
                     &error))
        fail_msg("%s", error.text);
    assert_true(config.scale_attn_by_inverse_layer_idx);
    assert_true(read_config(&config, "{" SIZES ",\"n_inner\":32}", &error));
    /* and what else transformers' GPT-2 can compute */
    if (!read_config(&config,
                     "{" SIZES ",\"activation_function\":\"relu2\",\"layer_norm_epsilon\":1e-6,"
                     "\"tie_word_embeddings\":false}",
                     &error))
        fail_msg("%s", error.text);
    GPT2Config other = expected;
    other.activation = ACTIVATION_RELU2;
    other.norm_eps = 1e-6;
    other.tie_embeddings = false;
    assert_same_model(&config, &other);
}

/* What is missing has the default of transformers; sizes have other names, too. */
static void test_defaults_of_transformers(void **state) {
    (void)state;
    GPT2Config config;
    Error error;
    if (!read_config(&config, "{\"model_type\":\"gpt2\"}", &error)) fail_msg("%s", error.text);
    const GPT2Config expected = published_model(12, 12, 768, 1024);
    assert_same_model(&config, &expected);
    if (!read_config(&config,
                     "{\"hidden_size\":8,\"num_hidden_layers\":3,\"num_attention_heads\":4,"
                     "\"max_position_embeddings\":16}",
                     &error))
        fail_msg("%s", error.text);
    assert_true(config.n_embd == 8 && config.n_layer == 3 && config.n_head == 4 && config.block_size == 16);
    assert_true(read_config(&config, "{\"model_type\":\"gpt2\",\"n_ctx\":77}", &error));
    assert_int_equal(config.block_size, 77);
    assert_true(read_config(&config, "{\"model_type\":\"gpt2\",\"n_ctx\":77,\"n_positions\":78}", &error));
    assert_int_equal(config.block_size, 78);
}

/* As published with openai-community/gpt2, and other ways to say the same. */
static void test_published_configs(void **state) {
    (void)state;
    GPT2Config config;
    Error error;
    static const char published[] =
        "{\"activation_function\": \"gelu_new\", \"architectures\": [\"GPT2LMHeadModel\"], \"attn_pdrop\": 0.1,"
        " \"bos_token_id\": 50256, \"embd_pdrop\": 0.1, \"eos_token_id\": 50256, \"initializer_range\": 0.02,"
        " \"layer_norm_epsilon\": 1e-05, \"model_type\": \"gpt2\", \"n_ctx\": 1024, \"n_embd\": 768, \"n_head\": 12,"
        " \"n_layer\": 12, \"n_positions\": 1024, \"resid_pdrop\": 0.1, \"summary_activation\": null,"
        " \"summary_first_dropout\": 0.1, \"summary_proj_to_labels\": true, \"summary_type\": \"cls_index\","
        " \"summary_use_proj\": true, \"task_specific_params\": {\"text-generation\": {\"do_sample\": true,"
        " \"max_length\": 50}}, \"vocab_size\": 50257}";
    if (!read_config(&config, published, &error)) fail_msg("%s", error.text);
    const GPT2Config expected = published_model(12, 12, 768, 1024);
    assert_same_model(&config, &expected);
    static const char *const same[] = {"\"activation_function\":\"gelu_pytorch_tanh\"",
                                       "\"activation_function\":\"gelu_fast\"",
                                       "\"layer_norm_epsilon\":0.00001",
                                       "\"reorder_and_upcast_attn\":true",
                                       "\"pruned_heads\":{}",
                                       "\"quantization_config\":null",
                                       "\"attn_pdrop\":0.5"};
    for (size_t i = 0; i < ARRAY_LENGTH(same); i++) {
        char *json = format_string("{" SIZES ",%s}", same[i]);
        if (!read_config(&config, json, &error)) fail_msg("%s", error.text);
        assert_true(config.dropout == 0);
        free(json);
    }
}

/* Without a trainer.json, biases are there if the weights have some. */
static void test_biases_of_others(void **state) {
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        TensorTable table = small_table(LAYERS, C, V, T, bias);
        SafetensorsFile file;
        GPT2Config config;
        Error error;
        const char *mask = "h.0.attn.bias"; /* no bias */
        assert_true(safetensors_open(&file, write_weights(&table, "_orig_mod.", NULL, mask, 25, 1), &error));
        assert_int_equal(checkpoint_has_biases(&file), bias);
        mkdir(test_path("model"), 0777);
        test_write_text(test_path("model/config.json"), "{" SIZES "}");
        if (!checkpoint_read_model_config(&config, test_path("model"), &file, &error)) fail_msg("%s", error.text);
        assert_int_equal(config.bias, bias);
        safetensors_close(&file);
        tensor_table_free(&table);
    }
}

static void test_wrong_configs(void **state) {
    (void)state;
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"{" SIZES ",\"activation_function\":\"gelu\"}", "activation_function is \"gelu\"; only \"gelu_new\""},
        {"{" SIZES ",\"model_type\":\"llama\"}", "model_type is \"llama\"; only \"gpt2\" or \"mars_gpt\" is supported"},
        {"{" SIZES ",\"layer_norm_epsilon\":0}",
         "layer_norm_epsilon is 0; only a number above 0 and below 1 is supported"},
        {"{" SIZES ",\"layer_norm_epsilon\":1}", "layer_norm_epsilon is 1; only"},
        {"{" SIZES ",\"tie_word_embeddings\":0}", "tie_word_embeddings is 0; only true or false is supported"},
        {"{" SIZES ",\"scale_attn_weights\":false}", "scale_attn_weights is false"},
        {"{" SIZES ",\"add_cross_attention\":true}", "add_cross_attention is true"},
        {"{" SIZES ",\"activation_function\":\"relu\"}",
         "only \"gelu_new\" or \"gelu_pytorch_tanh\" or \"gelu_fast\" or \"relu2\" is supported"},
        {"{" SIZES ",\"activation_function\":null}", "activation_function is null"},
        {"{" SIZES ",\"layer_norm_epsilon\":\"1e-5\"}", "layer_norm_epsilon is \"1e-5\""},
        {"{" SIZES ",\"reorder_and_upcast_attn\":1}", "reorder_and_upcast_attn is 1"},
        {"{" SIZES ",\"pruned_heads\":{\"0\":[1]}}", "pruned_heads is {\"0\":[1]}"},
        {"{" SIZES ",\"quantization_config\":{\"bits\":4}}", "quantization_config is {\"bits\":4}"},
        {"{\"model\":{\"n_layer\":2},\"data\":{}}", "has neither model_type nor n_embd"},
        {"{" SIZES ",\"scale_attn_by_inverse_layer_idx\":1}",
         "scale_attn_by_inverse_layer_idx is 1; only true or false"},
        {"{" SIZES ",\"n_inner\":31}", "n_inner is 31; only 4 * n_embd = 32 is supported"},
        {"{\"n_layer\":1,\"n_head\":3,\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1}",
         "n_embd 8 must be a multiple of n_head 3"},
        {"{\"n_layer\":0,\"n_head\":4,\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1}",
         "n_layer is 0; only a whole number"},
        {"{\"n_layer\":1,\"n_head\":\"4\",\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1}",
         "n_head is \"4\"; only a whole number"},
        {"{\"n_layer\":1,\"n_head\":4,\"n_embd\":8.5,\"n_positions\":1,\"vocab_size\":1}",
         "n_embd is 8.5; only a whole number"},
        {"{\"n_layer\":1,\"n_head\":4,\"n_embd\":8,\"n_positions\":null,\"vocab_size\":1}",
         "n_positions is null; only a whole number"},
        {"{\"n_layer\":1,\"n_head\":4,\"n_embd\":8,\"n_positions\":1,\"vocab_size\":1e10}", "vocab_size is 1"},
        {"{\"model_type\":\"gpt2\",\"vocab_size\":250000}", "vocab_size is 250000; expected from 1 to 65536"},
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
    assert_false(checkpoint_read_model_config(&config, test_path("no_model"), NULL, &error));
    assert_non_null(strstr(error.text, "no_model has no config.json; expected one"));
    test_write_text(test_path("model/trainer.json"), "{\"has_bias\": false}"); /* unsealed: not to be believed */
    assert_false(read_config(&config, "{" SIZES "}", &error));
    assert_non_null(strstr(error.text, "trainer.json is damaged"));
    assert_int_equal(unlink(test_path("model/trainer.json")), 0);
}

/* The keys of a mars_gpt; the first ones are shared with GPT-2. */
enum { SHARED_KEYS = 7 };
static const char *const mars_gpt_keys[] = {"n_layer",
                                            "n_head",
                                            "n_embd",
                                            "block_size",
                                            "vocab_size",
                                            "bias",
                                            "scale_attn_by_inverse_layer_idx",
                                            "position",
                                            "rope_base",
                                            "norm",
                                            "norm_gain",
                                            "norm_eps",
                                            "norm_embedding",
                                            "qk_norm",
                                            "qk_norm_eps",
                                            "activation",
                                            "tie_embeddings",
                                            "lm_head_bias",
                                            "attention_scale",
                                            "attention_output_scale",
                                            "logit_softcap"};

/* A key that only the other kind of config.json has must not be ignored. */
static void test_keys_of_the_other_kind(void **state) {
    (void)state;
    GPT2Config config;
    Error error;
    for (size_t i = SHARED_KEYS; i < ARRAY_LENGTH(mars_gpt_keys); i++) {
        char *json = format_string("{" SIZES ", \"%s\": 1}", mars_gpt_keys[i]),
             *parts = format_string("the key %s|model_type", mars_gpt_keys[i]);
        assert_false(read_config(&config, json, &error));
        assert_parts(error.text, parts);
        free(json), free(parts);
    }
}

/* ---- config.json of models that transformers' GPT-2 cannot compute ---- */

/* The config.json of such a model, with one key replaced by a value as JSON, or removed (NULL). */
static char *changed_config(const char *key, const char *value) {
    GPT2Config model = small_model("{\"position\": \"rope\", \"n_embd\": 8}");
    char *text = checkpoint_model_config(&model, DTYPE_FLOAT32, false);
    cJSON *json = cJSON_Parse(text);
    free(text);
    assert_true(cJSON_HasObjectItem(json, key));
    cJSON_DeleteItemFromObjectCaseSensitive(json, key);
    if (value) cJSON_AddRawToObject(json, key, value);
    text = cJSON_Print(json);
    cJSON_Delete(json);
    return text;
}

static void assert_config_refused(const char *key, const char *value, const char *expected) {
    GPT2Config config;
    Error error;
    char *json = changed_config(key, value);
    assert_false(read_config(&config, json, &error));
    if (!strstr(error.text, expected) || strncmp(error.text, test_path("model"), strlen(test_path("model"))) != 0)
        fail_msg("expected '%s': %s", expected, error.text);
    free(json);
}

/* Each key changes what is computed, so none has a default there. */
static void test_missing_keys(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(mars_gpt_keys); i++) {
        char *text = format_string("model/config.json: the key %s is missing; expected ", mars_gpt_keys[i]);
        assert_config_refused(mars_gpt_keys[i], NULL, text);
        free(text);
    }
}

static void test_wrong_keys(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"n_layer", "0", "model.n_layer is 0; expected integer in [1, 1024]"},
        {"vocab_size", "250000", "model.vocab_size is 250000; expected integer in [1, 65536]"},
        {"bias", "1", "model.bias is 1; expected true or false"},
        {"position", "\"alibi\"", "model.position is \"alibi\"; expected one of: learned, rope, rope-half"},
        {"position", "1", "model.position is 1; expected one of"},
        {"rope_base", "1", "model.rope_base is 1; expected number > 1"},
        {"norm", "\"LayerNorm\"", "model.norm is \"LayerNorm\"; expected one of: layernorm, rmsnorm"},
        {"norm_eps", "0", "model.norm_eps is 0; expected number in (0, 1)"},
        {"norm_eps", "1e999", "model.norm_eps is inf; expected number in (0, 1)"},
        {"qk_norm_eps", "1", "model.qk_norm_eps is 1; expected number in (0, 1)"},
        {"activation", "\"gelu_new\"", "model.activation is \"gelu_new\"; expected one of: gelu, relu2"},
        {"attention_scale", "-0.1", "model.attention_scale is -0.1; expected number >= 0"},
        {"attention_output_scale", "0", "model.attention_output_scale is 0; expected number > 0"},
        {"logit_softcap", "null", "model.logit_softcap is null; expected number >= 0"},
        {"n_head", "3", "config.json: n_embd 8 must be a multiple of n_head 3"},
        {"n_head", "8", "config.json: n_embd 8 / n_head 8 is the odd head size 1"},
        {"position", "\"rope-half\"", "config.json: n_embd 8 / n_head 2 is the head size 4"},
        {"lm_head_bias", "true", "config.json: lm_head_bias and tie_embeddings are both true"},
        {"model_type", "\"mars_gpt2\"", "model_type is \"mars_gpt2\"; only \"gpt2\" or \"mars_gpt\" is supported"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) assert_config_refused(cases[i][0], cases[i][1], cases[i][2]);
    GPT2Config config, expected = small_model("{\"position\": \"rope\", \"n_embd\": 8}");
    Error error;
    char *json = changed_config("use_cache", "false"); /* which is not the model's */
    if (!read_config(&config, json, &error)) fail_msg("%s", error.text);
    assert_same_model(&config, &expected);
    free(json);
}

/* A safetensors file with this header and `bytes` of data, and with `cut` bytes missing at its end. */
static const char *write_header(const char *header, size_t bytes, size_t cut) {
    char file[512] = {(char)strlen(header)};
    const char *path = test_path("lie.safetensors");
    memcpy(file + 8, header, strlen(header));
    test_write_file(path, file, 8 + strlen(header) + bytes - cut);
    return path;
}

/* What a message about weights says, in this order: the file, what was found, what was expected, what to do. */
static void test_parts_of_messages(void **state) {
    (void)state;
    Error error;
    SafetensorsFile file;
    static const char tensor[] = "{\"wte\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    static const struct {
        const char *header;
        size_t bytes, cut;
        const char *parts;
    } headers[] = {
        {"", 0, 4, "is no safetensors file: it has 4 bytes|the length of the header takes 8|copy or download"},
        {tensor, 0, 9, "should have 56 bytes|the file has 47 after|copy or download the file again"},
        {"[]", 0, 0, "the header |is no JSON object|copy or download the file again"},
        {"{\"wte\":", 0, 0, "the header |is no valid JSON|copy or download the file again"},
        {tensor, 4, 0, "data_offsets [0, 8]|do not lie in the 4 bytes|copy or download the file again"},
        {tensor, 12, 0, "the tensors end at byte 8|which has 12 bytes|copy or download the file again"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(headers); i++) {
        const char *path = write_header(headers[i].header, headers[i].bytes, headers[i].cut);
        char *parts = format_string("%s|%s", path, headers[i].parts);
        assert_false(checkpoint_open_weights(&file, path, &error));
        assert_four_parts(error.text, parts);
        free(parts);
    }
    TensorTable table = small_table(LAYERS, C, V, T, false), other = small_table(LAYERS, C + 2, V + 1, T, false);
    const struct {
        const TensorTable *of_file, *of_model;
        const char *extra, *parts;
    } fits[] = {
        {&table, &other, NULL, "has the shape [37, 6]|the model expects [38, 8]|set model.n_embd to 6"},
        {&table, &table, "adapter",
         "the model has no place for|tensor 'adapter'|take the weights of a GPT-2 without additions"},
        {&table, &table, "h.0.ln_1.bias", "'h.0.ln_1.bias' is not all zero|no such bias|set model.bias to true"},
        {&table, &table, "lm_head.weight", "differs from the token embedding|one for both|set model.tie_embeddings"},
        {&table, &table, "transformer.ln_f.weight", "has both|expected one of the two|take other weights"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(fits); i++) {
        const char *path = write_weights(fits[i].of_file, "", NULL, fits[i].extra, C, 0.5f);
        char *parts = format_string("%s|%s", path, fits[i].parts);
        if (!checkpoint_open_weights(&file, path, &error)) fail_msg("%s", error.text);
        assert_false(checkpoint_check_weights(&file, fits[i].of_model, &error));
        assert_four_parts(error.text, parts);
        safetensors_close(&file);
        free(parts);
    }
    static const char *const configs[][2] = {
        {"{" SIZES ",\"model_type\":\"llama\"}", "model_type is \"llama\"|only \"gpt2\" or|weights of another model"},
        {"{" SIZES ",\"n_inner\":31}", "n_inner is 31|only 4 * n_embd = 32|weights of another model"},
        {"{\"n_layer\":0,\"n_embd\":8}", "n_layer is 0|only a whole number from 1|weights of another model"},
        {"{" SIZES ",\"position\":\"rope\"}", "has the key position|is not \"mars_gpt\"|correct model_type"},
        {"{\"data\":{}}", "has neither model_type nor n_embd|expected a config.json of transformers|put the one of"},
        {"[", "config.json| is no valid JSON object|copy or download the file again"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(configs); i++) {
        GPT2Config config;
        char *parts = format_string("%s|%s", test_path("model"), configs[i][1]);
        assert_false(read_config(&config, configs[i][0], &error));
        assert_four_parts(error.text, parts);
        free(parts);
    }
    small_save(test_path("bad"), 3, 3, 0);
    const char *path = test_path("bad/checkpoints/latest/model.safetensors");
    size_t bytes;
    char *content = test_read_file(path, &bytes);
    content[bytes - 1] ^= 1;
    test_write_file(path, content, bytes);
    assert_false(checkpoint_open_weights(&file, path, &error));
    assert_four_parts(error.text,
                      "model.safetensors is damaged|its checksum is|and should be|copy the checkpoint again");
    free(content);
    tensor_table_free(&table);
    tensor_table_free(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefixes_and_layouts),
        cmocka_unit_test(test_large_transposition),
        cmocka_unit_test(test_what_does_not_fit),
        cmocka_unit_test(test_types_that_are_not_read),
        cmocka_unit_test(test_left_over_tensors),
        cmocka_unit_test(test_golden_files),
        cmocka_unit_test(test_lm_head_of_its_own),
        cmocka_unit_test(test_modern_golden_files),
        cmocka_unit_test(test_opening_a_folder),
        cmocka_unit_test(test_copied_weights_are_verified),
        cmocka_unit_test(test_a_set_of_files),
        cmocka_unit_test(test_other_formats),
        cmocka_unit_test(test_folders_of_other_formats),
        cmocka_unit_test(test_config_of_others),
        cmocka_unit_test(test_defaults_of_transformers),
        cmocka_unit_test(test_published_configs),
        cmocka_unit_test(test_biases_of_others),
        cmocka_unit_test(test_wrong_configs),
        cmocka_unit_test(test_keys_of_the_other_kind),
        cmocka_unit_test(test_missing_keys),
        cmocka_unit_test(test_wrong_keys),
        cmocka_unit_test(test_parts_of_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
