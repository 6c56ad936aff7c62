/* emu.h: the CUDA emulator: .cu files, compiled by g++, run on the CPU, under sanitizers where the build has them. This
 * is the map of dev/emu, and the controls that tests use.
 *
 * A kernel launch runs its blocks one after the other; the threads of a block are fibers, which change over at
 * barriers, shuffles and other warp operations, and nowhere else. The order in which threads that could run do run, and
 * the order of blocks, is chosen: a kernel that is right gives the same result in each. All of it is one thread of the
 * process: CUDA may be called from one only.
 *
 *   rewrite.py           launches and __shared__ to C++; the emulator's build runs every .cu and .cuh through it
 *   include/             headers with CUDA's names: the runtime for C and C++, and all that kernels use
 *                        (also kernels/cuda/ptx.cuh: mma, ldmatrix and cp.async)
 *   fiber.*              stacks, and the change from one to another, which sanitizers are told of
 *   engine.*, block.h    a grid, its blocks and threads, barriers
 *   shared.cpp           shared memory
 *   warp.cpp             what the 32 threads of a warp do together
 *   stream.*             streams and events, which run as late as CUDA allows
 *   memory.*, device.cpp allocations and copies; devices, errors, kernel attributes
 *   cublaslt.cpp         matmuls
 *   report.*             how a fault that is found ends the program
 *   cublaslt.*, nccl.*   the libraries, as far as the project uses them, on oneDNN and MPI
 *
 * The .cpp files are always compiled with optimisation and never with sanitizers, which would slow them down several
 * times; they find out at run time which sanitizer the program has, and tell it what it needs to know. Kernels, the
 * headers and the .cu files are compiled with whatever the build wants checked.
 *
 * What finds which fault: a barrier that is missing shows as a wrong result (shared memory and device memory start as
 * NaN) in one of the orders; an index out of bounds is for AddressSanitizer, also between two __shared__ variables; a
 * missing __syncwarp() is for ThreadSanitizer alone, whatever the order. Faults of use end the program with a line that
 * starts with "emulator:". Races between blocks are not found.
 *
 * Environment: MARS_EMU_ORDER (see emu_set_order), MARS_EMU_DEVICES (1), MARS_EMU_MEMORY (bytes of each device, 8 GiB),
 * MARS_EMU_KEEP_GOING=1 (a report does not end the program, where it is possible to go on), MARS_EMU_RANGES (a file to
 * write the program's NVTX ranges to). */
#ifndef MARS_EMU_EMU_H
#define MARS_EMU_EMU_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sets the order of threads and of blocks for launches that run from here on:
 *   "forward"    ascending, each thread up to its next wait, then the next one
 *   "reverse"    descending
 *   "newest"     who became able to run last runs first: one thread runs ahead of all others as far as it can
 *   "mix:SEED"   of 16 choices 15 are the newest and one is random; "mix" is "mix:1"
 * False, and nothing changes, where there is no such order. */
bool emu_set_order(const char *order);

#ifdef __cplusplus
}
#endif

#endif
