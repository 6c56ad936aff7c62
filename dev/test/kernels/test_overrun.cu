/* test_overrun.cu: one element written past the end of any buffer of a model or an optimizer is caught: on the emulated
 * GPU by AddressSanitizer, as the arena leaves poisoned gaps. (On a real one compute-sanitizer does, where
 * train.debug_alloc gives each buffer an allocation of its own.) Also the last element itself, which must not be. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/comm.h"
#include "dev/test/test.h"
#include "kernels/cuda/cuda_backend.h"
#include "model/gpt2.h"
#include "optim/optim.h"

#if defined(MARS_EMULATOR) && defined(__SANITIZE_ADDRESS__)
static const bool can_catch = true;
#else
static const bool can_catch = false;
#endif

/* Reports that nobody reads need not name functions, which takes most of the time. */
extern "C" const char *__asan_default_options(void) { return "symbolize=0"; }

static __global__ void write_byte(unsigned char *buffer, size_t at) { buffer[at] = 1; }

/* Whether a child process that writes byte `at` of the buffer lives to tell. */
static bool survives(Backend *be, void *buffer, size_t at) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        freopen("/dev/null", "w", stderr);
        write_byte<<<1, 1, 0, cuda_stream(be)>>>((unsigned char *)buffer, at);
        cuda_check_launch("write_byte");
        be->synchronize(be);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

typedef struct Planned {
    Backend *be;
    Comm *comm;
    GPT2 model;
    Optim *optim;
} Planned;

static void open_planned(Planned *p, DType type, OptimName name) {
    GPT2Config config = gpt2_config(1, 1, 24, 7, 11);
    config.bias = true;
    OptimConfig optimizer = optim_defaults(name, 1e-3);
    optimizer.is_approx = false;
    Error error;
    p->be = backend_open("cuda", type, 1, &error);
    if (!p->be) fail_msg("%s", error.text);
    p->comm = comm_open_single();
    gpt2_plan(&p->model, &config, p->be, 3, RECOMPUTE_NONE, true);
    p->optim = optim_plan(&optimizer, &p->model.table, p->be, p->comm, &p->model.arena, &error);
    if (!p->optim) fail_msg("%s", error.text);
    gpt2_allocate(&p->model);
    OptimBuffers buffers = {p->model.params, p->model.weights, p->model.grads};
    optim_start(p->optim, buffers);
    p->be->synchronize(p->be);
}

static void close_planned(Planned *p) {
    optim_close(p->optim);
    gpt2_free(&p->model);
    free(p->comm);
    p->be->close(p->be);
}

static void check_every_buffer(DType type, OptimName name) {
    Planned p;
    open_planned(&p, type, name);
    assert_true(p.model.arena.count > 40);
    for (int i = 0; i < p.model.arena.count; i++) {
        const ArenaItem *item = &p.model.arena.items[i];
        if (!survives(p.be, item->address, item->bytes - 1)) fail_msg("%s: its last byte is out of reach", item->name);
        if (survives(p.be, item->address, item->bytes)) fail_msg("%s: a byte after its end was written", item->name);
    }
    close_planned(&p);
}

static void test_every_buffer(void **state) {
    (void)state;
    if (!can_catch) {
        print_message("this build has no AddressSanitizer around an emulated GPU\n");
        skip();
    }
    check_every_buffer(DTYPE_BFLOAT16, OPTIM_MARS_ADAMW);
    check_every_buffer(DTYPE_FLOAT32, OPTIM_MARS_M);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_buffer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
