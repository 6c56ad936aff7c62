/* test_optim_sharded.c: steps that several processes share must give what one process gives, with every optimizer. The
 * processes are threads here, each with its own buffers, that speak through memory; test_processes.c tests mpirun and
 * the trainer. cmocka knows one thread only, so threads note what they find and the main one judges. */
#include "dev/test/test.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/model/small_model.h"
#include "dev/test/optim/optim_world.h"

/* LISTS: parameters and up to three states. */
enum { MAX_RANKS = 5, STEPS = 4, LISTS = 4, SCALARS = 2, LONGEST = 1 << 18 };

/* ---- every optimizer ---- */

typedef struct Variant {
    const char *name;
    OptimName optimizer;
    bool exact, optimize_1d;
    bool is_matrix; /* goes through Newton-Schulz */
    int numbers;    /* of state for an element of a tensor that the rule is for, g_last included */
    bool splits;    /* split_qkv, muon_embeddings and cautious decay */
} Variant;

static const Variant variants[] = {
    {"adamw", OPTIM_ADAMW, .numbers = 2},
    {"mars-adamw", OPTIM_MARS_ADAMW, .numbers = 3},
    {"mars-adamw, exact", OPTIM_MARS_ADAMW, .exact = true, .numbers = 3},
    {"mars-adamw, vectors too", OPTIM_MARS_ADAMW, .optimize_1d = true, .numbers = 3},
    {"mars-lion", OPTIM_MARS_LION, .numbers = 2},
    {"mars-lion, exact", OPTIM_MARS_LION, .exact = true, .numbers = 2},
    {"mars-lion, exact, vectors too", OPTIM_MARS_LION, .exact = true, .optimize_1d = true, .numbers = 2},
    {"mars-shampoo", OPTIM_MARS_SHAMPOO, .is_matrix = true, .numbers = 2},
    {"mars-shampoo, exact", OPTIM_MARS_SHAMPOO, .exact = true, .is_matrix = true, .numbers = 2},
    {"mars-shampoo, vectors too", OPTIM_MARS_SHAMPOO, .optimize_1d = true, .is_matrix = true, .numbers = 2},
    {"muon", OPTIM_MUON, .is_matrix = true, .numbers = 1},
    {"moonlight", OPTIM_MOONLIGHT, .is_matrix = true, .numbers = 1},
    {"mars-m", OPTIM_MARS_M, .is_matrix = true, .numbers = 2},
    {"mars-m, exact", OPTIM_MARS_M, .exact = true, .is_matrix = true, .numbers = 2},
    {"mars-m-efficient", OPTIM_MARS_M_EFFICIENT, .is_matrix = true, .numbers = 1},
    {"sgd-sai", OPTIM_SGD_SAI, .numbers = 1},
    {"normuon", OPTIM_NORMUON, .is_matrix = true, .numbers = 1},
    {"normuon, split, embeddings too", OPTIM_NORMUON, .is_matrix = true, .numbers = 1, .splits = true},
    {"mars-normuon", OPTIM_MARS_NORMUON, .is_matrix = true, .numbers = 2},
    {"mars-normuon, exact", OPTIM_MARS_NORMUON, .exact = true, .is_matrix = true, .numbers = 2},
    {"mars-normuon, exact, split", OPTIM_MARS_NORMUON, .exact = true, .is_matrix = true, .numbers = 2, .splits = true},
};

/* Where there is little time, every sixth: exact forms, and mars-m-efficient. */
static bool has_time_for(size_t variant) { return !only_small_sizes() || variant % 6 == 2; }

static OptimConfig config_of(const Variant *variant, double grad_clip) {
    OptimConfig config = optim_defaults(variant->optimizer, 1e-3);
    config.is_approx = !variant->exact;
    config.optimize_1d = variant->optimize_1d;
    config.lr_1d = config.muon_learning_rate = 2e-3;
    config.grad_clip = grad_clip;
    config.ns_dtype = NS_DTYPE_FLOAT32;
    config.split_qkv = config.cautious_weight_decay = variant->splits;
    if (variant->splits) config.muon_embeddings = true;
    return config;
}

/* Matrices of one shape, for batches; tall and wide ones; sizes around the alignment; every role. */
static TensorTable mixed_table(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "one", ROLE_VECTOR, 1, 1, 1);
    tensor_table_add(&table, "padded", ROLE_EMBEDDING, 5, 100, 64);
    tensor_table_add(&table, "column", ROLE_MATRIX, 7, 1, 7);
    tensor_table_add(&table, "wide a", ROLE_MATRIX, 24, 72, 24);
    tensor_table_add(&table, "gain a", ROLE_VECTOR, 1, 72, 1);
    tensor_table_add(&table, "tall a", ROLE_MATRIX, 71, 23, 71);
    tensor_table_add(&table, "square", ROLE_MATRIX, 128, 128, 128);
    tensor_table_add(&table, "long", ROLE_MATRIX, 7, 2341, 7);
    tensor_table_add(&table, "table", ROLE_EMBEDDING, 130, 64, 130);
    tensor_table_add(&table, "wide b", ROLE_MATRIX, 24, 72, 24);
    tensor_table_add(&table, "gain b", ROLE_VECTOR, 1, 129, 1);
    tensor_table_add(&table, "tall b", ROLE_MATRIX, 71, 23, 71);
    tensor_table_add(&table, "wide c", ROLE_MATRIX, 24, 72, 24);
    tensor_table_add(&table, "gain c", ROLE_VECTOR, 1, 5000, 1);
    table.tensors[tensor_table_add(&table, "qkv", ROLE_MATRIX, 69, 31, 69)].stacked = 3;
    return table;
}

/* ---- a Comm between threads: all show their data, and everybody takes what it needs ---- */

typedef struct Hub {
    pthread_barrier_t barrier;
    void *shown[MAX_RANKS];
} Hub;

/* One that was asked for. */
typedef struct Exchange Exchange;
struct Exchange {
    void (*make)(Comm *comm, const Exchange *exchange);
    void *data;
    size_t element_size;
    const Partition *partition;
    float *shard;
    size_t begin, end; /* n of a sum is `end` */
};

enum { MAX_WAITING = 256 };

/* Where late, exchanges are made when they are awaited, as late as may be: what is changed too soon, read too soon or
 * never awaited comes out wrong. Else they are made when they are asked for. */
typedef struct ThreadComm {
    Comm base;
    Hub *hub;
    bool late;
    Exchange waiting[MAX_WAITING];
    int64_t enqueued, made;
} ThreadComm;

static void meet(Comm *comm) { pthread_barrier_wait(&((ThreadComm *)comm)->hub->barrier); }

static void **show(Comm *comm, void *data) {
    Hub *hub = ((ThreadComm *)comm)->hub;
    hub->shown[comm->rank] = data;
    meet(comm);
    return hub->shown;
}

static void hub_wait_for(Comm *comm, int64_t exchanges) {
    ThreadComm *hub = (ThreadComm *)comm;
    for (; hub->made < exchanges; hub->made++) {
        const Exchange *exchange = &hub->waiting[hub->made % MAX_WAITING];
        exchange->make(comm, exchange);
    }
}

static int64_t hub_enqueued(Comm *comm) { return ((ThreadComm *)comm)->enqueued; }

static void ask(Comm *comm, Exchange exchange) {
    ThreadComm *hub = (ThreadComm *)comm;
    if (hub->enqueued - hub->made == MAX_WAITING) die("more than %d exchanges wait", MAX_WAITING);
    hub->waiting[hub->enqueued++ % MAX_WAITING] = exchange;
    if (!hub->late) hub_wait_for(comm, hub->enqueued);
}

static void make_sum(Comm *comm, const Exchange *exchange) {
    void **shown = show(comm, exchange->data);
    size_t n = exchange->end;
    double *sums = checked_calloc(n, sizeof *sums, "sums");
    for (int r = 0; r < comm->size; r++)
        for (size_t i = 0; i < n; i++) sums[i] += ((double *)shown[r])[i];
    meet(comm);
    memcpy(exchange->data, sums, n * sizeof *sums);
    free(sums);
}

static void hub_sum(Comm *comm, double *values, int n) {
    ask(comm, (Exchange){make_sum, .data = values, .end = (size_t)n});
}

/* What a reduction leaves undefined, and what a gathering will bring: nobody may read it. */
static void poison(Comm *comm, const Exchange *exchange, bool own_too) {
    const Partition *partition = exchange->partition;
    for (int r = 0; r < comm->size; r++)
        for (int p = partition->first[r]; (r != comm->rank || own_too) && p < partition->first[r + 1]; p++) {
            Part part = part_within(&partition->parts[p], exchange->begin, exchange->end);
            if (part.begin < part.end)
                memset((char *)exchange->data + part.begin * exchange->element_size, 0xff,
                       (part.end - part.begin) * exchange->element_size);
        }
}

static void make_reduction(Comm *comm, const Exchange *exchange) {
    const Partition *partition = exchange->partition;
    float *data = exchange->data, *shard = exchange->shard;
    void **shown = show(comm, data);
    size_t n = partition_shard_length(partition, comm->rank);
    float *sums = checked_calloc(n + 1, sizeof *sums, "sums");
    for (int p = partition->first[comm->rank]; p < partition->first[comm->rank + 1]; p++) {
        Part part = part_within(&partition->parts[p], exchange->begin, exchange->end);
        for (int r = 0; r < comm->size; r++)
            for (size_t at = part.begin; at < part.end; at++)
                sums[part.at + (at - part.begin)] += ((float *)shown[r])[at];
    }
    meet(comm);
    poison(comm, exchange, shard != NULL);
    for (int p = partition->first[comm->rank]; p < partition->first[comm->rank + 1]; p++) {
        Part part = part_within(&partition->parts[p], exchange->begin, exchange->end);
        if (part.begin < part.end)
            memcpy(shard ? shard + part.at : data + part.begin, sums + part.at, (part.end - part.begin) * sizeof *sums);
    }
    free(sums);
}

static void hub_reduce_scatter(Comm *comm, float *data, const Partition *partition, float *shard, size_t begin,
                               size_t end) {
    ask(comm, (Exchange){make_reduction, data, sizeof *data, partition, shard, begin, end});
}

static void make_gathering(Comm *comm, const Exchange *exchange) {
    const Partition *partition = exchange->partition;
    size_t size = exchange->element_size;
    void **shown = show(comm, exchange->data);
    for (int r = 0; r < comm->size; r++)
        for (int p = partition->first[r]; r != comm->rank && p < partition->first[r + 1]; p++) {
            Part part = part_within(&partition->parts[p], exchange->begin, exchange->end);
            if (part.begin < part.end)
                memcpy((char *)exchange->data + part.begin * size, (char *)shown[r] + part.begin * size,
                       (part.end - part.begin) * size);
        }
    meet(comm);
}

static void hub_all_gather(Comm *comm, void *data, size_t element_size, const Partition *partition, size_t begin,
                           size_t end) {
    Exchange exchange = {make_gathering, data, element_size, partition, NULL, begin, end};
    poison(comm, &exchange, false);
    ask(comm, exchange);
}

static void hub_send_to_root(Comm *comm, int from, float *data, size_t n) {
    void **shown = show(comm, data);
    if (comm->rank == 0 && from != 0) memcpy(data, shown[from], n * sizeof *data);
    meet(comm);
}

static Comm *open_hub_comm(Hub *hub, int rank, int size, bool late) {
    ThreadComm *comm = checked_calloc(1, sizeof *comm, "a comm");
    comm->base = (Comm){.rank = rank,
                        .size = size,
                        .sum_on_device = hub_sum,
                        .reduce_scatter = hub_reduce_scatter,
                        .all_gather = hub_all_gather,
                        .enqueued = hub_enqueued,
                        .wait_for = hub_wait_for,
                        .send_to_root = hub_send_to_root};
    comm->hub = hub;
    comm->late = late;
    return &comm->base;
}

/* ---- one process ---- */

/* All that an optimizer remembers, in flat buffers. */
typedef struct Memory {
    float *lists[LISTS]; /* the parameters, then the states */
    double *scalars[SCALARS];
    int64_t updates;
} Memory;

enum { MAX_TENSORS = 256 };

/* What optim_norms() said of a step. */
typedef struct StepNorms {
    double clip;
    TensorNorms tensors[MAX_TENSORS];
} StepNorms;

typedef struct Process Process;
struct Process {
    int rank, size, of_processes;
    Hub *hub;
    TensorTable (*table)(void);
    OptimConfig config;
    DType type;
    const Memory *given; /* to begin with; NULL for nothing */
    bool stumbles;       /* a gradient that is not finite before each good one */
    bool late;           /* exchanges are made as late as may be */
    bool announces;      /* gradients are announced in pieces, from the end */
    bool has_norms;      /* steps measure norms; not where it runs ahead */
    bool runs_ahead;     /* a step is begun before the last one's outcome is known */
    uint32_t begin, end; /* steps to take */
    OptimWorld *world;
    OptimResult results[STEPS], stumbled[STEPS];
    StepNorms norms[STEPS];
    OptimResult *begun[OPTIM_MAX_STEPS]; /* where the outcomes belong of steps that are not ended, oldest first */
    int begun_count;
    Memory at_begin, at_end; /* on process 0; at_begin only where something is given */
};

/* One process's gradient of a step's batch, or of the next one. Made once, before there are threads: the numbers are
 * dear. */
static float *shares[MAX_RANKS][STEPS][2];

static void make_shares(void) {
    for (uint32_t i = 0; i < MAX_RANKS * STEPS * 2; i++) {
        float *share = checked_malloc(LONGEST * sizeof *share, "gradients");
        for (size_t at = 0; at < LONGEST; at++) share[at] = random_gradient(i, at);
        shares[i / (STEPS * 2)][i / 2 % STEPS][i % 2] = share;
    }
}

/* The sum over processes, in their order, is the gradient of a process that is alone. Processes from `of_processes` on
 * add nothing to it. */
static void set_own_gradient(Process *p, uint32_t step, bool second) {
    const TensorTable *table = &p->world->table;
    float *grads = optim_gradient(p->world->optim, second);
    for (int i = 0; i < table->count; i++)
        for (size_t at = table->tensors[i].offset; at < table->tensors[i].offset + table->tensors[i].size; at++) {
            if (p->size > 1) {
                grads[at] = p->rank < p->of_processes ? shares[p->rank][step][second][at] : 0.0f;
                continue;
            }
            grads[at] = 0.0f;
            for (int r = 0; r < p->of_processes; r++) grads[at] += shares[r][step][second][at];
        }
}

static void spoil(Process *p, uint32_t step, bool second) {
    const TensorTable *table = &p->world->table;
    size_t at = table->tensors[tensor_table_find(table, "long")].offset + 12345;
    if (p->rank == (int)step % p->size) optim_gradient(p->world->optim, second)[at] = step % 2 ? NAN : -INFINITY;
}

/* In pieces of any size, some empty, some of a few elements; sometimes not to the beginning. */
static void announce(Process *p, uint32_t step) {
    size_t from = p->world->table.length, length = from;
    for (uint32_t i = 0; p->announces && i < 20 + 7 * step && from > 0; i++) {
        size_t piece = i % 3 == 0 ? length / 9 : i % 3 == 1 ? i : 0;
        from = piece < from ? from - piece : 0;
        optim_gradient_ready(p->world->optim, from);
    }
}

static void end_oldest(Process *p) {
    *p->begun[0] = optim_result(p->world->optim);
    p->begun[0] = p->begun[1];
    p->begun_count--;
}

/* `bad`: one process's gradient is spoiled; in the exact forms now the first one, now the second. */
static void take_step(Process *p, uint32_t step, bool bad, OptimResult *result) {
    Optim *optim = p->world->optim;
    bool exact = optim_info(optim)->gradients > 1, bad_second = exact && step % 2 == 0;
    set_own_gradient(p, step, false);
    if (bad && !bad_second) spoil(p, step, false);
    announce(p, step);
    if (exact) {
        set_own_gradient(p, step, true);
        if (bad && bad_second) spoil(p, step, true);
        announce(p, step + 1);
    }
    OptimRates rates = world_rates(p->world, 1e-3 * (step + 1));
    if (!p->runs_ahead) {
        *result = world_step(p->world, rates);
        return;
    }
    if (p->begun_count == OPTIM_MAX_STEPS) end_oldest(p);
    enqueue_step(p->world, rates);
    p->begun[p->begun_count++] = result;
}

static Memory fetch_all(Process *p) {
    const TensorTable *table = &p->world->table;
    Optim *optim = p->world->optim;
    Memory memory = {.updates = optim_updates(optim)};
    for (int list = 0; list < 1 + optim_info(optim)->state_count; list++) {
        memory.lists[list] = checked_calloc(table->length, sizeof(float), "fetched");
        for (int i = 0; i < table->count; i++)
            if (list == 0 || optim_has_state(optim, list - 1, i))
                optim_fetch(optim, list - 1, i, p->rank == 0 ? memory.lists[list] + table->tensors[i].offset : NULL);
    }
    for (int s = 0; s < optim_info(optim)->scalar_count; s++) {
        memory.scalars[s] = checked_calloc((size_t)table->count, sizeof(double), "fetched");
        optim_fetch_scalars(optim, s, memory.scalars[s]);
    }
    return memory;
}

/* As a checkpoint would be loaded. */
static void store_all(Process *p, const Memory *memory) {
    const TensorTable *table = &p->world->table;
    Optim *optim = p->world->optim;
    set_params(p->world, memory->lists[0]);
    for (int state = 0; state < optim_info(optim)->state_count; state++)
        for (int i = 0; i < table->count; i++)
            if (optim_has_state(optim, state, i))
                optim_store(optim, state, i, memory->lists[state + 1] + table->tensors[i].offset);
    for (int s = 0; s < optim_info(optim)->scalar_count; s++) optim_store_scalars(optim, s, memory->scalars[s]);
    optim_set_updates(optim, memory->updates);
}

static void free_memory(Memory *memory) {
    for (int list = 0; list < LISTS; list++) free(memory->lists[list]);
    for (int s = 0; s < SCALARS; s++) free(memory->scalars[s]);
}

static void keep_norms(Process *p, StepNorms *to) {
    const OptimNorms *norms = optim_norms(p->world->optim);
    to->clip = norms->clip;
    memcpy(to->tensors, norms->tensors, (size_t)p->world->table.count * sizeof *norms->tensors);
}

static void *run_process(void *context) {
    Process *p = context;
    OptimWorld *(*open)(TensorTable, OptimConfig, DType, int, Comm *) =
        p->has_norms ? open_world_with_norms : open_world;
    p->world = open(p->table(), p->config, p->type, 1, open_hub_comm(p->hub, p->rank, p->size, p->late));
    if (p->given) {
        store_all(p, p->given);
        p->at_begin = fetch_all(p);
    }
    for (uint32_t step = p->begin; step < p->end; step++) {
        if (p->stumbles) take_step(p, step, true, &p->stumbled[step]);
        take_step(p, step, false, &p->results[step]);
        if (p->has_norms) keep_norms(p, &p->norms[step]);
    }
    while (p->begun_count > 0) end_oldest(p);
    optim_wait_for_weights(p->world->optim, 0, p->world->table.length);
    p->at_end = fetch_all(p);
    return NULL;
}

/* ---- a job ---- */

/* A job of `of_processes`, or of one process that gets the sum of their gradients. */
static Process model_of(const Variant *variant, double grad_clip, int of_processes) {
    return (Process){
        .table = mixed_table, .config = config_of(variant, grad_clip), .of_processes = of_processes, .end = STEPS};
}

/* Runs copies of `model` as the processes of a job. */
static void run_job(Process *processes, int size, const Process *model) {
    Hub hub;
    pthread_t threads[MAX_RANKS];
    pthread_barrier_init(&hub.barrier, NULL, (unsigned)size);
    for (int r = 0; r < size; r++) {
        processes[r] = *model;
        processes[r].rank = r;
        processes[r].size = size;
        processes[r].hub = &hub;
        if (pthread_create(&threads[r], NULL, run_process, &processes[r]) != 0) die("cannot start a thread");
    }
    for (int r = 0; r < size; r++) pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&hub.barrier);
}

static void end_job(Process *processes, int size) {
    for (int r = 0; r < size; r++) {
        free_memory(&processes[r].at_begin);
        free_memory(&processes[r].at_end);
        close_world(processes[r].world);
    }
}

/* ---- what comes out ---- */

static const char *list_name(const Optim *optim, int list) {
    return list == 0 ? "parameters" : optim_info(optim)->state_names[list - 1];
}

/* Each tensor of each list within `limit` of the expected one, relatively; the same bits where it is 0. */
static void assert_near(const char *name, const OptimWorld *w, const Memory *memory, const Memory *expected,
                        double limit) {
    assert_int_equal(memory->updates, expected->updates);
    for (int list = 0; list < 1 + optim_info(w->optim)->state_count; list++)
        for (int i = 0; i < w->table.count; i++) {
            const Tensor *t = &w->table.tensors[i];
            const float *a = memory->lists[list] + t->offset, *b = expected->lists[list] + t->offset;
            double error = relative_error_float(a, b, t->size);
            if (limit == 0.0 ? memcmp(a, b, t->size * sizeof *a) != 0 : !(error <= limit))
                fail_msg("%s, %s of %s: error %.3g, limit %.3g", name, list_name(w->optim, list), t->name, error,
                         limit);
        }
    for (int s = 0; s < optim_info(w->optim)->scalar_count; s++) {
        double error = relative_error(memory->scalars[s], expected->scalars[s], (size_t)w->table.count);
        if (!(error <= (limit == 0.0 ? 0.0 : 1e-12)))
            fail_msg("%s, %s: error %.3g", name, optim_info(w->optim)->scalar_names[s], error);
    }
}

/* All processes of a job know the same: norms, weights, and numbers of one per tensor. */
static void assert_of_one_mind(const Process *job, int size) {
    const OptimWorld *first = job[0].world;
    for (int r = 1; r < size; r++) {
        const OptimWorld *w = job[r].world;
        for (uint32_t step = job->begin; step < job->end; step++) {
            assert_int_equal(job[r].results[step].nonfinite_tensor, job[0].results[step].nonfinite_tensor);
            assert_true(job[r].results[step].grad_norm == job[0].results[step].grad_norm);
        }
        assert_int_equal(optim_updates(w->optim), optim_updates(first->optim));
        assert_memory_equal(w->buffers.weights, first->buffers.weights, w->table.length * dtype_size(job->type));
        for (int s = 0; s < optim_info(w->optim)->scalar_count; s++)
            assert_memory_equal(job[r].at_end.scalars[s], job[0].at_end.scalars[s],
                                (size_t)w->table.count * sizeof(double));
    }
}

static void assert_same_as_alone(const char *name, const Process *model, double limit) {
    int size = model->of_processes;
    Process job[MAX_RANKS], alone[1];
    run_job(alone, 1, model);
    run_job(job, size, model);
    for (uint32_t step = 0; step < STEPS; step++) {
        double norm = alone->results[step].grad_norm;
        assert_true(norm > 0.0);
        assert_int_equal(job[0].results[step].nonfinite_tensor, -1);
        assert_error_below(fabs(job[0].results[step].grad_norm - norm) / norm, 1e-14, "the norm");
    }
    assert_int_equal(job[0].at_end.updates, STEPS);
    assert_of_one_mind(job, size);
    assert_near(name, alone->world, &job[0].at_end, &alone->at_end, limit);
    if (limit == 0.0)
        assert_memory_equal(job[0].world->buffers.weights, alone->world->buffers.weights,
                            alone->world->table.length * dtype_size(model->type));
    end_job(job, size);
    end_job(alone, 1);
}

static TensorTable tiny_table(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "one", ROLE_MATRIX, 1, 1, 1);
    tensor_table_add(&table, "two", ROLE_VECTOR, 1, 130, 1);
    return table;
}

/* ---- tests ---- */

/* Sums over a tensor are made in other pieces, so that norms differ in their last bits, and with them the factors that
 * come of them; Newton-Schulz blows such differences up. */
static void test_every_optimizer(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
        if (!has_time_for(i)) continue;
        for (int size = 2; size <= MAX_RANKS; size += size == 2 ? 1 : 2) {
            Process model = model_of(&variants[i], 1.0, size);
            assert_same_as_alone(variants[i].name, &model, variants[i].is_matrix ? 1e-5 : 3e-7);
        }
    }
}

/* Without a clip AdamW computes each element alone: the same bits. */
static void test_same_bits(void **state) {
    (void)state;
    Process model = model_of(&variants[0], 0.0, 2);
    model.table = odd_table;
    assert_same_as_alone("adamw", &model, 0.0);
    model.of_processes = MAX_RANKS;
    assert_same_as_alone("adamw", &model, 0.0);
    model.type = DTYPE_BFLOAT16;
    assert_same_as_alone("adamw", &model, 0.0);
}

/* Where weights have a copy, it is the copy that is gathered. */
static void test_weight_copies(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
        Process job[3], model = model_of(&variants[i], 1.0, 3);
        model.type = DTYPE_BFLOAT16;
        model.end = 2;
        run_job(job, 3, &model);
        assert_of_one_mind(job, 3);
        const TensorTable *table = &job->world->table;
        const bfloat16 *copy = job->world->buffers.weights;
        for (int t = 0; t < table->count; t++)
            for (size_t at = table->tensors[t].offset; at < table->tensors[t].offset + table->tensors[t].size; at++)
                assert_int_equal(copy[at].bits, bfloat16_from_float(job->at_end.lists[0][at]).bits);
        end_job(job, 3);
    }
}

/* 384 elements for five processes: some own nothing. */
static void test_more_processes_than_parts(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
        Process model = model_of(&variants[i], 1.0, MAX_RANKS);
        model.table = tiny_table;
        assert_same_as_alone(variants[i].name, &model, variants[i].is_matrix ? 1e-5 : 3e-7);
    }
}

/* Steps with a gradient that is not finite, of one process and of either batch, are as if they had not been; also where
 * nobody knew of one yet when the next was begun. */
static void assert_nothing_changed(const Variant *variant, int size, bool runs_ahead) {
    Process job[MAX_RANKS], expected[MAX_RANKS], model = model_of(variant, 1.0, size);
    run_job(expected, size, &model);
    model.stumbles = true;
    model.runs_ahead = model.late = runs_ahead;
    run_job(job, size, &model);
    for (int r = 0; r < size; r++)
        for (uint32_t step = 0; step < STEPS; step++) {
            assert_int_equal(job[r].stumbled[step].nonfinite_tensor, tensor_table_find(&job[r].world->table, "long"));
            assert_int_equal(job[r].stumbled[step].of_next_batch, variant->exact && step % 2 == 0);
            assert_int_equal(job[r].results[step].nonfinite_tensor, -1);
        }
    assert_of_one_mind(job, size);
    assert_near(variant->name, job->world, &job->at_end, &expected->at_end, 0.0);
    end_job(expected, size);
    end_job(job, size);
}

static void test_not_finite(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
        if (!has_time_for(i)) continue;
        for (int runs_ahead = 0; runs_ahead < 2; runs_ahead++) {
            assert_nothing_changed(&variants[i], 1, runs_ahead);
            assert_nothing_changed(&variants[i], 3, runs_ahead);
        }
    }
}

/* However gradients were announced, and whenever exchanges are made, the same elements move once: the same bits. */
static void test_exchanges_beside_the_passes(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
        if (!has_time_for(i)) continue;
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
            Process expected[3], job[3], model = model_of(&variants[i], 1.0, 3);
            model.type = (DType)type;
            run_job(expected, 3, &model);
            for (int kind = 1; kind < 4; kind++) {
                model.announces = kind & 1;
                model.late = model.runs_ahead = kind & 2;
                run_job(job, 3, &model);
                assert_of_one_mind(job, 3);
                assert_near(variants[i].name, job->world, &job->at_end, &expected->at_end, 0.0);
                assert_memory_equal(job->world->buffers.weights, expected->world->buffers.weights,
                                    job->world->table.length * dtype_size(model.type));
                end_job(job, 3);
            }
            end_job(expected, 3);
        }
    }
}

static void assert_close_norm(const char *name, const char *what, double own, double expected, double limit) {
    if (!(fabs(own - expected) <= limit)) fail_msg("%s, %s: %.12g, expected %.12g", name, what, own, expected);
}

/* Every rank says the same of a step, and what one rank without others says. Where parameters have the same bits, norms
 * differ by the order of a sum in double; else by a few roundings of parameters, and what Newton-Schulz makes of
 * them. */
static void assert_same_norms(const char *name, const Process *job, int size, const StepNorms *expected, uint32_t step,
                              bool same_bits) {
    const TensorTable *table = &job->world->table;
    const StepNorms *own = &job->norms[step];
    for (int r = 1; r < size; r++) assert_memory_equal(&job[r].norms[step], own, sizeof *own);
    assert_close_norm(name, "clip", own->clip, expected->clip, 1e-13);
    for (int i = 0; i < table->count; i++) {
        const TensorNorms *a = &own->tensors[i], *b = &expected->tensors[i];
        const char *tensor = table->tensors[i].name;
        double roundings = same_bits ? 0.0 : 4e-7 * b->weight, limit = same_bits ? 1e-13 : 1e-4;
        assert_true(b->gradient > 0.0 && b->weight > 0.0);
        assert_close_norm(name, tensor, a->gradient, b->gradient, 1e-13 * b->gradient);
        assert_close_norm(name, tensor, a->update, b->update, limit * b->update + roundings);
        assert_close_norm(name, tensor, a->weight, b->weight, limit * b->update + 1e-13 * b->weight + roundings);
    }
}

static void assert_norms_are_shared(const char *name, Process model, bool same_bits) {
    int size = model.of_processes;
    static Process job[MAX_RANKS], alone[1];
    model.has_norms = true;
    run_job(alone, 1, &model);
    model.late = true;
    model.stumbles = model.table == mixed_table; /* which has the tensor that is spoiled */
    run_job(job, size, &model);
    for (uint32_t step = 0; step < STEPS; step++)
        assert_same_norms(name, job, size, &alone->norms[step], step, same_bits);
    end_job(job, size);
    end_job(alone, 1);
}

/* Every family of rules, with two ranks or with three. */
static void test_norms(void **state) {
    (void)state;
    for (int size = 2; size <= 3; size++) {
        Process same_bits = model_of(&variants[0], 0.0, size);
        same_bits.table = odd_table;
        assert_norms_are_shared("adamw", same_bits, true);
        for (size_t i = 0; i < ARRAY_LENGTH(variants); i++)
            if (i % 3 == (size == 2 ? 0 : 2))
                assert_norms_are_shared(variants[i].name, model_of(&variants[i], 1.0, size), false);
    }
}

static unsigned char moved[LONGEST];
static int reductions;

static void count_reduction(Comm *comm, float *data, const Partition *partition, float *shard, size_t begin,
                            size_t end) {
    (void)comm, (void)data, (void)shard;
    if (partition->bucket > 0) assert_int_equal(begin % partition->bucket, 0); /* comm.h's contract */
    for (size_t at = begin; at < end; at++) moved[at]++;
    reductions++;
}

/* An optimizer without buffers, which makes no step. */
static Optim *open_optim(const OptimConfig *config, const TensorTable *table, Backend *be, Comm *comm, Arena *arena) {
    Error error;
    Optim *optim = optim_plan(config, table, be, comm, arena, &error);
    if (!optim) fail_msg("%s", error.text);
    arena_allocate(arena, backend_memory(be));
    optim_start(optim, (OptimBuffers){0});
    return optim;
}

static void announce_again(void *optim) { optim_gradient_ready(optim, 5); }

/* Every element moves once for each group, in several exchanges, before the gradient is finished. */
static void test_pieces(void **state) {
    (void)state;
    Error error;
    TensorTable table = odd_table();
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, 1, &error);
    Comm comm = {.size = 2, .reduce_scatter = count_reduction};
    OptimConfig config = optim_defaults(OPTIM_MOONLIGHT, 1e-3);
    Arena arena = {0};
    Optim *optim = open_optim(&config, &table, be, &comm, &arena);
    optim_gradient_ready(optim, table.length);
    optim_gradient_ready(optim, table.length - 100);
    assert_int_equal(reductions, 0); /* not worth it */
    for (size_t from = table.length - 100; from > 100; from -= 100) optim_gradient_ready(optim, from);
    assert_in_range(reductions, 4, 32);
    optim_gradient_ready(optim, 0);
    for (size_t at = 0; at < table.length; at++) assert_int_equal(moved[at], 2);
    assert_dies(announce_again, optim, "was said to be final");
    optim_close(optim);
    arena_free(&arena);
    be->close(be);
    tensor_table_free(&table);
}

/* The memory of a job goes into one of another number of processes, comes back out, and leads on as it would have. */
static void assert_moves(const Variant *variant, int from, int to) {
    Process source[3], straight[3], job[3], model = model_of(variant, 1.0, 3);
    run_job(straight, from, &model);
    model.end = STEPS / 2;
    run_job(source, from, &model);
    model.begin = STEPS / 2;
    model.end = STEPS;
    model.given = &source->at_end;
    run_job(job, to, &model);
    assert_of_one_mind(job, to);
    assert_near(variant->name, source->world, &job->at_begin, &source->at_end, 0.0);
    assert_near(variant->name, source->world, &job->at_end, &straight->at_end, variant->is_matrix ? 1e-5 : 3e-7);
    end_job(job, to);
    end_job(source, from);
    end_job(straight, from);
}

/* From three processes to one and on to four. */
static void assert_moves_twice(const Variant *variant) {
    Process three[3], one[1], four[4], straight[3], model = model_of(variant, 1.0, 3);
    run_job(straight, 3, &model);
    model.end = STEPS / 2;
    run_job(three, 3, &model);
    model.begin = model.end;
    model.end = STEPS - 1;
    model.given = &three->at_end;
    run_job(one, 1, &model);
    model.begin = STEPS - 1;
    model.end = STEPS;
    model.given = &one->at_end;
    run_job(four, 4, &model);
    assert_of_one_mind(four, 4);
    assert_near(variant->name, one->world, &four->at_begin, &one->at_end, 0.0);
    assert_near(variant->name, one->world, &four->at_end, &straight->at_end, variant->is_matrix ? 1e-5 : 3e-7);
    end_job(four, 4);
    end_job(one, 1);
    end_job(three, 3);
    end_job(straight, 3);
}

static void test_moved_to_another_number(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++) {
        if (!has_time_for(i)) continue;
        assert_moves(&variants[i], 1, 3);
        assert_moves(&variants[i], 3, 1);
        assert_moves(&variants[i], 3, 3);
        assert_moves_twice(&variants[i]);
    }
}

/* ---- state per process ---- */

/* GPT-2 small, every side a sixteenth of it. */
static TensorTable sixteenth_table(void) { return small_table(12, 48, 3144, 64, false); }

typedef struct StateSize {
    double numbers, largest; /* of all processes together; of the largest matrix that stays whole */
} StateSize;

static StateSize state_size(const Variant *variant, const TensorTable *table, const Optim *optim) {
    StateSize size = {0};
    for (int i = 0; i < table->count; i++) {
        const Tensor *t = &table->tensors[i];
        double lines = 0.0;
        for (int s = 0; s < optim_info(optim)->state_count; s++)
            if (optim_has_state(optim, s, i)) {
                size_t vector = optim_state_vector(optim, s, i);
                size.numbers += (double)(vector > 0 ? vector : t->size);
                lines += (double)vector;
            }
        bool whole =
            t->role == ROLE_MATRIX || (t->role == ROLE_EMBEDDING &&
                                       (variant->optimizer == OPTIM_MUON || variant->optimizer == OPTIM_MARS_SHAMPOO ||
                                        (variant->optimizer == OPTIM_NORMUON && variant->splits)));
        if (variant->is_matrix && whole) size.largest = fmax(size.largest, variant->numbers * (double)t->size + lines);
    }
    return size;
}

/* The optimizer is opened in one process after the other: no step is made, so none needs the others. (A process that is
 * alone keeps g_last of all tensors, whether a rule needs it or not.) */
static void assert_state_is_shared(const Variant *variant, Backend *be, int processes) {
    TensorTable table = sixteenth_table();
    OptimConfig config = config_of(variant, 1.0);
    double sum = 0.0, total = 0.0;
    for (int r = 0; r < processes; r++) {
        Comm comm = {.rank = r, .size = processes};
        Arena arena = {0};
        Optim *optim = open_optim(&config, &table, be, &comm, &arena);
        StateSize size = state_size(variant, &table, optim);
        double own = (double)optim_info(optim)->state_bytes / sizeof(float), share = size.numbers / processes;
        double limit = variant->is_matrix ? fmax(1.1 * share, size.largest) : 1.01 * share;
        if (own > limit)
            fail_msg("%s: process %d of %d keeps %g numbers, above %g; an even share is %g", variant->name, r,
                     processes, own, limit, share);
        optim_close(optim);
        arena_free(&arena);
        sum += own;
        total = size.numbers;
    }
    if (sum < total || sum > 1.02 * total) /* slices include the gap after the token embedding */
        fail_msg("%s: %d processes keep %g numbers, expected %g", variant->name, processes, sum, total);
    tensor_table_free(&table);
}

static void test_state_is_shared(void **state) {
    (void)state;
    Error error;
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, 1, &error);
    assert_non_null(be);
    for (size_t i = 0; i < ARRAY_LENGTH(variants); i++)
        for (int processes = 2; processes <= MAX_RANKS; processes++)
            assert_state_is_shared(&variants[i], be, processes);
    be->close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_optimizer), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_weight_copies),   cmocka_unit_test(test_more_processes_than_parts),
        cmocka_unit_test(test_not_finite),      cmocka_unit_test(test_exchanges_beside_the_passes),
        cmocka_unit_test(test_pieces),          cmocka_unit_test(test_moved_to_another_number),
        cmocka_unit_test(test_state_is_shared), cmocka_unit_test(test_norms),
    };
    make_shares();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
