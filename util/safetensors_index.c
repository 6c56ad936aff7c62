/* safetensors_index.c: weights in several safetensors files with an index, as transformers saves large models (see
 * safetensors.h). The index says which file has which tensor; only the names of the files are taken from it, since each
 * file lists its own tensors. */
#include <cjson/cJSON.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "util/files.h"
#include "util/safetensors.h"

enum { MAX_INDEX_BYTES = 64 << 20 };

/* The object "weight_map" of the index; the caller deletes *root. NULL on failure. */
static const cJSON *read_weight_map(cJSON **root, const char *path, Error *error) {
    *root = NULL;
    char *text = files_read(path, MAX_INDEX_BYTES, NULL, error);
    if (!text) return NULL;
    *root = cJSON_ParseWithOpts(text, NULL, true);
    free(text);
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(*root, "weight_map");
    if (cJSON_IsObject(map) && map->child) return map;
    error_set(error,
              "%s has no object weight_map; expected {\"weight_map\": {tensor: file name, ...}}; copy or download the "
              "file again",
              path);
    return NULL;
}

static bool has_shard(const SafetensorsFile *file, const char *path) {
    for (int i = 0; i < file->shard_count; i++)
        if (strcmp(file->shards[i].path, path) == 0) return true;
    return false;
}

/* Opens the file that an entry of the weight map names, unless it is open. `shards` has room for one more. */
static bool open_shard(SafetensorsFile *file, const char *folder, const cJSON *item, Error *error) {
    const char *name = cJSON_GetStringValue(item);
    if (!name || !*name || strchr(name, '/'))
        return error_set(error, "%s: weight_map should give each tensor the name of a file in the same folder",
                         file->path);
    char *path = format_string("%s/%s", folder, name);
    bool ok = has_shard(file, path);
    if (!ok) {
        file->shards = checked_realloc(file->shards, (size_t)(file->shard_count + 1) * sizeof *file->shards,
                                       "the files of an index");
        ok = safetensors_open(&file->shards[file->shard_count], path, error);
        file->shard_count += ok;
    }
    free(path);
    return ok;
}

static int compare_entries(const void *a, const void *b) {
    return strcmp(((const SafetensorsEntry *)a)->name, ((const SafetensorsEntry *)b)->name);
}

/* Moves all entries of the shards into the file, sorted by name. */
static bool take_entries(SafetensorsFile *file, Error *error) {
    int count = 0, unread_count = 0;
    for (int i = 0; i < file->shard_count; i++) {
        count += file->shards[i].count;
        unread_count += file->shards[i].unread_count;
    }
    file->entries = checked_calloc((size_t)count, sizeof *file->entries, "tensor entries");
    file->unread = checked_calloc((size_t)unread_count, sizeof *file->unread, "tensor entries");
    for (int i = 0; i < file->shard_count; i++) {
        SafetensorsFile *shard = &file->shards[i];
        for (int j = 0; j < shard->count; j++) file->entries[file->count++] = shard->entries[j];
        for (int j = 0; j < shard->unread_count; j++) file->unread[file->unread_count++] = shard->unread[j];
        shard->count = shard->unread_count = 0;
    }
    qsort(file->entries, (size_t)count, sizeof *file->entries, compare_entries);
    for (int i = 1; i < count; i++)
        if (strcmp(file->entries[i - 1].name, file->entries[i].name) == 0)
            return error_set(error, "%s: tensor '%.200s' is in two of the files", file->path, file->entries[i].name);
    return true;
}

bool safetensors_open_index(SafetensorsFile *file, const char *path, Error *error) {
    memset(file, 0, sizeof *file);
    file->path = checked_strdup(path);
    char folder[PATH_MAX];
    files_folder_of(path, folder, sizeof folder);
    cJSON *root;
    const cJSON *map = read_weight_map(&root, path, error), *item;
    bool ok = map != NULL;
    cJSON_ArrayForEach(item, map) ok = ok && open_shard(file, folder, item, error);
    ok = ok && take_entries(file, error);
    cJSON_Delete(root);
    if (!ok) safetensors_close(file);
    return ok;
}
