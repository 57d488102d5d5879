// SPDX-License-Identifier: Apache-2.0
/* Private to the block device: virtio_blk.c (life), virtio_blk_req.c (requests). Everything with the device's
 * lock held. */
#ifndef FERRY_DEV_VIRTIO_BLK_INTERNAL_H
#define FERRY_DEV_VIRTIO_BLK_INTERNAL_H

#include "hv/dev/virtio_blk.h"

#define FY_BLK_F_SEG_MAX (1ull << 2)
#define FY_BLK_F_RO (1ull << 5)
#define FY_BLK_F_BLK_SIZE (1ull << 6)
#define FY_BLK_F_FLUSH (1ull << 9)
#define FY_BLK_F_TOPOLOGY (1ull << 10)
#define FY_BLK_F_MQ (1ull << 12)
#define FY_BLK_F_DISCARD (1ull << 13)
#define FY_BLK_F_WRITE_ZEROES (1ull << 14)

#define FY_BLK_RANGES_MAX 16u
#define FY_BLK_RANGE_SECTORS (1u << 22) /* of a discard's or write-zeroes' range: 2 GiB */

struct fy_blk;

struct fy_blk_range {
    uint64_t offset, bytes;
    bool unmap;
};

struct fy_blk_req {
    struct fy_block_req io; /* first: what the backend gives back */
    struct fy_gate_item item;
    struct fy_blk *b;
    struct fy_blk_req *next_free, *next_gated;
    unsigned queue;
    uint8_t status;  /* what the guest is told */
    bool at_the_end; /* at the gate, it waits for being told, not for being done */
    bool orphan;     /* its driver has reset the device meanwhile */
    bool syncing;    /* write-through: the write is done, its flush is not */
    bool write_back; /* no driver's: of fy_virtio_blk_write_back */
    unsigned range, ranges;
    struct fy_blk_range list[FY_BLK_RANGES_MAX];
    struct iovec iov[FY_VQ_SEGS];
    struct fy_vq_chain chain;
};

struct fy_blk {
    struct fy_virtio *v;
    struct fy_iothread *io;
    struct fy_block *block; /* NULL: none yet */
    struct fy_watch *watch; /* of its event_fd; the I/O thread's */
    struct fy_blockdirty *dirty;
    struct fy_gate *gate;
    uint64_t bytes;
    unsigned queues;
    bool read_only;
    char serial[FY_BLK_SERIAL_MAX];

    bool writing_back;
    bool cancelling;    /* what ends now has no driver any more */
    bool write_through; /* the driver knows no flush */
    struct fy_blk_req *free_reqs;
    struct fy_blk_req *gated;            /* wait at the gate */
    struct fy_blk_req *late, **late_end; /* passed it while the machine was paused */
    unsigned made;
    uint32_t starved; /* queues that found no free request */
    uint32_t ended;   /* queues with requests put back and their driver not told */
};

/* A request was popped into r: check it and submit it, or answer it. */
void fy_blk_begin(struct fy_blk_req *r);
/* It has passed the gate: do it, or tell the driver that it is done. */
void fy_blk_go_on(struct fy_blk_req *r);
/* A free request, NULL while all are in flight. */
struct fy_blk_req *fy_blk_take_free(struct fy_blk *b);
/* Submit a flush of the device's own into r. */
void fy_blk_write_back(struct fy_blk_req *r);
/* Have the backend begin what was submitted. */
void fy_blk_start(struct fy_blk *b);
void fy_blk_give_back(struct fy_blk_req *r);
/* Interrupt the driver for what was put back since the last call. */
void fy_blk_notify(struct fy_blk *b);

#endif
