/* matmul.c: matmuls by cuBLASLt, and the autotuning of its algorithms. It launches no kernel, so it is C.
 *
 * Row-major. The library stores matrices by columns, so it reads a row-major matrix as the transpose. It computes D^T =
 * op(B)^T op(A)^T: its first factor is our b, its second our a, and nothing is copied. Its epilogues add one bias
 * element to each of its rows, which are our columns.
 *
 * Speed. Each shape has an entry in a table, with the library's descriptors and the algorithm, so that a call allocates
 * nothing and never waits for the GPU. The library proposes algorithms for the alignment of the operands, fastest first
 * by its own estimate. While autotuning, the proposals for a shape are timed: those with the epilogue in the matmul,
 * and those with a kernel after it.
 *
 * Determinism. Only algorithms that repeat bit for bit are used: sums over k in one piece, or in parts that lie in the
 * workspace as float32 and are added in order after the matmul. The library's other two ways to add parts are not used:
 * in the output itself, in an order that is not documented, and in the output's type, which rounds more than once. A
 * matrix of a batch must have the bits that it has alone, so a batch's algorithm does not depend on the number of
 * matrices, and does not split sums, which would need a workspace for each. All work of a handle is on one stream, with
 * one workspace: then equal calls give equal results on GPUs of the same kind (cuBLAS, "Results Reproducibility"). */
#include "kernels/cuda/matmul.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/matmul_table.h"

/* The workspace that the library recommends for Hopper. With less, some of its algorithms are not available. */
enum { WORKSPACE_BYTES = 32 << 20 };

/* Algorithms to request from the library in one call. */
enum { PROPOSALS = 8 };

/* The batch size for which proposals are requested, whatever the real size is: enough to fill a GPU. */
enum { PROPOSED_BATCH = 8 };

/* Each algorithm is timed in ROUNDS rounds, in turn with the others, so that a rising clock favours none. The shortest
 * round counts. A round is REPETITIONS matmuls. */
enum { ROUNDS = 3, REPETITIONS = 4 };

/* ---- messages ---- */

MatmulName matmul_name(const MatmulKey *key) {
    MatmulName name;
    snprintf(name.text, sizeof name.text,
             "%s matrices %" PRId64 " x %" PRId64 "%s and %" PRId64 " x %" PRId64 "%s to %s%s, epilogue %" PRId64,
             dtype_name((DType)key->input), key->m, key->k, key->transpose_a ? " (transposed)" : "", key->k, key->n,
             key->transpose_b ? " (transposed)" : "", dtype_name((DType)key->output),
             key->batched ? ", a batch of them" : "", key->epilogue);
    return name;
}

static void check_cublaslt(cublasStatus_t status, const char *what) {
    if (status != CUBLAS_STATUS_SUCCESS) die("cuBLASLt: %s failed: %s", what, cublasLtGetStatusString(status));
}

static void check_matmul(cublasStatus_t status, const char *what, const MatmulKey *key) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    die("cuBLASLt: %s %s failed: %s", what, matmul_name(key).text, cublasLtGetStatusString(status));
}

/* ---- keys ---- */

/* The largest power of two, up to MAX_ALIGNMENT, that divides all addresses whose bitwise OR is `addresses`. */
static int64_t alignment(uintptr_t addresses) {
    uintptr_t lowest_bit = addresses & (~addresses + 1);
    return lowest_bit == 0 || lowest_bit > MAX_ALIGNMENT ? MAX_ALIGNMENT : (int64_t)lowest_bit;
}

static cublasLtEpilogue_t library_epilogue(const CudaGemm *p) {
    cublasLtEpilogue_t gelu = p->pre ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU;
    switch (p->epilogue) {
    case CUDA_EPILOGUE_GELU:
        return p->bias ? (cublasLtEpilogue_t)(gelu | CUBLASLT_EPILOGUE_BIAS) : gelu;
    case CUDA_EPILOGUE_GELU_BACKWARD:
        return CUBLASLT_EPILOGUE_DGELU;
    default:
        return p->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    }
}

/* Whether the library stores or reads `pre`, the input of GELU. */
static bool has_pre(const MatmulKey *key) {
    return key->epilogue == CUBLASLT_EPILOGUE_GELU_AUX || key->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
           key->epilogue == CUBLASLT_EPILOGUE_DGELU;
}

/* The distance of matrices in a batch, in bytes; 0 without a batch. It limits the alignment of all but the first. */
static uintptr_t batch_bits(const CudaGemm *p, DType type, int64_t rows, int64_t columns) {
    return p->batched ? (uintptr_t)(rows * columns) * dtype_size(type) : 0;
}

static MatmulKey key_of(const CudaMatmul *matmul, const CudaGemm *p) {
    uintptr_t a = (uintptr_t)p->a | batch_bits(p, p->input, p->m, p->k);
    uintptr_t b = (uintptr_t)p->b | batch_bits(p, p->input, p->k, p->n);
    uintptr_t d = (uintptr_t)p->d | (uintptr_t)p->pre | batch_bits(p, p->output, p->m, p->n);
    if (p->beta != 0.0f) d |= (uintptr_t)p->c;
    return (MatmulKey){.input = p->input,
                       .output = p->output,
                       .tf32 = p->input == DTYPE_FLOAT32 && matmul->cuda->allow_tf32,
                       .epilogue = library_epilogue(p),
                       .batched = p->batched,
                       .transpose_a = p->transpose_a,
                       .transpose_b = p->transpose_b,
                       .m = p->m,
                       .n = p->n,
                       .k = p->k,
                       .align_a = alignment(a),
                       .align_b = alignment(b),
                       .align_d = alignment(d),
                       .align_bias = p->bias ? alignment((uintptr_t)p->bias) : 0};
}

static MatmulEntry **bucket_of(CudaMatmul *matmul, const MatmulKey *key) {
    int64_t numbers[KEY_NUMBERS];
    memcpy(numbers, key, sizeof numbers);
    uint64_t hash = 0;
    for (int i = 0; i < KEY_NUMBERS; i++) hash = (hash ^ (uint64_t)numbers[i]) * 0x9e3779b97f4a7c15u;
    return &matmul->buckets[hash >> 32 & (BUCKETS - 1)];
}

/* ---- entries ---- */

static const char describing[] = "describing a matmul of";

static cudaDataType library_type(int64_t type) { return type == DTYPE_FLOAT32 ? CUDA_R_32F : CUDA_R_16BF; }

static void set_operation(MatmulEntry *entry, cublasLtMatmulDescAttributes_t attribute, const void *value,
                          size_t bytes) {
    check_matmul(cublasLtMatmulDescSetAttribute(entry->operation, attribute, value, bytes), describing, &entry->key);
}

static void set_layout(const MatmulEntry *entry, cublasLtMatrixLayout_t layout,
                       cublasLtMatrixLayoutAttribute_t attribute, const void *value, size_t bytes) {
    check_matmul(cublasLtMatrixLayoutSetAttribute(layout, attribute, value, bytes), describing, &entry->key);
}

/* Makes the layout of dense row-major matrices that lie one after the other. */
static cublasLtMatrixLayout_t layout_create(const MatmulEntry *entry, int64_t type, int64_t rows, int64_t columns) {
    cublasLtMatrixLayout_t layout;
    int64_t stride = rows * columns;
    check_matmul(cublasLtMatrixLayoutCreate(&layout, library_type(type), (uint64_t)columns, (uint64_t)rows, columns),
                 describing, &entry->key);
    set_layout(entry, layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    return layout;
}

MatmulEntry *matmul_entry_create(const MatmulKey *key) {
    MatmulEntry *entry = checked_calloc(1, sizeof *entry, "a matmul");
    entry->key = *key;
    entry->a = layout_create(entry, key->input, key->transpose_a ? key->k : key->m, key->transpose_a ? key->m : key->k);
    entry->b = layout_create(entry, key->input, key->transpose_b ? key->n : key->k, key->transpose_b ? key->k : key->n);
    entry->d = layout_create(entry, key->output, key->m, key->n);
    cublasComputeType_t compute = key->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    check_matmul(cublasLtMatmulDescCreate(&entry->operation, compute, CUDA_R_32F), describing, key);
    cublasOperation_t first = key->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = key->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    set_operation(entry, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    set_operation(entry, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
    if (has_pre(key)) set_operation(entry, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &key->n, sizeof key->n);
    return entry;
}

void matmul_entry_free(MatmulEntry *entry) {
    check_cublaslt(cublasLtMatmulDescDestroy(entry->operation), "freeing a description");
    check_cublaslt(cublasLtMatrixLayoutDestroy(entry->a), "freeing a description");
    check_cublaslt(cublasLtMatrixLayoutDestroy(entry->b), "freeing a description");
    check_cublaslt(cublasLtMatrixLayoutDestroy(entry->d), "freeing a description");
    free(entry);
}

MatmulEntry **matmul_table_place(CudaMatmul *matmul, const MatmulKey *key) {
    MatmulEntry **place = bucket_of(matmul, key);
    while (*place && memcmp(&(*place)->key, key, sizeof *key) != 0) place = &(*place)->next;
    return place;
}

static MatmulEntry *entry_of(CudaMatmul *matmul, const CudaGemm *p) {
    MatmulKey key = key_of(matmul, p);
    MatmulEntry **place = matmul_table_place(matmul, &key);
    if (!*place) *place = matmul_entry_create(&key);
    return *place;
}

/* If the matmul does not do the epilogue, the pointers must be NULL too: the library refuses to multiply with a bias
 * that its epilogue does not add. */
static void set_epilogue(MatmulEntry *entry, bool fused, const void *bias, const void *pre) {
    uint32_t epilogue = fused ? (uint32_t)entry->key.epilogue : CUBLASLT_EPILOGUE_DEFAULT;
    set_operation(entry, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (!fused) bias = NULL;
    if (!fused || !has_pre(&entry->key)) pre = NULL;
    set_operation(entry, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    set_operation(entry, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &pre, sizeof pre);
}

/* Sets the epilogue before bias and pre are known. For proposals the library only reads the alignment of these
 * pointers, so the alignments themselves are passed as pointers. */
static void set_epilogue_alone(MatmulEntry *entry, bool fused) {
    const MatmulKey *key = &entry->key;
    set_epilogue(entry, fused, (const void *)(uintptr_t)key->align_bias, (const void *)(uintptr_t)key->align_d);
}

static void set_count(MatmulEntry *entry, int count) {
    int32_t matrices = count;
    set_layout(entry, entry->a, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &matrices, sizeof matrices);
    set_layout(entry, entry->b, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &matrices, sizeof matrices);
    set_layout(entry, entry->d, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &matrices, sizeof matrices);
}

/* ---- algorithms ---- */

/* Whether the library may do the epilogue. It stores and reads pre only if n is a multiple of 8 and outputs are aligned
 * to 16 bytes. Its GELU is exact enough only for bfloat16: in float32 its relative error was 6e-5 on an H100, as if it
 * used the approximate tanh. */
static bool may_fuse(const MatmulKey *key) {
    if (key->epilogue == CUBLASLT_EPILOGUE_DEFAULT) return false;
    if (key->epilogue != CUBLASLT_EPILOGUE_BIAS && key->output == DTYPE_FLOAT32) return false;
    return !has_pre(key) || (key->n % 8 == 0 && key->align_d >= 16);
}

/* Whether the algorithm repeats bit for bit. */
static bool repeats(const MatmulKey *key, const cublasLtMatmulAlgo_t *algorithm) {
    uint32_t reduction;
    size_t written;
    if (cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                                             sizeof reduction, &written) != CUBLAS_STATUS_SUCCESS)
        return false;
    return reduction == CUBLASLT_REDUCTION_SCHEME_NONE ||
           (reduction == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE && !key->batched);
}

/* Whether an algorithm can be used with the current layouts. */
static bool is_admissible(CudaMatmul *matmul, MatmulEntry *entry, const MatmulAlgorithm *algorithm) {
    if (algorithm->fused && !may_fuse(&entry->key)) return false;
    set_epilogue_alone(entry, algorithm->fused);
    cublasLtMatmulHeuristicResult_t result = {.algo = algorithm->cublaslt};
    return cublasLtMatmulAlgoCheck(matmul->handle, entry->operation, entry->b, entry->a, entry->d, entry->d,
                                   &algorithm->cublaslt, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES && repeats(&entry->key, &algorithm->cublaslt);
}

static void set_preference(CudaMatmul *matmul, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                           size_t bytes) {
    check_cublaslt(cublasLtMatmulPreferenceSetAttribute(matmul->preference, attribute, value, bytes),
                   "stating a preference");
}

static void set_alignment(CudaMatmul *matmul, cublasLtMatmulPreferenceAttributes_t attribute, int64_t bytes) {
    uint32_t value = (uint32_t)bytes;
    set_preference(matmul, attribute, &value, sizeof value);
}

/* Gets the library's proposals for the current layouts, fastest first; returns their number. */
static int propose(CudaMatmul *matmul, MatmulEntry *entry, bool fused, MatmulAlgorithm *proposals) {
    const MatmulKey *key = &entry->key;
    if (fused && !may_fuse(key)) return 0;
    set_epilogue_alone(entry, fused);
    set_alignment(matmul, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->align_b);
    set_alignment(matmul, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->align_a);
    set_alignment(matmul, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->align_d);
    set_alignment(matmul, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->align_d);
    cublasLtMatmulHeuristicResult_t results[PROPOSALS];
    int found = 0, count = 0;
    if (cublasLtMatmulAlgoGetHeuristic(matmul->handle, entry->operation, entry->b, entry->a, entry->d, entry->d,
                                       matmul->preference, PROPOSALS, results, &found) != CUBLAS_STATUS_SUCCESS)
        return 0;
    for (int i = 0; i < found; i++) {
        MatmulAlgorithm proposal = {results[i].algo, fused};
        if (results[i].state == CUBLAS_STATUS_SUCCESS && is_admissible(matmul, entry, &proposal))
            proposals[count++] = proposal;
    }
    return count;
}

/* All proposals; those with the epilogue in the matmul come first. */
static int propose_all(CudaMatmul *matmul, MatmulEntry *entry, MatmulAlgorithm proposals[2 * PROPOSALS]) {
    int count = propose(matmul, entry, true, proposals);
    count += propose(matmul, entry, false, proposals + count);
    if (count == 0) die("cuBLASLt: no algorithm multiplies %s", matmul_name(&entry->key).text);
    return count;
}

/* Sets the layouts with which an algorithm for batches of any size is selected. */
static void set_any_count(MatmulEntry *entry) {
    entry->count = 0;
    set_count(entry, entry->key.batched ? PROPOSED_BATCH : 1);
}

bool matmul_algorithm_suits(CudaMatmul *matmul, MatmulEntry *entry, const MatmulAlgorithm *algorithm) {
    set_any_count(entry);
    return is_admissible(matmul, entry, algorithm);
}

void matmul_entry_set(MatmulEntry *entry, const MatmulAlgorithm *algorithm, bool timed) {
    entry->algorithm = *algorithm;
    entry->has_algorithm = true;
    entry->timed = timed;
    entry->count = 0;
}

/* Sets the layouts for `count` matrices and returns the algorithm for them. If the entry's algorithm does not support
 * this count, which should not happen without a workspace, that is the first proposal for the count. */
static const MatmulAlgorithm *algorithm_for(CudaMatmul *matmul, MatmulEntry *entry, int count) {
    if (entry->count == count) return &entry->current;
    set_count(entry, count);
    entry->count = count;
    entry->current = entry->algorithm;
    if (entry->key.batched && !is_admissible(matmul, entry, &entry->current)) {
        MatmulAlgorithm proposals[2 * PROPOSALS];
        propose_all(matmul, entry, proposals);
        entry->current = proposals[0];
    }
    return &entry->current;
}

/* ---- matmuls ---- */

static cublasStatus_t launch(CudaMatmul *matmul, MatmulEntry *entry, const MatmulAlgorithm *algorithm,
                             const CudaGemm *p) {
    set_epilogue(entry, algorithm->fused, p->bias, p->pre);
    bool is_kept = p->epilogue == CUDA_EPILOGUE_GELU && p->pre;
    void *d = !algorithm->fused && is_kept ? p->pre : p->d;
    const void *c = p->beta == 0.0f ? d : p->c;
    Backend *be = &matmul->cuda->base;
    cublasStatus_t status = cublasLtMatmul(matmul->handle, entry->operation, &p->alpha, p->b, entry->b, p->a, entry->a,
                                           &p->beta, c, entry->d, d, entry->d, &algorithm->cublaslt, matmul->workspace,
                                           WORKSPACE_BYTES, cuda_stream(be));
    if (status == CUBLAS_STATUS_SUCCESS && !algorithm->fused && entry->key.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
        p->finish(be, p);
    return status;
}

/* Returns the milliseconds of one matmul, or infinity if the algorithm does not run. */
static float time_of(CudaMatmul *matmul, MatmulEntry *entry, const MatmulAlgorithm *algorithm, const CudaGemm *p) {
    cudaStream_t stream = cuda_stream(&matmul->cuda->base);
    if (launch(matmul, entry, algorithm, p) != CUBLAS_STATUS_SUCCESS) return INFINITY; /* the first one warms up */
    cuda_check(cudaEventRecord(matmul->start, stream), "timing a matmul");
    for (int i = 0; i < REPETITIONS; i++) launch(matmul, entry, algorithm, p);
    cuda_check(cudaEventRecord(matmul->stop, stream), "timing a matmul");
    cuda_check(cudaEventSynchronize(matmul->stop), "a matmul");
    float ms = 0.0f;
    cuda_check(cudaEventElapsedTime(&ms, matmul->start, matmul->stop), "timing a matmul");
    return ms / REPETITIONS;
}

static void autotune_entry(CudaMatmul *matmul, MatmulEntry *entry, const CudaGemm *p) {
    MatmulAlgorithm proposals[2 * PROPOSALS];
    float ms[2 * PROPOSALS];
    set_any_count(entry);
    int count = propose_all(matmul, entry, proposals), fastest = 0;
    set_count(entry, p->count);
    for (int i = 0; i < count; i++) ms[i] = INFINITY;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++) ms[i] = fminf(ms[i], time_of(matmul, entry, &proposals[i], p));
    for (int i = 1; i < count; i++)
        if (ms[i] < ms[fastest]) fastest = i;
    matmul_entry_set(entry, &proposals[fastest], true);
}

static void take_first_proposal(CudaMatmul *matmul, MatmulEntry *entry) {
    MatmulAlgorithm proposals[2 * PROPOSALS];
    set_any_count(entry);
    propose_all(matmul, entry, proposals);
    matmul_entry_set(entry, &proposals[0], false);
}

void cuda_multiply(Backend *be, const CudaGemm *p) {
    CudaMatmul *matmul = cuda_backend(be)->matmul;
    MatmulEntry *entry = entry_of(matmul, p);
    if (matmul->is_autotuning && !entry->timed) autotune_entry(matmul, entry, p);
    if (!entry->has_algorithm) take_first_proposal(matmul, entry);
    check_matmul(launch(matmul, entry, algorithm_for(matmul, entry, p->count), p), "multiplying", &entry->key);
}

/* ---- dense matmuls for optimizers ---- */

static void matmul_batched(Backend *be, const BatchedMatmul *p, void *d, const void *a, const void *b, const void *c) {
    CudaGemm matmul = {.input = p->type,
                       .output = p->type,
                       .m = p->m,
                       .n = p->n,
                       .k = p->k,
                       .transpose_a = p->transpose_a,
                       .transpose_b = p->transpose_b,
                       .alpha = p->alpha,
                       .beta = p->beta,
                       .d = d,
                       .a = a,
                       .b = b,
                       .c = c,
                       .batched = true,
                       .count = p->count};
    cuda_multiply(be, &matmul);
}

/* From compute capability 8.0 on, which the backend needs, tensor cores take both types. */
static bool multiplies(Backend *be, DType type) {
    (void)be, (void)type;
    return true;
}

static void tune(Backend *be, bool on) { cuda_backend(be)->matmul->is_autotuning = on; }

void cuda_enter_matmuls(Backend *be) {
    be->matmul_batched = matmul_batched;
    be->multiplies = multiplies;
    be->autotune = tune;
    be->write_algorithms = cuda_write_algorithms;
    be->read_algorithms = cuda_read_algorithms;
}

/* ---- opening ---- */

static char *versions_of(const CudaBackend *cuda) {
    int driver = 0;
    cuda_check(cudaDriverGetVersion(&driver), "asking for the driver's version");
    return format_string("%s, driver %d, cuBLASLt %zu", cuda->base.device, driver, cublasLtGetVersion());
}

CudaMatmul *cuda_matmul_open(CudaBackend *cuda) {
    CudaMatmul *matmul = checked_calloc(1, sizeof *matmul, "cuBLASLt");
    matmul->cuda = cuda;
    matmul->versions = versions_of(cuda);
    check_cublaslt(cublasLtCreate(&matmul->handle), "opening the library");
    check_cublaslt(cublasLtMatmulPreferenceCreate(&matmul->preference), "stating preferences");
    uint64_t bytes = WORKSPACE_BYTES;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    set_preference(matmul, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    set_preference(matmul, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    cuda_check(cudaMalloc(&matmul->workspace, WORKSPACE_BYTES), "taking cuBLASLt's workspace");
    cuda_check(cudaEventCreate(&matmul->start), "making an event");
    cuda_check(cudaEventCreate(&matmul->stop), "making an event");
    return matmul;
}

void cuda_matmul_close(CudaMatmul *matmul) {
    for (int i = 0; i < BUCKETS; i++)
        for (MatmulEntry *entry = matmul->buckets[i], *next; entry; entry = next) {
            next = entry->next;
            matmul_entry_free(entry);
        }
    check_cublaslt(cublasLtMatmulPreferenceDestroy(matmul->preference), "closing the library");
    check_cublaslt(cublasLtDestroy(matmul->handle), "closing the library");
    cuda_check(cudaEventDestroy(matmul->start), "ending an event");
    cuda_check(cudaEventDestroy(matmul->stop), "ending an event");
    cuda_check(cudaFree(matmul->workspace), "giving cuBLASLt's workspace back");
    free(matmul->versions);
    free(matmul);
}
