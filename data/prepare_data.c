/* prepare_data.c: the program that turns text into token files for training: what its options mean for an input, its
 * output folder, and what it tells people. The work is pipeline.c's; looking into token files is inspect.c's.
 *
 * A run writes under temporary names, and renames only when all is on the disk (output_folder.h). A run that was stopped
 * leaves nothing that another program would take for its output, and the next one starts over. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/hellaswag.h"
#include "data/inspect.h"
#include "data/output_folder.h"
#include "data/pipeline.h"
#include "data/prepare_options.h"
#include "data/vocabulary.h"
#include "report/console.h"
#include "util/files.h"
#include "util/program.h"
#include "util/stop_signal.h"

/* Of progress, where there is no terminal. */
enum { SECONDS_BETWEEN_LINES = 30 };

typedef struct Job {
    PrepareOptions options;
    TextFiles files;
    bool knows_bytes; /* of text, before it is read: nothing is packed, nothing a pipe */
    Tokenizer *tokenizer;
    PipelineOptions pipeline;
    PipelineCounts counts;
    OutputFolder *folder;
    ShardWriter *train, *val;
    double begun, next_line;
} Job;

/* ---- what the options mean for this input ---- */

/* Where the text ends is known before it is read only of plain files. */
static bool settle_split(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    bool whole_files = !o->documents.separator && !o->documents.field;
    bool knows_end = whole_files && job->knows_bytes;
    PipelineOptions *p = &job->pipeline;
    p->split = o->val_from >= 0 ? (ValidationSplit)o->val_from : knows_end ? SPLIT_TEXT_END : SPLIT_DOCUMENTS;
    if (o->val_fraction == 0 && p->split == SPLIT_TEXT_END) p->split = SPLIT_DOCUMENTS; /* none is drawn */
    if (p->split != SPLIT_TEXT_END) return true;
    if (!knows_end)
        die_usage("--val_from=end is for files that are plain text, whose end is known; use --val_from=documents");
    int64_t bytes = job->files.bytes;
    p->train_bytes = (int64_t)((double)bytes * (1 - o->val_fraction));
    if (p->train_bytes == bytes)
        return error_set(error,
                         "a val_fraction of %g of %" PRId64 " bytes leaves nothing to validate on; give more "
                         "text, or --val_fraction=0 for no validation set",
                         o->val_fraction, bytes);
    if (p->train_bytes == 0)
        return error_set(error, "a val_fraction of %g of %" PRId64 " bytes leaves nothing to train on; give more text",
                         o->val_fraction, bytes);
    return true;
}

/* An option that changes nothing is a misunderstanding. */
static void check_effects(const Job *job) {
    const PrepareOptions *o = &job->options;
    bool is_shard = job->pipeline.split == SPLIT_FIRST_SHARD;
    if (o->has_val_fraction && is_shard)
        die_usage("--val_fraction has no effect with --val_from=first_shard; --shard_tokens says how much that is");
    if (o->has_split_seed && job->pipeline.split != SPLIT_DOCUMENTS)
        die_usage("--split_seed is for documents that are drawn; say --val_from=documents");
    if (o->has_shard_tokens && o->format == SHARD_NANOGPT && !is_shard)
        die_usage("--shard_tokens is for --format=llmc, or --val_from=first_shard; nanogpt has one train.bin");
}

static void settle_document_token(Job *job) {
    const PrepareOptions *o = &job->options;
    bool has_token = tokenizer_end_of_text(job->tokenizer) >= 0;
    int chosen = o->document_token;
    if (chosen > TOKEN_NOWHERE && !has_token)
        die_usage("--document_token: tokenizer %s has no token that stands between documents", o->tokenizer);
    if (chosen < 0) chosen = !has_token ? TOKEN_NOWHERE : o->format == SHARD_LLMC ? TOKEN_AT_BEGIN : TOKEN_AT_END;
    job->pipeline.document_token = (DocumentToken)chosen;
}

/* A token is at least a byte, so this is the most files that there can be; found out now, not after a million. */
static bool check_file_count(const Job *job, Error *error) {
    int64_t bytes = job->files.bytes, tokens = job->options.shard_tokens;
    if (job->options.format == SHARD_NANOGPT || !job->knows_bytes) return true;
    if (ceil_div(bytes, tokens) <= SHARD_WRITER_MAX_FILES) return true;
    return error_set(error,
                     "--shard_tokens=%" PRId64 " would cut %" PRId64 " bytes into more than %d files; give at least "
                     "%" PRId64,
                     tokens, bytes, SHARD_WRITER_MAX_FILES, ceil_div(bytes, SHARD_WRITER_MAX_FILES));
}

/* ---- for people ---- */

/* On a terminal a line that is written again and again; elsewhere, in a log, a line now and then. */
static void show_progress(void *context, int64_t bytes, int64_t tokens) {
    Job *job = context;
    double now = seconds_now(), passed = now - job->begun;
    bool on_terminal = isatty(STDERR_FILENO);
    if (!on_terminal && now < job->next_line) return;
    job->next_line = now + SECONDS_BETWEEN_LINES;
    char share[16] = "", left[64] = "";
    if (job->files.bytes > 0 && bytes > 0) {
        double done = (double)bytes / (double)job->files.bytes;
        char time[32];
        console_duration(passed * (1 / done - 1), time, sizeof time);
        snprintf(share, sizeof share, "%5.1f %% | ", 100 * done);
        snprintf(left, sizeof left, " | %s left", time);
    }
    fprintf(stderr, "%s%s%.1f GB, %.1f MB/s | %" PRId64 " tokens%s%s", on_terminal ? "\r" : "", share,
            (double)bytes * 1e-9, (double)bytes * 1e-6 / fmax(passed, 1e-6), tokens, left,
            on_terminal ? "\033[K" : "\n");
}

static void end_progress(void) {
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
}

static void print_part(const PrepareOptions *options, const char *split, const ShardWriter *writer) {
    int files = shard_writer_file_count(writer);
    printf("%-5s %12" PRId64 " tokens in %d file%s %s/%s%s.bin\n", split, shard_writer_token_count(writer), files,
           files == 1 ? " " : "s", options->out, split, options->format == SHARD_LLMC ? "_*" : "");
}

static void print_summary(const Job *job) {
    const PipelineCounts *counts = &job->counts;
    double seconds = seconds_now() - job->begun;
    printf("%" PRId64 " document%s, %" PRId64 " bytes of text in %.2f s (%.0f MB/s)\n", counts->documents,
           counts->documents == 1 ? "" : "s", counts->text_bytes, seconds,
           (double)counts->text_bytes / 1e6 / fmax(seconds, 1e-6));
    if (counts->bad_lines > 0) printf("%" PRId64 " bad lines were passed over\n", counts->bad_lines);
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

/* What tokens.json says, but for the list of files; the caller frees. NULL where memory runs out. */
static cJSON *describe(const Job *job) {
    const PrepareOptions *options = &job->options;
    cJSON *json = cJSON_CreateObject(), *source = cJSON_CreateStringArray(options->inputs, options->input_count);
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
    if (job->pipeline.split == SPLIT_TEXT_END && job->counts.text_bytes != job->files.bytes)
        return error_set(error, "the input changed while it was read: it had %" PRId64 " bytes, and then %" PRId64,
                         job->files.bytes, job->counts.text_bytes);
    if (job->counts.documents > 0 && job->counts.text_bytes == 0)
        return error_set(error, "there is no text in the input");
    bool wants_val = job->options.val_fraction > 0 || job->pipeline.split == SPLIT_FIRST_SHARD;
    if (wants_val && shard_writer_token_count(job->val) == 0 && job->counts.documents > 0)
        return error_set(error,
                         "none of the %" PRId64 " documents was drawn for validation; give more text, another "
                         "--split_seed, or --val_fraction=0 for no validation set",
                         job->counts.documents);
    if (shard_writer_token_count(job->train) > 0) return true;
    if (job->counts.documents == 0) return error_set(error, "there is no document in the input");
    return error_set(error, "nothing is left to train on: all %" PRId64 " tokens are for validation; give more text",
                     shard_writer_token_count(job->val));
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
    return ok && check_result(job, error) && shard_writer_finish(job->train, error) &&
           shard_writer_finish(job->val, error) && publish(job, error);
}

/* The true path of the folder, or of the nearest one above it that is there; the caller frees. */
static char *nearest_folder(const char *path) {
    char nearest[4096], above[4096], *real;
    snprintf(nearest, sizeof nearest, "%s", path);
    while (!(real = realpath(nearest, NULL)) && errno == ENOENT) {
        files_folder_of(nearest, above, sizeof above);
        memcpy(nearest, above, sizeof nearest);
    }
    return real;
}

/* Within a folder of texts, what this run writes would be text for the next one. */
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

/* ---- what the program does ---- */

static void open_tokenizer(Job *job) {
    const PrepareOptions *o = &job->options;
    Error error;
    if (!tokenizer_open(&job->tokenizer, o->tokenizer, o->vocabulary, &error)) die_usage("%s", error.text);
    if (!tokenizer_encodes(job->tokenizer))
        die_usage(
            "--vocab: %s has no merges, without which the tokenizer %s can only decode; bash data/gpt2/download.sh "
            "fetches them into " TOKENIZER_GPT2_FOLDER,
            vocabulary_folder(o), o->tokenizer);
}

static bool prepare(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    open_tokenizer(job);
    job->pipeline = (PipelineOptions){.tokenizer = job->tokenizer,
                                      .threads = o->threads,
                                      .val_fraction = o->val_fraction,
                                      .split_seed = o->split_seed,
                                      .shard_tokens = o->shard_tokens,
                                      .progress = show_progress,
                                      .progress_context = job};
    settle_document_token(job);
    if (!text_files_list(&job->files, o->inputs, o->input_count, error)) return false;
    job->knows_bytes = job->files.bytes >= 0 && text_files_are_plain(&job->files);
    if (!settle_split(job, error) || !check_file_count(job, error)) return false;
    check_effects(job);
    if (!check_folders(o, error) || !open_folder(job, error)) return false;
    job->begun = seconds_now();
    job->next_line = job->begun + SECONDS_BETWEEN_LINES;
    bool ok = write_output(job, error);
    if (ok) print_summary(job);
    return ok;
}

static bool prepare_hellaswag(Job *job, Error *error) {
    const PrepareOptions *o = &job->options;
    open_tokenizer(job);
    if (!files_make_folders(o->out, error)) return false;
    char *path = format_string("%s/hellaswag.bin", o->out);
    int examples;
    bool ok = hellaswag_prepare(o->inputs[0], job->tokenizer, path, &examples, error);
    if (ok) printf("%d examples in %s\n", examples, path);
    free(path);
    return ok;
}

int main(int argc, char **argv) {
    program_start("prepare_data", argv);
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is then a write that fails, like a full disk */
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
    return EXIT_DONE;
}
