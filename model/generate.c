/* generate.c: see generate.h. */
#include "model/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/philox.h"

typedef struct Candidate {
    float logit;
    int token;
} Candidate;

static const char special_token[] = "<|endoftext|>";

void generator_plan(Generator *g, GeneratorOptions options, GPT2 *model, const Tokenizer *tokenizer) {
    memset(g, 0, sizeof *g);
    g->options = options;
    g->tokenizer = tokenizer;
    decoder_plan(&g->decoder, model);
    g->candidates = checked_malloc((size_t)model->config.vocab_size * sizeof *g->candidates, "candidates");
}

void generator_close(Generator *g) {
    decoder_close(&g->decoder);
    token_buffer_free(&g->prompt);
    free(g->candidates);
    memset(g, 0, sizeof *g);
}

/* ---- the prompt ---- */

static void append_token(TokenBuffer *text, int token) {
    token_buffer_reserve(text, 1);
    text->tokens[text->count++] = (uint16_t)token;
}

/* Appends the text's tokens. With special_tokens true, "<|endoftext|>" in the text becomes the token end_of_text. */
static void encode(Encoder *encoder, const char *text, size_t bytes, bool special_tokens, int end_of_text,
                   TokenBuffer *tokens) {
    const char *rest = text, *end = text + bytes;
    while (special_tokens) {
        const char *found = memmem(rest, (size_t)(end - rest), special_token, strlen(special_token));
        if (!found) break;
        encoder_encode(encoder, rest, (size_t)(found - rest), true, tokens);
        append_token(tokens, end_of_text);
        rest = found + strlen(special_token);
    }
    encoder_encode(encoder, rest, (size_t)(end - rest), true, tokens);
}

bool generator_set_prompt(Generator *g, const char *text, size_t bytes, bool special_tokens, Error *error) {
    const char *name = tokenizer_name(g->tokenizer);
    int end_of_text = tokenizer_end_of_text(g->tokenizer), V = g->decoder.model->config.vocab_size;
    if (end_of_text < 0 && bytes == 0)
        return error_set(error, "the prompt is empty, and the tokenizer %s has no %s to begin after", name,
                         special_token);
    if (end_of_text < 0 && special_tokens) return error_set(error, "the tokenizer %s has no special tokens", name);
    Encoder *encoder = encoder_open(g->tokenizer);
    if (!encoder) return error_set(error, "the tokenizer %s can only decode with the vocabulary that is there", name);
    g->prompt.count = 0;
    if (bytes > 0)
        encode(encoder, text, bytes, special_tokens, end_of_text, &g->prompt);
    else
        append_token(&g->prompt, end_of_text);
    encoder_close(encoder);
    for (size_t i = 0; i < g->prompt.count; i++)
        if (g->prompt.tokens[i] >= V)
            return error_set(error, "the prompt has token %d of the tokenizer %s, but the model's vocabulary has %d",
                             g->prompt.tokens[i], name, V);
    return true;
}

/* ---- drawing tokens ---- */

/* Sorts the highest logit first, and equal logits in the order of their tokens, so that the order is unique. */
static int by_logit(const void *x, const void *y) {
    const Candidate *a = x, *b = y;
    if (a->logit != b->logit) return a->logit < b->logit ? 1 : -1;
    return a->token - b->token;
}

/* Draws token `index` of text `number` from the decoder's logits; returns -1 if a logit is not finite. */
static int draw(Generator *g, uint32_t number, int64_t index) {
    Candidate *candidates = g->candidates;
    int V = g->decoder.model->config.vocab_size;
    for (int v = 0; v < V; v++) {
        if (!isfinite(g->decoder.logits[v])) return -1;
        candidates[v] = (Candidate){g->decoder.logits[v], v};
    }
    qsort(candidates, (size_t)V, sizeof *candidates, by_logit);
    if (g->options.temperature == 0.0) return candidates[0].token;
    int count = g->options.top_k > 0 && g->options.top_k < V ? (int)g->options.top_k : V;
    double sum = 0.0, drawn = 0.0;
    for (int i = 0; i < count; i++) sum += exp((candidates[i].logit - candidates[0].logit) / g->options.temperature);
    double mark = philox_uniform(philox(g->options.seed, PHILOX_SAMPLE_TOKEN, number, (uint64_t)index).word[0]) * sum;
    for (int i = 0; i < count; i++) {
        drawn += exp((candidates[i].logit - candidates[0].logit) / g->options.temperature);
        if (drawn >= mark) return candidates[i].token;
    }
    return candidates[count - 1].token;
}

/* Feeds the last `count` tokens of the text to an empty cache. */
static void feed_tail(Decoder *decoder, const TokenBuffer *text, size_t count) {
    decoder_reset(decoder);
    for (size_t i = text->count - count; i < text->count; i++) decoder_feed(decoder, text->tokens[i]);
}

bool generator_write(Generator *g, uint32_t number, bool (*write)(void *context, const char *text, size_t bytes),
                     void *context, Error *error) {
    Decoder *decoder = &g->decoder;
    int T = decoder->model->config.block_size, token = 0;
    TokenBuffer text = {0};
    token_buffer_reserve(&text, g->prompt.count);
    memcpy(text.tokens, g->prompt.tokens, g->prompt.count * sizeof *text.tokens);
    text.count = g->prompt.count;
    feed_tail(decoder, &text, text.count <= (size_t)T ? text.count : (size_t)T);
    for (int64_t i = 0; i < g->options.max_new_tokens; i++) {
        token = draw(g, number, i);
        if (token < 0 || token == tokenizer_end_of_text(g->tokenizer)) break;
        size_t bytes;
        const char *decoded = tokenizer_decode(g->tokenizer, token, &bytes);
        if (decoded && !write(context, decoded, bytes)) break;
        append_token(&text, token);
        if (decoder->cache.position < T)
            decoder_feed(decoder, token);
        else
            feed_tail(decoder, &text, (size_t)ceil_div(T, 2));
    }
    token_buffer_free(&text);
    return token >= 0 || error_set(error, "the logits of the model are not finite");
}
