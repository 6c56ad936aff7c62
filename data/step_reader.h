/* step_reader.h: reads the sequences of each training step for one process.
 *
 * Each step takes the next `total` sequences of the run. This process reads `count` of them, from the step's sequence
 * number `offset` on. loader.h says which tokens a sequence holds. */
#ifndef MARS_DATA_STEP_READER_H
#define MARS_DATA_STEP_READER_H

#include "data/loader.h"

/* This process's sequences of one step: (count, T) each, owned by the loader. */
typedef struct StepTokens {
    const int32_t *inputs, *targets;
} StepTokens;

typedef struct StepReader {
    Loader *loader;
    int total, offset, count;
    int ahead;            /* 1 if a step also needs the tokens of the next step, else 0 */
    int64_t step;         /* the next step to be read */
    int64_t sequence;     /* its first sequence */
    StepTokens tokens[2]; /* of step s: tokens[s % 2] */
} StepReader;

EXTERN_C_BEGIN

/* Returns the reader of one of `ranks` ranks, which begins with `step`, whose first sequence is `sequence`. `total`:
 * sequences of a step over all ranks, a multiple of `ranks`; `ahead`: see StepReader. The loader must outlive the
 * reader, which need not be closed. */
StepReader step_reader_create(Loader *loader, int total, int rank, int ranks, int ahead, int64_t step,
                              int64_t sequence);

/* Reads the tokens of `step`, and of the `ahead` steps after it, and lets the loader read ahead. Call it for one step
 * after the other, before the step begins: a step may begin only if it returns true. */
bool step_reader_read(StepReader *reader, int64_t step, Error *error);

EXTERN_C_END

#endif
