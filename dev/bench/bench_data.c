/* bench_data: how fast text becomes GPT-2's tokens, on one core and on all, and how fast tiktoken does the same next to
 * it.
 *
 *     build/bench_data TEXT [--vocab=data/gpt2] [--threads=N] [--runs=3] [--python=python3] [--json=FILE]
 *
 * The text lies in memory, divided into documents of a million characters; reading and writing files is not measured.
 * Every run begins with new encoders, which have seen no word. There are --runs before tiktoken's three and as many
 * after them; as machines are shared, the fastest counts, of both, and the JSON has our medians, too. tiktoken is
 * left out where that Python does not have it; dev/bench/tiktoken_speed.py is what it runs. Both must find as many
 * tokens. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/tokenizer/tokenizer.h"
#include "dev/bench/measure.h"
#include "util/files.h"
#include "util/program.h"
#include "util/utf8.h"

/* The targets: MB/s of a core, and times tiktoken's speed. */
static const double CORE_TARGET = 40, TIKTOKEN_TARGET = 5;

enum { DOCUMENT_CHARACTERS = 1000000, MAX_THREADS = 1024, MAX_RUNS = MAX_MEASUREMENTS };
static const size_t MAX_TEXT = (size_t)1 << 33;

typedef struct Document {
    const char *text;
    size_t bytes;
} Document;

typedef struct Bench {
    const char *path, *folder, *python, *json;
    int threads, runs;
    char *text;
    size_t bytes;
    Document *documents;
    size_t document_count;
    Tokenizer *tokenizer;
} Bench;

/* The seconds of each run, and how many tokens there are. */
typedef struct Speed {
    int count;
    double seconds[MAX_RUNS];
    size_t tokens;
} Speed;

/* ---- options ---- */

static int number(const char *name, const char *text, int limit) {
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < 1 || value > limit)
        die_usage("%s%s: expected a number from 1 to %d", name, text, limit);
    return (int)value;
}

static bool set_option(Bench *b, const char *argument) {
    static const char *const names[] = {"--vocab=", "--python=", "--json=", "--threads=", "--runs="};
    size_t which = 0;
    while (which < ARRAY_LENGTH(names) && strncmp(argument, names[which], strlen(names[which])) != 0) which++;
    if (which == ARRAY_LENGTH(names)) return false;
    const char *value = argument + strlen(names[which]);
    switch (which) {
    case 0:
        b->folder = value;
        break;
    case 1:
        b->python = value;
        break;
    case 2:
        b->json = value;
        break;
    case 3:
        b->threads = number(names[which], value, MAX_THREADS);
        break;
    default:
        b->runs = number(names[which], value, MAX_RUNS / 2);
    }
    return true;
}

static void read_options(Bench *b, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (argv[i][0] != '-' && !b->path)
            b->path = argv[i];
        else if (!set_option(b, argv[i]))
            die_usage("unexpected argument '%s'; there are TEXT, --vocab=, --threads=, --runs=, --python= and --json=",
                      argv[i]);
    if (!b->path) die_usage("no text; dev/bench/english_text.sh makes one");
}

/* ---- the text ---- */

static void divide(Bench *b) {
    b->documents = checked_calloc(b->bytes / DOCUMENT_CHARACTERS + 1, sizeof *b->documents, "documents");
    size_t begin = 0, characters = 0;
    for (size_t at = 0; at < b->bytes; at++) {
        if (utf8_continues(b->text[at])) continue;
        if (characters++ < DOCUMENT_CHARACTERS) continue;
        b->documents[b->document_count++] = (Document){b->text + begin, at - begin};
        begin = at;
        characters = 1;
    }
    b->documents[b->document_count++] = (Document){b->text + begin, b->bytes - begin};
}

/* ---- encoding ---- */

/* One thread's part: whichever documents no other has taken. */
typedef struct Share {
    const Bench *bench;
    atomic_size_t *next;
    size_t tokens;
} Share;

static void *encode_share(void *argument) {
    Share *share = argument;
    const Bench *b = share->bench;
    Encoder *encoder = encoder_open(b->tokenizer);
    TokenBuffer out = {0};
    for (size_t i; (i = atomic_fetch_add(share->next, 1)) < b->document_count;) {
        out.count = 0;
        encoder_encode(encoder, b->documents[i].text, b->documents[i].bytes, true, &out);
        share->tokens += out.count;
    }
    token_buffer_free(&out);
    encoder_close(encoder);
    return NULL;
}

static void measure(const Bench *b, int threads, Speed *speed) {
    pthread_t others[MAX_THREADS];
    atomic_size_t next = 0;
    Share shares[MAX_THREADS] = {{.bench = b, .next = &next}};
    double begin = seconds_now();
    for (int i = 1; i < threads; i++) {
        shares[i] = (Share){.bench = b, .next = &next};
        int problem = pthread_create(&others[i], NULL, encode_share, &shares[i]);
        if (problem) die("cannot start a thread: %s", strerror(problem));
    }
    encode_share(&shares[0]);
    speed->tokens = shares[0].tokens;
    for (int i = 1; i < threads; i++) {
        pthread_join(others[i], NULL);
        speed->tokens += shares[i].tokens;
    }
    speed->seconds[speed->count++] = seconds_now() - begin;
}

static double fastest(const Speed *speed) {
    double least = speed->seconds[0];
    for (int i = 1; i < speed->count; i++) least = fmin(least, speed->seconds[i]);
    return least;
}

/* ---- tiktoken ---- */

/* The object that tiktoken_speed.py prints; NULL where there is no tiktoken. */
static cJSON *measure_tiktoken(const Bench *b) {
    char text[4096] = "";
    char *command =
        format_string("'%s' dev/bench/tiktoken_speed.py '%s' '%s' %d", b->python, b->path, b->folder, b->threads);
    FILE *pipe = popen(command, "r");
    if (!pipe) die("cannot start %s: %s", b->python, strerror(errno));
    text[fread(text, 1, sizeof text - 1, pipe)] = 0;
    pclose(pipe);
    free(command);
    return cJSON_Parse(text);
}

static void print_row(const char *name, double core, double all) {
    if (isfinite(core)) printf("%-34s %14.1f %14.1f\n", name, core, all);
}

static double figure(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItem(object, key);
    return item ? item->valuedouble : NAN;
}

/* Prints all figures and writes them; takes `tiktoken` over. */
static void report(const Bench *b, const Speed *one, const Speed *all, cJSON *tiktoken) {
    double mb = (double)b->bytes / 1e6, core = mb / fastest(one), cores = mb / fastest(all);
    double core_ratio = core / figure(tiktoken, "one core, MB/s"), ratio = cores / figure(tiktoken, "all cores, MB/s");
    printf("%s: %.1f MB, %zu tokens; the fastest of %d runs\n\n%-34s %14s %11s %2d\n", b->path, mb, one->tokens,
           one->count, "MB/s", "one core", "cores:", b->threads);
    print_row("mars.c", core, cores);
    print_row("tiktoken", figure(tiktoken, "one core, MB/s"), figure(tiktoken, "all cores, MB/s"));
    print_row("mars.c over tiktoken", core_ratio, ratio);
    printf("\ntargets: %g MB/s of a core, %g times tiktoken on the same cores\n", CORE_TARGET, TIKTOKEN_TARGET);
    cJSON *figures = cJSON_CreateObject();
    Error error;
    Backend *be = backend_open("cpu", DTYPE_FLOAT32, 1, &error); /* which knows the machine's name */
    if (!be) die("%s", error.text);
    cJSON_AddStringToObject(figures, "machine", be->device);
    be->close(be);
    cJSON_AddNumberToObject(figures, "threads", b->threads);
    cJSON_AddNumberToObject(figures, "bytes", (double)b->bytes);
    cJSON_AddNumberToObject(figures, "tokens", (double)one->tokens);
    add_figure(figures, "one core, MB/s", core);
    add_figure(figures, "one core, median of runs, MB/s", mb / median(one->seconds, one->count));
    add_figure(figures, "all cores, MB/s", cores);
    add_figure(figures, "all cores, median of runs, MB/s", mb / median(all->seconds, all->count));
    add_figure(figures, "one core over tiktoken", core_ratio);
    add_figure(figures, "all cores over tiktoken", ratio);
    cJSON_AddItemToObject(figures, "tiktoken", tiktoken ? tiktoken : cJSON_CreateNull());
    write_figures(figures, b->json);
}

int main(int argc, char **argv) {
    program_start("bench_data", argv);
    static Speed one, all;
    Bench b = {.folder = TOKENIZER_GPT2_FOLDER, .python = "python3", .runs = 3};
    Error error;
    b.threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    read_options(&b, argc, argv);
    b.text = files_read(b.path, MAX_TEXT, &b.bytes, &error);
    if (!b.text || !tokenizer_open(&b.tokenizer, "gpt2", b.folder, &error)) die("%s", error.text);
    if (!tokenizer_encodes(b.tokenizer)) die("the vocabulary in %s has no merges", b.folder);
    divide(&b);
    cJSON *tiktoken = NULL;
    for (int half = 0; half < 2; half++) {
        for (int run = 0; run < b.runs; run++) {
            measure(&b, 1, &one);
            measure(&b, b.threads, &all);
        }
        if (half == 0) tiktoken = measure_tiktoken(&b);
    }
    if (!tiktoken) printf("%s measured no tiktoken; is it installed there?\n", b.python);
    if (tiktoken && figure(tiktoken, "tokens") != (double)one.tokens)
        die("tiktoken finds %.0f tokens and mars.c %zu; is the text UTF-8?", figure(tiktoken, "tokens"), one.tokens);
    report(&b, &one, &all, tiktoken);
    tokenizer_close(b.tokenizer);
    free(b.documents);
    free(b.text);
    return EXIT_DONE;
}
