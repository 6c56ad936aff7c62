/* shard_fixture.h: token files for the tests that read them. Most hold their own positions as tokens, so that what was
 * read says where it was read from. */
#ifndef MARS_DEV_TEST_DATA_SHARD_FIXTURE_H
#define MARS_DEV_TEST_DATA_SHARD_FIXTURE_H

#include "dev/test/test.h"

EXTERN_C_BEGIN

enum { BIG_VOCAB = 65536 }; /* larger than any token */

/* A token file with `count` tokens after a header of this version that promises so many. */
void write_shard(const char *path, int32_t version, int32_t promised, const uint16_t *tokens, size_t count);

/* Tokens begin, begin + 1, ... as a token file with a header or as bare uint16. */
void write_counting(const char *path, bool bare, int begin, int count);

EXTERN_C_END

#endif
