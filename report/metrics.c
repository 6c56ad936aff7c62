/* metrics.c: writing metrics.jsonl, and cutting it back on resume (see metrics.h). */
#include "report/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

struct Metrics {
    FILE *file;
    char *path;
    bool has_validation, has_sample; /* of the step where the run goes on */
    bool failed;
    Error failure;
};

/* A step so large that no line comes after it. */
static const int64_t last_step = INT64_MAX;

/* Whether an event's `step` is that of one step, and not the number of updates made. */
static bool is_of_a_step(const char *event) {
    return strcmp(event, "train") == 0 || strcmp(event, "norms") == 0 || strcmp(event, "skipped") == 0;
}

/* True where a line belongs to a run that has made `step` updates: whole, and not from a later step. Takes note of the
 * validation and the text of that step. */
static bool line_stays(Metrics *metrics, const char *line, size_t length, int64_t step) {
    if (length == 0 || line[length - 1] != '\n') return false; /* cut short by a kill */
    cJSON *object = cJSON_ParseWithLength(line, length);
    const cJSON *event = cJSON_GetObjectItemCaseSensitive(object, "event");
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(object, "step");
    bool stays = cJSON_IsString(event);
    if (stays) {
        const char *name = event->valuestring;
        double line_step = cJSON_IsNumber(at) ? at->valuedouble : -1.0;
        if (strcmp(name, "end") == 0)
            stays = step == last_step; /* else it did not end */
        else if (strcmp(name, "start") != 0)
            stays = is_of_a_step(name) ? line_step < (double)step : line_step <= (double)step;
        bool is_here = stays && line_step == (double)step;
        metrics->has_validation |= is_here && strcmp(name, "val") == 0;
        metrics->has_sample |= is_here && strcmp(name, "sample") == 0;
    }
    cJSON_Delete(object);
    return stays;
}

/* Locks the file, so that a second run in the same folder fails. The lock belongs to the file, not to its name, so it
 * fails if the file was replaced meanwhile. */
static bool lock_file(FILE *file, const char *path) {
    struct stat locked, named;
    return flock(fileno(file), LOCK_EX | LOCK_NB) == 0 && fstat(fileno(file), &locked) == 0 &&
           stat(path, &named) == 0 && locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

/* Writes the lines that stay to a new file, which takes the old one's place, locked in its turn. */
static bool cut_back(Metrics *metrics, int64_t step, Error *error) {
    char *temporary = format_string("%s.tmp", metrics->path), *line = NULL;
    FILE *old = fopen(metrics->path, "r"), *cut = old ? fopen(temporary, "w") : NULL;
    size_t room = 0;
    ssize_t length;
    bool ok = old && cut && lock_file(cut, temporary);
    while (ok && (length = getline(&line, &room, old)) > 0) {
        if (!line_stays(metrics, line, (size_t)length, step)) continue;
        ok = fwrite(line, 1, (size_t)length, cut) == (size_t)length;
    }
    ok = ok && !ferror(old) && fflush(cut) == 0 && fsync(fileno(cut)) == 0 && rename(temporary, metrics->path) == 0;
    if (!ok) error_set(error, "cannot cut back %s: %s", metrics->path, strerror(errno));
    if (!ok && cut) unlink(temporary);
    FILE *unused = ok ? metrics->file : cut;
    if (ok) metrics->file = cut;
    if (unused) fclose(unused);
    if (old) fclose(old);
    free(line);
    free(temporary);
    return ok;
}

static bool open_and_lock(Metrics *metrics, Error *error) {
    metrics->file = fopen(metrics->path, "a");
    if (!metrics->file)
        return error_set(error, "cannot write %s: %s; choose another train.out_dir", metrics->path, strerror(errno));
    return lock_file(metrics->file, metrics->path) ||
           error_set(error, "%s is being written by another run; choose another train.out_dir", metrics->path);
}

bool metrics_open(Metrics **result, const char *out_dir, MetricsMode mode, int64_t resume_step, Error *error) {
    Metrics *metrics = checked_calloc(1, sizeof *metrics, "metrics");
    metrics->path = format_string("%s/metrics.jsonl", out_dir);
    bool ok = open_and_lock(metrics, error);
    if (ok && mode != METRICS_NEW)
        ok = cut_back(metrics, mode == METRICS_RESUME ? resume_step : last_step, error);
    else if (ok && ftruncate(fileno(metrics->file), 0) != 0)
        ok = error_set(error, "cannot empty %s: %s", metrics->path, strerror(errno));
    if (!ok) {
        metrics_close(metrics);
        return false;
    }
    *result = metrics;
    return true;
}

void metrics_close(Metrics *metrics) {
    if (!metrics) return;
    if (metrics->file) fclose(metrics->file);
    free(metrics->path);
    free(metrics);
}

bool metrics_has_validation(const Metrics *metrics) { return metrics && metrics->has_validation; }
bool metrics_has_sample(const Metrics *metrics) { return metrics && metrics->has_sample; }

const char *metrics_failure(const Metrics *metrics) {
    return metrics && metrics->failed ? metrics->failure.text : NULL;
}

static bool is_writing(const Metrics *metrics) { return metrics && !metrics->failed; }

/* Ends a line and hands it to the system. */
static void finish_line(Metrics *metrics) {
    fputs("}\n", metrics->file);
    if (fflush(metrics->file) == 0 && !ferror(metrics->file)) return;
    metrics->failed = true;
    error_set(&metrics->failure, "cannot write %s: %s", metrics->path, strerror(errno));
}

/* Nine digits bring a float back exactly. JSON has no NaN: null. */
static void put_value(Metrics *metrics, double value) {
    if (isfinite(value))
        fprintf(metrics->file, "%.9g", value);
    else
        fputs("null", metrics->file);
}

static void put_number(Metrics *metrics, const char *key, double value) {
    fprintf(metrics->file, ",\"%s\":", key);
    put_value(metrics, value);
}

/* An object of the roles that the model has tensors of. */
static void put_lr_by_role(Metrics *metrics, const double lr[ROLE_COUNT]) {
    const char *separator = "";
    fputs(",\"lr_by_role\":{", metrics->file);
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (lr[role] < 0.0) continue;
        fprintf(metrics->file, "%s\"%s\":%.9g", separator, tensor_role_name((TensorRole)role), lr[role]);
        separator = ",";
    }
    fputs("}", metrics->file);
}

static void put_string(Metrics *metrics, const char *key, const char *value) {
    cJSON *string = cJSON_CreateString(value);
    char *text = cJSON_PrintUnformatted(string);
    if (!text) die("out of memory: a line of metrics.jsonl");
    fprintf(metrics->file, ",\"%s\":%s", key, text);
    cJSON_free(text);
    cJSON_Delete(string);
}

static void put_sensors(Metrics *metrics, const DeviceSensors *sensors) {
    put_number(metrics, "gpu_watts", sensors->watts);
    put_number(metrics, "gpu_mhz", sensors->mhz);
    put_number(metrics, "gpu_celsius", sensors->celsius);
    if (sensors->has_throttle)
        put_string(metrics, "gpu_throttle", sensors->throttle);
    else
        fputs(",\"gpu_throttle\":null", metrics->file);
}

static void begin_line(Metrics *metrics, const char *event, int64_t step) {
    fprintf(metrics->file, "{\"event\":\"%s\",\"step\":%" PRId64, event, step);
}

void metrics_start(Metrics *metrics, const char *config_json, size_t parameters, const char *device,
                   const char *precision, int processes, int threads, int64_t resumed_from) {
    if (!is_writing(metrics)) return;
    fprintf(metrics->file, "{\"event\":\"start\",\"config\":%s,\"parameters\":%zu", config_json, parameters);
    put_string(metrics, "device", device);
    put_string(metrics, "precision", precision);
    fprintf(metrics->file, ",\"processes\":%d,\"threads\":%d", processes, threads);
    put_string(metrics, "version", MARS_VERSION);
    if (resumed_from < 0)
        fputs(",\"resumed_from\":null", metrics->file);
    else
        fprintf(metrics->file, ",\"resumed_from\":%" PRId64, resumed_from);
    finish_line(metrics);
}

void metrics_train(Metrics *metrics, const StepReport *report) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "train", report->step);
    put_number(metrics, "loss", report->loss);
    put_number(metrics, "lr", report->lr);
    put_lr_by_role(metrics, report->lr_by_role);
    put_number(metrics, "grad_norm", report->grad_norm);
    fprintf(metrics->file, ",\"tokens\":%" PRId64, report->tokens);
    put_number(metrics, "ms", report->ms);
    put_number(metrics, "tokens_per_s", report->tokens_per_s);
    put_number(metrics, "mfu", report->mfu < 0.0 ? NAN : report->mfu);
    put_number(metrics, "ms_slowest", report->ms_slowest);
    fprintf(metrics->file, ",\"slowest_rank\":%d", report->slowest_rank);
    if (report->sensors) put_sensors(metrics, report->sensors);
    finish_line(metrics);
}

void metrics_norms(Metrics *metrics, int64_t step, const TensorTable *table, const OptimNorms *norms) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "norms", step);
    put_number(metrics, "clip", norms->clip);
    fputs(",\"tensors\":", metrics->file);
    for (int i = 0; i < table->count; i++) {
        fprintf(metrics->file, "%s\"%s\":{\"gradient\":", i == 0 ? "{" : ",", table->tensors[i].name);
        put_value(metrics, norms->tensors[i].gradient);
        put_number(metrics, "update", norms->tensors[i].update);
        put_number(metrics, "weight", norms->tensors[i].weight);
        fputs("}", metrics->file);
    }
    fputs("}", metrics->file);
    finish_line(metrics);
}

void metrics_validation(Metrics *metrics, int64_t step, double loss, const double *ema_loss, int64_t tokens) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "val", step);
    put_number(metrics, "loss", loss);
    fprintf(metrics->file, ",\"tokens\":%" PRId64, tokens);
    if (ema_loss) put_number(metrics, "ema_loss", *ema_loss);
    finish_line(metrics);
}

void metrics_hellaswag(Metrics *metrics, int64_t step, double accuracy, double accuracy_norm, int64_t examples) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "hellaswag", step);
    put_number(metrics, "accuracy", accuracy);
    put_number(metrics, "accuracy_norm", accuracy_norm);
    fprintf(metrics->file, ",\"examples\":%" PRId64, examples);
    finish_line(metrics);
}

void metrics_sample(Metrics *metrics, int64_t step, const char *prompt, const char *text) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "sample", step);
    put_string(metrics, "prompt", prompt);
    put_string(metrics, "text", text);
    finish_line(metrics);
}

void metrics_checkpoint(Metrics *metrics, int64_t step, const char *path) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "checkpoint", step);
    put_string(metrics, "path", path);
    finish_line(metrics);
}

void metrics_skipped(Metrics *metrics, int64_t step, const char *tensor) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "skipped", step);
    put_string(metrics, "tensor", tensor);
    finish_line(metrics);
}

void metrics_end(Metrics *metrics, int64_t step, const RunReport *report) {
    if (!is_writing(metrics)) return;
    begin_line(metrics, "end", step);
    put_string(metrics, "reason", report->reason);
    put_number(metrics, "seconds", report->seconds);
    put_number(metrics, "train_seconds", report->train_seconds);
    put_number(metrics, "optimizer_seconds", report->optimizer_seconds);
    put_number(metrics, "train_tokens", (double)report->train_tokens);
    put_number(metrics, "optimizer_state_bytes", report->optimizer_state_bytes);
    finish_line(metrics);
}
