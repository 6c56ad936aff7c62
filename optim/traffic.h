/* traffic.h: gradients on their way to their owners and weights on their way back, in pieces, so that they move beside
 * the device's other work: gradients while the backward pass makes the rest of them, weights while the forward pass
 * works with those that have come. For optim.c only. */
#ifndef MARS_OPTIM_TRAFFIC_H
#define MARS_OPTIM_TRAFFIC_H

#include "optim/group.h"

EXTERN_C_BEGIN

typedef struct Traffic {
    Comm *comm;
    size_t length; /* of flat buffers */
    size_t piece;
    size_t moving;     /* the gradient is on its way to its owners from this element on */
    int64_t *gathered; /* for each piece of the weights: how many exchanges had been asked for with it */
    int64_t awaited;   /* how many of them the device waits for already */
} Traffic;

Traffic traffic_open(Comm *comm, size_t length);
void traffic_close(Traffic *traffic);

/* The gradient in `data` is final from element `from` on: sums what is not on its way yet in its owners, where it is
 * enough to be worth it, or all that is left; in the groups' shards, `next` where second, where they have such. */
void traffic_gradient_ready(Traffic *traffic, Group *groups, int group_count, float *data, bool second, size_t from);
/* All of it, and what the device does from here on sees the sums. A new gradient begins. */
void traffic_finish_gradient(Traffic *traffic, Group *groups, int group_count, float *data, bool second);

/* Sends everybody the owners' weights, in flat order. */
void traffic_gather(Traffic *traffic, const Group *groups, int group_count, void *weights, size_t element_size);
/* What the device does from here on sees elements [begin, end) of the weights. */
void traffic_await_weights(Traffic *traffic, size_t begin, size_t end);

EXTERN_C_END

#endif
