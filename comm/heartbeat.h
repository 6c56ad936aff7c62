/* heartbeat.h: how the processes of a job notice that one of them is gone.
 *
 * A collective operation waits for all processes, and MPI and NCCL print nothing if one never comes. So a thread of
 * each process tells the next process (the last tells the first) every second over MPI that it is alive, and expects
 * the same of the previous process. If that is silent for 15 seconds, the thread prints its number and machine, and
 * ends the job. The thread is alive while the program computes, saves or waits; it is silent if the process was killed,
 * stopped or swapped out, or if its machine or the network is lost.
 *
 * MARS_HEARTBEAT_SECONDS, in the environment of process 0, is another limit for all; 0 turns it off. The time that a
 * process itself was stopped does not count, so a job that is stopped and continued as a whole goes on. */
#ifndef MARS_COMM_HEARTBEAT_H
#define MARS_COMM_HEARTBEAT_H

#include "util/base.h"

EXTERN_C_BEGIN

typedef struct Heartbeat Heartbeat;

/* Starts the thread in a job of `size` processes under MPI, of which this is `rank`. If `threads` is false, two threads
 * must not call MPI at once: then there are no signs of life, and the thread only serves heartbeat_watch().
 * Collective. */
Heartbeat *heartbeat_open(int rank, int size, bool threads);

/* From now on the thread calls failed(context, &why) every second. If that returns true, the job ends with the message
 * `why`, but only after the time in which the thread would have found a process that is gone: the message of a library
 * seldom names that process. With failed = NULL the calls end: after the return no call is under way. */
void heartbeat_watch(Heartbeat *heartbeat, bool (*failed)(void *context, Error *why), void *context);

/* The same for a failure that the caller has met itself. Without a heartbeat, the job ends at once. */
NO_RETURN void heartbeat_fail(Heartbeat *heartbeat, const char *why);

/* Waits until the previous process calls this too, as long as that is alive. Afterwards MPI may be finalized. */
void heartbeat_close(Heartbeat *heartbeat);

/* Ends this process with `status` some seconds from now, whatever may hang until then. */
void heartbeat_end_in_time(int status);

EXTERN_C_END

#endif
