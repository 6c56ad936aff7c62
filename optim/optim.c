/* optim.c: the sharded optimizer step (see optim.h). The arithmetic of each rule is in its own header, the loops are in
 * multi_tensor.c, who owns what in partition.c, and the tensors under one rule in group.c. */
#include "optim/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/group.h"

enum { MAX_GROUPS = 2, MAX_STATES = MAX_GROUPS * RULE_MAX_STATES + 1, MAX_SCALARS = 3 };

static const char last_name[] = "g_last"; /* the one state that is not a rule's own: it changes place with gradients */

struct Optim {
    OptimConfig config;
    Optimizer optimizer;
    const TensorTable *table;
    OptimBuffers buffers;
    Backend *be;
    Comm *comm;
    Group groups[MAX_GROUPS];
    int group_count;
    GradientBuffers whole; /* a process that is alone: whole flat buffers, which change places */
    float *own_buffers[2]; /* those of them that were allocated here */
    bool exact, uses_last;
    bool held;            /* exact: the gradient of this step's batch is set aside */
    GradientSums *sums;   /* (2, table->count): of today's gradient, and of the second one */
    RuleNumbers *numbers; /* (table->count) */
    int64_t updates;

    const char *state_names[MAX_STATES], *scalar_names[MAX_SCALARS];
    int state_count, scalar_count;
    double *last_factor, *last_squares; /* (table->count) mars.h: gradient_factor and ||g_last||^2 of g_last */
    double *snr;                        /* (table->count) sgd_sai.h */
    double *scalars[MAX_SCALARS];       /* those that are in use, of the above */
};

#define OPTIM_NAME(name, text) [OPTIM_##name] = text,
const char *const optim_names[] = {OPTIMIZERS(OPTIM_NAME)[OPTIM_COUNT] = NULL};

OptimName optim_find(const char *name) {
    if (strcmp(name, OPTIM_SGD_SAI_ALIAS) == 0) return OPTIM_SGD_SAI;
    int found = 0;
    while (found < OPTIM_COUNT && strcmp(name, optim_names[found]) != 0) found++;
    return (OptimName)found;
}

OptimConfig optim_defaults(OptimName name, double learning_rate) {
    return (OptimConfig){.name = name,
                         .learning_rate = learning_rate,
                         .weight_decay = 0.1,
                         .beta1 = 0.9,
                         .beta2 = 0.95,
                         .eps = 1e-8,
                         .grad_clip = 1.0,
                         .gradient_scale = 1.0,
                         .gamma = 0.025,
                         .is_approx = true,
                         .lr_1d = learning_rate,
                         .betas_1d = {0.9, 0.95},
                         .weight_decay_1d = 0.1,
                         .muon_learning_rate = learning_rate,
                         .momentum = name == OPTIM_SGD_SAI ? 0.9 : 0.95,
                         .nesterov = true,
                         .ns_steps = 5};
}

static bool alone(const Optim *o) { return o->comm->size == 1; }
static bool has_copy(const Optim *o) { return o->buffers.weights != (void *)o->buffers.params; }

/* Where the gradients of a group's elements lie. */
static GradientBuffers *gradients_of(Optim *o, Group *group) { return group->shards.now ? &group->shards : &o->whole; }

static int group_of(const Optim *o, int tensor) { return o->groups[0].chosen[tensor] ? 0 : 1; }
static const Rule *rule_for(const Optim *o, int tensor) { return o->groups[group_of(o, tensor)].rule; }

/* ---- opening ---- */

static DType newton_schulz_dtype(const Optim *o) {
    if (o->config.ns_dtype == NS_DTYPE_AUTO) return o->be->activation;
    return o->config.ns_dtype == NS_DTYPE_BFLOAT16 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
}

/* Opens the group of the tensors that the main rule covers, or of those that it does not, where there are any. */
static bool open_group(Optim *o, bool main, const double *taken, Error *error) {
    int count = 0;
    bool *chosen = checked_calloc((size_t)o->table->count, sizeof *chosen, "the optimizer's groups");
    for (int i = 0; i < o->table->count; i++)
        count += chosen[i] = o->optimizer.covers[o->table->tensors[i].role] == main;
    if (count == 0) {
        free(chosen);
        return true;
    }
    RuleName rule = main ? o->optimizer.main : o->optimizer.rest;
    GroupOptions options = {.rule = rule,
                            .needs_shards = !alone(o) && (rule_of(rule)->uses_last || o->exact),
                            .exact = o->exact,
                            .ns_steps = o->config.ns_steps,
                            .ns_type = newton_schulz_dtype(o),
                            .taken = taken,
                            .rank = o->comm->rank,
                            .processes = o->comm->size};
    return group_open(&o->groups[o->group_count++], o->table, chosen, &options, o->be, error);
}

/* The rest fills up what the main rule's whole matrices leave uneven. */
static bool open_groups(Optim *o, Error *error) {
    double *taken = checked_calloc((size_t)o->comm->size, sizeof *taken, "the optimizer's groups");
    bool good = open_group(o, true, NULL, error);
    for (int r = 0; r < o->comm->size && o->group_count > 0; r++) taken[r] = group_numbers_kept(&o->groups[0], r);
    good = good && open_group(o, false, taken, error);
    free(taken);
    return good;
}

static float *whole_buffer(const Optim *o) {
    return o->be->alloc(o->be, o->table->length * sizeof(float), "the optimizer's gradients");
}

static void add_state_name(Optim *o, const char *name) {
    for (int s = 0; s < o->state_count; s++)
        if (strcmp(o->state_names[s], name) == 0) return;
    o->state_names[o->state_count++] = name;
}

static void list_states(Optim *o) {
    for (int i = 0; i < o->group_count; i++)
        for (int s = 0; s < o->groups[i].rule->states; s++) add_state_name(o, o->groups[i].rule->state_names[s]);
    if (o->uses_last) add_state_name(o, last_name);
}

static double *add_scalars(Optim *o, const char *name) {
    o->scalar_names[o->scalar_count] = name;
    double *scalars = checked_calloc((size_t)o->table->count, sizeof *scalars, "the optimizer's numbers");
    return o->scalars[o->scalar_count++] = scalars;
}

static void list_scalars(Optim *o) {
    if (o->uses_last) {
        o->last_factor = add_scalars(o, "g_last_factor");
        o->last_squares = add_scalars(o, "g_last_squares");
    }
    if (o->optimizer.main == RULE_sgd_sai) o->snr = add_scalars(o, "snr");
}

Optim *optim_open(const OptimConfig *config, const TensorTable *table, OptimBuffers buffers, Backend *be, Comm *comm,
                  Error *error) {
    Optim *o = checked_calloc(1, sizeof *o, "the optimizer");
    *o = (Optim){.config = *config, .table = table, .buffers = buffers, .be = be, .comm = comm};
    o->optimizer = rules_optimizer(config);
    o->uses_last = rule_of(o->optimizer.main)->uses_last;
    o->exact = o->uses_last && !config->is_approx;
    o->whole.now = buffers.grads;
    if (alone(o) && o->uses_last) o->whole.last = o->own_buffers[0] = whole_buffer(o);
    if (alone(o) && o->exact) o->whole.next = o->own_buffers[1] = whole_buffer(o);
    o->sums = checked_calloc(2 * (size_t)table->count, sizeof *o->sums, "the optimizer's sums");
    o->numbers = checked_calloc((size_t)table->count, sizeof *o->numbers, "the optimizer's numbers");
    if (!open_groups(o, error)) {
        optim_close(o);
        return NULL;
    }
    list_states(o);
    list_scalars(o);
    return o;
}

void optim_close(Optim *o) {
    for (int i = 0; i < o->group_count; i++) group_close(&o->groups[i], o->be);
    for (int i = 0; i < 2; i++) o->be->free(o->be, o->own_buffers[i]);
    for (int i = 0; i < o->scalar_count; i++) free(o->scalars[i]);
    free(o->numbers);
    free(o->sums);
    free(o);
}

/* ---- a step ---- */

OptimRates optim_rates(const OptimConfig *config, const ScheduleConfig *schedule, int64_t step) {
    return (OptimRates){schedule_rate(schedule, config->learning_rate, step),
                        schedule_rate(schedule, config->muon_learning_rate, step)};
}

bool optim_wants_next_gradient(const Optim *o) { return o->exact; }

float *optim_gradients(const Optim *o) { return alone(o) && o->held ? o->whole.next : o->whole.now; }

/* Sums the processes' gradients in their owners: today's, or the second one. */
static void reduce(Optim *o, bool second) {
    for (int i = 0; i < o->group_count; i++) {
        Group *group = &o->groups[i];
        o->comm->reduce_scatter(o->comm, o->whole.now, &group->partition,
                                second ? group->shards.next : group->shards.now);
    }
}

void optim_hold_gradient(Optim *o) {
    if (!o->exact) die("optim_hold_gradient: only exact MARS takes a second gradient");
    if (!alone(o)) reduce(o, false);
    o->held = true;
}

/* sums[i] of tensor i's reduced gradient, and in the exact form sums[count + i] of the second one, on every process. */
static void sum_gradients(Optim *o) {
    int count = o->table->count, kinds = o->exact ? 2 : 1;
    bool with_sum = o->snr && o->updates == 0;
    memset(o->sums, 0, (size_t)(kinds * count) * sizeof *o->sums);
    for (int i = 0; i < o->group_count; i++) {
        Group *group = &o->groups[i];
        const GradientBuffers *g = gradients_of(o, group);
        group_sums(group, o->be, g->now, group->rule->uses_last ? g->last : NULL, with_sum, o->sums);
        if (o->exact) group_sums(group, o->be, g->next, NULL, false, o->sums + count);
    }
    o->comm->sum(o->comm, (double *)o->sums, kinds * count * (int)(sizeof *o->sums / sizeof(double)));
}

/* The norm of a gradient that has these sums, one for each tensor. */
static OptimResult gradient_norm(const Optim *o, const GradientSums *sums) {
    double total = 0.0;
    for (int i = 0; i < o->table->count; i++) {
        if (!isfinite(sums[i].squares)) return (OptimResult){.grad_norm = INFINITY, .nonfinite_tensor = i};
        total += sums[i].squares;
    }
    return (OptimResult){.grad_norm = sqrt(total) * o->config.gradient_scale, .nonfinite_tensor = -1};
}

/* gradient_scale times the clip. The largest norm is 1 as torch.nn.utils.clip_grad_norm_ counts it, with 1e-6 added to
 * the norm. */
static double gradient_factor(const Optim *o, double norm) {
    double clip = o->config.grad_clip > 0.0 ? fmin(1.0, o->config.grad_clip / (norm + 1e-6)) : 1.0;
    return o->config.gradient_scale * clip;
}

/* At the first step (sgd_sai.h). */
static void set_snr(Optim *o, double factor) {
    for (int i = 0; i < o->table->count; i++) {
        double n = (double)o->table->tensors[i].size, sum = o->sums[i].sum, squares = o->sums[i].squares;
        double spread = n > 1.0 ? sqrt(fmax(0.0, (squares - sum * sum / n) / (n - 1.0))) : 0.0;
        o->snr[i] = n > 1.0 ? factor * sqrt(squares) / (factor * spread + o->config.eps) : 1.0;
    }
}

/* mars.h: k, and the clip of tensor i's c, whose norm follows from the sums. */
static void set_correction(const Optim *o, RuleNumbers *r, int i, double factor) {
    double k = o->config.gamma * o->config.beta1 / (1.0 - o->config.beta1), last = o->last_factor[i];
    double squares = (1.0 + k) * (1.0 + k) * factor * factor * o->sums[i].squares -
                     2.0 * k * (1.0 + k) * factor * last * o->sums[i].product + k * k * o->last_squares[i];
    double norm = sqrt(fmax(0.0, squares));
    r->k = (float)k;
    r->c_factor = norm > 1.0 ? (float)(1.0 / norm) : 1.0f;
    r->last_factor = (float)last;
}

/* The corrections are those of the betas as floats, with which averages are made: 1 - 0.99999f is 0.14 % too large. */
static void set_betas(RuleNumbers *r, double beta1, double beta2, int64_t updates) {
    r->beta1 = (float)beta1;
    r->beta2 = (float)beta2;
    r->correction1 = (float)(1.0 / (1.0 - pow(r->beta1, (double)updates)));
    r->correction2 = (float)(1.0 / (1.0 - pow(r->beta2, (double)updates)));
}

/* Rate, decay and betas of a tensor that the main rule covers, or that follows it in all numbers. */
static void set_main_numbers(const Optim *o, RuleNumbers *r, int i, OptimRates rates) {
    const OptimConfig *c = &o->config;
    const Tensor *t = &o->table->tensors[i];
    bool own_rate = o->optimizer.has_own_rate;
    double rate = own_rate ? rates.muon_learning_rate : rates.learning_rate;
    double decay = own_rate ? c->muon_weight_decay : t->role == ROLE_MATRIX ? c->weight_decay : 0.0;
    const Rule *rule = rule_of(o->optimizer.main);
    r->learning_rate = (float)rate;
    r->weight_decay = (float)decay;
    r->momentum = o->snr && o->updates == 1 ? 0.0f : (float)c->momentum; /* this is the first update */
    r->nesterov = c->nesterov;
    r->gamma = (float)c->gamma;
    if (o->snr) r->snr = (float)o->snr[i];
    if (rule->is_matrix) r->step = (float)(rate * rule->step_factor((double)t->rows, (double)t->columns));
    set_betas(r, c->beta1, c->beta2, o->updates);
}

/* The same where another rule than the main one is for the tensor (rules.h). */
static void set_rest_numbers(const Optim *o, RuleNumbers *r, int i, OptimRates rates) {
    const OptimConfig *c = &o->config;
    RestNumbers from = o->optimizer.rest_numbers;
    if (from == REST_AS_MAIN) {
        set_main_numbers(o, r, i, rates);
        return;
    }
    double share = from == REST_AS_MARS ? c->lr_1d / c->learning_rate : 1.0;
    r->learning_rate = (float)(share * rates.learning_rate);
    r->weight_decay = (float)(from == REST_AS_MARS ? c->weight_decay_1d : c->weight_decay);
    bool own_betas = from != REST_AS_MUON;
    set_betas(r, own_betas ? c->betas_1d[0] : c->beta1, own_betas ? c->betas_1d[1] : c->beta2, o->updates);
}

static void set_numbers(Optim *o, OptimRates rates, double factor) {
    for (int i = 0; i < o->table->count; i++) {
        RuleNumbers *r = &o->numbers[i];
        *r = (RuleNumbers){.gradient_factor = (float)factor, .eps = (float)o->config.eps};
        if (o->optimizer.covers[o->table->tensors[i].role])
            set_main_numbers(o, r, i, rates);
        else
            set_rest_numbers(o, r, i, rates);
        if (rule_for(o, i)->uses_last) set_correction(o, r, i, factor);
    }
}

/* What was today's gradient, or the second one, is the next step's g_last. */
static void exchange(GradientBuffers *g, bool exact) {
    float **newest = exact ? &g->next : &g->now, *old = g->last;
    g->last = *newest;
    *newest = old;
}

static void keep_last(Optim *o, double factor) {
    const GradientSums *sums = o->exact ? o->sums + o->table->count : o->sums;
    for (int i = 0; i < o->table->count; i++) {
        if (!rule_for(o, i)->uses_last) continue;
        o->last_factor[i] = factor;
        o->last_squares[i] = factor * factor * sums[i].squares;
    }
    if (alone(o)) exchange(&o->whole, o->exact);
    for (int i = 0; i < o->group_count; i++)
        if (o->groups[i].shards.last) exchange(&o->groups[i].shards, o->exact);
}

static void update(Optim *o) {
    for (int i = 0; i < o->group_count; i++) {
        const GradientBuffers *g = gradients_of(o, &o->groups[i]);
        MultiTensorBuffers buffers = {.params = o->buffers.params,
                                      .weights = has_copy(o) ? o->buffers.weights : NULL,
                                      .gradient = g->now,
                                      .last = g->last};
        group_update(&o->groups[i], o->be, buffers, o->numbers);
    }
}

static void gather_weights(Optim *o) {
    size_t size = has_copy(o) ? dtype_size(o->be->activation) : sizeof(float);
    for (int i = 0; i < o->group_count; i++)
        o->comm->all_gather(o->comm, o->buffers.weights, size, &o->groups[i].partition);
    o->be->weights_changed(o->be);
}

OptimResult optim_step(Optim *o, OptimRates rates) {
    if (o->exact && !o->held) die("optim_step: exact MARS needs two gradients; see optim.h");
    reduce(o, o->exact);
    o->held = false;
    sum_gradients(o);
    OptimResult result = gradient_norm(o, o->sums), second = {.nonfinite_tensor = -1};
    if (o->exact) second = gradient_norm(o, o->sums + o->table->count);
    result.of_next_batch = result.nonfinite_tensor < 0 && second.nonfinite_tensor >= 0;
    if (result.of_next_batch) result.nonfinite_tensor = second.nonfinite_tensor;
    if (result.nonfinite_tensor >= 0) return result;
    double factor = gradient_factor(o, result.grad_norm);
    if (o->snr && o->updates == 0) set_snr(o, factor);
    o->updates++;
    set_numbers(o, rates, factor);
    update(o);
    if (o->uses_last) keep_last(o, o->exact ? gradient_factor(o, second.grad_norm) : factor);
    gather_weights(o);
    return result;
}

int64_t optim_updates(const Optim *o) { return o->updates; }
void optim_set_updates(Optim *o, int64_t updates) { o->updates = updates; }

/* ---- state in and out ---- */

int optim_state_count(const Optim *o) { return o->state_count; }
const char *const *optim_state_names(const Optim *o) { return o->state_names; }
int optim_scalar_count(const Optim *o) { return o->scalar_count; }
const char *const *optim_scalar_names(const Optim *o) { return o->scalar_names; }
double *const *optim_scalars(Optim *o) { return o->scalars; }

bool optim_has_state(const Optim *o, int state, int tensor) {
    const Rule *rule = rule_for(o, tensor);
    if (strcmp(o->state_names[state], last_name) == 0) return rule->uses_last;
    for (int s = 0; s < rule->states; s++)
        if (strcmp(rule->state_names[s], o->state_names[state]) == 0) return true;
    return false;
}

/* The first element of one of this process's parts in a state's buffer, or for state -1 in the master weights. */
static float *part_in(Optim *o, Group *group, int state, const Part *part) {
    if (state < 0) return o->buffers.params + part->begin;
    if (strcmp(o->state_names[state], last_name) == 0)
        return gradients_of(o, group)->last + (group->shards.now ? part->at : part->begin);
    for (int s = 0; s < group->rule->states; s++)
        if (strcmp(group->rule->state_names[s], o->state_names[state]) == 0) return group->states[s] + part->at;
    die("tensors of this rule have no state %s", o->state_names[state]);
}

static bool is_inside(const Part *part, const Tensor *t) {
    return part->begin >= t->offset && part->begin < t->offset + t->size;
}

void optim_fetch(Optim *o, int state, int tensor, float *host) {
    const Tensor *t = &o->table->tensors[tensor];
    Group *group = &o->groups[group_of(o, tensor)];
    const Partition *p = &group->partition;
    for (int r = 0; r < o->comm->size; r++)
        for (int i = p->first[r]; i < p->first[r + 1]; i++) {
            const Part *part = &p->parts[i];
            size_t n = part->end - part->begin;
            if (!is_inside(part, t)) continue;
            bool owner = r == o->comm->rank, writer = o->comm->rank == 0;
            float *to = writer  ? host + (part->begin - t->offset)
                        : owner ? checked_malloc(n * sizeof *to, "a tensor to save")
                                : NULL;
            if (owner) o->be->copy_to_host(o->be, to, part_in(o, group, state, part), n * sizeof *to);
            o->comm->collect(o->comm, r, to, n);
            if (!writer) free(to);
        }
}

void optim_store(Optim *o, int state, int tensor, const float *host) {
    const Tensor *t = &o->table->tensors[tensor];
    Group *group = &o->groups[group_of(o, tensor)];
    const Partition *p = &group->partition;
    for (int i = p->first[o->comm->rank]; i < p->first[o->comm->rank + 1]; i++)
        if (is_inside(&p->parts[i], t))
            o->be->copy_from_host(o->be, part_in(o, group, state, &p->parts[i]), host + (p->parts[i].begin - t->offset),
                                  (p->parts[i].end - p->parts[i].begin) * sizeof(float));
}

/* g_last and the gradients behind it are whole buffers in a process that is alone, shards otherwise. */
static size_t gradient_buffer_bytes(const Optim *o, const Group *group) {
    return (alone(o) ? o->table->length : group->shard_length) * sizeof(float);
}

size_t optim_state_bytes(const Optim *o) {
    size_t bytes = o->whole.last ? gradient_buffer_bytes(o, &o->groups[0]) : 0;
    for (int i = 0; i < o->group_count; i++) {
        const Group *group = &o->groups[i];
        bytes += (size_t)group->rule->states * group->shard_length * sizeof(float);
        if (group->shards.last) bytes += gradient_buffer_bytes(o, group);
    }
    return bytes;
}

size_t optim_workspace_bytes(const Optim *o) {
    size_t bytes = o->whole.next ? gradient_buffer_bytes(o, &o->groups[0]) : 0;
    for (int i = 0; i < o->group_count; i++) {
        const Group *group = &o->groups[i];
        if (group->shards.now) bytes += gradient_buffer_bytes(o, group);
        if (group->shards.next) bytes += gradient_buffer_bytes(o, group);
        if (group->newton_schulz) bytes += newton_schulz_bytes(group->newton_schulz);
    }
    return bytes;
}

size_t optim_exact_bytes(const Optim *o) {
    size_t bytes = o->whole.next ? gradient_buffer_bytes(o, &o->groups[0]) : 0;
    for (int i = 0; i < o->group_count && o->exact; i++) {
        const Group *group = &o->groups[i];
        if (group->shards.next) bytes += gradient_buffer_bytes(o, group) * (group->rule->uses_last ? 1 : 2);
    }
    return bytes;
}
