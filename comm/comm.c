/* comm.c: which kind of Comm a process gets, for the host and for a device. */
#include "comm/comm.h"

#include <stdlib.h>

/* Looks for the variables that the launchers of common MPI libraries and of Slurm set in every process. */
static bool started_by_launcher(void) {
    static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS"};
    for (size_t i = 0; i < ARRAY_LENGTH(variables); i++)
        if (getenv(variables[i])) return true;
    return false;
}

Comm *comm_open(void) {
    if (!started_by_launcher()) return comm_open_single();
    Comm *comm = comm_open_mpi();
    if (!comm)
        die("this process was started by an MPI launcher, but the program was built without MPI: install it and "
            "run make again, or start the program without mpirun");
    return comm;
}

Comm *comm_on_device(Comm *comm, void *stream, Error *error) {
    if (comm->size == 1 || !stream) return comm;
    return comm_open_nccl(comm, stream, error);
}

void comm_close_on_device(Comm *on_device, Comm *comm) {
    if (on_device != comm) comm_close_nccl(on_device);
}
