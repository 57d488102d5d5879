// SPDX-License-Identifier: Apache-2.0
/* Whole reads and writes, durable files, descriptor helpers. All calls block; any thread. */
#ifndef FERRY_BASE_IO_H
#define FERRY_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"

/* Read or write exactly len bytes, past EINTR and short counts. 0, or -1 with errno set; a read that
 * meets the end early fails with errno = ENODATA. */
int fy_read_all(int fd, void *buf, size_t len);
int fy_write_all(int fd, const void *buf, size_t len);
int fy_pread_all(int fd, void *buf, size_t len, off_t offset);
int fy_pwrite_all(int fd, const void *buf, size_t len, off_t offset);

/* Read the whole file at path (relative to dirfd, AT_FDCWD allowed), at most `limit` bytes, into a
 * fresh buffer with a NUL behind it; the caller frees *buf. */
int fy_read_file(int dirfd, const char *path, size_t limit, char **buf, size_t *len, struct fy_err *e);

/* Replace dirfd/name durably: temporary file, fsync, rename, fsync of the directory. On error the old
 * file stands and the temporary one is gone. */
int fy_write_file_durable(int dirfd, const char *name, const void *buf, size_t len, mode_t mode,
                          struct fy_err *e);

/* close(2) and set to -1; -1 stays. */
void fy_close(int *fd);

/* A duplicate with FD_CLOEXEC, or -1 with errno. */
int fy_dup(int fd);

/* Clear FD_CLOEXEC before exec, or set it. 0 or -1 with errno. */
int fy_set_cloexec(int fd, bool on);

/* Fill buf with len bytes from the kernel's random pool. Never fails on Linux >= 3.17. */
void fy_random(void *buf, size_t len);

/* Map `bytes` (a multiple of the page size) of a file, shared, at a multiple of 2 MiB, so that the kernel can
 * map its large pages whole. MAP_FAILED with errno. Unmap with munmap. Any thread. */
void *fy_map_large(int fd, uint64_t bytes, int prot);

#endif
