/* bench_train: how fast the 124M-parameter GPT-2 trains on this machine's CPU, and where the time goes.
 *
 *     build/bench_train [--precision=bfloat16|float32] [--steps=8] [--threads=N] [--json=FILE]
 *
 * The measure is model FLOP/s (6 N + 12 L C T per token) over the rate of a plain row-major library product of the
 * model's own size, 4096 x 3072 x 768. Machines are shared and their speed drifts, so the product is timed between the
 * steps and the ratio is taken step by step; its median is what counts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "comm/comm.h"
#include "dev/bench/measure.h"
#include "dev/bench/timed_backend.h"
#include "model/gpt2.h"
#include "optim/optim.h"
#include "util/philox.h"

enum { BATCH = 4, MOST_STEPS = MOST_MEASUREMENTS };

/* ---- one training step ---- */

typedef struct Bench {
    TimedBackend timed;
    Comm *comm;
    GPT2 model;
    Optim *optim;
    int32_t *tokens; /* (BATCH, T + 1) */
    double model_seconds, optim_seconds;
} Bench;

static void bench_open(Bench *bench, Backend *be) {
    GPT2Config config = {.n_layer = 12,
                         .n_head = 12,
                         .n_embd = 768,
                         .block_size = 1024,
                         .vocab_size = 50304,
                         .scale_attn_by_inverse_layer_idx = true};
    OptimConfig optim = optim_defaults(OPTIM_ADAMW, 6e-4);
    Error error;
    timed_backend_open(&bench->timed, be);
    bench->comm = comm_open_single();
    gpt2_create(&bench->model, &config, &bench->timed.base, BATCH, RECOMPUTE_NONE, true);
    gpt2_init_weights(&bench->model, 1);
    OptimBuffers buffers = {bench->model.params, bench->model.weights, bench->model.grads};
    bench->optim = optim_open(&optim, &bench->model.table, buffers, &bench->timed.base, bench->comm, &error);
    if (!bench->optim) die("%s", error.text);
    size_t count = (size_t)BATCH * 1024 * 2;
    bench->tokens = checked_malloc(count * sizeof *bench->tokens, "tokens");
    for (size_t i = 0; i < count; i++)
        bench->tokens[i] = (int32_t)philox_below(philox(2, PHILOX_DATA_OFFSET, 0, i), 50257);
}

static double bench_step(Bench *bench) {
    double begun = seconds_now();
    int T = bench->model.config.block_size;
    gpt2_forward_backward(&bench->model, bench->tokens, bench->tokens + BATCH * T, BATCH, T, 1.0f / (float)(BATCH * T),
                          false);
    double middle = seconds_now();
    optim_step(bench->optim, (OptimRates){.learning_rate = 1e-4});
    double end = seconds_now();
    bench->model_seconds += middle - begun;
    bench->optim_seconds += end - middle;
    return end - begun;
}

/* ---- reporting ---- */

typedef struct Figures {
    int steps;
    double seconds[MOST_STEPS], bfloat16_rate[MOST_STEPS], float32_rate[MOST_STEPS], ratio[MOST_STEPS];
} Figures;

static void print_breakdown(FILE *out, const Bench *bench, int steps, bool json) {
    double total = bench->model_seconds + bench->optim_seconds, counted = bench->optim_seconds;
    const char *row = json ? ",\n  \"%s, ms\": %.2f" : "  %-26s %8.1f ms  %5.1f %%\n";
    for (int i = 0; i < bench->timed.count; i++) {
        const OperationTime *operation = &bench->timed.operations[i];
        counted += operation->seconds;
        fprintf(out, row, operation->name, operation->seconds / steps * 1e3, operation->seconds / total * 100.0);
    }
    fprintf(out, row, "optimizer (adamw)", bench->optim_seconds / steps * 1e3, bench->optim_seconds / total * 100.0);
    fprintf(out, row, "the rest", (total - counted) / steps * 1e3, (total - counted) / total * 100.0);
}

static void print_figures(FILE *out, const Bench *bench, const Figures *f, bool json) {
    double seconds = median(f->seconds, f->steps), tokens = BATCH * 1024.0;
    double flops = gpt2_flops_per_token(&bench->model) * tokens / seconds;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const Backend *be = bench->timed.inner;
    const char *format =
        json ? "{\n  \"machine\": \"%s\",\n  \"table\": \"%s\",\n  \"threads\": %d,\n  \"parameters\": %zu"
             : "%s\n%s, %d threads, %zu parameters, batch 4 x 1024 (medians)\n";
    fprintf(out, format, be->device, be->name, be->threads, bench->model.table.parameters);
    const char *row = json ? ",\n  \"%s\": %.4g" : "  %-44s %10.4g\n";
    fprintf(out, row, "step, ms", seconds * 1e3);
    fprintf(out, row, "tokens/s", tokens / seconds);
    fprintf(out, row, "model GFLOP/s", flops * 1e-9);
    fprintf(out, row, "plain matmul bfloat16, GFLOP/s", median(f->bfloat16_rate, f->steps) * 1e-9);
    fprintf(out, row, "plain matmul float32, GFLOP/s", median(f->float32_rate, f->steps) * 1e-9);
    fprintf(out, row, "model over plain matmul, median of ratios", median(f->ratio, f->steps));
    fprintf(out, row, "peak memory, GB", (double)usage.ru_maxrss * 1024e-9);
    if (!json) fputs("\ntime of a step (means)\n", out);
    print_breakdown(out, bench, f->steps, json);
    if (json) fputs("\n}\n", out);
}

int main(int argc, char **argv) {
    base_set_program("bench_train");
    BenchOptions o = bench_options(argc, argv, 8);
    if (o.only) die_usage("--only: this benchmark measures one thing");
    static Bench bench;
    static Figures f;
    PlainProduct bf16 = {0}, f32 = {0};
    Error error;
    Backend *be = backend_open("cpu", o.precision, o.threads, &error);
    if (!be) die("%s", error.text);
    bench_open(&bench, be);
    plain_product_open(&bf16, DTYPE_BFLOAT16, o.threads);
    plain_product_open(&f32, DTYPE_FLOAT32, o.threads);
    plain_product_rate(&bf16), plain_product_rate(&f32), bench_step(&bench); /* warm up */
    timed_backend_reset(&bench.timed);
    bench.model_seconds = bench.optim_seconds = 0.0;
    f.steps = o.steps;
    double flops = gpt2_flops_per_token(&bench.model) * BATCH * 1024.0;
    double before = plain_product_rate(o.precision == DTYPE_FLOAT32 ? &f32 : &bf16);
    for (int i = 0; i < o.steps; i++) {
        f.seconds[i] = bench_step(&bench);
        f.bfloat16_rate[i] = plain_product_rate(&bf16);
        f.float32_rate[i] = plain_product_rate(&f32);
        double after = o.precision == DTYPE_FLOAT32 ? f.float32_rate[i] : f.bfloat16_rate[i];
        f.ratio[i] = flops / f.seconds[i] / (0.5 * (before + after));
        before = after;
    }
    print_figures(stdout, &bench, &f, false);
    if (o.json) {
        FILE *file = fopen(o.json, "w");
        if (!file) die("cannot write %s", o.json);
        print_figures(file, &bench, &f, true);
        if (fclose(file) != 0) die("cannot write %s", o.json);
    }
    return EXIT_DONE;
}
