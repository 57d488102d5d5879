// SPDX-License-Identifier: Apache-2.0
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/dev/vsock_internal.h"

struct conn *conn_new(struct vsock *s, int fd)
{
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        struct conn *c = &s->conns[i];
        if (c->state != CONN_FREE)
            continue;
        uint8_t *out = malloc(BUFFER_BYTES);
        if (!out)
            return NULL;
        *c = (struct conn){.s = s, .state = CONN_GREETING, .id = ++s->next_id, .fd = fd, .out = out};
        return c;
    }
    return NULL;
}

void conn_close(struct conn *c)
{
    if (c->state == CONN_FREE || c->state == CONN_DEAD)
        return;
    if (c->fd >= 0)
        shutdown(c->fd, SHUT_RDWR);
    c->state = CONN_DEAD;
    c->pending = 0;
}

void conn_reap(struct vsock *s)
{
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        struct conn *c = &s->conns[i];
        if (c->state != CONN_DEAD)
            continue;
        fy_watch_free(c->readable);
        fy_watch_free(c->writable);
        fy_close(&c->fd);
        free(c->out);
        *c = (struct conn){.fd = -1};
    }
}

uint32_t conn_credit(const struct conn *c)
{
    uint32_t in_flight = c->sent - c->peer_fwd;
    return in_flight > c->peer_alloc ? 0 : c->peer_alloc - in_flight;
}

static void told_host(struct conn *c, uint32_t n)
{
    c->fwd += n;
    /* When half of it is free again, or all that there was has gone. */
    if (c->fwd - c->fwd_told >= BUFFER_BYTES / 2 || c->fwd == c->received)
        c->pending |= 1u << OP_CREDIT_UPDATE;
}

/* What waits goes to the host's socket, as far as it takes it. false: the host has gone. */
static bool flush(struct conn *c)
{
    while (c->out_len > c->held) {
        uint32_t n = FY_MIN(c->out_len - c->held, BUFFER_BYTES - c->out_at);
        ssize_t sent = send(c->fd, c->out + c->out_at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        c->out_at = (c->out_at + (uint32_t)sent) % BUFFER_BYTES;
        c->out_len -= (uint32_t)sent;
        told_host(c, (uint32_t)sent);
    }
    if (c->guest_ended && !c->out_len)
        shutdown(c->fd, SHUT_WR);
    return true;
}

/* Bytes that wait for their epoch. */
struct kept {
    struct fy_gate_item item;
    struct vsock *s;
    uint64_t id;
    uint32_t len;
};

static void let_go(void *arg)
{
    struct kept *k = arg;
    struct vsock *s = k->s;
    bool works = fy_virtio_enter(s->v);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        struct conn *c = &s->conns[i];
        if (c->id == k->id && c->state == CONN_OPEN)
            c->held -= FY_MIN(c->held, k->len);
    }
    if (works)
        vsock_settle(s);
    fy_virtio_leave(s->v);
    free(k);
}

static void pass_kept(struct fy_gate_item *item)
{
    struct kept *k = (struct kept *)(void *)item; /* its first member */
    struct fy_err e;
    if (fy_loop_post(fy_iothread_loop(k->s->config.io), let_go, k, &e) < 0)
        free(k); /* the connection's bytes stay held: it stalls, nothing gets out early */
}

static void drop_kept(struct fy_gate_item *item)
{
    free(item);
}

/* Keep the last `len` bytes back if the gate is held. false: no memory to do so. */
static bool through_gate(struct conn *c, uint32_t len)
{
    struct fy_gate *gate = c->s->config.gate;
    if (!fy_gate_holding(gate) && !c->held)
        return true;
    struct kept *k = malloc(sizeof *k);
    if (!k)
        return false;
    *k = (struct kept){.item = {.pass = pass_kept, .drop = drop_kept}, .s = c->s, .id = c->id, .len = len};
    c->held += len;
    if (fy_gate_pass(gate, &k->item)) {
        c->held -= len;
        free(k);
    }
    return true;
}

bool conn_take(struct conn *c, const struct fy_vq_chain *chain, uint64_t at, uint32_t len)
{
    if (len > BUFFER_BYTES - c->out_len)
        return false;
    uint32_t all = len;
    c->received += len;
    while (len) {
        uint32_t end = (c->out_at + c->out_len) % BUFFER_BYTES;
        uint32_t n = FY_MIN(len, BUFFER_BYTES - end);
        if (fy_vq_fetch(chain, at, c->out + end, n) != n)
            return false;
        c->out_len += n;
        at += n;
        len -= n;
    }
    return through_gate(c, all);
}

static int parse_greeting(const char *line, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    char *end;
    if (strncmp(line, word, sizeof word - 1) != 0 || !isdigit((unsigned char)line[sizeof word - 1]))
        return -1;
    errno = 0;
    unsigned long long n = strtoull(line + sizeof word - 1, &end, 10);
    if (*end || errno || n > UINT32_MAX)
        return -1;
    *port = (uint32_t)n;
    return 0;
}

/* "CONNECT PORT\n", a byte at a time: what comes behind it is the guest's. */
static void read_greeting(struct conn *c)
{
    char byte;
    while (c->state == CONN_GREETING && recv(c->fd, &byte, 1, MSG_DONTWAIT) == 1) {
        if (byte != '\n') {
            c->greeting[c->greeted++] = byte;
            if (c->greeted == GREETING_MAX - 1)
                conn_close(c);
            continue;
        }
        c->greeting[c->greeted] = 0;
        if (parse_greeting(c->greeting, &c->guest_port) < 0) {
            conn_close(c);
            return;
        }
        c->host_port = c->s->next_port++;
        if (c->s->next_port < FIRST_PORT)
            c->s->next_port = FIRST_PORT;
        c->state = CONN_ASKED;
        c->pending |= 1u << OP_REQUEST;
    }
}

/* While the machine is paused: its resume looks at every connection again. */
static void stop_watching(struct conn *c)
{
    fy_watch_free(c->readable);
    fy_watch_free(c->writable);
    c->readable = c->writable = NULL;
}

static void on_readable(int fd, unsigned ready, void *arg)
{
    struct conn *c = arg;
    struct vsock *s = c->s;
    char byte;
    (void)ready;
    if (fy_virtio_enter(s->v)) {
        ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            c->ended = true;
        if (c->state == CONN_GREETING && n > 0)
            read_greeting(c);
        else if (c->state == CONN_GREETING && c->ended)
            conn_close(c);
        else if (c->state == CONN_OPEN)
            c->readable_now = true;
        vsock_settle(s);
    } else {
        stop_watching(c);
        conn_reap(s);
    }
    fy_virtio_leave(s->v);
}

static void on_writable(int fd, unsigned ready, void *arg)
{
    struct conn *c = arg;
    struct vsock *s = c->s;
    (void)fd;
    (void)ready;
    if (fy_virtio_enter(s->v)) {
        vsock_settle(s);
    } else {
        stop_watching(c);
        conn_reap(s);
    }
    fy_virtio_leave(s->v);
}

static void want(struct fy_watch **w, bool wanted, struct conn *c, unsigned what, fy_fd_cb cb)
{
    struct fy_err e;
    if (wanted && !*w) {
        *w = fy_watch_fd(fy_iothread_loop(c->s->config.io), c->fd, what, cb, c, &e);
        if (!*w)
            conn_close(c);
    } else if (!wanted && *w) {
        fy_watch_free(*w);
        *w = NULL;
    }
}

void conn_flush(struct conn *c)
{
    if (c->state != CONN_OPEN || c->fd < 0 || c->out_len == c->held || flush(c))
        return;
    c->pending = 1u << OP_RST;
    c->ended = true;
}

void conn_watch(struct conn *c)
{
    bool open = c->state == CONN_OPEN;
    bool reads = c->fd >= 0 && !c->ended && !c->readable_now &&
                 (c->state == CONN_GREETING || (open && conn_credit(c) > 0));
    want(&c->readable, reads, c, FY_READ, on_readable);
    want(&c->writable, open && c->out_len > c->held && !c->ended, c, FY_WRITE, on_writable);
}
