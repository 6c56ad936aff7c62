/* vector_math.h: exp, activations, and a conversion for comparing floats. They have no branches or calls, so loops of
 * them vectorise. */
#ifndef MARS_KERNELS_CPU_VECTOR_MATH_H
#define MARS_KERNELS_CPU_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Converts a float to an integer that compares in the same way, and back. Clang vectorises the maximum of integers, but
 * not that of floats, because NaN is not ordered. */
static inline int32_t ordered_from_float(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? bits ^ INT32_MAX : bits;
}

static inline float float_from_ordered(int32_t ordered) {
    int32_t bits = ordered < 0 ? ordered ^ INT32_MAX : ordered;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* e^x with a relative error of about 1e-7; 0 for x < -87, where e^x is near the smallest normal float (1.2e-38),
 * infinity for x >= 88.4 (float32 ends at 88.7), NaN for NaN. x = n ln 2 + r with |r| <= ln 2 / 2. The polynomial for
 * e^r is that of expf in Cephes (Moshier). */
static inline float vector_exp(float x) {
    float clamped = x > 89.0f ? 89.0f : x; /* NaN is not above 89: it stays NaN */
    clamped = clamped < -87.0f ? -87.0f : clamped;
    /* A float of this size has no bits for a fraction: the sum is rounded, and its lowest bits are the integer n. */
    float shifted = clamped * 1.44269504088896341f + 0x1.8p23f;
    float n = shifted - 0x1.8p23f;
    float r = clamped - n * 0.693359375f;
    r = r + n * 2.12194440e-4f; /* ln 2 in two parts keeps r exact */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23; /* 2^n; infinity if n is 128 */
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}

/* GELU in its tanh form. With u = sqrt(2/pi)(x + 0.044715 x^3), 0.5 (1 + tanh u) = 1/(1 + e^-2u): no cancellation. */
static inline float gelu(float x) {
    float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    return x / (1.0f + vector_exp(-2.0f * u));
}

static inline float gelu_derivative(float x) {
    float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    float du = 0.79788456080286536f * (1.0f + 3.0f * 0.044715f * x * x);
    float s = 1.0f / (1.0f + vector_exp(-2.0f * u));
    return s + x * s * (1.0f - s) * 2.0f * du;
}

/* max(x, 0)^2 and its derivative; NaN for NaN. */
static inline float relu2(float x) {
    float positive = x < 0.0f ? 0.0f : x;
    return positive * positive;
}

static inline float relu2_derivative(float x) { return x < 0.0f ? 0.0f : 2.0f * x; }

#endif
