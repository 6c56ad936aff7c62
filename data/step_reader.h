/* step_reader.h: the sequences of each training step that one process computes.
 *
 * Step after step takes the next `total` sequences of the run; this process has `count` of them, the first `offset` after
 * the step's first. loader.h says which tokens a sequence holds. */
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
    int ahead;            /* how many steps after the current one are needed with it: 0 or 1 */
    int64_t step;         /* the next step to be read */
    int64_t sequence;     /* its first sequence */
    StepTokens tokens[2]; /* of step s: tokens[s % 2] */
} StepReader;

EXTERN_C_BEGIN

/* A reader for one of `ranks` ranks, which begins with `step`, whose first sequence is `sequence`. `total`: sequences of a
 * step over all ranks, a multiple of `ranks`; `ahead`: see StepReader. The loader must outlive it; there is nothing to
 * close. */
StepReader step_reader_create(Loader *loader, int total, int rank, int ranks, int ahead, int64_t step,
                              int64_t sequence);

/* Makes the tokens of `step`, and of the `ahead` steps after it, ready, and lets the loader read on. To be called for one
 * step after the other. Before it returns true the step should not begin: then a step that has begun has all it needs. */
bool step_reader_read(StepReader *reader, int64_t step, Error *error);

EXTERN_C_END

#endif
