// SPDX-License-Identifier: Apache-2.0
/* Packed virtqueues (virtio 1.2, 2.8): one ring, in which a descriptor's AVAIL and USED bits against the wrap
 * counters say whose it is. */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/vq_internal.h"

#define EVENT_ENABLE 0u
#define EVENT_DISABLE 1u
#define EVENT_DESC 2u

static uint16_t load16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static uint8_t *entry(const struct fy_vq *q, uint16_t at)
{
    return q->desc_host + 16 * (size_t)at;
}

static bool is_available(const struct fy_vq *q, uint16_t flags)
{
    bool avail = flags & FY_DESC_AVAIL, used = flags & FY_DESC_USED;
    return avail == q->avail_wrap && used != q->avail_wrap;
}

bool fy_packed_has_more(struct fy_vq *q)
{
    return is_available(q, load16(entry(q, q->next_avail) + 14));
}

static bool walk_table(struct fy_vq *q, struct fy_vq_chain *c, const struct fy_vq_desc *d)
{
    if (!q->indirect || !d->len || d->len % 16 || d->len / 16 > FY_VQ_SEGS)
        return false;
    const uint8_t *t = fy_gmem_at(q->gmem, d->addr, d->len);
    if (!t)
        return false;
    for (uint32_t i = 0; i < d->len / 16; i++) {
        struct fy_vq_desc in = fy_vq_read_desc(t + 16 * (size_t)i);
        if (!fy_vq_add_seg(q, c, in.addr, in.len, in.b & FY_DESC_WRITE))
            return false;
    }
    return true;
}

int fy_packed_pop(struct fy_vq *q, struct fy_vq_chain *c)
{
    if (!fy_packed_has_more(q))
        return FY_VQ_EMPTY;
    uint16_t at = q->next_avail;
    bool wrap = q->avail_wrap;
    c->count = 0;
    for (;;) {
        struct fy_vq_desc d = fy_vq_read_desc(entry(q, at));
        if (++c->count > q->size)
            return fy_vq_break(q);
        bool last = !(d.b & FY_DESC_NEXT);
        if (d.b & FY_DESC_INDIRECT ? c->count != 1 || !last || !walk_table(q, c, &d)
                                   : !fy_vq_add_seg(q, c, d.addr, d.len, d.b & FY_DESC_WRITE))
            return fy_vq_break(q);
        c->id = d.a; /* the last one's counts */
        if (++at == q->size) {
            at = 0;
            wrap = !wrap;
        }
        if (last)
            break;
    }
    q->next_avail = at;
    q->avail_wrap = wrap;
    return FY_VQ_GOT;
}

void fy_packed_put(struct fy_vq *q, const struct fy_vq_chain *c, uint32_t written)
{
    uint8_t *p = entry(q, q->next_used);
    uint16_t flags =
        (uint16_t)((q->used_wrap ? FY_DESC_AVAIL | FY_DESC_USED : 0) | (c->in ? FY_DESC_WRITE : 0));
    memcpy(p + 8, &written, 4);
    memcpy(p + 12, &c->id, 2);
    __atomic_store_n((uint16_t *)(void *)(p + 14), flags, __ATOMIC_RELEASE);
    fy_gmem_mark(q->gmem, q->desc + 16 * (uint64_t)q->next_used, 16);
    uint32_t next = (uint32_t)q->next_used + c->count;
    if (next >= q->size) {
        next -= q->size;
        q->used_wrap = !q->used_wrap;
    }
    q->next_used = (uint16_t)next;
}

bool fy_packed_wants_interrupt(struct fy_vq *q)
{
    uint32_t event = __atomic_load_n((const uint32_t *)(const void *)q->driver_host, __ATOMIC_ACQUIRE);
    uint16_t was = q->signalled;
    bool known = q->signalled_valid;
    unsigned flags = event >> 16 & 3;
    q->signalled = q->next_used;
    q->signalled_valid = true;
    if (flags != EVENT_DESC || !q->event_idx)
        return flags != EVENT_DISABLE;
    if (!known)
        return true;
    /* As in split rings, on places made free-running by the wrap counters. */
    uint16_t place = event & 0x7fff;
    bool wrap = event >> 15 & 1;
    int now = q->next_used;
    int wanted = place - (wrap != q->used_wrap ? q->size : 0);
    int before = was - (was > q->next_used ? q->size : 0);
    return (uint16_t)(now - wanted - 1) < (uint16_t)(now - before);
}

void fy_packed_set_kicks(struct fy_vq *q, bool on)
{
    uint32_t event = on ? EVENT_ENABLE << 16 : EVENT_DISABLE << 16;
    if (on && q->event_idx)
        event = EVENT_DESC << 16 | (uint32_t)q->avail_wrap << 15 | q->next_avail;
    __atomic_store_n((uint32_t *)(void *)q->device_host, event, __ATOMIC_RELEASE);
    fy_gmem_mark(q->gmem, q->device, 4);
}
