/* autotune.h: autotunes the matmul algorithms of a run (backend.h). Rank 0 times them once. The checkpoint keeps them,
 * so that a resumed run repeats bit for bit, and so does a cache folder of the user, so that the next run need not time
 * them again. The matmuls between the two calls are timed. */
#ifndef MARS_KERNELS_AUTOTUNE_H
#define MARS_KERNELS_AUTOTUNE_H

#include "kernels/backend.h"

EXTERN_C_BEGIN

/* Takes the algorithms in `text` (a checkpoint's; may be NULL), then those in the cache. From now on the first matmul
 * of every other shape is timed. Rank 0 alone calls autotune_begin() and autotune_end(). */
void autotune_begin(Backend *be, const char *text);

/* Ends the timing. Returns all algorithms as text, which the caller frees, and adds them to the cache. The caller hands
 * the text to the other ranks (agree_on_text()), which take it by be->read_algorithms(). */
char *autotune_end(Backend *be);

EXTERN_C_END

#endif
