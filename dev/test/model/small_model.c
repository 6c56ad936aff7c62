/* small_model.c: see small_model.h. */
#include "dev/test/model/small_model.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config_model.h"

void small_add(TensorTable *table, const char *name, TensorRole role, int64_t rows, int64_t columns, int64_t padded) {
    int index = tensor_table_add(table, name, role, rows, columns, padded);
    Tensor *tensor = &table->tensors[index];
    tensor->hf_prefix = strncmp(name, "lm_head.", strlen("lm_head.")) == 0 ? "" : "transformer.";
    tensor->hf_transposed = role == ROLE_MATRIX;
}

static void add_block_tensor(TensorTable *table, int layer, const char *name, int64_t out, int64_t in, bool bias) {
    char text[64];
    snprintf(text, sizeof text, "h.%d.%s.weight", layer, name);
    small_add(table, text, out ? ROLE_MATRIX : ROLE_VECTOR, out ? out : 1, in, out ? out : 1);
    snprintf(text, sizeof text, "h.%d.%s.bias", layer, name);
    if (bias) small_add(table, text, ROLE_VECTOR, 1, out ? out : in, 1);
}

TensorTable small_table(int layers, int64_t c, int64_t v, int64_t t, bool bias) {
    TensorTable table = {0};
    small_add(&table, "wte.weight", ROLE_EMBEDDING, v, c, v + 27);
    small_add(&table, "wpe.weight", ROLE_EMBEDDING, t, c, t);
    for (int layer = 0; layer < layers; layer++) {
        add_block_tensor(&table, layer, "ln_1", 0, c, bias);
        add_block_tensor(&table, layer, "attn.c_attn", 3 * c, c, bias);
        add_block_tensor(&table, layer, "attn.c_proj", c, c, bias);
        add_block_tensor(&table, layer, "ln_2", 0, c, bias);
        add_block_tensor(&table, layer, "mlp.c_fc", 4 * c, c, bias);
        add_block_tensor(&table, layer, "mlp.c_proj", c, 4 * c, bias);
    }
    small_add(&table, "ln_f.weight", ROLE_VECTOR, 1, c, 1);
    if (bias) small_add(&table, "ln_f.bias", ROLE_VECTOR, 1, c, 1);
    return table;
}

float small_value(int version, int which, int tensor, size_t i) {
    uint32_t bits = (uint32_t)version * 40503u + (uint32_t)(which + 2) * 2654435761u + (uint32_t)tensor * 97531u;
    bits = (bits + (uint32_t)i) * 2246822519u;
    bits ^= bits >> 15;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static bool has_state(void *context, int which, int tensor) { return (void)context, (void)which, (void)tensor, true; }

static void fetch(void *context, int which, int tensor, float *host) {
    SmallRun *run = context;
    assert_true(run->events < MAX_EVENTS);
    run->which[run->events] = which;
    run->tensor[run->events++] = tensor;
    if (host != NULL) run->with_host = true;
    for (size_t i = 0; host && i < run->table.tensors[tensor].size; i++)
        host[i] = small_value(run->version, which, tensor, i);
}

const char small_config_json[] =
    "{\"optimizer\": {\"name\": \"mars-adamw\"}, \"train\": {\"seed\": 18446744073709551615}}";

void small_start(SmallRun *run, int64_t step, int version, bool bias) {
    static const char *const states[] = {"m", "v"};
    memset(run, 0, sizeof *run);
    run->table = small_table(LAYERS, C, V, T, bias);
    run->version = version;
    run->source = (CheckpointSource){.step = step,
                                     .updates = step / 2,
                                     .sequences = 12345,
                                     .model = gpt2_config(LAYERS, 2, C, T, V),
                                     .table = &run->table,
                                     .config_json = small_config_json,
                                     .optimizer = "mars-adamw",
                                     .state_count = 2,
                                     .state_names = states,
                                     .has_state = has_state,
                                     .fetch = fetch,
                                     .context = run};
    run->source.model.bias = bias;
}

bool small_save_run(SmallRun *run, const char *out_dir, int keep, char path[CHECKPOINT_PATH_LENGTH], Error *error) {
    return checkpoint_save(&run->source, out_dir, keep, true, path, error);
}

void small_save(const char *out_dir, int64_t step, int version, int keep) {
    SmallRun run;
    char path[CHECKPOINT_PATH_LENGTH];
    Error error;
    small_start(&run, step, version, false);
    if (!small_save_run(&run, out_dir, keep, path, &error)) fail_msg("%s", error.text);
    tensor_table_free(&run.table);
}

void assert_holds(const Checkpoint *checkpoint, int version, bool bias) {
    TensorTable table = small_table(LAYERS, C, V, T, bias);
    static const char *const states[] = {"m", "v"};
    float values[4 * C * C > V * C ? 4 * C * C : V * C];
    Error error;
    if (!checkpoint_check_weights(&checkpoint->model, &table, &error)) fail_msg("%s", error.text);
    for (int which = CHECKPOINT_WEIGHTS; which < 2; which++)
        for (int i = 0; i < table.count; i++) {
            bool ok = which == CHECKPOINT_WEIGHTS
                          ? checkpoint_read_weights(&checkpoint->model, &table, i, values, &error)
                          : checkpoint_read_state(checkpoint, &table, states[which], i, values, &error);
            if (!ok) fail_msg("%s", error.text);
            for (size_t j = 0; j < table.tensors[i].size; j++) {
                float expected = small_value(version, which, i, j);
                if (memcmp(&values[j], &expected, sizeof expected) != 0)
                    fail_msg("%s, which %d, element %zu: %a, expected %a", table.tensors[i].name, which, j, values[j],
                             expected);
            }
        }
    tensor_table_free(&table);
}

GPT2Config small_model(const char *keys) {
    GPT2Config model = gpt2_config(LAYERS, 2, C, T, V);
    cJSON *json = cJSON_CreateObject(), *changes = cJSON_Parse(keys);
    assert_non_null(changes);
    config_model_to_json(&model, json);
    while (changes->child) {
        cJSON *change = cJSON_DetachItemViaPointer(changes, changes->child);
        char *key = checked_strdup(change->string);
        if (!cJSON_ReplaceItemInObjectCaseSensitive(json, key, change)) fail_msg("the model has no key %s", key);
        free(key);
    }
    char *text = cJSON_PrintUnformatted(json);
    cJSON *parsed = cJSON_Parse(text); /* for the numbers, which are raw text in *json */
    Error error;
    if (!config_model_from_json(&model, parsed, keys, &error)) fail_msg("%s", error.text);
    free(text);
    cJSON_Delete(json), cJSON_Delete(parsed), cJSON_Delete(changes);
    return model;
}

void assert_same_model(const GPT2Config *found, const GPT2Config *expected) {
    cJSON *json[2] = {cJSON_CreateObject(), cJSON_CreateObject()};
    config_model_to_json(found, json[0]);
    config_model_to_json(expected, json[1]);
    char *text[2] = {cJSON_PrintUnformatted(json[0]), cJSON_PrintUnformatted(json[1])};
    assert_string_equal(text[0], text[1]);
    for (int i = 0; i < 2; i++) free(text[i]), cJSON_Delete(json[i]);
    assert_true(found->dropout == expected->dropout);
}

void assert_newest(const char *out_dir, int64_t step, int version) {
    Checkpoint checkpoint;
    Error error;
    if (!checkpoint_open_newest(&checkpoint, out_dir, &error)) fail_msg("%s", error.text);
    assert_int_equal(checkpoint.step, step);
    assert_holds(&checkpoint, version, false);
    checkpoint_close(&checkpoint);
}

const char *small_latest(const char *out_dir) {
    static char target[256];
    char *link = format_string("%s/checkpoints/latest", out_dir);
    ssize_t length = readlink(link, target, sizeof target - 1);
    target[length > 0 ? length : 0] = 0;
    free(link);
    return target;
}

void assert_names(const char *folder, const char *expected) {
    CommandResult *result = test_run("LC_ALL=C ls -A '%s' | tr '\\n' ' '", folder);
    assert_string_equal(result->output, expected);
}
