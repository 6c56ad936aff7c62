/* fuzz_shard.c: token files. The input says what one to three files hold, where to read, and what then becomes of
 * one of them. A second reading of the files' bytes says what the stream must be. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/foreign.h"
#include "data/shard.h"
#include "dev/fuzz/fuzz.h"

enum { MAX_FILES = 3, HEADER_BYTES = 4 * SHARD_HEADER_INTS, MAX_READ = 4096 };

/* How the input describes a file: its bytes, or a header in short and what follows it. */
enum { AS_BYTES, WITH_HEADER, WITH_RIGHT_HEADER, KINDS };

typedef struct File {
    uint8_t *data;
    size_t bytes;
    size_t header_bytes;
} File;

static const char *const names[MAX_FILES] = {"shard_0.bin", "shard_1.bin", "shard_2.bin"};

static File build_file(FuzzInput *input) {
    int kind = (int)(fuzz_number(input, 1) % KINDS);
    size_t length = fuzz_number(input, 2);
    int32_t header[3] = {SHARD_MAGIC, SHARD_VERSION, 0};
    if (kind == WITH_HEADER)
        for (int i = 0; i < 3; i++) header[i] = (int32_t)fuzz_number(input, 4);
    FuzzInput tokens = fuzz_piece(input, length);
    if (kind == WITH_RIGHT_HEADER) header[2] = (int32_t)(tokens.bytes / 2);
    size_t before = kind == AS_BYTES ? 0 : HEADER_BYTES;
    File file = {checked_calloc(before + tokens.bytes, 1, "a file"), before + tokens.bytes, 0};
    if (before > 0) memcpy(file.data, header, sizeof header);
    if (tokens.bytes > 0) memcpy(file.data + before, tokens.data, tokens.bytes);
    return file;
}

/* At its beginning, or where a larger file has its middle. */
static bool looks_foreign(const File *file) {
    size_t middle = file->bytes / 2 / FOREIGN_BYTES * FOREIGN_BYTES;
    for (size_t at = 0; at <= middle; at += middle > 0 ? middle : 1) {
        size_t count = file->bytes - at < FOREIGN_BYTES ? file->bytes - at : FOREIGN_BYTES;
        if (foreign_format(FOREIGN_AS_TOKENS, file->data + at, count, (int64_t)file->bytes)) return true;
    }
    return false;
}

/* Whether the bytes are a token file, in the words of shard.h. */
static bool is_valid(File *file) {
    int32_t header[3] = {0};
    memcpy(header, file->data, file->bytes < sizeof header ? file->bytes : sizeof header);
    file->header_bytes = header[0] == SHARD_MAGIC ? HEADER_BYTES : 0;
    if (file->bytes == 0 || file->bytes % 2 != 0) return false;
    if (file->header_bytes == 0) return !looks_foreign(file);
    return file->bytes >= HEADER_BYTES && header[1] == SHARD_VERSION && header[2] > 0 &&
           (uint64_t)header[2] * 2 == file->bytes - HEADER_BYTES;
}

/* The file and the index in it of a token of the stream; NULL after the last one. */
static const File *find_token(const File *files, int count, int64_t position, int64_t *index) {
    for (int i = 0; i < count; i++) {
        int64_t tokens = (int64_t)(files[i].bytes - files[i].header_bytes) / 2;
        if (position < tokens) {
            *index = position;
            return &files[i];
        }
        position -= tokens;
    }
    return NULL;
}

static void check_read(const ShardSet *set, const File *files, int count, FuzzInput *input) {
    int32_t tokens[MAX_READ];
    int64_t position = (int16_t)fuzz_number(input, 2), wanted = (int64_t)fuzz_number(input, 2) % MAX_READ, index;
    int vocab_size = (int)fuzz_number(input, 2) + 1;
    bool is_right = position >= 0 && position + wanted <= shards_token_count(set);
    for (int64_t i = 0; is_right && i < wanted; i++) {
        const File *file = find_token(files, count, position + i, &index);
        uint16_t token;
        memcpy(&token, file->data + file->header_bytes + 2 * index, sizeof token);
        is_right = token < vocab_size;
    }
    Error error = {""};
    bool is_read = shards_read(set, position, wanted, vocab_size, tokens, &error);
    FUZZ_CHECK(is_read == is_right, "%" PRId64 " tokens at %" PRId64 " below %d should be %s: %s", wanted, position,
               vocab_size, is_right ? "read" : "refused", error.text);
    for (int64_t i = 0; is_read && i < wanted; i++) {
        const File *file = find_token(files, count, position + i, &index);
        FUZZ_CHECK(memcmp(file->data + file->header_bytes + 2 * index, &tokens[i], 2) == 0,
                   "token %" PRId64 " is another one", (position + i));
    }
}

/* Enough windows for all tokens of each file. */
static void check_sample(const ShardSet *set, const File *files, int count, FuzzInput *input) {
    enum { LENGTH = 1 << 10, WINDOWS = 64 };
    int vocab_size = (int)fuzz_number(input, 2) + 1;
    for (int i = 0; i < count; i++) {
        int64_t tokens = (int64_t)(files[i].bytes - files[i].header_bytes) / 2;
        bool is_right = true;
        for (int64_t k = 0; k < tokens; k++) {
            uint16_t token;
            memcpy(&token, files[i].data + files[i].header_bytes + 2 * k, sizeof token);
            is_right = is_right && token < vocab_size;
        }
        Error error = {""};
        bool is_sampled = shards_sample(set, i, WINDOWS, LENGTH, vocab_size, &error);
        FUZZ_CHECK(is_sampled == is_right, "file %d of tokens below %d should be %s: %s", i, vocab_size,
                   is_right ? "right" : "refused", error.text);
    }
}

/* What may happen to a file of an open set. */
enum { STAYS, IS_CUT, IS_GONE, GROWS, CHANGES };

/* A file that changes is an error that names it, not a signal. */
static void check_changed(const ShardSet *set, const File *files, int count, int change, FuzzInput *input) {
    int changed = (int)(fuzz_number(input, 1) % (unsigned)count);
    size_t bytes = fuzz_number(input, 2) % files[changed].bytes;
    const char *path = fuzz_path(names[changed]);
    if (change == GROWS) bytes = files[changed].bytes + 1 + bytes;
    if ((change == IS_GONE ? unlink(path) : truncate(path, (off_t)bytes)) != 0) die("cannot change %s", path);
    int64_t total = shards_token_count(set);
    int32_t *tokens = checked_malloc((size_t)total * sizeof *tokens, "tokens");
    Error error = {""};
    FUZZ_CHECK(!shards_read(set, 0, total, UINT16_MAX + 1, tokens, &error), "%s was changed and read", path);
    FUZZ_CHECK(strstr(error.text, path), "the message does not name %s: %s", path, error.text);
    free(tokens);
}

static void check_set(const char *pattern, File *files, int count, FuzzInput *input) {
    ShardSet *set;
    Error error = {""};
    bool are_valid = true;
    int64_t tokens = 0;
    for (int i = 0; i < count; i++) {
        are_valid = is_valid(&files[i]) && are_valid;
        tokens += (int64_t)(files[i].bytes - files[i].header_bytes) / 2;
    }
    bool is_open = shards_open(&set, pattern, &error);
    FUZZ_CHECK(is_open == are_valid, "should be %s: %s", are_valid ? "opened" : "refused", error.text);
    if (!is_open) {
        FUZZ_CHECK(strstr(error.text, "shard_"), "the message names no file: %s", error.text);
        return;
    }
    FUZZ_CHECK(shards_token_count(set) == tokens && shards_file_count(set) == count, "%" PRId64 " tokens in %d files",
               shards_token_count(set), shards_file_count(set));
    for (int i = 0; i < 3; i++) check_read(set, files, count, input);
    int change = (int)(fuzz_number(input, 1) % CHANGES);
    check_sample(set, files, count, input);
    if (change != STAYS) check_changed(set, files, count, change, input);
    shards_close(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    FuzzInput input = {data, bytes};
    int count = 1 + (int)(fuzz_number(&input, 1) % MAX_FILES);
    FuzzInput reading = fuzz_piece(&input, 3 * 6 + 6);
    File files[MAX_FILES];
    for (int i = 0; i < count; i++) {
        files[i] = build_file(&input);
        fuzz_file(names[i], files[i].data, files[i].bytes);
    }
    for (int i = count; i < MAX_FILES; i++) unlink(fuzz_path(names[i]));
    check_set(fuzz_path(count == 1 ? names[0] : "shard_*.bin"), files, count, &reading);
    for (int i = 0; i < count; i++) free(files[i].data);
    return 0;
}
