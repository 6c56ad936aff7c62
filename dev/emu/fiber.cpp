/* fiber.cpp: fibers on Boost.Context's jump, which takes 4 ns where swapcontext() takes 179.
 *
 * Sanitizers' functions are declared weak: where the program is linked without the sanitizer they are null. So this
 * file, which is never instrumented itself, is the same in every build. */
#include "dev/emu/fiber.h"

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>

#include "dev/emu/report.h"

extern "C" {
#define WEAK __attribute__((weak))
WEAK void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t bytes);
WEAK void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom, size_t *bytes);
WEAK void __asan_poison_memory_region(const volatile void *memory, size_t bytes);
WEAK void __asan_unpoison_memory_region(const volatile void *memory, size_t bytes);
WEAK void *__tsan_get_current_fiber(void);
WEAK void *__tsan_create_fiber(unsigned flags);
WEAK void __tsan_switch_to_fiber(void *fiber, unsigned flags);
WEAK void __tsan_acquire(void *object);
WEAK void __tsan_release(void *object);
}
/* A change of fibers orders nothing: only barriers do. */
static const unsigned tsan_no_sync = 1;

namespace emu {

namespace context = boost::context::detail;

static Fiber host;
static Fiber *running = &host;

Fiber &fiber_host() { return host; }
bool has_thread_sanitizer() { return __tsan_create_fiber != nullptr; }
void tsan_release(void *object) {
    if (__tsan_release) __tsan_release(object);
}
void tsan_acquire(void *object) {
    if (__tsan_acquire) __tsan_acquire(object);
}
void asan_poison(const void *memory, size_t bytes) {
    if (__asan_poison_memory_region) __asan_poison_memory_region(memory, bytes);
}
void asan_unpoison(const void *memory, size_t bytes) {
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(memory, bytes);
}

/* What follows every jump, on the side of the fiber that goes on: `from` is where the jump came from. */
static void arrive(context::transfer_t transfer) { static_cast<Fiber *>(transfer.data)->context = transfer.fctx; }

/* The first jump to a fiber. The entry function waits in a static variable, as the jump carries only one pointer. */
static void (*entry_function)();
static void begin(context::transfer_t transfer) {
    arrive(transfer);
    if (__sanitizer_finish_switch_fiber) {
        const void *bottom;
        size_t bytes;
        __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
        if (transfer.data == &host) host.stack_end = bottom, host.stack_bytes = bytes;
    }
    entry_function();
    fatal({}, "a fiber came to its end");
}

void fiber_make(Fiber &fiber, int number, void (*entry)()) {
    const size_t page = 4096, stack = 256 << 10, spread = 5 * page;
    const size_t bytes = page + stack + spread;
    char *memory = static_cast<char *>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory == MAP_FAILED) fatal({}, "no memory for the stack of thread %d", number);
    mprotect(memory, page, PROT_NONE); /* whoever overflows the stack ends here */
    char *top = memory + bytes - (number % 61) * 320;
    fiber.stack_end = memory + page;
    fiber.stack_bytes = top - (memory + page);
    fiber.context = context::make_fcontext(top, fiber.stack_bytes, begin);
    entry_function = entry;
    if (__tsan_create_fiber) fiber.tsan = __tsan_create_fiber(0);
}

void fiber_switch(Fiber &to) {
    Fiber &from = *running;
    running = &to;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_end, to.stack_bytes);
    if (__tsan_switch_to_fiber) {
        if (!host.tsan) host.tsan = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(to.tsan, tsan_no_sync);
    }
    arrive(context::jump_fcontext(to.context, &from));
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
}

} // namespace emu
