/* transpose.h: transposing a matrix of two-byte elements, which matrix libraries do slowly, and making one
 * symmetric. */
#ifndef MARS_KERNELS_CPU_TRANSPOSE_H
#define MARS_KERNELS_CPU_TRANSPOSE_H

#include <stddef.h>
#include <stdint.h>

/* out (columns, rows), dense, = the transpose of in (rows, columns), whose rows lie `distance` elements apart. */
void transpose_16bit(uint16_t *out, const uint16_t *in, int64_t rows, int64_t columns, int64_t distance, int threads);

/* Makes a dense (n, n) matrix symmetric in one block, `side` rows and columns from (row, column) on or as many as there
 * are: matrix[j][i] = matrix[i][j] for its elements i, j with j < i. row and column are multiples of 32, and so is
 * side; column <= row. Elements have `size` bytes, 2 or 4. Runs on the calling thread. */
void mirror_block(void *matrix, int64_t n, int64_t row, int64_t column, int64_t side, size_t size);

#endif
