/* comm.h: what the processes of a job say to each other.
 *
 * One Comm per process, opened first thing in main(). Under mpirun it speaks MPI; alone it is a stand-in of one
 * process whose operations do nothing. All operations are collective. Sums are made in the order of the processes,
 * so a run gives the same bits each time. A failure of the library ends the job.
 *
 * A flat buffer of n elements is split between processes by `bounds`, size + 1 rising offsets from 0 to n: process r
 * owns [bounds[r], bounds[r+1]). */
#ifndef MARS_COMM_COMM_H
#define MARS_COMM_COMM_H

#include "util/base.h"

EXTERN_C_BEGIN

typedef struct Comm Comm;
struct Comm {
    int rank, size;             /* this process, and how many there are */
    int local_rank, local_size; /* the same among the processes on this machine */
    char transport[64];         /* "Open MPI v4.1.4", or "none" */

    void (*sum)(Comm *comm, double *values, int n);          /* values = sum over processes, on every process */
    void (*maximum)(Comm *comm, int *values, int n);         /* likewise the maximum */
    void (*broadcast)(Comm *comm, void *data, size_t bytes); /* from process 0 */
    void (*barrier)(Comm *comm);

    /* data[own range] = sum over processes of data[own range]; the rest of data is left as it was. */
    void (*reduce_scatter)(Comm *comm, float *data, const size_t *bounds);
    /* data[range of r] = what process r holds there, for all r, on every process. */
    void (*all_gather)(Comm *comm, void *data, size_t element_size, const size_t *bounds);
    /* The same for elements [begin, end) only, and only process 0 receives. */
    void (*gather)(Comm *comm, float *data, const size_t *bounds, size_t begin, size_t end);

    void (*close)(Comm *comm, int status); /* ends the job in good order: every process calls it */
};

/* Opens the Comm of this process: MPI where a launcher started it, else the stand-in. Registers with base.h how
 * messages are labelled and how the job is ended. A launcher without MPI in the build is an error. */
Comm *comm_open(void);

/* The two implementations; comm_open() chooses. */
Comm *comm_open_single(void);
Comm *comm_open_mpi(void);

EXTERN_C_END

#endif
