// SPDX-License-Identifier: Apache-2.0
/* What both ring formats share: starting, segments, state. The formats are in vq_split.c and vq_packed.c. */
#include "hv/dev/virtqueue.h"

#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/virtio.h"
#include "hv/dev/vq_internal.h"

/* Sizes of the three areas (virtio 1.2, 2.7 and 2.8). The event fields at the end of split areas are counted
 * always: a driver lays them out always. */
static void areas(bool packed, uint32_t size, uint64_t bytes[3], uint64_t align[3])
{
    bytes[0] = 16ull * size;
    bytes[1] = packed ? 4 : 6 + 2ull * size;
    bytes[2] = packed ? 4 : 6 + 8ull * size;
    align[0] = 16;
    align[1] = packed ? 4 : 2;
    align[2] = 4;
}

static int check_layout(const struct fy_vq *q, bool packed, uint32_t size, const uint64_t gpa[3],
                        struct fy_err *e)
{
    static const char *const names[] = {"descriptor area", "driver area", "device area"};
    uint64_t bytes[3], align[3];
    if (!size || size > q->size_max || (!packed && size & (size - 1)))
        return fy_fail(e, FY_ECORRUPT, "%s: a size of %u (at most %u%s)", q->name, size, q->size_max,
                       packed ? "" : ", a power of two");
    areas(packed, size, bytes, align);
    for (int i = 0; i < 3; i++)
        if (gpa[i] % align[i] || !fy_gmem_at(q->gmem, gpa[i], bytes[i]))
            return fy_fail(e, FY_ECORRUPT, "%s: its %s of %llu bytes at %#llx is not in RAM, or not aligned",
                           q->name, names[i], (unsigned long long)bytes[i], (unsigned long long)gpa[i]);
    return 0;
}

int fy_vq_start(struct fy_vq *q, uint64_t features, bool fresh, struct fy_err *e)
{
    bool packed = features & FY_VIRTIO_F_RING_PACKED;
    const uint64_t gpa[3] = {q->desc, q->driver, q->device};
    uint64_t bytes[3], align[3];
    if (check_layout(q, packed, q->size, gpa, e) < 0)
        return -1;
    areas(packed, q->size, bytes, align);
    q->packed = packed;
    q->event_idx = features & FY_VIRTIO_F_EVENT_IDX;
    q->indirect = features & FY_VIRTIO_F_INDIRECT_DESC;
    q->desc_host = fy_gmem_at(q->gmem, q->desc, bytes[0]);
    q->driver_host = fy_gmem_at(q->gmem, q->driver, bytes[1]);
    q->device_host = fy_gmem_at(q->gmem, q->device, bytes[2]);
    q->in_flight = 0;
    if (fresh) {
        q->next_avail = q->next_used = q->signalled = 0;
        q->avail_wrap = q->used_wrap = packed;
        q->signalled_valid = q->broken = false;
        q->kicks_on = true;
    }
    q->started = true;
    return 0;
}

void fy_vq_stop(struct fy_vq *q)
{
    q->started = false;
    q->in_flight = 0;
    q->desc_host = q->driver_host = q->device_host = NULL;
}

void fy_vq_reset(struct fy_vq *q)
{
    fy_vq_stop(q);
    q->enabled = q->broken = false;
    q->size = q->size_max;
    q->desc = q->driver = q->device = 0;
    q->vector = 0xffff;
    q->next_avail = q->next_used = q->signalled = 0;
    q->avail_wrap = q->used_wrap = q->kicks_on = q->signalled_valid = false;
}

int fy_vq_break(struct fy_vq *q)
{
    q->broken = true;
    return FY_VQ_BROKEN;
}

bool fy_vq_add_seg(struct fy_vq *q, struct fy_vq_chain *c, uint64_t gpa, uint32_t len, bool in)
{
    if (c->out + c->in >= FY_VQ_SEGS || (!in && c->in))
        return false; /* too long, or a readable buffer behind a writable one */
    uint8_t *host = fy_gmem_at(q->gmem, gpa, len ? len : 1);
    if (!host)
        return false;
    c->seg[c->out + c->in] = (struct fy_vq_seg){.host = host, .gpa = gpa, .len = len};
    if (in) {
        c->in++;
        c->in_bytes += len;
    } else {
        c->out++;
        c->out_bytes += len;
    }
    return true;
}

struct fy_vq_desc fy_vq_read_desc(const uint8_t *p)
{
    struct fy_vq_desc d;
    memcpy(&d, p, sizeof d); /* once: the driver may be writing */
    return d;
}

int fy_vq_pop(struct fy_vq *q, struct fy_vq_chain *c)
{
    if (!q->started || q->broken)
        return q->broken ? FY_VQ_BROKEN : FY_VQ_EMPTY;
    c->out = c->in = 0;
    c->out_bytes = c->in_bytes = 0;
    int r = q->packed ? fy_packed_pop(q, c) : fy_split_pop(q, c);
    if (r == FY_VQ_GOT)
        q->in_flight++;
    return r;
}

void fy_vq_unpop(struct fy_vq *q, const struct fy_vq_chain *c)
{
    q->in_flight--;
    if (!q->packed) {
        q->next_avail--;
        return;
    }
    if (q->next_avail < c->count) {
        q->next_avail = (uint16_t)(q->next_avail + q->size);
        q->avail_wrap = !q->avail_wrap;
    }
    q->next_avail = (uint16_t)(q->next_avail - c->count);
}

void fy_vq_put(struct fy_vq *q, const struct fy_vq_chain *c, uint32_t written)
{
    uint64_t left = written;
    if (!q->started)
        return;
    q->requests++;
    q->from_guest += c->out_bytes;
    q->to_guest += written;
    q->in_flight--;
    for (unsigned i = c->out; left && i < (unsigned)c->out + c->in; i++) {
        uint64_t n = FY_MIN(left, (uint64_t)c->seg[i].len);
        if (n)
            fy_gmem_mark(q->gmem, c->seg[i].gpa, n);
        left -= n;
    }
    if (q->packed)
        fy_packed_put(q, c, written);
    else
        fy_split_put(q, c, written);
}

bool fy_vq_wants_interrupt(struct fy_vq *q)
{
    if (!q->started)
        return false;
    /* What was put must be seen before the driver's wish is read (virtio 1.2, 2.7.7.2). */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return q->packed ? fy_packed_wants_interrupt(q) : fy_split_wants_interrupt(q);
}

bool fy_vq_enable_kicks(struct fy_vq *q)
{
    if (!q->started || q->broken)
        return false;
    q->kicks_on = true;
    if (q->packed)
        fy_packed_set_kicks(q, true);
    else
        fy_split_set_kicks(q, true);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return fy_vq_has_more(q);
}

void fy_vq_disable_kicks(struct fy_vq *q)
{
    if (!q->started || q->broken || !q->kicks_on)
        return;
    q->kicks_on = false;
    if (q->packed)
        fy_packed_set_kicks(q, false);
    else
        fy_split_set_kicks(q, false);
}

bool fy_vq_has_more(struct fy_vq *q)
{
    if (!q->started || q->broken)
        return false;
    return q->packed ? fy_packed_has_more(q) : fy_split_has_more(q);
}

static uint64_t copy(const struct fy_vq_seg *seg, unsigned n, uint64_t at, uint8_t *buf, uint64_t len,
                     bool to_guest)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < n && done < len; i++) {
        if (at >= seg[i].len) {
            at -= seg[i].len;
            continue;
        }
        uint64_t part = FY_MIN(seg[i].len - at, len - done);
        if (to_guest)
            memcpy(seg[i].host + at, buf + done, part);
        else
            memcpy(buf + done, seg[i].host + at, part);
        done += part;
        at = 0;
    }
    return done;
}

uint64_t fy_vq_fetch(const struct fy_vq_chain *c, uint64_t at, void *buf, uint64_t len)
{
    return copy(c->seg, c->out, at, buf, len, false);
}

uint64_t fy_vq_store(const struct fy_vq_chain *c, uint64_t at, const void *buf, uint64_t len)
{
    return copy(c->seg + c->out, c->in, at, (uint8_t *)(uintptr_t)buf, len, true);
}

Ferry__Virtqueue *fy_vq_save(const struct fy_vq *q)
{
    Ferry__Virtqueue *s = malloc(sizeof *s);
    if (!s)
        return NULL;
    ferry__virtqueue__init(s);
    s->size = q->size;
    s->enabled = q->enabled;
    s->desc = q->desc;
    s->driver = q->driver;
    s->device = q->device;
    s->vector = q->vector;
    s->next_avail = q->next_avail;
    s->next_used = q->next_used;
    s->avail_wrap = q->avail_wrap;
    s->used_wrap = q->used_wrap;
    s->kicks_on = q->kicks_on;
    s->signalled = q->signalled;
    s->signalled_valid = q->signalled_valid;
    s->broken = q->broken;
    return s;
}

int fy_vq_check(const struct fy_vq *q, const Ferry__Virtqueue *s, uint64_t features, struct fy_err *e)
{
    bool packed = features & FY_VIRTIO_F_RING_PACKED;
    const uint64_t gpa[3] = {s->desc, s->driver, s->device};
    if (s->size > q->size_max || s->vector > 0xffff)
        return fy_fail(e, FY_ECORRUPT, "%s: size %u, vector %u", q->name, s->size, s->vector);
    if (s->next_avail > 0xffff || s->next_used > 0xffff || s->signalled > 0xffff)
        return fy_fail(e, FY_ECORRUPT, "%s: places %u, %u and %u are not in the ring", q->name, s->next_avail,
                       s->next_used, s->signalled);
    if (!s->enabled)
        return 0;
    if (check_layout(q, packed, s->size, gpa, e) < 0)
        return -1;
    if (packed && (s->next_avail >= s->size || s->next_used >= s->size || s->signalled >= s->size))
        return fy_fail(e, FY_ECORRUPT, "%s: places %u, %u and %u are not in a ring of %u", q->name,
                       s->next_avail, s->next_used, s->signalled, s->size);
    /* Nothing is in flight: the device stands at one place. */
    if (s->next_avail != s->next_used || (packed && s->avail_wrap != s->used_wrap))
        return fy_fail(e, FY_ECORRUPT, "%s: taken up to %u but given back up to %u", q->name, s->next_avail,
                       s->next_used);
    return 0;
}

void fy_vq_load(struct fy_vq *q, const Ferry__Virtqueue *s)
{
    q->size = (uint16_t)s->size;
    q->enabled = s->enabled;
    q->desc = s->desc;
    q->driver = s->driver;
    q->device = s->device;
    q->vector = (uint16_t)s->vector;
    q->next_avail = (uint16_t)s->next_avail;
    q->next_used = (uint16_t)s->next_used;
    q->avail_wrap = s->avail_wrap;
    q->used_wrap = s->used_wrap;
    q->kicks_on = s->kicks_on;
    q->signalled = (uint16_t)s->signalled;
    q->signalled_valid = s->signalled_valid;
    q->broken = s->broken;
}
