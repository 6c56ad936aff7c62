/* checkpoint.h: a run's state on disk, and how it gets there without ever being half there.
 *
 * out_dir/checkpoints/step_00001000/
 *   model.safetensors, config.json   weights and shape in the Hugging Face GPT-2 layout (`transformers` loads the
 *                                    folder): "transformer." names, matrices of the linear layers stored (in, out),
 *                                    zero biases where the model has none
 *   optimizer.safetensors            "<state>.<tensor>" for each optimizer state, in the shapes of the tensor table
 *   trainer.json                     step, updates, config, optimizer and its state of one number per tensor, size
 *                                    and XXH3 checksum of each other file, and last its own checksum
 *   algorithms.txt                   which algorithms multiply matrices, where the device chose them by timing
 *   tokens.json and vocabulary files copied from beside the training data, where they are there
 * out_dir/checkpoints/latest         symbolic link to the newest whole one
 * Everything is written under a temporary name, synced, then renamed; `latest` is replaced last. */
#ifndef MARS_MODEL_CHECKPOINT_H
#define MARS_MODEL_CHECKPOINT_H

#include "model/gpt2_config.h"
#include "model/safetensors.h"
#include "util/base.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

enum { CHECKPOINT_WEIGHTS = -1, CHECKPOINT_PATH_LENGTH = 1400 };

/* What is saved. `fetch` copies one tensor of the weights (which = CHECKPOINT_WEIGHTS) or of optimizer state number
 * `which` into host memory of tensor.size floats. It is collective: every process calls checkpoint_save, and fetch
 * is called for the same tensors in the same order on all; only on the writer is `host` not NULL. */
typedef struct CheckpointSource {
    int64_t step;
    int64_t updates; /* of the optimizer: less than step where steps were skipped */
    GPT2Config model;
    const TensorTable *table;
    const char *config_json; /* the run's config, as config_to_json gives it */
    const char *optimizer;   /* its name */
    int state_count;
    const char *const *state_names;
    bool (*has_state)(void *context, int which, int tensor); /* not every tensor has every state */
    void (*fetch)(void *context, int which, int tensor, float *host);
    void *context;
    int scalar_count; /* state of one number per tensor: kinds of it, their names, table->count numbers each */
    const char *const *scalar_names;
    double *const *scalars;
    const char *tokens_folder; /* where tokens.json may lie; NULL for none */
    const char *algorithms;    /* of matrix products (algorithms.h); NULL or "" for none */
} CheckpointSource;

/* Writes a checkpoint of `source` below out_dir, points `latest` at it and removes all but the newest `keep` (0: all
 * stay; also what an interrupted save left behind). `writer` is true on the one process that touches the disk.
 * On failure nothing that existed before has changed. `path` receives the new folder's path. The other processes
 * always get true: the caller tells them how it went. */
bool checkpoint_save(const CheckpointSource *source, const char *out_dir, int keep, bool writer,
                     char path[CHECKPOINT_PATH_LENGTH], Error *error);

/* Removes every checkpoint below out_dir. */
bool checkpoint_remove_all(const char *out_dir, Error *error);

/* A checkpoint that has been opened and found whole. */
typedef struct Checkpoint {
    char path[CHECKPOINT_PATH_LENGTH];
    int64_t step, updates;
    char optimizer[64];
    SafetensorsFile model, state; /* state.count is 0 where there is no optimizer.safetensors */
    struct cJSON *scalars;        /* NULL where there are none */
} Checkpoint;

/* True where out_dir holds at least one checkpoint, whole or not. */
bool checkpoint_exists(const char *out_dir);

/* Opens the newest whole checkpoint below out_dir: `latest`, and where that is damaged the next older ones, with a
 * warning that says what was wrong with each one passed over. Without a usable `latest`, the highest step is newest. */
bool checkpoint_open_newest(Checkpoint *checkpoint, const char *out_dir, Error *error);

/* Opens the checkpoint folder `path` and verifies the sizes and checksums of every file that trainer.json lists, and
 * trainer.json's own. */
bool checkpoint_open(Checkpoint *checkpoint, const char *path, Error *error);
void checkpoint_close(Checkpoint *checkpoint);

/* Reads the optimizer state called `state` ("m") of tensor `tensor` into host memory of tensor.size floats. */
bool checkpoint_read_state(const Checkpoint *checkpoint, const TensorTable *table, const char *state, int tensor,
                           float *host, Error *error);

/* Reads the state of one number per tensor that is called `name` ("snr"), table->count numbers. */
bool checkpoint_read_scalars(const Checkpoint *checkpoint, const TensorTable *table, const char *name, double *numbers,
                             Error *error);

/* The algorithms of matrix products that the checkpoint's run used, as text which the caller frees; NULL for none. */
char *checkpoint_read_algorithms(const Checkpoint *checkpoint);

/* Whether the weights in `file` are those of a model with this table: every tensor there in the right shape, and
 * nothing that would be left out silently, such as further layers, biases other than 0 where the table has none, or
 * a separate lm_head. The message lists every tensor that is missing or has another shape. */
bool checkpoint_check_weights(const SafetensorsFile *file, const TensorTable *table, Error *error);

/* Reads tensor `tensor` of the table from a safetensors file with GPT-2's names, with or without "transformer.",
 * into host memory of tensor.size floats, transposing what Hugging Face stores (in, out). */
bool checkpoint_read_weights(const SafetensorsFile *file, const TensorTable *table, int tensor, float *host,
                             Error *error);

/* Opens the weights that `path` names: a safetensors file, or a folder with model.safetensors in it. */
bool checkpoint_open_weights(SafetensorsFile *file, const char *path, Error *error);

/* Reads the shape of the model in a checkpoint folder from its config.json. `has_bias` is not stored there: it is
 * taken from trainer.json, or true where that is missing (a model published by others). */
bool checkpoint_read_model_config(GPT2Config *config, const char *path, Error *error);

EXTERN_C_END

#endif
