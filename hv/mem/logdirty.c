// SPDX-License-Identifier: Apache-2.0
#include "hv/mem/logdirty.h"

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
#include "hv/base/log.h"

/* Pages of one clear call: 64 MiB, so that the source's own lock is held for short. */
#define CLEAR_PAGES 16384u
#define CLEAR_WORDS (CLEAR_PAGES / 64)

struct slot {
    pthread_mutex_t lock;
    uint64_t first, pages; /* in memfd pages; multiples of 512 */
    uint64_t *fetched;     /* got from the source and not cleared since, by slot page */
    uint64_t *scratch;     /* for fetch */
};

struct fy_tracker {
    struct fy_logdirty *ld;
    struct fy_tracker *next;
    int fd;
    uint64_t *dirty, *taken, *shared;   /* by memfd page */
    uint64_t dirty_count[FY_SLOTS_MAX]; /* under the slot's lock */
    uint64_t taken_lo, taken_hi;        /* words that may have bits in `taken`; hi is exclusive */
};

struct fy_logdirty {
    struct fy_gmem *m;
    const struct fy_dirty_ops *ops;
    void *arg;
    struct slot slots[FY_SLOTS_MAX];
    unsigned slot_count;
    uint64_t pages;
    struct fy_tracker *trackers; /* changed with all slots locked */
};

static uint64_t *map_words(uint64_t bits)
{
    void *p = mmap(NULL, FY_BITMAP_WORDS(bits) * 8, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void unmap_words(uint64_t *p, uint64_t bits)
{
    if (p)
        munmap(p, FY_BITMAP_WORDS(bits) * 8);
}

static void lock_all(struct fy_logdirty *ld)
{
    for (unsigned i = 0; i < ld->slot_count; i++)
        pthread_mutex_lock(&ld->slots[i].lock);
}

static void unlock_all(struct fy_logdirty *ld)
{
    for (unsigned i = ld->slot_count; i-- > 0;)
        pthread_mutex_unlock(&ld->slots[i].lock);
}

/* OR one word of a slot into every tracker. Slot locked. */
static void or_word(struct fy_logdirty *ld, unsigned slot, uint64_t word, uint64_t bits)
{
    for (struct fy_tracker *t = ld->trackers; t; t = t->next) {
        uint64_t fresh = bits & ~t->dirty[word];
        t->dirty[word] |= fresh;
        t->dirty_count[slot] += (uint64_t)__builtin_popcountll(fresh);
    }
}

static void all_dirty(struct fy_logdirty *ld, unsigned slot)
{
    struct slot *s = &ld->slots[slot];
    for (uint64_t w = 0; w < s->pages / 64; w++)
        or_word(ld, slot, s->first / 64 + w, ~0ull);
}

/* Host code wrote [offset, offset + len) of the memfd. */
static void on_written(void *arg, uint64_t offset, uint64_t len)
{
    struct fy_logdirty *ld = arg;
    uint64_t end = (offset + len - 1) / FY_PAGE_SIZE + 1;
    for (unsigned i = 0; i < ld->slot_count; i++) {
        struct slot *s = &ld->slots[i];
        uint64_t lo = FY_MAX(offset / FY_PAGE_SIZE, s->first), hi = FY_MIN(end, s->first + s->pages);
        if (lo >= hi)
            continue;
        pthread_mutex_lock(&s->lock);
        for (uint64_t p = lo; ld->trackers && p < hi; p++)
            or_word(ld, i, p / 64, 1ull << (p % 64));
        pthread_mutex_unlock(&s->lock);
    }
}

struct fy_logdirty *fy_logdirty_new(struct fy_gmem *m, const struct fy_dirty_ops *ops, void *arg,
                                    struct fy_err *e)
{
    struct fy_logdirty *ld = calloc(1, sizeof *ld);
    if (!ld) {
        fy_fail(e, FY_ERESOURCE, "no memory for log-dirty");
        return NULL;
    }
    ld->m = m;
    ld->ops = ops;
    ld->arg = arg;
    ld->slot_count = m->slot_count;
    ld->pages = m->bytes / FY_PAGE_SIZE;
    for (unsigned i = 0; i < ld->slot_count; i++) {
        struct slot *s = &ld->slots[i];
        pthread_mutex_init(&s->lock, NULL);
        s->first = m->slots[i].offset / FY_PAGE_SIZE;
        s->pages = m->slots[i].bytes / FY_PAGE_SIZE;
    }
    m->written_arg = ld;
    m->written = on_written;
    return ld;
}

static void free_slots(struct fy_logdirty *ld)
{
    for (unsigned i = 0; i < ld->slot_count; i++) {
        struct slot *s = &ld->slots[i];
        unmap_words(s->fetched, s->pages);
        unmap_words(s->scratch, s->pages);
        s->fetched = s->scratch = NULL;
    }
}

void fy_logdirty_free(struct fy_logdirty *ld)
{
    if (!ld)
        return;
    ld->m->written = NULL;
    free_slots(ld);
    for (unsigned i = 0; i < ld->slot_count; i++)
        pthread_mutex_destroy(&ld->slots[i].lock);
    free(ld);
}

/* Ask the source about one slot. Slot locked. */
static void fetch(struct fy_logdirty *ld, unsigned i)
{
    struct slot *s = &ld->slots[i];
    struct fy_err e;
    bool cleared = false;
    if (ld->ops->fetch(ld->arg, i, s->scratch, &cleared, &e) < 0) {
        fy_warn("dirty log of slot %u: %s; every page of it counts as dirty", i, e.text);
        all_dirty(ld, i);
        return;
    }
    for (uint64_t w = 0; w < s->pages / 64; w++) {
        uint64_t bits = s->scratch[w];
        if (!bits)
            continue;
        s->scratch[w] = 0;
        if (!cleared)
            s->fetched[w] |= bits;
        or_word(ld, i, s->first / 64 + w, bits);
    }
}

/* Clear what has been fetched in [first, first + count) of a slot, in slot pages. Slot locked. Where the
 * source fails, its bits stay set there and here: the pages are reported again. */
static void clear(struct fy_logdirty *ld, unsigned i, uint64_t first, uint64_t count)
{
    struct slot *s = &ld->slots[i];
    uint64_t lo = first / 64 * 64, end = FY_MIN(FY_ALIGN_UP(first + count, 64), s->pages);
    while (lo < end) {
        uint64_t mask[CLEAR_WORDS];
        uint64_t n = FY_MIN(end - lo, (uint64_t)CLEAR_PAGES);
        uint64_t any = 0;
        for (uint64_t w = 0; w < n / 64; w++) {
            uint64_t page = lo + w * 64, keep = ~0ull;
            if (page < first)
                keep &= ~0ull << (first - page);
            if (page + 64 > first + count)
                keep &= ~0ull >> (page + 64 - first - count);
            mask[w] = s->fetched[page / 64] & keep;
            any |= mask[w];
        }
        struct fy_err e;
        if (any && ld->ops->clear(ld->arg, i, lo, n, mask, &e) < 0) {
            fy_warn("clearing the dirty log of slot %u: %s", i, e.text);
        } else if (any) {
            for (uint64_t w = 0; w < n / 64; w++) {
                s->fetched[lo / 64 + w] &= ~mask[w];
                /* A tracker opened after the fetch has not been told of these yet. */
                or_word(ld, i, (s->first + lo) / 64 + w, mask[w]);
            }
        }
        lo += n;
    }
}

static int start_logging(struct fy_logdirty *ld, struct fy_err *e)
{
    for (unsigned i = 0; i < ld->slot_count; i++) {
        struct slot *s = &ld->slots[i];
        s->fetched = map_words(s->pages);
        s->scratch = map_words(s->pages);
        if (!s->fetched || !s->scratch) {
            free_slots(ld);
            return fy_fail_errno(e, FY_ERESOURCE, errno, "no memory for the dirty log");
        }
    }
    bool initially_set = false;
    if (ld->ops->enable(ld->arg, &initially_set, e) < 0) {
        free_slots(ld);
        return -1;
    }
    for (unsigned i = 0; initially_set && i < ld->slot_count; i++)
        memset(ld->slots[i].fetched, 0xff, ld->slots[i].pages / 8);
    return 0;
}

static void free_tracker(struct fy_tracker *t)
{
    unmap_words(t->dirty, t->ld->pages);
    unmap_words(t->taken, t->ld->pages);
    unmap_words(t->shared, t->ld->pages);
    fy_close(&t->fd);
    free(t);
}

static struct fy_tracker *new_tracker(struct fy_logdirty *ld, struct fy_err *e)
{
    struct fy_tracker *t = calloc(1, sizeof *t);
    if (!t) {
        fy_fail(e, FY_ERESOURCE, "no memory for a tracker");
        return NULL;
    }
    uint64_t len = FY_BITMAP_WORDS(ld->pages) * 8;
    t->ld = ld;
    t->taken_lo = UINT64_MAX;
    t->dirty = map_words(ld->pages);
    t->taken = map_words(ld->pages);
    t->fd = memfd_create("ferry-dirty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (t->dirty && t->taken && t->fd >= 0 && ftruncate(t->fd, (off_t)len) == 0 &&
        fcntl(t->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
        if (p != MAP_FAILED) {
            t->shared = p;
            return t;
        }
    }
    fy_fail_errno(e, FY_ERESOURCE, errno, "no memory for a tracker's bitmaps");
    free_tracker(t);
    return NULL;
}

struct fy_tracker *fy_tracker_open(struct fy_logdirty *ld, bool start_all, struct fy_err *e)
{
    struct fy_tracker *t = new_tracker(ld, e);
    if (!t)
        return NULL;
    lock_all(ld);
    if (!ld->trackers && start_logging(ld, e) < 0) {
        unlock_all(ld);
        free_tracker(t);
        return NULL;
    }
    /* A tracker that starts with NONE must hear of every write from here on, so nothing may be left in the
     * source from before: a page that is already set there is not reported when it is written again. */
    for (unsigned i = 0; !start_all && i < ld->slot_count; i++) {
        fetch(ld, i);
        clear(ld, i, 0, ld->slots[i].pages);
    }
    if (start_all) {
        memset(t->dirty, 0xff, ld->pages / 8);
        for (unsigned i = 0; i < ld->slot_count; i++)
            t->dirty_count[i] = ld->slots[i].pages;
    }
    t->next = ld->trackers;
    ld->trackers = t;
    unlock_all(ld);
    return t;
}

void fy_tracker_close(struct fy_tracker *t)
{
    if (!t)
        return;
    struct fy_logdirty *ld = t->ld;
    lock_all(ld);
    struct fy_tracker **at = &ld->trackers;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    if (!ld->trackers) {
        ld->ops->disable(ld->arg);
        free_slots(ld);
    }
    unlock_all(ld);
    free_tracker(t);
}

int fy_tracker_fd(const struct fy_tracker *t)
{
    return t->fd;
}

uint64_t fy_tracker_pages(const struct fy_tracker *t)
{
    return t->ld->pages;
}

/* Move the bits of memfd pages [lo, hi), all in slot i, from dirty to taken and shared. Slot locked. */
static uint64_t move_bits(struct fy_tracker *t, unsigned i, uint64_t lo, uint64_t hi)
{
    uint64_t n = 0;
    for (uint64_t w = lo / 64; w <= (hi - 1) / 64; w++) {
        uint64_t keep = ~0ull;
        if (w == lo / 64)
            keep &= ~0ull << (lo % 64);
        if (w == (hi - 1) / 64 && hi % 64)
            keep &= ~0ull >> (64 - hi % 64);
        uint64_t bits = t->dirty[w] & keep;
        t->dirty[w] &= ~bits;
        t->taken[w] |= bits;
        t->shared[w] = (t->shared[w] & ~keep) | bits;
        n += (uint64_t)__builtin_popcountll(bits);
    }
    t->taken_lo = FY_MIN(t->taken_lo, lo / 64);
    t->taken_hi = FY_MAX(t->taken_hi, (hi - 1) / 64 + 1);
    t->dirty_count[i] -= n;
    return n;
}

static uint64_t sum(const struct fy_tracker *t)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < t->ld->slot_count; i++)
        n += t->dirty_count[i];
    return n;
}

int fy_tracker_take(struct fy_tracker *t, uint64_t first, uint64_t count, bool refresh, uint64_t *dirty,
                    uint64_t *remaining, struct fy_err *e)
{
    struct fy_logdirty *ld = t->ld;
    if (!fy_range_ok(first, count, ld->pages))
        return fy_fail(e, FY_EUSAGE, "pages %llu+%llu are outside of the guest's %llu",
                       (unsigned long long)first, (unsigned long long)count, (unsigned long long)ld->pages);
    *dirty = 0;
    for (unsigned i = 0; count && i < ld->slot_count; i++) {
        struct slot *s = &ld->slots[i];
        uint64_t lo = FY_MAX(first, s->first), hi = FY_MIN(first + count, s->first + s->pages);
        if (lo >= hi)
            continue;
        pthread_mutex_lock(&s->lock);
        if (refresh)
            fetch(ld, i);
        clear(ld, i, lo - s->first, hi - lo);
        *dirty += move_bits(t, i, lo, hi);
        pthread_mutex_unlock(&s->lock);
    }
    lock_all(ld);
    *remaining = sum(t);
    unlock_all(ld);
    return 0;
}

void fy_tracker_done(struct fy_tracker *t)
{
    if (t->taken_lo < t->taken_hi)
        memset(&t->taken[t->taken_lo], 0, (t->taken_hi - t->taken_lo) * 8);
    t->taken_lo = UINT64_MAX;
    t->taken_hi = 0;
}

void fy_tracker_giveback(struct fy_tracker *t)
{
    struct fy_logdirty *ld = t->ld;
    lock_all(ld);
    for (unsigned i = 0; i < ld->slot_count; i++) {
        struct slot *s = &ld->slots[i];
        uint64_t lo = FY_MAX(t->taken_lo, s->first / 64);
        uint64_t hi = FY_MIN(t->taken_hi, (s->first + s->pages) / 64);
        for (uint64_t w = lo; w < hi; w++) {
            t->dirty_count[i] += (uint64_t)__builtin_popcountll(t->taken[w] & ~t->dirty[w]);
            t->dirty[w] |= t->taken[w];
        }
    }
    fy_tracker_done(t);
    unlock_all(ld);
}

uint64_t fy_tracker_count(struct fy_tracker *t, bool refresh)
{
    struct fy_logdirty *ld = t->ld;
    lock_all(ld);
    for (unsigned i = 0; refresh && i < ld->slot_count; i++)
        fetch(ld, i);
    uint64_t n = sum(t);
    unlock_all(ld);
    return n;
}
