/* no_nccl.c: stands in for nccl.c in a build without CUDA or NCCL. */
#include "comm/comm.h"

Comm *comm_open_nccl(Comm *comm, void *stream, Error *error) {
    (void)comm, (void)stream;
    error_set(error, "this program was built without NCCL, which several processes need to train on GPUs: install it "
                     "and run make again, or start one process");
    return NULL;
}

void comm_close_nccl(Comm *comm) { (void)comm; }
