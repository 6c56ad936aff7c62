/* optim_world.c: see optim_world.h. */
#include "dev/test/optim_world.h"

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
        tensor_table_add(&table, name, (TensorRole)(i % 3), 1, 1 + i % 131, 1);
    }
    return table;
}

double world_normal(uint32_t stream, uint64_t index) {
    return philox_normal(philox(17, PHILOX_INIT_WEIGHTS, stream, index));
}

float random_gradient(uint32_t stream, size_t at) {
    double exponent = 11.0 * philox_uniform(philox(18, PHILOX_INIT_WEIGHTS, stream, at).word[0]) - 10.0;
    return (float)(world_normal(stream, at) * pow(10.0, exponent));
}

World *open_world(TensorTable table, OptimConfig config, DType type, int threads, Comm *comm) {
    Error error;
    World *w = checked_calloc(1, sizeof *w, "a world");
    w->table = table;
    w->config = config;
    w->comm = comm ? comm : comm_open_single();
    w->be = backend_open("cpu", type, threads, &error);
    if (!w->be) die("%s", error.text);
    size_t n = table.length;
    w->buffers.params = w->be->alloc(w->be, n * sizeof(float), "params");
    w->buffers.grads = w->be->alloc(w->be, n * sizeof(float), "grads");
    w->buffers.weights = type == DTYPE_FLOAT32 ? (void *)w->buffers.params : w->be->alloc(w->be, n * 2, "weights");
    w->x = checked_calloc(3 * n, sizeof *w->x, "reference");
    w->m = w->x + n;
    w->v = w->m + n;
    for (int i = 0; i < table.count; i++)
        for (size_t k = 0; k < table.tensors[i].size; k++) {
            size_t at = table.tensors[i].offset + k;
            w->x[at] = w->buffers.params[at] = (float)world_normal(0, at);
        }
    if (type == DTYPE_BFLOAT16) w->be->to_activation(w->be, w->buffers.weights, w->buffers.params, n);
    w->optim = optim_open(&w->config, &w->table, w->buffers, w->be, w->comm, &error);
    if (!w->optim) die("%s", error.text);
    return w;
}

void close_world(World *w) {
    optim_close(w->optim);
    if (w->buffers.weights != (void *)w->buffers.params) w->be->free(w->be, w->buffers.weights);
    w->be->free(w->be, w->buffers.params);
    w->be->free(w->be, w->buffers.grads);
    w->be->close(w->be);
    free(w->comm);
    free(w->x);
    tensor_table_free(&w->table);
    free(w);
}

void set_gradient(World *w, float (*value)(uint32_t stream, size_t at), uint32_t stream) {
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        for (size_t at = t->offset; at < t->offset + t->size; at++) w->buffers.grads[at] = value(stream, at);
    }
}

static double reference_norm(const World *w) {
    double squares = 0.0;
    for (int i = 0; i < w->table.count; i++)
        for (size_t k = 0; k < w->table.tensors[i].size; k++) {
            double g = w->config.gradient_scale * w->buffers.grads[w->table.tensors[i].offset + k];
            squares += g * g;
        }
    return sqrt(squares);
}

double reference_step(World *w, double lr) {
    const OptimConfig *c = &w->config;
    double norm = reference_norm(w), b1 = c->beta1, b2 = c->beta2, t = (double)++w->t;
    double clip = c->grad_clip > 0.0 ? fmin(1.0, c->grad_clip / (norm + 1e-6)) : 1.0;
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *tensor = &w->table.tensors[i];
        double decay = tensor->role == ROLE_MATRIX ? c->weight_decay : 0.0;
        for (size_t at = tensor->offset; at < tensor->offset + tensor->size; at++) {
            double g = w->buffers.grads[at] * c->gradient_scale * clip;
            w->m[at] = b1 * w->m[at] + (1.0 - b1) * g;
            w->v[at] = b2 * w->v[at] + (1.0 - b2) * g * g;
            double mean = w->m[at] / (1.0 - pow(b1, t)), square = w->v[at] / (1.0 - pow(b2, t));
            w->x[at] -= lr * (decay * w->x[at] + mean / (sqrt(square) + c->eps));
        }
    }
    return norm;
}

OptimResult both_step(World *w, double lr) {
    double norm = reference_step(w, lr);
    OptimResult result = optim_step(w->optim, (OptimRates){.learning_rate = lr});
    assert_int_equal(result.nonfinite_tensor, -1);
    assert_error_below(norm > 0.0 ? fabs(result.grad_norm - norm) / norm : result.grad_norm, 1e-12, "the norm");
    return result;
}

float *fetch_tensor(World *w, int state, int tensor) {
    float *host = checked_malloc(w->table.tensors[tensor].size * sizeof *host, "a tensor");
    optim_fetch(w->optim, state, tensor, host);
    return host;
}

void assert_state(World *w, int state, const double *expected, double limit) {
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        float *host = fetch_tensor(w, state, i);
        double *own = checked_malloc(t->size * sizeof *own, "a tensor");
        for (size_t k = 0; k < t->size; k++) own[k] = host[k];
        assert_error_below(relative_error(own, expected + t->offset, t->size), limit, t->name);
        free(host);
        free(own);
    }
}

void assert_params(World *w, double moved, double limit) {
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        float *host = fetch_tensor(w, -1, i);
        assert_memory_equal(host, w->buffers.params + t->offset, t->size * sizeof *host);
        for (size_t k = 0; k < t->size; k++) {
            double expected = w->x[t->offset + k];
            if (!(fabs(host[k] - expected) <= 4e-7 * fabs(expected) + limit * moved))
                fail_msg("%s, element %zu: %.9g, expected %.9g", t->name, k, host[k], expected);
        }
        free(host);
    }
    const bfloat16 *copy = w->buffers.weights;
    for (size_t at = 0; w->be->activation == DTYPE_BFLOAT16 && at < w->table.length; at++)
        assert_int_equal(copy[at].bits, bfloat16_from_float(w->buffers.params[at]).bits);
}
