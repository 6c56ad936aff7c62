/* test_support.cuh: what the emulator's tests share: arrays on host and device, all orders of threads, and running a
 * case in a child process to see how it ends. */
#ifndef MARS_EMU_TEST_SUPPORT_CUH
#define MARS_EMU_TEST_SUPPORT_CUH

#include <cuda_runtime.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
}
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "dev/emu/emu.h"

#ifdef __SANITIZE_ADDRESS__
static const bool has_asan = true;
#else
static const bool has_asan = false;
#endif
#ifdef __SANITIZE_THREAD__
static const bool has_tsan = true;
static const char *const all_orders[] = {"forward", "newest"}; /* it is slow, and finds races in any order */
/* Every program waits a second at its end for races of others to show; a child per case would wait for minutes. */
extern "C" const char *__tsan_default_options() { return "atexit_sleep_ms=0"; }
#else
static const bool has_tsan = false;
static const char *const all_orders[] = {"forward", "reverse", "newest", "mix:1", "mix:2", "mix:3"};
#endif

/* A call that must succeed. In a child process cmocka, which goes on with the next test, must not hear of it. */
static bool is_child = false;
#define must(call) must_succeed(call, #call)
static inline void must_succeed(cudaError_t error, const char *call) {
    if (!error) return;
    if (!is_child) fail_msg("%s: %s", call, cudaGetErrorName(error));
    printf("%s: %s\n", call, cudaGetErrorName(error));
    fflush(stdout);
    _exit(1);
}

/* Small whole numbers times a power of two: sums of products of them are exact in float32, in any order. */
static inline float number_at(size_t i) { return static_cast<float>((i * 7919 + i / 13 * 31) % 17) / 8.0f - 1.0f; }

static inline std::vector<float> numbers(size_t n, size_t first = 0) {
    std::vector<float> values(n);
    for (size_t i = 0; i < n; i++) values[i] = number_at(first + i);
    return values;
}

/* An array of exactly n elements in device memory. */
template <class T> class DeviceArray {
  public:
    explicit DeviceArray(size_t n) : n(n) { must(cudaMalloc(&memory, n * sizeof(T))); }
    template <class From> explicit DeviceArray(const std::vector<From> &from) : DeviceArray(from.size()) {
        std::vector<T> values(from.begin(), from.end());
        must(cudaMemcpy(memory, values.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    }
    DeviceArray(const DeviceArray &) = delete;
    ~DeviceArray() { cudaFree(memory); }
    operator T *() const { return memory; }
    std::vector<T> values() const {
        std::vector<T> result(n);
        must(cudaMemcpy(result.data(), memory, n * sizeof(T), cudaMemcpyDeviceToHost));
        return result;
    }

  private:
    T *memory;
    size_t n;
};

/* Pinned host memory, which copies read and write late. */
template <class T> class PinnedArray {
  public:
    explicit PinnedArray(size_t n) { must(cudaMallocHost(&memory, n * sizeof(T))); }
    PinnedArray(const PinnedArray &) = delete;
    ~PinnedArray() { cudaFreeHost(memory); }
    operator T *() const { return memory; }

  private:
    T *memory;
};

/* How a case ended in a child process. RIGHT and WRONG are about its result, and it said nothing. */
struct Outcome {
    enum { RIGHT, WRONG, DIED } end;
    char output[16384];
};

/* A case returns whether its result was right. */
typedef bool (*Case)();

static inline void run_child(Case run, const char *order, int pipe_end) {
    is_child = true;
    for (int number : {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS}) signal(number, SIG_DFL); /* from cmocka */
    dup2(pipe_end, 1);
    dup2(pipe_end, 2);
    emu_set_order(order);
    bool right = run();
    fflush(nullptr);
    _exit(right ? 10 : 11);
}

/* Runs the case in a child, with what it prints in `output`. */
static inline Outcome *outcome_of(Case run, const char *order) {
    static Outcome outcome;
    int ends[2];
    fflush(nullptr);
    if (pipe(ends)) fail_msg("no pipe");
    pid_t child = fork();
    if (child == 0) run_child(run, order, ends[1]);
    close(ends[1]);
    size_t length = 0;
    ssize_t got;
    char rest[4096];
    while ((got = read(ends[0], rest, sizeof rest)) > 0) {
        size_t room = sizeof outcome.output - 1 - length, kept = static_cast<size_t>(got) < room ? got : room;
        memcpy(outcome.output + length, rest, kept);
        length += kept;
    }
    outcome.output[length] = 0;
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    bool quiet = WIFEXITED(status) && length == 0;
    if (quiet && WEXITSTATUS(status) == 10)
        outcome.end = Outcome::RIGHT;
    else if (quiet && WEXITSTATUS(status) == 11)
        outcome.end = Outcome::WRONG;
    else
        outcome.end = Outcome::DIED;
    return &outcome;
}

/* The case has a right result in this order; under ThreadSanitizer, without a word from it. */
static inline void assert_right(Case run, const char *order) {
    const Outcome *outcome = outcome_of(run, order);
    if (outcome->end != Outcome::RIGHT) fail_msg("%s: not right\n%s", order, outcome->output);
}

static inline void assert_right_in_all_orders(Case run) {
    for (const char *order : all_orders) assert_right(run, order);
}

/* A fault shows in this order by its result. Where ThreadSanitizer is, it may be what speaks. */
static inline void assert_wrong(Case run, const char *order) {
    const Outcome *outcome = outcome_of(run, order);
    if (outcome->end == Outcome::WRONG || (has_tsan && strstr(outcome->output, "ThreadSanitizer"))) return;
    fail_msg("%s: not found\n%s", order, outcome->output);
}

/* A fault that does not show in this order. ThreadSanitizer would find it. */
static inline void assert_hidden(Case run, const char *order) {
    if (!has_tsan) assert_right(run, order);
}

/* A fault ends the program with this text, in every order. */
static inline void assert_reported(Case run, const char *text) {
    for (const char *order : all_orders) {
        const Outcome *outcome = outcome_of(run, order);
        if (outcome->end != Outcome::DIED || !strstr(outcome->output, text))
            fail_msg("%s: expected '%s', the output is\n%s", order, text, outcome->output);
    }
}

#endif
