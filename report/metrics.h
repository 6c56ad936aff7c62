/* metrics.h: writes out_dir/metrics.jsonl, which tells other programs what a run did: a JSON object per line.
 *
 * Each line is handed to the system as it is written, so that a killed run loses none. On resume the lines that lie
 * past the checkpoint's step are removed and the file goes on, so it reads like that of a run that was never stopped. A
 * number that is not finite, and an mfu below 0, are written as null. console.h prints the same events for people. */
#ifndef MARS_REPORT_METRICS_H
#define MARS_REPORT_METRICS_H

#include "kernels/backend.h"
#include "optim/optim.h"
#include "util/tensor_table.h"

EXTERN_C_BEGIN

typedef struct Metrics Metrics;

typedef enum MetricsMode {
    METRICS_NEW,    /* start the file anew */
    METRICS_RESUME, /* keep what came before the step of the checkpoint (metrics_open()) */
    METRICS_APPEND  /* keep everything but a line that a kill cut short */
} MetricsMode;

/* One training step, as both the file and the terminal report it. */
typedef struct StepReport {
    int64_t step;     /* 0-based */
    double loss;      /* mean over the global batch, before the update */
    double lr;        /* the scheduled learning_rate, whichever rates the parameter groups have */
    double grad_norm; /* after gradient_scale, before clipping */
    int64_t tokens;   /* seen so far, this step's included */
    double ms;        /* wall time of a step, mean since the last report */
    double tokens_per_s;
    double mfu;                    /* model FLOP/s over the device's peak; negative if the peak is unknown */
    double lr_by_role[ROLE_COUNT]; /* of optim_rates_by_role() */
    double ms_slowest;             /* rank_time_slowest()'s time, and the rank */
    int slowest_rank;
    const DeviceSensors *sensors; /* of rank 0's GPU; NULL on CPUs */
} StepReport;

/* The totals in the last line, of a run since its start or since it was resumed. */
typedef struct RunReport {
    const char *reason; /* "done", "stopped" or "failed" */
    double seconds;
    double train_seconds;         /* of all steps */
    double optimizer_seconds;     /* of their optimizer's part, exchanging gradients and weights included */
    int64_t train_tokens;         /* trained on in that time */
    double optimizer_state_bytes; /* over all processes */
} RunReport;

/* Opens out_dir/metrics.jsonl and locks it: two runs in one folder would spoil each other. METRICS_RESUME keeps the
 * train, norms and skipped lines of steps before resume_step, whose `step` is 0-based, and the validation, HellaSwag,
 * text and checkpoint lines up to resume_step, whose `step` counts the steps made. It keeps start lines and removes the
 * end line. */
bool metrics_open(Metrics **metrics, const char *out_dir, MetricsMode mode, int64_t resume_step, Error *error);

/* All functions below do nothing if metrics is NULL, as it is on all processes except rank 0. A line that cannot be
 * written, for example on a full disk, is written before the next one. The functions report no failure: ask
 * metrics_failure() after each step. The trainer saves and ends the run if it gives a reason. */
void metrics_close(Metrics *metrics);

/* Tries once more to write lines that could not be written. "cannot write FILE: reason" if that fails, too, and from
 * then on; else NULL. */
const char *metrics_failure(Metrics *metrics);

/* Whether the file already has a validation loss, or a text, of resume_step. */
bool metrics_has_validation(const Metrics *metrics);
bool metrics_has_sample(const Metrics *metrics);

/* config_json is the config as JSON text; resumed_from is negative for a run from its start. */
void metrics_start(Metrics *metrics, const char *config_json, size_t parameters, const char *device,
                   const char *precision, int processes, int threads, int64_t resumed_from);
void metrics_train(Metrics *metrics, const StepReport *report);
/* Writes the norms of the tensors in the table. */
void metrics_norms(Metrics *metrics, int64_t step, const TensorTable *table, const OptimNorms *norms);
/* ema_loss: the loss of the average of the weights; NULL if there is no average. */
void metrics_validation(Metrics *metrics, int64_t step, double loss, const double *ema_loss, int64_t tokens);
/* Shares of right answers: by likelihood, and by the mean over an ending's tokens. */
void metrics_hellaswag(Metrics *metrics, int64_t step, double accuracy, double accuracy_norm, int64_t examples);
/* What the model writes after a prompt, both UTF-8. */
void metrics_sample(Metrics *metrics, int64_t step, const char *prompt, const char *text);
void metrics_checkpoint(Metrics *metrics, int64_t step, const char *path);
void metrics_skipped(Metrics *metrics, int64_t step, const char *tensor);
void metrics_end(Metrics *metrics, int64_t step, const RunReport *report);

EXTERN_C_END

#endif
