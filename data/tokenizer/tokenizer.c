/* tokenizer.c: the tokenizers (see tokenizer.h), and finding out which one a folder's tokens were made with. */
#include "data/tokenizer/tokenizer.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer/char_class.h"
#include "data/tokenizer/gpt2_encoder.h"
#include "data/tokenizer/vocabulary.h"
#include "data/tokenizer/words.h"
#include "util/files.h"

_Static_assert((int)TOKENIZER_MAX_LEFT == (int)WORD_MAX_BYTES, "what is left is a word");

enum {
    BYTE_TOKENS = 256,
    JSON_LIMIT = 1 << 26 /* bytes of tokens.json, which may name many sources */
};

struct Tokenizer {
    const char *name;
    int vocab_size, end_of_text;
    char bytes[BYTE_TOKENS]; /* byte i at index i, so that decoding has an address to return */
    bool is_gpt2;
    Vocabulary vocabulary; /* of gpt2 */
    uint8_t *classes;      /* of all characters; NULL if nothing is encoded */
};

/* The content of folder/tokens.json, or a JSON null if that is no JSON; NULL if there is no file to read. */
static cJSON *read_description(const char *folder, Error *error) {
    char *path = format_string("%s/tokens.json", folder), *text = files_read(path, JSON_LIMIT, NULL, error);
    cJSON *json = text ? cJSON_Parse(text) : NULL;
    if (text && !json) json = cJSON_CreateNull();
    free(text);
    free(path);
    return json;
}

static bool is_known(const char *name) { return strcmp(name, "bytes") == 0 || strcmp(name, "gpt2") == 0; }

static bool open_by_folder(Tokenizer **tokenizer, const char *folder, Error *error) {
    cJSON *json = read_description(folder, error);
    if (!json) return false;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "tokenizer"));
    bool ok = false;
    if (!name)
        error_set(error,
                  "%s/tokens.json names no tokenizer; expected a JSON object with a key \"tokenizer\", such as "
                  "{\"tokenizer\": \"bytes\"}",
                  folder);
    else if (!is_known(name))
        error_set(error, "%s/tokens.json: unknown tokenizer '%s'; there are: bytes, gpt2", folder, name);
    else
        ok = tokenizer_open(tokenizer, name, vocabulary_is_in(folder) ? folder : NULL, error);
    cJSON_Delete(json);
    return ok;
}

bool tokenizer_read_record(TokenizerRecord *record, const char *folder, Error *error) {
    char *path = format_string("%s/tokens.json", folder);
    *record = (TokenizerRecord){.is_there = files_is_file(path)};
    free(path);
    if (!record->is_there) return true;
    cJSON *json = read_description(folder, error);
    if (!json) return false;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "tokenizer"));
    const cJSON *size = cJSON_GetObjectItemCaseSensitive(json, "vocab_size");
    record->is_json = !cJSON_IsNull(json);
    snprintf(record->name, sizeof record->name, "%s", name ? name : "");
    record->vocab_size = cJSON_IsNumber(size) ? size->valueint : 0;
    cJSON_Delete(json);
    return true;
}

static void open_bytes(Tokenizer *tokenizer) {
    tokenizer->name = "bytes";
    tokenizer->vocab_size = BYTE_TOKENS;
    tokenizer->end_of_text = -1;
    for (int i = 0; i < BYTE_TOKENS; i++) tokenizer->bytes[i] = (char)i;
}

static bool open_gpt2(Tokenizer *tokenizer, const char *folder, Error *error) {
    tokenizer->name = "gpt2";
    tokenizer->is_gpt2 = true;
    const char *from = folder ? folder : TOKENIZER_GPT2_FOLDER;
    if (!vocabulary_is_in(from))
        return error_set(error,
                         "%s holds no vocabulary of GPT-2; expected encoder.json and vocab.bpe; bash "
                         "data/gpt2/download.sh fetches them into " TOKENIZER_GPT2_FOLDER,
                         from);
    if (!vocabulary_open(&tokenizer->vocabulary, from, error)) return false;
    tokenizer->vocab_size = tokenizer->vocabulary.token_count;
    tokenizer->end_of_text = tokenizer->vocabulary.end_of_text;
    if (!tokenizer->vocabulary.has_merges) return true;
    tokenizer->classes = checked_malloc(UTF8_CODES, "the classes of characters");
    return char_class_fill(tokenizer->classes, error);
}

bool tokenizer_open(Tokenizer **tokenizer, const char *name, const char *folder, Error *error) {
    if (!name && !folder) return error_set(error, "a tokenizer is opened by its name or by a folder with tokens.json");
    if (!name) return open_by_folder(tokenizer, folder, error);
    Tokenizer *opened = checked_calloc(1, sizeof *opened, "a tokenizer");
    bool ok = true;
    if (strcmp(name, "bytes") == 0)
        open_bytes(opened);
    else if (strcmp(name, "gpt2") == 0)
        ok = open_gpt2(opened, folder, error);
    else
        ok = error_set(error, "unknown tokenizer '%s'; there are: bytes, gpt2", name);
    if (ok)
        *tokenizer = opened;
    else
        tokenizer_close(opened);
    return ok;
}

void tokenizer_close(Tokenizer *tokenizer) {
    if (!tokenizer) return;
    vocabulary_close(&tokenizer->vocabulary);
    free(tokenizer->classes);
    free(tokenizer);
}

const char *tokenizer_name(const Tokenizer *tokenizer) { return tokenizer->name; }

int tokenizer_vocab_size(const Tokenizer *tokenizer) { return tokenizer->vocab_size; }

int tokenizer_end_of_text(const Tokenizer *tokenizer) { return tokenizer->end_of_text; }

const char *tokenizer_decode(const Tokenizer *tokenizer, int token, size_t *bytes) {
    if (token < 0 || token >= tokenizer->vocab_size) return NULL;
    if (tokenizer->is_gpt2) return vocabulary_bytes(&tokenizer->vocabulary, token, bytes);
    *bytes = 1;
    return &tokenizer->bytes[token];
}

/* ---- encoding ---- */

struct Encoder {
    Gpt2Encoder *gpt2; /* NULL: a byte is a token */
};

bool tokenizer_encodes(const Tokenizer *tokenizer) { return !tokenizer->is_gpt2 || tokenizer->classes; }

Encoder *encoder_open(const Tokenizer *tokenizer) {
    if (!tokenizer_encodes(tokenizer)) return NULL;
    Encoder *encoder = checked_calloc(1, sizeof *encoder, "an encoder");
    if (tokenizer->is_gpt2) encoder->gpt2 = gpt2_encoder_open(&tokenizer->vocabulary, tokenizer->classes);
    return encoder;
}

void encoder_close(Encoder *encoder) {
    if (encoder) gpt2_encoder_close(encoder->gpt2);
    free(encoder);
}

size_t encoder_encode(Encoder *encoder, const char *text, size_t bytes, bool is_end, TokenBuffer *out) {
    if (encoder->gpt2) return gpt2_encode(encoder->gpt2, text, bytes, is_end, out);
    token_buffer_reserve(out, bytes);
    for (size_t i = 0; i < bytes; i++) out->tokens[out->count + i] = (unsigned char)text[i];
    out->count += bytes;
    return bytes;
}

int64_t encoder_replaced(const Encoder *encoder) { return encoder->gpt2 ? gpt2_replaced(encoder->gpt2) : 0; }
