// SPDX-License-Identifier: Apache-2.0
/* Requests on a file: steps, short transfers, holes, alignment, the lock. */
#include "hv/backend/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/backend/file_internal.h"
#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/base/log.h"

#define NAME_MAX_BYTES 160
#define BOUNCE_BYTES (256u << 10)
#define BOUNCE_ALIGN 4096u

/* Steps of a ZEROES, each tried when the file system cannot do the one before. */
enum { Z_RANGE, Z_HOLE, Z_WRITE };

struct file {
    struct fy_block b;
    int fd;
    char name[NAME_MAX_BYTES];
    bool direct;
    uint32_t align; /* of memory, for O_DIRECT */
    struct fy_file_engine *engine;
    unsigned in_flight;
    struct fy_block_req *failed; /* ended before they began */
};

static uint8_t zeroes[BOUNCE_BYTES] __attribute__((aligned(BOUNCE_ALIGN)));

int fy_file_bytes(int fd, const char *name, uint64_t *bytes, struct fy_err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "%s", name);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return fy_fail(e, FY_EUSAGE, "%s is neither a file nor a block device", name);
    off_t end = S_ISREG(st.st_mode) ? st.st_size : lseek(fd, 0, SEEK_END);
    if (end < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "%s: its size", name);
    if (end == 0 || end % FY_BLOCK_SECTOR)
        return fy_fail(e, FY_EUSAGE, "%s has %lld bytes: a disk has a multiple of %u, and some", name,
                       (long long)end, FY_BLOCK_SECTOR);
    *bytes = (uint64_t)end;
    return 0;
}

/* --- the lock */

static int lock(int fd, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
    int r;
    do
        r = fcntl(fd, F_OFD_SETLK, &l);
    while (r < 0 && errno == EINTR);
    return r;
}

static int file_take(struct fy_block *b, struct fy_err *e)
{
    struct file *f = (struct file *)b;
    if (lock(f->fd, b->read_only ? F_RDLCK : F_WRLCK) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return fy_fail(e, FY_ESTATE, "%s is in use by another%s", f->name,
                       b->read_only ? ", which may write to it" : "");
    return fy_fail_errno(e, FY_EFAIL, errno, "%s cannot be locked", f->name);
}

static int file_give_up(struct fy_block *b, struct fy_err *e)
{
    struct file *f = (struct file *)b;
    if (!b->read_only && fdatasync(f->fd) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "%s: what was written cannot be made durable", f->name);
    if (lock(f->fd, F_UNLCK) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "%s cannot be unlocked", f->name);
    return 0;
}

/* --- steps */

static void copy_iov(const struct iovec *iov, unsigned n, uint64_t at, uint8_t *buf, uint64_t len, bool out)
{
    for (unsigned i = 0; i < n && len; i++) {
        if (at >= iov[i].iov_len) {
            at -= iov[i].iov_len;
            continue;
        }
        uint64_t part = FY_MIN(iov[i].iov_len - at, len);
        uint8_t *p = (uint8_t *)iov[i].iov_base + at;
        memcpy(out ? p : buf, out ? buf : p, part);
        buf += part;
        len -= part;
        at = 0;
    }
}

static bool aligned(const struct file *f, const struct fy_block_req *r)
{
    for (unsigned i = 0; i < r->iov_count; i++)
        if ((uintptr_t)r->iov[i].iov_base % f->align || r->iov[i].iov_len % FY_BLOCK_SECTOR)
            return false;
    return true;
}

/* Drop `n` moved bytes from the front. */
static void advance(struct fy_block_req *r, uint64_t n)
{
    while (r->iov_count && n >= r->iov->iov_len) {
        n -= r->iov->iov_len;
        r->iov++;
        r->iov_count--;
    }
    if (r->iov_count) {
        r->iov->iov_base = (uint8_t *)r->iov->iov_base + n;
        r->iov->iov_len -= n;
    }
}

static void start(struct file *f, struct fy_block_req *r)
{
    struct fy_file_step s = {.iov = r->iov,
                             .iov_count = r->iov_count,
                             .offset = r->offset + r->moved,
                             .bytes = r->bytes - r->moved};
    switch (r->op) {
    case FY_BLOCK_READ:
    case FY_BLOCK_WRITE:
        s.call = r->op == FY_BLOCK_READ ? FY_FILE_READV : FY_FILE_WRITEV;
        if (r->bounce) {
            s.bytes = FY_MIN(s.bytes, (uint64_t)BOUNCE_BYTES);
            if (r->op == FY_BLOCK_WRITE)
                copy_iov(r->iov, r->iov_count, r->moved, r->bounce, s.bytes, false);
            r->one = (struct iovec){r->bounce, s.bytes};
            s.iov = &r->one;
            s.iov_count = 1;
        }
        break;
    case FY_BLOCK_FLUSH:
        s.call = FY_FILE_SYNC;
        break;
    case FY_BLOCK_DISCARD:
        s.call = FY_FILE_ALLOC;
        s.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        break;
    case FY_BLOCK_ZEROES:
        s.call = r->step == Z_WRITE ? FY_FILE_WRITEV : FY_FILE_ALLOC;
        s.mode = (r->step == Z_RANGE ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) | FALLOC_FL_KEEP_SIZE;
        if (r->step == Z_WRITE) {
            s.bytes = FY_MIN(s.bytes, (uint64_t)BOUNCE_BYTES);
            r->one = (struct iovec){zeroes, s.bytes};
            s.iov = &r->one;
            s.iov_count = 1;
        }
        break;
    }
    f->engine->ops->start(f->engine, r, &s);
}

static void file_submit(struct fy_block *b, struct fy_block_req *r)
{
    struct file *f = (struct file *)b;
    r->moved = 0;
    r->bounce = NULL;
    r->step = r->op == FY_BLOCK_ZEROES && r->unmap ? Z_HOLE : Z_RANGE;
    f->in_flight++;
    if (f->direct && (r->op == FY_BLOCK_READ || r->op == FY_BLOCK_WRITE) && !aligned(f, r) &&
        posix_memalign((void **)&r->bounce, BOUNCE_ALIGN,
                       FY_ALIGN_UP(FY_MIN(r->bytes, (uint64_t)BOUNCE_BYTES), (uint64_t)BOUNCE_ALIGN))) {
        r->bounce = NULL;
        r->result = -ENOMEM;
        r->next = f->failed;
        f->failed = r;
        return;
    }
    start(f, r);
}

static void end(struct file *f, struct fy_block_req *r, int err)
{
    free(r->bounce);
    r->bounce = NULL;
    f->in_flight--;
    if (err)
        fy_warn_limited("%s: %s of %llu bytes at %llu: %s", f->name,
                        (const char *[]){"read", "write", "flush", "discard", "zeroes"}[r->op],
                        (unsigned long long)r->bytes, (unsigned long long)r->offset, strerror(err));
    r->done(r, err);
}

static void transferred(struct file *f, struct fy_block_req *r)
{
    uint64_t n = (uint64_t)r->result;
    if (r->result == 0) {
        /* The file has become shorter than its disk. */
        end(f, r, EIO);
        return;
    }
    if (r->bounce && r->op == FY_BLOCK_READ)
        copy_iov(r->iov, r->iov_count, r->moved, r->bounce, n, true);
    else if (!r->bounce && r->op != FY_BLOCK_ZEROES)
        advance(r, n);
    r->moved += n;
    if (r->moved == r->bytes)
        end(f, r, 0);
    else
        start(f, r);
}

/* A step is over. */
static void stepped(struct file *f, struct fy_block_req *r)
{
    int err = r->result < 0 ? (int)-r->result : 0;
    bool moves =
        r->op == FY_BLOCK_READ || r->op == FY_BLOCK_WRITE || (r->op == FY_BLOCK_ZEROES && r->step == Z_WRITE);
    if (err == EINTR || err == EAGAIN) {
        start(f, r);
    } else if (err == EOPNOTSUPP && r->op == FY_BLOCK_DISCARD) {
        end(f, r, 0); /* a hint, that this file system cannot take */
    } else if (err == EOPNOTSUPP && r->op == FY_BLOCK_ZEROES && r->step < Z_WRITE) {
        r->step++;
        start(f, r);
    } else if (!err && moves) {
        transferred(f, r);
    } else {
        end(f, r, err);
    }
}

static bool file_kick(struct fy_block *b)
{
    struct file *f = (struct file *)b;
    return f->engine->ops->kick(f->engine) || f->failed;
}

static unsigned file_reap(struct fy_block *b, bool wait)
{
    struct file *f = (struct file *)b;
    struct fy_block_req *r;
    bool some = false;
    while ((r = f->failed)) {
        f->failed = r->next;
        some = true;
        end(f, r, (int)-r->result);
    }
    while (f->in_flight && (r = f->engine->ops->reap(f->engine, wait && !some))) {
        unsigned was = f->in_flight;
        stepped(f, r);
        some |= f->in_flight < was;
        f->engine->ops->kick(f->engine);
    }
    return f->in_flight;
}

static void file_free(struct fy_block *b)
{
    struct file *f = (struct file *)b;
    /* A ring keeps the file open until the kernel has taken it apart, some time after this. */
    if (f->fd >= 0)
        lock(f->fd, F_UNLCK);
    if (f->engine)
        f->engine->ops->free(f->engine);
    if (!b->level)
        fy_close(&b->event_fd);
    fy_close(&f->fd);
    free(f);
}

const char *fy_file_engine(const struct fy_block *b)
{
    return ((const struct file *)b)->engine->ops->name;
}

/* --- opening */

static int look_at_direct(struct file *f, struct fy_err *e)
{
    struct statx x;
    memset(&x, 0, sizeof x);
    f->align = BOUNCE_ALIGN;
    uint32_t offset = 0;
    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) == 0 && x.stx_mask & STATX_DIOALIGN) {
        offset = x.stx_dio_offset_align;
        f->align = FY_MAX(x.stx_dio_mem_align, 1u);
        if (!offset)
            return fy_fail(e, FY_EUNSUPPORTED,
                           "%s: its file system has no direct access (cache=writeback has)", f->name);
    } else if (pread(f->fd, zeroes, FY_BLOCK_SECTOR, 0) < 0) {
        /* A kernel that does not say: try. Nobody writes yet, and what is read is thrown away. */
        offset = BOUNCE_ALIGN;
    }
    memset(zeroes, 0, FY_BLOCK_SECTOR);
    if (offset > FY_BLOCK_SECTOR || f->align > BOUNCE_ALIGN)
        return fy_fail(e, FY_EUNSUPPORTED,
                       "%s: direct access goes by blocks of %u bytes there, a guest's by %u (use "
                       "cache=writeback)",
                       f->name, offset, FY_BLOCK_SECTOR);
    return 0;
}

static const struct fy_block_ops file_ops = {.submit = file_submit,
                                             .kick = file_kick,
                                             .reap = file_reap,
                                             .give_up = file_give_up,
                                             .take = file_take,
                                             .free = file_free};

static int open_engine(struct file *f, bool threads, struct fy_err *e)
{
    struct fy_err why;
    f->engine = threads ? NULL : fy_file_uring_new(f->fd, &why);
    if (f->engine) {
        f->b.event_fd = f->engine->poll_fd;
        f->b.level = true;
        return 0;
    }
    if (!threads)
        fy_info("%s: %s; threads do its input and output", f->name, why.text);
    f->b.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (f->b.event_fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "%s: cannot make an eventfd", f->name);
    f->engine = fy_file_threads_new(f->fd, f->b.event_fd, e);
    return f->engine ? 0 : -1;
}

struct fy_block *fy_file_open(int fd, const struct fy_file_config *c, struct fy_err *e)
{
    struct file *f = calloc(1, sizeof *f);
    if (!f) {
        fy_close(&fd);
        fy_fail(e, FY_ERESOURCE, "no memory for %s", c->name);
        return NULL;
    }
    f->b = (struct fy_block){.ops = &file_ops, .read_only = c->read_only, .event_fd = -1};
    f->fd = fd;
    strncpy(f->name, c->name, sizeof f->name - 1);
    int flags = fcntl(fd, F_GETFL);
    f->direct = flags >= 0 && flags & O_DIRECT;
    int r = 0;
    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY || (!c->read_only && (flags & O_ACCMODE) == O_RDONLY))
        r = fy_fail(e, FY_EUSAGE, "%s: its descriptor is not open for what the guest may do", f->name);
    if (r < 0 || fy_file_bytes(fd, f->name, &f->b.bytes, e) < 0 || (f->direct && look_at_direct(f, e) < 0) ||
        (!c->unlocked && file_take(&f->b, e) < 0) || open_engine(f, c->threads, e) < 0) {
        file_free(&f->b);
        return NULL;
    }
    return &f->b;
}
