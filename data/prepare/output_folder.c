/* output_folder.c: see output_folder.h. read_list() reads the list of an earlier run's files and make_list() makes the
 * new one. The functions between them decide which files are own, and which ones are in the way. */
#include "data/prepare/output_folder.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/shard.h"
#include "data/tokenizer/vocabulary.h"
#include "util/files.h"

#define DESCRIPTION "tokens.json"
#define NEW_DESCRIPTION ".tokens.json.tmp"
#define OLD_DESCRIPTION ".tokens.json.old"

enum { DESCRIPTION_LIMIT = 1 << 27 }; /* bytes: a million files have a list of 32 MB */

/* A listed file. */
typedef struct OwnFile {
    char *name;
    int64_t bytes;
} OwnFile;

typedef struct FileList {
    OwnFile *files; /* sorted by name */
    size_t count, capacity;
} FileList;

struct OutputFolder {
    char *path, *vocabulary; /* vocabulary NULL: none is copied */
    int descriptor;          /* holds the lock */
    FileList own;
    bool is_described; /* there is a tokens.json that prepare_data made */
    bool has_list;     /* it lists files */
};

/* ---- lists ---- */

static void add_file(FileList *list, const char *name, int64_t bytes) {
    if (list->count == list->capacity) {
        list->capacity = 2 * list->capacity + 16;
        list->files = checked_realloc(list->files, list->capacity * sizeof *list->files, "a list of files");
    }
    list->files[list->count++] = (OwnFile){checked_strdup(name), bytes};
}

static int compare_files(const void *a, const void *b) {
    return strcmp(((const OwnFile *)a)->name, ((const OwnFile *)b)->name);
}

static void sort_list(FileList *list) {
    if (list->count > 0) qsort(list->files, list->count, sizeof *list->files, compare_files);
}

/* Any entry of that name; NULL if there is none. A name may be in several lists. */
static const OwnFile *find_file(const FileList *list, const char *name) {
    OwnFile wanted = {.name = (char *)name};
    return list->count > 0 ? bsearch(&wanted, list->files, list->count, sizeof wanted, compare_files) : NULL;
}

static bool lists(const FileList *list, const char *name, int64_t bytes) {
    const OwnFile *file = find_file(list, name), *end = list->files + list->count;
    while (file && file > list->files && strcmp(file[-1].name, name) == 0) file--;
    for (; file && file < end && strcmp(file->name, name) == 0; file++)
        if (file->bytes == bytes) return true;
    return false;
}

static void free_list(FileList *list) {
    for (size_t i = 0; i < list->count; i++) free(list->files[i].name);
    free(list->files);
}

/* ---- names ---- */

/* The name of a file in the folder, which the caller frees. */
static char *path_in(const OutputFolder *f, const char *name) { return format_string("%s/%s", f->path, name); }

/* The size of a file in the folder in bytes; -1 if there is none, or it is no regular file. */
static int64_t size_in(const OutputFolder *f, const char *name) {
    struct stat status;
    return fstatat(f->descriptor, name, &status, 0) == 0 && S_ISREG(status.st_mode) ? (int64_t)status.st_size : -1;
}

static bool is_vocabulary(const char *name) {
    for (int i = 0; i < VOCABULARY_FILES; i++)
        if (strcmp(name, vocabulary_files[i]) == 0) return true;
    return false;
}

/* Whether patterns for token files would match the name. */
static bool is_token_file(const char *name) {
    static const char *const patterns[] = {"train.bin", "val.bin", "train_*.bin", "val_*.bin"};
    for (size_t i = 0; i < ARRAY_LENGTH(patterns); i++)
        if (fnmatch(patterns[i], name, 0) == 0) return true;
    return false;
}

/* ---- what earlier runs made ---- */

static int64_t recorded_tokens(const cJSON *json, const char *split) {
    char key[16];
    snprintf(key, sizeof key, "%s_tokens", split);
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(json, key);
    return cJSON_IsNumber(number) ? (int64_t)number->valuedouble : 0;
}

/* Adds the files that a tokens.json without a list describes: none, unless they hold as many tokens as it records. */
static void add_unlisted(OutputFolder *f, const cJSON *json, const char *split) {
    const char *format = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "format"));
    bool is_bare = format && strcmp(format, "nanogpt") == 0;
    int64_t header = is_bare ? 0 : SHARD_HEADER_INTS * (int64_t)sizeof(int32_t);
    int64_t recorded = recorded_tokens(json, split), found = 0;
    size_t before = f->own.count;
    for (int i = 0; found < recorded && i < (is_bare ? 1 : SHARD_WRITER_MAX_FILES); i++) {
        char *name = is_bare ? format_string("%s.bin", split) : format_string("%s_%06d.bin", split, i);
        int64_t bytes = size_in(f, name);
        if (bytes >= 0) add_file(&f->own, name, bytes);
        free(name);
        if (bytes < 0) break;
        found += (bytes - header) / 2;
    }
    if (found == recorded) return;
    while (f->own.count > before) free(f->own.files[--f->own.count].name);
}

/* Adds the files that `name` lists, if prepare_data made it. Returns false if it exists and cannot be read. */
static bool read_list(OutputFolder *f, const char *name, bool *is_description, Error *error) {
    char *path = path_in(f, name), *text = files_read(path, DESCRIPTION_LIMIT, NULL, error);
    bool ok = text || !files_is_file(path);
    cJSON *json = text ? cJSON_Parse(text) : NULL, *file;
    const char *maker = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "created_by"));
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(json, "files");
    bool is_ours = maker && strncmp(maker, "prepare_data ", strlen("prepare_data ")) == 0;
    if (is_ours && !files) {
        add_unlisted(f, json, "train");
        add_unlisted(f, json, "val");
    }
    f->has_list = is_ours && cJSON_IsObject(files);
    if (f->has_list)
        cJSON_ArrayForEach(file, files) if (cJSON_IsNumber(file) &&
                                            (is_token_file(file->string) || is_vocabulary(file->string)))
            add_file(&f->own, file->string, (int64_t)file->valuedouble);
    cJSON_Delete(json);
    free(text);
    free(path);
    *is_description = is_ours;
    return ok;
}

static bool read_lists(OutputFolder *f, Error *error) {
    bool ok = read_list(f, NEW_DESCRIPTION, &f->is_described, error) &&
              read_list(f, OLD_DESCRIPTION, &f->is_described, error) &&
              read_list(f, DESCRIPTION, &f->is_described, error);
    sort_list(&f->own);
    return ok;
}

static bool is_own(const OutputFolder *f, const char *name) { return lists(&f->own, name, size_in(f, name)); }

/* ---- what is in the way ---- */

static bool is_same_file(const char *a, const char *b) {
    struct stat first, second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_ino == second.st_ino &&
           first.st_dev == second.st_dev;
}

static bool has_same_content(const char *a, const char *b) {
    uint64_t bytes[2], sums[2];
    return files_checksum(a, &bytes[0], &sums[0], NULL) && files_checksum(b, &bytes[1], &sums[1], NULL) &&
           bytes[0] == bytes[1] && sums[0] == sums[1];
}

/* Whether a file of the vocabulary would be replaced by another content, or a folder has its name. */
static bool is_other_vocabulary(const OutputFolder *f, const char *name) {
    if (!f->vocabulary || !is_vocabulary(name)) return false;
    char *source = format_string("%s/%s", f->vocabulary, name), *here = path_in(f, name);
    bool is_other = files_is_file(source) && !is_same_file(source, here) && !has_same_content(source, here);
    free(source);
    free(here);
    return is_other;
}

static bool is_in_the_way(const OutputFolder *f, const char *name) {
    if (strcmp(name, DESCRIPTION) == 0) return !f->is_described;
    if (is_token_file(name)) return !is_own(f, name);
    return is_other_vocabulary(f, name) && !is_own(f, name);
}

/* Why the file is not own, as a part of a sentence. */
static void describe_obstacle(const OutputFolder *f, const char *name, char *text, size_t bytes) {
    const OwnFile *listed = find_file(&f->own, name);
    const char *other = is_vocabulary(name) ? "it is another vocabulary, and " : "";
    if (strcmp(name, DESCRIPTION) == 0)
        snprintf(text, bytes, "prepare_data did not make it");
    else if (!f->is_described)
        snprintf(text, bytes, "%sthere is no tokens.json that lists it as made by prepare_data", other);
    else if (!f->has_list && is_token_file(name))
        snprintf(text, bytes, "tokens.json there lists no files, and does not record as many tokens as these hold");
    else if (!listed)
        snprintf(text, bytes, "%stokens.json there does not list it as made by prepare_data", other);
    else if (size_in(f, name) < 0)
        snprintf(text, bytes, "it is no regular file");
    else
        snprintf(text, bytes, "it has %" PRId64 " bytes, and tokens.json there lists it with %" PRId64,
                 size_in(f, name), listed->bytes);
}

/* Fails if a file is in the way. Names the first one by name, so that the message does not depend on the folder's
 * order. */
static bool check_clear(const OutputFolder *f, Error *error) {
    DIR *entries = files_open_folder(f->path);
    if (!entries) return files_fail(error, "list", f->path);
    char first[NAME_MAX + 1] = "", reason[200], others[40] = "";
    int count = 0;
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (!is_in_the_way(f, entry->d_name)) continue;
        if (count++ == 0 || strcmp(entry->d_name, first) < 0) snprintf(first, sizeof first, "%s", entry->d_name);
    }
    closedir(entries);
    if (count == 0) return true;
    describe_obstacle(f, first, reason, sizeof reason);
    if (count > 1) snprintf(others, sizeof others, ", and so are %d more", count - 1);
    return error_set(error, "%.400s/%s is in the way%s: %s; move it away, or give another folder with --out", f->path,
                     first, others, reason);
}

bool output_folder_owns(const OutputFolder *folder, const char *input) {
    struct stat status, own;
    int found = strcmp(input, "-") == 0 ? fstat(STDIN_FILENO, &status) : stat(input, &status);
    for (size_t i = 0; found == 0 && i < folder->own.count; i++)
        if (fstatat(folder->descriptor, folder->own.files[i].name, &own, 0) == 0 && own.st_ino == status.st_ino &&
            own.st_dev == status.st_dev)
            return true;
    return false;
}

/* ---- opening ---- */

/* Locks the folder: two runs at once would write into each other's temporary files. The lock ends with the process. If
 * the file system has no locks, the run goes on without. */
static bool lock(OutputFolder *f, Error *error) {
    if (access(f->path, F_OK) == 0 && !files_is_folder(f->path))
        return error_set(error, "%s is no folder; give one with --out", f->path);
    if (!files_make_folders(f->path, error)) return false;
    f->descriptor = FILES_RETRY(open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (f->descriptor < 0) return files_fail(error, "open the folder", f->path);
    if (FILES_RETRY(flock(f->descriptor, LOCK_EX | LOCK_NB)) == 0 || errno != EWOULDBLOCK) return true;
    return error_set(error, "another prepare_data is writing to %s", f->path);
}

bool output_folder_open(OutputFolder **folder, const char *path, const char *vocabulary, Error *error) {
    OutputFolder *f = checked_calloc(1, sizeof *f, "an output folder");
    f->path = checked_strdup(path);
    f->vocabulary = vocabulary ? checked_strdup(vocabulary) : NULL;
    f->descriptor = -1;
    bool ok = lock(f, error) && read_lists(f, error) && check_clear(f, error);
    if (ok)
        *folder = f;
    else
        output_folder_close(f);
    return ok;
}

void output_folder_close(OutputFolder *folder) {
    if (!folder) return;
    if (folder->descriptor >= 0) close(folder->descriptor);
    free_list(&folder->own);
    free(folder->path);
    free(folder->vocabulary);
    free(folder);
}

/* ---- publishing ---- */

static void add_writer(FileList *list, const ShardWriter *writer) {
    for (int i = 0; i < shard_writer_file_count(writer); i++) {
        char *name = shard_writer_file_name(writer, i);
        add_file(list, name, shard_writer_file_bytes(writer, i));
        free(name);
    }
}

/* Adds the vocabulary's files. Those that were in the folder before stay own only if they were own. */
static void add_vocabulary(const OutputFolder *f, FileList *list) {
    for (int i = 0; f->vocabulary && i < VOCABULARY_FILES; i++) {
        struct stat status;
        const char *name = vocabulary_files[i];
        char *source = format_string("%s/%s", f->vocabulary, name), *here = path_in(f, name);
        if (stat(source, &status) == 0 && (!is_same_file(source, here) || is_own(f, name)))
            add_file(list, name, (int64_t)status.st_size);
        free(source);
        free(here);
    }
}

static FileList make_list(const OutputFolder *f, const ShardWriter *train, const ShardWriter *val) {
    FileList list = {0};
    add_writer(&list, train);
    add_writer(&list, val);
    add_vocabulary(f, &list);
    sort_list(&list);
    return list;
}

/* Writes the new tokens.json under its temporary name, and syncs it. */
static bool write_description(const OutputFolder *f, cJSON *description, const FileList *list, Error *error) {
    cJSON *files = cJSON_AddObjectToObject(description, "files");
    bool ok = files != NULL;
    for (size_t i = 0; ok && i < list->count; i++)
        ok = cJSON_AddNumberToObject(files, list->files[i].name, (double)list->files[i].bytes) != NULL;
    char *text = ok ? cJSON_Print(description) : NULL, *path = path_in(f, NEW_DESCRIPTION);
    FileWriter *writer;
    if (!text)
        ok = error_set(error, "out of memory for the text of tokens.json");
    else if ((ok = file_writer_open(&writer, path, error))) {
        file_writer_append(writer, text, strlen(text), NULL); /* close reports what went wrong here */
        file_writer_append(writer, "\n", 1, NULL);
        ok = file_writer_close(writer, NULL, NULL, error);
    }
    free(text);
    free(path);
    return ok;
}

/* Copies the vocabulary next to tokens.json, since readers of one need the other. */
static bool copy_vocabulary(const OutputFolder *f, Error *error) {
    bool ok = true;
    for (int i = 0; f->vocabulary && i < VOCABULARY_FILES && ok; i++) {
        const char *name = vocabulary_files[i];
        char *from = format_string("%s/%s", f->vocabulary, name), *to = path_in(f, name);
        char *temporary = format_string("%s/.%s.tmp", f->path, name);
        if (files_is_file(from) && !is_same_file(from, to))
            ok = files_copy(from, temporary, NULL, NULL, error) && files_put_in_place(temporary, to, error);
        free(from);
        free(to);
        free(temporary);
    }
    return ok;
}

/* Removes the own files that are not in the new list. */
static bool remove_old(const OutputFolder *f, const FileList *list, Error *error) {
    for (size_t i = 0; i < f->own.count; i++) {
        const char *name = f->own.files[i].name;
        if (find_file(list, name) || !is_own(f, name)) continue;
        char *path = path_in(f, name);
        bool ok = FILES_RETRY(unlink(path)) == 0 || errno == ENOENT || files_fail(error, "remove the old", path);
        free(path);
        if (!ok) return false;
    }
    return true;
}

static bool rename_in(const OutputFolder *f, const char *from, const char *to, Error *error) {
    char *old_path = path_in(f, from), *new_path = path_in(f, to);
    bool ok = files_rename(old_path, new_path, error);
    free(old_path);
    free(new_path);
    return ok;
}

static void remove_in(const OutputFolder *f, const char *name) {
    if (FILES_RETRY(unlinkat(f->descriptor, name, 0)) != 0 && errno != ENOENT)
        warn("%s/%s stays, and may be removed: %s", f->path, name, strerror(errno));
}

/* Gives both descriptions their temporary names and syncs them, before anything else changes. If that fails, nothing
 * has changed. */
static bool set_aside(const OutputFolder *f, Error *error) {
    bool moved = f->is_described && rename_in(f, DESCRIPTION, OLD_DESCRIPTION, error);
    if ((moved || !f->is_described) && files_sync_folder(f->path, error)) return true;
    if (moved) rename_in(f, OLD_DESCRIPTION, DESCRIPTION, NULL);
    remove_in(f, NEW_DESCRIPTION);
    return false;
}

/* Replaces the files. A failure leaves old and new files, which the next run recognises by the two descriptions. */
static bool replace(const OutputFolder *f, const FileList *list, ShardWriter *train, ShardWriter *val, Error *error) {
    Error reason;
    if (remove_old(f, list, &reason) && shard_writer_publish(train, &reason) && shard_writer_publish(val, &reason) &&
        copy_vocabulary(f, &reason) && files_sync_folder(f->path, &reason) &&
        rename_in(f, NEW_DESCRIPTION, DESCRIPTION, &reason)) {
        remove_in(f, OLD_DESCRIPTION);
        return files_sync_folder(f->path, error);
    }
    return error_set(error, "%.900s; some files in %s are new and some are not: run the same command again",
                     reason.text, f->path);
}

bool output_folder_publish(OutputFolder *folder, cJSON *description, ShardWriter *train, ShardWriter *val,
                           Error *error) {
    FileList list = make_list(folder, train, val);
    bool ok = check_clear(folder, error) && write_description(folder, description, &list, error) &&
              set_aside(folder, error) && replace(folder, &list, train, val, error);
    free_list(&list);
    return ok;
}
