/* matmul_onednn.c: matmuls by oneDNN, with its C interfaces 2.x and 3.x. No other file calls oneDNN.
 *
 * oneDNN compiles a kernel for each shape, which takes milliseconds, so kernels are kept in a list. Three things are
 * done for speed. A weight matrix is packed into the layout that the kernel prefers, once after each change of the
 * weights, not at each matmul: row-major weights cost 15 %. If a bfloat16 A is stored transposed, it is first laid out
 * row by row (transpose.h), and B is packed: the matmul itself then runs twice as fast. And each thread has its own
 * memory objects and working memory, so that attention can run many small matmuls in parallel.
 *
 * On processors without bfloat16 instructions oneDNN multiplies bfloat16 matrices three to hundreds of times more
 * slowly than float32 ones, or not at all. On some that have them it takes twice as long as for float32. On all those a
 * bfloat16 kernel widens: it converts A and B to float32, multiplies the copies, and rounds the result once (widen.h).
 * The float32 copies of a large matmul are made block by block, so that they take little memory. */
#include "kernels/cpu/matmul.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>

#include "kernels/cpu/huge_memory.h"
#include "kernels/cpu/transpose.h"
#include "kernels/cpu/widen.h"

/* The most rows and columns of C that one kernel computes from widened factors: enough for the full speed of a float32
 * matmul, and few enough that its copies stay at tens of megabytes. */
enum { WIDENED_BLOCK = 2048 };
/* A matmul of so few rows takes as long as reading B. B in bfloat16 has half the bytes, so even slow bfloat16
 * instructions are faster. */
enum { FEW_ROWS = 4 };

/* A memory layout is a struct in oneDNN 2 and a pointer to one in 3. These types are pointers in both. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t Layout;
typedef const_dnnl_memory_desc_t ConstLayout;
#else
typedef dnnl_memory_desc_t *Layout;
typedef const dnnl_memory_desc_t *ConstLayout;
#endif

typedef struct Packed {
    const void *source; /* the weights this was packed from */
    uint64_t generation;
    void *memory;
    struct Packed *next;
} Packed;

/* The memory objects with which one thread runs a kernel. */
typedef struct Arguments {
    dnnl_memory_t a, b, c, scratch;
} Arguments;

/* Copies a factor from its stored layout into the one that the matmul takes. */
typedef struct Packing {
    dnnl_primitive_t reorder; /* NULL if the matmul takes the factor as it is stored */
    dnnl_memory_t from, to;
    size_t bytes;
} Packing;

/* The copies that a kernel makes before or after its matmul, apart from kept weights. */
typedef enum Copy { COPY_OF_A, COPY_OF_B, PACKED_B, COPY_OF_C, COPIES } Copy;

struct MatmulKernel {
    MatmulShape shape;
    int threads; /* number of threads that share one matmul */
    dnnl_primitive_t matmul;
    char implementation[48]; /* oneDNN's name of it */
    bool in_blocks;          /* this kernel has no matmul: kernels of its blocks compute C (see WIDENED_BLOCK) */
    bool widens;             /* A and B are bfloat16; the matmul multiplies float32 copies of them */
    bool straighten_a;       /* A is stored (k,m) and is laid out as (m,k) first */
    Packing pack_b;
    Packed *packed; /* the kept copies of B, for weights */
    size_t scratch_bytes;
    size_t copies_at[COPIES]; /* offsets of widened copies in a thread's scratch, if the kernel runs on one thread */
    Arguments *arguments;     /* one for each thread that may run it */
    int argument_count;
    struct MatmulKernel *next;
};

/* The rate of oneDNN's bfloat16 matmuls on this processor, as a part of that of float32 ones: a tenth to a third
 * (integer instructions), a half, or at least the same. */
typedef enum Bfloat16Rate { BFLOAT16_TENTH, BFLOAT16_HALF, BFLOAT16_FULL } Bfloat16Rate;

struct Matmul {
    dnnl_engine_t engine;
    Bfloat16Rate bfloat16_rate;
    int threads;
    dnnl_stream_t *streams; /* one per thread */
    void **scratch;         /* one per thread, scratch_bytes each */
    size_t scratch_bytes;
    void *copies[COPIES]; /* for kernels that run on all threads, copy_bytes each */
    size_t copy_bytes[COPIES];
    uint64_t generation; /* of the weights' contents */
    MatmulKernel *kernels;
};

static void check_onednn(dnnl_status_t status, const char *what) {
    if (status != dnnl_success) die("oneDNN: %s failed with status %d", what, (int)status);
}

static dnnl_data_type_t data_type(DType type) { return type == DTYPE_FLOAT32 ? dnnl_f32 : dnnl_bf16; }

/* A matrix of rows x columns. `stored` is the distance between stored rows, which are its columns if transposed. */
static Layout layout_create(int64_t rows, int64_t columns, DType type, int64_t stored, bool transposed) {
    dnnl_dims_t sizes = {rows, columns}, strides = {transposed ? 1 : stored, transposed ? stored : 1};
#if DNNL_VERSION_MAJOR >= 3
    Layout layout;
    check_onednn(dnnl_memory_desc_create_with_strides(&layout, 2, sizes, data_type(type), strides), "a memory layout");
#else
    Layout layout = checked_malloc(sizeof *layout, "a memory layout");
    check_onednn(dnnl_memory_desc_init_by_strides(layout, 2, sizes, data_type(type), strides), "a memory layout");
#endif
    return layout;
}

/* A matrix in whatever layout suits the kernel. */
static Layout layout_create_any(int64_t rows, int64_t columns, DType type) {
    dnnl_dims_t sizes = {rows, columns};
#if DNNL_VERSION_MAJOR >= 3
    Layout layout;
    check_onednn(dnnl_memory_desc_create_with_tag(&layout, 2, sizes, data_type(type), dnnl_format_tag_any), "a layout");
#else
    Layout layout = checked_malloc(sizeof *layout, "a memory layout");
    check_onednn(dnnl_memory_desc_init_by_tag(layout, 2, sizes, data_type(type), dnnl_format_tag_any),
                 "a memory layout");
#endif
    return layout;
}

static void layout_free(Layout layout) {
#if DNNL_VERSION_MAJOR >= 3
    check_onednn(dnnl_memory_desc_destroy(layout), "freeing a memory layout");
#else
    free(layout);
#endif
}

static void append_scaling(dnnl_post_ops_t after, float factor) {
#if DNNL_VERSION_MAJOR >= 3
    check_onednn(dnnl_post_ops_append_eltwise(after, dnnl_eltwise_linear, factor, 0.0f), "scaling the output");
#else
    check_onednn(dnnl_post_ops_append_eltwise(after, 1.0f, dnnl_eltwise_linear, factor, 0.0f), "scaling the output");
#endif
}

static void append_sum(dnnl_post_ops_t after, float factor) {
#if DNNL_VERSION_MAJOR >= 3
    check_onednn(dnnl_post_ops_append_sum(after, factor, 0, dnnl_data_type_undef), "adding to the output");
#else
    check_onednn(dnnl_post_ops_append_sum(after, factor), "adding to the output");
#endif
}

/* alpha A.B + beta C, computed as alpha (A.B + (beta / alpha) C): on processors without AVX-512 oneDNN uses its scalar
 * reference loops for a matmul that is scaled before C is added. */
static dnnl_primitive_attr_t attributes_create(float alpha, float beta) {
    dnnl_primitive_attr_t attributes;
    dnnl_post_ops_t after;
    check_onednn(dnnl_primitive_attr_create(&attributes), "creating attributes");
    check_onednn(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user),
                 "setting scratchpad mode");
    check_onednn(dnnl_post_ops_create(&after), "creating post-ops");
    bool scale_last = isfinite(beta / alpha);
    if (alpha != 1.0f && !scale_last) append_scaling(after, alpha);
    if (beta != 0.0f) append_sum(after, scale_last ? beta / alpha : beta);
    if (alpha != 1.0f && scale_last) append_scaling(after, alpha);
    check_onednn(dnnl_primitive_attr_set_post_ops(attributes, after), "setting post-ops");
    check_onednn(dnnl_post_ops_destroy(after), "freeing post-ops");
    return attributes;
}

/* Describes a matmul by its layouts. Fails if oneDNN has no implementation for this machine. */
static dnnl_status_t describe(dnnl_primitive_desc_t *description, dnnl_engine_t engine, ConstLayout a, ConstLayout b,
                              ConstLayout c, float alpha, float beta) {
    dnnl_primitive_attr_t attributes = attributes_create(alpha, beta);
#if DNNL_VERSION_MAJOR >= 3
    dnnl_status_t status = dnnl_matmul_primitive_desc_create(description, engine, a, b, NULL, c, attributes);
#else
    dnnl_matmul_desc_t operation;
    dnnl_status_t status = dnnl_matmul_desc_init(&operation, a, b, NULL, c);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(description, &operation, attributes, engine, NULL);
#endif
    check_onednn(dnnl_primitive_attr_destroy(attributes), "freeing attributes");
    return status;
}

static dnnl_memory_t memory_create(Matmul *matmul, ConstLayout layout) {
    dnnl_memory_t memory;
    check_onednn(dnnl_memory_create(&memory, layout, matmul->engine, DNNL_MEMORY_NONE), "creating a memory object");
    return memory;
}

static void packing_create(Packing *packing, Matmul *matmul, ConstLayout stored, ConstLayout wanted) {
    if (dnnl_memory_desc_equal(stored, wanted)) return;
    dnnl_primitive_desc_t description;
    check_onednn(dnnl_reorder_primitive_desc_create(&description, stored, matmul->engine, wanted, matmul->engine, NULL),
                 "describing the packing of a matrix");
    check_onednn(dnnl_primitive_create(&packing->reorder, description), "creating the packing of a matrix");
    check_onednn(dnnl_primitive_desc_destroy(description), "freeing a description");
    packing->from = memory_create(matmul, stored);
    packing->to = memory_create(matmul, wanted);
    packing->bytes = dnnl_memory_desc_get_size(wanted);
}

static void packing_run(Packing *packing, Matmul *matmul, const void *from, void *to) {
    check_onednn(dnnl_memory_set_data_handle(packing->from, (void *)(uintptr_t)from), "setting an argument");
    check_onednn(dnnl_memory_set_data_handle(packing->to, to), "setting an argument");
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, packing->from}, {DNNL_ARG_TO, packing->to}};
    check_onednn(dnnl_primitive_execute(packing->reorder, matmul->streams[0], 2, arguments), "packing a matrix");
    check_onednn(dnnl_stream_wait(matmul->streams[0]), "packing a matrix");
}

static void packing_free(Packing *packing) {
    if (!packing->reorder) return;
    dnnl_primitive_destroy(packing->reorder);
    dnnl_memory_destroy(packing->from);
    dnnl_memory_destroy(packing->to);
}

static void *buffer_of(size_t bytes) {
    void *buffer = huge_memory(bytes);
    if (!buffer) die("out of memory: %zu bytes for a matmul", bytes);
    return buffer;
}

static void grow_scratch(Matmul *matmul, size_t bytes) {
    if (bytes <= matmul->scratch_bytes) return;
    matmul->scratch_bytes = (size_t)round_up((int64_t)bytes, 4096);
    for (int i = 0; i < matmul->threads; i++) {
        free(matmul->scratch[i]);
        matmul->scratch[i] = buffer_of(matmul->scratch_bytes);
    }
}

/* Returns how many threads run a kernel of this shape. oneDNN divides the work by this number; if OpenMP starts fewer
 * threads, a part of the work is not done. So it is a number that OpenMP does start: at most OMP_THREAD_LIMIT, and one
 * inside a parallel region. */
static int kernel_threads(const Matmul *matmul, const MatmulShape *shape) {
    if (shape->one_thread || omp_in_parallel() || omp_get_max_active_levels() < 1) return 1;
    return (int)min_i64(matmul->threads, omp_get_thread_limit());
}

/* Called before oneDNN makes or runs a kernel: another table may have set another number, and OMP_DYNAMIC lets OpenMP
 * start fewer threads. */
static void set_threads(int threads) {
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
}

/* Reserves memory for `count` floats at the offset *end; returns the offset where it begins. */
static size_t reserve(size_t *end, int64_t count) {
    size_t begin = (size_t)round_up((int64_t)*end, 64);
    *end = begin + (size_t)count * sizeof(float);
    return begin;
}

static const char *implementation_of(const_dnnl_primitive_desc_t description) {
    const char *name = NULL;
    check_onednn(dnnl_primitive_desc_query(description, dnnl_query_impl_info_str, 0, (void *)&name), "naming a matmul");
    return name;
}

/* Makes the kernel of a described matmul; b and c are the layouts in which B and C are stored. */
static MatmulKernel *kernel_from(Matmul *matmul, const MatmulShape *shape, dnnl_primitive_desc_t description,
                                 ConstLayout b, ConstLayout c) {
    MatmulKernel *kernel = checked_calloc(1, sizeof *kernel, "a matmul");
    kernel->shape = *shape;
    snprintf(kernel->implementation, sizeof kernel->implementation, "%s", implementation_of(description));
    check_onednn(dnnl_primitive_create(&kernel->matmul, description), "creating a matmul");
    ConstLayout a_taken = dnnl_primitive_desc_query_md(description, dnnl_query_src_md, 0);
    ConstLayout b_taken = dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 0);
    ConstLayout scratch = dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    packing_create(&kernel->pack_b, matmul, b, b_taken);
    kernel->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    kernel->argument_count = shape->one_thread ? matmul->threads : 1;
    kernel->arguments = checked_calloc((size_t)kernel->argument_count, sizeof *kernel->arguments, "a matmul");
    for (int i = 0; i < kernel->argument_count; i++)
        kernel->arguments[i] = (Arguments){memory_create(matmul, a_taken), memory_create(matmul, b_taken),
                                           memory_create(matmul, c), memory_create(matmul, scratch)};
    grow_scratch(matmul, kernel->scratch_bytes);
    return kernel;
}

static bool isa_includes(dnnl_cpu_isa_t isa) { return ((int)dnnl_get_effective_cpu_isa() & (int)isa) == (int)isa; }

/* Without bfloat16 instructions oneDNN uses integer instructions, at a tenth to a third of the float32 rate. Intel's
 * processors since Sapphire Rapids, which have arithmetic on float16, multiply bfloat16 fast by AMX alone: where a
 * virtual machine hides AMX, their other bfloat16 instructions reach half the float32 rate (dev/results/README.md). Of
 * other processors than x86-64 none was measured. */
static Bfloat16Rate bfloat16_rate(void) {
#if defined(__x86_64__)
    enum { FEATURES = 7, HAS_AVX512_FP16 = 1 << 23 };
    unsigned a, b, c, d;
    if (!isa_includes(dnnl_cpu_isa_avx512_core_bf16)) return BFLOAT16_TENTH;
    if (!isa_includes(dnnl_cpu_isa_avx512_core_amx) && __builtin_cpu_is("intel") &&
        __get_cpuid_count(FEATURES, 0, &a, &b, &c, &d) && (d & HAS_AVX512_FP16))
        return BFLOAT16_HALF;
#endif
    return BFLOAT16_FULL;
}

bool matmul_widens_bfloat16(const Matmul *matmul) { return matmul->bfloat16_rate != BFLOAT16_FULL; }

/* Whether oneDNN multiplies these bfloat16 matrices more slowly than float32 copies of them. "ref" begins the names of
 * its scalar loops. */
static bool is_slow_bfloat16(const Matmul *matmul, const MatmulShape *shape, const_dnnl_primitive_desc_t description) {
    if (strncmp(implementation_of(description), "ref", 3) == 0) return true;
    if (matmul->bfloat16_rate == BFLOAT16_HALF) return shape->m > FEW_ROWS;
    return matmul->bfloat16_rate == BFLOAT16_TENTH;
}

/* Makes a kernel that runs oneDNN on the matrices as they are. Returns NULL if oneDNN has no implementation for this
 * machine, or only a slow one for bfloat16. */
static MatmulKernel *direct_kernel(Matmul *matmul, const MatmulShape *shape, int threads) {
    MatmulKernel *kernel = NULL;
    bool straighten = shape->transpose_a && shape->input == DTYPE_BFLOAT16 && !shape->one_thread;
    Layout a = straighten ? layout_create(shape->m, shape->k, shape->input, shape->k, false)
                          : layout_create(shape->m, shape->k, shape->input, shape->lda, shape->transpose_a);
    Layout b = layout_create(shape->k, shape->n, shape->input, shape->ldb, shape->transpose_b);
    Layout c = layout_create(shape->m, shape->n, shape->output, shape->ldc, false);
    bool pack = straighten || shape->weights || shape->pack_b;
    Layout b_wanted = pack ? layout_create_any(shape->k, shape->n, shape->input) : b;
    dnnl_primitive_desc_t description;
    set_threads(threads);
    if (describe(&description, matmul->engine, a, b_wanted, c, shape->alpha, shape->beta) == dnnl_success) {
        if (shape->input == DTYPE_FLOAT32 || !is_slow_bfloat16(matmul, shape, description)) {
            kernel = kernel_from(matmul, shape, description, b, c);
            kernel->threads = threads;
            kernel->straighten_a = straighten;
        }
        check_onednn(dnnl_primitive_desc_destroy(description), "freeing a description");
    }
    if (b_wanted != b) layout_free(b_wanted);
    layout_free(a), layout_free(b), layout_free(c);
    return kernel;
}

/* Makes a kernel that multiplies float32 copies of bfloat16 matrices. Returns NULL as direct_kernel() does. */
static MatmulKernel *widening_kernel(Matmul *matmul, const MatmulShape *shape, int threads) {
    MatmulShape wide = *shape;
    wide.input = wide.output = DTYPE_FLOAT32;
    wide.lda = shape->transpose_a ? shape->m : shape->k;
    wide.ldb = shape->transpose_b ? shape->k : shape->n;
    if (shape->output == DTYPE_BFLOAT16) wide.ldc = shape->n, wide.beta = 0.0f; /* C is added when rounding */
    MatmulKernel *kernel = direct_kernel(matmul, &wide, threads);
    if (!kernel) return NULL;
    kernel->shape = *shape;
    kernel->widens = true;
    if (shape->one_thread) {
        size_t end = kernel->scratch_bytes;
        kernel->copies_at[COPY_OF_A] = reserve(&end, shape->m * shape->k);
        kernel->copies_at[COPY_OF_B] = reserve(&end, shape->k * shape->n);
        kernel->copies_at[COPY_OF_C] = reserve(&end, shape->output == DTYPE_BFLOAT16 ? shape->m * shape->n : 0);
        grow_scratch(matmul, end);
    }
    return kernel;
}

/* Returns NULL if oneDNN cannot multiply these matrices on this machine. */
static MatmulKernel *kernel_create(Matmul *matmul, const MatmulShape *shape, int threads) {
    assert(!(shape->one_thread && (shape->weights || shape->pack_b))); /* threads share packed matrices */
    MatmulKernel *kernel = direct_kernel(matmul, shape, threads);
    if (kernel || shape->input == DTYPE_FLOAT32) return kernel;
    if (shape->one_thread || (shape->m <= WIDENED_BLOCK && shape->n <= WIDENED_BLOCK))
        return widening_kernel(matmul, shape, threads);
    kernel = checked_calloc(1, sizeof *kernel, "a matmul");
    kernel->shape = *shape;
    kernel->threads = threads;
    kernel->in_blocks = true;
    return kernel;
}

static void kernel_free(MatmulKernel *kernel) {
    for (int i = 0; i < kernel->argument_count; i++) {
        Arguments *arguments = &kernel->arguments[i];
        dnnl_memory_destroy(arguments->a), dnnl_memory_destroy(arguments->b);
        dnnl_memory_destroy(arguments->c), dnnl_memory_destroy(arguments->scratch);
    }
    for (Packed *packed = kernel->packed, *next; packed; packed = next) {
        next = packed->next;
        free(packed->memory);
        free(packed);
    }
    packing_free(&kernel->pack_b);
    if (!kernel->in_blocks) dnnl_primitive_destroy(kernel->matmul);
    free(kernel->arguments);
    free(kernel);
}

Matmul *matmul_open(DType input, int threads, Error *error) {
    Matmul *matmul = checked_calloc(1, sizeof *matmul, "oneDNN");
    matmul->bfloat16_rate = bfloat16_rate();
    matmul->threads = threads;
    matmul->generation = 1;
    matmul->streams = checked_calloc((size_t)threads, sizeof *matmul->streams, "oneDNN");
    matmul->scratch = checked_calloc((size_t)threads, sizeof *matmul->scratch, "oneDNN");
    check_onednn(dnnl_engine_create(&matmul->engine, dnnl_cpu, 0), "creating an engine");
    for (int i = 0; i < threads; i++)
        check_onednn(dnnl_stream_create(&matmul->streams[i], matmul->engine, dnnl_stream_default_flags),
                     "creating a stream");
    if (!matmul_multiplies(matmul, input)) {
        matmul_close(matmul);
        error_set(error, "%s cannot multiply %s matrices on this processor; use precision float32", matmul_library(),
                  dtype_name(input));
        return NULL;
    }
    return matmul;
}

void matmul_close(Matmul *matmul) {
    for (MatmulKernel *kernel = matmul->kernels, *next; kernel; kernel = next) {
        next = kernel->next;
        kernel_free(kernel);
    }
    for (int i = 0; i < matmul->threads; i++) {
        dnnl_stream_destroy(matmul->streams[i]);
        free(matmul->scratch[i]);
    }
    dnnl_engine_destroy(matmul->engine);
    for (int i = 0; i < COPIES; i++) free(matmul->copies[i]);
    free(matmul->streams);
    free(matmul->scratch);
    free(matmul);
}

const char *matmul_library(void) {
    static char name[32];
    const dnnl_version_t *version = dnnl_version();
    snprintf(name, sizeof name, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    return name;
}

bool matmul_has_fast_bfloat16(void) { return isa_includes(dnnl_cpu_isa_avx512_core_amx); }

/* Returns the kernel of the list, or a new one; NULL if this machine has none. */
static MatmulKernel *kernel_or_null(Matmul *matmul, const MatmulShape *shape) {
    int threads = kernel_threads(matmul, shape);
    for (MatmulKernel *kernel = matmul->kernels; kernel; kernel = kernel->next)
        if (matmul_same_shape(&kernel->shape, shape) && kernel->threads == threads) return kernel;
    MatmulKernel *kernel = kernel_create(matmul, shape, threads);
    if (!kernel) return NULL;
    kernel->next = matmul->kernels;
    return matmul->kernels = kernel;
}

MatmulKernel *matmul_kernel(Matmul *matmul, const MatmulShape *shape) {
    MatmulKernel *kernel = kernel_or_null(matmul, shape);
    if (!kernel)
        die("oneDNN has no matmul of %s matrices %" PRId64 " x %" PRId64 " and %" PRId64 " x %" PRId64
            " for this processor",
            dtype_name(shape->input), shape->m, shape->k, shape->k, shape->n);
    return kernel;
}

/* Calling this again is cheap: the kernel is in the list, or oneDNN quickly finds that it has none. */
bool matmul_multiplies(Matmul *matmul, DType input) {
    MatmulShape trial = matmul_dense(16, 16, 16, false, false, input, input);
    return kernel_or_null(matmul, &trial) != NULL;
}

/* Returns memory for one of a kernel's copies: the thread's own memory if the kernel runs on one thread. */
static void *copy_memory(Matmul *matmul, const MatmulKernel *kernel, int thread, Copy which, size_t bytes) {
    if (kernel->shape.one_thread) return (char *)matmul->scratch[thread] + kernel->copies_at[which];
    if (bytes > matmul->copy_bytes[which]) {
        free(matmul->copies[which]);
        matmul->copies[which] = buffer_of(bytes);
        matmul->copy_bytes[which] = bytes;
    }
    return matmul->copies[which];
}

static size_t widened_b_bytes(const MatmulShape *s) { return (size_t)(s->k * s->n) * sizeof(float); }

static void widen_b(const MatmulKernel *kernel, float *to, const void *b) {
    const MatmulShape *s = &kernel->shape;
    widen_matrix(to, b, s->transpose_b ? s->n : s->k, s->transpose_b ? s->k : s->n, s->ldb, kernel->threads);
}

/* Writes B, widened and packed as the kernel needs it, to `to`. */
static void fill_packed(Matmul *matmul, MatmulKernel *kernel, const void *b, void *to) {
    if (kernel->widens) {
        bool packs = kernel->pack_b.reorder;
        float *wide = packs ? copy_memory(matmul, kernel, 0, COPY_OF_B, widened_b_bytes(&kernel->shape)) : to;
        widen_b(kernel, wide, b);
        if (!packs) return;
        b = wide;
    }
    packing_run(&kernel->pack_b, matmul, b, to);
}

/* Returns the packed copy of the weights at b, and packs them again if they have changed. If a copy was not used for a
 * whole generation, its memory is reused: its matrix is no longer multiplied. */
static void *packed_weights(Matmul *matmul, MatmulKernel *kernel, const void *b) {
    Packed *found = NULL;
    for (Packed *packed = kernel->packed; packed; packed = packed->next) {
        if (packed->source == b) {
            if (packed->generation == matmul->generation) return packed->memory;
            found = packed;
            break;
        }
        if (packed->generation + 1 < matmul->generation) found = packed;
    }
    if (!found) {
        found = checked_malloc(sizeof *found, "packed weights");
        found->memory = buffer_of(kernel->pack_b.reorder ? kernel->pack_b.bytes : widened_b_bytes(&kernel->shape));
        found->next = kernel->packed;
        kernel->packed = found;
    }
    found->source = b;
    found->generation = matmul->generation;
    fill_packed(matmul, kernel, b, found->memory);
    return found->memory;
}

/* Returns A as the matmul takes it: A itself or a converted copy. */
static const void *taken_a(Matmul *matmul, MatmulKernel *kernel, int thread, const void *a) {
    const MatmulShape *s = &kernel->shape;
    size_t size = (size_t)(s->m * s->k);
    if (kernel->straighten_a) {
        void *straight = copy_memory(matmul, kernel, thread, COPY_OF_A, size * sizeof(bfloat16));
        transpose_16bit(straight, a, s->k, s->m, s->lda, matmul->threads);
        return straight;
    }
    if (kernel->widens) {
        float *wide = copy_memory(matmul, kernel, thread, COPY_OF_A, size * sizeof(float));
        widen_matrix(wide, a, s->transpose_a ? s->k : s->m, s->transpose_a ? s->m : s->k, s->lda, kernel->threads);
        return wide;
    }
    return a;
}

/* Returns B as the matmul takes it: B itself or a converted copy. */
static const void *taken_b(Matmul *matmul, MatmulKernel *kernel, int thread, const void *b) {
    if (!kernel->pack_b.reorder && !kernel->widens) return b;
    if (kernel->shape.weights) return packed_weights(matmul, kernel, b);
    void *copy = kernel->pack_b.reorder
                     ? copy_memory(matmul, kernel, thread, PACKED_B, kernel->pack_b.bytes)
                     : copy_memory(matmul, kernel, thread, COPY_OF_B, widened_b_bytes(&kernel->shape));
    fill_packed(matmul, kernel, b, copy);
    return copy;
}

static void run_matmul(Matmul *matmul, MatmulKernel *kernel, int thread, const void *a, const void *b, void *c) {
    Arguments *own = &kernel->arguments[thread];
    check_onednn(dnnl_memory_set_data_handle(own->a, (void *)(uintptr_t)a), "setting an argument");
    check_onednn(dnnl_memory_set_data_handle(own->b, (void *)(uintptr_t)b), "setting an argument");
    check_onednn(dnnl_memory_set_data_handle(own->c, c), "setting an argument");
    check_onednn(dnnl_memory_set_data_handle(own->scratch, matmul->scratch[thread]), "setting an argument");
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, own->a},
                                   {DNNL_ARG_WEIGHTS, own->b},
                                   {DNNL_ARG_DST, own->c},
                                   {DNNL_ARG_SCRATCHPAD, own->scratch}};
    check_onednn(dnnl_primitive_execute(kernel->matmul, matmul->streams[thread], 4, arguments), "a matmul");
    check_onednn(dnnl_stream_wait(matmul->streams[thread]), "a matmul");
}

/* Splits a dimension into equal parts of at most `limit`; returns their length. */
static int64_t even_part(int64_t size, int64_t limit) { return round_up(ceil_div(size, ceil_div(size, limit)), 64); }

/* Computes each block of C with its own kernel, so that the widened copies stay small. */
static void run_in_blocks(Matmul *matmul, const MatmulShape *s, const bfloat16 *a, const bfloat16 *b, char *c) {
    int64_t rows = even_part(s->m, WIDENED_BLOCK), columns = even_part(s->n, WIDENED_BLOCK);
    for (int64_t column = 0; column < s->n; column += columns)
        for (int64_t row = 0; row < s->m; row += rows) {
            MatmulShape block = *s;
            block.m = min_i64(rows, s->m - row), block.n = min_i64(columns, s->n - column);
            matmul_run(matmul, matmul_kernel(matmul, &block), 0, a + row * (s->transpose_a ? 1 : s->lda),
                       b + column * (s->transpose_b ? s->ldb : 1),
                       c + (size_t)(row * s->ldc + column) * dtype_size(s->output));
        }
}

void matmul_run(Matmul *matmul, MatmulKernel *kernel, int thread, const void *a, const void *b, void *c) {
    const MatmulShape *s = &kernel->shape;
    if (kernel->in_blocks) {
        run_in_blocks(matmul, s, a, b, c);
        return;
    }
    set_threads(kernel->threads);
    a = taken_a(matmul, kernel, thread, a);
    b = taken_b(matmul, kernel, thread, b);
    if (kernel->widens && s->output == DTYPE_BFLOAT16) {
        float *sums = copy_memory(matmul, kernel, thread, COPY_OF_C, (size_t)(s->m * s->n) * sizeof *sums);
        run_matmul(matmul, kernel, thread, a, b, sums);
        narrow_matrix(c, sums, s->m, s->n, s->ldc, s->beta, kernel->threads);
    } else {
        run_matmul(matmul, kernel, thread, a, b, c);
    }
}

void matmul_invalidate_weights(Matmul *matmul) { matmul->generation++; }
