/* bench_optim: a step of every optimizer on the parameters of a GPT-2, without the model.
 *
 *     build/bench_optim [--device=auto|cpu|cuda] [--model=tiny|small|medium|large|xl] [--optimizer=NAME]
 *                       [--precision=auto|bfloat16|float32] [--steps=5] [--threads=N] [--json=FILE]
 *
 * Elementwise passes are measured by the bytes that they cannot do without (each rule's header counts them; on a GPU,
 * where no cache holds a batch of matrices, Newton-Schulz reads and writes them once more to scale them) over the time
 * they take, against a plain copy's bytes read and written; Newton-Schulz by its FLOP/s, against a large matmul
 * (measure.h). Machines are shared and their speed drifts, so copy and matmul are timed next to each measurement, and
 * the ratios' medians are what counts. On a GPU a measurement is a run of steps that are enqueued ahead. The last line
 * measures what an average of the weights (optim_update_ema()) adds to a step.
 *
 * Next to it stands what the slowest of 8 processes would take: by each one's share of the bytes and of Newton-Schulz,
 * at the speed measured here, exchanges between processes not counted. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "dev/bench/measure.h"
#include "model/gpt2.h"
#include "optim/grad_sync.h"
#include "optim/newton_schulz.h"
#include "optim/optim.h"
#include "optim/optimizers.h"
#include "util/partition.h"
#include "util/program.h"

/* The targets on an H100 or H200, as a part of the measured copy bandwidth. */
static const double PASSES_TARGET = 0.85;

/* Steps that a measurement takes on a GPU, and the processes that a step is thought to be shared by. */
enum { STEPS_AHEAD = 8, PROCESSES = 8 };

/* What one optimizer's steps took. */
typedef struct Figures {
    char name[32];
    double bytes, flops;    /* a step's floor, and its Newton-Schulz */
    double state;           /* bytes */
    double slowest_seconds; /* of the process whose part of a step takes longest */
    int measured;
    double seconds[MAX_MEASUREMENTS], matmul_seconds[MAX_MEASUREMENTS];
    double bandwidth_ratio[MAX_MEASUREMENTS], matmul_ratio[MAX_MEASUREMENTS];
} Figures;

typedef struct Bench {
    BenchOptions options;
    Backend *be;
    GPT2 model; /* its table only */
    Comm *comm;
    float *params, *grads;
    void *weights;
    Rates rates; /* the matmul is of the type that Newton-Schulz runs in */
} Bench;

/* ---- counting ---- */

/* Bytes and FLOPs of a step, or of one process's part of it. */
typedef struct Work {
    double bytes, flops;
} Work;

/* The least bytes that a rule's passes move for one parameter, as the rules' headers count them: with a copy of the
 * weights of `copy` bytes and matrices of `element` bytes, which go through memory twice more where they are `scaled`
 * there, and are read once more for the norms of lines, and for exact MARS the second gradient's norm. */
static double floor_bytes(const Rule *rule, size_t copy, size_t element, bool scaled, bool exact) {
    double last = rule->uses_prev_grad ? 8.0 : 0.0, second = exact ? 4.0 : 0.0;
    double matrices = rule->is_matrix ? ((scaled ? 4.0 : 2.0) + rule->uses_lines) * (double)element : 0.0;
    double update = 4.0 + 8.0 * rule->states + matrices + 8.0;
    return 4.0 + update + (double)copy + last + second;
}

static Work work_of(const Bench *bench, const OptimConfig *config, const Rule *rule, const Tensor *t, size_t elements) {
    size_t element = dtype_size(bench->options.precision), copy = bench->options.precision == DTYPE_BFLOAT16 ? 2 : 0;
    double bytes = floor_bytes(rule, copy, element, bench->be->on_gpu, !config->is_approx) * (double)elements;
    return (Work){bytes, rule->is_matrix ? newton_schulz_flops(t->rows, t->columns, ns_steps_of(config)) : 0.0};
}

static Work whole_work(const Bench *bench, const OptimConfig *config) {
    Work sum = {0.0, 0.0};
    for (int i = 0; i < bench->model.table.count; i++) {
        const Tensor *t = &bench->model.table.tensors[i];
        Work work = work_of(bench, config, rule_of(rule_of_role(config, t->role)), t, t->size);
        sum.bytes += work.bytes, sum.flops += work.flops;
    }
    return sum;
}

/* Adds each process's part of the tensors under one rule to work[], and what state it keeps of them to taken[]. */
static void share_out(const Bench *bench, const OptimConfig *config, const Rule *rule, const Partition *partition,
                      Work *work, double *taken) {
    const TensorTable *table = &bench->model.table;
    for (int r = 0; r < PROCESSES; r++)
        for (int i = partition->first[r]; i < partition->first[r + 1]; i++) {
            const Part *part = &partition->parts[i];
            Work more = work_of(bench, config, rule, &table->tensors[partition_tensor_of(table, part)],
                                part->end - part->begin);
            work[r].bytes += more.bytes, work[r].flops += more.flops;
            taken[r] += (double)(part->end - part->begin) * (rule->states + rule->uses_prev_grad);
        }
}

/* What each of PROCESSES processes would do of a step: the shares that optim.c gives them. */
static void shared_work(const Bench *bench, const OptimConfig *config, Work *work) {
    const TensorTable *table = &bench->model.table;
    bool *chosen = checked_calloc((size_t)table->count, sizeof *chosen, "groups");
    double taken[PROCESSES] = {0.0};
    memset(work, 0, PROCESSES * sizeof *work);
    for (int i = 0; i < 2 * RULE_COUNT; i++) { /* matrix rules first */
        RuleName name = (RuleName)(i % RULE_COUNT);
        const Rule *rule = rule_of(name);
        int count = 0;
        for (int t = 0; t < table->count; t++)
            count += chosen[t] = rule_of_role(config, table->tensors[t].role) == name;
        if (count == 0 || rule->is_matrix != (i < RULE_COUNT)) continue;
        Partition partition = rule_partition(rule, table, chosen, PROCESSES, taken, grad_sync_bucket(table->length));
        share_out(bench, config, rule, &partition, work, taken);
        partition_free(&partition);
    }
    free(chosen);
}

/* ---- measuring ---- */

/* While on, the matmuls of Newton-Schulz are timed by the table's stopwatch: all of a run's at once, since each mark
 * takes a GPU time, and when the stopwatch has no room for more it waits for the GPU, which then falls idle. */
static void (*plain_matmul)(Backend *, const BatchedMatmul *, void *, const void *, const void *, const void *);
static int matmuls_of_run, matmuls_seen;

static void watched_matmul(Backend *be, const BatchedMatmul *matmul, void *d, const void *a, const void *b,
                           const void *c) {
    if (matmuls_seen++ % matmuls_of_run == 0) be->stopwatch_start(be, STOPWATCH_OPTIMIZER);
    plain_matmul(be, matmul, d, a, b, c);
    if (matmuls_seen % matmuls_of_run == 0) be->stopwatch_stop(be, STOPWATCH_OPTIMIZER);
}

static void watch_matmuls(Backend *be, const OptimConfig *config) {
    matmuls_of_run = ns_steps_of(config) * NEWTON_SCHULZ_MATMULS;
    matmuls_seen = 0;
    plain_matmul = be->matmul_batched;
    be->matmul_batched = watched_matmul;
}

static void stop_watching(Backend *be) { be->matmul_batched = plain_matmul; }

static void fill_gradient(Bench *bench, float *to) {
    if (to != bench->grads) bench->be->copy(bench->be, to, bench->grads, bench->model.table.length * sizeof *to);
}

static void check(const Bench *bench, OptimResult result, const char *name) {
    if (result.nonfinite_tensor >= 0)
        die("%s: the gradient of %s is not finite", name, bench->model.table.tensors[result.nonfinite_tensor].name);
}

/* Enqueues `steps` steps, and waits. Each finds random gradients: its own, or those of earlier steps. */
static void make_steps(Bench *bench, Optim *optim, int steps, const char *name) {
    for (int i = 0; i < steps; i++) {
        optim_gradient(optim, optim_info(optim)->gradients - 1);
        optim_step(optim, bench_rates(), false);
        if (i > 0) check(bench, optim_result(optim), name);
    }
    check(bench, optim_result(optim), name);
    bench->be->synchronize(bench->be);
}

/* All buffers that gradients pass through get random numbers, and algorithms are chosen. */
static void warm_up(Bench *bench, Optim *optim, const char *name) {
    bench->be->autotune(bench->be, true);
    for (int i = 0; i < 3; i++) {
        for (int which = 0; which < optim_info(optim)->gradients; which++)
            fill_gradient(bench, optim_gradient(optim, which));
        optim_step(optim, bench_rates(), false);
        check(bench, optim_result(optim), name);
        bench->be->autotune(bench->be, false);
    }
}

static void measure_steps(Bench *bench, const OptimConfig *config, Optim *optim, Figures *f) {
    Backend *be = bench->be;
    int n = f->measured++, steps = be->on_gpu ? STEPS_AHEAD : 1;
    double copy = copy_rate(&bench->rates), matmul = matmul_rate(&bench->rates);
    watch_matmuls(be, config);
    double watched = be->stopwatch_seconds(be, STOPWATCH_OPTIMIZER), begun = seconds_now();
    make_steps(bench, optim, steps, f->name);
    double seconds = (seconds_now() - begun) / steps;
    double matmuls = (be->stopwatch_seconds(be, STOPWATCH_OPTIMIZER) - watched) / steps;
    stop_watching(be);
    copy = 0.5 * (copy + copy_rate(&bench->rates));
    matmul = 0.5 * (matmul + matmul_rate(&bench->rates));
    f->seconds[n] = seconds;
    f->matmul_seconds[n] = matmuls;
    f->bandwidth_ratio[n] = f->bytes / (seconds - matmuls) / copy;
    f->matmul_ratio[n] = matmuls > 0.0 && matmul > 0.0 ? f->flops / matmuls / matmul : 0.0;
}

static void find_slowest(Bench *bench, const OptimConfig *config, Figures *f) {
    Work work[PROCESSES];
    double matmuls = median(f->matmul_seconds, f->measured), passes = median(f->seconds, f->measured) - matmuls;
    shared_work(bench, config, work);
    for (int r = 0; r < PROCESSES; r++) {
        double seconds =
            passes * work[r].bytes / f->bytes + (f->flops > 0.0 ? matmuls * work[r].flops / f->flops : 0.0);
        f->slowest_seconds = fmax(f->slowest_seconds, seconds);
    }
}

static void measure(Bench *bench, OptimName name, bool exact, Figures *f) {
    OptimConfig config = optim_defaults(name, 1e-4);
    Error error;
    config.is_approx = !exact;
    snprintf(f->name, sizeof f->name, "%s%s", optim_names[name], exact ? " exact" : "");
    Work work = whole_work(bench, &config);
    f->bytes = work.bytes, f->flops = work.flops;
    OptimBuffers buffers = {bench->params, bench->weights, bench->grads};
    Arena arena = {0};
    Optim *optim = optim_plan(&config, &bench->model.table, bench->be, bench->comm, &arena, &error);
    if (!optim) die("%s: %s", f->name, error.text);
    arena_allocate(&arena, backend_memory(bench->be));
    optim_start(optim, buffers);
    f->state = (double)optim_info(optim)->state_bytes;
    warm_up(bench, optim, f->name);
    for (int i = 0; i < bench->options.steps; i++) measure_steps(bench, &config, optim, f);
    optim_close(optim);
    arena_free(&arena);
    find_slowest(bench, &config, f);
}

/* The average is read and written, and the weights are read. Processes share it as AdamW's states. */
static void measure_ema(Bench *bench, Figures *f) {
    OptimConfig config = optim_defaults(OPTIM_ADAMW, 1e-4);
    Error error;
    Backend *be = bench->be;
    Arena arena = {0};
    snprintf(f->name, sizeof f->name, "average of weights");
    f->bytes = 3.0 * sizeof(float) * (double)bench->model.table.parameters;
    Optim *optim = optim_plan(&config, &bench->model.table, be, bench->comm, &arena, &error);
    if (!optim) die("%s: %s", f->name, error.text);
    size_t without = optim_info(optim)->state_bytes;
    optim_plan_ema(optim, &arena);
    f->state = (double)(optim_info(optim)->state_bytes - without);
    arena_allocate(&arena, backend_memory(be));
    optim_start(optim, (OptimBuffers){bench->params, bench->weights, bench->grads});
    optim_update_ema(optim, 0.0);
    optim_update_ema(optim, 0.9);
    for (int steps = be->on_gpu ? STEPS_AHEAD : 1; f->measured < bench->options.steps; f->measured++) {
        double copy = copy_rate(&bench->rates), begun = seconds_now();
        for (int i = 0; i < steps; i++) optim_update_ema(optim, 0.9);
        be->synchronize(be);
        double seconds = f->seconds[f->measured] = (seconds_now() - begun) / steps;
        copy = 0.5 * (copy + copy_rate(&bench->rates));
        f->bandwidth_ratio[f->measured] = f->bytes / seconds / copy;
    }
    optim_close(optim);
    arena_free(&arena);
    Work work[PROCESSES], whole = whole_work(bench, &config);
    shared_work(bench, &config, work);
    for (int r = 0; r < PROCESSES; r++)
        f->slowest_seconds = fmax(f->slowest_seconds, median(f->seconds, f->measured) * work[r].bytes / whole.bytes);
}

/* ---- reporting ---- */

static void print_head(Bench *bench) {
    printf("%s, %s, GPT-2 %s, %zu parameters: copy %.1f GB/s, matmul %.4g TFLOP/s\n", bench->be->device,
           bench->be->name, bench->options.model->name, bench->model.table.parameters, copy_rate(&bench->rates) * 1e-9,
           matmul_rate(&bench->rates) * 1e-12);
    printf("%-20s %6s %7s %9s %10s %7s %9s %9s %8s %9s\n", "", "state", "floor", "passes", "over copy", "target",
           "Newton-S.", "", "over", "one of 8");
    printf("%-20s %6s %7s %9s %10s %7s %9s %9s %8s %9s\n", "optimizer", "B/par", "B/par", "ms", "bandwidth", "", "ms",
           "TFLOP/s", "matmul", "ms");
}

static void report(const Bench *bench, const Figures *f, cJSON *list) {
    int n = f->measured;
    double parameters = (double)bench->model.table.parameters, ms = median(f->seconds, n) * 1e3;
    double matmul_ms = median(f->matmul_seconds, n) * 1e3, over_copy = median(f->bandwidth_ratio, n);
    const char *verdict = !bench->be->on_gpu ? "" : over_copy >= PASSES_TARGET ? "ok" : "below";
    printf("%-20s %6.1f %7.1f %9.3f %10.2f %7s", f->name, f->state / parameters, f->bytes / parameters, ms - matmul_ms,
           over_copy, verdict);
    if (f->flops > 0.0)
        printf(" %9.3f %9.4g %8.2f", matmul_ms, f->flops / matmul_ms * 1e-9, median(f->matmul_ratio, n));
    else
        printf(" %28s", "");
    printf(" %9.3f\n", f->slowest_seconds * 1e3);
    fflush(stdout);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(list, object);
    cJSON_AddStringToObject(object, "name", f->name);
    add_figure(object, "state, bytes per parameter", f->state / parameters);
    add_figure(object, "floor, bytes per parameter", f->bytes / parameters);
    add_figure(object, "step, ms", ms);
    add_figure(object, "passes, ms", ms - matmul_ms);
    add_figure(object, "passes over copy", over_copy);
    if (bench->be->on_gpu) add_figure(object, "target", PASSES_TARGET);
    add_figure(object, "one of 8, ms", f->slowest_seconds * 1e3);
    if (f->flops == 0.0) return;
    add_figure(object, "Newton-Schulz GFLOP", f->flops * 1e-9);
    add_figure(object, "its products, ms", matmul_ms);
    add_figure(object, "products over matmul", median(f->matmul_ratio, n));
}

/* ---- the run ---- */

static void bench_open(Bench *bench) {
    Backend *be = bench->be = bench_backend(&bench->options);
    gpt2_describe(&bench->model, &bench->options.model->config);
    size_t n = bench->model.table.length;
    bench->comm = comm_open_single();
    bench->params = be->alloc(be, n * sizeof(float), "parameters");
    bench->grads = be->alloc(be, n * sizeof(float), "gradients");
    fill_random(be, bench->params, n, DTYPE_FLOAT32, 1.0f, 3);
    fill_random(be, bench->grads, n, DTYPE_FLOAT32, 1.0f, 4);
    bench->weights = bench->params;
    if (bench->options.precision == DTYPE_BFLOAT16) bench->weights = be->alloc(be, n * 2, "weights");
    rates_open(&bench->rates, be, bench->options.precision, bench->options.model->tiny);
}

static void bench_close(Bench *bench) {
    Backend *be = bench->be;
    rates_close(&bench->rates);
    if (bench->weights != (void *)bench->params) be->free(be, bench->weights);
    be->free(be, bench->params);
    be->free(be, bench->grads);
    gpt2_free(&bench->model);
    bench->comm->close(bench->comm, EXIT_DONE);
    be->close(be);
}

static void measure_all(Bench *bench, cJSON *list) {
    static Figures f;
    for (int name = 0; name < OPTIM_COUNT; name++)
        for (int exact = 0; exact < 2; exact++) {
            OptimConfig config = optim_defaults((OptimName)name, 1e-4);
            if (exact && !optimizer_uses_key(&config, 1u << ROLE_MATRIX, "is_approx")) continue;
            if (bench->options.optimizer != OPTIM_COUNT && (int)bench->options.optimizer != name) continue;
            memset(&f, 0, sizeof f);
            measure(bench, (OptimName)name, exact, &f);
            report(bench, &f, list);
        }
    if (bench->options.optimizer != OPTIM_COUNT) return;
    memset(&f, 0, sizeof f);
    measure_ema(bench, &f);
    report(bench, &f, list);
}

int main(int argc, char **argv) {
    static Bench bench;
    program_start("bench_optim", argv);
    bench.options = bench_options(argc, argv, 5, "optimizer");
    bench_open(&bench);
    print_head(&bench);
    cJSON *figures = cJSON_CreateObject();
    cJSON_AddStringToObject(figures, "machine", bench.be->device);
    cJSON_AddStringToObject(figures, "table", bench.be->name);
    cJSON_AddNumberToObject(figures, "threads", bench.be->threads);
    cJSON_AddStringToObject(figures, "model", bench.options.model->name);
    cJSON_AddNumberToObject(figures, "parameters", (double)bench.model.table.parameters);
    measure_all(&bench, cJSON_AddArrayToObject(figures, "optimizers"));
    write_figures(figures, bench.options.json);
    bench_close(&bench);
    return EXIT_DONE;
}
