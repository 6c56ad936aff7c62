/* shard.h: reads token files on disk as one stream.
 *
 * Two formats, recognised by content: llm.c shards (256 int32 of header: 20240520, 1, token count; then uint16 tokens)
 * and nanoGPT's bare uint16. A file without the header that looks like anything else (foreign.h) is refused. Only the
 * beginning of each file is read on opening, so a thousand shards open in some milliseconds, and none stays open
 * between reads. The loader decides in which order tokens are visited. */
#ifndef MARS_DATA_SHARD_H
#define MARS_DATA_SHARD_H

#include "data/token_files.h"

enum { SHARD_MAGIC = 20240520, SHARD_VERSION = 1, SHARD_HEADER_INTS = 256 };

EXTERN_C_BEGIN

typedef struct ShardSet ShardSet;

/* Opens the files that `pattern` names (token_files.h) as one stream. Fails for an empty or truncated file, a header
 * that contradicts the file's size, an odd size, and a file of another format; the message says what it looks like and
 * what to do. */
bool shards_open(ShardSet **set, const char *pattern, Error *error);
void shards_close(ShardSet *set);

/* Says whether the set will be read in the order of the stream. If it will be, and is larger than the machine's memory,
 * the system drops what was read at once, to keep pages that are needed again. Call it before any thread reads. */
void shards_advise(ShardSet *set, bool in_order);

int64_t shards_token_count(const ShardSet *set);
int shards_file_count(const ShardSet *set);
const TokenFiles *shards_files(const ShardSet *set); /* in the order of the stream */
/* Whether the first file has llm.c's header. */
bool shards_has_header(const ShardSet *set);

/* tokens[0..count) = stream[position..position + count), which may cross files. A token >= vocab_size is an error
 * that names the file and the token's position in it; so is a file that is gone, cannot be read, was replaced, or has
 * another size or header than when it was opened. */
bool shards_read(const ShardSet *set, int64_t position, int64_t count, int vocab_size, int32_t *tokens, Error *error);

/* Reads windows (2 or more) of `length` tokens, evenly spread from the first token of file number `file` to its last,
 * and fails as shards_read does. A file of fewer tokens than the windows have together is read as a whole. */
bool shards_sample(const ShardSet *set, int file, int windows, int64_t length, int vocab_size, Error *error);

/* Whether both sets have the same file, even under different names; *path is its name in `a`. */
bool shards_overlap(const ShardSet *a, const ShardSet *b, const char **path);

EXTERN_C_END

#endif
