// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "migrate/source.h"
#include "migrate/verify.h"

#define STATE_PIECE (256u * 1024)
/* How long the target may take from COMMIT to RUNNING before the outcome is left to the daemons. */
#define RUNNING_TIMEOUT_MS 3000
#define MIN_SWITCH_NS 1000000000ull

static int fault(enum fy_fault point, struct fy_err *e)
{
    return fy_fault_hit(point) ? fy_fail(e, FY_EFAIL, "fault point %d", (int)point) : 0;
}

static int send_state(struct fy_source *s, int fd, uint64_t bytes, struct fy_err *e)
{
    uint8_t *piece = malloc(STATE_PIECE);
    if (!piece)
        return fy_fail(e, FY_ERESOURCE, "no memory for the state");
    int rc =
        bytes > FY_STATE_MAX ? fy_fail(e, FY_EFAIL, "the guest's state has %" PRIu64 " bytes", bytes) : 0;
    for (uint64_t at = 0; rc == 0 && at < bytes; at += STATE_PIECE) {
        uint32_t n = (uint32_t)FY_MIN((uint64_t)STATE_PIECE, bytes - at);
        if (fy_pread_all(fd, piece, n, (off_t)at) < 0)
            rc = fy_fail_errno(e, FY_EFAIL, errno, "cannot read the guest's state");
        else
            rc = fy_record_send(s->control.chan, &s->control.out, FY_REC_STATE, piece, n, false, e);
    }
    free(piece);
    return rc;
}

static int send_state_end(struct fy_source *s, struct fy_err *e)
{
    Ferry__ChannelSummary sums[FY_CHANNELS_MAX];
    Ferry__ChannelSummary *list[FY_CHANNELS_MAX];
    Ferry__StreamStateEnd m = FERRY__STREAM_STATE_END__INIT;
    for (unsigned i = 0; i < s->channels; i++) {
        ferry__channel_summary__init(&sums[i]);
        sums[i].channel = i + 1;
        uint64_t records;
        uint64_t digest;
        fy_pump_summary(s->pump, i, &records, &digest);
        sums[i].records = records;
        sums[i].digest = digest;
        list[i] = &sums[i];
    }
    m.n_channels = s->channels;
    m.channels = list;
    m.rounds = s->round;
    if (s->opts->verify) {
        uint64_t digest;
        if (fy_memory_digest(s->mem_fd, s->pages, s->channels, &digest, e) < 0)
            return -1;
        m.has_memory_digest = true;
        m.memory_digest = digest;
        s->report.verified = true;
    }
    return fy_control_send(&s->control, FY_REC_STATE_END, &m.base, e);
}

/* From here on the daemon refuses a cancel. */
static int ask_daemon(struct fy_source *s, struct fy_err *e)
{
    Ferry__SwitchQuestion q = FERRY__SWITCH_QUESTION__INIT;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_SWITCHING;
    out.switching = &q;
    return fy_job_call(s->job, &out, NULL, NULL, e);
}

static int await_ready(struct fy_source *s, uint64_t until_ns, struct fy_err *e)
{
    struct fy_record_header h;
    do {
        uint64_t now = fy_now_ns();
        int left = now >= until_ns ? 0 : (int)((until_ns - now) / 1000000 + 1);
        int n = fy_chan_wait(s->control.chan, -1, left, e);
        if (n < 0)
            return -1;
        if (n == 0)
            return fy_fail(e, FY_EDEADLINE, "%s did not load the guest in time; it runs on here",
                           s->control.peer);
        if (fy_control_read(&s->control, 0, &h, e) < 0)
            return -1;
    } while (h.type == FY_REC_RATE); /* the last barrier's */
    if (h.type != FY_REC_READY)
        return fy_fail(e, FY_ECORRUPT, "record type %u where READY is due", h.type);
    Ferry__StreamReady *r = ferry__stream_ready__unpack(NULL, h.length, s->control.buf);
    if (!r)
        return fy_fail(e, FY_ECORRUPT, "the target's READY does not parse");
    int rc = r->ok ? 0 : fy_fail(e, r->code ? (int)r->code : FY_EREFUSED, "%s: %s", s->control.peer, r->text);
    s->report.load_ns = r->load_ns;
    if (r->warning && *r->warning)
        snprintf(s->warning, sizeof s->warning, "%s", r->warning);
    ferry__stream_ready__free_unpacked(r, NULL);
    return rc;
}

/* Latch, COMMIT, RUNNING. Every failure from the latch on is uncertain: the daemons find out. */
static int commit(struct fy_source *s, uint64_t paused_at, struct fy_err *e)
{
    if (fault(FY_FAULT_SRC_READY, e) < 0 || fy_source_commit_gate(s, e) < 0)
        return -1;
    if (fy_ctl_latch(s->ctl, s->start->job_id.data, e) < 0)
        return -1;
    uint64_t sent = fy_now_ns();
    struct fy_record_header h;
    Ferry__StreamCommit m = FERRY__STREAM_COMMIT__INIT;
    Ferry__StreamRunning *r = NULL;
    m.handover_id = s->start->job_id;
    fy_chan_set_timeout(s->control.chan, RUNNING_TIMEOUT_MS);
    int rc = fault(FY_FAULT_SRC_LATCHED, e);
    if (rc == 0)
        rc = fy_control_send(&s->control, FY_REC_COMMIT, &m.base, e);
    if (rc == 0)
        rc = fault(FY_FAULT_SRC_COMMITTED, e);
    if (rc == 0)
        rc = fy_control_read(&s->control, FY_REC_RUNNING, &h, e);
    if (rc == 0 && !(r = ferry__stream_running__unpack(NULL, h.length, s->control.buf)))
        rc = fy_fail(e, FY_ECORRUPT, "the target's RUNNING does not parse");
    if (rc == 0 && (r->handover_id.len != FY_JOB_ID_LEN ||
                    memcmp(r->handover_id.data, s->start->job_id.data, FY_JOB_ID_LEN) != 0))
        rc = fy_fail(e, FY_ECORRUPT, "the target's RUNNING is of another hand-over");
    if (rc == 0) {
        s->report.resume_ns = r->commit_to_run_ns;
        s->relays = r->takes_frames;
        /* Half of the round trip is COMMIT's way there; the answer's way back is not downtime. */
        s->report.downtime_ns =
            sent - paused_at + FY_MIN(s->round_trip_ns / 2, 1000000ull) + r->commit_to_run_ns;
        rc = fault(FY_FAULT_SRC_RAN, e);
    }
    if (r)
        ferry__stream_running__free_unpacked(r, NULL);
    if (rc < 0) {
        struct fy_err why = *e;
        return fy_fail(e, FY_EUNCERTAIN,
                       "the hand-over was sent but not confirmed (%s); the daemons will resolve it",
                       why.text);
    }
    return 0;
}

static int tell_daemon(struct fy_source *s, struct fy_err *e)
{
    Ferry__HandedOver m = FERRY__HANDED_OVER__INIT;
    m.handover_id = s->start->job_id;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_HANDED_OVER;
    out.handed_over = &m;
    return fy_job_call(s->job, &out, NULL, NULL, e);
}

/* Everything between pause and READY. */
static int last_round(struct fy_source *s, uint64_t until_ns, struct fy_err *e)
{
    int state_fd = -1;
    uint64_t state_bytes;
    uint64_t before = fy_source_pages_sent(s);
    uint64_t t0 = fy_now_ns();
    /* State before the last take: reading a vCPU may write the guest's steal-time page. */
    if (fy_ctl_save_state(s->ctl, &state_fd, &state_bytes, e) < 0)
        return -1;
    uint64_t t1 = fy_now_ns();
    s->report.state_ns = t1 - t0;
    s->round++;
    int rc = fy_ctl_tracker_take(s->ctl, s->tracker, 0, s->pages, true, NULL, NULL, e);
    if (rc == 0) {
        fy_pump_begin(s->pump, s->round, false, false);
        rc = send_state(s, state_fd, state_bytes, e);
    }
    fy_close(&state_fd);
    if (rc == 0)
        rc = fy_source_wait_round(s, false, until_ns, e);
    if (rc == 0)
        rc = send_state_end(s, e);
    s->report.last_pages_ns = fy_now_ns() - t1;
    s->report.last_round_bytes = (fy_source_pages_sent(s) - before) * FY_PAGE_SIZE;
    if (rc == 0)
        rc = fault(FY_FAULT_SRC_STATE_SENT, e);
    return rc;
}

int fy_source_switch(struct fy_source *s, struct fy_err *e)
{
    bool force = s->opts->deadline_ns && !strcmp(s->opts->on_miss, "force");
    s->report.forecast_downtime_ns = fy_policy_forecast(&s->policy, s->left_bytes);
    fy_source_progress(s, "switch", true);
    if (fault(FY_FAULT_SRC_BEFORE_PAUSE, e) < 0)
        return -1;
    uint64_t paused_at = fy_now_ns();
    uint64_t limit =
        FY_MAX(4 * FY_MAX(s->policy.max_downtime_ns, s->report.forecast_downtime_ns), MIN_SWITCH_NS);
    /* A bound on how long a stalled target may keep the guest paused: past it the guest runs on here. */
    uint64_t until = paused_at + (force || s->opts->verify ? 60 * MIN_SWITCH_NS + limit : limit);
    if (fy_ctl_pause(s->ctl, &s->report.pause_ns, e) < 0 || fault(FY_FAULT_SRC_PAUSED, e) < 0)
        return -1;
    s->report.pause_ns = fy_now_ns() - paused_at;
    if (last_round(s, until, e) < 0 || ask_daemon(s, e) < 0 || await_ready(s, until, e) < 0)
        return -1;
    if (commit(s, paused_at, e) < 0)
        return -1;
    s->report.dirty_rate = (uint64_t)(s->policy.dirty_rate * 1e9);
    uint64_t pages_ns = (uint64_t)((double)s->report.last_round_bytes / s->policy.throughput);
    s->report.switch_ns = s->report.downtime_ns > pages_ns ? s->report.downtime_ns - pages_ns : 0;
    if (s->relays && s->machine->n_nics)
        fy_source_relay(s);
    return tell_daemon(s, e);
}
