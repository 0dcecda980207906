#include "core/process.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if !defined(_WIN32)
#include <sched.h>
#include <unistd.h>
#endif

enum {
    STAT_BYTES = 1024,   /* of /proc/self/stat: 52 numbers and a name */
    CGROUP_BYTES = 8192, /* of /proc/self/cgroup: a dozen lines; what is longer is cut */
    LIMIT_BYTES = 64,    /* of a file with one or two numbers */
    PATH_BYTES = 1024,
    FORK_WITHOUT_EXEC = 0x40 /* PF_FORKNOEXEC in Linux' include/linux/sched.h, unchanged since 2.6 */
};

/* The file root/folder/name as text, cut to `bytes` - 1; false if it is empty or cannot be read. */
static bool read_text(char *text, size_t bytes, const char *root, const char *folder, const char *name) {
    char path[PATH_BYTES];
    const int length = snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    if (length < 0 || (size_t)length >= sizeof path) return false;
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    const size_t size = fread(text, 1, bytes - 1, file);
    text[size] = '\0';
    fclose(file);
    return size > 0;
}

long process_id(void) {
#if defined(_WIN32)
    return 0;
#else
    return (long)getpid();
#endif
}

void process_yield(void) {
#if !defined(_WIN32)
    sched_yield();
#endif
}

/* Field 9 of /proc/self/stat, the kernel's flags. Field 2 is the program's name in brackets and may hold anything. */
static bool forked_without_exec(void) {
    char text[STAT_BYTES];
    if (!read_text(text, sizeof text, "", "/proc/self", "stat")) return false;
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 9; field++)
        at = strchr(at + 1, ' ');
    return at && (strtoul(at, NULL, 10) & FORK_WITHOUT_EXEC);
}

enum process_history process_history(void) {
    static atomic_long first; /* set once: a forked child inherits it */
    const long now = process_id();
    long before = 0;
    if (!atomic_compare_exchange_strong(&first, &before, now) && before != now) return PROCESS_FORKED_LATER;
    return forked_without_exec() ? PROCESS_FORKED : PROCESS_WHOLE;
}

/* ---- Control groups -------------------------------------------------------------------------------------------- */

/* ceil(quota / period), at least 1, if that is less than `least` or `least` is 0. */
static int smaller_quota(int least, long long quota, long long period) {
    if (quota <= 0 || period <= 0) return least;
    const long long cpus = quota / period + (quota % period != 0);
    if (cpus > INT_MAX) return least;
    return !least || cpus < least ? (int)cpus : least;
}

/* A whole number at the beginning of a text; -1: none. */
static long long number(const char *text) {
    char *end;
    const long long value = strtoll(text, &end, 10);
    return end == text ? -1 : value;
}

/* The limit of one group's folder, under both versions' names. */
static int folder_quota(const char *root, const char *folder, int least) {
    char text[LIMIT_BYTES], period[LIMIT_BYTES];
    if (read_text(text, sizeof text, root, folder, "cpu.max")) { /* "max 100000" or "150000 100000" */
        const char *second = strchr(text, ' ');
        return second ? smaller_quota(least, number(text), number(second)) : least;
    }
    if (read_text(text, sizeof text, root, folder, "cpu.cfs_quota_us") &&
        read_text(period, sizeof period, root, folder, "cpu.cfs_period_us"))
        return smaller_quota(least, number(text), number(period));
    return least;
}

/* The group's folder and those above it, up to the mount point. A container often sees its own group as the mount point
 * while /proc/self/cgroup names it as the host does: folders that are not there are passed over. */
static int group_quota(const char *root, const char *mount, const char *group, int least) {
    char folder[PATH_BYTES];
    const size_t base = strlen(mount);
    const int length = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (length < 0 || (size_t)length >= sizeof folder) return folder_quota(root, mount, least);
    for (;;) {
        least = folder_quota(root, folder, least);
        char *slash = strrchr(folder + base, '/');
        if (!slash) return least;
        *slash = '\0';
    }
}

/* Is "cpu" among the comma-separated controllers of a line of /proc/self/cgroup? */
static bool has_cpu(const char *controllers) {
    const char *at = controllers;
    for (;;) {
        const size_t length = strcspn(at, ",");
        if (length == 3 && memcmp(at, "cpu", 3) == 0) return true;
        if (!at[length]) return false;
        at += length + 1;
    }
}

int process_cpu_quota(const char *root) {
    char text[CGROUP_BYTES];
    int least = 0;
    if (!read_text(text, sizeof text, root, "/proc/self", "cgroup")) return 0;
    /* lines of "number:controllers:/group"; version 2 has number 0 and no controllers */
    for (char *line = text; *line;) {
        char *end = line + strcspn(line, "\n"), *next = *end ? end + 1 : end;
        *end = '\0';
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        line = next;
        if (!group) continue;
        *controllers++ = *group++ = '\0';
        if (!*controllers) {
            least = group_quota(root, "/sys/fs/cgroup", group, least);
        } else if (has_cpu(controllers)) {
            char mount[PATH_BYTES];
            const int length = snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controllers);
            if (length > 0 && (size_t)length < sizeof mount) least = group_quota(root, mount, group, least);
            if (strcmp(controllers, "cpu") != 0) least = group_quota(root, "/sys/fs/cgroup/cpu", group, least);
        }
    }
    return least;
}
