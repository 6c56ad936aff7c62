/* no_cuda.c: stands in for multi_tensor.cu in a build without CUDA, which opens no table of a GPU. */
#include "optim/multi_tensor.h"

const MultiTensorPasses *multi_tensor_cuda(void) { return NULL; }
