/* no_cuda.c: replaces kernels/cuda in a build without CUDA. */
#include "kernels/cuda/cuda_device.h"

int cuda_device_count(void) { return 0; }

Backend *cuda_backend_open(const BackendOptions *options, Error *error) {
    (void)options;
    error_set(
        error,
        "this program was built without CUDA, which the device cuda needs; use the device cpu, or install the CUDA "
        "Toolkit and run make");
    return NULL;
}
