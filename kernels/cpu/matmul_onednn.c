/* matmul_onednn.c: matrix products by oneDNN: the one file that knows it, in both its C interfaces, 2.x and 3.x.
 *
 * oneDNN compiles a kernel for each shape, which takes milliseconds, so kernels are kept in a list. Three things are
 * done for speed. A weight matrix is first packed into the layout that the kernel asks for, once after each change
 * of the weights, not at each product: row-major weights cost 15 %. A bfloat16 A that is stored transposed is first
 * laid out row by row (transpose.h), and its B packed: the product itself then runs twice as fast. And each thread
 * has its own memory objects and working memory, so that attention can run many small products side by side. */
#include "kernels/cpu/matmul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>

#include "kernels/cpu/huge_memory.h"
#include "kernels/cpu/transpose.h"

/* A memory layout is a struct in oneDNN 2 and a pointer to one in 3; as a pointer both read the same. */
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

/* What one thread needs to run a kernel. */
typedef struct Arguments {
    dnnl_memory_t a, b, c, scratch;
} Arguments;

/* Copies a factor from its stored layout into the one that the product takes. */
typedef struct Packing {
    dnnl_primitive_t reorder; /* NULL where the factor is taken as it is stored */
    dnnl_memory_t from, to;
    size_t bytes;
} Packing;

struct MatmulKernel {
    MatmulShape shape;
    dnnl_primitive_t product;
    bool straighten_a; /* A is stored (k,m) and is laid out as (m,k) first */
    Packing pack_b;
    Packed *packed; /* copies of B that are kept, for weights */
    size_t scratch_bytes;
    Arguments *arguments; /* one per thread that may run it */
    int argument_count;
    struct MatmulKernel *next;
};

struct Matmul {
    dnnl_engine_t engine;
    int threads;
    dnnl_stream_t *streams; /* one per thread */
    void **scratch;         /* one per thread, scratch_bytes each */
    size_t scratch_bytes;
    void *factors[2]; /* A and B as one product takes them, factor_bytes each */
    size_t factor_bytes[2];
    uint64_t generation; /* of the weights' contents */
    MatmulKernel *kernels;
};

static void check(dnnl_status_t status, const char *what) {
    if (status != dnnl_success) die("oneDNN: %s failed with status %d", what, (int)status);
}

static dnnl_data_type_t data_type(DType type) { return type == DTYPE_FLOAT32 ? dnnl_f32 : dnnl_bf16; }

/* A matrix of rows x columns; `stored` is the distance between stored rows, which are columns where transposed. */
static Layout layout_create(int64_t rows, int64_t columns, DType type, int64_t stored, bool transposed) {
    dnnl_dims_t sizes = {rows, columns}, strides = {transposed ? 1 : stored, transposed ? stored : 1};
#if DNNL_VERSION_MAJOR >= 3
    Layout layout;
    check(dnnl_memory_desc_create_with_strides(&layout, 2, sizes, data_type(type), strides), "a memory layout");
#else
    Layout layout = checked_malloc(sizeof *layout, "a memory layout");
    check(dnnl_memory_desc_init_by_strides(layout, 2, sizes, data_type(type), strides), "a memory layout");
#endif
    return layout;
}

/* A matrix in whatever layout suits the kernel. */
static Layout layout_create_any(int64_t rows, int64_t columns, DType type) {
    dnnl_dims_t sizes = {rows, columns};
#if DNNL_VERSION_MAJOR >= 3
    Layout layout;
    check(dnnl_memory_desc_create_with_tag(&layout, 2, sizes, data_type(type), dnnl_format_tag_any), "a layout");
#else
    Layout layout = checked_malloc(sizeof *layout, "a memory layout");
    check(dnnl_memory_desc_init_by_tag(layout, 2, sizes, data_type(type), dnnl_format_tag_any), "a memory layout");
#endif
    return layout;
}

static void layout_free(Layout layout) {
#if DNNL_VERSION_MAJOR >= 3
    check(dnnl_memory_desc_destroy(layout), "freeing a memory layout");
#else
    free(layout);
#endif
}

static void append_scaling(dnnl_post_ops_t after, float factor) {
#if DNNL_VERSION_MAJOR >= 3
    check(dnnl_post_ops_append_eltwise(after, dnnl_eltwise_linear, factor, 0.0f), "scaling the output");
#else
    check(dnnl_post_ops_append_eltwise(after, 1.0f, dnnl_eltwise_linear, factor, 0.0f), "scaling the output");
#endif
}

static void append_sum(dnnl_post_ops_t after, float factor) {
#if DNNL_VERSION_MAJOR >= 3
    check(dnnl_post_ops_append_sum(after, factor, 0, dnnl_data_type_undef), "adding to the output");
#else
    check(dnnl_post_ops_append_sum(after, factor), "adding to the output");
#endif
}

/* Sums, scaled by alpha, added to beta times what the output holds. */
static dnnl_primitive_attr_t attributes_create(float alpha, float beta) {
    dnnl_primitive_attr_t attributes;
    dnnl_post_ops_t after;
    check(dnnl_primitive_attr_create(&attributes), "creating attributes");
    check(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user), "setting scratchpad mode");
    check(dnnl_post_ops_create(&after), "creating post-ops");
    if (alpha != 1.0f) append_scaling(after, alpha);
    if (beta != 0.0f) append_sum(after, beta);
    check(dnnl_primitive_attr_set_post_ops(attributes, after), "setting post-ops");
    check(dnnl_post_ops_destroy(after), "freeing post-ops");
    return attributes;
}

/* The description of a product from its layouts; fails where oneDNN has no implementation for this machine. */
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
    check(dnnl_primitive_attr_destroy(attributes), "freeing attributes");
    return status;
}

static dnnl_memory_t memory_create(Matmul *matmul, ConstLayout layout) {
    dnnl_memory_t memory;
    check(dnnl_memory_create(&memory, layout, matmul->engine, DNNL_MEMORY_NONE), "creating a memory object");
    return memory;
}

static void packing_create(Packing *packing, Matmul *matmul, ConstLayout stored, ConstLayout wanted) {
    if (dnnl_memory_desc_equal(stored, wanted)) return;
    dnnl_primitive_desc_t description;
    check(dnnl_reorder_primitive_desc_create(&description, stored, matmul->engine, wanted, matmul->engine, NULL),
          "describing the packing of a matrix");
    check(dnnl_primitive_create(&packing->reorder, description), "creating the packing of a matrix");
    check(dnnl_primitive_desc_destroy(description), "freeing a description");
    packing->from = memory_create(matmul, stored);
    packing->to = memory_create(matmul, wanted);
    packing->bytes = dnnl_memory_desc_get_size(wanted);
}

static void packing_run(Packing *packing, Matmul *matmul, const void *from, void *to) {
    check(dnnl_memory_set_data_handle(packing->from, (void *)(uintptr_t)from), "setting an argument");
    check(dnnl_memory_set_data_handle(packing->to, to), "setting an argument");
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, packing->from}, {DNNL_ARG_TO, packing->to}};
    check(dnnl_primitive_execute(packing->reorder, matmul->streams[0], 2, arguments), "packing a matrix");
    check(dnnl_stream_wait(matmul->streams[0]), "packing a matrix");
}

static void packing_free(Packing *packing) {
    if (!packing->reorder) return;
    dnnl_primitive_destroy(packing->reorder);
    dnnl_memory_destroy(packing->from);
    dnnl_memory_destroy(packing->to);
}

static void *buffer_of(size_t bytes) {
    void *buffer = huge_memory(bytes);
    if (!buffer) die("out of memory: %zu bytes for a matrix product", bytes);
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

/* The kernel of a product that has been described; b is the layout that B is stored in. */
static MatmulKernel *kernel_from(Matmul *matmul, const MatmulShape *shape, dnnl_primitive_desc_t description,
                                 ConstLayout b, ConstLayout c) {
    MatmulKernel *kernel = checked_calloc(1, sizeof *kernel, "a matrix product");
    kernel->shape = *shape;
    check(dnnl_primitive_create(&kernel->product, description), "creating a matrix product");
    ConstLayout a_taken = dnnl_primitive_desc_query_md(description, dnnl_query_src_md, 0);
    ConstLayout b_taken = dnnl_primitive_desc_query_md(description, dnnl_query_weights_md, 0);
    ConstLayout scratch = dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    omp_set_num_threads(matmul->threads);
    packing_create(&kernel->pack_b, matmul, b, b_taken);
    kernel->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    kernel->argument_count = shape->one_thread ? matmul->threads : 1;
    kernel->arguments = checked_calloc((size_t)kernel->argument_count, sizeof *kernel->arguments, "a product");
    for (int i = 0; i < kernel->argument_count; i++)
        kernel->arguments[i] = (Arguments){memory_create(matmul, a_taken), memory_create(matmul, b_taken),
                                           memory_create(matmul, c), memory_create(matmul, scratch)};
    grow_scratch(matmul, kernel->scratch_bytes);
    return kernel;
}

/* NULL where oneDNN cannot multiply such matrices on this machine. */
static MatmulKernel *kernel_create(Matmul *matmul, const MatmulShape *shape) {
    MatmulKernel *kernel = NULL;
    bool straighten = shape->transpose_a && shape->input == DTYPE_BFLOAT16 && !shape->one_thread;
    Layout a = straighten ? layout_create(shape->m, shape->k, shape->input, shape->k, false)
                          : layout_create(shape->m, shape->k, shape->input, shape->lda, shape->transpose_a);
    Layout b = layout_create(shape->k, shape->n, shape->input, shape->ldb, shape->transpose_b);
    Layout c = layout_create(shape->m, shape->n, shape->output, shape->ldc, false);
    bool pack = straighten || shape->weights || shape->pack_b;
    Layout b_wanted = pack ? layout_create_any(shape->k, shape->n, shape->input) : b;
    dnnl_primitive_desc_t description;
    omp_set_num_threads(shape->one_thread ? 1 : matmul->threads);
    if (describe(&description, matmul->engine, a, b_wanted, c, shape->alpha, shape->beta) == dnnl_success) {
        kernel = kernel_from(matmul, shape, description, b, c);
        kernel->straighten_a = straighten;
        check(dnnl_primitive_desc_destroy(description), "freeing a description");
    }
    omp_set_num_threads(matmul->threads);
    if (b_wanted != b) layout_free(b_wanted);
    layout_free(a), layout_free(b), layout_free(c);
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
    dnnl_primitive_destroy(kernel->product);
    free(kernel->arguments);
    free(kernel);
}

Matmul *matmul_open(DType input, int threads, Error *error) {
    Matmul *matmul = checked_calloc(1, sizeof *matmul, "oneDNN");
    matmul->threads = threads;
    matmul->generation = 1;
    matmul->streams = checked_calloc((size_t)threads, sizeof *matmul->streams, "oneDNN");
    matmul->scratch = checked_calloc((size_t)threads, sizeof *matmul->scratch, "oneDNN");
    check(dnnl_engine_create(&matmul->engine, dnnl_cpu, 0), "creating an engine");
    for (int i = 0; i < threads; i++)
        check(dnnl_stream_create(&matmul->streams[i], matmul->engine, dnnl_stream_default_flags), "creating a stream");
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
    free(matmul->factors[0]);
    free(matmul->factors[1]);
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

bool matmul_has_fast_bfloat16(void) {
    int amx = dnnl_cpu_isa_avx512_core_amx;
    return ((int)dnnl_get_effective_cpu_isa() & amx) == amx;
}

/* The kernel of the list, or a new one; NULL where this machine has none. */
static MatmulKernel *kernel_or_null(Matmul *matmul, const MatmulShape *shape) {
    for (MatmulKernel *kernel = matmul->kernels; kernel; kernel = kernel->next)
        if (matmul_same_shape(&kernel->shape, shape)) return kernel;
    MatmulKernel *kernel = kernel_create(matmul, shape);
    if (!kernel) return NULL;
    kernel->next = matmul->kernels;
    return matmul->kernels = kernel;
}

MatmulKernel *matmul_kernel(Matmul *matmul, const MatmulShape *shape) {
    MatmulKernel *kernel = kernel_or_null(matmul, shape);
    if (!kernel)
        die("oneDNN has no product of %s matrices %lld x %lld and %lld x %lld for this processor",
            dtype_name(shape->input), (long long)shape->m, (long long)shape->k, (long long)shape->k,
            (long long)shape->n);
    return kernel;
}

/* Asked again, the trial is in the list, or oneDNN finds as quickly as before that there is none. */
bool matmul_multiplies(Matmul *matmul, DType input) {
    MatmulShape trial = matmul_dense(16, 16, 16, false, false, input, input);
    return kernel_or_null(matmul, &trial) != NULL;
}

/* The packed copy of the weights at b, made anew if the weights have changed since. A copy that a whole generation
 * passed by is reused: its matrix is no longer multiplied. */
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
        found->memory = buffer_of(kernel->pack_b.bytes);
        found->next = kernel->packed;
        kernel->packed = found;
    }
    found->source = b;
    found->generation = matmul->generation;
    packing_run(&kernel->pack_b, matmul, b, found->memory);
    return found->memory;
}

/* Memory for factor 0 (A) or 1 (B) in the layout that one product takes. */
static void *factor_memory(Matmul *matmul, int factor, size_t bytes) {
    if (bytes > matmul->factor_bytes[factor]) {
        free(matmul->factors[factor]);
        matmul->factors[factor] = buffer_of(bytes);
        matmul->factor_bytes[factor] = bytes;
    }
    return matmul->factors[factor];
}

static const void *straightened_a(Matmul *matmul, const MatmulShape *shape, const void *a) {
    void *straight = factor_memory(matmul, 0, (size_t)(shape->m * shape->k) * sizeof(bfloat16));
    transpose_16bit(straight, a, shape->k, shape->m, shape->lda, matmul->threads);
    return straight;
}

static const void *packed_b(Matmul *matmul, MatmulKernel *kernel, const void *b) {
    void *packed = factor_memory(matmul, 1, kernel->pack_b.bytes);
    packing_run(&kernel->pack_b, matmul, b, packed);
    return packed;
}

void matmul_run(Matmul *matmul, MatmulKernel *kernel, int thread, const void *a, const void *b, void *c) {
    if (!kernel->shape.one_thread) omp_set_num_threads(matmul->threads); /* another table may have changed it */
    if (kernel->straighten_a) a = straightened_a(matmul, &kernel->shape, a);
    if (kernel->pack_b.reorder)
        b = kernel->shape.weights ? packed_weights(matmul, kernel, b) : packed_b(matmul, kernel, b);
    Arguments *own = &kernel->arguments[thread];
    check(dnnl_memory_set_data_handle(own->a, (void *)(uintptr_t)a), "setting an argument");
    check(dnnl_memory_set_data_handle(own->b, (void *)(uintptr_t)b), "setting an argument");
    check(dnnl_memory_set_data_handle(own->c, c), "setting an argument");
    check(dnnl_memory_set_data_handle(own->scratch, matmul->scratch[thread]), "setting an argument");
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, own->a},
                                   {DNNL_ARG_WEIGHTS, own->b},
                                   {DNNL_ARG_DST, own->c},
                                   {DNNL_ARG_SCRATCHPAD, own->scratch}};
    check(dnnl_primitive_execute(kernel->product, matmul->streams[thread], 4, arguments), "a matrix product");
    check(dnnl_stream_wait(matmul->streams[thread]), "a matrix product");
}

void matmul_weights_changed(Matmul *matmul) { matmul->generation++; }
