/* export_hf: copies a trained model to a folder for other programs.
 *
 *     ./export_hf CHECKPOINT OUT [--dtype=float32|bfloat16] [--fold_attention_scale] [--ema]
 *
 * OUT gets the weights, config.json, the tokenizer and, if transformers has no such model, its code, but nothing that
 * only a resumed run needs. CHECKPOINT is a folder of weights with its config.json, from our trainer or from others. */
#include <cjson/cJSON.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_layout.h"
#include "model/gpt2.h"
#include "util/files.h"
#include "util/program.h"

static const char usage[] =
    "usage: export_hf CHECKPOINT OUT [options]\n"
    "  CHECKPOINT              a folder with weights and their config.json, such as runs/NAME/checkpoints/latest\n"
    "  OUT                     a folder that is not there yet, for transformers and programs that read its models\n"
    "  --dtype=float32         or bfloat16: what the weights are rounded to\n"
    "  --fold_attention_scale  divide the queries of layer l = 1, 2, ... by l, with scale_attn_by_inverse_layer_idx\n"
    "                          false: the same function for programs that ignore that setting\n"
    "  --ema                   of a run with train.ema_start: the weights mixed with their average, as for ema_loss\n";

typedef struct Options {
    const char *from;
    char *to;
    DType type;
    bool folds, is_ema;
} Options;

typedef struct Export {
    Options options;
    SafetensorsFile weights;
    Checkpoint checkpoint; /* only with --ema */
    float mix;             /* share of the average */
    GPT2 model;            /* its table only */
    float *average;        /* room for the largest tensor */
} Export;

/* ---- options ---- */

static void answer_questions(const char *argument) {
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0)
        fputs(usage, stdout);
    else if (strcmp(argument, "--version") == 0)
        printf("export_hf (mars.c) %s\n", MARS_VERSION);
    else
        return;
    exit(EXIT_DONE);
}

static DType read_type(const char *name) {
    if (strcmp(name, "float32") != 0 && strcmp(name, "bfloat16") != 0)
        die_usage("--dtype=%s: expected float32 or bfloat16", name);
    return strcmp(name, "float32") == 0 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
}

/* A path without slashes at its end, which the caller frees. */
static char *without_slashes(const char *path) {
    char *copy = checked_strdup(path);
    for (size_t length = strlen(copy); length > 1 && copy[length - 1] == '/';) copy[--length] = 0;
    return copy;
}

static Options read_options(int argc, char **argv) {
    Options o = {.type = DTYPE_FLOAT32};
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        answer_questions(argument);
        if (strncmp(argument, "--dtype=", strlen("--dtype=")) == 0)
            o.type = read_type(argument + strlen("--dtype="));
        else if (strcmp(argument, "--fold_attention_scale") == 0)
            o.folds = true;
        else if (strcmp(argument, "--ema") == 0)
            o.is_ema = true;
        else if (argument[0] == '-')
            die_usage("there is no option %s; --help lists what there is", argument);
        else if (!o.from)
            o.from = argument;
        else if (!o.to)
            o.to = without_slashes(argument);
        else
            die_usage("unexpected argument '%s'; --help lists what there is", argument);
    }
    if (!o.from) die_usage("the checkpoint folder is missing, such as runs/NAME/checkpoints/latest");
    if (!o.to) die_usage("the folder to write is missing; --help says more");
    struct stat status;
    if (lstat(o.to, &status) == 0) die_usage("%s is there already; remove it or choose another folder", o.to);
    return o;
}

/* ---- what is exported ---- */

static void open_average(Export *e, const char *folder) {
    Error error;
    if (!files_has(folder, TRAINER_FILE))
        die("--ema: %s has no " TRAINER_FILE "; expected a checkpoint of a run; name one, or leave --ema out", folder);
    if (!checkpoint_open(&e->checkpoint, folder, &error)) die("--ema: %s" CHECKPOINT_COPY_AGAIN, error.text);
    if (e->checkpoint.ema.count == 0)
        die("--ema: %s holds no average of the weights; only runs with train.ema_start save one; leave --ema out",
            folder);
    const cJSON *train = cJSON_GetObjectItemCaseSensitive(e->checkpoint.config, "train");
    const cJSON *mix = cJSON_GetObjectItemCaseSensitive(train, "ema_mix");
    if (!cJSON_IsNumber(mix) || !(mix->valuedouble >= 0.0 && mix->valuedouble <= 1.0))
        die("--ema: %s/" TRAINER_FILE ": config.train.ema_mix is missing or wrong; expected a number from 0 to 1; "
            "take another checkpoint",
            folder);
    e->mix = (float)mix->valuedouble;
}

/* Fails if the attention scale cannot be folded into the weights, or need not be. */
static void check_fold(const GPT2Config *config, const char *folder) {
    if (!config->scale_attn_by_inverse_layer_idx)
        die_usage("--fold_attention_scale: %s/" CONFIG_FILE " has no scale_attn_by_inverse_layer_idx to fold; leave "
                  "this option out",
                  folder);
    if (config->qk_norm)
        die_usage("--fold_attention_scale: %s has qk_norm, which takes any factor out of queries again; leave this "
                  "option out",
                  folder);
}

static void open_export(Export *e, char folder[PATH_MAX]) {
    Error error;
    GPT2Config config;
    if (!checkpoint_open_weights(&e->weights, e->options.from, &error)) die("%s", error.text);
    files_folder_of(e->weights.path, folder, PATH_MAX);
    if (!checkpoint_read_model_config(&config, folder, &e->weights, &error)) die("%s", error.text);
    if (!checkpoint_verify_tokenizer(folder, &error)) die("%s", error.text);
    if (e->options.folds) check_fold(&config, folder);
    if (e->options.is_ema) open_average(e, folder);
    gpt2_describe(&e->model, &config);
    if (!checkpoint_check_weights(&e->weights, &e->model.table, &error)) die("%s", error.text);
    if (e->options.is_ema && !checkpoint_check_weights(&e->checkpoint.ema, &e->model.table, &error))
        die("%s", error.text);
    e->average = checked_malloc(tensor_table_largest(&e->model.table) * sizeof *e->average, "a tensor");
}

/* Multiplies a layer's query weights and biases by the factor of its scores, since scores are linear in the queries. */
static void fold(const Tensor *tensor, float *host) {
    int layer, length = 0;
    if (sscanf(tensor->name, "h.%d.attn.c_attn.%n", &layer, &length) != 1 || length == 0) return;
    size_t queries = tensor->size / 3; /* the first third of the rows of the weight, or of the bias */
    for (size_t i = 0; i < queries; i++) host[i] /= (float)(layer + 1);
}

static void read_tensor(const SafetensorsFile *file, const TensorTable *table, int tensor, float *host) {
    Error error;
    if (!checkpoint_read_weights(file, table, tensor, host, &error) ||
        !checkpoint_check_finite(file, &table->tensors[tensor], host, &error))
        die("%s", error.text);
}

static void fetch(void *context, int which, int tensor, float *host) {
    (void)which; /* always the weights: nothing else is exported */
    Export *e = context;
    const TensorTable *table = &e->model.table;
    read_tensor(&e->weights, table, tensor, host);
    if (e->options.is_ema) {
        read_tensor(&e->checkpoint.ema, table, tensor, e->average);
        for (size_t i = 0; i < table->tensors[tensor].size; i++) host[i] += e->mix * (e->average[i] - host[i]);
    }
    if (e->options.folds) fold(&table->tensors[tensor], host);
}

/* Reads all tensors, so that a fault is found before anything is written. */
static void check_tensors(Export *e) {
    float *host = checked_malloc(tensor_table_largest(&e->model.table) * sizeof *host, "a tensor");
    for (int i = 0; i < e->model.table.count; i++) fetch(e, CHECKPOINT_WEIGHTS, i, host);
    free(host);
}

int main(int argc, char **argv) {
    static Export e;
    Error error;
    char folder[PATH_MAX];
    program_start("export_hf", argv);
    e.options = read_options(argc, argv);
    open_export(&e, folder);
    check_tensors(&e);
    CheckpointSource source = {
        .model = e.model.config, .table = &e.model.table, .fetch = fetch, .context = &e, .tokens_folder = folder};
    if (e.options.folds) source.model.scale_attn_by_inverse_layer_idx = false;
    if (!checkpoint_export(&source, e.options.type, e.options.to, &error)) die("%s", error.text);
    printf("%s: %zu parameters in %s%s%s\n", e.options.to, e.model.table.parameters, dtype_name(e.options.type),
           e.options.is_ema ? ", mixed with their average" : "",
           e.options.folds ? ", with the scale of attention folded in" : "");
    checkpoint_close(&e.checkpoint);
    safetensors_close(&e.weights);
    gpt2_free(&e.model);
    free(e.average);
    free(e.options.to);
    return EXIT_DONE;
}
