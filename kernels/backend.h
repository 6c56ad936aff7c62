/* backend.h: the table of operations that a device has for GPT-2.
 *
 * The model calls be->norm_forward(be, ...), whatever the device. kernels/cpu and kernels/cuda each fill a table for
 * two activation types, float32 and bfloat16. The optimizers in optim/ use the table for memory and matmuls only.
 *
 * Notation. B sequences of T tokens, N = B*T rows, C channels, NH heads of size HS = C/NH, V vocabulary entries,
 * VP >= V the padded row length of logits. Matrices are row-major. A `void *` is an array of the table's activation
 * type; other arrays have the type that is written. All pointers are device pointers unless a line says host.
 *
 * Numerics are the same everywhere: arithmetic and sums in float32, rounded once when a result is stored. Parameter
 * gradients are float32. `accumulate` false overwrites a gradient, true adds to it, so the first micro-step of a step
 * needs no zeroing. Results have the same bits each time: no operation depends on the order of threads. CPU backends
 * divide work by their `threads`, however many OpenMP starts; with another value the last bits may differ.
 *
 * On a GPU, functions return when their operation is enqueued. Operations run one after the other, and each sees the
 * results of those before it. copy_to_host() and synchronize() wait for them. Errors of a device end the program. */
#ifndef MARS_KERNELS_BACKEND_H
#define MARS_KERNELS_BACKEND_H

#include "kernels/dropout.h"
#include "kernels/layer_kinds.h"
#include "util/arena.h"
#include "util/base.h"
#include "util/dtype.h"

EXTERN_C_BEGIN

typedef struct Backend Backend;

/* Matmuls of `count` pairs of matrices of one shape. Their type may differ from the table's:
 *   d[i] = alpha op(a[i]) . op(b[i]) + beta c[i]        op(a) (m,k), op(b) (k,n), c and d (m,n)
 * With transpose_a a is stored (k,m), with transpose_b b is stored (n,k). Matrices are dense and lie one after another.
 * symmetric: the caller knows that each d[i] is symmetric (m = n), like a a^T, or a a + c if a and c are. The device
 * may then compute one half of it and copy that to the other half. */
typedef struct BatchedMatmul {
    DType type;
    int count;
    int64_t m, n, k;
    bool transpose_a, transpose_b;
    float alpha, beta;
    bool symmetric;
} BatchedMatmul;

/* A norm over N rows of C numbers. */
typedef struct NormShape {
    NormKind kind;
    float eps;
    int N, C;
} NormShape;

/* The readings of a GPU's sensors. NAN means that the value is not known. */
typedef struct DeviceSensors {
    double watts, mhz, celsius; /* mhz: the clock of its multiprocessors */
    bool has_throttle;          /* `throttle` is known */
    char throttle[80];          /* the reasons why it runs slower, as "power cap, thermal"; "" for none */
} DeviceSensors;

typedef enum Stopwatch { STOPWATCH_GRADIENT, STOPWATCH_OPTIMIZER, STOPWATCH_COUNT } Stopwatch;

struct Backend {
    char name[32];       /* "cpu-float32" */
    char device[128];    /* the processor's or GPU's name, for people */
    DType activation;    /* the type of what every void * below points to */
    int threads;         /* CPU threads per process */
    int memory_sharers;  /* ranks among which the device's memory is divided (backend_share_memory()); 1 at first */
    bool on_gpu;         /* pointers point to a GPU's memory: host code must not follow them */
    bool is_host_memory; /* the host could follow them: on CPUs, and with an emulated GPU */
    void *stream;        /* the cudaStream_t of all operations on a GPU; NULL on CPUs */
    double peak_flops;   /* FLOP/s of matmuls in the activation type as the maker states it; 0 = not known */
    int logit_rows;      /* rows of logits that a caller should compute at a time */
    /* matmul_batched() multiplies the matrices of a batch in parallel if each needs at most this many multiplications
     * (m n k), else one after the other. */
    int64_t side_by_side_work;

    /* ---- memory ---- */

    /* Returns zeroed device memory, aligned to 256 bytes (on CPUs 4096), which the caller frees with be->free(). If
     * there is not enough, ends the program with a message that names `what`. */
    void *(*alloc)(Backend *be, size_t bytes, const char *what);
    void (*free)(Backend *be, void *memory);
    /* Bytes that alloc() can still return to this rank; SIZE_MAX = not known. The free memory is divided equally among
     * memory_sharers ranks, so all of them must call this before any of them allocates. */
    size_t (*memory_left)(Backend *be);
    /* On return the caller may overwrite or free `host`. */
    void (*copy_from_host)(Backend *be, void *device, const void *host, size_t bytes);
    void (*copy_to_host)(Backend *be, void *host, const void *device, size_t bytes); /* returns when host holds it */
    void (*copy)(Backend *be, void *to, const void *from, size_t bytes);
    void (*zero)(Backend *be, void *memory, size_t bytes);
    void (*synchronize)(Backend *be);

    /* The same as copy_from_host, but in parallel with the operations that are enqueued after it: to copy the next
     * batch while the current one is computed. Operations enqueued after wait_for_copies() see the copies. */
    void (*copy_from_host_async)(Backend *be, void *device, const void *host, size_t bytes);
    void (*wait_for_copies)(Backend *be);

    /* Stopwatches measure time on the device: the sum of all intervals between a start and the next stop. Starts and
     * stops are enqueued like operations. Reading a stopwatch waits for them. */
    void (*stopwatch_start)(Backend *be, Stopwatch which);
    void (*stopwatch_stop)(Backend *be, Stopwatch which);
    double (*stopwatch_seconds)(Backend *be, Stopwatch which);

    /* A profiler shows the work of this thread between the two calls, and the operations that it enqueues, under
     * `name`. Ranges nest. CPU backends ignore both calls. */
    void (*range_begin)(Backend *be, const char *name);
    void (*range_end)(Backend *be);

    /* Reads the GPU's sensors, which may take milliseconds. On CPUs returns false and leaves *sensors as it is. */
    bool (*read_sensors)(Backend *be, DeviceSensors *sensors);

    /* out[i] = in[i], rounded to the activation type. */
    void (*to_activation)(Backend *be, void *out, const float *in, size_t n);

    /* Must be called after weights have changed (optimizer step, load): drops the backend's copies of them. CPU
     * backends with oneDNN keep packed copies for matmuls; GPUs keep nothing. */
    void (*invalidate_weights)(Backend *be);

    /* out[i] = factor * in[i].   out may be in */
    void (*scale)(Backend *be, void *out, const void *in, float factor, size_t n);

    /* ---- embedding ---- */

    /* out (B,T,C) = wte[tokens] + wpe[0..T).   tokens (B,T), wte (V,C), wpe (>=T,C) or NULL for none */
    void (*embedding_forward)(Backend *be, void *out, const int32_t *tokens, const void *wte, const void *wpe, int B,
                              int T, int C);
    /* dwte[tokens] += dout;  dwpe[t] = (accumulate ? dwpe[t] : 0) + sum over b of dout.   dwte (V,C), dwpe (T,C) or
     * NULL. dwte is always added to: it already holds the gradient of a tied LM head, or zeros. */
    void (*embedding_backward)(Backend *be, float *dwte, float *dwpe, const void *dout, const int32_t *tokens, int B,
                               int T, int C, int V, bool accumulate);

    /* ---- norms (layer_kinds.h) over the rows of x (N,C) ---- */

    /* out (N,C) = norm(x).   weight (C) or NULL for gains of 1, bias (C) or NULL for none. Writes mean and rstd (N),
     * which the backward pass reads. With RMSNorm mean is not used and may be NULL. */
    void (*norm_forward)(Backend *be, const NormShape *norm, void *out, float *mean, float *rstd, const void *x,
                         const void *weight, const void *bias);
    /* sum = x + delta (rounded to the activation type); out = norm(sum).   One pass over memory.
     * sum may be x or delta itself. */
    void (*residual_norm_forward)(Backend *be, const NormShape *norm, void *sum, void *out, float *mean, float *rstd,
                                  const void *x, const void *delta, const void *weight, const void *bias);
    /* dx += the gradient of x (dx already holds the residual stream's).   dx, dout, x (N,C); dweight, dbias (C).
     * dweight is NULL if weight is NULL, dbias if the norm has no bias. */
    void (*norm_backward)(Backend *be, const NormShape *norm, void *dx, float *dweight, float *dbias, const void *dout,
                          const void *x, const void *weight, const float *mean, const float *rstd, bool accumulate);

    /* ---- linear layers; weight is (OC,IC) as in nn.Linear ---- */

    /* out (N,OC) = in (N,IC) . weight^T + bias.   bias (OC) or NULL */
    void (*matmul_forward)(Backend *be, void *out, const void *in, const void *weight, const void *bias, int N, int IC,
                           int OC);
    /* pre = in . weight^T + bias;  out = activation(pre) (layer_kinds.h).
     * pre (N,OC) is kept for the backward pass. out may be pre itself if no backward pass follows. */
    void (*matmul_activation_forward)(Backend *be, ActivationKind activation, void *out, void *pre, const void *in,
                                      const void *weight, const void *bias, int N, int IC, int OC);
    /* din (N,IC) = dout (N,OC) . weight. */
    void (*matmul_backward_input)(Backend *be, void *din, const void *dout, const void *weight, int N, int IC, int OC);
    /* din (N,IC) = (dout (N,OC) . weight) times the derivative of the activation at pre (N,IC): the gradient of pre. */
    void (*matmul_backward_activation)(Backend *be, ActivationKind activation, void *din, const void *dout,
                                       const void *weight, const void *pre, int N, int IC, int OC);
    /* dweight (OC,IC) (+)= dout^T . in;  dbias (OC or NULL) (+)= column sums of dout. (+)= adds only if
     * `accumulate`. */
    void (*matmul_backward_weight)(Backend *be, float *dweight, float *dbias, const void *dout, const void *in, int N,
                                   int IC, int OC, bool accumulate);

    /* ---- queries and keys: QK-norm (Henry et al. 2020) and rotary positions (Su et al. 2021), in place ---- */

    /* Changes each head of q and k in qkv (B,T,3C), not v. If rstd (B,T,2,NH) is not NULL, multiplies the head by
     * 1/sqrt(mean(q^2) + eps) over its HS elements, and stores this factor in rstd, queries before keys. Then, if
     * rotation (>=T,HS/2,2) is not NULL, with i < HS/2 and {cos, sin} = rotation[t][i]:
     *   (q[i], q[i + HS/2]) = (q[i] cos + q[i + HS/2] sin, q[i + HS/2] cos - q[i] sin). */
    void (*qk_norm_rope_forward)(Backend *be, void *qkv, float *rstd, const float *rotation, float eps, int B, int T,
                                 int C, int NH);
    /* Changes dqkv from the gradient of the forward pass's outputs to that of its inputs. qkv holds the outputs. The
     * norm needs no inputs: a rotation does not change the inner products in the norm's gradient. */
    void (*qk_norm_rope_backward)(Backend *be, void *dqkv, const void *qkv, const float *rstd, const float *rotation,
                                  int B, int T, int C, int NH);

    /* ---- dropout (dropout.h) ---- */

    /* out[i] = in[i]/(1 - rate) or 0, as the mask of its sequence says for element i.   in and out (B,n), which may be
     * the same. The backward pass is the same call on gradients. */
    void (*dropout)(Backend *be, const Dropout *dropout, void *out, const void *in, int B, size_t n);

    /* ---- causal self-attention (Vaswani et al. 2017), blocked as in FlashAttention (Dao et al. 2022) ---- */

    /* qkv (B,T,3C): query, key and value of each token, heads side by side in each.   out (B,T,C).
     * out = softmax(scale Q K^T, keys <= query) V for each head; lse (B,NH,T) = log of the softmax's denominator,
     * kept for the backward pass. `dropout` (NULL for none) drops values of the softmax after their division by the
     * denominator. */
    void (*attention_forward)(Backend *be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH,
                              float scale, const Dropout *dropout);
    /* Overwrites dqkv (B,T,3C) with the gradient of qkv. dout (B,T,C); the rest is as in the forward pass. */
    void (*attention_backward)(Backend *be, void *dqkv, const void *dout, const void *qkv, const void *out,
                               const float *lse, int B, int T, int C, int NH, float scale, const Dropout *dropout);
    /* One new token per sequence, for sampling: stores its key and value at `position` of keys and values
     * (B,capacity,C), then attends to positions [0, position].   qkv (B,3C), out (B,C), position < capacity */
    void (*attention_decode)(Backend *be, void *out, void *keys, void *values, const void *qkv, int B, int position,
                             int capacity, int C, int NH, float scale);

    /* ---- loss ---- */

    /* losses[n] = -log softmax(logits[n])[targets[n]] over the first V columns of logits (N,VP). If softcap c > 0, the
     * softmax takes c z/sqrt(z^2 + c^2) for each logit z. If `gradient`, overwrites each z with dloss times its
     * gradient (without softcap softmax - onehot(target)), and columns from V on with 0. */
    void (*softmax_cross_entropy)(Backend *be, float *losses, void *logits, const int32_t *targets, float dloss,
                                  float softcap, int N, int V, int VP, bool gradient);
    /* *total += the sum of values, in double. */
    void (*add_sum)(Backend *be, double *total, const float *values, size_t n);

    /* ---- dense matmuls for optimizers ---- */

    /* See BatchedMatmul; sums are float32, rounded once. c may be d, and is not read if beta is 0. d must overlap
     * neither a nor b. */
    void (*matmul_batched)(Backend *be, const BatchedMatmul *matmul, void *d, const void *a, const void *b,
                           const void *c);
    /* Whether the device multiplies matrices of that type. */
    bool (*multiplies)(Backend *be, DType type);

    /* ---- matmul autotuning (autotune.h drives it) ---- */

    /* Between autotune(be, true) and autotune(be, false) the first matmul of each shape times all algorithms that give
     * the same bits each time, and the fastest becomes that shape's algorithm. The caller must multiply numbers like
     * those of training, since zeros take less time. Outputs of matmuls that add to them are undefined meanwhile. A
     * shape that was never timed gets the library's first proposal. */
    void (*autotune)(Backend *be, bool on);
    /* Returns the algorithms found by timing, as text which the caller frees; "" if there are none. The first line
     * names the device and the versions for which they are valid. */
    char *(*write_algorithms)(Backend *be);
    /* Takes algorithms from such a text, for shapes that were not timed yet. If the text is damaged or for another
     * device or version, returns false with the reason and changes nothing. */
    bool (*read_algorithms)(Backend *be, const char *text, Error *error);

    /* Waits for all operations and frees the backend. Memory from alloc() must be freed before. */
    void (*close)(Backend *be);
};

typedef struct BackendOptions {
    const char *device; /* "cpu" or "cuda" */
    DType activation;
    int threads; /* CPU threads of this process */
    /* Number of this process among those on this machine. It uses GPU number local_rank modulo the number of GPUs.
     * comm_on_device() refuses two ranks on one GPU. */
    int local_rank;
    bool allow_tf32; /* GPU: float32 matmuls may round their factors to 10 bits */
} BackendOptions;

/* Opens a backend, which the caller closes with be->close(be). Returns NULL and the reason if the machine or the build
 * does not support it. */
Backend *backend_open_with(const BackendOptions *options, Error *error);

/* The same for a job of one process. */
Backend *backend_open(const char *device, DType activation, int threads, Error *error);

/* From now on be->memory_left() divides by `ranks`: the number of ranks that share the device's memory, which is
 * memory_sharers of the Comm that comm_on_device() returns. */
void backend_share_memory(Backend *be, int ranks);

/* Returns an allocator of be's memory, for arena_allocate(). */
ArenaMemory backend_memory(Backend *be);

/* Returns "cuda" if this machine has a GPU that this binary can use, else "cpu". */
const char *backend_auto_device(void);

/* Returns a number of threads for one of `processes` processes on this machine: the cores to which the launcher bound
 * this process, or its share of the machine's cores if it is not bound. */
int backend_default_threads(int processes);

/* Returns `asked`, with a warning if `processes` on this machine then have more threads than it has cores. If `asked`
 * is 0, returns backend_default_threads(). */
int backend_threads(int asked, int processes);

/* Returns the fastest activation type of `device`: bfloat16 if it has matrix units for bfloat16, else float32. */
DType backend_auto_precision(const char *device);

EXTERN_C_END

#endif
