// SPDX-License-Identifier: Apache-2.0
/* Network card: its life, its configuration, its thread. */
#include "hv/dev/virtio_net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/dev/virtio_internal.h"
#include "hv/dev/virtio_net_internal.h"
#include "proto/wire.h"

#define CLASS_ETHERNET 0x020000u
#define QUEUE_SIZE 256u
#define CONFIG_BYTES 20u
#define SPEED_MBIT 10000u
#define DUPLEX_FULL 1u
#define LINK_UP 1u
#define LINK_ANNOUNCE 2u
#define ANNOUNCES 5u /* after a move, at growing distances: switches learn from the first that they see */
#define ANNOUNCE_MS 50u
#define STALE_MAX 4096u /* frames; a tap keeps a thousand or so */

/* virtio 1.2, 5.1.4 */
static void net_config_read(void *dev, uint32_t offset, uint8_t *buf, uint32_t len)
{
    const struct net *n = dev;
    uint8_t c[CONFIG_BYTES] = {0};
    memcpy(c, n->d.mac, 6);
    fy_put16(c + 6, (uint16_t)((n->link ? LINK_UP : 0) | (n->d.announce ? LINK_ANNOUNCE : 0)));
    fy_put16(c + 8, (uint16_t)n->config.pairs);
    fy_put16(c + 10, n->config.mtu);
    fy_put32(c + 12, SPEED_MBIT);
    c[16] = DUPLEX_FULL;
    memcpy(buf, c + offset, len);
}

void net_configure(struct net *n)
{
    if (n->b->ops->configure)
        n->b->ops->configure(n->b, n->d.offloads, n->d.pairs);
}

static void net_activate(void *dev, uint64_t features)
{
    struct net *n = dev;
    n->features = features;
    /* From a load's hand while the machine is paused, else from the driver's. */
    if (!n->v->paused) {
        n->d.offloads = features & F_GUEST_OFFLOADS;
        n->stale = true;
    } else {
        n->d.offloads &= features;
    }
    net_configure(n);
    net_again(n);
}

static void net_kick(void *dev, unsigned q)
{
    struct net *n = dev;
    if (q == net_ctrl_queue(n)) {
        if (n->features & F_CTRL_VQ)
            net_ctrl(n, q);
    } else if (q & 1 && q < 2 * n->config.pairs) {
        net_tx(n, q / 2);
    } else if (q < 2 * n->d.pairs) {
        net_rx(n, q / 2);
    }
}

static void net_resume(void *dev)
{
    struct net *n = dev;
    if (n->loaded) {
        n->loaded = false;
        n->announces = n->b->ops->announce ? ANNOUNCES : 0;
        if (n->features & F_GUEST_ANNOUNCE && n->features & F_CTRL_VQ) {
            n->d.announce = true;
            fy_virtio_config_changed(n->v);
        }
    }
    net_again(n);
}

static void net_reset(void *dev)
{
    struct net *n = dev;
    net_driver_reset(n);
    net_late_clear(n);
    n->features = 0;
    n->loaded = false;
    n->announces = 0;
    for (unsigned i = 0; i < n->config.pairs; i++) {
        n->pair[i].at = n->pair[i].count = 0;
        n->pair[i].starved = n->pair[i].full = false;
    }
    net_configure(n);
}

static void on_readable(int fd, unsigned ready, void *arg)
{
    struct net_pair *p = arg;
    struct net *n = p->n;
    (void)fd;
    (void)ready;
    if (fy_virtio_enter(n->v) && p->index < n->d.pairs && fy_virtio_queue(n->v, 2 * p->index)->started) {
        net_rx(n, p->index);
    } else {
        fy_watch_free(p->in);
        p->in = NULL;
    }
    fy_virtio_leave(n->v);
}

static void on_room(int fd, unsigned ready, void *arg)
{
    struct net_pair *p = arg;
    struct net *n = p->n;
    (void)fd;
    (void)ready;
    fy_watch_free(p->out);
    p->out = NULL;
    if (fy_virtio_enter(n->v)) {
        p->full = false;
        net_tx(n, p->index);
    }
    fy_virtio_leave(n->v);
}

static void watch(struct net_pair *p, struct fy_watch **w, bool on, unsigned what, fy_fd_cb cb)
{
    struct fy_err e;
    int fd = on ? p->n->b->ops->fd(p->n->b, p->index) : -1;
    if (fd < 0) {
        fy_watch_free(*w);
        *w = NULL;
    } else if (!*w) {
        *w = fy_watch_fd(fy_iothread_loop(p->n->io), fd, what, cb, p, &e);
        if (!*w)
            fy_error("%s: %s", p->n->id, e.text);
    }
}

static void announce(struct net *n)
{
    net_say_where(n);
    if (--n->announces)
        fy_timer_arm(n->announce_timer, (uint64_t)ANNOUNCE_MS << (ANNOUNCES - n->announces));
}

static void on_announce(void *arg)
{
    struct net *n = arg;
    if (fy_virtio_enter(n->v) && n->link && n->announces)
        announce(n);
    fy_virtio_leave(n->v);
}

static void on_rx_timer(void *arg)
{
    net_again(arg);
}

static void on_tx_timer(void *arg)
{
    struct net *n = arg;
    if (fy_virtio_enter(n->v))
        for (unsigned i = 0; i < n->d.pairs; i++)
            if (fy_virtio_queue(n->v, 2 * i + 1)->started)
                net_tx(n, i);
    fy_virtio_leave(n->v);
}

/* What came before there was a driver is nobody's. */
static void drop_stale(struct net *n)
{
    n->stale = false;
    for (unsigned i = 0; n->link && i < n->d.pairs; i++) {
        struct net_pair *p = &n->pair[i];
        bool gone = false;
        for (unsigned k = 0; k < STALE_MAX / NET_BATCH && !gone; k++)
            if (!n->b->ops->recv(n->b, i, p->frames, NET_BATCH, &gone))
                break;
        p->at = p->count = 0;
        if (gone)
            net_link_lost(n);
    }
}

/* The card's thread: what is to be watched, as things stand. */
static void set_watches(void *arg)
{
    struct net *n = arg;
    bool may = fy_virtio_enter(n->v) && n->link;
    if (may && n->stale)
        drop_stale(n);
    may = may && n->link;
    bool limited = may && fy_tokens_wait(&n->rx_tokens, fy_now_ns());
    for (unsigned i = 0; i < n->config.pairs; i++) {
        struct net_pair *p = &n->pair[i];
        bool used = may && i < n->d.pairs && fy_virtio_queue(n->v, 2 * i)->started;
        watch(p, &p->in, used && !p->starved && !limited, FY_READ, on_readable);
        watch(p, &p->out, may && p->full, FY_WRITE, on_room);
    }
    if (limited)
        fy_timer_arm(n->rx_timer, FY_DIV_UP(fy_tokens_wait(&n->rx_tokens, fy_now_ns()), 1000000) + 1);
    if (may && n->announces == ANNOUNCES)
        announce(n);
    fy_virtio_leave(n->v);
}

void net_again(struct net *n)
{
    struct fy_err e;
    if (fy_loop_post(fy_iothread_loop(n->io), set_watches, n, &e) < 0)
        fy_error("%s: %s", n->id, e.text);
}

void net_link_lost(struct net *n)
{
    if (!n->link)
        return;
    fy_warn("%s: its network has gone", n->id);
    n->link = false;
    for (unsigned i = 0; i < n->config.pairs; i++) {
        struct net_pair *p = &n->pair[i];
        /* Their descriptor is about to go. */
        fy_watch_free(p->in);
        fy_watch_free(p->out);
        p->in = p->out = NULL;
        p->at = p->count = 0;
        p->full = false;
    }
    fy_virtio_config_changed(n->v);
    if (n->config.link_lost)
        n->config.link_lost(n->config.arg);
}

static void free_watches(void *arg)
{
    struct net *n = arg;
    for (unsigned i = 0; i < n->config.pairs; i++) {
        fy_watch_free(n->pair[i].in);
        fy_watch_free(n->pair[i].out);
    }
    fy_watch_free(n->rx_timer);
    fy_watch_free(n->tx_timer);
    fy_watch_free(n->announce_timer);
}

static void net_free(void *dev)
{
    struct net *n = dev;
    if (n->io)
        fy_iothread_run(n->io, free_watches, n);
    fy_iothread_free(n->io);
    net_late_clear(n);
    n->b->ops->free(n->b);
    for (unsigned i = 0; i < FY_NET_PAIRS_MAX; i++)
        free(n->pair[i].frames[0].data);
    free(n);
}

static const struct fy_virtio_type net_type = {
    .type = "virtio-net",
    .version = 1,
    .device_id = FY_VIRTIO_NET,
    .pci_class = CLASS_ETHERNET,
    .config_read = net_config_read,
    .activate = net_activate,
    .kick = net_kick,
    .reset = net_reset,
    .resume = net_resume,
    .save = net_save,
    .load = net_load,
    .free = net_free,
};

struct making {
    struct net *n;
    struct fy_err *e;
    int r;
};

static void make_timers(void *arg)
{
    struct making *m = arg;
    struct net *n = m->n;
    struct fy_loop *loop = fy_iothread_loop(n->io);
    n->rx_timer = fy_timer_new(loop, on_rx_timer, n, m->e);
    n->tx_timer = fy_timer_new(loop, on_tx_timer, n, m->e);
    n->announce_timer = fy_timer_new(loop, on_announce, n, m->e);
    m->r = n->rx_timer && n->tx_timer && n->announce_timer ? 0 : -1;
}

static int make_pairs(struct net *n, struct fy_err *e)
{
    for (unsigned i = 0; i < n->config.pairs; i++) {
        struct net_pair *p = &n->pair[i];
        uint8_t *room = malloc((size_t)NET_BATCH * FY_NET_FRAME_MAX);
        if (!room)
            return fy_fail(e, FY_ERESOURCE, "no memory for %s", n->id);
        p->n = n;
        p->index = i;
        for (unsigned k = 0; k < NET_BATCH; k++)
            p->frames[k].data = room + (size_t)k * FY_NET_FRAME_MAX;
    }
    return 0;
}

static uint64_t offered(const struct fy_virtio_net_config *c)
{
    const struct fy_net_backend_ops *ops = c->backend->ops;
    uint64_t f = F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN | F_CTRL_RX_EXTRA |
                 F_GUEST_ANNOUNCE | F_CTRL_MAC_ADDR | F_SPEED_DUPLEX | F_GUEST_CSUM | F_CTRL_GUEST_OFFLOADS;
    if (ops->tx_offloads)
        f |= F_HOST_OFFLOADS;
    if (ops->rx_offloads)
        f |= F_GUEST_OFFLOADS;
    if (c->pairs > 1)
        f |= F_MQ;
    if (c->mtu)
        f |= F_MTU;
    return f;
}

int fy_virtio_net_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_virtio_net_config *c,
                      struct fy_device *out, struct fy_err *e)
{
    struct net *n = calloc(1, sizeof *n);
    if (!n) {
        c->backend->ops->free(c->backend);
        return fy_fail(e, FY_ERESOURCE, "no memory for %s", c->id);
    }
    n->config = *c;
    n->b = c->backend;
    snprintf(n->id, sizeof n->id, "%s", c->id);
    n->config.id = n->id;
    n->config.pairs = FY_MIN(FY_MAX(c->pairs, 1u), FY_NET_PAIRS_MAX);
    n->link = n->b->ops->fd(n->b, 0) >= 0;
    fy_tokens_set(&n->rx_tokens, c->rate, fy_now_ns());
    fy_tokens_set(&n->tx_tokens, c->rate, fy_now_ns());
    net_driver_reset(n);
    n->io = fy_iothread_new(n->id, e);
    struct making m = {.n = n, .e = e};
    if (!n->io || make_pairs(n, e) < 0) {
        net_free(n);
        return -1;
    }
    fy_iothread_run(n->io, make_timers, &m);
    if (m.r < 0) {
        net_free(n);
        return -1;
    }
    struct fy_virtio_config vc = {.id = n->id,
                                  .slot = c->slot,
                                  .features = offered(&n->config),
                                  .queues = 2 * n->config.pairs + 1,
                                  .queue_size = QUEUE_SIZE,
                                  .config_bytes = CONFIG_BYTES,
                                  .io = n->io};
    return fy_virtio_new(pci, gmem, &net_type, &vc, n, &n->v, out, e);
}

static struct net *net_of(struct fy_device *d)
{
    return fy_virtio_dev(d->dev);
}

void fy_virtio_net_status(struct fy_device *d, struct fy_net_status *s)
{
    struct net *n = net_of(d);
    fy_virtio_enter(n->v);
    *s = (struct fy_net_status){.link = n->link, .rate = n->tx_tokens.rate, .rx = n->rx, .tx = n->tx};
    fy_virtio_leave(n->v);
}

int fy_virtio_net_attach(struct fy_device *d, int fd, struct fy_err *e)
{
    struct net *n = net_of(d);
    int r = -1;
    fy_virtio_enter(n->v);
    if (!n->b->ops->attach)
        fy_fail(e, FY_EUNSUPPORTED, "%s: its network cannot be given anew", n->id);
    else if (n->link)
        fy_fail(e, FY_ESTATE, "%s: its network is there", n->id);
    else
        r = n->b->ops->attach(n->b, fd, e);
    if (r == 0) {
        n->link = true;
        net_configure(n);
        fy_virtio_config_changed(n->v);
        net_again(n);
    }
    fy_virtio_leave(n->v);
    return r;
}

void fy_virtio_net_set_rate(struct fy_device *d, uint64_t rate)
{
    struct net *n = net_of(d);
    uint64_t now = fy_now_ns();
    fy_virtio_enter(n->v);
    fy_tokens_set(&n->rx_tokens, rate, now);
    fy_tokens_set(&n->tx_tokens, rate, now);
    /* Queues that waited for the old limit look again. */
    for (unsigned i = 0; n->features && i < n->config.pairs; i++)
        fy_virtio_again(n->v, 2 * i + 1);
    net_again(n);
    fy_virtio_leave(n->v);
}
