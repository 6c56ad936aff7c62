/* huge_memory.c: large buffers in large pages (see huge_memory.h). */
#include "kernels/cpu/huge_memory.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "util/base.h"

/* Buffers of an eighth of a large page already get one: the threads' working memory has that size, and there are few
 * such buffers. */
enum { SMALL_PAGE = 4096, LARGE_PAGE = 2 << 20, WORTH_A_LARGE_PAGE = LARGE_PAGE / 8 };

void *huge_memory(size_t bytes) {
    size_t alignment = bytes >= WORTH_A_LARGE_PAGE ? LARGE_PAGE : SMALL_PAGE;
    size_t rounded = (size_t)round_up((int64_t)(bytes ? bytes : 1), (int64_t)alignment);
    void *memory = aligned_alloc(alignment, rounded);
#ifdef MADV_HUGEPAGE
    if (memory && alignment == LARGE_PAGE) (void)madvise(memory, rounded, MADV_HUGEPAGE); /* a hint: may fail */
#endif
    return memory;
}
