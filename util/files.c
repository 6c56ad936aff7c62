/* files.c: see files.h. The one place that computes checksums: xxhash is compiled in here, so that it uses the
 * processor's vector instructions as the rest of the program does, and nothing has to be linked. */
#define _GNU_SOURCE 1 /* nftw */
#define XXH_INLINE_ALL
#include <inttypes.h>
#include <xxhash.h>

#include "util/files.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 20, WRITER_BYTES = 1 << 16, TREE_OPEN_FOLDERS = 16 };

bool files_has(const char *folder, const char *name) {
    char *path = format_string("%s/%s", folder, name);
    bool is_there = files_is_file(path);
    free(path);
    return is_there;
}

bool files_exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

bool files_is_file(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

bool files_is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

void files_folder_of(const char *path, char *folder, size_t bytes) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(folder, bytes, ".");
    else
        snprintf(folder, bytes, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

/* The home folder of the user whose name has `length` bytes; of the current user if it is empty. NULL if unknown. */
static const char *home_of(const char *name, size_t length) {
    const char *home = getenv("HOME");
    if (length == 0 && home && *home) return home;
    char *copy = checked_strdup(name);
    copy[length] = 0;
    const struct passwd *user = length > 0 ? getpwnam(copy) : getpwuid(getuid());
    free(copy);
    return user ? user->pw_dir : NULL;
}

char *files_expand_home(const char *path) {
    if (path[0] != '~') return checked_strdup(path);
    size_t length = strcspn(path + 1, "/");
    const char *home = home_of(path + 1, length);
    return home ? format_string("%s%s", home, path + 1 + length) : checked_strdup(path);
}

uint64_t files_space_left(const char *path) {
    struct statvfs status;
    if (statvfs(path, &status) != 0 || status.f_blocks == 0) return UINT64_MAX;
    return (uint64_t)status.f_bavail * status.f_frsize;
}

/* What helps against an error of the disk, as the end of a message. */
static const char *advice(int reason) {
    switch (reason) {
    case ENOSPC:
    case EDQUOT:
        return "; make room there";
    case EIO:
        return "; check that disk (dmesg may say more)";
    case EROFS:
        return "; make it writable";
    case EACCES:
    case EPERM:
        return "; check its permissions";
    default:
        return "";
    }
}

bool files_fail(Error *error, const char *what, const char *path) {
    int reason = errno;
    return error_set(error, "cannot %s %s: %s%s", what, path, strerror(reason), advice(reason));
}

DIR *files_open_folder(const char *path) {
    DIR *folder;
    do folder = opendir(path);
    while (!folder && errno == EINTR);
    return folder;
}

bool files_close(int descriptor) { return close(descriptor) == 0 || errno == EINTR; }

size_t files_write_some(int descriptor, const void *data, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t put = FILES_RETRY(write(descriptor, (const char *)data + done, bytes - done));
        if (put == 0) errno = ENOSPC; /* no progress and no reason: do not try for ever */
        if (put <= 0) break;
        done += (size_t)put;
    }
    return done;
}

bool files_write_all(int descriptor, const void *data, size_t bytes) {
    return files_write_some(descriptor, data, bytes) == bytes;
}

bool files_rename(const char *from, const char *to, Error *error) {
    if (FILES_RETRY(rename(from, to)) == 0) return true;
    int reason = errno;
    return error_set(error, "cannot rename %s to %s: %s%s", from, to, strerror(reason), advice(reason));
}

bool files_sync_folder(const char *path, Error *error) {
    int descriptor = FILES_RETRY(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor < 0) return files_fail(error, "open the folder", path);
    /* EINVAL: the file system cannot sync folders, so nothing can be done. */
    bool ok = FILES_RETRY(fsync(descriptor)) == 0 || errno == EINVAL;
    if (!ok) files_fail(error, "sync the folder", path);
    close(descriptor);
    return ok;
}

/* Syncs the folder that holds `path`. */
static bool sync_parent(const char *path, Error *error) {
    char parent[PATH_MAX];
    files_folder_of(path, parent, sizeof parent);
    return files_sync_folder(parent, error);
}

/* The same for a new folder, but does nothing if we may not read the folder above it. */
static bool sync_above(const char *path, Error *error) {
    char parent[PATH_MAX];
    files_folder_of(path, parent, sizeof parent);
    return access(parent, R_OK) != 0 || files_sync_folder(parent, error);
}

bool files_put_in_place(const char *temporary, const char *path, Error *error) {
    if (files_rename(temporary, path, error)) return sync_parent(path, error);
    FILES_RETRY(unlink(temporary));
    return false;
}

bool files_make_folders(const char *path, Error *error) {
    char *part = checked_strdup(path);
    bool ok = *path != 0;
    if (!ok) error_set(error, "cannot make a folder without a name");
    for (size_t i = 1; ok && i <= strlen(path); i++) {
        if ((path[i] != '/' && path[i] != 0) || path[i - 1] == '/') continue;
        part[i] = 0;
        int reason = FILES_RETRY(mkdir(part, 0777)) == 0 ? 0 : errno; /* files_is_folder() sets errno, too */
        if (reason == 0)
            ok = sync_above(part, error);
        else if (!files_is_folder(part))
            ok = error_set(error, "cannot make the folder %s: %s%s", part,
                           files_is_file(part) ? "a file is there" : strerror(reason), advice(reason));
        part[i] = path[i];
    }
    free(part);
    return ok;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where) {
    (void)status, (void)type, (void)where;
    return FILES_RETRY(remove(path));
}

bool files_remove_tree(const char *path, Error *error) {
    if (nftw(path, remove_one, TREE_OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT) return true;
    return files_fail(error, "remove", path);
}

/* Opens a regular file for reading and returns its descriptor, or -1. A pipe or a device may block or never end. */
static int open_regular(const char *path, Error *error) {
    struct stat status;
    int descriptor = FILES_RETRY(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (descriptor < 0) {
        files_fail(error, "open", path);
    } else if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        error_set(error, "%s is not a regular file", path);
        close(descriptor);
        descriptor = -1;
    }
    return descriptor;
}

ssize_t files_read_at(int descriptor, void *data, size_t bytes, int64_t at) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = FILES_RETRY(pread(descriptor, (char *)data + done, bytes - done, at + (int64_t)done));
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

char *files_read(const char *path, size_t limit, size_t *bytes, Error *error) {
    int descriptor = open_regular(path, error);
    if (descriptor < 0) return NULL;
    off_t length = lseek(descriptor, 0, SEEK_END);
    char *data = NULL;
    if (length < 0 || (uint64_t)length > limit) {
        error_set(error, "%s is too long: %" PRId64 " bytes, at most %zu are expected", path, length, limit);
    } else {
        data = checked_malloc((size_t)length + 1, path);
        ssize_t got = files_read_at(descriptor, data, (size_t)length, 0);
        if (got < 0) {
            files_fail(error, "read", path);
            free(data);
            data = NULL;
        } else {
            data[got] = 0;
            if (bytes) *bytes = (size_t)got;
        }
    }
    close(descriptor);
    return data;
}

uint64_t files_checksum_memory(const void *data, size_t bytes) { return XXH3_64bits(data, bytes); }

/* Calls take(context, data, bytes) for the whole content of a file, piece by piece. */
static bool read_in_pieces(const char *path, bool (*take)(void *context, const void *data, size_t bytes, Error *error),
                           void *context, Error *error) {
    int descriptor = open_regular(path, error);
    if (descriptor < 0) return false;
    char *buffer = checked_malloc(BUFFER_BYTES, "a file buffer");
    int64_t at = 0;
    ssize_t got;
    bool ok = true;
    for (; ok && (got = files_read_at(descriptor, buffer, BUFFER_BYTES, at)) != 0; at += got)
        ok = got > 0 ? take(context, buffer, (size_t)got, error) : files_fail(error, "read", path);
    free(buffer);
    close(descriptor);
    return ok;
}

typedef struct Sum {
    XXH3_state_t *state;
    uint64_t bytes;
} Sum;

static XXH3_state_t *new_checksum(void) {
    XXH3_state_t *state = XXH3_createState();
    if (!state) die("out of memory: the state of a checksum");
    XXH3_64bits_reset(state);
    return state;
}

static bool take_into_sum(void *context, const void *data, size_t bytes, Error *error) {
    (void)error;
    Sum *sum = context;
    XXH3_64bits_update(sum->state, data, bytes);
    sum->bytes += bytes;
    return true;
}

bool files_checksum(const char *path, uint64_t *bytes, uint64_t *checksum, Error *error) {
    Sum sum = {new_checksum(), 0};
    bool ok = read_in_pieces(path, take_into_sum, &sum, error);
    *bytes = sum.bytes;
    *checksum = XXH3_64bits_digest(sum.state);
    XXH3_freeState(sum.state);
    return ok;
}

struct FileWriter {
    char *path;
    int descriptor;
    XXH3_state_t *checksum;
    uint64_t bytes; /* appended so far, the buffered ones included */
    bool failed;
    Error first; /* the first failure */
    size_t buffered;
    char buffer[WRITER_BYTES];
};

bool file_writer_open(FileWriter **writer, const char *path, Error *error) {
    *writer = NULL;
    int descriptor = FILES_RETRY(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (descriptor < 0) return files_fail(error, "create", path);
    FileWriter *made = checked_malloc(sizeof *made, "a file buffer");
    made->path = checked_strdup(path);
    made->descriptor = descriptor;
    made->checksum = new_checksum();
    made->bytes = 0;
    made->failed = false;
    made->buffered = 0;
    *writer = made;
    return true;
}

/* Remembers the first thing that went wrong with the file. */
static void fail(FileWriter *writer, const char *what) {
    if (!writer->failed) files_fail(&writer->first, what, writer->path);
    writer->failed = true;
}

static void write_out(FileWriter *writer, const void *data, size_t bytes) {
    if (!writer->failed && !files_write_all(writer->descriptor, data, bytes)) fail(writer, "write");
}

static void flush(FileWriter *writer) {
    write_out(writer, writer->buffer, writer->buffered);
    writer->buffered = 0;
}

bool file_writer_append(FileWriter *writer, const void *data, size_t bytes, Error *error) {
    if (!writer->failed && bytes > 0) {
        XXH3_64bits_update(writer->checksum, data, bytes);
        writer->bytes += bytes;
        if (writer->buffered + bytes > WRITER_BYTES) flush(writer);
        if (bytes > WRITER_BYTES) { /* large data is written without the buffer */
            write_out(writer, data, bytes);
        } else {
            memcpy(writer->buffer + writer->buffered, data, bytes);
            writer->buffered += bytes;
        }
    }
    return writer->failed ? error_set(error, "%s", writer->first.text) : true;
}

bool file_writer_replace_head(FileWriter *writer, const void *data, size_t bytes, Error *error) {
    flush(writer);
    if (!writer->failed &&
        (lseek(writer->descriptor, 0, SEEK_SET) < 0 || !files_write_all(writer->descriptor, data, bytes) ||
         lseek(writer->descriptor, 0, SEEK_END) < 0))
        fail(writer, "write");
    return writer->failed ? error_set(error, "%s", writer->first.text) : true;
}

bool file_writer_close(FileWriter *writer, uint64_t *bytes, uint64_t *checksum, Error *error) {
    flush(writer);
    if (!writer->failed && FILES_RETRY(fsync(writer->descriptor)) != 0) fail(writer, "sync");
    if (!files_close(writer->descriptor)) fail(writer, "close");
    if (bytes) *bytes = writer->bytes;
    if (checksum) *checksum = XXH3_64bits_digest(writer->checksum);
    bool ok = !writer->failed;
    if (!ok) {
        FILES_RETRY(unlink(writer->path));
        error_set(error, "%s", writer->first.text);
    }
    XXH3_freeState(writer->checksum);
    free(writer->path);
    free(writer);
    return ok;
}

void file_writer_abandon(FileWriter *writer) {
    writer->failed = true;
    writer->first.text[0] = 0;
    file_writer_close(writer, NULL, NULL, NULL);
}

static bool take_into_writer(void *context, const void *data, size_t bytes, Error *error) {
    return file_writer_append(context, data, bytes, error);
}

bool files_copy(const char *from, const char *to, uint64_t *bytes, uint64_t *checksum, Error *error) {
    FileWriter *writer;
    if (!file_writer_open(&writer, to, error)) return false;
    if (read_in_pieces(from, take_into_writer, writer, error)) return file_writer_close(writer, bytes, checksum, error);
    file_writer_abandon(writer);
    return false;
}

bool files_write_text(const char *path, const char *text, Error *error) {
    char *temporary = format_string("%s.tmp", path);
    FileWriter *writer;
    bool ok = file_writer_open(&writer, temporary, error);
    if (ok) {
        file_writer_append(writer, text, strlen(text), NULL); /* close reports what went wrong here */
        ok = file_writer_close(writer, NULL, NULL, error) && files_put_in_place(temporary, path, error);
    }
    free(temporary);
    return ok;
}
