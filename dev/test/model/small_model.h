/* small_model.h: what the tests of checkpoints share: a small model with odd shapes, a run of it that makes up its
 * numbers, and questions about a folder of checkpoints. */
#ifndef MARS_DEV_TEST_MODEL_SMALL_MODEL_H
#define MARS_DEV_TEST_MODEL_SMALL_MODEL_H

#include "checkpoint/checkpoint.h"
#include "dev/test/test.h"

enum { LAYERS = 2, C = 6, V = 37, T = 5, MAX_EVENTS = 400 };

/* A training run as checkpoint_save sees it. It notes every call of fetch. */
typedef struct SmallRun {
    TensorTable table; /* the caller frees it */
    int version;       /* which numbers its tensors hold */
    int events;
    int which[MAX_EVENTS], tensor[MAX_EVENTS];
    bool with_host; /* fetch was given a place for data */
    CheckpointSource source;
} SmallRun;

EXTERN_C_BEGIN

/* The config that every run saves: it has a number that does not fit a double. */
extern const char small_config_json[];

/* The tensors of a GPT-2 of any size. */
TensorTable small_table(int layers, int64_t c, int64_t v, int64_t t, bool bias);

/* Adds a tensor as a GPT-2 has it: the LM head's without the prefix, hidden matrices transposed in files. */
void small_add(TensorTable *table, const char *name, TensorRole role, int64_t rows, int64_t columns, int64_t padded);

/* Element `i` of a tensor: any bits, so also NaNs and infinities. Not the same for any two versions. */
float small_value(int version, int which, int tensor, size_t i);

/* A run at `step` whose numbers are those of `version`; its source points into *run. */
void small_start(SmallRun *run, int64_t step, int version, bool bias);

/* checkpoint_save on the process that writes. */
bool small_save_run(SmallRun *run, const char *out_dir, int keep, char path[CHECKPOINT_PATH_LENGTH], Error *error);

/* Saves step `step` with the numbers of `version`, and must succeed. */
void small_save(const char *out_dir, int64_t step, int version, int keep);

/* The text of the link `latest`; "" where there is none. */
const char *small_latest(const char *out_dir);

/* Every number of an open checkpoint is that of `version`, bit for bit. */
void assert_holds(const Checkpoint *checkpoint, int version, bool bias);

/* A GPT-2 of the small sizes, but for the keys of the config's model section in this JSON object. */
GPT2Config small_model(const char *keys);

/* The two models are the same in every key that changes what is computed, and in dropout. */
void assert_same_model(const GPT2Config *found, const GPT2Config *expected);

/* The newest whole checkpoint is that of `step`, with the numbers of `version`. */
void assert_newest(const char *out_dir, int64_t step, int version);

/* The names in a folder, sorted, with a blank after each. */
void assert_names(const char *folder, const char *expected);

EXTERN_C_END

#endif
