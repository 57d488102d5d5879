// SPDX-License-Identifier: Apache-2.0
#include "hv/host/hvlink.h"

#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "hv/base/log.h"
#include "hv/host/chan.h"

struct call {
    struct call *next;
    struct fyd_hv *hv;
    uint64_t id;
    fyd_hv_cb cb;
    void *arg;
    struct fy_watch *timer;
    bool unsent;
    struct fy_err why; /* of the failed send */
};

struct fyd_hv {
    struct fy_loop *loop;
    struct fyd_chan *chan;
    fyd_hv_event_cb on_event;
    fyd_hv_closed_cb on_closed;
    void *arg;
    uint64_t last_id;
    struct call *calls;
    bool ended;
};

static void finish(struct call *c, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    for (struct call **p = &c->hv->calls; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    fy_watch_free(c->timer);
    c->cb(c->arg, err, r, fds, nfds);
    free(c);
}

static void fail_all(struct fyd_hv *hv, const struct fy_err *why)
{
    /* A callee may call anew: those calls are not of this list. */
    struct call *c = hv->calls;
    hv->calls = NULL;
    while (c) {
        struct call *next = c->next;
        finish(c, why, NULL, NULL, 0);
        c = next;
    }
}

static void on_timer(void *arg)
{
    struct call *c = arg;
    struct fy_err e = c->why;
    if (!c->unsent)
        fy_fail(&e, FY_EDEADLINE, "the hypervisor does not answer");
    finish(c, &e, NULL, NULL, 0);
}

static void on_response(struct fyd_hv *hv, const Ferry__Response *r, int *fds, int nfds)
{
    for (struct call *c = hv->calls; c; c = c->next) {
        if (c->id != r->id)
            continue;
        if (r->error) {
            struct fy_err e;
            fy_fail(&e, r->error->code ? (int)r->error->code : FY_EFAIL, "%s", r->error->text);
            finish(c, &e, NULL, NULL, 0);
        } else {
            finish(c, NULL, r, fds, nfds);
        }
        return;
    }
}

static void on_msg(void *arg, const uint8_t *buf, size_t len, int *fds, int nfds)
{
    struct fyd_hv *hv = arg;
    Ferry__ControlOut *out = ferry__control_out__unpack(NULL, len, buf);
    if (!out) {
        fy_warn("a hypervisor sent a message that cannot be read");
        return;
    }
    if (out->kind_case == FERRY__CONTROL_OUT__KIND_RESPONSE)
        on_response(hv, out->response, fds, nfds);
    else if (out->kind_case == FERRY__CONTROL_OUT__KIND_EVENT && hv->on_event)
        hv->on_event(hv->arg, out->event);
    ferry__control_out__free_unpacked(out, NULL);
}

static void on_closed(void *arg, const struct fy_err *why)
{
    struct fyd_hv *hv = arg;
    struct fy_err e = *why;
    e.code = FY_ECRASHED;
    fy_fail_prefix(&e, "the hypervisor's connection ended");
    fail_all(hv, &e);
    if (hv->on_closed)
        hv->on_closed(hv->arg);
}

struct fyd_hv *fyd_hv_new(struct fy_loop *loop, int sock, fyd_hv_event_cb on_event, fyd_hv_closed_cb closed,
                          void *arg, struct fy_err *e)
{
    struct fyd_hv *hv = calloc(1, sizeof *hv);
    if (!hv) {
        close(sock);
        fy_fail(e, FY_ERESOURCE, "no memory for a connection");
        return NULL;
    }
    *hv = (struct fyd_hv){.loop = loop, .on_event = on_event, .on_closed = closed, .arg = arg};
    hv->chan = fyd_chan_new(loop, sock, on_msg, on_closed, hv, e);
    if (!hv->chan) {
        free(hv);
        return NULL;
    }
    return hv;
}

void fyd_hv_free(struct fyd_hv *hv)
{
    if (!hv)
        return;
    struct fy_err e;
    fy_fail(&e, FY_ECANCELLED, "the hypervisor's connection was closed");
    hv->ended = true;
    fyd_chan_free(hv->chan);
    hv->chan = NULL;
    fail_all(hv, &e);
    free(hv);
}

void fyd_hv_call(struct fyd_hv *hv, Ferry__Request *req, const int *fds, int nfds, unsigned timeout_ms,
                 fyd_hv_cb cb, void *arg)
{
    struct call *c = hv->ended ? NULL : calloc(1, sizeof *c);
    struct fy_err e;
    if (!c || !(c->timer = fy_timer_new(hv->loop, on_timer, c, &e))) {
        /* Without memory, or a link to keep it in, the answer cannot come later. */
        free(c);
        fy_fail(&e, FY_ERESOURCE, "cannot call the hypervisor");
        cb(arg, &e, NULL, NULL, 0);
        return;
    }
    c->hv = hv;
    c->cb = cb;
    c->arg = arg;
    c->id = req->id = ++hv->last_id;
    c->next = hv->calls;
    hv->calls = c;
    if (fyd_chan_send(hv->chan, &req->base, fds, nfds, &c->why) < 0) {
        c->unsent = true;
        timeout_ms = 0;
    }
    fy_timer_arm(c->timer, timeout_ms);
}

void fyd_hv_drain(struct fyd_hv *hv)
{
    if (hv)
        fyd_chan_drain(hv->chan);
}
