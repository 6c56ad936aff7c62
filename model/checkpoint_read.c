/* checkpoint_read.c: finding, verifying and reading checkpoints, and weights that others have published. Saving is in
 * checkpoint.c. A checkpoint is believed only after every byte of every file that its trainer.json lists has been
 * compared with the checksum there; files without a trainer.json (init_from a published model) are only checked for
 * the right tensors in the right shapes. */
#include "model/checkpoint.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/checkpoint_layout.h"
#include "util/files.h"

enum { MAX_JSON_BYTES = 16 << 20 };

/* The whole number in [lowest, highest] of that name; a message that names the file and key where there is none. */
static bool read_number(const cJSON *json, const char *path, const char *key, int64_t lowest, int64_t highest,
                        int64_t *value, Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    double number = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!(number >= (double)lowest && number <= (double)highest) || number != (double)(int64_t)number)
        return error_set(error, "%s: %s should be a whole number from %" PRId64 " to %" PRId64, path, key, lowest,
                         highest);
    *value = (int64_t)number;
    return true;
}

/* Reads a file that holds one JSON object; NULL on failure. `sealed`: and ends in the seal of trainer.json. */
static cJSON *read_json(const char *path, bool sealed, Error *error) {
    size_t bytes;
    char *text = files_read(path, MAX_JSON_BYTES, &bytes, error);
    if (!text) return NULL;
    cJSON *json = NULL;
    if (sealed && !checkpoint_seal_is_whole(text, bytes)) {
        error_set(error, "%s is damaged: it does not end in the checksum of its content", path);
    } else if (!(json = cJSON_ParseWithOpts(text, NULL, true)) || !cJSON_IsObject(json)) {
        error_set(error, "%s is no valid JSON object", path);
        cJSON_Delete(json);
        json = NULL;
    }
    free(text);
    return json;
}

/* Reads trainer.json and checks everything in it that does not need another file. */
static cJSON *read_trainer(const char *path, int64_t *step, int64_t *updates, Error *error) {
    cJSON *json = read_json(path, true, error);
    int64_t version;
    bool good = json &&
                read_number(json, path, "version", TRAINER_JSON_VERSION, TRAINER_JSON_VERSION, &version, error) &&
                read_number(json, path, "step", 0, INT64_C(1) << 53, step, error) &&
                read_number(json, path, "updates", 0, *step, updates, error);
    const cJSON *optimizer = cJSON_GetObjectItemCaseSensitive(json, "optimizer");
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(json, "files");
    if (good &&
        (!cJSON_IsString(optimizer) || !cJSON_IsObject(files) ||
         !cJSON_IsBool(cJSON_GetObjectItemCaseSensitive(json, "has_bias")) ||
         !cJSON_GetObjectItemCaseSensitive(files, MODEL_FILE) || !cJSON_GetObjectItemCaseSensitive(files, CONFIG_FILE)))
        good = error_set(error, "%s should hold optimizer, has_bias, and files with at least %s and %s", path,
                         MODEL_FILE, CONFIG_FILE);
    if (good) return json;
    cJSON_Delete(json);
    return NULL;
}

/* Compares one file with what trainer.json says about it. */
static bool verify_file(const char *folder, const cJSON *item, Error *error) {
    const cJSON *expected_bytes = cJSON_GetObjectItemCaseSensitive(item, "bytes");
    const char *expected = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "xxh3"));
    if (strchr(item->string, '/') || !cJSON_IsNumber(expected_bytes) || !expected)
        return error_set(error, "%s/%s: the entry of '%s' should have bytes and xxh3, under a plain file name", folder,
                         TRAINER_FILE, item->string);
    char *path = format_string("%s/%s", folder, item->string), found[17];
    uint64_t bytes, checksum;
    bool good = files_checksum(path, &bytes, &checksum, error);
    if (good && (double)bytes != expected_bytes->valuedouble)
        good = error_set(error, "%s is damaged: it has %llu bytes and should have %.0f", path,
                         (unsigned long long)bytes, expected_bytes->valuedouble);
    snprintf(found, sizeof found, "%016llx", (unsigned long long)checksum);
    if (good && strcmp(found, expected) != 0)
        good = error_set(error, "%s is damaged: its checksum is %s and should be %s", path, found, expected);
    free(path);
    return good;
}

static bool verify_files(const char *folder, const cJSON *trainer, Error *error) {
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(trainer, "files")) {
        if (!verify_file(folder, item, error)) return false;
    }
    return true;
}

static bool open_in_folder(SafetensorsFile *file, const char *folder, const char *name, Error *error) {
    char *path = format_string("%s/%s", folder, name);
    bool good = safetensors_open(file, path, error);
    free(path);
    return good;
}

/* The last steps of opening: all files are as they were written. */
static bool open_verified(Checkpoint *checkpoint, const char *path, const cJSON *trainer, Error *error) {
    const char *optimizer = cJSON_GetObjectItemCaseSensitive(trainer, "optimizer")->valuestring;
    if (snprintf(checkpoint->path, sizeof checkpoint->path, "%s", path) >= (int)sizeof checkpoint->path)
        return error_set(error, "the path %s is longer than %zu characters", path, sizeof checkpoint->path);
    if (snprintf(checkpoint->optimizer, sizeof checkpoint->optimizer, "%s", optimizer) >=
        (int)sizeof checkpoint->optimizer)
        return error_set(error, "%s/%s: the optimizer's name is too long", path, TRAINER_FILE);
    return open_in_folder(&checkpoint->model, path, MODEL_FILE, error) &&
           (!cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(trainer, "files"), OPTIMIZER_FILE) ||
            open_in_folder(&checkpoint->state, path, OPTIMIZER_FILE, error));
}

bool checkpoint_open(Checkpoint *checkpoint, const char *path, Error *error) {
    memset(checkpoint, 0, sizeof *checkpoint);
    char *trainer_path = format_string("%s/%s", path, TRAINER_FILE);
    cJSON *trainer = read_trainer(trainer_path, &checkpoint->step, &checkpoint->updates, error);
    free(trainer_path);
    bool good = trainer && verify_files(path, trainer, error) && open_verified(checkpoint, path, trainer, error);
    checkpoint->scalars = cJSON_DetachItemFromObjectCaseSensitive(trainer, "scalars");
    cJSON_Delete(trainer);
    if (!good) checkpoint_close(checkpoint);
    return good;
}

void checkpoint_close(Checkpoint *checkpoint) {
    safetensors_close(&checkpoint->model);
    safetensors_close(&checkpoint->state);
    cJSON_Delete(checkpoint->scalars);
    memset(checkpoint, 0, sizeof *checkpoint);
}

bool checkpoint_exists(const char *out_dir) {
    int count;
    char *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    free(checkpoint_folders(checkpoints, &count));
    free(checkpoints);
    return count > 0;
}

/* Adds a reason to a list of them, as far as there is room. */
static void append_reason(Error *all, const Error *reason) {
    char *joined = format_string("%s%s%s", all->text, all->text[0] ? "; " : "", reason->text);
    error_set(all, "%s", joined);
    free(joined);
}

bool checkpoint_open_newest(Checkpoint *checkpoint, const char *out_dir, Error *error) {
    int count;
    char *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    CheckpointFolder *folders = checkpoint_folders(checkpoints, &count);
    int latest = checkpoint_latest(checkpoints, folders, count);
    if (count > 0 && latest < 0)
        warn("%s/%s names no checkpoint that is there: looking for the highest step", checkpoints, LATEST_LINK);
    Error reason, all = {""};
    bool good = false;
    for (int i = latest < 0 ? 0 : latest; i < count && !good; i++) {
        char *path = format_string("%s/%s", checkpoints, folders[i].name);
        good = checkpoint_open(checkpoint, path, &reason);
        if (!good) {
            warn("passing over the checkpoint %s: %s", path, reason.text);
            append_reason(&all, &reason);
        }
        free(path);
    }
    if (!good)
        error_set(error, "there is no whole checkpoint in %s%s%s", checkpoints, all.text[0] ? ": " : "", all.text);
    free(folders);
    free(checkpoints);
    return good;
}

/* Writes a shape as "[128, 384]". */
static const char *shape_text(char text[256], const int64_t *shape, int dimensions) {
    size_t length = (size_t)snprintf(text, 256, "[");
    for (int i = 0; i < dimensions; i++)
        length += (size_t)snprintf(text + length, 256 - length, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + length, 256 - length, "]");
    return text;
}

static bool check_shape(const SafetensorsFile *file, const SafetensorsEntry *entry, const Tensor *tensor,
                        bool transposed, Error *error) {
    int64_t shape[2] = {tensor->rows, tensor->columns};
    int dimensions = 2;
    if (tensor->role == ROLE_VECTOR) shape[0] = tensor->columns, dimensions = 1;
    if (transposed) shape[0] = tensor->columns, shape[1] = tensor->rows;
    if (entry->dimensions == dimensions && memcmp(entry->shape, shape, (size_t)dimensions * sizeof *shape) == 0)
        return true;
    char has[256], expected[256];
    return error_set(error, "%s: tensor '%.100s' has the shape %s, the model expects %s", file->path, entry->name,
                     shape_text(has, entry->shape, entry->dimensions), shape_text(expected, shape, dimensions));
}

bool checkpoint_read_state(const Checkpoint *checkpoint, const TensorTable *table, const char *state, int tensor,
                           float *host, Error *error) {
    const Tensor *wanted = &table->tensors[tensor];
    char *name = format_string("%s.%s", state, wanted->name);
    const SafetensorsEntry *entry = safetensors_find(&checkpoint->state, name);
    bool good = entry ? check_shape(&checkpoint->state, entry, wanted, false, error)
                      : error_set(error, "%s/%s has no float tensor '%s'", checkpoint->path, OPTIMIZER_FILE, name);
    free(name);
    if (good) safetensors_read_float32(entry, host);
    return good;
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

/* The weights of that name, with or without the prefix; NULL with a message where they are missing or misshapen. */
static const SafetensorsEntry *find_weights(const SafetensorsFile *file, const Tensor *tensor, Error *error) {
    char *prefixed = format_string(WEIGHTS_PREFIX "%s", tensor->name);
    const SafetensorsEntry *entry = safetensors_find(file, prefixed);
    free(prefixed);
    if (!entry) entry = safetensors_find(file, tensor->name);
    if (!entry) {
        error_set(error, "%s has no float tensor '%s', with or without '%s' before it", file->path, tensor->name,
                  WEIGHTS_PREFIX);
        return NULL;
    }
    return check_shape(file, entry, tensor, checkpoint_is_transposed(tensor), error) ? entry : NULL;
}

bool checkpoint_read_weights(const SafetensorsFile *file, const TensorTable *table, int tensor, float *host,
                             Error *error) {
    const Tensor *wanted = &table->tensors[tensor];
    const SafetensorsEntry *entry = find_weights(file, wanted, error);
    if (!entry) return false;
    if (!checkpoint_is_transposed(wanted)) {
        safetensors_read_float32(entry, host);
    } else {
        float *stored = checked_malloc(wanted->size * sizeof *stored, wanted->name);
        safetensors_read_float32(entry, stored);
        checkpoint_transpose(stored, wanted->columns, wanted->rows, host);
        free(stored);
    }
    return true;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* True where every element is 0 or, with `other`, equal to that of a tensor of the same length. */
static bool all_equal(const SafetensorsEntry *entry, const SafetensorsEntry *other) {
    if (other && other->elements != entry->elements) return false;
    size_t bytes = (size_t)entry->elements * sizeof(float);
    float *a = checked_malloc(bytes, entry->name), *b = checked_calloc(1, bytes, entry->name);
    safetensors_read_float32(entry, a);
    if (other) safetensors_read_float32(other, b);
    bool equal = true;
    for (int64_t i = 0; i < entry->elements && equal; i++) equal = a[i] == b[i];
    free(a);
    free(b);
    return equal;
}

/* Whether `name` is the bias of a LayerNorm or linear layer whose weight the table has. */
static bool is_bias_of_known_weight(const TensorTable *table, const char *name) {
    if (!ends_with(name, ".bias")) return false;
    char *weight = format_string("%.*s.weight", (int)(strlen(name) - strlen(".bias")), name);
    int index = tensor_table_find(table, weight);
    free(weight);
    return index >= 0 && table->tensors[index].role != ROLE_EMBEDDING;
}

/* A tensor of the file that the table does not have may be left out only if the model stays the same without it. */
static bool check_unused(const SafetensorsFile *file, const TensorTable *table, const SafetensorsEntry *entry,
                         const SafetensorsEntry *embedding, Error *error) {
    size_t prefix = strlen(WEIGHTS_PREFIX);
    const char *name = strncmp(entry->name, WEIGHTS_PREFIX, prefix) == 0 ? entry->name + prefix : entry->name;
    int index = tensor_table_find(table, name);
    if (index >= 0)
        return find_weights(file, &table->tensors[index], error) == entry ||
               error_set(error, "%s has '%s' both with and without '%s' before it", file->path, name, WEIGHTS_PREFIX);
    if (ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias")) return true; /* the causal mask */
    if (strcmp(name, "lm_head.weight") == 0)
        return all_equal(entry, embedding) ||
               error_set(error, "%s: 'lm_head.weight' differs from the token embedding; this model uses one for both",
                         file->path);
    if (is_bias_of_known_weight(table, name))
        return all_equal(entry, NULL) ||
               error_set(error, "%s: '%s' is not all zero, and the model has no biases: set model.bias to true",
                         file->path, entry->name);
    return error_set(error, "%s: the model has no place for tensor '%.200s': is model.n_layer right?", file->path,
                     entry->name);
}

bool checkpoint_check_weights(const SafetensorsFile *file, const TensorTable *table, Error *error) {
    Error reason, all = {""};
    for (int i = 0; i < table->count; i++)
        if (!find_weights(file, &table->tensors[i], &reason)) append_reason(&all, &reason);
    if (all.text[0]) return error_set(error, "%s", all.text);
    int token_embedding = tensor_table_find(table, "wte.weight");
    const SafetensorsEntry *embedding =
        token_embedding >= 0 ? find_weights(file, &table->tensors[token_embedding], &reason) : NULL;
    for (int i = 0; i < file->count; i++)
        if (!check_unused(file, table, &file->entries[i], embedding, error)) return false;
    return true;
}

bool checkpoint_open_weights(SafetensorsFile *file, const char *path, Error *error) {
    return files_is_folder(path) ? open_in_folder(file, path, MODEL_FILE, error) : safetensors_open(file, path, error);
}

/* A key of config.json that changes what the model computes must be absent or have the one value that we compute. */
static bool check_value(const cJSON *json, const char *path, const char *key, const char *expected, Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!item) return true;
    char *text = cJSON_PrintUnformatted(item);
    if (!text) die("out of memory: %s", path);
    bool good = strcmp(text, expected) == 0 ||
                error_set(error, "%s: %s is %.100s; only %s is supported", path, key, text, expected);
    cJSON_free(text);
    return good;
}

static bool check_values(const cJSON *json, const char *path, Error *error) {
    static const char *const supported[][2] = {
        {"model_type", "\"gpt2\""},      {"activation_function", "\"gelu_new\""}, {"scale_attn_weights", "true"},
        {"tie_word_embeddings", "true"}, {"add_cross_attention", "false"},        {"layer_norm_epsilon", "1e-05"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(supported); i++)
        if (!check_value(json, path, supported[i][0], supported[i][1], error)) return false;
    return true;
}

static bool read_shape(GPT2Config *config, const cJSON *json, const char *path, Error *error) {
    struct {
        const char *key;
        int *value;
    } numbers[] = {{"n_layer", &config->n_layer},
                   {"n_head", &config->n_head},
                   {"n_embd", &config->n_embd},
                   {"n_positions", &config->block_size},
                   {"vocab_size", &config->vocab_size}};
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        int64_t value = 0;
        if (!read_number(json, path, numbers[i].key, 1, INT32_MAX, &value, error)) return false;
        *numbers[i].value = (int)value;
    }
    if (config->n_embd % config->n_head != 0)
        return error_set(error, "%s: n_embd %d is no multiple of n_head %d", path, config->n_embd, config->n_head);
    const cJSON *inner = cJSON_GetObjectItemCaseSensitive(json, "n_inner");
    if (inner && !cJSON_IsNull(inner) && !(inner->valuedouble == 4.0 * config->n_embd))
        return error_set(error, "%s: n_inner should be absent or 4 * n_embd = %.0f", path, 4.0 * config->n_embd);
    const cJSON *scale = cJSON_GetObjectItemCaseSensitive(json, "scale_attn_by_inverse_layer_idx");
    if (scale && !cJSON_IsBool(scale))
        return error_set(error, "%s: scale_attn_by_inverse_layer_idx should be true or false", path);
    config->scale_attn_by_inverse_layer_idx = cJSON_IsTrue(scale);
    return true;
}

/* Whether the model has biases, if a trainer.json says so. */
static bool read_has_bias(GPT2Config *config, const char *folder, Error *error) {
    char *path = format_string("%s/%s", folder, TRAINER_FILE);
    bool good = true;
    config->bias = true;
    if (access(path, F_OK) == 0 || errno != ENOENT) {
        int64_t step, updates;
        cJSON *json = read_trainer(path, &step, &updates, error);
        good = json != NULL;
        config->bias = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "has_bias"));
        cJSON_Delete(json);
    }
    free(path);
    return good;
}

bool checkpoint_read_model_config(GPT2Config *config, const char *path, Error *error) {
    memset(config, 0, sizeof *config);
    char *file = format_string("%s/%s", path, CONFIG_FILE);
    cJSON *json = read_json(file, false, error);
    bool good = json && check_values(json, file, error) && read_shape(config, json, file, error) &&
                read_has_bias(config, path, error);
    cJSON_Delete(json);
    free(file);
    return good;
}

char *checkpoint_read_algorithms(const Checkpoint *checkpoint) {
    char *path = format_string("%s/" ALGORITHMS_FILE, checkpoint->path);
    char *text = files_is_file(path) ? files_read(path, MAX_JSON_BYTES, NULL, NULL) : NULL;
    free(path);
    return text;
}
