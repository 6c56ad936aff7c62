/* checkpoint.h: saves a run's state to disk so that a whole checkpoint is there at every moment, and reads it.
 *
 * out_dir/checkpoints/step_00001000/
 *   model.safetensors, config.json   weights and model in the Hugging Face GPT-2 layout (`transformers` loads the
 *                                    folder): "transformer." names, matrices of the linear layers stored (in, out),
 *                                    zero biases if the model has none. A model that transformers' GPT-2 cannot
 *                                    compute has model_type "mars_gpt", every key of the config's model section that
 *                                    changes what is computed, the same names and layout, and no biases but its own
 *   model_ema.safetensors            the average of the weights, if there is one (train.ema_start), in the same layout
 *   modeling_mars_gpt.py             such a model's code, for transformers with trust_remote_code=True
 *   optimizer.safetensors            "<state>.<tensor>" for each optimizer state, in the shapes of the tensor table, or
 *                                    a vector for a state of one number per row or column
 *   trainer.json                     step, updates, sequences seen, config, optimizer and its state of one number per
 *                                    tensor, size and XXH3 checksum of each other file, and last its own checksum
 *   algorithms.txt                   the matmul algorithms, if the device autotuned them
 *   tokens.json                      copied from the folder of the training data, if it is there
 *   tokenizer_config.json, vocab.json, merges.txt, tokenizer.json
 *                                    the tokenizer for transformers (checkpoint_tokenizer.h)
 * out_dir/checkpoints/latest         symbolic link to the newest whole checkpoint
 *
 * Everything is written under a temporary name, synced, then renamed; `latest` is replaced last. */
#ifndef MARS_CHECKPOINT_CHECKPOINT_H
#define MARS_CHECKPOINT_CHECKPOINT_H

#include "model/gpt2_config.h"
#include "util/base.h"
#include "util/dtype.h"
#include "util/safetensors.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

enum { CHECKPOINT_WEIGHTS = -1, CHECKPOINT_EMA = -2, CHECKPOINT_PATH_LENGTH = 1400 };

/* What is saved. `fetch` copies one tensor of the weights (which = CHECKPOINT_WEIGHTS), of their average
 * (CHECKPOINT_EMA, if has_ema) or of optimizer state number `which` into host memory of tensor.size floats. It is
 * collective: every process calls checkpoint_save, and fetch is called for the same tensors in the same order on all;
 * only on the writer is `host` not NULL. */
typedef struct CheckpointSource {
    int64_t step;      /* the 0-based step that comes next */
    int64_t updates;   /* for the optimizer's bias corrections: less than step if steps were skipped */
    int64_t sequences; /* seen by training: the run goes on in the data from there, also with another batch size */
    GPT2Config model;
    const TensorTable *table;
    const char *config_json; /* the run's config, as config_to_json gives it */
    const char *optimizer;   /* its name */
    bool has_ema;
    int state_count;
    const char *const *state_names;
    bool (*has_state)(void *context, int which, int tensor); /* not every tensor has every state */
    /* The length of a tensor's state that is a vector; 0 if it has the tensor's shape. NULL if all have. */
    size_t (*state_vector)(void *context, int which, int tensor);
    void (*fetch)(void *context, int which, int tensor, float *host);
    void *context;
    int scalar_count; /* states of one number per tensor, table->count numbers each */
    const char *const *scalar_names;
    void (*fetch_scalars)(void *context, int which, double *numbers); /* to host memory, on the writer alone */
    const char *tokens_folder; /* may hold tokens.json and a vocabulary; NULL for none */
    const char *algorithms;    /* of matmuls (kernels/autotune.h); NULL or "" for none */
} CheckpointSource;

/* Writes a checkpoint of `source` below out_dir. First it removes what interrupted saves left. Then it writes the
 * checkpoint and points `latest` at it. Last it removes all but the newest `keep` checkpoints (0: removes none), but
 * never the one that `latest` names.
 *
 * `writer` is true on the one process that touches the disk. `path` receives the new folder's path. On failure it
 * removes what it has written, and no checkpoint that existed before has changed. The other processes always return
 * true: the caller must tell them the writer's result. */
bool checkpoint_save(const CheckpointSource *source, const char *out_dir, int keep, bool writer,
                     char path[CHECKPOINT_PATH_LENGTH], Error *error);

/* Writes the weights of a source, rounded to `type`, and the other files that transformers and --init_from need, to the
 * new folder `folder`. The folder above it must exist, and `folder` must not. For jobs of one process. On failure the
 * folder does not exist or, if a disk that fails does not allow its removal, is whole. */
bool checkpoint_export(const CheckpointSource *source, DType type, const char *folder, Error *error);

/* Removes every checkpoint below out_dir, and nothing else that lies in their folder. */
bool checkpoint_remove_all(const char *out_dir, Error *error);

/* Makes sure, before a run trains for hours, that checkpoints can be saved below out_dir. Tries the steps of a save,
 * makes read-only copies of old checkpoints removable, and renames a folder `latest`, which replaces the link in a copy
 * that followed links. Fails if something cannot be repaired. Only the writer calls this, when no other process reads
 * there any more. */
bool checkpoint_prepare(const char *out_dir, Error *error);

/* Points `latest` at the checkpoint folder `path` below out_dir, from which a run goes on, if `latest` names no
 * checkpoint that is there. A damaged one keeps `latest` until the next save: perhaps it only could not be read for a
 * moment. Only the writer calls this, when no other run writes there. */
bool checkpoint_repair_latest(const char *out_dir, const char *path, Error *error);

/* A checkpoint that has been opened and found whole. */
typedef struct Checkpoint {
    char path[CHECKPOINT_PATH_LENGTH];
    int64_t step, updates, sequences; /* sequences: step x total_batch_size if an older version wrote it */
    char optimizer[64];
    SafetensorsFile model, state; /* state.count is 0 if there is no optimizer.safetensors */
    SafetensorsFile ema;          /* ema.count is 0 if there is no average of the weights */
    struct cJSON *scalars;        /* NULL if there are none */
    struct cJSON *config;         /* of the run that wrote it */
} Checkpoint;

/* Whether out_dir holds at least one checkpoint, whole or not, or a link to one that is no longer there. */
bool checkpoint_exists(const char *out_dir);

/* Opens the newest whole checkpoint below out_dir: `latest`, or, if that is damaged, the newest older one that is
 * whole, with a warning about each damaged one. Without a usable `latest`, the highest step is newest. */
bool checkpoint_open_newest(Checkpoint *checkpoint, const char *out_dir, Error *error);

/* Opens the checkpoint folder `path` and verifies the sizes and checksums of every file that trainer.json lists, and
 * trainer.json's own. The tensors of model, state and ema can be read until checkpoint_close(). After a failure there
 * is nothing to close. */
bool checkpoint_open(Checkpoint *checkpoint, const char *path, Error *error);
void checkpoint_close(Checkpoint *checkpoint);

/* Compares the files of a folder that say what tokens mean, as far as they are there, with the checksums in trainer.json,
 * if the folder has one. */
bool checkpoint_verify_tokenizer(const char *folder, Error *error);

/* Reads the optimizer state called `state` ("m") of tensor `tensor` into host memory of tensor.size floats. */
bool checkpoint_read_state(const Checkpoint *checkpoint, const TensorTable *table, const char *state, int tensor,
                           float *host, Error *error);

/* The same for a state that is a vector of `length` numbers. */
bool checkpoint_read_state_vector(const Checkpoint *checkpoint, const TensorTable *table, const char *state, int tensor,
                                  size_t length, float *host, Error *error);

/* Reads the state of one number per tensor that is called `name` ("snr"), table->count numbers. */
bool checkpoint_read_scalars(const Checkpoint *checkpoint, const TensorTable *table, const char *name, double *numbers,
                             Error *error);

/* The algorithms of matmuls that the checkpoint's run used, as text which the caller frees; NULL for none. */
char *checkpoint_read_algorithms(const Checkpoint *checkpoint);

/* ---- weights, of a checkpoint or published by others (checkpoint_weights.c) ---- */

/* Opens the weights that `path` names: a safetensors file, the index of a set of them (NAME.index.json), or a folder
 * with model.safetensors or model.safetensors.index.json in it. Files that a trainer.json next to them lists must have
 * the checksums that it records. The message about another format says how to convert it. */
bool checkpoint_open_weights(SafetensorsFile *file, const char *path, Error *error);

/* Whether the weights in `file` are those of a model with this table: every tensor is there in the right shape, and no
 * tensor would be ignored silently, such as those of further layers, or biases other than 0 or an LM head for which the
 * table has no place. Position embeddings may have more rows than the table's. The message has at most five lines: how
 * many tensors are missing or have another shape, the first ones, and the keys to set. */
bool checkpoint_check_weights(const SafetensorsFile *file, const TensorTable *table, Error *error);

/* Reads tensor `tensor` of the table into host memory of tensor.size floats, from a file with the table's names, with
 * or without prefixes, in transformers' or nanoGPT's layout. */
bool checkpoint_read_weights(const SafetensorsFile *file, const TensorTable *table, int tensor, float *host,
                             Error *error);

/* Whether all numbers of a tensor that was read from the file are finite. With a NaN or infinity in its weights a model
 * computes nothing else. */
bool checkpoint_check_finite(const SafetensorsFile *file, const Tensor *tensor, const float *host, Error *error);

/* Whether the file has biases, zero or not, other than the LM head's. */
bool checkpoint_has_biases(const SafetensorsFile *file);

/* Rows of the file's position embedding; 0 without one. */
int64_t checkpoint_positions(const SafetensorsFile *file);

/* ---- the model that comes with weights (checkpoint_config.c) ---- */

/* Reads the model from the config.json in a folder, of model_type "gpt2" or "mars_gpt". Keys that a "gpt2" lacks have
 * transformers' defaults; a "mars_gpt" must have all. Fails if the folder asks for something that we do not compute,
 * such as another activation. The config.json of a GPT-2 does not say whether it has biases: in our checkpoints
 * trainer.json does; otherwise the model has them if `weights` does, or if that is NULL. Warns if trainer.json records
 * another config.json. */
bool checkpoint_read_model_config(GPT2Config *config, const char *folder, const SafetensorsFile *weights, Error *error);

EXTERN_C_END

#endif
