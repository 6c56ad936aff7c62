/* cuda_backend.cu: opens the CUDA backend and implements memory, copies, uploads, stopwatches, rounding and scaling.
 * The table's other operations are in the other files of this folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

/* ---- errors ---- */

void cuda_check_launch(const char *kernel) {
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        die("CUDA: cannot launch %s: %s (%s)", kernel, cudaGetErrorString(status), cudaGetErrorName(status));
}

/* ---- memory ---- */

static void *cuda_alloc(Backend *be, size_t bytes, const char *what) {
    void *memory = NULL;
    cudaError_t status = cudaMalloc(&memory, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {
        size_t left = be->memory_left(be);
        die("out of memory on %s: %.2f GB for %s, %.2f GB are left; a smaller batch_size or recompute=\"block\" needs "
            "less",
            be->device, (double)bytes * 1e-9, what, (double)left * 1e-9);
    }
    cuda_check(status, "taking memory");
    be->zero(be, memory, bytes);
    return memory;
}

/* Waits for operations that may still use the memory. */
static void cuda_free(Backend *be, void *memory) {
    if (!memory) return;
    be->synchronize(be);
    cuda_check(cudaFree(memory), "giving memory back");
}

static size_t cuda_memory_left(Backend *be) {
    size_t left = 0, total = 0;
    cuda_check(cudaMemGetInfo(&left, &total), "asking for the memory that is left");
    return left / (size_t)be->memory_sharers;
}

/* Whether the host can follow pointers from cudaMalloc(): only with the emulator, not with a real GPU. */
static bool memory_is_host(void) {
    void *probe = NULL;
    cudaPointerAttributes attributes;
    cuda_check(cudaMalloc(&probe, 1), "taking memory");
    cuda_check(cudaPointerGetAttributes(&attributes, probe), "asking where memory is");
    cuda_check(cudaFree(probe), "giving memory back");
    return attributes.hostPointer != NULL;
}

/* Callers pass pageable host memory: CUDA has copied it to a buffer of its own when the call returns. */
static void cuda_copy_from_host(Backend *be, void *device, const void *host, size_t bytes) {
    if (bytes == 0) return;
    cuda_check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, cuda_stream(be)), "copying to the GPU");
}

static void cuda_copy_to_host(Backend *be, void *host, const void *device, size_t bytes) {
    if (bytes > 0)
        cuda_check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, cuda_stream(be)),
                   "copying from the GPU");
    be->synchronize(be);
}

static void cuda_copy(Backend *be, void *to, const void *from, size_t bytes) {
    if (bytes == 0) return;
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_stream(be)), "copying on the GPU");
}

static void cuda_zero(Backend *be, void *memory, size_t bytes) {
    if (bytes == 0) return;
    cuda_check(cudaMemsetAsync(memory, 0, bytes, cuda_stream(be)), "zeroing memory");
}

static void cuda_synchronize(Backend *be) {
    cuda_check(cudaStreamSynchronize(cuda_stream(be)), "an operation on the GPU");
}

/* cuBLASLt multiplies weights as they are stored: there are no copies to drop. */
static void cuda_invalidate_weights(Backend *be) { (void)be; }

void *cuda_scratch(Backend *be, size_t bytes) {
    CudaBackend *cuda = cuda_backend(be);
    if (cuda->scratch_bytes < bytes) {
        cuda_free(be, cuda->scratch);
        cuda->scratch = cuda_alloc(be, bytes, "working memory");
        cuda->scratch_bytes = bytes;
    }
    return cuda->scratch;
}

/* ---- uploads: batches on a stream of their own, from pinned memory, which the GPU reads without the processor ---- */

enum { UPLOAD_SLOTS = 8 };

/* Host memory for the data of one upload, in use until `done`. */
typedef struct UploadSlot {
    void *pinned;
    size_t bytes;
    cudaEvent_t done;
} UploadSlot;

struct CudaStaging {
    cudaStream_t stream;
    cudaEvent_t asked; /* marks the operations enqueued before an upload */
    UploadSlot slots[UPLOAD_SLOTS];
    int next;
};

static const unsigned NO_TIMING = cudaEventDisableTiming;

static CudaStaging *staging_open(void) {
    CudaStaging *staging = (CudaStaging *)checked_calloc(1, sizeof *staging, "uploads");
    cuda_check(cudaStreamCreateWithFlags(&staging->stream, cudaStreamNonBlocking), "making a stream");
    cuda_check(cudaEventCreateWithFlags(&staging->asked, NO_TIMING), "making an event");
    for (int i = 0; i < UPLOAD_SLOTS; i++)
        cuda_check(cudaEventCreateWithFlags(&staging->slots[i].done, NO_TIMING), "making an event");
    return staging;
}

static void staging_close(CudaStaging *staging) {
    cuda_check(cudaStreamSynchronize(staging->stream), "an upload");
    for (int i = 0; i < UPLOAD_SLOTS; i++) {
        cuda_check(cudaFreeHost(staging->slots[i].pinned), "giving memory back");
        cuda_check(cudaEventDestroy(staging->slots[i].done), "ending an event");
    }
    cuda_check(cudaEventDestroy(staging->asked), "ending an event");
    cuda_check(cudaStreamDestroy(staging->stream), "ending a stream");
    free(staging);
}

/* Returns the slot that was used longest ago, with room for `bytes`. Waits until its upload has ended. */
static UploadSlot *free_slot(CudaStaging *staging, size_t bytes) {
    UploadSlot *slot = &staging->slots[staging->next];
    staging->next = (staging->next + 1) % UPLOAD_SLOTS;
    cuda_check(cudaEventSynchronize(slot->done), "an upload");
    if (slot->bytes < bytes) {
        cuda_check(cudaFreeHost(slot->pinned), "giving memory back");
        cuda_check(cudaMallocHost(&slot->pinned, bytes), "taking pinned memory");
        slot->bytes = bytes;
    }
    return slot;
}

static void cuda_copy_from_host_async(Backend *be, void *device, const void *host, size_t bytes) {
    CudaStaging *staging = cuda_backend(be)->staging;
    UploadSlot *slot = free_slot(staging, bytes);
    memcpy(slot->pinned, host, bytes);
    cuda_check(cudaEventRecord(staging->asked, cuda_stream(be)), "marking the operations so far");
    cuda_check(cudaStreamWaitEvent(staging->stream, staging->asked, 0), "waiting for the operations so far");
    cuda_check(cudaMemcpyAsync(device, slot->pinned, bytes, cudaMemcpyHostToDevice, staging->stream), "an upload");
    cuda_check(cudaEventRecord(slot->done, staging->stream), "marking an upload");
}

/* Uploads run one after the other, so all have ended when the last one has. */
static void cuda_wait_for_copies(Backend *be) {
    CudaStaging *staging = cuda_backend(be)->staging;
    UploadSlot *last = &staging->slots[(staging->next + UPLOAD_SLOTS - 1) % UPLOAD_SLOTS];
    cuda_check(cudaStreamWaitEvent(cuda_stream(be), last->done, 0), "waiting for an upload");
}

/* ---- stopwatches ---- */

/* Pairs of events. When all are in use, their times are added up, which waits for the last of them. */
enum { STOPWATCH_PAIRS = 64 };

struct CudaStopwatch {
    cudaEvent_t start[STOPWATCH_PAIRS], stop[STOPWATCH_PAIRS];
    int pending;
    double seconds; /* sum of the intervals before the pending ones */
};

static CudaStopwatch *stopwatches_open(void) {
    CudaStopwatch *watches = (CudaStopwatch *)checked_calloc(STOPWATCH_COUNT, sizeof *watches, "the stopwatches");
    for (int w = 0; w < STOPWATCH_COUNT; w++)
        for (int i = 0; i < STOPWATCH_PAIRS; i++) {
            cuda_check(cudaEventCreate(&watches[w].start[i]), "making an event");
            cuda_check(cudaEventCreate(&watches[w].stop[i]), "making an event");
        }
    return watches;
}

static void stopwatches_close(CudaStopwatch *watches) {
    for (int w = 0; w < STOPWATCH_COUNT; w++)
        for (int i = 0; i < STOPWATCH_PAIRS; i++) {
            cuda_check(cudaEventDestroy(watches[w].start[i]), "ending an event");
            cuda_check(cudaEventDestroy(watches[w].stop[i]), "ending an event");
        }
    free(watches);
}

static double cuda_stopwatch_seconds(Backend *be, Stopwatch which) {
    CudaStopwatch *watch = &cuda_backend(be)->stopwatches[which];
    for (int i = 0; i < watch->pending; i++) {
        float ms = 0.0f;
        cuda_check(cudaEventSynchronize(watch->stop[i]), "an operation on the GPU");
        cuda_check(cudaEventElapsedTime(&ms, watch->start[i], watch->stop[i]), "reading the stopwatch");
        watch->seconds += 1e-3 * (double)ms;
    }
    watch->pending = 0;
    return watch->seconds;
}

static void cuda_stopwatch_start(Backend *be, Stopwatch which) {
    CudaStopwatch *watch = &cuda_backend(be)->stopwatches[which];
    if (watch->pending == STOPWATCH_PAIRS) cuda_stopwatch_seconds(be, which);
    cuda_check(cudaEventRecord(watch->start[watch->pending], cuda_stream(be)), "starting the stopwatch");
}

static void cuda_stopwatch_stop(Backend *be, Stopwatch which) {
    CudaStopwatch *watch = &cuda_backend(be)->stopwatches[which];
    cuda_check(cudaEventRecord(watch->stop[watch->pending], cuda_stream(be)), "stopping the stopwatch");
    watch->pending++;
}

/* ---- rounding and scaling ---- */

enum { ROUND_THREADS = 256 };

/* Thread i rounds pack i, 8 elements; elements after the last whole pack are rounded one by one. */
static __global__ void __launch_bounds__(ROUND_THREADS) round_kernel(bf16 *out, const float *in, size_t n) {
    size_t at = ((size_t)blockIdx.x * ROUND_THREADS + threadIdx.x) * Pack<bf16>::N;
    if (at + Pack<bf16>::N <= n && is_pack_aligned(in) && is_pack_aligned(out)) {
        Pack<float> low = load_pack(in + at), high = load_pack(in + at + Pack<float>::N);
        Pack<bf16> rounded;
#pragma unroll
        for (int i = 0; i < Pack<float>::N; i++) {
            rounded.x[i] = from_float<bf16>(low.x[i]);
            rounded.x[i + Pack<float>::N] = from_float<bf16>(high.x[i]);
        }
        store_pack(out + at, rounded);
        return;
    }
    for (size_t i = at; i < n && i < at + Pack<bf16>::N; i++) out[i] = from_float<bf16>(in[i]);
}

static void to_activation(Backend *be, void *out, const float *in, size_t n) {
    if (be->activation == DTYPE_FLOAT32) {
        cuda_copy(be, out, in, n * sizeof(float));
        return;
    }
    if (n == 0) return;
    unsigned blocks = (unsigned)ceil_div((int64_t)n, ROUND_THREADS * Pack<bf16>::N);
    round_kernel<<<blocks, ROUND_THREADS, 0, cuda_stream(be)>>>((bf16 *)out, in, n);
    cuda_check_launch("round_kernel");
}

enum { SCALE_THREADS = 256 };

/* Thread i scales pack i; elements after the last whole pack are scaled one by one. Moves 4 bytes per bfloat16. */
template <class T>
static __global__ void __launch_bounds__(SCALE_THREADS) scale_kernel(T *out, const T *in, float factor, size_t n) {
    size_t at = ((size_t)blockIdx.x * SCALE_THREADS + threadIdx.x) * Pack<T>::N;
    if (at + Pack<T>::N <= n && is_pack_aligned(in) && is_pack_aligned(out)) {
        Pack<T> x = load_pack(in + at);
#pragma unroll
        for (int i = 0; i < Pack<T>::N; i++) x.x[i] = from_float<T>(factor * to_float(x.x[i]));
        store_pack(out + at, x);
        return;
    }
    for (size_t i = at; i < n && i < at + Pack<T>::N; i++) out[i] = from_float<T>(factor * to_float(in[i]));
}

template <class T> static void scale(Backend *be, void *out, const void *in, float factor, size_t n) {
    if (n == 0) return;
    unsigned blocks = (unsigned)ceil_div((int64_t)n, SCALE_THREADS * Pack<T>::N);
    scale_kernel<T><<<blocks, SCALE_THREADS, 0, cuda_stream(be)>>>((T *)out, (const T *)in, factor, n);
    cuda_check_launch("scale_kernel");
}

/* ---- opening ---- */

int cuda_device_count(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/* FLOP/s without sparsity, from NVIDIA's data sheets; PCIe boards of the same name are slower. */
typedef struct Peak {
    const char *name;
    double bfloat16, float32;
} Peak;

static const Peak peaks[] = {{"H200", 989e12, 67e12},   {"H100", 989e12, 67e12},   {"H800", 989e12, 67e12},
                             {"GH200", 989e12, 67e12},  {"B200", 2250e12, 75e12},  {"A100", 312e12, 19.5e12},
                             {"A800", 312e12, 19.5e12}, {"L40S", 362e12, 91.6e12}, {"RTX 4090", 165e12, 82.6e12}};

static double peak_flops(const char *name, DType type) {
    for (size_t i = 0; i < ARRAY_LENGTH(peaks); i++)
        if (strstr(name, peaks[i].name)) return type == DTYPE_BFLOAT16 ? peaks[i].bfloat16 : peaks[i].float32;
    return 0.0;
}

static void cuda_close(Backend *be) {
    CudaBackend *cuda = cuda_backend(be);
    be->synchronize(be);
    cuda_matmul_close(cuda->matmul);
    staging_close(cuda->staging);
    stopwatches_close(cuda->stopwatches);
    cuda_sensors_close(cuda->sensors);
    cuda_free(be, cuda->scratch);
    cuda_check(cudaStreamDestroy(cuda->stream), "ending a stream");
    free(cuda);
}

static void enter_memory(Backend *be) {
    be->alloc = cuda_alloc;
    be->free = cuda_free;
    be->memory_left = cuda_memory_left;
    be->copy_from_host = cuda_copy_from_host;
    be->copy_to_host = cuda_copy_to_host;
    be->copy = cuda_copy;
    be->zero = cuda_zero;
    be->synchronize = cuda_synchronize;
    be->copy_from_host_async = cuda_copy_from_host_async;
    be->wait_for_copies = cuda_wait_for_copies;
    be->stopwatch_start = cuda_stopwatch_start;
    be->stopwatch_stop = cuda_stopwatch_stop;
    be->stopwatch_seconds = cuda_stopwatch_seconds;
    be->read_sensors = cuda_read_sensors;
    be->to_activation = to_activation;
    be->scale = be->activation == DTYPE_FLOAT32 ? scale<float> : scale<bf16>;
    be->invalidate_weights = cuda_invalidate_weights;
    be->close = cuda_close;
}

/* Tensor cores for bfloat16 and cp.async exist from compute capability 8.0 on. */
enum { LEAST_MAJOR = 8 };

Backend *cuda_backend_open(const BackendOptions *options, Error *error) {
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
        error_set(error,
                  "there is no GPU that CUDA can use: %s; nvidia-smi lists those that the driver finds; use the "
                  "device cpu, or install a driver for this CUDA",
                  cudaGetErrorString(status));
        return NULL;
    }
    int gpu = options->local_rank % count;
    cudaDeviceProp properties;
    cuda_check(cudaGetDeviceProperties(&properties, gpu), "asking for the GPU's properties");
    if (properties.major < LEAST_MAJOR) {
        error_set(error, "%s has compute capability %d.%d; at least %d.0 is needed; use the device cpu",
                  properties.name, properties.major, properties.minor, LEAST_MAJOR);
        return NULL;
    }
    cuda_check(cudaSetDevice(gpu), "choosing the GPU");
    CudaBackend *cuda = (CudaBackend *)checked_calloc(1, sizeof *cuda, "the CUDA backend");
    Backend *be = &cuda->base;
    cuda->gpu = gpu;
    cuda->processors = properties.multiProcessorCount;
    cuda->allow_tf32 = options->allow_tf32;
    snprintf(be->name, sizeof be->name, "cuda-%s", dtype_name(options->activation));
    snprintf(be->device, sizeof be->device, "%.127s", properties.name);
    be->activation = options->activation;
    be->threads = options->threads;
    be->memory_sharers = 1;
    be->on_gpu = true;
    be->peak_flops = peak_flops(properties.name, options->activation);
    be->logit_rows = 8192;
    be->side_by_side_work = INT64_MAX;
    cuda_check(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "making a stream");
    be->stream = cuda->stream;
    be->is_host_memory = memory_is_host();
    cuda->staging = staging_open();
    cuda->stopwatches = stopwatches_open();
    cuda->matmul = cuda_matmul_open(cuda);
    enter_memory(be);
    cuda_enter_ranges(be);
    cuda_enter_embedding(be);
    cuda_enter_norm(be);
    cuda_enter_loss(be);
    cuda_enter_linear(be);
    cuda_enter_qk_norm_rope(be);
    cuda_enter_dropout(be);
    cuda_enter_attention(be);
    return be;
}
