/* cuda_check.h: what becomes of a failed call of CUDA's runtime. For files that CUDA's headers are there for. */
#ifndef MARS_UTIL_CUDA_CHECK_H
#define MARS_UTIL_CUDA_CHECK_H

#include <cuda_runtime_api.h>

#include "util/base.h"

/* Ends the program with CUDA's message where `status` is an error: `what` says what was tried. */
static inline void cuda_check(cudaError_t status, const char *what) {
    if (status != cudaSuccess)
        die("CUDA: %s failed: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

#endif
