/* test_export.c: export_hf: models that it writes have the loss of the model that it read, as the trainer finds it; and
 * what it refuses. What transformers computes with them, dev/check_transformers.py compares. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/train/train_fixture.h"
#include "util/files.h"
#include "util/safetensors.h"

#define EMA "--ema_start=5 --ema_decay=0.8 --ema_mix=0.5 "

static const char *binaries(void) {
    const char *folder = getenv("MARS_BIN");
    return folder ? folder : ".";
}

static CommandResult *export(const char *from, const char *to, const char *options) {
    char *source = checked_strdup(test_path("%s", from));
    CommandResult *result =
        test_run("'%s/export_hf' '%s' '%s' %s </dev/null", binaries(), source, test_path("%s", to), options);
    free(source);
    return result;
}

/* Trains for a few steps with weights far from their start, so that attention has something to say. */
static void make_run(const char *name, const char *arguments) {
    Launch launch = {.config = train_small_config()};
    train(&launch, name, "--batch_size=1 --n_layer=3 --learning_rate=0.03 --max_iters=40 %s", arguments);
}

/* A number of the last validation of a run. */
static double last(const char *name, const char *key) {
    double found = NAN;
    cJSON *log = train_log(name);
    for (const cJSON *line = log->child; line; line = line->next) {
        const char *event = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "event"));
        const cJSON *number = cJSON_GetObjectItemCaseSensitive(line, key);
        if (strcmp(event, "val") == 0 && number) found = number->valuedouble;
    }
    cJSON_Delete(log);
    if (isnan(found)) fail_msg("%s has no %s", name, key);
    return found;
}

/* The loss of the model in a folder, which comes with its config, on the sequences of those runs. */
static double loss_of(const char *folder) {
    static char *config;
    if (!config)
        config = train_write_config(cJSON_Parse(
            "{\"data\": {\"train\": \"dev/golden/tiny_train.bin\", \"val\": \"dev/golden/tiny_val.bin\"},"
            " \"optimizer\": {\"name\": \"adamw\", \"learning_rate\": 0.003},"
            " \"train\": {\"max_iters\": 1, \"total_batch_size\": 2, \"batch_size\": 2, \"eval_sequences\": 6,"
            "  \"eval_only\": true, \"precision\": \"float32\", \"device\": \"cpu\"}}"));
    static int runs;
    Launch launch = {.config = config};
    char *name = format_string("evaluated_%d", runs++);
    train(&launch, name, "--init_from='%s'", test_path("%s", folder));
    double loss = last(name, "loss");
    free(name);
    return loss;
}

static void assert_loss(const char *folder, double expected, double limit) {
    assert_error_below(fabs(loss_of(folder) / expected - 1.0), limit, "the loss of the exported model");
}

static void assert_config(const char *folder, const char *key, const char *expected) {
    char *text = test_read_file(test_path("%s/config.json", folder), NULL);
    cJSON *config = cJSON_Parse(text);
    char *found = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(config, key));
    assert_string_equal(found, expected);
    cJSON_free(found);
    cJSON_Delete(config);
    free(text);
}

static void test_copy(void **state) {
    (void)state;
    make_run("plain", "");
    assert_run(export("plain/checkpoints/latest", "new/copy/", ""), 0, "parameters in float32\n");
    assert_run(test_run("cmp '%s/model.safetensors' '%s/plain/checkpoints/latest/model.safetensors'",
                        test_path("new/copy"), test_folder()),
               0, "");
    assert_true(files_is_file(test_path("new/copy/config.json")));
    assert_false(files_is_file(test_path("new/copy/trainer.json")));
    assert_loss("new/copy", last("plain", "loss"), 1e-7);
    /* A file of weights with its config.json next to it will do. */
    assert_run(export("new/copy/model.safetensors", "second_copy", ""), 0, "");
    assert_run(
        test_run("cmp '%s/model.safetensors' '%s/new/copy/model.safetensors'", test_path("second_copy"), test_folder()),
        0, "");
}

/* Half the bytes, rounded to nearest. */
static void test_bfloat16(void **state) {
    (void)state;
    make_run("whole", "");
    assert_run(export("whole/checkpoints/latest", "half", "--dtype=bfloat16"), 0, "parameters in bfloat16\n");
    Error error;
    SafetensorsFile half, whole;
    if (!safetensors_open(&half, test_path("half/model.safetensors"), &error) ||
        !safetensors_open(&whole, test_path("whole/checkpoints/latest/model.safetensors"), &error))
        fail_msg("%s", error.text);
    assert_int_equal(half.count, whole.count);
    for (int i = 0; i < whole.count; i++) {
        const SafetensorsEntry *a = safetensors_find(&half, whole.entries[i].name), *b = &whole.entries[i];
        assert_true(a && a->type == SAFETENSORS_BF16 && a->elements == b->elements);
        float *rounded = checked_malloc((size_t)a->elements * sizeof *rounded, "a tensor");
        float *exact = checked_malloc((size_t)a->elements * sizeof *exact, "a tensor");
        assert_true(safetensors_read_float32(a, rounded, NULL));
        assert_true(safetensors_read_float32(b, exact, NULL));
        for (int64_t k = 0; k < a->elements; k++)
            assert_true(fabsf(rounded[k] - exact[k]) <= 0x1p-8f * fabsf(exact[k]));
        free(rounded);
        free(exact);
    }
    safetensors_close(&half);
    safetensors_close(&whole);
    assert_config("half", "torch_dtype", "\"bfloat16\"");
    assert_loss("half", last("whole", "loss"), 5e-3);
}

/* Queries of layer l, numbered from 1, are divided by l; nothing else changes. In transformers' layout queries are the
 * first third of each row of a weight (in, 3 out), and of a bias. */
static void assert_folded(const char *folded, const char *from, int layers) {
    Error error;
    SafetensorsFile now, before;
    if (!safetensors_open(&now, test_path("%s/model.safetensors", folded), &error) ||
        !safetensors_open(&before, test_path("%s/model.safetensors", from), &error))
        fail_msg("%s", error.text);
    int found = 0;
    for (int i = 0; i < before.count; i++) {
        const SafetensorsEntry *b = &before.entries[i], *a = safetensors_find(&now, b->name);
        int layer = 0, length = 0;
        bool is_folded = sscanf(b->name, "transformer.h.%d.attn.c_attn.%n", &layer, &length) == 1 && length > 0;
        int64_t columns = b->shape[b->dimensions - 1];
        float *values = checked_malloc((size_t)b->elements * sizeof *values, "a tensor");
        float *expected = checked_malloc((size_t)b->elements * sizeof *expected, "a tensor");
        assert_true(safetensors_read_float32(a, values, NULL));
        assert_true(safetensors_read_float32(b, expected, NULL));
        for (int64_t k = 0; is_folded && k < b->elements; k++)
            if (k % columns < columns / 3) expected[k] /= (float)(layer + 1);
        assert_memory_equal(values, expected, (size_t)b->elements * sizeof *values);
        found += is_folded;
        free(values);
        free(expected);
    }
    assert_true(found >= layers);
    safetensors_close(&now);
    safetensors_close(&before);
}

/* The same function without the setting. */
static void test_fold(void **state) {
    (void)state;
    static const char *const models[] = {"--bias=true", "--bias=false --position=rope --norm=rmsnorm"};
    for (size_t i = 0; i < ARRAY_LENGTH(models); i++) {
        char *run = format_string("scaled_%zu", i), *from = format_string("%s/checkpoints/latest", run);
        char *folded = format_string("folded_%zu", i),
             *arguments = format_string("%s --scale_attn_by_inverse_layer_idx=true", models[i]);
        make_run(run, arguments);
        assert_run(export(from, folded, "--fold_attention_scale"), 0, "with the scale of attention folded in");
        assert_config(folded, "scale_attn_by_inverse_layer_idx", "false");
        assert_loss(folded, last(run, "loss"), 1e-6);
        assert_folded(folded, from, 3);
        free(run), free(from), free(folded), free(arguments);
    }
}

static void test_average(void **state) {
    (void)state;
    make_run("averaged", EMA "--scale_attn_by_inverse_layer_idx=true");
    assert_run(export("averaged/checkpoints/latest", "mixed", "--ema"), 0, "mixed with their average\n");
    assert_loss("mixed", last("averaged", "ema_loss"), 1e-6);
    assert_true(fabs(last("averaged", "ema_loss") / last("averaged", "loss") - 1.0) > 1e-5);
    assert_run(export("averaged/checkpoints/latest", "mixed_and_folded", "--fold_attention_scale --ema"), 0, "");
    assert_loss("mixed_and_folded", last("averaged", "ema_loss"), 1e-6);
    /* A share of 0 is the weights. */
    make_run("unmixed", "--ema_start=5 --ema_mix=0");
    assert_run(export("unmixed/checkpoints/latest", "unmixed_copy", "--ema"), 0, "");
    assert_run(test_run("cmp '%s/unmixed_copy/model.safetensors' '%s/unmixed/checkpoints/latest/model.safetensors'",
                        test_folder(), test_folder()),
               0, "");
}

/* A model that transformers' GPT-2 cannot compute has its code with it. */
static void test_other_model(void **state) {
    (void)state;
    make_run("rope", "--position=rope --qk_norm=true --tie_embeddings=false");
    assert_run(export("rope/checkpoints/latest", "rope_copy", ""), 0, "");
    assert_true(files_is_file(test_path("rope_copy/modeling_mars_gpt.py")));
    assert_loss("rope_copy", last("rope", "loss"), 1e-7);
    assert_run(export("rope/checkpoints/latest", "no", "--fold_attention_scale"), EXIT_USAGE, "qk_norm");
    assert_false(files_is_folder(test_path("no")));
}

static void test_wrong_arguments(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "the checkpoint folder is missing"},
        {"a", "the folder to write is missing"},
        {"a b c", "unexpected argument 'c'"},
        {"a b --dtype=float16", "--dtype=float16: expected float32 or bfloat16"},
        {"a b --dtype=", "--dtype=: expected float32 or bfloat16"},
        {"a b --dtype", "there is no option --dtype"},
        {"a b --ema=true", "there is no option --ema=true"},
        {"a b --fold", "there is no option --fold"},
        {"a /", "/ is there already"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_run(test_run("'%s/export_hf' %s </dev/null", binaries(), cases[i][0]), EXIT_USAGE, cases[i][1]);
    assert_run(test_run("'%s/export_hf' --help </dev/null", binaries()), 0, "usage: export_hf CHECKPOINT OUT");
}

static void test_wrong_folders(void **state) {
    (void)state;
    make_run("good", "--scale_attn_by_inverse_layer_idx=false");
    const char *good = "good/checkpoints/latest";
    assert_run(export("nothing", "no", ""), EXIT_FAILED, "nothing");
    assert_run(export(good, "good", ""), EXIT_USAGE, "is there already; remove it or choose another folder");
    assert_run(export(good, "no", "--ema"), EXIT_FAILED, "holds no average of the weights; only runs");
    assert_run(export(good, "no", "--fold_attention_scale"), EXIT_USAGE, "no scale_attn_by_inverse_layer_idx to fold");
    assert_run(export(good, "good/metrics.jsonl/no", ""), EXIT_FAILED, "metrics.jsonl");
    /* Weights alone, and damaged ones. */
    assert_run(test_run("cd '%s' && mkdir bare damaged && cp -L %s/model.safetensors bare && cp -L %s/* damaged && "
                        "printf x | dd of=damaged/model.safetensors bs=1 seek=5000 conv=notrunc 2>/dev/null",
                        test_folder(), good, good),
               0, "");
    assert_run(export("bare", "no", ""), EXIT_FAILED, "has no config.json; expected one");
    assert_run(test_run("cd '%s' && cp -rL %s spoilt && sed -i 's/false/False/' spoilt/tokenizer_config.json",
                        test_folder(), good),
               0, "");
    assert_run(export("spoilt", "no", ""), EXIT_FAILED, "tokenizer_config.json is damaged: its checksum is");
    assert_run(export("damaged", "no", ""), EXIT_FAILED, "is damaged: its checksum is");
    assert_run(test_run("ls -a '%s' | grep -c '^no$\\|tmp_no'", test_folder()), 1, "0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy),          cmocka_unit_test(test_bfloat16),
        cmocka_unit_test(test_fold),          cmocka_unit_test(test_average),
        cmocka_unit_test(test_other_model),   cmocka_unit_test(test_wrong_arguments),
        cmocka_unit_test(test_wrong_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
