/* memory.cpp: device memory and pinned memory, both from malloc, so that AddressSanitizer puts its redzones around each
 * allocation; and a list of them, by which copies know what a pointer is. */
#include <cstdlib>
#include <cstring>
#include <map>

#include "dev/emu/runtime.h"

namespace emu {

struct Allocation {
    size_t bytes;
    Place place;
    int device;
};
/* By address. Never destroyed, as static destructors of the program may still free. */
static std::map<const char *, Allocation> &allocations = *new std::map<const char *, Allocation>;
static std::map<int, size_t> &allocated = *new std::map<int, size_t>; /* bytes of each device */

Place place_of(const void *memory, size_t bytes, bool *fits) {
    const char *address = static_cast<const char *>(memory);
    *fits = true;
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return Place::PAGEABLE;
    const auto &[start, allocation] = *std::prev(next);
    const size_t offset = address - start;
    if (offset > allocation.bytes || (offset == allocation.bytes && bytes > 0)) return Place::PAGEABLE;
    *fits = bytes <= allocation.bytes - offset;
    return allocation.place;
}

static cudaError_t allocate(void **memory, size_t bytes, Place place) {
    if (!memory) return remember(cudaErrorInvalidValue);
    *memory = nullptr;
    if (bytes == 0) return cudaSuccess;
    const bool on_device = place == Place::DEVICE;
    size_t &used = allocated[current_device()];
    if (on_device && bytes > device_memory() - used) return remember(cudaErrorMemoryAllocation);
    if (posix_memalign(memory, 256, bytes)) return remember(cudaErrorMemoryAllocation);
    std::memset(*memory, 0xFF, bytes);
    allocations[static_cast<char *>(*memory)] = {bytes, place, current_device()};
    if (on_device) used += bytes;
    return cudaSuccess;
}

static cudaError_t release(void *memory, Place place) {
    if (!memory) return cudaSuccess;
    auto found = allocations.find(static_cast<char *>(memory));
    if (found == allocations.end() || found->second.place != place) return remember(cudaErrorInvalidValue);
    run_all_streams();
    if (place == Place::DEVICE) allocated[found->second.device] -= found->second.bytes;
    allocations.erase(found);
    std::free(memory);
    return cudaSuccess;
}

} // namespace emu

using namespace emu;

cudaError_t cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes, Place::DEVICE); }
cudaError_t cudaFree(void *memory) { return release(memory, Place::DEVICE); }
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) { return allocate(memory, bytes, Place::PINNED); }
cudaError_t cudaMallocHost(void **memory, size_t bytes) { return allocate(memory, bytes, Place::PINNED); }
cudaError_t cudaFreeHost(void *memory) { return release(memory, Place::PINNED); }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer) {
    if (!attributes) return remember(cudaErrorInvalidValue);
    bool fits;
    const Place place = place_of(pointer, 1, &fits);
    void *address = const_cast<void *>(pointer);
    *attributes = {place == Place::DEVICE   ? cudaMemoryTypeDevice
                   : place == Place::PINNED ? cudaMemoryTypeHost
                                            : cudaMemoryTypeUnregistered,
                   current_device(), place == Place::PAGEABLE ? nullptr : address, address};
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *total = device_memory();
    *available = *total - allocated[current_device()];
    return cudaSuccess;
}
