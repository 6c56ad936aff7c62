/* small_vocabulary.h: vocabulary files as GPT-2's, with fewer merges: small enough to be inputs of a fuzzer, and there
 * where GPT-2's own are not. */
#ifndef MARS_DEV_FUZZ_SMALL_VOCABULARY_H
#define MARS_DEV_FUZZ_SMALL_VOCABULARY_H

#include "util/base.h"

/* The texts of encoder.json and vocab.bpe with so many merges, which are the same each time. The caller frees both. */
void small_vocabulary_make(int merges, char **encoder, char **bpe);

#endif
