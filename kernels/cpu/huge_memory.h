/* huge_memory.h: memory for large buffers on the CPU. */
#ifndef MARS_KERNELS_CPU_HUGE_MEMORY_H
#define MARS_KERNELS_CPU_HUGE_MEMORY_H

#include <stddef.h>

/* Memory aligned to 4096 bytes, NULL where there is not enough; free() releases it. Larger buffers ask the system for
 * 2 MB pages: processors do not fetch ahead across a page's end, and with pages of 4 KB elementwise loops over
 * activations ran at half the speed. Contents are undefined. */
void *huge_memory(size_t bytes);

#endif
