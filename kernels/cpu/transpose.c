/* transpose.c: a two-byte transpose by 8 x 8 tiles in vector registers, and the mirroring of a block (see
 * transpose.h). */
#include "kernels/cpu/transpose.h"

#include <string.h>

#include "util/base.h"

/* Tiles are taken in groups of 32 x 32 elements, so that whole cache lines of 64 bytes are read and written. Rows are
 * prefetched two groups ahead. */
enum { TILE = 8, GROUP = 32, AHEAD = 2 * GROUP };

typedef uint16_t Vector __attribute__((vector_size(16)));

/* Interleave the first or last halves of a and b: compilers make one instruction of each function. */
static inline Vector interleave_low(Vector a, Vector b) {
    return (Vector){a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]};
}
static inline Vector interleave_high(Vector a, Vector b) {
    return (Vector){a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]};
}

/* Each of three passes interleaves row i with row i + 4 (a perfect shuffle), which moves one bit of the row number into
 * the column number. After the third pass rows have become columns. */
static void transpose_tile(uint16_t *out, const uint16_t *in, int64_t rows, int64_t distance) {
    Vector a[TILE], b[TILE];
    for (int i = 0; i < TILE; i++) memcpy(&a[i], in + i * distance, sizeof a[i]);
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < TILE / 2; i++) {
            b[2 * i] = interleave_low(a[i], a[i + 4]);
            b[2 * i + 1] = interleave_high(a[i], a[i + 4]);
        }
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < TILE; i++) memcpy(out + i * rows, &a[i], sizeof a[i]);
}

/* Transposes the group from (row, column) on, at most GROUP x GROUP. Rows often lie a power of two apart, and then a
 * first-level cache holds few of them. So each cache line is read at once, and written at once from a dense buffer.
 * Edges smaller than a tile are copied element by element. */
static void transpose_group(uint16_t *out, const uint16_t *in, int64_t row, int64_t column, int64_t rows,
                            int64_t columns, int64_t distance) {
    uint16_t group[GROUP * GROUP] __attribute__((aligned(64))); /* the transpose */
    int64_t height = min_i64(GROUP, rows - row), width = min_i64(GROUP, columns - column);
    in += row * distance + column;
    for (int64_t r = 0; r < height; r++) __builtin_prefetch(in + r * distance + AHEAD);
    for (int64_t r = 0; r < height; r += TILE)
        for (int64_t c = 0; c < width; c += TILE) {
            if (r + TILE <= height && c + TILE <= width) {
                transpose_tile(group + c * GROUP + r, in + r * distance + c, GROUP, distance);
                continue;
            }
            for (int64_t i = r; i < min_i64(r + TILE, height); i++)
                for (int64_t j = c; j < min_i64(c + TILE, width); j++) group[j * GROUP + i] = in[i * distance + j];
        }
    if (height == GROUP) { /* a copy of constant size is one store */
        for (int64_t c = 0; c < width; c++)
            memcpy(out + (column + c) * rows + row, group + c * GROUP, GROUP * sizeof *out);
        return;
    }
    for (int64_t c = 0; c < width; c++)
        memcpy(out + (column + c) * rows + row, group + c * GROUP, (size_t)height * sizeof *out);
}

void transpose_16bit(uint16_t *out, const uint16_t *in, int64_t rows, int64_t columns, int64_t distance, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row += GROUP)
        for (int64_t column = 0; column < columns; column += GROUP)
            transpose_group(out, in, row, column, rows, columns, distance);
}

/* Mirrors the group from (row, column) on, which lies on or below the diagonal. Elements have `size` bytes. */
ALWAYS_INLINE void mirror_group(char *matrix, int64_t row, int64_t column, int64_t n, size_t size) {
    char group[GROUP * GROUP * sizeof(uint32_t)] __attribute__((aligned(64))); /* the transpose */
    int64_t height = min_i64(GROUP, n - row), width = min_i64(GROUP, n - column);
    for (int64_t r = 0; r < height; r++)
        for (int64_t c = 0; c < width; c++)
            memcpy(group + (size_t)(c * GROUP + r) * size, matrix + (size_t)((row + r) * n + column + c) * size, size);
    for (int64_t c = 0; c < width; c++) {
        int64_t first = row == column ? c : 0; /* nothing below the diagonal is written */
        memcpy(matrix + (size_t)((column + c) * n + row + first) * size, group + (size_t)(c * GROUP + first) * size,
               (size_t)(height - first) * size);
    }
}

ALWAYS_INLINE void mirror_groups(char *matrix, int64_t n, int64_t row, int64_t column, int64_t side, size_t size) {
    for (int64_t r = row; r < min_i64(row + side, n); r += GROUP)
        for (int64_t c = column; c < min_i64(column + side, r + 1); c += GROUP) mirror_group(matrix, r, c, n, size);
}

/* In both calls `size` is a constant, so that one instruction copies an element. */
void mirror_block(void *matrix, int64_t n, int64_t row, int64_t column, int64_t side, size_t size) {
    if (size == sizeof(uint32_t))
        mirror_groups(matrix, n, row, column, side, sizeof(uint32_t));
    else
        mirror_groups(matrix, n, row, column, side, sizeof(uint16_t));
}
