/* shard.c: token files on disk as one stream (see shard.h).
 *
 * A set is an array of files with the stream position of each one's first token; a position finds its file by binary
 * search. Opening looks at the size of each file and at its first 12 bytes, or 4096 bytes if these are no header;
 * tokens are checked when they are read, since checking them all would read the whole set. A set never changes after
 * opening, so threads may read from it at once.
 *
 * Each read opens its file, checks again what opening checked, and reads the tokens with pread. Mapped files would take
 * less code, but have three faults. If a file was cut or a disk fails, a map ends the program with SIGBUS, while pread
 * returns an error that can name the file. A page of a map brings in its neighbours: in random order fifty times as
 * much as a sequence needs. And a process may hold only 65530 maps, as it may hold only 1024 files. Opening takes some
 * microseconds a sequence, in a thread that reads ahead. */
#include "data/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/foreign.h"
#include "util/files.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files are little-endian and read as they are");

enum { HEADER_BYTES = SHARD_HEADER_INTS * sizeof(int32_t), HEADER_USED = 3 };

#define MAKE_AGAIN "download the file or make it again"

/* What must not change in a file while a set is open. */
typedef struct Shape {
    int64_t bytes;
    dev_t device;
    ino_t inode;
    struct timespec written;
    int32_t header[HEADER_USED]; /* magic, version, token count; in a bare file, its first tokens */
} Shape;

typedef struct Shard {
    const char *path; /* of the set's files */
    Shape shape;
    int header_bytes;
    int64_t first, count; /* its tokens are stream[first..first + count) */
} Shard;

struct ShardSet {
    TokenFiles files;
    Shard *shards;
    int count;
    int64_t tokens;
    bool drops_read_pages; /* the system must drop read pages from its memory */
};

/* ---- opening ---- */

/* Fails if a file that begins like tokens holds something else in its middle, as a container of an unknown format
 * does. */
static bool check_middle(const Shard *shard, int file, Error *error) {
    unsigned char middle[FOREIGN_BYTES];
    int64_t at = shard->shape.bytes / 2 / FOREIGN_BYTES * FOREIGN_BYTES;
    ssize_t count = files_read_at(file, middle, sizeof middle, at);
    if (count < 0) return files_fail(error, "read", shard->path);
    const ForeignFormat *foreign = foreign_format(FOREIGN_AS_TOKENS, middle, (size_t)count, shard->shape.bytes);
    return !foreign ||
           error_set(error,
                     "%s looks like %s from byte %" PRId64 " on, not like a token file; name the token files alone",
                     shard->path, foreign->name, at);
}

/* Takes a file without a header for bare uint16, unless it looks like something else. Bare uint16 cannot look like a
 * shard with a header: the first token would have to be 55432, which no GPT-2 vocabulary has. */
static bool recognise_bare(Shard *shard, int file, Error *error) {
    unsigned char begin[FOREIGN_BYTES];
    const char *path = shard->path;
    int64_t bytes = shard->shape.bytes;
    ssize_t count = files_read_at(file, begin, sizeof begin, 0);
    if (count < 0) return files_fail(error, "read", path);
    const ForeignFormat *foreign = foreign_format(FOREIGN_AS_TOKENS, begin, (size_t)count, bytes);
    if (foreign)
        return error_set(error, "%s looks like %s, not like a token file; %s", path, foreign->name,
                         foreign->remedy[FOREIGN_AS_TOKENS]);
    if (bytes % 2 != 0)
        return error_set(error,
                         "%s is no token file: its size of %" PRId64 " bytes is odd, and it does not begin with %d; "
                         "expected bare uint16 tokens, or a shard of llm.c, which begins with that number; "
                         "prepare_data makes token files",
                         path, bytes, SHARD_MAGIC);
    shard->header_bytes = 0;
    shard->count = bytes / 2;
    return bytes < 2 * FOREIGN_BYTES || check_middle(shard, file, error);
}

/* A shard of llm.c, whose header must fit the size. */
static bool recognise_shard(Shard *shard, Error *error) {
    const char *path = shard->path;
    const int32_t *header = shard->shape.header;
    int64_t bytes = shard->shape.bytes;
    if (bytes < HEADER_BYTES)
        return error_set(error, "%s is cut off: it has %" PRId64 " bytes, but the header alone has %d; " MAKE_AGAIN,
                         path, bytes, HEADER_BYTES);
    if (header[1] != SHARD_VERSION)
        return error_set(error,
                         "%s is an llm.c shard of version %d; only version %d (uint16 tokens) can be read; "
                         "prepare_data makes such files",
                         path, header[1], SHARD_VERSION);
    if (header[2] < 1)
        return error_set(error, "%s has a header that says %d tokens; a shard holds at least one; " MAKE_AGAIN, path,
                         header[2]);
    int64_t expected = HEADER_BYTES + 2 * (int64_t)header[2];
    if (bytes == HEADER_BYTES + 4 * (int64_t)header[2])
        return error_set(error,
                         "%s has tokens of 4 bytes after its header of %d tokens; they must be uint16; "
                         "prepare_data makes such files",
                         path, header[2]);
    if (bytes != expected)
        return error_set(error,
                         "%s is %s: it has %" PRId64 " bytes, but its header says %d tokens, which makes %" PRId64
                         " bytes; " MAKE_AGAIN,
                         path, bytes < expected ? "cut off" : "too long", bytes, header[2], expected);
    shard->header_bytes = HEADER_BYTES;
    shard->count = header[2];
    return true;
}

static bool recognise(Shard *shard, int file, Error *error) {
    if (shard->shape.bytes == 0)
        return error_set(error, "%s is empty; a token file holds at least one token; " MAKE_AGAIN, shard->path);
    if (shard->shape.header[0] == SHARD_MAGIC) return recognise_shard(shard, error);
    return recognise_bare(shard, file, error);
}

static bool read_shape(Shape *shape, int file, const char *path, Error *error) {
    struct stat status;
    memset(shape, 0, sizeof *shape);
    if (fstat(file, &status) != 0) return files_fail(error, "read", path);
    if (S_ISDIR(status.st_mode))
        return error_set(error, "%s is a folder; expected token files; name them, such as %s/train_*.bin", path, path);
    if (!S_ISREG(status.st_mode))
        return error_set(error, "%s is not a regular file; expected a token file; copy it to a file first", path);
    shape->bytes = status.st_size;
    shape->device = status.st_dev;
    shape->inode = status.st_ino;
    shape->written = status.st_mtim;
    if (files_read_at(file, shape->header, sizeof shape->header, 0) >= 0) return true;
    return files_fail(error, "read", path);
}

/* O_NONBLOCK: to open a pipe that matches a pattern must not wait for its writer. Regular files ignore it. */
static int open_path(const char *path) { return FILES_RETRY(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)); }

static bool open_shard(Shard *shard, const char *path, Error *error) {
    shard->path = path;
    int file = open_path(path);
    if (file < 0) return files_fail(error, "open", path);
    bool ok = read_shape(&shard->shape, file, path, error) && recognise(shard, file, error);
    close(file);
    return ok;
}

static bool open_files(ShardSet *set, Error *error) {
    set->shards = checked_calloc((size_t)set->files.count, sizeof *set->shards, "the list of token files");
    while (set->count < set->files.count) {
        Shard *shard = &set->shards[set->count];
        if (!open_shard(shard, set->files.paths[set->count++], error)) return false;
        shard->first = set->tokens;
        set->tokens += shard->count;
    }
    return true;
}

bool shards_open(ShardSet **set, const char *pattern, Error *error) {
    ShardSet *opened = checked_calloc(1, sizeof *opened, "a set of token files");
    if (token_files_add(&opened->files, pattern, error) && open_files(opened, error)) {
        *set = opened;
        return true;
    }
    shards_close(opened);
    return false;
}

void shards_close(ShardSet *set) {
    if (!set) return;
    token_files_free(&set->files);
    free(set->shards);
    free(set);
}

void shards_advise(ShardSet *set, bool in_order) {
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    set->drops_read_pages = in_order && set->tokens > memory / (int64_t)sizeof(uint16_t);
}

int64_t shards_token_count(const ShardSet *set) { return set->tokens; }

int shards_file_count(const ShardSet *set) { return set->count; }

const TokenFiles *shards_files(const ShardSet *set) { return &set->files; }

bool shards_has_header(const ShardSet *set) { return set->shards[0].header_bytes > 0; }

bool shards_overlap(const ShardSet *a, const ShardSet *b, const char **path) {
    for (int i = 0; i < a->count; i++)
        for (int k = 0; k < b->count; k++) {
            const Shape *one = &a->shards[i].shape, *other = &b->shards[k].shape;
            if (one->inode != other->inode || one->device != other->device) continue;
            *path = a->shards[i].path;
            return true;
        }
    return false;
}

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

/* Some network file systems give a file a new inode number each time, and some people touch files so that no cleaner
 * removes them. So only both changes together mean another file. */
static bool is_another(const Shape *now, const Shape *before) {
    return now->inode != before->inode &&
           (now->written.tv_sec != before->written.tv_sec || now->written.tv_nsec != before->written.tv_nsec);
}

/* Opens a file for one read. Fails if it is not the same as when the set was opened. */
static bool open_again(const Shard *shard, int *file, Error *error) {
    const char *path = shard->path;
    const Shape *before = &shard->shape;
    Shape now;
    *file = open_path(path);
    if (*file < 0) return files_fail(error, "open again", path);
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

/* Widens all tokens and keeps the largest, so that the loop has no branch and vectorises. */
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
    return error_set(error,
                     "%s: token %" PRId64
                     " of the file is %d, but vocab_size is %d; %s, or another tokenizer made it; " MAKE_AGAIN,
                     shard->path, begin + i, tokens[i], vocab_size,
                     shard->header_bytes > 0 ? "the file is damaged" : "the file is damaged, holds no uint16 tokens");
}

/* tokens[0..count) = those of the file from number `begin` on. */
static bool read_tokens(const Shard *shard, int file, int64_t begin, int64_t count, int vocab_size, int32_t *tokens,
                        Error *error) {
    enum { PIECE = 8192 };
    uint16_t piece[PIECE];
    for (int64_t done = 0; done < count; done += PIECE) {
        int64_t take = min_i64(PIECE, count - done), at = shard->header_bytes + 2 * (begin + done);
        ssize_t bytes = files_read_at(file, piece, (size_t)take * sizeof *piece, at);
        if (bytes < 0) return files_fail(error, "read", shard->path);
        if (bytes < take * (int64_t)sizeof *piece)
            return error_set(error, "%s shrank to %" PRId64 " bytes while it was read", shard->path, at + bytes);
        if (!take_tokens(shard, piece, begin + done, take, vocab_size, tokens + done, error)) return false;
    }
    return true;
}

/* Tells the system to drop the pages before the last stretch. Sequences are shorter than pages, so the system sees each
 * page read several times and would keep it instead of pages that are needed again. The last stretch stays, since other
 * processes may be a step late. */
static void drop_read_pages(const ShardSet *set, const Shard *shard, int file, int64_t begin, int64_t end) {
    const int64_t stretch = 16 << 20; /* in bytes of the file, as begin and end */
    if (!set->drops_read_pages || begin / stretch == end / stretch) return;
    int64_t consumed = (end / stretch - 1) * stretch;
    if (consumed > 0) posix_fadvise(file, 0, consumed, POSIX_FADV_DONTNEED);
    if (consumed > 0 || shard == set->shards) return;
    int previous = open_path(shard[-1].path);
    if (previous < 0) return; /* the next read of it reports the failure */
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
        drop_read_pages(set, shard, file, shard->header_bytes + 2 * begin, shard->header_bytes + 2 * (begin + take));
        close(file);
        if (!ok) return false;
        position += take;
        tokens += take;
        count -= take;
    }
    return true;
}

bool shards_sample(const ShardSet *set, int file, int windows, int64_t length, int vocab_size, Error *error) {
    const Shard *shard = &set->shards[file];
    int descriptor;
    if (!open_again(shard, &descriptor, error)) return false;
    int64_t whole = ceil_div(shard->count, length), last = max_i64(shard->count - length, 0);
    bool is_whole = whole <= windows;
    int32_t *tokens = checked_malloc((size_t)length * sizeof *tokens, "a window of tokens");
    bool ok = true;
    for (int64_t i = 0; ok && i < (is_whole ? whole : windows); i++) {
        int64_t begin = is_whole ? i * length : last * i / (windows - 1);
        int64_t count = min_i64(length, shard->count - begin);
        ok = read_tokens(shard, descriptor, begin, count, vocab_size, tokens, error);
    }
    free(tokens);
    close(descriptor);
    return ok;
}
