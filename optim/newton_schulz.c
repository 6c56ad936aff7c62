/* newton_schulz.c: the iteration of newton_schulz.h, in matmuls of the backend's table after one pass that scales. */
#include "optim/newton_schulz.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "optim/multi_tensor.h"
#include "util/philox.h"

/* A step takes each singular value s to linear s + cubic s^3 + quintic s^5. */
typedef struct Polynomial {
    float linear, cubic, quintic;
} Polynomial;

enum { POLAR_EXPRESS_STEPS = 5 };

/* How an iteration starts, and its polynomial in each step; a step beyond the last polynomial uses the last one. */
static const struct {
    double norm_factor, norm_eps;
    int count;
    Polynomial steps[POLAR_EXPRESS_STEPS];
} iterations[] = {
    /* It does not converge to 1, but rises steeply at 0, which is what a few steps need. */
    [NS_COEFFICIENTS_QUINTIC] = {1.0, 1e-7, 1, {{3.4445f, -4.7750f, 2.0315f}}},
    [NS_COEFFICIENTS_POLAR_EXPRESS] = {1.02,
                                       1e-6,
                                       POLAR_EXPRESS_STEPS,
                                       {{8.156554524902461f, -22.48329292557795f, 15.878769915207462f},
                                        {4.042929935166739f, -2.808917465908714f, 0.5000178451051316f},
                                        {3.8916678022926607f, -2.772484153217685f, 0.5060648178503393f},
                                        {3.285753657755655f, -2.3681294933425376f, 0.46449024233003106f},
                                        {2.3465413258596377f, -1.7097828382687081f, 0.42323551169305323f}}},
    [NS_COEFFICIENTS_CUBIC] = {1.0, 1e-7, 1, {{2.0f, -1.5f, 0.5f}}},
};

static Polynomial polynomial_of(NsCoefficients coefficients, int step) {
    const int last = iterations[coefficients].count - 1;
    return iterations[coefficients].steps[step < last ? step : last];
}

/* Elements of X in the workspace, unless a single matrix is larger: 134 MB of bfloat16, twice. With a quarter of it the
 * matmuls of GPT-2 small's matrices, 7 and 5 at a time instead of all 12, took 14 % longer on an H100. */
static const int64_t BATCH_ELEMENTS = 1 << 26;

struct NewtonSchulz {
    Backend *be;
    DType type;
    NsCoefficients coefficients;
    int steps;
    size_t x_bytes, a_bytes; /* of a buffer of X, and of A or B */
    void *x[2];              /* a step reads one and writes the other; x[0] is the input */
    void *a, *b;
};

/* A GPU needs many matrices at a time to be busy. A CPU multiplies large matrices one after the other, and is faster if
 * one matrix goes through all steps while it is in the caches: two of 3072 x 768 together took a quarter longer. */
int newton_schulz_batch(const Backend *be, const NewtonSchulzShape *shape) {
    int64_t size = shape->rows * shape->columns, work = size * min_i64(shape->rows, shape->columns);
    if (work > be->side_by_side_work) return 1;
    return (int)max_i64(1, min_i64(shape->count, BATCH_ELEMENTS / size));
}

NewtonSchulz *newton_schulz_plan(Backend *be, DType type, NsCoefficients coefficients, int steps,
                                 const NewtonSchulzShape *shapes, int shape_count, Arena *arena, Error *error) {
    assert(coefficients != NS_COEFFICIENTS_POLAR_EXPRESS || steps == POLAR_EXPRESS_STEPS);
    if (!be->multiplies(be, type)) {
        error_set(error, "%s cannot multiply %s matrices; set optimizer.ns_dtype to float32", be->device,
                  dtype_name(type));
        return NULL;
    }
    int64_t x_elements = 0, a_elements = 0;
    for (int i = 0; i < shape_count; i++) {
        int64_t batch = newton_schulz_batch(be, &shapes[i]), side = min_i64(shapes[i].rows, shapes[i].columns);
        x_elements = max_i64(x_elements, batch * shapes[i].rows * shapes[i].columns);
        a_elements = max_i64(a_elements, batch * side * side);
    }
    NewtonSchulz *ns = checked_calloc(1, sizeof *ns, "Newton-Schulz");
    ns->be = be, ns->type = type, ns->coefficients = coefficients, ns->steps = steps;
    ns->x_bytes = (size_t)x_elements * dtype_size(type), ns->a_bytes = (size_t)a_elements * dtype_size(type);
    for (int i = 0; i < 2; i++) arena_plan(arena, "workspace", "Newton-Schulz, X", ns->x_bytes, &ns->x[i]);
    arena_plan(arena, "workspace", "Newton-Schulz, A", ns->a_bytes, &ns->a);
    arena_plan(arena, "workspace", "Newton-Schulz, B", ns->a_bytes, &ns->b);
    return ns;
}

void newton_schulz_close(NewtonSchulz *ns) { free(ns); }

size_t newton_schulz_bytes(const NewtonSchulz *ns) { return 2 * ns->x_bytes + 2 * ns->a_bytes; }
DType newton_schulz_type(const NewtonSchulz *ns) { return ns->type; }
void *newton_schulz_input(NewtonSchulz *ns) { return ns->x[0]; }

const void *newton_schulz_run(NewtonSchulz *ns, int64_t rows, int64_t columns, int count, const double *square_norms) {
    if ((size_t)(count * rows * columns) * dtype_size(ns->type) > ns->x_bytes)
        die("Newton-Schulz: no workspace for %d matrices of %" PRId64 " x %" PRId64, count, rows, columns);
    Backend *be = ns->be;
    bool tall = rows > columns;
    int64_t side = min_i64(rows, columns), inner = max_i64(rows, columns);
    BatchedMatmul square = {ns->type, count, side, side, inner, tall, !tall, 1.0f, 0.0f, true}; /* A */
    multi_tensor_passes(be)->normalize(be, ns->x[0], ns->type, (size_t)(rows * columns), count, square_norms,
                                       iterations[ns->coefficients].norm_factor, iterations[ns->coefficients].norm_eps);
    for (int step = 0; step < ns->steps; step++) {
        const void *x = ns->x[step % 2];
        Polynomial p = polynomial_of(ns->coefficients, step);
        BatchedMatmul polynomial = {ns->type, count, side, side, side, false, false, p.quintic, p.cubic, true}; /* B */
        BatchedMatmul update = {ns->type, count, rows, columns, side, false, false, 1.0f, p.linear, false};     /* X */
        be->matmul_batched(be, &square, ns->a, x, x, NULL);
        be->matmul_batched(be, &polynomial, ns->b, ns->a, ns->a, ns->a);
        be->matmul_batched(be, &update, ns->x[(step + 1) % 2], tall ? x : ns->b, tall ? ns->b : x, x);
    }
    return ns->x[ns->steps % 2];
}

/* ---- random matrices ---- */

/* The input is filled with this many random numbers, repeated. The number is odd, so that no two rows of a matrix are
 * equal. */
enum { RANDOM_BLOCK = (1 << 20) - 1 };

/* Uniform in (-0.5, 0.5], in the workspace's type; the caller frees them. */
static void *random_numbers(DType type, size_t n) {
    void *numbers = checked_malloc(n * dtype_size(type), "random matrices");
    for (size_t i = 0; i < n; i++) {
        float x = (float)philox_uniform(philox(0, PHILOX_TUNING, 0, i).word[0]) - 0.5f;
        if (type == DTYPE_FLOAT32)
            ((float *)numbers)[i] = x;
        else
            ((bfloat16 *)numbers)[i] = bfloat16_from_float(x);
    }
    return numbers;
}

static void fill_input(NewtonSchulz *ns, size_t n) {
    size_t block = n < RANDOM_BLOCK ? n : RANDOM_BLOCK, size = dtype_size(ns->type);
    void *numbers = random_numbers(ns->type, block);
    for (size_t at = 0; at < n; at += block)
        ns->be->copy_from_host(ns->be, (char *)ns->x[0] + at * size, numbers, (n - at < block ? n - at : block) * size);
    free(numbers);
}

void newton_schulz_autotune(NewtonSchulz *ns, int64_t rows, int64_t columns, int count, double *square_norms) {
    const double largest_square = 0.25; /* of a random number; a norm above the true one keeps the iteration finite */
    double *bounds = checked_malloc((size_t)count * sizeof *bounds, "the norms of random matrices");
    for (int i = 0; i < count; i++) bounds[i] = largest_square * (double)rows * (double)columns;
    ns->be->copy_from_host(ns->be, square_norms, bounds, (size_t)count * sizeof *bounds);
    free(bounds);
    fill_input(ns, (size_t)(count * rows * columns));
    newton_schulz_run(ns, rows, columns, count, square_norms);
}

double newton_schulz_iteration_flops(int64_t rows, int64_t columns) {
    double m = (double)min_i64(rows, columns), n = (double)max_i64(rows, columns);
    return 4 * m * m * n + 2 * m * m * m;
}

double newton_schulz_flops(int64_t rows, int64_t columns, int steps) {
    return steps * newton_schulz_iteration_flops(rows, columns);
}
