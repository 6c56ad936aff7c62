/* test_emulator.cu: kernels and programs that are right, in all orders of threads and under all sanitizers: CUDA's
 * words mean here what they mean there. What the emulator finds in faulty ones is tested by test_faults.cu. */
#include "dev/emu/test_support.cuh"

#include <cuda_bf16.h>
#include <math.h>

#include "kernels/cuda/ptx.cuh"

typedef __nv_bfloat16 bf16;

/* Runs a test in all orders; cmocka's own run of it is the loop. */
template <void (*test)()> static void in_all_orders(void **) {
    for (const char *order : all_orders) {
        assert_true(emu_set_order(order));
        test();
    }
    emu_set_order("forward");
}

static void assert_near(const std::vector<float> &got, const std::vector<float> &expected, float limit) {
    assert_int_equal(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); i++)
        if (!(fabsf(got[i] - expected[i]) <= limit))
            fail_msg("element %zu is %g, expected %g", i, static_cast<double>(got[i]),
                     static_cast<double>(expected[i]));
}

/* ---- launches ---- */

__global__ void visit(int *visits) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    visits[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1 + blockIdx.z;
}
static void every_thread_of_every_block_runs_once() {
    const dim3 grid(3, 2, 4), block(5, 4, 3);
    DeviceArray<int> visits(std::vector<int>(24 * 60, 0));
    visit<<<grid, block>>>(visits);
    std::vector<int> got = visits.values();
    for (int i = 0; i < 24 * 60; i++) assert_int_equal(got[i], 1 + i / (6 * 60));
}

struct Numbers {
    int value[100];
};
__global__ void store_sum(int *out, Numbers numbers, int64_t more, const int *none) {
    int sum = none ? 0 : static_cast<int>(more);
    for (int value : numbers.value) sum += value;
    *out = sum;
}
static void arguments_are_copied_at_the_launch() {
    DeviceArray<int> out(1);
    Numbers n;
    for (int i = 0; i < 100; i++) n.value[i] = i;
    int more = 50;
    store_sum<<<1, 1>>>(out, n, more, nullptr);
    n.value[0] = more = 1000;
    assert_int_equal(out.values()[0], 5000);
}

/* Compilers and reports speak of the file as it was written. */
static bool source_line_holds(int number, const char *text) {
    FILE *file = fopen(__FILE__, "r");
    if (!file) return false;
    char line[256] = "";
    for (int i = 0; i < number; i++)
        if (!fgets(line, sizeof line, file)) break;
    fclose(file);
    return strstr(line, text) != nullptr;
}

template <int FACTOR, bool NEGATIVE> __global__ void scale(float *x) { x[threadIdx.x] *= NEGATIVE ? -FACTOR : FACTOR; }
#define SCALE(factor, x) scale<factor, false><<<1, 4>>>(x)
static void all_ways_to_write_a_launch_are_read() {
    DeviceArray<float> x(std::vector<float>(4, 1.0f));
    const char *text = "not<<<a launch>>>"; /* nor<<<this>>>() */
    void (*kernel)(float *) = scale<2, (3 < 2)>;
    kernel<<<1, 4>>>(x);
    SCALE(3, x);
    ::scale<5, true><<<dim3(1, 1), (text[0] == 'n') ? 4 : 1, 0>>>(x);
    assert_true(source_line_holds(__LINE__, "this very line"));
    assert_true(x.values()[3] == -30.0f);
}

__global__ void nothing() {}
static void assert_refused(dim3 grid, dim3 block, size_t shared, cudaError_t expected) {
    nothing<<<grid, block, shared>>>();
    assert_int_equal(cudaPeekAtLastError(), expected);
    assert_int_equal(cudaGetLastError(), expected);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
}
static void test_limits_of_launches(void **) {
    assert_refused(1, 1024, 48 << 10, cudaSuccess);
    assert_refused(1, 1025, 0, cudaErrorInvalidConfiguration);
    assert_refused(1, dim3(32, 33), 0, cudaErrorInvalidConfiguration);
    assert_refused(1, dim3(1, 1, 65), 0, cudaErrorInvalidConfiguration);
    assert_refused(0, 32, 0, cudaErrorInvalidConfiguration);
    assert_refused(32, 0, 0, cudaErrorInvalidConfiguration);
    assert_refused(dim3(1, 65536), 32, 0, cudaErrorInvalidConfiguration);
    assert_refused(1, 32, (48 << 10) + 1, cudaErrorInvalidValue);
    assert_int_equal(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
                     cudaErrorInvalidValue);
    cudaGetLastError();
    must(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
    assert_refused(1, 32, 100 << 10, cudaSuccess);
    assert_refused(1, 32, (100 << 10) + 1, cudaErrorInvalidValue);
}

static void test_names_of_orders(void **) {
    for (const char *name : {"forward", "reverse", "newest", "mix", "mix:77"}) assert_true(emu_set_order(name));
    assert_false(emu_set_order("sideways"));
    emu_set_order("forward");
}

/* ---- blocks ---- */

/* y = (x - mean)/sqrt(var + eps) in rows of C, a block each. */
template <class T> __global__ void __launch_bounds__(64) normalise(T *y, const T *x, int C) {
    __shared__ float partial[2], total;
    const T *row = x + static_cast<size_t>(blockIdx.x) * C;
    float mean = 0.0f, variance = 0.0f;
    for (int pass = 0; pass < 2; pass++) {
        float sum = 0.0f;
        for (int i = threadIdx.x; i < C; i += 64) {
            float v = static_cast<float>(row[i]);
            sum += pass == 0 ? v : (v - mean) * (v - mean);
        }
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(0xFFFFFFFFu, sum, distance);
        if (threadIdx.x % warpSize == 0) partial[threadIdx.x / warpSize] = sum;
        __syncthreads();
        if (threadIdx.x == 0) total = partial[0] + partial[1];
        __syncthreads();
        (pass == 0 ? mean : variance) = total / C;
    }
    const float rstd = rsqrtf(variance + 1e-5f);
    for (int i = threadIdx.x; i < C; i += 64)
        y[static_cast<size_t>(blockIdx.x) * C + i] = T((static_cast<float>(row[i]) - mean) * rstd);
}
template <class T> static void rows_are_normalised() {
    const int N = 5, C = 100;
    std::vector<float> x = numbers(N * C), expected(N * C);
    for (int n = 0; n < N; n++) {
        double mean = 0, variance = 0;
        for (int c = 0; c < C; c++) mean += x[n * C + c] / static_cast<double>(C);
        for (int c = 0; c < C; c++) variance += (x[n * C + c] - mean) * (x[n * C + c] - mean) / C;
        for (int c = 0; c < C; c++) expected[n * C + c] = (x[n * C + c] - mean) / sqrt(variance + 1e-5);
    }
    DeviceArray<T> device_x(x), y(N * C);
    normalise<T><<<N, 64>>>(y, device_x, C);
    std::vector<T> got = y.values();
    assert_near(std::vector<float>(got.begin(), got.end()), expected, sizeof(T) == 2 ? 1e-2f : 1e-5f);
}

/* c (n,n) = a . b in tiles of TxT, both in dynamic shared memory. */
template <int T> __global__ void matmul_of_tiles(float *c, const float *a, const float *b, int n) {
    extern __shared__ __align__(16) unsigned char memory[];
    float *tile_a = reinterpret_cast<float *>(memory), *tile_b = tile_a + T * T;
    const int y = threadIdx.y, x = threadIdx.x, row = blockIdx.y * T + y, column = blockIdx.x * T + x;
    float sum = 0.0f;
    for (int k = 0; k < n; k += T) {
        tile_a[y * T + x] = a[row * n + k + x];
        tile_b[y * T + x] = b[(k + y) * n + column];
        __syncthreads();
        for (int i = 0; i < T; i++) sum += tile_a[y * T + i] * tile_b[i * T + x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}
static void tiles_in_dynamic_shared_memory_multiply() {
    const int n = 64;
    std::vector<float> a = numbers(n * n), b = numbers(n * n, 3), expected(n * n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            for (int k = 0; k < n; k++) expected[i * n + j] += a[i * n + k] * b[k * n + j];
    DeviceArray<float> device_a(a), device_b(b), c(n * n);
    matmul_of_tiles<32><<<dim3(2, 2), dim3(32, 32), 2 * 32 * 32 * sizeof(float)>>>(c, device_a, device_b, n);
    assert_near(c.values(), expected, 0.0f);
}

/* All dynamic shared memory that an H100 has. */
__global__ void reverse_all(int *out, int n) {
    extern __shared__ int s[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = i;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = s[n - 1 - i];
}
static void dynamic_shared_memory_is_as_large_as_allowed() {
    const int bytes = 227 << 10, n = bytes / sizeof(int);
    must(cudaFuncSetAttribute(reverse_all, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    DeviceArray<int> out(n);
    reverse_all<<<1, 1024, bytes>>>(out, n);
    std::vector<int> got = out.values();
    for (int i = 0; i < n; i++) assert_int_equal(got[i], n - 1 - i);
}

__global__ void vote_in_barriers(int *out, int n) {
    const int i = threadIdx.x;
    int count = __syncthreads_count(i % 3 == 0);
    int any = __syncthreads_or(i == 5), none = __syncthreads_or(i == 1000);
    int all = __syncthreads_and(i < 100), not_all = __syncthreads_and(i != 7);
    if (i >= n) return;
    int left = __syncthreads_count(1); /* who has exited is not waited for, nor counted */
    out[i] = count * 1000 + left * 10 + (any && !none && all && !not_all);
}
static void barriers_vote() {
    DeviceArray<int> out(50);
    vote_in_barriers<<<1, 100>>>(out, 50);
    for (int got : out.values()) assert_int_equal(got, 34 * 1000 + 50 * 10 + 1);
}

__global__ void add_to_all(int *sums, float *number, unsigned *largest) {
    atomicAdd(&sums[0], static_cast<int>(threadIdx.x));
    atomicMax(&sums[1], static_cast<int>(threadIdx.x));
    atomicMin(&sums[2], static_cast<int>(threadIdx.x));
    atomicAdd(number, 0.5f);
    int old = atomicAdd(&sums[3], 1);
    if (old == 0) atomicExch(&sums[4], 77);
    atomicMax(largest, 0xF0000000u + blockIdx.x);
}
static void atomics_combine_all_threads() {
    DeviceArray<int> sums(std::vector<int>(5, 0));
    DeviceArray<float> number(std::vector<float>(1, 0.0f));
    DeviceArray<unsigned> largest(std::vector<unsigned>(1, 0));
    add_to_all<<<3, 100>>>(sums, number, largest);
    std::vector<int> got = sums.values();
    assert_int_equal(got[0], 3 * 4950);
    assert_int_equal(got[1], 99);
    assert_int_equal(got[2], 0);
    assert_int_equal(got[3], 300);
    assert_int_equal(got[4], 77);
    assert_true(number.values()[0] == 150.0f);
    assert_int_equal(largest.values()[0], 0xF0000002u);
}

/* ---- warps ---- */

/* For each lane 8 results: the lanes that it got something from, and votes. */
__global__ void all_shuffles(unsigned *out, int width) {
    const unsigned lane = threadIdx.x % 32, all = 0xFFFFFFFFu;
    unsigned *mine = out + threadIdx.x * 8;
    mine[0] = __shfl_sync(all, lane, 5, width);
    mine[1] = __shfl_xor_sync(all, lane, 3, width);
    mine[2] = __shfl_down_sync(all, lane, 2, width);
    mine[3] = __shfl_up_sync(all, lane, 2, width);
    mine[4] = __ballot_sync(all, lane % 5 == 0);
    mine[5] = __any_sync(all, lane == 9) + 2 * __any_sync(all, 0);
    mine[6] = __all_sync(all, 1) + 2 * __all_sync(all, lane != 9);
    mine[7] = static_cast<unsigned>(__shfl_xor_sync(all, 1e10 + lane, 1) - 1e10);
}
static void lanes_read_each_other() {
    for (int width = 8; width <= 32; width *= 2) {
        DeviceArray<unsigned> out(64 * 8);
        all_shuffles<<<1, 64>>>(out, width);
        std::vector<unsigned> got = out.values();
        for (int thread = 0; thread < 64; thread++) {
            const int lane = thread % 32, first = lane / width * width, last = first + width - 1;
            const unsigned *mine = &got[thread * 8];
            assert_int_equal(mine[0], first + 5);
            assert_int_equal(mine[1], lane ^ 3);
            assert_int_equal(mine[2], lane + 2 > last ? lane : lane + 2);
            assert_int_equal(mine[3], lane - 2 < first ? lane : lane - 2);
            assert_int_equal(mine[4], 0x42108421u);
            assert_int_equal(mine[5], 1);
            assert_int_equal(mine[6], 1);
            assert_int_equal(mine[7], lane ^ 1);
        }
    }
}

/* Parts of a warp work apart from each other; and a warp of which some lanes have exited. */
__global__ void parts_of_warps(int *out) {
    const unsigned lane = threadIdx.x, mask = lane < 12 ? 0x00000FFFu : 0xFFFFF000u;
    int sum = 0;
    for (unsigned i = 0; i < (lane < 12 ? 3 : 7); i++) {
        sum += __shfl_sync(mask, static_cast<int>(lane), lane < 12 ? i : 12 + i);
        __syncwarp(mask);
    }
    out[lane] = sum;
    if (lane % 2) return;
    out[lane] += 1000 * __popc(__ballot_sync(0xFFFFFFFFu, 1)); /* exited lanes give no vote */
}
static void parts_of_warps_are_apart() {
    DeviceArray<int> out(32);
    parts_of_warps<<<1, 32>>>(out);
    std::vector<int> got = out.values();
    for (int lane = 0; lane < 32; lane++) assert_int_equal(got[lane] % 1000, lane < 12 ? 3 : 105);
    assert_int_equal(got[30] / 1000, 16);
}

/* ---- tensor cores: layouts ---- */

/* What ldmatrix gives each lane, of a matrix whose elements are their own number. */
template <bool transpose> __global__ void load_fragments(uint32_t *out) {
    __shared__ __align__(16) uint16_t s[32][8]; /* four pieces, one below the other */
    for (int i = 0; i < 8; i++) s[threadIdx.x][i] = threadIdx.x * 8 + i;
    __syncwarp();
    uint32_t four[4];
    if (transpose)
        ldmatrix_x4_trans(four, s[threadIdx.x]);
    else
        ldmatrix_x4(four, s[threadIdx.x]);
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = four[i];
}
template <bool transpose> static void fragments_are_where_ptx_says() {
    DeviceArray<uint32_t> out(32 * 4);
    load_fragments<transpose><<<1, 32>>>(out);
    std::vector<uint32_t> got = out.values();
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const unsigned piece = i * 64, near = lane / 4, pair = lane % 4 * 2;
            const unsigned low = transpose ? pair * 8 + near : near * 8 + pair, step = transpose ? 8 : 1;
            assert_int_equal(got[lane * 4 + i], (piece + low) | (piece + low + step) << 16);
        }
}

/* d (16,8) = a . b over K, through cp.async in two stages, ldmatrix and mma. What lies past K is zero. Stored as said:
 * a (16,K) or transposed (K,16); b (K,8), or transposed (8,K). */
struct Stage {
    bf16 a[16 * 16], b[16 * 8];
};
/* Copies rows [row, row + rows) and columns [column, column + columns) of a matrix to shared memory, dense. */
__device__ void copy_piece(bf16 *to, const bf16 *from, int row, int column, int rows, int columns, int all_rows,
                           int all_columns) {
    for (int i = threadIdx.x * 8; i < rows * columns; i += 32 * 8) {
        const int r = row + i / columns, c = column + i % columns;
        const bool valid = r < all_rows && c < all_columns;
        cp_async_16_or_zero(to + i, valid ? from + r * all_columns + c : from, valid);
    }
}
template <bool A_TRANSPOSED, bool B_TRANSPOSED>
__global__ void multiply_matrices(float *out, const bf16 *a, const bf16 *b, int K) {
    __shared__ __align__(16) Stage stage[2];
    const int lane = threadIdx.x;
    float d[4] = {};
    const auto fetch = [&](int k) {
        Stage &s = stage[k / 16 % 2];
        if (A_TRANSPOSED)
            copy_piece(s.a, a, k, 0, 16, 16, K, 16);
        else
            copy_piece(s.a, a, 0, k, 16, 16, 16, K);
        if (B_TRANSPOSED)
            copy_piece(s.b, b, 0, k, 8, 16, 8, K);
        else
            copy_piece(s.b, b, k, 0, 16, 8, K, 8);
        cp_async_commit();
    };
    fetch(0);
    for (int k = 0; k < K; k += 16) {
        fetch(k + 16);
        cp_async_wait<1>();
        __syncthreads();
        const Stage &s = stage[k / 16 % 2];
        uint32_t fragment_a[4], fragment_b[4]; /* b has two pieces, and each is loaded twice */
        if (A_TRANSPOSED)
            ldmatrix_x4_trans(fragment_a, s.a + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
        else
            ldmatrix_x4(fragment_a, s.a + lane % 16 * 16 + lane / 16 * 8);
        if (B_TRANSPOSED)
            ldmatrix_x4(fragment_b, s.b + lane % 8 * 16 + lane / 8 % 2 * 8);
        else
            ldmatrix_x4_trans(fragment_b, s.b + lane % 16 * 8);
        mma_m16n8k16(d, fragment_a, {fragment_b[0], fragment_b[1]});
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
template <bool A_TRANSPOSED, bool B_TRANSPOSED> static void tensor_cores_multiply() {
    for (int K = 8; K <= 72; K += 8) {
        std::vector<float> a = numbers(16 * K), b = numbers(K * 8, 11), expected(16 * 8);
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++)
                for (int k = 0; k < K; k++)
                    expected[i * 8 + j] +=
                        a[A_TRANSPOSED ? k * 16 + i : i * K + k] * b[B_TRANSPOSED ? j * K + k : k * 8 + j];
        DeviceArray<bf16> device_a(a), device_b(b);
        DeviceArray<float> out(16 * 8);
        multiply_matrices<A_TRANSPOSED, B_TRANSPOSED><<<1, 32>>>(out, device_a, device_b, K);
        assert_near(out.values(), expected, 0.0f);
    }
}

/* ---- streams and events ---- */

__global__ void set_to(float *x, float value) { *x = value; }
__global__ void add(float *x, float value) { *x += value; }
__global__ void multiply(float *x, float value) { *x *= value; }

/* Work alternates between streams that only events order. */
static void events_order_streams() {
    cudaStream_t stream[3];
    cudaEvent_t event;
    DeviceArray<float> x(1);
    must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    for (cudaStream_t &s : stream) must(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    float expected = 0.0f;
    set_to<<<1, 1, 0, stream[0]>>>(x, 0.0f);
    for (int i = 0; i < 9; i++) {
        must(cudaEventRecord(event, stream[i % 3])); /* a later record does not change an earlier wait */
        must(cudaStreamWaitEvent(stream[(i + 1) % 3], event, 0));
        if (i % 2)
            add<<<1, 1, 0, stream[(i + 1) % 3]>>>(x, static_cast<float>(i));
        else
            multiply<<<1, 1, 0, stream[(i + 1) % 3]>>>(x, 2.0f);
        expected = i % 2 ? expected + static_cast<float>(i) : expected * 2.0f;
    }
    must(cudaStreamSynchronize(stream[0])); /* the last wrote here */
    assert_true(x.values()[0] == expected);
    for (cudaStream_t s : stream) must(cudaStreamDestroy(s));
    must(cudaEventDestroy(event));
}

/* The default stream and blocking ones wait for each other. */
static void default_stream_is_in_order_with_blocking_streams() {
    cudaStream_t stream[2];
    for (cudaStream_t &s : stream) must(cudaStreamCreate(&s));
    DeviceArray<float> x(1);
    must(cudaMemsetAsync(x, 0, sizeof(float), stream[0]));
    add<<<1, 1>>>(x, 3.0f);
    multiply<<<1, 1, 0, stream[1]>>>(x, 5.0f);
    add<<<1, 1>>>(x, 1.0f);
    multiply<<<1, 1, 0, stream[0]>>>(x, 2.0f);
    assert_true(x.values()[0] == 32.0f);
    for (cudaStream_t s : stream) must(cudaStreamDestroy(s));
}

static void test_queries_say_not_ready_and_then_get_on(void **) {
    cudaStream_t stream;
    cudaEvent_t event;
    must(cudaStreamCreate(&stream));
    must(cudaEventCreate(&event));
    assert_int_equal(cudaEventQuery(event), cudaSuccess); /* never recorded */
    assert_int_equal(cudaStreamQuery(stream), cudaSuccess);
    DeviceArray<float> x(1);
    set_to<<<1, 1, 0, stream>>>(x, 1.0f);
    must(cudaEventRecord(event, stream));
    assert_int_equal(cudaStreamQuery(stream), cudaErrorNotReady);
    assert_int_equal(cudaEventQuery(event), cudaErrorNotReady);
    assert_int_equal(cudaGetLastError(), cudaSuccess); /* that is no error */
    int asked = 1;
    while (cudaEventQuery(event) == cudaErrorNotReady) asked++;
    assert_in_range(asked, 2, 10);
    assert_int_equal(cudaStreamQuery(stream), cudaSuccess);
    must(cudaEventDestroy(event));
    must(cudaStreamDestroy(stream));
}

static void test_elapsed_time(void **) {
    cudaEvent_t start, end, untimed;
    must(cudaEventCreate(&start));
    must(cudaEventCreate(&end));
    must(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    must(cudaEventRecord(start, nullptr));
    nothing<<<100, 32>>>();
    must(cudaEventRecord(end, nullptr));
    must(cudaEventRecord(untimed, nullptr));
    float ms = -1.0f;
    assert_int_equal(cudaEventElapsedTime(&ms, start, end), cudaErrorNotReady);
    must(cudaEventSynchronize(end));
    must(cudaEventElapsedTime(&ms, start, end));
    assert_true(ms > 0.0f && ms < 10000.0f);
    must(cudaDeviceSynchronize());
    assert_int_equal(cudaEventElapsedTime(&ms, start, untimed), cudaErrorInvalidResourceHandle);
    cudaGetLastError();
    for (cudaEvent_t e : {start, end, untimed}) must(cudaEventDestroy(e));
}

static void test_handles_that_are_gone_are_errors(void **) {
    cudaStream_t stream;
    cudaEvent_t event;
    must(cudaStreamCreate(&stream));
    must(cudaEventCreate(&event));
    must(cudaStreamDestroy(stream));
    must(cudaEventDestroy(event));
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaEventRecord(event, nullptr), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidResourceHandle);
}

/* Queued work of the library emulations. */
static void work_runs_in_its_place_in_the_stream() {
    cudaStream_t stream;
    must(cudaStreamCreate(&stream));
    DeviceArray<float> x(1);
    float *memory = x, seen = 0.0f;
    set_to<<<1, 1, 0, stream>>>(x, 4.0f);
    emu::enqueue(stream, [&] { seen = *memory, *memory = 6.0f; });
    add<<<1, 1, 0, stream>>>(x, 1.0f);
    assert_true(seen == 0.0f);
    must(cudaStreamSynchronize(stream));
    assert_true(seen == 4.0f && x.values()[0] == 7.0f);
    must(cudaStreamDestroy(stream));
}

/* ---- memory, devices ---- */

static void test_memory_is_limited(void **) {
    setenv("MARS_EMU_MEMORY", "1000000", 1);
    size_t available, total, before;
    must(cudaMemGetInfo(&before, &total));
    assert_int_equal(total, 1000000);
    void *memory, *none;
    must(cudaMalloc(&memory, 600000));
    must(cudaMemGetInfo(&available, &total));
    assert_int_equal(available, before - 600000);
    assert_int_equal(cudaMalloc(&none, 600000), cudaErrorMemoryAllocation);
    assert_null(none);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(reinterpret_cast<uintptr_t>(memory) % 256, 0);
    must(cudaFree(memory));
    must(cudaFree(nullptr));
    must(cudaMemGetInfo(&available, &total));
    assert_int_equal(available, before);
    int local;
    assert_int_equal(cudaFree(&local), cudaErrorInvalidValue);
    cudaGetLastError();
    unsetenv("MARS_EMU_MEMORY");
}

static void test_copies_check_what_they_are_given(void **) {
    DeviceArray<float> device(4);
    PinnedArray<float> pinned(4);
    float host[4] = {1, 2, 3, 4};
    const size_t bytes = sizeof host;
    assert_int_equal(cudaMemcpy(host, device, bytes, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(device, host, bytes, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(device + 1, host, bytes, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(host, 0, bytes), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(device, 0, bytes + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    must(cudaMemcpy(device + 1, host + 1, 3 * sizeof(float), cudaMemcpyDefault));
    must(cudaMemset(device, 0, sizeof(float)));
    must(cudaMemcpy(pinned, device, bytes, cudaMemcpyDeviceToHost));
    assert_true(pinned[0] == 0.0f && pinned[1] == 2.0f && pinned[3] == 4.0f);
    must(cudaMemcpy(host, pinned, 0, cudaMemcpyHostToHost));
}

static void test_devices(void **) {
    int number = -1;
    must(cudaGetDeviceCount(&number));
    assert_int_equal(number, 1);
    assert_int_equal(cudaSetDevice(1), cudaErrorInvalidDevice);
    setenv("MARS_EMU_DEVICES", "2", 1);
    must(cudaSetDevice(1));
    size_t available, total;
    DeviceArray<float> x(1024);
    must(cudaMemGetInfo(&available, &total));
    assert_int_equal(available, total - 4096);
    set_to<<<1, 1>>>(x, 3.0f);
    assert_true(x.values()[0] == 3.0f);
    cudaDeviceProp properties;
    must(cudaGetDeviceProperties(&properties, 1));
    assert_string_equal(properties.name, "emulated GPU");
    int value;
    must(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 1));
    assert_int_equal(value, properties.multiProcessorCount);
    must(cudaSetDevice(0));
    setenv("MARS_EMU_DEVICES", "0", 1);
    assert_int_equal(cudaGetDeviceCount(&number), cudaErrorNoDevice);
    assert_int_equal(number, 0);
    unsetenv("MARS_EMU_DEVICES");
    cudaGetLastError();
    assert_string_equal(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice");
}

/* ---- arithmetic ---- */

static unsigned short rounded(float x) { return __bfloat16_as_ushort(__float2bfloat16(x)); }

static void test_bfloat16(void **) {
    for (unsigned bits = 0; bits < 0x10000; bits++) {
        bf16 number = __ushort_as_bfloat16(bits);
        bool is_nan = (bits & 0x7FFF) > 0x7F80;
        assert_int_equal(rounded(__bfloat162float(number)), is_nan ? 0x7FFF : bits);
    }
    assert_int_equal(rounded(__uint_as_float(0x3F808000)), 0x3F80); /* a tie goes to the even one */
    assert_int_equal(rounded(__uint_as_float(0x3F818000)), 0x3F82);
    assert_int_equal(rounded(__uint_as_float(0x3F808001)), 0x3F81);
    assert_int_equal(rounded(3.4e38f), 0x7F80); /* too large: infinity */
    bf16 a = 1.5f, b = -2.0f;
    assert_true(float(a * b + a) == -1.5f && float(-a) == -1.5f && b < a && float(__hmax(a, b)) == 1.5f);
    __nv_bfloat162 pair = __floats2bfloat162_rn(1.0f, 2.0f);
    float2 both = __bfloat1622float2(pair);
    assert_true(both.x == 1.0f && both.y == 2.0f && __low2float(pair) == 1.0f && __high2float(pair) == 2.0f);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    assert_int_equal(bits, 0x40003F80u);
}

static void test_functions_of_numbers(void **) {
    assert_true(min(3, int64_t(2)) == 2 && max(3u, 7) == 7 && min(1.5f, 2.0) == 1.5 && max(1.0f, 2.0f) == 2.0f);
    assert_true(max(NAN, 1.0f) == 1.0f && min(1.0f, NAN) == 1.0f);
    assert_true(fabsf(rsqrtf(4.0f) - 0.5f) < 1e-6f && fabsf(__expf(1.0f) - 2.7182818f) < 1e-6f);
    assert_int_equal(__float_as_uint(1.0f), 0x3F800000);
    assert_int_equal(__clz(1), 31);
    assert_int_equal(__clz(0), 32);
    assert_int_equal(__ffs(8), 4);
    assert_int_equal(__popc(0xFFu), 8);
    assert_int_equal(__umulhi(0x80000000u, 6), 3);
    assert_int_equal(alignof(float4), 16);
    assert_int_equal(alignof(float2), 8);
    assert_int_equal(sizeof(float3), 12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"every_thread_of_every_block_runs_once", in_all_orders<every_thread_of_every_block_runs_once>, 0, 0, 0},
        {"arguments_are_copied_at_the_launch", in_all_orders<arguments_are_copied_at_the_launch>, 0, 0, 0},
        {"all_ways_to_write_a_launch_are_read", in_all_orders<all_ways_to_write_a_launch_are_read>, 0, 0, 0},
        cmocka_unit_test(test_limits_of_launches),
        cmocka_unit_test(test_names_of_orders),
        {"rows_are_normalised_float32", in_all_orders<rows_are_normalised<float>>, 0, 0, 0},
        {"rows_are_normalised_bfloat16", in_all_orders<rows_are_normalised<bf16>>, 0, 0, 0},
        {"tiles_in_dynamic_shared_memory_multiply", in_all_orders<tiles_in_dynamic_shared_memory_multiply>, 0, 0, 0},
        {"dynamic_shared_memory_is_as_large_as_allowed", in_all_orders<dynamic_shared_memory_is_as_large_as_allowed>, 0,
         0, 0},
        {"barriers_vote", in_all_orders<barriers_vote>, 0, 0, 0},
        {"atomics_combine_all_threads", in_all_orders<atomics_combine_all_threads>, 0, 0, 0},
        {"lanes_read_each_other", in_all_orders<lanes_read_each_other>, 0, 0, 0},
        {"parts_of_warps_are_apart", in_all_orders<parts_of_warps_are_apart>, 0, 0, 0},
        {"fragments_are_where_ptx_says", in_all_orders<fragments_are_where_ptx_says<false>>, 0, 0, 0},
        {"transposed_fragments_are_where_ptx_says", in_all_orders<fragments_are_where_ptx_says<true>>, 0, 0, 0},
        {"tensor_cores_multiply", in_all_orders<tensor_cores_multiply<false, false>>, 0, 0, 0},
        {"tensor_cores_multiply_a_transposed", in_all_orders<tensor_cores_multiply<true, false>>, 0, 0, 0},
        {"tensor_cores_multiply_b_transposed", in_all_orders<tensor_cores_multiply<false, true>>, 0, 0, 0},
        {"events_order_streams", in_all_orders<events_order_streams>, 0, 0, 0},
        {"default_stream_is_in_order_with_blocking_streams",
         in_all_orders<default_stream_is_in_order_with_blocking_streams>, 0, 0, 0},
        cmocka_unit_test(test_queries_say_not_ready_and_then_get_on),
        cmocka_unit_test(test_elapsed_time),
        cmocka_unit_test(test_handles_that_are_gone_are_errors),
        {"work_runs_in_its_place_in_the_stream", in_all_orders<work_runs_in_its_place_in_the_stream>, 0, 0, 0},
        cmocka_unit_test(test_memory_is_limited),
        cmocka_unit_test(test_copies_check_what_they_are_given),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_bfloat16),
        cmocka_unit_test(test_functions_of_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
