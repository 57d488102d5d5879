// SPDX-License-Identifier: Apache-2.0
/* The driver of the hand-over machines: carries out their actions and feeds what comes of them. */
#include "hv/host/handjob.h"
#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/hex.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/net.h"
#include "hv/host/spawn.h"

#include <stdlib.h>
#include <string.h>

#define BACKOFF_MIN_MS 200
#define BACKOFF_MAX_MS 2000
#define KEEP_NS (7ull * 24 * 3600 * 1000000000ull)

struct fyd_ho *fyd_ho_find(struct fyd *d, const uint8_t id[FYD_ID_LEN])
{
    for (struct fyd_ho *h = d->handovers; h; h = h->next)
        if (!memcmp(h->id, id, FYD_ID_LEN))
            return h;
    return NULL;
}

struct fyd_ho *fyd_ho_new(struct fyd *d, const uint8_t id[FYD_ID_LEN], bool source)
{
    struct fyd_ho *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->d = d;
    h->source = source;
    h->old_pidfd = -1;
    memcpy(h->id, id, FYD_ID_LEN);
    fyd_copy(h->boot_id, sizeof h->boot_id, d->boot_id);
    h->next = d->handovers;
    d->handovers = h;
    return h;
}

static void on_written(void *arg, const struct fy_err *err)
{
    struct fyd_ho *h = arg;
    if (err)
        h->why = *err;
    if (!err && h->source && h->m.want == FY_HO_HANDING && fy_fault_hit(FY_FAULT_SD_AFTER_JOURNAL))
        fy_warn("fault point: the answer goes out all the same, the record stands");
    if (!err && h->source && h->m.want == FY_HO_DONE)
        fy_fault_hit(FY_FAULT_SD_AFTER_DONE);
    if (!err && !h->source && h->m.want == FY_HO_RAN)
        fy_fault_hit(FY_FAULT_TD_AFTER_RAN);
    if (!err && !h->source && h->m.want == FY_HO_ABORT)
        fy_fault_hit(FY_FAULT_TD_AFTER_ABORT);
    fyd_ho_feed(h, err ? FY_HE_WRITE_FAILED : FY_HE_WRITTEN);
}

/* True when a test wants this write to fail. */
static bool write_fault(const struct fyd_ho *h)
{
    switch (h->m.want) {
    case FY_HO_HANDING:
        return fy_fault_hit(FY_FAULT_SD_BEFORE_JOURNAL);
    case FY_HO_DONE:
        return fy_fault_hit(FY_FAULT_SD_BEFORE_DONE);
    case FY_HO_INCOMING:
        return fy_fault_hit(FY_FAULT_TD_BEFORE_CREATE);
    case FY_HO_RAN:
        return fy_fault_hit(FY_FAULT_TD_AFTER_RUN);
    case FY_HO_ABORT:
        return fy_fault_hit(FY_FAULT_TD_BEFORE_ABORT);
    default:
        return false;
    }
}

static void write_journal(struct fyd_ho *h)
{
    struct inv_handover row = {.state = h->m.want,
                               .worker_pid = h->worker_pid,
                               .worker_start = h->worker_start,
                               .changed_ns = fy_realtime_ns()};
    if (write_fault(h)) {
        fy_fail(&h->why, FY_ERESOURCE, "the journal cannot be written (fault point)");
        fyd_ho_feed(h, FY_HE_WRITE_FAILED);
        return;
    }
    memcpy(row.id, h->id, FYD_ID_LEN);
    memcpy(row.uuid, h->uuid, FYD_ID_LEN);
    fyd_copy(row.guest, sizeof row.guest, h->guest_name);
    fyd_copy(row.peer, sizeof row.peer, h->peer);
    fyd_copy(row.boot_id, sizeof row.boot_id, h->boot_id);
    fy_info("hand-over of %s: journal %s", h->guest_name, fy_ho_state_name(h->m.want));
    fyd_inv_put_handover(h->d->inv, &row, on_written, h);
}

static void on_timer(void *arg)
{
    fyd_ho_feed(arg, FY_HE_TIMER);
}

static void arm_timer(struct fyd_ho *h)
{
    h->backoff_ms = h->backoff_ms ? h->backoff_ms * 2 : BACKOFF_MIN_MS;
    if (h->backoff_ms > BACKOFF_MAX_MS)
        h->backoff_ms = BACKOFF_MAX_MS;
    if (!h->timer)
        h->timer = fy_timer_new(h->d->loop, on_timer, h, NULL);
    if (h->timer)
        fy_timer_arm(h->timer, h->backoff_ms);
}

static void kill_hv(struct fyd_ho *h)
{
    if (h->guest && h->guest->pidfd >= 0)
        fyd_guest_kill(h->guest);
    else
        fyd_ho_feed(h, FY_HE_H_GONE);
}

/* What the worker's open call gets. */
/* What the operator is to know of a guest that has been made here. */
static char *fyd_ho_warning(struct fyd_ho *h)
{
    const Ferry__Machine *m = h->guest ? h->guest->machine : NULL;
    if (!m || *h->guest->warning)
        return m ? h->guest->warning : (char *)(uintptr_t) "";
    for (size_t i = 0; i < m->n_nics; i++)
        if (fyd_nic_is_user(m->nics[i]))
            return (
                char *)(uintptr_t) "connections over its user network end with the move (those over taps and "
                                   "bridges do not)";
    return h->guest->warning;
}

static void answer_worker(struct fyd_ho *h, bool ok)
{
    struct fyd_job *job = h->job;
    if (!job || !job->call_id)
        return;
    if (!ok && !h->why.code)
        fy_fail(&h->why, FY_ESTATE, "the hand-over is not in a state that allows this (%s)",
                fy_ho_state_name(h->m.journal));
    Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
    Ferry__CreateAnswer create = FERRY__CREATE_ANSWER__INIT;
    Ferry__RunAnswer run = FERRY__RUN_ANSWER__INIT;
    int fd = -1;
    if (ok && job->call == FERRY__WORKER_OUT__KIND_CREATE) {
        fd = h->guest ? fyd_guest_connect(h->guest, &h->why)
                      : fy_fail(&h->why, FY_ECRASHED, "the guest is gone");
        ok = fd >= 0;
        create.prealloc_ns = h->guest ? h->guest->prealloc_ns : 0;
        create.warning = fyd_ho_warning(h);
        in.kind_case = FERRY__WORKER_IN__KIND_CREATE;
        in.create = &create;
        fy_fault_hit(FY_FAULT_TD_CREATED);
    } else if (ok && job->call == FERRY__WORKER_OUT__KIND_RUN) {
        run.resume_ns = h->resume_ns;
        run.first_run_ns = h->first_run_ns;
        in.kind_case = FERRY__WORKER_IN__KIND_RUN;
        in.run = &run;
    }
    fyd_job_answer(job, ok ? NULL : &h->why, ok ? &in : NULL, &fd, fd >= 0);
    fy_close(&fd);
    h->why.code = 0;
}

static void answer_query(struct fyd_ho *h, unsigned outcome)
{
    struct fyd_job *job = h->answer_to;
    h->answer_to = NULL;
    if (job)
        fyd_job_answer_query(job, outcome, 0, "");
}

static void report(struct fyd_ho *h, uint32_t acts)
{
    if (acts & FY_HA_UNCERTAIN) {
        if (!h->uncertain_since)
            h->uncertain_since = fy_now_ns();
        if (h->guest && h->guest->state == FYD_G_HANDING)
            fyd_guest_set_state(h->guest, FYD_G_UNCERTAIN);
        if (h->job)
            fyd_job_uncertain(h->job);
    }
    if (acts & (FY_HA_HERE | FY_HA_AWAY)) {
        h->backoff_ms = 0;
        if (h->source)
            fyd_ho_source_settled(h, acts & FY_HA_HERE);
        else
            fyd_ho_target_settled(h, acts & FY_HA_HERE);
    }
}

static void act(struct fyd_ho *h, uint32_t acts)
{
    if (acts & FY_HA_WRITE)
        write_journal(h);
    if ((acts & FY_HA_KILL_WORKER) && h->job)
        fyd_job_kill(h->job);
    if (acts & FY_HA_KILL_HV)
        kill_hv(h);
    if (acts & FY_HA_SPAWN)
        fyd_ho_spawn(h);
    if (acts & FY_HA_HV_RUN)
        fyd_ho_run(h);
    if (acts & FY_HA_HV_STATUS)
        fyd_ho_status(h);
    if (acts & FY_HA_HV_HERE)
        fyd_ho_resolve(h, true);
    if (acts & FY_HA_HV_LEAVE)
        fyd_ho_resolve(h, false);
    if (acts & FY_HA_CHECK_LOG)
        fyd_ho_feed(h, fyd_runlog_entered(h->d, h->id) ? FY_HE_LOG_RAN : FY_HE_LOG_NONE);
    if (acts & FY_HA_ASK_PEER)
        fyd_ho_ask_peer(h);
    if (acts & FY_HA_TIMER)
        arm_timer(h);
    if (acts & (FY_HA_UNCERTAIN | FY_HA_HERE | FY_HA_AWAY))
        report(h, acts);
    if (acts & (FY_HA_ANSWER_OK | FY_HA_ANSWER_NO))
        answer_worker(h, acts & FY_HA_ANSWER_OK);
    if (acts & FY_HA_QUERY_RAN)
        answer_query(h, 1);
    if (acts & FY_HA_QUERY_NEVER)
        answer_query(h, 2);
    if (acts & FY_HA_QUERY_LATER)
        answer_query(h, 3);
}

/* An action may bring the next event before it returns: events queue, so that each is dealt with whole. */
void fyd_ho_feed(struct fyd_ho *h, enum fy_ho_event ev)
{
    if (h->queued < sizeof h->queue)
        h->queue[h->queued++] = (uint8_t)ev;
    else
        fy_error("hand-over of %s: event %d is lost", h->guest_name, (int)ev);
    if (h->feeding)
        return;
    h->feeding = true;
    while (h->queued) {
        enum fy_ho_event next = h->queue[0];
        memmove(h->queue, h->queue + 1, --h->queued);
        act(h, h->source ? fy_ho_source(&h->m, next) : fy_ho_target(&h->m, next));
        if (next == FY_HE_WRITE_FAILED && h->m.step == FY_HS_IDLE)
            fyd_ho_never_began(h);
    }
    h->feeding = false;
}

void fyd_ho_guest_state(struct fyd_guest *g, Ferry__GuestState state)
{
    if (state != FERRY__GUEST_STATE__GUEST_HANDED_OVER || fyd_id_is_zero(g->handover))
        return;
    struct fyd_ho *h = fyd_ho_find(g->d, g->handover);
    /* Latched although the outcome stands: a dead worker's last request was served late. */
    if (h && h->source && h->m.step >= FY_HS_LAST)
        fyd_ho_feed(h, FY_HE_H_LATCHED);
}

void fyd_ho_load(struct fyd *d, const struct inv_handover *row)
{
    bool over = row->state != FY_HO_HANDING && row->state != FY_HO_INCOMING;
    if (over && row->changed_ns + KEEP_NS < fy_realtime_ns()) {
        fyd_inv_del_handover(d->inv, row->id, NULL, NULL);
        return;
    }
    bool source = row->state <= FY_HO_ABORTED;
    struct fyd_ho *h = fyd_ho_new(d, row->id, source);
    if (!h)
        return;
    memcpy(h->uuid, row->uuid, FYD_ID_LEN);
    fyd_copy(h->guest_name, sizeof h->guest_name, row->guest);
    fyd_copy(h->peer, sizeof h->peer, row->peer);
    fyd_copy(h->boot_id, sizeof h->boot_id, row->boot_id);
    h->worker_pid = row->worker_pid;
    h->worker_start = row->worker_start;
    h->restarted = true;
    h->m = fy_ho_restart(row->state, false);
}

static void ask_twice(void *arg)
{
    struct fyd_ho *h = arg;
    h->status_again = true;
    fyd_ho_status(h);
}

/* The old worker is dead and the guest found or lost: decide. */
static void resume_now(struct fyd_ho *h)
{
    h->m.hv = h->guest && h->guest->pidfd >= 0 && h->guest->link;
    bool rebooted = strcmp(h->boot_id, h->d->boot_id) != 0;
    fy_info("hand-over of %s: found %s in the journal, its hypervisor is %s", h->guest_name,
            fy_ho_state_name(h->m.journal), h->m.hv ? "alive" : "gone");
    bool undecided = h->guest && (h->guest->state == FYD_G_HANDING || h->guest->state == FYD_G_UNCERTAIN ||
                                  h->guest->state == FYD_G_INCOMING);
    if (h->m.step == FY_HS_END && undecided) {
        /* The journal's last record was written, what it means for the guest was not. */
        if (h->source)
            fyd_ho_source_settled(h, h->m.journal == FY_HO_ABORTED);
        else
            fyd_ho_target_settled(h, h->m.journal == FY_HO_RAN);
    }
    if (h->source) {
        if (h->m.step == FY_HS_OPEN)
            fyd_ho_feed(h, FY_HE_W_GONE);
        else if (h->m.hv)
            fyd_ho_status(h);
    } else if (h->m.step == FY_HS_LOOK) {
        if (h->m.hv) {
            /* A run that the daemon before us asked for may be on its way: look, and look again. */
            h->again = fy_timer_new(h->d->loop, ask_twice, h, NULL);
            fyd_ho_status(h);
        } else if (rebooted) {
            /* The run log is not synced, so it proves nothing over a restart of the host: it counts as run.
             */
            fyd_ho_feed(h, FY_HE_H_RUNS);
        } else {
            fyd_ho_feed(h, FY_HE_H_GONE);
        }
    }
}

static void on_old_worker(int fd, unsigned ready, void *arg)
{
    (void)fd;
    (void)ready;
    struct fyd_ho *h = arg;
    fy_watch_free(h->old_watch);
    h->old_watch = NULL;
    fy_close(&h->old_pidfd);
    resume_now(h);
}

void fyd_ho_resume(struct fyd_ho *h)
{
    struct fy_err e;
    bool open = h->m.step == FY_HS_OPEN || h->m.step == FY_HS_LOOK;
    struct fyd_guest *g = fyd_id_is_zero(h->uuid) ? NULL : fyd_guest_by_uuid(h->d, h->uuid);
    /* A guest that comes and goes has many hand-overs: only its last one speaks for it. */
    h->guest = g && !memcmp(g->handover, h->id, FYD_ID_LEN) ? g : NULL;
    if (h->guest && open) {
        fyd_guest_set_state(h->guest, h->source ? FYD_G_HANDING : FYD_G_INCOMING);
    }
    if (open && h->worker_pid && !strcmp(h->boot_id, h->d->boot_id))
        h->old_pidfd = fyd_pidfd((pid_t)h->worker_pid, h->worker_start, &e);
    if (h->old_pidfd < 0) {
        resume_now(h);
        return;
    }
    fyd_kill(h->old_pidfd);
    h->old_watch = fy_watch_fd(h->d->loop, h->old_pidfd, FY_READ, on_old_worker, h, &e);
    if (!h->old_watch)
        resume_now(h);
}

void fyd_ho_free_all(struct fyd *d)
{
    while (d->handovers) {
        struct fyd_ho *h = d->handovers;
        d->handovers = h->next;
        fy_watch_free(h->timer);
        fy_watch_free(h->again);
        fy_watch_free(h->old_watch);
        fy_close(&h->old_pidfd);
        if (h->machine)
            ferry__machine__free_unpacked(h->machine, NULL);
        free(h);
    }
}
