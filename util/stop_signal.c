/* stop_signal.c: see stop_signal.h. */
#include "util/stop_signal.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t came;

static void note(int signal_number) {
    (void)signal_number;
    came = 1;
}

static void handle(int signal_number, void (*handler)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART | flags;
    sigaction(signal_number, &action, NULL);
}

static bool is_ignored(int signal_number) {
    struct sigaction action;
    return sigaction(signal_number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

void stop_signal_listen(void) {
    handle(SIGTERM, note, 0);
    handle(SIGUSR1, note, 0);
    handle(SIGXCPU, note, 0);
    handle(SIGINT, note, (int)SA_RESETHAND);
    if (!is_ignored(SIGHUP)) handle(SIGHUP, note, 0);
    handle(SIGPIPE, SIG_IGN, 0);
    handle(SIGXFSZ, SIG_IGN, 0);
}

bool stop_signal_came(void) { return came != 0; }
