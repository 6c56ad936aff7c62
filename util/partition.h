/* partition.h: which process owns which elements of the flat buffers, and so keeps their optimizer state and updates
 * them (ZeRO-1: Rajbhandari et al. 2020). A partition depends only on the arguments of the two functions below, which
 * are the same on every process, so that all compute the same one.
 *
 * Each process owns some ranges of a flat buffer. Its shard holds those ranges, for buffers that hold nothing else.
 *
 * Elementwise rules may cut tensors anywhere: most of their elements lie in even ranges, of which every process owns an
 * equal slice, so that one reduce-scatter or all-gather exchanges such a range. Matrix rules need whole matrices. */
#ifndef MARS_UTIL_PARTITION_H
#define MARS_UTIL_PARTITION_H

#include "util/base.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

/* A range of a flat buffer inside one tensor, and where in its owner's shard it lies. */
typedef struct Part {
    size_t begin, end;
    size_t at;
    bool in_even_range; /* whole, in its owner's slice of one */
} Part;

/* Equal slices: process r owns [begin + r * slice, begin + (r + 1) * slice), which lies at `at` in its shard. A slice
 * may include gaps between tensors. */
typedef struct EvenRange {
    size_t begin, slice, at;
} EvenRange;

typedef struct Partition {
    int processes;
    Part *parts; /* of process r: parts[first[r]] .. parts[first[r + 1] - 1], in rising order, no two overlapping */
    int *first;  /* (processes + 1) */
    /* The even ranges, in rising order; their elements but for gaps are in `parts` too. None crosses a multiple of
     * `bucket`, which is 0 if there are none. */
    EvenRange *even_ranges;
    int even_count;
    size_t bucket;
} Partition;

/* Elements of process r's shard: its parts, its slices of even ranges, and what aligns them. */
size_t partition_shard_length(const Partition *partition, int r);

/* Returns the overlap of a part with [begin, end); it is empty if its begin >= its end. */
static inline Part part_within(const Part *part, size_t begin, size_t end) {
    Part common = *part;
    if (common.end > end) common.end = end;
    if (common.begin < begin) {
        common.begin = begin;
        common.at += begin - part->begin;
    }
    return common;
}

/* The cost of updating a matrix, in any unit. */
typedef double MatrixCost(int64_t rows, int64_t columns);

/* Gives each tensor with chosen[i] to one process as a whole, balanced by cost. No process gets more than 1.1 times its
 * share of the elements, or the size of the largest tensor if that is more. (If no process has room for a tensor, the
 * one with the fewest elements gets it.) */
Partition partition_matrices(const TensorTable *table, const bool *chosen, MatrixCost *cost, int processes);

/* Divides the elements of the tensors with chosen[i]. Process r already keeps taken[r] elements of state (NULL: 0) and
 * keeps `states` more for each element that it gets. Cuts are at multiples of TENSOR_ALIGNMENT inside tensors.
 *
 * The flat buffer is cut into buckets of `bucket` elements (a multiple of TENSOR_ALIGNMENT) from element 0 on. Inside a
 * bucket, each run of chosen tensors that no other tensor interrupts is an even range and a remainder of fewer than
 * processes * TENSOR_ALIGNMENT elements, which goes to the process that keeps the fewest elements of state so far.
 *
 * If a process would keep more than 1.1 times its share of all state that way, because `taken` is uneven or tensors are
 * small, the elements fill the processes up to one level instead, without even ranges, provided that this gives a lower
 * maximum. A single process gets whole tensors. */
Partition partition_evenly(const TensorTable *table, const bool *chosen, int processes, const double *taken, int states,
                           size_t bucket);

void partition_free(Partition *partition);

/* The tensor that a part lies in. */
int partition_tensor_of(const TensorTable *table, const Part *part);

EXTERN_C_END

#endif
