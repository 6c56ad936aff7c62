/* fault_injection.c: a library for tests, loaded before a program with LD_PRELOAD, that makes the disk fail on time or
 * one rank of several slow, or that handles SIGHUP and starts a thread as UCX does. It stands between the program and the
 * calls of the C library that change and read files. The environment says what happens; without a variable, nothing does.
 *
 *   FAULT_FOLDER=path        only files below this absolute path count (default: all regular files and folders)
 *   FAULT_WRITE_LIMIT=bytes  after that many bytes the disk is full: a write puts what still fits, the next is ENOSPC
 *   FAULT_SPACE_LEFT=bytes   that is what the file system says is left, whatever can be written
 *   FAULT_SLOW_SYNC=seconds  each sync takes that long
 *   FAULT_KILL_AT_SYNC=n     the process dies by SIGKILL before its n-th sync takes place (from 1)
 *   FAULT_KILL_AT_RENAME=n   and before its n-th rename
 *   FAULT_LIKE_UCX=1         as UCX does when it is loaded, this library handles SIGHUP and starts a thread
 *   FAULT_SLOW_RANK=n        this rank of a job under Open MPI sleeps 30 ms after each 4 ms that its processor worked
 *   FAULT_JOURNAL=path       a line "KIND PATH" is added to this file before each call that counts. The kinds:
 *                            write (also pwrite, writev), read (also pread), fsync (also fdatasync), open (also openat, mkostemp,
 *                            fopen), opendir, close, rename, mkdir, symlink, truncate (also ftruncate), and remove
 *                            (also unlink, unlinkat, rmdir)
 *   FAULT_KIND=kind          of this kind of calls
 *   FAULT_AT=n               the n-th fails (from 1), and no other one unless FAULT_WITH=gone
 *   FAULT_WITH=error         with EIO, ENOSPC or EINTR; or as "short": a write that puts, or a read that gets, half of
 *                            its bytes; or as "gone": with EIO, as every call of any kind after it does. A close that
 *                            fails has closed the file; no other call that fails has any effect. The journal says
 *                            "failed KIND PATH" instead.
 *
 * What the C library calls inside itself is not seen here: reads and writes of stdio, and what nftw() opens. Programs
 * under test write their files by descriptors. */
#define _GNU_SOURCE 1
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static atomic_llong written, syncs, renames;

static void sleep_a_while(int number) {
    (void)number;
    nanosleep(&(struct timespec){0, 30000000}, NULL);
}

static void do_nothing(int number) { (void)number; }

static void *wait_for_ever(void *argument) {
    for (;;) pause();
    return argument;
}

__attribute__((constructor)) static void act_like_ucx(void) {
    pthread_t thread;
    if (!getenv("FAULT_LIKE_UCX")) return;
    sigaction(SIGHUP, &(struct sigaction){.sa_handler = do_nothing}, NULL);
    if (pthread_create(&thread, NULL, wait_for_ever, NULL) != 0) abort();
}

/* The handler has a stack of its own: oneDNN's AVX2 kernels use the stack pointer for something else. The timer is one
 * of timer_create(), which ends when the program executes itself anew: one of setitimer() would go on, and its signal
 * end the new program before this function has set the handler again. */
__attribute__((constructor)) static void slow_down(void) {
    static char stack[1 << 16];
    const char *slow = getenv("FAULT_SLOW_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!slow || !rank || strcmp(slow, rank) != 0) return;
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    sigaction(SIGPROF, &(struct sigaction){.sa_handler = sleep_a_while, .sa_flags = SA_RESTART | SA_ONSTACK}, NULL);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    if (timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) != 0) abort();
    timer_settime(timer, 0, &(struct itimerspec){{0, 4000000}, {0, 4000000}}, NULL);
}

static long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

/* `path` as an absolute one, seen from the folder `at`. */
static void make_absolute(int at, const char *path, char absolute[PATH_MAX]) {
    char link[64] = "/proc/self/cwd", folder[PATH_MAX];
    if (at != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = path[0] == '/' ? 0 : readlink(link, folder, sizeof folder - 1);
    folder[length > 0 ? length : 0] = 0;
    if (snprintf(absolute, PATH_MAX, "%s%s%s", folder, path[0] == '/' ? "" : "/", path) >= PATH_MAX) absolute[0] = 0;
}

static bool path_counts(const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    char absolute[PATH_MAX];
    make_absolute(AT_FDCWD, path, absolute);
    return !folder || strncmp(absolute, folder, strlen(folder)) == 0;
}

/* Files and folders below FAULT_FOLDER; never pipes and terminals. */
static bool descriptor_path(int descriptor, char path[PATH_MAX]) {
    struct stat status;
    char link[64];
    if (fstat(descriptor, &status) != 0 || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return false;
    path[length] = 0;
    return path_counts(path);
}

static bool descriptor_counts(int descriptor) {
    char path[PATH_MAX];
    return descriptor_path(descriptor, path);
}

/* ---- one call that fails ---- */

/* By the system's own calls, which nothing here stands in front of. */
static void note(const char *word, const char *kind, const char *path) {
    char line[PATH_MAX + 64];
    const char *journal = getenv("FAULT_JOURNAL");
    int length = snprintf(line, sizeof line, "%s%s %s\n", word, kind, path);
    int file =
        journal ? (int)syscall(SYS_openat, AT_FDCWD, journal, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (file < 0) return;
    if (syscall(SYS_write, file, line, (size_t)length) != length) abort(); /* a test must not believe half a journal */
    syscall(SYS_close, file);
}

/* What FAULT_WITH says: an error, or 0 for a short write or read. */
static int error_to_give(void) {
    const char *name = getenv("FAULT_WITH");
    if (!name) return EIO;
    return strcmp(name, "short") == 0    ? 0
           : strcmp(name, "EINTR") == 0  ? EINTR
           : strcmp(name, "ENOSPC") == 0 ? ENOSPC
                                         : EIO;
}

/* Whether this call is one that fails; errno is then set (0: a short write or read). */
static bool is_its_turn(const char *kind, const char *path) {
    static atomic_llong calls;
    static atomic_bool is_gone;
    const char *wanted = getenv("FAULT_KIND"), *with = getenv("FAULT_WITH");
    bool fails = wanted && strcmp(wanted, kind) == 0 && atomic_fetch_add(&calls, 1) + 1 == setting("FAULT_AT", 0);
    if (fails && with && strcmp(with, "gone") == 0) atomic_store(&is_gone, true);
    fails = fails || atomic_load(&is_gone);
    int before = errno;
    note(fails ? "failed " : "", kind, path);
    errno = fails ? error_to_give() : before;
    return fails;
}

static bool is_watching(void) { return getenv("FAULT_KIND") || getenv("FAULT_JOURNAL"); }

static bool descriptor_fails(const char *kind, int descriptor) {
    char path[PATH_MAX];
    return is_watching() && descriptor_path(descriptor, path) && is_its_turn(kind, path);
}

static bool path_at_fails(const char *kind, int at, const char *path) {
    char absolute[PATH_MAX];
    if (!is_watching()) return false;
    make_absolute(at, path, absolute);
    return path_counts(absolute) && is_its_turn(kind, absolute);
}

static bool path_fails(const char *kind, const char *path) { return path_at_fails(kind, AT_FDCWD, path); }

/* ---- the calls ---- */

/* How many of `bytes` a write may put; 0 where it fails. Those that still fit on the disk are then taken. */
static size_t take_room(int descriptor, size_t bytes) {
    if (bytes > 0 && descriptor_fails("write", descriptor)) return errno ? 0 : (bytes + 1) / 2;
    long long limit = setting("FAULT_WRITE_LIMIT", -1);
    if (limit < 0 || !descriptor_counts(descriptor)) return bytes;
    long long before = atomic_fetch_add(&written, (long long)bytes), room = limit - before;
    if (room >= (long long)bytes) return bytes;
    errno = ENOSPC;
    return room > 0 ? (size_t)room : 0;
}

static void kill_at(const char *name, atomic_llong *counter) {
    long long last = setting(name, 0);
    if (last > 0 && atomic_fetch_add(counter, 1) + 1 == last) raise(SIGKILL);
}

ssize_t write(int descriptor, const void *data, size_t bytes) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    size_t fit = take_room(descriptor, bytes);
    return fit || !bytes ? real(descriptor, data, fit) : -1;
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
    size_t fit = take_room(descriptor, bytes);
    return fit || !bytes ? real(descriptor, data, fit, offset) : -1;
}

/* How many of `bytes` a read may get; 0 where it fails. */
static size_t readable(int descriptor, size_t bytes) {
    if (bytes == 0 || !descriptor_fails("read", descriptor)) return bytes;
    return errno ? 0 : (bytes + 1) / 2;
}

ssize_t read(int descriptor, void *data, size_t bytes) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    size_t some = readable(descriptor, bytes);
    return some || !bytes ? real(descriptor, data, some) : -1;
}

ssize_t pread(int descriptor, void *data, size_t bytes, off_t offset) {
    ssize_t (*real)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, "pread");
    size_t some = readable(descriptor, bytes);
    return some || !bytes ? real(descriptor, data, some, offset) : -1;
}

/* A vector that does not fit fails as a whole. */
ssize_t writev(int descriptor, const struct iovec *pieces, int count) {
    ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += pieces[i].iov_len;
    return take_room(descriptor, bytes) == bytes ? real(descriptor, pieces, count) : -1;
}

static int sync_with(const char *function, int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, function);
    if (descriptor_counts(descriptor)) {
        if (descriptor_fails("fsync", descriptor)) return -1;
        kill_at("FAULT_KILL_AT_SYNC", &syncs);
        const char *slow = getenv("FAULT_SLOW_SYNC");
        double seconds = slow ? atof(slow) : 0;
        struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
        if (seconds > 0) nanosleep(&pause, NULL);
    }
    return real(descriptor);
}

int fsync(int descriptor) { return sync_with("fsync", descriptor); }

int fdatasync(int descriptor) { return sync_with("fdatasync", descriptor); }

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    if (path_fails("rename", from)) return -1;
    if (path_counts(from)) kill_at("FAULT_KILL_AT_RENAME", &renames);
    return real(from, to);
}

int openat(int at, const char *path, int flags, ...) {
    int (*real)(int, const char *, int, ...) = dlsym(RTLD_NEXT, "openat");
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return path_at_fails("open", at, path) ? -1 : real(at, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return path_fails("open", path) ? -1 : real(path, flags, mode);
}

int mkostemp(char *path, int flags) {
    int (*real)(char *, int) = dlsym(RTLD_NEXT, "mkostemp");
    return path_fails("open", path) ? -1 : real(path, flags);
}

FILE *fopen(const char *path, const char *mode) {
    FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, "fopen");
    return path_fails("open", path) ? NULL : real(path, mode);
}

DIR *opendir(const char *path) {
    DIR *(*real)(const char *) = dlsym(RTLD_NEXT, "opendir");
    return path_fails("opendir", path) ? NULL : real(path);
}

int close(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "close");
    if (!descriptor_fails("close", descriptor)) return real(descriptor);
    int error = errno;
    real(descriptor);
    errno = error;
    return -1;
}

int mkdir(const char *path, mode_t mode) {
    int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
    return path_fails("mkdir", path) ? -1 : real(path, mode);
}

int symlink(const char *target, const char *path) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "symlink");
    return path_fails("symlink", path) ? -1 : real(target, path);
}

int truncate(const char *path, off_t bytes) {
    int (*real)(const char *, off_t) = dlsym(RTLD_NEXT, "truncate");
    return path_fails("truncate", path) ? -1 : real(path, bytes);
}

int ftruncate(int descriptor, off_t bytes) {
    int (*real)(int, off_t) = dlsym(RTLD_NEXT, "ftruncate");
    return descriptor_fails("truncate", descriptor) ? -1 : real(descriptor, bytes);
}

int remove(const char *path) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "remove");
    return path_fails("remove", path) ? -1 : real(path);
}

int unlink(const char *path) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    return path_fails("remove", path) ? -1 : real(path);
}

int unlinkat(int at, const char *path, int flags) {
    int (*real)(int, const char *, int) = dlsym(RTLD_NEXT, "unlinkat");
    return path_at_fails("remove", at, path) ? -1 : real(at, path, flags);
}

int rmdir(const char *path) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "rmdir");
    return path_fails("remove", path) ? -1 : real(path);
}

int statvfs(const char *path, struct statvfs *status) {
    int (*real)(const char *, struct statvfs *) = dlsym(RTLD_NEXT, "statvfs");
    int result = real(path, status);
    long long left = setting("FAULT_SPACE_LEFT", -1);
    if (result == 0 && left >= 0) status->f_frsize = 1, status->f_bavail = (fsblkcnt_t)left;
    return result;
}
