/* text_source.h: the bytes of the files that make up a text: named files, all files of a folder, or standard input; plain
 * or packed (see unpack.h). Where documents begin and end in them is the business of documents.c. */
#ifndef MARS_DATA_TEXT_SOURCE_H
#define MARS_DATA_TEXT_SOURCE_H

#include "util/base.h"

EXTERN_C_BEGIN

/* ---- which files ---- */

typedef struct TextFiles {
    char **paths; /* "-" is standard input */
    int count, capacity;
    int64_t bytes; /* of all, on the disk; -1 where that is not known: of standard input, or a pipe */
} TextFiles;

/* Lists files and, in the order of their names, what is below folders; hidden names there are passed over, and so are
 * empty files. Fails for what cannot be read, for a file that is named and empty, and where there is no file at all.
 * Starts as {0}; text_files_free() ends it, also after a failure. */
bool text_files_list(TextFiles *files, const char *const *inputs, int count, Error *error);
void text_files_free(TextFiles *files);

/* Whether none of them is packed; what cannot be looked at is taken to be. */
bool text_files_are_plain(const TextFiles *files);

/* ---- what is in them ---- */

/* Between `at` and `end` is what has been read and not yet been taken: whoever takes it moves `at`. */
typedef struct TextFile {
    const char *at, *end;
    const char *path; /* for messages */
    bool is_packed;
    int64_t bytes_taken; /* of the file on the disk, so far */
    struct TextReader *reader;
} TextFile;

/* The path is not copied. */
bool text_file_open(TextFile *file, const char *path, Error *error);
/* The same, reading and unpacking `block_bytes` at a time, from PACKING_BYTES to one MiB: for tests of where blocks end. */
bool text_file_open_sized(TextFile *file, const char *path, size_t block_bytes, Error *error);
void text_file_close(TextFile *file);

/* Reads on, where at == end: true and at < end, or false at the end of the text (*failed is false) and after an error. */
bool text_file_read(TextFile *file, bool *failed, Error *error);

EXTERN_C_END

#endif
