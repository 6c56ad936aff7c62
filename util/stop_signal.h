/* stop_signal.h: which signals stop a program in good order, and which do nothing to it.
 *
 * SIGINT, SIGTERM, SIGHUP (the terminal is gone), SIGUSR1 and SIGXCPU (the processor time that was granted is nearly
 * over) ask for a stop: the program finishes its step and then looks. SIGPIPE (nobody reads standard output any more)
 * and SIGXFSZ (a file is as large as the system allows) are ignored: the write fails instead, and its caller
 * decides. */
#ifndef MARS_UTIL_STOP_SIGNAL_H
#define MARS_UTIL_STOP_SIGNAL_H

#include "util/base.h"

EXTERN_C_BEGIN

/* From now on these signals are noted or ignored; a second SIGINT ends the program at once. If SIGHUP is ignored
 * already, by nohup, SIGHUP still does nothing. Call this before any other thread is started, so that those block the
 * signals. */
void stop_signal_listen(void);
bool stop_signal_came(void);

EXTERN_C_END

#endif
