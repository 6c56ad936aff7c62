/* matmul.h: matmuls on the GPU, between linear.cu, which says what to multiply, and matmul.c, the one file that
 * knows cuBLASLt: it chooses the algorithm, and what is done with a matmul before it is stored. */
#ifndef MARS_KERNELS_CUDA_MATMUL_H
#define MARS_KERNELS_CUDA_MATMUL_H

#include "kernels/cuda/cuda_backend.h"

EXTERN_C_BEGIN

/* What is done with the sums before they are rounded and stored. */
typedef enum CudaEpilogue {
    CUDA_EPILOGUE_NONE,          /* d = sums, plus `bias` where there is one */
    CUDA_EPILOGUE_GELU,          /* pre = sums + bias;  d = GELU(pre) */
    CUDA_EPILOGUE_GELU_BACKWARD, /* d = sums GELU'(pre) */
} CudaEpilogue;

/* d[i] = alpha op(a[i]) . op(b[i]) + beta c[i], as in BatchedMatmul: row-major, dense, one after the other. */
typedef struct CudaGemm CudaGemm;
struct CudaGemm {
    DType input, output; /* of a and b; of c, d, bias and pre */
    int64_t m, n, k;
    bool transpose_a, transpose_b; /* a is stored (k,m), b is stored (n,k) */
    float alpha, beta;
    void *d;
    const void *a, *b, *c; /* c is not read where beta is 0, and may be d */
    bool batched;          /* the matrices are among `count` equals, and have the bits that each would have alone */
    int count;             /* 1 unless batched */

    /* With an epilogue or a bias alpha is 1 and beta 0. */
    CudaEpilogue epilogue;
    const void *bias; /* (n) or NULL */
    void *pre;        /* (m,n); NULL where GELU need not keep it; only read by CUDA_EPILOGUE_GELU_BACKWARD */
    /* Launches what does the work of the epilogue and the bias after a matmul that was stored without them: in pre
     * where GELU keeps it, else in d. For matmuls where the library has no such algorithm, or a slower one. */
    void (*finish)(Backend *be, const CudaGemm *matmul);
};

void cuda_multiply(Backend *be, const CudaGemm *matmul);

/* Enters matmul_batched, multiplies, autotune, write_algorithms and read_algorithms. */
void cuda_enter_matmuls(Backend *be);

EXTERN_C_END

#endif
