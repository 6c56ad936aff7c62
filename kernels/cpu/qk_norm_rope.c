/* qk_norm_rope.c: QK-norm and rotary positions of queries and keys, forward and backward, in place. Both are done in
 * one pass over the heads of a token, so that a number is rounded once. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/activation.h"

/* Where heads lie: each row of qkv (B T,3C) begins with NH heads of queries and NH of keys. `count` is 2 NH. */
typedef struct QkHeads {
    int T, C, count, HS;
} QkHeads;

static QkHeads heads_of(int T, int C, int NH, const float *rotation) {
    QkHeads h = {T, C, 2 * NH, C / NH};
    assert(!rotation || h.HS % 2 == 0);
    return h;
}

/* {cos, sin} (HS/2,2) of the token in row `row`; NULL if rotation is NULL. */
static const float *rotation_at(const float *rotation, QkHeads h, int64_t row) {
    return rotation ? rotation + row % h.T * h.HS : NULL;
}

/* ---- forward ---- */

static float rstd_of_head(const act *RESTRICT q, float eps, int HS) {
    float square_sum = 0.0f;
#pragma omp simd reduction(+ : square_sum)
    for (int i = 0; i < HS; i++) square_sum += act_load(q[i]) * act_load(q[i]);
    return 1.0f / sqrtf(square_sum / (float)HS + eps);
}

/* q = factor q, rotated by `cos_sin` (HS/2,2) if it is not NULL. */
static void scale_and_rotate(act *RESTRICT q, float factor, const float *RESTRICT cos_sin, int HS) {
    if (cos_sin) {
        act *RESTRICT low = q, *RESTRICT high = q + HS / 2;
#pragma omp simd
        for (int i = 0; i < HS / 2; i++) {
            float cosine = cos_sin[2 * i], sine = cos_sin[2 * i + 1];
            float x = factor * act_load(low[i]), y = factor * act_load(high[i]);
            low[i] = act_store(x * cosine + y * sine);
            high[i] = act_store(y * cosine - x * sine);
        }
    } else {
#pragma omp simd
        for (int i = 0; i < HS; i++) q[i] = act_store(factor * act_load(q[i]));
    }
}

static void qk_norm_rope_forward(Backend *be, void *qkv, float *rstd, const float *rotation, float eps, int B, int T,
                                 int C, int NH) {
    QkHeads h = heads_of(T, C, NH, rotation);
    if (!rstd && !rotation) return;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t row = 0; row < (int64_t)B * T; row++) {
        const float *cos_sin = rotation_at(rotation, h, row);
        for (int head = 0; head < h.count; head++) {
            act *q = (act *)qkv + row * 3 * C + head * h.HS;
            float factor = rstd ? rstd_of_head(q, eps, h.HS) : 1.0f;
            if (rstd) rstd[row * h.count + head] = factor;
            scale_and_rotate(q, factor, cos_sin, h.HS);
        }
    }
}

/* ---- backward ---- */

/* With q = n rotated, n = rstd x, and d the gradient of n:  dx = rstd (d - n mean(d n)). mean(d n) is mean(dq q), since
 * both are rotated alike, so dx is rstd (dq - q mean(dq q)) rotated back. */
static float mean_product(const act *RESTRICT dq, const act *RESTRICT q, int HS) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < HS; i++) sum += act_load(dq[i]) * act_load(q[i]);
    return sum / (float)HS;
}

/* rstd (dq - q mean) of element i. If q is NULL there is no norm: returns dq. */
ALWAYS_INLINE float norm_gradient(const act *dq, const act *q, float mean, float rstd, int i) {
    return q ? rstd * (act_load(dq[i]) - act_load(q[i]) * mean) : act_load(dq[i]);
}

/* dq = its norm_gradient(), rotated back by `cos_sin` if it is not NULL. */
ALWAYS_INLINE void backward_head(act *RESTRICT dq, const act *RESTRICT q, float mean, float rstd,
                                 const float *RESTRICT cos_sin, int HS) {
    if (cos_sin) {
        act *RESTRICT low = dq, *RESTRICT high = dq + HS / 2;
        const act *RESTRICT q_high = q ? q + HS / 2 : NULL;
#pragma omp simd
        for (int i = 0; i < HS / 2; i++) {
            float cosine = cos_sin[2 * i], sine = cos_sin[2 * i + 1];
            float x = norm_gradient(low, q, mean, rstd, i), y = norm_gradient(high, q_high, mean, rstd, i);
            low[i] = act_store(x * cosine - y * sine);
            high[i] = act_store(y * cosine + x * sine);
        }
    } else {
#pragma omp simd
        for (int i = 0; i < HS; i++) dq[i] = act_store(norm_gradient(dq, q, mean, rstd, i));
    }
}

static void qk_norm_rope_backward(Backend *be, void *dqkv, const void *qkv, const float *rstd, const float *rotation,
                                  int B, int T, int C, int NH) {
    QkHeads h = heads_of(T, C, NH, rotation);
    if (!rstd && !rotation) return;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t row = 0; row < (int64_t)B * T; row++) {
        const float *cos_sin = rotation_at(rotation, h, row);
        for (int head = 0; head < h.count; head++) {
            int64_t place = row * 3 * C + head * h.HS;
            act *dq = (act *)dqkv + place;
            const act *q = (const act *)qkv + place;
            if (rstd)
                backward_head(dq, q, mean_product(dq, q, h.HS), rstd[row * h.count + head], cos_sin, h.HS);
            else
                backward_head(dq, NULL, 0.0f, 1.0f, cos_sin, h.HS);
        }
    }
}

ENTER_OPERATIONS(qk_norm_rope) {
    be->qk_norm_rope_forward = qk_norm_rope_forward;
    be->qk_norm_rope_backward = qk_norm_rope_backward;
}
