/* optimizer_keys.c: see optimizer_keys.h. */
#include "optim/optimizer_keys.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "optim/optimizers.h"

/* In the order of the enumerations. */
const char *const ns_dtype_names[] = {
    [NS_DTYPE_AUTO] = "auto", [NS_DTYPE_BFLOAT16] = "bfloat16", [NS_DTYPE_FLOAT32] = "float32", NULL};
const char *const ns_coefficients_names[] = {[NS_COEFFICIENTS_QUINTIC] = "quintic",
                                             [NS_COEFFICIENTS_POLAR_EXPRESS] = "polar-express",
                                             [NS_COEFFICIENTS_CUBIC] = "cubic",
                                             NULL};
const char *const muon_scale_names[] = {
    [MUON_SCALE_AUTO] = "auto",           [MUON_SCALE_SPECTRAL] = "spectral", [MUON_SCALE_SQRT_MAX] = "sqrt-max",
    [MUON_SCALE_MOONLIGHT] = "moonlight", [MUON_SCALE_NONE] = "none",         NULL};

#define TYPE_OF(field) \
    _Generic(((OptimConfig *)0)->field,                                                                           \
        bool: OPTIMIZER_KEY_BOOL, int: OPTIMIZER_KEY_INT, double: OPTIMIZER_KEY_NUMBER,                           \
        double *: OPTIMIZER_KEY_PAIR, unsigned: OPTIMIZER_KEY_CHOICE)
#define KEY_LINE(name_, minimum_, maximum_, limits_, choices_, help) \
    {.name = #name_,                                                 \
     .type = TYPE_OF(name_),                                         \
     .offset = offsetof(OptimConfig, name_),                         \
     .minimum = minimum_,                                            \
     .maximum = maximum_,                                            \
     .limits = limits_,                                              \
     .choices = choices_},

static const OptimizerKey keys[] = {LEARNING_RATE_KEY(KEY_LINE) GRADIENT_SCALE_KEY(KEY_LINE) OPTIMIZER_KEYS(KEY_LINE)};

/* "a number of at least 0 and below 1", "a whole number from 1 to 100" */
static void range_text(const OptimizerKey *key, char *text, size_t size) {
    const char *number = key->type == OPTIMIZER_KEY_INT ? "a whole number" : "a number";
    if (isfinite(key->maximum) && !(key->limits & BELOW_MAXIMUM))
        snprintf(text, size, "%s from %g to %g", number, key->minimum, key->maximum);
    else if (isfinite(key->maximum))
        snprintf(text, size, "%s of at least %g and below %g", number, key->minimum, key->maximum);
    else
        snprintf(text, size, "%s %s %g", number, key->limits & ABOVE_MINIMUM ? "above" : "of at least", key->minimum);
}

static bool in_range(const OptimizerKey *key, double value) {
    if ((key->limits & OR_ABSENT) && value == 0.0) return true;
    return range_holds(value, key->minimum, key->maximum, key->limits, key->type == OPTIMIZER_KEY_INT);
}

static bool check_number(const OptimizerKey *key, double value, Error *error) {
    char expected[80];
    if (in_range(key, value)) return true;
    range_text(key, expected, sizeof expected);
    return error_set(error, "%s is %g; expected %s", key->name, value, expected);
}

static bool check_choice(const OptimizerKey *key, unsigned value, Error *error) {
    unsigned count = 0;
    while (key->choices[count]) count++;
    return value < count || error_set(error, "%s is %u; expected a number below %u", key->name, value, count);
}

static bool check_key(const OptimizerKey *key, const OptimConfig *config, Error *error) {
    const void *field = (const char *)config + key->offset;
    switch (key->type) {
    case OPTIMIZER_KEY_INT:
        return check_number(key, *(const int *)field, error);
    case OPTIMIZER_KEY_NUMBER:
        return check_number(key, *(const double *)field, error);
    case OPTIMIZER_KEY_PAIR:
        return check_number(key, ((const double *)field)[0], error) &&
               check_number(key, ((const double *)field)[1], error);
    case OPTIMIZER_KEY_CHOICE:
        return check_choice(key, *(const unsigned *)field, error);
    default:
        return true;
    }
}

bool optimizer_check_ranges(const OptimConfig *config, Error *error) {
    const char *concerned;
    if ((unsigned)config->name >= OPTIM_COUNT) return error_set(error, "there is no optimizer %d", (int)config->name);
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++)
        if (!check_key(&keys[i], config, error)) return false;
    return optimizer_check(config, &concerned, error);
}

bool optimizer_check(const OptimConfig *config, const char **concerned, Error *error) {
    *concerned = "optimizer.beta1 optimizer.name";
    if (config->name == OPTIM_MARS_M_EFFICIENT && config->beta1 == 0)
        return error_set(error, "beta1 is 0; mars-m-efficient divides by it: expected a number in (0, 1); raise it, "
                                "or use mars-m");
    *concerned = "optimizer.ns_steps optimizer.ns_coefficients";
    if (config->ns_coefficients == NS_COEFFICIENTS_POLAR_EXPRESS && ns_steps_of(config) != 5)
        return error_set(error,
                         "ns_steps is %d; polar-express has exactly 5 steps: set ns_steps to 5 or leave it out, or set "
                         "ns_coefficients to quintic or cubic",
                         config->ns_steps);
    return true;
}
