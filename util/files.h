/* files.h: what the standard library lacks for files that must survive a crash: writing with a checksum and a sync,
 * replacing a file as a whole, making and removing folders.
 *
 * "Synced" means that the content is on the disk and not only in the system's memory, so that it is there after a
 * power cut. Names live in folders, so a new or renamed file is only safe when its folder has been synced too. */
#ifndef MARS_UTIL_FILES_H
#define MARS_UTIL_FILES_H

#include <dirent.h>
#include <errno.h>
#include <sys/types.h>

#include "util/base.h"

EXTERN_C_BEGIN

/* Makes a call again while a signal interrupts it. On local disks none is interrupted; on file systems of other
 * programs (FUSE) and of other machines any may be. Not for close(). */
#define FILES_RETRY(call)                        \
    (({                                          \
        __typeof__(call) result_;                \
        do result_ = (call);                     \
        while (result_ == -1 && errno == EINTR); \
        result_;                                 \
    }))

/* Returns false and sets *error: "cannot WHAT PATH: ", the meaning of errno, and what may help. */
bool files_fail(Error *error, const char *what, const char *path);

bool files_exists(const char *path);                  /* anything, also a link that leads nowhere */
bool files_is_file(const char *path);                 /* links are followed */
bool files_has(const char *folder, const char *name); /* the same of a file in a folder */
bool files_is_folder(const char *path);

/* The folder that `path` lies in ("." if it names none), cut to fit. */
void files_folder_of(const char *path, char *folder, size_t bytes);

/* Returns `path` with a leading "~" or "~NAME" replaced by that user's home folder, as a new string that the caller
 * frees. Needed since a shell does not replace the "~" in --key=~/folder, or in a config file. Copies a path without
 * "~", or with the name of no user. */
char *files_expand_home(const char *path);

/* Makes the folder and every missing one above it. A folder that is there already is no error. */
bool files_make_folders(const char *path, Error *error);

/* Removes a file, a link (not what it points to) or a folder with everything in it. It is no error if nothing is
 * there. */
bool files_remove_tree(const char *path, Error *error);

/* Returns how many bytes are left on the file system of a file or folder; UINT64_MAX if that is not known. */
uint64_t files_space_left(const char *path);

/* The folder for readdir(); NULL if it cannot be opened. */
DIR *files_open_folder(const char *path);

/* close(); returns false if written data may be lost. An interrupted call has closed the file, too. */
bool files_close(int descriptor);

/* Both write all bytes, in as many calls as needed. files_write_some() returns how many bytes were written, fewer than
 * `bytes` after an error; files_write_all() returns whether all were. */
size_t files_write_some(int descriptor, const void *data, size_t bytes);
bool files_write_all(int descriptor, const void *data, size_t bytes);

/* Reads up to `bytes` bytes from the offset `at` of a file: all of them, unless the file ends before. Returns how many,
 * or -1 after an error. */
ssize_t files_read_at(int descriptor, void *data, size_t bytes, int64_t at);

/* rename(), with a message. */
bool files_rename(const char *from, const char *to, Error *error);

/* Syncs the names in a folder. */
bool files_sync_folder(const char *path, Error *error);

/* Renames a finished, synced file to `path` in the same folder, and syncs the folder. On failure removes the file. */
bool files_put_in_place(const char *temporary, const char *path, Error *error);

/* The whole file with a 0 byte after it, which the caller frees; NULL if it cannot be read, is no regular file or is
 * longer than `limit` bytes. *bytes may be NULL. */
char *files_read(const char *path, size_t limit, size_t *bytes, Error *error);

/* Replaces the file's content by `text` at once: a reader, even after a crash, finds the old content or the new. */
bool files_write_text(const char *path, const char *text, Error *error);

/* XXH3 (64 bits) of a piece of memory, and of a file's content together with its length. */
uint64_t files_checksum_memory(const void *data, size_t bytes);
bool files_checksum(const char *path, uint64_t *bytes, uint64_t *checksum, Error *error);

/* Writes a file from front to back, buffered, and computes its checksum meanwhile. */
typedef struct FileWriter FileWriter;

/* Creates the file, or empties one that is there. */
bool file_writer_open(FileWriter **writer, const char *path, Error *error);
/* Appends. After a failure every further call fails with the message of the first. */
bool file_writer_append(FileWriter *writer, const void *data, size_t bytes, Error *error);
/* Writes over the first bytes, which have been appended before. The checksum stays that of what was appended. */
bool file_writer_replace_head(FileWriter *writer, const void *data, size_t bytes, Error *error);
/* Syncs and closes the file and frees the writer, also when it fails; a file that failed is removed.
 * *bytes and *checksum (XXH3 of the whole file) may be NULL. */
bool file_writer_close(FileWriter *writer, uint64_t *bytes, uint64_t *checksum, Error *error);
/* Closes and removes the file, and frees the writer. */
void file_writer_abandon(FileWriter *writer);

/* Copies a file's content through a FileWriter. */
bool files_copy(const char *from, const char *to, uint64_t *bytes, uint64_t *checksum, Error *error);

EXTERN_C_END

#endif
