/* no_cuda.c: takes the place of multi_tensor.cu in a build without CUDA, which never opens a GPU. */
#include "optim/multi_tensor.h"

const MultiTensorPasses *multi_tensor_cuda(void) { return NULL; }
