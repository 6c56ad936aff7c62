/* stream.cpp: queues of work, events, copies. A stream runs up to a moment that something waits for, and no further. */
#include "dev/emu/stream.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "dev/emu/engine.h"
#include "dev/emu/runtime.h"

namespace emu {
struct Moment;
}

struct CUstream_st {
    int device;
    bool blocking; /* it and the default stream wait for each other */
    std::deque<std::function<void()>> queue = {};
    uint64_t queued = 0;       /* all work that was ever queued, but for waits and the recording of moments */
    uint64_t default_seen = 0; /* `queued` of the default stream when this stream last had to wait for it */
    int refusals = 0;          /* how often cudaStreamQuery() said no since work was queued */
};

struct CUevent_st {
    std::shared_ptr<emu::Moment> recorded; /* NULL: never */
    bool timed;
};

namespace emu {

/* A place in a stream's queue that has or has not been passed. */
struct Moment {
    CUstream_st *stream;
    bool passed = false;
    double seconds = 0; /* when it was passed */
    int refusals = 0;   /* how often cudaEventQuery() said no */
};

/* How often a query says "not ready" before the work runs: a program that only looks must get on, too. */
static const int refusals_max = 3;

/* Streams and events that exist, in the order in which they were made; each device has a default stream. */
static std::vector<CUstream_st *> &streams = *new std::vector<CUstream_st *>;
static std::vector<CUstream_st *> &default_streams = *new std::vector<CUstream_st *>;
static std::set<CUevent_st *> &events = *new std::set<CUevent_st *>;

static CUstream_st *default_stream(int device) {
    while (static_cast<int>(default_streams.size()) <= device)
        default_streams.push_back(new CUstream_st{static_cast<int>(default_streams.size()), true});
    return default_streams[device];
}

static bool exists(CUstream_st *stream) {
    for (CUstream_st *s : streams)
        if (s == stream) return true;
    return false;
}

bool stream_exists(cudaStream_t stream) { return !stream || exists(stream); }

/* The stream that a handle stands for; NULL where there is none. */
static CUstream_st *stream_of(cudaStream_t handle) {
    if (!handle) return default_stream(current_device());
    return exists(handle) ? handle : nullptr;
}

static double clock_offset; /* of the clock that events read, from the host's */

void move_clock(double seconds) { clock_offset += seconds; }

static double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count() + clock_offset;
}

/* ---- running ---- */

static bool work_runs; /* queued work must not use streams itself */

static void must_be_host() {
    if (running_in_kernel() || work_runs) fatal({}, "a stream is used from inside of a kernel or of queued work");
}

static void run_next(CUstream_st *stream) {
    std::function<void()> work = std::move(stream->queue.front());
    stream->queue.pop_front();
    work();
}

static void run_until(const std::shared_ptr<Moment> &moment) {
    while (!moment->passed) run_next(moment->stream);
}

static void run_stream(CUstream_st *stream) {
    while (!stream->queue.empty()) run_next(stream);
}

void run_all_streams() {
    must_be_host();
    std::vector<CUstream_st *> all = default_streams;
    all.insert(all.end(), streams.begin(), streams.end());
    if (order_is_descending()) std::reverse(all.begin(), all.end());
    for (CUstream_st *stream : all)
        if (stream->device == current_device()) run_stream(stream);
}

/* ---- queueing ---- */

static std::shared_ptr<Moment> mark(CUstream_st *stream) {
    auto moment = std::make_shared<Moment>();
    moment->stream = stream;
    stream->queue.push_back([moment] {
        moment->passed = true;
        moment->seconds = seconds_now();
    });
    return moment;
}

static void wait_for(CUstream_st *stream, std::shared_ptr<Moment> moment) {
    if (!moment->passed) stream->queue.push_back([moment = std::move(moment)] { run_until(moment); });
}

/* What comes next on the default stream waits for all blocking streams, and what comes on them for it. */
static void order_with_default(CUstream_st *stream) {
    CUstream_st *zero = default_stream(stream->device);
    if (stream == zero) {
        for (CUstream_st *other : streams)
            if (other->device == zero->device && other->blocking && !other->queue.empty()) wait_for(zero, mark(other));
    } else if (stream->blocking && stream->default_seen < zero->queued) {
        stream->default_seen = zero->queued;
        if (!zero->queue.empty()) wait_for(stream, mark(zero));
    }
}

static void add(CUstream_st *stream, std::function<void()> work) {
    must_be_host();
    order_with_default(stream);
    stream->queue.push_back([work = std::move(work)] {
        work_runs = true;
        work();
        work_runs = false;
    });
    stream->queued++;
    stream->refusals = 0;
}

void enqueue(cudaStream_t handle, std::function<void()> work) {
    CUstream_st *stream = stream_of(handle);
    if (!stream) fatal({}, "work for a stream that does not exist");
    add(stream, std::move(work));
}

/* ---- copies ---- */

/* Whether `kind` is true of the two pointers, as CUDA checks it. */
static bool kind_is_true(cudaMemcpyKind kind, Place to, Place from) {
    switch (kind) {
    case cudaMemcpyHostToHost:
        return to != Place::DEVICE && from != Place::DEVICE;
    case cudaMemcpyHostToDevice:
        return to == Place::DEVICE && from != Place::DEVICE;
    case cudaMemcpyDeviceToHost:
        return to != Place::DEVICE && from == Place::DEVICE;
    case cudaMemcpyDeviceToDevice:
        return to == Place::DEVICE && from == Place::DEVICE;
    case cudaMemcpyDefault:
        return true;
    }
    return false;
}

/* Pageable memory is read at the call, into a buffer of CUDA's; pinned and device memory when the stream gets there. */
static void queue_copy(CUstream_st *stream, void *to, const void *from, size_t bytes, Place from_place) {
    if (from_place != Place::PAGEABLE) {
        add(stream, [=] { std::memcpy(to, from, bytes); });
        return;
    }
    const char *start = static_cast<const char *>(from);
    add(stream,
        [to, staged = std::vector<char>(start, start + bytes)] { std::memcpy(to, staged.data(), staged.size()); });
}

/* What is done when a copy returns. A copy to pageable memory always is. cudaMemcpy() between pinned and device memory
 * is, but not one inside the device; of one from pageable memory only the reading is, after all earlier work. */
static cudaError_t copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t handle, bool wait) {
    CUstream_st *stream = stream_of(handle);
    if (!stream) return remember(cudaErrorInvalidResourceHandle);
    if (bytes == 0) return cudaSuccess;
    if (!to || !from) return remember(cudaErrorInvalidValue);
    bool to_fits, from_fits;
    Place to_place = place_of(to, bytes, &to_fits), from_place = place_of(from, bytes, &from_fits);
    if (!to_fits || !from_fits || !kind_is_true(kind, to_place, from_place)) return remember(cudaErrorInvalidValue);
    bool on_device = to_place == Place::DEVICE && from_place == Place::DEVICE, staged = from_place == Place::PAGEABLE;
    must_be_host();
    if (wait && staged) run_stream(stream);
    queue_copy(stream, to, from, bytes, from_place);
    if (to_place == Place::PAGEABLE || (wait && !on_device && !staged)) run_stream(stream);
    return cudaSuccess;
}

static cudaError_t set(void *memory, int value, size_t bytes, cudaStream_t handle) {
    CUstream_st *stream = stream_of(handle);
    if (!stream) return remember(cudaErrorInvalidResourceHandle);
    if (bytes == 0) return cudaSuccess;
    bool fits;
    if (!memory || place_of(memory, bytes, &fits) == Place::PAGEABLE || !fits) return remember(cudaErrorInvalidValue);
    add(stream, [=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
}

/* ---- streams ---- */

static cudaError_t stream_create(cudaStream_t *stream, unsigned flags) {
    if (!stream || flags > cudaStreamNonBlocking) return remember(cudaErrorInvalidValue);
    *stream = new CUstream_st{current_device(), flags != cudaStreamNonBlocking};
    streams.push_back(*stream);
    return cudaSuccess;
}

static cudaError_t stream_destroy(cudaStream_t stream) {
    if (!stream || !exists(stream)) return remember(cudaErrorInvalidResourceHandle);
    must_be_host();
    run_stream(stream);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + i--);
    delete stream;
    return cudaSuccess;
}

/* ---- events ---- */

static cudaError_t event_create(cudaEvent_t *event, unsigned flags) {
    if (!event) return remember(cudaErrorInvalidValue);
    *event = new CUevent_st{nullptr, !(flags & cudaEventDisableTiming)};
    events.insert(*event);
    return cudaSuccess;
}

static bool event_exists(cudaEvent_t event) { return events.count(event) > 0; }

} // namespace emu

using namespace emu;

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    return copy(to, from, bytes, kind, nullptr, true);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(to, from, bytes, kind, stream, false);
}
cudaError_t cudaMemset(void *memory, int value, size_t bytes) { return set(memory, value, bytes, nullptr); }
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    return set(memory, value, bytes, stream);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return stream_create(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return stream_create(stream, flags); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    return stream_create(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return stream_destroy(stream); }

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    CUstream_st *stream = stream_of(handle);
    if (!stream) return remember(cudaErrorInvalidResourceHandle);
    must_be_host();
    run_stream(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    CUstream_st *stream = stream_of(handle);
    if (!stream) return remember(cudaErrorInvalidResourceHandle);
    must_be_host();
    if (!stream->queue.empty() && stream->refusals++ < refusals_max) return cudaErrorNotReady;
    run_stream(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    CUstream_st *stream = stream_of(handle);
    if (!stream || !event_exists(event)) return remember(cudaErrorInvalidResourceHandle);
    must_be_host();
    if (event->recorded) wait_for(stream, event->recorded);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return event_create(event, cudaEventDefault); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return event_create(event, flags); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
    CUstream_st *stream = stream_of(handle);
    if (!stream || !event_exists(event)) return remember(cudaErrorInvalidResourceHandle);
    must_be_host();
    order_with_default(stream);
    event->recorded = mark(stream);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (!event_exists(event)) return remember(cudaErrorInvalidResourceHandle);
    must_be_host();
    if (event->recorded) run_until(event->recorded);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (!event_exists(event)) return remember(cudaErrorInvalidResourceHandle);
    must_be_host();
    if (!event->recorded || event->recorded->passed) return cudaSuccess;
    if (event->recorded->refusals++ < refusals_max) return cudaErrorNotReady;
    run_until(event->recorded);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    if (!event_exists(start) || !event_exists(end) || !start->timed || !end->timed || !start->recorded ||
        !end->recorded)
        return remember(cudaErrorInvalidResourceHandle);
    if (!start->recorded->passed || !end->recorded->passed) return cudaErrorNotReady;
    *milliseconds = static_cast<float>((end->recorded->seconds - start->recorded->seconds) * 1e3);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!event_exists(event)) return remember(cudaErrorInvalidResourceHandle);
    events.erase(event);
    delete event;
    return cudaSuccess;
}
