/* prepare_data.c: the program that turns text into token files for training: its options, its output folder, and what it
 * tells people. The work is pipeline.c's; looking into token files is inspect.c's.
 *
 * A run writes under temporary names, and renames only when all is on the disk. While it renames, tokens.json is
 * missing: token files beside a tokens.json belong to it. A run that was stopped leaves nothing that another program would
 * take for its output, and the next one starts over. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/hellaswag.h"
#include "data/inspect.h"
#include "data/pipeline.h"
#include "util/files.h"
#include "util/stop_signal.h"

/* More would not be kept busy by one reader, and each takes memory. */
enum { MOST_THREADS = 32 };

/* Of progress, where there is no terminal. */
enum { SECONDS_BETWEEN_LINES = 30 };

typedef struct Options {
    const char *tokenizer, *vocabulary, *out;
    ShardFormat format;
    int64_t shard_tokens;
    DocumentFormat documents;
    int document_token; /* a DocumentToken, or -1: as the format has it */
    int val_from;       /* a ValidationSplit, or -1: by what the input is */
    double val_fraction;
    uint64_t split_seed;
    int threads;
    bool inspects, is_hellaswag;
    int64_t at;
    const char **inputs;
    int input_count;
} Options;

typedef struct Job {
    Options options;
    TextFiles files;
    Tokenizer *tokenizer;
    PipelineOptions pipeline;
    PipelineCounts counts;
    ShardWriter *train, *val;
    double begun, next_line;
} Job;

static const char usage[] =
    "usage: prepare_data --tokenizer=NAME [options] INPUT [...]\n"
    "       prepare_data --inspect [--at=POSITION] TOKENS.bin [...]\n"
    "       prepare_data --hellaswag --tokenizer=NAME [--vocab=DIR] [--out=DIR] hellaswag_val.jsonl\n"
    "\n"
    "Turns text into token files for training, and DIR/tokens.json, which says how they were made. An INPUT is a file, "
    "a\n"
    "folder (all files below it, by name) or - for standard input; .gz, .zst and .xz are unpacked. Each file is a\n"
    "document, unless --separator or --field says otherwise; documents follow each other in the order given. Files "
    "that an\n"
    "earlier run left in DIR are replaced when all new ones are complete.\n"
    "\n"
    "  --tokenizer=NAME        bytes: each byte is a token (vocab_size 256); gpt2: GPT-2's (vocab_size 50257)\n"
    "  --vocab=DIR             where encoder.json and vocab.bpe of gpt2 are (default data/gpt2)\n"
    "  --out=DIR               where to write; made if missing (default: the current folder)\n"
    "  --format=llmc|nanogpt   shards train_000000.bin, ..., val_000000.bin, ... as llm.c reads them (the default), "
    "or\n"
    "                          one train.bin and one val.bin as nanoGPT does; train_gpt2 takes both\n"
    "  --shard_tokens=N        tokens per shard (default 100000000)\n"
    "  --separator=LINE        documents are what stands between lines that are just this\n"
    "  --field=NAME            JSON Lines: each line is an object, and this member of it, a string, a document\n"
    "  --skip_bad_lines        pass over lines that are no such objects, and count them\n"
    "  --document_token=WHERE  begin, end or none: where token 50256 stands in each document (default: begin for llmc, "
    "end\n"
    "                          for nanogpt; none for bytes, which have no such token)\n"
    "  --val_from=WHAT         end: validation is the last val_fraction of the whole text, all documents joined;\n"
    "                          documents: each is drawn with that probability, by --split_seed; first_shard: the "
    "first\n"
    "                          shard_tokens tokens (default: end for plain files, else documents)\n"
    "  --val_fraction=X        0 <= X < 1 (default 0.1)\n"
    "  --split_seed=N          (default 2357)\n"
    "  --threads=N             that encode (default: one for each core)\n"
    "  --hellaswag             makes DIR/hellaswag.bin of HellaSwag's published JSON Lines, for data.hellaswag\n"
    "  --inspect               verifies token files and prints what is in them, with --at the text around a token\n"
    "  --help, --version       print this, or the version, and exit\n";

/* ---- the command line ---- */

/* The value of option `name` where argv[*i] is that option, as "--name=value" or "--name value"; else NULL. */
static const char *option_value(const char *name, int argc, char **argv, int *i) {
    const char *argument = argv[*i];
    size_t length = strlen(name);
    if (!argument || strncmp(argument, name, length) != 0) return NULL;
    if (argument[length] == '=') return argument + length + 1;
    if (argument[length] != 0) return NULL;
    if (*i + 1 >= argc) die_usage("%s needs a value; see prepare_data --help", name);
    return argv[++*i];
}

static double parse_fraction(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value < 1))
        die_usage("--val_fraction should be a number from 0 to below 1, not '%s'", text);
    return value;
}

static int64_t parse_whole(const char *name, const char *text, int64_t least, int64_t most) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < least || value > most)
        die_usage("%s should be a whole number from %" PRId64 " to %" PRId64 ", not '%s'", name, least, most, text);
    return value;
}

/* The place of `text` among `words`, which are one string with spaces between them. */
static int parse_word(const char *name, const char *text, const char *words) {
    size_t length = strlen(text);
    int index = 0;
    for (const char *word = words; *word; index++) {
        size_t word_length = strcspn(word, " ");
        if (length == word_length && strncmp(text, word, length) == 0) return index;
        word += word_length + strspn(word + word_length, " ");
    }
    die_usage("%s should be one of: %s; not '%s'", name, words, text);
}

static void print_and_exit(const char *text) {
    if (fputs(text, stdout) == EOF || fflush(stdout) != 0) die("cannot write to standard output: %s", strerror(errno));
    exit(EXIT_DONE);
}

static bool parse_flag(Options *options, const char *argument) {
    if (strcmp(argument, "--help") == 0) print_and_exit(usage);
    if (strcmp(argument, "--version") == 0) print_and_exit("prepare_data " MARS_VERSION "\n");
    if (strcmp(argument, "--skip_bad_lines") == 0) return options->documents.skip_bad_lines = true;
    if (strcmp(argument, "--inspect") == 0) return options->inspects = true;
    if (strcmp(argument, "--hellaswag") == 0) return options->is_hellaswag = true;
    return false;
}

static void parse_option(Options *options, int argc, char **argv, int *i) {
    const char *value;
    if (parse_flag(options, argv[*i])) return;
    if ((value = option_value("--tokenizer", argc, argv, i)))
        options->tokenizer = value;
    else if ((value = option_value("--vocab", argc, argv, i)))
        options->vocabulary = value;
    else if ((value = option_value("--out", argc, argv, i)))
        options->out = value;
    else if ((value = option_value("--format", argc, argv, i)))
        options->format = (ShardFormat)parse_word("--format", value, "llmc nanogpt");
    else if ((value = option_value("--shard_tokens", argc, argv, i)))
        options->shard_tokens = parse_whole("--shard_tokens", value, 1, INT32_MAX);
    else if ((value = option_value("--separator", argc, argv, i)))
        options->documents.separator = value;
    else if ((value = option_value("--field", argc, argv, i)))
        options->documents.field = value;
    else if ((value = option_value("--document_token", argc, argv, i)))
        options->document_token = parse_word("--document_token", value, "none begin end");
    else if ((value = option_value("--val_from", argc, argv, i)))
        options->val_from = parse_word("--val_from", value, "end documents first_shard");
    else if ((value = option_value("--val_fraction", argc, argv, i)))
        options->val_fraction = parse_fraction(value);
    else if ((value = option_value("--split_seed", argc, argv, i)))
        options->split_seed = (uint64_t)parse_whole("--split_seed", value, 0, INT64_MAX);
    else if ((value = option_value("--threads", argc, argv, i)))
        options->threads = (int)parse_whole("--threads", value, 1, MOST_THREADS);
    else if ((value = option_value("--at", argc, argv, i)))
        options->at = parse_whole("--at", value, 0, INT64_MAX);
    else
        die_usage("unknown option '%s'; see prepare_data --help", argv[*i]);
}

static int cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void check_options(const Options *o) {
    const char *separator = o->documents.separator;
    if (!o->inspects && o->at >= 0) die_usage("--at goes with --inspect");
    if (o->inspects && o->input_count == 0) die_usage("--inspect: name at least one token file");
    if (o->inspects && o->is_hellaswag) die_usage("--inspect looks into token files, which hellaswag.bin is none of");
    if (o->is_hellaswag && o->input_count != 1) die_usage("--hellaswag: name the one file of JSON Lines");
    if (o->inspects) return;
    if (!o->tokenizer) die_usage("no tokenizer: say --tokenizer=gpt2 or --tokenizer=bytes; see prepare_data --help");
    if (!*o->out) die_usage("--out should name a folder; leave it out for the current one");
    if (o->input_count == 0) die_usage("no input: name at least one text file; see prepare_data --help");
    if (separator && o->documents.field)
        die_usage("--separator is for plain text and --field for JSON Lines; give one");
    if (separator && (!*separator || strchr(separator, '\n'))) die_usage("--separator should be one line, not empty");
    if (o->documents.skip_bad_lines && !o->documents.field) die_usage("--skip_bad_lines goes with --field");
}

/* options.inputs point into argv. */
static Options parse_command_line(int argc, char **argv) {
    Options options = {.out = ".",
                       .shard_tokens = 100000000,
                       .document_token = -1,
                       .val_from = -1,
                       .val_fraction = 0.1,
                       .split_seed = 2357,
                       .threads = (int)min_i64(cores(), MOST_THREADS),
                       .at = -1};
    options.inputs = checked_calloc((size_t)argc, sizeof *options.inputs, "the list of inputs");
    bool only_inputs = false; /* after "--" */
    for (int i = 1; i < argc; i++) {
        if (only_inputs || argv[i][0] != '-' || argv[i][1] == 0)
            options.inputs[options.input_count++] = argv[i];
        else if (strcmp(argv[i], "--") == 0)
            only_inputs = true;
        else
            parse_option(&options, argc, argv, &i);
    }
    check_options(&options);
    return options;
}

/* ---- what the options mean for this input ---- */

/* Where the text ends is known before it is read only of plain files. */
static bool settle_split(Job *job, Error *error) {
    const Options *o = &job->options;
    bool whole_files = !o->documents.separator && !o->documents.field;
    bool knows_end = whole_files && job->files.bytes >= 0 && text_files_are_plain(&job->files);
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

static void settle_document_token(Job *job) {
    const Options *o = &job->options;
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
    if (job->options.format == SHARD_NANOGPT || bytes < 0 || !text_files_are_plain(&job->files)) return true;
    if (ceil_div(bytes, tokens) <= SHARD_WRITER_MAX_FILES) return true;
    return error_set(error,
                     "--shard_tokens=%" PRId64 " would cut %" PRId64 " bytes into more than %d files; give at least "
                     "%" PRId64,
                     tokens, bytes, SHARD_WRITER_MAX_FILES, ceil_div(bytes, SHARD_WRITER_MAX_FILES));
}

/* ---- for people ---- */

static void print_time(char *text, size_t bytes, double seconds) {
    long left = lround(seconds);
    if (left >= 3600)
        snprintf(text, bytes, "%ldh %02ldm", left / 3600, left / 60 % 60);
    else
        snprintf(text, bytes, "%ldm %02lds", left / 60, left % 60);
}

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
        print_time(time, sizeof time, passed * (1 / done - 1));
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

static void print_part(const Options *options, const char *split, const ShardWriter *writer) {
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
    static const char *const tokens[] = {"none", "begin", "end"};
    static const char *const splits[] = {"end", "documents", "first_shard"};
    const Options *o = &job->options;
    return cJSON_AddStringToObject(json, "tokenizer", tokenizer_name(job->tokenizer)) &&
           cJSON_AddNumberToObject(json, "vocab_size", tokenizer_vocab_size(job->tokenizer)) &&
           cJSON_AddStringToObject(json, "format", o->format == SHARD_LLMC ? "llmc" : "nanogpt") &&
           cJSON_AddStringToObject(json, "document_token", tokens[job->pipeline.document_token]) &&
           cJSON_AddStringToObject(json, "val_from", splits[job->pipeline.split]);
}

/* The text of tokens.json, which the caller frees; NULL where memory runs out. */
static char *describe(const Job *job) {
    const Options *options = &job->options;
    cJSON *json = cJSON_CreateObject(), *source = cJSON_CreateStringArray(options->inputs, options->input_count);
    bool ok = add_texts(json, job) && cJSON_AddNumberToObject(json, "documents", (double)job->counts.documents) &&
              cJSON_AddNumberToObject(json, "train_tokens", (double)shard_writer_token_count(job->train)) &&
              cJSON_AddNumberToObject(json, "val_tokens", (double)shard_writer_token_count(job->val)) &&
              cJSON_AddItemToObject(json, "source", source) &&
              cJSON_AddStringToObject(json, "created_by", "prepare_data " MARS_VERSION);
    char *text = ok ? cJSON_Print(json) : NULL;
    cJSON_Delete(json);
    return text;
}

/* tokens.json under its temporary name, on the disk. */
static bool write_description(const Job *job, const char *path, Error *error) {
    char *text = describe(job);
    if (!text) return error_set(error, "out of memory for the text of tokens.json");
    FILE *file = fopen(path, "wb");
    bool ok = file && fprintf(file, "%s\n", text) > 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (!ok) error_set(error, "cannot write %s: %s", path, strerror(errno));
    if (file && fclose(file) != 0 && ok) ok = error_set(error, "cannot write %s: %s", path, strerror(errno));
    free(text);
    return ok;
}

/* The vocabulary lies beside tokens.json, as what reads one needs the other. */
static bool copy_vocabulary(const Job *job, Error *error) {
    static const char *const names[] = {"encoder.json", "vocab.bpe", "vocab.json", "merges.txt"};
    const Options *o = &job->options;
    if (strcmp(o->tokenizer, "gpt2") != 0) return true;
    bool ok = true;
    for (size_t i = 0; i < ARRAY_LENGTH(names) && ok; i++) {
        char *from = format_string("%s/%s", o->vocabulary ? o->vocabulary : TOKENIZER_GPT2_FOLDER, names[i]);
        char *to = format_string("%s/%s", o->out, names[i]), *temporary = format_string("%s/.%s.tmp", o->out, names[i]);
        struct stat source, target;
        bool is_there = stat(from, &source) == 0;
        bool is_same = stat(to, &target) == 0 && source.st_ino == target.st_ino && source.st_dev == target.st_dev;
        if (is_there && !is_same) {
            ok = files_copy(from, temporary, NULL, NULL, error);
            if (ok && rename(temporary, to) != 0)
                ok = error_set(error, "cannot rename %s to %s: %s", temporary, to, strerror(errno));
        }
        free(from);
        free(to);
        free(temporary);
    }
    return ok;
}

static bool publish(Job *job, int folder, const char *temporary, const char *description, Error *error) {
    if (unlink(description) != 0 && errno != ENOENT)
        return error_set(error, "cannot replace %s: %s", description, strerror(errno));
    if (!shard_writer_publish(job->train, error) || !shard_writer_publish(job->val, error)) return false;
    if (!copy_vocabulary(job, error)) return false;
    if (rename(temporary, description) != 0)
        return error_set(error, "cannot rename %s to %s: %s", temporary, description, strerror(errno));
    if (fsync(folder) != 0) return error_set(error, "cannot sync %s: %s", job->options.out, strerror(errno));
    return true;
}

static bool check_result(const Job *job, Error *error) {
    if (job->pipeline.split == SPLIT_TEXT_END && job->counts.text_bytes != job->files.bytes)
        return error_set(error, "the input changed while it was read: it had %" PRId64 " bytes, and then %" PRId64,
                         job->files.bytes, job->counts.text_bytes);
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

/* From the inputs to the finished folder, whose descriptor is `folder`. */
static bool write_output(Job *job, int folder, Error *error) {
    const Options *o = &job->options;
    char *description = format_string("%s/tokens.json", o->out);
    char *temporary = format_string("%s/.tokens.json.tmp", o->out);
    job->train = shard_writer_open(o->out, "train", o->format, o->shard_tokens);
    job->val = shard_writer_open(o->out, "val", o->format, o->shard_tokens);
    bool ok = pipeline_run(&job->pipeline, &job->files, &o->documents, job->train, job->val, &job->counts, error);
    end_progress();
    ok = ok && check_result(job, error) && shard_writer_finish(job->train, error) &&
         shard_writer_finish(job->val, error) && write_description(job, temporary, error) &&
         publish(job, folder, temporary, description, error);
    if (!ok) unlink(temporary);
    free(description);
    free(temporary);
    return ok;
}

/* The output folder's descriptor, or -1. Two runs at once would write into each other's temporary files, hence the
 * lock, which ends with the process; where the file system has none, the run goes on without. */
static int open_folder(const char *path, Error *error) {
    if (!files_make_folders(path, error)) return -1;
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        error_set(error, "cannot open the folder %s: %s", path, strerror(errno));
    } else if (flock(folder, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        error_set(error, "another prepare_data is writing to %s", path);
        close(folder);
        folder = -1;
    }
    return folder;
}

/* ---- what the program does ---- */

static bool prepare(Job *job, Error *error) {
    const Options *o = &job->options;
    if (!tokenizer_open(&job->tokenizer, o->tokenizer, o->vocabulary, error)) die_usage("%s", error->text);
    job->pipeline = (PipelineOptions){.tokenizer = job->tokenizer,
                                      .threads = o->threads,
                                      .val_fraction = o->val_fraction,
                                      .split_seed = o->split_seed,
                                      .shard_tokens = o->shard_tokens,
                                      .progress = show_progress,
                                      .progress_context = job};
    settle_document_token(job);
    if (!text_files_list(&job->files, o->inputs, o->input_count, error)) return false;
    if (!settle_split(job, error) || !check_file_count(job, error)) return false;
    int folder = open_folder(o->out, error);
    if (folder < 0) return false;
    job->begun = seconds_now();
    job->next_line = job->begun + SECONDS_BETWEEN_LINES;
    bool ok = write_output(job, folder, error);
    if (ok) print_summary(job);
    close(folder);
    return ok;
}

static bool prepare_hellaswag(Job *job, Error *error) {
    const Options *o = &job->options;
    if (!tokenizer_open(&job->tokenizer, o->tokenizer, o->vocabulary, error)) die_usage("%s", error->text);
    if (!files_make_folders(o->out, error)) return false;
    char *path = format_string("%s/hellaswag.bin", o->out);
    int examples;
    bool ok = hellaswag_prepare(o->inputs[0], job->tokenizer, path, &examples, error);
    if (ok) printf("%d examples in %s\n", examples, path);
    free(path);
    return ok;
}

int main(int argc, char **argv) {
    base_set_program("prepare_data");
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is then a write that fails, like a full disk */
    Error error;
    Job job = {.options = parse_command_line(argc, argv)};
    const Options *o = &job.options;
    bool ok;
    if (o->inspects) {
        ok = inspect(&(InspectOptions){o->inputs, o->input_count, o->tokenizer, o->vocabulary, o->at}, &error);
    } else if (o->is_hellaswag) {
        ok = prepare_hellaswag(&job, &error);
    } else {
        stop_signal_listen();
        ok = prepare(&job, &error);
    }
    shard_writer_close(job.train);
    shard_writer_close(job.val);
    tokenizer_close(job.tokenizer);
    text_files_free(&job.files);
    free(job.options.inputs);
    if (!ok) die("%s", error.text);
    return EXIT_DONE;
}
