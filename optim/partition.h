/* partition.h: which process owns which elements of the flat buffers, and so keeps their optimizer state and updates
 * them (ZeRO-1: Rajbhandari et al. 2020). A function of the table and the number of processes alone, so all processes
 * work out the same one. */
#ifndef MARS_OPTIM_PARTITION_H
#define MARS_OPTIM_PARTITION_H

#include "comm/comm.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

/* Gives each of the tensors with chosen[i] to one process, whole: balanced by the cost of Newton-Schulz, as long as no
 * process holds more than 1.1 times its share of the elements, or the largest tensor where that is more. (Where no
 * process has room for a tensor, the one with the fewest elements gets it.) */
Partition partition_matrices(const TensorTable *table, const bool *chosen, int processes);

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
