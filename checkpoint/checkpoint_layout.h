/* checkpoint_layout.h: what the files that write and read checkpoints (checkpoint_*.c) share: the names in the folder,
 * what Hugging Face's layout needs besides the fields of the tensor table, and trainer.json with its seal. For these
 * files only. */
#ifndef MARS_CHECKPOINT_CHECKPOINT_LAYOUT_H
#define MARS_CHECKPOINT_CHECKPOINT_LAYOUT_H

#include <inttypes.h>

#include "model/gpt2_config.h"
#include "util/base.h"
#include "util/dtype.h"
#include "util/tensor_table.h"

enum { TRAINER_JSON_VERSION = 1, CHECKPOINT_NAME_LENGTH = 40, CHECKPOINT_SHAPE_LENGTH = 256 };

/* Where the checkpoints of a run lie below its out_dir, and the names in there. */
#define CHECKPOINTS_FOLDER "checkpoints"
#define LATEST_LINK "latest"
#define TEMPORARY_PREFIX ".tmp_" /* of everything that a save has not finished */
#define STEP_FORMAT "step_%08" PRId64
#define ASIDE_SUFFIX ".old" /* of a checkpoint that a new one of the same step replaces */

/* The files of a checkpoint. */
#define MODEL_FILE "model.safetensors"
#define EMA_FILE "model_ema.safetensors"
#define OPTIMIZER_FILE "optimizer.safetensors"
#define CONFIG_FILE "config.json"
#define MODELING_NAME "modeling_mars_gpt" /* of a Python module */
#define MODELING_FILE MODELING_NAME ".py"
#define ALGORITHMS_FILE "algorithms.txt"
#define TRAINER_FILE "trainer.json"

EXTERN_C_BEGIN

/* The text of checkpoint/modeling_mars_gpt.py, which the Makefile makes a C source of. */
extern const char checkpoint_modeling[];

/* A checkpoint folder, by its name alone. */
typedef struct CheckpointFolder {
    int64_t step;
    bool aside; /* has ASIDE_SUFFIX */
    char name[CHECKPOINT_NAME_LENGTH];
} CheckpointFolder;

/* Returns the checkpoint folders in `checkpoints` in a new array that the caller frees: the highest step first, and of
 * two folders of one step the one with ASIDE_SUFFIX last. The array is empty if the folder cannot be read. */
CheckpointFolder *checkpoint_folders(const char *checkpoints, int *count);

/* Index in `folders` of the one that the link `latest` names, or -1. */
int checkpoint_latest(const char *checkpoints, const CheckpointFolder *folders, int count);

/* Makes the link `latest` name the checkpoint folder `name`, in one step. */
bool checkpoint_point_latest(const char *checkpoints, const char *name, Error *error);

/* out (columns, rows) = the transpose of in (rows, columns). */
void checkpoint_transpose(const float *in, int64_t rows, int64_t columns, float *out);

/* Hugging Face's GPT-2 has a bias with every LayerNorm and linear layer but the LM head. If `tensor` is the weight of
 * one and the table has no bias for it, returns the length of the missing bias and writes its name; otherwise 0. */
int64_t checkpoint_missing_bias(const TensorTable *table, const Tensor *tensor, char name[TENSOR_NAME_LENGTH]);

/* The text of config.json for weights of a type, which the caller frees by cJSON_free; `has_end_of_text`: the
 * vocabulary may have GPT-2's <|endoftext|>. */
char *checkpoint_model_config(const GPT2Config *model, DType type, bool has_end_of_text);

/* Writes a shape as "[128, 384]", and returns the text. */
const char *checkpoint_shape_text(char text[CHECKPOINT_SHAPE_LENGTH], const int64_t *shape, int dimensions);

/* Reads a file that holds one JSON object, which the caller deletes; NULL on failure. */
struct cJSON *checkpoint_read_json(const char *path, Error *error);

/* Reads the whole number in [lowest, highest] of that name; the message names the file and the key. */
bool checkpoint_read_number(const struct cJSON *json, const char *path, const char *key, int64_t lowest,
                            int64_t highest, int64_t *value, Error *error);

/* Reads trainer.json of a checkpoint folder and checks everything in it that does not need another file. It has
 * "sequences" also if an older version wrote it. The caller deletes it; NULL on failure. */
struct cJSON *checkpoint_read_trainer(const char *folder, Error *error);

/* Whether the folder has a trainer.json, be it a folder or a link that leads nowhere. */
bool checkpoint_is_in(const char *folder);

/* Compares files of a checkpoint folder with the checksums in trainer.json. A file that is not there, and a file that
 * trainer.json does not list, pass. */
bool checkpoint_verify_some(const char *folder, const char *const *names, size_t count, Error *error);

/* What helps where that fails, as the end of a message. */
#define CHECKPOINT_COPY_AGAIN "; copy the checkpoint again, or take another one"

/* Returns a number that checkpoint_read_trainer() has checked. */
int64_t checkpoint_integer(const struct cJSON *trainer, const char *key);

/* trainer.json ends in a checksum of all that is before it, at a fixed length from the end. Text in and text out are
 * JSON objects; the caller frees the result. */
char *checkpoint_seal(const char *json);
bool checkpoint_seal_is_whole(const char *text, size_t bytes);

EXTERN_C_END

#endif
