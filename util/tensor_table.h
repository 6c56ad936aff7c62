/* tensor_table.h: the list of parameter tensors that model, optimizers, processes and checkpoints agree on.
 *
 * Parameters, gradients and every optimizer state are flat buffers over one table: tensor i occupies elements
 * [offset, offset + size) of each. Flat buffers make all-reduces, multi-tensor kernels and checkpoints simple. Between
 * tensors there may be a gap (alignment, or rows that pad a vocabulary). A flat buffer must be zeroed when it is
 * allocated. Every operation keeps gaps zero, and no result depends on them. */
#ifndef MARS_UTIL_TENSOR_TABLE_H
#define MARS_UTIL_TENSOR_TABLE_H

#include "util/base.h"
#include "util/tensor_role.h"

/* Offsets are multiples of this many elements: 256 bytes even where elements have two bytes. */
enum { TENSOR_ALIGNMENT = 128 };

/* How a tensor's elements start. */
typedef enum TensorInit {
    TENSOR_INIT_ZERO,
    TENSOR_INIT_ONE,
    TENSOR_INIT_NORMAL, /* N(0, init_scale^2) */
    TENSOR_INIT_UNIFORM /* U(-init_scale, init_scale) */
} TensorInit;

typedef struct Tensor {
    char name[TENSOR_NAME_LENGTH];
    TensorRole role;
    int64_t rows, columns; /* a vector has rows = 1 */
    size_t offset;         /* first element in every flat buffer */
    size_t size;           /* rows * columns */
    int stacked;           /* matrices that lie above one another in it: 3 in a query, key and value matrix; else 1 */
    TensorInit init;
    double init_scale;
    const char *hf_prefix; /* before the name in checkpoints, as transformers has it; a string that is never freed */
    bool hf_transposed;    /* checkpoints store it as (columns, rows), as transformers' Conv1D does */
} Tensor;

typedef struct TensorTable {
    Tensor *tensors; /* owned; in order of offset */
    int count;
    size_t parameters; /* elements of all tensors, gaps not counted */
    size_t length;     /* elements of a flat buffer, gaps counted; a multiple of TENSOR_ALIGNMENT */
} TensorTable;

EXTERN_C_BEGIN

/* Appends a tensor after the last one and returns its index. May move all tensors: keep an index, not a pointer, until
 * the table is complete. `padded_rows` >= rows leaves room for rows that stay zero (pass rows for none). `stacked` is
 * 1, `init` zero, `hf_prefix` empty and `hf_transposed` false; the caller changes them if the tensor needs other
 * values. */
int tensor_table_add(TensorTable *table, const char *name, TensorRole role, int64_t rows, int64_t columns,
                     int64_t padded_rows);

/* "matrix", "embedding", "lm_head" or "vector". */
const char *tensor_role_name(TensorRole role);

/* Index of the tensor of that name, or -1. */
int tensor_table_find(const TensorTable *table, const char *name);

/* Elements of the largest tensor. */
size_t tensor_table_largest(const TensorTable *table);

void tensor_table_free(TensorTable *table);

EXTERN_C_END

#endif
