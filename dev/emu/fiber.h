/* fiber.h: fibers: stacks of their own, and the change from one to another, of which AddressSanitizer and ThreadSanitizer
 * are told where the program has them. Nothing here knows of CUDA. */
#ifndef MARS_EMU_FIBER_H
#define MARS_EMU_FIBER_H
#ifdef __cplusplus

#include <cstddef>

namespace emu {

struct Fiber {
    void *context = nullptr;         /* where it goes on, while another fiber runs */
    const void *stack_end = nullptr; /* lowest address of its stack */
    size_t stack_bytes = 0;
    void *fake_stack = nullptr; /* AddressSanitizer's */
    void *tsan = nullptr;       /* ThreadSanitizer's */
};

/* Makes a fiber that calls entry() when it is first switched to. entry never returns. `number` spreads stacks over the
 * sets of the caches: all at one distance, the same variables of all threads would compete for the same few lines. */
void fiber_make(Fiber &fiber, int number, void (*entry)());

/* Goes to `to`, and returns when somebody comes back to the fiber that called. */
void fiber_switch(Fiber &to);

/* The fiber that the program began with. */
Fiber &fiber_host();

/* Whether the program runs under ThreadSanitizer. */
bool has_thread_sanitizer();

/* For ThreadSanitizer: what happened before release(object) happens before what follows acquire(object). */
void tsan_release(void *object);
void tsan_acquire(void *object);

/* For AddressSanitizer: memory that must not be touched, or may be again. */
void asan_poison(const void *memory, size_t bytes);
void asan_unpoison(const void *memory, size_t bytes);

} // namespace emu

#endif
#endif
