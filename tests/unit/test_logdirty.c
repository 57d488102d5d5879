// SPDX-License-Identifier: Apache-2.0
/* Two trackers, one page, every interleaving of a guest's writes, a device's writes, fetches, takes, reads,
 * done and giveback, against a fake KVM log: no tracker may lose a write. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/bitmap.h"
#include "hv/mem/logdirty.h"

#define BYTES (2u << 20)
#define PAGE 5u
#define LOST UINT64_MAX

/* KVM's log of one slot, of which only PAGE is ever written. */
struct fake {
    bool initially_set; /* what enable() does */
    bool ring;          /* fetch clears */
    bool broken;        /* clear() forgets to protect: the explorer must notice */
    bool fail_fetch;
    bool logging;
    bool set, protected;
    uint64_t mem;              /* the page's content: number of writes */
    unsigned clears_unfetched; /* clears of what was not set at the last fetch */
    bool reported;
};

static int fake_enable(void *arg, bool *initially_set, struct fy_err *e)
{
    (void)e;
    struct fake *f = arg;
    f->logging = true;
    *initially_set = f->initially_set;
    f->set = f->initially_set;
    f->protected = !f->initially_set;
    return 0;
}

static void fake_disable(void *arg)
{
    struct fake *f = arg;
    f->logging = false;
}

static int fake_fetch(void *arg, unsigned slot, uint64_t *mask, bool *cleared, struct fy_err *e)
{
    struct fake *f = arg;
    (void)slot;
    if (f->fail_fetch)
        return fy_fail(e, FY_ERESOURCE, "fake: no memory");
    if (f->set)
        fy_bit_set(mask, PAGE);
    f->reported = f->set;
    *cleared = f->ring;
    if (f->ring && f->set) {
        f->set = false;
        f->protected = true;
    }
    return 0;
}

static int fake_clear(void *arg, unsigned slot, uint64_t first, uint64_t count, const uint64_t *mask,
                      struct fy_err *e)
{
    struct fake *f = arg;
    (void)slot;
    (void)e;
    assert_false(f->ring);
    assert_int_equal(first % 64, 0);
    assert_int_equal(count % 64, 0);
    if (first > PAGE || PAGE >= first + count || !fy_bit_test(mask, PAGE - first))
        return 0;
    f->clears_unfetched += !f->reported && !f->initially_set;
    f->reported = false;
    if (f->set) {
        f->set = false;
        f->protected = !f->broken;
    }
    return 0;
}

static const struct fy_dirty_ops fake_ops = {fake_enable, fake_disable, fake_fetch, fake_clear};

static void guest_writes(struct fake *f)
{
    f->mem++;
    if (f->logging && f->protected) {
        f->set = true;
        f->protected = false;
    }
}

struct taker {
    struct fy_tracker *t;
    const uint64_t *shared;
    uint64_t copy;   /* the page as this taker knows it; LOST: it does not */
    bool to_read;    /* taken, the bit was set, not read yet */
    bool unfinished; /* taken since the last done */
};

struct world {
    struct fake f;
    struct fy_gmem *m;
    struct fy_logdirty *ld;
    struct taker k[2];
    bool device_wrote;
};

static void open_taker(struct world *w, int i, bool all)
{
    struct fy_err e;
    struct taker *k = &w->k[i];
    k->t = fy_tracker_open(w->ld, all, &e);
    assert_non_null(k->t);
    void *p = mmap(NULL, BYTES / 4096 / 8, PROT_READ, MAP_SHARED, fy_tracker_fd(k->t), 0);
    assert_true(p != MAP_FAILED);
    k->shared = p;
    /* One that starts with NONE knows the page as it is. */
    k->copy = all ? LOST : w->f.mem;
    k->to_read = k->unfinished = false;
}

static void close_taker(struct taker *k)
{
    munmap((void *)(uintptr_t)k->shared, BYTES / 4096 / 8);
    fy_tracker_close(k->t);
    k->t = NULL;
}

static void take(struct world *w, struct taker *k, bool refresh)
{
    uint64_t dirty, remaining;
    struct fy_err e;
    (void)w;
    assert_int_equal(fy_tracker_take(k->t, PAGE, 1, refresh, &dirty, &remaining, &e), 0);
    assert_int_equal(dirty, fy_bit_test(k->shared, PAGE));
    if (dirty) {
        k->to_read = true;
        k->unfinished = true;
    }
}

static void finish_read(struct world *w, struct taker *k)
{
    if (k->to_read)
        k->copy = w->f.mem;
    k->to_read = false;
}

enum op {
    WRITE,
    DEV_WRITE,
    DEV_MARK,
    FETCH,
    TAKE_A,
    TAKE_OLD_A,
    READ_A,
    DONE_A,
    GIVE_A,
    TAKE_B,
    TAKE_OLD_B,
    READ_B,
    DONE_B,
    GIVE_B,
    OPS,
    REOPEN_B
};

/* False: the step makes no sense here, the sequence is skipped. */
static bool step(struct world *w, enum op op)
{
    struct taker *k = op >= TAKE_B ? &w->k[1] : &w->k[0];
    switch (op) {
    case WRITE:
        guest_writes(&w->f);
        return true;
    case DEV_WRITE:
        w->f.mem++;
        w->device_wrote = true;
        return true;
    case DEV_MARK:
        if (!w->device_wrote)
            return false;
        w->device_wrote = false;
        fy_gmem_mark(w->m, PAGE * 4096 + 8, 1);
        return true;
    case FETCH:
        fy_tracker_count(w->k[0].t, true);
        return true;
    case TAKE_A:
    case TAKE_B:
    case TAKE_OLD_A:
    case TAKE_OLD_B:
        take(w, k, op == TAKE_A || op == TAKE_B);
        return true;
    case READ_A:
    case READ_B:
        if (!k->to_read)
            return false;
        finish_read(w, k);
        return true;
    case DONE_A:
    case DONE_B:
        if (!k->unfinished || k->to_read)
            return false;
        fy_tracker_done(k->t);
        k->unfinished = false;
        return true;
    case GIVE_A:
    case GIVE_B:
        if (!k->unfinished)
            return false;
        fy_tracker_giveback(k->t);
        k->unfinished = k->to_read = false;
        k->copy = LOST; /* what was taken may have gone down with the taker */
        return true;
    case REOPEN_B:
        close_taker(k);
        open_taker(w, 1, false);
        return true;
    default:
        return false;
    }
}

/* All quiet, one last take each: does every taker know the page? Leaves a clean world. */
static bool settled(struct world *w)
{
    bool ok = true;
    if (w->device_wrote)
        step(w, DEV_MARK);
    for (int i = 0; i < 2; i++) {
        struct taker *k = &w->k[i];
        finish_read(w, k);
        take(w, k, true);
        finish_read(w, k);
        ok &= k->copy == w->f.mem;
        fy_tracker_done(k->t);
        k->unfinished = false;
        k->copy = w->f.mem;
    }
    return ok;
}

static struct world *new_world(struct fake f)
{
    struct fy_err e;
    struct world *w = calloc(1, sizeof *w);
    int fd = memfd_create("ram", MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, BYTES) == 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    w->f = f;
    w->m = fy_gmem_open(fd, -1, BYTES, false, &e);
    assert_non_null(w->m);
    w->ld = fy_logdirty_new(w->m, &fake_ops, &w->f, &e);
    assert_non_null(w->ld);
    return w;
}

static void free_world(struct world *w)
{
    for (int i = 0; i < 2; i++)
        if (w->k[i].t)
            close_taker(&w->k[i]);
    fy_logdirty_free(w->ld);
    fy_gmem_free(w->m);
    free(w);
}

/* Run every sequence of `depth` steps; returns how many lost a write. */
static unsigned long explore(struct world *w, int depth, enum op ops, unsigned long *tried)
{
    enum op seq[8] = {0};
    unsigned long lost = 0;
    for (;;) {
        int n = 0;
        while (n < depth && step(w, seq[n]))
            n++;
        bool ok = settled(w);
        if (w->f.broken) /* start the next one from a protected page all the same */
            w->f.protected = true;
        *tried += n == depth;
        lost += !ok;
        /* No sequence that begins with an impossible step is any better: go on at that step. */
        int i = n == depth ? depth - 1 : n;
        memset(&seq[i + 1], 0, (size_t)(7 - i) * sizeof seq[0]);
        while (i >= 0 && ++seq[i] == ops)
            seq[i--] = 0;
        if (i < 0)
            return lost;
    }
}

static void check_source(struct fake f, int depth)
{
    unsigned long tried = 0;
    struct world *w = new_world(f);
    open_taker(w, 0, true);
    open_taker(w, 1, false);
    settled(w);
    assert_int_equal(explore(w, depth, OPS, &tried), 0);
    assert_int_equal(w->f.clears_unfetched, 0);
    print_message("%lu sequences\n", tried);
    free_world(w);
}

static void test_bitmap(void **state)
{
    (void)state;
    check_source((struct fake){.initially_set = true}, 6);
}

static void test_ring(void **state)
{
    (void)state;
    check_source((struct fake){.ring = true}, 6);
}

static void test_explorer_notices(void **state)
{
    (void)state;
    unsigned long tried = 0;
    struct world *w = new_world((struct fake){.initially_set = true, .broken = true});
    open_taker(w, 0, true);
    open_taker(w, 1, false);
    settled(w);
    w->f.protected = true;
    assert_true(explore(w, 4, OPS, &tried) > 0);
    free_world(w);
}

/* From the very opening, with tracker B coming and going. */
static void test_open_and_close(void **state)
{
    (void)state;
    enum op some[] = {WRITE, FETCH, TAKE_A, TAKE_OLD_A, TAKE_B, REOPEN_B};
    for (int first_all = 0; first_all < 2; first_all++)
        for (int ring = 0; ring < 2; ring++)
            for (int n = 0; n < 6 * 6 * 6 * 6; n++) {
                struct world *w = new_world((struct fake){.initially_set = !ring, .ring = ring});
                open_taker(w, 0, first_all);
                open_taker(w, 1, !first_all);
                for (int i = 0, x = n; i < 4; i++, x /= 6)
                    step(w, some[x % 6]);
                assert_true(settled(w));
                free_world(w);
            }
}

static void test_fetch_failure_is_all_dirty(void **state)
{
    (void)state;
    struct world *w = new_world((struct fake){.initially_set = true});
    uint64_t dirty, remaining;
    struct fy_err e;
    open_taker(w, 0, false);
    assert_int_equal(fy_tracker_count(w->k[0].t, true), 0);
    w->f.fail_fetch = true;
    assert_int_equal(fy_tracker_take(w->k[0].t, 0, 8, true, &dirty, &remaining, &e), 0);
    assert_int_equal(dirty, 8);
    assert_int_equal(remaining, 512 - 8);
    free_world(w);
}

static void test_ranges(void **state)
{
    (void)state;
    struct world *w = new_world((struct fake){.initially_set = true});
    uint64_t dirty, remaining;
    struct fy_err e;
    open_taker(w, 0, true);
    assert_int_equal(fy_tracker_take(w->k[0].t, 0, 513, false, &dirty, &remaining, &e), -1);
    assert_int_equal(e.code, FY_EUSAGE);
    assert_int_equal(fy_tracker_take(w->k[0].t, UINT64_MAX, 2, false, &dirty, &remaining, &e), -1);
    assert_int_equal(fy_tracker_take(w->k[0].t, 3, 70, false, &dirty, &remaining, &e), 0);
    assert_int_equal(dirty, 70);
    assert_int_equal(remaining, 442);
    assert_int_equal(fy_bits_count(w->k[0].shared, 0, 512), 70);
    assert_true(fy_bit_test(w->k[0].shared, 3) && fy_bit_test(w->k[0].shared, 72));
    assert_int_equal(fy_tracker_take(w->k[0].t, 0, 10, false, &dirty, &remaining, &e), 0);
    assert_int_equal(dirty, 3);
    assert_int_equal(fy_bits_count(w->k[0].shared, 0, 10), 3);
    fy_tracker_giveback(w->k[0].t);
    assert_int_equal(fy_tracker_count(w->k[0].t, false), 512);
    assert_int_equal(fy_tracker_take(w->k[0].t, 0, 512, false, &dirty, &remaining, &e), 0);
    assert_int_equal(dirty, 512);
    fy_tracker_done(w->k[0].t);
    fy_tracker_giveback(w->k[0].t);
    assert_int_equal(fy_tracker_count(w->k[0].t, false), 0);
    /* The taker cannot resize the bitmap under us. */
    assert_int_equal(ftruncate(fy_tracker_fd(w->k[0].t), 0), -1);
    free_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bitmap),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_explorer_notices),
        cmocka_unit_test(test_open_and_close),
        cmocka_unit_test(test_fetch_failure_is_all_dirty),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
