/* token_files.h: which files a name or a pattern stands for, as data.train, data.val and prepare_data --inspect take them.
 * What is in the files is not looked at here. */
#ifndef MARS_DATA_TOKEN_FILES_H
#define MARS_DATA_TOKEN_FILES_H

#include "util/base.h"

EXTERN_C_BEGIN

typedef struct TokenFiles {
    char **paths;
    int count, capacity;
} TokenFiles;

/* Appends the file that is named, or all that match a glob pattern, in the order of their names as bytes. A leading "~" is
 * the home folder. An existing name is that file, and the folders that a pattern begins with are taken by their names if
 * they exist: brackets in them are no pattern. Fails, with the name or pattern, if there is nothing, a folder, or a
 * folder that cannot be listed. Starts as {0}; token_files_free() ends it, also after a failure. */
bool token_files_add(TokenFiles *files, const char *pattern, Error *error);
void token_files_free(TokenFiles *files);

EXTERN_C_END

#endif
