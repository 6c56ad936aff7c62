/* matmul.h: matmuls on the GPU. linear.cu describes what to multiply. matmul.c, the only file that calls cuBLASLt to
 * multiply, selects the algorithm and whether it does the epilogue. */
#ifndef MARS_KERNELS_CUDA_MATMUL_H
#define MARS_KERNELS_CUDA_MATMUL_H

#include "kernels/cuda/cuda_backend.h"

EXTERN_C_BEGIN

/* What a matmul does with the sums before they are rounded and stored. */
typedef enum CudaEpilogue {
    CUDA_EPILOGUE_NONE,          /* d = sums, plus `bias` if there is one */
    CUDA_EPILOGUE_GELU,          /* pre = sums + bias;  d = GELU(pre) */
    CUDA_EPILOGUE_GELU_BACKWARD, /* d = sums GELU'(pre) */
} CudaEpilogue;

/* d[i] = alpha op(a[i]) . op(b[i]) + beta c[i], as in BatchedMatmul. Matrices are row-major, dense, contiguous. */
typedef struct CudaGemm CudaGemm;
struct CudaGemm {
    DType input, output; /* of a and b; of c, d, bias and pre */
    int64_t m, n, k;
    bool transpose_a, transpose_b; /* a is stored (k,m), b is stored (n,k) */
    float alpha, beta;
    void *d;
    const void *a, *b, *c; /* c is not read if beta is 0, and may be d */
    bool batched;          /* `count` matmuls of one shape, each with the bits that it would have alone */
    int count;             /* 1 unless batched */

    /* With an epilogue or a bias, alpha must be 1 and beta 0. */
    CudaEpilogue epilogue;
    const void *bias; /* (n) or NULL */
    void *pre;        /* (m,n); NULL if GELU need not keep it; only read by CUDA_EPILOGUE_GELU_BACKWARD */
    /* Launches kernels that apply the bias and the epilogue to a matmul that was stored without them, in pre if GELU
     * keeps it, else in d. Used if the library has no algorithm with this epilogue, or only a slower one. */
    void (*finish)(Backend *be, const CudaGemm *matmul);
};

/* Enqueues the matmul. Ends the program if the library cannot compute it. */
void cuda_multiply(Backend *be, const CudaGemm *matmul);

/* Enters matmul_batched, multiplies, autotune, write_algorithms and read_algorithms. */
void cuda_enter_matmuls(Backend *be);

EXTERN_C_END

#endif
