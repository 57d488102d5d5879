// SPDX-License-Identifier: Apache-2.0
/* Messages between ferry-hv and ferry-blk (proto/blk.h), written and read with every field checked. Pure; any
 * thread. */
#ifndef FERRY_BACKEND_BLK_WIRE_H
#define FERRY_BACKEND_BLK_WIRE_H

#include <stdbool.h>
#include <stddef.h>

#include "hv/base/err.h"
#include "proto/blk.h"

struct fy_blkw_seg {
    uint64_t at, len; /* bytes in the memfd */
};

struct fy_blkw_request {
    uint32_t id;
    enum fy_blkw_op op;
    unsigned flags;
    uint64_t offset, bytes;
    unsigned segs;
    struct fy_blkw_seg seg[FY_BLKW_SEGS_MAX];
};

struct fy_blkw_reply {
    uint32_t id;
    enum fy_blkw_kind kind;
    int error;
    int code;
    uint64_t bytes;
    char text[FY_BLKW_TEXT_MAX + 1];
};

/* Fills buf (FY_BLKW_REQUEST_MAX bytes); returns the message's length. */
size_t fy_blkw_put_request(const struct fy_blkw_request *r, uint8_t *buf);
/* FY_ECORRUPT, and *r is not to be used, for what proto/blk.h does not allow. */
int fy_blkw_get_request(const uint8_t *buf, size_t len, struct fy_blkw_request *r, struct fy_err *e);
/* Does a request of READ to ZEROES lie inside the disk, and its segments each inside one of the areas? Whole
 * sectors, and not 0 (but for FLUSH). FY_ECORRUPT. */
int fy_blkw_check(const struct fy_blkw_request *r, uint64_t disk_bytes, const struct fy_blkw_seg *areas,
                  unsigned area_count, struct fy_err *e);

/* buf: FY_BLKW_REPLY_MAX bytes. */
size_t fy_blkw_put_reply(const struct fy_blkw_reply *r, uint8_t *buf);
int fy_blkw_get_reply(const uint8_t *buf, size_t len, struct fy_blkw_reply *r, struct fy_err *e);

#endif
