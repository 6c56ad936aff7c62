/* matmul_table.h: the table of matmul shapes and their algorithms, between matmul.c, which keeps it, and
 * matmul_algorithms.c, which writes it as text and reads that text. */
#ifndef MARS_KERNELS_CUDA_MATMUL_TABLE_H
#define MARS_KERNELS_CUDA_MATMUL_TABLE_H

#include <cublasLt.h>

#include "kernels/cuda/matmul.h"

EXTERN_C_BEGIN

/* What an algorithm may depend on; numbers of one type, so that a key can be compared, hashed, written and read as so
 * many numbers. Alignments are in bytes, powers of two up to 256. */
typedef struct MatmulKey {
    int64_t input, output; /* DType */
    int64_t tf32;
    int64_t epilogue; /* cublasLtEpilogue_t: what the library would have to do */
    int64_t batched;
    int64_t transpose_a, transpose_b;
    int64_t m, n, k;
    int64_t align_a, align_b, align_d; /* of d, c and pre the least */
    int64_t align_bias;                /* 0 without one */
} MatmulKey;

enum { KEY_NUMBERS = sizeof(MatmulKey) / sizeof(int64_t), MAX_ALIGNMENT = 256 };

typedef struct MatmulAlgorithm {
    cublasLtMatmulAlgo_t cublaslt;
    bool fused; /* the algorithm does the work of the epilogue */
} MatmulAlgorithm;

typedef struct MatmulEntry {
    MatmulKey key;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d;
    MatmulAlgorithm algorithm;
    bool has_algorithm; /* algorithm is set */
    bool timed;         /* by timing, here or elsewhere */
    int count;          /* matrices that the layouts are set for, and that `current` is known to multiply */
    MatmulAlgorithm current;
    struct MatmulEntry *next;
} MatmulEntry;

enum { BUCKETS = 64 };

struct CudaMatmul {
    CudaBackend *cuda;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    void *workspace;
    cudaEvent_t start, stop;
    bool is_autotuning;
    char *versions; /* what algorithms hold for: the GPU's name, the driver's version and the library's */
    MatmulEntry *buckets[BUCKETS];
};

/* A key in words, for messages. */
typedef struct MatmulName {
    char text[256];
} MatmulName;
MatmulName matmul_name(const MatmulKey *key);

/* An entry that is not in the table, with descriptors and no algorithm. Freed by matmul_entry_free(), in the table or
 * not. */
MatmulEntry *matmul_entry_create(const MatmulKey *key);
void matmul_entry_free(MatmulEntry *entry);

/* The place in the table where the entry of this key is, or, if that is NULL, belongs. */
MatmulEntry **matmul_table_place(CudaMatmul *matmul, const MatmulKey *key);

/* Whether the library has this algorithm, for this matmul, and it repeats bit for bit. */
bool matmul_algorithm_suits(CudaMatmul *matmul, MatmulEntry *entry, const MatmulAlgorithm *algorithm);

/* Makes it the entry's algorithm. */
void matmul_entry_set(MatmulEntry *entry, const MatmulAlgorithm *algorithm, bool timed);

/* matmul_algorithms.c: operations of the backend. */
char *cuda_write_algorithms(Backend *be);
bool cuda_read_algorithms(Backend *be, const char *text, Error *error);

EXTERN_C_END

#endif
