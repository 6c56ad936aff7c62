/* console.c: the terminal output of a run (see console.h). */
#include "report/console.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/format.h"
#include "util/streams.h"

/* A progress line more often than this would only flicker. */
static const double progress_seconds = 0.2;

void console_open(Console *console, bool silent, bool progress_wanted) {
    memset(console, 0, sizeof *console);
    console->silent = silent;
    console->is_terminal = !silent && progress_wanted && isatty(STDOUT_FILENO);
    console->started = seconds_now();
}

static void flush(Console *console) {
    Error error;
    if (streams_flush(&error)) return;
    if (!console->output_failed)
        warn("cannot write to standard output: %s; the program goes on without it", error.text);
    console->output_failed = true;
}

static void wipe_progress(Console *console) {
    if (!console->progress_shown) return;
    fputs("\r\033[K", stdout);
    console->progress_shown = false;
}

void console_row(Console *console, const char *name, const char *format, ...) {
    if (console->silent) return;
    printf("  %-11s", name);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    flush(console);
}

void console_line(Console *console, const char *format, ...) {
    if (console->silent) return;
    wipe_progress(console);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    flush(console);
}

void console_text(Console *console, const char *text) {
    if (console->silent) return;
    char *line = checked_strdup(text), *rest = line;
    for (char *part; (part = strsep(&rest, "\n"));) {
        for (char *at = part; *at; at++)
            if (iscntrl((unsigned char)*at)) *at = ' ';
        console_line(console, "  | %s", part);
    }
    free(line);
}

void console_start(Console *console, int64_t first_step) {
    console->started = seconds_now();
    console->first_step = first_step;
}

void console_step(Console *console, int64_t step, int64_t max_iters, const StepReport *report) {
    if (console->silent) return;
    double now = seconds_now(), per_step = (now - console->started) / (double)(step + 1 - console->first_step);
    char left[32], speed[32];
    format_duration(per_step * (double)(max_iters - step - 1), left, sizeof left);
    if (report) {
        format_count((int64_t)(report->tokens_per_s + 0.5), speed, sizeof speed);
        console_line(console,
                     "step %6" PRId64 "/%" PRId64
                     " | loss %7.4f | lr %.2e | norm %6.3f | %6.0f ms | %s tok/s | %s left",
                     step, max_iters, report->loss, report->lr, report->grad_norm, report->ms, speed, left);
    } else if (console->is_terminal && now - console->last_progress > progress_seconds) {
        printf("\r\033[Kstep %6" PRId64 "/%" PRId64 " | %.0f ms a step | %s left", step, max_iters, per_step * 1e3,
               left);
        flush(console);
        console->progress_shown = true;
        console->last_progress = now;
    }
}
