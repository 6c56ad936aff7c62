/* stop_signal.c: see stop_signal.h.
 *
 * A thread of its own waits for the signals, and all others block them. A handler would run on whichever thread the
 * system interrupts, on that thread's stack; oneDNN's AVX and AVX2 kernels use the stack pointer for a buffer on the
 * heap, so a signal then would overwrite the memory below the buffer. */
#include "util/stop_signal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

static atomic_bool came;
static sigset_t stop_signals;

static void ignore(int signal_number) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_IGN;
    sigaction(signal_number, &action, NULL);
}

static bool is_ignored(int signal_number) {
    struct sigaction action;
    return sigaction(signal_number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

/* After the first SIGINT this thread lets the next one through, whose default action ends the program. */
static void *wait_for_signals(void *argument) {
    (void)argument;
    for (;;) {
        int number = 0;
        if (sigwait(&stop_signals, &number) != 0) continue;
        atomic_store(&came, true);
        if (number != SIGINT) continue;
        sigset_t interrupt;
        sigemptyset(&interrupt);
        sigaddset(&interrupt, SIGINT);
        sigdelset(&stop_signals, SIGINT);
        pthread_sigmask(SIG_UNBLOCK, &interrupt, NULL);
    }
    return NULL;
}

void stop_signal_listen(void) {
    ignore(SIGPIPE);
    ignore(SIGXFSZ);
    sigemptyset(&stop_signals);
    sigaddset(&stop_signals, SIGTERM);
    sigaddset(&stop_signals, SIGINT);
    sigaddset(&stop_signals, SIGUSR1);
    sigaddset(&stop_signals, SIGXCPU);
    if (!is_ignored(SIGHUP)) sigaddset(&stop_signals, SIGHUP);
    pthread_t thread;
    pthread_sigmask(SIG_BLOCK, &stop_signals, NULL);
    if (pthread_create(&thread, NULL, wait_for_signals, NULL) != 0)
        die("cannot start the thread that waits for signals");
    pthread_detach(thread);
}

bool stop_signal_came(void) { return atomic_load(&came); }
