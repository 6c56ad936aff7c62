/* single.c: the Comm of a job of one process: every operation is the identity. */
#include <stdlib.h>

#include "comm/comm.h"

static void sum(Comm *comm, double *values, int n) { (void)comm, (void)values, (void)n; }
static void maximum(Comm *comm, int *values, int n) { (void)comm, (void)values, (void)n; }
static void broadcast(Comm *comm, void *data, size_t bytes) { (void)comm, (void)data, (void)bytes; }
static void barrier(Comm *comm) { (void)comm; }

static void sum_on_device(Comm *comm, double *values, int n) { (void)comm, (void)values, (void)n; }

static void reduce_scatter(Comm *comm, float *data, const Partition *partition, float *shard, size_t begin,
                           size_t end) {
    (void)comm, (void)data, (void)partition, (void)shard, (void)begin, (void)end;
}

static void all_gather(Comm *comm, void *data, size_t element_size, const Partition *partition, size_t begin,
                       size_t end) {
    (void)comm, (void)data, (void)element_size, (void)partition, (void)begin, (void)end;
}

/* Nothing is exchanged, and so nothing is waited for. */
static int64_t enqueued(Comm *comm) {
    (void)comm;
    return 0;
}

static void wait_for(Comm *comm, int64_t exchanges) { (void)comm, (void)exchanges; }

static void send_to_root(Comm *comm, int from, float *data, size_t n) { (void)comm, (void)from, (void)data, (void)n; }

static void close_single(Comm *comm, int status) {
    free(comm);
    exit(status);
}

Comm *comm_open_single(void) {
    Comm *comm = checked_calloc(1, sizeof *comm, "the process table");
    *comm = (Comm){.size = 1,
                   .local_size = 1,
                   .memory_sharers = 1,
                   .transport = "none",
                   .sum = sum,
                   .maximum = maximum,
                   .broadcast = broadcast,
                   .barrier = barrier,
                   .sum_on_device = sum_on_device,
                   .reduce_scatter = reduce_scatter,
                   .all_gather = all_gather,
                   .enqueued = enqueued,
                   .wait_for = wait_for,
                   .send_to_root = send_to_root,
                   .close = close_single};
    return comm;
}
