/* partition.c: see partition.h. */
#include "util/partition.h"

#include <math.h>
#include <stdlib.h>

/* How far above its even share of elements a process may get for the sake of an even cost. */
static const double state_slack = 1.1;

/* An empty partition with room for all that can come of `chosen`. */
static Partition partition_create(const TensorTable *table, int processes) {
    size_t max_parts = (size_t)table->count + (size_t)processes;
    return (Partition){.processes = processes,
                       .parts = checked_calloc(max_parts, sizeof(Part), "the optimizer's partition"),
                       .first = checked_calloc((size_t)processes + 1, sizeof(int), "the optimizer's partition")};
}

void partition_free(Partition *partition) {
    free(partition->parts);
    free(partition->first);
    *partition = (Partition){0};
}

int partition_tensor_of(const TensorTable *table, const Part *part) {
    int low = 0, high = table->count - 1; /* the last tensor that begins at or before the part */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (table->tensors[middle].offset <= part->begin)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Appends a range to process r's shard; processes come in order. */
static void append_part(Partition *p, int r, size_t begin, size_t end) {
    size_t at = partition_shard_length(p, r);
    at = (size_t)round_up((int64_t)at, TENSOR_ALIGNMENT);
    p->parts[p->first[r + 1]++] = (Part){begin, end, at};
}

/* ---- whole matrices ---- */

/* The chosen tensor without an owner that costs most; -1 where all have one. */
static int next_costly(const TensorTable *table, const bool *chosen, MatrixCost *cost_of, const int *owner) {
    int best = -1;
    double highest = 0.0;
    for (int i = 0; i < table->count; i++) {
        if (!chosen[i] || owner[i] >= 0) continue;
        double cost = cost_of(table->tensors[i].rows, table->tensors[i].columns);
        if (best < 0 || cost > highest) best = i, highest = cost;
    }
    return best;
}

/* The process with the least cost so far among those with room for `size` more elements; where none has room, the one
 * with the fewest elements. */
static int choose_owner(const double *cost, const double *held, int processes, double size, double limit) {
    int best = -1, emptiest = 0;
    for (int r = 0; r < processes; r++) {
        if (held[r] < held[emptiest]) emptiest = r;
        if (held[r] + size <= limit && (best < 0 || cost[r] < cost[best])) best = r;
    }
    return best >= 0 ? best : emptiest;
}

/* Costliest first, each to whoever has least to do among those with room: where all have, at most 4/3 of the best
 * possible cost (Graham 1969). */
static void assign_owners(const TensorTable *table, const bool *chosen, MatrixCost *cost_of, int processes,
                          int *owner) {
    double *cost = checked_calloc(2 * (size_t)processes, sizeof *cost, "the optimizer's partition");
    double *held = cost + processes, total = 0.0, largest = 0.0;
    for (int i = 0; i < table->count; i++) {
        owner[i] = -1;
        if (!chosen[i]) continue;
        total += (double)table->tensors[i].size;
        largest = fmax(largest, (double)table->tensors[i].size);
    }
    double limit = fmax(state_slack * total / processes, largest);
    for (int i; (i = next_costly(table, chosen, cost_of, owner)) >= 0;) {
        double size = (double)table->tensors[i].size;
        owner[i] = choose_owner(cost, held, processes, size, limit);
        cost[owner[i]] += cost_of(table->tensors[i].rows, table->tensors[i].columns);
        held[owner[i]] += size;
    }
    free(cost);
}

Partition partition_matrices(const TensorTable *table, const bool *chosen, MatrixCost *cost, int processes) {
    Partition p = partition_create(table, processes);
    int *owner = checked_malloc((size_t)table->count * sizeof *owner, "the optimizer's partition");
    assign_owners(table, chosen, cost, processes, owner);
    for (int r = 0; r < processes; r++) {
        p.first[r + 1] = p.first[r];
        for (int i = 0; i < table->count; i++)
            if (owner[i] == r)
                append_part(&p, r, table->tensors[i].offset, table->tensors[i].offset + table->tensors[i].size);
    }
    free(owner);
    return p;
}

/* ---- elements ---- */

/* The level to which `amount` fills the processes up. */
static double fill_level(const double *taken, int processes, double amount) {
    double low = 0.0, high = amount;
    for (int r = 0; r < processes; r++) high = fmax(high, taken[r] + amount);
    for (int step = 0; step < 200; step++) { /* until the interval has no number inside */
        double middle = 0.5 * (low + high), filled = 0.0;
        for (int r = 0; r < processes; r++) filled += fmax(0.0, middle - taken[r]);
        if (filled < amount)
            low = middle;
        else
            high = middle;
    }
    return high;
}

static size_t units_of(const Tensor *tensor) { return (tensor->size + TENSOR_ALIGNMENT - 1) / TENSOR_ALIGNMENT; }

/* Gives process r units [begin, end) of the chosen tensors, counted one after the other. */
static void append_units(Partition *p, int r, const TensorTable *table, const bool *chosen, size_t begin, size_t end) {
    size_t before = 0;
    for (int i = 0; i < table->count; i++) {
        if (!chosen[i]) continue;
        const Tensor *tensor = &table->tensors[i];
        size_t units = units_of(tensor), first = begin > before ? begin - before : 0;
        size_t last = end > before ? end - before : 0;
        before += units;
        if (last > units) last = units;
        if (first >= last) continue;
        size_t stop = last * TENSOR_ALIGNMENT < tensor->size ? last * TENSOR_ALIGNMENT : tensor->size;
        append_part(p, r, tensor->offset + first * TENSOR_ALIGNMENT, tensor->offset + stop);
    }
}

Partition partition_evenly(const TensorTable *table, const bool *chosen, int processes, const double *taken,
                           int states) {
    Partition p = partition_create(table, processes);
    double *held = checked_calloc((size_t)processes, sizeof *held, "the optimizer's partition");
    size_t units = 0, begin = 0;
    for (int r = 0; r < processes; r++) held[r] = taken ? taken[r] : 0.0;
    for (int i = 0; i < table->count; i++) units += chosen[i] ? units_of(&table->tensors[i]) : 0;
    double per_unit = (double)TENSOR_ALIGNMENT * states, amount = per_unit * (double)units;
    double level = fill_level(held, processes, amount), given = 0.0;
    for (int r = 0; r < processes; r++) {
        given += fmax(0.0, level - held[r]);
        size_t end = r + 1 == processes ? units : (size_t)fmin((double)units, floor(given / per_unit + 1e-6));
        p.first[r + 1] = p.first[r];
        append_units(&p, r, table, chosen, begin, end);
        begin = end;
    }
    free(held);
    return p;
}
