/* test_optim_sharded.c: steps that several processes share must give what one process gives. The processes are threads
 * here, each with its own buffers, that speak through memory; mpirun and the trainer are test_processes.c's business.
 * cmocka knows one thread only, so threads note what they find and the main one judges. */
#include "dev/test/test.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/optim_world.h"

enum { MOST = 5, STEPS = 4, LISTS = 3 }; /* LISTS: parameters, m, v */

/* ---- a Comm between threads: all show their data, and everybody takes what it needs ---- */

typedef struct Hub {
    pthread_barrier_t barrier;
    void *shown[MOST];
} Hub;

typedef struct ThreadComm {
    Comm base;
    Hub *hub;
} ThreadComm;

static void meet(Comm *comm) { pthread_barrier_wait(&((ThreadComm *)comm)->hub->barrier); }

static void **show(Comm *comm, void *data) {
    Hub *hub = ((ThreadComm *)comm)->hub;
    hub->shown[comm->rank] = data;
    meet(comm);
    return hub->shown;
}

static void hub_sum(Comm *comm, double *values, int n) {
    void **shown = show(comm, values);
    double *sums = checked_calloc((size_t)n, sizeof *sums, "sums");
    for (int r = 0; r < comm->size; r++)
        for (int i = 0; i < n; i++) sums[i] += ((double *)shown[r])[i];
    meet(comm);
    memcpy(values, sums, (size_t)n * sizeof *sums);
    free(sums);
}

static void hub_reduce_scatter(Comm *comm, float *data, const Partition *partition, float *shard) {
    void **shown = show(comm, data);
    size_t n = partition_shard_length(partition, comm->rank);
    float *sums = checked_calloc(n + 1, sizeof *sums, "sums");
    for (int p = partition->first[comm->rank]; p < partition->first[comm->rank + 1]; p++) {
        const Part *part = &partition->parts[p];
        for (int r = 0; r < comm->size; r++)
            for (size_t i = 0; i < part->end - part->begin; i++)
                sums[part->at + i] += ((float *)shown[r])[part->begin + i];
    }
    meet(comm);
    for (int p = partition->first[comm->rank]; p < partition->first[comm->rank + 1]; p++) {
        const Part *part = &partition->parts[p];
        memcpy(shard ? shard + part->at : data + part->begin, sums + part->at,
               (part->end - part->begin) * sizeof *sums);
    }
    free(sums);
}

static void hub_all_gather(Comm *comm, void *data, size_t element_size, const Partition *partition) {
    void **shown = show(comm, data);
    for (int r = 0; r < comm->size; r++)
        for (int p = partition->first[r]; r != comm->rank && p < partition->first[r + 1]; p++) {
            const Part *part = &partition->parts[p];
            memcpy((char *)data + part->begin * element_size, (char *)shown[r] + part->begin * element_size,
                   (part->end - part->begin) * element_size);
        }
    meet(comm);
}

static void hub_collect(Comm *comm, int from, float *data, size_t n) {
    void **shown = show(comm, data);
    if (comm->rank == 0 && from != 0) memcpy(data, shown[from], n * sizeof *data);
    meet(comm);
}

static Comm *open_hub_comm(Hub *hub, int rank, int size) {
    ThreadComm *comm = checked_calloc(1, sizeof *comm, "a comm");
    comm->base = (Comm){.rank = rank,
                        .size = size,
                        .sum = hub_sum,
                        .reduce_scatter = hub_reduce_scatter,
                        .all_gather = hub_all_gather,
                        .collect = hub_collect};
    comm->hub = hub;
    return &comm->base;
}

/* ---- one process ---- */

typedef struct Process Process;
struct Process {
    int rank, size;
    Hub *hub;
    TensorTable (*table)(void);
    OptimConfig config;
    DType type;
    void (*task)(Process *process);
    World *world;
    OptimResult results[STEPS];
    float *fetched[LISTS]; /* flat; on process 0 */
    float *given[LISTS];   /* state to begin with, flat; NULL for none */
};

/* The sum over processes, in their order, is the gradient of a process that is alone. */
static float share_of(int rank, uint32_t step, size_t at) { return random_gradient(100 * (uint32_t)rank + step, at); }

static void set_own_gradient(Process *p, uint32_t step, int of_processes) {
    const TensorTable *table = &p->world->table;
    for (int i = 0; i < table->count; i++)
        for (size_t k = 0; k < table->tensors[i].size; k++) {
            size_t at = table->tensors[i].offset + k;
            float sum = 0.0f;
            for (int r = 0; r < of_processes; r++) sum += share_of(r, step, at);
            p->world->buffers.grads[at] = p->size > 1 ? share_of(p->rank, step, at) : sum;
        }
}

static void fetch_all(Process *p) {
    const TensorTable *table = &p->world->table;
    for (int list = 0; list < LISTS; list++) {
        p->fetched[list] = checked_calloc(table->length, sizeof(float), "fetched");
        for (int i = 0; i < table->count; i++)
            optim_fetch(p->world->optim, list - 1, i,
                        p->rank == 0 ? p->fetched[list] + table->tensors[i].offset : NULL);
    }
}

static void take_steps(Process *p, int of_processes) {
    for (uint32_t step = 0; step < STEPS; step++) {
        set_own_gradient(p, step, of_processes);
        p->results[step] = optim_step(p->world->optim, (OptimRates){.learning_rate = 1e-3 * (step + 1)});
    }
}

static void steps_and_fetch(Process *p) {
    take_steps(p, p->size);
    fetch_all(p);
}

/* A bad element in the last process's gradient only. */
static void bad_step(Process *p) {
    set_own_gradient(p, 0, p->size);
    if (p->rank == p->size - 1) p->world->buffers.grads[p->world->table.tensors[7].offset + 12345] = INFINITY;
    p->results[0] = optim_step(p->world->optim, (OptimRates){.learning_rate = 1e-3});
    fetch_all(p);
}

/* Begins with state from elsewhere. */
static void store_given(Process *p) {
    const TensorTable *table = &p->world->table;
    for (int state = 0; state < 2; state++)
        for (int i = 0; i < table->count; i++)
            optim_store(p->world->optim, state, i, p->given[state + 1] + table->tensors[i].offset);
    optim_set_updates(p->world->optim, STEPS);
}

static void store_fetch_and_step(Process *p) {
    store_given(p);
    fetch_all(p);
    take_steps(p, p->size);
}

static void *run_process(void *context) {
    Process *p = context;
    p->world =
        open_world(p->table(), p->config, p->type, 1, p->size > 1 ? open_hub_comm(p->hub, p->rank, p->size) : NULL);
    p->task(p);
    return NULL;
}

/* Runs copies of `model` as the processes of a job. */
static void run_job(Process *processes, int size, const Process *model) {
    Hub hub;
    pthread_t threads[MOST];
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

/* One process that gets the summed gradients of a job. */
static Process run_alone(const Process *model, int of_processes) {
    Process alone = *model;
    alone.size = 1;
    alone.world = open_world(alone.table(), alone.config, alone.type, 1, NULL);
    if (alone.given[0]) store_given(&alone);
    take_steps(&alone, of_processes);
    fetch_all(&alone);
    return alone;
}

static void end_process(Process *p) {
    for (int list = 0; list < LISTS; list++) free(p->fetched[list]);
    close_world(p->world);
}

/* ---- what comes out ---- */

static void assert_near(const World *w, const float *a, const float *b, double limit) {
    for (int i = 0; i < w->table.count; i++) {
        const Tensor *t = &w->table.tensors[i];
        if (limit == 0.0)
            assert_memory_equal(a + t->offset, b + t->offset, t->size * sizeof *a);
        else
            assert_error_below(relative_error_float(a + t->offset, b + t->offset, t->size), limit, t->name);
    }
}

static void assert_same_as_alone(const Process *model, int size, double limit) {
    Process job[MOST], alone = run_alone(model, size);
    run_job(job, size, model);
    size_t bytes = alone.world->table.length * dtype_size(model->type), state_bytes = 0;
    for (int r = 0; r < size; r++) {
        for (int step = 0; step < STEPS; step++) {
            double norm = alone.results[step].grad_norm;
            assert_int_equal(job[r].results[step].nonfinite_tensor, -1);
            assert_error_below(fabs(job[r].results[step].grad_norm - norm) / norm, 1e-14, "the norm");
            assert_true(job[r].results[step].grad_norm == job[0].results[step].grad_norm);
        }
        assert_int_equal(optim_updates(job[r].world->optim), STEPS);
        assert_memory_equal(job[r].world->buffers.weights, job[0].world->buffers.weights, bytes);
        if (limit == 0.0) assert_memory_equal(job[r].world->buffers.weights, alone.world->buffers.weights, bytes);
        state_bytes += optim_state_bytes(job[r].world->optim);
    }
    assert_int_equal(state_bytes, optim_state_bytes(alone.world->optim));
    for (int list = 0; list < LISTS; list++) assert_near(alone.world, job[0].fetched[list], alone.fetched[list], limit);
    for (int r = 0; r < size; r++) end_process(&job[r]);
    end_process(&alone);
}

static TensorTable tiny_table(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "one", ROLE_MATRIX, 1, 1, 1);
    tensor_table_add(&table, "two", ROLE_VECTOR, 1, 130, 1);
    return table;
}

/* Without a clip each element's update is its own business: the same bits. */
static void test_same_bits(void **state) {
    (void)state;
    Process model = {.table = odd_table, .config = usual_config, .task = steps_and_fetch};
    assert_same_as_alone(&model, 2, 0.0);
    assert_same_as_alone(&model, MOST, 0.0);
    model.type = DTYPE_BFLOAT16;
    assert_same_as_alone(&model, 3, 0.0);
}

/* The norm is summed in other pieces, so with a clip its last bits may differ. */
static void test_clip(void **state) {
    (void)state;
    Process model = {.table = odd_table, .config = usual_config, .task = steps_and_fetch};
    model.config.grad_clip = 1.0;
    assert_same_as_alone(&model, 3, 3e-7);
}

/* 384 elements for five processes: some own nothing. */
static void test_more_processes_than_parts(void **state) {
    (void)state;
    Process model = {.table = tiny_table, .config = usual_config, .task = steps_and_fetch};
    assert_same_as_alone(&model, MOST, 0.0);
}

static void test_not_finite(void **state) {
    (void)state;
    Process job[3], model = {.table = odd_table, .config = usual_config, .task = bad_step};
    run_job(job, 3, &model);
    World *fresh = open_world(odd_table(), usual_config, DTYPE_FLOAT32, 1, NULL);
    size_t bytes = fresh->table.length * sizeof(float);
    for (int r = 0; r < 3; r++) {
        assert_int_equal(job[r].results[0].nonfinite_tensor, 7);
        assert_int_equal(optim_updates(job[r].world->optim), 0);
        assert_memory_equal(job[r].world->buffers.params, fresh->buffers.params, bytes);
    }
    for (int list = 1; list < LISTS; list++)
        for (size_t at = 0; at < fresh->table.length; at++) assert_true(job[0].fetched[list][at] == 0.0f);
    for (int r = 0; r < 3; r++) end_process(&job[r]);
    close_world(fresh);
}

/* State from a run of one process goes into three, comes back out, and leads on as it would have. */
static void test_store(void **state) {
    (void)state;
    Process model = {.table = odd_table, .config = usual_config, .task = store_fetch_and_step};
    Process source = run_alone(&model, 1), job[3];
    for (int list = 0; list < LISTS; list++) model.given[list] = source.fetched[list];
    run_job(job, 3, &model);
    Process alone = run_alone(&model, 3);
    for (int list = 1; list < LISTS; list++) assert_near(source.world, job[0].fetched[list], source.fetched[list], 0.0);
    for (int r = 0; r < 3; r++) {
        assert_int_equal(optim_updates(job[r].world->optim), 2 * STEPS);
        assert_near(source.world, job[r].world->buffers.params, alone.fetched[0], 0.0);
        end_process(&job[r]);
    }
    end_process(&alone);
    end_process(&source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_clip),
        cmocka_unit_test(test_more_processes_than_parts),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
