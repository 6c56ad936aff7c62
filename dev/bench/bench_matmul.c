/* bench_matmul: the rate of bfloat16 matmuls against the rate of the same ones in float32, on this machine's CPU.
 *
 *     build/bench_matmul [--model=tiny|small|medium|large|xl] [--batch=N] [--steps=5] [--threads=N] [--json=FILE]
 *
 * On processors that have no fast bfloat16 instructions a bfloat16 matmul runs through float32
 * (kernels/cpu/matmul_onednn.c), and the goal is at least half of the float32 rate. ONEDNN_MAX_CPU_ISA=AVX2 or
 * AVX512_CORE shows on any x86-64 CPU how such a processor does. The shapes are those of a training step of the model:
 * linear layers and LM head in both directions, attention, one decoded token, and Newton-Schulz's matmuls. Each
 * measurement times float32 and bfloat16 one after the other; the best of --steps measurements counts, because other
 * programs only ever slow one down. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/bench/measure.h"
#include "util/program.h"

enum { DEFAULT_BATCH = 2, TYPES = 2 };
static const double MIN_SECONDS = 0.05, TARGET = 0.5;
static const DType types[TYPES] = {DTYPE_FLOAT32, DTYPE_BFLOAT16};

/* The arrays of one type that every case uses, each as large as its largest use. */
typedef struct Arrays {
    Backend *be;
    void *in, *weight, *out;
    float *sums; /* a weight's gradient, or attention's statistics */
} Arrays;

typedef struct Case {
    const char *name;
    void (*run)(const Arrays *a, const struct Case *c);
    int rows, in, out; /* of a linear layer; batch, positions, channels of attention; m, k, n of Newton-Schulz */
    double flops;
    double best[TYPES]; /* seconds */
} Case;

static void run_forward(const Arrays *a, const Case *c) {
    a->be->matmul_forward(a->be, a->out, a->in, a->weight, NULL, c->rows, c->in, c->out);
}

/* out takes the place of dout, in that of din. */
static void run_backward_input(const Arrays *a, const Case *c) {
    a->be->matmul_backward_input(a->be, a->in, a->out, a->weight, c->rows, c->in, c->out);
}

static void run_backward_weight(const Arrays *a, const Case *c) {
    a->be->matmul_backward_weight(a->be, a->sums, NULL, a->out, a->in, c->rows, c->in, c->out, false);
}

enum { HEAD_SIZE = 64 };

static void run_attention(const Arrays *a, const Case *c) {
    a->be->attention_forward(a->be, a->out, a->sums, a->in, c->rows, c->in, c->out, c->out / HEAD_SIZE, 0.125f, NULL);
}

static void run_newton_schulz(const Arrays *a, const Case *c) {
    BatchedMatmul p = {.type = a->be->activation, .count = 1, .m = c->rows, .n = c->out, .k = c->in, .alpha = 1.0f};
    a->be->matmul_batched(a->be, &p, a->out, a->in, a->weight, NULL);
}

/* Scaled, and added to a scaled matrix of the shape of C, in whose place the weight is. */
static void run_newton_schulz_sum(const Arrays *a, const Case *c) {
    BatchedMatmul p = {.type = a->be->activation, .count = 1, .m = c->rows, .n = c->out, .k = c->in};
    p.alpha = 2.0315f, p.beta = -4.7750f;
    a->be->matmul_batched(a->be, &p, a->out, a->in, a->weight, a->weight);
}

/* ---- measuring ---- */

static double seconds_of(const Arrays *a, const Case *c) {
    int calls = 0;
    double begun = seconds_now(), seconds;
    do {
        c->run(a, c);
        calls++;
        seconds = seconds_now() - begun;
    } while (seconds < MIN_SECONDS);
    return seconds / calls;
}

static void measure(Case *c, const Arrays arrays[TYPES], int steps) {
    for (int t = 0; t < TYPES; t++) c->best[t] = INFINITY, c->run(&arrays[t], c);
    for (int step = 0; step < steps; step++)
        for (int t = 0; t < TYPES; t++) c->best[t] = fmin(c->best[t], seconds_of(&arrays[t], c));
}

static void *random_array(Backend *be, size_t n, uint32_t stream) {
    void *array = be->alloc(be, n * dtype_size(be->activation), "a matmul");
    fill_random(be, array, n, be->activation, 1.0f, stream);
    return array;
}

static size_t largest(const Case *cases, int count, int64_t (*size)(const Case *c)) {
    int64_t limit = 0;
    for (int i = 0; i < count; i++) limit = max_i64(limit, size(&cases[i]));
    return (size_t)limit;
}

/* Attention reads queries, keys and values, three times its channels. */
static int64_t in_size(const Case *c) {
    return c->run == run_attention ? (int64_t)c->rows * c->in * c->out * 3 : (int64_t)c->rows * c->in;
}
static int64_t weight_size(const Case *c) { return (int64_t)c->in * c->out; }
static int64_t out_size(const Case *c) {
    return c->run == run_attention ? (int64_t)c->rows * c->in * c->out : (int64_t)c->rows * c->out;
}

static Arrays open_arrays(const BenchOptions *options, DType type, const Case *cases, int count) {
    BenchOptions own = *options;
    own.precision = type;
    Backend *be = bench_backend(&own);
    Arrays a = {.be = be};
    a.in = random_array(be, largest(cases, count, in_size), 1);
    a.weight = random_array(be, largest(cases, count, weight_size), 2);
    a.out = random_array(be, largest(cases, count, out_size), 3);
    a.sums = be->alloc(be, largest(cases, count, weight_size) * sizeof(float), "a gradient");
    return a;
}

static void close_arrays(Arrays *a) {
    void *memory[] = {a->in, a->weight, a->out, a->sums};
    for (size_t i = 0; i < ARRAY_LENGTH(memory); i++) a->be->free(a->be, memory[i]);
    a->be->close(a->be);
}

static double rate(const Case *c, int type) { return c->flops / c->best[type]; }

static void report(const Case *cases, int count, const BenchOptions *options, const Backend *be) {
    cJSON *object = cJSON_CreateObject(), *rows = cJSON_AddArrayToObject(object, "matmuls");
    double worst = INFINITY;
    cJSON_AddStringToObject(object, "machine", be->device);
    printf("%s, GPT-2 %s, %d threads, GFLOP/s\n", be->device, options->model->name, be->threads);
    printf("%-32s %20s %10s %10s %8s\n", "matmul", "sizes", "float32", "bfloat16", "ratio");
    for (int i = 0; i < count; i++) {
        const Case *c = &cases[i];
        double ratio = rate(c, 1) / rate(c, 0);
        char sizes[64];
        snprintf(sizes, sizeof sizes, "%d x %d x %d", c->rows, c->in, c->out);
        printf("%-32s %20s %10.4g %10.4g %8.2f\n", c->name, sizes, rate(c, 0) * 1e-9, rate(c, 1) * 1e-9, ratio);
        worst = fmin(worst, ratio);
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "matmul", c->name);
        cJSON_AddStringToObject(row, "sizes", sizes);
        add_figure(row, "float32 GFLOP/s", rate(c, 0) * 1e-9);
        add_figure(row, "bfloat16 GFLOP/s", rate(c, 1) * 1e-9);
        add_figure(row, "bfloat16 over float32", ratio);
        cJSON_AddItemToArray(rows, row);
    }
    printf("smallest ratio %.2f, target %.2f\n", worst, TARGET);
    write_figures(object, options->json);
}

int main(int argc, char **argv) {
    program_start("bench_matmul", argv);
    BenchOptions options = bench_options(argc, argv, 5, "batch");
    const GPT2Config *m = &options.model->config;
    int B = options.batch ? options.batch : DEFAULT_BATCH, T = m->block_size, N = B * T, C = m->n_embd;
    int V = (int)round_up(m->vocab_size, 64), lm_head_rows = (int)min_i64(N, 1024);
    double attention_flops = 2.0 * B * (double)T * T * C; /* causal: half of 4 B T^2 C */
    Case cases[] = {
        {.name = "qkv forward", .run = run_forward, .rows = N, .in = C, .out = 3 * C},
        {.name = "qkv backward, input", .run = run_backward_input, .rows = N, .in = C, .out = 3 * C},
        {.name = "qkv backward, weight", .run = run_backward_weight, .rows = N, .in = C, .out = 3 * C},
        {.name = "MLP up forward", .run = run_forward, .rows = N, .in = C, .out = 4 * C},
        {.name = "MLP down forward", .run = run_forward, .rows = N, .in = 4 * C, .out = C},
        {.name = "LM head forward", .run = run_forward, .rows = lm_head_rows, .in = C, .out = V},
        {.name = "LM head backward, input", .run = run_backward_input, .rows = lm_head_rows, .in = C, .out = V},
        {.name = "LM head backward, weight", .run = run_backward_weight, .rows = lm_head_rows, .in = C, .out = V},
        {.name = "qkv of one decoded token", .run = run_forward, .rows = 1, .in = C, .out = 3 * C},
        {.name = "attention forward", .run = run_attention, .rows = B, .in = T, .out = C, .flops = attention_flops},
        {.name = "Newton-Schulz, X X^T of qkv", .run = run_newton_schulz, .rows = C, .in = 3 * C, .out = C},
        {.name = "Newton-Schulz, A A + A of qkv", .run = run_newton_schulz_sum, .rows = C, .in = C, .out = C},
        {.name = "Newton-Schulz, A X + X of qkv", .run = run_newton_schulz_sum, .rows = C, .in = C, .out = 3 * C},
        {.name = "Newton-Schulz, 128 x 128", .run = run_newton_schulz_sum, .rows = 128, .in = 128, .out = 128},
    };
    int count = (int)ARRAY_LENGTH(cases);
    Arrays arrays[TYPES];
    for (int t = 0; t < TYPES; t++) arrays[t] = open_arrays(&options, types[t], cases, count);
    for (int i = 0; i < count; i++) {
        Case *c = &cases[i];
        if (c->flops == 0.0) c->flops = 2.0 * c->rows * (double)c->in * c->out;
        measure(c, arrays, options.steps);
    }
    report(cases, count, &options, arrays[0].be);
    for (int t = 0; t < TYPES; t++) close_arrays(&arrays[t]);
    return EXIT_DONE;
}
