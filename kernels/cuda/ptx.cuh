/* ptx.cuh: one function for each instruction that CUDA C++ has no function for: tensor cores, asynchronous copies and
 * exp2. Source: NVIDIA, Parallel Thread Execution ISA, sections on mma, ldmatrix, cp.async and ex2. All need sm_80 or
 * newer. The emulator has its own header of this name, which is included instead.
 *
 * Fragments. A matrix of bfloat16 is spread over the 32 lanes of a warp in 8x8 pieces. Lane l holds two neighbours in
 * one row of each piece, in one register: row l/4, columns 2(l%4) in the low half and 2(l%4)+1 in the high half:
 *
 *            column   0  1    2  3    4  5    6  7
 *      row 0         [ 0 ]   [ 1 ]   [ 2 ]   [ 3 ]        the number is the lane
 *      row 1         [ 4 ]   [ 5 ]   [ 6 ]   [ 7 ]
 *      ...
 *      row 7         [28 ]   [29 ]   [30 ]   [31 ] */
#ifndef MARS_KERNELS_CUDA_PTX_CUH
#define MARS_KERNELS_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* d (16,8) += a (16,16) . b (16,8), bfloat16 products summed in float32. All 32 lanes must call it.
 *
 *   a, four pieces, row-major        b, two pieces: lane l has COLUMN l/4,    d, two pieces of float32
 *                                    rows 2(l%4) and 2(l%4)+1
 *          k 0-7    k 8-15                                                           n 0-7
 *   m 0-7  [ a[0] ] [ a[2] ]         k 0-7   [ b[0] ]                         m 0-7  [ d[0] d[1] ]
 *   m 8-15 [ a[1] ] [ a[3] ]         k 8-15  [ b[1] ]                         m 8-15 [ d[2] d[3] ]
 *
 * So b's registers are the fragments of its transpose (8,16): ldmatrix loads them if b is stored (n,k), ldmatrix .trans
 * if it is stored (k,n). d[0] and d[1] are in row l/4, d[2] and d[3] in row l/4 + 8, columns 2(l%4) and 2(l%4)+1. */
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Converts a pointer to the address that instructions on shared memory take. */
__device__ __forceinline__ uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/* Loads four 8x8 pieces from shared memory, one register each. Lane l gives the address of row l%8 of piece l/8: 8
 * bfloat16, 16 bytes, aligned to 16. All 32 lanes must call it. Row l/4, columns 2(l%4) and 2(l%4)+1 go to lane l. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The same, each piece transposed: column l/4, rows 2(l%4) and 2(l%4)+1 go to lane l. */
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* Copies 16 bytes, both addresses aligned to 16, and does not wait: the bytes are there for the calling thread after
 * cp_async_commit() and a cp_async_wait<N>() that covers the group; for other threads after a barrier that follows. */
__device__ __forceinline__ void cp_async_16(void *to_shared, const void *from_global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to_shared)), "l"(from_global)
                 : "memory");
}

/* The same, but 16 bytes of zero if not `valid`: from_global is not read then, but must still be a global address. */
__device__ __forceinline__ void cp_async_16_or_zero(void *to_shared, const void *from_global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from_global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

/* Ends a group: all copies of this thread since its last commit, possibly none. */
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/* Waits until all of this thread's groups are finished, except the newest N. */
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* 2^x to two units in the last place, and 0 if 2^x < 2^-126: one instruction; exp2f() takes four. */
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
