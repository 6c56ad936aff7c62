/* shard_writer.c: writing a stream of tokens (see shard_writer.h; shard.c reads them). */
#include "data/prepare/shard_writer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/shard.h"
#include "util/files.h"

struct ShardWriter {
    char *folder, *split;
    ShardFormat format;
    int64_t shard_tokens;
    FileWriter *file; /* of the shard that is being written, or NULL */
    int64_t in_file, tokens;
    int files;     /* begun so far */
    int published; /* how many of these have their final name */
};

ShardWriter *shard_writer_open(const char *folder, const char *split, ShardFormat format, int64_t shard_tokens) {
    ShardWriter *writer = checked_calloc(1, sizeof *writer, "a writer of shards");
    writer->folder = checked_strdup(folder);
    writer->split = checked_strdup(split);
    writer->format = format;
    writer->shard_tokens = format == SHARD_NANOGPT ? INT64_MAX : shard_tokens;
    return writer;
}

int64_t shard_writer_token_count(const ShardWriter *writer) { return writer->tokens; }

int shard_writer_file_count(const ShardWriter *writer) { return writer->files; }

char *shard_writer_file_name(const ShardWriter *writer, int index) {
    if (writer->format == SHARD_NANOGPT) return format_string("%s.bin", writer->split);
    return format_string("%s_%06d.bin", writer->split, index);
}

int64_t shard_writer_file_bytes(const ShardWriter *writer, int index) {
    bool is_last = index == writer->files - 1;
    int64_t header = writer->format == SHARD_LLMC ? SHARD_HEADER_INTS * (int64_t)sizeof(int32_t) : 0;
    return header + (int64_t)sizeof(uint16_t) * (is_last ? writer->in_file : writer->shard_tokens);
}

static char *final_path(const ShardWriter *writer, int index) {
    char *name = shard_writer_file_name(writer, index), *path = format_string("%s/%s", writer->folder, name);
    free(name);
    return path;
}

static char *temporary_path(const ShardWriter *writer, int index) {
    char *name = shard_writer_file_name(writer, index), *path = format_string("%s/.%s.tmp", writer->folder, name);
    free(name);
    return path;
}

/* The header is zero until the file is complete: an incomplete file is no shard, not even under its temporary name. */
static bool begin_file(ShardWriter *writer, Error *error) {
    static const int32_t no_header[SHARD_HEADER_INTS];
    if (writer->files == SHARD_WRITER_MAX_FILES)
        return error_set(error, "%s/%s_*.bin would be more than %d files of %" PRId64 " tokens; make them larger",
                         writer->folder, writer->split, SHARD_WRITER_MAX_FILES, writer->shard_tokens);
    char *path = temporary_path(writer, writer->files++);
    bool ok = file_writer_open(&writer->file, path, error);
    free(path);
    writer->in_file = 0;
    return ok &&
           (writer->format == SHARD_NANOGPT || file_writer_append(writer->file, no_header, sizeof no_header, error));
}

static bool end_file(ShardWriter *writer, Error *error) {
    int32_t header[SHARD_HEADER_INTS] = {SHARD_MAGIC, SHARD_VERSION, (int32_t)writer->in_file};
    FileWriter *file = writer->file;
    writer->file = NULL;
    if (writer->format == SHARD_LLMC)
        file_writer_replace_head(file, header, sizeof header, NULL); /* close reports what went wrong here */
    return file_writer_close(file, NULL, NULL, error);
}

bool shard_writer_append(ShardWriter *writer, const uint16_t *tokens, size_t count, Error *error) {
    while (count > 0) {
        if (!writer->file && !begin_file(writer, error)) return false;
        size_t take = (size_t)min_i64((int64_t)count, writer->shard_tokens - writer->in_file);
        if (!file_writer_append(writer->file, tokens, take * sizeof *tokens, error)) return false;
        tokens += take;
        count -= take;
        writer->in_file += (int64_t)take;
        writer->tokens += (int64_t)take;
        if (writer->in_file == writer->shard_tokens && !end_file(writer, error)) return false;
    }
    return true;
}

bool shard_writer_finish(ShardWriter *writer, Error *error) { return !writer->file || end_file(writer, error); }

/* Whether the name is that of a temporary file of this split that a killed run left. */
static bool is_left_over(const ShardWriter *writer, const char *name) {
    size_t length = strlen(writer->split);
    if (name[0] != '.' || strncmp(name + 1, writer->split, length) != 0) return false;
    const char *ending = name + 1 + length;
    if (strcmp(ending, ".bin.tmp") == 0) return true;
    return ending[0] == '_' && strspn(ending + 1, "0123456789") == 6 && strcmp(ending + 7, ".bin.tmp") == 0;
}

static bool remove_leftovers(const ShardWriter *writer, Error *error) {
    DIR *folder = files_open_folder(writer->folder);
    if (!folder) return files_fail(error, "list", writer->folder);
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(folder));) {
        const char *name = entry->d_name;
        char *path = format_string("%s/%s", writer->folder, name);
        if (is_left_over(writer, name) && FILES_RETRY(unlink(path)) != 0)
            ok = files_fail(error, "remove the old", path);
        free(path);
    }
    closedir(folder);
    return ok;
}

bool shard_writer_publish(ShardWriter *writer, Error *error) {
    for (; writer->published < writer->files; writer->published++) {
        char *from = temporary_path(writer, writer->published), *to = final_path(writer, writer->published);
        bool ok = files_rename(from, to, error);
        free(from);
        free(to);
        if (!ok) return false;
    }
    return remove_leftovers(writer, error);
}

void shard_writer_close(ShardWriter *writer) {
    if (!writer) return;
    if (writer->file) file_writer_abandon(writer->file);
    for (int i = writer->published; i < writer->files; i++) {
        char *path = temporary_path(writer, i);
        FILES_RETRY(unlink(path));
        free(path);
    }
    free(writer->folder);
    free(writer->split);
    free(writer);
}
