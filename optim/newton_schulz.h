/* newton_schulz.h: the nearest semi-orthogonal matrix, nearly (Jordan et al., "Muon: an optimizer for hidden layers in
 * neural networks", 2024).
 *
 *   X <- G / (f ||G|| + eps)
 *   repeat `steps` times, for X with no more rows than columns:
 *       A = X X^T;   B = b A + c A A;   X <- a X + B X
 * A matrix with more rows than columns is treated as its transpose: A = X^T X and X <- a X + X B, which needs no
 * transposing in memory. In bfloat16 matrices are rounded, coefficients are not, as in PyTorch 2.15. The result has G's
 * singular vectors, and singular values near 1:
 *
 *   quintic        a, b, c = 3.4445, -4.7750, 2.0315; f = 1, eps = 1e-7. Jordan's; ends between about 0.7 and 1.2.
 *   cubic          a, b, c = 2, -1.5, 0.5; f and eps as above. Converges to 1, with an error that is cubed in each step
 *                  near 1; small singular values double in a step.
 *   polar-express  other coefficients in each of five steps; f = 1.02, eps = 1e-6 (Amsel et al., "The Polar Express:
 *                  Optimal matrix sign methods and their application to the Muon algorithm", 2025, arXiv:2505.16932).
 *
 * Matrices of one shape are computed together, in strided-batched matmuls (backend.h), as many at a time as fit the
 * workspace, which is allocated once. A device that computes such matrices one after the other gets one at a time. Cost
 * of a matrix with m <= n sides: steps (4 m^2 n + 2 m^3) FLOPs. A and B are symmetric, so steps (3 m^2 n + m^3) would
 * do. A CPU comes near that for matrices of more than 384 rows: it computes the blocks of 128 x 128 of A and B on and
 * below the diagonal (kernels/cpu/matmul_batched.c). */
#ifndef MARS_OPTIM_NEWTON_SCHULZ_H
#define MARS_OPTIM_NEWTON_SCHULZ_H

#include "kernels/backend.h"
#include "optim/optim_config.h"
#include "util/arena.h"

EXTERN_C_BEGIN

enum { NEWTON_SCHULZ_MATMULS = 3 }; /* batched matmuls of an iteration */

typedef struct NewtonSchulz NewtonSchulz;

/* Matrices of one shape, and their workspace. */
typedef struct NewtonSchulzShape {
    int64_t rows, columns;
    int count;
} NewtonSchulzShape;

/* Lists the workspace for the given shapes, in `type`, in the arena. The caller allocates the arena before the first
 * run. `steps` must be 5 for polar-express. If the device cannot multiply that type, returns NULL and the reason, and
 * lists nothing. */
NewtonSchulz *newton_schulz_plan(Backend *be, DType type, NsCoefficients coefficients, int steps,
                                 const NewtonSchulzShape *shapes, int shape_count, Arena *arena, Error *error);
void newton_schulz_close(NewtonSchulz *ns);

/* Bytes of the workspace. */
size_t newton_schulz_bytes(const NewtonSchulz *ns);
DType newton_schulz_type(const NewtonSchulz *ns);

/* How many matrices of a shape are handed over at a time: at least 1, at most shape->count. */
int newton_schulz_batch(const Backend *be, const NewtonSchulzShape *shape);

/* Where the caller puts up to newton_schulz_batch() matrices of one shape, dense and one after the other, in the
 * workspace's type, before newton_schulz_run(). Device memory; the next run overwrites it. */
void *newton_schulz_input(NewtonSchulz *ns);

/* Works on `count` matrices of `rows` x `columns` that are in the input; square_norms[i] (device memory) is the sum of
 * squares of matrix i's elements. Returns where the results are, laid out as the input, until the next run. A matrix of
 * zeros stays zero. */
const void *newton_schulz_run(NewtonSchulz *ns, int64_t rows, int64_t columns, int count, const double *square_norms);

/* Works in the same way on random matrices, which overwrite the input and square_norms: for be->autotune(), since a GPU
 * multiplies zeros faster than what training multiplies. */
void newton_schulz_autotune(NewtonSchulz *ns, int64_t rows, int64_t columns, int count, double *square_norms);

/* FLOPs of one matrix: in one iteration, and in `steps` of them. */
double newton_schulz_iteration_flops(int64_t rows, int64_t columns);
double newton_schulz_flops(int64_t rows, int64_t columns, int steps);

EXTERN_C_END

#endif
