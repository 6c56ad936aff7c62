/* test_optim_passes.c: each pass of optim/multi_tensor.h by itself, on the device under test, against plain loops over
 * the same rules: over chunks of any length at any address, with outputs that are not numbers before, and elements
 * around them that must stay; and how flat buffers are cut into chunks. */
#include "dev/test/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dev/test/optim/optim_world.h"
#include "optim/multi_tensor.h"

/* ---- buffers on the host and on the device ---- */

enum { LENGTH = 48000, TENSORS = 2 };

/* What a pass goes over, on the host; device_of() makes a MultiTensorBuffers of it. */
typedef struct Elements {
    float params[LENGTH], gradient[LENGTH], prev_grad[LENGTH], states[RULE_MAX_STATES][LENGTH];
    bfloat16 weights[LENGTH];
    union {
        float float32[LENGTH];
        bfloat16 bfloat16[LENGTH];
    } matrices;
    float factors[LENGTH]; /* of lines */
    UpdateCoeffs coeffs[TENSORS];
    StepResult result;
} Elements;

/* A copy of Elements on the device, and the chunks. */
typedef struct Device {
    Backend *be;
    const MultiTensorPasses *passes;
    Elements *elements;
    Chunk *chunks;
    int count;
    double *squares; /* (count) */
} Device;

static Backend *open_device(void) {
    Error error;
    Backend *be = backend_open(test_device(), DTYPE_BFLOAT16, 2, &error);
    if (!be) fail_msg("%s", error.text);
    return be;
}

static void *on_device(Backend *be, const void *host, size_t bytes) {
    void *device = be->alloc(be, bytes, "a buffer");
    be->copy_from_host(be, device, host, bytes);
    return device;
}

static Device to_device(Backend *be, const Elements *host, const Chunk *chunks, int count) {
    double *squares = be->alloc(be, (size_t)count * sizeof *squares, "squares");
    return (Device){.be = be,
                    .passes = multi_tensor_passes(be),
                    .elements = on_device(be, host, sizeof *host),
                    .chunks = on_device(be, chunks, (size_t)count * sizeof *chunks),
                    .count = count,
                    .squares = squares};
}

static MultiTensorBuffers buffers_of(const Device *d, bool has_weights, bool uses_prev_grad) {
    Elements *e = d->elements;
    MultiTensorBuffers buffers = {.params = e->params,
                                  .weights = has_weights ? e->weights : NULL,
                                  .gradient = e->gradient,
                                  .prev_grad = uses_prev_grad ? e->prev_grad : NULL,
                                  .coeffs = e->coeffs,
                                  .result = &e->result};
    for (int s = 0; s < RULE_MAX_STATES; s++) buffers.states[s] = e->states[s];
    return buffers;
}

static void download(Device *d, Elements *host) {
    d->be->copy_to_host(d->be, host, d->elements, sizeof *host);
    d->be->free(d->be, d->elements);
    d->be->free(d->be, d->chunks);
    d->be->free(d->be, d->squares);
}

static void fill(float *list, uint32_t stream) {
    for (size_t i = 0; i < LENGTH; i++) list[i] = (float)world_normal(stream, i);
}

/* Numbers as they might be in a tenth step; weights and matrices are not numbers. */
static Elements *random_elements(void) {
    static Elements random;
    if (random.coeffs[0].eps != 0.0f) return &random;
    fill(random.params, 1);
    fill(random.gradient, 2);
    fill(random.prev_grad, 3);
    fill(random.states[0], 4);
    fill(random.states[1], 5);
    for (size_t i = 0; i < LENGTH; i++) random.states[1][i] = fabsf(random.states[1][i]);
    fill(random.factors, 7);
    memset(random.weights, 0xff, sizeof random.weights);
    memset(&random.matrices, 0xff, sizeof random.matrices);
    for (int i = 0; i < TENSORS; i++)
        random.coeffs[i] = (UpdateCoeffs){.gradient_factor = 0.5f + (float)i,
                                          .learning_rate = 0.01f,
                                          .weight_decay = 0.1f * (float)i,
                                          .beta1 = 0.9f,
                                          .beta2 = 0.95f,
                                          .eps = 1e-8f,
                                          .correction1 = 1.5f,
                                          .correction2 = 2.5f,
                                          .prev_factor = 0.75f,
                                          .k = 0.2f,
                                          .c_factor = 1.0f - 0.5f * (float)i,
                                          .gamma = 0.025f,
                                          .momentum = 0.9f,
                                          .snr = 3.0f,
                                          .nesterov = i == 0,
                                          .scale = 1.5f - (float)i,
                                          .step = 0.02f};
    random.result = (StepResult){.updates = 10, .nonfinite_tensor = -1};
    return &random;
}

/* ---- chunks at any address ---- */

enum { SHIFT_NOTHING, SHIFT_FLAT, SHIFT_GRADIENT, SHIFT_SHARD, SHIFT_MATRIX, SHIFTS };
enum { CHUNKS = 13 };

/* Chunks of all kinds of lengths, of which one operand is not aligned, with elements between them that are nobody's. */
static void make_chunks(Chunk chunks[CHUNKS], int shift) {
    const size_t lengths[CHUNKS] = {1, 2, 3, 4, 5, 127, 1024, 1027, 2048, 2052, 4099, 8191, MULTI_TENSOR_CHUNK};
    size_t at = 0;
    for (int c = 0; c < CHUNKS; c++) {
        chunks[c] = (Chunk){.begin = at + (shift == SHIFT_FLAT),
                            .end = at + (shift == SHIFT_FLAT) + lengths[c],
                            .gradient = at + (shift == SHIFT_GRADIENT ? 3 : 0),
                            .shard = at + (shift == SHIFT_SHARD ? 2 : 0),
                            .matrix = at + (shift == SHIFT_MATRIX),
                            .tensor = c % TENSORS};
        at += (size_t)round_up((int64_t)lengths[c], 4) + 16;
    }
    assert_true(at <= LENGTH);
}

/* ---- comparisons ---- */

static void expect_floats(const float *own, const float *expected, const char *what, const char *rule, int shift) {
    for (size_t i = 0; i < LENGTH; i++)
        if (!(fabsf(own[i] - expected[i]) <= 3e-6f * (1.0f + fabsf(expected[i]))))
            fail_msg("%s, shift %d: %s[%zu] is %.9g, expected %.9g", rule, shift, what, i, own[i], expected[i]);
}

/* Within a unit of bfloat16's last place, or of what expect_floats() allows; NaN, which nobody wrote, must be the
 * same. */
static void expect_bfloat16(const bfloat16 *own, const bfloat16 *expected, const char *what, const char *rule,
                            int shift) {
    for (size_t i = 0; i < LENGTH; i++) {
        float a = float_from_bfloat16(own[i]), b = float_from_bfloat16(expected[i]);
        if (own[i].bits != expected[i].bits && !(fabsf(a - b) <= 8e-3f * fabsf(b) + 3e-6f))
            fail_msg("%s, shift %d: %s[%zu] is %.5g, expected %.5g", rule, shift, what, i, a, b);
    }
}

/* Everything that a pass may write. A NaN is what nobody wrote. */
static void expect_elements(const Elements *own, const Elements *expected, const char *rule, int shift) {
    expect_floats(own->params, expected->params, "params", rule, shift);
    expect_floats(own->states[0], expected->states[0], "states 0", rule, shift);
    expect_floats(own->states[1], expected->states[1], "states 1", rule, shift);
    expect_bfloat16(own->weights, expected->weights, "weights", rule, shift);
    assert_memory_equal(own->gradient, expected->gradient, sizeof own->gradient);
    assert_memory_equal(own->prev_grad, expected->prev_grad, sizeof own->prev_grad);
}

/* ---- elementwise rules ---- */

typedef float RuleDirection(float g, float prev_grad, float *state, const UpdateCoeffs *r);

#define RULE_LINE(rule, text, direction, ...) {rule, text, direction},
static const struct {
    RuleName name;
    const char *text;
    RuleDirection *direction;
} rules[] = {ELEMENTWISE_RULES(RULE_LINE) MATRIX_RULES(RULE_LINE)};

static bool is_matrix(size_t n) { return rule_of(rules[n].name)->is_matrix; }

static void plain_update(Elements *e, const Chunk *chunk, const Rule *rule, RuleDirection *direction, bool has_weights,
                         bool cautious) {
    const UpdateCoeffs *r = &e->coeffs[chunk->tensor];
    for (size_t i = 0; i < chunk->end - chunk->begin; i++) {
        float state[RULE_MAX_STATES], *x = &e->params[chunk->begin + i];
        for (int s = 0; s < rule->states; s++) state[s] = e->states[s][chunk->shard + i];
        float u = direction(e->gradient[chunk->gradient + i] * r->gradient_factor, e->prev_grad[chunk->gradient + i],
                            state, r);
        float decay = cautious && u * *x < 0.0f ? 0.0f : r->weight_decay;
        *x -= r->learning_rate * (decay * *x + u);
        for (int s = 0; s < rule->states; s++) e->states[s][chunk->shard + i] = state[s];
        if (has_weights) e->weights[chunk->begin + i] = bfloat16_from_float(*x);
    }
}

static void test_update(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, expected;
    for (size_t n = 0; n < ARRAY_LENGTH(rules); n++)
        for (int shift = 0; shift < SHIFT_MATRIX && !is_matrix(n); shift++)
            for (int kind = 0; kind < 4; kind++) {
                bool has_weights = kind & 1, cautious = kind & 2;
                const Rule *rule = rule_of(rules[n].name);
                Chunk chunks[CHUNKS];
                make_chunks(chunks, shift);
                expected = *random_elements();
                Device d = to_device(be, &expected, chunks, CHUNKS);
                MultiTensorBuffers buffers = buffers_of(&d, has_weights, rule->uses_prev_grad);
                buffers.cautious = cautious;
                d.passes->update(be, rules[n].name, d.chunks, d.count, &buffers);
                download(&d, &own);
                for (int c = 0; c < CHUNKS; c++)
                    plain_update(&expected, &chunks[c], rule, rules[n].direction, has_weights, cautious);
                expect_elements(&own, &expected, rules[n].text, shift);
            }
    be->close(be);
}

/* ---- matrix rules ---- */

/* Returns the sum of squares of what is stored. */
static double plain_directions(Elements *e, const Chunk *chunk, RuleDirection *direction, DType type) {
    const UpdateCoeffs *r = &e->coeffs[chunk->tensor];
    double squares = 0.0;
    for (size_t i = 0; i < chunk->end - chunk->begin; i++) {
        float g = e->gradient[chunk->gradient + i] * r->gradient_factor, last = e->prev_grad[chunk->gradient + i];
        float out = direction(g, last, &e->states[0][chunk->shard + i], r);
        bfloat16 rounded = bfloat16_from_float(out);
        if (type == DTYPE_FLOAT32)
            e->matrices.float32[chunk->matrix + i] = out;
        else
            e->matrices.bfloat16[chunk->matrix + i] = rounded;
        squares += pow(type == DTYPE_FLOAT32 ? out : float_from_bfloat16(rounded), 2.0);
    }
    return squares;
}

static void expect_matrices(const Elements *own, const Elements *expected, DType type, const char *rule, int shift) {
    if (type == DTYPE_BFLOAT16) {
        expect_bfloat16(own->matrices.bfloat16, expected->matrices.bfloat16, "matrices", rule, shift);
        return;
    }
    for (size_t i = 0; i < LENGTH; i++) {
        float a = own->matrices.float32[i], b = expected->matrices.float32[i];
        if (isnan(b) ? !isnan(a) : !(fabsf(a - b) <= 3e-6f * (1.0f + fabsf(b))))
            fail_msg("%s, shift %d: matrices[%zu] is %.9g, expected %.9g", rule, shift, i, a, b);
    }
}

static void test_directions(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, expected;
    for (size_t n = 0; n < ARRAY_LENGTH(rules); n++)
        for (int shift = 0; shift < SHIFTS && is_matrix(n); shift++)
            for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
                Chunk chunks[CHUNKS];
                double squares[CHUNKS];
                make_chunks(chunks, shift);
                expected = *random_elements();
                Device d = to_device(be, &expected, chunks, CHUNKS);
                MultiTensorBuffers buffers = buffers_of(&d, true, rule_of(rules[n].name)->uses_prev_grad);
                d.passes->directions(be, rules[n].name, d.chunks, d.count, &buffers, &d.elements->matrices, (DType)type,
                                     d.squares);
                be->copy_to_host(be, squares, d.squares, sizeof squares);
                download(&d, &own);
                for (int c = 0; c < CHUNKS; c++) {
                    double sum = plain_directions(&expected, &chunks[c], rules[n].direction, (DType)type);
                    assert_error_below(fabs(squares[c] - sum) / sum, type == DTYPE_FLOAT32 ? 1e-5 : 2e-2, "squares");
                }
                expect_elements(&own, &expected, rules[n].text, shift);
                expect_matrices(&own, &expected, (DType)type, rules[n].text, shift);
            }
    be->close(be);
}

/* Matrices are numbers now. */
static void set_matrices(Elements *e, DType type) {
    for (size_t i = 0; i < LENGTH; i++)
        if (type == DTYPE_FLOAT32)
            e->matrices.float32[i] = e->prev_grad[i];
        else
            e->matrices.bfloat16[i] = bfloat16_from_float(e->prev_grad[i]);
}

static float matrix_element(const Elements *e, DType type, size_t at) {
    return type == DTYPE_FLOAT32 ? e->matrices.float32[at] : float_from_bfloat16(e->matrices.bfloat16[at]);
}

/* The factor of a chunk's element number i: that of its row or column. 1 without factors. */
static float factor_of(const Elements *e, const Chunk *chunk, const MatrixList *m, size_t i) {
    size_t at = (size_t)chunk->column + i, columns = (size_t)m->columns;
    if (columns == 0) return 1.0f;
    return e->factors[(size_t)chunk->line + (m->rows >= m->columns ? at / columns : at % columns)];
}

static void plain_apply(Elements *e, const Chunk *chunk, const MatrixList *m, bool has_weights, bool cautious) {
    const UpdateCoeffs *r = &e->coeffs[chunk->tensor];
    for (size_t i = 0; i < chunk->end - chunk->begin; i++) {
        float O = matrix_element(e, m->type, chunk->matrix + i), *x = &e->params[chunk->begin + i];
        float decay = cautious && O * *x < 0.0f ? 0.0f : r->learning_rate * r->weight_decay;
        *x -= decay * *x + r->step * factor_of(e, chunk, m, i) * O;
        if (has_weights) e->weights[chunk->begin + i] = bfloat16_from_float(*x);
    }
}

/* Chunks that begin in any column of matrices with `columns` columns, 0 for an update without factors. */
static void assert_applies(Backend *be, int shift, DType type, int64_t rows, int64_t columns, int kind) {
    static Elements own, expected;
    bool has_weights = kind & 1, cautious = kind & 2;
    Chunk chunks[CHUNKS];
    make_chunks(chunks, shift);
    for (int c = 0; c < CHUNKS && columns > 0; c++) {
        chunks[c].line = c % 4 * 10;
        chunks[c].column = (int)(c % 3 * 4 % columns) + (c == 5);
        if (chunks[c].column >= columns) chunks[c].column = 0;
    }
    expected = *random_elements();
    set_matrices(&expected, type);
    Device d = to_device(be, &expected, chunks, CHUNKS);
    MultiTensorBuffers buffers = buffers_of(&d, has_weights, false);
    buffers.cautious = cautious;
    MatrixList list = {&d.elements->matrices, type, rows, columns, 1};
    d.passes->apply(be, d.chunks, d.count, &buffers, &list, columns > 0 ? d.elements->factors : NULL);
    download(&d, &own);
    for (int c = 0; c < CHUNKS; c++) plain_apply(&expected, &chunks[c], &list, has_weights, cautious);
    expect_elements(&own, &expected, "apply", shift);
    assert_memory_equal(&own.matrices, &expected.matrices, sizeof own.matrices);
}

static void test_apply(void **state) {
    (void)state;
    Backend *be = open_device();
    for (int shift = 0; shift < SHIFTS; shift++)
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++)
            for (int kind = 0; kind < 4; kind++) assert_applies(be, shift, (DType)type, 0, 0, kind);
    be->close(be);
}

/* Rows that are shorter and longer than a chunk, of lengths that runs fit and not, and the same for columns. */
static void test_apply_lines(void **state) {
    (void)state;
    Backend *be = open_device();
    const int64_t columns[] = {1, 3, 4, 12, 64, 257, 2048, 10000};
    for (size_t i = 0; i < ARRAY_LENGTH(columns); i++)
        for (int are_rows = 0; are_rows < 2; are_rows++)
            for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++)
                for (int kind = 0; kind < 4; kind++) {
                    if (!are_rows && columns[i] == 1) continue;
                    int shift = (kind + (int)i) % SHIFTS;
                    assert_applies(be, shift, (DType)type, are_rows ? columns[i] : 1, columns[i], kind);
                }
    be->close(be);
}

/* ---- lines ---- */

static const struct LineShape {
    int64_t rows, columns;
} line_shapes[] = {{1, 1},   {1, 9},   {9, 1},    {7, 5},    {5, 7},     {64, 12},  {12, 64},
                   {65, 64}, {64, 65}, {200, 37}, {37, 200}, {130, 132}, {3, 5000}, {5000, 3}};

/* Sums are as expected, and nothing lies after them. */
static void assert_line_squares(Backend *be, const MatrixList *m, const Elements *e, const double *squares) {
    bool are_rows = m->rows >= m->columns;
    int64_t slabs = are_rows ? 1 : (m->rows + LINE_SLAB - 1) / LINE_SLAB, lines = are_rows ? m->rows : m->columns;
    double *expected = checked_calloc((size_t)(m->count * slabs * lines), sizeof *expected, "sums");
    for (int64_t i = 0; i < m->count; i++)
        for (int64_t row = 0; row < m->rows; row++)
            for (int64_t column = 0; column < m->columns; column++) {
                double x = matrix_element(e, m->type, (size_t)((i * m->rows + row) * m->columns + column));
                expected[are_rows ? i * m->rows + row : (i * slabs + row / LINE_SLAB) * m->columns + column] += x * x;
            }
    for (int64_t l = 0; l < m->count * slabs * lines; l++)
        if (!(fabs(squares[l] - expected[l]) <= 3e-7 * expected[l]))
            fail_msg("%s, %d x %d: sum %d is %.9g, expected %.9g", be->device, (int)m->rows, (int)m->columns, (int)l,
                     squares[l], expected[l]);
    assert_true(isnan(squares[m->count * slabs * lines]));
    free(expected);
}

static void test_line_squares(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements elements;
    static double squares[LENGTH];
    const Chunk none = {0};
    for (size_t s = 0; s < ARRAY_LENGTH(line_shapes); s++)
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++)
            for (int count = 1; count <= 2; count++) {
                elements = *random_elements();
                set_matrices(&elements, (DType)type);
                memset(squares, 0xff, sizeof squares);
                Device d = to_device(be, &elements, &none, 1);
                double *device_squares = on_device(be, squares, sizeof squares);
                MatrixList list = {&d.elements->matrices, (DType)type, line_shapes[s].rows, line_shapes[s].columns,
                                   count};
                d.passes->line_squares(be, &list, &d.elements->result, device_squares);
                be->copy_to_host(be, squares, device_squares, sizeof squares);
                be->free(be, device_squares);
                download(&d, &elements);
                assert_line_squares(be, &list, &elements, squares);
            }
    be->close(be);
}

/* NorMuon's v, and what a line is multiplied by, from the sums; in matrix 1 these are 0. */
static void plain_line_factors(Elements *e, const MatrixList *m, const LineState *where, const double *squares) {
    int64_t lines = m->rows >= m->columns ? m->rows : m->columns, length = m->rows >= m->columns ? m->columns : m->rows;
    int64_t slabs = m->rows >= m->columns ? 1 : (m->rows + LINE_SLAB - 1) / LINE_SLAB;
    for (int64_t i = 0; i < m->count; i++) {
        const UpdateCoeffs *r = &e->coeffs[where[i].tensor];
        float *v = &e->states[1][where[i].begin], *factor = &e->factors[i * lines];
        double before = 0.0, after = 0.0;
        for (int64_t l = 0; l < lines; l++) {
            double square = 0.0;
            for (int64_t slab = 0; slab < slabs; slab++)
                square += r->scale * r->scale * squares[(i * slabs + slab) * lines + l];
            v[l] = (float)(r->beta2 * v[l] + (1.0 - (double)r->beta2) * square / (double)length);
            before += square;
            after += square / fmax(v[l], 1e-10);
        }
        for (int64_t l = 0; l < lines; l++)
            factor[l] = (float)(sqrt(before) / fmax(sqrt(after), 1e-10) / sqrt(fmax(v[l], 1e-10)));
    }
}

static void test_line_factors(void **state) {
    (void)state;
    enum { COUNT = 3 };
    Backend *be = open_device();
    static Elements own, expected;
    static double squares[LENGTH];
    const Chunk none = {0};
    for (size_t s = 0; s < ARRAY_LENGTH(line_shapes); s++) {
        MatrixList list = {NULL, DTYPE_FLOAT32, line_shapes[s].rows, line_shapes[s].columns, COUNT};
        int64_t lines = max_i64(list.rows, list.columns);
        int64_t sums = lines * (list.rows >= list.columns ? 1 : (list.rows + LINE_SLAB - 1) / LINE_SLAB);
        LineState where[COUNT];
        for (int i = 0; i < COUNT; i++)
            where[i] = (LineState){(size_t)(5 + (COUNT - 1 - i) * (lines + 2)), i % TENSORS};
        for (int64_t l = 0; l < COUNT * sums; l++)
            squares[l] = l / sums == 1 ? 0.0 : pow(world_normal(8, (uint64_t)l), 2.0);
        expected = *random_elements();
        for (int i = 0; i < COUNT; i++) expected.states[1][where[i].begin] = 0.0f; /* v of a first step */
        Device d = to_device(be, &expected, &none, 1);
        MultiTensorBuffers buffers = buffers_of(&d, false, false);
        buffers.line_state = d.elements->states[1];
        double *device_squares = on_device(be, squares, sizeof squares);
        LineState *device_where = on_device(be, where, sizeof where);
        d.passes->line_factors(be, &list, device_where, &buffers, device_squares, d.elements->factors);
        be->free(be, device_squares);
        be->free(be, device_where);
        download(&d, &own);
        plain_line_factors(&expected, &list, where, squares);
        expect_elements(&own, &expected, "line_factors", (int)s);
        expect_floats(own.factors, expected.factors, "factors", "line_factors", (int)s);
    }
    be->close(be);
}

/* Matrices of odd sizes, dense, so that most do not begin at a multiple of 16 bytes; a norm of 0; what lies after. */
static void test_normalize(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, expected;
    const size_t sizes[] = {1, 3, 4, 15, 1024, 2049, 8192, 9001};
    const double norms[] = {4.0, 0.0, 2.25, 1e-20, 1e6}, eps = 1e-7, factor = 1.25;
    for (size_t n = 0; n < ARRAY_LENGTH(sizes); n++)
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++) {
            expected = *random_elements();
            set_matrices(&expected, (DType)type);
            Chunk none = {0};
            Device d = to_device(be, &expected, &none, 1);
            double *device_norms = on_device(be, norms, sizeof norms);
            d.passes->normalize(be, &d.elements->matrices, (DType)type, sizes[n], 5, device_norms, factor, eps);
            download(&d, &own);
            be->free(be, device_norms);
            for (size_t i = 0; i < 5 * sizes[n]; i++) {
                float scale = (float)(1.0 / (factor * sqrt(norms[i / sizes[n]]) + eps));
                bfloat16 *x16 = &expected.matrices.bfloat16[i];
                if (type == DTYPE_FLOAT32)
                    expected.matrices.float32[i] *= scale;
                else
                    *x16 = bfloat16_from_float(float_from_bfloat16(*x16) * scale);
            }
            expect_matrices(&own, &expected, (DType)type, "normalize", (int)sizes[n]);
        }
    be->close(be);
}

/* ---- steps that are skipped ---- */

static void test_skipped(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, before;
    Chunk chunks[CHUNKS];
    make_chunks(chunks, SHIFT_NOTHING);
    for (size_t n = 0; n < ARRAY_LENGTH(rules); n++) {
        before = *random_elements();
        before.result.skipped = true;
        Device d = to_device(be, &before, chunks, CHUNKS);
        MultiTensorBuffers buffers = buffers_of(&d, true, rule_of(rules[n].name)->uses_prev_grad);
        void *matrices = &d.elements->matrices;
        if (!is_matrix(n)) d.passes->update(be, rules[n].name, d.chunks, d.count, &buffers);
        if (is_matrix(n)) {
            MatrixList list = {matrices, DTYPE_BFLOAT16, 100, 12, 1};
            double squares[100], before_squares[100];
            memset(squares, 0xff, sizeof squares);
            memcpy(before_squares, squares, sizeof squares);
            double *device_squares = on_device(be, squares, sizeof squares);
            LineState where = {0}, *device_where = on_device(be, &where, sizeof where);
            buffers.line_state = d.elements->states[1];
            d.passes->directions(be, rules[n].name, d.chunks, d.count, &buffers, matrices, DTYPE_BFLOAT16, d.squares);
            d.passes->line_squares(be, &list, buffers.result, device_squares);
            d.passes->line_factors(be, &list, device_where, &buffers, device_squares, d.elements->factors);
            d.passes->apply(be, d.chunks, d.count, &buffers, &list, NULL);
            d.passes->apply(be, d.chunks, d.count, &buffers, &list, d.elements->factors);
            be->copy_to_host(be, squares, device_squares, sizeof squares);
            assert_memory_equal(squares, before_squares, sizeof squares);
            be->free(be, device_squares);
            be->free(be, device_where);
        }
        download(&d, &own);
        assert_memory_equal(&own, &before, sizeof own);
    }
    be->close(be);
}

/* Where a step is skipped, and there alone, what is in the chunks comes over. */
static void test_keep_prev_grad(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, expected;
    for (int skipped = 0; skipped < 2; skipped++)
        for (int shift = 0; shift < SHIFT_SHARD; shift++) {
            Chunk chunks[CHUNKS];
            make_chunks(chunks, shift);
            expected = *random_elements();
            expected.result.skipped = skipped;
            Device d = to_device(be, &expected, chunks, CHUNKS);
            Elements *e = d.elements;
            d.passes->keep_prev_grad(be, d.chunks, d.count, e->gradient, e->prev_grad, &e->result);
            download(&d, &own);
            for (int c = 0; c < CHUNKS && skipped; c++)
                memcpy(expected.gradient + chunks[c].gradient, expected.prev_grad + chunks[c].gradient,
                       (chunks[c].end - chunks[c].begin) * sizeof(float));
            assert_memory_equal(&own, &expected, sizeof own);
        }
    be->close(be);
}

/* ---- sums ---- */

static void expect_sums(const GradientSums *sums, const Elements *e, const Chunk *chunk, bool with_prev_grad,
                        bool with_sum) {
    GradientSums expected = {0};
    for (size_t i = chunk->gradient; i < chunk->gradient + chunk->end - chunk->begin; i++) {
        double g = e->gradient[i];
        expected.squares += g * g;
        expected.dot += with_prev_grad ? g * e->prev_grad[i] : 0.0;
        expected.sum += with_sum ? g : 0.0;
    }
    double size = sqrt(expected.squares);
    assert_error_below(fabs(sums->squares - expected.squares) / expected.squares, 1e-13, "squares");
    assert_error_below(fabs(sums->dot - expected.dot) / size, 1e-12, "products");
    assert_error_below(fabs(sums->sum - expected.sum) / size, 1e-12, "sums");
}

/* Plain sums are made at the first update only. */
static void test_sums(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own;
    for (int shift = 0; shift < SHIFT_SHARD; shift++)
        for (int kind = 0; kind < 4; kind++) {
            bool with_prev_grad = kind == 1, with_sum = kind == 2;
            Chunk chunks[CHUNKS];
            GradientSums sums[CHUNKS];
            make_chunks(chunks, shift);
            own = *random_elements();
            own.result.updates = kind == 2 ? 0 : 1;
            memset(sums, 0xff, sizeof sums);
            Device d = to_device(be, &own, chunks, CHUNKS);
            GradientSums *device_sums = on_device(be, sums, sizeof sums);
            d.passes->sums(be, d.chunks, d.count, d.elements->gradient, with_prev_grad ? d.elements->prev_grad : NULL,
                           kind >= 2 ? &d.elements->result : NULL, device_sums);
            be->copy_to_host(be, sums, device_sums, sizeof sums);
            be->free(be, device_sums);
            download(&d, &own);
            for (int c = 0; c < CHUNKS; c++) expect_sums(&sums[c], &own, &chunks[c], with_prev_grad, with_sum);
        }
    be->close(be);
}

static void test_add_up(void **state) {
    (void)state;
    enum { ROWS = 3000, MAX_WIDTH = 3 };
    Backend *be = open_device();
    const SumRange ranges[] = {{7, 1, 2}, {0, 0, 0}, {0, ROWS, 1}, {100, 257, 5}, {2, 33, 3}};
    static double parts[ROWS * MAX_WIDTH];
    for (size_t i = 0; i < ARRAY_LENGTH(parts); i++) parts[i] = world_normal(6, i);
    double *device_parts = on_device(be, parts, sizeof parts);
    SumRange *device_ranges = on_device(be, ranges, sizeof ranges);
    for (int width = 1; width <= MAX_WIDTH; width++) {
        double sums[6 * MAX_WIDTH];
        memset(sums, 0xff, sizeof sums);
        double *device_sums = on_device(be, sums, sizeof sums);
        multi_tensor_passes(be)->add_up(be, device_parts, width, device_ranges, (int)ARRAY_LENGTH(ranges), device_sums);
        be->copy_to_host(be, sums, device_sums, sizeof sums);
        be->free(be, device_sums);
        for (size_t r = 0; r < ARRAY_LENGTH(ranges); r++)
            for (int w = 0; w < width; w++) {
                double expected = 0.0;
                for (int row = ranges[r].first; row < ranges[r].first + ranges[r].count; row++)
                    expected += parts[row * width + w];
                assert_error_below(fabs(sums[ranges[r].to * width + w] - expected), 1e-11, "a sum of rows");
            }
        for (int w = 0; w < width; w++) assert_true(isnan(sums[4 * width + w])); /* nobody's */
    }
    be->free(be, device_parts);
    be->free(be, device_ranges);
    be->close(be);
}

/* ---- norms of an update ---- */

/* The copy goes where states lie. */
static void test_copy_params(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, expected;
    for (int shift = 0; shift < SHIFT_MATRIX; shift++) {
        Chunk chunks[CHUNKS];
        make_chunks(chunks, shift);
        expected = *random_elements();
        memset(expected.states[0], 0xff, sizeof expected.states[0]);
        Device d = to_device(be, &expected, chunks, CHUNKS);
        d.passes->copy_params(be, d.chunks, d.count, d.elements->params, d.elements->states[0]);
        download(&d, &own);
        for (int c = 0; c < CHUNKS; c++)
            memcpy(expected.states[0] + chunks[c].shard, expected.params + chunks[c].begin,
                   (chunks[c].end - chunks[c].begin) * sizeof(float));
        assert_memory_equal(&own, &expected, sizeof own);
    }
    be->close(be);
}

static void expect_update_sums(const UpdateSums *sums, const Elements *e, const Chunk *chunk) {
    UpdateSums expected = {0};
    for (size_t i = 0; i < chunk->end - chunk->begin; i++) {
        double x = e->params[chunk->begin + i], old = e->states[0][chunk->shard + i];
        expected.update += (x - old) * (x - old);
        expected.weight += x * x;
    }
    assert_error_below(fabs(sums->update - expected.update) / expected.update, 1e-13, "the squares of an update");
    assert_error_below(fabs(sums->weight - expected.weight) / expected.weight, 1e-13, "the squares of a weight");
}

static void test_update_sums(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, before;
    for (int shift = 0; shift < SHIFT_MATRIX; shift++) {
        Chunk chunks[CHUNKS];
        UpdateSums sums[CHUNKS + 1];
        make_chunks(chunks, shift);
        before = *random_elements();
        memset(sums, 0xff, sizeof sums);
        Device d = to_device(be, &before, chunks, CHUNKS);
        UpdateSums *device_sums = on_device(be, sums, sizeof sums);
        d.passes->update_sums(be, d.chunks, d.count, d.elements->params, d.elements->states[0], device_sums);
        be->copy_to_host(be, sums, device_sums, sizeof sums);
        be->free(be, device_sums);
        download(&d, &own);
        assert_memory_equal(&own, &before, sizeof own);
        for (int c = 0; c < CHUNKS; c++) expect_update_sums(&sums[c], &own, &chunks[c]);
        assert_true(isnan(sums[CHUNKS].update) && isnan(sums[CHUNKS].weight)); /* nobody's */
    }
    be->close(be);
}

/* ---- an average of the weights ---- */

static void test_average(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, expected;
    for (int shift = 0; shift < SHIFT_MATRIX; shift++)
        for (int begins = 0; begins < 2; begins++) {
            Chunk chunks[CHUNKS];
            make_chunks(chunks, shift);
            expected = *random_elements();
            if (begins) memset(expected.states[0], 0xff, sizeof expected.states[0]); /* it may hold anything */
            Device d = to_device(be, &expected, chunks, CHUNKS);
            float rate = begins ? 1.0f : 0.25f;
            d.passes->update_ema(be, d.chunks, d.count, d.elements->params, d.elements->states[0], rate);
            download(&d, &own);
            for (int c = 0; c < CHUNKS; c++)
                for (size_t i = 0; i < chunks[c].end - chunks[c].begin; i++) {
                    float x = expected.params[chunks[c].begin + i], *to = &expected.states[0][chunks[c].shard + i];
                    float average = begins ? x : (float)(0.75 * (double)*to + 0.25 * (double)x);
                    float found = own.states[0][chunks[c].shard + i];
                    assert_true(begins ? found == x : fabsf(found - average) <= 2e-7f * (fabsf(*to) + fabsf(x)));
                    *to = found;
                }
            assert_memory_equal(&own, &expected, sizeof own); /* nothing but that */
        }
    be->close(be);
}

/* As bfloat16 and as float32, which here take the places of weights and of gradients. With a share of 0 the average may
 * hold anything. */
static void test_mix(void **state) {
    (void)state;
    Backend *be = open_device();
    static Elements own, expected;
    const float shares[] = {0.6f, 0.0f};
    for (int shift = 0; shift < SHIFT_MATRIX; shift++)
        for (int type = DTYPE_FLOAT32; type <= DTYPE_BFLOAT16; type++)
            for (size_t s = 0; s < ARRAY_LENGTH(shares); s++) {
                Chunk chunks[CHUNKS];
                float share = shares[s];
                make_chunks(chunks, shift);
                expected = *random_elements();
                if (share == 0.0f) memset(expected.states[0], 0xff, sizeof expected.states[0]);
                Device d = to_device(be, &expected, chunks, CHUNKS);
                Elements *e = d.elements;
                void *to = type == DTYPE_FLOAT32 ? (void *)e->gradient : e->weights;
                d.passes->mix_ema(be, d.chunks, d.count, e->params, e->states[0], share, to, (DType)type);
                download(&d, &own);
                for (int c = 0; c < CHUNKS; c++)
                    for (size_t i = 0; i < chunks[c].end - chunks[c].begin; i++) {
                        size_t at = chunks[c].begin + i;
                        float x = expected.params[at], average = expected.states[0][chunks[c].shard + i];
                        double mixed = share == 0.0f ? (double)x : 0.4 * (double)x + 0.6 * (double)average;
                        double found =
                            type == DTYPE_FLOAT32 ? own.gradient[at] : (double)float_from_bfloat16(own.weights[at]);
                        double largest = fabs((double)x) + (share == 0.0f ? 0.0 : fabs((double)average));
                        double slack = type == DTYPE_FLOAT32 ? (share == 0.0f ? 0.0 : 2e-7) : 0x1p-8;
                        assert_true(fabs(found - mixed) <= slack * largest);
                        expected.gradient[at] = own.gradient[at];
                        expected.weights[at] = own.weights[at];
                    }
                assert_memory_equal(&own, &expected, sizeof own);
            }
    be->close(be);
}

/* ---- results ---- */

/* They come in order, each as it was when it was sent. */
static void test_queue(void **state) {
    (void)state;
    Backend *be = open_device();
    const MultiTensorPasses *passes = multi_tensor_passes(be);
    ResultQueue *queue = passes->open_queue(be, 2);
    StepResult *result = be->alloc(be, sizeof *result, "an outcome");
    for (int64_t i = 0, received = 0; i < 7; i++) {
        StepResult next = {.updates = i, .grad_norm = 0.5 * (double)i, .nonfinite_tensor = (int)i - 1};
        be->copy_from_host(be, result, &next, sizeof next);
        passes->send(be, queue, result);
        for (; received < i + (i % 3 != 0); received++) {
            StepResult came = passes->receive(be, queue);
            assert_true(came.updates == received && came.grad_norm == 0.5 * (double)received);
            assert_int_equal(came.nonfinite_tensor, received - 1);
        }
    }
    passes->close_queue(be, queue);
    be->free(be, result);
    be->close(be);
}

/* ---- chunks ---- */

/* Chunks of parts that begin `at` into a shard: in order, each inside one tensor and not too long, together all of the
 * tensors' elements in [begin, end) once each. Counts them in `covered`. */
static void cover(const TensorTable *table, size_t begin, size_t end, unsigned char *covered) {
    int count = 0;
    Chunk *chunks = NULL;
    size_t last = begin;
    for (int i = 0; i < table->count; i++) {
        const Tensor *t = &table->tensors[i];
        Part part = {t->offset > begin ? t->offset : begin, t->offset + t->size < end ? t->offset + t->size : end, 77,
                     false};
        if (part.begin >= part.end) continue;
        int before = count;
        multi_tensor_append_chunks(&chunks, &count, &part, i, i % 2 == 0);
        for (int c = before; c < count; c++) {
            assert_true(chunks[c].tensor == i && chunks[c].shard == part.at + (chunks[c].begin - part.begin));
            assert_true(chunks[c].gradient == (i % 2 == 0 ? chunks[c].shard : chunks[c].begin));
        }
    }
    for (int c = 0; c < count; c++) {
        const Tensor *t = &table->tensors[chunks[c].tensor];
        assert_true(chunks[c].begin >= last && chunks[c].begin < chunks[c].end && chunks[c].end <= end);
        assert_true(chunks[c].begin >= t->offset && chunks[c].end <= t->offset + t->size);
        assert_true(chunks[c].end - chunks[c].begin <= MULTI_TENSOR_CHUNK);
        for (size_t at = chunks[c].begin; at < chunks[c].end; at++) covered[at]++;
        last = chunks[c].end;
    }
    free(chunks);
}

static void assert_covered(const TensorTable *table, unsigned char *covered) {
    for (int i = 0; i < table->count; i++)
        for (size_t k = 0; k < table->tensors[i].size; k++) {
            unsigned char *times = &covered[table->tensors[i].offset + k];
            if (*times != 1) fail_msg("%s, element %zu: in %d chunks", table->tensors[i].name, k, *times);
            *times = 0;
        }
    for (size_t at = 0; at < table->length; at++) assert_int_equal(covered[at], 0); /* the gaps */
}

static void test_chunks(void **state) {
    (void)state;
    TensorTable table = odd_table();
    unsigned char *covered = checked_calloc(table.length, 1, "counts");
    for (size_t parts = 1; parts <= 17; parts++) {
        for (size_t p = 0; p < parts; p++)
            cover(&table, table.length * p / parts, table.length * (p + 1) / parts, covered);
        assert_covered(&table, covered);
    }
    size_t cuts[] = {0, 1, 2, 128, 129, 627, 628, 629, 6528, 6535, 30000, 30000, 30001, table.length - 1, table.length};
    for (size_t c = 0; c + 1 < ARRAY_LENGTH(cuts); c++) cover(&table, cuts[c], cuts[c + 1], covered);
    assert_covered(&table, covered);
    free(covered);
    tensor_table_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_update),      cmocka_unit_test(test_directions),   cmocka_unit_test(test_apply),
        cmocka_unit_test(test_apply_lines), cmocka_unit_test(test_line_squares), cmocka_unit_test(test_line_factors),
        cmocka_unit_test(test_normalize),   cmocka_unit_test(test_skipped),      cmocka_unit_test(test_keep_prev_grad),
        cmocka_unit_test(test_sums),        cmocka_unit_test(test_add_up),       cmocka_unit_test(test_queue),
        cmocka_unit_test(test_chunks),      cmocka_unit_test(test_copy_params),  cmocka_unit_test(test_update_sums),
        cmocka_unit_test(test_average),     cmocka_unit_test(test_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
