// SPDX-License-Identifier: Apache-2.0
/* Child processes with exactly the descriptors that they are meant to have, and pidfds. Loop thread only. */
#ifndef FERRY_HOST_SPAWN_H
#define FERRY_HOST_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"

#define FYD_SPAWN_FDS 128

struct fyd_spawn {
    const char *path;
    const char *const *argv; /* NULL-terminated, argv[0] included */
    int fds[FYD_SPAWN_FDS];  /* become descriptors 3, 4, ... ; stay the caller's */
    int nfds;
    int out_fd;       /* its stdout; 0: /dev/null */
    int log_fd;       /* its stderr; -1: ours */
    bool session;     /* a session of its own: signals to the daemon's terminal or group pass it by */
    bool die_with_us; /* killed by the kernel when this process ends */
};

/* Start it. Descriptor 0 is /dev/null. Fails with the cause when the program cannot be executed. On success
 * the caller owns *pidfd (CLOEXEC, readable when the process has ended). */
int fyd_spawn(const struct fyd_spawn *s, pid_t *pid, int *pidfd, struct fy_err *e);

/* A pidfd of a process that is not our child, or -1. start: if not 0 the process's start time must be this.
 */
int fyd_pidfd(pid_t pid, uint64_t start, struct fy_err *e);

/* Start time of a process in clock ticks since boot (proc(5) stat, field 22); 0 when there is none. */
uint64_t fyd_start_time(pid_t pid);

/* SIGKILL by pidfd; never the wrong process. */
void fyd_kill(int pidfd);

/* Reap an ended child. *how gets "exited with status 1" or "was ended by signal 9 (Killed)". False while it
 * runs; for a process that is not our child *how says only that it ended. */
bool fyd_reap(int pidfd, char *how, unsigned room, bool *clean);

/* The kernel's boot id (random(4)), 36 characters; empty when it cannot be read. */
void fyd_boot_id(char out[40]);

#endif
