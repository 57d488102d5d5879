// SPDX-License-Identifier: Apache-2.0
/* Disks of guests: the daemon opens their files, ferry-hv gets descriptors. A guest of this host's operator
 * may have any file that the daemon can open; one that a peer sends, only what lies under the folders of
 * --disks: else a peer could have any file of this host made a disk of its guest. Loop thread. */
#ifndef FERRY_HOST_DISKS_H
#define FERRY_HOST_DISKS_H

#include "hv/host/daemon.h"

/* What a new guest's disks leave open: name, format, cache, queues; and their sizes, from the descriptors. */
int fyd_disks_complete(Ferry__Machine *m, const int *fds, struct fy_err *e);

/* Open all of a machine's disks into fds (FYD_DISKS_MAX), all -1 on error. Those with a server (blk.h) stay
 * -1. */
int fyd_disks_open(const struct fyd *d, const Ferry__Machine *m, bool incoming, int *fds, struct fy_err *e);
void fyd_disks_close(int *fds);

/* The file of one. */
int fyd_disk_open(const struct fyd *d, const Ferry__Disk *k, bool incoming, struct fy_err *e);
/* Connect to the unix socket at path, for a disk of that name: non-blocking; -1 on failure. */
int fyd_disk_connect(const struct fyd *d, const char *disk, const char *path, bool incoming,
                     struct fy_err *e);

/* Can an incoming guest's disk be had here: is there a file, of its kind and size? Looks without opening it.
 */
int fyd_disk_look(const struct fyd *d, const Ferry__Disk *k, struct fy_err *e);

#endif
