/* shard_fixture.c: see shard_fixture.h. */
#include "dev/test/data/shard_fixture.h"

#include <stdlib.h>
#include <string.h>

#include "data/shard.h"

void write_shard(const char *path, int32_t version, int32_t promised, const uint16_t *tokens, size_t count) {
    int32_t header[SHARD_HEADER_INTS] = {20240520, version, promised};
    char *data = checked_malloc(sizeof header + 2 * count, "a shard");
    memcpy(data, header, sizeof header);
    memcpy(data + sizeof header, tokens, 2 * count);
    test_write_file(path, data, sizeof header + 2 * count);
    free(data);
}

void write_counting(const char *path, bool bare, int begin, int count) {
    uint16_t *tokens = checked_malloc(2 * (size_t)count, "tokens");
    for (int i = 0; i < count; i++) tokens[i] = (uint16_t)(begin + i);
    if (bare)
        test_write_file(path, tokens, 2 * (size_t)count);
    else
        write_shard(path, 1, count, tokens, (size_t)count);
    free(tokens);
}
