/* matmul_batched.c: the dense matmuls for optimizers (backend.h). Large matrices are multiplied one after the other,
 * each by all threads. Each small matrix is multiplied by one thread, since several threads would wait for each other
 * longer than they work. For large symmetric matrices one half is computed, each block by one thread. The shape and the
 * number of threads select one of these ways, so a result does not depend on the other matrices of the batch. */
#include "kernels/cpu/cpu_backend.h"

#include <assert.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/transpose.h"

/* If the first factor is stored transposed, its stored rows are the inner dimension, and oneDNN slows down as their
 * number grows. Such matmuls are computed in parts of at most this many and summed in float32: a third faster for 3072
 * rows of 768 bfloat16 numbers, more than three times as fast for 50304 rows. */
enum { LONGEST_ACROSS = 768 };

/* One thread computes a matmul of up to this many multiplications alone: a few tenths of a millisecond, little more
 * than it takes to wake the other threads and wait for them. */
enum { SIDE_BY_SIDE_WORK = 1 << 26 };

/* Rows and columns of a block of a symmetric matrix (multiply_symmetric()). Blocks of half the size are up to three
 * times slower on one thread; with blocks of twice the size more of the matrix is computed. */
enum { SYMMETRIC_BLOCK = 128 };

/* Bytes that a thread copies at a time. */
enum { COPY_BLOCK = 1 << 18 };

static void copy_matrix(Backend *be, char *to, const char *from, size_t bytes) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (size_t begin = 0; begin < bytes; begin += COPY_BLOCK)
        memcpy(to + begin, from + begin, (size_t)min_i64(COPY_BLOCK, (int64_t)(bytes - begin)));
}

static void multiply(Backend *be, const MatmulShape *shape, const void *a, const void *b, void *c) {
    Matmul *matmul = cpu_backend(be)->matmul;
    matmul_run(matmul, matmul_kernel(matmul, shape), 0, a, b, c);
}

/* Whether to pack B (matmul.h) first. oneDNN packs bfloat16 slowly, which pays only if B is the smaller factor.
 * Unpacked wide float32 factors cost up to half the speed. If B is stored transposed, not packing it is faster. */
static bool worth_packing(const BatchedMatmul *p) {
    return !p->transpose_b && (p->type == DTYPE_FLOAT32 || p->n <= p->m);
}

/* oneDNN adds to the matrix that it writes, so c (NULL if beta is 0) is first copied to d. */
static void multiply_whole(Backend *be, const BatchedMatmul *p, void *d, const void *a, const void *b, const void *c) {
    MatmulShape shape = matmul_dense(p->m, p->n, p->k, p->transpose_a, p->transpose_b, p->type, p->type);
    shape.alpha = p->alpha, shape.beta = p->beta;
    shape.pack_b = worth_packing(p);
    if (c && c != d) copy_matrix(be, d, c, (size_t)(p->m * p->n) * dtype_size(p->type));
    multiply(be, &shape, a, b, d);
}

/* d = alpha sums + beta c, of n elements. c is NULL if beta is 0, and may be d. */
static void store_float32(float *d, const float *RESTRICT sums, const float *c, float alpha, float beta, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) d[i] = alpha * sums[i] + (c ? beta * c[i] : 0.0f);
}

static void store_bfloat16(bfloat16 *d, const float *RESTRICT sums, const bfloat16 *c, float alpha, float beta,
                           int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        d[i] = bfloat16_from_float(alpha * sums[i] + (c ? beta * float_from_bfloat16(c[i]) : 0.0f));
}

static void store_sums(Backend *be, const BatchedMatmul *p, void *d, const float *sums, const void *c) {
    int64_t size = p->m * p->n;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t begin = 0; begin < size; begin += ELEMENT_BLOCK) {
        int64_t n = min_i64(ELEMENT_BLOCK, size - begin);
        if (p->type == DTYPE_FLOAT32)
            store_float32((float *)d + begin, sums + begin, c ? (const float *)c + begin : NULL, p->alpha, p->beta, n);
        else
            store_bfloat16((bfloat16 *)d + begin, sums + begin, c ? (const bfloat16 *)c + begin : NULL, p->alpha,
                           p->beta, n);
    }
}

static void multiply_parts(Backend *be, const BatchedMatmul *p, void *d, const void *a, const void *b, const void *c) {
    float *sums = cpu_scratch(be, be->threads, (size_t)(p->m * p->n) * sizeof *sums);
    MatmulShape shape = matmul_dense(p->m, p->n, p->k, p->transpose_a, p->transpose_b, p->type, DTYPE_FLOAT32);
    shape.pack_b = worth_packing(p);
    int64_t parts = ceil_div(p->k, LONGEST_ACROSS), length = round_up(ceil_div(p->k, parts), 64);
    size_t size = dtype_size(p->type);
    for (int64_t begin = 0; begin < p->k; begin += length) {
        shape.k = min_i64(length, p->k - begin);
        shape.beta = begin > 0 ? 1.0f : 0.0f;
        multiply(be, &shape, (const char *)a + (size_t)(begin * shape.lda) * size,
                 (const char *)b + (size_t)(begin * (p->transpose_b ? 1 : shape.ldb)) * size, sums);
    }
    store_sums(be, p, d, sums, c);
}

/* The matrices of one matmul of a batch; c is NULL if beta is 0. */
typedef struct Operands {
    char *d;
    const char *a, *b, *c;
} Operands;

/* The operands of matmul i of a batch; `first` are those of matmul 0. */
static Operands operands_of(const BatchedMatmul *p, const Operands *first, int i) {
    size_t skipped = (size_t)i * dtype_size(p->type), d_offset = skipped * (size_t)(p->m * p->n);
    return (Operands){.d = first->d + d_offset,
                      .a = first->a + skipped * (size_t)(p->m * p->k),
                      .b = first->b + skipped * (size_t)(p->k * p->n),
                      .c = first->c ? first->c + d_offset : NULL};
}

/* The matmuls of small matrices: each thread takes some of them. */
static void multiply_side_by_side(Backend *be, const BatchedMatmul *p, const Operands *first) {
    Matmul *matmul = cpu_backend(be)->matmul;
    MatmulShape shape = matmul_dense(p->m, p->n, p->k, p->transpose_a, p->transpose_b, p->type, p->type);
    shape.alpha = p->alpha, shape.beta = p->beta;
    shape.one_thread = true;
    MatmulKernel *kernel = matmul_kernel(matmul, &shape);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int i = 0; i < p->count; i++) {
        Operands o = operands_of(p, first, i);
        if (o.c && o.c != o.d) memcpy(o.d, o.c, (size_t)(p->m * p->n) * dtype_size(p->type));
        matmul_run(matmul, kernel, omp_get_thread_num(), o.a, o.b, o.d);
    }
}

/* A block of a matrix: `rows` rows and `columns` columns from (row, column) on. */
typedef struct Block {
    int64_t row, column, rows, columns;
} Block;

/* Copies a block of c to the same place in d; both have n columns. */
static void copy_block(char *d, const char *c, const Block *block, int64_t n, size_t element) {
    for (int64_t r = 0; r < block->rows; r++) {
        size_t begin = (size_t)((block->row + r) * n + block->column) * element;
        memcpy(d + begin, c + begin, (size_t)block->columns * element);
    }
}

/* Large symmetric matrices: each thread takes some of the blocks on and below the diagonal, one at a time, and copies
 * each to its place above the diagonal. Of s x s blocks s (s + 1)/2 are multiplied: 21 of 36 for 768 rows, 36 of 64 for
 * 1024. One thread computes a whole block, so the bits do not depend on which thread it is. */
static void multiply_symmetric(Backend *be, const BatchedMatmul *p, const Operands *first) {
    Matmul *matmul = cpu_backend(be)->matmul;
    const int64_t side = SYMMETRIC_BLOCK, blocks = ceil_div(p->n, side), last = p->n - (blocks - 1) * side;
    size_t element = dtype_size(p->type);
    MatmulShape shape = matmul_dense(p->m, p->n, p->k, p->transpose_a, p->transpose_b, p->type, p->type);
    shape.alpha = p->alpha, shape.beta = p->beta;
    shape.one_thread = true;
    MatmulKernel *kernels[2][2]; /* [block is in the last row][block is in the last column] */
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            shape.m = i ? last : side, shape.n = j ? last : side;
            kernels[i][j] = matmul_kernel(matmul, &shape);
        }
#pragma omp parallel for schedule(dynamic) num_threads(be->threads)
    for (int64_t i = 0; i < p->count * blocks * blocks; i++) {
        int64_t row = i / blocks % blocks, column = i % blocks;
        if (column > row) continue;
        Operands o = operands_of(p, first, (int)(i / (blocks * blocks)));
        bool is_last_row = row == blocks - 1, is_last_column = column == blocks - 1;
        Block block = {row * side, column * side, is_last_row ? last : side, is_last_column ? last : side};
        if (o.c && o.c != o.d) copy_block(o.d, o.c, &block, p->n, element);
        matmul_run(matmul, kernels[is_last_row][is_last_column], omp_get_thread_num(),
                   o.a + (size_t)(block.row * (p->transpose_a ? 1 : shape.lda)) * element,
                   o.b + (size_t)(block.column * (p->transpose_b ? shape.ldb : 1)) * element,
                   o.d + (size_t)(block.row * shape.ldc + block.column) * element);
        mirror_block(o.d, p->n, block.row, block.column, side, element);
    }
}

/* Whether threads that take whole blocks end clearly before threads that share all of the matrix: with many threads
 * some find no block. Processors with fast bfloat16 instructions have not been measured. */
static bool worth_halving(Backend *be, const BatchedMatmul *p) {
    bool is_measured = p->type == DTYPE_FLOAT32 || matmul_widens_bfloat16(cpu_backend(be)->matmul);
    if (!p->symmetric || p->n <= 3 * SYMMETRIC_BLOCK || !is_measured) return false;
    int64_t side = ceil_div(p->n, SYMMETRIC_BLOCK), all = side * side;
    int64_t halves = side * (side + 1) / 2, rounds = ceil_div(halves, be->threads);
    return 10 * rounds * be->threads <= 9 * all;
}

static void matmul_batched(Backend *be, const BatchedMatmul *p, void *d, const void *a, const void *b, const void *c) {
    assert(!p->symmetric || p->m == p->n);
    Operands first = {.d = d, .a = a, .b = b, .c = p->beta != 0.0f ? c : NULL};
    if (p->m * p->n * p->k <= SIDE_BY_SIDE_WORK) {
        multiply_side_by_side(be, p, &first);
        return;
    }
    if (worth_halving(be, p)) {
        multiply_symmetric(be, p, &first);
        return;
    }
    bool in_parts = p->transpose_a && p->k > LONGEST_ACROSS;
    for (int i = 0; i < p->count; i++) {
        Operands o = operands_of(p, &first, i);
        (in_parts ? multiply_parts : multiply_whole)(be, p, o.d, o.a, o.b, o.c);
    }
}

static bool multiplies(Backend *be, DType type) { return matmul_multiplies(cpu_backend(be)->matmul, type); }

void cpu_enter_matmuls(Backend *be) {
    be->side_by_side_work = SIDE_BY_SIDE_WORK;
    be->matmul_batched = matmul_batched;
    be->multiplies = multiplies;
}
