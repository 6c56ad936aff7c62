/* agree.h: what every process of a job must find the same: files and folders may differ from machine to machine. */
#ifndef MARS_COMM_AGREE_H
#define MARS_COMM_AGREE_H

#include "comm/comm.h"

EXTERN_C_BEGIN

/* Returns where `ok` is true in every process. Else the first process where it is false ends the job with its message and
 * `status`; EXIT_USAGE is for mistakes that rank 0 finds, of another process it becomes EXIT_FAILED. `error` is read
 * only where `ok` is false. Collective. */
void agree_or_end(Comm *comm, bool ok, int status, const Error *error);

/* Whether these bytes are the same in all processes. Collective. */
bool agree_on_bytes(Comm *comm, const void *data, size_t bytes);

/* Returns rank 0's `text` on every rank: on rank 0 the argument itself, elsewhere a copy that the caller frees.
 * Collective. */
char *agree_on_text(Comm *comm, char *text);

/* The largest `value` of all ranks; *rank is whose it is, of equal ones the first. Collective. */
double agree_on_largest(Comm *comm, double value, int *rank);

EXTERN_C_END

#endif
