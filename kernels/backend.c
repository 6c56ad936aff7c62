/* backend.c: opens the backend of a device. The backends are in kernels/cpu and kernels/cuda. */
#include "kernels/backend.h"

#include <string.h>
#include <unistd.h>

#include <omp.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_device.h"

Backend *backend_open_with(const BackendOptions *options, Error *error) {
    if (strcmp(options->device, "cpu") == 0) return cpu_backend_open(options->activation, options->threads, error);
    if (strcmp(options->device, "cuda") == 0) return cuda_backend_open(options, error);
    error_set(error, "there is no device '%s'; use cpu or cuda", options->device);
    return NULL;
}

Backend *backend_open(const char *device, DType activation, int threads, Error *error) {
    return backend_open_with(&(BackendOptions){.device = device, .activation = activation, .threads = threads}, error);
}

void backend_share_memory(Backend *be, int ranks) { be->memory_sharers = ranks; }

static void *alloc_zeroed(void *context, size_t bytes, const char *what) {
    Backend *be = context;
    void *memory = be->alloc(be, bytes, what);
    be->synchronize(be); /* a GPU zeroes it asynchronously */
    return memory;
}

static void free_memory(void *context, void *memory) {
    Backend *be = context;
    be->free(be, memory);
}

ArenaMemory backend_memory(Backend *be) { return (ArenaMemory){be, alloc_zeroed, free_memory, be->is_host_memory}; }

const char *backend_auto_device(void) { return cuda_device_count() > 0 ? "cuda" : "cpu"; }

int backend_default_threads(int processes) {
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int allowed = omp_get_num_procs(); /* also if OMP_PROC_BIND leaves this thread one of them */
    int share = cores / processes, threads = allowed < share ? allowed : share;
    return threads > 0 ? threads : 1;
}

int backend_threads(int asked, int processes) {
    if (asked == 0) return backend_default_threads(processes);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (cores > 0 && (long)asked * processes > cores)
        warn("train.threads %d x %d processes are more threads than the %ld cores of this machine, which is slow; 0 "
             "takes "
             "the cores there are",
             asked, processes, cores);
    return asked;
}

DType backend_auto_precision(const char *device) {
    if (strcmp(device, "cuda") == 0) return DTYPE_BFLOAT16;
    return cpu_has_fast_bfloat16() ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
}
