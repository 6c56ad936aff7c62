/* config_file.c: see config_file.h.
 *
 * cJSON parses the text, but it accepts too much of a file that people write by hand: a string over several lines, a
 * comment without an end, bytes after a zero. So the text is checked before cJSON gets it. */
#include "config/config_file.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/files.h"

/* ---- one file ---- */

/* Says why a file cannot be opened. A NAME as in config/NAME.json, which the scripts take, is no path. */
static void cannot_open(const char *path, const char *reason, Error *error) {
    char *published = format_string("config/%s%s", path, strstr(path, ".json") ? "" : ".json");
    if (files_is_folder(path))
        error_set(error, "%s: a folder; expected a config file; give the one in it", path);
    else if (!strchr(path, '/') && files_is_file(published))
        error_set(error, "%s: cannot open the config: %s; there is %s", path, reason, published);
    else
        error_set(error,
                  "%s: cannot open the config: %s; expected a JSON file, such as config/quickstart.json; "
                  "scripts/run.sh --list lists those of the published runs",
                  path, reason);
    free(published);
}

/* The whole file with a 0 after it, which the caller frees; NULL and the reason if it cannot be read. It may be a pipe,
 * which has no size. *identity says which file it is. */
static char *read_text(const char *path, size_t *length, struct stat *identity, Error *error) {
    enum { LIMIT = 1 << 20 };
    FILE *file = files_is_folder(path) ? NULL : fopen(path, "rb");
    if (!file) {
        cannot_open(path, strerror(errno), error);
        return NULL;
    }
    char *text = checked_malloc(LIMIT + 1, "the config's text");
    errno = 0;
    *length = fread(text, 1, LIMIT + 1, file);
    bool failed = ferror(file) != 0 || fstat(fileno(file), identity) != 0;
    if (failed)
        error_set(error, "%s: cannot read the config: %s", path, strerror(errno));
    else if (*length > LIMIT)
        error_set(error, "%s: too large for a config: more than %d bytes", path, LIMIT);
    fclose(file);
    if (failed || *length > LIMIT) {
        free(text);
        return NULL;
    }
    text[*length] = 0;
    return text;
}

/* "FILE:LINE:COLUMN: problem, at: the text there". Columns count bytes, from 1. */
static bool syntax_error(const char *path, const char *text, size_t at, const char *problem, Error *error) {
    size_t line = 1, line_start = 0;
    for (size_t i = 0; i < at; i++)
        if (text[i] == '\n') line++, line_start = i + 1;
    char there[33];
    size_t shown = 0;
    for (; shown < sizeof there - 1 && text[at + shown] && !strchr("\r\n", text[at + shown]); shown++)
        there[shown] = isprint((unsigned char)text[at + shown]) ? text[at + shown] : '?';
    there[shown] = 0;
    return error_set(error, "%s:%zu:%zu: %s, at: %s", path, line, at - line_start + 1, problem,
                     shown      ? there
                     : text[at] ? "the end of the line"
                                : "the end of the file");
}

/* Moves *at from a string's opening quote to its closing one. Returns NULL, or what is wrong with the string. */
static const char *skip_string(const char *text, size_t *at) {
    size_t i = *at + 1;
    for (; text[i] && text[i] != '\n' && text[i] != '"'; i++) {
        if (text[i] != '\\' || text[i + 1] == 0 || text[i + 1] == '\n') continue;
        i++;
        if (strncmp(text + i, "u0000", 5) == 0) return "a string cannot hold \\u0000";
    }
    if (text[i] != '"') return "this string has no closing quote on its line";
    *at = i;
    return NULL;
}

/* Overwrites comments by spaces, so that every other byte keeps its line and column. Fails for mistakes that cJSON
 * would accept or report at a wrong place: strings that do not end on their line, comments that do not end, zero
 * bytes. */
static bool blank_comments(char *text, size_t length, const char *path, Error *error) {
    if (length >= 2 && (memcmp(text, "\xff\xfe", 2) == 0 || memcmp(text, "\xfe\xff", 2) == 0))
        return error_set(error, "%s: UTF-16 text; expected UTF-8: save it as that", path);
    if (strlen(text) != length) return syntax_error(path, text, strlen(text), "a zero byte: not a text file", error);
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '"') {
            const char *problem = skip_string(text, &i);
            if (problem) return syntax_error(path, text, i, problem, error);
        } else if (text[i] == '/' && text[i + 1] == '/') {
            for (; i < length && text[i] != '\n'; i++) text[i] = ' ';
        } else if (text[i] == '/' && text[i + 1] == '*') {
            const char *end = strstr(text + i + 2, "*/");
            if (!end) return syntax_error(path, text, i, "this comment has no end", error);
            for (; text + i < end + 2; i++)
                if (text[i] != '\n') text[i] = ' ';
            i--;
        }
    }
    return true;
}

/* If cJSON expected a key and found something else, it reports the byte after it. Then the byte before `at` follows a
 * brace or a comma. After a bracket, `at` is right: cJSON expected a list's first element. */
static size_t where_parsing_stopped(const char *text, size_t at) {
    if (at < 2 || strchr(" \t\r\n\"[", text[at - 1])) return at;
    size_t i = at - 1;
    while (i > 0 && strchr(" \t\r\n", text[i - 1])) i--;
    return i > 0 && strchr("{,", text[i - 1]) ? at - 1 : at;
}

#define EXPECTED_SECTIONS \
    "expected an object of sections, {\"model\": {...}, ...}; config/quickstart.json is an example"

/* The root object, which the caller deletes; NULL and the reason if there is none. `path` is for messages. */
static cJSON *parse_text(const char *text, size_t length, const char *path, Error *error) {
    if (!text[strspn(text, " \t\r\n")]) {
        error_set(error, "%s: the config is empty; " EXPECTED_SECTIONS, path);
        return NULL;
    }
    const char *end = text;
    cJSON *root = cJSON_ParseWithLengthOpts(text, length + 1, &end, true);
    if (cJSON_IsObject(root)) return root;
    if (root)
        error_set(error, "%s: the config is not an object; " EXPECTED_SECTIONS, path);
    else
        syntax_error(path, text, where_parsing_stopped(text, (size_t)(end - text)),
                     "not JSON (keys in double quotes, commas between entries only)", error);
    cJSON_Delete(root);
    return NULL;
}

bool config_file_read(ConfigFile *file, const char *path, Error *error) {
    size_t length;
    struct stat identity;
    char *text = read_text(path, &length, &identity, error);
    if (!text) return false;
    cJSON *root = blank_comments(text, length, path, error) ? parse_text(text, length, path, error) : NULL;
    free(text);
    if (root) *file = (ConfigFile){checked_strdup(path), root, identity.st_dev, identity.st_ino};
    return root != NULL;
}

void config_file_free(ConfigFile *file) {
    free(file->path);
    cJSON_Delete(file->root);
}

/* ---- bases ---- */

/* Finds the "base" of the file; *entry is NULL if there is none. */
static bool find_base(const ConfigFile *file, const cJSON **entry, Error *error) {
    *entry = NULL;
    for (const cJSON *item = file->root->child; item; item = item->next) {
        if (strcmp(item->string, "base") != 0) continue;
        if (*entry) return error_set(error, "%s: base is given twice; remove one of the two", file->path);
        *entry = item;
    }
    return true;
}

bool config_file_base(const ConfigFile *file, char **path, Error *error) {
    const cJSON *entry;
    *path = NULL;
    if (!find_base(file, &entry, error)) return false;
    if (!entry) return true;
    if (!cJSON_IsString(entry) || !entry->valuestring[0]) {
        char *value = cJSON_PrintUnformatted(entry);
        if (!value) die("out of memory: a value of %s", file->path);
        error_set(error, "%s: base is %.80s; expected the path of a config file, such as \"base/small.json\"",
                  file->path, value);
        free(value);
        return false;
    }
    char *base = files_expand_home(entry->valuestring);
    const char *slash = strrchr(file->path, '/');
    int folder = base[0] != '/' && slash ? (int)(slash - file->path) + 1 : 0;
    *path = format_string("%.*s%s", folder, file->path, base);
    free(base);
    return true;
}

/* Returns false and sets *error: the file at `next` cannot be the base of the chain's last file. Shows all paths. */
static bool refuse_chain(const ConfigChain *chain, const char *next, const char *problem, Error *error) {
    char *shown = checked_strdup("");
    for (int i = 0; i < chain->count; i++) {
        char *longer = format_string("%s%s -> ", shown, chain->files[i].path);
        free(shown);
        shown = longer;
    }
    error_set(error, "%s: base: %s: %s%s", chain->files[chain->count - 1].path, problem, shown, next);
    free(shown);
    return false;
}

static bool holds_file(const ConfigChain *chain, const ConfigFile *file) {
    for (int i = 0; i < chain->count; i++)
        if (chain->files[i].device == file->device && chain->files[i].inode == file->inode) return true;
    return false;
}

/* Fails, and names the file with the mistake, if its base cannot be opened. */
static bool check_base(const ConfigFile *file, const char *path, Error *error) {
    if (files_is_folder(path))
        return error_set(error, "%s: base: %s is a folder; give the config file in it", file->path, path);
    if (access(path, R_OK) == 0) return true;
    return error_set(error, "%s: base: cannot open %s: %s; expected a path relative to the folder of %s; correct base",
                     file->path, path, strerror(errno), file->path);
}

/* Adds the file at `path`, which is the base of the chain's last file unless the chain is empty. */
static bool add_file(ConfigChain *chain, const char *path, Error *error) {
    ConfigFile file;
    if (chain->count > 0 && !check_base(&chain->files[chain->count - 1], path, error)) return false;
    if (!config_file_read(&file, path, error)) return false;
    bool is_circle = holds_file(chain, &file);
    if (!is_circle && chain->count < CONFIG_MAX_FILES) {
        chain->files[chain->count++] = file;
        return true;
    }
    config_file_free(&file);
    char *problem = is_circle ? checked_strdup("the files name each other in a circle")
                              : format_string("more than %d files", CONFIG_MAX_FILES);
    refuse_chain(chain, path, problem, error);
    free(problem);
    return false;
}

bool config_chain_read(ConfigChain *chain, const char *path, Error *error) {
    chain->count = 0;
    char *next = checked_strdup(path);
    bool ok = true;
    while (ok && next) {
        char *current = next;
        next = NULL;
        ok = add_file(chain, current, error) && config_file_base(&chain->files[chain->count - 1], &next, error);
        free(current);
    }
    return ok;
}

void config_chain_free(ConfigChain *chain) {
    for (int i = 0; i < chain->count; i++) config_file_free(&chain->files[i]);
}
