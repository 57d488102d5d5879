// SPDX-License-Identifier: Apache-2.0
/* From the backend to the driver's receive queues. What has been received stays with the pair until the
 * driver has buffers for it; meanwhile nothing more is read, so that it is the kernel's queue that overflows.
 */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/dev/virtio_net_internal.h"

enum taken { TAKEN, DROPPED, STARVED };

/* Bring a frame to what the driver takes. false: that cannot be. */
static bool suit(const struct net *n, struct fy_net_rx *f)
{
    struct fy_net_hdr *h = &f->hdr;
    unsigned gso = h->gso_type & ~FY_NET_GSO_ECN;
    if (f->len < FY_NET_FRAME_MIN || f->len > FY_NET_FRAME_MAX || !fy_net_hdr_ok(h, f->len))
        return false;
    if ((gso == FY_NET_GSO_TCPV4 && !(n->d.offloads & F_GUEST_TSO4)) ||
        (gso == FY_NET_GSO_TCPV6 && !(n->d.offloads & F_GUEST_TSO6)) ||
        (h->gso_type & FY_NET_GSO_ECN && !(n->d.offloads & F_GUEST_ECN)))
        return false;
    if (n->d.offloads & F_GUEST_CSUM)
        return true;
    /* Came before the driver changed its mind. */
    if (gso != FY_NET_GSO_NONE || !fy_net_finish_csum(h, f->data, f->len))
        return false;
    *h = (struct fy_net_hdr){0};
    return true;
}

/* Take buffers for `want` bytes: how many chains, or 0: too few are there, or they are too small (*small). */
static unsigned gather(struct net *n, struct fy_vq *q, uint64_t want, bool *small)
{
    unsigned max = n->features & F_MRG_RXBUF ? NET_CHAINS : 1;
    uint64_t have = 0;
    unsigned count = 0;
    while (have < want && count < max) {
        int r = fy_vq_pop(q, &n->chain[count]);
        if (r == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
            continue;
        if (r != FY_VQ_GOT)
            break;
        have += n->chain[count++].in_bytes;
        *small |= n->chain[0].in_bytes < FY_NET_HDR_BYTES;
    }
    if (have >= want && !*small)
        return count;
    *small |= count == max;
    for (unsigned i = count; i-- > 0;)
        fy_vq_unpop(q, &n->chain[i]);
    return 0;
}

static enum taken deliver(struct net *n, struct fy_vq *q, struct fy_net_rx *f)
{
    bool small = false;
    if (!net_wants(n, f->data, f->len))
        return TAKEN; /* not for it: no loss */
    if (!suit(n, f))
        return DROPPED;
    unsigned count = gather(n, q, FY_NET_HDR_BYTES + (uint64_t)f->len, &small);
    if (!count)
        return small ? DROPPED : STARVED;
    uint64_t at = 0;
    f->hdr.num_buffers = (uint16_t)count;
    for (unsigned i = 0; i < count; i++) {
        const struct fy_vq_chain *c = &n->chain[i];
        uint64_t head = i ? 0 : fy_vq_store(c, 0, &f->hdr, sizeof f->hdr);
        uint64_t body = fy_vq_store(c, head, f->data + at, f->len - at);
        at += body;
        fy_vq_put(q, c, (uint32_t)(head + body));
    }
    n->rx.frames++;
    n->rx.bytes += f->len;
    fy_tokens_take(&n->rx_tokens, f->len);
    return TAKEN;
}

/* More frames from the backend; false: there are none now. */
static bool refill(struct net *n, struct net_pair *p)
{
    bool gone = false;
    uint64_t ns = fy_tokens_wait(&n->rx_tokens, fy_now_ns());
    if (ns) {
        fy_timer_arm(n->rx_timer, FY_DIV_UP(ns, 1000000));
        fy_watch_free(p->in);
        p->in = NULL;
        return false;
    }
    p->at = 0;
    p->count = n->b->ops->recv(n->b, p->index, p->frames, NET_BATCH, &gone);
    if (gone)
        net_link_lost(n);
    return p->count;
}

void net_rx(struct net *n, unsigned pair)
{
    struct net_pair *p = &n->pair[pair];
    struct fy_vq *q = fy_virtio_queue(n->v, 2 * pair);
    uint64_t before = n->rx.frames;
    p->starved = false;
    fy_vq_disable_kicks(q);
    for (unsigned turn = 0; turn < NET_TURN && n->link; turn++) {
        struct fy_net_rx *late = pair == 0 ? net_late_head(n) : NULL;
        if (!late && p->at == p->count && !refill(n, p))
            break;
        enum taken t = deliver(n, q, late ? late : &p->frames[p->at]);
        if (t == STARVED) {
            p->starved = true;
            break;
        }
        n->rx.dropped += t == DROPPED;
        if (late)
            net_late_drop(n);
        else
            p->at++;
    }
    if (p->starved) {
        fy_watch_free(p->in);
        p->in = NULL;
    } else if (!p->in) {
        net_again(n);
    }
    if (n->rx.frames != before || q->broken)
        fy_virtio_notify(n->v, 2 * pair);
}
