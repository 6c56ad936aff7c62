/* test_golden_gradients.c: every tensor's gradient of the models in dev/golden/modern, against numbers that the
 * published classes computed in PyTorch: its norm, and its inner product with the weight, which a sign or a swapped
 * pair would change. "NAME q", "k" and "v" are the three parts of c_attn. */
#include "dev/test/train/train_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_gpt2.h"
#include "config/config.h"
#include "dev/test/kernels/test_gpu.h"
#include "model/gpt2.h"

static const char *const sets[] = {"modded_gradient",      "track3_gradient", "variant_attention_output_scale",
                                   "variant_bias_rmsnorm", "variant_qk_norm", "variant_relu2",
                                   "variant_rmsnorm",      "variant_rope",    "variant_softcap",
                                   "variant_untied",       "proposed"};

static const cJSON *member(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item) fail_msg("dev/golden/modern: '%s' is missing", key);
    return item;
}

/* The model and the batch of step 0. */
typedef struct GoldenModel {
    Backend *be;
    GPT2 model;
    int32_t *inputs, *targets;
    int B, T;
} GoldenModel;

/* The first B*T + 1 tokens of an llm.c shard as inputs and targets. */
static void read_batch(GoldenModel *g, const char *path) {
    size_t bytes, header = 256 * sizeof(int32_t), n = (size_t)(g->B * g->T);
    char *shard = test_read_file(path, &bytes);
    assert_true(bytes >= header + (n + 1) * sizeof(uint16_t));
    const uint16_t *tokens = (const uint16_t *)(const void *)(shard + header);
    g->inputs = checked_malloc(n * sizeof *g->inputs, "inputs");
    g->targets = checked_malloc(n * sizeof *g->targets, "targets");
    for (size_t i = 0; i < n; i++) g->inputs[i] = tokens[i], g->targets[i] = tokens[i + 1];
    free(shard);
}

static GoldenModel open_golden(const char *set, const cJSON *golden, Recompute recompute) {
    Config config;
    Error error;
    GoldenModel g = {0};
    SafetensorsFile file;
    char *name = format_string("modern/%s", set), *shard = format_string("dev/golden/%s_train.bin", name);
    char *weights = format_string("dev/golden/%s_init.safetensors", name);
    char *out_dir = format_string("--out_dir=%s", test_path("golden")), *arguments[] = {out_dir};
    char *path = train_golden_config(name, golden, cJSON_GetArrayItem(member(golden, "cases"), 0), 0);
    if (!config_read(&config, path, 1, arguments, &error)) fail_msg("%s", error.text);
    g.be = backend_open(test_device(), DTYPE_FLOAT32, 1, &error);
    if (!g.be) fail_msg("%s", error.text);
    g.B = config.train.batch_size, g.T = config.model.block_size;
    gpt2_create(&g.model, &config.model, g.be, g.B, recompute, true);
    if (!safetensors_open(&file, weights, &error)) fail_msg("%s", error.text);
    if (!checkpoint_load_gpt2(&g.model, &file, &error)) fail_msg("%s", error.text);
    safetensors_close(&file);
    read_batch(&g, shard);
    free(name), free(shard), free(weights), free(out_dir), free(path);
    return g;
}

static void close_golden(GoldenModel *g) {
    gpt2_free(&g->model);
    g->be->close(g->be);
    free(g->inputs);
    free(g->targets);
}

/* Elements [begin, end) of the flat buffers for a name of the golden file. */
static void find_part(const TensorTable *table, const char *name, size_t *begin, size_t *end) {
    const char *blank = strchr(name, ' ');
    char *tensor_name = format_string("%.*s", (int)(blank ? blank - name : (long)strlen(name)), name);
    int index = tensor_table_find(table, tensor_name);
    if (index < 0) fail_msg("the model has no tensor %s", tensor_name);
    const Tensor *t = &table->tensors[index];
    size_t part = blank ? (size_t)(strchr("qkv", blank[1]) - "qkv") : 0, parts = blank ? 3 : 1;
    *begin = t->offset + part * t->size / parts;
    *end = *begin + t->size / parts;
    free(tensor_name);
}

/* The expected norm of the whole tensor that `name` is, or is a part of. */
static double whole_norm(const cJSON *norms, const char *name) {
    char *whole = format_string("%.*s", (int)strcspn(name, " "), name);
    double norm = member(norms, whole)->valuedouble;
    free(whole);
    return norm;
}

static void assert_gradients(const GoldenModel *g, const char *set, const cJSON *check, double limit) {
    const TensorTable *table = &g->model.table;
    float *grads = checked_malloc(table->length * sizeof *grads, "gradients");
    float *params = checked_malloc(table->length * sizeof *params, "weights");
    g->be->copy_to_host(g->be, grads, g->model.grads, table->length * sizeof *grads);
    g->be->copy_to_host(g->be, params, g->model.params, table->length * sizeof *params);
    const cJSON *expected_norms = member(check, "gradient_norm"), *expected_norm;
    int tensors = 0;
    cJSON_ArrayForEach(expected_norm, expected_norms) {
        const char *name = expected_norm->string;
        size_t begin, end;
        double squares = 0.0, dot = 0.0, weight_squares = 0.0;
        find_part(table, name, &begin, &end);
        for (size_t i = begin; i < end; i++) {
            squares += (double)grads[i] * grads[i];
            dot += (double)grads[i] * params[i];
            weight_squares += (double)params[i] * params[i];
        }
        double norm = expected_norm->valuedouble;
        double expected_dot = member(member(check, "gradient_dot_weight"), name)->valuedouble;
        /* The gradient of a key's bias is rounding alone where nothing but the softmax sees keys. */
        double scale = fmax(norm, 0.01 * whole_norm(expected_norms, name));
        if (!(fabs(sqrt(squares) - norm) <= limit * scale))
            fail_msg("%s: the gradient of %s has norm %.9g, expected %.9g", set, name, sqrt(squares), norm);
        if (!(fabs(dot - expected_dot) <= limit * scale * sqrt(weight_squares)))
            fail_msg("%s: the gradient of %s times the weight is %.9g, expected %.9g", set, name, dot, expected_dot);
        tensors += strchr(name, ' ') == NULL;
    }
    assert_int_equal(tensors, table->count);
    free(grads);
    free(params);
}

/* Every gradient must be overwritten. */
static void poison(const GoldenModel *g) {
    size_t bytes = g->model.table.length * sizeof(float);
    float *nans = checked_malloc(bytes, "gradients");
    memset(nans, 0xff, bytes);
    g->be->copy_from_host(g->be, g->model.grads, nans, bytes);
    free(nans);
}

static void check_set(const char *set, Recompute recompute) {
    char *file = format_string("dev/golden/modern/%s.json", set), *text = test_read_file(file, NULL);
    cJSON *golden = cJSON_Parse(text);
    if (!golden) fail_msg("%s is not JSON", file);
    const cJSON *check = member(golden, "gradient_check");
    GoldenModel g = open_golden(set, golden, recompute);
    poison(&g);
    gpt2_forward_backward(&g.model, g.inputs, g.targets, g.B, g.T, 1.0f / (float)(g.B * g.T), false);
    int64_t count;
    double loss = gpt2_take_loss(&g.model, &count) / (double)count, expected = member(check, "loss")->valuedouble;
    if (!(fabs(loss - expected) <= 1e-5 * expected))
        fail_msg("%s: the loss is %.9g, expected %.9g", set, loss, expected);
    assert_gradients(&g, set, check, 1e-4);
    close_golden(&g);
    cJSON_Delete(golden);
    free(file);
    free(text);
}

static void test_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(sets); i++) check_set(sets[i], RECOMPUTE_NONE);
}

/* The two that have most kinds of layers between them. */
static void test_gradients_recomputed(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++)
        for (int recompute = RECOMPUTE_MLP; recompute <= RECOMPUTE_BLOCK; recompute++)
            check_set(sets[i], (Recompute)recompute);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_gradients_recomputed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
