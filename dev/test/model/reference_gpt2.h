/* reference_gpt2.h: the whole of GPT-2 in float64, put together from the operations of reference.h, and models with
 * known weights to hold against it. Only the forward pass is here: a gradient is compared with differences of losses,
 * so that no mistake in a hand-derived backward pass can hide. */
#ifndef MARS_DEV_TEST_MODEL_REFERENCE_GPT2_H
#define MARS_DEV_TEST_MODEL_REFERENCE_GPT2_H

#include "dev/test/model/gpt2_shape.h"
#include "dev/test/test.h"
#include "model/gpt2.h"

EXTERN_C_BEGIN

/* logits (B*T,V) of a model whose weights lie in `params` as the table says, softcap included; they have no padded
 * columns. */
void reference_gpt2_logits(double *logits, const GPT2Config *config, const TensorTable *table, const double *params,
                           const int32_t *inputs, int B, int T);

/* losses (B*T), NULL where only their sum is wanted, which is returned. Dropout, NULL for none, is as in a training
 * pass; its place is not read. */
double reference_gpt2_losses(double *losses, const GPT2Config *config, const TensorTable *table, const double *params,
                             const int32_t *inputs, const int32_t *targets, int B, int T, const Dropout *dropout);

/* Weights that make every part of a model matter: matrices and embeddings of deviation 0.2 or so, gains around 1,
 * biases around 0, all rounded to `type`. Gaps of the table stay 0. The caller frees the table.length numbers. */
double *random_weights(const TensorTable *table, DType type, uint64_t seed);

/* Puts such weights into a model. */
void set_weights(GPT2 *model, const double *params);

/* A Backend for the CPU; fails the test where there is none. */
Backend *open_cpu(DType activation, int threads);

/* count random tokens below V, the last one of the vocabulary among them; the caller frees them. */
int32_t *random_tokens(int count, int V, uint32_t stream);

EXTERN_C_END

#endif
