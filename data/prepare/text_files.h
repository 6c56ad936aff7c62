/* text_files.h: which files make up a text: named files, all files of a folder, or standard input. What is in a file is
 * read by text_source.c. */
#ifndef MARS_DATA_PREPARE_TEXT_FILES_H
#define MARS_DATA_PREPARE_TEXT_FILES_H

#include "data/prepare/text_source.h"

EXTERN_C_BEGIN

typedef struct TextInput {
    char *path;          /* "-" is standard input */
    int64_t bytes;       /* on the disk; -1 of a pipe */
    int copy;            /* what to read instead of a pipe: the descriptor of a file; -1: nothing */
    const char *copy_in; /* the folder of that file; NULL without one; it belongs to the caller */
} TextInput;

typedef struct TextFiles {
    TextInput *inputs;
    int count, capacity;
    int64_t bytes; /* of all, on the disk; -1 if there is a pipe that has no copy */
} TextFiles;

/* Lists files and, in the order of their names, what is below folders. In folders it skips hidden names, empty files,
 * pipes and devices, and, with a warning, links to a folder above them. Fails if something cannot be read, if a named
 * file is empty, or if there is no file at all. Starts as {0}; text_files_free() ends it, also after a failure. */
bool text_files_list(TextFiles *files, const char *const *inputs, int count, Error *error);
void text_files_free(TextFiles *files);

/* The name of input i for messages. */
const char *text_files_name(const TextFiles *files, int i);

/* Looks at the beginning of each file but pipes, and fails if it is not text (text_file_check). Sets *text_bytes to the
 * bytes of all texts, without byte order marks; -1 if a packed file or a pipe would have to be read for that. */
bool text_files_look(const TextFiles *files, bool takes_binary, int64_t *text_bytes, Error *error);

/* Copies the content of pipes to nameless files in the folder, so that all inputs can be read twice. text_files_free()
 * frees these files. `folder` is not copied and must outlive the list. Fails early if the content is not text
 * (text_file_check). */
bool text_files_copy_pipes(TextFiles *files, const char *folder, bool takes_binary, Error *error);

/* Opens input i; *file must be closed before the list is freed. */
bool text_files_open(const TextFiles *files, int i, TextFile *file, Error *error);

EXTERN_C_END

#endif
