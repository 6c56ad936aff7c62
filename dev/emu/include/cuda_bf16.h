/* cuda_bf16.h: bfloat16, alone and in pairs: conversions as CUDA rounds them, and arithmetic as its float32 result,
 * rounded. C++ alone. */
#ifndef MARS_EMU_CUDA_BF16_H
#define MARS_EMU_CUDA_BF16_H

#include "cuda_runtime.h"

#ifdef __cplusplus

/* The upper half of a float32. Rounds to nearest, ties to even; every NaN becomes 0x7FFF. */
struct __nv_bfloat16 {
    unsigned short bits;

    __nv_bfloat16() = default; /* trivial, as in CUDA: shared memory and unions hold it */
    __nv_bfloat16(float number) {
        unsigned b = __float_as_uint(number);
        bool is_nan = (b & 0x7FFFFFFFu) > 0x7F800000u;
        bits = is_nan ? 0x7FFF : (b + 0x7FFFu + (b >> 16 & 1u)) >> 16;
    }
    operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};
typedef __nv_bfloat16 nv_bfloat16;

struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};
typedef __nv_bfloat162 nv_bfloat162;

/* ---- conversions ---- */

inline __nv_bfloat16 __float2bfloat16(float a) { return a; }
inline __nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
inline __nv_bfloat16 __double2bfloat16(double a) { return static_cast<float>(a); }
inline __nv_bfloat16 __int2bfloat16_rn(int a) { return static_cast<float>(a); }
inline float __bfloat162float(__nv_bfloat16 a) { return a; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return a.bits; }
inline short __bfloat16_as_short(__nv_bfloat16 a) { return static_cast<short>(a.bits); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 a;
    a.bits = bits;
    return a;
}
inline __nv_bfloat16 __short_as_bfloat16(short bits) { return __ushort_as_bfloat16(bits); }

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
inline __nv_bfloat162 __float2bfloat162_rn(float a) { return {a, a}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {low, high}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {a.x, a.y}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
inline float __low2float(__nv_bfloat162 a) { return a.x; }
inline float __high2float(__nv_bfloat162 a) { return a.y; }

/* ---- arithmetic ---- */

#define EMU_OPERATION(symbol, name, name2)                                                                      \
    inline __nv_bfloat16 operator symbol(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) symbol float(b); } \
    inline __nv_bfloat162 operator symbol(__nv_bfloat162 a, __nv_bfloat162 b) {                                 \
        return {a.x symbol b.x, a.y symbol b.y};                                                                \
    }                                                                                                           \
    inline __nv_bfloat16 &operator symbol##=(__nv_bfloat16 &a, __nv_bfloat16 b) { return a = a symbol b; }      \
    inline __nv_bfloat16 name(__nv_bfloat16 a, __nv_bfloat16 b) { return a symbol b; }                          \
    inline __nv_bfloat162 name2(__nv_bfloat162 a, __nv_bfloat162 b) { return a symbol b; }
EMU_OPERATION(+, __hadd, __hadd2)
EMU_OPERATION(-, __hsub, __hsub2)
EMU_OPERATION(*, __hmul, __hmul2)
EMU_OPERATION(/, __hdiv, __h2div)
#undef EMU_OPERATION

inline __nv_bfloat16 operator-(__nv_bfloat16 a) { return __ushort_as_bfloat16(a.bits ^ 0x8000); }
inline __nv_bfloat16 __hneg(__nv_bfloat16 a) { return -a; }
inline __nv_bfloat16 __habs(__nv_bfloat16 a) { return __ushort_as_bfloat16(a.bits & 0x7FFF); }
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) { return ::fmaf(a, b, c); }
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
inline __nv_bfloat16 __hmax(__nv_bfloat16 a, __nv_bfloat16 b) { return ::fmaxf(a, b); }
inline __nv_bfloat16 __hmin(__nv_bfloat16 a, __nv_bfloat16 b) { return ::fminf(a, b); }
inline __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline bool __hisnan(__nv_bfloat16 a) { return (a.bits & 0x7FFF) > 0x7F80; }

#define EMU_COMPARISON(symbol, name)                                                                   \
    inline bool operator symbol(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) symbol float(b); } \
    inline bool name(__nv_bfloat16 a, __nv_bfloat16 b) { return a symbol b; }
EMU_COMPARISON(==, __heq)
EMU_COMPARISON(!=, __hne)
EMU_COMPARISON(<, __hlt)
EMU_COMPARISON(<=, __hle)
EMU_COMPARISON(>, __hgt)
EMU_COMPARISON(>=, __hge)
#undef EMU_COMPARISON

#endif

#endif
