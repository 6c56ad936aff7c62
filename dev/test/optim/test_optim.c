/* test_optim.c: one process's optimizer steps, as AdamW takes them: against a float64 loop, the clip, gradients that
 * are not finite, steps that are begun ahead, memory that is planned, state in and out. The other rules' numbers, and
 * PyTorch's, are in test_optim_rules.c, their states in test_optim_state.c, passes by themselves in
 * test_optim_passes.c, steps that several processes share in test_optim_sharded.c. */
#include "dev/test/test.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/test_gpu.h"
#include "dev/test/optim/optim_world.h"

static OptimWorld *usual_world(DType type, int threads) {
    return open_world(odd_table(), usual_config, type, threads, NULL);
}

/* `steps` steps on random gradients with a changing rate, and then everything is where it should be. */
static void run_steps(OptimWorld *w, int steps, double limit) {
    double moved = 0.0;
    for (int step = 0; step < steps; step++) {
        double lr = w->config.learning_rate * (step % 3 + 1);
        set_gradient(w, random_gradient, (uint32_t)step + 1);
        both_step(w, lr);
        moved += lr;
    }
    assert_states(w, limit);
    assert_params(w, moved, 4.0 * limit);
}

/* ---- AdamW ---- */

static void test_steps(void **state) {
    (void)state;
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++)
        for (int clipped = 0; clipped < 2; clipped++) {
            OptimConfig config = usual_config;
            config.grad_clip = clipped ? 1.0 : 0.0;
            config.gradient_scale = clipped ? 4.0 : 1.0;
            OptimWorld *w = open_world(odd_table(), config, (DType)type, 2, NULL);
            run_steps(w, 7, 5e-7);
            close_world(w);
        }
}

/* Long memories: 1 - beta in float has few right digits, which must not show in the bias correction. */
static void test_betas_near_one(void **state) {
    (void)state;
    OptimConfig config = usual_config;
    config.beta1 = 0.999;
    config.beta2 = 0.99999;
    OptimWorld *w = open_world(odd_table(), config, DTYPE_FLOAT32, 1, NULL);
    double moved = 0.0;
    for (int step = 0; step < 5; step++, moved += 1.0) {
        set_gradient(w, random_gradient, (uint32_t)step + 1);
        both_step(w, 1.0);
    }
    assert_params(w, moved, 2e-6);
    close_world(w);
}

static void test_no_memory(void **state) {
    (void)state;
    OptimConfig config = usual_config;
    config.beta1 = config.beta2 = 0.0;
    config.eps = 1e-3;
    OptimWorld *w = open_world(odd_table(), config, DTYPE_FLOAT32, 1, NULL);
    run_steps(w, 2, 5e-7);
    close_world(w);
}

static float zero(uint32_t stream, size_t at) { return (void)stream, (void)at, 0.0f; }

/* With no gradient only the decay is left, and only for matrices. */
static void test_zero_gradient(void **state) {
    (void)state;
    OptimConfig config = usual_config;
    config.grad_clip = 1.0;
    OptimWorld *w = open_world(odd_table(), config, DTYPE_BFLOAT16, 2, NULL);
    float *before = checked_malloc(w->table.length * sizeof *before, "params");
    memcpy(before, world_params(w), w->table.length * sizeof *before);
    set_gradient(w, zero, 0);
    assert_true(both_step(w, 0.5).grad_norm == 0.0);
    const float *params = world_params(w);
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        float factor = t->role == ROLE_MATRIX ? 0.95f : 1.0f, limit = t->role == ROLE_MATRIX ? 2e-7f : 0.0f;
        for (size_t at = t->offset; at < t->offset + t->size; at++)
            assert_true(fabsf(params[at] - factor * before[at]) <= limit * fabsf(before[at]));
    }
    assert_params(w, 0.5, 0.0);
    free(before);
    close_world(w);
}

/* A rate of 0, as at the first step of a warm-up, moves nothing, but the averages begin. */
static void test_zero_rate(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_FLOAT32, 1);
    set_gradient(w, random_gradient, 1);
    both_step(w, 0.0);
    assert_states(w, 5e-7);
    const float *params = world_params(w);
    for (size_t at = 0; at < w->table.length; at++) assert_true((double)params[at] == w->x[at]);
    close_world(w);
}

/* ---- scale and clip: seen in m, which with beta1 = 1/2 is half of what is left of the gradient ---- */

/* Two parameters with gradients 3 and 4. */
static void assert_factor(double grad_clip, double gradient_scale, double factor) {
    TensorTable table = {0};
    tensor_table_add(&table, "a", ROLE_VECTOR, 1, 1, 1);
    tensor_table_add(&table, "b", ROLE_MATRIX, 1, 1, 1);
    OptimConfig config = usual_config;
    config.beta1 = 0.5;
    config.grad_clip = grad_clip;
    config.gradient_scale = gradient_scale;
    OptimWorld *w = open_world(table, config, DTYPE_FLOAT32, 1, NULL);
    float m[2];
    set_element(w, w->table.tensors[0].offset, 3.0f);
    set_element(w, w->table.tensors[1].offset, -4.0f);
    OptimResult result = world_step(w, uniform_rates(1e-3));
    assert_true(result.grad_norm == 5.0 * gradient_scale);
    optim_fetch(w->optim, 0, 0, &m[0]);
    optim_fetch(w->optim, 0, 1, &m[1]);
    assert_true(m[0] == 0.5f * (3.0f * (float)factor));
    assert_true(m[1] == 0.5f * (-4.0f * (float)factor));
    close_world(w);
}

static void test_clip(void **state) {
    (void)state;
    assert_factor(0.0, 1.0, 1.0);
    assert_factor(10.0, 1.0, 1.0);
    assert_factor(5.0 + 1e-6, 1.0, 1.0);         /* just reached */
    assert_factor(5.0, 1.0, 5.0 / (5.0 + 1e-6)); /* torch's 1e-6 */
    assert_factor(4.0, 1.0, 4.0 / (5.0 + 1e-6));
    assert_factor(1e-3, 1.0, 1e-3 / (5.0 + 1e-6));
}

/* The clip looks at the scaled gradient. */
static void test_gradient_scale(void **state) {
    (void)state;
    assert_factor(0.0, 4.0, 4.0);
    assert_factor(20.0 + 1e-6, 4.0, 4.0);
    assert_factor(1.0, 4.0, 4.0 * (1.0 / (20.0 + 1e-6)));
    assert_factor(1.0, 0.125, 0.125);
}

static float huge(uint32_t stream, size_t at) { return (void)stream, at % 2 ? 1e30f : -1e30f; }
static float largest(uint32_t stream, size_t at) { return (void)stream, at % 2 ? FLT_MAX : -FLT_MAX; }

/* Squares of these overflow a float. The clipped gradient of the largest has a factor that is itself hardly a float:
 * it has fewer digits. */
static void test_huge_gradient(void **state) {
    (void)state;
    OptimConfig config = usual_config;
    config.grad_clip = 1.0;
    OptimWorld *w = open_world(odd_table(), config, DTYPE_FLOAT32, 2, NULL);
    set_gradient(w, huge, 0);
    double norm = both_step(w, 1e-3).grad_norm;
    assert_error_below(fabs(norm / sqrt((double)w->table.parameters) - 1e30) / 1e30, 1e-6, "the norm");
    assert_states(w, 1e-6);
    assert_params(w, 1e-3, 1e-5);
    set_gradient(w, largest, 0);
    both_step(w, 1e-3);
    assert_states(w, 1e-3);
    assert_params(w, 2e-3, 1e-3);
    close_world(w);
}

/* ---- gradients that are not finite ---- */

/* One bad element: nothing changes, its tensor is named, and the next good step is the one that would have been. */
static void test_not_finite(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY, -NAN};
    OptimWorld *w = usual_world(DTYPE_BFLOAT16, 2), *twin = usual_world(DTYPE_BFLOAT16, 2);
    int count = w->table.count, tensors[] = {0, 1, 6, 7, count - 1};
    for (uint32_t round = 0; round < 4; round++)
        for (size_t i = 0; i < ARRAY_LENGTH(tensors); i++) {
            if (is_in_haste() && (round + i) % 4 != 0) continue;
            const Tensor *t = &w->table.tensors[tensors[i]];
            size_t places[] = {0, t->size / 2, t->size - 1};
            Snapshot before = take_snapshot(w);
            int64_t updates = optim_updates(w->optim);
            set_gradient(w, random_gradient, 5);
            set_element(w, t->offset + places[(round + i) % 3], bad[round]);
            assert_int_equal(world_step(w, uniform_rates(1e-3)).nonfinite_tensor, tensors[i]);
            assert_int_equal(optim_updates(w->optim), updates);
            assert_is(w, before);
            set_gradient(w, random_gradient, round + 1);
            set_gradient(twin, random_gradient, round + 1);
            assert_int_equal(world_step(w, uniform_rates(1e-3)).nonfinite_tensor, -1);
            world_step(twin, uniform_rates(1e-3));
            assert_is(w, take_snapshot(twin));
        }
    close_world(w);
    close_world(twin);
}

static void test_first_of_several_is_named(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_FLOAT32, 2);
    set_gradient(w, random_gradient, 1);
    set_element(w, w->table.tensors[9].offset, NAN);
    set_element(w, w->table.tensors[7].offset + 40000, INFINITY);
    set_element(w, w->table.tensors[30].offset, -INFINITY);
    assert_int_equal(world_step(w, uniform_rates(1e-3)).nonfinite_tensor, 7);
    close_world(w);
}

/* ---- steps that are enqueued ahead ---- */

/* Good and bad steps, of which nobody takes the result before the next is enqueued: results come in order, and all is
 * as with a twin who never saw the bad ones. */
static void test_ahead(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_BFLOAT16, 2), *twin = usual_world(DTYPE_BFLOAT16, 2);
    const int bad_tensors[] = {-1, 7, 9, -1, -1, 0, -1, 3};
    double norms[ARRAY_LENGTH(bad_tensors)] = {0};
    for (uint32_t step = 0, ended = 0; ended < ARRAY_LENGTH(bad_tensors); ended++) {
        for (; step < ended + OPTIM_MAX_STEPS && step < ARRAY_LENGTH(bad_tensors); step++) {
            int bad = bad_tensors[step];
            set_gradient(w, random_gradient, step + 1);
            if (bad >= 0) set_element(w, w->table.tensors[bad].offset, step % 2 ? NAN : INFINITY);
            enqueue_step(w, uniform_rates(1e-3 * step));
            if (bad >= 0) continue;
            set_gradient(twin, random_gradient, step + 1);
            norms[step] = world_step(twin, uniform_rates(1e-3 * step)).grad_norm;
        }
        OptimResult result = optim_result(w->optim);
        assert_int_equal(result.nonfinite_tensor, bad_tensors[ended]);
        assert_true(result.grad_norm == (bad_tensors[ended] < 0 ? norms[ended] : INFINITY));
    }
    assert_int_equal(optim_updates(w->optim), 4);
    assert_is(w, take_snapshot(twin));
    close_world(w);
    close_world(twin);
}

static void enqueue(void *world) { optim_step(((OptimWorld *)world)->optim, uniform_rates(1e-3), false); }
static void take_result(void *world) { optim_result(((OptimWorld *)world)->optim); }

static void test_results_are_taken(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_FLOAT32, 1);
    assert_dies(take_result, w, "no step is enqueued");
    enqueue(w);
    enqueue(w);
    assert_dies(enqueue, w, "take the results of the 2 steps");
    take_result(w);
    enqueue(w);
    take_result(w);
    take_result(w);
    assert_int_equal(optim_updates(w->optim), 3);
    close_world(w);
}

/* ---- memory ---- */

/* What is planned is what the sizes say, nothing is taken before, and the optimizer works in the caller's arena. */
static void test_planned_memory(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_FLOAT32, 1);
    OptimConfig config = optim_defaults(OPTIM_MARS_M, 1e-3);
    config.is_approx = false;
    Arena arena = {0};
    float *params, *grads;
    size_t bytes = w->table.length * sizeof(float);
    arena_plan(&arena, "weights", "params", bytes, &params);
    arena_plan(&arena, "gradients", "grads", bytes, &grads);
    Optim *optim = optim_plan(&config, &w->table, w->be, w->comm, &arena, NULL);
    assert_non_null(optim);
    size_t state_bytes = arena_group_bytes(&arena, "optimizer"), work_bytes = arena_group_bytes(&arena, "workspace");
    size_t lists = (size_t)w->table.count * 512;
    assert_in_range(state_bytes, optim_info(optim)->state_bytes, optim_info(optim)->state_bytes + lists);
    assert_in_range(work_bytes, optim_info(optim)->workspace_bytes, optim_info(optim)->workspace_bytes + lists);
    assert_null(arena.block);
    arena_allocate(&arena, backend_memory(w->be));
    w->be->copy_from_host(w->be, params, world_params(w), bytes);
    optim_start(optim, (OptimBuffers){params, params, grads});
    float *gradient = checked_malloc(bytes, "a gradient"), *moved = checked_malloc(bytes, "parameters");
    OptimWorld *other = open_world(odd_table(), config, DTYPE_FLOAT32, 1, NULL);
    Optim *own = other->optim;
    for (uint32_t i = 0; i < 6; i++) {
        Optim *both[] = {own, optim};
        Backend *backends[] = {other->be, w->be};
        for (size_t at = 0; at < w->table.length; at++) gradient[at] = random_gradient(i + 1, at);
        for (int k = 0; k < 2; k++)
            backends[k]->copy_from_host(backends[k], optim_gradient(both[k], i % 2 ? 1 : 0), gradient, bytes);
        if (i % 2 == 0) continue;
        for (int k = 0; k < 2; k++) optim_step(both[k], uniform_rates(1e-3), false);
        assert_true(optim_result(own).grad_norm == optim_result(optim).grad_norm);
    }
    w->be->copy_to_host(w->be, moved, params, bytes);
    assert_memory_equal(moved, world_params(other), bytes);
    free(gradient);
    free(moved);
    close_world(other);
    optim_close(optim);
    arena_free(&arena);
    close_world(w);
}

/* ---- gaps, threads ---- */

static void assert_gaps(const OptimWorld *w, const float *buffer, float expected) {
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        size_t next = i + 1 < w->table.count ? t[1].offset : w->table.length;
        for (size_t at = t->offset + t->size; at < next; at++) assert_true(buffer[at] == expected);
    }
}

/* Gaps that are zero stay zero, also with decay and in the weight copy; and they are nobody's: what lies in the gaps of
 * the gradient, even if it is no number, changes nothing. */
static void test_gaps(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_BFLOAT16, 2), *twin = usual_world(DTYPE_BFLOAT16, 2);
    fill_gradient(w, NAN);
    for (uint32_t step = 1; step < 4; step++) {
        set_gradient(w, random_gradient, step);
        set_gradient(twin, random_gradient, step);
        OptimResult result = world_step(w, uniform_rates(0.01)), expected = world_step(twin, uniform_rates(0.01));
        assert_true(result.nonfinite_tensor == -1 && result.grad_norm == expected.grad_norm);
    }
    assert_is(w, take_snapshot(twin));
    assert_gaps(w, world_params(w), 0.0f);
    assert_gaps(twin, world_params(twin), 0.0f);
    assert_gaps(twin, world_gradient(twin), 0.0f);
    assert_memory_equal(world_weights(w), world_weights(twin), w->table.length * sizeof(bfloat16));
    close_world(w);
    close_world(twin);
}

static void test_threads(void **state) {
    (void)state;
    if (strcmp(test_device(), "cpu") != 0) skip(); /* a GPU's work does not depend on them */
    for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
        OptimWorld *one = usual_world((DType)type, 1);
        run_steps(one, 3, 5e-7);
        for (int threads = 1; threads <= 3; threads++) {
            OptimWorld *w = usual_world((DType)type, threads);
            run_steps(w, 3, 5e-7);
            assert_is(w, take_snapshot(one));
            close_world(w);
        }
        close_world(one);
    }
}

/* ---- state in and out ---- */

static void test_names(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_FLOAT32, 1);
    assert_string_equal(optim_names[OPTIM_ADAMW], "adamw");
    assert_null(optim_names[OPTIM_COUNT]);
    assert_int_equal(optim_info(w->optim)->state_count, 2);
    assert_string_equal(optim_info(w->optim)->state_names[0], "m");
    assert_string_equal(optim_info(w->optim)->state_names[1], "v");
    assert_in_range(optim_info(w->optim)->state_bytes, 2 * w->table.parameters * sizeof(float),
                    2 * w->table.length * sizeof(float));
    assert_int_equal(optim_updates(w->optim), 0);
    close_world(w);
}

/* What a checkpoint does: state and updates go from one optimizer to another, which goes on with the same bits. */
static void test_resume(void **state) {
    (void)state;
    OptimWorld *old = usual_world(DTYPE_FLOAT32, 2), *new = usual_world(DTYPE_FLOAT32, 2);
    run_steps(old, 4, 5e-7);
    for (int i = 0; i < old->table.count; i++)
        for (int s = -1; s < 2; s++) {
            float *host = fetch_tensor(old, s, i);
            if (s >= 0)
                optim_store(new->optim, s, i, host);
            else
                new->be->copy_from_host(new->be, new->buffers.params + new->table.tensors[i].offset, host,
                                        old->table.tensors[i].size * sizeof *host);
            free(host);
        }
    optim_set_updates(new->optim, optim_updates(old->optim));
    assert_is(new, take_snapshot(old));
    for (uint32_t step = 10; step < 12; step++) {
        set_gradient(old, random_gradient, step);
        set_gradient(new, random_gradient, step);
        world_step(old, uniform_rates(1e-3));
        world_step(new, uniform_rates(1e-3));
    }
    assert_int_equal(optim_updates(new->optim), 6);
    assert_is(new, take_snapshot(old));
    close_world(old);
    close_world(new);
}

/* Storing one tensor touches no other. */
static void test_store_one(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_FLOAT32, 1);
    float ones[129], *stored, *other;
    for (size_t k = 0; k < 129; k++) ones[k] = (float)k + 1.0f;
    optim_store(w->optim, 1, 4, ones);
    for (int i = 0; i < w->table.count; i++) {
        other = fetch_tensor(w, 0, i);
        stored = fetch_tensor(w, 1, i);
        for (size_t k = 0; k < w->table.tensors[i].size; k++)
            assert_true(other[k] == 0.0f && stored[k] == (i == 4 ? (float)k + 1.0f : 0.0f));
        free(other);
        free(stored);
    }
    close_world(w);
}

static int changes;
static void count_change(Backend *be) { (void)be, changes++; }

/* The backend is told of new weights. (Of those that a skipped step left as they were too: the host does not know.) */
static void test_backend_is_told(void **state) {
    (void)state;
    OptimWorld *w = usual_world(DTYPE_FLOAT32, 1);
    w->be->invalidate_weights = count_change;
    changes = 0;
    for (int step = 1; step < 4; step++) {
        set_gradient(w, random_gradient, (uint32_t)step);
        world_step(w, uniform_rates(1e-3));
        assert_int_equal(changes, step);
    }
    close_world(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),           cmocka_unit_test(test_betas_near_one),
        cmocka_unit_test(test_no_memory),       cmocka_unit_test(test_zero_gradient),
        cmocka_unit_test(test_zero_rate),       cmocka_unit_test(test_clip),
        cmocka_unit_test(test_gradient_scale),  cmocka_unit_test(test_huge_gradient),
        cmocka_unit_test(test_not_finite),      cmocka_unit_test(test_first_of_several_is_named),
        cmocka_unit_test(test_ahead),           cmocka_unit_test(test_results_are_taken),
        cmocka_unit_test(test_planned_memory),  cmocka_unit_test(test_gaps),
        cmocka_unit_test(test_threads),         cmocka_unit_test(test_names),
        cmocka_unit_test(test_resume),          cmocka_unit_test(test_store_one),
        cmocka_unit_test(test_backend_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
