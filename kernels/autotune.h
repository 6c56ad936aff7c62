/* autotune.h: which algorithms multiply a run's matrices (backend.h): found by timing once on rank 0, and kept in the
 * checkpoint, so that a resumed run repeats bit for bit, and in a cache folder of the user, so that the next run need
 * not time them again. What is timed is whatever the caller multiplies between the two calls. */
#ifndef MARS_KERNELS_AUTOTUNE_H
#define MARS_KERNELS_AUTOTUNE_H

#include "kernels/backend.h"

EXTERN_C_BEGIN

/* Takes the algorithms in `text` (a checkpoint's; may be NULL), then those in the cache. From here on the first matmul
 * of every other shape is timed. */
void autotune_begin(Backend *be, const char *text);

/* Ends it. Returns all algorithms as text, which the caller frees, and adds them to the cache. */
char *autotune_end(Backend *be);

EXTERN_C_END

#endif
