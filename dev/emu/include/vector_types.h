/* vector_types.h: CUDA's small structs: dim3, float4 and their like, with the alignment that CUDA gives them. For C and
 * C++; make_float4() and its like are C++ alone, as only kernels use them. */
#ifndef MARS_EMU_VECTOR_TYPES_H
#define MARS_EMU_VECTOR_TYPES_H

#ifdef __cplusplus
#define EMU_ALIGNED(bytes) alignas(bytes)
#else
#define EMU_ALIGNED(bytes) _Alignas(bytes)
#endif

/* One vector type of each length: EMU_VECTORS(float, float, 4) gives float1 to float4 of 4-byte numbers. */
#define EMU_VECTORS(name, element, bytes)                           \
    typedef struct name##1 {                                        \
        EMU_ALIGNED(bytes) element x;                               \
    }                                                               \
    name##1;                                                        \
    typedef struct name##2 {                                        \
        EMU_ALIGNED(2 * (bytes)) element x;                         \
        element y;                                                  \
    }                                                               \
    name##2;                                                        \
    typedef struct name##3 {                                        \
        element x, y, z;                                            \
    }                                                               \
    name##3;                                                        \
    typedef struct name##4 {                                        \
        EMU_ALIGNED(4 * (bytes) > 16 ? 16 : 4 * (bytes)) element x; \
        element y, z, w;                                            \
    }                                                               \
    name##4;

/* clang-format off */
EMU_VECTORS(char, signed char, 1)
EMU_VECTORS(uchar, unsigned char, 1)
EMU_VECTORS(short, short, 2)
EMU_VECTORS(ushort, unsigned short, 2)
EMU_VECTORS(int, int, 4)
EMU_VECTORS(uint, unsigned, 4)
EMU_VECTORS(float, float, 4)
EMU_VECTORS(longlong, long long, 8)
EMU_VECTORS(ulonglong, unsigned long long, 8)
EMU_VECTORS(double, double, 8)
/* clang-format on */
#undef EMU_VECTORS

/* The size of a grid or a block. */
typedef struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
#endif
} dim3;

#ifdef __cplusplus
#define EMU_MAKE(name, element)                                                          \
    inline name##1 make_##name##1(element x) { return {x}; }                             \
    inline name##2 make_##name##2(element x, element y) { return {x, y}; }               \
    inline name##3 make_##name##3(element x, element y, element z) { return {x, y, z}; } \
    inline name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }
EMU_MAKE(char, signed char)
EMU_MAKE(uchar, unsigned char)
EMU_MAKE(short, short)
EMU_MAKE(ushort, unsigned short)
EMU_MAKE(int, int)
EMU_MAKE(uint, unsigned)
EMU_MAKE(float, float)
EMU_MAKE(longlong, long long)
EMU_MAKE(ulonglong, unsigned long long)
EMU_MAKE(double, double)
#undef EMU_MAKE
#endif
#undef EMU_ALIGNED

#endif
