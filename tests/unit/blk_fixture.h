// SPDX-License-Identifier: Apache-2.0
/* A disk, its driver, and two backends: a file, and one in memory that answers when the test lets it. */
#ifndef FERRY_TESTS_BLK_FIXTURE_H
#define FERRY_TESTS_BLK_FIXTURE_H

#include <sys/eventfd.h>

#include "hv/backend/file.h"
#include "hv/dev/virtio_blk.h"
#include "tests/unit/virtio_driver.h"

#define BLK_SLOT 8
#define BLK_FLUSH (1ull << 9)
#define BLK_DISCARD (1ull << 13)
#define BLK_ZEROES (1ull << 14)

enum { BLK_IN, BLK_OUT, BLK_T_FLUSH = 4, BLK_GET_ID = 8, BLK_T_DISCARD = 11, BLK_T_ZEROES = 13 };

/* --- in memory */

struct fake {
    struct fy_block b;
    uint8_t *bytes;
    bool slow; /* nothing is done before reap waits for it or `slow` ends */
    int fail;  /* errno of what is done from now on */
    struct fy_block_req *first, **last;
    unsigned in_flight;
    char log[4096]; /* R W F D Z of what was done */
    unsigned logged;
    bool locked;
};

static inline void fake_submit(struct fy_block *b, struct fy_block_req *r)
{
    struct fake *k = (struct fake *)b;
    r->next = NULL;
    *k->last = r;
    k->last = &r->next;
    k->in_flight++;
    eventfd_write(b->event_fd, 1);
}

static inline bool fake_kick(struct fy_block *b)
{
    (void)b;
    return false;
}

static inline void fake_do(struct fake *k, struct fy_block_req *r)
{
    uint64_t at = r->offset;
    for (unsigned i = 0; i < r->iov_count; at += r->iov[i++].iov_len)
        if (r->op == FY_BLOCK_READ)
            memcpy(r->iov[i].iov_base, k->bytes + at, r->iov[i].iov_len);
        else if (r->op == FY_BLOCK_WRITE)
            memcpy(k->bytes + at, r->iov[i].iov_base, r->iov[i].iov_len);
    if (r->op == FY_BLOCK_DISCARD || r->op == FY_BLOCK_ZEROES)
        memset(k->bytes + r->offset, 0, r->bytes);
    k->log[k->logged++ % sizeof k->log] = "RWFDZ"[r->op];
}

static inline unsigned fake_reap(struct fy_block *b, bool wait)
{
    struct fake *k = (struct fake *)b;
    while (k->first && (wait || !k->slow)) {
        struct fy_block_req *r = k->first;
        k->first = r->next;
        if (!k->first)
            k->last = &k->first;
        if (!k->fail)
            fake_do(k, r);
        k->in_flight--;
        r->done(r, k->fail);
    }
    return k->in_flight;
}

static inline int fake_give_up(struct fy_block *b, struct fy_err *e)
{
    (void)e;
    ((struct fake *)b)->locked = false;
    return 0;
}

static inline int fake_take(struct fy_block *b, struct fy_err *e)
{
    (void)e;
    ((struct fake *)b)->locked = true;
    return 0;
}

static inline void fake_free(struct fy_block *b)
{
    struct fake *k = (struct fake *)b;
    fy_close(&b->event_fd);
    free(k->bytes);
    free(k);
}

static inline struct fake *fake_new(uint64_t bytes, bool read_only)
{
    static const struct fy_block_ops ops = {.submit = fake_submit,
                                            .kick = fake_kick,
                                            .reap = fake_reap,
                                            .give_up = fake_give_up,
                                            .take = fake_take,
                                            .free = fake_free};
    struct fake *k = calloc(1, sizeof *k);
    k->b = (struct fy_block){.ops = &ops,
                             .bytes = bytes,
                             .read_only = read_only,
                             .event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    k->bytes = calloc(1, bytes);
    k->last = &k->first;
    k->locked = true;
    return k;
}

/* --- the disk */

struct disk {
    struct drv d;
    struct fy_gate *gate;
    uint64_t bytes;
};

static inline void disk_init(struct disk *k, struct fy_block *b, unsigned queues)
{
    struct fy_err e = {0};
    memset(k, 0, sizeof *k);
    drv_init(&k->d);
    k->gate = fy_gate_new(&e);
    k->bytes = b->bytes;
    struct fy_blk_config c = {.id = "disk0",
                              .serial = "a-serial-number-of-20",
                              .slot = BLK_SLOT,
                              .queues = queues,
                              .bytes = b->bytes,
                              .read_only = b->read_only,
                              .gate = k->gate};
    assert_int_equal(fy_virtio_blk_new(k->d.pci, k->d.gmem, &c, &k->d.dev, &e),
                     -1); /* one character too many */
    c.serial = "serial-number-of--20";
    if (fy_virtio_blk_new(k->d.pci, k->d.gmem, &c, &k->d.dev, &e) < 0 ||
        fy_virtio_blk_attach(&k->d.dev, b, &e) < 0)
        fail_msg("%s", e.text);
    k->d.dev.ops->resume(k->d.dev.dev);
    drv_find(&k->d, BLK_SLOT);
}

static inline void disk_done(struct disk *k)
{
    k->d.dev.ops->pause(k->d.dev.dev);
    fy_gate_discard(k->gate);
    drv_done(&k->d);
    fy_gate_free(k->gate);
}

/* Where request i (0..127) keeps header, status and data. */
static inline uint64_t disk_place(unsigned i)
{
    return DRV_DATA + (uint64_t)i * 0x8000;
}

/* Make a request available; returns its id. Data is at disk_place(i) + 0x1000. */
static inline uint16_t disk_send(struct disk *k, unsigned queue, unsigned i, uint32_t type, uint64_t sector,
                                 uint32_t bytes)
{
    uint64_t at = disk_place(i);
    uint8_t *h = drv_at(&k->d, at);
    struct drv_seg s[4] = {{at, 16, false}};
    unsigned n = 1;
    fy_put32(h, type);
    fy_put32(h + 4, 0);
    fy_put64(h + 8, sector);
    h[16] = 0xaa;
    if (bytes) {
        bool in = type == BLK_IN || type == BLK_GET_ID;
        /* In two pieces, of which the first has an odd length. */
        uint32_t first = bytes > 600 ? 513 : bytes;
        s[n++] = (struct drv_seg){at + 0x1000, first, in};
        if (first < bytes)
            s[n++] = (struct drv_seg){at + 0x1000 + first, bytes - first, in};
    }
    s[n++] = (struct drv_seg){at + 16, 1, true};
    return drv_add(&k->d, queue, s, n, k->d.indirect);
}

static inline uint8_t disk_status(struct disk *k, unsigned i)
{
    return *drv_at(&k->d, disk_place(i) + 16);
}

static inline uint8_t *disk_data(struct disk *k, unsigned i)
{
    return drv_at(&k->d, disk_place(i) + 0x1000);
}

/* One request through queue 0; its status. */
static inline uint8_t disk_do(struct disk *k, uint32_t type, uint64_t sector, uint32_t bytes)
{
    uint32_t len;
    uint16_t id = disk_send(k, 0, 0, type, sector, bytes);
    drv_kick(&k->d, 0);
    assert_int_equal(drv_wait(&k->d, 0, &len), id);
    assert_true(len >= 1);
    return disk_status(k, 0);
}

/* Discard or zeroes of one range. */
static inline uint8_t disk_range(struct disk *k, uint32_t type, uint64_t sector, uint32_t sectors,
                                 uint32_t flags)
{
    uint8_t *r = disk_data(k, 0);
    fy_put64(r, sector);
    fy_put32(r + 8, sectors);
    fy_put32(r + 12, flags);
    return disk_do(k, type, 0, 16);
}

#endif
