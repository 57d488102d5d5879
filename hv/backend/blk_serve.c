// SPDX-License-Identifier: Apache-2.0
#include "hv/backend/blk_serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"

#define PIECE (1u << 20)         /* bytes of a read or write at most */
#define STRAIGHT (64u << 10)     /* from here on a run of memory is worth a command of its own */
#define RANGE_PIECE (512u << 20) /* bytes of a trim or zero at most */

struct work {
    struct fy_serve *s;
    struct fy_blkw_request r;
    bool used, begun, over; /* over: its piece has come back */
    bool listed;
    struct work *next; /* of those that are over */
    int err;
    uint64_t done, piece;
    unsigned seg; /* where the next piece begins */
    uint64_t in_seg;
    uint8_t *bounce; /* its piece goes by this */
    bool by_hand;    /* ZEROES: the server cannot, zeroes are written */
};

struct fy_serve {
    void (*done)(void *arg, uint32_t id, int err);
    void *arg;
    struct fy_nbd *n;
    struct fy_nbd_facts f;
    bool broken;
    struct work *over; /* came back, in any order */
    uint8_t *memory;
    uint64_t memory_bytes, bytes;
    struct fy_blkw_seg areas[FY_BLKW_AREAS_MAX];
    unsigned area_count, open;
    struct work work[FY_BLKW_IDS];
};

static const uint8_t zeroes[PIECE];

struct fy_serve *fy_serve_new(void (*done)(void *arg, uint32_t id, int err), void *arg, struct fy_err *e)
{
    struct fy_serve *s = calloc(1, sizeof *s);
    if (!s) {
        fy_fail(e, FY_ERESOURCE, "no memory for requests");
        return NULL;
    }
    s->done = done;
    s->arg = arg;
    return s;
}

int fy_serve_memory(struct fy_serve *s, int fd, const struct fy_blkw_seg *areas, unsigned count,
                    struct fy_err *e)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (s->memory)
        return 0;
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 || st.st_size <= 0)
        return fy_fail(e, FY_ECORRUPT, "what came is no guest's memory");
    for (unsigned i = 0; i < count; i++)
        if (!fy_range_ok(areas[i].at, areas[i].len, (uint64_t)st.st_size))
            return fy_fail(e, FY_ECORRUPT, "an area of memory of %llu bytes at %llu, of %lld",
                           (unsigned long long)areas[i].len, (unsigned long long)areas[i].at,
                           (long long)st.st_size);
    void *p = fy_map_large(fd, (uint64_t)st.st_size, PROT_READ | PROT_WRITE);
    if (p == MAP_FAILED)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map guest memory");
    madvise(p, (size_t)st.st_size, MADV_DONTDUMP);
    s->memory = p;
    s->memory_bytes = (uint64_t)st.st_size;
    memcpy(s->areas, areas, count * sizeof *areas);
    s->area_count = count;
    return 0;
}

void fy_serve_size(struct fy_serve *s, uint64_t bytes)
{
    s->bytes = bytes;
}

static void finish(struct work *w, int err)
{
    struct fy_serve *s = w->s;
    free(w->bounce);
    w->bounce = NULL;
    w->used = w->begun = w->over = false;
    s->open--;
    s->done(s->arg, w->r.id, err);
}

static void on_done(void *arg, int err)
{
    struct work *w = arg;
    struct fy_serve *s = w->s;
    w->over = true;
    w->err = err;
    if (w->listed)
        return;
    w->listed = true;
    w->next = s->over;
    s->over = w;
}

/* Copy between the bounce buffer and the segments from where the piece begins; then, or without a buffer, go
 * behind the piece. */
static void walk(struct work *w, bool copy, bool into_memory, bool move)
{
    unsigned seg = w->seg;
    uint64_t in = w->in_seg, left = w->piece;
    uint8_t *p = w->bounce;
    while (left) {
        uint64_t part = FY_MIN(w->r.seg[seg].len - in, left);
        uint8_t *m = w->s->memory + w->r.seg[seg].at + in;
        if (copy)
            memcpy(into_memory ? m : p, into_memory ? p : m, part);
        if (copy)
            p += part;
        left -= part;
        in += part;
        if (in == w->r.seg[seg].len) {
            seg++;
            in = 0;
        }
    }
    if (move) {
        w->seg = seg;
        w->in_seg = in;
    }
}

/* Choose the next piece of a read or write: straight from memory where it lies in one run, else by a buffer.
 */
static void *cut(struct work *w)
{
    const struct fy_blkw_seg *g = &w->r.seg[w->seg];
    uint64_t left = w->r.bytes - w->done;
    uint64_t most =
        FY_MIN(left, (uint64_t)FY_MIN(PIECE, w->s->f.max_block) & ~(uint64_t)(FY_BLKW_SECTOR - 1));
    uint64_t run = g->len - w->in_seg;
    for (unsigned i = w->seg + 1; run < most && i < w->r.segs && g[0].at + g[0].len == w->r.seg[i].at;
         i++, g++)
        run += w->r.seg[i].len;
    run = FY_MIN(run, most) & ~(uint64_t)(FY_BLKW_SECTOR - 1);
    if (run == most || run >= STRAIGHT) {
        w->piece = run;
        free(w->bounce);
        w->bounce = NULL;
        return w->s->memory + w->r.seg[w->seg].at + w->in_seg;
    }
    w->piece = most;
    if (!w->bounce)
        w->bounce = malloc(FY_MIN(w->r.bytes, (uint64_t)PIECE));
    if (w->bounce && w->r.op == FY_BLKW_WRITE)
        walk(w, true, false, false);
    return w->bounce;
}

static uint64_t range_piece(const struct work *w, uint64_t most)
{
    return FY_MIN(w->r.bytes - w->done, most);
}

/* Begin the next piece. False: the connection is gone. */
static bool begin(struct work *w)
{
    struct fy_serve *s = w->s;
    uint64_t at = w->r.offset + w->done;
    void *buf = NULL;
    enum fy_nbd_op op = FY_NBD_FLUSH;
    switch (w->r.op) {
    case FY_BLKW_READ:
    case FY_BLKW_WRITE:
        op = w->r.op == FY_BLKW_READ ? FY_NBD_READ : FY_NBD_WRITE;
        buf = cut(w);
        if (!buf) {
            finish(w, ENOMEM);
            return true;
        }
        break;
    case FY_BLKW_DISCARD:
        op = FY_NBD_TRIM;
        w->piece = range_piece(w, RANGE_PIECE);
        break;
    case FY_BLKW_ZEROES:
        w->by_hand |= !s->f.zero;
        op = w->by_hand ? FY_NBD_WRITE : FY_NBD_ZERO;
        buf = (void *)(uintptr_t)zeroes;
        w->piece =
            range_piece(w, w->by_hand ? FY_MIN(PIECE, s->f.max_block & ~(FY_BLKW_SECTOR - 1)) : RANGE_PIECE);
        break;
    default:
        w->piece = 0;
        at = 0;
    }
    /* What the server has not, and need not have. */
    if ((op == FY_NBD_FLUSH && (!s->f.flush || s->f.read_only)) || (op == FY_NBD_TRIM && !s->f.trim)) {
        finish(w, 0);
        return true;
    }
    w->begun = true;
    w->over = false;
    int err = fy_nbd_start(s->n, op, buf, at, w->piece, w->r.flags & FY_BLKW_F_UNMAP, on_done, w);
    if (err && err != ENOTCONN)
        finish(w, err);
    return err != ENOTCONN;
}

int fy_serve_request(struct fy_serve *s, const struct fy_blkw_request *r, struct fy_err *e)
{
    struct work *w = &s->work[r->id];
    if (!s->memory || w->used)
        return fy_fail(e, FY_ECORRUPT, "disk request %u is not to be made now", r->id);
    if (fy_blkw_check(r, s->bytes, s->areas, s->area_count, e) < 0)
        return -1;
    *w = (struct work){.s = s, .used = true, .listed = w->listed, .next = w->next};
    w->r = *r;
    s->open++;
    if (s->n && !s->broken && !begin(w))
        s->broken = true;
    return 0;
}

void fy_serve_connection(struct fy_serve *s, struct fy_nbd *n)
{
    s->n = n;
    s->broken = false;
    if (n)
        fy_nbd_facts(n, &s->f);
    for (unsigned i = 0; i < FY_BLKW_IDS; i++) {
        struct work *w = &s->work[i];
        /* What has come back whole is not done again. */
        if (w->used && w->begun && !(w->over && w->err != ENOTCONN))
            w->begun = w->over = false;
        if (n && !s->broken && w->used && !w->begun && !begin(w))
            s->broken = true;
    }
}

static bool came_back(struct work *w)
{
    w->begun = w->over = false;
    if (w->err == ENOTCONN)
        return false;
    if (w->err && w->r.op == FY_BLKW_ZEROES && !w->by_hand && (w->err == EOPNOTSUPP || w->err == EINVAL)) {
        w->by_hand = true;
        return begin(w);
    }
    if (w->err) {
        finish(w, w->err == EOPNOTSUPP && w->r.op == FY_BLKW_DISCARD ? 0 : w->err);
        return true;
    }
    if (w->r.op == FY_BLKW_READ || w->r.op == FY_BLKW_WRITE)
        walk(w, w->r.op == FY_BLKW_READ && w->bounce, true, true);
    w->done += w->piece;
    if (w->done < w->r.bytes)
        return begin(w);
    finish(w, 0);
    return true;
}

bool fy_serve_turn(struct fy_serve *s)
{
    struct work *w = s->n ? s->over : NULL;
    if (w)
        s->over = NULL;
    while (w) {
        struct work *next = w->next;
        w->listed = false;
        if (w->used && w->over && !came_back(w))
            s->broken = true;
        w = next;
    }
    return s->n && !s->broken;
}

void fy_serve_fail(struct fy_serve *s, int err)
{
    for (unsigned i = 0; i < FY_BLKW_IDS; i++) {
        struct work *w = &s->work[i];
        if (!w->used)
            continue;
        if (err) {
            finish(w, err);
            continue;
        }
        free(w->bounce);
        w->bounce = NULL;
        w->used = w->begun = w->over = false;
        s->open--;
    }
}

void fy_serve_free(struct fy_serve *s)
{
    if (!s)
        return;
    fy_serve_fail(s, 0);
    if (s->memory)
        munmap(s->memory, s->memory_bytes);
    free(s);
}

unsigned fy_serve_open(const struct fy_serve *s)
{
    return s->open;
}
