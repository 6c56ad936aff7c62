/* layer_kinds.h: the kinds of norm and of activation that a model can have and every device computes. Kinds of position
 * are in model/gpt2_config.h: devices only know rotations.
 *
 * A new kind needs an enumerator here, its function in norm or linear of kernels/cpu and kernels/cuda, its word in
 * model/gpt2_config.c, and its line in checkpoint/modeling_mars_gpt.py. A norm also needs its tensors and statistics in
 * model/layers.c; an activation of transformers' GPT-2 also needs its name in checkpoint/checkpoint_config.c. */
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
