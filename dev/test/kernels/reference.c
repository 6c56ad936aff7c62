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
            for (int c = 0; c < C; c++)
                out[(b * T + t) * C + c] = wte[tokens[b * T + t] * C + c] + (wpe ? wpe[t * C + c] : 0);
}

void reference_embedding_backward(double *dwte, double *dwpe, const double *dout, const int32_t *tokens, int B, int T,
                                  int C, int V) {
    set_zero(dwte, (int64_t)V * C);
    if (dwpe) set_zero(dwpe, (int64_t)T * C);
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            for (int c = 0; c < C; c++) {
                dwte[tokens[b * T + t] * C + c] += dout[(b * T + t) * C + c];
                if (dwpe) dwpe[t * C + c] += dout[(b * T + t) * C + c];
            }
}

/* ---- norms ---- */

static void mean_and_rstd(const NormShape *norm, double *mean, double *rstd, const double *x) {
    double sum = 0, squares = 0;
    for (int c = 0; c < norm->C; c++) sum += x[c];
    *mean = norm->kind == NORM_LAYERNORM ? sum / norm->C : 0;
    for (int c = 0; c < norm->C; c++) squares += (x[c] - *mean) * (x[c] - *mean);
    *rstd = 1 / sqrt(squares / norm->C + norm->eps);
}

void reference_norm_forward(const NormShape *norm, double *out, double *mean, double *rstd, const double *x,
                            const double *weight, const double *bias) {
    int C = norm->C;
    for (int n = 0; n < norm->N; n++) {
        mean_and_rstd(norm, &mean[n], &rstd[n], x + n * C);
        for (int c = 0; c < C; c++)
            out[n * C + c] = (x[n * C + c] - mean[n]) * rstd[n] * (weight ? weight[c] : 1) + (bias ? bias[c] : 0);
    }
}

/* With y = (x - mean) rstd and dy = dout weight:   dx = rstd (dy - mean(dy) - y mean(dy y)); RMSNorm, whose mean does
 * not depend on x, is without mean(dy) */
void reference_norm_backward(const NormShape *norm, double *dx, double *dweight, double *dbias, const double *dout,
                             const double *x, const double *weight) {
    int C = norm->C;
    set_zero(dweight, C);
    set_zero(dbias, C);
    for (int n = 0; n < norm->N; n++) {
        double mean, rstd, mean_dy = 0, mean_dy_y = 0;
        mean_and_rstd(norm, &mean, &rstd, x + n * C);
        for (int c = 0; c < C; c++) {
            double y = (x[n * C + c] - mean) * rstd, dy = dout[n * C + c] * (weight ? weight[c] : 1);
            if (norm->kind == NORM_LAYERNORM) mean_dy += dy / C;
            mean_dy_y += dy * y / C;
            dweight[c] += dout[n * C + c] * y;
            dbias[c] += dout[n * C + c];
        }
        for (int c = 0; c < C; c++) {
            double y = (x[n * C + c] - mean) * rstd, dy = dout[n * C + c] * (weight ? weight[c] : 1);
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

static double gelu(double x) { return 0.5 * x * (1 + tanh(gelu_root * (x + gelu_cube * x * x * x))); }

static double gelu_derivative(double x) {
    double t = tanh(gelu_root * (x + gelu_cube * x * x * x));
    double dt = (1 - t * t) * gelu_root * (1 + 3 * gelu_cube * x * x);
    return 0.5 * (1 + t) + 0.5 * x * dt;
}

static double relu2(double x) { return x < 0 ? 0 : x * x; }
static double relu2_derivative(double x) { return x < 0 ? 0 : 2 * x; }

void reference_activation_forward(ActivationKind kind, double *out, const double *pre, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = kind == ACTIVATION_GELU ? gelu(pre[i]) : relu2(pre[i]);
}

void reference_activation_backward(ActivationKind kind, double *dpre, const double *dout, const double *pre,
                                   int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dpre[i] = dout[i] * (kind == ACTIVATION_GELU ? gelu_derivative(pre[i]) : relu2_derivative(pre[i]));
}

/* ---- QK-norm and rotary positions ---- */

static double rstd_of_head(const double *q, double eps, int HS) { return 1 / sqrt(dot(q, q, HS) / HS + eps); }

void reference_qk_norm_rope_forward(double *out, double *rstd, const double *qkv, const double *rotation, double eps,
                                    int B, int T, int C, int NH) {
    int HS = C / NH;
    memcpy(out, qkv, (size_t)B * (size_t)T * 3 * (size_t)C * sizeof *out);
    for (int row = 0; row < B * T; row++)
        for (int head = 0; head < 2 * NH; head++) {
            double *q = out + row * 3 * C + head * HS, scale = rstd_of_head(q, eps, HS);
            for (int i = 0; rstd && i < HS; i++) q[i] *= scale;
            if (rstd) rstd[row * 2 * NH + head] = scale;
            for (int i = 0; rotation && i < HS / 2; i++) {
                const double *angle = rotation + (row % T * (HS / 2) + i) * 2;
                double x = q[i], y = q[i + HS / 2];
                q[i] = x * angle[0] + y * angle[1];
                q[i + HS / 2] = y * angle[0] - x * angle[1];
            }
        }
}

/* The gradient d of n = q rstd is that of the rotated n, times the rotation's transpose; then, as in RMSNorm,
 * dq = rstd (d - n mean(d n)). */
void reference_qk_norm_rope_backward(double *dqkv, const double *dout, const double *qkv, bool has_norm,
                                     const double *rotation, double eps, int B, int T, int C, int NH) {
    int HS = C / NH;
    memcpy(dqkv, dout, (size_t)B * (size_t)T * 3 * (size_t)C * sizeof *dqkv);
    for (int row = 0; row < B * T; row++)
        for (int head = 0; head < 2 * NH; head++) {
            double *d = dqkv + row * 3 * C + head * HS;
            const double *q = qkv + row * 3 * C + head * HS;
            for (int i = 0; rotation && i < HS / 2; i++) {
                const double *angle = rotation + (row % T * (HS / 2) + i) * 2;
                double x = d[i], y = d[i + HS / 2];
                d[i] = x * angle[0] - y * angle[1];
                d[i + HS / 2] = y * angle[0] + x * angle[1];
            }
            double rstd = rstd_of_head(q, eps, HS), mean_d_n = dot(d, q, HS) * rstd / HS;
            for (int i = 0; has_norm && i < HS; i++) d[i] = rstd * (d[i] - q[i] * rstd * mean_d_n);
        }
}

/* ---- dropout ---- */

void reference_dropout(double *out, const double *in, const Dropout *dropout, int B, int64_t n) {
    for (int b = 0; b < B; b++)
        for (int64_t i = 0; i < n; i++) {
            uint32_t word = dropout_words(dropout_key(dropout, b), (uint64_t)i / 4).word[i % 4];
            bool is_dropped = word < dropout_threshold(dropout->rate);
            out[b * n + i] = is_dropped ? 0 : in[b * n + i] * dropout_scale(dropout->rate);
        }
}

void reference_attention_factors(double *factors, const Dropout *dropout, int B, int T, int NH) {
    for (int b = 0; b < B; b++)
        for (int h = 0; h < NH; h++)
            for (int t = 0; t < T; t++)
                for (int s = 0; s < T; s++) {
                    uint32_t word = dropout_attention_words(dropout_key(dropout, b), h, t, s / 4).word[s % 4];
                    bool is_dropped = word < dropout_threshold(dropout->rate);
                    *factors++ = is_dropped ? 0 : dropout_scale(dropout->rate);
                }
}

/* ---- attention ---- */

/* scores[s] = scale <q[t], k[s]> for s <= t, of the head whose query, key and value start at qkv; a token's are
 * 3C apart from the next one's. */
static void attention_scores(double *scores, const double *qkv, int t, int C, int HS, double scale) {
    for (int s = 0; s <= t; s++) scores[s] = scale * dot(qkv + t * 3 * C, qkv + s * 3 * C + C, HS);
}

/* The factors of a query and the keys up to it; NULL where there are none. */
static const double *factors_of(const double *factors, int head, int t, int T) {
    return factors ? factors + ((int64_t)head * T + t) * T : NULL;
}

void reference_attention_forward(double *out, double *lse, const double *qkv, const double *factors, int B, int T,
                                 int C, int NH, double scale) {
    int HS = C / NH;
    double *scores = checked_malloc((size_t)T * sizeof *scores, "attention scores");
    set_zero(out, (int64_t)B * T * C);
    for (int b = 0; b < B; b++)
        for (int h = 0; h < NH; h++)
            for (int t = 0; t < T; t++) {
                const double *head = qkv + b * T * 3 * C + h * HS, *values = head + 2 * C;
                const double *factor = factors_of(factors, b * NH + h, t, T);
                double *lse_t = &lse[(b * NH + h) * T + t];
                attention_scores(scores, head, t, C, HS, scale);
                *lse_t = log_sum_exp(scores, t + 1);
                for (int s = 0; s <= t; s++) {
                    double p = exp(scores[s] - *lse_t) * (factor ? factor[s] : 1);
                    add_scaled(out + (b * T + t) * C + h * HS, p, values + s * 3 * C, HS);
                }
            }
    free(scores);
}

/* One query t of one head. p = softmax(scores), out = sum f p v with factors f, so   dv[s] += f[s] p[s] dout,
 * dp[s] = f[s] <dout, v[s]>,   dscores = p (dp - <p, dp>),   dq = scale sum dscores[s] k[s],
 * dk[s] += scale dscores[s] q */
static void attention_backward_query(double *dqkv, const double *dout, const double *qkv, const double *factor,
                                     double *scores, int t, int C, int HS, double scale) {
    attention_scores(scores, qkv, t, C, HS, scale);
    double lse = log_sum_exp(scores, t + 1), p_dp = 0;
    for (int s = 0; s <= t; s++)
        p_dp += exp(scores[s] - lse) * (factor ? factor[s] : 1) * dot(dout, qkv + s * 3 * C + 2 * C, HS);
    for (int s = 0; s <= t; s++) {
        double f = factor ? factor[s] : 1, p = exp(scores[s] - lse);
        double dp = f * dot(dout, qkv + s * 3 * C + 2 * C, HS), dscore = p * (dp - p_dp);
        add_scaled(dqkv + t * 3 * C, scale * dscore, qkv + s * 3 * C + C, HS);
        add_scaled(dqkv + s * 3 * C + C, scale * dscore, qkv + t * 3 * C, HS);
        add_scaled(dqkv + s * 3 * C + 2 * C, f * p, dout, HS);
    }
}

void reference_attention_backward(double *dqkv, const double *dout, const double *qkv, const double *factors, int B,
                                  int T, int C, int NH, double scale) {
    int HS = C / NH;
    double *scores = checked_malloc((size_t)T * sizeof *scores, "attention scores");
    set_zero(dqkv, (int64_t)B * T * 3 * C);
    for (int b = 0; b < B; b++)
        for (int h = 0; h < NH; h++)
            for (int t = 0; t < T; t++) {
                int head = b * T * 3 * C + h * HS;
                attention_backward_query(dqkv + head, dout + (b * T + t) * C + h * HS, qkv + head,
                                         factors_of(factors, b * NH + h, t, T), scores, t, C, HS, scale);
            }
    free(scores);
}

/* ---- loss ---- */

static double capped(double z, double softcap) {
    return softcap > 0 ? softcap * z / sqrt(z * z + softcap * softcap) : z;
}

static double capped_derivative(double z, double softcap) {
    return softcap > 0 ? pow(softcap / sqrt(z * z + softcap * softcap), 3) : 1;
}

/* s (V) = the logits of a row as they count. Returns the log of the softmax's denominator. */
static double cap_row(double *s, const double *logits, double softcap, int V) {
    for (int v = 0; v < V; v++) s[v] = capped(logits[v], softcap);
    return log_sum_exp(s, V);
}

void reference_cross_entropy_forward(double *losses, const double *logits, const int32_t *targets, double softcap,
                                     int N, int V, int VP) {
    double *s = checked_malloc((size_t)V * sizeof *s, "a row of logits");
    for (int n = 0; n < N; n++) {
        double lse = cap_row(s, logits + n * VP, softcap, V);
        losses[n] = lse - s[targets[n]];
    }
    free(s);
}

void reference_cross_entropy_backward(double *dlogits, double dloss, const double *logits, const int32_t *targets,
                                      double softcap, int N, int V, int VP) {
    double *s = checked_malloc((size_t)V * sizeof *s, "a row of logits");
    set_zero(dlogits, (int64_t)N * VP);
    for (int n = 0; n < N; n++) {
        double lse = cap_row(s, logits + n * VP, softcap, V);
        for (int v = 0; v < V; v++)
            dlogits[n * VP + v] =
                dloss * (exp(s[v] - lse) - (v == targets[n] ? 1 : 0)) * capped_derivative(logits[n * VP + v], softcap);
    }
    free(s);
}
