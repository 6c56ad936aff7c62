/* hellaswag.c: see hellaswag.h. */
#include "data/hellaswag.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/foreign.h"
#include "data/unpack.h"
#include "util/utf8.h"
#include "util/files.h"

enum { HEADER_INTS = 8, EXAMPLE_INTS = 2 + HELLASWAG_ENDINGS };

/* The published set has 10 MB. */
static const size_t LARGEST_FILE = (size_t)1 << 30;

struct Hellaswag {
    char *file;
    int count, vocab_size;
    const uint16_t **tokens; /* of each example */
};

/* ---- reading ---- */

/* Numbers of an example as the file has them; they may lie at any address. */
static void read_numbers(const Hellaswag *set, int i, int32_t numbers[EXAMPLE_INTS]) {
    size_t at = HEADER_INTS + (size_t)i * EXAMPLE_INTS;
    memcpy(numbers, set->file + at * sizeof(int32_t), EXAMPLE_INTS * sizeof(int32_t));
}

/* Also for a file of tokens, which looks like nothing else. */
static bool refuse_format(const char *path, const char *file, size_t bytes, Error *error) {
    size_t count = bytes < FOREIGN_BYTES ? bytes : FOREIGN_BYTES;
    const ForeignFormat *format = foreign_format(FOREIGN_AS_TOKENS, file, count, (int64_t)bytes);
    return error_set(error,
                     "%s is no HellaSwag file%s%s; bash data/hellaswag/prepare.sh makes one with GPT-2's tokenizer, "
                     "prepare_data --hellaswag with another",
                     path, format ? ": it looks like " : "", format ? format->name : "");
}

/* Takes the file's own numbers from its header. */
static bool read_header(Hellaswag *set, size_t bytes, const char *path, int vocab_size, Error *error) {
    int32_t header[HEADER_INTS];
    if (bytes < sizeof header || (memcpy(header, set->file, sizeof header), header[0] != HELLASWAG_MAGIC))
        return refuse_format(path, set->file, bytes, error);
    if (header[1] != HELLASWAG_VERSION)
        return error_set(error, "%s has version %d; only version %d can be read", path, header[1], HELLASWAG_VERSION);
    if (header[2] < 1 || header[2] > vocab_size)
        return error_set(error, "%s is made of tokens of a vocabulary of %d, but vocab_size is %d", path, header[2],
                         vocab_size);
    set->vocab_size = header[2];
    set->count = header[3];
    if (set->count < 1 || (size_t)set->count > (bytes - sizeof header) / (EXAMPLE_INTS * sizeof(int32_t)))
        return error_set(error, "%s is damaged: its header says %d examples, and it has %zu bytes", path, set->count,
                         bytes);
    return true;
}

/* Where each example's tokens are, and that they fill the file. */
static bool find_tokens(Hellaswag *set, size_t bytes, const char *path, Error *error) {
    size_t begin = (HEADER_INTS + (size_t)set->count * EXAMPLE_INTS) * sizeof(int32_t);
    size_t at = 0, most = (bytes - begin) / sizeof(uint16_t);
    set->tokens = checked_calloc((size_t)set->count, sizeof *set->tokens, "HellaSwag");
    for (int i = 0; i < set->count; i++) {
        int32_t numbers[EXAMPLE_INTS];
        read_numbers(set, i, numbers);
        if (numbers[0] < 0 || numbers[0] >= HELLASWAG_ENDINGS)
            return error_set(error, "%s is damaged: example %d says that ending %d is right", path, i, numbers[0]);
        set->tokens[i] = (const uint16_t *)(set->file + begin) + at;
        for (int k = 1; k < EXAMPLE_INTS; k++) {
            if (numbers[k] < 1 || (size_t)numbers[k] > most - at)
                return error_set(error, "%s is damaged or cut off: example %d has a part of %d tokens", path, i,
                                 numbers[k]);
            at += (size_t)numbers[k];
        }
    }
    if (begin + at * sizeof(uint16_t) != bytes)
        return error_set(error, "%s is damaged: its examples have %zu tokens, and it has %zu bytes", path, at, bytes);
    return true;
}

static bool check_tokens(const Hellaswag *set, size_t bytes, int vocab_size, const char *path, Error *error) {
    const uint16_t *end = (const uint16_t *)(set->file + bytes);
    for (const uint16_t *token = set->tokens[0]; token < end; token++)
        if (*token >= vocab_size)
            return error_set(error, "%s: token %td is %d, but vocab_size is %d", path, token - set->tokens[0], *token,
                             vocab_size);
    return true;
}

bool hellaswag_open(Hellaswag **set, const char *path, int vocab_size, Error *error) {
    size_t bytes;
    char *file = files_read(path, LARGEST_FILE, &bytes, error);
    if (!file) return false;
    Hellaswag *opened = checked_calloc(1, sizeof *opened, "HellaSwag");
    opened->file = file;
    if (read_header(opened, bytes, path, vocab_size, error) && find_tokens(opened, bytes, path, error) &&
        check_tokens(opened, bytes, vocab_size, path, error)) {
        *set = opened;
        return true;
    }
    hellaswag_close(opened);
    return false;
}

void hellaswag_close(Hellaswag *set) {
    if (!set) return;
    free(set->tokens);
    free(set->file);
    free(set);
}

int hellaswag_count(const Hellaswag *set) { return set->count; }

int hellaswag_vocab_size(const Hellaswag *set) { return set->vocab_size; }

HellaswagExample hellaswag_example(const Hellaswag *set, int i) {
    int32_t numbers[EXAMPLE_INTS];
    read_numbers(set, i, numbers);
    HellaswagExample example = {.label = numbers[0], .context_count = numbers[1], .context = set->tokens[i]};
    const uint16_t *at = example.context + example.context_count;
    for (int k = 0; k < HELLASWAG_ENDINGS; k++) {
        example.endings[k] = at;
        example.ending_counts[k] = numbers[2 + k];
        at += numbers[2 + k];
    }
    return example;
}

/* ---- preparing ---- */

typedef struct Preparation {
    Encoder *encoder;
    TokenBuffer tokens; /* of all examples */
    int32_t *numbers;   /* (count, EXAMPLE_INTS) */
    int count, capacity;
} Preparation;

/* How many tokens the text has behind `before`, which are appended. */
static int32_t encode(Preparation *p, const char *before, const char *text) {
    char *whole = format_string("%s%s", before, text);
    size_t so_far = p->tokens.count;
    encoder_encode(p->encoder, whole, strlen(whole), true, &p->tokens);
    free(whole);
    return (int32_t)(p->tokens.count - so_far);
}

/* A number, or a string that is one, as some copies of the set have it; else -1. */
static int label_of(const cJSON *json) {
    const cJSON *label = cJSON_GetObjectItemCaseSensitive(json, "label");
    double value = cJSON_IsNumber(label) ? label->valuedouble : -1;
    if (cJSON_IsString(label) && strlen(label->valuestring) == 1) value = label->valuestring[0] - '0';
    for (int k = 0; k < HELLASWAG_ENDINGS; k++)
        if (value == k) return k;
    return -1;
}

static const char *problem_of(const cJSON *json) {
    const cJSON *endings = cJSON_GetObjectItemCaseSensitive(json, "endings"), *ending;
    const char *context = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "ctx"));
    if (!cJSON_IsObject(json)) return "is no JSON object";
    if (!context || !*context) return "has no \"ctx\" that is a string with a text";
    if (!cJSON_IsArray(endings) || cJSON_GetArraySize(endings) != HELLASWAG_ENDINGS)
        return "has no \"endings\" that is an array of four";
    cJSON_ArrayForEach(ending, endings) if (!cJSON_IsString(ending)) return "has an ending that is not a string";
    return label_of(json) < 0 ? "has no \"label\" from 0 to 3; the test set, which has none, cannot be used" : NULL;
}

static void add_example(Preparation *p, const cJSON *json) {
    if (p->count == p->capacity) {
        p->capacity = p->capacity ? 2 * p->capacity : 1024;
        p->numbers = checked_realloc(p->numbers, (size_t)p->capacity * EXAMPLE_INTS * sizeof *p->numbers, "HellaSwag");
    }
    int32_t *numbers = p->numbers + (size_t)p->count++ * EXAMPLE_INTS;
    const cJSON *endings = cJSON_GetObjectItemCaseSensitive(json, "endings");
    *numbers++ = label_of(json);
    *numbers++ = encode(p, "", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "ctx")));
    for (int k = 0; k < HELLASWAG_ENDINGS; k++)
        *numbers++ = encode(p, " ", cJSON_GetStringValue(cJSON_GetArrayItem(endings, k)));
}

static bool check_format(const char *path, const char *text, size_t bytes, Error *error) {
    size_t count = bytes < FOREIGN_BYTES ? bytes : FOREIGN_BYTES;
    const ForeignFormat *foreign = foreign_format(FOREIGN_AS_TEXT, text, count, (int64_t)bytes);
    if (packing_of(text, bytes) != PACKED_NOT)
        return error_set(error, "%s is packed; unpack it first, for example with gzip -d, zstd -d or xz -d", path);
    return !foreign || error_set(error, "%s looks like %s, not like JSON Lines", path, foreign->name);
}

static bool read_lines(Preparation *p, const char *path, char *text, size_t bytes, Error *error) {
    int number = 0;
    if (!check_format(path, text, bytes, error)) return false;
    if (strlen(text) < bytes) return error_set(error, "%s is no text: its byte %zu is 0", path, strlen(text));
    if (strncmp(text, UTF8_MARK, strlen(UTF8_MARK)) == 0) text += strlen(UTF8_MARK);
    for (char *line; (line = strsep(&text, "\n"));) {
        number++;
        if (line[strspn(line, " \t\r")] == 0) continue;
        cJSON *json = cJSON_ParseWithOpts(line, NULL, true); /* nothing may follow */
        const char *problem = problem_of(json);
        if (problem) {
            cJSON_Delete(json);
            return error_set(error, "%s: line %d %s", path, number, problem);
        }
        add_example(p, json);
        cJSON_Delete(json);
    }
    return p->count > 0 || error_set(error, "%s holds no example", path);
}

static bool write_file(const Preparation *p, int vocab_size, const char *path, Error *error) {
    int32_t header[HEADER_INTS] = {HELLASWAG_MAGIC, HELLASWAG_VERSION, vocab_size, p->count};
    FileWriter *writer;
    char *temporary = format_string("%s.tmp", path);
    bool ok = file_writer_open(&writer, temporary, error);
    if (ok) {
        file_writer_append(writer, header, sizeof header, error);
        file_writer_append(writer, p->numbers, (size_t)p->count * EXAMPLE_INTS * sizeof *p->numbers, error);
        file_writer_append(writer, p->tokens.tokens, p->tokens.count * sizeof *p->tokens.tokens, error);
        ok = file_writer_close(writer, NULL, NULL, error) && files_put_in_place(temporary, path, error);
    }
    free(temporary);
    return ok;
}

bool hellaswag_prepare(const char *json_lines, const Tokenizer *tokenizer, const char *path, int *examples,
                       Error *error) {
    size_t bytes;
    char *text = files_read(json_lines, LARGEST_FILE, &bytes, error);
    if (!text) return false;
    Preparation p = {.encoder = encoder_open(tokenizer)};
    bool ok =
        read_lines(&p, json_lines, text, bytes, error) && write_file(&p, tokenizer_vocab_size(tokenizer), path, error);
    *examples = p.count;
    encoder_close(p.encoder);
    token_buffer_free(&p.tokens);
    free(p.numbers);
    free(text);
    return ok;
}
