/* optim_variants.c: see optim_variants.h. */
#include "dev/test/optim/optim_variants.h"

#include <string.h>

const OptimVariant optim_variants[VARIANTS] = {
    {"adamw", OPTIM_ADAMW, "m v", USUAL},
    {"mars-adamw", OPTIM_MARS_ADAMW, "m v g_last", USUAL},
    {"mars-adamw exact", OPTIM_MARS_ADAMW, "m v g_last", EXACT},
    {"mars-adamw 1d", OPTIM_MARS_ADAMW, "m v g_last", WITH_1D},
    {"mars-lion", OPTIM_MARS_LION, "m v g_last", USUAL},
    {"mars-lion exact", OPTIM_MARS_LION, "m v g_last", EXACT},
    {"mars-lion 1d", OPTIM_MARS_LION, "m g_last", WITH_1D},
    {"mars-shampoo", OPTIM_MARS_SHAMPOO, "m v g_last", USUAL},
    {"mars-shampoo exact", OPTIM_MARS_SHAMPOO, "m v g_last", EXACT},
    {"mars-shampoo 1d", OPTIM_MARS_SHAMPOO, "m v g_last", WITH_1D},
    {"muon", OPTIM_MUON, "b m v", USUAL},
    {"muon without nesterov", OPTIM_MUON, "b m v", NO_NESTEROV},
    {"moonlight", OPTIM_MOONLIGHT, "b m v", USUAL},
    {"moonlight without nesterov", OPTIM_MOONLIGHT, "b m v", NO_NESTEROV},
    {"mars-m", OPTIM_MARS_M, "m v g_last", USUAL},
    {"mars-m exact", OPTIM_MARS_M, "m v g_last", EXACT},
    {"mars-m-efficient", OPTIM_MARS_M_EFFICIENT, "b m v", USUAL},
    {"normuon", OPTIM_NORMUON, "b v m", USUAL},
    {"normuon without nesterov", OPTIM_NORMUON, "b v m", NO_NESTEROV},
    {"mars-normuon", OPTIM_MARS_NORMUON, "m v g_last", USUAL},
    {"mars-normuon exact", OPTIM_MARS_NORMUON, "m v g_last", EXACT},
    {"sgd-sai", OPTIM_SGD_SAI, "m", USUAL},
    {"muon with adamw embeddings", OPTIM_MUON, "b m v", ADAMW_EMBEDDINGS},
    {"muon, split qkv", OPTIM_MUON, "b m v", SPLIT_QKV},
    {"muon, moonlight's scale", OPTIM_MUON, "b m v", MOONLIGHT},
    {"moonlight, spectral scale", OPTIM_MOONLIGHT, "b m v", SPECTRAL},
    {"moonlight, no scale", OPTIM_MOONLIGHT, "b m v", NO_SCALE},
    {"mars-m, split qkv", OPTIM_MARS_M, "m v g_last", SPLIT_QKV},
    {"mars-shampoo, sqrt-max scale", OPTIM_MARS_SHAMPOO, "m v g_last", SQRT_MAX},
    {"normuon with adamw embeddings", OPTIM_NORMUON, "b v m", ADAMW_EMBEDDINGS},
    {"normuon, split qkv", OPTIM_NORMUON, "b v m", SPLIT_QKV},
    {"normuon, no scale", OPTIM_NORMUON, "b v m", NO_SCALE},
    {"mars-normuon, split qkv", OPTIM_MARS_NORMUON, "m v g_last", SPLIT_QKV},
    {"adamw, cautious", OPTIM_ADAMW, "m v", CAUTIOUS},
    {"mars-adamw, cautious", OPTIM_MARS_ADAMW, "m v g_last", CAUTIOUS},
    {"mars-lion 1d, cautious", OPTIM_MARS_LION, "m g_last", CAUTIOUS_1D},
    {"mars-shampoo, cautious", OPTIM_MARS_SHAMPOO, "m v g_last", CAUTIOUS},
    {"muon, cautious", OPTIM_MUON, "b m v", CAUTIOUS},
    {"moonlight, cautious", OPTIM_MOONLIGHT, "b m v", CAUTIOUS},
    {"normuon, cautious", OPTIM_NORMUON, "b v m", CAUTIOUS},
    {"mars-normuon, cautious", OPTIM_MARS_NORMUON, "m v g_last", CAUTIOUS},
    {"sgd-sai, cautious", OPTIM_SGD_SAI, "m", CAUTIOUS},
    {"muon, polar-express", OPTIM_MUON, "b m v", POLAR_EXPRESS},
    {"normuon, polar-express", OPTIM_NORMUON, "b v m", POLAR_EXPRESS},
    {"mars-m, cubic", OPTIM_MARS_M, "m v g_last", CUBIC},
    {"normuon, cubic", OPTIM_NORMUON, "b v m", CUBIC},
};

OptimConfig variant_config(const OptimVariant *variant) {
    OptimConfig c = optim_defaults(variant->name, variant->name == OPTIM_SGD_SAI ? 5.0 : 0.05);
    c.weight_decay = 0.01 / c.learning_rate;
    c.beta1 = 0.921875;
    c.beta2 = 0.96875;
    c.eps = 1e-7;
    c.gamma = 0.04;
    c.is_approx = variant->form != EXACT;
    c.optimize_1d = variant->form == WITH_1D || variant->form == CAUTIOUS_1D;
    c.cautious_weight_decay = variant->form == CAUTIOUS || variant->form == CAUTIOUS_1D;
    c.ns_coefficients = variant->form == POLAR_EXPRESS ? NS_COEFFICIENTS_POLAR_EXPRESS
                        : variant->form == CUBIC       ? NS_COEFFICIENTS_CUBIC
                                                       : NS_COEFFICIENTS_QUINTIC;
    c.muon_beta2 = 0.9375;
    c.embedding_lr = 0.8 * c.learning_rate;
    c.lm_head_lr = 1.2 * c.learning_rate;
    c.lr_1d = 0.6 * c.learning_rate;
    c.betas_1d[0] = 0.859375;
    c.betas_1d[1] = 0.9375;
    c.weight_decay_1d = 0.3;
    c.muon_learning_rate = 0.02;
    c.muon_weight_decay = 0.15;
    c.momentum = 0.88;
    c.nesterov = variant->form != NO_NESTEROV;
    c.muon_embeddings = variant->form != ADAMW_EMBEDDINGS;
    c.split_qkv = variant->form == SPLIT_QKV;
    c.muon_scale = variant->form == SQRT_MAX    ? MUON_SCALE_SQRT_MAX
                   : variant->form == SPECTRAL  ? MUON_SCALE_SPECTRAL
                   : variant->form == MOONLIGHT ? MUON_SCALE_MOONLIGHT
                   : variant->form == NO_SCALE  ? MUON_SCALE_NONE
                                                : MUON_SCALE_AUTO;
    c.ns_dtype = NS_DTYPE_FLOAT32;
    return c;
}

bool uses_matrices(OptimName name) {
    return name != OPTIM_ADAMW && name != OPTIM_MARS_ADAMW && name != OPTIM_MARS_LION && name != OPTIM_SGD_SAI;
}
bool uses_prev_grad(const OptimVariant *variant) { return strstr(variant->states, "g_last") != NULL; }

TensorTable table_of_roles(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "gain", ROLE_VECTOR, 1, 200, 1);
    tensor_table_add(&table, "tokens", ROLE_EMBEDDING, 20, 7, 30);
    tensor_table_add(&table, "tall", ROLE_MATRIX, 23, 11, 23);
    tensor_table_add(&table, "row", ROLE_MATRIX, 1, 37, 1);
    tensor_table_add(&table, "wide", ROLE_MATRIX, 11, 23, 11);
    tensor_table_add(&table, "second tall", ROLE_MATRIX, 23, 11, 23);
    table.tensors[tensor_table_add(&table, "qkv", ROLE_MATRIX, 33, 23, 33)].stacked = 3;
    tensor_table_add(&table, "head", ROLE_LM_HEAD, 20, 7, 20);
    tensor_table_add(&table, "one", ROLE_VECTOR, 1, 1, 1);
    return table;
}

TensorTable table_of_chunks(void) {
    TensorTable table = table_of_roles();
    tensor_table_add(&table, "large", ROLE_MATRIX, 130, 320, 130);
    tensor_table_add(&table, "large embedding", ROLE_EMBEDDING, 601, 41, 640);
    return table;
}

static double rate_of(const OptimWorld *w, uint32_t step) { return w->config.learning_rate * (step % 3 + 1); }

void both_random_step(OptimWorld *w, uint32_t step) {
    set_gradient(w, random_gradient, 2 * step + 1);
    if (optim_info(w->optim)->gradients > 1) {
        both_hold(w);
        set_gradient(w, random_gradient, 2 * step + 2);
    }
    both_step(w, rate_of(w, step));
}

void begin_spoilt_step(OptimWorld *w, uint32_t step, int tensor, bool in_second, float bad) {
    for (int second = 0; second < optim_info(w->optim)->gradients; second++) {
        set_gradient(w, random_gradient, 2 * step + 1 + (uint32_t)second);
        const Tensor *t = &w->table.tensors[tensor < 0 ? 0 : tensor];
        if (tensor >= 0 && second == in_second) set_element(w, t->offset + t->size / 2, bad);
        if (second == 0 && optim_info(w->optim)->gradients > 1) begin_second(w);
    }
    enqueue_step(w, world_rates(w, rate_of(w, step)));
}

OptimResult spoilt_step(OptimWorld *w, uint32_t step, int tensor, bool in_second, float bad) {
    begin_spoilt_step(w, step, tensor, in_second, bad);
    return optim_result(w->optim);
}

void random_steps(OptimWorld *w, uint32_t begin, uint32_t end) {
    for (uint32_t step = begin; step < end; step++)
        assert_int_equal(spoilt_step(w, step, -1, false, 0.0f).nonfinite_tensor, -1);
}
