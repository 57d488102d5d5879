// SPDX-License-Identifier: Apache-2.0
/* A ferry-hv process of a test: its descriptors and a control client. */
#ifndef FERRY_TESTS_ENGINE_HVPROC_H
#define FERRY_TESTS_ENGINE_HVPROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/control/client.h"

struct hvproc {
    pid_t pid;
    int mem_fd;
    int listen; /* our copy of the listening socket's path is in `path` */
    char path[64];
    int runlog_fd;
    uint64_t ready_ns; /* from exec to the ready message */
    Ferry__HvReady *ready;
    struct fy_ctl *ctl;
};

struct hvproc_options {
    const void *code; /* flat 32-bit code for a PVH ELF; NULL: incoming */
    size_t code_len;
    const char *kernel_path; /* instead of code */
    const char *initrd_path; /* or NULL */
    const char *cmdline;
    uint64_t memory;
    uint32_t vcpus;
    const char *model;
    bool debug_exit, prealloc, paused;
    uint32_t dirty_ring;
    const Ferry__Machine *machine; /* incoming: the source's description */
    const char *fault;             /* FERRY_FAULT */
    bool bad_runlog;               /* a run log that cannot be written */
};

/* NULL where /dev/kvm cannot be opened; ready->code tells of other failures. Asserts on the rest. */
struct hvproc *hvproc_start(const char *program, const struct hvproc_options *o);
/* Kill if it still lives, reap, free. Returns the wait status. */
int hvproc_end(struct hvproc *p);
/* Wait for it to end by itself (at most 10 s); returns the wait status. */
int hvproc_wait(struct hvproc *p);
/* Another connection. */
struct fy_ctl *hvproc_connect(struct hvproc *p);
Ferry__StatusReply *hvproc_status(struct hvproc *p, Ferry__ControlOut **hold);
/* Poll status until `state`, at most 20 s. */
bool hvproc_await(struct hvproc *p, Ferry__GuestState state);

#endif
