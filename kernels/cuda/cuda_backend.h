/* cuda_backend.h: the internals of the CUDA backend. The files of this folder share them, and files elsewhere that
 * launch kernels (optim/multi_tensor.cu) or order work on the GPU (comm/nccl.c). It compiles as C; device functions are
 * in device.cuh.
 *
 * All operations of the table are launched on one stream, so they run one after the other. There are two more streams:
 * one copies batches from the host (cuda_backend.cu), one is NCCL's (comm/nccl.c). Events order them with the first. */
#ifndef MARS_KERNELS_CUDA_CUDA_BACKEND_H
#define MARS_KERNELS_CUDA_CUDA_BACKEND_H

#include <cuda_runtime_api.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_device.h"
#include "util/cuda_check.h"

typedef struct CudaMatmul CudaMatmul; /* matmul.c */
typedef struct CudaStaging CudaStaging;
typedef struct CudaStopwatch CudaStopwatch;
typedef struct CudaSensors CudaSensors; /* sensors.c */

typedef struct CudaBackend {
    Backend base;   /* first, so that a Backend * is a CudaBackend * */
    int gpu;        /* its number in CUDA */
    int processors; /* multiprocessors */
    bool allow_tf32;
    cudaStream_t stream; /* of all operations */
    CudaMatmul *matmul;
    CudaStaging *staging;
    CudaStopwatch *stopwatches; /* (STOPWATCH_COUNT) */
    CudaSensors *sensors;       /* NULL until they are first read */
    void *scratch;
    size_t scratch_bytes;
} CudaBackend;

static inline CudaBackend *cuda_backend(Backend *be) { return (CudaBackend *)be; }
static inline cudaStream_t cuda_stream(Backend *be) { return ((CudaBackend *)be)->stream; }

EXTERN_C_BEGIN

/* Called after a kernel launch: ends the program if the launch itself has failed. */
void cuda_check_launch(const char *kernel);

/* Returns at least `bytes` of working memory on the GPU, aligned to 256, for the kernels of one operation: the next
 * operation gets the same memory. Ends the program if there is not enough memory. */
void *cuda_scratch(Backend *be, size_t bytes);

/* Each file of operations enters its operations in a table, for the table's activation type. */
void cuda_enter_embedding(Backend *be);
void cuda_enter_norm(Backend *be);
void cuda_enter_loss(Backend *be);
/* Linear layers, batched matmuls and autotuning. */
void cuda_enter_linear(Backend *be);
void cuda_enter_qk_norm_rope(Backend *be);
void cuda_enter_dropout(Backend *be);
void cuda_enter_attention(Backend *be); /* attention.cu: chooses between the files of kernels */

void cuda_enter_ranges(Backend *be); /* ranges.c */

bool cuda_read_sensors(Backend *be, DeviceSensors *sensors);
void cuda_sensors_close(CudaSensors *sensors);

/* matmul.c: one cuBLASLt handle and its workspace. */
CudaMatmul *cuda_matmul_open(CudaBackend *cuda);
void cuda_matmul_close(CudaMatmul *matmul);

EXTERN_C_END

#endif
