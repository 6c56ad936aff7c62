/* fuzz_checkpoint.c: the JSON files of a checkpoint, trainer.json and config.json. The first byte says which of them
 * the input is, and whether trainer.json gets a right seal; the other files of the checkpoint are always the same. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dev/fuzz/fuzz.h"
#include "model/checkpoint.h"
#include "model/checkpoint_layout.h"

enum { TRAINER_AS_IT_IS, TRAINER_SEALED, CONFIG, KINDS };

static const char weights[] = "{\"wte\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";

static void write_weights(void) {
    uint8_t file[sizeof(uint64_t) + sizeof weights - 1 + 8] = {sizeof weights - 1};
    memcpy(file + sizeof(uint64_t), weights, sizeof weights - 1);
    fuzz_file(MODEL_FILE, file, sizeof file);
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

static void check_config(void) {
    GPT2Config config;
    Error error = {""};
    if (checkpoint_read_model_config(&config, fuzz_folder(), &error))
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
    write_weights();
    unlink(fuzz_path(TRAINER_FILE));
    if (kind == CONFIG)
        fuzz_file(CONFIG_FILE, input.data, input.bytes);
    else
        fuzz_file(CONFIG_FILE, config, strlen(config));
    if (kind != CONFIG) write_trainer(input, kind == TRAINER_SEALED);
    if (kind != CONFIG) check_open();
    check_config();
    return 0;
}
