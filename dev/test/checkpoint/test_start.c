/* test_start.c: how a run begins: from weights, which come with their model, and from checkpoints, of this version and
 * of earlier ones, which people have copied, moved or spoiled. That a resumed run repeats the bits of one that was
 * never stopped is tested in test_resume.c. */
#include "dev/test/train/train_fixture.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint_layout.h"
#include "config/config_model.h"
#include "dev/test/model/small_model.h"
#include "util/files.h"

/* A config without a section "model", on the device under test. */
static const char *config_without_model(void) {
    static char *path;
    if (path) return path;
    char *text = test_read_file(train_small_config(), NULL);
    cJSON *config = cJSON_Parse(text);
    cJSON_DeleteItemFromObjectCaseSensitive(config, "model");
    free(text);
    return path = train_write_config(config);
}

static Launch without_model(void) { return (Launch){.config = config_without_model()}; }
static Launch small_run(void) { return (Launch){.config = train_small_config()}; }

/* The last number `key` of an event. */
static double last_number(const char *name, const char *event, const char *key) {
    cJSON *log = train_log(name);
    int count = -1;
    double *numbers = log_numbers(log, event, key, &count), last = count > 0 ? numbers[count - 1] : NAN;
    free(numbers);
    cJSON_Delete(log);
    return last;
}

static void assert_loss(const char *name, double expected, double limit) {
    assert_error_below(fabs(last_number(name, "val", "loss") - expected) / expected, limit, name);
}

static void write_file(const char *folder, const char *name, const char *text) {
    char *path = format_string("%s/%s", folder, name);
    test_write_text(path, text);
    free(path);
}

/* ---- weights come with their model ---- */

/* A published folder of dev/golden's weights, without trainer.json, and the loss that PyTorch found for them. */
static void assert_published(const char *set, const char *config_json, double expected) {
    const char *folder = test_path("published_%s", set);
    assert_run(
        test_run("mkdir -p '%s' && cp dev/golden/%s_init.safetensors '%s/model.safetensors'", folder, set, folder), 0,
        "");
    write_file(folder, "config.json", config_json);
    Launch launch = without_model();
    char *arguments = format_string("--eval_only=true --eval_sequences=0 --data.val=dev/golden/%s_val.bin", set);
    train(&launch, set, "%s --init_from='%s'", arguments, folder);
    assert_loss(set, expected, 2e-6);
    train(&launch, set, "%s --init_from='%s/model.safetensors'", arguments, folder);
    assert_loss(set, expected, 2e-6);
    free(arguments);
}

#define PUBLISHED \
    "\"model_type\":\"gpt2\",\"n_layer\":2,\"n_head\":2,\"n_embd\":128,\"n_positions\":64,\"vocab_size\":256"

/* Our defaults are others: 12 heads, no biases, scaled attention scores. */
static void test_published_folders(void **state) {
    (void)state;
    assert_published("tiny", "{" PUBLISHED ",\"scale_attn_by_inverse_layer_idx\":true}", 5.541881650686264);
    assert_published("tiny_bias", "{" PUBLISHED ",\"resid_pdrop\":0.1}", 5.614642709493637);
}

/* A folder with the weights of dev/golden/modern/NAME and our config.json, which is all that says what their model
 * is. */
static void assert_published_modern(const char *name) {
    Error error;
    GPT2Config model;
    Launch launch = without_model();
    char *path = format_string("dev/golden/modern/%s.json", name), *content = test_read_file(path, NULL);
    cJSON *golden = cJSON_Parse(content);
    const cJSON *keys = cJSON_GetObjectItemCaseSensitive(golden, "model");
    const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(golden, "cases"), 0);
    const cJSON *loss = cJSON_GetObjectItemCaseSensitive(first, "val_loss_before");
    assert_true(cJSON_IsNumber(loss));
    if (!config_model_from_json(&model, keys, path, &error)) fail_msg("%s", error.text);
    const char *folder = test_path("published_%s", name);
    assert_run(test_run("mkdir -p '%s' && cp dev/golden/modern/%s_init.safetensors '%s/model.safetensors'", folder,
                        name, folder),
               0, "");
    char *text = checkpoint_model_config(&model, DTYPE_FLOAT32, false);
    write_file(folder, "config.json", text);
    train(&launch, name,
          "--eval_only=true --eval_sequences=0 --data.train=dev/golden/modern/%s_train.bin "
          "--data.val=dev/golden/modern/%s_val.bin --init_from='%s'",
          name, name, folder);
    assert_loss(name, loss->valuedouble, 2e-6);
    free(text), free(content), free(path);
    cJSON_Delete(golden);
}

static void test_published_modern_folders(void **state) {
    (void)state;
    static const char *const names[] = {"modded_gradient", "track3_gradient", "variant_untied", "variant_bias_rmsnorm"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) assert_published_modern(names[i]);
}

/* A run with every model key other than the default, and its newest checkpoint. */
static const char *donor(void) {
    Launch launch = small_run();
    const char *path = test_path("donor/checkpoints/latest");
    if (!files_is_folder(path))
        train(&launch, "donor",
              "--max_iters=4 --n_layer=2 --n_head=4 --bias=true --vocab_size=250 "
              "--scale_attn_by_inverse_layer_idx=false");
    return path;
}

/* An evaluation of the donor's weights without any model key, from the folder and from the file with `options`, gives
 * the donor's loss, and the checkpoint of a run from them says the same of the model. */
static void assert_inherits(const Launch *launch, const char *from, double expected, const char *options) {
    train(launch, "heir", "--init_from='%s' --eval_only=true", from);
    assert_loss("heir", expected, 1e-6);
    train(launch, "heir", "--init_from='%s/model.safetensors' --eval_only=true %s", from, options);
    assert_loss("heir", expected, 1e-6);
    train(launch, "tuned", "--init_from='%s' --max_iters=1 --warmup_iters=0 --overwrite=true", from);
    assert_run(test_run("cmp '%s/config.json' '%s/config.json'", from, test_path("tuned/checkpoints/latest")), 0, "");
}

static void test_model_of_a_checkpoint(void **state) {
    (void)state;
    Launch launch = without_model();
    const char *from = donor();
    double expected = last_number("donor", "val", "loss");
    assert_inherits(&launch, from, expected, "");
    if (!train_has_mpi()) skip();
    launch.processes = 2;
    train(&launch, "heir", "--init_from='%s' --eval_only=true", from);
    assert_loss("heir", expected, 1e-6);
}

/* A run of a model that transformers' GPT-2 cannot compute, and its newest checkpoint. */
static const char *modern_donor(void) {
    Launch launch = small_run();
    const char *path = test_path("modern_donor/checkpoints/latest");
    if (!files_is_folder(path))
        train(
            &launch, "modern_donor",
            "--max_iters=3 --position=rope-half --rope_base=1024 --norm=rmsnorm --norm_eps=1e-6 --norm_embedding=true "
            "--qk_norm=true --activation=relu2 --tie_embeddings=false --lm_head_bias=true --bias=true "
            "--attention_scale=0.12 --attention_output_scale=0.5 --logit_softcap=15 --init=fan-in "
            "--zero_init_projections=true --scale_attn_by_inverse_layer_idx=false" TRAIN_WHOLE_SCHEDULE);
    return path;
}

/* Its config.json has the whole model. Rotations are for sequences of any length. */
static void test_model_of_a_modern_checkpoint(void **state) {
    (void)state;
    Launch launch = without_model();
    const char *from = modern_donor();
    double expected = last_number("modern_donor", "val", "loss");
    assert_inherits(&launch, from, expected, "--init=torch");
    train(&launch, "modern_long", "--init_from='%s' --block_size=64 --eval_only=true", from);
    assert_loss("modern_long", expected, 0.2);
    train(&launch, "modern_short", "--init_from='%s' --block_size=16 --eval_only=true", from);
    assert_loss("modern_short", expected, 0.2);
    assert_run(train_run(&launch, "wrong", "--init_from='%s' --logit_softcap=30", from), EXIT_USAGE,
               "command line: model.logit_softcap is 30, but the model in ");
}

/* On resume too, where nothing of it can change; how the weights started does not matter any more. */
static void test_modern_model_cannot_change(void **state) {
    (void)state;
    Launch launch = without_model();
    assert_run(test_run("cp -r '%s' '%s'", test_path("modern_donor"), test_path("modern_resumed")), 0, "");
    static const char *const changes[][2] = {
        {"--position=rope", "model.position is \"rope\", but the model in "},
        {"--rope_base=10000", "model.rope_base is 10000, but the model in "},
        {"--tie_embeddings=true", "model.tie_embeddings is true, but the model in "},
        {"--block_size=64", "model.block_size is 64, but the model in "},
        {"--norm_eps=1e-5", "model.norm_eps is 1e-05, but the model in "},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(changes); i++)
        assert_run(train_run(&launch, "modern_resumed", "--init_from=resume %s", changes[i][0]), EXIT_USAGE,
                   changes[i][1]);
    CommandResult *result =
        train_run(&launch, "modern_resumed", "--init_from=resume --init=torch --max_iters=6" TRAIN_WHOLE_SCHEDULE);
    assert_run(result, EXIT_DONE, "  changed    train.max_iters: 6, was 3\n");
    assert_null(strstr(result->output, "changed    model."));
}

/* Our checkpoints have zero biases where the model has none. Without trainer.json they look like biases. The user may
 * ask for a model without biases, which computes the same. */
static void test_biases_that_are_zero(void **state) {
    (void)state;
    Launch launch = without_model(), small = small_run();
    train(&small, "unbiased", "--max_iters=3");
    double expected = last_number("unbiased", "val", "loss");
    const char *folder = test_path("exported");
    assert_run(test_run("cp -rL '%s' '%s'", test_path("unbiased/checkpoints/latest"), folder), 0, "");
    assert_run(train_run(&launch, "biases", "--init_from='%s' --eval_only=true --bias=true", folder), EXIT_USAGE,
               "model.bias is true, but the model in ");
    assert_run(test_run("rm '%s/trainer.json'", folder), 0, "");
    static const char *const arguments[] = {"", "--bias=true", "--bias=false"};
    for (size_t i = 0; i < ARRAY_LENGTH(arguments); i++) {
        train(&launch, "biases", "--init_from='%s' --eval_only=true %s", folder, arguments[i]);
        assert_loss("biases", expected, 1e-6);
        cJSON *log = train_log("biases");
        int count = -1;
        double *parameters = log_numbers(log, "start", "parameters", &count);
        assert_true((parameters[count - 1] == 21984) == (i < 2)); /* of which 384 are biases */
        free(parameters);
        cJSON_Delete(log);
    }
}

/* A key that is given and contradicts the folder: the message names who gave it, the key and both values. */
static void test_contradictions(void **state) {
    (void)state;
    Launch launch = without_model();
    const char *from = donor();
    static const struct {
        const char *argument, *text;
    } cases[] = {
        {"--n_layer=3", "command line: model.n_layer is 3, but the model in "},
        {"--n_head=2", "model.n_head is 2, but the model in "},
        {"--n_embd=64", "model.n_embd is 64, but the model in "},
        {"--vocab_size=256", "model.vocab_size is 256, but the model in "},
        {"--block_size=64", "model.block_size is 64, but the model in "},
        {"--bias=false", "model.bias is false, but the model in "},
        {"--scale_attn_by_inverse_layer_idx=true", "model.scale_attn_by_inverse_layer_idx is true, but the model in "},
    };
    char *file = format_string("%s/config.json has ", from);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        CommandResult *result = train_run(&launch, "wrong", "--init_from='%s' %s", from, cases[i].argument);
        assert_run(result, EXIT_USAGE, cases[i].text);
        assert_run(result, EXIT_USAGE, file);
        assert_run(result, EXIT_USAGE, "; remove the key: it comes with the weights");
    }
    Launch small = small_run();
    char *text = format_string("%s: model.n_layer is 1, but the model in %s2", small.config, file);
    assert_run(train_run(&small, "wrong", "--init_from='%s'", from), EXIT_USAGE, text);
    assert_false(files_is_folder(test_path("wrong")));
    free(text);
    free(file);
    train(&launch, "right", "--init_from='%s' --n_layer=2 --n_head=4 --bias=true --eval_only=true", from);
}

/* Fewer positions than the weights have are enough, and are said. */
static void test_shorter_sequences(void **state) {
    (void)state;
    Launch launch = without_model();
    const char *from = donor();
    CommandResult *result = train_run(&launch, "short", "--init_from='%s' --block_size=8 --eval_only=true", from);
    assert_run(result, EXIT_DONE, "latest: the first 8 of 32 position embeddings\n");
    double loss = last_number("short", "val", "loss");
    result = train_run(&launch, "short", "--init_from='%s/model.safetensors' --max_iters=3 --block_size=8", from);
    assert_run(result, EXIT_DONE, "model.safetensors: the first 8 of 32 position embeddings\n");
    assert_loss("short", loss, 0.1);
    train(&launch, "shorter", "--init_from='%s' --eval_only=true", test_path("short/checkpoints/latest"));
    assert_loss("shorter", last_number("short", "val", "loss"), 1e-6); /* with block_size 8 */
}

static void test_weights_without_a_config(void **state) {
    (void)state;
    Launch launch = small_run();
    CommandResult *result =
        train_run(&launch, "bare",
                  "--init_from=dev/golden/tiny_init.safetensors --eval_only=true --n_layer=2 --n_embd=128 "
                  "--block_size=64 --data.val=dev/golden/tiny_val.bin --eval_sequences=0");
    assert_run(result, EXIT_DONE,
               "tiny_init.safetensors; there is no config.json next to it: only shapes are compared");
    assert_loss("bare", 5.541881650686264, 2e-6);
}

/* What a folder asks for and we cannot do is its own fault, not the command line's. */
static void test_models_that_we_do_not_have(void **state) {
    (void)state;
    static const struct {
        const char *config, *text;
    } cases[] = {
        {"{" PUBLISHED ",\"activation_function\":\"gelu\"}", "activation_function is \"gelu\"; only \"gelu_new\""},
        {"{" PUBLISHED ",\"layer_norm_epsilon\":0}",
         "layer_norm_epsilon is 0; only a number above 0 and below 1 is supported"},
        {"{" PUBLISHED ",\"scale_attn_weights\":false}", "scale_attn_weights is false; only true"},
        {"{\"model_type\":\"gpt2\",\"vocab_size\":250000}", "vocab_size is 250000; expected from 1 to 65536"},
        {"{\"model_type\":\"mars_gpt\",\"n_layer\":2}",
         "config.json: the key n_head is missing; expected integer in [1, 1024]"},
    };
    const char *folder = test_path("other");
    assert_run(test_run("mkdir -p '%s' && cp dev/golden/tiny_init.safetensors '%s/model.safetensors'", folder, folder),
               0, "");
    Launch launch = without_model();
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_file(folder, "config.json", cases[i].config);
        CommandResult *result = train_run(&launch, "refused", "--init_from='%s'", folder);
        assert_run(result, EXIT_FAILED, cases[i].text);
        assert_run(result, EXIT_FAILED, "/other/config.json");
    }
}

/* --print_config shows the model that comes with weights or a checkpoint, also where a run could not begin, and a run
 * of what it printed has that model. */
static void test_print_config(void **state) {
    (void)state;
    Launch launch = without_model();
    char *from = checked_strdup(donor()), *printed = checked_strdup(test_path("printed.json"));
    CommandResult *result = train_run(&launch, "look", "--init_from='%s' --print_config", from);
    assert_run(result, EXIT_DONE, "\"n_layer\": 2,\n");
    assert_run(result, EXIT_DONE, "\"vocab_size\": 250,\n        \"bias\": true,\n");
    assert_false(files_is_folder(test_path("look")));
    test_write_text(printed, result->output);
    Launch again = {.config = printed};
    train(&again, "look", "--max_iters=2 --checkpoint_interval=0");
    /* out_dir has the checkpoints of that run now. */
    assert_run(train_run(&launch, "look", "--init_from='%s'", from), EXIT_FAILED,
               "holds the checkpoints of an earlier run");
    assert_run(train_run(&launch, "look", "--init_from='%s' --print_config", from), EXIT_DONE, "\"n_layer\": 2,\n");
    assert_run(train_run(&launch, "look", "--init_from=resume --print_config"), EXIT_DONE, "\"n_layer\": 2,\n");
    assert_run(train_run(&launch, "look", "--init_from=resume --n_layer=3 --print_config"), EXIT_USAGE,
               "command line: model.n_layer is 3, but the model in ");
    assert_run(train_run(&launch, "nothing", "--init_from=resume --print_config"), EXIT_FAILED, "holds no checkpoint");
    assert_run(train_run(&launch, "nothing", "--init_from=nowhere --print_config"), EXIT_FAILED,
               "train.init_from: cannot open nowhere");
    free(from);
    free(printed);
}

/* config/finetune.json needs a folder of weights, and no model key. */
static void test_finetune_config(void **state) {
    (void)state;
    Launch launch = {.config = "config/finetune.json"};
    const char *short_run = "--data.train=dev/golden/tiny_train.bin --data.val=dev/golden/tiny_val.bin --max_iters=2 "
                            "--warmup_iters=0 --threads=1 --eval_sequences=4 --learning_rate=1e-3";
    train(&launch, "finetune", "--init_from='%s' --device=%s %s", donor(), test_device(), short_run);
    cJSON *log = train_log("finetune");
    int count = 2;
    double *losses = log_numbers(log, "val", "loss", &count);
    assert_true(losses[1] < losses[0]);
    free(losses);
    cJSON_Delete(log);
    CommandResult *result = train_run(&launch, "finetune2", "--init_from=no_such_folder %s", short_run);
    assert_run(result, EXIT_FAILED,
               "train.init_from: cannot open no_such_folder: No such file or directory; config/finetune.json says how");
}

/* ---- going on ---- */

static void test_model_cannot_change(void **state) {
    (void)state;
    Launch launch = without_model(), small = small_run();
    train(&small, "same", "--max_iters=3" TRAIN_WHOLE_SCHEDULE);
    assert_run(train_run(&launch, "same", "--init_from=resume --n_head=4"), EXIT_USAGE,
               "command line: model.n_head is 4, but the model in ");
    assert_run(train_run(&launch, "same", "--init_from=auto --block_size=8"), EXIT_USAGE, "model.block_size is 8, but");
    assert_run(train_run(&launch, "same", "--init_from=resume --bias=true"), EXIT_USAGE, "model.bias is true, but");
    CommandResult *result = train_run(&launch, "same", "--init_from=resume --optimizer.name=muon");
    assert_run(result, EXIT_USAGE, "command line: optimizer.name is muon, but ");
    assert_run(result, EXIT_USAGE,
               "step_00000003 was written by optimizer adamw; start a new run from its weights with "
               "--init_from=");
    train(&launch, "same",
          "--init_from=resume --max_iters=6" TRAIN_WHOLE_SCHEDULE); /* whose model is the checkpoint's */
    train(&small, "same_straight", "--max_iters=6" TRAIN_WHOLE_SCHEDULE);
    assert_same_checkpoints("same", "same_straight");
}

static int count_of(const char *text, const char *part) {
    int count = 0;
    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part)) count++;
    return count;
}

/* Every changed key is printed once, and nothing else. */
static void test_changes_are_printed(void **state) {
    (void)state;
    Launch launch = small_run();
    train(&launch, "changed", "--max_iters=3" TRAIN_WHOLE_SCHEDULE);
    CommandResult *result = train_run(&launch, "changed", "--init_from=resume --max_iters=3" TRAIN_WHOLE_SCHEDULE);
    assert_run(result, EXIT_DONE, "resumed from step 3");
    assert_int_equal(count_of(result->output, "changed  "), 0);
    result = train_run(&launch, "changed",
                       "--init_from=resume --max_iters=4 --learning_rate=0.002 --order=shuffled" TRAIN_WHOLE_SCHEDULE);
    assert_run(result, EXIT_DONE, "  changed    train.max_iters: 4, was 3\n");
    assert_run(result, EXIT_DONE, "  changed    optimizer.learning_rate: 0.002, was 0.003\n");
    assert_run(result, EXIT_DONE, "  changed    data.order: \"shuffled\", was \"random\"\n");
    assert_int_equal(count_of(result->output, "changed  "), 3);
}

/* After a change of total_batch_size the run goes on at the right sequence: with a rate of nearly 0, the loss over 24
 * sequences is the mean of those over the two halves. The tokens are those that were seen, after a second change
 * too. */
static void test_another_total_batch_size(void **state) {
    (void)state;
    Launch launch = small_run();
    const char *still = "--learning_rate=1e-30 --min_lr=0 --order=sequential --data.train=dev/golden/tiny_train.bin";
    train(&launch, "twelve", "--max_iters=4 --order=sequential");
    assert_run(test_run("cp -r '%s' '%s'", test_path("twelve"), test_path("twentyfour")), 0, "");
    train(&launch, "twelve", "--init_from=resume --max_iters=6 %s", still);
    train(&launch, "twentyfour", "--init_from=resume --max_iters=5 --total_batch_size=24 %s", still);
    int six = 6, five = 5;
    cJSON *log = train_log("twelve"), *doubled = train_log("twentyfour");
    double *halves = log_numbers(log, "train", "loss", &six), *losses = log_numbers(doubled, "train", "loss", &five);
    assert_error_below(fabs(losses[4] / (0.5 * (halves[4] + halves[5])) - 1.0), 1e-5, "the loss over both halves");
    assert_true(fabs(halves[4] - halves[5]) > 1e-3); /* which are not the same */
    assert_true(last_number("twelve", "train", "tokens") == 6 * 12 * 32);
    assert_true(last_number("twentyfour", "train", "tokens") == (4 * 12 + 24) * 32);
    assert_true(last_number("twentyfour", "val", "tokens") == (4 * 12 + 24) * 32);
    train(&launch, "twentyfour", "--init_from=resume --max_iters=7 --total_batch_size=6 %s", still);
    assert_true(last_number("twentyfour", "train", "tokens") == (4 * 12 + 24 + 2 * 6) * 32);
    free(halves), free(losses);
    cJSON_Delete(log), cJSON_Delete(doubled);
}

/* ---- a checkpoint of version 0.1.0 ---- */

static void copy_old_run(const char *name) {
    assert_run(test_run("cp -r dev/golden/checkpoint_0.1.0 '%s'", test_path("%s", name)), 0, "");
}

/* It goes on as that version did: metrics.jsonl there has what it reported of all twelve steps. */
static void test_version_0_1_0_goes_on(void **state) {
    (void)state;
    Launch launch = {.config = "dev/golden/checkpoint_0.1.0/run.json"};
    copy_old_run("old");
    CommandResult *result = train_run(&launch, "old", "--init_from=resume --device=%s", test_device());
    assert_run(result, EXIT_DONE, "resumed from step 6");
    assert_run(result, EXIT_DONE, "  changed    train.max_iters: 12, was 6\n");
    copy_old_run("as_it_was");
    cJSON *log = train_log("old"), *expected = train_log("as_it_was");
    assert_close_curve(log, expected, 1e-4);
    int steps = 12;
    double *tokens = log_numbers(log, "train", "tokens", &steps);
    for (int i = 0; i < steps; i++) assert_true(tokens[i] == (i + 1) * 12 * 16);
    free(tokens);
    cJSON_Delete(log), cJSON_Delete(expected);
}

static void test_version_0_1_0_with_another_batch(void **state) {
    (void)state;
    Launch launch = {.config = "dev/golden/checkpoint_0.1.0/run.json"};
    copy_old_run("old_doubled");
    train(&launch, "old_doubled", "--init_from=resume --max_iters=7 --total_batch_size=24 --device=%s", test_device());
    assert_true(last_number("old_doubled", "train", "tokens") == (6 * 12 + 24) * 16);
}

/* Weights do not tell that their config.json was edited: the checksum does. */
static void test_an_edited_model_is_reported(void **state) {
    (void)state;
    Launch launch = {.config = "dev/golden/checkpoint_0.1.0/run.json"};
    copy_old_run("edited");
    const char *folder = test_path("edited/checkpoints/step_00000006"),
               *warning = "this may not be the model that was trained";
    for (int is_edited = 0; is_edited < 2; is_edited++) {
        if (is_edited) assert_run(test_run("sed -i 's/1e-05/1e-03/' '%s/config.json'", folder), 0, "");
        CommandResult *result = train_run(&launch, is_edited ? "from_edited" : "from_whole",
                                          "--init_from='%s' --eval_only=true --device=%s", folder, test_device());
        assert_run(result, EXIT_DONE, is_edited ? warning : "validation loss");
        if (is_edited)
            assert_parts(result->output,
                         "step_00000006/config.json is damaged|its checksum is|should be|copy the checkpoint");
        else
            assert_null(strstr(result->output, warning));
    }
    assert_run(train_run(&launch, "edited", "--init_from=resume --device=%s", test_device()), EXIT_FAILED,
               "config.json is damaged");
}

/* ---- folders that were copied and moved ---- */

static bool is_link(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0 && S_ISLNK(status.st_mode);
}

/* A run of 12 steps that was never stopped, and one of 9 steps with two checkpoints. */
static void make_runs(void) {
    Launch launch = small_run();
    if (files_is_folder(test_path("whole"))) return;
    train(&launch, "whole", " ");
    train(&launch, "part", "--max_iters=9" TRAIN_WHOLE_SCHEDULE);
    assert_names(test_path("part/checkpoints"), "latest step_00000006 step_00000009 ");
}

/* A copy of the second one, after a shell command in the copy. */
static void copy_part(const char *name, const char *options, const char *command) {
    make_runs();
    assert_run(test_run("cp -r %s '%s' '%s' && cd '%s' && %s", options, test_path("part"), test_path("%s", name),
                        test_path("%s", name), command),
               0, "");
}

/* It goes on to the same end, with `text` in the output, and `latest` is a link again. */
static void assert_goes_on(const char *name, const char *text) {
    Launch launch = small_run();
    assert_run(train_run(&launch, name, "--init_from=auto"), EXIT_DONE, text);
    assert_true(is_link(test_path("%s/checkpoints/latest", name)));
    assert_string_equal(small_latest(test_path("%s", name)), "step_00000012");
    assert_same_checkpoints(name, "whole");
}

static void test_copy_that_followed_links(void **state) {
    (void)state;
    copy_part("followed", "-L", "true");
    assert_goes_on("followed", "checkpoints/latest was a folder instead of a link, as cp -L makes it: renamed to ");
    assert_names(test_path("followed/checkpoints"), "latest latest.copy1 step_00000009 step_00000012 ");
    copy_part("only_latest", "-L", "rm -r checkpoints/step_*");
    assert_goes_on("only_latest", "checkpoints/step_00000009\n");
    assert_names(test_path("only_latest/checkpoints"), "latest step_00000009 step_00000012 ");
    copy_part("absolute", "", "ln -sfn \"$PWD/checkpoints/step_00000009\" checkpoints/latest");
    assert_goes_on("absolute", "resumed from step 9");
}

/* `latest` names the checkpoint from which the run goes on before the first step, not when the run saves. */
static void test_repaired_before_the_first_step(void **state) {
    (void)state;
    static const struct {
        const char *name, *options, *command, *latest;
    } cases[] = {
        {"early_folder", "-L", "true", "step_00000009"},
        {"early_none", "", "rm checkpoints/latest", "step_00000009"},
        {"early_elsewhere", "", "ln -sfn step_00000099 checkpoints/latest", "step_00000009"},
        {"early_aside", "", "mv checkpoints/step_00000009 checkpoints/step_00000009.old", "step_00000009.old"},
        {"early_damaged", "", "truncate -s -4 checkpoints/latest/model.safetensors", "step_00000009"},
        {"early_interrupted", "", "rm checkpoints/latest; ln -s step_00000009 checkpoints/.tmp_latest",
         "step_00000009"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        const char *name = cases[i].name;
        Launch launch = small_run();
        copy_part(name, cases[i].options, cases[i].command);
        pid_t process = train_start(&launch, name, "--init_from=resume --max_iters=1000000 --checkpoint_interval=0");
        train_wait_for(process, name, "train", 10);
        assert_true(is_link(test_path("%s/checkpoints/latest", name)));
        assert_string_equal(small_latest(test_path("%s", name)), cases[i].latest);
        kill(process, SIGTERM);
        assert_int_equal(train_wait(process), EXIT_DONE);
    }
}

/* A handler would run on the stack of a thread that may be inside oneDNN, whose kernels keep a buffer on the heap in
 * the stack pointer meanwhile: so all threads but the one in sigwait() block SIGTERM. */
static void test_stop_signals_interrupt_no_thread(void **state) {
    (void)state;
    Launch launch = small_run();
    setenv("UCX_VFS_ENABLE", "n", 1); /* UCX, which MPI may load, starts a thread before main() otherwise */
    pid_t process = train_start(&launch, "signals", "--max_iters=1000000 --checkpoint_interval=0");
    unsetenv("UCX_VFS_ENABLE");
    train_wait_for(process, "signals", "train", 10);
    char *command = format_string("grep -h SigBlk /proc/%d/task/*/status", (int)process);
    CommandResult *result = test_run("%s", command);
    assert_run(result, 0, "SigBlk");
    int blocking = 0, threads = 0;
    for (char *line = strtok(result->output, "\n"); line; line = strtok(NULL, "\n")) {
        bool has_bit = strtoull(line + 7, NULL, 16) >> (SIGTERM - 1) & 1;
        threads++, blocking += has_bit;
    }
    assert_true(threads > 1 && blocking == threads - 1); /* in sigwait() the mask is lifted */
    kill(process, SIGTERM);
    assert_int_equal(train_wait(process), EXIT_DONE);
    free(command);
}

static void test_partial_copies(void **state) {
    (void)state;
    copy_part("no_state", "", "rm checkpoints/step_00000009/optimizer.safetensors");
    assert_goes_on("no_state", "resumed from step 6");
    copy_part("no_trainer", "", "rm checkpoints/step_00000009/trainer.json");
    assert_goes_on("no_trainer", "passing over the checkpoint ");
    copy_part("cut", "", "truncate -s -4 checkpoints/step_00000009/model.safetensors");
    assert_goes_on("cut", "model.safetensors is damaged: it has ");
    copy_part("cut_latest", "-L", "truncate -s -4 checkpoints/latest/model.safetensors");
    assert_goes_on("cut_latest", "resumed from step 9");
    copy_part("no_link", "", "rm checkpoints/latest");
    assert_goes_on("no_link", "latest names no checkpoint that is there: looking for the highest step");
}

static void test_moved_checkpoints(void **state) {
    (void)state;
    Launch launch = small_run();
    copy_part("older", "", "mkdir archive && mv checkpoints/step_00000009 archive/");
    assert_goes_on("older", "resumed from step 6");
    copy_part("renamed", "", "mv checkpoints/step_00000009 checkpoints/step_00000099");
    assert_run(train_run(&launch, "renamed", "--init_from=auto"), EXIT_DONE,
               "step_00000099 holds step 9, so its name should be step_00000009");
    copy_part("moved", "", "mkdir archive && mv checkpoints/step_* archive/");
    static const char *const ways[] = {"auto", "resume"};
    for (size_t i = 0; i < ARRAY_LENGTH(ways); i++)
        assert_run(train_run(&launch, "moved", "--init_from=%s", ways[i]), EXIT_FAILED,
                   "there is no whole checkpoint in ");
    assert_run(train_run(&launch, "moved", " "), EXIT_FAILED, "holds the checkpoints of an earlier run");
    assert_run(train_run(&launch, "moved", "--max_iters=3 --overwrite=true"), EXIT_DONE, "done in");
    assert_names(test_path("moved/checkpoints"), "latest step_00000003 ");
}

/* Folders of a read-only copy are made writable, or the old checkpoints could not be removed. (Root may write
 * anyway.) */
static void test_read_only_copy(void **state) {
    (void)state;
    copy_part("read_only", "", "chmod a-w checkpoints/step_*");
    assert_goes_on("read_only", "resumed from step 9");
    assert_names(test_path("read_only/checkpoints"), "latest step_00000009 step_00000012 ");
}

/* A place where nothing can be saved is refused before the first step, also for root. */
static void test_where_nothing_can_be_saved(void **state) {
    (void)state;
    Launch launch = small_run();
    static const struct {
        const char *command, *text;
    } cases[] = {
        {"ln -s /proc/self checkpoints", "cannot make a folder there: "},
        {"touch checkpoints", "cannot make a folder there: Not a directory; make it writable or choose another"},
        {"ln -s nowhere checkpoints", "cannot make a folder there: No such file or directory"},
        {"mkdir checkpoints && touch checkpoints/step_00000003", "step_00000003 should be a folder with a checkpoint"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *name = format_string("unwritable_%zu", i);
        assert_run(
            test_run("mkdir '%s' && cd '%s' && %s", test_path("%s", name), test_path("%s", name), cases[i].command), 0,
            "");
        CommandResult *result = train_run(&launch, name, "--overwrite=true");
        assert_run(result, EXIT_FAILED, "error: train.out_dir: ");
        assert_run(result, EXIT_FAILED, cases[i].text);
        assert_false(files_is_file(test_path("%s/metrics.jsonl", name)));
        free(name);
    }
}

/* Somebody's folder of that name, with files of their own: a run begins there, and removes nothing of theirs. */
static void test_files_of_others_stay(void **state) {
    (void)state;
    Launch launch = small_run();
    const char *folder = test_path("theirs");
    assert_run(
        test_run("mkdir -p '%s/checkpoints/epoch_1' && touch '%s/checkpoints/best.pt' '%s/checkpoints/epoch_1/a'",
                 folder, folder, folder),
        0, "");
    train(&launch, "theirs", "--max_iters=3");
    assert_names(test_path("theirs/checkpoints"), "best.pt epoch_1 latest step_00000003 ");
    train(&launch, "theirs", "--max_iters=4 --overwrite=true --checkpoint_interval=0");
    assert_names(test_path("theirs/checkpoints"), "best.pt epoch_1 latest step_00000004 ");
    assert_true(files_is_file(test_path("theirs/checkpoints/epoch_1/a")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_folders),
        cmocka_unit_test(test_published_modern_folders),
        cmocka_unit_test(test_model_of_a_checkpoint),
        cmocka_unit_test(test_model_of_a_modern_checkpoint),
        cmocka_unit_test(test_modern_model_cannot_change),
        cmocka_unit_test(test_biases_that_are_zero),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_shorter_sequences),
        cmocka_unit_test(test_weights_without_a_config),
        cmocka_unit_test(test_models_that_we_do_not_have),
        cmocka_unit_test(test_print_config),
        cmocka_unit_test(test_finetune_config),
        cmocka_unit_test(test_model_cannot_change),
        cmocka_unit_test(test_changes_are_printed),
        cmocka_unit_test(test_another_total_batch_size),
        cmocka_unit_test(test_version_0_1_0_goes_on),
        cmocka_unit_test(test_version_0_1_0_with_another_batch),
        cmocka_unit_test(test_an_edited_model_is_reported),
        cmocka_unit_test(test_copy_that_followed_links),
        cmocka_unit_test(test_repaired_before_the_first_step),
        cmocka_unit_test(test_stop_signals_interrupt_no_thread),
        cmocka_unit_test(test_partial_copies),
        cmocka_unit_test(test_moved_checkpoints),
        cmocka_unit_test(test_read_only_copy),
        cmocka_unit_test(test_where_nothing_can_be_saved),
        cmocka_unit_test(test_files_of_others_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
