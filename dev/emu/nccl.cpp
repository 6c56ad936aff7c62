/* nccl.cpp: NCCL for emulated GPUs, over MPI: sums in the order of the processes, and complaints where NCCL would hang
 * or race.
 *
 * Calls are queued on the emulated stream, which runs late, in the host's thread; when a process comes to one, it waits
 * there for the others. A real GPU goes on while its host waits for other processes; here the host would wait in MPI
 * for a process that waits for an exchange that this one has only queued. So the functions of MPI in which comm/mpi.c
 * waits are replaced, as MPI's profiling interface allows, by ones that first run all that is queued. */
#define OMPI_SKIP_MPICXX 1 /* MPI's own C++ interface is gone since MPI-3 */
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "dev/emu/include/nccl.h"
#include "dev/emu/report.h"
#include "dev/emu/runtime.h"
#include "dev/emu/stream.h"

enum { KINDS = 5 };

struct ncclComm {
    MPI_Comm mpi;
    int rank, size;
    bool has_failed;                 /* as a test asked for */
    size_t calls[KINDS], sum[KINDS]; /* of each kind: how many calls were made, and the sum of their counts */
};

namespace emu {

enum class Kind { REDUCE, BROADCAST, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER };
static const char *const kind_names[KINDS] = {"ncclReduce", "ncclBroadcast", "ncclAllReduce", "ncclReduceScatter",
                                              "ncclAllGather"};

struct Call {
    Kind kind;
    const char *send;
    char *receive;
    size_t count; /* as NCCL defines it: of the smaller buffer */
    ncclDataType_t type;
    int root; /* -1: the call has none */
    ncclComm_t comm;
    cudaStream_t stream;
};

/* The group that is being asked for. */
static int group_depth;
static ncclResult_t group_result;
static std::vector<Call> &group = *new std::vector<Call>;

static size_t type_size(ncclDataType_t type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return sizes[type];
}

static void check_mpi(int status, const char *what) {
    if (status != MPI_SUCCESS) fatal({}, "MPI failed in %s", what);
}

/* ---- running a call, in the order of the stream ---- */

/* NCCL would hang, or mix up buffers, where processes ask for different things. */
static void check_agreement(const Call &call) {
    enum { FACTS = 4 };
    int64_t own[FACTS] = {static_cast<int64_t>(call.kind), static_cast<int64_t>(call.count), call.type, call.root};
    std::vector<int64_t> all(static_cast<size_t>(call.comm->size) * FACTS);
    check_mpi(PMPI_Allgather(own, FACTS, MPI_INT64_T, all.data(), FACTS, MPI_INT64_T, call.comm->mpi), "a comparison");
    for (int r = 0; r < call.comm->size; r++) {
        const int64_t *other = &all[static_cast<size_t>(r) * FACTS];
        if (!std::equal(own, own + FACTS, other))
            fatal({},
                  "NCCL: process %d asks for %s of %lld elements of type %lld, root %lld; process %d for %s of %lld of "
                  "type %lld, root %lld",
                  call.comm->rank, kind_names[own[0]], static_cast<long long>(own[1]), static_cast<long long>(own[2]),
                  static_cast<long long>(own[3]), r, kind_names[other[0]], static_cast<long long>(other[1]),
                  static_cast<long long>(other[2]), static_cast<long long>(other[3]));
    }
}

/* receive[i] = the sum of parts[r n + i] over processes, process 0 first. */
template <class T> static void add_up(T *receive, const T *parts, int n, int size) {
    for (int i = 0; i < n; i++) {
        T sum = 0;
        for (int r = 0; r < size; r++) sum += parts[static_cast<size_t>(r) * n + i];
        receive[i] = sum;
    }
}

template <class T> static void run_sum(const Call &call, MPI_Datatype type) {
    const size_t piece = 1 << 18;
    const T *send = reinterpret_cast<const T *>(call.send);
    T *receive = reinterpret_cast<T *>(call.receive);
    ncclComm_t comm = call.comm;
    bool to_all = call.root < 0;
    std::vector<T> parts(std::min(piece, call.count) * static_cast<size_t>(comm->size));
    for (size_t at = 0; at < call.count; at += piece) {
        int n = static_cast<int>(std::min(piece, call.count - at));
        check_mpi(to_all ? PMPI_Allgather(send + at, n, type, parts.data(), n, type, comm->mpi)
                         : PMPI_Gather(send + at, n, type, parts.data(), n, type, call.root, comm->mpi),
                  "a sum");
        if (to_all || call.root == comm->rank) add_up(receive + at, parts.data(), n, comm->size);
    }
}

static void run_broadcast(const Call &call) {
    const size_t piece = 1 << 20, bytes = call.count * type_size(call.type);
    if (call.comm->rank == call.root && call.send != call.receive) std::memcpy(call.receive, call.send, bytes);
    for (size_t at = 0; at < bytes; at += piece)
        check_mpi(PMPI_Bcast(call.receive + at, static_cast<int>(std::min(piece, bytes - at)), MPI_BYTE, call.root,
                             call.comm->mpi),
                  "a broadcast");
}

/* One owner after the other gets its slice, summed in the order of the processes. */
static void run_reduce_scatter(const Call &call) {
    const size_t piece = 1 << 18;
    const float *send = reinterpret_cast<const float *>(call.send);
    float *receive = reinterpret_cast<float *>(call.receive);
    ncclComm_t comm = call.comm;
    const size_t size = static_cast<size_t>(comm->size);
    std::vector<float> parts(std::min(piece, call.count) * size);
    for (size_t at = 0; at < call.count; at += piece)
        for (int r = 0; r < comm->size; r++) {
            int n = static_cast<int>(std::min(piece, call.count - at));
            const float *slice = send + static_cast<size_t>(r) * call.count + at;
            check_mpi(PMPI_Gather(slice, n, MPI_FLOAT, parts.data(), n, MPI_FLOAT, r, comm->mpi), "a reduce-scatter");
            if (r == comm->rank) add_up(receive + at, parts.data(), n, comm->size);
        }
}

static void run_all_gather(const Call &call) {
    const size_t piece = 1 << 20, bytes = call.count * type_size(call.type);
    ncclComm_t comm = call.comm;
    char *own = call.receive + static_cast<size_t>(comm->rank) * bytes;
    if (call.send != own) std::memcpy(own, call.send, bytes);
    for (int r = 0; r < comm->size; r++)
        for (size_t at = 0; at < bytes; at += piece)
            check_mpi(PMPI_Bcast(call.receive + static_cast<size_t>(r) * bytes + at,
                                 static_cast<int>(std::min(piece, bytes - at)), MPI_BYTE, r, comm->mpi),
                      "an all-gather");
}

static void run(const Call &call) {
    check_agreement(call);
    if (call.kind == Kind::BROADCAST)
        run_broadcast(call);
    else if (call.kind == Kind::REDUCE_SCATTER)
        run_reduce_scatter(call);
    else if (call.kind == Kind::ALL_GATHER)
        run_all_gather(call);
    else if (call.type == ncclFloat32)
        run_sum<float>(call, MPI_FLOAT);
    else
        run_sum<double>(call, MPI_DOUBLE);
}

/* ---- asking ---- */

/* Memory that a call touches on this process. */
struct Range {
    const char *begin, *end;
    bool meets(const Range &other) const { return begin < other.end && other.begin < end; }
};

/* Bytes of a buffer that holds `count` elements, or as many for each process. */
static size_t bytes_of(const Call &call, bool of_each_process) {
    size_t bytes = call.count * type_size(call.type);
    return of_each_process ? bytes * static_cast<size_t>(call.comm->size) : bytes;
}

static bool is_root(const Call &call) { return call.root == call.comm->rank; }

/* A process's place in the larger buffer is that of the smaller one, where NCCL works in place. */
static bool is_in_place(const Call &call) {
    size_t own = static_cast<size_t>(call.comm->rank) * bytes_of(call, false);
    if (call.kind == Kind::REDUCE_SCATTER) return call.receive == call.send + own;
    if (call.kind == Kind::ALL_GATHER) return call.send == call.receive + own;
    return call.send == call.receive;
}

static Range range_read(const Call &call) {
    bool reads = call.kind != Kind::BROADCAST || is_root(call);
    return {call.send, reads ? call.send + bytes_of(call, call.kind == Kind::REDUCE_SCATTER) : call.send};
}

static Range range_written(const Call &call) {
    bool writes = true;
    if (call.kind == Kind::REDUCE) writes = is_root(call);
    if (call.kind == Kind::BROADCAST) writes = !(is_in_place(call) && is_root(call));
    return {call.receive, writes ? call.receive + bytes_of(call, call.kind == Kind::ALL_GATHER) : call.receive};
}

static void check_memory(const Call &call, const Range &range, const char *name) {
    size_t bytes = static_cast<size_t>(range.end - range.begin);
    bool fits = true;
    if (bytes == 0) return;
    if (place_of(range.begin, bytes, &fits) != Place::DEVICE)
        fatal({}, "%s: %s is not memory of a GPU", kind_names[static_cast<int>(call.kind)], name);
    if (!fits) fatal({}, "%s: %s goes past the end of its memory", kind_names[static_cast<int>(call.kind)], name);
}

/* Calls of a group run side by side, so none may write what another one touches. */
static void check_group(const std::vector<Call> &calls) {
    for (const Call &a : calls)
        for (const Call &b : calls) {
            Range written = range_written(a), read = range_read(b);
            bool in_place = &a == &b && is_in_place(a);
            if ((written.meets(read) && !in_place) || (&a != &b && written.meets(range_written(b))))
                fatal({}, "NCCL: a call writes memory that another one of its group uses, or its own out of place");
            if (a.stream != b.stream) fatal({}, "NCCL: the emulator wants one stream for all calls of a group");
        }
}

static ncclResult_t ask(const Call &call, ncclRedOp_t op) {
    ncclComm_t comm = call.comm;
    bool sums = call.kind != Kind::BROADCAST && call.kind != Kind::ALL_GATHER;
    bool has_root = call.kind == Kind::REDUCE || call.kind == Kind::BROADCAST;
    if (!comm || call.type < ncclInt8 || call.type > ncclBfloat16) return ncclInvalidArgument;
    if (has_root && (call.root < 0 || call.root >= comm->size)) return ncclInvalidArgument;
    if (!stream_exists(call.stream)) return ncclInvalidArgument;
    if (sums && (op != ncclSum || (call.type != ncclFloat32 && call.type != ncclFloat64)))
        fatal({}, "NCCL: the emulator only sums, and only float32 and float64");
    if (call.kind == Kind::REDUCE_SCATTER && call.type != ncclFloat32)
        fatal({}, "ncclReduceScatter: the emulator only takes float32");
    check_memory(call, range_read(call), "what is sent");
    check_memory(call, range_written(call), "where it is received");
    if (call.count == 0) return ncclSuccess;
    group.push_back(call);
    comm->calls[static_cast<int>(call.kind)]++;
    comm->sum[static_cast<int>(call.kind)] += call.count;
    return ncclSuccess;
}

static ncclResult_t ask_in_group(const Call &call, ncclRedOp_t op) {
    ncclGroupStart();
    ncclResult_t result = ask(call, op);
    if (result != ncclSuccess) group_result = result;
    ncclResult_t ended = ncclGroupEnd();
    return result != ncclSuccess ? result : ended;
}

} // namespace emu

using namespace emu;

ncclResult_t ncclGroupStart(void) {
    if (group_depth++ == 0) group_result = ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    if (group_depth == 0) return ncclInvalidUsage;
    if (--group_depth > 0) return ncclSuccess;
    std::vector<Call> calls = std::move(group);
    group.clear();
    if (group_result != ncclSuccess || calls.empty()) return group_result;
    check_group(calls);
    cudaStream_t stream = calls[0].stream;
    enqueue(stream, [calls = std::move(calls)] {
        for (const Call &call : calls) run(call);
    });
    return ncclSuccess;
}

ncclResult_t ncclReduce(const void *send, void *receive, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    Call call = {Kind::REDUCE, static_cast<const char *>(send), static_cast<char *>(receive), count, type, root, comm,
                 stream};
    return ask_in_group(call, op);
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    Call call = {
        Kind::BROADCAST, static_cast<const char *>(send), static_cast<char *>(receive), count, type, root, comm,
        stream};
    return ask_in_group(call, ncclSum);
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
    Call call = {
        Kind::ALL_REDUCE, static_cast<const char *>(send), static_cast<char *>(receive), count, type, -1, comm, stream};
    return ask_in_group(call, op);
}

ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t receive_count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    Call call = {Kind::REDUCE_SCATTER,
                 static_cast<const char *>(send),
                 static_cast<char *>(receive),
                 receive_count,
                 type,
                 -1,
                 comm,
                 stream};
    return ask_in_group(call, op);
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t send_count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    Call call = {Kind::ALL_GATHER,
                 static_cast<const char *>(send),
                 static_cast<char *>(receive),
                 send_count,
                 type,
                 -1,
                 comm,
                 stream};
    return ask_in_group(call, ncclSum);
}

/* ---- communicators ---- */

/* Another version than the header's behaves as that one does, as far as it matters here. */
ncclResult_t ncclGetVersion(int *version) {
    const char *text = std::getenv("MARS_EMU_NCCL_VERSION");
    int major, minor, patch;
    *version = NCCL_VERSION_CODE;
    if (text && std::sscanf(text, "%d.%d.%d", &major, &minor, &patch) != 3)
        fatal({}, "MARS_EMU_NCCL_VERSION is three numbers with dots between them, not '%s'", text);
    if (text) *version = NCCL_VERSION(major, minor, patch);
    return ncclSuccess;
}

/* NCCL's holds an address to connect to. This one is only to be the same everywhere, and no other's. */
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static unsigned number;
    double now = PMPI_Wtime();
    std::memset(id->internal, 0, sizeof id->internal);
    std::memcpy(id->internal, &now, sizeof now);
    std::memcpy(id->internal + sizeof now, &++number, sizeof number);
    return ncclSuccess;
}

static std::string &last_error = *new std::string("no error yet");

/* Where a GPU is: its host, as NCCL tells hosts apart, and its number there. */
struct GpuPlace {
    char host[256];
    int device;
};

/* NCCL_HOSTID, where it is set, takes the place of the host's name and of the number of its last start. */
static GpuPlace own_place() {
    GpuPlace place = {};
    const char *host = std::getenv("NCCL_HOSTID");
    if (host)
        std::snprintf(place.host, sizeof place.host, "%s", host);
    else if (gethostname(place.host, sizeof place.host - 1) != 0)
        fatal({}, "NCCL: the host has no name");
    place.device = current_device();
    return place;
}

/* From 2.30.3 on NCCL can be told that several processes of a host use one GPU. */
static bool may_share_devices() {
    int version;
    const char *enabled = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    ncclGetVersion(&version);
    return version >= NCCL_VERSION(2, 30, 3) && enabled && std::atoi(enabled) == 1;
}

/* Else NCCL refuses to connect two processes of a host that use one GPU. */
static bool shares_a_device(ncclComm_t comm) {
    const GpuPlace own = own_place();
    const int bytes = sizeof own;
    std::vector<GpuPlace> places(static_cast<size_t>(comm->size));
    check_mpi(PMPI_Allgather(&own, bytes, MPI_BYTE, places.data(), bytes, MPI_BYTE, comm->mpi), "connecting");
    for (size_t a = 0; a < places.size(); a++)
        for (size_t b = a + 1; b < places.size(); b++) {
            if (std::strcmp(places[a].host, places[b].host) != 0 || places[a].device != places[b].device) continue;
            last_error = "ranks " + std::to_string(a) + " and " + std::to_string(b) + " both use GPU " +
                         std::to_string(places[a].device) + " of host " + places[a].host;
            return true;
        }
    return false;
}

ncclResult_t ncclCommInitRank(ncclComm_t *result, int processes, ncclUniqueId id, int rank) {
    if (!result || rank < 0 || rank >= processes) return ncclInvalidArgument;
    run_all_streams();
    ncclComm_t comm = new ncclComm{MPI_COMM_NULL, rank, processes, false, {}, {}};
    int mpi_rank, mpi_size;
    check_mpi(PMPI_Comm_dup(MPI_COMM_WORLD, &comm->mpi), "connecting");
    check_mpi(PMPI_Comm_rank(comm->mpi, &mpi_rank), "connecting");
    check_mpi(PMPI_Comm_size(comm->mpi, &mpi_size), "connecting");
    if (mpi_rank != rank || mpi_size != processes) fatal({}, "NCCL: the emulator wants the ranks that MPI has");
    ncclUniqueId first = id;
    check_mpi(PMPI_Bcast(first.internal, sizeof first.internal, MPI_BYTE, 0, comm->mpi), "connecting");
    if (std::memcmp(first.internal, id.internal, sizeof id.internal) != 0)
        fatal({}, "NCCL: process %d has another ncclUniqueId than process 0: it would wait for ever", rank);
    const char *failing = std::getenv("MARS_EMU_NCCL_ERROR");
    comm->has_failed = failing && std::atoi(failing) == rank;
    bool refused = !may_share_devices() && shares_a_device(comm);
    *result = comm;
    if (!refused) return ncclSuccess;
    *result = nullptr;
    ncclCommDestroy(comm);
    return ncclInvalidUsage;
}

static void print_counts(ncclComm_t comm) {
    for (int kind = 0; kind < KINDS; kind++)
        note({}, "NCCL: %s: %zu calls, %zu elements", kind_names[kind], comm->calls[kind], comm->sum[kind]);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!comm) return ncclInvalidArgument;
    run_all_streams();
    const char *counts = std::getenv("MARS_EMU_NCCL_COUNTS");
    if (counts && std::strcmp(counts, "1") == 0 && comm->rank == 0) print_counts(comm);
    check_mpi(PMPI_Comm_free(&comm->mpi), "ending");
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (!comm || !error) return ncclInvalidArgument;
    *error = comm->has_failed ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "operation in progress"};
    return result >= ncclSuccess && result < ncclNumResults ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

/* ---- MPI, for the host: see above ---- */

int MPI_Barrier(MPI_Comm comm) {
    run_all_streams();
    return PMPI_Barrier(comm);
}

int MPI_Bcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm) {
    run_all_streams();
    return PMPI_Bcast(data, count, type, root, comm);
}

int MPI_Allgather(const void *send, int send_count, MPI_Datatype send_type, void *receive, int receive_count,
                  MPI_Datatype receive_type, MPI_Comm comm) {
    run_all_streams();
    return PMPI_Allgather(send, send_count, send_type, receive, receive_count, receive_type, comm);
}

int MPI_Allreduce(const void *send, void *receive, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
    run_all_streams();
    return PMPI_Allreduce(send, receive, count, type, op, comm);
}

int MPI_Alltoallv(const void *send, const int *send_counts, const int *send_at, MPI_Datatype send_type, void *receive,
                  const int *receive_counts, const int *receive_at, MPI_Datatype receive_type, MPI_Comm comm) {
    run_all_streams();
    return PMPI_Alltoallv(send, send_counts, send_at, send_type, receive, receive_counts, receive_at, receive_type,
                          comm);
}

int MPI_Send(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm) {
    run_all_streams();
    return PMPI_Send(data, count, type, to, tag, comm);
}

int MPI_Recv(void *data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Status *status) {
    run_all_streams();
    return PMPI_Recv(data, count, type, from, tag, comm, status);
}
