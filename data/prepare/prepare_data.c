/* prepare_data.c: the program that turns text into token files for training: checks its options against the input,
 * opens the output folder, and prints progress and results. pipeline.c encodes; inspect.c looks into token files.
 *
 * A run writes under temporary names, and renames only when all is on the disk (output_folder.h). A run that was
 * stopped leaves nothing that another program would take for its output, and the next one starts over. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/hellaswag.h"
#include "data/prepare/inspect.h"
#include "data/prepare/output_folder.h"
#include "data/prepare/pipeline.h"
#include "data/prepare/prepare_hellaswag.h"
#include "data/prepare/prepare_options.h"
#include "data/tokenizer/vocabulary.h"
#include "util/files.h"
#include "util/format.h"
#include "util/program.h"
#include "util/stop_signal.h"
#include "util/utf8.h"

/* Between progress lines without a terminal. */
enum { SECONDS_BETWEEN_LINES = 30 };

typedef struct Job {
    PrepareOptions options;
    TextFiles files;
    int64_t plain_bytes; /* of all files without byte order marks; -1 if one is packed or a pipe */
    int64_t text_bytes;  /* of all documents joined; -1 until it is known */
    Tokenizer *tokenizer;
    PipelineOptions pipeline;
    PipelineCounts counts;
    OutputFolder *folder;
    ShardWriter *train, *val;
    double begun, next_line;
} Job;

/* ---- progress ---- */

/* Rewrites one line on a terminal; elsewhere, in a log, prints a line every SECONDS_BETWEEN_LINES. */
static void show_progress(void *context, int64_t bytes, int64_t tokens) {
    Job *job = context;
    double now = seconds_now(), passed = now - job->begun;
    bool on_terminal = isatty(STDERR_FILENO);
    if (!on_terminal && now < job->next_line) return;
    job->next_line = now + SECONDS_BETWEEN_LINES;
    char share[16] = "", left[64] = "", done[64] = "measuring the text";
    if (job->files.bytes > 0 && bytes > 0) {
        double part = (double)bytes / (double)job->files.bytes;
        char time[32];
        format_duration(passed * (1 / part - 1), time, sizeof time);
        snprintf(share, sizeof share, "%5.1f %% | ", 100 * part);
        snprintf(left, sizeof left, " | %s left", time);
    }
    if (tokens >= 0) snprintf(done, sizeof done, "%" PRId64 " tokens", tokens);
    fprintf(stderr, "%s%s%.1f GB, %.1f MB/s | %s%s%s", on_terminal ? "\r" : "", share, (double)bytes * 1e-9,
            (double)bytes * 1e-6 / fmax(passed, 1e-6), done, left, on_terminal ? "\033[K" : "\n");
}

static void end_progress(void) {
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
}

/* ---- what the options mean for this input ---- */

/* Documents cannot be drawn from a text that is one document: validation is then the end of the text, and also if the
 * length of the text is known without reading it. */
static ValidationSplit split_of(const Job *job) {
    const PrepareOptions *o = &job->options;
    bool is_one_document = job->files.count == 1 && !o->documents.separator && !o->documents.field;
    if (o->val_from >= 0) return (ValidationSplit)o->val_from;
    if (o->val_fraction == 0) return SPLIT_DOCUMENTS; /* no document is drawn */
    return job->text_bytes >= 0 || is_one_document ? SPLIT_TEXT_END : SPLIT_DOCUMENTS;
}

/* Refuses options that have no effect on this input: the user means something else. */
static void check_effects(const Job *job) {
    const PrepareOptions *o = &job->options;
    bool is_shard = job->pipeline.split == SPLIT_FIRST_SHARD;
    if (o->has_val_fraction && is_shard)
        die_usage("--val_fraction has no effect with --val_from=first_shard; --shard_tokens says how much that is");
    if (o->val_from >= 0 && o->val_fraction == 0)
        die_usage("--val_from has no effect with --val_fraction=0; leave it out");
    if (o->has_split_seed && o->val_fraction == 0)
        die_usage("--split_seed has no effect with --val_fraction=0; leave it out");
    if (o->has_split_seed && job->pipeline.split != SPLIT_DOCUMENTS)
        die_usage("--split_seed is for documents that are drawn; say --val_from=documents");
    if (o->has_shard_tokens && o->format == SHARD_NANOGPT && !is_shard)
        die_usage("--shard_tokens is for --format=llmc, or --val_from=first_shard; nanogpt has one train.bin");
}

/* Sets where validation begins in a text whose length is known. */
static bool step_coeffs_end(Job *job, Error *error) {
    double fraction = job->options.val_fraction;
    int64_t bytes = job->text_bytes;
    job->pipeline.train_bytes = (int64_t)((double)bytes * (1 - fraction));
    if (bytes == 0) return error_set(error, "there is no text in the input");
    if (job->pipeline.train_bytes == bytes)
        return error_set(error,
                         "--val_fraction=%g of %" PRId64 " bytes leaves nothing to validate on; give more text, or "
                         "--val_fraction=0 for no validation set",
                         fraction, bytes);
    if (job->pipeline.train_bytes == 0)
        return error_set(error, "--val_fraction=%g of %" PRId64 " bytes leaves nothing to train on; give more text",
                         fraction, bytes);
    return true;
}

/* Reads the text once to learn its length: it is packed, comes through a pipe or is divided by lines. */
static bool measure_text(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    if (job->files.bytes < 0) {
        fprintf(stderr, "validation is the end of the text, whose length is not known: it is copied to %s first\n",
                o->out);
        if (!text_files_copy_pipes(&job->files, o->out, job->pipeline.takes_binary, error)) return false;
    }
    job->begun = seconds_now();
    job->next_line = job->begun + SECONDS_BETWEEN_LINES;
    bool ok = pipeline_measure(&job->pipeline, &job->files, &o->documents, &job->text_bytes, error);
    end_progress();
    return ok && step_coeffs_end(job, error);
}

static void resolve_document_token(Job *job) {
    const PrepareOptions *o = &job->options;
    bool has_token = tokenizer_end_of_text(job->tokenizer) >= 0;
    int chosen = o->document_token;
    if (chosen > TOKEN_NOWHERE && !has_token)
        die_usage("--document_token: tokenizer %s has no token that stands between documents", o->tokenizer);
    if (chosen < 0) chosen = !has_token ? TOKEN_NOWHERE : o->format == SHARD_LLMC ? TOKEN_AT_BEGIN : TOKEN_AT_END;
    job->pipeline.document_token = (DocumentToken)chosen;
}

/* Fails early if there may be too many files. A token is at least a byte, which bounds their number. */
static bool check_file_count(const Job *job, Error *error) {
    int64_t bytes = job->plain_bytes, tokens = job->options.shard_tokens;
    if (job->options.format == SHARD_NANOGPT || bytes < 0) return true;
    if (ceil_div(bytes, tokens) <= SHARD_WRITER_MAX_FILES) return true;
    return error_set(error,
                     "--shard_tokens=%" PRId64 " would cut %" PRId64 " bytes into more than %d files; give at least "
                     "%" PRId64,
                     tokens, bytes, SHARD_WRITER_MAX_FILES, ceil_div(bytes, SHARD_WRITER_MAX_FILES));
}

/* ---- the result ---- */

static void print_part(const PrepareOptions *options, const char *split, const ShardWriter *writer) {
    int files = shard_writer_file_count(writer);
    printf("%-5s %12" PRId64 " tokens in %d file%s %s/%s%s.bin\n", split, shard_writer_token_count(writer), files,
           files == 1 ? " " : "s", options->out, split, options->format == SHARD_LLMC ? "_*" : "");
}

/* Warns of files that are mostly U+FFFD: they are text in another encoding, or no text. */
static void warn_of_garbled(const Job *job) {
    const PipelineCounts *counts = &job->counts;
    for (int i = 0; i < min_i64(counts->garbled_files, GARBLED_NAMED); i++) {
        const DamagedFile *file = &counts->garbled[i];
        warn("%s is not UTF-8: its %" PRId64 " bytes gave %" PRId64 " U+FFFD; if it is text in another encoding, "
             "convert it first: iconv -f ENCODING -t utf-8 FILE",
             text_files_name(&job->files, file->input), file->bytes, file->replaced);
    }
    if (counts->garbled_files > GARBLED_NAMED)
        warn("files that are mostly U+FFFD, besides these: %d", counts->garbled_files - GARBLED_NAMED);
}

static void print_replaced(const Job *job) {
    const PipelineCounts *counts = &job->counts;
    if (counts->replaced == 0) return;
    char others[64] = "";
    if (counts->damaged_files > 1) snprintf(others, sizeof others, " and %d more", counts->damaged_files - 1);
    printf("%" PRId64 " U+FFFD stand for bytes that are not UTF-8, in %s%s\n", counts->replaced,
           text_files_name(&job->files, counts->first_damaged.input), others);
}

static void print_summary(const Job *job) {
    const PipelineCounts *counts = &job->counts;
    double seconds = seconds_now() - job->begun;
    printf("%" PRId64 " document%s, %" PRId64 " bytes of text in %.2f s (%.0f MB/s)\n", counts->documents,
           counts->documents == 1 ? "" : "s", counts->text_bytes, seconds,
           (double)counts->text_bytes / 1e6 / fmax(seconds, 1e-6));
    if (counts->found.bad_lines > 0)
        printf("%" PRId64 " bad lines were passed over, the first of them %s\n", counts->found.bad_lines,
               counts->found.first_bad.text);
    print_replaced(job);
    print_part(&job->options, "train", job->train);
    if (shard_writer_token_count(job->val) > 0) print_part(&job->options, "val", job->val);
}

/* ---- the output folder ---- */

static bool add_texts(cJSON *json, const Job *job) {
    const PrepareOptions *o = &job->options;
    return cJSON_AddStringToObject(json, "tokenizer", tokenizer_name(job->tokenizer)) &&
           cJSON_AddNumberToObject(json, "vocab_size", tokenizer_vocab_size(job->tokenizer)) &&
           cJSON_AddStringToObject(json, "format", prepare_format_names[o->format]) &&
           cJSON_AddStringToObject(json, "document_token", prepare_token_names[job->pipeline.document_token]) &&
           cJSON_AddStringToObject(json, "val_from", prepare_split_names[job->pipeline.split]);
}

/* The names of inputs as JSON, with U+FFFD in the place of bytes that are not UTF-8. NULL if memory runs out. */
static cJSON *describe_inputs(const PrepareOptions *o) {
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; array && i < o->input_count; i++) {
        size_t bytes = strlen(o->inputs[i]);
        int64_t errors = 0;
        char *name = checked_malloc(bytes * strlen(UTF8_REPLACEMENT) + 1, "the name of an input");
        name[utf8_repair(o->inputs[i], bytes, name, &errors)] = 0;
        if (!cJSON_AddItemToArray(array, cJSON_CreateString(name))) {
            cJSON_Delete(array);
            array = NULL;
        }
        free(name);
    }
    return array;
}

/* The content of tokens.json except the list of files; the caller frees it. NULL if memory runs out. */
static cJSON *describe(const Job *job) {
    const PrepareOptions *options = &job->options;
    cJSON *json = cJSON_CreateObject(), *source = describe_inputs(options);
    bool ok = add_texts(json, job) && cJSON_AddNumberToObject(json, "documents", (double)job->counts.documents) &&
              cJSON_AddNumberToObject(json, "train_tokens", (double)shard_writer_token_count(job->train)) &&
              cJSON_AddNumberToObject(json, "val_tokens", (double)shard_writer_token_count(job->val)) &&
              cJSON_AddItemToObject(json, "source", source) &&
              cJSON_AddStringToObject(json, "created_by", "prepare_data " MARS_VERSION);
    if (ok) return json;
    cJSON_Delete(json);
    return NULL;
}

static const char *vocabulary_folder(const PrepareOptions *o) {
    return o->vocabulary ? o->vocabulary : TOKENIZER_GPT2_FOLDER;
}

static bool check_result(const Job *job, Error *error) {
    if (job->pipeline.split == SPLIT_TEXT_END && job->counts.text_bytes != job->text_bytes)
        return error_set(error, "the input changed while it was read: it had %" PRId64 " bytes, and then %" PRId64,
                         job->text_bytes, job->counts.text_bytes);
    if (job->counts.documents > 0 && job->counts.text_bytes == 0)
        return error_set(error, "there is no text in the input");
    bool wants_val = job->options.val_fraction > 0 || job->pipeline.split == SPLIT_FIRST_SHARD;
    if (wants_val && shard_writer_token_count(job->val) == 0 && job->counts.documents > 0)
        return error_set(error,
                         "none of the %" PRId64 " documents was drawn for validation; give --val_from=end, another "
                         "--split_seed, or --val_fraction=0 for no validation set",
                         job->counts.documents);
    if (shard_writer_token_count(job->train) > 0) return true;
    if (job->counts.documents == 0 && job->counts.found.bad_lines > 0)
        return error_set(error,
                         "there is no document in the input: all %" PRId64 " lines are bad, the first of them %s",
                         job->counts.found.bad_lines, job->counts.found.first_bad.text);
    if (job->counts.documents == 0) return error_set(error, "there is no document in the input");
    return error_set(error,
                     "nothing is left to train on: all %" PRId64 " tokens are for validation; give more text, or "
                     "--val_from=end",
                     shard_writer_token_count(job->val));
}

/* Warns of input that is allowed, but most likely a mistake. */
static void warn_of_input(const Job *job) {
    const char *separator = job->options.documents.separator;
    if (separator && job->counts.found.separators == 0)
        warn("--separator: no line of the input is just '%s', so that each file is one document", separator);
    warn_of_garbled(job);
}

static bool publish(Job *job, Error *error) {
    cJSON *description = describe(job);
    if (!description) return error_set(error, "out of memory for the text of tokens.json");
    bool ok = output_folder_publish(job->folder, description, job->train, job->val, error);
    cJSON_Delete(description);
    return ok;
}

/* From the inputs to the finished folder. */
static bool write_output(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    job->train = shard_writer_open(o->out, "train", o->format, o->shard_tokens);
    job->val = shard_writer_open(o->out, "val", o->format, o->shard_tokens);
    bool ok = pipeline_run(&job->pipeline, &job->files, &o->documents, job->train, job->val, &job->counts, error);
    end_progress();
    if (ok) warn_of_input(job);
    return ok && check_result(job, error) && shard_writer_finish(job->train, error) &&
           shard_writer_finish(job->val, error) && publish(job, error);
}

/* The real path of the folder, or of the nearest existing folder above it; the caller frees it. */
static char *nearest_folder(const char *path) {
    char nearest[4096], above[4096], *real;
    snprintf(nearest, sizeof nearest, "%s", path);
    while (!(real = realpath(nearest, NULL)) && errno == ENOENT) {
        files_folder_of(nearest, above, sizeof above);
        memcpy(nearest, above, sizeof nearest);
    }
    return real;
}

/* Fails if the output folder lies in a folder of texts: the next run would take the output for text. */
static bool check_folders(const PrepareOptions *o, Error *error) {
    char *out = nearest_folder(o->out);
    bool ok = true;
    for (int i = 0; i < o->input_count && ok; i++) {
        char *in = files_is_folder(o->inputs[i]) ? realpath(o->inputs[i], NULL) : NULL;
        size_t length = in ? strlen(in) : 0;
        if (in && out && strncmp(out, in, length) == 0 && (out[length] == 0 || out[length] == '/' || length == 1))
            ok = error_set(error, "the output folder %s lies within the input folder %s; choose another with --out",
                           o->out, o->inputs[i]);
        free(in);
    }
    free(out);
    return ok;
}

static bool open_folder(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    bool has_vocabulary = strcmp(o->tokenizer, "gpt2") == 0;
    if (!output_folder_open(&job->folder, o->out, has_vocabulary ? vocabulary_folder(o) : NULL, error)) return false;
    for (int i = 0; i < o->input_count; i++)
        if (output_folder_owns(job->folder, o->inputs[i]))
            return error_set(error, "%s is an input, and a file in %s that new ones replace; give another --out",
                             o->inputs[i], o->out);
    return true;
}

/* ---- the tasks ---- */

static void open_tokenizer(Job *job) {
    const PrepareOptions *o = &job->options;
    Error error;
    if (!tokenizer_open(&job->tokenizer, o->tokenizer, o->vocabulary, &error))
        die_usage("--tokenizer=%s: %s; see prepare_data --help", o->tokenizer, error.text);
    if (!tokenizer_encodes(job->tokenizer))
        die_usage(
            "--vocab: %s has no merges, without which the tokenizer %s can only decode; bash data/gpt2/download.sh "
            "fetches them into " TOKENIZER_GPT2_FOLDER,
            vocabulary_folder(o), o->tokenizer);
}

static bool prepare(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    open_tokenizer(job);
    bool takes_binary = strcmp(o->tokenizer, "bytes") == 0;
    job->pipeline = (PipelineOptions){.tokenizer = job->tokenizer,
                                      .threads = o->threads,
                                      .takes_binary = takes_binary,
                                      .val_fraction = o->val_fraction,
                                      .split_seed = o->split_seed,
                                      .shard_tokens = o->shard_tokens,
                                      .progress = show_progress,
                                      .progress_context = job};
    resolve_document_token(job);
    if (!text_files_list(&job->files, o->inputs, o->input_count, error)) return false;
    if (!text_files_look(&job->files, takes_binary, &job->plain_bytes, error)) return false;
    job->text_bytes = o->documents.separator || o->documents.field ? -1 : job->plain_bytes;
    job->pipeline.split = split_of(job);
    check_effects(job);
    bool needs_length = job->pipeline.split == SPLIT_TEXT_END, has_length = job->text_bytes >= 0;
    if (needs_length && has_length && !step_coeffs_end(job, error)) return false;
    if (!check_file_count(job, error) || !check_folders(o, error) || !open_folder(job, error)) return false;
    if (needs_length && !has_length && !measure_text(job, error)) return false;
    job->begun = seconds_now();
    job->next_line = job->begun + SECONDS_BETWEEN_LINES;
    bool ok = write_output(job, error);
    if (ok) print_summary(job);
    return ok;
}

/* Whether the file is missing or may be replaced. */
static bool is_replaceable(const char *path, Error *error) {
    int32_t magic = 0;
    int file = FILES_RETRY(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file < 0) return errno == ENOENT || files_fail(error, "read", path);
    bool is_ours = FILES_RETRY(read(file, &magic, sizeof magic)) == sizeof magic && magic == HELLASWAG_MAGIC;
    close(file);
    return is_ours || error_set(error,
                                "%s is in the way: it is no HellaSwag file; move it away, or give another folder "
                                "with --out",
                                path);
}

static bool prepare_hellaswag(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    open_tokenizer(job);
    if (access(o->out, F_OK) == 0 && !files_is_folder(o->out))
        return error_set(error, "%s is no folder; give one with --out", o->out);
    if (!files_make_folders(o->out, error)) return false;
    char *path = format_string("%s/hellaswag.bin", o->out);
    int examples;
    bool ok = is_replaceable(path, error) && hellaswag_prepare(o->inputs[0], job->tokenizer, path, &examples, error);
    if (ok) printf("%d examples in %s\n", examples, path);
    free(path);
    return ok;
}

int main(int argc, char **argv) {
    program_start("prepare_data", argv);
    signal(SIGXFSZ, SIG_IGN); /* beyond the limit on file sizes a write then fails, as on a full disk */
    Error error;
    Job job = {.options = prepare_options_parse(argc, argv)};
    const PrepareOptions *o = &job.options;
    bool ok;
    switch (o->task) {
    case TASK_INSPECT:
        ok = inspect(&(InspectOptions){o->inputs, o->input_count, o->tokenizer, o->vocabulary, o->at}, &error);
        break;
    case TASK_HELLASWAG:
        ok = prepare_hellaswag(&job, &error);
        break;
    default:
        stop_signal_listen();
        ok = prepare(&job, &error);
    }
    shard_writer_close(job.train);
    shard_writer_close(job.val);
    output_folder_close(job.folder);
    tokenizer_close(job.tokenizer);
    text_files_free(&job.files);
    prepare_options_free(&job.options);
    if (!ok) die("%s", error.text);
    if (fflush(stdout) != 0 || ferror(stdout)) die("cannot write to standard output: %s", strerror(errno));
    return EXIT_DONE;
}
