/* machine_memory.h: how much main memory a process can still take on Linux. */
#ifndef MARS_UTIL_MACHINE_MEMORY_H
#define MARS_UTIL_MACHINE_MEMORY_H

#include "util/base.h"

EXTERN_C_BEGIN

/* In bytes; SIZE_MAX if no limit is known. */
typedef struct MachineMemory {
    size_t shared; /* what all processes of the machine, or of the container, can still take together */
    size_t own;    /* what this process may still take (ulimit -v) */
} MachineMemory;

/* Returns the memory that the kernel counts as available plus the swap space, within the limits of the process's
 * control groups (version 1 and 2). `root` is put in front of /proc and /sys: "" except in tests. */
MachineMemory machine_memory(const char *root);

EXTERN_C_END

#endif
