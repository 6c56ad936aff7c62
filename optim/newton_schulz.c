/* newton_schulz.c: the iteration of newton_schulz.h, in products of the backend's table. Only the scaling pass is
 * written for the device. */
#include "optim/newton_schulz.h"

#include <math.h>
#include <stdlib.h>

/* Keller Jordan's quintic, 3.4445 s - 4.7750 s^3 + 2.0315 s^5 of each singular value s. It does not settle at 1, but
 * rises steeply at 0, which is what a few steps need. */
static const float LINEAR = 3.4445f, CUBIC = -4.7750f, QUINTIC = 2.0315f;

/* In bfloat16 the coefficients are rounded as well, to 3.4375, -4.78125 and 2.03125: so they are in the runs that the
 * reference values come from, where a bfloat16 matrix times a number is computed in bfloat16. */
static float coefficient(DType type, float value) {
    return type == DTYPE_FLOAT32 ? value : float_from_bfloat16(bfloat16_from_float(value));
}

static const double NORM_EPS = 1e-7;

/* Elements of X in the workspace, where a matrix is not larger by itself. */
static const int64_t BATCH_ELEMENTS = 1 << 24;

/* Elements that one thread scales at a time. */
enum { SCALE_BLOCK = 1 << 14 };

struct NewtonSchulz {
    Backend *be;
    DType type;
    int steps;
    size_t bytes, x_bytes; /* all of the workspace; one buffer of X */
    void *memory;          /* the buffers below, one behind the other */
    void *x[2];            /* a step reads one and writes the other; x[0] is the input */
    void *a, *b;
};

/* A GPU needs many matrices at a time to be busy. A CPU multiplies large ones one after the other, and then the same
 * one is best taken through all steps while it is in the caches: two of 3072 x 768 together took a quarter longer. */
int newton_schulz_batch(const Backend *be, const NewtonSchulzShape *shape) {
    int64_t size = shape->rows * shape->columns, work = size * min_i64(shape->rows, shape->columns);
    if (work > be->side_by_side_work) return 1;
    return (int)max_i64(1, min_i64(shape->count, BATCH_ELEMENTS / size));
}

/* Whole pages, so that the next buffer is aligned as memory from the table is. */
static size_t buffer_bytes(DType type, int64_t elements) {
    return (size_t)round_up(elements * (int64_t)dtype_size(type), 4096);
}

NewtonSchulz *newton_schulz_open(Backend *be, DType type, int steps, const NewtonSchulzShape *shapes, int shape_count,
                                 Error *error) {
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
    size_t x_bytes = buffer_bytes(type, x_elements), a_bytes = buffer_bytes(type, a_elements);
    ns->be = be, ns->type = type, ns->steps = steps;
    ns->bytes = 2 * x_bytes + 2 * a_bytes, ns->x_bytes = x_bytes;
    char *memory = ns->memory = be->alloc(be, ns->bytes + 1, "Newton-Schulz"); /* also where there are no shapes */
    ns->x[0] = memory, ns->x[1] = memory + x_bytes;
    ns->a = memory + 2 * x_bytes, ns->b = memory + 2 * x_bytes + a_bytes;
    return ns;
}

void newton_schulz_close(NewtonSchulz *ns) {
    if (!ns) return;
    ns->be->free(ns->be, ns->memory);
    free(ns);
}

size_t newton_schulz_bytes(const NewtonSchulz *ns) { return ns->bytes; }
DType newton_schulz_type(const NewtonSchulz *ns) { return ns->type; }
void *newton_schulz_input(NewtonSchulz *ns) { return ns->x[0]; }

/* x <- x / (norm + eps), for matrices of `size` elements one behind the other. */
static void scale_matrices(Backend *be, DType type, void *x, int64_t size, int count, const double *square_norms) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(be->threads)
    for (int i = 0; i < count; i++)
        for (int64_t begin = 0; begin < size; begin += SCALE_BLOCK) {
            int64_t n = min_i64(SCALE_BLOCK, size - begin);
            float factor = (float)(1.0 / (sqrt(square_norms[i]) + NORM_EPS));
            float *RESTRICT x32 = (float *)x + i * size + begin;
            bfloat16 *RESTRICT x16 = (bfloat16 *)x + i * size + begin;
            if (type == DTYPE_FLOAT32)
                for (int64_t j = 0; j < n; j++) x32[j] *= factor;
            else
                for (int64_t j = 0; j < n; j++) x16[j] = bfloat16_from_float(float_from_bfloat16(x16[j]) * factor);
        }
}

const void *newton_schulz_run(NewtonSchulz *ns, int64_t rows, int64_t columns, int count, const double *square_norms) {
    if ((size_t)(count * rows * columns) * dtype_size(ns->type) > ns->x_bytes)
        die("Newton-Schulz: no workspace for %d matrices of %lld x %lld", count, (long long)rows, (long long)columns);
    Backend *be = ns->be;
    bool tall = rows > columns;
    int64_t side = min_i64(rows, columns), inner = max_i64(rows, columns);
    float linear = coefficient(ns->type, LINEAR), cubic = coefficient(ns->type, CUBIC);
    float quintic = coefficient(ns->type, QUINTIC);
    BatchedProduct square = {ns->type, count, side, side, inner, tall, !tall, 1.0f, 0.0f};         /* A */
    BatchedProduct polynomial = {ns->type, count, side, side, side, false, false, quintic, cubic}; /* B */
    BatchedProduct update = {ns->type, count, rows, columns, side, false, false, 1.0f, linear};    /* X */
    scale_matrices(be, ns->type, ns->x[0], rows * columns, count, square_norms);
    for (int step = 0; step < ns->steps; step++) {
        const void *x = ns->x[step % 2];
        be->batched_product(be, &square, ns->a, x, x, NULL);
        be->batched_product(be, &polynomial, ns->b, ns->a, ns->a, ns->a);
        be->batched_product(be, &update, ns->x[(step + 1) % 2], tall ? x : ns->b, tall ? ns->b : x, x);
    }
    return ns->x[ns->steps % 2];
}

double newton_schulz_flops(int64_t rows, int64_t columns, int steps) {
    double m = (double)min_i64(rows, columns), n = (double)max_i64(rows, columns);
    return steps * (4 * m * m * n + 2 * m * m * m);
}
