/* base.c: error reporting, checked allocation, the clock (see base.h). */
#include "util/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The labels of messages: set once at the start, read only for a message. */
static struct {
    const char *program;
    int rank, processes;
    void (*quit)(int status);
} process = {"mars", 0, 1, NULL};

void base_set_process(int rank, int processes, void (*quit)(int status)) {
    process.rank = rank;
    process.processes = processes;
    process.quit = quit;
}

void base_set_program(const char *name) { process.program = name; }

void error_fill(Error *error, const char *format, ...) {
    if (!error) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
}

/* One write per message, so that the lines of several processes do not mix. */
static void say(const char *kind, bool name_the_process, const char *format, va_list arguments) {
    char text[2048], who[32] = "";
    vsnprintf(text, sizeof text, format, arguments);
    if (name_the_process && process.processes > 1) snprintf(who, sizeof who, " [process %d]", process.rank);
    fflush(stdout);
    fprintf(stderr, "%s%s: %s: %s\n", process.program, who, kind, text);
}

static NO_RETURN void quit(int status) {
    if (process.quit) process.quit(status);
    exit(status);
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say("error", true, format, arguments);
    va_end(arguments);
    quit(EXIT_FAILED);
}

void die_usage(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (process.rank == 0) say("error", false, format, arguments);
    va_end(arguments);
    quit(EXIT_USAGE);
}

void warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (process.rank == 0) say("warning", false, format, arguments);
    va_end(arguments);
}

void *checked_malloc(size_t bytes, const char *what) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) die("out of memory: %zu bytes for %s", bytes, what);
    return memory;
}

void *checked_calloc(size_t count, size_t bytes, const char *what) {
    void *memory = calloc(count ? count : 1, bytes ? bytes : 1);
    if (!memory) die("out of memory: %zu x %zu bytes for %s", count, bytes, what);
    return memory;
}

void *checked_realloc(void *memory, size_t bytes, const char *what) {
    memory = realloc(memory, bytes ? bytes : 1);
    if (!memory) die("out of memory: %zu bytes for %s", bytes, what);
    return memory;
}

char *checked_strdup(const char *text) {
    size_t bytes = strlen(text) + 1;
    return (char *)memcpy(checked_malloc(bytes, "a string"), text, bytes);
}

bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

int compare_strings(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

char *format_string(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) die("cannot format '%s'", format);
    char *text = (char *)checked_malloc((size_t)length + 1, "a string");
    va_start(arguments, format);
    vsnprintf(text, (size_t)length + 1, format, arguments);
    va_end(arguments);
    return text;
}

double seconds_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}
