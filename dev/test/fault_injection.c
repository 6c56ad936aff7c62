/* fault_injection.c: a library for tests, loaded before a program with LD_PRELOAD, that makes the disk fail on time, or one
 * rank of several slow. It stands between the program and write, pwrite, writev, fsync, fdatasync, rename and statvfs. The environment says what
 * happens; without a variable, nothing does.
 *
 *   FAULT_FOLDER=path        only files below this absolute path count (default: all regular files and folders)
 *   FAULT_WRITE_LIMIT=bytes  after that many bytes the disk is full: a write puts what still fits, the next is ENOSPC
 *   FAULT_SPACE_LEFT=bytes   that is what the file system says is left, whatever can be written
 *   FAULT_SLOW_SYNC=seconds  each sync takes that long
 *   FAULT_KILL_AT_SYNC=n     the process dies by SIGKILL before its n-th sync takes place (from 1)
 *   FAULT_KILL_AT_RENAME=n   and before its n-th rename
 *   FAULT_SLOW_RANK=n        this rank of a job under Open MPI sleeps 30 ms after each 4 ms that its processor has worked
 *
 * stdio writes from inside the C library and is not seen here; the checkpoints and their small files are. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static atomic_llong written, syncs, renames;

static void sleep_a_while(int number) {
    (void)number;
    nanosleep(&(struct timespec){0, 30000000}, NULL);
}

/* The handler has a stack of its own: oneDNN's AVX2 kernels use the stack pointer for something else. */
__attribute__((constructor)) static void slow_down(void) {
    static char stack[1 << 16];
    const char *slow = getenv("FAULT_SLOW_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!slow || !rank || strcmp(slow, rank) != 0) return;
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    sigaction(SIGPROF, &(struct sigaction){.sa_handler = sleep_a_while, .sa_flags = SA_RESTART | SA_ONSTACK}, NULL);
    setitimer(ITIMER_PROF, &(struct itimerval){{0, 4000}, {0, 4000}}, NULL);
}

static long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}

static bool path_counts(const char *path) {
    const char *folder = getenv("FAULT_FOLDER");
    return !folder || strncmp(path, folder, strlen(folder)) == 0;
}

/* Files and folders below FAULT_FOLDER; never pipes and terminals. */
static bool descriptor_counts(int descriptor) {
    struct stat status;
    char link[64], path[PATH_MAX];
    if (fstat(descriptor, &status) != 0 || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return false;
    path[length] = 0;
    return path_counts(path);
}

/* How many of `bytes` still fit on the disk; they are then taken. */
static size_t take_room(int descriptor, size_t bytes) {
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
    if (path_counts(from)) kill_at("FAULT_KILL_AT_RENAME", &renames);
    return real(from, to);
}

int statvfs(const char *path, struct statvfs *status) {
    int (*real)(const char *, struct statvfs *) = dlsym(RTLD_NEXT, "statvfs");
    int result = real(path, status);
    long long left = setting("FAULT_SPACE_LEFT", -1);
    if (result == 0 && left >= 0) status->f_frsize = 1, status->f_bavail = (fsblkcnt_t)left;
    return result;
}
