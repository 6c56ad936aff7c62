/* test_documents.c: from files to documents: what is packed and how, which files there are, where documents begin and
 * end, and what is wrong with a line of JSON. What becomes of documents: test_pipeline.c. */
#include "dev/test/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if MARS_HAS_ZLIB
#include <zlib.h>
#endif
#if MARS_HAS_ZSTD
#include <zstd.h>
#endif
#if MARS_HAS_LZMA
#include <lzma.h>
#endif

#include "data/prepare/documents.h"
#include "data/prepare/text_files.h"
#include "data/prepare/text_source.h"
#include "data/prepare/unpack.h"

/* ---- packing ---- */

typedef struct Bytes {
    char *data;
    size_t count;
} Bytes;

#if MARS_HAS_ZLIB
static Bytes pack_gz(const char *text, size_t bytes) {
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    Bytes packed = {checked_malloc(deflateBound(&stream, bytes) + 64, "gz"), 0};
    stream.next_in = (Bytef *)text, stream.avail_in = (uInt)bytes;
    stream.next_out = (Bytef *)packed.data, stream.avail_out = (uInt)deflateBound(&stream, bytes) + 64;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    packed.count = stream.total_out;
    deflateEnd(&stream);
    return packed;
}
#endif

#if MARS_HAS_ZSTD
static Bytes pack_zst(const char *text, size_t bytes) {
    Bytes packed = {checked_malloc(ZSTD_compressBound(bytes), "zst"), 0};
    packed.count = ZSTD_compress(packed.data, ZSTD_compressBound(bytes), text, bytes, 1);
    assert_false(ZSTD_isError(packed.count));
    return packed;
}
#endif

#if MARS_HAS_LZMA
static Bytes pack_xz(const char *text, size_t bytes) {
    size_t limit = lzma_stream_buffer_bound(bytes);
    Bytes packed = {checked_malloc(limit, "xz"), 0};
    assert_int_equal(lzma_easy_buffer_encode(0, LZMA_CHECK_CRC64, NULL, (const uint8_t *)text, bytes,
                                             (uint8_t *)packed.data, &packed.count, limit),
                     LZMA_OK);
    return packed;
}
#endif

static const struct {
    const char *name;
    Bytes (*pack)(const char *text, size_t bytes);
} packings[] = {
#if MARS_HAS_ZLIB
    {"gz", pack_gz},
#endif
#if MARS_HAS_ZSTD
    {"zst", pack_zst},
#endif
#if MARS_HAS_LZMA
    {"xz", pack_xz},
#endif
    {NULL, NULL}};

/* Text that packs neither well nor badly. */
static char *make_text(size_t bytes) {
    static const char letters[] = "etaoin shrdlu\ncmfwyp vbgkqjxz";
    char *text = checked_malloc(bytes + 1, "text");
    uint32_t state = 1;
    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525 + 1013904223;
        text[i] = letters[(state >> 24) % (sizeof letters - 1)];
    }
    return text;
}

/* Reads the whole file; the text, or NULL and the reason. */
static char *read_all(const char *path, size_t *bytes, Error *error) {
    TextFile file;
    *bytes = 0;
    if (!text_file_open(&file, path, error)) return NULL;
    char *text = NULL;
    bool failed = false;
    while (file.at < file.end || text_file_read(&file, &failed, error)) {
        size_t more = (size_t)(file.end - file.at);
        text = checked_realloc(text, *bytes + more + 1, "the text of a file");
        memcpy(text + *bytes, file.at, more);
        *bytes += more;
        file.at = file.end;
    }
    text_file_close(&file);
    if (!failed) return text ? text : checked_strdup("");
    free(text);
    return NULL;
}

static void assert_reads(const char *what, const char *path, const char *text, size_t bytes) {
    Error error;
    size_t count;
    char *read = read_all(path, &count, &error);
    if (!read) fail_msg("%s: %s", what, error.text);
    if (count != bytes || memcmp(read, text, bytes) != 0) fail_msg("%s, %zu bytes: another text is read", what, bytes);
    free(read);
}

static void assert_fails(const char *what, const char *path, const char *because) {
    Error error;
    size_t count;
    char *read = read_all(path, &count, &error);
    if (read) fail_msg("%s is read", what);
    if (!strstr(error.text, path) || !strstr(error.text, because))
        fail_msg("%s: '%s' does not say '%s' and '%s'", what, error.text, path, because);
}

/* Alone, after another one, and plain. Sizes around those of the blocks. */
static void test_packed_files(void **state) {
    (void)state;
    const size_t sizes[] = {0, 1, 5, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3000000};
    for (size_t s = 0; s < ARRAY_LENGTH(sizes); s++) {
        char *text = make_text(sizes[s]), *path = checked_strdup(test_path("packed"));
        test_write_file(path, text, sizes[s]);
        assert_reads("plain", path, text, sizes[s]);
        for (size_t k = 0; packings[k].name; k++) {
            Bytes first = packings[k].pack(text, sizes[s] / 3);
            Bytes rest = packings[k].pack(text + sizes[s] / 3, sizes[s] - sizes[s] / 3);
            Bytes both = {checked_malloc(first.count + rest.count, "both"), first.count + rest.count};
            memcpy(both.data, first.data, first.count);
            memcpy(both.data + first.count, rest.data, rest.count);
            test_write_file(path, first.data, first.count);
            assert_reads(packings[k].name, path, text, sizes[s] / 3);
            test_write_file(path, both.data, both.count);
            assert_reads(packings[k].name, path, text, sizes[s]);
            free(first.data), free(rest.data), free(both.data);
        }
        free(text), free(path);
    }
}

/* Cut off anywhere, something after the end, a byte that is another one. */
static void test_damaged_files(void **state) {
    (void)state;
    char *text = make_text(20000), *path = checked_strdup(test_path("damaged"));
    for (size_t k = 0; packings[k].name; k++) {
        Bytes packed = packings[k].pack(text, 20000);
        for (size_t cut = PACKING_BYTES; cut < packed.count; cut += cut < 64 || cut + 64 > packed.count ? 1 : 997) {
            test_write_file(path, packed.data, cut);
            assert_fails(packings[k].name, path, "cut off");
        }
        packed.data = checked_realloc(packed.data, packed.count + 16, "packed text");
        memcpy(packed.data + packed.count, "nonsense, indeed", 16);
        test_write_file(path, packed.data, packed.count + 16);
        assert_fails(packings[k].name, path, "something follows");
        packed.data[packed.count / 2] ^= 0x10;
        packed.data[packed.count - 5] ^= 0x10;
        test_write_file(path, packed.data, packed.count);
        Error error;
        size_t count;
        char *read = read_all(path, &count, &error);
        if (read && count == 20000 && strcmp(packings[k].name, "zst") != 0)
            fail_msg("%s: damage is read", packings[k].name);
        free(read);
        free(packed.data);
    }
    free(text), free(path);
}

static void test_which_files(void **state) {
    (void)state;
    assert_run(
        test_run("cd '%s' && mkdir -p list/b/c list/.hidden list/none && cd list && echo 1 >b/2 && echo 2 >b/10 && "
                 "echo 3 >b/c/x && echo 4 >a && echo 5 >.h && echo 6 >.hidden/y && : >empty && echo 7 >z",
                 test_folder()),
        0, "");
    char *folder = checked_strdup(test_path("list"));
    const char *inputs[] = {test_path("list/z"), folder, "-"};
    static const char *const expected[] = {"/z", "/a", "/b/10", "/b/2", "/b/c/x", "/z"};
    TextFiles files = {0};
    Error error;
    if (!text_files_list(&files, inputs, 2, &error)) fail_msg("%s", error.text);
    assert_int_equal(files.count, ARRAY_LENGTH(expected));
    assert_int_equal(files.bytes, 12);
    for (int i = 0; i < files.count; i++) assert_string_equal(files.inputs[i].path + strlen(folder), expected[i]);
    text_files_free(&files);
    assert_true(text_files_list(&files, inputs, 3, &error));
    assert_int_equal(files.bytes, -1);
    text_files_free(&files);
    const char *wrong[] = {test_path("list/empty"), test_path("list/none"), test_path("list/missing")};
    const char *reasons[] = {"empty is empty", "there is no file in", "cannot read"};
    for (int i = 0; i < 3; i++) {
        assert_false(text_files_list(&files, &wrong[i], 1, &error));
        if (!strstr(error.text, reasons[i])) fail_msg("'%s' does not say '%s'", error.text, reasons[i]);
        text_files_free(&files);
    }
    free(folder);
}

/* ---- documents ---- */

/* What came, as text: | stands after each document. */
typedef struct Came {
    char *text;
    size_t bytes;
} Came;

static bool came_text(void *context, const char *text, size_t bytes, Error *error) {
    (void)error;
    Came *came = context;
    came->text = checked_realloc(came->text, came->bytes + bytes + 2, "documents");
    memcpy(came->text + came->bytes, text, bytes);
    came->bytes += bytes;
    came->text[came->bytes] = 0;
    return true;
}

static bool came_end(void *context, Error *error) { return came_text(context, "|", 1, error); }

static bool read_documents(const char *path, const DocumentFormat *format, Came *came, DocumentCounts *counts,
                           Error *error) {
    TextFile file;
    DocumentSink sink = {came, came_text, came_end};
    *came = (Came){checked_strdup(""), 0};
    *counts = (DocumentCounts){0};
    if (!text_file_open(&file, path, error)) fail_msg("%s", error->text);
    bool ok = documents_read(&file, format, &sink, counts, error);
    text_file_close(&file);
    return ok;
}

static void assert_documents(const char *text, size_t bytes, const DocumentFormat *format, const char *expected) {
    Came came;
    Error error;
    DocumentCounts counts;
    test_write_file(test_path("documents"), text, bytes);
    if (!read_documents(test_path("documents"), format, &came, &counts, &error)) fail_msg("%s: %s", text, error.text);
    if (strcmp(came.text, expected) != 0) fail_msg("%s: '%s' came, not '%s'", text, came.text, expected);
    free(came.text);
}

static void test_separated(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"one\n==\ntwo\n", "one|two|"},
        {"one\n==\ntwo", "one|two|"},
        {"one\n==", "one|"},
        {"==\n==\none\n\n==\n\n==\n", "one\n|"},
        {"=\n===\n ==\n== x\n==x\n==\n", "=\n===\n ==\n== x\n==x|"},
        {"one\n== \t\r\ntwo\n==\t", "one|two|"},
        {"one\r\n==\r\ntwo\r\n", "one|two|"},
        {"\r\none\r\n\r\n==\r\n\r\n==\r\ntwo\r", "\r\none\r\n|two\r|"},
        {"==\r\r\n\r\n\r\n==\r=\r\n", "\r\n\r\n==\r=|"},
        {"a\rb\r\r\n== \rx\r\n==", "a\rb\r\r\n== \rx|"},
        {"\n\none\n==\n", "\n\none|"},
        {"", ""},
        {"\n", ""},
        {"==", ""},
        {"no separator at all\n", "no separator at all|"},
    };
    DocumentFormat format = {.separator = "=="};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_documents(cases[i][0], strlen(cases[i][0]), &format, cases[i][1]);
    /* The most blanks, and one more. */
    char *blanks = format_string("one\n==%*s\r\ntwo", SEPARATOR_BLANKS - 1, "");
    assert_documents(blanks, strlen(blanks), &format, "one|two|");
    free(blanks);
    blanks = format_string("one\n==%*s\r\ntwo|", SEPARATOR_BLANKS, "");
    assert_documents(blanks, strlen(blanks) - 1, &format, blanks);
    free(blanks);
    DocumentFormat whole = {0};
    assert_documents("a\n\nb\n", 5, &whole, "a\n\nb\n|");
}

static void test_json_lines(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "a|b|"},
        {"{\"text\":\"a\"}\r\n\r\n \t\n{ \"x\" : [1, -2.5e+3, {\"text\":\"no\"}, []] , \"text\" : \"b\" } ", "a|b|"},
        {"{\"text\":\"first\",\"text\":\"last\"}", "last|"},
        {"{\"text\":\"\"}", "|"},
        {"{\"a\":null,\"b\":true,\"c\":false,\"d\":0,\"e\":0.5,\"text\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}",
         "\"\\/\b\f\n\r\t|"},
        {"{\"t\\u0065xt\":\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"}", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80|"},
        {"{\"text\":\"\\ud83d\"}", "\xef\xbf\xbd|"},
        {"{\"text\":\"\\ude00x\"}", "\xef\xbf\xbdx|"},
        {"{\"text\":\"\\ud83d\\n\"}", "\xef\xbf\xbd\n|"},
        {"{\"text\":\"\\ud83d\\ud83d\\ude00\"}", "\xef\xbf\xbd\xf0\x9f\x98\x80|"},
        {"{\"text\":\"\\ud83d\\u0041\"}", "\xef\xbf\xbd"
                                          "A|"},
        {"{\"text\":\"raw \xff\xc3\xa9\"}", "raw \xff\xc3\xa9|"},
        {"\xef\xbb\xbf{\"text\":\"a\"}\r\n\xef\xbb\xbf {\"text\":\"b\"}\n\xef\xbb\xbf\n", "a|b|"},
        {"", ""},
        {"\n\n", ""},
    };
    DocumentFormat format = {.field = "text"};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_documents(cases[i][0], strlen(cases[i][0]), &format, cases[i][1]);
}

static void test_bad_json_lines(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"[1]", "'[' where a JSON object should be"},
        {"\xef\xbb{\"text\":\"a\"}", "'{' where a JSON object should be"},
        {"{\"text\":\"a\"", "the line ends where ',' or '}' should be"},
        {"{\"text\":\"a", "the line ends where the end of a string should be"},
        {"{\"text\":\"a\tb\"}", "the byte 0x09 where the end of a string should be"},
        {"{\"text\":\"\\x\"}", "after a backslash"},
        {"{\"text\":\"\\u12g4\"}", "'g' where one of four hexadecimal digits should be"},
        {"{\"text\":1}", "\"text\" is not a string"},
        {"{\"text\":null}", "\"text\" is not a string"},
        {"{\"other\":\"a\"}", "there is no \"text\" in it"},
        {"{}", "there is no \"text\" in it"},
        {"{\"text\":\"a\"} x", "'x' where the end of the line should be"},
        {"{\"text\":\"a\",}", "'}' where a name in quotation marks should be"},
        {"{\"text\" \"a\"}", "where ':' should be"},
        {"{\"a\":01,\"text\":\"a\"}", "where ',' or '}' should be"},
        {"{\"a\":-,\"text\":\"a\"}", "where a digit should be"},
        {"{\"a\":1.,\"text\":\"a\"}", "where a digit should be"},
        {"{\"a\":1e,\"text\":\"a\"}", "where a digit should be"},
        {"{\"a\":tru,\"text\":\"a\"}", "where true, false or null should be"},
        {"{\"a\":[1 2],\"text\":\"a\"}", "where ',' or ']' should be"},
        {"{\"a\":[,],\"text\":\"a\"}", "where a value should be"},
        {"{text:\"a\"}", "where a name in quotation marks should be"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char *text = format_string("{\"text\":\"good\"}\n\n%s\n{\"text\":\"better\"}\n", cases[i][0]);
        test_write_text(test_path("bad"), text);
        Came came;
        Error error;
        DocumentCounts counts;
        DocumentFormat format = {.field = "text"};
        assert_false(read_documents(test_path("bad"), &format, &came, &counts, &error));
        char *place = format_string("%s: line 3: ", test_path("bad"));
        if (!strstr(error.text, place) || !strstr(error.text, cases[i][1]))
            fail_msg("%s: '%s' does not say '%s%s'", cases[i][0], error.text, place, cases[i][1]);
        free(came.text), free(place);
        format.skip_bad_lines = true;
        if (!read_documents(test_path("bad"), &format, &came, &counts, &error)) fail_msg("%s", error.text);
        assert_string_equal(came.text, "good|better|");
        assert_int_equal(counts.bad_lines, 1);
        if (!strstr(counts.first_bad.text, cases[i][1])) fail_msg("'%s'", counts.first_bad.text);
        free(came.text), free(text);
    }
    char deep[2100] = "{\"a\":";
    memset(deep + 5, '[', 2000);
    test_write_text(test_path("deep"), deep);
    Came came;
    Error error;
    DocumentCounts counts;
    DocumentFormat format = {.field = "text"};
    assert_false(read_documents(test_path("deep"), &format, &came, &counts, &error));
    assert_non_null(strstr(error.text, "more than 500 arrays and objects in each other"));
    free(came.text);
}

/* The first line shows what the file has instead. */
static void test_first_lines(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{\"other\":\"a\"}\n", "there is no \"text\" in it; it has \"other\""},
        {"{\"a\":{\"text\":1},\"b\":2}\n", "there is no \"text\" in it; it has \"a\", \"b\""},
        {"{\"quite a long name of a member\":1,\"another one that is as long as this\":2,\"and a third one, which is "
         "no "
         "longer whole\":3}\n",
         "it has \"quite a long name of a member\", \"another one that is as long as this\", \"and a third one, which "
         "is "
         "..."},
        {"{\n  \"text\": \"a\"\n}\n", "jq -c . FILE puts each object on a line of its own"},
        {"[{\"text\":\"a\"}]\n", "of an array, jq -c '.[]' makes JSON Lines"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        Came came;
        DocumentCounts counts;
        Error error;
        DocumentFormat format = {.field = "text"};
        test_write_text(test_path("first"), cases[i][0]);
        assert_false(read_documents(test_path("first"), &format, &came, &counts, &error));
        if (!strstr(error.text, cases[i][1])) fail_msg("'%s' does not say '%s'", error.text, cases[i][1]);
        free(came.text);
    }
}

/* Everything at every place relative to the end of a block. */
static void test_across_blocks(void **state) {
    (void)state;
    enum { BLOCK = 1 << 20 };
    static const char json[] = "{\"n\":-1.5e3,\"text\":\"\\ud83d\\ude00 \\\"x\\\" \xc3\xa9\"}\n{\"text\":\"b\"}\n";
    static const char separated[] = "first\n==\nsecond\n=\n==\n";
    char *text = checked_malloc(BLOCK + 128, "text");
    DocumentFormat lines = {.field = "text"}, separator = {.separator = "=="};
    for (size_t before = 0; before < sizeof json; before += 2) {
        memset(text, '\n', BLOCK);
        memcpy(text + BLOCK - before, json, sizeof json - 1);
        assert_documents(text, BLOCK - before + sizeof json - 1, &lines, "\xf0\x9f\x98\x80 \"x\" \xc3\xa9|b|");
    }
    for (size_t before = 0; before < sizeof separated; before++) {
        memset(text, '-', BLOCK);
        memcpy(text + BLOCK - before - 3, "\n==", 3);
        memcpy(text + BLOCK - before, "\n", 1);
        memcpy(text + BLOCK - before + 1, separated, sizeof separated - 1);
        Came came;
        Error error;
        DocumentCounts counts;
        test_write_file(test_path("documents"), text, BLOCK - before + sizeof separated);
        assert_true(read_documents(test_path("documents"), &separator, &came, &counts, &error));
        assert_string_equal(came.text + BLOCK - before - 3, "|first|second\n=|");
        free(came.text);
    }
    free(text);
}

/* A field that is longer than what is held: it comes all the same, and its line cannot be passed over. */
static void test_long_field(void **state) {
    (void)state;
    size_t bytes = DOCUMENT_BYTES_HELD + 1000;
    char *text = checked_malloc(bytes + 64, "text");
    strcpy(text, "{\"text\":\"");
    memset(text + 9, 'x', bytes);
    strcpy(text + 9 + bytes, "\"}\n");
    test_write_file(test_path("long"), text, bytes + 12);
    Came came;
    Error error;
    DocumentCounts counts;
    DocumentFormat format = {.field = "text", .skip_bad_lines = true};
    if (!read_documents(test_path("long"), &format, &came, &counts, &error)) fail_msg("%s", error.text);
    assert_int_equal(came.bytes, bytes + 1);
    free(came.text);
    test_write_file(test_path("long"), text, bytes + 10);
    assert_false(read_documents(test_path("long"), &format, &came, &counts, &error));
    assert_non_null(strstr(error.text, "too long for --skip_bad_lines"));
    free(came.text), free(text);
    unlink(test_path("long"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed_files), cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_which_files),  cmocka_unit_test(test_separated),
        cmocka_unit_test(test_json_lines),   cmocka_unit_test(test_bad_json_lines),
        cmocka_unit_test(test_first_lines),  cmocka_unit_test(test_across_blocks),
        cmocka_unit_test(test_long_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
