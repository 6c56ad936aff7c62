/* norm.c: LayerNorm and RMSNorm, alone and fused with the residual addition before them, and their backward pass.
 *
 * A row's function is inlined once for each kind of norm, with and without weight and bias, so that no loop has a
 * branch. RMSNorm is LayerNorm with a mean of 0. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/activation.h"

/* The gain of channel c: 1 if weight is NULL. */
ALWAYS_INLINE float gain(const act *weight, int c) { return weight ? act_load(weight[c]) : 1.0f; }

ALWAYS_INLINE float mean_of_row(const act *RESTRICT x, int C) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < C; c++) sum += act_load(x[c]);
    return sum / (float)C;
}

ALWAYS_INLINE void scale_row(act *RESTRICT out, const act *RESTRICT x, const act *RESTRICT weight,
                             const act *RESTRICT bias, float mean, float rstd, int C) {
    if (bias) {
#pragma omp simd
        for (int c = 0; c < C; c++)
            out[c] = act_store((act_load(x[c]) - mean) * rstd * gain(weight, c) + act_load(bias[c]));
    } else {
#pragma omp simd
        for (int c = 0; c < C; c++) out[c] = act_store((act_load(x[c]) - mean) * rstd * gain(weight, c));
    }
}

/* One row, which stays in the first-level cache: first the mean, then the variance, then the result. */
ALWAYS_INLINE void normalize_row_of_kind(NormKind kind, float eps, act *RESTRICT out, float *mean_out, float *rstd_out,
                                         const act *RESTRICT x, const act *RESTRICT weight, const act *RESTRICT bias,
                                         int C) {
    float mean = kind == NORM_LAYERNORM ? mean_of_row(x, C) : 0.0f, square_sum = 0.0f;
#pragma omp simd reduction(+ : square_sum)
    for (int c = 0; c < C; c++) {
        float centered = act_load(x[c]) - mean;
        square_sum += centered * centered;
    }
    float rstd = 1.0f / sqrtf(square_sum / (float)C + eps);
    if (weight)
        scale_row(out, x, weight, bias, mean, rstd, C);
    else
        scale_row(out, x, NULL, bias, mean, rstd, C);
    if (kind == NORM_LAYERNORM) *mean_out = mean;
    *rstd_out = rstd;
}

static void forward_row(const NormShape *norm, int64_t row, act *out, float *mean, float *rstd, const act *x,
                        const act *weight, const act *bias) {
    switch (norm->kind) {
    case NORM_LAYERNORM:
        normalize_row_of_kind(NORM_LAYERNORM, norm->eps, out, &mean[row], &rstd[row], x, weight, bias, norm->C);
        return;
    case NORM_RMSNORM:
        normalize_row_of_kind(NORM_RMSNORM, norm->eps, out, NULL, &rstd[row], x, weight, bias, norm->C);
        return;
    }
}

static void norm_forward(Backend *be, const NormShape *norm, void *out, float *mean, float *rstd, const void *x,
                         const void *weight, const void *bias) {
    int C = norm->C;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t row = 0; row < norm->N; row++)
        forward_row(norm, row, (act *)out + row * C, mean, rstd, (const act *)x + row * C, weight, bias);
}

static void residual_norm_forward(Backend *be, const NormShape *norm, void *sum_, void *out, float *mean, float *rstd,
                                  const void *x_, const void *delta_, const void *weight, const void *bias) {
    int C = norm->C;
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t row = 0; row < norm->N; row++) {
        act *sum = (act *)sum_ + row * C; /* not RESTRICT: it may be x or delta */
        const act *x = (const act *)x_ + row * C, *delta = (const act *)delta_ + row * C;
#pragma omp simd
        for (int c = 0; c < C; c++) sum[c] = act_store(act_load(x[c]) + act_load(delta[c]));
        forward_row(norm, row, (act *)out + row * C, mean, rstd, sum, weight, bias);
    }
}

/* With n = (x - mean) rstd and d = dout * weight:  dx = rstd (d - mean(d) - n mean(d n)); RMSNorm has no mean(d). Also
 * adds this row's part to the gradients of weight and bias, each NULL if there is none. */
ALWAYS_INLINE void backward_row_of_kind(NormKind kind, act *RESTRICT dx, float *RESTRICT dweight, float *RESTRICT dbias,
                                        const act *RESTRICT dout, const act *RESTRICT x, const act *RESTRICT weight,
                                        float mean, float rstd, int C) {
    float d_sum = 0.0f, dn_sum = 0.0f;
#pragma omp simd reduction(+ : d_sum, dn_sum)
    for (int c = 0; c < C; c++) {
        float dy = act_load(dout[c]), n = (act_load(x[c]) - mean) * rstd, d = dy * gain(weight, c);
        if (kind == NORM_LAYERNORM) d_sum += d;
        dn_sum += d * n;
        if (dweight) dweight[c] += dy * n;
        if (dbias) dbias[c] += dy;
    }
    float d_mean = kind == NORM_LAYERNORM ? d_sum / (float)C : 0.0f, dn_mean = dn_sum / (float)C;
#pragma omp simd
    for (int c = 0; c < C; c++) {
        float n = (act_load(x[c]) - mean) * rstd, d = act_load(dout[c]) * gain(weight, c);
        dx[c] = act_store(act_load(dx[c]) + rstd * (d - d_mean - n * dn_mean));
    }
}

/* The same, with the constant NULL if there is no weight or bias. */
ALWAYS_INLINE void backward_row_of_params(NormKind kind, act *dx, float *dweight, float *dbias, const act *dout,
                                          const act *x, const act *weight, float mean, float rstd, int C) {
    if (weight && dbias)
        backward_row_of_kind(kind, dx, dweight, dbias, dout, x, weight, mean, rstd, C);
    else if (weight)
        backward_row_of_kind(kind, dx, dweight, NULL, dout, x, weight, mean, rstd, C);
    else if (dbias)
        backward_row_of_kind(kind, dx, NULL, dbias, dout, x, NULL, mean, rstd, C);
    else
        backward_row_of_kind(kind, dx, NULL, NULL, dout, x, NULL, mean, rstd, C);
}

static void backward_row(NormKind kind, int64_t row, act *dx, float *dweight, float *dbias, const act *dout,
                         const act *x, const act *weight, const float *mean, const float *rstd, int C) {
    switch (kind) {
    case NORM_LAYERNORM:
        backward_row_of_params(NORM_LAYERNORM, dx, dweight, dbias, dout, x, weight, mean[row], rstd[row], C);
        return;
    case NORM_RMSNORM:
        backward_row_of_params(NORM_RMSNORM, dx, dweight, dbias, dout, x, weight, 0.0f, rstd[row], C);
        return;
    }
}

/* sum (+)= part, C numbers */
static void add_part(float *RESTRICT sum, const float *RESTRICT part, int C, bool keep) {
    for (int c = 0; c < C; c++) sum[c] = (keep ? sum[c] : 0.0f) + part[c];
}

/* Parameter gradients are summed in as many parts as the table has threads. Each part has its own rows, and the parts
 * are then added in order. So the result is the same if OpenMP starts fewer threads. */
static void norm_backward(Backend *be, const NormShape *norm, void *dx, float *dweight, float *dbias, const void *dout,
                          const void *x, const void *weight, const float *mean, const float *rstd, bool accumulate) {
    int C = norm->C;
    int64_t parts = be->threads, length = (int64_t)2 * C; /* numbers of a part: its dweight, then its dbias */
    float *partial = cpu_scratch(be, be->threads, (size_t)(parts * length) * sizeof *partial);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t part = 0; part < parts; part++) {
        float *dweight_part = partial + part * length, *dbias_part = dbias ? dweight_part + C : NULL;
        memset(dweight_part, 0, (size_t)length * sizeof *dweight_part);
        for (int64_t row = norm->N * part / parts; row < norm->N * (part + 1) / parts; row++)
            backward_row(norm->kind, row, (act *)dx + row * C, dweight_part, dbias_part, (const act *)dout + row * C,
                         (const act *)x + row * C, weight, mean, rstd, C);
    }
    for (int64_t part = 0; part < parts; part++) {
        const float *dweight_part = partial + part * length, *dbias_part = dweight_part + C;
        bool keep = accumulate || part > 0;
        if (dweight) add_part(dweight, dweight_part, C, keep);
        if (dbias) add_part(dbias, dbias_part, C, keep);
    }
}

ENTER_OPERATIONS(norm) {
    be->norm_forward = norm_forward;
    be->residual_norm_forward = residual_norm_forward;
    be->norm_backward = norm_backward;
}
