/* optim_variants.h: every optimizer in each of its forms, with settings that are all different, two tables, and steps
 * on random gradients: what the tests of all optimizers share (test_optim_rules.c, test_optim_state.c). */
#ifndef MARS_DEV_TEST_OPTIM_OPTIM_VARIANTS_H
#define MARS_DEV_TEST_OPTIM_OPTIM_VARIANTS_H

#include "dev/test/optim/optim_world.h"
#include "optim/optimizers.h"

EXTERN_C_BEGIN

/* What makes a variant of an optimizer. */
typedef enum Form {
    USUAL,
    EXACT,
    WITH_1D,
    NO_NESTEROV,
    ADAMW_EMBEDDINGS, /* muon_embeddings false */
    SPLIT_QKV,
    CAUTIOUS,
    CAUTIOUS_1D,   /* and optimize_1d */
    POLAR_EXPRESS, /* ns_coefficients, as is the next */
    CUBIC,
    SQRT_MAX, /* muon_scale; and the others: */
    SPECTRAL,
    MOONLIGHT,
    NO_SCALE
} Form;

typedef struct OptimVariant {
    const char *label;
    OptimName name;
    const char *states; /* what a checkpoint holds, where there are tensors of all roles */
    Form form;
} OptimVariant;

/* The basic variants come first. The others are further settings of the same rules, which few tests need. */
enum { BASIC_VARIANTS = 22, VARIANTS = 46 };
extern const OptimVariant optim_variants[VARIANTS];

/* Numbers that are all different, so that no two can be taken for each other; decays that a float holds exactly.
 * SGD-SaI takes long steps of small gradients. */
OptimConfig variant_config(const OptimVariant *variant);

bool uses_matrices(OptimName name);
bool uses_prev_grad(const OptimVariant *variant);

/* A few tensors of each role. */
TensorTable table_of_roles(void);

/* And some that are cut into chunks. */
TensorTable table_of_chunks(void);

/* ---- steps: the same numbers for every world ---- */

/* A step of the optimizer and of the float64 numbers. */
void both_random_step(OptimWorld *w, uint32_t step);

/* A step of the optimizer alone, with `bad` somewhere in a tensor of the first or the second gradient, where tensor >=
 * 0. begin_spoilt_step() enqueues the step; spoilt_step() also waits for its result. */
void begin_spoilt_step(OptimWorld *w, uint32_t step, int tensor, bool in_second, float bad);
OptimResult spoilt_step(OptimWorld *w, uint32_t step, int tensor, bool in_second, float bad);

/* Steps [begin, end) of the optimizer alone, all of which must be taken. */
void random_steps(OptimWorld *w, uint32_t begin, uint32_t end);

EXTERN_C_END

#endif
