/* backend.h: the table of operations that a device has for GPT-2.
 *
 * The model calls be->norm_forward(be, ...), whatever the device. kernels/cpu and kernels/cuda each fill a table for
 * two activation types, float32 and bfloat16. The optimizers in optim/ use the table for memory and matmuls only.
 *
 * Notation. B sequences of T tokens, N = B*T rows, C channels, NH heads of size HS = C/NH, V vocabulary entries,
 * VP >= V the padded row length of logits. Matrices are row-major. A `void *` is an array of the table's activation
 * type; float, double and int32_t are always just that. All pointers are device pointers unless a line says host.
 *
 * Numerics, the same everywhere: arithmetic and sums in float32, rounded once when a result is stored; parameter
 * gradients are float32. `accumulate` false overwrites a gradient, true adds to it, so the first micro-step of a step
 * needs no zeroing. Results are the same bits each time: no operation depends on the order of threads. Backends on CPUs
 * divide work by their `threads`, whatever number OpenMP starts; with another number the last bits may differ.
 *
 * On a GPU operations are enqueued when a function returns; they run one after the other, each seeing what those before
 * it did. copy_to_host() and synchronize() wait. Errors of a device end the program. */
#ifndef MARS_KERNELS_BACKEND_H
#define MARS_KERNELS_BACKEND_H

#include "kernels/dropout.h"
#include "kernels/layer_kinds.h"
#include "util/arena.h"
#include "util/base.h"
#include "util/dtype.h"

EXTERN_C_BEGIN

typedef struct Backend Backend;

/* Matmuls of `count` pairs of matrices of one shape. Their type need not be the table's:
 *   d[i] = alpha op(a[i]) . op(b[i]) + beta c[i]        op(a) (m,k), op(b) (k,n), c and d (m,n)
 * op transposes where said, so that a is stored (k,m) or b (n,k). Matrices are dense and lie one after the other.
 * symmetric: the caller knows that each d[i] is symmetric (m = n), as a a^T is, and as a a + c is where a and c are.
 * The device may then compute one half of it and copy that to the other. */
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

/* The readings of a GPU's sensors. NAN: the value is not known. */
typedef struct DeviceSensors {
    double watts, mhz, celsius; /* mhz: the clock of its multiprocessors */
    bool has_throttle;          /* the following is known */
    char throttle[80];          /* what slows it down, "power cap, thermal"; "" for nothing */
} DeviceSensors;

typedef enum Stopwatch { STOPWATCH_GRADIENT, STOPWATCH_OPTIMIZER, STOPWATCH_COUNT } Stopwatch;

struct Backend {
    char name[32];       /* "cpu-float32" */
    char device[128];    /* the processor's or GPU's name, for people */
    DType activation;    /* the type of what every void * below points to */
    int threads;         /* CPU threads per process */
    int memory_sharers;  /* ranks among which the device's memory is divided (backend_share_memory()); 1 at first */
    bool on_gpu;         /* pointers are a GPU's, which the host must not follow */
    bool is_host_memory; /* it could: on CPUs, and where the GPU is emulated */
    void *stream;        /* of all operations on a GPU, a cudaStream_t; NULL on CPUs */
    double peak_flops;   /* FLOP/s of matmuls in the activation type as the maker states it; 0 = not known */
    int logit_rows;      /* rows of logits that are best worked on at a time */
    /* Batched matmuls of up to this many multiplications m n k for each matrix are worked on side by side, larger ones
     * one after the other. */
    int64_t side_by_side_work;

    /* ---- memory ---- */

    /* Device memory, aligned to 256 bytes (on CPUs 4096), zeroed; `what` names it in the message when there is not
     * enough. */
    void *(*alloc)(Backend *be, size_t bytes, const char *what);
    void (*free)(Backend *be, void *memory);
    /* Bytes that alloc() can still return; SIZE_MAX = not known. This is the equal part of one of the memory_sharers
     * ranks, so all of them must call it before any of them allocates. */
    size_t (*memory_left)(Backend *be);
    /* `host` may be used again on return. */
    void (*copy_from_host)(Backend *be, void *device, const void *host, size_t bytes);
    void (*copy_to_host)(Backend *be, void *host, const void *device, size_t bytes); /* returns when host holds it */
    void (*copy)(Backend *be, void *to, const void *from, size_t bytes);
    void (*zero)(Backend *be, void *memory, size_t bytes);
    void (*synchronize)(Backend *be);

    /* The same as copy_from_host, but in parallel with the operations that are enqueued after it, for the next batch
     * while the current one is computed. Operations enqueued after wait_for_copies() see the copies. */
    void (*copy_from_host_async)(Backend *be, void *device, const void *host, size_t bytes);
    void (*wait_for_copies)(Backend *be);

    /* Stopwatches of the device's time: the sum of all intervals between a start and the next stop, which are enqueued
     * like operations. Reading a stopwatch waits for them. */
    void (*stopwatch_start)(Backend *be, Stopwatch which);
    void (*stopwatch_stop)(Backend *be, Stopwatch which);
    double (*stopwatch_seconds)(Backend *be, Stopwatch which);

    /* Between the two calls a profiler shows this thread's work, and the operations that it enqueues, under `name`.
     * Ranges nest. CPU backends ignore both calls. */
    void (*range_begin)(Backend *be, const char *name);
    void (*range_end)(Backend *be);

    /* Reads the GPU's sensors, which may take milliseconds. On CPUs returns false and leaves *sensors as it is. */
    bool (*read_sensors)(Backend *be, DeviceSensors *sensors);

    /* out[i] = in[i], rounded to the activation type. */
    void (*to_activation)(Backend *be, void *out, const float *in, size_t n);

    /* The values that weight pointers point to have changed (optimizer step, load): drops what was derived from them. CPUs
     * with oneDNN keep packed copies for its matmuls; GPUs keep nothing. */
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
     * which the backward pass reads. RMSNorm does not touch mean: it may be NULL. */
    void (*norm_forward)(Backend *be, const NormShape *norm, void *out, float *mean, float *rstd, const void *x,
                         const void *weight, const void *bias);
    /* sum = x + delta (rounded to the activation type); out = norm(sum).   One pass over memory.
     * sum may be x or delta itself. */
    void (*residual_norm_forward)(Backend *be, const NormShape *norm, void *sum, void *out, float *mean, float *rstd,
                                  const void *x, const void *delta, const void *weight, const void *bias);
    /* dx += the gradient of x (dx already holds the residual stream's).   dweight, dbias (C): dweight is NULL where
     * weight is, dbias where the norm has no bias. */
    void (*norm_backward)(Backend *be, const NormShape *norm, void *dx, float *dweight, float *dbias, const void *dout,
                          const void *x, const void *weight, const float *mean, const float *rstd, bool accumulate);

    /* ---- linear layers; weight is (OC,IC) as in nn.Linear ---- */

    /* out (N,OC) = in (N,IC) . weight^T + bias.   bias (OC) or NULL */
    void (*matmul_forward)(Backend *be, void *out, const void *in, const void *weight, const void *bias, int N, int IC,
                           int OC);
    /* pre = in . weight^T + bias;  out = activation(pre) (layer_kinds.h).
     * pre (N,OC) is kept for the backward pass. out may be pre itself where no backward pass follows. */
    void (*matmul_activation_forward)(Backend *be, ActivationKind activation, void *out, void *pre, const void *in,
                                      const void *weight, const void *bias, int N, int IC, int OC);
    /* din (N,IC) = dout (N,OC) . weight. */
    void (*matmul_backward_input)(Backend *be, void *din, const void *dout, const void *weight, int N, int IC, int OC);
    /* din = (dout . weight) times the derivative of the activation at pre (N,IC): the gradient of pre. */
    void (*matmul_backward_activation)(Backend *be, ActivationKind activation, void *din, const void *dout,
                                       const void *weight, const void *pre, int N, int IC, int OC);
    /* dweight (OC,IC) (+)= dout^T . in;  dbias (OC) (+)= column sums of dout, NULL if none. */
    void (*matmul_backward_weight)(Backend *be, float *dweight, float *dbias, const void *dout, const void *in, int N,
                                   int IC, int OC, bool accumulate);

    /* ---- queries and keys: QK-norm (Henry et al. 2020) and rotary positions (Su et al. 2021), in place ---- */

    /* Changes each head of q and k in qkv (B,T,3C), not v. Where rstd is not NULL: rstd (B,T,2,NH), queries before
     * keys, is 1/sqrt(mean(q^2) + eps) over the head's HS elements, and q is multiplied by it. Then, where rotation is
     * not NULL, with i < HS/2 and {cos, sin} = rotation[t][i] of rotation (>=T,HS/2,2):
     *   (q[i], q[i + HS/2]) = (q[i] cos + q[i + HS/2] sin, q[i + HS/2] cos - q[i] sin). */
    void (*qk_norm_rope_forward)(Backend *be, void *qkv, float *rstd, const float *rotation, float eps, int B, int T,
                                 int C, int NH);
    /* Changes dqkv from the gradient of the above's outputs to that of its inputs. qkv holds the outputs, which is
     * enough for the norm: a rotation does not change the inner products in its gradient. */
    void (*qk_norm_rope_backward)(Backend *be, void *dqkv, const void *qkv, const float *rstd, const float *rotation,
                                  int B, int T, int C, int NH);

    /* ---- dropout (dropout.h) ---- */

    /* out[i] = in[i]/(1 - rate) or 0, by the mask of number i of each sequence; B sequences of n numbers, out may be
     * in. The backward pass is the same. */
    void (*dropout)(Backend *be, const Dropout *dropout, void *out, const void *in, int B, size_t n);

    /* ---- causal self-attention (Vaswani et al. 2017), blocked as in FlashAttention (Dao et al. 2022) ---- */

    /* qkv (B,T,3C): query, key and value of each token, heads side by side in each.   out (B,T,C).
     * out = softmax(scale Q K^T, keys <= query) V for each head; lse (B,NH,T) = log of the softmax's denominator,
     * kept for the backward pass. Dropout, NULL for none, falls on the softmax's values, after their division by the
     * denominator. */
    void (*attention_forward)(Backend *be, void *out, float *lse, const void *qkv, int B, int T, int C, int NH,
                              float scale, const Dropout *dropout);
    void (*attention_backward)(Backend *be, void *dqkv, const void *dout, const void *qkv, const void *out,
                               const float *lse, int B, int T, int C, int NH, float scale, const Dropout *dropout);
    /* One new token per sequence, for sampling: stores its key and value at `position` of keys and values
     * (B,capacity,C), then attends to positions [0, position].   qkv (B,3C), out (B,C), position < capacity */
    void (*attention_decode)(Backend *be, void *out, void *keys, void *values, const void *qkv, int B, int position,
                             int capacity, int C, int NH, float scale);

    /* ---- loss ---- */

    /* losses[n] = -log softmax(logits[n])[targets[n]] over the first V columns, from logits (N,VP). With softcap c > 0
     * each logit z counts as c z/sqrt(z^2 + c^2). With gradient true, logits are overwritten by dloss times the
     * gradient of the loss with respect to z, (softmax - onehot(target)) without softcap, columns V.. by 0. */
    void (*softmax_cross_entropy)(Backend *be, float *losses, void *logits, const int32_t *targets, float dloss,
                                  float softcap, int N, int V, int VP, bool gradient);
    /* *total += the sum of values, in double. */
    void (*add_sum)(Backend *be, double *total, const float *values, size_t n);

    /* ---- dense matmuls for optimizers ---- */

    /* See BatchedMatmul; sums are float32, rounded once. c is not read where beta is 0, and may be d; d overlaps
     * neither a nor b. */
    void (*matmul_batched)(Backend *be, const BatchedMatmul *matmul, void *d, const void *a, const void *b,
                           const void *c);
    /* Whether the device multiplies matrices of that type. */
    bool (*multiplies)(Backend *be, DType type);

    /* ---- matmul autotuning (autotune.h drives it) ---- */

    /* Between autotune(be, true) and autotune(be, false) the first matmul of each shape times the algorithms there are,
     * of those that give the same bits each time, and the fastest becomes that shape's algorithm. The caller multiplies
     * numbers as they are in training, not zeros, which take less time. Outputs are undefined meanwhile where they are
     * added to. A shape that was never timed gets the library's first proposal. */
    void (*autotune)(Backend *be, bool on);
    /* The algorithms found by timing, as text which the caller frees; "" if there are none. Its first line names the
     * device and the versions that they hold for. */
    char *(*write_algorithms)(Backend *be);
    /* Takes algorithms from such a text, for shapes that have none yet. False, and nothing is changed, if they are of
     * another device or version. */
    bool (*read_algorithms)(Backend *be, const char *text, Error *error);

    void (*close)(Backend *be);
};

typedef struct BackendOptions {
    const char *device; /* "cpu" or "cuda" */
    DType activation;
    int threads; /* CPU threads of this process */
    /* Which of the processes on this machine this is. It uses GPU number local_rank modulo the number of GPUs.
     * comm_on_device() refuses two ranks on one GPU. */
    int local_rank;
    bool allow_tf32; /* GPU: float32 matmuls may round their factors to 10 bits */
} BackendOptions;

/* Opens a backend. Returns NULL and the reason if the machine or the build cannot. The caller closes it with
 * be->close(be). */
Backend *backend_open_with(const BackendOptions *options, Error *error);

/* The same for a job of one process. */
Backend *backend_open(const char *device, DType activation, int threads, Error *error);

/* From now on be->memory_left() returns the equal part of one of `ranks` ranks: memory_sharers of the Comm that
 * comm_on_device() returns. */
void backend_share_memory(Backend *be, int ranks);

/* be's memory, for arena_allocate(). */
ArenaMemory backend_memory(Backend *be);

/* "cuda" where this binary can use a GPU that is there, else "cpu". */
const char *backend_auto_device(void);

/* Returns a number of threads for one of `processes` processes on this machine: the cores to which the launcher bound
 * this process, or its share of the machine's cores if it is not bound. */
int backend_default_threads(int processes);

/* Returns `asked`, with a warning if `processes` on this machine then have more threads than it has cores. If `asked`
 * is 0, returns backend_default_threads(). */
int backend_threads(int asked, int processes);

/* Returns the fastest activation type of `device`: bfloat16 if it has matrix units for that, else float32. */
DType backend_auto_precision(const char *device);

EXTERN_C_END

#endif
