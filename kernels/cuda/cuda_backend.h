/* cuda_backend.h: the inside of the CUDA tables: what the files of this folder, and those elsewhere that launch kernels
 * (optim/multi_tensor.cu) or order work on the GPU (comm/nccl.c), share. It compiles as C; what kernels are made of is
 * in device.cuh.
 *
 * Every operation of the table is launched on one stream, so they run one after the other. Two more streams exist
 * next to it: one brings batches from the host (cuda_backend.cu), one is NCCL's (comm/nccl.c); events tie them to the
 * first. */
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
    int gpu;        /* CUDA's number of it */
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

/* After a kernel launch: cuda_check() for what the launch itself reports. */
void cuda_check_launch(const char *kernel);

/* At least `bytes` of working memory on the GPU, aligned to 256, for the kernels that one operation launches: the next
 * operation gets the same memory. */
void *cuda_scratch(Backend *be, size_t bytes);

/* Each file of operations enters them in a table, for its activation type. */
void cuda_enter_embedding(Backend *be);
void cuda_enter_norm(Backend *be);
void cuda_enter_loss(Backend *be);
/* The matmuls, and what autotunes them. */
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
