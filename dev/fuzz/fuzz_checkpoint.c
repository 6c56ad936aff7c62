/* fuzz_checkpoint.c: the JSON of a checkpoint: trainer.json, config.json and the header of model.safetensors. The first
 * byte says which of them the input is, and whether trainer.json gets a right seal; the other files of the checkpoint
 * are always the same. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dev/fuzz/fuzz.h"
#include "model/checkpoint.h"
#include "model/checkpoint_layout.h"

enum { TRAINER_AS_IT_IS, TRAINER_SEALED, CONFIG, WEIGHTS, KINDS };

static const char weights[] = "{\"wte\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";

static void write_weights(void) {
    uint8_t file[sizeof(uint64_t) + sizeof weights - 1 + 8] = {sizeof weights - 1};
    memcpy(file + sizeof(uint64_t), weights, sizeof weights - 1);
    fuzz_file(MODEL_FILE, file, sizeof file);
}

/* The input is the header; the data are small numbers. */
static void write_header(FuzzInput header, size_t data_bytes) {
    uint64_t length = header.bytes;
    size_t before = sizeof length + header.bytes;
    uint8_t *file = checked_calloc(before + data_bytes, 1, MODEL_FILE);
    memcpy(file, &length, sizeof length);
    if (header.bytes > 0) memcpy(file + sizeof length, header.data, header.bytes);
    for (size_t i = 0; i < data_bytes; i++) file[before + i] = i % 4 == 3 ? 0x40 : 0;
    fuzz_file(MODEL_FILE, file, before + data_bytes);
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
    FUZZ_CHECK(checkpoint.updates >= 0 && checkpoint.step >= checkpoint.updates, "step %lld, %lld updates",
               (long long)checkpoint.step, (long long)checkpoint.updates);
    FUZZ_CHECK(memchr(checkpoint.optimizer, 0, sizeof checkpoint.optimizer), "the optimizer's name has no end");
    FUZZ_CHECK(checkpoint.model.count == 1, "%d tensors", checkpoint.model.count);
    double number;
    Tensor tensor = {.name = "wte"};
    TensorTable table = {.tensors = &tensor, .count = 1};
    checkpoint_read_scalars(&checkpoint, &table, "snr", &number, &error);
    checkpoint_close(&checkpoint);
}

/* What passes the check can be read, all of it. */
static void check_weights(void) {
    SafetensorsFile file;
    Error error = {""};
    if (!checkpoint_open_weights(&file, fuzz_folder(), &error)) return; /* fuzz_safetensors.c's business */
    TensorTable table = {0};
    tensor_table_add(&table, "wte.weight", ROLE_EMBEDDING, 3, 2, 3);
    tensor_table_add(&table, "h.0.ln_1.weight", ROLE_VECTOR, 1, 2, 1);
    tensor_table_add(&table, "h.0.mlp.c_fc.weight", ROLE_MATRIX, 4, 2, 4);
    if (!checkpoint_check_weights(&file, &table, &error))
        FUZZ_CHECK(strstr(error.text, fuzz_folder()), "the message does not name the file: %s", error.text);
    else
        for (int i = 0; i < table.count; i++) {
            float *host = checked_malloc(table.tensors[i].size * sizeof *host, "weights");
            FUZZ_CHECK(checkpoint_read_weights(&file, &table, i, host, &error), "%s", error.text);
            free(host);
        }
    tensor_table_free(&table);
    safetensors_close(&file);
}

static void check_config(void) {
    GPT2Config config;
    Error error = {""};
    if (checkpoint_read_model_config(&config, fuzz_folder(), NULL, &error))
        FUZZ_CHECK(config.n_layer > 0 && config.n_head > 0 && config.n_embd > 0 && config.block_size > 0 &&
                       config.vocab_size > 0 && config.n_embd % config.n_head == 0,
                   "a shape that no model has");
    else
        FUZZ_CHECK(strstr(error.text, fuzz_folder()), "the message does not name the file: %s", error.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char config[] = "{\"n_layer\":1,\"n_head\":2,\"n_embd\":8,\"n_positions\":4,\"vocab_size\":64}";
    FuzzInput input = {data, bytes};
    int kind = (int)(fuzz_number(&input, 1) % KINDS);
    if (kind == WEIGHTS) {
        size_t data_bytes = fuzz_number(&input, 1);
        write_header(input, data_bytes);
        check_weights();
        return 0;
    }
    write_weights();
    unlink(fuzz_path(TRAINER_FILE));
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
