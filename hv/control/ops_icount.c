// SPDX-License-Identifier: Apache-2.0
/* Requests about guests that count their instructions. */
#include "hv/control/internal.h"
#include "hv/mem/digest.h"

/* Where the guest stands. */
static int fill_count(struct fy_server *s, struct fy_answer *a, struct fy_err *e)
{
    struct fy_icount_place at;
    Ferry__CountReply *r = &a->u.count;
    if (fy_machine_place(s->m, &at, e) < 0)
        return -1;
    ferry__count_reply__init(r);
    r->count = at.count;
    r->now_ns = at.now_ns;
    r->rip = at.rip;
    r->halted = at.halted;
    r->interrupt_shadow = at.shadow;
    a->resp.op_case = FERRY__RESPONSE__OP_COUNT;
    a->resp.count = r;
    return 0;
}

int fy_op_reached(struct fy_conn *c, struct fy_answer *a, struct fy_err *e)
{
    struct fy_life *l = c->s->life;
    struct fy_icount_place at;
    Ferry__GuestState st = fy_life_state(l);
    if (st == FERRY__GUEST_STATE__GUEST_RUNNING)
        return 0;
    c->waits = false;
    if (st != FERRY__GUEST_STATE__GUEST_PAUSED)
        return fy_fail(e, FY_ESTATE, "count %llu is not reached: the guest ended or is elsewhere",
                       (unsigned long long)c->wait_count);
    if (fy_machine_place(l->m, &at, e) < 0)
        return -1;
    if (at.count >= c->wait_count)
        return fill_count(c->s, a, e) < 0 ? -1 : 1;
    if (l->user_paused)
        return fy_fail(e, FY_ESTATE, "count %llu is not reached: the guest was paused at %llu",
                       (unsigned long long)c->wait_count, (unsigned long long)at.count);
    c->waits = true; /* a lease's pause: it goes on */
    return 0;
}

static int op_run_to(struct fy_conn *c, uint64_t id, uint64_t count, struct fy_answer *a, struct fy_err *e)
{
    if (c->waits)
        return fy_fail(e, FY_ESTATE, "this connection waits for a count already");
    if (fy_life_run_to(c->s->life, count, e) < 0)
        return -1;
    c->waits = true;
    c->wait_id = id;
    c->wait_count = count;
    int r = fy_op_reached(c, a, e);
    a->later = r == 0;
    return r < 0 ? -1 : 0;
}

static int op_digest(struct fy_server *s, struct fy_answer *a, struct fy_err *e)
{
    struct fy_icount_place at;
    Ferry__DigestReply *r = &a->u.digest;
    if (fy_machine_place(s->m, &at, e) < 0)
        return -1;
    ferry__digest_reply__init(r);
    r->count = at.count;
    if (fy_gmem_digest(fy_machine_memory(s->m), &r->digest, e) < 0)
        return -1;
    a->resp.op_case = FERRY__RESPONSE__OP_DIGEST;
    a->resp.digest = r;
    return 0;
}

int fy_op_icount(struct fy_conn *c, const Ferry__Request *q, struct fy_answer *a, struct fy_err *e)
{
    struct fy_server *s = c->s;
    if (!fy_machine_desc(s->m)->icount_ns)
        return fy_fail(
            e, FY_EUNSUPPORTED,
            "this guest's engine does not count instructions (start it with --engine soft,icount=NS)");
    if (q->op_case == FERRY__REQUEST__OP_RUN_TO)
        return op_run_to(c, q->id, q->run_to->count, a, e);
    if (fy_machine_running(s->m))
        return fy_fail(e, FY_ESTATE, "the guest is running: only of a paused one can this be told");
    return q->op_case == FERRY__REQUEST__OP_COUNT ? fill_count(s, a, e) : op_digest(s, a, e);
}
