// SPDX-License-Identifier: Apache-2.0
#include "hv/host/console.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "hv/base/io.h"
#include "hv/host/guests.h"
#include "hv/host/hvlink.h"
#include "hv/host/jobs.h"

#define CALL_MS 5000

static void reply_console(struct fyd_client *c, uint64_t position, int fd)
{
    Ferry__ApiReply reply = FERRY__API_REPLY__INIT;
    Ferry__ApiConsoleAt at = FERRY__API_CONSOLE_AT__INIT;
    at.position = position;
    reply.last = true;
    reply.kind_case = FERRY__API_REPLY__KIND_CONSOLE_AT;
    reply.console_at = &at;
    fyd_reply(c, &reply, &fd, 1);
}

/* --- the asking side --- */

static int ask(struct fyd_job *j, const struct fyd_host *h, Ferry__ConsoleOpen *open, struct fy_err *e)
{
    Ferry__JobStart start = FERRY__JOB_START__INIT;
    Ferry__PinnedPeer pin = FERRY__PINNED_PEER__INIT;
    Ferry__PinnedPeer *peers[1] = {&pin};
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return fy_fail(e, FY_ERESOURCE, "no descriptors for a console");
    pin.host = (char *)(uintptr_t)h->row.name;
    pin.certificate_sha256 = (ProtobufCBinaryData){32, (uint8_t *)(uintptr_t)h->row.sha256};
    start.n_peers = 1;
    start.peers = peers;
    start.address = (char *)(uintptr_t)h->row.address;
    start.console = open;
    j->console_fd = sv[0];
    int rc = fyd_job_spawn(j, &start, &sv[1], 1, e);
    fy_close(&sv[1]);
    return rc;
}

void fyd_console_elsewhere(struct fyd_client *c, const struct fyd_guest *g, const Ferry__ApiConsole *op)
{
    struct fy_err e;
    uint8_t id[FYD_ID_LEN];
    struct fyd_host *h = fyd_host_find(c->d, g->moved_to);
    if (!h) {
        fyd_reply_fail(c, FY_ENOTFOUND, "it has moved to %s, which is not among this host's peers",
                       g->moved_to);
        return;
    }
    fy_random(id, sizeof id);
    struct fyd_job *j = fyd_job_new(c->d, FERRY__JOB_KIND__JOB_CONSOLE, id);
    if (!j) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for a job");
        return;
    }
    Ferry__ConsoleOpen open = FERRY__CONSOLE_OPEN__INIT;
    open.guest_uuid = (ProtobufCBinaryData){FYD_ID_LEN, (uint8_t *)(uintptr_t)g->uuid};
    open.scrollback = op->scrollback;
    open.after = op->after;
    fyd_copy(j->peer, sizeof j->peer, h->row.name);
    if (ask(j, h, &open, &e) < 0) {
        fyd_job_remove(j);
        fyd_reply_error(c, &e);
        return;
    }
    fyd_client_hold(c);
    j->console_client = c;
}

void fyd_console_opened(struct fyd_job *j, const Ferry__ConsoleOpened *o)
{
    struct fyd_client *c = j->console_client;
    j->console_client = NULL;
    if (!c)
        return;
    reply_console(c, o->position, j->console_fd);
    fy_close(&j->console_fd);
    fyd_client_release(c);
}

void fyd_console_over(struct fyd_job *j)
{
    struct fyd_client *c = j->console_client;
    const Ferry__JobReport *r = j->worker_report;
    j->console_client = NULL;
    fy_close(&j->console_fd);
    if (!c)
        return;
    if (r && r->code)
        fyd_reply_fail(c, (int)r->code, "its console on %s: %s", j->peer, r->error);
    else
        fyd_reply_fail(c, FY_EUNREACHABLE, "%s did not give its console", j->peer);
    fyd_client_release(c);
}

/* --- the serving side --- */

struct serve {
    struct fyd *d;
    uint8_t job[FYD_ID_LEN];
};

static void attached(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    struct serve *s = arg;
    struct fyd_job *j = fyd_job_find(s->d, s->job);
    struct fy_err none;
    free(s);
    if (!j)
        return;
    if (!err && (nfds != 1 || r->op_case != FERRY__RESPONSE__OP_CONSOLE_ATTACH)) {
        fy_fail(&none, FY_ECORRUPT, "the hypervisor gave no console");
        err = &none;
    }
    Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
    Ferry__ConsoleOpened o = FERRY__CONSOLE_OPENED__INIT;
    in.kind_case = FERRY__WORKER_IN__KIND_CONSOLE;
    in.console = &o;
    if (!err)
        o.position = r->console_attach->position;
    fyd_job_answer(j, err, &in, fds, err ? 0 : 1);
}

/* A console is the guest's keyboard: whoever had the guest has it, nobody else. */
static struct fyd_guest *guest_from(struct fyd *d, const Ferry__OpenConsole *m, struct fy_err *e)
{
    struct fyd_guest *g = d->guests;
    const ProtobufCBinaryData *uuid = &m->open->guest_uuid;
    while (g && (uuid->len != FYD_ID_LEN || memcmp(g->uuid, uuid->data, FYD_ID_LEN) != 0))
        g = g->next;
    const struct fyd_ho *h = g ? fyd_ho_find(d, g->handover) : NULL;
    if (g && g->state == FYD_G_MOVED)
        fy_fail(e, FY_ESTATE, "it has moved on to %s (ask there)", g->moved_to);
    else if (!h || h->source || strcmp(h->peer, m->peer_host) != 0)
        fy_fail(e, FY_ENOTFOUND, "no guest here came from %s under that UUID", m->peer_host);
    else if (!g->link || g->launched)
        fy_fail(e, FY_ESTATE, "it is %s", fyd_gstate_name(g->state));
    else
        return g;
    return NULL;
}

void fyd_console_serve(struct fyd_job *j, const Ferry__OpenConsole *m)
{
    struct fy_err e;
    struct fyd_guest *g = m->open ? guest_from(j->d, m, &e) : NULL;
    struct serve *s = g ? malloc(sizeof *s) : NULL;
    if (!m->open)
        fy_fail(&e, FY_ECORRUPT, "the worker named no console");
    else if (g && !s)
        fy_fail(&e, FY_ERESOURCE, "no memory for a console");
    if (!s) {
        fyd_job_answer(j, &e, NULL, NULL, 0);
        return;
    }
    s->d = j->d;
    memcpy(s->job, j->id, FYD_ID_LEN);
    Ferry__ConsoleAttachRequest con = FERRY__CONSOLE_ATTACH_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    con.scrollback = m->open->scrollback;
    con.after = m->open->after;
    req.op_case = FERRY__REQUEST__OP_CONSOLE_ATTACH;
    req.console_attach = &con;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, attached, s);
}
