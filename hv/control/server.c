// SPDX-License-Identifier: Apache-2.0
#include "hv/control/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/control/internal.h"
#include "hv/dev/virtio_vsock.h"

/* Room for answers that a client has not fetched yet; one that lets more pile up is cut off. */
#define SEND_BUFFER (FY_MSG_MAX * 4)

static void conn_close(struct fy_conn *c)
{
    struct fy_server *s = c->s;
    struct fy_conn **at = &s->conns;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    s->conn_count--;
    fy_watch_free(c->watch);
    fy_close(&c->sock);
    fy_trackers_close(c);
    fy_life_lease_end(s->life, &c->lease);
    free(c);
}

static int send_out(struct fy_conn *c, const Ferry__ControlOut *out, int fd)
{
    struct fy_err e;
    size_t len = ferry__control_out__get_packed_size(out);
    if (len > FY_MSG_MAX)
        return fy_fail(&e, FY_EFAIL, "answer of %zu bytes is over the limit", len);
    ferry__control_out__pack(out, c->s->out);
    int r = fy_msg_send(c->sock, c->s->out, len, &fd, fd >= 0 ? 1 : 0, &e);
    if (r < 0)
        fy_debug("control connection is cut off: %s", e.text);
    return r;
}

void fy_answer_empty(struct fy_answer *a)
{
    ferry__empty__init(&a->u.empty);
    a->resp.op_case = FERRY__RESPONSE__OP_EMPTY;
    a->resp.empty = &a->u.empty;
}

static void answer_init(struct fy_answer *a)
{
    memset(a, 0, sizeof *a);
    ferry__response__init(&a->resp);
    a->fd = -1;
}

/* failed: e, and not a, is the answer. */
static int answer_send(struct fy_conn *c, uint64_t id, struct fy_answer *a, bool failed, struct fy_err *e)
{
    Ferry__ControlOut out = FERRY__CONTROL_OUT__INIT;
    Ferry__ControlError error = FERRY__CONTROL_ERROR__INIT;
    if (failed) {
        if (a->close_fd)
            fy_close(&a->fd);
        ferry__response__init(&a->resp);
        a->fd = -1;
        error.code = (uint32_t)(e->code ? e->code : FY_EFAIL);
        error.text = e->text;
        a->resp.error = &error;
    }
    a->resp.id = id;
    out.kind_case = FERRY__CONTROL_OUT__KIND_RESPONSE;
    out.response = &a->resp;
    int r = send_out(c, &out, a->fd);
    if (a->close_fd)
        fy_close(&a->fd);
    return r;
}

static void answer(struct fy_conn *c, const Ferry__Request *req, const int *fds, int nfds)
{
    struct fy_answer a;
    struct fy_err e = {.code = 0};
    answer_init(&a);
    bool failed = fy_op(c, req, fds, nfds, &a, &e) < 0;
    if (!failed && a.later)
        return;
    if (answer_send(c, req->id, &a, failed, &e) < 0)
        c->dead = true;
}

static void on_readable(int sock, unsigned ready, void *arg)
{
    (void)ready;
    struct fy_conn *c = arg;
    struct fy_server *s = c->s;
    int fds[FY_MSG_FDS], nfds = FY_MSG_FDS;
    struct fy_err e;
    long n = fy_msg_recv(sock, s->in, fds, &nfds, &e);
    if (n == -2)
        return;
    if (n <= 0) {
        conn_close(c);
        return;
    }
    Ferry__Request *req = ferry__request__unpack(NULL, (size_t)n, s->in);
    if (!req) {
        fy_info("a control message does not parse; its connection is closed");
        c->dead = true;
    } else {
        answer(c, req, fds, nfds);
        ferry__request__free_unpacked(req, NULL);
    }
    for (int i = 0; i < nfds; i++)
        fy_close(&fds[i]);
    if (c->dead)
        conn_close(c);
    if (s->life->finish)
        fy_loop_stop(s->loop);
}

static void on_connect(int listen_fd, unsigned ready, void *arg)
{
    (void)ready;
    struct fy_server *s = arg;
    struct fy_err e;
    int sock = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (sock < 0)
        return;
    struct fy_conn *c = s->conn_count < FY_CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        fy_warn("too many control connections");
        fy_close(&sock);
        return;
    }
    int size = SEND_BUFFER;
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    c->s = s;
    c->sock = sock;
    c->watch = fy_watch_fd(s->loop, sock, FY_READ, on_readable, c, &e);
    if (!c->watch) {
        fy_warn("control connection: %s", e.text);
        fy_close(&sock);
        free(c);
        return;
    }
    c->next = s->conns;
    s->conns = c;
    s->conn_count++;
}

struct fy_server *fy_server_new(struct fy_loop *loop, int listen_fd, struct fy_life *life,
                                const uint8_t run_id[16], struct fy_err *e)
{
    struct fy_server *s = calloc(1, sizeof *s);
    if (!s) {
        fy_close(&listen_fd);
        fy_fail(e, FY_ERESOURCE, "no memory for the control socket");
        return NULL;
    }
    s->loop = loop;
    s->life = life;
    s->m = life->m;
    s->listen_fd = listen_fd;
    s->next_tracker = 1;
    memcpy(s->run_id, run_id, sizeof s->run_id);
    fcntl(listen_fd, F_SETFL, fcntl(listen_fd, F_GETFL) | O_NONBLOCK);
    s->listen_watch = fy_watch_fd(loop, listen_fd, FY_READ, on_connect, s, e);
    if (!s->listen_watch) {
        fy_server_free(s);
        return NULL;
    }
    return s;
}

void fy_server_set_isolation(struct fy_server *s, const char *layers)
{
    snprintf(s->isolation, sizeof s->isolation, "%s", layers);
}

void fy_server_free(struct fy_server *s)
{
    if (!s)
        return;
    /* Each takes itself off the list, which clang-tidy loses sight of. */
    while (s->conns)
        conn_close(s->conns); // NOLINT(clang-analyzer-unix.Malloc)
    fy_console_close_all(s);
    fy_watch_free(s->listen_watch);
    fy_close(&s->listen_fd);
    free(s);
}

void fy_server_reached(struct fy_server *s)
{
    for (struct fy_conn *c = s->conns; c; c = c->next) {
        struct fy_answer a;
        struct fy_err e = {.code = 0};
        if (!c->waits)
            continue;
        answer_init(&a);
        int r = fy_op_reached(c, &a, &e);
        /* As below: the loop's next look closes it. */
        if (r && answer_send(c, c->wait_id, &a, r < 0, &e) < 0)
            shutdown(c->sock, SHUT_RDWR);
    }
}

/* To every subscriber; how many got it. */
static unsigned publish(struct fy_server *s, const Ferry__Event *event)
{
    unsigned told = 0;
    Ferry__ControlOut out = FERRY__CONTROL_OUT__INIT;
    out.kind_case = FERRY__CONTROL_OUT__KIND_EVENT;
    out.event = (Ferry__Event *)(uintptr_t)event;
    /* A connection that is cut off here is closed by the loop's next look at it. */
    for (struct fy_conn *c = s->conns; c; c = c->next) {
        if (!c->subscribed)
            continue;
        if (send_out(c, &out, -1) == 0) {
            told++;
            continue;
        }
        c->subscribed = false;
        shutdown(c->sock, SHUT_RDWR);
    }
    return told;
}

void fy_server_changed(void *server)
{
    struct fy_server *s = server;
    Ferry__Event event = FERRY__EVENT__INIT;
    event.state = fy_life_state(s->life);
    event.report = (char *)(uintptr_t)fy_life_report(s->life);
    event.exit_status = fy_machine_exit_status(s->m);
    publish(s, &event);
    fy_server_reached(s);
}

static void lost(struct fy_server *s, bool nics)
{
    Ferry__Event event = FERRY__EVENT__INIT;
    event.state = fy_life_state(s->life);
    event.report = (char *)(uintptr_t)fy_life_report(s->life);
    event.exit_status = fy_machine_exit_status(s->m);
    event.nics = nics;
    event.disks = !nics;
    publish(s, &event);
}

void fy_server_nics(struct fy_server *s)
{
    lost(s, true);
}

void fy_server_disks(struct fy_server *s)
{
    lost(s, false);
}

struct vsock_question {
    struct fy_server *s;
    struct fy_virtio *vsock;
    uint32_t port;
    uint64_t id;
};

static void ask_vsock(void *arg)
{
    struct vsock_question *q = arg;
    Ferry__Event event = FERRY__EVENT__INIT;
    event.state = fy_life_state(q->s->life);
    event.vsock_port = q->port;
    event.vsock_id = q->id;
    if (!publish(q->s, &event))
        fy_vsock_answer(q->vsock, q->id, -1);
    free(q);
}

void fy_server_vsock(struct fy_server *s, struct fy_virtio *vsock, uint32_t port, uint64_t id)
{
    struct fy_err e;
    struct vsock_question *q = malloc(sizeof *q);
    if (q)
        *q = (struct vsock_question){s, vsock, port, id};
    if (q && fy_loop_post(s->loop, ask_vsock, q, &e) == 0)
        return;
    free(q);
    fy_vsock_answer(vsock, id, -1);
}
