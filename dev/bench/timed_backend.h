/* timed_backend.h: a Backend that passes every operation on to another one and keeps the time each takes. */
#ifndef MARS_DEV_BENCH_TIMED_BACKEND_H
#define MARS_DEV_BENCH_TIMED_BACKEND_H

#include "kernels/backend.h"

typedef struct OperationTime {
    const char *name;
    double seconds;
    long calls;
} OperationTime;

enum { TIMED_OPERATIONS = 16 };

typedef struct TimedBackend {
    Backend base; /* first, so that a Backend * is a TimedBackend *; ends with timed->inner, not by close() */
    Backend *inner;
    OperationTime operations[TIMED_OPERATIONS];
    int count;
} TimedBackend;

void timed_backend_open(TimedBackend *timed, Backend *inner);
void timed_backend_reset(TimedBackend *timed);

#endif
