/* train_gpt2: trains GPT-2 as a JSON file describes.
 *
 *     ./train_gpt2 CONFIG.json [--key=value ...]
 *     mpirun -np 8 ./train_gpt2 CONFIG.json [--key=value ...]
 *     ./train_gpt2 CONFIG.json [--key=value ...] --print_config
 *
 * This file is the whole run, top to bottom: read the config, open the processes, the device, the data, the model and
 * the optimizer, start or resume, then step, evaluate and save until done. How each of these works is in its own
 * folder. It compiles as C17 and as C++. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_optim.h"
#include "checkpoint/start.h"
#include "comm/agree.h"
#include "comm/comm.h"
#include "config/config.h"
#include "data/data_sets.h"
#include "data/step_reader.h"
#include "eval/evaluate.h"
#include "eval/hellaswag_score.h"
#include "eval/sampler.h"
#include "kernels/autotune.h"
#include "kernels/backend.h"
#include "model/gpt2_memory.h"
#include "optim/optim.h"
#include "optim/schedule.h"
#include "report/run_log.h"
#include "report/setup.h"
#include "util/program.h"
#include "util/stop_signal.h"

typedef struct Trainer {
    Config config;
    char *config_json;
    Comm *comm;        /* between hosts */
    Comm *device_comm; /* between devices: the same on CPUs */
    Backend *be;
    GPT2 model;
    Optim *optim;
    DataSets data;
    StepReader reader; /* of the training set */
    Sampler *sampler;  /* rank 0's; NULL if no texts are written */
    RunLog log;
    Start start;
    char *algorithms;    /* of matmuls, as text for the next run; NULL on CPUs */
    int64_t step;        /* steps begun so far: the next one's number */
    int64_t steps_ended; /* those whose result is known: a GPU's are known a step later */
    Error unread;        /* why this process could not read; then all processes stop */
    bool has_failed;     /* some process could not read what it needs */
    int64_t saved_step;  /* of the newest checkpoint, or -1 */
    bool last_step_skipped;
} Trainer;

/* ---- opening: config, device, data, model ---- */

static void read_config(Trainer *t, int argc, char **argv) {
    Error error;
    config_require_file(argc, argv, t->comm->rank == 0);
    bool ok = config_read(&t->config, argv[1], argc - 2, argv + 2, &error);
    agree_or_end(t->comm, ok, EXIT_USAGE, &error);
    start_find(&t->start, &t->config, t->comm); /* weights come with their model */
    ok = config_check(&t->config, &error) && config_resolve(&t->config, t->comm->size, &error);
    agree_or_end(t->comm, ok, EXIT_USAGE, &error);
    t->config_json = config_to_json(&t->config);
    if (!agree_on_bytes(t->comm, t->config_json, strlen(t->config_json)))
        die_usage("%s: the config is not the same in all processes; expected the same files and command line; copy "
                  "them to every machine",
                  argv[1]);
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
        die_usage("%s: train.allow_tf32: TF32 is a mode of GPUs and the device is the CPU; set it to false",
                  config_where(&t->config, "train.allow_tf32 train.device"));
    Error error;
    BackendOptions options = {device, precision, train->threads, t->comm->local_rank, train->allow_tf32};
    options.threads = backend_threads(train->threads, t->comm->local_size);
    t->be = backend_open_with(&options, &error);
    const char *key = strcmp(device, "cuda") == 0 ? "train.device" : "train.precision"; /* a CPU may not support it */
    if (!t->be) die_usage("%s: %s: %s", config_where(&t->config, key), key, error.text);
    t->device_comm = comm_on_device(t->comm, t->be->stream, &error);
    if (!t->device_comm) die_usage("%d processes: %s", t->comm->size, error.text);
    backend_share_memory(t->be, t->device_comm->memory_sharers);
}

/* Sequences of a step that each process computes. */
static int sequences_per_process(const Trainer *t) { return t->config.train.total_batch_size / t->comm->size; }

static void open_data(Trainer *t) {
    const Config *c = &t->config;
    DataSetsOptions options;
    memset(&options, 0, sizeof options);
    options.train = c->data.train, options.val = c->data.val, options.hellaswag = c->data.hellaswag;
    options.order = c->data.order, options.seed = c->data.seed;
    options.block_size = c->model.block_size, options.vocab_size = c->model.vocab_size;
    options.train_sequences = sequences_per_process(t), options.val_sequences = c->train.batch_size;
    options.local_rank = t->comm->local_rank, options.local_size = t->comm->local_size;
    Error error;
    if (!data_sets_open(&t->data, &options, &error)) die("%s", error.text);
    int64_t windows = loader_window_count(t->data.val);
    if (c->train.eval_sequences > windows)
        die("train.eval_sequences: the validation set %s has only %" PRId64
            " sequences of %d tokens; expected at least %d; lower train.eval_sequences, or set it to 0 for all",
            c->data.val, windows, c->model.block_size, c->train.eval_sequences);
}

/* In parallel with a training pass, the reduce-scatter of gradients starts as soon as they are final, and the pass
 * waits for the weights of the previous step only where it reads them. These are callbacks, so that only the pass knows
 * the order of its layers and the place of their tensors. */
static void gradients_written(void *context, size_t begin, size_t end) {
    (void)end;
    optim_gradient_ready(((Trainer *)context)->optim, begin);
}

static void weights_needed(void *context, size_t begin, size_t end) {
    optim_wait_for_weights(((Trainer *)context)->optim, begin, end);
}

static void plan_sampler(Trainer *t) {
    bool is_writer = t->config.train.sample_interval > 0 && t->comm->rank == 0;
    Error error;
    if (is_writer) t->sampler = sampler_plan(&t->config, loader_origin(t->data.train)->folder, &t->model, &error);
    agree_or_end(t->comm, !is_writer || t->sampler, EXIT_USAGE, &error);
}

/* All memory is planned first and taken once: the model's and the optimizer's in one arena. */
static void open_model(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    bool training = !train->eval_only;
    Error error;
    gpt2_plan(&t->model, &t->config.model, t->be, train->batch_size, train->recompute, training);
    agree_or_end(t->comm, gpt2_weights_fit(&t->model, &error), EXIT_FAILED, &error);
    if (training) {
        t->optim = optim_plan(&t->config.optimizer, &t->model.table, t->be, t->device_comm, &t->model.arena, &error);
        if (!t->optim) die_usage("%s: %s", config_where(&t->config, "optimizer.ns_dtype"), error.text);
        if (train->norms_interval > 0) optim_plan_norms(t->optim, &t->model.arena);
        if (train->ema_start > 0) optim_plan_ema(t->optim, &t->model.arena);
    }
    plan_sampler(t);
    agree_or_end(t->comm, gpt2_memory_fits(&t->model, sequences_per_process(t), &error), EXIT_FAILED, &error);
    t->model.arena.separate = train->debug_alloc;
    gpt2_allocate(&t->model);
    if (!training) return;
    optim_start(t->optim, (OptimBuffers){t->model.params, t->model.weights, t->model.grads});
    t->log.totals.optimizer_state_bytes = (double)optim_info(t->optim)->state_bytes;
    t->comm->sum(t->comm, &t->log.totals.optimizer_state_bytes, 1);
}

static void start_or_resume(Trainer *t) {
    start_load(&t->start, &t->config, &t->model, t->optim);
    t->step = t->steps_ended = t->start.step;
    t->saved_step = t->start.resumed_from;
}

/* Rank 0 finds the algorithms, so that all ranks use the same. Only GPUs have several to compare. */
static void autotune_matmuls(Trainer *t) {
    if (!t->be->on_gpu) return;
    if (t->comm->rank == 0) {
        autotune_begin(t->be, t->start.algorithms);
        gpt2_autotune(&t->model);
        if (t->optim) optim_autotune(t->optim);
        t->algorithms = autotune_end(t->be);
    }
    t->algorithms = agree_on_text(t->comm, t->algorithms);
    Error error;
    if (!t->be->read_algorithms(t->be, t->algorithms, &error))
        die("this process has another GPU than process 0: %s", error.text);
}

static void open_log(Trainer *t) {
    t->log.max_iters = t->config.train.max_iters;
    t->comm->barrier(t->comm); /* every rank has read what it needs */
    if (t->comm->rank == 0) run_log_open(&t->log, &t->config, t->config_json, &t->start, &t->model, t->comm);
}

static int64_t tokens_per_step(const Trainer *t) {
    return (int64_t)t->config.train.total_batch_size * t->config.model.block_size;
}

/* Sequences that the run has seen before a step, of whatever batch sizes. */
static int64_t sequences_before(const Trainer *t, int64_t step) {
    return t->start.sequences + (step - t->start.step) * t->config.train.total_batch_size;
}

static int64_t tokens_seen(const Trainer *t) { return sequences_before(t, t->step) * t->config.model.block_size; }

static bool every(int interval, int64_t step) { return interval > 0 && step % interval == 0; }

/* ---- one step ---- */

/* Notes why this process could not read; an empty reason means that another process failed. */
static bool note_unread(Trainer *t, const char *key, const Error *reason) {
    if (reason->text[0]) error_set(&t->unread, "%s: %s", key, reason->text);
    return false;
}

/* Reads the tokens of the next step, and in the exact forms of MARS also those of the step after it. */
static bool read_step_tokens(Trainer *t) {
    double begun = seconds_now();
    Error reason;
    bool ok = step_reader_read(&t->reader, t->step, &reason);
    run_log_add_time(&t->log, seconds_now() - begun);
    rank_time_add_reading(&t->log.rank_time, seconds_now() - begun);
    return ok || note_unread(t, "data.train", &reason);
}

/* Brings a micro-step's batch to the device. */
static void prefetch_batch(Trainer *t, int64_t step, int micro) {
    const StepTokens *tokens = &t->reader.tokens[step % 2];
    int batch_size = t->config.train.batch_size, block_size = t->config.model.block_size;
    size_t at = (size_t)micro * (size_t)batch_size * (size_t)block_size;
    gpt2_prefetch(&t->model, tokens->inputs + at, tokens->targets + at, batch_size, block_size);
}

/* This process's gradient of the mean loss over the batch of step t->step + which. While a micro-step is computed, the
 * next one's batch is copied to the device. */
static void compute_gradient(Trainer *t, int which) {
    int64_t step = t->step + which;
    int last = t->config.train.gradient_accumulation_steps - 1;
    GPT2Pass pass;
    memset(&pass, 0, sizeof pass);
    pass.grads = optim_gradient(t->optim, which);
    pass.dloss = 1.0f / (float)tokens_per_step(t);
    pass.ignores_loss = which > 0; /* the next step reports it, with its own weights */
    pass.seed = t->config.train.seed;
    pass.context = t, pass.weights_needed = weights_needed;
    prefetch_batch(t, step, 0);
    for (int micro = 0; micro <= last; micro++) {
        if (micro < last) prefetch_batch(t, step, micro + 1);
        pass.accumulate = micro > 0;
        pass.first_sequence = sequences_before(t, step) + t->reader.offset + micro * t->config.train.batch_size;
        pass.gradients_written = micro == last ? gradients_written : NULL;
        gpt2_pass(&t->model, &pass);
    }
}

/* A gradient that is not finite changes nothing on any process; two such steps in a row end the run. The second
 * gradient of exact MARS does not count: the next step meets the same batch, which would count twice. */
static void report_skipped(Trainer *t, int64_t step, const OptimResult *result) {
    const char *name = t->model.table.tensors[result->nonfinite_tensor].name;
    run_log_skipped(&t->log, step, name);
    if (!t->last_step_skipped || result->of_next_batch) return;
    if (t->comm->rank == 0)
        die("the gradient of %s is not finite for the second step in a row; nothing was saved. A lower "
            "learning_rate, a longer warm-up or precision float32 may help",
            name);
    t->comm->barrier(t->comm); /* process 0 ends the job */
}

/* Reads the results of steps until `outstanding` steps are left without one. Returns the last result that it read. */
static OptimResult end_steps(Trainer *t, int64_t outstanding) {
    OptimResult result = {0.0, -1, false};
    while (t->step - t->steps_ended > outstanding) {
        result = optim_result(t->optim);
        bool skipped = result.nonfinite_tensor >= 0;
        if (skipped) report_skipped(t, t->steps_ended, &result);
        t->last_step_skipped = skipped && !result.of_next_batch;
        t->steps_ended++;
    }
    return result;
}

/* Reports the step that was begun last. */
static void log_step(Trainer *t, double loss, const OptimRates *rates, double grad_norm) {
    const Config *c = &t->config;
    DeviceSensors sensors;
    StepReport report;
    memset(&report, 0, sizeof report);
    report.step = t->step - 1, report.loss = loss, report.grad_norm = grad_norm, report.tokens = tokens_seen(t);
    report.lr = schedule_rate(&c->schedule, c->optimizer.learning_rate, report.step);
    if (t->comm->rank == 0 && t->be->read_sensors(t->be, &sensors)) report.sensors = &sensors;
    report.ms_slowest = rank_time_slowest(&t->log.rank_time, t->be, t->comm, t->log.steps, &report.slowest_rank);
    optim_rates_by_role(&c->optimizer, &t->model.table, rates, report.lr_by_role);
    run_log_step(&t->log, report, tokens_per_step(t), gpt2_flops_per_token(&t->model),
                 t->be->peak_flops * t->comm->size);
}

/* The average of the weights begins after ema_start steps, and each later step updates it, also a skipped one. */
static void update_ema(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    int64_t steps = t->step + 1;
    if (train->ema_start == 0 || steps < train->ema_start) return;
    optim_update_ema(t->optim, steps == train->ema_start ? 0.0 : train->ema_decay);
}

/* Only two things here wait for a GPU: logging a loss or norms, and taking the result of the previous step. */
static void train_step(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    double begun = seconds_now(), loss = 0.0;
    bool logged = t->step % train->log_interval == 0 || t->step + 1 == train->max_iters;
    bool has_norms = every(train->norms_interval, t->step);
    t->be->range_begin(t->be, "step");
    OptimRates rates = optim_rates(&t->config.optimizer, &t->config.schedule, t->step);
    gpt2_forget_loss(&t->model);
    rank_time_start(&t->log.rank_time, t->be, t->device_comm);
    for (int which = 0; which < optim_info(t->optim)->gradients; which++) compute_gradient(t, which);
    rank_time_stop(&t->log.rank_time, t->be, t->device_comm);
    t->be->stopwatch_start(t->be, STOPWATCH_OPTIMIZER);
    optim_step(t->optim, rates, has_norms);
    update_ema(t);
    t->be->stopwatch_stop(t->be, STOPWATCH_OPTIMIZER);
    t->step++;
    if (logged) loss = evaluate_mean_loss(&t->model, t->comm);
    OptimResult result = end_steps(t, logged || has_norms || !t->be->on_gpu ? 0 : 1);
    t->be->range_end(t->be);
    run_log_add_time(&t->log, seconds_now() - begun);
    run_log_count_step(&t->log, tokens_per_step(t));
    if (logged && result.nonfinite_tensor < 0)
        log_step(t, loss, &rates, result.grad_norm);
    else
        console_step(&t->log.console, t->step - 1, train->max_iters, NULL);
    if (has_norms && result.nonfinite_tensor < 0)
        run_log_norms(&t->log, t->step - 1, &t->model.table, optim_norms(t->optim));
}

/* ---- validation and checkpoints ---- */

/* Ends the job after an evaluation whose loss is not finite. */
static void refuse_loss(Trainer *t, double loss) {
    if (t->comm->rank == 0)
        die("the validation loss is %g: the weights are finite, but what is computed with them is not%s%s", loss,
            t->start.path[0] ? "; evaluate an earlier checkpoint than " : "", t->start.path);
    t->comm->barrier(t->comm); /* rank 0 ends the job */
}

/* Mean loss over the first `total` windows of the validation set. */
static bool validation_loss(Trainer *t, int64_t total, double *loss) {
    Error reason;
    if (t->optim) optim_wait_for_weights(t->optim, 0, t->model.table.length);
    if (evaluate_sequences(&t->model, t->data.val, total, t->config.train.batch_size, t->comm, loss, &reason))
        return true;
    t->has_failed = true;
    return note_unread(t, "data.val", &reason);
}

/* The same for the weights mixed with their average. */
static bool validation_loss_of_ema(Trainer *t, int64_t total, double *loss) {
    optim_show_ema(t->optim, t->config.train.ema_mix);
    bool ok = validation_loss(t, total, loss);
    optim_hide_ema(t->optim);
    return ok;
}

/* Validation, on eval_sequences windows (0: all), and HellaSwag. */
static bool evaluate(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    int64_t total = train->eval_sequences ? train->eval_sequences : loader_window_count(t->data.val);
    bool has_ema = t->optim && optim_has_ema(t->optim);
    double loss, ema_loss;
    if (!validation_loss(t, total, &loss) || (has_ema && !validation_loss_of_ema(t, total, &ema_loss))) return false;
    run_log_validation(&t->log, t->step, loss, has_ema ? &ema_loss : NULL, total, tokens_seen(t));
    if (train->eval_only && !isfinite(loss)) refuse_loss(t, loss);
    if (!t->data.hellaswag) return true;
    if (t->optim) optim_wait_for_weights(t->optim, 0, t->model.table.length);
    HellaswagScore score = hellaswag_score(&t->model, t->data.hellaswag, train->batch_size, t->comm);
    run_log_hellaswag(&t->log, t->step, score.accuracy, score.accuracy_norm, score.examples);
    return true;
}

/* Rank 0 writes a text; the other ranks wait for it at their next exchange. */
static void write_sample(Trainer *t) {
    if (!t->sampler) return;
    if (t->optim) optim_wait_for_weights(t->optim, 0, t->model.table.length);
    Error reason;
    char *text = sampler_text(t->sampler, t->step, &reason);
    if (text)
        run_log_sample(&t->log, t->step, t->config.train.sample_prompt, text);
    else
        warn("step %" PRId64 ": no text of the model: %s", t->step, reason.text);
    free(text);
}

static NO_RETURN void fail_to_save(const Trainer *t, const Error *error) {
    if (t->saved_step < 0)
        die("cannot save step %" PRId64 ": %s; nothing was saved before: choose another train.out_dir, or start again "
            "when the disk is put right",
            t->step, error->text);
    die("cannot save step %" PRId64 ": %s; step %" PRId64 " is saved: put the disk right and go on with "
        "--init_from=resume",
        t->step, error->text, t->saved_step);
}

static void save(Trainer *t) {
    const TrainConfig *train = &t->config.train;
    char path[CHECKPOINT_PATH_LENGTH];
    CheckpointSource source;
    memset(&source, 0, sizeof source);
    source.step = t->step;
    source.sequences = sequences_before(t, t->step);
    source.model = t->config.model;
    source.table = &t->model.table;
    source.config_json = t->config_json;
    checkpoint_from_optim(&source, t->config.optimizer.name, t->optim);
    source.tokens_folder = loader_origin(t->data.train)->folder;
    source.algorithms = t->algorithms;
    t->be->range_begin(t->be, "checkpoint");
    Error error;
    if (!checkpoint_save(&source, train->out_dir, train->keep_checkpoints, t->comm->rank == 0, path, &error))
        fail_to_save(t, &error);
    t->be->range_end(t->be);
    t->saved_step = t->step;
    run_log_checkpoint(&t->log, t->step, path);
}

/* ---- the run ---- */

/* All processes stop together, before the next step, as soon as one process was asked to stop, can no longer report the
 * run, or cannot read the tokens of that step. */
static bool agree_to_stop(Trainer *t, bool is_asked) {
    int stop[2] = {is_asked || metrics_failure(t->log.metrics),
                   t->step < t->config.train.max_iters && !read_step_tokens(t)};
    t->comm->maximum(t->comm, stop, 2);
    t->has_failed = stop[1] && !stop[0]; /* a run that was asked to stop needs no tokens */
    return stop[0] || stop[1];
}

static void train(Trainer *t) {
    const TrainConfig *c = &t->config.train;
    int validated = metrics_has_validation(t->log.metrics);
    t->comm->maximum(t->comm, &validated, 1); /* only rank 0 has read the file */
    int64_t begin = t->step;
    t->reader = step_reader_create(t->data.train, c->total_batch_size, t->comm->rank, t->comm->size,
                                   optim_info(t->optim)->gradients - 1, begin, sequences_before(t, begin));
    bool stopping = agree_to_stop(t, false); /* a run that is stopped while it starts makes one step */
    for (;;) {
        bool done = t->step >= c->max_iters;
        /* A stop saves at once, since its sender may soon kill the run. A resumed run does the validation. */
        bool saves = done || stopping || every(c->checkpoint_interval, t->step);
        bool due = done || (!stopping && every(c->eval_interval, t->step));
        if (due && !(t->step == begin && validated) && !evaluate(t)) stopping = true;
        if (saves || stopping) end_steps(t, 0); /* may end the run, which then saves nothing */
        if (t->step > begin && (saves || stopping)) save(t);
        bool writes = t->step > 0 && (done || every(c->sample_interval, t->step)) && !stopping;
        if (writes && !(t->step == begin && metrics_has_sample(t->log.metrics))) write_sample(t);
        if (done || stopping) break;
        if (t->step == begin) console_start(&t->log.console, t->step);
        train_step(t);
        stopping = agree_to_stop(t, stop_signal_came());
    }
}

/* Ends the job because a process could not read its data; the steps made are saved. */
static void fail_to_read(Trainer *t) {
    t->comm->barrier(t->comm);
    if (t->unread.text[0] && t->saved_step < 0) die("%s", t->unread.text);
    if (t->unread.text[0])
        die("%s; step %" PRId64 " is saved: put the file right and go on with --init_from=resume", t->unread.text,
            t->saved_step);
    t->comm->barrier(t->comm); /* a process that could not read ends the job */
}

static void run(Trainer *t) {
    double begun = seconds_now();
    const SetupReport setup = {&t->config, t->device_comm, t->be,       &t->model,
                               t->optim,   t->data.train,  t->data.val, &t->start};
    setup_print(&t->log.console, &setup);
    if (!t->config.train.eval_only)
        train(t);
    else if (evaluate(t))
        write_sample(t);
    bool done = !t->has_failed && (t->config.train.eval_only || t->step >= t->config.train.max_iters);
    t->log.totals.seconds = seconds_now() - begun;
    t->log.totals.optimizer_seconds = t->be->stopwatch_seconds(t->be, STOPWATCH_OPTIMIZER);
    run_log_end(&t->log, t->step, t->has_failed ? "failed" : done ? "done" : "stopped");
    if (t->has_failed) fail_to_read(t);
    run_log_goodbye(&t->log, t->step, done, &t->config.train);
}

static void close_all(Trainer *t) {
    metrics_close(t->log.metrics);
    if (t->optim) optim_close(t->optim);
    sampler_close(t->sampler);
    gpt2_free(&t->model);
    comm_close_on_device(t->device_comm, t->comm);
    data_sets_close(&t->data);
    t->be->close(t->be);
    start_free(&t->start);
    free(t->config_json);
    free(t->algorithms);
}

int main(int argc, char **argv) {
    static Trainer t;
    program_start("train_gpt2", argv);
    config_answer_questions(argc, argv);
    start_answer_print_config(argc, argv);
    stop_signal_listen();
    t.comm = comm_open();
    console_open(&t.log.console, t.comm->rank != 0, t.comm->size == 1);
    read_config(&t, argc, argv);
    open_device(&t);
    open_data(&t);
    open_model(&t);
    start_or_resume(&t);
    autotune_matmuls(&t);
    open_log(&t);
    run(&t);
    close_all(&t);
    t.comm->close(t.comm, EXIT_DONE);
    return EXIT_DONE;
}
