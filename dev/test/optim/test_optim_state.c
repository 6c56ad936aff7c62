/* test_optim_state.c: what every optimizer keeps from step to step, in one process: which states it has and where, that
 * a gradient that is not finite changes nothing, that a step goes on from a checkpoint with the same bits, and that the
 * bits depend neither on threads nor on what nobody set. */
#include "dev/test/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/test_gpu.h"
#include "dev/test/optim/optim_variants.h"

/* ---- gradients that are not finite ---- */

/* In either gradient: nothing changes, the tensor is named, and the next good step is a twin's that never saw it. */
static void expect_skip(OptimWorld *w, OptimWorld *twin, uint32_t step, int tensor, bool in_second, float bad) {
    Snapshot before = take_snapshot(w);
    OptimResult result = spoilt_step(w, 100 + step, tensor, in_second, bad);
    assert_int_equal(result.nonfinite_tensor, tensor);
    assert_int_equal(result.of_next_batch, in_second);
    assert_is(w, before);
    random_steps(w, step, step + 1);
    random_steps(twin, step, step + 1);
    assert_is(w, take_snapshot(twin));
}

static void test_not_finite(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        OptimConfig config = variant_config(&optim_variants[v]);
        config.ns_dtype = NS_DTYPE_AUTO;
        OptimWorld *w = open_world(table_of_roles(), config, DTYPE_BFLOAT16, 2, NULL);
        OptimWorld *twin = open_world(table_of_roles(), config, DTYPE_BFLOAT16, 2, NULL);
        uint32_t step = 0;
        for (int tensor = 0; tensor < w->table.count; tensor++) {
            if (is_in_haste() && tensor != v % w->table.count) continue;
            for (int second = 0; second < 1 + (optim_variants[v].form == EXACT); second++, step++)
                expect_skip(w, twin, step, tensor, second, bad[(step + (uint32_t)v) % 3]);
        }
        close_world(w);
        close_world(twin);
    }
}

/* The same where each next step is begun before the outcome of the last is known. */
static void test_not_finite_ahead(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        OptimConfig config = variant_config(&optim_variants[v]);
        config.ns_dtype = NS_DTYPE_AUTO;
        OptimWorld *w = open_world(table_of_roles(), config, DTYPE_BFLOAT16, 2, NULL);
        OptimWorld *twin = open_world(table_of_roles(), config, DTYPE_BFLOAT16, 2, NULL);
        int tensors = w->table.count;
        for (uint32_t step = 0; step < 6; step++) {
            bool in_second = optim_variants[v].form == EXACT && step % 2 == 1;
            begin_spoilt_step(w, 100 + step, (int)step % tensors, in_second, step % 3 ? NAN : INFINITY);
            if (step > 0) assert_int_equal(optim_result(w->optim).nonfinite_tensor, -1);
            begin_spoilt_step(w, step, -1, false, 0.0f);
            OptimResult result = optim_result(w->optim);
            assert_int_equal(result.nonfinite_tensor, step % (uint32_t)tensors);
            assert_int_equal(result.of_next_batch, in_second);
        }
        assert_int_equal(optim_result(w->optim).nonfinite_tensor, -1);
        random_steps(twin, 0, 6);
        assert_is(w, take_snapshot(twin));
        close_world(w);
        close_world(twin);
    }
}

/* ---- buffers ---- */

/* Every weight's copy is written in each step. */
static void test_copies_are_written(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        OptimWorld *w = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_BFLOAT16, 1, NULL);
        size_t bytes = w->table.length * sizeof(bfloat16);
        void *poison = checked_malloc(bytes, "weights");
        memset(poison, 0xff, bytes);
        w->be->copy_from_host(w->be, w->buffers.weights, poison, bytes);
        random_steps(w, 0, 1);
        const float *params = world_params(w);
        const bfloat16 *weights = world_weights(w);
        for (int i = 0; i < w->table.count; i++)
            for (size_t k = 0, at = w->table.tensors[i].offset; k < w->table.tensors[i].size; k++, at++)
                assert_int_equal(weights[at].bits, bfloat16_from_float(params[at]).bits);
        free(poison);
        close_world(w);
    }
}

/* Gradients are read where optim_gradient() says, which is now one buffer and now another, and nowhere else; gaps,
 * whatever they hold, change nothing. */
static void test_undefined_numbers(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        OptimWorld *w = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
        OptimWorld *twin = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
        for (uint32_t step = 0; step < 5; step++) {
            fill_gradient(w, NAN);
            random_steps(w, step, step + 1);
            random_steps(twin, step, step + 1);
        }
        assert_is(w, take_snapshot(twin));
        assert_memory_equal(world_params(w), world_params(twin), w->table.length * sizeof(float)); /* gaps too */
        close_world(w);
        close_world(twin);
    }
}

/* What is g_last now is kept by exchanging buffers, of which the caller's own is one. */
static void test_exchange(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        OptimWorld *w = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
        const float *own = w->buffers.grads, *other = NULL;
        bool changes = uses_prev_grad(&optim_variants[v]) && optim_variants[v].form != EXACT;
        for (uint32_t step = 0; step < 5; step++) {
            const float *place = optim_gradient(w->optim, w->which);
            if (changes && step == 1) other = place;
            assert_ptr_equal(place, changes && step % 2 ? other : own);
            assert_true(other != own);
            random_steps(w, step, step + 1);
        }
        close_world(w);
    }
}

/* The second gradient of the exact forms goes to two buffers in turn; the first one always to the caller's. */
static void test_exchange_exact(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        if (optim_variants[v].form != EXACT) continue;
        OptimWorld *w = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
        const float *places[4];
        for (uint32_t step = 0; step < 4; step++) {
            assert_ptr_equal(optim_gradient(w->optim, w->which), w->buffers.grads);
            set_gradient(w, random_gradient, step);
            begin_second(w);
            places[step] = optim_gradient(w->optim, w->which);
            set_gradient(w, random_gradient, step + 10);
            world_step(w, world_rates(w, 0.01));
        }
        assert_true(places[0] != places[1] && places[0] != w->buffers.grads && places[1] != w->buffers.grads);
        assert_true(places[2] == places[0] && places[3] == places[1]);
        close_world(w);
    }
}

static void step_once(void *world) { optim_step(((OptimWorld *)world)->optim, uniform_rates(0.01), false); }
static void first(void *world) { optim_gradient(((OptimWorld *)world)->optim, 0); }
static void second(void *world) { optim_gradient(((OptimWorld *)world)->optim, 1); }

/* Exact forms need both gradients, in each step and in order; the others have no use for a second one. */
static void test_wrong_order(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        OptimWorld *w = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
        assert_int_equal(optim_info(w->optim)->gradients, optim_variants[v].form == EXACT ? 2 : 1);
        if (optim_variants[v].form == EXACT) {
            assert_dies(step_once, w, "needs two gradients");
            random_steps(w, 0, 1);
            assert_dies(step_once, w, "needs two gradients");
            second(w);
            assert_dies(first, w, "gradient 0 comes after 1");
        } else {
            assert_dies(second, w, "and a step has 1");
        }
        close_world(w);
    }
}

static void test_threads(void **state) {
    (void)state;
    if (strcmp(test_device(), "cpu") != 0) skip(); /* a GPU's work does not depend on them */
    for (int v = 0; v < VARIANTS; v += 4)
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
            OptimConfig config = variant_config(&optim_variants[v]);
            config.ns_dtype = NS_DTYPE_AUTO;
            OptimWorld *one = open_world(table_of_chunks(), config, (DType)type, 1, NULL);
            random_steps(one, 0, 2);
            for (int threads = 2; threads <= 3; threads++) {
                OptimWorld *w = open_world(table_of_chunks(), config, (DType)type, threads, NULL);
                random_steps(w, 0, 2);
                assert_is(w, take_snapshot(one));
                close_world(w);
            }
            close_world(one);
        }
}

/* ---- state ---- */

static void copy_state(OptimWorld *to, OptimWorld *from) {
    for (int i = 0; i < from->table.count; i++)
        for (int s = -1; s < optim_info(from->optim)->state_count; s++) {
            if (s >= 0 && !optim_has_state(from->optim, s, i)) continue;
            float *host = fetch_tensor(from, s, i);
            optim_store(to->optim, s, i, host);
            free(host);
        }
    for (int s = 0; s < optim_info(from->optim)->scalar_count; s++) {
        optim_fetch_scalars(from->optim, s, from->scalars);
        optim_store_scalars(to->optim, s, from->scalars);
    }
    if (to->be->activation == DTYPE_BFLOAT16)
        to->be->to_activation(to->be, to->buffers.weights, to->buffers.params, to->table.length);
    optim_set_updates(to->optim, optim_updates(from->optim));
}

/* What a checkpoint does. The one that goes on has been elsewhere, so anything that is not copied would show. */
static void test_resume(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++)
        for (uint32_t steps = 1; steps < 4; steps++) {
            if (is_in_haste() && steps != 1 + (uint32_t)v % 3) continue;
            OptimConfig config = variant_config(&optim_variants[v]);
            config.ns_dtype = NS_DTYPE_AUTO;
            OptimWorld *old = open_world(table_of_roles(), config, DTYPE_BFLOAT16, 2, NULL);
            OptimWorld *new = open_world(table_of_roles(), config, DTYPE_BFLOAT16, 2, NULL);
            random_steps(old, 0, steps);
            random_steps(new, 20, 22);
            copy_state(new, old);
            assert_is(new, take_snapshot(old));
            random_steps(old, steps, steps + 2);
            random_steps(new, steps, steps + 2);
            assert_is(new, take_snapshot(old));
            close_world(old);
            close_world(new);
        }
}

static void test_names(void **state) {
    (void)state;
    for (int v = 0; v < VARIANTS; v++) {
        OptimWorld *w = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
        char names[64] = "";
        for (int s = 0; s < optim_info(w->optim)->state_count; s++) {
            size_t length = strlen(names);
            snprintf(names + length, sizeof names - length, "%s%s", s ? " " : "", optim_info(w->optim)->state_names[s]);
        }
        assert_string_equal(names, optim_variants[v].states);
        assert_int_equal(optim_info(w->optim)->scalar_count, uses_prev_grad(&optim_variants[v])        ? 2
                                                             : optim_variants[v].name == OPTIM_SGD_SAI ? 1
                                                                                                       : 0);
        close_world(w);
    }
}

/* A role's tensors have all of a state or none of it: a letter for each state that it has. */
static void assert_has(OptimName name, const char *matrix, const char *embedding, const char *vector) {
    const char *expected[ROLE_COUNT] = {
        [ROLE_MATRIX] = matrix, [ROLE_EMBEDDING] = embedding, [ROLE_LM_HEAD] = embedding, [ROLE_VECTOR] = vector};
    OptimWorld *w = open_world(table_of_roles(), optim_defaults(name, 1e-3), DTYPE_FLOAT32, 1, NULL);
    for (int i = 0; i < w->table.count; i++)
        for (int s = 0; s < optim_info(w->optim)->state_count; s++) {
            char letter = optim_info(w->optim)->state_names[s][0]; /* g is for g_last */
            assert_true(optim_has_state(w->optim, s, i) ==
                        (strchr(expected[w->table.tensors[i].role], letter) != NULL));
        }
    close_world(w);
}

static void test_which_states(void **state) {
    (void)state;
    assert_has(OPTIM_ADAMW, "mv", "mv", "mv");
    assert_has(OPTIM_MARS_ADAMW, "mvg", "mvg", "mv");
    assert_has(OPTIM_MARS_LION, "mg", "mg", "mv");
    assert_has(OPTIM_MARS_SHAMPOO, "mg", "mg", "mv");
    assert_has(OPTIM_MUON, "b", "b", "mv");
    assert_has(OPTIM_MOONLIGHT, "b", "mv", "mv");
    assert_has(OPTIM_MARS_M, "mg", "mv", "mv");
    assert_has(OPTIM_MARS_M_EFFICIENT, "b", "mv", "mv");
    assert_has(OPTIM_SGD_SAI, "m", "m", "m");
    assert_has(OPTIM_NORMUON, "bv", "mv", "mv");
    assert_has(OPTIM_MARS_NORMUON, "mvg", "mv", "mv");
}

/* v of lines: a number for each row, or column where there are fewer rows, of each matrix. */
static void test_state_of_lines(void **state) {
    (void)state;
    const struct {
        const char *tensor;
        size_t whole, split;
    } lines[] = {{"tall", 23, 23}, {"row", 37, 37}, {"wide", 23, 23}, {"qkv", 33, 3 * 23}, {"tokens", 20, 20}};
    for (int split = 0; split < 2; split++) {
        OptimConfig config = optim_defaults(OPTIM_NORMUON, 1e-3);
        config.muon_embeddings = true;
        config.split_qkv = split;
        OptimWorld *w = open_world(table_of_roles(), config, DTYPE_FLOAT32, 1, NULL);
        assert_string_equal(optim_info(w->optim)->state_names[0], "b");
        assert_string_equal(optim_info(w->optim)->state_names[1], "v");
        for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
            int tensor = tensor_table_find(&w->table, lines[i].tensor);
            assert_int_equal(optim_state_vector(w->optim, 0, tensor), 0);
            assert_int_equal(optim_state_vector(w->optim, 1, tensor), split ? lines[i].split : lines[i].whole);
        }
        assert_int_equal(optim_state_vector(w->optim, 1, tensor_table_find(&w->table, "gain")), 0);
        close_world(w);
    }
}

/* States are held for what has them, with some padding; g_last and the second gradient as whole buffers. */
static void test_bytes(void **state) {
    (void)state;
    for (int v = 0; v < VARIANTS; v++) {
        OptimWorld *w = open_world(odd_table(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
        size_t least = 0, limit = 0, flat = w->table.length * sizeof(float);
        for (int s = 0; s < optim_info(w->optim)->state_count; s++) {
            bool whole = strcmp(optim_info(w->optim)->state_names[s], "g_last") == 0;
            if (whole) least += flat, limit += flat;
            for (int i = 0; i < w->table.count && !whole; i++) {
                if (!optim_has_state(w->optim, s, i)) continue;
                size_t vector = optim_state_vector(w->optim, s, i);
                least += (vector > 0 ? vector : w->table.tensors[i].size) * sizeof(float);
                limit += vector * sizeof(float);
                if (vector > 0) continue;
                limit += (size_t)round_up((int64_t)w->table.tensors[i].size, TENSOR_ALIGNMENT) * sizeof(float);
            }
        }
        assert_in_range(optim_info(w->optim)->state_bytes, least, limit);
        assert_int_equal(optim_info(w->optim)->exact_bytes, optim_variants[v].form == EXACT ? flat : 0);
        size_t newton_schulz = optim_info(w->optim)->workspace_bytes - optim_info(w->optim)->exact_bytes;
        if (uses_matrices(w->config.name))
            assert_true(newton_schulz > 2 * 128 * 128 * sizeof(float)); /* two of the largest hidden matrix */
        else
            assert_int_equal(newton_schulz, 0);
        close_world(w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_not_finite_ahead),
        cmocka_unit_test(test_copies_are_written),
        cmocka_unit_test(test_undefined_numbers),
        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_exchange_exact),
        cmocka_unit_test(test_wrong_order),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_which_states),
        cmocka_unit_test(test_state_of_lines),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
