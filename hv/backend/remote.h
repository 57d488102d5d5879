// SPDX-License-Identifier: Apache-2.0
/* A disk that a process of its own serves (ferry-blk): requests go there by socket, data lies in guest
 * memory. A server that is gone keeps requests waiting, a pause never: what is not done within a bound then
 * stands until the machine goes on. */
#ifndef FERRY_BACKEND_REMOTE_H
#define FERRY_BACKEND_REMOTE_H

#include "hv/dev/block.h"
#include "hv/mem/guest.h"

struct fy_remote_config {
    const char *name; /* for errors: "disk data (nbd://...)" */
    uint64_t bytes;
    bool read_only;
    uint64_t hold_ns;     /* how long requests wait while the process is gone; then they fail */
    struct fy_gmem *gmem; /* outlives it */
    /* The process is gone: another is to be attached. Any thread, with the device's lock held. May be NULL.
     */
    void (*lost)(void *arg);
    void *arg;
};

/* Take over sock, a seqpacket socket with a ferry-blk at its other end, also on failure, and have it open the
 * disk; take waits until it has. */
struct fy_block *fy_remote_new(int sock, const struct fy_remote_config *c, struct fy_err *e);

/* Take over sock in place of that of a process that has ended, also on failure. FY_ESTATE while the old one
 * lives. Device's lock. */
int fy_remote_attach(struct fy_block *b, int sock, struct fy_err *e);

struct fy_remote_status {
    bool process;    /* there is a ferry-blk */
    bool up;         /* and it has its server */
    unsigned waits;  /* requests that are not done */
    const char *why; /* up is false: why; the backend's */
};

/* Device's lock. False, and nothing filled, for other kinds of backends. */
bool fy_remote_status(const struct fy_block *b, struct fy_remote_status *s);

#endif
