/* measure.c: see measure.h. */
#include "dev/bench/measure.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/philox.h"

enum { MATMUL_M = 4096, MATMUL_N = 3072, MATMUL_K = 768, COPY_FLOATS = 1 << 27, COPY_PIECE = 1 << 18 };

/* What is behind "--NAME=", or NULL where the argument is another option. */
static const char *value_of(const char *argument, const char *name) {
    size_t length = strlen(name);
    bool same = strncmp(argument, "--", 2) == 0 && strncmp(argument + 2, name, length) == 0;
    return same && argument[2 + length] == '=' ? argument + 3 + length : NULL;
}

BenchOptions bench_options(int argc, char **argv, int steps) {
    BenchOptions o = {backend_auto_precision("cpu"), steps, (int)sysconf(_SC_NPROCESSORS_ONLN), NULL, NULL};
    for (int i = 1; i < argc; i++) {
        const char *value;
        if ((value = value_of(argv[i], "precision")) && (!strcmp(value, "float32") || !strcmp(value, "bfloat16")))
            o.precision = strcmp(value, "float32") == 0 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
        else if ((value = value_of(argv[i], "steps")))
            o.steps = atoi(value);
        else if ((value = value_of(argv[i], "threads")))
            o.threads = atoi(value);
        else if ((value = value_of(argv[i], "only")))
            o.only = value;
        else if ((value = value_of(argv[i], "json")))
            o.json = value;
        else
            die_usage("unexpected argument '%s'; there are --precision=bfloat16|float32, --steps=N, --threads=N, "
                      "--only=NAME and --json=FILE",
                      argv[i]);
    }
    if (o.steps < 1 || o.steps > MOST_MEASUREMENTS || o.threads < 1)
        die_usage("--steps must be from 1 to %d, --threads at least 1", MOST_MEASUREMENTS);
    return o;
}

void *random_numbers(size_t n, DType type, uint32_t stream) {
    float *numbers = checked_malloc(n * sizeof *numbers, "random numbers");
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        numbers[i] = (float)philox_uniform(philox(1, PHILOX_INIT_WEIGHTS, stream, i).word[0]) - 0.5f;
    if (type == DTYPE_BFLOAT16)
        for (size_t i = 0; i < n; i++) ((bfloat16 *)numbers)[i] = bfloat16_from_float(numbers[i]);
    return numbers;
}

void plain_product_open(PlainProduct *p, DType type, int threads) {
    Error error;
    memset(p, 0, sizeof *p);
    p->matmul = matmul_open(type, threads, &error);
    if (!p->matmul) return;
    MatmulShape shape = matmul_dense(MATMUL_M, MATMUL_N, MATMUL_K, false, false, type, type);
    p->kernel = matmul_kernel(p->matmul, &shape);
    p->a = random_numbers((size_t)MATMUL_M * MATMUL_K, type, 0);
    p->b = random_numbers((size_t)MATMUL_K * MATMUL_N, type, 1);
    p->c = random_numbers((size_t)MATMUL_M * MATMUL_N, type, 2);
}

double plain_product_rate(PlainProduct *p) {
    if (!p->matmul) return 0.0;
    double begun = seconds_now();
    int runs = 0;
    do {
        matmul_run(p->matmul, p->kernel, 0, p->a, p->b, p->c);
        runs++;
    } while (seconds_now() - begun < 0.2);
    return 2.0 * MATMUL_M * MATMUL_N * MATMUL_K * runs / (seconds_now() - begun);
}

void plain_copy_open(PlainCopy *c, Backend *be) {
    c->be = be;
    c->from = be->alloc(be, COPY_FLOATS * sizeof(float), "a copy");
    c->to = be->alloc(be, COPY_FLOATS * sizeof(float), "a copy");
}

double plain_copy_rate(PlainCopy *c) {
    float *RESTRICT to = c->to;
    const float *RESTRICT from = c->from;
    double begun = seconds_now();
#pragma omp parallel for simd schedule(static) num_threads(c->be->threads)
    for (int i = 0; i < COPY_FLOATS; i++) to[i] = from[i];
    double middle = seconds_now();
#pragma omp parallel for schedule(static) num_threads(c->be->threads)
    for (int i = 0; i < COPY_FLOATS; i += COPY_PIECE) memcpy(to + i, from + i, COPY_PIECE * sizeof *to);
    double end = seconds_now(), seconds = middle - begun < end - middle ? middle - begun : end - middle;
    return 2.0 * COPY_FLOATS * sizeof(float) / seconds;
}

void plain_copy_close(PlainCopy *c) {
    c->be->free(c->be, c->from);
    c->be->free(c->be, c->to);
}

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

double median(const double *values, int n) {
    double sorted[MOST_MEASUREMENTS];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
}
