/* test_sample.c: the decoder, token by token, against whole forward passes; and the sample_gpt2 program on checkpoints
 * that train_gpt2 wrote, its texts against ones that are worked out here, and everything it refuses. The programs
 * are those of $MARS_BIN (default "."). */
#include "dev/test/test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_gpt2.h"
#include "data/tokenizer/tokenizer.h"
#include "dev/test/data/gpt2_fixture.h"
#include "dev/test/model/reference_gpt2.h"
#include "model/decoder.h"

/* ---- the decoder ---- */

static double log_sum_exp(const float *x, int n) {
    float largest = x[0];
    double sum = 0.0;
    for (int i = 1; i < n; i++) largest = fmaxf(largest, x[i]);
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - largest);
    return sum > 0.0 ? largest + log(sum) : NAN;
}

/* A model for one sequence, with random weights, and T tokens and one more. */
typedef struct Case {
    Backend *be;
    GPT2 model;
    double *params;
    int32_t *tokens;
    Decoder decoder;
} Case;

static void open_case(Case *c, GPT2Config config, DType type, bool training, int threads) {
    c->be = open_cpu(type, threads);
    gpt2_plan(&c->model, &config, c->be, training ? 2 : 1, RECOMPUTE_NONE, training);
    decoder_plan(&c->decoder, &c->model);
    gpt2_allocate(&c->model);
    c->params = random_weights(&c->model.table, DTYPE_BFLOAT16, 3);
    set_weights(&c->model, c->params);
    c->tokens = random_tokens(config.block_size + 1, config.vocab_size, 0);
}

static void close_case(Case *c) {
    decoder_close(&c->decoder);
    gpt2_free(&c->model);
    free(c->params);
    free(c->tokens);
    c->be->close(c->be);
}

/* The logits at every position are those of the float64 model, and lead to the losses of gpt2_forward. */
static void assert_decodes(Case *c, double limit) {
    int T = c->model.config.block_size, V = c->model.config.vocab_size;
    double *expected = checked_malloc((size_t)T * (size_t)V * sizeof *expected, "logits");
    double *own = checked_malloc((size_t)V * sizeof *own, "logits");
    float *losses = checked_malloc((size_t)T * sizeof *losses, "losses");
    reference_gpt2_logits(expected, &c->model.config, &c->model.table, c->params, c->tokens, 1, T);
    gpt2_forward(&c->model, c->tokens, c->tokens + 1, 1, T);
    c->be->copy_to_host(c->be, losses, c->model.lm_head.losses, (size_t)T * sizeof *losses);
    for (int t = 0; t < T; t++) {
        assert_int_equal(c->decoder.cache.position, t);
        decoder_feed(&c->decoder, c->tokens[t]);
        for (int v = 0; v < V; v++) own[v] = c->decoder.logits[v];
        assert_error_below(relative_error(own, expected + (int64_t)t * V, (size_t)V), limit, "logits");
        double loss = log_sum_exp(c->decoder.logits, V) - c->decoder.logits[c->tokens[t + 1]];
        assert_error_below(fabs(loss - losses[t]) / fmax(1.0, losses[t]), limit, "a loss");
    }
    free(expected);
    free(own);
    free(losses);
}

static const GPT2Config shapes[] = {
    GPT2_SHAPE(3, 3, 12, 40, 65, true, true),  GPT2_SHAPE(3, 2, 16, 40, 259, false, true),
    GPT2_SHAPE(2, 4, 16, 33, 64, true, false), GPT2_SHAPE(1, 1, 10, 1, 3, false, false),
    GPT2_SHAPE(1, 2, 8, 5, 50257, true, true), GPT2_SHAPE(2, 2, 64, 300, 65, false, true),
};

static void test_decoder(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++)
        for (int training = 0; training < 2; training++) {
            Case c;
            open_case(&c, shapes[i], DTYPE_FLOAT32, training, 1 + training);
            assert_decodes(&c, 1e-5);
            close_case(&c);
        }
}

/* Rotations go on where the cache ends, keys are normed before they are kept, the logits are capped. */
static void test_decoder_of_other_architectures(void **state) {
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        GPT2Config config = GPT2_SHAPE(2, 2, 16, 20, 65, true, false);
        config.position = variant == 0 ? POSITION_LEARNED : variant == 1 ? POSITION_ROPE : POSITION_ROPE_HALF;
        config.norm = variant == 0 ? NORM_LAYERNORM : NORM_RMSNORM;
        config.norm_embedding = variant != 1, config.norm_gain = variant != 1;
        config.qk_norm = variant != 0, config.activation = ACTIVATION_RELU2;
        config.tie_embeddings = variant == 1, config.lm_head_bias = variant != 1;
        config.logit_softcap = variant == 0 ? 0.0 : 3.0, config.attention_output_scale = 0.5;
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
            Case c;
            open_case(&c, config, (DType)type, variant == 2, 2);
            assert_decodes(&c, type == DTYPE_FLOAT32 ? 1e-5 : 0.06);
            close_case(&c);
        }
    }
}

static void test_decoder_bfloat16(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        Case c;
        open_case(&c, shapes[i], DTYPE_BFLOAT16, false, 2);
        assert_decodes(&c, 0.04);
        close_case(&c);
    }
}

/* What was fed before a reset, or is computed with the model in between, leaves no trace. */
static void test_decoder_reset(void **state) {
    (void)state;
    Case c;
    open_case(&c, shapes[0], DTYPE_FLOAT32, false, 2);
    float first[65], second[65];
    for (int t = 0; t < 10; t++) decoder_feed(&c.decoder, c.tokens[t]);
    memcpy(first, c.decoder.logits, sizeof first);
    for (int t = 10; t < 40; t++) decoder_feed(&c.decoder, c.tokens[t]);
    decoder_reset(&c.decoder);
    for (int t = 0; t < 10; t++) {
        gpt2_forward(&c.model, c.tokens + 1, c.tokens, 1, 40);
        decoder_feed(&c.decoder, c.tokens[t]);
    }
    memcpy(second, c.decoder.logits, sizeof second);
    assert_memory_equal(first, second, sizeof first);
    close_case(&c);
}

static void feed_negative(void *context) { decoder_feed(context, -1); }
static void feed_unknown(void *context) { decoder_feed(context, 65); }
static void feed_too_many(void *context) {
    for (int t = 0; t < 41; t++) decoder_feed(context, 0);
}

static void test_decoder_refuses(void **state) {
    (void)state;
    Case c;
    open_case(&c, shapes[0], DTYPE_FLOAT32, false, 1); /* one thread: children have no others */
    assert_dies(feed_negative, &c.decoder, "token -1 is not in the model's vocabulary of 65");
    assert_dies(feed_unknown, &c.decoder, "token 65 is not in the model's vocabulary of 65");
    assert_dies(feed_too_many, &c.decoder, "holds 40 tokens and is full");
    close_case(&c);
}

/* ---- the program ---- */

enum { T = 16 };

static const char *bin(void) { return getenv("MARS_BIN") ? getenv("MARS_BIN") : "."; }

/* A short training run on bytes, whose data folder says so; the checkpoints are in scratch/NAME/checkpoints. */
static void train(const char *name, const char *arguments) {
    const char *config = test_path("config.json");
    test_write_text(config,
                    "{\"model\": {\"n_layer\": 2, \"n_head\": 2, \"n_embd\": 32, \"block_size\": 16, "
                    "\"vocab_size\": 256},"
                    "\"optimizer\": {\"name\": \"adamw\", \"learning_rate\": 0.01},"
                    "\"train\": {\"total_batch_size\": 8, \"batch_size\": 8, \"threads\": 1, \"device\": \"cpu\","
                    "\"precision\": \"float32\", \"eval_sequences\": 8, \"max_iters\": 12, \"out_dir\": \"x\"},"
                    "\"data\": {\"train\": \"x\", \"val\": \"x\"}}");
    const char *folder = test_folder();
    assert_run(test_run("mkdir -p %s/data && cp dev/golden/tiny_train.bin dev/golden/tiny_val.bin %s/data/ && "
                        "echo '{\"tokenizer\": \"bytes\"}' > %s/data/tokens.json",
                        folder, folder, folder),
               0, "");
    assert_run(test_run("%s/train_gpt2 %s --data.train=%s/data/tiny_train.bin --data.val=%s/data/tiny_val.bin "
                        "--out_dir=%s/%s %s",
                        bin(), config, folder, folder, folder, name, arguments),
               0, "done in");
}

/* ---- a checkpoint of random weights: no training makes a text depend as much on all that went before ---- */

typedef struct RandomRun {
    TensorTable table;
    double *params;
} RandomRun;

static void fetch_random(void *context, int which, int tensor, float *host) {
    const RandomRun *run = context;
    const Tensor *t = &run->table.tensors[tensor];
    assert_int_equal(which, CHECKPOINT_WEIGHTS);
    for (size_t i = 0; i < t->size; i++) host[i] = (float)run->params[t->offset + i];
}

/* With `spoiled` in the place of the first LayerNorm's gains, unless that is 0. */
static void save_random(const char *name, double spoiled) {
    GPT2 model;
    GPT2Config config = GPT2_SHAPE(2, 2, 32, 16, 256, true, true);
    Error error;
    char path[CHECKPOINT_PATH_LENGTH];
    gpt2_describe(&model, &config);
    RandomRun run = {model.table, random_weights(&model.table, DTYPE_FLOAT32, 4)};
    int gain = tensor_table_find(&model.table, "h.0.ln_1.weight");
    for (int i = 0; spoiled != 0 && i < config.n_embd; i++)
        run.params[model.table.tensors[gain].offset + (size_t)i] = spoiled;
    CheckpointSource source = {.step = 1,
                               .updates = 1,
                               .model = config,
                               .table = &model.table,
                               .config_json = "{}",
                               .optimizer = "adamw",
                               .fetch = fetch_random,
                               .context = &run,
                               .tokens_folder = test_path("data")};
    if (!checkpoint_save(&source, test_path("%s", name), 1, true, path, &error)) fail_msg("%s", error.text);
    free(run.params);
    gpt2_free(&model);
}

/* Threads that spin while they wait make short programs slow on a machine that has other things to do. */
static int train_models(void **state) {
    (void)state;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    train("plain", "");
    train("biased", "--model.bias=true --vocab_size=227 --scale_attn_by_inverse_layer_idx=false");
    save_random("random", 0);
    return 0;
}

/* Runs sample_gpt2 on the newest checkpoint of a run and returns all it wrote, which the caller frees. */
static char *sample(const char *run, const char *arguments, size_t *bytes) {
    char *output = checked_strdup(test_path("output.txt"));
    assert_run(
        test_run("%s/sample_gpt2 %s/%s/checkpoints/latest %s > %s", bin(), test_folder(), run, arguments, output), 0,
        "");
    char *text = test_read_file(output, bytes);
    free(output);
    return text;
}

static bool same_text(const char *arguments, const char *other_arguments) {
    size_t bytes, other_bytes;
    char *text = sample("plain", arguments, &bytes), *other = sample("plain", other_arguments, &other_bytes);
    bool same = bytes == other_bytes && memcmp(text, other, bytes) == 0;
    free(text);
    free(other);
    return same;
}

static void test_seed(void **state) {
    (void)state;
    assert_true(same_text("--prompt=The", "--prompt=The"));
    assert_true(same_text("--prompt=The", "--prompt The --max_new_tokens=200 --temperature=0.8 --top_k=200 --seed=1"));
    assert_true(same_text("--prompt=The --seed=7", "--seed=7 --prompt=The --tokenizer=bytes"));
    assert_false(same_text("--prompt=The", "--prompt=The --seed=2"));
    assert_false(same_text("--prompt=The --seed=0", "--prompt=The --seed=9007199254740992"));
}

static void test_one_choice(void **state) {
    (void)state;
    assert_true(same_text("--prompt=The --temperature=0", "--prompt=The --temperature=0 --seed=5"));
    assert_true(same_text("--prompt=The --temperature=0", "--prompt=The --top_k=1 --seed=5"));
    assert_true(same_text("--prompt=The --temperature=0", "--prompt=The --top_k=1 --temperature=100"));
    assert_true(same_text("--prompt=The --temperature=0", "--prompt=The --temperature=1e-9"));
    assert_false(same_text("--prompt=The --temperature=0", "--prompt=The"));
}

static void test_all_choices(void **state) {
    (void)state;
    assert_true(same_text("--prompt=The --top_k=0", "--prompt=The --top_k=256"));
    assert_true(same_text("--prompt=The --top_k=0", "--prompt=The --top_k=1000"));
    assert_false(same_text("--prompt=The --top_k=0 --temperature=2", "--prompt=The --top_k=2 --temperature=2"));
}

/* ---- texts worked out here ---- */

/* A trained model as the program sees it. */
typedef struct Trained {
    Backend *be;
    GPT2 model;
    Decoder decoder;
} Trained;

/* The decoder points into *t. */
static void open_trained(Trained *t, const char *run) {
    Error error;
    SafetensorsFile file;
    GPT2Config config;
    const char *path = test_path("%s/checkpoints/latest", run);
    if (!checkpoint_read_model_config(&config, path, NULL, &error)) fail_msg("%s", error.text);
    if (!checkpoint_open_weights(&file, path, &error)) fail_msg("%s", error.text);
    t->be = open_cpu(DTYPE_FLOAT32, 1);
    gpt2_plan(&t->model, &config, t->be, 1, RECOMPUTE_NONE, false);
    decoder_plan(&t->decoder, &t->model);
    gpt2_allocate(&t->model);
    if (!checkpoint_load_gpt2(&t->model, &file, &error)) fail_msg("%s", error.text);
    safetensors_close(&file);
}

static void close_trained(Trained *t) {
    decoder_close(&t->decoder);
    gpt2_free(&t->model);
    t->be->close(t->be);
}

/* Logits of what follows text[0, count): of all of it while it fits the context, of a longer prompt of the last T
 * tokens; then, each time the context is full, of the last half a context and what has been added since. */
static const float *logits_after(Trained *t, const char *text, size_t prompt, size_t count) {
    size_t begin = prompt > T ? prompt - T : 0;
    while (count - begin > T) begin += T / 2 + 1;
    decoder_reset(&t->decoder);
    for (size_t i = begin; i < count; i++) decoder_feed(&t->decoder, (unsigned char)text[i]);
    return t->decoder.logits;
}

static int likeliest(const float *logits, int V, int except) {
    int best = except == 0;
    for (int v = 0; v < V; v++)
        if (v != except && logits[v] > logits[best]) best = v;
    return best;
}

/* Greedy texts for prompts around the length of the context, going on well beyond it. */
static void assert_greedy(const char *run, const char *prompt, size_t new_tokens) {
    size_t bytes, length = strlen(prompt);
    char *arguments = format_string("--prompt='%s' --temperature=0 --max_new_tokens=%zu", prompt, new_tokens);
    char *text = sample(run, arguments, &bytes);
    Trained t;
    open_trained(&t, run);
    assert_int_equal(bytes, length + new_tokens + 1);
    assert_memory_equal(text, prompt, length);
    for (size_t i = length; i < length + new_tokens; i++) {
        int expected = likeliest(logits_after(&t, text, length, i), t.model.config.vocab_size, -1);
        if ((unsigned char)text[i] != expected)
            fail_msg("prompt '%s', byte %zu: %d, expected %d", prompt, i, (unsigned char)text[i], expected);
    }
    assert_int_equal(text[bytes - 1], '\n');
    close_trained(&t);
    free(arguments);
    free(text);
}

static void test_greedy(void **state) {
    (void)state;
    const char *const prompts[] = {"A", "once upon a tim", "once upon a time", "once upon a time,",
                                   "once upon a time there was a test that had a prompt"};
    for (size_t i = 0; i < ARRAY_LENGTH(prompts); i++) assert_greedy("random", prompts[i], 60);
    assert_greedy("random", "A", 0);
    assert_greedy("random", "A", 1);
    assert_greedy("plain", prompts[4], 40);
    assert_greedy("biased", prompts[4], 40);
}

/* With two choices, each token is one of the two likeliest, and the likelier one as often as its softmax says: within
 * five standard deviations of what chance would have it be. */
static void test_two_choices(void **state) {
    (void)state;
    enum { COUNT = 1500 };
    size_t bytes;
    char *text = sample("random", "--prompt=T --top_k=2 --temperature=1.5 --max_new_tokens=1500 --seed=3", &bytes);
    Trained t;
    open_trained(&t, "random");
    int V = t.model.config.vocab_size;
    double expected = 0.0, variance = 0.0, found = 0.0;
    assert_int_equal(bytes, COUNT + 2);
    for (size_t i = 1; i <= COUNT; i++) {
        const float *logits = logits_after(&t, text, 1, i);
        int first = likeliest(logits, V, -1), second = likeliest(logits, V, first), drawn = (unsigned char)text[i];
        if (drawn != first && drawn != second) fail_msg("token %zu is %d, neither %d nor %d", i, drawn, first, second);
        double p = 1.0 / (1.0 + exp((logits[second] - logits[first]) / 1.5));
        expected += p;
        variance += p * (1.0 - p);
        found += drawn == first;
    }
    if (!(fabs(found - expected) < 5.0 * sqrt(variance)))
        fail_msg("%g of %d are the likeliest, expected %g", found, COUNT, expected);
    close_trained(&t);
    free(text);
}

/* ---- prompts and samples ---- */

/* What one set of arguments writes, another set writes too. */
static void assert_writes(const char *run, const char *arguments, const char *other_arguments) {
    size_t bytes, other_bytes;
    char *text = sample(run, arguments, &bytes), *other = sample(run, other_arguments, &other_bytes);
    if (bytes != other_bytes || memcmp(text, other, bytes) != 0)
        fail_msg("%s writes:\n%s\nand %s:\n%s", arguments, text, other_arguments, other);
    free(text);
    free(other);
}

static void test_prompt_files(void **state) {
    (void)state;
    const char *path = test_path("a prompt.txt");
    test_write_text(path, "The first\nline\n");
    test_write_text(test_path("a prompt.txt.x"), "The first\nline\nx"); /* a shell drops line ends */
    char *file = format_string("--prompt_file='%s'", path), *input = format_string("--prompt_file=- < '%s'", path);
    const char *text = "--prompt=\"$(printf 'The first\\nline\\nx')\" --max_new_tokens=0";
    char *with_x = format_string("--max_new_tokens=0 --prompt_file=- < '%s.x'", path);
    assert_writes("plain", with_x, text);
    assert_writes("plain", file, input);
    test_write_file(path, "a\0b", 3); /* which no command line can hold */
    size_t bytes;
    char *written = sample("plain", file, &bytes);
    assert_true(bytes == 3 + 200 + 1 && memcmp(written, "a\0b", 3) == 0);
    char *home = format_string("HOME='%s' ; export HOME", test_folder()), *run = checked_strdup(test_path("plain"));
    assert_run(test_run("%s; %s/sample_gpt2 %s/checkpoints/latest --prompt_file='~/a prompt.txt.x' --max_new_tokens=0",
                        home, bin(), run),
               0, "The first\nline\nx\n");
    free(file), free(input), free(with_x), free(written), free(home), free(run);
}

/* Samples are those of one run each, as far as they depend on the seed alone; the first is that of --num_samples=1. */
static void test_several_samples(void **state) {
    (void)state;
    const char *one = "--prompt=The --max_new_tokens=40", *three = "--prompt=The --max_new_tokens=40 --num_samples=3";
    size_t bytes, all_bytes;
    char *first = sample("plain", one, &bytes), *all = sample("plain", three, &all_bytes);
    const char rule[] = "---------------\n";
    size_t length = 3 + 40 + 1, each = length + strlen(rule);
    assert_int_equal(bytes, length);
    assert_int_equal(all_bytes, 3 * length + 2 * strlen(rule));
    assert_memory_equal(all, first, length);
    for (size_t i = 1; i < 3; i++) {
        const char *text = all + i * each;
        assert_memory_equal(text - strlen(rule), rule, strlen(rule));
        assert_memory_equal(text, "The", 3);
        assert_true(text[length - 1] == '\n');
        assert_int_not_equal(memcmp(text, all, length), 0);
    }
    assert_int_not_equal(memcmp(all + each, all + 2 * each, length), 0);
    assert_writes("plain", three, "--num_samples=3 --prompt=The --max_new_tokens=40 --seed=1");
    assert_writes("plain", "--prompt=The --num_samples=2 --max_new_tokens=9 --temperature=0",
                  "--prompt=The --num_samples=2 --max_new_tokens=9 --temperature=0 --seed=8");
    free(first);
    free(all);
}

/* ---- what is refused ---- */

static void refuse(int status, const char *message, const char *arguments) {
    assert_run(test_run("%s/sample_gpt2 %s", bin(), arguments), status, message);
}

static void refuse_option(const char *message, const char *arguments) {
    char *all = format_string("%s/plain/checkpoints/latest %s", test_folder(), arguments);
    refuse(EXIT_USAGE, message, all);
    free(all);
}

static void test_wrong_options(void **state) {
    (void)state;
    refuse(EXIT_USAGE, "the checkpoint folder is missing", "");
    refuse(EXIT_USAGE, "the checkpoint folder is missing", "--prompt=A");
    const char *bare = "--prompt: the prompt is empty, and the tokenizer bytes has no <|endoftext|> to begin after";
    refuse_option(bare, "");
    refuse_option(bare, "--prompt=");
    refuse_option(bare, "--prompt ''");
    refuse_option(bare, "--prompt_file=/dev/null");
    refuse_option("--prompt: the tokenizer bytes has no special tokens", "--prompt=A --special_tokens=true");
    refuse_option("--special_tokens=yes: expected true or false", "--prompt=A --special_tokens=yes");
    refuse_option("--prompt and --prompt_file are both given", "--prompt=A --prompt_file=x");
    refuse_option("--prompt is given twice", "--prompt=A --prompt B");
    refuse_option("--seed is given twice", "--prompt=--seed=1 --seed=1 --seed=2");
    refuse_option("--num_samples=0: expected a whole number from 1", "--prompt=A --num_samples=0");
    refuse_option("--prompt needs a value", "--prompt");
    refuse_option("--seed needs a value", "--prompt=A --seed");
    refuse_option("there is no option --colour", "--prompt=A --colour=red");
    refuse_option("there is no option --prompts", "--prompts=A");
    refuse_option("there is no option --top_kk", "--prompt=A --top_kk=3");
    refuse_option("unexpected argument '-p'", "-p A");
    refuse_option("unexpected argument 'another'", "another --prompt=A");
    refuse_option("--temperature=-0.1: expected a number from 0 to 100", "--prompt=A --temperature=-0.1");
    refuse_option("--temperature=hot: expected", "--prompt=A --temperature=hot");
    refuse_option("--temperature=nan: expected", "--prompt=A --temperature=nan");
    refuse_option("--temperature=: expected", "--prompt=A --temperature=");
    refuse_option("--temperature=1e999: expected", "--prompt=A --temperature=1e999");
    refuse_option("--top_k=2.5: expected a whole number", "--prompt=A --top_k=2.5");
    refuse_option("--top_k=-1: expected", "--prompt=A --top_k=-1");
    refuse_option("--top_k=3x: expected", "--prompt=A --top_k=3x");
    refuse_option("--max_new_tokens=-5: expected", "--prompt=A --max_new_tokens=-5");
    refuse_option("--max_new_tokens=1e10: expected", "--prompt=A --max_new_tokens=1e10");
    refuse_option("--seed=-1: expected", "--prompt=A --seed=-1");
    refuse_option("--tokenizer=words: unknown tokenizer 'words'", "--prompt=A --tokenizer=words");
}

static void test_questions(void **state) {
    (void)state;
    refuse(EXIT_DONE, "usage: sample_gpt2 CHECKPOINT_DIR", "--help");
    refuse(EXIT_DONE, "--max_new_tokens=200", "somewhere -h");
    refuse(EXIT_DONE, "sample_gpt2 (mars.c) " MARS_VERSION, "--version");
}

static void test_missing_checkpoint(void **state) {
    (void)state;
    const char *folder = test_folder();
    char *nowhere = format_string("%s/nowhere --prompt=A", folder), *run = format_string("%s/plain --prompt=A", folder);
    refuse(EXIT_FAILED, "nowhere", nowhere);
    refuse(EXIT_FAILED, "plain/checkpoints/latest is the newest checkpoint of a run", run);
    free(nowhere);
    free(run);
    char *latest = format_string("%s/plain/checkpoints/latest --prompt_file", folder);
    char *no_file = format_string("%s=nothing.txt", latest), *is_folder = format_string("%s=%s", latest, folder);
    char *endless = format_string("%s=/dev/zero", latest), *closed = format_string("%s=- <&-", latest);
    refuse(EXIT_FAILED, "--prompt_file: cannot open nothing.txt: No such file", no_file);
    refuse(EXIT_FAILED, ": a folder", is_folder);
    refuse(EXIT_FAILED, "--prompt_file: /dev/zero is too long for a prompt", endless);
    refuse(EXIT_FAILED, "--prompt_file: cannot read standard input: Bad file descriptor", closed);
    free(latest), free(no_file), free(is_folder), free(endless), free(closed);
}

/* A copy of the newest checkpoint with something done to it; then sampling fails with the message. */
static void refuse_damaged(const char *command, const char *arguments, const char *message) {
    const char *folder = test_folder();
    assert_run(test_run("rm -rf %s/copy && cp -rL %s/plain/checkpoints/latest %s/copy && cd %s/copy && %s", folder,
                        folder, folder, folder, command),
               0, "");
    char *all = format_string("%s/copy --prompt=A %s", folder, arguments);
    refuse(EXIT_FAILED, message, all);
    free(all);
}

static void test_damaged_checkpoint(void **state) {
    (void)state;
    refuse_damaged("rm model.safetensors", "", "model.safetensors");
    refuse_damaged("truncate -s -1 model.safetensors", "", "model.safetensors");
    refuse_damaged("rm config.json", "", "config.json");
    refuse_damaged("echo '{' > config.json", "", "config.json");
    /* Sizes that no memory holds are refused before any is taken. */
    refuse_damaged("sed -i 's/\"n_layer\":[^,]*/\"n_layer\": 1000000000/' config.json", "",
                   "config.json: n_layer is 1000000000; expected from 1 to 1024");
    refuse_damaged("sed -i 's/\"n_embd\":[^,]*/\"n_embd\": 2147483646/' config.json", "",
                   "n_embd is 2147483646; expected");
    refuse_damaged("sed -i 's/\"n_embd\":[^,]*/\"n_embd\": 65536/; s/\"n_layer\":[^,]*/\"n_layer\": 1024/' config.json",
                   "", "the model with its context needs 2111");
}

/* A model whose training has failed, and one whose numbers are finite but become too large. */
static void test_numbers_that_are_not_finite(void **state) {
    (void)state;
    static const struct {
        double gain;
        const char *text;
    } cases[] = {{NAN, "number 0 of tensor 'h.0.ln_1.weight' is nan; the training that made it has failed"},
                 {3e38, "the logits of the model are not finite"}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *name = format_string("spoiled_%zu", i);
        save_random(name, cases[i].gain);
        char *arguments = format_string("%s/%s/checkpoints/latest --prompt=A --max_new_tokens=3", test_folder(), name);
        refuse(EXIT_FAILED, cases[i].text, arguments);
        free(arguments);
        free(name);
    }
}

/* The trainer took tokens.json along; without it the tokenizer must be named. */
static void test_tokenizer(void **state) {
    (void)state;
    refuse_damaged("rm tokens.json", "", "tokens.json: No such file or directory; --tokenizer=NAME says which");
    refuse_damaged("echo '{\"tokenizer\": \"words\"}' > tokens.json", "", "unknown tokenizer 'words'");
    refuse_damaged("echo '{}' > tokens.json", "", "a JSON object with a key \"tokenizer\"");
    refuse_damaged("echo '{\"tokenizer\":   \"bytes\"}' > tokens.json", "", "tokens.json is damaged: it has 25 bytes");
    assert_run(test_run("%s/sample_gpt2 %s/copy --tokenizer=bytes --prompt=A", bin(), test_folder()), 0, "A");
    char *unknown = format_string("%s/biased/checkpoints/latest --prompt=\"$(printf 'A\\343')\"", test_folder());
    refuse(EXIT_USAGE, "--prompt: the prompt has token 227 of the tokenizer bytes, but the model's vocabulary has 227",
           unknown);
    free(unknown);
}

/* The greedy text that follows these tokens; the caller frees. */
static char *greedy_text(Trained *t, const Tokenizer *tokenizer, const int *tokens, int count, int new_tokens) {
    decoder_reset(&t->decoder);
    for (int i = 0; i < count; i++) decoder_feed(&t->decoder, tokens[i]);
    char *text = checked_strdup("");
    for (int i = 0; i < new_tokens; i++) {
        size_t length;
        int token = likeliest(t->decoder.logits, 50257, -1);
        const char *decoded = tokenizer_decode(tokenizer, token, &length);
        char *longer = format_string("%s%.*s", text, (int)length, decoded);
        free(text);
        text = longer;
        decoder_feed(&t->decoder, token);
    }
    return text;
}

static void assert_follows(Trained *t, const Tokenizer *tokenizer, const char *prompt, const char *arguments,
                           const int *tokens, int count) {
    size_t bytes;
    char *options = format_string("%s --temperature=0 --max_new_tokens=3", arguments);
    char *text = sample("bpe", options, &bytes), *follows = greedy_text(t, tokenizer, tokens, count, 3);
    char *expected = format_string("%s%s\n", prompt, follows);
    assert_int_equal(bytes, strlen(expected));
    assert_memory_equal(text, expected, bytes);
    free(options), free(text), free(follows), free(expected);
}

/* Of GPT-2's tokens: 50256 where it is asked for, and where nothing else is given; its characters otherwise. */
static void test_end_of_text_in_prompts(void) {
    Error error;
    Tokenizer *tokenizer;
    if (!tokenizer_open(&tokenizer, "gpt2", gpt2_folder(), &error)) fail_msg("%s", error.text);
    Trained t;
    open_trained(&t, "bpe");
    const int alone[] = {50256}, special[] = {50256, 15496, 50256, 50256, 995},
              characters[] = {27, 91, 437, 1659, 5239, 91, 29};
    assert_follows(&t, tokenizer, "", "", alone, 1);
    assert_follows(&t, tokenizer, "", "--prompt= --special_tokens=true", alone, 1);
    assert_follows(&t, tokenizer, "<|endoftext|>", "--prompt='<|endoftext|>' --special_tokens=true", alone, 1);
    assert_follows(&t, tokenizer, "<|endoftext|>", "--prompt='<|endoftext|>'", characters, 7);
    assert_follows(&t, tokenizer, "<|endoftext|>", "--prompt='<|endoftext|>' --special_tokens=false", characters, 7);
    const char *text = "<|endoftext|>Hello<|endoftext|><|endoftext|> world";
    char *arguments = format_string("--prompt='%s' --special_tokens true", text);
    assert_follows(&t, tokenizer, text, arguments, special, 5);
    free(arguments);
    tokenizer_close(tokenizer);
    close_trained(&t);
}

/* The trainer takes GPT-2's vocabulary along, so that the checkpoint is enough, wherever it is used. */
static void test_gpt2_tokenizer(void **state) {
    (void)state;
    if (!gpt2_has_tokenizer() || only_small_sizes()) skip(); /* the vocabulary makes the model large */
    Error error;
    Tokenizer *tokenizer;
    char *folder = checked_strdup(test_folder());
    assert_run(test_run("cp -r '%s' %s/bpe_data && cp dev/golden/tiny_*.bin %s/bpe_data && "
                        "echo '{\"tokenizer\": \"gpt2\"}' > %s/bpe_data/tokens.json",
                        gpt2_folder(), folder, folder, folder),
               0, "");
    assert_run(test_run("%s/train_gpt2 %s --data.train=%s/bpe_data/tiny_train.bin --data.val=%s/bpe_data/tiny_val.bin "
                        "--out_dir=%s/bpe --vocab_size=50257 --max_iters=2",
                        bin(), test_path("config.json"), folder, folder, folder),
               0, "done in");
    size_t bytes, length;
    char *text = sample("bpe", "--prompt='Hello world' --temperature=0 --max_new_tokens=3", &bytes);
    Trained t;
    open_trained(&t, "bpe");
    if (!tokenizer_open(&tokenizer, "gpt2", gpt2_folder(), &error)) fail_msg("%s", error.text);
    char *expected = checked_strdup("Hello world");
    decoder_feed(&t.decoder, 15496); /* "Hello" */
    decoder_feed(&t.decoder, 995);   /* " world" */
    for (int i = 0; i < 3; i++) {
        int token = likeliest(t.decoder.logits, 50257, -1);
        const char *decoded = tokenizer_decode(tokenizer, token, &length);
        char *longer = format_string("%s%.*s", expected, (int)length, decoded);
        free(expected);
        expected = longer;
        decoder_feed(&t.decoder, token);
    }
    assert_int_equal(bytes, strlen(expected) + 1);
    assert_memory_equal(text, expected, bytes - 1);
    assert_run(test_run("%s/sample_gpt2 %s/bpe/checkpoints/latest --tokenizer=gpt2 --prompt=A", bin(), folder), 0, "A");
    test_end_of_text_in_prompts();
    assert_run(test_run("rm %s/bpe/checkpoints/latest/merges.txt", folder), 0, "");
    assert_run(test_run("%s/sample_gpt2 %s/bpe/checkpoints/latest --prompt=A", bin(), folder), EXIT_FAILED,
               "merges.txt: No such file");
    assert_run(test_run("d=%s/bpe/checkpoints/latest; rm $d/vocab.json; bin=$(realpath %s) && mkdir -p %s/here/data && "
                        "ln -s %s %s/here/data/gpt2 && cd %s/here && $bin/sample_gpt2 $d --prompt=A && "
                        "rm $d/tokens.json && $bin/sample_gpt2 $d --tokenizer=gpt2 --prompt=B",
                        folder, bin(), folder, gpt2_folder(), folder, folder),
               0, "\nB");
    tokenizer_close(tokenizer);
    close_trained(&t);
    free(expected);
    free(text);
    free(folder);
}

static void test_full_disk(void **state) {
    (void)state;
    const char *folder = test_folder();
    assert_run(test_run("%s/sample_gpt2 %s/plain/checkpoints/latest --prompt=A > /dev/full", bin(), folder),
               EXIT_FAILED, "cannot write the text: No space left");
}

int main(void) {
    const struct CMUnitTest decoder_tests[] = {
        cmocka_unit_test(test_decoder),
        cmocka_unit_test(test_decoder_bfloat16),
        cmocka_unit_test(test_decoder_of_other_architectures),
        cmocka_unit_test(test_decoder_reset),
        cmocka_unit_test(test_decoder_refuses),
    };
    const struct CMUnitTest program_tests[] = {
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_one_choice),
        cmocka_unit_test(test_all_choices),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_two_choices),
        cmocka_unit_test(test_prompt_files),
        cmocka_unit_test(test_several_samples),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_missing_checkpoint),
        cmocka_unit_test(test_damaged_checkpoint),
        cmocka_unit_test(test_numbers_that_are_not_finite),
        cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_gpt2_tokenizer),
        cmocka_unit_test(test_full_disk),
    };
    int failed = cmocka_run_group_tests(decoder_tests, NULL, NULL);
    return failed + cmocka_run_group_tests(program_tests, train_models, NULL);
}
