/* prepare_options.c: see prepare_options.h. An option that has no effect with the others is an error. */
#include "data/prepare/prepare_options.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/prepare/pipeline.h"
#include "util/files.h"

/* One reader could not keep more threads busy, and each takes memory. */
enum { MAX_THREADS = 32 };

static const char usage[] =
    "usage: prepare_data --tokenizer=NAME --out=DIR [options] INPUT [...]\n"
    "       prepare_data --inspect [--at=POSITION] TOKENS.bin [...]\n"
    "       prepare_data --hellaswag --tokenizer=NAME [--vocab=DIR] --out=DIR hellaswag_val.jsonl\n"
    "\n"
    "Turns text into token files for training, and DIR/tokens.json, which says how they were made. An INPUT is\n"
    "a file, a folder (all files below it, by name) or - for standard input; .gz, .zst and .xz are unpacked. Each\n"
    "file is a document, unless --separator or --field says otherwise; documents follow each other in the order\n"
    "given. Files that an earlier run made in DIR are replaced when all new ones are complete.\n"
    "\n"
    "  --tokenizer=NAME        bytes: each byte is a token (vocab_size 256); gpt2: GPT-2's (vocab_size 50257)\n"
    "  --vocab=DIR             where encoder.json and vocab.bpe of gpt2 are (default data/gpt2)\n"
    "  --out=DIR               where to write; made if missing. Only files that tokens.json there lists are replaced\n"
    "  --format=llmc|nanogpt   shards train_000000.bin, ..., val_000000.bin, ... as llm.c reads them (the\n"
    "                          default), or one train.bin and one val.bin as nanoGPT does; train_gpt2 takes both\n"
    "  --shard_tokens=N        tokens per shard (default 100000000)\n"
    "  --separator=LINE        documents are what stands between lines that are just this\n"
    "  --field=NAME            JSON Lines: each line is an object, and this member of it, a string, a document\n"
    "  --skip_bad_lines        pass over lines that are no such objects, and count them\n"
    "  --document_token=WHERE  begin, end or none: where token 50256 stands in each document (default: begin for\n"
    "                          llmc, end for nanogpt; none for bytes, which have no such token)\n"
    "  --val_from=WHAT         end: validation is the last val_fraction of the whole text, all documents joined,\n"
    "                          which is read twice unless it is plain files, and copied to DIR from a pipe;\n"
    "                          documents: each is drawn with that probability, by --split_seed; first_shard: the\n"
    "                          first shard_tokens tokens (default: end for plain files and for a single file that\n"
    "                          is a document, else documents)\n"
    "  --val_fraction=X        0 <= X < 1 (default 0.1)\n"
    "  --split_seed=N          (default 2357)\n"
    "  --threads=N             that encode (default: one for each core)\n"
    "  --hellaswag             makes DIR/hellaswag.bin of HellaSwag's published JSON Lines, for data.hellaswag\n"
    "  --inspect               verifies token files and prints what is in them, with --at the text around a token\n"
    "  --help, --version       print this, or the version, and exit\n";

const char *const prepare_format_names[] = {[SHARD_LLMC] = "llmc", [SHARD_NANOGPT] = "nanogpt", NULL};
const char *const prepare_token_names[] = {
    [TOKEN_NOWHERE] = "none", [TOKEN_AT_BEGIN] = "begin", [TOKEN_AT_END] = "end", NULL};
const char *const prepare_split_names[] = {
    [SPLIT_TEXT_END] = "end", [SPLIT_DOCUMENTS] = "documents", [SPLIT_FIRST_SHARD] = "first_shard", NULL};

/* ---- values ---- */

static double parse_fraction(const char *name, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value < 1))
        die_usage("%s=%s: expected a number from 0 to below 1; see prepare_data --help", name, text);
    return value;
}

static int64_t parse_whole(const char *name, const char *text, int64_t least, int64_t limit) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < least || value > limit)
        die_usage("%s=%s: expected a whole number from %" PRId64 " to %" PRId64 "; see prepare_data --help", name, text,
                  least, limit);
    return value;
}

/* The place of `text` among `words`. */
static int parse_word(const char *name, const char *text, const char *const *words) {
    char listed[256] = "";
    for (int i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) return i;
        size_t length = strlen(listed);
        snprintf(listed + length, sizeof listed - length, "%s%s", i > 0 ? " " : "", words[i]);
    }
    die_usage("%s=%s: expected one of: %s; see prepare_data --help", name, text, listed);
}

/* The shell does not replace a ~ after "--out=". */
static char *parse_folder(const char *name, const char *text) {
    if (!*text) die_usage("%s=: expected the name of a folder; see prepare_data --help", name);
    char *folder = files_expand_home(text);
    if (folder[0] != '~') return folder;
    free(folder);
    die_usage("%s is '%s', and there is no such user; write the folder in full, or ./~", name, text);
}

static void print_and_exit(const char *text) {
    if (fputs(text, stdout) == EOF || fflush(stdout) != 0) die("cannot write to standard output: %s", strerror(errno));
    exit(EXIT_DONE);
}

/* ---- options ---- */

typedef enum OptionName {
    OPTION_TOKENIZER,
    OPTION_VOCAB,
    OPTION_OUT,
    OPTION_FORMAT,
    OPTION_SHARD_TOKENS,
    OPTION_SEPARATOR,
    OPTION_FIELD,
    OPTION_DOCUMENT_TOKEN,
    OPTION_VAL_FROM,
    OPTION_VAL_FRACTION,
    OPTION_SPLIT_SEED,
    OPTION_THREADS,
    OPTION_AT,
    OPTION_SKIP_BAD_LINES, /* options from here on have no value */
    OPTION_INSPECT,
    OPTION_HELLASWAG,
    OPTION_HELP,
    OPTION_VERSION
} OptionName;

/* Each option with the tasks that it applies to. */
static const struct {
    const char *name;
    int tasks;
} known_options[] = {
    [OPTION_TOKENIZER] = {"--tokenizer", TASK_PREPARE | TASK_INSPECT | TASK_HELLASWAG},
    [OPTION_VOCAB] = {"--vocab", TASK_PREPARE | TASK_INSPECT | TASK_HELLASWAG},
    [OPTION_OUT] = {"--out", TASK_PREPARE | TASK_HELLASWAG},
    [OPTION_FORMAT] = {"--format", TASK_PREPARE},
    [OPTION_SHARD_TOKENS] = {"--shard_tokens", TASK_PREPARE},
    [OPTION_SEPARATOR] = {"--separator", TASK_PREPARE},
    [OPTION_FIELD] = {"--field", TASK_PREPARE},
    [OPTION_DOCUMENT_TOKEN] = {"--document_token", TASK_PREPARE},
    [OPTION_VAL_FROM] = {"--val_from", TASK_PREPARE},
    [OPTION_VAL_FRACTION] = {"--val_fraction", TASK_PREPARE},
    [OPTION_SPLIT_SEED] = {"--split_seed", TASK_PREPARE},
    [OPTION_THREADS] = {"--threads", TASK_PREPARE},
    [OPTION_AT] = {"--at", TASK_INSPECT},
    [OPTION_SKIP_BAD_LINES] = {"--skip_bad_lines", TASK_PREPARE},
    [OPTION_INSPECT] = {"--inspect", TASK_INSPECT},
    [OPTION_HELLASWAG] = {"--hellaswag", TASK_HELLASWAG},
    [OPTION_HELP] = {"--help", 0},
    [OPTION_VERSION] = {"--version", 0},
};

static void set_flag(PrepareOptions *options, OptionName option) {
    switch (option) {
    case OPTION_HELP:
        print_and_exit(usage);
        break;
    case OPTION_VERSION:
        print_and_exit("prepare_data " MARS_VERSION "\n");
        break;
    case OPTION_SKIP_BAD_LINES:
        options->documents.skip_bad_lines = true;
        break;
    case OPTION_INSPECT:
        options->task = TASK_INSPECT;
        break;
    default:
        options->task = TASK_HELLASWAG;
    }
}

static void set_value(PrepareOptions *options, OptionName option, const char *value) {
    const char *name = known_options[option].name;
    switch (option) {
    case OPTION_TOKENIZER:
        options->tokenizer = value;
        break;
    case OPTION_VOCAB:
        free(options->vocabulary);
        options->vocabulary = parse_folder(name, value);
        break;
    case OPTION_OUT:
        free(options->out);
        options->out = parse_folder(name, value);
        break;
    case OPTION_FORMAT:
        options->format = (ShardFormat)parse_word(name, value, prepare_format_names);
        break;
    case OPTION_SHARD_TOKENS:
        options->shard_tokens = parse_whole(name, value, 1, INT32_MAX);
        break;
    case OPTION_SEPARATOR:
        options->documents.separator = value;
        break;
    case OPTION_FIELD:
        options->documents.field = value;
        break;
    case OPTION_DOCUMENT_TOKEN:
        options->document_token = parse_word(name, value, prepare_token_names);
        break;
    case OPTION_VAL_FROM:
        options->val_from = parse_word(name, value, prepare_split_names);
        break;
    case OPTION_VAL_FRACTION:
        options->val_fraction = parse_fraction(name, value);
        break;
    case OPTION_SPLIT_SEED:
        options->split_seed = (uint64_t)parse_whole(name, value, 0, INT64_MAX);
        break;
    case OPTION_THREADS:
        options->threads = (int)parse_whole(name, value, 1, MAX_THREADS);
        break;
    default:
        options->at = parse_whole(name, value, 0, INT64_MAX);
    }
}

/* Reads the option argv[*i], with its value as "--name=value" or "--name value". */
static OptionName parse_option(PrepareOptions *options, int argc, char **argv, int *i) {
    const char *argument = argv[*i];
    size_t length = strcspn(argument, "=");
    for (OptionName option = 0; option < ARRAY_LENGTH(known_options); option++) {
        const char *name = known_options[option].name;
        if (strlen(name) != length || strncmp(argument, name, length) != 0) continue;
        bool has_value = argument[length] == '=';
        if (option < OPTION_SKIP_BAD_LINES) {
            if (!has_value && *i + 1 >= argc) die_usage("%s needs a value; see prepare_data --help", name);
            set_value(options, option, has_value ? argument + length + 1 : argv[++*i]);
            return option;
        }
        if (has_value) die_usage("%s takes no value; leave out '%s'", name, argument + length);
        set_flag(options, option);
        return option;
    }
    if (access(argument, F_OK) == 0) die_usage("unknown option '%s'; write the file as ./%s", argument, argument);
    die_usage("unknown option '%s'; see prepare_data --help", argument);
}

/* ---- the command line ---- */

static bool is_given(unsigned given, OptionName option) { return given >> option & 1; }

static void note_option(unsigned *given, OptionName option) {
    if (is_given(*given, option)) die_usage("%s is given twice; leave one out", known_options[option].name);
    *given |= 1u << option;
}

static void check_task(const PrepareOptions *o, unsigned given) {
    if (is_given(given, OPTION_INSPECT) && is_given(given, OPTION_HELLASWAG))
        die_usage("--inspect looks into token files, which hellaswag.bin is none of");
    if (is_given(given, OPTION_AT) && o->task != TASK_INSPECT) die_usage("--at goes with --inspect");
    for (OptionName option = 0; option < ARRAY_LENGTH(known_options); option++)
        if (is_given(given, option) && !(known_options[option].tasks & (int)o->task))
            die_usage("%s has no effect with %s; leave it out", known_options[option].name,
                      o->task == TASK_INSPECT ? "--inspect" : "--hellaswag");
    if (o->task == TASK_INSPECT && o->input_count == 0) die_usage("--inspect: name at least one token file");
    if (o->task == TASK_HELLASWAG && o->input_count != 1) die_usage("--hellaswag: name the one file of JSON Lines");
}

static void check_values(const PrepareOptions *o) {
    const char *separator = o->documents.separator;
    if (o->tokenizer && strcmp(o->tokenizer, "bytes") == 0 && o->vocabulary)
        die_usage("--vocab is for --tokenizer=gpt2; leave it out");
    if (o->task == TASK_INSPECT) return;
    if (!o->tokenizer) die_usage("no tokenizer: say --tokenizer=gpt2 or --tokenizer=bytes; see prepare_data --help");
    if (!o->out) die_usage("no output folder: name one with --out=DIR; see prepare_data --help");
    if (o->input_count == 0) die_usage("no input: name at least one text file; see prepare_data --help");
    if (separator && o->documents.field)
        die_usage("--separator is for plain text and --field for JSON Lines; give one");
    if (separator && (!*separator || strchr(separator, '\n'))) die_usage("--separator should be one line, not empty");
    if (o->documents.skip_bad_lines && !o->documents.field) die_usage("--skip_bad_lines goes with --field");
}

static int cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

PrepareOptions prepare_options_parse(int argc, char **argv) {
    static PrepareOptions options; /* so that a leak checker finds its strings when a mistake ends the program */
    options = (PrepareOptions){.task = TASK_PREPARE,
                               .shard_tokens = 100000000,
                               .document_token = -1,
                               .val_from = -1,
                               .val_fraction = 0.1,
                               .split_seed = 2357,
                               .threads = (int)min_i64(cores(), MAX_THREADS),
                               .at = -1};
    options.inputs = checked_calloc((size_t)argc, sizeof *options.inputs, "the list of inputs");
    bool only_inputs = false; /* after "--" */
    unsigned given = 0;
    for (int i = 1; i < argc; i++) {
        if (only_inputs || argv[i][0] != '-' || argv[i][1] == 0)
            options.inputs[options.input_count++] = argv[i];
        else if (strcmp(argv[i], "--") == 0)
            only_inputs = true;
        else
            note_option(&given, parse_option(&options, argc, argv, &i));
    }
    options.has_shard_tokens = is_given(given, OPTION_SHARD_TOKENS);
    options.has_val_fraction = is_given(given, OPTION_VAL_FRACTION);
    options.has_split_seed = is_given(given, OPTION_SPLIT_SEED);
    check_task(&options, given);
    check_values(&options);
    return options;
}

void prepare_options_free(PrepareOptions *options) {
    free(options->inputs);
    free(options->vocabulary);
    free(options->out);
    *options = (PrepareOptions){0};
}
