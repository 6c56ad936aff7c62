/* grad_sync.c: see grad_sync.h. */
#include "optim/grad_sync.h"

#include <stdlib.h>

/* Elements of a bucket: many enough that an exchange is bound by bandwidth (32 MB of gradients), few enough that the
 * last one, which nothing hides, is a small part of all. */
enum { LEAST_BUCKET = 1 << 14, LARGEST_BUCKET = 1 << 23, BUCKETS = 16 };

size_t grad_sync_bucket(size_t length) {
    int64_t bucket = round_up(ceil_div((int64_t)length, BUCKETS), TENSOR_ALIGNMENT);
    return (size_t)min_i64(LARGEST_BUCKET, max_i64(LEAST_BUCKET, bucket));
}

GradSync grad_sync_open(Comm *comm, size_t length) {
    size_t bucket = grad_sync_bucket(length), buckets = length / bucket + 1;
    return (GradSync){.comm = comm,
                      .length = length,
                      .bucket = bucket,
                      .moving = length,
                      .gathered = checked_calloc(buckets, sizeof(int64_t), "the optimizer's exchanges")};
}

void grad_sync_close(GradSync *t) { free(t->gathered); }

void grad_sync_gradient_ready(GradSync *t, RuleGroup *groups, int group_count, float *data, bool second, size_t from) {
    if (from > t->moving)
        die("the gradient was said to be final from element %zu on already, not %zu", t->moving, from);
    from = (from + t->bucket - 1) / t->bucket * t->bucket;
    if (from >= t->moving) return;
    for (int i = 0; i < group_count; i++) {
        RuleGroup *g = &groups[i];
        t->comm->reduce_scatter(t->comm, data, &g->partition, second ? g->shards.next_grad : g->shards.grad, from,
                                t->moving);
    }
    t->moving = from;
}

void grad_sync_finish_gradient(GradSync *t, RuleGroup *groups, int group_count, float *data, bool second) {
    grad_sync_gradient_ready(t, groups, group_count, data, second, 0);
    t->comm->wait_for(t->comm, t->comm->enqueued(t->comm));
    t->moving = t->length;
}

void grad_sync_gather(GradSync *t, const RuleGroup *groups, int group_count, void *weights, size_t element_size) {
    for (size_t begin = 0; begin < t->length; begin += t->bucket) {
        size_t end = begin + t->bucket < t->length ? begin + t->bucket : t->length;
        for (int i = 0; i < group_count; i++)
            t->comm->all_gather(t->comm, weights, element_size, &groups[i].partition, begin, end);
        t->gathered[begin / t->bucket] = t->comm->enqueued(t->comm);
    }
}

/* Buckets come in order, so the last one's coming is that of all. */
void grad_sync_wait_for_weights(GradSync *t, size_t begin, size_t end) {
    if (begin >= end || t->gathered[(end - 1) / t->bucket] <= t->waited_for) return;
    t->waited_for = t->gathered[(end - 1) / t->bucket];
    t->comm->wait_for(t->comm, t->waited_for);
}
