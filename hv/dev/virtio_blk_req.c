// SPDX-License-Identifier: Apache-2.0
/* One request of the block device (virtio 1.2, 5.2.6): parsed, checked against the disk, done, answered. The
 * driver may frame header, data and status as it likes. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/virtio_blk_internal.h"
#include "proto/wire.h"

enum {
    T_IN = 0,
    T_OUT = 1,
    T_FLUSH = 4,
    T_GET_ID = 8,
    T_DISCARD = 11,
    T_WRITE_ZEROES = 13,
};

enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define HEADER_BYTES 16u
#define RANGE_BYTES 16u
#define RANGE_UNMAP 1u

static bool writes(const struct fy_blk_req *r)
{
    return r->io.op == FY_BLOCK_WRITE || r->io.op == FY_BLOCK_DISCARD || r->io.op == FY_BLOCK_ZEROES;
}

/* Give it back to the driver. Every byte that may have been stored is behind the put's length, the status
 * last, so that all of them are marked dirty, also of a read that failed half-way. */
static void put(struct fy_blk_req *r)
{
    struct fy_blk *b = r->b;
    if (!r->orphan) {
        struct fy_vq *q = fy_virtio_queue(b->v, r->queue);
        fy_vq_store(&r->chain, r->chain.in_bytes - 1, &r->status, 1);
        fy_vq_put(q, &r->chain, (uint32_t)r->chain.in_bytes);
        b->ended |= 1u << r->queue;
    }
    fy_blk_give_back(r);
}

static void ungate(struct fy_blk_req *r)
{
    struct fy_blk_req **at = &r->b->gated;
    while (*at != r)
        at = &(*at)->next_gated;
    *at = r->next_gated;
}

static void submit(struct fy_blk_req *r);

void fy_blk_go_on(struct fy_blk_req *r)
{
    if (r->orphan)
        fy_blk_give_back(r);
    else if (r->at_the_end)
        put(r);
    else
        submit(r);
}

static void gate_passed(struct fy_gate_item *item)
{
    struct fy_blk_req *r = (struct fy_blk_req *)((char *)item - offsetof(struct fy_blk_req, item));
    struct fy_blk *b = r->b;
    bool may = fy_virtio_enter(b->v);
    ungate(r);
    if (may || r->orphan) {
        fy_blk_go_on(r);
        fy_blk_start(b);
        fy_blk_notify(b);
    } else {
        /* Paused: no byte of guest memory may change. blk_resume goes on with it. */
        r->next_gated = NULL;
        *b->late_end = r;
        b->late_end = &r->next_gated;
    }
    fy_virtio_leave(b->v);
}

static void gate_dropped(struct fy_gate_item *item)
{
    struct fy_blk_req *r = (struct fy_blk_req *)((char *)item - offsetof(struct fy_blk_req, item));
    struct fy_blk *b = r->b;
    fy_virtio_enter(b->v);
    ungate(r);
    fy_blk_give_back(r);
    fy_virtio_leave(b->v);
}

/* True: go on at once. */
static bool pass_gate(struct fy_blk_req *r, bool at_the_end)
{
    struct fy_blk *b = r->b;
    r->item.pass = gate_passed;
    r->item.drop = gate_dropped;
    r->at_the_end = at_the_end;
    /* Listed first: the gate may be opened on another thread before this returns. */
    r->next_gated = b->gated;
    b->gated = r;
    if (!fy_gate_pass(b->gate, &r->item))
        return false;
    b->gated = r->next_gated;
    return true;
}

static void answer(struct fy_blk_req *r, uint8_t status)
{
    bool said = writes(r) || r->io.op == FY_BLOCK_FLUSH;
    r->status = status;
    if (!said || status != S_OK || pass_gate(r, true))
        put(r);
}

static uint8_t status_of(int err)
{
    return err == 0 ? S_OK : err == EOPNOTSUPP ? S_UNSUPP : S_IOERR;
}

static void done(struct fy_block_req *io, int err)
{
    struct fy_blk_req *r = (struct fy_blk_req *)io;
    struct fy_blk *b = r->b;
    if (r->write_back) {
        r->write_back = b->writing_back = false;
        fy_blk_give_back(r);
        return;
    }
    if (b->cancelling) {
        if (writes(r))
            fy_blockdirty_written(b->dirty, r->io.offset, r->io.bytes);
        fy_blk_give_back(r);
        return;
    }
    if (r->syncing) {
        r->io.op = FY_BLOCK_WRITE;
        answer(r, status_of(err));
        return;
    }
    if (writes(r))
        fy_blockdirty_written(b->dirty, r->io.offset, r->io.bytes);
    if (!err && r->range + 1 < r->ranges) {
        r->range++;
        submit(r);
    } else if (!err && writes(r) && b->write_through) {
        r->syncing = true;
        r->io.op = FY_BLOCK_FLUSH;
        b->block->ops->submit(b->block, &r->io);
    } else {
        answer(r, status_of(err));
    }
}

static void submit(struct fy_blk_req *r)
{
    struct fy_blk *b = r->b;
    r->io.done = done;
    if (r->ranges) {
        const struct fy_blk_range *g = &r->list[r->range];
        r->io.offset = g->offset;
        r->io.bytes = g->bytes;
        r->io.unmap = g->unmap;
    }
    if (writes(r))
        fy_blockdirty_before(b->dirty, r->io.offset, r->io.bytes);
    b->block->ops->submit(b->block, &r->io);
}

/* The chain's bytes [skip, skip + bytes) of its out or in part as an iovec. */
static void map(struct fy_blk_req *r, bool in, uint64_t skip, uint64_t bytes)
{
    const struct fy_vq_seg *seg = r->chain.seg + (in ? r->chain.out : 0);
    unsigned n = in ? r->chain.in : r->chain.out, k = 0;
    for (unsigned i = 0; i < n && bytes; i++) {
        if (skip >= seg[i].len) {
            skip -= seg[i].len;
            continue;
        }
        uint64_t part = FY_MIN(seg[i].len - skip, bytes);
        r->iov[k++] = (struct iovec){seg[i].host + skip, part};
        bytes -= part;
        skip = 0;
    }
    r->io.iov = r->iov;
    r->io.iov_count = k;
}

/* true: inside the disk. */
static bool place(const struct fy_blk *b, uint64_t sector, uint64_t bytes, uint64_t *offset)
{
    return !fy_mul_overflow(sector, FY_BLOCK_SECTOR, offset) && bytes % FY_BLOCK_SECTOR == 0 &&
           fy_range_ok(*offset, bytes, b->bytes);
}

static void begin_data(struct fy_blk_req *r, bool in, uint64_t sector)
{
    struct fy_blk *b = r->b;
    uint64_t bytes = in ? r->chain.in_bytes - 1 : r->chain.out_bytes - HEADER_BYTES;
    r->io.op = in ? FY_BLOCK_READ : FY_BLOCK_WRITE;
    r->io.bytes = bytes;
    if ((!in && b->read_only) || !bytes || !place(b, sector, bytes, &r->io.offset)) {
        answer(r, S_IOERR);
        return;
    }
    map(r, in, in ? 0 : HEADER_BYTES, bytes);
    if (in || pass_gate(r, false))
        submit(r);
}

/* Discard and write zeroes (5.2.6.1): an array of ranges. All are checked before the first is touched. */
static void begin_ranges(struct fy_blk_req *r, bool zeroes)
{
    struct fy_blk *b = r->b;
    uint64_t bytes = r->chain.out_bytes - HEADER_BYTES;
    r->io.op = zeroes ? FY_BLOCK_ZEROES : FY_BLOCK_DISCARD;
    r->io.iov_count = 0;
    uint8_t status = S_OK;
    if (b->read_only || !bytes || bytes % RANGE_BYTES || bytes / RANGE_BYTES > FY_BLK_RANGES_MAX)
        status = S_IOERR;
    for (uint64_t i = 0; status == S_OK && i < bytes / RANGE_BYTES; i++) {
        uint8_t raw[RANGE_BYTES];
        struct fy_blk_range *g = &r->list[i];
        fy_vq_fetch(&r->chain, HEADER_BYTES + i * RANGE_BYTES, raw, sizeof raw);
        uint32_t sectors = fy_get32(raw + 8), flags = fy_get32(raw + 12);
        g->bytes = (uint64_t)sectors * FY_BLOCK_SECTOR;
        g->unmap = flags & RANGE_UNMAP;
        if (flags & ~(zeroes ? RANGE_UNMAP : 0u))
            status = S_UNSUPP;
        else if (sectors > FY_BLK_RANGE_SECTORS || !place(b, fy_get64(raw), g->bytes, &g->offset))
            status = S_IOERR;
        else if (sectors)
            r->ranges = (unsigned)i + 1;
        else
            status = S_IOERR;
    }
    if (status != S_OK)
        answer(r, status);
    else if (pass_gate(r, false))
        submit(r);
}

static void begin_flush(struct fy_blk_req *r)
{
    r->io.op = FY_BLOCK_FLUSH;
    r->io.offset = r->io.bytes = 0;
    r->io.iov_count = 0;
    submit(r);
}

void fy_blk_write_back(struct fy_blk_req *r)
{
    r->b->writing_back = r->write_back = true;
    r->range = r->ranges = 0;
    begin_flush(r);
}

static void begin_id(struct fy_blk_req *r)
{
    r->io.op = FY_BLOCK_READ;
    uint64_t room = r->chain.in_bytes - 1;
    fy_vq_store(&r->chain, 0, r->b->serial, FY_MIN(room, (uint64_t)FY_BLK_SERIAL_MAX));
    answer(r, room >= FY_BLK_SERIAL_MAX ? S_OK : S_IOERR);
}

void fy_blk_begin(struct fy_blk_req *r)
{
    uint8_t h[HEADER_BYTES];
    r->io.op = FY_BLOCK_READ;
    r->range = r->ranges = 0;
    r->orphan = r->syncing = false;
    if (!r->chain.in_bytes || r->chain.in_bytes > UINT32_MAX) {
        /* Nowhere to say so; and what has no length could not be marked as written. */
        struct fy_virtio *v = r->b->v;
        fy_vq_put(fy_virtio_queue(v, r->queue), &r->chain, 0);
        fy_blk_give_back(r);
        fy_virtio_break(v, "gave a request without room for its status, or of more than 4 GiB");
        return;
    }
    if (fy_vq_fetch(&r->chain, 0, h, sizeof h) != sizeof h || !r->b->block) {
        answer(r, S_IOERR);
        return;
    }
    switch (fy_get32(h)) {
    case T_IN:
        begin_data(r, true, fy_get64(h + 8));
        break;
    case T_OUT:
        begin_data(r, false, fy_get64(h + 8));
        break;
    case T_FLUSH:
        begin_flush(r);
        break;
    case T_GET_ID:
        begin_id(r);
        break;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        begin_ranges(r, fy_get32(h) == T_WRITE_ZEROES);
        break;
    default:
        answer(r, S_UNSUPP);
    }
}
