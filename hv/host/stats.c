// SPDX-License-Identifier: Apache-2.0
/* `vmctl top`: counters of every guest that runs here. A hypervisor tells of its devices and memory; CPU time
 * is read from /proc, which a hypervisor cannot see. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/host/guests.h"

#define CALL_MS 5000

/* One request: the guests that have not answered yet. */
struct survey {
    struct fyd_client *c;
    unsigned open;
};

struct question {
    struct survey *s;
    struct fyd *d;
    uint8_t uuid[FYD_ID_LEN];
};

static void settle(struct survey *s)
{
    if (--s->open)
        return;
    fyd_reply_done(s->c);
    fyd_client_release(s->c);
    free(s);
}

/* A small file of /proc; its text in buf. */
static bool read_file(int dir, const char *path, char *buf, size_t room)
{
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, room - 1);
    fy_close(&fd);
    if (n < 0)
        return false;
    buf[n] = 0;
    return true;
}

/* CPU time and waiting time of the process's threads (Linux Documentation/scheduler/sched-stats.rst,
 * schedstat). */
static void read_cpu(pid_t pid, Ferry__ApiStats *s)
{
    char path[64], buf[256];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *tasks = dir < 0 ? NULL : fdopendir(dir);
    if (!tasks) {
        fy_close(&dir);
        return;
    }
    struct dirent *t;
    while ((t = readdir(tasks))) {
        if (t->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%.20s/schedstat", t->d_name);
        if (!read_file(dir, path, buf, sizeof buf))
            continue;
        /* the kernel's own two numbers */
        char *rest;
        unsigned long long ran = strtoull(buf, &rest, 10);
        unsigned long long waited = strtoull(rest, NULL, 10);
        s->cpu_ns += ran;
        snprintf(path, sizeof path, "%.20s/comm", t->d_name);
        if (!read_file(dir, path, buf, sizeof buf) || strncmp(buf, "vcpu", 4) != 0)
            continue;
        s->vcpu_ns += ran;
        s->steal_ns += waited;
    }
    closedir(tasks);
}

static void reply(struct fyd_client *c, const struct fyd_guest *g, const Ferry__StatsReply *hv)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    Ferry__ApiStats s = FERRY__API_STATS__INIT;
    s.name = (char *)(uintptr_t)g->name;
    s.state = (char *)(uintptr_t)fyd_gstate_name(g->state);
    if (g->machine) {
        s.vcpus = g->machine->vcpus;
        s.memory_bytes = g->machine->memory_bytes;
    }
    if (g->pid)
        read_cpu(g->pid, &s);
    s.taken_ns = fy_now_ns();
    if (hv) {
        s.memory_resident = hv->memory_resident;
        s.balloon = hv->balloon;
        s.reported = hv->reported;
        s.devices = hv->devices;
        s.n_devices = hv->n_devices;
    }
    r.kind_case = FERRY__API_REPLY__KIND_STATS;
    r.stats = &s;
    fyd_reply(c, &r, NULL, 0);
}

static void answered(void *arg, const struct fy_err *err, const Ferry__Response *resp, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct question *q = arg;
    struct fyd_guest *g = fyd_guest_by_uuid(q->d, q->uuid);
    if (g)
        reply(q->s->c, g, !err && resp->op_case == FERRY__RESPONSE__OP_STATS ? resp->stats : NULL);
    settle(q->s);
    free(q);
}

void fyd_api_stats(struct fyd_client *c)
{
    struct survey *s = calloc(1, sizeof *s);
    if (!s) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    s->c = c;
    s->open = 1;
    fyd_client_hold(c);
    for (struct fyd_guest *g = c->d->guests; g; g = g->next) {
        struct question *q = g->link && g->pid ? calloc(1, sizeof *q) : NULL;
        if (!q)
            continue;
        q->s = s;
        q->d = c->d;
        memcpy(q->uuid, g->uuid, sizeof q->uuid);
        Ferry__StatsRequest st = FERRY__STATS_REQUEST__INIT;
        Ferry__Request req = FERRY__REQUEST__INIT;
        req.op_case = FERRY__REQUEST__OP_STATS;
        req.stats = &st;
        s->open++;
        fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, answered, q);
    }
    settle(s);
}
