/* train_gpt2: trains GPT-2 as a JSON file describes.
 *
 *     ./train_gpt2 CONFIG.json [--key=value ...]
 *     mpirun -np 8 ./train_gpt2 CONFIG.json [--key=value ...]
 *
 * This file is the whole run, top to bottom: read the config, open the processes, the device, the data, the model and
 * the optimizer, start or resume, then step, evaluate and save until done. How each of these works is in its own
 * folder. It compiles as C17 and as C++. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "config/config.h"
#include "data/loader.h"
#include "kernels/backend.h"
#include "model/checkpoint_optim.h"
#include "model/gpt2.h"
#include "optim/optim.h"
#include "report/console.h"
#include "report/metrics.h"
#include "util/files.h"

typedef struct Trainer {
    Config config;
    char *config_json;
    Comm *comm;
    Backend *be;
    GPT2 model;
    Optim *optim;
    Loader *train_data, *val_data;
    Metrics *metrics; /* on process 0 */
    Console console;
    int64_t step;         /* updates asked for so far: the next step's number */
    int64_t resumed_from; /* step of the checkpoint this run goes on from, or -1 */
    bool last_step_skipped;
    double logged_ms; /* time of the steps since the last report */
    int logged_steps;
    RunReport report;
} Trainer;

/* ---- stopping: a signal asks, the step is finished, a checkpoint is written ---- */

static volatile sig_atomic_t stop_requested;

static void request_stop(int signal_number) {
    (void)signal_number;
    stop_requested = 1;
}

static void listen_for_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = request_stop;
    action.sa_flags = SA_RESTART;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags |= SA_RESETHAND; /* a second Ctrl-C ends the program at once */
    sigaction(SIGINT, &action, NULL);
}

/* All processes stop together as soon as one was asked to. */
static bool agree_to_stop(Trainer *t) {
    int stop = stop_requested;
    t->comm->maximum(t->comm, &stop, 1);
    return stop != 0;
}

/* ---- opening: config, device, data, model ---- */

static void print_usage(FILE *file) {
    fprintf(file, "usage: train_gpt2 CONFIG.json [--key=value ...]\n"
                  "       mpirun -np N train_gpt2 CONFIG.json [--key=value ...]\n"
                  "       train_gpt2 --help | --version\n");
}

/* --help and --version are answered before anything is opened. */
static void answer_questions(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--version") == 0) {
            printf("train_gpt2 (mars.c) %s\n", MARS_VERSION);
            exit(EXIT_DONE);
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_usage(stdout);
            config_print_help(stdout);
            exit(EXIT_DONE);
        }
    }
}

static void read_config(Trainer *t, int argc, char **argv) {
    Error error;
    if (argc < 2 || argv[1][0] == '-') {
        if (t->comm->rank == 0) print_usage(stderr);
        die_usage("the first argument must be a config file; --help lists what it may hold");
    }
    if (!config_load(&t->config, argv[1], argc - 2, argv + 2, &error)) die_usage("%s", error.text);
    if (!config_settle(&t->config, t->comm->size, &error)) die_usage("%s", error.text);
    t->config_json = config_to_json(&t->config);
}

static void open_device(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    const char *device = train->device == DEVICE_AUTO  ? backend_auto_device()
                         : train->device == DEVICE_CPU ? "cpu"
                                                       : "cuda";
    DType precision = train->precision == PRECISION_AUTO      ? backend_auto_precision(device)
                      : train->precision == PRECISION_FLOAT32 ? DTYPE_FLOAT32
                                                              : DTYPE_BFLOAT16;
    if (train->allow_tf32 && strcmp(device, "cpu") == 0)
        die_usage("train.allow_tf32: TF32 is a mode of GPUs and the device is the CPU; leave it false");
    Error error;
    t->be = backend_open(device, precision,
                         train->threads ? train->threads : backend_default_threads(t->comm->local_size), &error);
    if (!t->be) die_usage("train.device, train.precision: %s", error.text);
}

static Loader *open_loader(Trainer *t, const char *pattern, DataOrder order, const char *key) {
    const GPT2Config *model = &t->config.model;
    LoaderOptions options = {order, t->config.data.seed, model->block_size, model->vocab_size,
                             t->config.train.batch_size};
    Loader *loader;
    Error error;
    if (!loader_open(&loader, pattern, &options, &error)) die("%s: %s", key, error.text);
    return loader;
}

static void open_data(Trainer *t) {
    const DataConfig *data = &t->config.data;
    t->train_data = open_loader(t, data->train, data->order, "data.train");
    t->val_data = open_loader(t, data->val, ORDER_SEQUENTIAL, "data.val");
    int64_t windows = loader_window_count(t->val_data);
    if (t->config.train.eval_sequences > windows)
        die("train.eval_sequences: the validation set %s has only %lld sequences of %d tokens", data->val,
            (long long)windows, t->config.model.block_size);
}

static void open_model(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    gpt2_create(&t->model, &t->config.model, t->be, train->batch_size, train->recompute, !train->eval_only);
    if (train->eval_only) return;
    Error error;
    OptimBuffers buffers = {t->model.params, t->model.weights, t->model.grads};
    t->optim = optim_open(&t->config.optimizer, &t->model.table, buffers, t->be, t->comm, &error);
    if (!t->optim) die_usage("optimizer: %s", error.text);
    t->report.optimizer_state_bytes = (double)optim_state_bytes(t->optim);
    t->comm->sum(t->comm, &t->report.optimizer_state_bytes, 1);
}

/* ---- starting: from scratch, from a checkpoint, from somebody's weights ---- */

static void load_checkpoint(Trainer *t, const char *path) {
    Error error;
    Checkpoint checkpoint;
    if (!checkpoint_open(&checkpoint, path, &error)) die("%s", error.text);
    if (!gpt2_load(&t->model, &checkpoint.model, &error)) die("%s", error.text);
    t->step = t->resumed_from = checkpoint.step;
    if (t->optim && !checkpoint_into_optim(&checkpoint, &t->model.table, t->config.optimizer.name, t->optim, &error))
        die("%s", error.text);
    checkpoint_close(&checkpoint);
}

static void load_weights(Trainer *t, const char *path) {
    Error error;
    SafetensorsFile file;
    if (!checkpoint_open_weights(&file, path, &error)) die("train.init_from: %s", error.text);
    if (!gpt2_load(&t->model, &file, &error)) die("train.init_from: %s", error.text);
    safetensors_close(&file);
}

/* Process 0 looks for the newest whole checkpoint and tells the others, so that all load the same one. The path is
 * empty where there is none. */
static void find_checkpoint(Trainer *t, char path[CHECKPOINT_PATH_LENGTH]) {
    memset(path, 0, CHECKPOINT_PATH_LENGTH);
    const char *out_dir = t->config.train.out_dir;
    if (t->comm->rank == 0 && checkpoint_exists(out_dir)) {
        Error error;
        Checkpoint checkpoint;
        if (!checkpoint_open_newest(&checkpoint, out_dir, &error)) die("%s", error.text);
        snprintf(path, CHECKPOINT_PATH_LENGTH, "%s", checkpoint.path);
        checkpoint_close(&checkpoint);
    }
    t->comm->broadcast(t->comm, path, CHECKPOINT_PATH_LENGTH);
}

/* A run that starts anew must not mix with an older one's checkpoints. */
static void check_out_dir(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    if (t->comm->rank != 0 || train->eval_only || train->overwrite || !checkpoint_exists(train->out_dir)) return;
    die("train.out_dir: %s holds the checkpoints of an earlier run; resume it with --init_from=resume, replace it "
        "with --overwrite=true, or choose another folder",
        train->out_dir);
}

/* Once nothing that is read at the start can fail any more, and no other run writes to the folder. */
static void remove_old_checkpoints(Trainer *t) {
    char *old = format_string("%s/checkpoints", t->config.train.out_dir);
    Error error;
    if (!files_remove_tree(old, &error)) die("train.out_dir: %s", error.text);
    free(old);
}

static void start_or_resume(Trainer *t) {
    const char *from = t->config.train.init_from, *out_dir = t->config.train.out_dir;
    bool resume = strcmp(from, "resume") == 0, may_resume = resume || strcmp(from, "auto") == 0;
    char path[CHECKPOINT_PATH_LENGTH] = "";
    t->resumed_from = -1;
    if (may_resume) find_checkpoint(t, path);
    if (resume && !path[0]) die("train.init_from is \"resume\", but %s holds no checkpoint", out_dir);
    if (path[0]) {
        load_checkpoint(t, path);
        return;
    }
    check_out_dir(t);
    if (may_resume || strcmp(from, "scratch") == 0)
        gpt2_init_weights(&t->model, t->config.train.seed);
    else
        load_weights(t, from);
}

static void open_reports(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    t->comm->barrier(t->comm); /* every process has read what it needs */
    if (t->comm->rank != 0) return;
    Error error;
    MetricsMode mode = train->eval_only ? METRICS_APPEND : t->resumed_from >= 0 ? METRICS_RESUME : METRICS_NEW;
    if (!files_make_folders(train->out_dir, &error)) die("train.out_dir: %s", error.text);
    if (!metrics_open(&t->metrics, train->out_dir, mode, t->resumed_from, &error)) die("train.out_dir: %s", error.text);
    if (mode == METRICS_NEW) remove_old_checkpoints(t);
    metrics_start(t->metrics, t->config_json, t->model.table.parameters, t->be->device, dtype_name(t->be->activation),
                  t->comm->size, t->be->threads, t->resumed_from);
}

static int64_t tokens_per_step(const Trainer *t) {
    return (int64_t)t->config.train.total_batch_size * t->config.model.block_size;
}

static void print_setup(Trainer *t) {
    const GPT2Config *m = &t->config.model;
    const TrainConfig *train = &t->config.train;
    Console *c = &t->console;
    char parameters[32], tokens[32], val[32], step[32];
    console_count((int64_t)t->model.table.parameters, parameters, sizeof parameters);
    console_count(loader_token_count(t->train_data), tokens, sizeof tokens);
    console_count(loader_token_count(t->val_data), val, sizeof val);
    console_count(tokens_per_step(t), step, sizeof step);
    console_line(c, "train_gpt2 (mars.c) %s", MARS_VERSION);
    console_row(c, "model", "%d layers, %d heads, %d channels, %d tokens, vocabulary %d: %s parameters", m->n_layer,
                m->n_head, m->n_embd, m->block_size, m->vocab_size, parameters);
    console_row(c, "data", "%s training tokens in %d file(s), %s validation tokens", tokens,
                loader_file_count(t->train_data), val);
    console_row(c, "device", "%s: %s", t->be->name, t->be->device);
    console_row(c, "processes", "%d x %d threads, message passing: %s", t->comm->size, t->be->threads,
                t->comm->transport);
    console_row(c, "step", "%d sequences (%s tokens) = %d x %d micro-steps x %d processes", train->total_batch_size,
                step, train->batch_size, train->gradient_accumulation_steps, t->comm->size);
    if (t->optim && optim_wants_next_gradient(t->optim))
        console_row(c, "optimizer", "%s, exact: a second gradient each step, %.2f GB more and twice the time",
                    optim_names[t->config.optimizer.name], (double)optim_exact_bytes(t->optim) * 1e-9);
    else if (t->optim)
        console_row(c, "optimizer", "%s", optim_names[t->config.optimizer.name]);
    console_row(
        c, "memory", "weights %.2f GB, gradients %.2f, optimizer %.2f, activations %.2f, workspace %.2f",
        (double)arena_group_bytes(&t->model.arena, "weights") * 1e-9,
        (double)arena_group_bytes(&t->model.arena, "gradients") * 1e-9,
        t->optim ? (double)optim_state_bytes(t->optim) * 1e-9 : 0.0,
        (double)arena_group_bytes(&t->model.arena, "activations") * 1e-9,
        (double)(arena_group_bytes(&t->model.arena, "workspace") + (t->optim ? optim_workspace_bytes(t->optim) : 0)) *
            1e-9);
    if (t->resumed_from >= 0)
        console_row(c, "output", "%s, resumed from step %lld", train->out_dir, (long long)t->resumed_from);
    else
        console_row(c, "output", "%s, started from %s", train->out_dir,
                    strcmp(train->init_from, "auto") == 0 ? "scratch" : train->init_from);
}

/* ---- one step ---- */

/* Where micro-step `micro` of this process begins in the run's sequence of sequences. */
static int64_t first_sequence(const Trainer *t, int64_t step, int micro) {
    const TrainConfig *train = &t->config.train;
    return step * train->total_batch_size + ((int64_t)micro * t->comm->size + t->comm->rank) * train->batch_size;
}

/* Micro-step `micro` of step `step`; behind the last one comes, in the exact forms of MARS too, the step after this. */
static void next_batch(Trainer *t, int64_t step, int micro, const int32_t **inputs, const int32_t **targets) {
    const TrainConfig *train = &t->config.train;
    Error error;
    if (!loader_batch(t->train_data, first_sequence(t, step, micro), train->batch_size, inputs, targets, &error))
        die("data.train: %s", error.text);
    bool last = micro + 1 == train->gradient_accumulation_steps;
    loader_prefetch(t->train_data, last ? first_sequence(t, t->step + 1, 0) : first_sequence(t, step, micro + 1),
                    train->batch_size);
}

/* This process's gradient of the mean loss over the batch of a step goes where the optimizer wants it. */
static void compute_gradient(Trainer *t, int64_t step) {
    const TrainConfig *train = &t->config.train;
    t->model.grads = optim_gradients(t->optim);
    for (int micro = 0; micro < train->gradient_accumulation_steps; micro++) {
        const int32_t *inputs, *targets;
        next_batch(t, step, micro, &inputs, &targets);
        gpt2_forward_backward(&t->model, inputs, targets, train->batch_size, t->config.model.block_size,
                              1.0f / (float)tokens_per_step(t), micro > 0);
    }
}

/* Sums a loss over processes and divides by the number of tokens. */
static double mean_loss(Trainer *t) {
    int64_t count;
    double sums[2];
    sums[0] = gpt2_take_loss(&t->model, &count);
    sums[1] = (double)count;
    t->comm->sum(t->comm, sums, 2);
    return sums[0] / sums[1];
}

/* A gradient that is not finite changes nothing, on any process; two in a row end the run. The second gradient of exact
 * MARS is no other than the next step's: it would count twice. */
static void report_skipped(Trainer *t, const OptimResult *result) {
    const char *name = t->model.table.tensors[result->nonfinite_tensor].name;
    metrics_skipped(t->metrics, t->step, name);
    console_line(&t->console, "step %6lld skipped: the gradient of %s is not finite", (long long)t->step, name);
    if (!t->last_step_skipped || result->of_next_batch) return;
    if (t->comm->rank == 0)
        die("the gradient of %s is not finite for the second step in a row; nothing was saved. A lower "
            "learning_rate, a longer warm-up or precision float32 may help",
            name);
    t->comm->barrier(t->comm); /* process 0 ends the job */
}

static void train_step(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    double begun = seconds_now();
    OptimRates rates = optim_rates(&t->config.optimizer, &t->config.schedule, t->step);
    compute_gradient(t, t->step);
    double loss = mean_loss(t);
    if (optim_wants_next_gradient(t->optim)) {
        int64_t tokens;
        optim_hold_gradient(t->optim);
        compute_gradient(t, t->step + 1);
        gpt2_take_loss(&t->model, &tokens); /* it is the next step's to report, with its own weights */
    }
    double computed = seconds_now();
    OptimResult result = optim_step(t->optim, rates);
    t->report.optimizer_seconds += seconds_now() - computed;
    t->report.train_seconds += seconds_now() - begun;
    t->report.train_tokens += tokens_per_step(t);
    t->logged_ms += (seconds_now() - begun) * 1e3;
    t->logged_steps++;
    bool skipped = result.nonfinite_tensor >= 0, last = t->step + 1 == train->max_iters;
    bool logged = !skipped && (t->step % train->log_interval == 0 || last);
    double ms = t->logged_ms / t->logged_steps;
    StepReport report = {t->step,
                         loss,
                         rates.learning_rate,
                         result.grad_norm,
                         (t->step + 1) * tokens_per_step(t),
                         ms,
                         (double)tokens_per_step(t) / ms * 1e3,
                         -1.0};
    if (skipped) report_skipped(t, &result);
    if (logged) {
        metrics_train(t->metrics, &report);
        t->logged_ms = 0.0;
        t->logged_steps = 0;
    }
    console_step(&t->console, t->step, train->max_iters, logged ? &report : NULL);
    t->last_step_skipped = skipped && !result.of_next_batch;
    t->step++;
}

/* ---- validation and checkpoints ---- */

/* Mean loss over the first eval_sequences windows of the validation set (0: all), batches dealt out to processes. */
static void evaluate(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    int T = t->config.model.block_size;
    int64_t total = train->eval_sequences ? train->eval_sequences : loader_window_count(t->val_data);
    int64_t batches = ceil_div(total, train->batch_size);
    for (int64_t i = t->comm->rank; i < batches; i += t->comm->size) {
        int64_t first = i * train->batch_size;
        const int32_t *inputs, *targets;
        Error error;
        int count = (int)min_i64(train->batch_size, total - first);
        if (!loader_batch(t->val_data, first, count, &inputs, &targets, &error)) die("data.val: %s", error.text);
        int64_t next = first + (int64_t)t->comm->size * train->batch_size;
        if (next < total) loader_prefetch(t->val_data, next, (int)min_i64(train->batch_size, total - next));
        gpt2_forward(&t->model, inputs, targets, count, T);
    }
    double loss = mean_loss(t);
    metrics_validation(t->metrics, t->step, loss, t->step * tokens_per_step(t));
    console_line(&t->console, "step %6lld/%d | validation loss %.4f (%lld sequences)", (long long)t->step,
                 train->max_iters, loss, (long long)total);
}

static void save(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    char folder[CONFIG_STRING_LENGTH], path[CHECKPOINT_PATH_LENGTH];
    files_folder_of(t->config.data.train, folder, sizeof folder); /* where prepare_data left tokens.json */
    CheckpointSource source;
    memset(&source, 0, sizeof source);
    source.step = t->step;
    source.model = t->config.model;
    source.table = &t->model.table;
    source.config_json = t->config_json;
    checkpoint_from_optim(&source, t->config.optimizer.name, t->optim);
    source.tokens_folder = folder;
    Error error;
    if (!checkpoint_save(&source, train->out_dir, train->keep_checkpoints, t->comm->rank == 0, path, &error))
        die("cannot save step %lld: %s", (long long)t->step, error.text);
    metrics_checkpoint(t->metrics, t->step, path);
    console_line(&t->console, "step %6lld/%d | saved %s", (long long)t->step, train->max_iters, path);
}

/* ---- the run ---- */

static bool every(int interval, int64_t step) { return interval > 0 && step % interval == 0; }

static void train(Trainer *t) {
    const TrainConfig *c = &t->config.train;
    bool stopping = false;
    int validated = metrics_has_validation(t->metrics);
    t->comm->maximum(t->comm, &validated, 1); /* only process 0 has read the file */
    int64_t begin = t->step;
    for (;;) {
        bool done = t->step >= c->max_iters;
        /* A stop saves at once: whoever sent the signal may not be patient. A resumed run makes up for the validation.
         * */
        bool due = done || (!stopping && every(c->eval_interval, t->step));
        if (due && !(t->step == begin && validated)) evaluate(t);
        if (t->step > begin && (done || stopping || every(c->checkpoint_interval, t->step))) save(t);
        if (done || stopping) break;
        if (t->step == begin) console_start(&t->console, t->step);
        train_step(t);
        stopping = agree_to_stop(t);
    }
}

static void run(Trainer *t) {
    double begun = seconds_now();
    print_setup(t);
    if (t->config.train.eval_only)
        evaluate(t);
    else
        train(t);
    bool done = t->config.train.eval_only || t->step >= t->config.train.max_iters;
    char time[32];
    console_duration(seconds_now() - begun, time, sizeof time);
    t->report.reason = done ? "done" : "stopped";
    t->report.seconds = seconds_now() - begun;
    metrics_end(t->metrics, t->step, &t->report);
    if (done)
        console_line(&t->console, "done in %s; metrics in %s/metrics.jsonl", time, t->config.train.out_dir);
    else
        console_line(&t->console, "stopped by a signal after %s; go on with --init_from=resume", time);
}

static void close_all(Trainer *t) {
    metrics_close(t->metrics);
    if (t->optim) optim_close(t->optim);
    gpt2_free(&t->model);
    loader_close(t->train_data);
    loader_close(t->val_data);
    t->be->close(t->be);
    free(t->config_json);
}

int main(int argc, char **argv) {
    static Trainer t;
    base_set_program("train_gpt2");
    answer_questions(argc, argv);
    listen_for_signals();
    t.comm = comm_open();
    console_open(&t.console, t.comm->rank != 0, t.comm->size == 1);
    read_config(&t, argc, argv);
    open_device(&t);
    open_data(&t);
    open_model(&t);
    start_or_resume(&t);
    open_reports(&t);
    run(&t);
    close_all(&t);
    t.comm->close(t.comm, EXIT_DONE);
    return EXIT_DONE;
}
