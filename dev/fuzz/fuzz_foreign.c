/* fuzz_foreign.c: the beginnings of files of any format. Whatever they are, no byte beyond the end is looked at, and a
 * file of byte tokens is never taken for another format. */
#include <stdlib.h>
#include <string.h>

#include "data/foreign.h"
#include "dev/fuzz/fuzz.h"

/* In memory that ends where the bytes do. */
static const ForeignFormat *format_of(ForeignUse use, const uint8_t *data, size_t bytes, int64_t file_bytes) {
    uint8_t *copy = checked_malloc(bytes, "a beginning");
    if (bytes > 0) memcpy(copy, data, bytes);
    const ForeignFormat *format = foreign_format(use, copy, bytes, file_bytes);
    free(copy);
    FUZZ_CHECK(!format || (format->name[0] && format->remedy[use]), "a format without a name or a remedy");
    return format;
}

/* The same bytes without those that are 0, as uint16. */
static void check_byte_tokens(const uint8_t *data, size_t bytes) {
    uint16_t *tokens = checked_malloc(bytes * sizeof *tokens, "tokens");
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++)
        if (data[i] != 0) tokens[count++] = data[i];
    size_t length = count * sizeof *tokens;
    const ForeignFormat *format = foreign_format(FOREIGN_AS_TOKENS, tokens, length, (int64_t)length);
    FUZZ_CHECK(!format, "%zu byte tokens are taken for %s", count, format ? format->name : "");
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes > FOREIGN_BYTES) bytes = FOREIGN_BYTES;
    for (ForeignUse use = 0; use < FOREIGN_USES; use++) {
        const ForeignFormat *format = format_of(use, data, bytes, (int64_t)bytes);
        FUZZ_CHECK(format_of(use, data, bytes, (int64_t)bytes) == format, "another format the second time");
        format_of(use, data, bytes, -1);
        format_of(use, data, bytes, INT64_MAX);
    }
    check_byte_tokens(data, bytes);
    return 0;
}
