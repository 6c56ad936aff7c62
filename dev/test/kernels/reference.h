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

#include "util/base.h"

EXTERN_C_BEGIN

/* out (B,T,C) = wte[tokens] + wpe[t] */
void reference_embedding_forward(double *out, const int32_t *tokens, const double *wte, const double *wpe, int B, int T,
                                 int C);
/* dwte (V,C), dwpe (T,C) */
void reference_embedding_backward(double *dwte, double *dwpe, const double *dout, const int32_t *tokens, int B, int T,
                                  int C, int V);

/* out = (x - mean) * rstd * weight + bias, rstd = 1/sqrt(var + 1e-5).
 * out, x (N,C); mean, rstd (N); bias may be NULL */
void reference_layernorm_forward(double *out, double *mean, double *rstd, const double *x, const double *weight,
                                 const double *bias, int N, int C);
/* dx (N,C); dweight, dbias (C) */
void reference_layernorm_backward(double *dx, double *dweight, double *dbias, const double *dout, const double *x,
                                  const double *weight, int N, int C);

/* out (N,OC) = in (N,IC) . weight^T + bias, weight (OC,IC); bias may be NULL */
void reference_matmul_forward(double *out, const double *in, const double *weight, const double *bias, int N, int IC,
                              int OC);
/* din (N,IC) */
void reference_matmul_backward_input(double *din, const double *dout, const double *weight, int N, int IC, int OC);
/* dweight (OC,IC), dbias (OC) */
void reference_matmul_backward_weight(double *dweight, double *dbias, const double *dout, const double *in, int N,
                                      int IC, int OC);

/* GELU(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), Hendrycks and Gimpel 2016 */
void reference_gelu_forward(double *out, const double *pre, int64_t n);
/* dpre = dout * GELU'(pre); dpre may be dout */
void reference_gelu_backward(double *dpre, const double *dout, const double *pre, int64_t n);

/* out (B,T,C), lse (B,NH,T) from qkv (B,T,3C): causal attention, head h in columns [h*HS, (h+1)*HS) of each part */
void reference_attention_forward(double *out, double *lse, const double *qkv, int B, int T, int C, int NH,
                                 double scale);
/* dqkv (B,T,3C) */
void reference_attention_backward(double *dqkv, const double *dout, const double *qkv, int B, int T, int C, int NH,
                                  double scale);

/* losses (N) = -log softmax(logits[n])[targets[n]] over the first V of VP columns */
void reference_cross_entropy_forward(double *losses, const double *logits, const int32_t *targets, int N, int V,
                                     int VP);
/* dlogits (N,VP) = dloss * (softmax - onehot), 0 in columns V.. */
void reference_cross_entropy_backward(double *dlogits, double dloss, const double *logits, const int32_t *targets,
                                      int N, int V, int VP);

EXTERN_C_END

#endif
