/* layer_kinds.h: the kinds of norm, activation and position code that a model can have and every device computes.
 *
 * A new kind is one enumerator here, its function on each device (in norm, linear or qk_norm_rope of kernels/cpu and
 * kernels/cuda), and one word in the table of model/gpt2_config.c. */
#ifndef MARS_KERNELS_LAYER_KINDS_H
#define MARS_KERNELS_LAYER_KINDS_H

typedef enum NormKind {
    NORM_LAYERNORM, /* (x - mean)/sqrt(var + eps) * weight + bias, biased variance (Ba, Kiros, Hinton 2016) */
    NORM_RMSNORM    /* x/sqrt(mean(x^2) + eps) * weight (Zhang, Sennrich 2019) */
} NormKind;

typedef enum ActivationKind {
    ACTIVATION_GELU, /* the tanh form: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    ACTIVATION_RELU2 /* max(x, 0)^2 (So et al. 2021) */
} ActivationKind;

#endif
