// SPDX-License-Identifier: Apache-2.0
/* What has to be known of a qcow2 image before a qemu-nbd may read it (QEMU's docs/interop/qcow2.txt). */
#ifndef FERRY_HOST_QCOW2_H
#define FERRY_HOST_QCOW2_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

#define FYD_QCOW2_HEADER 104

/* The disk's size from the file's first FYD_QCOW2_HEADER bytes. FY_EUSAGE for another format, and for an
 * image that names other files (a backing file, an external data file) or is encrypted: the files it names
 * would be opened with this daemon's rights. Pure. */
int fyd_qcow2_bytes(const uint8_t *header, size_t len, uint64_t *bytes, struct fy_err *e);

struct fyd;
/* Have a qemu-nbd serve the image that fd holds, which stays the caller's, on a socket with one connection:
 * it ends with that. folder: where the socket may be for a moment. fds: the connection (non-blocking), the
 * process's pidfd, and what it says (a memfd); the caller's. */
int fyd_qcow2_serve(struct fyd *d, const char *folder, int fd, const char *cache, int read_only, int fds[3],
                    struct fy_err *e);
void fyd_qcow2_free_all(struct fyd *d);

#endif
