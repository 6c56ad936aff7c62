/* cublaslt.cpp: the emulator's cuBLASLt. Matmuls are made when the stream gets there, in float32, by the CPU's own
 * (kernels/cpu/matmul.h), and rounded once.
 *
 * It is strict where the library trusts its caller, and ends the program with a report: operands must lie in device
 * memory, whole; outputs must overlap no input; pointers must be aligned as was claimed when the algorithm was asked
 * for; what an epilogue keeps must be laid out as the library's rules say; and an algorithm that does not repeat bit
 * for bit must not be run. Under AddressSanitizer it looks up whether anything in an operand is poisoned.
 *
 * It offers less than the library does, so that programs need their other way of doing things, too: epilogues only for
 * rows (of a matrix stored by columns) in groups of 4, GELU only in bfloat16, and some algorithms only for operands that
 * are aligned to 16 bytes. Algorithms differ in the order of their sums, so that their results differ in the last bits,
 * and in the time that events measure, which is what `algorithms` says and not that of the CPU. */
#include <cublasLt.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "dev/emu/report.h"
#include "dev/emu/runtime.h"
#include "dev/emu/stream.h"
#include "kernels/cpu/matmul.h"

/* Present in programs with AddressSanitizer: the first byte of a region that must not be touched, or NULL. */
extern "C" void *__asan_region_is_poisoned(void *begin, size_t bytes) __attribute__((weak));

struct cublasLtContext {
    Matmul *matmul;
};

struct cublasLtMatrixLayoutEmulated {
    cudaDataType type;
    int64_t rows, columns, ld;
    int32_t count;
    int64_t stride;
};

struct cublasLtMatmulDescEmulated {
    cublasComputeType_t compute;
    int32_t transpose_a, transpose_b;
    uint32_t epilogue;
    const void *bias;
    void *aux;
    int64_t aux_ld;
};

struct cublasLtMatmulPreferenceEmulated {
    uint64_t workspace;
    uint32_t reductions, align_a, align_b, align_c, align_d;
};

namespace emu {

typedef cublasLtMatrixLayoutEmulated Layout;
typedef cublasLtMatmulDescEmulated Operation;
typedef cublasLtMatmulPreferenceEmulated Preference;

/* ---- algorithms ---- */

struct Algorithm {
    uint32_t reduction;
    int parts;         /* that sums over k are made in, which are then added in order */
    int64_t alignment; /* of all matrices, in bytes; 1: any */
    double seconds;    /* for each matmul, on the clock of events */
};

/* As they are proposed. The first is proposed whatever the preferences are: a program must look for itself. */
static const Algorithm algorithms[] = {
    {CUBLASLT_REDUCTION_SCHEME_INPLACE, 2, 1, 1e-4},     {CUBLASLT_REDUCTION_SCHEME_NONE, 1, 1, 4e-4},
    {CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 2, 1, 1e-4}, {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 3, 16, 2e-4},
    {CUBLASLT_REDUCTION_SCHEME_NONE, 2, 1, 3e-4},
};
static const int algorithm_count = sizeof algorithms / sizeof algorithms[0];

/* What a cublasLtMatmulAlgo_t holds; the rest of it is 0. */
struct Words {
    uint64_t mark, number, reduction, alignments[4]; /* that were claimed: of A, B, C and D */
    uint64_t unused;
};
static_assert(sizeof(Words) == sizeof(cublasLtMatmulAlgo_t), "they take each other's place");
static const uint64_t algorithm_mark = 0x656d752d626c6173; /* "emu-blas" */

static Words words_of(const cublasLtMatmulAlgo_t *algorithm) {
    Words words;
    std::memcpy(&words, algorithm, sizeof words);
    return words;
}

static bool is_algorithm(const Words &words) {
    if (words.mark != algorithm_mark || words.number >= static_cast<uint64_t>(algorithm_count) || words.unused)
        return false;
    return words.reduction == algorithms[words.number].reduction;
}

/* ---- descriptions ---- */

static int64_t size_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : 2; }

template <class T> static cublasStatus_t assign(T *to, const void *value, size_t bytes) {
    if (!value || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

static bool has_bias(const Operation *operation) {
    return operation->epilogue != CUBLASLT_EPILOGUE_DEFAULT && (operation->epilogue & CUBLASLT_EPILOGUE_BIAS);
}

static bool has_aux(const Operation *operation) { return operation->epilogue >= CUBLASLT_EPILOGUE_GELU_AUX; }

static bool is_epilogue(uint32_t epilogue) {
    switch (epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DGELU:
        return true;
    }
    return false;
}

/* The sizes of a matmul: D (m,n), op(A) (m,k), op(B) (k,n). */
struct Sizes {
    int64_t m, n, k;
};

static bool is_layout(const Layout *layout) {
    return layout && layout->rows > 0 && layout->columns > 0 && layout->ld >= layout->rows && layout->count > 0;
}

/* False where the matrices cannot be multiplied so. */
static bool sizes_of(const Operation *operation, const Layout *a, const Layout *b, const Layout *c, const Layout *d,
                     Sizes *sizes) {
    if (!operation || !is_layout(a) || !is_layout(b) || !is_layout(c) || !is_layout(d)) return false;
    bool ta = operation->transpose_a == CUBLAS_OP_T, tb = operation->transpose_b == CUBLAS_OP_T;
    *sizes = {d->rows, d->columns, ta ? a->rows : a->columns};
    return sizes->m == (ta ? a->columns : a->rows) && sizes->k == (tb ? b->columns : b->rows) &&
           sizes->n == (tb ? b->rows : b->columns) && c->rows == d->rows && c->columns == d->columns &&
           a->type == b->type && c->type == d->type && (a->type == d->type || d->type == CUDA_R_32F) &&
           a->count == d->count && b->count == d->count && c->count == d->count && is_epilogue(operation->epilogue);
}

/* Whether there are algorithms with this epilogue. What GELU keeps must be laid out as the library wants it. */
static bool has_epilogue(const Operation *operation, const Layout *d) {
    if (has_aux(operation) && (operation->aux_ld % 8 != 0 || operation->aux_ld < d->rows ||
                               reinterpret_cast<uintptr_t>(operation->aux) % 16 != 0))
        fatal({}, "cuBLASLt: for GELU %p, with columns %lld elements apart, must be aligned to 16 bytes and 8 elements",
              operation->aux, (long long)operation->aux_ld);
    if (operation->epilogue == CUBLASLT_EPILOGUE_DEFAULT) return true;
    if (d->rows % 4 != 0 || d->count != 1) return false;
    return operation->epilogue == CUBLASLT_EPILOGUE_BIAS || d->type == CUDA_R_16BF;
}

static size_t workspace_of(const Algorithm &algorithm, const Layout *d) {
    if (algorithm.reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return 0;
    return sizeof(float) * static_cast<size_t>(d->rows * d->columns * algorithm.parts * d->count);
}

/* Whether the matrix allows accesses of so many bytes. */
static bool allows(const Layout *layout, uint32_t pointer_alignment, int64_t bytes) {
    int64_t size = size_of(layout->type);
    return pointer_alignment % bytes == 0 && layout->ld * size % bytes == 0 &&
           (layout->count == 1 || layout->stride * size % bytes == 0);
}

/* ---- operands ---- */

/* A matrix of a batch as it lies in memory. */
struct Operand {
    const char *name;
    Layout layout;
    char *data;

    int64_t bytes_of_one() const { return ((layout.columns - 1) * layout.ld + layout.rows) * size_of(layout.type); }
    int64_t bytes() const { return (layout.count - 1) * layout.stride * size_of(layout.type) + bytes_of_one(); }
    char *matrix(int64_t i) const { return data + i * layout.stride * size_of(layout.type); }
};

static Operand operand(const char *name, const Layout *layout, const void *data) {
    return {name, *layout, static_cast<char *>(const_cast<void *>(data))};
}

static Operand vector(const char *name, cudaDataType type, int64_t length, const void *data) {
    Layout layout = {type, length, 1, length, 1, 0};
    return operand(name, &layout, data);
}

/* Checked when the matmul is enqueued: operands lie in memory of a device, and are aligned as was claimed. */
static void check_place(const Operand &x, uint64_t alignment) {
    bool fits;
    if (place_of(x.data, x.bytes(), &fits) != Place::DEVICE || !fits)
        fatal({}, "cublasLtMatmul: %s, %lld x %lld, is not in device memory, or not all of it", x.name,
              (long long)x.layout.rows, (long long)x.layout.columns);
    if (reinterpret_cast<uintptr_t>(x.data) % alignment != 0)
        fatal({}, "cublasLtMatmul: %s is not aligned to %llu bytes, as its algorithm was told", x.name,
              (unsigned long long)alignment);
}

static void check_apart(const Operand &output, const Operand &input) {
    if (output.data < input.data + input.bytes() && input.data < output.data + output.bytes())
        fatal({}, "cublasLtMatmul: %s overlaps %s", output.name, input.name);
}

/* When the matmul is made: nothing in it is poisoned. */
static void check_memory(const Operand &x) {
    if (!__asan_region_is_poisoned) return;
    for (int64_t i = 0; i < x.layout.count; i++)
        for (int64_t column = 0; column < x.layout.columns; column++) {
            char *begin = x.matrix(i) + column * x.layout.ld * size_of(x.layout.type);
            void *bad = __asan_region_is_poisoned(begin, static_cast<size_t>(x.layout.rows * size_of(x.layout.type)));
            if (bad)
                fatal({}, "cublasLtMatmul: %s, %lld x %lld, reaches into memory that is not its own, in column %lld",
                      x.name, (long long)x.layout.rows, (long long)x.layout.columns, (long long)column);
        }
}

/* ---- matmuls ---- */

struct Gemm {
    cublasLtHandle_t handle;
    Operation operation;
    Sizes sizes;
    Operand a, b, c, d, bias, aux;
    float alpha, beta;
    const Algorithm *algorithm;
    float *workspace;
};

static float load(const char *data, cudaDataType type, int64_t i) {
    if (type == CUDA_R_32F) return reinterpret_cast<const float *>(data)[i];
    return float_from_bfloat16(reinterpret_cast<const bfloat16 *>(data)[i]);
}

static void store(char *data, cudaDataType type, int64_t i, float value) {
    if (type == CUDA_R_32F)
        reinterpret_cast<float *>(data)[i] = value;
    else
        reinterpret_cast<bfloat16 *>(data)[i] = bfloat16_from_float(value);
}

/* To the 10 bits that a tensor core keeps of a float32 factor. */
static float round_to_tf32(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x1000) & 0xffffe000;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/* Number i of a batch as rows x columns floats by rows: transposed where its columns are not those of the result. */
static std::vector<float> by_rows(const Gemm &p, const Operand &x, int64_t i, bool transposed) {
    const Layout &layout = x.layout;
    int64_t rows = transposed ? layout.columns : layout.rows, columns = transposed ? layout.rows : layout.columns;
    std::vector<float> result(static_cast<size_t>(rows * columns));
    const char *data = x.matrix(i);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++) {
            int64_t at = transposed ? column + row * layout.ld : row + column * layout.ld;
            float value = load(data, layout.type, at);
            result[row * columns + column] =
                p.operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? round_to_tf32(value) : value;
        }
    return result;
}

/* sums (n,m) by rows = op(B)^T op(A)^T, over columns [begin, end) of the first. */
static void multiply(const Gemm &p, float *sums, const float *first, const float *second, int64_t begin, int64_t end) {
    MatmulShape shape = matmul_dense(p.sizes.n, p.sizes.m, end - begin, false, false, DTYPE_FLOAT32, DTYPE_FLOAT32);
    shape.lda = p.sizes.k;
    MatmulKernel *kernel = matmul_kernel(p.handle->matmul, &shape);
    matmul_run(p.handle->matmul, kernel, 0, first + begin, second + begin * p.sizes.m, sums);
}

/* The sums of number i, made in parts as the algorithm says; in the workspace where it needs one. */
static std::vector<float> sums_of(const Gemm &p, int64_t i) {
    std::vector<float> first = by_rows(p, p.b, i, p.operation.transpose_b == CUBLAS_OP_N);
    std::vector<float> second = by_rows(p, p.a, i, p.operation.transpose_a == CUBLAS_OP_N);
    size_t size = static_cast<size_t>(p.sizes.m * p.sizes.n);
    std::vector<float> total(size, 0.0f), here(p.workspace ? 0 : size);
    int64_t length = (p.sizes.k + p.algorithm->parts - 1) / p.algorithm->parts, part = 0;
    for (int64_t begin = 0; begin < p.sizes.k; begin += length, part++) {
        float *sums = p.workspace ? p.workspace + (i * p.algorithm->parts + part) * size : here.data();
        multiply(p, sums, first.data(), second.data(), begin, std::min(begin + length, p.sizes.k));
        for (size_t j = 0; j < size; j++) total[j] += sums[j];
    }
    return total;
}

/* GELU in its tanh form, and its derivative. */
static float gelu(float x) {
    float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    return x / (1.0f + std::exp(-2.0f * u));
}

static float gelu_derivative(float x) {
    double u = 0.79788456080286536 * (x + 0.044715 * x * x * x), t = std::tanh(u);
    double du = 0.79788456080286536 * (1 + 3 * 0.044715 * x * x);
    return static_cast<float>(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du);
}

/* What is stored in D for the value of an element, and on the way in what is kept of it. */
static float finish(const Gemm &p, float value, int64_t row, int64_t column) {
    cudaDataType type = p.d.layout.type;
    if (has_bias(&p.operation)) value += load(p.bias.data, type, row);
    if (!(p.operation.epilogue & CUBLASLT_EPILOGUE_GELU) && p.operation.epilogue != CUBLASLT_EPILOGUE_DGELU)
        return value;
    int64_t at = row + column * p.operation.aux_ld;
    if (p.operation.epilogue == CUBLASLT_EPILOGUE_DGELU) return value * gelu_derivative(load(p.aux.data, type, at));
    if (has_aux(&p.operation)) store(p.aux.data, type, at, value);
    return gelu(value);
}

static void run(const Gemm &p) {
    auto start = std::chrono::steady_clock::now();
    for (const Operand *x : {&p.a, &p.b, &p.c, &p.d, &p.bias, &p.aux})
        if (x->data) check_memory(*x);
    cudaDataType type = p.d.layout.type;
    for (int64_t i = 0; i < p.d.layout.count; i++) {
        std::vector<float> sums = sums_of(p, i);
        char *d = p.d.matrix(i);
        const char *c = p.c.data ? p.c.matrix(i) : nullptr;
        for (int64_t column = 0; column < p.sizes.n; column++)
            for (int64_t row = 0; row < p.sizes.m; row++) {
                float value = p.alpha * sums[column * p.sizes.m + row];
                if (c) value += p.beta * load(c, type, row + column * p.c.layout.ld);
                store(d, type, row + column * p.d.layout.ld, finish(p, value, row, column));
            }
    }
    std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    move_clock(p.algorithm->seconds - taken.count());
}

static void check_operands(const Gemm &p, const Words &words) {
    check_place(p.a, words.alignments[0]);
    check_place(p.b, words.alignments[1]);
    if (p.c.data) check_place(p.c, words.alignments[2]);
    check_place(p.d, words.alignments[3]);
    check_apart(p.d, p.a);
    check_apart(p.d, p.b);
    bool c_is_d = p.c.data == p.d.data && p.c.layout.ld == p.d.layout.ld && p.c.layout.stride == p.d.layout.stride;
    if (p.c.data && !c_is_d) check_apart(p.d, p.c);
    if (p.bias.data) check_place(p.bias, 1), check_apart(p.d, p.bias);
    if (p.aux.data) check_place(p.aux, 16), check_apart(p.d, p.aux);
}

} // namespace emu

using namespace emu;

/* ---- the library ---- */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    Error error;
    Matmul *matmul = matmul_open(DTYPE_FLOAT32, 1, &error);
    if (!matmul) fatal({}, "cublasLtCreate: %s", error.text);
    *handle = new cublasLtContext{matmul};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    run_all_streams();
    matmul_close(handle->matmul);
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the requested functionality is not supported";
    default:
        return "unknown error";
    }
}

size_t cublasLtGetVersion(void) { return 120800; }

/* ---- descriptions ---- */

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), ld, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return assign(&layout->count, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return assign(&layout->stride, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *operation, cublasComputeType_t compute,
                                        cudaDataType scale) {
    if (!operation || scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
    *operation = new Operation{compute, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, nullptr, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
    delete operation;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return assign(&operation->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return assign(&operation->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return assign(&operation->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return assign(&operation->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        return assign(&operation->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        return assign(&operation->aux_ld, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- algorithms ---- */

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
    *preference = new Preference{0, 7, 256, 256, 256, 256};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return assign(&preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return assign(&preference->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return assign(&preference->align_a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return assign(&preference->align_b, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return assign(&preference->align_c, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return assign(&preference->align_d, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *returned) {
    Sizes sizes;
    *returned = 0;
    if (!handle || requested < 1 || !sizes_of(operation, a, b, c, d, &sizes)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!has_epilogue(operation, d)) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < algorithm_count && *returned < requested; i++) {
        const Algorithm &algorithm = algorithms[i];
        if (i > 0 && (algorithm.reduction & preference->reductions) != algorithm.reduction) continue;
        if (workspace_of(algorithm, d) > preference->workspace) continue;
        if (!allows(a, preference->align_a, algorithm.alignment) ||
            !allows(b, preference->align_b, algorithm.alignment) ||
            !allows(c, preference->align_c, algorithm.alignment) ||
            !allows(d, preference->align_d, algorithm.alignment))
            continue;
        Words words = {algorithm_mark,
                       static_cast<uint64_t>(i),
                       algorithm.reduction,
                       {preference->align_a, preference->align_b, preference->align_c, preference->align_d},
                       0};
        cublasLtMatmulHeuristicResult_t *result = &results[(*returned)++];
        *result = {{}, workspace_of(algorithm, d), CUBLAS_STATUS_SUCCESS, 1.0f, {}};
        std::memcpy(&result->algo, &words, sizeof words);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result) {
    Sizes sizes;
    Words words = words_of(algorithm);
    if (!handle || !sizes_of(operation, a, b, c, d, &sizes) || !is_algorithm(words)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!has_epilogue(operation, d)) return CUBLAS_STATUS_NOT_SUPPORTED;
    result->workspaceSize = workspace_of(algorithms[words.number], d);
    result->state = CUBLAS_STATUS_SUCCESS;
    result->wavesCount = 1.0f;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void *value,
                                                    size_t bytes, size_t *written) {
    uint32_t reduction = static_cast<uint32_t>(words_of(algorithm).reduction);
    if (attribute != CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME || bytes != sizeof reduction)
        return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(value, &reduction, sizeof reduction);
    *written = sizeof reduction;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- matmuls ---- */

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b, const void *beta,
                              const void *C, cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    Gemm p = {};
    cublasLtMatmulHeuristicResult_t result;
    if (!algorithm ||
        cublasLtMatmulAlgoCheck(handle, operation, a, b, c, d, algorithm, &result) != CUBLAS_STATUS_SUCCESS)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (operation->bias && !has_bias(operation)) return CUBLAS_STATUS_INVALID_VALUE; /* so does version 13 */
    Words words = words_of(algorithm);
    p.algorithm = &algorithms[words.number];
    if (p.algorithm->reduction == CUBLASLT_REDUCTION_SCHEME_INPLACE)
        fatal({}, "cublasLtMatmul: an algorithm that adds in whatever order parts of sums come does not repeat");
    if (p.algorithm->reduction == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)
        fatal({}, "cublasLtMatmul: the emulator has no algorithm that adds parts of sums in the output's type");
    if (result.workspaceSize > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    p.handle = handle;
    p.operation = *operation;
    sizes_of(operation, a, b, c, d, &p.sizes);
    std::memcpy(&p.alpha, alpha, sizeof p.alpha);
    std::memcpy(&p.beta, beta, sizeof p.beta);
    p.a = operand("A", a, A), p.b = operand("B", b, B), p.d = operand("D", d, D);
    if (p.beta != 0.0f) p.c = operand("C", c, C);
    if (has_bias(operation)) p.bias = vector("the bias", d->type, d->rows, operation->bias);
    if (has_aux(operation)) {
        Layout aux = {d->type, d->rows, d->columns, operation->aux_ld, 1, 0};
        p.aux = operand("what GELU is applied to", &aux, operation->aux);
    }
    check_operands(p, words);
    if (result.workspaceSize > 0) {
        check_place(vector("the workspace", CUDA_R_32F, static_cast<int64_t>(workspace_bytes / 4), workspace), 16);
        p.workspace = static_cast<float *>(workspace);
    }
    enqueue(stream, [p] { run(p); });
    return CUBLAS_STATUS_SUCCESS;
}
