/* reference.c: the float64 loops of reference.h. Each derivative stands after the formula it is derived from.
 * Meant to be checked by reading: nothing is hoisted, fused or reordered for speed. */
#include "dev/test/kernels/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* y += a * x */
static void add_scaled(double *y, double a, const double *x, int n) {
    for (int i = 0; i < n; i++) y[i] += a * x[i];
}

static void set_zero(double *x, int64_t n) { memset(x, 0, (size_t)n * sizeof *x); }

/* log(sum(exp(x))), safe for any finite x because the largest exponent is 0. */
static double log_sum_exp(const double *x, int n) {
    double largest = x[0], sum = 0;
    for (int i = 1; i < n; i++) largest = fmax(largest, x[i]);
    for (int i = 0; i < n; i++) sum += exp(x[i] - largest);
    return largest + log(sum);
}

/* ---- embedding ---- */

void reference_embedding_forward(double *out, const int32_t *tokens, const double *wte, const double *wpe, int B, int T,
                                 int C) {
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            for (int c = 0; c < C; c++) out[(b * T + t) * C + c] = wte[tokens[b * T + t] * C + c] + wpe[t * C + c];
}

void reference_embedding_backward(double *dwte, double *dwpe, const double *dout, const int32_t *tokens, int B, int T,
                                  int C, int V) {
    set_zero(dwte, (int64_t)V * C);
    set_zero(dwpe, (int64_t)T * C);
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            for (int c = 0; c < C; c++) {
                dwte[tokens[b * T + t] * C + c] += dout[(b * T + t) * C + c];
                dwpe[t * C + c] += dout[(b * T + t) * C + c];
            }
}

/* ---- LayerNorm ---- */

static void mean_and_rstd(double *mean, double *rstd, const double *x, int C) {
    double sum = 0, squares = 0;
    for (int c = 0; c < C; c++) sum += x[c];
    *mean = sum / C;
    for (int c = 0; c < C; c++) squares += (x[c] - *mean) * (x[c] - *mean);
    *rstd = 1 / sqrt(squares / C + 1e-5);
}

void reference_layernorm_forward(double *out, double *mean, double *rstd, const double *x, const double *weight,
                                 const double *bias, int N, int C) {
    for (int n = 0; n < N; n++) {
        mean_and_rstd(&mean[n], &rstd[n], x + n * C, C);
        for (int c = 0; c < C; c++)
            out[n * C + c] = (x[n * C + c] - mean[n]) * rstd[n] * weight[c] + (bias ? bias[c] : 0);
    }
}

/* With y = (x - mean) rstd and dy = dout weight:   dx = rstd (dy - mean(dy) - y mean(dy y)) */
void reference_layernorm_backward(double *dx, double *dweight, double *dbias, const double *dout, const double *x,
                                  const double *weight, int N, int C) {
    set_zero(dweight, C);
    set_zero(dbias, C);
    for (int n = 0; n < N; n++) {
        double mean, rstd, mean_dy = 0, mean_dy_y = 0;
        mean_and_rstd(&mean, &rstd, x + n * C, C);
        for (int c = 0; c < C; c++) {
            double y = (x[n * C + c] - mean) * rstd, dy = dout[n * C + c] * weight[c];
            mean_dy += dy / C;
            mean_dy_y += dy * y / C;
            dweight[c] += dout[n * C + c] * y;
            dbias[c] += dout[n * C + c];
        }
        for (int c = 0; c < C; c++) {
            double y = (x[n * C + c] - mean) * rstd, dy = dout[n * C + c] * weight[c];
            dx[n * C + c] = rstd * (dy - mean_dy - y * mean_dy_y);
        }
    }
}

/* ---- linear layers ---- */

void reference_matmul_forward(double *out, const double *in, const double *weight, const double *bias, int N, int IC,
                              int OC) {
    for (int n = 0; n < N; n++)
        for (int o = 0; o < OC; o++) out[n * OC + o] = dot(in + n * IC, weight + o * IC, IC) + (bias ? bias[o] : 0);
}

void reference_matmul_backward_input(double *din, const double *dout, const double *weight, int N, int IC, int OC) {
    set_zero(din, (int64_t)N * IC);
    for (int n = 0; n < N; n++)
        for (int o = 0; o < OC; o++) add_scaled(din + n * IC, dout[n * OC + o], weight + o * IC, IC);
}

void reference_matmul_backward_weight(double *dweight, double *dbias, const double *dout, const double *in, int N,
                                      int IC, int OC) {
    set_zero(dweight, (int64_t)OC * IC);
    set_zero(dbias, OC);
    for (int n = 0; n < N; n++)
        for (int o = 0; o < OC; o++) {
            add_scaled(dweight + o * IC, dout[n * OC + o], in + n * IC, IC);
            dbias[o] += dout[n * OC + o];
        }
}

static const double gelu_root = 0.79788456080286535588; /* sqrt(2/pi) */
static const double gelu_cube = 0.044715;

void reference_gelu_forward(double *out, const double *pre, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double x = pre[i];
        out[i] = 0.5 * x * (1 + tanh(gelu_root * (x + gelu_cube * x * x * x)));
    }
}

void reference_gelu_backward(double *dpre, const double *dout, const double *pre, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double x = pre[i], t = tanh(gelu_root * (x + gelu_cube * x * x * x));
        double dt = (1 - t * t) * gelu_root * (1 + 3 * gelu_cube * x * x);
        dpre[i] = dout[i] * (0.5 * (1 + t) + 0.5 * x * dt);
    }
}

/* ---- attention ---- */

/* scores[s] = scale <q[t], k[s]> for s <= t, of the head whose query, key and value start at qkv; a token's are
 * 3C apart from the next one's. */
static void attention_scores(double *scores, const double *qkv, int t, int C, int HS, double scale) {
    for (int s = 0; s <= t; s++) scores[s] = scale * dot(qkv + t * 3 * C, qkv + s * 3 * C + C, HS);
}

void reference_attention_forward(double *out, double *lse, const double *qkv, int B, int T, int C, int NH,
                                 double scale) {
    int HS = C / NH;
    double *scores = checked_malloc((size_t)T * sizeof *scores, "attention scores");
    set_zero(out, (int64_t)B * T * C);
    for (int b = 0; b < B; b++)
        for (int h = 0; h < NH; h++)
            for (int t = 0; t < T; t++) {
                const double *head = qkv + b * T * 3 * C + h * HS, *values = head + 2 * C;
                double *lse_t = &lse[(b * NH + h) * T + t];
                attention_scores(scores, head, t, C, HS, scale);
                *lse_t = log_sum_exp(scores, t + 1);
                for (int s = 0; s <= t; s++)
                    add_scaled(out + (b * T + t) * C + h * HS, exp(scores[s] - *lse_t), values + s * 3 * C, HS);
            }
    free(scores);
}

/* One query t of one head. p = softmax(scores), out = sum p v, so   dv[s] += p[s] dout,   dp[s] = <dout, v[s]>,
 * dscores = p (dp - <p, dp>),   dq = scale sum dscores[s] k[s],   dk[s] += scale dscores[s] q */
static void attention_backward_query(double *dqkv, const double *dout, const double *qkv, double *scores, int t, int C,
                                     int HS, double scale) {
    attention_scores(scores, qkv, t, C, HS, scale);
    double lse = log_sum_exp(scores, t + 1), p_dp = 0;
    for (int s = 0; s <= t; s++) p_dp += exp(scores[s] - lse) * dot(dout, qkv + s * 3 * C + 2 * C, HS);
    for (int s = 0; s <= t; s++) {
        double p = exp(scores[s] - lse), dp = dot(dout, qkv + s * 3 * C + 2 * C, HS), dscore = p * (dp - p_dp);
        add_scaled(dqkv + t * 3 * C, scale * dscore, qkv + s * 3 * C + C, HS);
        add_scaled(dqkv + s * 3 * C + C, scale * dscore, qkv + t * 3 * C, HS);
        add_scaled(dqkv + s * 3 * C + 2 * C, p, dout, HS);
    }
}

void reference_attention_backward(double *dqkv, const double *dout, const double *qkv, int B, int T, int C, int NH,
                                  double scale) {
    int HS = C / NH;
    double *scores = checked_malloc((size_t)T * sizeof *scores, "attention scores");
    set_zero(dqkv, (int64_t)B * T * 3 * C);
    for (int b = 0; b < B; b++)
        for (int h = 0; h < NH; h++)
            for (int t = 0; t < T; t++) {
                int head = b * T * 3 * C + h * HS;
                attention_backward_query(dqkv + head, dout + (b * T + t) * C + h * HS, qkv + head, scores, t, C, HS,
                                         scale);
            }
    free(scores);
}

/* ---- loss ---- */

void reference_cross_entropy_forward(double *losses, const double *logits, const int32_t *targets, int N, int V,
                                     int VP) {
    for (int n = 0; n < N; n++) losses[n] = log_sum_exp(logits + n * VP, V) - logits[n * VP + targets[n]];
}

void reference_cross_entropy_backward(double *dlogits, double dloss, const double *logits, const int32_t *targets,
                                      int N, int V, int VP) {
    set_zero(dlogits, (int64_t)N * VP);
    for (int n = 0; n < N; n++) {
        double lse = log_sum_exp(logits + n * VP, V);
        for (int v = 0; v < V; v++)
            dlogits[n * VP + v] = dloss * (exp(logits[n * VP + v] - lse) - (v == targets[n] ? 1 : 0));
    }
}
