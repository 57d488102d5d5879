// SPDX-License-Identifier: Apache-2.0
/* The block device's life: configuration, queues, completions, drain. Requests are in virtio_blk_req.c. */
#include "hv/dev/virtio_blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "hv/base/checked.h"
#include "hv/base/log.h"
#include "hv/dev/virtio_blk_internal.h"
#include "proto/wire.h"

#define CLASS_STORAGE 0x010000u
#define QUEUE_SIZE 256u
#define REQUESTS_A_TURN 64u
#define STARTS_A_TURN 16 /* a request has a few steps */
#define CONFIG_BYTES 60u
/* The last of a chain's segments are the header and the status. */
#define SEGS_MAX (FY_VQ_SEGS - 2)
#define PHYSICAL_EXPONENT 3u /* blocks of 4 KiB */

/* struct virtio_blk_config (5.2.4). A function of the description only: a guest sees the same everywhere. */
static void blk_config_read(void *dev, uint32_t offset, uint8_t *buf, uint32_t len)
{
    const struct fy_blk *b = dev;
    uint8_t c[CONFIG_BYTES] = {0};
    fy_put64(c, b->bytes / FY_BLOCK_SECTOR);
    fy_put32(c + 12, SEGS_MAX);
    fy_put32(c + 20, FY_BLOCK_SECTOR);
    c[24] = PHYSICAL_EXPONENT;
    fy_put16(c + 26, 1u << PHYSICAL_EXPONENT); /* min_io_size */
    c[32] = 1;                                 /* writeback */
    fy_put16(c + 34, (uint16_t)b->queues);
    fy_put32(c + 36, FY_BLK_RANGE_SECTORS);
    fy_put32(c + 40, FY_BLK_RANGES_MAX);
    fy_put32(c + 44, 1u << PHYSICAL_EXPONENT); /* discard_sector_alignment */
    fy_put32(c + 48, FY_BLK_RANGE_SECTORS);
    fy_put32(c + 52, FY_BLK_RANGES_MAX);
    c[56] = 1; /* write_zeroes_may_unmap */
    memcpy(buf, c + offset, len);
}

static uint64_t features(bool read_only)
{
    uint64_t f = FY_BLK_F_SEG_MAX | FY_BLK_F_BLK_SIZE | FY_BLK_F_FLUSH | FY_BLK_F_TOPOLOGY | FY_BLK_F_MQ;
    return f | (read_only ? FY_BLK_F_RO : FY_BLK_F_DISCARD | FY_BLK_F_WRITE_ZEROES);
}

struct fy_blk_req *fy_blk_take_free(struct fy_blk *b)
{
    struct fy_blk_req *r = b->free_reqs;
    if (r) {
        b->free_reqs = r->next_free;
        return r;
    }
    if (b->made == FY_BLOCK_DEPTH || !(r = calloc(1, sizeof *r)))
        return NULL;
    b->made++;
    r->b = b;
    return r;
}

void fy_blk_give_back(struct fy_blk_req *r)
{
    struct fy_blk *b = r->b;
    r->next_free = b->free_reqs;
    b->free_reqs = r;
    if (b->starved) {
        for (unsigned q = 0; q < b->queues; q++)
            if (b->starved >> q & 1)
                fy_virtio_again(b->v, q);
        b->starved = 0;
    }
}

void fy_blk_notify(struct fy_blk *b)
{
    uint32_t ended = b->ended;
    b->ended = 0;
    for (unsigned q = 0; ended >> q; q++)
        if (ended >> q & 1)
            fy_virtio_notify(b->v, q);
}

static void blk_kick(void *dev, unsigned n)
{
    struct fy_blk *b = dev;
    struct fy_vq *q = fy_virtio_queue(b->v, n);
    unsigned turn = 0;
    fy_vq_disable_kicks(q);
    while (turn < REQUESTS_A_TURN) {
        struct fy_blk_req *r = fy_blk_take_free(b);
        if (!r) {
            b->starved |= 1u << n;
            break;
        }
        int got = fy_vq_pop(q, &r->chain);
        if (got != FY_VQ_GOT) {
            r->next_free = b->free_reqs;
            b->free_reqs = r;
            if (got == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
                continue;
            break;
        }
        r->queue = n;
        fy_blk_begin(r);
        turn++;
    }
    if (turn == REQUESTS_A_TURN)
        fy_virtio_again(b->v, n);
    fy_blk_start(b);
    fy_blk_notify(b);
}

void fy_blk_start(struct fy_blk *b)
{
    /* What comes from the host's page cache ends here, without a turn of the loop. What has to be tried again
     * and again goes on in later turns: a pause must get the lock in between. */
    for (unsigned n = 0; b->block && b->block->ops->kick(b->block); n++) {
        if (n == STARTS_A_TURN) {
            fy_virtio_again(b->v, 0);
            return;
        }
        b->block->ops->reap(b->block, false);
    }
}

static void on_event(int fd, unsigned ready, void *arg)
{
    struct fy_blk *b = arg;
    eventfd_t n;
    (void)ready;
    if (!b->block->level)
        eventfd_read(fd, &n);
    fy_virtio_enter(b->v);
    b->block->ops->reap(b->block, false);
    fy_blk_start(b);
    fy_blk_notify(b);
    fy_virtio_leave(b->v);
}

static struct fy_blk_req *take_late(struct fy_blk *b)
{
    struct fy_blk_req *r = b->late;
    if (r) {
        b->late = r->next_gated;
        if (!b->late)
            b->late_end = &b->late;
    }
    return r;
}

/* What waits at the gate stays there: no epoch ends while the machine is paused for one. What passed it late,
 * and no resume took up, is a broken driver's: it is done with here. */
static void blk_drain(void *dev)
{
    struct fy_blk *b = dev;
    struct fy_blk_req *r;
    while ((r = take_late(b)))
        fy_blk_go_on(r);
    while (b->block) {
        fy_blk_start(b);
        if (!b->block->ops->reap(b->block, true))
            break;
    }
    fy_blk_notify(b);
}

static void blk_activate(void *dev, uint64_t negotiated)
{
    struct fy_blk *b = dev;
    b->write_through = !(negotiated & FY_BLK_F_FLUSH);
}

static void blk_resume(void *dev)
{
    struct fy_blk *b = dev;
    struct fy_blk_req *r;
    if (b->block && b->block->ops->resume)
        b->block->ops->resume(b->block);
    while ((r = take_late(b)))
        fy_blk_go_on(r);
    fy_blk_start(b);
    fy_blk_notify(b);
}

static void cancel(struct fy_blk *b)
{
    if (!b->block || !b->block->ops->cancel)
        return;
    b->cancelling = true;
    b->block->ops->cancel(b->block);
    b->cancelling = false;
}

/* Drained: whatever is left waits at the gate or stands, and belongs to a driver that is no more. */
static void blk_reset(void *dev)
{
    struct fy_blk *b = dev;
    struct fy_blk_req *late;
    cancel(b);
    for (struct fy_blk_req *r = b->gated; r; r = r->next_gated)
        r->orphan = true;
    while ((late = take_late(b)))
        fy_blk_give_back(late);
    b->starved = b->ended = 0;
    b->write_through = false;
}

static void free_watch(void *arg)
{
    struct fy_blk *b = arg;
    fy_watch_free(b->watch);
    b->watch = NULL;
}

static void free_list(struct fy_blk_req *r, bool gated)
{
    while (r) {
        struct fy_blk_req *next = gated ? r->next_gated : r->next_free;
        free(r);
        r = next;
    }
}

static void blk_free(void *dev)
{
    struct fy_blk *b = dev;
    if (b->io)
        fy_iothread_run(b->io, free_watch, b);
    if (b->block) {
        while (b->block->ops->reap(b->block, true))
            continue;
        cancel(b);
        b->block->ops->free(b->block);
    }
    fy_iothread_free(b->io);
    free_list(b->gated, true);
    free_list(b->late, true);
    free_list(b->free_reqs, false);
    fy_blockdirty_free(b->dirty);
    free(b);
}

static const struct fy_virtio_type blk_type = {
    .type = "virtio-blk",
    .version = 1,
    .device_id = FY_VIRTIO_BLOCK,
    .pci_class = CLASS_STORAGE,
    .config_read = blk_config_read,
    .activate = blk_activate,
    .kick = blk_kick,
    .drain = blk_drain,
    .reset = blk_reset,
    .resume = blk_resume,
    .free = blk_free,
};

int fy_virtio_blk_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_blk_config *c,
                      struct fy_device *out, struct fy_err *e)
{
    if (!c->bytes || c->bytes % FY_BLOCK_SECTOR || !c->queues || c->queues > FY_BLK_QUEUES_MAX ||
        strlen(c->serial) > FY_BLK_SERIAL_MAX)
        return fy_fail(e, FY_EUSAGE, "%s: a disk of %llu bytes with %u queues and serial number \"%s\"",
                       c->id, (unsigned long long)c->bytes, c->queues, c->serial);
    struct fy_blk *b = calloc(1, sizeof *b);
    if (!b)
        return fy_fail(e, FY_ERESOURCE, "no memory for %s", c->id);
    b->bytes = c->bytes;
    b->queues = c->queues;
    b->read_only = c->read_only;
    b->gate = c->gate;
    memcpy(b->serial, c->serial, strlen(c->serial));
    b->late_end = &b->late;
    b->dirty = fy_blockdirty_new(c->bytes, e);
    b->io = b->dirty ? fy_iothread_new(c->id, e) : NULL;
    /* One is always there: where memory is short the others are done without. */
    b->free_reqs = calloc(1, sizeof *b->free_reqs);
    if (b->io && !b->free_reqs)
        fy_fail(e, FY_ERESOURCE, "no memory for %s", c->id);
    if (b->free_reqs) {
        b->free_reqs->b = b;
        b->made = 1;
    }
    if (!b->io || !b->free_reqs) {
        blk_free(b);
        return -1;
    }
    struct fy_virtio_config vc = {
        .id = c->id,
        .slot = c->slot,
        .features = features(c->read_only),
        .queues = c->queues,
        .queue_size = QUEUE_SIZE,
        .config_bytes = CONFIG_BYTES,
        .io = b->io,
    };
    return fy_virtio_new(pci, gmem, &blk_type, &vc, b, &b->v, out, e);
}

static struct fy_blk *blk_of(struct fy_device *d)
{
    return fy_virtio_dev(d->dev);
}

struct attaching {
    struct fy_blk *b;
    struct fy_err *e;
};

static void make_watch(void *arg)
{
    struct attaching *a = arg;
    a->b->watch =
        fy_watch_fd(fy_iothread_loop(a->b->io), a->b->block->event_fd, FY_READ, on_event, a->b, a->e);
}

int fy_virtio_blk_attach(struct fy_device *d, struct fy_block *block, struct fy_err *e)
{
    struct fy_blk *b = blk_of(d);
    int r = 0;
    if (b->block)
        r = fy_fail(e, FY_ESTATE, "%s has its disk already", d->id);
    else if (block->bytes != b->bytes || (block->read_only && !b->read_only))
        r = fy_fail(e, FY_EREFUSED, "%s is a disk of %llu bytes, the file has %llu%s", d->id,
                    (unsigned long long)b->bytes, (unsigned long long)block->bytes,
                    block->read_only ? " and cannot be written" : "");
    if (r < 0) {
        block->ops->free(block);
        return r;
    }
    struct attaching a = {.b = b, .e = e};
    b->block = block;
    fy_iothread_run(b->io, make_watch, &a);
    if (b->watch)
        return 0;
    b->block = NULL;
    block->ops->free(block);
    return -1;
}

struct fy_block *fy_virtio_blk_backend(struct fy_device *d)
{
    return blk_of(d)->block;
}

int fy_virtio_blk_with(struct fy_device *d, int (*fn)(struct fy_block *block, void *arg, struct fy_err *e),
                       void *arg, struct fy_err *e)
{
    struct fy_blk *b = blk_of(d);
    bool may = fy_virtio_enter(b->v);
    int r = b->block ? fn(b->block, arg, e) : 0;
    if (may) {
        fy_blk_start(b);
        fy_blk_notify(b);
    }
    fy_virtio_leave(b->v);
    return r;
}

void fy_virtio_blk_write_back(struct fy_device *d)
{
    struct fy_blk *b = blk_of(d);
    bool may = fy_virtio_enter(b->v) && b->block && !b->read_only && !b->writing_back;
    struct fy_blk_req *r = may ? fy_blk_take_free(b) : NULL;
    if (r) {
        fy_blk_write_back(r);
        fy_blk_start(b);
    }
    fy_virtio_leave(b->v);
}

struct fy_blockdirty *fy_virtio_blk_dirty(struct fy_device *d)
{
    return blk_of(d)->dirty;
}
