/* test_comm.c: what processes say to each other. The program starts itself under mpirun to be those processes: with
 * --part=NAME it plays a part and checks what it got, and dies where that is wrong.
 *
 * MARS_TEST_DEVICE=cuda exchanges the memory of GPUs, real or emulated; the default is "cpu". */
#include "dev/test/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comm/comm.h"
#include "dev/test/kernels/test_gpu.h"
#include "kernels/cuda/cuda_device.h"

/* Seconds of silence that end a job here, and a pause that is longer. */
#define SILENCE "2"
static const double LONG_PAUSE = 2.7;

/* ---- the parts: each runs in every process of a job ---- */

typedef struct Rank {
    Comm *comm, *on_device;
    Backend *be;
} Rank;

static Rank open_rank(void) {
    Rank w;
    Error error;
    w.comm = comm_open();
    BackendOptions options = {.device = test_device(), .threads = 1, .local_rank = w.comm->local_rank};
    w.be = backend_open_with(&options, &error);
    if (!w.be) die("%s", error.text);
    w.on_device = comm_on_device(w.comm, w.be->stream, &error);
    if (!w.on_device) die_usage("%s", error.text);
    return w;
}

static NO_RETURN void close_rank(Rank *w) {
    comm_close_on_device(w->on_device, w->comm);
    w->be->close(w->be);
    w->comm->close(w->comm, EXIT_DONE);
    abort(); /* close() does not return */
}

static void pause_for(double seconds) { usleep((useconds_t)(seconds * 1e6)); }

/* A number for each element and process. NCCL adds in an order of its own: on real GPUs the sums are exact in any. */
static float number_of(const Rank *w, int rank, size_t i) {
    uint32_t bits = (uint32_t)(i + 1) * 2654435761u ^ (uint32_t)(rank + 1) * 2246822519u;
    bits ^= bits >> 15;
    bits *= 2654435761u;
    bits ^= bits >> 13;
    float whole = (float)(int)(bits % 2001) - 1000.0f;
    return w->be->on_gpu && !is_emulated(w->be) ? whole : whole * (float)(1 << (bits >> 20) % 24) / 3.0f;
}

static float sum_of(const Rank *w, size_t i) {
    float sum = 0.0f;
    for (int r = 0; r < w->comm->size; r++) sum += number_of(w, r, i);
    return sum;
}

/* ---- partitions ---- */

typedef struct Case {
    const char *name;
    size_t n;
    Partition partition;
} Case;

/* Process r owns `count` parts, given by its function, in a buffer of n elements. */
static Case make_case(const Rank *w, const char *name, size_t n, int count,
                      Part (*part)(const Rank *, size_t n, int r, int i)) {
    Case c = {name, n, {.processes = w->comm->size}};
    c.partition.parts = checked_calloc((size_t)(w->comm->size * count) + 1, sizeof(Part), "a partition");
    c.partition.first = checked_calloc((size_t)w->comm->size + 1, sizeof(int), "a partition");
    int parts = 0;
    for (int r = 0; r < w->comm->size; r++) {
        c.partition.first[r] = parts;
        size_t at = 0;
        for (int i = 0; i < count; i++) {
            Part p = part(w, n, r, i);
            if (p.begin > p.end) continue;
            p.at = at;
            at += (size_t)round_up((int64_t)(p.end - p.begin), 8); /* a shard has gaps, as the optimizers' have */
            c.partition.parts[parts++] = p;
        }
    }
    c.partition.first[w->comm->size] = parts;
    return c;
}

static void free_case(Case *c) { partition_free(&c->partition); }

static const Part no_part = {.begin = 1};

/* Everything, evenly but for the rounding. */
static Part even_part(const Rank *w, size_t n, int r, int i) {
    (void)i;
    size_t size = (size_t)w->comm->size;
    return (Part){.begin = n * (size_t)r / size, .end = n * ((size_t)r + 1) / size};
}

/* Short parts in turn, of 1, 2, 3.. elements, some of none, with elements of nobody between them. */
static Part small_part(const Rank *w, size_t n, int r, int i) {
    size_t k = (size_t)(i * w->comm->size + r), begin = k * (k + 3) / 2;
    if (begin + k > n) return no_part;
    return (Part){.begin = begin, .end = begin + (k % 5 == 4 ? 0 : k)};
}

/* Process 0 has all, in two parts: there are more processes than parts to own. */
static Part first_part(const Rank *w, size_t n, int r, int i) {
    (void)w;
    if (r > 0) return no_part;
    return i == 0 ? (Part){.begin = 0, .end = n / 3} : (Part){.begin = n / 3, .end = n};
}

/* Gaps, sizes around the alignment, and matrices between other tensors. */
static TensorTable even_table(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "long", ROLE_VECTOR, 1, 1000, 1);
    tensor_table_add(&table, "matrix", ROLE_MATRIX, 3, 43, 3);
    tensor_table_add(&table, "padded", ROLE_EMBEDDING, 5, 100, 7);
    tensor_table_add(&table, "longer", ROLE_VECTOR, 1, 9300, 1);
    tensor_table_add(&table, "second matrix", ROLE_MATRIX, 64, 150, 64);
    tensor_table_add(&table, "one", ROLE_VECTOR, 1, 1, 1);
    tensor_table_add(&table, "last", ROLE_VECTOR, 1, 2700, 1);
    return table;
}

/* What partition_evenly() makes of that table, or of the tensors in it that are no matrices. `taken` (NULL: nothing) is
 * what the processes keep before. */
static Case make_even_case(const Rank *w, const char *name, bool with_matrices, const double *taken, size_t bucket) {
    TensorTable table = even_table();
    bool *chosen = checked_calloc((size_t)table.count, sizeof *chosen, "a choice");
    for (int i = 0; i < table.count; i++) chosen[i] = with_matrices || table.tensors[i].role != ROLE_MATRIX;
    Case c = {name, table.length, partition_evenly(&table, chosen, w->comm->size, taken, 2, bucket)};
    if ((c.partition.even_count > 0) != (w->comm->size > 1 && !taken)) die("%s: there should be even ranges", name);
    free(chosen);
    tensor_table_free(&table);
    return c;
}

static int owner_of(const Partition *partition, size_t i, size_t *at) {
    for (int r = 0; r < partition->processes; r++)
        for (int p = partition->first[r]; p < partition->first[r + 1]; p++) {
            const Part *part = &partition->parts[p];
            *at = part->at + i - part->begin;
            if (i >= part->begin && i < part->end) return r;
        }
    return -1;
}

/* An exchange of an even range may include the gaps in it. */
static bool is_in_even_range(const Partition *partition, size_t i) {
    for (int e = 0; e < partition->even_count; e++) {
        const EvenRange *range = &partition->even_ranges[e];
        if (i >= range->begin && i < range->begin + (size_t)partition->processes * range->slice) return true;
    }
    return false;
}

/* ---- exchanges of ranges ---- */

/* Cuts of [0, n) that exchanges are asked for one by one, the last one first, as gradients come. */
enum { CUTS_MAX = 8 };
typedef struct Cuts {
    const char *name;
    int count;
    double at[CUTS_MAX]; /* fractions of n */
} Cuts;

static const Cuts all_cuts[] = {{"whole", 2, {0.0, 1.0}},
                                {"in pieces", 8, {0.0, 0.001, 0.13, 0.13, 0.34, 0.341, 0.9, 1.0}},
                                {"a part of it", 3, {0.21, 0.22, 0.77}}};

/* Even ranges are exchanged by whole buckets. */
static size_t cut_at(const Cuts *cuts, int i, const Case *c) {
    size_t at = (size_t)(cuts->at[i] * (double)c->n), bucket = c->partition.bucket;
    return bucket > 0 && at < c->n ? at - at % bucket : at;
}

static const float UNTOUCHED = -7.25f;

static void check(bool is_right, const Case *c, const Cuts *cuts, const char *what, size_t i, double found) {
    if (!is_right) die("%s, %s: %s %zu is wrong: %g", c->name, cuts->name, what, i, found);
}

/* A buffer on the device, of `value(w, i)` each; the caller frees both. */
typedef struct Buffer {
    float *host, *device;
    size_t n;
} Buffer;

static Buffer make_buffer(const Rank *w, size_t n) {
    Buffer b = {checked_malloc(n * sizeof(float), "a buffer"), w->be->alloc(w->be, n * sizeof(float), "a buffer"), n};
    return b;
}

static void to_device(const Rank *w, const Buffer *b) {
    w->be->copy_from_host(w->be, b->device, b->host, b->n * sizeof(float));
}

static void to_host(const Rank *w, const Buffer *b) {
    w->be->copy_to_host(w->be, b->host, b->device, b->n * sizeof(float));
}

static void free_buffer(const Rank *w, Buffer *b) {
    free(b->host);
    w->be->free(w->be, b->device);
}

static void check_sums(const Rank *w, const Case *c, const Cuts *cuts, const Buffer *data, const Buffer *shard) {
    size_t begin = cut_at(cuts, 0, c), end = cut_at(cuts, cuts->count - 1, c), at = 0;
    for (size_t i = 0; i < c->n; i++) {
        int owner = owner_of(&c->partition, i, &at);
        bool exchanged = i >= begin && i < end && owner >= 0, own = owner == w->comm->rank;
        float before = number_of(w, w->comm->rank, i), found = data->host[i];
        if (owner < 0 && is_in_even_range(&c->partition, i)) continue;
        if (!exchanged) check(found == before, c, cuts, "element that stays", i, found);
        if (exchanged && own && !shard) check(found == sum_of(w, i), c, cuts, "sum", i, found);
        if (!shard || !own) continue;
        found = shard->host[at];
        check(found == (exchanged ? sum_of(w, i) : UNTOUCHED), c, cuts, "sum in the shard", i, found);
    }
}

static void reduce(const Rank *w, const Case *c, const Cuts *cuts, bool into_shard) {
    Buffer data = make_buffer(w, c->n);
    Buffer shard = make_buffer(w, partition_shard_length(&c->partition, w->comm->rank) + 1);
    for (size_t i = 0; i < c->n; i++) data.host[i] = number_of(w, w->comm->rank, i);
    for (size_t i = 0; i < shard.n; i++) shard.host[i] = UNTOUCHED;
    to_device(w, &data);
    to_device(w, &shard);
    for (int i = cuts->count - 1; i > 0; i--)
        w->on_device->reduce_scatter(w->on_device, data.device, &c->partition, into_shard ? shard.device : NULL,
                                     cut_at(cuts, i - 1, c), cut_at(cuts, i, c));
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    to_host(w, &data);
    to_host(w, &shard);
    check_sums(w, c, cuts, &data, into_shard ? &shard : NULL);
    check(shard.host[shard.n - 1] == UNTOUCHED, c, cuts, "element after the shard", shard.n, shard.host[shard.n - 1]);
    free_buffer(w, &data);
    free_buffer(w, &shard);
}

/* Elements are `width` floats, to stand for other sizes: a gather does not look inside. */
static void gather(const Rank *w, const Case *c, const Cuts *cuts, size_t width) {
    size_t begin = cut_at(cuts, 0, c), end = cut_at(cuts, cuts->count - 1, c), at = 0;
    Buffer data = make_buffer(w, c->n * width);
    for (size_t i = 0; i < data.n; i++) data.host[i] = number_of(w, w->comm->rank, i);
    to_device(w, &data);
    for (int i = cuts->count - 1; i > 0; i--)
        w->on_device->all_gather(w->on_device, data.device, width * sizeof(float), &c->partition,
                                 cut_at(cuts, i - 1, c), cut_at(cuts, i, c));
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    to_host(w, &data);
    for (size_t i = 0; i < data.n; i++) {
        size_t element = i / width;
        int owner = owner_of(&c->partition, element, &at), from = w->comm->rank;
        if (element >= begin && element < end && owner >= 0) from = owner;
        if (owner < 0 && is_in_even_range(&c->partition, element)) continue;
        check(data.host[i] == number_of(w, from, i), c, cuts, "gathered number", i, data.host[i]);
    }
    free_buffer(w, &data);
}

static void exchange_case(const Rank *w, Case c) {
    for (size_t i = 0; i < ARRAY_LENGTH(all_cuts); i++) {
        reduce(w, &c, &all_cuts[i], false);
        if (w->comm->size > 1) reduce(w, &c, &all_cuts[i], true);
        gather(w, &c, &all_cuts[i], 1);
        gather(w, &c, &all_cuts[i], 3);
    }
    free_case(&c);
}

/* Numbers whose sum depends on the order: the same bits each time. Shards hold other numbers before. */
static void repeat(const Rank *w, const Case *c) {
    Buffer data = make_buffer(w, c->n), shards[2];
    size_t length = partition_shard_length(&c->partition, w->comm->rank) + 1;
    for (size_t i = 0; i < c->n; i++) data.host[i] = number_of(w, w->comm->rank, i) / (float)(3 + i % 1000);
    for (int k = 0; k < 2; k++) {
        shards[k] = make_buffer(w, length);
        for (size_t i = 0; i < length; i++) shards[k].host[i] = UNTOUCHED - (float)k;
        to_device(w, &data);
        to_device(w, &shards[k]);
        w->on_device->reduce_scatter(w->on_device, data.device, &c->partition, shards[k].device, 0, c->n);
        w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
        to_host(w, &shards[k]);
    }
    size_t at = 0;
    for (size_t i = 0; i < c->n; i++)
        if (owner_of(&c->partition, i, &at) == w->comm->rank)
            check(memcmp(shards[0].host + at, shards[1].host + at, sizeof(float)) == 0, c, &all_cuts[0], "second sum",
                  i, shards[1].host[at]);
    free_buffer(w, &data);
    for (int k = 0; k < 2; k++) free_buffer(w, &shards[k]);
}

static void exchange_even_case(const Rank *w, Case c) {
    if (w->comm->size > 1) repeat(w, &c);
    exchange_case(w, c);
}

static void play_even_ranges(const Rank *w) {
    const double first_has_all[] = {1e9, 0.0, 0.0, 0.0};
    exchange_even_case(w, make_even_case(w, "even ranges", true, NULL, 1024));
    exchange_even_case(w, make_even_case(w, "one bucket", true, NULL, (size_t)1 << 20));
    exchange_even_case(w, make_even_case(w, "between matrices", false, NULL, 4096));
    if (w->comm->size > 1) exchange_even_case(w, make_even_case(w, "up to a level", false, first_has_all, 1024));
}

static void play_exchanges(Rank *w) {
    play_even_ranges(w);
    exchange_case(w, make_case(w, "even shares", 1009, 1, even_part));
    exchange_case(w, make_case(w, "more processes than elements", 3, 1, even_part));
    exchange_case(w, make_case(w, "short parts", 1500, 20, small_part));
    exchange_case(w, make_case(w, "one owner", 777, 2, first_part));
    exchange_case(w, make_case(w, "nothing", 0, 1, even_part));
    double sums[3] = {w->comm->rank + 1.0, -0.5, 1e-9};
    double *on_device = w->be->alloc(w->be, sizeof sums, "sums");
    w->be->copy_from_host(w->be, on_device, sums, sizeof sums);
    w->on_device->sum_on_device(w->on_device, on_device, 3);
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    w->be->copy_to_host(w->be, sums, on_device, sizeof sums);
    w->be->free(w->be, on_device);
    int size = w->comm->size;
    if (sums[0] != size * (size + 1) / 2.0 || sums[1] != -0.5 * size)
        die("sums on the device: %g %g", sums[0], sums[1]);
}

/* A process that is alone exchanges nothing, so it touches nothing: the host cannot touch the memory of a real GPU. */
static void play_untouched(Rank *w) {
    enum { BYTES = 4096, COUNT = BYTES / sizeof(double) };
    void *memory = mmap(NULL, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("no memory");
    Case c = make_case(w, "untouched", COUNT, 1, even_part);
    w->on_device->reduce_scatter(w->on_device, memory, &c.partition, NULL, 0, COUNT);
    w->on_device->all_gather(w->on_device, memory, sizeof(float), &c.partition, 0, COUNT);
    w->on_device->sum_on_device(w->on_device, memory, COUNT);
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    free_case(&c);
    munmap(memory, BYTES);
}

/* Shards of more elements than move at a time. */
static void play_large(Rank *w) {
    Case c = make_case(w, "large", (size_t)5 << 20, 1, even_part);
    reduce(w, &c, &all_cuts[1], false);
    gather(w, &c, &all_cuts[0], 1);
    free_case(&c);
}

/* ---- the order of operations and exchanges ---- */

/* Each step makes new numbers by operations, has them summed and gathered, and uses what exchanges some steps ago
 * brought, with none of them waited for by the host. There are more exchanges than an implementation may remember the
 * ends of. */
enum { STEPS = 300, STEP = 16, LAG = 3 };

static void ask_step(const Rank *w, const Case *c, const Buffer *source, const Buffer *data, int step) {
    size_t at = (size_t)step * STEP;
    w->be->copy(w->be, data->device + at, source->device + at, STEP * sizeof(float));
    w->on_device->reduce_scatter(w->on_device, data->device, &c->partition, NULL, at, at + STEP);
    w->on_device->all_gather(w->on_device, data->device, sizeof(float), &c->partition, at, at + STEP);
}

static void play_order(Rank *w) {
    Comm *comm = w->on_device;
    Case c = make_case(w, "order", (size_t)STEPS * STEP, 1, even_part);
    Buffer source = make_buffer(w, c.n), data = make_buffer(w, c.n), out = make_buffer(w, c.n);
    for (size_t i = 0; i < c.n; i++) source.host[i] = number_of(w, comm->rank, i);
    to_device(w, &source);
    int64_t before = comm->enqueued(comm), ends[STEPS];
    for (int s = 0; s < STEPS + LAG; s++) {
        size_t at = (size_t)(s - LAG) * STEP;
        if (s < STEPS) ask_step(w, &c, &source, &data, s);
        if (s < STEPS) ends[s] = comm->enqueued(comm);
        if (comm->size > 1 && s < STEPS && ends[s] != before + 2 * (s + 1)) die("exchanges are counted wrongly");
        if (s % 16 == 8 && comm->rank == 0) to_host(w, &out); /* the others do not wait meanwhile */
        if (s % 16 == 0) w->comm->barrier(w->comm); /* emulated GPUs do what was asked, in an order of their choice */
        if (s < LAG) continue;
        comm->wait_for(comm, ends[s - LAG]);
        w->be->copy(w->be, out.device + at, data.device + at, STEP * sizeof(float));
    }
    comm->wait_for(comm, ends[0]); /* long forgotten */
    to_host(w, &out);
    for (size_t i = 0; i < c.n; i++) check(out.host[i] == sum_of(w, i), &c, &all_cuts[0], "sum", i, out.host[i]);
    free_buffer(w, &source);
    free_buffer(w, &data);
    free_buffer(w, &out);
    free_case(&c);
}

/* One exchange of each kind, for whoever counts NCCL's calls. */
static void play_calls(Rank *w) {
    enum { BUCKET = 1024 };
    TensorTable table = {0};
    tensor_table_add(&table, "whole bucket", ROLE_VECTOR, 1, 1000, 1);
    tensor_table_add(&table, "matrix", ROLE_MATRIX, 1, 128, 1);
    tensor_table_add(&table, "with a remainder", ROLE_VECTOR, 1, 300, 1);
    bool chosen[] = {true, false, true};
    Case c = {"calls", table.length, partition_evenly(&table, chosen, w->comm->size, NULL, 1, BUCKET)};
    Buffer data = make_buffer(w, c.n);
    memset(data.host, 0, c.n * sizeof *data.host);
    to_device(w, &data);
    w->on_device->reduce_scatter(w->on_device, data.device, &c.partition, NULL, 0, c.n);
    w->on_device->all_gather(w->on_device, data.device, sizeof(float), &c.partition, 0, c.n);
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    to_host(w, &data);
    free_buffer(w, &data);
    free_case(&c);
    tensor_table_free(&table);
}

/* What is of the host goes through both. */
static void play_host(Rank *w) {
    Comm *comms[] = {w->comm, w->on_device};
    for (int i = 0; i < 2; i++) {
        Comm *comm = comms[i];
        double sums[2] = {comm->rank, 0.25};
        int largest = comm->rank * 3;
        char text[8] = "";
        float collected = (float)comm->rank;
        comm->sum(comm, sums, 2);
        comm->maximum(comm, &largest, 1);
        if (comm->rank == 0) strcpy(text, "hello");
        comm->broadcast(comm, text, sizeof text);
        comm->barrier(comm);
        comm->send_to_root(comm, comm->size - 1, &collected, 1);
        bool right = sums[0] == comm->size * (comm->size - 1) / 2.0 && sums[1] == 0.25 * comm->size &&
                     largest == 3 * (comm->size - 1) && strcmp(text, "hello") == 0;
        if (comm->rank == 0 && collected != (float)(comm->size - 1)) right = false;
        if (comm->rank != w->comm->rank || comm->local_size != comm->size || !right)
            die("the host's exchanges are wrong");
    }
}

/* ---- processes that go, or take their time ---- */

/* Waits in an exchange that process 1 does not come to. */
static void exchange_without_1(Rank *w, int signal_1) {
    double *values = w->be->alloc(w->be, sizeof *values, "a number"), value;
    if (w->comm->rank == 1) raise(signal_1);
    w->on_device->sum_on_device(w->on_device, values, 1);
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    w->be->copy_to_host(w->be, &value, values, sizeof value);
    w->comm->barrier(w->comm);
}

static void play_stopped(Rank *w) { exchange_without_1(w, SIGSTOP); }
static void play_killed(Rank *w) { exchange_without_1(w, SIGKILL); }

/* One keeps the others waiting in the middle, another one at the end. */
static void play_slow(Rank *w) {
    if (w->comm->rank == 1) pause_for(LONG_PAUSE);
    w->comm->barrier(w->comm);
    if (w->comm->rank == 2) pause_for(LONG_PAUSE);
}

static void play_dying(Rank *w) {
    if (w->comm->rank == 1) die("process 1 has had enough");
    w->comm->barrier(w->comm);
}

static void play_usage(Rank *w) {
    (void)w;
    die_usage("all find the same mistake");
}

/* Until NCCL's failure is noticed. */
static void play_waiting(Rank *w) {
    (void)w;
    pause_for(60.0);
}

/* ---- faults that the emulated NCCL reports, where the real one would hang or mix up numbers ---- */

static void sum_on_device(const Rank *w, double *values, int n) {
    w->on_device->sum_on_device(w->on_device, values, n);
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    w->be->synchronize(w->be);
}

static void play_disagreement(Rank *w) {
    sum_on_device(w, w->be->alloc(w->be, 2 * sizeof(double), "numbers"), w->comm->rank + 1);
}

static void play_host_memory(Rank *w) {
    double value = 1.0;
    sum_on_device(w, &value, 1);
}

static void play_overlap(Rank *w) {
    Case c = make_case(w, "overlap", 100, 1, even_part);
    Buffer data = make_buffer(w, c.n);
    c.partition.parts[1].begin--;
    w->on_device->all_gather(w->on_device, data.device, sizeof(float), &c.partition, 0, c.n);
}

/* Process 1 believes in other slices than process 0. */
static void play_uneven_slices(Rank *w) {
    Case c = make_even_case(w, "uneven slices", true, NULL, (size_t)1 << 20);
    Buffer data = make_buffer(w, c.n);
    if (w->comm->rank == 1) c.partition.even_ranges[0].slice -= TENSOR_ALIGNMENT;
    w->on_device->reduce_scatter(w->on_device, data.device, &c.partition, NULL, 0, c.n);
    w->on_device->wait_for(w->on_device, w->on_device->enqueued(w->on_device));
    w->be->synchronize(w->be);
}

/* The slices of an even range fit the buffer of each process, but not one after the other. */
static void play_past_the_end(Rank *w) {
    Case c = make_even_case(w, "past the end", true, NULL, (size_t)1 << 20);
    Buffer data = make_buffer(w, c.n), shard = make_buffer(w, c.n);
    c.partition.even_ranges[0].slice = c.n;
    w->on_device->reduce_scatter(w->on_device, data.device, &c.partition, shard.device, 0, 2 * c.n);
}

static void play_part_of_a_bucket(Rank *w) {
    Case c = make_even_case(w, "part of a bucket", true, NULL, 1024);
    Buffer data = make_buffer(w, c.n);
    w->on_device->all_gather(w->on_device, data.device, sizeof(float), &c.partition, 128, c.n);
}

typedef struct Role {
    const char *name;
    void (*play)(Rank *w);
} Role;

static const Role roles[] = {{"exchanges", play_exchanges},
                             {"untouched", play_untouched},
                             {"large", play_large},
                             {"order", play_order},
                             {"calls", play_calls},
                             {"host", play_host},
                             {"stopped", play_stopped},
                             {"killed", play_killed},
                             {"slow", play_slow},
                             {"dying", play_dying},
                             {"usage", play_usage},
                             {"waiting", play_waiting},
                             {"disagreement", play_disagreement},
                             {"host_memory", play_host_memory},
                             {"overlap", play_overlap},
                             {"uneven_slices", play_uneven_slices},
                             {"past_the_end", play_past_the_end},
                             {"part_of_a_bucket", play_part_of_a_bucket}};

static int play(const char *name) {
    base_set_program("test_comm");
    for (size_t i = 0; i < ARRAY_LENGTH(roles); i++)
        if (strcmp(roles[i].name, name) == 0) {
            Rank w = open_rank();
            roles[i].play(&w);
            close_rank(&w);
        }
    fprintf(stderr, "there is no part '%s'\n", name);
    return EXIT_USAGE;
}

/* ---- the tests ---- */

enum { PROCESSES_MAX = 4 };

/* Runs a part; `settings` are more variables of the environment. */
static CommandResult *run_part(const char *settings, int processes, const char *options, const char *part) {
    char program[1024];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = 0;
    return test_run("env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                    "ASAN_OPTIONS=\"$ASAN_OPTIONS:detect_leaks=0\" %s "
                    "timeout 120 mpirun -np %d --oversubscribe --bind-to none %s '%s' --part=%s </dev/null",
                    settings, processes, options, program, part);
}

/* How many processes there can be: where GPUs are real, as many as those; 0 where mpirun or MPI is missing. */
static int processes_possible(void) {
    static int answer = -1;
    if (answer >= 0) return answer;
    answer = strcmp(test_device(), "cuda") == 0 ? (int)min_i64(cuda_device_count(), PROCESSES_MAX) : PROCESSES_MAX;
    CommandResult *result = run_part("", 1, "", "host");
    if (result->status != 0) {
        print_message("several processes are not tested: %s\n", result->output);
        answer = 0;
    }
    return answer;
}

static void assert_plays(const char *part, int processes) {
    CommandResult *result = run_part("", processes, "", part);
    assert_run(result, EXIT_DONE, "");
    assert_null(strstr(result->output, "sign of life"));
}

static void need(int processes) {
    if (processes_possible() < processes) skip();
}

static void test_alone(void **state) {
    (void)state;
    Error error;
    Rank w = {.comm = comm_open_single(), .be = backend_open(test_device(), DTYPE_FLOAT32, 1, &error)};
    if (!w.be) fail_msg("%s", error.text);
    w.on_device = comm_on_device(w.comm, w.be->stream, &error);
    assert_ptr_equal(w.on_device, w.comm);
    play_exchanges(&w);
    play_order(&w);
    play_host(&w);
    comm_close_on_device(w.on_device, w.comm);
    w.be->close(w.be);
    free(w.comm);
}

static void test_alone_under_mpirun(void **state) {
    (void)state;
    need(1);
    assert_plays("exchanges", 1);
    assert_plays("untouched", 1);
}

static void test_exchanges(void **state) {
    (void)state;
    need(2);
    assert_plays("exchanges", 2);
    if (processes_possible() >= 3) assert_plays("exchanges", 3);
    if (processes_possible() >= 4) assert_plays("exchanges", 4);
}

static void test_large(void **state) {
    (void)state;
    need(2);
    assert_plays("large", processes_possible());
}

static void test_order(void **state) {
    (void)state;
    need(2);
    assert_plays("order", 2);
    assert_run(run_part("MARS_EMU_ORDER=reverse", 2, "", "order"), EXIT_DONE, "");
}

static void test_host(void **state) {
    (void)state;
    need(2);
    if (processes_possible() > 2) assert_plays("host", processes_possible());
}

/* Output holds `text` (assert_parts()), and the job ended with a failure within the time that is promised. */
static void assert_ends(const char *settings, int processes, const char *options, const char *part, const char *text) {
    double begun = seconds_now();
    CommandResult *result = run_part(settings, processes, options, part);
    double seconds = seconds_now() - begun;
    assert_parts(result->output, text);
    if (!options[0] && result->status == 0) fail_msg("exit status 0; output:\n%s", result->output);
    if (seconds > 30.0) fail_msg("%s took %.0f s", part, seconds);
}

static const char *silent_1(void) {
    static char text[512];
    char host[256];
    assert_int_equal(gethostname(host, sizeof host), 0);
    snprintf(text, sizeof text,
             "process 1 on host %s|has given no sign of life for |expected one within |look at that host", host);
    return text;
}

static void test_stopped_process(void **state) {
    (void)state;
    need(2);
    assert_ends("MARS_HEARTBEAT_SECONDS=" SILENCE, 2, "", "stopped", silent_1());
}

/* mpirun notices that by itself, and ends the job; where it is told not to, the others do. */
static void test_killed_process(void **state) {
    (void)state;
    need(2);
    assert_ends("MARS_HEARTBEAT_SECONDS=" SILENCE, 2, "", "killed", "");
    bool on_cpu = strcmp(test_device(), "cpu") == 0; /* the heartbeat is the same everywhere */
    if (on_cpu && strstr(test_run("mpirun --version")->output, "Open MPI) 4"))
        assert_ends("MARS_HEARTBEAT_SECONDS=" SILENCE, 2, "--enable-recovery", "killed", silent_1());
}

static void test_slow_processes(void **state) {
    (void)state;
    need(3);
    CommandResult *result = run_part("MARS_HEARTBEAT_SECONDS=" SILENCE, 3, "", "slow");
    assert_run(result, EXIT_DONE, "");
    assert_null(strstr(result->output, "sign of life"));
}

static void test_failures_end_the_job(void **state) {
    (void)state;
    need(2);
    assert_ends("", 2, "", "dying", "[process 1]: error: process 1 has had enough");
    assert_run(run_part("", 2, "", "usage"), EXIT_USAGE, "error: all find the same mistake");
}

static void test_wrong_heartbeat(void **state) {
    (void)state;
    need(2);
    assert_run(run_part("MARS_HEARTBEAT_SECONDS=soon", 2, "", "host"), EXIT_DONE,
               "warning: MARS_HEARTBEAT_SECONDS: 'soon' is not a number of seconds; the limit is 15");
}

static void test_one_gpu_for_two(void **state) {
    (void)state;
    need(1);
    assert_run(run_part("CUDA_VISIBLE_DEVICES=0 MARS_EMU_DEVICES=1", 2, "", "host"), EXIT_USAGE,
               "processes 0 and 1 would share a GPU: of 2 processes on their machine each sees 1 GPU(s)");
}

/* Of 1000 elements and a gap of 24, and of 300 elements and a gap of 84, two processes take 512 and 128 each in even
 * ranges. 128 remain, of which 44 are the tensor's. NCCL reduces float32 and gathers bytes. */
static void test_collectives_of_even_ranges(void **state) {
    (void)state;
    need(2);
    CommandResult *result = run_part("MARS_EMU_NCCL_COUNTS=1", 2, "", "calls");
    assert_run(result, EXIT_DONE, "NCCL: ncclReduceScatter: 2 calls, 640 elements");
    assert_run(result, EXIT_DONE, "NCCL: ncclReduce: 1 calls, 44 elements");
    assert_run(result, EXIT_DONE, "NCCL: ncclAllGather: 2 calls, 2560 elements");
    assert_run(result, EXIT_DONE, "NCCL: ncclBroadcast: 1 calls, 176 elements");
}

/* One emulated GPU, and the switch that lets processes share it. */
#define SHARED_GPU "MARS_EMU_DEVICES=1 MARS_SHARE_GPU=1 "

/* In front of the program: starts it so that NCCL takes each process for a host of its own. */
static const char own_host[] = "sh -c 'NCCL_HOSTID=host$OMPI_COMM_WORLD_RANK exec \"$0\" \"$@\"'";

static void test_shared_gpu(void **state) {
    (void)state;
    need(3);
    CommandResult *result = run_part(SHARED_GPU, 3, own_host, "exchanges");
    assert_run(result, EXIT_DONE, "test_comm: warning: MARS_SHARE_GPU: 3 processes share a GPU");
    assert_run(run_part(SHARED_GPU, 2, own_host, "order"), EXIT_DONE, "");
    const char newer[] = SHARED_GPU "MARS_EMU_NCCL_VERSION=2.30.3 NCCL_MULTI_RANK_GPU_ENABLE=1";
    assert_run(run_part(newer, 2, "", "exchanges"), EXIT_DONE, "");
}

/* Each setting that is missing is named, by us or by NCCL. */
static void test_settings_of_a_shared_gpu(void **state) {
    (void)state;
    need(2);
    const char would_share[] = "processes 0 and 1 would share a GPU";
    assert_run(run_part("MARS_EMU_DEVICES=1", 2, own_host, "host"), EXIT_USAGE, would_share);
    assert_run(run_part("MARS_EMU_DEVICES=1 MARS_SHARE_GPU=0", 2, own_host, "host"), EXIT_USAGE, would_share);
    assert_run(run_part("MARS_EMU_DEVICES=1 MARS_SHARE_GPU=yes", 2, own_host, "host"), EXIT_USAGE,
               "MARS_SHARE_GPU: 'yes' is neither 0 nor 1");
    const char one_of_two[] = "sh -c 'MARS_SHARE_GPU=$OMPI_COMM_WORLD_RANK exec \"$0\" \"$@\"'";
    assert_run(run_part("MARS_EMU_DEVICES=1", 2, one_of_two, "host"), EXIT_USAGE, would_share);
    const char refused[] = "NCCL: connecting the GPUs failed: invalid usage (ranks 0 and 1 both use GPU 0 of host ";
    assert_run(run_part(SHARED_GPU, 2, "", "host"), EXIT_FAILED, refused);
    assert_run(run_part(SHARED_GPU "NCCL_HOSTID=one", 2, "", "host"), EXIT_FAILED, refused);
    assert_run(run_part(SHARED_GPU "MARS_EMU_NCCL_VERSION=2.30.3", 2, "", "host"), EXIT_FAILED, refused);
    assert_run(run_part(SHARED_GPU "MARS_EMU_NCCL_VERSION=2.30.2 NCCL_MULTI_RANK_GPU_ENABLE=1", 2, "", "host"),
               EXIT_FAILED, refused);
}

/* Before NCCL's message comes the time in which a process could be missed. */
static void test_failure_of_nccl(void **state) {
    (void)state;
    need(2);
    assert_ends("MARS_HEARTBEAT_SECONDS=" SILENCE " MARS_EMU_NCCL_ERROR=1", 2, "", "waiting",
                "[process 1]: error: NCCL: an exchange between GPUs failed: remote process exited");
}

static void test_faults_of_use(void **state) {
    (void)state;
    need(2);
    assert_ends("", 2, "", "disagreement", "asks for ncclAllReduce of");
    assert_ends("", 2, "", "host_memory", "emulator: ncclAllReduce: what is sent is not memory of a GPU");
    assert_ends("", 2, "", "overlap", "emulator: NCCL: a call writes memory that another one of its group uses");
    assert_ends("", 2, "", "uneven_slices", "asks for ncclReduceScatter of");
    assert_ends("", 2, "", "past_the_end", "emulator: ncclReduceScatter: what is sent goes past the end of its memory");
    assert_ends("", 2, "", "part_of_a_bucket", "Assertion");
}

int main(int argc, char **argv) {
    static const char option[] = "--part=";
    if (argc == 2 && strncmp(argv[1], option, strlen(option)) == 0) return play(argv[1] + strlen(option));
    setenv("MARS_EMU_DEVICES", "4", 1); /* PROCESSES_MAX of them, for the processes too */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),           cmocka_unit_test(test_alone_under_mpirun),
        cmocka_unit_test(test_exchanges),       cmocka_unit_test(test_large),
        cmocka_unit_test(test_order),           cmocka_unit_test(test_host),
        cmocka_unit_test(test_stopped_process), cmocka_unit_test(test_killed_process),
        cmocka_unit_test(test_slow_processes),  cmocka_unit_test(test_failures_end_the_job),
        cmocka_unit_test(test_wrong_heartbeat),
    };
    const struct CMUnitTest of_gpus[] = {cmocka_unit_test(test_one_gpu_for_two)};
    const struct CMUnitTest of_emulated_gpus[] = {
        cmocka_unit_test(test_shared_gpu), cmocka_unit_test(test_settings_of_a_shared_gpu),
        cmocka_unit_test(test_failure_of_nccl), cmocka_unit_test(test_faults_of_use),
        cmocka_unit_test(test_collectives_of_even_ranges)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (strcmp(test_device(), "cpu") == 0) return failed;
    failed += cmocka_run_group_tests(of_gpus, NULL, NULL);
    if (device_is_emulated(test_device())) failed += cmocka_run_group_tests(of_emulated_gpus, NULL, NULL);
    return failed;
}
