/* run_log.h: reports the events of a run: to out_dir/metrics.jsonl for programs (metrics.h) and to the terminal for
 * people (console.h). Norms go only to the file. */
#ifndef MARS_REPORT_RUN_LOG_H
#define MARS_REPORT_RUN_LOG_H

#include "checkpoint/start.h"
#include "config/config.h"
#include "report/console.h"
#include "report/metrics.h"
#include "report/rank_time.h"

EXTERN_C_BEGIN

/* On ranks other than 0 metrics is NULL and the console is silent, so all ranks may call every function but
 * run_log_open(). The trainer sets console and max_iters before run_log_open(), and totals.seconds, .optimizer_seconds
 * and .optimizer_state_bytes before run_log_end(). */
typedef struct RunLog {
    Metrics *metrics;
    Console console;
    int max_iters;
    double ms; /* time of the steps since the last logged one, and how many they are */
    int steps;
    RankTime rank_time; /* of the same steps */
    RunReport totals;   /* of the run until now */
} RunLog;

/* Makes and locks out_dir, opens metrics.jsonl in it, and reports the start. A run that is not resumed begins the
 * metrics anew and removes the checkpoints of an earlier run there. A resumed run removes the lines past its step
 * (METRICS_RESUME), and repairs the link `latest` (checkpoint_repair_latest()). A run that only evaluates removes
 * nothing but a line that was cut short. Only rank 0 calls this, after all ranks have read the files that the run needs
 * at its start. Ends the program if the folder cannot be used. `start` says where the run goes on. */
void run_log_open(RunLog *log, const Config *config, const char *config_json, const Start *start, const GPT2 *model,
                  const Comm *comm);

/* Adds the time of a part of a step. Call it for every part, reading the tokens included. */
void run_log_add_time(RunLog *log, double seconds);

/* Counts a step on so many tokens, over all ranks. Call it once after each step: report.ms is the time added, divided
 * by the steps counted. */
void run_log_count_step(RunLog *log, int64_t tokens);

/* Reports a step. At least one step must have been counted since the last report. Computes report.ms (the mean time of
 * a step since then), report.tokens_per_s and report.mfu (negative if peak_flops is 0, which means unknown); the caller
 * need not set them. */
void run_log_step(RunLog *log, StepReport report, int64_t tokens_per_step, double flops_per_token, double peak_flops);

void run_log_norms(RunLog *log, int64_t step, const TensorTable *table, const OptimNorms *norms);
void run_log_skipped(RunLog *log, int64_t step, const char *tensor);
/* ema_loss: see metrics_validation(). */
void run_log_validation(RunLog *log, int64_t step, double loss, const double *ema_loss, int64_t sequences,
                        int64_t tokens);
void run_log_hellaswag(RunLog *log, int64_t step, double accuracy, double accuracy_norm, int64_t examples);
/* What the model writes after a prompt. */
void run_log_sample(RunLog *log, int64_t step, const char *prompt, const char *text);
void run_log_checkpoint(RunLog *log, int64_t step, const char *path);

/* The last line of the metrics. `reason` is "done", "stopped" or "failed". */
void run_log_end(RunLog *log, int64_t step, const char *reason);

/* Prints the last line on the terminal, for a run that is done or that a signal stopped. Call it after run_log_end().
 * If the metrics could not be written, ends the program with that reason instead; the run must have saved `step`,
 * unless it only evaluated. */
void run_log_goodbye(RunLog *log, int64_t step, bool is_done, const TrainConfig *train);

EXTERN_C_END

#endif
