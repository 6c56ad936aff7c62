/* matmul.h: matmuls on the CPU. matmul_onednn.c implements this with oneDNN, matmul_plain.c without any
 * library; the Makefile links one of them.
 *
 *   C (m,n) = alpha A (m,k) . B (k,n) + beta C
 *
 * matmul_kernel() keeps the kernel that the library compiles for a shape, and finds it again by that shape. */
#ifndef MARS_KERNELS_CPU_MATMUL_H
#define MARS_KERNELS_CPU_MATMUL_H

#include "util/base.h"
#include "util/dtype.h"

EXTERN_C_BEGIN

typedef struct MatmulShape {
    int64_t m, n, k;
    int64_t lda, ldb, ldc; /* elements from one stored row to the next */
    bool transpose_a;      /* A is stored (k,m) */
    bool transpose_b;      /* B is stored (n,k) */
    DType input, output;   /* of A and B; of C */
    float alpha, beta;     /* 1 and 0: C = A.B;  1 and 1: C += A.B;  C is not read if beta is 0 */
    bool weights;          /* B stays the same until matmul_invalidate_weights(): a packed copy may be kept */
    bool pack_b;           /* B is large and stored by rows: worth a packed copy even for one matmul */
    bool one_thread;       /* runs on the calling thread only, inside a parallel region; packs nothing */
} MatmulShape;

typedef struct Matmul Matmul;
typedef struct MatmulKernel MatmulKernel;

/* Returns NULL and the reason if this machine cannot multiply matrices of type `input`. */
Matmul *matmul_open(DType input, int threads, Error *error);
void matmul_close(Matmul *matmul);

/* Returns "plain loops" or, for example, "oneDNN 2.6.3". */
const char *matmul_library(void);

/* True if bfloat16 matmuls run on matrix units. */
bool matmul_has_fast_bfloat16(void);

/* True if bfloat16 matrices, but for some of a few rows, are converted to float32 copies, which are then multiplied. */
bool matmul_widens_bfloat16(const Matmul *matmul);

/* Whether this machine multiplies matrices of type `input`. */
bool matmul_multiplies(Matmul *matmul, DType input);

/* Returns the kernel for a shape, which it makes on first use; `matmul` owns it. Ends the program if the library has no
 * such kernel. Only one thread at a time may call this. */
MatmulKernel *matmul_kernel(Matmul *matmul, const MatmulShape *shape);

/* Runs a kernel. `thread` is the calling thread's number if the shape has one_thread, else 0. */
void matmul_run(Matmul *matmul, MatmulKernel *kernel, int thread, const void *a, const void *b, void *c);

/* Must be called after B matrices that were multiplied as `weights` have changed: packed copies are made again. */
void matmul_invalidate_weights(Matmul *matmul);

EXTERN_C_END

/* The shape of C = A.B for dense matrices, with all options at their defaults. */
static inline MatmulShape matmul_dense(int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b, DType input,
                                       DType output) {
    MatmulShape shape;
    shape.m = m, shape.n = n, shape.k = k;
    shape.lda = transpose_a ? m : k, shape.ldb = transpose_b ? k : n, shape.ldc = n;
    shape.transpose_a = transpose_a, shape.transpose_b = transpose_b;
    shape.input = input, shape.output = output;
    shape.alpha = 1.0f, shape.beta = 0.0f;
    shape.weights = shape.pack_b = shape.one_thread = false;
    return shape;
}

static inline bool matmul_same_shape(const MatmulShape *x, const MatmulShape *y) {
    return x->m == y->m && x->n == y->n && x->k == y->k && x->lda == y->lda && x->ldb == y->ldb && x->ldc == y->ldc &&
           x->transpose_a == y->transpose_a && x->transpose_b == y->transpose_b && x->input == y->input &&
           x->output == y->output && x->alpha == y->alpha && x->beta == y->beta && x->weights == y->weights &&
           x->pack_b == y->pack_b && x->one_thread == y->one_thread;
}

#endif
