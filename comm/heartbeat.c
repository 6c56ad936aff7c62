/* heartbeat.c: signs of life in a ring (see heartbeat.h): one message a second from each process, whatever their
 * number.
 *
 * If a process is gone, the next process in the ring notices. If a whole machine is lost, the process after the
 * machine's last one notices, and names that one. It tells the process after it, which passes this on. A process that
 * ends in good order says goodbye to the next one, which then no longer watches it. It also waits for the goodbye of
 * the previous one, so every message is received, and every process is watched until it has said goodbye. */
#include "comm/heartbeat.h"

#include <errno.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double BEAT_SECONDS = 1.0, SILENCE_SECONDS = 15.0;
enum { BEATS_WITHIN_LIMIT = 15, END_SECONDS = 10 };
/* How long a process that has said goodbye sleeps before it looks again for the goodbye of the previous one. */
static const double LEAVING_SECONDS = 0.002;

enum { ALIVE = 'a', GOODBYE = 'g', ENDING = 'e' };

struct Heartbeat {
    double limit, period; /* seconds: the longest silence, and between two signs of life */
    bool beating;         /* signs of life are sent and expected */
    pthread_t thread;

    pthread_mutex_t mutex; /* guards the fields up to the next blank line */
    pthread_cond_t changed;
    bool leaving, has_failed;
    bool (*failed)(void *context, Error *why);
    void *context;
    Error why;

    /* Only the thread uses these. */
    MPI_Comm ring;
    int previous, next;                    /* the neighbours' ranks */
    char host[MPI_MAX_PROCESSOR_NAME + 1]; /* of the previous process */
    char sent, received;
    MPI_Request sending, receiving;
    double now, next_beat, silence, since_failure;
    bool said_goodbye, heard_goodbye;
};

/* ---- threads ---- */

/* Signals stay with the main thread: a new thread inherits the mask that its creator has at that moment. */
static bool start_thread(pthread_t *thread, void *(*run)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(thread, NULL, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static void *end_the_process(void *status) {
    for (unsigned left = END_SECONDS; left > 0;) left = sleep(left);
    _exit((int)(intptr_t)status);
}

void heartbeat_end_in_time(int status) {
    pthread_t thread;
    if (!start_thread(&thread, end_the_process, (void *)(intptr_t)status)) _exit(status);
    pthread_detach(thread);
}

/* ---- signs of life ---- */

static void check_ring(const Heartbeat *h, int status) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(status, text, &length);
    die("MPI: signs of life between process %d on host %s, this one and process %d: %.*s", h->previous, h->host,
        h->next, length, text);
}

static bool is_done(Heartbeat *h, MPI_Request *request) {
    int done = 0;
    check_ring(h, MPI_Test(request, &done, MPI_STATUS_IGNORE)); /* also sets done for MPI_REQUEST_NULL */
    return done;
}

/* Only one message at a time is under way, since the next process may be gone. */
static void say(Heartbeat *h, char what) {
    h->sent = what;
    check_ring(h, MPI_Isend(&h->sent, 1, MPI_CHAR, h->next, 0, h->ring, &h->sending));
}

static void beat(Heartbeat *h, bool leaving) {
    if (h->said_goodbye || !(leaving || h->now >= h->next_beat) || !is_done(h, &h->sending)) return;
    say(h, leaving ? GOODBYE : ALIVE);
    h->said_goodbye = leaving;
    h->next_beat = h->now + h->period;
}

/* Tells the next process that this one is about to end the job. mpirun does not reach processes of a machine that is
 * cut off: without this message, each of them would notice a whole limit later than the process before it. */
static void pass_on_the_end(Heartbeat *h) {
    if (h->beating && !h->said_goodbye && is_done(h, &h->sending)) say(h, ENDING);
}

static void hear(Heartbeat *h) {
    while (!h->heard_goodbye && is_done(h, &h->receiving)) {
        h->silence = 0.0;
        h->heard_goodbye = h->received == GOODBYE;
        if (h->received == ENDING) {
            heartbeat_end_in_time(EXIT_FAILED);
            pass_on_the_end(h);
            die("process %d on host %s ends the job", h->previous, h->host);
        }
        if (!h->heard_goodbye)
            check_ring(h, MPI_Irecv(&h->received, 1, MPI_CHAR, h->previous, 0, h->ring, &h->receiving));
    }
    if (h->heard_goodbye || h->silence <= h->limit) return;
    heartbeat_end_in_time(EXIT_FAILED);
    pass_on_the_end(h);
    die("process %d on host %s has given no sign of life for %.0f s; expected one within %g s; ending the job: look at "
        "that host, then go on with --init_from=resume",
        h->previous, h->host, h->silence, h->limit);
}

/* ---- failures that others report ---- */

/* Called with the mutex held. */
static void ask_for_failures(Heartbeat *h, double elapsed) {
    if (!h->has_failed && h->failed) h->has_failed = h->failed(h->context, &h->why);
    if (!h->has_failed) return;
    double patience = h->beating ? h->limit + 2.0 * h->period : 0.0;
    h->since_failure += elapsed;
    if (h->since_failure < patience) return;
    heartbeat_end_in_time(EXIT_FAILED);
    pass_on_the_end(h);
    die("%s", h->why.text);
}

void heartbeat_watch(Heartbeat *h, bool (*failed)(void *context, Error *why), void *context) {
    if (!h) return;
    pthread_mutex_lock(&h->mutex);
    h->failed = failed;
    h->context = context;
    pthread_mutex_unlock(&h->mutex);
}

void heartbeat_fail(Heartbeat *h, const char *why) {
    if (!h) die("%s", why);
    pthread_mutex_lock(&h->mutex);
    if (!h->has_failed) snprintf(h->why.text, sizeof h->why.text, "%s", why);
    h->has_failed = true;
    pthread_mutex_unlock(&h->mutex);
    for (;;) pause();
}

/* ---- the thread ---- */

/* Sleeps until there is work. Called with the mutex held. */
static void sleep_a_while(Heartbeat *h) {
    double until = h->leaving ? h->now + LEAVING_SECONDS : h->now + h->period;
    struct timespec time = {(time_t)until, (long)((until - (double)(time_t)until) * 1e9)};
    int status = 0;
    bool was_leaving = h->leaving;
    while (status != ETIMEDOUT && h->leaving == was_leaving)
        status = pthread_cond_timedwait(&h->changed, &h->mutex, &time);
}

static void *run(void *argument) {
    Heartbeat *h = argument;
    for (;;) {
        pthread_mutex_lock(&h->mutex);
        sleep_a_while(h);
        bool leaving = h->leaving;
        double now = seconds_now(), elapsed = now - h->now;
        if (elapsed > 2.0 * h->period) elapsed = 2.0 * h->period; /* this process itself was stopped */
        h->now = now;
        h->silence += elapsed;
        ask_for_failures(h, elapsed);
        pthread_mutex_unlock(&h->mutex);
        if (h->beating) {
            beat(h, leaving);
            hear(h);
        }
        if (leaving && (!h->beating || (h->said_goodbye && h->heard_goodbye && is_done(h, &h->sending)))) return NULL;
    }
}

/* Returns the limit that process 0 was given, on all processes. */
static double limit_of_job(int rank) {
    double limit = SILENCE_SECONDS;
    const char *text = getenv("MARS_HEARTBEAT_SECONDS");
    if (rank == 0 && text) {
        char *end;
        double given = strtod(text, &end);
        if (end != text && *end == 0 && given >= 0.0 && given < 1e6)
            limit = given;
        else
            warn("MARS_HEARTBEAT_SECONDS: '%s' is not a number of seconds; the limit is %.0f", text, limit);
    }
    if (MPI_Bcast(&limit, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD) != MPI_SUCCESS) die("MPI: a broadcast failed");
    return limit;
}

/* Makes an MPI communicator for the ring, so that its messages mix with no others, and fetches the previous host's
 * name. */
static void join_ring(Heartbeat *h, int rank, int size) {
    char name[sizeof h->host] = "";
    int length = 0;
    h->previous = (rank + size - 1) % size;
    h->next = (rank + 1) % size;
    check_ring(h, MPI_Comm_dup(MPI_COMM_WORLD, &h->ring));
    check_ring(h, MPI_Get_processor_name(name, &length));
    check_ring(h, MPI_Sendrecv(name, sizeof name, MPI_CHAR, h->next, 0, h->host, sizeof h->host, MPI_CHAR, h->previous,
                               0, h->ring, MPI_STATUS_IGNORE));
    check_ring(h, MPI_Irecv(&h->received, 1, MPI_CHAR, h->previous, 0, h->ring, &h->receiving));
}

Heartbeat *heartbeat_open(int rank, int size, bool threads) {
    Heartbeat *h = checked_calloc(1, sizeof *h, "the heartbeat");
    h->limit = limit_of_job(rank);
    h->beating = threads && h->limit > 0.0;
    h->period = h->limit > 0.0 ? h->limit / BEATS_WITHIN_LIMIT : BEAT_SECONDS;
    if (h->period > BEAT_SECONDS) h->period = BEAT_SECONDS;
    h->sending = h->receiving = MPI_REQUEST_NULL;
    if (!threads)
        warn("this MPI library cannot be called by two threads at once: a process that hangs, or a machine that is "
             "lost, will not be noticed");
    if (h->beating) join_ring(h, rank, size);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&h->mutex, NULL);
    h->now = seconds_now();
    if (!start_thread(&h->thread, run, h)) die("cannot start a thread for the heartbeat");
    return h;
}

void heartbeat_close(Heartbeat *h) {
    if (!h) return;
    pthread_mutex_lock(&h->mutex);
    h->leaving = true;
    pthread_cond_signal(&h->changed);
    pthread_mutex_unlock(&h->mutex);
    pthread_join(h->thread, NULL);
    if (h->beating) MPI_Comm_free(&h->ring);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}
