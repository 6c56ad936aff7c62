/* dtype.h: the two element types of the project and the conversions between them. */
#ifndef MARS_UTIL_DTYPE_H
#define MARS_UTIL_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum DType { DTYPE_FLOAT32, DTYPE_BFLOAT16 } DType;

static inline size_t dtype_size(DType type) { return type == DTYPE_FLOAT32 ? 4 : 2; }
static inline const char *dtype_name(DType type) { return type == DTYPE_FLOAT32 ? "float32" : "bfloat16"; }

/* bfloat16: the upper half of a float32. A struct, so that it cannot be used as a number by mistake. */
typedef struct bfloat16 {
    uint16_t bits;
} bfloat16;

static inline float float_from_bfloat16(bfloat16 value) {
    uint32_t bits = (uint32_t)value.bits << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Rounds to nearest, ties to even; a NaN stays a NaN. Branch-free, so that a loop of it vectorises. */
static inline bfloat16 bfloat16_from_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet_nan = (bits >> 16) | 0x40u;
    bfloat16 result;
    result.bits = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
    return result;
}

#endif
