// SPDX-License-Identifier: Apache-2.0
/* The event loop (libevent behind it). One thread owns a loop and runs all its callbacks; only
 * fy_loop_post and fy_loop_stop may be called from other threads. */
#ifndef FERRY_BASE_LOOP_H
#define FERRY_BASE_LOOP_H

#include <stdint.h>

#include "hv/base/err.h"

struct fy_loop;
struct fy_watch; /* a watched descriptor, timer or signal */

#define FY_READ 1u
#define FY_WRITE 2u

typedef void (*fy_fd_cb)(int fd, unsigned ready, void *arg);
typedef void (*fy_timer_cb)(void *arg);
typedef void (*fy_signal_cb)(int signo, void *arg);

/* NULL on failure. Free it after all its watches. */
struct fy_loop *fy_loop_new(struct fy_err *e);
void fy_loop_free(struct fy_loop *loop);

/* Call cb whenever fd is ready in one of `ready` (level triggered), until the watch is freed; the
 * descriptor stays the caller's and must outlive the watch. A watch may be freed in its own callback. */
struct fy_watch *fy_watch_fd(struct fy_loop *loop, int fd, unsigned ready, fy_fd_cb cb, void *arg,
                             struct fy_err *e);

/* A one-shot timer, not armed yet. fy_timer_arm starts or restarts it; it may be armed in its callback. */
struct fy_watch *fy_timer_new(struct fy_loop *loop, fy_timer_cb cb, void *arg, struct fy_err *e);
void fy_timer_arm(struct fy_watch *timer, uint64_t ms);
void fy_timer_disarm(struct fy_watch *timer);

/* Call cb on the loop's thread for each arrival of signo. One loop a process may watch signals. */
struct fy_watch *fy_watch_signal(struct fy_loop *loop, int signo, fy_signal_cb cb, void *arg,
                                 struct fy_err *e);

/* Stop watching and free; NULL is allowed. */
void fy_watch_free(struct fy_watch *w);

/* Run callbacks until fy_loop_stop. Returns 0, -1 if the kernel refuses to wait. */
int fy_loop_run(struct fy_loop *loop, struct fy_err *e);

/* Make fy_loop_run return after the current callback. Any thread. */
void fy_loop_stop(struct fy_loop *loop);

/* Have cb(arg) run once on the loop's thread. Any thread. -1 when memory is short. */
int fy_loop_post(struct fy_loop *loop, fy_timer_cb cb, void *arg, struct fy_err *e);

#endif
