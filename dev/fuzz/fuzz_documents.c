/* fuzz_documents.c: documents in text files: JSON Lines above all, lines that separate, and packed files. The first
 * byte of the input says where documents are, the second how much is read at a time, the rest is the file. However much
 * is read at a time, the documents must be the same, and so must what the file is taken for. Those of a plain file must
 * be what another reading says, after a byte order mark: the lines joined again, or what cJSON reads; and what cJSON
 * writes, which is JSON without doubt, must be read. One kind of input is no file but UTF-16, for the escapes of
 * JSON. */
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/prepare/document_hints.h"
#include "data/prepare/unpack.h"
#include "dev/fuzz/fuzz.h"
#include "util/utf8.h"

enum { BLOCK_BYTES = 1 << 14, MAX_BRACKETS = 400, MAX_PACKED = 1024, MAX_UNITS = 256 };

#define X50 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
static const DocumentFormat formats[] = {{.field = "text"},
                                         {.field = "text", .skip_bad_lines = true},
                                         {0},
                                         {.separator = "%%"},
                                         {.separator = ""},
                                         {.separator = "aa"},
                                         {.field = "text\"\n\xc3\xa9" X50 X50 X50 X50 X50 X50}};

/* ---- documents as they come ---- */

typedef struct Buffer {
    char *data;
    size_t bytes;
} Buffer;

static void append(Buffer *buffer, const void *data, size_t bytes) {
    buffer->data = checked_realloc(buffer->data, buffer->bytes + bytes + 1, "documents");
    if (bytes > 0) memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
}

/* All documents after each other, and where each ends, as size_t. */
typedef struct Documents {
    bool ok;
    DocumentCounts counts;
    Buffer text, ends;
    Error error;
    Error format; /* what the file is if not text; empty if it is */
} Documents;

static bool take_text(void *context, const char *text, size_t bytes, Error *error) {
    (void)error;
    FUZZ_CHECK(bytes > 0, "a piece without text");
    append(&((Documents *)context)->text, text, bytes);
    return true;
}

static bool take_end(void *context, Error *error) {
    (void)error;
    Documents *documents = context;
    append(&documents->ends, &documents->text.bytes, sizeof documents->text.bytes);
    return true;
}

static void free_documents(Documents *documents) {
    free(documents->text.data);
    free(documents->ends.data);
}

static Documents read_documents(const char *path, const DocumentFormat *format, size_t block_bytes) {
    Documents documents = {0};
    DocumentSink sink = {&documents, take_text, take_end};
    TextFile file;
    if (!text_file_open_sized(&file, path, block_bytes, &documents.error)) return documents;
    FUZZ_CHECK(text_file_check(&file, false, &documents.format) || strstr(documents.format.text, path),
               "the message does not name the file: %s", documents.format.text);
    DocumentHint hint = document_hint(&file, format);
    FUZZ_CHECK(hint < DOCUMENT_HINTS && !document_hints[hint] == (hint == HINT_NONE), "hint %d", (int)hint);
    documents.ok = documents_read(&file, format, &sink, &documents.counts, &documents.error);
    FUZZ_CHECK(documents.ok || strstr(documents.error.text, path), "the message does not name the file: %s",
               documents.error.text);
    FUZZ_CHECK(!documents.ok || file.bytes_taken >= 0, "%" PRId64 " bytes taken", file.bytes_taken);
    text_file_close(&file);
    return documents;
}

static void check_equal(const Documents *a, const Documents *b, const char *what) {
    FUZZ_CHECK(a->ends.bytes == b->ends.bytes, "%s: %zu documents and %zu", what, a->ends.bytes / sizeof(size_t),
               b->ends.bytes / sizeof(size_t));
    FUZZ_CHECK(a->ends.bytes == 0 || memcmp(a->ends.data, b->ends.data, a->ends.bytes) == 0, "%s: they end elsewhere",
               what);
    FUZZ_CHECK(a->text.bytes == b->text.bytes &&
                   (a->text.bytes == 0 || memcmp(a->text.data, b->text.data, a->text.bytes) == 0),
               "%s: other text", what);
}

/* ---- lines ---- */

/* The next line, without its '\n'; whether it has one. */
static bool next_line(FuzzInput *text, FuzzInput *line) {
    const uint8_t *newline = memchr(text->data, '\n', text->bytes);
    *line = fuzz_piece(text, newline ? (size_t)(newline - text->data) : text->bytes);
    fuzz_piece(text, 1);
    return newline != NULL;
}

/* Whether the line is the separator and up to SEPARATOR_BLANKS blanks. */
static bool is_separator(FuzzInput line, const char *separator) {
    size_t length = strlen(separator);
    if (line.bytes < length || line.bytes > length + SEPARATOR_BLANKS) return false;
    if (length > 0 && memcmp(line.data, separator, length) != 0) return false;
    for (size_t i = length; i < line.bytes; i++)
        if (line.data[i] != ' ' && line.data[i] != '\t' && line.data[i] != '\r') return false;
    return true;
}

static void end_document(Documents *documents, size_t begin) {
    if (documents->text.bytes > begin) take_end(documents, NULL);
}

/* What stands between separators, its lines joined again, if that is any byte at all. */
static Documents split(FuzzInput text, const char *separator) {
    Documents documents = {.ok = true};
    size_t begin = 0;
    const char *line_end = "";
    while (text.bytes > 0) {
        FuzzInput line;
        bool has_newline = next_line(&text, &line);
        if (is_separator(line, separator)) {
            end_document(&documents, begin);
            begin = documents.text.bytes;
            line_end = "";
            documents.counts.separators++;
        } else {
            bool has_return = has_newline && line.bytes > 0 && line.data[line.bytes - 1] == '\r';
            append(&documents.text, line_end, strlen(line_end));
            append(&documents.text, line.data, line.bytes - has_return);
            line_end = has_return ? "\r\n" : "\n";
        }
    }
    end_document(&documents, begin);
    return documents;
}

/* ---- JSON ---- */

/* The text of the line as cJSON reads it; NULL where it does not, or there is none, or two. */
static const char *field_text(const cJSON *json, const char *field) {
    const char *text = NULL;
    const cJSON *item;
    cJSON_ArrayForEach(item, json) {
        if (strcmp(item->string, field) != 0) continue;
        if (text || !cJSON_IsString(item)) return NULL;
        text = item->valuestring;
    }
    return text;
}

/* cJSON has no strings with a 0 in them. */
static cJSON *parse(FuzzInput line) {
    char *text = checked_calloc(line.bytes + 1, 1, "a line");
    if (line.bytes > 0) memcpy(text, line.data, line.bytes);
    bool is_comparable = strlen(text) == line.bytes && !strstr(text, "\\u0000");
    cJSON *json = is_comparable ? cJSON_ParseWithOpts(text, NULL, true) : NULL;
    free(text);
    if (cJSON_IsObject(json)) return json;
    cJSON_Delete(json);
    return NULL;
}

static bool is_deep(const char *text) {
    int brackets = 0;
    for (; *text; text++) brackets += *text == '{' || *text == '[';
    return brackets > MAX_BRACKETS;
}

/* A line that cJSON has read is read by us when cJSON has written it again, and has the same text. */
static void check_written_again(const cJSON *json, const char *text, const DocumentFormat *format, size_t block_bytes) {
    char *again = cJSON_PrintUnformatted(json);
    if (!again) die("out of memory: a line");
    if (!is_deep(again)) {
        const char *path = fuzz_file("again.jsonl", again, strlen(again));
        Documents documents = read_documents(path, format, block_bytes), expected = {0};
        FUZZ_CHECK(documents.ok && documents.counts.bad_lines == 0, "%s: %s", documents.error.text, again);
        append(&expected.text, text, strlen(text));
        take_end(&expected, NULL);
        check_equal(&documents, &expected, again);
        free_documents(&documents);
        free_documents(&expected);
    }
    free(again);
}

/* A line by itself: if both read it, they read the same. */
static void check_line(FuzzInput line, const DocumentFormat *format, size_t block_bytes) {
    cJSON *json = parse(line);
    const char *text = field_text(json, format->field);
    if (text) {
        Documents documents = read_documents(fuzz_file("line.jsonl", line.data, line.bytes), format, block_bytes);
        if (documents.ok && documents.ends.bytes > 0) {
            Documents expected = {0};
            append(&expected.text, text, strlen(text));
            take_end(&expected, NULL);
            check_equal(&documents, &expected, "a line");
            free_documents(&expected);
        }
        free_documents(&documents);
        check_written_again(json, text, format, block_bytes);
    }
    cJSON_Delete(json);
}

/* Half of a surrogate pair is U+FFFD. */
static void append_utf16(Buffer *buffer, uint32_t unit, uint32_t next, bool *takes_next) {
    bool is_high = unit >= 0xd800 && unit < 0xdc00, is_low = unit >= 0xdc00 && unit < 0xe000;
    *takes_next = is_high && next >= 0xdc00 && next < 0xe000;
    uint32_t c = *takes_next ? 0x10000 + (unit - 0xd800) * 0x400 + (next - 0xdc00) : is_high || is_low ? 0xfffd : unit;
    uint8_t one[] = {(uint8_t)c}, two[] = {(uint8_t)(0xc0 + c / 64), 0x80 + c % 64},
            three[] = {(uint8_t)(0xe0 + c / 4096), 0x80 + c / 64 % 64, 0x80 + c % 64},
            four[] = {(uint8_t)(0xf0 + c / 262144), 0x80 + c / 4096 % 64, 0x80 + c / 64 % 64, 0x80 + c % 64};
    const uint8_t *bytes = c < 0x80 ? one : c < 0x800 ? two : c < 0x10000 ? three : four;
    append(buffer, bytes, c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4);
}

/* The input is UTF-16, all of which is written as escapes; odd numbers stand for surrogates, to have more of them. */
static void check_escapes(FuzzInput input, size_t block_bytes) {
    Documents expected = {0};
    Buffer line = {0};
    size_t count = 0;
    uint32_t units[MAX_UNITS + 1] = {0};
    append(&line, "{\"text\":\"", 9);
    for (; input.bytes > 0 && count < MAX_UNITS; count++) {
        uint32_t number = (uint32_t)fuzz_number(&input, 2);
        char escape[8];
        units[count] = number % 2 ? 0xd800 | (number >> 1 & 0x7ff) : number;
        int bytes = snprintf(escape, sizeof escape, number % 4 ? "\\u%04x" : "\\u%04X", units[count]);
        append(&line, escape, (size_t)bytes);
    }
    append(&line, "\"}", 2);
    bool takes_next;
    for (size_t i = 0; i < count; i += 1 + takes_next)
        append_utf16(&expected.text, units[i], units[i + 1], &takes_next);
    take_end(&expected, NULL);
    Documents documents = read_documents(fuzz_file("escapes.jsonl", line.data, line.bytes), &formats[0], block_bytes);
    FUZZ_CHECK(documents.ok, "%s", documents.error.text);
    check_equal(&documents, &expected, "escapes");
    free_documents(&documents);
    free_documents(&expected);
    free(line.data);
}

static void check_plain(const Documents *found, FuzzInput file, const DocumentFormat *format, size_t block_bytes) {
    if (format->field) {
        int64_t lines = 0;
        for (FuzzInput line; file.bytes > 0; lines++) {
            next_line(&file, &line);
            check_line(line, format, block_bytes);
        }
        FUZZ_CHECK((int64_t)(found->ends.bytes / sizeof(size_t)) + found->counts.bad_lines <= lines,
                   "more documents than lines");
        return;
    }
    FUZZ_CHECK(found->ok, "%s", found->error.text);
    Documents expected = {0};
    if (file.bytes >= 3 && memcmp(file.data, UTF8_MARK, 3) == 0) fuzz_piece(&file, 3);
    if (format->separator) {
        expected = split(file, format->separator);
        FUZZ_CHECK(found->counts.separators == expected.counts.separators, "%" PRId64 " separators for %" PRId64,
                   found->counts.separators, expected.counts.separators);
    } else {
        append(&expected.text, file.data, file.bytes);
        take_end(&expected, NULL);
    }
    check_equal(found, &expected, "another reading");
    free_documents(&expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzInput input = {data, bytes};
    size_t kind = fuzz_number(&input, 1) % (ARRAY_LENGTH(formats) + 1), block_bytes = fuzz_number(&input, 1) % 64;
    if (input.bytes == 0) return 0;
    if (kind == ARRAY_LENGTH(formats)) {
        check_escapes(input, PACKING_BYTES + block_bytes);
        return 0;
    }
    const DocumentFormat *format = &formats[kind];
    bool is_packed = packing_of(input.data, input.bytes) != PACKED_NOT;
    if (is_packed && input.bytes > MAX_PACKED) return 0; /* a few bytes may become many, and take long */
    block_bytes = PACKING_BYTES + block_bytes * (is_packed ? 16 : 1);
    const char *path = fuzz_file("documents", input.data, input.bytes);
    Documents small = read_documents(path, format, block_bytes), large = read_documents(path, format, BLOCK_BYTES);
    FUZZ_CHECK(small.ok == large.ok, "in blocks of %zu bytes: '%s', else '%s'", block_bytes, small.error.text,
               large.error.text);
    /* Of a damaged packed file, large blocks may end the reading before there is a beginning. */
    FUZZ_CHECK(!small.ok || strcmp(small.format.text, large.format.text) == 0, "'%s', else '%s'", small.format.text,
               large.format.text);
    FUZZ_CHECK(small.counts.bad_lines == large.counts.bad_lines || !small.ok, "%" PRId64 " and %" PRId64 " bad lines",
               small.counts.bad_lines, large.counts.bad_lines);
    FUZZ_CHECK(small.counts.separators == large.counts.separators || !small.ok,
               "%" PRId64 " and %" PRId64 " separators", small.counts.separators, large.counts.separators);
    if (small.ok) check_equal(&small, &large, "blocks");
    if (!is_packed) {
        FUZZ_CHECK(strcmp(small.error.text, large.error.text) == 0, "'%s' and '%s'", small.error.text,
                   large.error.text);
        check_plain(&large, input, format, block_bytes);
    }
    free_documents(&small);
    free_documents(&large);
    return 0;
}
