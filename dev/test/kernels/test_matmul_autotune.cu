/* test_matmul_autotune.cu: which algorithm multiplies on a GPU, real or emulated: choosing by timing, choices as text,
 * that only algorithms are taken that repeat bit for bit, and that each way in which a matmul can be made gives the
 * same numbers. What the matmuls should be is tested in test_kernels_matmul.c.
 *
 * The emulated library's algorithms differ in the last bits of their results, and events measure for each what the
 * emulator says, so there it is known which one is first and which one is fastest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/kernels/test_gpu.h"
#include "kernels/cuda/matmul_table.h"

static const DType types[] = {DTYPE_FLOAT32, DTYPE_BFLOAT16};

/* ---- tables ---- */

static Backend *table(DType type, bool allow_tf32) {
    BackendOptions options = {"cuda", type, 1, 0, allow_tf32};
    Error error;
    Backend *be = backend_open_with(&options, &error);
    if (!be) fail_msg("%s", error.text);
    return be;
}

/* ---- matmuls: one of each kind, of one set of arrays ---- */

/* Sizes that allow every epilogue, and sums that are long enough to differ when they are made in parts. */
enum { N = 48, IC = 1000, OC = 64, BATCH = 3, SIDE = 40, INNER = 504 };

typedef enum Kind {
    FORWARD,
    FORWARD_BIAS,
    GELU,
    GELU_BIAS,
    GELU_IN_PLACE,
    GELU_IN_PLACE_BIAS,
    BACKWARD_INPUT,
    BACKWARD_INPUT_GELU,
    BACKWARD_WEIGHT,
    BATCH_FLOAT32,
    BATCH_BFLOAT16,
    KINDS
} Kind;

enum { MAX_RESULTS = 2 * N * IC };

typedef struct Arrays {
    Backend *be;
    size_t shift; /* elements that each array begins after an aligned address */
    char *memory, *next;
} Arrays;

enum { ARRAYS_BYTES = 8 << 20 };

static Arrays arrays_open(Backend *be, size_t shift) {
    char *memory = (char *)be->alloc(be, ARRAYS_BYTES, "arrays of a test");
    return {be, shift, memory, memory};
}

static void arrays_close(Arrays *arrays) { arrays->be->free(arrays->be, arrays->memory); }

static void *array(Arrays *arrays, DType type, size_t n) {
    char *begin = arrays->next;
    arrays->next += round_up((int64_t)((n + arrays->shift) * dtype_size(type)), 256);
    assert_true(arrays->next <= arrays->memory + ARRAYS_BYTES);
    return begin + arrays->shift * dtype_size(type);
}

/* n numbers in [-1, 1), the same for each seed. */
static void *filled(Arrays *arrays, DType type, size_t n, uint32_t seed) {
    void *to = array(arrays, type, n);
    char *host = (char *)checked_malloc(n * dtype_size(type), "an array");
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float value = (float)(state >> 8) / (float)(1 << 23) - 1.0f;
        if (type == DTYPE_FLOAT32)
            ((float *)host)[i] = value;
        else
            ((bfloat16 *)host)[i] = bfloat16_from_float(value);
    }
    arrays->be->copy_from_host(arrays->be, to, host, n * dtype_size(type));
    free(host);
    return to;
}

/* Appends n numbers to the results. */
static void collect(Arrays *arrays, float *results, size_t *count, DType type, const void *from, size_t n) {
    char *host = (char *)checked_malloc(n * dtype_size(type), "a result");
    arrays->be->copy_to_host(arrays->be, host, from, n * dtype_size(type));
    assert_true(*count + n <= MAX_RESULTS);
    for (size_t i = 0; i < n; i++)
        results[(*count)++] = type == DTYPE_FLOAT32 ? ((float *)host)[i] : float_from_bfloat16(((bfloat16 *)host)[i]);
    free(host);
}

static size_t run_batch(Arrays *arrays, DType type, int count, float *results) {
    Backend *be = arrays->be;
    BatchedMatmul p = {type, count, SIDE, SIDE, INNER, false, true, 2.0f, 0.5f, false};
    void *x = filled(arrays, type, BATCH * SIDE * INNER, 7), *c = filled(arrays, type, BATCH * SIDE * SIDE, 8);
    void *d = array(arrays, type, BATCH * SIDE * SIDE);
    size_t n = 0;
    be->matmul_batched(be, &p, d, x, x, c);
    collect(arrays, results, &n, type, d, (size_t)count * SIDE * SIDE);
    return n;
}

static size_t run_layer(Arrays *arrays, Kind kind, float *results) {
    Backend *be = arrays->be;
    DType type = be->activation;
    void *in = filled(arrays, type, N * IC, 1), *weight = filled(arrays, type, OC * IC, 2);
    void *bias =
        kind == FORWARD_BIAS || kind == GELU_BIAS || kind == GELU_IN_PLACE_BIAS ? filled(arrays, type, OC, 3) : NULL;
    void *out = array(arrays, type, N * OC), *pre = array(arrays, type, N * OC);
    bool in_place = kind == GELU_IN_PLACE || kind == GELU_IN_PLACE_BIAS;
    size_t n = 0;
    if (kind == FORWARD || kind == FORWARD_BIAS) {
        be->matmul_forward(be, out, in, weight, bias, N, IC, OC);
    } else {
        be->matmul_activation_forward(be, ACTIVATION_GELU, out, in_place ? out : pre, in, weight, bias, N, IC, OC);
        if (!in_place) collect(arrays, results, &n, type, pre, N * OC);
    }
    collect(arrays, results, &n, type, out, N * OC);
    return n;
}

static size_t run_backward(Arrays *arrays, Kind kind, float *results) {
    Backend *be = arrays->be;
    DType type = be->activation;
    void *in = filled(arrays, type, N * IC, 1), *weight = filled(arrays, type, OC * IC, 2);
    void *dout = filled(arrays, type, N * OC, 4), *din = array(arrays, type, N * IC);
    float *dweight = (float *)array(arrays, DTYPE_FLOAT32, OC * IC);
    float *dbias = (float *)array(arrays, DTYPE_FLOAT32, OC);
    size_t n = 0;
    if (kind == BACKWARD_WEIGHT) {
        be->matmul_backward_weight(be, dweight, dbias, dout, in, N, IC, OC, false);
        collect(arrays, results, &n, DTYPE_FLOAT32, dweight, OC * IC);
        collect(arrays, results, &n, DTYPE_FLOAT32, dbias, OC);
    } else {
        if (kind == BACKWARD_INPUT_GELU)
            be->matmul_backward_activation(be, ACTIVATION_GELU, din, dout, weight, in, N, IC, OC);
        else
            be->matmul_backward_input(be, din, dout, weight, N, IC, OC);
        collect(arrays, results, &n, type, din, N * IC);
    }
    return n;
}

/* Makes the matmul and returns how many numbers it has. */
static size_t run_shifted(Backend *be, Kind kind, size_t shift, float *results) {
    Arrays arrays = arrays_open(be, shift);
    size_t n = kind == BATCH_FLOAT32    ? run_batch(&arrays, DTYPE_FLOAT32, BATCH, results)
               : kind == BATCH_BFLOAT16 ? run_batch(&arrays, DTYPE_BFLOAT16, BATCH, results)
               : kind >= BACKWARD_INPUT ? run_backward(&arrays, kind, results)
                                        : run_layer(&arrays, kind, results);
    arrays_close(&arrays);
    return n;
}

static size_t run(Backend *be, Kind kind, float *results) { return run_shifted(be, kind, 0, results); }

/* The same while algorithms are timed, which leaves the algorithm and a result. */
static size_t tune(Backend *be, Kind kind, float *results) {
    be->autotune(be, true);
    run(be, kind, results);
    be->autotune(be, false);
    return run(be, kind, results);
}

static bool equal(const float *a, const float *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

/* Room for two results and for what is between them. */
typedef struct Results {
    float first[MAX_RESULTS], second[MAX_RESULTS], third[MAX_RESULTS];
} Results;
static Results results;

/* ---- the table of matmuls ---- */

/* The entry of a table that has made one kind of matmul. */
static MatmulEntry *only_entry(Backend *be) {
    CudaMatmul *matmul = cuda_backend(be)->matmul;
    MatmulEntry *only = NULL;
    for (int i = 0; i < BUCKETS; i++)
        for (MatmulEntry *entry = matmul->buckets[i]; entry; entry = entry->next) {
            assert_null(only);
            only = entry;
        }
    assert_non_null(only);
    return only;
}

/* What write_algorithms() would give if this were the algorithm that was found to be fastest; the caller frees. */
static char *text_of(Backend *be, const MatmulAlgorithm *algorithm) {
    matmul_entry_set(only_entry(be), algorithm, true);
    return be->write_algorithms(be);
}

static uint32_t reduction_of(const cublasLtMatmulAlgo_t *algorithm) {
    uint32_t reduction = UINT32_MAX;
    size_t written = 0;
    assert_int_equal(cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                                                          sizeof reduction, &written),
                     CUBLAS_STATUS_SUCCESS);
    return reduction;
}

/* An algorithm with this way to add parts of sums that the library proposes for an entry's matmul, if there is one. */
static bool proposal_with(Backend *be, MatmulEntry *entry, uint32_t reduction, MatmulAlgorithm *algorithm) {
    CudaMatmul *matmul = cuda_backend(be)->matmul;
    cublasLtMatmulPreference_t preference;
    uint64_t workspace = 32 << 20;
    assert_int_equal(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                          &workspace, sizeof workspace),
                     CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulHeuristicResult_t proposals[16];
    int count = 0;
    assert_int_equal(cublasLtMatmulAlgoGetHeuristic(matmul->handle, entry->operation, entry->b, entry->a, entry->d,
                                                    entry->d, preference, 16, proposals, &count),
                     CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasLtMatmulPreferenceDestroy(preference), CUBLAS_STATUS_SUCCESS);
    for (int i = 0; i < count; i++) {
        if (reduction_of(&proposals[i].algo) != reduction) continue;
        algorithm->cublaslt = proposals[i].algo;
        algorithm->fused = entry->algorithm.fused;
        return true;
    }
    return false;
}

/* ---- tests ---- */

static void test_nothing_without_timing(void **state) {
    (void)state;
    need_gpu();
    Backend *be = table(DTYPE_BFLOAT16, false);
    for (int kind = 0; kind < KINDS; kind++) run(be, (Kind)kind, results.first);
    char *text = be->write_algorithms(be);
    assert_string_equal(text, "");
    Error error;
    assert_true(be->read_algorithms(be, text, &error));
    free(text);
    be->close(be);
}

/* All kinds of matmuls: as text, read by another table and written again. */
static void test_round_trip(void **state) {
    (void)state;
    need_gpu();
    for (DType type : types) {
        Backend *be = table(type, false), *other = table(type, false);
        for (int kind = 0; kind < KINDS; kind++) tune(be, (Kind)kind, results.first);
        char *text = be->write_algorithms(be);
        int lines = 0;
        for (const char *c = text; *c; c++) lines += *c == '\n';
        assert_int_equal(lines, 1 + KINDS + 1);
        assert_true(strncmp(text, be->device, strlen(be->device)) == 0);
        assert_string_equal(text + strlen(text) - 5, "\nend\n");
        Error error;
        if (!other->read_algorithms(other, text, &error)) fail_msg("%s", error.text);
        char *again = other->write_algorithms(other);
        assert_string_equal(again, text);
        for (int kind = 0; kind < KINDS; kind++) {
            size_t n = run(be, (Kind)kind, results.first);
            assert_int_equal(run(other, (Kind)kind, results.second), n);
            if (!equal(results.first, results.second, n)) fail_msg("matmul %d has other bits", kind);
        }
        free(again), free(text);
        be->close(be), other->close(other);
    }
}

/* A chosen algorithm is the one that runs, in the table that timed it and in one that read of it. */
static void test_algorithm_is_used(void **state) {
    (void)state;
    need_gpu();
    for (DType type : types) {
        Backend *first = table(type, false), *tuned = table(type, false), *told = table(type, false);
        size_t n = run(first, BACKWARD_WEIGHT, results.first);
        assert_int_equal(tune(tuned, BACKWARD_WEIGHT, results.second), n);
        if (is_emulated(first)) {
            assert_false(equal(results.first, results.second, n));
            assert_int_equal(reduction_of(&only_entry(tuned)->algorithm.cublaslt),
                             CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
        }
        assert_error_below(relative_error_float(results.second, results.first, n), 1e-6, "another algorithm");
        Error error;
        char *text = tuned->write_algorithms(tuned);
        assert_true(told->read_algorithms(told, text, &error));
        run(told, BACKWARD_WEIGHT, results.third);
        assert_true(equal(results.third, results.second, n));
        free(text);
        /* The first proposal as a text of its own: told so late it changes nothing where there is a choice, and is
         * taken where there was only a proposal. */
        text = text_of(first, &only_entry(first)->algorithm);
        assert_true(tuned->read_algorithms(tuned, text, &error));
        run(tuned, BACKWARD_WEIGHT, results.third);
        assert_true(equal(results.third, results.second, n));
        Backend *late = table(type, false);
        run(late, BACKWARD_WEIGHT, results.third);
        char *of_tuned = tuned->write_algorithms(tuned);
        assert_true(late->read_algorithms(late, of_tuned, &error));
        run(late, BACKWARD_WEIGHT, results.third);
        assert_true(equal(results.third, results.second, n));
        free(of_tuned), free(text);
        first->close(first), tuned->close(tuned), told->close(told), late->close(late);
    }
}

/* However the library proposes them. */
static void test_no_algorithm_that_does_not_repeat(void **state) {
    (void)state;
    need_gpu();
    for (DType type : types) {
        Backend *be = table(type, false);
        for (int kind = 0; kind < KINDS; kind++) tune(be, (Kind)kind, results.first);
        CudaMatmul *matmul = cuda_backend(be)->matmul;
        int entries = 0;
        for (int i = 0; i < BUCKETS; i++)
            for (MatmulEntry *entry = matmul->buckets[i]; entry; entry = entry->next, entries++) {
                MatmulAlgorithm proposal;
                assert_true(proposal_with(be, entry, CUBLASLT_REDUCTION_SCHEME_INPLACE, &proposal) || !is_emulated(be));
                uint32_t reduction = reduction_of(&entry->algorithm.cublaslt);
                bool in_parts = reduction == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
                assert_true(reduction == CUBLASLT_REDUCTION_SCHEME_NONE || (in_parts && !entry->key.batched));
            }
        assert_int_equal(entries, KINDS);
        be->close(be);
    }
}

/* Fails unless the table, which has nothing chosen, refuses the text and still has nothing. */
static void refuses(Backend *be, const char *text, const char *because) {
    Error error = {""};
    if (be->read_algorithms(be, text, &error)) fail_msg("accepted: %s", text);
    if (!strstr(error.text, because)) fail_msg("'%s' does not say '%s'", error.text, because);
    char *after = be->write_algorithms(be);
    assert_string_equal(after, "");
    free(after);
}

/* Of another GPU or version; cut off anywhere; with any character changed to what no line has there. */
static void test_texts_that_are_refused(void **state) {
    (void)state;
    need_gpu();
    Backend *be = table(DTYPE_BFLOAT16, false), *fresh = table(DTYPE_BFLOAT16, false);
    tune(be, GELU_BIAS, results.first), tune(be, BATCH_FLOAT32, results.first);
    char *text = be->write_algorithms(be), *damaged = checked_strdup(text);
    size_t length = strlen(text), first_line = strcspn(text, "\n");
    char *other = format_string("NVIDIA A9000, driver 1, cuBLASLt 2%s", text + first_line);
    refuses(fresh, other, "NVIDIA A9000, driver 1, cuBLASLt 2");
    refuses(fresh, other, be->device);
    for (size_t cut = 1; cut < length; cut++) {
        damaged[cut] = 0;
        refuses(fresh, damaged, "the matmul algorithms");
        damaged[cut] = text[cut];
    }
    for (size_t i = 0; i < length; i++)
        for (const char *change = "x-\n "; *change; change++) {
            if (text[i] == *change) continue;
            damaged[i] = *change;
            refuses(fresh, damaged, "the matmul algorithms");
            damaged[i] = text[i];
        }
    char *longer = format_string("%send\n", text);
    refuses(fresh, longer, "the matmul algorithms");
    refuses(fresh, "\n", "the matmul algorithms");
    Error error;
    assert_true(fresh->read_algorithms(fresh, damaged, &error));
    free(longer), free(other), free(damaged), free(text);
    be->close(be), fresh->close(fresh);
}

/* Algorithms that this library has not, and such as would not repeat. */
static void test_algorithms_that_are_refused(void **state) {
    (void)state;
    need_gpu();
    Backend *be = table(DTYPE_BFLOAT16, false), *fresh = table(DTYPE_BFLOAT16, false);
    run(be, BACKWARD_WEIGHT, results.first);
    MatmulAlgorithm algorithm = {};
    const uint32_t reductions[] = {CUBLASLT_REDUCTION_SCHEME_INPLACE, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE};
    for (uint32_t reduction : reductions) {
        if (!proposal_with(be, only_entry(be), reduction, &algorithm)) {
            assert_false(is_emulated(be));
            continue;
        }
        char *text = text_of(be, &algorithm);
        refuses(fresh, text, "no such algorithm");
        free(text);
    }
    memset(&algorithm.cublaslt, 0xff, sizeof algorithm.cublaslt);
    char *text = text_of(be, &algorithm);
    refuses(fresh, text, "no such algorithm");
    free(text);
    be->close(be), fresh->close(fresh);
}

/* The epilogue in the matmul or in a kernel after it: the same up to roundings. */
static void test_epilogues_in_kernels(void **state) {
    (void)state;
    need_gpu();
    for (DType type : types)
        for (int kind = 0; kind < BACKWARD_WEIGHT; kind++) {
            Backend *be = table(type, false);
            size_t n = run(be, (Kind)kind, results.first);
            MatmulEntry *entry = only_entry(be);
            bool has_epilogue = entry->key.epilogue != CUBLASLT_EPILOGUE_DEFAULT;
            if (is_emulated(be) && type == DTYPE_BFLOAT16) assert_int_equal(entry->algorithm.fused, has_epilogue);
            MatmulAlgorithm apart = entry->algorithm;
            apart.fused = false;
            if (matmul_algorithm_suits(cuda_backend(be)->matmul, entry, &apart)) {
                matmul_entry_set(entry, &apart, true);
                assert_int_equal(run(be, (Kind)kind, results.second), n);
                double limit = type == DTYPE_FLOAT32 ? 1e-5 : 8e-3;
                assert_error_below(relative_error_float(results.second, results.first, n), limit, "kernels");
            }
            be->close(be);
        }
}

/* Addresses that are aligned to no more than an element. */
static void test_unaligned(void **state) {
    (void)state;
    need_gpu();
    for (DType type : types) {
        Backend *be = table(type, false);
        for (int kind = 0; kind < KINDS; kind++) {
            size_t n = run(be, (Kind)kind, results.first);
            assert_int_equal(run_shifted(be, (Kind)kind, 1, results.second), n);
            bool is_float =
                kind == BACKWARD_WEIGHT || kind == BATCH_FLOAT32 || (type == DTYPE_FLOAT32 && kind != BATCH_BFLOAT16);
            assert_error_below(relative_error_float(results.second, results.first, n), is_float ? 1e-5 : 8e-3,
                               "unaligned arrays");
        }
        be->close(be);
    }
}

/* An algorithm that was timed for a batch of one size is that of all sizes. */
static void test_batches_share_an_algorithm(void **state) {
    (void)state;
    need_gpu();
    for (DType type : types) {
        Backend *be = table(DTYPE_FLOAT32, false);
        Kind kind = type == DTYPE_FLOAT32 ? BATCH_FLOAT32 : BATCH_BFLOAT16;
        tune(be, kind, results.first);
        const int counts[] = {1, 2, BATCH, 1};
        for (int count : counts) {
            Arrays arrays = arrays_open(be, 0);
            size_t n = run_batch(&arrays, type, count, results.second);
            assert_true(equal(results.second, results.first, n));
            arrays_close(&arrays);
        }
        /* One that could not make so many is not used, whoever says it was chosen. */
        MatmulEntry *entry = only_entry(be);
        MatmulAlgorithm in_parts;
        if (proposal_with(be, entry, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, &in_parts)) {
            matmul_entry_set(entry, &in_parts, true);
            size_t n = run(be, kind, results.second);
            assert_int_equal(reduction_of(&entry->current.cublaslt), CUBLASLT_REDUCTION_SCHEME_NONE);
            assert_error_below(relative_error_float(results.second, results.first, n), 8e-3, "another algorithm");
        }
        be->close(be);
    }
}

/* Off, float32 matmuls are float32; on, factors have 10 bits. */
static void test_tf32(void **state) {
    (void)state;
    need_gpu();
    Backend *be = table(DTYPE_FLOAT32, false), *fast = table(DTYPE_FLOAT32, true);
    const Kind kinds[] = {FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, BATCH_FLOAT32};
    for (Kind kind : kinds) {
        size_t n = run(be, kind, results.first);
        run(fast, kind, results.second);
        double error = relative_error_float(results.second, results.first, n);
        assert_true(error > 1e-5 && error < 2e-3);
    }
    be->close(be), fast->close(fast);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_without_timing),     cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_algorithm_is_used),          cmocka_unit_test(test_no_algorithm_that_does_not_repeat),
        cmocka_unit_test(test_texts_that_are_refused),     cmocka_unit_test(test_algorithms_that_are_refused),
        cmocka_unit_test(test_epilogues_in_kernels),       cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_batches_share_an_algorithm), cmocka_unit_test(test_tf32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
