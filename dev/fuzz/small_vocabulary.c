/* small_vocabulary.c: see small_vocabulary.h. Merges are drawn from few bytes, so that short texts meet many of
 * them. */
#include "dev/fuzz/small_vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_BYTES = 16, LETTER_BYTES = 3 };

typedef struct Token {
    char bytes[TOKEN_BYTES];
    int length, left, right; /* what it is merged from */
} Token;

/* A byte in GPT-2's letters (data/tokenizer/vocabulary.h), as a JSON string has them where `is_json`. */
static int write_letter(char *out, unsigned char byte, bool is_json) {
    unsigned letter = byte;
    bool is_printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    if (!is_printable) letter = byte <= 0x20 ? 0x100u + byte : byte == 0xad ? 0x143 : 0x121u + byte - 0x7f;
    int count = 0;
    if (is_json && (byte == '"' || byte == '\\')) out[count++] = '\\';
    if (letter >= 0x80) out[count++] = (char)(0xc0 | letter >> 6);
    out[count++] = (char)(letter < 0x80 ? letter : 0x80 | (letter & 0x3f));
    return count;
}

/* The token's letters with a 0 after them. */
static void write_letters(char out[TOKEN_BYTES * LETTER_BYTES + 1], const Token *token, bool is_json) {
    int count = 0;
    for (int i = 0; i < token->length; i++) count += write_letter(out + count, (unsigned char)token->bytes[i], is_json);
    out[count] = 0;
}

/* Makes a token of two, unless it is too long or there is one like it. */
static bool merge(Token *tokens, int count, int left, int right) {
    Token token = {.length = tokens[left].length + tokens[right].length, .left = left, .right = right};
    if (token.length > TOKEN_BYTES) return false;
    memcpy(token.bytes, tokens[left].bytes, (size_t)tokens[left].length);
    memcpy(token.bytes + tokens[left].length, tokens[right].bytes, (size_t)tokens[right].length);
    for (int i = 0; i < count; i++)
        if (tokens[i].length == token.length && memcmp(tokens[i].bytes, token.bytes, (size_t)token.length) == 0)
            return false;
    tokens[count] = token;
    return true;
}

/* An earlier token, or one of a few bytes: among them those of U+FFFD and U+E9. */
static int draw(uint32_t *state, int count) {
    static const char bytes[] = " esta 'r1l\n\xef\xbf\xbd\xc3\xa9.";
    *state = *state * 1664525u + 1013904223u;
    uint32_t number = *state >> 8;
    bool is_merged = count > 256 && number % 3 == 0;
    number /= 3;
    return is_merged ? 256 + (int)(number % (uint32_t)(count - 256)) : (unsigned char)bytes[number % strlen(bytes)];
}

void small_vocabulary_make(int merges, char **encoder, char **bpe) {
    int count = 256, limit = count + merges;
    Token *tokens = checked_calloc((size_t)limit, sizeof *tokens, "tokens");
    for (int i = 0; i < 256; i++) tokens[i] = (Token){{(char)i}, 1, 0, 0};
    for (uint32_t state = 1; count < limit;) {
        int left = draw(&state, count), right = draw(&state, count);
        count += merge(tokens, count, left, right);
    }

    size_t ignored;
    FILE *json = open_memstream(encoder, &ignored), *lines = open_memstream(bpe, &ignored);
    if (!json || !lines) die("out of memory: a vocabulary");
    char letters[TOKEN_BYTES * LETTER_BYTES + 1];
    fputs("#version: 0.2\n", lines);
    for (int i = 0; i < count; i++) {
        write_letters(letters, &tokens[i], true);
        fprintf(json, "%s\"%s\": %d", i ? ", " : "{", letters, i);
        if (i < 256) continue;
        write_letters(letters, &tokens[tokens[i].left], false);
        fprintf(lines, "%s ", letters);
        write_letters(letters, &tokens[tokens[i].right], false);
        fprintf(lines, "%s\n", letters);
    }
    fprintf(json, ", \"<|endoftext|>\": %d}", count);
    if (fclose(json) != 0 || fclose(lines) != 0) die("out of memory: a vocabulary");
    free(tokens);
}
