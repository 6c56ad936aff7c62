/* fiber.h: fibers: stacks of their own, and the change from one to another, of which AddressSanitizer and
 * ThreadSanitizer are told where the program has them. Nothing here knows of CUDA.
 *
 * Sanitizers' functions are declared weak: where the program is linked without the sanitizer they are null. So the
 * engine, which is never instrumented itself, is the same in every build. */
#ifndef MARS_EMU_FIBER_H
#define MARS_EMU_FIBER_H
#ifdef __cplusplus

#include <cstddef>

extern "C" {
#define EMU_WEAK __attribute__((weak))
EMU_WEAK void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t bytes);
EMU_WEAK void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom, size_t *bytes);
EMU_WEAK void __asan_poison_memory_region(const volatile void *memory, size_t bytes);
EMU_WEAK void __asan_unpoison_memory_region(const volatile void *memory, size_t bytes);
EMU_WEAK void *__tsan_get_current_fiber(void);
EMU_WEAK void *__tsan_create_fiber(unsigned flags);
EMU_WEAK void __tsan_switch_to_fiber(void *fiber, unsigned flags);
EMU_WEAK void __tsan_acquire(void *object);
EMU_WEAK void __tsan_release(void *object);
#undef EMU_WEAK
}

namespace emu {

struct Fiber {
    void *context = nullptr;         /* where it goes on, while another fiber runs */
    const void *stack_end = nullptr; /* lowest address of its stack */
    size_t stack_bytes = 0;
    void *fake_stack = nullptr; /* AddressSanitizer's */
    void *tsan = nullptr;       /* ThreadSanitizer's */
};

/* The fiber that the program began with, and the one that runs. */
extern Fiber fiber_host, *fiber_running;

/* Makes a fiber that calls entry() when it is first switched to. entry never returns, and is the same for all fibers.
 * `number` spreads stacks over the sets of the caches: all at one distance, the same variables of all threads would
 * compete for the same few lines. */
void fiber_make(Fiber &fiber, int number, void (*entry)());

/* The jump: leaves in *from where this stack goes on, and goes on at `to`. */
extern "C" void emu_fiber_jump(void **from, void *to);

/* Goes to `to`, and returns when somebody comes back to the fiber that called. The change orders nothing for
 * ThreadSanitizer: only barriers do. */
inline void fiber_switch(Fiber &to) {
    Fiber &from = *fiber_running;
    fiber_running = &to;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_end, to.stack_bytes);
    if (__tsan_switch_to_fiber) {
        const unsigned no_sync = 1;
        if (!fiber_host.tsan) fiber_host.tsan = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(to.tsan, no_sync);
    }
    emu_fiber_jump(&from.context, to.context);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
}

/* ---- what else sanitizers are told ---- */

inline bool has_thread_sanitizer() { return __tsan_create_fiber != nullptr; }

/* For ThreadSanitizer: what happened before release(object) happens before what follows acquire(object). */
inline void tsan_release(void *object) {
    if (__tsan_release) __tsan_release(object);
}
inline void tsan_acquire(void *object) {
    if (__tsan_acquire) __tsan_acquire(object);
}

/* For AddressSanitizer: memory that must not be touched, or may be again. */
inline void asan_poison(const void *memory, size_t bytes) {
    if (__asan_poison_memory_region) __asan_poison_memory_region(memory, bytes);
}
inline void asan_unpoison(const void *memory, size_t bytes) {
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(memory, bytes);
}

} // namespace emu

#endif
#endif
