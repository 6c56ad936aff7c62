/* hellaswag.c: see hellaswag.h. A row of a batch is a context and one of its endings, padded on the right: attention looks
 * back, so that what is there changes no loss before it. Rows of an example may lie in two batches. */
#include "model/hellaswag.h"

#include <stdlib.h>
#include <string.h>

/* Batches have a length that is a multiple of this: few shapes of matrix products, and whole tiles. */
enum { LENGTH_UNIT = 64 };

typedef struct Row {
    int begin, end; /* targets [begin, end) are the ending's */
} Row;

typedef struct Scorer {
    GPT2 *model;
    const Hellaswag *set;
    int batch, row_count, longest;                           /* rows so far, targets of the longest */
    Row *rows;                                               /* (batch) */
    int32_t *inputs, *targets;                               /* (batch, block_size), later packed to (batch, T) */
    float *losses;                                           /* (batch, T) */
    double loss[HELLASWAG_ENDINGS], mean[HELLASWAG_ENDINGS]; /* of the example whose rows come */
    int ending, example, example_step;                       /* of the next row that is scored */
    double sums[3];                                          /* examples, right by loss, right by mean */
} Scorer;

static int least(const double *values) {
    int index = 0;
    for (int k = 1; k < HELLASWAG_ENDINGS; k++)
        if (values[k] < values[index]) index = k;
    return index;
}

/* The next row in order is scored; behind an example's last one the example is. */
static void score_row(Scorer *s, const Row *row, const float *losses) {
    double sum = 0.0;
    for (int t = row->begin; t < row->end; t++) sum += (double)losses[t];
    s->loss[s->ending] = sum;
    s->mean[s->ending] = sum / (row->end - row->begin);
    if (++s->ending < HELLASWAG_ENDINGS) return;
    int label = hellaswag_example(s->set, s->example).label;
    s->sums[0] += 1.0;
    s->sums[1] += least(s->loss) == label;
    s->sums[2] += least(s->mean) == label;
    s->ending = 0;
    s->example += s->example_step;
}

static void pack(int32_t *tokens, int rows, int from, int to) {
    for (int r = 1; r < rows; r++)
        memmove(tokens + (size_t)r * to, tokens + (size_t)r * from, (size_t)to * sizeof *tokens);
}

static void run_batch(Scorer *s) {
    if (s->row_count == 0) return;
    GPT2 *m = s->model;
    int block = m->config.block_size, T = (int)min_i64(round_up(s->longest, LENGTH_UNIT), block);
    pack(s->inputs, s->batch, block, T);
    pack(s->targets, s->batch, block, T);
    bool ignored = m->ignores_loss;
    m->ignores_loss = true;
    gpt2_forward(m, s->inputs, s->targets, s->batch, T);
    m->ignores_loss = ignored;
    m->be->copy_to_host(m->be, s->losses, m->losses, (size_t)s->batch * (size_t)T * sizeof *s->losses);
    for (int r = 0; r < s->row_count; r++) score_row(s, &s->rows[r], s->losses + (size_t)r * T);
    s->row_count = s->longest = 0;
}

static void add_row(Scorer *s, const HellaswagExample *e, int ending) {
    int block = s->model->config.block_size;
    if (s->row_count == 0) memset(s->inputs, 0, (size_t)s->batch * block * sizeof *s->inputs);
    if (s->row_count == 0) memset(s->targets, 0, (size_t)s->batch * block * sizeof *s->targets);
    int32_t *inputs = s->inputs + (size_t)s->row_count * block, *targets = s->targets + (size_t)s->row_count * block;
    int count = e->context_count + e->ending_counts[ending], skipped = (int)max_i64(0, count - block - 1);
    for (int i = skipped; i < count; i++) {
        int32_t token = i < e->context_count ? e->context[i] : e->endings[ending][i - e->context_count];
        if (i + 1 < count) inputs[i - skipped] = token;
        if (i > skipped) targets[i - skipped - 1] = token;
    }
    int end = count - skipped - 1;
    s->rows[s->row_count++] = (Row){(int)max_i64(0, end - e->ending_counts[ending]), end};
    s->longest = (int)max_i64(s->longest, end);
    if (s->row_count == s->batch) run_batch(s);
}

HellaswagScore hellaswag_score(GPT2 *model, const Hellaswag *set, int batch, Comm *comm) {
    size_t positions = (size_t)batch * (size_t)model->config.block_size;
    Scorer s = {.model = model, .set = set, .batch = batch, .example = comm->rank, .example_step = comm->size};
    s.rows = checked_calloc((size_t)batch, sizeof *s.rows, "HellaSwag");
    s.inputs = checked_calloc(positions, sizeof *s.inputs, "HellaSwag");
    s.targets = checked_calloc(positions, sizeof *s.targets, "HellaSwag");
    s.losses = checked_calloc(positions, sizeof *s.losses, "HellaSwag");
    for (int i = comm->rank; i < hellaswag_count(set); i += comm->size) {
        HellaswagExample example = hellaswag_example(set, i);
        for (int k = 0; k < HELLASWAG_ENDINGS; k++) add_row(&s, &example, k);
    }
    run_batch(&s);
    comm->sum(comm, s.sums, 3);
    free(s.rows);
    free(s.inputs);
    free(s.targets);
    free(s.losses);
    return (HellaswagScore){(int64_t)s.sums[0], s.sums[1] / s.sums[0], s.sums[2] / s.sums[0]};
}
