// SPDX-License-Identifier: Apache-2.0
/* Shares of the host: a cgroup (version 2) for each guest's hypervisor. Files below /sys/fs/cgroup/ferry; the
 * loop's thread. Linux Documentation/admin-guide/cgroup-v2.rst. */
#ifndef FERRY_HOST_CGROUP_H
#define FERRY_HOST_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"

/* 0 or "": not limited. */
struct fyd_limits {
    uint32_t cpu_weight;   /* 1..10000; cgroups begin with 100 */
    uint32_t cpu_cap;      /* per cent of one CPU: 150 is one and a half */
    char cpus[64];         /* where it may run: "0-3,6" */
    uint32_t io_weight;    /* 1..10000 */
    uint64_t memory_limit; /* bytes, of guest memory and the hypervisor together */
};

enum { FYD_CG_CPU = 1, FYD_CG_CPUSET = 2, FYD_CG_IO = 4, FYD_CG_MEMORY = 8 };

/* What this host offers, made ready as far as it is; a set of FYD_CG_…. why: FY_ERR_TEXT bytes, said where it
 * is none. Again later: the same, anew. */
unsigned fyd_cgroup_controllers(char *why);

/* Put a process into the guest's cgroup, which is made. 0; -1 where there are no cgroups: the guest runs
 * without limits. */
int fyd_cgroup_join(const uint8_t uuid[16], pid_t pid, struct fy_err *e);

/* Check values and apply those that are set; others go back to "not limited". FY_EUSAGE for a value that
 * cannot be, FY_EUNSUPPORTED naming the controller that is missing. */
int fyd_cgroup_apply(const uint8_t uuid[16], const struct fyd_limits *l, struct fy_err *e);

/* The guest's process has ended. */
void fyd_cgroup_remove(const uint8_t uuid[16]);

#endif
