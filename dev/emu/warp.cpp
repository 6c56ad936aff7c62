/* warp.cpp: what the lanes of a warp do together: __syncwarp(), shuffles, votes, mma and ldmatrix. Each lane brings
 * what it has and waits; the last one to arrive computes for all. */
#include "dev/emu/block.h"

#include <cstring>

namespace emu {

unsigned lane_id() { return running_thread()->lane; }

/* __syncwarp(), the one operation for which lanes may meet in different lines. */
static void meet(Warp &warp, unsigned lanes);

/* Completes the operation that the lanes of `mask` wait for, if all that are alive do. */
static void complete(Warp &warp, unsigned mask, WarpOperation operation) {
    const unsigned lanes = mask & warp.alive;
    if ((warp.waiting & lanes) != lanes) return;
    Thread *threads[WARP_SIZE];
    int count = 0;
    for (unsigned left = lanes; left; left &= left - 1) {
        Thread *thread = warp.lane[__builtin_ctz(left)];
        if (thread->mask != mask || thread->operation != operation) return;
        threads[count++] = thread;
        Site first = threads[0]->site;
        if (!is_same(thread->site, first) && operation != meet)
            report(thread->site, "lane %u of a warp is here, lane %u at %s:%d: they cannot do this together",
                   thread->lane, threads[0]->lane, first.file, first.line);
    }
    operation(warp, lanes);
    warp.waiting &= ~lanes;
    make_ready(threads, count);
}

void warp_lane_exited(Warp &warp, unsigned lane) {
    for (unsigned left = warp.waiting; left; left &= left - 1) {
        const Thread &thread = *warp.lane[__builtin_ctz(left)];
        if (thread.state == Thread::IN_WARP && thread.mask >> lane & 1) complete(warp, thread.mask, thread.operation);
    }
}

static void together(unsigned mask, WarpOperation operation, void *data, Site site) {
    Thread *me = running_thread();
    if (!me) fatal(site, "an operation of a warp outside of a kernel");
    if (!(mask >> me->lane & 1)) fatal(site, "lane %u is not in the mask %08x that it gives", me->lane, mask);
    me->state = Thread::IN_WARP;
    me->site = site;
    me->mask = mask;
    me->operation = operation;
    me->data = data;
    me->warp->waiting |= 1u << me->lane;
    complete(*me->warp, mask, operation);
    wait_for_turn();
}

/* For operations that CUDA leaves undefined in a warp of which lanes have exited, or that never had 32. */
static void must_be_whole(const Warp &warp, unsigned lanes, const char *what) {
    if (lanes == ~0u) return;
    fatal(warp.lane[__builtin_ctz(lanes)]->site, "%s needs all 32 lanes of the warp, there are %08x", what, lanes);
}

template <class T> static T &brought(const Warp &warp, unsigned lane) {
    return *static_cast<T *>(warp.lane[lane]->data);
}

/* ---- __syncwarp ---- */

static SyncGroup &group_of(Warp &warp, unsigned mask) {
    for (SyncGroup &group : warp.groups)
        if (group.mask == mask) return group;
    warp.groups.push_front({mask, 0, {}});
    return warp.groups.front();
}

static void meet(Warp &warp, unsigned lanes) {
    if (has_thread_sanitizer()) group_of(warp, warp.lane[__builtin_ctz(lanes)]->mask).generation++;
}

void sync_warp(unsigned mask, Site site) {
    if (!has_thread_sanitizer()) return together(mask, meet, nullptr, site);
    SyncGroup &group = group_of(*running_thread()->warp, mask);
    void *object = &group.object[group.generation & 1];
    tsan_release(object);
    together(mask, meet, nullptr, site);
    tsan_acquire(object);
}

/* ---- shuffles and votes ---- */

struct Shuffle {
    uint64_t bits, result;
    unsigned source;
};

static void exchange(Warp &warp, unsigned lanes) {
    for (unsigned left = lanes; left; left &= left - 1) {
        Shuffle &mine = brought<Shuffle>(warp, __builtin_ctz(left));
        if (lanes >> mine.source & 1) {
            mine.result = brought<Shuffle>(warp, mine.source).bits;
            continue;
        }
        mine.result = ~UINT64_C(0);
        report(warp.lane[__builtin_ctz(left)]->site,
               "a shuffle: lane %d reads lane %u, which has exited or is not in the mask", __builtin_ctz(left),
               mine.source);
    }
}

uint64_t shuffle(unsigned mask, uint64_t bits, unsigned source, Site site) {
    Shuffle mine = {bits, 0, source};
    together(mask, exchange, &mine, site);
    return mine.result;
}

struct Ballot {
    bool predicate;
    unsigned result;
};

static void count_votes(Warp &warp, unsigned lanes) {
    unsigned result = 0;
    for (unsigned left = lanes; left; left &= left - 1)
        if (brought<Ballot>(warp, __builtin_ctz(left)).predicate) result |= left & -left;
    for (unsigned left = lanes; left; left &= left - 1) brought<Ballot>(warp, __builtin_ctz(left)).result = result;
}

unsigned ballot(unsigned mask, bool predicate, Site site) {
    Ballot mine = {predicate, 0};
    together(mask, count_votes, &mine, site);
    return mine.result;
}

/* ---- mma.sync.m16n8k16 ---- */

struct Mma {
    float *d;
    const uint32_t *a, *b;
};

/* Eight registers of two bfloat16 each, of which the low halves come first; and eight float32. */
typedef uint32_t Pairs __attribute__((vector_size(32)));
typedef float Row __attribute__((vector_size(32)));

static Row low_halves(Pairs pairs) { return reinterpret_cast<Row>(pairs << 16); }
static Row high_halves(Pairs pairs) { return reinterpret_cast<Row>(pairs & 0xFFFF0000u); }

static float *number_of(Row &row, int i) { return reinterpret_cast<float *>(&row) + i; }

/* Four rows at a time, which do not wait for each other. */
static void multiply_rows(Row *d, const Pairs *a, const Row *b) {
    Row sum[4] = {d[0], d[1], d[2], d[3]};
    for (int k = 0; k < 8; k++)
        for (int r = 0; r < 4; r++) {
            sum[r] += low_halves(a[r])[k] * b[2 * k];
            sum[r] += high_halves(a[r])[k] * b[2 * k + 1];
        }
    for (int r = 0; r < 4; r++) d[r] = sum[r];
}

/* Gathers a by rows, b by columns and d by rows; b's columns are turned to rows, of which each row of d is a sum. */
static void multiply(Warp &warp, unsigned lanes) {
    must_be_whole(warp, lanes, "mma");
    Pairs a[16], b[8];
    Row d[16], b_row[16];
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        const Mma &m = brought<Mma>(warp, lane);
        const int row = lane / 4, pair = lane % 4;
        a[row][pair] = m.a[0], a[row][pair + 4] = m.a[2];
        a[row + 8][pair] = m.a[1], a[row + 8][pair + 4] = m.a[3];
        b[row][pair] = m.b[0], b[row][pair + 4] = m.b[1];
        std::memcpy(number_of(d[row], 2 * pair), &m.d[0], 2 * sizeof(float));
        std::memcpy(number_of(d[row + 8], 2 * pair), &m.d[2], 2 * sizeof(float));
    }
    for (int n = 0; n < 8; n++) {
        const Row even = low_halves(b[n]), odd = high_halves(b[n]);
        for (int i = 0; i < 8; i++) b_row[2 * i][n] = even[i], b_row[2 * i + 1][n] = odd[i];
    }
    for (int row = 0; row < 16; row += 4) multiply_rows(d + row, a + row, b_row);
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        float *result = brought<Mma>(warp, lane).d;
        std::memcpy(&result[0], number_of(d[lane / 4], lane % 4 * 2), 2 * sizeof(float));
        std::memcpy(&result[2], number_of(d[lane / 4 + 8], lane % 4 * 2), 2 * sizeof(float));
    }
}

void mma_warp(float *d, const uint32_t *a, const uint32_t *b, Site site) {
    Mma mine = {d, a, b};
    together(~0u, multiply, &mine, site);
}

/* ---- ldmatrix ---- */

struct Load {
    uint32_t *fragments;
    const uint16_t *row;
    int count;
};

/* Lane l receives elements 2(l%4) and 2(l%4) + 1 of row l/4. */
static void load_rows(Warp &warp, unsigned lanes) {
    must_be_whole(warp, lanes, "ldmatrix");
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        Load &mine = brought<Load>(warp, lane);
        for (int i = 0; i < mine.count; i++) {
            const uint16_t *row = brought<Load>(warp, i * 8 + lane / 4).row;
            std::memcpy(&mine.fragments[i], row + lane % 4 * 2, sizeof(uint32_t));
        }
    }
}

/* Lane l receives element l/4 of rows 2(l%4) and 2(l%4) + 1. */
static void load_columns(Warp &warp, unsigned lanes) {
    must_be_whole(warp, lanes, "ldmatrix");
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        Load &mine = brought<Load>(warp, lane);
        for (int i = 0; i < mine.count; i++) {
            uint32_t low = brought<Load>(warp, i * 8 + lane % 4 * 2).row[lane / 4];
            uint32_t high = brought<Load>(warp, i * 8 + lane % 4 * 2 + 1).row[lane / 4];
            mine.fragments[i] = low | high << 16;
        }
    }
}

void load_matrices_warp(uint32_t *fragments, const uint16_t *row, int count, bool transpose, Site site) {
    Load mine = {fragments, row, count};
    together(~0u, transpose ? load_columns : load_rows, &mine, site);
}

} // namespace emu
