/* machine_memory.c: see machine_memory.h. */
#include "util/machine_memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static FILE *open_below(const char *root, const char *path) {
    char *whole = format_string("%s%s", root, path);
    FILE *file = fopen(whole, "re");
    free(whole);
    return file;
}

/* The number after `name` in a file with a name and a number on each line; with a name of "", the number that is all
 * of the file. SIZE_MAX if there is none: "max" in the files of control groups. */
static size_t read_number(const char *root, const char *path, const char *name) {
    FILE *file = open_below(root, path);
    if (!file) return SIZE_MAX;
    size_t number = SIZE_MAX, length = strlen(name);
    char line[256];
    while (number == SIZE_MAX && fgets(line, sizeof line, file)) {
        uint64_t value;
        if (strncmp(line, name, length) == 0 && sscanf(line + length, " %" SCNu64, &value) == 1) number = (size_t)value;
    }
    fclose(file);
    return number;
}

static size_t or_zero(size_t number) { return number == SIZE_MAX ? 0 : number; }
static size_t at_most(size_t number, size_t limit) { return number < limit ? number : limit; }
static size_t difference(size_t a, size_t b) { return a > b ? a - b : 0; }

/* The names of the files in a group's folder, for one version of control groups. */
typedef struct GroupFiles {
    const char *controller; /* in /proc/self/cgroup: between the colons */
    const char *mount, *limit, *usage, *inactive, *active;
} GroupFiles;

static const GroupFiles versions[] = {
    {"", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ", "active_file "},
    {"memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ",
     "total_active_file "},
};

/* The bytes that the group at `folder` may still take. Its cached files do not count as used, since they can be
 * dropped. */
static size_t left_in_group(const char *root, const GroupFiles *files, const char *folder) {
    char *names[3];
    const char *const files_of_group[] = {files->limit, files->usage, "memory.stat"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        names[i] = format_string("%s%s/%s", files->mount, folder, files_of_group[i]);
    size_t limit = read_number(root, names[0], ""), used = or_zero(read_number(root, names[1], ""));
    size_t cached =
        or_zero(read_number(root, names[2], files->inactive)) + or_zero(read_number(root, names[2], files->active));
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) free(names[i]);
    return limit == SIZE_MAX ? SIZE_MAX : difference(limit, difference(used, cached));
}

/* The least of a group and all groups above it, each of which may have a limit. A container may show a path that is not
 * mounted in it: then the limit is at the mount itself. */
static size_t left_in_groups(const char *root, const GroupFiles *files, char *folder) {
    size_t left = SIZE_MAX;
    for (;;) {
        left = at_most(left, left_in_group(root, files, folder));
        char *slash = strrchr(folder, '/');
        if (!slash) return left;
        *slash = 0;
    }
}

/* A line of /proc/self/cgroup is "0::/path", or "4:cpu,memory:/path" in version 1. */
static size_t left_in_all_groups(const char *root) {
    FILE *file = open_below(root, "/proc/self/cgroup");
    if (!file) return SIZE_MAX;
    size_t left = SIZE_MAX;
    char line[4096];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *rest = line;
        strsep(&rest, ":");
        char *controllers = strsep(&rest, ":");
        if (!rest) continue;
        for (char *name; (name = strsep(&controllers, ","));)
            for (size_t i = 0; i < ARRAY_LENGTH(versions); i++)
                if (strcmp(name, versions[i].controller) == 0)
                    left = at_most(left, left_in_groups(root, &versions[i], rest));
    }
    fclose(file);
    return left;
}

/* ZFS also frees its cache on demand, down to its least size, but the kernel does not count it as available. A line is
 * "size 4 123456". */
static size_t zfs_cache(const char *root) {
    FILE *file = open_below(root, "/proc/spl/kstat/zfs/arcstats");
    if (!file) return 0;
    uint64_t size = 0, least = 0, value;
    char line[256], name[64];
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%63s %*d %" SCNu64, name, &value) != 2) continue;
        if (strcmp(name, "size") == 0) size = value;
        if (strcmp(name, "c_min") == 0) least = value;
    }
    fclose(file);
    return difference((size_t)size, (size_t)least);
}

MachineMemory machine_memory(const char *root) {
    MachineMemory memory = {SIZE_MAX, SIZE_MAX};
    size_t available = read_number(root, "/proc/meminfo", "MemAvailable:"); /* in kB */
    size_t swap = or_zero(read_number(root, "/proc/meminfo", "SwapFree:"));
    size_t left = left_in_all_groups(root);
    if (available != SIZE_MAX) left = at_most(left, 1024 * available + zfs_cache(root));
    if (left != SIZE_MAX) memory.shared = left + 1024 * swap;
    struct rlimit limit;
    size_t pages = read_number(root, "/proc/self/statm", ""); /* of address space */
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && pages != SIZE_MAX)
        memory.own = difference((size_t)limit.rlim_cur, pages * (size_t)sysconf(_SC_PAGESIZE));
    return memory;
}
