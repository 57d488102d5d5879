// SPDX-License-Identifier: Apache-2.0
/* A disk: block device of virtio 1.2, 5.2. What holds its bytes is a backend (block.h), which may come after
 * the device: that of a guest that moves here comes when it is about to run. */
#ifndef FERRY_DEV_VIRTIO_BLK_H
#define FERRY_DEV_VIRTIO_BLK_H

#include "hv/dev/block.h"
#include "hv/dev/blockdirty.h"
#include "hv/dev/gate.h"
#include "hv/dev/virtio.h"

#define FY_BLK_QUEUES_MAX 16
#define FY_BLK_SERIAL_MAX 20

struct fy_blk_config {
    const char *id;     /* "disk0" */
    const char *serial; /* what GET_ID answers, at most FY_BLK_SERIAL_MAX characters */
    unsigned slot;
    unsigned queues; /* 1..FY_BLK_QUEUES_MAX */
    uint64_t bytes;  /* a multiple of FY_BLOCK_SECTOR, not 0 */
    bool read_only;
    struct fy_gate *gate; /* what is written, and the word that it was, passes it; NULL: open. Outlives it */
};

/* It has a thread of its own, which ends when the device is freed. While the machine is built. */
int fy_virtio_blk_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_blk_config *c,
                      struct fy_device *out, struct fy_err *e);

/* Give it its backend, of exactly its size, which is the device's from then on, also on failure. Once, while
 * the machine is paused. Main thread. */
int fy_virtio_blk_attach(struct fy_device *d, struct fy_block *b, struct fy_err *e);
/* The backend, NULL where there is none yet. */
struct fy_block *fy_virtio_blk_backend(struct fy_device *d);
/* Call fn with the backend and the device's lock held, and return what it returns; 0 where there is none yet.
 * give_up and take may be called there while the machine is paused (the device is drained). Main thread. */
int fy_virtio_blk_with(struct fy_device *d, int (*fn)(struct fy_block *block, void *arg, struct fy_err *e),
                       void *arg, struct fy_err *e);
/* Begin to make durable what was written, and do not wait: what a hand-over has to wait for is then little. A
 * paused device, or one that is still at it, does nothing. Any thread. */
void fy_virtio_blk_write_back(struct fy_device *d);
/* Its log of dirty blocks. */
struct fy_blockdirty *fy_virtio_blk_dirty(struct fy_device *d);

#endif
