/* test_example.c: libmarsopt.a and libmarsopt.so in other programs. The example program, which `make tests` builds,
 * learns with every optimizer and refuses wrong arguments. Programs are compiled here by the line that `make
 * marsopt-flags` prints, and against the shared library, as strict C and as C++; one has functions of its own with
 * names that the library uses inside. */
#include "dev/test/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "optim/optim.h"

static const char *example(void) {
    static char path[1024];
    const char *build = getenv("MARS_BUILD");
    snprintf(path, sizeof path, "%s/examples/train_classifier", build ? build : "build");
    return path;
}

/* Percent of the test points that a run of the example got right, which ends its last line. */
static double test_accuracy(const CommandResult *result) {
    assert_run(result, EXIT_DONE, " of the test points\n");
    const char *last_comma = strrchr(result->output, ',');
    double percent = -1.0;
    if (!last_comma || sscanf(last_comma, ", %lf %% of the test points", &percent) != 1)
        fail_msg("there is no accuracy in: %s", result->output);
    return percent;
}

/* ---- the example ---- */

static void test_every_optimizer_learns(void **state) {
    (void)state;
    for (int i = 0; i < OPTIM_COUNT; i++) {
        if (only_small_sizes() && i != OPTIM_MARS_ADAMW && i != OPTIM_MUON) continue;
        const CommandResult *result = test_run("'%s' %s", example(), optim_names[i]);
        double percent = test_accuracy(result);
        if (!(percent >= 95.0)) fail_msg("%s: only %g %% right:\n%s", optim_names[i], percent, result->output);
        assert_run(result, EXIT_DONE, optim_names[i]);
    }
}

static void test_default_is_mars_adamw_and_repeats(void **state) {
    (void)state;
    char *named = checked_strdup(test_run("'%s' mars-adamw", example())->output);
    assert_string_equal(test_run("'%s'", example())->output, named);
    free(named);
}

static void test_rate_is_used(void **state) {
    (void)state;
    assert_true(test_accuracy(test_run("'%s' adamw 1e-7", example())) < 60.0);
}

static void test_wrong_arguments(void **state) {
    (void)state;
    static const char *const arguments[] = {"adam",        "''",        "mars-adamw2", "adamw 0",
                                            "adamw -0.01", "adamw nan", "adamw ''",    "adamw x",
                                            "adamw 0.01x", "adamw 1e9", "adamw inf",   "adamw 0.01 3"};
    for (size_t a = 0; a < ARRAY_LENGTH(arguments); a++) {
        const CommandResult *result = test_run("'%s' %s", example(), arguments[a]);
        assert_run(result, EXIT_USAGE, "usage: train_classifier [NAME [RATE]]");
        for (int i = 0; i < OPTIM_COUNT; i++) assert_run(result, EXIT_USAGE, optim_names[i]);
    }
}

/* ---- other programs ---- */

/* C and C++. It has four functions that the library has too, with other arguments. One step of AdamW from zero goes one
 * rate against the sign of the gradient. With an argument it makes a mistake, which ends it. */
static const char program[] = "#include \"optim/optim.h\"\n"
                              "#include <stdio.h>\n"
                              "EXTERN_C_BEGIN\n"
                              "int die(void);\n"
                              "int warn(int n);\n"
                              "int schedule_rate(int n);\n"
                              "int tensor_table_add(int n);\n"
                              "EXTERN_C_END\n"
                              "int die(void) { return 1; }\n"
                              "int warn(int n) { return n; }\n"
                              "int schedule_rate(int n) { return n + 1; }\n"
                              "int tensor_table_add(int n) { return n + 2; }\n"
                              "int main(int argc, char **argv) {\n"
                              "    static ScheduleConfig constant;\n"
                              "    static const OptimTensor tensors[] = {{\"a\", ROLE_MATRIX, 20, 15, 1},\n"
                              "                                          {\"b\", ROLE_VECTOR, 1, 7, 1}};\n"
                              "    Error error;\n"
                              "    OptimConfig config = optim_defaults(OPTIM_ADAMW, 0.25);\n"
                              "    Optim *optim = optim_open(&config, tensors, 2, 2, &error);\n"
                              "    float *a = optim_params(optim), *b = a + optim_offset(optim, 1);\n"
                              "    float *gradient = optim_gradient(optim, 0);\n"
                              "    for (int i = 0; i < 300; i++) gradient[i] = 1;\n"
                              "    for (int i = 0; i < 7; i++) gradient[b - a + i] = -1;\n"
                              "    if (argc > 1) puts(argv[1]), optim_result(optim);\n"
                              "    optim_step(optim, optim_rates(&config, &constant, 0), false);\n"
                              "    printf(\"%s: a %.4f %.4f, b %.4f, norm %.3f, own %d %d %d %d\\n\", optim_names[0],\n"
                              "           a[0], a[299], b[6], optim_result(optim).grad_norm, die(), warn(2),\n"
                              "           schedule_rate(2), tensor_table_add(2));\n"
                              "    optim_close(optim);\n"
                              "}\n";

/* sqrt(300 + 7) */
static const char printed[] = "adamw: a -0.2500 -0.2500, b 0.2500, norm 17.521, own 1 2 3 4\n";

static const char *bin(void) { return getenv("MARS_BIN") ? getenv("MARS_BIN") : "."; }

/* What links libmarsopt.so, which the program finds when it runs. */
static const char *shared_flags(void) {
    static char flags[1024];
    snprintf(flags, sizeof flags, "-I. -L'%s' -Wl,-rpath,\"$(realpath '%s')\" -lmarsopt -lm %s", bin(), bin(),
             MARSOPT_SANITIZE);
    return flags;
}

/* Compiles a source and links it by `flags`, to a program in the scratch folder, whose path is returned. */
static const char *compile(const char *compiler, const char *source, const char *flags) {
    static int number;
    const char *path = test_path("program_%d", number++);
    assert_run(test_run("%s '%s' -o '%s' %s", compiler, source, path, flags), 0, "");
    return path;
}

static void test_strict_c(void **state) {
    (void)state;
    if (only_small_sizes()) skip(); /* what it compiles is the same source as above */
    const char *const standards[] = {"c11", "c17"}, *const flags[] = {MARSOPT_FLAGS, shared_flags()};
    for (size_t i = 0; i < ARRAY_LENGTH(standards); i++) {
        char *compiler = format_string("${CC:-cc} -O2 -std=%s -pedantic -Wall -Wextra -Werror", standards[i]);
        const char *path = compile(compiler, "dev/examples/train_classifier.c", flags[i]);
        assert_true(test_accuracy(test_run("'%s' muon", path)) >= 95.0);
        free(compiler);
    }
}

static void check_program(const char *compiler, const char *source, const char *flags) {
    const char *path = compile(compiler, source, flags);
    assert_run(test_run("'%s'", path), 0, printed);
    assert_run(test_run("'%s' wrong", path), EXIT_FAILED, "mars: error: optim_result: no step is enqueued");
}

static void test_own_functions_in_c(void **state) {
    (void)state;
    const char *source = test_path("program.c");
    test_write_text(source, program);
    check_program("${CC:-cc} -std=c11 -pedantic -Wall -Wextra -Werror", source, MARSOPT_FLAGS);
    check_program("${CC:-cc} -std=c11 -pedantic -Wall -Wextra -Werror", source, shared_flags());
}

static void test_own_functions_in_cpp(void **state) {
    (void)state;
    const char *source = test_path("program.cpp");
    test_write_text(source, program);
    check_program("${CXX:-g++} -std=c++17 -pedantic -Wall -Wextra -Werror", source, MARSOPT_FLAGS);
    check_program("${CXX:-g++} -std=c++17 -pedantic -Wall -Wextra -Werror", source, shared_flags());
}

/* ---- symbols ---- */

/* The functions and tables named optim_... that optim.h and what it includes declare are the symbols that others
 * see. */
static void test_only_the_headers_names_are_exported(void **state) {
    (void)state;
    static const char declared[] =
        "${CC:-cc} -E -P -I. optim/optim.h | grep -oE 'optim_[a-z_]+ *[[(]' | tr -d ' [(' | sort -u";
    char *names = checked_strdup(test_run("%s", declared)->output);
    assert_true(strstr(names, "optim_names\n") && strstr(names, "optim_open\n") && strstr(names, "optim_step\n"));
    const CommandResult *result =
        test_run("nm -g --defined-only '%s/libmarsopt.a' | awk 'NF == 3 { print $3 }' | sort", bin());
    assert_string_equal(result->output, names);
    result = test_run("nm -D --defined-only '%s/libmarsopt.so' | awk '{ print $3 }' | sort", bin());
    assert_string_equal(result->output, names);
    assert_run(test_run("LC_ALL=C readelf -d '%s/libmarsopt.so'", bin()), 0, "Library soname: [libmarsopt.so]");
    free(names);
}

/* All of the library, also what no program here uses, needs no more than the libraries that are named. */
static void test_nothing_is_missing(void **state) {
    (void)state;
    const char *source = test_path("empty.c");
    test_write_text(source, "int main(void) { return 0; }\n");
    char *flags =
        format_string("-Wl,--whole-archive '%s/libmarsopt.a' -Wl,--no-whole-archive %s", bin(), MARSOPT_FLAGS);
    compile("${CC:-cc}", source, flags);
    free(flags);
    flags = format_string("-Wl,--no-as-needed,--no-allow-shlib-undefined %s", shared_flags());
    assert_run(test_run("LD_BIND_NOW=1 '%s'", compile("${CC:-cc}", source, flags)), 0, "");
    free(flags);
}

int main(void) {
    const struct CMUnitTest unit_tests[] = {
        cmocka_unit_test(test_every_optimizer_learns),
        cmocka_unit_test(test_default_is_mars_adamw_and_repeats),
        cmocka_unit_test(test_rate_is_used),
        cmocka_unit_test(test_wrong_arguments),
        cmocka_unit_test(test_strict_c),
        cmocka_unit_test(test_own_functions_in_c),
        cmocka_unit_test(test_own_functions_in_cpp),
        cmocka_unit_test(test_only_the_headers_names_are_exported),
        cmocka_unit_test(test_nothing_is_missing),
    };
    return cmocka_run_group_tests(unit_tests, NULL, NULL);
}
