/* test_wrong_inputs.c: what users get wrong, seen from outside: every mistake ends in one message that names the place
 * and says what would be right, with exit status 2 for the command line and the config and 1 for the rest; never in a
 * crash, and never with something written first. What each module makes of wrong input in all its variety is tested
 * next to it (test_config.c, test_shard.c, test_safetensors.c, test_checkpoint_weights.c). */
#include "dev/test/train/train_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/shard.h"
#include "kernels/backend.h"
#include "util/files.h"
#include "util/safetensors.h"

typedef struct Mistake {
    const char *arguments, *text;
} Mistake;

static Launch small_run(void) { return (Launch){.config = train_small_config()}; }

static int count_of(const char *text, const char *part) {
    int count = 0;
    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part)) count++;
    return count;
}

/* One message with `text` in it, and no crash. */
static void assert_message(const CommandResult *result, int status, const char *text) {
    assert_run(result, status, text);
    if (count_of(result->output, ": error: ") != 1 || strstr(result->output, "Sanitizer"))
        fail_msg("expected one message:\n%s", result->output);
}

/* The same, and the run has written nothing. */
static void assert_refused(const Launch *launch, const char *arguments, int status, const char *text) {
    assert_message(train_run(launch, "refused", "%s", arguments), status, text);
    if (files_is_folder(test_path("refused"))) fail_msg("something was written with %s", arguments);
}

/* One message that states four parts (assert_four_parts()), and nothing is written. */
static void assert_refused_in_parts(const Launch *launch, const char *arguments, int status, const char *parts) {
    assert_refused(launch, arguments, status, "");
    assert_four_parts(train_run(launch, "refused", "%s", arguments)->output, parts);
}

static void assert_each_refused(const Mistake *mistakes, size_t count, int status) {
    Launch launch = small_run();
    for (size_t i = 0; i < count; i++) assert_refused(&launch, mistakes[i].arguments, status, mistakes[i].text);
}

/* ---- the command line and the config ---- */

static void test_command_line(void **state) {
    (void)state;
    Launch bare = {NULL, 0, NULL};
    CommandResult *result = train_run(&bare, NULL, " ");
    assert_message(result, EXIT_USAGE, "the first argument must be a config file");
    assert_run(result, EXIT_USAGE, "usage: train_gpt2 CONFIG.json [--key=value ...]");
    assert_message(train_run(&bare, NULL, "--batch_size=2"), EXIT_USAGE,
                   "the first argument must be a config file, and is '--batch_size=2'");
    assert_message(train_run(&bare, NULL, "- </dev/null"), EXIT_USAGE, "standard input is /dev/stdin");
    assert_run(train_run(&bare, NULL, "--version"), EXIT_DONE, "train_gpt2 (mars.c) " MARS_VERSION);
    assert_run(train_run(&bare, NULL, "--help"), EXIT_DONE, "total_batch_size");

    const Mistake mistakes[] = {
        {"--batch_sise=2", "command line: there is no key 'batch_sise'; the nearest is train.batch_size"},
        {"--seed=1", "several sections have a key 'seed'; write --data.seed or --train.seed"},
        {"--batch_size 4", "'--batch_size' is not of the form --key=value"},
        {"--batch_size=2 --batch_size=4", "train.batch_size is given twice"},
        {"--batch_size=two", "train.batch_size is 'two'; expected integer >= 1"},
        {"--batch_size=0", "train.batch_size is '0'; expected integer >= 1"},
        {"--beta1=1", "optimizer.beta1 is '1'; expected number in [0, 1)"},
        {"--optimizer.name=adam", "optimizer.name is 'adam'; expected one of: adamw"},
        {"--init_from=Auto", "command line: train.init_from is 'Auto'; write auto, or ./Auto for a file of that name"},
    };
    assert_each_refused(mistakes, ARRAY_LENGTH(mistakes), EXIT_USAGE);
}

/* Replaces the value of one key in the small config, which must make it wrong. */
static void assert_config_refused(const char *section, const char *key, const char *value, const char *text) {
    char *content = test_read_file(train_small_config(), NULL);
    cJSON *config = cJSON_Parse(content);
    cJSON *keys = cJSON_GetObjectItemCaseSensitive(config, section);
    cJSON_DeleteItemFromObjectCaseSensitive(keys, key);
    cJSON_AddRawToObject(keys, key, value);
    Launch launch = {.config = train_write_config(config)};
    char *message = format_string("%s: %s", launch.config, text);
    assert_refused(&launch, " ", EXIT_USAGE, message);
    free(message);
    free((char *)launch.config);
    free(content);
}

static void test_config_file(void **state) {
    (void)state;
    assert_config_refused("model", "n_layers", "2", "there is no key 'model.n_layers'; the nearest is model.n_layer");
    assert_config_refused("train", "batch_size", "\"2\"", "train.batch_size is \"2\"; expected integer >= 1");
    assert_config_refused("train", "eval_only", "1", "train.eval_only is 1; expected true or false");
    assert_config_refused("train", "batch_size", "2.5", "train.batch_size is 2.5; expected integer >= 1");
    assert_config_refused("optimizer", "learning_rate", "-1", "optimizer.learning_rate is -1; expected number > 0");
    assert_config_refused("model", "n_head", "3", "model.n_embd 32 must be a multiple of n_head 3");
    assert_config_refused("model", "dropout", "1", "model.dropout is 1; expected number in [0, 1)");
    assert_config_refused("train", "gradient_accumulation_steps", "2",
                          "train.total_batch_size 12 and train.gradient_accumulation_steps 2 are both given");
    assert_config_refused("schedule", "warmup_iters", "13",
                          "schedule.warmup_iters 13 must not be above train.max_iters 12");

    const struct {
        const char *name, *content, *text;
    } files[] = {
        {"half.json", "{\"model\": {", "half.json:1:12: not JSON"},
        {"empty.json", "", "empty.json: the config is empty"},
        {"bare.json", "{}", "bare.json: data.train is missing"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        Launch launch = {.config = test_path("%s", files[i].name)};
        test_write_text(launch.config, files[i].content);
        assert_refused(&launch, " ", EXIT_USAGE, files[i].text);
    }
    Launch missing = {.config = test_path("missing.json")}, folder = {.config = test_folder()};
    assert_refused(&missing, " ", EXIT_USAGE, "missing.json: cannot open the config: No such file or directory");
    assert_refused(&folder, " ", EXIT_USAGE, ": a folder; expected a config file; give the one in it");
}

static void test_batch_sizes(void **state) {
    (void)state;
    Launch launch = small_run();
    assert_refused(&launch, "--batch_size=5", EXIT_USAGE,
                   "train.total_batch_size 12 is not a multiple of train.batch_size 5 x 1 processes; "
                   "values of train.batch_size that fit: 1, 2, 3, 4, 6, 12\n");
    if (!train_has_mpi()) skip();
    launch.processes = 2;
    assert_refused(&launch, "--batch_size=4", EXIT_USAGE,
                   "train.total_batch_size 12 is not a multiple of train.batch_size 4 x 2 processes; "
                   "values of train.batch_size that fit: 1, 2, 3, 6\n");
}

/* The parts of messages about the number of processes. */
static void test_processes_that_do_not_fit(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    Launch launch = small_run();
    launch.processes = 2;
    static const Mistake mistakes[] = {
        {"--total_batch_size=11",
         "command line: |train.total_batch_size 11|shared evenly by 2 processes|divide it: 1, 11"},
        {"--batch_size=4",
         "command line: |train.total_batch_size 12|a multiple of train.batch_size 4 x 2|that fit: 1, 2"},
        {"--total_batch_size=0 --gradient_accumulation_steps=2147483647",
         "command line: |train.gradient_accumulation_steps 2147483647|is more than 2147483647 sequences|lower one of"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(mistakes); i++)
        assert_refused_in_parts(&launch, mistakes[i].arguments, EXIT_USAGE, mistakes[i].text);
}

static void test_missing_device(void **state) {
    (void)state;
    if (strcmp(backend_auto_device(), "cpu") != 0) {
        print_message("a missing device is not tested: there is a %s\n", backend_auto_device());
        skip();
    }
    static const Mistake mistakes[] = {
        {"--device=auto --allow_tf32=true",
         "command line: train.allow_tf32: |TF32 is a mode of GPUs|and the device is the CPU|set it to false"},
        {"--device=gpu",
         "command line: train.device|is 'gpu'|expected one of: auto, cpu, cuda|--help explains the key"},
        {"--threads=4097",
         "command line: train.threads|is '4097'|expected integer in [0, 4096]|--help explains the key"},
    };
    Launch launch = small_run();
    for (size_t i = 0; i < ARRAY_LENGTH(mistakes); i++)
        assert_refused_in_parts(&launch, mistakes[i].arguments, EXIT_USAGE, mistakes[i].text);
    bool has_cuda =
        !strstr(train_run(&launch, "refused", "--device=cuda")->output, "this program was built without CUDA");
    assert_refused_in_parts(
        &launch, "--device=cuda", EXIT_USAGE,
        has_cuda ? "command line: train.device: |no GPU that CUDA can use|nvidia-smi lists|use the device cpu"
                 : "command line: train.device: |built without CUDA|the device cuda needs|use the device cpu");
    assert_refused_in_parts(&launch, "--n_layer=1024 --n_head=128 --n_embd=16384", EXIT_FAILED,
                            "|GB on |GB left|lower model.n_layer or model.n_embd");
}

/* ---- token files ---- */

enum { TOKENS = 200, WRONG = 70 };

/* Writes tokens below 256, with a header that announces `announced` of them, or without one where that is 0. Number
 * WRONG is `wrong`. */
static void write_tokens(const char *name, int announced, int count, uint16_t wrong) {
    struct {
        int32_t header[SHARD_HEADER_INTS];
        uint16_t tokens[TOKENS];
    } file = {{SHARD_MAGIC, SHARD_VERSION, announced}, {0}};
    for (int i = 0; i < TOKENS; i++) file.tokens[i] = (uint16_t)(i == WRONG ? wrong : 7 * i % 256);
    size_t header = announced ? sizeof file.header : 0, bytes = (size_t)count * sizeof *file.tokens;
    test_write_file(test_path("%s", name), (const char *)&file + sizeof file.header - header, header + bytes);
}

/* The file `name` as the training set and as the validation set must be refused, and the message must begin with its
 * path. */
static void assert_tokens_refused(const char *name, const char *text) {
    static const char *const keys[] = {"data.train", "data.val"};
    Launch launch = small_run();
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
        const char *path = test_path("%s", name);
        char *arguments = format_string("--%s='%s'", keys[i], path), *message = format_string(text, path);
        assert_refused(&launch, arguments, EXIT_FAILED, message);
        assert_refused(&launch, arguments, EXIT_FAILED, keys[i]);
        free(arguments);
        free(message);
    }
}

static void test_token_files(void **state) {
    (void)state;
    write_tokens("cut.bin", TOKENS, TOKENS - 1, 0);
    write_tokens("long.bin", TOKENS - 1, TOKENS, 0);
    write_tokens("short.bin", 32, 32, 0);
    write_tokens("short_raw.bin", 0, 32, 0);
    test_write_text(test_path("empty.bin"), "");
    test_write_text(test_path("odd.bin"), "tokens.");
    assert_tokens_refused("missing.bin", "no token file: nothing is named or matches '%s'");
    assert_tokens_refused("empty.bin", "%s is empty");
    assert_tokens_refused("odd.bin", "%s is no token file");
    assert_tokens_refused("cut.bin", "%s is cut off: it has 1422 bytes, but its header says 200 tokens");
    assert_tokens_refused("long.bin", "%s is too long: it has 1424 bytes, but its header says 199 tokens");
    assert_tokens_refused("short.bin", "'%s' holds 32 tokens, but one sequence needs 33");
    assert_tokens_refused("short_raw.bin", "'%s' holds 32 tokens, but one sequence needs 33");
    if (!train_has_mpi()) skip();
    Launch launch = small_run();
    launch.processes = 2;
    assert_run(train_run(&launch, "refused", "--data.val=nowhere.bin"), EXIT_FAILED, "nothing is named or matches");
}

/* While a run reads them: what was learned until then is saved. */
static void test_token_files_that_change(void **state) {
    (void)state;
    static const char *const messages[] = {"moving_1.bin: No such file", "moving_1.bin shrank from "};
    for (int i = 0; i < 2; i++) {
        const char *name = i == 0 ? "gone" : "cut";
        for (int k = 0; k < 2; k++)
            assert_run(test_run("cp dev/golden/tiny_train.bin '%s'", test_path("moving_%d.bin", k)), 0, "");
        Launch launch = small_run();
        pid_t process = train_start(&launch, name, "--data.train='%s' --max_iters=1000000000 --checkpoint_interval=0",
                                    test_path("moving_?.bin"));
        train_wait_for(process, name, "train", 2);
        assert_int_equal(i == 0 ? unlink(test_path("moving_1.bin")) : truncate(test_path("moving_1.bin"), 2000), 0);
        assert_int_equal(train_wait(process), EXIT_FAILED);
        char *output = test_read_file(test_path("%s.txt", name), NULL);
        if (!strstr(output, "error: data.train: ") || !strstr(output, messages[i]) ||
            !strstr(output, "is saved: put the file right and go on with --init_from=resume"))
            fail_msg("no '%s' in:\n%s", messages[i], output);
        free(output);
        cJSON *log = train_log(name);
        assert_int_equal(log_last_step(log, "checkpoint"), log_last_step(log, "train") + 1);
        cJSON_Delete(log);
    }
}

static void test_evaluation_larger_than_the_set(void **state) {
    (void)state;
    Launch launch = small_run();
    write_tokens("few.bin", 6 * 32, 6 * 32, 0);
    char *arguments = format_string("--data.val='%s'", test_path("few.bin"));
    assert_refused_in_parts(&launch, arguments, EXIT_FAILED,
                            "train.eval_sequences: |has only 5 sequences of 32 tokens|expected at least |set it to 0");
    train(&launch, "all_of_few", "%s --eval_sequences=5", arguments);
    train(&launch, "whole_set", "%s --eval_sequences=0", arguments);
    cJSON *log = train_log("whole_set"), *expected = train_log("all_of_few");
    assert_same_curve(log, expected);
    cJSON_Delete(log);
    cJSON_Delete(expected);
    free(arguments);
}

/* A file's windows are looked at before the run. test_data_sets.c has a token that none of them holds. */
static void test_unknown_tokens(void **state) {
    (void)state;
    static const char *const keys[] = {"data.train", "data.val"};
    Launch launch = small_run();
    for (int announced = 0; announced <= TOKENS; announced += TOKENS)
        for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
            const char *path = test_path("unknown.bin");
            char *message = format_string("error: %s: %s: token %d of the file is 256, but vocab_size is 256", keys[i],
                                          path, WRONG);
            char *arguments = format_string("--%s='%s' --overwrite=true --eval_sequences=5", keys[i], path);
            write_tokens("unknown.bin", announced, TOKENS, 256);
            assert_refused(&launch, arguments, EXIT_FAILED, message);
            write_tokens("unknown.bin", announced, TOKENS, 255);
            train(&launch, "known", "%s", arguments);
            free(arguments);
            free(message);
        }
}

/* ---- weights ---- */

/* The weights of a small run, made once. */
static const char *small_weights(void) {
    Launch launch = small_run();
    const char *path = test_path("donor/checkpoints/latest/model.safetensors");
    if (!files_is_file(path)) train(&launch, "donor", "--max_iters=4");
    return path;
}

/* A copy of them, with `bytes` at `offset` overwritten and `cut` bytes missing at the end. */
static void copy_weights(const char *name, size_t offset, const void *data, size_t bytes, size_t cut) {
    size_t length;
    char *content = test_read_file(small_weights(), &length);
    memcpy(content + offset, data, bytes);
    test_write_file(test_path("%s", name), content, length - cut);
    free(content);
}

static void assert_weights_refused(const char *path, const char *arguments, const char *text) {
    Launch launch = small_run();
    char *all = format_string("--init_from='%s' %s", path, arguments);
    assert_refused(&launch, all, EXIT_FAILED, text);
    assert_refused(&launch, all, EXIT_FAILED, path);
    free(all);
}

static void test_weights_that_are_no_safetensors(void **state) {
    (void)state;
    const uint64_t huge = UINT64_MAX, none = 0;
    copy_weights("huge.safetensors", 0, &huge, sizeof huge, 0);
    copy_weights("none.safetensors", 0, &none, sizeof none, 0);
    copy_weights("cut.safetensors", 0, "", 0, 4);
    copy_weights("garbled.safetensors", 8, "]", 1, 0);
    test_write_text(test_path("tiny.safetensors"), "tiny");
    assert_weights_refused(test_path("huge.safetensors"), "", "the header should have 18446744073709551615 bytes");
    assert_weights_refused(test_path("none.safetensors"), "", "the header");
    assert_weights_refused(test_path("cut.safetensors"), "", "bytes of data");
    assert_weights_refused(test_path("garbled.safetensors"), "", "the header is no JSON object");
    assert_weights_refused(test_path("tiny.safetensors"), "", "is no safetensors file: it has 4 bytes");
    assert_weights_refused(test_path("missing.safetensors"), "", "No such file or directory");
    assert_weights_refused(test_folder(), "", "model.safetensors: No such file or directory");
}

static void test_weights_of_another_model(void **state) {
    (void)state;
    copy_weights("other.safetensors", 0, "", 0, 0); /* without its config.json */
    const char *path = test_path("other.safetensors"), *tiny = "dev/golden/tiny_init.safetensors";
    const char *biased = "dev/golden/tiny_bias_init.safetensors", *as_tiny = "--n_embd=128 --block_size=64 --n_layer=2";
    assert_weights_refused(path, "--n_embd=64", "wte.weight' has the shape [256, 32], the model expects [256, 64]");
    assert_weights_refused(path, "--n_layer=2", "'h.1.ln_1.weight' is missing");
    assert_weights_refused(tiny, "--n_embd=128 --block_size=64", "the model has no place for tensor 'h.1.");
    char *with_bias = format_string("%s --bias=true", as_tiny);
    assert_weights_refused(tiny, with_bias, "'h.0.ln_1.bias' is missing");
    assert_weights_refused(biased, as_tiny, "the model has no such bias: set model.bias to true");
    free(with_bias);
}

/* ---- out_dir ---- */

static void test_out_dir(void **state) {
    (void)state;
    Launch launch = small_run();
    test_write_text(test_path("file.txt"), "not a folder");
    static const char *const names[] = {"file.txt", "file.txt/run"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        CommandResult *result = train_run(&launch, names[i], " ");
        assert_message(result, EXIT_FAILED, "error: train.out_dir: ");
        assert_message(result, EXIT_FAILED, "file.txt");
    }
}

/* Keys of another optimizer in the file: the run goes on without them, and says so once. */
static void test_keys_of_another_optimizer(void **state) {
    (void)state;
    const char *path = test_path("other.json");
    char *text = test_read_file(train_small_config(), NULL);
    const char *brace = strstr(text, "\"optimizer\"");
    assert_non_null(brace);
    brace = strchr(brace, '{') + 1;
    char *changed = format_string("%.*s\"beta1\": 0.5, \"beta2\": 0.5, %s", (int)(brace - text), text, brace);
    test_write_text(path, changed);
    Launch launch = {.config = path};
    CommandResult *result =
        train_run(&launch, "other", "--optimizer.name=moonlight --schedule.warmup_iters=0 --max_iters=1");
    assert_run(result, EXIT_DONE, "train_gpt2: warning: ");
    assert_run(result, EXIT_DONE,
               "other.json: without effect on the optimizer moonlight: optimizer.beta1, optimizer.beta2\n");
    free(changed);
    free(text);
}

/* ---- numbers that are not finite ---- */

/* A copy of the small weights with one element of a tensor replaced. */
static void write_spoiled_weights(const char *name, const char *tensor, float value) {
    SafetensorsFile file;
    Error error;
    if (!safetensors_open(&file, small_weights(), &error)) fail_msg("%s", error.text);
    const SafetensorsEntry *entry = safetensors_find(&file, tensor);
    assert_non_null(entry);
    size_t offset = (size_t)entry->offset;
    safetensors_close(&file);
    copy_weights(name, offset, &value, sizeof value, 0);
}

/* Weights so large that a forward pass overflows. The first step is skipped and reported with the first tensor of the
 * model whose gradient is not finite; the second one ends the run. Norms of neither are reported. The validation loss
 * before them is no number, and JSON's word for that is null. */
static void assert_ends_after_two(const char *name, int processes, const char *arguments) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    write_spoiled_weights("spoiled.safetensors", "transformer.h.0.ln_1.weight", 3e38f);
    CommandResult *result =
        train_run(&launch, name, "--init_from='%s' --norms_interval=1 %s", test_path("spoiled.safetensors"), arguments);
    assert_message(result, EXIT_FAILED,
                   "error: the gradient of wte.weight is not finite for the second step in a row; nothing was saved");
    assert_run(result, EXIT_FAILED, "step      0 skipped: the gradient of wte.weight is not finite");
    cJSON *log = train_log(name);
    int skipped = 2, trained = 0, measured = 0;
    double *steps = log_numbers(log, "skipped", "step", &skipped);
    assert_true(steps[0] == 0 && steps[1] == 1);
    const cJSON *validation = cJSON_GetArrayItem(log, 1), *first = cJSON_GetArrayItem(log, 2);
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(validation, "loss")));
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(first, "tensor")), "wte.weight");
    free(log_numbers(log, "train", "loss", &trained));
    free(log_numbers(log, "norms", "step", &measured));
    free(steps);
    cJSON_Delete(log);
    assert_false(files_is_folder(test_path("%s/checkpoints", name)));
}

static void test_gradients_that_are_not_finite(void **state) {
    (void)state;
    assert_ends_after_two("overflow", 0, "");
    assert_ends_after_two("exact", 0, "--optimizer.name=mars-m --is_approx=false");
    if (!train_has_mpi()) skip();
    assert_ends_after_two("overflow_of_two", 2, "");
    assert_ends_after_two("exact_of_two", 2, "--optimizer.name=mars-adamw --is_approx=false");
}

/* Weights that are not finite themselves are refused, whatever they are for. */
static void test_weights_that_are_not_finite(void **state) {
    (void)state;
    static const struct {
        float value;
        const char *text;
    } cases[] = {{NAN, "is nan"}, {INFINITY, "is inf"}, {-INFINITY, "is -inf"}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_spoiled_weights("spoiled.safetensors", "transformer.h.0.mlp.c_fc.weight", cases[i].value);
        char *text = format_string("number 0 of tensor 'h.0.mlp.c_fc.weight' %s", cases[i].text);
        assert_weights_refused(test_path("spoiled.safetensors"), "", text);
        assert_weights_refused(test_path("spoiled.safetensors"), "--eval_only=true", text);
        free(text);
    }
}

/* An evaluation that overflows fails; its loss is reported as null. */
static void test_evaluation_that_is_not_finite(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    const char *arguments = "--init_from='%s' --eval_only=true", *text = "error: the validation loss is ";
    write_spoiled_weights("spoiled.safetensors", "transformer.h.0.ln_1.weight", 3e38f);
    for (int processes = 0; processes <= (train_has_mpi() ? 2 : 0); processes += 2) {
        launch.processes = processes;
        const char *name = processes ? "overflows_in_two" : "overflows";
        assert_message(train_run(&launch, name, arguments, test_path("spoiled.safetensors")), EXIT_FAILED, text);
        cJSON *log = train_log(name);
        const cJSON *validation = cJSON_GetArrayItem(log, 1);
        assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(validation, "loss")));
        cJSON_Delete(log);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_line),
        cmocka_unit_test(test_config_file),
        cmocka_unit_test(test_batch_sizes),
        cmocka_unit_test(test_processes_that_do_not_fit),
        cmocka_unit_test(test_missing_device),
        cmocka_unit_test(test_token_files),
        cmocka_unit_test(test_token_files_that_change),
        cmocka_unit_test(test_evaluation_larger_than_the_set),
        cmocka_unit_test(test_unknown_tokens),
        cmocka_unit_test(test_weights_that_are_no_safetensors),
        cmocka_unit_test(test_weights_of_another_model),
        cmocka_unit_test(test_out_dir),
        cmocka_unit_test(test_keys_of_another_optimizer),
        cmocka_unit_test(test_gradients_that_are_not_finite),
        cmocka_unit_test(test_weights_that_are_not_finite),
        cmocka_unit_test(test_evaluation_that_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
