// SPDX-License-Identifier: Apache-2.0
/* The verb `migrate` while the guest's arrival is being wound up: the source has said that the guest moved,
 * and the worker that received it lives a moment longer. The request waits for that worker's end. */
#include <stdlib.h>

#include "hv/host/jobs.h"

#define WAIT_MS 15000 /* no worker that is well takes as long */

struct fyd_move_wait {
    struct fyd_move_wait *next;
    struct fyd_client *c;
    Ferry__ApiRequest *request; /* owned; its op is `migrate` */
    struct fy_watch *timer;
};

static void begin(struct fyd_client *c, const Ferry__ApiMigrate *op)
{
    struct fy_err e;
    struct fyd_job *j = fyd_migrate(c->d, op, &e);
    if (!j) {
        fyd_reply_error(c, &e);
        return;
    }
    if (!op->detach)
        c->job = j;
    fyd_reply_job(c, j, op->detach);
}

static bool is_arriving(struct fyd *d, const char *name)
{
    struct fyd_guest *g = fyd_guest_by_name(d, name);
    return g && g->job && g->job->kind == FERRY__JOB_KIND__JOB_RECEIVE &&
           (g->state == FYD_G_RUNNING || g->state == FYD_G_PAUSED);
}

/* Its client is let go. Not in the list any more. */
static void wait_free(struct fyd_move_wait *w)
{
    fy_watch_free(w->timer);
    fyd_client_release(w->c);
    ferry__api_request__free_unpacked(w->request, NULL);
    free(w);
}

static void go_on(void *arg)
{
    struct fyd_move_wait *w = arg;
    for (struct fyd_move_wait **p = &w->c->d->move_waits; *p; p = &(*p)->next)
        if (*p == w) {
            *p = w->next;
            break;
        }
    if (!w->c->gone)
        begin(w->c, w->request->migrate);
    wait_free(w);
}

void fyd_moves_look(struct fyd *d)
{
    for (struct fyd_move_wait *w = d->move_waits; w; w = w->next)
        if (!is_arriving(d, w->request->migrate->name))
            fy_timer_arm(w->timer, 0);
}

void fyd_moves_free_all(struct fyd *d)
{
    struct fyd_move_wait *next;
    for (struct fyd_move_wait *w = d->move_waits; w; w = next) {
        next = w->next;
        wait_free(w);
    }
    d->move_waits = NULL;
}

static Ferry__ApiRequest *copy_request(const Ferry__ApiMigrate *op)
{
    Ferry__ApiRequest r = FERRY__API_REQUEST__INIT;
    r.op_case = FERRY__API_REQUEST__OP_MIGRATE;
    r.migrate = (Ferry__ApiMigrate *)(uintptr_t)op;
    size_t len = ferry__api_request__get_packed_size(&r);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return NULL;
    ferry__api_request__pack(&r, buf);
    Ferry__ApiRequest *copy = ferry__api_request__unpack(NULL, len, buf);
    free(buf);
    return copy;
}

void fyd_api_migrate(struct fyd_client *c, const Ferry__ApiMigrate *op)
{
    if (!is_arriving(c->d, op->name)) {
        begin(c, op);
        return;
    }
    struct fyd_move_wait *w = calloc(1, sizeof *w);
    if (w) {
        w->request = copy_request(op);
        w->timer = fy_timer_new(c->d->loop, go_on, w, NULL);
    }
    if (!w || !w->request || !w->timer) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        if (w && w->request)
            ferry__api_request__free_unpacked(w->request, NULL);
        if (w)
            fy_watch_free(w->timer);
        free(w);
        return;
    }
    w->c = c;
    fyd_client_hold(c);
    w->next = c->d->move_waits;
    c->d->move_waits = w;
    fy_timer_arm(w->timer, WAIT_MS);
}
