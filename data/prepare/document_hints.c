/* document_hints.c: see document_hints.h. */
#include "data/prepare/document_hints.h"

#include <string.h>

#include "util/utf8.h"

const char *const document_hints[DOCUMENT_HINTS] = {
    [HINT_JSON_LINES] = "begins with a JSON object, and is taken as plain text; if its lines are JSON Lines, give "
                        "--field=NAME, the member that is the text",
    [HINT_JSON_ARRAY] =
        "begins with a JSON array, and is taken as plain text; jq -c '.[]' FILE makes JSON Lines of it, "
        "for --field=NAME",
    [HINT_END_OF_TEXT] =
        "has <|endoftext|> in it, which is taken as plain text; if it stands on lines of its own, give "
        "--separator='<|endoftext|>'",
    [HINT_TABLE] = "is a table by its name, and is taken as plain text; to take one column, make JSON Lines of it, for "
                   "--field=NAME",
    [HINT_RETURNS] = "has one line, since its lines end in \\r alone; tr '\\r' '\\n' <FILE makes lines of them",
    [HINT_REPLACED] = "is mostly U+FFFD: its characters were lost when it was converted; convert the original anew",
};

static bool has_ending(const char *path, const char *ending) {
    size_t length = strlen(path), bytes = strlen(ending);
    return length > bytes && strcmp(path + length - bytes, ending) == 0;
}

static bool is_table(const char *path) {
    static const char *const endings[] = {".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".csv.xz"};
    for (size_t i = 0; i < ARRAY_LENGTH(endings); i++)
        if (has_ending(path, endings[i])) return true;
    return false;
}

/* Skips white space and takes the next character; 0 at the end. */
static char next_visible(const char **at, const char *end) {
    while (*at < end && strchr(" \t\r\n", **at) && **at) ++*at;
    return *at < end ? *(*at)++ : 0;
}

static bool is_mostly_replaced(const char *text, size_t bytes) {
    size_t replaced = 0, width = strlen(UTF8_REPLACEMENT);
    const char *end = text + bytes;
    if (!memchr(text, (unsigned char)UTF8_REPLACEMENT[0], bytes)) return false;
    for (const char *at = text; (at = memmem(at, (size_t)(end - at), UTF8_REPLACEMENT, width)); at += width) replaced++;
    return bytes > 0 && 2 * width * replaced >= bytes;
}

DocumentHint document_hint(const TextFile *file, const DocumentFormat *format) {
    static const char end_of_text[] = "<|endoftext|>";
    const char *at = file->at;
    size_t bytes = (size_t)(file->end - at);
    bool has_lines = format->separator || format->field;
    if (is_mostly_replaced(at, bytes)) return HINT_REPLACED;
    if (has_lines) return memchr(at, '\r', bytes) && !memchr(at, '\n', bytes) ? HINT_RETURNS : HINT_NONE;
    if (memchr(at, '<', bytes) && memmem(at, bytes, end_of_text, strlen(end_of_text))) return HINT_END_OF_TEXT;
    if (is_table(file->path)) return HINT_TABLE;
    char first = next_visible(&at, file->end), second = next_visible(&at, file->end);
    if (first == '{' && second == '"') return HINT_JSON_LINES;
    return first == '[' && second == '{' ? HINT_JSON_ARRAY : HINT_NONE;
}
