// SPDX-License-Identifier: Apache-2.0
/* Disks as the command line and definitions say them. */
#ifndef FERRY_DEFINE_DISK_H
#define FERRY_DEFINE_DISK_H

#include "hv/base/err.h"
#include "proto/machine.pb-c.h"

#define FY_DEF_DISKS_MAX 12

/* "FILE[,ro][,cache=none|writeback][,name=NAME][,queues=N][,format=raw|qcow2][,hold=SECONDS]", FILE also a
 * URI (nbd_uri.h). The format is what is said, else what the name's end says; contents are never asked. *disk
 * points into *text, a fresh copy that the caller frees, also on failure. FY_EUSAGE. */
int fy_parse_disk(const char *arg, Ferry__Disk *disk, char **text, struct fy_err *e);

#endif
