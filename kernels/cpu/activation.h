/* activation.h: the type `act` that this translation unit is compiled for, and loads and stores of it.
 *
 * The Makefile compiles each operation file with -DACTIVATION_BFLOAT16=0 and with =1. Arithmetic is always float:
 * the two builds differ only in act_load and act_store, and both vectorise. */
#ifndef MARS_KERNELS_CPU_ACTIVATION_H
#define MARS_KERNELS_CPU_ACTIVATION_H

#include "kernels/cpu/cpu_backend.h"
#include "util/dtype.h"

#if ACTIVATION_BFLOAT16
typedef bfloat16 act;
#define ACT_DTYPE DTYPE_BFLOAT16
#define ENTER_OPERATIONS(group) void cpu_enter_##group##_bfloat16(Backend *be)
static inline float act_load(act value) { return float_from_bfloat16(value); }
static inline act act_store(float value) { return bfloat16_from_float(value); }
#else
typedef float act;
#define ACT_DTYPE DTYPE_FLOAT32
#define ENTER_OPERATIONS(group) void cpu_enter_##group##_float32(Backend *be)
static inline float act_load(act value) { return value; }
static inline act act_store(float value) { return value; }
#endif

#endif
