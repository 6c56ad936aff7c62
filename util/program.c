/* program.c: what every program does first (see program.h). */
#include "util/program.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/streams.h"

/* About a tenth of a millisecond: longer than the serial code between the parallel regions of a step. */
#define GNU_SPIN_COUNT "20000"
/* Milliseconds; LLVM's runtime has no shorter time but none. */
#define LLVM_BLOCK_TIME "1"

static bool user_has_chosen(void) {
    return getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME");
}

static void execute_again(char **argv) {
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0) return; /* no Linux, or no /proc: the program runs with OpenMP's own settings */
    path[length] = 0;
    execv(path, argv);             /* by its path, so that ps and top show the program's name */
    execv("/proc/self/exe", argv); /* if that file has been deleted or replaced */
}

void program_start(const char *name, char **argv) {
    streams_open();
    base_set_program(name);
    if (user_has_chosen()) return;
    setenv("GOMP_SPINCOUNT", GNU_SPIN_COUNT, 1);
    setenv("KMP_BLOCKTIME", LLVM_BLOCK_TIME, 1);
    execute_again(argv);
}
