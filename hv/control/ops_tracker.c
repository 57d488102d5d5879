// SPDX-License-Identifier: Apache-2.0
#include "hv/control/internal.h"

static struct fy_conn_tracker *slot_of(struct fy_conn *c, uint32_t id)
{
    for (int i = 0; i < FY_TRACKERS_MAX; i++)
        if (c->trackers[i].id == id)
            return &c->trackers[i];
    return NULL;
}

static struct fy_tracker *tracker_of(struct fy_conn *c, uint32_t id, struct fy_err *e)
{
    struct fy_conn_tracker *slot = id ? slot_of(c, id) : NULL;
    if (!slot)
        fy_fail(e, FY_ENOTFOUND, "this connection has no tracker %u", id);
    return slot ? slot->t : NULL;
}

static int op_open(struct fy_conn *c, const Ferry__TrackerOpenRequest *q, struct fy_answer *a,
                   struct fy_err *e)
{
    struct fy_conn_tracker *slot = slot_of(c, 0);
    if (!slot)
        return fy_fail(e, FY_ERESOURCE, "this connection has %d trackers already", FY_TRACKERS_MAX);
    struct fy_tracker *t = fy_tracker_open(fy_machine_logdirty(c->s->m), q->start_all, e);
    if (!t)
        return -1;
    slot->id = c->s->next_tracker++;
    slot->t = t;
    Ferry__TrackerOpenReply *r = &a->u.tracker_open;
    ferry__tracker_open_reply__init(r);
    r->tracker = slot->id;
    r->pages = fy_tracker_pages(t);
    a->fd = fy_tracker_fd(t);
    a->resp.op_case = FERRY__RESPONSE__OP_TRACKER_OPEN;
    a->resp.tracker_open = r;
    return 0;
}

static int op_take(struct fy_conn *c, const Ferry__TrackerTakeRequest *q, struct fy_answer *a,
                   struct fy_err *e)
{
    struct fy_tracker *t = tracker_of(c, q->tracker, e);
    Ferry__TrackerTakeReply *r = &a->u.tracker_take;
    ferry__tracker_take_reply__init(r);
    if (!t || fy_tracker_take(t, q->first, q->count, q->refresh, &r->dirty, &r->remaining, e) < 0)
        return -1;
    a->resp.op_case = FERRY__RESPONSE__OP_TRACKER_TAKE;
    a->resp.tracker_take = r;
    return 0;
}

static int op_count(struct fy_conn *c, const Ferry__TrackerCountRequest *q, struct fy_answer *a,
                    struct fy_err *e)
{
    struct fy_tracker *t = tracker_of(c, q->tracker, e);
    if (!t)
        return -1;
    Ferry__TrackerCountReply *r = &a->u.tracker_count;
    ferry__tracker_count_reply__init(r);
    r->dirty = fy_tracker_count(t, q->refresh);
    if (fy_machine_vcpu_dirty(c->s->m, a->vcpu_dirty)) {
        r->vcpu_dirty = a->vcpu_dirty;
        r->n_vcpu_dirty = fy_machine_desc(c->s->m)->vcpus;
    }
    a->resp.op_case = FERRY__RESPONSE__OP_TRACKER_COUNT;
    a->resp.tracker_count = r;
    return 0;
}

static int op_close(struct fy_conn *c, uint32_t id, struct fy_err *e)
{
    struct fy_tracker *t = tracker_of(c, id, e);
    if (!t)
        return -1;
    *slot_of(c, id) = (struct fy_conn_tracker){0};
    fy_tracker_close(t);
    return 0;
}

int fy_op_tracker(struct fy_conn *c, const Ferry__Request *q, struct fy_answer *a, struct fy_err *e)
{
    struct fy_tracker *t;
    switch (q->op_case) {
    case FERRY__REQUEST__OP_TRACKER_OPEN:
        return op_open(c, q->tracker_open, a, e);
    case FERRY__REQUEST__OP_TRACKER_TAKE:
        return op_take(c, q->tracker_take, a, e);
    case FERRY__REQUEST__OP_TRACKER_COUNT:
        return op_count(c, q->tracker_count, a, e);
    case FERRY__REQUEST__OP_TRACKER_DONE:
        if (!(t = tracker_of(c, q->tracker_done->tracker, e)))
            return -1;
        fy_tracker_done(t);
        break;
    case FERRY__REQUEST__OP_TRACKER_GIVEBACK:
        if (!(t = tracker_of(c, q->tracker_giveback->tracker, e)))
            return -1;
        fy_tracker_giveback(t);
        break;
    default:
        if (op_close(c, q->tracker_close->tracker, e) < 0)
            return -1;
        break;
    }
    fy_answer_empty(a);
    return 0;
}

void fy_trackers_close(struct fy_conn *c)
{
    for (int i = 0; i < FY_TRACKERS_MAX; i++) {
        if (c->trackers[i].id)
            fy_tracker_close(c->trackers[i].t);
        c->trackers[i] = (struct fy_conn_tracker){0};
    }
}
