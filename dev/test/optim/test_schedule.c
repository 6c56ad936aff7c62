/* test_schedule.c: the five learning-rate schedules against rates worked out by hand and against their formulas,
 * written once more from the description in schedule.h. test_config_rules.c tests which settings are refused. */
#include "dev/test/test.h"

#include <inttypes.h>
#include <math.h>

#include "optim/schedule.h"

static const double pi = 3.14159265358979323846;

static ScheduleConfig schedule(ScheduleName name, int warmup, int decay, double min_lr, int warmdown, int max_iters) {
    return (ScheduleConfig){.name = name,
                            .warmup_iters = warmup,
                            .lr_decay_iters = decay,
                            .min_lr = min_lr,
                            .warmdown_iters = warmdown,
                            .max_iters = max_iters};
}

/* Equal up to the last few bits of a double; a rate of 0 must be 0. */
static void assert_rate(const ScheduleConfig *s, double peak, int64_t step, double expected) {
    double rate = schedule_rate(s, peak, step);
    if (!(fabs(rate - expected) <= 1e-14 * fabs(expected)))
        fail_msg("schedule %d, step %" PRId64 ": %.17g, expected %.17g", (int)s->name, step, rate, expected);
}

typedef struct Expected {
    int64_t step;
    double rate;
} Expected;

static void assert_rates(const ScheduleConfig *s, double peak, const Expected *expected, size_t count) {
    for (size_t i = 0; i < count; i++) assert_rate(s, peak, expected[i].step, expected[i].rate);
}

#define ASSERT_RATES(schedule, peak, ...)                         \
    assert_rates(schedule, peak, (const Expected[]){__VA_ARGS__}, \
                 sizeof((const Expected[]){__VA_ARGS__}) / sizeof(Expected))

/* ---- rates worked out by hand ---- */

/* The warm-up starts at 0 and reaches the peak at step w, not at w - 1. */
static void test_constant(void **state) {
    (void)state;
    ScheduleConfig s = schedule(SCHEDULE_CONSTANT, 4, 100, 0.25, 0, 100);
    ASSERT_RATES(&s, 2.0, {0, 0.0}, {1, 0.5}, {3, 1.5}, {4, 2.0}, {5, 2.0}, {99, 2.0}, {100, 2.0}, {1000, 2.0});
    s.warmup_iters = 0;
    ASSERT_RATES(&s, 2.0, {0, 2.0}, {1, 2.0}, {99, 2.0});
    s.warmup_iters = 1;
    ASSERT_RATES(&s, 2.0, {0, 0.0}, {1, 2.0});
}

/* From 1 at step 4 to 0.2 at step 16, by way of the cosines of 45, 60, 90 and 120 degrees. */
static void test_cosine(void **state) {
    (void)state;
    ScheduleConfig s = schedule(SCHEDULE_COSINE, 4, 16, 0.2, 0, 20);
    ASSERT_RATES(&s, 1.0, {0, 0.0}, {3, 0.75}, {4, 1.0}, {7, 0.2 + 0.4 * (1.0 + sqrt(0.5))}, {8, 0.8}, {10, 0.6},
                 {12, 0.4}, {16, 0.2}, {17, 0.2}, {19, 0.2}, {1000000, 0.2});
}

static void test_cosine_without_warmup_or_floor(void **state) {
    (void)state;
    ScheduleConfig s = schedule(SCHEDULE_COSINE, 0, 4, 0.0, 0, 4);
    ASSERT_RATES(&s, 3.0, {0, 3.0}, {1, 1.5 * (1.0 + sqrt(0.5))}, {3, 1.5 * (1.0 - sqrt(0.5))}, {5, 0.0});
    double at_two = schedule_rate(&s, 3.0, 2), at_four = schedule_rate(&s, 3.0, 4);
    assert_true(fabs(at_two - 1.5) < 1e-15);
    assert_true(fabs(at_four) < 1e-15);
}

/* 0.9^(100 r): a factor of 0.9 for every hundredth of the way. */
static void test_exp(void **state) {
    (void)state;
    ScheduleConfig s = schedule(SCHEDULE_EXP, 2, 102, 0.5, 0, 200);
    ASSERT_RATES(&s, 1.5, {0, 0.0}, {1, 0.75}, {2, 1.5}, {3, 1.4}, {4, 1.31}, {5, 1.229},
                 {102, 0.5 + 2.656139888758748e-05}, {103, 0.5}, {199, 0.5});
    s = schedule(SCHEDULE_EXP, 0, 100, 0.0, 0, 100);
    ASSERT_RATES(&s, 1.0, {0, 1.0}, {1, 0.9}, {2, 0.81}, {99, pow(0.9, 99)}, {101, 0.0});
}

/* The descent begins at 0.8 N, where the rate is still the peak, and ignores min_lr. */
static void test_wsd(void **state) {
    (void)state;
    ScheduleConfig s = schedule(SCHEDULE_WSD, 10, 50, 0.3, 0, 100);
    ASSERT_RATES(&s, 4.0, {0, 0.0}, {5, 2.0}, {9, 3.6}, {10, 4.0}, {79, 4.0}, {80, 4.0}, {81, 3.8}, {90, 2.0},
                 {99, 0.2}, {100, 0.0});
    s = schedule(SCHEDULE_WSD, 0, 0, 0.0, 0, 7); /* 0.8 N = 5.6 */
    ASSERT_RATES(&s, 1.0, {0, 1.0}, {5, 1.0}, {6, 1.0 / 1.4});
}

/* Here the warm-up's first rate is peak/w, and its last, at w - 1, the peak. */
static void test_trapezoidal(void **state) {
    (void)state;
    ScheduleConfig s = schedule(SCHEDULE_TRAPEZOIDAL, 4, 50, 0.3, 5, 20);
    ASSERT_RATES(&s, 2.0, {0, 0.5}, {1, 1.0}, {3, 2.0}, {4, 2.0}, {14, 2.0}, {15, 2.0}, {16, 1.6}, {18, 0.8}, {19, 0.4},
                 {20, 0.0});
    s = schedule(SCHEDULE_TRAPEZOIDAL, 0, 0, 0.0, 0, 20); /* a constant rate */
    ASSERT_RATES(&s, 2.0, {0, 2.0}, {1, 2.0}, {19, 2.0});
    s = schedule(SCHEDULE_TRAPEZOIDAL, 10, 0, 0.0, 10, 20); /* no flat part */
    ASSERT_RATES(&s, 2.0, {0, 0.2}, {9, 2.0}, {10, 2.0}, {11, 1.8}, {19, 0.2});
}

/* ---- whole runs against the formulas ---- */

static double formula(const ScheduleConfig *s, double peak, int it) {
    double w = s->warmup_iters, N = s->max_iters, D = s->lr_decay_iters, d = s->warmdown_iters;
    double r = (it - w) / (D - w), span = peak - s->min_lr;
    if (s->name == SCHEDULE_TRAPEZOIDAL) {
        if (it < w) return peak * (it + 1) / w;
        return it < N - d ? peak : peak * (N - it) / d;
    }
    if (it < w) return peak * it / w;
    if (s->name == SCHEDULE_CONSTANT) return peak;
    if (s->name == SCHEDULE_WSD) return it < 0.8 * N ? peak : peak * (N - it) / (0.2 * N);
    if (it > D) return s->min_lr;
    return s->min_lr + span * (s->name == SCHEDULE_COSINE ? (1.0 + cos(pi * r)) / 2.0 : pow(0.9, 100.0 * r));
}

static void test_every_step(void **state) {
    (void)state;
    const struct {
        int warmup, decay, warmdown, max_iters;
        double min_lr;
    } cases[] = {{0, 1, 0, 1, 0.0},      {1, 2, 1, 2, 1e-5},         {0, 600, 120, 600, 0.0}, {37, 600, 120, 600, 3e-5},
                 {37, 400, 1, 600, 0.0}, {37, 5000, 563, 600, 6e-5}, {599, 600, 0, 600, 1e-5}};
    for (size_t c = 0; c < ARRAY_LENGTH(cases); c++)
        for (int name = SCHEDULE_CONSTANT; name <= SCHEDULE_EXP; name++) {
            ScheduleConfig s = schedule((ScheduleName)name, cases[c].warmup, cases[c].decay, cases[c].min_lr,
                                        cases[c].warmdown, cases[c].max_iters);
            for (int it = 0; it < s.max_iters; it++) {
                assert_rate(&s, 6e-4, it, formula(&s, 6e-4, it));
                assert_rate(&s, 0.02, it, formula(&s, 0.02, it)); /* a second rate, with the same min_lr */
            }
        }
}

/* Steps beyond 2^31 do not overflow. */
static void test_late_steps(void **state) {
    (void)state;
    ScheduleConfig s = schedule(SCHEDULE_COSINE, 10, 2000000000, 0.125, 0, 2000000000);
    assert_rate(&s, 1.0, INT64_C(3000000000), 0.125);
    assert_rate(&s, 1.0, INT64_C(5000000000), 0.125);
    s.name = SCHEDULE_CONSTANT;
    assert_rate(&s, 1.0, INT64_C(5000000000), 1.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constant),
        cmocka_unit_test(test_cosine),
        cmocka_unit_test(test_cosine_without_warmup_or_floor),
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_wsd),
        cmocka_unit_test(test_trapezoidal),
        cmocka_unit_test(test_every_step),
        cmocka_unit_test(test_late_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
