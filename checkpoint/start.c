/* start.c: see start.h. Rank 0 looks at the disk and tells the other ranks what it found, so that all begin alike. */
#include "checkpoint/start.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint_gpt2.h"
#include "checkpoint/checkpoint_layout.h"
#include "checkpoint/checkpoint_optim.h"
#include "config/config_model.h"
#include "util/files.h"

/* What rank 0 found: without pointers, so that it can be broadcast. */
typedef struct Found {
    char path[CHECKPOINT_PATH_LENGTH], folder[CHECKPOINT_PATH_LENGTH]; /* folder: where config.json lies */
    bool is_checkpoint;
    int64_t step, sequences;
    char optimizer[64];
    bool has_model;        /* there is a config.json */
    bool bias_is_recorded; /* next to it is a trainer.json, which records biases */
    GPT2Config model;
    int64_t positions; /* positions that the weights have embeddings for */
} Found;

static void find_checkpoint(Found *found, const char *out_dir) {
    Error error;
    Checkpoint checkpoint;
    if (!checkpoint_open_newest(&checkpoint, out_dir, &error)) die("%s", error.text);
    if (!checkpoint_read_model_config(&found->model, checkpoint.path, &checkpoint.model, &error)) die("%s", error.text);
    snprintf(found->path, sizeof found->path, "%s", checkpoint.path);
    snprintf(found->folder, sizeof found->folder, "%s", checkpoint.path);
    snprintf(found->optimizer, sizeof found->optimizer, "%s", checkpoint.optimizer);
    found->is_checkpoint = found->has_model = found->bias_is_recorded = true;
    found->step = checkpoint.step;
    found->sequences = checkpoint.sequences;
    checkpoint_close(&checkpoint);
}

static void find_weights(Found *found, const char *path) {
    Error error;
    SafetensorsFile file;
    if (!checkpoint_open_weights(&file, path, &error))
        die("train.init_from: %s%s", error.text,
            access(path, F_OK) == 0 ? "" : "; config/finetune.json says how published weights are downloaded");
    snprintf(found->path, sizeof found->path, "%s", path);
    files_folder_of(file.path, found->folder, sizeof found->folder);
    found->has_model = files_has(found->folder, CONFIG_FILE);
    found->bias_is_recorded = files_has(found->folder, TRAINER_FILE);
    found->positions = checkpoint_positions(&file);
    if (found->has_model && !checkpoint_read_model_config(&found->model, found->folder, &file, &error))
        die("train.init_from: %s", error.text);
    safetensors_close(&file);
}

static bool may_resume(const TrainConfig *train) {
    return strcmp(train->init_from, "resume") == 0 || strcmp(train->init_from, "auto") == 0;
}

/* Ends the program if a run that begins anew would mix with the checkpoints of an older one. */
static void refuse_to_mix(const TrainConfig *train) {
    if (may_resume(train) || train->eval_only || train->overwrite || !checkpoint_exists(train->out_dir)) return;
    die("train.out_dir: %s holds the checkpoints of an earlier run; resume it with --init_from=resume, replace it "
        "with --overwrite=true, or choose another folder",
        train->out_dir);
}

/* Finds what init_from names. In a job, rank 0 calls this for all ranks. */
static void find(Found *found, const TrainConfig *train) {
    bool exists = may_resume(train) && checkpoint_exists(train->out_dir);
    if (strcmp(train->init_from, "resume") == 0 && !exists)
        die("train.init_from is \"resume\", but %s holds no checkpoint; expected that of an earlier run; correct "
            "train.out_dir, or set train.init_from to auto to begin anew where there is none",
            train->out_dir);
    if (exists)
        find_checkpoint(found, train->out_dir);
    else if (!may_resume(train) && strcmp(train->init_from, "scratch") != 0)
        find_weights(found, train->init_from);
}

/* ---- the config and what was found ---- */

static void take_model(Config *config, const Found *found) {
    Error error;
    const ConfigTake take = {.may_change_block_size = !found->is_checkpoint,
                             .may_drop_bias = !found->is_checkpoint && !found->bias_is_recorded};
    char *file = format_string("%s/" CONFIG_FILE, found->folder);
    Config other = *config; /* has no given keys, so it fails only if the folder is wrong */
    memset(other.origins, CONFIG_DEFAULT, sizeof other.origins);
    if (!config_take_model(&other, &found->model, file, take, &error)) die("%s", error.text);
    if (!config_take_model(config, &found->model, file, take, &error)) die_usage("%s", error.text);
    free(file);
}

static void check_optimizer(const Config *config, const Found *found) {
    const char *name = optim_names[config->optimizer.name];
    if (config->train.eval_only || strcmp(found->optimizer, name) == 0) return;
    die_usage("%s: optimizer.name is %s, but %s was written by optimizer %s; start a new run from its weights with "
              "--init_from=%s and another train.out_dir",
              config_where(config, "optimizer.name"), name, found->path, found->optimizer, found->path);
}

static void take_found(Config *config, const Found *found) {
    if (found->is_checkpoint) check_optimizer(config, found);
    if (found->has_model) take_model(config, found);
}

/* A line about weights that were not taken unchanged, or NULL. */
static char *note_about(const Found *found, const GPT2Config *model) {
    bool is_cropped = found->positions > model->block_size;
    if (found->is_checkpoint || !found->path[0] || (found->has_model && !is_cropped)) return NULL;
    char *cropped = is_cropped ? format_string(": the first %d of %" PRId64 " position embeddings", model->block_size,
                                               found->positions)
                               : checked_strdup("");
    char *note = format_string("%s%s%s", found->path, cropped,
                               found->has_model ? ""
                                                : "; there is no config.json next to it: only shapes are compared, and "
                                                  "what they do not show, such as n_head, is as configured");
    free(cropped);
    return note;
}

void start_find(Start *start, Config *config, Comm *comm) {
    memset(start, 0, sizeof *start);
    Found *found = checked_calloc(1, sizeof *found, "where the run begins");
    if (comm->rank == 0) {
        refuse_to_mix(&config->train);
        find(found, &config->train);
    }
    comm->broadcast(comm, found, sizeof *found);
    take_found(config, found);
    memcpy(start->path, found->path, sizeof start->path);
    start->resumed_from = found->is_checkpoint ? found->step : -1;
    start->step = found->step;
    start->sequences = found->sequences;
    start->weights_note = note_about(found, &config->model);
    free(found);
}

/* Gives the model keys the values that start_find() would give them. */
static void find_model(Config *config) {
    Found *found = checked_calloc(1, sizeof *found, "where the run would begin");
    find(found, &config->train);
    take_found(config, found);
    free(found);
}

void start_answer_print_config(int argc, char **argv) {
    Error error;
    Config config, shared;
    if (!config_remove_print_config(&argc, argv)) return;
    config_require_file(argc, argv, true);
    if (!config_read(&config, argv[1], argc - 2, argv + 2, &error)) die_usage("%s", error.text);
    find_model(&config);
    if (!config_check(&config, &error)) die_usage("%s", error.text);
    shared = config;
    if (!config_resolve(&shared, 1, &error)) die_usage("%s", error.text); /* no number of ranks can share the batch */
    config_print(stdout, &config);
    config_end_answered();
}

/* ---- loading ---- */

static void load_checkpoint(Start *start, const Config *config, GPT2 *model, Optim *optim) {
    Error error;
    Checkpoint checkpoint;
    if (!checkpoint_open(&checkpoint, start->path, &error)) die("%s", error.text);
    if (!checkpoint_load_gpt2(model, &checkpoint.model, &error)) die("%s", error.text);
    if (optim && !checkpoint_into_optim(&checkpoint, &model->table, config->optimizer.name, optim, &error))
        die("%s", error.text);
    int64_t ema_start = config->train.ema_start;
    bool has_ema = optim && ema_start > 0 && checkpoint.step >= ema_start;
    if (has_ema && checkpoint.step == ema_start)
        optim_update_ema(optim, 0.0); /* it begins at this step, even if the checkpoint has one */
    else if (has_ema && !checkpoint_into_ema(&checkpoint, &model->table, optim, &error))
        die("%s", error.text);
    start->algorithms = checkpoint_read_algorithms(&checkpoint);
    start->changes = config_changes(config, checkpoint.config);
    checkpoint_close(&checkpoint);
}

static void load_weights(const char *path, GPT2 *model) {
    Error error;
    SafetensorsFile file;
    if (!checkpoint_open_weights(&file, path, &error)) die("train.init_from: %s", error.text);
    if (!checkpoint_load_gpt2(model, &file, &error)) die("train.init_from: %s", error.text);
    safetensors_close(&file);
}

void start_load(Start *start, const Config *config, GPT2 *model, Optim *optim) {
    if (start->resumed_from >= 0)
        load_checkpoint(start, config, model, optim);
    else if (start->path[0])
        load_weights(start->path, model);
    else
        gpt2_init_weights(model, config->train.seed);
}

void start_free(Start *start) {
    free(start->algorithms);
    free(start->weights_note);
    free(start->changes);
    start->algorithms = start->weights_note = start->changes = NULL;
}
