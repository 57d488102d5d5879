// SPDX-License-Identifier: Apache-2.0
/* Frames that came to a card after its guest had left: taken out here, carried to where the guest is now, and
 * put there in front of what comes by the card's own way. Without them each hand-over costs an open TCP
 * connection a retransmission timeout, far more than the guest's pause. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/virtio_net_internal.h"
#include "proto/wire.h"

#define LATE_FRAMES_MAX 1024u
#define LATE_BYTES_MAX (1u << 20)

struct net_late {
    struct net_late *next;
    struct fy_net_rx f;
    uint8_t data[];
};

struct collecting {
    struct net *n;
    unsigned card;
    uint8_t *buf;
    size_t room, used;
    bool more;
};

/* The frame as it goes into the buffer: card, length, header, bytes. */
static bool add(struct collecting *c, const struct fy_net_rx *f)
{
    uint8_t *p = c->buf + c->used;
    if (c->room - c->used < FY_LATE_HEAD + f->len)
        return false;
    fy_put32(p, c->card);
    fy_put32(p + 4, f->len);
    memcpy(p + 8, &f->hdr, FY_NET_HDR_BYTES);
    memcpy(p + FY_LATE_HEAD, f->data, f->len);
    c->used += FY_LATE_HEAD + f->len;
    return true;
}

static void collect_pair(struct collecting *c, struct net_pair *p)
{
    bool gone = false;
    for (unsigned turn = 0; turn < LATE_FRAMES_MAX; turn++) {
        if (p->at == p->count) {
            p->at = 0;
            p->count = c->n->b->ops->recv(c->n->b, p->index, p->frames, NET_BATCH, &gone);
            if (!p->count)
                return;
        }
        if (!add(c, &p->frames[p->at])) {
            c->more = true;
            return;
        }
        p->at++;
    }
}

static void collect(void *arg)
{
    struct collecting *c = arg;
    struct net *n = c->n;
    fy_virtio_enter(n->v);
    for (unsigned i = 0; n->link && n->features && n->b->ops->announce && i < n->d.pairs && !c->more; i++)
        collect_pair(c, &n->pair[i]);
    fy_virtio_leave(n->v);
}

size_t fy_virtio_net_collect(struct fy_device *d, unsigned card, uint8_t *buf, size_t room, bool *more)
{
    struct collecting c = {.n = fy_virtio_dev(d->dev), .card = card, .buf = buf, .room = room};
    fy_iothread_run(c.n->io, collect, &c);
    *more = c.more;
    return c.used;
}

int fy_virtio_net_late(struct fy_device *d, const uint8_t *record, size_t len, struct fy_err *e)
{
    struct net *n = fy_virtio_dev(d->dev);
    size_t bytes = len - FY_LATE_HEAD;
    if (len < FY_LATE_HEAD + FY_NET_FRAME_MIN || bytes > FY_NET_FRAME_MAX)
        return fy_fail(e, FY_ECORRUPT, "%s: a frame of %zu bytes with its head", n->id, len);
    struct net_late *l = malloc(sizeof *l + bytes);
    if (!l)
        return fy_fail(e, FY_ERESOURCE, "%s: no memory for a frame", n->id);
    *l = (struct net_late){.f = {.data = l->data, .len = (uint32_t)bytes}};
    memcpy(&l->f.hdr, record + 8, FY_NET_HDR_BYTES);
    memcpy(l->data, record + FY_LATE_HEAD, bytes);
    fy_virtio_enter(n->v);
    bool fits = n->late_count < LATE_FRAMES_MAX && bytes <= LATE_BYTES_MAX - n->late_bytes;
    if (fits) {
        *(n->late_count ? n->late_end : &n->late) = l;
        n->late_end = &l->next;
        n->late_count++;
        n->late_bytes += bytes;
        fy_virtio_again(n->v, 0);
    } else {
        n->rx.dropped++;
        free(l);
    }
    fy_virtio_leave(n->v);
    return 0;
}

struct fy_net_rx *net_late_head(struct net *n)
{
    return n->late ? &n->late->f : NULL;
}

void net_late_drop(struct net *n)
{
    struct net_late *l = n->late;
    n->late = l->next;
    n->late_count--;
    n->late_bytes -= l->f.len;
    free(l);
}

void net_late_clear(struct net *n)
{
    while (n->late)
        net_late_drop(n);
}
