/* device.cpp: errors, devices and their properties, attributes of kernels, and which launches CUDA would refuse. */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "dev/emu/engine.h"
#include "dev/emu/runtime.h"

namespace emu {

/* ---- errors ---- */

static cudaError_t last_error = cudaSuccess;

/* A launch that was refused and whose error nobody has asked for yet: the program goes on with what is not computed. */
static Site refused_launch;

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

static struct UnseenError {
    ~UnseenError() {
        if (refused_launch.file) report(refused_launch, "the program never asked for the error of the launch");
    }
} unseen_error;

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};
#define ERROR(name, text) \
    { name, #name, text }
static const ErrorText error_texts[] = {
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorUnknown, "unknown error"),
};
#undef ERROR

static ErrorText text_of(cudaError_t error) {
    for (const ErrorText &text : error_texts)
        if (text.error == error) return text;
    return {error, "unrecognized error code", "unrecognized error code"};
}

/* ---- devices ---- */

static const size_t shared_of_processor = 228 << 10;
static const int threads_of_block = 1024, threads_of_processor = 2048, blocks_of_processor = 32;

/* A positive whole number from the environment. */
static size_t setting(const char *name, size_t otherwise) {
    const char *text = std::getenv(name);
    if (!text) return otherwise;
    char *end;
    long long value = std::strtoll(text, &end, 10);
    if (*end || end == text || value < 0) fatal({}, "%s is a whole number, not '%s'", name, text);
    return value;
}

static int device_count() { return static_cast<int>(setting("MARS_EMU_DEVICES", 1)); }
size_t device_memory() { return setting("MARS_EMU_MEMORY", size_t(8) << 30); }

static int device;
int current_device() { return device; }

/* ---- kernels ---- */

static std::map<const void *, size_t> &shared_limits = *new std::map<const void *, size_t>;

size_t kernel_shared_limit(const void *kernel) {
    auto found = shared_limits.find(kernel);
    return found == shared_limits.end() ? SHARED_BYTES : found->second;
}

static bool refuse(const Config &config, cudaError_t error, const char *reason) {
    note(config.site, "launch refused, %s: %s: grid (%u,%u,%u), block (%u,%u,%u), %zu bytes of dynamic shared memory",
         text_of(error).name, reason, config.grid.x, config.grid.y, config.grid.z, config.block.x, config.block.y,
         config.block.z, config.dynamic_shared);
    refused_launch = config.site;
    remember(error);
    return false;
}

bool launch_is_valid(const Config &config, const void *kernel) {
    const dim3 g = config.grid, b = config.block;
    const cudaError_t bad = cudaErrorInvalidConfiguration;
    if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) return refuse(config, bad, "a size is 0");
    if (g.x > 0x7FFFFFFFu || g.y > 65535 || g.z > 65535) return refuse(config, bad, "the grid is too large");
    if (b.x > 1024 || b.y > 1024 || b.z > 64) return refuse(config, bad, "the block is too long");
    if (uint64_t(b.x) * b.y * b.z > threads_of_block) return refuse(config, bad, "more than 1024 threads in a block");
    if (config.dynamic_shared > kernel_shared_limit(kernel))
        return refuse(config, cudaErrorInvalidValue, "more shared memory than cudaFuncSetAttribute() allowed");
    if (!stream_exists(config.stream)) return refuse(config, cudaErrorInvalidResourceHandle, "no such stream");
    return true;
}

void check_argument(const Config &config, int number, const void *pointer) {
    bool fits;
    if (pointer && place_of(pointer, 0, &fits) == Place::PAGEABLE)
        report(config.site, "argument %d (from 0) of the kernel, %p, points to no device memory", number, pointer);
}

} // namespace emu

using namespace emu;

cudaError_t cudaPeekAtLastError() { return refused_launch = {}, last_error; }
cudaError_t cudaGetLastError() {
    cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}
const char *cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char *cudaGetErrorString(cudaError_t error) { return text_of(error).text; }

cudaError_t cudaGetDeviceCount(int *count) {
    *count = device_count();
    return *count ? cudaSuccess : remember(cudaErrorNoDevice);
}

static cudaError_t check_device(int d) {
    return d >= 0 && d < device_count() ? cudaSuccess : remember(cudaErrorInvalidDevice);
}

cudaError_t cudaSetDevice(int d) {
    if (check_device(d)) return cudaErrorInvalidDevice;
    device = d;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *d) { return *d = device, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d) {
    if (check_device(d)) return cudaErrorInvalidDevice;
    std::memset(p, 0, sizeof *p);
    std::snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = device_memory();
    p->sharedMemPerBlock = SHARED_BYTES;
    p->sharedMemPerBlockOptin = SHARED_BYTES_OPT_IN;
    p->sharedMemPerMultiprocessor = shared_of_processor;
    p->reservedSharedMemPerBlock = 1024;
    p->totalConstMem = 64 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 64 << 10;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = threads_of_block;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7FFFFFFF;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsPerMultiProcessor = threads_of_processor;
    p->maxBlocksPerMultiProcessor = blocks_of_processor;
    p->major = 9;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 1 << 20;
    p->memoryBusWidth = 128;
    p->asyncEngineCount = p->concurrentKernels = p->unifiedAddressing = p->streamPrioritiesSupported = 1;
    p->pciBusID = d + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int d) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, d)) return cudaErrorInvalidDevice;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = p.sharedMemPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
        *value = p.regsPerBlock;
        break;
    case cudaDevAttrClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = p.memoryBusWidth;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrUnifiedAddressing:
        *value = p.unifiedAddressing;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrManagedMemory:
        *value = p.managedMemory;
        break;
    case cudaDevAttrCooperativeLaunch:
        *value = p.cooperativeLaunch;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = p.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        *value = p.maxBlocksPerMultiProcessor;
        break;
    default:
        return remember(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int d) {
    if (check_device(d)) return cudaErrorInvalidDevice;
    std::snprintf(id, length, "0000:%02x:00.0", d + 1);
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return run_all_streams(), cudaSuccess; }
cudaError_t cudaDeviceReset() { return run_all_streams(), cudaSuccess; }

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || size_t(value) > SHARED_BYTES_OPT_IN)
        return remember(cudaErrorInvalidValue);
    shared_limits[kernel] = value;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int block_size,
                                                          size_t dynamic_shared) {
    if (block_size < 1 || block_size > threads_of_block) return remember(cudaErrorInvalidValue);
    int by_threads = threads_of_processor / block_size;
    int by_shared = static_cast<int>(shared_of_processor / (dynamic_shared + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    if (*blocks > blocks_of_processor) *blocks = blocks_of_processor;
    return cudaSuccess;
}
