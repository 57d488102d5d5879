// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/virtio_vsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/dev/state.h"
#include "hv/dev/vsock_internal.h"
#include "proto/wire.h"

#define CLASS_VSOCK 0x078000u
#define CONFIG_BYTES 8
#define PACKETS_A_TURN 128u
#define DATA_MAX 16384u /* of one packet */

enum { Q_RX, Q_TX, Q_EVENT, QUEUES };

static void fill_header(const struct vsock *s, struct vsock_header *h, const struct conn *c, uint16_t op)
{
    *h = (struct vsock_header){.src_cid = HOST_CID,
                               .dst_cid = s->config.cid,
                               .src_port = c ? c->host_port : 0,
                               .dst_port = c ? c->guest_port : 0,
                               .type = TYPE_STREAM,
                               .op = op,
                               .buf_alloc = BUFFER_BYTES,
                               .fwd_cnt = c ? c->fwd : 0};
}

/* A packet without data. false: the guest has no buffer, or one that is too small. */
static bool send_header(struct vsock *s, struct fy_vq *q, const struct vsock_header *h)
{
    struct fy_vq_chain c;
    if (fy_vq_pop(q, &c) != FY_VQ_GOT)
        return false;
    bool fits = fy_vq_store(&c, 0, h, sizeof *h) == sizeof *h;
    fy_vq_put(q, &c, fits ? sizeof *h : 0);
    if (!fits)
        fy_virtio_break(s->v, "gives receive buffers smaller than a packet's header");
    return fits;
}

/* Bytes of the host's, as many as credit and the guest's buffer take. false: no buffer. */
static bool send_data(struct vsock *s, struct fy_vq *q, struct conn *c)
{
    struct fy_vq_chain chain;
    uint8_t data[DATA_MAX];
    if (fy_vq_pop(q, &chain) != FY_VQ_GOT)
        return false;
    uint64_t room =
        chain.in_bytes > sizeof(struct vsock_header) ? chain.in_bytes - sizeof(struct vsock_header) : 0;
    size_t most = FY_MIN(FY_MIN(room, (uint64_t)conn_credit(c)), sizeof data);
    ssize_t n = most ? recv(c->fd, data, most, MSG_DONTWAIT) : -1;
    if (n <= 0) {
        if (n == 0 || (most && errno != EAGAIN && errno != EINTR))
            c->ended = true;
        c->readable_now = false;
        fy_vq_unpop(q, &chain);
        if (c->ended) {
            c->shutdown_flags = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
            c->pending |= 1u << OP_SHUTDOWN;
        }
        return true;
    }
    struct vsock_header h;
    fill_header(s, &h, c, OP_RW);
    h.len = (uint32_t)n;
    fy_vq_store(&chain, 0, &h, sizeof h);
    fy_vq_store(&chain, sizeof h, data, (uint64_t)n);
    fy_vq_put(q, &chain, (uint32_t)(sizeof h + (size_t)n));
    c->sent += (uint32_t)n;
    c->fwd_told = c->fwd;
    if ((size_t)n < most)
        c->readable_now = false;
    return true;
}

/* One packet of this connection. false: nothing to send, or no buffer. */
static bool send_one(struct vsock *s, struct fy_vq *q, struct conn *c)
{
    static const uint16_t order[] = {OP_REQUEST, OP_RESPONSE, OP_CREDIT_UPDATE, OP_SHUTDOWN, OP_RST};
    if (c->state == CONN_OPEN && c->ended && !c->readable_now && !(c->pending & 1u << OP_RST) &&
        !c->shutdown_flags) {
        c->shutdown_flags = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
        c->pending |= 1u << OP_SHUTDOWN;
    }
    for (size_t i = 0; i < FY_ARRAY_LEN(order); i++) {
        struct vsock_header h;
        if (!(c->pending >> order[i] & 1))
            continue;
        fill_header(s, &h, c, order[i]);
        h.flags = order[i] == OP_SHUTDOWN ? c->shutdown_flags : 0;
        if (!send_header(s, q, &h))
            return false;
        c->pending &= ~(1u << order[i]);
        c->fwd_told = c->fwd;
        if (order[i] == OP_RST)
            conn_close(c);
        return true;
    }
    if (c->state != CONN_OPEN || !c->readable_now || !conn_credit(c))
        return false;
    return send_data(s, q, c);
}

static void send_strays(struct vsock *s, struct fy_vq *q)
{
    while (s->stray_count) {
        struct vsock_header h;
        fill_header(s, &h, NULL, OP_RST);
        h.src_port = s->strays[s->stray_count - 1].host_port;
        h.dst_port = s->strays[s->stray_count - 1].guest_port;
        if (!send_header(s, q, &h))
            return;
        s->stray_count--;
    }
}

static void send_event(struct vsock *s)
{
    struct fy_vq *q = fy_virtio_queue(s->v, Q_EVENT);
    struct fy_vq_chain c;
    const uint32_t reset = 0;
    if (!s->reset_event || fy_vq_pop(q, &c) != FY_VQ_GOT)
        return;
    fy_vq_store(&c, 0, &reset, sizeof reset);
    fy_vq_put(q, &c, sizeof reset);
    fy_virtio_notify(s->v, Q_EVENT);
    s->reset_event = false;
}

/* What waits goes into the guest's receive queue. */
static void pump(struct vsock *s)
{
    struct fy_vq *q = fy_virtio_queue(s->v, Q_RX);
    unsigned left = PACKETS_A_TURN;
    bool more = true;
    send_event(s);
    send_strays(s, q);
    while (more && left) {
        more = false;
        for (unsigned i = 0; i < CONNECTIONS_MAX && left; i++) {
            struct conn *c = &s->conns[(s->turn + i) % CONNECTIONS_MAX];
            if (c->state != CONN_FREE && c->state != CONN_DEAD && send_one(s, q, c)) {
                more = true;
                left--;
            }
        }
        s->turn = (s->turn + 1) % CONNECTIONS_MAX;
    }
    fy_vq_enable_kicks(q);
    fy_virtio_notify(s->v, Q_RX);
    if (!left)
        fy_virtio_again(s->v, Q_RX);
}

void vsock_settle(struct vsock *s)
{
    /* First what frees the guest's credit, so that the pump tells of it; watches by what is left then. */
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        conn_flush(&s->conns[i]);
    pump(s);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (s->conns[i].state == CONN_GREETING || s->conns[i].state == CONN_OPEN)
            conn_watch(&s->conns[i]);
    conn_reap(s);
}

static struct conn *find(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        struct conn *c = &s->conns[i];
        if (c->state >= CONN_ASKED && c->state != CONN_DEAD && c->guest_port == guest_port &&
            c->host_port == host_port)
            return c;
    }
    return NULL;
}

static void stray(struct vsock *s, const struct vsock_header *h)
{
    if (h->op == OP_RST || s->stray_count == CONNECTIONS_MAX)
        return;
    s->strays[s->stray_count].guest_port = h->src_port;
    s->strays[s->stray_count++].host_port = h->dst_port;
}

static void from_guest(struct vsock *s, const struct vsock_header *h)
{
    struct conn *c = s->config.connect ? conn_new(s, -1) : NULL;
    if (!c) {
        stray(s, h);
        return;
    }
    c->state = CONN_WAITING;
    c->guest_port = h->src_port;
    c->host_port = h->dst_port;
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    s->config.connect(s->config.arg, h->dst_port, c->id);
}

static void accepted(struct conn *c)
{
    char text[GREETING_MAX];
    int n = snprintf(text, sizeof text, "OK %u\n", c->host_port);
    if (c->state != CONN_ASKED)
        return;
    c->state = CONN_OPEN;
    if (send(c->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
        c->pending |= 1u << OP_RST;
}

static void shut_down(struct conn *c, uint32_t flags)
{
    if (flags & SHUTDOWN_SEND)
        c->guest_ended = true;
    if (c->guest_ended && !c->out_len && c->fd >= 0)
        shutdown(c->fd, SHUT_WR);
    /* Neither way any more: it is over, as the driver expects to hear. */
    if ((flags & SHUTDOWN_SEND) && (flags & SHUTDOWN_RECEIVE))
        c->pending |= 1u << OP_RST;
}

static void packet(struct vsock *s, const struct vsock_header *h, const struct fy_vq_chain *chain)
{
    struct conn *c = find(s, h->src_port, h->dst_port);
    if (h->src_cid != s->config.cid || h->dst_cid != HOST_CID || h->type != TYPE_STREAM ||
        (!c && h->op != OP_REQUEST)) {
        stray(s, h);
        return;
    }
    if (!c) {
        from_guest(s, h);
        return;
    }
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    switch (h->op) {
    case OP_RESPONSE:
        accepted(c);
        break;
    case OP_RST:
        conn_close(c);
        break;
    case OP_SHUTDOWN:
        shut_down(c, h->flags);
        break;
    case OP_RW:
        if (c->state != CONN_OPEN || c->guest_ended || !conn_take(c, chain, sizeof *h, h->len))
            c->pending |= 1u << OP_RST;
        break;
    case OP_CREDIT_REQUEST:
        c->pending |= 1u << OP_CREDIT_UPDATE;
        break;
    case OP_CREDIT_UPDATE:
        break;
    default: /* REQUEST again, or what there is not */
        c->pending |= 1u << OP_RST;
    }
}

static void take_packets(struct vsock *s)
{
    struct fy_vq *q = fy_virtio_queue(s->v, Q_TX);
    struct fy_vq_chain c;
    unsigned left = PACKETS_A_TURN;
    while (left) {
        int got = fy_vq_pop(q, &c);
        if (got == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
            continue;
        if (got != FY_VQ_GOT)
            break;
        struct vsock_header h;
        if (fy_vq_fetch(&c, 0, &h, sizeof h) == sizeof h)
            packet(s, &h, &c);
        fy_vq_put(q, &c, 0);
        left--;
    }
    fy_virtio_notify(s->v, Q_TX);
    if (!left)
        fy_virtio_again(s->v, Q_TX);
}

static void vsock_kick(void *dev, unsigned n)
{
    struct vsock *s = dev;
    if (n == Q_TX)
        take_packets(s);
    vsock_settle(s);
}

static void on_listening(int fd, unsigned ready, void *arg)
{
    struct vsock *s = arg;
    (void)ready;
    int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    bool works = fy_virtio_enter(s->v);
    struct conn *c = sock >= 0 && works ? conn_new(s, sock) : NULL;
    if (c)
        conn_watch(c);
    else
        fy_close(&sock);
    conn_reap(s);
    fy_virtio_leave(s->v);
}

static void reap(void *arg)
{
    struct vsock *s = arg;
    fy_virtio_enter(s->v);
    conn_reap(s);
    fy_virtio_leave(s->v);
}

static void close_all(struct vsock *s)
{
    struct fy_err e;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        conn_close(&s->conns[i]);
    s->stray_count = 0;
    if (s->v) /* not while it is being made */
        fy_loop_post(fy_iothread_loop(s->config.io), reap, s, &e);
}

static void vsock_reset(void *dev)
{
    struct vsock *s = dev;
    close_all(s);
    s->reset_event = false;
}

static void vsock_activate(void *dev, uint64_t features)
{
    (void)dev;
    (void)features;
}

static void vsock_config_read(void *dev, uint32_t offset, uint8_t *buf, uint32_t len)
{
    const struct vsock *s = dev;
    uint8_t c[CONFIG_BYTES];
    fy_put64(c, s->config.cid);
    memcpy(buf, c + offset, len);
}

static int vsock_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    const struct vsock *s = dev;
    Ferry__VirtioVsock m = FERRY__VIRTIO_VSOCK__INIT;
    m.cid = s->config.cid;
    return fy_state_pack(&m.base, buf, len, e);
}

static int vsock_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct vsock *s = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__virtio_vsock__descriptor, "vsock", buf, len, e);
    if (!msg)
        return -1;
    uint32_t cid = ((const Ferry__VirtioVsock *)msg)->cid;
    protobuf_c_message_free_unpacked(msg, NULL);
    if (cid != s->config.cid)
        return fy_fail(e, FY_ECORRUPT, "vsock: the state is of CID %u, the device has %u", cid,
                       s->config.cid);
    close_all(s);
    s->reset_event = true;
    return 0;
}

static void stop(void *arg)
{
    struct vsock *s = arg;
    fy_watch_free(s->listening);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        conn_close(&s->conns[i]);
    conn_reap(s);
}

static void vsock_free(void *dev)
{
    struct vsock *s = dev;
    fy_iothread_run(s->config.io, stop, s);
    fy_close(&s->listen_fd);
    free(s);
}

static const struct fy_virtio_type vsock_type = {
    .type = "virtio-vsock",
    .version = 1,
    .device_id = FY_VIRTIO_VSOCK,
    .pci_class = CLASS_VSOCK,
    .config_read = vsock_config_read,
    .activate = vsock_activate,
    .kick = vsock_kick,
    .reset = vsock_reset,
    .save = vsock_save,
    .load = vsock_load,
    .free = vsock_free,
};

int fy_virtio_vsock_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_vsock_config *config,
                        struct fy_virtio **v, struct fy_device *out, struct fy_err *e)
{
    struct vsock *s = calloc(1, sizeof *s);
    if (!s)
        return fy_fail(e, FY_ERESOURCE, "no memory for the socket device");
    s->config = *config;
    s->listen_fd = -1;
    s->next_port = FIRST_PORT;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        s->conns[i].fd = -1;
    struct fy_virtio_config c = {.id = "vsock",
                                 .slot = config->slot,
                                 .queues = QUEUES,
                                 .queue_size = 128,
                                 .config_bytes = CONFIG_BYTES,
                                 .io = config->io};
    int r = fy_virtio_new(pci, gmem, &vsock_type, &c, s, v, out, e);
    if (r == 0)
        s->v = *v;
    return r;
}

struct listen_call {
    struct vsock *s;
    struct fy_err *e;
};

static void start_listening(void *arg)
{
    struct listen_call *l = arg;
    l->s->listening =
        fy_watch_fd(fy_iothread_loop(l->s->config.io), l->s->listen_fd, FY_READ, on_listening, l->s, l->e);
}

int fy_vsock_listen(struct fy_virtio *v, int fd, struct fy_err *e)
{
    struct vsock *s = fy_virtio_dev(v);
    struct listen_call l = {s, e};
    s->listen_fd = fd;
    fy_iothread_run(s->config.io, start_listening, &l);
    return s->listening ? 0 : -1;
}

struct answer {
    struct vsock *s;
    uint64_t id;
    int fd;
};

static void on_answer(void *arg)
{
    struct answer *a = arg;
    struct vsock *s = a->s;
    struct conn *c = NULL;
    bool works = fy_virtio_enter(s->v);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (s->conns[i].state == CONN_WAITING && s->conns[i].id == a->id)
            c = &s->conns[i];
    if (c && a->fd >= 0) {
        c->fd = a->fd;
        c->state = CONN_OPEN;
        c->pending |= 1u << OP_RESPONSE;
    } else {
        fy_close(&a->fd);
        if (c)
            c->pending |= 1u << OP_RST;
    }
    if (works)
        vsock_settle(s);
    fy_virtio_leave(s->v);
    free(a);
}

void fy_vsock_answer(struct fy_virtio *v, uint64_t id, int fd)
{
    struct vsock *s = fy_virtio_dev(v);
    struct answer *a = malloc(sizeof *a);
    struct fy_err e;
    if (a)
        *a = (struct answer){s, id, fd};
    if (!a || fy_loop_post(fy_iothread_loop(s->config.io), on_answer, a, &e) < 0) {
        fy_warn("vsock: no memory to join a connection");
        fy_close(&fd);
        free(a);
    }
}
