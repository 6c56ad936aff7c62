/* console.h: what a person sees of a run: a table of the setup, a line per log interval, and on a terminal a progress
 * line that is rewritten in place. Programs read metrics.jsonl instead. */
#ifndef MARS_REPORT_CONSOLE_H
#define MARS_REPORT_CONSOLE_H

#include "report/metrics.h"
#include "util/base.h"

EXTERN_C_BEGIN

typedef struct Console {
    bool silent;         /* all processes but the first */
    bool is_terminal;    /* progress lines make sense */
    bool progress_shown; /* the next line must erase a progress line first */
    double started;      /* when training began */
    int64_t first_step;  /* the step it began with */
    double last_progress;
    bool output_failed; /* standard output could not be written, and the warning has been printed */
} Console;

/* A run goes on if nobody reads its output (`| head`) or the disk of a log file is full: the console warns at the first
 * line that cannot be written, and ignores later failures.
 *
 * It shows progress lines if they are `wanted` and standard output is a terminal. mpirun gives its processes a terminal
 * even if its own output is a file, so jobs of several processes must not want them. */
void console_open(Console *console, bool silent, bool progress_wanted);

/* One row of the setup table. */
void console_row(Console *console, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

/* A line of its own. */
void console_line(Console *console, const char *format, ...) PRINTF_LIKE(2, 3);

/* Prints a text, each line after "  | ". Replaces control characters, which could change the terminal, by blanks. */
void console_text(Console *console, const char *text);

/* Training begins now with this step: times and speeds count from here. */
void console_start(Console *console, int64_t first_step);

/* After every step; `report` is NULL if the step is not logged. */
void console_step(Console *console, int64_t step, int64_t max_iters, const StepReport *report);

EXTERN_C_END

#endif
