/* grad_sync.h: gradients on their way to their owners and weights on their way back, in pieces, so that they move in
 * parallel with the device's other work: gradients while the backward pass makes the rest of them, weights while the
 * forward pass works with those that have come. For optim.c only. */
#ifndef MARS_OPTIM_GRAD_SYNC_H
#define MARS_OPTIM_GRAD_SYNC_H

#include "optim/param_groups.h"

EXTERN_C_BEGIN

typedef struct GradSync {
    Comm *comm;
    size_t length; /* of flat buffers */
    size_t piece;
    size_t moving;      /* the gradient is on its way to its owners from this element on */
    int64_t *gathered;  /* for each piece of the weights: how many exchanges had been enqueued with it */
    int64_t waited_for; /* how many of them the device waits for already */
} GradSync;

GradSync grad_sync_open(Comm *comm, size_t length);
void grad_sync_close(GradSync *grad_sync);

/* The gradient in `data` is final from element `from` on: sums what is not on its way yet in its owners, where it is
 * enough to be worth it, or all that is left; in the groups' shards, `next` where second, where they have such. */
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
