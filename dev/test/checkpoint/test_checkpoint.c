/* test_checkpoint.c: what a checkpoint holds and how it is read back, what is kept and what is removed, and damage that
 * must be noticed. Interrupted saves are in test_checkpoint_faults.c, weights from elsewhere in
 * test_checkpoint_weights.c. */
#include "dev/test/model/small_model.h"

#include <cjson/cJSON.h>
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint_layout.h"
#include "data/tokenizer/tokenizer.h"
#include "dev/test/data/gpt2_fixture.h"
#include "util/files.h"

/* ---- what is on the disk ---- */

static cJSON *read_json(const char *path) {
    char *text = test_read_file(path, NULL);
    cJSON *json = cJSON_Parse(text);
    free(text);
    assert_non_null(json);
    return json;
}

static void assert_json(const cJSON *json, const char *key, const char *expected) {
    char *text = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(json, key));
    if (!text || strcmp(text, expected) != 0) fail_msg("%s is %s, expected %s", key, text, expected);
    free(text);
}

static void test_round_trip(void **state) {
    (void)state;
    for (int bias = 0; bias < 2; bias++) {
        const char *out_dir = test_path("round/trip/%d", bias);
        assert_false(checkpoint_exists(out_dir));
        SmallRun run;
        char path[CHECKPOINT_PATH_LENGTH];
        Error error;
        small_start(&run, 1000, 1, bias);
        run.source.algorithms = "a GPU\nshape 1\n";
        if (!small_save_run(&run, out_dir, 0, path, &error)) fail_msg("%s", error.text);
        assert_string_equal(path + strlen(out_dir), "/checkpoints/step_00001000");
        assert_string_equal(small_latest(out_dir), "step_00001000");
        assert_true(checkpoint_exists(out_dir));
        assert_names(path, "algorithms.txt config.json model.safetensors optimizer.safetensors tokenizer_config.json "
                           "trainer.json ");
        assert_names(test_path("round/trip/%d/checkpoints", bias), "latest step_00001000 ");
        Checkpoint checkpoint;
        if (!checkpoint_open(&checkpoint, path, &error)) fail_msg("%s", error.text);
        assert_int_equal(checkpoint.step, 1000);
        assert_int_equal(checkpoint.updates, 500);
        assert_int_equal(checkpoint.sequences, 12345);
        assert_string_equal(checkpoint.optimizer, "mars-adamw");
        assert_string_equal(checkpoint.path, path);
        assert_holds(&checkpoint, 1, bias);
        char *algorithms = checkpoint_read_algorithms(&checkpoint);
        assert_string_equal(algorithms, run.source.algorithms);
        free(algorithms);
        float value;
        assert_false(checkpoint_read_state(&checkpoint, &run.table, "w", 0, &value, &error));
        assert_non_null(strstr(error.text, "'w.wte.weight'"));
        checkpoint_close(&checkpoint);
        GPT2Config config;
        if (!checkpoint_read_model_config(&config, path, NULL, &error)) fail_msg("%s", error.text);
        assert_same_model(&config, &run.source.model);
        tensor_table_free(&run.table);
    }
}

/* As where one rule is for some tensors and another for the rest. */
static bool has_some_states(void *context, int which, int tensor) {
    return (void)context, which == 0 || tensor % 3 == 1;
}

static void test_states_that_not_every_tensor_has(void **state) {
    (void)state;
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    Error error;
    small_start(&run, 3, 1, true);
    run.source.has_state = has_some_states;
    if (!small_save_run(&run, test_path("some"), 0, path, &error)) fail_msg("%s", error.text);
    Checkpoint checkpoint;
    if (!checkpoint_open(&checkpoint, path, &error)) fail_msg("%s", error.text);
    float values[4 * C * C > V * C ? 4 * C * C : V * C];
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < run.table.count; i++) {
            bool there = has_some_states(NULL, which, i);
            assert_int_equal(checkpoint_read_state(&checkpoint, &run.table, which ? "v" : "m", i, values, &error),
                             there);
            for (size_t j = 0; there && j < run.table.tensors[i].size; j++) {
                float expected = small_value(1, which, i, j);
                assert_memory_equal(&values[j], &expected, sizeof expected);
            }
            if (!there) assert_non_null(strstr(error.text, run.table.tensors[i].name));
        }
    assert_int_equal(checkpoint.state.count, run.table.count + run.table.count / 3 + (run.table.count % 3 > 1));
    checkpoint_close(&checkpoint);
    tensor_table_free(&run.table);
}

/* A kind of number per tensor, odd ones. */
static void fetch_scalars(void *context, int which, double *numbers) {
    const double odd[] = {1.0 / 3.0, 0.0, -0.0, 5e-324, DBL_MIN, DBL_MAX / 2.0, -1e22, 0.1, 123456789.0};
    const SmallRun *run = context;
    for (int i = 0; i < run->table.count; i++)
        numbers[i] = odd[(size_t)(i + which) % ARRAY_LENGTH(odd)] * (1.0 + which * 0x1p-52);
}

/* Numbers of one per tensor come back to the last bit. */
static void test_scalars(void **state) {
    (void)state;
    static const char *const names[] = {"snr", "g_last_squares"};
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    Error error;
    small_start(&run, 3, 1, true);
    double scalars[2 * MAX_EVENTS], read[2 * MAX_EVENTS];
    run.source.scalar_count = 2;
    run.source.scalar_names = names;
    run.source.fetch_scalars = fetch_scalars;
    if (!small_save_run(&run, test_path("scalars"), 0, path, &error)) fail_msg("%s", error.text);
    Checkpoint checkpoint;
    if (!checkpoint_open(&checkpoint, path, &error)) fail_msg("%s", error.text);
    assert_holds(&checkpoint, 1, true);
    for (int kind = 0; kind < 2; kind++) {
        if (!checkpoint_read_scalars(&checkpoint, &run.table, names[kind], read, &error)) fail_msg("%s", error.text);
        fetch_scalars(&run, kind, scalars);
        assert_memory_equal(read, scalars, (size_t)run.table.count * sizeof(double));
    }
    assert_false(checkpoint_read_scalars(&checkpoint, &run.table, "g_last_factor", read, &error));
    assert_non_null(strstr(error.text, "trainer.json has no number scalars.g_last_factor of 'wte.weight'"));
    TensorTable deeper = small_table(LAYERS + 1, C, V, T, true);
    assert_false(checkpoint_read_scalars(&checkpoint, &deeper, "snr", read, &error));
    assert_non_null(strstr(error.text, "scalars.snr of 'h.2.ln_1.weight'"));
    checkpoint_close(&checkpoint);
    small_save(test_path("no_scalars"), 3, 1, 0);
    assert_true(checkpoint_open(&checkpoint, test_path("no_scalars/checkpoints/step_00000003"), &error));
    assert_false(checkpoint_read_scalars(&checkpoint, &run.table, "snr", read, &error));
    checkpoint_close(&checkpoint);
    tensor_table_free(&deeper);
    tensor_table_free(&run.table);
}

/* The data of tensor `name` in the bytes of a safetensors file, found without our reader; asserts its shape. */
static const uint8_t *find_on_disk(const char *file, const char *name, const char *shape) {
    char *start = format_string("\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[", name, shape);
    const char *found = strstr(file + 8, start);
    if (!found) fail_msg("the header does not hold %s", start);
    uint64_t header;
    memcpy(&header, file, 8);
    long long offset = strtoll(found + strlen(start), NULL, 10);
    free(start);
    return (const uint8_t *)file + 8 + header + offset;
}

static void test_hugging_face_layout(void **state) {
    (void)state;
    const char *out_dir = test_path("layout");
    small_save(out_dir, 7, 3, 0);
    char *file = test_read_file(test_path("layout/checkpoints/step_00000007/model.safetensors"), NULL);
    TensorTable table = small_table(LAYERS, C, V, T, false);
    const uint8_t *data = find_on_disk(file, "transformer.h.1.attn.c_attn.weight", "[6,18]");
    int attention = tensor_table_find(&table, "h.1.attn.c_attn.weight");
    for (int in = 0; in < C; in++)
        for (int out = 0; out < 3 * C; out++) {
            float expected = small_value(3, CHECKPOINT_WEIGHTS, attention, (size_t)(out * C + in));
            assert_memory_equal(data + 4 * (in * 3 * C + out), &expected, 4);
        }
    data = find_on_disk(file, "transformer.wte.weight", "[37,6]"); /* not transposed, without the padding rows */
    for (size_t i = 0; i < V * C; i++) {
        float expected = small_value(3, CHECKPOINT_WEIGHTS, 0, i);
        assert_memory_equal(data + 4 * i, &expected, 4);
    }
    static const uint8_t zeros[4 * 4 * C];
    assert_memory_equal(find_on_disk(file, "transformer.h.0.ln_1.bias", "[6]"), zeros, 4 * C);
    assert_memory_equal(find_on_disk(file, "transformer.h.0.attn.c_attn.bias", "[18]"), zeros, 4 * 3 * C);
    assert_memory_equal(find_on_disk(file, "transformer.h.1.mlp.c_fc.bias", "[24]"), zeros, 4 * 4 * C);
    assert_memory_equal(find_on_disk(file, "transformer.h.1.mlp.c_proj.bias", "[6]"), zeros, 4 * C);
    assert_memory_equal(find_on_disk(file, "transformer.ln_f.bias", "[6]"), zeros, 4 * C);
    find_on_disk(file, "transformer.h.1.mlp.c_proj.weight", "[24,6]");
    find_on_disk(file, "transformer.ln_f.weight", "[6]");
    assert_non_null(strstr(file + 8, "\"__metadata__\":{\"format\":\"pt\"}"));
    assert_null(strstr(file + 8, "lm_head"));
    assert_null(strstr(file + 8, "wte.bias"));
    free(file);
    file = test_read_file(test_path("layout/checkpoints/step_00000007/optimizer.safetensors"), NULL);
    data = find_on_disk(file, "v.h.1.attn.c_attn.weight", "[18,6]");
    for (size_t i = 0; i < 18 * C; i++) {
        float expected = small_value(3, 1, attention, i);
        assert_memory_equal(data + 4 * i, &expected, 4);
    }
    assert_null(strstr(file + 8, ".bias"));
    free(file);
    tensor_table_free(&table);
}

static void test_json_files(void **state) {
    (void)state;
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    small_start(&run, 12, 1, false);
    run.source.state_count = 0;
    assert_true(small_save_run(&run, test_path("json"), 0, path, NULL));
    cJSON *json = read_json(test_path("json/checkpoints/step_00000012/config.json"));
    static const char *const expected[][2] = {{"model_type", "\"gpt2\""},
                                              {"architectures", "[\"GPT2LMHeadModel\"]"},
                                              {"n_layer", "2"},
                                              {"n_head", "2"},
                                              {"n_embd", "6"},
                                              {"n_positions", "5"},
                                              {"n_ctx", "5"},
                                              {"vocab_size", "37"},
                                              {"activation_function", "\"gelu_new\""},
                                              {"layer_norm_epsilon", "1e-05"},
                                              {"scale_attn_by_inverse_layer_idx", "true"},
                                              {"tie_word_embeddings", "true"},
                                              {"resid_pdrop", "0"},
                                              {"embd_pdrop", "0"},
                                              {"attn_pdrop", "0"},
                                              {"initializer_range", "0.02"},
                                              {"torch_dtype", "\"float32\""},
                                              {"bos_token_id", "null"},
                                              {"eos_token_id", "null"},
                                              {"use_cache", "true"}};
    for (size_t i = 0; i < ARRAY_LENGTH(expected); i++) assert_json(json, expected[i][0], expected[i][1]);
    assert_int_equal(cJSON_GetArraySize(json), ARRAY_LENGTH(expected));
    cJSON_Delete(json);
    json = read_json(test_path("json/checkpoints/step_00000012/trainer.json"));
    assert_json(json, "version", "1");
    assert_json(json, "step", "12");
    assert_json(json, "updates", "6");
    assert_json(json, "sequences", "12345");
    assert_json(json, "optimizer", "\"mars-adamw\"");
    assert_json(json, "has_bias", "false");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "files")), 3);
    assert_true(cJSON_IsObject(cJSON_GetObjectItem(json, "config")));
    cJSON_Delete(json);
    char *text = test_read_file(test_path("json/checkpoints/step_00000012/trainer.json"), NULL);
    assert_non_null(strstr(text, small_config_json)); /* to the last digit of the seed */
    free(text);
    Checkpoint checkpoint; /* without optimizer states there is no file for them */
    assert_true(checkpoint_open(&checkpoint, path, NULL));
    assert_int_equal(checkpoint.state.count, 0);
    checkpoint_close(&checkpoint);
    run.source.model.vocab_size = 50257;
    run.source.step = 13;
    assert_true(small_save_run(&run, test_path("json"), 0, path, NULL));
    json = read_json(test_path("json/checkpoints/step_00000013/config.json"));
    assert_json(json, "bos_token_id", "50256");
    assert_json(json, "eos_token_id", "50256");
    cJSON_Delete(json);
    tensor_table_free(&run.table);
}

/* ---- models that transformers' GPT-2 cannot compute ---- */

static const struct {
    const char *name;
    bool is_gpt2;
    const char *keys;
} variants[] = {
    {"bias", true, "{\"bias\": true}"},
    {"scale", true, "{\"scale_attn_by_inverse_layer_idx\": false}"},
    {"eps", true, "{\"norm_eps\": 1.1920928955078125e-07}"},
    {"relu2", true, "{\"activation\": \"relu2\"}"},
    {"untied", true, "{\"tie_embeddings\": false}"},
    {"lm_head_bias", false, "{\"tie_embeddings\": false, \"lm_head_bias\": true}"},
    {"rope", false, "{\"position\": \"rope\", \"rope_base\": 500000, \"n_embd\": 8}"},
    {"rope_half", false, "{\"position\": \"rope-half\", \"rope_base\": 1024, \"n_embd\": 16}"},
    {"rmsnorm", false, "{\"norm\": \"rmsnorm\", \"bias\": true}"},
    {"norm_gain", false, "{\"norm_gain\": false}"},
    {"norm_embedding", false, "{\"norm_embedding\": true}"},
    {"qk_norm", false, "{\"qk_norm\": true, \"qk_norm_eps\": 0.0078125}"},
    {"attention_scale", false, "{\"attention_scale\": 0.12}"},
    {"attention_output_scale", false, "{\"attention_output_scale\": 0.408248290463863}"},
    {"logit_softcap", false, "{\"logit_softcap\": 15}"},
};

/* What is read is the model that was written, and the folder has what transformers needs for it. */
static void test_config_of_every_variant(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
        const char *name = variants[i].name;
        bool is_gpt2 = variants[i].is_gpt2;
        SmallRun run;
        char path[CHECKPOINT_PATH_LENGTH];
        Error error;
        GPT2Config read;
        small_start(&run, 1, 1, false);
        run.source.model = small_model(variants[i].keys);
        run.source.model.init = MODEL_INIT_FAN_IN; /* which nobody reads from there */
        assert_int_equal(gpt2_config_is_gpt2(&run.source.model), is_gpt2);
        if (!small_save_run(&run, test_path("%s", name), 0, path, &error)) fail_msg("%s: %s", name, error.text);
        if (!checkpoint_read_model_config(&read, path, NULL, &error)) fail_msg("%s: %s", name, error.text);
        assert_same_model(&read, &run.source.model);
        assert_int_equal(read.init, MODEL_INIT_GPT2);
        cJSON *json = read_json(test_path("%s/checkpoints/latest/config.json", name));
        assert_json(json, "model_type", is_gpt2 ? "\"gpt2\"" : "\"mars_gpt\"");
        assert_json(json, "torch_dtype", "\"float32\"");
        if (is_gpt2) assert_null(cJSON_GetObjectItem(json, "auto_map"));
        cJSON_Delete(json);
        assert_names(path, is_gpt2 ? "config.json model.safetensors optimizer.safetensors tokenizer_config.json "
                                     "trainer.json "
                                   : "config.json model.safetensors modeling_mars_gpt.py optimizer.safetensors "
                                     "tokenizer_config.json trainer.json ");
        tensor_table_free(&run.table);
    }
}

/* transformers' words for what its GPT-2 can do. */
static void test_keys_of_transformers(void **state) {
    (void)state;
    GPT2Config model = gpt2_config(LAYERS, 2, C, T, V);
    model.activation = ACTIVATION_RELU2;
    model.norm_eps = 1e-6;
    model.tie_embeddings = model.scale_attn_by_inverse_layer_idx = false;
    model.dropout = 0.125;
    char *text = checkpoint_model_config(&model, DTYPE_FLOAT32, false);
    cJSON *json = cJSON_Parse(text);
    assert_json(json, "activation_function", "\"relu2\"");
    assert_json(json, "layer_norm_epsilon", "1e-06");
    assert_json(json, "tie_word_embeddings", "false");
    assert_json(json, "scale_attn_by_inverse_layer_idx", "false");
    static const char *const rates[] = {"resid_pdrop", "embd_pdrop", "attn_pdrop"};
    for (size_t i = 0; i < ARRAY_LENGTH(rates); i++) assert_json(json, rates[i], "0.125");
    cJSON_Delete(json);
    free(text);
}

/* A run of a model with a norm after the embedding and an LM head of its own, without most biases. */
static void start_modern(SmallRun *run, int64_t step, int version) {
    small_start(run, step, version, false);
    small_add(&run->table, "ln_emb.weight", ROLE_VECTOR, 1, C, 1);
    small_add(&run->table, "lm_head.weight", ROLE_LM_HEAD, V, C, V + 27);
    small_add(&run->table, "lm_head.bias", ROLE_VECTOR, 1, V, 1);
    run->source.model.norm_embedding = run->source.model.lm_head_bias = true;
    run->source.model.tie_embeddings = false;
}

/* The names and shapes of its tensors, and no biases that it does not have. */
static void test_layout_of_other_models(void **state) {
    (void)state;
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    Error error;
    start_modern(&run, 1, 5);
    if (!small_save_run(&run, test_path("modern"), 0, path, &error)) fail_msg("%s", error.text);
    char *file = test_read_file(test_path("modern/checkpoints/latest/model.safetensors"), NULL);
    const uint8_t *data = find_on_disk(file, "lm_head.weight", "[37,6]");
    int head = tensor_table_find(&run.table, "lm_head.weight");
    for (size_t i = 0; i < V * C; i++) {
        float expected = small_value(5, CHECKPOINT_WEIGHTS, head, i);
        assert_memory_equal(data + 4 * i, &expected, 4);
    }
    find_on_disk(file, "lm_head.bias", "[37]");
    find_on_disk(file, "transformer.ln_emb.weight", "[6]");
    find_on_disk(file, "transformer.wte.weight", "[37,6]");
    find_on_disk(file, "transformer.h.1.attn.c_attn.weight", "[6,18]");
    assert_null(strstr(file + 8, "ln_f.bias"));
    assert_null(strstr(file + 8, "c_attn.bias"));
    free(file);
    Checkpoint checkpoint;
    float values[4 * C * C];
    if (!checkpoint_open(&checkpoint, path, &error)) fail_msg("%s", error.text);
    if (!checkpoint_check_weights(&checkpoint.model, &run.table, &error)) fail_msg("%s", error.text);
    assert_true(checkpoint_read_weights(&checkpoint.model, &run.table, head + 1, values, &error));
    for (size_t i = 0; i < V; i++) {
        float expected = small_value(5, CHECKPOINT_WEIGHTS, head + 1, i);
        assert_memory_equal(&values[i], &expected, 4);
    }
    checkpoint_close(&checkpoint);
    tensor_table_free(&run.table);
}

/* An LM head of its own in transformers' GPT-2, which has a bias everywhere but there. */
static void test_layout_of_an_untied_gpt2(void **state) {
    (void)state;
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    Error error;
    small_start(&run, 1, 5, false);
    small_add(&run.table, "lm_head.weight", ROLE_LM_HEAD, V, C, V + 27);
    run.source.model.tie_embeddings = false;
    if (!small_save_run(&run, test_path("own_head"), 0, path, &error)) fail_msg("%s", error.text);
    char *file = test_read_file(test_path("own_head/checkpoints/latest/model.safetensors"), NULL);
    find_on_disk(file, "lm_head.weight", "[37,6]");
    find_on_disk(file, "transformer.ln_f.bias", "[6]");
    assert_null(strstr(file + 8, "lm_head.bias"));
    free(file);
    tensor_table_free(&run.table);
}

/* The model's code is the repository's file to the byte, and its checksum is in trainer.json. */
static void test_modeling_file(void **state) {
    (void)state;
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    Error error;
    start_modern(&run, 1, 1);
    if (!small_save_run(&run, test_path("code"), 0, path, &error)) fail_msg("%s", error.text);
    assert_run(test_run("cmp checkpoint/modeling_mars_gpt.py '%s/modeling_mars_gpt.py'", path), 0, "");
    cJSON *json = read_json(test_path("code/checkpoints/latest/config.json"));
    const cJSON *classes = cJSON_GetObjectItemCaseSensitive(json, "auto_map");
    assert_json(json, "architectures", "[\"MarsGPTForCausalLM\"]");
    assert_json(classes, "AutoConfig", "\"modeling_mars_gpt.MarsGPTConfig\"");
    assert_json(classes, "AutoModelForCausalLM", "\"modeling_mars_gpt.MarsGPTForCausalLM\"");
    cJSON_Delete(json);
    Checkpoint checkpoint;
    assert_true(checkpoint_open(&checkpoint, path, &error));
    checkpoint_close(&checkpoint);
    const char *code = test_path("code/checkpoints/latest/modeling_mars_gpt.py");
    size_t bytes;
    char *text = test_read_file(code, &bytes);
    text[bytes / 2] ^= 1;
    test_write_file(code, text, bytes);
    free(text);
    assert_false(checkpoint_open(&checkpoint, path, &error));
    assert_non_null(strstr(error.text, "modeling_mars_gpt.py is damaged: its checksum"));
    tensor_table_free(&run.table);
}

/* ---- the tokenizer ---- */

/* Saves a checkpoint of a run whose tokens lie in `folder`; its path. */
static const char *save_with_tokens(const char *name, const char *folder, int vocab_size) {
    SmallRun run;
    static char path[CHECKPOINT_PATH_LENGTH];
    Error error;
    small_start(&run, 1, 1, false);
    run.source.tokens_folder = folder;
    run.source.model.vocab_size = vocab_size;
    if (!small_save_run(&run, test_path("%s", name), 0, path, &error)) fail_msg("%s", error.text);
    tensor_table_free(&run.table);
    return path;
}

static const char *tokens_folder(const char *name, const char *tokens_json) {
    const char *folder = test_path("%s", name);
    mkdir(folder, 0777);
    if (tokens_json) test_write_text(test_path("%s/tokens.json", name), tokens_json);
    return folder;
}

static void test_vocabulary_is_copied(void **state) {
    (void)state;
    const char *folder = tokens_folder("tokens", "{\"tokenizer\": \"gpt2\"}");
    test_write_text(test_path("tokens/encoder.json"), "{}");
    test_write_file(test_path("tokens/vocab.bpe"), "a\0b", 3);
    test_write_text(test_path("tokens/other.txt"), "not ours");
    const char *path = save_with_tokens("copied", folder, V);
    assert_names(path,
                 "config.json merges.txt model.safetensors optimizer.safetensors tokenizer_config.json tokens.json "
                 "trainer.json vocab.json ");
    size_t bytes;
    char *copy = test_read_file(test_path("copied/checkpoints/latest/merges.txt"), &bytes);
    assert_int_equal(bytes, 3);
    assert_memory_equal(copy, "a\0b", 3);
    free(copy);
    test_write_file(test_path("copied/checkpoints/latest/merges.txt"), "a\0c", 3);
    Checkpoint checkpoint;
    Error error;
    assert_false(checkpoint_open(&checkpoint, path, &error));
    assert_non_null(strstr(error.text, "merges.txt is damaged: its checksum"));
}

static int number_of(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item)) fail_msg("there is no number '%s'", key);
    return item->valueint;
}

/* The files from which AutoTokenizer makes GPT-2's tokenizer, for which "Hello world" is [15496, 995]. */
static void test_tokenizer_of_gpt2(void **state) {
    (void)state;
    const char *folder = tokens_folder("gpt2_tokens", "{\"tokenizer\": \"gpt2\"}");
    assert_run(test_run("cp '%s'/encoder.json '%s'/vocab.bpe '%s'", gpt2_folder(), gpt2_folder(), folder), 0, "");
    char *path = checked_strdup(save_with_tokens("gpt2_run", folder, 50257));
    cJSON *json = read_json(test_path("gpt2_run/checkpoints/latest/tokenizer_config.json"));
    assert_json(json, "tokenizer_class", "\"GPT2Tokenizer\"");
    assert_json(json, "model_max_length", "5");
    assert_json(json, "add_prefix_space", "false");
    assert_json(json, "eos_token", "\"<|endoftext|>\"");
    cJSON_Delete(json);
    json = read_json(test_path("gpt2_run/checkpoints/latest/vocab.json"));
    assert_int_equal(cJSON_GetArraySize(json), 50257);
    assert_int_equal(number_of(json, "Hello"), 15496);
    assert_int_equal(number_of(json, "\u0120world"), 995); /* the letter of a blank */
    assert_int_equal(number_of(json, "<|endoftext|>"), 50256);
    cJSON_Delete(json);
    char *merges = test_read_file(test_path("gpt2_run/checkpoints/latest/merges.txt"), NULL);
    static const char start[] = "#version: 0.2\n\u0120 t\n\u0120 a\nh e\n";
    assert_memory_equal(merges, start, strlen(start));
    free(merges);
    json = read_json(test_path("gpt2_run/checkpoints/latest/config.json"));
    assert_json(json, "eos_token_id", "50256");
    cJSON_Delete(json);
    Tokenizer *tokenizer; /* and ours reads the same files */
    Error error;
    if (!tokenizer_open(&tokenizer, NULL, path, &error)) fail_msg("%s", error.text);
    assert_int_equal(tokenizer_vocab_size(tokenizer), 50257);
    tokenizer_close(tokenizer);
    free(path);
}

/* Tokens that others have made come without a vocabulary: it is taken from data/gpt2, if it is there. */
static void test_vocabulary_of_data_gpt2(void **state) {
    (void)state;
    char *root = getcwd(NULL, 0);
    char *folder = checked_strdup(tokens_folder("fineweb", "{\"tokenizer\": \"gpt2\"}"));
    assert_run(test_run("mkdir -p '%s/data/gpt2' && echo '{}' > '%s/data/gpt2/encoder.json' && touch "
                        "'%s/data/gpt2/vocab.bpe'",
                        test_folder(), test_folder(), test_folder()),
               0, "");
    assert_int_equal(chdir(test_folder()), 0);
    save_with_tokens("fineweb_run", folder, V);
    assert_int_equal(chdir(root), 0);
    assert_true(files_is_file(test_path("fineweb_run/checkpoints/latest/vocab.json")));
    assert_true(files_is_file(test_path("fineweb_run/checkpoints/latest/merges.txt")));
    cJSON *json = read_json(test_path("fineweb_run/checkpoints/latest/tokenizer_config.json"));
    assert_json(json, "tokenizer_class", "\"GPT2Tokenizer\"");
    cJSON_Delete(json);
    free(root), free(folder);
}

/* Of bytes: token b is byte b, whatever the size of the model's vocabulary, and nothing is taken for GPT-2's. */
static void test_tokenizer_of_bytes(void **state) {
    (void)state;
    const char *folder = tokens_folder("byte_tokens", "{\"tokenizer\": \"bytes\"}");
    test_write_text(test_path("byte_tokens/vocab.json"), "{}"); /* of something else */
    test_write_text(test_path("byte_tokens/merges.txt"), "");
    const char *path = save_with_tokens("byte_run", folder, 50304);
    assert_names(path, "config.json model.safetensors optimizer.safetensors tokenizer.json tokenizer_config.json "
                       "tokens.json trainer.json ");
    cJSON *json = read_json(test_path("byte_run/checkpoints/latest/tokenizer_config.json"));
    assert_json(json, "tokenizer_class", "\"PreTrainedTokenizerFast\"");
    assert_null(cJSON_GetObjectItemCaseSensitive(json, "eos_token"));
    cJSON_Delete(json);
    json = read_json(test_path("byte_run/checkpoints/latest/tokenizer.json"));
    const char *steps[] = {"pre_tokenizer", "decoder"};
    for (int i = 0; i < 2; i++) {
        const cJSON *step = cJSON_GetObjectItemCaseSensitive(json, steps[i]);
        assert_json(step, "type", "\"ByteLevel\"");
        assert_json(step, "add_prefix_space", "false");
        assert_json(step, "use_regex", "false");
    }
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(json, "model");
    const cJSON *vocabulary = cJSON_GetObjectItemCaseSensitive(model, "vocab");
    assert_json(model, "type", "\"BPE\"");
    assert_json(model, "merges", "[]");
    assert_int_equal(cJSON_GetArraySize(vocabulary), 256);
    assert_int_equal(number_of(vocabulary, "A"), 'A');
    assert_int_equal(number_of(vocabulary, "\""), '"');
    assert_int_equal(number_of(vocabulary, "\u0100"), 0);
    assert_int_equal(number_of(vocabulary, "\u010a"), '\n');
    assert_int_equal(number_of(vocabulary, "\u0120"), ' ');
    assert_int_equal(number_of(vocabulary, "\u0143"), 0xad);
    assert_int_equal(number_of(vocabulary, "\u00ff"), 0xff);
    cJSON_Delete(json);
    json = read_json(test_path("byte_run/checkpoints/latest/config.json"));
    assert_json(json, "eos_token_id", "null");
    cJSON_Delete(json);
}

/* Without a description transformers would make an empty GPT-2 tokenizer: it gets one that names no vocabulary. */
static void test_unknown_tokenizer(void **state) {
    (void)state;
    static const char *const descriptions[] = {NULL, "{\"tokenizer\": \"words\"}", "{", "[]"};
    for (size_t i = 0; i < ARRAY_LENGTH(descriptions); i++) {
        char *name = format_string("unknown_%zu", i), *out = format_string("unknown_run_%zu", i);
        const char *path = save_with_tokens(out, tokens_folder(name, descriptions[i]), V);
        cJSON *json = read_json(test_path("%s/checkpoints/latest/tokenizer_config.json", out));
        assert_json(json, "tokenizer_class", "\"PreTrainedTokenizerFast\"");
        assert_names(path, descriptions[i]
                               ? "config.json model.safetensors optimizer.safetensors tokenizer_config.json "
                                 "tokens.json trainer.json "
                               : "config.json model.safetensors optimizer.safetensors tokenizer_config.json "
                                 "trainer.json ");
        cJSON_Delete(json);
        free(name);
        free(out);
    }
}

/* A tokenizer.json that somebody put next to the tokens is theirs. */
static void test_tokenizer_of_others(void **state) {
    (void)state;
    const char *folder = tokens_folder("own_tokens", NULL);
    test_write_text(test_path("own_tokens/tokenizer.json"), "{\"version\": \"1.0\"}");
    save_with_tokens("own_run", folder, V);
    cJSON *json = read_json(test_path("own_run/checkpoints/latest/tokenizer.json"));
    assert_json(json, "version", "\"1.0\"");
    cJSON_Delete(json);
    test_write_text(test_path("own_tokens/tokenizer_config.json"), "{\"tokenizer_class\": \"MyTokenizer\"}");
    save_with_tokens("own_run2", folder, V);
    json = read_json(test_path("own_run2/checkpoints/latest/tokenizer_config.json"));
    assert_json(json, "tokenizer_class", "\"MyTokenizer\"");
    cJSON_Delete(json);
}

/* ---- several processes ---- */

static void test_every_process_fetches_the_same(void **state) {
    (void)state;
    SmallRun writer, other, failing;
    char path[CHECKPOINT_PATH_LENGTH], other_path[CHECKPOINT_PATH_LENGTH];
    Error error;
    small_start(&writer, 5, 1, true);
    small_start(&other, 5, 1, true);
    small_start(&failing, 5, 1, true);
    assert_true(small_save_run(&writer, test_path("many"), 0, path, &error));
    assert_true(checkpoint_save(&other.source, test_path("many"), 0, false, other_path, &error));
    assert_string_equal(path, other_path);
    assert_false(other.with_host);
    assert_int_equal(writer.events, 3 * writer.table.count);
    test_write_text(test_path("in_the_way"), "a file where a folder should be");
    assert_false(small_save_run(&failing, test_path("in_the_way"), 0, path, &error));
    assert_non_null(strstr(error.text, "in_the_way"));
    assert_int_equal(other.events, writer.events);
    assert_int_equal(failing.events, writer.events);
    assert_memory_equal(other.which, writer.which, sizeof writer.which);
    assert_memory_equal(other.tensor, writer.tensor, sizeof writer.tensor);
    assert_memory_equal(failing.which, writer.which, sizeof writer.which);
    assert_memory_equal(failing.tensor, writer.tensor, sizeof writer.tensor);
    failing.source.config_json = "{} and more";
    failing.events = 0;
    assert_false(small_save_run(&failing, test_path("many"), 0, path, &error));
    assert_non_null(strstr(error.text, "config is no JSON object"));
    assert_names(test_path("many/checkpoints"), "latest step_00000005 ");
    tensor_table_free(&writer.table);
    tensor_table_free(&other.table);
    tensor_table_free(&failing.table);
}

/* ---- pruning, and saving a step again ---- */

static void test_keep(void **state) {
    (void)state;
    const char *out_dir = test_path("keep"), *folder = test_path("keep/checkpoints");
    for (int step = 8; step <= 12; step++) small_save(out_dir, step, step, 0);
    assert_names(folder, "latest step_00000008 step_00000009 step_00000010 step_00000011 step_00000012 ");
    assert_int_equal(mkdir(test_path("keep/checkpoints/.tmp_step_00000099"), 0777), 0);
    test_write_text(test_path("keep/checkpoints/.tmp_step_00000099/model.safetensors"), "half");
    test_write_text(test_path("keep/checkpoints/notes.txt"), "a user's file stays");
    assert_int_equal(mkdir(test_path("keep/checkpoints/step_best"), 0777), 0);
    small_save(out_dir, 100000000, 1, 3);
    assert_names(folder, "latest notes.txt step_00000011 step_00000012 step_100000000 step_best ");
    small_save(out_dir, 99999999, 2, 2); /* by number, not by name; `latest` stays whatever its number */
    assert_names(folder, "latest notes.txt step_100000000 step_99999999 step_best ");
    small_save(out_dir, 50, 3, 1);
    assert_names(folder, "latest notes.txt step_00000050 step_100000000 step_best ");
    assert_string_equal(small_latest(out_dir), "step_00000050");
    assert_newest(out_dir, 50, 3);
}

static void test_saving_a_step_again(void **state) {
    (void)state;
    const char *out_dir = test_path("again"), *folder = test_path("again/checkpoints");
    small_save(out_dir, 10, 1, 2);
    small_save(out_dir, 10, 2, 2);
    assert_names(folder, "latest step_00000010 ");
    assert_newest(out_dir, 10, 2);
    /* as after a crash between the two renames: only the one set aside is there */
    assert_int_equal(
        rename(test_path("again/checkpoints/step_00000010"), test_path("again/checkpoints/step_00000010.old")), 0);
    assert_true(checkpoint_exists(out_dir));
    assert_newest(out_dir, 10, 2);
    small_save(out_dir, 11, 3, 0); /* it is a checkpoint like others until its step is saved again */
    assert_names(folder, "latest step_00000010.old step_00000011 ");
    small_save(out_dir, 10, 4, 0);
    assert_names(folder, "latest step_00000010 step_00000011 ");
    assert_newest(out_dir, 10, 4);
}

/* ---- damage ---- */

static void assert_damaged(const char *path, const char *what, size_t position) {
    Checkpoint checkpoint;
    Error error = {""};
    if (checkpoint_open(&checkpoint, path, &error)) fail_msg("%s, position %zu: not noticed", what, position);
    if (!strstr(error.text, path)) fail_msg("the message does not name %s: %s", path, error.text);
    assert_false(checkpoint.model.is_open);
}

static void test_every_damage_is_noticed(void **state) {
    (void)state;
    static const char *const names[] = {"model.safetensors", "optimizer.safetensors", "config.json", "trainer.json"};
    small_save(test_path("damage"), 1, 1, 0);
    char *path = checked_strdup(test_path("damage/checkpoints/step_00000001"));
    Checkpoint checkpoint;
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        size_t bytes;
        const char *name = test_path("damage/checkpoints/step_00000001/%s", names[i]);
        char *whole = test_read_file(name, &bytes), *changed = checked_malloc(bytes + 1, "a test file");
        for (size_t j = 0; j < 150; j++) {
            size_t position = j * 7919 % bytes;
            memcpy(changed, whole, bytes);
            changed[position] ^= (char)(1 << j % 8);
            test_write_file(name, changed, bytes);
            assert_damaged(path, names[i], position);
        }
        for (size_t j = 0; j < 50; j++) {
            size_t length = j < 5 ? bytes - 1 - j : bytes * (j - 5) / 45;
            test_write_file(name, whole, length);
            assert_damaged(path, names[i], length);
        }
        memcpy(changed, whole, bytes);
        changed[bytes] = 0;
        test_write_file(name, changed, bytes + 1);
        assert_damaged(path, names[i], bytes);
        assert_int_equal(unlink(name), 0);
        assert_damaged(path, names[i], 0);
        test_write_file(name, whole, bytes);
        assert_true(checkpoint_open(&checkpoint, path, NULL));
        checkpoint_close(&checkpoint);
        free(whole);
        free(changed);
    }
    free(path);
}

/* A trainer.json with a right seal and wrong content, as no damage but only a program could write it. */
static void test_trainer_json_is_checked(void **state) {
    (void)state;
#define TRAINER(version, step, optimizer, files)                          \
    "{\"version\":" version ",\"step\":" step ",\"optimizer\":" optimizer \
    ",\"has_bias\":true,\"updates\":1,\"sequences\":3,\"files\":" files
#define FILE_ENTRY "{\"bytes\":1,\"xxh3\":\"0\"}"
#define FILES "{\"model.safetensors\":" FILE_ENTRY ",\"config.json\":" FILE_ENTRY
    static const struct {
        const char *body, *text;
    } cases[] = {
        {TRAINER("2", "1", "\"adamw\"", FILES "}"), "version is 2; expected a whole number from 1 to 1"},
        {TRAINER("1", "-1", "\"adamw\"", FILES "}"), "step is -1; expected a whole number"},
        {TRAINER("1", "1.5", "\"adamw\"", FILES "}"), "step is 1.5; expected a whole number"},
        {TRAINER("1", "0", "\"adamw\"", FILES "}"), "expected a whole number from 0 to 0"},
        {TRAINER("1", "1", "17", FILES "}"), "optimizer, has_bias or files is missing"},
        {TRAINER("1", "1", "\"adamw\"", "[]"), "files with at least model.safetensors"},
        {TRAINER("1", "1", "\"adamw\"", "{\"config.json\":" FILE_ENTRY "}"), "files with at least model.safetensors"},
        {TRAINER("1", "1", "\"adamw\"",
                 "{\"../x\":" FILE_ENTRY ","
                 "\"model.safetensors\":1,\"config.json\":1}"),
         "plain file name"},
        {TRAINER("1", "1", "\"adamw\"", "{\"model.safetensors\":{\"bytes\":1},\"config.json\":1}"), "bytes and xxh3"},
        {TRAINER("1", "1", "\"adamw\"", FILES "}"), "model.safetensors is damaged: it has"},
        {"{\"version\":1,\"step\":1,\"optimizer\":\"adamw\",\"has_bias\":true,\"updates\":1,\"files\":" FILES "}",
         "expected a whole number from 1 to 2147483647"},
        {"{\"version\":1,\"step\":1,\"optimizer\":\"adamw\",\"has_bias\":true,\"updates\":1,\"sequences\":-1,"
         "\"files\":" FILES "}",
         "expected a whole number from 0"},
        {"[1", "no valid JSON object"},
    };
    small_save(test_path("trainer"), 1, 1, 0);
    const char *folder = test_path("trainer/checkpoints/step_00000001");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *sealed = format_string("%s,\n\"xxh3\": \"%016" PRIx64 "\"}\n", cases[i].body,
                                     files_checksum_memory(cases[i].body, strlen(cases[i].body)));
        test_write_text(test_path("trainer/checkpoints/step_00000001/trainer.json"), sealed);
        free(sealed);
        Checkpoint checkpoint;
        Error error = {""};
        assert_false(checkpoint_open(&checkpoint, folder, &error));
        if (!strstr(error.text, cases[i].text)) fail_msg("expected '%s': %s", cases[i].text, error.text);
    }
}

/* ---- what earlier versions wrote ---- */

/* Version 0.1.0 did not count sequences: they are the steps times the batch of its config. */
static void test_checkpoint_of_0_1_0(void **state) {
    (void)state;
    Checkpoint checkpoint;
    Error error;
    GPT2Config config;
    if (!checkpoint_open_newest(&checkpoint, "dev/golden/checkpoint_0.1.0", &error)) fail_msg("%s", error.text);
    assert_int_equal(checkpoint.step, 6);
    assert_int_equal(checkpoint.updates, 6);
    assert_int_equal(checkpoint.sequences, 6 * 12);
    assert_string_equal(checkpoint.optimizer, "mars-adamw");
    if (!checkpoint_read_model_config(&config, checkpoint.path, &checkpoint.model, &error)) fail_msg("%s", error.text);
    assert_true(config.n_layer == 2 && config.n_head == 2 && config.n_embd == 8 && config.block_size == 16);
    assert_true(!config.bias && config.scale_attn_by_inverse_layer_idx && config.vocab_size == 256);
    TensorTable table = small_table(2, 8, 256, 16, false);
    if (!checkpoint_check_weights(&checkpoint.model, &table, &error)) fail_msg("%s", error.text);
    tensor_table_free(&table);
    checkpoint_close(&checkpoint);
}

/* ---- falling back ---- */

/* What `action` prints on standard error; the caller frees. */
static char *warnings_of(void (*action)(const char *out_dir), const char *out_dir) {
    const char *path = test_path("warnings");
    int old = dup(STDERR_FILENO);
    assert_non_null(freopen(path, "w", stderr));
    action(out_dir);
    fflush(stderr);
    dup2(old, STDERR_FILENO);
    close(old);
    return test_read_file(path, NULL);
}

static void expect_step_2(const char *out_dir) { assert_newest(out_dir, 2, 2); }
static void expect_step_12(const char *out_dir) { assert_newest(out_dir, 12, 12); }

static void expect_nothing(const char *out_dir) {
    Checkpoint checkpoint;
    Error error;
    assert_false(checkpoint_open_newest(&checkpoint, out_dir, &error));
    assert_non_null(strstr(error.text, "no whole checkpoint"));
    assert_non_null(strstr(error.text, "step_00000012/trainer.json"));
    assert_non_null(strstr(error.text, "step_00000002/trainer.json"));
}

static void test_falling_back(void **state) {
    (void)state;
    char *out_dir = checked_strdup(test_path("fall")), *warnings;
    for (int step = 1; step <= 2; step++) small_save(out_dir, step, step, 0);
    small_save(out_dir, 12, 12, 0);
    warnings = warnings_of(expect_step_12, out_dir);
    assert_string_equal(warnings, "");
    free(warnings);
    static const char *const links[] = {"", "step_00000099", "step_12", "/nowhere", "."};
    for (size_t i = 0; i < ARRAY_LENGTH(links); i++) { /* missing, dangling, not ours: the highest number */
        assert_int_equal(unlink(test_path("fall/checkpoints/latest")), 0);
        if (*links[i]) assert_int_equal(symlink(links[i], test_path("fall/checkpoints/latest")), 0);
        warnings = warnings_of(expect_step_12, out_dir);
        assert_non_null(strstr(warnings, "latest names no checkpoint"));
        free(warnings);
        if (!*links[i]) test_write_text(test_path("fall/checkpoints/latest"), "no link");
    }
    small_save(out_dir, 12, 12, 0); /* which also repairs the link */
    test_write_text(test_path("fall/checkpoints/step_00000012/config.json"), "{}");
    warnings = warnings_of(expect_step_2, out_dir);
    assert_non_null(strstr(warnings, "step_00000012/config.json is damaged: it has 2 bytes"));
    free(warnings);
    assert_int_equal(unlink(test_path("fall/checkpoints/step_00000012/trainer.json")), 0);
    assert_int_equal(unlink(test_path("fall/checkpoints/step_00000002/trainer.json")), 0);
    test_run("rm -r '%s'", test_path("fall/checkpoints/step_00000001"));
    free(warnings_of(expect_nothing, out_dir));
    Checkpoint checkpoint;
    Error error;
    assert_false(checkpoint_open_newest(&checkpoint, test_path("never"), &error));
    assert_non_null(strstr(error.text, "no whole checkpoint"));
    free(out_dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_states_that_not_every_tensor_has),
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_hugging_face_layout),
        cmocka_unit_test(test_json_files),
        cmocka_unit_test(test_config_of_every_variant),
        cmocka_unit_test(test_keys_of_transformers),
        cmocka_unit_test(test_layout_of_other_models),
        cmocka_unit_test(test_layout_of_an_untied_gpt2),
        cmocka_unit_test(test_modeling_file),
        cmocka_unit_test(test_vocabulary_is_copied),
        cmocka_unit_test(test_tokenizer_of_gpt2),
        cmocka_unit_test(test_vocabulary_of_data_gpt2),
        cmocka_unit_test(test_tokenizer_of_bytes),
        cmocka_unit_test(test_unknown_tokenizer),
        cmocka_unit_test(test_tokenizer_of_others),
        cmocka_unit_test(test_every_process_fetches_the_same),
        cmocka_unit_test(test_keep),
        cmocka_unit_test(test_saving_a_step_again),
        cmocka_unit_test(test_every_damage_is_noticed),
        cmocka_unit_test(test_trainer_json_is_checked),
        cmocka_unit_test(test_checkpoint_of_0_1_0),
        cmocka_unit_test(test_falling_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
