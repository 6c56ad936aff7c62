/* cpu_backend.c: opens the CPU backend and implements memory and copies. The table's other operations are in the other
 * files of this folder. */
#include "kernels/cpu/cpu_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/huge_memory.h"
#include "util/machine_memory.h"

/* With 50,304 columns these rows take 100 MB in bfloat16. */
enum { LOGIT_ROWS = 1024 };

static void *zeroed(size_t bytes) {
    void *memory = huge_memory(bytes);
    if (memory) memset(memory, 0, bytes);
    return memory;
}

static void *cpu_alloc(Backend *be, size_t bytes, const char *what) {
    (void)be;
    void *memory = zeroed(bytes);
    if (!memory)
        die("out of memory: %.2f GB for %s; a smaller batch_size or recompute=\"block\" needs less",
            (double)bytes * 1e-9, what);
    return memory;
}

static void cpu_free(Backend *be, void *memory) {
    (void)be;
    free(memory);
}

static void cpu_copy(Backend *be, void *to, const void *from, size_t bytes) {
    (void)be;
    memcpy(to, from, bytes);
}

static void cpu_zero(Backend *be, void *memory, size_t bytes) {
    (void)be;
    memset(memory, 0, bytes);
}

static void cpu_synchronize(Backend *be) { (void)be; /* every operation has ended when it returns */ }

static size_t cpu_memory_left(Backend *be) {
    MachineMemory memory = machine_memory("");
    size_t share = memory.shared == SIZE_MAX ? SIZE_MAX : memory.shared / (size_t)be->memory_sharers;
    return share < memory.own ? share : memory.own;
}

static void cpu_wait_for_copies(Backend *be) { (void)be; /* a copy has ended when it returns */ }

static void cpu_stopwatch_start(Backend *be, Stopwatch which) { cpu_backend(be)->started[which] = seconds_now(); }
static void cpu_stopwatch_stop(Backend *be, Stopwatch which) {
    cpu_backend(be)->stopped_seconds[which] += seconds_now() - cpu_backend(be)->started[which];
}
static double cpu_stopwatch_seconds(Backend *be, Stopwatch which) { return cpu_backend(be)->stopped_seconds[which]; }

static void cpu_range_begin(Backend *be, const char *name) { (void)be, (void)name; }
static void cpu_range_end(Backend *be) { (void)be; }
static bool cpu_read_sensors(Backend *be, DeviceSensors *sensors) { return (void)be, (void)sensors, false; }

/* The library chooses algorithms by itself, without timing any. */
static void cpu_autotune(Backend *be, bool on) { (void)be, (void)on; }
static char *cpu_write_algorithms(Backend *be) {
    (void)be;
    return checked_strdup("");
}
static bool cpu_read_algorithms(Backend *be, const char *text, Error *error) {
    return text[0] == 0 || error_set(error, "%s: nothing is chosen by timing here", be->name);
}

static void cpu_invalidate_weights(Backend *be) { matmul_invalidate_weights(cpu_backend(be)->matmul); }

void *cpu_scratch(Backend *be, int slot, size_t bytes) {
    CpuScratch *scratch = &cpu_backend(be)->scratch[slot];
    if (scratch->bytes < bytes) {
        free(scratch->memory);
        scratch->memory = zeroed(bytes);
        scratch->bytes = bytes;
        if (!scratch->memory) die("out of memory: %.2f GB of working memory", (double)bytes * 1e-9);
    }
    return scratch->memory;
}

static void cpu_close(Backend *be) {
    CpuBackend *cpu = cpu_backend(be);
    matmul_close(cpu->matmul);
    for (int i = 0; i <= be->threads; i++) free(cpu->scratch[i].memory);
    free(cpu->scratch);
    free(cpu);
}

/* Reads the processor's name from Linux. */
static void read_processor_name(char *name, size_t bytes) {
    snprintf(name, bytes, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) return;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(name, bytes, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    fclose(file);
}

bool cpu_has_fast_bfloat16(void) { return matmul_has_fast_bfloat16(); }

Backend *cpu_backend_open(DType activation, int threads, Error *error) {
    CpuBackend *cpu = checked_calloc(1, sizeof *cpu, "the CPU backend");
    Backend *be = &cpu->base;
    cpu->matmul = matmul_open(activation, threads, error);
    if (!cpu->matmul) {
        free(cpu);
        return NULL;
    }
    cpu->scratch = checked_calloc((size_t)threads + 1, sizeof *cpu->scratch, "the CPU backend");
    snprintf(be->name, sizeof be->name, "cpu-%s", dtype_name(activation));
    read_processor_name(be->device, sizeof be->device);
    be->activation = activation;
    be->threads = threads;
    be->memory_sharers = 1;
    be->is_host_memory = true;
    be->logit_rows = LOGIT_ROWS;
    be->alloc = cpu_alloc;
    be->free = cpu_free;
    be->memory_left = cpu_memory_left;
    be->copy_from_host = cpu_copy;
    be->copy_to_host = cpu_copy;
    be->copy = cpu_copy;
    be->zero = cpu_zero;
    be->synchronize = cpu_synchronize;
    be->copy_from_host_async = cpu_copy;
    be->wait_for_copies = cpu_wait_for_copies;
    be->stopwatch_start = cpu_stopwatch_start;
    be->stopwatch_stop = cpu_stopwatch_stop;
    be->stopwatch_seconds = cpu_stopwatch_seconds;
    be->range_begin = cpu_range_begin;
    be->range_end = cpu_range_end;
    be->read_sensors = cpu_read_sensors;
    be->autotune = cpu_autotune;
    be->write_algorithms = cpu_write_algorithms;
    be->read_algorithms = cpu_read_algorithms;
    be->invalidate_weights = cpu_invalidate_weights;
    be->close = cpu_close;
    cpu_enter_matmuls(be);
#define ENTER(type)                                                                                      \
    cpu_enter_embedding_##type(be), cpu_enter_norm_##type(be), cpu_enter_linear_##type(be),              \
        cpu_enter_qk_norm_rope_##type(be), cpu_enter_dropout_##type(be), cpu_enter_attention_##type(be), \
        cpu_enter_loss_##type(be)
    if (activation == DTYPE_FLOAT32)
        ENTER(float32);
    else
        ENTER(bfloat16);
#undef ENTER
    return be;
}
