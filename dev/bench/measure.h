/* measure.h: what the benchmarks share: their options, the rates that results are compared with (a large matmul and a
 * copy, on the same device and through the same table), random numbers to work on, medians, and JSON. */
#ifndef MARS_DEV_BENCH_MEASURE_H
#define MARS_DEV_BENCH_MEASURE_H

#include <cjson/cJSON.h>

#include "kernels/backend.h"
#include "model/gpt2_config.h"
#include "optim/optim.h"
#include "util/arena.h"

/* A learning rate of 1e-4 for every parameter group. */
OptimRates bench_rates(void);

/* ---- options ---- */

/* A size of GPT-2. */
typedef struct BenchModel {
    const char *name;
    GPT2Config config;
    bool tiny; /* far too small to say anything about speed: for trying the programs out, in an emulator too */
} BenchModel;

/* What the command line of a benchmark says. */
typedef struct BenchOptions {
    const char *device; /* "cpu" or "cuda" */
    DType precision;
    int steps;   /* measurements to take the median of */
    int threads; /* of the CPU */
    const BenchModel *model;
    int batch; /* sequences; 0 where not given */
    Recompute recompute;
    OptimName optimizer; /* OPTIM_COUNT where not given */
    bool debug_alloc;    /* an allocation of its own for each buffer, which a checker of memory sees */
    const char *json;    /* a file for the figures; NULL = none */
} BenchOptions;

/* Reads --device=auto|cpu|cuda, --precision=auto|bfloat16|float32, --steps=N (`steps` where not given), --threads=N,
 * --model=tiny|small|medium|large|xl and --json=FILE, and those of --batch=N, --recompute=none|mlp|block,
 * --optimizer=NAME and --debug_alloc=true|false that are words of `more`. Anything else ends the program, with a list
 * of what there is. */
BenchOptions bench_options(int argc, char **argv, int steps, const char *more);

/* Opens the table that the options ask for, or ends the program with the reason. */
Backend *bench_backend(const BenchOptions *options);

const char *bench_recompute_name(Recompute recompute);

/* ---- numbers to work on ---- */

/* n random numbers in [-1/2, 1/2), as float or bfloat16. Matmuls of zeros are faster than others on a GPU, which then
 * draws less power, and on a CPU, whose untouched memory is all one page. The caller frees them. */
void *random_numbers(size_t n, DType type, uint32_t stream);

/* The same on the device, times `scale`: a block of them, again and again. */
void fill_random(Backend *be, void *device, size_t n, DType type, float scale, uint32_t stream);

/* ---- the rates to compare with ---- */

/* What the device reaches at what it does best, measured next to everything else, since clocks and neighbours
 * change. */
typedef struct Rates {
    Backend *be;
    double least_seconds; /* that a measurement takes */
    void *from, *to;
    size_t copy_bytes;
    BatchedMatmul matmul; /* one square matmul of the given type; on a CPU, of the model's own size */
    void *a, *b, *d;
} Rates;

/* Takes the memory, and lets the device choose its algorithm. */
void rates_open(Rates *rates, Backend *be, DType type, bool tiny);
void rates_close(Rates *rates);

/* Bytes read and written by a copy, per second: the table's on a GPU, the better of a loop and memcpy by all threads on
 * a CPU. */
double copy_rate(Rates *rates);
/* FLOP/s of the matmul; 0 where the device does not multiply that type. */
double matmul_rate(Rates *rates);

/* ---- figures ---- */

enum { MAX_MEASUREMENTS = 1000 };

/* The median of up to MAX_MEASUREMENTS values. */
double median(const double *values, int n);

/* Largest resident memory of this process. */
double peak_memory_bytes(void);

/* Adds a number to a JSON object, with five digits; null where it is not finite. */
void add_figure(cJSON *object, const char *key, double value);

/* Writes `object` to a file, unless path is NULL, and frees it. */
void write_figures(cJSON *object, const char *path);

#endif
