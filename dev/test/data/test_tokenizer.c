/* test_tokenizer.c: GPT-2's byte-pair tokenizer, against its published tokens (dev/golden/bpe.json), tokens that
 * tiktoken gave, and merging by brute force; text in every kind of pieces, and text that is no UTF-8. */
#include "dev/test/test.h"

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/words.h"
#include "dev/test/data/gpt2_fixture.h"
#include "util/files.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SLOW = true };
#else
enum { IS_SLOW = false };
#endif

static Tokenizer *gpt2; /* with the published vocabulary */
static Encoder *encoder;

static int open_gpt2(void **state) {
    (void)state;
    Error error;
    if (!gpt2_has_tokenizer()) return 0;
    if (!tokenizer_open(&gpt2, "gpt2", gpt2_folder(), &error)) fail_msg("%s", error.text);
    encoder = encoder_open(gpt2);
    assert_non_null(encoder);
    return 0;
}

static int close_gpt2(void **state) {
    (void)state;
    encoder_close(encoder);
    tokenizer_close(gpt2);
    return 0;
}

/* ---- what the tests share ---- */

/* The same numbers on every machine. */
static uint32_t random_below(uint64_t *seed, uint32_t limit) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*seed >> 33) * limit >> 31);
}

static size_t append_utf8(char *text, uint32_t code) {
    if (code < 0x80) {
        text[0] = (char)code;
        return 1;
    }
    int following = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char leads[] = {0, 0xc0, 0xe0, 0xf0};
    text[0] = (char)(leads[following] | code >> 6 * following);
    for (int i = 1; i <= following; i++) text[i] = (char)(0x80 | (code >> 6 * (following - i) & 0x3f));
    return (size_t)following + 1;
}

/* A character of any kind that all versions of Unicode since 2015 agree on: first and last of ranges. */
static uint32_t random_code(uint64_t *seed) {
    static const uint32_t ranges[][2] = {
        {0x00, 0x7f},       {0x20, 0x7e},        {0x61, 0x7a},       {0x41, 0x5a},       {0x20, 0x21},
        {0x27, 0x27},       {0x09, 0x0d},        {0x30, 0x39},       {0x80, 0x9f},       {0xa0, 0x17f},
        {0x300, 0x33f},     {0x3a3, 0x3e1},      {0x400, 0x481},     {0x620, 0x669},     {0x904, 0x96f},
        {0x1680, 0x1680},   {0x180e, 0x180e},    {0x2000, 0x2064},   {0x2150, 0x2189},   {0x2460, 0x249b},
        {0x3000, 0x3029},   {0x3041, 0x3096},    {0x4e00, 0x9fa5},   {0xac00, 0xd7a3},   {0xe000, 0xe0ff},
        {0xfff9, 0xfffd},   {0x10400, 0x1049d},  {0x1d400, 0x1d454}, {0x1f600, 0x1f64f}, {0x20000, 0x2a6d6},
        {0xf0000, 0xf00ff}, {0x10fff0, 0x10fffd}};
    const uint32_t *range = ranges[random_below(seed, ARRAY_LENGTH(ranges))];
    return range[0] + random_below(seed, range[1] - range[0] + 1);
}

/* Fills the text with characters, often several of a kind and some contractions, to `bytes` or a little less. */
static size_t random_text(char *text, size_t bytes, uint64_t *seed) {
    size_t count = 0;
    while (count + 40 < bytes) {
        uint32_t code = random_code(seed), kind = random_below(seed, 8), repeats = 1 + random_below(seed, 6);
        if (kind == 0) {
            static const char *const pieces[] = {"'s", "'t", "'re",  "'ve", "'m", "'ll",
                                                 "'d", "'S", " the", " of", "ing"};
            const char *piece = pieces[random_below(seed, ARRAY_LENGTH(pieces))];
            memcpy(text + count, piece, strlen(piece));
            count += strlen(piece);
        }
        for (uint32_t i = 0; i < repeats; i++) count += append_utf8(text + count, kind < 4 ? code : code + (i & 1));
    }
    return count;
}

static TokenBuffer encode(const char *text, size_t bytes) {
    TokenBuffer out = {0};
    assert_int_equal(encoder_encode(encoder, text, bytes, true, &out), bytes);
    return out;
}

static void assert_same_tokens(const TokenBuffer *found, const TokenBuffer *expected, const char *what) {
    for (size_t i = 0; i < found->count && i < expected->count; i++)
        if (found->tokens[i] != expected->tokens[i])
            fail_msg("%s: token %zu is %d, expected %d", what, i, found->tokens[i], expected->tokens[i]);
    if (found->count != expected->count) fail_msg("%s: %zu tokens, expected %zu", what, found->count, expected->count);
}

/* Passes the text in pieces as whoever reads a file does, and checks how much is left each time. */
static TokenBuffer encode_in_pieces(const char *text, size_t bytes, size_t piece) {
    TokenBuffer out = {0};
    for (size_t begin = 0, end = 0; end < bytes || begin < bytes;) {
        end = end + piece < bytes ? end + piece : bytes;
        begin += encoder_encode(encoder, text + begin, end - begin, end == bytes, &out);
        assert_true(begin <= end && end - begin <= TOKENIZER_MAX_LEFT);
        if (end == bytes) assert_int_equal(begin, bytes);
    }
    return out;
}

static void assert_decodes(const TokenBuffer *tokens, const char *text, size_t bytes) {
    size_t at = 0;
    for (size_t i = 0; i < tokens->count; i++) {
        size_t length = 0;
        const char *token = tokenizer_decode(gpt2, tokens->tokens[i], &length);
        if (!token || length > bytes - at || memcmp(token, text + at, length) != 0)
            fail_msg("token %zu, %d, does not decode to the text's bytes from %zu on", i, tokens->tokens[i], at);
        at += length;
    }
    assert_int_equal(at, bytes);
}

/* ---- truth ---- */

/* The test's vocabulary has the published sums, so what follows is about the published one. */
static void test_vocabulary_is_the_published_one(void **state) {
    (void)state;
    const char *folder = gpt2_folder();
    assert_run(test_run("cd '%s' && wc -c encoder.json vocab.bpe && sha256sum encoder.json", folder), 0,
               "1042301 encoder.json\n");
    assert_run(test_run("sha256sum < '%s'/encoder.json", folder), 0,
               "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783");
    assert_run(test_run("sha256sum < '%s'/vocab.bpe", folder), 0,
               "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5");
}

static void test_names_and_numbers(void **state) {
    (void)state;
    if (!gpt2) skip();
    size_t bytes;
    assert_string_equal(tokenizer_name(gpt2), "gpt2");
    assert_int_equal(tokenizer_vocab_size(gpt2), 50257);
    assert_int_equal(tokenizer_end_of_text(gpt2), 50256);
    assert_memory_equal(tokenizer_decode(gpt2, 50256, &bytes), "<|endoftext|>", 13);
    assert_int_equal(bytes, 13);
    assert_memory_equal(tokenizer_decode(gpt2, 995, &bytes), " world", 6);
    assert_int_equal(bytes, 6);
    assert_null(tokenizer_decode(gpt2, 50257, &bytes));
    assert_null(tokenizer_decode(gpt2, -1, &bytes));
}

static void test_golden_tokens(void **state) {
    (void)state;
    if (!gpt2) skip();
    char *text = test_read_file("dev/golden/bpe.json", NULL);
    cJSON *json = cJSON_Parse(text);
    const cJSON *golden_case, *id, *cases = cJSON_GetObjectItem(json, "cases");
    assert_true(cJSON_GetArraySize(cases) >= 30);
    cJSON_ArrayForEach(golden_case, cases) {
        const char *hex = cJSON_GetStringValue(cJSON_GetObjectItem(golden_case, "utf8_hex"));
        size_t bytes = strlen(hex) / 2;
        char *raw = checked_malloc(bytes + 1, "a text");
        for (size_t i = 0; i < bytes; i++) {
            unsigned value;
            assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
            raw[i] = (char)value;
        }
        TokenBuffer expected = {0}, found = encode(raw, bytes);
        cJSON_ArrayForEach(id, cJSON_GetObjectItem(golden_case, "ids")) {
            token_buffer_reserve(&expected, 1);
            expected.tokens[expected.count++] = (uint16_t)id->valueint;
        }
        assert_same_tokens(&found, &expected, hex);
        assert_decodes(&found, raw, bytes);
        token_buffer_free(&expected);
        token_buffer_free(&found);
        free(raw);
    }
    cJSON_Delete(json);
    free(text);
}

/* tiktoken 0.14.0 was given these texts once: two millions of generated bytes, and the same with one in 50 damaged, in
 * Python's reading with errors="replace". The checksums are XXH3's of its tokens. */
static void test_tokens_of_tiktoken(void **state) {
    (void)state;
    if (!gpt2) skip();
    enum { BYTES = 2000000 };
    char *text = checked_malloc(BYTES, "a text");
    uint64_t seed = 2025;
    size_t bytes = random_text(text, BYTES, &seed);
    TokenBuffer tokens = encode(text, bytes);
    assert_int_equal(tokens.count, 1659864);
    assert_int_equal(files_checksum_memory(tokens.tokens, tokens.count * sizeof(uint16_t)), 0xdb7d2a2d208ec193);
    token_buffer_free(&tokens);
    static const char damage[] = "\xff\xe2\xf0\xc3 a"; /* none makes a character that is younger */
    for (size_t i = 0; i + 50 < bytes; i += 50) text[i + random_below(&seed, 50)] = damage[random_below(&seed, 6)];
    tokens = encode(text, bytes);
    assert_int_equal(tokens.count, 1626654);
    assert_int_equal(files_checksum_memory(tokens.tokens, tokens.count * sizeof(uint16_t)), 0x7aae8f16717804c5);
    token_buffer_free(&tokens);
    free(text);
}

static void test_round_trips(void **state) {
    (void)state;
    if (!gpt2) skip();
    uint64_t seed = 1;
    TokenBuffer tokens = {0};
    for (int i = 0; i < (IS_SLOW ? 50000 : 1000000); i++) {
        char text[64];
        size_t bytes = 0;
        for (uint32_t count = random_below(&seed, 13); count > 0; count--)
            bytes += append_utf8(text + bytes, random_code(&seed));
        tokens.count = 0;
        assert_int_equal(encoder_encode(encoder, text, bytes, true, &tokens), bytes);
        assert_decodes(&tokens, text, bytes);
    }
    token_buffer_free(&tokens);
}

/* ---- merging ---- */

/* Tokens in the order of their bytes. */
static int by_bytes(const void *x, const void *y) {
    size_t a_bytes, b_bytes;
    const char *a = tokenizer_decode(gpt2, *(const int *)x, &a_bytes),
               *b = tokenizer_decode(gpt2, *(const int *)y, &b_bytes);
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int sorted_tokens[50257];

static int token_of(const char *text, size_t bytes) {
    int low = 0, high = 50256; /* without <|endoftext|>, which nothing is merged to */
    while (low < high) {
        int middle = (low + high) / 2;
        size_t length;
        const char *token = tokenizer_decode(gpt2, sorted_tokens[middle], &length);
        int order = memcmp(token, text, length < bytes ? length : bytes);
        if (order == 0) order = (length > bytes) - (length < bytes);
        if (order == 0) return sorted_tokens[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

/* Merges, one pair at a time, the neighbours that give the lowest token of all. Pieces lie between starts[0..count]. */
static size_t merge_by_force(const char *word, size_t bytes, uint16_t *tokens) {
    size_t starts[301], count = bytes;
    for (size_t i = 0; i <= bytes; i++) starts[i] = i;
    for (;;) {
        int lowest = -1;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            int token = token_of(word + starts[i], starts[i + 2] - starts[i]);
            if (token < 0 || (lowest >= 0 && token >= lowest)) continue;
            lowest = token;
            at = i;
        }
        if (lowest < 0) break;
        memmove(&starts[at + 1], &starts[at + 2], (count - at - 1) * sizeof *starts);
        count--;
    }
    for (size_t i = 0; i < count; i++) tokens[i] = (uint16_t)token_of(word + starts[i], starts[i + 1] - starts[i]);
    return count;
}

/* Words of letters of alphabets small and large, around the length where another way of merging begins. */
static void test_merging_by_force(void **state) {
    (void)state;
    if (!gpt2) skip();
    static const char *const alphabets[] = {"a", "ab", " -=", "eainst", "the\xc3\xa9 ", "abcdefghijklmnopqrstuvwxyz"};
    Vocabulary vocabulary;
    Bpe bpe = {0};
    uint64_t seed = 7;
    assert_true(vocabulary_open(&vocabulary, gpt2_folder(), NULL));
    for (int i = 0; i < 50256; i++) sorted_tokens[i] = i;
    qsort(sorted_tokens, 50256, sizeof *sorted_tokens, by_bytes);
    for (int i = 0; i < (IS_SLOW ? 100 : 600); i++) {
        char word[300];
        uint16_t found[300], expected[300];
        const char *alphabet = alphabets[i % (int)ARRAY_LENGTH(alphabets)];
        bool is_any = i % 10 == 9;
        size_t bytes = 1 + random_below(&seed, i % 50 == 49 ? 300 : 100);
        for (size_t b = 0; b < bytes; b++)
            word[b] =
                is_any ? (char)random_below(&seed, 256) : alphabet[random_below(&seed, (uint32_t)strlen(alphabet))];
        size_t count = bpe_encode(&bpe, &vocabulary, word, bytes, found);
        assert_int_equal(count, merge_by_force(word, bytes, expected));
        assert_memory_equal(found, expected, count * sizeof *found);
    }
    bpe_free(&bpe);
    vocabulary_close(&vocabulary);
}

/* A word that is longer than what is left for later is cut there, in whatever pieces it comes. */
static void test_long_words(void **state) {
    (void)state;
    if (!gpt2) skip();
    static const char *const repeated[] = {"a", " ", "\xe4\xb8\xad", "\xff", "-="};
    for (size_t i = 0; i < ARRAY_LENGTH(repeated); i++) {
        if (only_small_sizes() && i != 2) continue;
        size_t unit = strlen(repeated[i]), bytes = (TOKENIZER_MAX_LEFT + 100) / unit * unit;
        char *text = checked_malloc(bytes, "a text");
        for (size_t at = 0; at < bytes; at++) text[at] = repeated[i][at % unit];
        size_t first = TOKENIZER_MAX_LEFT / unit * unit;
        TokenBuffer whole = encode(text, bytes), parts = encode(text, first);
        assert_int_equal(encoder_encode(encoder, text + first, bytes - first, true, &parts), bytes - first);
        assert_same_tokens(&whole, &parts, repeated[i]);
        TokenBuffer pieces = encode_in_pieces(text, bytes, 700001);
        assert_same_tokens(&pieces, &whole, repeated[i]);
        if (i != 3) assert_decodes(&whole, text, bytes);
        TokenBuffer none = {0};
        assert_int_equal(encoder_encode(encoder, text, first, false, &none), 0);
        assert_int_equal(encoder_encode(encoder, text, bytes, false, &none), first);
        token_buffer_free(&none);
        token_buffer_free(&whole);
        token_buffer_free(&parts);
        token_buffer_free(&pieces);
        free(text);
    }
}

/* ---- words and pieces ---- */

static void test_every_piece(void **state) {
    (void)state;
    if (!gpt2) skip();
    uint64_t seed = 3;
    for (int round = 0; round < (IS_SLOW ? 2 : 10); round++) {
        char text[700];
        size_t bytes = random_text(text, sizeof text, &seed);
        if (round % 2)
            for (int i = 0; i < 30; i++) text[random_below(&seed, (uint32_t)bytes)] = (char)random_below(&seed, 256);
        TokenBuffer whole = encode(text, bytes);
        for (size_t piece = 1; piece < 40; piece++) {
            TokenBuffer pieces = encode_in_pieces(text, bytes, piece);
            assert_same_tokens(&pieces, &whole, "pieces of one size");
            token_buffer_free(&pieces);
        }
        for (size_t split = 0; split <= bytes; split++) {
            TokenBuffer parts = {0};
            size_t begin = encoder_encode(encoder, text, split, false, &parts);
            assert_int_equal(encoder_encode(encoder, text + begin, bytes - begin, true, &parts), bytes - begin);
            assert_same_tokens(&parts, &whole, "two pieces");
            token_buffer_free(&parts);
        }
        token_buffer_free(&whole);
    }
}

/* The words of a text, with '|' after each; the caller frees. */
static char *divided(const uint8_t *classes, const char *text, bool is_end) {
    size_t bytes = strlen(text), at = 0, count = 0, length;
    char *words = checked_malloc(2 * bytes + 1, "words");
    bool is_damaged;
    while (at < bytes && (length = word_length(classes, text + at, bytes - at, is_end, &is_damaged)) > 0) {
        memcpy(words + count, text + at, length);
        count += length;
        words[count++] = '|';
        at += length;
    }
    words[count] = 0;
    return words;
}

static void test_words(void **state) {
    (void)state;
    if (!gpt2) skip();
    static const struct {
        const char *text, *words, *unfinished;
    } cases[] = {
        {"", "", ""},
        {"a", "a|", ""},
        {"Hello, world!", "Hello|,| world|!|", "Hello|,| world|"},
        {"it's we're I'll he'd", "it|'s| we|'re| I|'ll| he|'d|", "it|'s| we|'re| I|'ll| he|'d|"},
        {"IT'S 'sa 's ''s", "IT|'|S| '|sa| '|s| ''|s|", "IT|'|S| '|sa| '|s| ''|"},
        {"'", "'|", ""},
        {"'r", "'|r|", ""},
        {"'l", "'|l|", ""},
        {"'ra", "'|ra|", "'|"},
        {"a'", "a|'|", "a|"},
        {"a  b", "a| | b|", "a| |"},
        {"a   ", "a|   |", "a|"},
        {"a \n b", "a| \n| b|", "a| \n|"},
        {"a\n\nb", "a|\n|\n|b|", "a|\n|\n|"},
        {" \t", " \t|", ""},
        {"x\xc2\xa0y", "x|\xc2\xa0|y|", "x|\xc2\xa0|"},
        {"x\xe3\x80\x80\xe3\x80\x80y", "x|\xe3\x80\x80|\xe3\x80\x80|y|", "x|\xe3\x80\x80|\xe3\x80\x80|"},
        {"a1b22 33\xc2\xbd\xe2\x85\xa7.", "a|1|b|22| 33\xc2\xbd\xe2\x85\xa7|.|", "a|1|b|22| 33\xc2\xbd\xe2\x85\xa7|"},
        {"\xcc\x81"
         "e\xcc\x81",
         "\xcc\x81|e|\xcc\x81|", "\xcc\x81|e|"},
        {"a\x1c\x1d", "a|\x1c\x1d|", "a|"},
        {"a\xe2\x82", "a|\xe2\x82|", ""},
        {"a\xff\xff b", "a|\xff\xff| b|", "a|\xff\xff|"},
        {"\xd0\xbf\xd1\x80\xd0\xb8 \xd0\xbf", "\xd0\xbf\xd1\x80\xd0\xb8| \xd0\xbf|", "\xd0\xbf\xd1\x80\xd0\xb8|"},
    };
    uint8_t *classes = checked_malloc(UTF8_CODES, "classes");
    assert_true(char_class_fill(classes, NULL));
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *words = divided(classes, cases[i].text, true), *unfinished = divided(classes, cases[i].text, false);
        assert_string_equal(words, cases[i].words);
        assert_string_equal(unfinished, cases[i].unfinished);
        free(words);
        free(unfinished);
    }
    free(classes);
}

/* ---- text that is no UTF-8 ---- */

/* Bytes, and those of bytes.decode("utf-8", errors="replace").encode() in Python 3.11. */
static const char *const replaced[][2] = {
    {"80", "efbfbd"},
    {"bf", "efbfbd"},
    {"c0", "efbfbd"},
    {"c1", "efbfbd"},
    {"c0af", "efbfbdefbfbd"},
    {"c2", "efbfbd"},
    {"c220", "efbfbd20"},
    {"c2c2a9", "efbfbdc2a9"},
    {"c3a9", "c3a9"},
    {"e0", "efbfbd"},
    {"e080", "efbfbdefbfbd"},
    {"e080af", "efbfbdefbfbdefbfbd"},
    {"e09f80", "efbfbdefbfbdefbfbd"},
    {"e0a0", "efbfbd"},
    {"e0a080", "e0a080"},
    {"e1", "efbfbd"},
    {"e18041", "efbfbd41"},
    {"e181", "efbfbd"},
    {"ed9fbf", "ed9fbf"},
    {"eda080", "efbfbdefbfbdefbfbd"},
    {"edadbfedb080", "efbfbdefbfbdefbfbdefbfbdefbfbdefbfbd"},
    {"edbfbf", "efbfbdefbfbdefbfbd"},
    {"ee8080", "ee8080"},
    {"efbfbd", "efbfbd"},
    {"efbfbe", "efbfbe"},
    {"f0", "efbfbd"},
    {"f08080", "efbfbdefbfbdefbfbd"},
    {"f0808080", "efbfbdefbfbdefbfbdefbfbd"},
    {"f08fbfbf", "efbfbdefbfbdefbfbdefbfbd"},
    {"f090", "efbfbd"},
    {"f09080", "efbfbd"},
    {"f0908041", "efbfbd41"},
    {"f0909080", "f0909080"},
    {"f09fa4", "efbfbd"},
    {"f09fa4f09fa498", "efbfbdf09fa498"},
    {"f48fbfbf", "f48fbfbf"},
    {"f4908080", "efbfbdefbfbdefbfbdefbfbd"},
    {"f5", "efbfbd"},
    {"f8888080", "efbfbdefbfbdefbfbdefbfbd"},
    {"fc", "efbfbd"},
    {"fe", "efbfbd"},
    {"ff", "efbfbd"},
    {"fffe", "efbfbdefbfbd"},
    {"61ff62", "61efbfbd62"},
    {"20ff", "20efbfbd"},
    {"ff20", "efbfbd20"},
    {"e28220", "efbfbd20"},
    {"e282e282ac", "efbfbde282ac"},
    {"e282c2a9", "efbfbdc2a9"},
    {"f0f0f0", "efbfbdefbfbdefbfbd"},
    {"f09f9f20", "efbfbd20"},
    {"c3", "efbfbd"},
    {"61c3", "61efbfbd"},
    {"6120c3", "6120efbfbd"},
    {"e4bda0e5a5", "e4bda0efbfbd"},
    {"2720e2", "2720efbfbd"},
    {"27e2", "27efbfbd"},
    {"27ff73", "27efbfbd73"},
    {"2773ff", "2773efbfbd"},
    {"efbbbf61", "efbbbf61"},
    {"cc81e3", "cc81efbfbd"},
    {"000080", "0000efbfbd"},
    {"ed", "efbfbd"},
    {"eda0", "efbfbdefbfbd"},
    {"edafbf61", "efbfbdefbfbdefbfbd61"},
    {"c3a9c3", "c3a9efbfbd"},
    {"f1808080", "f1808080"},
    {"f1bfbfbf", "f1bfbfbf"},
    {"f3a0", "efbfbd"},
    {"7ff4", "7fefbfbd"},
};

static size_t from_hex(const char *hex, char *bytes) {
    for (size_t i = 0; hex[2 * i]; i++) {
        unsigned value;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
        bytes[i] = (char)value;
    }
    return strlen(hex) / 2;
}

/* In front of, between and after other text. */
static void test_replaced_as_in_python(void **state) {
    (void)state;
    if (!gpt2) skip();
    static const char *const around[][2] = {
        {"", ""}, {"some ", "text"}, {" ", " "}, {"!", "?"}, {"\xc3\xa9", "\xc3\xa9"}};
    for (size_t i = 0; i < ARRAY_LENGTH(replaced); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(around); j++) {
            char text[2][200];
            size_t bytes[2];
            for (int k = 0; k < 2; k++) {
                size_t before = strlen(around[j][0]), after = strlen(around[j][1]);
                memcpy(text[k], around[j][0], before);
                bytes[k] = before + from_hex(replaced[i][k], text[k] + before);
                memcpy(text[k] + bytes[k], around[j][1], after);
                bytes[k] += after;
            }
            TokenBuffer found = encode(text[0], bytes[0]), expected = encode(text[1], bytes[1]);
            assert_same_tokens(&found, &expected, replaced[i][0]);
            assert_decodes(&found, text[1], bytes[1]);
            for (size_t piece = 1; piece < 5; piece++) {
                TokenBuffer pieces = encode_in_pieces(text[0], bytes[0], piece);
                assert_same_tokens(&pieces, &expected, replaced[i][0]);
                token_buffer_free(&pieces);
            }
            token_buffer_free(&found);
            token_buffer_free(&expected);
        }
}

/* ---- threads ---- */

static void *encode_for_itself(void *seed) {
    uint64_t own = *(uint64_t *)seed;
    static char text[100000];
    size_t bytes = random_text(text + own * 50000, 50000, &(uint64_t){9});
    Encoder *mine = encoder_open(gpt2);
    TokenBuffer *out = checked_calloc(1, sizeof *out, "tokens");
    encoder_encode(mine, text + own * 50000, bytes, true, out);
    encoder_close(mine);
    return out;
}

static void test_encoders_share_a_tokenizer(void **state) {
    (void)state;
    if (!gpt2) skip();
    pthread_t threads[2];
    uint64_t seeds[2] = {0, 1};
    TokenBuffer *out[2];
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, encode_for_itself, &seeds[i]), 0);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_join(threads[i], (void **)&out[i]), 0);
    assert_true(out[0]->count > 10000);
    assert_same_tokens(out[0], out[1], "two threads");
    for (int i = 0; i < 2; i++) {
        token_buffer_free(out[i]);
        free(out[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocabulary_is_the_published_one),
        cmocka_unit_test(test_names_and_numbers),
        cmocka_unit_test(test_golden_tokens),
        cmocka_unit_test(test_tokens_of_tiktoken),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_merging_by_force),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_every_piece),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_replaced_as_in_python),
        cmocka_unit_test(test_encoders_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, open_gpt2, close_gpt2);
}
