// SPDX-License-Identifier: Apache-2.0
/* A disk in a file or on a block device, by io_uring, or by threads where that is not to be had. */
#ifndef FERRY_BACKEND_FILE_H
#define FERRY_BACKEND_FILE_H

#include "hv/dev/block.h"

struct fy_file_config {
    const char *name; /* for errors: "disk0 (/srv/a.img)" */
    bool read_only;
    bool threads;  /* never io_uring */
    bool unlocked; /* it is not locked here; take does that */
};

/* Take over fd, open for reading and (unless read_only) writing, also on failure. With O_DIRECT it bypasses
 * the host's page cache; then requests that are not aligned as the file wants go through buffers. It is
 * locked against two users (an open file description lock: one writer, or readers), which is given up when
 * every duplicate of fd is closed. FY_ESTATE when another has it. Any thread. */
struct fy_block *fy_file_open(int fd, const struct fy_file_config *c, struct fy_err *e);

/* Bytes of a regular file or block device. -1 with FY_EUSAGE for other kinds and for sizes that are no
 * multiple of FY_BLOCK_SECTOR. Any thread. */
int fy_file_bytes(int fd, const char *name, uint64_t *bytes, struct fy_err *e);

/* "io_uring" or "threads". */
const char *fy_file_engine(const struct fy_block *b);

#endif
