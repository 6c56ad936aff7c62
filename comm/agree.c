/* agree.c: see agree.h. */
#include "comm/agree.h"

#include <stdlib.h>
#include <string.h>

#include "util/files.h"

void agree_or_end(Comm *comm, bool ok, int status, const Error *error) {
    int first = ok ? 0 : comm->size - comm->rank; /* the maximum belongs to the lowest rank that failed */
    comm->maximum(comm, &first, 1);
    if (first == 0) return;
    if (first == comm->size && status == EXIT_USAGE) die_usage("%s", ok ? "" : error->text);
    if (first == comm->size - comm->rank) die("%s", error->text);
    for (;;) comm->barrier(comm); /* that rank ends the job */
}

bool agree_on_bytes(Comm *comm, const void *data, size_t bytes) {
    uint64_t own = files_checksum_memory(data, bytes), first = own;
    comm->broadcast(comm, &first, sizeof first);
    int differs = own != first;
    comm->maximum(comm, &differs, 1);
    return !differs;
}

char *agree_on_text(Comm *comm, char *text) {
    int64_t bytes = comm->rank == 0 ? (int64_t)strlen(text) + 1 : 0;
    comm->broadcast(comm, &bytes, sizeof bytes);
    if (comm->rank != 0) text = checked_malloc((size_t)bytes, "a text");
    comm->broadcast(comm, text, (size_t)bytes);
    return text;
}

double agree_on_largest(Comm *comm, double value, int *rank) {
    double *values = checked_calloc((size_t)comm->size, sizeof *values, "a maximum");
    values[comm->rank] = value;
    comm->sum(comm, values, comm->size);
    *rank = 0;
    for (int r = 1; r < comm->size; r++)
        if (values[r] > values[*rank]) *rank = r;
    double largest = values[*rank];
    free(values);
    return largest;
}
