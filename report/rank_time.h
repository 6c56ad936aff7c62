/* rank_time.h: measures a rank's own part of a step, to find a slow machine among many: reading the tokens of the step
 * and computing its gradient. It leaves out the time of waiting for other ranks, with one exception: on GPUs a forward
 * pass may wait for weights that another rank updates late. */
#ifndef MARS_REPORT_RANK_TIME_H
#define MARS_REPORT_RANK_TIME_H

#include "comm/comm.h"
#include "kernels/backend.h"

EXTERN_C_BEGIN

/* Starts as zeros. */
typedef struct RankTime {
    double read_seconds, waited; /* since the last report: for tokens, and in exchanges while computing gradients */
    double waited_before;        /* what comm->waited was when the computation began */
    double reported;             /* the stopwatch at the last report */
} RankTime;

/* Adds the time of reading tokens. */
void rank_time_add_reading(RankTime *time, double seconds);

/* Around the computation of a gradient, of which a step may have several. `comm` is the one that exchanges
 * gradients. */
void rank_time_start(RankTime *time, Backend *be, const Comm *comm);
void rank_time_stop(RankTime *time, Backend *be, const Comm *comm);

/* Returns the largest time of all ranks in milliseconds, a mean over the `steps` since the last call; *rank is the rank
 * that has it. Waits for the device. Collective. */
double rank_time_slowest(RankTime *time, Backend *be, Comm *comm, int steps, int *rank);

EXTERN_C_END

#endif
