/* test_published_configs.c: the runs in config/ and the scripts that start them. The papers' numbers are written out
 * here a second time; the scripts run in a tree of their own, where mpirun, make and train_gpt2 are stand-ins that
 * print how they were called. */
#include "dev/test/test.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"

enum { PROCESSES = 8, STEPS = 100000 };

static const char *const runs[] = {
    "small_adamw", "medium_adamw", "large_adamw", "xl_adamw", "small_mars", "medium_mars", "large_mars", "xl_mars",
    "small_mars_exact", "medium_mars_exact", "large_mars_exact", "xl_mars_exact", "small_muon", "medium_muon",
    "large_muon", "small_mars_m", "medium_mars_m", "large_mars_m", "xl_mars_m", "small_moonlight", "medium_moonlight",
    "large_moonlight", "xl_moonlight", "small_sgd_sai", "small_adamw_fw", "xl_adamw_fw", "small_mars_fw", "xl_mars_fw",
    "small_mars_m_fw", "xl_mars_m_fw", "small_moonlight_fw", "xl_moonlight_fw",
    /* MARS-M at other settings than those of its config files */
    "small_mars_m_gamma001", "medium_mars_m_gamma001", "large_mars_m_gamma001", "xl_mars_m_gamma001",
    "small_mars_m_gamma001_fw", "xl_mars_m_gamma001_fw", "small_mars_m_lr001_fw"};

/* Runs of modded-nanogpt (github.com/KellerJordan/modded-nanogpt). */
static const struct ModdedRun {
    const char *name;
    GPT2Config model; /* what differs from GPT-2 small */
    double learning_rate, muon_learning_rate;
    MuonScale muon_scale;
    bool split_qkv;
    int warmup_iters, warmdown_iters, max_iters, eval_interval;
} modded_runs[] = {
    {"modded_nanogpt",
     {.n_head = 6,
      .vocab_size = 50304,
      .norm_eps = 1.1920929e-07,
      .qk_norm = true,
      .qk_norm_eps = 0.0078125,
      .activation = ACTIVATION_RELU2,
      .attention_output_scale = 1.0,
      .zero_init_projections = true},
     3.6e-3,
     3.6e-4,
     MUON_SCALE_SQRT_MAX,
     true,
     0,
     1450,
     5100,
     125},
    {"modded_first_muon",
     {.n_head = 12,
      .vocab_size = 50257,
      .norm_eps = 1e-6,
      .qk_norm_eps = 1.1920929e-07,
      .activation = ACTIVATION_GELU,
      .attention_output_scale = 0.20412414523193154},
     1.8e-3,
     0.018,
     MUON_SCALE_NONE,
     false,
     250,
     2000,
     7000,
     128},
};

/* Runs of its optimizer track, "track3_OPTIMIZER": one model, batch and number of steps, which the track fixes. */
static const char *const track3_runs[] = {"track3_muon", "track3_normuon", "track3_mars"};

static const struct Size {
    const char *name;
    int n_layer, n_head, n_embd, batch_size, accumulation;
    double min_lr;
} sizes[] = {
    {"small", 12, 12, 768, 15, 4, 3e-5},
    {"medium", 24, 16, 1024, 15, 4, 6e-5},
    {"large", 36, 20, 1280, 5, 12, 1e-5},
    {"xl", 48, 25, 1600, 5, 12, 1e-5},
};

/* What the name of a run says: SIZE_OPTIMIZER or SIZE_OPTIMIZER_fw. */
typedef struct Run {
    int size;
    char optimizer[32];
    bool fineweb;
} Run;

static Run run_named(const char *name) {
    Run run = {.size = -1};
    size_t length = strcspn(name, "_");
    for (int i = 0; i < (int)ARRAY_LENGTH(sizes); i++)
        if (strlen(sizes[i].name) == length && strncmp(name, sizes[i].name, length) == 0) run.size = i;
    if (run.size < 0) fail_msg("%s names no size", name);
    snprintf(run.optimizer, sizeof run.optimizer, "%s", name + length + 1);
    char *end = strstr(run.optimizer, "_fw");
    run.fineweb = end != NULL;
    if (end) *end = 0;
    return run;
}

/* ---- the numbers ---- */

/* What a key is that a config leaves out. */
static OptimConfig default_optimizer(void) {
    OptimConfig e = {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_clip = 1.0};
    e.gamma = 0.025, e.is_approx = true, e.lr_1d = 0, e.weight_decay_1d = 0.1;
    e.betas_1d[0] = 0.9, e.betas_1d[1] = 0.95;
    e.muon_learning_rate = 0.02, e.muon_embeddings = true, e.muon_beta2 = 0.95;
    e.momentum = 0.95, e.nesterov = true, e.ns_steps = 5;
    return e;
}

static OptimConfig published_optimizer(const Run *run) {
    OptimConfig e = default_optimizer();
    e.gradient_scale = run->size < 2 ? 4 : 12;
    bool exact = strcmp(run->optimizer, "mars_exact") == 0;
    bool low_gamma = strcmp(run->optimizer, "mars_m_gamma001") == 0;
    if (strcmp(run->optimizer, "adamw") == 0) {
        e.name = OPTIM_ADAMW;
        e.learning_rate = (double[]){6e-4, 3e-4, 2e-4, 2e-4}[run->size];
    } else if (strcmp(run->optimizer, "mars") == 0 || exact) {
        e.name = OPTIM_MARS_ADAMW;
        e.learning_rate = (double[]){6e-3, 3e-3, 2e-3, 2e-3}[run->size];
        e.lr_1d = e.learning_rate / 2;
        e.weight_decay = 0.01, e.beta1 = 0.95, e.beta2 = 0.99, e.is_approx = !exact;
    } else if (strcmp(run->optimizer, "muon") == 0) {
        e.name = OPTIM_MUON;
        e.muon_learning_rate = (double[]){2e-2, 1e-2, 6.67e-3, 0}[run->size];
        e.learning_rate = (double[]){3e-3, 1.5e-3, 1e-3, 0}[run->size];
    } else if (strcmp(run->optimizer, "moonlight") == 0) {
        e.name = OPTIM_MOONLIGHT;
        e.learning_rate = (double[]){6e-3, 5e-3, 5e-3, 3e-3}[run->size];
    } else if (strcmp(run->optimizer, "mars_m") == 0 || low_gamma) {
        e.name = OPTIM_MARS_M;
        e.learning_rate = (double[]){6e-3, 5e-3, 5e-3, 3e-3}[run->size];
        e.weight_decay = 0.01, e.beta1 = 0.95, e.gamma = low_gamma ? 0.01 : 0.025;
    } else if (strcmp(run->optimizer, "mars_m_lr001") == 0) { /* MARS-M's README, of FineWeb-Edu small alone */
        e.name = OPTIM_MARS_M;
        e.learning_rate = (double[]){1e-2, 0, 0, 0}[run->size];
        e.weight_decay = 0.1, e.beta1 = 0.95;
    } else if (strcmp(run->optimizer, "sgd_sai") == 0) {
        e.name = OPTIM_SGD_SAI;
        e.momentum = 0.9;
    } else {
        fail_msg("no published numbers for %s", run->optimizer);
    }
    return e;
}

static void must_be(const char *name, const char *key, double value, double expected) {
    if (value != expected) fail_msg("%s: %s is %.9g, expected %.9g", name, key, value, expected);
}

static void check_optimizer(const char *name, const OptimConfig *c, const OptimConfig *e) {
    must_be(name, "optimizer.name", c->name, e->name);
    if (e->name == OPTIM_SGD_SAI) /* its rate was not published */
        assert_true(c->learning_rate > 0);
    else
        must_be(name, "learning_rate", c->learning_rate, e->learning_rate);
    must_be(name, "embedding_lr", c->embedding_lr, e->embedding_lr);
    must_be(name, "lm_head_lr", c->lm_head_lr, e->lm_head_lr);
    must_be(name, "weight_decay", c->weight_decay, e->weight_decay);
    must_be(name, "cautious_weight_decay", c->cautious_weight_decay, e->cautious_weight_decay);
    must_be(name, "beta1", c->beta1, e->beta1);
    must_be(name, "beta2", c->beta2, e->beta2);
    must_be(name, "eps", c->eps, e->eps);
    must_be(name, "grad_clip", c->grad_clip, e->grad_clip);
    must_be(name, "gradient_scale", c->gradient_scale, e->gradient_scale);
    must_be(name, "gamma", c->gamma, e->gamma);
    must_be(name, "is_approx", c->is_approx, e->is_approx);
    must_be(name, "optimize_1d", c->optimize_1d, e->optimize_1d);
    must_be(name, "lr_1d", c->lr_1d, e->lr_1d);
    must_be(name, "betas_1d[0]", c->betas_1d[0], e->betas_1d[0]);
    must_be(name, "betas_1d[1]", c->betas_1d[1], e->betas_1d[1]);
    must_be(name, "weight_decay_1d", c->weight_decay_1d, e->weight_decay_1d);
    must_be(name, "muon_learning_rate", c->muon_learning_rate, e->muon_learning_rate);
    must_be(name, "muon_weight_decay", c->muon_weight_decay, e->muon_weight_decay);
    must_be(name, "muon_embeddings", c->muon_embeddings, e->muon_embeddings);
    must_be(name, "muon_beta2", c->muon_beta2, e->muon_beta2);
    must_be(name, "muon_scale", c->muon_scale, e->muon_scale);
    must_be(name, "split_qkv", c->split_qkv, e->split_qkv);
    must_be(name, "momentum", c->momentum, e->momentum);
    must_be(name, "nesterov", c->nesterov, e->nesterov);
    must_be(name, "ns_coefficients", c->ns_coefficients, e->ns_coefficients);
    must_be(name, "ns_steps", c->ns_steps, e->ns_steps);
    must_be(name, "ns_dtype", c->ns_dtype, e->ns_dtype);
}

static void check_model(const char *name, const GPT2Config *c, const struct Size *size) {
    must_be(name, "n_layer", c->n_layer, size->n_layer);
    must_be(name, "n_head", c->n_head, size->n_head);
    must_be(name, "n_embd", c->n_embd, size->n_embd);
    must_be(name, "block_size", c->block_size, 1024);
    must_be(name, "vocab_size", c->vocab_size, 50304);
    must_be(name, "bias", c->bias, false);
    must_be(name, "dropout", c->dropout, 0);
    must_be(name, "scale_attn_by_inverse_layer_idx", c->scale_attn_by_inverse_layer_idx, true);
}

static void check_data(const DataConfig *c, bool fineweb) {
    assert_string_equal(c->train,
                        fineweb ? "data/fineweb/edu100B/edu_fineweb_train_*.bin" : "data/openwebtext/train.bin");
    assert_string_equal(c->val, fineweb ? "data/fineweb/edu100B/edu_fineweb_val_*.bin" : "data/openwebtext/val.bin");
    assert_int_equal(c->order, fineweb ? ORDER_SHUFFLED : ORDER_RANDOM);
    assert_int_equal(c->seed, 5000);
}

static void check_training(const char *name, const Config *c, const struct Size *size) {
    assert_int_equal(c->schedule.name, SCHEDULE_COSINE);
    must_be(name, "warmup_iters", c->schedule.warmup_iters, 2000);
    must_be(name, "lr_decay_iters", c->schedule.lr_decay_iters, STEPS);
    must_be(name, "min_lr", c->schedule.min_lr, size->min_lr);
    must_be(name, "max_iters", c->train.max_iters, STEPS);
    must_be(name, "total_batch_size", c->train.total_batch_size, 480);
    must_be(name, "batch_size", c->train.batch_size, size->batch_size);
    must_be(name, "accumulation", c->train.gradient_accumulation_steps, size->accumulation);
    must_be(name, "batch", c->train.batch_size * PROCESSES * c->train.gradient_accumulation_steps, 480);
    must_be(name, "eval_interval", c->train.eval_interval, 1000);
    must_be(name, "eval_sequences", c->train.eval_sequences, 0);
    assert_int_equal(c->train.seed, 5000);
    char *out_dir = format_string("runs/%s", name);
    assert_string_equal(c->train.out_dir, out_dir);
    free(out_dir);
}

static void test_numbers_are_the_published_ones(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(runs); i++) {
        Run run = run_named(runs[i]);
        OptimConfig published = published_optimizer(&run);
        char *path = format_string("config/%s.json", runs[i]);
        Config config;
        Error error;
        if (!config_load(&config, path, 0, NULL, &error)) fail_msg("%s", error.text);
        if (!config_resolve(&config, PROCESSES, &error)) fail_msg("%s: %s", path, error.text);
        check_model(runs[i], &config.model, &sizes[run.size]);
        check_data(&config.data, run.fineweb);
        check_optimizer(runs[i], &config.optimizer, &published);
        check_training(runs[i], &config, &sizes[run.size]);
        free(path);
    }
}

static void check_modded_model(const char *name, const GPT2Config *c, const GPT2Config *e) {
    must_be(name, "n_layer", c->n_layer, 12);
    must_be(name, "n_head", c->n_head, e->n_head);
    must_be(name, "n_embd", c->n_embd, 768);
    must_be(name, "block_size", c->block_size, 1024);
    must_be(name, "vocab_size", c->vocab_size, e->vocab_size);
    must_be(name, "bias", c->bias, false);
    must_be(name, "scale_attn_by_inverse_layer_idx", c->scale_attn_by_inverse_layer_idx, false);
    must_be(name, "position", c->position, POSITION_ROPE);
    must_be(name, "rope_base", c->rope_base, 10000);
    must_be(name, "norm", c->norm, NORM_RMSNORM);
    must_be(name, "norm_gain", c->norm_gain, false);
    must_be(name, "norm_eps", c->norm_eps, e->norm_eps);
    must_be(name, "norm_embedding", c->norm_embedding, false);
    must_be(name, "qk_norm", c->qk_norm, e->qk_norm);
    must_be(name, "qk_norm_eps", c->qk_norm_eps, e->qk_norm_eps);
    must_be(name, "activation", c->activation, e->activation);
    must_be(name, "tie_embeddings", c->tie_embeddings, true);
    must_be(name, "attention_scale", c->attention_scale, 0);
    must_be(name, "attention_output_scale", c->attention_output_scale, e->attention_output_scale);
    must_be(name, "logit_softcap", c->logit_softcap, 0);
    must_be(name, "init", c->init, MODEL_INIT_TORCH);
    must_be(name, "zero_init_projections", c->zero_init_projections, e->zero_init_projections);
}

static void check_modded_run(const struct ModdedRun *run, const Config *c) {
    const char *name = run->name;
    check_modded_model(name, &c->model, &run->model);
    assert_string_equal(c->data.train, "data/fineweb/10B/fineweb_train_*.bin");
    assert_string_equal(c->data.val, "data/fineweb/10B/fineweb_val_*.bin");
    must_be(name, "order", c->data.order, ORDER_SEQUENTIAL);
    must_be(name, "optimizer.name", c->optimizer.name, OPTIM_MUON);
    must_be(name, "learning_rate", c->optimizer.learning_rate, run->learning_rate);
    must_be(name, "muon_learning_rate", c->optimizer.muon_learning_rate, run->muon_learning_rate);
    must_be(name, "muon_scale", c->optimizer.muon_scale, run->muon_scale);
    must_be(name, "muon_embeddings", c->optimizer.muon_embeddings, false);
    must_be(name, "split_qkv", c->optimizer.split_qkv, run->split_qkv);
    must_be(name, "momentum", c->optimizer.momentum, 0.95);
    must_be(name, "nesterov", c->optimizer.nesterov, true);
    must_be(name, "ns_steps", c->optimizer.ns_steps, 5);
    must_be(name, "weight_decay", c->optimizer.weight_decay, 0);
    must_be(name, "muon_weight_decay", c->optimizer.muon_weight_decay, 0);
    must_be(name, "beta1", c->optimizer.beta1, 0.9);
    must_be(name, "beta2", c->optimizer.beta2, 0.95);
    must_be(name, "eps", c->optimizer.eps, 1e-8);
    must_be(name, "grad_clip", c->optimizer.grad_clip, 0);
    must_be(name, "gradient_scale", c->optimizer.gradient_scale, 1);
    must_be(name, "schedule", c->schedule.name, SCHEDULE_TRAPEZOIDAL);
    must_be(name, "warmup_iters", c->schedule.warmup_iters, run->warmup_iters);
    must_be(name, "warmdown_iters", c->schedule.warmdown_iters, run->warmdown_iters);
    must_be(name, "min_lr", c->schedule.min_lr, 0);
    must_be(name, "max_iters", c->train.max_iters, run->max_iters);
    must_be(name, "tokens of a step", c->train.total_batch_size * c->model.block_size, 524288);
    must_be(name, "tokens of a validation", c->train.eval_sequences * c->model.block_size, 10485760);
    must_be(name, "eval_interval", c->train.eval_interval, run->eval_interval);
}

static void test_modded_numbers(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(modded_runs); i++) {
        char *path = format_string("config/%s.json", modded_runs[i].name);
        Config config;
        Error error;
        if (!config_load(&config, path, 0, NULL, &error)) fail_msg("%s", error.text);
        if (!config_resolve(&config, PROCESSES, &error)) fail_msg("%s: %s", path, error.text);
        check_modded_run(&modded_runs[i], &config);
        free(path);
    }
}

static OptimConfig track3_optimizer(const char *name) {
    OptimConfig e = default_optimizer();
    bool normuon = strcmp(name, "track3_normuon") == 0;
    if (strcmp(name, "track3_mars") == 0) { /* ours, but for what MARS publishes */
        e.name = OPTIM_MARS_ADAMW;
        e.learning_rate = 0.003, e.embedding_lr = 0.3, e.lm_head_lr = 0.003125, e.lr_1d = 0.01;
        e.weight_decay = 0.05, e.weight_decay_1d = 0, e.beta1 = 0.95, e.beta2 = 0.99, e.eps = 2e-16;
        e.gradient_scale = 1;
        return e;
    }
    e.name = normuon ? OPTIM_NORMUON : OPTIM_MUON;
    e.muon_learning_rate = normuon ? 0.035 : 0.025, e.muon_weight_decay = normuon ? 0.025 : 0.05;
    e.embedding_lr = normuon ? 0.3 : 0.7, e.lm_head_lr = normuon ? 0.003125 : 0.004;
    e.learning_rate = normuon ? 0.01 : 0.015, e.weight_decay = normuon ? 0 : 0.001;
    e.beta1 = 0.8, e.eps = 1e-10, e.grad_clip = 0, e.gradient_scale = 512 * 1024;
    e.muon_embeddings = false, e.split_qkv = true, e.muon_scale = MUON_SCALE_SPECTRAL;
    e.ns_coefficients = NS_COEFFICIENTS_CUBIC, e.ns_steps = 12;
    return e;
}

static void check_track3_model(const char *name, const GPT2Config *c) {
    must_be(name, "n_layer", c->n_layer, 12);
    must_be(name, "n_head", c->n_head, 6);
    must_be(name, "n_embd", c->n_embd, 768);
    must_be(name, "block_size", c->block_size, 1024);
    must_be(name, "vocab_size", c->vocab_size, 50304);
    must_be(name, "bias", c->bias, true);
    must_be(name, "dropout", c->dropout, 0);
    must_be(name, "scale_attn_by_inverse_layer_idx", c->scale_attn_by_inverse_layer_idx, false);
    must_be(name, "position", c->position, POSITION_ROPE_HALF);
    must_be(name, "rope_base", c->rope_base, 1024);
    must_be(name, "norm", c->norm, NORM_RMSNORM);
    must_be(name, "norm_gain", c->norm_gain, true);
    must_be(name, "norm_eps", c->norm_eps, 1.1920929e-07);
    must_be(name, "norm_embedding", c->norm_embedding, true);
    must_be(name, "qk_norm", c->qk_norm, true);
    must_be(name, "qk_norm_eps", c->qk_norm_eps, 1.1920929e-07);
    must_be(name, "activation", c->activation, ACTIVATION_RELU2);
    must_be(name, "tie_embeddings", c->tie_embeddings, false);
    must_be(name, "lm_head_bias", c->lm_head_bias, true);
    must_be(name, "attention_scale", c->attention_scale, 0.12);
    must_be(name, "attention_output_scale", c->attention_output_scale, 1);
    must_be(name, "logit_softcap", c->logit_softcap, 15);
    must_be(name, "init", c->init, MODEL_INIT_FAN_IN);
    must_be(name, "zero_init_projections", c->zero_init_projections, true);
    must_be(name, "zero_init_lm_head", c->zero_init_lm_head, true);
}

static void check_track3_training(const char *name, const Config *c) {
    assert_string_equal(c->data.train, "data/fineweb/10B/fineweb_train_*.bin");
    assert_string_equal(c->data.val, "data/fineweb/10B/fineweb_val_*.bin");
    must_be(name, "order", c->data.order, ORDER_SEQUENTIAL);
    must_be(name, "schedule", c->schedule.name, SCHEDULE_TRAPEZOIDAL);
    must_be(name, "warmup_iters", c->schedule.warmup_iters, strcmp(name, "track3_mars") == 0 ? 325 : 0);
    must_be(name, "share of the constant rate", c->train.max_iters - c->schedule.warmdown_iters, 0.3 * 3250);
    must_be(name, "min_lr", c->schedule.min_lr, 0);
    must_be(name, "max_iters", c->train.max_iters, 3250);
    must_be(name, "total_batch_size", c->train.total_batch_size, 512);
    must_be(name, "batch_size", c->train.batch_size, 64);
    must_be(name, "eval_interval", c->train.eval_interval, 125);
    must_be(name, "tokens of a validation", c->train.eval_sequences * c->model.block_size, 10485760);
    char *out_dir = format_string("runs/%s", name);
    assert_string_equal(c->train.out_dir, out_dir);
    free(out_dir);
}

static void test_track3_numbers(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(track3_runs); i++) {
        const char *name = track3_runs[i];
        OptimConfig expected = track3_optimizer(name);
        char *path = format_string("config/%s.json", name);
        Config config;
        Error error;
        if (!config_load(&config, path, 0, NULL, &error)) fail_msg("%s", error.text);
        if (!config_resolve(&config, PROCESSES, &error)) fail_msg("%s: %s", path, error.text);
        check_track3_model(name, &config.model);
        check_optimizer(name, &config.optimizer, &expected);
        check_track3_training(name, &config);
        free(path);
    }
}

/* ---- which runs there are ---- */

enum { RUN_COUNT = ARRAY_LENGTH(runs) + ARRAY_LENGTH(modded_runs) + ARRAY_LENGTH(track3_runs) };

/* Over the tables of runs, one after the other. */
static const char *run_name(size_t i) {
    if (i < ARRAY_LENGTH(runs)) return runs[i];
    i -= ARRAY_LENGTH(runs);
    return i < ARRAY_LENGTH(modded_runs) ? modded_runs[i].name : track3_runs[i - ARRAY_LENGTH(modded_runs)];
}

static bool is_run(const char *name) {
    for (size_t i = 0; i < RUN_COUNT; i++)
        if (strcmp(run_name(i), name) == 0) return true;
    return false;
}

static void test_no_config_is_left_out(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("config/*.json", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *name = checked_strdup(files.gl_pathv[i] + strlen("config/"));
        name[strlen(name) - strlen(".json")] = 0;
        if (strcmp(name, "quickstart") != 0 && strcmp(name, "quickstart_adamw") != 0 && strcmp(name, "finetune") != 0 &&
            !is_run(name))
            fail_msg("%s is in none of the tables", name);
        free(name);
    }
    assert_int_equal(files.gl_pathc, RUN_COUNT + 3);
    globfree(&files);
}

/* What run.sh --list shows of it is the first line of its file: a comment of one sentence. */
static void test_configs_say_what_they_are(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("config/*.json", 0, NULL, &files), 0);
    assert_int_equal(glob("config/base/*.json", GLOB_APPEND, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *text = test_read_file(files.gl_pathv[i], NULL), *end = strchr(text, '\n');
        if (strncmp(text, "// ", 3) != 0 || !end || end[-1] != '.')
            fail_msg("%s does not open by saying what it is", files.gl_pathv[i]);
        free(text);
    }
    globfree(&files);
}

/* A base holds what several runs share, and no run of its own. */
static void test_bases(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("config/base/*.json", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *path = files.gl_pathv[i];
        assert_run(
            test_run("[ $(grep -l '\"base\": \"\\(base/\\)*%s\"' config/*.json config/base/*.json | wc -l) -ge 2 ]",
                     path + strlen("config/base/")),
            0, "");
        Config config;
        Error error;
        assert_false(config_load(&config, path, 0, NULL, &error));
        assert_non_null(strstr(error.text, " is missing: "));
    }
    globfree(&files);
}

/* One flag makes a short trial of each: it is not refused for its warm-up. */
static void test_short_trials(void **state) {
    (void)state;
    char *const trials[] = {"--max_iters=1", "--max_iters=10"};
    for (size_t i = 0; i < ARRAY_LENGTH(runs); i++)
        for (size_t k = 0; k < ARRAY_LENGTH(trials); k++) {
            Config config;
            Error error;
            char *path = format_string("config/%s.json", runs[i]);
            if (!config_load(&config, path, 1, &trials[k], &error)) fail_msg("%s", error.text);
            assert_int_equal(config.schedule.warmup_iters, 0);
            free(path);
        }
}

/* Those that people know: "scripts/run_OPTIMIZER_SIZE.sh". For all other runs there is run.sh. */
static const char *const script_optimizers[] = {"mars", "adamw", "muon", "mars_m", "moonlight"};
enum { SCRIPT_SIZES = 3, SCRIPT_COUNT = SCRIPT_SIZES * ARRAY_LENGTH(script_optimizers) };

static void test_which_scripts_there_are(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("scripts/run_*.sh", 0, NULL, &files), 0);
    assert_int_equal(files.gl_pathc, SCRIPT_COUNT);
    for (size_t i = 0; i < files.gl_pathc; i++) assert_int_equal(access(files.gl_pathv[i], X_OK), 0);
    globfree(&files);
}

/* ---- what the scripts do ---- */

/* A tree with the scripts and configs, empty data, and stand-ins that print how they were called. The trainer answers
 * --print_config itself. */
static void make_tree(void) {
    char *trainer = test_program("train_gpt2");
    CommandResult *result = test_run(
        "set -e; tree=%s/tree; rm -rf $tree; mkdir -p $tree/config $tree/bin $tree/elsewhere;"
        "mkdir -p $tree/data/openwebtext $tree/data/fineweb/edu100B $tree/data/fineweb/10B; cp -r scripts "
        "$tree; cp -r config/*.json config/base $tree/config;"
        "touch $tree/data/openwebtext/train.bin $tree/data/openwebtext/val.bin;"
        "touch $tree/data/fineweb/edu100B/edu_fineweb_train_000001.bin;"
        "touch $tree/data/fineweb/edu100B/edu_fineweb_val_000000.bin;"
        "touch $tree/data/fineweb/10B/fineweb_train_000001.bin $tree/data/fineweb/10B/fineweb_val_000000.bin;"
        "for name in mpirun srun train_gpt2; do"
        "  printf '#!/bin/bash\\nprintf \"<%%%%s>\" %%s \"$@\"\\n' $name >$tree/bin/$name; chmod +x "
        "$tree/bin/$name; done;"
        "mv $tree/bin/train_gpt2 $tree; sed -i '2i case \" $* \" in *\" --print_config \"*) exec \"%s\" \"$@\" "
        ";; esac' $tree/train_gpt2;"
        "cp $tree/train_gpt2 $tree/bin/trainer;"
        "printf '#!/bin/bash\\necho make >>%%s\\ncp bin/trainer train_gpt2\\n' $tree/made >$tree/bin/make;"
        "chmod +x $tree/bin/make",
        test_folder(), trainer);
    assert_run(result, 0, "");
    free(trainer);
}

/* Runs a command in the tree, where the stand-ins are found first. */
static void run_in_tree(const char *command, int status, const char *text) {
    assert_run(test_run("cd %s/tree && unset NPROC MPIRUN && PATH=$PWD/bin:$PATH && %s", test_folder(), command),
               status, text);
}

static void test_each_script_starts_its_run(void **state) {
    (void)state;
    make_tree();
    for (size_t i = 0; i < SCRIPT_COUNT; i++) {
        const char *optimizer = script_optimizers[i / SCRIPT_SIZES], *size = sizes[i % SCRIPT_SIZES].name;
        char *command = format_string("scripts/run_%s_%s.sh --out_dir='a  b' --batch_size=3", optimizer, size);
        char *expected = format_string(
            "<mpirun><-np><8><./train_gpt2><config/%s_%s.json><--out_dir=a  b><--batch_size=3>", size, optimizer);
        run_in_tree(command, 0, expected);
        free(command);
        free(expected);
    }
}

static void test_run_starts_every_run(void **state) {
    (void)state;
    make_tree();
    for (size_t i = 0; i < RUN_COUNT; i++) {
        char *command = format_string("NPROC=1 scripts/run.sh %s", run_name(i));
        char *expected = format_string("<train_gpt2><config/%s.json>", run_name(i));
        run_in_tree(command, 0, expected);
        free(command);
        free(expected);
    }
}

static void test_processes_and_launcher(void **state) {
    (void)state;
    make_tree();
    run_in_tree("NPROC=3 scripts/run.sh small_mars", 0, "<mpirun><-np><3><./train_gpt2><config/small_mars.json>");
    run_in_tree("NPROC=1 scripts/run.sh quickstart --data.train='elsewhere' --val='bin/m*'", 0,
                "<train_gpt2><config/quickstart.json><--data.train=elsewhere><--val=bin/m*>");
    run_in_tree("NPROC=1 scripts/run_muon_small.sh", 0, "<train_gpt2><config/small_muon.json>");
    run_in_tree("NPROC=16 MPIRUN='mpirun --hostfile my_hosts  -x A' scripts/run.sh xl_mars --train.seed=1", 0,
                "<mpirun><--hostfile><my_hosts><-x><A><-np><16><./train_gpt2><config/xl_mars.json><--train.seed=1>");
    run_in_tree("MPIRUN=srun scripts/run.sh xl_mars", 0, "<srun><-np><8><./train_gpt2>");
    run_in_tree("MPIRUN=no_such_launcher scripts/run.sh xl_mars", 1, "8 processes need no_such_launcher");
    run_in_tree("cd elsewhere && bash ../scripts/run_mars_small.sh", 0, "<config/small_mars.json>");
    run_in_tree("printf '#!/bin/bash\\nexit 7\\n' >bin/mpirun; scripts/run.sh small_mars", 7, "");
}

static void test_builds_what_is_missing(void **state) {
    (void)state;
    make_tree();
    run_in_tree("scripts/run.sh small_mars && ! [ -e made ]", 0, "<mpirun><-np>");
    run_in_tree("rm train_gpt2 && scripts/run.sh small_mars && cat made", 0, "<config/small_mars.json>make");
    run_in_tree("rm train_gpt2 && printf '#!/bin/bash\\nexit 2\\n' >bin/make; scripts/run.sh small_mars", 2, "");
}

static void test_data_that_is_missing(void **state) {
    (void)state;
    make_tree();
    run_in_tree("mv data/openwebtext/val.bin v.bin; scripts/run_mars_small.sh", 1,
                "there is no data/openwebtext/val.bin, which the run reads as data.val; bash "
                "data/openwebtext/prepare.sh makes it");
    run_in_tree("scripts/run_mars_small.sh --val=v.bin", 0, "<mpirun>");
    run_in_tree("scripts/run_mars_small.sh --data.val=v.bin", 0, "<mpirun>");
    run_in_tree("scripts/run_mars_small.sh --data.val=w.bin", 1, "there is no w.bin, which the run reads as data.val");
    run_in_tree("rm data/fineweb/edu100B/*_train_*; scripts/run.sh xl_mars_m_fw", 1,
                "there is no data/fineweb/edu100B/edu_fineweb_train_*.bin, which the run reads as data.train; "
                "bash data/fineweb/download.sh --edu100 makes it");
    run_in_tree("scripts/run.sh quickstart", 1, "bash scripts/quickstart.sh makes it");
}

static void test_wrong_usage(void **state) {
    (void)state;
    make_tree();
    run_in_tree("scripts/run.sh", 2, "run.sh: give the name of a run");
    run_in_tree("scripts/run.sh small_adam", 2, "there is no config/small_adam.json; run.sh --list shows the runs");
    run_in_tree("scripts/run.sh --seed=1 small_adamw", 2,
                "the name of a run comes before --seed=1; run.sh --list shows");
    run_in_tree("scripts/run.sh small_mars --batch=3", 2, "command line: there is no key 'batch'; the nearest is");
    run_in_tree("NPROC=0 scripts/run.sh small_mars", 2, "NPROC=0 is no number of processes");
    run_in_tree("NPROC='2 3' scripts/run.sh small_mars", 2, "NPROC=2 3 is no number of processes");
    run_in_tree("scripts/run.sh --help", 0, "run.sh CONFIG_NAME [--key=value ...]:");
    run_in_tree("cd elsewhere && ../scripts/run_mars_small.sh --seed=1 --help", 0,
                "MPIRUN=\"mpirun --hostfile hosts\"");
}

/* A line for each run, with its name first; run.sh without a name shows the same on standard error. */
static void test_list_of_runs(void **state) {
    (void)state;
    make_tree();
    run_in_tree(
        "[ $(scripts/run.sh --list | wc -l) = $(ls config/*.json | wc -l) ] && scripts/run.sh --list 2>/dev/null", 0,
        "\nsmall_mars                 GPT-2 small (124M) on OpenWebText with MARS-AdamW: a run of the MARS paper ");
    run_in_tree("scripts/run.sh --list >a; scripts/run.sh 2>b; grep -v ^run.sh: b | diff a -", 0, "");
}

static void test_print_config_starts_nothing(void **state) {
    (void)state;
    make_tree();
    run_in_tree("scripts/run.sh small_mars_fw --print_config --n_layer=3 >a && ./train_gpt2 config/small_mars_fw.json "
                "--n_layer=3 --print_config | diff a - && cat a",
                0, "\"n_layer\": 3,\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_are_the_published_ones),
        cmocka_unit_test(test_modded_numbers),
        cmocka_unit_test(test_track3_numbers),
        cmocka_unit_test(test_no_config_is_left_out),
        cmocka_unit_test(test_configs_say_what_they_are),
        cmocka_unit_test(test_bases),
        cmocka_unit_test(test_short_trials),
        cmocka_unit_test(test_which_scripts_there_are),
        cmocka_unit_test(test_each_script_starts_its_run),
        cmocka_unit_test(test_run_starts_every_run),
        cmocka_unit_test(test_processes_and_launcher),
        cmocka_unit_test(test_builds_what_is_missing),
        cmocka_unit_test(test_data_that_is_missing),
        cmocka_unit_test(test_wrong_usage),
        cmocka_unit_test(test_list_of_runs),
        cmocka_unit_test(test_print_config_starts_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
