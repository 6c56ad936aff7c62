/* block.h: the state of the block that runs: threads, warps, and who waits for whom. Of the engine alone. */
#ifndef MARS_EMU_BLOCK_H
#define MARS_EMU_BLOCK_H
#ifdef __cplusplus

#include <list>
#include <vector>

#include "dev/emu/engine.h"
#include "dev/emu/fiber.h"

namespace emu {

enum { WARP_SIZE = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP_SIZE };

struct Warp;

/* What the last lane to arrive does for all lanes in `lanes`, whose Thread::data is what each brought. */
using WarpOperation = void (*)(Warp &warp, unsigned lanes);

struct alignas(64) Thread {
    enum State { READY, AT_BARRIER, IN_WARP, DONE } state;
    Fiber *fiber; /* NULL until it first runs, and again when it is done */
    uint3 index;  /* its threadIdx */
    unsigned number, lane;
    Warp *warp;

    /* What it waits for. */
    Site site;
    unsigned mask;
    WarpOperation operation;
    void *data;

    /* cp.async: copies and the group that each is in, oldest first; those before copies_begin are done. */
    struct GroupedCopy {
        AsyncCopy copy;
        int group;
    };
    std::vector<GroupedCopy> copies;
    size_t copies_begin;
    int group; /* the one that is being filled */
};

/* Lanes that meet in __syncwarp() with one mask. ThreadSanitizer orders what is before and after by an object; there
 * are two, as a fast lane may be in the next meeting before a slow one has left this. */
struct SyncGroup {
    unsigned mask;
    unsigned generation;
    char object[2];
};

struct Warp {
    Thread *lane[WARP_SIZE];
    unsigned alive, waiting; /* bits of lanes */
    std::list<SyncGroup> groups;
};

/* The thread that runs; NULL outside of kernels. */
Thread *running_thread();

/* The running thread has said, in its state, what it waits for: runs others until it is ready again. */
void wait_for_turn();

/* Makes threads ready, `count` of them in ascending order. */
void make_ready(Thread *const *threads, int count);

/* shared.cpp: what follows has shared memory of its own. */
void shared_new_launch(size_t dynamic_bytes, bool opted_in);
void shared_new_block();

/* In a warp of which a lane has just exited, completes what waited for that lane alone. */
void warp_lane_exited(Warp &warp, unsigned lane);

} // namespace emu

#endif
#endif
