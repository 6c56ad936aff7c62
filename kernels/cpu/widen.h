/* widen.h: bfloat16 matrices to float32 and back, for processors that cannot multiply bfloat16 (matmul_onednn.c). */
#ifndef MARS_KERNELS_CPU_WIDEN_H
#define MARS_KERNELS_CPU_WIDEN_H

#include <stdint.h>

#include "util/dtype.h"

/* out (rows, columns), dense, = in, whose rows lie `distance` elements apart. Both functions use `threads` threads. */
void widen_matrix(float *out, const bfloat16 *in, int64_t rows, int64_t columns, int64_t distance, int threads);

/* out = in + beta out, rounded once. in (rows, columns) is dense; the rows of out lie `distance` elements apart. If
 * beta is 0, out is not read. */
void narrow_matrix(bfloat16 *out, const float *in, int64_t rows, int64_t columns, int64_t distance, float beta,
                   int threads);

#endif
