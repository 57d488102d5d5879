// SPDX-License-Identifier: Apache-2.0
#include "hv/host/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/hex.h"
#include "hv/base/io.h"

#define TOP "/sys/fs/cgroup"
#define BASE TOP "/ferry"
#define CGROUP2_MAGIC 0x63677270
#define PERIOD_US 100000u
#define WEIGHT_DEFAULT 100u
#define WEIGHT_MAX 10000u

static const struct {
    unsigned bit;
    const char *name;
} controllers[] = {
    {FYD_CG_CPU, "cpu"}, {FYD_CG_CPUSET, "cpuset"}, {FYD_CG_IO, "io"}, {FYD_CG_MEMORY, "memory"}};

static int write_text(const char *folder, const char *file, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    int err = errno;
    close(fd);
    errno = err;
    return n < 0 ? -1 : 0;
}

/* Its length, or -1; cut at the room. */
static ssize_t read_text(const char *folder, const char *file, char *text, size_t room)
{
    char path[384];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, room - 1);
    fy_close(&fd);
    text[n < 0 ? 0 : n] = 0;
    return n;
}

static bool lists(const char *folder, const char *file, const char *word)
{
    char text[512];
    if (read_text(folder, file, text, sizeof text) < 0)
        return false;
    char *save = NULL;
    for (char *w = strtok_r(text, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
        if (!strcmp(w, word))
            return true;
    return false;
}

unsigned fyd_cgroup_controllers(char *why)
{
    struct statfs fs;
    unsigned have = 0;
    why[0] = 0;
    if (statfs(TOP, &fs) < 0 || fs.f_type != CGROUP2_MAGIC) {
        snprintf(why, FY_ERR_TEXT, "no cgroup v2 at " TOP);
        return 0;
    }
    if (mkdir(BASE, 0755) < 0 && errno != EEXIST) {
        snprintf(why, FY_ERR_TEXT, "cannot make " BASE ": %s", strerror(errno));
        return 0;
    }
    for (size_t i = 0; i < FY_ARRAY_LEN(controllers); i++) {
        char word[16];
        snprintf(word, sizeof word, "+%s", controllers[i].name);
        if (!lists(BASE, "cgroup.controllers", controllers[i].name))
            write_text(TOP, "cgroup.subtree_control", word);
        write_text(BASE, "cgroup.subtree_control", word);
        if (lists(BASE, "cgroup.subtree_control", controllers[i].name))
            have |= controllers[i].bit;
    }
    if (!have)
        snprintf(why, FY_ERR_TEXT, "the kernel gives no controller to " BASE);
    return have;
}

static char *folder_of(const uint8_t uuid[16], char *path, size_t room)
{
    char hex[33];
    fy_hex(uuid, 16, hex);
    snprintf(path, room, BASE "/%s", hex);
    return path;
}

int fyd_cgroup_join(const uint8_t uuid[16], pid_t pid, struct fy_err *e)
{
    char why[FY_ERR_TEXT], path[128], text[24];
    if (!fyd_cgroup_controllers(why))
        return fy_fail(e, FY_EUNSUPPORTED, "%s", why);
    folder_of(uuid, path, sizeof path);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make %s", path);
    snprintf(text, sizeof text, "%d", (int)pid);
    return write_text(path, "cgroup.procs", text) < 0
               ? fy_fail_errno(e, FY_ERESOURCE, errno, "cannot put process %d into %s", (int)pid, path)
               : 0;
}

/* All guests' folder weighs what they weigh together. With the kernel's default a hundred guests at work
 * would have one share among the host's own programs, and a guest that is moved would get what its movers
 * leave. */
static void weigh_all(void)
{
    DIR *d = opendir(BASE);
    unsigned long sum = 0;
    for (struct dirent *g; d && (g = readdir(d));) {
        char path[sizeof BASE + sizeof g->d_name], text[24];
        if (g->d_type != DT_DIR || g->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, BASE "/%s", g->d_name);
        if (read_text(path, "cpu.weight", text, sizeof text) > 0)
            sum += strtoul(text, NULL, 10);
    }
    if (d)
        closedir(d);
    char text[24];
    snprintf(text, sizeof text, "%lu", sum ? FY_MIN(sum, (unsigned long)WEIGHT_MAX) : WEIGHT_DEFAULT);
    write_text(BASE, "cpu.weight", text);
}

void fyd_cgroup_remove(const uint8_t uuid[16])
{
    char path[128];
    if (rmdir(folder_of(uuid, path, sizeof path)) == 0)
        weigh_all();
}

static int check(const struct fyd_limits *l, struct fy_err *e)
{
    if (l->cpu_weight > WEIGHT_MAX || l->io_weight > WEIGHT_MAX)
        return fy_fail(e, FY_EUSAGE, "a weight is 1 to %u", WEIGHT_MAX);
    if (l->cpu_cap > 100u * 1024)
        return fy_fail(e, FY_EUSAGE, "a cap of %u%% is more than any host has", l->cpu_cap);
    if (l->cpus[strspn(l->cpus, "0123456789,-")])
        return fy_fail(e, FY_EUSAGE, "\"%s\" is no list of CPUs (write it like 0-3,6)", l->cpus);
    return 0;
}

/* One file of a controller. wanted: it is limited; without the controller that is an error, and "not limited"
 * is not. */
static int apply(const char *folder, unsigned have, unsigned bit, const char *file, const char *text,
                 bool wanted, struct fy_err *e)
{
    if (!(have & bit)) {
        if (!wanted)
            return 0;
        for (size_t i = 0; i < FY_ARRAY_LEN(controllers); i++)
            if (controllers[i].bit == bit)
                return fy_fail(e, FY_EUNSUPPORTED, "this host's cgroups have no %s controller",
                               controllers[i].name);
    }
    if (write_text(folder, file, text) == 0 || (!wanted && errno == ENOENT))
        return 0;
    return fy_fail_errno(e, errno == EINVAL || errno == ERANGE ? FY_EUSAGE : FY_EUNSUPPORTED, errno,
                         "%s does not take \"%s\"", file, text);
}

int fyd_cgroup_apply(const uint8_t uuid[16], const struct fyd_limits *l, struct fy_err *e)
{
    char why[FY_ERR_TEXT], folder[128], text[64];
    bool any = l->cpu_weight || l->cpu_cap || l->cpus[0] || l->io_weight || l->memory_limit;
    if (check(l, e) < 0)
        return -1;
    unsigned have = fyd_cgroup_controllers(why);
    if (!have)
        return any ? fy_fail(e, FY_EUNSUPPORTED, "limits cannot be set here: %s", why) : 0;
    folder_of(uuid, folder, sizeof folder);
    snprintf(text, sizeof text, "%u", l->cpu_weight ? l->cpu_weight : WEIGHT_DEFAULT);
    if (apply(folder, have, FYD_CG_CPU, "cpu.weight", text, l->cpu_weight, e) < 0)
        return -1;
    weigh_all();
    if (l->cpu_cap)
        snprintf(text, sizeof text, "%llu %u", (unsigned long long)l->cpu_cap * PERIOD_US / 100, PERIOD_US);
    else
        snprintf(text, sizeof text, "max %u", PERIOD_US);
    if (apply(folder, have, FYD_CG_CPU, "cpu.max", text, l->cpu_cap, e) < 0 ||
        apply(folder, have, FYD_CG_CPUSET, "cpuset.cpus", l->cpus[0] ? l->cpus : "\n", l->cpus[0], e) < 0)
        return -1;
    snprintf(text, sizeof text, "default %u", l->io_weight ? l->io_weight : WEIGHT_DEFAULT);
    if (apply(folder, have, FYD_CG_IO, "io.weight", text, l->io_weight, e) < 0)
        return -1;
    if (l->memory_limit)
        snprintf(text, sizeof text, "%llu", (unsigned long long)l->memory_limit);
    else
        snprintf(text, sizeof text, "max");
    return apply(folder, have, FYD_CG_MEMORY, "memory.max", text, l->memory_limit, e);
}
