/* checkpoint_read.c: finding, verifying and reading checkpoints. Saving is in checkpoint.c, weights in
 * checkpoint_weights.c. Opening a checkpoint compares every file that its trainer.json lists with the checksum
 * there. */
#include "checkpoint/checkpoint.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint_layout.h"
#include "util/files.h"

enum { MAX_ALGORITHMS_BYTES = 16 << 20 };

/* Compares one file with what trainer.json says about it. */
static bool verify_file(const char *folder, const cJSON *item, Error *error) {
    const cJSON *expected_bytes = cJSON_GetObjectItemCaseSensitive(item, "bytes");
    const char *expected = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "xxh3"));
    if (strchr(item->string, '/') || !cJSON_IsNumber(expected_bytes) || !expected)
        return error_set(error, "%s/%s: the entry of '%s' should have bytes and xxh3, under a plain file name", folder,
                         TRAINER_FILE, item->string);
    char *path = format_string("%s/%s", folder, item->string), found[17];
    uint64_t bytes, checksum;
    bool ok = files_checksum(path, &bytes, &checksum, error);
    if (ok && (double)bytes != expected_bytes->valuedouble)
        ok = error_set(error, "%s is damaged: it has %" PRIu64 " bytes and should have %.0f", path, bytes,
                       expected_bytes->valuedouble);
    snprintf(found, sizeof found, "%016" PRIx64, checksum);
    if (ok && strcmp(found, expected) != 0)
        ok = error_set(error, "%s is damaged: its checksum is %s and should be %s", path, found, expected);
    free(path);
    return ok;
}

static bool verify_files(const char *folder, const cJSON *trainer, Error *error) {
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(trainer, "files")) {
        if (!verify_file(folder, item, error)) return false;
    }
    return true;
}

bool checkpoint_is_in(const char *folder) {
    char *trainer = format_string("%s/" TRAINER_FILE, folder);
    bool is_there = files_exists(trainer);
    free(trainer);
    return is_there;
}

bool checkpoint_verify_some(const char *folder, const char *const *names, size_t count, Error *error) {
    cJSON *trainer = checkpoint_read_trainer(folder, error);
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(trainer, "files");
    bool ok = trainer != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(files, names[i]);
        ok = !item || !files_has(folder, names[i]) || verify_file(folder, item, error);
    }
    cJSON_Delete(trainer);
    return ok;
}

bool checkpoint_verify_tokenizer(const char *folder, Error *error) {
    static const char *const names[] = {"tokens.json", "tokenizer_config.json", "tokenizer.json", "vocab.json",
                                        "merges.txt"};
    Error reason;
    return !checkpoint_is_in(folder) || checkpoint_verify_some(folder, names, ARRAY_LENGTH(names), &reason) ||
           error_set(error, "%s" CHECKPOINT_COPY_AGAIN, reason.text);
}

static bool open_in_folder(SafetensorsFile *file, const char *folder, const char *name, Error *error) {
    char *path = format_string("%s/%s", folder, name);
    bool ok = safetensors_open(file, path, error);
    free(path);
    return ok;
}

/* The last steps of opening, after all files were found unchanged. */
static bool open_verified(Checkpoint *checkpoint, const char *path, const cJSON *trainer, Error *error) {
    const char *optimizer = cJSON_GetObjectItemCaseSensitive(trainer, "optimizer")->valuestring;
    if (snprintf(checkpoint->path, sizeof checkpoint->path, "%s", path) >= (int)sizeof checkpoint->path)
        return error_set(error, "the path %s is longer than %zu characters", path, sizeof checkpoint->path);
    if (snprintf(checkpoint->optimizer, sizeof checkpoint->optimizer, "%s", optimizer) >=
        (int)sizeof checkpoint->optimizer)
        return error_set(error, "%s/%s: the optimizer's name is too long", path, TRAINER_FILE);
    checkpoint->step = checkpoint_integer(trainer, "step");
    checkpoint->updates = checkpoint_integer(trainer, "updates");
    checkpoint->sequences = checkpoint_integer(trainer, "sequences");
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(trainer, "files");
    return open_in_folder(&checkpoint->model, path, MODEL_FILE, error) &&
           (!cJSON_GetObjectItemCaseSensitive(files, EMA_FILE) ||
            open_in_folder(&checkpoint->ema, path, EMA_FILE, error)) &&
           (!cJSON_GetObjectItemCaseSensitive(files, OPTIMIZER_FILE) ||
            open_in_folder(&checkpoint->state, path, OPTIMIZER_FILE, error));
}

bool checkpoint_open(Checkpoint *checkpoint, const char *path, Error *error) {
    memset(checkpoint, 0, sizeof *checkpoint);
    cJSON *trainer = checkpoint_read_trainer(path, error);
    bool ok = trainer && verify_files(path, trainer, error) && open_verified(checkpoint, path, trainer, error);
    checkpoint->scalars = cJSON_DetachItemFromObjectCaseSensitive(trainer, "scalars");
    checkpoint->config = cJSON_DetachItemFromObjectCaseSensitive(trainer, "config");
    cJSON_Delete(trainer);
    if (!ok) checkpoint_close(checkpoint);
    return ok;
}

void checkpoint_close(Checkpoint *checkpoint) {
    safetensors_close(&checkpoint->model);
    safetensors_close(&checkpoint->state);
    safetensors_close(&checkpoint->ema);
    cJSON_Delete(checkpoint->scalars);
    cJSON_Delete(checkpoint->config);
    memset(checkpoint, 0, sizeof *checkpoint);
}

bool checkpoint_exists(const char *out_dir) {
    int count;
    struct stat status;
    char *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    char *latest = format_string("%s/" LATEST_LINK, checkpoints), *trainer = format_string("%s/" TRAINER_FILE, latest);
    free(checkpoint_folders(checkpoints, &count));
    bool is_link = lstat(latest, &status) == 0 && S_ISLNK(status.st_mode);
    bool found = count > 0 || is_link || files_is_file(trainer);
    free(checkpoints);
    free(latest);
    free(trainer);
    return found;
}

/* Appends a reason to *all, as far as there is room. */
static void append_reason(Error *all, const Error *reason) {
    char *joined = format_string("%s%s%s", all->text, all->text[0] ? "; " : "", reason->text);
    error_set(all, "%s", joined);
    free(joined);
}

/* Opens the checkpoint `name`; `step` is the step in its name, or -1. If it cannot be opened, warns with the reason and
 * adds the reason to *all. */
static bool open_or_pass_over(Checkpoint *checkpoint, const char *checkpoints, const char *name, int64_t step,
                              Error *all) {
    Error reason;
    char *path = format_string("%s/%s", checkpoints, name);
    bool ok = checkpoint_open(checkpoint, path, &reason);
    if (ok && step >= 0 && checkpoint->step != step) {
        ok = error_set(&reason, "%s holds step %" PRId64 ", so its name should be " STEP_FORMAT, path, checkpoint->step,
                       checkpoint->step);
        checkpoint_close(checkpoint);
    }
    if (!ok) {
        warn("passing over the checkpoint %s: %s", path, reason.text);
        append_reason(all, &reason);
    }
    free(path);
    return ok;
}

bool checkpoint_open_newest(Checkpoint *checkpoint, const char *out_dir, Error *error) {
    int count;
    char *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    char *latest_trainer = format_string("%s/" LATEST_LINK "/" TRAINER_FILE, checkpoints);
    CheckpointFolder *folders = checkpoint_folders(checkpoints, &count);
    int latest = checkpoint_latest(checkpoints, folders, count);
    Error all = {""};
    /* A copy that was made by following links has a folder of that name. */
    bool ok = latest < 0 && files_is_file(latest_trainer) &&
              open_or_pass_over(checkpoint, checkpoints, LATEST_LINK, -1, &all);
    if (!ok && latest < 0 && count > 0)
        warn("%s/%s names no checkpoint that is there: looking for the highest step", checkpoints, LATEST_LINK);
    for (int i = (int)max_i64(latest, 0); i < count && !ok; i++)
        ok = open_or_pass_over(checkpoint, checkpoints, folders[i].name, folders[i].step, &all);
    if (!ok)
        error_set(error,
                  "there is no whole checkpoint in %s%s%.800s; copy one there, or begin anew with --init_from=scratch "
                  "--overwrite=true",
                  checkpoints, all.text[0] ? ": " : "", all.text);
    free(folders);
    free(latest_trainer);
    free(checkpoints);
    return ok;
}

static bool check_shape(const SafetensorsFile *file, const SafetensorsEntry *entry, const Tensor *tensor,
                        Error *error) {
    bool is_vector = tensor->role == ROLE_VECTOR;
    int dimensions = is_vector ? 1 : 2;
    const int64_t shape[2] = {is_vector ? tensor->columns : tensor->rows, tensor->columns};
    if (entry->dimensions == dimensions && memcmp(entry->shape, shape, (size_t)dimensions * sizeof *shape) == 0)
        return true;
    char has[CHECKPOINT_SHAPE_LENGTH], expected[CHECKPOINT_SHAPE_LENGTH];
    return error_set(error, "%s: tensor '%.100s' has the shape %s, the model expects %s", file->path, entry->name,
                     checkpoint_shape_text(has, entry->shape, entry->dimensions),
                     checkpoint_shape_text(expected, shape, dimensions));
}

/* Reads a state of the tensor that is called `tensor`; it has the shape of `wanted`. */
static bool read_state(const Checkpoint *checkpoint, const char *state, const char *tensor, const Tensor *wanted,
                       float *host, Error *error) {
    char *name = format_string("%s.%s", state, tensor);
    const SafetensorsEntry *entry = safetensors_find(&checkpoint->state, name);
    bool ok = entry ? check_shape(&checkpoint->state, entry, wanted, error)
                    : error_set(error, "%s/%s has no float tensor '%s'", checkpoint->path, OPTIMIZER_FILE, name);
    free(name);
    return ok && safetensors_read_float32(entry, host, error);
}

bool checkpoint_read_state(const Checkpoint *checkpoint, const TensorTable *table, const char *state, int tensor,
                           float *host, Error *error) {
    return read_state(checkpoint, state, table->tensors[tensor].name, &table->tensors[tensor], host, error);
}

bool checkpoint_read_state_vector(const Checkpoint *checkpoint, const TensorTable *table, const char *state, int tensor,
                                  size_t length, float *host, Error *error) {
    Tensor wanted = {.role = ROLE_VECTOR, .rows = 1, .columns = (int64_t)length, .size = length};
    return read_state(checkpoint, state, table->tensors[tensor].name, &wanted, host, error);
}

bool checkpoint_read_scalars(const Checkpoint *checkpoint, const TensorTable *table, const char *name, double *numbers,
                             Error *error) {
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(checkpoint->scalars, name);
    for (int i = 0; i < table->count; i++) {
        const cJSON *number = cJSON_GetObjectItemCaseSensitive(found, table->tensors[i].name);
        if (!cJSON_IsNumber(number))
            return error_set(error, "%s/%s has no number scalars.%s of '%s'", checkpoint->path, TRAINER_FILE, name,
                             table->tensors[i].name);
        numbers[i] = number->valuedouble;
    }
    return true;
}

char *checkpoint_read_algorithms(const Checkpoint *checkpoint) {
    char *path = format_string("%s/" ALGORITHMS_FILE, checkpoint->path);
    char *text = files_is_file(path) ? files_read(path, MAX_ALGORITHMS_BYTES, NULL, NULL) : NULL;
    free(path);
    return text;
}
