/* fuzz_encode.c: text to GPT-2's tokens, whatever its bytes. After four bytes that say where the text is cut, the input
 * is the text. Its tokens must be those of the definitions, written here once more without a thought of speed: UTF-8 by
 * the numbers, words by trying the pattern's alternatives, merges pass by pass. They must be the same in whatever
 * pieces the text comes, and where the pipeline cuts it, and decode to the text with U+FFFD in the place of what is no
 * UTF-8, which must be counted. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/prepare/pipeline.h"
#include "data/tokenizer/gpt2_encoder.h"
#include "data/tokenizer/words.h"
#include "dev/fuzz/fuzz.h"
#include "dev/fuzz/small_vocabulary.h"

enum { MERGES = 400, MAX_TEXT = 2048, REPLACEMENT = 0xfffd };

static Vocabulary vocabulary;
static uint8_t classes[UTF8_CODES];
static Gpt2Encoder *encoder; /* one for all inputs: its table of words must not matter, and takes long to make */

/* ---- the definitions ---- */

typedef struct Characters {
    int32_t codes[MAX_TEXT];
    size_t count;
    int64_t errors; /* of the codes: U+FFFD that stand for what is no UTF-8 */
} Characters;

/* The bits of a character of `length` bytes, of which `known` are there and the others are `fill`; -1 where one of
 * those is no byte of such a character. */
static int32_t code_of(const uint8_t *text, size_t length, size_t known, uint8_t fill) {
    static const uint8_t marks[] = {0, 0x00, 0xc0, 0xe0, 0xf0}, masks[] = {0, 0x80, 0xe0, 0xf0, 0xf8};
    if ((text[0] & masks[length]) != marks[length]) return -1;
    int32_t code = text[0] & (uint8_t)~masks[length];
    for (size_t i = 1; i < length; i++) {
        uint8_t byte = i < known ? text[i] : fill;
        if ((byte & 0xc0) != 0x80) return -1;
        code = code << 6 | (byte & 0x3f);
    }
    return code;
}

/* Whether `known` bytes begin a character of `length` bytes, or are one: numbers that need so many bytes, and are no
 * surrogates, lie between the smallest and the largest that they may become. */
static bool may_be_character(const uint8_t *text, size_t length, size_t known) {
    static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000}, limit[] = {0, 0x7f, 0x7ff, 0xffff, 0x10ffff};
    int32_t low = code_of(text, length, known, 0x80), high = code_of(text, length, known, 0xbf);
    if (low < 0) return false;
    low = low > least[length] ? low : least[length];
    high = high < limit[length] ? high : limit[length];
    return low <= high && !(low >= 0xd800 && high <= 0xdfff);
}

/* Reads a character, or the longest beginning of one that goes on otherwise, or one byte. */
static int32_t read_character(const uint8_t *text, size_t bytes, size_t *length) {
    for (*length = 1; *length <= 4 && *length <= bytes; ++*length)
        if (may_be_character(text, *length, *length)) return code_of(text, *length, *length, 0);
    for (*length = bytes < 3 ? bytes : 3; *length > 1; --*length)
        for (size_t whole = *length + 1; whole <= 4; whole++)
            if (may_be_character(text, whole, *length)) return REPLACEMENT;
    return REPLACEMENT;
}

static void read_characters(const uint8_t *text, size_t bytes, Characters *out) {
    out->count = 0, out->errors = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        int32_t code = read_character(text + at, bytes - at, &length);
        out->codes[out->count++] = code;
        out->errors += code == REPLACEMENT && (length != 3 || memcmp(text + at, UTF8_REPLACEMENT, 3) != 0);
    }
}

static size_t write_character(int32_t code, char *out) {
    if (code < 0x80) return out[0] = (char)code, 1;
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((0xf00 >> length & 0xf0) | code);
    return length;
}

/* How many characters from `at` on are of this class. */
static size_t run_length(const Characters *text, size_t at, CharClass class) {
    size_t count = 0;
    while (at + count < text->count && classes[text->codes[at + count]] == class) count++;
    return count;
}

/* The alternatives of the pattern (words.h), in their order; returns the characters of the word at `at`. */
static size_t match(const Characters *text, size_t at) {
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < ARRAY_LENGTH(contractions); i++) {
        size_t length = strlen(contractions[i]), same = 0;
        while (same < length && at + same < text->count && text->codes[at + same] == contractions[i][same]) same++;
        if (same == length) return length;
    }
    size_t space = text->codes[at] == ' ';
    static const CharClass order[] = {CLASS_LETTER, CLASS_NUMBER, CLASS_OTHER};
    for (size_t i = 0; i < ARRAY_LENGTH(order); i++) {
        size_t length = run_length(text, at + space, order[i]);
        if (length > 0) return space + length;
    }
    size_t spaces = run_length(text, at, CLASS_SPACE);
    bool is_last = at + spaces == text->count;
    return is_last || spaces == 1 ? spaces : spaces - 1;
}

/* As GPT-2's own code merges: of all pairs the one of lowest rank, everywhere from left to right, and so on. */
static size_t merge_word(uint16_t *tokens, size_t count) {
    for (;;) {
        uint16_t lowest = VOCABULARY_NO_TOKEN;
        for (size_t i = 0; i + 1 < count; i++) {
            uint16_t merged = vocabulary_merge(&vocabulary, tokens[i], tokens[i + 1]);
            lowest = merged < lowest ? merged : lowest;
        }
        if (lowest == VOCABULARY_NO_TOKEN) return count;
        size_t kept = 0;
        for (size_t i = 0; i < count; kept++) {
            bool is_pair = i + 1 < count && vocabulary_merge(&vocabulary, tokens[i], tokens[i + 1]) == lowest;
            tokens[kept] = is_pair ? lowest : tokens[i];
            i += is_pair ? 2 : 1;
        }
        count = kept;
    }
}

static void encode_by_definition(const Characters *text, TokenBuffer *out) {
    for (size_t at = 0, length; at < text->count; at += length) {
        length = match(text, at);
        token_buffer_reserve(out, 4 * length);
        uint16_t *word = out->tokens + out->count;
        size_t bytes = 0;
        for (size_t i = 0; i < length; i++) {
            char character[4];
            size_t width = write_character(text->codes[at + i], character);
            for (size_t j = 0; j < width; j++) word[bytes++] = vocabulary.byte_tokens[(unsigned char)character[j]];
        }
        out->count += merge_word(word, bytes);
    }
}

/* ---- the comparison ---- */

/* Encodes the text as someone does who reads it in pieces. Each is passed in memory of its own, which ends with it. */
static void encode_in_pieces(const uint8_t *text, size_t bytes, uint32_t state, TokenBuffer *out) {
    uint32_t longest = 1 + state % 64;
    for (size_t begin = 0, end = 0; begin < bytes;) {
        state = state * 1664525u + 1013904223u;
        end += 1 + (state >> 8) % longest;
        end = end < bytes ? end : bytes;
        char *piece = memcpy(checked_malloc(end - begin, "a piece"), text + begin, end - begin);
        size_t covered = gpt2_encode(encoder, piece, end - begin, end == bytes, out);
        FUZZ_CHECK(covered <= end - begin, "%zu of %zu bytes are covered", covered, end - begin);
        FUZZ_CHECK(end < bytes || covered == end - begin, "%zu bytes are left", end - begin - covered);
        begin += covered;
        free(piece);
    }
}

/* Fails unless the encoder has replaced so many errors since it had replaced *before, which is moved on. */
static void check_replaced(int64_t *before, int64_t errors, const char *what) {
    int64_t now = gpt2_replaced(encoder);
    FUZZ_CHECK(now - *before == errors, "%s: %" PRId64 " errors are replaced, of %" PRId64, what, (now - *before),
               errors);
    *before = now;
}

static void check_equal(const TokenBuffer *found, const TokenBuffer *expected, const char *what) {
    FUZZ_CHECK(found->count == expected->count, "%s: %zu tokens for %zu", what, found->count, expected->count);
    for (size_t i = 0; i < found->count; i++)
        FUZZ_CHECK(found->tokens[i] == expected->tokens[i], "%s: token %zu is %d for %d", what, i, found->tokens[i],
                   expected->tokens[i]);
}

/* Where the pipeline cuts a long document, for threads to share. */
static void check_cut(const char *text, size_t bytes, const TokenBuffer *expected) {
    TokenBuffer parts = {0};
    size_t cut = pipeline_cut(text, bytes);
    FUZZ_CHECK(cut <= bytes, "a cut at %zu of %zu bytes", cut, bytes);
    gpt2_encode(encoder, text, cut, true, &parts);
    gpt2_encode(encoder, text + cut, bytes - cut, true, &parts);
    check_equal(&parts, expected, "cut in two");
    token_buffer_free(&parts);
}

static void check_decoded(const TokenBuffer *tokens, const Characters *text) {
    static char expected[3 * MAX_TEXT]; /* no byte becomes more than the three of U+FFFD */
    size_t bytes = 0, at = 0, length;
    for (size_t i = 0; i < text->count; i++) bytes += write_character(text->codes[i], expected + bytes);
    for (size_t i = 0; i < tokens->count; i++, at += length) {
        const char *token = vocabulary_bytes(&vocabulary, tokens->tokens[i], &length);
        FUZZ_CHECK(length <= bytes - at && memcmp(token, expected + at, length) == 0, "other text at byte %zu", at);
    }
    FUZZ_CHECK(at == bytes, "%zu bytes come back for %zu", at, bytes);
}

static void close_vocabulary(void) {
    gpt2_encoder_close(encoder);
    vocabulary_close(&vocabulary);
}

static bool open_vocabulary(void) {
    char *tokens, *bpe;
    Error error = {""};
    small_vocabulary_make(MERGES, &tokens, &bpe);
    fuzz_file("encoder.json", tokens, strlen(tokens));
    fuzz_file("vocab.bpe", bpe, strlen(bpe));
    free(tokens);
    free(bpe);
    bool is_open = vocabulary_open_sized(&vocabulary, fuzz_folder(), MERGES, &error);
    FUZZ_CHECK(is_open, "%s", error.text);
    if (!char_class_fill(classes, &error)) return false;
    encoder = gpt2_encoder_open(&vocabulary, classes);
    atexit(close_vocabulary);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static Characters characters;
    static bool is_tried, is_open;
    if (!is_tried) is_open = open_vocabulary();
    is_tried = true;
    if (!is_open) return 0; /* a build without Unicode's classes */

    FuzzInput input = {data, bytes};
    uint32_t state = (uint32_t)fuzz_number(&input, 4);
    FuzzInput text = fuzz_piece(&input, MAX_TEXT);
    if (text.bytes == 0) return 0;
    TokenBuffer expected = {0}, whole = {0}, in_pieces = {0};
    read_characters(text.data, text.bytes, &characters);
    encode_by_definition(&characters, &expected);
    check_decoded(&expected, &characters);

    int64_t replaced = gpt2_replaced(encoder);
    encode_in_pieces(text.data, text.bytes, state, &in_pieces);
    check_equal(&in_pieces, &expected, "in pieces");
    check_replaced(&replaced, characters.errors, "in pieces");
    char *copy = memcpy(checked_malloc(text.bytes, "the text"), text.data, text.bytes);
    FUZZ_CHECK(gpt2_encode(encoder, copy, text.bytes, true, &whole) == text.bytes, "not all is encoded");
    check_equal(&whole, &expected, "in one piece");
    check_replaced(&replaced, characters.errors, "in one piece");
    check_cut(copy, text.bytes, &expected);
    check_replaced(&replaced, characters.errors, "cut in two");
    free(copy);
    token_buffer_free(&expected);
    token_buffer_free(&whole);
    token_buffer_free(&in_pieces);
    return 0;
}
