/* cpu_backend.h: the internals of the CPU backend, which the files of this folder share.
 *
 * Every operation is written once, for the type `act` of activation.h, and compiled twice, into a float32 and a
 * bfloat16 function. Each file of operations exports one function per type, which enters its operations in a table.
 * Threads divide the work in such a way that no result depends on the number of cores or on timing. Results with
 * partial sums depend on the number of threads with which the backend was opened. */
#ifndef MARS_KERNELS_CPU_CPU_BACKEND_H
#define MARS_KERNELS_CPU_CPU_BACKEND_H

#include "kernels/backend.h"
#include "kernels/cpu/matmul.h"

typedef struct CpuScratch {
    void *memory;
    size_t bytes;
} CpuScratch;

typedef struct CpuBackend {
    Backend base; /* first, so that a Backend * is a CpuBackend * */
    Matmul *matmul;
    CpuScratch *scratch; /* one for each thread; number base.threads is for memory that all threads share */
    double started[STOPWATCH_COUNT], stopped_seconds[STOPWATCH_COUNT];
} CpuBackend;

/* Number of elements that a thread takes at a time in elementwise loops over whole arrays. */
enum { ELEMENT_BLOCK = 4096 };

static inline CpuBackend *cpu_backend(Backend *be) { return (CpuBackend *)be; }

EXTERN_C_BEGIN

/* Returns at least `bytes` of working memory, aligned to 4096, valid until the next call for the same slot. A slot is a
 * thread's number, or be->threads. Ends the program if there is not enough memory. */
void *cpu_scratch(Backend *be, int slot, size_t bytes);

Backend *cpu_backend_open(DType activation, int threads, Error *error);

/* True if the processor multiplies bfloat16 matrices in hardware (AMX). */
bool cpu_has_fast_bfloat16(void);

#define DECLARE_CPU_OPERATIONS(group)              \
    void cpu_enter_##group##_float32(Backend *be); \
    void cpu_enter_##group##_bfloat16(Backend *be);
DECLARE_CPU_OPERATIONS(embedding)
DECLARE_CPU_OPERATIONS(norm)
DECLARE_CPU_OPERATIONS(linear)
DECLARE_CPU_OPERATIONS(qk_norm_rope)
DECLARE_CPU_OPERATIONS(dropout)
DECLARE_CPU_OPERATIONS(attention)
DECLARE_CPU_OPERATIONS(loss)
void cpu_enter_matmuls(Backend *be); /* of both types, in every table */

EXTERN_C_END

#endif
