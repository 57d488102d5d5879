// SPDX-License-Identifier: Apache-2.0
/* ferry-hv and a disk's ferry-blk: a seqpacket socket, one message a datagram, fixed layouts, all integers
 * little endian. Data lies in guest memory, whose memfd comes with OPEN; messages name places in it. */
#ifndef FERRY_PROTO_BLK_H
#define FERRY_PROTO_BLK_H

#include "proto/wire.h"

/* Request: id u32, op u16, flags u16, offset u64, bytes u64, segments u32, reserved u32 (0); then so many of
 * {place in the memfd u64, length u64}. ids: below FY_BLKW_IDS, each in use once at a time. */
#define FY_BLKW_REQUEST 32
#define FY_BLKW_SEG 16
#define FY_BLKW_SEGS_MAX 256
#define FY_BLKW_REQUEST_MAX (FY_BLKW_REQUEST + FY_BLKW_SEG * FY_BLKW_SEGS_MAX)
#define FY_BLKW_IDS 128u
#define FY_BLKW_SECTOR 512u
#define FY_BLKW_AREAS_MAX 4

enum fy_blkw_op {
    FY_BLKW_READ = 1, /* segments: bytes in all */
    FY_BLKW_WRITE = 2,
    FY_BLKW_FLUSH = 3,   /* offset and bytes 0 */
    FY_BLKW_DISCARD = 4, /* no segments */
    FY_BLKW_ZEROES = 5,
    /* about the disk, id 0, answered once and in order */
    FY_BLKW_OPEN =
        16, /* 1 descriptor: the memfd; bytes: of the disk; segments: the areas of RAM in the memfd */
    FY_BLKW_CLOSE = 17, /* flush, and let others have it; nothing is in flight */
    FY_BLKW_PARK =
        18, /* forget what is in flight, answered or not: no byte of memory changes after the answer */
};

#define FY_BLKW_F_READ_ONLY 1u /* OPEN */
#define FY_BLKW_F_KEEP 2u      /* OPEN: it was open: try as after a broken connection */
#define FY_BLKW_F_UNMAP 4u     /* ZEROES: holes will do */

/* Reply: id u32, kind u16, reserved u16 (0), error u32, code u32, bytes u64; then text, to the end. */
#define FY_BLKW_REPLY 24
#define FY_BLKW_TEXT_MAX 512
#define FY_BLKW_REPLY_MAX (FY_BLKW_REPLY + FY_BLKW_TEXT_MAX)

enum fy_blkw_kind {
    FY_BLKW_DONE = 1,   /* request id; error: an errno, or 0 */
    FY_BLKW_OPENED = 2, /* code: 0, or enum fy_code with the reason as text */
    FY_BLKW_CLOSED = 3, /* likewise; on error it is still open */
    FY_BLKW_PARKED = 4,
    FY_BLKW_UP = 5,   /* unasked: the server is there */
    FY_BLKW_DOWN = 6, /* unasked: it is not, text says why; requests wait */
};

#endif
