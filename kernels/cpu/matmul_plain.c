/* matmul_plain.c: matmuls without a library, for machines without oneDNN, fast enough to try the program. It first
 * unpacks B to float32 rows. Each row of C is then a sum of multiples of these rows, in a loop that vectorises. Sums
 * are float32, as in oneDNN. */
#include "kernels/cpu/matmul.h"

#include <stdlib.h>
#include <string.h>

struct MatmulKernel {
    MatmulShape shape;
    struct MatmulKernel *next;
};

struct Matmul {
    int threads;
    MatmulKernel *kernels;
};

Matmul *matmul_open(DType input, int threads, Error *error) {
    (void)input, (void)error;
    Matmul *matmul = checked_calloc(1, sizeof *matmul, "matmuls");
    matmul->threads = threads;
    return matmul;
}

void matmul_close(Matmul *matmul) {
    for (MatmulKernel *kernel = matmul->kernels, *next; kernel; kernel = next) {
        next = kernel->next;
        free(kernel);
    }
    free(matmul);
}

const char *matmul_library(void) { return "plain loops"; }
bool matmul_has_fast_bfloat16(void) { return false; }

bool matmul_widens_bfloat16(const Matmul *matmul) {
    (void)matmul;
    return true;
}

bool matmul_multiplies(Matmul *matmul, DType input) {
    (void)matmul, (void)input;
    return true;
}

void matmul_invalidate_weights(Matmul *matmul) { (void)matmul; /* no copies are kept */ }

MatmulKernel *matmul_kernel(Matmul *matmul, const MatmulShape *shape) {
    for (MatmulKernel *kernel = matmul->kernels; kernel; kernel = kernel->next)
        if (matmul_same_shape(&kernel->shape, shape)) return kernel;
    MatmulKernel *kernel = checked_calloc(1, sizeof *kernel, "a matmul");
    kernel->shape = *shape;
    kernel->next = matmul->kernels;
    return matmul->kernels = kernel;
}

static float load(const void *matrix, DType type, int64_t i) {
    return type == DTYPE_FLOAT32 ? ((const float *)matrix)[i] : float_from_bfloat16(((const bfloat16 *)matrix)[i]);
}

/* to[0..n) = n elements of a matrix from `offset` on, `stride` apart, as floats. */
static void load_row(float *RESTRICT to, const void *matrix, DType type, int64_t offset, int64_t stride, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = load(matrix, type, offset + i * stride);
}

static void store_row(const MatmulShape *s, void *c, int64_t row, const float *sums) {
    bool add = s->beta != 0.0f; /* if not, C may hold anything, also NaN */
    if (s->output == DTYPE_BFLOAT16) {
        bfloat16 *out = (bfloat16 *)c + row * s->ldc;
        for (int64_t j = 0; j < s->n; j++)
            out[j] = bfloat16_from_float((add ? s->beta * float_from_bfloat16(out[j]) : 0.0f) + s->alpha * sums[j]);
    } else {
        float *out = (float *)c + row * s->ldc;
        for (int64_t j = 0; j < s->n; j++) out[j] = (add ? s->beta * out[j] : 0.0f) + s->alpha * sums[j];
    }
}

/* One row of C, from B as (k,n) floats. a_row (k) and sums (n) are working memory. */
static void multiply_row(const MatmulShape *s, int64_t row, const void *a, const float *RESTRICT b, void *c,
                         float *RESTRICT a_row, float *RESTRICT sums) {
    load_row(a_row, a, s->input, s->transpose_a ? row : row * s->lda, s->transpose_a ? s->lda : 1, s->k);
    memset(sums, 0, (size_t)s->n * sizeof *sums);
    for (int64_t l = 0; l < s->k; l++) {
        float factor = a_row[l];
        const float *b_row = b + l * s->n;
#pragma omp simd
        for (int64_t j = 0; j < s->n; j++) sums[j] += factor * b_row[j];
    }
    store_row(s, c, row, sums);
}

void matmul_run(Matmul *matmul, MatmulKernel *kernel, int thread, const void *a, const void *b, void *c) {
    (void)thread;
    const MatmulShape *s = &kernel->shape;
    float *unpacked = checked_malloc((size_t)(s->k * s->n) * sizeof *unpacked, "a matmul");
    for (int64_t l = 0; l < s->k; l++)
        load_row(unpacked + l * s->n, b, s->input, s->transpose_b ? l : l * s->ldb, s->transpose_b ? s->ldb : 1, s->n);
#pragma omp parallel num_threads(s->one_thread ? 1 : matmul->threads)
    {
        float *work = checked_malloc((size_t)(s->k + s->n) * sizeof *work, "a matmul");
#pragma omp for schedule(static)
        for (int64_t row = 0; row < s->m; row++) multiply_row(s, row, a, unpacked, c, work, work + s->k);
        free(work);
    }
    free(unpacked);
}
