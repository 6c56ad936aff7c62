/* text_files.c: see text_files.h. */
#include "data/prepare/text_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/foreign.h"
#include "util/files.h"
#include "util/stop_signal.h"
#include "util/utf8.h"

/* ---- listing ---- */

static void add_file(TextFiles *files, const char *path, int64_t bytes) {
    if (files->count == files->capacity) {
        files->capacity = files->capacity ? 2 * files->capacity : 64;
        files->inputs =
            checked_realloc(files->inputs, (size_t)files->capacity * sizeof *files->inputs, "the list of text files");
    }
    files->inputs[files->count++] = (TextInput){checked_strdup(path), bytes, -1, NULL};
    files->bytes = bytes < 0 || files->bytes < 0 ? -1 : files->bytes + bytes;
}

static int is_shown(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static int compare_directory_entries(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name); /* as bytes, whatever the locale */
}

/* A folder whose files are being listed, and the folder above it. */
typedef struct Folder {
    const struct Folder *above;
    dev_t device;
    ino_t inode;
} Folder;

static bool add_input(TextFiles *files, const char *path, const Folder *above, Error *error);

static bool add_folder(TextFiles *files, const char *path, const Folder *folder, Error *error) {
    for (const Folder *above = folder->above; above; above = above->above)
        if (above->inode == folder->inode && above->device == folder->device) {
            warn("%s is a link to a folder that it lies in; it is passed over", path);
            return true;
        }
    struct dirent **entries;
    int count = scandir(path, &entries, is_shown, compare_directory_entries);
    if (count < 0) return files_fail(error, "list", path);
    bool ok = true;
    for (int i = 0; i < count; i++) {
        char *below = format_string("%s/%s", path, entries[i]->d_name);
        ok = ok && add_input(files, below, folder, error);
        free(below);
        free(entries[i]);
    }
    free(entries);
    return ok;
}

/* Adds standard input. If it is a file, at its beginning, it is read like any other file. */
static void add_standard_input(TextFiles *files) {
    struct stat status;
    bool is_file = fstat(STDIN_FILENO, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 &&
                   lseek(STDIN_FILENO, 0, SEEK_CUR) == 0 && access("/dev/stdin", R_OK) == 0;
    if (is_file)
        add_file(files, "/dev/stdin", status.st_size);
    else
        add_file(files, "-", -1);
}

/* Explains why a path cannot be read: the shell leaves a pattern as it is if nothing matches or it is in quotes, and
 * nothing is downloaded here. */
static bool cannot_read(const char *path, Error *error) {
    const char *hint = "";
    int reason = errno;
    if (reason == ENOENT) hint = "; expected a file, a folder, or - for standard input; see prepare_data --help";
    if (reason == ENOENT && strpbrk(path, "*?[")) hint = "; for files that match a pattern leave the quotes away";
    if (reason == ENOENT && strstr(path, "://")) hint = "; download it first";
    return error_set(error, "cannot read %s: %s%s", path, strerror(reason), hint);
}

/* `above` is the folder in which the path was found; NULL for a path that the user named. */
static bool add_input(TextFiles *files, const char *path, const Folder *above, Error *error) {
    struct stat status;
    if (!above && strcmp(path, "-") == 0) {
        add_standard_input(files);
        return true;
    }
    if (stat(path, &status) != 0) return cannot_read(path, error);
    if (S_ISDIR(status.st_mode)) return add_folder(files, path, &(Folder){above, status.st_dev, status.st_ino}, error);
    if (S_ISREG(status.st_mode)) {
        if (status.st_size == 0)
            return above || error_set(error, "%s is empty; expected a text; leave this file out", path);
        add_file(files, path, status.st_size);
    } else if (!above) {
        add_file(files, path, -1);
    }
    return true;
}

bool text_files_list(TextFiles *files, const char *const *inputs, int count, Error *error) {
    for (int i = 0; i < count; i++)
        if (!add_input(files, inputs[i], NULL, error)) return false;
    return files->count > 0 || error_set(error,
                                         "there is no file in %s%s that has a name without a dot in front and is "
                                         "not empty; name a file with text, or a folder of such files",
                                         inputs[0], count > 1 ? " and the others" : "");
}

void text_files_free(TextFiles *files) {
    for (int i = 0; i < files->count; i++) {
        free(files->inputs[i].path);
        if (files->inputs[i].copy >= 0) close(files->inputs[i].copy);
    }
    free(files->inputs);
    *files = (TextFiles){0};
}

/* ---- reading ---- */

static const char *shown_path(const char *path) {
    return strcmp(path, "-") == 0 || strcmp(path, "/dev/stdin") == 0 ? "standard input" : path;
}

const char *text_files_name(const TextFiles *files, int i) { return shown_path(files->inputs[i].path); }

/* The file's name must outlive it. */
static bool open_input(const TextFiles *files, int i, TextFile *file, size_t block_bytes, Error *error) {
    const TextInput *input = &files->inputs[i];
    const char *name = shown_path(input->path);
    if (input->copy >= 0) lseek(input->copy, 0, SEEK_SET);
    int borrowed = input->copy >= 0 ? input->copy : strcmp(input->path, "-") == 0 ? STDIN_FILENO : -1;
    if (borrowed >= 0) return text_file_open_descriptor(file, name, input->copy_in, borrowed, block_bytes, error);
    if (!text_file_open_sized(file, input->path, block_bytes, error)) return false;
    file->path = name;
    return true;
}

bool text_files_open(const TextFiles *files, int i, TextFile *file, Error *error) {
    return open_input(files, i, file, TEXT_BLOCK_BYTES, error);
}

bool text_files_look(const TextFiles *files, bool takes_binary, int64_t *text_bytes, Error *error) {
    *text_bytes = files->bytes;
    for (int i = 0; i < files->count; i++) {
        const TextInput *input = &files->inputs[i];
        TextFile file;
        if (input->bytes < 0) continue;
        if (!open_input(files, i, &file, FOREIGN_BYTES, error)) return false;
        bool ok = text_file_check(&file, takes_binary, error);
        if (file.is_packed) *text_bytes = -1;
        if (*text_bytes >= 0 && file.has_mark) *text_bytes -= (int64_t)strlen(UTF8_MARK);
        text_file_close(&file);
        if (!ok) return false;
    }
    return true;
}

/* ---- copies of pipes ---- */

static bool check_copy(const TextInput *input, bool takes_binary, Error *error) {
    TextFile file;
    if (lseek(input->copy, 0, SEEK_SET) != 0 ||
        !text_file_open_descriptor(&file, shown_path(input->path), input->copy_in, input->copy, FOREIGN_BYTES, error))
        return false;
    bool ok = text_file_check(&file, takes_binary, error);
    text_file_close(&file);
    lseek(input->copy, 0, SEEK_END);
    return ok;
}

/* Copies the pipe. Checks the beginning as soon as there are CHECKED_BYTES, from which unpacking always gives some
 * text. */
static bool copy_bytes(TextInput *input, int pipe, const char *folder, bool takes_binary, Error *error) {
    enum { CHECKED_BYTES = TEXT_BLOCK_BYTES };
    const char *path = shown_path(input->path);
    char *block = checked_malloc(TEXT_BLOCK_BYTES, "copying text");
    ssize_t got = 1;
    int64_t bytes = 0;
    bool ok = true, is_checked = false;
    while (ok && got > 0) {
        got = text_read_some(pipe, true, path, block, TEXT_BLOCK_BYTES, error);
        ok = got >= 0;
        if (got > 0 && !files_write_all(input->copy, block, (size_t)got))
            ok = error_set(error,
                           "cannot copy %s to %s: %s; put that disk right, or give --val_fraction=0 or "
                           "--val_from=first_shard, which need no copy",
                           path, folder, strerror(errno));
        if (ok) bytes += got;
        if (ok && stop_signal_came()) ok = error_set(error, "stopped by a signal while copying %s", path);
        if (ok && !is_checked && (bytes >= CHECKED_BYTES || got == 0)) {
            ok = check_copy(input, takes_binary, error);
            is_checked = true;
        }
    }
    input->bytes = bytes;
    free(block);
    return ok;
}

/* The file has no name while it is filled, so that nothing is left if the program is killed. */
static int open_nameless(const char *folder, Error *error) {
    char *name = NULL;
    int descriptor;
    do { /* a failed call has overwritten the name */
        free(name);
        name = format_string("%s/.pipe_XXXXXX", folder);
        descriptor = mkostemp(name, O_CLOEXEC);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0)
        files_fail(error, "make a file in", folder);
    else if (FILES_RETRY(unlink(name)) != 0)
        warn("%s stays, and may be removed: %s", name, strerror(errno));
    free(name);
    return descriptor;
}

static bool copy_pipe(TextInput *input, const char *folder, bool takes_binary, Error *error) {
    bool is_standard = strcmp(input->path, "-") == 0;
    input->copy = open_nameless(folder, error);
    input->copy_in = folder;
    int pipe = input->copy < 0 ? -1 : is_standard ? STDIN_FILENO : text_open_path(input->path, error);
    bool ok = pipe >= 0 && copy_bytes(input, pipe, folder, takes_binary, error);
    if (!is_standard && pipe >= 0) close(pipe);
    return ok;
}

bool text_files_copy_pipes(TextFiles *files, const char *folder, bool takes_binary, Error *error) {
    files->bytes = 0;
    for (int i = 0; i < files->count; i++) {
        TextInput *input = &files->inputs[i];
        if (input->bytes < 0 && !copy_pipe(input, folder, takes_binary, error)) return false;
        files->bytes += input->bytes;
    }
    return true;
}
