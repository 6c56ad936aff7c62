/* linear.cu: linear layers, forward and backward, with bias and activation. cuBLASLt computes the matmuls (matmul.h)
 * and, if it can, the elementwise work on sums that are still in registers: bias, and GELU in bfloat16. The kernels
 * here do this work if it cannot, for every activation, and compute the bias gradient.
 *
 * The elementwise kernels read each input once, write each output once, and do so little arithmetic that memory limits
 * the speed: the backward pass of GELU moves 6 bytes of bfloat16 per element for about 20 instructions, two of them on
 * the special function unit. So each thread accesses 16 bytes of each array, without a loop or shared memory. If rows
 * are not a whole number of packs, or an array is not aligned, the same kernels run on single elements.
 *
 * The bias gradient is a sum over all N rows for each of OC columns. One thread per column would leave the GPU empty,
 * so blocks sum slices of ROWS_OF_SLICE rows and 64 columns, and a second launch of the same kernel sums the slices'
 * results: N = 32768 and OC = 768 make 1536 blocks, whose results are 0.8 % of what was read. The order of every sum is
 * fixed by the shape alone. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/matmul.h"

constexpr int THREADS = 256;

/* Number of blocks for n elements, COUNT for each thread. */
template <int COUNT> static unsigned blocks_for(size_t n) { return (unsigned)ceil_div((int64_t)n, THREADS * COUNT); }

/* ---- GELU ----
 *
 * With u = sqrt(2/pi) (x + 0.044715 x^3), 0.5 (1 + tanh u) = 1 / (1 + e^-2u) = s, so GELU(x) = x s, and
 * GELU'(x) = s + x s (1 - s) 2 u'. Computed from e = e^-2|u| <= 1, s is exact to a rounding for either sign of u, and
 * nothing overflows. */

constexpr float GELU_ROOT = 0.79788456080286536f; /* sqrt(2/pi) */
constexpr float GELU_CUBE = 0.044715f;

struct Sigmoid {
    float s, derivative; /* s (1 - s) */
};

/* The sigmoid at 2u, for GELU(x). */
static __device__ __forceinline__ Sigmoid gelu_sigmoid(float x) {
    float u = GELU_ROOT * (x + GELU_CUBE * x * x * x);
    float e = __expf(-2.0f * fabsf(u)), r = __fdividef(1.0f, 1.0f + e);
    return {u >= 0.0f ? r : e * r, e * r * r};
}

struct Gelu {
    static __device__ __forceinline__ float value(float x) { return x * gelu_sigmoid(x).s; }
    static __device__ __forceinline__ float derivative(float x) {
        Sigmoid sigmoid = gelu_sigmoid(x);
        float du = GELU_ROOT * (1.0f + 3.0f * GELU_CUBE * x * x);
        return sigmoid.s + x * sigmoid.derivative * 2.0f * du;
    }
};

/* ---- squared ReLU ---- */

/* max(x, 0), but NaN for NaN. */
static __device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

struct Relu2 {
    static __device__ __forceinline__ float value(float x) { return relu(x) * relu(x); }
    static __device__ __forceinline__ float derivative(float x) { return 2.0f * relu(x); }
};

/* ---- kernels that finish a matmul ---- */

/* x += bias.   x (N,OC), n = N*OC elements; bias (OC) */
template <class T, int COUNT>
static __global__ void __launch_bounds__(THREADS) bias_kernel(T *x, const T *bias, size_t n, int OC) {
    size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * COUNT;
    if (at >= n) return;
    Pack<T, COUNT> sum = load_pack<COUNT>(x + at), b = load_pack<COUNT>(bias + at % OC);
#pragma unroll
    for (int i = 0; i < COUNT; i++) sum.x[i] = from_float<T>(to_float(sum.x[i]) + to_float(b.x[i]));
    store_pack(x + at, sum);
}

/* pre += bias, if there is one; out = the activation of pre.   pre and out (N,OC) may be the same array, bias (OC) or
 * NULL, n = N*OC elements */
template <class Activation, class T, int COUNT>
static __global__ void __launch_bounds__(THREADS) activation_kernel(T *out, T *pre, const T *bias, size_t n, int OC) {
    size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * COUNT;
    if (at >= n) return;
    Pack<T, COUNT> x = load_pack<COUNT>(pre + at);
    if (bias) {
        Pack<T, COUNT> b = load_pack<COUNT>(bias + at % OC);
#pragma unroll
        for (int i = 0; i < COUNT; i++) x.x[i] = from_float<T>(to_float(x.x[i]) + to_float(b.x[i]));
        if (out != pre) store_pack(pre + at, x);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) x.x[i] = from_float<T>(Activation::value(to_float(x.x[i])));
    store_pack(out + at, x);
}

/* d *= the activation's derivative at pre, n elements each */
template <class Activation, class T, int COUNT>
static __global__ void __launch_bounds__(THREADS) activation_backward_kernel(T *d, const T *pre, size_t n) {
    size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * COUNT;
    if (at >= n) return;
    Pack<T, COUNT> gradient = load_pack<COUNT>(d + at), x = load_pack<COUNT>(pre + at);
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        gradient.x[i] = from_float<T>(to_float(gradient.x[i]) * Activation::derivative(to_float(x.x[i])));
    store_pack(d + at, gradient);
}

/* Whether the arrays a, b and c, with rows of n elements, can be loaded and stored in packs. */
template <class T> static bool suits_packs(int64_t n, const void *a, const void *b, const void *c) {
    return n % Pack<T>::N == 0 && is_pack_aligned(a) && is_pack_aligned(b) && is_pack_aligned(c);
}

template <class T> static void finish_bias(Backend *be, const CudaGemm *p) {
    size_t n = (size_t)p->m * p->n;
    T *d = (T *)p->d;
    const T *bias = (const T *)p->bias;
    constexpr int PACK = Pack<T>::N;
    if (suits_packs<T>(p->n, d, bias, NULL))
        bias_kernel<T, PACK><<<blocks_for<PACK>(n), THREADS, 0, cuda_stream(be)>>>(d, bias, n, (int)p->n);
    else
        bias_kernel<T, 1><<<blocks_for<1>(n), THREADS, 0, cuda_stream(be)>>>(d, bias, n, (int)p->n);
    cuda_check_launch("bias_kernel");
}

/* pre (N,OC) += bias (OC or NULL);  out = the activation of pre. */
template <class Activation, class T>
static void activate(Backend *be, T *out, T *pre, const T *bias, int64_t N, int64_t OC) {
    size_t n = (size_t)N * OC;
    constexpr int PACK = Pack<T>::N;
    if (suits_packs<T>(OC, out, pre, bias))
        activation_kernel<Activation, T, PACK>
            <<<blocks_for<PACK>(n), THREADS, 0, cuda_stream(be)>>>(out, pre, bias, n, (int)OC);
    else
        activation_kernel<Activation, T, 1>
            <<<blocks_for<1>(n), THREADS, 0, cuda_stream(be)>>>(out, pre, bias, n, (int)OC);
    cuda_check_launch("activation_kernel");
}

/* d (N,IC) *= the activation's derivative at pre (N,IC). */
template <class Activation, class T>
static void activate_backward(Backend *be, T *d, const T *pre, int64_t N, int64_t IC) {
    size_t n = (size_t)N * IC;
    constexpr int PACK = Pack<T>::N;
    if (suits_packs<T>(IC, d, pre, NULL))
        activation_backward_kernel<Activation, T, PACK>
            <<<blocks_for<PACK>(n), THREADS, 0, cuda_stream(be)>>>(d, pre, n);
    else
        activation_backward_kernel<Activation, T, 1><<<blocks_for<1>(n), THREADS, 0, cuda_stream(be)>>>(d, pre, n);
    cuda_check_launch("activation_backward_kernel");
}

template <class T> static void finish_gelu(Backend *be, const CudaGemm *p) {
    activate<Gelu, T>(be, (T *)p->d, (T *)(p->pre ? p->pre : p->d), (const T *)p->bias, p->m, p->n);
}

template <class T> static void finish_gelu_backward(Backend *be, const CudaGemm *p) {
    activate_backward<Gelu, T>(be, (T *)p->d, (const T *)p->pre, p->m, p->n);
}

/* ---- bias gradient ---- */

constexpr int SUM_COLUMNS = 64;    /* of a block: 128 or 256 bytes of a row, in whole sectors */
constexpr int ROWS_OF_SLICE = 256; /* with packs of bfloat16, 8 loads in flight per thread */

/* out[slice] (+)= the sums of in's rows [slice * rows, (slice + 1) * rows), as far as they exist.
 * in (N,C); out (slices,C); grid (columns / 64, slices). Neighbouring lanes take a row's columns, and groups of lanes
 * take rows in turn. The groups' sums are added in shared memory, in order. */
template <class T, int COUNT>
static __global__ void __launch_bounds__(THREADS)
    column_sums_kernel(float *out, const T *in, int N, int C, int rows, bool accumulate) {
    constexpr int LANES = SUM_COLUMNS / COUNT, GROUPS = THREADS / LANES;
    __shared__ float group_sums[GROUPS][SUM_COLUMNS];
    int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    int first_column = blockIdx.x * SUM_COLUMNS, c = first_column + lane * COUNT;
    int begin = blockIdx.y * rows, end = min(begin + rows, N);
    float sums[COUNT] = {};
    if (c < C) {
#pragma unroll 8
        for (int row = begin + group; row < end; row += GROUPS) {
            Pack<T, COUNT> x = load_pack<COUNT>(in + (size_t)row * C + c);
#pragma unroll
            for (int i = 0; i < COUNT; i++) sums[i] += to_float(x.x[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) group_sums[group][lane * COUNT + i] = sums[i];
    __syncthreads();
    int column = first_column + threadIdx.x;
    if (threadIdx.x >= SUM_COLUMNS || column >= C) return;
    float total = 0.0f;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) total += group_sums[g][threadIdx.x];
    float *sum = out + (size_t)blockIdx.y * C + column;
    *sum = accumulate ? *sum + total : total;
}

template <class T>
static void column_sums(Backend *be, float *out, const T *in, int N, int C, int rows, bool accumulate) {
    dim3 grid((unsigned)ceil_div(C, SUM_COLUMNS), (unsigned)ceil_div(N, rows));
    constexpr int PACK = Pack<T>::N;
    if (C % PACK == 0 && is_pack_aligned(in))
        column_sums_kernel<T, PACK><<<grid, THREADS, 0, cuda_stream(be)>>>(out, in, N, C, rows, accumulate);
    else
        column_sums_kernel<T, 1><<<grid, THREADS, 0, cuda_stream(be)>>>(out, in, N, C, rows, accumulate);
    cuda_check_launch("column_sums_kernel");
}

template <class T> static void bias_gradient(Backend *be, float *dbias, const T *dout, int N, int OC, bool accumulate) {
    int slices = (int)ceil_div(N, ROWS_OF_SLICE);
    if (slices == 1) {
        column_sums<T>(be, dbias, dout, N, OC, N, accumulate);
        return;
    }
    float *slice_sums = (float *)cuda_scratch(be, (size_t)slices * OC * sizeof(float)); // (slices, OC)
    column_sums<T>(be, slice_sums, dout, N, OC, ROWS_OF_SLICE, false);
    column_sums<float>(be, dbias, slice_sums, slices, OC, slices, accumulate);
}

/* ---- operations ---- */

template <class T> constexpr DType dtype_of = sizeof(T) == sizeof(float) ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;

/* d (m,n) = op(a) . op(b), with defaults for all else. */
template <class T>
static CudaGemm matmul(void *d, const void *a, const void *b, int m, int n, int k, bool transpose_a, bool transpose_b) {
    CudaGemm p = {};
    p.input = p.output = dtype_of<T>;
    p.m = m, p.n = n, p.k = k;
    p.transpose_a = transpose_a, p.transpose_b = transpose_b;
    p.alpha = 1.0f;
    p.d = d, p.a = a, p.b = b;
    p.count = 1;
    return p;
}

template <class T>
static void matmul_forward(Backend *be, void *out, const void *in, const void *weight, const void *bias, int N, int IC,
                           int OC) {
    CudaGemm p = matmul<T>(out, in, weight, N, OC, IC, false, true);
    p.bias = bias;
    p.finish = finish_bias<T>;
    cuda_multiply(be, &p);
}

template <class T>
static void matmul_backward_input(Backend *be, void *din, const void *dout, const void *weight, int N, int IC, int OC) {
    CudaGemm p = matmul<T>(din, dout, weight, N, IC, OC, false, false);
    cuda_multiply(be, &p);
}

/* The matmul does GELU if cuBLASLt can. */
template <class T>
static void matmul_gelu_forward(Backend *be, void *out, void *pre, const void *in, const void *weight, const void *bias,
                                int N, int IC, int OC) {
    CudaGemm p = matmul<T>(out, in, weight, N, OC, IC, false, true);
    p.epilogue = CUDA_EPILOGUE_GELU;
    p.bias = bias;
    p.pre = pre == out ? nullptr : pre;
    p.finish = finish_gelu<T>;
    cuda_multiply(be, &p);
}

template <class T>
static void matmul_backward_gelu(Backend *be, void *din, const void *dout, const void *weight, const void *pre, int N,
                                 int IC, int OC) {
    CudaGemm p = matmul<T>(din, dout, weight, N, IC, OC, false, false);
    p.epilogue = CUDA_EPILOGUE_GELU_BACKWARD;
    p.pre = const_cast<void *>(pre);
    p.finish = finish_gelu_backward<T>;
    cuda_multiply(be, &p);
}

template <class T>
static void matmul_activation_forward(Backend *be, ActivationKind activation, void *out, void *pre, const void *in,
                                      const void *weight, const void *bias, int N, int IC, int OC) {
    switch (activation) {
    case ACTIVATION_GELU:
        matmul_gelu_forward<T>(be, out, pre, in, weight, bias, N, IC, OC);
        break;
    case ACTIVATION_RELU2:
        matmul_forward<T>(be, pre, in, weight, bias, N, IC, OC);
        activate<Relu2, T>(be, (T *)out, (T *)pre, NULL, N, OC);
        break;
    }
}

template <class T>
static void matmul_backward_activation(Backend *be, ActivationKind activation, void *din, const void *dout,
                                       const void *weight, const void *pre, int N, int IC, int OC) {
    switch (activation) {
    case ACTIVATION_GELU:
        matmul_backward_gelu<T>(be, din, dout, weight, pre, N, IC, OC);
        break;
    case ACTIVATION_RELU2:
        matmul_backward_input<T>(be, din, dout, weight, N, IC, OC);
        activate_backward<Relu2, T>(be, (T *)din, (const T *)pre, N, IC);
        break;
    }
}

template <class T>
static void matmul_backward_weight(Backend *be, float *dweight, float *dbias, const void *dout, const void *in, int N,
                                   int IC, int OC, bool accumulate) {
    CudaGemm p = matmul<T>(dweight, dout, in, OC, IC, N, true, false);
    p.output = DTYPE_FLOAT32;
    p.beta = accumulate ? 1.0f : 0.0f;
    p.c = dweight;
    cuda_multiply(be, &p);
    if (dbias) bias_gradient<T>(be, dbias, (const T *)dout, N, OC, accumulate);
}

template <class T> static void enter(Backend *be) {
    be->matmul_forward = matmul_forward<T>;
    be->matmul_activation_forward = matmul_activation_forward<T>;
    be->matmul_backward_input = matmul_backward_input<T>;
    be->matmul_backward_activation = matmul_backward_activation<T>;
    be->matmul_backward_weight = matmul_backward_weight<T>;
}

void cuda_enter_linear(Backend *be) {
    be->activation == DTYPE_FLOAT32 ? enter<float>(be) : enter<bf16>(be);
    cuda_enter_matmuls(be);
}
