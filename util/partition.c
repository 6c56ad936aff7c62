/* partition.c: see partition.h. */
#include "util/partition.h"

#include <math.h>
#include <stdlib.h>

/* How far above its even share a process may get for the sake of an even cost or of even ranges. */
static const double state_slack = 1.1;

/* An empty partition with room for `max_parts`. */
static Partition partition_create(int processes, size_t max_parts) {
    return (Partition){.processes = processes,
                       .parts = checked_calloc(max_parts, sizeof(Part), "the optimizer's partition"),
                       .first = checked_calloc((size_t)processes + 1, sizeof(int), "the optimizer's partition")};
}

void partition_free(Partition *partition) {
    free(partition->parts);
    free(partition->first);
    free(partition->even_ranges);
    *partition = (Partition){0};
}

/* Slices lie before all other parts in a shard, so that they are at the same place in every process's shard. */
size_t partition_shard_length(const Partition *partition, int r) {
    size_t length = 0;
    if (partition->even_count > 0) {
        const EvenRange *last = &partition->even_ranges[partition->even_count - 1];
        length = last->at + last->slice;
    }
    for (int i = partition->first[r]; i < partition->first[r + 1]; i++) {
        const Part *part = &partition->parts[i];
        size_t end = part->at + (part->end - part->begin);
        if (end > length) length = end;
    }
    return length;
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
    p->parts[p->first[r + 1]++] = (Part){.begin = begin, .end = end, .at = at};
}

/* ---- whole matrices ---- */

/* The chosen tensor without an owner that costs most; -1 if all have one. */
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

/* The process with the least cost so far among those with room for `size` more elements; if none has room, the one with
 * the fewest elements. */
static int choose_owner(const double *cost, const double *held, int processes, double size, double limit) {
    int best = -1, emptiest = 0;
    for (int r = 0; r < processes; r++) {
        if (held[r] < held[emptiest]) emptiest = r;
        if (held[r] + size <= limit && (best < 0 || cost[r] < cost[best])) best = r;
    }
    return best >= 0 ? best : emptiest;
}

/* Assigns the costliest matrix first, each to the process with the least cost among those with room. If all have room,
 * the maximum is at most 4/3 of the best possible one (Graham 1969). */
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
    Partition p = partition_create(processes, (size_t)table->count + 1);
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

/* ---- elements up to one level ---- */

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

/* The first process gets the first elements, and so on, until all keep equally many elements of state. */
static Partition fill_up(const TensorTable *table, const bool *chosen, int processes, const double *taken, int states) {
    Partition p = partition_create(processes, (size_t)table->count + (size_t)processes);
    size_t units = 0, begin = 0;
    for (int i = 0; i < table->count; i++) units += chosen[i] ? units_of(&table->tensors[i]) : 0;
    double per_unit = (double)TENSOR_ALIGNMENT * states, amount = per_unit * (double)units;
    double level = fill_level(taken, processes, amount), given = 0.0;
    for (int r = 0; r < processes; r++) {
        given += fmax(0.0, level - taken[r]);
        size_t end = r + 1 == processes ? units : (size_t)fmin((double)units, floor(given / per_unit + 1e-6));
        p.first[r + 1] = p.first[r];
        append_units(&p, r, table, chosen, begin, end);
        begin = end;
    }
    return p;
}

/* ---- elements in even ranges ---- */

/* Chosen tensors in a row inside one bucket, with the gaps between them: an even range, of which slice may be 0, and
 * from its end to `end` the remainder. */
typedef struct Run {
    EvenRange even;
    size_t end;
    int owner; /* of the remainder */
} Run;

static size_t remainder_begin(const Run *run, int processes) {
    return run->even.begin + (size_t)processes * run->even.slice;
}

/* Lists all runs; the caller frees them. */
static Run *list_runs(const TensorTable *table, const bool *chosen, size_t bucket, int *count) {
    size_t max_runs = (size_t)table->count + table->length / bucket + 1;
    Run *runs = checked_calloc(max_runs, sizeof *runs, "the optimizer's partition");
    bool is_open = false; /* the previous tensor was chosen */
    *count = 0;
    for (int i = 0; i < table->count; is_open = chosen[i++]) {
        size_t begin = table->tensors[i].offset, last = begin + table->tensors[i].size;
        for (size_t end; chosen[i] && begin < last; begin = end, is_open = true) {
            size_t next_bucket = (begin / bucket + 1) * bucket;
            end = next_bucket < last ? next_bucket : last;
            if (!is_open || runs[*count - 1].even.begin / bucket != begin / bucket) runs[(*count)++].even.begin = begin;
            runs[*count - 1].end = (size_t)round_up((int64_t)end, TENSOR_ALIGNMENT);
        }
    }
    return runs;
}

/* Cuts the runs, and gives each remainder to the process that keeps the fewest elements of state so far. */
static void divide_runs(Run *runs, int count, int processes, const double *taken, int states) {
    double *kept = checked_malloc((size_t)processes * sizeof *kept, "the optimizer's partition");
    size_t at = 0;
    for (int r = 0; r < processes; r++) kept[r] = taken[r];
    for (int i = 0; i < count; i++) {
        Run *run = &runs[i];
        size_t slice = (run->end - run->even.begin) / (size_t)processes;
        run->even.slice = slice - slice % TENSOR_ALIGNMENT;
        run->even.at = at;
        at += run->even.slice;
        for (int r = 1; r < processes; r++)
            if (kept[r] < kept[run->owner]) run->owner = r;
        kept[run->owner] += (double)states * (double)(run->end - remainder_begin(run, processes));
    }
    free(kept);
}

/* Appends [begin, end), which is inside a run, to process r's parts: one for each tensor. `place` is that of `begin` in
 * the shard. */
static void append_range(Partition *p, int r, const TensorTable *table, size_t begin, size_t end, Part place) {
    for (int i = partition_tensor_of(table, &(Part){.begin = begin}); i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        size_t from = tensor->offset > begin ? tensor->offset : begin, to = tensor->offset + tensor->size;
        if (from >= end) break;
        if (to > end) to = end;
        if (from >= to) continue; /* the range begins in the gap after this tensor */
        p->parts[p->first[r + 1]++] = (Part){from, to, place.at + (from - begin), place.in_even_range};
    }
}

static void append_runs(Partition *p, int r, const TensorTable *table, const Run *runs, int count) {
    size_t at = count > 0 ? runs[count - 1].even.at + runs[count - 1].even.slice : 0;
    p->first[r + 1] = p->first[r];
    for (int i = 0; i < count; i++) {
        const EvenRange *even = &runs[i].even;
        size_t begin = even->begin + (size_t)r * even->slice, remainder = remainder_begin(&runs[i], p->processes);
        append_range(p, r, table, begin, begin + even->slice, (Part){.at = even->at, .in_even_range = true});
        if (runs[i].owner != r) continue;
        append_range(p, r, table, remainder, runs[i].end, (Part){.at = at});
        at += runs[i].end - remainder;
    }
}

static Partition divide_evenly(const TensorTable *table, const bool *chosen, int processes, const double *taken,
                               int states, size_t bucket) {
    int count;
    Run *runs = list_runs(table, chosen, bucket, &count);
    divide_runs(runs, count, processes, taken, states);
    size_t cuts = (size_t)count * ((size_t)processes + 1);
    Partition p = partition_create(processes, (size_t)table->count + cuts);
    p.even_ranges = checked_calloc((size_t)count + 1, sizeof *p.even_ranges, "the optimizer's partition");
    for (int i = 0; i < count; i++)
        if (runs[i].even.slice > 0) p.even_ranges[p.even_count++] = runs[i].even;
    p.bucket = p.even_count > 0 ? bucket : 0;
    for (int r = 0; r < processes; r++) append_runs(&p, r, table, runs, count);
    free(runs);
    return p;
}

/* The elements of state that the process with the most of them keeps. */
static double max_kept(const Partition *p, const double *taken, int states) {
    double kept = 0.0;
    for (int r = 0; r < p->processes; r++)
        kept = fmax(kept, taken[r] + (double)states * (double)partition_shard_length(p, r));
    return kept;
}

Partition partition_evenly(const TensorTable *table, const bool *chosen, int processes, const double *taken, int states,
                           size_t bucket) {
    double *kept = checked_calloc((size_t)processes, sizeof *kept, "the optimizer's partition");
    double elements = 0.0;
    for (int r = 0; r < processes; r++) elements += kept[r] = taken ? taken[r] : 0.0;
    for (int i = 0; i < table->count; i++)
        elements += chosen[i] ? (double)states * (double)table->tensors[i].size : 0.0;
    Partition filled = fill_up(table, chosen, processes, kept, states), even = {0};
    bool use_even = processes > 1;
    if (use_even) {
        even = divide_evenly(table, chosen, processes, kept, states, bucket);
        double max_even = max_kept(&even, kept, states);
        use_even = max_even <= state_slack * elements / processes || max_even <= max_kept(&filled, kept, states);
    }
    partition_free(use_even ? &filled : &even);
    free(kept);
    return use_even ? even : filled;
}
