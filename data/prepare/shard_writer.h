/* shard_writer.h: writing a stream of tokens, as llm.c's shards or as nanoGPT's one file.
 *
 * Shards are FOLDER/SPLIT_000000.bin, SPLIT_000001.bin, ..., so that SPLIT_*.bin names them all in order; the one file
 * is FOLDER/SPLIT.bin. While they are written they have hidden temporary names, which no such pattern matches; only
 * shard_writer_publish() gives them their final names. So an incomplete set is never visible, and an earlier set
 * stays. */
#ifndef MARS_DATA_PREPARE_SHARD_WRITER_H
#define MARS_DATA_PREPARE_SHARD_WRITER_H

#include "util/base.h"

/* How many files the six digits of a name can number. */
enum { SHARD_WRITER_MAX_FILES = 1000000 };

EXTERN_C_BEGIN

typedef enum ShardFormat {
    SHARD_LLMC,   /* a header (see shard.h) and uint16 */
    SHARD_NANOGPT /* uint16 alone, all in one file */
} ShardFormat;

typedef struct ShardWriter ShardWriter;

/* Nothing is written yet. `shard_tokens`, from 1 to INT32_MAX, is the size of each shard but the last. */
ShardWriter *shard_writer_open(const char *folder, const char *split, ShardFormat format, int64_t shard_tokens);

bool shard_writer_append(ShardWriter *writer, const uint16_t *tokens, size_t count, Error *error);

/* Completes the last file. All tokens are on the disk afterwards, under temporary names. */
bool shard_writer_finish(ShardWriter *writer, Error *error);

/* After finish: gives the files their names, in place of any that have them, and removes temporary files of this split
 * that a writer which was killed left in the folder. The caller syncs the folder. */
bool shard_writer_publish(ShardWriter *writer, Error *error);

/* Frees the writer, and removes its temporary files unless it was published. */
void shard_writer_close(ShardWriter *writer);

int64_t shard_writer_token_count(const ShardWriter *writer);
int shard_writer_file_count(const ShardWriter *writer);
/* The name within the folder, which the caller frees, and after finish the size of file 0 <= index < file_count. */
char *shard_writer_file_name(const ShardWriter *writer, int index);
int64_t shard_writer_file_bytes(const ShardWriter *writer, int index);

EXTERN_C_END

#endif
