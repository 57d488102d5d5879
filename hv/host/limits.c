// SPDX-License-Identifier: Apache-2.0
/* `vmctl set` of a guest that runs: its cgroup and its balloon. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/log.h"
#include "hv/host/guests.h"

#define CALL_MS 5000

void fyd_limits_join(struct fyd_guest *g)
{
    struct fy_err e;
    if (fyd_cgroup_join(g->uuid, g->pid, &e) == 0 && fyd_cgroup_apply(g->uuid, &g->limits, &e) < 0)
        fy_warn("guest %s: %s", g->name, e.text);
}

void fyd_limits_leave(struct fyd_guest *g)
{
    fyd_cgroup_remove(g->uuid); /* also one that a daemon before this one has made */
}

static int set_limits(struct fyd_guest *g, const Ferry__ApiLimit *op, struct fy_err *e)
{
    struct fyd_limits l = g->limits;
    const Ferry__Limits *w = op->limits;
    if (op->which & 1)
        l.cpu_weight = w->cpu_weight;
    if (op->which & 2)
        l.cpu_cap = w->cpu_cap;
    if (op->which & 4) {
        if (strlen(w->cpus) >= sizeof l.cpus)
            return fy_fail(e, FY_EUSAGE, "the list of CPUs is too long");
        fyd_copy(l.cpus, sizeof l.cpus, w->cpus);
    }
    if (op->which & 8)
        l.io_weight = w->io_weight;
    if (op->which & 16)
        l.memory_limit = w->memory_limit;
    if (l.memory_limit && g->machine && l.memory_limit < g->machine->memory_bytes)
        fy_warn("guest %s: a limit of %llu MiB is less than its memory: the kernel ends it when it uses more",
                g->name, (unsigned long long)(l.memory_limit >> 20));
    if (fyd_cgroup_apply(g->uuid, &l, e) < 0) {
        struct fy_err again;
        fyd_cgroup_apply(g->uuid, &g->limits, &again); /* what the first of them changed goes back */
        return -1;
    }
    g->limits = l;
    return 0;
}

struct ask {
    struct fyd_client *c;
    struct fyd *d;
    uint8_t uuid[FYD_ID_LEN];
};

static void balloon_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds,
                             int nfds)
{
    (void)r;
    (void)fds;
    (void)nfds;
    struct ask *a = arg;
    struct fyd_guest *g = fyd_guest_by_uuid(a->d, a->uuid);
    if (err)
        fyd_reply_error(a->c, err);
    else if (!g)
        fyd_reply_fail(a->c, FY_ECRASHED, "the guest ended meanwhile");
    else
        fyd_reply_guest(a->c, g, true);
    fyd_client_release(a->c);
    free(a);
}

static void set_memory(struct fyd_client *c, struct fyd_guest *g, uint64_t memory)
{
    uint64_t all = g->machine ? g->machine->memory_bytes : 0;
    if (memory > all || (memory && memory < 16u << 20)) {
        fyd_reply_fail(c, FY_EUSAGE, "it has %llu MiB of memory and can keep 16 MiB to all of it",
                       (unsigned long long)(all >> 20));
        return;
    }
    struct ask *a = calloc(1, sizeof *a);
    if (!a) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    a->c = c;
    a->d = c->d;
    memcpy(a->uuid, g->uuid, sizeof a->uuid);
    fyd_client_hold(c);
    Ferry__BalloonRequest b = FERRY__BALLOON_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    b.set = true;
    b.target = memory ? all - memory : 0;
    req.op_case = FERRY__REQUEST__OP_BALLOON;
    req.balloon = &b;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, balloon_answered, a);
}

void fyd_api_limit(struct fyd_client *c, const Ferry__ApiLimit *op)
{
    struct fy_err e;
    struct fyd_guest *g = fyd_api_live_guest(c, op->name);
    if (!g)
        return;
    if (op->which && (!op->limits || set_limits(g, op, &e) < 0)) {
        if (!op->limits)
            fy_fail(&e, FY_EUSAGE, "no limits are given");
        fyd_reply_error(c, &e);
        return;
    }
    fyd_changed_guest(g, false);
    if (op->set_memory)
        set_memory(c, g, op->memory);
    else
        fyd_reply_guest(c, g, true);
}
