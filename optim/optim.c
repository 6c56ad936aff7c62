/* optim.c: the sharded optimizer step (see optim.h). The arithmetic of each rule is in its own header, what a step
 * decides in step_coeffs.h, the loops are in multi_tensor.c and multi_tensor.cu, who owns what in partition.c, the tensors
 * under one rule in group.c, and what moves between processes in grad_sync.c. */
#include "optim/optim.h"

#include <stdlib.h>
#include <string.h>

#include "optim/grad_sync.h"
#include "optim/group.h"
#include "optim/tensor_plan.h"

enum { MAX_GROUPS = 2, MAX_STATES = MAX_GROUPS * RULE_MAX_STATES + 1, MAX_SCALARS = 3 };

static const char prev_grad_name[] =
    "g_last"; /* the one state that is not a rule's own: it changes place with gradients */

struct Optim {
    OptimConfig config;
    Optimizer optimizer;
    const TensorTable *table;
    OptimBuffers buffers;
    Backend *be;
    Comm *comm;
    const MultiTensorPasses *passes;
    Arena own_arena; /* of optim_open() */
    Group groups[MAX_GROUPS];
    int group_count;
    GradSync grad_sync;
    GradientBuffers whole; /* a process that is alone: whole flat buffers, which change places */
    bool exact, uses_prev_grad;
    bool held; /* exact: the gradient of this step's batch is set aside */
    ResultQueue *queue;
    int begun; /* steps that were begun and not ended */

    /* device memory, to which the step's inputs point */
    StepInputs inputs;
    TensorPlan *plans;
    GradientSums *sums; /* (exact ? 2 : 1, table->count): of the current gradient, and of the second one */

    const char *state_names[MAX_STATES], *scalar_names[MAX_SCALARS];
    int state_count, scalar_count;
    double *scalars[MAX_SCALARS];         /* (table->count) copies on the host */
    double **device_scalars[MAX_SCALARS]; /* which of the step's inputs */
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

static bool has_shards(const Group *group) { return group->options.needs_shards; }

/* Where the gradients of a group's elements lie. */
static GradientBuffers *gradients_of(Optim *o, Group *group) { return has_shards(group) ? &group->shards : &o->whole; }

static int group_of(const Optim *o, int tensor) { return o->groups[0].chosen[tensor] ? 0 : 1; }
static const Rule *rule_for(const Optim *o, int tensor) { return o->groups[group_of(o, tensor)].rule; }

/* ---- opening ---- */

static DType newton_schulz_dtype(const Optim *o) {
    if (o->config.ns_dtype == NS_DTYPE_AUTO) return o->be->activation;
    return o->config.ns_dtype == NS_DTYPE_BFLOAT16 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
}

/* Plans the group of the tensors that the main rule covers, or of those that it does not, where there are any. */
static bool plan_group(Optim *o, bool main, const double *taken, Arena *arena, Error *error) {
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
                            .needs_shards = !alone(o) && (rule_of(rule)->uses_prev_grad || o->exact),
                            .exact = o->exact,
                            .ns_steps = o->config.ns_steps,
                            .ns_type = newton_schulz_dtype(o),
                            .rank = o->comm->rank,
                            .processes = o->comm->size,
                            .bucket = o->grad_sync.bucket};
    return group_plan(&o->groups[o->group_count++], o->table, chosen, &options, taken, o->be, arena, error);
}

/* The rest fills up what the main rule's whole matrices leave uneven. */
static bool plan_groups(Optim *o, Arena *arena, Error *error) {
    double *taken = checked_calloc((size_t)o->comm->size, sizeof *taken, "the optimizer's groups");
    bool ok = plan_group(o, true, NULL, arena, error);
    for (int r = 0; r < o->comm->size && o->group_count > 0; r++) taken[r] = group_numbers_kept(&o->groups[0], r);
    ok = ok && plan_group(o, false, taken, arena, error);
    free(taken);
    return ok;
}

static void add_state_name(Optim *o, const char *name) {
    for (int s = 0; s < o->state_count; s++)
        if (strcmp(o->state_names[s], name) == 0) return;
    o->state_names[o->state_count++] = name;
}

static void list_states(Optim *o) {
    for (int i = 0; i < o->group_count; i++)
        for (int s = 0; s < o->groups[i].rule->states; s++) add_state_name(o, o->groups[i].rule->state_names[s]);
    if (o->uses_prev_grad) add_state_name(o, prev_grad_name);
}

static void add_scalars(Optim *o, const char *name, Arena *arena, double **device) {
    size_t count = (size_t)o->table->count;
    arena_plan(arena, "optimizer", name, count * sizeof **device, device);
    o->scalar_names[o->scalar_count] = name;
    o->device_scalars[o->scalar_count] = device;
    o->scalars[o->scalar_count++] = checked_calloc(count, sizeof **device, "the optimizer's numbers");
}

static void list_scalars(Optim *o, Arena *arena) {
    if (o->uses_prev_grad) {
        add_scalars(o, "g_last_factor", arena, &o->inputs.prev_factor);
        add_scalars(o, "g_last_squares", arena, &o->inputs.prev_squares);
    }
    if (o->optimizer.main == RULE_sgd_sai) add_scalars(o, "snr", arena, &o->inputs.snr);
}

/* What all groups share. */
static void plan_optim_memory(Optim *o, Arena *arena) {
    size_t whole = o->table->length * sizeof(float), count = (size_t)o->table->count;
    if (alone(o) && o->uses_prev_grad) arena_plan(arena, "optimizer", prev_grad_name, whole, &o->whole.prev_grad);
    if (alone(o) && o->exact) arena_plan(arena, "workspace", "second gradients", whole, &o->whole.next_grad);
    arena_plan(arena, "workspace", "plans of tensors", count * sizeof *o->plans, &o->plans);
    arena_plan(arena, "workspace", "numbers of tensors", count * sizeof(UpdateCoeffs), &o->inputs.coeffs);
    arena_plan(arena, "workspace", "sums of tensors", (o->exact ? 2 : 1) * count * sizeof *o->sums, &o->sums);
    arena_plan(arena, "optimizer", "outcome", sizeof(StepResult), &o->inputs.result);
}

Optim *optim_plan(const OptimConfig *config, const TensorTable *table, Backend *be, Comm *comm, Arena *arena,
                  Error *error) {
    Optim *o = checked_calloc(1, sizeof *o, "the optimizer");
    *o = (Optim){.config = *config, .table = table, .be = be, .comm = comm};
    o->passes = multi_tensor_passes(be);
    o->optimizer = rules_optimizer(config);
    o->uses_prev_grad = rule_of(o->optimizer.main)->uses_prev_grad;
    o->exact = o->uses_prev_grad && !config->is_approx;
    o->grad_sync = grad_sync_open(comm, table->length);
    if (!plan_groups(o, arena, error)) {
        optim_close(o);
        return NULL;
    }
    plan_optim_memory(o, arena);
    list_states(o);
    list_scalars(o, arena);
    return o;
}

static void copy_plans(Optim *o) {
    size_t bytes = (size_t)o->table->count * sizeof *o->plans;
    TensorPlan *plans = checked_malloc(bytes, "the optimizer's plans");
    for (int i = 0; i < o->table->count; i++) plans[i] = tensor_plan(&o->config, &o->optimizer, &o->table->tensors[i]);
    o->be->copy_from_host(o->be, o->plans, plans, bytes);
    free(plans);
}

void optim_start(Optim *o, OptimBuffers buffers) {
    StepInputs *s = &o->inputs;
    o->buffers = buffers;
    o->whole.grad = buffers.grads;
    s->tensors = o->table->count;
    s->exact = o->exact;
    s->gradient_scale = o->config.gradient_scale;
    s->grad_clip = o->config.grad_clip;
    s->eps = o->config.eps;
    s->k = tensor_plan_k(&o->config);
    s->plans = o->plans;
    s->sums = o->sums;
    copy_plans(o);
    for (int i = 0; i < o->group_count; i++) group_start(&o->groups[i], o->be);
    o->queue = o->passes->open_queue(o->be, OPTIM_MAX_STEPS);
}

Optim *optim_open(const OptimConfig *config, const TensorTable *table, OptimBuffers buffers, Backend *be, Comm *comm,
                  Error *error) {
    Arena arena = {0};
    Optim *o = optim_plan(config, table, be, comm, &arena, error);
    if (!o) return NULL;
    arena_allocate(&arena, backend_memory(be));
    o->own_arena = arena;
    optim_start(o, buffers);
    return o;
}

void optim_close(Optim *o) {
    if (o->queue) o->passes->close_queue(o->be, o->queue);
    for (int i = 0; i < o->group_count; i++) group_close(&o->groups[i]);
    for (int i = 0; i < o->scalar_count; i++) free(o->scalars[i]);
    grad_sync_close(&o->grad_sync);
    arena_free(&o->own_arena);
    free(o);
}

/* ---- a step ---- */

OptimRates optim_rates(const OptimConfig *config, const ScheduleConfig *schedule, int64_t step) {
    return (OptimRates){schedule_rate(schedule, config->learning_rate, step),
                        schedule_rate(schedule, config->muon_learning_rate, step)};
}

bool optim_wants_next_gradient(const Optim *o) { return o->exact; }

float *optim_gradients(const Optim *o) { return alone(o) && o->held ? o->whole.next_grad : o->whole.grad; }

void optim_gradient_ready(Optim *o, size_t from) {
    if (!alone(o)) grad_sync_gradient_ready(&o->grad_sync, o->groups, o->group_count, o->whole.grad, o->held, from);
}

/* Sums the processes' gradients in their owners: today's, or the second one. */
static void finish_gradient(Optim *o) {
    if (!alone(o)) grad_sync_finish_gradient(&o->grad_sync, o->groups, o->group_count, o->whole.grad, o->held);
}

void optim_hold_gradient(Optim *o) {
    if (!o->exact) die("optim_hold_gradient: only exact MARS takes a second gradient");
    finish_gradient(o);
    o->held = true;
}

/* sums[i] of tensor i's reduced gradient, and in the exact form sums[count + i] of the second one, on every process. */
static void sum_gradients(Optim *o) {
    int count = o->table->count, kinds = o->exact ? 2 : 1;
    const StepResult *sum_at_first = o->inputs.snr ? o->inputs.result : NULL;
    for (int i = 0; i < o->group_count; i++) {
        Group *group = &o->groups[i];
        const GradientBuffers *g = gradients_of(o, group);
        group_sums(group, o->be, g->grad, group->rule->uses_prev_grad ? g->prev_grad : NULL, sum_at_first, o->sums);
        if (o->exact) group_sums(group, o->be, g->next_grad, NULL, NULL, o->sums + count);
    }
    o->comm->sum_on_device(o->comm, (double *)o->sums, kinds * count * (int)(sizeof *o->sums / sizeof(double)));
    o->comm->wait_for(o->comm, o->comm->enqueued(o->comm));
}

/* What was the current gradient, or the second one, is the next step's g_prev. */
static void exchange(GradientBuffers *g, bool exact) {
    float **newest = exact ? &g->next_grad : &g->grad, *old = g->prev_grad;
    g->prev_grad = *newest;
    *newest = old;
}

/* Buffers change places also where the device finds that the step is skipped, as the host does not know. */
static void keep_prev_grads(Optim *o) {
    for (int i = 0; i < o->group_count; i++) {
        const GradientBuffers *g = gradients_of(o, &o->groups[i]);
        if (o->groups[i].rule->uses_prev_grad)
            group_keep_prev_grad(&o->groups[i], o->be, o->exact ? g->next_grad : g->grad, g->prev_grad,
                                 o->inputs.result);
    }
    if (alone(o)) exchange(&o->whole, o->exact);
    for (int i = 0; i < o->group_count; i++)
        if (o->groups[i].shards.prev_grad) exchange(&o->groups[i].shards, o->exact);
}

static void update_groups(Optim *o) {
    for (int i = 0; i < o->group_count; i++) {
        const GradientBuffers *g = gradients_of(o, &o->groups[i]);
        MultiTensorBuffers buffers = {.params = o->buffers.params,
                                      .weights = has_copy(o) ? o->buffers.weights : NULL,
                                      .gradient = g->grad,
                                      .prev_grad = g->prev_grad,
                                      .coeffs = o->inputs.coeffs,
                                      .result = o->inputs.result};
        group_update(&o->groups[i], o->be, buffers);
    }
}

void optim_begin_step(Optim *o, OptimRates rates) {
    if (o->exact && !o->held) die("optim_begin_step: exact MARS needs two gradients; see optim.h");
    if (o->begun == OPTIM_MAX_STEPS) die("optim_begin_step: %d steps are begun and not ended", o->begun);
    finish_gradient(o);
    o->held = false;
    sum_gradients(o);
    o->inputs.learning_rate = rates.learning_rate;
    o->inputs.muon_learning_rate = rates.muon_learning_rate;
    o->passes->step_coeffs(o->be, &o->inputs);
    update_groups(o);
    if (o->uses_prev_grad) keep_prev_grads(o);
    o->passes->send(o->be, o->queue, o->inputs.result);
    o->begun++;
    if (!alone(o))
        grad_sync_gather(&o->grad_sync, o->groups, o->group_count, o->buffers.weights,
                         has_copy(o) ? dtype_size(o->be->activation) : sizeof(float));
    o->be->invalidate_weights(o->be);
}

OptimResult optim_end_step(Optim *o) {
    if (o->begun == 0) die("optim_end_step: no step is begun");
    o->begun--;
    StepResult result = o->passes->receive(o->be, o->queue);
    return (OptimResult){result.grad_norm, result.nonfinite_tensor, result.of_next_batch};
}

void optim_wait_for_weights(Optim *o, size_t begin, size_t end) {
    if (!alone(o)) grad_sync_wait_for_weights(&o->grad_sync, begin, end);
}

OptimResult optim_step(Optim *o, OptimRates rates) {
    if (o->begun > 0) die("optim_step: a step is begun and not ended");
    optim_begin_step(o, rates);
    OptimResult result = optim_end_step(o);
    optim_wait_for_weights(o, 0, o->table->length);
    return result;
}

void optim_autotune(Optim *o) {
    for (int i = 0; i < o->group_count; i++) group_autotune(&o->groups[i]);
}

int64_t optim_updates(const Optim *o) {
    StepResult result;
    o->be->copy_to_host(o->be, &result, o->inputs.result, sizeof result);
    return result.updates;
}

void optim_set_updates(Optim *o, int64_t updates) {
    StepResult result = {.updates = updates};
    o->be->copy_from_host(o->be, o->inputs.result, &result, sizeof result);
}

/* ---- state in and out ---- */

int optim_state_count(const Optim *o) { return o->state_count; }
const char *const *optim_state_names(const Optim *o) { return o->state_names; }
int optim_scalar_count(const Optim *o) { return o->scalar_count; }
const char *const *optim_scalar_names(const Optim *o) { return o->scalar_names; }

double *const *optim_scalars(Optim *o) {
    size_t bytes = (size_t)o->table->count * sizeof(double);
    for (int i = 0; i < o->scalar_count; i++) o->be->copy_to_host(o->be, o->scalars[i], *o->device_scalars[i], bytes);
    return o->scalars;
}

void optim_store_scalars(Optim *o, int kind, const double *values) {
    o->be->copy_from_host(o->be, *o->device_scalars[kind], values, (size_t)o->table->count * sizeof *values);
}

bool optim_has_state(const Optim *o, int state, int tensor) {
    const Rule *rule = rule_for(o, tensor);
    if (strcmp(o->state_names[state], prev_grad_name) == 0) return rule->uses_prev_grad;
    for (int s = 0; s < rule->states; s++)
        if (strcmp(rule->state_names[s], o->state_names[state]) == 0) return true;
    return false;
}

/* The first element of one of this process's parts in a state's buffer, or for state -1 in the master weights. */
static float *part_in(Optim *o, Group *group, int state, const Part *part) {
    if (state < 0) return o->buffers.params + part->begin;
    if (strcmp(o->state_names[state], prev_grad_name) == 0)
        return gradients_of(o, group)->prev_grad + (has_shards(group) ? part->at : part->begin);
    for (int s = 0; s < group->rule->states; s++)
        if (strcmp(group->rule->state_names[s], o->state_names[state]) == 0) return group->states[s] + part->at;
    die("tensors of this rule have no state %s", o->state_names[state]);
}

static bool is_inside(const Part *part, const Tensor *t) {
    return part->begin >= t->offset && part->begin < t->offset + t->size;
}

void optim_fetch(Optim *o, int state, int tensor, float *host) {
    optim_wait_for_weights(o, 0, o->table->length);
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
            o->comm->send_to_root(o->comm, r, to, n);
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

/* g_prev and the gradients after it are whole buffers in a process that is alone, shards otherwise. */
static size_t gradient_buffer_bytes(const Optim *o, const Group *group) {
    return (alone(o) ? o->table->length : group->shard_length) * sizeof(float);
}

size_t optim_state_bytes(const Optim *o) {
    size_t bytes = alone(o) && o->uses_prev_grad ? gradient_buffer_bytes(o, &o->groups[0]) : 0;
    for (int i = 0; i < o->group_count; i++) {
        const Group *group = &o->groups[i];
        bytes += (size_t)group->rule->states * group->shard_length * sizeof(float);
        if (has_shards(group) && group->rule->uses_prev_grad) bytes += gradient_buffer_bytes(o, group);
    }
    return bytes;
}

size_t optim_workspace_bytes(const Optim *o) {
    size_t bytes = alone(o) && o->exact ? gradient_buffer_bytes(o, &o->groups[0]) : 0;
    for (int i = 0; i < o->group_count; i++) {
        const Group *group = &o->groups[i];
        if (has_shards(group)) bytes += gradient_buffer_bytes(o, group) * (o->exact ? 2 : 1);
        if (group->newton_schulz) bytes += newton_schulz_bytes(group->newton_schulz);
    }
    return bytes;
}

size_t optim_exact_bytes(const Optim *o) {
    if (!o->exact) return 0;
    size_t bytes = alone(o) ? gradient_buffer_bytes(o, &o->groups[0]) : 0;
    for (int i = 0; i < o->group_count; i++) {
        const Group *group = &o->groups[i];
        if (has_shards(group)) bytes += gradient_buffer_bytes(o, group) * (group->rule->uses_prev_grad ? 1 : 2);
    }
    return bytes;
}
