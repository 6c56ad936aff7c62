/* config_file.h: config files as JSON: the text of a file with its comments, errors that name line and column, and the
 * bases that files name. config.c knows what sections and keys mean. */
#ifndef MARS_CONFIG_CONFIG_FILE_H
#define MARS_CONFIG_CONFIG_FILE_H

#include <sys/types.h>

#include "config/config.h"

struct cJSON;

EXTERN_C_BEGIN

typedef struct ConfigFile {
    char *path;
    struct cJSON *root; /* an object */
    dev_t device;       /* with the inode: identifies the file, whatever its path */
    ino_t inode;
} ConfigFile;

/* Reads and parses one file. On success the caller frees it by config_file_free(). */
bool config_file_read(ConfigFile *file, const char *path, Error *error);
void config_file_free(ConfigFile *file);

/* Sets *path to the path of the file's base, a new string, or to NULL if it names none. Fails if `base` is no path. */
bool config_file_base(const ConfigFile *file, char **path, Error *error);

/* A config file and its bases: files[0] is the file itself, files[i + 1] the base of files[i]. */
typedef struct ConfigChain {
    ConfigFile files[CONFIG_MAX_FILES];
    int count;
} ConfigChain;

/* Reads the file at `path`, its base, the base of that, and so on. Fails if one of them cannot be read or parsed, if
 * they name each other in a circle, or if they are more than CONFIG_MAX_FILES. The caller frees, also after a
 * failure. */
bool config_chain_read(ConfigChain *chain, const char *path, Error *error);
void config_chain_free(ConfigChain *chain);

EXTERN_C_END

#endif
