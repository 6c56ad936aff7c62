/* heartbeat.h: how the processes of a job notice that one of them is gone.
 *
 * A collective operation waits for all; MPI and NCCL say nothing when one never comes. So a thread of each process
 * tells the next one (the last one tells the first) every second that it is alive, over MPI, and expects the same of
 * the one before. Where that has been silent for 15 seconds, it says which process on which machine, and ends the job.
 * The thread is alive while the program computes, saves or waits; it is silent where the process was killed, stopped or
 * swapped out, or where its machine or the network is lost.
 *
 * MARS_HEARTBEAT_SECONDS, in the environment of process 0, is another limit for all; 0 turns it off. The time that a
 * process itself was stopped does not count, so a job that is stopped and continued as a whole goes on. */
#ifndef MARS_COMM_HEARTBEAT_H
#define MARS_COMM_HEARTBEAT_H

#include "util/base.h"

EXTERN_C_BEGIN

typedef struct Heartbeat Heartbeat;

/* Starts the thread in a job of `size` processes under MPI, of which this is `rank`. Where `threads` is false, MPI must
 * not be called by two threads at once: there is no sign of life then, only what heartbeat_watch() asks for.
 * Collective. */
Heartbeat *heartbeat_open(int rank, int size, bool threads);

/* From here on the thread calls failed(context, &why) every second. Where it is true the job ends for that reason, but
 * only after the time in which a process that is gone would have been found: a library's message seldom names it.
 * NULL ends it: when heartbeat_watch() returns, no call is under way. */
void heartbeat_watch(Heartbeat *heartbeat, bool (*failed)(void *context, Error *why), void *context);

/* The same for a failure that the caller has met itself. Without a heartbeat, the job ends at once. */
NO_RETURN void heartbeat_fail(Heartbeat *heartbeat, const char *why);

/* Takes leave: waits until the process before has come as far, without a limit as long as it is alive. Then MPI may be
 * finalized. */
void heartbeat_close(Heartbeat *heartbeat);

/* Ends this process with `status` some seconds from now, whatever may hang until then. */
void heartbeat_end_in_time(int status);

EXTERN_C_END

#endif
