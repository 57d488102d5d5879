// SPDX-License-Identifier: Apache-2.0
/* Steps by io_uring: the door of liburing. The ring is restricted, before it is enabled, to four operations
 * on one registered file: whoever writes into it can do to that file what the guest can anyway, and to no
 * other. */
#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/backend/file_internal.h"
#include "hv/base/checked.h"
#include "hv/base/log.h"

struct uring {
    struct fy_file_engine g;
    struct io_uring ring;
    unsigned ready; /* entries that the kernel has not been given yet */
};

static struct io_uring_sqe *get_sqe(struct uring *u)
{
    struct io_uring_sqe *sqe;
    /* There are as many entries as requests: it is full only where a submission was refused. */
    while (!(sqe = io_uring_get_sqe(&u->ring))) {
        io_uring_submit(&u->ring);
        sched_yield();
    }
    return sqe;
}

static void uring_start(struct fy_file_engine *g, struct fy_block_req *r, const struct fy_file_step *s)
{
    struct uring *u = (struct uring *)g;
    struct io_uring_sqe *sqe = get_sqe(u);
    switch (s->call) {
    case FY_FILE_READV:
        io_uring_prep_readv(sqe, 0, s->iov, s->iov_count, s->offset);
        break;
    case FY_FILE_WRITEV:
        io_uring_prep_writev(sqe, 0, s->iov, s->iov_count, s->offset);
        break;
    case FY_FILE_SYNC:
        io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
        break;
    case FY_FILE_ALLOC:
        io_uring_prep_fallocate(sqe, 0, s->mode, (off_t)s->offset, (off_t)s->bytes);
        break;
    }
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, r);
    u->ready++;
}

static bool uring_kick(struct fy_file_engine *g)
{
    struct uring *u = (struct uring *)g;
    if (!u->ready)
        return false;
    int n = io_uring_submit(&u->ring);
    if (n > 0)
        u->ready -= FY_MIN(u->ready, (unsigned)n);
    /* Short of memory for a moment: come back to it. */
    if (u->ready)
        sched_yield();
    return u->ready || io_uring_cq_ready(&u->ring);
}

static struct fy_block_req *uring_reap(struct fy_file_engine *g, bool wait)
{
    struct uring *u = (struct uring *)g;
    struct io_uring_cqe *cqe = NULL;
    while (io_uring_peek_cqe(&u->ring, &cqe) < 0 || !cqe) {
        if (!wait)
            return NULL;
        uring_kick(g);
        if (u->ready)
            sched_yield();
        else if (io_uring_wait_cqe(&u->ring, &cqe) == 0 && cqe)
            break;
    }
    struct fy_block_req *r = io_uring_cqe_get_data(cqe);
    r->result = cqe->res;
    io_uring_cqe_seen(&u->ring, cqe);
    return r;
}

static void uring_free(struct fy_file_engine *g)
{
    struct uring *u = (struct uring *)g;
    io_uring_queue_exit(&u->ring);
    free(u);
}

static const struct fy_file_engine_ops uring_ops = {
    .name = "io_uring", .start = uring_start, .kick = uring_kick, .reap = uring_reap, .free = uring_free};

/* liburing 2.3's shared library does not export its calls for these two. */
static int ring_register(const struct uring *u, unsigned what, const void *arg, unsigned n)
{
    return syscall(SYS_io_uring_register, u->ring.ring_fd, what, arg, n) < 0 ? -errno : 0;
}

static int restrict_ring(struct uring *u, int fd)
{
    static const uint8_t ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
    struct io_uring_restriction res[FY_ARRAY_LEN(ops) + 2];
    unsigned n = 0;
    memset(res, 0, sizeof res);
    for (size_t i = 0; i < FY_ARRAY_LEN(ops); i++) {
        res[n].opcode = IORING_RESTRICTION_SQE_OP;
        res[n++].sqe_op = ops[i];
    }
    res[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    res[n++].sqe_flags = IOSQE_FIXED_FILE;
    int r = io_uring_register_files(&u->ring, &fd, 1);
    if (r == 0)
        r = ring_register(u, IORING_REGISTER_RESTRICTIONS, res, n);
    return r < 0 ? r : ring_register(u, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

struct fy_file_engine *fy_file_uring_new(int fd, struct fy_err *e)
{
    struct uring *u = calloc(1, sizeof *u);
    if (!u) {
        fy_fail(e, FY_ERESOURCE, "no memory for a ring");
        return NULL;
    }
    u->g.ops = &uring_ops;
    int r = io_uring_queue_init(FY_BLOCK_DEPTH, &u->ring, IORING_SETUP_R_DISABLED);
    if (r == 0) {
        r = restrict_ring(u, fd);
        if (r < 0)
            io_uring_queue_exit(&u->ring);
    }
    if (r < 0) {
        free(u);
        fy_fail_errno(e, FY_EUNSUPPORTED, -r, "io_uring cannot be used here");
        return NULL;
    }
    u->g.poll_fd = u->ring.ring_fd;
    return &u->g;
}
