/* load_cublaslt.c: cuBLASLt's functions. Each calls the library's function, and the first call loads the library. If it
 * were linked in the usual way, every program would load it at its start, which takes a tenth of a second and 100 MB
 * (the loader relocates 400,000 pointers), and `--help` or a run on the CPU would need it installed. Not compiled for
 * the emulator, which has its own functions. */
#include <cublasLt.h>
#include <dlfcn.h>

#include "util/base.h"

#define TEXT_OF(x) #x
#define LIBRARY(major) "libcublasLt.so." TEXT_OF(major)

/* Ends the program if the library (of the major version that this was compiled for) or the function is missing. */
static void *find(const char *name) {
    static void *library;
    if (!library) library = dlopen(LIBRARY(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function)
        die("%s cannot be loaded: %s; install cuBLAS of CUDA %d, put its folder into LD_LIBRARY_PATH, or train with "
            "--device=cpu",
            library ? name : LIBRARY(CUBLAS_VER_MAJOR), dlerror(), CUBLAS_VER_MAJOR);
    return function;
}

#define PASS_ON(returned, name, parameters, arguments)    \
    returned name parameters {                            \
        static __typeof__(&name) function;                \
        if (!function) *(void **)&function = find(#name); \
        return function arguments;                        \
    }

PASS_ON(size_t, cublasLtGetVersion, (void), ())
PASS_ON(const char *, cublasLtGetStatusString, (cublasStatus_t status), (status))
PASS_ON(cublasStatus_t, cublasLtCreate, (cublasLtHandle_t * handle), (handle))
PASS_ON(cublasStatus_t, cublasLtDestroy, (cublasLtHandle_t handle), (handle))

PASS_ON(cublasStatus_t, cublasLtMatrixLayoutCreate,
        (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t stored),
        (layout, type, rows, columns, stored))
PASS_ON(cublasStatus_t, cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))
PASS_ON(cublasStatus_t, cublasLtMatrixLayoutSetAttribute,
        (cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const void *value, size_t bytes),
        (layout, attribute, value, bytes))

PASS_ON(cublasStatus_t, cublasLtMatmulDescCreate,
        (cublasLtMatmulDesc_t * operation, cublasComputeType_t compute, cudaDataType_t scale),
        (operation, compute, scale))
PASS_ON(cublasStatus_t, cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t operation), (operation))
PASS_ON(cublasStatus_t, cublasLtMatmulDescSetAttribute,
        (cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes),
        (operation, attribute, value, bytes))

PASS_ON(cublasStatus_t, cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference), (preference))
PASS_ON(cublasStatus_t, cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference), (preference))
PASS_ON(cublasStatus_t, cublasLtMatmulPreferenceSetAttribute,
        (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
         size_t bytes),
        (preference, attribute, value, bytes))

PASS_ON(cublasStatus_t, cublasLtMatmulAlgoGetHeuristic,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int asked,
         cublasLtMatmulHeuristicResult_t results[], int *found),
        (handle, operation, a, b, c, d, preference, asked, results, found))
PASS_ON(cublasStatus_t, cublasLtMatmulAlgoCheck,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm,
         cublasLtMatmulHeuristicResult_t *result),
        (handle, operation, a, b, c, d, algorithm, result))
PASS_ON(cublasStatus_t, cublasLtMatmulAlgoConfigGetAttribute,
        (const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, void *value,
         size_t bytes, size_t *written),
        (algorithm, attribute, value, bytes, written))

PASS_ON(cublasStatus_t, cublasLtMatmul,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha, const void *a,
         cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
         const void *c, cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
         const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream),
        (handle, operation, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm, workspace,
         workspace_bytes, stream))
