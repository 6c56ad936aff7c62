/* gpt2_fixture.h: GPT-2's vocabulary for tests. The repository has vocab.bpe (dev/golden/gpt2, as published), from
 * which the other file follows. */
#ifndef MARS_DEV_TEST_DATA_GPT2_FIXTURE_H
#define MARS_DEV_TEST_DATA_GPT2_FIXTURE_H

#include "dev/test/test.h"

EXTERN_C_BEGIN

/* A folder in the scratch folder with encoder.json and vocab.bpe, made on first use. */
const char *gpt2_folder(void);

/* Whether this build can encode GPT-2's tokens; says so where it cannot. */
bool gpt2_has_tokenizer(void);

EXTERN_C_END

#endif
