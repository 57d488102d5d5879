// SPDX-License-Identifier: Apache-2.0
#include "hv/host/chan.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/msg.h"

struct out {
    struct out *next;
    size_t len;
    int nfds;
    int fds[FY_MSG_FDS];
    uint8_t buf[];
};

struct fyd_chan {
    struct fy_loop *loop;
    int sock;
    struct fy_watch *read_watch;
    struct fy_watch *write_watch;
    fyd_chan_msg_cb on_msg;
    fyd_chan_closed_cb on_closed;
    void *arg;
    struct out *head;
    struct out **tail;
    size_t queued;
    int busy;    /* depth of callbacks: freeing waits for it */
    bool dead;   /* freed by its owner, or closed_told */
    bool told;   /* on_closed was called */
    bool linger; /* close when the queue is empty */
};

/* One loop a process, and a handler is done with the bytes when it returns. */
static uint8_t receive_buffer[FY_MSG_MAX];

static void drop_out(struct out *o)
{
    for (int i = 0; i < o->nfds; i++)
        fy_close(&o->fds[i]);
    free(o);
}

static void release(struct fyd_chan *c)
{
    if (c->busy)
        return;
    fy_watch_free(c->read_watch);
    fy_watch_free(c->write_watch);
    while (c->head) {
        struct out *o = c->head;
        c->head = o->next;
        drop_out(o);
    }
    fy_close(&c->sock);
    free(c);
}

void fyd_chan_free(struct fyd_chan *c)
{
    if (!c || c->dead)
        return;
    c->dead = true;
    release(c);
}

static void tell_closed(struct fyd_chan *c, const struct fy_err *why)
{
    if (c->dead || c->told)
        return;
    c->told = true;
    fy_watch_free(c->read_watch);
    c->read_watch = NULL;
    fy_watch_free(c->write_watch);
    c->write_watch = NULL;
    c->busy++;
    if (c->linger)
        c->dead = true;
    else
        c->on_closed(c->arg, why);
    c->busy--;
}

/* True while another message may wait. */
static bool receive_one(struct fyd_chan *c)
{
    int fds[FY_MSG_FDS];
    int nfds = FY_MSG_FDS;
    struct fy_err e;
    long n = fy_msg_recv(c->sock, receive_buffer, fds, &nfds, &e);
    if (n == -2)
        return false;
    if (n <= 0) {
        struct fy_err why = {.code = FY_EUNREACHABLE, .text = "the other process has closed the connection"};
        if (n < 0)
            why = e;
        tell_closed(c, &why);
        return false;
    }
    if (!c->linger) {
        c->busy++;
        c->on_msg(c->arg, receive_buffer, (size_t)n, fds, nfds);
        c->busy--;
    }
    for (int i = 0; i < nfds; i++)
        fy_close(&fds[i]);
    return !c->dead && !c->told;
}

static void on_readable(int fd, unsigned ready, void *arg)
{
    (void)fd;
    (void)ready;
    struct fyd_chan *c = arg;
    c->busy++;
    for (int i = 0; i < 16 && receive_one(c); i++)
        continue;
    c->busy--;
    if (c->dead)
        release(c);
}

void fyd_chan_drain(struct fyd_chan *c)
{
    if (!c || c->dead || c->told)
        return;
    c->busy++;
    while (receive_one(c))
        continue;
    c->busy--;
    if (c->dead)
        release(c);
}

/* 0 when the queue is empty, 1 when it is not, -1 when the other end is gone. */
static int flush(struct fyd_chan *c)
{
    while (c->head) {
        struct out *o = c->head;
        int rc = fy_msg_send(c->sock, o->buf, o->len, o->fds, o->nfds, NULL);
        if (rc == -2)
            return 1;
        if (rc < 0)
            return -1;
        c->head = o->next;
        if (!c->head)
            c->tail = &c->head;
        c->queued -= o->len;
        drop_out(o);
    }
    return 0;
}

static void on_writable(int fd, unsigned ready, void *arg)
{
    (void)fd;
    (void)ready;
    struct fyd_chan *c = arg;
    int rc = flush(c);
    if (rc == 1)
        return;
    fy_watch_free(c->write_watch);
    c->write_watch = NULL;
    if (c->linger) {
        c->dead = true;
        release(c);
    }
    /* A broken pipe is told by the read side, after what the other end had still sent. */
}

struct fyd_chan *fyd_chan_new(struct fy_loop *loop, int sock, fyd_chan_msg_cb on_msg,
                              fyd_chan_closed_cb on_closed, void *arg, struct fy_err *e)
{
    struct fyd_chan *c = calloc(1, sizeof *c);
    if (!c) {
        close(sock);
        fy_fail(e, FY_ERESOURCE, "no memory for a connection");
        return NULL;
    }
    *c = (struct fyd_chan){.loop = loop, .sock = sock, .on_msg = on_msg, .on_closed = on_closed, .arg = arg};
    c->tail = &c->head;
    int flags = fcntl(sock, F_GETFL);
    if (flags < 0 || fcntl(sock, F_SETFL, flags | O_NONBLOCK) < 0) {
        fy_fail(e, FY_EFAIL, "cannot make a socket non-blocking");
        release(c);
        return NULL;
    }
    c->read_watch = fy_watch_fd(loop, sock, FY_READ, on_readable, c, e);
    if (!c->read_watch) {
        release(c);
        return NULL;
    }
    return c;
}

static int enqueue(struct fyd_chan *c, struct out *o, const int *fds, int nfds, struct fy_err *e)
{
    for (int i = 0; i < nfds; i++) {
        o->fds[i] = fy_dup(fds[i]);
        if (o->fds[i] < 0) {
            drop_out(o);
            return fy_fail(e, FY_ERESOURCE, "no descriptor left for a message");
        }
        o->nfds++;
    }
    if (!c->write_watch) {
        c->write_watch = fy_watch_fd(c->loop, c->sock, FY_WRITE, on_writable, c, e);
        if (!c->write_watch) {
            drop_out(o);
            return -1;
        }
    }
    *c->tail = o;
    c->tail = &o->next;
    c->queued += o->len;
    return 0;
}

int fyd_chan_send(struct fyd_chan *c, const ProtobufCMessage *msg, const int *fds, int nfds, struct fy_err *e)
{
    if (!c || c->dead || c->told)
        return fy_fail(e, FY_EUNREACHABLE, "the connection is closed");
    size_t len = protobuf_c_message_get_packed_size(msg);
    if (len > FY_MSG_MAX || nfds > FY_MSG_FDS)
        return fy_fail(e, FY_EFAIL, "a message of %zu bytes is over the limit of %d", len, FY_MSG_MAX);
    if (c->queued + len > FYD_CHAN_QUEUE)
        return fy_fail(e, FY_EUNREACHABLE, "the other process does not read its messages");
    struct out *o = calloc(1, sizeof *o + len);
    if (!o)
        return fy_fail(e, FY_ERESOURCE, "no memory for a message");
    o->len = protobuf_c_message_pack(msg, o->buf);
    if (!c->head) {
        int rc = fy_msg_send(c->sock, o->buf, o->len, fds, nfds, e);
        if (rc != -2) {
            drop_out(o);
            return rc;
        }
    }
    return enqueue(c, o, fds, nfds, e);
}

void fyd_chan_close_when_sent(struct fyd_chan *c)
{
    if (!c || c->dead)
        return;
    if (!c->head || c->told) {
        fyd_chan_free(c);
        return;
    }
    c->linger = true;
}
