/* cuda_runtime.h: what a .cu file uses without including anything else: the runtime, and in C++ the words, variables
 * and functions of kernels, and what rewrite.py makes of launches. For C it is the runtime alone.
 *
 * It has what the project's kernels use, not all of CUDA. __noinline__ stays undefined, as the C++ library uses that
 * word; __activemask() too, as there is no right answer to it. */
#ifndef MARS_EMU_CUDA_RUNTIME_H
#define MARS_EMU_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <cmath>
#include <tuple>
#include <type_traits>

#include "dev/emu/engine.h"
#include "dev/emu/stream.h"

/* ---- words ---- */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ this_shared_declaration_was_not_rewritten_by_dev_emu_rewrite_py

constexpr int warpSize = 32;

/* ---- launches ---- */

namespace emu {

/* A kernel and its configuration, which is called with the kernel's arguments. They are copied now; the grid runs when
 * its stream does. */
template <class... P> struct Launch {
    void (*kernel)(P...);
    Config config;

    struct Call {
        void (*kernel)(P...);
        std::tuple<P...> arguments;
        static void run_thread(const void *call) {
            const Call *c = static_cast<const Call *>(call);
            std::apply(c->kernel, c->arguments);
        }
    };

    void operator()(P... arguments) const {
        const void *address = reinterpret_cast<const void *>(kernel);
        if (!launch_is_valid(config, address)) return;
        int number = 0;
        (check(number++, arguments), ...);
        enqueue(config.stream, [call = Call{kernel, {arguments...}}, config = config, address] {
            run_grid(config, address, Call::run_thread, &call);
        });
    }

    template <class T> void check(int number, const T &argument) const {
        if constexpr (std::is_pointer_v<T>) check_argument(config, number, reinterpret_cast<const void *>(argument));
    }
};

template <class... P> Launch<P...> launch(void (*kernel)(P...), const Config &config) { return {kernel, config}; }

} // namespace emu

/* ---- barriers and fences ---- */

inline void __syncthreads(emu::Site site = EMU_SITE) { emu::barrier(false, site); }
inline int __syncthreads_count(int predicate, emu::Site site = EMU_SITE) { return emu::barrier(predicate, site).trues; }
inline int __syncthreads_or(int predicate, emu::Site site = EMU_SITE) {
    return emu::barrier(predicate, site).trues > 0;
}
inline int __syncthreads_and(int predicate, emu::Site site = EMU_SITE) {
    emu::BarrierVote vote = emu::barrier(predicate, site);
    return vote.trues == vote.threads;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, emu::Site site = EMU_SITE) { emu::sync_warp(mask, site); }
inline void __threadfence() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

/* ---- shuffles and votes ----
 * `width` splits the warp into groups of lanes that are numbered from 0. Whose source is outside gets its own value. */

namespace emu {

template <class T> T shuffle_value(unsigned mask, T value, unsigned source, Site site) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "CUDA shuffles numbers of up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = shuffle(mask, bits, source, site);
    memcpy(&value, &bits, sizeof value);
    return value;
}

} // namespace emu

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, emu::Site site = EMU_SITE) {
    unsigned first = emu::lane_id() & ~(width - 1u);
    return emu::shuffle_value(mask, value, first | (source & (width - 1u)), site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, emu::Site site = EMU_SITE) {
    unsigned lane = emu::lane_id(), source = lane ^ bits;
    bool outside = source > (lane | (width - 1u)); /* a group before this one may be read */
    return emu::shuffle_value(mask, value, outside ? lane : source, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = warpSize, emu::Site site = EMU_SITE) {
    unsigned lane = emu::lane_id(), source = lane + distance;
    return emu::shuffle_value(mask, value, source > (lane | (width - 1u)) ? lane : source, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = warpSize, emu::Site site = EMU_SITE) {
    unsigned lane = emu::lane_id(), first = lane & ~(width - 1u);
    return emu::shuffle_value(mask, value, lane < first + distance ? lane : lane - distance, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emu::Site site = EMU_SITE) {
    return emu::ballot(mask, predicate, site);
}
inline int __any_sync(unsigned mask, int predicate, emu::Site site = EMU_SITE) {
    return emu::ballot(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emu::Site site = EMU_SITE) {
    return emu::ballot(mask, !predicate, site) == 0;
}

/* ---- atomics: one thread of the processor runs all, so they are atomic for ThreadSanitizer ---- */

namespace emu {

/* *address = change(*address); returns the old value. */
template <class T, class Change> T atomic_change(T *address, Change change) {
    T expected, desired;
    __atomic_load(address, &expected, __ATOMIC_RELAXED);
    do desired = change(expected);
    while (!__atomic_compare_exchange(address, &expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return expected;
}

} // namespace emu

#define EMU_ATOMIC(name, type, expression)                                                               \
    inline type name(type *address, type value) {                                                        \
        return emu::atomic_change(address, [value](type old) { return static_cast<type>(expression); }); \
    }
#define EMU_ATOMIC_INTEGER(name, expression) \
    EMU_ATOMIC(name, int, expression)        \
    EMU_ATOMIC(name, unsigned, expression)   \
    EMU_ATOMIC(name, unsigned long long, expression)
EMU_ATOMIC_INTEGER(atomicAdd, old + value)
EMU_ATOMIC(atomicAdd, float, old + value)
EMU_ATOMIC(atomicAdd, double, old + value)
EMU_ATOMIC_INTEGER(atomicMax, old > value ? old : value)
EMU_ATOMIC_INTEGER(atomicMin, old < value ? old : value)
EMU_ATOMIC_INTEGER(atomicOr, old | value)
EMU_ATOMIC_INTEGER(atomicAnd, old &value)
EMU_ATOMIC_INTEGER(atomicExch, ((void)old, value))
EMU_ATOMIC(atomicExch, float, ((void)old, value))
#undef EMU_ATOMIC_INTEGER
#undef EMU_ATOMIC

template <class T> T atomicCAS(T *address, T compare, T value) {
    __atomic_compare_exchange(address, &compare, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return compare;
}

/* ---- loads and stores with a hint for the cache, which has no meaning here ---- */

template <class T> T __ldg(const T *address) { return *address; }
template <class T> T __ldca(const T *address) { return *address; }
template <class T> T __ldcg(const T *address) { return *address; }
template <class T> T __ldcs(const T *address) { return *address; }
template <class T> void __stwb(T *address, T value) { *address = value; }
template <class T> void __stcg(T *address, T value) { *address = value; }
template <class T> void __stcs(T *address, T value) { *address = value; }

/* ---- arithmetic ----
 * Macros where the C library has the name already. The fast functions are as exact here as the others. */

#define __expf(x) ::expf(x)
#define __exp10f(x) ::powf(10.0f, x)
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __log10f(x) ::log10f(x)
#define __powf(x, y) ::powf(x, y)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define rsqrtf(x) (1.0f / ::sqrtf(x))
#define rsqrt(x) (1.0 / ::sqrt(x))

inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return ::sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / ::sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return ::fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

/* As in CUDA, of two types the common one, and of a number and NaN the number. */
template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmin(T(a), T(b));
    else
        return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmax(T(a), T(b));
    else
        return T(a) < T(b) ? T(b) : T(a);
}

inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline int __mulhi(int a, int b) { return int64_t(a) * b >> 32; }

/* ---- bits ---- */

namespace emu {

template <class To, class From> To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

} // namespace emu

inline unsigned __float_as_uint(float x) { return emu::same_bits<unsigned>(x); }
inline int __float_as_int(float x) { return emu::same_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emu::same_bits<float>(x); }
inline float __int_as_float(int x) { return emu::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emu::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emu::same_bits<double>(x); }

#endif

#endif
