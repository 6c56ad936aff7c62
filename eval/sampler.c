/* sampler.c: see sampler.h. */
#include "eval/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "model/generate.h"
#include "util/stop_signal.h"
#include "util/utf8.h"

struct Sampler {
    Tokenizer *tokenizer;
    Generator generator;
};

/* Returns the bytes as a string of UTF-8, which the caller frees. */
static char *to_utf8(const char *text, size_t bytes) {
    char *string = checked_malloc(strlen(UTF8_REPLACEMENT) * bytes + 1, "a text"), *end = string;
    for (size_t at = 0, width; at < bytes; at += width) {
        bool is_kept = utf8_next(text + at, bytes - at, &width) > 0; /* neither an error nor the byte 0 */
        end = is_kept ? mempcpy(end, text + at, width) : stpcpy(end, UTF8_REPLACEMENT);
    }
    *end = 0;
    return string;
}

static bool is_utf8(const char *text) {
    char *repaired = to_utf8(text, strlen(text));
    bool is_same = strcmp(repaired, text) == 0;
    free(repaired);
    return is_same;
}

static bool set_prompt(Sampler *s, const Config *config, Error *error) {
    Error reason;
    const char *prompt = config->train.sample_prompt, *where = config_where(config, "train.sample_prompt");
    if (!is_utf8(prompt))
        return error_set(error, "%s: train.sample_prompt: not UTF-8; write it in that encoding", where);
    if (!generator_set_prompt(&s->generator, prompt, strlen(prompt), false, &reason))
        return error_set(error, "%s: train.sample_prompt: %s; give another prompt, or sample_interval 0 for no texts",
                         where, reason.text);
    size_t count = s->generator.prompt.count;
    return count <= (size_t)config->model.block_size ||
           error_set(error, "%s: train.sample_prompt: %zu tokens, but model.block_size is %d; shorten it", where, count,
                     config->model.block_size);
}

Sampler *sampler_plan(const Config *config, const char *tokens_folder, GPT2 *model, Error *error) {
    const TrainConfig *train = &config->train;
    Tokenizer *tokenizer;
    Error reason;
    if (!tokenizer_open(&tokenizer, NULL, tokens_folder, &reason)) {
        error_set(error,
                  "%s: train.sample_interval: %s; texts need the tokenizer of data.train, which tokens.json next to it "
                  "names, as in {\"tokenizer\": \"gpt2\"}; with sample_interval 0 there are no texts",
                  config_where(config, "train.sample_interval"), reason.text);
        return NULL;
    }
    Sampler *s = checked_calloc(1, sizeof *s, "the sampler");
    s->tokenizer = tokenizer;
    const GeneratorOptions options = {train->sample_tokens, GENERATOR_TEMPERATURE, GENERATOR_TOP_K, train->seed};
    generator_plan(&s->generator, options, model, tokenizer);
    if (set_prompt(s, config, error)) return s;
    sampler_close(s);
    return NULL;
}

void sampler_close(Sampler *s) {
    if (!s) return;
    generator_close(&s->generator);
    tokenizer_close(s->tokenizer);
    free(s);
}

/* Appends until a signal asks the run to stop, so that a long text does not delay the stop. */
static bool append(void *context, const char *text, size_t bytes) {
    fwrite(text, 1, bytes, context);
    return !stop_signal_came();
}

char *sampler_text(Sampler *s, int64_t step, Error *error) {
    char *bytes = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&bytes, &length);
    if (!memory) die("out of memory: a text");
    Backend *be = s->generator.decoder.model->be;
    be->range_begin(be, "sample");
    bool ok = generator_write(&s->generator, (uint32_t)step, append, memory, error);
    be->range_end(be);
    if (ok && stop_signal_came()) ok = error_set(error, "a signal came while it was written");
    if (fclose(memory) != 0) die("out of memory: a text");
    char *text = ok ? to_utf8(bytes, length) : NULL;
    free(bytes);
    return text;
}
