/* mpi.c: a Comm over MPI, for host memory.
 *
 * This file adds in the order of the processes instead of calling MPI_Reduce, whose order the library may choose by
 * timing. So the sum of an element has the same bits, whatever range it is reduced with. Buffers move in pieces of
 * bounded size, so that the extra memory is bounded and counts fit MPI's int. */
#include <limits.h>
#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/heartbeat.h"

/* Elements that move at a time: of one buffer, and to all owners together in a reduction, of which each process keeps
 * two such buffers. An owner's piece is never smaller than LEAST_PIECE, or many processes would exchange tiny
 * messages. */
enum { PIECE = 1 << 22, LEAST_PIECE = 1 << 16 };

typedef struct MpiComm {
    Comm base;
    size_t piece;             /* elements of an owner that move at a time */
    float *staged, *received; /* (size, piece): for every process, and from every process */
    int64_t exchanges;
} MpiComm;

static Comm *opened; /* for functions without a Comm argument: check_mpi() and quit_job() */

static void check_mpi(int status, const char *what) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(status, text, &length);
    char *why = format_string("MPI: %s failed: %.*s", what, length, text);
    heartbeat_fail(opened ? opened->heartbeat : NULL, why);
}

/* Calls MPI, and counts the time as this rank's waiting: the rank that comes last to an exchange waits least. */
#define WAIT_IN(call, what)                      \
    do {                                         \
        double begun = seconds_now();            \
        int status = (call);                     \
        opened->waited += seconds_now() - begun; \
        check_mpi(status, what);                 \
    } while (0)

static void sum(Comm *comm, double *values, int n) {
    size_t count = (size_t)n * (size_t)comm->size;
    double *all = checked_malloc(count * sizeof *all, "a sum over processes");
    WAIT_IN(MPI_Allgather(values, n, MPI_DOUBLE, all, n, MPI_DOUBLE, MPI_COMM_WORLD), "gathering numbers to sum");
    for (int i = 0; i < n; i++) {
        values[i] = 0.0;
        for (int r = 0; r < comm->size; r++) values[i] += all[(size_t)r * (size_t)n + (size_t)i];
    }
    free(all);
}

static void maximum(Comm *comm, int *values, int n) {
    (void)comm;
    WAIT_IN(MPI_Allreduce(MPI_IN_PLACE, values, n, MPI_INT, MPI_MAX, MPI_COMM_WORLD), "finding a maximum");
}

static void broadcast(Comm *comm, void *data, size_t bytes) {
    (void)comm;
    if (bytes > INT_MAX) die("a broadcast of %zu bytes is too large", bytes);
    WAIT_IN(MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD), "a broadcast");
}

static void barrier(Comm *comm) {
    (void)comm;
    WAIT_IN(MPI_Barrier(MPI_COMM_WORLD), "a barrier");
}

/* ---- reductions ---- */

/* The elements of an exchange that one process owns are counted one after the other, in the order of its parts: its
 * shard may have gaps and another order. */
typedef struct Reduction {
    float *data, *shard; /* the arguments of reduce_scatter() */
    const Partition *partition;
    size_t begin, end;
    int *send_count, *send_at, *receive_count, *receive_at; /* (size) each, of the piece that moves */
    size_t *owned;                                          /* (size) elements of the exchange that each owns */
} Reduction;

static size_t count_owned(const Reduction *x, int r) {
    size_t count = 0;
    for (int i = x->partition->first[r]; i < x->partition->first[r + 1]; i++) {
        Part common = part_within(&x->partition->parts[i], x->begin, x->end);
        if (common.begin < common.end) count += common.end - common.begin;
    }
    return count;
}

/* The length of rank r's piece after `done` of its elements. */
static size_t piece_length(const MpiComm *mpi, const Reduction *x, int r, size_t done) {
    if (done >= x->owned[r]) return 0;
    return (size_t)min_i64((int64_t)mpi->piece, (int64_t)(x->owned[r] - done));
}

/* Returns the range of a part that is among its owner's elements [first, last) of the exchange. *before counts the
 * elements of earlier parts; this part's are added to it. */
static Part part_in_piece(const Reduction *x, const Part *part, size_t first, size_t last, size_t *before) {
    Part common = part_within(part, x->begin, x->end);
    if (common.begin >= common.end) return (Part){0};
    size_t start = *before, end = start + (common.end - common.begin);
    *before = end;
    if (first < start) first = start;
    if (last > end) last = end;
    if (first >= last) return (Part){0};
    return part_within(&common, common.begin + (first - start), common.begin + (last - start));
}

/* Copies r's elements [first, last) of the exchange out of the flat buffer. */
static void copy_piece(const Reduction *x, int r, size_t first, size_t last, float *staged) {
    size_t before = 0;
    for (int i = x->partition->first[r]; i < x->partition->first[r + 1]; i++) {
        Part part = part_in_piece(x, &x->partition->parts[i], first, last, &before);
        size_t n = part.end - part.begin;
        memcpy(staged, x->data + part.begin, n * sizeof *staged);
        staged += n;
    }
}

/* sums[i] = the sum over processes of row r of received (size, length), process 0 first. */
static void add_rows(float *RESTRICT sums, const float *RESTRICT received, size_t length, size_t n, int size) {
    for (int r = 0; r < size; r++) {
        const float *RESTRICT row = received + (size_t)r * length;
        for (size_t i = 0; i < n; i++) sums[i] = (r > 0 ? sums[i] : 0.0f) + row[i];
    }
}

/* Adds up the received copies of this process's elements [first, first + length). */
static void add_piece(const MpiComm *mpi, const Reduction *x, size_t first, size_t length) {
    int rank = mpi->base.rank;
    const float *received = mpi->received;
    size_t before = 0;
    for (int i = x->partition->first[rank]; i < x->partition->first[rank + 1]; i++) {
        Part part = part_in_piece(x, &x->partition->parts[i], first, first + length, &before);
        size_t n = part.end - part.begin;
        add_rows(x->shard ? x->shard + part.at : x->data + part.begin, received, length, n, mpi->base.size);
        received += n;
    }
}

/* Reduces one piece: every process sends each owner its elements, and the owner adds up what it received. */
static void reduce_piece(MpiComm *mpi, const Reduction *x, size_t done) {
    int size = mpi->base.size;
    size_t own = piece_length(mpi, x, mpi->base.rank, done);
    for (int r = 0, at = 0; r < size; r++) {
        size_t length = piece_length(mpi, x, r, done);
        copy_piece(x, r, done, done + length, mpi->staged + at);
        x->send_count[r] = (int)length;
        x->send_at[r] = at;
        at += x->send_count[r];
        x->receive_count[r] = (int)own;
        x->receive_at[r] = r * (int)own;
    }
    WAIT_IN(MPI_Alltoallv(mpi->staged, x->send_count, x->send_at, MPI_FLOAT, mpi->received, x->receive_count,
                          x->receive_at, MPI_FLOAT, MPI_COMM_WORLD),
            "exchanging gradients");
    add_piece(mpi, x, done, own);
}

static void reduce_scatter(Comm *comm, float *data, const Partition *partition, float *shard, size_t begin,
                           size_t end) {
    MpiComm *mpi = (MpiComm *)comm;
    mpi->exchanges++;
    if (comm->size == 1) return;
    size_t size = (size_t)comm->size, longest = 0;
    int *layout = checked_malloc(4 * size * sizeof *layout, "exchanging gradients");
    Reduction x = {.data = data,
                   .shard = shard,
                   .partition = partition,
                   .begin = begin,
                   .end = end,
                   .send_count = layout,
                   .send_at = layout + size,
                   .receive_count = layout + 2 * size,
                   .receive_at = layout + 3 * size,
                   .owned = checked_malloc(size * sizeof *x.owned, "exchanging gradients")};
    for (int r = 0; r < comm->size; r++) {
        x.owned[r] = count_owned(&x, r);
        if (x.owned[r] > longest) longest = x.owned[r];
    }
    for (size_t done = 0; done < longest; done += mpi->piece) reduce_piece(mpi, &x, done);
    free(x.owned);
    free(layout);
}

/* A single process on a GPU has no other Comm for its device, whose memory MPI must not touch. */
static void sum_on_device(Comm *comm, double *values, int n) {
    ((MpiComm *)comm)->exchanges++;
    if (comm->size > 1) sum(comm, values, n);
}

/* ---- copying the owners' elements ---- */

static void all_gather(Comm *comm, void *data, size_t element_size, const Partition *partition, size_t begin,
                       size_t end) {
    enum { BYTES = 1 << 22 };
    ((MpiComm *)comm)->exchanges++;
    if (comm->size == 1) return;
    for (int r = 0; r < comm->size; r++)
        for (int i = partition->first[r]; i < partition->first[r + 1]; i++) {
            Part common = part_within(&partition->parts[i], begin, end);
            if (common.begin >= common.end) continue;
            char *range = (char *)data + common.begin * element_size;
            size_t bytes = (common.end - common.begin) * element_size;
            for (size_t done = 0; done < bytes; done += BYTES)
                WAIT_IN(
                    MPI_Bcast(range + done, (int)min_i64(BYTES, (int64_t)(bytes - done)), MPI_BYTE, r, MPI_COMM_WORLD),
                    "gathering weights");
        }
}

/* Exchanges have ended when they return. */
static int64_t enqueued(Comm *comm) { return ((MpiComm *)comm)->exchanges; }
static void wait_for(Comm *comm, int64_t exchanges) { (void)comm, (void)exchanges; }

static void send_to_root(Comm *comm, int from, float *data, size_t n) {
    enum { TAG = 1 };
    if (from == 0) return;
    for (size_t done = 0; done < n; done += PIECE) {
        int count = (int)min_i64(PIECE, (int64_t)(n - done));
        if (comm->rank == from)
            WAIT_IN(MPI_Send(data + done, count, MPI_FLOAT, 0, TAG, MPI_COMM_WORLD), "sending state");
        if (comm->rank == 0)
            WAIT_IN(MPI_Recv(data + done, count, MPI_FLOAT, from, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
                    "receiving state");
    }
}

static void close_mpi(Comm *comm, int status) {
    heartbeat_close(comm->heartbeat);
    free(((MpiComm *)comm)->staged);
    free(((MpiComm *)comm)->received);
    free(comm);
    MPI_Finalize();
    exit(status);
}

/* Every process finds a wrong command line, so the job can end in order. Any other failure may concern one process
 * alone, and the others must not wait for it. Either way the job ends in bounded time; of two threads that fail at
 * once, one ends the job. */
static void quit_job(int status) {
    enum { UNTIL_READ_NS = 200000000 };
    static atomic_flag ending = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&ending)) pause();
    heartbeat_end_in_time(status);
    if (status == EXIT_USAGE) {
        heartbeat_close(opened->heartbeat);
        MPI_Finalize();
        exit(status);
    }
    /* mpirun of Open MPI 5 may lose what was written right before a process aborts the job. */
    nanosleep(&(struct timespec){0, UNTIL_READ_NS}, NULL);
    MPI_Abort(MPI_COMM_WORLD, status);
    _exit(status);
}

Comm *comm_open_mpi(void) {
    int provided;
    check_mpi(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided), "starting");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MpiComm *mpi = checked_calloc(1, sizeof *mpi, "the process table");
    Comm *comm = &mpi->base;
    *comm = (Comm){.sum = sum,
                   .maximum = maximum,
                   .broadcast = broadcast,
                   .barrier = barrier,
                   .sum_on_device = sum_on_device,
                   .reduce_scatter = reduce_scatter,
                   .all_gather = all_gather,
                   .enqueued = enqueued,
                   .wait_for = wait_for,
                   .send_to_root = send_to_root,
                   .close = close_mpi};
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &comm->rank), "asking for the rank");
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &comm->size), "asking for the number of processes");
    MPI_Comm machine;
    check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &machine),
              "grouping");
    MPI_Comm_rank(machine, &comm->local_rank);
    MPI_Comm_size(machine, &comm->local_size);
    comm->memory_sharers = comm->local_size;
    MPI_Comm_free(&machine);
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = 0;
    snprintf(comm->transport, sizeof comm->transport, "%.63s", version);
    mpi->piece = (size_t)max_i64(LEAST_PIECE, PIECE / comm->size);
    size_t bytes = (size_t)comm->size * mpi->piece * sizeof(float);
    mpi->staged = checked_malloc(bytes, "exchanging gradients");
    mpi->received = checked_malloc(bytes, "exchanging gradients");
    opened = comm;
    base_set_process(comm->rank, comm->size, quit_job);
    if (comm->size > 1) comm->heartbeat = heartbeat_open(comm->rank, comm->size, provided == MPI_THREAD_MULTIPLE);
    return comm;
}
