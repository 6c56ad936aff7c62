/* sample_gpt2: writes text with a trained model.
 *
 *     ./sample_gpt2 CHECKPOINT_DIR [--prompt="..." | --prompt_file=FILE] [--num_samples=1 --max_new_tokens=200
 *                   --temperature=0.8 --top_k=200 --seed=1 --special_tokens=false --tokenizer=bytes|gpt2
 *                   --device=auto|cpu|cuda --precision=float32|bfloat16]
 *
 * The tokenizer is the one whose tokens.json and vocabulary the trainer copied into the checkpoint. generate.h says how
 * tokens are drawn. */
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
#include "model/generate.h"
#include "model/gpt2_memory.h"
#include "util/files.h"
#include "util/program.h"

enum { PROMPT_MAX = 64 << 20 }; /* bytes */

typedef struct Options {
    const char *folder, *tokenizer, *prompt_file, *device;
    DType precision;
    char *prompt; /* of the command line or the file; NULL for none */
    size_t prompt_bytes;
    long num_samples;
    GeneratorOptions generator;
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

/* Returns the index of `text` in the list of words. */
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
        o->generator.max_new_tokens = (int64_t)number(key, value, 0, 1e9, true);
    else if (strcmp(key, "temperature") == 0)
        o->generator.temperature = number(key, value, 0, 100, false);
    else if (strcmp(key, "top_k") == 0)
        o->generator.top_k = (int64_t)number(key, value, 0, 1e9, true);
    else if (strcmp(key, "device") == 0)
        o->device = devices[word(key, value, devices, ARRAY_LENGTH(devices))];
    else if (strcmp(key, "precision") == 0)
        o->precision = word(key, value, precisions, ARRAY_LENGTH(precisions)) == 0 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
    else if (strcmp(key, "seed") == 0)
        o->generator.seed = (uint64_t)number(key, value, 0, 9007199254740992.0, true);
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

/* Adds the key to a list with blanks around each; returns false if the list already has it. */
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
    static Options o = {.num_samples = 1,
                        .generator = {200, GENERATOR_TEMPERATURE, GENERATOR_TOP_K, 1},
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

/* ---- texts ---- */

static bool write_to_stdout(void *context, const char *text, size_t bytes) {
    (void)context;
    return fwrite(text, 1, bytes, stdout) == bytes && fflush(stdout) == 0;
}

static void write_samples(Generator *generator, const Options *o) {
    Error error;
    for (long i = 0; i < o->num_samples; i++) {
        if (i > 0) puts("---------------");
        fwrite(o->prompt, 1, o->prompt_bytes, stdout);
        if (!generator_write(generator, (uint32_t)i, write_to_stdout, NULL, &error))
            die("the model of %s: %s", o->folder, error.text);
        putchar('\n');
    }
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write the text: %s", strerror(errno));
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
    if (files_is_file(options.folder))
        die_usage("%s is a file; expected a folder with a model; name the folder that it lies in", options.folder);
    if (!checkpoint_open_weights(&file, options.folder, &error)) die("%s", error.text);
    if (!checkpoint_read_model_config(&config, options.folder, &file, &error)) die("%s", error.text);
    const char *folder = options.tokenizer && !vocabulary_is_in(options.folder) ? NULL : options.folder;
    if (!tokenizer_open(&tokenizer, options.tokenizer, folder, &error)) {
        if (options.tokenizer) die_usage("--tokenizer=%s: %s", options.tokenizer, error.text);
        die("%s; --tokenizer=NAME says which one it is", error.text);
    }
    if (!options.tokenizer && !checkpoint_verify_tokenizer(options.folder, &error)) die("%s", error.text);
    Backend *be = open_device(&options);
    gpt2_plan(&model, &config, be, 1, RECOMPUTE_NONE, false);
    Generator generator;
    generator_plan(&generator, options.generator, &model, tokenizer);
    if (!gpt2_decoding_fits(&model, &error)) die("%s", error.text);
    gpt2_allocate(&model);
    if (!checkpoint_load_gpt2(&model, &file, &error)) die("%s", error.text);
    safetensors_close(&file);
    if (!generator_set_prompt(&generator, options.prompt, options.prompt_bytes, options.special_tokens, &error))
        die_usage("--prompt: %s", error.text);
    write_samples(&generator, &options);
    free(options.prompt);
    generator_close(&generator);
    gpt2_free(&model);
    tokenizer_close(tokenizer);
    be->close(be);
    return EXIT_DONE;
}
