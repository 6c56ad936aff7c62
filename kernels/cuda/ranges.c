/* ranges.c: names for parts of a program that NVIDIA's profilers show (NVTX, headers of the CUDA Toolkit). Without a
 * profiler a call does nothing. A toolkit without these headers gives no names. */
#include "kernels/cuda/cuda_backend.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

static void range_begin(Backend *be, const char *name) {
    (void)be;
    nvtxRangePushA(name);
}

static void range_end(Backend *be) {
    (void)be;
    nvtxRangePop();
}
#else
static void range_begin(Backend *be, const char *name) { (void)be, (void)name; }
static void range_end(Backend *be) { (void)be; }
#endif

void cuda_enter_ranges(Backend *be) {
    be->range_begin = range_begin;
    be->range_end = range_end;
}
