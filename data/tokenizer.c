/* tokenizer.c: the tokenizers (see tokenizer.h), and finding out which one a folder's tokens were made with. */
#include "data/tokenizer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTE_TOKENS = 256 };

struct Tokenizer {
    const char *name;
    int vocab_size, end_of_text;
    char bytes[BYTE_TOKENS]; /* byte i at index i, so that decoding has an address to return */
};

void token_buffer_reserve(TokenBuffer *buffer, size_t more) {
    if (more <= buffer->capacity - buffer->count) return;
    size_t capacity = buffer->count + more + buffer->capacity / 2; /* in proportion, so that appending is linear */
    uint16_t *tokens = checked_malloc(capacity * sizeof *tokens, "tokens");
    if (buffer->count > 0) memcpy(tokens, buffer->tokens, buffer->count * sizeof *tokens);
    free(buffer->tokens);
    buffer->tokens = tokens;
    buffer->capacity = capacity;
}

void token_buffer_free(TokenBuffer *buffer) {
    free(buffer->tokens);
    *buffer = (TokenBuffer){0};
}

/* The whole file as a string, which the caller frees; NULL where it cannot be read. */
static char *read_text(const char *path, Error *error) {
    FILE *file = fopen(path, "rb");
    long length = -1;
    if (file && fseek(file, 0, SEEK_END) == 0) length = ftell(file);
    char *text = length >= 0 ? checked_malloc((size_t)length + 1, path) : NULL;
    bool ok = text && fseek(file, 0, SEEK_SET) == 0 && fread(text, 1, (size_t)length, file) == (size_t)length;
    if (!ok) error_set(error, "cannot read %s: %s", path, strerror(errno));
    if (file) fclose(file);
    if (ok) {
        text[length] = 0;
        return text;
    }
    free(text);
    return NULL;
}

/* The value of "tokenizer" in the file, which the caller frees; NULL where there is none. */
static char *name_in_file(const char *path, Error *error) {
    char *text = read_text(path, error);
    if (!text) return NULL;
    cJSON *json = cJSON_Parse(text);
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "tokenizer"));
    char *name = value ? checked_strdup(value) : NULL;
    if (!name) error_set(error, "%s should be a JSON object with a key \"tokenizer\", such as \"bytes\"", path);
    cJSON_Delete(json);
    free(text);
    return name;
}

static bool open_by_folder(Tokenizer **tokenizer, const char *folder, Error *error) {
    char *path = format_string("%s/tokens.json", folder);
    char *name = name_in_file(path, error);
    bool ok = name && tokenizer_open(tokenizer, name, folder, error);
    free(name);
    free(path);
    return ok;
}

bool tokenizer_open(Tokenizer **tokenizer, const char *name, const char *folder, Error *error) {
    if (!name && !folder) return error_set(error, "a tokenizer is opened by its name or by a folder with tokens.json");
    if (!name) return open_by_folder(tokenizer, folder, error);
    if (strcmp(name, "bytes") != 0) return error_set(error, "unknown tokenizer '%s'; there is: bytes", name);
    Tokenizer *opened = checked_calloc(1, sizeof *opened, "a tokenizer");
    opened->name = "bytes";
    opened->vocab_size = BYTE_TOKENS;
    opened->end_of_text = -1;
    for (int i = 0; i < BYTE_TOKENS; i++) opened->bytes[i] = (char)i;
    *tokenizer = opened;
    return true;
}

void tokenizer_close(Tokenizer *tokenizer) { free(tokenizer); }

const char *tokenizer_name(const Tokenizer *tokenizer) { return tokenizer->name; }

int tokenizer_vocab_size(const Tokenizer *tokenizer) { return tokenizer->vocab_size; }

int tokenizer_end_of_text(const Tokenizer *tokenizer) { return tokenizer->end_of_text; }

struct Encoder {
    const Tokenizer *tokenizer;
};

Encoder *encoder_open(const Tokenizer *tokenizer) {
    Encoder *encoder = checked_calloc(1, sizeof *encoder, "an encoder");
    encoder->tokenizer = tokenizer;
    return encoder;
}

void encoder_close(Encoder *encoder) { free(encoder); }

/* A byte's token depends on nothing else, so none is ever left. */
size_t encoder_encode(Encoder *encoder, const char *text, size_t bytes, bool is_end, TokenBuffer *out) {
    (void)encoder, (void)is_end;
    token_buffer_reserve(out, bytes);
    for (size_t i = 0; i < bytes; i++) out->tokens[out->count + i] = (unsigned char)text[i];
    out->count += bytes;
    return bytes;
}

const char *tokenizer_decode(const Tokenizer *tokenizer, int token, size_t *bytes) {
    if (token < 0 || token >= tokenizer->vocab_size) return NULL;
    *bytes = 1;
    return &tokenizer->bytes[token];
}
