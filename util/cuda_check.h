/* cuda_check.h: checks calls of CUDA's runtime. Only files that are compiled with CUDA's headers include it. */
#ifndef MARS_UTIL_CUDA_CHECK_H
#define MARS_UTIL_CUDA_CHECK_H

#include <cuda_runtime_api.h>

#include "util/base.h"

/* Ends the program with CUDA's message if `status` is an error; `what` names the operation. */
static inline void cuda_check(cudaError_t status, const char *what) {
    if (status != cudaSuccess)
        die("CUDA: %s failed: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

#endif
