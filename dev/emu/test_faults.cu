/* test_faults.cu: kernels and programs with a fault that somebody might make, and what finds it: an order of threads in
 * which the result is wrong, a sanitizer, or the emulator itself. Each kernel exists without the fault too, and is then
 * right in all orders and silent under all sanitizers. What a sanitizer finds is tested in the builds that have it.
 * test_emulator.cu tests what is right. */
#include "dev/emu/test_support.cuh"

#include <cuda_bf16.h>

#include "kernels/cuda/ptx.cuh"

typedef __nv_bfloat16 bf16;

static bool is_equal(const std::vector<float> &a, const std::vector<float> &b) { return a == b; }

/* ---- barriers ---- */

enum Fault { NONE, FAULT };

/* c = a . b, (n,n) each, in tiles of 16x16. The fault: a tile is overwritten before all have used it. */
template <Fault fault> __global__ void tiled_matmul(float *c, const float *a, const float *b, int n) {
    __shared__ float tile_a[16][16], tile_b[16][16];
    const int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x;
    float sum = 0.0f;
    for (int k = 0; k < n; k += 16) {
        tile_a[threadIdx.y][threadIdx.x] = a[row * n + k + threadIdx.x];
        tile_b[threadIdx.y][threadIdx.x] = b[(k + threadIdx.y) * n + column];
        __syncthreads();
        for (int i = 0; i < 16; i++) sum += tile_a[threadIdx.y][i] * tile_b[i][threadIdx.x];
        if (fault == NONE) __syncthreads();
    }
    c[row * n + column] = sum;
}

template <Fault fault> static bool run_tiled_matmul() {
    const int n = 48;
    std::vector<float> a = numbers(n * n), b = numbers(n * n, 5), expected(n * n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            for (int k = 0; k < n; k++) expected[i * n + j] += a[i * n + k] * b[k * n + j];
    DeviceArray<float> device_a(a), device_b(b), device_c(n * n);
    tiled_matmul<fault><<<dim3(3, 3), dim3(16, 16)>>>(device_c, device_a, device_b, n);
    return is_equal(device_c.values(), expected);
}

static void test_tile_overwritten_too_early_is_wrong_in_any_order(void **) {
    assert_right_in_all_orders(run_tiled_matmul<NONE>);
    for (const char *order : all_orders) assert_wrong(run_tiled_matmul<FAULT>, order);
}

/* out[i] = i > 0 ? x[i - 1] : 0, through shared memory. The fault: read before it is written. */
template <Fault fault> __global__ void shift(float *out, const float *x) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    if (fault == NONE) __syncthreads();
    out[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] : 0.0f;
}

template <Fault fault> static bool run_shift() {
    std::vector<float> x = numbers(64), expected(64);
    for (int i = 1; i < 64; i++) expected[i] = x[i - 1];
    DeviceArray<float> device_x(x), out(64);
    shift<fault><<<1, 64>>>(out, device_x);
    return is_equal(out.values(), expected);
}

static void test_left_neighbour_read_too_early_is_wrong_in_reverse(void **) {
    assert_right_in_all_orders(run_shift<NONE>);
    assert_hidden(run_shift<FAULT>, "forward");
    assert_wrong(run_shift<FAULT>, "reverse");
    assert_wrong(run_shift<FAULT>, "newest");
}

enum MissingBarrier { NO_BARRIER_MISSING, BEFORE_READING, BEFORE_THE_NEXT_SUM };

/* The sum over the block's 128 threads, to all. Without the barrier at its end a second sum overwrites the partial sums
 * that a slow thread has yet to read. */
template <MissingBarrier missing> __device__ float block_sum(float value) {
    __shared__ float partial[4];
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    if (missing != BEFORE_READING) __syncthreads();
    float sum = partial[0] + partial[1] + partial[2] + partial[3];
    if (missing != BEFORE_THE_NEXT_SUM) __syncthreads();
    return sum;
}

/* out[i] = the sum of x + the sum of x^2. */
template <MissingBarrier missing> __global__ void two_sums(float *out, const float *x) {
    float value = x[threadIdx.x];
    float sum = block_sum<missing>(value);
    out[threadIdx.x] = sum + block_sum<missing>(value * value);
}

template <MissingBarrier missing> static bool run_two_sums() {
    std::vector<float> x = numbers(128);
    float sum = 0.0f;
    for (float value : x) sum += value + value * value;
    DeviceArray<float> device_x(x), out(128);
    two_sums<missing><<<1, 128>>>(out, device_x);
    return is_equal(out.values(), std::vector<float>(128, sum));
}

static void test_partial_sums_read_too_early_are_wrong_in_any_order(void **) {
    assert_right_in_all_orders(run_two_sums<NO_BARRIER_MISSING>);
    for (const char *order : all_orders) assert_wrong(run_two_sums<BEFORE_READING>, order);
}

static void test_no_barrier_between_two_sums_is_wrong_newest_first(void **) {
    assert_hidden(run_two_sums<BEFORE_THE_NEXT_SUM>, "forward");
    assert_hidden(run_two_sums<BEFORE_THE_NEXT_SUM>, "reverse");
    assert_wrong(run_two_sums<BEFORE_THE_NEXT_SUM>, "newest");
    assert_wrong(run_two_sums<BEFORE_THE_NEXT_SUM>, "mix:1");
    assert_wrong(run_two_sums<BEFORE_THE_NEXT_SUM>, "mix:2");
}

/* Lanes exchange numbers through shared memory. The fault: a shuffle makes all lanes meet but orders no memory, which
 * only __syncwarp() does. */
template <Fault fault> __global__ void exchange(float *out, const float *x) {
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    float one = __shfl_xor_sync(0xFFFFFFFFu, 1.0f, 1);
    if (fault == NONE) __syncwarp();
    out[threadIdx.x] = one * s[threadIdx.x ^ 1];
}

template <Fault fault> static bool run_exchange() {
    std::vector<float> x = numbers(32), expected(32);
    for (int i = 0; i < 32; i++) expected[i] = x[i ^ 1];
    DeviceArray<float> device_x(x), out(32);
    exchange<fault><<<1, 32>>>(out, device_x);
    return is_equal(out.values(), expected);
}

static void test_missing_syncwarp_is_hidden_in_all_orders(void **) {
    assert_right_in_all_orders(run_exchange<NONE>);
    for (const char *order : all_orders) assert_hidden(run_exchange<FAULT>, order);
}
static void test_missing_syncwarp_is_found_by_thread_sanitizer(void **) {
    assert_reported(run_exchange<FAULT>, "ThreadSanitizer: data race");
}

/* Two halves of a warp meet apart from each other; lanes of one half then read what the other wrote. */
__global__ void halves_meet_apart(float *out) {
    __shared__ float s[32];
    s[threadIdx.x] = 1.0f;
    __syncwarp(threadIdx.x < 16 ? 0x0000FFFFu : 0xFFFF0000u);
    out[threadIdx.x] = s[threadIdx.x ^ 16];
}
static bool run_halves_meet_apart() {
    DeviceArray<float> out(32);
    halves_meet_apart<<<1, 32>>>(out);
    return is_equal(out.values(), std::vector<float>(32, 1.0f));
}
static void test_syncwarp_of_the_wrong_lanes_is_found_by_thread_sanitizer(void **) {
    assert_reported(run_halves_meet_apart, "ThreadSanitizer: data race");
}

/* All threads write one number. */
template <Fault fault> __global__ void count_threads(int *out) {
    if (fault == NONE)
        atomicAdd(out, 1);
    else
        *out += 1;
}
template <Fault fault> static bool run_count_threads() {
    DeviceArray<int> out(std::vector<int>{0});
    count_threads<fault><<<1, 64>>>(out);
    return out.values()[0] == 64;
}
static void test_addition_that_is_not_atomic_is_found_by_thread_sanitizer(void **) {
    assert_right_in_all_orders(run_count_threads<NONE>);
    assert_reported(run_count_threads<FAULT>, "ThreadSanitizer: data race");
}

__global__ void barrier_on_two_ways() {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncthreads();
}
static bool run_barrier_on_two_ways() {
    barrier_on_two_ways<<<1, 64>>>();
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_barrier_on_two_ways_is_reported(void **) {
    assert_reported(run_barrier_on_two_ways, "emulator: divergent barrier");
}

/* Threads go through the loop a different number of times. */
__global__ void barrier_in_uneven_loop(float *out, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) __syncthreads();
    __syncthreads();
    out[threadIdx.x] = 1.0f;
}
static bool run_barrier_in_uneven_loop() {
    DeviceArray<float> out(64);
    barrier_in_uneven_loop<<<1, 64>>>(out, 100);
    return is_equal(out.values(), std::vector<float>(64, 1.0f));
}
static void test_barrier_in_uneven_loop_is_reported(void **) {
    assert_reported(run_barrier_in_uneven_loop, "emulator: divergent barrier");
    assert_reported(run_barrier_in_uneven_loop, "test_faults.cu");
}

__global__ void half_waits_elsewhere(float *out) {
    if (threadIdx.x < 16)
        __syncthreads();
    else
        out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, 1.0f, 1);
}
static bool run_half_waits_elsewhere() {
    DeviceArray<float> out(32);
    half_waits_elsewhere<<<1, 32>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_deadlock_is_reported(void **) { assert_reported(run_half_waits_elsewhere, "emulator: deadlock"); }

/* ---- warps ---- */

__global__ void shuffle_with_exited_lanes(float *out, int n) {
    if (static_cast<int>(threadIdx.x) >= n) return;
    out[threadIdx.x] = __shfl_down_sync(0xFFFFFFFFu, 1.0f, 16);
}
static bool run_shuffle_with_exited_lanes() {
    DeviceArray<float> out(32);
    shuffle_with_exited_lanes<<<1, 32>>>(out, 20);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_shuffle_from_exited_lane_is_reported(void **) {
    assert_reported(run_shuffle_with_exited_lanes, "which has exited or is not in the mask");
}

__global__ void shuffle_outside_of_mask(float *out) {
    if (threadIdx.x < 8) out[threadIdx.x] = __shfl_sync(0x000000FFu, 1.0f, 9);
}
static bool run_shuffle_outside_of_mask() {
    DeviceArray<float> out(32);
    shuffle_outside_of_mask<<<1, 32>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_shuffle_from_lane_outside_of_mask_is_reported(void **) {
    assert_reported(run_shuffle_outside_of_mask, "which has exited or is not in the mask");
}

__global__ void shuffle_without_itself(float *out) { out[threadIdx.x] = __shfl_sync(0x0000FFFFu, 1.0f, 0); }
static bool run_shuffle_without_itself() {
    DeviceArray<float> out(32);
    shuffle_without_itself<<<1, 32>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_lane_outside_of_its_own_mask_is_reported(void **) {
    assert_reported(run_shuffle_without_itself, "is not in the mask");
}

__global__ void shuffle_on_two_ways(float *out) {
    if (threadIdx.x % 2)
        out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, 1.0f, 0);
    else
        out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, 2.0f, 1);
}
static bool run_shuffle_on_two_ways() {
    DeviceArray<float> out(32);
    shuffle_on_two_ways<<<1, 32>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_shuffle_on_two_ways_is_reported(void **) {
    assert_reported(run_shuffle_on_two_ways, "they cannot do this together");
}

__global__ void mma_of_part_of_a_warp(float *out) {
    if (threadIdx.x >= 24) return;
    float d[4] = {};
    uint32_t a[4] = {}, b[2] = {};
    mma_m16n8k16(d, a, b);
    out[threadIdx.x] = d[0];
}
/* In a block of 40 threads the second warp has 8. */
__global__ void mma_in_uneven_block(float *out) {
    float d[4] = {};
    uint32_t a[4] = {}, b[2] = {};
    mma_m16n8k16(d, a, b);
    out[threadIdx.x] = d[0];
}
static bool run_mma_of_part_of_a_warp() {
    DeviceArray<float> out(32);
    mma_of_part_of_a_warp<<<1, 32>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static bool run_mma_in_uneven_block() {
    DeviceArray<float> out(40);
    mma_in_uneven_block<<<1, 40>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_mma_without_all_lanes_is_reported(void **) {
    assert_reported(run_mma_of_part_of_a_warp, "mma needs all 32 lanes");
    assert_reported(run_mma_in_uneven_block, "mma needs all 32 lanes");
}

/* ---- shared memory ---- */

template <int N> __global__ void write_shared(float *out, int index) {
    __shared__ float before[4], s[N], after[4];
    before[threadIdx.x % 4] = after[threadIdx.x % 4] = 0.0f;
    s[threadIdx.x] = 0.0f;
    __syncthreads();
    float *start = s; /* UBSan knows the size of s itself */
    if (threadIdx.x == 0) start[index] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x] + before[0] + after[0];
}
template <int index> static bool run_write_shared() {
    DeviceArray<float> out(33);
    write_shared<33><<<1, 33>>>(out, index);
    std::vector<float> expected(33);
    expected[index >= 0 && index < 33 ? index : 0] = 1.0f;
    return is_equal(out.values(), expected);
}
static void test_write_outside_of_shared_array_is_found_by_address_sanitizer(void **) {
    assert_right_in_all_orders(run_write_shared<32>);
    assert_reported(run_write_shared<33>, "AddressSanitizer");
    assert_reported(run_write_shared<-1>, "AddressSanitizer");
}

__global__ void read_dynamic_shared(float *out, int n) {
    extern __shared__ float s[];
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    if (threadIdx.x == 0) *out = s[n - 1];
}
template <int n> static bool run_read_dynamic_shared() {
    DeviceArray<float> out(1);
    read_dynamic_shared<<<1, 33, 33 * sizeof(float)>>>(out, n);
    return out.values()[0] == 1.0f;
}
static void test_read_outside_of_dynamic_shared_memory_is_found_by_address_sanitizer(void **) {
    assert_right_in_all_orders(run_read_dynamic_shared<33>);
    assert_reported(run_read_dynamic_shared<34>, "AddressSanitizer");
}

/* The second block counts on what the first one left. */
__global__ void rely_on_block_before(float *out) {
    __shared__ float s;
    if (threadIdx.x == 0 && blockIdx.x == 0) s = 1.0f;
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = s;
}
static bool run_rely_on_block_before() {
    DeviceArray<float> out(64);
    rely_on_block_before<<<2, 32>>>(out);
    return is_equal(out.values(), std::vector<float>(64, 1.0f));
}
static void test_shared_memory_of_another_block_is_gone(void **) {
    for (const char *order : all_orders) assert_wrong(run_rely_on_block_before, order);
}

/* A float4 of an array that is declared as float is aligned to 4 bytes. */
template <bool aligned> __global__ void vector_store(float *out) {
    if constexpr (aligned) {
        __shared__ __align__(16) float s[32];
        *reinterpret_cast<float4 *>(s) = make_float4(1, 1, 1, 1);
        *out = s[3];
    } else {
        __shared__ float s[32];
        *reinterpret_cast<float4 *>(s) = make_float4(1, 1, 1, 1);
        *out = s[3];
    }
}
template <bool aligned> static bool run_vector_store() {
    DeviceArray<float> out(1);
    vector_store<aligned><<<1, 1>>>(out);
    return out.values()[0] == 1.0f;
}
static void test_misaligned_vector_is_found_by_undefined_behaviour_sanitizer(void **) {
    assert_right_in_all_orders(run_vector_store<true>);
    assert_reported(run_vector_store<false>, "misaligned address");
}

__global__ void static_and_dynamic(float *out) {
    __shared__ float s[10000];
    s[0] = 1.0f;
    *out = s[0];
}
static bool run_static_and_dynamic() {
    DeviceArray<float> out(1);
    static_and_dynamic<<<1, 1, 10000>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_static_and_dynamic_shared_memory_over_48_kib_is_reported(void **) {
    assert_reported(run_static_and_dynamic, "40000 bytes of __shared__ variables and 10000 of dynamic");
}

static void test_shared_declaration_that_is_not_rewritten_does_not_compile(void **) {
    const char *command = "printf '#include <cuda_runtime.h>\\n__global__ void k() { __shared__ float s[4]; }\\n' | "
                          "${CXX:-g++} -x c++ -std=c++17 -fsyntax-only -Idev/emu/include -I. - 2>&1";
    FILE *compiler = popen(command, "r");
    char output[4096];
    output[fread(output, 1, sizeof output - 1, compiler)] = 0;
    assert_int_not_equal(pclose(compiler), 0);
    assert_non_null(strstr(output, "was_not_rewritten"));
}

/* ---- device memory ---- */

__global__ void write_one(float *x, int index) { x[index] = 1.0f; }
__global__ void read_one(float *out, const float *x, int index) { *out = x[index]; }

template <int index> static bool run_write_device() {
    DeviceArray<float> x(33);
    write_one<<<1, 1>>>(x, index);
    return x.values()[32] == 1.0f;
}
template <int index> static bool run_read_device() {
    DeviceArray<float> x(std::vector<float>(33, 1.0f)), out(1);
    read_one<<<1, 1>>>(out, x, index);
    return out.values()[0] == 1.0f;
}
static void test_one_element_past_device_memory_is_found_by_address_sanitizer(void **) {
    assert_right_in_all_orders(run_write_device<32>);
    assert_right_in_all_orders(run_read_device<32>);
    assert_reported(run_write_device<33>, "AddressSanitizer");
    assert_reported(run_write_device<-1>, "AddressSanitizer");
    assert_reported(run_read_device<33>, "AddressSanitizer");
}

static bool run_read_freed() {
    DeviceArray<float> out(1);
    float *x;
    must(cudaMalloc(&x, 1024 * sizeof(float)));
    must(cudaFree(x));
    read_one<<<1, 1>>>(out, x, 100);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_freed_memory_given_to_a_kernel_is_reported(void **) {
    assert_reported(run_read_freed, "points to no device memory");
}

static bool run_host_pointer() {
    std::vector<float> x(64);
    DeviceArray<float> out(1);
    read_one<<<1, 1>>>(out, x.data(), 0);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_host_pointer_given_to_a_kernel_is_reported(void **) {
    assert_reported(run_host_pointer, "argument 1 (from 0) of the kernel");
}

static bool run_uninitialised() {
    DeviceArray<float> x(8), out(1);
    read_one<<<1, 1>>>(out, x, 3);
    return out.values()[0] == 0.0f;
}
static void test_new_device_memory_is_not_zero(void **) { assert_wrong(run_uninitialised, "forward"); }

/* Each block adds to what the one before has left. */
__global__ void chain(float *x) { x[blockIdx.x + 1] = x[blockIdx.x] + 1.0f; }
static bool run_chain() {
    DeviceArray<float> x(std::vector<float>(9, 0.0f));
    chain<<<8, 1>>>(x);
    return x.values()[8] == 8.0f;
}
static void test_blocks_that_count_on_each_other_are_wrong_in_reverse(void **) {
    assert_hidden(run_chain, "forward");
    assert_wrong(run_chain, "reverse");
    assert_wrong(run_chain, "mix:1");
}

/* ---- cp.async, ldmatrix ---- */

enum CopyFault { NO_COPY_FAULT, NO_WAIT, NO_COMMIT, WAITS_FOR_TOO_FEW, NO_BARRIER_BEHIND };

template <CopyFault fault> __global__ void copy_through_shared(float *out, const float *x) {
    __shared__ __align__(16) float s[2][128];
    const int i = threadIdx.x * 4;
    for (int part = 0; part < 2; part++) {
        cp_async_16(&s[part][i], x + part * 128 + i);
        if (fault != NO_COMMIT) cp_async_commit();
    }
    if (fault == WAITS_FOR_TOO_FEW)
        cp_async_wait<1>();
    else if (fault != NO_WAIT)
        cp_async_wait<0>();
    if (fault != NO_BARRIER_BEHIND) __syncthreads();
    for (int j = 0; j < 4; j++)
        for (int part = 0; part < 2; part++) out[part * 128 + i + j] = s[part][127 - (i + j)];
}

template <CopyFault fault> static bool run_copy_through_shared() {
    std::vector<float> x = numbers(256), expected(256);
    for (int i = 0; i < 256; i++) expected[i] = x[i / 128 * 128 + 127 - i % 128];
    DeviceArray<float> device_x(x), out(256);
    copy_through_shared<fault><<<1, 32>>>(out, device_x);
    return is_equal(out.values(), expected);
}
static void test_copy_that_is_not_waited_for_is_wrong_in_any_order(void **) {
    assert_right_in_all_orders(run_copy_through_shared<NO_COPY_FAULT>);
    for (const char *order : all_orders) {
        assert_wrong(run_copy_through_shared<NO_WAIT>, order);
        assert_wrong(run_copy_through_shared<NO_COMMIT>, order);
        assert_wrong(run_copy_through_shared<WAITS_FOR_TOO_FEW>, order);
        assert_wrong(run_copy_through_shared<NO_BARRIER_BEHIND>, order);
    }
}

__global__ void copy_from(float *out, const float *x, int offset) {
    __shared__ __align__(16) float s[4];
    cp_async_16(s, x + offset);
    cp_async_commit();
    cp_async_wait<0>();
    *out = s[0];
}
template <int offset> static bool run_copy_from() {
    DeviceArray<float> x(std::vector<float>(8, 1.0f)), out(1);
    copy_from<<<1, 1>>>(out, x, offset);
    return out.values()[0] == 1.0f;
}
static void test_misaligned_copy_is_reported(void **) {
    assert_right_in_all_orders(run_copy_from<4>);
    assert_reported(run_copy_from<1>, "cp.async: ");
}
static void test_copy_from_outside_of_memory_is_found_by_address_sanitizer(void **) {
    assert_reported(run_copy_from<8>, "AddressSanitizer");
}

__global__ void copy_to_global(float *out, const float *x) {
    cp_async_16(out, x);
    cp_async_commit();
    cp_async_wait<0>();
}
static bool run_copy_to_global() {
    DeviceArray<float> x(std::vector<float>(4, 1.0f)), out(4);
    copy_to_global<<<1, 1>>>(out, x);
    return out.values()[0] == 1.0f;
}
static void test_copy_to_global_memory_is_reported(void **) {
    assert_reported(run_copy_to_global, "is not in shared memory");
}

__global__ void load_misaligned(float *out) {
    __shared__ __align__(16) bf16 s[8][12]; /* rows of 24 bytes */
    for (int i = threadIdx.x; i < 96; i += 32) s[i / 12][i % 12] = 1.0f;
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, s[threadIdx.x % 8]);
    out[threadIdx.x] = static_cast<float>(r[0]);
}
static bool run_load_misaligned() {
    DeviceArray<float> out(32);
    load_misaligned<<<1, 32>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess;
}
static void test_misaligned_matrix_row_is_reported(void **) {
    assert_reported(run_load_misaligned, "ldmatrix: the row");
}

/* ---- streams ---- */

__global__ void add_one(float *x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += 1.0f;
}
__global__ void copy_floats(float *out, const float *x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i];
}

struct TwoStreams {
    cudaStream_t first, second;
    cudaEvent_t event;
    TwoStreams() {
        must(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
        must(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
        must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    ~TwoStreams() {
        cudaEventDestroy(event);
        cudaStreamDestroy(second);
        cudaStreamDestroy(first);
    }
};

enum StreamFault { NO_STREAM_FAULT, NO_STREAM_WAIT, RECORDED_TOO_EARLY, NO_SYNCHRONIZE };

/* One stream adds 1, the other copies the result to pinned memory, the host reads it there. */
template <StreamFault fault> static bool run_two_streams() {
    TwoStreams s;
    DeviceArray<float> x(std::vector<float>(8, 1.0f)), y(8);
    PinnedArray<float> result(8);
    must(cudaDeviceSynchronize());
    if (fault == RECORDED_TOO_EARLY) must(cudaEventRecord(s.event, s.first));
    add_one<<<1, 8, 0, s.first>>>(x, 8);
    if (fault != RECORDED_TOO_EARLY) must(cudaEventRecord(s.event, s.first));
    if (fault != NO_STREAM_WAIT) must(cudaStreamWaitEvent(s.second, s.event, 0));
    copy_floats<<<1, 8, 0, s.second>>>(y, x, 8);
    must(cudaMemcpyAsync(result, y, 8 * sizeof(float), cudaMemcpyDeviceToHost, s.second));
    if (fault != NO_SYNCHRONIZE) must(cudaStreamSynchronize(s.second));
    return result[0] == 2.0f && result[7] == 2.0f;
}
static void test_missing_wait_for_another_stream_is_wrong(void **) {
    assert_right_in_all_orders(run_two_streams<NO_STREAM_FAULT>);
    for (const char *order : all_orders) {
        assert_wrong(run_two_streams<NO_STREAM_WAIT>, order);
        assert_wrong(run_two_streams<RECORDED_TOO_EARLY>, order);
    }
}
static void test_result_read_before_synchronisation_is_wrong(void **) {
    for (const char *order : all_orders) assert_wrong(run_two_streams<NO_SYNCHRONIZE>, order);
}

/* A stream that does not block is not ordered with the default stream. */
static bool run_default_stream_is_no_barrier() {
    TwoStreams s;
    DeviceArray<float> x(8);
    must(cudaMemsetAsync(x, 0, 8 * sizeof(float), s.first));
    must(cudaDeviceSynchronize());
    add_one<<<1, 8, 0, s.first>>>(x, 8);
    return x.values()[0] == 1.0f; /* copies on the default stream */
}
static void test_default_stream_does_not_wait_for_nonblocking_streams(void **) {
    assert_wrong(run_default_stream_is_no_barrier, "forward");
}

/* cudaMemcpy() from pageable memory returns when the numbers are read; streams that do not block must still wait. */
template <bool waits> static bool run_use_of_what_is_staged() {
    TwoStreams s;
    DeviceArray<float> x(std::vector<float>(8, 1.0f));
    if (waits) must(cudaDeviceSynchronize());
    add_one<<<1, 8, 0, s.first>>>(x, 8);
    must(cudaStreamSynchronize(s.first));
    return x.values()[0] == 2.0f;
}
static void test_use_of_copied_numbers_on_another_stream_without_wait_is_wrong(void **) {
    assert_right_in_all_orders(run_use_of_what_is_staged<true>);
    for (const char *order : all_orders) assert_wrong(run_use_of_what_is_staged<false>, order);
}

/* The host puts the next numbers into a buffer that a copy still reads. */
template <bool pinned, bool waits> static bool run_reuse_of_host_buffer() {
    TwoStreams s;
    PinnedArray<float> fast(8);
    std::vector<float> slow(8);
    float *buffer = pinned ? static_cast<float *>(fast) : slow.data();
    DeviceArray<float> x(8), y(8);
    for (int i = 0; i < 8; i++) buffer[i] = 1.0f;
    must(cudaMemcpyAsync(x, buffer, 8 * sizeof(float), cudaMemcpyHostToDevice, s.first));
    if (waits) must(cudaStreamSynchronize(s.first));
    for (int i = 0; i < 8; i++) buffer[i] = 2.0f;
    must(cudaMemcpyAsync(y, buffer, 8 * sizeof(float), cudaMemcpyHostToDevice, s.first));
    must(cudaStreamSynchronize(s.first));
    return x.values()[0] == 1.0f && y.values()[0] == 2.0f;
}
static void test_pinned_buffer_used_again_too_early_is_wrong(void **) {
    assert_right_in_all_orders(run_reuse_of_host_buffer<true, true>);
    assert_right_in_all_orders(run_reuse_of_host_buffer<false, false>); /* CUDA has copied pageable memory */
    for (const char *order : all_orders) assert_wrong(run_reuse_of_host_buffer<true, false>, order);
}

/* A launch on a stream that is gone. */
static bool run_destroyed_stream() {
    DeviceArray<float> x(8);
    cudaStream_t stream;
    must(cudaStreamCreate(&stream));
    must(cudaStreamDestroy(stream));
    add_one<<<1, 8, 0, stream>>>(x, 8);
    exit(0);
}
static void test_launch_on_destroyed_stream_is_reported(void **) {
    assert_reported(run_destroyed_stream, "no such stream");
}

/* ---- launches ---- */

static bool run_error_nobody_asks_for() {
    DeviceArray<float> x(8);
    add_one<<<1, 2048>>>(x, 8);
    exit(0);
}
static bool run_error_asked_for() {
    DeviceArray<float> x(8);
    add_one<<<1, 2048>>>(x, 8);
    exit(cudaGetLastError() == cudaErrorInvalidConfiguration ? 10 : 11);
}
static void test_launch_error_that_nobody_asks_for_is_reported(void **) {
    assert_reported(run_error_nobody_asks_for, "the program never asked for the error of the launch");
    const Outcome *outcome = outcome_of(run_error_asked_for, "forward");
    assert_null(strstr(outcome->output, "never asked"));
}

template <int N> __global__ void __launch_bounds__(N, 2) bounded(float *x) { x[threadIdx.x] = 1.0f; }
template <int threads> static bool run_bounded() {
    DeviceArray<float> x(threads);
    bounded<64><<<1, threads>>>(x);
    return x.values()[threads - 1] == 1.0f;
}
static void test_block_larger_than_launch_bounds_is_reported(void **) {
    assert_right_in_all_orders(run_bounded<64>);
    assert_reported(run_bounded<96>, "a block of 96 threads for a kernel with __launch_bounds__(64)");
}

static bool run_keep_going() {
    setenv("MARS_EMU_KEEP_GOING", "1", 1);
    DeviceArray<float> out(32);
    shuffle_outside_of_mask<<<1, 32>>>(out);
    return cudaDeviceSynchronize() == cudaSuccess && out.values()[0] != out.values()[0];
}
static void test_reports_can_be_told_not_to_end_the_program(void **) {
    const Outcome *outcome = outcome_of(run_keep_going, "forward");
    assert_non_null(strstr(outcome->output, "lane 7 reads lane 9"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tile_overwritten_too_early_is_wrong_in_any_order),
        cmocka_unit_test(test_left_neighbour_read_too_early_is_wrong_in_reverse),
        cmocka_unit_test(test_partial_sums_read_too_early_are_wrong_in_any_order),
        cmocka_unit_test(test_no_barrier_between_two_sums_is_wrong_newest_first),
        cmocka_unit_test(test_missing_syncwarp_is_hidden_in_all_orders),
        cmocka_unit_test(test_barrier_on_two_ways_is_reported),
        cmocka_unit_test(test_barrier_in_uneven_loop_is_reported),
        cmocka_unit_test(test_deadlock_is_reported),
        cmocka_unit_test(test_shuffle_from_exited_lane_is_reported),
        cmocka_unit_test(test_shuffle_from_lane_outside_of_mask_is_reported),
        cmocka_unit_test(test_lane_outside_of_its_own_mask_is_reported),
        cmocka_unit_test(test_shuffle_on_two_ways_is_reported),
        cmocka_unit_test(test_mma_without_all_lanes_is_reported),
        cmocka_unit_test(test_shared_memory_of_another_block_is_gone),
        cmocka_unit_test(test_static_and_dynamic_shared_memory_over_48_kib_is_reported),
        cmocka_unit_test(test_shared_declaration_that_is_not_rewritten_does_not_compile),
        cmocka_unit_test(test_freed_memory_given_to_a_kernel_is_reported),
        cmocka_unit_test(test_host_pointer_given_to_a_kernel_is_reported),
        cmocka_unit_test(test_new_device_memory_is_not_zero),
        cmocka_unit_test(test_blocks_that_count_on_each_other_are_wrong_in_reverse),
        cmocka_unit_test(test_copy_that_is_not_waited_for_is_wrong_in_any_order),
        cmocka_unit_test(test_misaligned_copy_is_reported),
        cmocka_unit_test(test_copy_to_global_memory_is_reported),
        cmocka_unit_test(test_misaligned_matrix_row_is_reported),
        cmocka_unit_test(test_missing_wait_for_another_stream_is_wrong),
        cmocka_unit_test(test_result_read_before_synchronisation_is_wrong),
        cmocka_unit_test(test_default_stream_does_not_wait_for_nonblocking_streams),
        cmocka_unit_test(test_use_of_copied_numbers_on_another_stream_without_wait_is_wrong),
        cmocka_unit_test(test_pinned_buffer_used_again_too_early_is_wrong),
        cmocka_unit_test(test_launch_on_destroyed_stream_is_reported),
        cmocka_unit_test(test_launch_error_that_nobody_asks_for_is_reported),
        cmocka_unit_test(test_block_larger_than_launch_bounds_is_reported),
        cmocka_unit_test(test_reports_can_be_told_not_to_end_the_program),
    };
    const struct CMUnitTest with_address_sanitizer[] = {
        cmocka_unit_test(test_write_outside_of_shared_array_is_found_by_address_sanitizer),
        cmocka_unit_test(test_read_outside_of_dynamic_shared_memory_is_found_by_address_sanitizer),
        cmocka_unit_test(test_misaligned_vector_is_found_by_undefined_behaviour_sanitizer),
        cmocka_unit_test(test_one_element_past_device_memory_is_found_by_address_sanitizer),
        cmocka_unit_test(test_copy_from_outside_of_memory_is_found_by_address_sanitizer),
    };
    const struct CMUnitTest with_thread_sanitizer[] = {
        cmocka_unit_test(test_missing_syncwarp_is_found_by_thread_sanitizer),
        cmocka_unit_test(test_syncwarp_of_the_wrong_lanes_is_found_by_thread_sanitizer),
        cmocka_unit_test(test_addition_that_is_not_atomic_is_found_by_thread_sanitizer),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (has_asan) failed += cmocka_run_group_tests(with_address_sanitizer, NULL, NULL);
    if (has_tsan) failed += cmocka_run_group_tests(with_thread_sanitizer, NULL, NULL);
    return failed;
}
