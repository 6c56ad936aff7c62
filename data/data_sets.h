/* data_sets.h: the data sets of one run: opened together, since they must have one tokenizer. */
#ifndef MARS_DATA_DATA_SETS_H
#define MARS_DATA_DATA_SETS_H

#include "data/hellaswag.h"
#include "data/loader.h"

typedef struct DataSets {
    Loader *train, *val;
    Hellaswag *hellaswag; /* NULL if the run has none */
} DataSets;

/* What the config says of them, and where this process stands among those of its machine. */
typedef struct DataSetsOptions {
    const char *train, *val; /* files or patterns */
    const char *hellaswag;   /* a file, or "" */
    DataOrder order;         /* of the training set; validation is sequential */
    uint64_t seed;
    int block_size, vocab_size;
    int train_sequences, val_sequences; /* the largest batches that a call may read */
    int local_rank, local_size;
} DataSetsOptions;

EXTERN_C_BEGIN

/* Opens all of them and looks into each file (loader_sample), the processes of a machine together. Fails, with the key of
 * the config, if one cannot be used, and if tokens.json next to the files records that different tokenizers made them.
 * Warns if a pattern matches training and validation files, or if a file is in both sets. Starts as {0};
 * data_sets_close() ends it, also after a failure. */
bool data_sets_open(DataSets *sets, const DataSetsOptions *options, Error *error);
void data_sets_close(DataSets *sets);

EXTERN_C_END

#endif
