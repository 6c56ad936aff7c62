/* cuda_device.h: the CUDA functions that the rest of the program calls: they count the GPUs and open a backend. No CUDA
 * type is used here, so a build without CUDA can include it, too (no_cuda.c). */
#ifndef MARS_KERNELS_CUDA_CUDA_DEVICE_H
#define MARS_KERNELS_CUDA_CUDA_DEVICE_H

#include "kernels/backend.h"

EXTERN_C_BEGIN

/* Returns the number of GPUs that this process can use; 0 also if there is no driver or the build has no CUDA. */
int cuda_device_count(void);

/* backend_open_with() for device "cuda". */
Backend *cuda_backend_open(const BackendOptions *options, Error *error);

EXTERN_C_END

#endif
