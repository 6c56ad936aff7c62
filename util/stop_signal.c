/* stop_signal.c: see stop_signal.h.
 *
 * A thread of its own waits for the signals, and all others block them, but for those that a library started before
 * main() (UCX, which MPI loads, does). A handler may run on those threads alone: it runs on the stack of the thread
 * that the system interrupts, and oneDNN's AVX and AVX2 kernels use the stack pointer for a buffer on the heap, so a
 * signal would overwrite the memory below the buffer. */
#include "util/stop_signal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

static atomic_bool came;
static bool hangup_is_ignored;
static sigset_t stop_signals;

static void set_action(int signal_number, void (*handler)(int)) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(signal_number, &action, NULL);
}

static bool is_ignored(int signal_number) {
    struct sigaction action;
    return sigaction(signal_number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

/* Notes a signal. After the first SIGINT the next one ends the program. */
static void note(int number) {
    if (number == SIGHUP && hangup_is_ignored) return;
    if (number == SIGINT) set_action(SIGINT, SIG_DFL);
    atomic_store(&came, true);
}

static void *wait_for_signals(void *argument) {
    (void)argument;
    for (;;) {
        int number = 0;
        if (sigwait(&stop_signals, &number) != 0) continue;
        note(number);
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
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1, SIGXCPU, SIGHUP};
    set_action(SIGPIPE, SIG_IGN);
    set_action(SIGXFSZ, SIG_IGN);
    hangup_is_ignored = is_ignored(SIGHUP);
    sigemptyset(&stop_signals);
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        sigaddset(&stop_signals, numbers[i]);
        set_action(numbers[i], note); /* runs on threads that libraries have started before main() */
    }
    pthread_t thread;
    pthread_sigmask(SIG_BLOCK, &stop_signals, NULL);
    if (pthread_create(&thread, NULL, wait_for_signals, NULL) != 0)
        die("cannot start the thread that waits for signals");
    pthread_detach(thread);
}

bool stop_signal_came(void) { return atomic_load(&came); }
