/* test_golden.c: whole runs against losses and gradient norms that an independent implementation computed
 * (dev/golden), and against each other where two ways of running must give the same. Every case of every optimizer. */
#include "dev/test/train/train_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/test_gpu.h"
#include "optim/optim.h"
#include "util/files.h"

/* A case of a golden file, ready to run. */
typedef struct GoldenRun {
    const char *set;                /* "tiny", "modern/track3": its files are dev/golden/SET.json and so on */
    const cJSON *golden, *expected; /* the file and the case in it */
    const char *name;               /* of the case */
    Launch launch;
} GoldenRun;

/* Where a step takes a tenth of a second or more (is_in_haste()), a run is its first steps, and that other ways of
 * running are the same, the build without sanitizers tests, and test_devices.c on the emulated GPU. */
enum { CASES = 38, FEW_STEPS = 6 };

/* GPT-2, and the models of other architectures. */
static const char *const sets[] = {"tiny",
                                   "tiny_bias",
                                   "modern/modded",
                                   "modern/modded_gradient",
                                   "modern/proposed",
                                   "modern/track3",
                                   "modern/track3_gradient",
                                   "modern/variant_attention_output_scale",
                                   "modern/variant_bias_rmsnorm",
                                   "modern/variant_qk_norm",
                                   "modern/variant_relu2",
                                   "modern/variant_rmsnorm",
                                   "modern/variant_rope",
                                   "modern/variant_softcap",
                                   "modern/variant_untied"};

static bool is_modern(const char *set) { return strncmp(set, "modern/", strlen("modern/")) == 0; }

static const cJSON *member(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item) fail_msg("dev/golden: '%s' is missing", key);
    return item;
}

static bool setting_is(const GoldenRun *run, const char *key, const char *value) {
    const cJSON *settings = member(run->expected, "optimizer");
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(settings, key));
    return text && strcmp(text, value) == 0;
}

static bool is_adamw(const GoldenRun *run) { return setting_is(run, "name", "adamw"); }

/* Newton-Schulz blows rounding errors up: small singular values of a direction are all raised to about 1, whatever they
 * are made of. */
static bool has_newton_schulz(const GoldenRun *run) {
    return cJSON_GetObjectItemCaseSensitive(member(run->expected, "optimizer"), "ns_steps") != NULL;
}

/* The stored losses of GPT-2 under a bfloat16 Newton-Schulz come from a PyTorch that rounded its coefficients, too:
 * PyTorch 2.15 is 0.0065 from them, and 0.0005 from this trainer. */
static bool has_bfloat16_newton_schulz(const GoldenRun *run) { return setting_is(run, "ns_dtype", "bfloat16"); }

/* The steps of a run: where there is little time the first ones. The schedules of other architectures than GPT-2 depend
 * on the length of the run, which is left whole. */
static int steps_of(const char *set, const cJSON *golden) {
    int all = member(member(golden, "train"), "max_iters")->valueint;
    return is_in_haste() && !is_modern(set) ? FEW_STEPS : all;
}

/* Calls `check` for every case of one set, and returns how many there were. */
static int for_each_case(const char *set, void (*check)(const GoldenRun *run)) {
    char *file = format_string("dev/golden/%s.json", set), *text = test_read_file(file, NULL);
    cJSON *golden = cJSON_Parse(text);
    int count = 0;
    const cJSON *one;
    if (!golden) fail_msg("%s is not JSON", file);
    cJSON_ArrayForEach(one, member(golden, "cases")) {
        char *config = train_golden_config(set, golden, one, steps_of(set, golden));
        GoldenRun run = {set, golden, one, member(one, "case")->valuestring, {.config = config}};
        check(&run);
        count++;
        free(config);
    }
    cJSON_Delete(golden);
    free(text);
    free(file);
    return count;
}

static void for_every_case(void (*check)(const GoldenRun *run)) {
    int count = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(sets); i++) count += for_each_case(sets[i], check);
    if (count != CASES) fail_msg("%d cases were run; dev/golden has %d", count, CASES);
}

static void assert_near(const GoldenRun *run, const char *what, int step, double value, double expected, double limit) {
    if (!(fabs(value - expected) <= limit))
        fail_msg("%s, %s: %s at step %d is %.9g, the reference %.9g, more than %g apart", run->set, run->name, what,
                 step, value, expected, limit);
}

/* The curve of a run against the reference: losses within `limit`. Gradient norms are compared in float32 only. */
static void assert_golden(const GoldenRun *run, const cJSON *log, double limit, bool compare_norms) {
    int all_steps = member(member(run->golden, "train"), "max_iters")->valueint, evaluations = 2;
    int steps = steps_of(run->set, run->golden);
    double *losses = log_numbers(log, "train", "loss", &steps), *norms = log_numbers(log, "train", "grad_norm", &steps);
    double *validation = log_numbers(log, "val", "loss", &evaluations);
    const cJSON *expected_losses = member(run->expected, "train_loss"),
                *expected_norms = member(run->expected, "grad_norm");
    assert_int_equal(cJSON_GetArraySize(expected_losses), all_steps);
    assert_int_equal(cJSON_GetArraySize(expected_norms), all_steps);
    for (int i = 0; i < steps; i++) {
        double norm = cJSON_GetArrayItem(expected_norms, i)->valuedouble;
        assert_near(run, "the loss", i, losses[i], cJSON_GetArrayItem(expected_losses, i)->valuedouble, limit);
        if (compare_norms) assert_near(run, "the gradient norm", i, norms[i], norm, 1e-3 * norm);
    }
    assert_near(run, "the validation loss", 0, validation[0], member(run->expected, "val_loss_before")->valuedouble,
                limit);
    if (steps == all_steps)
        assert_near(run, "the validation loss", steps, validation[1],
                    member(run->expected, "val_loss_after")->valuedouble, limit);
    free(losses);
    free(norms);
    free(validation);
}

/* The name of a run of this case, and so of its folder. The caller frees it. */
static char *run_name(const GoldenRun *run, const char *variant) {
    return format_string("%s_%s_%s", is_modern(run->set) ? strchr(run->set, '/') + 1 : run->set, run->name, variant);
}

/* Runs a case in some way and returns its log. */
static cJSON *run_case(const GoldenRun *run, const char *variant, const char *arguments) {
    char *name = run_name(run, variant);
    train(&run->launch, name, "%s", arguments);
    cJSON *log = train_log(name);
    free(name);
    return log;
}

/* The log of the plain float32 run of this case, run where it has not been yet. */
static cJSON *plain_log(const GoldenRun *run) {
    char *name = run_name(run, "float32");
    bool is_there = files_is_file(test_path("%s/metrics.jsonl", name));
    cJSON *log = is_there ? train_log(name) : run_case(run, "float32", "--precision=float32");
    free(name);
    return log;
}

/* The cases that the tests below run: the optimizer ignores how tokens are stored or activations kept, but the exact
 * form runs the model twice a step. */
static bool is_enough(const GoldenRun *run) {
    return strcmp(run->name, "adamw") == 0 || strcmp(run->name, "mars-adamw-exact") == 0;
}

/* Where there is little time, these and Newton-Schulz: the optimizers are compared with published values by
 * test_optim_rules.c, gradients of every architecture by test_golden_gradients.c. */
static void check_float32(const GoldenRun *run) {
    if (is_in_haste() && !is_enough(run) && strcmp(run->name, "mars-m") != 0) return;
    cJSON *log = plain_log(run);
    bool is_flipping =
        cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(member(run->expected, "optimizer"), "cautious_weight_decay"));
    double limit = has_bfloat16_newton_schulz(run)                          ? (is_modern(run->set) ? 5e-3 : 1e-2)
                   : is_adamw(run) || (is_modern(run->set) && !is_flipping) ? 2e-4
                                                                            : 1e-3;
    assert_golden(run, log, limit, !has_newton_schulz(run));
    cJSON_Delete(log);
}

static void test_float32(void **state) {
    (void)state;
    for_every_case(check_float32);
}

static void check_bfloat16(const GoldenRun *run) {
    bool stands_for_others =
        is_enough(run) || strcmp(run->name, "modded-muon") == 0 || strcmp(run->name, "track3-normuon") == 0;
    bool is_plain = strcmp(run->set, "tiny") == 0; /* in which every optimizer runs */
    if ((is_in_haste() && !is_enough(run)) || (!is_plain && !stands_for_others)) return;
    cJSON *log = run_case(run, "bfloat16", "--precision=bfloat16");
    /* The first steps of the variants of GPT-2 are large: their losses move by up to 0.04, those of whole runs by
     * 0.01. */
    assert_golden(run, log, is_modern(run->set) ? 5e-2 : has_bfloat16_newton_schulz(run) ? 1e-2 : 5e-3, false);
    cJSON_Delete(log);
}

static void test_bfloat16(void **state) {
    (void)state;
    Error error;
    Backend *be = backend_open(test_device(), DTYPE_BFLOAT16, 1, &error);
    if (!be) {
        print_message("bfloat16 is not tested: %s\n", error.text);
        skip();
    }
    be->close(be);
    for_every_case(check_bfloat16);
}

/* Runs a case in another way, which must give the same bits. */
static void check_same_bits(const GoldenRun *run, const char *variant, const char *arguments) {
    cJSON *expected = plain_log(run), *log = run_case(run, variant, arguments);
    assert_same_curve(log, expected);
    char *name = run_name(run, variant), *plain_name = run_name(run, "float32");
    assert_same_checkpoints(name, plain_name);
    free(name);
    free(plain_name);
    cJSON_Delete(log);
    cJSON_Delete(expected);
}

static void check_raw_tokens(const GoldenRun *run) {
    if (!is_enough(run) || is_modern(run->set)) return;
    char *arguments = format_string("--precision=float32 --data.train=dev/golden/%s_train_raw.bin", run->set);
    check_same_bits(run, "raw", arguments);
    free(arguments);
}

static void test_raw_tokens(void **state) {
    (void)state;
    if (is_in_haste()) skip();
    for_every_case(check_raw_tokens);
}

static void check_recompute(const GoldenRun *run) {
    if (!is_enough(run)) return;
    check_same_bits(run, "mlp", "--precision=float32 --recompute=mlp");
    check_same_bits(run, "block", "--precision=float32 --recompute=block");
}

static void test_recompute(void **state) {
    (void)state;
    if (is_in_haste()) skip();
    for_every_case(check_recompute);
}

/* The batch in micro-steps of every size that divides it. */
static void check_micro_steps(const GoldenRun *run) {
    if (!is_enough(run)) return;
    const cJSON *reference = member(run->golden, "train");
    int total = member(reference, "batch_size")->valueint * member(reference, "accum")->valueint;
    cJSON *expected = plain_log(run);
    for (int size = 1; size <= total; size++) {
        if (total % size != 0) continue;
        char *variant = format_string("micro_%d", size);
        char *arguments = format_string("--precision=float32 --batch_size=%d", size);
        cJSON *log = run_case(run, variant, arguments);
        assert_close_curve(log, expected, 1e-5);
        cJSON_Delete(log);
        free(variant);
        free(arguments);
    }
    cJSON_Delete(expected);
}

static void test_micro_steps(void **state) {
    (void)state;
    if (is_in_haste()) skip();
    for_every_case(check_micro_steps);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float32),   cmocka_unit_test(test_bfloat16),    cmocka_unit_test(test_raw_tokens),
        cmocka_unit_test(test_recompute), cmocka_unit_test(test_micro_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
