/* widen.c: bfloat16 matrices to float32 and back (see widen.h). */
#include "kernels/cpu/widen.h"

#include <stdbool.h>

#include "util/base.h"

/* Elements that one thread converts in less time than other threads need to start. */
enum { SMALL_MATRIX = 1 << 14 };

static bool worth_threads(int64_t rows, int64_t columns, int threads) {
    return threads > 1 && rows * columns > SMALL_MATRIX;
}

static void widen_row(float *RESTRICT to, const bfloat16 *RESTRICT from, int64_t columns) {
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) to[i] = float_from_bfloat16(from[i]);
}

void widen_matrix(float *out, const bfloat16 *in, int64_t rows, int64_t columns, int64_t distance, int threads) {
    if (worth_threads(rows, columns, threads)) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t row = 0; row < rows; row++) widen_row(out + row * columns, in + row * distance, columns);
    } else { /* starting even a region of one thread takes longer than the work */
        for (int64_t row = 0; row < rows; row++) widen_row(out + row * columns, in + row * distance, columns);
    }
}

/* to = from + beta to */
static void narrow_row(bfloat16 *RESTRICT to, const float *RESTRICT from, int64_t columns, float beta) {
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) to[i] = bfloat16_from_float(from[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) to[i] = bfloat16_from_float(from[i] + beta * float_from_bfloat16(to[i]));
    }
}

void narrow_matrix(bfloat16 *out, const float *in, int64_t rows, int64_t columns, int64_t distance, float beta,
                   int threads) {
    if (worth_threads(rows, columns, threads)) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t row = 0; row < rows; row++) narrow_row(out + row * distance, in + row * columns, columns, beta);
    } else {
        for (int64_t row = 0; row < rows; row++) narrow_row(out + row * distance, in + row * columns, columns, beta);
    }
}
