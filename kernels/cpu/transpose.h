/* transpose.h: transposing a matrix of two-byte elements, which matrix libraries do slowly. */
#ifndef MARS_KERNELS_CPU_TRANSPOSE_H
#define MARS_KERNELS_CPU_TRANSPOSE_H

#include <stdint.h>

/* out (columns, rows), dense, = the transpose of in (rows, columns), whose rows lie `distance` elements apart. */
void transpose_16bit(uint16_t *out, const uint16_t *in, int64_t rows, int64_t columns, int64_t distance, int threads);

#endif
