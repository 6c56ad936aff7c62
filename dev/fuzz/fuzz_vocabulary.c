/* fuzz_vocabulary.c: the files of a vocabulary. The input's first byte says which: encoder.json and, after a line "%%",
 * vocab.bpe (either may be missing: then it is a right one), gpt2_tokenizer.bin, or tokens.json. A vocabulary that is
 * accepted must be one, and a text must come back from its tokens. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/tokenizer.h"
#include "dev/fuzz/fuzz.h"
#include "dev/fuzz/small_vocabulary.h"

enum { PUBLISHED, BIN, TOKENS_JSON, KINDS };

enum { MERGES = 12, BIN_HEADER_BYTES = 1024 };

static void check_tokens(const Vocabulary *v) {
    FUZZ_CHECK(v->token_count > 0 && v->token_count <= UINT16_MAX, "%d tokens", v->token_count);
    FUZZ_CHECK(v->end_of_text >= -1 && v->end_of_text < v->token_count, "the end of a text is %d", v->end_of_text);
    FUZZ_CHECK(v->starts[0] == 0, "the first token begins at %u", v->starts[0]);
    for (int i = 0; i < v->token_count; i++) FUZZ_CHECK(v->starts[i] < v->starts[i + 1], "token %d is empty", i);
}

/* Every slot with a merge makes a token of the two that it says. */
static void check_merges(const Vocabulary *v) {
    int merges = 0;
    for (size_t slot = 0; slot < VOCABULARY_PAIR_SLOTS; slot++) {
        const MergeSlot *merge = &v->merges[slot];
        if (merge->token == VOCABULARY_NO_TOKEN) continue;
        merges++;
        FUZZ_CHECK(merge->left < merge->token && merge->right < merge->token && merge->token < v->token_count,
                   "%d and %d make %d", merge->left, merge->right, merge->token);
        FUZZ_CHECK(vocabulary_merge(v, merge->left, merge->right) == merge->token, "two merges of %d and %d",
                   merge->left, merge->right);
        size_t left_bytes, right_bytes, bytes;
        const char *left = vocabulary_bytes(v, merge->left, &left_bytes),
                   *right = vocabulary_bytes(v, merge->right, &right_bytes),
                   *merged = vocabulary_bytes(v, merge->token, &bytes);
        FUZZ_CHECK(bytes == left_bytes + right_bytes && memcmp(merged, left, left_bytes) == 0 &&
                       memcmp(merged + left_bytes, right, right_bytes) == 0,
                   "%d has other bytes than %d and %d", merge->token, merge->left, merge->right);
    }
    FUZZ_CHECK(merges == MERGES, "%d merges", merges);
}

static void check_text(const Vocabulary *v) {
    static const char text[] = "test at 11 \xc3\xa9's\xff\0\n";
    uint16_t tokens[sizeof text];
    Bpe bpe = {0};
    size_t count = bpe_encode(&bpe, v, text, sizeof text, tokens), length, at = 0;
    for (size_t i = 0; i < count; i++, at += length) {
        FUZZ_CHECK(tokens[i] < v->token_count, "token %d", tokens[i]);
        const char *bytes = vocabulary_bytes(v, tokens[i], &length);
        FUZZ_CHECK(length <= sizeof text - at && memcmp(bytes, text + at, length) == 0, "other text at byte %zu", at);
    }
    FUZZ_CHECK(at == sizeof text, "%zu bytes come back", at);
    bpe_free(&bpe);
}

static void check_vocabulary(void) {
    Vocabulary vocabulary;
    Error error = {""};
    if (!vocabulary_open_sized(&vocabulary, fuzz_folder(), MERGES, &error)) {
        FUZZ_CHECK(strstr(error.text, fuzz_folder()), "the message does not name the file: %s", error.text);
        return;
    }
    check_tokens(&vocabulary);
    if (vocabulary.has_merges) {
        check_merges(&vocabulary);
        check_text(&vocabulary);
    }
    vocabulary_close(&vocabulary);
}

static void write_published(FuzzInput bpe) {
    static const char separator[] = "\n%%\n";
    static char *right_encoder, *right_bpe;
    if (!right_encoder) small_vocabulary_make(MERGES, &right_encoder, &right_bpe);
    const uint8_t *found = bpe.bytes > 0 ? memmem(bpe.data, bpe.bytes, separator, strlen(separator)) : NULL;
    FuzzInput encoder = fuzz_piece(&bpe, found ? (size_t)(found - bpe.data) : bpe.bytes);
    fuzz_piece(&bpe, strlen(separator));
    if (encoder.bytes > 0)
        fuzz_file("encoder.json", encoder.data, encoder.bytes);
    else
        fuzz_file("encoder.json", right_encoder, strlen(right_encoder));
    if (found)
        fuzz_file("vocab.bpe", bpe.data, bpe.bytes);
    else
        fuzz_file("vocab.bpe", right_bpe, strlen(right_bpe));
}

/* The input has the four numbers of the header, and then the tokens. */
static void write_bin(FuzzInput input) {
    FuzzInput header = fuzz_piece(&input, 16);
    size_t bytes = header.bytes + (header.bytes == 16 ? BIN_HEADER_BYTES - 16 + input.bytes : 0);
    uint8_t *file = checked_calloc(bytes, 1, "a file");
    if (header.bytes > 0) memcpy(file, header.data, header.bytes);
    if (input.bytes > 0) memcpy(file + BIN_HEADER_BYTES, input.data, input.bytes);
    fuzz_file("gpt2_tokenizer.bin", file, bytes);
    free(file);
}

/* tokens.json names a tokenizer; for gpt2 there is a vocabulary of three tokens, all of one byte. */
static void check_tokens_json(FuzzInput input) {
    uint32_t numbers[] = {20240328, 2, 3, 2};
    uint8_t bin[sizeof numbers + 6] = {0};
    memcpy(bin, numbers, sizeof numbers);
    for (size_t i = sizeof numbers; i < sizeof bin; i++) bin[i] = 1;
    write_bin((FuzzInput){bin, sizeof bin});

    Tokenizer *tokenizer;
    Error error = {""};
    fuzz_file("tokens.json", input.data, input.bytes);
    if (!tokenizer_open(&tokenizer, NULL, fuzz_folder(), &error)) {
        FUZZ_CHECK(error.text[0], "no reason");
        return;
    }
    int tokens = strcmp(tokenizer_name(tokenizer), "gpt2") == 0 ? 3 : 256;
    FUZZ_CHECK(tokenizer_vocab_size(tokenizer) == tokens, "%d tokens", tokenizer_vocab_size(tokenizer));
    FUZZ_CHECK(tokenizer_end_of_text(tokenizer) == (tokens == 3 ? 2 : -1), "another end of a text");
    for (int i = -1; i <= tokens; i++) {
        size_t bytes = 0;
        const char *text = tokenizer_decode(tokenizer, i, &bytes);
        FUZZ_CHECK(i < 0 || i == tokens ? !text : bytes == 1 && (uint8_t)text[0] == (tokens == 3 ? 1 : i), "token %d",
                   i);
    }
    tokenizer_close(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzInput input = {data, bytes};
    int kind = (int)(fuzz_number(&input, 1) % KINDS);
    unlink(fuzz_path("encoder.json"));
    unlink(fuzz_path("vocab.bpe"));
    unlink(fuzz_path("gpt2_tokenizer.bin"));
    if (kind == PUBLISHED) write_published(input);
    if (kind == BIN) write_bin(input);
    if (kind == TOKENS_JSON)
        check_tokens_json(input);
    else
        check_vocabulary();
    return 0;
}
