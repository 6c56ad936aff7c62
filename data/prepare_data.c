/* prepare_data.c: the program that turns text files into token files for training.
 *
 * Each input file is a document; documents follow each other in the order of the command line. The last val_fraction
 * of that whole text becomes the validation set, as nanoGPT splits its Shakespeare: with one document or few there is
 * nothing to draw from, and what was not seen should not lie in between what was. The sizes of the files tell where to
 * split before anything is read, so the text passes once through a buffer of fixed size, however long it is; that is
 * why input must be regular files and not a pipe.
 *
 * A run writes under temporary names, and renames only when all is on the disk. While it renames, tokens.json is
 * missing: shards beside a tokens.json belong to it. The formats are shard_writer.c's and tokenizer.c's business. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/shard_writer.h"
#include "data/tokenizer.h"

/* Each read has room for a million bytes behind what the tokenizer left of the one before. */
enum { CHUNK_BYTES = 1000000 + TOKENIZER_MAX_LEFT };

typedef struct Options {
    const char *tokenizer, *out;
    double val_fraction;
    int64_t shard_tokens;
    const char **inputs;
    int input_count;
} Options;

typedef struct Job {
    Options options;
    int64_t *sizes; /* bytes of each input */
    int64_t bytes, train_bytes;
    Tokenizer *tokenizer;
    Encoder *encoder;
    ShardWriter *train, *val;
    char *chunk;        /* CHUNK_BYTES of text */
    TokenBuffer tokens; /* of the chunk */
} Job;

static const char usage[] =
    "usage: prepare_data --tokenizer=NAME [options] INPUT.txt [...]\n"
    "\n"
    "Turns text files into token files for training: DIR/train_000000.bin, ..., DIR/val_000000.bin, ... (llm.c's\n"
    "format), and DIR/tokens.json, which says how they were made. Each INPUT is a document; they are joined in the\n"
    "order given. Files that an earlier run left in DIR are replaced when all new ones are complete.\n"
    "\n"
    "  --tokenizer=NAME        bytes: each byte is a token (vocab_size 256)\n"
    "  --out=DIR               where to write; made if missing (default: the current folder)\n"
    "  --val_fraction=X        how much becomes validation data, 0 <= X < 1: the last X of the whole text, of all\n"
    "                          documents joined (default 0.1)\n"
    "  --shard_tokens=N        tokens per file (default 100000000)\n"
    "  --help, --version       print this, or the version, and exit\n";

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

static int64_t parse_shard_tokens(const char *text) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < 1 || value > INT32_MAX)
        die_usage("--shard_tokens should be a whole number from 1 to %" PRId32 ", not '%s'", INT32_MAX, text);
    return value;
}

static void print_and_exit(const char *text) {
    if (fputs(text, stdout) == EOF || fflush(stdout) != 0) die("cannot write to standard output: %s", strerror(errno));
    exit(EXIT_DONE);
}

static void parse_option(Options *options, int argc, char **argv, int *i) {
    const char *argument = argv[*i], *value;
    if (strcmp(argument, "--help") == 0) print_and_exit(usage);
    if (strcmp(argument, "--version") == 0) print_and_exit("prepare_data " MARS_VERSION "\n");
    if (strcmp(argument, "-") == 0)
        die_usage("standard input cannot be read: where validation begins depends on the size; save it to a file");
    if ((value = option_value("--tokenizer", argc, argv, i)))
        options->tokenizer = value;
    else if ((value = option_value("--out", argc, argv, i)))
        options->out = value;
    else if ((value = option_value("--val_fraction", argc, argv, i)))
        options->val_fraction = parse_fraction(value);
    else if ((value = option_value("--shard_tokens", argc, argv, i)))
        options->shard_tokens = parse_shard_tokens(value);
    else
        die_usage("unknown option '%s'; see prepare_data --help", argument);
}

/* options.inputs point into argv. */
static Options parse_command_line(int argc, char **argv) {
    Options options = {.out = ".", .val_fraction = 0.1, .shard_tokens = 100000000};
    options.inputs = checked_calloc((size_t)argc, sizeof *options.inputs, "the list of inputs");
    bool only_inputs = false; /* after "--" */
    for (int i = 1; i < argc; i++) {
        if (only_inputs || argv[i][0] != '-')
            options.inputs[options.input_count++] = argv[i];
        else if (strcmp(argv[i], "--") == 0)
            only_inputs = true;
        else
            parse_option(&options, argc, argv, &i);
    }
    if (!options.tokenizer) die_usage("no tokenizer: say --tokenizer=bytes; see prepare_data --help");
    if (!*options.out) die_usage("--out should name a folder; leave it out for the current one");
    if (options.input_count == 0) die_usage("no input: name at least one text file; see prepare_data --help");
    return options;
}

/* Sizes of the inputs, and from them where validation begins. */
static bool measure_inputs(Job *job, Error *error) {
    const Options *options = &job->options;
    for (int i = 0; i < options->input_count; i++) {
        const char *path = options->inputs[i];
        struct stat status;
        if (stat(path, &status) != 0) return error_set(error, "cannot read %s: %s", path, strerror(errno));
        if (!S_ISREG(status.st_mode))
            return error_set(error, "%s is %s; inputs are regular files", path,
                             S_ISDIR(status.st_mode) ? "a folder" : "a pipe or a device");
        if (status.st_size == 0) return error_set(error, "%s is empty", path);
        job->sizes[i] = status.st_size;
        job->bytes += status.st_size;
    }
    job->train_bytes = (int64_t)((double)job->bytes * (1 - options->val_fraction));
    if (job->train_bytes == job->bytes && options->val_fraction > 0)
        return error_set(error,
                         "a val_fraction of %g of %" PRId64 " bytes leaves nothing to validate on; give more "
                         "text, or --val_fraction=0 for no validation set",
                         options->val_fraction, job->bytes);
    if (job->train_bytes == 0)
        return error_set(error, "a val_fraction of %g of %" PRId64 " bytes leaves nothing to train on; give more text",
                         options->val_fraction, job->bytes);
    /* A token is at least a byte, so this is the most files that there can be; found out now, not after a million. */
    if (ceil_div(job->bytes, options->shard_tokens) > SHARD_WRITER_MAX_FILES)
        return error_set(error,
                         "--shard_tokens=%" PRId64 " would cut %" PRId64 " bytes into more than %d files; "
                         "give at least %" PRId64,
                         options->shard_tokens, job->bytes, SHARD_WRITER_MAX_FILES,
                         ceil_div(job->bytes, SHARD_WRITER_MAX_FILES));
    return true;
}

/* The next `bytes` of the file to `writer`. */
static bool convert_part(Job *job, int file, const char *path, int64_t bytes, ShardWriter *writer, Error *error) {
    size_t left = 0; /* bytes at the start of the chunk that the tokenizer left for later */
    while (bytes > 0) {
        ssize_t got = read(file, job->chunk + left, (size_t)min_i64(bytes, (int64_t)(CHUNK_BYTES - left)));
        if (got < 0) return error_set(error, "cannot read %s: %s", path, strerror(errno));
        if (got == 0) return error_set(error, "%s was cut while it was read", path);
        bytes -= got;
        size_t have = left + (size_t)got;
        size_t used = encoder_encode(job->encoder, job->chunk, have, bytes == 0, &job->tokens);
        left = have - used;
        memmove(job->chunk, job->chunk + used, left);
        bool ok = shard_writer_append(writer, job->tokens.tokens, job->tokens.count, error);
        job->tokens.count = 0;
        if (!ok) return false;
    }
    return true;
}

static bool convert_input(Job *job, int index, int64_t train_bytes, Error *error) {
    const char *path = job->options.inputs[index];
    int64_t bytes = job->sizes[index];
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return error_set(error, "cannot read %s: %s", path, strerror(errno));
    bool ok = (fstat(file, &status) == 0 && status.st_size == bytes) ||
              error_set(error, "%s changed while the inputs were read", path);
    ok = ok && convert_part(job, file, path, train_bytes, job->train, error) &&
         convert_part(job, file, path, bytes - train_bytes, job->val, error);
    close(file);
    return ok;
}

static bool convert_inputs(Job *job, Error *error) {
    int64_t train_left = job->train_bytes;
    for (int i = 0; i < job->options.input_count; i++) {
        int64_t train_bytes = min_i64(job->sizes[i], train_left);
        if (!convert_input(job, i, train_bytes, error)) return false;
        train_left -= train_bytes;
    }
    return true;
}

/* The text of tokens.json, which the caller frees; NULL where memory runs out. */
static char *describe(const Job *job) {
    const Options *options = &job->options;
    cJSON *json = cJSON_CreateObject(), *source = cJSON_CreateStringArray(options->inputs, options->input_count);
    bool ok = cJSON_AddStringToObject(json, "tokenizer", tokenizer_name(job->tokenizer)) &&
              cJSON_AddNumberToObject(json, "vocab_size", tokenizer_vocab_size(job->tokenizer)) &&
              cJSON_AddNumberToObject(json, "documents", options->input_count) &&
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

static bool publish(Job *job, int folder, const char *temporary, const char *description, Error *error) {
    if (unlink(description) != 0 && errno != ENOENT)
        return error_set(error, "cannot replace %s: %s", description, strerror(errno));
    if (!shard_writer_publish(job->train, error) || !shard_writer_publish(job->val, error)) return false;
    if (rename(temporary, description) != 0)
        return error_set(error, "cannot rename %s to %s: %s", temporary, description, strerror(errno));
    if (fsync(folder) != 0) return error_set(error, "cannot sync %s: %s", job->options.out, strerror(errno));
    return true;
}

/* From the inputs to the finished folder, whose descriptor is `folder`. */
static bool write_output(Job *job, int folder, Error *error) {
    const Options *options = &job->options;
    char *description = format_string("%s/tokens.json", options->out);
    char *temporary = format_string("%s/.tokens.json.tmp", options->out);
    job->train = shard_writer_open(options->out, "train", options->shard_tokens);
    job->val = shard_writer_open(options->out, "val", options->shard_tokens);
    bool ok = convert_inputs(job, error) && shard_writer_finish(job->train, error) &&
              shard_writer_finish(job->val, error) && write_description(job, temporary, error) &&
              publish(job, folder, temporary, description, error);
    if (!ok) unlink(temporary);
    free(description);
    free(temporary);
    return ok;
}

/* Makes the folder and those above it, like mkdir -p. */
static bool make_folder(const char *path, Error *error) {
    char *partial = checked_strdup(path);
    bool ok = true;
    for (char *end = partial; ok && *end;) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        char next = *end;
        *end = 0;
        if (mkdir(partial, 0777) != 0 && errno != EEXIST)
            ok = error_set(error, "cannot make the folder %s: %s", partial, strerror(errno));
        *end = next;
    }
    free(partial);
    return ok;
}

/* The output folder's descriptor, or -1. Two runs at once would write into each other's temporary files, hence the
 * lock, which ends with the process; where the file system has none, the run goes on without. */
static int open_folder(const char *path, Error *error) {
    if (!make_folder(path, error)) return -1;
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

static void print_part(const Options *options, const char *split, const ShardWriter *writer) {
    int files = shard_writer_file_count(writer);
    printf("%-5s %12" PRId64 " tokens in %d file%s %s/%s_*.bin\n", split, shard_writer_token_count(writer), files,
           files == 1 ? " " : "s", options->out, split);
}

static void print_summary(const Job *job, double seconds) {
    int documents = job->options.input_count;
    printf("%d document%s, %" PRId64 " bytes in %.2f s (%.0f MB/s)\n", documents, documents == 1 ? "" : "s", job->bytes,
           seconds, (double)job->bytes / 1e6 / fmax(seconds, 1e-6));
    print_part(&job->options, "train", job->train);
    if (job->bytes > job->train_bytes) print_part(&job->options, "val", job->val);
}

int main(int argc, char **argv) {
    base_set_program("prepare_data");
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is then a write that fails, like a full disk */
    Error error;
    Job job = {.options = parse_command_line(argc, argv)};
    if (!tokenizer_open(&job.tokenizer, job.options.tokenizer, NULL, &error)) die_usage("%s", error.text);
    job.encoder = encoder_open(job.tokenizer);
    job.sizes = checked_calloc((size_t)job.options.input_count, sizeof *job.sizes, "the sizes of the inputs");
    job.chunk = checked_malloc(CHUNK_BYTES, "text");
    double start = seconds_now();
    if (!measure_inputs(&job, &error)) die("%s", error.text);
    int folder = open_folder(job.options.out, &error);
    if (folder < 0) die("%s", error.text);
    bool ok = write_output(&job, folder, &error);
    if (ok) print_summary(&job, seconds_now() - start);

    shard_writer_close(job.train);
    shard_writer_close(job.val);
    encoder_close(job.encoder);
    tokenizer_close(job.tokenizer);
    token_buffer_free(&job.tokens);
    free(job.chunk);
    free(job.sizes);
    free(job.options.inputs);
    close(folder);
    if (!ok) die("%s", error.text);
    return EXIT_DONE;
}
