// SPDX-License-Identifier: Apache-2.0
/* One virtqueue as the device sees it: split and packed rings, indirect descriptors, event index (Virtual I/O
 * Device Version 1.2, chapters 2.6 to 2.8). Addresses and size are frozen when the queue is started and were
 * checked to lie in RAM; every descriptor is read once; a walk is bounded by FY_VQ_SEGS. A driver that breaks
 * the rules breaks its queue (fy_vq_pop gives FY_VQ_BROKEN from then on), nothing else.
 *
 * Threads: a queue is used by one thread at a time; its device's lock (virtio.h) sees to that. */
#ifndef FERRY_DEV_VIRTQUEUE_H
#define FERRY_DEV_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/mem/guest.h"
#include "proto/state.pb-c.h"

#define FY_VQ_SIZE_MAX 1024
#define FY_VQ_SEGS 256 /* descriptors of a chain, indirect ones counted */

/* What the driver set up, and where the device stands. next_avail and next_used: split: free-running 16-bit
 * counts; packed: places in the ring, with wrap counters. */
struct fy_vq {
    struct fy_gmem *gmem;
    const char *name; /* for errors: "disk0 queue 1" */
    uint16_t size, size_max;
    uint64_t desc, driver, device; /* gpa: descriptor table or ring, driver area, device area */
    bool enabled;                  /* by the driver (queue_enable) */
    uint16_t vector;

    /* between fy_vq_start and fy_vq_stop */
    bool started, broken;
    bool packed, event_idx, indirect;
    uint8_t *desc_host, *driver_host, *device_host;
    uint16_t next_avail, next_used;
    bool avail_wrap, used_wrap;
    bool kicks_on;      /* the driver has been asked to kick */
    uint16_t signalled; /* next_used when the driver was last interrupted */
    bool signalled_valid;
    uint32_t in_flight;                      /* chains popped and not yet put back */
    uint64_t requests, from_guest, to_guest; /* put back, bytes of them; since the queue was made */
};

/* A buffer of a chain, in guest RAM. */
struct fy_vq_seg {
    uint8_t *host;
    uint64_t gpa;
    uint32_t len;
};

/* One request: first `out` segments that the device reads, then `in` segments that it writes. */
struct fy_vq_chain {
    uint16_t id;    /* the ring's name for it */
    uint16_t count; /* ring entries it takes (packed) */
    uint16_t out, in;
    uint64_t out_bytes, in_bytes;
    struct fy_vq_seg seg[FY_VQ_SEGS];
};

enum { FY_VQ_BROKEN = -1, FY_VQ_EMPTY = 0, FY_VQ_GOT = 1 };

/* Check and freeze: size a power of two for split (1..32768 for packed) up to size_max, the three areas in
 * RAM and aligned. FY_ECORRUPT, not started, when not so. fresh: from the rings' beginning, else from where
 * next_avail and next_used stand (a load). */
int fy_vq_start(struct fy_vq *q, uint64_t features, bool fresh, struct fy_err *e);
void fy_vq_stop(struct fy_vq *q);

/* Take the next request. Its buffers stay the device's until fy_vq_put. */
int fy_vq_pop(struct fy_vq *q, struct fy_vq_chain *c);
/* Undo the last pop (nothing popped since, nothing of it done). */
void fy_vq_unpop(struct fy_vq *q, const struct fy_vq_chain *c);
/* Give a request back, in any order: `written` bytes were stored into its `in` segments, from the first on;
 * they are marked dirty here. */
void fy_vq_put(struct fy_vq *q, const struct fy_vq_chain *c, uint32_t written);
/* Must the driver be interrupted for what was put since the last call that said true? Then do so
 * (fy_virtio_notify asks this itself). */
bool fy_vq_wants_interrupt(struct fy_vq *q);
/* Ask the driver to kick when it has more; true when there is more already (then pop again first). */
bool fy_vq_enable_kicks(struct fy_vq *q);
/* The device is looking anyway. A hint: kicks may still come. */
void fy_vq_disable_kicks(struct fy_vq *q);
bool fy_vq_has_more(struct fy_vq *q);

/* Copy out of (in to) a chain's segments from byte `at` of its out (in) part; returns the bytes copied, fewer
 * than len where the part ends. fy_vq_store does not mark: fy_vq_put does. */
uint64_t fy_vq_fetch(const struct fy_vq_chain *c, uint64_t at, void *buf, uint64_t len);
uint64_t fy_vq_store(const struct fy_vq_chain *c, uint64_t at, const void *buf, uint64_t len);

/* State. check: everything that fy_vq_start will check, and the counters against each other; changes
 * nothing. */
Ferry__Virtqueue *fy_vq_save(const struct fy_vq *q);
int fy_vq_check(const struct fy_vq *q, const Ferry__Virtqueue *s, uint64_t features, struct fy_err *e);
void fy_vq_load(struct fy_vq *q, const Ferry__Virtqueue *s);
void fy_vq_reset(struct fy_vq *q);

#endif
