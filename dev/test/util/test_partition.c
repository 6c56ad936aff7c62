/* test_partition.c: who owns what. Whatever the tensors and the number of processes, every chosen element has one owner
 * and the parts lie as partition.h says; and the shares are as even as partition.h promises, for the published sizes of
 * GPT-2 too. Tables alone are made: no buffer is allocated. */
#include "dev/test/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dev/test/optim/optim_world.h"
#include "model/gpt2.h"
#include "optim/newton_schulz.h"
#include "util/partition.h"

enum { MAX_RANKS = 9, TABLES = 5 };

/* ---- tables ---- */

static TensorTable gpt2_table(int layers, int heads, int channels) {
    GPT2 model;
    gpt2_describe(&model, &(GPT2Config){layers, heads, channels, 1024, 50304, false, 0.0, true});
    TensorTable table = model.table;
    model.table = (TensorTable){0};
    gpt2_free(&model);
    return table;
}

/* Two units of elements: there is nothing for most processes. */
static TensorTable tiny_table(void) {
    TensorTable table = {0};
    tensor_table_add(&table, "one", ROLE_MATRIX, 1, 1, 1);
    tensor_table_add(&table, "two", ROLE_VECTOR, 1, 127, 1);
    return table;
}

static const char *const table_names[TABLES] = {"small", "medium", "XL", "odd", "tiny"};

static TensorTable make_table(int which) {
    switch (which) {
    case 0:
        return gpt2_table(12, 12, 768);
    case 1:
        return gpt2_table(24, 16, 1024);
    case 2:
        return gpt2_table(48, 25, 1600);
    case 3:
        return odd_table();
    default:
        return tiny_table();
    }
}

static bool is_gpt2(int which) { return which < 3; }

/* ---- choices of tensors ---- */

typedef bool Choice(const TensorTable *table, int tensor);

static bool all(const TensorTable *table, int tensor) { return (void)table, (void)tensor, true; }
static bool none(const TensorTable *table, int tensor) { return (void)table, (void)tensor, false; }
static bool matrix(const TensorTable *table, int tensor) { return table->tensors[tensor].role == ROLE_MATRIX; }
static bool two_dimensional(const TensorTable *table, int tensor) { return table->tensors[tensor].role != ROLE_VECTOR; }
static bool vector(const TensorTable *table, int tensor) { return table->tensors[tensor].role == ROLE_VECTOR; }
static bool embedding_or_vector(const TensorTable *table, int tensor) { return !matrix(table, tensor); }
static bool every_third(const TensorTable *table, int tensor) { return (void)table, tensor % 3 == 1; }

static Choice *const choices[] = {all, none, matrix, two_dimensional, vector, embedding_or_vector, every_third};

static bool *choose(const TensorTable *table, Choice *choice) {
    bool *chosen = checked_calloc((size_t)table->count, sizeof *chosen, "a choice");
    for (int i = 0; i < table->count; i++) chosen[i] = choice(table, i);
    return chosen;
}

/* ---- what holds for every partition ---- */

/* The parts of each process are in order, inside one tensor each, cut at multiples of the alignment, and where they lie
 * in the shard follows from their lengths. */
static void assert_well_formed(const TensorTable *table, const Partition *p, int processes) {
    assert_int_equal(p->processes, processes);
    assert_int_equal(p->first[0], 0);
    for (int r = 0; r < processes; r++) {
        size_t end = 0, at = 0;
        for (int i = p->first[r]; i < p->first[r + 1]; i++) {
            const Part *part = &p->parts[i];
            const Tensor *t = &table->tensors[partition_tensor_of(table, part)];
            assert_true(part->begin < part->end && part->begin >= end);
            assert_true(part->begin >= t->offset && part->end <= t->offset + t->size);
            assert_int_equal(part->begin % TENSOR_ALIGNMENT, 0);
            assert_true(part->end % TENSOR_ALIGNMENT == 0 || part->end == t->offset + t->size);
            assert_int_equal(part->at, at);
            end = part->end;
            at = (size_t)round_up((int64_t)(part->at + part->end - part->begin), TENSOR_ALIGNMENT);
        }
        assert_true(p->first[r + 1] >= p->first[r]);
        assert_int_equal(round_up((int64_t)partition_shard_length(p, r), TENSOR_ALIGNMENT), at);
    }
}

static int compare_parts(const void *a, const void *b) {
    size_t first = ((const Part *)a)->begin, second = ((const Part *)b)->begin;
    return first < second ? -1 : first > second;
}

/* All parts in the order of the buffer cover the chosen tensors without a gap, and nothing else. */
static void assert_covers(const TensorTable *table, const bool *chosen, const Partition *p, bool whole) {
    int count = p->first[p->processes], next = 0;
    Part *parts = checked_calloc((size_t)count + 1, sizeof *parts, "parts");
    for (int i = 0; i < count; i++) parts[i] = p->parts[i];
    qsort(parts, (size_t)count, sizeof *parts, compare_parts);
    for (int i = 0; i < table->count; i++) {
        const Tensor *t = &table->tensors[i];
        size_t at = t->offset, end = t->offset + (chosen[i] ? t->size : 0);
        int first = next;
        for (; next < count && at < end; next++) {
            if (parts[next].begin != at) fail_msg("%s: element %zu has no owner, or two", t->name, at);
            at = parts[next].end;
        }
        if (at != end) fail_msg("%s: elements from %zu have no owner", t->name, at);
        if (whole && chosen[i] && next != first + 1) fail_msg("%s is in %d parts", t->name, next - first);
    }
    if (next != count) fail_msg("elements from %zu should have no owner", parts[next].begin);
    free(parts);
}

static void test_every_element_has_one_owner(void **state) {
    (void)state;
    for (int which = 0; which < TABLES; which++) {
        TensorTable table = make_table(which);
        for (size_t c = 0; c < ARRAY_LENGTH(choices); c++) {
            bool *chosen = choose(&table, choices[c]);
            for (int processes = 1; processes <= MAX_RANKS; processes++) {
                Partition even = partition_evenly(&table, chosen, processes, NULL, 2);
                assert_well_formed(&table, &even, processes);
                assert_covers(&table, chosen, &even, false);
                partition_free(&even);
                Partition whole = partition_matrices(&table, chosen, newton_schulz_iteration_flops, processes);
                assert_well_formed(&table, &whole, processes);
                assert_covers(&table, chosen, &whole, true);
                partition_free(&whole);
            }
            free(chosen);
        }
        tensor_table_free(&table);
    }
}

/* All processes work the partition out by themselves. */
static void test_the_same_each_time(void **state) {
    (void)state;
    TensorTable table = odd_table();
    bool *chosen = choose(&table, two_dimensional);
    for (int kind = 0; kind < 2; kind++) {
        Partition p[2];
        for (int i = 0; i < 2; i++)
            p[i] = kind ? partition_matrices(&table, chosen, newton_schulz_iteration_flops, 4)
                        : partition_evenly(&table, chosen, 4, NULL, 1);
        assert_memory_equal(p[0].first, p[1].first, 5 * sizeof *p[0].first);
        for (int i = 0; i < p[0].first[4]; i++) {
            assert_int_equal(p[0].parts[i].begin, p[1].parts[i].begin);
            assert_int_equal(p[0].parts[i].end, p[1].parts[i].end);
        }
        partition_free(&p[0]);
        partition_free(&p[1]);
    }
    free(chosen);
    tensor_table_free(&table);
}

static void test_tensor_of(void **state) {
    (void)state;
    TensorTable table = odd_table();
    for (int i = 0; i < table.count; i++) {
        size_t begin = table.tensors[i].offset, end = begin + table.tensors[i].size;
        assert_int_equal(partition_tensor_of(&table, &(Part){begin, end, 0}), i);
        assert_int_equal(partition_tensor_of(&table, &(Part){end - 1, end, 0}), i);
    }
    tensor_table_free(&table);
}

/* ---- even shares ---- */

static double elements_of(const Partition *p, int r) {
    double sum = 0.0;
    for (int i = p->first[r]; i < p->first[r + 1]; i++) sum += (double)(p->parts[i].end - p->parts[i].begin);
    return sum;
}

static double elements_of_all(const Partition *p) {
    double sum = 0.0;
    for (int r = 0; r < p->processes; r++) sum += elements_of(p, r);
    return sum;
}

/* Shards are level within one unit; elements too, where tensors are not mostly padding. */
static void test_elements_are_level(void **state) {
    (void)state;
    for (int which = 0; which < TABLES; which++) {
        TensorTable table = make_table(which);
        bool *chosen = choose(&table, all);
        for (int processes = 1; processes <= MAX_RANKS; processes++) {
            Partition p = partition_evenly(&table, chosen, processes, NULL, 3);
            double share = elements_of_all(&p) / processes, length = 0.0;
            for (int r = 0; r < processes; r++)
                length += (double)round_up((int64_t)partition_shard_length(&p, r), TENSOR_ALIGNMENT) / processes;
            for (int r = 0; r < processes; r++) {
                double shard = (double)round_up((int64_t)partition_shard_length(&p, r), TENSOR_ALIGNMENT);
                double elements = elements_of(&p, r);
                if (fabs(shard - length) > TENSOR_ALIGNMENT)
                    fail_msg("%s: process %d of %d has a shard of %g, of %g on average", table_names[which], r,
                             processes, shard, length);
                if (is_gpt2(which) && fabs(elements - share) > 0.01 * share + TENSOR_ALIGNMENT)
                    fail_msg("%s: process %d of %d has %g elements, of %g on average", table_names[which], r, processes,
                             elements, share);
            }
            partition_free(&p);
        }
        free(chosen);
        tensor_table_free(&table);
    }
}

/* What a process has already is made up for: whoever gets something ends no higher than anybody else, within the two
 * units that rounding may cost, and whoever is above that level gets nothing. */
static void assert_fills_up(const TensorTable *table, Choice *choice, int processes, const double *taken, int states) {
    bool *chosen = choose(table, choice);
    Partition p = partition_evenly(table, chosen, processes, taken, states);
    assert_well_formed(table, &p, processes);
    assert_covers(table, chosen, &p, false);
    double lowest = INFINITY, unit = (double)TENSOR_ALIGNMENT * states;
    double kept[MAX_RANKS];
    for (int r = 0; r < processes; r++) {
        kept[r] = taken[r] + states * (double)round_up((int64_t)partition_shard_length(&p, r), TENSOR_ALIGNMENT);
        lowest = fmin(lowest, kept[r]);
    }
    for (int r = 0; r < processes; r++)
        if (partition_shard_length(&p, r) > 0 && kept[r] > lowest + 2.0 * unit)
            fail_msg("process %d of %d keeps %g numbers, another one %g", r, processes, kept[r], lowest);
    partition_free(&p);
    free(chosen);
}

static void test_levels_fill_up(void **state) {
    (void)state;
    TensorTable small = make_table(0), odd = odd_table(), tiny = tiny_table();
    const double nothing[MAX_RANKS] = {0}, uneven[MAX_RANKS] = {3e7, 0.0, 1e6, 5e6, 0.0, 2e7, 1.0, 4e7, 6e6};
    const double one_has_all[MAX_RANKS] = {1e12}, equal[MAX_RANKS] = {7, 7, 7, 7, 7, 7, 7, 7, 7},
                 few[MAX_RANKS] = {500, 0, 129, 4000};
    const double *const levels[] = {nothing, uneven, one_has_all, equal, few};
    for (int processes = 1; processes <= MAX_RANKS; processes++)
        for (size_t i = 0; i < ARRAY_LENGTH(levels); i++)
            for (int states = 1; states <= 3; states++) {
                assert_fills_up(&small, embedding_or_vector, processes, levels[i], states);
                assert_fills_up(&odd, vector, processes, levels[i], states);
                assert_fills_up(&odd, none, processes, levels[i], states);
                assert_fills_up(&tiny, all, processes, levels[i], states);
            }
    tensor_table_free(&small);
    tensor_table_free(&odd);
    tensor_table_free(&tiny);
}

/* ---- whole matrices ---- */

typedef struct Load {
    double max_elements, elements, largest;      /* of one process; of all; of one matrix */
    double highest_cost, cost, costliest_matrix; /* Newton-Schulz, likewise */
} Load;

static Load load_of(const TensorTable *table, const Partition *p) {
    Load load = {0};
    for (int r = 0; r < p->processes; r++) {
        double cost = 0.0;
        for (int i = p->first[r]; i < p->first[r + 1]; i++) {
            const Tensor *t = &table->tensors[partition_tensor_of(table, &p->parts[i])];
            double flops = newton_schulz_flops(t->rows, t->columns, 5);
            cost += flops;
            load.largest = fmax(load.largest, (double)t->size);
            load.costliest_matrix = fmax(load.costliest_matrix, flops);
        }
        load.max_elements = fmax(load.max_elements, elements_of(p, r));
        load.highest_cost = fmax(load.highest_cost, cost);
        load.cost += cost;
    }
    load.elements = elements_of_all(p);
    return load;
}

/* The token embedding, which cannot be cut, is more than a share of GPT-2 small from four processes on, in elements and
 * in cost; then it is the bound. */
static void assert_balanced(const char *name, const TensorTable *table, Choice *choice, int processes,
                            double cost_slack) {
    bool *chosen = choose(table, choice);
    Partition p = partition_matrices(table, chosen, newton_schulz_iteration_flops, processes);
    Load load = load_of(table, &p);
    double room = fmax(1.1 * load.elements / processes, load.largest);
    double cost_room = fmax(cost_slack * load.cost / processes, load.costliest_matrix);
    if (load.max_elements > room)
        fail_msg("%s: one process of %d has %g elements, above %g", name, processes, load.max_elements, room);
    if (load.highest_cost > cost_room)
        fail_msg("%s: one process of %d has %g FLOPs, above %g", name, processes, load.highest_cost, cost_room);
    partition_free(&p);
    free(chosen);
}

static void test_matrices_are_balanced(void **state) {
    (void)state;
    for (int which = 0; which < 3; which++) {
        TensorTable table = make_table(which);
        for (int processes = 1; processes <= MAX_RANKS; processes++) {
            assert_balanced(table_names[which], &table, matrix, processes, 1.05);
            assert_balanced(table_names[which], &table, two_dimensional, processes, 1.05);
        }
        tensor_table_free(&table);
    }
}

static void add_matrices(TensorTable *table, int count, int64_t rows, int64_t columns) {
    for (int i = 0; i < count; i++) tensor_table_add(table, "matrix", ROLE_MATRIX, rows, columns, rows);
}

/* Matrices whose cost is not in proportion to their elements, as it nearly is in GPT-2. */
static void test_cost_and_elements_differ(void **state) {
    (void)state;
    TensorTable level_in_both = {0}; /* one large matrix costs as much as the eight small ones */
    add_matrices(&level_in_both, 1, 1024, 1024);
    add_matrices(&level_in_both, 3, 16, 65536);
    add_matrices(&level_in_both, 8, 512, 512);
    assert_balanced("level in both", &level_in_both, all, 2, 1.05);
    TensorTable one_or_the_other = {0}; /* one matrix costs more than all others, which have most of the elements */
    add_matrices(&one_or_the_other, 1, 1024, 1024);
    add_matrices(&one_or_the_other, 96, 32, 8192);
    for (int processes = 2; processes <= MAX_RANKS; processes++)
        assert_balanced("one or the other", &one_or_the_other, all, processes, INFINITY);
    tensor_table_free(&level_in_both);
    tensor_table_free(&one_or_the_other);
}

/* Ten equal matrices for four processes: 1.1 times a share has room for two, and the rest goes to whoever has fewest.
 * */
static void test_more_than_there_is_room_for(void **state) {
    (void)state;
    TensorTable table = {0};
    add_matrices(&table, 10, 32, 32);
    bool *chosen = choose(&table, all);
    Partition p = partition_matrices(&table, chosen, newton_schulz_iteration_flops, 4);
    for (int r = 0; r < 4; r++) assert_true(p.first[r + 1] - p.first[r] == 2 || p.first[r + 1] - p.first[r] == 3);
    partition_free(&p);
    free(chosen);
    tensor_table_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_element_has_one_owner),
        cmocka_unit_test(test_the_same_each_time),
        cmocka_unit_test(test_tensor_of),
        cmocka_unit_test(test_elements_are_level),
        cmocka_unit_test(test_levels_fill_up),
        cmocka_unit_test(test_matrices_are_balanced),
        cmocka_unit_test(test_cost_and_elements_differ),
        cmocka_unit_test(test_more_than_there_is_room_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
