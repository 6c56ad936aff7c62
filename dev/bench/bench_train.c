/* bench_train: how fast a GPT-2 trains on this machine's GPU or CPU, and where the time goes.
 *
 *     build/bench_train [--device=auto|cpu|cuda] [--model=tiny|small|medium|large|xl] [--batch=N] [--optimizer=NAME]
 *                       [--recompute=none|mlp|block] [--precision=auto|bfloat16|float32] [--steps=8] [--threads=N]
 *                       [--json=FILE] [--debug_alloc=true]
 *
 * The measure is model FLOP/s (6 N + 12 L C T per token) over the rate of a large matmul on the same device
 * (measure.h), which is timed between the steps, as clocks and neighbours change; medians are what counts. On a GPU a
 * measurement is a run of steps that are enqueued ahead, as the trainer does, with a wait only at its end. Then one
 * more step is taken apart, its operations one by one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "dev/bench/measure.h"
#include "dev/bench/timed_backend.h"
#include "model/gpt2.h"
#include "optim/optim.h"
#include "util/philox.h"
#include "util/program.h"

/* Steps that a measurement takes on a GPU. */
enum { STEPS_AHEAD = 4 };

/* Where --batch is not given. On a GPU it is the largest power of two up to 32 with which all that is planned fits and
 * this much is left to the libraries: so it is 32 for the sizes up to large, and for XL what memory allows. */
enum { CPU_BATCH = 4, TINY_BATCH = 2, LARGEST_GPU_BATCH = 32 };
static const size_t LEFT_TO_LIBRARIES = (size_t)2 << 30;

typedef struct Bench {
    BenchOptions options;
    Backend *be;
    Comm *comm;
    Rates rates;
    GPT2 model;
    Optim *optim;
    int32_t *tokens; /* (batch, T) inputs, then as many targets */
    int batch;
    int steps_begun;
    double memory_before;
} Bench;

/* ---- the model, in steps ---- */

static void plan(Bench *bench, int batch) {
    OptimName name = bench->options.optimizer;
    OptimConfig optim = optim_defaults(name == OPTIM_COUNT ? OPTIM_ADAMW : name, 6e-4);
    const GPT2Config *sizes = &bench->options.model->config;
    GPT2Config config = gpt2_config(sizes->n_layer, sizes->n_head, sizes->n_embd, sizes->block_size, sizes->vocab_size);
    Error error;
    gpt2_plan(&bench->model, &config, bench->be, batch, bench->options.recompute, true);
    bench->optim = optim_plan(&optim, &bench->model.table, bench->be, bench->comm, &bench->model.arena, &error);
    if (!bench->optim) die("%s", error.text);
    bench->batch = batch;
}

static void plan_largest(Bench *bench) {
    for (int batch = LARGEST_GPU_BATCH; batch >= 1; batch /= 2) {
        plan(bench, batch);
        size_t left = bench->be->memory_left(bench->be), needed = bench->model.arena.bytes + LEFT_TO_LIBRARIES;
        if (needed <= left || batch == 1) return;
        optim_close(bench->optim);
        gpt2_free(&bench->model);
    }
}

/* Weights as large as GPT-2's first ones, without the minute that a billion normal numbers take. */
static void set_weights(GPT2 *m) {
    Backend *be = m->be;
    float deviation = 0.02f, uniform = 1.0f / sqrtf(12.0f);
    fill_random(be, m->params, m->table.length, DTYPE_FLOAT32, deviation / uniform, 4);
    for (int i = 0; i < m->table.count; i++) {
        const Tensor *t = &m->table.tensors[i];
        if (t->role != ROLE_VECTOR) continue;
        float *ones = checked_malloc(t->size * sizeof *ones, "gains");
        for (size_t j = 0; j < t->size; j++) ones[j] = 1.0f;
        be->copy_from_host(be, m->params + t->offset, ones, t->size * sizeof *ones);
        free(ones);
    }
    if (m->weights != (void *)m->params) be->to_activation(be, m->weights, m->params, m->table.length);
    be->invalidate_weights(be);
}

static void copy_batch(Bench *bench) {
    int T = bench->model.config.block_size;
    gpt2_prefetch(&bench->model, bench->tokens, bench->tokens + bench->batch * T, bench->batch, T);
}

static void bench_open(Bench *bench) {
    const BenchOptions *o = &bench->options;
    Backend *be = bench->be = bench_backend(o);
    bench->comm = comm_open_single();
    rates_open(&bench->rates, be, be->activation, o->model->tiny);
    bench->memory_before = (double)be->memory_left(be);
    if (o->batch || o->model->tiny || !be->on_gpu)
        plan(bench, o->batch ? o->batch : o->model->tiny ? TINY_BATCH : CPU_BATCH);
    else
        plan_largest(bench);
    bench->model.arena.separate = o->debug_alloc;
    gpt2_allocate(&bench->model);
    optim_start(bench->optim, (OptimBuffers){bench->model.params, bench->model.weights, bench->model.grads});
    set_weights(&bench->model);
    size_t count = (size_t)bench->batch * (size_t)bench->model.config.block_size * 2;
    bench->tokens = checked_malloc(count * sizeof *bench->tokens, "tokens");
    for (size_t i = 0; i < count; i++)
        bench->tokens[i] =
            (int32_t)philox_below(philox(2, PHILOX_DATA_OFFSET, 0, i), (uint64_t)bench->model.config.vocab_size);
    copy_batch(bench);
}

static void bench_close(Bench *bench) {
    optim_close(bench->optim);
    gpt2_free(&bench->model);
    rates_close(&bench->rates);
    bench->comm->close(bench->comm, EXIT_DONE);
    bench->be->close(bench->be);
    free(bench->tokens);
}

static void ask_for_gradient(Bench *bench) {
    GPT2 *model = &bench->model;
    copy_batch(bench);
    gpt2_pass(model, &(GPT2Pass){.grads = optim_gradient(bench->optim, 0),
                                 .dloss = 1.0f / (float)(bench->batch * model->config.block_size)});
}

/* Asks for a step, and waits for the one before it: the device always has something left to do. */
static void ask_for_step(Bench *bench) {
    Backend *be = bench->be;
    ask_for_gradient(bench);
    be->stopwatch_start(be, STOPWATCH_OPTIMIZER);
    optim_step(bench->optim, bench_rates(), false);
    be->stopwatch_stop(be, STOPWATCH_OPTIMIZER);
    if (bench->steps_begun++ > 0) optim_result(bench->optim);
}

static OptimResult wait_for_steps(Bench *bench) {
    OptimResult result = optim_result(bench->optim);
    bench->steps_begun = 0;
    bench->be->synchronize(bench->be);
    return result;
}

/* A step that was skipped would be a fast one. */
static void wait_for_good_steps(Bench *bench) {
    int tensor = wait_for_steps(bench).nonfinite_tensor;
    if (tensor >= 0) die("the gradient of %s is not finite", bench->model.table.tensors[tensor].name);
}

/* ---- measuring ---- */

typedef struct Figures {
    double seconds[MAX_MEASUREMENTS]; /* of a step */
    double optimizer[MAX_MEASUREMENTS], matmul[MAX_MEASUREMENTS], copy[MAX_MEASUREMENTS], ratio[MAX_MEASUREMENTS];
    TimedBackend apart;                                    /* one step's operations */
    double apart_seconds, apart_gradient, apart_optimizer; /* all of it; its passes; the optimizer */
    double memory;                                         /* bytes taken */
} Figures;

static double flops_per_step(const Bench *bench) {
    return gpt2_flops_per_token(&bench->model) * bench->batch * bench->model.config.block_size;
}

static void measure(Bench *bench, Figures *f) {
    Backend *be = bench->be;
    int steps = be->on_gpu ? STEPS_AHEAD : 1;
    double before = matmul_rate(&bench->rates);
    for (int i = 0; i < bench->options.steps; i++) {
        double optimizer = be->stopwatch_seconds(be, STOPWATCH_OPTIMIZER), begun = seconds_now();
        for (int step = 0; step < steps; step++) ask_for_step(bench);
        wait_for_good_steps(bench);
        f->seconds[i] = (seconds_now() - begun) / steps;
        f->optimizer[i] = (be->stopwatch_seconds(be, STOPWATCH_OPTIMIZER) - optimizer) / steps;
        f->copy[i] = copy_rate(&bench->rates);
        f->matmul[i] = matmul_rate(&bench->rates);
        f->ratio[i] = flops_per_step(bench) / f->seconds[i] / (0.5 * (before + f->matmul[i]));
        before = f->matmul[i];
    }
}

/* One step whose operations are waited for one by one. */
static void take_apart(Bench *bench, Figures *f) {
    double begun = seconds_now();
    timed_backend_begin(&f->apart, bench->be);
    ask_for_gradient(bench);
    bench->be->synchronize(bench->be);
    timed_backend_end(&f->apart);
    double middle = seconds_now();
    optim_step(bench->optim, bench_rates(), false);
    wait_for_good_steps(bench);
    f->apart_seconds = seconds_now() - begun;
    f->apart_gradient = middle - begun;
    f->apart_optimizer = f->apart_seconds - f->apart_gradient;
}

/* The first steps choose algorithms and touch all memory. What they leave may be anything. */
static void warm_up(Bench *bench) {
    Backend *be = bench->be;
    be->autotune(be, true);
    ask_for_step(bench);
    wait_for_steps(bench);
    be->autotune(be, false);
    set_weights(&bench->model);
    ask_for_step(bench);
    wait_for_good_steps(bench);
}

/* ---- reporting ---- */

/* Names and values, for people and for the file. */
typedef struct Row {
    const char *name;
    double value;
} Row;

static double planned_bytes(const Bench *bench, const char *group) {
    return (double)arena_group_bytes(&bench->model.arena, group);
}

static int list_rows(const Bench *bench, const Figures *f, Row *rows) {
    int n = bench->options.steps, count = 0;
    double seconds = median(f->seconds, n), flops = flops_per_step(bench) / seconds;
    double peak = bench->be->peak_flops > 0.0 ? bench->be->peak_flops : NAN;
    rows[count++] = (Row){"step, ms", seconds * 1e3};
    rows[count++] = (Row){"tokens/s", bench->batch * bench->model.config.block_size / seconds};
    rows[count++] = (Row){"model TFLOP/s", flops * 1e-12};
    rows[count++] = (Row){"matmul TFLOP/s", median(f->matmul, n) * 1e-12};
    rows[count++] = (Row){"copy GB/s", median(f->copy, n) * 1e-9};
    rows[count++] = (Row){"model over matmul", median(f->ratio, n)};
    rows[count++] = (Row){"MFU", flops / peak};
    rows[count++] = (Row){"optimizer, ms", median(f->optimizer, n) * 1e3};
    rows[count++] = (Row){"optimizer, share of the step", median(f->optimizer, n) / seconds};
    rows[count++] = (Row){"memory, GB", f->memory * 1e-9};
    rows[count++] = (Row){"of it weights and gradients",
                          1e-9 * (planned_bytes(bench, "weights") + planned_bytes(bench, "gradients"))};
    rows[count++] = (Row){"of it optimizer", 1e-9 * planned_bytes(bench, "optimizer")};
    rows[count++] = (Row){"of it activations", 1e-9 * planned_bytes(bench, "activations")};
    rows[count++] = (Row){"of it workspace", 1e-9 * planned_bytes(bench, "workspace")};
    return count;
}

static int list_operations(const Figures *f, Row *rows) {
    int count = 0;
    double rest = f->apart_gradient;
    for (int i = 0; i < f->apart.count; i++) {
        rows[count++] = (Row){f->apart.operations[i].name, f->apart.operations[i].seconds * 1e3};
        rest -= f->apart.operations[i].seconds;
    }
    rows[count++] = (Row){"optimizer", f->apart_optimizer * 1e3};
    rows[count++] = (Row){"the rest", rest * 1e3};
    return count;
}

enum { MAX_ROWS = 16 + TIMED_OPERATIONS };

static const char *optimizer_name(const Bench *bench) {
    return optim_names[bench->options.optimizer == OPTIM_COUNT ? OPTIM_ADAMW : bench->options.optimizer];
}

static void print_figures(const Bench *bench, const Figures *f) {
    const Backend *be = bench->be;
    Row rows[MAX_ROWS];
    printf("%s\n%s, GPT-2 %s, %zu parameters, batch %d x %d, recompute %s, %s (medians)\n", be->device, be->name,
           bench->options.model->name, bench->model.table.parameters, bench->batch, bench->model.config.block_size,
           bench_recompute_name(bench->options.recompute), optimizer_name(bench));
    int count = list_rows(bench, f, rows);
    for (int i = 0; i < count; i++)
        if (isfinite(rows[i].value)) printf("  %-32s %10.4g\n", rows[i].name, rows[i].value);
    printf("\none step taken apart\n");
    count = list_operations(f, rows);
    for (int i = 0; i < count; i++)
        printf("  %-26s %8.2f ms  %5.1f %%\n", rows[i].name, rows[i].value,
               rows[i].value / f->apart_seconds * 1e-3 * 100.0);
}

static void add_rows(cJSON *object, const Row *rows, int count) {
    for (int i = 0; i < count; i++) add_figure(object, rows[i].name, rows[i].value);
}

static void write_json(const Bench *bench, const Figures *f) {
    const Backend *be = bench->be;
    Row rows[MAX_ROWS];
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "machine", be->device);
    cJSON_AddStringToObject(object, "table", be->name);
    cJSON_AddStringToObject(object, "model", bench->options.model->name);
    cJSON_AddNumberToObject(object, "parameters", (double)bench->model.table.parameters);
    cJSON_AddNumberToObject(object, "threads", be->threads);
    cJSON_AddNumberToObject(object, "batch", bench->batch);
    cJSON_AddNumberToObject(object, "tokens in a sequence", bench->model.config.block_size);
    cJSON_AddStringToObject(object, "recompute", bench_recompute_name(bench->options.recompute));
    cJSON_AddStringToObject(object, "optimizer", optimizer_name(bench));
    add_rows(object, rows, list_rows(bench, f, rows));
    add_rows(cJSON_AddObjectToObject(object, "one step taken apart, ms"), rows, list_operations(f, rows));
    write_figures(object, bench->options.json);
}

int main(int argc, char **argv) {
    static Bench bench;
    static Figures f;
    program_start("bench_train", argv);
    bench.options = bench_options(argc, argv, 8, "batch, recompute, optimizer, debug_alloc");
    bench_open(&bench);
    warm_up(&bench);
    measure(&bench, &f);
    take_apart(&bench, &f);
    /* Of a CPU's memory others may have taken some meanwhile. */
    double left = (double)bench.be->memory_left(bench.be);
    f.memory = bench.be->on_gpu ? bench.memory_before - left : peak_memory_bytes();
    print_figures(&bench, &f);
    write_json(&bench, &f);
    bench_close(&bench);
    return EXIT_DONE;
}
