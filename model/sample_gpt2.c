/* sample_gpt2: writes text with a trained model.
 *
 *     ./sample_gpt2 CHECKPOINT_DIR [--prompt="..." | --prompt_file=FILE] [--num_samples=1 --max_new_tokens=200
 *                   --temperature=0.8 --top_k=200 --seed=1 --special_tokens=false --tokenizer=bytes|gpt2
 *                   --device=auto|cpu|cuda --precision=float32|bfloat16]
 *
 * The tokenizer is the one whose tokens.json and vocabulary the trainer copied into the checkpoint. Each new token is
 * drawn from the softmax of logits/temperature over the top_k likeliest; temperature 0 takes the likeliest. Keys and
 * values are cached. Of a prompt longer than the context the end counts. Position embeddings are absolute, so when the
 * context is full it cannot slide: the cache is filled again with as much of the text's end as half a context holds, which
 * makes room for as many tokens again. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_gpt2.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/vocabulary.h"
#include "model/decoder.h"
#include "model/gpt2_memory.h"
#include "util/files.h"
#include "util/philox.h"
#include "util/program.h"

enum { PROMPT_MAX = 64 << 20 }; /* bytes */

static const char special_token[] = "<|endoftext|>";

typedef struct Options {
    const char *folder, *tokenizer, *prompt_file, *device;
    DType precision;
    char *prompt; /* of the command line or the file; NULL for none */
    size_t prompt_bytes;
    long max_new_tokens, top_k, num_samples;
    double temperature;
    uint64_t seed;
    bool special_tokens;
} Options;

static const char usage[] =
    "usage: sample_gpt2 CHECKPOINT_DIR [options]\n"
    "  --prompt=TEXT          what the text begins with; without a prompt it begins after <|endoftext|>, which stands\n"
    "                         between documents of GPT-2's tokens. Of a prompt longer than the context the end counts\n"
    "  --prompt_file=FILE     the prompt is what this file holds; - is standard input\n"
    "  --special_tokens=false true: <|endoftext|> in the prompt is that token, not its characters\n"
    "  --num_samples=1        texts to write, one after the other\n"
    "  --max_new_tokens=200   tokens to write in each\n"
    "  --temperature=0.8      0 takes the likeliest token each time\n"
    "  --top_k=200            draw from that many likeliest tokens only; 0 = all\n"
    "  --seed=1               the same seed writes the same text\n"
    "  --tokenizer=NAME       bytes or gpt2; default: the one that tokens.json in the checkpoint names.\n"
    "                         gpt2's vocabulary is read from the checkpoint, or else from data/gpt2\n"
    "  --device=auto          cpu, cuda, or auto: a GPU if there is one\n"
    "  --precision=float32    or bfloat16. Each device and precision rounds in its own way, so that after some tokens\n"
    "                         the same seed may write another text\n";

static double number(const char *key, const char *text, double least, double limit, bool whole) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !(value >= least && value <= limit) || (whole && value != floor(value)))
        die_usage("--%s=%s: expected a %snumber from %g to %g", key, text, whole ? "whole " : "", least, limit);
    return value;
}

/* Which of the words it is. */
static int word(const char *key, const char *text, const char *const *words, int count) {
    char list[64] = "";
    for (int i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) return i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? " or " : "", words[i]);
    }
    die_usage("--%s=%s: expected %s", key, text, list);
}

static bool boolean(const char *key, const char *text) {
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        die_usage("--%s=%s: expected true or false", key, text);
    return strcmp(text, "true") == 0;
}

static const char *const devices[] = {"auto", "cpu", "cuda"}, *const precisions[] = {"float32", "bfloat16"};

/* Sets the option called `key`; `value` is never NULL. */
static void set_option(Options *o, const char *key, const char *value) {
    if (strcmp(key, "prompt") == 0)
        o->prompt = checked_strdup(value);
    else if (strcmp(key, "prompt_file") == 0)
        o->prompt_file = value;
    else if (strcmp(key, "special_tokens") == 0)
        o->special_tokens = boolean(key, value);
    else if (strcmp(key, "num_samples") == 0)
        o->num_samples = (long)number(key, value, 1, 1e9, true);
    else if (strcmp(key, "tokenizer") == 0)
        o->tokenizer = value;
    else if (strcmp(key, "max_new_tokens") == 0)
        o->max_new_tokens = (long)number(key, value, 0, 1e9, true);
    else if (strcmp(key, "temperature") == 0)
        o->temperature = number(key, value, 0, 100, false);
    else if (strcmp(key, "top_k") == 0)
        o->top_k = (long)number(key, value, 0, 1e9, true);
    else if (strcmp(key, "device") == 0)
        o->device = devices[word(key, value, devices, ARRAY_LENGTH(devices))];
    else if (strcmp(key, "precision") == 0)
        o->precision = word(key, value, precisions, ARRAY_LENGTH(precisions)) == 0 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
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

/* Adds the key to a list with blanks around each; false where it is there. */
static bool note_key(char *keys, size_t size, const char *key) {
    char word[40];
    snprintf(word, sizeof word, " %s ", key);
    if (strstr(keys, word)) return false;
    snprintf(keys + strlen(keys), size - strlen(keys), "%s", word);
    return true;
}

/* Options are --key=value or --key value. */
static Options read_options(int argc, char **argv) {
    /* Static, so that a leak checker finds its strings when a mistake ends the program. */
    static Options o = {.max_new_tokens = 200,
                        .top_k = 200,
                        .num_samples = 1,
                        .temperature = 0.8,
                        .seed = 1,
                        .device = "auto",
                        .precision = DTYPE_FLOAT32};
    char given[512] = "";
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        answer_questions(argument);
        if (strncmp(argument, "--", 2) == 0) {
            const char *equals = strchr(argument, '=');
            char key[32];
            int length = equals ? (int)(equals - argument - 2) : (int)strlen(argument) - 2;
            snprintf(key, sizeof key, "%.*s", length, argument + 2);
            if (!equals && i + 1 >= argc) die_usage("%s needs a value; --help lists what there is", argument);
            if (!note_key(given, sizeof given, key)) die_usage("--%s is given twice; remove one of the two", key);
            set_option(&o, key, equals ? equals + 1 : argv[++i]);
        } else if (argument[0] == '-' || o.folder) {
            die_usage("unexpected argument '%s'; --help lists what there is", argument);
        } else {
            o.folder = argument;
        }
    }
    if (!o.folder) die_usage("the checkpoint folder is missing, such as runs/NAME/checkpoints/latest");
    if (o.prompt && o.prompt_file) die_usage("--prompt and --prompt_file are both given; give one of them");
    return o;
}

/* ---- the prompt ---- */

/* All of a file, which may be a pipe, with a 0 byte at its end. */
static char *read_all(FILE *file, const char *name, size_t *bytes) {
    char *text = checked_malloc(PROMPT_MAX + 1, "the prompt");
    *bytes = fread(text, 1, PROMPT_MAX + 1, file);
    if (ferror(file)) die("--prompt_file: cannot read %s: %s", name, strerror(errno));
    if (*bytes > PROMPT_MAX) die("--prompt_file: %s is too long for a prompt: more than %d bytes", name, PROMPT_MAX);
    text[*bytes] = 0;
    return checked_realloc(text, *bytes + 1, "the prompt");
}

static void read_prompt(Options *o) {
    if (!o->prompt_file) {
        if (!o->prompt) o->prompt = checked_strdup("");
        o->prompt_bytes = strlen(o->prompt);
        return;
    }
    if (strcmp(o->prompt_file, "-") == 0) {
        o->prompt = read_all(stdin, "standard input", &o->prompt_bytes);
        return;
    }
    char *path = files_expand_home(o->prompt_file);
    FILE *file = files_is_folder(path) ? NULL : fopen(path, "rb");
    if (!file) die("--prompt_file: cannot open %s: %s", path, files_is_folder(path) ? "a folder" : strerror(errno));
    o->prompt = read_all(file, path, &o->prompt_bytes);
    fclose(file);
    free(path);
}

static void append_token(TokenBuffer *text, int token) {
    token_buffer_reserve(text, 1);
    text->tokens[text->count++] = (uint16_t)token;
}

/* The prompt's tokens, in which --special_tokens replaces the text of `end_of_text` by its token. */
static void encode_prompt(Encoder *encoder, const Options *o, int end_of_text, TokenBuffer *text) {
    const char *rest = o->prompt, *end = o->prompt + o->prompt_bytes;
    while (o->special_tokens) {
        const char *found = memmem(rest, (size_t)(end - rest), special_token, strlen(special_token));
        if (!found) break;
        encoder_encode(encoder, rest, (size_t)(found - rest), true, text);
        append_token(text, end_of_text);
        rest = found + strlen(special_token);
    }
    encoder_encode(encoder, rest, (size_t)(end - rest), true, text);
}

/* What every text begins with: the prompt, or the token that stands before a document. */
static TokenBuffer tokens_of_prompt(const Tokenizer *tokenizer, const Options *o, int V) {
    int end_of_text = tokenizer_end_of_text(tokenizer);
    if (end_of_text < 0 && o->prompt_bytes == 0)
        die_usage("--prompt is missing or empty: the tokenizer %s has no <|endoftext|> to begin after",
                  tokenizer_name(tokenizer));
    if (end_of_text < 0 && o->special_tokens)
        die_usage("--special_tokens: the tokenizer %s has none; remove the option", tokenizer_name(tokenizer));
    TokenBuffer text = {0};
    Encoder *encoder = encoder_open(tokenizer);
    if (!encoder) die("the tokenizer %s of %s can only decode", tokenizer_name(tokenizer), o->folder);
    if (o->prompt_bytes > 0)
        encode_prompt(encoder, o, end_of_text, &text);
    else
        append_token(&text, end_of_text);
    encoder_close(encoder);
    for (size_t i = 0; i < text.count; i++)
        if (text.tokens[i] >= V)
            die("the prompt has token %d, but the model's vocabulary has %d: is --tokenizer the one it was trained "
                "with?",
                text.tokens[i], V);
    return text;
}

/* ---- drawing tokens ---- */

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

/* A token from the logits: `sample` counts the texts and `index` the tokens drawn for this one; with the seed they decide
 * the draw. */
static int draw(const float *logits, int V, Candidate *candidates, const Options *o, uint32_t sample, uint64_t index) {
    for (int v = 0; v < V; v++) {
        if (!isfinite(logits[v])) die("the model of %s computes logits that are not finite", o->folder);
        candidates[v] = (Candidate){logits[v], v};
    }
    qsort(candidates, (size_t)V, sizeof *candidates, by_logit);
    if (o->temperature == 0.0) return candidates[0].token;
    int count = o->top_k > 0 && o->top_k < V ? (int)o->top_k : V;
    double sum = 0.0, drawn = 0.0;
    for (int i = 0; i < count; i++) sum += exp((candidates[i].logit - candidates[0].logit) / o->temperature);
    double mark = philox_uniform(philox(o->seed, PHILOX_SAMPLE_TOKEN, sample, index).word[0]) * sum;
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

static void write_sample(Decoder *decoder, const Tokenizer *tokenizer, const Options *o, const TokenBuffer *prompt,
                         Candidate *candidates, uint32_t sample) {
    int T = decoder->model->config.block_size, V = decoder->model->config.vocab_size;
    TokenBuffer text = {0};
    token_buffer_reserve(&text, prompt->count);
    memcpy(text.tokens, prompt->tokens, prompt->count * sizeof *text.tokens);
    text.count = prompt->count;
    fwrite(o->prompt, 1, o->prompt_bytes, stdout);
    feed_tail(decoder, &text, text.count <= (size_t)T ? text.count : (size_t)T);
    for (long i = 0; i < o->max_new_tokens; i++) {
        int token = draw(decoder->logits, V, candidates, o, sample, (uint64_t)i);
        if (token == tokenizer_end_of_text(tokenizer)) break;
        write_token(tokenizer, token);
        append_token(&text, token);
        if (decoder->cache.position < T)
            decoder_feed(decoder, token);
        else
            feed_tail(decoder, &text, (size_t)ceil_div(T, 2));
    }
    token_buffer_free(&text);
}

static void write_samples(GPT2 *model, const Tokenizer *tokenizer, const Options *o) {
    int V = model->config.vocab_size;
    TokenBuffer prompt = tokens_of_prompt(tokenizer, o, V);
    Candidate *candidates = checked_malloc((size_t)V * sizeof *candidates, "candidates");
    Decoder decoder;
    decoder_open(&decoder, model);
    for (long i = 0; i < o->num_samples; i++) {
        if (i > 0) puts("---------------");
        write_sample(&decoder, tokenizer, o, &prompt, candidates, (uint32_t)i);
        putchar('\n');
    }
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write the text: %s", strerror(errno));
    decoder_close(&decoder);
    token_buffer_free(&prompt);
    free(candidates);
}

static Backend *open_device(const Options *o) {
    Error error;
    const char *device = strcmp(o->device, "auto") == 0 ? backend_auto_device() : o->device;
    Backend *be = backend_open(device, o->precision, backend_default_threads(1), &error);
    if (!be) die_usage("--device=%s --precision=%s: %s", o->device, dtype_name(o->precision), error.text);
    return be;
}

int main(int argc, char **argv) {
    program_start("sample_gpt2", argv);
    Options options = read_options(argc, argv);
    Error error;
    GPT2Config config;
    Tokenizer *tokenizer;
    SafetensorsFile file;
    GPT2 model;
    read_prompt(&options);
    if (!checkpoint_open_weights(&file, options.folder, &error)) die("%s", error.text);
    if (!checkpoint_read_model_config(&config, options.folder, &file, &error)) die("%s", error.text);
    const char *folder = options.tokenizer && !vocabulary_is_in(options.folder) ? NULL : options.folder;
    if (!tokenizer_open(&tokenizer, options.tokenizer, folder, &error)) {
        if (options.tokenizer) die_usage("--tokenizer=%s: %s", options.tokenizer, error.text);
        die("%s; --tokenizer=NAME says which one it is", error.text);
    }
    Backend *be = open_device(&options);
    gpt2_plan(&model, &config, be, 1, RECOMPUTE_NONE, false);
    if (!gpt2_decoding_fits(&model, &error)) die("%s", error.text);
    gpt2_allocate(&model);
    if (!checkpoint_load_gpt2(&model, &file, &error)) die("%s", error.text);
    safetensors_close(&file);
    write_samples(&model, tokenizer, &options);
    free(options.prompt);
    gpt2_free(&model);
    tokenizer_close(tokenizer);
    be->close(be);
    return EXIT_DONE;
}
