/* prepare_hellaswag.c: see prepare_hellaswag.h. */
#include "data/prepare/prepare_hellaswag.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "data/foreign.h"
#include "data/hellaswag.h"
#include "data/prepare/unpack.h"
#include "util/files.h"
#include "util/utf8.h"

typedef struct Preparation {
    Encoder *encoder;
    TokenBuffer tokens; /* of all examples */
    int32_t *numbers;   /* (count, HELLASWAG_EXAMPLE_INTS) */
    int count, capacity;
} Preparation;

#define DOWNLOAD "bash data/hellaswag/prepare.sh downloads the published file"

/* Appends the tokens that `text` has after `before`, and returns how many there are. */
static int32_t encode(Preparation *p, const char *before, const char *text) {
    char *whole = format_string("%s%s", before, text);
    size_t so_far = p->tokens.count;
    encoder_encode(p->encoder, whole, strlen(whole), true, &p->tokens);
    free(whole);
    return (int32_t)(p->tokens.count - so_far);
}

/* The label: a number, or a string with a number, as in some copies of the set; else -1. */
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
        p->numbers =
            checked_realloc(p->numbers, (size_t)p->capacity * HELLASWAG_EXAMPLE_INTS * sizeof *p->numbers, "HellaSwag");
    }
    int32_t *numbers = p->numbers + (size_t)p->count++ * HELLASWAG_EXAMPLE_INTS;
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
        return error_set(error, "%s is packed; expected JSON Lines; unpack it first, with gzip -d, zstd -d or xz -d",
                         path);
    return !foreign || error_set(error, "%s looks like %s, not like JSON Lines; " DOWNLOAD, path, foreign->name);
}

static bool read_lines(Preparation *p, const char *path, char *text, size_t bytes, Error *error) {
    int number = 0;
    if (!check_format(path, text, bytes, error)) return false;
    if (strlen(text) < bytes)
        return error_set(error, "%s is no text: its byte %zu is 0; expected JSON Lines; " DOWNLOAD, path, strlen(text));
    if (strncmp(text, UTF8_MARK, strlen(UTF8_MARK)) == 0) text += strlen(UTF8_MARK);
    for (char *line; (line = strsep(&text, "\n"));) {
        number++;
        if (line[strspn(line, " \t\r")] == 0) continue;
        cJSON *json = cJSON_ParseWithOpts(line, NULL, true); /* fails if anything follows */
        const char *problem = problem_of(json);
        if (problem) {
            cJSON_Delete(json);
            return error_set(error, "%s: line %d %s; expected a JSON object with ctx, endings and label; " DOWNLOAD,
                             path, number, problem);
        }
        add_example(p, json);
        cJSON_Delete(json);
    }
    return p->count > 0 ||
           error_set(error, "%s holds no example; expected a JSON object in each line; " DOWNLOAD, path);
}

static bool write_file(const Preparation *p, int vocab_size, const char *path, Error *error) {
    int32_t header[HELLASWAG_HEADER_INTS] = {HELLASWAG_MAGIC, HELLASWAG_VERSION, vocab_size, p->count};
    FileWriter *writer;
    char *temporary = format_string("%s.tmp", path);
    bool ok = file_writer_open(&writer, temporary, error);
    if (ok) {
        file_writer_append(writer, header, sizeof header, error);
        file_writer_append(writer, p->numbers, (size_t)p->count * HELLASWAG_EXAMPLE_INTS * sizeof *p->numbers, error);
        file_writer_append(writer, p->tokens.tokens, p->tokens.count * sizeof *p->tokens.tokens, error);
        ok = file_writer_close(writer, NULL, NULL, error) && files_put_in_place(temporary, path, error);
    }
    free(temporary);
    return ok;
}

bool hellaswag_prepare(const char *json_lines, const Tokenizer *tokenizer, const char *path, int *examples,
                       Error *error) {
    size_t bytes;
    char *text = files_read(json_lines, HELLASWAG_MAX_BYTES, &bytes, error);
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
