/* fiber.cpp: making fibers. */
#include "dev/emu/fiber.h"

#include <sys/mman.h>

#ifndef __x86_64__
#include <boost/context/detail/fcontext.hpp>
#endif

#include "dev/emu/report.h"

/* Between call and return, the six registers that functions must keep are on the stack that rests. As threads rest in
 * the same functions nearly always, the processor predicts all returns that follow. After Boost.Context's jump, which
 * serves other processors and does not end in a return, it predicts none, and a change takes twice as long. */
#ifdef __x86_64__
asm(R"(
    .text
    .globl emu_fiber_jump
    .type emu_fiber_jump, @function
emu_fiber_jump:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_fiber_jump, . - emu_fiber_jump
)");
#else
extern "C" void emu_fiber_jump(void **from, void *to) {
    boost::context::detail::transfer_t transfer = boost::context::detail::jump_fcontext(to, from);
    *static_cast<void **>(transfer.data) = transfer.fctx;
}
#endif

namespace emu {

Fiber fiber_host, *fiber_running = &fiber_host;

/* What fibers call, the same for all. */
static void (*entry_function)();

/* Where a fiber begins. The first of all is jumped to from the host, whose stack AddressSanitizer then tells. */
[[noreturn]] static void begin() {
    if (__sanitizer_finish_switch_fiber) {
        const void *bottom;
        size_t bytes;
        __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
        if (!fiber_host.stack_end) fiber_host.stack_end = bottom, fiber_host.stack_bytes = bytes;
    }
    entry_function();
    fatal({}, "a fiber came to its end");
}

/* The context that emu_fiber_jump() takes for a new stack: begin() as if it had been called, by nobody. */
#ifdef __x86_64__
static void *new_context(char *top, size_t) {
    void **stack = reinterpret_cast<void **>(top);
    *--stack = nullptr; /* begin()'s return address, above which stacks are aligned to 16 bytes */
    *--stack = reinterpret_cast<void *>(begin);
    return stack - 6; /* six registers */
}
#else
static void *new_context(char *top, size_t bytes) {
    return boost::context::detail::make_fcontext(top, bytes, [](boost::context::detail::transfer_t transfer) {
        *static_cast<void **>(transfer.data) = transfer.fctx;
        begin();
    });
}
#endif

void fiber_make(Fiber &fiber, int number, void (*entry)()) {
    const size_t page = 4096, stack = 256 << 10, spread = 5 * page, bytes = page + stack + spread;
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fatal({}, "no memory for the stack of thread %d", number);
    mprotect(memory, page, PROT_NONE); /* whoever overflows the stack ends here */
    char *end = static_cast<char *>(memory) + page, *top = end + stack + spread - number % 61 * 320;
    fiber.stack_end = end;
    fiber.stack_bytes = top - end;
    fiber.context = new_context(top, fiber.stack_bytes);
    entry_function = entry;
    if (__tsan_create_fiber) fiber.tsan = __tsan_create_fiber(0);
}

} // namespace emu
