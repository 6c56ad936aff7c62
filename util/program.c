/* program.c: what every program does first (see program.h). */
#include "util/program.h"

#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "util/streams.h"

/* ---- the state in which the program was started ---- */

/* Libraries change these before main(), and the program that executes itself again would pass their changes on. */
static struct {
    /* SIGHUP was ignored, as by nohup. UCX, which MPI loads on many machines, puts a handler of its own there
     * (UCX_DEBUG_SIGNO). */
    bool ignores_hangup;
    /* The processors that the program may use; 0 bytes if not known. With OMP_PROC_BIND or OMP_PLACES libgomp leaves
     * the first thread one of them. */
    long mask_bytes;
    unsigned long mask[1024]; /* of up to 65536 processors */
} start;

#if defined(__linux__) && defined(SYS_rt_sigaction)
/* Runs before libraries start, and so before those of sanitizers: it is not instrumented and makes plain system
 * calls. */
__attribute__((no_sanitize("address", "thread", "undefined"))) static void note_start(void) {
    struct {
        void (*handler)(int);
        unsigned long others[8]; /* flags, restorer, mask */
    } action;
    enum { MASK_BYTES = 8 };
    if (syscall(SYS_rt_sigaction, SIGHUP, NULL, &action, MASK_BYTES) == 0)
        start.ignores_hangup = action.handler == SIG_IGN;
    start.mask_bytes = syscall(SYS_sched_getaffinity, 0, sizeof start.mask, start.mask);
}
__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(void) = note_start;

static void restore_processors(void) {
    if (start.mask_bytes > 0) syscall(SYS_sched_setaffinity, 0, start.mask_bytes, start.mask);
}

/* Whether /proc/self/exe is this program: the system has loaded the dynamic loader with it. After "ld.so PROGRAM" it is
 * the loader. */
static bool was_executed(void) { return getauxval(AT_BASE) != 0; }
#else
static void restore_processors(void) {}
static bool was_executed(void) { return true; }
#endif

/* ---- how threads wait ---- */

/* How long a thread spins before it sleeps. Sleeping and waking up cost about as much: a thread that spins for just
 * that long loses at most twice the time that the better of both would lose, whatever the wait (Karlin, Manasse,
 * McGeoch, Owicki, "Competitive randomized algorithms for nonuniform problems", 1990). */
static const double SPIN_SECONDS = 25e-6;
/* Milliseconds; LLVM's runtime has no shorter time but none. */
#define LLVM_BLOCK_TIME "1"

/* What threads of GNU's OpenMP do in a turn of spinning (config/linux/wait.h in libgomp's sources), and how many turns
 * take microseconds: a pause of x86 takes 13 ns on some processors and 44 on others. */
#if defined __x86_64__ || defined __i386__
enum { TURNS = 300 };
static void relax(void) { __builtin_ia32_pause(); }
#else
enum { TURNS = 30000 };
static void relax(void) { __asm volatile("" ::: "memory"); }
#endif

/* Returns the seconds of one turn. */
static double measure_spin(void) {
    enum { TRIES = 5 };
    static int never;
    double best = 1.0;
    for (int i = 0; i < TRIES; i++) { /* the shortest is one that no other program has interrupted */
        double begun = seconds_now();
        for (int turn = 0; turn < TURNS && __atomic_load_n(&never, __ATOMIC_RELAXED) == 0; turn++) relax();
        best = fmin(best, (seconds_now() - begun) / TURNS);
    }
    return fmax(best, 1e-10);
}

static bool user_has_chosen(void) {
    return getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME");
}

static void execute_again(char **argv) {
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0) return; /* no Linux, or no /proc: the program runs with OpenMP's own settings */
    path[length] = 0;
    restore_processors();
    execv(path, argv);             /* by its path, so that ps and top show the program's name */
    execv("/proc/self/exe", argv); /* if that file has been deleted or replaced */
}

void program_start(const char *name, char **argv) {
    streams_open();
    base_set_program(name);
    if (start.ignores_hangup) signal(SIGHUP, SIG_IGN);
    if (user_has_chosen() || !was_executed()) return;
    char *turns = format_string("%.0f", SPIN_SECONDS / measure_spin());
    setenv("GOMP_SPINCOUNT", turns, 1); /* libgomp counts turns */
    free(turns);
    setenv("KMP_BLOCKTIME", LLVM_BLOCK_TIME, 1);
    execute_again(argv);
}
