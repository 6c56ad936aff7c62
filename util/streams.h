/* streams.h: standard input, output and error as a program finds them. */
#ifndef MARS_UTIL_STREAMS_H
#define MARS_UTIL_STREAMS_H

#include "util/base.h"

EXTERN_C_BEGIN

/* program_start() calls it. If a standard stream is closed, the next file that is opened would take its place, and
 * printed text would go into that file. This opens a placeholder there, on which reading or writing fails. */
void streams_open(void);

/* Flushes standard output. On failure drops what was printed, so that a later call starts anew, and *error says why. */
bool streams_flush(Error *error);

EXTERN_C_END

#endif
