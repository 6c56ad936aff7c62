/* generate.h: generates text: a prompt's tokens, and new tokens after them. For sample_gpt2, and for the sample texts
 * of a run (eval/sampler.h).
 *
 * Each new token is drawn from the softmax of logits/temperature over the top_k likeliest; temperature 0 takes the
 * likeliest. Keys and values are cached. Of a prompt that is longer than the context only the end is used. Position
 * embeddings are absolute, so a full context cannot slide: the cache is filled again with the last half context of the
 * text, which makes room for as many new tokens. */
#ifndef MARS_MODEL_GENERATE_H
#define MARS_MODEL_GENERATE_H

#include "data/tokenizer/tokenizer.h"
#include "model/decoder.h"

/* The defaults of sample_gpt2, which the sample texts of a run use, too. */
#define GENERATOR_TEMPERATURE 0.8
enum { GENERATOR_TOP_K = 200 };

EXTERN_C_BEGIN

typedef struct GeneratorOptions {
    int64_t max_new_tokens;
    double temperature; /* 0 = the likeliest token */
    int64_t top_k;      /* 0 = all tokens */
    uint64_t seed;
} GeneratorOptions;

typedef struct Generator {
    GeneratorOptions options;
    const Tokenizer *tokenizer;
    Decoder decoder;
    TokenBuffer prompt;
    struct Candidate *candidates; /* (V) */
} Generator;

/* Adds what the generator needs to the plan in model->arena, as decoder_plan() does. Neither `generator` nor `model`
 * may move afterwards. The tokenizer must outlive the generator. */
void generator_plan(Generator *generator, GeneratorOptions options, GPT2 *model, const Tokenizer *tokenizer);
void generator_close(Generator *generator);

/* Sets the tokens that every text begins with: those of `text`, or, if `text` is empty, the end-of-text token, which
 * separates documents. With special_tokens true, <|endoftext|> in the text is that token. Fails if the tokenizer cannot
 * encode or has no end of text, or the model's vocabulary lacks a token of the prompt. */
bool generator_set_prompt(Generator *generator, const char *text, size_t bytes, bool special_tokens, Error *error);

/* Draws at most max_new_tokens tokens after the prompt and passes the bytes of each to write(). Stops earlier at the
 * end of text, or when write() returns false. The seed and the number of the text decide what is drawn. Fails if the
 * model computes logits that are not finite. */
bool generator_write(Generator *generator, uint32_t number,
                     bool (*write)(void *context, const char *text, size_t bytes), void *context, Error *error);

EXTERN_C_END

#endif
