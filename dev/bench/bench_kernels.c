/* bench_kernels: every operation of a training step by itself, with the sizes of a GPT-2, against what the device
 * reaches at its best.
 *
 *     build/bench_kernels [--device=auto|cpu|cuda] [--model=tiny|small|medium|large|xl] [--batch=N] [--steps=8]
 *                         [--precision=auto|bfloat16|float32] [--threads=N] [--json=FILE]
 *
 * Operations that memory bounds are measured by the bytes that they cannot do without (each input read once, each
 * output written once, of an embedding the rows that occur) over the bandwidth of a copy; matmuls and attention by
 * their FLOP/s over those of a large matmul (measure.h). Attention is counted causal: 2 B NH T^2 HS forward, 2.5 times
 * that backward. A measurement is many calls between two waits; each works on the next of several sets of buffers, so that
 * nothing is found in a cache that would not be there in training. The rates to compare with are taken before each
 * operation, as clocks change. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/bench/measure.h"
#include "util/philox.h"
#include "util/program.h"

/* Sequences where --batch is not given. */
enum { GPU_BATCH = 32, CPU_BATCH = 4, TINY_BATCH = 2 };

/* All sets of buffers together are larger by this than the largest cache of a GPU (an H200's holds 60 MB). */
static const double BYTES_IN_TURN = 256e6;
enum { MAX_SETS = 16, MAX_OPERANDS = 8 };

/* Of a measurement. */
static const double LEAST_SECONDS = 0.02;

/* Targets on an H100 or H200, of the measured copy bandwidth or matmul rate: attention with head size 64
 * and T = 1024. */
static const double MEMORY_TARGET = 0.85, ATTENTION_FORWARD_TARGET = 0.28, ATTENTION_BACKWARD_TARGET = 0.20;

/* ---- cases ---- */

/* The sizes of an operation, in the letters of backend.h. */
typedef struct Sizes {
    int B, T, N, C, NH, V, VP, IC, OC;
} Sizes;

/* The first two are random numbers; ANGLE: cosines and sines in turn. */
typedef enum Element { ACTIVATION, FLOAT, ONE, ANGLE, TOKEN } Element;

/* An array that an operation works on: as many of it as there are sets, one after the other. */
typedef struct Operand {
    Element element;
    size_t count, bytes; /* of one, with what aligns the next */
    char *memory;
} Operand;

typedef struct Case Case;
struct Case {
    char name[48], sizes[48];
    Sizes s;
    void (*run)(Backend *be, const Case *c, void **p); /* p: the operands of a set, in the order of operand() */
    double bytes;                                      /* that it cannot do without */
    double flops;                                      /* 0 where memory bounds it */
    double target;                                     /* 0 = none */
    int operand_count;
    Operand operands[MAX_OPERANDS];
};

typedef struct Bench {
    BenchOptions options;
    Backend *be;
    Rates rates;
    Sizes s;
    int32_t *tokens; /* (N) */
    double distinct; /* share of the vocabulary that occurs in them */
    cJSON *kernels;
} Bench;

static size_t element_size(const Bench *bench, Element element) {
    return element == ACTIVATION ? dtype_size(bench->be->activation) : 4;
}

/* The next operand, rows x columns, of which the operation touches each element so often: 1 = reads or writes it, 2 =
 * both. */
static void operand(const Bench *bench, Case *c, Element element, int64_t rows, int64_t columns, double touched) {
    size_t count = (size_t)(rows * columns), bytes = count * element_size(bench, element);
    c->operands[c->operand_count++] = (Operand){element, count, (size_t)round_up((int64_t)bytes, 4096), NULL};
    c->bytes += (double)bytes * touched;
}

/* ---- the operations, and what each reads and writes ---- */

static void run_embedding_forward(Backend *be, const Case *c, void **p) {
    be->embedding_forward(be, p[0], p[1], p[2], p[3], c->s.B, c->s.T, c->s.C);
}

static void run_embedding_backward(Backend *be, const Case *c, void **p) {
    be->embedding_backward(be, p[0], p[1], p[2], p[3], c->s.B, c->s.T, c->s.C, c->s.V, false);
}

static NormShape norm_of(const Case *c, NormKind kind) { return (NormShape){kind, 1e-5f, c->s.N, c->s.C}; }

static void run_layernorm_forward(Backend *be, const Case *c, void **p) {
    NormShape norm = norm_of(c, NORM_LAYERNORM);
    be->norm_forward(be, &norm, p[0], p[1], p[2], p[3], p[4], NULL);
}

static void run_residual_layernorm(Backend *be, const Case *c, void **p) {
    NormShape norm = norm_of(c, NORM_LAYERNORM);
    be->residual_norm_forward(be, &norm, p[0], p[1], p[2], p[3], p[4], p[5], p[6], NULL);
}

static void run_layernorm_backward(Backend *be, const Case *c, void **p) {
    NormShape norm = norm_of(c, NORM_LAYERNORM);
    be->norm_backward(be, &norm, p[0], p[1], NULL, p[2], p[3], p[4], p[5], p[6], false);
}

/* RMSNorm without gain, as modded-nanogpt has it. */
static void run_rmsnorm_forward(Backend *be, const Case *c, void **p) {
    NormShape norm = norm_of(c, NORM_RMSNORM);
    be->norm_forward(be, &norm, p[0], NULL, p[1], p[2], NULL, NULL);
}

static void run_residual_rmsnorm(Backend *be, const Case *c, void **p) {
    NormShape norm = norm_of(c, NORM_RMSNORM);
    be->residual_norm_forward(be, &norm, p[0], p[1], NULL, p[2], p[3], p[4], NULL, NULL);
}

static void run_rmsnorm_backward(Backend *be, const Case *c, void **p) {
    NormShape norm = norm_of(c, NORM_RMSNORM);
    be->norm_backward(be, &norm, p[0], NULL, NULL, p[1], p[2], NULL, NULL, p[3], false);
}

static void run_qk_norm_rope_forward(Backend *be, const Case *c, void **p) {
    be->qk_norm_rope_forward(be, p[0], p[1], p[2], 1e-5f, c->s.B, c->s.T, c->s.C, c->s.NH);
}

static void run_qk_norm_rope_backward(Backend *be, const Case *c, void **p) {
    be->qk_norm_rope_backward(be, p[0], p[1], p[2], p[3], c->s.B, c->s.T, c->s.C, c->s.NH);
}

static void softmax(Backend *be, const Case *c, void **p, float softcap) {
    be->softmax_cross_entropy(be, p[0], p[1], p[2], 1.0f / (float)c->s.N, softcap, c->s.N, c->s.V, c->s.VP, true);
}

static void run_softmax(Backend *be, const Case *c, void **p) { softmax(be, c, p, 0.0f); }
static void run_softmax_softcap(Backend *be, const Case *c, void **p) { softmax(be, c, p, 15.0f); }

/* In place, by a factor that leaves numbers as they are however often it is called. */
static void run_scale(Backend *be, const Case *c, void **p) { be->scale(be, p[0], p[0], -1.0f, c->operands[0].count); }

static const Dropout bench_dropout = {.rate = 0.1f, .seed = 1};

static void run_dropout(Backend *be, const Case *c, void **p) {
    be->dropout(be, &bench_dropout, p[0], p[1], c->s.B, (size_t)c->s.T * (size_t)c->s.C);
}

static void run_to_activation(Backend *be, const Case *c, void **p) {
    be->to_activation(be, p[0], p[1], c->operands[0].count);
}

static void run_forward(Backend *be, const Case *c, void **p) {
    be->matmul_forward(be, p[0], p[1], p[2], NULL, c->s.N, c->s.IC, c->s.OC);
}

static void activation_forward(Backend *be, const Case *c, void **p, ActivationKind activation) {
    be->matmul_activation_forward(be, activation, p[0], p[3], p[1], p[2], NULL, c->s.N, c->s.IC, c->s.OC);
}

static void run_gelu_forward(Backend *be, const Case *c, void **p) { activation_forward(be, c, p, ACTIVATION_GELU); }
static void run_relu2_forward(Backend *be, const Case *c, void **p) { activation_forward(be, c, p, ACTIVATION_RELU2); }

static void run_backward_input(Backend *be, const Case *c, void **p) {
    be->matmul_backward_input(be, p[0], p[1], p[2], c->s.N, c->s.IC, c->s.OC);
}

static void activation_backward(Backend *be, const Case *c, void **p, ActivationKind activation) {
    be->matmul_backward_activation(be, activation, p[0], p[1], p[2], p[3], c->s.N, c->s.IC, c->s.OC);
}

static void run_gelu_backward(Backend *be, const Case *c, void **p) { activation_backward(be, c, p, ACTIVATION_GELU); }
static void run_relu2_backward(Backend *be, const Case *c, void **p) {
    activation_backward(be, c, p, ACTIVATION_RELU2);
}

static void run_backward_weight(Backend *be, const Case *c, void **p) {
    be->matmul_backward_weight(be, p[0], NULL, p[1], p[2], c->s.N, c->s.IC, c->s.OC, false);
}

static void run_backward_weight_add(Backend *be, const Case *c, void **p) {
    be->matmul_backward_weight(be, p[0], NULL, p[1], p[2], c->s.N, c->s.IC, c->s.OC, true);
}

static void run_backward_weight_bias(Backend *be, const Case *c, void **p) {
    be->matmul_backward_weight(be, p[0], p[3], p[1], p[2], c->s.N, c->s.IC, c->s.OC, false);
}

static void run_attention_forward(Backend *be, const Case *c, void **p) {
    be->attention_forward(be, p[0], p[1], p[2], c->s.B, c->s.T, c->s.C, c->s.NH,
                          1.0f / sqrtf((float)c->s.C / (float)c->s.NH), NULL);
}

static void run_attention_backward(Backend *be, const Case *c, void **p) {
    be->attention_backward(be, p[0], p[1], p[2], p[3], p[4], c->s.B, c->s.T, c->s.C, c->s.NH,
                           1.0f / sqrtf((float)c->s.C / (float)c->s.NH), NULL);
}

static void run_attention_forward_dropout(Backend *be, const Case *c, void **p) {
    be->attention_forward(be, p[0], p[1], p[2], c->s.B, c->s.T, c->s.C, c->s.NH,
                          1.0f / sqrtf((float)c->s.C / (float)c->s.NH), &bench_dropout);
}

static void run_attention_backward_dropout(Backend *be, const Case *c, void **p) {
    be->attention_backward(be, p[0], p[1], p[2], p[3], p[4], c->s.B, c->s.T, c->s.C, c->s.NH,
                           1.0f / sqrtf((float)c->s.C / (float)c->s.NH), &bench_dropout);
}

/* ---- measuring ---- */

/* The caller frees them. */
static float *ones_or_angles(const Operand *o) {
    float *numbers = checked_malloc(o->count * sizeof *numbers, "an operand");
    for (size_t i = 0; i < o->count; i++) {
        size_t pair = i / 2;
        float angle = (float)pair;
        numbers[i] = o->element == ONE ? 1.0f : i % 2 ? sinf(angle) : cosf(angle);
    }
    return numbers;
}

static void fill(const Bench *bench, const Operand *o, int sets, uint32_t stream) {
    Backend *be = bench->be;
    DType type = o->element == ACTIVATION ? be->activation : DTYPE_FLOAT32;
    if (o->element == ACTIVATION || o->element == FLOAT) {
        fill_random(be, o->memory, o->bytes * (size_t)sets / dtype_size(type), type, 1.0f, stream);
        return;
    }
    float *numbers = o->element == TOKEN ? NULL : ones_or_angles(o);
    for (int i = 0; i < sets; i++)
        be->copy_from_host(be, o->memory + (size_t)i * o->bytes, numbers ? (void *)numbers : bench->tokens,
                           o->count * sizeof(float));
    free(numbers);
}

/* As many sets of operands as are used in turn. */
static int take_operands(Bench *bench, Case *c) {
    double bytes = 0.0;
    for (int i = 0; i < c->operand_count; i++) bytes += (double)c->operands[i].bytes;
    int sets = bench->options.model->tiny ? 1 : (int)min_i64(MAX_SETS, (int64_t)ceil(BYTES_IN_TURN / bytes));
    for (int i = 0; i < c->operand_count; i++) {
        Operand *o = &c->operands[i];
        o->memory = bench->be->alloc(bench->be, o->bytes * (size_t)sets, c->name);
        fill(bench, o, sets, (uint32_t)i);
    }
    return sets;
}

static void call(Backend *be, const Case *c, int set) {
    void *p[MAX_OPERANDS];
    for (int i = 0; i < c->operand_count; i++) p[i] = c->operands[i].memory + (size_t)set * c->operands[i].bytes;
    c->run(be, c, p);
}

/* Seconds of one of `calls` calls. */
static double seconds_each(Backend *be, const Case *c, int calls, int sets) {
    be->synchronize(be);
    double begun = seconds_now();
    for (int i = 0; i < calls; i++) call(be, c, i % sets);
    be->synchronize(be);
    return (seconds_now() - begun) / calls;
}

static double median_seconds(Bench *bench, const Case *c, int sets) {
    Backend *be = bench->be;
    double seconds[MAX_MEASUREMENTS];
    be->autotune(be, true);
    call(be, c, 0);
    be->autotune(be, false);
    double least = bench->options.model->tiny ? 0.0 : LEAST_SECONDS;
    int calls = 1 + (int)(least / seconds_each(be, c, sets, sets));
    for (int i = 0; i < bench->options.steps; i++) seconds[i] = seconds_each(be, c, calls, sets);
    return median(seconds, bench->options.steps);
}

/* ---- reporting ---- */

static void report(Bench *bench, const Case *c, double seconds, double copy, double matmul) {
    bool by_flops = c->flops > 0.0;
    double rate = (by_flops ? c->flops : c->bytes) / seconds, ratio = rate / (by_flops ? matmul : copy);
    double target = bench->be->on_gpu ? c->target : 0.0;
    const char *verdict = target == 0.0 ? "" : ratio >= target ? "ok" : "below";
    char target_text[16] = "";
    if (target > 0.0) snprintf(target_text, sizeof target_text, "%.2f", target);
    printf("%-42s %-22s %9.1f %9.4g %-8s %6.2f %7s %s\n", c->name, c->sizes, seconds * 1e6,
           rate * (by_flops ? 1e-12 : 1e-9), by_flops ? "TFLOP/s" : "GB/s", ratio, target_text, verdict);
    fflush(stdout);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(bench->kernels, object);
    cJSON_AddStringToObject(object, "name", c->name);
    cJSON_AddStringToObject(object, "sizes", c->sizes);
    add_figure(object, "us", seconds * 1e6);
    add_figure(object, by_flops ? "TFLOP/s" : "GB/s", rate * (by_flops ? 1e-12 : 1e-9));
    add_figure(object, by_flops ? "over matmul" : "over copy", ratio);
    if (target > 0.0) add_figure(object, "target", target);
}

/* Measures a case and returns its seconds. */
static double measure(Bench *bench, Case *c) {
    int sets = take_operands(bench, c);
    double copy = copy_rate(&bench->rates), matmul = matmul_rate(&bench->rates);
    double seconds = median_seconds(bench, c, sets);
    report(bench, c, seconds, copy, matmul);
    for (int i = 0; i < c->operand_count; i++) bench->be->free(bench->be, c->operands[i].memory);
    return seconds;
}

/* What `with` takes longer than `without_seconds`, for `bytes` more: where a measurement cannot tell, nothing, and the
 * ratio is infinite. */
static void measure_part(Bench *bench, Case *with, double without_seconds, const char *name, double bytes) {
    double copy = copy_rate(&bench->rates), more = measure(bench, with) - without_seconds;
    Case part = {.bytes = bytes, .target = MEMORY_TARGET};
    snprintf(part.name, sizeof part.name, "  %s, of the line above", name);
    report(bench, &part, more > 0.01 * without_seconds ? more : 0.0, copy, 1.0);
}

/* ---- what a step is made of ---- */

static Case case_of(const Bench *bench, const char *name, void (*run)(Backend *, const Case *, void **)) {
    Case c = {.s = bench->s, .run = run, .target = MEMORY_TARGET};
    snprintf(c.name, sizeof c.name, "%s", name);
    snprintf(c.sizes, sizeof c.sizes, "%d x %d", c.s.N, c.s.C);
    return c;
}

static void bench_embedding(Bench *b) {
    Sizes s = b->s;
    Case forward = case_of(b, "embedding forward", run_embedding_forward);
    operand(b, &forward, ACTIVATION, s.N, s.C, 1);
    operand(b, &forward, TOKEN, s.N, 1, 1);
    operand(b, &forward, ACTIVATION, s.V, s.C, b->distinct);
    operand(b, &forward, ACTIVATION, s.T, s.C, 1);
    measure(b, &forward);
    Case backward = case_of(b, "embedding backward", run_embedding_backward);
    operand(b, &backward, FLOAT, s.V, s.C, 2 * b->distinct);
    operand(b, &backward, FLOAT, s.T, s.C, 1);
    operand(b, &backward, ACTIVATION, s.N, s.C, 1);
    operand(b, &backward, TOKEN, s.N, 1, 1);
    measure(b, &backward);
}

static void bench_layernorm(Bench *b) {
    Sizes s = b->s;
    Case forward = case_of(b, "layernorm forward", run_layernorm_forward);
    operand(b, &forward, ACTIVATION, s.N, s.C, 1);
    operand(b, &forward, FLOAT, s.N, 1, 1);
    operand(b, &forward, FLOAT, s.N, 1, 1);
    operand(b, &forward, ACTIVATION, s.N, s.C, 1);
    operand(b, &forward, ACTIVATION, 1, s.C, 1);
    measure(b, &forward);
    Case residual = case_of(b, "residual + layernorm forward", run_residual_layernorm);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    operand(b, &residual, FLOAT, s.N, 1, 1);
    operand(b, &residual, FLOAT, s.N, 1, 1);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    operand(b, &residual, ACTIVATION, 1, s.C, 1);
    measure(b, &residual);
    Case backward = case_of(b, "layernorm backward", run_layernorm_backward);
    operand(b, &backward, ACTIVATION, s.N, s.C, 2);
    operand(b, &backward, FLOAT, 1, s.C, 1);
    operand(b, &backward, ACTIVATION, s.N, s.C, 1);
    operand(b, &backward, ACTIVATION, s.N, s.C, 1);
    operand(b, &backward, ACTIVATION, 1, s.C, 1);
    operand(b, &backward, FLOAT, s.N, 1, 1);
    operand(b, &backward, FLOAT, s.N, 1, 1);
    measure(b, &backward);
}

static void bench_rmsnorm(Bench *b) {
    Sizes s = b->s;
    Case forward = case_of(b, "RMSNorm forward", run_rmsnorm_forward);
    operand(b, &forward, ACTIVATION, s.N, s.C, 1);
    operand(b, &forward, FLOAT, s.N, 1, 1);
    operand(b, &forward, ACTIVATION, s.N, s.C, 1);
    measure(b, &forward);
    Case residual = case_of(b, "residual + RMSNorm forward", run_residual_rmsnorm);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    operand(b, &residual, FLOAT, s.N, 1, 1);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    operand(b, &residual, ACTIVATION, s.N, s.C, 1);
    measure(b, &residual);
    Case backward = case_of(b, "RMSNorm backward", run_rmsnorm_backward);
    operand(b, &backward, ACTIVATION, s.N, s.C, 2);
    operand(b, &backward, ACTIVATION, s.N, s.C, 1);
    operand(b, &backward, ACTIVATION, s.N, s.C, 1);
    operand(b, &backward, FLOAT, s.N, 1, 1);
    measure(b, &backward);
}

static Case qk_case(const Bench *b, int HS, const char *what, void (*run)(Backend *, const Case *, void **)) {
    Case c = case_of(b, "", run);
    c.s.NH = b->s.C / HS, c.s.C = c.s.NH * HS;
    snprintf(c.name, sizeof c.name, "QK-norm, RoPE %s, head size %d", what, HS);
    snprintf(c.sizes, sizeof c.sizes, "%d x %d x %d", c.s.B, c.s.NH, c.s.T);
    return c;
}

/* Queries and keys are two thirds of qkv. The backward pass reads them too. Angles, and an rstd of 1, keep a gradient
 * that is worked on in place again and again from dying out. */
static void bench_qk_norm_rope(Bench *b, int HS) {
    int N = b->s.N, T = b->s.T;
    Case forward = qk_case(b, HS, "forward", run_qk_norm_rope_forward);
    operand(b, &forward, ACTIVATION, N, 3 * forward.s.C, 2 * 2 / 3.0);
    operand(b, &forward, FLOAT, N, 2 * forward.s.NH, 1);
    operand(b, &forward, ANGLE, T, HS, 1);
    measure(b, &forward);
    Case backward = qk_case(b, HS, "backward", run_qk_norm_rope_backward);
    operand(b, &backward, ACTIVATION, N, 3 * backward.s.C, 2 * 2 / 3.0);
    operand(b, &backward, ACTIVATION, N, 3 * backward.s.C, 2 / 3.0);
    operand(b, &backward, ONE, N, 2 * backward.s.NH, 1);
    operand(b, &backward, ANGLE, T, HS, 1);
    measure(b, &backward);
}

/* Rows of logits that exist at a time. */
static int lm_head_rows(const Bench *b) { return (int)min_i64(b->be->logit_rows, b->s.N); }

static void bench_softmax(Bench *b, const char *name, void (*run)(Backend *, const Case *, void **)) {
    Case c = case_of(b, name, run);
    c.s.N = lm_head_rows(b);
    snprintf(c.sizes, sizeof c.sizes, "%d x %d", c.s.N, b->s.VP);
    operand(b, &c, FLOAT, c.s.N, 1, 1);
    operand(b, &c, ACTIVATION, c.s.N, b->s.VP, 2);
    operand(b, &c, TOKEN, c.s.N, 1, 1);
    measure(b, &c);
}

static void bench_elements(Bench *b) {
    Case rounding = case_of(b, "rounding to the activation type", run_to_activation);
    operand(b, &rounding, ACTIVATION, b->s.N, b->s.C, 1);
    operand(b, &rounding, FLOAT, b->s.N, b->s.C, 1);
    measure(b, &rounding);
    Case scaling = case_of(b, "scaling", run_scale);
    operand(b, &scaling, ACTIVATION, b->s.N, b->s.C, 2);
    measure(b, &scaling);
    Case dropout = case_of(b, "dropout", run_dropout);
    dropout.target = 0; /* the multiplications of Philox take about as long as the memory */
    operand(b, &dropout, ACTIVATION, b->s.N, b->s.C, 1);
    operand(b, &dropout, ACTIVATION, b->s.N, b->s.C, 1);
    measure(b, &dropout);
}

/* A linear layer: N rows of IC channels become OC. */
typedef struct Linear {
    const char *name;
    int N, IC, OC;
} Linear;

static Case linear_case(const Bench *b, Linear l, const char *what, void (*run)(Backend *, const Case *, void **)) {
    Case c = {.s = b->s, .run = run, .flops = 2.0 * l.N * (double)l.IC * l.OC};
    c.s.N = l.N, c.s.IC = l.IC, c.s.OC = l.OC;
    snprintf(c.name, sizeof c.name, "%s %s", l.name, what);
    snprintf(c.sizes, sizeof c.sizes, "%d x %d -> %d", l.N, l.IC, l.OC);
    return c;
}

static Case linear_forward(const Bench *b, Linear l, const char *what, void (*run)(Backend *, const Case *, void **)) {
    Case c = linear_case(b, l, what, run);
    operand(b, &c, ACTIVATION, l.N, l.OC, 1);
    operand(b, &c, ACTIVATION, l.N, l.IC, 1);
    operand(b, &c, ACTIVATION, l.OC, l.IC, 1);
    return c;
}

static Case linear_backward_input(const Bench *b, Linear l, const char *what,
                                  void (*run)(Backend *, const Case *, void **)) {
    Case c = linear_case(b, l, what, run);
    operand(b, &c, ACTIVATION, l.N, l.IC, 1);
    operand(b, &c, ACTIVATION, l.N, l.OC, 1);
    operand(b, &c, ACTIVATION, l.OC, l.IC, 1);
    return c;
}

static Case linear_backward_weight(const Bench *b, Linear l, const char *what,
                                   void (*run)(Backend *, const Case *, void **)) {
    Case c = linear_case(b, l, what, run);
    operand(b, &c, FLOAT, l.OC, l.IC, 1);
    operand(b, &c, ACTIVATION, l.N, l.OC, 1);
    operand(b, &c, ACTIVATION, l.N, l.IC, 1);
    return c;
}

static void bench_linear(Bench *b, Linear l, bool accumulate) {
    Case forward = linear_forward(b, l, "forward", run_forward);
    Case input = linear_backward_input(b, l, "backward, input", run_backward_input);
    Case weight = linear_backward_weight(b, l, accumulate ? "backward, weight, added" : "backward, weight",
                                         accumulate ? run_backward_weight_add : run_backward_weight);
    measure(b, &forward);
    measure(b, &input);
    measure(b, &weight);
}

/* The layer after which an activation comes, and the one before which its derivative does, and their bias gradients. */
static void bench_mlp(Bench *b, Linear up, Linear down) {
    double size = (double)dtype_size(b->be->activation), hidden_bytes = size * up.N * (double)up.OC;
    Case forward = linear_forward(b, up, "forward", run_forward);
    Case gelu = linear_forward(b, up, "+ GELU forward", run_gelu_forward);
    operand(b, &gelu, ACTIVATION, up.N, up.OC, 1);
    Case relu2 = linear_forward(b, up, "+ ReLU^2 forward", run_relu2_forward);
    operand(b, &relu2, ACTIVATION, up.N, up.OC, 1);
    double seconds = measure(b, &forward);
    measure_part(b, &gelu, seconds, "GELU", hidden_bytes);
    measure_part(b, &relu2, seconds, "ReLU^2", hidden_bytes);
    Case input = linear_backward_input(b, down, "backward, input", run_backward_input);
    Case input_gelu = linear_backward_input(b, down, "backward, input, GELU'", run_gelu_backward);
    operand(b, &input_gelu, ACTIVATION, down.N, down.IC, 1);
    Case input_relu2 = linear_backward_input(b, down, "backward, input, ReLU^2'", run_relu2_backward);
    operand(b, &input_relu2, ACTIVATION, down.N, down.IC, 1);
    seconds = measure(b, &input);
    measure_part(b, &input_gelu, seconds, "GELU'", hidden_bytes);
    measure_part(b, &input_relu2, seconds, "ReLU^2'", hidden_bytes);
    Case weight = linear_backward_weight(b, up, "backward, weight", run_backward_weight);
    Case bias = linear_backward_weight(b, up, "backward, weight, bias", run_backward_weight_bias);
    operand(b, &bias, FLOAT, up.OC, 1, 1);
    measure_part(b, &bias, measure(b, &weight), "bias gradient", hidden_bytes);
    Case up_input = linear_backward_input(b, up, "backward, input", run_backward_input);
    Case down_forward = linear_forward(b, down, "forward", run_forward);
    Case down_weight = linear_backward_weight(b, down, "backward, weight", run_backward_weight);
    measure(b, &up_input);
    measure(b, &down_forward);
    measure(b, &down_weight);
}

static void bench_matmuls(Bench *b) {
    int N = b->s.N, C = b->s.C;
    bench_linear(b, (Linear){"qkv", N, C, 3 * C}, false);
    bench_linear(b, (Linear){"attention projection", N, C, C}, false);
    bench_mlp(b, (Linear){"MLP up", N, C, 4 * C}, (Linear){"MLP down", N, 4 * C, C});
    bench_linear(b, (Linear){"LM head", lm_head_rows(b), C, b->s.VP}, true);
}

static Case attention_case(const Bench *b, int HS, const char *what, void (*run)(Backend *, const Case *, void **)) {
    Case c = {.s = b->s, .run = run};
    c.s.NH = b->s.C / HS, c.s.C = c.s.NH * HS;
    c.flops = 2.0 * c.s.B * c.s.NH * (double)c.s.T * c.s.T * HS;
    snprintf(c.name, sizeof c.name, "attention %s, head size %d", what, HS);
    snprintf(c.sizes, sizeof c.sizes, "%d x %d x %d", c.s.B, c.s.NH, c.s.T);
    return c;
}

static void measure_attention_forward(Bench *b, Case forward, double target) {
    int N = b->s.N, C = forward.s.C;
    forward.target = target;
    operand(b, &forward, ACTIVATION, N, C, 1);
    operand(b, &forward, FLOAT, N, forward.s.NH, 1);
    operand(b, &forward, ACTIVATION, N, 3 * C, 1);
    measure(b, &forward);
}

static void measure_attention_backward(Bench *b, Case backward, double target) {
    int N = b->s.N, C = backward.s.C;
    backward.flops *= 2.5;
    backward.target = target;
    operand(b, &backward, ACTIVATION, N, 3 * C, 1);
    operand(b, &backward, ACTIVATION, N, C, 1);
    operand(b, &backward, ACTIVATION, N, 3 * C, 1);
    operand(b, &backward, ACTIVATION, N, C, 1);
    operand(b, &backward, FLOAT, N, backward.s.NH, 1);
    measure(b, &backward);
}

static void bench_attention(Bench *b, int HS) {
    bool has_target = HS == 64 && b->s.T == 1024;
    measure_attention_forward(b, attention_case(b, HS, "forward", run_attention_forward),
                              has_target ? ATTENTION_FORWARD_TARGET : 0);
    measure_attention_backward(b, attention_case(b, HS, "backward", run_attention_backward),
                               has_target ? ATTENTION_BACKWARD_TARGET : 0);
    measure_attention_forward(b, attention_case(b, HS, "forward, dropout", run_attention_forward_dropout), 0);
    measure_attention_backward(b, attention_case(b, HS, "backward, dropout", run_attention_backward_dropout), 0);
}

/* ---- the run ---- */

/* Random tokens; sets the share of the vocabulary that is among them. */
static void draw_tokens(Bench *b) {
    int n = b->s.N, V = b->s.V, distinct = 0;
    bool *seen = checked_calloc((size_t)V, sizeof *seen, "tokens");
    b->tokens = checked_malloc((size_t)n * sizeof *b->tokens, "tokens");
    for (int i = 0; i < n; i++) {
        b->tokens[i] = (int32_t)philox_below(philox(2, PHILOX_DATA_OFFSET, 0, (uint64_t)i), (uint64_t)V);
        distinct += !seen[b->tokens[i]];
        seen[b->tokens[i]] = true;
    }
    b->distinct = (double)distinct / V;
    free(seen);
}

static void bench_open(Bench *b) {
    const BenchOptions *o = &b->options;
    const GPT2Config *model = &o->model->config;
    Backend *be = b->be = bench_backend(o);
    int B = o->batch ? o->batch : o->model->tiny ? TINY_BATCH : be->on_gpu ? GPU_BATCH : CPU_BATCH;
    b->s = (Sizes){.B = B,
                   .T = model->block_size,
                   .N = B * model->block_size,
                   .C = model->n_embd,
                   .V = model->vocab_size,
                   .VP = (int)round_up(model->vocab_size, 64)};
    draw_tokens(b);
    rates_open(&b->rates, be, be->activation, o->model->tiny);
    b->kernels = cJSON_CreateArray();
}

static void bench_close(Bench *b, double copy, double matmul) {
    cJSON *figures = cJSON_CreateObject();
    cJSON_AddStringToObject(figures, "machine", b->be->device);
    cJSON_AddStringToObject(figures, "table", b->be->name);
    add_figure(figures, "copy GB/s", copy * 1e-9);
    add_figure(figures, "matmul TFLOP/s", matmul * 1e-12);
    cJSON_AddItemToObject(figures, "kernels", b->kernels);
    write_figures(figures, b->options.json);
    rates_close(&b->rates);
    b->be->close(b->be);
    free(b->tokens);
}

int main(int argc, char **argv) {
    static Bench b;
    program_start("bench_kernels", argv);
    b.options = bench_options(argc, argv, 8, "batch");
    bench_open(&b);
    double copy = copy_rate(&b.rates), matmul = matmul_rate(&b.rates);
    printf("%s, %s, GPT-2 %s at batch %d x %d: copy %.1f GB/s, matmul %.4g TFLOP/s\n", b.be->device, b.be->name,
           b.options.model->name, b.s.B, b.s.T, copy * 1e-9, matmul * 1e-12);
    printf("%-42s %-22s %9s %18s %6s %7s\n", "operation", "sizes", "us", "", "of it", "target");
    bench_embedding(&b);
    bench_layernorm(&b);
    bench_rmsnorm(&b);
    bench_qk_norm_rope(&b, 64);
    bench_qk_norm_rope(&b, 128);
    bench_softmax(&b, "softmax, loss, gradient", run_softmax);
    bench_softmax(&b, "softmax, loss, gradient, softcap", run_softmax_softcap);
    bench_elements(&b);
    bench_matmuls(&b);
    bench_attention(&b, 64);
    bench_attention(&b, 128);
    bench_close(&b, copy, matmul);
    return EXIT_DONE;
}
