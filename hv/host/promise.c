// SPDX-License-Identifier: Apache-2.0
#include "hv/host/promise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/host/daemon.h"
#include "hv/host/firmware.h"

#define MARGIN_BYTES (16ull << 20) /* hypervisor, network, and a worker now and then */
#define MARGIN_SHARE 256           /* one in so many of memory: page tables of two processes, bitmaps */
#define TEXT_MAX 4096

uint64_t fyd_promise_of(const Ferry__Machine *m)
{
    uint64_t all = fyd_memory_file_bytes(m);
    return MARGIN_BYTES + all / MARGIN_SHARE + (m->hugepages ? 0 : all);
}

static uint64_t read_limit(const char *path)
{
    char text[64];
    FILE *f = fopen(path, "re");
    uint64_t v = UINT64_MAX;
    if (f && fgets(text, sizeof text, f) && *text >= '0' && *text <= '9')
        v = strtoull(text, NULL, 10);
    if (f)
        fclose(f);
    return v >= 1ull << 62 ? UINT64_MAX : v; /* version 1 says "none" by a huge number */
}

/* From the group up to the mount, whose own limit is the container's, where it has one. */
static uint64_t walk(const char *top, const char *group, const char *file)
{
    char path[TEXT_MAX + 320], folder[TEXT_MAX];
    uint64_t least = UINT64_MAX;
    snprintf(folder, sizeof folder, "%s", group);
    for (;;) {
        snprintf(path, sizeof path, "%.256s%s/%s", top, folder, file);
        least = FY_MIN(least, read_limit(path));
        char *slash = strrchr(folder, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

uint64_t fyd_cgroup_memory_limit(const char *self, const char *top)
{
    uint64_t least = UINT64_MAX;
    char line[TEXT_MAX], v1[300];
    snprintf(v1, sizeof v1, "%.256s/memory", top);
    for (const char *at = self; *at; at += strcspn(at, "\n"), at += *at == '\n') {
        snprintf(line, sizeof line, "%.*s", (int)FY_MIN(strcspn(at, "\n"), sizeof line - 1), at);
        char *names = strchr(line, ':');
        char *group = names ? strchr(names + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        if (!strcmp(names + 1, ""))
            least = FY_MIN(least, walk(top, group, "memory.max"));
        else if (!strcmp(names + 1, "memory"))
            least = FY_MIN(least, walk(v1, group, "memory.limit_in_bytes"));
    }
    return least;
}

static uint64_t daemon_limit(void)
{
    char text[TEXT_MAX];
    FILE *f = fopen("/proc/self/cgroup", "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    return fyd_cgroup_memory_limit(text, "/sys/fs/cgroup");
}

/* All memory but what is set aside as 2 MiB pages. */
static uint64_t host_memory(void)
{
    char *line = NULL;
    size_t room = 0;
    unsigned long long kib = 0, pages = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && getline(&line, &room, f) > 0) {
        if (!strncmp(line, "MemTotal:", 9))
            kib = strtoull(line + 9, NULL, 10);
        else if (!strncmp(line, "HugePages_Total:", 16))
            pages = strtoull(line + 16, NULL, 10);
    }
    free(line);
    if (f)
        fclose(f);
    return (kib << 10) - FY_MIN(kib << 10, pages << 21);
}

void fyd_promises(const struct fyd *d, struct fyd_promises *out)
{
    uint64_t limit = daemon_limit();
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    *out = (struct fyd_promises){.there = host_memory(), .cpus = cpus > 0 ? (unsigned)cpus : 1};
    if (limit < out->there) {
        out->there = limit;
        out->limited = true;
    }
    out->allowed = (uint64_t)((double)out->there * d->memory_ratio);
    for (const struct fyd_guest *g = d->guests; g; g = g->next) {
        if (!fyd_guest_active(g))
            continue;
        out->guests++;
        out->memory += g->machine ? fyd_promise_of(g->machine) : g->promised;
        out->vcpus += g->machine ? g->machine->vcpus : g->promised_vcpus;
    }
}

int fyd_promise_check(const struct fyd *d, const Ferry__Machine *m, struct fy_err *e)
{
    struct fyd_promises p;
    uint64_t asked = fyd_promise_of(m);
    fyd_promises(d, &p);
    if (asked <= p.allowed && p.memory <= p.allowed - asked)
        return 0;
    return fy_fail(e, FY_ERESOURCE,
                   "it may come to use %llu MiB (%llu MiB of memory and what its processes need); %llu MiB "
                   "are promised to %u "
                   "guest%s already, and %llu MiB may be promised here (%s %llu MiB, --memory-overcommit "
                   "%.2f): give it less "
                   "memory, stop a guest or move one away, or start ferryd with a larger --memory-overcommit",
                   (unsigned long long)(asked >> 20), (unsigned long long)(m->memory_bytes >> 20),
                   (unsigned long long)(p.memory >> 20), p.guests, p.guests == 1 ? "" : "s",
                   (unsigned long long)(p.allowed >> 20),
                   p.limited ? "the daemon's cgroup allows" : "the host has",
                   (unsigned long long)(p.there >> 20), d->memory_ratio);
}

void fyd_promise_cpus(const struct fyd *d, unsigned more, char *why, size_t room)
{
    struct fyd_promises p;
    fyd_promises(d, &p);
    *why = 0;
    if ((double)(p.vcpus + more) > (double)p.cpus * d->cpu_ratio)
        snprintf(why, room,
                 "guests have %u vCPUs in all, this host %u CPUs: more than --cpu-overcommit %.2f, so they "
                 "may run slowly",
                 p.vcpus + more, p.cpus, d->cpu_ratio);
}

int fyd_ratio_parse(const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 1.0 && v <= 100.0))
        return -1;
    *out = v;
    return 0;
}
