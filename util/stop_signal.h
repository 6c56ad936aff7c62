/* stop_signal.h: being asked to stop, by SIGINT, SIGTERM or SIGUSR1: the program finishes what it is at and then asks. */
#ifndef MARS_UTIL_STOP_SIGNAL_H
#define MARS_UTIL_STOP_SIGNAL_H

#include "util/base.h"

EXTERN_C_BEGIN

/* From here on these signals are only noted; a second SIGINT ends the program at once. */
void stop_signal_listen(void);
bool stop_signal_came(void);

EXTERN_C_END

#endif
