/* comm.h: communication between the processes of a job.
 *
 * One Comm per process, opened first thing in main(). Under mpirun it speaks MPI; alone it is a stand-in of one process
 * whose operations do nothing. All operations are collective. Sums are made in the same order each time, so a run gives
 * the same bits each time. A failure of the library ends the job.
 *
 * The Comm of comm_on_device() exchanges the memory of a device: over NCCL between GPUs; on CPUs it is the same Comm.
 * NCCL works in parallel with the device's operations: an exchange sees the results of operations that were enqueued
 * before it, and operations that are enqueued after wait_for() see the results of the exchange. Nothing may read or
 * write the buffers in between. On CPUs an exchange has ended when the call returns.
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
    /* Ranks that share the memory of this rank's device: local_size on CPUs, 1 on GPUs except in tests (nccl.c). */
    int memory_sharers;
    char transport[64];   /* "Open MPI v4.1.4", or "none" */
    Heartbeat *heartbeat; /* notices processes that are gone; NULL in a job of one process */
    double waited;        /* seconds in MPI calls so far, transfer included; 0 in a job of one and in NCCL's Comm */

    void (*sum)(Comm *comm, double *values, int n);          /* values = sum over processes, on every process */
    void (*maximum)(Comm *comm, int *values, int n);         /* likewise the maximum */
    void (*broadcast)(Comm *comm, void *data, size_t bytes); /* from process 0 */
    void (*barrier)(Comm *comm);

    /* ---- exchanges: `values` and `data` are the device's memory ---- */

    /* values = sum over processes, on every process. */
    void (*sum_on_device)(Comm *comm, double *values, int n);
    /* Sums elements [begin, end) of `data` over the processes. The owner of an element gets its sum: in `shard`, or in
     * `data` if `shard` is NULL. Afterwards `data` is undefined where another process is the owner, and unchanged where
     * the partition has no owner. In a job of one process, `shard` must be NULL. */
    void (*reduce_scatter)(Comm *comm, float *data, const Partition *partition, float *shard, size_t begin, size_t end);
    /* Copies elements [begin, end) of the owners' `data` to every process. Elements without an owner stay. */
    void (*all_gather)(Comm *comm, void *data, size_t element_size, const Partition *partition, size_t begin,
                       size_t end);
    /* How many exchanges were enqueued so far. */
    int64_t (*enqueued)(Comm *comm);
    /* Operations enqueued after this call see the results of the first `exchanges` exchanges. */
    void (*wait_for)(Comm *comm, int64_t exchanges);

    /* ---- host memory ---- */

    /* Copies data (n) of process `from` to process 0's `data`. Every process must call it. `data` is used only on
     * `from` and on process 0, and may be NULL elsewhere. With from = 0 nothing happens. */
    void (*send_to_root)(Comm *comm, int from, float *data, size_t n);

    /* Ends this process with `status`, and does not return. Every process calls it, which ends the job in good
     * order. */
    void (*close)(Comm *comm, int status);
};

/* Opens the Comm of this process: MPI if a launcher started it, else the stand-in. Registers with base.h how messages
 * are labelled and how the job is ended. A launcher without MPI in the build is an error. */
Comm *comm_open(void);

/* Returns the Comm for exchanges of a device's memory. `stream` is the stream of the device's operations: a
 * cudaStream_t of the GPU that is current in this thread, or NULL on a CPU. On CPUs, and in a job of one process, it
 * returns `comm` itself; between GPUs a Comm over NCCL, which passes operations on host memory to `comm`. If the build
 * has no NCCL, or if two ranks would use one GPU, returns NULL and the same reason on every rank. Collective. Close it
 * with comm_close_on_device() before the stream and `comm`. */
Comm *comm_on_device(Comm *comm, void *stream, Error *error);
void comm_close_on_device(Comm *on_device, Comm *comm);

/* The implementations; comm_open() and comm_on_device() choose. */
Comm *comm_open_single(void);
Comm *comm_open_mpi(void);
Comm *comm_open_nccl(Comm *comm, void *stream, Error *error);
void comm_close_nccl(Comm *comm);

EXTERN_C_END

#endif
