// SPDX-License-Identifier: Apache-2.0
/* What this host has promised to its guests, and whether it may promise more: `ferryd --memory-overcommit`
 * and
 * `--cpu-overcommit`. */
#ifndef FERRY_HOST_PROMISE_H
#define FERRY_HOST_PROMISE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/machine.pb-c.h"

struct fyd;

#define FYD_MEMORY_RATIO 1.0
#define FYD_CPU_RATIO 4.0

struct fyd_promises {
    uint64_t memory;  /* bytes promised to the guests that live or come: memory and margin */
    uint64_t there;   /* bytes that the host has for them */
    uint64_t allowed; /* `there` times the ratio */
    bool limited;     /* `there` is the limit of the daemon's cgroup, not all of the host */
    unsigned guests, vcpus, cpus;
};

/* Bytes that a guest may come to use: its memory with what lies behind it, and a margin for its processes and
 * for the host's page tables. 2 MiB pages come from the host's pool of them and are not counted. Pure. */
uint64_t fyd_promise_of(const Ferry__Machine *m);
void fyd_promises(const struct fyd *d, struct fyd_promises *out);
/* FY_ERESOURCE, with all figures and what to do, where a guest of this description would be one too many. */
int fyd_promise_check(const struct fyd *d, const Ferry__Machine *m, struct fy_err *e);
/* Into why ("" where there is none) what is to be said of that many more vCPUs. */
void fyd_promise_cpus(const struct fyd *d, unsigned more, char *why, size_t room);

/* The text of a ratio: 1.0 to 100. */
int fyd_ratio_parse(const char *text, double *out);

/* The least memory limit of a cgroup and those above it; UINT64_MAX: none. `self` is /proc/self/cgroup's
 * text, `top` where cgroups are mounted. */
uint64_t fyd_cgroup_memory_limit(const char *self, const char *top);

#endif
