/* cuda_device.h: what the rest of the program knows of CUDA: whether there is a GPU, and how its table is opened. It
 * names no CUDA type, so a build without CUDA has it too (no_cuda.c). */
#ifndef MARS_KERNELS_CUDA_CUDA_DEVICE_H
#define MARS_KERNELS_CUDA_CUDA_DEVICE_H

#include "kernels/backend.h"

EXTERN_C_BEGIN

/* GPUs that this process can use; 0 also where there is no driver, or the build has no CUDA. */
int cuda_device_count(void);

/* backend_open_with() for device "cuda". */
Backend *cuda_backend_open(const BackendOptions *options, Error *error);

EXTERN_C_END

#endif
