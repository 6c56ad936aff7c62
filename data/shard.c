/* shard.c: token files on disk as one stream (see shard.h).
 *
 * A set is an array of files with the stream position of each one's first token; a position finds its file by binary
 * search. Opening looks at 12 bytes of each file and at its size; tokens are checked when they are read, since checking
 * them all would read the whole set. A set never changes after opening, so threads may read from it at once.
 *
 * Each read opens its file, asks again what opening asked, and takes the tokens with pread. Maps would be shorter, but
 * where a file was cut, or a disk fails to deliver, a map ends the program with SIGBUS and pread returns an error that can
 * name the file; a page of a map brings in its neighbours, which in random order is fifty times what a sequence needs;
 * and a process may hold 65530 maps, as it may hold 1024 files. Opening takes some microseconds a sequence, in a thread
 * that reads ahead anyway. */
#include "data/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files are little-endian and read as they are");

enum { HEADER_BYTES = SHARD_HEADER_INTS * sizeof(int32_t), HEADER_USED = 3 };

/* What must stay as it is of a file while a set is open. */
typedef struct Shape {
    int64_t bytes;
    ino_t inode;
    struct timespec written;
    int32_t header[HEADER_USED]; /* magic, version, token count; of a bare file its first tokens */
} Shape;

typedef struct Shard {
    char *path;
    Shape shape;
    int header_bytes;
    int64_t first, count; /* its tokens are stream[first..first + count) */
} Shard;

struct ShardSet {
    Shard *shards;
    int count;
    int64_t tokens;
    bool drops_behind; /* what was read is not to stay in the system's memory */
};

/* ---- opening ---- */

/* Tells the format by the first int32 and checks that the size fits it. A bare file cannot be taken for a shard with a
 * header by accident: its first token would have to be 55432, which no GPT-2 vocabulary has. */
static bool recognise(Shard *shard, Error *error) {
    const char *path = shard->path;
    const int32_t *header = shard->shape.header;
    int64_t bytes = shard->shape.bytes;
    if (bytes == 0) return error_set(error, "%s is empty", path);
    if (header[0] != SHARD_MAGIC) {
        if (bytes % 2 != 0)
            return error_set(error,
                             "%s is no token file: it does not begin with %d as an llm.c shard does, and its size of "
                             "%" PRId64 " bytes is odd, so it is no bare uint16 either",
                             path, SHARD_MAGIC, bytes);
        shard->header_bytes = 0;
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
    shard->header_bytes = HEADER_BYTES;
    shard->count = header[2];
    return true;
}

/* As many of the bytes from `at` on as there are; -1, and errno, where they cannot be read. */
static ssize_t read_at(int file, void *data, size_t bytes, int64_t at) {
    size_t done = 0;
    ssize_t got;
    do {
        got = pread(file, (char *)data + done, bytes - done, at + (int64_t)done);
        if (got < 0 && errno != EINTR) return -1;
        if (got > 0) done += (size_t)got;
    } while (got != 0 && done < bytes);
    return (ssize_t)done;
}

static bool read_shape(Shape *shape, int file, const char *path, Error *error) {
    struct stat status;
    memset(shape, 0, sizeof *shape);
    if (fstat(file, &status) != 0) return error_set(error, "cannot stat %s: %s", path, strerror(errno));
    if (S_ISDIR(status.st_mode))
        return error_set(error, "%s is a folder; name a token file or a pattern such as %s/train_*.bin", path, path);
    if (!S_ISREG(status.st_mode)) return error_set(error, "%s is not a regular file", path);
    shape->bytes = status.st_size;
    shape->inode = status.st_ino;
    shape->written = status.st_mtim;
    if (read_at(file, shape->header, sizeof shape->header, 0) >= 0) return true;
    return error_set(error, "cannot read %s: %s", path, strerror(errno));
}

/* O_NONBLOCK: to open a pipe that matches a pattern must not wait for its writer. Regular files ignore it. */
static int open_path(const char *path) { return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); }

static bool open_shard(Shard *shard, const char *path, Error *error) {
    shard->path = checked_strdup(path);
    int file = open_path(path);
    if (file < 0) return error_set(error, "cannot open %s: %s", path, strerror(errno));
    bool ok = read_shape(&shard->shape, file, path, error) && recognise(shard, error);
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
    for (int i = 0; i < set->count; i++) free(set->shards[i].path);
    free(set->shards);
    free(set);
}

void shards_advise(ShardSet *set, bool in_order) {
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    set->drops_behind = in_order && set->tokens > memory / (int64_t)sizeof(uint16_t);
}

int64_t shards_token_count(const ShardSet *set) { return set->tokens; }

int shards_file_count(const ShardSet *set) { return set->count; }

bool shards_has_header(const ShardSet *set) { return set->shards[0].header_bytes > 0; }

/* ---- reading ---- */

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

/* Some network file systems number a file anew each time, and some people touch files lest they be swept away: only
 * both together are another file. */
static bool is_another(const Shape *now, const Shape *before) {
    return now->inode != before->inode &&
           (now->written.tv_sec != before->written.tv_sec || now->written.tv_nsec != before->written.tv_nsec);
}

/* A file for one read. Fails where it is not what it was when the set was opened. */
static bool open_again(const Shard *shard, int *file, Error *error) {
    const char *path = shard->path;
    const Shape *before = &shard->shape;
    Shape now;
    *file = open_path(path);
    if (*file < 0) return error_set(error, "%s cannot be read any more since it was opened: %s", path, strerror(errno));
    bool ok = read_shape(&now, *file, path, error);
    if (ok && is_another(&now, before))
        ok = error_set(error, "%s was replaced by another file since it was opened", path);
    else if (ok && now.bytes != before->bytes)
        ok = error_set(error, "%s %s from %" PRId64 " to %" PRId64 " bytes since it was opened", path,
                       now.bytes < before->bytes ? "shrank" : "grew", before->bytes, now.bytes);
    else if (ok && memcmp(now.header, before->header, sizeof now.header) != 0)
        ok = error_set(error, "%s begins with other bytes than when it was opened: it was written over", path);
    if (!ok) close(*file);
    return ok;
}

/* Widens first and looks for the largest token on the way, so that the loop has no branch and vectorises. */
static bool take_tokens(const Shard *shard, const uint16_t *source, int64_t begin, int64_t count, int vocab_size,
                        int32_t *tokens, Error *error) {
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

/* tokens[0..count) = those of the file from number `begin` on. */
static bool read_tokens(const Shard *shard, int file, int64_t begin, int64_t count, int vocab_size, int32_t *tokens,
                        Error *error) {
    enum { PIECE = 8192 };
    uint16_t piece[PIECE];
    for (int64_t done = 0; done < count; done += PIECE) {
        int64_t take = min_i64(PIECE, count - done), at = shard->header_bytes + 2 * (begin + done);
        ssize_t bytes = read_at(file, piece, (size_t)take * sizeof *piece, at);
        if (bytes < 0) return error_set(error, "cannot read %s: %s", shard->path, strerror(errno));
        if (bytes < take * (int64_t)sizeof *piece)
            return error_set(error, "%s shrank to %" PRId64 " bytes while it was read", shard->path, at + bytes);
        if (!take_tokens(shard, piece, begin + done, take, vocab_size, tokens + done, error)) return false;
    }
    return true;
}

/* Sequences are shorter than pages, so that the system sees each page read several times and would keep it, rather than
 * what the machine will need again. What is left is a stretch that other processes may be a step behind in. */
static void drop_behind(const ShardSet *set, const Shard *shard, int file, int64_t begin, int64_t end) {
    const int64_t stretch = 16 << 20; /* in bytes of the file, as begin and end */
    if (!set->drops_behind || begin / stretch == end / stretch) return;
    int64_t behind = (end / stretch - 1) * stretch;
    if (behind > 0) posix_fadvise(file, 0, behind, POSIX_FADV_DONTNEED);
    if (behind > 0 || shard == set->shards) return;
    int previous = open_path(shard[-1].path);
    if (previous < 0) return; /* whoever reads it will say so */
    posix_fadvise(previous, 0, 0, POSIX_FADV_DONTNEED);
    close(previous);
}

bool shards_read(const ShardSet *set, int64_t position, int64_t count, int vocab_size, int32_t *tokens, Error *error) {
    if (position < 0 || count < 0 || position > set->tokens - count)
        return error_set(error, "%" PRId64 " tokens at %" PRId64 " lie outside the stream of %" PRId64 " tokens", count,
                         position, set->tokens);
    for (const Shard *shard = find_shard(set, position); count > 0; shard++) {
        int64_t begin = position - shard->first;
        int64_t take = min_i64(count, shard->count - begin);
        int file;
        if (!open_again(shard, &file, error)) return false;
        bool ok = read_tokens(shard, file, begin, take, vocab_size, tokens, error);
        drop_behind(set, shard, file, shard->header_bytes + 2 * begin, shard->header_bytes + 2 * (begin + take));
        close(file);
        if (!ok) return false;
        position += take;
        tokens += take;
        count -= take;
    }
    return true;
}
