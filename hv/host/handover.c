// SPDX-License-Identifier: Apache-2.0
#include "hv/host/handover.h"

static uint32_t write_last(struct fy_ho *h, enum fy_ho_state want)
{
    h->want = (uint8_t)want;
    h->step = FY_HS_LAST;
    return FY_HA_WRITE;
}

static uint32_t answer(struct fy_ho *h, bool ok)
{
    bool due = h->call != FY_HC_NONE && h->worker;
    h->call = FY_HC_NONE;
    return due ? ok ? FY_HA_ANSWER_OK : FY_HA_ANSWER_NO : 0;
}

/* Carry out and report the source's outcome, once. */
static uint32_t settle_source(struct fy_ho *h)
{
    if (h->settled)
        return 0;
    h->settled = true;
    if (h->want == FY_HO_DONE)
        return FY_HA_HV_LEAVE | FY_HA_AWAY | answer(h, true);
    return FY_HA_HERE;
}

static uint32_t source_worker_gone(struct fy_ho *h)
{
    h->worker = false;
    h->call = FY_HC_NONE;
    if (h->step != FY_HS_OPEN)
        return 0;
    if (h->hv) {
        h->step = FY_HS_PROBE;
        return FY_HA_HV_STATUS;
    }
    /* Whether it was latched when it died, and COMMIT on its way, only the other side knows. */
    h->step = FY_HS_ASK;
    return FY_HA_ASK_PEER;
}

static uint32_t source_written(struct fy_ho *h)
{
    h->journal = h->want;
    if (h->step == FY_HS_WRITING) {
        h->step = FY_HS_OPEN;
        return h->worker ? answer(h, true) : source_worker_gone(h);
    }
    if (h->step != FY_HS_LAST)
        return 0;
    h->step = FY_HS_END;
    return settle_source(h);
}

static uint32_t source_write_failed(struct fy_ho *h)
{
    if (h->step == FY_HS_WRITING) {
        h->step = FY_HS_IDLE;
        return answer(h, false);
    }
    /* The outcome stands without its record: a restart would find it out anew. */
    return h->step == FY_HS_LAST ? settle_source(h) | FY_HA_TIMER : 0;
}

/* Our hypervisor says that it is latched with this ID. */
static uint32_t source_latched(struct fy_ho *h)
{
    switch (h->step) {
    case FY_HS_PROBE:
        h->latch_seen = true;
        h->step = FY_HS_ASK;
        return FY_HA_ASK_PEER;
    case FY_HS_LAST:
        /* The dead worker's last request was served after our question. */
        return h->want == FY_HO_ABORTED ? FY_HA_HV_HERE : FY_HA_HV_LEAVE;
    case FY_HS_END:
        return h->journal == FY_HO_ABORTED ? FY_HA_HV_HERE : FY_HA_HV_LEAVE;
    default:
        return 0;
    }
}

static uint32_t source_peer(struct fy_ho *h, enum fy_ho_event ev)
{
    if (h->step != FY_HS_ASK)
        return 0;
    switch (ev) {
    case FY_HE_P_RAN:
    case FY_HE_O_GONE:
        return write_last(h, FY_HO_DONE);
    case FY_HE_P_NEVER:
    case FY_HE_O_HERE:
        /* First the guest, then the record: a restart in between finds it unlatched and aborts. */
        return write_last(h, FY_HO_ABORTED) | FY_HA_HV_HERE;
    case FY_HE_P_AWAY:
        return FY_HA_UNCERTAIN | FY_HA_TIMER;
    default:
        return FY_HA_TIMER;
    }
}

uint32_t fy_ho_source(struct fy_ho *h, enum fy_ho_event ev)
{
    switch (ev) {
    case FY_HE_ASK_HANDING:
        h->worker = h->hv = true;
        h->call = FY_HC_GO;
        if (h->step != FY_HS_IDLE || h->journal != FY_HO_NONE)
            return answer(h, false);
        h->step = FY_HS_WRITING;
        h->want = FY_HO_HANDING;
        return FY_HA_WRITE;
    case FY_HE_HANDED_OVER:
        h->call = FY_HC_GO;
        if (h->step == FY_HS_OPEN)
            return write_last(h, FY_HO_DONE);
        return h->step == FY_HS_END || h->step == FY_HS_LAST ? answer(h, h->want == FY_HO_DONE)
                                                             : answer(h, false);
    case FY_HE_W_GONE:
        return source_worker_gone(h);
    case FY_HE_WRITTEN:
        return source_written(h);
    case FY_HE_WRITE_FAILED:
        return source_write_failed(h);
    case FY_HE_H_LATCHED:
        return source_latched(h);
    case FY_HE_H_FREE:
        return h->step == FY_HS_PROBE ? write_last(h, FY_HO_ABORTED) : 0;
    case FY_HE_H_GONE:
        h->hv = false;
        if (h->step != FY_HS_PROBE)
            return 0;
        h->step = FY_HS_ASK;
        return FY_HA_ASK_PEER;
    case FY_HE_P_RAN:
    case FY_HE_P_NEVER:
    case FY_HE_P_LATER:
    case FY_HE_P_AWAY:
    case FY_HE_O_HERE:
    case FY_HE_O_GONE:
        return source_peer(h, ev);
    case FY_HE_TIMER:
        if (h->step == FY_HS_ASK)
            return FY_HA_ASK_PEER;
        return h->step == FY_HS_LAST ? FY_HA_WRITE : 0;
    default:
        return 0;
    }
}

static uint32_t target_kill(struct fy_ho *h)
{
    if (!h->hv) {
        h->step = FY_HS_LOG;
        return FY_HA_CHECK_LOG;
    }
    h->step = FY_HS_KILL;
    return FY_HA_KILL_HV;
}

/* No COMMIT can come any more. */
static uint32_t target_give_up(struct fy_ho *h)
{
    switch (h->step) {
    case FY_HS_SPAWN:
    case FY_HS_OPEN:
        return target_kill(h);
    default:
        /* WRITING: seen when written. RUN and later: the daemon finishes what it began. */
        return 0;
    }
}

static uint32_t target_answer_query(struct fy_ho *h)
{
    if (!h->query)
        return 0;
    h->query = false;
    if (h->journal == FY_HO_RAN)
        return FY_HA_QUERY_RAN;
    return h->journal == FY_HO_ABORT ? FY_HA_QUERY_NEVER : FY_HA_QUERY_LATER;
}

static uint32_t target_query(struct fy_ho *h, bool abandon)
{
    h->query = true;
    if (h->step == FY_HS_END)
        return target_answer_query(h);
    if (h->step == FY_HS_IDLE)
        return write_last(h, FY_HO_ABORT);
    if (h->step == FY_HS_LAST && h->want == FY_HO_ABORT)
        return 0;
    if (abandon && (h->step == FY_HS_OPEN || h->step == FY_HS_SPAWN))
        return (h->worker ? FY_HA_KILL_WORKER : 0) | target_kill(h);
    return target_answer_query(h);
}

static uint32_t target_written(struct fy_ho *h)
{
    h->journal = h->want;
    if (h->step == FY_HS_WRITING) {
        if (!h->worker)
            return write_last(h, FY_HO_ABORT);
        h->step = FY_HS_SPAWN;
        h->hv = true; /* from here on there may be one */
        return FY_HA_SPAWN;
    }
    if (h->step != FY_HS_LAST)
        return 0;
    h->step = FY_HS_END;
    uint32_t report = h->settled ? 0 : h->journal == FY_HO_RAN ? FY_HA_HERE : FY_HA_AWAY;
    h->settled = true;
    return report | answer(h, (h->journal == FY_HO_RAN) == (h->call == FY_HC_GO)) | target_answer_query(h);
}

static uint32_t target_write_failed(struct fy_ho *h)
{
    if (h->step == FY_HS_WRITING) {
        h->step = FY_HS_IDLE;
        return answer(h, false) | target_answer_query(h);
    }
    if (h->step != FY_HS_LAST)
        return 0;
    uint32_t acts = FY_HA_TIMER | target_answer_query(h);
    /* RAN: the hypervisor and the run log hold the evidence that a restarted daemon needs, and over a restart
     * of the host INCOMING counts as RAN. ABORT: nothing may be said before it is durable. */
    if (h->want == FY_HO_RAN) {
        acts |= answer(h, h->call == FY_HC_GO) | (h->settled ? 0 : FY_HA_HERE);
        h->settled = true;
    }
    return acts;
}

static uint32_t target_run(struct fy_ho *h)
{
    h->call = FY_HC_GO;
    if (h->step == FY_HS_OPEN) {
        h->step = FY_HS_RUN;
        return FY_HA_HV_RUN;
    }
    if (h->step == FY_HS_RUN || (h->step == FY_HS_LAST && h->want == FY_HO_RAN && !h->settled))
        return 0;
    return answer(h, h->want == FY_HO_RAN);
}

static uint32_t target_abort(struct fy_ho *h)
{
    h->call = FY_HC_ABORT;
    if (h->step == FY_HS_END)
        return answer(h, h->journal == FY_HO_ABORT);
    if (h->step == FY_HS_RUN || (h->step == FY_HS_LAST && h->want == FY_HO_RAN))
        return answer(h, false);
    if (h->step == FY_HS_IDLE)
        return answer(h, true);
    if (h->step == FY_HS_WRITING)
        return answer(h, false);
    return target_give_up(h);
}

static uint32_t target_create(struct fy_ho *h)
{
    h->worker = true;
    h->call = FY_HC_GO;
    if (h->step != FY_HS_IDLE || h->journal != FY_HO_NONE)
        return answer(h, false);
    h->step = FY_HS_WRITING;
    h->want = FY_HO_INCOMING;
    return FY_HA_WRITE;
}

static uint32_t target_hv_gone(struct fy_ho *h)
{
    h->hv = false;
    switch (h->step) {
    case FY_HS_SPAWN:
    case FY_HS_OPEN:
    case FY_HS_LOOK:
    case FY_HS_RUN:
    case FY_HS_KILL:
        h->step = FY_HS_LOG;
        return FY_HA_CHECK_LOG;
    default:
        return 0;
    }
}

static uint32_t target_hv_up(struct fy_ho *h)
{
    h->hv = true;
    if (h->step == FY_HS_KILL)
        return FY_HA_KILL_HV;
    if (h->step != FY_HS_SPAWN)
        return 0;
    if (!h->worker)
        return target_kill(h);
    h->step = FY_HS_OPEN;
    return answer(h, true);
}

uint32_t fy_ho_target(struct fy_ho *h, enum fy_ho_event ev)
{
    switch (ev) {
    case FY_HE_CREATE:
        return target_create(h);
    case FY_HE_H_UP:
        return target_hv_up(h);
    case FY_HE_RUN:
        return target_run(h);
    case FY_HE_H_RUNS:
        return h->step == FY_HS_RUN || h->step == FY_HS_KILL || h->step == FY_HS_LOOK
                   ? write_last(h, FY_HO_RAN)
                   : 0;
    case FY_HE_H_CANNOT:
        return h->step == FY_HS_RUN ? target_kill(h) : 0;
    case FY_HE_FOUND:
        return h->step == FY_HS_LOOK ? target_kill(h) : 0;
    case FY_HE_ABORT:
        return target_abort(h);
    case FY_HE_W_GONE:
        h->worker = false;
        h->call = FY_HC_NONE;
        return target_give_up(h);
    case FY_HE_H_GONE:
        return target_hv_gone(h);
    case FY_HE_LOG_RAN:
        return h->step == FY_HS_LOG ? write_last(h, FY_HO_RAN) : 0;
    case FY_HE_LOG_NONE:
        if (h->step != FY_HS_LOG)
            return 0;
        /* The worker asked for a hypervisor or for the run, and gets neither. */
        return write_last(h, FY_HO_ABORT);
    case FY_HE_QUERY:
    case FY_HE_ABANDON:
        return target_query(h, ev == FY_HE_ABANDON);
    case FY_HE_WRITTEN:
        return target_written(h);
    case FY_HE_WRITE_FAILED:
        return target_write_failed(h);
    case FY_HE_TIMER:
        return h->step == FY_HS_LAST ? FY_HA_WRITE : 0;
    default:
        return 0;
    }
}

struct fy_ho fy_ho_restart(enum fy_ho_state journal, bool hv)
{
    struct fy_ho h = {.journal = (uint8_t)journal, .want = (uint8_t)journal, .hv = hv};
    bool open = journal == FY_HO_HANDING || journal == FY_HO_INCOMING;
    h.step = journal == FY_HO_NONE ? FY_HS_IDLE : open ? FY_HS_OPEN : FY_HS_END;
    /* A run that the daemon before this one asked for may be on its way: until that is known nobody gets a
     * promise. */
    if (journal == FY_HO_INCOMING)
        h.step = FY_HS_LOOK;
    h.settled = h.step == FY_HS_END;
    return h;
}

const char *fy_ho_state_name(unsigned state)
{
    static const char *const names[] = {"none",     "handing-over", "done", "aborted",
                                        "incoming", "ran",          "abort"};
    return state < sizeof names / sizeof *names ? names[state] : "unknown";
}
