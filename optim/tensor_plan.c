/* tensor_plan.c: see tensor_plan.h. */
#include "optim/tensor_plan.h"

double tensor_plan_k(const OptimConfig *c) { return c->gamma * c->beta1 / (1.0 - c->beta1); }

static void set_betas(UpdateCoeffs *r, double beta1, double beta2) {
    r->beta1 = (float)beta1;
    r->beta2 = (float)beta2;
}

/* Of a tensor that the main rule covers, or that follows it in all numbers. */
static void plan_as_main(TensorPlan *plan, const OptimConfig *c, const Optimizer *optimizer, const Tensor *t) {
    UpdateCoeffs *r = &plan->fixed;
    plan->lr_mult = 1.0;
    plan->uses_muon_lr = optimizer->uses_muon_lr;
    double decay = t->role == ROLE_MATRIX ? c->weight_decay : 0.0;
    r->weight_decay = (float)(optimizer->uses_muon_lr ? c->muon_weight_decay : decay);
    r->momentum = (float)c->momentum;
    r->nesterov = c->nesterov;
    r->gamma = (float)c->gamma;
    set_betas(r, c->beta1, c->beta2);
}

/* Of a tensor that the main rule leaves out (rules.h). */
static void plan_as_rest(TensorPlan *plan, const OptimConfig *c, const Optimizer *optimizer, const Tensor *t) {
    RestNumbers from = optimizer->rest_numbers;
    if (from == REST_AS_MAIN) {
        plan_as_main(plan, c, optimizer, t);
        return;
    }
    bool own_betas = from != REST_AS_MUON;
    plan->lr_mult = from == REST_AS_MARS ? c->lr_1d / c->learning_rate : 1.0;
    plan->fixed.weight_decay = (float)(from == REST_AS_MARS ? c->weight_decay_1d : c->weight_decay);
    set_betas(&plan->fixed, own_betas ? c->betas_1d[0] : c->beta1, own_betas ? c->betas_1d[1] : c->beta2);
}

TensorPlan tensor_plan(const OptimConfig *config, const Optimizer *optimizer, const Tensor *t) {
    bool main = optimizer->covers[t->role];
    const Rule *rule = rule_of(main ? optimizer->main : optimizer->rest);
    TensorPlan plan = {.elements = (double)t->size, .uses_prev_grad = rule->uses_prev_grad};
    if (main)
        plan_as_main(&plan, config, optimizer, t);
    else
        plan_as_rest(&plan, config, optimizer, t);
    plan.fixed.eps = (float)config->eps;
    if (rule->uses_prev_grad) plan.fixed.k = (float)tensor_plan_k(config);
    if (rule->is_matrix) plan.step_factor = rule->step_factor((double)t->rows, (double)t->columns);
    return plan;
}
