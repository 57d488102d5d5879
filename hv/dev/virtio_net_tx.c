// SPDX-License-Identifier: Apache-2.0
/* From the driver's transmit queues to the backend. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/dev/virtio_net_internal.h"
#include "proto/wire.h"

_Static_assert(sizeof(struct fy_net_hdr) == FY_NET_HDR_BYTES, "the header's layout is virtio's");

bool fy_net_hdr_ok(const struct fy_net_hdr *h, uint32_t len)
{
    unsigned gso = h->gso_type & ~FY_NET_GSO_ECN;
    if (h->flags & ~(FY_NET_NEEDS_CSUM | FY_NET_DATA_VALID))
        return false;
    if (h->flags & FY_NET_NEEDS_CSUM && (uint32_t)h->csum_start + h->csum_offset + 2 > len)
        return false;
    if (gso == FY_NET_GSO_NONE)
        return h->gso_type == FY_NET_GSO_NONE;
    return (gso == FY_NET_GSO_TCPV4 || gso == FY_NET_GSO_TCPV6) && h->gso_size &&
           h->flags & FY_NET_NEEDS_CSUM && h->hdr_len <= len;
}

bool fy_net_finish_csum(struct fy_net_hdr *h, uint8_t *data, uint32_t len)
{
    uint64_t sum = 0;
    if (!(h->flags & FY_NET_NEEDS_CSUM))
        return true;
    if ((uint32_t)h->csum_start + h->csum_offset + 2 > len)
        return false;
    /* RFC 1071; the field holds the pseudo header's sum. */
    uint32_t at = h->csum_start;
    for (; at + 1 < len; at += 2)
        sum += (uint32_t)data[at] << 8 | data[at + 1];
    if (at < len)
        sum += (uint32_t)data[at] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    uint16_t v = (uint16_t)~sum;
    if (!v)
        v = 0xffff; /* UDP: 0 would say that there is none; the same number to TCP */
    data[h->csum_start + h->csum_offset] = (uint8_t)(v >> 8);
    data[h->csum_start + h->csum_offset + 1] = (uint8_t)v;
    h->flags &= (uint8_t)~FY_NET_NEEDS_CSUM;
    return true;
}

/* May the driver ask for this? Only for what was negotiated. */
static bool negotiated(const struct net *n, const struct fy_net_hdr *h)
{
    unsigned gso = h->gso_type & ~FY_NET_GSO_ECN;
    return (!(h->flags & FY_NET_NEEDS_CSUM) || n->features & F_CSUM) &&
           (gso != FY_NET_GSO_TCPV4 || n->features & F_HOST_TSO4) &&
           (gso != FY_NET_GSO_TCPV6 || n->features & F_HOST_TSO6) &&
           (!(h->gso_type & FY_NET_GSO_ECN) || n->features & F_HOST_ECN);
}

/* Lay chain i out as header and frame. The header is read once; the frame's bytes the driver may still
 * change, which is its own affair: nothing here looks at them. false: it breaks a rule and is dropped. */
static bool lay_out(struct net *n, unsigned i, struct fy_net_tx *f)
{
    const struct fy_vq_chain *c = &n->chain[i];
    struct fy_net_hdr *h = &n->hdr[i];
    struct iovec *iov = n->iov[i];
    uint64_t len = c->out_bytes - FY_NET_HDR_BYTES;
    uint32_t skip = FY_NET_HDR_BYTES;
    if (c->out_bytes < FY_NET_HDR_BYTES + FY_NET_FRAME_MIN || len > FY_NET_FRAME_MAX)
        return false;
    fy_vq_fetch(c, 0, h, sizeof *h);
    h->flags &= FY_NET_NEEDS_CSUM; /* other flags are reserved for the driver: ignored */
    h->num_buffers = 0;
    if (!(h->flags & FY_NET_NEEDS_CSUM))
        h->csum_start = h->csum_offset = 0;
    if (!fy_net_hdr_ok(h, (uint32_t)len) || !negotiated(n, h))
        return false;
    f->iov = iov;
    iov[0] = (struct iovec){h, sizeof *h};
    f->n = 1;
    for (unsigned s = 0; s < c->out; s++) {
        uint32_t cut = FY_MIN(skip, c->seg[s].len);
        skip -= cut;
        if (c->seg[s].len > cut)
            iov[f->n++] = (struct iovec){c->seg[s].host + cut, c->seg[s].len - cut};
    }
    return true;
}

static void done(struct net *n, struct fy_vq *q, unsigned i)
{
    uint64_t bytes = n->chain[i].out_bytes - FY_NET_HDR_BYTES;
    n->tx.frames++;
    n->tx.bytes += bytes;
    fy_tokens_take(&n->tx_tokens, bytes);
    fy_vq_put(q, &n->chain[i], 0);
}

/* A frame that the gate keeps. */
struct kept {
    struct fy_gate_item item; /* first */
    struct net *n;
    unsigned pair;
    struct fy_net_hdr hdr;
    uint32_t len;
    uint8_t data[];
};

/* The machine may be paused: what was held is let out all the same. */
static void kept_pass(struct fy_gate_item *item)
{
    struct kept *k = (struct kept *)item;
    struct iovec iov[2] = {{&k->hdr, sizeof k->hdr}, {k->data, k->len}};
    struct fy_net_tx f = {.iov = iov, .n = 2};
    struct net *n = k->n;
    bool gone = false;
    fy_virtio_enter(n->v);
    if (!n->link || n->b->ops->send(n->b, k->pair, &f, 1, &gone) != 1)
        n->tx.dropped++;
    /* That the link is lost the card's thread finds out by itself: watches are its own. */
    fy_virtio_leave(n->v);
    free(k);
}

static void kept_drop(struct fy_gate_item *item)
{
    free(item);
}

/* While the gate holds frames go one by one. 1: dealt with, 0: nothing is there. */
static unsigned one_by_gate(struct net *n, struct fy_vq *q, struct net_pair *p)
{
    const struct fy_vq_chain *c = &n->chain[0];
    struct fy_net_tx f;
    bool gone = false;
    if (fy_vq_pop(q, &n->chain[0]) != FY_VQ_GOT)
        return 0;
    uint32_t len = (uint32_t)(c->out_bytes - FY_NET_HDR_BYTES);
    bool ok = n->link && lay_out(n, 0, &f);
    struct kept *k = ok ? malloc(sizeof *k + len) : NULL;
    if (!k) {
        n->tx.dropped++;
        fy_vq_put(q, c, 0);
        return 1;
    }
    *k = (struct kept){.item = {.pass = kept_pass, .drop = kept_drop},
                       .n = n,
                       .pair = p->index < n->d.pairs ? p->index : 0,
                       .hdr = n->hdr[0],
                       .len = len};
    fy_vq_fetch(c, FY_NET_HDR_BYTES, k->data, len);
    done(n, q, 0);
    if (fy_gate_pass(n->config.gate, &k->item)) {
        struct iovec iov[2] = {{&k->hdr, sizeof k->hdr}, {k->data, k->len}};
        f = (struct fy_net_tx){.iov = iov, .n = 2};
        n->tx.dropped += n->b->ops->send(n->b, k->pair, &f, 1, &gone) != 1;
        free(k);
    }
    if (gone)
        net_link_lost(n);
    return 1;
}

/* Take up to a batch and send it. Number of requests dealt with; 0: nothing is there, or it has to wait. */
static unsigned batch(struct net *n, struct fy_vq *q, struct net_pair *p)
{
    struct fy_net_tx f[NET_BATCH];
    unsigned count = 0;
    bool gone = false;
    if (n->config.gate && (fy_gate_holding(n->config.gate) || fy_gate_kept(n->config.gate)))
        return one_by_gate(n, q, p);
    while (count < NET_BATCH && fy_vq_pop(q, &n->chain[count]) == FY_VQ_GOT) {
        if (n->link && lay_out(n, count, &f[count])) {
            count++;
        } else if (count) {
            fy_vq_unpop(q, &n->chain[count]); /* its turn comes when those before it are out */
            break;
        } else {
            n->tx.dropped++;
            fy_vq_put(q, &n->chain[0], 0);
            return 1;
        }
    }
    if (!count)
        return 0;
    unsigned sent = n->b->ops->send(n->b, p->index < n->d.pairs ? p->index : 0, f, count, &gone);
    for (unsigned i = count; i-- > sent;)
        fy_vq_unpop(q, &n->chain[i]);
    for (unsigned i = 0; i < sent; i++)
        done(n, q, i);
    if (gone)
        net_link_lost(n);
    else if (sent < count)
        p->full = true;
    return sent;
}

void net_tx(struct net *n, unsigned pair)
{
    struct net_pair *p = &n->pair[pair];
    struct fy_vq *q = fy_virtio_queue(n->v, 2 * pair + 1);
    unsigned turn = 0;
    bool waits = false;
    fy_vq_disable_kicks(q);
    while (!p->full && turn < NET_TURN) {
        uint64_t ns = fy_tokens_wait(&n->tx_tokens, fy_now_ns());
        if (ns) {
            fy_timer_arm(n->tx_timer, FY_DIV_UP(ns, 1000000));
            waits = true;
            break;
        }
        unsigned got = batch(n, q, p);
        turn += got;
        if (!got && !p->full && !fy_vq_enable_kicks(q))
            break;
    }
    if (turn >= NET_TURN)
        fy_virtio_again(n->v, 2 * pair + 1);
    if (p->full && !waits)
        net_again(n);
    if (turn || q->broken)
        fy_virtio_notify(n->v, 2 * pair + 1);
}

void net_say_where(struct net *n)
{
    static const uint8_t kind[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3}; /* RARP, Ethernet, IPv4, request */
    uint8_t frame[60] = {0};
    struct fy_net_hdr h = {0};
    struct iovec iov[2] = {{&h, sizeof h}, {frame, sizeof frame}};
    struct fy_net_tx f = {.iov = iov, .n = 2};
    bool gone = false;
    memset(frame, 0xff, 6);
    memcpy(frame + 6, n->d.mac, 6);
    memcpy(frame + 12, kind, sizeof kind);
    memcpy(frame + 22, n->d.mac, 6);
    memcpy(frame + 32, n->d.mac, 6);
    n->b->ops->send(n->b, 0, &f, 1, &gone);
    if (gone)
        net_link_lost(n);
}
