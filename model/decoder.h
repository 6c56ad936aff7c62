/* decoder.h: a model one token at a time, with the keys and values of earlier tokens kept, for sampling. */
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

/* Device memory that decoder_open() will take, beyond the model's. */
size_t decoder_bytes(const GPT2 *model);

/* `model` must outlive the decoder. */
void decoder_open(Decoder *decoder, GPT2 *model);
void decoder_close(Decoder *decoder);

/* Forgets all tokens. */
void decoder_reset(Decoder *decoder);

/* Feeds the next token and computes decoder->logits. The position must be below block_size. */
void decoder_feed(Decoder *decoder, int token);

EXTERN_C_END

#endif
