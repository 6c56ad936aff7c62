/* ptx.cuh: the emulator's functions in place of those in kernels/cuda/ptx.cuh, which says what they do: this folder
 * precedes the repository's root in the compiler's search for includes. Every lane loads and stores
 * for itself, here in checked code, so that a sanitizer names the lane that is wrong; the engine does the exchange.
 *
 * cp.async is as late as it may be: until the wait that covers it, the destination is NaN. */
#ifndef MARS_EMU_PTX_CUH
#define MARS_EMU_PTX_CUH

#include <math.h>
#include <string.h>

#include "dev/emu/engine.h"

namespace emu {

inline bool is_aligned_16(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

/* `count` pieces of 8x8, for which the first 8 * count lanes bring rows. */
inline void load_matrices(uint32_t *r, const void *row, int count, bool transpose, Site site) {
    uint16_t elements[8] = {};
    if (lane_id() < 8u * count) {
        if (!is_aligned_16(row)) fatal(site, "ldmatrix: the row %p is not aligned to 16 bytes", row);
        memcpy(elements, row, sizeof elements);
    }
    load_matrices_warp(r, elements, count, transpose, site);
}

inline void copy_async(void *to_shared, const void *from_global, bool valid, Site site) {
    if (!is_aligned_16(to_shared) || !is_aligned_16(from_global))
        fatal(site, "cp.async: %p or %p is not aligned to 16 bytes", to_shared, from_global);
    if (!is_shared(to_shared, 16)) fatal(site, "cp.async: the destination %p is not in shared memory", to_shared);
    if (valid) { /* reading now as well puts the blame for a wrong address on this line */
        const volatile uint64_t *from = static_cast<const volatile uint64_t *>(from_global);
        (void)from[0], (void)from[1];
    }
    memset(to_shared, 0xFF, 16);
    async_copy_add({to_shared, valid ? from_global : nullptr});
}

} // namespace emu

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emu::Site site = EMU_SITE) {
    emu::mma_warp(d, a, b, site);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row, emu::Site site = EMU_SITE) {
    emu::load_matrices(r, row, 4, false, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, emu::Site site = EMU_SITE) {
    emu::load_matrices(r, row, 4, true, site);
}

inline void cp_async_16(void *to_shared, const void *from_global, emu::Site site = EMU_SITE) {
    emu::copy_async(to_shared, from_global, true, site);
}
inline void cp_async_16_or_zero(void *to_shared, const void *from_global, bool valid, emu::Site site = EMU_SITE) {
    emu::copy_async(to_shared, from_global, valid, site);
}
inline void cp_async_commit() { emu::async_copy_commit(); }

template <int N> void cp_async_wait() {
    emu::AsyncCopy copy;
    while (emu::async_copy_due(N, &copy)) {
        memset(copy.to, 0, 16);
        if (copy.from) memcpy(copy.to, copy.from, 16);
    }
}

inline float exp2_approx(float x) {
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

#endif
