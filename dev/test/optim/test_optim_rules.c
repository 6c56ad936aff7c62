/* test_optim_rules.c: the numbers of every optimizer in one process: against the values of the published
 * implementations (dev/golden/optimizers.json) and the float64 steps of optim_world.h.
 *
 * With OPTIM_SHOW in the environment, the errors that are measured are printed. */
#include "dev/test/test.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "dev/test/kernels/test_gpu.h"
#include "dev/test/optim/optim_variants.h"

static bool shows(void) { return getenv("OPTIM_SHOW") != NULL; }

/* ---- the published implementations ---- */

static const cJSON *item(const cJSON *object, const char *key) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!value) fail_msg("the golden file has no %s", key);
    return value;
}

static const cJSON *at_step(const cJSON *list, int step) { return cJSON_GetArrayItem(list, step); }

static TensorTable golden_table(const cJSON *golden) {
    TensorTable table = {0};
    const cJSON *tensor;
    cJSON_ArrayForEach(tensor, item(golden, "tensors")) {
        const char *role = item(tensor, "role")->valuestring;
        const cJSON *shape = item(tensor, "shape");
        bool vector = cJSON_GetArraySize(shape) == 1;
        int last = cJSON_GetArrayItem(shape, vector ? 0 : 1)->valueint;
        int rows = vector ? 1 : cJSON_GetArrayItem(shape, 0)->valueint;
        TensorRole number = vector ? ROLE_VECTOR : strcmp(role, "matrix") == 0 ? ROLE_MATRIX : ROLE_EMBEDDING;
        tensor_table_add(&table, item(tensor, "name")->valuestring, number, rows, last, rows);
    }
    return table;
}

/* Copies a list of numbers to a tensor's place in a flat buffer. */
static void golden_tensor(float *flat, const Tensor *tensor, const cJSON *list) {
    float *to = flat + tensor->offset;
    assert_int_equal(cJSON_GetArraySize(list), tensor->size);
    for (const cJSON *number = list->child; number; number = number->next) *to++ = (float)number->valuedouble;
}

/* The numbers of {"tensor's name": [...]}. */
static void golden_numbers(float *flat, const TensorTable *table, const cJSON *by_name) {
    for (int i = 0; i < table->count; i++)
        golden_tensor(flat, &table->tensors[i], item(by_name, table->tensors[i].name));
}

/* Reads these settings as a config file's. */
static Config golden_config(const cJSON *settings) {
    const char *path = test_path("golden.json");
    char *text = cJSON_PrintUnformatted(settings);
    char *file =
        format_string("{\"data\": {\"train\": \"t\", \"val\": \"v\"}, \"optimizer\": %s, \"train\": {\"max_iters\""
                      ": 6, \"total_batch_size\": 1, \"batch_size\": 1, \"out_dir\": \"o\"}}",
                      text);
    test_write_text(path, file);
    Config config;
    Error error;
    if (!config_load(&config, path, 0, NULL, &error)) fail_msg("%s", error.text);
    free(text);
    free(file);
    return config;
}

/* Settings as in the design's list of defaults are taken away. */
static void leave_out_defaults(cJSON *settings) {
    const char *defaults =
        "{\"weight_decay\": 0.1, \"beta1\": 0.9, \"beta2\": 0.95, \"eps\": 1e-8, \"gamma\": 0.025, \"is_approx\": true,"
        "\"optimize_1d\": false, \"lr_1d\": 3e-3, \"betas_1d\": [0.9, 0.95], \"weight_decay_1d\": 0.1,"
        "\"muon_weight_decay\": 0, \"momentum\": 0.95, \"nesterov\": true, \"ns_steps\": 5}";
    cJSON *list = cJSON_Parse(defaults);
    if (strcmp(item(settings, "name")->valuestring, "sgd-sai") == 0)
        cJSON_SetNumberValue(cJSON_GetObjectItem(list, "momentum"), 0.9);
    for (const cJSON *value = list->child; value; value = value->next)
        if (cJSON_Compare(cJSON_GetObjectItemCaseSensitive(settings, value->string), value, true))
            cJSON_DeleteItemFromObjectCaseSensitive(settings, value->string);
    cJSON_Delete(list);
}

/* A case's optimizer, read from a file with every setting and from one with those that are not the defaults. */
static OptimConfig golden_optimizer(const cJSON *one) {
    cJSON *settings = cJSON_Duplicate(item(one, "settings"), true);
    cJSON_AddNumberToObject(settings, "grad_clip", 0.0);
    Config whole = golden_config(settings);
    int given = cJSON_GetArraySize(settings);
    leave_out_defaults(settings);
    assert_true(cJSON_GetArraySize(settings) < given);
    Config sparse = golden_config(settings);
    char *whole_text = config_to_json(&whole), *sparse_text = config_to_json(&sparse);
    assert_string_equal(whole_text, sparse_text);
    free(whole_text);
    free(sparse_text);
    cJSON_Delete(settings);
    return whole.optimizer;
}

static OptimWorld *golden_world(const cJSON *golden, const cJSON *one) {
    OptimWorld *w = open_world(golden_table(golden), golden_optimizer(one), DTYPE_FLOAT32, 2, NULL);
    float *params = checked_calloc(w->table.length, sizeof *params, "parameters");
    for (int i = 0; i < w->table.count; i++)
        golden_tensor(params, &w->table.tensors[i], item(at_step(item(golden, "tensors"), i), "init"));
    for (size_t at = 0; at < w->table.length; at++) w->start[at] = w->x[at] = params[at];
    set_params(w, params);
    free(params);
    return w;
}

static void set_golden_gradient(OptimWorld *w, const cJSON *values) {
    float *gradient = checked_calloc(w->table.length, sizeof *gradient, "a gradient");
    golden_numbers(gradient, &w->table, values);
    w->be->copy_from_host(w->be, optim_gradient(w->optim, w->which), gradient, w->table.length * sizeof *gradient);
    free(gradient);
}

/* g_last of step t is the second gradient of step t - 1; after the last step there is none to be had. */
static void golden_step(OptimWorld *w, const cJSON *golden, int step, int steps) {
    double scale = at_step(item(golden, "lr_scale"), step)->valuedouble;
    set_golden_gradient(w, at_step(item(golden, "grads"), step));
    if (optim_info(w->optim)->gradients > 1) {
        both_hold(w);
        const cJSON *exact = item(golden, "last_grad_exact");
        set_golden_gradient(w, at_step(exact, step + 1 < steps ? step + 1 : 0));
    }
    both_step(w, w->config.learning_rate * scale);
}

/* Distances in the norm, of one tensor (>= 0) or of all (-1). */
static double distance(const OptimWorld *w, const float *a, const float *b, int tensor) {
    double squares = 0.0;
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        for (size_t at = t->offset; at < t->offset + t->size && (tensor < 0 || tensor == i); at++)
            squares += pow((double)a[at] - b[at], 2.0);
    }
    return sqrt(squares);
}

/* The largest errors of a case: as shares of the way gone, and of what bfloat16 is allowed. */
typedef struct GoldenErrors {
    double of_tensor, of_all, of_float64, bfloat16_tensor, bfloat16_all;
} GoldenErrors;

/* `same` are the case's own values; `precise` are those of Newton-Schulz in float32, NULL where this is that case. */
static void compare_golden(OptimWorld *w, const float *same, const float *precise, const char *what,
                           GoldenErrors *errors) {
    float *start = checked_malloc(w->table.length * sizeof *start, "parameters");
    const float *params = world_params(w);
    for (size_t at = 0; at < w->table.length; at++) start[at] = (float)w->start[at];
    for (int i = -1; i < w->table.count; i++) {
        const char *name = i < 0 ? "all tensors" : w->table.tensors[i].name;
        double way = distance(w, precise ? precise : same, start, i);
        double off = distance(w, params, precise ? precise : same, i) / way;
        double allowed = precise ? 1.6 * distance(w, same, precise, i) / way : 0.0;
        double *worst = i < 0 ? &errors->of_all : &errors->of_tensor;
        *worst = fmax(*worst, off);
        double *worst_share = i < 0 ? &errors->bfloat16_all : &errors->bfloat16_tensor;
        if (allowed > 1e-4) *worst_share = fmax(*worst_share, 1.6 * off / allowed);
        if (!(off <= fmax(allowed, 1e-4)))
            fail_msg("%s, %s: off by %.3g of the way, allowed %.3g", what, name, off, fmax(allowed, 1e-4));
    }
    free(start);
}

/* The case whose name is this one's with float32 for bfloat16; NULL for other cases. */
static const cJSON *precise_case(const cJSON *golden, const char *name) {
    size_t stem = strlen(name) - strlen("bfloat16");
    const cJSON *one;
    if (strlen(name) < strlen("bfloat16") || strcmp(name + stem, "bfloat16") != 0) return NULL;
    cJSON_ArrayForEach(one, item(golden, "cases")) {
        const char *other = item(one, "case")->valuestring;
        if (strncmp(name, other, stem) == 0 && strcmp(other + stem, "float32") == 0) return one;
    }
    fail_msg("the golden file has no float32 case for %s", name);
    return NULL;
}

/* The float64 steps go along, which shows that they are the published ones too. */
static void run_golden_case(const cJSON *golden, const cJSON *one) {
    const char *name = item(one, "case")->valuestring;
    const cJSON *precise = precise_case(golden, name);
    OptimWorld *w = golden_world(golden, one);
    float *same = checked_malloc(2 * w->table.length * sizeof *same, "parameters"), *other = same + w->table.length;
    GoldenErrors errors = {0};
    int steps = cJSON_GetArraySize(item(golden, "grads")), compared = 0;
    for (int step = 0; step < steps; step++) {
        char key[16];
        snprintf(key, sizeof key, "%d", step);
        golden_step(w, golden, step, steps);
        if (!precise) errors.of_float64 = fmax(errors.of_float64, assert_moved(w, 1e-4));
        if (!cJSON_GetObjectItem(item(one, "params_after"), key)) continue;
        golden_numbers(same, &w->table, item(item(one, "params_after"), key));
        if (precise) golden_numbers(other, &w->table, item(item(precise, "params_after"), key));
        compare_golden(w, same, precise ? other : NULL, name, &errors);
        compared++;
    }
    assert_int_equal(compared, 3);
    if (shows())
        print_message("%-26s tensor %.2e, all %.2e, float64 %.2e; of published bfloat16's: tensor %.2f, all %.2f\n",
                      name, errors.of_tensor, errors.of_all, errors.of_float64, errors.bfloat16_tensor,
                      errors.bfloat16_all);
    free(same);
    close_world(w);
}

static void test_golden(void **state) {
    (void)state;
    char *text = test_read_file("dev/golden/optimizers.json", NULL);
    cJSON *golden = cJSON_Parse(text);
    assert_non_null(golden);
    const cJSON *one;
    cJSON_ArrayForEach(one, item(golden, "cases")) run_golden_case(golden, one);
    assert_int_equal(cJSON_GetArraySize(item(golden, "cases")), 19);
    cJSON_Delete(golden);
    free(text);
}

/* A file that names an optimizer and a rate leads to what optim_defaults() says, but for the two rates that have
 * defaults of their own. */
static void test_defaults(void **state) {
    (void)state;
    for (int name = 0; name < OPTIM_COUNT; name++) {
        cJSON *settings = cJSON_CreateObject();
        cJSON_AddStringToObject(settings, "name", optim_names[name]);
        cJSON_AddNumberToObject(settings, "learning_rate", 0.003);
        OptimConfig file = golden_config(settings).optimizer, own = optim_defaults((OptimName)name, 0.003);
        assert_true(file.name == own.name && file.learning_rate == own.learning_rate && file.eps == own.eps);
        assert_true(file.weight_decay == own.weight_decay && file.weight_decay_1d == own.weight_decay_1d);
        assert_true(file.beta1 == own.beta1 && file.beta2 == own.beta2 && file.gamma == own.gamma);
        assert_true(file.betas_1d[0] == own.betas_1d[0] && file.betas_1d[1] == own.betas_1d[1]);
        assert_true(file.grad_clip == own.grad_clip && file.gradient_scale == own.gradient_scale);
        assert_true(file.is_approx == own.is_approx && file.optimize_1d == own.optimize_1d);
        assert_true(file.muon_weight_decay == own.muon_weight_decay && file.nesterov == own.nesterov);
        assert_true(file.ns_steps == ns_steps_of(&own) && file.ns_dtype == own.ns_dtype);
        assert_true(file.ns_coefficients == own.ns_coefficients && file.muon_beta2 == own.muon_beta2);
        assert_true(file.cautious_weight_decay == own.cautious_weight_decay);
        assert_true(file.muon_embeddings == own.muon_embeddings && own.muon_embeddings == (name != OPTIM_NORMUON));
        if (name == OPTIM_MUON || name == OPTIM_MOONLIGHT || name == OPTIM_SGD_SAI)
            assert_true(file.momentum == own.momentum);
        cJSON_Delete(settings);
    }
}

/* ---- float64 ---- */

/* The optimizers' own errors, in ways: matrices' grow in Newton-Schulz, where small singular values are lifted out of
 * the roundings of large ones. */
static double limit_of(const OptimConfig *config) {
    if (!uses_matrices(config->name)) return 1e-6;
    /* Other coefficients lift small singular values further, and NorMuon lifts small lines to the size of large
     * ones. */
    bool lifts_more = config->ns_coefficients != NS_COEFFICIENTS_QUINTIC || config->name == OPTIM_NORMUON ||
                      config->name == OPTIM_MARS_NORMUON;
    return lifts_more ? 1e-4 : 1e-5;
}

/* Steps of both, and the same ones in a table of bfloat16 weights, whose master weights must not differ. */
static void run_against_float64(const OptimVariant *variant, const OptimConfig *config, uint32_t steps) {
    OptimWorld *w = open_world(odd_table(), *config, DTYPE_FLOAT32, 1, NULL);
    OptimWorld *copied = open_world(odd_table(), *config, DTYPE_BFLOAT16, 1, NULL);
    for (uint32_t step = 0; step < steps; step++) both_random_step(w, step);
    random_steps(copied, 0, steps);
    assert_states(w, 5e-7);
    double worst = assert_moved(w, limit_of(config));
    assert_memory_equal(world_params(copied), world_params(w), w->table.length * sizeof(float));
    assert_copies(copied);
    if (shows())
        print_message("%-26s %s: %.2e of the way\n", variant->label, config->grad_clip > 0.0 ? "clipped" : "as it is",
                      worst);
    close_world(w);
    close_world(copied);
}

/* Which no published value tests. */
static bool is_normuon(const OptimVariant *variant) {
    return variant->name == OPTIM_NORMUON || variant->name == OPTIM_MARS_NORMUON;
}

static void test_against_float64(void **state) {
    (void)state;
    bool in_haste = is_in_haste();
    for (int v = 0; v < VARIANTS; v++)
        for (int clipped = 0; clipped < 2; clipped++) {
            bool stands_for_others = v % 5 == 2 || (v < BASIC_VARIANTS && is_normuon(&optim_variants[v]));
            if (in_haste && (!stands_for_others || clipped != v % 2)) continue;
            if (v >= BASIC_VARIANTS && !clipped) continue;
            OptimConfig config = variant_config(&optim_variants[v]);
            config.grad_clip = clipped ? 1.0 : 0.0;
            config.gradient_scale = clipped ? 4.0 : 1.0;
            run_against_float64(&optim_variants[v], &config, in_haste ? 2 : 5);
        }
}

static float zero(uint32_t stream, size_t at) { return (void)stream, (void)at, 0.0f; }

/* From no gradient come no direction, no sign and no rate of SGD-SaI: only decay is left. Then things begin. */
static void test_zero_gradient(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        OptimWorld *w = open_world(table_of_roles(), variant_config(&optim_variants[v]), DTYPE_FLOAT32, 2, NULL);
        for (int step = 0; step < 2; step++) {
            set_gradient(w, zero, 0);
            if (optim_info(w->optim)->gradients > 1) {
                both_hold(w);
                set_gradient(w, zero, 0);
            }
            assert_true(both_step(w, 0.5).grad_norm == 0.0);
            assert_states(w, 0.0);
            assert_params(w, 0.0, 0.0);
        }
        for (uint32_t step = 0; step < 3; step++) both_random_step(w, step);
        assert_moved(w, limit_of(&w->config));
        close_world(w);
    }
}

/* Tables that leave one of the two groups without tensors, or make one of what is usually two roles. */
static void test_one_role(void **state) {
    (void)state;
    for (int v = 0; v < BASIC_VARIANTS; v++)
        for (int role = 0; role < ROLE_COUNT; role++) {
            TensorTable table = {0};
            tensor_table_add(&table, "a", (TensorRole)role, role == ROLE_VECTOR ? 1 : 13, 5, 13);
            tensor_table_add(&table, "b", (TensorRole)role, role == ROLE_VECTOR ? 1 : 5, 13, 5);
            OptimWorld *w = open_world(table, variant_config(&optim_variants[v]), DTYPE_FLOAT32, 1, NULL);
            for (uint32_t step = 0; step < 3; step++) both_random_step(w, step);
            assert_states(w, 5e-7);
            assert_moved(w, limit_of(&w->config));
            close_world(w);
        }
}

/* Without the change of the gradient, MARS-AdamW is AdamW, whose global clip leaves nothing for the clip of c. */
static void test_gamma_zero(void **state) {
    (void)state;
    for (int exact = 0; exact < 2; exact++) {
        OptimConfig mars = variant_config(&optim_variants[1]), adamw = variant_config(&optim_variants[0]);
        mars.is_approx = !exact;
        mars.gamma = 0.0;
        mars.gradient_scale = adamw.gradient_scale = 4.0;
        mars.lr_1d = adamw.lr_1d = mars.learning_rate;
        mars.betas_1d[0] = mars.beta1;
        mars.betas_1d[1] = mars.beta2;
        mars.weight_decay_1d = 0.0; /* AdamW's vectors have none */
        OptimWorld *w = open_world(odd_table(), mars, DTYPE_BFLOAT16, 2, NULL);
        OptimWorld *twin = open_world(odd_table(), adamw, DTYPE_BFLOAT16, 2, NULL);
        random_steps(w, 0, 5);
        random_steps(twin, 0, 5);
        Snapshot own = take_snapshot(w), other = take_snapshot(twin);
        assert_memory_equal(own.params, other.params, w->table.length * sizeof *own.params);
        assert_memory_equal(own.weights, other.weights, w->table.length * sizeof(bfloat16));
        assert_memory_equal(own.states, other.states, 2 * w->table.length * sizeof *own.states); /* m and v */
        assert_is(w, own);
        assert_is(twin, other);
        close_world(w);
        close_world(twin);
    }
}

/* ---- SGD-SaI's rates ---- */

/* The rate is set at the first step and not again: one element, none but zeros, a spread that is small next to the
 * mean, and two elements. */
static void test_snr(void **state) {
    (void)state;
    TensorTable table = {0};
    tensor_table_add(&table, "one", ROLE_VECTOR, 1, 1, 1);
    tensor_table_add(&table, "zero", ROLE_MATRIX, 3, 5, 3);
    tensor_table_add(&table, "narrow", ROLE_MATRIX, 40, 50, 40);
    tensor_table_add(&table, "two", ROLE_VECTOR, 1, 2, 1);
    OptimConfig config = variant_config(&optim_variants[BASIC_VARIANTS - 1]);
    config.gradient_scale = 8.0;
    OptimWorld *w = open_world(table, config, DTYPE_FLOAT32, 1, NULL);
    const Tensor *t = w->table.tensors;
    set_element(w, t[0].offset, -3.0f);
    for (size_t k = 0; k < t[2].size; k++) set_element(w, t[2].offset + k, 1.0f + 1e-3f * (float)world_normal(5, k));
    set_element(w, t[3].offset, 1.0f);
    set_element(w, t[3].offset + 1, 4.0f);
    both_step(w, 0.1);
    double snr[4];
    optim_fetch_scalars(w->optim, 0, snr);
    assert_string_equal(optim_info(w->optim)->scalar_names[0], "snr");
    assert_true(snr[0] == 1.0 && snr[1] == 0.0);
    assert_in_range((int)snr[2], 40000, 50000); /* sqrt(2000) / 1e-3 */
    assert_error_below(fabs(snr[3] / (sqrt(17.0) / (3.0 / sqrt(2.0))) - 1.0), 1e-4, "of two elements");
    assert_states(w, 5e-7);
    for (uint32_t step = 1; step < 4; step++) both_random_step(w, step);
    optim_fetch_scalars(w->optim, 0, snr);
    assert_true(snr[0] == 1.0 && snr[1] == 0.0);
    assert_states(w, 5e-7);
    assert_moved(w, 1e-6);
    close_world(w);
}

/* ---- types ---- */

/* Master weights after three steps in a table of one type with Newton-Schulz in another. `error`: how far they are from
 * the float64 ones, in ways; may be NULL. */
static float *params_with(const OptimVariant *variant, DType type, NsDtype ns_dtype, double *error) {
    OptimConfig config = variant_config(variant);
    config.ns_dtype = ns_dtype;
    OptimWorld *w = open_world(table_of_chunks(), config, type, 1, NULL);
    for (uint32_t step = 0; step < 3 && error; step++) both_random_step(w, step);
    if (error)
        *error = assert_moved(w, 0.1);
    else
        random_steps(w, 0, 3);
    float *params = checked_malloc(w->table.length * sizeof *params, "parameters");
    memcpy(params, world_params(w), w->table.length * sizeof *params);
    close_world(w);
    return params;
}

/* Newton-Schulz's type is its own affair: whatever the table's, master weights are the same bits; "auto" is the
 * table's; and bfloat16 has the errors of bfloat16. */
static void test_ns_dtype(void **state) {
    (void)state;
    TensorTable table = table_of_chunks();
    size_t bytes = table.length * sizeof(float);
    tensor_table_free(&table);
    bool in_haste = is_in_haste();
    for (int v = 0; v < BASIC_VARIANTS; v++) {
        if (in_haste && optim_variants[v].name != OPTIM_MUON && optim_variants[v].name != OPTIM_MARS_M) continue;
        if (!uses_matrices(optim_variants[v].name) ||
            (optim_variants[v].form != USUAL && optim_variants[v].form != EXACT))
            continue;
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
            double error;
            DType other = type == DTYPE_FLOAT32 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
            NsDtype ns_dtype = type == DTYPE_FLOAT32 ? NS_DTYPE_FLOAT32 : NS_DTYPE_BFLOAT16;
            float *params = params_with(&optim_variants[v], (DType)type, ns_dtype, &error);
            float *in_other = params_with(&optim_variants[v], other, ns_dtype, NULL);
            float *automatic = params_with(&optim_variants[v], (DType)type, NS_DTYPE_AUTO, NULL);
            assert_memory_equal(in_other, params, bytes);
            assert_memory_equal(automatic, params, bytes);
            if (shows())
                print_message("%-26s %s: %.2e of the way\n", optim_variants[v].label, dtype_name((DType)type), error);
            assert_true(type == DTYPE_FLOAT32 ? error < 1e-4 : error > 1e-3);
            free(params);
            free(in_other);
            free(automatic);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_defaults), cmocka_unit_test(test_against_float64),
        cmocka_unit_test(test_zero_gradient), cmocka_unit_test(test_one_role), cmocka_unit_test(test_gamma_zero),
        cmocka_unit_test(test_snr),           cmocka_unit_test(test_ns_dtype),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
