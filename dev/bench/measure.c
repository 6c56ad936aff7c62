/* measure.c: see measure.h. */
#include "dev/bench/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "optim/optim.h"
#include "util/philox.h"

OptimRates bench_rates(void) {
    OptimRates rates = {{0}};
    for (size_t i = 0; i < ARRAY_LENGTH(rates.lr); i++) rates.lr[i] = 1e-4;
    return rates;
}

/* ---- options ---- */

/* The tiny one's sequences are longer than what a block of attention's kernels takes, its heads as wide as GPT-2's. */
static const BenchModel models[] = {
    {"tiny", {.n_layer = 2, .n_head = 2, .n_embd = 128, .block_size = 192, .vocab_size = 512}, true},
    {"small", {.n_layer = 12, .n_head = 12, .n_embd = 768, .block_size = 1024, .vocab_size = 50304}, false},
    {"medium", {.n_layer = 24, .n_head = 16, .n_embd = 1024, .block_size = 1024, .vocab_size = 50304}, false},
    {"large", {.n_layer = 36, .n_head = 20, .n_embd = 1280, .block_size = 1024, .vocab_size = 50304}, false},
    {"xl", {.n_layer = 48, .n_head = 25, .n_embd = 1600, .block_size = 1024, .vocab_size = 50304}, false}};

static const char *const recompute_names[] = {"none", "mlp", "block"};

const char *bench_recompute_name(Recompute recompute) { return recompute_names[recompute]; }

/* What is after "--NAME=", or NULL where the argument is another option. */
static const char *value_of(const char *argument, const char *name) {
    size_t length = strlen(name);
    bool same = strncmp(argument, "--", 2) == 0 && strncmp(argument + 2, name, length) == 0;
    return same && argument[2 + length] == '=' ? argument + 3 + length : NULL;
}

static const BenchModel *find_model(const char *name) {
    for (size_t i = 0; i < ARRAY_LENGTH(models); i++)
        if (strcmp(models[i].name, name) == 0) return &models[i];
    die_usage("--model=%s: there are tiny, small, medium, large and xl", name);
}

static Recompute find_recompute(const char *name) {
    for (size_t i = 0; i < ARRAY_LENGTH(recompute_names); i++)
        if (strcmp(recompute_names[i], name) == 0) return (Recompute)i;
    die_usage("--recompute=%s: there are none, mlp and block", name);
}

static const char *find_device(const char *name) {
    if (strcmp(name, "auto") == 0) return backend_auto_device();
    if (strcmp(name, "cpu") != 0 && strcmp(name, "cuda") != 0)
        die_usage("--device=%s: there are auto, cpu and cuda", name);
    return name;
}

static DType find_precision(const char *name, const char *device) {
    if (strcmp(name, "auto") == 0) return backend_auto_precision(device);
    if (strcmp(name, "float32") != 0 && strcmp(name, "bfloat16") != 0)
        die_usage("--precision=%s: there are auto, bfloat16 and float32", name);
    return strcmp(name, "float32") == 0 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
}

static OptimName find_optimizer(const char *name) {
    OptimName found = optim_find(name);
    if (found == OPTIM_COUNT) die_usage("--optimizer=%s: there is no such optimizer", name);
    return found;
}

static int number_in(const char *text, const char *option, int limit) {
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < 1 || value > limit)
        die_usage("--%s=%s: a number from 1 to %d is expected", option, text, limit);
    return (int)value;
}

static bool is_true(const char *text, const char *option) {
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        die_usage("--%s=%s: true or false is expected", option, text);
    return strcmp(text, "true") == 0;
}

/* The options that only some benchmarks have. */
static bool read_more(BenchOptions *o, const char *argument, const char *more) {
    const char *value;
    if (strstr(more, "batch") && (value = value_of(argument, "batch")))
        o->batch = number_in(value, "batch", 1 << 16);
    else if (strstr(more, "recompute") && (value = value_of(argument, "recompute")))
        o->recompute = find_recompute(value);
    else if (strstr(more, "optimizer") && (value = value_of(argument, "optimizer")))
        o->optimizer = find_optimizer(value);
    else if (strstr(more, "debug_alloc") && (value = value_of(argument, "debug_alloc")))
        o->debug_alloc = is_true(value, "debug_alloc");
    else
        return false;
    return true;
}

BenchOptions bench_options(int argc, char **argv, int steps, const char *more) {
    BenchOptions o = {.steps = steps, .model = find_model("small"), .optimizer = OPTIM_COUNT};
    const char *device = "auto", *precision = "auto", *value;
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if ((value = value_of(argument, "device")))
            device = value;
        else if ((value = value_of(argument, "precision")))
            precision = value;
        else if ((value = value_of(argument, "steps")))
            o.steps = number_in(value, "steps", MAX_MEASUREMENTS);
        else if ((value = value_of(argument, "threads")))
            o.threads = number_in(value, "threads", 1 << 16);
        else if ((value = value_of(argument, "model")))
            o.model = find_model(value);
        else if ((value = value_of(argument, "json")))
            o.json = value;
        else if (!read_more(&o, argument, more))
            die_usage("unexpected argument '%s'; there are device, precision, steps, threads, model, json%s%s, each as "
                      "--NAME=VALUE",
                      argument, more[0] ? ", " : "", more);
    }
    o.device = find_device(device);
    o.precision = find_precision(precision, o.device);
    if (o.threads == 0) o.threads = backend_default_threads(1);
    return o;
}

Backend *bench_backend(const BenchOptions *o) {
    Error error;
    Backend *be = backend_open(o->device, o->precision, o->threads, &error);
    if (!be) die("%s", error.text);
    return be;
}

/* ---- numbers to work on ---- */

void *random_numbers(size_t n, DType type, uint32_t stream) {
    float *numbers = checked_malloc(n * sizeof *numbers, "random numbers");
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        numbers[i] = (float)philox_uniform(philox(1, PHILOX_INIT_WEIGHTS, stream, i).word[0]) - 0.5f;
    if (type == DTYPE_BFLOAT16)
        for (size_t i = 0; i < n; i++) ((bfloat16 *)numbers)[i] = bfloat16_from_float(numbers[i]);
    return numbers;
}

/* Odd, so that the rows of no matrix are the same. */
enum { RANDOM_BLOCK = (1 << 20) - 1 };

void fill_random(Backend *be, void *device, size_t n, DType type, float scale, uint32_t stream) {
    size_t block = n < RANDOM_BLOCK ? n : RANDOM_BLOCK, size = dtype_size(type);
    float *numbers = random_numbers(block, DTYPE_FLOAT32, stream);
    for (size_t i = 0; i < block; i++) {
        numbers[i] *= scale;
        if (type == DTYPE_BFLOAT16) ((bfloat16 *)numbers)[i] = bfloat16_from_float(numbers[i]);
    }
    for (size_t at = 0; at < n; at += block)
        be->copy_from_host(be, (char *)device + at * size, numbers, (n - at < block ? n - at : block) * size);
    free(numbers);
}

/* ---- the rates to compare with ---- */

/* A measurement is as long as it takes to even out what a neighbour or a clock does in between. */
static const double CPU_SECONDS = 0.2, GPU_SECONDS = 0.05;
enum { COPY_BYTES = 1 << 29, COPY_PIECE = 1 << 20, TINY_COPY_BYTES = 1 << 20 };

static const int64_t GPU_MATMUL[3] = {8192, 8192, 8192}, CPU_MATMUL[3] = {4096, 3072, 768};
static const int64_t TINY_MATMUL[3] = {128, 128, 128};

void rates_open(Rates *r, Backend *be, DType type, bool tiny) {
    const int64_t *size = tiny ? TINY_MATMUL : be->on_gpu ? GPU_MATMUL : CPU_MATMUL;
    memset(r, 0, sizeof *r);
    r->be = be;
    r->least_seconds = tiny ? 0.0 : be->on_gpu ? GPU_SECONDS : CPU_SECONDS;
    r->copy_bytes = tiny ? TINY_COPY_BYTES : COPY_BYTES;
    r->from = be->alloc(be, r->copy_bytes, "a copy");
    r->to = be->alloc(be, r->copy_bytes, "a copy");
    fill_random(be, r->from, r->copy_bytes / sizeof(float), DTYPE_FLOAT32, 1.0f, 0);
    if (!be->multiplies(be, type)) return;
    int64_t m = size[0], n = size[1], k = size[2];
    r->matmul = (BatchedMatmul){.type = type, .count = 1, .m = m, .n = n, .k = k, .alpha = 1.0f};
    r->a = be->alloc(be, (size_t)(m * k) * dtype_size(type), "a matmul");
    r->b = be->alloc(be, (size_t)(k * n) * dtype_size(type), "a matmul");
    r->d = be->alloc(be, (size_t)(m * n) * dtype_size(type), "a matmul");
    fill_random(be, r->a, (size_t)(m * k), type, 1.0f, 1);
    fill_random(be, r->b, (size_t)(k * n), type, 1.0f, 2);
    be->autotune(be, true);
    be->matmul_batched(be, &r->matmul, r->d, r->a, r->b, NULL);
    be->autotune(be, false);
}

void rates_close(Rates *r) {
    void *memory[] = {r->from, r->to, r->a, r->b, r->d};
    for (size_t i = 0; i < ARRAY_LENGTH(memory); i++) r->be->free(r->be, memory[i]);
}

/* Copies by all threads, one way or the other, and returns the time. */
static double host_copy_seconds(Rates *r, bool by_loop) {
    float *RESTRICT to = r->to;
    const float *RESTRICT from = r->from;
    int64_t n = (int64_t)(r->copy_bytes / sizeof(float)), piece = COPY_PIECE / sizeof(float);
    double begun = seconds_now();
    if (by_loop) {
#pragma omp parallel for simd schedule(static) num_threads(r->be->threads)
        for (int64_t i = 0; i < n; i++) to[i] = from[i];
    } else {
#pragma omp parallel for schedule(static) num_threads(r->be->threads)
        for (int64_t i = 0; i < n; i += piece) memcpy(to + i, from + i, (size_t)min_i64(piece, n - i) * sizeof *to);
    }
    return seconds_now() - begun;
}

/* Seconds of one call, from many between two waits: a device is asked in time for the next. */
static double seconds_each(Rates *r, void (*call)(Rates *r)) {
    Backend *be = r->be;
    int calls = 0, round = 1;
    call(r);
    be->synchronize(be);
    double begun = seconds_now(), seconds;
    do {
        for (int i = 0; i < round; i++) call(r);
        calls += round;
        round = calls;
        be->synchronize(be);
        seconds = seconds_now() - begun;
    } while (seconds < r->least_seconds);
    return seconds / calls;
}

static void call_copy(Rates *r) { r->be->copy(r->be, r->to, r->from, r->copy_bytes); }
static void call_matmul(Rates *r) { r->be->matmul_batched(r->be, &r->matmul, r->d, r->a, r->b, NULL); }

double copy_rate(Rates *r) {
    double seconds =
        r->be->on_gpu ? seconds_each(r, call_copy) : fmin(host_copy_seconds(r, true), host_copy_seconds(r, false));
    return 2.0 * (double)r->copy_bytes / seconds;
}

double matmul_rate(Rates *r) {
    if (!r->a) return 0.0;
    return 2.0 * (double)r->matmul.m * (double)r->matmul.n * (double)r->matmul.k / seconds_each(r, call_matmul);
}

/* ---- figures ---- */

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

double median(const double *values, int n) {
    double sorted[MAX_MEASUREMENTS];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
}

double peak_memory_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss * 1024.0;
}

void add_figure(cJSON *object, const char *key, double value) {
    char digits[32];
    snprintf(digits, sizeof digits, "%.5g", value);
    if (isfinite(value))
        cJSON_AddNumberToObject(object, key, strtod(digits, NULL));
    else
        cJSON_AddNullToObject(object, key);
}

void write_figures(cJSON *object, const char *path) {
    char *text = cJSON_Print(object);
    FILE *file = path ? fopen(path, "w") : NULL;
    if (path && (!file || fprintf(file, "%s\n", text) < 0 || fclose(file) != 0)) die("cannot write %s", path);
    cJSON_free(text);
    cJSON_Delete(object);
}
