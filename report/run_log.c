/* run_log.c: see run_log.h. */
#include "report/run_log.h"

#include <inttypes.h>
#include <stdlib.h>

#include "util/files.h"
#include "util/format.h"

void run_log_open(RunLog *log, const Config *config, const char *config_json, const Start *start, const GPT2 *model,
                  const Comm *comm) {
    const TrainConfig *train = &config->train;
    Error error;
    int64_t resumed_from = start->resumed_from;
    MetricsMode mode = train->eval_only ? METRICS_APPEND : resumed_from >= 0 ? METRICS_RESUME : METRICS_NEW;
    if (!files_make_folders(train->out_dir, &error)) die("train.out_dir: %s; choose another folder", error.text);
    if (!train->eval_only && !checkpoint_prepare(train->out_dir, &error)) die("train.out_dir: %s", error.text);
    if (!metrics_open(&log->metrics, train->out_dir, mode, resumed_from, &error)) die("train.out_dir: %s", error.text);
    /* The folder is locked now: no other run writes to it. */
    if (mode == METRICS_NEW && !checkpoint_remove_all(train->out_dir, &error)) die("train.out_dir: %s", error.text);
    if (mode == METRICS_RESUME && !checkpoint_repair_latest(train->out_dir, start->path, &error))
        die("train.out_dir: %s", error.text);
    metrics_start(log->metrics, config_json, model->table.parameters, model->be->device,
                  dtype_name(model->be->activation), comm->size, model->be->threads, resumed_from);
    if (metrics_failure(log->metrics))
        die("train.out_dir: %s; put that disk right, or choose another folder", metrics_failure(log->metrics));
}

void run_log_add_time(RunLog *log, double seconds) {
    log->totals.train_seconds += seconds;
    log->ms += seconds * 1e3;
}

void run_log_count_step(RunLog *log, int64_t tokens) {
    log->totals.train_tokens += tokens;
    log->steps++;
}

void run_log_step(RunLog *log, StepReport report, int64_t tokens_per_step, double flops_per_token, double peak_flops) {
    report.ms = log->ms / log->steps;
    report.tokens_per_s = (double)tokens_per_step / report.ms * 1e3;
    report.mfu = peak_flops > 0.0 ? flops_per_token * report.tokens_per_s / peak_flops : -1.0;
    metrics_train(log->metrics, &report);
    console_step(&log->console, report.step, log->max_iters, &report);
    log->ms = 0.0;
    log->steps = 0;
}

void run_log_norms(RunLog *log, int64_t step, const TensorTable *table, const OptimNorms *norms) {
    metrics_norms(log->metrics, step, table, norms);
}

void run_log_skipped(RunLog *log, int64_t step, const char *tensor) {
    metrics_skipped(log->metrics, step, tensor);
    console_line(&log->console, "step %6" PRId64 " skipped: the gradient of %s is not finite", step, tensor);
}

void run_log_validation(RunLog *log, int64_t step, double loss, const double *ema_loss, int64_t sequences,
                        int64_t tokens) {
    char average[64] = "";
    if (ema_loss) snprintf(average, sizeof average, ", %.4f mixed with the average", *ema_loss);
    metrics_validation(log->metrics, step, loss, ema_loss, tokens);
    console_line(&log->console, "step %6" PRId64 "/%d | validation loss %.4f%s (%" PRId64 " sequences)", step,
                 log->max_iters, loss, average, sequences);
}

void run_log_hellaswag(RunLog *log, int64_t step, double accuracy, double accuracy_norm, int64_t examples) {
    metrics_hellaswag(log->metrics, step, accuracy, accuracy_norm, examples);
    console_line(&log->console,
                 "step %6" PRId64 "/%d | HellaSwag %.4f (%" PRId64 " examples; %.4f without regard to length)", step,
                 log->max_iters, accuracy_norm, examples, accuracy);
}

void run_log_sample(RunLog *log, int64_t step, const char *prompt, const char *text) {
    char *whole = format_string("%s%s", prompt, text);
    metrics_sample(log->metrics, step, prompt, text);
    console_line(&log->console, "step %6" PRId64 "/%d | the model writes", step, log->max_iters);
    console_text(&log->console, whole);
    free(whole);
}

void run_log_checkpoint(RunLog *log, int64_t step, const char *path) {
    metrics_checkpoint(log->metrics, step, path);
    console_line(&log->console, "step %6" PRId64 "/%d | saved %s", step, log->max_iters, path);
}

void run_log_end(RunLog *log, int64_t step, const char *reason) {
    log->totals.reason = reason;
    metrics_end(log->metrics, step, &log->totals);
}

/* What was reported after the saved step is cut off when the run goes on. */
static void end_unreported(const char *why, int64_t step, bool is_evaluation) {
    if (is_evaluation) die("%s", why);
    die("%s; the run stopped for that after step %" PRId64
        ", which is saved: make room and go on with --init_from=resume",
        why, step);
}

void run_log_goodbye(RunLog *log, int64_t step, bool is_done, const TrainConfig *train) {
    char time[32];
    if (metrics_failure(log->metrics)) end_unreported(metrics_failure(log->metrics), step, train->eval_only);
    format_duration(log->totals.seconds, time, sizeof time);
    if (is_done)
        console_line(&log->console, "done in %s; metrics in %s/metrics.jsonl", time, train->out_dir);
    else
        console_line(&log->console, "stopped by a signal after %s; go on with --init_from=resume", time);
}
