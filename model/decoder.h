/* decoder.h: computes a model token by token for sampling, with a cache of the keys and values of earlier tokens. */
#ifndef MARS_MODEL_DECODER_H
#define MARS_MODEL_DECODER_H

#include "model/gpt2.h"

EXTERN_C_BEGIN

typedef struct Decoder {
    GPT2 *model;
    KeyValueCache cache; /* of one sequence; cache.position tokens were fed so far, at most block_size */
    float *logits;       /* (V) host memory: of the token after the last one fed, softcap included */
    void *raw_logits;    /* (V) host memory, in the activation type */
} Decoder;

/* Adds the cache to the plan in model->arena, so that it comes between gpt2_plan() and gpt2_allocate(). Neither `model`
 * nor `decoder` may move from then on, and `model` must outlive the decoder. */
void decoder_plan(Decoder *decoder, GPT2 *model);
/* Frees the memory that is not in the arena. */
void decoder_close(Decoder *decoder);

/* Forgets all tokens. */
void decoder_reset(Decoder *decoder);

/* Feeds the next token and computes decoder->logits. The position must be below block_size, and the token below the
 * vocabulary's size; otherwise ends the program. */
void decoder_feed(Decoder *decoder, int token);

EXTERN_C_END

#endif
