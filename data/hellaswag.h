/* hellaswag.h: HellaSwag (Zellers et al. 2019: "HellaSwag: Can a Machine Really Finish Your Sentence?") as tokens: a
 * context and four endings, one of which is right. eval/hellaswag_score.c scores a model on them.
 *
 * The file, little-endian: 8 int32, which are HELLASWAG_MAGIC, HELLASWAG_VERSION, the vocabulary's size, the number n
 * of examples, and 0; then 6 int32 for each example, which are the number of the right ending (0 to 3), how many tokens
 * the context has, and how many each of the four endings; then all these tokens in that order, as uint16. */
#ifndef MARS_DATA_HELLASWAG_H
#define MARS_DATA_HELLASWAG_H

#include "util/base.h"

enum {
    HELLASWAG_MAGIC = 20190519,
    HELLASWAG_VERSION = 1,
    HELLASWAG_ENDINGS = 4,
    HELLASWAG_HEADER_INTS = 8,
    HELLASWAG_EXAMPLE_INTS = 2 + HELLASWAG_ENDINGS,
    HELLASWAG_MAX_BYTES = 1 << 30 /* of a file, as tokens or published; the published one has 10 MB */
};

typedef struct HellaswagExample {
    int label;
    int context_count, ending_counts[HELLASWAG_ENDINGS]; /* at least one token each */
    const uint16_t *context, *endings[HELLASWAG_ENDINGS];
} HellaswagExample;

EXTERN_C_BEGIN

typedef struct Hellaswag Hellaswag;

/* Reads the file. Fails, with its name, if it is another kind of file, is cut off, or holds a wrong label or token. The
 * file's vocabulary must not be larger than vocab_size, and every token must be below vocab_size. */
bool hellaswag_open(Hellaswag **set, const char *path, int vocab_size, Error *error);
void hellaswag_close(Hellaswag *set);

int hellaswag_count(const Hellaswag *set);
/* Returns the vocabulary's size of the tokenizer that made the file. */
int hellaswag_vocab_size(const Hellaswag *set);
/* Returns example i, whose pointers point into the set. */
HellaswagExample hellaswag_example(const Hellaswag *set, int i);

EXTERN_C_END

#endif
