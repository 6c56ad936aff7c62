/* backend.c: choosing a device. The devices themselves are in kernels/cpu and kernels/cuda. */
#include "kernels/backend.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu/cpu_backend.h"

Backend *backend_open(const char *device, DType activation, int threads, Error *error) {
    if (strcmp(device, "cpu") == 0) return cpu_backend_open(activation, threads, error);
    error_set(error, "device '%s': this program was built without CUDA; use cpu", device);
    return NULL;
}

const char *backend_auto_device(void) { return "cpu"; }

int backend_default_threads(int processes) {
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN), allowed = cores;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) allowed = CPU_COUNT(&set);
    int share = cores / processes, threads = allowed < share ? allowed : share;
    return threads > 0 ? threads : 1;
}

DType backend_auto_precision(const char *device) {
    (void)device; /* there is one so far */
    return cpu_has_fast_bfloat16() ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
}
