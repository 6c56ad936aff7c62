/* fuzz_checkpoint.c: the JSON of a checkpoint, or of a published folder: trainer.json, config.json, the header
 * of model.safetensors, and the index of a set of files. The first byte says which of them the input is, and whether
 * trainer.json gets a right seal; the other files of the folder are always the same. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_layout.h"
#include "dev/fuzz/fuzz.h"

/* Of the inputs of kind WEIGHTS, those with the bit INDEX are indexes. */
enum { TRAINER_AS_IT_IS, TRAINER_SEALED, CONFIG, WEIGHTS, KINDS, INDEX = KINDS };

#define INDEX_FILE "model.safetensors.index.json"

static const char weights[] = "{\"wte\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";

static void write_weights(void) {
    uint8_t file[sizeof(uint64_t) + sizeof weights - 1 + 8] = {sizeof weights - 1};
    memcpy(file + sizeof(uint64_t), weights, sizeof weights - 1);
    fuzz_file(MODEL_FILE, file, sizeof file);
}

/* The input is the header; the data are small numbers. */
static void write_header(FuzzInput header, const char *name, size_t data_bytes) {
    uint64_t length = header.bytes;
    size_t before = sizeof length + header.bytes;
    uint8_t *file = checked_calloc(before + data_bytes, 1, name);
    memcpy(file, &length, sizeof length);
    if (header.bytes > 0) memcpy(file + sizeof length, header.data, header.bytes);
    for (size_t i = 0; i < data_bytes; i++) file[before + i] = i % 4 == 3 ? 0x40 : 0;
    fuzz_file(name, file, before + data_bytes);
    free(file);
}

static void write_trainer(FuzzInput input, bool is_sealed) {
    char *json = checked_calloc(input.bytes + 1, 1, TRAINER_FILE);
    if (input.bytes > 0) memcpy(json, input.data, input.bytes);
    /* what a seal is put on is an object */
    if (is_sealed && strchr(json, '{') && strrchr(json, '}') > strchr(json, '{')) {
        char *sealed = checkpoint_seal(json);
        fuzz_file(TRAINER_FILE, sealed, strlen(sealed));
        free(sealed);
    } else {
        fuzz_file(TRAINER_FILE, input.data, input.bytes);
    }
    free(json);
}

static void check_open(void) {
    Checkpoint checkpoint;
    Error error = {""};
    if (!checkpoint_open(&checkpoint, fuzz_folder(), &error)) {
        FUZZ_CHECK(strstr(error.text, fuzz_folder()), "the message does not name the file: %s", error.text);
        return;
    }
    FUZZ_CHECK(checkpoint.updates >= 0 && checkpoint.step >= checkpoint.updates,
               "step %" PRId64 ", %" PRId64 " updates", checkpoint.step, checkpoint.updates);
    FUZZ_CHECK(memchr(checkpoint.optimizer, 0, sizeof checkpoint.optimizer), "the optimizer's name has no end");
    FUZZ_CHECK(checkpoint.model.count == 1, "%d tensors", checkpoint.model.count);
    double number;
    Tensor tensor = {.name = "wte"};
    TensorTable table = {.tensors = &tensor, .count = 1};
    checkpoint_read_scalars(&checkpoint, &table, "snr", &number, &error);
    checkpoint_close(&checkpoint);
}

/* What passes the check can be read, all of it. */
static void read_all(const SafetensorsFile *file, const TensorTable *table) {
    Error error = {""};
    for (int i = 0; i < table->count; i++) {
        float *host = checked_malloc(table->tensors[i].size * sizeof *host, "weights");
        FUZZ_CHECK(checkpoint_read_weights(file, table, i, host, &error), "%s", error.text);
        free(host);
    }
    FUZZ_CHECK(checkpoint_positions(file) >= 2, "%" PRId64 " positions", checkpoint_positions(file));
}

static void check_message(const char *text) {
    int lines = 1;
    for (; (text = strchr(text, '\n')); text++) lines++;
    FUZZ_CHECK(lines <= 5, "a message of %d lines", lines);
}

static void check_weights(const char *path) {
    SafetensorsFile file;
    Error error = {""};
    if (!checkpoint_open_weights(&file, path, &error)) {
        FUZZ_CHECK(strstr(error.text, fuzz_folder()), "the message does not name the file: %s", error.text);
        return;
    }
    TensorTable table = {0};
    tensor_table_add(&table, "wte.weight", ROLE_EMBEDDING, 3, 2, 3);
    tensor_table_add(&table, "wpe.weight", ROLE_EMBEDDING, 2, 2, 2);
    tensor_table_add(&table, "h.0.ln_1.weight", ROLE_VECTOR, 1, 2, 1);
    tensor_table_add(&table, "h.0.attn.c_attn.weight", ROLE_MATRIX, 6, 2, 6);
    if (checkpoint_check_weights(&file, &table, &error)) {
        read_all(&file, &table);
    } else {
        FUZZ_CHECK(strstr(error.text, fuzz_folder()), "the message does not name the file: %s", error.text);
        check_message(error.text);
    }
    tensor_table_free(&table);
    safetensors_close(&file);
}

/* The data of every tensor of a set lie in one of its files. */
static void check_shards(const char *path) {
    SafetensorsFile file;
    Error error = {""};
    if (!safetensors_open_index(&file, path, &error)) return;
    FUZZ_CHECK(file.shard_count > 0, "a set without a file");
    for (int i = 0; i < file.count; i++) {
        const SafetensorsEntry *entry = &file.entries[i];
        bool inside = false;
        for (int j = 0; j < file.shard_count; j++)
            inside = inside || (entry->descriptor == file.shards[j].descriptor && entry->offset >= 8 &&
                                entry->elements <= (file.shards[j].bytes - entry->offset) / 4);
        FUZZ_CHECK(inside, "the data of '%s' lie in no file", file.entries[i].name);
        FUZZ_CHECK(safetensors_find(&file, file.entries[i].name) == &file.entries[i], "two tensors of one name");
    }
    safetensors_close(&file);
}

/* A set of two files has all tensors of the table; the second one has one of the first again if `twice`. */
static void write_set(FuzzInput index, bool twice) {
    static const char one[] = "{\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]},"
                              "\"wpe.weight\":{\"dtype\":\"F32\",\"shape\":[4,2],\"data_offsets\":[24,56]}}";
    static const char two[] = "{\"module.h.0.ln_1.weight\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                              "\"h.0.attn.c_attn.weight\":{\"dtype\":\"F32\",\"shape\":[6,2],\"data_offsets\":[8,56]}}";
    write_header((FuzzInput){(const uint8_t *)one, sizeof one - 1}, "a", 56);
    if (twice)
        write_header((FuzzInput){(const uint8_t *)one, sizeof one - 1}, "b", 56);
    else
        write_header((FuzzInput){(const uint8_t *)two, sizeof two - 1}, "b", 56);
    fuzz_file(INDEX_FILE, index.data, index.bytes);
}

static void check_config(void) {
    GPT2Config config;
    const char *concerned;
    Error error = {""};
    SafetensorsFile file;
    bool has_weights = safetensors_open(&file, fuzz_path(MODEL_FILE), &error);
    if (checkpoint_read_model_config(&config, fuzz_folder(), has_weights ? &file : NULL, &error))
        FUZZ_CHECK(gpt2_config_check(&config, &concerned, &error) && config.norm_eps > 0 && config.rope_base > 1,
                   "a model that cannot be: %s", error.text);
    else
        FUZZ_CHECK(strstr(error.text, fuzz_folder()), "the message does not name the file: %s", error.text);
    if (has_weights) safetensors_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char config[] = "{\"n_layer\":1,\"n_head\":2,\"n_embd\":8,\"n_positions\":4,\"vocab_size\":64}";
    FuzzInput input = {data, bytes};
    uint64_t first = fuzz_number(&input, 1);
    int kind = (int)(first % KINDS);
    unlink(fuzz_path(TRAINER_FILE));
    if (kind == WEIGHTS && (first & INDEX)) {
        unlink(fuzz_path(MODEL_FILE));
        write_set(input, (first & (2 * INDEX)) != 0);
        check_weights(fuzz_folder());
        check_shards(fuzz_path(INDEX_FILE));
        return 0;
    }
    if (kind == WEIGHTS) {
        size_t data_bytes = fuzz_number(&input, 1);
        write_header(input, MODEL_FILE, data_bytes);
        check_weights(fuzz_path(MODEL_FILE));
        return 0;
    }
    write_weights();
    if (kind == CONFIG) {
        fuzz_file(CONFIG_FILE, input.data, input.bytes);
    } else {
        fuzz_file(CONFIG_FILE, config, strlen(config));
        write_trainer(input, kind == TRAINER_SEALED);
        check_open();
    }
    check_config();
    return 0;
}
