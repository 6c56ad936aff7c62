/* timed_backend.h: how long each operation of a Backend takes: while the timing is on, the table's operations are
 * replaced, in place, by ones that wait for the device before and after. So nothing runs ahead, and a step takes
 * longer than without: the parts are for finding out where time goes, not for adding up. */
#ifndef MARS_DEV_BENCH_TIMED_BACKEND_H
#define MARS_DEV_BENCH_TIMED_BACKEND_H

#include "kernels/backend.h"

typedef struct OperationTime {
    const char *name;
    double seconds;
    long calls;
} OperationTime;

enum { TIMED_OPERATIONS = 24 };

typedef struct TimedBackend {
    Backend *be;
    Backend table; /* be as it was */
    OperationTime operations[TIMED_OPERATIONS];
    int count;
} TimedBackend;

/* One table at a time. `timed` must live until the end, and holds the times then too. */
void timed_backend_begin(TimedBackend *timed, Backend *be);
void timed_backend_end(TimedBackend *timed);

#endif
