/* matmul_table.h: the table of matmul shapes and their algorithms, between matmul.c, which keeps it, and
 * matmul_algorithms.c, which writes it as text and reads that text. */
#ifndef MARS_KERNELS_CUDA_MATMUL_TABLE_H
#define MARS_KERNELS_CUDA_MATMUL_TABLE_H

#include <cublasLt.h>

#include "kernels/cuda/matmul.h"

EXTERN_C_BEGIN

/* Everything that an algorithm may depend on. All members have one type, so that a key can be compared, hashed, written
 * and read as an array. Alignments are in bytes, powers of two up to 256. */
typedef struct MatmulKey {
    int64_t input, output; /* DType */
    int64_t tf32;
    int64_t epilogue; /* cublasLtEpilogue_t, if the library does it */
    int64_t batched;
    int64_t transpose_a, transpose_b;
    int64_t m, n, k;
    int64_t align_a, align_b, align_d; /* align_d: the smallest of d, c and pre */
    int64_t align_bias;                /* 0 without bias */
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
    bool timed;         /* algorithm was found by timing, in this run or another */
    int count;          /* number of matrices that the layouts are set for and `current` can multiply; 0: none */
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
    char *versions; /* algorithms are valid for these: the GPU's name, the versions of driver and library */
    MatmulEntry *buckets[BUCKETS];
};

/* A key in words, for messages. */
typedef struct MatmulName {
    char text[256];
} MatmulName;
MatmulName matmul_name(const MatmulKey *key);

/* Makes an entry with descriptors and no algorithm, outside the table. Whoever has it, the table or the caller, frees
 * it with matmul_entry_free(). */
MatmulEntry *matmul_entry_create(const MatmulKey *key);
void matmul_entry_free(MatmulEntry *entry);

/* Returns the place of this key's entry in the table; *place is NULL if it has no entry yet. */
MatmulEntry **matmul_table_place(CudaMatmul *matmul, const MatmulKey *key);

/* Whether the library can run this algorithm for the entry's matmul and the algorithm repeats bit for bit. */
bool matmul_algorithm_suits(CudaMatmul *matmul, MatmulEntry *entry, const MatmulAlgorithm *algorithm);

/* Sets the entry's algorithm; `timed`: it was found by timing. */
void matmul_entry_set(MatmulEntry *entry, const MatmulAlgorithm *algorithm, bool timed);

/* matmul_algorithms.c: operations of the backend. */
char *cuda_write_algorithms(Backend *be);
bool cuda_read_algorithms(Backend *be, const char *text, Error *error);

EXTERN_C_END

#endif
