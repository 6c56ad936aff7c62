/* optim.c: the sharded optimizer step (see optim.h). The arithmetic of each rule is in its own header, the coefficients
 * of a step in step_coeffs.h, the loops in multi_tensor.c and multi_tensor.cu, the ownership of elements in
 * util/partition.c, the tensors under one rule in rule_groups.c, and the exchanges between ranks in grad_sync.c. */
#include "optim/optim.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/backend.h"
#include "optim/grad_sync.h"
#include "optim/optimizer_keys.h"
#include "optim/rule_groups.h"
#include "optim/schedule.h"
#include "util/arena.h"
#include "util/tensor_table.h"

/* The objects that optim_open() makes for a program that has no buffers of its own. */
typedef struct OptimOwn {
    TensorTable table;
    Backend *be;
    Comm *comm;
    Arena arena;
    OptimBuffers buffers;
} OptimOwn;

struct Optim {
    OptimConfig config;
    OptimInfo info;
    const TensorTable *table;
    OptimBuffers buffers;
    Backend *be;
    Comm *comm;
    const MultiTensorPasses *passes;
    OptimOwn *own;
    RuleGroup groups[RULE_COUNT]; /* one for each rule that updates a tensor */
    int group_count;
    GradSync grad_sync;
    /* grad: the flat buffer that backward passes write; prev_grad and next_grad: flat buffers in a job of one rank,
     * else NULL */
    GradientBuffers whole;
    bool exact, uses_prev_grad;
    int gradient; /* which one of the step has begun */
    ResultQueue *queue;
    int enqueued; /* steps whose results were not taken */

    /* device memory, to which the step's inputs point */
    StepInputs inputs;
    TensorPlan *plans;
    GradientSums *sums; /* (info.gradients, table->count): of the current gradient, and of the second one */

    /* of optim_plan_norms(); else NULL */
    OptimNorms norms;
    UpdateSums *update_sums; /* (table->count) device memory */
    bool has_norms;          /* the step that was enqueued last measures them */

    bool plans_ema, has_ema; /* there is room for an average of the weights; and it has begun */
    bool shows_ema;          /* between optim_show_ema() and optim_hide_ema() */

    double **device_scalars[OPTIM_MAX_SCALARS]; /* the fields of `inputs` that point to them */
};

static bool alone(const Optim *o) { return o->comm->size == 1; }
static bool has_copy(const Optim *o) { return o->buffers.weights != (void *)o->buffers.params; }

static bool has_shards(const RuleGroup *group) { return group->options.needs_shards; }

/* Returns the buffers with the gradients of a group's elements. */
static GradientBuffers *gradients_of(Optim *o, RuleGroup *group) {
    return has_shards(group) ? &group->shards : &o->whole;
}

static int group_of(const Optim *o, int tensor) {
    int i = 0;
    while (!o->groups[i].chosen[tensor]) i++;
    return i;
}

/* ---- opening ---- */

static DType newton_schulz_dtype(const Optim *o) {
    if (o->config.ns_dtype == NS_DTYPE_AUTO) return o->be->activation;
    return o->config.ns_dtype == NS_DTYPE_BFLOAT16 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
}

/* Plans the RuleGroup of the tensors that a rule updates, if there are any. taken[r] counts the elements of state that
 * rank r keeps in the groups planned before; an elementwise group gives more to ranks that keep fewer. */
static bool plan_group(Optim *o, RuleName rule, double *taken, Arena *arena, Error *error) {
    int count = 0;
    bool *chosen = checked_calloc((size_t)o->table->count, sizeof *chosen, "the optimizer's groups");
    for (int i = 0; i < o->table->count; i++)
        count += chosen[i] = rule_of_role(&o->config, o->table->tensors[i].role) == rule;
    if (count == 0) {
        free(chosen);
        return true;
    }
    RuleGroupOptions options = {.rule = rule,
                                .needs_shards = !alone(o) && (rule_of(rule)->uses_prev_grad || o->exact),
                                .exact = o->exact,
                                .cautious = o->config.cautious_weight_decay,
                                .ns_coefficients = o->config.ns_coefficients,
                                .ns_steps = ns_steps_of(&o->config),
                                .ns_type = newton_schulz_dtype(o),
                                .split_qkv = o->config.split_qkv,
                                .rank = o->comm->rank,
                                .ranks = o->comm->size,
                                .bucket = o->grad_sync.bucket};
    RuleGroup *group = &o->groups[o->group_count++];
    if (!rule_group_plan(group, o->table, chosen, &options, taken, o->be, arena, error)) return false;
    for (int r = 0; r < o->comm->size; r++) taken[r] += rule_group_elements_kept(group, r);
    return true;
}

/* Matrix rules first: the elementwise ones even out the state of ranks. */
static bool plan_groups(Optim *o, Arena *arena, Error *error) {
    double *taken = checked_calloc((size_t)o->comm->size, sizeof *taken, "the optimizer's groups");
    bool ok = true;
    for (int is_matrix = 1; is_matrix >= 0; is_matrix--)
        for (int rule = 0; rule < RULE_COUNT && ok; rule++)
            if (rule_of((RuleName)rule)->is_matrix == is_matrix)
                ok = plan_group(o, (RuleName)rule, taken, arena, error);
    free(taken);
    return ok;
}

static void add_state_name(OptimInfo *info, const char *name) {
    for (int s = 0; s < info->state_count; s++)
        if (strcmp(info->state_names[s], name) == 0) return;
    assert(info->state_count < OPTIM_MAX_STATES);
    info->state_names[info->state_count++] = name;
}

static void list_states(Optim *o) {
    for (int i = 0; i < o->group_count; i++) {
        const Rule *rule = o->groups[i].rule;
        for (int s = 0; s < rule_state_count(rule); s++) add_state_name(&o->info, rule->state_names[s]);
    }
    if (o->uses_prev_grad) add_state_name(&o->info, PREV_GRAD_STATE);
}

static void add_scalars(Optim *o, const char *name, Arena *arena, double **device) {
    arena_plan(arena, "optimizer", name, (size_t)o->table->count * sizeof **device, device);
    assert(o->info.scalar_count < OPTIM_MAX_SCALARS);
    o->device_scalars[o->info.scalar_count] = device;
    o->info.scalar_names[o->info.scalar_count++] = name;
}

static void list_scalars(Optim *o, Arena *arena) {
    bool uses_snr = false;
    for (int i = 0; i < o->group_count; i++) uses_snr = uses_snr || o->groups[i].rule->uses_snr;
    if (o->uses_prev_grad) {
        add_scalars(o, PREV_GRAD_STATE "_factor", arena, &o->inputs.prev_factor);
        add_scalars(o, PREV_GRAD_STATE "_squares", arena, &o->inputs.prev_squares);
    }
    if (uses_snr) add_scalars(o, "snr", arena, &o->inputs.snr);
}

/* g_prev and the gradients after it are whole buffers in a job of one process, shards otherwise. */
static void count_bytes(Optim *o) {
    OptimInfo *info = &o->info;
    size_t whole = o->table->length * sizeof(float);
    if (alone(o) && o->uses_prev_grad) info->state_bytes += whole;
    if (alone(o) && o->exact) info->exact_bytes += whole, info->workspace_bytes += whole;
    for (int i = 0; i < o->group_count; i++) {
        const RuleGroup *group = &o->groups[i];
        size_t shard = group->shard_length * sizeof(float);
        bool uses_prev_grad = group->rule->uses_prev_grad;
        info->state_bytes += (size_t)group->rule->states * shard + group->line_state_length * sizeof(float);
        if (group->newton_schulz) info->workspace_bytes += newton_schulz_bytes(group->newton_schulz);
        if (!has_shards(group)) continue;
        if (uses_prev_grad) info->state_bytes += shard;
        info->workspace_bytes += shard * (o->exact ? 2 : 1);
        if (o->exact) info->exact_bytes += shard * (uses_prev_grad ? 1 : 2);
    }
}

/* Plans the memory that all groups share. */
static void plan_optim_memory(Optim *o, Arena *arena) {
    size_t whole = o->table->length * sizeof(float), count = (size_t)o->table->count;
    size_t gradients = (size_t)o->info.gradients;
    if (alone(o) && o->uses_prev_grad) arena_plan(arena, "optimizer", PREV_GRAD_STATE, whole, &o->whole.prev_grad);
    if (alone(o) && o->exact) arena_plan(arena, "workspace", "second gradients", whole, &o->whole.next_grad);
    arena_plan(arena, "workspace", "plans of tensors", count * sizeof *o->plans, &o->plans);
    arena_plan(arena, "workspace", "coefficients", count * sizeof(UpdateCoeffs), &o->inputs.coeffs);
    arena_plan(arena, "workspace", "sums of tensors", gradients * count * sizeof *o->sums, &o->sums);
    arena_plan(arena, "optimizer", "result", sizeof(StepResult), &o->inputs.result);
}

/* Whether the optimizer as configured has a rule with g_prev, even if no tensor follows it. */
static bool has_prev_grad_rule(const OptimConfig *config) {
    for (const ParamGroup *group = optimizer_of(config->name)->groups; group->roles; group++)
        if (param_group_applies(group, config) && rule_of(group->rule)->uses_prev_grad) return true;
    return false;
}

Optim *optim_plan(const OptimConfig *config, const TensorTable *table, Backend *be, Comm *comm, Arena *arena,
                  Error *error) {
    Optim *o = checked_calloc(1, sizeof *o, "the optimizer");
    *o = (Optim){.config = *config, .table = table, .be = be, .comm = comm};
    o->passes = multi_tensor_passes(be);
    o->uses_prev_grad = has_prev_grad_rule(config);
    o->exact = o->uses_prev_grad && !config->is_approx;
    o->info.gradients = o->exact ? 2 : 1;
    o->grad_sync = grad_sync_open(comm, table->length);
    if (!plan_groups(o, arena, error)) {
        optim_close(o);
        return NULL;
    }
    plan_optim_memory(o, arena);
    list_states(o);
    list_scalars(o, arena);
    count_bytes(o);
    return o;
}

void optim_plan_norms(Optim *o, Arena *arena) {
    size_t count = (size_t)o->table->count;
    for (int i = 0; i < o->group_count; i++) {
        rule_group_plan_norms(&o->groups[i], arena);
        o->info.workspace_bytes += o->groups[i].shard_length * sizeof(float);
    }
    arena_plan(arena, "workspace", "sums of updates", count * sizeof *o->update_sums, &o->update_sums);
    o->norms.tensors = checked_calloc(count, sizeof *o->norms.tensors, "the norms of tensors");
}

void optim_plan_ema(Optim *o, Arena *arena) {
    for (int i = 0; i < o->group_count; i++) {
        rule_group_plan_ema(&o->groups[i], arena);
        o->info.state_bytes += o->groups[i].shard_length * sizeof(float);
    }
    o->plans_ema = true;
}

static void copy_plans(Optim *o) {
    size_t bytes = (size_t)o->table->count * sizeof *o->plans;
    TensorPlan *plans = checked_malloc(bytes, "the optimizer's plans");
    for (int i = 0; i < o->table->count; i++) plans[i] = tensor_plan(&o->config, &o->table->tensors[i]);
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
    for (int i = 0; i < o->group_count; i++) rule_group_start(&o->groups[i], o->be);
    o->queue = o->passes->open_queue(o->be, OPTIM_MAX_STEPS);
}

static void close_own(OptimOwn *own) {
    arena_free(&own->arena);
    tensor_table_free(&own->table);
    own->be->close(own->be);
    free(own->comm);
    free(own);
}

void optim_close(Optim *o) {
    if (o->queue) o->passes->close_queue(o->be, o->queue);
    for (int i = 0; i < o->group_count; i++) rule_group_close(&o->groups[i]);
    grad_sync_close(&o->grad_sync);
    free(o->norms.tensors);
    OptimOwn *own = o->own;
    free(o);
    if (own) close_own(own);
}

Optim *optim_open(const OptimConfig *config, const OptimTensor *tensors, int count, int threads, Error *error) {
    if (!optimizer_check_ranges(config, error)) return NULL;
    if (threads < 0 || threads > 4096) {
        error_set(error, "threads is %d; expected a whole number from 0 to 4096", threads);
        return NULL;
    }
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, backend_threads(threads, 1), error);
    if (!be) return NULL;
    OptimOwn *own = checked_calloc(1, sizeof *own, "the optimizer");
    own->be = be;
    own->comm = comm_open_single();
    for (int i = 0; i < count; i++) {
        const OptimTensor *t = &tensors[i];
        tensor_table_add(&own->table, t->name, t->role, t->rows, t->columns, t->rows);
        own->table.tensors[i].stacked = t->stacked > 0 ? t->stacked : 1;
    }
    size_t bytes = own->table.length * sizeof(float);
    arena_plan(&own->arena, "weights", "parameters", bytes, &own->buffers.params);
    arena_plan(&own->arena, "gradients", "gradients", bytes, &own->buffers.grads);
    Optim *o = optim_plan(config, &own->table, be, own->comm, &own->arena, error);
    if (!o) {
        close_own(own);
        return NULL;
    }
    arena_allocate(&own->arena, backend_memory(be));
    own->buffers.weights = own->buffers.params;
    o->own = own;
    optim_start(o, own->buffers);
    return o;
}

float *optim_params(const Optim *o) { return o->buffers.params; }
size_t optim_offset(const Optim *o, int tensor) { return o->table->tensors[tensor].offset; }
const OptimInfo *optim_info(const Optim *o) { return &o->info; }

/* ---- a step ---- */

OptimRates optim_rates(const OptimConfig *config, const ScheduleConfig *schedule, int64_t step) {
    OptimRates rates = {{0}};
    const ParamGroup *groups = optimizer_of(config->name)->groups;
    double main = schedule_rate(schedule, config->learning_rate, step);
    for (int i = 0; groups[i].roles; i++) {
        double peak = param_group_peak_lr(&groups[i], config);
        rates.lr[i] =
            groups[i].lr == LR_1D_OF_MAIN ? peak / config->learning_rate * main : schedule_rate(schedule, peak, step);
    }
    return rates;
}

void optim_rates_by_role(const OptimConfig *config, const TensorTable *table, const OptimRates *rates,
                         double lr[ROLE_COUNT]) {
    for (int role = 0; role < ROLE_COUNT; role++) lr[role] = -1.0;
    for (int i = 0; i < table->count; i++) {
        TensorRole role = table->tensors[i].role;
        lr[role] = rates->lr[param_group_of(config, role)];
    }
}

/* Sums the ranks' gradients in their owners: the current one, or the second one. */
static void finish_gradient(Optim *o) {
    if (alone(o)) return;
    o->be->range_begin(o->be, "gradient synchronisation");
    grad_sync_finish_gradient(&o->grad_sync, o->groups, o->group_count, o->whole.grad, o->gradient == 1);
    o->be->range_end(o->be);
}

float *optim_gradient(Optim *o, int which) {
    if (which < o->gradient || which >= o->info.gradients)
        die("optim_gradient: gradient %d comes after %d, and a step has %d", which, o->gradient, o->info.gradients);
    if (which > o->gradient) finish_gradient(o);
    o->gradient = which;
    return alone(o) && which == 1 ? o->whole.next_grad : o->whole.grad;
}

void optim_gradient_ready(Optim *o, size_t from) {
    if (!alone(o))
        grad_sync_gradient_ready(&o->grad_sync, o->groups, o->group_count, o->whole.grad, o->gradient == 1, from);
}

/* Computes on every rank sums[i] of tensor i's reduced gradient, and in the exact form sums[count + i] of the second
 * one. */
static void sum_gradients(Optim *o) {
    int count = o->table->count, doubles = (int)(sizeof *o->sums / sizeof(double));
    const StepResult *sum_at_first = o->inputs.snr ? o->inputs.result : NULL;
    for (int i = 0; i < o->group_count; i++) {
        RuleGroup *group = &o->groups[i];
        const GradientBuffers *g = gradients_of(o, group);
        const float *prev_grad = group->rule->uses_prev_grad ? g->prev_grad : NULL;
        rule_group_sums(group, o->be, g->grad, prev_grad, sum_at_first, o->sums);
        if (o->exact) rule_group_sums(group, o->be, g->next_grad, NULL, NULL, o->sums + count);
    }
    o->comm->sum_on_device(o->comm, (double *)o->sums, o->info.gradients * count * doubles);
    o->comm->wait_for(o->comm, o->comm->enqueued(o->comm));
}

/* Makes the current gradient, or in the exact form the second one, the next step's g_prev. */
static void swap_prev_grad(GradientBuffers *g, bool exact) {
    float **newest = exact ? &g->next_grad : &g->grad, *old = g->prev_grad;
    g->prev_grad = *newest;
    *newest = old;
}

/* Swaps the buffers in every step, also in a skipped one: the host does not know which steps the device skips. */
static void keep_prev_grads(Optim *o) {
    for (int i = 0; i < o->group_count; i++) {
        const GradientBuffers *g = gradients_of(o, &o->groups[i]);
        if (o->groups[i].rule->uses_prev_grad)
            rule_group_keep_prev_grad(&o->groups[i], o->be, o->exact ? g->next_grad : g->grad, g->prev_grad,
                                      o->inputs.result);
    }
    if (alone(o)) swap_prev_grad(&o->whole, o->exact);
    for (int i = 0; i < o->group_count; i++)
        if (o->groups[i].shards.prev_grad) swap_prev_grad(&o->groups[i].shards, o->exact);
}

/* The inputs and outputs of a group's update; rule_group_update() sets the states. */
static MultiTensorBuffers update_buffers(Optim *o, RuleGroup *group) {
    const GradientBuffers *g = gradients_of(o, group);
    return (MultiTensorBuffers){.params = o->buffers.params,
                                .weights = has_copy(o) ? o->buffers.weights : NULL,
                                .gradient = g->grad,
                                .prev_grad = g->prev_grad,
                                .coeffs = o->inputs.coeffs,
                                .result = o->inputs.result};
}

static void copy_params(Optim *o) {
    for (int i = 0; i < o->group_count; i++) rule_group_copy_params(&o->groups[i], o->be, o->buffers.params);
}

/* Computes update_sums[i] of tensor i on every rank, by comparing parameters with their copies. */
static void sum_updates(Optim *o) {
    enum { WIDTH = sizeof(UpdateSums) / sizeof(double) };
    for (int i = 0; i < o->group_count; i++)
        rule_group_update_sums(&o->groups[i], o->be, o->buffers.params, o->update_sums);
    o->comm->sum_on_device(o->comm, (double *)o->update_sums, o->table->count * WIDTH);
    o->comm->wait_for(o->comm, o->comm->enqueued(o->comm));
}

/* Starts the all-gather of the weights that this rank has set. */
static void gather_weights(Optim *o) {
    size_t size = has_copy(o) ? dtype_size(o->be->activation) : sizeof(float);
    if (!alone(o)) grad_sync_gather(&o->grad_sync, o->groups, o->group_count, o->buffers.weights, size);
    o->be->invalidate_weights(o->be);
}

void optim_step(Optim *o, OptimRates rates, bool with_norms) {
    if (o->gradient != o->info.gradients - 1) die("optim_step: exact MARS needs two gradients; see optim.h");
    if (o->enqueued == OPTIM_MAX_STEPS) die("optim_step: take the results of the %d steps before it", o->enqueued);
    if (with_norms && !o->norms.tensors) die("optim_step: norms need optim_plan_norms()");
    if (o->shows_ema) die("optim_step: the weights are still those of optim_show_ema()");
    o->be->range_begin(o->be, "optimizer");
    finish_gradient(o);
    o->gradient = 0;
    sum_gradients(o);
    memcpy(o->inputs.lr, rates.lr, sizeof rates.lr);
    o->passes->step_coeffs(o->be, &o->inputs);
    if (with_norms) copy_params(o);
    for (int i = 0; i < o->group_count; i++) rule_group_update(&o->groups[i], o->be, update_buffers(o, &o->groups[i]));
    if (with_norms) sum_updates(o);
    o->has_norms = with_norms;
    if (o->uses_prev_grad) keep_prev_grads(o);
    o->passes->send(o->be, o->queue, o->inputs.result);
    o->enqueued++;
    gather_weights(o);
    o->be->range_end(o->be);
}

/* A copy of a list with `size` bytes for each tensor, which the caller frees. */
static void *fetch_sums(Optim *o, const void *device, size_t size) {
    size_t bytes = (size_t)o->table->count * size;
    void *host = checked_malloc(bytes, "the norms of tensors");
    o->be->copy_to_host(o->be, host, device, bytes);
    return host;
}

const OptimNorms *optim_norms(Optim *o) {
    if (!o->has_norms) die("optim_norms: the last step was one without norms");
    StepResult result;
    GradientSums *gradients = fetch_sums(o, o->sums, sizeof *gradients);
    UpdateSums *updates = fetch_sums(o, o->update_sums, sizeof *updates);
    o->be->copy_to_host(o->be, &result, o->inputs.result, sizeof result);
    o->norms.clip = result.factor / o->config.gradient_scale;
    for (int i = 0; i < o->table->count; i++)
        o->norms.tensors[i] = (TensorNorms){.gradient = o->config.gradient_scale * sqrt(gradients[i].squares),
                                            .update = sqrt(updates[i].update),
                                            .weight = sqrt(updates[i].weight)};
    free(gradients);
    free(updates);
    return &o->norms;
}

OptimResult optim_result(Optim *o) {
    if (o->enqueued == 0) die("optim_result: no step is enqueued");
    o->enqueued--;
    StepResult result = o->passes->receive(o->be, o->queue);
    return (OptimResult){result.grad_norm, result.nonfinite_tensor, result.of_next_batch};
}

void optim_wait_for_weights(Optim *o, size_t begin, size_t end) {
    if (!alone(o)) grad_sync_wait_for_weights(&o->grad_sync, begin, end);
}

/* ---- an average of the weights ---- */

void optim_update_ema(Optim *o, double decay) {
    if (!o->plans_ema) die("optim_update_ema: the average needs optim_plan_ema()");
    if (o->shows_ema) die("optim_update_ema: the weights are still those of optim_show_ema()");
    if (!o->has_ema && decay > 0.0) die("optim_update_ema: an average begins with a decay of 0");
    o->has_ema = true;
    for (int i = 0; i < o->group_count; i++)
        rule_group_update_ema(&o->groups[i], o->be, o->buffers.params, (float)(1.0 - decay));
}

bool optim_has_ema(const Optim *o) { return o->has_ema; }

/* Sets `weights` to the mix of `params` and the average. Each rank mixes the elements that it owns. */
static void mix_weights(Optim *o, const float *params, double mix, void *weights, DType type) {
    for (int i = 0; i < o->group_count; i++)
        rule_group_mix_ema(&o->groups[i], o->be, params, (float)mix, weights, type);
}

/* If there is no weight copy, the average is shown in the master weights, which the gradient buffer keeps meanwhile. */
static const float *params_while_shown(const Optim *o) { return has_copy(o) ? o->buffers.params : o->whole.grad; }

void optim_show_ema(Optim *o, double mix) {
    if (!o->has_ema) die("optim_show_ema: there is no average yet");
    if (o->shows_ema) die("optim_show_ema: comes after optim_hide_ema()");
    optim_wait_for_weights(o, 0, o->table->length);
    if (!has_copy(o)) mix_weights(o, o->buffers.params, 0.0, o->whole.grad, DTYPE_FLOAT32);
    mix_weights(o, params_while_shown(o), mix, o->buffers.weights, o->be->activation);
    gather_weights(o);
    o->shows_ema = true;
}

void optim_hide_ema(Optim *o) {
    if (!o->shows_ema) die("optim_hide_ema: comes after optim_show_ema()");
    optim_wait_for_weights(o, 0, o->table->length);
    mix_weights(o, params_while_shown(o), 0.0, o->buffers.weights, o->be->activation);
    gather_weights(o);
    o->shows_ema = false;
}

void optim_autotune(Optim *o) {
    for (int i = 0; i < o->group_count; i++) rule_group_autotune(&o->groups[i]);
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

void optim_fetch_scalars(Optim *o, int scalar, double *host) {
    o->be->copy_to_host(o->be, host, *o->device_scalars[scalar], (size_t)o->table->count * sizeof *host);
}

void optim_store_scalars(Optim *o, int scalar, const double *host) {
    o->be->copy_from_host(o->be, *o->device_scalars[scalar], host, (size_t)o->table->count * sizeof *host);
}

bool optim_has_state(const Optim *o, int state, int tensor) {
    const Rule *rule = o->groups[group_of(o, tensor)].rule;
    if (strcmp(o->info.state_names[state], PREV_GRAD_STATE) == 0) return rule->uses_prev_grad;
    return rule_state_find(rule, o->info.state_names[state]) >= 0;
}

size_t optim_state_vector(const Optim *o, int state, int tensor) {
    const Rule *rule = o->groups[group_of(o, tensor)].rule;
    bool is_of_lines = rule->uses_lines && rule_state_find(rule, o->info.state_names[state]) == rule->states;
    return is_of_lines ? line_state_size(&o->table->tensors[tensor], o->config.split_qkv) : 0;
}

/* The first number of one of this rank's parts in a state's buffer, in the master weights or in their average. */
static float *part_in(Optim *o, RuleGroup *group, int state, int tensor, const Part *part) {
    if (state == OPTIM_WEIGHTS) return o->buffers.params + part->begin;
    if (state == OPTIM_EMA) return group->ema + part->at;
    const char *name = o->info.state_names[state];
    if (strcmp(name, PREV_GRAD_STATE) == 0)
        return gradients_of(o, group)->prev_grad + (has_shards(group) ? part->at : part->begin);
    int own = rule_state_find(group->rule, name);
    if (own < 0) die("tensors of this rule have no state %s", name);
    return own == group->rule->states ? group->line_state + group->line_state_begin[tensor]
                                      : group->states[own] + part->at;
}

/* How many numbers of a state there are in a part; a tensor with a state of lines is one part. */
static size_t part_length(const Optim *o, int state, int tensor, const Part *part) {
    size_t vector = state < 0 ? 0 : optim_state_vector(o, state, tensor);
    return vector > 0 ? vector : part->end - part->begin;
}

static bool is_inside(const Part *part, const Tensor *t) {
    return part->begin >= t->offset && part->begin < t->offset + t->size;
}

static void check_state(const Optim *o, int state) {
    if (state == OPTIM_EMA && !o->plans_ema) die("an average of the weights needs optim_plan_ema()");
}

void optim_fetch(Optim *o, int state, int tensor, float *host) {
    check_state(o, state);
    optim_wait_for_weights(o, 0, o->table->length);
    const Tensor *t = &o->table->tensors[tensor];
    RuleGroup *group = &o->groups[group_of(o, tensor)];
    const Partition *p = &group->partition;
    for (int r = 0; r < o->comm->size; r++)
        for (int i = p->first[r]; i < p->first[r + 1]; i++) {
            const Part *part = &p->parts[i];
            if (!is_inside(part, t)) continue;
            size_t n = part_length(o, state, tensor, part);
            bool owner = r == o->comm->rank, writer = o->comm->rank == 0;
            float *to = writer  ? host + (part->begin - t->offset)
                        : owner ? checked_malloc(n * sizeof *to, "a tensor to save")
                                : NULL;
            if (owner) o->be->copy_to_host(o->be, to, part_in(o, group, state, tensor, part), n * sizeof *to);
            o->comm->send_to_root(o->comm, r, to, n);
            if (!writer) free(to);
        }
}

void optim_store(Optim *o, int state, int tensor, const float *host) {
    check_state(o, state);
    o->has_ema = o->has_ema || state == OPTIM_EMA;
    const Tensor *t = &o->table->tensors[tensor];
    RuleGroup *group = &o->groups[group_of(o, tensor)];
    const Partition *p = &group->partition;
    for (int i = p->first[o->comm->rank]; i < p->first[o->comm->rank + 1]; i++) {
        const Part *part = &p->parts[i];
        if (is_inside(part, t))
            o->be->copy_from_host(o->be, part_in(o, group, state, tensor, part), host + (part->begin - t->offset),
                                  part_length(o, state, tensor, part) * sizeof *host);
    }
}
