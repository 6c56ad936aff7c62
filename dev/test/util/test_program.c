/* test_program.c: how long OpenMP's threads spin in programs started by program_start() (util/program.h). That all
 * programs are, and that the user's settings win: test_waiting.sh. */
#include "dev/test/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nanoseconds of `turns` turns of the loop in which libgomp spins. */
static double spin_ns(long turns) {
    static int never;
    double begun = seconds_now();
    for (long i = 0; i < turns && __atomic_load_n(&never, __ATOMIC_RELAXED) == 0; i++)
#if defined __x86_64__ || defined __i386__
        __builtin_ia32_pause();
#else
        __asm volatile("" ::: "memory");
#endif
    return (seconds_now() - begun) * 1e9;
}

/* As many turns as take about 25 microseconds on this processor; six times as long or short are allowed, since its
 * clock may change. */
static void test_time_of_a_spin(void **state) {
    (void)state;
    char *program = test_program("train_gpt2");
    CommandResult *result =
        test_run("env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT -u KMP_BLOCKTIME OMP_DISPLAY_ENV=verbose "
                 "'%s' --version",
                 program);
    free(program);
    const char *last = NULL, *name = "GOMP_SPINCOUNT = '";
    for (const char *at = result->output; (at = strstr(at, name)); at++) last = at;
    assert_run(result, 0, "train_gpt2 (mars.c)");
    if (strstr(result->output, "KMP_BLOCKTIME")) skip(); /* LLVM's runtime */
    if (!last) fail_msg("no count of turns in:\n%s", result->output);
    long turns = strtol(last + strlen(name), NULL, 10);
    double best = INFINITY;
    for (int i = 0; i < 50; i++) best = fmin(best, spin_ns(turns));
    if (best < 25e3 / 6 || best > 6 * 25e3) fail_msg("%ld turns take %.0f ns", turns, best);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_time_of_a_spin)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
