/* program.h: the start of every program. */
#ifndef MARS_UTIL_PROGRAM_H
#define MARS_UTIL_PROGRAM_H

#include "util/base.h"

EXTERN_C_BEGIN

/* The first call of main(): opens the standard streams that are closed (streams.h), sets the name that stands before
 * the colon in messages, ignores SIGHUP if it was ignored when the program started (nohup), even if a library has set a
 * handler since, and limits how long OpenMP's threads wait by spinning.
 *
 * A thread that spins for long on a core that another program needs makes every parallel region wait for the scheduler:
 * a training step then takes several times as long, up to 40 on one machine. A thread that sleeps at once is late for
 * the next region: a step takes a quarter longer on a quiet machine. 25 microseconds are near the best of both
 * (dev/results/README.md). OpenMP reads its settings from the environment when it is loaded, so this call sets them and
 * executes the program again, with the same arguments, process number and processors: those that it was started with,
 * although libgomp has bound the thread to one of them if OMP_PROC_BIND or OMP_PLACES is set. It leaves alone what the
 * user has set: OMP_WAIT_POLICY, GOMP_SPINCOUNT or KMP_BLOCKTIME. A program that is started by "ld.so PROGRAM" is not
 * executed again and runs with OpenMP's own settings. Tools that do not follow a program into exec (valgrind without
 * --trace-children=yes) need one of these set. */
void program_start(const char *name, char **argv);

EXTERN_C_END

#endif
