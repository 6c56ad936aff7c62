/* gpt2_encoder.h: encodes text as GPT-2's tokens, word by word (words.h, bpe.h). A table keeps the tokens of recent
 * words, so that most words need not be encoded again. Special tokens such as <|endoftext|> are ordinary text here. */
#ifndef MARS_DATA_TOKENIZER_GPT2_ENCODER_H
#define MARS_DATA_TOKENIZER_GPT2_ENCODER_H

#include "data/tokenizer/token_buffer.h"
#include "data/tokenizer/vocabulary.h"

typedef struct Gpt2Encoder Gpt2Encoder;

/* The vocabulary has merges, and `classes` are those of char_class_fill(); both must outlive the encoder. */
Gpt2Encoder *gpt2_encoder_open(const Vocabulary *vocabulary, const uint8_t *classes);
void gpt2_encoder_close(Gpt2Encoder *encoder);

/* As encoder_encode(). */
size_t gpt2_encode(Gpt2Encoder *encoder, const char *text, size_t bytes, bool is_end, TokenBuffer *out);

/* As encoder_replaced(). */
int64_t gpt2_replaced(const Gpt2Encoder *encoder);

#endif
