/* text_source.c: see text_source.h. */
#include "data/prepare/text_source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/foreign.h"
#include "data/prepare/unpack.h"
#include "util/files.h"
#include "util/stop_signal.h"
#include "util/utf8.h"

enum { POLL_MILLISECONDS = 100 };

typedef struct TextReader {
    const char *copy_in; /* the folder of a copy that is read instead; NULL for none */
    int descriptor;
    bool is_own;
    size_t block_bytes;
    int64_t file_bytes; /* -1 for a pipe */
    bool is_at_end;
    Unpacker *unpacker;              /* NULL if the file is not packed */
    const char *packed, *packed_end; /* within block, if there is an unpacker */
    char *block;                     /* from the file */
    char *text;                      /* unpacked; NULL if the file is not packed */

    char head[FOREIGN_BYTES]; /* the first bytes of the text */
    size_t head_bytes, head_taken;
    const char *rest, *rest_end; /* what was read together with the head */
} TextReader;

/* Waits for the next bytes of a pipe, which may take long, or for a signal to stop. */
static bool wait_for_bytes(int descriptor, const char *path, Error *error) {
    struct pollfd wanted = {.fd = descriptor, .events = POLLIN};
    int ready;
    while ((ready = poll(&wanted, 1, POLL_MILLISECONDS)) == 0 || (ready < 0 && errno == EINTR))
        if (stop_signal_came()) return error_set(error, "stopped by a signal while waiting for %s", path);
    return true;
}

ssize_t text_read_some(int descriptor, bool is_pipe, const char *path, char *data, size_t bytes, Error *error) {
    ssize_t got;
    do {
        if (is_pipe && !wait_for_bytes(descriptor, path, error)) return -1;
        got = read(descriptor, data, bytes);
    } while (got < 0 && (errno == EINTR || errno == EAGAIN));
    if (got < 0) files_fail(error, "read", path);
    return got;
}

/* Fills the block, or reads to the end of the file. */
static bool read_block(TextFile *file, size_t *bytes, Error *error) {
    TextReader *reader = file->reader;
    *bytes = 0;
    while (*bytes < reader->block_bytes && !reader->is_at_end) {
        ssize_t got = text_read_some(reader->descriptor, reader->file_bytes < 0, file->path, reader->block + *bytes,
                                     reader->block_bytes - *bytes, error);
        if (got < 0 && reader->copy_in) {
            Error reason = *error;
            error_set(error, "the copy in %s: %s", reader->copy_in, reason.text);
        }
        if (got < 0) return false;
        if (got == 0) reader->is_at_end = true;
        *bytes += (size_t)got;
    }
    file->bytes_taken += (int64_t)*bytes;
    return true;
}

/* Unpacks until there is text, or until the file has no more. */
static bool unpack_more(TextFile *file, Error *error) {
    TextReader *reader = file->reader;
    char *out = reader->text, *out_end = reader->text + reader->block_bytes;
    bool was_at_end = false;
    while (out == reader->text && !was_at_end) {
        size_t bytes;
        if (reader->packed == reader->packed_end && !reader->is_at_end) {
            if (!read_block(file, &bytes, error)) return false;
            reader->packed = reader->block, reader->packed_end = reader->block + bytes;
        }
        Error reason;
        was_at_end = reader->is_at_end;
        if (!unpacker_run(reader->unpacker, &reader->packed, reader->packed_end, was_at_end, &out, out_end, &reason))
            return error_set(error,
                             "%s is packed and cannot be unpacked: %.800s; copy or download the whole file again",
                             file->path, reason.text);
    }
    file->at = reader->text, file->end = out;
    return true;
}

/* Reads the next piece of the text; empty at its end. */
static bool read_piece(TextFile *file, Error *error) {
    TextReader *reader = file->reader;
    size_t bytes;
    if (reader->unpacker) return unpack_more(file, error);
    if (!read_block(file, &bytes, error)) return false;
    file->at = reader->block, file->end = reader->block + bytes;
    return true;
}

/* Reads the first piece, whose beginning says whether the file is packed. */
static bool read_first(TextFile *file, Error *error) {
    TextReader *reader = file->reader;
    size_t bytes;
    Error reason;
    if (!read_block(file, &bytes, error)) return false;
    Packing packing = packing_of(reader->block, bytes);
    file->is_packed = packing != PACKED_NOT;
    if (!file->is_packed) {
        file->at = reader->block, file->end = reader->block + bytes;
        return true;
    }
    reader->packed = reader->block, reader->packed_end = reader->block + bytes;
    reader->text = checked_malloc(reader->block_bytes, "unpacking text");
    if (!unpacker_open(&reader->unpacker, packing, &reason))
        return error_set(error, "%s: %.900s", file->path, reason.text);
    return unpack_more(file, error);
}

/* Takes the next piece of the head, at most a block. The head is complete, whatever the size of the blocks. */
static bool take_head(TextFile *file) {
    TextReader *reader = file->reader;
    size_t bytes = (size_t)min_i64((int64_t)(reader->head_bytes - reader->head_taken), (int64_t)reader->block_bytes);
    file->at = reader->head + reader->head_taken, file->end = file->at + bytes;
    reader->head_taken += bytes;
    return bytes > 0;
}

static bool read_head(TextFile *file, Error *error) {
    TextReader *reader = file->reader;
    bool ok = read_first(file, error);
    while (ok && file->at < file->end && reader->head_bytes < FOREIGN_BYTES) {
        size_t bytes = (size_t)min_i64(file->end - file->at, (int64_t)(sizeof reader->head - reader->head_bytes));
        memcpy(reader->head + reader->head_bytes, file->at, bytes);
        reader->head_bytes += bytes;
        file->at += bytes;
        if (file->at == file->end) ok = read_piece(file, error);
    }
    reader->rest = file->at, reader->rest_end = file->end;
    size_t mark = strlen(UTF8_MARK);
    file->has_mark = reader->head_bytes >= mark && memcmp(reader->head, UTF8_MARK, mark) == 0;
    if (file->has_mark) reader->head_taken = mark;
    take_head(file);
    return ok;
}

/* is_own: the descriptor is closed with the file. */
static bool open_descriptor(TextFile *file, const char *path, const char *copy_in, int descriptor, bool is_own,
                            size_t block_bytes, Error *error) {
    struct stat status;
    bool is_file = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
    *file = (TextFile){.path = path};
    file->reader = checked_calloc(1, sizeof *file->reader, "reading text");
    file->reader->copy_in = copy_in;
    file->reader->descriptor = descriptor;
    file->reader->is_own = is_own;
    file->reader->block_bytes = block_bytes;
    file->reader->file_bytes = is_file ? (int64_t)status.st_size : -1;
    file->reader->block = checked_malloc(block_bytes, "reading text");
    if (read_head(file, error)) return true;
    text_file_close(file);
    return false;
}

bool text_file_open_descriptor(TextFile *file, const char *name, const char *copy_in, int descriptor,
                               size_t block_bytes, Error *error) {
    return open_descriptor(file, name, copy_in, descriptor, false, block_bytes, error);
}

int text_open_path(const char *path, Error *error) {
    int descriptor = FILES_RETRY(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (descriptor < 0) files_fail(error, "read", path);
    return descriptor;
}

bool text_file_open_sized(TextFile *file, const char *path, size_t block_bytes, Error *error) {
    int descriptor = text_open_path(path, error);
    return descriptor >= 0 && open_descriptor(file, path, NULL, descriptor, true, block_bytes, error);
}

bool text_file_open(TextFile *file, const char *path, Error *error) {
    return text_file_open_sized(file, path, TEXT_BLOCK_BYTES, error);
}

void text_file_close(TextFile *file) {
    if (!file->reader) return;
    unpacker_close(file->reader->unpacker);
    if (file->reader->is_own) close(file->reader->descriptor);
    free(file->reader->block);
    free(file->reader->text);
    free(file->reader);
    *file = (TextFile){0};
}

bool text_file_check(const TextFile *file, bool takes_binary, Error *error) {
    const TextReader *reader = file->reader;
    const char *unpacked = file->is_packed ? ", unpacked," : "";
    if (file->is_packed && packing_of(reader->head, reader->head_bytes) != PACKED_NOT)
        return error_set(error, "%s is packed twice; expected text, packed once at most; unpack it once", file->path);
    const ForeignFormat *format =
        foreign_format(FOREIGN_AS_TEXT, reader->head, reader->head_bytes, file->is_packed ? -1 : reader->file_bytes);
    if (!format || (takes_binary && format->is_guess)) return true;
    return error_set(error, "%s%s looks like %s, not like text in UTF-8; %s", file->path, unpacked, format->name,
                     format->remedy[FOREIGN_AS_TEXT]);
}

bool text_file_read(TextFile *file, bool *failed, Error *error) {
    TextReader *reader = file->reader;
    *failed = false;
    if (take_head(file)) return true;
    if (reader->rest < reader->rest_end) {
        file->at = reader->rest, file->end = reader->rest_end;
        reader->rest = reader->rest_end;
        return true;
    }
    *failed = !read_piece(file, error);
    return !*failed && file->at < file->end;
}
