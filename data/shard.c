/* shard.c: token files on disk as one stream (see shard.h).
 *
 * A set is an array of mapped files with the stream position of each one's first token; a position finds its file by
 * binary search. Opening a file looks at 12 bytes and the size; tokens are checked when they are read, since checking
 * them all would read the whole set. Descriptors are closed once a file is mapped: a set may have more files than a
 * process may hold descriptors. The set never changes after opening, so threads may read from it at once.
 *
 * Reading from a map has no error return: the kernel answers with SIGBUS. Each read therefore first asks whether the
 * file is still there, the same one and of its size: also because a run must not go on over files that are gone or that
 * somebody is replacing, though the map would keep the old ones alive. What remains possible is a file cut between that
 * question and the copy a moment later, and a disk that fails to deliver. */
#include "data/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files are little-endian and mapped as they are");

enum { HEADER_BYTES = SHARD_HEADER_INTS * sizeof(int32_t) };

typedef struct Shard {
    char *path;
    void *map; /* the whole file; NULL until it is mapped */
    size_t bytes;
    dev_t device; /* with inode: tells whether it was replaced */
    ino_t inode;
    const uint16_t *tokens; /* within the map */
    int64_t first, count;   /* tokens[0..count) = stream[first..first + count) */
} Shard;

struct ShardSet {
    Shard *shards;
    int count;
    int64_t tokens;
};

/* Tells the format by the first int32 and checks that the size fits it. A bare file cannot be taken for a shard with a
 * header by accident: its first token would have to be 55432, which no GPT-2 vocabulary has. */
static bool recognise(Shard *shard, int file, int *header_bytes, Error *error) {
    int32_t header[3] = {0}; /* magic, version, token count */
    const char *path = shard->path;
    int64_t bytes = (int64_t)shard->bytes;
    if (bytes == 0) return error_set(error, "%s is empty", path);
    if (pread(file, header, sizeof header, 0) < 0) return error_set(error, "cannot read %s: %s", path, strerror(errno));
    if (header[0] != SHARD_MAGIC) {
        if (bytes % 2 != 0)
            return error_set(error,
                             "%s is no token file: it does not begin with %d as an llm.c shard does, and its size of "
                             "%" PRId64 " bytes is odd, so it is no bare uint16 either",
                             path, SHARD_MAGIC, bytes);
        *header_bytes = 0;
        shard->count = bytes / 2;
        return true;
    }
    if (bytes < HEADER_BYTES)
        return error_set(error, "%s is cut off: an llm.c header has %d bytes, the file only %" PRId64, path,
                         HEADER_BYTES, bytes);
    if (header[1] != SHARD_VERSION)
        return error_set(error, "%s is an llm.c shard of version %d; only version %d (uint16 tokens) can be read", path,
                         header[1], SHARD_VERSION);
    if (header[2] < 1)
        return error_set(error, "%s has a header that says %d tokens; a shard holds at least one", path, header[2]);
    int64_t expected = HEADER_BYTES + 2 * (int64_t)header[2];
    if (bytes != expected)
        return error_set(
            error, "%s is %s: its header says %d tokens, which makes %" PRId64 " bytes, but it has %" PRId64 " bytes",
            path, bytes < expected ? "cut off" : "too long", header[2], expected, bytes);
    *header_bytes = HEADER_BYTES;
    shard->count = header[2];
    return true;
}

static bool map_file(Shard *shard, int file, Error *error) {
    struct stat status;
    int header_bytes = 0;
    if (fstat(file, &status) != 0) return error_set(error, "cannot stat %s: %s", shard->path, strerror(errno));
    if (S_ISDIR(status.st_mode))
        return error_set(error, "%s is a folder; name a token file or a pattern such as %s/train_*.bin", shard->path,
                         shard->path);
    if (!S_ISREG(status.st_mode)) return error_set(error, "%s is not a regular file", shard->path);
    shard->bytes = (size_t)status.st_size;
    shard->device = status.st_dev;
    shard->inode = status.st_ino;
    if (!recognise(shard, file, &header_bytes, error)) return false;
    void *map = mmap(NULL, shard->bytes, PROT_READ, MAP_SHARED, file, 0);
    if (map == MAP_FAILED) return error_set(error, "cannot map %s: %s", shard->path, strerror(errno));
    shard->map = map;
    shard->tokens = (const uint16_t *)((const char *)map + header_bytes);
    return true;
}

/* O_NONBLOCK: to open a pipe that matches a pattern must not wait for its writer. Regular files ignore it. */
static bool open_shard(Shard *shard, const char *path, Error *error) {
    shard->path = checked_strdup(path);
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) return error_set(error, "cannot open %s: %s", path, strerror(errno));
    bool ok = map_file(shard, file, error);
    close(file);
    return ok;
}

static bool open_files(ShardSet *set, const char *const *paths, size_t count, Error *error) {
    set->shards = checked_calloc(count, sizeof *set->shards, "the list of token files");
    for (size_t i = 0; i < count; i++) {
        Shard *shard = &set->shards[set->count++];
        if (!open_shard(shard, paths[i], error)) return false;
        shard->first = set->tokens;
        set->tokens += shard->count;
    }
    return true;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* glob() sorts as the locale says, and the stream must not depend on that: names are sorted here, byte by byte. */
static bool open_matches(ShardSet *set, const char *pattern, Error *error) {
    glob_t matches;
    int failure = glob(pattern, GLOB_ERR | GLOB_NOSORT, NULL, &matches);
    if (failure == GLOB_NOMATCH) return error_set(error, "no token file: nothing is named or matches '%s'", pattern);
    if (failure != 0)
        return error_set(error, "cannot list the files that match '%s': %s", pattern,
                         failure == GLOB_NOSPACE ? "out of memory" : strerror(errno));
    qsort(matches.gl_pathv, matches.gl_pathc, sizeof *matches.gl_pathv, compare_names);
    bool ok = open_files(set, (const char *const *)matches.gl_pathv, matches.gl_pathc, error);
    globfree(&matches);
    return ok;
}

bool shards_open(ShardSet **set, const char *pattern, Error *error) {
    ShardSet *opened = checked_calloc(1, sizeof *opened, "a set of token files");
    struct stat status;
    /* A name that exists is that file, even where it holds characters that mean something in a pattern. */
    bool is_name = stat(pattern, &status) == 0;
    if (is_name ? open_files(opened, &pattern, 1, error) : open_matches(opened, pattern, error)) {
        *set = opened;
        return true;
    }
    shards_close(opened);
    return false;
}

void shards_close(ShardSet *set) {
    if (!set) return;
    for (int i = 0; i < set->count; i++) {
        if (set->shards[i].map) munmap(set->shards[i].map, set->shards[i].bytes);
        free(set->shards[i].path);
    }
    free(set->shards);
    free(set);
}

void shards_advise(const ShardSet *set, bool in_order) {
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    if (set->tokens < memory / (int64_t)sizeof(uint16_t)) return;
    for (int i = 0; i < set->count; i++)
        madvise(set->shards[i].map, set->shards[i].bytes, in_order ? MADV_SEQUENTIAL : MADV_RANDOM);
}

int64_t shards_token_count(const ShardSet *set) { return set->tokens; }

int shards_file_count(const ShardSet *set) { return set->count; }

/* The last shard whose first token is at or before `position`. */
static const Shard *find_shard(const ShardSet *set, int64_t position) {
    int low = 0, high = set->count - 1;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (set->shards[middle].first <= position)
            low = middle;
        else
            high = middle - 1;
    }
    return &set->shards[low];
}

static bool still_whole(const Shard *shard, Error *error) {
    struct stat status;
    if (stat(shard->path, &status) != 0)
        return error_set(error, "%s cannot be read any more since it was opened: %s", shard->path, strerror(errno));
    if (status.st_dev != shard->device || status.st_ino != shard->inode)
        return error_set(error, "%s was replaced by another file since it was opened", shard->path);
    if ((size_t)status.st_size == shard->bytes) return true;
    return error_set(error, "%s %s from %zu to %" PRId64 " bytes since it was opened", shard->path,
                     (size_t)status.st_size < shard->bytes ? "shrank" : "grew", shard->bytes, (int64_t)status.st_size);
}

/* Copies first and looks for the largest token on the way, so that the loop has no branch and vectorises. */
static bool copy_tokens(const Shard *shard, int64_t begin, int64_t count, int vocab_size, int32_t *tokens,
                        Error *error) {
    const uint16_t *source = shard->tokens + begin;
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        tokens[i] = source[i];
        largest = tokens[i] > largest ? tokens[i] : largest;
    }
    if (largest < vocab_size) return true;
    int64_t i = 0;
    while (tokens[i] < vocab_size) i++;
    return error_set(error, "%s: token %" PRId64 " of the file is %d, but vocab_size is %d", shard->path, begin + i,
                     tokens[i], vocab_size);
}

bool shards_read(const ShardSet *set, int64_t position, int64_t count, int vocab_size, int32_t *tokens, Error *error) {
    if (position < 0 || count < 0 || position > set->tokens - count)
        return error_set(error, "%" PRId64 " tokens at %" PRId64 " lie outside the stream of %" PRId64 " tokens", count,
                         position, set->tokens);
    for (const Shard *shard = find_shard(set, position); count > 0; shard++) {
        int64_t begin = position - shard->first;
        int64_t take = min_i64(count, shard->count - begin);
        if (!still_whole(shard, error)) return false;
        if (!copy_tokens(shard, begin, take, vocab_size, tokens, error)) return false;
        position += take;
        tokens += take;
        count -= take;
    }
    return true;
}
