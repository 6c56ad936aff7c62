/* runtime.h: what the files of the runtime need of each other: errors, devices, allocations, kernel attributes. */
#ifndef MARS_EMU_RUNTIME_H
#define MARS_EMU_RUNTIME_H
#ifdef __cplusplus

#include <cstddef>

#include "dev/emu/include/cuda_runtime_api.h"
#include "dev/emu/report.h"

namespace emu {

/* Shared memory of a block, and of one whose kernel asked for more by cudaFuncSetAttribute(). */
static const size_t SHARED_BYTES = 48 << 10, SHARED_BYTES_OPT_IN = 227 << 10;

/* ---- device.cpp ---- */

/* Returns `error`, after making it what cudaGetLastError() returns next; success changes nothing. */
cudaError_t remember(cudaError_t error);

int current_device();
size_t device_memory(); /* bytes of each device */

/* Bytes of dynamic shared memory that the kernel may ask for. */
size_t kernel_shared_limit(const void *kernel);

/* ---- memory.cpp ---- */

enum class Place { PAGEABLE, PINNED, DEVICE };

/* Where [memory, memory + bytes) is. Memory that CUDA did not allocate is pageable. `fits` is false where the range
 * goes past the end of its allocation. */
Place place_of(const void *memory, size_t bytes, bool *fits);

/* ---- stream.cpp ---- */

bool stream_exists(cudaStream_t stream);

/* Runs everything that is queued on the current device. */
void run_all_streams();

/* ---- engine.cpp ---- */

bool running_in_kernel();

/* Whether the order under test goes from last to first. */
bool order_is_descending();

} // namespace emu

#endif
#endif
