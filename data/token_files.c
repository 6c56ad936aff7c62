/* token_files.c: see token_files.h. */
#include "data/token_files.h"

#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/files.h"

static const char special[] = "*?[\\"; /* characters that mean something in a pattern */

static void append(TokenFiles *files, const char *path) {
    if (files->count == files->capacity) {
        files->capacity = files->capacity ? 2 * files->capacity : 64;
        files->paths =
            checked_realloc(files->paths, (size_t)files->capacity * sizeof *files->paths, "the list of token files");
    }
    files->paths[files->count++] = checked_strdup(path);
}

void token_files_free(TokenFiles *files) {
    for (int i = 0; i < files->count; i++) free(files->paths[i]);
    free(files->paths);
    *files = (TokenFiles){0};
}

static bool refuse_folder(const char *path, Error *error) {
    return error_set(error, "%s is a folder; expected token files; name them, such as %s/train_*.bin", path, path);
}

/* ---- patterns ---- */

/* The length in bytes of the longest beginning of the path that ends with a '/' and names an existing folder. */
static size_t existing_length(const char *path) {
    char *part = checked_strdup(path);
    size_t length = 0;
    for (size_t i = 0; path[i]; i++) {
        if (path[i] != '/') continue;
        part[i + 1] = 0;
        if (!files_is_folder(part)) break;
        length = i + 1;
        part[i + 1] = path[i + 1];
    }
    free(part);
    return length;
}

/* A pattern that matches the path's first `literal` bytes literally; the caller frees it. */
static char *escape_begin(const char *path, size_t literal) {
    char *pattern = checked_malloc(2 * strlen(path) + 1, "a pattern"), *out = pattern;
    for (size_t i = 0; path[i]; i++) {
        if (i < literal && strchr(special, path[i])) *out++ = '\\';
        *out++ = path[i];
    }
    *out = 0;
    return pattern;
}

/* Says that nothing matches. The first `existing` bytes of the pattern name an existing folder. */
static bool refuse_nothing(const char *pattern, size_t existing, Error *error) {
    const char *rest = pattern + existing, *slash = strchr(rest, '/');
    size_t next = slash ? (size_t)(slash - rest) : strlen(rest);
    const char *at = strpbrk(rest, special);
    bool is_name = next > 0 && (!at || at >= rest + next);
    const char *hint = is_name && slash ? "; there is no folder " : "";
    return error_set(
        error,
        "no token file: nothing is named or matches '%s'%s%.*s; expected a token file, or a pattern such "
        "as 'FOLDER/train_*.bin'; prepare_data makes such files of a text, data/*/prepare.sh download some",
        pattern, hint, *hint ? (int)(existing + next) : 0, pattern);
}

/* Appends the matches. Fails for a folder among them: its files may have been meant. */
static bool append_matches(TokenFiles *files, const char *pattern, const glob_t *matches, Error *error) {
    for (size_t i = 0; i < matches->gl_pathc; i++) {
        if (files_is_folder(matches->gl_pathv[i]))
            return error_set(error,
                             "'%s' matches %s, which is a folder; name token files alone, such as %s/train_*.bin",
                             pattern, matches->gl_pathv[i], matches->gl_pathv[i]);
        append(files, matches->gl_pathv[i]);
    }
    return true;
}

/* Appends the files that match, sorted byte by byte: glob() sorts by the locale, on which the stream must not
 * depend. */
static bool add_matches(TokenFiles *files, const char *pattern, Error *error) {
    glob_t matches;
    size_t existing = existing_length(pattern);
    char *escaped = escape_begin(pattern, existing);
    int failure = glob(escaped, GLOB_ERR | GLOB_NOSORT, NULL, &matches), reason = errno;
    free(escaped);
    bool is_missing = failure == GLOB_ABORTED && reason == ENOENT; /* the folder of the pattern */
    if (failure == GLOB_NOMATCH || is_missing) return refuse_nothing(pattern, existing, error);
    if (failure != 0)
        return error_set(error, "cannot list the files that match '%s': %s", pattern,
                         failure == GLOB_NOSPACE ? "out of memory" : strerror(reason));
    qsort(matches.gl_pathv, matches.gl_pathc, sizeof *matches.gl_pathv, compare_strings);
    bool ok = append_matches(files, pattern, &matches, error);
    globfree(&matches);
    return ok;
}

/* ---- names and patterns ---- */

static bool add_path(TokenFiles *files, const char *path, Error *error) {
    struct stat status;
    if (stat(path, &status) == 0) {
        if (S_ISDIR(status.st_mode)) return refuse_folder(path, error);
        append(files, path);
        return true;
    }
    if (errno != ENOENT && errno != ENOTDIR) return files_fail(error, "open", path);
    return add_matches(files, path, error);
}

bool token_files_add(TokenFiles *files, const char *pattern, Error *error) {
    char *path = files_expand_home(pattern);
    bool ok = add_path(files, path, error);
    free(path);
    return ok;
}
