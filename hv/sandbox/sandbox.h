// SPDX-License-Identifier: Apache-2.0
/* What a process gives up before it touches anything hostile: a guest's instructions, a peer's bytes.
 * Everything it needs has reached it by descriptor before. docs/isolation.md says what each layer keeps out.
 */
#ifndef FERRY_SANDBOX_H
#define FERRY_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"

enum fy_sandbox_layer {
    FY_SANDBOX_UID = 1u << 0,      /* a user of its own, no groups, no capabilities; where started by root */
    FY_SANDBOX_ROOT = 1u << 1,     /* an empty folder that is gone as "/"; where started by root */
    FY_SANDBOX_NO_PRIVS = 1u << 2, /* no_new_privs */
    FY_SANDBOX_FILES =
        1u << 3, /* Landlock: no file, TCP port, abstract socket or signal beyond the process */
    FY_SANDBOX_CALLS = 1u << 4, /* seccomp: a list of system calls for each kind of thread */
    FY_SANDBOX_ALL = (1u << 5) - 1
};

/* Kinds of thread, each with its list of system calls. A thread that starts another passes its own list on;
 * the other then narrows it. */
enum fy_sandbox_thread {
    FY_SANDBOX_MAIN,   /* ferry-hv's main thread: control socket, devices' life, new threads */
    FY_SANDBOX_IO,     /* serves devices */
    FY_SANDBOX_VCPU,   /* runs the guest */
    FY_SANDBOX_WORKER, /* a worker that speaks with a peer; all its threads */
    FY_SANDBOX_NET,    /* a guest's user network: speaks with anybody */
};

/* What the process still has to do. */
struct fy_sandbox_wants {
    uid_t uid;    /* the user to become where started by root; 0 keeps the present one */
    bool connect; /* to peers by name: TCP, and reading what the resolver reads (/etc, libraries) */
    bool listen;  /* at TCP ports */
};

/* Give up users, files and privileges. While the process has one thread. Layers that this host cannot give
 * are left out and said in the log. Fills *layers with those that are on; -1 (FY_EFAIL) only when a step half
 * done must not be lived with. */
int fy_sandbox_process(const struct fy_sandbox_wants *wants, uint32_t *layers, struct fy_err *e);

/* Narrow the calling thread to its kind's list; a call that is not on it fails with EPERM. Returns
 * FY_SANDBOX_CALLS, or 0 where this host (or a sanitizer build) cannot. Any thread, for itself, once. */
uint32_t fy_sandbox_thread(enum fy_sandbox_thread kind);

/* The layers that this host can give a process of the caller's user. Changes nothing. Any thread. */
uint32_t fy_sandbox_possible(void);

/* "user, root, no-new-privs, files, calls": those of `layers`, for people. buf: FY_SANDBOX_TEXT bytes. */
const char *fy_sandbox_text(uint32_t layers, char *buf);
#define FY_SANDBOX_TEXT 64

#endif
