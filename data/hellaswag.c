/* hellaswag.c: see hellaswag.h. */
#include "data/hellaswag.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/foreign.h"
#include "util/files.h"

#define MAKE_AGAIN "bash data/hellaswag/prepare.sh makes it again"

struct Hellaswag {
    char *file;
    int count, vocab_size;
    const uint16_t **tokens; /* of each example */
};

/* Numbers of an example as the file has them; they may lie at any address. */
static void read_numbers(const Hellaswag *set, int i, int32_t numbers[HELLASWAG_EXAMPLE_INTS]) {
    size_t at = HELLASWAG_HEADER_INTS + (size_t)i * HELLASWAG_EXAMPLE_INTS;
    memcpy(numbers, set->file + at * sizeof(int32_t), HELLASWAG_EXAMPLE_INTS * sizeof(int32_t));
}

/* Says what the file looks like. It may be a file of tokens, which foreign_format() does not report. */
static bool refuse_format(const char *path, const char *file, size_t bytes, Error *error) {
    size_t count = bytes < FOREIGN_BYTES ? bytes : FOREIGN_BYTES;
    const ForeignFormat *format = foreign_format(FOREIGN_AS_TOKENS, file, count, (int64_t)bytes);
    return error_set(error,
                     "%s is no HellaSwag file%s%s; expected %d as its first number; bash data/hellaswag/prepare.sh "
                     "makes one with GPT-2's tokenizer, prepare_data --hellaswag with another",
                     path, format ? ": it looks like " : "", format ? format->name : "", HELLASWAG_MAGIC);
}

/* Takes the file's own numbers from its header. */
static bool read_header(Hellaswag *set, size_t bytes, const char *path, int vocab_size, Error *error) {
    int32_t header[HELLASWAG_HEADER_INTS];
    if (bytes < sizeof header || (memcpy(header, set->file, sizeof header), header[0] != HELLASWAG_MAGIC))
        return refuse_format(path, set->file, bytes, error);
    if (header[1] != HELLASWAG_VERSION)
        return error_set(error, "%s has version %d; only version %d can be read; " MAKE_AGAIN, path, header[1],
                         HELLASWAG_VERSION);
    if (header[2] < 1 || header[2] > vocab_size)
        return error_set(error,
                         "%s is made of tokens of a vocabulary of %d, but vocab_size is %d; make the file with the "
                         "tokenizer of the training data",
                         path, header[2], vocab_size);
    set->vocab_size = header[2];
    set->count = header[3];
    if (set->count < 1 || (size_t)set->count > (bytes - sizeof header) / (HELLASWAG_EXAMPLE_INTS * sizeof(int32_t)))
        return error_set(error,
                         "%s is damaged: its header says %d examples, which do not fit its %zu bytes; " MAKE_AGAIN,
                         path, set->count, bytes);
    return true;
}

/* Finds each example's tokens, and checks that they fill the file. */
static bool find_tokens(Hellaswag *set, size_t bytes, const char *path, Error *error) {
    size_t begin = (HELLASWAG_HEADER_INTS + (size_t)set->count * HELLASWAG_EXAMPLE_INTS) * sizeof(int32_t);
    size_t at = 0, limit = (bytes - begin) / sizeof(uint16_t);
    set->tokens = checked_calloc((size_t)set->count, sizeof *set->tokens, "HellaSwag");
    for (int i = 0; i < set->count; i++) {
        int32_t numbers[HELLASWAG_EXAMPLE_INTS];
        read_numbers(set, i, numbers);
        if (numbers[0] < 0 || numbers[0] >= HELLASWAG_ENDINGS)
            return error_set(error,
                             "%s is damaged: example %d says that ending %d is right; endings are 0 to %d; " MAKE_AGAIN,
                             path, i, numbers[0], HELLASWAG_ENDINGS - 1);
        set->tokens[i] = (const uint16_t *)(set->file + begin) + at;
        for (int k = 1; k < HELLASWAG_EXAMPLE_INTS; k++) {
            if (numbers[k] < 1 || (size_t)numbers[k] > limit - at)
                return error_set(error,
                                 "%s is damaged or cut off: example %d has a part of %d tokens; expected 1 to %zu, as "
                                 "many as are left; " MAKE_AGAIN,
                                 path, i, numbers[k], limit - at);
            at += (size_t)numbers[k];
        }
    }
    if (begin + at * sizeof(uint16_t) != bytes)
        return error_set(
            error,
            "%s is damaged: it has %zu bytes, but its examples have %zu tokens, which end at byte %zu; " MAKE_AGAIN,
            path, bytes, at, begin + at * sizeof(uint16_t));
    return true;
}

static bool check_tokens(const Hellaswag *set, size_t bytes, int vocab_size, const char *path, Error *error) {
    const uint16_t *end = (const uint16_t *)(set->file + bytes);
    for (const uint16_t *token = set->tokens[0]; token < end; token++)
        if (*token >= vocab_size)
            return error_set(error, "%s: token %td is %d, but vocab_size is %d; " MAKE_AGAIN, path,
                             token - set->tokens[0], *token, vocab_size);
    return true;
}

bool hellaswag_open(Hellaswag **set, const char *path, int vocab_size, Error *error) {
    size_t bytes;
    char *file = files_read(path, HELLASWAG_MAX_BYTES, &bytes, error);
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
    int32_t numbers[HELLASWAG_EXAMPLE_INTS];
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
