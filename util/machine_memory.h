/* machine_memory.h: how much main memory a process can still take on Linux. */
#ifndef MARS_UTIL_MACHINE_MEMORY_H
#define MARS_UTIL_MACHINE_MEMORY_H

#include "util/base.h"

EXTERN_C_BEGIN

/* Bytes; SIZE_MAX where nothing is known that sets a limit. */
typedef struct MachineMemory {
    size_t shared; /* what all processes of the machine, or of the container, can still take together */
    size_t own;    /* what this process may still take (ulimit -v) */
} MachineMemory;

/* What the kernel counts as available, within the limits of the control groups (version 1 and 2) that the process is in, and
 * the swap space. `root` is put in front of /proc and /sys: "" but in tests. */
MachineMemory machine_memory(const char *root);

EXTERN_C_END

#endif
