/* test_train_metrics.c: what whole runs report to research with: the learning rate of each parameter group, and the
 * norms of every tensor's gradient, update and weight. */
#include "dev/test/train/train_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "optim/schedule.h"

static cJSON *run(const char *name, int processes, const char *arguments) {
    Launch launch = {.config = train_small_config(), .processes = processes};
    train(&launch, name, "--batch_size=1 --eval_interval=0 %s", arguments);
    return train_log(name);
}

static double number_of(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(item)) fail_msg("there is no number %s", key);
    return item->valuedouble;
}

static bool is_event(const cJSON *line, const char *event) {
    return strcmp(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, "event")), event) == 0;
}

/* ---- learning rates ---- */

/* The rate at a step of the small config's schedule. */
static double scheduled(double peak, int step) {
    const ScheduleConfig schedule = {
        .name = SCHEDULE_COSINE, .warmup_iters = 3, .lr_decay_iters = 200, .min_lr = 0.0003, .max_iters = 12};
    return schedule_rate(&schedule, peak, step);
}

static void assert_rate(const cJSON *object, const char *key, double peak, int step) {
    double expected = scheduled(peak, step);
    if (!(fabs(number_of(object, key) - expected) <= 1e-8 * peak))
        fail_msg("step %d: %s is %.9g, expected %.9g", step, key, number_of(object, key), expected);
}

/* `lr` is that of learning_rate, also where the optimizer's first parameter group has a rate of its own. */
static void test_learning_rates(void **state) {
    (void)state;
    cJSON *log = run("rates", 0,
                     "--optimizer.name=muon --muon_learning_rate=0.02 --muon_embeddings=false --embedding_lr=0.004 "
                     "--lr_1d=0.001");
    int steps = 0;
    for (const cJSON *line = log->child; line; line = line->next) {
        if (!is_event(line, "train")) continue;
        const cJSON *by_role = cJSON_GetObjectItemCaseSensitive(line, "lr_by_role");
        assert_rate(line, "lr", 0.003, steps);
        assert_int_equal(cJSON_GetArraySize(by_role), 3);
        assert_rate(by_role, "matrix", 0.02, steps);
        assert_rate(by_role, "embedding", 0.004, steps);
        assert_rate(by_role, "vector", 0.001, steps);
        steps++;
    }
    assert_int_equal(steps, 12);
    cJSON_Delete(log);
}

/* ---- norms ---- */

/* Squares of the tensors' gradients add up to the square of grad_norm, and the clip follows from that. */
static void assert_adds_up(const cJSON *norms, double grad_norm) {
    double squares = 0.0;
    const cJSON *tensor;
    cJSON_ArrayForEach(tensor, cJSON_GetObjectItemCaseSensitive(norms, "tensors")) {
        squares += pow(number_of(tensor, "gradient"), 2.0);
        assert_true(number_of(tensor, "weight") > 0.0);
    }
    double clip = fmin(1.0, 0.5 / (grad_norm + 1e-6));
    assert_error_below(fabs(sqrt(squares) - grad_norm) / grad_norm, 1e-7, "the norm of all gradients");
    assert_error_below(fabs(number_of(norms, "clip") - clip) / clip, 1e-7, "the clip");
}

/* Every five steps, from step 0. A learning rate of 0, that of step 0, changes nothing. */
static void test_norms(void **state) {
    (void)state;
    cJSON *log = run("norms", 0, "--norms_interval=5 --grad_clip=0.5 --log_interval=1");
    int steps = 0, trained = 12;
    double *grad_norms = log_numbers(log, "train", "grad_norm", &trained);
    for (const cJSON *line = log->child; line; line = line->next) {
        if (!is_event(line, "norms")) continue;
        int step = (int)number_of(line, "step");
        const cJSON *tensors = cJSON_GetObjectItemCaseSensitive(line, "tensors");
        const cJSON *wte = cJSON_GetObjectItemCaseSensitive(tensors, "wte.weight");
        assert_int_equal(step, 5 * steps++);
        assert_adds_up(line, grad_norms[step]);
        assert_true((number_of(wte, "update") > 0.0) == (step > 0));
    }
    assert_int_equal(steps, 3);
    free(grad_norms);
    cJSON_Delete(log);
}

/* By default there are none. What is measured changes nothing of the run. */
static void test_without_norms(void **state) {
    (void)state;
    cJSON *log = run("without", 0, ""), *measured = run("measured", 0, "--norms_interval=1");
    assert_int_equal(log_last_step(log, "norms"), -1);
    assert_same_curve(measured, log);
    assert_same_checkpoints("measured", "without");
    cJSON_Delete(log);
    cJSON_Delete(measured);
}

/* A run that goes on from step 6 repeats the norms of step 6, not those before it. */
static void test_resumed(void **state) {
    (void)state;
    const char *arguments = "--optimizer.name=mars-adamw --norms_interval=3";
    cJSON *expected = run("never_stopped", 0, arguments);
    char *first = format_string("%s --max_iters=6" TRAIN_WHOLE_SCHEDULE, arguments);
    char *second = format_string("%s --init_from=resume", arguments);
    cJSON_Delete(run("resumed", 0, first));
    cJSON *log = run("resumed", 0, second);
    assert_close_norms(log, expected, 4, 0.0);
    cJSON_Delete(expected);
    cJSON_Delete(log);
    free(first);
    free(second);
}

/* Two ranks measure what one does, whether an optimizer keeps shards of the gradient and whole matrices or not. */
static void test_two_ranks(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    static const char *const optimizers[] = {"adamw", "mars-m --ns_dtype=float32"};
    for (size_t i = 0; i < ARRAY_LENGTH(optimizers); i++) {
        char *arguments = format_string("--optimizer.name=%s --norms_interval=4", optimizers[i]);
        char *one = format_string("one_%zu", i), *two = format_string("two_%zu", i);
        cJSON *expected = run(one, 0, arguments), *log = run(two, 2, arguments);
        assert_close_norms(log, expected, 3, 1e-3);
        cJSON_Delete(expected);
        cJSON_Delete(log);
        free(one), free(two), free(arguments);
    }
}

/* ---- slow ranks ---- */

/* Of three ranks, the one that sleeps whenever it has worked for a while takes most of a step by itself. The others
 * wait for it as long, which does not count: theirs would be a tenth. */
static void test_slow_rank(void **state) {
    (void)state;
    if (!train_has_mpi()) skip();
    for (int slow = only_small_sizes() ? 2 : 0; slow < 3; slow += 2) {
        char *name = format_string("slow_%d", slow), *faults = format_string("FAULT_SLOW_RANK=%d", slow);
        Launch launch = {.config = train_small_config(), .processes = 3, .faults = faults};
        /* Enough work that most sleeps fall into it, and not into the exchange. Sanitizers make work of less. */
        char *flags = format_string("--batch_size=1 --total_batch_size=%d --eval_interval=0 --max_iters=9 "
                                    "--log_interval=8",
                                    only_small_sizes() ? 48 : 480);
        train(&launch, name, flags);
        cJSON *log = train_log(name);
        int count = 2;
        double *ranks = log_numbers(log, "train", "slowest_rank", &count);
        double *times = log_numbers(log, "train", "ms_slowest", &count), *ms = log_numbers(log, "train", "ms", &count);
        assert_int_equal((int)ranks[1], slow);
        /* Two clocks of two processes, which do not begin the step at the same moment. */
        assert_true(times[1] > 0.2 * ms[1] && times[1] <= 1.2 * ms[1]);
        cJSON_Delete(log);
        free(name), free(faults), free(flags), free(ranks), free(times), free(ms);
    }
}

/* A rank alone is its own slowest. (An emulated GPU's clock runs ahead of the host's.) */
static void test_one_rank(void **state) {
    (void)state;
    cJSON *log = run("alone", 0, "");
    int count = 12;
    double *ranks = log_numbers(log, "train", "slowest_rank", &count);
    double *times = log_numbers(log, "train", "ms_slowest", &count), *ms = log_numbers(log, "train", "ms", &count);
    for (int i = 0; i < count; i++) {
        assert_int_equal((int)ranks[i], 0);
        assert_true(times[i] > 0.0 && (times[i] <= ms[i] || strcmp(test_device(), "cpu") != 0));
    }
    cJSON_Delete(log);
    free(ranks), free(times), free(ms);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learning_rates), cmocka_unit_test(test_norms),     cmocka_unit_test(test_without_norms),
        cmocka_unit_test(test_resumed),        cmocka_unit_test(test_two_ranks), cmocka_unit_test(test_slow_rank),
        cmocka_unit_test(test_one_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
