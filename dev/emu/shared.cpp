/* shared.cpp: shared memory: one window for all blocks, in which each block places its variables anew, with gaps
 * between them that AddressSanitizer knows. */
#include <cstdlib>

#include "dev/emu/block.h"
#include "dev/emu/runtime.h"

namespace emu {

static const size_t window_bytes = 1 << 20, gap = 1024;

struct SharedWindow {
    char *memory;
    size_t used;          /* of the window, with gaps */
    size_t static_bytes;  /* of __shared__ variables */
    size_t dynamic_bytes; /* as the launch said */
    bool opted_in;        /* the kernel may have more than 48 KiB */
    void *dynamic;        /* NULL until the block asks for it */
    uint64_t block;       /* counts all blocks of the program */
};
static SharedWindow window;

void shared_new_launch(size_t dynamic_bytes, bool opted_in) {
    if (!window.memory) {
        window.memory = static_cast<char *>(std::aligned_alloc(4096, window_bytes));
        if (!window.memory) fatal({}, "no memory for shared memory");
        window.used = window_bytes;
    }
    window.dynamic_bytes = dynamic_bytes;
    window.opted_in = opted_in;
}

void shared_new_block() {
    asan_poison(window.memory, window.used);
    window.used = gap;
    window.static_bytes = 0;
    window.dynamic = nullptr;
    window.block++;
}

/* Aligned to `alignment`, at least 8, but not to twice that: more would hide that a kernel needs more. Filled by stores
 * that no sanitizer sees: for ThreadSanitizer memset() would be a write by the thread that happens to come first. */
static void *place(size_t bytes, size_t alignment, Site site) {
    alignment = alignment < 8 ? 8 : alignment;
    const size_t twice = 2 * alignment, offset = (window.used + twice - 1) / twice * twice + alignment;
    if (offset + bytes + gap > window_bytes) fatal(site, "no room for shared memory aligned to %zu bytes", alignment);
    window.used = offset + bytes + gap;
    volatile uint64_t *words = reinterpret_cast<volatile uint64_t *>(window.memory + offset);
    for (size_t i = 0; i < (bytes + 7) / 8; i++) words[i] = ~UINT64_C(0);
    asan_unpoison(window.memory + offset, bytes);
    return window.memory + offset;
}

static void check_limits(Site site) {
    const size_t limit = window.opted_in ? SHARED_BYTES_OPT_IN : SHARED_BYTES;
    if (window.static_bytes > SHARED_BYTES)
        fatal(site, "%zu bytes of __shared__ variables, %zu are the most", window.static_bytes, SHARED_BYTES);
    if (window.static_bytes + window.dynamic_bytes > limit)
        fatal(site, "%zu bytes of __shared__ variables and %zu of dynamic shared memory, together %zu are the most",
              window.static_bytes, window.dynamic_bytes, limit);
}

void *SharedVariable::get(size_t bytes, size_t alignment, Site site) {
    if (block == window.block) return memory;
    block = window.block;
    window.static_bytes += bytes;
    check_limits(site);
    return memory = place(bytes, alignment, site);
}

void *dynamic_shared(size_t alignment, Site site) {
    if (!window.dynamic) window.dynamic = place(window.dynamic_bytes, alignment, site);
    if (reinterpret_cast<uintptr_t>(window.dynamic) % alignment)
        fatal(site, "two declarations of dynamic shared memory: the one reached first has a smaller alignment");
    return window.dynamic;
}

bool is_shared(const void *memory, size_t bytes) {
    const char *begin = static_cast<const char *>(memory);
    return begin >= window.memory && begin + bytes <= window.memory + window_bytes;
}

} // namespace emu
