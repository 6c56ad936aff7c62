/* documents.c: see documents.h. */
#include "data/prepare/documents.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/utf8.h"

/* What is being read, and how it has ended. */
typedef struct Reading {
    TextFile *file;
    const DocumentFormat *format;
    const DocumentSink *sink;
    DocumentCounts *counts;
    int64_t line;           /* number of the line that is being read, from 1 */
    int64_t document_bytes; /* of this document, given to the sink so far */
    bool has_good_line;     /* JSON Lines: some line has the field */
    Error *error;
    bool failed; /* error says why */
} Reading;

/* ---- bytes ---- */

enum { END_OF_TEXT = -1 }; /* also after a failure */

/* The next byte, which is not taken. */
static inline int peek(Reading *r) {
    if (r->file->at == r->file->end && (r->failed || !text_file_read(r->file, &r->failed, r->error)))
        return END_OF_TEXT;
    return (unsigned char)*r->file->at;
}

static inline void take(Reading *r) { r->file->at++; }

static bool give_text(Reading *r, const char *text, size_t bytes) {
    if (bytes > 0 && !r->sink->text(r->sink->context, text, bytes, r->error)) r->failed = true;
    r->document_bytes += (int64_t)bytes;
    return !r->failed;
}

static bool give_end(Reading *r) {
    if (!r->sink->end(r->sink->context, r->error)) r->failed = true;
    r->document_bytes = 0;
    return !r->failed;
}

/* Takes the part of the line that has been read so far. The '\n' at its end is not taken. */
static const char *take_piece(Reading *r, size_t *bytes) {
    const char *begin = r->file->at, *newline = memchr(begin, '\n', (size_t)(r->file->end - begin));
    r->file->at = newline ? newline : r->file->end;
    *bytes = (size_t)(r->file->at - begin);
    return begin;
}

/* ---- the whole file is a document ---- */

static bool read_whole(Reading *r) {
    while (peek(r) != END_OF_TEXT) {
        const char *begin = r->file->at;
        r->file->at = r->file->end;
        if (!give_text(r, begin, (size_t)(r->file->end - begin))) return false;
    }
    return !r->failed && give_end(r);
}

/* ---- lines that separate ---- */

/* The beginning of a line that may be a separator. */
typedef struct LineBegin {
    size_t separator_bytes; /* how many bytes of the separator it has */
    char blanks[SEPARATOR_BLANKS];
    size_t blank_count; /* blanks after the whole separator */
} LineBegin;

static bool is_blank(int c) { return c == ' ' || c == '\t' || c == '\r'; }

/* Takes the beginning of the line, as far as it is a separator with blanks. Returns whether that is the whole line. */
static bool take_separator(Reading *r, LineBegin *begin) {
    const char *separator = r->format->separator;
    size_t length = strlen(separator);
    begin->separator_bytes = begin->blank_count = 0;
    while (begin->separator_bytes < length && peek(r) == (unsigned char)separator[begin->separator_bytes]) {
        take(r);
        begin->separator_bytes++;
    }
    if (begin->separator_bytes < length) return false;
    int c;
    while (is_blank(c = peek(r)) && begin->blank_count < SEPARATOR_BLANKS) {
        begin->blanks[begin->blank_count++] = (char)c;
        take(r);
    }
    return c == '\n' || c == END_OF_TEXT;
}

/* Gives the rest of the line to the sink, without its end: "\n", which is not taken, or "\r\n", of which '\r' is
 * taken. */
static bool give_line(Reading *r, const char **line_end) {
    bool after_return = false;
    int c;
    while ((c = peek(r)) != END_OF_TEXT && c != '\n') {
        size_t bytes;
        const char *text = take_piece(r, &bytes);
        if (after_return && !give_text(r, "\r", 1)) return false;
        after_return = text[bytes - 1] == '\r';
        if (!give_text(r, text, bytes - after_return)) return false;
    }
    *line_end = after_return ? "\r\n" : "\n";
    return !r->failed && (c == '\n' || !after_return || give_text(r, "\r", 1));
}

static bool read_separated(Reading *r) {
    const char *line_end = ""; /* of the document's previous line, not given to the sink yet */
    while (peek(r) != END_OF_TEXT) {
        LineBegin begin;
        if (take_separator(r, &begin)) {
            r->counts->separators++;
            if (r->document_bytes > 0 && !give_end(r)) return false;
            line_end = "";
        } else if (!give_text(r, line_end, strlen(line_end)) ||
                   !give_text(r, r->format->separator, begin.separator_bytes) ||
                   !give_text(r, begin.blanks, begin.blank_count) || !give_line(r, &line_end)) {
            return false;
        }
        if (peek(r) == '\n') take(r);
    }
    return !r->failed && (r->document_bytes == 0 || give_end(r));
}

/* ---- JSON Lines ---- */

/* The text of a field that is not with the sink yet. */
typedef struct Held {
    char *text;
    size_t bytes, capacity;
    bool handed_on; /* the sink already has its beginning */
} Held;

/* The state of a line. After the first problem everything is false. */
typedef struct Json {
    Reading *reading;
    Held *held;
    bool found; /* the field has been read */
    char problem[300];
    char members[100]; /* names in the object, as far as they fit, each in quotation marks; empty after a good line */
    size_t member_bytes;
} Json;

enum { DEEPEST = 500 };

static bool PRINTF_LIKE(2, 3) bad(Json *json, const char *format, ...) {
    if (json->problem[0]) return false;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(json->problem, sizeof json->problem, format, arguments);
    va_end(arguments);
    return false;
}

static bool unexpected(Json *json, const char *wanted) {
    int c = peek(json->reading);
    bool is_first = json->reading->line == 1 && c == '\n';
    if (c == END_OF_TEXT || c == '\n')
        return bad(json, "the line ends where %s should be%s", wanted,
                   is_first ? "; jq -c . FILE puts each object on a line of its own" : "");
    if (c < 0x20 || c >= 0x7f) return bad(json, "the byte 0x%02x where %s should be", (unsigned)c, wanted);
    return bad(json, "'%c' where %s should be", c, wanted);
}

static void skip_spaces(Json *json) {
    for (int c; (c = peek(json->reading)) == ' ' || c == '\t' || c == '\r';) take(json->reading);
}

static bool expect(Json *json, char c, const char *wanted) {
    skip_spaces(json);
    if (peek(json->reading) != c) return unexpected(json, wanted);
    take(json->reading);
    return true;
}

/* Where the bytes of a string go: they are compared with a name, appended to the field, or dropped. */
typedef struct Target {
    const char *name; /* the part not compared yet; NULL once they differ */
    bool is_member;   /* the string names a member of the outermost object */
    Held *field;
} Target;

static void hold(Held *held, const char *text, size_t bytes) {
    if (held->bytes + bytes > held->capacity) {
        held->capacity = 2 * held->capacity + bytes + 4096;
        held->text = checked_realloc(held->text, held->capacity, "the text of a document");
    }
    memcpy(held->text + held->bytes, text, bytes);
    held->bytes += bytes;
}

static void note_member(Json *json, const char *text, size_t bytes) {
    size_t room = sizeof json->members - 1 - json->member_bytes, count = bytes < room ? bytes : room;
    memcpy(json->members + json->member_bytes, text, count);
    json->member_bytes += count;
}

static bool put(Json *json, Target *target, const char *text, size_t bytes) {
    if (target->is_member) note_member(json, text, bytes);
    for (size_t i = 0; target->name && i < bytes; i++)
        target->name = *target->name && *target->name == text[i] ? target->name + 1 : NULL;
    Held *held = target->field;
    if (!held) return true;
    hold(held, text, bytes);
    if (held->bytes < DOCUMENT_BYTES_HELD) return true;
    held->handed_on = true;
    size_t all = held->bytes;
    held->bytes = 0;
    return give_text(json->reading, held->text, all);
}

/* Puts a code point as UTF-8; half of a surrogate pair, which has no UTF-8, becomes U+FFFD. */
static bool put_code_point(Json *json, Target *target, uint32_t c) {
    if (c >= 0xd800 && c < 0xe000) c = 0xfffd;
    char utf8[4];
    size_t bytes = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = bytes - 1; i > 0; i--, c >>= 6) utf8[i] = (char)(0x80 | (c & 0x3f));
    utf8[0] = (char)(first[bytes] | c);
    return put(json, target, utf8, bytes);
}

static bool read_hex4(Json *json, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(json->reading);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return unexpected(json, "one of four hexadecimal digits");
        *value = *value << 4 | (uint32_t)digit;
        take(json->reading);
    }
    return true;
}

static bool read_escape(Json *json, Target *target);

/* Puts a UTF-16 unit. Half of a surrogate pair without the other half becomes U+FFFD, and what follows is read by
 * itself. */
static bool put_unit(Json *json, Target *target, uint32_t c) {
    uint32_t low;
    while (c >= 0xd800 && c < 0xdc00 && peek(json->reading) == '\\') {
        take(json->reading);
        if (peek(json->reading) != 'u') return put_code_point(json, target, c) && read_escape(json, target);
        take(json->reading);
        if (!read_hex4(json, &low)) return false;
        if (low >= 0xdc00 && low < 0xe000)
            return put_code_point(json, target, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00));
        if (!put_code_point(json, target, c)) return false;
        c = low;
    }
    return put_code_point(json, target, c);
}

/* Reads an escape after its backslash. */
static bool read_escape(Json *json, Target *target) {
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    int c = peek(json->reading);
    const char *name = c > 0 ? strchr(names, c) : NULL;
    uint32_t unit;
    if (!name && c != 'u') return unexpected(json, "one of \"\\/bfnrtu, after a backslash,");
    take(json->reading);
    if (name) return put(json, target, &meanings[name - names], 1);
    return read_hex4(json, &unit) && put_unit(json, target, unit);
}

static const char *end_of_plain(const char *at, const char *end) {
    while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= 0x20) at++;
    return at;
}

/* Reads a string after its first quotation mark. */
static bool read_string(Json *json, Target *target) {
    TextFile *file = json->reading->file;
    for (int c; (c = peek(json->reading)) != '"';) {
        if (c < 0x20) return unexpected(json, "the end of a string"); /* END_OF_TEXT too */
        if (c == '\\') {
            take(json->reading);
            if (!read_escape(json, target)) return false;
            continue;
        }
        const char *begin = file->at;
        file->at = end_of_plain(begin, file->end);
        if (!put(json, target, begin, (size_t)(file->at - begin))) return false;
    }
    take(json->reading);
    return true;
}

static bool skip_word(Json *json, const char *word) {
    for (; *word; word++, take(json->reading))
        if (peek(json->reading) != (unsigned char)*word) return unexpected(json, "true, false or null");
    return true;
}

static bool skip_digits(Json *json) {
    int c = peek(json->reading);
    if (c < '0' || c > '9') return unexpected(json, "a digit");
    for (; c >= '0' && c <= '9'; c = peek(json->reading)) take(json->reading);
    return true;
}

static bool skip_number(Json *json) {
    Reading *r = json->reading;
    if (peek(r) == '-') take(r);
    if (peek(r) == '0')
        take(r);
    else if (!skip_digits(json))
        return false;
    if (peek(r) == '.') {
        take(r);
        if (!skip_digits(json)) return false;
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        take(r);
        if (peek(r) == '+' || peek(r) == '-') take(r);
        return skip_digits(json);
    }
    return true;
}

static bool read_object(Json *json, const char *field, int depth);
static bool skip_array(Json *json, int depth);

static bool skip_value(Json *json, int depth) {
    static const Target nowhere;
    Target target = nowhere;
    skip_spaces(json);
    int c = peek(json->reading);
    if (depth == DEEPEST) return bad(json, "more than %d arrays and objects in each other", DEEPEST);
    switch (c) {
    case '"':
        take(json->reading);
        return read_string(json, &target);
    case '{':
        return read_object(json, NULL, depth + 1);
    case '[':
        return skip_array(json, depth + 1);
    case 't':
        return skip_word(json, "true");
    case 'f':
        return skip_word(json, "false");
    case 'n':
        return skip_word(json, "null");
    default:
        return c == '-' || (c >= '0' && c <= '9') ? skip_number(json) : unexpected(json, "a value");
    }
}

static bool skip_array(Json *json, int depth) {
    take(json->reading);
    skip_spaces(json);
    for (bool first = true; peek(json->reading) != ']'; first = false) {
        if (!first && !expect(json, ',', "',' or ']'")) return false;
        if (!skip_value(json, depth)) return false;
        skip_spaces(json);
    }
    take(json->reading);
    return true;
}

/* Reads the field. If several members have its name, the last one counts, as in other readers of JSON. */
static bool read_field(Json *json, const char *field) {
    Target target = {.field = json->held};
    skip_spaces(json);
    if (peek(json->reading) != '"') return bad(json, "\"%.100s\" is not a string", field);
    if (json->held->handed_on) return bad(json, "\"%.100s\" stands there twice, and is long", field);
    take(json->reading);
    json->held->bytes = 0;
    json->found = true;
    return read_string(json, &target);
}

static bool read_member(Json *json, const char *field, int depth) {
    Target target = {.name = field, .is_member = field && !json->found && !json->reading->has_good_line};
    if (!expect(json, '"', "a name in quotation marks")) return false;
    if (target.is_member) note_member(json, json->member_bytes > 0 ? ", \"" : "\"", json->member_bytes > 0 ? 3 : 1);
    if (!read_string(json, &target)) return false;
    if (target.is_member) note_member(json, "\"", 1);
    if (!expect(json, ':', "':'")) return false;
    bool is_it = target.name && !*target.name;
    return is_it ? read_field(json, field) : skip_value(json, depth);
}

/* Reads an object, and keeps the text of its member `field` unless that is NULL. */
static bool read_object(Json *json, const char *field, int depth) {
    take(json->reading);
    skip_spaces(json);
    for (bool first = true; peek(json->reading) != '}'; first = false) {
        if (!first && !expect(json, ',', "',' or '}'")) return false;
        if (!read_member(json, field, depth)) return false;
        skip_spaces(json);
    }
    take(json->reading);
    return true;
}

static bool read_line(Json *json, const char *field) {
    skip_spaces(json);
    if (peek(json->reading) == '[')
        return bad(json, "'[' where a JSON object should be; of an array, jq -c '.[]' makes JSON Lines");
    if (peek(json->reading) != '{') return unexpected(json, "a JSON object");
    if (!read_object(json, field, 0)) return false;
    skip_spaces(json);
    int c = peek(json->reading);
    if (c != '\n' && c != END_OF_TEXT) return unexpected(json, "the end of the line");
    if (json->found) return true;
    bool is_cut = json->member_bytes == sizeof json->members - 1;
    return bad(json, "there is no \"%.100s\" in it%s%s%s", field, json->member_bytes > 0 ? "; it has " : "",
               json->members, is_cut ? "..." : "");
}

/* Skips a byte order mark, which may begin any line, since people join files. */
static bool skip_mark(Json *json) {
    if (peek(json->reading) != (unsigned char)UTF8_MARK[0]) return true;
    for (const char *mark = UTF8_MARK; *mark; mark++, take(json->reading))
        if (peek(json->reading) != (unsigned char)*mark) return unexpected(json, "a JSON object");
    return true;
}

static void skip_line(Reading *r) {
    size_t bytes;
    for (int c; (c = peek(r)) != END_OF_TEXT && c != '\n';) take_piece(r, &bytes);
}

/* Reads a line; one with nothing but spaces is no document. */
static bool read_json_line(Reading *r, Held *held) {
    Json json = {.reading = r, .held = held};
    held->bytes = 0;
    held->handed_on = false;
    bool right = skip_mark(&json);
    if (right) skip_spaces(&json);
    if (right && (peek(r) == '\n' || peek(r) == END_OF_TEXT)) return !r->failed;
    right = right && read_line(&json, r->format->field);
    if (r->failed) return false;
    r->has_good_line = r->has_good_line || right;
    if (right) return give_text(r, held->text, held->bytes) && give_end(r);
    if (!r->format->skip_bad_lines || held->handed_on) {
        r->failed = true;
        return error_set(r->error, "%.500s: line %" PRId64 ": %s; %s", r->file->path, r->line, json.problem,
                         held->handed_on ? "it is too long for --skip_bad_lines to pass over it: correct the file"
                                         : "correct the file, or pass over such lines with --skip_bad_lines");
    }
    if (r->counts->bad_lines++ == 0)
        error_set(&r->counts->first_bad, "%.500s: line %" PRId64 ": %s", r->file->path, r->line, json.problem);
    skip_line(r);
    return !r->failed;
}

static bool read_json_lines(Reading *r) {
    Held held = {0};
    bool ok = true;
    while (ok && peek(r) != END_OF_TEXT) {
        r->line++;
        ok = read_json_line(r, &held);
        if (ok && peek(r) == '\n') take(r);
    }
    free(held.text);
    return ok && !r->failed;
}

bool documents_read(TextFile *file, const DocumentFormat *format, const DocumentSink *sink, DocumentCounts *counts,
                    Error *error) {
    Reading reading = {.file = file, .format = format, .sink = sink, .counts = counts, .error = error};
    if (format->field) return read_json_lines(&reading);
    return format->separator ? read_separated(&reading) : read_whole(&reading);
}
