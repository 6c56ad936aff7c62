/* optim_world.c: see optim_world.h. */
#include "dev/test/optim/optim_world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/philox.h"

const OptimConfig usual_config = {.name = OPTIM_ADAMW,
                                  .learning_rate = 1e-3,
                                  .weight_decay = 0.1,
                                  .beta1 = 0.9,
                                  .beta2 = 0.95,
                                  .eps = 1e-8,
                                  .grad_clip = 0.0,
                                  .gradient_scale = 1.0,
                                  .ns_steps = 5};

TensorTable odd_table(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "one", ROLE_VECTOR, 1, 1, 1);
    tensor_table_add(&table, "padded", ROLE_EMBEDDING, 5, 100, 64);
    tensor_table_add(&table, "seven", ROLE_MATRIX, 7, 1, 7);
    tensor_table_add(&table, "aligned", ROLE_MATRIX, 2, 64, 2);
    tensor_table_add(&table, "129", ROLE_MATRIX, 3, 43, 3);
    tensor_table_add(&table, "one chunk", ROLE_MATRIX, 128, 128, 128);
    tensor_table_add(&table, "one chunk and a bit", ROLE_MATRIX, 7, 2341, 7);
    tensor_table_add(&table, "three chunks", ROLE_EMBEDDING, 130, 320, 130);
    for (int i = 0; i < 200; i++) {
        char name[32];
        snprintf(name, sizeof name, "small %d", i);
        tensor_table_add(&table, name, (TensorRole)(i % ROLE_COUNT), 1, 1 + i % 131, 1);
    }
    tensor_table_add(&table, "row", ROLE_MATRIX, 1, 37, 1);
    tensor_table_add(&table, "tall", ROLE_MATRIX, 65, 33, 65);
    tensor_table_add(&table, "wide", ROLE_MATRIX, 33, 65, 33);
    tensor_table_add(&table, "second tall", ROLE_MATRIX, 65, 33, 65);
    tensor_table_add(&table, "tall embedding", ROLE_EMBEDDING, 65, 33, 70);
    tensor_table_add(&table, "third tall", ROLE_MATRIX, 65, 33, 65);
    tensor_table_add(&table, "second wide", ROLE_MATRIX, 33, 65, 33);
    tensor_table_add(&table, "head", ROLE_LM_HEAD, 41, 30, 64);
    table.tensors[tensor_table_add(&table, "qkv", ROLE_MATRIX, 99, 65, 99)].stacked = 3;
    return table;
}

double world_normal(uint32_t stream, uint64_t index) {
    return philox_normal(philox(17, PHILOX_INIT_WEIGHTS, stream, index));
}

float random_gradient(uint32_t stream, size_t at) {
    Philox4 random = philox(18, PHILOX_INIT_WEIGHTS, stream, at);
    return (float)ldexp(2.0 * philox_uniform(random.word[0]) - 1.0, (int)(random.word[1] % 37) - 33);
}

/* A parameter before the first step: of variance 1, and of one magnitude. */
static float start_value(size_t at) {
    return (float)(2.0 * sqrt(3.0) * (philox_uniform(philox(17, PHILOX_INIT_WEIGHTS, 0, at).word[0]) - 0.5));
}

static OptimWorld *open_either(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm,
                               bool has_norms, bool has_ema) {
    Error error;
    OptimWorld *w = checked_calloc(1, sizeof *w, "a world");
    w->table = table;
    w->config = config;
    w->comm = comm ? comm : comm_open_single();
    w->be = backend_open(comm ? "cpu" : test_device(), type, threads, &error);
    if (!w->be) die("%s", error.text);
    size_t n = table.length;
    w->buffers.params = w->be->alloc(w->be, n * sizeof(float), "params");
    w->buffers.grads = w->be->alloc(w->be, n * sizeof(float), "grads");
    w->buffers.weights = type == DTYPE_FLOAT32 ? (void *)w->buffers.params : w->be->alloc(w->be, n * 2, "weights");
    double **lists[] = {&w->x,         &w->m,     &w->v,      &w->b,   &w->prev_grad, &w->g,
                        &w->next_grad, &w->start, &w->unsure, &w->snr, &w->scalars};
    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++) *lists[i] = checked_calloc(n, sizeof(double), "reference");
    w->params_copy = checked_calloc(n, sizeof(float), "a copy");
    w->gradient_copy = checked_calloc(n, sizeof(float), "a copy");
    w->weights_copy = checked_calloc(n, sizeof(float), "a copy");
    for (int i = 0; i < table.count; i++)
        for (size_t k = 0; k < table.tensors[i].size; k++) {
            size_t at = table.tensors[i].offset + k;
            w->start[at] = w->x[at] = w->params_copy[at] = start_value(at);
        }
    set_params(w, w->params_copy);
    w->optim = optim_plan(&w->config, &w->table, w->be, w->comm, &w->arena, &error);
    if (!w->optim) die("%s", error.text);
    w->has_norms = has_norms;
    if (has_norms) optim_plan_norms(w->optim, &w->arena);
    if (has_ema) optim_plan_ema(w->optim, &w->arena);
    arena_allocate(&w->arena, backend_memory(w->be));
    optim_start(w->optim, w->buffers);
    return w;
}

OptimWorld *open_world(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm) {
    return open_either(table, config, type, threads, comm, false, false);
}

OptimWorld *open_world_with_norms(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm) {
    return open_either(table, config, type, threads, comm, true, false);
}

OptimWorld *open_world_with_ema(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm) {
    return open_either(table, config, type, threads, comm, false, true);
}

void close_world(OptimWorld *w) {
    optim_close(w->optim);
    arena_free(&w->arena);
    if (w->buffers.weights != (void *)w->buffers.params) w->be->free(w->be, w->buffers.weights);
    w->be->free(w->be, w->buffers.params);
    w->be->free(w->be, w->buffers.grads);
    w->be->close(w->be);
    free(w->comm);
    double *lists[] = {w->x,         w->m,     w->v,      w->b,   w->prev_grad, w->g,
                       w->next_grad, w->start, w->unsure, w->snr, w->scalars};
    for (size_t i = 0; i < ARRAY_LENGTH(lists); i++) free(lists[i]);
    free(w->params_copy);
    free(w->gradient_copy);
    free(w->weights_copy);
    tensor_table_free(&w->table);
    free(w);
}

/* ---- the device's buffers ---- */

const float *world_params(OptimWorld *w) {
    w->be->copy_to_host(w->be, w->params_copy, w->buffers.params, w->table.length * sizeof(float));
    return w->params_copy;
}

const void *world_weights(OptimWorld *w) {
    w->be->copy_to_host(w->be, w->weights_copy, w->buffers.weights, w->table.length * dtype_size(w->be->activation));
    return w->weights_copy;
}

const float *world_gradient(OptimWorld *w) {
    w->be->copy_to_host(w->be, w->gradient_copy, optim_gradient(w->optim, w->which), w->table.length * sizeof(float));
    return w->gradient_copy;
}

void set_params(OptimWorld *w, const float *params) {
    w->be->copy_from_host(w->be, w->buffers.params, params, w->table.length * sizeof *params);
    if (w->buffers.weights != (void *)w->buffers.params)
        w->be->to_activation(w->be, w->buffers.weights, w->buffers.params, w->table.length);
}

void set_element(OptimWorld *w, size_t at, float value) {
    w->be->copy_from_host(w->be, optim_gradient(w->optim, w->which) + at, &value, sizeof value);
}

void fill_gradient(OptimWorld *w, float value) {
    for (size_t at = 0; at < w->table.length; at++) w->gradient_copy[at] = value;
    w->be->copy_from_host(w->be, optim_gradient(w->optim, w->which), w->gradient_copy, w->table.length * sizeof value);
}

void set_gradient(OptimWorld *w, float (*value)(uint32_t stream, size_t at), uint32_t stream) {
    float *gradient = w->gradient_copy;
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        for (size_t at = t->offset; at < t->offset + t->size; at++) gradient[at] = value(stream, at);
        w->be->copy_from_host(w->be, optim_gradient(w->optim, w->which) + t->offset, gradient + t->offset,
                              t->size * sizeof *gradient);
    }
}

OptimRates world_rates(const OptimWorld *w, double learning_rate) {
    const ScheduleConfig constant = {.name = SCHEDULE_CONSTANT};
    OptimRates rates = optim_rates(&w->config, &constant, 0);
    for (size_t i = 0; i < ARRAY_LENGTH(rates.lr); i++) rates.lr[i] *= learning_rate / w->config.learning_rate;
    return rates;
}

OptimRates uniform_rates(double learning_rate) {
    OptimRates rates = {{0}};
    for (size_t i = 0; i < ARRAY_LENGTH(rates.lr); i++) rates.lr[i] = learning_rate;
    return rates;
}

/* ---- the rules in float64, of one tensor each: n elements from `at` of the flat lists ---- */

static double norm_of(const double *a, size_t n) {
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) squares += a[i] * a[i];
    return sqrt(squares);
}

/* x after a step along `update`. With cautious decay an element hangs on the sign of its update, which float and double
 * may see differently where it is less than `doubt`. */
static void reference_update(OptimWorld *w, size_t at, double update, double lr, double decay, double doubt) {
    bool cautious = w->config.cautious_weight_decay;
    if (cautious && decay > 0.0 && fabs(update) < doubt) w->unsure[at] = 1.0;
    if (cautious && update * w->x[at] < 0.0) decay = 0.0;
    w->x[at] -= lr * (decay * w->x[at] + update);
}

static void average(double *mean, const double *a, size_t n, double beta) {
    for (size_t i = 0; i < n; i++) mean[i] = beta * mean[i] + (1.0 - beta) * a[i];
}

static void reference_adamw(OptimWorld *w, const Tensor *t, const double *g, double lr, double beta1, double beta2,
                            double decay) {
    double *m = w->m + t->offset, *v = w->v + t->offset, steps = (double)w->t;
    for (size_t i = 0; i < t->size; i++) {
        double size = fabs(m[i]) + fabs(g[i]);
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        double mean = m[i] / (1.0 - pow(beta1, steps)), square = v[i] / (1.0 - pow(beta2, steps));
        double divisor = sqrt(square) + w->config.eps;
        reference_update(w, t->offset + i, mean / divisor, lr, decay, 1e-5 * size / divisor);
    }
}

/* c of MARS. Returns what it was divided by. */
static double reference_corrected(const OptimWorld *w, const Tensor *t, double *c) {
    const OptimConfig *o = &w->config;
    const double *g = w->g + t->offset, *last = w->prev_grad + t->offset;
    for (size_t i = 0; i < t->size; i++) c[i] = g[i] + o->gamma * o->beta1 / (1.0 - o->beta1) * (g[i] - last[i]);
    double norm = norm_of(c, t->size);
    for (size_t i = 0; i < t->size; i++) c[i] /= fmax(1.0, norm);
    return fmax(1.0, norm);
}

/* Where m comes to nearly nothing out of numbers that are not, float and double may see other signs. */
static void reference_lion(OptimWorld *w, const Tensor *t, double *c, double lr, double decay) {
    double divisor = reference_corrected(w, t, c);
    double *m = w->m + t->offset, beta1 = w->config.beta1;
    const double *g = w->g + t->offset, *last = w->prev_grad + t->offset;
    for (size_t i = 0; i < t->size; i++) {
        double size = fabs(m[i]) + (fabs(g[i]) + fabs(last[i])) / divisor;
        m[i] = beta1 * m[i] + (1.0 - beta1) * c[i];
        if (size > 0.0 && fabs(m[i]) < 1e-6 * size) w->unsure[t->offset + i] = 1.0;
        reference_update(w, t->offset + i, (double)(m[i] > 0.0) - (double)(m[i] < 0.0), lr, decay, 0.0);
    }
}

/* c (m,n) = a (m,k) . b (k,n) */
static void multiply(double *c, const double *a, const double *b, int64_t m, int64_t k, int64_t n) {
    memset(c, 0, (size_t)(m * n) * sizeof *c);
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < k; l++)
            for (int64_t j = 0; j < n; j++) c[i * n + j] += a[i * k + l] * b[l * n + j];
}

/* out (n,m) = a (m,n) the other way round */
static void transpose(double *out, const double *a, int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) out[j * m + i] = a[i * n + j];
}

/* The published polynomials: a, b and c of each step. */
static const double polar_express[5][3] = {{8.156554524902461, -22.48329292557795, 15.878769915207462},
                                           {4.042929935166739, -2.808917465908714, 0.5000178451051316},
                                           {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
                                           {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
                                           {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}};
static const double quintic[3] = {3.4445, -4.7750, 2.0315}, cubic[3] = {2.0, -1.5, 0.5};

/* Newton-Schulz, in place. */
static void reference_newton_schulz(double *x, int64_t rows, int64_t columns, const OptimConfig *o) {
    bool is_polar = o->ns_coefficients == NS_COEFFICIENTS_POLAR_EXPRESS;
    bool is_cubic = o->ns_coefficients == NS_COEFFICIENTS_CUBIC;
    int steps = o->ns_steps > 0 ? o->ns_steps : is_cubic ? 12 : 5;
    size_t size = (size_t)(rows * columns);
    int64_t m = min_i64(rows, columns), n = max_i64(rows, columns);
    size_t side = (size_t)(m * m);
    double *turned = checked_malloc((2 * size + 2 * side) * sizeof *turned, "Newton-Schulz");
    double *matmul = turned + size, *a = matmul + size, *b = a + side, norm = norm_of(x, size);
    for (size_t i = 0; i < size; i++) x[i] /= is_polar ? 1.02 * norm + 1e-6 : norm + 1e-7;
    if (rows > columns) transpose(turned, x, rows, columns), memcpy(x, turned, size * sizeof *x);
    for (int step = 0; step < steps; step++) {
        const double *c = is_polar ? polar_express[step] : is_cubic ? cubic : quintic;
        transpose(turned, x, m, n);
        multiply(a, x, turned, m, n, m);
        multiply(b, a, a, m, m, m);
        for (size_t i = 0; i < side; i++) b[i] = c[1] * a[i] + c[2] * b[i];
        multiply(matmul, b, x, m, m, n);
        for (size_t i = 0; i < size; i++) x[i] = c[0] * x[i] + matmul[i];
    }
    if (rows > columns) transpose(turned, x, columns, rows), memcpy(x, turned, size * sizeof *x);
    free(turned);
}

static double muon_factor(double rows, double columns) { return sqrt(fmax(1.0, rows / columns)); }
static double moonlight_factor(double rows, double columns) { return 0.2 * sqrt(fmax(rows, columns)); }

/* NorMuon: O (rows,columns), which is scaled already, and v of its rows or columns. */
static void reference_lines(const OptimWorld *w, double *O, double *v, int64_t rows, int64_t columns) {
    double before = norm_of(O, (size_t)(rows * columns)), beta2 = w->config.muon_beta2;
    int64_t lines = rows >= columns ? rows : columns, length = rows >= columns ? columns : rows;
    for (int64_t l = 0; l < lines; l++) {
        int64_t first = rows >= columns ? l * columns : l, stride = rows >= columns ? 1 : columns;
        double mean = 0.0;
        for (int64_t i = 0; i < length; i++) mean += pow(O[first + i * stride], 2.0) / (double)length;
        v[l] = beta2 * v[l] + (1.0 - beta2) * mean;
        for (int64_t i = 0; i < length; i++) O[first + i * stride] /= sqrt(fmax(v[l], 1e-10));
    }
    double after = norm_of(O, (size_t)(rows * columns));
    for (int64_t i = 0; i < rows * columns; i++) O[i] *= before / fmax(after, 1e-10);
}

/* x <- x - lr decay x - lr O, where O is factor NS(u), and with NorMuon what this makes of it; factor is `own` unless
 * the config says otherwise; u is used up. With split_qkv u is as many matrices as are stacked in the tensor. */
static void reference_matrix_step(OptimWorld *w, const Tensor *t, double *u, double lr, double decay,
                                  double (*own)(double rows, double columns)) {
    double columns = (double)t->columns;
    int stacked = w->config.split_qkv ? t->stacked : 1;
    int64_t rows = t->rows / stacked, lines = max_i64(rows, t->columns);
    bool is_normuon = w->config.name == OPTIM_NORMUON || w->config.name == OPTIM_MARS_NORMUON;
    double largest = fmax((double)rows, columns), factor = own((double)rows, columns);
    if (w->config.muon_scale == MUON_SCALE_SPECTRAL) factor = muon_factor((double)rows, columns);
    if (w->config.muon_scale == MUON_SCALE_SQRT_MAX) factor = sqrt(largest);
    if (w->config.muon_scale == MUON_SCALE_MOONLIGHT) factor = moonlight_factor((double)rows, columns);
    if (w->config.muon_scale == MUON_SCALE_NONE) factor = 1.0;
    for (int i = 0; i < stacked; i++) {
        double *O = u + (size_t)(i * rows * t->columns);
        reference_newton_schulz(O, rows, t->columns, &w->config);
        for (int64_t k = 0; k < rows * t->columns; k++) O[k] *= factor;
        if (is_normuon) reference_lines(w, O, w->v + t->offset + i * lines, rows, t->columns);
    }
    double doubt = 1e-3 * norm_of(u, t->size) / sqrt((double)t->size);
    for (size_t i = 0; i < t->size; i++) reference_update(w, t->offset + i, u[i], lr, decay, doubt);
}

/* b <- momentum b + g, and u = g + momentum b, or b without Nesterov. */
static void reference_momentum(OptimWorld *w, const Tensor *t, double *u) {
    double *b = w->b + t->offset, momentum = w->config.momentum;
    const double *g = w->g + t->offset;
    for (size_t i = 0; i < t->size; i++) {
        b[i] = momentum * b[i] + g[i];
        u[i] = w->config.nesterov ? g[i] + momentum * b[i] : b[i];
    }
}

/* The peak rate of a tensor by its role. */
static double peak_of(const OptimConfig *o, const Tensor *t) {
    double own = t->role == ROLE_EMBEDDING ? o->embedding_lr
                 : t->role == ROLE_LM_HEAD ? o->lm_head_lr
                 : t->role == ROLE_VECTOR  ? o->lr_1d
                                           : 0.0;
    return own > 0.0 ? own : o->learning_rate;
}

/* `scale` is the step's rate in peak ones, here and below. */
static void reference_mars(OptimWorld *w, const Tensor *t, double *c, double scale) {
    const OptimConfig *o = &w->config;
    double lr = scale * peak_of(o, t), decay = t->role == ROLE_MATRIX ? o->weight_decay : 0.0, *m = w->m + t->offset;
    if (t->role == ROLE_VECTOR && !o->optimize_1d) {
        reference_adamw(w, t, w->g + t->offset, lr, o->betas_1d[0], o->betas_1d[1], o->weight_decay_1d);
        return;
    }
    if (t->role == ROLE_VECTOR) lr = scale * o->learning_rate;
    if (o->name == OPTIM_MARS_LION) {
        reference_lion(w, t, c, lr, decay);
        return;
    }
    reference_corrected(w, t, c);
    if (o->name == OPTIM_MARS_ADAMW || t->role == ROLE_VECTOR) {
        reference_adamw(w, t, c, lr, o->beta1, o->beta2, decay);
    } else {
        average(m, c, t->size, o->beta1);
        for (size_t i = 0; i < t->size; i++) c[i] = m[i] / (1.0 - o->beta1);
        reference_matrix_step(w, t, c, lr, decay, muon_factor);
    }
}

static void reference_muon(OptimWorld *w, const Tensor *t, double *u, double scale) {
    const OptimConfig *o = &w->config;
    if (t->role == ROLE_VECTOR || (t->role != ROLE_MATRIX && !o->muon_embeddings)) {
        reference_adamw(w, t, w->g + t->offset, scale * peak_of(o, t), o->beta1, o->beta2, o->weight_decay);
        return;
    }
    reference_momentum(w, t, u);
    reference_matrix_step(w, t, u, scale * o->muon_learning_rate, o->muon_weight_decay, muon_factor);
}

/* Moonlight, the two forms of MARS-M and MARS-NorMuon differ in u and in what is made of NS(u). */
static void reference_moonlight(OptimWorld *w, const Tensor *t, double *u, double scale) {
    const OptimConfig *o = &w->config;
    double lr = scale * peak_of(o, t), mu = o->beta1, *b = w->b + t->offset;
    const double *g = w->g + t->offset;
    if (t->role != ROLE_MATRIX) {
        reference_adamw(w, t, g, lr, o->betas_1d[0], o->betas_1d[1], o->weight_decay);
        return;
    }
    if (o->name == OPTIM_MOONLIGHT) {
        reference_momentum(w, t, u);
    } else if (o->name == OPTIM_MARS_M || o->name == OPTIM_MARS_NORMUON) {
        reference_corrected(w, t, u);
        average(w->m + t->offset, u, t->size, o->beta1);
        memcpy(u, w->m + t->offset, t->size * sizeof *u);
    } else {
        for (size_t i = 0; i < t->size; i++) {
            b[i] = mu * b[i] + (1.0 - o->gamma) * (1.0 - mu) / mu * g[i];
            u[i] = o->gamma * g[i] + mu * b[i];
        }
    }
    reference_matrix_step(w, t, u, lr, o->weight_decay, o->name == OPTIM_MARS_NORMUON ? muon_factor : moonlight_factor);
}

/* The spread of a single number is not defined; its snr is 1. */
static double reference_snr(const double *g, size_t n, double eps) {
    double mean = 0.0, squares = 0.0;
    for (size_t i = 0; i < n; i++) mean += g[i] / (double)n;
    for (size_t i = 0; i < n; i++) squares += (g[i] - mean) * (g[i] - mean);
    return n == 1 ? 1.0 : norm_of(g, n) / (sqrt(squares / (double)(n - 1)) + eps);
}

static void reference_sgd_sai(OptimWorld *w, int tensor, double lr) {
    const OptimConfig *o = &w->config;
    const Tensor *t = &w->table.tensors[tensor];
    double *m = w->m + t->offset, decay = t->role == ROLE_MATRIX ? o->weight_decay : 0.0;
    const double *g = w->g + t->offset;
    if (w->t == 1) w->snr[tensor] = reference_snr(g, t->size, o->eps);
    for (size_t i = 0; i < t->size; i++) {
        double size = fabs(m[i]) + fabs(g[i]), snr = w->snr[tensor];
        m[i] = w->t == 1 ? g[i] : o->momentum * m[i] + (1.0 - o->momentum) * g[i];
        reference_update(w, t->offset + i, snr * m[i], lr, decay, 1e-5 * snr * size);
    }
}

static void reference_tensor(OptimWorld *w, int tensor, double *scratch, double scale) {
    const OptimConfig *o = &w->config;
    const Tensor *t = &w->table.tensors[tensor];
    switch (o->name) {
    case OPTIM_MARS_ADAMW:
    case OPTIM_MARS_LION:
    case OPTIM_MARS_SHAMPOO:
        reference_mars(w, t, scratch, scale);
        break;
    case OPTIM_MUON:
    case OPTIM_NORMUON:
        reference_muon(w, t, scratch, scale);
        break;
    case OPTIM_MOONLIGHT:
    case OPTIM_MARS_M:
    case OPTIM_MARS_M_EFFICIENT:
    case OPTIM_MARS_NORMUON:
        reference_moonlight(w, t, scratch, scale);
        break;
    case OPTIM_SGD_SAI:
        reference_sgd_sai(w, tensor, scale * peak_of(o, t));
        break;
    default:
        reference_adamw(w, t, w->g + t->offset, scale * peak_of(o, t), o->beta1, o->beta2,
                        t->role == ROLE_MATRIX ? o->weight_decay : 0.0);
    }
}

/* ---- steps ---- */

static bool has_last(const OptimConfig *o) {
    return o->name == OPTIM_MARS_ADAMW || o->name == OPTIM_MARS_LION || o->name == OPTIM_MARS_SHAMPOO ||
           o->name == OPTIM_MARS_M || o->name == OPTIM_MARS_NORMUON;
}
static bool is_exact(const OptimConfig *o) { return has_last(o) && !o->is_approx; }

/* What was set for the optimizer. */
static void read_gradient(OptimWorld *w, double *to) {
    const float *gradient = world_gradient(w);
    for (int i = 0; i < w->table.count; i++)
        for (size_t k = 0; k < w->table.tensors[i].size; k++)
            to[w->table.tensors[i].offset + k] = gradient[w->table.tensors[i].offset + k];
}

/* Scales and clips; returns the norm between the two. */
static double reference_clip(const OptimWorld *w, double *g) {
    const OptimConfig *o = &w->config;
    for (size_t at = 0; at < w->table.length; at++) g[at] *= o->gradient_scale;
    double norm = norm_of(g, w->table.length);
    double clip = o->grad_clip > 0.0 ? fmin(1.0, o->grad_clip / (norm + 1e-6)) : 1.0;
    for (size_t at = 0; at < w->table.length; at++) g[at] *= clip;
    return norm;
}

static double reference_step(OptimWorld *w, double scale) {
    double *scratch = checked_malloc(w->table.length * sizeof *scratch, "reference");
    double norm = reference_clip(w, w->g);
    w->t++;
    for (int i = 0; i < w->table.count; i++) reference_tensor(w, i, scratch, scale);
    if (is_exact(&w->config)) reference_clip(w, w->next_grad);
    memcpy(w->prev_grad, is_exact(&w->config) ? w->next_grad : w->g, w->table.length * sizeof *w->prev_grad);
    free(scratch);
    return norm;
}

void begin_second(OptimWorld *w) { optim_gradient(w->optim, w->which = 1); }

void enqueue_step(OptimWorld *w, OptimRates rates) {
    optim_step(w->optim, rates, w->has_norms);
    w->which = 0;
}

OptimResult world_step(OptimWorld *w, OptimRates rates) {
    enqueue_step(w, rates);
    OptimResult result = optim_result(w->optim);
    optim_wait_for_weights(w->optim, 0, w->table.length);
    return result;
}

void both_hold(OptimWorld *w) {
    read_gradient(w, w->g);
    begin_second(w);
}

OptimResult both_step(OptimWorld *w, double lr) {
    assert_int_equal(optim_info(w->optim)->gradients, is_exact(&w->config) ? 2 : 1);
    read_gradient(w, is_exact(&w->config) ? w->next_grad : w->g);
    double norm = reference_step(w, lr / w->config.learning_rate);
    OptimResult result = world_step(w, world_rates(w, lr));
    assert_int_equal(result.nonfinite_tensor, -1);
    assert_error_below(norm > 0.0 ? fabs(result.grad_norm - norm) / norm : result.grad_norm, 1e-12, "the norm");
    return result;
}

/* ---- comparisons ---- */

float *fetch_tensor(OptimWorld *w, int state, int tensor) {
    float *host = checked_malloc(w->table.tensors[tensor].size * sizeof *host, "a tensor");
    optim_fetch(w->optim, state, tensor, host);
    return host;
}

/* A number of which there is one per tensor. */
static double scalar_of(OptimWorld *w, const char *name, int tensor) {
    const OptimInfo *info = optim_info(w->optim);
    for (int i = 0; i < info->scalar_count; i++) {
        if (strcmp(info->scalar_names[i], name) != 0) continue;
        optim_fetch_scalars(w->optim, i, w->scalars);
        return w->scalars[tensor];
    }
    fail_msg("%s has no %s", optim_names[w->config.name], name);
    return 0.0;
}

static const double *state_named(const OptimWorld *w, const char *name) {
    const char *const names[] = {"m", "v", "b", "g_last"};
    const double *const lists[] = {w->m, w->v, w->b, w->prev_grad};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (strcmp(name, names[i]) == 0) return lists[i];
    fail_msg("there is no state %s", name);
    return NULL;
}

/* g_last is kept as it was before scaling and clipping. In a small tensor all elements of m may have nearly cancelled,
 * which leaves fewer digits. */
static void assert_state(OptimWorld *w, int state, int tensor, double limit) {
    const Tensor *t = &w->table.tensors[tensor];
    const char *name = optim_info(w->optim)->state_names[state];
    bool is_last = strcmp(name, "g_last") == 0;
    double factor = is_last ? scalar_of(w, "g_last_factor", tensor) : 1.0;
    const double *expected = state_named(w, name) + t->offset;
    size_t vector = optim_state_vector(w->optim, state, tensor), n = vector > 0 ? vector : t->size;
    float *host = fetch_tensor(w, state, tensor);
    double *own = checked_malloc(n * sizeof *own, "a tensor");
    for (size_t k = 0; k < n; k++) own[k] = factor * host[k];
    assert_error_below(relative_error(own, expected, n), (vector > 0 ? 300.0 : n < 64 ? 10.0 : 1.0) * limit, t->name);
    if (is_last) {
        double squares = pow(norm_of(expected, t->size), 2.0);
        double kept = scalar_of(w, "g_last_squares", tensor);
        assert_error_below(relative_error(&kept, &squares, 1), 1e-12, t->name);
    }
    free(host);
    free(own);
}

void assert_states(OptimWorld *w, double limit) {
    for (int s = 0; s < optim_info(w->optim)->state_count; s++)
        for (int i = 0; i < w->table.count; i++)
            if (optim_has_state(w->optim, s, i)) assert_state(w, s, i, limit);
    if (w->config.name != OPTIM_SGD_SAI) return;
    for (int i = 0; i < w->table.count; i++) {
        double snr = scalar_of(w, "snr", i);
        assert_error_below(relative_error(&snr, &w->snr[i], 1), 1e-8, "snr");
    }
}

void assert_copies(OptimWorld *w) {
    const float *params = world_params(w);
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        float *host = fetch_tensor(w, -1, i);
        assert_memory_equal(host, params + t->offset, t->size * sizeof *host);
        free(host);
    }
    const bfloat16 *copy = world_weights(w);
    for (size_t at = 0; w->be->activation == DTYPE_BFLOAT16 && at < w->table.length; at++)
        assert_int_equal(copy[at].bits, bfloat16_from_float(params[at]).bits);
}

void assert_params(OptimWorld *w, double moved, double limit) {
    assert_copies(w);
    const float *params = world_params(w);
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        for (size_t at = t->offset; at < t->offset + t->size; at++) {
            double own = params[at], expected = w->x[at];
            if (!(fabs(own - expected) <= 4e-7 * fabs(expected) + limit * moved))
                fail_msg("%s, element %zu: %.9g, expected %.9g", t->name, at - t->offset, own, expected);
        }
    }
}

double assert_moved(OptimWorld *w, double limit) {
    double worst = 0.0;
    assert_copies(w);
    const float *params = world_params(w);
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        double wrong = 0.0, way = 0.0, size = 0.0;
        for (size_t at = t->offset; at < t->offset + t->size; at++) {
            if (w->unsure[at] != 0.0) continue;
            wrong += pow(params[at] - w->x[at], 2.0);
            way += pow(w->x[at] - w->start[at], 2.0);
            size += w->x[at] * w->x[at];
        }
        if (!(sqrt(wrong) <= 4e-7 * sqrt(size) + limit * sqrt(way)))
            fail_msg("%s: %s: off by %.3g after a way of %.3g", optim_names[w->config.name], t->name, sqrt(wrong),
                     sqrt(way));
        if (way > 0.0) worst = fmax(worst, sqrt(wrong / way));
    }
    return worst;
}

/* ---- snapshots ---- */

static void *copy_of(const void *data, size_t bytes) { return memcpy(checked_malloc(bytes, "a copy"), data, bytes); }

Snapshot take_snapshot(OptimWorld *w) {
    size_t n = w->table.length, count = (size_t)w->table.count, scalars = (size_t)optim_info(w->optim)->scalar_count;
    Snapshot s = {.params = copy_of(world_params(w), n * sizeof(float)),
                  .weights = copy_of(world_weights(w), n * dtype_size(w->be->activation)),
                  .states = checked_calloc((size_t)optim_info(w->optim)->state_count * n, sizeof(float), "states"),
                  .scalars = checked_calloc(scalars * count + 1, sizeof(double), "scalars"),
                  .updates = optim_updates(w->optim)};
    for (int state = 0; state < optim_info(w->optim)->state_count; state++)
        for (int i = 0; i < w->table.count; i++)
            if (optim_has_state(w->optim, state, i))
                optim_fetch(w->optim, state, i, s.states + (size_t)state * n + w->table.tensors[i].offset);
    for (size_t k = 0; k < scalars; k++) optim_fetch_scalars(w->optim, (int)k, s.scalars + k * count);
    return s;
}

static void free_snapshot(Snapshot s) {
    free(s.params);
    free(s.weights);
    free(s.states);
    free(s.scalars);
}

void assert_is(OptimWorld *w, Snapshot s) {
    size_t size = dtype_size(w->be->activation), states = (size_t)optim_info(w->optim)->state_count;
    Snapshot now = take_snapshot(w);
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        assert_memory_equal(now.params + t->offset, s.params + t->offset, t->size * sizeof(float));
        assert_memory_equal((char *)now.weights + t->offset * size, (char *)s.weights + t->offset * size,
                            t->size * size);
    }
    assert_memory_equal(now.states, s.states, states * w->table.length * sizeof(float));
    if (optim_info(w->optim)->scalar_count > 0)
        assert_memory_equal(now.scalars, s.scalars,
                            (size_t)(optim_info(w->optim)->scalar_count * w->table.count) * sizeof(double));
    assert_true(now.updates == s.updates);
    free_snapshot(now);
    free_snapshot(s);
}
