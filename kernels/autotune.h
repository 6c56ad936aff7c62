/* autotune.h: autotunes the matmul algorithms of a run (backend.h). Rank 0 times them once: those of the matmuls
 * between the two calls. The checkpoint keeps them, so that a resumed run repeats bit for bit. A cache folder of the
 * user keeps them too, so that the next run need not time them again. */
#ifndef MARS_KERNELS_AUTOTUNE_H
#define MARS_KERNELS_AUTOTUNE_H

#include "kernels/backend.h"

EXTERN_C_BEGIN

/* Takes the algorithms in `text` (a checkpoint's; may be NULL; warns if they are not valid here), then those in the
 * cache. From now on the first matmul of every other shape is timed. Only rank 0 calls the two functions. */
void autotune_begin(Backend *be, const char *text);

/* Ends the timing. Writes all algorithms to the cache and returns them as text, which the caller frees. The caller
 * sends the text to the other ranks (agree_on_text()), which read it with be->read_algorithms(). */
char *autotune_end(Backend *be);

EXTERN_C_END

#endif
