/* text_source.c: see text_source.h. */
#include "data/text_source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/unpack.h"
#include "util/stop_signal.h"

/* Of a read, and of what is unpacked at a time. */
enum { BLOCK_BYTES = 1 << 20 };

enum { POLL_MILLISECONDS = 100 };

/* ---- which files ---- */

static void add_file(TextFiles *files, const char *path, int64_t size) {
    if (files->count == files->capacity) {
        files->capacity = files->capacity ? 2 * files->capacity : 64;
        files->paths =
            checked_realloc(files->paths, (size_t)files->capacity * sizeof *files->paths, "the list of text files");
    }
    files->paths[files->count++] = checked_strdup(path);
    files->bytes = size < 0 || files->bytes < 0 ? -1 : files->bytes + size;
}

static int is_shown(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static int compare_names(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name); /* as bytes, whatever the locale */
}

static bool add_input(TextFiles *files, const char *path, bool is_named, Error *error);

static bool add_folder(TextFiles *files, const char *path, Error *error) {
    struct dirent **entries;
    int count = scandir(path, &entries, is_shown, compare_names);
    if (count < 0) return error_set(error, "cannot list %s: %s", path, strerror(errno));
    bool ok = true;
    for (int i = 0; i < count; i++) {
        char *below = format_string("%s/%s", path, entries[i]->d_name);
        ok = ok && add_input(files, below, false, error);
        free(below);
        free(entries[i]);
    }
    free(entries);
    return ok;
}

static bool add_input(TextFiles *files, const char *path, bool is_named, Error *error) {
    struct stat status;
    if (is_named && strcmp(path, "-") == 0) {
        add_file(files, path, -1);
        return true;
    }
    if (stat(path, &status) != 0) return error_set(error, "cannot read %s: %s", path, strerror(errno));
    if (S_ISDIR(status.st_mode)) return add_folder(files, path, error);
    if (S_ISREG(status.st_mode)) {
        if (status.st_size == 0) return !is_named || error_set(error, "%s is empty", path);
        add_file(files, path, status.st_size);
    } else if (is_named) {
        add_file(files, path, -1);
    }
    return true;
}

bool text_files_list(TextFiles *files, const char *const *inputs, int count, Error *error) {
    for (int i = 0; i < count; i++)
        if (!add_input(files, inputs[i], true, error)) return false;
    return files->count > 0 ||
           error_set(error, "there is no file in %s%s", inputs[0], count > 1 ? " and the others" : "");
}

void text_files_free(TextFiles *files) {
    for (int i = 0; i < files->count; i++) free(files->paths[i]);
    free(files->paths);
    *files = (TextFiles){0};
}

static bool is_plain(const char *path) {
    char begin[PACKING_BYTES];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t bytes = file < 0 ? -1 : read(file, begin, sizeof begin);
    if (file >= 0) close(file);
    return bytes >= 0 && packing_of(begin, (size_t)bytes) == PACKED_NOT;
}

bool text_files_are_plain(const TextFiles *files) {
    for (int i = 0; i < files->count; i++)
        if (!is_plain(files->paths[i])) return false;
    return true;
}

/* ---- what is in them ---- */

typedef struct TextReader {
    int descriptor;
    size_t block_bytes;
    bool is_at_end;
    Unpacker *unpacker;              /* NULL where the file is not packed */
    const char *packed, *packed_end; /* within block, where there is an unpacker */
    char *block;                     /* from the file */
    char *text;                      /* unpacked; NULL where the file is not packed */
} TextReader;

/* Of a pipe, whose next bytes may be long in coming: waits for them or for a signal to stop. */
static bool await_bytes(const TextFile *file, Error *error) {
    struct pollfd wanted = {.fd = file->reader->descriptor, .events = POLLIN};
    int ready;
    while ((ready = poll(&wanted, 1, POLL_MILLISECONDS)) == 0 || (ready < 0 && errno == EINTR))
        if (stop_signal_came()) return error_set(error, "stopped by a signal while waiting for %s", file->path);
    return true;
}

/* Fills the block, but for the end of the file. */
static bool read_block(TextFile *file, size_t *bytes, Error *error) {
    TextReader *reader = file->reader;
    *bytes = 0;
    while (*bytes < reader->block_bytes && !reader->is_at_end) {
        if (!await_bytes(file, error)) return false;
        ssize_t got = read(reader->descriptor, reader->block + *bytes, reader->block_bytes - *bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(error, "cannot read %s: %s", file->path, strerror(errno));
        if (got == 0) reader->is_at_end = true;
        *bytes += (size_t)got;
    }
    file->bytes_taken += (int64_t)*bytes;
    return true;
}

static bool begin(TextFile *file, Error *error) {
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
    return unpacker_open(&reader->unpacker, packing, &reason) ||
           error_set(error, "%s: %.900s", file->path, reason.text);
}

bool text_file_open(TextFile *file, const char *path, Error *error) {
    return text_file_open_sized(file, path, BLOCK_BYTES, error);
}

bool text_file_open_sized(TextFile *file, const char *path, size_t block_bytes, Error *error) {
    bool is_standard = strcmp(path, "-") == 0;
    *file = (TextFile){.path = is_standard ? "standard input" : path};
    int descriptor = is_standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return error_set(error, "cannot read %s: %s", path, strerror(errno));
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
    file->reader = checked_calloc(1, sizeof *file->reader, "reading text");
    file->reader->descriptor = descriptor;
    file->reader->block_bytes = block_bytes;
    file->reader->block = checked_malloc(block_bytes, "reading text");
    if (begin(file, error)) return true;
    text_file_close(file);
    return false;
}

void text_file_close(TextFile *file) {
    if (!file->reader) return;
    unpacker_close(file->reader->unpacker);
    if (file->reader->descriptor != STDIN_FILENO) close(file->reader->descriptor);
    free(file->reader->block);
    free(file->reader->text);
    free(file->reader);
    *file = (TextFile){0};
}

/* Until there is text, or nothing more can come. */
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
            return error_set(error, "%s is packed and cannot be unpacked: %.900s", file->path, reason.text);
    }
    file->at = reader->text, file->end = out;
    return true;
}

bool text_file_read(TextFile *file, bool *failed, Error *error) {
    TextReader *reader = file->reader;
    size_t bytes = 0;
    *failed = true;
    if (reader->unpacker) {
        if (!unpack_more(file, error)) return false;
    } else {
        if (!read_block(file, &bytes, error)) return false;
        file->at = reader->block, file->end = reader->block + bytes;
    }
    *failed = false;
    return file->at < file->end;
}
