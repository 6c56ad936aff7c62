/* checkpoint.c: saves checkpoints and exports weights (checkpoint_export()): the content of the files, and the order of
 * steps that keeps a whole checkpoint on the disk at every moment. Opening and reading are in checkpoint_read.c, the
 * names in checkpoint_layout.h, and the checks of the folder of all checkpoints before a run in checkpoint_folder.c.
 *
 *   1. remove what interrupted saves left; write every file into checkpoints/.tmp_step_N and sync each, then the folder
 *   2. rename .tmp_step_N to step_N, sync `checkpoints`: the new checkpoint is there, `latest` still names the old one
 *   3. make a new link, rename it to `latest`, sync
 *   4. remove old checkpoints, each folder under a temporary name so that no half of one looks like a whole
 * Only one process writes, but all take part in fetching tensors. So the steps that fetch go on to the end also after
 * a failure, and a process that does not write behaves like a writer that failed before its first byte. */
#include "checkpoint/checkpoint.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint_layout.h"
#include "checkpoint/checkpoint_tokenizer.h"
#include "util/files.h"

typedef struct Save {
    const CheckpointSource *source;
    bool ok;           /* this process writes, and nothing has failed so far */
    Error *error;      /* why ok is false */
    char *parent;      /* the folder of all checkpoints, or the one above an export */
    char *temporary;   /* the new checkpoint while it is written */
    char *final;       /* its final path */
    char *aside;       /* the path of an old one of the same step until the new one is in place */
    cJSON *files;      /* the "files" of trainer.json */
    DType type;        /* of weights in the files */
    float *host;       /* room for the largest tensor; NULL if this process does not write */
    float *transposed; /* room for its transpose */
} Save;

/* Notes a finished file in trainer.json's list. */
static void list_file(Save *save, const char *name, uint64_t bytes, uint64_t checksum) {
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, checksum);
    cJSON *file = cJSON_AddObjectToObject(save->files, name);
    cJSON_AddNumberToObject(file, "bytes", (double)bytes);
    cJSON_AddStringToObject(file, "xxh3", text);
}

static SafetensorsEntry vector_entry(char *name, int64_t length) {
    return (SafetensorsEntry){.name = name, .dimensions = 1, .shape = {length}};
}

/* The entry of a tensor under the name `name`, which the entry then owns; `transposed`: as Hugging Face stores linear
 * layers. */
static SafetensorsEntry tensor_entry(char *name, const Tensor *tensor, bool transposed) {
    if (tensor->role == ROLE_VECTOR) return vector_entry(name, tensor->columns);
    return (SafetensorsEntry){
        .name = name,
        .dimensions = 2,
        .shape = {transposed ? tensor->columns : tensor->rows, transposed ? tensor->rows : tensor->columns}};
}

/* Creates the safetensors file `name`; frees the entries with their names. */
static SafetensorsWriter *create_file(Save *save, const char *name, SafetensorsEntry *entries, int count, DType type) {
    static const char *const metadata[] = {"format", "pt", NULL};
    SafetensorsWriter *writer = NULL;
    char *path = format_string("%s/%s", save->temporary, name);
    save->ok = safetensors_create(&writer, path, entries, count, type, metadata, save->error);
    free(path);
    for (int i = 0; i < count; i++) free(entries[i].name);
    free(entries);
    return writer;
}

/* Closes a file of create_file() (NULL: there is none), and lists it if nothing has failed. */
static void finish_file(Save *save, SafetensorsWriter *writer, const char *name) {
    uint64_t bytes, checksum;
    if (!writer) return;
    if (!safetensors_finish(writer, &bytes, &checksum, save->ok ? save->error : NULL)) save->ok = false;
    if (save->ok) list_file(save, name, bytes, checksum);
}

/* Elements of the zero bias that the format has after the tensor and the model lacks; 0 for none. */
static int64_t zero_bias(const CheckpointSource *source, const Tensor *tensor, char name[TENSOR_NAME_LENGTH]) {
    return gpt2_config_is_gpt2(&source->model) ? checkpoint_missing_bias(source->table, tensor, name) : 0;
}

static SafetensorsWriter *create_weights_file(Save *save, const char *name) {
    const TensorTable *table = save->source->table;
    SafetensorsEntry *entries = checked_calloc(2 * (size_t)table->count, sizeof *entries, "a list of tensors");
    int count = 0;
    for (int i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        char bias[TENSOR_NAME_LENGTH];
        int64_t length = zero_bias(save->source, tensor, bias);
        entries[count++] =
            tensor_entry(format_string("%s%s", tensor->hf_prefix, tensor->name), tensor, tensor->hf_transposed);
        if (length > 0) entries[count++] = vector_entry(format_string("%s%s", tensor->hf_prefix, bias), length);
    }
    return create_file(save, name, entries, count, save->type);
}

static bool write_zeros(SafetensorsWriter *writer, int64_t elements, Error *error) {
    enum { COUNT = 1024 };
    static const float zeros[COUNT];
    for (int64_t done = 0; done < elements; done += COUNT)
        if (!safetensors_write(writer, zeros, min_i64(elements - done, COUNT), error)) return false;
    return true;
}

/* Writes the tensor in save->host, and after it its zero bias, if any. */
static bool write_weight(Save *save, SafetensorsWriter *writer, const Tensor *tensor) {
    const float *data = save->host;
    if (tensor->hf_transposed) {
        checkpoint_transpose(save->host, tensor->rows, tensor->columns, save->transposed);
        data = save->transposed;
    }
    char bias[TENSOR_NAME_LENGTH];
    return safetensors_write(writer, data, (int64_t)tensor->size, save->error) &&
           write_zeros(writer, zero_bias(save->source, tensor, bias), save->error);
}

/* Writes CHECKPOINT_WEIGHTS or CHECKPOINT_EMA to the file `name`. */
static void save_weights(Save *save, int which, const char *name) {
    const CheckpointSource *source = save->source;
    SafetensorsWriter *writer = save->ok ? create_weights_file(save, name) : NULL;
    for (int i = 0; i < source->table->count; i++) {
        source->fetch(source->context, which, i, save->host);
        save->ok = save->ok && write_weight(save, writer, &source->table->tensors[i]);
    }
    finish_file(save, writer, name);
}

/* A tensor with the shape of state number `which` of tensor i. */
static Tensor state_tensor(const CheckpointSource *source, int which, int i) {
    size_t vector = source->state_vector ? source->state_vector(source->context, which, i) : 0;
    return vector > 0 ? (Tensor){.role = ROLE_VECTOR, .rows = 1, .columns = (int64_t)vector, .size = vector}
                      : source->table->tensors[i];
}

static SafetensorsWriter *create_optimizer_file(Save *save) {
    const CheckpointSource *source = save->source;
    const TensorTable *table = source->table;
    int count = 0;
    SafetensorsEntry *entries =
        checked_calloc((size_t)source->state_count * (size_t)table->count, sizeof *entries, "a list of tensors");
    for (int state = 0; state < source->state_count; state++)
        for (int i = 0; i < table->count; i++)
            if (source->has_state(source->context, state, i)) {
                Tensor shape = state_tensor(source, state, i);
                entries[count++] = tensor_entry(
                    format_string("%s.%s", source->state_names[state], table->tensors[i].name), &shape, false);
            }
    return create_file(save, OPTIMIZER_FILE, entries, count, DTYPE_FLOAT32);
}

static void save_optimizer(Save *save) {
    const CheckpointSource *source = save->source;
    if (source->state_count == 0) return;
    SafetensorsWriter *writer = save->ok ? create_optimizer_file(save) : NULL;
    for (int state = 0; state < source->state_count; state++)
        for (int i = 0; i < source->table->count; i++) {
            if (!source->has_state(source->context, state, i)) continue;
            int64_t elements = (int64_t)state_tensor(source, state, i).size;
            source->fetch(source->context, state, i, save->host);
            save->ok = save->ok && safetensors_write(writer, save->host, elements, save->error);
        }
    finish_file(save, writer, OPTIMIZER_FILE);
}

/* Writes a text file into the new checkpoint. */
static void save_text(Save *save, const char *name, const char *text, uint64_t *bytes, uint64_t *checksum) {
    char *path = format_string("%s/%s", save->temporary, name);
    FileWriter *writer;
    save->ok = save->ok && file_writer_open(&writer, path, save->error);
    if (save->ok) {
        file_writer_append(writer, text, strlen(text), NULL); /* close reports what went wrong here */
        save->ok = file_writer_close(writer, bytes, checksum, save->error);
    }
    free(path);
}

static char *print_and_delete(cJSON *json) {
    char *text = cJSON_Print(json);
    cJSON_Delete(json);
    if (!text) die("out of memory: the text of a JSON file");
    return text;
}

static void save_listed_text(Save *save, const char *name, const char *text) {
    uint64_t bytes, checksum;
    save_text(save, name, text, &bytes, &checksum);
    if (save->ok) list_file(save, name, bytes, checksum);
}

/* Writes config.json, from which transformers builds the model. */
static void save_model_config(Save *save, bool has_end_of_text) {
    const GPT2Config *model = &save->source->model;
    char *text = checkpoint_model_config(model, save->type, has_end_of_text);
    save_listed_text(save, CONFIG_FILE, text);
    cJSON_free(text);
    if (!gpt2_config_is_gpt2(model)) save_listed_text(save, MODELING_FILE, checkpoint_modeling);
}

static void save_algorithms(Save *save) {
    const char *text = save->source->algorithms;
    if (text && text[0]) save_listed_text(save, ALGORITHMS_FILE, text);
}

static void save_copy(Save *save, const char *name, const char *from) {
    uint64_t bytes, checksum;
    char *to = format_string("%s/%s", save->temporary, name);
    save->ok = files_copy(from, to, &bytes, &checksum, save->error);
    if (save->ok) list_file(save, name, bytes, checksum);
    free(to);
}

/* Saves the files of the tokenizer, and frees `tokenizer`. */
static void save_tokenizer(Save *save, CheckpointTokenizer *tokenizer) {
    for (int i = 0; i < tokenizer->count; i++) {
        CheckpointFile *file = &tokenizer->files[i];
        if (save->ok && file->from) save_copy(save, file->name, file->from);
        if (save->ok && file->text) save_listed_text(save, file->name, file->text);
        free(file->from);
        free(file->text);
    }
}

/* Saves the files that transformers needs besides the weights. */
static void save_model_texts(Save *save) {
    CheckpointTokenizer tokenizer;
    checkpoint_tokenizer(&tokenizer, save->source->tokens_folder, &save->source->model);
    save_model_config(save, tokenizer.has_end_of_text);
    save_tokenizer(save, &tokenizer);
}

/* {"snr": {"wte.weight": 1.5, ...}}. cJSON would not always print all digits of a double. */
static cJSON *scalars_json(const CheckpointSource *source) {
    cJSON *json = cJSON_CreateObject();
    double *values = checked_malloc((size_t)source->table->count * sizeof *values, "optimizer state");
    for (int kind = 0; kind < source->scalar_count; kind++) {
        source->fetch_scalars(source->context, kind, values);
        cJSON *numbers = cJSON_AddObjectToObject(json, source->scalar_names[kind]);
        for (int i = 0; i < source->table->count; i++) {
            char text[32];
            snprintf(text, sizeof text, "%.17g", values[i]);
            cJSON_AddRawToObject(numbers, source->table->tensors[i].name, text);
        }
    }
    free(values);
    return json;
}

/* Writes trainer.json last, since it lists the other files. The config is inserted as text, so that no digit of a
 * 64-bit seed is lost in a double. */
static void save_trainer(Save *save) {
    const CheckpointSource *source = save->source;
    cJSON *config = cJSON_ParseWithOpts(source->config_json, NULL, true);
    if (save->ok && !cJSON_IsObject(config))
        save->ok = error_set(save->error, "the run's config is no JSON object, so %s cannot be saved", save->final);
    cJSON_Delete(config);
    if (!save->ok) return;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "version", TRAINER_JSON_VERSION);
    cJSON_AddNumberToObject(json, "step", (double)source->step);
    cJSON_AddNumberToObject(json, "updates", (double)source->updates);
    cJSON_AddNumberToObject(json, "sequences", (double)source->sequences);
    cJSON_AddStringToObject(json, "optimizer", source->optimizer);
    if (source->scalar_count > 0) cJSON_AddItemToObject(json, "scalars", scalars_json(source));
    cJSON_AddBoolToObject(json, "has_bias", source->model.bias);
    cJSON_AddRawToObject(json, "config", source->config_json);
    cJSON_AddItemToObject(json, "files", save->files);
    save->files = NULL;
    char *text = print_and_delete(json), *sealed = checkpoint_seal(text);
    save_text(save, TRAINER_FILE, sealed, NULL, NULL);
    cJSON_free(text);
    free(sealed);
}

/* Removes what interrupted saves have left in `checkpoints`. */
static void remove_leftovers(const char *checkpoints) {
    DIR *directory = files_open_folder(checkpoints);
    struct dirent *entry;
    Error error;
    while (directory && (entry = readdir(directory))) {
        if (strncmp(entry->d_name, TEMPORARY_PREFIX, sizeof TEMPORARY_PREFIX - 1) != 0) continue;
        char *path = format_string("%s/%s", checkpoints, entry->d_name);
        if (!files_remove_tree(path, &error)) warn("a leftover of an interrupted save stays: %s", error.text);
        free(path);
    }
    if (directory) closedir(directory);
}

/* Removes leftovers, which may fill the disk, and makes the temporary folder. */
static void begin(Save *save) {
    save->ok = save->ok && files_make_folders(save->parent, save->error);
    if (!save->ok) return;
    remove_leftovers(save->parent);
    save->ok = files_remove_tree(save->temporary, save->error) && files_make_folders(save->temporary, save->error);
}

/* Gives the finished folder its name and points `latest` at it. If that fails, all is as it was before. */
static void publish(Save *save) {
    save->ok = save->ok && files_sync_folder(save->temporary, save->error);
    if (!save->ok) return;
    bool replaces = files_is_folder(save->final);
    save->ok = !replaces ||
               (files_remove_tree(save->aside, save->error) && files_rename(save->final, save->aside, save->error));
    if (!save->ok) return;
    bool placed = files_rename(save->temporary, save->final, save->error);
    save->ok = placed && files_sync_folder(save->parent, save->error) &&
               checkpoint_point_latest(save->parent, strrchr(save->final, '/') + 1, save->error);
    if (!save->ok) {
        if (placed) files_rename(save->final, save->temporary, NULL);
        if (replaces) files_rename(save->aside, save->final, NULL);
        return;
    }
    /* Old and new are both whole, so `latest` may name either after a power cut, and a failure here does not fail the
     * save. */
    Error error;
    if (!files_sync_folder(save->parent, &error)) warn("%s is saved, but: %s", save->final, error.text);
}

/* Renames the folder to a temporary name first: a half removed folder must not look like a checkpoint. */
static void remove_checkpoint(const char *checkpoints, const char *name) {
    Error error;
    char *path = format_string("%s/%s", checkpoints, name);
    char *temporary = format_string("%s/" TEMPORARY_PREFIX "%s", checkpoints, name);
    if (!files_rename(path, temporary, &error) || !files_remove_tree(temporary, &error))
        warn("an old checkpoint stays: %s", error.text);
    free(path);
    free(temporary);
}

/* Removes all but the newest `keep` steps (0: removes none of them), and old checkpoints that were set aside and have a
 * replacement by now. Never removes what `latest` names. */
static void prune(const char *checkpoints, int keep) {
    int count, kept = 0;
    CheckpointFolder *folders = checkpoint_folders(checkpoints, &count);
    int latest = checkpoint_latest(checkpoints, folders, count);
    for (int i = 0; i < count; i++) {
        bool replaced = folders[i].aside && i > 0 && folders[i - 1].step == folders[i].step;
        bool old = keep > 0 && !replaced && kept++ >= keep;
        if (i != latest && (replaced || old)) remove_checkpoint(checkpoints, folders[i].name);
    }
    free(folders);
}

static void write_checkpoint(Save *save, int keep) {
    begin(save);
    save_weights(save, CHECKPOINT_WEIGHTS, MODEL_FILE);
    if (save->source->has_ema) save_weights(save, CHECKPOINT_EMA, EMA_FILE);
    save_optimizer(save);
    if (!save->ok) return;
    save_model_texts(save);
    save_algorithms(save);
    save_trainer(save);
    publish(save);
    if (save->ok) prune(save->parent, keep);
}

/* Begins a save to the new folder `name` in `parent`. */
static void open_save(Save *save, const CheckpointSource *source, const char *parent, const char *name, bool writer,
                      Error *error) {
    *save =
        (Save){.source = source, .ok = writer, .error = error, .files = cJSON_CreateObject(), .type = DTYPE_FLOAT32};
    if (writer) {
        size_t bytes = tensor_table_largest(source->table) * sizeof(float);
        save->host = checked_malloc(bytes, "a tensor to save");
        save->transposed = checked_malloc(bytes, "a tensor to save, transposed");
    }
    save->parent = checked_strdup(parent);
    save->temporary = format_string("%s/" TEMPORARY_PREFIX "%s", parent, name);
    save->final = format_string("%s/%s", parent, name);
    save->aside = format_string("%s" ASIDE_SUFFIX, save->final);
}

/* Frees everything except the source. Returns false on a writer that failed. */
static bool close_save(Save *save, bool writer) {
    if (writer && !save->ok) files_remove_tree(save->temporary, NULL);
    cJSON_Delete(save->files);
    free(save->parent);
    free(save->temporary);
    free(save->final);
    free(save->aside);
    free(save->host);
    free(save->transposed);
    return !writer || save->ok;
}

bool checkpoint_save(const CheckpointSource *source, const char *out_dir, int keep, bool writer,
                     char path[CHECKPOINT_PATH_LENGTH], Error *error) {
    Save save;
    char name[CHECKPOINT_NAME_LENGTH], *checkpoints = format_string("%s/" CHECKPOINTS_FOLDER, out_dir);
    snprintf(name, sizeof name, STEP_FORMAT, source->step);
    open_save(&save, source, checkpoints, name, writer, error);
    free(checkpoints);
    if (snprintf(path, CHECKPOINT_PATH_LENGTH, "%s", save.final) >= CHECKPOINT_PATH_LENGTH && writer)
        save.ok = error_set(error, "the path %s is longer than %d characters", save.final, CHECKPOINT_PATH_LENGTH);
    write_checkpoint(&save, keep);
    return close_save(&save, writer);
}

bool checkpoint_export(const CheckpointSource *source, DType type, const char *folder, Error *error) {
    Save save;
    char parent[CHECKPOINT_PATH_LENGTH];
    const char *slash = strrchr(folder, '/'), *name = slash ? slash + 1 : folder;
    files_folder_of(folder, parent, sizeof parent);
    open_save(&save, source, parent, name, true, error);
    save.type = type;
    save.ok = files_make_folders(parent, error) && files_remove_tree(save.temporary, error) &&
              files_make_folders(save.temporary, error);
    save_weights(&save, CHECKPOINT_WEIGHTS, MODEL_FILE);
    if (save.ok) save_model_texts(&save);
    bool placed = save.ok && files_sync_folder(save.temporary, error) && files_rename(save.temporary, folder, error);
    save.ok = placed && files_sync_folder(parent, error);
    if (placed && !save.ok) files_rename(folder, save.temporary, NULL); /* close_save() removes it there */
    return close_save(&save, true);
}
