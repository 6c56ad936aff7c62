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

#include "util/files.h"

struct Metrics {
    int descriptor; /* of the file, -1 if it is not open */
    /* Lines that are not in the file yet, in memory: stdio would lose the data of a failed write. */
    FILE *lines;
    char *text; /* the text of these lines, after fflush() */
    size_t bytes;
    size_t written; /* how many of these bytes are in the file */
    bool waits;     /* the last write failed: another attempt is due */
    char *path;
    bool has_validation, has_sample; /* of the step from which the run goes on */
    bool failed;
    Error failure;
};

/* A step so large that no line comes after it. */
static const int64_t last_step = INT64_MAX;

/* Whether an event's `step` is the number of one step, and not how many updates were made. */
static bool is_of_a_step(const char *event) {
    return strcmp(event, "train") == 0 || strcmp(event, "norms") == 0 || strcmp(event, "skipped") == 0;
}

/* Whether a line belongs to a run that has made `step` updates: it is whole, and not from a later step. Notes if it is
 * the validation or the text of that step. */
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
            stays = step == last_step; /* only METRICS_APPEND keeps the end line */
        else if (strcmp(name, "start") != 0)
            stays = is_of_a_step(name) ? line_step < (double)step : line_step <= (double)step;
        bool is_here = stays && line_step == (double)step;
        metrics->has_validation |= is_here && strcmp(name, "val") == 0;
        metrics->has_sample |= is_here && strcmp(name, "sample") == 0;
    }
    cJSON_Delete(object);
    return stays;
}

/* Locks the file, so that a second run in the same folder fails. The lock belongs to the file, not to its name, so this
 * also fails if the file was replaced meanwhile. */
static bool lock_file(int descriptor, const char *path) {
    struct stat locked, named;
    return FILES_RETRY(flock(descriptor, LOCK_EX | LOCK_NB)) == 0 && fstat(descriptor, &locked) == 0 &&
           stat(path, &named) == 0 && locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

static int open_to_write(const char *path, int flags) {
    return FILES_RETRY(open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | flags, 0666));
}

/* Moves the lines that stay to the beginning of the text, and returns their bytes. */
static size_t keep_lines(Metrics *metrics, char *text, size_t bytes, int64_t step) {
    size_t kept = 0;
    for (char *line = text, *end = text + bytes, *next; line < end; line = next) {
        char *line_end = memchr(line, '\n', (size_t)(end - line));
        next = line_end ? line_end + 1 : end;
        size_t length = (size_t)(next - line);
        if (!line_stays(metrics, line, length, step)) continue;
        memmove(text + kept, line, length);
        kept += length;
    }
    return kept;
}

/* Writes the text to a new file, which is locked and then takes the old one's place. */
static bool replace_file(Metrics *metrics, const char *text, size_t bytes, Error *error) {
    char *temporary = format_string("%s.tmp", metrics->path);
    int cut = open_to_write(temporary, O_TRUNC);
    bool ok =
        cut >= 0 && lock_file(cut, temporary) && files_write_all(cut, text, bytes) && FILES_RETRY(fsync(cut)) == 0;
    ok = (ok || files_fail(error, "write", temporary)) && files_rename(temporary, metrics->path, error);
    if (!ok && cut >= 0) FILES_RETRY(unlink(temporary));
    int unused = ok ? metrics->descriptor : cut;
    if (ok) metrics->descriptor = cut;
    if (unused >= 0) close(unused);
    free(temporary);
    return ok;
}

/* Removes the lines past the step. */
static bool cut_back(Metrics *metrics, int64_t step, Error *error) {
    size_t bytes;
    char *text = files_read(metrics->path, PTRDIFF_MAX, &bytes, error);
    bool ok = text && replace_file(metrics, text, keep_lines(metrics, text, bytes, step), error);
    free(text);
    return ok;
}

static bool open_and_lock(Metrics *metrics, Error *error) {
    metrics->descriptor = open_to_write(metrics->path, 0);
    if (metrics->descriptor < 0)
        return error_set(error, "cannot write %s: %s; choose another train.out_dir", metrics->path, strerror(errno));
    return lock_file(metrics->descriptor, metrics->path) ||
           error_set(error, "%s is being written by another run; choose another train.out_dir", metrics->path);
}

bool metrics_open(Metrics **result, const char *out_dir, MetricsMode mode, int64_t resume_step, Error *error) {
    Metrics *metrics = checked_calloc(1, sizeof *metrics, "metrics");
    metrics->path = format_string("%s/metrics.jsonl", out_dir);
    metrics->lines = open_memstream(&metrics->text, &metrics->bytes);
    if (!metrics->lines) die("out of memory: a line of metrics.jsonl");
    bool ok = open_and_lock(metrics, error);
    if (ok && mode != METRICS_NEW)
        ok = cut_back(metrics, mode == METRICS_RESUME ? resume_step : last_step, error);
    else if (ok && FILES_RETRY(ftruncate(metrics->descriptor, 0)) != 0)
        ok = files_fail(error, "empty", metrics->path);
    if (!ok) {
        metrics_close(metrics);
        return false;
    }
    *result = metrics;
    return true;
}

void metrics_close(Metrics *metrics) {
    if (!metrics) return;
    if (metrics->descriptor >= 0) close(metrics->descriptor);
    fclose(metrics->lines);
    free(metrics->text);
    free(metrics->path);
    free(metrics);
}

bool metrics_has_validation(const Metrics *metrics) { return metrics && metrics->has_validation; }
bool metrics_has_sample(const Metrics *metrics) { return metrics && metrics->has_sample; }

/* Writes the lines to the file, also those that an earlier attempt could not write. */
static bool write_lines(Metrics *metrics) {
    bool ok = fflush(metrics->lines) == 0 && !ferror(metrics->lines);
    if (!ok) die("out of memory: a line of metrics.jsonl");
    metrics->written +=
        files_write_some(metrics->descriptor, metrics->text + metrics->written, metrics->bytes - metrics->written);
    bool waited = metrics->waits;
    metrics->waits = metrics->written < metrics->bytes;
    if (metrics->waits) return error_set(&metrics->failure, "cannot write %s: %s", metrics->path, strerror(errno));
    if (waited) warn("%s; a later attempt succeeded", metrics->failure.text);
    metrics->written = 0;
    rewind(metrics->lines);
    return true;
}

const char *metrics_failure(Metrics *metrics) {
    if (!metrics) return NULL;
    if (!metrics->failed && metrics->waits) metrics->failed = !write_lines(metrics);
    return metrics->failed ? metrics->failure.text : NULL;
}

static void finish_line(Metrics *metrics) {
    fputs("}\n", metrics->lines);
    write_lines(metrics);
}

/* A float can be read back exactly from nine digits. JSON has no NaN, so null stands for it. */
static void put_value(Metrics *metrics, double value) {
    if (isfinite(value))
        fprintf(metrics->lines, "%.9g", value);
    else
        fputs("null", metrics->lines);
}

static void put_number(Metrics *metrics, const char *key, double value) {
    fprintf(metrics->lines, ",\"%s\":", key);
    put_value(metrics, value);
}

/* Writes an object with the learning rate of each role that the model has tensors of. */
static void put_lr_by_role(Metrics *metrics, const double lr[ROLE_COUNT]) {
    const char *separator = "";
    fputs(",\"lr_by_role\":{", metrics->lines);
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (lr[role] < 0.0) continue;
        fprintf(metrics->lines, "%s\"%s\":%.9g", separator, tensor_role_name((TensorRole)role), lr[role]);
        separator = ",";
    }
    fputs("}", metrics->lines);
}

static void put_string(Metrics *metrics, const char *key, const char *value) {
    cJSON *string = cJSON_CreateString(value);
    char *text = cJSON_PrintUnformatted(string);
    if (!text) die("out of memory: a line of metrics.jsonl");
    fprintf(metrics->lines, ",\"%s\":%s", key, text);
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
        fputs(",\"gpu_throttle\":null", metrics->lines);
}

static void begin_line(Metrics *metrics, const char *event, int64_t step) {
    fprintf(metrics->lines, "{\"event\":\"%s\",\"step\":%" PRId64, event, step);
}

void metrics_start(Metrics *metrics, const char *config_json, size_t parameters, const char *device,
                   const char *precision, int processes, int threads, int64_t resumed_from) {
    if (!metrics) return;
    fprintf(metrics->lines, "{\"event\":\"start\",\"config\":%s,\"parameters\":%zu", config_json, parameters);
    put_string(metrics, "device", device);
    put_string(metrics, "precision", precision);
    fprintf(metrics->lines, ",\"processes\":%d,\"threads\":%d", processes, threads);
    put_string(metrics, "version", MARS_VERSION);
    if (resumed_from < 0)
        fputs(",\"resumed_from\":null", metrics->lines);
    else
        fprintf(metrics->lines, ",\"resumed_from\":%" PRId64, resumed_from);
    finish_line(metrics);
}

void metrics_train(Metrics *metrics, const StepReport *report) {
    if (!metrics) return;
    begin_line(metrics, "train", report->step);
    put_number(metrics, "loss", report->loss);
    put_number(metrics, "lr", report->lr);
    put_lr_by_role(metrics, report->lr_by_role);
    put_number(metrics, "grad_norm", report->grad_norm);
    fprintf(metrics->lines, ",\"tokens\":%" PRId64, report->tokens);
    put_number(metrics, "ms", report->ms);
    put_number(metrics, "tokens_per_s", report->tokens_per_s);
    put_number(metrics, "mfu", report->mfu < 0.0 ? NAN : report->mfu);
    put_number(metrics, "ms_slowest", report->ms_slowest);
    fprintf(metrics->lines, ",\"slowest_rank\":%d", report->slowest_rank);
    if (report->sensors) put_sensors(metrics, report->sensors);
    finish_line(metrics);
}

void metrics_norms(Metrics *metrics, int64_t step, const TensorTable *table, const OptimNorms *norms) {
    if (!metrics) return;
    begin_line(metrics, "norms", step);
    put_number(metrics, "clip", norms->clip);
    fputs(",\"tensors\":", metrics->lines);
    for (int i = 0; i < table->count; i++) {
        fprintf(metrics->lines, "%s\"%s\":{\"gradient\":", i == 0 ? "{" : ",", table->tensors[i].name);
        put_value(metrics, norms->tensors[i].gradient);
        put_number(metrics, "update", norms->tensors[i].update);
        put_number(metrics, "weight", norms->tensors[i].weight);
        fputs("}", metrics->lines);
    }
    fputs("}", metrics->lines);
    finish_line(metrics);
}

void metrics_validation(Metrics *metrics, int64_t step, double loss, const double *ema_loss, int64_t tokens) {
    if (!metrics) return;
    begin_line(metrics, "val", step);
    put_number(metrics, "loss", loss);
    fprintf(metrics->lines, ",\"tokens\":%" PRId64, tokens);
    if (ema_loss) put_number(metrics, "ema_loss", *ema_loss);
    finish_line(metrics);
}

void metrics_hellaswag(Metrics *metrics, int64_t step, double accuracy, double accuracy_norm, int64_t examples) {
    if (!metrics) return;
    begin_line(metrics, "hellaswag", step);
    put_number(metrics, "accuracy", accuracy);
    put_number(metrics, "accuracy_norm", accuracy_norm);
    fprintf(metrics->lines, ",\"examples\":%" PRId64, examples);
    finish_line(metrics);
}

void metrics_sample(Metrics *metrics, int64_t step, const char *prompt, const char *text) {
    if (!metrics) return;
    begin_line(metrics, "sample", step);
    put_string(metrics, "prompt", prompt);
    put_string(metrics, "text", text);
    finish_line(metrics);
}

void metrics_checkpoint(Metrics *metrics, int64_t step, const char *path) {
    if (!metrics) return;
    begin_line(metrics, "checkpoint", step);
    put_string(metrics, "path", path);
    finish_line(metrics);
}

void metrics_skipped(Metrics *metrics, int64_t step, const char *tensor) {
    if (!metrics) return;
    begin_line(metrics, "skipped", step);
    put_string(metrics, "tensor", tensor);
    finish_line(metrics);
}

void metrics_end(Metrics *metrics, int64_t step, const RunReport *report) {
    if (!metrics) return;
    begin_line(metrics, "end", step);
    put_string(metrics, "reason", report->reason);
    put_number(metrics, "seconds", report->seconds);
    put_number(metrics, "train_seconds", report->train_seconds);
    put_number(metrics, "optimizer_seconds", report->optimizer_seconds);
    put_number(metrics, "train_tokens", (double)report->train_tokens);
    put_number(metrics, "optimizer_state_bytes", report->optimizer_state_bytes);
    finish_line(metrics);
}
