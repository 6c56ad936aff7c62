/* nccl.c: a Comm over NCCL, for the memory of GPUs. It passes operations on host memory to the Comm that it wraps.
 *
 * Exchanges run on a stream of their own, of high priority, so that they share the GPU with the backward pass: each
 * waits for an event of the operations' stream, recorded when it was enqueued, and is followed by an event, which
 * wait_for() lets the operations' stream wait for. The host waits for neither.
 *
 * Even ranges of a partition use ncclReduceScatter and ncclAllGather. All other parts, such as whole matrices, use an
 * ncclReduce to each owner and an ncclBroadcast from it. One group holds all calls of an exchange. In a ring of P ranks
 * a reduction of n elements to one owner moves n over each link, a reduce-scatter n (P - 1)/P. So a single owner costs
 * at most P/(P - 1) times as much, and Newton-Schulz gets the whole matrix without another exchange.
 *
 * Bits repeat, although NCCL does not promise it. NCCL adds along rings (ncclReduce always) and trees
 * (ncclReduceScatter only if each machine has one GPU), which it derives from the topology. It chooses between them,
 * and splits a buffer among them, by sizes and a cost model, not by timing, and adds nothing atomically. So the same
 * library on the same GPUs gives the same bits for the same exchanges. Unlike in mpi.c, other ranges of a buffer may
 * give other bits. Reductions inside the switch (NVLS) differ from run to run, as NCCL's authors say
 * (github.com/NVIDIA/nccl/issues/1497); NVLS is off. */
#include <assert.h>
#include <inttypes.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/heartbeat.h"
#include "util/cuda_check.h"

/* How many exchanges have an event for their end. A wait for an older exchange waits for the later one that uses its
 * event now. */
enum { ENDS = 256 };

typedef struct NcclComm {
    Comm base;
    Comm *host;
    ncclComm_t nccl;
    cudaStream_t stream;     /* of exchanges */
    cudaStream_t operations; /* the caller's */
    cudaEvent_t before;      /* the operations enqueued before an exchange was */
    cudaEvent_t end[ENDS];   /* of exchange i, counted from 0, in i % ENDS */
    int64_t enqueued;
} NcclComm;

static NcclComm *nccl_comm(Comm *comm) { return (NcclComm *)comm; }
static Comm *host_of(Comm *comm) { return nccl_comm(comm)->host; }

/* ---- failures ---- */

/* Reports a wrong call at once. Another process may be the cause of any other failure, so the heartbeat reports that
 * later. */
static void check_nccl(const Comm *host, ncclResult_t status, const char *what) {
    if (status == ncclSuccess) return;
    char *why = format_string("NCCL: %s failed: %s (%s)", what, ncclGetErrorString(status), ncclGetLastError(NULL));
    if (status == ncclInvalidArgument || status == ncclInvalidUsage) die("%s", why);
    heartbeat_fail(host->heartbeat, why);
}

/* Called in the heartbeat's thread, since an exchange may fail while nobody waits for it, or while the main thread
 * hangs. */
static bool has_failed(void *context, Error *why) {
    const NcclComm *nccl = context;
    ncclResult_t state = ncclSuccess, status = ncclCommGetAsyncError(nccl->nccl, &state);
    if (status != ncclSuccess) state = status;
    if (state == ncclSuccess || state == ncclInProgress) return false;
    error_set(why, "NCCL: an exchange between GPUs failed: %s (%s)", ncclGetErrorString(state), ncclGetLastError(NULL));
    return true;
}

/* ---- exchanges ---- */

/* The NCCL calls between begin_exchange() and end_exchange() are one exchange. */
static void begin_exchange(NcclComm *nccl) {
    cuda_check(cudaEventRecord(nccl->before, nccl->operations), "marking the operations so far");
    cuda_check(cudaStreamWaitEvent(nccl->stream, nccl->before, 0), "waiting for the operations so far");
    check_nccl(nccl->host, ncclGroupStart(), "beginning an exchange");
}

static void end_exchange(NcclComm *nccl, const char *what) {
    check_nccl(nccl->host, ncclGroupEnd(), what);
    cuda_check(cudaEventRecord(nccl->end[nccl->enqueued % ENDS], nccl->stream), "marking an exchange");
    nccl->enqueued++;
}

static void sum_on_device(Comm *comm, double *values, int n) {
    static const char what[] = "a sum over GPUs";
    NcclComm *nccl = nccl_comm(comm);
    begin_exchange(nccl);
    check_nccl(nccl->host, ncclAllReduce(values, values, (size_t)n, ncclFloat64, ncclSum, nccl->nccl, nccl->stream),
               what);
    end_exchange(nccl, what);
}

/* Whether an even range is part of an exchange of [begin, end): whole, or not at all. */
static bool is_exchanged(const Partition *partition, const EvenRange *range, size_t begin, size_t end) {
    size_t last = range->begin + (size_t)partition->processes * range->slice;
    bool is_inside = range->begin >= begin && last <= end;
    assert(is_inside || range->begin >= end || last <= begin);
    return is_inside;
}

static void reduce_even_range(const NcclComm *nccl, float *data, const EvenRange *range, float *shard,
                              const char *what) {
    float *from = data + range->begin;
    float *to = shard ? shard + range->at : from + (size_t)nccl->base.rank * range->slice;
    check_nccl(nccl->host, ncclReduceScatter(from, to, range->slice, ncclFloat32, ncclSum, nccl->nccl, nccl->stream),
               what);
}

static void reduce_part(const NcclComm *nccl, float *data, const Part *part, int owner, float *shard,
                        const char *what) {
    float *to = owner != nccl->base.rank ? NULL : shard ? shard + part->at : data + part->begin;
    check_nccl(nccl->host,
               ncclReduce(data + part->begin, to, part->end - part->begin, ncclFloat32, ncclSum, owner, nccl->nccl,
                          nccl->stream),
               what);
}

static void reduce_scatter(Comm *comm, float *data, const Partition *partition, float *shard, size_t begin,
                           size_t end) {
    static const char what[] = "exchanging gradients";
    NcclComm *nccl = nccl_comm(comm);
    begin_exchange(nccl);
    for (int i = 0; i < partition->even_count; i++)
        if (is_exchanged(partition, &partition->even_ranges[i], begin, end))
            reduce_even_range(nccl, data, &partition->even_ranges[i], shard, what);
    for (int r = 0; r < comm->size; r++)
        for (int i = partition->first[r]; i < partition->first[r + 1]; i++) {
            Part part = part_within(&partition->parts[i], begin, end);
            if (part.begin < part.end && !part.in_even_range) reduce_part(nccl, data, &part, r, shard, what);
        }
    end_exchange(nccl, what);
}

static void gather_even_range(const NcclComm *nccl, char *data, size_t element_size, const EvenRange *range,
                              const char *what) {
    size_t bytes = range->slice * element_size;
    char *to = data + range->begin * element_size, *own = to + (size_t)nccl->base.rank * bytes;
    check_nccl(nccl->host, ncclAllGather(own, to, bytes, ncclUint8, nccl->nccl, nccl->stream), what);
}

static void gather_part(const NcclComm *nccl, char *data, size_t element_size, const Part *part, int owner,
                        const char *what) {
    size_t bytes = (part->end - part->begin) * element_size;
    char *range = data + part->begin * element_size;
    check_nccl(nccl->host, ncclBroadcast(range, range, bytes, ncclUint8, owner, nccl->nccl, nccl->stream), what);
}

static void all_gather(Comm *comm, void *data, size_t element_size, const Partition *partition, size_t begin,
                       size_t end) {
    static const char what[] = "gathering weights";
    NcclComm *nccl = nccl_comm(comm);
    begin_exchange(nccl);
    for (int i = 0; i < partition->even_count; i++)
        if (is_exchanged(partition, &partition->even_ranges[i], begin, end))
            gather_even_range(nccl, data, element_size, &partition->even_ranges[i], what);
    for (int r = 0; r < comm->size; r++)
        for (int i = partition->first[r]; i < partition->first[r + 1]; i++) {
            Part part = part_within(&partition->parts[i], begin, end);
            if (part.begin < part.end && !part.in_even_range) gather_part(nccl, data, element_size, &part, r, what);
        }
    end_exchange(nccl, what);
}

static int64_t enqueued(Comm *comm) { return nccl_comm(comm)->enqueued; }

/* Exchanges run one after the other, so the last one's end is that of all. */
static void wait_for(Comm *comm, int64_t exchanges) {
    NcclComm *nccl = nccl_comm(comm);
    if (exchanges <= 0) return;
    if (exchanges > nccl->enqueued)
        die("wait_for: of %" PRId64 " exchanges %" PRId64 " were enqueued", exchanges, nccl->enqueued);
    cuda_check(cudaStreamWaitEvent(nccl->operations, nccl->end[(exchanges - 1) % ENDS], 0), "waiting for an exchange");
}

/* ---- operations on host memory ---- */

static void sum(Comm *comm, double *values, int n) { host_of(comm)->sum(host_of(comm), values, n); }
static void maximum(Comm *comm, int *values, int n) { host_of(comm)->maximum(host_of(comm), values, n); }
static void broadcast(Comm *comm, void *data, size_t bytes) { host_of(comm)->broadcast(host_of(comm), data, bytes); }
static void barrier(Comm *comm) { host_of(comm)->barrier(host_of(comm)); }
static void send_to_root(Comm *comm, int from, float *data, size_t n) {
    host_of(comm)->send_to_root(host_of(comm), from, data, n);
}

static void close_both(Comm *comm, int status) {
    Comm *host = host_of(comm);
    comm_close_nccl(comm);
    host->close(host, status);
}

/* ---- which process uses which GPU ---- */

/* What processes tell each other of their GPUs: whole numbers that a double holds. */
enum { GPU_HIGH, GPU_LOW, GPU_COUNT, GPU_PROCESSES, GPU_SHARED, GPU_FACTS };

/* Whether this process may share its GPU with others, which is for tests of NCCL on one GPU alone. NCCL itself must be
 * told as well: dev/results/README.md has its settings. */
static bool may_share_gpu(void) {
    const char *text = getenv("MARS_SHARE_GPU");
    if (!text || strcmp(text, "0") == 0) return false;
    if (strcmp(text, "1") != 0) warn("MARS_SHARE_GPU: '%s' is neither 0 nor 1; the processes share no GPU", text);
    return strcmp(text, "1") == 0;
}

/* The machine's name and the GPU's place on its bus as a number of 64 bits (FNV-1a): no other GPU has the same
 * number. */
static uint64_t gpu_identity(const Comm *host, int gpu) {
    char machine[256], bus[32];
    cuda_check(cudaDeviceGetPCIBusId(bus, sizeof bus, gpu), "asking for the GPU's place");
    if (gethostname(machine, sizeof machine) != 0) die("process %d cannot tell its machine's name", host->rank);
    char *name = format_string("%.255s %s", machine, bus);
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    free(name);
    return hash;
}

static bool is_same_gpu(const double *x, const double *y) {
    return x[GPU_HIGH] == y[GPU_HIGH] && x[GPU_LOW] == y[GPU_LOW];
}

/* Counts the processes on this one's GPU. If two share a GPU and not both may, returns false and the reason on every
 * process: NCCL wants a GPU for each process, and may hang if two share one. */
static bool count_sharers(Comm *host, int *sharers, Error *error) {
    size_t numbers = (size_t)host->size * GPU_FACTS;
    double *all = checked_calloc(numbers, sizeof *all, "the table of GPUs");
    double *own = all + (size_t)host->rank * GPU_FACTS;
    int gpu, gpus;
    cuda_check(cudaGetDevice(&gpu), "asking for the current GPU");
    cuda_check(cudaGetDeviceCount(&gpus), "counting GPUs");
    uint64_t identity = gpu_identity(host, gpu);
    own[GPU_HIGH] = (double)(identity >> 32);
    own[GPU_LOW] = (double)(identity & 0xffffffffu);
    own[GPU_COUNT] = gpus;
    own[GPU_PROCESSES] = host->local_size;
    own[GPU_SHARED] = may_share_gpu();
    host->sum(host, all, (int)numbers); /* of one number and zeros: each process's is in its place */
    bool is_right = true;
    *sharers = 0;
    for (int a = 0; a < host->size && is_right; a++) {
        const double *x = all + (size_t)a * GPU_FACTS;
        *sharers += is_same_gpu(x, own);
        for (int b = a + 1; b < host->size && is_right; b++) {
            const double *y = all + (size_t)b * GPU_FACTS;
            is_right = !is_same_gpu(x, y) || (x[GPU_SHARED] != 0.0 && y[GPU_SHARED] != 0.0);
            if (!is_right)
                error_set(error,
                          "processes %d and %d would share a GPU: of %.0f processes on their machine each sees %.0f "
                          "GPU(s); start one process for each GPU",
                          a, b, x[GPU_PROCESSES], x[GPU_COUNT]);
        }
    }
    free(all);
    return is_right;
}

/* ---- opening ---- */

/* The highest priority: an exchange that waits for room on the GPU delays all other ranks too. */
static void open_stream(NcclComm *nccl) {
    int least, greatest;
    cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
    cuda_check(cudaStreamCreateWithPriority(&nccl->stream, cudaStreamNonBlocking, greatest), "making a stream");
    cuda_check(cudaEventCreateWithFlags(&nccl->before, cudaEventDisableTiming), "making an event");
    for (int i = 0; i < ENDS; i++)
        cuda_check(cudaEventCreateWithFlags(&nccl->end[i], cudaEventDisableTiming), "making an event");
}

static void open_nccl(NcclComm *nccl) {
    Comm *host = nccl->host;
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    if (host->rank == 0) check_nccl(host, ncclGetUniqueId(&id), "beginning");
    host->broadcast(host, &id, sizeof id);
    check_nccl(host, ncclCommInitRank(&nccl->nccl, host->size, id, host->rank), "connecting the GPUs");
}

Comm *comm_open_nccl(Comm *host, void *stream, Error *error) {
    int sharers;
    if (!count_sharers(host, &sharers, error)) return NULL;
    if (sharers > 1) warn("MARS_SHARE_GPU: %d processes share a GPU; this is for tests and slow", sharers);
    NcclComm *nccl = checked_calloc(1, sizeof *nccl, "NCCL");
    nccl->host = host;
    nccl->operations = (cudaStream_t)stream;
    open_stream(nccl);
    open_nccl(nccl);
    nccl->base = (Comm){.rank = host->rank,
                        .size = host->size,
                        .local_rank = host->local_rank,
                        .local_size = host->local_size,
                        .memory_sharers = sharers,
                        .heartbeat = host->heartbeat,
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
                        .close = close_both};
    int version;
    check_nccl(host, ncclGetVersion(&version), "asking for the version");
    snprintf(nccl->base.transport, sizeof nccl->base.transport, "NCCL %d.%d.%d, %.40s", version / 10000,
             version / 100 % 100, version % 100, host->transport);
    heartbeat_watch(host->heartbeat, has_failed, nccl);
    return &nccl->base;
}

void comm_close_nccl(Comm *comm) {
    NcclComm *nccl = nccl_comm(comm);
    cuda_check(cudaStreamSynchronize(nccl->stream), "an exchange between GPUs");
    heartbeat_watch(comm->heartbeat, NULL, NULL);
    check_nccl(nccl->host, ncclCommDestroy(nccl->nccl), "ending");
    for (int i = 0; i < ENDS; i++) cuda_check(cudaEventDestroy(nccl->end[i]), "ending an event");
    cuda_check(cudaEventDestroy(nccl->before), "ending an event");
    cuda_check(cudaStreamDestroy(nccl->stream), "ending a stream");
    free(nccl);
}
