// SPDX-License-Identifier: Apache-2.0
/* The API socket: who may speak, which op goes where, replies, and the watchers. docs/spec/api.md. */
#include "hv/host/daemon.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/host/define.h"
#include "hv/host/jobs.h"

#define CLIENTS_MAX 256

void fyd_client_hold(struct fyd_client *c)
{
    c->refs++;
}

static void free_client(struct fyd_client *c)
{
    for (struct fyd_client **p = &c->d->clients; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    fyd_chan_free(c->chan);
    free(c);
}

void fyd_client_release(struct fyd_client *c)
{
    if (--c->refs == 0 && c->gone)
        free_client(c);
}

static void client_gone(struct fyd_client *c)
{
    c->gone = true;
    c->watching = false;
    c->job = NULL;
    fyd_chan_free(c->chan);
    c->chan = NULL;
    if (c->refs == 0)
        free_client(c);
}

static void drop_clients(void *arg)
{
    struct fyd *d = arg;
    struct fyd_client *next;
    for (struct fyd_client *c = d->clients; c; c = next) {
        next = c->next;
        if (c->drop && !c->gone)
            client_gone(c);
    }
}

void fyd_reply(struct fyd_client *c, Ferry__ApiReply *r, const int *fds, int nfds)
{
    struct fy_err e;
    if (c->sink)
        c->sink(c, r);
    if (c->gone || !c->chan)
        return;
    if (r->last)
        c->busy = false;
    if (fyd_chan_send(c->chan, &r->base, fds, nfds, &e) == 0)
        return;
    if (e.code != FY_EUNREACHABLE)
        fy_warn("api: %s", e.text);
    /* Gone, or it does not read: a client that misses a message must not wait for it. */
    c->watching = false;
    c->drop = true;
    fy_loop_post(c->d->loop, drop_clients, c->d, NULL);
}

void fyd_reply_error(struct fyd_client *c, const struct fy_err *err)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    r.code = (uint32_t)(err->code ? err->code : FY_EFAIL);
    r.text = (char *)(uintptr_t)err->text;
    r.last = true;
    fyd_reply(c, &r, NULL, 0);
}

void fyd_reply_fail(struct fyd_client *c, int code, const char *fmt, ...)
{
    struct fy_err e = {.code = code};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e.text, sizeof e.text, fmt, ap);
    va_end(ap);
    fyd_reply_error(c, &e);
}

void fyd_reply_done(struct fyd_client *c)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    r.last = true;
    fyd_reply(c, &r, NULL, 0);
}

void fyd_reply_text(struct fyd_client *c, const char *text, bool last)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    Ferry__ApiText t = FERRY__API_TEXT__INIT;
    t.text = (char *)(uintptr_t)text;
    r.kind_case = FERRY__API_REPLY__KIND_MESSAGE;
    r.message = &t;
    r.last = last;
    fyd_reply(c, &r, NULL, 0);
}

static void guest_reply(struct fyd_client *c, struct fyd_guest *g, bool last, bool removed)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    Ferry__ApiGuest a = FERRY__API_GUEST__INIT;
    a.name = g->name;
    a.uuid = (ProtobufCBinaryData){FYD_ID_LEN, g->uuid};
    if (!fyd_id_is_zero(g->run_id))
        a.run_id = (ProtobufCBinaryData){FYD_ID_LEN, g->run_id};
    a.state = (char *)(uintptr_t)fyd_gstate_name(g->state);
    a.pid = (uint32_t)g->pid;
    a.machine = g->machine;
    a.running_ns = g->running_ns;
    a.vcpu_cpu_ns = g->vcpu_cpu_ns;
    a.memory_resident = g->resident;
    a.report = g->report;
    a.exit_status = g->exit_status;
    a.job = g->job ? g->job->id_text : a.job;
    a.engine = g->engine;
    a.isolation = g->isolation;
    Ferry__Limits limits = FERRY__LIMITS__INIT;
    limits.cpu_weight = g->limits.cpu_weight;
    limits.cpu_cap = g->limits.cpu_cap;
    limits.cpus = (char *)(uintptr_t)g->limits.cpus;
    limits.io_weight = g->limits.io_weight;
    limits.memory_limit = g->limits.memory_limit;
    a.limits = &limits;
    a.moved_to = g->moved_to;
    a.warning = g->warning;
    const struct fyd_def *def = fyd_def_find(g->d, g->name);
    if (def) {
        a.defined = true;
        a.autostart = fyd_def_autostart(def);
        a.restart = (char *)(uintptr_t)fyd_def_restart(def);
    }
    a.nics = g->nics;
    a.n_nics = g->n_nics;
    r.kind_case = FERRY__API_REPLY__KIND_GUEST;
    r.guest = &a;
    r.last = last;
    r.revision = g->revision;
    r.removed = removed;
    fyd_reply(c, &r, NULL, 0);
}

void fyd_reply_guest(struct fyd_client *c, struct fyd_guest *g, bool last)
{
    guest_reply(c, g, last, false);
}

static void job_reply(struct fyd_client *c, struct fyd_job *j, bool last, bool removed, int code,
                      const char *text)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    Ferry__ApiJobInfo a = FERRY__API_JOB_INFO__INIT;
    a.id = j->id_text;
    a.guest = j->guest_name;
    a.kind = (char *)(uintptr_t)(j->kind == FERRY__JOB_KIND__JOB_SEND ? "send" : "receive");
    a.peer = j->peer;
    a.state = j->state;
    a.progress = j->progress;
    a.report = j->report;
    a.started_realtime_ns = j->started_real;
    r.kind_case = FERRY__API_REPLY__KIND_JOB;
    r.job = &a;
    r.last = last;
    r.revision = j->revision;
    r.removed = removed;
    r.code = (uint32_t)code;
    r.text = (char *)(uintptr_t)text;
    fyd_reply(c, &r, NULL, 0);
}

void fyd_reply_job(struct fyd_client *c, struct fyd_job *j, bool last)
{
    job_reply(c, j, last, false, 0, "");
}

static void host_reply(struct fyd_client *c, struct fyd_host *h, bool last, bool removed)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    Ferry__ApiHost a = FERRY__API_HOST__INIT;
    a.host = h->row.name;
    a.address = h->row.address;
    a.certificate_sha256 = (ProtobufCBinaryData){32, h->row.sha256};
    a.self = h->row.self;
    r.kind_case = FERRY__API_REPLY__KIND_HOST;
    r.host = &a;
    r.last = last;
    r.revision = h->revision;
    r.removed = removed;
    fyd_reply(c, &r, NULL, 0);
}

void fyd_reply_host(struct fyd_client *c, struct fyd_host *h, bool last)
{
    host_reply(c, h, last, false);
}

void fyd_changed_guest(struct fyd_guest *g, bool removed)
{
    g->revision = ++g->d->revision;
    for (struct fyd_client *c = g->d->clients; c; c = c->next)
        if (c->watching)
            guest_reply(c, g, false, removed);
}

void fyd_changed_job(struct fyd_job *j, bool removed)
{
    j->revision = ++j->d->revision;
    for (struct fyd_client *c = j->d->clients; c; c = c->next)
        if (c->watching)
            job_reply(c, j, false, removed, 0, "");
}

void fyd_changed_host(struct fyd *d, struct fyd_host *h, bool removed)
{
    h->revision = ++d->revision;
    for (struct fyd_client *c = d->clients; c; c = c->next)
        if (c->watching)
            host_reply(c, h, false, removed);
}

/* One message of a job to one of its clients; true when it was the last. */
static bool job_tell_one(struct fyd_client *c, struct fyd_job *j)
{
    if (j->finished) {
        bool failed = j->report && j->report->code;
        job_reply(c, j, true, false, failed ? (int)j->report->code : 0, failed ? j->report->error : "");
        return true;
    }
    if (!strcmp(j->state, "uncertain") && !c->to_the_end) {
        char text[512];
        snprintf(text, sizeof text,
                 "whether %.64s runs there is not known until its daemon can be reached; this host asks on "
                 "by itself "
                 "(`vmctl job wait %.8s` waits, `vmctl job resolve` ends it by hand)",
                 j->peer, j->id_text);
        job_reply(c, j, true, false, FY_EUNCERTAIN, text);
        return true;
    }
    job_reply(c, j, false, false, 0, "");
    return false;
}

void fyd_job_tell(struct fyd_job *j)
{
    for (struct fyd_client *c = j->d->clients; c; c = c->next)
        if (c->job == j && job_tell_one(c, j))
            c->job = NULL;
}

static void watch_all(struct fyd_client *c, uint64_t after)
{
    struct fyd *d = c->d;
    for (struct fyd_host *h = d->hosts; h; h = h->next)
        if (h->revision > after)
            host_reply(c, h, false, false);
    for (struct fyd_guest *g = d->guests; g; g = g->next)
        if (g->revision > after && !g->forget)
            guest_reply(c, g, false, false);
    for (struct fyd_job *j = d->jobs; j; j = j->next)
        if (j->revision > after && fyd_job_listed(j))
            job_reply(c, j, false, false, 0, "");
    c->watching = true;
}

static void list_jobs(struct fyd_client *c)
{
    for (struct fyd_job *j = c->d->jobs; j; j = j->next)
        if (fyd_job_listed(j))
            job_reply(c, j, false, false, 0, "");
    fyd_reply_done(c);
}

static void job_op(struct fyd_client *c, const Ferry__ApiRequest *r)
{
    struct fy_err e;
    const char *text = r->op_case == FERRY__API_REQUEST__OP_JOB_SET       ? r->job_set->id
                       : r->op_case == FERRY__API_REQUEST__OP_JOB_RESOLVE ? r->job_resolve->id
                                                                          : r->job_show->id;
    struct fyd_job *j = fyd_job_by_text(c->d, text, &e);
    if (!j) {
        fyd_reply_error(c, &e);
        return;
    }
    switch (r->op_case) {
    case FERRY__API_REQUEST__OP_JOB_SHOW:
        fyd_reply_job(c, j, true);
        break;
    case FERRY__API_REQUEST__OP_JOB_WAIT:
        c->to_the_end = true;
        if (!job_tell_one(c, j))
            c->job = j;
        break;
    case FERRY__API_REQUEST__OP_JOB_CANCEL:
        if (j->finished || j->worker_ended) {
            fyd_reply_fail(c, FY_ESTATE, j->finished ? "the job is over" : "the hand-over is being settled");
        } else if (j->switching) {
            fyd_reply_fail(c, FY_ESTATE,
                           "the guest is being switched: too late to cancel (wait for the end)");
        } else if (j->kind != FERRY__JOB_KIND__JOB_SEND) {
            fyd_reply_fail(c, FY_ESTATE, "the move is the source's to cancel (ask %s)", j->peer);
        } else {
            fyd_job_cancel(j, "cancelled by an operator");
            fyd_reply_done(c);
        }
        break;
    case FERRY__API_REQUEST__OP_JOB_SET:
        if (!r->job_set->set)
            fyd_reply_fail(c, FY_EUSAGE, "nothing to set");
        else if (fyd_job_set(j, r->job_set->set, &e) < 0)
            fyd_reply_error(c, &e);
        else
            fyd_reply_done(c);
        break;
    default:
        if (!j->ho || !j->ho->source || j->ho->m.step != FY_HS_ASK) {
            fyd_reply_fail(c, FY_ESTATE, "the job is %s, not uncertain: there is nothing to resolve",
                           j->state);
        } else {
            fy_warn("job %.8s: an operator resolves: %s", j->id_text,
                    r->job_resolve->run_here ? "run here" : "gone");
            j->ho->by_hand = true;
            fyd_ho_feed(j->ho, r->job_resolve->run_here ? FY_HE_O_HERE : FY_HE_O_GONE);
            fyd_reply_job(c, j, true);
        }
    }
}

static void dispatch(struct fyd_client *c, const Ferry__ApiRequest *r, int *fds, int nfds)
{
    switch (r->op_case) {
    case FERRY__API_REQUEST__OP_START:
        if (r->start->from_definition)
            fyd_api_start_defined(c, r->start);
        else
            fyd_api_start(c, r->start, fds, nfds);
        break;
    case FERRY__API_REQUEST__OP_LIMIT:
        fyd_api_limit(c, r->limit);
        break;
    case FERRY__API_REQUEST__OP_STATS:
        fyd_api_stats(c);
        break;
    case FERRY__API_REQUEST__OP_STATUS:
        fyd_api_status(c, NULL);
        break;
    case FERRY__API_REQUEST__OP_SHOW:
        fyd_api_status(c, r->show->name);
        break;
    case FERRY__API_REQUEST__OP_CONSOLE:
        fyd_api_console(c, r->console);
        break;
    case FERRY__API_REQUEST__OP_PAUSE:
        fyd_api_pause(c, r->pause->name, true);
        break;
    case FERRY__API_REQUEST__OP_UNPAUSE:
        fyd_api_pause(c, r->unpause->name, false);
        break;
    case FERRY__API_REQUEST__OP_STOP:
        fyd_api_stop(c, r->stop);
        break;
    case FERRY__API_REQUEST__OP_WAIT:
        fyd_api_wait(c, r->wait->name);
        break;
    case FERRY__API_REQUEST__OP_DIRTY_RATE:
        fyd_api_dirty_rate(c, r->dirty_rate);
        break;
    case FERRY__API_REQUEST__OP_NIC_RATE:
        fyd_api_nic_rate(c, r->nic_rate);
        break;
    case FERRY__API_REQUEST__OP_RESET:
        fyd_api_reset(c, r->reset->name);
        break;
    case FERRY__API_REQUEST__OP_MIGRATE:
        fyd_api_migrate(c, r->migrate);
        break;
    case FERRY__API_REQUEST__OP_JOB_LIST:
        list_jobs(c);
        break;
    case FERRY__API_REQUEST__OP_JOB_SHOW:
    case FERRY__API_REQUEST__OP_JOB_WAIT:
    case FERRY__API_REQUEST__OP_JOB_CANCEL:
    case FERRY__API_REQUEST__OP_JOB_SET:
    case FERRY__API_REQUEST__OP_JOB_RESOLVE:
        job_op(c, r);
        break;
    case FERRY__API_REQUEST__OP_HOST_INIT:
        fyd_host_init(c, r->host_init);
        break;
    case FERRY__API_REQUEST__OP_HOST_INVITE:
        fyd_host_invite(c, r->host_invite);
        break;
    case FERRY__API_REQUEST__OP_HOST_JOIN:
        fyd_host_join(c, r->host_join);
        break;
    case FERRY__API_REQUEST__OP_HOST_LIST:
        fyd_host_list(c);
        break;
    case FERRY__API_REQUEST__OP_HOST_REMOVE:
        fyd_host_remove(c, r->host_remove);
        break;
    case FERRY__API_REQUEST__OP_DOCTOR:
        fyd_doctor(c);
        break;
    case FERRY__API_REQUEST__OP_VERSION:
        fyd_reply_text(c, FERRY_VERSION, true);
        break;
    case FERRY__API_REQUEST__OP_DEFINE:
        fyd_api_define(c, r->define);
        break;
    case FERRY__API_REQUEST__OP_UNDEFINE:
        fyd_api_undefine(c, r->undefine->name);
        break;
    case FERRY__API_REQUEST__OP_SET:
        fyd_api_set(c, r->set);
        break;
    case FERRY__API_REQUEST__OP_EXPORT:
        fyd_api_export(c, r->export->name);
        break;
    case FERRY__API_REQUEST__OP_LOGS:
        fyd_api_logs(c, r->logs);
        break;
    case FERRY__API_REQUEST__OP_WATCH:
        watch_all(c, r->watch->after_revision);
        break;
    default:
        fyd_reply_fail(c, FY_EUNSUPPORTED,
                       "this daemon does not know the request (is vmctl newer than ferryd?)");
    }
}

static void on_msg(void *arg, const uint8_t *buf, size_t len, int *fds, int nfds)
{
    struct fyd_client *c = arg;
    Ferry__ApiRequest *r = ferry__api_request__unpack(NULL, len, buf);
    if (!r) {
        fyd_reply_fail(c, FY_ECORRUPT, "the request cannot be read");
        return;
    }
    if (r->api_version > FYD_API_VERSION) {
        fyd_reply_fail(c, FY_EUNSUPPORTED, "the request has API version %u, this daemon speaks %d",
                       r->api_version, FYD_API_VERSION);
    } else if (c->busy) {
        fyd_reply_fail(c, FY_EUSAGE, "one request at a time");
    } else {
        c->busy = true;
        c->to_the_end = false;
        fyd_client_hold(c);
        dispatch(c, r, fds, nfds);
        fyd_client_release(c);
    }
    ferry__api_request__free_unpacked(r, NULL);
}

static void on_closed(void *arg, const struct fy_err *why)
{
    (void)why;
    client_gone(arg);
}

static void on_accept(int fd, unsigned ready, void *arg)
{
    (void)ready;
    struct fyd *d = arg;
    int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (sock < 0)
        return;
    struct ucred who;
    socklen_t len = sizeof who;
    unsigned n = 0;
    for (struct fyd_client *c = d->clients; c; c = c->next)
        n++;
    if (n >= CLIENTS_MAX || getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 ||
        (who.uid != 0 && who.uid != geteuid())) {
        fy_warn("api: a connection was refused");
        close(sock);
        return;
    }
    struct fyd_client *c = calloc(1, sizeof *c);
    if (!c) {
        close(sock);
        return;
    }
    c->d = d;
    c->chan = fyd_chan_new(d->loop, sock, on_msg, on_closed, c, NULL);
    if (!c->chan) {
        free(c);
        return;
    }
    c->next = d->clients;
    d->clients = c;
}

int fyd_api_listen(struct fyd *d, struct fy_err *e)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/ferryd.sock", d->root) >= (int)sizeof path)
        return fy_fail(e, FY_EUSAGE, "the root folder's path is too long");
    d->api_sock = fy_msg_listen(path, 0600, e);
    if (d->api_sock < 0)
        return -1;
    d->api_watch = fy_watch_fd(d->loop, d->api_sock, FY_READ, on_accept, d, e);
    return d->api_watch ? 0 : -1;
}

void fyd_api_close(struct fyd *d)
{
    fy_watch_free(d->api_watch);
    d->api_watch = NULL;
    fy_close(&d->api_sock);
    struct fyd_client *next;
    for (struct fyd_client *c = d->clients; c; c = next) {
        next = c->next;
        c->refs = 0;
        client_gone(c);
    }
}
