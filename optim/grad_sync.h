/* grad_sync.h: the reduce-scatter of gradients and the all-gather of weights, in whole buckets of the flat buffer and
 * in parallel with the device's other work: gradients during the backward pass, weights during the next forward pass.
 * For optim.c, and for benchmarks and tests that divide elements in the same way. */
#ifndef MARS_OPTIM_GRAD_SYNC_H
#define MARS_OPTIM_GRAD_SYNC_H

#include "optim/rule_groups.h"

EXTERN_C_BEGIN

typedef struct GradSync {
    Comm *comm;
    size_t length; /* of flat buffers */
    size_t bucket;
    size_t started;     /* the reduce-scatter of elements from here on has started: a bucket's begin, or length */
    int64_t *gathered;  /* for each bucket of the weights: how many exchanges had been enqueued with it */
    int64_t waited_for; /* how many of them the device waits for already */
} GradSync;

/* Elements of a bucket, for flat buffers of `length`; a multiple of TENSOR_ALIGNMENT. */
size_t grad_sync_bucket(size_t length);

GradSync grad_sync_open(Comm *comm, size_t length);
void grad_sync_close(GradSync *grad_sync);

/* The gradient in `data` is final from element `from` on: starts the reduce-scatter of all buckets that are final and
 * have not started, as one exchange for each group. A group with shards gets the sums in shards.grad, or in
 * shards.next_grad if second is true; a group without gets them in data, at the elements that this rank owns. */
void grad_sync_gradient_ready(GradSync *grad_sync, RuleGroup *groups, int group_count, float *data, bool second,
                              size_t from);
/* Starts the reduce-scatter of the rest of this gradient, and makes operations enqueued after it wait for all of it.
 * The next call of grad_sync_gradient_ready() begins a new gradient. */
void grad_sync_finish_gradient(GradSync *grad_sync, RuleGroup *groups, int group_count, float *data, bool second);

/* Starts the all-gather of the weights, bucket by bucket from element 0. */
void grad_sync_gather(GradSync *grad_sync, const RuleGroup *groups, int group_count, void *weights,
                      size_t element_size);
/* Operations enqueued after this call see elements [begin, end) of the gathered weights. */
void grad_sync_wait_for_weights(GradSync *grad_sync, size_t begin, size_t end);

EXTERN_C_END

#endif
