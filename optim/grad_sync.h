/* grad_sync.h: reduces gradients into their owners and gathers weights from them, in whole buckets of the flat buffer,
 * so that they move in parallel with the device's other work: gradients while the backward pass makes the rest of them,
 * weights while the forward pass works with those that have come. For optim.c, and for benchmarks and tests that divide
 * elements as it does. */
#ifndef MARS_OPTIM_GRAD_SYNC_H
#define MARS_OPTIM_GRAD_SYNC_H

#include "optim/param_groups.h"

EXTERN_C_BEGIN

typedef struct GradSync {
    Comm *comm;
    size_t length; /* of flat buffers */
    size_t bucket;
    size_t moving;      /* the gradient is on its way to its owners from this element on: a bucket's begin, or length */
    int64_t *gathered;  /* for each bucket of the weights: how many exchanges had been enqueued with it */
    int64_t waited_for; /* how many of them the device waits for already */
} GradSync;

/* Elements of a bucket, for flat buffers of `length`; a multiple of TENSOR_ALIGNMENT. */
size_t grad_sync_bucket(size_t length);

GradSync grad_sync_open(Comm *comm, size_t length);
void grad_sync_close(GradSync *grad_sync);

/* The gradient in `data` is final from element `from` on: starts the reduction into their owners of all buckets that
 * are final and have not started, as one exchange for each group. Sums go to the groups' shards, `next` where second,
 * where they have such. */
void grad_sync_gradient_ready(GradSync *grad_sync, RuleGroup *groups, int group_count, float *data, bool second,
                              size_t from);
/* All of it, and what the device does from here on sees the sums. A new gradient begins. */
void grad_sync_finish_gradient(GradSync *grad_sync, RuleGroup *groups, int group_count, float *data, bool second);

/* Sends everybody the owners' weights, in flat order. */
void grad_sync_gather(GradSync *grad_sync, const RuleGroup *groups, int group_count, void *weights,
                      size_t element_size);
/* What the device does from here on sees elements [begin, end) of the weights. */
void grad_sync_wait_for_weights(GradSync *grad_sync, size_t begin, size_t end);

EXTERN_C_END

#endif
