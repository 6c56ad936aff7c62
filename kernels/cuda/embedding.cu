/* embedding.cu: token and position embeddings, out = wte[tokens] + wpe or without wpe, and their gradients.
 *
 * Memory limits the speed. The bytes per element of out or dout that cannot be avoided, with bf16 activations:
 *
 *     forward     2 to write out, and each row of wte and wpe that occurs, once: a thread keeps its pack of wpe[t] for
 *                 a few sequences, and rows of frequent tokens stay in the cache
 *     backward    2 to read dout, and for each token that occurs 8 C to read and write its row of dwte. dwte and dwpe
 *                 sum over different rows of dout, so it is read twice: 4
 *
 * dwte[v] sums the rows of dout whose token is v. With atomics the order of that sum, and so its last bits, would
 * change from run to run. Here positions are sorted by token, stably, and each token's rows are summed in the order of
 * their positions:
 *
 *     1. count_digits, place_by_digit: a radix sort, 8 bits at a time from the lowest (two passes for 50304 tokens).
 *        It moves 4-byte positions, not rows of dout.
 *     2. sum_windows: a block sums WINDOW sorted positions, which are one token's or many tokens'. The sum of a run of
 *        equal tokens that begins and ends there is added to dwte. A run that crosses an end of the window leaves a
 *        piece.
 *     3. add_pieces: the pieces of such a run are added up and the sum is added to dwte. So rows of a very frequent
 *        token cost no more than others: its windows are summed in parallel, and each leaves one piece.
 *
 * Only one block adds to a row of dwte, once. */
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.cuh"

/* ---- threads along the channels, the same in all kernels that walk rows ---- */

constexpr int MAX_THREADS = 256;

/* A thread for each pack of VEC channels. Long rows take several rounds, as equal as whole warps allow. */
static unsigned threads_of_row(int C, int vec) {
    int64_t packs = ceil_div(C, vec), rounds = ceil_div(packs, MAX_THREADS);
    return (unsigned)round_up(ceil_div(packs, rounds), WARP);
}

template <class T, int VEC>
static __device__ __forceinline__ void add_to(Pack<float, VEC> &sum, const Pack<T, VEC> &pack) {
#pragma unroll
    for (int i = 0; i < VEC; i++) sum.x[i] += to_float(pack.x[i]);
}

/* ---- forward ---- */

constexpr int SEQUENCES = 4; /* sequences that share a read of wpe */

/* Block (t, j): position t of sequences j SEQUENCES and on. */
template <class T, int VEC>
static __global__ void __launch_bounds__(MAX_THREADS)
    embed_kernel(T *out, const int32_t *tokens, const T *wte, const T *wpe, int B, int seq_len, int C) {
    const int t = blockIdx.x, first = blockIdx.y * SEQUENCES;
    for (int c = threadIdx.x * VEC; c < C; c += blockDim.x * VEC) {
        Pack<T, VEC> position = {}, token[SEQUENCES] = {};
        if (wpe) position = load_pack<VEC>(wpe + (size_t)t * C + c);
#pragma unroll
        for (int i = 0; i < SEQUENCES; i++)
            if (first + i < B)
                token[i] = load_pack<VEC>(wte + (size_t)tokens[(size_t)(first + i) * seq_len + t] * C + c);
#pragma unroll
        for (int i = 0; i < SEQUENCES; i++)
            if (first + i < B) {
#pragma unroll
                for (int k = 0; k < VEC; k++)
                    token[i].x[k] = from_float<T>(to_float(token[i].x[k]) + to_float(position.x[k]));
                store_pack(out + ((size_t)(first + i) * seq_len + t) * C + c, token[i]);
            }
    }
}

/* ---- sorting positions by token ---- */

constexpr int DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS;
constexpr int SORT_THREADS = DIGITS; /* one for each digit */
constexpr int SORT_WARPS = SORT_THREADS / WARP, ROUNDS = 8;
constexpr int TILE = SORT_THREADS * ROUNDS; /* positions of a block */

/* The position at place i of the current order; NULL is the order before the first pass, 0, 1, 2, ... */
static __device__ __forceinline__ int position_at(const int *order, int i) { return order ? order[i] : i; }

static __device__ __forceinline__ int digit_of(int token, int shift) { return token >> shift & (DIGITS - 1); }

/* counts (tiles, DIGITS): how often each digit occurs in a tile. Integer sums do not depend on the atomics' order. */
static __global__ void __launch_bounds__(SORT_THREADS)
    count_digits_kernel(int *counts, const int32_t *tokens, const int *order, int shift, int N) {
    __shared__ int count[DIGITS];
    count[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * TILE + threadIdx.x, round = 0; round < ROUNDS && i < N; round++, i += SORT_THREADS)
        atomicAdd(&count[digit_of(tokens[position_at(order, i)], shift)], 1);
    __syncthreads();
    counts[blockIdx.x * DIGITS + threadIdx.x] = count[threadIdx.x];
}

/* The sum of x over the threads of the block that come before this one. A block must call it only once. */
static __device__ __forceinline__ int sum_before(int x) {
    __shared__ int of_warp[SORT_WARPS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int up_to_here = x;
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        int before = __shfl_up_sync(ALL_LANES, up_to_here, distance);
        if (lane >= distance) up_to_here += before;
    }
    if (lane == WARP - 1) of_warp[warp] = up_to_here;
    __syncthreads();
    for (int w = 0; w < warp; w++) up_to_here += of_warp[w];
    return up_to_here - x;
}

/* The lanes of `among` that have the same digit as this lane. */
static __device__ __forceinline__ unsigned lanes_alike(int digit, unsigned among) {
    unsigned alike = among;
#pragma unroll
    for (int bit = 0; bit < DIGIT_BITS; bit++) {
        unsigned set = __ballot_sync(ALL_LANES, digit >> bit & 1);
        alike &= digit >> bit & 1 ? set : ~set;
    }
    return alike;
}

/* Moves the positions of a tile to their places by digit: after all smaller digits, and after the same digit in earlier
 * tiles, earlier warps (each has ROUNDS x 32 consecutive positions), earlier rounds and earlier lanes. */
static __global__ void __launch_bounds__(SORT_THREADS)
    place_by_digit_kernel(int *sorted, const int *counts, const int32_t *tokens, const int *order, int shift, int N) {
    __shared__ int place[SORT_WARPS][DIGITS]; /* first the count of a digit in a warp, then the place of its first */
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int begin = blockIdx.x * TILE + warp * ROUNDS * WARP + lane;
    int position[ROUNDS], digit[ROUNDS], rank[ROUNDS]; /* rank: among those of this warp and digit */
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        const int i = begin + round * WARP;
        position[round] = i < N ? position_at(order, i) : 0;
        digit[round] = digit_of(tokens[position[round]], shift);
    }
    for (int w = 0; w < SORT_WARPS; w++) place[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        const bool there = begin + round * WARP < N;
        const unsigned alike = lanes_alike(digit[round], __ballot_sync(ALL_LANES, there));
        const int before = __popc(alike & ((1u << lane) - 1)), first = place[warp][digit[round]];
        rank[round] = first + before;
        __syncwarp();
        if (there && before == 0) place[warp][digit[round]] = first + __popc(alike);
        __syncwarp();
    }
    __syncthreads();

    int in_all = 0, in_tiles_before = 0; /* how often digit threadIdx.x occurs */
    for (int tile = 0; tile < (int)gridDim.x; tile++) {
        int count = counts[tile * DIGITS + threadIdx.x];
        in_all += count;
        if (tile < (int)blockIdx.x) in_tiles_before += count;
    }
    int next = sum_before(in_all) + in_tiles_before;
    for (int w = 0; w < SORT_WARPS; w++) {
        int count = place[w][threadIdx.x];
        place[w][threadIdx.x] = next;
        next += count;
    }
    __syncthreads();
#pragma unroll
    for (int round = 0; round < ROUNDS; round++)
        if (begin + round * WARP < N) sorted[place[warp][digit[round]] + rank[round]] = position[round];
}

/* ---- sums over sorted positions ---- */

constexpr int WINDOW = 32; /* sorted positions of a block */
constexpr int BATCH = 4;   /* rows that a thread loads before it adds them */

/* Pieces (windows, 2, C) are sums of runs that cross an end of a window. Piece 0 belongs to the run that began in an
 * earlier window, piece 1 to the run that begins in this window and goes on in the next. */
static __device__ __forceinline__ float *piece_of(float *pieces, int window, int which, int C) {
    return pieces + ((size_t)2 * window + which) * C;
}

template <int VEC> static __device__ __forceinline__ void add_to_memory(float *to, const Pack<float, VEC> &sum) {
    Pack<float, VEC> total = load_pack<VEC>(to);
    add_to(total, sum);
    store_pack(to, total);
}

/* last_token[w]: the token of the last position in window w. */
template <class T, int VEC>
static __global__ void __launch_bounds__(MAX_THREADS)
    sum_windows_kernel(float *dwte, float *pieces, int *last_token, const T *dout, const int32_t *tokens,
                       const int *order, int N, int C) {
    __shared__ int position[WINDOW + 2], token[WINDOW + 2]; /* one more at both ends; token -1 if it does not exist */
    const int begin = blockIdx.x * WINDOW, count = min(WINDOW, N - begin);
    for (int i = threadIdx.x; i < WINDOW + 2; i += blockDim.x) {
        const int at = begin + i - 1;
        const bool there = at >= 0 && at < N;
        position[i] = there ? order[at] : 0;
        token[i] = there ? tokens[position[i]] : -1;
    }
    __syncthreads();
    if (threadIdx.x == 0) last_token[blockIdx.x] = token[count];

    for (int c = threadIdx.x * VEC; c < C; c += blockDim.x * VEC) {
        Pack<float, VEC> sum = {};
        for (int first = 1; first <= count; first += BATCH) {
            Pack<T, VEC> row[BATCH] = {};
#pragma unroll
            for (int i = 0; i < BATCH; i++)
                if (first + i <= count) row[i] = load_pack<VEC>(dout + (size_t)position[first + i] * C + c);
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const int k = first + i;
                if (k > count) break;
                add_to(sum, row[i]);
                const bool goes_on = token[k + 1] == token[k];
                if (goes_on && k < count) continue;
                if (token[k] == token[0])
                    store_pack(piece_of(pieces, blockIdx.x, 0, C) + c, sum);
                else if (goes_on)
                    store_pack(piece_of(pieces, blockIdx.x, 1, C) + c, sum);
                else
                    add_to_memory(dwte + (size_t)token[k] * C + c, sum);
                sum = {};
            }
        }
    }
}

constexpr int PIECE_WARPS = 8;

/* The last window that the run of `token` reaches. It goes on from `window` into the next. */
static __device__ int last_window_of_run(int token, int window, const int *last_token, const int32_t *tokens,
                                         const int *order, int windows) {
    int low = window + 1, high = windows - 1; /* searches the first window with another last token */
    while (low < high) {
        int middle = (low + high) / 2;
        if (last_token[middle] == token)
            low = middle + 1;
        else
            high = middle;
    }
    return tokens[order[low * WINDOW]] == token ? low : low - 1;
}

/* Block (w, s) adds the pieces of the run that begins in window w and goes on, if there is one, for the channels from
 * s x 32 VEC on. Warps take every PIECE_WARPS-th piece, and their sums are added in the order of the warps. */
template <int VEC>
static __global__ void __launch_bounds__(PIECE_WARPS *WARP)
    add_pieces_kernel(float *dwte, float *pieces, const int *last_token, const int32_t *tokens, const int *order,
                      int C) {
    __shared__ Pack<float, VEC> of_warp[PIECE_WARPS][WARP];
    const int window = blockIdx.x, windows = gridDim.x, lane = threadIdx.x, warp = threadIdx.y;
    const int token = last_token[window], c = (blockIdx.y * WARP + lane) * VEC;
    if (window + 1 == windows || tokens[order[(window + 1) * WINDOW]] != token) return;
    if (window > 0 && last_token[window - 1] == token) return; /* the run began in an earlier window */

    const int last = last_window_of_run(token, window, last_token, tokens, order, windows);
    Pack<float, VEC> sum = {};
    if (c < C)
        for (int w = window + warp; w <= last; w += PIECE_WARPS)
            add_to(sum, load_pack<VEC>(piece_of(pieces, w, w == window, C) + c));
    of_warp[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= C) return;
    for (int w = 1; w < PIECE_WARPS; w++) add_to(sum, of_warp[w][lane]);
    add_to_memory(dwte + (size_t)token * C + c, sum);
}

/* dwpe[t] = (accumulate ? dwpe[t] : 0) + the sum over b of dout[b][t]. Block t. */
template <class T, int VEC>
static __global__ void __launch_bounds__(MAX_THREADS)
    sum_sequences_kernel(float *dwpe, const T *dout, int B, int seq_len, int C, bool accumulate) {
    const int t = blockIdx.x;
    for (int c = threadIdx.x * VEC; c < C; c += blockDim.x * VEC) {
        Pack<float, VEC> sum = {};
        for (int first = 0; first < B; first += BATCH) {
            Pack<T, VEC> row[BATCH] = {};
#pragma unroll
            for (int i = 0; i < BATCH; i++)
                if (first + i < B) row[i] = load_pack<VEC>(dout + ((size_t)(first + i) * seq_len + t) * C + c);
#pragma unroll
            for (int i = 0; i < BATCH; i++) add_to(sum, row[i]); /* zeros after the last */
        }
        float *to = dwpe + (size_t)t * C + c;
        if (accumulate)
            add_to_memory(to, sum);
        else
            store_pack(to, sum);
    }
}

/* ---- launches ---- */

/* Working memory of the backward pass: parts of one allocation. */
typedef struct Work {
    int *order, *other; /* (N) positions, before a pass of the sort and after */
    int *counts;        /* (tiles, DIGITS) */
    int *last_token;    /* (windows) */
    float *pieces;      /* (windows, 2, C) */
} Work;

static Work take_work(Backend *be, int N, int C) {
    const int64_t tiles = ceil_div(N, TILE), windows = ceil_div(N, WINDOW);
    const size_t order_bytes = (size_t)round_up(N * (int64_t)sizeof(int), 256);
    const size_t counts_bytes = (size_t)tiles * DIGITS * sizeof(int);
    const size_t last_bytes = (size_t)round_up(windows * (int64_t)sizeof(int), 256);
    const size_t pieces_bytes = (size_t)windows * 2 * C * sizeof(float);
    char *at = (char *)cuda_scratch(be, 2 * order_bytes + counts_bytes + last_bytes + pieces_bytes);
    Work work;
    work.order = (int *)at, at += order_bytes;
    work.other = (int *)at, at += order_bytes;
    work.counts = (int *)at, at += counts_bytes;
    work.last_token = (int *)at, at += last_bytes;
    work.pieces = (float *)at;
    return work;
}

/* Sorts the positions 0..N-1 by their tokens, which are below V; positions of equal tokens stay in order. */
static const int *sort_by_token(Backend *be, Work work, const int32_t *tokens, int N, int V) {
    const unsigned tiles = (unsigned)ceil_div(N, TILE);
    const int *order = NULL;
    for (int shift = 0; shift == 0 || (V - 1) >> shift > 0; shift += DIGIT_BITS) {
        int *sorted = order == work.order ? work.other : work.order;
        count_digits_kernel<<<tiles, SORT_THREADS, 0, cuda_stream(be)>>>(work.counts, tokens, order, shift, N);
        cuda_check_launch("count_digits_kernel");
        place_by_digit_kernel<<<tiles, SORT_THREADS, 0, cuda_stream(be)>>>(sorted, work.counts, tokens, order, shift,
                                                                           N);
        cuda_check_launch("place_by_digit_kernel");
        order = sorted;
    }
    return order;
}

template <class T, int VEC>
static void backward(Backend *be, float *dwte, float *dwpe, const T *dout, const int32_t *tokens, int B, int seq_len,
                     int C, int V, bool accumulate) {
    constexpr int PIECE_VEC = VEC > 1 ? 4 : 1;
    const int N = B * seq_len;
    const unsigned windows = (unsigned)ceil_div(N, WINDOW), slices = (unsigned)ceil_div(C, WARP * PIECE_VEC);
    Work work = take_work(be, N, C);
    const int *order = sort_by_token(be, work, tokens, N, V);
    sum_windows_kernel<T, VEC><<<windows, threads_of_row(C, VEC), 0, cuda_stream(be)>>>(
        dwte, work.pieces, work.last_token, dout, tokens, order, N, C);
    cuda_check_launch("sum_windows_kernel");
    add_pieces_kernel<PIECE_VEC><<<dim3(windows, slices), dim3(WARP, PIECE_WARPS), 0, cuda_stream(be)>>>(
        dwte, work.pieces, work.last_token, tokens, order, C);
    cuda_check_launch("add_pieces_kernel");
    if (!dwpe) return;
    sum_sequences_kernel<T, VEC>
        <<<(unsigned)seq_len, threads_of_row(C, VEC), 0, cuda_stream(be)>>>(dwpe, dout, B, seq_len, C, accumulate);
    cuda_check_launch("sum_sequences_kernel");
}

/* Whether the arrays a, b and c, with rows of C elements, can be loaded and stored in packs. */
template <class T> static bool in_packs(int C, const void *a, const void *b, const void *c) {
    return C % Pack<T>::N == 0 && is_pack_aligned(a) && is_pack_aligned(b) && is_pack_aligned(c);
}

template <class T>
static void embedding_forward(Backend *be, void *out, const int32_t *tokens, const void *wte, const void *wpe, int B,
                              int seq_len, int C) {
    const dim3 blocks((unsigned)seq_len, (unsigned)ceil_div(B, SEQUENCES));
    if (in_packs<T>(C, out, wte, wpe))
        embed_kernel<T, Pack<T>::N><<<blocks, threads_of_row(C, Pack<T>::N), 0, cuda_stream(be)>>>(
            (T *)out, tokens, (const T *)wte, (const T *)wpe, B, seq_len, C);
    else
        embed_kernel<T, 1><<<blocks, threads_of_row(C, 1), 0, cuda_stream(be)>>>((T *)out, tokens, (const T *)wte,
                                                                                 (const T *)wpe, B, seq_len, C);
    cuda_check_launch("embed_kernel");
}

template <class T>
static void embedding_backward(Backend *be, float *dwte, float *dwpe, const void *dout, const int32_t *tokens, int B,
                               int seq_len, int C, int V, bool accumulate) {
    if (in_packs<T>(C, dout, dwte, dwpe))
        backward<T, Pack<T>::N>(be, dwte, dwpe, (const T *)dout, tokens, B, seq_len, C, V, accumulate);
    else
        backward<T, 1>(be, dwte, dwpe, (const T *)dout, tokens, B, seq_len, C, V, accumulate);
}

template <class T> static void enter(Backend *be) {
    be->embedding_forward = embedding_forward<T>;
    be->embedding_backward = embedding_backward<T>;
}

void cuda_enter_embedding(Backend *be) {
    if (be->activation == DTYPE_BFLOAT16)
        enter<bf16>(be);
    else
        enter<float>(be);
}
