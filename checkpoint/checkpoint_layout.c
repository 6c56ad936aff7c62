/* checkpoint_layout.c: names, layouts and the trainer.json that both sides of a checkpoint agree on (see
 * checkpoint_layout.h). */
#include "checkpoint/checkpoint_layout.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/files.h"

enum { TRANSPOSE_BLOCK = 32, MAX_STEP_DIGITS = 18, MAX_JSON_BYTES = 16 << 20 };

/* Reads "step_<digits>", with or without ASIDE_SUFFIX. */
static bool parse_folder_name(CheckpointFolder *folder, const char *name) {
    static const char prefix[] = "step_", digits[] = "0123456789";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0 || strlen(name) >= sizeof folder->name) return false;
    const char *number = name + sizeof prefix - 1;
    size_t length = strspn(number, digits);
    if (length == 0 || length > MAX_STEP_DIGITS) return false;
    folder->step = strtoll(number, NULL, 10);
    folder->aside = strcmp(number + length, ASIDE_SUFFIX) == 0;
    snprintf(folder->name, sizeof folder->name, "%s", name);
    return folder->aside || number[length] == 0;
}

static int newest_first(const void *a, const void *b) {
    const CheckpointFolder *x = a, *y = b;
    if (x->step != y->step) return x->step > y->step ? -1 : 1;
    return x->aside != y->aside ? x->aside - y->aside : strcmp(x->name, y->name);
}

CheckpointFolder *checkpoint_folders(const char *checkpoints, int *count) {
    *count = 0;
    DIR *directory = files_open_folder(checkpoints);
    if (!directory) return NULL;
    CheckpointFolder *folders = NULL, folder;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (!parse_folder_name(&folder, entry->d_name)) continue;
        folders = checked_realloc(folders, (size_t)(*count + 1) * sizeof *folders, "the list of checkpoints");
        folders[(*count)++] = folder;
    }
    closedir(directory);
    if (*count) qsort(folders, (size_t)*count, sizeof *folders, newest_first);
    return folders;
}

int checkpoint_latest(const char *checkpoints, const CheckpointFolder *folders, int count) {
    char target[CHECKPOINT_NAME_LENGTH];
    char *link = format_string("%s/%s", checkpoints, LATEST_LINK);
    ssize_t length = readlink(link, target, sizeof target - 1);
    free(link);
    if (length < 0) return -1;
    target[length] = 0;
    for (int i = 0; i < count; i++)
        if (strcmp(folders[i].name, target) == 0) return i;
    return -1;
}

/* A link cannot be rewritten, but a new one can be renamed over it. */
bool checkpoint_point_latest(const char *checkpoints, const char *name, Error *error) {
    char *link = format_string("%s/%s", checkpoints, LATEST_LINK);
    char *temporary = format_string("%s/" TEMPORARY_PREFIX "%s", checkpoints, LATEST_LINK);
    FILES_RETRY(unlink(temporary)); /* of an interrupted call */
    bool ok = FILES_RETRY(symlink(name, temporary)) == 0 || files_fail(error, "make the link", temporary);
    ok = ok && files_rename(temporary, link, error);
    if (!ok) FILES_RETRY(unlink(temporary));
    free(link);
    free(temporary);
    return ok;
}

/* In square blocks, so that both sides stay in the cache: with plain rows every element would touch a new cache
 * line. */
void checkpoint_transpose(const float *in, int64_t rows, int64_t columns, float *out) {
    for (int64_t row = 0; row < rows; row += TRANSPOSE_BLOCK)
        for (int64_t column = 0; column < columns; column += TRANSPOSE_BLOCK)
            for (int64_t i = row; i < min_i64(row + TRANSPOSE_BLOCK, rows); i++)
                for (int64_t j = column; j < min_i64(column + TRANSPOSE_BLOCK, columns); j++)
                    out[j * rows + i] = in[i * columns + j];
}

int64_t checkpoint_missing_bias(const TensorTable *table, const Tensor *tensor, char name[TENSOR_NAME_LENGTH]) {
    const char *dot = strrchr(tensor->name, '.');
    bool has_no_bias = tensor->role == ROLE_EMBEDDING || tensor->role == ROLE_LM_HEAD;
    if (!dot || strcmp(dot, ".weight") != 0 || has_no_bias) return 0;
    snprintf(name, TENSOR_NAME_LENGTH, "%.*s.bias", (int)(dot - tensor->name), tensor->name);
    if (tensor_table_find(table, name) >= 0) return 0;
    return tensor->role == ROLE_MATRIX ? tensor->rows : tensor->columns;
}

const char *checkpoint_shape_text(char text[CHECKPOINT_SHAPE_LENGTH], const int64_t *shape, int dimensions) {
    size_t length = (size_t)snprintf(text, CHECKPOINT_SHAPE_LENGTH, "[");
    for (int i = 0; i < dimensions; i++)
        length +=
            (size_t)snprintf(text + length, CHECKPOINT_SHAPE_LENGTH - length, "%s%" PRId64, i ? ", " : "", shape[i]);
    snprintf(text + length, CHECKPOINT_SHAPE_LENGTH - length, "]");
    return text;
}

/* The end of a sealed text: it takes the place of the closing brace. */
static const char SEAL_FORMAT[] = ",\n\"xxh3\": \"%016" PRIx64 "\"}\n";
enum { SEAL_LENGTH = sizeof ",\n\"xxh3\": \"0123456789abcdef\"}\n" - 1 };

char *checkpoint_seal(const char *json) {
    size_t body = (size_t)(strrchr(json, '}') - json);
    while (json[body - 1] == '\n') body--;
    char seal[SEAL_LENGTH + 1];
    snprintf(seal, sizeof seal, SEAL_FORMAT, files_checksum_memory(json, body));
    return format_string("%.*s%s", (int)body, json, seal);
}

bool checkpoint_seal_is_whole(const char *text, size_t bytes) {
    if (bytes < SEAL_LENGTH) return false;
    size_t body = bytes - SEAL_LENGTH;
    char seal[SEAL_LENGTH + 1];
    snprintf(seal, sizeof seal, SEAL_FORMAT, files_checksum_memory(text, body));
    return memcmp(text + body, seal, SEAL_LENGTH) == 0;
}

/* ---- JSON files ---- */

static cJSON *parse_object(const char *text, const char *path, Error *error) {
    cJSON *json = cJSON_ParseWithOpts(text, NULL, true);
    if (cJSON_IsObject(json)) return json;
    cJSON_Delete(json);
    error_set(error, "%s is no valid JSON object; copy or download the file again", path);
    return NULL;
}

cJSON *checkpoint_read_json(const char *path, Error *error) {
    char *text = files_read(path, MAX_JSON_BYTES, NULL, error);
    cJSON *json = text ? parse_object(text, path, error) : NULL;
    free(text);
    return json;
}

bool checkpoint_read_number(const cJSON *json, const char *path, const char *key, int64_t lowest, int64_t highest,
                            int64_t *value, Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    double number = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (number >= (double)lowest && number <= (double)highest && number == (double)(int64_t)number) {
        *value = (int64_t)number;
        return true;
    }
    char *found = item ? cJSON_PrintUnformatted(item) : NULL;
    error_set(error, "%s: %s is %.100s; expected a whole number from %" PRId64 " to %" PRId64, path, key,
              found ? found : "missing", lowest, highest);
    cJSON_free(found);
    return false;
}

int64_t checkpoint_integer(const cJSON *trainer, const char *key) {
    return (int64_t)cJSON_GetObjectItemCaseSensitive(trainer, key)->valuedouble;
}

/* Adds "sequences" to the trainer.json of version 0.1.0, which did not count them: all steps of a run had the same
 * number. */
static bool add_sequences(cJSON *trainer, const char *path, int64_t step, Error *error) {
    const cJSON *config = cJSON_GetObjectItemCaseSensitive(trainer, "config");
    const cJSON *train = cJSON_GetObjectItemCaseSensitive(config, "train");
    int64_t batch;
    if (!checkpoint_read_number(train, path, "total_batch_size", 1, INT32_MAX, &batch, error)) return false;
    cJSON_AddNumberToObject(trainer, "sequences", (double)step * (double)batch);
    return true;
}

static bool check_trainer(cJSON *json, const char *path, Error *error) {
    const int64_t limit = INT64_C(1) << 53; /* up to which a double is exact */
    int64_t version, step, updates, sequences;
    if (!checkpoint_read_number(json, path, "version", TRAINER_JSON_VERSION, TRAINER_JSON_VERSION, &version, error) ||
        !checkpoint_read_number(json, path, "step", 0, limit, &step, error) ||
        !checkpoint_read_number(json, path, "updates", 0, step, &updates, error))
        return false;
    const cJSON *optimizer = cJSON_GetObjectItemCaseSensitive(json, "optimizer");
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(json, "files");
    if (!cJSON_IsString(optimizer) || !cJSON_IsObject(files) ||
        !cJSON_IsBool(cJSON_GetObjectItemCaseSensitive(json, "has_bias")) ||
        !cJSON_GetObjectItemCaseSensitive(files, MODEL_FILE) || !cJSON_GetObjectItemCaseSensitive(files, CONFIG_FILE))
        return error_set(
            error,
            "%s is damaged: optimizer, has_bias or files is missing; expected them, and files with at least "
            "%s and %s",
            path, MODEL_FILE, CONFIG_FILE);
    return (cJSON_GetObjectItemCaseSensitive(json, "sequences") || add_sequences(json, path, step, error)) &&
           checkpoint_read_number(json, path, "sequences", 0, limit, &sequences, error);
}

cJSON *checkpoint_read_trainer(const char *folder, Error *error) {
    size_t bytes;
    char *path = format_string("%s/" TRAINER_FILE, folder), *text = files_read(path, MAX_JSON_BYTES, &bytes, error);
    cJSON *json = NULL;
    if (text && !checkpoint_seal_is_whole(text, bytes))
        error_set(error, "%s is damaged: it does not end in the checksum of its content", path);
    else if (text)
        json = parse_object(text, path, error);
    if (json && !check_trainer(json, path, error)) {
        cJSON_Delete(json);
        json = NULL;
    }
    free(text);
    free(path);
    return json;
}
