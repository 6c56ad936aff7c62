/* product_table.h: the table of products that were met and their algorithms, between matmul.c, which keeps it, and
 * choices.c, which writes it as text and reads such text. */
#ifndef MARS_KERNELS_CUDA_PRODUCT_TABLE_H
#define MARS_KERNELS_CUDA_PRODUCT_TABLE_H

#include <cublasLt.h>

#include "kernels/cuda/matmul.h"

EXTERN_C_BEGIN

/* What an algorithm may depend on; numbers of one type, so that a key can be compared, hashed, written and read as so
 * many numbers. Alignments are in bytes, powers of two up to 256. */
typedef struct ProductKey {
    int64_t input, output; /* DType */
    int64_t tf32;
    int64_t epilogue; /* cublasLtEpilogue_t: what the library would have to do */
    int64_t batched;
    int64_t transpose_a, transpose_b;
    int64_t m, n, k;
    int64_t align_a, align_b, align_d; /* of d, c and pre the least */
    int64_t align_bias;                /* 0 without one */
} ProductKey;

enum { KEY_NUMBERS = sizeof(ProductKey) / sizeof(int64_t), MOST_ALIGNMENT = 256 };

typedef struct ProductChoice {
    cublasLtMatmulAlgo_t algorithm;
    bool fused; /* the algorithm does the work of the epilogue */
} ProductChoice;

typedef struct ProductEntry {
    ProductKey key;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d;
    ProductChoice choice;
    bool chosen; /* choice is set */
    bool timed;  /* by timing, here or elsewhere */
    int count;   /* matrices that the layouts are set for, and that `current` is known to multiply */
    ProductChoice current;
    struct ProductEntry *next;
} ProductEntry;

enum { BUCKETS = 64 };

struct CudaMatmul {
    CudaBackend *cuda;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    void *workspace;
    cudaEvent_t start, stop;
    bool tuning;
    char *versions; /* what choices hold for: the GPU's name, the driver's version and the library's */
    ProductEntry *buckets[BUCKETS];
};

/* A key in words, for messages. */
typedef struct ProductName {
    char text[256];
} ProductName;
ProductName product_name(const ProductKey *key);

/* An entry that is not in the table, with descriptors and no algorithm. Freed by product_free(), in the table or not. */
ProductEntry *product_create(const ProductKey *key);
void product_free(ProductEntry *entry);

/* The place in the table where the entry of this key is, or, if that is NULL, is to be. */
ProductEntry **product_place(CudaMatmul *matmul, const ProductKey *key);

/* Whether the library has this algorithm, for this product, and it repeats bit for bit. */
bool product_suits(CudaMatmul *matmul, ProductEntry *entry, const ProductChoice *choice);

/* Makes it the entry's choice. */
void product_take(ProductEntry *entry, const ProductChoice *choice, bool timed);

/* choices.c: the operations of the table. */
char *cuda_choices(Backend *be);
bool cuda_choose(Backend *be, const char *text, Error *error);

EXTERN_C_END

#endif
