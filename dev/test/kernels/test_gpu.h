/* test_gpu.h: what tests ask about the GPU under test: whether there is one, and whether it is an emulated one
 * (dev/emu), which is slow, can be several, and has an NCCL that adds in the order of the ranks. */
#ifndef MARS_DEV_TEST_KERNELS_TEST_GPU_H
#define MARS_DEV_TEST_KERNELS_TEST_GPU_H

#include "dev/test/test.h"
#include "kernels/backend.h"

/* Skips the test where this build has no GPU to use. */
static inline void need_gpu(void) {
    if (strcmp(backend_auto_device(), "cuda") == 0) return;
    print_message("there is no GPU, not even an emulated one\n");
    skip();
}

static inline bool is_emulated(const Backend *be) { return strstr(be->device, "emulated") != NULL; }

/* The same of a device by name, which is opened and closed for it. */
static inline bool device_is_emulated(const char *device) {
    Error error;
    Backend *be = backend_open(device, DTYPE_FLOAT32, 1, &error);
    if (!be) fail_msg("%s", error.text);
    bool emulated = is_emulated(be);
    be->close(be);
    return emulated;
}

/* True where each step takes long, and a test keeps some of its cases: with small sizes alone, or on an emulated
 * GPU. */
static inline bool is_in_haste(void) {
    static int answer = -1; /* that of a device, which is opened for it */
    if (answer < 0) answer = only_small_sizes() || device_is_emulated(test_device());
    return answer;
}

#endif
