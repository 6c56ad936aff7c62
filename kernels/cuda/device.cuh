/* device.cuh: functions that kernels share: conversions of the activation types, 16-byte loads and stores, sums over a
 * warp and over a block. No kernel is here; tensor-core and copy instructions are in ptx.cuh. */
#ifndef MARS_KERNELS_CUDA_DEVICE_CUH
#define MARS_KERNELS_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

/* ---- activation types: kernels compute in float, whatever is stored ---- */

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

/* ---- 16 bytes at a time ---- */

/* The elements that one thread loads or stores at once: by default 16 bytes, 4 floats or 8 bf16, in one instruction.
 * COUNT may also be a multiple of that, or 1: kernels with the template parameter COUNT have one body for aligned and
 * for unaligned rows. Addresses of packs of more than one element are multiples of 16. */
template <class T, int COUNT = 16 / (int)sizeof(T)> struct alignas(COUNT == 1 ? sizeof(T) : 16) Pack {
    static constexpr int N = COUNT;
    static constexpr int WORDS = COUNT * (int)sizeof(T) / 16; /* of 16 bytes; 0 for a single element */
    static_assert(COUNT == 1 || COUNT * sizeof(T) % 16 == 0, "one element, or whole 16 bytes");
    T x[N];
};

template <int COUNT, class T> __device__ __forceinline__ Pack<T, COUNT> load_pack(const T *from) {
    Pack<T, COUNT> pack;
    if constexpr (COUNT == 1) pack.x[0] = *from;
#pragma unroll
    for (int i = 0; i < pack.WORDS; i++) reinterpret_cast<uint4 *>(&pack)[i] = reinterpret_cast<const uint4 *>(from)[i];
    return pack;
}

template <class T> __device__ __forceinline__ Pack<T> load_pack(const T *from) { return load_pack<Pack<T>::N>(from); }

template <class T, int COUNT> __device__ __forceinline__ void store_pack(T *to, const Pack<T, COUNT> &pack) {
    if constexpr (COUNT == 1) *to = pack.x[0];
#pragma unroll
    for (int i = 0; i < pack.WORDS; i++) reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(&pack)[i];
}

/* Whether packs of several elements can be at this address. */
__host__ __device__ inline bool is_pack_aligned(const void *p) { return ((uintptr_t)p & 15) == 0; }

/* ---- sums ---- */

/* The sum over the 32 lanes of a warp, in every lane; always in the same order. */
template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

/* The sum over a block of THREADS threads, in every thread. All of them must call it, as often as they like. */
template <int THREADS, class T> __device__ __forceinline__ T block_sum(T x) {
    static_assert(THREADS % WARP == 0, "whole warps");
    __shared__ T of_warp[THREADS / WARP];
    x = warp_sum(x);
    __syncthreads(); /* the previous call may still be reading */
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    T total = of_warp[0];
#pragma unroll
    for (int w = 1; w < THREADS / WARP; w++) total += of_warp[w];
    return total;
}

template <int THREADS> __device__ __forceinline__ float block_max(float x) {
    static_assert(THREADS % WARP == 0, "whole warps");
    __shared__ float of_warp[THREADS / WARP];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    float largest = of_warp[0];
#pragma unroll
    for (int w = 1; w < THREADS / WARP; w++) largest = fmaxf(largest, of_warp[w]);
    return largest;
}

#endif
