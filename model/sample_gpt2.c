/* sample_gpt2: writes text with a trained model.
 *
 *     ./sample_gpt2 CHECKPOINT_DIR [--tokenizer=bytes|gpt2] --prompt="..." [--max_new_tokens=200 --temperature=0.8
 *                   --top_k=200 --seed=1]
 *
 * The tokenizer is the one whose tokens.json and vocabulary the trainer copied into the checkpoint. Each new token is
 * drawn from the softmax of logits/temperature over the top_k likeliest; temperature 0 takes the likeliest. Keys and
 * values are cached. Position embeddings are absolute, so when the context is full it cannot slide: the cache is filled
 * again with as much of the text's end as half a context holds, which makes room for as many tokens again. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/tokenizer.h"
#include "data/vocabulary.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "util/philox.h"
#include "util/program.h"

typedef struct Options {
    const char *folder, *tokenizer, *prompt;
    long max_new_tokens, top_k;
    double temperature;
    uint64_t seed;
} Options;

static const char usage[] =
    "usage: sample_gpt2 CHECKPOINT_DIR --prompt=\"...\" [options]\n"
    "  --prompt=TEXT          what the text begins with (required, not empty)\n"
    "  --max_new_tokens=200   tokens to write\n"
    "  --temperature=0.8      0 takes the likeliest token each time\n"
    "  --top_k=200            draw from that many likeliest tokens only; 0 = all\n"
    "  --seed=1               the same seed writes the same text\n"
    "  --tokenizer=NAME       bytes or gpt2; default: the one that tokens.json in the checkpoint names.\n"
    "                         gpt2's vocabulary is read from the checkpoint, or else from data/gpt2\n";

static double number(const char *key, const char *text, double least, double most, bool whole) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !(value >= least && value <= most) || (whole && value != floor(value)))
        die_usage("--%s=%s: expected a %snumber from %g to %g", key, text, whole ? "whole " : "", least, most);
    return value;
}

/* Sets the option called `key`; `value` is never NULL. */
static void set_option(Options *o, const char *key, const char *value) {
    if (strcmp(key, "prompt") == 0)
        o->prompt = value;
    else if (strcmp(key, "tokenizer") == 0)
        o->tokenizer = value;
    else if (strcmp(key, "max_new_tokens") == 0)
        o->max_new_tokens = (long)number(key, value, 0, 1e9, true);
    else if (strcmp(key, "temperature") == 0)
        o->temperature = number(key, value, 0, 100, false);
    else if (strcmp(key, "top_k") == 0)
        o->top_k = (long)number(key, value, 0, 1e9, true);
    else if (strcmp(key, "seed") == 0)
        o->seed = (uint64_t)number(key, value, 0, 9007199254740992.0, true);
    else
        die_usage("there is no option --%s; --help lists what there is", key);
}

static void answer_questions(const char *argument) {
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0)
        fputs(usage, stdout);
    else if (strcmp(argument, "--version") == 0)
        printf("sample_gpt2 (mars.c) %s\n", MARS_VERSION);
    else
        return;
    exit(EXIT_DONE);
}

/* Options are --key=value or --key value. */
static Options read_options(int argc, char **argv) {
    Options o = {.max_new_tokens = 200, .top_k = 200, .temperature = 0.8, .seed = 1};
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        answer_questions(argument);
        if (strncmp(argument, "--", 2) == 0) {
            const char *equals = strchr(argument, '=');
            char key[32];
            int length = equals ? (int)(equals - argument - 2) : (int)strlen(argument) - 2;
            snprintf(key, sizeof key, "%.*s", length, argument + 2);
            if (!equals && i + 1 >= argc) die_usage("%s needs a value; --help lists what there is", argument);
            set_option(&o, key, equals ? equals + 1 : argv[++i]);
        } else if (argument[0] == '-' || o.folder) {
            die_usage("unexpected argument '%s'; --help lists what there is", argument);
        } else {
            o.folder = argument;
        }
    }
    if (!o.folder) die_usage("the checkpoint folder is missing, such as runs/NAME/checkpoints/latest");
    if (!o.prompt || !*o.prompt) die_usage("--prompt is missing or empty: a model needs something to go on from");
    return o;
}

typedef struct Candidate {
    float logit;
    int token;
} Candidate;

/* Highest logit first; equal ones in the order of their tokens, so that the result is one and the same. */
static int by_logit(const void *x, const void *y) {
    const Candidate *a = x, *b = y;
    if (a->logit != b->logit) return a->logit < b->logit ? 1 : -1;
    return a->token - b->token;
}

/* A token from the logits: `index` counts the tokens drawn so far, and with the seed decides the draw. */
static int draw(const float *logits, int V, Candidate *candidates, const Options *o, uint64_t index) {
    for (int v = 0; v < V; v++) {
        if (!isfinite(logits[v])) die("the model of %s computes logits that are not finite", o->folder);
        candidates[v] = (Candidate){logits[v], v};
    }
    qsort(candidates, (size_t)V, sizeof *candidates, by_logit);
    if (o->temperature == 0.0) return candidates[0].token;
    int count = o->top_k > 0 && o->top_k < V ? (int)o->top_k : V;
    double sum = 0.0, drawn = 0.0;
    for (int i = 0; i < count; i++) sum += exp((candidates[i].logit - candidates[0].logit) / o->temperature);
    double mark = philox_uniform(philox(o->seed, PHILOX_SAMPLE_TOKEN, 0, index).word[0]) * sum;
    for (int i = 0; i < count; i++) {
        drawn += exp((candidates[i].logit - candidates[0].logit) / o->temperature);
        if (drawn >= mark) return candidates[i].token;
    }
    return candidates[count - 1].token;
}

/* Feeds the last `count` tokens of the text to an empty cache. */
static void feed_tail(Decoder *decoder, const TokenBuffer *text, size_t count) {
    decoder_reset(decoder);
    for (size_t i = text->count - count; i < text->count; i++) decoder_feed(decoder, text->tokens[i]);
}

static void write_token(const Tokenizer *tokenizer, int token) {
    size_t bytes;
    const char *text = tokenizer_decode(tokenizer, token, &bytes);
    if (text) fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static void write_text(GPT2 *model, const Tokenizer *tokenizer, const Options *o) {
    int T = model->config.block_size, V = model->config.vocab_size;
    TokenBuffer text = {0};
    Encoder *encoder = encoder_open(tokenizer);
    if (!encoder) die("the tokenizer %s of %s can only decode", tokenizer_name(tokenizer), o->folder);
    encoder_encode(encoder, o->prompt, strlen(o->prompt), true, &text);
    encoder_close(encoder);
    for (size_t i = 0; i < text.count; i++)
        if (text.tokens[i] >= V)
            die("the prompt has token %d, but the model's vocabulary has %d: is --tokenizer the one it was trained "
                "with?",
                text.tokens[i], V);
    Candidate *candidates = checked_malloc((size_t)V * sizeof *candidates, "candidates");
    Decoder decoder;
    decoder_open(&decoder, model);
    fwrite(o->prompt, 1, strlen(o->prompt), stdout);
    feed_tail(&decoder, &text, text.count <= (size_t)T ? text.count : (size_t)ceil_div(T, 2));
    for (long i = 0; i < o->max_new_tokens; i++) {
        int token = draw(decoder.logits, V, candidates, o, (uint64_t)i);
        if (token == tokenizer_end_of_text(tokenizer)) break;
        write_token(tokenizer, token);
        token_buffer_reserve(&text, 1);
        text.tokens[text.count++] = (uint16_t)token;
        if (decoder.position < T)
            decoder_feed(&decoder, token);
        else
            feed_tail(&decoder, &text, (size_t)ceil_div(T, 2));
    }
    putchar('\n');
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write the text: %s", strerror(errno));
    decoder_close(&decoder);
    token_buffer_free(&text);
    free(candidates);
}

int main(int argc, char **argv) {
    program_start("sample_gpt2", argv);
    Options options = read_options(argc, argv);
    Error error;
    GPT2Config config;
    Tokenizer *tokenizer;
    SafetensorsFile file;
    GPT2 model;
    if (!checkpoint_open_weights(&file, options.folder, &error)) die("%s", error.text);
    if (!checkpoint_read_model_config(&config, options.folder, &file, &error)) die("%s", error.text);
    const char *folder = options.tokenizer && !vocabulary_is_in(options.folder) ? NULL : options.folder;
    if (!tokenizer_open(&tokenizer, options.tokenizer, folder, &error)) {
        if (options.tokenizer) die_usage("--tokenizer=%s: %s", options.tokenizer, error.text);
        die("%s; --tokenizer=NAME says which one it is", error.text);
    }
    int threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, threads > 0 ? threads : 1, &error);
    if (!be) die("%s", error.text);
    gpt2_create(&model, &config, be, 1, RECOMPUTE_NONE, false);
    if (!gpt2_load(&model, &file, &error)) die("%s", error.text);
    safetensors_close(&file);
    write_text(&model, tokenizer, &options);
    gpt2_free(&model);
    tokenizer_close(tokenizer);
    be->close(be);
    return EXIT_DONE;
}
