/* hellaswag_score.c: see hellaswag_score.h. A row of a batch is a context and one of its endings, padded on the right:
 * attention only looks back, so the padding changes no loss before it. The rows of an example may lie in two
 * batches. */
#include "eval/hellaswag_score.h"

#include <stdlib.h>
#include <string.h>

/* Batches have a length that is a multiple of this: few shapes of matmuls, and whole tiles. */
enum { LENGTH_UNIT = 64 };

/* An ending to score, after its context: targets [begin, end) of the row are the ending's, and the first
 * `skipped` tokens of the context are left out. */
typedef struct Row {
    int example, ending, begin, end, skipped;
} Row;

typedef struct Scorer {
    GPT2 *model;
    const Hellaswag *set;
    int batch, row_count;                                    /* rows so far */
    Row *rows;                                               /* (batch) */
    int32_t *inputs, *targets;                               /* (batch, T) */
    float *losses;                                           /* (batch, T) */
    double loss[HELLASWAG_ENDINGS], mean[HELLASWAG_ENDINGS]; /* of the example being scored */
    double sums[3];                                          /* examples, right by loss, right by mean */
} Scorer;

static int least(const double *values) {
    int index = 0;
    for (int k = 1; k < HELLASWAG_ENDINGS; k++)
        if (values[k] < values[index]) index = k;
    return index;
}

/* Rows come in order; the last row of an example scores the example. */
static void score_row(Scorer *s, const Row *row, const float *losses) {
    double sum = 0.0;
    for (int t = row->begin; t < row->end; t++) sum += (double)losses[t];
    s->loss[row->ending] = sum;
    s->mean[row->ending] = sum / (row->end - row->begin);
    if (row->ending < HELLASWAG_ENDINGS - 1) return;
    int label = hellaswag_example(s->set, row->example).label;
    s->sums[0] += 1.0;
    s->sums[1] += least(s->loss) == label;
    s->sums[2] += least(s->mean) == label;
}

/* The row's tokens without the last one as inputs, without the first one as targets. */
static void fill_row(const Scorer *s, const Row *row, int32_t *inputs, int32_t *targets) {
    HellaswagExample e = hellaswag_example(s->set, row->example);
    for (int t = 0; t <= row->end; t++) {
        int i = row->skipped + t;
        int32_t token = i < e.context_count ? e.context[i] : e.endings[row->ending][i - e.context_count];
        if (t < row->end) inputs[t] = token;
        if (t > 0) targets[t - 1] = token;
    }
}

static void run_batch(Scorer *s) {
    if (s->row_count == 0) return;
    GPT2 *m = s->model;
    int longest = 0;
    for (int r = 0; r < s->row_count; r++) longest = (int)max_i64(longest, s->rows[r].end);
    size_t T = (size_t)min_i64(round_up(longest, LENGTH_UNIT), m->config.block_size), tokens = (size_t)s->batch * T;
    memset(s->inputs, 0, tokens * sizeof *s->inputs);
    memset(s->targets, 0, tokens * sizeof *s->targets);
    for (size_t r = 0; r < (size_t)s->row_count; r++) fill_row(s, &s->rows[r], s->inputs + r * T, s->targets + r * T);
    gpt2_prefetch(m, s->inputs, s->targets, s->batch, (int)T);
    gpt2_pass(m, &(GPT2Pass){.ignores_loss = true});
    m->be->copy_to_host(m->be, s->losses, m->lm_head.losses, tokens * sizeof *s->losses);
    for (size_t r = 0; r < (size_t)s->row_count; r++) score_row(s, &s->rows[r], s->losses + r * T);
    s->row_count = 0;
}

static void add_row(Scorer *s, int example, const HellaswagExample *e, int ending) {
    int count = e->context_count + e->ending_counts[ending];
    int skipped = (int)max_i64(0, count - s->model->config.block_size - 1), end = count - skipped - 1;
    s->rows[s->row_count++] = (Row){example, ending, (int)max_i64(0, end - e->ending_counts[ending]), end, skipped};
    if (s->row_count == s->batch) run_batch(s);
}

HellaswagScore hellaswag_score(GPT2 *model, const Hellaswag *set, int batch, Comm *comm) {
    size_t positions = (size_t)batch * (size_t)model->config.block_size;
    Scorer s = {.model = model, .set = set, .batch = batch};
    s.rows = checked_calloc((size_t)batch, sizeof *s.rows, "HellaSwag");
    s.inputs = checked_calloc(positions, sizeof *s.inputs, "HellaSwag");
    s.targets = checked_calloc(positions, sizeof *s.targets, "HellaSwag");
    s.losses = checked_calloc(positions, sizeof *s.losses, "HellaSwag");
    for (int i = comm->rank; i < hellaswag_count(set); i += comm->size) {
        HellaswagExample example = hellaswag_example(set, i);
        for (int k = 0; k < HELLASWAG_ENDINGS; k++) add_row(&s, i, &example, k);
    }
    run_batch(&s);
    comm->sum(comm, s.sums, 3);
    free(s.rows);
    free(s.inputs);
    free(s.targets);
    free(s.losses);
    return (HellaswagScore){(int64_t)s.sums[0], s.sums[1] / s.sums[0], s.sums[2] / s.sums[0]};
}
