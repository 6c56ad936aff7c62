/* engine.h: what a compiled kernel and its launch call: a grid to run, the block's barriers and shared memory, what
 * lanes of a warp do together. include/cuda_runtime.h and ptx.cuh put CUDA's names on it. */
#ifndef MARS_EMU_ENGINE_H
#define MARS_EMU_ENGINE_H
#ifdef __cplusplus

#include <cstdint>

#include "dev/emu/include/cuda_runtime_api.h"
#include "dev/emu/report.h"

/* The place of the thread that runs, as in CUDA. Only the engine writes them. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emu {

/* ---- launches ---- */

/* What stands between <<< and >>>. */
struct Config {
    dim3 grid, block;
    size_t dynamic_shared;
    cudaStream_t stream;
    Site site;
    Config(dim3 grid, dim3 block, size_t dynamic_shared = 0, cudaStream_t stream = nullptr, Site site = EMU_SITE)
        : grid(grid), block(block), dynamic_shared(dynamic_shared), stream(stream), site(site) {}
};

/* Whether CUDA would accept the launch. If not, the reason is noted and becomes what cudaGetLastError() returns. */
bool launch_is_valid(const Config &config, const void *kernel);

/* A pointer given to a kernel, its argument `number` from 0, must not be one to pageable host memory. */
void check_argument(const Config &config, int number, const void *pointer);

/* Runs the grid now: body(call) once for each thread of each block. */
void run_grid(const Config &config, const void *kernel, void (*body)(const void *call), const void *call);

/* What __launch_bounds__() promised of the block that runs. The second and third bound are for the compiler alone. */
inline void check_launch_bounds(unsigned threads, unsigned = 0, unsigned = 0, Site site = EMU_SITE) {
    if (blockDim.x * blockDim.y * blockDim.z > threads)
        fatal(site, "a block of %u threads for a kernel with __launch_bounds__(%u)",
              blockDim.x * blockDim.y * blockDim.z, threads);
}

/* ---- shared memory ---- */

/* One __shared__ declaration. Its memory is new in each block, full of NaN, at the declared alignment and no better. */
class SharedVariable {
  public:
    void *get(size_t bytes, size_t alignment, Site site = EMU_SITE);

  private:
    void *memory = nullptr;
    uint64_t block = 0; /* whose memory it is */
};

/* The block's dynamic shared memory, of the size that the launch asked for. */
void *dynamic_shared(size_t alignment, Site site = EMU_SITE);

/* Whether all of [memory, memory + bytes) lies where the block's shared memory is. */
bool is_shared(const void *memory, size_t bytes);

/* ---- barriers ---- */

/* What __syncthreads_count(), _and() and _or() return: over the threads that came, how many, and for how many
 * `predicate` was true. */
struct BarrierVote {
    int threads, trues;
};
BarrierVote barrier(bool predicate, Site site);
void sync_warp(unsigned mask, Site site);

/* ---- warps ---- */

unsigned lane_id();

/* The bits that lane `source` gave. All lanes of `mask` must call it. */
uint64_t shuffle(unsigned mask, uint64_t bits, unsigned source, Site site);

/* The lanes of `mask` whose predicate was true. */
unsigned ballot(unsigned mask, bool predicate, Site site);

/* Matrix operations of a whole warp; ptx.cuh has the layouts. mma_warp: d (16,8) += a (16,16) . b (16,8).
 * load_matrices_warp: each of `count` 8x8 matrices is the rows of 16 bytes that 8 neighbouring lanes bring. */
void mma_warp(float *d, const uint32_t *a, const uint32_t *b, Site site);
void load_matrices_warp(uint32_t *fragments, const uint16_t *row, int count, bool transpose, Site site);

/* ---- cp.async: the engine keeps the list, the thread itself copies, so that a sanitizer blames the right one ---- */

struct AsyncCopy {
    void *to;
    const void *from; /* NULL: zeros */
};
void async_copy_add(AsyncCopy copy);
void async_copy_commit();
/* Takes one copy off the list that is due when no more than `pending` committed groups may be left; false: none. */
bool async_copy_due(int pending, AsyncCopy *copy);

} // namespace emu

#endif
#endif
