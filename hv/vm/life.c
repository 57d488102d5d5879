// SPDX-License-Identifier: Apache-2.0
#include "hv/vm/life.h"

#include <stdio.h>
#include <string.h>

#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/hex.h"
#include "hv/base/io.h"
#include "hv/base/log.h"

#define DISKS_RETRY_MS 200

static const char *const state_names[] = {
    [FERRY__GUEST_STATE__GUEST_NONE] = "not there",
    [FERRY__GUEST_STATE__GUEST_STARTING] = "starting",
    [FERRY__GUEST_STATE__GUEST_INCOMING] = "incoming",
    [FERRY__GUEST_STATE__GUEST_RUNNING] = "running",
    [FERRY__GUEST_STATE__GUEST_PAUSED] = "paused",
    [FERRY__GUEST_STATE__GUEST_HANDED_OVER] = "handed over",
    [FERRY__GUEST_STATE__GUEST_STOPPED] = "stopped",
    [FERRY__GUEST_STATE__GUEST_CRASHED] = "crashed",
};

void fy_life_init(struct fy_life *l, struct fy_machine *m, bool incoming, bool paused)
{
    memset(l, 0, sizeof *l);
    l->m = m;
    l->incoming = incoming;
    l->user_paused = paused;
    l->last = FERRY__GUEST_STATE__GUEST_STARTING;
}

Ferry__GuestState fy_life_state(struct fy_life *l)
{
    if (l->crashed)
        return FERRY__GUEST_STATE__GUEST_CRASHED;
    if (l->stopped)
        return FERRY__GUEST_STATE__GUEST_STOPPED;
    if (l->incoming)
        return FERRY__GUEST_STATE__GUEST_INCOMING;
    if (l->latched)
        return FERRY__GUEST_STATE__GUEST_HANDED_OVER;
    return fy_machine_running(l->m) ? FERRY__GUEST_STATE__GUEST_RUNNING : FERRY__GUEST_STATE__GUEST_PAUSED;
}

static void tell(struct fy_life *l)
{
    Ferry__GuestState now = fy_life_state(l);
    if (now == l->last)
        return;
    l->last = now;
    if (l->changed)
        l->changed(l->arg);
}

static int wrong_state(struct fy_life *l, const char *what, struct fy_err *e)
{
    return fy_fail(e, FY_ESTATE, "cannot %s: the guest is %s", what, state_names[fy_life_state(l)]);
}

const char *fy_life_report(struct fy_life *l)
{
    return l->crashed ? fy_machine_report(l->m) : l->end_report;
}

static void stop(struct fy_life *l, const char *why)
{
    l->stopped = true;
    snprintf(l->end_report, sizeof l->end_report, "%s", why);
}

/* The guest may have ended itself just before its vCPUs were parked. Parked. */
static void absorb_end(struct fy_life *l)
{
    struct fy_err e;
    if (l->crashed || l->stopped)
        return;
    switch (fy_machine_end(l->m)) {
    case FY_END_NONE:
        return;
    case FY_END_CRASH:
        l->crashed = true;
        fy_error("the guest crashed: %s", fy_machine_report(l->m));
        return;
    case FY_END_RESET:
        if (fy_machine_reset(l->m, &e) < 0)
            stop(l, e.text);
        return;
    case FY_END_POWER_OFF:
    case FY_END_EXIT:
        stop(l, fy_machine_report(l->m));
        return;
    }
}

static void apply(struct fy_life *l);

static void retry(void *arg)
{
    apply(arg);
}

/* A guest that stays after all has its disks back before it goes on. Whoever else has one now is on its way
 * out (the hypervisor that the guest was to move to, not quite dead yet) or has no right to it: until it lets
 * go the guest stands, and then goes on by itself. */
static bool disks_back(struct fy_life *l)
{
    struct fy_err e = {.code = 0};
    if (!l->disks_away || l->latched)
        return true;
    if (l->stopped || l->crashed || l->finish)
        return false;
    if (fy_fault_hit(FY_FAULT_SH_DISKS_BACK))
        fy_fail(&e, FY_ESTATE, "fault point: disks back");
    else
        fy_machine_lock_disks(l->m, &e);
    if (!e.code) {
        l->disks_away = false;
        l->warning[0] = 0;
        return true;
    }
    if (strcmp(l->warning, e.text) != 0)
        fy_warn("%s: the guest stands until it has its disks back", e.text);
    memcpy(l->warning, e.text, sizeof l->warning);
    if (!l->retry)
        l->retry = fy_timer_new(fy_machine_loop(l->m), retry, l, NULL);
    if (l->retry)
        fy_timer_arm(l->retry, DISKS_RETRY_MS);
    return false;
}

/* Make the machine run or stand as the holders want. -1 only with must_log. */
static int apply_logged(struct fy_life *l, bool must_log, struct fy_err *e)
{
    int r = 0;
    bool back = disks_back(l);
    bool want = !l->incoming && !l->latched && !l->user_paused && !l->leases && !l->stopped && !l->crashed &&
                !l->finish && back;
    if (want && !fy_machine_running(l->m))
        r = fy_machine_run(l->m, l->has_handover_id ? l->handover_id : NULL, must_log, e);
    else if (!want)
        fy_machine_pause(l->m);
    if (r == 0)
        tell(l);
    return r;
}

static void apply(struct fy_life *l)
{
    apply_logged(l, false, NULL);
}

void fy_life_done(struct fy_life *l)
{
    fy_watch_free(l->retry);
    l->retry = NULL;
}

void fy_life_start(struct fy_life *l)
{
    apply(l);
}

void fy_life_ended(struct fy_life *l)
{
    fy_machine_pause(l->m);
    absorb_end(l);
    apply(l);
}

static bool lives(struct fy_life *l)
{
    Ferry__GuestState s = fy_life_state(l);
    return s == FERRY__GUEST_STATE__GUEST_RUNNING || s == FERRY__GUEST_STATE__GUEST_PAUSED;
}

static bool holds(const struct fy_life *l, const struct fy_lease *lease)
{
    return lease->held && lease->epoch == l->lease_epoch;
}

int fy_life_pause(struct fy_life *l, struct fy_lease *lease, uint64_t *ns, struct fy_err *e)
{
    if (!lives(l))
        return wrong_state(l, "pause", e);
    *ns = fy_machine_pause(l->m);
    absorb_end(l);
    if (!lives(l)) {
        tell(l);
        return wrong_state(l, "pause", e);
    }
    if (!lease) {
        l->user_paused = true;
        fy_machine_stop_at(l->m, FY_ICOUNT_NEVER, NULL); /* where it counts at all */
    } else if (!holds(l, lease)) {
        *lease = (struct fy_lease){true, l->lease_epoch};
        l->leases++;
    }
    apply(l);
    if (fy_fault_hit(FY_FAULT_SH_PAUSED))
        return fy_fail(e, FY_EFAIL, "fault point: paused");
    return 0;
}

int fy_life_resume(struct fy_life *l, struct fy_lease *lease, struct fy_err *e)
{
    if (l->latched || !lives(l))
        return wrong_state(l, "resume", e);
    if (!lease) {
        l->user_paused = false;
    } else if (holds(l, lease)) {
        lease->held = false;
        l->leases--;
    } else {
        return fy_fail(e, FY_ESTATE, "cannot resume: this connection holds no pause");
    }
    apply(l);
    return 0;
}

void fy_life_lease_end(struct fy_life *l, struct fy_lease *lease)
{
    if (!holds(l, lease))
        return;
    lease->held = false;
    l->leases--;
    apply(l);
}

int fy_life_run_to(struct fy_life *l, uint64_t count, struct fy_err *e)
{
    struct fy_icount_place at;
    if (fy_life_state(l) != FERRY__GUEST_STATE__GUEST_PAUSED || !l->user_paused || l->leases)
        return fy_fail(e, FY_ESTATE, "cannot run to a count: the guest must be paused, by an operator only");
    if (fy_machine_place(l->m, &at, e) < 0)
        return -1;
    if (count < at.count || count >= FY_ICOUNT_MAX)
        return fy_fail(
            e, FY_EUSAGE, "cannot run to count %llu: the guest stands at %llu, and the last is %llu",
            (unsigned long long)count, (unsigned long long)at.count, (unsigned long long)FY_ICOUNT_MAX - 1);
    if (count == at.count)
        return 0;
    if (fy_machine_stop_at(l->m, count, e) < 0)
        return -1;
    l->user_paused = false;
    apply(l);
    return 0;
}

void fy_life_reached(struct fy_life *l)
{
    if (!lives(l))
        return;
    l->user_paused = true;
    apply(l);
}

/* All that was written is durable and the locks are given up before anybody can be told that the guest is
 * another's. */
static int release_disks(struct fy_life *l, struct fy_err *e)
{
    if (!fy_machine_has_disks(l->m))
        return 0;
    if (l->disks_away)
        return fy_fail(e, FY_ESTATE, "%s", l->warning); /* the last hand-over's are not back yet */
    l->disks_away = true;
    int r = fy_machine_release_disks(l->m, e);
    if (r == 0 && fy_fault_hit(FY_FAULT_SH_DISKS_AWAY))
        r = fy_fail(e, FY_EFAIL, "fault point: disks released");
    if (r < 0)
        apply(l); /* not handed over: the locks are got back */
    return r;
}

bool fy_life_latched(const struct fy_life *l)
{
    return l->latched;
}

int fy_life_latch(struct fy_life *l, const uint8_t id[16], struct fy_err *e)
{
    if (l->latched && !memcmp(id, l->handover_id, 16))
        return 0;
    if (fy_life_state(l) != FERRY__GUEST_STATE__GUEST_PAUSED)
        return wrong_state(l, "latch", e);
    if (release_disks(l, e) < 0)
        return -1;
    l->latched = true;
    l->resolved_here = l->ran_by_id = false;
    memcpy(l->handover_id, id, 16);
    l->has_handover_id = true;
    tell(l);
    if (fy_fault_hit(FY_FAULT_SH_LATCHED))
        return fy_fail(e, FY_EFAIL, "fault point: latched");
    return 0;
}

static int other_id(struct fy_life *l, struct fy_err *e)
{
    char have[33] = "none";
    if (l->has_handover_id)
        fy_hex(l->handover_id, 16, have);
    return fy_fail(e, FY_ESTATE, "that hand-over is not this guest's (its own: %s)", have);
}

static void finish(struct fy_life *l, const char *why)
{
    l->finish = true;
    stop(l, why);
    apply(l);
}

static int resolve_latched(struct fy_life *l, bool run_here)
{
    if (!run_here) {
        finish(l, "handed over: the guest is elsewhere");
        return 0;
    }
    l->latched = false;
    l->resolved_here = true;
    /* The worker's pause was for this hand-over. */
    l->lease_epoch++;
    l->leases = 0;
    apply(l);
    return 0;
}

int fy_life_resolve(struct fy_life *l, const uint8_t id[16], bool run_here, struct fy_err *e)
{
    if (l->incoming) {
        if (run_here)
            return wrong_state(l, "resolve to run here", e);
        finish(l, "the hand-over was given up: the guest is elsewhere");
        return 0;
    }
    if (!l->has_handover_id || memcmp(id, l->handover_id, 16) != 0)
        return other_id(l, e);
    if (l->latched)
        return resolve_latched(l, run_here);
    if (run_here)
        return 0;
    return fy_fail(e, FY_ESTATE, "cannot resolve as gone: the guest has been run here under this hand-over");
}

int fy_life_load(struct fy_life *l, const uint8_t *buf, size_t len, struct fy_err *e)
{
    if (!l->incoming || l->finish)
        return wrong_state(l, "load state", e);
    l->loaded = false;
    if (fy_machine_load(l->m, buf, len, l->warning, e) < 0)
        return -1;
    l->loaded = true;
    if (fy_fault_hit(FY_FAULT_TH_LOADED))
        return fy_fail(e, FY_EFAIL, "fault point: loaded");
    return 0;
}

/* The daemon opened them when it was told to run the guest: by then the source has let go. */
static int take_disks(struct fy_life *l, const int *disks, unsigned count, struct fy_err *e)
{
    int fds[FY_DISKS_LIMIT];
    unsigned n = 0;
    if (count > FY_DISKS_LIMIT)
        return fy_fail(e, FY_EUSAGE, "%u disks came", count);
    while (n < count && (fds[n] = fy_dup(disks[n])) >= 0)
        n++;
    if (n < count) {
        while (n--)
            fy_close(&fds[n]);
        return fy_fail(e, FY_ERESOURCE, "no descriptors left for disks");
    }
    if (fy_machine_take_disks(l->m, fds, count, e) < 0)
        return -1;
    if (fy_fault_hit(FY_FAULT_TH_DISKS_TAKEN))
        return fy_fail(e, FY_EFAIL, "fault point: disks taken");
    return 0;
}

int fy_life_run(struct fy_life *l, const uint8_t id[16], bool paused, const int *disks, unsigned disk_count,
                struct fy_err *e)
{
    if (!l->incoming) {
        if (l->ran_by_id && !memcmp(id, l->handover_id, 16))
            return 0;
        return l->has_handover_id ? other_id(l, e) : wrong_state(l, "run", e);
    }
    if (!l->loaded || l->finish)
        return fy_fail(e, FY_ESTATE, "cannot run: no state has been loaded");
    if (fy_fault_hit(FY_FAULT_TH_BEFORE_RUN))
        return fy_fail(e, FY_EFAIL, "fault point: before run");
    uint64_t start = fy_now_ns();
    if (take_disks(l, disks, disk_count, e) < 0)
        return -1;
    memcpy(l->handover_id, id, 16);
    l->has_handover_id = true;
    l->ran_by_id = true;
    l->incoming = false;
    l->user_paused = paused;
    if (apply_logged(l, true, e) < 0) {
        l->incoming = true;
        l->ran_by_id = l->has_handover_id = false;
        return -1;
    }
    l->first_run_ns = paused ? 0 : fy_machine_first_run_ns(l->m);
    l->run_took_ns = fy_now_ns() - start;
    if (fy_fault_hit(FY_FAULT_TH_AFTER_RUN))
        return fy_fail(e, FY_EFAIL, "fault point: after run");
    return 0;
}

int fy_life_reset(struct fy_life *l, struct fy_err *e)
{
    if (!lives(l))
        return wrong_state(l, "reset", e);
    fy_machine_pause(l->m);
    absorb_end(l);
    int r = 0;
    if (lives(l) && fy_machine_reset(l->m, e) < 0) {
        /* Without images nothing has been touched; else the chips may be half reset. */
        r = -1;
        if (fy_machine_has_images(l->m))
            stop(l, e ? e->text : "reset failed");
    }
    apply(l);
    return r;
}

int fy_life_quit(struct fy_life *l, bool discard, struct fy_err *e)
{
    if (!discard && (lives(l) || l->latched))
        return fy_fail(e, FY_ESTATE,
                       "cannot quit: the guest is %s and would be lost (discard ends it all the same)",
                       state_names[fy_life_state(l)]);
    l->finish = true;
    if (!l->crashed && !l->stopped)
        stop(l, "ended on request");
    apply(l);
    return 0;
}
