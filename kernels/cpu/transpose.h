/* transpose.h: transposes a matrix of two-byte elements, which matrix libraries do slowly, and makes a matrix
 * symmetric. */
#ifndef MARS_KERNELS_CPU_TRANSPOSE_H
#define MARS_KERNELS_CPU_TRANSPOSE_H

#include <stddef.h>
#include <stdint.h>

/* out (columns, rows), dense, = the transpose of in (rows, columns), whose rows lie `distance` elements apart. */
void transpose_16bit(uint16_t *out, const uint16_t *in, int64_t rows, int64_t columns, int64_t distance, int threads);

/* Copies one block of a dense (n, n) matrix to its mirrored place: matrix[j][i] = matrix[i][j] for the block's elements
 * i, j with j < i. The block has `side` rows and columns from (row, column) on, fewer at the end of the matrix. row,
 * column and side are multiples of 32; column <= row. Elements have `size` bytes, 2 or 4. Uses one thread. */
void mirror_block(void *matrix, int64_t n, int64_t row, int64_t column, int64_t side, size_t size);

#endif
