/* engine.cpp: runs a grid: blocks one after the other, the threads of a block as fibers that change over where one must
 * wait; barriers. Shared memory is in shared.cpp, what the lanes of a warp do together in warp.cpp. */
#include "dev/emu/block.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "dev/emu/emu.h"
#include "dev/emu/runtime.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu {

/* ---- the order ---- */

enum class Order { FORWARD, REVERSE, NEWEST, MIX };
static Order order = Order::FORWARD;
static uint32_t seed = 1, random_state = 1;

/* Marsaglia's xorshift. */
static uint32_t random_number() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

static bool set_order(const char *name) {
    if (!std::strcmp(name, "forward"))
        order = Order::FORWARD;
    else if (!std::strcmp(name, "reverse"))
        order = Order::REVERSE;
    else if (!std::strcmp(name, "newest"))
        order = Order::NEWEST;
    else if (!std::strcmp(name, "mix"))
        order = Order::MIX, seed = 1;
    else if (!std::strncmp(name, "mix:", 4))
        order = Order::MIX, seed = std::strtoul(name + 4, nullptr, 10);
    else
        return false;
    return true;
}

static void read_environment() {
    static bool done = false;
    if (done) return;
    done = true;
    const char *name = std::getenv("MARS_EMU_ORDER");
    if (name && !set_order(name)) fatal({}, "MARS_EMU_ORDER is forward, reverse, newest or mix:SEED, not '%s'", name);
}

bool order_is_descending() { return read_environment(), order == Order::REVERSE || order == Order::NEWEST; }

/* ---- the block and its queue of threads that can run ---- */

struct Block {
    Thread threads[MAX_THREADS];
    Warp warps[MAX_WARPS];
    unsigned size, alive, at_barrier;
    unsigned generation; /* counts barriers */
    BarrierVote vote, result;
    Thread *running;
    bool has_copies; /* a thread has used cp.async */

    Thread *queue[MAX_THREADS];
    unsigned head, tail; /* counters, modulo MAX_THREADS; each thread is in the queue once at most */

    void (*body)(const void *call);
    const void *call;
    Site site; /* of the launch */

    char start_object, end_object, barrier_object[2]; /* ThreadSanitizer's */
};
/* Never destroyed: static destructors of the program may still launch. */
static Block &block = *new Block{};

Thread *running_thread() { return block.running; }
bool running_in_kernel() { return block.running != nullptr; }

static Thread *&queue_slot(unsigned position) { return block.queue[position % MAX_THREADS]; }

void make_ready(Thread *const *threads, int count) {
    for (int i = 0; i < count; i++) {
        Thread *thread = threads[order == Order::REVERSE ? count - 1 - i : i];
        thread->state = Thread::READY;
        queue_slot(block.tail++) = thread;
    }
}

/* A block's stacks are more than the first cache holds: starts to fetch the top of the one that comes after the next.
 * (If it were not inlined, g++ 12 would take it for a function without effect, and leave it out.) */
__attribute__((always_inline)) static inline void fetch_stack(const Thread &thread) {
    if (!thread.fiber) return;
    const char *top = static_cast<const char *>(thread.fiber->context);
    for (int line = 0; line < 4; line++) __builtin_prefetch(top + 64 * line);
}

static Thread *next_ready() {
    if (block.head == block.tail) return nullptr;
    if (order == Order::NEWEST || (order == Order::MIX && random_number() >> 8 & 15)) return queue_slot(--block.tail);
    if (order == Order::MIX) {
        unsigned chosen = block.head + random_number() % (block.tail - block.head);
        std::swap(queue_slot(chosen), queue_slot(block.head));
    }
    Thread *next = queue_slot(block.head++);
    if (block.head != block.tail) fetch_stack(*queue_slot(block.head));
    return next;
}

/* ---- fibers ----
 * A thread gets a fiber when it first runs. When it is done, it leaves it to the next that begins: threads that never
 * wait run one after the other on one stack, without a switch. ThreadSanitizer knows threads by their fibers, so with
 * it each thread has its own. */

static std::vector<Fiber *> &free_fibers = *new std::vector<Fiber *>;
static Fiber *own_fiber[MAX_THREADS];

static void fiber_entry();

static Fiber *new_fiber(int number) {
    Fiber *fiber = new Fiber;
    fiber_make(*fiber, number, fiber_entry);
    return fiber;
}

/* ThreadSanitizer takes what a fiber's maker did before as known to the fiber: so the host makes them. */
static void make_own_fibers(unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (!own_fiber[i]) own_fiber[i] = new_fiber(i);
}

static Fiber *take_fiber(const Thread &thread) {
    if (has_thread_sanitizer()) return own_fiber[thread.number];
    static int made = 0;
    if (free_fibers.empty()) return new_fiber(made++);
    Fiber *fiber = free_fibers.back();
    free_fibers.pop_back();
    return fiber;
}

static void give_fiber_back(Fiber *fiber) {
    if (!has_thread_sanitizer()) free_fibers.push_back(fiber);
}

/* From here on `thread` is the one that runs; the caller switches to its fiber. */
static void set_running(Thread *thread) {
    block.running = thread;
    threadIdx = thread->index;
}

static void switch_to_thread(Thread *thread) {
    if (!thread->fiber) thread->fiber = take_fiber(*thread);
    set_running(thread);
    fiber_switch(*thread->fiber);
}

[[noreturn]] static void deadlock() {
    block.running = nullptr;
    note(block.site, "deadlock in block (%u,%u,%u) of the launch, %u threads wait:", blockIdx.x, blockIdx.y, blockIdx.z,
         block.alive);
    int shown = 0;
    for (unsigned i = 0; i < block.size && shown < 8; i++) {
        const Thread &t = block.threads[i];
        if (t.state == Thread::DONE) continue;
        shown++;
        if (t.state == Thread::AT_BARRIER)
            note(t.site, "  thread (%u,%u,%u) in a barrier", t.index.x, t.index.y, t.index.z);
        else
            note(t.site, "  thread (%u,%u,%u) for lanes %08x", t.index.x, t.index.y, t.index.z, t.mask);
    }
    std::abort();
}

void wait_for_turn() {
    Thread *me = block.running, *next = next_ready();
    if (!next) deadlock();
    if (next != me) switch_to_thread(next);
}

static void release_barrier();

static void thread_is_done(Thread &thread) {
    thread.state = Thread::DONE;
    thread.fiber = nullptr;
    block.alive--;
    thread.warp->alive &= ~(1u << thread.lane);
    warp_lane_exited(*thread.warp, thread.lane);
    release_barrier();
}

/* Runs the thread for which the fiber was taken, and then whoever can begin on it. */
static void fiber_entry() {
    for (;;) {
        Thread &thread = *block.running;
        Fiber *fiber = thread.fiber;
        tsan_acquire(&block.start_object);
        block.body(block.call);
        tsan_release(&block.end_object);
        thread_is_done(thread);

        Thread *next = next_ready();
        if (next && !next->fiber && !has_thread_sanitizer()) {
            next->fiber = fiber;
            set_running(next);
            continue;
        }
        give_fiber_back(fiber);
        if (next) {
            switch_to_thread(next);
        } else {
            if (block.alive) deadlock();
            block.running = nullptr;
            fiber_switch(fiber_host);
        }
    }
}

/* ---- barriers ---- */

/* Lets the threads go when all that have not exited are there, as CUDA does. */
static void release_barrier() {
    if (!block.at_barrier || block.at_barrier < block.alive) return;
    Thread *threads[MAX_THREADS];
    int count = 0;
    for (unsigned i = 0; i < block.size; i++)
        if (block.threads[i].state == Thread::AT_BARRIER) threads[count++] = &block.threads[i];
    for (int i = 1; i < count; i++) {
        const Thread &one = *threads[0], &other = *threads[i];
        if (is_same(one.site, other.site)) continue;
        report(other.site, "divergent barrier: thread (%u,%u,%u) waits here, thread (%u,%u,%u) at %s:%d", other.index.x,
               other.index.y, other.index.z, one.index.x, one.index.y, one.index.z, one.site.file, one.site.line);
        break;
    }
    block.at_barrier = 0;
    block.result = block.vote;
    block.vote = {};
    block.generation++;
    make_ready(threads, count);
}

BarrierVote barrier(bool predicate, Site site) {
    Thread *me = block.running;
    if (!me) fatal(site, "a barrier outside of a kernel");
    me->state = Thread::AT_BARRIER;
    me->site = site;
    block.at_barrier++;
    block.vote.threads++;
    block.vote.trues += predicate;
    void *object = &block.barrier_object[block.generation & 1];
    tsan_release(object);
    release_barrier();
    wait_for_turn();
    tsan_acquire(object);
    return block.result;
}

/* ---- cp.async ---- */

void async_copy_add(AsyncCopy copy) {
    block.has_copies = true;
    block.running->copies.push_back({copy, block.running->group});
}

void async_copy_commit() {
    block.has_copies = true;
    block.running->group++;
}

static void forget_copies() {
    for (Thread &thread : block.threads) {
        thread.copies.clear();
        thread.copies_begin = 0;
        thread.group = 0;
    }
    block.has_copies = false;
}

bool async_copy_due(int pending, AsyncCopy *copy) {
    Thread &me = *block.running;
    if (me.copies_begin == me.copies.size()) {
        me.copies.clear();
        me.copies_begin = 0;
        return false;
    }
    const Thread::GroupedCopy &oldest = me.copies[me.copies_begin];
    if (oldest.group >= me.group - pending) return false;
    *copy = oldest.copy;
    me.copies_begin++;
    return true;
}

/* ---- grids ---- */

static void set_up_threads(dim3 shape) {
    block.size = shape.x * shape.y * shape.z;
    for (unsigned i = 0; i < block.size; i++) {
        Thread &t = block.threads[i];
        t.index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
        t.number = i;
        t.lane = i % WARP_SIZE;
        t.warp = &block.warps[i / WARP_SIZE];
        t.warp->lane[t.lane] = &t;
    }
}

static void run_block() {
    shared_new_block();
    block.alive = block.size;
    block.at_barrier = 0;
    block.vote = {};
    block.head = block.tail = 0;
    for (unsigned w = 0; w * WARP_SIZE < block.size; w++) {
        unsigned lanes = block.size - w * WARP_SIZE;
        block.warps[w].alive = lanes < WARP_SIZE ? (1u << lanes) - 1 : ~0u;
        block.warps[w].waiting = 0;
    }
    if (block.has_copies) forget_copies();
    Thread *all[MAX_THREADS];
    for (unsigned i = 0; i < block.size; i++) all[i] = &block.threads[i];
    make_ready(all, block.size);
    tsan_release(&block.start_object);
    switch_to_thread(next_ready());
    tsan_acquire(&block.end_object);
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b) { return b ? greatest_common_divisor(b, a % b) : a; }

/* The block that runs as the `i`th: ascending, descending or, in a mix, in steps of a random number that has no divisor
 * in common with the count, so that each has its turn. */
static uint64_t block_at(uint64_t i, uint64_t count, uint64_t step) {
    if (order == Order::REVERSE || order == Order::NEWEST) return count - 1 - i;
    return order == Order::MIX ? (i + 1) * step % count : i;
}

void run_grid(const Config &config, const void *kernel, void (*body)(const void *call), const void *call) {
    read_environment();
    random_state = (seed * 2654435761u) | 1;
    block.body = body;
    block.call = call;
    block.site = config.site;
    blockDim = config.block;
    gridDim = config.grid;
    shared_new_launch(config.dynamic_shared, kernel_shared_limit(kernel) > SHARED_BYTES);
    set_up_threads(config.block);
    if (has_thread_sanitizer()) make_own_fibers(block.size);
    const uint64_t count = uint64_t(config.grid.x) * config.grid.y * config.grid.z;
    uint64_t step = random_number() % count;
    while (greatest_common_divisor(step, count) != 1) step++;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t b = block_at(i, count, step);
        blockIdx = {unsigned(b % config.grid.x), unsigned(b / config.grid.x % config.grid.y),
                    unsigned(b / config.grid.x / config.grid.y)};
        run_block();
    }
}

} // namespace emu

extern "C" bool emu_set_order(const char *name) { return emu::read_environment(), emu::set_order(name); }
