/* comm.h: what the processes of a job say to each other.
 *
 * One Comm per process, opened first thing in main(). Under mpirun it speaks MPI; alone it is a stand-in of one
 * process whose operations do nothing. All operations are collective. Sums are made in the same order each time, so a
 * run gives the same bits each time. A failure of the library ends the job.
 *
 * What lies on a device is exchanged by the Comm that comm_on_device() gives for it: NCCL's between GPUs, the same one
 * on CPUs. NCCL works in parallel with the device's operations: an exchange sees what the operations enqueued before it
 * did, and operations enqueued after wait_for() see what it brought. Buffers are not to be touched in between. On CPUs
 * an exchange has ended when it returns.
 *
 * Elements of a flat buffer are divided between processes by a Partition (util/partition.h). An exchange of elements
 * [begin, end) of a partition with even ranges is of whole buckets: begin and end are multiples of the partition's
 * bucket, or the buffer's end. Gaps between tensors inside an even range hold zeros in every process; an exchange may
 * include them. */
#ifndef MARS_COMM_COMM_H
#define MARS_COMM_COMM_H

#include "util/partition.h"

EXTERN_C_BEGIN

typedef struct Comm Comm;
typedef struct Heartbeat Heartbeat; /* heartbeat.h */
struct Comm {
    int rank, size;             /* this process, and how many there are */
    int local_rank, local_size; /* the same among the processes on this machine */
    /* Ranks that divide the memory of this one's device: on CPUs local_size, on GPUs 1, but for tests (nccl.c). */
    int memory_sharers;
    char transport[64];   /* "Open MPI v4.1.4", or "none" */
    Heartbeat *heartbeat; /* notices where a process is gone; NULL in a job of one */
    double waited;        /* seconds in MPI calls so far, transfer included; 0 in a job of one and in NCCL's Comm */

    void (*sum)(Comm *comm, double *values, int n);          /* values = sum over processes, on every process */
    void (*maximum)(Comm *comm, int *values, int n);         /* likewise the maximum */
    void (*broadcast)(Comm *comm, void *data, size_t bytes); /* from process 0 */
    void (*barrier)(Comm *comm);

    /* ---- exchanges: `values` and `data` are the device's memory ---- */

    /* values = sum over processes, on every process. */
    void (*sum_on_device)(Comm *comm, double *values, int n);
    /* The sum over processes of data's elements [begin, end), for each that the partition covers, at its owner: in
     * `shard`, or where that is NULL in data itself. The others' elements of data that it covers are left undefined,
     * what it does not cover stays. In a job of one process, shard must be NULL. */
    void (*reduce_scatter)(Comm *comm, float *data, const Partition *partition, float *shard, size_t begin, size_t end);
    /* data's elements [begin, end) = what their owners hold there, on every process; elements that nobody owns stay. */
    void (*all_gather)(Comm *comm, void *data, size_t element_size, const Partition *partition, size_t begin,
                       size_t end);
    /* How many exchanges were enqueued so far. */
    int64_t (*enqueued)(Comm *comm);
    /* Operations enqueued from here on see what the first `exchanges` of them brought. */
    void (*wait_for)(Comm *comm, int64_t exchanges);

    /* ---- host memory ---- */

    /* data (n) of process `from` comes to process 0's data; the other processes only take note. */
    void (*send_to_root)(Comm *comm, int from, float *data, size_t n);

    void (*close)(Comm *comm, int status); /* ends the job in good order: every process calls it */
};

/* Opens the Comm of this process: MPI where a launcher started it, else the stand-in. Registers with base.h how
 * messages are labelled and how the job is ended. A launcher without MPI in the build is an error. */
Comm *comm_open(void);

/* The Comm for exchanges of a device's memory. `stream` is that of the device's operations: of a GPU a cudaStream_t,
 * which is current in this thread, of a CPU NULL. On CPUs, and in a job of one process, it is `comm` itself; between
 * GPUs one that speaks NCCL and hands on to `comm` what is of the host. Collective. NULL and the reason where the build
 * has no NCCL. Ended by close_on_device(), before the stream and comm are. */
Comm *comm_on_device(Comm *comm, void *stream, Error *error);
void comm_close_on_device(Comm *on_device, Comm *comm);

/* The implementations; comm_open() and comm_on_device() choose. */
Comm *comm_open_single(void);
Comm *comm_open_mpi(void);
Comm *comm_open_nccl(Comm *comm, void *stream, Error *error);
void comm_close_nccl(Comm *comm);

EXTERN_C_END

#endif
