// SPDX-License-Identifier: Apache-2.0
/* A connection to an NBD server: the door of libnbd. One thread at a time uses a connection. */
#ifndef FERRY_BACKEND_BLK_NBD_H
#define FERRY_BACKEND_BLK_NBD_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

struct fy_nbd;

struct fy_nbd_place {
    const char *host, *port; /* TCP; host "": by fd */
    int fd;                  /* a connected stream socket, taken over, also on failure; else -1 */
    const char *export_name; /* "": the server's default */
};

struct fy_nbd_facts {
    uint64_t bytes;
    bool read_only, flush, trim, zero;
    uint32_t min_block, max_block; /* of requests; max: at least 512 */
};

enum fy_nbd_op { FY_NBD_READ, FY_NBD_WRITE, FY_NBD_FLUSH, FY_NBD_TRIM, FY_NBD_ZERO };

/* Told once for each command that was begun, from fy_nbd_ready; err: 0 or an errno. ENOTCONN: the connection
 * is gone, and nobody knows whether it was done. It begins and closes nothing. */
typedef void (*fy_nbd_done)(void *arg, int err);

/* Connect and negotiate, at most until `until_ns` (CLOCK_MONOTONIC), but for the resolver's own time. Blocks.
 * FY_EUNREACHABLE, FY_EREFUSED (the server says no), FY_EDEADLINE. */
struct fy_nbd *fy_nbd_connect(const struct fy_nbd_place *p, uint64_t until_ns, struct fy_err *e);
void fy_nbd_facts(const struct fy_nbd *n, struct fy_nbd_facts *f);

/* Begin a command. buf stays until done or fy_nbd_close. hole: ZERO may unmap. 0, or an errno and no call of
 * done: ENOTCONN when the connection is gone. */
int fy_nbd_start(struct fy_nbd *n, enum fy_nbd_op op, void *buf, uint64_t offset, uint64_t bytes, bool hole,
                 fy_nbd_done done, void *arg);
/* What poll(2) is to wait for. */
int fy_nbd_fd(struct fy_nbd *n, short *events);
/* Poll said so: go on. False: the connection is gone. */
bool fy_nbd_ready(struct fy_nbd *n, short revents);
/* bye: nothing is in flight, tell the server. Else drop what is in flight; its buffers are not touched any
 * more, and its `done` is not called. NULL is allowed. */
void fy_nbd_close(struct fy_nbd *n, bool bye);

#endif
