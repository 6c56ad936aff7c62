/* vocabulary.c: reading GPT-2's vocabulary files (see vocabulary.h), and reporting every kind of damage to them. */
#include "data/tokenizer/vocabulary.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/files.h"
#include "util/utf8.h"

enum {
    FILE_LIMIT = 1 << 26,    /* bytes; the published files have one million and less */
    LETTERS = 256 + 68,      /* the letters of bytes are code points below this; 68 bytes are not printable */
    NAME_SLOTS = 1 << 17,    /* slots of the table of tokens by their bytes */
    BIN_MAGIC = 20240328,    /* of gpt2_tokenizer.bin */
    BIN_HEADER_BYTES = 1024, /* 256 uint32: magic, version, token count, from version 2 on the end of a text */
};

static const char end_of_text[] = "<|endoftext|>";

/* What is needed only while the files are read. */
typedef struct Reader {
    Vocabulary *vocabulary;
    const char *encoder_path, *merges_path;
    int end;                         /* the token <|endoftext|>, which is the last one */
    int16_t byte_of_letter[LETTERS]; /* -1: not the letter of a byte */
    uint32_t *names;                 /* NAME_SLOTS of a hash table: token + 1 by its bytes, 0 in an empty slot */
    Error *error;
} Reader;

void vocabulary_letters(uint16_t letters[256]) {
    int others = 0;
    for (int byte = 0; byte < 256; byte++) {
        bool is_printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
        letters[byte] = (uint16_t)(is_printable ? byte : 256 + others++);
    }
}

static void set_letters(Reader *reader) {
    uint16_t letters[256];
    vocabulary_letters(letters);
    memset(reader->byte_of_letter, -1, sizeof reader->byte_of_letter);
    for (int byte = 0; byte < 256; byte++) reader->byte_of_letter[letters[byte]] = (int16_t)byte;
}

/* The bytes that `letters` stand for; returns how many, or -1 with the error set if there is another character. */
static int bytes_of_letters(const Reader *reader, const char *letters, size_t length, char *bytes, const char *place) {
    int count = 0;
    for (size_t at = 0, width; at < length; at += width) {
        int32_t letter = utf8_next(letters + at, length - at, &width);
        int byte = letter >= 0 && letter < LETTERS ? reader->byte_of_letter[letter] : -1;
        if (byte < 0) {
            error_set(reader->error,
                      "%s: the character at byte %zu of '%.*s' stands for no byte; expected one of GPT-2's 256", place,
                      at, (int)(length < 100 ? length : 100), letters);
            return -1;
        }
        bytes[count++] = (char)byte;
    }
    return count;
}

/* The slot that holds the token with these bytes, or the empty slot where it would go. */
static uint32_t *find_name(const Reader *reader, const char *bytes, size_t count) {
    uint64_t slot = files_checksum_memory(bytes, count) % NAME_SLOTS;
    for (; reader->names[slot]; slot = (slot + 1) % NAME_SLOTS) {
        size_t length;
        const char *name = vocabulary_bytes(reader->vocabulary, (int)reader->names[slot] - 1, &length);
        if (length == count && memcmp(name, bytes, count) == 0) break;
    }
    return &reader->names[slot];
}

/* ---- encoder.json ---- */

/* Puts each entry at the index that is its number. */
static bool order_entries(const Reader *reader, const cJSON *json, const cJSON **entries) {
    const cJSON *entry;
    cJSON_ArrayForEach(entry, json) {
        double number = cJSON_IsNumber(entry) ? entry->valuedouble : -1;
        if (!(number >= 0 && number <= reader->end && number == (int)number))
            return error_set(reader->error, "%s: the number of '%.100s' should be a whole one from 0 to %d",
                             reader->encoder_path, entry->string, reader->end);
        int token = (int)number;
        if (entries[token])
            return error_set(reader->error,
                             "%s: '%.100s' and '%.100s' have the same number, %d; each token must have its own",
                             reader->encoder_path, entries[token]->string, entry->string, token);
        entries[token] = entry;
    }
    for (int token = 0; token <= reader->end; token++)
        if (!entries[token])
            return error_set(reader->error, "%s has %d tokens and none with the number %d; GPT-2 has %d",
                             reader->encoder_path, cJSON_GetArraySize(json), token, reader->end + 1);
    return true;
}

static bool add_token(const Reader *reader, const char *letters, int token) {
    Vocabulary *v = reader->vocabulary;
    char *bytes = v->bytes + v->starts[token];
    int count = bytes_of_letters(reader, letters, strlen(letters), bytes, reader->encoder_path);
    if (count < 0) return false;
    if (count == 0)
        return error_set(reader->error, "%s: token %d is empty; it must have a byte", reader->encoder_path, token);
    v->starts[token + 1] = v->starts[token] + (uint32_t)count;
    uint32_t *name = find_name(reader, bytes, (size_t)count);
    if (*name)
        return error_set(reader->error, "%s: tokens %u and %d are both '%.100s'; each must have its own bytes",
                         reader->encoder_path, *name - 1, token, letters);
    *name = (uint32_t)token + 1;
    return true;
}

static bool find_bytes(const Reader *reader) {
    for (int byte = 0; byte < 256; byte++) {
        uint32_t name = *find_name(reader, &(char){(char)byte}, 1);
        if (!name)
            return error_set(reader->error, "%s has no token for the byte 0x%02x; each byte must have one",
                             reader->encoder_path, byte);
        reader->vocabulary->byte_tokens[byte] = (uint16_t)(name - 1);
    }
    if (*find_name(reader, end_of_text, strlen(end_of_text)) != (uint32_t)reader->end + 1)
        return error_set(reader->error, "%s: token %d should be %s", reader->encoder_path, reader->end, end_of_text);
    return true;
}

static bool read_entries(const Reader *reader, const cJSON *json, size_t file_bytes) {
    Vocabulary *v = reader->vocabulary;
    if (!cJSON_IsObject(json))
        return error_set(reader->error, "%s is no JSON object; expected one of tokens and their numbers",
                         reader->encoder_path);
    v->token_count = reader->end + 1;
    v->end_of_text = reader->end;
    const cJSON **entries = checked_calloc((size_t)v->token_count, sizeof(const cJSON *), "GPT-2's tokens");
    v->bytes = checked_malloc(file_bytes, "GPT-2's tokens"); /* no letter is shorter than its byte */
    v->starts = checked_calloc((size_t)v->token_count + 1, sizeof *v->starts, "GPT-2's tokens");
    bool ok = order_entries(reader, json, entries);
    for (int token = 0; ok && token < v->token_count; token++) ok = add_token(reader, entries[token]->string, token);
    free(entries);
    return ok && find_bytes(reader);
}

static bool read_encoder(const Reader *reader) {
    size_t bytes;
    char *text = files_read(reader->encoder_path, FILE_LIMIT, &bytes, reader->error);
    if (!text) return false;
    const char *end = text;
    cJSON *json = cJSON_ParseWithLengthOpts(text, bytes + 1, &end, true);
    bool ok = json ? read_entries(reader, json, bytes)
                   : error_set(reader->error, "%s is no JSON from byte %td on; expected tokens and their numbers",
                               reader->encoder_path, end - text);
    cJSON_Delete(json);
    free(text);
    return ok;
}

/* ---- vocab.bpe ---- */

/* The token written as `letters`, or -1 with the error set. */
static int token_of_letters(const Reader *reader, const char *letters, size_t length, int below, const char *place) {
    char bytes[256];
    if (length == 0 || length > sizeof bytes) {
        error_set(reader->error, "%s is no merge; expected two tokens with a space between", place);
        return -1;
    }
    int count = bytes_of_letters(reader, letters, length, bytes, place);
    if (count < 0) return -1;
    int token = (int)*find_name(reader, bytes, (size_t)count) - 1;
    if (token < 0)
        error_set(reader->error, "%s: '%.*s' is no token; expected one of %s", place, (int)length, letters,
                  reader->encoder_path);
    else if (token >= below)
        error_set(reader->error, "%s: '%.*s' is merged before its own merge, which comes later", place, (int)length,
                  letters);
    return token < below ? token : -1;
}

static void add_merge(Vocabulary *v, int left, int right, int token) {
    uint32_t slot = vocabulary_pair_slot((unsigned)left, (unsigned)right);
    while (v->merges[slot].token != VOCABULARY_NO_TOKEN) slot = (slot + 1) % VOCABULARY_PAIR_SLOTS;
    v->merges[slot] = (MergeSlot){(uint16_t)left, (uint16_t)right, (uint16_t)token};
}

static bool read_merge(const Reader *reader, const char *line, size_t length, int token, const char *place) {
    Vocabulary *v = reader->vocabulary;
    const char *space = memchr(line, ' ', length);
    size_t left_length = space ? (size_t)(space - line) : length, right_length = space ? length - left_length - 1 : 0;
    int left = token_of_letters(reader, line, left_length, token, place);
    int right = left < 0 ? -1 : token_of_letters(reader, line + left_length + 1, right_length, token, place);
    if (right < 0) return false;
    size_t bytes, left_bytes, right_bytes;
    const char *merged = vocabulary_bytes(v, token, &bytes), *left_text = vocabulary_bytes(v, left, &left_bytes),
               *right_text = vocabulary_bytes(v, right, &right_bytes);
    if (bytes != left_bytes + right_bytes || memcmp(merged, left_text, left_bytes) != 0 ||
        memcmp(merged + left_bytes, right_text, right_bytes) != 0)
        return error_set(reader->error, "%s: '%.*s' should make token %d, which is another one in %s", place,
                         (int)length, line, token, reader->encoder_path);
    add_merge(v, left, right, token);
    return true;
}

static bool read_merge_lines(const Reader *reader, const char *text, size_t bytes) {
    int line_number = 1, token = 256;
    bool ok = true;
    for (const char *line = text, *end = text + bytes; ok && line < end; line_number++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t length = (size_t)((newline ? newline : end) - line);
        if (line_number > 1 || line[0] != '#') { /* the first line may name a version */
            char *place = format_string("%s line %d", reader->merges_path, line_number);
            ok = token < reader->end
                     ? read_merge(reader, line, length, token, place)
                     : error_set(reader->error, "%s is one merge too many; GPT-2 has %d", place, reader->end - 256);
            free(place);
            token++;
        }
        line += length + 1;
    }
    if (ok && token < reader->end)
        return error_set(reader->error, "%s ends after %d merges; GPT-2 has %d", reader->merges_path, token - 256,
                         reader->end - 256);
    return ok;
}

static bool read_merges(const Reader *reader) {
    Vocabulary *v = reader->vocabulary;
    size_t bytes;
    char *text = files_read(reader->merges_path, FILE_LIMIT, &bytes, reader->error);
    if (!text) return false;
    v->merges = checked_malloc(VOCABULARY_PAIR_SLOTS * sizeof *v->merges, "GPT-2's merges");
    memset(v->merges, 0xff, VOCABULARY_PAIR_SLOTS * sizeof *v->merges); /* all slots are empty */
    bool ok = read_merge_lines(reader, text, bytes);
    v->has_merges = ok;
    free(text);
    return ok;
}

static bool read_published(Vocabulary *vocabulary, const char *encoder_path, const char *merges_path, int merges,
                           Error *error) {
    Reader reader = {.vocabulary = vocabulary,
                     .encoder_path = encoder_path,
                     .merges_path = merges_path,
                     .end = 256 + merges,
                     .error = error};
    set_letters(&reader);
    reader.names = checked_calloc(NAME_SLOTS, sizeof *reader.names, "GPT-2's tokens");
    bool ok = read_encoder(&reader) && read_merges(&reader);
    free(reader.names);
    return ok;
}

/* ---- gpt2_tokenizer.bin ---- */

static bool read_bin_header(Vocabulary *v, const char *path, const char *data, size_t bytes, Error *error) {
    uint32_t header[4];
    if (bytes < BIN_HEADER_BYTES)
        return error_set(error, "%s has %zu bytes; its header alone has %d", path, bytes, BIN_HEADER_BYTES);
    memcpy(header, data, sizeof header);
    if (header[0] != BIN_MAGIC || header[1] < 1 || header[1] > 2)
        return error_set(error, "%s begins with %" PRIu32 " and %" PRIu32 "; llm.c's tokenizer file with %d and 1 or 2",
                         path, header[0], header[1], BIN_MAGIC);
    if (header[2] < 1 || header[2] > UINT16_MAX)
        return error_set(error, "%s: %" PRIu32 " tokens; expected 1 to %d", path, header[2], UINT16_MAX);
    uint32_t end = header[1] == 1 ? VOCABULARY_END : header[3];
    if (header[1] == 2 && end >= header[2])
        return error_set(error, "%s: the end of a text is token %" PRIu32 ", but there are only %" PRIu32, path, end,
                         header[2]);
    v->token_count = (int)header[2];
    v->end_of_text = end < header[2] ? (int)end : -1;
    return true;
}

/* Each token is a byte with its length and then its bytes. */
static bool read_bin_tokens(Vocabulary *v, const char *path, const char *data, size_t bytes, Error *error) {
    size_t at = BIN_HEADER_BYTES;
    v->bytes = checked_malloc(bytes, "tokens");
    v->starts = checked_calloc((size_t)v->token_count + 1, sizeof *v->starts, "tokens");
    for (int token = 0; token < v->token_count; token++) {
        size_t length = at < bytes ? (unsigned char)data[at] : 0;
        if (at >= bytes || length > bytes - at - 1)
            return error_set(error, "%s ends in token %d; expected %d tokens", path, token, v->token_count);
        if (length == 0)
            return error_set(error, "%s: token %d at byte %zu is empty; it must have a byte", path, token, at);
        memcpy(v->bytes + v->starts[token], data + at + 1, length);
        v->starts[token + 1] = v->starts[token] + (uint32_t)length;
        at += length + 1;
    }
    return at == bytes ||
           error_set(error, "%s has %zu bytes; its %d tokens end after %zu", path, bytes, v->token_count, at);
}

static bool read_bin(Vocabulary *vocabulary, const char *path, Error *error) {
    size_t bytes;
    char *data = files_read(path, FILE_LIMIT, &bytes, error);
    if (!data) return false;
    bool ok =
        read_bin_header(vocabulary, path, data, bytes, error) && read_bin_tokens(vocabulary, path, data, bytes, error);
    free(data);
    return ok;
}

/* ---- open and close ---- */

const char *const vocabulary_files[VOCABULARY_FILES] = {"encoder.json", "vocab.bpe", "vocab.json", "merges.txt"};
static const char bin_name[] = "gpt2_tokenizer.bin";

static bool is_in(const char *folder, const char *name) {
    char *path = format_string("%s/%s", folder, name);
    bool is_file = files_is_file(path);
    free(path);
    return is_file;
}

/* The names that the published files have in the folder; NULL if it has neither. */
static const char *const *published_in(const char *folder) {
    for (int i = 0; i < VOCABULARY_FILES; i += 2)
        if (is_in(folder, vocabulary_files[i]) || is_in(folder, vocabulary_files[i + 1])) return vocabulary_files + i;
    return NULL;
}

bool vocabulary_is_in(const char *folder) { return published_in(folder) || is_in(folder, bin_name); }

static bool read_folder(Vocabulary *v, const char *folder, int merges, Error *error) {
    const char *const *names = published_in(folder);
    char *first = format_string("%s/%s", folder, names ? names[0] : bin_name);
    char *second = format_string("%s/%s", folder, names ? names[1] : "");
    bool ok = names ? read_published(v, first, second, merges, error) : read_bin(v, first, error);
    free(first);
    free(second);
    return ok;
}

bool vocabulary_open(Vocabulary *vocabulary, const char *folder, Error *error) {
    return vocabulary_open_sized(vocabulary, folder, VOCABULARY_MERGES, error);
}

bool vocabulary_open_sized(Vocabulary *vocabulary, const char *folder, int merges, Error *error) {
    Error reason;
    *vocabulary = (Vocabulary){.end_of_text = -1};
    if (read_folder(vocabulary, folder, merges, &reason)) return true;
    vocabulary_close(vocabulary);
    return error_set(error, "%s; bash data/gpt2/download.sh fetches GPT-2's files", reason.text);
}

void vocabulary_close(Vocabulary *vocabulary) {
    free(vocabulary->bytes);
    free(vocabulary->starts);
    free(vocabulary->merges);
    *vocabulary = (Vocabulary){0};
}
