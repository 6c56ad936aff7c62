/* optim.c: the sharded optimizer step (see optim.h). The arithmetic of each rule is in its own header; the loops are in
 * multi_tensor.c. */
#include "optim/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/multi_tensor.h"

struct Optim {
    OptimConfig config;
    const TensorTable *table;
    OptimBuffers buffers;
    Backend *be;
    Comm *comm;
    const ElementwiseRule *rule;
    size_t *bounds; /* comm->size + 1 offsets: who owns what */
    Chunk *chunks;  /* of the owned range */
    int chunk_count;
    float *states[OPTIM_MAX_STATES]; /* owned range only */
    double *chunk_sums, *tensor_sums;
    RuleNumbers *numbers; /* one per tensor */
    float *gather_buffer; /* a flat buffer for checkpoints of several processes; NULL until needed */
    int64_t updates;
};

const char *const optim_names[] = {"adamw", NULL};

static size_t owned_begin(const Optim *o) { return o->bounds[o->comm->rank]; }
static size_t owned_end(const Optim *o) { return o->bounds[o->comm->rank + 1]; }
static bool has_copy(const Optim *o) { return o->buffers.weights != (void *)o->buffers.params; }

/* Even parts, cut where tensors may begin, so that each part of a two-byte buffer is aligned too. */
static void split_evenly(size_t *bounds, size_t length, int processes) {
    size_t units = length / TENSOR_ALIGNMENT;
    for (int r = 0; r <= processes; r++) bounds[r] = units * (size_t)r / (size_t)processes * TENSOR_ALIGNMENT;
}

Optim *optim_open(const OptimConfig *config, const TensorTable *table, OptimBuffers buffers, Backend *be, Comm *comm) {
    Optim *o = checked_calloc(1, sizeof *o, "the optimizer");
    *o = (Optim){.config = *config, .table = table, .buffers = buffers, .be = be, .comm = comm};
    o->rule = multi_tensor_rule(config->name);
    if (!o->rule) die("optimizer number %d has no rule", (int)config->name);
    o->bounds = checked_malloc((size_t)(comm->size + 1) * sizeof *o->bounds, "the optimizer");
    split_evenly(o->bounds, table->length, comm->size);
    o->chunks = multi_tensor_chunks(table, owned_begin(o), owned_end(o), &o->chunk_count);
    o->chunk_sums = checked_calloc((size_t)o->chunk_count, sizeof *o->chunk_sums, "the optimizer");
    o->tensor_sums = checked_calloc((size_t)table->count, sizeof *o->tensor_sums, "the optimizer");
    o->numbers = checked_calloc((size_t)table->count, sizeof *o->numbers, "the optimizer");
    for (int s = 0; s < o->rule->states; s++)
        o->states[s] = be->alloc(be, (owned_end(o) - owned_begin(o)) * sizeof(float), "the optimizer's state");
    return o;
}

void optim_close(Optim *o) {
    for (int s = 0; s < o->rule->states; s++) o->be->free(o->be, o->states[s]);
    free(o->gather_buffer);
    free(o->numbers);
    free(o->tensor_sums);
    free(o->chunk_sums);
    free(o->chunks);
    free(o->bounds);
    free(o);
}

/* tensor_sums[i] = sum of squares of tensor i's reduced gradient, on every process. */
static void sum_squares(Optim *o) {
    multi_tensor_square_sums(o->be, o->chunks, o->chunk_count, o->buffers.grads, o->chunk_sums);
    memset(o->tensor_sums, 0, (size_t)o->table->count * sizeof *o->tensor_sums);
    for (int c = 0; c < o->chunk_count; c++) o->tensor_sums[o->chunks[c].tensor] += o->chunk_sums[c];
    o->comm->sum(o->comm, o->tensor_sums, o->table->count);
}

static OptimResult gradient_norm(const Optim *o) {
    double total = 0.0;
    for (int i = 0; i < o->table->count; i++) {
        if (!isfinite(o->tensor_sums[i])) return (OptimResult){INFINITY, i};
        total += o->tensor_sums[i];
    }
    return (OptimResult){sqrt(total) * o->config.gradient_scale, -1};
}

/* The largest norm is 1 as torch.nn.utils.clip_grad_norm_ counts it, with 1e-6 added to the norm. */
static double clip_factor(const Optim *o, double norm) {
    if (o->config.grad_clip <= 0.0) return 1.0;
    return fmin(1.0, o->config.grad_clip / (norm + 1e-6));
}

/* The corrections are those of the betas as floats, with which averages are made: 1 - 0.99999f is 0.14 % too large. */
static void set_numbers(Optim *o, double learning_rate, double gradient_factor) {
    const OptimConfig *c = &o->config;
    double t = (double)o->updates;
    float beta1 = (float)c->beta1, beta2 = (float)c->beta2;
    for (int i = 0; i < o->table->count; i++) {
        bool decays = o->table->tensors[i].role == ROLE_MATRIX;
        o->numbers[i] = (RuleNumbers){
            .gradient_factor = (float)gradient_factor,
            .learning_rate = (float)learning_rate,
            .weight_decay = decays ? (float)c->weight_decay : 0.0f,
            .beta1 = beta1,
            .beta2 = beta2,
            .eps = (float)c->eps,
            .correction1 = (float)(1.0 / (1.0 - pow(beta1, t))),
            .correction2 = (float)(1.0 / (1.0 - pow(beta2, t))),
        };
    }
}

static void gather_weights(Optim *o) {
    if (has_copy(o))
        o->comm->all_gather(o->comm, o->buffers.weights, dtype_size(o->be->activation), o->bounds);
    else
        o->comm->all_gather(o->comm, o->buffers.params, sizeof(float), o->bounds);
    o->be->weights_changed(o->be);
}

OptimResult optim_step(Optim *o, double learning_rate) {
    o->comm->reduce_scatter(o->comm, o->buffers.grads, o->bounds);
    sum_squares(o);
    OptimResult result = gradient_norm(o);
    if (result.nonfinite_tensor >= 0) return result;
    o->updates++;
    set_numbers(o, learning_rate, o->config.gradient_scale * clip_factor(o, result.grad_norm));
    MultiTensorBuffers buffers = {.params = o->buffers.params,
                                  .weights = has_copy(o) ? o->buffers.weights : NULL,
                                  .grads = o->buffers.grads,
                                  .first = owned_begin(o)};
    memcpy(buffers.states, o->states, sizeof o->states);
    o->rule->update(o->be, o->chunks, o->chunk_count, buffers, o->numbers);
    gather_weights(o);
    return result;
}

int64_t optim_updates(const Optim *o) { return o->updates; }
void optim_set_updates(Optim *o, int64_t updates) { o->updates = updates; }
int optim_state_count(const Optim *o) { return o->rule->states; }
const char *const *optim_state_names(const Optim *o) { return o->rule->state_names; }

size_t optim_state_bytes(const Optim *o) {
    return (size_t)o->rule->states * (owned_end(o) - owned_begin(o)) * sizeof(float);
}

/* The part of a tensor that this process owns, as elements of the flat buffers; empty where begin >= end. */
static Chunk owned_part(const Optim *o, int tensor) {
    const Tensor *t = &o->table->tensors[tensor];
    Chunk part = {t->offset, t->offset + t->size, tensor};
    if (part.begin < owned_begin(o)) part.begin = owned_begin(o);
    if (part.end > owned_end(o)) part.end = owned_end(o);
    return part;
}

void optim_fetch(Optim *o, int state, int tensor, float *host) {
    const Tensor *t = &o->table->tensors[tensor];
    const float *source = state < 0 ? o->buffers.params : o->states[state];
    size_t first = state < 0 ? 0 : owned_begin(o); /* element of the flat buffers that source begins with */
    if (o->comm->size == 1) {
        o->be->copy_to_host(o->be, host, source + t->offset, t->size * sizeof(float));
        return;
    }
    if (!o->gather_buffer)
        o->gather_buffer = checked_malloc(o->table->length * sizeof(float), "gathering a checkpoint");
    Chunk part = owned_part(o, tensor);
    if (part.begin < part.end)
        o->be->copy_to_host(o->be, o->gather_buffer + part.begin, source + (part.begin - first),
                            (part.end - part.begin) * sizeof(float));
    o->comm->gather(o->comm, o->gather_buffer, o->bounds, t->offset, t->offset + t->size);
    if (o->comm->rank == 0) memcpy(host, o->gather_buffer + t->offset, t->size * sizeof(float));
}

void optim_store(Optim *o, int state, int tensor, const float *host) {
    Chunk part = owned_part(o, tensor);
    if (part.begin >= part.end) return;
    o->be->copy_from_host(o->be, o->states[state] + (part.begin - owned_begin(o)),
                          host + (part.begin - o->table->tensors[tensor].offset),
                          (part.end - part.begin) * sizeof(float));
}
