/* data_sets.h: opens the data sets of one run together, since all of them must have the same tokenizer. */
#ifndef MARS_DATA_DATA_SETS_H
#define MARS_DATA_DATA_SETS_H

#include "data/hellaswag.h"
#include "data/loader.h"

typedef struct DataSets {
    Loader *train, *val;
    Hellaswag *hellaswag; /* NULL if the run has none */
} DataSets;

/* The config's data sets, and the rank of this process on its machine. */
typedef struct DataSetsOptions {
    const char *train, *val; /* files or patterns */
    const char *hellaswag;   /* a file, or "" */
    DataOrder order;         /* of the training set; validation is sequential */
    uint64_t seed;
    int block_size, vocab_size;
    int train_sequences, val_sequences; /* sequences of the largest batch that one call reads */
    int local_rank, local_size;
} DataSetsOptions;

EXTERN_C_BEGIN

/* Opens all data sets and looks into each file (loader_sample); the processes of a machine share the files. Fails, with
 * the key of the config, if a set cannot be used, or if tokens.json next to the files records different tokenizers. Not
 * collective: a process whose part of a file is wrong fails alone, and the caller must then end the job. Warns if a
 * pattern matches training and validation files, or if a file is in both sets. `sets` starts as {0}; data_sets_close()
 * frees it, also after a failure. */
bool data_sets_open(DataSets *sets, const DataSetsOptions *options, Error *error);
void data_sets_close(DataSets *sets);

EXTERN_C_END

#endif
