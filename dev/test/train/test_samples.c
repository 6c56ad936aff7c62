/* test_samples.c: the texts that a run writes while it trains (train.sample_interval): what they are, that training
 * does not change, and what is refused before it begins. */
#include "dev/test/train/train_fixture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_gpt2.h"
#include "dev/test/model/reference_gpt2.h"
#include "model/generate.h"
#include "util/files.h"
#include "util/utf8.h"

/* A model with dropout, on tokens whose folder says that they are bytes. */
static const char settings[] = "--batch_size=1 --dropout=0.1 --optimizer.name=mars-adamw";

#define SAMPLES(interval) "--sample_interval=" #interval " --sample_prompt=The --sample_tokens=40 "

/* `launch` with tokens in the scratch folder's folder `data`. */
static CommandResult *run_on(const char *data, const char *name, int processes, const char *arguments) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    const char *folder = test_folder();
    return train_run(&launch, name, "%s --data.train=%s/%s/tiny_train.bin --data.val=%s/%s/tiny_val.bin %s", settings,
                     folder, data, folder, data, arguments);
}

static cJSON *run(const char *name, int processes, const char *arguments) {
    assert_run(run_on("bytes", name, processes, arguments), 0, "done in");
    return train_log(name);
}

static void make_folder(const char *name, const char *tokens_json) {
    assert_run(test_run("mkdir %s/%s && cp dev/golden/tiny_train.bin dev/golden/tiny_val.bin %s/%s", test_folder(),
                        name, test_folder(), name),
               0, "");
    if (tokens_json) test_write_text(test_path("%s/tokens.json", name), tokens_json);
}

static int make_data(void **state) {
    (void)state;
    setenv("MARS_EMU_DEVICES", "3", 1);
    make_folder("bytes", "{\"tokenizer\": \"bytes\"}");
    make_folder("unknown", "{\"tokenizer\": \"words\"}");
    make_folder("bare", NULL);
    return 0;
}

/* The text at a step, owned by the log; fails unless there is exactly one. */
static const char *text_at(const cJSON *log, int step) {
    const char *text = NULL;
    for (const cJSON *line = log->child; line; line = line->next) {
        const char *event = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "event"));
        if (strcmp(event, "sample") != 0 || cJSON_GetObjectItemCaseSensitive(line, "step")->valueint != step) continue;
        if (text) fail_msg("there are two texts at step %d", step);
        text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "text"));
        assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "prompt")), "The");
    }
    if (!text) fail_msg("there is no text at step %d", step);
    return text;
}

static int count_samples(const cJSON *log) {
    int count = -1;
    free(log_numbers(log, "sample", "step", &count));
    return count;
}

static bool append(void *context, const char *text, size_t bytes) { return fwrite(text, 1, bytes, context) == bytes; }

/* What the newest checkpoint of a run, of step `step`, writes after the prompt; the caller frees. */
static char *text_of_checkpoint(const char *name, int step) {
    const char *path = test_path("%s/checkpoints/latest", name);
    Error error;
    SafetensorsFile file;
    GPT2Config config;
    GPT2 model;
    Tokenizer *tokenizer;
    char *text = NULL;
    size_t bytes;
    Backend *be = open_cpu(DTYPE_FLOAT32, 1);
    const GeneratorOptions options = {.max_new_tokens = 40, .temperature = 0.8, .top_k = 200, .seed = 5000};
    Generator generator;
    if (!checkpoint_read_model_config(&config, path, NULL, &error)) fail_msg("%s", error.text);
    if (!checkpoint_open_weights(&file, path, &error)) fail_msg("%s", error.text);
    if (!tokenizer_open(&tokenizer, NULL, path, &error)) fail_msg("%s", error.text);
    gpt2_plan(&model, &config, be, 1, RECOMPUTE_NONE, false);
    generator_plan(&generator, options, &model, tokenizer);
    gpt2_allocate(&model);
    if (!checkpoint_load_gpt2(&model, &file, &error)) fail_msg("%s", error.text);
    safetensors_close(&file);
    if (!generator_set_prompt(&generator, "The", 3, false, &error)) fail_msg("%s", error.text);
    FILE *memory = open_memstream(&text, &bytes);
    if (!generator_write(&generator, (uint32_t)step, append, memory, &error)) fail_msg("%s", error.text);
    fclose(memory);
    generator_close(&generator);
    gpt2_free(&model);
    tokenizer_close(tokenizer);
    be->close(be);
    return text;
}

/* Every 5 of 12 steps and at the end, by the weights of that step without dropout; on the terminal, too. */
static void test_texts(void **state) {
    (void)state;
    const char *shown = "| the model writes\n  | The";
    assert_run(run_on("bytes", "texts", 0, SAMPLES(5)), 0, shown);
    cJSON *log = train_log("texts");
    assert_int_equal(count_samples(log), 3);
    assert_string_not_equal(text_at(log, 5), text_at(log, 10));
    char *expected = text_of_checkpoint("texts", 12), *repaired = checked_malloc(3 * strlen(expected) + 1, "a text");
    int64_t errors = 0;
    repaired[utf8_repair(expected, strlen(expected), repaired, &errors)] = 0;
    if (strcmp(test_device(), "cpu") == 0) assert_string_equal(text_at(log, 12), repaired);
    assert_true(strlen(text_at(log, 12)) >= 40);
    free(expected), free(repaired);
    /* An evaluation of that checkpoint writes the same text. */
    assert_run(run_on("bytes", "texts", 0, SAMPLES(5) "--init_from=resume --eval_only=true"), 0, shown);
    cJSON *again = train_log("texts");
    assert_int_equal(count_samples(again), 4);
    const cJSON *last = cJSON_GetArrayItem(again, cJSON_GetArraySize(again) - 2);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(last, "text")), text_at(log, 12));
    cJSON_Delete(log);
    cJSON_Delete(again);
}

/* With any number of ranks, of which the first alone writes. */
static void test_training_is_the_same(void **state) {
    (void)state;
    for (int processes = 0; processes <= (only_small_sizes() ? 0 : 3); processes += 3) {
        if (processes > 0 && !train_has_mpi()) skip();
        char *with = format_string("with_%d", processes), *without = format_string("without_%d", processes);
        cJSON *log = run(with, processes, SAMPLES(1)), *expected = run(without, processes, "");
        assert_int_equal(count_samples(log), 12);
        assert_int_equal(count_samples(expected), 0);
        assert_same_curve(log, expected);
        assert_same_checkpoints(with, without);
        cJSON_Delete(log);
        cJSON_Delete(expected);
        free(with), free(without);
    }
}

/* A run that goes on has each text once, the same as one that was never stopped: that of the step where it stopped,
 * too, whether it was written before or not. */
static void test_resumed(void **state) {
    (void)state;
    cJSON *expected = run("never_stopped", 0, SAMPLES(3));
    static const char *const before[] = {SAMPLES(3), ""};
    for (size_t i = only_small_sizes() ? 1 : 0; i < ARRAY_LENGTH(before); i++) {
        char *name = format_string("resumed_%zu", i);
        char *first = format_string("%s --max_iters=6" TRAIN_WHOLE_SCHEDULE, before[i]);
        cJSON_Delete(run(name, 0, first));
        cJSON *log = run(name, 0, SAMPLES(3) "--init_from=resume");
        for (int step = 6; step <= 12; step += 3) assert_string_equal(text_at(log, step), text_at(expected, step));
        cJSON_Delete(log);
        free(first), free(name);
    }
    cJSON_Delete(expected);
}

/* A text of bytes that mean nothing is valid JSON all the same, and changes no terminal. */
static void test_bytes_that_are_not_utf8(void **state) {
    (void)state;
    const CommandResult *result = run_on("bytes", "noise", 0,
                                         "--sample_interval=1 --sample_prompt=The "
                                         "--sample_tokens=400 --max_iters=1 --warmup_iters=0");
    assert_run(result, 0, "the model writes");
    for (const char *at = result->output; *at; at++) assert_true(*at == '\n' || (unsigned char)*at >= ' ');
    cJSON *log = train_log("noise");
    const char *text = text_at(log, 1);
    char *copy = checked_malloc(3 * strlen(text) + 1, "a text");
    int64_t errors = 0;
    utf8_repair(text, strlen(text), copy, &errors);
    assert_int_equal(errors, 0);
    assert_non_null(strstr(text, UTF8_REPLACEMENT));
    free(copy);
    cJSON_Delete(log);
}

/* A text of many seconds, after a step that is saved: a signal ends it, and the run. */
static void test_stopped_while_it_writes(void **state) {
    (void)state;
    Launch launch = {.config = train_small_config()};
    pid_t process = train_start(&launch, "long",
                                "%s --data.train=%s/bytes/tiny_train.bin --data.val=%s/bytes/tiny_val.bin "
                                "--checkpoint_interval=1 --sample_interval=1 --sample_prompt=The --sample_tokens=65536",
                                settings, test_folder(), test_folder());
    train_wait_for(process, "long", "checkpoint", 1);
    usleep(300000);
    assert_int_equal(kill(process, SIGTERM), 0);
    assert_int_equal(train_wait(process), 0);
    cJSON *log = train_log("long");
    assert_int_equal(count_samples(log), 0);
    int steps = -1;
    free(log_numbers(log, "train", "step", &steps));
    assert_true(steps <= 2);
    cJSON_Delete(log);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *data, *arguments, *message;
    } cases[] = {
        {"bare", SAMPLES(5), "command line: train.sample_interval: "},
        {"bare", SAMPLES(5),
         "which tokens.json next to it names, as in {\"tokenizer\": \"gpt2\"}; with sample_interval 0"},
        {"unknown", SAMPLES(5), "unknown tokenizer 'words'"},
        {"bytes", "--sample_interval=5",
         "train.sample_prompt: the prompt is empty, and the tokenizer bytes has no <|endoftext"},
        {"bytes", "--sample_interval=5 --sample_prompt=\"$(printf '%033d' 0)\"",
         "command line: train.sample_prompt: 33 tokens, but model.block_size is 32; shorten it"},
        {"bytes", "--sample_interval=5 --sample_prompt=\"$(printf 'A\\343')\"", "train.sample_prompt: not UTF-8"},
        {"bytes", "--sample_interval=5 --vocab_size=227 --sample_prompt=世",
         "train.sample_prompt: the prompt has token 228 of the tokenizer bytes, but the model's vocabulary has 227"},
        {"bytes", "--sample_interval=-1", "train.sample_interval is '-1'; expected integer >= 0"},
        {"bytes", "--sample_interval=5 --sample_tokens=0",
         "train.sample_tokens is '0'; expected integer in [1, 65536]"},
        {"bytes", "--sample_prompt=A", "train.sample_prompt has no effect with train.sample_interval 0: remove it"},
        {"bytes", "--sample_tokens=9", "train.sample_tokens has no effect with train.sample_interval 0: remove it"},
    };
    for (size_t i = 0; i < (only_small_sizes() ? 7 : ARRAY_LENGTH(cases)); i++) {
        assert_run(run_on(cases[i].data, "wrong", 0, cases[i].arguments), EXIT_USAGE, cases[i].message);
        assert_false(files_is_folder(test_path("wrong")));
    }
    /* One rank alone has a tokenizer: all end. */
    if (train_has_mpi()) assert_run(run_on("bare", "wrong", 2, SAMPLES(5)), EXIT_USAGE, "train.sample_interval: ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_training_is_the_same),
        cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_bytes_that_are_not_utf8),
        cmocka_unit_test(test_stopped_while_it_writes),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, make_data, NULL);
}
