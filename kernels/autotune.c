/* autotune.c: see autotune.h. */
#include "kernels/autotune.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "util/files.h"

/* A thousand shapes take some 200 kB. */
enum { MAX_BYTES = 16 << 20 };

/* ---- the cache: a file for each device and table ---- */

/* Returns its folder, which the caller frees; NULL if neither XDG_CACHE_HOME nor HOME is set. */
static char *cache_folder(void) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && cache[0]) return format_string("%s/mars.c", cache);
    return home && home[0] ? format_string("%s/.cache/mars.c", home) : NULL;
}

/* The file is named after the device and the table, in characters that every file system allows. */
static char *cache_file(const Backend *be, const char *folder) {
    char *path = format_string("%s/algorithms-%s-%s.txt", folder, be->device, be->name);
    for (char *c = path + strlen(folder) + 1; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '.' && *c != '-') *c = '_';
    return path;
}

/* Ignores algorithms of another version of the library: they are timed again. */
static void read_cache(Backend *be) {
    char *folder = cache_folder(), *path = folder ? cache_file(be, folder) : NULL;
    char *text = path && files_is_file(path) ? files_read(path, MAX_BYTES, NULL, NULL) : NULL;
    Error error;
    if (text) be->read_algorithms(be, text, &error);
    free(text);
    free(path);
    free(folder);
}

/* Ignores failures: without a cache the next run only times again. */
static void write_cache(const Backend *be, const char *text) {
    char *folder = cache_folder();
    if (folder && text[0] && files_make_folders(folder, NULL)) {
        char *path = cache_file(be, folder);
        files_write_text(path, text, NULL);
        free(path);
    }
    free(folder);
}

/* ---- autotuning ---- */

/* A shape keeps the algorithm that it was given first, so the checkpoint is read before the cache. */
void autotune_begin(Backend *be, const char *text) {
    Error error;
    if (text && text[0] && !be->read_algorithms(be, text, &error))
        warn("the checkpoint's matmul algorithms are not used, so results may differ in their last bits: %s",
             error.text);
    read_cache(be);
    be->autotune(be, true);
}

char *autotune_end(Backend *be) {
    be->autotune(be, false);
    char *text = be->write_algorithms(be);
    write_cache(be, text);
    return text;
}
