// SPDX-License-Identifier: Apache-2.0
/* `vmctl dirty-rate`: a log-dirty tracker over an interval. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/host/daemon.h"
#include "proto/wire.h"

#define CALL_MS 20000
#define INTERVAL_NS 1000000000ull
#define SLICE_MS 100 /* a page that is written over and over counts once in each */

struct rate {
    struct fyd_client *c;
    struct fyd *d;
    uint8_t uuid[FYD_ID_LEN];
    uint64_t interval_ns;
    uint64_t started_ns, last_ns;
    uint64_t dirty; /* pages, each counted once a slice */
    uint32_t tracker;
    uint64_t pages;
    struct fy_watch *timer;
};

static void over(struct rate *r)
{
    fy_watch_free(r->timer);
    fyd_client_release(r->c);
    free(r);
}

static void close_tracker(struct rate *r);

static void give_up(struct rate *r, const struct fy_err *err)
{
    fyd_reply_fail(r->c, err ? err->code : FY_ECORRUPT, "%s",
                   err ? err->text : "the hypervisor answers out of turn");
    close_tracker(r);
}

static struct fyd_hv *link_of(struct rate *r)
{
    struct fyd_guest *g = fyd_guest_by_uuid(r->d, r->uuid);
    if (g && g->link)
        return g->link;
    fyd_reply_fail(r->c, FY_ECRASHED, "the guest ended meanwhile");
    over(r);
    return NULL;
}

static void closed(void *arg, const struct fy_err *err, const Ferry__Response *resp, int *fds, int nfds)
{
    (void)err;
    (void)resp;
    (void)fds;
    (void)nfds;
    over(arg);
}

static void close_tracker(struct rate *r)
{
    struct fyd_guest *g = fyd_guest_by_uuid(r->d, r->uuid);
    if (!g || !g->link) {
        over(r);
        return;
    }
    Ferry__TrackerCloseRequest op = FERRY__TRACKER_CLOSE_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    op.tracker = r->tracker;
    req.op_case = FERRY__REQUEST__OP_TRACKER_CLOSE;
    req.tracker_close = &op;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, closed, r);
}

/* Pages by vCPU are counted by the ring alone; without it the list is empty. */
static void counted(void *arg, const struct fy_err *err, const Ferry__Response *resp, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct rate *r = arg;
    if (err || resp->op_case != FERRY__RESPONSE__OP_TRACKER_COUNT) {
        give_up(r, err);
        return;
    }
    const Ferry__TrackerCountReply *n = resp->tracker_count;
    double seconds = (double)(r->last_ns - r->started_ns) / 1e9;
    uint64_t vcpu[FY_VCPUS_MAX];
    Ferry__ApiReply reply = FERRY__API_REPLY__INIT;
    Ferry__ApiRate rate = FERRY__API_RATE__INIT;
    rate.bytes_per_s = (uint64_t)((double)r->dirty * FY_PAGE_SIZE / seconds);
    rate.interval_ns = r->last_ns - r->started_ns;
    rate.n_vcpu_bytes_per_s = FY_MIN(n->n_vcpu_dirty, FY_ARRAY_LEN(vcpu));
    for (size_t i = 0; i < rate.n_vcpu_bytes_per_s; i++)
        vcpu[i] = (uint64_t)((double)n->vcpu_dirty[i] * FY_PAGE_SIZE / seconds);
    rate.vcpu_bytes_per_s = vcpu;
    reply.kind_case = FERRY__API_REPLY__KIND_RATE;
    reply.rate = &rate;
    reply.last = true;
    fyd_reply(r->c, &reply, NULL, 0);
    close_tracker(r);
}

static void count(struct rate *r)
{
    struct fyd_hv *hv = link_of(r);
    if (!hv)
        return;
    Ferry__TrackerCountRequest op = FERRY__TRACKER_COUNT_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    op.tracker = r->tracker;
    req.op_case = FERRY__REQUEST__OP_TRACKER_COUNT;
    req.tracker_count = &op;
    fyd_hv_call(hv, &req, NULL, 0, CALL_MS, counted, r);
}

static void ignore_answer(void *arg, const struct fy_err *err, const Ferry__Response *resp, int *fds,
                          int nfds)
{
    (void)arg;
    (void)err;
    (void)resp;
    (void)fds;
    (void)nfds;
}

static void taken(void *arg, const struct fy_err *err, const Ferry__Response *resp, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct rate *r = arg;
    if (err || resp->op_case != FERRY__RESPONSE__OP_TRACKER_TAKE) {
        give_up(r, err);
        return;
    }
    struct fyd_hv *hv = link_of(r);
    if (!hv)
        return;
    r->last_ns = fy_now_ns();
    /* The first take only sets the pages clean. */
    if (r->started_ns)
        r->dirty += resp->tracker_take->dirty;
    else
        r->started_ns = r->last_ns;
    Ferry__TrackerDoneRequest op = FERRY__TRACKER_DONE_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    op.tracker = r->tracker;
    req.op_case = FERRY__REQUEST__OP_TRACKER_DONE;
    req.tracker_done = &op;
    fyd_hv_call(hv, &req, NULL, 0, CALL_MS, ignore_answer, NULL);
    uint64_t left = r->interval_ns - FY_MIN(r->last_ns - r->started_ns, r->interval_ns);
    if (left < 1000000)
        count(r);
    else
        fy_timer_arm(r->timer, FY_MIN(left / 1000000, SLICE_MS));
}

static void take(void *arg)
{
    struct rate *r = arg;
    struct fyd_hv *hv = link_of(r);
    if (!hv)
        return;
    Ferry__TrackerTakeRequest op = FERRY__TRACKER_TAKE_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    op.tracker = r->tracker;
    op.count = r->pages;
    op.refresh = true;
    req.op_case = FERRY__REQUEST__OP_TRACKER_TAKE;
    req.tracker_take = &op;
    fyd_hv_call(hv, &req, NULL, 0, CALL_MS, taken, r);
}

static void opened(void *arg, const struct fy_err *err, const Ferry__Response *resp, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct rate *r = arg;
    if (err || resp->op_case != FERRY__RESPONSE__OP_TRACKER_OPEN) {
        fyd_reply_fail(r->c, err ? err->code : FY_ECORRUPT, "%s",
                       err ? err->text : "the hypervisor answers out of turn");
        over(r);
        return;
    }
    r->tracker = resp->tracker_open->tracker;
    r->pages = resp->tracker_open->pages;
    r->timer = fy_timer_new(r->d->loop, take, r, NULL);
    if (r->timer) {
        take(r);
    } else {
        fyd_reply_fail(r->c, FY_ERESOURCE, "no memory for a timer");
        close_tracker(r);
    }
}

void fyd_api_dirty_rate(struct fyd_client *c, const Ferry__ApiDirtyRate *op)
{
    struct fyd_guest *g = fyd_guest_by_name(c->d, op->name);
    if (!g) {
        fyd_reply_fail(c, FY_ENOTFOUND, "no such guest (`vmctl status` shows them)");
        return;
    }
    if (!g->link || g->launched || !fyd_guest_active(g)) {
        fyd_reply_fail(c, FY_ESTATE, "it is %s (only a running guest writes memory)",
                       fyd_gstate_name(g->state));
        return;
    }
    if (op->interval_ns > 600ull * 1000000000ull || (op->interval_ns && op->interval_ns < 1000000)) {
        fyd_reply_fail(c, FY_EUSAGE, "the interval must be between 1 ms and 10 min");
        return;
    }
    struct rate *r = calloc(1, sizeof *r);
    if (!r) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    r->c = c;
    r->d = c->d;
    r->interval_ns = op->interval_ns ? op->interval_ns : INTERVAL_NS;
    memcpy(r->uuid, g->uuid, FYD_ID_LEN);
    fyd_client_hold(c);
    Ferry__TrackerOpenRequest open = FERRY__TRACKER_OPEN_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    open.purpose = (char *)(uintptr_t) "rate";
    req.op_case = FERRY__REQUEST__OP_TRACKER_OPEN;
    req.tracker_open = &open;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, opened, r);
}
