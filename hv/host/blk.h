// SPDX-License-Identifier: Apache-2.0
/* Disks with a server: exports by NBD, and images that a qemu-nbd of ours reads. Each has a ferry-blk, which
 * speaks with the server; it dies with its guest and lives on without this daemon. Loop thread only. */
#ifndef FERRY_HOST_BLK_H
#define FERRY_HOST_BLK_H

#include "hv/host/daemon.h"

/* Is it one of those? */
bool fyd_disk_served(const Ferry__Disk *k);
/* By NBD, not a file. */
bool fyd_disk_is_nbd(const Ferry__Disk *k);
/* Can it be had here: is its URI one that we speak, may a peer name it, is there a qemu-nbd? Asks no server.
 */
int fyd_blk_may(const struct fyd *d, const Ferry__Disk *k, bool incoming, struct fy_err *e);
/* Path of Debian's qemu-nbd here, NULL where there is none. */
const char *fyd_qemu_nbd(void);

/* Ask what the served disks among a new guest's have, and fill in their sizes. cb comes once, from the loop
 * or at once; the disks stay until then. */
void fyd_blk_measure(struct fyd *d, Ferry__Disk **disks, size_t count,
                     void (*cb)(void *arg, const struct fy_err *err), void *arg);

/* Start disk i's ferry-blk. *sock: the guest's end, the caller's. */
int fyd_blk_start(struct fyd_guest *g, const Ferry__Disk *k, unsigned i, bool incoming, int *sock,
                  struct fy_err *e);
/* The hypervisor says which disks have theirs: start anew what has ended. */
void fyd_blk_status(struct fyd_guest *g, const Ferry__StatusReply *s);
/* The guest's process is gone; its ferry-blks end by themselves. */
void fyd_blk_forget(struct fyd_guest *g);
/* This daemon ends; they do not. After the guests. */
void fyd_blks_free_all(struct fyd *d);

#endif
