// SPDX-License-Identifier: Apache-2.0
/* Actions of a hand-over that talk to a hypervisor or to the peer, and what its outcome means for guest and
 * job. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/blk.h"
#include "hv/host/disks.h"
#include "hv/host/handjob.h"
#include "hv/host/net.h"
#include "hv/host/spawn.h"

#define STATUS_MS 2000
#define RUN_MS 5000

static void spawned(void *arg, const struct fy_err *err)
{
    struct fyd_ho *h = arg;
    if (err)
        h->why = *err;
    fyd_ho_feed(h, err ? FY_HE_H_GONE : FY_HE_H_UP);
}

void fyd_ho_spawn(struct fyd_ho *h)
{
    if (!h->guest || !h->machine) {
        fyd_ho_feed(h, FY_HE_H_GONE);
        return;
    }
    struct fyd_launch l = {
        .machine = h->machine, .kernel_fd = -1, .initrd_fd = -1, .firmware_fd = -1, .incoming = true};
    fyd_guest_launch(h->guest, &l, spawned, h);
}

static bool same_id(const struct fyd_ho *h, const ProtobufCBinaryData *id)
{
    return id->len == FYD_ID_LEN && !memcmp(id->data, h->id, FYD_ID_LEN);
}

static void status_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct fyd_ho *h = arg;
    if (err || r->op_case != FERRY__RESPONSE__OP_STATUS) {
        /* Dead: its pidfd tells. Stuck (stopped by a debugger, say): ask until it answers or dies. */
        if (h->guest && h->guest->pidfd >= 0)
            fyd_ho_status(h);
        return;
    }
    const Ferry__StatusReply *s = r->status;
    if (h->source) {
        bool latched = s->state == FERRY__GUEST_STATE__GUEST_HANDED_OVER && same_id(h, &s->handover_id);
        if (latched || h->m.step < FY_HS_LAST)
            fyd_ho_feed(h, latched ? FY_HE_H_LATCHED : FY_HE_H_FREE);
    } else if (s->ran && same_id(h, &s->handover_id)) {
        fyd_ho_feed(h, FY_HE_H_RUNS);
    } else if (h->status_again || !h->again) {
        fyd_ho_feed(h, FY_HE_FOUND);
    } else {
        fy_timer_arm(h->again, 300);
    }
}

void fyd_ho_status(struct fyd_ho *h)
{
    if (!h->guest || h->guest->pidfd < 0) {
        fyd_ho_feed(h, FY_HE_H_GONE);
        return;
    }
    if (!h->guest->link) {
        /* Its socket broke: it is linked again or ended shortly. */
        h->m.hv = true;
        return;
    }
    Ferry__StatusRequest st = FERRY__STATUS_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_STATUS;
    req.status = &st;
    fyd_hv_call(h->guest->link, &req, NULL, 0, STATUS_MS, status_answered, h);
}

static void run_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct fyd_ho *h = arg;
    if (!err && r->op_case == FERRY__RESPONSE__OP_RUN) {
        h->resume_ns = r->run->took_ns;
        h->first_run_ns = r->run->first_run_ns;
        fyd_ho_feed(h, FY_HE_H_RUNS);
    } else if (err && (err->code == FY_EDEADLINE || err->code == FY_ECRASHED || err->code == FY_ECANCELLED)) {
        /* No answer is no answer: the same ID again has no effect if it runs. Its death is told by its pidfd.
         */
        if (h->guest && h->guest->pidfd >= 0 && h->guest->link && err->code == FY_EDEADLINE)
            fyd_ho_run(h);
    } else {
        if (err)
            h->why = *err;
        fyd_ho_feed(h, FY_HE_H_CANNOT);
    }
}

void fyd_ho_run(struct fyd_ho *h)
{
    if (fy_fault_hit(FY_FAULT_TD_BEFORE_RUN)) {
        fy_fail(&h->why, FY_EFAIL, "the guest cannot be run (fault point)");
        fyd_ho_feed(h, FY_HE_H_CANNOT);
        return;
    }
    if (!h->guest || !h->guest->link) {
        if (!h->guest || h->guest->pidfd < 0)
            fyd_ho_feed(h, FY_HE_H_GONE);
        return;
    }
    Ferry__RunRequest run = FERRY__RUN_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    int disks[FYD_DISKS_MAX];
    struct fy_err e;
    if (h->machine && fyd_disks_open(h->d, h->machine, true, disks, &e) < 0) {
        h->why = e;
        fyd_ho_feed(h, FY_HE_H_CANNOT);
        return;
    }
    for (size_t i = 0; h->machine && i < h->machine->n_disks; i++) {
        if (!fyd_disk_served(h->machine->disks[i]) ||
            fyd_blk_start(h->guest, h->machine->disks[i], (unsigned)i, true, &disks[i], &e) == 0)
            continue;
        fyd_disks_close(disks);
        h->why = e;
        fyd_ho_feed(h, FY_HE_H_CANNOT);
        return;
    }
    run.handover_id = (ProtobufCBinaryData){FYD_ID_LEN, h->id};
    run.paused = h->job && h->job->run_paused;
    req.op_case = FERRY__REQUEST__OP_RUN;
    req.run = &run;
    fyd_hv_call(h->guest->link, &req, disks, h->machine ? (int)h->machine->n_disks : 0, RUN_MS, run_answered,
                h);
    /* A descriptor kept here would keep the disk locked. */
    if (h->machine)
        fyd_disks_close(disks);
}

static void resolve_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds,
                             int nfds)
{
    (void)r;
    (void)fds;
    (void)nfds;
    struct fyd_ho *h = arg;
    if (err && h->guest && h->guest->pidfd >= 0 && err->code == FY_EDEADLINE) {
        fyd_ho_resolve(h, h->m.want != FY_HO_DONE);
        return;
    }
    if (err)
        fy_warn("hand-over of %s: resolve: %s", h->guest_name, err->text);
}

void fyd_ho_resolve(struct fyd_ho *h, bool run_here)
{
    struct fyd_guest *g = h->guest;
    if (!g || g->pidfd < 0)
        return;
    Ferry__ResolveRequest res = FERRY__RESOLVE_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    res.handover_id = (ProtobufCBinaryData){FYD_ID_LEN, h->id};
    res.run_here = run_here;
    req.op_case = FERRY__REQUEST__OP_RESOLVE;
    req.resolve = &res;
    if (run_here) {
        if (g->link)
            fyd_hv_call(g->link, &req, NULL, 0, STATUS_MS, resolve_answered, h);
        return;
    }
    /* The guest is the other side's, durably: this process may only end, the kind way or the other. */
    g->end_asked = true;
    if (g->link)
        fyd_hv_call(g->link, &req, NULL, 0, STATUS_MS, resolve_answered, h);
    fyd_guest_end_soon(g, 1000);
}

void fyd_ho_peer_answered(struct fyd_ho *h, unsigned outcome)
{
    h->asker = NULL;
    switch (outcome) {
    case 1:
        fyd_ho_feed(h, FY_HE_P_RAN);
        break;
    case 2:
        fyd_ho_feed(h, FY_HE_P_NEVER);
        break;
    case 3:
        fyd_ho_feed(h, FY_HE_P_LATER);
        break;
    default:
        fyd_ho_feed(h, FY_HE_P_AWAY);
    }
}

void fyd_ho_ask_peer(struct fyd_ho *h)
{
    if (h->asker)
        return;
    struct fy_err e = {0};
    struct fyd_host *host = fyd_host_find(h->d, h->peer);
    uint8_t id[FYD_ID_LEN];
    fy_random(id, sizeof id);
    struct fyd_job *job = host ? fyd_job_new(h->d, FERRY__JOB_KIND__JOB_QUERY, id) : NULL;
    if (!job) {
        fyd_ho_feed(h, FY_HE_P_AWAY);
        return;
    }
    Ferry__JobStart start = FERRY__JOB_START__INIT;
    Ferry__PinnedPeer peer = FERRY__PINNED_PEER__INIT;
    Ferry__PinnedPeer *peers[] = {&peer};
    peer.host = host->row.name;
    peer.certificate_sha256 = (ProtobufCBinaryData){32, host->row.sha256};
    start.n_peers = 1;
    start.peers = peers;
    start.address = host->row.address;
    start.query_id = (ProtobufCBinaryData){FYD_ID_LEN, h->id};
    /* Its worker may be about to finish what ours began: only from the third time on is it told to give up.
     */
    start.query_abandon = ++h->asked > 2;
    fyd_copy(job->peer, sizeof job->peer, h->peer);
    fyd_copy(job->guest_name, sizeof job->guest_name, h->guest_name);
    job->query_of = h;
    h->asker = job;
    if (fyd_job_spawn(job, &start, NULL, 0, &e) < 0) {
        fy_warn("hand-over of %s: cannot ask %s: %s", h->guest_name, h->peer, e.text);
        job->query_of = NULL;
        fyd_job_remove(job);
        fyd_ho_peer_answered(h, 0);
    }
}

void fyd_ho_source_settled(struct fyd_ho *h, bool here)
{
    struct fyd_guest *g = h->guest;
    if (g && here) {
        if (g->pidfd >= 0) {
            if (g->state == FYD_G_HANDING || g->state == FYD_G_UNCERTAIN) {
                fyd_guest_set_state(g, FYD_G_RUNNING);
                fyd_guest_ask_status(g);
            }
        } else if (g->state == FYD_G_HANDING || g->state == FYD_G_UNCERTAIN) {
            fyd_guest_set_state(g, FYD_G_CRASHED);
        }
    } else if (g) {
        fyd_copy(g->moved_to, sizeof g->moved_to, h->peer);
        g->end_asked = true;
        g->report[0] = 0;
        fyd_guest_set_state(g, FYD_G_MOVED);
    }
    if (h->job)
        fyd_job_settle(h->job);
}

void fyd_ho_target_settled(struct fyd_ho *h, bool here)
{
    struct fyd_guest *g = h->guest;
    if (h->machine) {
        ferry__machine__free_unpacked(h->machine, NULL);
        h->machine = NULL;
    }
    if (g && here) {
        if (g->pidfd >= 0 && g->state == FYD_G_INCOMING) {
            g->end_asked = false;
            fyd_guest_set_state(g, FYD_G_RUNNING);
            fyd_guest_ask_status(g);
            fyd_usernet_forward(g);
        } else if (g->pidfd < 0 && g->state == FYD_G_INCOMING) {
            if (!*g->report)
                fyd_copy(g->report, sizeof g->report, "its hypervisor ended after the guest had come here");
            fyd_guest_set_state(g, FYD_G_CRASHED);
        }
    } else if (g && g->pidfd < 0 && g->state == FYD_G_INCOMING) {
        g->state = FYD_G_STOPPED;
        fyd_guest_remove(g);
    }
    if (h->job)
        fyd_job_settle(h->job);
}

void fyd_ho_never_began(struct fyd_ho *h)
{
    struct fyd_guest *g = h->guest;
    if (h->machine)
        ferry__machine__free_unpacked(h->machine, NULL);
    h->machine = NULL;
    if (!g)
        return;
    if (h->source && g->state == FYD_G_HANDING) {
        fyd_guest_set_state(g, g->pidfd >= 0 ? FYD_G_RUNNING : FYD_G_CRASHED);
        fyd_guest_ask_status(g);
    } else if (!h->source && g->pidfd < 0) {
        g->state = FYD_G_STOPPED;
        fyd_guest_remove(g);
    }
}
