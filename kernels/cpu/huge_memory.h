/* huge_memory.h: memory for large buffers on the CPU. */
#ifndef MARS_KERNELS_CPU_HUGE_MEMORY_H
#define MARS_KERNELS_CPU_HUGE_MEMORY_H

#include <stddef.h>

/* Returns memory aligned to 4096 bytes with undefined contents, which the caller releases with free(); NULL if there is
 * not enough. Larger buffers get 2 MB pages if the system has them: processors do not prefetch across the end of a
 * page, and with 4 KB pages elementwise loops over activations ran at half the speed. */
void *huge_memory(size_t bytes);

#endif
