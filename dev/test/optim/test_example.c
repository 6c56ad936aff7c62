/* test_example.c: libmarsopt.a as a program of somebody else meets it. The example program, which `make tests` builds,
 * learns with every optimizer and refuses wrong arguments; and programs are compiled here by the line that
 * `make marsopt-flags` prints, as strict C, as C++, and with MPI. */
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

/* One step of AdamW from zero goes one rate against the sign of the gradient, here the number of the process from 1. C
 * and C++; the buffers are ordinary memory. */
static const char program[] = "#include \"optim/optim.h\"\n"
                              "#include <stdio.h>\n"
                              "#include <stdlib.h>\n"
                              "int main(void) {\n"
                              "    static TensorTable table;\n"
                              "    Error error;\n"
                              "    Comm *comm = OPEN_COMM();\n"
                              "    Backend *be = backend_open(\"cpu\", DTYPE_FLOAT32, 2, &error);\n"
                              "    OptimConfig config = optim_defaults(OPTIM_ADAMW, 0.25);\n"
                              "    int a = tensor_table_add(&table, \"a\", ROLE_MATRIX, 20, 15, 20);\n"
                              "    int b = tensor_table_add(&table, \"b\", ROLE_VECTOR, 1, 7, 1);\n"
                              "    const Tensor *last = &table.tensors[b];\n"
                              "    float *x = (float *)calloc(table.length, sizeof *x);\n"
                              "    float *g = (float *)calloc(table.length, sizeof *g);\n"
                              "    OptimBuffers buffers = {x, x, g};\n"
                              "    Optim *optim = optim_open(&config, &table, buffers, be, comm, &error);\n"
                              "    float *gradient = optim_gradients(optim);\n"
                              "    for (size_t i = 0; i < 300; i++) gradient[i] = (float)comm->rank + 1;\n"
                              "    for (size_t i = 0; i < 7; i++) gradient[last->offset + i] = -1;\n"
                              "    OptimRates rates = {0.25, 0};\n"
                              "    OptimResult result = optim_step(optim, rates);\n"
                              "    if (comm->rank == 0)\n"
                              "        printf(\"a %.4f %.4f, b %.4f, norm %.3f\\n\", x[table.tensors[a].offset],\n"
                              "               x[299], x[last->offset + 6], result.grad_norm);\n"
                              "    optim_close(optim);\n"
                              "    be->close(be);\n"
                              "    tensor_table_free(&table);\n"
                              "    free(x);\n"
                              "    free(g);\n"
                              "    comm->close(comm, 0);\n"
                              "}\n";

/* Compiles a source and links it as MARSOPT_FLAGS (from the Makefile) says, to a program in the scratch folder, whose
 * path is returned. */
static const char *compile(const char *compiler, const char *source, const char *more) {
    static int number;
    const char *path = test_path("program_%d", number++);
    assert_run(test_run("%s '%s' %s -o '%s' %s", compiler, source, more, path, MARSOPT_FLAGS), 0, "");
    return path;
}

static void test_strict_c(void **state) {
    (void)state;
    if (only_small_sizes()) skip(); /* what it compiles is the same source as above */
    static const char *const standards[] = {"c11", "c17"};
    for (size_t i = 0; i < ARRAY_LENGTH(standards); i++) {
        char *compiler = format_string("${CC:-cc} -O2 -std=%s -pedantic -Wall -Wextra -Werror", standards[i]);
        const char *path = compile(compiler, "dev/examples/train_classifier.c", "");
        assert_true(test_accuracy(test_run("'%s' muon", path)) >= 95.0);
        free(compiler);
    }
}

static void test_cpp_and_own_memory(void **state) {
    (void)state;
    const char *source = test_path("program.cpp");
    test_write_text(source, program);
    const char *path =
        compile("${CXX:-g++} -std=c++17 -pedantic -Wall -Wextra -Werror -DOPEN_COMM=comm_open_single", source, "");
    /* sqrt(300 + 7) */
    assert_run(test_run("'%s'", path), 0, "a -0.2500 -0.2500, b 0.2500, norm 17.521\n");
}

static void test_several_processes(void **state) {
    (void)state;
    if (test_run("command -v mpicc && command -v mpirun")->status != 0) skip();
    const char *source = test_path("program.c");
    test_write_text(source, program);
    const char *path = compile("mpicc -std=gnu17 -Wall -Wextra -Werror -DOPEN_COMM=comm_open_mpi", source,
                               "comm/mpi.c comm/heartbeat.c");
    /* Gradients are added up: sqrt(300 3^2 + 7 2^2). MPI libraries do not free all of their memory. */
    assert_run(test_run("ASAN_OPTIONS=\"$ASAN_OPTIONS:detect_leaks=0\" OMPI_ALLOW_RUN_AS_ROOT=1 "
                        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -np 2 --oversubscribe --bind-to none '%s'",
                        path),
               0, "a -0.2500 -0.2500, b 0.2500, norm 52.230\n");
}

/* All of the archive, also what no program here asks for, needs no more than the libraries that are named. */
static void test_nothing_is_missing(void **state) {
    (void)state;
    const char *source = test_path("empty.c");
    test_write_text(source, "int main(void) { return 0; }\n");
    compile("${CC:-cc}", source, "-Wl,--whole-archive \"${MARS_BIN:-.}/libmarsopt.a\" -Wl,--no-whole-archive");
}

int main(void) {
    const struct CMUnitTest unit_tests[] = {
        cmocka_unit_test(test_every_optimizer_learns),
        cmocka_unit_test(test_default_is_mars_adamw_and_repeats),
        cmocka_unit_test(test_rate_is_used),
        cmocka_unit_test(test_wrong_arguments),
        cmocka_unit_test(test_strict_c),
        cmocka_unit_test(test_cpp_and_own_memory),
        cmocka_unit_test(test_several_processes),
        cmocka_unit_test(test_nothing_is_missing),
    };
    return cmocka_run_group_tests(unit_tests, NULL, NULL);
}
