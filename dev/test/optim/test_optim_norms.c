/* test_optim_norms.c: the norms that optim_step() measures, with every optimizer, against the same in float64:
 * of the gradients and parameters that are on the device, and of the float64 steps of optim_world.h. How several
 * ranks share them is in test_optim_sharded.c. */
#include "dev/test/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/optim/optim_world.h"

/* ---- help ---- */

/* Every role; sizes around the alignment, less and more than a chunk, with and without a gap; a matrix of one column.
 * Few elements, as an emulated GPU has to step through them too. */
static TensorTable few_tensors(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "one", ROLE_VECTOR, 1, 1, 1);
    tensor_table_add(&table, "padded", ROLE_EMBEDDING, 5, 100, 64);
    tensor_table_add(&table, "column", ROLE_MATRIX, 7, 1, 7);
    tensor_table_add(&table, "gain", ROLE_VECTOR, 1, 129, 1);
    tensor_table_add(&table, "long", ROLE_MATRIX, 7, 2341, 7);
    tensor_table_add(&table, "tall", ROLE_MATRIX, 33, 17, 33);
    tensor_table_add(&table, "wide", ROLE_MATRIX, 16, 40, 16);
    tensor_table_add(&table, "head", ROLE_LM_HEAD, 21, 30, 64);
    return table;
}

static OptimConfig config_of(OptimName name, bool exact) {
    OptimConfig config = optim_defaults(name, 1e-3);
    config.is_approx = !exact;
    config.lr_1d = config.muon_learning_rate = 2e-3;
    config.weight_decay = 0.1;
    config.grad_clip = 1.0;
    config.gradient_scale = 0.5;
    config.ns_dtype = NS_DTYPE_FLOAT32;
    return config;
}

static double *copy_doubles(const double *from, size_t n) {
    return memcpy(checked_malloc(n * sizeof *from, "a copy"), from, n * sizeof *from);
}

static double *copy_floats(const float *from, size_t n) {
    double *copy = checked_malloc(n * sizeof *copy, "a copy");
    for (size_t i = 0; i < n; i++) copy[i] = from[i];
    return copy;
}

/* What a step begins with, in float64. */
typedef struct Before {
    double *gradient, *params; /* as they are on the device */
    double *x;                 /* the float64 parameters */
} Before;

static Before before_step(OptimWorld *w) {
    size_t n = w->table.length;
    return (Before){copy_floats(world_gradient(w), n), copy_floats(world_params(w), n), copy_doubles(w->x, n)};
}

static void free_before(Before *before) {
    free(before->gradient);
    free(before->params);
    free(before->x);
}

/* The norm of a tensor's elements of a - b; b may be NULL. */
static double norm_of(const Tensor *t, const double *a, const double *b) {
    double squares = 0.0;
    for (size_t at = t->offset; at < t->offset + t->size; at++) squares += pow(a[at] - (b ? b[at] : 0.0), 2.0);
    return sqrt(squares);
}

static void assert_norm(const char *what, const Tensor *t, double own, double expected, double limit) {
    if (!(fabs(own - expected) <= limit)) fail_msg("%s of %s: %.12g, expected %.12g", what, t->name, own, expected);
}

static double expected_clip(const OptimWorld *w, double grad_norm) {
    return w->config.grad_clip > 0.0 ? fmin(1.0, w->config.grad_clip / (grad_norm + 1e-6)) : 1.0;
}

/* Against what is on the device: the same up to the order of sums in double. */
static void assert_measured(OptimWorld *w, const Before *before, double grad_norm) {
    const OptimNorms *norms = optim_norms(w->optim);
    double *params = copy_floats(world_params(w), w->table.length), clip = expected_clip(w, grad_norm);
    assert_error_below(fabs(norms->clip - clip) / clip, 1e-12, "the clip");
    assert_true(norms->clip > 0.0 && norms->clip <= 1.0);
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        double gradient = w->config.gradient_scale * norm_of(t, before->gradient, NULL);
        double update = norm_of(t, params, before->params), weight = norm_of(t, params, NULL);
        assert_norm("gradient", t, norms->tensors[i].gradient, gradient, 1e-13 * gradient);
        assert_norm("update", t, norms->tensors[i].update, update, 1e-13 * update);
        assert_norm("weight", t, norms->tensors[i].weight, weight, 1e-13 * weight);
    }
    free(params);
}

/* Against the float64 step: up to roundings of parameters in float, and what Newton-Schulz makes of roundings. */
static void assert_as_published(OptimWorld *w, const Before *before) {
    const OptimNorms *norms = optim_norms(w->optim);
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        double update = norm_of(t, w->x, before->x), weight = norm_of(t, w->x, NULL);
        assert_norm("update", t, norms->tensors[i].update, update, 4e-7 * weight + 1e-3 * update);
        assert_norm("weight", t, norms->tensors[i].weight, weight, 1e-6 * weight + 1e-3 * update);
    }
}

/* ---- tests ---- */

static void assert_optimizer(OptimName name, bool exact, DType type) {
    OptimWorld *w = open_world_with_norms(few_tensors(), config_of(name, exact), type, 2, NULL);
    for (uint32_t step = 0; step < 2; step++) {
        set_gradient(w, random_gradient, 2 * step);
        Before before = before_step(w);
        if (optim_info(w->optim)->gradients == 2) {
            both_hold(w);
            set_gradient(w, random_gradient, 2 * step + 1);
        }
        OptimResult result = both_step(w, 1e-3 * (step + 1));
        assert_measured(w, &before, result.grad_norm);
        if (name != OPTIM_MARS_LION) assert_as_published(w, &before); /* a sign may hang on a rounding */
        free_before(&before);
    }
    close_world(w);
}

static void test_every_optimizer(void **state) {
    (void)state;
    for (int name = 0; name < OPTIM_COUNT; name++) assert_optimizer((OptimName)name, false, DTYPE_FLOAT32);
    assert_optimizer(OPTIM_MARS_ADAMW, true, DTYPE_FLOAT32);
    assert_optimizer(OPTIM_MARS_M, true, DTYPE_FLOAT32);
}

/* Updates are measured on master weights, not on their copy. */
static void test_master_weights(void **state) {
    (void)state;
    assert_optimizer(OPTIM_ADAMW, false, DTYPE_BFLOAT16);
    assert_optimizer(OPTIM_MUON, false, DTYPE_BFLOAT16);
}

/* The update is decay alone. */
static void test_zero_gradient(void **state) {
    (void)state;
    OptimWorld *w = open_world_with_norms(few_tensors(), config_of(OPTIM_ADAMW, false), DTYPE_FLOAT32, 1, NULL);
    fill_gradient(w, 0.0f);
    Before before = before_step(w);
    assert_measured(w, &before, both_step(w, 0.5).grad_norm);
    const OptimNorms *norms = optim_norms(w->optim);
    assert_true(norms->clip == 1.0);
    for (int i = 0; i < w->table.count; i++) {
        bool decays = w->table.tensors[i].role == ROLE_MATRIX;
        assert_true(norms->tensors[i].gradient == 0.0 && norms->tensors[i].weight > 0.0);
        assert_true(decays == (norms->tensors[i].update > 0.0));
    }
    free_before(&before);
    close_world(w);
}

/* No parameter changes, and the next step is measured as if the skipped one had not been. */
static void test_skipped_step(void **state) {
    (void)state;
    OptimWorld *w = open_world_with_norms(few_tensors(), config_of(OPTIM_MARS_M, false), DTYPE_FLOAT32, 1, NULL);
    set_gradient(w, random_gradient, 0);
    int spoiled = tensor_table_find(&w->table, "long");
    set_element(w, w->table.tensors[spoiled].offset + 12345, NAN);
    Before before = before_step(w);
    assert_int_equal(world_step(w, uniform_rates(0.1)).nonfinite_tensor, spoiled);
    const OptimNorms *norms = optim_norms(w->optim);
    for (int i = 0; i < w->table.count; i++) {
        double weight = norm_of(&w->table.tensors[i], before.params, NULL);
        assert_true(norms->tensors[i].update == 0.0 && isnan(norms->tensors[i].gradient) == (i == spoiled));
        assert_norm("weight", &w->table.tensors[i], norms->tensors[i].weight, weight, 1e-13 * weight);
    }
    free_before(&before);
    set_gradient(w, random_gradient, 1);
    before = before_step(w);
    assert_measured(w, &before, both_step(w, 1e-3).grad_norm);
    free_before(&before);
    close_world(w);
}

/* The step is the same, whether it is measured or not; norms are the same with any number of threads. */
static void test_same_bits(void **state) {
    (void)state;
    OptimConfig config = config_of(OPTIM_MOONLIGHT, false);
    OptimWorld *plain = open_world(few_tensors(), config, DTYPE_FLOAT32, 1, NULL);
    OptimWorld *one = open_world_with_norms(few_tensors(), config, DTYPE_FLOAT32, 1, NULL);
    OptimWorld *three = open_world_with_norms(few_tensors(), config, DTYPE_FLOAT32, 3, NULL);
    OptimWorld *const worlds[] = {plain, one, three};
    for (size_t i = 0; i < ARRAY_LENGTH(worlds); i++) {
        set_gradient(worlds[i], random_gradient, 3);
        world_step(worlds[i], uniform_rates(1e-3));
    }
    assert_is(one, take_snapshot(plain));
    const OptimNorms *own = optim_norms(one->optim), *threaded = optim_norms(three->optim);
    assert_true(own->clip == threaded->clip);
    assert_memory_equal(own->tensors, threaded->tensors, (size_t)one->table.count * sizeof *own->tensors);
    for (size_t i = 0; i < ARRAY_LENGTH(worlds); i++) close_world(worlds[i]);
}

/* ---- what is planned, and what is refused ---- */

/* One copy of the parameters, and lists. */
static void test_memory(void **state) {
    (void)state;
    OptimWorld *plain = open_world(few_tensors(), usual_config, DTYPE_FLOAT32, 1, NULL);
    OptimWorld *w = open_world_with_norms(few_tensors(), usual_config, DTYPE_FLOAT32, 1, NULL);
    size_t copy = optim_info(w->optim)->workspace_bytes - optim_info(plain->optim)->workspace_bytes;
    size_t more = arena_group_bytes(&w->arena, "workspace") - arena_group_bytes(&plain->arena, "workspace");
    assert_in_range(copy, w->table.parameters * sizeof(float), w->table.length * sizeof(float));
    assert_in_range(more, copy, copy + (size_t)w->table.count * 64 + 4096);
    assert_int_equal(arena_group_bytes(&w->arena, "optimizer"), arena_group_bytes(&plain->arena, "optimizer"));
    close_world(plain);
    close_world(w);
}

static void step_with_norms(void *world) { optim_step(((OptimWorld *)world)->optim, uniform_rates(1e-3), true); }
static void ask_for_norms(void *world) { optim_norms(((OptimWorld *)world)->optim); }

static void test_misuse(void **state) {
    (void)state;
    OptimWorld *plain = open_world(few_tensors(), usual_config, DTYPE_FLOAT32, 1, NULL);
    OptimWorld *w = open_world_with_norms(few_tensors(), usual_config, DTYPE_FLOAT32, 1, NULL);
    assert_dies(step_with_norms, plain, "norms need optim_plan_norms()");
    assert_dies(ask_for_norms, w, "the last step was one without norms");
    world_step(w, uniform_rates(1e-3));
    assert_non_null(optim_norms(w->optim));
    optim_step(w->optim, uniform_rates(1e-3), false);
    assert_dies(ask_for_norms, w, "the last step was one without norms");
    close_world(plain);
    close_world(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_optimizer), cmocka_unit_test(test_master_weights),
        cmocka_unit_test(test_zero_gradient),   cmocka_unit_test(test_skipped_step),
        cmocka_unit_test(test_same_bits),       cmocka_unit_test(test_memory),
        cmocka_unit_test(test_misuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
