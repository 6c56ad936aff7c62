/* stream.h: streams, which run as late as CUDA allows.
 *
 * Work that is queued runs when something has to wait for it: a synchronisation, an event that is waited for, a copy to
 * memory that is not pinned, freeing memory. What a program forgot to wait for has then not happened yet, and it reads
 * NaN or old numbers; a buffer of the host that it used again too early has its new content when it is read. */
#ifndef MARS_EMU_STREAM_H
#define MARS_EMU_STREAM_H
#ifdef __cplusplus

#include <functional>

#include "dev/emu/include/cuda_runtime_api.h"

namespace emu {

/* Queues work on a stream; NULL is the default stream, which waits for all blocking streams and they for it. The work
 * runs in the host's thread, and may neither queue nor wait. A stream that does not exist ends the program. */
void enqueue(cudaStream_t stream, std::function<void()> work);

/* Moves the clock that events read: for work that must seem slower, or faster, than it is. */
void move_clock(double seconds);

} // namespace emu

#endif
#endif
