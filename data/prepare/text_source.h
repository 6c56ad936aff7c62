/* text_source.h: the bytes of a text file, plain or packed (see unpack.h). text_files.h says which files make up a
 * text, and documents.c where documents begin and end in them. */
#ifndef MARS_DATA_PREPARE_TEXT_SOURCE_H
#define MARS_DATA_PREPARE_TEXT_SOURCE_H

#include <sys/types.h>

#include "util/base.h"

/* Bytes that are read, or unpacked, at a time. */
enum { TEXT_BLOCK_BYTES = 1 << 20 };

EXTERN_C_BEGIN

/* The bytes between `at` and `end` have been read and not yet been taken; a caller that takes some moves `at`. */
typedef struct TextFile {
    const char *at, *end;
    const char *path; /* for messages */
    bool is_packed, has_mark;
    int64_t bytes_taken; /* read so far, of the file on the disk */
    struct TextReader *reader;
} TextFile;

/* The text begins after a byte order mark of UTF-8, if the file has one. The path is not copied. */
bool text_file_open(TextFile *file, const char *path, Error *error);
/* The same, but reads and unpacks `block_bytes` at a time, from PACKING_BYTES to one MiB: for tests of the ends of
 * blocks. */
bool text_file_open_sized(TextFile *file, const char *path, size_t block_bytes, Error *error);
/* The same for a descriptor, which stays open, with a name for messages. copy_in: NULL, or the folder of the file, if
 * it is a copy of what the name says. */
bool text_file_open_descriptor(TextFile *file, const char *name, const char *copy_in, int descriptor,
                               size_t block_bytes, Error *error);
void text_file_close(TextFile *file);

/* Fails if the beginning of the text shows that it is no text but another format (foreign.h), or packed twice; the
 * message says what it looks like and what to do. takes_binary: accepts any other bytes, even if they are mostly
 * control characters. */
bool text_file_check(const TextFile *file, bool takes_binary, Error *error);

/* Reads the next piece; call it when at == end. Returns true, with at < end, or false at the end of the text (*failed
 * is false) and after an error (*failed is true). */
bool text_file_read(TextFile *file, bool *failed, Error *error);

/* A descriptor for text_read_some(), or -1. Opening a pipe does not wait for its writer; reading does, and can be
 * interrupted. */
int text_open_path(const char *path, Error *error);

/* Reads up to `bytes` bytes from a descriptor, whose name is `path`: as many as are there, 0 at the end, -1 after a
 * failure. is_pipe: waits for them, or for a signal to stop, which is a failure. */
ssize_t text_read_some(int descriptor, bool is_pipe, const char *path, char *data, size_t bytes, Error *error);

EXTERN_C_END

#endif
