/* measure.h: what the benchmarks share: the rates that results are compared with (a plain library product, a copy in
 * memory), random numbers to work on, and medians. */
#ifndef MARS_DEV_BENCH_MEASURE_H
#define MARS_DEV_BENCH_MEASURE_H

#include "kernels/backend.h"
#include "kernels/cpu/matmul.h"

/* What the command line of a benchmark says. */
typedef struct BenchOptions {
    DType precision;
    int steps, threads;
    const char *only; /* one of the things measured; NULL = all */
    const char *json; /* a file for the figures; NULL = none */
} BenchOptions;

/* Reads --precision=bfloat16|float32, --steps=N (`steps` where not given), --threads=N, --only=NAME and --json=FILE. */
BenchOptions bench_options(int argc, char **argv, int steps);

/* n random numbers in [-1/2, 1/2), as float or bfloat16. Untouched memory makes a product look 1.7 times faster than it
 * is. The caller frees them. */
void *random_numbers(size_t n, DType type, uint32_t stream);

/* A plain row-major product of the model's own size, (m, n, k) = (4096, 3072, 768). */
typedef struct PlainProduct {
    Matmul *matmul; /* NULL where this machine has no such product */
    MatmulKernel *kernel;
    void *a, *b, *c;
} PlainProduct;

void plain_product_open(PlainProduct *product, DType type, int threads);
/* FLOP/s over at least a fifth of a second; 0 where there is no such product. */
double plain_product_rate(PlainProduct *product);

/* A copy between two buffers of 512 MB. */
typedef struct PlainCopy {
    Backend *be;
    float *from, *to;
} PlainCopy;

void plain_copy_open(PlainCopy *copy, Backend *be);
/* Bytes read and written per second: the better of a loop over floats and memcpy, by all threads. */
double plain_copy_rate(PlainCopy *copy);
void plain_copy_close(PlainCopy *copy);

enum { MOST_MEASUREMENTS = 1000 };

/* The median of up to MOST_MEASUREMENTS values. */
double median(const double *values, int n);

#endif
