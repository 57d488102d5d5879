// SPDX-License-Identifier: Apache-2.0
/* Split virtqueues (virtio 1.2, 2.7). Indices are free-running; ring places are modulo the size. */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/vq_internal.h"

#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY 1u

static uint16_t load16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void store16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

static uint8_t *avail_event(const struct fy_vq *q)
{
    return q->device_host + 4 + 8 * (size_t)q->size;
}

/* Walk one table; next must stay inside it. false: the chain breaks a rule. steps bounds loops. */
static bool walk(struct fy_vq *q, struct fy_vq_chain *c, const uint8_t *table, uint32_t entries, uint32_t at,
                 bool inside)
{
    for (uint32_t steps = 0; steps < entries; steps++) {
        struct fy_vq_desc d = fy_vq_read_desc(table + 16 * (size_t)at);
        if (d.a & FY_DESC_INDIRECT) {
            /* one level; no chain behind it; a whole number of descriptors */
            if (inside || !q->indirect || d.a & FY_DESC_NEXT || !d.len || d.len % 16 || d.len / 16 > 0xffff)
                return false;
            const uint8_t *t = fy_gmem_at(q->gmem, d.addr, d.len);
            return t && walk(q, c, t, d.len / 16, 0, true);
        }
        if (!fy_vq_add_seg(q, c, d.addr, d.len, d.a & FY_DESC_WRITE))
            return false;
        if (!(d.a & FY_DESC_NEXT))
            return true;
        at = d.b;
        if (at >= entries)
            return false;
    }
    return false;
}

bool fy_split_has_more(struct fy_vq *q)
{
    return load16(q->driver_host + 2) != q->next_avail;
}

int fy_split_pop(struct fy_vq *q, struct fy_vq_chain *c)
{
    uint16_t waiting = (uint16_t)(load16(q->driver_host + 2) - q->next_avail);
    if (!waiting)
        return FY_VQ_EMPTY;
    if (waiting > q->size)
        return fy_vq_break(q);
    c->id = load16(q->driver_host + 4 + 2 * (size_t)(q->next_avail & (q->size - 1)));
    c->count = 1;
    if (c->id >= q->size || !walk(q, c, q->desc_host, q->size, c->id, false))
        return fy_vq_break(q);
    q->next_avail++;
    return FY_VQ_GOT;
}

void fy_split_put(struct fy_vq *q, const struct fy_vq_chain *c, uint32_t written)
{
    size_t at = 4 + 8 * (size_t)(q->next_used & (q->size - 1));
    const uint32_t element[2] = {c->id, written};
    memcpy(q->device_host + at, element, sizeof element);
    fy_gmem_mark(q->gmem, q->device + at, sizeof element);
    q->next_used++;
    store16(q->device_host + 2, q->next_used);
    fy_gmem_mark(q->gmem, q->device + 2, 2);
}

bool fy_split_wants_interrupt(struct fy_vq *q)
{
    uint16_t was = q->signalled;
    bool known = q->signalled_valid;
    if (!q->event_idx)
        return !(load16(q->driver_host) & AVAIL_NO_INTERRUPT);
    uint16_t event = load16(q->driver_host + 4 + 2 * (size_t)q->size);
    q->signalled = q->next_used;
    q->signalled_valid = true;
    return !known || (uint16_t)(q->next_used - event - 1) < (uint16_t)(q->next_used - was);
}

void fy_split_set_kicks(struct fy_vq *q, bool on)
{
    if (q->event_idx) {
        if (!on)
            return; /* the event index stays behind: no kick until it is moved */
        store16(avail_event(q), q->next_avail);
        fy_gmem_mark(q->gmem, q->device + 4 + 8 * (uint64_t)q->size, 2);
        return;
    }
    store16(q->device_host, on ? 0 : USED_NO_NOTIFY);
    fy_gmem_mark(q->gmem, q->device, 2);
}
