/* test_optim_ema.c: the average of the weights: against a float64 loop, shown in the place of the weights and taken
 * back, and without an effect on the steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/test_gpu.h"
#include "dev/test/optim/optim_world.h"
#include "util/dtype.h"

static const double decay = 0.9, mix = 0.6;

static OptimConfig config_of(OptimName name) {
    OptimConfig config = optim_defaults(name, 3e-3);
    config.ns_dtype = NS_DTYPE_FLOAT32;
    return config;
}

/* A step on random gradients, of exact MARS too. */
static void step(OptimWorld *w, uint32_t number) {
    for (int which = 0; which < optim_info(w->optim)->gradients; which++) {
        if (which > 0) begin_second(w);
        set_gradient(w, random_gradient, 2 * number + (uint32_t)which);
    }
    world_step(w, uniform_rates(1e-3 * (number + 1)));
}

/* ||a - b|| / ||b|| over the elements of tensors. */
static double distance(const OptimWorld *w, const float *a, const double *b) {
    double off = 0.0, whole = 0.0;
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        for (size_t at = t->offset; at < t->offset + t->size; at++) {
            off += pow((double)a[at] - b[at], 2.0);
            whole += b[at] * b[at];
        }
    }
    return sqrt(off / whole);
}

/* The average of all tensors at their places in the flat buffer; the caller frees it. */
static float *fetch_average(OptimWorld *w) {
    float *average = checked_calloc(w->table.length, sizeof *average, "the average");
    for (int i = 0; i < w->table.count; i++) optim_fetch(w->optim, OPTIM_EMA, i, average + w->table.tensors[i].offset);
    return average;
}

/* The weights as floats; the caller frees them. */
static float *fetch_weights(OptimWorld *w) {
    const void *weights = world_weights(w);
    float *floats = checked_malloc(w->table.length * sizeof *floats, "weights");
    for (size_t at = 0; at < w->table.length; at++)
        floats[at] = w->be->activation == DTYPE_FLOAT32 ? ((const float *)weights)[at]
                                                        : float_from_bfloat16(((const bfloat16 *)weights)[at]);
    return floats;
}

/* Shows the mix of x and average, and takes it back. */
static void assert_shown(OptimWorld *w, const double *average) {
    double *expected = checked_malloc(w->table.length * sizeof *expected, "a mix");
    const float *x = world_params(w);
    for (size_t at = 0; at < w->table.length; at++) expected[at] = (1.0 - mix) * (double)x[at] + mix * average[at];
    optim_show_ema(w->optim, mix);
    optim_wait_for_weights(w->optim, 0, w->table.length);
    float *shown = fetch_weights(w);
    double limit = w->be->activation == DTYPE_FLOAT32 ? 1e-6 : 3e-3;
    assert_error_below(distance(w, shown, expected), limit, "the weights that are shown");
    optim_hide_ema(w->optim);
    optim_wait_for_weights(w->optim, 0, w->table.length);
    free(shown);
    free(expected);
}

static void run_against_float64(OptimName name, DType type, bool exact) {
    enum { STEPS = 6, BEGIN = 2 };
    OptimConfig config = config_of(name);
    config.is_approx = !exact;
    OptimWorld *w = open_world_with_ema(odd_table(), config, type, 2, NULL);
    OptimWorld *twin = open_world(odd_table(), config, type, 2, NULL);
    double *average = checked_calloc(w->table.length, sizeof *average, "the average");
    for (uint32_t i = 0; i < STEPS; i++) {
        step(w, i);
        step(twin, i);
        assert_true(optim_has_ema(w->optim) == (i > BEGIN));
        if (i < BEGIN) continue;
        const float *x = world_params(w);
        for (size_t at = 0; at < w->table.length; at++)
            average[at] = i == BEGIN ? (double)x[at] : decay * average[at] + (1.0 - decay) * (double)x[at];
        optim_update_ema(w->optim, i == BEGIN ? 0.0 : decay);
        float *own = fetch_average(w);
        assert_error_below(distance(w, own, average), i == BEGIN ? 1e-15 : 2e-7, "the average");
        free(own);
        assert_shown(w, average);
        assert_is(w, take_snapshot(twin)); /* to the bit */
    }
    free(average);
    close_world(w);
    close_world(twin);
}

static void test_against_float64(void **state) {
    (void)state;
    const OptimName names[] = {OPTIM_ADAMW, OPTIM_NORMUON, OPTIM_MARS_ADAMW};
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++)
        for (int i = 0; i < (int)ARRAY_LENGTH(names); i++)
            if (!is_in_haste() || i % 2 == type % 2) run_against_float64(names[i], (DType)type, i == 2);
}

/* A skipped step leaves the weights, and the average moves towards them. */
static void test_skipped_step(void **state) {
    (void)state;
    OptimWorld *w = open_world_with_ema(odd_table(), config_of(OPTIM_MARS_ADAMW), DTYPE_FLOAT32, 1, NULL);
    double *average = checked_calloc(w->table.length, sizeof *average, "the average");
    optim_update_ema(w->optim, 0.0);
    const float *x = world_params(w);
    for (size_t at = 0; at < w->table.length; at++) average[at] = (double)x[at];
    step(w, 0);
    for (int i = 0; i < 2; i++) {
        set_gradient(w, random_gradient, 9);
        set_element(w, w->table.tensors[4].offset, NAN);
        assert_int_equal(world_step(w, uniform_rates(0.1)).nonfinite_tensor, 4);
        optim_update_ema(w->optim, decay);
        x = world_params(w);
        for (size_t at = 0; at < w->table.length; at++) average[at] += (1.0 - decay) * ((double)x[at] - average[at]);
    }
    float *own = fetch_average(w);
    assert_error_below(distance(w, own, average), 2e-7, "the average");
    free(own);
    free(average);
    close_world(w);
}

/* What a checkpoint does. */
static void test_stored(void **state) {
    (void)state;
    OptimWorld *w = open_world_with_ema(odd_table(), config_of(OPTIM_MUON), DTYPE_BFLOAT16, 1, NULL);
    OptimWorld *other = open_world_with_ema(odd_table(), config_of(OPTIM_MUON), DTYPE_BFLOAT16, 1, NULL);
    optim_update_ema(w->optim, 0.0);
    step(w, 0);
    step(other, 0);
    optim_update_ema(w->optim, decay);
    float *average = fetch_average(w);
    for (int i = 0; i < w->table.count; i++)
        optim_store(other->optim, OPTIM_EMA, i, average + w->table.tensors[i].offset);
    assert_true(optim_has_ema(other->optim));
    step(w, 1);
    step(other, 1);
    optim_update_ema(w->optim, decay);
    optim_update_ema(other->optim, decay);
    float *own = fetch_average(other), *expected = fetch_average(w);
    assert_memory_equal(own, expected, w->table.length * sizeof *own);
    free(average), free(own), free(expected);
    close_world(w);
    close_world(other);
}

/* One copy of the parameters, as state. */
static void test_memory(void **state) {
    (void)state;
    OptimWorld *plain = open_world(odd_table(), usual_config, DTYPE_FLOAT32, 1, NULL);
    OptimWorld *w = open_world_with_ema(odd_table(), usual_config, DTYPE_FLOAT32, 1, NULL);
    size_t own = optim_info(w->optim)->state_bytes - optim_info(plain->optim)->state_bytes;
    size_t planned = arena_group_bytes(&w->arena, "optimizer") - arena_group_bytes(&plain->arena, "optimizer");
    assert_in_range(own, w->table.parameters * sizeof(float), w->table.length * sizeof(float));
    assert_in_range(planned, own, own + 4096);
    close_world(plain);
    close_world(w);
}

/* ---- calls in the wrong order ---- */

static void begin(void *optim) { optim_update_ema(optim, 0.0); }
static void go_on(void *optim) { optim_update_ema(optim, decay); }
static void show(void *optim) { optim_show_ema(optim, mix); }
static void hide(void *optim) { optim_hide_ema(optim); }
static void make_step(void *optim) { optim_step(optim, uniform_rates(0.1), false); }

static void test_wrong_order(void **state) {
    (void)state;
    OptimWorld *plain = open_world(odd_table(), usual_config, DTYPE_FLOAT32, 1, NULL);
    OptimWorld *w = open_world_with_ema(odd_table(), usual_config, DTYPE_FLOAT32, 1, NULL);
    assert_dies(begin, plain->optim, "needs optim_plan_ema()");
    assert_dies(go_on, w->optim, "begins with a decay of 0");
    assert_dies(show, w->optim, "there is no average yet");
    assert_dies(hide, w->optim, "comes after optim_show_ema()");
    optim_update_ema(w->optim, 0.0);
    optim_show_ema(w->optim, mix);
    assert_dies(show, w->optim, "comes after optim_hide_ema()");
    assert_dies(make_step, w->optim, "still those of optim_show_ema()");
    assert_dies(go_on, w->optim, "still those of optim_show_ema()");
    close_world(plain);
    close_world(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_float64), cmocka_unit_test(test_skipped_step), cmocka_unit_test(test_stored),
        cmocka_unit_test(test_memory),          cmocka_unit_test(test_wrong_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
