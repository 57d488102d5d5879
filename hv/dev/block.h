// SPDX-License-Identifier: Apache-2.0
/* What a disk device asks of what is behind it: reads, writes, flushes, discards and zeroes at byte offsets,
 * answered by a callback. Behind it are the backends of hv/backend/.
 *
 * Threads: every call on one backend is made with its device's lock held, so that a backend needs none of its
 * own for them. Requests are done in any order; only a flush orders: it covers what was done before it was
 * submitted. */
#ifndef FERRY_DEV_BLOCK_H
#define FERRY_DEV_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/err.h"

#define FY_BLOCK_DEPTH 128u  /* at most so many requests are in flight */
#define FY_BLOCK_SECTOR 512u /* capacities and the offsets of requests are multiples */

enum fy_block_op { FY_BLOCK_READ, FY_BLOCK_WRITE, FY_BLOCK_FLUSH, FY_BLOCK_DISCARD, FY_BLOCK_ZEROES };

struct fy_block_req {
    enum fy_block_op op;
    bool unmap;             /* ZEROES: holes will do */
    uint64_t offset, bytes; /* inside the disk; a read's and a write's bytes are those of iov */
    struct iovec *iov;      /* the backend's until done: it may change it */
    unsigned iov_count;
    /* err: 0 or an errno. Called from `reap` only. */
    void (*done)(struct fy_block_req *r, int err);

    /* the backend's */
    struct fy_block_req *next;
    uint64_t moved;
    uint8_t *bounce;
    struct iovec one;
    int64_t result;
    unsigned step;
};

struct fy_block;

struct fy_block_ops {
    /* Take a request. It may wait for `kick`. Calls nothing back. */
    void (*submit)(struct fy_block *b, struct fy_block_req *r);
    /* Begin what waits. True: some of it has ended already, or may go on after that: call reap, then kick
     * again. */
    bool (*kick)(struct fy_block *b);
    /* Call `done` for what is finished; wait: for one at least, where any is in flight. Returns how many are
     * still in flight. */
    unsigned (*reap)(struct fy_block *b, bool wait);
    /* Nothing is in flight. Make all that was written durable, then let others have it: the lock is given up.
     * On error it is still held. */
    int (*give_up)(struct fy_block *b, struct fy_err *e);
    /* Lock it, against two users: one writer, or readers. FY_ESTATE when another has it. Again: no effect. */
    int (*take)(struct fy_block *b, struct fy_err *e);
    /* These two may be NULL, of a backend whose `reap` with wait always waits to the end. Of another it gives
     * up at a bound: what is not done by then stands, and touches no memory before resume. */
    void (*resume)(struct fy_block *b);
    /* Call `done` with ECANCELED for what stands: it will never be done. */
    void (*cancel)(struct fy_block *b);
    /* Nothing is in flight. */
    void (*free)(struct fy_block *b);
};

struct fy_block {
    const struct fy_block_ops *ops;
    uint64_t bytes;
    bool read_only;
    int event_fd; /* an eventfd that is signalled when reap has something to do */
    bool level;   /* event_fd is none, but readable until reap has been called */
};

#endif
