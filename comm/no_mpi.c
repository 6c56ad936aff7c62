/* no_mpi.c: stands in for mpi.c in a build without MPI. */
#include "comm/comm.h"

Comm *comm_open_mpi(void) { return NULL; }
