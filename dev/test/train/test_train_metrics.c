/* test_train_metrics.c: what whole runs report to research with: the learning rate of each parameter group, and the norms
 * of every tensor's gradient, update and weight. */
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learning_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
