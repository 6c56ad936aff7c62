/* layernorm.c: LayerNorm, alone and fused with the residual addition before it, and its backward pass. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/activation.h"

static const float layernorm_eps = 1e-5f;

/* One row, which stays in the first-level cache: mean, then variance around it, then the result. */
static void normalize_row(act *RESTRICT out, float *mean_out, float *rstd_out, const act *RESTRICT x,
                          const act *RESTRICT weight, const act *RESTRICT bias, int C) {
    float sum = 0.0f, square_sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < C; c++) sum += act_load(x[c]);
    float mean = sum / (float)C;
#pragma omp simd reduction(+ : square_sum)
    for (int c = 0; c < C; c++) {
        float centered = act_load(x[c]) - mean;
        square_sum += centered * centered;
    }
    float rstd = 1.0f / sqrtf(square_sum / (float)C + layernorm_eps);
    if (bias) {
#pragma omp simd
        for (int c = 0; c < C; c++)
            out[c] = act_store((act_load(x[c]) - mean) * rstd * act_load(weight[c]) + act_load(bias[c]));
    } else {
#pragma omp simd
        for (int c = 0; c < C; c++) out[c] = act_store((act_load(x[c]) - mean) * rstd * act_load(weight[c]));
    }
    *mean_out = mean;
    *rstd_out = rstd;
}

static void layernorm_forward(Backend *be, void *out, float *mean, float *rstd, const void *x, const void *weight,
                              const void *bias, int N, int C) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int row = 0; row < N; row++)
        normalize_row((act *)out + (int64_t)row * C, &mean[row], &rstd[row], (const act *)x + (int64_t)row * C, weight,
                      bias, C);
}

static void residual_layernorm_forward(Backend *be, void *sum_, void *out, float *mean, float *rstd, const void *x_,
                                       const void *delta_, const void *weight, const void *bias, int N, int C) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int row = 0; row < N; row++) {
        act *sum = (act *)sum_ + (int64_t)row * C; /* not RESTRICT: it may be x or delta */
        const act *x = (const act *)x_ + (int64_t)row * C, *delta = (const act *)delta_ + (int64_t)row * C;
#pragma omp simd
        for (int c = 0; c < C; c++) sum[c] = act_store(act_load(x[c]) + act_load(delta[c]));
        normalize_row((act *)out + (int64_t)row * C, &mean[row], &rstd[row], sum, weight, bias, C);
    }
}

/* With n = (x - mean) rstd and d = dout * weight:  dx = rstd (d - mean(d) - n mean(d n)). Also adds this row's part
 * to the gradients of weight and bias. */
static void backward_row(act *RESTRICT dx, float *RESTRICT dweight, float *RESTRICT dbias, const act *RESTRICT dout,
                         const act *RESTRICT x, const act *RESTRICT weight, float mean, float rstd, int C) {
    float d_sum = 0.0f, dn_sum = 0.0f;
#pragma omp simd reduction(+ : d_sum, dn_sum)
    for (int c = 0; c < C; c++) {
        float dy = act_load(dout[c]), n = (act_load(x[c]) - mean) * rstd, d = dy * act_load(weight[c]);
        d_sum += d;
        dn_sum += d * n;
        dweight[c] += dy * n;
        dbias[c] += dy;
    }
    float d_mean = d_sum / (float)C, dn_mean = dn_sum / (float)C;
#pragma omp simd
    for (int c = 0; c < C; c++) {
        float n = (act_load(x[c]) - mean) * rstd, d = act_load(dout[c]) * act_load(weight[c]);
        dx[c] = act_store(act_load(dx[c]) + rstd * (d - d_mean - n * dn_mean));
    }
}

/* Parameter gradients are summed in as many parts as the table has threads, each over rows of its own, and the parts
 * are then added in order. So the result is the same when OpenMP starts fewer threads. */
static void layernorm_backward(Backend *be, void *dx, float *dweight, float *dbias, const void *dout, const void *x,
                               const void *weight, const float *mean, const float *rstd, int N, int C,
                               bool accumulate) {
    int64_t parts = be->threads, length = (int64_t)2 * C; /* numbers of a part: its dweight, then its dbias */
    float *partial = cpu_scratch(be, be->threads, (size_t)(parts * length) * sizeof *partial);
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t part = 0; part < parts; part++) {
        float *dweight_part = partial + part * length, *dbias_part = dweight_part + C;
        memset(dweight_part, 0, (size_t)length * sizeof *dweight_part);
        for (int64_t row = N * part / parts; row < N * (part + 1) / parts; row++)
            backward_row((act *)dx + row * C, dweight_part, dbias_part, (const act *)dout + row * C,
                         (const act *)x + row * C, weight, mean[row], rstd[row], C);
    }
    for (int64_t part = 0; part < parts; part++) {
        const float *dweight_part = partial + part * length, *dbias_part = dweight_part + C;
        bool keep = accumulate || part > 0;
        for (int c = 0; c < C; c++) dweight[c] = (keep ? dweight[c] : 0.0f) + dweight_part[c];
        if (!dbias) continue;
        for (int c = 0; c < C; c++) dbias[c] = (keep ? dbias[c] : 0.0f) + dbias_part[c];
    }
}

ENTER_OPERATIONS(layernorm) {
    be->layernorm_forward = layernorm_forward;
    be->residual_layernorm_forward = residual_layernorm_forward;
    be->layernorm_backward = layernorm_backward;
}
