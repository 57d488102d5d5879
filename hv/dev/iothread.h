// SPDX-License-Identifier: Apache-2.0
/* A thread with an event loop for devices, apart from the vCPUs. */
#ifndef FERRY_DEV_IOTHREAD_H
#define FERRY_DEV_IOTHREAD_H

#include "hv/base/loop.h"

struct fy_iothread;

/* Start it, all signals blocked. name: of the thread, at most 15 characters. NULL on failure. */
struct fy_iothread *fy_iothread_new(const char *name, struct fy_err *e);
/* Stop the loop, wait for the thread, free both. After everything that watches on its loop was freed by
 * fy_iothread_run. NULL is allowed. */
void fy_iothread_free(struct fy_iothread *t);
struct fy_loop *fy_iothread_loop(struct fy_iothread *t);
/* Have fn(arg) run on the thread and wait until it has: watches are made and freed there. Any other thread,
 * with no lock held that a callback on that thread takes. Runs it here when called on the thread itself. */
void fy_iothread_run(struct fy_iothread *t, void (*fn)(void *arg), void *arg);

#endif
