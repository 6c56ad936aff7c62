/* tensor_plan.h: which numbers of the config are for which tensor: what no step changes of step_coeffs.h's arithmetic.
 * */
#ifndef MARS_OPTIM_TENSOR_PLAN_H
#define MARS_OPTIM_TENSOR_PLAN_H

#include "optim/rules.h"
#include "optim/step_coeffs.h"

EXTERN_C_BEGIN

/* The plan of one tensor of an optimizer that rules_optimizer() gave for the config. */
TensorPlan tensor_plan(const OptimConfig *config, const Optimizer *optimizer, const Tensor *tensor);

/* mars.h: the weight of the gradient's change. */
double tensor_plan_k(const OptimConfig *config);

EXTERN_C_END

#endif
