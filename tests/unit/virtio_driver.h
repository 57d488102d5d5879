// SPDX-License-Identifier: Apache-2.0
/* The driver's side of a virtio device on PCI (virtio 1.2, chapters 2.6 to 2.8, 3.1 and 4.1): finds it,
 * negotiates, keeps split and packed rings with indirect descriptors and event indices, takes interrupts by
 * MSI-X. It waits for interrupts and nothing else, so one that is lost is a test that fails. */
#ifndef FERRY_TESTS_VIRTIO_DRIVER_H
#define FERRY_TESTS_VIRTIO_DRIVER_H

#include <pthread.h>
#include <time.h>

#include "hv/base/checked.h"
#include "hv/dev/virtio.h"
#include "proto/wire.h"
#include "tests/unit/dev_fixture.h"
#include "tests/unit/memory_fixture.h"

#define DRV_MEMORY (8u << 20)
#define DRV_QUEUES 4
#define DRV_SIZE_MAX 256
#define DRV_RINGS 0x10000u /* of queue i: + i * DRV_RING_ROOM */
#define DRV_RING_ROOM 0x10000u
#define DRV_TABLES 0x80000u /* indirect tables: 16 descriptors for each id of each queue */
#define DRV_DATA 0x200000u
#define DRV_MSI 0xfee00000u

struct drv_seg {
    uint64_t gpa;
    uint32_t len;
    bool in; /* the device writes it */
};

struct drv_queue {
    uint64_t desc, driver, device;
    uint16_t size;
    uint16_t next, used; /* split: free-running; packed: places */
    bool wrap, used_wrap;
    uint16_t free_count;
    uint16_t taken[DRV_SIZE_MAX]; /* ring entries of an id in flight; 0: free */
    uint16_t order[DRV_SIZE_MAX]; /* packed, split: ids that are free */
    uint16_t ids;
};

struct drv {
    struct fixture f;
    struct fy_gmem *gmem;
    struct fy_pci *pci;
    struct fy_device pci_dev, dev;
    uint64_t bar;
    bool packed, event_idx, indirect;
    struct drv_queue q[DRV_QUEUES];
    pthread_mutex_t lock;
    pthread_cond_t some;
    unsigned interrupts[DRV_QUEUES + 1]; /* by vector */
    unsigned config_vector;              /* behind the queues' */
    uint64_t marked;                     /* bytes that were marked as written */
};

/* --- the machine's side */

static void drv_msi(void *arg, uint64_t address, uint32_t data)
{
    struct drv *d = (struct drv *)arg; /* f is first */
    assert_int_equal(address, DRV_MSI);
    assert_true(data < DRV_QUEUES + 1);
    pthread_mutex_lock(&d->lock);
    d->interrupts[data]++;
    pthread_cond_broadcast(&d->some);
    pthread_mutex_unlock(&d->lock);
}

static void drv_written(void *arg, uint64_t offset, uint64_t len)
{
    struct drv *d = arg;
    (void)offset;
    __atomic_fetch_add(&d->marked, len, __ATOMIC_RELAXED);
}

static inline void drv_init(struct drv *d)
{
    struct fy_err e = {0};
    memset(d, 0, sizeof *d);
    fx_init(&d->f);
    d->f.host.msi = drv_msi;
    d->gmem = fx_memory(DRV_MEMORY, &e);
    assert_non_null(d->gmem);
    d->gmem->written = drv_written;
    d->gmem->written_arg = d;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->some, NULL);
    if (fy_pci_new(d->f.bus, &d->f.host, &d->pci_dev, &d->pci, &e) < 0)
        fail_msg("%s", e.text);
}

static inline void drv_done(struct drv *d)
{
    if (d->dev.ops)
        d->dev.ops->free(d->dev.dev);
    d->pci_dev.ops->free(d->pci_dev.dev);
    fy_gmem_free(d->gmem);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->some);
    fx_done(&d->f);
}

/* --- configuration space and registers */

static inline uint32_t drv_config(struct drv *d, unsigned slot, unsigned offset)
{
    fx_outp(&d->f, FY_PORT_PCI_ADDRESS, 4, 0x80000000u | slot << 11 | (offset & ~3u));
    return (uint32_t)fx_in(&d->f, FY_PORT_PCI_DATA, 4);
}

static inline void drv_config_write(struct drv *d, unsigned slot, unsigned offset, uint32_t value)
{
    fx_outp(&d->f, FY_PORT_PCI_ADDRESS, 4, 0x80000000u | slot << 11 | offset);
    fx_outp(&d->f, FY_PORT_PCI_DATA, 4, value);
}

static inline uint64_t drv_read(struct drv *d, unsigned offset, unsigned size)
{
    return fy_bus_read(d->f.bus, FY_SPACE_MMIO, d->bar + offset, size);
}

static inline void drv_write(struct drv *d, unsigned offset, unsigned size, uint64_t value)
{
    fy_bus_write(d->f.bus, FY_SPACE_MMIO, d->bar + offset, size, value);
}

/* Device configuration, as drivers read it. */
static inline uint64_t drv_device(struct drv *d, unsigned offset, unsigned size)
{
    return drv_read(d, 0x2000 + offset, size);
}

/* Find it at its slot; vectors: queue i's is i. */
static inline void drv_find(struct drv *d, unsigned slot)
{
    fy_pci_assign(d->pci);
    assert_int_equal(drv_config(d, slot, 0) & 0xffff, 0x1af4);
    d->bar = drv_config(d, slot, 0x10) & ~0xfull;
    uint64_t table = drv_config(d, slot, 0x14) & ~0xfull;
    for (unsigned i = 0; i <= DRV_QUEUES; i++) {
        fy_bus_write(d->f.bus, FY_SPACE_MMIO, table + 16 * i, 8, DRV_MSI);
        fy_bus_write(d->f.bus, FY_SPACE_MMIO, table + 16 * i + 8, 8, i);
    }
    unsigned at = drv_config(d, slot, 0x34) & 0xff;
    while (at && (drv_config(d, slot, at) & 0xff) != 0x11)
        at = drv_config(d, slot, at) >> 8 & 0xff;
    assert_int_not_equal(at, 0);
    drv_config_write(d, slot, at, drv_config(d, slot, at) | 0x80000000u);
}

static inline uint64_t drv_offered(struct drv *d)
{
    drv_write(d, 0, 4, 0);
    uint64_t low = drv_read(d, 4, 4);
    drv_write(d, 0, 4, 1);
    return low | drv_read(d, 4, 4) << 32;
}

static inline void drv_set_up_queue(struct drv *d, unsigned i, uint16_t size)
{
    struct drv_queue *q = &d->q[i];
    uint64_t base = DRV_RINGS + (uint64_t)i * DRV_RING_ROOM;
    memset(q, 0, sizeof *q);
    *q = (struct drv_queue){.desc = base,
                            .driver = base + 0x4000,
                            .device = base + 0x8000,
                            .size = size,
                            .free_count = size,
                            .wrap = true,
                            .used_wrap = true,
                            .ids = size};
    for (uint16_t k = 0; k < size; k++)
        q->order[k] = k;
    memset(fy_gmem_at(d->gmem, base, DRV_RING_ROOM), 0, DRV_RING_ROOM);
    drv_write(d, 22, 2, i);
    assert_true(drv_read(d, 24, 2) >= size);
    drv_write(d, 24, 2, size);
    drv_write(d, 26, 2, i);
    assert_int_equal(drv_read(d, 26, 2), i);
    drv_write(d, 32, 8, q->desc);
    drv_write(d, 40, 4, q->driver & 0xffffffffu);
    drv_write(d, 44, 4, q->driver >> 32);
    drv_write(d, 48, 8, q->device);
    drv_write(d, 28, 2, 1);
}

/* From reset to DRIVER_OK. features: without VERSION_1. */
static inline void drv_start(struct drv *d, uint64_t features, unsigned queues, uint16_t size)
{
    features |= FY_VIRTIO_F_VERSION_1;
    drv_write(d, 20, 1, 0);
    assert_int_equal(drv_read(d, 20, 1), 0);
    drv_write(d, 20, 1, 3);
    assert_int_equal(features & ~drv_offered(d), 0);
    drv_write(d, 8, 4, 0);
    drv_write(d, 12, 4, features & 0xffffffffu);
    drv_write(d, 8, 4, 1);
    drv_write(d, 12, 4, features >> 32);
    drv_write(d, 20, 1, 3 | 8);
    assert_int_equal(drv_read(d, 20, 1), 3 | 8);
    d->packed = features & FY_VIRTIO_F_RING_PACKED;
    d->event_idx = features & FY_VIRTIO_F_EVENT_IDX;
    d->indirect = features & FY_VIRTIO_F_INDIRECT_DESC;
    d->config_vector = (unsigned)drv_read(d, 18, 2);
    drv_write(d, 16, 2, d->config_vector);
    assert_int_equal(drv_read(d, 16, 2), d->config_vector);
    for (unsigned i = 0; i < queues; i++)
        drv_set_up_queue(d, i, size);
    drv_write(d, 20, 1, 3 | 8 | 4);
}

/* --- rings */

static inline uint8_t *drv_at(struct drv *d, uint64_t gpa)
{
    return fy_gmem_at(d->gmem, gpa, 1);
}

static inline uint16_t drv_load16(struct drv *d, uint64_t gpa)
{
    return __atomic_load_n((uint16_t *)(void *)drv_at(d, gpa), __ATOMIC_ACQUIRE);
}

static inline void drv_store16(struct drv *d, uint64_t gpa, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)drv_at(d, gpa), v, __ATOMIC_RELEASE);
}

static inline void drv_put_desc(struct drv *d, uint64_t at, uint64_t addr, uint32_t len, uint16_t a,
                                uint16_t b)
{
    uint8_t *p = drv_at(d, at);
    fy_put64(p, addr);
    fy_put32(p + 8, len);
    fy_put16(p + 12, a);
    fy_put16(p + 14, b);
}

/* An indirect table for id; returns its address. */
static inline uint64_t drv_table(struct drv *d, unsigned queue, uint16_t id, const struct drv_seg *s,
                                 unsigned n)
{
    uint64_t table = DRV_TABLES + ((uint64_t)queue * DRV_SIZE_MAX + id) * 256;
    assert_true(n <= 16);
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = (uint16_t)((s[i].in ? 2 : 0) | (!d->packed && i + 1 < n ? 1 : 0));
        if (d->packed)
            drv_put_desc(d, table + 16 * i, s[i].gpa, s[i].len, 0, flags);
        else
            drv_put_desc(d, table + 16 * i, s[i].gpa, s[i].len, flags, (uint16_t)(i + 1));
    }
    return table;
}

static inline void drv_add_split(struct drv *d, unsigned queue, uint16_t id, const struct drv_seg *s,
                                 unsigned n, bool indirect)
{
    struct drv_queue *q = &d->q[queue];
    /* The chain's descriptors are those of its ids: id itself, then others taken with it. */
    if (indirect) {
        drv_put_desc(d, q->desc + 16 * id, drv_table(d, queue, id, s, n), 16 * n, 4, 0);
    } else {
        uint16_t at = id;
        for (unsigned i = 0; i < n; i++) {
            uint16_t next = i + 1 < n ? q->order[--q->ids] : 0;
            drv_put_desc(d, q->desc + 16 * at, s[i].gpa, s[i].len,
                         (uint16_t)((s[i].in ? 2 : 0) | (i + 1 < n ? 1 : 0)), next);
            at = next;
        }
    }
    drv_store16(d, q->driver + 4 + 2 * (uint64_t)(q->next % q->size), id);
    q->next++;
    drv_store16(d, q->driver + 2, q->next);
}

static inline void drv_add_packed(struct drv *d, unsigned queue, uint16_t id, const struct drv_seg *s,
                                  unsigned n, bool indirect)
{
    struct drv_queue *q = &d->q[queue];
    uint64_t head = q->desc + 16 * (uint64_t)q->next;
    uint16_t head_flags = 0;
    unsigned entries = indirect ? 1 : n;
    for (unsigned i = 0; i < entries; i++) {
        uint16_t flags = (uint16_t)(q->wrap ? 0x80 : 0x8000);
        uint64_t at = q->desc + 16 * (uint64_t)q->next;
        /* All but the flags, at which the device may be looking. */
        fy_put64(drv_at(d, at), indirect ? drv_table(d, queue, id, s, n) : s[i].gpa);
        fy_put32(drv_at(d, at) + 8, indirect ? 16 * n : s[i].len);
        fy_put16(drv_at(d, at) + 12, id);
        flags |= indirect ? 4 : (uint16_t)((s[i].in ? 2 : 0) | (i + 1 < n ? 1 : 0));
        if (i == 0)
            head_flags = flags;
        else
            drv_store16(d, at + 14, flags);
        if (++q->next == q->size) {
            q->next = 0;
            q->wrap = !q->wrap;
        }
    }
    /* Available with the first descriptor's flags, last. */
    drv_store16(d, head + 14, head_flags);
}

/* May a request of n segments be added? */
static inline bool drv_room(struct drv *d, unsigned queue, unsigned n, bool indirect)
{
    return d->q[queue].free_count >= (indirect ? 1 : n);
}

/* Make a request available; returns its id. The device is not kicked. */
static inline uint16_t drv_add(struct drv *d, unsigned queue, const struct drv_seg *s, unsigned n,
                               bool indirect)
{
    struct drv_queue *q = &d->q[queue];
    unsigned entries = indirect ? 1 : n;
    assert_true(drv_room(d, queue, n, indirect));
    uint16_t id = q->order[--q->ids];
    q->taken[id] = (uint16_t)entries;
    q->free_count = (uint16_t)(q->free_count - entries);
    if (d->packed)
        drv_add_packed(d, queue, id, s, n, indirect);
    else
        drv_add_split(d, queue, id, s, n, indirect);
    return id;
}

static inline void drv_kick(struct drv *d, unsigned queue)
{
    drv_write(d, 0x3000 + 4 * queue, 2, queue);
}

static inline void drv_free_id(struct drv *d, struct drv_queue *q, uint16_t id)
{
    assert_int_not_equal(q->taken[id], 0);
    q->free_count = (uint16_t)(q->free_count + q->taken[id]);
    if (!d->packed) {
        /* A direct chain's other descriptors. */
        uint16_t at = id;
        for (uint16_t i = 1; i < q->taken[id]; i++) {
            at = fy_get16(drv_at(d, q->desc + 16 * (uint64_t)at) + 14);
            q->order[q->ids++] = at;
        }
    }
    q->taken[id] = 0;
    q->order[q->ids++] = id;
}

/* Take a request that the device has given back. */
static inline bool drv_used(struct drv *d, unsigned queue, uint16_t *id, uint32_t *len)
{
    struct drv_queue *q = &d->q[queue];
    if (!d->packed) {
        if (drv_load16(d, q->device + 2) == q->used)
            return false;
        const uint8_t *p = drv_at(d, q->device + 4 + 8 * (uint64_t)(q->used % q->size));
        *id = (uint16_t)fy_get32(p);
        *len = fy_get32(p + 4);
        q->used++;
    } else {
        uint64_t at = q->desc + 16 * (uint64_t)q->used;
        uint16_t flags = drv_load16(d, at + 14);
        if (!!(flags & 0x80) != q->used_wrap || !!(flags & 0x8000) != q->used_wrap)
            return false;
        *id = fy_get16(drv_at(d, at) + 12);
        *len = fy_get32(drv_at(d, at) + 8);
        assert_true(*id < q->size);
        unsigned next = q->used + (unsigned)q->taken[*id];
        if (next >= q->size) {
            next -= q->size;
            q->used_wrap = !q->used_wrap;
        }
        q->used = (uint16_t)next;
    }
    assert_true(*id < q->size);
    drv_free_id(d, q, *id);
    return true;
}

/* Ask for an interrupt when one more is given back. */
static inline void drv_want_interrupt(struct drv *d, unsigned queue)
{
    struct drv_queue *q = &d->q[queue];
    if (!d->packed && d->event_idx) {
        drv_store16(d, q->driver + 4 + 2 * (uint64_t)q->size, q->used);
    } else if (d->packed && d->event_idx) {
        uint32_t event = 2u << 16 | (uint32_t)q->used_wrap << 15 | q->used;
        __atomic_store_n((uint32_t *)(void *)drv_at(d, q->driver), event, __ATOMIC_RELEASE);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The next request that is given back, told of by an interrupt where it was not there already. Fails after 20
 * s without one. */
static inline uint16_t drv_wait(struct drv *d, unsigned queue, uint32_t *len)
{
    uint16_t id;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&d->lock);
    unsigned seen = d->interrupts[queue];
    pthread_mutex_unlock(&d->lock);
    drv_want_interrupt(d, queue);
    while (!drv_used(d, queue, &id, len)) {
        pthread_mutex_lock(&d->lock);
        int r = 0;
        while (d->interrupts[queue] == seen && r == 0)
            r = pthread_cond_timedwait(&d->some, &d->lock, &until);
        seen = d->interrupts[queue];
        pthread_mutex_unlock(&d->lock);
        if (r)
            fail_msg("queue %u: no interrupt came", queue);
        drv_want_interrupt(d, queue);
    }
    return id;
}

/* Wait until the device says that it needs a reset; its configuration interrupt tells. */
static inline void drv_await_broken(struct drv *d)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&d->lock);
    while (!d->interrupts[d->config_vector])
        if (pthread_cond_timedwait(&d->some, &d->lock, &until))
            fail_msg("the device did not notice");
    d->interrupts[d->config_vector] = 0;
    pthread_mutex_unlock(&d->lock);
    assert_int_equal(drv_read(d, 20, 1) & 64, 64);
}

/* Add, kick, wait. */
static inline uint32_t drv_do(struct drv *d, unsigned queue, const struct drv_seg *s, unsigned n)
{
    uint32_t len;
    uint16_t id = drv_add(d, queue, s, n, d->indirect && n > 1);
    drv_kick(d, queue);
    assert_int_equal(drv_wait(d, queue, &len), id);
    return len;
}

#endif
