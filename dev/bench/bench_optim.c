/* bench_optim: a step of every optimizer on the 124M parameters of GPT-2 small, without the model.
 *
 *     build/bench_optim [--precision=bfloat16|float32] [--steps=5] [--threads=N] [--only=NAME] [--json=FILE]
 *
 * Elementwise passes are measured by the bytes that they cannot do without (each rule's header counts them) over the
 * time they take, against a plain copy's bytes read and written; Newton-Schulz by its FLOP/s, against a plain library
 * product. Machines are shared and their speed drifts, so copy and product are timed beside each step, and the ratios'
 * medians are what counts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "dev/bench/measure.h"
#include "dev/bench/timed_backend.h"
#include "model/gpt2.h"
#include "optim/newton_schulz.h"
#include "optim/optim.h"
#include "optim/rules.h"

/* What one optimizer's steps took. */
typedef struct Figures {
    char name[32];
    double bytes; /* a step's floor */
    double flops; /* of a step's Newton-Schulz */
    double state; /* bytes */
    int steps;
    double seconds[MOST_MEASUREMENTS], product_seconds[MOST_MEASUREMENTS];
    double bandwidth_ratio[MOST_MEASUREMENTS], product_ratio[MOST_MEASUREMENTS];
} Figures;

typedef struct Bench {
    BenchOptions options;
    TimedBackend timed;
    GPT2 model; /* its table only */
    Comm *comm;
    float *params, *grads;
    void *weights;
    PlainCopy copy;
    PlainProduct product; /* of the type that Newton-Schulz runs in */
} Bench;

/* The least bytes that a rule's passes move for one parameter, as the rules' headers count them: with a copy of the
 * weights of `copy` bytes and matrices of `element` bytes, and for exact MARS the second gradient's norm. */
static double floor_bytes(const Rule *rule, size_t copy, size_t element, bool exact) {
    double last = rule->uses_last ? 8.0 : 0.0, second = exact ? 4.0 : 0.0;
    double update =
        rule->is_matrix ? 4.0 + 8.0 * rule->states + 2.0 * (double)element + 8.0 : 4.0 + 8.0 * rule->states + 8.0;
    return 4.0 + update + (double)copy + last + second;
}

static void count_floor(const Bench *bench, const OptimConfig *config, Figures *f) {
    Optimizer optimizer = rules_optimizer(config);
    size_t element = dtype_size(bench->options.precision), copy = bench->options.precision == DTYPE_BFLOAT16 ? 2 : 0;
    for (int i = 0; i < bench->model.table.count; i++) {
        const Tensor *t = &bench->model.table.tensors[i];
        const Rule *rule = rule_of(optimizer.covers[t->role] ? optimizer.main : optimizer.rest);
        f->bytes += floor_bytes(rule, copy, element, !config->is_approx) * (double)t->size;
        if (rule->is_matrix) f->flops += newton_schulz_flops(t->rows, t->columns, config->ns_steps);
    }
}

/* One step, with copy and product beside. */
static void measure_step(Bench *bench, Optim *optim, Figures *f) {
    timed_backend_reset(&bench->timed);
    double copy_rate = plain_copy_rate(&bench->copy), product_rate = plain_product_rate(&bench->product);
    double begun = seconds_now();
    OptimResult result = optim_step(optim, (OptimRates){1e-4, 1e-4});
    double seconds = seconds_now() - begun;
    if (result.nonfinite_tensor >= 0) die("%s: a gradient is not finite", f->name);
    copy_rate = 0.5 * (copy_rate + plain_copy_rate(&bench->copy));
    product_rate = 0.5 * (product_rate + plain_product_rate(&bench->product));
    double products = bench->timed.count ? bench->timed.operations[0].seconds : 0.0;
    f->seconds[f->steps] = seconds;
    f->product_seconds[f->steps] = products;
    f->bandwidth_ratio[f->steps] = f->bytes / (seconds - products) / copy_rate;
    f->product_ratio[f->steps] = products > 0.0 && product_rate > 0.0 ? f->flops / products / product_rate : 0.0;
    f->steps++;
}

static void fill_gradients(Bench *bench, float *to) {
    if (to != bench->grads) memcpy(to, bench->grads, bench->model.table.length * sizeof *to);
}

static void measure(Bench *bench, OptimName name, bool exact, Figures *f) {
    OptimConfig config = optim_defaults(name, 1e-4);
    Error error;
    config.is_approx = !exact;
    snprintf(f->name, sizeof f->name, "%s%s", optim_names[name], exact ? " exact" : "");
    count_floor(bench, &config, f);
    OptimBuffers buffers = {bench->params, bench->weights, bench->grads};
    Optim *optim = optim_open(&config, &bench->model.table, buffers, &bench->timed.base, bench->comm, &error);
    if (!optim) die("%s: %s", f->name, error.text);
    f->state = (double)optim_state_bytes(optim);
    for (int step = -1; step < bench->options.steps; step++) { /* the first one warms up */
        fill_gradients(bench, optim_gradients(optim));
        if (exact) {
            optim_hold_gradient(optim);
            fill_gradients(bench, optim_gradients(optim));
        }
        measure_step(bench, optim, f);
        if (step < 0) f->steps = 0;
    }
    optim_close(optim);
}

/* ---- reporting ---- */

static void print_line(const Bench *bench, const Figures *f) {
    double parameters = (double)bench->model.table.parameters, ms = median(f->seconds, f->steps) * 1e3;
    double product_ms = median(f->product_seconds, f->steps) * 1e3;
    printf("%-20s %6.1f %8.1f %8.0f %10.2f", f->name, f->state / parameters, f->bytes / parameters, ms - product_ms,
           median(f->bandwidth_ratio, f->steps));
    if (f->flops > 0.0)
        printf(" %10.0f %10.0f %10.2f", product_ms, f->flops / product_ms * 1e-6, median(f->product_ratio, f->steps));
    printf("\n");
    fflush(stdout);
}

static void write_json(FILE *file, const Bench *bench, const Figures *all, int count) {
    const Backend *be = bench->timed.inner;
    double parameters = (double)bench->model.table.parameters;
    fprintf(file, "{\"machine\": \"%s\", \"table\": \"%s\", \"threads\": %d, \"parameters\": %.0f, \"optimizers\": [",
            be->device, be->name, be->threads, parameters);
    for (int i = 0; i < count; i++) {
        const Figures *f = &all[i];
        double ms = median(f->seconds, f->steps) * 1e3, product_ms = median(f->product_seconds, f->steps) * 1e3;
        fprintf(file,
                "%s\n  {\"name\": \"%s\", \"state bytes per parameter\": %.2f, \"floor bytes per parameter\": %.2f, "
                "\"step, ms\": %.1f, \"passes, ms\": %.1f, \"passes over copy bandwidth\": %.3f, "
                "\"Newton-Schulz GFLOP\": %.1f, \"its products, ms\": %.1f, \"products over plain matmul\": %.3f}",
                i ? "," : "", f->name, f->state / parameters, f->bytes / parameters, ms, ms - product_ms,
                median(f->bandwidth_ratio, f->steps), f->flops * 1e-9, product_ms, median(f->product_ratio, f->steps));
    }
    fprintf(file, "\n]}\n");
}

/* ---- the run ---- */

static void bench_open(Bench *bench) {
    Error error;
    GPT2Config config = {.n_layer = 12, .n_head = 12, .n_embd = 768, .block_size = 1024, .vocab_size = 50304};
    Backend *be = backend_open("cpu", bench->options.precision, bench->options.threads, &error);
    if (!be) die("%s", error.text);
    timed_backend_open(&bench->timed, be);
    gpt2_describe(&bench->model, &config);
    size_t n = bench->model.table.length;
    bench->comm = comm_open_single();
    bench->params = be->alloc(be, n * sizeof(float), "parameters");
    bench->grads = be->alloc(be, n * sizeof(float), "gradients");
    float *random = random_numbers(n, DTYPE_FLOAT32, 3);
    memcpy(bench->params, random, n * sizeof(float));
    memcpy(bench->grads, random, n * sizeof(float));
    free(random);
    bench->weights = bench->params;
    if (bench->options.precision == DTYPE_BFLOAT16) bench->weights = be->alloc(be, n * 2, "weights");
    plain_copy_open(&bench->copy, be);
    plain_product_open(&bench->product, bench->options.precision, bench->options.threads);
}

int main(int argc, char **argv) {
    static Bench bench;
    static Figures all[2 * OPTIM_COUNT];
    int count = 0;
    base_set_program("bench_optim");
    bench.options = bench_options(argc, argv, 5);
    bench_open(&bench);
    printf("%s, %s, %d threads, %zu parameters: copy %.1f GB/s, plain matmul %.0f GFLOP/s\n", bench.timed.inner->device,
           bench.timed.inner->name, bench.options.threads, bench.model.table.parameters,
           plain_copy_rate(&bench.copy) * 1e-9, plain_product_rate(&bench.product) * 1e-9);
    printf("%-20s %6s %8s %8s %10s %10s %10s %10s\n", "", "state", "floor", "passes", "over copy", "Newton-S.", "",
           "over plain");
    printf("%-20s %6s %8s %8s %10s %10s %10s %10s\n", "optimizer", "B/par", "B/par", "ms", "bandwidth", "ms", "GFLOP/s",
           "matmul");
    for (int name = 0; name < OPTIM_COUNT; name++)
        for (int exact = 0; exact < 2; exact++) {
            OptimConfig config = optim_defaults((OptimName)name, 1e-4);
            if (exact && !rule_of(rules_optimizer(&config).main)->uses_last) continue;
            if (bench.options.only && strcmp(bench.options.only, optim_names[name]) != 0) continue;
            measure(&bench, (OptimName)name, exact, &all[count]);
            print_line(&bench, &all[count++]);
        }
    if (count == 0) die_usage("--only=%s: there is no such optimizer", bench.options.only);
    if (bench.options.json) {
        FILE *file = fopen(bench.options.json, "w");
        if (!file) die("cannot write %s", bench.options.json);
        write_json(file, &bench, all, count);
        if (fclose(file) != 0) die("cannot write %s", bench.options.json);
    }
    return EXIT_DONE;
}
