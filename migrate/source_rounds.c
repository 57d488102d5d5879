// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/log.h"
#include "migrate/source.h"

#define PROGRESS_NS 100000000ull
/* A rest below this is taken from log-dirty in one call, a larger one range by range as the threads come to
 * it. */
#define TAKE_ALL_BYTES (64ull << 20)
/* A target that applies nothing for this long is lost. */
#define SILENCE_NS 30000000000ull

uint64_t fy_source_pages_sent(struct fy_source *s)
{
    struct fy_pump_totals t;
    fy_pump_totals(s->pump, &t);
    return t.pages_zero + t.pages_raw + t.pages_lz4 + t.pages_zstd;
}

void fy_source_progress(struct fy_source *s, const char *phase, bool force)
{
    uint64_t now = fy_now_ns();
    if (!force && now - s->last_progress_ns < PROGRESS_NS)
        return;
    s->last_progress_ns = now;
    struct fy_pump_totals t = {0};
    if (s->pump)
        fy_pump_totals(s->pump, &t);
    uint64_t done = t.done_pages * FY_PAGE_SIZE;
    Ferry__JobProgress p = FERRY__JOB_PROGRESS__INIT;
    p.phase = (char *)(uintptr_t)phase;
    p.round = (uint32_t)s->round;
    p.total_bytes = s->report.ram_bytes;
    p.remaining_bytes = s->round <= 1 ? (done < s->round_bytes ? s->round_bytes - done : 0) : s->left_bytes;
    p.sent_bytes = (t.pages_zero + t.pages_raw + t.pages_lz4 + t.pages_zstd) * FY_PAGE_SIZE;
    p.wire_bytes = t.wire_bytes;
    p.dirty_rate = (uint64_t)(s->policy.dirty_rate * 1e9);
    p.throughput = (uint64_t)(s->policy.throughput * 1e9);
    p.expected_end_ns = fy_policy_remaining_ns(&s->policy, p.remaining_bytes);
    if (!s->policy.rounds) {
        /* No round has told yet: go by this one so far. */
        double rate = s->round_began_ns && now > s->round_began_ns
                          ? (double)done / (double)(now - s->round_began_ns)
                          : 0;
        p.throughput = (uint64_t)(rate * 1e9);
        p.expected_end_ns = rate > 0 ? (uint64_t)((double)p.remaining_bytes / rate) : 0;
    }
    p.expected_downtime_ns = s->policy.rounds ? fy_policy_forecast(&s->policy, s->left_bytes) : 0;
    p.fraction = fy_policy_fraction(&s->policy, done, s->round_bytes);
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_PROGRESS;
    out.progress = &p;
    fy_job_tell(s->job, &out);
}

static int read_rate(struct fy_source *s, struct fy_err *e)
{
    struct fy_record_header h;
    if (fy_control_read(&s->control, FY_REC_RATE, &h, e) < 0)
        return -1;
    Ferry__StreamRate *m = ferry__stream_rate__unpack(NULL, h.length, s->control.buf);
    if (!m)
        return fy_fail(e, FY_ECORRUPT, "the target's rate does not parse");
    uint64_t round = m->round;
    ferry__stream_rate__free_unpacked(m, NULL);
    if (round != s->acked + 1 || round > s->round)
        return fy_fail(e, FY_ECORRUPT, "the target claims round %llu of %llu", (unsigned long long)round,
                       (unsigned long long)s->round);
    s->acked = round;
    return 0;
}

/* The pump failed: what the target has to say about it is better than "connection broke". */
static int better_error(struct fy_source *s, struct fy_err *e)
{
    struct fy_err said = {0};
    struct fy_record_header h;
    while (fy_chan_wait(s->control.chan, -1, 1000, &said) == 1) {
        if (fy_control_read(&s->control, 0, &h, &said) == 0)
            continue;
        if (said.code != FY_EUNREACHABLE && said.code != FY_ECANCELLED)
            *e = said;
        break;
    }
    return -1;
}

int fy_source_wait_round(struct fy_source *s, bool ack, uint64_t deadline_ns, struct fy_err *e)
{
    uint64_t heard = fy_now_ns();
    uint64_t before = UINT64_MAX;
    for (;;) {
        int done = fy_pump_poll(s->pump, e);
        if (done < 0)
            return better_error(s, e);
        if (done && (!ack || s->acked == s->round))
            return 0;
        uint64_t now = fy_now_ns();
        if (deadline_ns && now >= deadline_ns)
            return fy_fail(e, FY_EDEADLINE, "the deadline passed in round %llu",
                           (unsigned long long)s->round);
        struct fy_pump_totals t;
        fy_pump_totals(s->pump, &t);
        if (t.wire_bytes != before || !done)
            heard = now;
        before = t.wire_bytes;
        if (now - heard > SILENCE_NS)
            return fy_fail(e, FY_EUNREACHABLE, "%s has not applied round %llu for 30 s", s->control.peer,
                           (unsigned long long)s->round);
        int n = fy_chan_wait(s->control.chan, s->wake_fd, 100, e);
        if (n < 0)
            return -1;
        if (n == 1 && read_rate(s, e) < 0)
            return -1;
        uint64_t count;
        if (n == 2 && read(s->wake_fd, &count, sizeof count) < 0)
            continue;
        fy_source_progress(s, "memory", false);
    }
}

/* Take and send one round and have the target apply it. Fills *r but for left_bytes. */
static int one_round(struct fy_source *s, uint64_t deadline_ns, struct fy_round *r, struct fy_err *e)
{
    uint64_t start = fy_now_ns();
    uint64_t before = fy_source_pages_sent(s);
    bool first = s->round == 0;
    s->round_began_ns = start;
    bool each = first || s->left_bytes >= TAKE_ALL_BYTES;
    s->round++;
    if (fy_fault_hit(FY_FAULT_SRC_ROUND))
        return fy_fail(e, FY_EFAIL, "fault point %d", FY_FAULT_SRC_ROUND);
    /* The latch makes the disks durable: most of that is done here, while the guest runs. */
    if (s->machine->n_disks && fy_ctl_write_back(s->ctl, e) < 0)
        return -1;
    if (!each && fy_ctl_tracker_take(s->ctl, s->tracker, 0, s->pages, true, NULL, NULL, e) < 0)
        return -1;
    uint64_t begun = fy_now_ns();
    fy_pump_begin(s->pump, s->round, each, first);
    if (fy_source_wait_round(s, true, deadline_ns, e) < 0)
        return -1;
    r->wire_ns = fy_now_ns() - begun;
    if (fy_ctl_tracker_done(s->ctl, s->tracker, e) < 0)
        return -1;
    r->bytes = (fy_source_pages_sent(s) - before) * FY_PAGE_SIZE;
    r->ns = fy_now_ns() - start;
    return 0;
}

static int count_left(struct fy_source *s, struct fy_err *e)
{
    uint64_t dirty;
    if (fy_ctl_tracker_count(s->ctl, s->tracker, true, &dirty, e) < 0)
        return -1;
    s->left_bytes = dirty * FY_PAGE_SIZE;
    s->round_bytes = s->left_bytes;
    return 0;
}

/* The source's daemon writes HANDING_OVER durably; the guest runs on meanwhile. */
static int prepare(struct fy_source *s, struct fy_err *e)
{
    if (fy_fault_hit(FY_FAULT_SRC_BEFORE_JOURNAL))
        return fy_fail(e, FY_EFAIL, "fault point %d", FY_FAULT_SRC_BEFORE_JOURNAL);
    Ferry__HandingOver m = FERRY__HANDING_OVER__INIT;
    m.handover_id = s->start->job_id;
    m.peer_host = s->control.peer;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_HANDING_OVER;
    out.handing_over = &m;
    if (fy_job_call(s->job, &out, NULL, NULL, e) < 0)
        return -1;
    s->prepared = true;
    return 0;
}

static int missed(struct fy_source *s, struct fy_err *e)
{
    const char *miss = s->opts->on_miss;
    if (!strcmp(miss, "force"))
        return 0;
    if (!strcmp(miss, "pause")) {
        if (fy_ctl_pause_keep(s->ctl, e) < 0)
            return -1;
        return fy_fail(e, FY_EDEADLINE,
                       "the deadline passed; the guest is paused here (vmctl unpause continues it)");
    }
    return fy_fail(e, FY_EDEADLINE, "the deadline passed with %llu MiB left; the guest runs on here",
                   (unsigned long long)(s->left_bytes >> 20));
}

int fy_source_rounds(struct fy_source *s, struct fy_err *e)
{
    uint64_t deadline = s->opts->deadline_ns ? s->began_ns + s->opts->deadline_ns : 0;
    bool force = deadline && !strcmp(s->opts->on_miss, "force");
    s->round_bytes = s->pages * FY_PAGE_SIZE;
    /* Fetch once, so that takes without a refresh have a mask to clear. */
    if (count_left(s, e) < 0)
        return -1;
    s->round_bytes = s->pages * FY_PAGE_SIZE;
    for (;;) {
        struct fy_round r = {0};
        if (one_round(s, force ? 0 : deadline, &r, e) < 0)
            return e->code == FY_EDEADLINE ? missed(s, e) : -1;
        if (count_left(s, e) < 0)
            return -1;
        r.left_bytes = s->left_bytes;
        r.now_ns = fy_now_ns() - s->began_ns;
        fy_debug("round %llu: %llu KiB in %llu us, left %llu KiB", (unsigned long long)s->round,
                 (unsigned long long)r.bytes >> 10, (unsigned long long)r.ns / 1000,
                 (unsigned long long)r.left_bytes >> 10);
        uint64_t asked = atomic_exchange(&s->asked_downtime_ns, 0);
        if (asked)
            s->policy.max_downtime_ns = asked;
        enum fy_decision d = fy_policy_round(&s->policy, &r);
        if (s->policy.rounds == 1)
            s->report.forecast_total_ns = r.now_ns + fy_policy_remaining_ns(&s->policy, s->left_bytes);
        fy_source_progress(s, "memory", false);
        if (d == FY_DECIDE_MISSED) {
            if (missed(s, e) < 0)
                return -1;
            return s->prepared ? 0 : prepare(s, e);
        }
        if (d == FY_DECIDE_NEVER && !deadline)
            return fy_fail(e, FY_EDEADLINE,
                           "a downtime of %.1f ms cannot be kept: the switch alone takes about %.1f ms over "
                           "this link (raise "
                           "--max-downtime); the guest runs on here",
                           (double)s->policy.max_downtime_ns / 1e6, (double)s->policy.fixed_ns / 1e6);
        if (d == FY_DECIDE_SWITCH) {
            if (s->prepared)
                return 0;
            /* The journal's fsync gave the guest time to write: one more round makes the rest small again. */
            if (prepare(s, e) < 0)
                return -1;
        }
    }
}
