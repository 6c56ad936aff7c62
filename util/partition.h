/* partition.h: which process owns which elements of the flat buffers, and so keeps their optimizer state and updates
 * them (ZeRO-1: Rajbhandari et al. 2020). A function of the table and the number of processes alone, so all processes
 * work out the same one.
 *
 * Each process owns some ranges of a flat buffer. Its shard is those ranges one after the other, for buffers that hold
 * nothing else. */
#ifndef MARS_UTIL_PARTITION_H
#define MARS_UTIL_PARTITION_H

#include "util/base.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

/* A range of a flat buffer, and where in its owner's shard it lies. */
typedef struct Part {
    size_t begin, end;
    size_t at;
} Part;

typedef struct Partition {
    int processes;
    Part *parts; /* of process r: parts[first[r]] .. parts[first[r + 1] - 1], in rising order, no two overlapping */
    int *first;  /* (processes + 1) */
} Partition;

/* Elements of process r's shard: its ranges, and what aligns them. */
static inline size_t partition_shard_length(const Partition *partition, int r) {
    int last = partition->first[r + 1] - 1;
    if (last < partition->first[r]) return 0;
    const Part *part = &partition->parts[last];
    return part->at + (part->end - part->begin);
}

/* What of a part lies in [begin, end); empty where its begin >= its end. */
static inline Part part_within(const Part *part, size_t begin, size_t end) {
    Part common = *part;
    if (common.end > end) common.end = end;
    if (common.begin < begin) {
        common.begin = begin;
        common.at += begin - part->begin;
    }
    return common;
}

/* What a matrix costs its owner, in any unit. */
typedef double MatrixCost(int64_t rows, int64_t columns);

/* Gives each of the tensors with chosen[i] to one process, whole: balanced by cost, as long as no process holds more
 * than 1.1 times its share of the elements, or the largest tensor where that is more. (Where no process has room for a
 * tensor, the one with the fewest elements gets it.) */
Partition partition_matrices(const TensorTable *table, const bool *chosen, MatrixCost *cost, int processes);

/* Shares out the elements of the tensors with chosen[i]. Process r already keeps taken[r] numbers of state (NULL: 0)
 * and `states` are added for each element; shares are such that all end up level, or as near to it as can be. Cuts are
 * at multiples of TENSOR_ALIGNMENT inside tensors. */
Partition partition_evenly(const TensorTable *table, const bool *chosen, int processes, const double *taken,
                           int states);

void partition_free(Partition *partition);

/* The tensor that a part lies in. */
int partition_tensor_of(const TensorTable *table, const Part *part);

EXTERN_C_END

#endif
