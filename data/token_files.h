/* token_files.h: finds the files that a name or a pattern stands for, in data.train, data.val and prepare_data
 * --inspect. Does not look into the files. */
#ifndef MARS_DATA_TOKEN_FILES_H
#define MARS_DATA_TOKEN_FILES_H

#include "util/base.h"

EXTERN_C_BEGIN

typedef struct TokenFiles {
    char **paths;
    int count, capacity;
} TokenFiles;

/* Appends the file of this name, or all files that match a glob pattern, in the order of their names as bytes. A
 * leading "~" is the home folder. A name that exists is never a pattern, nor are the existing folders that a pattern
 * begins with: they may have brackets in their names. Fails, with the name or pattern, if it matches nothing or a
 * folder, or if a folder cannot be listed. `files` starts as {0}; token_files_free() frees it, also after a failure. */
bool token_files_add(TokenFiles *files, const char *pattern, Error *error);
void token_files_free(TokenFiles *files);

EXTERN_C_END

#endif
