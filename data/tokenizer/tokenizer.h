/* tokenizer.h: text to tokens and back.
 *
 * A tokenizer has a name: "bytes", whose tokens are bytes, or "gpt2", the byte-pair encoding of GPT-2, whose vocabulary
 * files lie in a folder. Text is bytes: nothing here requires it to be UTF-8, and every text can be encoded. Decoding
 * gives back what was encoded, except that gpt2 reads bytes that are not UTF-8 as U+FFFD, as Python's errors="replace"
 * does. Reading text files and writing token files is in prepare_data. */
#ifndef MARS_DATA_TOKENIZER_TOKENIZER_H
#define MARS_DATA_TOKENIZER_TOKENIZER_H

#include "data/tokenizer/token_buffer.h"
#include "util/base.h"

/* encoder_encode() leaves at most this many bytes for the next call: a caller that passes a text in pieces must have
 * room for them. gpt2 also cuts words that are longer, to bound its memory: it takes up to 30 times this size for a
 * word, and 90 times if the word is not UTF-8. */
enum { TOKENIZER_MAX_LEFT = 1 << 20 };

/* Where data/gpt2/download.sh puts GPT-2's vocabulary, seen from the folder of the repository. */
#define TOKENIZER_GPT2_FOLDER "data/gpt2"

EXTERN_C_BEGIN

typedef struct Tokenizer Tokenizer;

/* Opens the tokenizer `name`, or with NULL the one that folder/tokens.json names (prepare_data writes that file, and
 * checkpoints keep a copy). gpt2 reads encoder.json and vocab.bpe from `folder`; from TOKENIZER_GPT2_FOLDER if `folder`
 * is NULL, or if it has a tokens.json and no vocabulary. vocab.json and merges.txt are other names for them, and
 * llm.c's gpt2_tokenizer.bin is enough for decoding alone. Fails for an unknown name, for files that are missing or
 * wrong, and for gpt2 in a build without utf8proc. */
bool tokenizer_open(Tokenizer **tokenizer, const char *name, const char *folder, Error *error);

/* What folder/tokens.json records about the tokenizer. */
typedef struct TokenizerRecord {
    bool is_there, is_json;
    char name[64];  /* "" if it is not recorded */
    int vocab_size; /* 0 if it is not recorded */
} TokenizerRecord;

/* Fails if the file is there and cannot be read. */
bool tokenizer_read_record(TokenizerRecord *record, const char *folder, Error *error);

void tokenizer_close(Tokenizer *tokenizer);

const char *tokenizer_name(const Tokenizer *tokenizer);
int tokenizer_vocab_size(const Tokenizer *tokenizer);
/* The token that stands between documents, or -1 if there is none. */
int tokenizer_end_of_text(const Tokenizer *tokenizer);

/* The bytes of one token, owned by the tokenizer, without a 0 after them; NULL for a number that is no token, as a
 * model with a padded vocabulary may produce. */
const char *tokenizer_decode(const Tokenizer *tokenizer, int token, size_t *bytes);

/* False if it can only decode (see tokenizer_open). */
bool tokenizer_encodes(const Tokenizer *tokenizer);

/* What one thread needs to encode. Any number of them share a tokenizer, which must outlive them. NULL if the tokenizer
 * does not encode. */
typedef struct Encoder Encoder;
Encoder *encoder_open(const Tokenizer *tokenizer);
void encoder_close(Encoder *encoder);

/* Appends the tokens of the text to `out` and returns how many of its bytes they cover. If is_end is true, these are
 * all bytes. Otherwise the last ones may be left, since the text after them may change their tokens: pass them again,
 * in front of that text. The tokens do not depend on how a text is cut into pieces. "<|endoftext|>" in a text is
 * ordinary characters; the caller appends tokenizer_end_of_text() between documents. */
size_t encoder_encode(Encoder *encoder, const char *text, size_t bytes, bool is_end, TokenBuffer *out);

/* Returns how many U+FFFD this encoder has put in the place of bytes that are not UTF-8. */
int64_t encoder_replaced(const Encoder *encoder);

EXTERN_C_END

#endif
