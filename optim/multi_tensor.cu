/* multi_tensor.cu: the passes of multi_tensor.h as CUDA kernels, made from the same rules (optimizers.h) and the same
 * decisions (step_coeffs.h) as the CPU's.
 *
 * All passes over elements are bound by memory: AdamW moves 34 bytes for each parameter with a bf16 copy of the weights
 * and does a few dozen operations on them. So all that counts is that the bytes are moved once, coalesced, and that
 * enough loads are in flight to cover the latency of memory: some 20 KB on each multiprocessor. A thread works on runs
 * of 4 elements, 16 bytes of float and 8 of bf16, so that neighbours in a block are neighbours in memory in either
 * type. It loads a few runs of every operand, 64 to 160 bytes, before it uses the first, and 3 blocks of 256 threads
 * fit a multiprocessor at least: 48 KB. Elements that no run fits, after the last whole one or in a buffer that is not
 * aligned, are worked on one by one.
 *
 * Blocks find their work in the list of chunks: a tile of a chunk in passes that only write elements, a whole chunk in
 * those that also sum over it. Sums are in double, per thread, block and tensor in an order that is always the same.
 *
 * No pass waits for the host, and only the queue of results reports to it: kernels read a step's coefficients, and
 * whether the step is skipped, where step_coeffs_kernel left them. */
#include <stdlib.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"
#include "optim/multi_tensor.h"

constexpr int THREADS = 256;
constexpr int RUN = 4;   /* elements */
constexpr int AHEAD = 2; /* runs of each operand that a thread loads at a time */
constexpr int TILE = THREADS * RUN * AHEAD;
constexpr int TILES = MULTI_TENSOR_CHUNK / TILE;
static_assert(TILE * TILES == MULTI_TENSOR_CHUNK, "tiles fill chunks");

/* ---- runs of elements ---- */

template <size_t BYTES> struct Word;
template <> struct Word<16> { typedef uint4 type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<4> { typedef uint32_t type; };
template <> struct Word<2> { typedef uint16_t type; };

/* COUNT elements that move in one instruction; addresses are multiples of their size. */
template <class T, int COUNT> struct alignas(COUNT * sizeof(T)) Run {
    typedef typename Word<sizeof(T[COUNT])>::type Whole;
    T x[COUNT];
};

template <class T, int COUNT> __device__ __forceinline__ void load_run(Run<T, COUNT> &run, const T *from) {
    typedef typename Run<T, COUNT>::Whole Whole;
    reinterpret_cast<Whole &>(run) = *reinterpret_cast<const Whole *>(from);
}

template <class T, int COUNT> __device__ __forceinline__ void store_run(T *to, const Run<T, COUNT> &run) {
    typedef typename Run<T, COUNT>::Whole Whole;
    *reinterpret_cast<Whole *>(to) = reinterpret_cast<const Whole &>(run);
}

/* Whether runs of RUN elements can begin at an address; true for NULL, an operand that is not there. */
template <class T> __device__ __forceinline__ bool is_run_aligned(const T *p) {
    return (uintptr_t)p % (RUN * sizeof(T)) == 0;
}

/* This thread's share of elements [0, n), of which work.runs<COUNT, N>(at) does N runs of COUNT, STRIDE<COUNT> apart.
 * The loop over MANY at a time has no condition inside, so that its loads come before all else. */
template <int COUNT> constexpr int STRIDE = (THREADS * COUNT);

template <int MANY, class Work> __device__ __forceinline__ void for_elements(Work &work, int n) {
    const int whole = work.takes_runs() ? n - n % RUN : 0;
    int at = threadIdx.x * RUN;
    for (; at + (MANY - 1) * STRIDE<RUN> < whole; at += MANY * STRIDE<RUN>) work.template runs<RUN, MANY>(at);
#pragma unroll 1
    for (; at < whole; at += STRIDE<RUN>) work.template runs<RUN, 1>(at);
#pragma unroll 1
    for (at = whole + threadIdx.x; at < n; at += STRIDE<1>) work.template runs<1, 1>(at);
}

/* ---- sums over gradients, and the step's coefficients ---- */

template <bool PREV_GRAD> struct SumWork {
    const float *g, *prev_grad;
    bool with_sum;
    double squares, dot, sum; /* of this thread's elements */

    __device__ bool takes_runs() const { return is_run_aligned(g) && is_run_aligned(prev_grad); }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int at) {
        Run<float, COUNT> grad[N], prev[N];
#pragma unroll
        for (int r = 0; r < N; r++) {
            load_run(grad[r], g + at + r * STRIDE<COUNT>);
            if (PREV_GRAD) load_run(prev[r], prev_grad + at + r * STRIDE<COUNT>);
        }
#pragma unroll
        for (int r = 0; r < N; r++)
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                double x = (double)grad[r].x[i];
                squares += x * x;
                if (PREV_GRAD) dot += x * (double)prev[r].x[i];
                if (with_sum) sum += x;
            }
    }
};

/* Block c sums over chunk c. A thread keeps few values, so more loads can be in flight. */
template <bool PREV_GRAD>
static __global__ void __launch_bounds__(THREADS, 4)
    sums_kernel(const Chunk *chunks, const float *gradient, const float *prev_grad, const StepResult *sum_at_first,
                GradientSums *out) {
    const Chunk chunk = chunks[blockIdx.x];
    const bool with_sum = sum_at_first && sum_at_first->updates == 0;
    SumWork<PREV_GRAD> work = {
        gradient + chunk.gradient, PREV_GRAD ? prev_grad + chunk.gradient : NULL, with_sum, 0.0, 0.0, 0.0};
    for_elements<2 * AHEAD>(work, (int)(chunk.end - chunk.begin));
    GradientSums total = {block_sum<THREADS>(work.squares), PREV_GRAD ? block_sum<THREADS>(work.dot) : 0.0,
                          with_sum ? block_sum<THREADS>(work.sum) : 0.0};
    if (threadIdx.x == 0) out[blockIdx.x] = total;
}

static void sums(Backend *be, const Chunk *chunks, int count, const float *gradient, const float *prev_grad,
                 const StepResult *sum_at_first, GradientSums *out) {
    if (count == 0) return;
    if (prev_grad)
        sums_kernel<true><<<count, THREADS, 0, cuda_stream(be)>>>(chunks, gradient, prev_grad, sum_at_first, out);
    else
        sums_kernel<false><<<count, THREADS, 0, cuda_stream(be)>>>(chunks, gradient, prev_grad, sum_at_first, out);
    cuda_check_launch("sums_kernel");
}

/* Block i sums range i. */
template <int WIDTH>
static __global__ void __launch_bounds__(THREADS)
    add_up_kernel(const double *parts, const SumRange *ranges, double *out) {
    const SumRange range = ranges[blockIdx.x];
    double sum[WIDTH] = {};
    for (int row = threadIdx.x; row < range.count; row += THREADS)
#pragma unroll
        for (int w = 0; w < WIDTH; w++) sum[w] += parts[(size_t)(range.first + row) * WIDTH + w];
#pragma unroll
    for (int w = 0; w < WIDTH; w++) {
        sum[w] = block_sum<THREADS>(sum[w]);
        if (threadIdx.x == 0) out[(size_t)range.to * WIDTH + w] = sum[w];
    }
}

static void add_up(Backend *be, const double *parts, int width, const SumRange *ranges, int count, double *out) {
    if (count == 0) return;
    if (width == 1)
        add_up_kernel<1><<<count, THREADS, 0, cuda_stream(be)>>>(parts, ranges, out);
    else if (width == 2)
        add_up_kernel<2><<<count, THREADS, 0, cuda_stream(be)>>>(parts, ranges, out);
    else
        add_up_kernel<3><<<count, THREADS, 0, cuda_stream(be)>>>(parts, ranges, out);
    cuda_check_launch("add_up_kernel");
}

static __device__ double total_squares(const GradientSums *sums, int tensors) {
    double total = 0.0;
    for (int i = threadIdx.x; i < tensors; i += THREADS) total += sums[i].squares;
    return block_sum<THREADS>(total);
}

/* Runs in one block. All threads compute the same result, and each the coefficients of some tensors. */
static __global__ void __launch_bounds__(THREADS) step_coeffs_kernel(const StepInputs s) {
    const double squares = total_squares(s.sums, s.tensors);
    const double second = s.exact ? total_squares(s.sums + s.tensors, s.tensors) : 0.0;
    const StepResult result = step_result(&s, squares, second);
    __syncthreads(); /* all have read the last step's result */
    if (threadIdx.x == 0) *s.result = result;
    if (result.skipped) return;
    for (int i = threadIdx.x; i < s.tensors; i += THREADS) tensor_coeffs(&s, &result, i);
}

static void step_coeffs(Backend *be, const StepInputs *inputs) {
    step_coeffs_kernel<<<1, THREADS, 0, cuda_stream(be)>>>(*inputs);
    cuda_check_launch("step_coeffs_kernel");
}

/* ---- elementwise rules ---- */

typedef float RuleDirection(float g, float prev_grad, float *state, const UpdateCoeffs *coeffs);

/* Each rule gets a kernel of its own: its function, its states and its options are template arguments. */
template <RuleDirection *DIRECTION, bool PREV_GRAD, int STATES, bool CAUTIOUS> struct UpdateWork {
    UpdateCoeffs coeffs;
    float *x, *states[STATES];
    const float *g, *prev_grad;
    bf16 *weights; /* NULL if there is no copy */

    __device__ bool takes_runs() const {
        return is_run_aligned(x) && is_run_aligned(states[0]) && is_run_aligned(states[STATES - 1]) &&
               is_run_aligned(g) && is_run_aligned(prev_grad) && is_run_aligned(weights);
    }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<float, COUNT> value[N], grad[N], prev[N] = {}, state[N][STATES];
#pragma unroll
        for (int r = 0; r < N; r++) {
            int at = first + r * STRIDE<COUNT>;
            load_run(grad[r], g + at);
            if (PREV_GRAD) load_run(prev[r], prev_grad + at);
#pragma unroll
            for (int s = 0; s < STATES; s++) load_run(state[r][s], states[s] + at);
            load_run(value[r], x + at);
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
            int at = first + r * STRIDE<COUNT>;
            Run<bf16, COUNT> rounded;
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                float kept[STATES];
#pragma unroll
                for (int s = 0; s < STATES; s++) kept[s] = state[r][s].x[i];
                float gradient = grad[r].x[i] * coeffs.gradient_factor;
                float before = value[r].x[i], decay = coeffs.weight_decay * before;
                float direction = DIRECTION(gradient, prev[r].x[i], kept, &coeffs);
                value[r].x[i] -= coeffs.learning_rate * (element_decay(decay, direction, before, CAUTIOUS) + direction);
                rounded.x[i] = from_float<bf16>(value[r].x[i]);
#pragma unroll
                for (int s = 0; s < STATES; s++) state[r][s].x[i] = kept[s];
            }
            store_run(x + at, value[r]);
#pragma unroll
            for (int s = 0; s < STATES; s++) store_run(states[s] + at, state[r][s]);
            if (weights) store_run(weights + at, rounded);
        }
    }
};

/* Block b updates tile b % TILES of chunk b / TILES. */
template <RuleDirection *DIRECTION, bool PREV_GRAD, int STATES, bool CAUTIOUS>
static __global__ void __launch_bounds__(THREADS, 3) update_kernel(const Chunk *chunks, const MultiTensorBuffers b) {
    if (b.result->skipped) return;
    const Chunk chunk = chunks[blockIdx.x / TILES];
    const size_t begin = blockIdx.x % TILES * TILE;
    if (chunk.begin + begin >= chunk.end) return;
    UpdateWork<DIRECTION, PREV_GRAD, STATES, CAUTIOUS> work;
    work.coeffs = b.coeffs[chunk.tensor];
    work.x = b.params + chunk.begin + begin;
#pragma unroll
    for (int s = 0; s < STATES; s++) work.states[s] = b.states[s] + chunk.shard + begin;
    work.g = b.gradient + chunk.gradient + begin;
    work.prev_grad = PREV_GRAD ? b.prev_grad + chunk.gradient + begin : NULL;
    work.weights = b.weights ? (bf16 *)b.weights + chunk.begin + begin : NULL;
    for_elements<AHEAD>(work, min((int)(chunk.end - chunk.begin - begin), TILE));
}

template <RuleDirection *DIRECTION, bool PREV_GRAD, int STATES>
static void launch_update(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *buffers) {
    const unsigned blocks = (unsigned)count * TILES;
    if (buffers->cautious)
        update_kernel<DIRECTION, PREV_GRAD, STATES, true><<<blocks, THREADS, 0, cuda_stream(be)>>>(chunks, *buffers);
    else
        update_kernel<DIRECTION, PREV_GRAD, STATES, false><<<blocks, THREADS, 0, cuda_stream(be)>>>(chunks, *buffers);
}

#define UPDATE_CASE(rule, name, direction, needs, keys, states, ...)                                       \
    case rule:                                                                                             \
        launch_update<direction, ((needs)&RULE_NEEDS_PREV_GRAD) != 0, states>(be, chunks, count, buffers); \
        break;

static void update(Backend *be, RuleName rule, const Chunk *chunks, int count, const MultiTensorBuffers *buffers) {
    if (count == 0) return;
    switch (rule) {
        ELEMENTWISE_RULES(UPDATE_CASE)
    default:
        die("rule %s is not elementwise", rule_of(rule)->name);
    }
    cuda_check_launch("update_kernel");
}

/* ---- matrix rules ---- */

template <RuleDirection *DIRECTION, bool PREV_GRAD, int STATES, class T> struct DirectionWork {
    UpdateCoeffs coeffs;
    float *states[STATES];
    const float *g, *prev_grad;
    T *matrix;
    double squares; /* of what this thread stored */

    __device__ bool takes_runs() const {
        return is_run_aligned(states[0]) && is_run_aligned(states[STATES - 1]) && is_run_aligned(g) &&
               is_run_aligned(prev_grad) && is_run_aligned(matrix);
    }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<float, COUNT> grad[N], prev[N] = {}, state[N][STATES];
#pragma unroll
        for (int r = 0; r < N; r++) {
            int at = first + r * STRIDE<COUNT>;
            load_run(grad[r], g + at);
            if (PREV_GRAD) load_run(prev[r], prev_grad + at);
#pragma unroll
            for (int s = 0; s < STATES; s++) load_run(state[r][s], states[s] + at);
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
            int at = first + r * STRIDE<COUNT>;
            Run<T, COUNT> out;
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                float kept[STATES];
#pragma unroll
                for (int s = 0; s < STATES; s++) kept[s] = state[r][s].x[i];
                float gradient = grad[r].x[i] * coeffs.gradient_factor;
                out.x[i] = from_float<T>(DIRECTION(gradient, prev[r].x[i], kept, &coeffs));
                double stored = (double)to_float(out.x[i]);
                squares += stored * stored;
#pragma unroll
                for (int s = 0; s < STATES; s++) state[r][s].x[i] = kept[s];
            }
#pragma unroll
            for (int s = 0; s < STATES; s++) store_run(states[s] + at, state[r][s]);
            store_run(matrix + at, out);
        }
    }
};

/* Block c works on chunk c. */
template <RuleDirection *DIRECTION, bool PREV_GRAD, int STATES, class T>
static __global__ void __launch_bounds__(THREADS, 3)
    directions_kernel(const Chunk *chunks, const MultiTensorBuffers b, T *matrices, double *squares) {
    if (b.result->skipped) return;
    const Chunk chunk = chunks[blockIdx.x];
    DirectionWork<DIRECTION, PREV_GRAD, STATES, T> work;
    work.coeffs = b.coeffs[chunk.tensor];
#pragma unroll
    for (int s = 0; s < STATES; s++) work.states[s] = b.states[s] + chunk.shard;
    work.g = b.gradient + chunk.gradient;
    work.prev_grad = PREV_GRAD ? b.prev_grad + chunk.gradient : NULL;
    work.matrix = matrices + chunk.matrix;
    work.squares = 0.0;
    for_elements<AHEAD>(work, (int)(chunk.end - chunk.begin));
    double sum = block_sum<THREADS>(work.squares);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

template <RuleDirection *DIRECTION, bool PREV_GRAD, int STATES>
static void launch_directions(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *buffers,
                              void *matrices, DType type, double *squares) {
    cudaStream_t stream = cuda_stream(be);
    if (type == DTYPE_FLOAT32)
        directions_kernel<DIRECTION, PREV_GRAD, STATES, float>
            <<<count, THREADS, 0, stream>>>(chunks, *buffers, (float *)matrices, squares);
    else
        directions_kernel<DIRECTION, PREV_GRAD, STATES, bf16>
            <<<count, THREADS, 0, stream>>>(chunks, *buffers, (bf16 *)matrices, squares);
}

#define DIRECTIONS_CASE(rule, name, direction, needs, keys, scale, states, ...)                               \
    case rule:                                                                                                \
        launch_directions<direction, ((needs)&RULE_NEEDS_PREV_GRAD) != 0, states>(be, chunks, count, buffers, \
                                                                                  matrices, type, squares);   \
        break;

static void directions(Backend *be, RuleName rule, const Chunk *chunks, int count, const MultiTensorBuffers *buffers,
                       void *matrices, DType type, double *squares) {
    if (count == 0) return;
    switch (rule) {
        MATRIX_RULES(DIRECTIONS_CASE)
    default:
        die("rule %s is not for matrices", rule_of(rule)->name);
    }
    cuda_check_launch("directions_kernel");
}

/* Whether a matrix has factors, and whether each belongs to a row or to a column. */
enum class Lines { NONE, ROWS, COLUMNS };

/* x <- x - decay x - step O, each line of O times its factor, and the copy of the weights. */
template <class T, Lines LINES, bool CAUTIOUS> struct ApplyWork {
    float *x;
    bf16 *weights;
    const T *O;
    float decay, step;
    const float *factors;     /* from the factor of the tile's first row on, or of all columns */
    unsigned column, columns; /* of this element; of the matrix */

    /* A run that begins at a multiple of RUN lies in one row if the length of rows is a multiple of RUN. */
    __device__ bool takes_runs() const {
        const bool rows_are_runs = LINES == Lines::NONE || (column % RUN == 0 && columns % RUN == 0);
        return rows_are_runs && is_run_aligned(x) && is_run_aligned(weights) && is_run_aligned(O) &&
               (LINES != Lines::COLUMNS || is_run_aligned(factors));
    }

    /* The step size of each element of a run, the factor of its element of O. */
    template <int COUNT> __device__ __forceinline__ void load_steps(Run<float, COUNT> &steps, int at) {
        if (LINES == Lines::COLUMNS) load_run(steps, factors + (column + at) % columns);
        const float factor = LINES == Lines::ROWS ? factors[(column + at) / columns] : 1.0f;
#pragma unroll
        for (int i = 0; i < COUNT; i++) steps.x[i] = LINES == Lines::COLUMNS ? step * steps.x[i] : step * factor;
    }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<float, COUNT> value[N], steps[N];
        Run<T, COUNT> way[N];
#pragma unroll
        for (int r = 0; r < N; r++) {
            load_run(way[r], O + first + r * STRIDE<COUNT>);
            load_run(value[r], x + first + r * STRIDE<COUNT>);
            load_steps(steps[r], first + r * STRIDE<COUNT>);
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
            int at = first + r * STRIDE<COUNT>;
            Run<bf16, COUNT> rounded;
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const float o = to_float(way[r].x[i]);
                const float before = value[r].x[i];
                value[r].x[i] -= element_decay(decay * before, o, before, CAUTIOUS) + steps[r].x[i] * o;
                rounded.x[i] = from_float<bf16>(value[r].x[i]);
            }
            store_run(x + at, value[r]);
            if (weights) store_run(weights + at, rounded);
        }
    }
};

/* Block b works on tile b % TILES of chunk b / TILES, counted from the end, since the end of Newton-Schulz's output is
 * still in the level 2 cache. */
template <class T, Lines LINES, bool CAUTIOUS>
static __global__ void __launch_bounds__(THREADS, 6)
    apply_kernel(const Chunk *chunks, const MultiTensorBuffers b, const T *matrices, const float *factors,
                 unsigned columns) {
    if (b.result->skipped) return;
    const unsigned block = gridDim.x - 1 - blockIdx.x;
    const Chunk chunk = chunks[block / TILES];
    const size_t begin = block % TILES * TILE;
    if (chunk.begin + begin >= chunk.end) return;
    const UpdateCoeffs *coeffs = &b.coeffs[chunk.tensor];
    ApplyWork<T, LINES, CAUTIOUS> work = {b.params + chunk.begin + begin,
                                          b.weights ? (bf16 *)b.weights + chunk.begin + begin : NULL,
                                          matrices + chunk.matrix + begin,
                                          coeffs->learning_rate * coeffs->weight_decay,
                                          coeffs->step,
                                          LINES == Lines::NONE ? NULL : factors + chunk.line,
                                          (unsigned)chunk.column + (unsigned)begin,
                                          columns};
    for_elements<AHEAD>(work, min((int)(chunk.end - chunk.begin - begin), TILE));
}

template <class T, Lines LINES>
static void launch_apply(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *buffers,
                         const MatrixList *m, const float *factors) {
    const unsigned blocks = (unsigned)count * TILES, columns = (unsigned)m->columns;
    cudaStream_t stream = cuda_stream(be);
    if (buffers->cautious)
        apply_kernel<T, LINES, true>
            <<<blocks, THREADS, 0, stream>>>(chunks, *buffers, (const T *)m->elements, factors, columns);
    else
        apply_kernel<T, LINES, false>
            <<<blocks, THREADS, 0, stream>>>(chunks, *buffers, (const T *)m->elements, factors, columns);
}

template <class T>
static void apply_type(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *buffers,
                       const MatrixList *m, const float *factors) {
    if (!factors)
        launch_apply<T, Lines::NONE>(be, chunks, count, buffers, m, factors);
    else if (lines_are_rows(m->rows, m->columns))
        launch_apply<T, Lines::ROWS>(be, chunks, count, buffers, m, factors);
    else
        launch_apply<T, Lines::COLUMNS>(be, chunks, count, buffers, m, factors);
}

static void apply(Backend *be, const Chunk *chunks, int count, const MultiTensorBuffers *buffers, const MatrixList *m,
                  const float *factors) {
    if (count == 0) return;
    if (m->type == DTYPE_FLOAT32)
        apply_type<float>(be, chunks, count, buffers, m, factors);
    else
        apply_type<bf16>(be, chunks, count, buffers, m, factors);
    cuda_check_launch("apply_kernel");
}

/* ---- lines ---- */

template <class T, int COUNT> __device__ __forceinline__ float sum_of_squares(const Run<T, COUNT> &run) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < COUNT; i++) sum += to_float(run.x[i]) * to_float(run.x[i]);
    return sum;
}

/* Each warp sums the squares of one row; the rows of all matrices are counted one after the other. The squares of a run
 * are added in float, and the runs in double, since conversions to double are slow. */
template <class T, int COUNT>
static __global__ void __launch_bounds__(THREADS)
    row_squares_kernel(const T *matrices, size_t rows, int columns, const StepResult *result, double *squares) {
    const size_t row = (size_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (result->skipped || row >= rows) return;
    const T *x = matrices + row * columns;
    double sum = 0.0;
#pragma unroll 4
    for (int at = threadIdx.x % WARP * COUNT; at < columns; at += WARP * COUNT) {
        Run<T, COUNT> run;
        load_run(run, x + at);
        sum += (double)sum_of_squares(run);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) squares[row] = sum;
}

/* Block (b, slab, i): a thread sums the squares of COUNT columns of matrix i over the rows of a slab. */
template <class T, int COUNT>
static __global__ void __launch_bounds__(THREADS)
    column_squares_kernel(const T *matrices, int64_t rows, int64_t columns, const StepResult *result, double *squares) {
    const int64_t column = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * COUNT;
    if (result->skipped || column >= columns) return;
    const int64_t begin = (int64_t)blockIdx.y * LINE_SLAB, end = begin + LINE_SLAB < rows ? begin + LINE_SLAB : rows;
    const T *x = matrices + (blockIdx.z * rows + begin) * columns + column;
    double sums[COUNT] = {};
#pragma unroll 8
    for (int row = 0; row < (int)(end - begin); row++) {
        Run<T, COUNT> run;
        load_run(run, x + row * columns);
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[i] += (double)(to_float(run.x[i]) * to_float(run.x[i]));
    }
    double *out = squares + ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * columns + column;
#pragma unroll
    for (int i = 0; i < COUNT; i++) out[i] = sums[i];
}

template <class T, int COUNT>
static void launch_line_squares(Backend *be, const MatrixList *m, const StepResult *result, double *squares) {
    const T *elements = (const T *)m->elements;
    cudaStream_t stream = cuda_stream(be);
    if (lines_are_rows(m->rows, m->columns)) {
        const int64_t rows = m->count * m->rows;
        row_squares_kernel<T, COUNT><<<(unsigned)ceil_div(rows, THREADS / WARP), THREADS, 0, stream>>>(
            elements, (size_t)rows, (int)m->columns, result, squares);
    } else {
        const dim3 blocks((unsigned)ceil_div(m->columns, THREADS * COUNT), (unsigned)line_slabs(m->rows, m->columns),
                          (unsigned)m->count);
        column_squares_kernel<T, COUNT><<<blocks, THREADS, 0, stream>>>(elements, m->rows, m->columns, result, squares);
    }
}

static void line_squares(Backend *be, const MatrixList *m, const StepResult *result, double *squares) {
    if (m->count == 0) return;
    const bool runs = m->columns % RUN == 0;
    if (m->type == DTYPE_FLOAT32 && runs)
        launch_line_squares<float, RUN>(be, m, result, squares);
    else if (m->type == DTYPE_FLOAT32)
        launch_line_squares<float, 1>(be, m, result, squares);
    else if (runs)
        launch_line_squares<bf16, RUN>(be, m, result, squares);
    else
        launch_line_squares<bf16, 1>(be, m, result, squares);
    cuda_check_launch("a kernel of line_squares()");
}

constexpr int LINE_THREADS = 1024; /* there are few blocks */

/* Block i computes the state and the factors of matrix i's lines. */
static __global__ void __launch_bounds__(LINE_THREADS)
    line_factors_kernel(int64_t lines, int64_t slabs, double length, const LineState *where, const MultiTensorBuffers b,
                        const double *squares, float *factors) {
    if (b.result->skipped) return;
    const UpdateCoeffs r = b.coeffs[where[blockIdx.x].tensor];
    const double scale = (double)r.scale * (double)r.scale;
    float *state = b.line_state + where[blockIdx.x].begin, *factor = factors + blockIdx.x * lines;
    double before = 0.0, after = 0.0;
    for (int64_t l = threadIdx.x; l < lines; l += LINE_THREADS) {
        const double *part = squares + blockIdx.x * slabs * lines + l;
        double square = 0.0;
#pragma unroll 8
        for (int64_t slab = 0; slab < slabs; slab++) square += part[slab * lines];
        square *= scale;
        state[l] = normuon_v(state[l], square / length, &r);
        before += square;
        after += square / normuon_divisor_square(state[l]);
    }
    before = block_sum<LINE_THREADS>(before);
    after = block_sum<LINE_THREADS>(after);
    const double norm_factor = normuon_norm_factor(before, after);
    for (int64_t l = threadIdx.x; l < lines; l += LINE_THREADS)
        factor[l] = (float)(norm_factor / sqrt(normuon_divisor_square(state[l])));
}

static void line_factors(Backend *be, const MatrixList *m, const LineState *where, const MultiTensorBuffers *buffers,
                         const double *squares, float *factors) {
    if (m->count == 0) return;
    line_factors_kernel<<<m->count, LINE_THREADS, 0, cuda_stream(be)>>>(
        line_count(m->rows, m->columns), line_slabs(m->rows, m->columns), (double)min_i64(m->rows, m->columns), where,
        *buffers, squares, factors);
    cuda_check_launch("line_factors_kernel");
}

/* ---- scaling before Newton-Schulz ---- */

template <class T> struct ScaleWork {
    T *x;
    float factor;

    __device__ bool takes_runs() const { return is_run_aligned(x); }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<T, COUNT> run[N];
#pragma unroll
        for (int r = 0; r < N; r++) load_run(run[r], x + first + r * STRIDE<COUNT>);
#pragma unroll
        for (int r = 0; r < N; r++) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) run[r].x[i] = from_float<T>(to_float(run[r].x[i]) * factor);
            store_run(x + first + r * STRIDE<COUNT>, run[r]);
        }
    }
};

/* Block (b, i) works on tile b of matrix i, both counted from the end: the directions just written there are still in
 * the level 2 cache. Tiles are twice as large as elsewhere, since there is only one operand. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    normalize_kernel(T *matrices, size_t size, const double *square_norms, double factor, double eps) {
    __shared__ float scale;
    const unsigned tile = gridDim.x - 1 - blockIdx.x, matrix = gridDim.y - 1 - blockIdx.y;
    if (threadIdx.x == 0) scale = (float)(1.0 / (factor * sqrt(square_norms[matrix]) + eps));
    __syncthreads();
    const size_t begin = (size_t)tile * 2 * TILE;
    ScaleWork<T> work = {matrices + matrix * size + begin, scale};
    for_elements<2 * AHEAD>(work, (int)min(size - begin, (size_t)(2 * TILE)));
}

static void normalize(Backend *be, void *matrices, DType type, size_t size, int count, const double *square_norms,
                      double factor, double eps) {
    if (count == 0) return;
    const dim3 blocks((unsigned)ceil_div((int64_t)size, 2 * TILE), (unsigned)count);
    cudaStream_t stream = cuda_stream(be);
    if (type == DTYPE_FLOAT32)
        normalize_kernel<float><<<blocks, THREADS, 0, stream>>>((float *)matrices, size, square_norms, factor, eps);
    else
        normalize_kernel<bf16><<<blocks, THREADS, 0, stream>>>((bf16 *)matrices, size, square_norms, factor, eps);
    cuda_check_launch("normalize_kernel");
}

/* ---- norms of an update ---- */

struct CopyWork {
    const float *from;
    float *to;

    __device__ bool takes_runs() const { return is_run_aligned(from) && is_run_aligned(to); }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<float, COUNT> run[N];
#pragma unroll
        for (int r = 0; r < N; r++) load_run(run[r], from + first + r * STRIDE<COUNT>);
#pragma unroll
        for (int r = 0; r < N; r++) store_run(to + first + r * STRIDE<COUNT>, run[r]);
    }
};

/* Block b copies tile b % TILES of chunk b / TILES. */
static __global__ void __launch_bounds__(THREADS)
    copy_params_kernel(const Chunk *chunks, const float *params, float *old) {
    const Chunk chunk = chunks[blockIdx.x / TILES];
    const size_t begin = blockIdx.x % TILES * TILE;
    if (chunk.begin + begin >= chunk.end) return;
    CopyWork work = {params + chunk.begin + begin, old + chunk.shard + begin};
    for_elements<AHEAD>(work, min((int)(chunk.end - chunk.begin - begin), TILE));
}

static void copy_params(Backend *be, const Chunk *chunks, int count, const float *params, float *old) {
    if (count == 0) return;
    copy_params_kernel<<<(unsigned)count * TILES, THREADS, 0, cuda_stream(be)>>>(chunks, params, old);
    cuda_check_launch("copy_params_kernel");
}

struct UpdateSumWork {
    const float *x, *old;
    double update, weight; /* of this thread's elements */

    __device__ bool takes_runs() const { return is_run_aligned(x) && is_run_aligned(old); }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<float, COUNT> now[N], before[N];
#pragma unroll
        for (int r = 0; r < N; r++) {
            load_run(now[r], x + first + r * STRIDE<COUNT>);
            load_run(before[r], old + first + r * STRIDE<COUNT>);
        }
#pragma unroll
        for (int r = 0; r < N; r++)
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                double value = (double)now[r].x[i], change = value - (double)before[r].x[i];
                update += change * change;
                weight += value * value;
            }
    }
};

/* Block c sums over chunk c, as sums_kernel() does. */
static __global__ void __launch_bounds__(THREADS, 4)
    update_sums_kernel(const Chunk *chunks, const float *params, const float *old, UpdateSums *out) {
    const Chunk chunk = chunks[blockIdx.x];
    UpdateSumWork work = {params + chunk.begin, old + chunk.shard, 0.0, 0.0};
    for_elements<2 * AHEAD>(work, (int)(chunk.end - chunk.begin));
    UpdateSums total = {block_sum<THREADS>(work.update), block_sum<THREADS>(work.weight)};
    if (threadIdx.x == 0) out[blockIdx.x] = total;
}

static void update_sums(Backend *be, const Chunk *chunks, int count, const float *params, const float *old,
                        UpdateSums *out) {
    if (count == 0) return;
    update_sums_kernel<<<count, THREADS, 0, cuda_stream(be)>>>(chunks, params, old, out);
    cuda_check_launch("update_sums_kernel");
}

/* ---- an average of the weights ---- */

struct EmaWork {
    const float *x;
    float *ema;
    float rate;

    __device__ bool takes_runs() const { return is_run_aligned(x) && is_run_aligned(ema); }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<float, COUNT> param[N], mean[N];
#pragma unroll
        for (int r = 0; r < N; r++) {
            load_run(param[r], x + first + r * STRIDE<COUNT>);
            load_run(mean[r], ema + first + r * STRIDE<COUNT>);
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                float moved = mean[r].x[i] + rate * (param[r].x[i] - mean[r].x[i]);
                mean[r].x[i] = rate == 1.0f ? param[r].x[i] : moved;
            }
            store_run(ema + first + r * STRIDE<COUNT>, mean[r]);
        }
    }
};

/* Block b works on tile b % TILES of chunk b / TILES, as in the next kernel. */
static __global__ void __launch_bounds__(THREADS)
    update_ema_kernel(const Chunk *chunks, const float *params, float *ema, float rate) {
    const Chunk chunk = chunks[blockIdx.x / TILES];
    const size_t begin = blockIdx.x % TILES * TILE;
    if (chunk.begin + begin >= chunk.end) return;
    EmaWork work = {params + chunk.begin + begin, ema + chunk.shard + begin, rate};
    for_elements<AHEAD>(work, min((int)(chunk.end - chunk.begin - begin), TILE));
}

static void update_ema(Backend *be, const Chunk *chunks, int count, const float *params, float *ema, float rate) {
    if (count == 0) return;
    update_ema_kernel<<<(unsigned)count * TILES, THREADS, 0, cuda_stream(be)>>>(chunks, params, ema, rate);
    cuda_check_launch("update_ema_kernel");
}

template <class T> struct MixWork {
    const float *x, *ema;
    float mix;
    T *to;

    __device__ bool takes_runs() const { return is_run_aligned(x) && is_run_aligned(ema) && is_run_aligned(to); }

    template <int COUNT, int N> __device__ __forceinline__ void runs(int first) {
        Run<float, COUNT> param[N], mean[N];
#pragma unroll
        for (int r = 0; r < N; r++) {
            load_run(param[r], x + first + r * STRIDE<COUNT>);
            load_run(mean[r], ema + first + r * STRIDE<COUNT>);
        }
#pragma unroll
        for (int r = 0; r < N; r++) {
            Run<T, COUNT> out;
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                float between = param[r].x[i] + mix * (mean[r].x[i] - param[r].x[i]);
                out.x[i] = from_float<T>(mix == 0.0f ? param[r].x[i] : between);
            }
            store_run(to + first + r * STRIDE<COUNT>, out);
        }
    }
};

template <class T>
static __global__ void __launch_bounds__(THREADS)
    mix_ema_kernel(const Chunk *chunks, const float *params, const float *ema, float mix, T *to) {
    const Chunk chunk = chunks[blockIdx.x / TILES];
    const size_t begin = blockIdx.x % TILES * TILE;
    if (chunk.begin + begin >= chunk.end) return;
    MixWork<T> work = {params + chunk.begin + begin, ema + chunk.shard + begin, mix, to + chunk.begin + begin};
    for_elements<AHEAD>(work, min((int)(chunk.end - chunk.begin - begin), TILE));
}

static void mix_ema(Backend *be, const Chunk *chunks, int count, const float *params, const float *ema, float mix,
                    void *to, DType type) {
    if (count == 0) return;
    const unsigned blocks = (unsigned)count * TILES;
    cudaStream_t stream = cuda_stream(be);
    if (type == DTYPE_FLOAT32)
        mix_ema_kernel<float><<<blocks, THREADS, 0, stream>>>(chunks, params, ema, mix, (float *)to);
    else
        mix_ema_kernel<bf16><<<blocks, THREADS, 0, stream>>>(chunks, params, ema, mix, (bf16 *)to);
    cuda_check_launch("mix_ema_kernel");
}

/* ---- between steps ---- */

/* Nearly always there is nothing to do, so there are few blocks, each with many chunks. */
static __global__ void __launch_bounds__(THREADS)
    keep_prev_grad_kernel(const Chunk *chunks, int count, float *to, const float *from, const StepResult *result) {
    if (!result->skipped) return;
    for (int c = blockIdx.x; c < count; c += gridDim.x) {
        const Chunk chunk = chunks[c];
        const int n = (int)(chunk.end - chunk.begin);
        for (int i = threadIdx.x; i < n; i += THREADS) to[chunk.gradient + i] = from[chunk.gradient + i];
    }
}

static void keep_prev_grad(Backend *be, const Chunk *chunks, int count, float *to, const float *from,
                           const StepResult *result) {
    if (count == 0) return;
    const int blocks = (int)min_i64(count, 4 * cuda_backend(be)->processors);
    keep_prev_grad_kernel<<<blocks, THREADS, 0, cuda_stream(be)>>>(chunks, count, to, from, result);
    cuda_check_launch("keep_prev_grad_kernel");
}

/* A ring in pinned memory, which the GPU writes to; an event for each result says when it is there. */
struct ResultQueue {
    int capacity;
    int64_t sent, received;
    StepResult *pinned;
    cudaEvent_t *arrived;
};

static ResultQueue *open_queue(Backend *be, int capacity) {
    (void)be;
    ResultQueue *queue = (ResultQueue *)checked_calloc(1, sizeof *queue, "the steps' results");
    queue->capacity = capacity;
    queue->arrived = (cudaEvent_t *)checked_calloc((size_t)capacity, sizeof *queue->arrived, "the steps' results");
    cuda_check(cudaMallocHost((void **)&queue->pinned, (size_t)capacity * sizeof *queue->pinned),
               "taking pinned memory");
    for (int i = 0; i < capacity; i++)
        cuda_check(cudaEventCreateWithFlags(&queue->arrived[i], cudaEventDisableTiming), "making an event");
    return queue;
}

static void send(Backend *be, ResultQueue *queue, const StepResult *result) {
    const int i = (int)(queue->sent++ % queue->capacity);
    cuda_check(cudaMemcpyAsync(&queue->pinned[i], result, sizeof *result, cudaMemcpyDeviceToHost, cuda_stream(be)),
               "copying a step's result");
    cuda_check(cudaEventRecord(queue->arrived[i], cuda_stream(be)), "marking a step's result");
}

static StepResult receive(Backend *be, ResultQueue *queue) {
    (void)be;
    const int i = (int)(queue->received++ % queue->capacity);
    cuda_check(cudaEventSynchronize(queue->arrived[i]), "a step of the optimizer");
    return queue->pinned[i];
}

static void close_queue(Backend *be, ResultQueue *queue) {
    be->synchronize(be);
    for (int i = 0; i < queue->capacity; i++) cuda_check(cudaEventDestroy(queue->arrived[i]), "ending an event");
    cuda_check(cudaFreeHost(queue->pinned), "giving memory back");
    free(queue->arrived);
    free(queue);
}

/* In the order of the struct. */
static const MultiTensorPasses cuda_passes = {
    sums,      add_up,      step_coeffs, update,     directions, apply,      line_squares, line_factors, keep_prev_grad,
    normalize, copy_params, update_sums, update_ema, mix_ema,    open_queue, send,         receive,      close_queue};

const MultiTensorPasses *multi_tensor_cuda(void) { return &cuda_passes; }
