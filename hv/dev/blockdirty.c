// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/blockdirty.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/bitmap.h"
#include "hv/base/checked.h"
#include "hv/base/io.h"

struct fy_blocktracker {
    struct fy_blockdirty *bd;
    struct fy_blocktracker *next;
    uint64_t *dirty, *taken; /* under bd->lock */
    uint64_t count;          /* bits of `dirty` */
    uint64_t *shared;        /* mapped from fd */
    int fd;
};

struct fy_blockdirty {
    uint64_t blocks;
    pthread_mutex_t lock;
    struct fy_blocktracker *trackers;
    void (*before)(void *arg, uint64_t offset, uint64_t bytes);
    void *arg;
};

struct fy_blockdirty *fy_blockdirty_new(uint64_t bytes, struct fy_err *e)
{
    struct fy_blockdirty *bd = calloc(1, sizeof *bd);
    if (!bd) {
        fy_fail(e, FY_ERESOURCE, "no memory for a disk's dirty log");
        return NULL;
    }
    bd->blocks = FY_DIV_UP(bytes, (uint64_t)FY_BLOCKDIRTY_BYTES);
    pthread_mutex_init(&bd->lock, NULL);
    return bd;
}

void fy_blockdirty_free(struct fy_blockdirty *bd)
{
    if (!bd)
        return;
    pthread_mutex_destroy(&bd->lock);
    free(bd);
}

void fy_blockdirty_hook(struct fy_blockdirty *bd, void (*before)(void *arg, uint64_t offset, uint64_t bytes),
                        void *arg)
{
    bd->before = before;
    bd->arg = arg;
}

void fy_blockdirty_before(struct fy_blockdirty *bd, uint64_t offset, uint64_t bytes)
{
    if (bd->before && bytes)
        bd->before(bd->arg, offset, bytes);
}

/* OR one word into a tracker. Locked. */
static void mark(struct fy_blocktracker *t, uint64_t word, uint64_t bits)
{
    t->count += (uint64_t)__builtin_popcountll(bits & ~t->dirty[word]);
    t->dirty[word] |= bits;
}

/* The bits of [first, end) that lie in a word. */
static uint64_t bits_of(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t keep = ~0ull;
    if (word == first / 64)
        keep &= ~0ull << (first % 64);
    if (word == (end - 1) / 64 && end % 64)
        keep &= ~0ull >> (64 - end % 64);
    return keep;
}

void fy_blockdirty_written(struct fy_blockdirty *bd, uint64_t offset, uint64_t bytes)
{
    if (!bytes)
        return;
    uint64_t first = offset / FY_BLOCKDIRTY_BYTES, end = (offset + bytes - 1) / FY_BLOCKDIRTY_BYTES + 1;
    pthread_mutex_lock(&bd->lock);
    for (struct fy_blocktracker *t = bd->trackers; t; t = t->next)
        for (uint64_t w = first / 64; w <= (end - 1) / 64; w++)
            mark(t, w, bits_of(w, first, end));
    pthread_mutex_unlock(&bd->lock);
}

static void free_tracker(struct fy_blocktracker *t)
{
    if (t->shared)
        munmap(t->shared, FY_BITMAP_WORDS(t->bd->blocks) * 8);
    fy_close(&t->fd);
    free(t->dirty);
    free(t->taken);
    free(t);
}

static struct fy_blocktracker *new_tracker(struct fy_blockdirty *bd, struct fy_err *e)
{
    struct fy_blocktracker *t = calloc(1, sizeof *t);
    uint64_t words = FY_BITMAP_WORDS(bd->blocks);
    if (!t) {
        fy_fail(e, FY_ERESOURCE, "no memory for a disk's tracker");
        return NULL;
    }
    t->bd = bd;
    t->dirty = calloc(words, 8);
    t->taken = calloc(words, 8);
    t->fd = memfd_create("ferry-disk-dirty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (t->dirty && t->taken && t->fd >= 0 && ftruncate(t->fd, (off_t)(words * 8)) == 0 &&
        fcntl(t->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        void *p = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
        if (p != MAP_FAILED) {
            t->shared = p;
            return t;
        }
    }
    fy_fail_errno(e, FY_ERESOURCE, errno, "no memory for the bitmaps of a disk's tracker");
    free_tracker(t);
    return NULL;
}

struct fy_blocktracker *fy_blocktracker_open(struct fy_blockdirty *bd, bool start_all, struct fy_err *e)
{
    struct fy_blocktracker *t = new_tracker(bd, e);
    if (!t)
        return NULL;
    if (start_all) {
        fy_bits_set(t->dirty, 0, bd->blocks);
        t->count = bd->blocks;
    }
    pthread_mutex_lock(&bd->lock);
    t->next = bd->trackers;
    bd->trackers = t;
    pthread_mutex_unlock(&bd->lock);
    return t;
}

void fy_blocktracker_close(struct fy_blocktracker *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->bd->lock);
    struct fy_blocktracker **at = &t->bd->trackers;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    pthread_mutex_unlock(&t->bd->lock);
    free_tracker(t);
}

int fy_blocktracker_fd(const struct fy_blocktracker *t)
{
    return t->fd;
}

uint64_t fy_blocktracker_blocks(const struct fy_blocktracker *t)
{
    return t->bd->blocks;
}

int fy_blocktracker_take(struct fy_blocktracker *t, uint64_t first, uint64_t count, uint64_t *dirty,
                         uint64_t *remaining, struct fy_err *e)
{
    uint64_t n = 0, end = first + count;
    if (!fy_range_ok(first, count, t->bd->blocks))
        return fy_fail(e, FY_EUSAGE, "blocks %llu+%llu are outside of the disk's %llu",
                       (unsigned long long)first, (unsigned long long)count,
                       (unsigned long long)t->bd->blocks);
    pthread_mutex_lock(&t->bd->lock);
    for (uint64_t w = first / 64; count && w <= (end - 1) / 64; w++) {
        uint64_t keep = bits_of(w, first, end), bits = t->dirty[w] & keep;
        t->dirty[w] &= ~bits;
        t->taken[w] |= bits;
        t->shared[w] = (t->shared[w] & ~keep) | bits;
        n += (uint64_t)__builtin_popcountll(bits);
    }
    t->count -= n;
    *dirty = n;
    *remaining = t->count;
    pthread_mutex_unlock(&t->bd->lock);
    return 0;
}

void fy_blocktracker_done(struct fy_blocktracker *t)
{
    pthread_mutex_lock(&t->bd->lock);
    memset(t->taken, 0, FY_BITMAP_WORDS(t->bd->blocks) * 8);
    pthread_mutex_unlock(&t->bd->lock);
}

void fy_blocktracker_giveback(struct fy_blocktracker *t)
{
    uint64_t words = FY_BITMAP_WORDS(t->bd->blocks);
    pthread_mutex_lock(&t->bd->lock);
    for (uint64_t w = 0; w < words; w++)
        mark(t, w, t->taken[w]);
    memset(t->taken, 0, words * 8);
    pthread_mutex_unlock(&t->bd->lock);
}

uint64_t fy_blocktracker_count(struct fy_blocktracker *t)
{
    pthread_mutex_lock(&t->bd->lock);
    uint64_t n = t->count;
    pthread_mutex_unlock(&t->bd->lock);
    return n;
}
