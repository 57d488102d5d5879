// SPDX-License-Identifier: Apache-2.0
/* The hand-over explored: both daemons' machines (hv/host/handover.c) among models of workers, hypervisors,
 * journals and the link, with every order of events and up to FAULTS deaths, cuts and failed writes anywhere.
 * Each state that can be reached is looked at once:
 *   - never do two hypervisors run the guest, nor the source's after the target's has run it;
 *   - from each state there is a way, without another fault, to one in which all is settled and exactly one
 * runs it (none where the owner's hypervisor was itself killed);
 *   - what is said to the other side is durable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/host/handover.h"

#define FAULTS 5

enum hv { HV_NONE, HV_STARTING, HV_INCOMING, HV_RUN, HV_PAUSED, HV_LATCHED, HV_DEAD };
/* Source worker */
enum { WS_ASK, WS_WAIT, WS_PAUSE, WS_LATCH, WS_LATCHING, WS_COMMIT, WS_SENT, WS_TELL, WS_TOLD, WS_END };
/* Target worker */
enum { WT_CREATE, WT_WAIT, WT_READY, WT_RUN, WT_RUNNING, WT_SAY, WT_ABORTING, WT_END };
/* The query: nothing, asked, being answered, answered 1..3, nobody there */
enum { Q_NONE, Q_ASKED, Q_OPEN, Q_RAN, Q_NEVER, Q_LATER, Q_AWAY };

struct world {
    struct fy_ho s, t;
    uint8_t sj, tj;           /* on disk */
    uint8_t s_write, t_write; /* 0, 1: on its way, 2: on disk, not told */
    uint8_t hs, ht;           /* enum hv */
    uint8_t ws, wt;
    uint8_t query;
    uint8_t faults;
    bool sd, td; /* daemons up */
    bool s_timer, t_timer;
    bool latch_msg, lease_end; /* in the source hypervisor's queues */
    uint8_t status;            /* 0, 1: asked, 2: answered free, 3: answered latched */
    bool here, leave;          /* resolve on its way */
    bool commit, running;      /* on the link */
    bool cut;
    bool run_msg, run_answer, kill_msg, ht_gone_msg, ht_up_msg, hs_gone_msg;
    bool ws_gone_msg, wt_gone_msg;
    bool entered;                /* the target's run log */
    bool killed_s, killed_t_ran; /* the owner was killed */
    bool restarted_t;            /* a second look is due */
};

static struct world *states;
static uint32_t *table;
static size_t count, room, table_size;
static uint32_t *from_list, *to_list;
static size_t edges, edge_room;
static uint32_t current;
static unsigned long checked;

static uint64_t hash(const struct world *w)
{
    const uint8_t *p = (const uint8_t *)w;
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < sizeof *w; i++)
        h = (h ^ p[i]) * 1099511628211ull;
    return h ^ h >> 29;
}

static void describe(const struct world *w, const char *what)
{
    fprintf(
        stderr,
        "%s: s step %u journal %u/%u want %u; t step %u journal %u/%u want %u; hs %u ht %u ws %u wt %u query "
        "%u "
        "sd %d td %d entered %d status %u latch_msg %d lease_end %d run_msg %d kill %d killed %d %d cut %d\n",
        what, w->s.step, w->s.journal, w->sj, w->s.want, w->t.step, w->t.journal, w->tj, w->t.want, w->hs,
        w->ht, w->ws, w->wt, w->query, w->sd, w->td, w->entered, w->status, w->latch_msg, w->lease_end,
        w->run_msg, w->kill_msg, w->killed_s, w->killed_t_ran, w->cut);
}

static void check(const struct world *w)
{
    checked++;
    bool two = w->hs == HV_RUN && (w->ht == HV_RUN || w->entered);
    bool lie = (w->query == Q_RAN && w->tj == FY_HO_ABORT) || (w->query == Q_NEVER && w->tj != FY_HO_ABORT) ||
               (w->query == Q_NEVER && w->entered);
    if (two || lie) {
        describe(w, two ? "two runners" : "an answer that is not durable");
        fail();
    }
}

static void grow(void)
{
    if (count == room) {
        room = room ? room * 2 : 1 << 16;
        states = realloc(states, room * sizeof *states);
        table_size = room * 4;
        table = realloc(table, table_size * sizeof *table);
        assert_true(states && table);
        memset(table, 0xff, table_size * sizeof *table);
        for (size_t i = 0; i < count; i++) {
            size_t k = hash(&states[i]) & (table_size - 1);
            while (table[k] != UINT32_MAX)
                k = (k + 1) & (table_size - 1);
            table[k] = (uint32_t)i;
        }
    }
    if (edges == edge_room) {
        edge_room = edge_room ? edge_room * 2 : 1 << 18;
        from_list = realloc(from_list, edge_room * sizeof *from_list);
        to_list = realloc(to_list, edge_room * sizeof *to_list);
        assert_true(from_list && to_list);
    }
}

static uint32_t intern(const struct world *w)
{
    grow();
    size_t k = hash(w) & (table_size - 1);
    while (table[k] != UINT32_MAX) {
        if (!memcmp(&states[table[k]], w, sizeof *w))
            return table[k];
        k = (k + 1) & (table_size - 1);
    }
    check(w);
    table[k] = (uint32_t)count;
    states[count] = *w;
    return (uint32_t)count++;
}

/* A step that comes by itself: an edge. */
static void next(const struct world *w)
{
    uint32_t to = intern(w);
    grow();
    from_list[edges] = current;
    to_list[edges++] = to;
}

/* A fault: reached, but nothing may count on it. */
static void fault(struct world w)
{
    if (w.faults == FAULTS)
        return;
    w.faults++;
    intern(&w);
}

static void source_acts(struct world *w, uint32_t acts);
static void target_acts(struct world *w, uint32_t acts);

static void source(struct world *w, enum fy_ho_event ev)
{
    source_acts(w, fy_ho_source(&w->s, ev));
}

static void target(struct world *w, enum fy_ho_event ev)
{
    target_acts(w, fy_ho_target(&w->t, ev));
}

static void end_ws(struct world *w)
{
    if (w->ws == WS_END)
        return;
    w->ws = WS_END;
    w->lease_end = true;
    w->ws_gone_msg = w->sd;
}

static void end_wt(struct world *w)
{
    if (w->wt == WT_END)
        return;
    w->wt = WT_END;
    w->wt_gone_msg = w->td;
}

static void source_acts(struct world *w, uint32_t acts)
{
    if (acts & FY_HA_WRITE)
        w->s_write = 1;
    if (acts & FY_HA_HV_STATUS) {
        if (w->hs == HV_DEAD)
            w->hs_gone_msg = true;
        else
            w->status = 1;
    }
    if (acts & FY_HA_HV_HERE)
        w->here = w->hs != HV_DEAD;
    if (acts & FY_HA_HV_LEAVE)
        w->leave = w->hs != HV_DEAD;
    if (acts & FY_HA_ASK_PEER)
        w->query = Q_ASKED;
    if (acts & FY_HA_TIMER)
        w->s_timer = true;
    if ((acts & FY_HA_ANSWER_OK) && w->ws == WS_WAIT)
        w->ws = WS_PAUSE;
    else if (acts & (FY_HA_ANSWER_OK | FY_HA_ANSWER_NO))
        end_ws(w);
}

static void target_acts(struct world *w, uint32_t acts)
{
    if (acts & FY_HA_WRITE)
        w->t_write = 1;
    if (acts & FY_HA_KILL_WORKER)
        end_wt(w);
    if (acts & FY_HA_KILL_HV) {
        if (w->ht == HV_NONE || w->ht == HV_DEAD)
            w->ht_gone_msg = true;
        else
            w->kill_msg = true;
    }
    if (acts & FY_HA_SPAWN)
        w->ht = HV_STARTING;
    if (acts & FY_HA_HV_RUN)
        w->run_msg = w->ht != HV_DEAD; /* its end is on the way */
    if (acts & FY_HA_TIMER)
        w->t_timer = true;
    if (acts & FY_HA_ANSWER_OK)
        w->wt = w->wt == WT_WAIT ? WT_READY : w->wt == WT_RUNNING ? WT_SAY : WT_END;
    if (acts & FY_HA_ANSWER_NO)
        end_wt(w);
    if (w->wt == WT_END && (acts & FY_HA_ANSWER_OK))
        w->wt_gone_msg = w->td;
    if (w->query == Q_OPEN) {
        if (acts & FY_HA_QUERY_RAN)
            w->query = Q_RAN;
        else if (acts & FY_HA_QUERY_NEVER)
            w->query = Q_NEVER;
        else if (acts & FY_HA_QUERY_LATER)
            w->query = Q_LATER;
    }
    if (acts & FY_HA_CHECK_LOG)
        target(w, w->entered ? FY_HE_LOG_RAN : FY_HE_LOG_NONE);
}

static void kill_source_daemon(struct world *w, bool lose)
{
    w->sd = false;
    end_ws(w);
    w->ws_gone_msg = w->hs_gone_msg = w->s_timer = false;
    w->status = 0;
    if (lose) {
        w->here = w->leave = false;
        if (w->s_write == 1)
            w->s_write = 0;
    } else if (w->s_write == 1) {
        w->sj = w->s.want;
    }
    w->s_write = 0;
    w->query = Q_NONE;
    memset(&w->s, 0, sizeof w->s);
}

static void kill_target_daemon(struct world *w, bool lose)
{
    w->td = false;
    end_wt(w);
    w->wt_gone_msg = w->ht_gone_msg = w->ht_up_msg = w->run_answer = w->t_timer = false;
    if (lose)
        w->run_msg = w->kill_msg = false;
    else if (w->t_write == 1)
        w->tj = w->t.want;
    w->t_write = 0;
    if (w->query == Q_OPEN)
        w->query = Q_AWAY;
    w->restarted_t = false;
    memset(&w->t, 0, sizeof w->t);
}

static void restart_source(struct world *w)
{
    w->sd = true;
    w->s = fy_ho_restart(w->sj, w->hs != HV_DEAD);
    if (w->s.step == FY_HS_OPEN)
        source(w, FY_HE_W_GONE);
}

static void restart_target(struct world *w)
{
    bool alive = w->ht != HV_NONE && w->ht != HV_DEAD;
    w->td = true;
    w->t = fy_ho_restart(w->tj, alive);
    if (w->t.step == FY_HS_LOOK) {
        if (!alive)
            target(w, FY_HE_H_GONE);
        else
            w->restarted_t = true;
    }
}

/* Everything that the source's side may do next. */
static void source_steps(const struct world *w)
{
    struct world n;
#define STEP(cond, ...)                                                                                      \
    do {                                                                                                     \
        if (cond) {                                                                                          \
            n = *w;                                                                                          \
            __VA_ARGS__;                                                                                     \
            next(&n);                                                                                        \
        }                                                                                                    \
    } while (0)
    bool target_there = !w->cut && w->wt != WT_END;
    STEP(!w->sd, restart_source(&n));
    /* worker */
    STEP(w->ws == WS_ASK && w->sd, n.ws = WS_WAIT, source(&n, FY_HE_ASK_HANDING));
    STEP(w->ws == WS_PAUSE && w->hs == HV_RUN, n.hs = HV_PAUSED, n.ws = WS_LATCH);
    STEP(w->ws == WS_LATCH && w->wt == WT_READY && target_there, n.latch_msg = true, n.ws = WS_LATCHING);
    STEP(w->ws == WS_COMMIT && !w->cut, n.commit = true, n.ws = WS_SENT);
    STEP(w->ws == WS_SENT && w->running, n.running = false, n.ws = WS_TELL);
    STEP(w->ws == WS_TELL && w->sd, n.ws = WS_TOLD, source(&n, FY_HE_HANDED_OVER));
    STEP((w->ws == WS_PAUSE || w->ws == WS_LATCH || w->ws == WS_LATCHING) && w->hs == HV_DEAD, end_ws(&n));
    STEP((w->ws == WS_ASK || w->ws == WS_PAUSE || w->ws == WS_LATCH || w->ws == WS_COMMIT ||
          (w->ws == WS_SENT && !w->running)) &&
             !target_there,
         end_ws(&n));
    /* hypervisor: the worker's queue in order */
    STEP(w->latch_msg && w->hs == HV_PAUSED, n.latch_msg = false, n.hs = HV_LATCHED,
         n.ws = n.ws == WS_LATCHING ? WS_COMMIT : n.ws);
    STEP(w->latch_msg && w->hs != HV_PAUSED, n.latch_msg = false);
    STEP(w->lease_end && !w->latch_msg, n.lease_end = false, n.hs = n.hs == HV_PAUSED ? HV_RUN : n.hs);
    STEP(w->status == 1 && w->hs != HV_DEAD, n.status = w->hs == HV_LATCHED ? 3 : 2);
    STEP(w->here && w->hs != HV_DEAD, n.here = false, n.hs = n.hs == HV_LATCHED ? HV_RUN : n.hs);
    STEP(w->leave && w->hs != HV_DEAD, n.leave = n.here = n.latch_msg = false, n.hs = HV_DEAD,
         n.hs_gone_msg = w->sd, n.status = n.status == 1 ? 0 : n.status);
    /* daemon */
    STEP(w->sd && w->status >= 2, n.status = 0, source(&n, w->status == 3 ? FY_HE_H_LATCHED : FY_HE_H_FREE));
    STEP(w->sd && w->hs == HV_LATCHED && w->s.step >= FY_HS_LAST && !w->here && !w->leave,
         source(&n, FY_HE_H_LATCHED));
    STEP(w->sd && w->ws_gone_msg, n.ws_gone_msg = false, source(&n, FY_HE_W_GONE));
    STEP(w->sd && w->hs_gone_msg, n.hs_gone_msg = false, n.status = 0, source(&n, FY_HE_H_GONE));
    STEP(w->s_write == 1, n.sj = n.s.want, n.s_write = 2);
    STEP(w->sd && w->s_write == 2, n.s_write = 0, source(&n, FY_HE_WRITTEN));
    STEP(w->sd && w->s_timer, n.s_timer = false, source(&n, FY_HE_TIMER));
    /* the query */
    STEP(w->query == Q_ASKED && w->td, n.query = Q_OPEN, target(&n, FY_HE_QUERY));
    STEP(w->query == Q_ASKED && w->td, n.query = Q_OPEN, target(&n, FY_HE_ABANDON));
    STEP(w->query == Q_ASKED && !w->td, n.query = Q_AWAY);
    STEP(w->query >= Q_RAN && w->sd, n.query = Q_NONE,
         source(&n, w->query == Q_RAN     ? FY_HE_P_RAN
                    : w->query == Q_NEVER ? FY_HE_P_NEVER
                    : w->query == Q_LATER ? FY_HE_P_LATER
                                          : FY_HE_P_AWAY));
}

static void target_steps(const struct world *w)
{
    struct world n;
    bool source_there = !w->cut && w->ws != WS_END;
    bool alive = w->ht != HV_NONE && w->ht != HV_DEAD;
    STEP(!w->td, restart_target(&n));
    /* worker */
    STEP(w->wt == WT_CREATE && w->td && source_there, n.wt = WT_WAIT, target(&n, FY_HE_CREATE));
    STEP(w->wt == WT_CREATE && !source_there, end_wt(&n));
    STEP(w->wt == WT_READY && w->commit && w->td, n.commit = false, n.wt = WT_RUNNING, target(&n, FY_HE_RUN));
    STEP(w->wt == WT_READY && !w->commit && !source_there && w->td, n.wt = WT_ABORTING,
         target(&n, FY_HE_ABORT));
    STEP(w->wt == WT_SAY, n.running = !w->cut && w->ws == WS_SENT, end_wt(&n));
    /* hypervisor */
    STEP(w->ht == HV_STARTING, n.ht = HV_INCOMING, n.ht_up_msg = w->td);
    STEP(w->run_msg && w->ht == HV_INCOMING, n.run_msg = false, n.ht = HV_RUN, n.entered = true,
         n.run_answer = w->td);
    STEP(w->run_msg && w->ht == HV_RUN, n.run_msg = false, n.run_answer = w->td);
    STEP(w->kill_msg && alive, n.kill_msg = n.run_msg = n.run_answer = n.ht_up_msg = n.restarted_t = false,
         n.ht = HV_DEAD, n.ht_gone_msg = w->td);
    /* daemon */
    STEP(w->td && w->ht_up_msg, n.ht_up_msg = false, target(&n, FY_HE_H_UP));
    STEP(w->td && w->ht_gone_msg, n.ht_gone_msg = false, target(&n, FY_HE_H_GONE));
    STEP(w->td && w->run_answer, n.run_answer = false, target(&n, FY_HE_H_RUNS));
    STEP(w->td && w->wt_gone_msg, n.wt_gone_msg = false, target(&n, FY_HE_W_GONE));
    STEP(w->t_write == 1, n.tj = n.t.want, n.t_write = 2);
    STEP(w->td && w->t_write == 2, n.t_write = 0, target(&n, FY_HE_WRITTEN));
    STEP(w->td && w->t_timer, n.t_timer = false, target(&n, FY_HE_TIMER));
    /* after a restart: it looks, and looks again when what was on its way has arrived */
    STEP(w->td && w->restarted_t && w->ht == HV_RUN, n.restarted_t = false, target(&n, FY_HE_H_RUNS));
    STEP(w->td && w->restarted_t && w->ht == HV_INCOMING && !w->run_msg, n.restarted_t = false,
         target(&n, FY_HE_FOUND));
#undef STEP
}

static void faults(const struct world *w)
{
    struct world n;
#define FAULT(cond, ...)                                                                                     \
    do {                                                                                                     \
        if (cond) {                                                                                          \
            n = *w;                                                                                          \
            __VA_ARGS__;                                                                                     \
            fault(n);                                                                                        \
        }                                                                                                    \
    } while (0)
    FAULT(w->ws != WS_END, end_ws(&n));
    FAULT(w->wt != WT_END, end_wt(&n));
    FAULT(w->hs != HV_DEAD, n.killed_s = true, n.hs = HV_DEAD,
          n.latch_msg = n.lease_end = n.here = n.leave = false, n.status = n.status == 1 ? 0 : n.status,
          n.hs_gone_msg = w->sd);
    FAULT(w->ht != HV_NONE && w->ht != HV_DEAD, n.killed_t_ran = w->entered, n.ht = HV_DEAD,
          n.run_msg = n.kill_msg = n.ht_up_msg = n.restarted_t = false, n.ht_gone_msg = w->td);
    FAULT(w->sd, kill_source_daemon(&n, true));
    FAULT(w->sd, kill_source_daemon(&n, false));
    FAULT(w->td, kill_target_daemon(&n, true));
    FAULT(w->td, kill_target_daemon(&n, false));
    FAULT(!w->cut, n.cut = true, n.commit = n.running = false);
    FAULT(!w->cut, n.cut = true);
    FAULT(w->sd && w->s_write == 1, n.s_write = 0, source(&n, FY_HE_WRITE_FAILED));
    FAULT(w->td && w->t_write == 1, n.t_write = 0, target(&n, FY_HE_WRITE_FAILED));
    FAULT(w->query != Q_NONE, n.query = Q_AWAY);
#undef FAULT
}

static bool settled(const struct world *w)
{
    bool still = w->sd && w->td && w->ws == WS_END && w->wt == WT_END &&
                 (w->s.step == FY_HS_IDLE || w->s.step == FY_HS_END) &&
                 (w->t.step == FY_HS_IDLE || w->t.step == FY_HS_END) && !w->latch_msg && !w->lease_end &&
                 !w->here && !w->leave && !w->run_msg && !w->kill_msg && !w->restarted_t &&
                 w->query == Q_NONE;
    if (!still)
        return false;
    int runners = (w->hs == HV_RUN) + (w->ht == HV_RUN);
    bool may_be_none = (w->killed_s && !w->entered) || w->killed_t_ran;
    if (w->ht == HV_INCOMING || w->hs == HV_PAUSED || w->hs == HV_LATCHED)
        return false;
    return runners == 1 || (runners == 0 && may_be_none);
}

static void explore(void)
{
    struct world w;
    memset(&w, 0, sizeof w);
    w.hs = HV_RUN;
    w.sd = w.td = true;
    intern(&w);
    for (current = 0; current < count; current++) {
        struct world now = states[current];
        source_steps(&now);
        target_steps(&now);
        faults(&now);
    }
}

/* Mark every state from which a settled one can be reached without a fault. */
static size_t mark(uint8_t *good)
{
    uint32_t *first = calloc(count + 1, sizeof *first);
    uint32_t *by = malloc((edges + 1) * sizeof *by);
    uint32_t *stack = malloc((count + 1) * sizeof *stack);
    assert_true(first && by && stack);
    for (size_t i = 0; i < edges; i++)
        first[to_list[i] + 1]++;
    for (size_t i = 0; i < count; i++)
        first[i + 1] += first[i];
    uint32_t *at = malloc((count + 1) * sizeof *at);
    assert_non_null(at);
    memcpy(at, first, (count + 1) * sizeof *at);
    for (size_t i = 0; i < edges; i++)
        by[at[to_list[i]]++] = from_list[i];
    size_t top = 0, goals = 0;
    for (size_t i = 0; i < count; i++)
        if (settled(&states[i])) {
            good[i] = 1;
            stack[top++] = (uint32_t)i;
            goals++;
        }
    while (top) {
        uint32_t s = stack[--top];
        for (uint32_t k = first[s]; k < first[s + 1]; k++)
            if (!good[by[k]]) {
                good[by[k]] = 1;
                stack[top++] = by[k];
            }
    }
    free(first);
    free(by);
    free(stack);
    free(at);
    return goals;
}

static void test_all_orders(void **state)
{
    (void)state;
    explore();
    uint8_t *good = calloc(count, 1);
    assert_non_null(good);
    size_t goals = mark(good);
    size_t stuck = 0;
    for (size_t i = 0; i < count; i++)
        if (!good[i] && stuck++ < 5)
            describe(&states[i], "no way out");
    print_message("%zu states, %zu steps, %zu settled, %zu without a way out\n", count, edges, goals, stuck);
    assert_int_equal(stuck, 0);
    assert_true(goals > 100);
    free(good);
    free(states);
    free(table);
    free(from_list);
    free(to_list);
}

/* The straight way, as a reader's guide to the machines. */
static void test_straight(void **state)
{
    (void)state;
    struct fy_ho s = {0}, t = {0};
    assert_int_equal(fy_ho_target(&t, FY_HE_CREATE), FY_HA_WRITE);
    assert_int_equal(t.want, FY_HO_INCOMING);
    assert_int_equal(fy_ho_target(&t, FY_HE_WRITTEN), FY_HA_SPAWN);
    assert_int_equal(fy_ho_target(&t, FY_HE_H_UP), FY_HA_ANSWER_OK);
    assert_int_equal(fy_ho_source(&s, FY_HE_ASK_HANDING), FY_HA_WRITE);
    assert_int_equal(fy_ho_source(&s, FY_HE_WRITTEN), FY_HA_ANSWER_OK);
    assert_int_equal(fy_ho_target(&t, FY_HE_RUN), FY_HA_HV_RUN);
    assert_int_equal(fy_ho_target(&t, FY_HE_H_RUNS), FY_HA_WRITE);
    assert_int_equal(fy_ho_target(&t, FY_HE_WRITTEN), FY_HA_HERE | FY_HA_ANSWER_OK);
    assert_int_equal(fy_ho_source(&s, FY_HE_HANDED_OVER), FY_HA_WRITE);
    assert_int_equal(fy_ho_source(&s, FY_HE_WRITTEN), FY_HA_HV_LEAVE | FY_HA_AWAY | FY_HA_ANSWER_OK);
    assert_int_equal(s.journal, FY_HO_DONE);
    assert_int_equal(t.journal, FY_HO_RAN);
}

/* A target that is asked about what it never saw says "never" only once that is durable, and keeps to it. */
static void test_unknown_id(void **state)
{
    (void)state;
    struct fy_ho t = {0};
    assert_int_equal(fy_ho_target(&t, FY_HE_QUERY), FY_HA_WRITE);
    assert_int_equal(t.want, FY_HO_ABORT);
    assert_int_equal(fy_ho_target(&t, FY_HE_WRITE_FAILED), FY_HA_TIMER | FY_HA_QUERY_LATER);
    assert_int_equal(fy_ho_target(&t, FY_HE_TIMER), FY_HA_WRITE);
    assert_int_equal(fy_ho_target(&t, FY_HE_QUERY), 0);
    assert_int_equal(fy_ho_target(&t, FY_HE_WRITTEN) & FY_HA_QUERY_NEVER, FY_HA_QUERY_NEVER);
    assert_int_equal(fy_ho_target(&t, FY_HE_CREATE), FY_HA_ANSWER_NO);
    assert_int_equal(fy_ho_target(&t, FY_HE_RUN), FY_HA_ANSWER_NO);
}

static void test_operator(void **state)
{
    (void)state;
    for (int here = 0; here < 2; here++) {
        struct fy_ho s = fy_ho_restart(FY_HO_HANDING, true);
        assert_int_equal(fy_ho_source(&s, FY_HE_W_GONE), FY_HA_HV_STATUS);
        assert_int_equal(fy_ho_source(&s, FY_HE_O_HERE), 0); /* not uncertain yet */
        assert_int_equal(fy_ho_source(&s, FY_HE_H_LATCHED), FY_HA_ASK_PEER);
        assert_int_equal(fy_ho_source(&s, FY_HE_P_AWAY), FY_HA_UNCERTAIN | FY_HA_TIMER);
        if (here)
            assert_int_equal(fy_ho_source(&s, FY_HE_O_HERE), FY_HA_WRITE | FY_HA_HV_HERE);
        else
            assert_int_equal(fy_ho_source(&s, FY_HE_O_GONE), FY_HA_WRITE);
        assert_int_equal(s.want, here ? FY_HO_ABORTED : FY_HO_DONE);
        assert_int_equal(fy_ho_source(&s, FY_HE_WRITTEN), here ? FY_HA_HERE : FY_HA_HV_LEAVE | FY_HA_AWAY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_straight),
        cmocka_unit_test(test_unknown_id),
        cmocka_unit_test(test_operator),
        cmocka_unit_test(test_all_orders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
