/* test_partition.c: who owns what. Whatever the tensors and the number of processes, every chosen element has one owner
 * and the parts lie as partition.h says; and the shares are as even as partition.h promises, for the published sizes of
 * GPT-2 too. Tables alone are made: no buffer is allocated. */
#include "dev/test/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dev/test/model/gpt2_shape.h"
#include "dev/test/optim/optim_world.h"
#include "model/gpt2.h"
#include "optim/grad_sync.h"
#include "optim/newton_schulz.h"
#include "util/partition.h"

enum { MAX_RANKS = 9, TABLES = 5 };

/* ---- tables ---- */

static TensorTable gpt2_table(int layers, int heads, int channels) {
    GPT2 model;
    gpt2_describe(&model, &(GPT2Config)GPT2_SHAPE(layers, heads, channels, 1024, 50304, false, true));
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

/* The buckets that optimizers use, and for small tables shorter ones. */
enum { BUCKETS = 3 };
static size_t bucket_of(const TensorTable *table, int i) {
    bool is_small = table->length < (size_t)1 << 20;
    return i == 0 ? grad_sync_bucket(table->length) : is_small ? (size_t)(i == 1 ? 1024 : 1280) : (size_t)i << 24;
}

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

/* The slice of r that a part lies in; NULL where it meets no even range. */
static const EvenRange *range_of(const Partition *p, int r, const Part *part) {
    for (int i = 0; i < p->even_count; i++) {
        const EvenRange *range = &p->even_ranges[i];
        size_t end = range->begin + (size_t)p->processes * range->slice, own = range->begin + (size_t)r * range->slice;
        if (part->end <= range->begin || part->begin >= end) continue;
        assert_true(part->begin >= own && part->end <= own + range->slice);
        return range;
    }
    return NULL;
}

/* Even ranges are in order, each in one bucket, and their slices fill shards from 0 on. Returns where they end
 * there. */
static size_t assert_even_ranges(const TensorTable *table, const Partition *p) {
    size_t end = 0, at = 0;
    assert_true((p->even_count > 0) == (p->bucket > 0));
    for (int i = 0; i < p->even_count; i++) {
        const EvenRange *range = &p->even_ranges[i];
        assert_true(range->begin >= end && range->slice > 0);
        assert_int_equal(range->begin % TENSOR_ALIGNMENT, 0);
        assert_int_equal(range->slice % TENSOR_ALIGNMENT, 0);
        assert_int_equal(range->at, at);
        end = range->begin + (size_t)p->processes * range->slice;
        assert_true(end <= table->length);
        assert_int_equal(range->begin / p->bucket, (end - 1) / p->bucket);
        at += range->slice;
    }
    return at;
}

/* The parts of each process are in order, inside one tensor each, cut at multiples of the alignment. In its shard,
 * parts outside of even ranges follow the slices, each after the one before it; `whole` without other gaps than the
 * alignment's. */
static void assert_well_formed(const TensorTable *table, const Partition *p, int processes, bool whole) {
    size_t slices = assert_even_ranges(table, p);
    assert_int_equal(p->processes, processes);
    assert_int_equal(p->first[0], 0);
    assert_true(!whole || p->even_count == 0);
    for (int r = 0; r < processes; r++) {
        size_t end = 0, at = slices, length = slices;
        for (int i = p->first[r]; i < p->first[r + 1]; i++) {
            const Part *part = &p->parts[i];
            const Tensor *t = &table->tensors[partition_tensor_of(table, part)];
            assert_true(part->begin < part->end && part->begin >= end);
            assert_true(part->begin >= t->offset && part->end <= t->offset + t->size);
            assert_int_equal(part->begin % TENSOR_ALIGNMENT, 0);
            assert_int_equal(part->at % TENSOR_ALIGNMENT, 0);
            assert_true(part->end % TENSOR_ALIGNMENT == 0 || part->end == t->offset + t->size);
            end = part->end;
            const EvenRange *range = range_of(p, r, part);
            assert_int_equal(part->in_even_range, range != NULL);
            if (range) {
                assert_int_equal(part->at, range->at + part->begin - (range->begin + (size_t)r * range->slice));
                continue;
            }
            if (p->even_count > 0) assert_true(part->end - part->begin < (size_t)processes * TENSOR_ALIGNMENT);
            assert_true(whole ? part->at == at : part->at >= at);
            length = part->at + part->end - part->begin;
            at = (size_t)round_up((int64_t)length, TENSOR_ALIGNMENT);
        }
        assert_true(p->first[r + 1] >= p->first[r]);
        assert_int_equal(partition_shard_length(p, r), length);
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
                for (int i = 0; i < BUCKETS; i++) {
                    Partition even = partition_evenly(&table, chosen, processes, NULL, 2, bucket_of(&table, i));
                    assert_well_formed(&table, &even, processes, false);
                    assert_covers(&table, chosen, &even, processes == 1);
                    partition_free(&even);
                }
                Partition whole = partition_matrices(&table, chosen, newton_schulz_iteration_flops, processes);
                assert_well_formed(&table, &whole, processes, true);
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
    TensorTable table = make_table(0);
    bool *chosen = choose(&table, two_dimensional);
    for (int kind = 0; kind < 2; kind++) {
        Partition p[2];
        for (int i = 0; i < 2; i++)
            p[i] = kind ? partition_matrices(&table, chosen, newton_schulz_iteration_flops, 4)
                        : partition_evenly(&table, chosen, 4, NULL, 1, bucket_of(&table, 0));
        assert_memory_equal(p[0].first, p[1].first, 5 * sizeof *p[0].first);
        for (int i = 0; i < p[0].first[4]; i++) {
            assert_int_equal(p[0].parts[i].begin, p[1].parts[i].begin);
            assert_int_equal(p[0].parts[i].end, p[1].parts[i].end);
            assert_int_equal(p[0].parts[i].at, p[1].parts[i].at);
        }
        assert_int_equal(p[0].even_count, p[1].even_count);
        assert_true(kind == 1 || p[0].even_count > 0);
        for (int i = 0; i < p[0].even_count; i++)
            assert_memory_equal(&p[0].even_ranges[i], &p[1].even_ranges[i], sizeof(EvenRange));
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
        assert_int_equal(partition_tensor_of(&table, &(Part){.begin = begin, .end = end}), i);
        assert_int_equal(partition_tensor_of(&table, &(Part){.begin = end - 1, .end = end}), i);
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

enum { LARGEST_RANKS = 64 };

static const int rank_counts[] = {1, 2, 3, 4, 8, LARGEST_RANKS};

/* The level to which `amount` more numbers fill processes up that keep taken[r]. */
static double level_of(const double *taken, int processes, double amount) {
    double low = 0.0, high = amount;
    for (int r = 0; r < processes; r++) high = fmax(high, taken[r] + amount);
    for (int step = 0; step < 200; step++) {
        double middle = 0.5 * (low + high), room = 0.0;
        for (int r = 0; r < processes; r++) room += fmax(0.0, middle - taken[r]);
        if (room < amount)
            low = middle;
        else
            high = middle;
    }
    return high;
}

/* No process keeps more than 1.1 times its share of all numbers, or the level to which elements fill the others up, or
 * what it kept before: the best there is where tensors are few or one process has most already. Rounding costs a unit,
 * and where a tensor ends inside a unit, the numbers that are missing. */
static void assert_state_is_even(const char *name, const TensorTable *table, Choice *choice, int processes,
                                 const double *taken, int states, size_t bucket) {
    bool *chosen = choose(table, choice);
    Partition p = partition_evenly(table, chosen, processes, taken, states, bucket);
    assert_well_formed(table, &p, processes, false);
    assert_covers(table, chosen, &p, processes == 1);
    double numbers = 0.0, padded = 0.0, unit = (double)TENSOR_ALIGNMENT * states, before = 0.0;
    for (int r = 0; r < processes; r++) numbers += taken[r];
    for (int r = 0; r < processes; r++) before = fmax(before, taken[r]);
    for (int i = 0; i < table->count; i++) {
        if (!chosen[i]) continue;
        numbers += states * (double)table->tensors[i].size;
        padded += states * (double)round_up((int64_t)table->tensors[i].size, TENSOR_ALIGNMENT);
    }
    double level = level_of(taken, processes, padded) + unit;
    double limit = fmax(1.1 * numbers / processes, fmax(level, before));
    for (int r = 0; r < processes; r++) {
        double kept = taken[r] + states * (double)partition_shard_length(&p, r);
        if (kept > limit)
            fail_msg("%s: process %d of %d keeps %g numbers, above %g; an even share is %g", name, r, processes, kept,
                     limit, numbers / processes);
    }
    partition_free(&p);
    free(chosen);
}

static void test_state_is_even(void **state) {
    (void)state;
    const double nothing[LARGEST_RANKS] = {0};
    double uneven[LARGEST_RANKS], one_has_all[LARGEST_RANKS] = {1e12}, equal[LARGEST_RANKS];
    for (int r = 0; r < LARGEST_RANKS; r++) uneven[r] = r % 3 == 0 ? 3e7 : 1e6 * (r % 7), equal[r] = 1234567;
    const double *const levels[] = {nothing, uneven, one_has_all, equal};
    for (int which = 0; which < TABLES; which++) {
        TensorTable table = make_table(which);
        for (size_t k = 0; k < ARRAY_LENGTH(rank_counts); k++)
            for (size_t c = 0; c < ARRAY_LENGTH(choices); c++)
                for (size_t i = 0; i < ARRAY_LENGTH(levels); i++)
                    for (int states = 1; states <= 3; states++)
                        assert_state_is_even(table_names[which], &table, choices[c], rank_counts[k], levels[i], states,
                                             bucket_of(&table, states - 1));
        tensor_table_free(&table);
    }
}

/* GPT-2 small: even ranges hold all but a hundredth of an elementwise optimizer's elements, and each process keeps
 * within 1.1 times its share, also where it keeps matrices besides. */
static void assert_even_ranges_of_small(const TensorTable *table, Choice *choice, const double *taken, int processes) {
    bool *chosen = choose(table, choice);
    Partition p = partition_evenly(table, chosen, processes, taken, 2, grad_sync_bucket(table->length));
    double elements = 0.0, even = 0.0, numbers = 0.0, kept = 0.0;
    for (int i = 0; i < p.first[processes]; i++) {
        double n = (double)(p.parts[i].end - p.parts[i].begin);
        elements += n;
        even += p.parts[i].in_even_range ? n : 0.0;
    }
    for (int r = 0; r < processes; r++) {
        numbers += taken[r] + 2.0 * elements / processes;
        kept = fmax(kept, taken[r] + 2.0 * (double)partition_shard_length(&p, r));
    }
    if (processes > 1 && even < 0.99 * elements) fail_msg("%g of %g elements are in even ranges", even, elements);
    if (kept > 1.1 * numbers / processes)
        fail_msg("one process of %d keeps %g numbers, a share is %g", processes, kept, numbers / processes);
    partition_free(&p);
    free(chosen);
}

static void test_even_ranges_of_small(void **state) {
    (void)state;
    TensorTable table = make_table(0);
    for (size_t k = 0; k < ARRAY_LENGTH(rank_counts); k++) {
        int processes = rank_counts[k];
        double taken[LARGEST_RANKS] = {0};
        assert_even_ranges_of_small(&table, all, taken, processes);
        if (processes == LARGEST_RANKS) continue; /* 48 matrices */
        bool *chosen = choose(&table, matrix);
        Partition whole = partition_matrices(&table, chosen, newton_schulz_iteration_flops, processes);
        for (int r = 0; r < processes; r++) taken[r] = (double)partition_shard_length(&whole, r);
        partition_free(&whole);
        free(chosen);
        assert_even_ranges_of_small(&table, embedding_or_vector, taken, processes);
    }
    tensor_table_free(&table);
}

/* What a process has already is made up for: one that is far above all others gets nothing. */
static void test_levels_fill_up(void **state) {
    (void)state;
    TensorTable table = make_table(0);
    bool *chosen = choose(&table, embedding_or_vector);
    const double taken[4] = {1e12, 0.0, 1e6, 5e6};
    Partition p = partition_evenly(&table, chosen, 4, taken, 2, grad_sync_bucket(table.length));
    assert_int_equal(p.even_count, 0);
    assert_int_equal(partition_shard_length(&p, 0), 0);
    for (int r = 2; r < 4; r++) {
        double difference = taken[r] + 2.0 * (double)partition_shard_length(&p, r) - taken[1] -
                            2.0 * (double)partition_shard_length(&p, 1);
        assert_true(fabs(difference) <= 4.0 * TENSOR_ALIGNMENT);
    }
    partition_free(&p);
    free(chosen);
    tensor_table_free(&table);
}

/* Two buckets of 1024, three processes: of 1024 elements each gets 256, and the remainder of 256 goes to process 0; of
 * 640 each gets 128, and 256 to process 1. A gap belongs to the run, a tensor that is not chosen ends it. */
static void test_even_ranges_by_hand(void **state) {
    (void)state;
    TensorTable table = {0};
    tensor_table_add(&table, "with a gap", ROLE_EMBEDDING, 3, 100, 5);     /* 0 .. 300, gap to 512 */
    tensor_table_add(&table, "over two buckets", ROLE_VECTOR, 1, 1152, 1); /* 512 .. 1664 */
    tensor_table_add(&table, "not chosen", ROLE_MATRIX, 8, 16, 8);         /* 1664 .. 1792 */
    tensor_table_add(&table, "small", ROLE_VECTOR, 1, 130, 1);             /* 1792 .. 1922 */
    const bool chosen[] = {true, true, false, true};
    const EvenRange even[] = {{0, 256, 0}, {1024, 128, 256}};
    const Part expected[] = {{0, 256, 0, true},   {768, 1024, 384, false}, {1024, 1152, 256, true},
                             {256, 300, 0, true}, {1152, 1280, 256, true}, {1408, 1664, 384, false},
                             {512, 768, 0, true}, {1280, 1408, 256, true}, {1792, 1922, 384, false}};
    Partition p = partition_evenly(&table, chosen, 3, NULL, 1, 1024);
    assert_int_equal(p.even_count, 2);
    assert_memory_equal(p.even_ranges, even, sizeof even);
    assert_int_equal(p.first[1], 3);
    assert_int_equal(p.first[2], 6);
    assert_int_equal(p.first[3], 9);
    for (int i = 0; i < 9; i++) {
        assert_int_equal(p.parts[i].begin, expected[i].begin);
        assert_int_equal(p.parts[i].end, expected[i].end);
        assert_int_equal(p.parts[i].at, expected[i].at);
        assert_int_equal(p.parts[i].in_even_range, expected[i].in_even_range);
    }
    partition_free(&p);
    tensor_table_free(&table);
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
        cmocka_unit_test(test_state_is_even),
        cmocka_unit_test(test_even_ranges_of_small),
        cmocka_unit_test(test_even_ranges_by_hand),
        cmocka_unit_test(test_levels_fill_up),
        cmocka_unit_test(test_matrices_are_balanced),
        cmocka_unit_test(test_cost_and_elements_differ),
        cmocka_unit_test(test_more_than_there_is_room_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
