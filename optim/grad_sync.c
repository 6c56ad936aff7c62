/* grad_sync.c: see grad_sync.h. */
#include "optim/grad_sync.h"

#include <stdlib.h>

/* Elements of a bucket: enough that an exchange is bound by bandwidth (32 MB of gradients), and so few that the last
 * exchange, which does not run in parallel with other work, is a small part of all. */
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
                      .started = length,
                      .gathered = checked_calloc(buckets, sizeof(int64_t), "the optimizer's exchanges")};
}

void grad_sync_close(GradSync *s) { free(s->gathered); }

void grad_sync_gradient_ready(GradSync *s, RuleGroup *groups, int group_count, float *data, bool second, size_t from) {
    if (from > s->started)
        die("the gradient was said to be final from element %zu on already, not %zu", s->started, from);
    from = (from + s->bucket - 1) / s->bucket * s->bucket;
    if (from >= s->started) return;
    for (int i = 0; i < group_count; i++) {
        RuleGroup *g = &groups[i];
        s->comm->reduce_scatter(s->comm, data, &g->partition, second ? g->shards.next_grad : g->shards.grad, from,
                                s->started);
    }
    s->started = from;
}

void grad_sync_finish_gradient(GradSync *s, RuleGroup *groups, int group_count, float *data, bool second) {
    grad_sync_gradient_ready(s, groups, group_count, data, second, 0);
    s->comm->wait_for(s->comm, s->comm->enqueued(s->comm));
    s->started = s->length;
}

void grad_sync_gather(GradSync *s, const RuleGroup *groups, int group_count, void *weights, size_t element_size) {
    for (size_t begin = 0; begin < s->length; begin += s->bucket) {
        size_t end = begin + s->bucket < s->length ? begin + s->bucket : s->length;
        for (int i = 0; i < group_count; i++)
            s->comm->all_gather(s->comm, weights, element_size, &groups[i].partition, begin, end);
        s->gathered[begin / s->bucket] = s->comm->enqueued(s->comm);
    }
}

/* Buckets are gathered in order, so waiting for the last one waits for all. */
void grad_sync_wait_for_weights(GradSync *s, size_t begin, size_t end) {
    if (begin >= end || s->gathered[(end - 1) / s->bucket] <= s->waited_for) return;
    s->waited_for = s->gathered[(end - 1) / s->bucket];
    s->comm->wait_for(s->comm, s->waited_for);
}
