// SPDX-License-Identifier: Apache-2.0
/* What a guest's hypervisor says, turned into the guest's state. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/log.h"
#include "hv/host/blk.h"
#include "hv/host/guests.h"
#include "hv/host/net.h"
#include "hv/host/spawn.h"

void fyd_guest_forget_nics(struct fyd_guest *g)
{
    for (unsigned i = 0; i < g->n_nics; i++)
        ferry__nic_status__free_unpacked(g->nics[i], NULL);
    g->n_nics = 0;
}

static void keep_nics(struct fyd_guest *g, const Ferry__StatusReply *s)
{
    fyd_guest_forget_nics(g);
    for (size_t i = 0; i < s->n_nics && i < FYD_NICS_MAX; i++) {
        Ferry__NicStatus *n = malloc(sizeof *n);
        if (!n)
            return;
        *n = *s->nics[i];
        n->base.n_unknown_fields = 0;
        n->base.unknown_fields = NULL;
        n->id = strdup(s->nics[i]->id);
        g->nics[g->n_nics++] = n;
    }
}

void fyd_guest_take_status(struct fyd_guest *g, const Ferry__StatusReply *s)
{
    g->running_ns = s->running_ns;
    g->vcpu_cpu_ns = s->vcpu_cpu_ns;
    g->resident = s->memory_resident;
    keep_nics(g, s);
    fyd_usernet_status(g, s);
    fyd_blk_status(g, s);
    if (*s->engine)
        fyd_copy(g->engine, sizeof g->engine, s->engine);
    fyd_copy(g->isolation, sizeof g->isolation, s->isolation);
    if (*s->warning)
        fyd_copy(g->warning, sizeof g->warning, s->warning);
}

static bool follows_hv(const struct fyd_guest *g)
{
    return g->state == FYD_G_STARTING || g->state == FYD_G_RUNNING || g->state == FYD_G_PAUSED;
}

void fyd_guest_hv_state(struct fyd_guest *g, Ferry__GuestState state, const char *report, int exit_status)
{
    if (g->forget)
        return;
    switch (state) {
    case FERRY__GUEST_STATE__GUEST_RUNNING:
        if (follows_hv(g))
            fyd_guest_set_state(g, FYD_G_RUNNING);
        break;
    case FERRY__GUEST_STATE__GUEST_PAUSED:
        if (follows_hv(g))
            fyd_guest_set_state(g, FYD_G_PAUSED);
        break;
    case FERRY__GUEST_STATE__GUEST_STOPPED:
    case FERRY__GUEST_STATE__GUEST_CRASHED:
        /* A hypervisor that ends because the guest is elsewhere ends as "stopped" too. */
        if (!(g->end_asked && (g->state == FYD_G_MOVED || g->state == FYD_G_INCOMING)))
            fyd_guest_ended_word(g, state == FERRY__GUEST_STATE__GUEST_CRASHED, report, exit_status);
        break;
    default:
        break;
    }
    fyd_ho_guest_state(g, state);
}

static void status_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct fyd_guest *g = arg;
    if (err || r->op_case != FERRY__RESPONSE__OP_STATUS)
        return;
    fyd_guest_take_status(g, r->status);
    fyd_guest_hv_state(g, r->status->state, r->status->report, r->status->exit_status);
}

void fyd_guest_ask_status(struct fyd_guest *g)
{
    if (!g->link)
        return;
    Ferry__StatusRequest st = FERRY__STATUS_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_STATUS;
    req.status = &st;
    fyd_hv_call(g->link, &req, NULL, 0, 5000, status_answered, g);
}

static void relinked(void *arg, const struct fy_err *err)
{
    struct fyd_guest *g = arg;
    if (err && g->pidfd >= 0) {
        fy_warn("guest %s: %s", g->name, err->text);
        fyd_kill(g->pidfd);
    }
}

void fyd_guest_relink(void *arg)
{
    struct fyd_guest *g = arg;
    if (g->ended_word)
        fyd_kill(g->pidfd);
    if (g->ended_word || g->link || g->pidfd < 0)
        return;
    fyd_guest_find(g, relinked, g);
}
