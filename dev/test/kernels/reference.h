/* reference.h: the truth that every kernel is tested against: each operation of kernels/backend.h in float64, as
 * plain loops that follow the formula line by line.
 *
 * Shapes and names are those of backend.h. There is no speed here, no blocking, no thread, no accumulate and no
 * padding to think about: results overwrite what was there. What a backend does beyond the formula (adding to a
 * gradient, rounding, aliasing) is for the tests to say.
 *
 * The forward functions are the definition. The backward ones are their derivatives worked out by hand, so that
 * gradients of any size can be compared element by element; test_reference.c holds each of them to central
 * differences of its forward function. */
#ifndef MARS_DEV_TEST_KERNELS_REFERENCE_H
#define MARS_DEV_TEST_KERNELS_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

EXTERN_C_BEGIN

/* out (B,T,C) = wte[tokens] + wpe[t]; wpe may be NULL */
void reference_embedding_forward(double *out, const int32_t *tokens, const double *wte, const double *wpe, int B, int T,
                                 int C);
/* dwte (V,C), dwpe (T,C) or NULL */
void reference_embedding_backward(double *dwte, double *dwpe, const double *dout, const int32_t *tokens, int B, int T,
                                  int C, int V);

/* LayerNorm: out = (x - mean) * rstd * weight + bias, rstd = 1/sqrt(var + eps). RMSNorm: the same with a mean of 0, so
 * that rstd = 1/sqrt(mean(x^2) + eps).   out, x (N,C); mean, rstd (N); weight and bias may be NULL, for 1 and 0 */
void reference_norm_forward(const NormShape *norm, double *out, double *mean, double *rstd, const double *x,
                            const double *weight, const double *bias);
/* dx (N,C); dweight, dbias (C), what the gradients of a weight and a bias would be also where there is none */
void reference_norm_backward(const NormShape *norm, double *dx, double *dweight, double *dbias, const double *dout,
                             const double *x, const double *weight);

/* out (N,OC) = in (N,IC) . weight^T + bias, weight (OC,IC); bias may be NULL */
void reference_matmul_forward(double *out, const double *in, const double *weight, const double *bias, int N, int IC,
                              int OC);
/* din (N,IC) */
void reference_matmul_backward_input(double *din, const double *dout, const double *weight, int N, int IC, int OC);
/* dweight (OC,IC), dbias (OC) */
void reference_matmul_backward_weight(double *dweight, double *dbias, const double *dout, const double *in, int N,
                                      int IC, int OC);

/* GELU(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), Hendrycks and Gimpel 2016; ReLU^2(x) = max(x, 0)^2, which
 * like its derivative is NaN for NaN. out may be pre */
void reference_activation_forward(ActivationKind kind, double *out, const double *pre, int64_t n);
/* dpre = dout times the derivative at pre; dpre may be dout */
void reference_activation_backward(ActivationKind kind, double *dpre, const double *dout, const double *pre, int64_t n);

/* out (B,T,3C) from qkv (B,T,3C): q and k of each head divided by sqrt(mean(q^2) + eps), and rstd (B,T,2,NH) is 1 over
 * this root, unless rstd is NULL; then, with {cos, sin} = rotation[t][i] of rotation (T,HS/2,2), unless that is NULL,
 * (q[i] cos + q[i + HS/2] sin, q[i + HS/2] cos - q[i] sin). v stays. */
void reference_qk_norm_rope_forward(double *out, double *rstd, const double *qkv, const double *rotation, double eps,
                                    int B, int T, int C, int NH);
/* dqkv (B,T,3C) from dout, the gradient of out, and qkv as it was before; has_norm: whether rstd was not NULL. */
void reference_qk_norm_rope_backward(double *dqkv, const double *dout, const double *qkv, bool has_norm,
                                     const double *rotation, double eps, int B, int T, int C, int NH);

/* out, in (B sequences of n numbers): in times a factor that dropout.h makes 0 or 1/(1 - rate); 0 for any number that
 * is dropped. out may be in */
void reference_dropout(double *out, const double *in, const Dropout *dropout, int B, int64_t n);

/* factors (B,NH,T,T): what dropout.h multiplies the weight of a query (third) and a key (last) by, 0 or 1/(1 - rate) */
void reference_attention_factors(double *factors, const Dropout *dropout, int B, int T, int NH);

/* out (B,T,C), lse (B,NH,T) from qkv (B,T,3C): causal attention, head h in columns [h*HS, (h+1)*HS) of each part. The
 * softmax's values are multiplied by factors (B,NH,T,T), NULL for 1. */
void reference_attention_forward(double *out, double *lse, const double *qkv, const double *factors, int B, int T,
                                 int C, int NH, double scale);
/* dqkv (B,T,3C) */
void reference_attention_backward(double *dqkv, const double *dout, const double *qkv, const double *factors, int B,
                                  int T, int C, int NH, double scale);

/* losses (N) = -log softmax(s)[targets[n]] over the first V of VP columns; s is the logit z or, with softcap c > 0,
 * c z/sqrt(z^2 + c^2) */
void reference_cross_entropy_forward(double *losses, const double *logits, const int32_t *targets, double softcap,
                                     int N, int V, int VP);
/* dlogits (N,VP) = dloss * (softmax - onehot) * ds/dz, 0 in columns V.. */
void reference_cross_entropy_backward(double *dlogits, double dloss, const double *logits, const int32_t *targets,
                                      double softcap, int N, int V, int VP);

EXTERN_C_END

#endif
