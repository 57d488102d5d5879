// SPDX-License-Identifier: Apache-2.0
/* Private to the file backend. file.c cuts requests into steps, each one system call's worth; an engine
 * carries steps out: file_uring.c, file_threads.c. */
#ifndef FERRY_BACKEND_FILE_INTERNAL_H
#define FERRY_BACKEND_FILE_INTERNAL_H

#include "hv/backend/file.h"

enum fy_file_call { FY_FILE_READV, FY_FILE_WRITEV, FY_FILE_SYNC, FY_FILE_ALLOC };

struct fy_file_step {
    enum fy_file_call call;
    const struct iovec *iov;
    unsigned iov_count;
    uint64_t offset, bytes;
    int mode; /* ALLOC: of fallocate */
};

struct fy_file_engine;

/* All calls with the disk's device lock held. */
struct fy_file_engine_ops {
    const char *name;
    /* Queue a step of r; its result (as of the system call, -errno on failure) comes from reap. At most
     * FY_BLOCK_DEPTH are queued. r->step and what it points to stay. */
    void (*start)(struct fy_file_engine *g, struct fy_block_req *r, const struct fy_file_step *s);
    /* As of fy_block_ops. */
    bool (*kick)(struct fy_file_engine *g);
    /* Next finished request, its result in r->result; NULL: none. wait: until there is one; some are queued.
     */
    struct fy_block_req *(*reap)(struct fy_file_engine *g, bool wait);
    void (*free)(struct fy_file_engine *g);
};

struct fy_file_engine {
    const struct fy_file_engine_ops *ops;
    int poll_fd; /* readable while reap has something to do; the engine's. -1: it signals an eventfd */
};

/* fd and event_fd stay the caller's. NULL with the cause. */
struct fy_file_engine *fy_file_uring_new(int fd, struct fy_err *e);
struct fy_file_engine *fy_file_threads_new(int fd, int event_fd, struct fy_err *e);

#endif
