/* agree.h: checks that all processes of a job found the same: files and folders may differ from machine to machine. */
#ifndef MARS_COMM_AGREE_H
#define MARS_COMM_AGREE_H

#include "comm/comm.h"

EXTERN_C_BEGIN

/* Returns if `ok` is true in every process. Otherwise the lowest rank whose `ok` is false ends the job with its `error`
 * and `status`; EXIT_USAGE becomes EXIT_FAILED if that rank is not 0. The other ranks wait in this call until then, and
 * do not return. `error` is read only if `ok` is false. Collective. */
void agree_or_end(Comm *comm, bool ok, int status, const Error *error);

/* Whether these bytes are the same in all processes. Collective. */
bool agree_on_bytes(Comm *comm, const void *data, size_t bytes);

/* Returns rank 0's `text` on every rank: on rank 0 the argument itself, elsewhere a copy that the caller frees. Ranks
 * other than 0 do not read the argument, which may be NULL there. Collective. */
char *agree_on_text(Comm *comm, char *text);

/* Returns the largest `value` of all ranks; *rank is the lowest rank that has it. Collective. */
double agree_on_largest(Comm *comm, double value, int *rank);

EXTERN_C_END

#endif
